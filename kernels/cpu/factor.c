/* factor.c - U with H^-1 = U^T U, U upper, in double on tiles.
 *
 * H = R R^T with R upper, from the last column to the first; then U = R^-1.
 * The same U as by inverting H and factoring the inverse, for half the
 * operations and without the inverse's rounding.  It is the right-looking
 * Cholesky factor on tiles (G. H. Golub, C. F. Van Loan, "Matrix Computations",
 * section 4.2.9), run backwards.
 *
 * R takes the place of H's upper half, as the lower half says all that H is:
 * at the end, and after a failure, the upper half is made of it again.  The
 * tiles are cut from the end, so that only the first one is smaller.  On the
 * diagonal stand the inverses of R's tiles: nothing else of them is needed. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/mem.h"
#include "../shape.h"
#include "cpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SIDE 192u  /* of a tile */
#define PIECE 96u  /* rows of a tile that stay in the first cache at a time */
#define PANEL 24u  /* columns side by side: a tile of any isa's registers */
#define STRIP 96u  /* columns of the inverse at a time */

struct factor {
	const struct be *be;
	const struct be_factor *f;
	double *a;    /* H [n][ld] */
	double *diag; /* [n]: H's diagonal */
	double *inv;  /* [SIDE][SIDE]: the current diagonal tile's inverse */
	double *turn; /* the same turned over, in panels */
	double *above, *over; /* [tiles][SIDE * SIDE]: the tiles above it, as
				 they are and in panels */
	size_t ld;
	uint32_t n, tiles;
	uint32_t k;   /* the current tile column */
};

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static uint32_t tiles_of(uint32_t n, uint32_t size)
{
	return n / size + (n % size != 0);
}

/* First row of a tile, and how many it has. */
static uint32_t begin_of(const struct factor *f, uint32_t tile)
{
	uint32_t behind = (f->tiles - tile) * SIDE;

	return f->n > behind ? f->n - behind : 0;
}

static uint32_t size_of(const struct factor *f, uint32_t tile)
{
	return begin_of(f, tile + 1) - begin_of(f, tile);
}

static double *tile_at(const struct factor *f, uint32_t row, uint32_t col)
{
	return f->a + begin_of(f, row) * f->ld + begin_of(f, col);
}

/* A tile as [rows][SIDE]: rows of H are often a power of 2 apart and would push
 * each other out of the caches while they are read again and again. */
static void copy_tile(const struct factor *f, uint32_t row, uint32_t col,
		      double *to)
{
	const double *from = tile_at(f, row, col);

	for (uint32_t r = 0; r < size_of(f, row); r++)
		memcpy(to + r * SIDE, from + r * f->ld,
		       size_of(f, col) * sizeof(*to));
}

/* ---- products ---- */

/* v, [s][d] as its transpose [d][s] of rows `ld` apart, to panels
 * [d / PANEL][s][PANEL]; what is behind d is 0. */
static void pack_turned(const double *from, size_t ld, const uint32_t sd[2],
			double *to)
{
	for (uint32_t c0 = 0; c0 < sd[1]; c0 += PANEL)
		for (uint32_t c = 0; c < PANEL; c++) {
			double *p = to + (size_t)c0 * sd[0] + c;

			for (uint32_t s = 0; s < sd[0]; s++)
				p[(size_t)s * PANEL] = c0 + c < sd[1] ?
					from[(c0 + c) * ld + s] : 0;
		}
}

/* What of a product is known to be nothing, or not wanted. */
enum shape {
	WHOLE,
	P_UPPER,  /* p is 0 below its diagonal */
	V_LOWER,  /* v is 0 above its diagonal */
	OUT_UPPER /* nobody looks below out's diagonal */
};

/* out [m][d] -= p [m][s] * panels of v, a piece of s at a time. */
static void multiply(const struct factor *f, const struct cpu_outer64 *o,
		     enum shape shape)
{
	for (uint32_t s = 0; s < o->s; s += PIECE)
		for (uint32_t c = 0; c < o->d; c += PANEL) {
			struct cpu_outer64 part = *o;
			uint32_t s0 = s, s1 = least(s + PIECE, o->s);

			if (shape == V_LOWER && s0 < c)
				s0 = least(c, s1);
			if (shape == P_UPPER)
				part.m = least(o->m, s1);
			if (shape == OUT_UPPER)
				part.m = least(o->m, c + PANEL);
			part.p += s0;
			part.v += (size_t)c * o->s + (size_t)s0 * PANEL;
			part.v_ld = PANEL;
			part.out += c;
			part.s = s1 - s0;
			part.d = least(PANEL, o->d - c);
			f->be->isa->outer64(&part);
		}
}

/* ---- the factor ---- */

/* y -= x * by, n of them */
static void subtract(const struct factor *f, double *y, const double *x,
		     double by, uint32_t n)
{
	const struct cpu_outer64 o = { .p = &by, .p_row = 1, .v = x,
				       .v_ld = n, .out = y, .out_ld = n,
				       .m = 1, .s = 1, .d = n };

	f->be->isa->outer64(&o);
}

/* R of the tile in t [n][SIDE], its upper half; the column is gathered, so that
 * rows are changed along.  -1: pivot *bad is not positive. */
static int factor_tile(const struct factor *f, double *t, uint32_t n,
		       uint32_t *bad)
{
	double col[SIDE];

	for (uint32_t k = n; k-- > 0;) {
		double pivot = t[k * SIDE + k];

		if (!(pivot > 0) || !isfinite(pivot)) {
			*bad = k;
			return -1;
		}
		pivot = sqrt(pivot);
		t[k * SIDE + k] = pivot;
		for (uint32_t i = 0; i < k; i++)
			col[i] = t[i * SIDE + k] /= pivot;
		for (uint32_t i = 0; i < k; i++)
			subtract(f, t + i * SIDE + i, col + i, col[i], k - i);
	}
	return 0;
}

/* x = t^-1, upper, zeros below. */
static void invert_tile(const struct factor *f, const double *t, double *x,
			uint32_t n)
{
	memset(x, 0, sizeof(*x) * SIDE * SIDE);
	for (uint32_t i = n; i-- > 0;) {
		double *row = x + i * SIDE;

		row[i] = 1;
		for (uint32_t k = i + 1; k < n; k++)
			subtract(f, row + k, x + k * SIDE + k,
				 t[i * SIDE + k], n - k);
		for (uint32_t k = i; k < n; k++)
			row[k] /= t[i * SIDE + i];
	}
}

/* The diagonal tile k: its inverse, upper, takes its place. */
static int diagonal(const struct factor *f, struct err *err)
{
	const uint32_t n = size_of(f, f->k), first = begin_of(f, f->k);
	double *a = tile_at(f, f->k, f->k), *t = f->turn;
	uint32_t bad = 0;

	for (uint32_t r = 0; r < n; r++)
		memcpy(t + r * SIDE + r, a + r * f->ld + r,
		       (n - r) * sizeof(*t));
	if (factor_tile(f, t, n, &bad))
		return err_set(err, ERR_CHECK, "the Hessian is not positive "
			       "definite (pivot %u of %u)", first + bad, f->n);
	invert_tile(f, t, f->inv, n);
	for (uint32_t r = 0; r < n; r++)
		memcpy(a + r * f->ld + r, f->inv + r * SIDE + r,
		       (n - r) * sizeof(*t));
	pack_turned(f->inv, SIDE, (const uint32_t[]){ n, n }, f->turn);
	return 0;
}

/* The tiles above the diagonal one: R_ik = A_ik R_kk^-T; and as the products
 * that follow want them. */
static void above_tile(void *ctx, uint32_t tile, uint32_t self)
{
	const struct factor *f = ctx;
	const uint32_t m = size_of(f, tile), n = size_of(f, f->k);
	const size_t at = (size_t)tile * SIDE * SIDE;
	double *a = tile_at(f, tile, f->k), *p = cpu_own(f->be, self);
	double *out = f->above + at;
	const struct cpu_outer64 o = { .p = p, .p_row = SIDE, .v = f->turn,
				       .out = out, .out_ld = SIDE, .m = m,
				       .s = n, .d = n };

	copy_tile(f, tile, f->k, p);
	memset(out, 0, sizeof(*out) * SIDE * m);
	multiply(f, &o, V_LOWER);
	for (uint32_t r = 0; r < m; r++)
		for (uint32_t c = 0; c < n; c++)
			a[r * f->ld + c] = out[r * SIDE + c] *= -1;
	pack_turned(out, SIDE, (const uint32_t[]){ n, m }, f->over + at);
}

/* A_ij -= R_ik R_jk^T for tiles i <= j before the k-th. */
static void update_tile(void *ctx, uint32_t number, uint32_t self)
{
	const struct factor *f = ctx;
	double *out = cpu_own(f->be, self), *a;
	uint32_t i = 0, j = 0, m, n, s = size_of(f, f->k);
	struct cpu_outer64 o;

	for (; number > j; j++)
		number -= j + 1;
	i = number;
	m = size_of(f, i);
	n = size_of(f, j);
	a = tile_at(f, i, j);
	o = (struct cpu_outer64){ .p = f->above + (size_t)i * SIDE * SIDE,
				  .p_row = SIDE,
				  .v = f->over + (size_t)j * SIDE * SIDE,
				  .out = a, .out_ld = f->ld, .m = m,
				  .s = s, .d = n };
	if (i == j) { /* below the diagonal stands H */
		memset(out, 0, sizeof(*out) * SIDE * m);
		o.out = out;
		o.out_ld = SIDE;
	}
	multiply(f, &o, i == j ? OUT_UPPER : WHOLE);
	for (uint32_t r = 0; i == j && r < m; r++)
		for (uint32_t c = r; c < n; c++)
			a[r * f->ld + c] += out[r * SIDE + c];
}

static int run_factor(struct factor *f, struct err *err)
{
	for (f->k = f->tiles; f->k-- > 0;) {
		if (diagonal(f, err))
			return -1;
		cpu_run(f->be, f->k, above_tile, f);
		cpu_run(f->be, f->k * (f->k + 1) / 2, update_tile, f);
	}
	return 0;
}

/* ---- the inverse ---- */

/* Rows of a strip's tile: panel after panel, [rows][PANEL]. */
static double *strip_at(double *x, uint32_t rows, uint32_t row, uint32_t panel)
{
	return x + ((size_t)panel * rows + row) * PANEL;
}

/* One thread's strip of columns: panels of [rows][PANEL]. */
struct strip {
	double *x;
	uint32_t rows; /* of x: whole tiles */
	uint32_t end;  /* from here on they are 0 */
	double *t;     /* [SIDE][SIDE], a tile of R */
	double *y;     /* [SIDE][PANEL] */
};

/* x_i -= R_ik x_k. */
static void strip_less(const struct factor *f, const struct strip *s,
		       uint32_t i, uint32_t k)
{
	copy_tile(f, i, k, s->t);
	for (uint32_t p = 0; p < STRIP / PANEL; p++) {
		const struct cpu_outer64 o = {
			.p = s->t, .p_row = SIDE,
			.v = strip_at(s->x, s->rows, begin_of(f, k), p),
			.out = strip_at(s->x, s->rows, begin_of(f, i), p),
			.out_ld = PANEL, .m = size_of(f, i),
			.s = least(size_of(f, k), s->end - begin_of(f, k)),
			.d = PANEL };

		multiply(f, &o, WHOLE);
	}
}

/* x_i = R_ii^-1 x_i. */
static void strip_solve(const struct factor *f, const struct strip *s,
			uint32_t i)
{
	const uint32_t n = size_of(f, i);

	copy_tile(f, i, i, s->t);
	for (uint32_t r = 1; r < n; r++)
		memset(s->t + r * SIDE, 0, r * sizeof(*s->t));
	for (uint32_t p = 0; p < STRIP / PANEL; p++) {
		double *xi = strip_at(s->x, s->rows, begin_of(f, i), p);
		const struct cpu_outer64 o = {
			.p = s->t, .p_row = SIDE, .v = xi, .out = s->y,
			.out_ld = PANEL, .m = n, .s = n, .d = PANEL };

		memset(s->y, 0, sizeof(*s->y) * n * PANEL);
		multiply(f, &o, P_UPPER);
		for (uint32_t c = 0; c < n * PANEL; c++)
			xi[c] = -s->y[c];
	}
}

/* Columns c0..c0+cols of U, of which `rows` may be other than 0. */
static void write_strip(const struct factor *f, double *x,
			const uint32_t at[2], uint32_t rows)
{
	const struct be_mat *u = f->f->u;

	for (uint32_t r = 0; r < f->n; r++) {
		float *to = (float *)u->p + (size_t)r * u->ld + at[0];

		for (uint32_t c = 0; c < at[1]; c++)
			to[c] = r > at[0] + c ? 0 :
				(float)strip_at(x, rows, r, c / PANEL)
				[c % PANEL];
	}
}

/* A strip of columns of R^-1 by back substitution, tile row by tile row:
 * X_i = R_ii^-1 (E_i - sum_k R_ik X_k). */
static void invert_strip(void *ctx, uint32_t number, uint32_t self)
{
	const struct factor *f = ctx;
	/* the longest first: threads then end together */
	const uint32_t c0 = (tiles_of(f->n, STRIP) - 1 - number) * STRIP;
	const uint32_t cols = least(STRIP, f->n - c0);
	struct strip s = { .t = cpu_own(f->be, self), .end = c0 + cols };
	uint32_t last = 0;

	s.y = s.t + SIDE * SIDE;
	s.x = s.y + SIDE * PANEL;
	while (begin_of(f, last + 1) < c0 + cols)
		last++;
	s.rows = begin_of(f, last + 1);
	memset(s.x, 0, (size_t)s.rows * STRIP * sizeof(*s.x));
	for (uint32_t c = 0; c < cols; c++)
		strip_at(s.x, s.rows, c0 + c, c / PANEL)[c % PANEL] = 1;
	for (uint32_t i = last + 1; i-- > 0;) {
		for (uint32_t k = i + 1; k <= last; k++)
			strip_less(f, &s, i, k);
		strip_solve(f, &s, i);
	}
	write_strip(f, s.x, (const uint32_t[]){ c0, cols }, s.rows);
}

/* ---- the whole ---- */

/* H's upper half from its lower one again. */
static void restore_rows(void *ctx, uint32_t tile, uint32_t self)
{
	const struct factor *f = ctx;
	const uint32_t r0 = tile * 32, r1 = least(r0 + 32, f->n);

	(void)self;
	for (uint32_t c0 = r0; c0 < f->n; c0 += 32)
		for (uint32_t r = r0; r < r1; r++)
			for (uint32_t c = c0 > r ? c0 : r + 1;
			     c < c0 + 32 && c < f->n; c++)
				f->a[r * f->ld + c] = f->a[c * f->ld + r];
	for (uint32_t r = r0; r < r1; r++)
		f->a[r * f->ld + r] = f->diag[r];
}

static void begin(struct factor *f)
{
	double mean = 0;

	for (uint32_t i = 0; i < f->n; i++) {
		f->diag[i] = f->a[i * f->ld + i];
		mean += f->diag[i] / f->n;
	}
	for (uint32_t i = 0; i < f->n; i++)
		f->a[i * f->ld + i] += f->f->damp * mean;
}

int cpu_factor(struct be *be, const struct be_factor *what, struct err *err)
{
	struct factor f = { .be = be, .f = what, .a = what->h->p,
			    .ld = what->h->ld, .n = what->h->rows };
	size_t own = SIDE * (SIDE + PANEL) + (size_t)STRIP * f.n;
	struct mem_part part[] = {
		{ (void **)&f.diag, f.n, sizeof(double) },
		{ (void **)&f.inv, SIDE * SIDE, sizeof(double) },
		{ (void **)&f.turn, SIDE * SIDE, sizeof(double) },
	};
	void *mem;
	int ret;

	if (be_shape_factor(what, err))
		return -1;
	f.tiles = tiles_of(f.n, SIDE);
	if (cpu_scratch(be, own * sizeof(double),
			2 * sizeof(double) * SIDE * SIDE * f.tiles, err))
		return -1;
	f.above = (double *)(void *)be->all_mem;
	f.over = f.above + (size_t)SIDE * SIDE * f.tiles;
	mem = mem_block(part, 3, err);
	if (!mem)
		return -1;
	begin(&f);
	ret = run_factor(&f, err);
	if (!ret)
		cpu_run(be, tiles_of(f.n, STRIP), invert_strip, &f);
	cpu_run(be, tiles_of(f.n, 32), restore_rows, &f);
	free(mem);
	return ret;
}
