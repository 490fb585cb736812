/* metric.h - how much of a linear's output is lost: of its own calibration
 * inputs, and beside it what plain rounding would have lost.
 *
 *	out_error = sqrt(tr((W-Q) H (W-Q)^T) / tr(W H W^T)),   H damped,
 *
 * (of the weight that is solved for: gptaq's is another than the model's)
 * on METRIC_ROWS rows spread over all (or all there are): the mean over rows is
 * known well by then, and the cost stays far below that of solving. */
#ifndef QUANT_METRIC_H
#define QUANT_METRIC_H

#include "method.h"

#define METRIC_ROWS 128

/* Fills report->out_error and ->rtn_error; 0 both where the inputs are all
 * dead. */
int gq_metric(const struct gq_task *t, const struct ql *ql,
	      struct gq_report *report, struct err *err);

#endif
