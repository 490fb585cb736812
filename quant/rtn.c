/* Round to nearest: every weight to the nearest point of its group's grid.
 *
 * The codes come from the same sweep as GPTQ's, with a unit matrix in the place
 * of the Hessian's factor: no error is passed on. */
#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"
#include "grid.h"

#include <stdlib.h>
#include <string.h>

/* Columns per sweep: its cost grows with the square. */
#define RTN_BLOCK 16

struct rtn_run {
	const struct gq_task *task;
	struct gq_grid grid;
	struct be_mat w, unit, err; /* [out][in], [B][B], [out][B] */
	double *loss;               /* device [out], not looked at */
	uint32_t *group;            /* host [in] */
};

static void run_release(struct rtn_run *r)
{
	const struct rt_dev *d = r->task->dev;

	gq_grid_release(&r->grid);
	be_mat_free(d->api, d->be, &r->w);
	be_mat_free(d->api, d->be, &r->unit);
	be_mat_free(d->api, d->be, &r->err);
	if (r->loss)
		d->api->free(d->be, r->loss);
	free(r->group);
}

static int run_init(struct rtn_run *r, const struct gq_task *t,
		    struct err *err)
{
	const struct rt_dev *d = t->dev;
	float unit[RTN_BLOCK * RTN_BLOCK] = { 0 };
	double *zero = NULL;
	void *p = NULL;
	int ret = -1;

	memset(r, 0, sizeof(*r));
	r->task = t;
	for (uint32_t i = 0; i < RTN_BLOCK; i++)
		unit[i * RTN_BLOCK + i] = 1.0f;
	if (gq_grid_init(&r->grid, t, err))
		goto out;
	if (be_mat_new(d->api, d->be, t->out, t->in, DT_F32, &r->w, err) ||
	    be_mat_new(d->api, d->be, t->out, RTN_BLOCK, DT_F32, &r->err,
		       err) ||
	    be_mat_new(d->api, d->be, RTN_BLOCK, RTN_BLOCK, DT_F32, &r->unit,
		       err))
		goto out;
	zero = mem_alloc(t->out, sizeof(*zero), err);
	r->group = mem_alloc(t->in, sizeof(*r->group), err);
	if (!zero || !r->group ||
	    d->api->alloc(d->be, t->out * sizeof(*zero), &p, err))
		goto out;
	r->loss = p;
	if (d->api->put(d->be, p, zero, t->out * sizeof(*zero), err) ||
	    d->api->put(d->be, r->unit.p, unit, sizeof(unit), err))
		goto out;
	ret = 0;
out:
	free(zero);
	return ret;
}

static int sweep(struct rtn_run *r, uint32_t a, uint32_t n, struct err *err)
{
	const struct gq_task *t = r->task;
	struct be_mat w = be_cols(&r->w, a, n), e = be_cols(&r->err, 0, n);
	struct be_mat band = be_rows(&r->unit, 0, n);
	struct be_mat u = be_cols(&band, 0, n);
	struct be_sweep s = {
		.w = &w,
		.u = &u,
		.err = &e,
		.code = r->grid.code + a,
		.code_ld = t->in,
		.scale = r->grid.scale,
		.zero = r->grid.zero,
		.grid_ld = r->grid.groups,
		.group = r->group + a,
		.loss = r->loss,
		.bits = t->params->bits,
	};

	return t->dev->api->sweep(t->dev->be, &s, err);
}

static int rtn_solve(const struct gq_task *t, struct ql *ql,
		     struct gq_report *report, struct err *err)
{
	struct rtn_run r;
	uint32_t size;
	int ret = -1;

	memset(ql, 0, sizeof(*ql));
	*report = (struct gq_report){ 0 };
	if (run_init(&r, t, err) || gq_weight_put(t, NULL, NULL, &r.w, err))
		goto out;
	size = r.grid.group_size;
	for (uint32_t k = 0; k < t->in; k++)
		r.group[k] = k / size;
	for (uint32_t g = 0; g < r.grid.groups; g++) {
		uint32_t k = g * size;
		struct be_mat c =
			be_cols(&r.w, k, t->in - k < size ? t->in - k : size);

		if (gq_grid_set(&r.grid, &c, k, g, err))
			goto out;
	}
	for (uint32_t k = 0; k < t->in; k += RTN_BLOCK)
		if (sweep(&r, k, t->in - k < RTN_BLOCK ? t->in - k : RTN_BLOCK,
			  err))
			goto out;
	if (gq_grid_store(&r.grid, NULL, r.group, ql, err) ||
	    gq_rel_error(t->w, ql, &report->rel_error, err))
		goto out;
	ret = 0;
out:
	if (ret)
		ql_release(ql);
	run_release(&r);
	return ret;
}

const struct gq_method gq_rtn = {
	.name = "rtn",
	.summary = "round to nearest, no calibration",
	.needs_hessian = 0,
	.solve = rtn_solve,
};
