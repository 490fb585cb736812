/* refine.h - what comes after a method: codes and scales of one linear are
 * improved under its Hessian by coordinate descent (struct be_refine), block
 * by block in several passes; zeros and groups stay.
 *
 *	f = tr((W - Q) H (W - Q)^T), H damped,
 *
 * never gets larger, but for the last bits of f32.  A block holds whole groups;
 * the gradient of its columns is computed anew, so that rounding does not add
 * up: three products, as half of H stands in the lower triangle of hess->u.
 *
 * Cost of a pass: out * in^2 multiply-adds, twice the sweep's, and per column
 * about three steps of a sweep for each round. */
#ifndef QUANT_REFINE_H
#define QUANT_REFINE_H

#include "method.h"

/* loss: device [out], half of f of each row; kept up to date. */
int gq_refine(const struct gq_task *t, struct ql *ql, double *loss,
	      struct err *err);

#endif
