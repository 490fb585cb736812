#include "verdict.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a report is about: the block's slot, or the head behind all blocks. */
struct place {
	uint32_t layer;
	enum llama_linear which;
	bool head;
};

static struct place place_of(const struct gq_layer_report *r)
{
	struct place p = { 0 };

	p.head = llama_linear_parse(r->name, &p.layer, &p.which) != 0;
	return p;
}

static double error_of(const struct gq_layer_report *r)
{
	return r->r.out_error > 0 ? r->r.out_error : r->r.rel_error;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* The median error of all linears of one kind; 0: fewer than 3. */
static double median(const struct gq_layer_report *r, size_t n,
		     enum llama_linear which, double *room)
{
	size_t m = 0;

	for (size_t i = 0; i < n; i++) {
		struct place p = place_of(&r[i]);

		if (!p.head && p.which == which)
			room[m++] = error_of(&r[i]);
	}
	if (m < 3)
		return 0;
	qsort(room, m, sizeof(*room), by_value);
	return room[m / 2];
}

/* Judge one linear; false: nothing unusual. */
static bool judge(const struct gq_layer_report *r, double like,
		  struct gq_verdict *v)
{
	*v = (struct gq_verdict){ .layer = r, .error = error_of(r),
				  .like = like };
	v->odd = like > 0 && v->error > VERDICT_ODD * like;
	v->rounded = r->r.rtn_error > 0 &&
		     v->error > VERDICT_ROUNDED * r->r.rtn_error;
	if (v->rounded)
		v->worse = v->error / r->r.rtn_error;
	if (v->odd)
		v->worse = v->error / like;
	return v->odd || v->rounded;
}

/* The slot's linears as the pattern of a rule, "model\.layers\.3\.mlp\...". */
static void pattern(const struct gq_layer_report *r, char out[LLAMA_NAME])
{
	static const char *const tail[LLAMA_SLOTS] = {
		"self_attn.(q|k|v)_proj", "self_attn.o_proj",
		"mlp.(gate|up)_proj", "mlp.down_proj",
	};
	struct place p = place_of(r);
	char name[LLAMA_NAME];
	size_t n = 0;

	if (p.head)
		snprintf(name, sizeof(name), "%s", LLAMA_HEAD);
	else
		snprintf(name, sizeof(name), "model.layers.%u.%s", p.layer,
			 tail[llama_slot_of(p.which)]);
	for (const char *s = name; *s && n + 2 < LLAMA_NAME; s++) {
		if (*s == '.')
			out[n++] = '\\';
		out[n++] = *s;
	}
	out[n] = '\0';
}

/* More bits: the next number there is; 0 behind the last. */
static uint8_t more_bits(uint8_t bits)
{
	return bits == 2 ? 3 : bits == 3 ? 4 : bits == 4 ? 8 : 0;
}

/* Smaller groups where little is wrong, else more bits, else none at all. */
static void propose(struct gq_verdict *v, const struct gq_target *t,
		    const struct qfmt *format)
{
	struct gq_params p = t->params;
	char what[32] = "skip", where[LLAMA_NAME];
	struct ql_spec spec;
	struct err err;

	if (format == &qf_marlin) /* its readers know no rules */
		return;
	if (v->worse < 2 && gq_group_size(&p, t->in) > 32) {
		p.group_size = 32;
		snprintf(what, sizeof(what), "group_size=32");
	} else if (more_bits(p.bits)) {
		p.bits = more_bits(p.bits);
		snprintf(what, sizeof(what), "bits=%u", p.bits);
	}
	gq_spec(&p, t->out, t->in, &spec);
	if (format->accept(&spec, &err))
		snprintf(what, sizeof(what), "skip");
	pattern(v->layer, where);
	snprintf(v->rule, sizeof(v->rule), "%s:%s", where, what);
}

static bool same_slot(const struct gq_layer_report *a,
		      const struct gq_layer_report *b)
{
	struct place p = place_of(a), q = place_of(b);

	if (p.head || q.head)
		return p.head == q.head;
	return p.layer == q.layer &&
	       llama_slot_of(p.which) == llama_slot_of(q.which);
}

/* Add a verdict, unless one for its slot is there already that is worse. */
static void add(struct gq_verdict *all, size_t *count,
		const struct gq_verdict *v)
{
	for (size_t i = 0; i < *count; i++)
		if (same_slot(all[i].layer, v->layer)) {
			if (v->worse > all[i].worse)
				all[i] = *v;
			return;
		}
	all[(*count)++] = *v;
}

/* The worst first; in the order of the model where they are equal. */
static int by_worse(const void *a, const void *b)
{
	const struct gq_verdict *x = a, *y = b;

	if (x->worse != y->worse)
		return x->worse > y->worse ? -1 : 1;
	return x->layer < y->layer ? -1 : x->layer > y->layer;
}

int gq_verdict_make(const struct gq_layer_report *r, size_t n,
		    const struct gq_targets *ts, const struct qfmt *format,
		    struct gq_verdict **out, size_t *count, struct err *err)
{
	double like[LLAMA_LINEARS], *room = mem_alloc(n, sizeof(*room), err);
	struct gq_verdict *all = mem_alloc(n, sizeof(*all), err), v;

	*out = NULL;
	*count = 0;
	if (!room || !all) {
		free(room);
		free(all);
		return -1;
	}
	for (int k = 0; k < LLAMA_LINEARS; k++)
		like[k] = median(r, n, (enum llama_linear)k, room);
	free(room);
	for (size_t i = 0; i < n; i++) {
		struct place p = place_of(&r[i]);

		if (judge(&r[i], p.head ? 0 : like[p.which], &v))
			add(all, count, &v);
	}
	for (size_t i = 0; i < *count; i++) {
		const struct gq_target *t =
			gq_targets_find(ts, all[i].layer->name);

		if (t)
			propose(&all[i], t, format);
	}
	qsort(all, *count, sizeof(*all), by_worse);
	if (*count)
		*out = all;
	else
		free(all);
	return 0;
}
