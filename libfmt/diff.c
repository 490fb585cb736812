#include "diff_impl.h"

#include "base/err.h"
#include "base/half.h"
#include "base/mem.h"
#include "base/pool.h"
#include "model.h"
#include "values.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *diff_state_name(enum diff_state s)
{
	static const char *const name[DIFF_STATES] = { "equal", "rounded",
		"values", "shape", "bytes", "unread", "only here",
		"only there" };

	return name[s];
}

/* ---- the pairs ---- */

struct pair {
	const struct values_ref *a, *b; /* one may be NULL */
};

struct run {
	const struct diff_job *job;
	struct diff *out;
	struct values_list list[2];
	struct pair *pair; /* [out->tensors] */
};

/* Merge two lists that are in the same order. */
static int join(struct run *r, struct err *err)
{
	const struct values_list *a = &r->list[0], *b = &r->list[1];
	size_t most = (size_t)a->count + b->count;
	uint32_t i = 0, k = 0, n = 0;

	r->pair = mem_alloc(most, sizeof(*r->pair), err);
	r->out->tensor = mem_alloc(most, sizeof(*r->out->tensor), err);
	if (!r->pair || !r->out->tensor)
		return -1;
	while (i < a->count || k < b->count) {
		int c = i == a->count ? 1 : k == b->count ? -1 :
			strcmp(a->ref[i].name, b->ref[k].name);

		r->pair[n].a = c <= 0 ? &a->ref[i++] : NULL;
		r->pair[n++].b = c >= 0 ? &b->ref[k++] : NULL;
	}
	r->out->tensors = n;
	return 0;
}

static void stored_as(const struct values_ref *v, char out[80])
{
	const struct ql_spec *s = v && v->layer ? &v->layer->spec : NULL;

	if (!v)
		*out = '\0';
	else if (!s)
		snprintf(out, 80, "%s", tensor_dtype_name(v->tensor->type));
	else if (s->groups == 1)
		snprintf(out, 80, "%s %u bits, a group per row",
			 v->layer->format->name, s->bits);
	else
		snprintf(out, 80, "%s %u bits, groups of %u%s",
			 v->layer->format->name, s->bits, s->group_size,
			 s->act_order ? ", act-order" : "");
}

/* ---- one pair ---- */

#define BLOCK 16384 /* values at a time */
#define PIECE ((uint64_t)16 << 20) /* bytes at a time */

/* x rounded to a type that has 16 bits. */
static float rounded(float x, enum dtype t)
{
	return t == DT_F16 ? half_to_f32(half_from_f32(x)) :
			     half_bf16_to_f32(half_bf16_from_f32(x));
}

static enum dtype half_type(const struct values *v)
{
	return v->tensor && (v->tensor->type == DT_F16 ||
			     v->tensor->type == DT_BF16) ?
		v->tensor->type : DT_NONE;
}

static bool same_value(float a, float b)
{
	/* equal bits are equal, and so are the two zeros */
	return half_bits(a) == half_bits(b) || (a >= b && a <= b);
}

struct compare {
	struct values *a, *b;
	enum dtype ta, tb;       /* of the 16-bit side, or DT_NONE */
	uint64_t off_a, off_b;   /* not equal when rounded to the type */
	double sum, of;          /* squares of a - b and of a */
	struct diff_tensor *t;
};

static void compare_block(struct compare *c, uint64_t from, size_t n,
			  const float *a, const float *b)
{
	struct diff_tensor *t = c->t;

	for (size_t i = 0; i < n; i++) {
		double d = fabs((double)a[i] - (double)b[i]);

		c->of += (double)a[i] * (double)a[i];
		if (same_value(a[i], b[i]))
			continue;
		c->off_a += !c->ta || !same_value(a[i], rounded(b[i], c->ta));
		c->off_b += !c->tb || !same_value(rounded(a[i], c->tb), b[i]);
		if (isnan(d))
			d = (double)INFINITY;
		c->sum += d * d;
		if (t->unequal++ == 0 || d > t->max_abs) {
			t->max_abs = d;
			t->at = from + i;
		}
	}
}

static int compare_values(struct compare *c, struct err *err)
{
	struct diff_tensor *t = c->t;
	float *x = mem_alloc(2 * BLOCK, sizeof(*x), err);

	if (!x)
		return -1;
	c->ta = half_type(c->a);
	c->tb = half_type(c->b);
	t->count = c->a->count;
	for (uint64_t i = 0; i < t->count; i += BLOCK) {
		size_t n = t->count - i < BLOCK ? (size_t)(t->count - i) :
						  BLOCK;

		values_load(c->a, i, n, x);
		values_load(c->b, i, n, x + BLOCK);
		/* the quick way for what is equal, as most things are */
		if (memcmp(x, x + BLOCK, n * sizeof(*x)))
			compare_block(c, i, n, x, x + BLOCK);
		else
			for (size_t k = 0; k < n; k++)
				c->of += (double)x[k] * (double)x[k];
	}
	free(x);
	t->rel = c->sum > 0 ? sqrt(c->sum / c->of) : 0;
	t->state = !t->unequal ? DIFF_EQUAL :
		   !c->off_a || !c->off_b ? DIFF_ROUNDED : DIFF_VALUES;
	return 0;
}

static bool same_shape(const struct values *a, const struct values *b)
{
	return a->rank == b->rank &&
	       !memcmp(a->dim, b->dim, (size_t)a->rank * sizeof(*a->dim));
}

/* Two tensors of one type, shape and order of rows: their bytes.  1: equal, 0:
 * not, -1: there is no such pair. */
static int compare_bytes(const struct run *r, const struct pair *p)
{
	const struct tensor *a = p->a->tensor, *b = p->b->tensor;
	bool same = true;

	if (!a || !b || a->type != b->type || a->rank != b->rank ||
	    a->size != b->size || a->turned != b->turned || !a->data ||
	    !b->data ||
	    memcmp(a->dim, b->dim, (size_t)a->rank * sizeof(*a->dim)))
		return -1;
	for (uint64_t i = 0; same && i < a->size; i += PIECE) {
		uint64_t n = a->size - i < PIECE ? a->size - i : PIECE;

		same = !memcmp((const char *)a->data + i,
			       (const char *)b->data + i, (size_t)n);
		model_forget(r->job->a.model, a, i, n);
		model_forget(r->job->b.model, b, i, n);
	}
	return same;
}

static bool is_fatal(const struct err *err)
{
	return err->code == ERR_RESOURCE || err->code == ERR_INTR;
}

static int unread(struct diff_tensor *t, struct err *err)
{
	if (is_fatal(err))
		return -1;
	t->state = DIFF_UNREAD;
	snprintf(t->why, sizeof(t->why), "%.*s", (int)sizeof(t->why) - 1,
		 err->msg);
	return 0;
}

static int compare_pair(const struct run *r, const struct pair *p,
			struct diff_tensor *t, struct err *err)
{
	struct values a = { .tensor = NULL }, b = a;
	struct compare c = { .a = &a, .b = &b, .t = t };
	int bytes = compare_bytes(r, p), ret;

	if (bytes == 1) {
		t->state = DIFF_EQUAL;
		return tensor_count(p->a->tensor, &t->count) ? -1 : 0;
	}
	if (values_open(r->job->a.model, p->a, &a, err) ||
	    values_open(r->job->b.model, p->b, &b, err)) {
		ret = unread(t, err);
		if (bytes == 0 && t->state == DIFF_UNREAD)
			t->state = DIFF_BYTES;
	} else if (!same_shape(&a, &b)) {
		t->state = DIFF_SHAPE;
		ret = 0;
	} else {
		ret = compare_values(&c, err);
		/* a 64-bit value that f32 does not tell apart */
		if (bytes == 0 && t->state == DIFF_EQUAL &&
		    p->a->tensor->type != DT_F16 &&
		    p->a->tensor->type != DT_BF16 &&
		    p->a->tensor->type != DT_F32)
			t->state = DIFF_BYTES;
	}
	values_close(r->job->a.model, p->a, &a);
	values_close(r->job->b.model, p->b, &b);
	return ret;
}

static int do_pair(void *ctx, uint32_t i, struct err *err)
{
	const struct run *r = ctx;
	const struct pair *p = &r->pair[i];
	struct diff_tensor *t = &r->out->tensor[i];
	const char *name = (p->a ? p->a : p->b)->name;

	t->name = mem_text(name, strlen(name), err);
	if (!t->name)
		return -1;
	stored_as(p->a, t->a);
	stored_as(p->b, t->b);
	t->linear = (p->a && p->a->layer) || (p->b && p->b->layer);
	t->state = !p->b ? DIFF_ONLY_A : DIFF_ONLY_B;
	if (!p->a || !p->b)
		return 0;
	t->stored = strcmp(t->a, t->b) != 0;
	return compare_pair(r, p, t, err);
}

static uint64_t pair_cost(void *ctx, uint32_t i)
{
	const struct run *r = ctx;
	const struct values_ref *v = r->pair[i].a ? r->pair[i].a :
						     r->pair[i].b;

	return v->layer ? (uint64_t)v->layer->spec.out * v->layer->spec.in :
			  v->tensor->size;
}

/* ---- all ---- */

static int by_name(const void *a, const void *b)
{
	return survey_order(((const struct diff_tensor *)a)->name,
			    ((const struct diff_tensor *)b)->name);
}

static void sum_up(struct diff *d)
{
	for (uint32_t i = 0; i < d->tensors; i++) {
		const struct diff_tensor *t = &d->tensor[i];

		d->states[t->state]++;
		d->stored += t->stored;
		d->differences += t->state != DIFF_EQUAL || t->stored;
	}
	d->differences += d->keys;
	if (d->tensors)
		qsort(d->tensor, d->tensors, sizeof(*d->tensor), by_name);
}

int diff_models(const struct diff_job *job, struct diff *out, struct err *err)
{
	struct run r = { .job = job, .out = out };
	struct pool pool = { .threads = job->threads, .fn = do_pair,
		.cost = pair_cost, .ctx = &r, .what = "diff",
		.progress = job->progress };
	int ret = -1;

	memset(out, 0, sizeof(*out));
	if (values_list_init(job->a.model, job->a.survey, &r.list[0], err) ||
	    values_list_init(job->b.model, job->b.survey, &r.list[1], err) ||
	    join(&r, err) || diff_configs(job, out, err))
		goto out;
	pool.count = out->tensors;
	if (pool_run(&pool, err))
		goto out;
	sum_up(out);
	ret = 0;
out:
	values_list_release(&r.list[0]);
	values_list_release(&r.list[1]);
	free(r.pair);
	if (ret)
		diff_release(out);
	return ret;
}

void diff_release(struct diff *d)
{
	for (uint32_t i = 0; i < d->tensors; i++)
		free(d->tensor[i].name);
	for (uint32_t i = 0; i < d->keys; i++) {
		free(d->key[i].key);
		free(d->key[i].a);
		free(d->key[i].b);
	}
	free(d->tensor);
	free(d->key);
	memset(d, 0, sizeof(*d));
}
