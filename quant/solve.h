/* solve.h - a linear while it is being solved on the device: what the methods
 * that sweep over its columns share. */
#ifndef QUANT_SOLVE_H
#define QUANT_SOLVE_H

#include "grid.h"

struct gq_solve {
	const struct gq_task *task;
	struct gq_grid grid;
	struct be_mat w, err; /* F32 [out][in], [out][block] */
	double *loss;         /* device [out], begins at 0 */
	uint32_t *group;      /* host [in], in the order of processing */
};

/* For blocks of that many columns; group and w are the caller's to fill.
 * Release in any case. */
int gq_solve_init(struct gq_solve *s, const struct gq_task *t, uint32_t block,
		  struct err *err);
void gq_solve_release(struct gq_solve *s);
/* Every grid from w as it is now, groups in the order of its columns. */
int gq_solve_grids(struct gq_solve *s, struct err *err);
/* Codes of columns a..a+n of w, n at most a block.  Errors spread over the
 * later ones of them by u [n][n], and stand in s->err [out][n] then. */
int gq_solve_sweep(struct gq_solve *s, uint32_t a, uint32_t n,
		   const struct be_mat *u, struct err *err);

#endif
