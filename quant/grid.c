#include "grid.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/half.h"
#include "../libfmt/base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Elements of the host buffers through which weights and codes travel. */
#define GRID_CHUNK (1u << 20)

static int check(const struct gq_task *t, struct err *err)
{
	const struct gq_params *p = t->params;

	if (p->bits < 2 || p->bits > 8)
		return err_set(err, ERR_UNSUP, "%u bits are not supported",
			       p->bits);
	if (p->group_size != -1 && p->group_size < 1)
		return err_set(err, ERR_USAGE,
			       "group size %d is neither -1 nor positive",
			       p->group_size);
	if (p->block == 0)
		return err_set(err, ERR_USAGE, "the block size is 0");
	if (p->scale_type != DT_F16 && p->scale_type != DT_BF16 &&
	    p->scale_type != DT_F32)
		return err_set(err, ERR_UNSUP, "scales of type %s",
			       tensor_dtype_name(p->scale_type));
	if (t->hess && t->hess->n != t->in)
		return err_set(err, ERR_USAGE,
			       "a Hessian of %u features for %u inputs",
			       t->hess->n, t->in);
	return 0;
}

int gq_grid_init(struct gq_grid *g, const struct gq_task *t, struct err *err)
{
	const struct rt_dev *d = t->dev;
	size_t cells, codes;
	void *p = NULL;

	memset(g, 0, sizeof(*g));
	g->task = t;
	if (check(t, err))
		return -1;
	g->group_size = gq_group_size(t->params, t->in);
	g->groups = (t->in - 1) / g->group_size + 1;
	if (mem_mul(t->out, g->groups, &cells) ||
	    mem_mul(t->out, t->in, &codes) || cells > SIZE_MAX / 8)
		return err_set(err, ERR_RESOURCE,
			       "a weight of %u x %u is too large", t->out,
			       t->in);
	g->host = mem_alloc(cells * 2, sizeof(*g->host), err);
	if (!g->host)
		goto fail;
	if (d->api->alloc(d->be, cells * sizeof(float), &p, err))
		goto fail;
	g->scale = p;
	if (d->api->alloc(d->be, cells * sizeof(float), &p, err))
		goto fail;
	g->zero = p;
	if (d->api->alloc(d->be, codes, &p, err))
		goto fail;
	g->code = p;
	return 0;
fail:
	gq_grid_release(g);
	return -1;
}

void gq_grid_release(struct gq_grid *g)
{
	const struct rt_dev *d;

	if (!g->task)
		return;
	d = g->task->dev;
	if (g->scale)
		d->api->free(d->be, g->scale);
	if (g->zero)
		d->api->free(d->be, g->zero);
	if (g->code)
		d->api->free(d->be, g->code);
	free(g->host);
	memset(g, 0, sizeof(*g));
}

static float round_to(float v, enum dtype t)
{
	if (t == DT_F16)
		return half_to_f32(half_from_f32(v));
	if (t == DT_BF16)
		return half_bf16_to_f32(half_bf16_from_f32(v));
	return v;
}

static size_t cells(const struct gq_grid *g)
{
	return (size_t)g->task->out * g->groups;
}

static int grid_get(struct gq_grid *g, struct err *err)
{
	const struct rt_dev *d = g->task->dev;
	size_t n = cells(g);

	if (d->api->get(d->be, g->host, g->scale, n * sizeof(float), err))
		return -1;
	return d->api->get(d->be, g->host + n, g->zero, n * sizeof(float),
			   err);
}

static int grid_put(struct gq_grid *g, struct err *err)
{
	const struct rt_dev *d = g->task->dev;
	size_t n = cells(g);

	if (d->api->put(d->be, g->scale, g->host, n * sizeof(float), err))
		return -1;
	return d->api->put(d->be, g->zero, g->host + n, n * sizeof(float),
			   err);
}

/* What the grid rule cannot know: a rounded scale must not vanish (the code is
 * a quotient by it), and some layouts hold no zero point of 0.  There the
 * group has next to nothing below 0: with zero point 1 the scale grows so that
 * the largest weight still has a code.  Returns 1 when the cell changed. */
static int mend_cell(const struct gq_params *p, float *scale, float *zero)
{
	float top = (float)((1u << p->bits) - 1u);
	int changed = 0;

	if (p->round_scale && *scale == 0.0f) {
		/* the least f16; bf16 reaches lower, to no avail */
		*scale = 0x1p-24f;
		*zero = (float)(1u << (p->bits - 1));
		changed = 1;
	}
	if (*zero < (float)p->zero_min) {
		*scale = *scale * top / (top - (float)p->zero_min);
		if (p->round_scale)
			*scale = round_to(*scale, p->scale_type);
		*zero = (float)p->zero_min;
		changed = 1;
	}
	return changed;
}

static int mend(struct gq_grid *g, uint32_t group, struct err *err)
{
	const struct gq_params *p = g->task->params;
	size_t n = cells(g);
	int changed = 0;

	if (!p->round_scale && (p->sym || !p->zero_min))
		return 0;
	if (grid_get(g, err))
		return -1;
	for (size_t i = group; i < n; i += g->groups)
		changed |= mend_cell(p, &g->host[i], &g->host[n + i]);
	return changed ? grid_put(g, err) : 0;
}

/* The search of GPTQ's authors, and one that goes down to 0.3 of the range: at
 * 2 and 3 bits the best grids cut off much. */
static void clipping(const struct gq_grid *g, uint32_t place,
		     struct be_grid *call)
{
	const struct gq_hess *h = g->task->hess;

	switch (g->task->params->clip) {
	case GQ_CLIP_NONE:
		break;
	case GQ_CLIP_PUBLISHED:
		call->tries = 80;
		call->shrink = 0.01f;
		call->power = 2.4f;
		break;
	case GQ_CLIP_WEIGHTED:
		call->tries = 36;
		call->shrink = 0.02f;
		call->power = 2.0f;
		call->near = 1;
		if (h)
			call->weight = (const float *)h->diag.p + place;
		break;
	}
}

int gq_grid_set(struct gq_grid *g, const struct be_mat *columns,
		uint32_t place, uint32_t group, struct err *err)
{
	const struct gq_params *p = g->task->params;
	struct be_grid call = {
		.w = columns,
		.scale = g->scale + group,
		.zero = g->zero + group,
		.step = g->groups,
		.bits = p->bits,
		.sym = p->sym,
		.round_scale = p->round_scale ? p->scale_type : DT_F32,
		.zero_min = p->zero_min,
	};

	clipping(g, place, &call);
	if (g->task->dev->api->grid(g->task->dev->be, &call, err))
		return -1;
	return mend(g, group, err);
}

static int store_scales(struct gq_grid *g, struct ql *ql, struct err *err)
{
	enum dtype type = ql->spec.scale_type;
	size_t n = cells(g);

	if (grid_get(g, err))
		return -1;
	memcpy(ql->zero, g->host + n, n * sizeof(float));
	for (size_t i = 0; i < n; i++) {
		ql->scale[i] = round_to(g->host[i], type);
		if (!isfinite(ql->scale[i]))
			return err_set(err, ERR_UNSUP,
				       "scale %g of row %zu does not fit %s",
				       (double)g->host[i], i / g->groups,
				       tensor_dtype_name(type));
	}
	return 0;
}

/* Codes to their original columns. */
static int store_codes(struct gq_grid *g, const uint32_t *order,
		       struct ql *ql, struct err *err)
{
	const struct rt_dev *d = g->task->dev;
	uint32_t in = g->task->in;
	uint8_t *row = mem_alloc(in, 1, err);
	int ret = -1;

	if (!row)
		return -1;
	if (d->api->get(d->be, ql->code, g->code,
			(size_t)g->task->out * in, err))
		goto out;
	for (uint32_t r = 0; order && r < g->task->out; r++) {
		uint8_t *code = ql->code + (size_t)r * in;

		for (uint32_t i = 0; i < in; i++)
			row[order[i]] = code[i];
		memcpy(code, row, in);
	}
	ret = 0;
out:
	free(row);
	return ret;
}

int gq_grid_store(struct gq_grid *g, const uint32_t *order,
		  const uint32_t *group, struct ql *ql, struct err *err)
{
	const struct gq_task *t = g->task;
	struct ql_spec spec;

	gq_spec(t->params, t->out, t->in, &spec);
	if (ql_init(ql, &spec, err))
		return -1;
	if (store_scales(g, ql, err) || store_codes(g, order, ql, err)) {
		ql_release(ql);
		return -1;
	}
	for (uint32_t i = 0; i < t->in; i++)
		ql->group_of[order ? order[i] : i] = group[i];
	ql_observe(ql);
	return 0;
}

/* One row, reordered, dead columns cleared. */
static int copy_row(const struct gq_task *t, const uint32_t *order,
		    const uint8_t *dead, uint32_t r, float *to,
		    struct err *err)
{
	const float *from = t->w + (size_t)r * t->in;

	for (uint32_t i = 0; i < t->in; i++) {
		uint32_t k = order ? order[i] : i;

		if (!isfinite(from[k]))
			return err_set(err, ERR_INPUT,
				       "weight [%u, %u] is not finite", r, k);
		to[i] = dead && dead[k] ? 0.0f : from[k];
	}
	return 0;
}

int gq_weight_put(const struct gq_task *t, const uint32_t *order,
		  const uint8_t *dead, const struct be_mat *w, struct err *err)
{
	const struct rt_dev *d = t->dev;
	uint32_t step = t->in < GRID_CHUNK ? GRID_CHUNK / t->in : 1;
	float *rows;
	int ret = -1;

	if (step > t->out)
		step = t->out;
	rows = mem_alloc((size_t)step * t->in, sizeof(*rows), err);
	if (!rows)
		return -1;
	for (uint32_t r = 0; r < t->out; r += step) {
		uint32_t m = t->out - r < step ? t->out - r : step;

		for (uint32_t i = 0; i < m; i++)
			if (copy_row(t, order, dead, r + i,
				     rows + (size_t)i * t->in, err))
				goto out;
		if (d->api->put(d->be, (float *)w->p + (size_t)r * t->in, rows,
				(size_t)m * t->in * sizeof(*rows), err))
			goto out;
	}
	ret = 0;
out:
	free(rows);
	return ret;
}
