/* gemm.c - dense products.
 *
 * With B = weight^T: up to MOST_FEW rows by dot products straight from the
 * weight's own type (it is widened again for each six rows, which costs less
 * than writing it down), many rows by dot products with pieces of it that were
 * made f32 and stay in the cache.  With B as it stands: outer products with
 * panels of B. */
#include "../../libfmt/base/err.h"
#include "../shape.h"
#include "cpu.h"

#include <string.h>

/* A tile of the result by outer products, and how many of these at a time. */
#define TILE_M 192
#define TILE_K 256
#define MOST_FEW 64 /* rows of A for which a weight is read as it stands */

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static uint32_t tiles_of(uint32_t n, uint32_t size)
{
	return n / size + (n % size != 0);
}

uint32_t cpu_rows_per_tile(uint32_t k)
{
	uint32_t rows = k ? 65536 / k : 65536;

	return rows < 64 ? 64 : (rows + 3) / 4 * 4;
}

struct job {
	const struct be *be;
	const struct be_gemm *g;
};

/* Rows of w as they stand; so many inputs at a time that all rows of x stay in
 * the second level of cache. */
static void dot_tile(void *ctx, uint32_t tile, uint32_t self)
{
	const struct job *job = ctx;
	const struct be_gemm *g = job->g;
	const uint32_t most = CPU_FEW_X / g->a->rows;
	uint32_t step = cpu_rows_per_tile(g->a->cols);
	uint32_t n0 = tile * step, n = least(step, g->b->rows - n0);
	struct be_mat w = be_rows(g->b, n0, n);
	struct cpu_dot d = {
		.w_ld = w.ld, .type = w.type, .x_ld = g->a->ld,
		.y = (float *)g->c->p + n0, .y_ld = g->c->ld,
		.m = g->a->rows, .n = n, .alpha = g->alpha,
	};

	(void)self;
	for (uint32_t k0 = 0; k0 < g->a->cols; k0 += most) {
		d.k = least(most, g->a->cols - k0);
		d.w = be_cols(&w, k0, d.k).p;
		d.x = (const float *)g->a->p + k0;
		d.beta = k0 ? 1 : g->beta;
		job->be->isa->dot(&d);
	}
}

/* x = by * x; by 0 does not read x, as in BLAS. */
static void scale_row(const struct be *be, float *x, uint32_t n, float by)
{
	if (by == 0)
		memset(x, 0, n * sizeof(*x));
	else if (by != 1)
		be->isa->scale(x, n, by);
}

void cpu_panel(const struct be *be, const struct be_mat *v, uint32_t c0,
	       float *panel)
{
	const uint32_t d = least(CPU_PANEL, v->cols - c0);
	const size_t elem = be_elem(v->type);
	const char *from = (const char *)v->p + c0 * elem;

	for (uint32_t s = 0; s < v->rows; s++) {
		/* rows are far apart: no stream for the hardware to see */
		cpu_fetch(from + 12 * v->ld * elem, d * elem);
		be->isa->widen(v->type, from, panel, d);
		memset(panel + d, 0, (CPU_PANEL - d) * sizeof(*panel));
		from += v->ld * elem;
		panel += CPU_PANEL;
	}
}

/* C's tile at rows m0.., columns n0.., of at most CPU_PANEL columns. */
static void outer_tile(void *ctx, uint32_t tile, uint32_t self)
{
	const struct job *job = ctx;
	const struct be_gemm *g = job->g;
	const uint32_t across = tiles_of(g->c->cols, CPU_PANEL);
	const uint32_t m0 = tile / across * TILE_M;
	const uint32_t n0 = tile % across * CPU_PANEL;
	float *panel = cpu_own(job->be, self);
	struct cpu_outer o = {
		.p_row = g->a->ld, .p_col = 1, .v = panel, .v_ld = CPU_PANEL,
		.out = (float *)g->c->p + (size_t)m0 * g->c->ld + n0,
		.out_ld = g->c->ld, .m = least(TILE_M, g->c->rows - m0),
		.d = least(CPU_PANEL, g->c->cols - n0),
	};

	for (uint32_t r = 0; r < o.m; r++)
		scale_row(job->be, o.out + r * o.out_ld, o.d, g->beta);
	for (uint32_t k = 0; k < g->a->cols; k += TILE_K) {
		struct be_mat b;

		o.s = least(TILE_K, g->a->cols - k);
		o.p = (const float *)g->a->p + (size_t)m0 * g->a->ld + k;
		b = be_rows(g->b, k, o.s);
		cpu_panel(job->be, &b, n0, panel);
		if (g->alpha != 1)
			job->be->isa->scale(panel, o.s * CPU_PANEL, g->alpha);
		job->be->isa->outer(&o);
	}
}

/* A weight of few rows is made f32 again for each STRIP rows of x, so that
 * there are tiles for all threads. */
#define FEW_TILES 16
#define STRIP 252 /* a multiple of what dot takes at a time */

struct wide_job {
	const struct be *be;
	const struct cpu_wide *w;
	uint32_t strip, strips; /* rows of x */
};

static void wide_tile(void *ctx, uint32_t tile, uint32_t self)
{
	const struct wide_job *job = ctx;
	const struct cpu_wide *w = job->w;
	float *piece = cpu_own(job->be, self);
	float *scratch = piece + (size_t)CPU_WIDE_N * CPU_WIDE_K;
	uint32_t n0 = tile / job->strips * CPU_WIDE_N;
	uint32_t n = least(CPU_WIDE_N, w->n - n0);
	uint32_t m0 = tile % job->strips * job->strip;
	struct cpu_dot d = {
		.w = piece, .type = DT_F32,
		.x_ld = w->x_ld, .y = w->y + m0 * w->y_ld + n0,
		.y_ld = w->y_ld, .m = least(job->strip, w->m - m0), .n = n,
		.alpha = w->alpha,
	};

	for (uint32_t k0 = 0; k0 < w->k; k0 += CPU_WIDE_K) {
		uint32_t k = least(CPU_WIDE_K, w->k - k0);

		w->fill(w, (const uint32_t[]){ n0, n, k0, k }, piece, scratch);
		d.x = w->x + m0 * w->x_ld + k0;
		d.w_ld = d.k = k;
		d.beta = k0 ? 1 : w->beta;
		job->be->isa->dot(&d);
	}
}

int cpu_gemm_wide(struct be *be, const struct cpu_wide *w, struct err *err)
{
	const uint32_t tiles = tiles_of(w->n, CPU_WIDE_N);
	struct wide_job job = { be, w, w->m, 1 };
	size_t floats = (size_t)CPU_WIDE_N * CPU_WIDE_K + w->scratch;

	if (cpu_scratch(be, floats * sizeof(float), 0, err))
		return -1;
	if (tiles < FEW_TILES) {
		job.strip = STRIP;
		job.strips = tiles_of(w->m, STRIP);
	}
	cpu_run(be, tiles * job.strips, wide_tile, &job);
	return 0;
}

/* A piece of a weight [n][k]; also of F32, whose rows in one place are faster
 * than where they are: a power of 2 apart, they would share cache sets. */
static void fill_rows(const struct cpu_wide *w, const uint32_t at[4],
		      float *out, float *scratch)
{
	const struct job *job = w->ctx;
	struct be_mat piece = be_rows(job->g->b, at[0], at[1]);

	(void)scratch;
	piece = be_cols(&piece, at[2], at[3]);
	for (uint32_t r = 0; r < at[1]; r++)
		job->be->isa->widen(piece.type,
				    be_rows(&piece, r, 1).p,
				    out + (size_t)r * at[3], at[3]);
}

/* C = A B^T by many rows of A. */
static int gemm_wide(struct be *be, const struct be_gemm *g, struct err *err)
{
	struct job job = { be, g };
	struct cpu_wide w = {
		.x = g->a->p, .x_ld = g->a->ld,
		.y = g->c->p, .y_ld = g->c->ld,
		.m = g->c->rows, .n = g->c->cols, .k = g->a->cols,
		.alpha = g->alpha, .beta = g->beta,
		.fill = fill_rows, .ctx = &job,
	};

	return cpu_gemm_wide(be, &w, err);
}

int cpu_gemm(struct be *be, const struct be_gemm *g, struct err *err)
{
	struct job job = { be, g };
	size_t panel = sizeof(float) * TILE_K * CPU_PANEL;
	uint32_t tiles;

	if (be_shape_gemm(g, err))
		return -1;
	if (!g->c->rows || !g->c->cols)
		return 0;
	if (!g->trans_b || !g->a->cols) {
		if (cpu_scratch(be, panel, 0, err))
			return -1;
		tiles = tiles_of(g->c->rows, TILE_M) *
			tiles_of(g->c->cols, CPU_PANEL);
		cpu_run(be, tiles, outer_tile, &job);
		return 0;
	}
	if (g->c->rows > MOST_FEW)
		return gemm_wide(be, g, err);
	tiles = tiles_of(g->b->rows, cpu_rows_per_tile(g->a->cols));
	cpu_run(be, tiles, dot_tile, &job);
	return 0;
}
