#include "stats.h"

#include "base/err.h"
#include "base/half.h"
#include "base/mem.h"
#include "base/pool.h"
#include "model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- values ---- */

static uint64_t numbers(const struct stats_values *v)
{
	return v->count - v->nan - v->inf;
}

/* n times the value x; false when it is not finite. */
static bool count_in(struct stats_values *v, float x, uint64_t n)
{
	uint32_t u = half_bits(x), e = u >> 23 & 255;
	int i = (int)e - 127 - STATS_MAG_LOW;

	v->count += n;
	if (e == 255) {
		*(u & 0x7fffff ? &v->nan : &v->inf) += n;
		return false;
	}
	if (!(u << 1))
		v->zero += n;
	else
		v->mag[i < 0 ? 0 : i < STATS_MAG ? i : STATS_MAG - 1] += n;
	return true;
}

static void widen(struct stats_values *v, double lo, double hi)
{
	bool first = !numbers(v);

	v->min = first || lo < v->min ? lo : v->min;
	v->max = first || hi > v->max ? hi : v->max;
}

/* Mean and squares of two sets make those of both.
 * Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for
 * computing sample variances" (1979). */
void stats_join(struct stats_values *a, const struct stats_values *b)
{
	double na = (double)numbers(a), nb = (double)numbers(b);
	double d = b->mean - a->mean;

	if (nb > 0) {
		widen(a, b->min, b->max);
		a->mean += d * nb / (na + nb);
		a->m2 += b->m2 + d * d * na * nb / (na + nb);
	}
	a->count += b->count;
	a->nan += b->nan;
	a->inf += b->inf;
	a->zero += b->zero;
	for (int i = 0; i < STATS_MAG; i++)
		a->mag[i] += b->mag[i];
}

#define BLOCK 4096 /* values whose mean is taken before their squares */

void stats_add(struct stats_values *v, const float *x, size_t n)
{
	for (size_t from = 0; from < n; from += BLOCK) {
		size_t end = n - from < BLOCK ? n : from + BLOCK;
		struct stats_values b = { .count = 0 };
		float lo = INFINITY, hi = -INFINITY;
		double sum = 0;

		for (size_t i = from; i < end; i++) {
			if (!count_in(&b, x[i], 1))
				continue;
			lo = x[i] < lo ? x[i] : lo;
			hi = x[i] > hi ? x[i] : hi;
			sum += (double)x[i];
		}
		b.min = (double)lo;
		b.max = (double)hi;
		b.mean = numbers(&b) ? sum / (double)numbers(&b) : 0;
		for (size_t i = from; i < end; i++)
			if (isfinite(x[i])) {
				double d = (double)x[i] - b.mean;

				b.m2 += d * d;
			}
		stats_join(v, &b);
	}
}

double stats_std(const struct stats_values *v)
{
	return numbers(v) ? sqrt(v->m2 / (double)numbers(v)) : 0;
}

double stats_rms(const struct stats_values *v)
{
	return numbers(v) ? sqrt(v->m2 / (double)numbers(v) +
				v->mean * v->mean) : 0;
}

/* ---- one layer ---- */

/* Of one group of one row: how often each code is used, and what it means. */
struct cell {
	const uint64_t *count; /* [codes] */
	uint32_t codes;
	float scale, zero;
	enum ql_zero kind;
};

/* As ql_dequant_row has it: product and difference are rounded one by one. */
static float value(const struct cell *c, uint32_t code)
{
	float p;

	if (c->kind == QL_POINT)
		return c->scale * ((float)code - c->zero);
	p = c->scale * (float)code;
	return p - c->zero;
}

/* The weights of a group into `l`; true when one of them is not 0.  Equal codes
 * are equal weights, so this takes as long as there are codes. */
static bool add_cell(const struct cell *c, struct stats_layer *l)
{
	struct stats_values v = { .count = 0 };
	double sum = 0;

	for (uint32_t q = 0; q < c->codes; q++) {
		double x = (double)value(c, q);

		if (!c->count[q] || !isfinite(x))
			continue;
		widen(&v, x, x);
		v.count += c->count[q];
		sum += x * (double)c->count[q];
	}
	v.mean = v.count ? sum / (double)v.count : 0;
	v.count = 0;
	for (uint32_t q = 0; q < c->codes; q++) {
		float x = value(c, q);
		double d = (double)x - v.mean;

		if (!c->count[q])
			continue;
		l->code[q] += c->count[q];
		if (count_in(&v, x, c->count[q]))
			v.m2 += d * d * (double)c->count[q];
	}
	stats_join(&l->weight, &v);
	return v.zero < v.count;
}

/* Row n: which codes each group uses, then group by group. */
static void add_row(const struct ql *ql, uint32_t n, uint64_t *count,
		    struct stats_layer *l)
{
	const struct ql_spec *s = &ql->spec;
	const uint8_t *code = ql->code + (size_t)n * s->in;
	bool alive = false;

	memset(count, 0, STATS_SCRATCH(s) * sizeof(*count));
	for (uint32_t k = 0; k < s->in; k++)
		count[((size_t)ql->group_of[k] << s->bits) + code[k]]++;
	for (uint32_t g = 0; g < s->groups; g++) {
		size_t i = (size_t)n * s->groups + g;
		struct cell c = {
			.count = count + ((size_t)g << s->bits),
			.codes = 1u << s->bits, .kind = s->zero_kind,
			.scale = ql->scale[i], .zero = ql->zero[i]
		};
		bool live = add_cell(&c, l);

		alive |= live;
		l->dead_groups += !live;
	}
	l->dead_outputs += !alive;
}

static double entropy(const uint64_t code[256], uint64_t all)
{
	double bits = 0;

	for (int i = 0; i < 256; i++)
		if (code[i]) {
			double p = (double)code[i] / (double)all;

			bits -= p * log2(p);
		}
	return bits > 0 ? bits : 0;
}

static uint32_t unused(const struct ql *ql, uint64_t *seen)
{
	uint32_t n = 0;

	memset(seen, 0, ql->spec.groups * sizeof(*seen));
	for (uint32_t k = 0; k < ql->spec.in; k++)
		seen[ql->group_of[k]] = 1;
	for (uint32_t g = 0; g < ql->spec.groups; g++)
		n += !seen[g];
	return n;
}

void stats_of_layer(const struct ql *ql, uint64_t *scratch,
		    struct stats_layer *l)
{
	const struct ql_spec *s = &ql->spec;
	size_t grid = (size_t)s->out * s->groups;
	double rms;

	memset(l, 0, sizeof(*l));
	l->known = true;
	l->spec = *s;
	stats_add(&l->scale, ql->scale, grid);
	stats_add(&l->zero, ql->zero, grid);
	for (size_t i = 0; s->zero_kind == QL_POINT && i < grid; i++)
		if (ql->zero[i] >= 0 && ql->zero[i] <= 256)
			l->zero_code[(uint32_t)ql->zero[i]]++;
	for (uint32_t n = 0; n < s->out; n++)
		add_row(ql, n, scratch, l);
	/* a group without inputs has no weights that could be 0 */
	l->unused_groups = unused(ql, scratch);
	l->dead_groups -= (uint64_t)l->unused_groups * s->out;
	l->entropy = entropy(l->code, (uint64_t)s->out * s->in);
	rms = stats_rms(&l->weight);
	l->noise = rms > 0 ? stats_rms(&l->scale) / sqrt(12) / rms : 0;
}

/* ---- all of a checkpoint ---- */

#define PIECE (4u << 20) /* elements of a tensor that are one item */

/* A layer, or elements from..from+n of a tensor. */
struct item {
	uint32_t layer, tensor; /* index; UINT32_MAX: the other */
	uint64_t from, n;
};

struct gather {
	const struct stats_job *job;
	struct stats *out;
	struct item *item;
	struct stats_values *piece; /* [count] */
	uint32_t count;
	size_t cap;
};

/* Memory and interruption stop the work; everything else is a finding. */
static int read_layer(struct gather *g, uint32_t i, struct err *err)
{
	const struct survey_layer *s = &g->job->survey->layer[i];
	struct stats_layer *l = &g->out->layer[i];
	uint64_t *scratch = NULL;
	struct ql ql;
	int ret = -1;

	if (survey_read(g->job->model, s->module, &ql, err)) {
		snprintf(l->why, sizeof(l->why), "%.*s",
			 (int)sizeof(l->why) - 1, err->msg);
		return err->code == ERR_RESOURCE || err->code == ERR_INTR ?
			-1 : 0;
	}
	scratch = mem_alloc(STATS_SCRATCH(&ql.spec), sizeof(*scratch), err);
	if (!scratch)
		goto out;
	stats_of_layer(&ql, scratch, l);
	ret = 0;
out:
	free(scratch);
	ql_release(&ql);
	for (uint32_t k = 0; k < s->module->count; k++)
		model_forget(g->job->model, &s->module->part[k], 0,
			     s->module->part[k].size);
	return ret;
}

static int read_piece(struct gather *g, const struct item *it,
		      struct stats_values *v, struct err *err)
{
	const struct tensor *t = &g->job->model->tensor[it->tensor];
	float *x = mem_alloc(BLOCK, sizeof(*x), err);

	if (!x)
		return -1;
	for (uint64_t i = 0; i < it->n; i += BLOCK) {
		uint64_t n = it->n - i < BLOCK ? it->n - i : BLOCK;

		/* a type without values: nothing is counted */
		if (tensor_load_f32(t, it->from + i, n, x))
			break;
		stats_add(v, x, (size_t)n);
	}
	free(x);
	model_forget(g->job->model, t, it->from * tensor_dtype_bits(t->type) /
		     8, it->n * tensor_dtype_bits(t->type) / 8);
	return 0;
}

static int do_item(void *ctx, uint32_t i, struct err *err)
{
	struct gather *g = ctx;
	const struct item *it = &g->item[i];

	return it->tensor == UINT32_MAX ?
		read_layer(g, it->layer, err) :
		read_piece(g, it, &g->piece[i], err);
}

static uint64_t item_cost(void *ctx, uint32_t i)
{
	return ((const struct gather *)ctx)->item[i].n;
}

static int add_item(struct gather *g, const struct item *it, struct err *err)
{
	void *p = g->item;

	if (mem_grow(&p, &g->cap, (size_t)g->count + 1, sizeof(*it), err))
		return -1;
	g->item = p;
	g->item[g->count++] = *it;
	return 0;
}

static int add_layers(struct gather *g, bool *packed, struct err *err)
{
	const struct survey *s = g->job->survey;

	for (uint32_t i = 0; i < s->count; i++) {
		const struct survey_layer *l = &s->layer[i];
		struct item it = { .layer = i, .tensor = UINT32_MAX,
				   .n = (uint64_t)l->spec.out * l->spec.in };

		for (uint32_t k = 0; k < l->module->count; k++)
			packed[&l->module->part[k] - g->job->model->tensor] =
				survey_owns(l, &l->module->part[k]);
		if (!l->format || (g->job->layer && !g->job->layer[i]))
			continue;
		if (l->broken)
			memcpy(g->out->layer[i].why, l->why, sizeof(l->why));
		else if (add_item(g, &it, err))
			return -1;
	}
	return 0;
}

static int add_tensors(struct gather *g, const bool *packed, struct err *err)
{
	const struct model *m = g->job->model;

	for (uint32_t i = 0; i < m->tensor_count; i++) {
		struct item it = { .layer = UINT32_MAX, .tensor = i };
		uint64_t n;

		if (packed[i] || !m->tensor[i].data ||
		    (g->job->tensor && !g->job->tensor[i]) ||
		    tensor_count(&m->tensor[i], &n))
			continue;
		for (; it.from < n; it.from += PIECE) {
			it.n = n - it.from < PIECE ? n - it.from : PIECE;
			if (add_item(g, &it, err))
				return -1;
		}
	}
	return 0;
}

int stats_gather(const struct stats_job *job, struct stats *out,
		 struct err *err)
{
	const struct model *m = job->model;
	struct gather g = { .job = job, .out = out };
	struct pool pool = { .threads = job->threads, .fn = do_item,
		.cost = item_cost, .ctx = &g, .what = "stats",
		.progress = job->progress };
	bool *packed = mem_alloc(m->tensor_count, sizeof(*packed), err);
	int ret = -1;

	memset(out, 0, sizeof(*out));
	out->layer = mem_alloc(job->survey->count, sizeof(*out->layer), err);
	out->tensor = mem_alloc(m->tensor_count, sizeof(*out->tensor), err);
	if (!packed || !out->layer || !out->tensor ||
	    add_layers(&g, packed, err) || add_tensors(&g, packed, err))
		goto out;
	g.piece = mem_alloc(g.count, sizeof(*g.piece), err);
	pool.count = g.count;
	if (!g.piece || pool_run(&pool, err))
		goto out;
	for (uint32_t i = 0; i < g.count; i++)
		if (g.item[i].tensor != UINT32_MAX)
			stats_join(&out->tensor[g.item[i].tensor],
				   &g.piece[i]);
	ret = 0;
out:
	free(g.piece);
	free(g.item);
	free(packed);
	if (ret)
		stats_release(out);
	return ret;
}

void stats_release(struct stats *s)
{
	free(s->layer);
	free(s->tensor);
	memset(s, 0, sizeof(*s));
}
