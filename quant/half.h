/* half.h - products with the Hessian as it is kept while its linears are
 * solved: its lower half below U's diagonal, its diagonal beside (hess.h).
 * Columns are in the order of `place`, a block of them at a time. */
#ifndef QUANT_HALF_H
#define QUANT_HALF_H

#include "hess.h"

struct gq_half {
	const struct rt_dev *dev;
	const struct gq_hess *hess;
	struct be_mat square; /* F32 [n][n]: H of the block's columns */
	uint32_t at;          /* the block's first column */
	float *diag, *host;   /* [in], [block][block] */
};

/* For blocks of at most `block` columns. */
int gq_half_init(struct gq_half *h, const struct rt_dev *d,
		 const struct gq_hess *hess, uint32_t block, struct err *err);
void gq_half_release(struct gq_half *h); /* accepts a zeroed struct */
/* The block is columns a..a+n: `square` is theirs. */
int gq_half_block(struct gq_half *h, uint32_t a, uint32_t n, struct err *err);
/* out [rows][n] = E H of the block's columns, E F32 [rows][in]. */
int gq_half_times(const struct gq_half *h, const struct be_mat *e,
		  struct be_mat *out, struct err *err);

#endif
