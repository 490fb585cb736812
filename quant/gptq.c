/* GPTQ, as its authors published it.
 *
 * Columns are processed in the order of the Hessian, in blocks.  Inside a
 * block every column's error is spread at once over the block's later columns
 * (sweep); behind the block once, when it ends:
 *
 *	W[:, b:] -= Err * U[a:b, b:]
 *
 * The grid of a group is set when its first column is reached, from the matrix
 * as it was when that column's block began: it carries the updates of earlier
 * blocks only.  Static groups: all grids beforehand, from the weights as given,
 * groups in original column order.  One group per row: its grid beforehand, and
 * from all columns, dead ones included. */
#include "../libfmt/base/err.h"
#include "metric.h"
#include "refine.h"
#include "solve.h"

#include <stdbool.h>
#include <string.h>

static uint32_t block_size(const struct gq_task *t)
{
	return t->params->block < t->in ? t->params->block : t->in;
}

/* Every grid before anything moves. */
static int preset_grids(struct gq_solve *r, struct err *err)
{
	const struct gq_task *t = r->task;
	bool all = t->params->group_size == -1;

	if (gq_weight_put(t, NULL, all ? NULL : t->hess->dead, &r->w, err))
		return -1;
	return gq_solve_grids(r, err);
}

/* The grids of the groups that begin in columns a..b; those of a group stand
 * together here. */
static int block_grids(struct gq_solve *r, uint32_t a, uint32_t b,
		       struct err *err)
{
	const uint32_t *group = r->group, in = r->task->in;

	for (uint32_t k = a; k < b; k++) {
		struct be_mat c;
		uint32_t n = 1;

		if (k && group[k] == group[k - 1])
			continue;
		while (k + n < in && group[k + n] == group[k])
			n++;
		c = be_cols(&r->w, k, n);
		if (gq_grid_set(&r->grid, &c, k, group[k], err))
			return -1;
	}
	return 0;
}

static int block_sweep(struct gq_solve *r, uint32_t a, uint32_t b,
		       struct err *err)
{
	struct be_mat band = be_rows(&r->task->hess->u, a, b - a);
	struct be_mat u = be_cols(&band, a, b - a);

	return gq_solve_sweep(r, a, b - a, &u, err);
}

/* The block's errors go to all columns behind it. */
static int block_update(struct gq_solve *r, uint32_t a, uint32_t b,
			struct err *err)
{
	const struct gq_task *t = r->task;
	struct be_mat band = be_rows(&t->hess->u, a, b - a);
	struct be_mat u, w, e = be_cols(&r->err, 0, b - a);
	struct be_gemm g = { .a = &e, .b = &u, .c = &w, .alpha = -1.0f,
			     .beta = 1.0f };

	if (b == t->in)
		return 0;
	u = be_cols(&band, b, t->in - b);
	w = be_cols(&r->w, b, t->in - b);
	return t->dev->api->gemm(t->dev->be, &g, err);
}

static int all_blocks(struct gq_solve *r, struct err *err)
{
	const struct gq_task *t = r->task;
	uint32_t step = block_size(t);

	for (uint32_t a = 0; a < t->in; a += step) {
		uint32_t b = t->in - a < step ? t->in : a + step;

		if (!gq_preset(t->params) && block_grids(r, a, b, err))
			return -1;
		if (block_sweep(r, a, b, err) || block_update(r, a, b, err))
			return -1;
	}
	return 0;
}

static int report_fill(struct gq_solve *r, const struct ql *ql,
		       struct gq_report *report, struct err *err)
{
	const struct gq_task *t = r->task;

	*report = (struct gq_report){ .damp = t->hess->damp,
				      .dead = t->hess->dead_count };
	if (gq_sum(t->dev, r->loss, t->out, &report->loss, err))
		return -1;
	if (gq_metric(t, ql, report, err))
		return -1;
	return gq_rel_error(t->w, ql, &report->rel_error, err);
}

static int gptq_solve(const struct gq_task *t, struct ql *ql,
		      struct gq_report *report, struct err *err)
{
	const struct gq_hess *h = t->hess;
	bool scatter = t->params->desc_act && !t->params->static_groups;
	struct gq_solve r;
	int ret = -1;

	memset(ql, 0, sizeof(*ql));
	if (gq_solve_init(&r, t, block_size(t), err))
		goto out;
	if (gq_preset(t->params) && preset_grids(&r, err))
		goto out;
	for (uint32_t i = 0; i < t->in; i++)
		r.group[i] = (scatter ? i : h->order[i]) / r.grid.group_size;
	if (gq_weight_put(t, h->order, h->dead, &r.w, err))
		goto out;
	if (all_blocks(&r, err))
		goto out;
	if (gq_grid_store(&r.grid, h->order, r.group, ql, err))
		goto out;
	if (t->params->passes && gq_refine(t, ql, r.loss, err))
		goto out;
	if (report_fill(&r, ql, report, err))
		goto out;
	ret = 0;
out:
	if (ret)
		ql_release(ql);
	gq_solve_release(&r);
	return ret;
}

const struct gq_method gq_gptq = {
	.name = "gptq",
	.summary = "error feedback through the Hessian of the inputs",
	.needs_hessian = 1,
	.solve = gptq_solve,
};
