/* grid.h - the quantizer's operations of the scalar reference, and the rule of
 * a grid's cell, which it shares with the vector kernels. */
#ifndef KERNELS_CPU_GRID_H
#define KERNELS_CPU_GRID_H

#include "../backend.h"

/* Scale and zero of one row from the range of its group. */
void cpu_grid_cell(const struct be_grid *g, float lo, float hi, float *scale,
		   float *zero);
/* Widen a range as the published quantizer does. */
void cpu_grid_widen(const struct be_grid *g, float *lo, float *hi);
/* f rounded to F16, BF16 or (as it is) F32. */
float cpu_round_to(float f, enum dtype t);
/* Zeros to be tried: from -near to near. */
static inline float cpu_grid_near(const struct be_grid *g)
{
	return g->near && !g->sym ? 1 : 0;
}

int cpu_ref_grid(struct be *be, const struct be_grid *g, struct err *err);
int cpu_ref_sweep(struct be *be, const struct be_sweep *s, struct err *err);
int cpu_ref_refine(struct be *be, const struct be_refine *r, struct err *err);

#endif
