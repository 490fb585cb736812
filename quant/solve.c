#include "solve.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <stdlib.h>
#include <string.h>

static int loss_init(struct gq_solve *s, struct err *err)
{
	const struct rt_dev *d = s->task->dev;
	uint32_t out = s->task->out;
	double *zero = mem_alloc(out, sizeof(*zero), err);
	void *p = NULL;
	int ret = -1;

	if (!zero || d->api->alloc(d->be, out * sizeof(*zero), &p, err))
		goto done;
	s->loss = p;
	ret = d->api->put(d->be, p, zero, out * sizeof(*zero), err);
done:
	free(zero);
	return ret;
}

int gq_solve_init(struct gq_solve *s, const struct gq_task *t, uint32_t block,
		  struct err *err)
{
	const struct rt_dev *d = t->dev;

	memset(s, 0, sizeof(*s));
	s->task = t;
	if (gq_grid_init(&s->grid, t, err) ||
	    be_mat_new(d->api, d->be, t->out, t->in, DT_F32, &s->w, err) ||
	    be_mat_new(d->api, d->be, t->out, block, DT_F32, &s->err, err))
		return -1;
	s->group = mem_alloc(t->in, sizeof(*s->group), err);
	return s->group ? loss_init(s, err) : -1;
}

void gq_solve_release(struct gq_solve *s)
{
	const struct rt_dev *d = s->task->dev;

	gq_grid_release(&s->grid);
	be_mat_free(d->api, d->be, &s->w);
	be_mat_free(d->api, d->be, &s->err);
	if (s->loss)
		d->api->free(d->be, s->loss);
	free(s->group);
}

int gq_solve_grids(struct gq_solve *s, struct err *err)
{
	uint32_t in = s->task->in, size = s->grid.group_size;

	for (uint32_t g = 0; g < s->grid.groups; g++) {
		uint32_t k = g * size;
		struct be_mat c =
			be_cols(&s->w, k, in - k < size ? in - k : size);

		if (gq_grid_set(&s->grid, &c, k, g, err))
			return -1;
	}
	return 0;
}

int gq_solve_sweep(struct gq_solve *s, uint32_t a, uint32_t n,
		   const struct be_mat *u, struct err *err)
{
	const struct gq_task *t = s->task;
	struct be_mat w = be_cols(&s->w, a, n), e = be_cols(&s->err, 0, n);
	struct be_sweep sweep = {
		.w = &w,
		.u = u,
		.err = &e,
		.code = s->grid.code + a,
		.code_ld = t->in,
		.scale = s->grid.scale,
		.zero = s->grid.zero,
		.grid_ld = s->grid.groups,
		.group = s->group + a,
		.loss = s->loss,
		.bits = t->params->bits,
	};

	return t->dev->api->sweep(t->dev->be, &sweep, err);
}
