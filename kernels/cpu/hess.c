/* hess.c - the Hessian and its factor, in double on tiles.
 *
 * H += alpha X^T X: rows of X in chunks of at most CHUNK, each summed in f32
 * and added in double.  X is copied to panels of 64 columns first, as many
 * chunks as BATCH bytes hold; a tile of H then takes its panels two by two.
 *
 * U with H^-1 = U^T U, U upper: turn rows and columns of H around (J H J),
 * factor that as L L^T; then H = R R^T with R = J L J upper, and U = R^-1 =
 * J L^-1 J.  The same U as by inverting H and factoring the inverse, for half
 * the operations and without the inverse's rounding.  The factor is the
 * right-looking one on tiles (G. H. Golub, C. F. Van Loan, "Matrix
 * Computations", section 4.2.9). */
#include "../../libfmt/base/err.h"
#include "../shape.h"
#include "cpu.h"
#include "host.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <string.h>

#define CHUNK 128 /* rows of X per f32 sum */
#define BATCH ((size_t)64 << 20)
#define PANELS 4  /* of a side of a tile of H */
#define SIDE 192  /* of a tile of the factor */
#define STRIP 96  /* columns of the inverse at a time; divides SIDE */

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static uint32_t tiles_of(uint32_t n, uint32_t size)
{
	return n / size + (n % size != 0);
}

struct syrk {
	const struct be *be;
	const struct be_mat *x, *h;
	double alpha;
	float *panel;    /* [chunks][panels][CHUNK][CPU_PANEL] */
	uint32_t panels; /* of all columns */
};

static float *panel_at(const struct syrk *s, uint32_t chunk, uint32_t panel)
{
	return s->panel + ((size_t)chunk * s->panels + panel) *
			  (CHUNK * CPU_PANEL);
}

static struct be_mat chunk_at(const struct syrk *s, uint32_t chunk)
{
	return be_rows(s->x, chunk * CHUNK,
		       least(CHUNK, s->x->rows - chunk * CHUNK));
}

/* Lower triangle of a tile's mirror image from the upper one. */
static void mirror(const struct be_mat *h, const uint32_t at[4])
{
	double *p = h->p;

	for (uint32_t r = at[0]; r < at[0] + at[2]; r++)
		for (uint32_t c = r < at[1] ? at[1] : r + 1;
		     c < at[1] + at[3]; c++)
			p[(size_t)c * h->ld + r] = p[(size_t)r * h->ld + c];
}

/* Tile (i, j), i <= j, by its number in the upper triangle. */
static void upper_tile(uint32_t n, uint32_t number, uint32_t *i, uint32_t *j)
{
	uint32_t row = 0;

	for (; number >= n - row; row++)
		number -= n - row;
	*i = row;
	*j = row + number;
}

/* All chunks of one panel. */
static void pack_tile(void *ctx, uint32_t panel, uint32_t self)
{
	const struct syrk *s = ctx;

	(void)self;
	for (uint32_t c = 0; c < tiles_of(s->x->rows, CHUNK); c++) {
		struct be_mat x = chunk_at(s, c);

		cpu_panel(s->be, &x, panel * CPU_PANEL, panel_at(s, c, panel));
	}
}

/* H += the product of two panels of a chunk. */
static void syrk_pair(const struct syrk *s, uint32_t chunk,
		      const uint32_t at[2], float *sum)
{
	const uint32_t i = at[0], j = at[1];
	const uint32_t r0 = i * CPU_PANEL, c0 = j * CPU_PANEL;
	double *h = (double *)s->h->p + (size_t)r0 * s->h->ld + c0;
	struct cpu_outer o = {
		.p = panel_at(s, chunk, i), .p_row = 1, .p_col = CPU_PANEL,
		.v = panel_at(s, chunk, j), .v_ld = CPU_PANEL,
		.out = sum, .out_ld = CPU_PANEL, .m = CPU_PANEL,
		.s = chunk_at(s, chunk).rows, .d = CPU_PANEL,
	};

	memset(sum, 0, sizeof(*sum) * CPU_PANEL * CPU_PANEL);
	s->be->isa->outer(&o);
	for (uint32_t r = r0; r < r0 + CPU_PANEL && r < s->h->rows; r++) {
		s->be->isa->accumulate(h, sum,
				       least(CPU_PANEL, s->h->cols - c0),
				       s->alpha);
		h += s->h->ld;
		sum += CPU_PANEL;
	}
}

static void syrk_tile(void *ctx, uint32_t number, uint32_t self)
{
	const struct syrk *s = ctx;
	uint32_t i, j, i1, j1;

	upper_tile(tiles_of(s->panels, PANELS), number, &i, &j);
	i *= PANELS;
	j *= PANELS;
	i1 = least(i + PANELS, s->panels);
	j1 = least(j + PANELS, s->panels);
	for (uint32_t c = 0; c < tiles_of(s->x->rows, CHUNK); c++)
		for (uint32_t b = j; b < j1; b++)
			for (uint32_t a = i; a < i1 && a <= b; a++)
				syrk_pair(s, c, (const uint32_t[]){ a, b },
					  cpu_own(s->be, self));
	i *= CPU_PANEL;
	j *= CPU_PANEL;
	mirror(s->h, (const uint32_t[]){
		i, j, least(i1 * CPU_PANEL, s->h->rows) - i,
		least(j1 * CPU_PANEL, s->h->cols) - j });
}

int cpu_syrk(struct be *be, const struct be_mat *x, double alpha,
	     struct be_mat *h, struct err *err)
{
	struct syrk s = { .be = be, .h = h, .alpha = alpha };
	uint32_t chunks = tiles_of(x->rows, CHUNK), tiles, each;
	struct be_mat batch;
	size_t bytes;

	if (be_shape_syrk(x, h, err))
		return -1;
	if (!x->rows || !x->cols)
		return 0;
	s.x = &batch;
	s.panels = tiles_of(x->cols, CPU_PANEL);
	tiles = tiles_of(s.panels, PANELS);
	bytes = sizeof(float) * CHUNK * CPU_PANEL * s.panels;
	each = bytes < BATCH ? least(chunks, (uint32_t)(BATCH / bytes)) : 1;
	if (cpu_scratch(be, sizeof(float) * CPU_PANEL * CPU_PANEL,
			bytes * each, err))
		return -1;
	s.panel = (float *)(void *)be->all_mem;
	for (uint32_t r = 0; r < x->rows; r += batch.rows) {
		batch = be_rows(x, r, least(each * CHUNK, x->rows - r));
		cpu_run(be, s.panels, pack_tile, &s);
		cpu_run(be, tiles * (tiles + 1) / 2, syrk_tile, &s);
	}
	return 0;
}

/* The factorisation at work: a is J (H + damp) J, then L, in its lower
 * triangle; above the diagonal tiles it is not defined. */
struct chol {
	const struct be *be;
	const struct be_factor *f;
	double *a; /* [n][n] */
	uint32_t n;
	uint32_t k; /* first column of the current tile column */
	double add; /* to the diagonal */
};

static double *chol_at(const struct chol *c, uint32_t row, uint32_t col)
{
	return c->a + (size_t)row * c->n + col;
}

/* Rows of J (H + damp) J, up to the diagonal. */
static void chol_load(void *ctx, uint32_t tile, uint32_t self)
{
	const struct chol *c = ctx;
	const struct be_mat *h = c->f->h;
	uint32_t r = tile * STRIP, end = least(c->n, r + STRIP);

	(void)self;
	for (; r < end; r++) {
		const double *from = (const double *)h->p +
				     (size_t)(c->n - 1 - r) * h->ld;
		double *to = chol_at(c, r, 0);

		for (uint32_t i = 0; i <= r; i++)
			to[i] = from[c->n - 1 - i];
		to[r] += c->add;
	}
}

/* The tiles below the diagonal one: A_ik L_kk^-T. */
static void chol_panel(void *ctx, uint32_t tile, uint32_t self)
{
	const struct chol *c = ctx;
	uint32_t i = c->k + (tile + 1) * SIDE, rows = least(SIDE, c->n - i);

	(void)self;
	cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans,
		    CblasNonUnit, (int)rows, SIDE, 1, chol_at(c, c->k, c->k),
		    (int)c->n, chol_at(c, i, c->k), (int)c->n);
}

/* A_ij -= L_ik L_jk^T for the tiles behind. */
static void chol_update(void *ctx, uint32_t number, uint32_t self)
{
	const struct chol *c = ctx;
	const uint32_t behind = c->k + SIDE;
	uint32_t i, j, rows, cols;

	(void)self;
	upper_tile(tiles_of(c->n - behind, SIDE), number, &j, &i);
	i = behind + i * SIDE;
	j = behind + j * SIDE;
	rows = least(SIDE, c->n - i);
	cols = least(SIDE, c->n - j);
	if (i == j)
		cblas_dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, (int)rows,
			    SIDE, -1, chol_at(c, i, c->k), (int)c->n, 1,
			    chol_at(c, i, i), (int)c->n);
	else
		cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows,
			    (int)cols, SIDE, -1, chol_at(c, i, c->k),
			    (int)c->n, chol_at(c, j, c->k), (int)c->n, 1,
			    chol_at(c, i, j), (int)c->n);
}

/* The diagonal tile; LAPACK's columns are our rows, its U^T our L. */
static int chol_diagonal(const struct chol *c, struct err *err)
{
	uint32_t side = least(SIDE, c->n - c->k);
	lapack_int info = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U',
					      (lapack_int)side,
					      chol_at(c, c->k, c->k),
					      (lapack_int)c->n);

	for (uint32_t i = 0; i < side && !info; i++)
		if (!isfinite(*chol_at(c, c->k + i, c->k + i)))
			info = (lapack_int)i + 1;
	if (!info)
		return 0;
	/* counted from the end: the factor runs backwards */
	return err_set(err, ERR_CHECK,
		       "the Hessian is not positive definite (pivot %u of %u)",
		       c->n - c->k - (uint32_t)info, c->n);
}

static int chol_run(struct chol *c, struct err *err)
{
	const uint32_t threads = c->be->blas_threads;

	for (c->k = 0; c->k < c->n; c->k += SIDE) {
		uint32_t left;

		if (chol_diagonal(c, err))
			return -1;
		if (c->n - c->k <= SIDE)
			break;
		left = tiles_of(c->n - c->k - SIDE, SIDE);
		tile_run(c->be->pool, threads, left, chol_panel, c);
		tile_run(c->be->pool, threads, left * (left + 1) / 2,
			 chol_update, c);
	}
	return 0;
}

/* Columns c0..c0+cols of X = L^-1 to U = J X J.  x holds rows of X from the
 * diagonal tile on, [n - top][cols]. */
static void write_strip(const struct chol *c, const double *x, uint32_t c0,
			uint32_t cols)
{
	const struct be_mat *u = c->f->u;
	const uint32_t n = c->n, top = c0 / SIDE * SIDE;

	for (uint32_t r = 0; r < n; r++) {
		float *to = (float *)u->p + (size_t)(n - 1 - r) * u->ld;

		for (uint32_t i = 0; i < cols; i++)
			to[n - 1 - c0 - i] = r < c0 + i ? 0 :
				(float)x[(size_t)(r - top) * cols + i];
	}
}

/* A strip of columns of L^-1 by forward substitution, tile row by tile row:
 * X_i = L_ii^-1 (E_i - sum_k L_ik X_k). */
static void invert_strip(void *ctx, uint32_t tile, uint32_t self)
{
	const struct chol *c = ctx;
	const uint32_t c0 = tile * STRIP, cols = least(STRIP, c->n - c0);
	const uint32_t top = c0 / SIDE * SIDE;
	double *x = cpu_own(c->be, self);

	memset(x, 0, (size_t)(c->n - top) * cols * sizeof(*x));
	for (uint32_t i = 0; i < cols; i++)
		x[(size_t)(c0 - top + i) * cols + i] = 1;
	for (uint32_t i = top; i < c->n; i += SIDE) {
		uint32_t rows = least(SIDE, c->n - i);
		double *xi = x + (size_t)(i - top) * cols;

		if (i > top)
			cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans,
				    (int)rows, (int)cols, (int)(i - top), -1,
				    chol_at(c, i, top), (int)c->n, x,
				    (int)cols, 0, xi, (int)cols);
		cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans,
			    CblasNonUnit, (int)rows, (int)cols, 1,
			    chol_at(c, i, i), (int)c->n, xi, (int)cols);
	}
	write_strip(c, x, c0, cols);
}

int cpu_factor(struct be *be, const struct be_factor *f, struct err *err)
{
	struct chol c = { .be = be, .f = f, .n = f->h->rows };
	size_t own = sizeof(double) * STRIP * c.n;
	const double *h = f->h->p;
	double mean = 0;
	void *mem = NULL;
	int ret = -1;

	if (be_shape_factor(f, err))
		return -1;
	if (!c.n)
		return 0;
	if (cpu_scratch(be, own, 0, err) ||
	    cpu_host_alloc(be, sizeof(double) * c.n * c.n, &mem, err))
		goto out;
	c.a = mem;
	for (uint32_t i = 0; i < c.n; i++)
		mean += h[(size_t)i * f->h->ld + i] / c.n;
	c.add = f->damp * mean;
	cpu_run(be, tiles_of(c.n, STRIP), chol_load, &c);
	if (chol_run(&c, err))
		goto out;
	tile_run(be->pool, be->blas_threads, tiles_of(c.n, STRIP),
		 invert_strip, &c);
	ret = 0;
out:
	cpu_host_free(be, mem);
	return ret;
}
