/* GPTAQ: GPTQ with a weight to come near to that makes good what the linears
 * before this one have lost already (drift.h).
 *
 * The whole of W D H^-1 follows the calibration text too closely where that is
 * short; half of it gives the same where it is not.  (The paper's code takes a
 * quarter, of one half of D.) */
#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"
#include "grid.h"

#include <stdlib.h>
#include <string.h>

#define SHARE 0.5f

/* v = W + SHARE W D H^-1 on the device, in the order of processing. */
static int shifted(const struct gq_task *t, const struct be_mat *v,
		   struct err *err)
{
	const struct rt_dev *d = t->dev;
	const struct gq_hess *h = t->hess;
	struct be_mat w = { 0 }, out = *v;
	struct be_gemm mul = { .a = &w, .b = &h->drift.back, .c = &out,
			       .alpha = SHARE, .beta = 1 };
	int ret = -1;

	if (be_mat_new(d->api, d->be, t->out, t->in, DT_F32, &w, err) ||
	    gq_weight_put(t, h->order, h->dead, &w, err) ||
	    gq_weight_put(t, h->order, h->dead, &out, err) ||
	    d->api->gemm(d->be, &mul, err))
		goto out;
	ret = 0;
out:
	be_mat_free(d->api, d->be, &w);
	return ret;
}

/* The same on the host, [out][in] in the weight's own order. */
static int target(const struct gq_task *t, float *to, struct err *err)
{
	const struct rt_dev *d = t->dev;
	size_t in = t->in;
	struct be_mat v = { 0 };
	float *row = mem_alloc(in, sizeof(*row), err);
	int ret = -1;

	if (!row || be_mat_new(d->api, d->be, t->out, t->in, DT_F32, &v, err))
		goto out;
	if (shifted(t, &v, err))
		goto out;
	for (size_t r = 0; r < t->out; r++) {
		if (d->api->get(d->be, row, (float *)v.p + r * in,
				in * sizeof(*row), err))
			goto out;
		for (size_t i = 0; i < in; i++)
			to[r * in + t->hess->order[i]] = row[i];
	}
	ret = 0;
out:
	free(row);
	be_mat_free(d->api, d->be, &v);
	return ret;
}

static int gptaq_solve(const struct gq_task *t, struct ql *ql,
		       struct gq_report *report, struct err *err)
{
	struct gq_task toward = *t;
	float *v = mem_alloc((size_t)t->out * t->in, sizeof(*v), err);
	int ret = -1;

	memset(ql, 0, sizeof(*ql));
	if (!v || target(t, v, err))
		goto out;
	toward.w = v;
	if (gq_gptq.solve(&toward, ql, report, err))
		goto out;
	if (gq_rel_error(t->w, ql, &report->rel_error, err))
		goto out;
	ret = 0;
out:
	if (ret)
		ql_release(ql);
	free(v);
	return ret;
}

const struct gq_method gq_gptaq = {
	.name = "gptaq",
	.summary = "gptq that also makes good what was lost before",
	.needs_hessian = 1,
	.compares = 1,
	.solve = gptaq_solve,
};
