/* hess.c - the Hessian, in double on tiles.
 *
 * H += alpha X^T X: rows of X in chunks of at most CHUNK, each summed in f32
 * and added in double.  X is copied to panels of 64 columns first, as many
 * chunks as BATCH bytes hold.  A tile of H is taken out of it while its panels
 * meet two by two: H's rows are often a power of 2 apart and would push each
 * other out of the caches. */
#include "../../libfmt/base/err.h"
#include "../shape.h"
#include "cpu.h"

#include <string.h>

#define CHUNK 128 /* rows of X per f32 sum */
#define BATCH ((size_t)64 << 20)
#define PANELS 4  /* of a side of a tile of H */
#define SIDE (PANELS * CPU_PANEL)
#define TILE_LD (SIDE + 8) /* no power of 2 */

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

/* A tile of H, rows and columns that are there; t [SIDE][TILE_LD] is it. */
struct tile {
	uint32_t r0, c0, rows, cols;
	double *t;
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

static double *cell(const struct syrk *s, uint32_t r, uint32_t c)
{
	return (double *)s->h->p + (size_t)r * s->h->ld + c;
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

static void tile_in(const struct syrk *s, const struct tile *t)
{
	for (uint32_t r = 0; r < t->rows; r++)
		memcpy(t->t + (size_t)r * TILE_LD, cell(s, t->r0 + r, t->c0),
		       t->cols * sizeof(double));
}

/* Eight columns of the tile as rows of H's lower triangle. */
static void mirror(const struct syrk *s, const struct tile *t, uint32_t c0)
{
	const uint32_t c1 = least(c0 + 8, t->cols);

	for (uint32_t r0 = 0; r0 < t->rows; r0 += 8)
		for (uint32_t c = c0; c < c1; c++) {
			uint32_t end = least(r0 + 8, t->rows);

			if (t->r0 == t->c0)
				end = least(end, c);
			for (uint32_t r = r0; r < end; r++)
				*cell(s, t->c0 + c, t->r0 + r) =
					t->t[(size_t)r * TILE_LD + c];
		}
}

static void tile_out(const struct syrk *s, const struct tile *t)
{
	for (uint32_t r = 0; r < t->rows; r++) {
		uint32_t c = t->r0 == t->c0 ? r : 0;

		memcpy(cell(s, t->r0 + r, t->c0 + c),
		       t->t + (size_t)r * TILE_LD + c,
		       (t->cols - c) * sizeof(double));
	}
	for (uint32_t c = 0; c < t->cols; c += 8)
		mirror(s, t, c);
}

static void syrk_tile(void *ctx, uint32_t number, uint32_t self)
{
	const struct syrk *s = ctx;
	struct tile t = { .t = cpu_own(s->be, self) };
	uint32_t i, j, i1, j1;

	upper_tile(tiles_of(s->panels, PANELS), number, &i, &j);
	i *= PANELS;
	j *= PANELS;
	i1 = least(i + PANELS, s->panels);
	j1 = least(j + PANELS, s->panels);
	t.r0 = i * CPU_PANEL;
	t.c0 = j * CPU_PANEL;
	t.rows = least(SIDE, s->h->rows - t.r0);
	t.cols = least(SIDE, s->h->cols - t.c0);
	tile_in(s, &t);
	for (uint32_t c = 0; c < tiles_of(s->x->rows, CHUNK); c++)
		for (uint32_t b = j; b < j1; b++)
			for (uint32_t a = i; a < i1 && a <= b; a++) {
				struct cpu_gram g = {
					.p = panel_at(s, c, a),
					.v = panel_at(s, c, b),
					.s = chunk_at(s, c).rows,
					.h = t.t + CPU_PANEL *
					     ((size_t)(a - i) * TILE_LD +
					      (b - j)),
					.h_ld = TILE_LD, .alpha = s->alpha,
				};

				s->be->isa->gram(&g);
			}
	tile_out(s, &t);
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
	if (cpu_scratch(be, sizeof(double) * SIDE * TILE_LD, bytes * each,
			err))
		return -1;
	s.panel = (float *)(void *)be->all_mem;
	for (uint32_t r = 0; r < x->rows; r += batch.rows) {
		batch = be_rows(x, r, least(each * CHUNK, x->rows - r));
		cpu_run(be, s.panels, pack_tile, &s);
		cpu_run(be, tiles * (tiles + 1) / 2, syrk_tile, &s);
	}
	return 0;
}
