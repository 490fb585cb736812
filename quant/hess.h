/* hess.h - the Hessian of one slot: gathered while the calibration windows
 * run, then prepared once for all linears that share the input (q k v; gate
 * up).
 *
 *	gather:   H = alpha * sum of X^T X                (f64, on the device)
 *	prepare:  dead columns (H_kk == 0) get H_kk = 1;
 *	          order: as they are, or by falling H_kk, ties by index; or
 *	          groups by their largest H_kk, columns in them by H_kk;
 *	          H^-1 = U^T U of H in that order, H_kk + damp * mean(diag H)
 *
 * damp is params->damp; with damp_short at least features / tokens, up to 1.
 * It is raised by damp_step while the factorisation fails, up to 1.
 *
 * For the refinement and the measuring H, damped, stands below U's diagonal,
 * its own in diag; columns in the order of `place`, where those of a group
 * stand together (half.h).
 *
 * Where the method compares with the full model, the drift of the inputs is
 * gathered beside H and prepared with it (drift.h).
 *
 * H is put into order in its place, a row at a time: of matrices there are H,
 * U and what the factorisation takes. */
#ifndef QUANT_HESS_H
#define QUANT_HESS_H

#include "drift.h"

struct gq_params;

struct gq_hess {
	uint32_t n;          /* input features */
	struct be_mat h;     /* F64 [n][n]; columns as `order` says once it was
				prepared; released by gq_hess_settle */
	struct be_mat u;     /* F32 [n][n], in the order of processing; below
				the diagonal H in the order of place */
	struct be_mat diag;  /* F32 [1][n]: H's damped diagonal, by place */
	uint32_t *order;     /* [n]: the column that is processed i-th */
	uint32_t *place;     /* [n]: the same for groups: the order, or where
				grids are set beforehand the columns' own */
	uint8_t *dead;       /* [n], by column: 1 when never active */
	uint32_t dead_count;
	double damp;         /* the damping that worked */
	uint64_t tokens;     /* gathered so far */
	struct gq_drift drift; /* n is 0 where it is not wanted */
	void *mem;
};

/* A zero Hessian.  On failure *h is zeroed. */
int gq_hess_init(struct gq_hess *h, const struct rt_dev *d, uint32_t n,
		 struct err *err);
/* H += alpha * X^T X, x F32 [tokens][n] on the device. */
int gq_hess_add(struct gq_hess *h, const struct rt_dev *d,
		const struct be_mat *x, double alpha, struct err *err);
/* ERR_CHECK when H holds NaN or infinity, or no damping below 1 makes it
 * positive definite.  May be called again, with other parameters, until H is
 * released. */
int gq_hess_prepare(struct gq_hess *h, const struct rt_dev *d,
		    const struct gq_params *p, struct err *err);
/* 1 when what was prepared with `a` also serves `b`. */
int gq_hess_serves(const struct gq_params *a, const struct gq_params *b);
/* No other parameters will come: release H and D, keep what was prepared. */
void gq_hess_settle(struct gq_hess *h, const struct rt_dev *d);
void gq_hess_release(struct gq_hess *h, const struct rt_dev *d);

#endif
