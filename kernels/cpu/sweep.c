/* sweep.c - the quantizer's grid, its sweep over a block of columns, and the
 * refinement of what came out: tiles are rows of the weight, which do not
 * depend on each other. */
#include "../../libfmt/base/err.h"
#include "../shape.h"
#include "cpu.h"
#include "grid.h"

#define GRID_ROWS 64

struct job {
	const struct be *be;
	const struct be_grid *grid;
	const struct be_sweep *sweep;
	const struct be_refine *refine;
};

static void grid_tile(void *ctx, uint32_t tile, uint32_t self)
{
	const struct job *j = ctx;
	const struct be_grid *g = j->grid;
	uint32_t row = tile * GRID_ROWS, left = g->w->rows - row;
	float lo[GRID_ROWS] = { 0 }, hi[GRID_ROWS] = { 0 };
	struct cpu_search t = {
		.g = g, .row = row, .rows = left < GRID_ROWS ? left : GRID_ROWS,
		.lo = lo, .hi = hi, .scratch = cpu_own(j->be, self),
	};

	for (uint32_t r = 0; r < t.rows; r++) {
		size_t cell = (row + r) * g->step;

		j->be->isa->range((const float *)g->w->p +
				  (row + r) * (size_t)g->w->ld,
				  g->w->cols, &lo[r], &hi[r]);
		cpu_grid_widen(g, &lo[r], &hi[r]);
		cpu_grid_cell(g, lo[r], hi[r], &g->scale[cell],
			      &g->zero[cell]);
	}
	if (g->tries)
		j->be->isa->search(&t);
}

int cpu_grid(struct be *be, const struct be_grid *g, struct err *err)
{
	struct job j = { .be = be, .grid = g };
	size_t floats = g->tries ? (size_t)CPU_SWEEP * g->w->cols : 0;

	if (be_shape_grid(g, err) ||
	    cpu_scratch(be, floats * sizeof(float), 0, err))
		return -1;
	cpu_run(be, (g->w->rows + GRID_ROWS - 1) / GRID_ROWS,
		 grid_tile, &j);
	return 0;
}

static void sweep_tile(void *ctx, uint32_t tile, uint32_t self)
{
	const struct job *j = ctx;
	uint32_t row = tile * CPU_SWEEP, left = j->sweep->w->rows - row;
	struct cpu_sweep t = {
		.s = j->sweep, .row = row,
		.rows = left < CPU_SWEEP ? left : CPU_SWEEP,
		.scratch = cpu_own(j->be, self),
	};

	j->be->isa->sweep(&t);
}

int cpu_sweep(struct be *be, const struct be_sweep *s, struct err *err)
{
	struct job j = { .be = be, .sweep = s };
	/* weights, errors and codes, a row per lane */
	size_t floats = (size_t)3 * CPU_SWEEP * s->w->cols;

	if (be_shape_sweep(s, err) ||
	    cpu_scratch(be, floats * sizeof(float), 0, err))
		return -1;
	if (s->w->cols)
		cpu_run(be,
			 (s->w->rows + CPU_SWEEP - 1) / CPU_SWEEP,
			 sweep_tile, &j);
	return 0;
}

static void refine_tile(void *ctx, uint32_t tile, uint32_t self)
{
	const struct job *j = ctx;
	uint32_t row = tile * CPU_SWEEP, left = j->refine->w->rows - row;
	struct cpu_refine t = {
		.a = j->refine, .row = row,
		.rows = left < CPU_SWEEP ? left : CPU_SWEEP,
		.scratch = cpu_own(j->be, self),
	};

	j->be->isa->refine(&t);
}

int cpu_refine(struct be *be, const struct be_refine *r, struct err *err)
{
	struct job j = { .be = be, .refine = r };
	/* gradient, codes, a product and steps; which columns moved */
	size_t floats = ((size_t)4 * CPU_SWEEP + 1) * r->w->cols;

	if (be_shape_refine(r, err) ||
	    cpu_scratch(be, floats * sizeof(float), 0, err))
		return -1;
	if (r->w->cols)
		cpu_run(be, (r->w->rows + CPU_SWEEP - 1) / CPU_SWEEP,
			refine_tile, &j);
	return 0;
}
