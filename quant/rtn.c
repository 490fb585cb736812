/* Round to nearest: every weight to the nearest point of its group's grid.
 *
 * The codes come from the same sweep as GPTQ's, with a unit matrix in the place
 * of the Hessian's factor: no error is passed on. */
#include "../libfmt/base/err.h"
#include "solve.h"

#include <string.h>

/* Columns per sweep: its cost grows with the square. */
#define RTN_BLOCK 16

struct rtn_run {
	struct gq_solve s;
	struct be_mat unit; /* [B][B] */
};

static void run_release(struct rtn_run *r)
{
	const struct rt_dev *d = r->s.task->dev;

	gq_solve_release(&r->s);
	be_mat_free(d->api, d->be, &r->unit);
}

static int run_init(struct rtn_run *r, const struct gq_task *t,
		    struct err *err)
{
	const struct rt_dev *d = t->dev;
	float unit[RTN_BLOCK * RTN_BLOCK] = { 0 };

	memset(r, 0, sizeof(*r));
	for (uint32_t i = 0; i < RTN_BLOCK; i++)
		unit[i * RTN_BLOCK + i] = 1.0f;
	if (gq_solve_init(&r->s, t, RTN_BLOCK, err) ||
	    be_mat_new(d->api, d->be, RTN_BLOCK, RTN_BLOCK, DT_F32, &r->unit,
		       err))
		return -1;
	return d->api->put(d->be, r->unit.p, unit, sizeof(unit), err);
}

static int sweep(struct rtn_run *r, uint32_t a, uint32_t n, struct err *err)
{
	struct be_mat band = be_rows(&r->unit, 0, n);
	struct be_mat u = be_cols(&band, 0, n);

	return gq_solve_sweep(&r->s, a, n, &u, err);
}

static int rtn_solve(const struct gq_task *t, struct ql *ql,
		     struct gq_report *report, struct err *err)
{
	struct rtn_run r;
	int ret = -1;

	memset(ql, 0, sizeof(*ql));
	*report = (struct gq_report){ 0 };
	if (run_init(&r, t, err) || gq_weight_put(t, NULL, NULL, &r.s.w, err))
		goto out;
	for (uint32_t k = 0; k < t->in; k++)
		r.s.group[k] = k / r.s.grid.group_size;
	if (gq_solve_grids(&r.s, err))
		goto out;
	for (uint32_t k = 0; k < t->in; k += RTN_BLOCK)
		if (sweep(&r, k, t->in - k < RTN_BLOCK ? t->in - k : RTN_BLOCK,
			  err))
			goto out;
	if (gq_grid_store(&r.s.grid, NULL, r.s.group, ql, err) ||
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
