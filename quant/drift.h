/* drift.h - asymmetric calibration: how far the inputs of a slot have drifted
 * because all before it is quantized already.
 *
 * X are a slot's inputs behind the quantized linears, X~ those of the model as
 * it was.  Y. Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for
 * Asymmetric Calibration", 2025 (arXiv:2504.02692), look for the Q that makes
 * of X what W made of X~: least |X Q^T - X~ W^T|^2.  With H = X^T X and
 *
 *	D = (X~ - X)^T X
 *
 * that is tr((Q - V) H (Q - V)^T) + const, V = W + W D H^-1: the problem that
 * GPTQ solves, with another weight to come near to.  The paper's code adds D's
 * part column by column while it goes, each column's to those behind it alone
 * and a quarter of it; here V is made beforehand, with both halves. */
#ifndef QUANT_DRIFT_H
#define QUANT_DRIFT_H

#include "../runtime/linear.h"

struct gq_drift {
	uint32_t n;
	struct be_mat sum;  /* F32 [n][n]: D, scaled as H is */
	struct be_mat back; /* F32 [n][n]: D H^-1, damped, rows and columns in
			       the order of processing; once prepared */
};

int gq_drift_init(struct gq_drift *g, const struct rt_dev *d, uint32_t n,
		  struct err *err);
/* D += alpha (X~ - X)^T X; pair is { X~, X }, [tokens][n] each, contiguous. */
int gq_drift_add(struct gq_drift *g, const struct rt_dev *d,
		 const struct be_mat *const pair[2], float alpha,
		 struct err *err);
/* order[i] is the column processed i-th, u the factor of H^-1 in that order,
 * with zeros below its diagonal.  May be called again, until D is gone. */
int gq_drift_prepare(struct gq_drift *g, const struct rt_dev *d,
		     const uint32_t *order, const struct be_mat *u,
		     struct err *err);
/* Release D. */
void gq_drift_settle(struct gq_drift *g, const struct rt_dev *d);
void gq_drift_release(struct gq_drift *g, const struct rt_dev *d);

#endif
