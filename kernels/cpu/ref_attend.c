/* ref_attend.c - the cache and attention in plain scalar C.  As ref.c: the
 * definition of right, with sums in double. */
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/mem.h"
#include "../shape.h"
#include "cache.h"

#include <math.h>
#include <stdlib.h>

static size_t at(const struct be_mat *m, uint32_t r, uint32_t c)
{
	return (size_t)r * m->ld + c;
}

/* Element of an F32 matrix. */
static float *ref(const struct be_mat *m, uint32_t r, uint32_t c)
{
	return (float *)m->p + at(m, r, c);
}

/* ---- new tokens ---- */

/* A head of `half` pairs, x, turned to out, which may be x. */
static void turn(const struct be_store *s, uint32_t pos, const float *x,
		 float *out)
{
	const float *c = ref(s->cos, pos, 0);
	const float *i = ref(s->sin, pos, 0);
	uint32_t half = s->head_dim / 2;

	for (uint32_t k = 0; k < half; k++) {
		double a = (double)x[k], b = (double)x[k + half];
		double cs = (double)c[k], sn = (double)i[k];

		out[k] = (float)(a * cs - b * sn);
		out[k + half] = (float)(b * cs + a * sn);
	}
}

/* A head x, the h-th of row r, into one half of the cache. */
static void keep(const struct be_mat *to, const struct be_mat *scale,
		 const float *x, const uint32_t where[3])
{
	const uint32_t r = where[0], h = where[1], d = where[2];
	float top = 0, by = 0;

	for (uint32_t i = 0; i < d; i++)
		top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
	if (to->type == DT_I8) {
		by = cpu_cache_scale(top);
		((uint16_t *)scale->p)[at(scale, r, h)] = half_from_f32(by);
	}
	for (uint32_t i = 0; i < d; i++) {
		size_t k = at(to, r, h * d + i);

		if (to->type == DT_I8)
			((int8_t *)to->p)[k] = cpu_cache_code(x[i], by);
		else if (to->type == DT_F16)
			((uint16_t *)to->p)[k] = cpu_cache_half(x[i]);
		else
			((float *)to->p)[k] = x[i];
	}
}

/* Token r; `head` is room for one. */
static void store_one(const struct be_store *s, uint32_t r, float *head)
{
	const struct be_at at = cpu_at(s->at, s->first, r);
	const uint32_t d = s->head_dim;

	for (uint32_t c = 0; c < s->q->cols; c += d)
		turn(s, at.pos, ref(s->q, r, c), ref(s->q, r, c));
	for (uint32_t h = 0; h < s->k->cols / d; h++) {
		const uint32_t where[] = { at.base + at.pos, h, d };

		turn(s, at.pos, ref(s->k, r, h * d), head);
		keep(&s->to->k, &s->to->k_scale, head, where);
		keep(&s->to->v, &s->to->v_scale, ref(s->v, r, h * d), where);
	}
}

int cpu_ref_store(struct be *be, const struct be_store *s, struct err *err)
{
	float *head = NULL;

	(void)be;
	if (be_shape_store(s, err) ||
	    (s->at && be_shape_at(s->at, s->k->rows, s->seen, s->to->k.rows,
				  err)))
		return -1;
	head = mem_alloc(s->head_dim, sizeof(*head), err);
	if (!head)
		return -1;
	for (uint32_t r = 0; r < s->k->rows; r++)
		store_one(s, r, head);
	free(head);
	return 0;
}

/* ---- attention ---- */

/* Element (s, c) of one half of the cache, in heads of d. */
static double cached(const struct be_mat *m, const struct be_mat *scale,
		     const uint32_t where[2], uint32_t d)
{
	const uint32_t s = where[0], c = where[1];
	size_t i = at(m, s, c);

	if (m->type == DT_I8)
		return (double)((const int8_t *)m->p)[i] *
		       (double)half_to_f32(((const uint16_t *)scale->p)
						   [at(scale, s, c / d)]);
	if (m->type == DT_F16)
		return (double)half_to_f32(((const uint16_t *)m->p)[i]);
	return (double)((const float *)m->p)[i];
}

/* One query: softmax over the positions it sees in p, then the values' mean. */
static void attend_one(const struct be_attend *a, uint32_t t, uint32_t head,
		       double *p)
{
	const struct be_at at = cpu_at(a->at, a->first, t);
	uint32_t seen = at.pos + 1, base = at.base, d = a->head_dim;
	uint32_t kv = head / (a->heads / a->kv_heads) * d;
	double top = -INFINITY, total = 0;

	for (uint32_t s = 0; s < seen; s++) {
		p[s] = 0;
		for (uint32_t i = 0; i < d; i++)
			p[s] += (double)*ref(a->q, t, head * d + i) *
				cached(&a->kv->k, &a->kv->k_scale,
				       (const uint32_t[]){ base + s, kv + i },
				       d);
		p[s] *= (double)a->scale;
		top = p[s] > top ? p[s] : top;
	}
	for (uint32_t s = 0; s < seen; s++) {
		p[s] = exp(p[s] - top);
		total += p[s];
	}
	for (uint32_t i = 0; i < d; i++) {
		double sum = 0;

		for (uint32_t s = 0; s < seen; s++)
			sum += p[s] * cached(&a->kv->v, &a->kv->v_scale,
					     (const uint32_t[]){ base + s,
								 kv + i }, d);
		*ref(a->out, t, head * d + i) = (float)(sum / total);
	}
}

int cpu_ref_attend(struct be *be, const struct be_attend *a, struct err *err)
{
	double *p;

	(void)be;
	if (be_shape_attend(a, err) ||
	    (a->at && be_shape_at(a->at, a->q->rows, a->seen, a->kv->k.rows,
				  err)))
		return -1;
	p = mem_alloc(a->at ? a->seen : (size_t)a->first + a->q->rows,
		      sizeof(*p), err);
	if (!p)
		return -1;
	for (uint32_t t = 0; t < a->q->rows; t++)
		for (uint32_t h = 0; h < a->heads; h++)
			attend_one(a, t, h, p);
	free(p);
	return 0;
}
