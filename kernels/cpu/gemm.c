/* gemm.c - dense products.
 *
 * Few rows: the dot kernels straight from the weight's own type, tiles of its
 * rows; reading the weight is what takes the time.  Many rows: OpenBLAS (the
 * serial library) on tiles of the result; narrow weights become f32 piece by
 * piece in scratch memory of the thread. */
#include "../../libfmt/base/err.h"
#include "../shape.h"
#include "../tile.h"
#include "cpu.h"

#include <cblas.h>

/* A tile of the result of an all-f32 product. */
#define TILE_M 256
#define TILE_N 256

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

static void dot_tile(void *ctx, uint32_t tile)
{
	const struct job *job = ctx;
	const struct be_gemm *g = job->g;
	uint32_t step = cpu_rows_per_tile(g->a->cols);
	uint32_t n0 = tile * step, n = least(step, g->b->rows - n0);
	struct be_mat w = be_rows(g->b, n0, n);
	struct cpu_dot d = {
		.w = w.p, .w_ld = w.ld, .type = w.type,
		.x = g->a->p, .x_ld = g->a->ld,
		.y = (float *)g->c->p + n0, .y_ld = g->c->ld,
		.m = g->a->rows, .n = n, .k = g->a->cols,
		.alpha = g->alpha, .beta = g->beta,
	};

	job->be->isa->dot(&d);
}

static void sgemm_tile(void *ctx, uint32_t tile)
{
	const struct be_gemm *g = ((const struct job *)ctx)->g;
	uint32_t across = tiles_of(g->c->cols, TILE_N);
	uint32_t m0 = tile / across * TILE_M, n0 = tile % across * TILE_N;
	uint32_t m = least(TILE_M, g->c->rows - m0);
	uint32_t n = least(TILE_N, g->c->cols - n0);
	const float *a = (const float *)g->a->p + (size_t)m0 * g->a->ld;
	const float *b = (const float *)g->b->p;
	float *c = (float *)g->c->p + (size_t)m0 * g->c->ld + n0;

	b += g->trans_b ? (size_t)n0 * g->b->ld : n0;
	cblas_sgemm(CblasRowMajor, CblasNoTrans,
		    g->trans_b ? CblasTrans : CblasNoTrans, (int)m, (int)n,
		    (int)g->a->cols, g->alpha, a, (int)g->a->ld, b,
		    (int)g->b->ld, g->beta, c, (int)g->c->ld);
}

struct wide_job {
	const struct be *be;
	const struct cpu_wide *w;
};

static void wide_tile(void *ctx, uint32_t tile)
{
	const struct wide_job *job = ctx;
	const struct cpu_wide *w = job->w;
	float *piece = cpu_own(job->be);
	float *scratch = piece + (size_t)CPU_WIDE_N * CPU_WIDE_K;
	uint32_t n0 = tile * CPU_WIDE_N, n = least(CPU_WIDE_N, w->n - n0);

	for (uint32_t k0 = 0; k0 < w->k; k0 += CPU_WIDE_K) {
		uint32_t k = least(CPU_WIDE_K, w->k - k0);

		w->fill(w, (const uint32_t[]){ n0, n, k0, k }, piece, scratch);
		cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)w->m,
			    (int)n, (int)k, w->alpha, w->x + k0, (int)w->x_ld,
			    piece, (int)k, k0 ? 1 : w->beta, w->y + n0,
			    (int)w->y_ld);
	}
}

int cpu_gemm_wide(struct be *be, const struct cpu_wide *w, struct err *err)
{
	struct wide_job job = { be, w };
	size_t floats = (size_t)CPU_WIDE_N * CPU_WIDE_K + w->scratch;

	if (cpu_scratch(be, floats * sizeof(float), 0, err))
		return -1;
	tile_run(be->blas_threads, tiles_of(w->n, CPU_WIDE_N), wide_tile, &job);
	return 0;
}

/* A piece of an F16 or BF16 weight [n][k]. */
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

/* The same of [k][n]: the piece is turned. */
static void fill_cols(const struct cpu_wide *w, const uint32_t at[4],
		      float *out, float *scratch)
{
	const struct job *job = w->ctx;
	struct be_mat piece = be_rows(job->g->b, at[2], at[3]);

	piece = be_cols(&piece, at[0], at[1]);
	for (uint32_t k = 0; k < at[3]; k++) {
		job->be->isa->widen(piece.type, be_rows(&piece, k, 1).p,
				    scratch, at[1]);
		for (uint32_t n = 0; n < at[1]; n++)
			out[(size_t)n * at[3] + k] = scratch[n];
	}
}

/* A matrix of F16 or BF16 by many rows. */
static int gemm_narrow(struct be *be, const struct be_gemm *g,
		       struct err *err)
{
	struct job job = { be, g };
	struct cpu_wide w = {
		.x = g->a->p, .x_ld = g->a->ld,
		.y = g->c->p, .y_ld = g->c->ld,
		.m = g->c->rows, .n = g->c->cols, .k = g->a->cols,
		.alpha = g->alpha, .beta = g->beta,
		.fill = g->trans_b ? fill_rows : fill_cols,
		.ctx = &job, .scratch = CPU_WIDE_N,
	};

	return cpu_gemm_wide(be, &w, err);
}

/* C = beta C, when there is nothing to add. */
static void gemm_empty(const struct be_gemm *g)
{
	for (uint32_t r = 0; r < g->c->rows; r++) {
		float *c = (float *)g->c->p + (size_t)r * g->c->ld;

		for (uint32_t j = 0; j < g->c->cols; j++)
			c[j] = g->beta != 0 ? g->beta * c[j] : 0;
	}
}

int cpu_gemm(struct be *be, const struct be_gemm *g, struct err *err)
{
	struct job job = { be, g };
	uint32_t tiles;

	if (be_shape_gemm(g, err))
		return -1;
	if (!g->c->rows || !g->c->cols)
		return 0;
	if (!g->a->cols) {
		gemm_empty(g);
		return 0;
	}
	if (g->trans_b && g->c->rows <= CPU_FEW) {
		tiles = tiles_of(g->b->rows, cpu_rows_per_tile(g->a->cols));
		tile_run(be->threads, tiles, dot_tile, &job);
		return 0;
	}
	if (g->b->type != DT_F32)
		return gemm_narrow(be, g, err);
	tiles = tiles_of(g->c->rows, TILE_M) * tiles_of(g->c->cols, TILE_N);
	tile_run(be->blas_threads, tiles, sgemm_tile, &job);
	return 0;
}
