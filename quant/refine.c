#include "refine.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"
#include "grid.h"
#include "half.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Groups up to this size are refined whole, scale and codes together; of
 * larger ones only the codes. */
#define REFINE_GROUP 512
/* Rounds in a block before the next one: few codes change after the third. */
#define REFINE_ROUNDS 3

struct refine_run {
	const struct gq_task *task;
	const uint32_t *order; /* [in]: groups stand together */
	struct be_mat w, diff; /* F32 [out][in]: W, Q - W */
	struct be_mat grad;    /* F32 [out][block] */
	struct gq_half half;   /* H of the block */
	uint8_t *code;         /* device [out][in] */
	float *scale, *zero;   /* device [out][groups] */
	double *loss;          /* device [out] */
	uint32_t *group;       /* host [in], in order */
	uint32_t block;
	bool refit;
};

static void run_release(struct refine_run *r)
{
	const struct rt_dev *d = r->task->dev;

	be_mat_free(d->api, d->be, &r->w);
	be_mat_free(d->api, d->be, &r->diff);
	be_mat_free(d->api, d->be, &r->grad);
	gq_half_release(&r->half);
	if (r->code)
		d->api->free(d->be, r->code);
	if (r->scale)
		d->api->free(d->be, r->scale);
	if (r->zero)
		d->api->free(d->be, r->zero);
	free(r->group);
}

static size_t cells(const struct ql *ql)
{
	return (size_t)ql->spec.out * ql->spec.groups;
}

/* A block is a whole number of groups where they are not too large. */
static uint32_t block_size(const struct gq_task *t, const struct ql *ql,
			   bool *refit)
{
	uint32_t size = ql->spec.group_size, block = t->params->block;

	*refit = size <= REFINE_GROUP;
	if (*refit)
		block = size > block ? size : block / size * size;
	return block < t->in ? block : t->in;
}

/* Rows of codes into processing order (store 0) or back into ql. */
static int codes(struct refine_run *r, struct ql *ql, bool store,
		 struct err *err)
{
	const struct rt_dev *d = r->task->dev;
	uint32_t in = ql->spec.in;
	size_t n = (size_t)ql->spec.out * in;
	uint8_t *all = mem_alloc(n, 1, err);
	int ret = -1;

	if (!all)
		return -1;
	if (store && d->api->get(d->be, all, r->code, n, err))
		goto out;
	for (size_t row = 0; row < n; row += in)
		for (uint32_t i = 0; i < in; i++) {
			uint8_t *q = &ql->code[row + r->order[i]];

			if (store)
				*q = all[row + i];
			else
				all[row + i] = *q;
		}
	if (!store && d->api->put(d->be, r->code, all, n, err))
		goto out;
	ret = 0;
out:
	free(all);
	return ret;
}

/* Q - W, row by row. */
static int put_diff(struct refine_run *r, const struct ql *ql,
		    struct err *err)
{
	const struct gq_task *t = r->task;
	uint32_t in = t->in;
	float *q = mem_alloc((size_t)2 * in, sizeof(*q), err), *e = q + in;
	int ret = -1;

	if (!q)
		return -1;
	for (uint32_t row = 0; row < t->out; row++) {
		ql_dequant_row(ql, row, q);
		for (uint32_t i = 0; i < in; i++) {
			uint32_t k = r->order[i];
			float w = t->hess->dead[k] ?
				0 : t->w[(size_t)row * in + k];

			e[i] = q[k] - w;
		}
		if (t->dev->api->put(t->dev->be, (float *)r->diff.p +
				     (size_t)row * in, e, in * sizeof(*e),
				     err))
			goto out;
	}
	ret = 0;
out:
	free(q);
	return ret;
}

/* Everything but the contents. */
static int run_alloc(struct refine_run *r, const struct ql *ql,
		     struct err *err)
{
	const struct gq_task *t = r->task;
	const struct rt_dev *d = t->dev;
	size_t grid = cells(ql) * sizeof(float);
	uint32_t b = r->block;
	void *p = NULL;

	r->group = mem_alloc(t->in, sizeof(*r->group), err);
	if (!r->group ||
	    be_mat_new(d->api, d->be, t->out, t->in, DT_F32, &r->w, err) ||
	    be_mat_new(d->api, d->be, t->out, t->in, DT_F32, &r->diff, err) ||
	    be_mat_new(d->api, d->be, t->out, b, DT_F32, &r->grad, err) ||
	    gq_half_init(&r->half, d, t->hess, b, err))
		return -1;
	if (d->api->alloc(d->be, (size_t)t->out * t->in, &p, err))
		return -1;
	r->code = p;
	if (d->api->alloc(d->be, grid, &p, err))
		return -1;
	r->scale = p;
	if (d->api->alloc(d->be, grid, &p, err))
		return -1;
	r->zero = p;
	return 0;
}

static int run_init(struct refine_run *r, const struct gq_task *t,
		    struct ql *ql, struct err *err)
{
	const struct rt_dev *d = t->dev;
	size_t grid = cells(ql) * sizeof(float);

	r->task = t;
	r->order = t->hess->place;
	r->block = block_size(t, ql, &r->refit);
	if (run_alloc(r, ql, err))
		return -1;
	for (uint32_t i = 0; i < t->in; i++)
		r->group[i] = ql->group_of[r->order[i]];
	if (gq_weight_put(t, r->order, t->hess->dead, &r->w, err) ||
	    put_diff(r, ql, err) || codes(r, ql, false, err) ||
	    d->api->put(d->be, r->scale, ql->scale, grid, err))
		return -1;
	return d->api->put(d->be, r->zero, ql->zero, grid, err);
}

static int refine_block(struct refine_run *r, uint32_t a, uint32_t n,
			const struct ql *ql, struct err *err)
{
	const struct gq_task *t = r->task;
	struct be_mat w = be_cols(&r->w, a, n), diff = be_cols(&r->diff, a, n);
	struct be_mat grad = be_cols(&r->grad, 0, n);
	struct be_refine call = {
		.w = &w,
		.diff = &diff,
		.grad = &grad,
		.h = &r->half.square,
		.code = r->code + a,
		.code_ld = t->in,
		.scale = r->scale,
		.zero = r->zero,
		.grid_ld = ql->spec.groups,
		.group = r->group + a,
		.loss = r->loss,
		.rounds = REFINE_ROUNDS,
		.bits = ql->spec.bits,
		.refit = r->refit,
		.scale_type = ql->spec.scale_type,
	};

	if (gq_half_block(&r->half, a, n, err) ||
	    gq_half_times(&r->half, &r->diff, &grad, err))
		return -1;
	return t->dev->api->refine(t->dev->be, &call, err);
}

int gq_refine(const struct gq_task *t, struct ql *ql, double *loss,
	      struct err *err)
{
	const struct rt_dev *d = t->dev;
	struct refine_run r = { .task = t, .loss = loss };
	int ret = -1;

	if (run_init(&r, t, ql, err))
		goto out;
	for (uint32_t k = 0; k < t->params->passes; k++)
		for (uint32_t a = 0; a < t->in; a += r.block)
			if (refine_block(&r, a, t->in - a < r.block ?
					 t->in - a : r.block, ql, err))
				goto out;
	if (codes(&r, ql, true, err) ||
	    d->api->get(d->be, ql->scale, r.scale, cells(ql) * sizeof(float),
			err))
		goto out;
	ret = 0;
out:
	run_release(&r);
	return ret;
}
