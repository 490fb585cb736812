/* sweep.c - the quantizer's grid and its sweep over a block of columns: tiles
 * are rows of the weight, which do not depend on each other. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../shape.h"
#include "cpu.h"

#include <math.h>

#define GRID_ROWS 64
#define SWEEP_ROWS 16

struct job {
	const struct be *be;
	const struct be_grid *grid;
	const struct be_sweep *sweep;
};

static float round_to(float f, enum dtype t)
{
	if (t == DT_F16)
		return half_to_f32(half_from_f32(f));
	if (t == DT_BF16)
		return half_bf16_to_f32(half_bf16_from_f32(f));
	return f;
}

/* Scale and zero from a row's range; each operation rounds to f32. */
static void grid_row(const struct be_grid *g, uint32_t r, float lo, float hi)
{
	float maxq = (float)((1u << g->bits) - 1), scale, zero;

	if (g->sym) {
		hi = -lo > hi ? -lo : hi;
		lo = lo < 0 ? -hi : lo;
	}
	scale = round_to((hi - lo) / maxq, g->round_scale);
	if (scale == 0) {
		lo = -1;
		hi = 1;
		scale = round_to((hi - lo) / maxq, g->round_scale);
	}
	zero = rintf(-lo / scale);
	zero = zero < maxq ? zero : maxq;
	if (g->sym)
		zero = (float)(1u << (g->bits - 1));
	g->scale[r * g->step] = scale;
	g->zero[r * g->step] = zero + 0.0F; /* -0 becomes 0 */
}

static void grid_tile(void *ctx, uint32_t tile, uint32_t self)
{
	const struct job *j = ctx;
	const struct be_mat *w = j->grid->w;
	uint32_t r = tile * GRID_ROWS, end = r + GRID_ROWS;

	(void)self;
	for (; r < end && r < w->rows; r++) {
		float lo = 0, hi = 0;

		j->be->isa->range((const float *)w->p + (size_t)r * w->ld,
				  w->cols, &lo, &hi);
		grid_row(j->grid, r, lo, hi);
	}
}

int cpu_grid(struct be *be, const struct be_grid *g, struct err *err)
{
	struct job j = { be, g, NULL };

	if (be_shape_grid(g, err))
		return -1;
	cpu_run(be, (g->w->rows + GRID_ROWS - 1) / GRID_ROWS,
		 grid_tile, &j);
	return 0;
}

static void sweep_tile(void *ctx, uint32_t tile, uint32_t self)
{
	const struct job *j = ctx;
	uint32_t row = tile * SWEEP_ROWS, left = j->sweep->w->rows - row;
	struct cpu_sweep t = {
		.s = j->sweep, .row = row,
		.rows = left < SWEEP_ROWS ? left : SWEEP_ROWS,
		.scratch = cpu_own(j->be, self),
	};

	j->be->isa->sweep(&t);
}

int cpu_sweep(struct be *be, const struct be_sweep *s, struct err *err)
{
	struct job j = { be, NULL, s };
	/* weights, errors and codes, a row per lane */
	size_t floats = (size_t)3 * CPU_LANES * s->w->cols;

	if (be_shape_sweep(s, err) ||
	    cpu_scratch(be, floats * sizeof(float), 0, err))
		return -1;
	if (s->w->cols)
		cpu_run(be,
			 (s->w->rows + SWEEP_ROWS - 1) / SWEEP_ROWS,
			 sweep_tile, &j);
	return 0;
}
