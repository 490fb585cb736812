#include "survey.h"

#include "base/err.h"
#include "base/hash.h"
#include "base/io.h"
#include "base/mem.h"
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what a module is ---- */

/* Layouts that are recognised by their tensors and have no reader. */
static const struct foreign {
	const char *has, *and_has, *name;
} foreign[] = {
	{ "weight_packed", "weight_scale", "compressed-tensors" },
	{ "q_weight", "q_scale", "exl2" },
	{ "trellis", NULL, "exl3" },
	{ "qweight", "lookup_table", "squeezellm" },
	{ "qweight", "s_channel", "qqq" },
	{ "qweight", "zeros", "gptq-for-llama" },
	{ "qweight", "qzeros", "awq" },
	{ "qweight", NULL, "unknown" },
	{ "B", "s", "marlin" },
	{ "weight", "weight_scale", "fp8" },
	{ "weight", "weight_scale_inv", "fp8" },
	{ "weight", "absmax", "bitsandbytes" },
};

static const char *foreign_layout(const struct qf_module *m)
{
	for (size_t i = 0; i < sizeof(foreign) / sizeof(*foreign); i++)
		if (qf_part(m, foreign[i].has) &&
		    (!foreign[i].and_has || qf_part(m, foreign[i].and_has)))
			return foreign[i].name;
	return NULL;
}

/* Tables of vectors are stored as linears are; only the name tells. */
static int is_linear_name(const char *name)
{
	static const char *const not[] = { "embed", "norm", "wte", "wpe",
		NULL };
	const char *last = strrchr(name, '.');

	last = last ? last + 1 : name;
	for (int i = 0; not[i]; i++)
		if (strstr(last, not[i]))
			return 0;
	return 1;
}

/* Dense: fill the shape; 1 when this is a linear. */
static int look_dense(const struct qf_module *m, struct survey_layer *l)
{
	const struct tensor *w = qf_part(m, "weight");

	if (!w || w->rank != 2 || !tensor_is_float(w->type) ||
	    !is_linear_name(m->name) || w->dim[0] > UINT32_MAX ||
	    w->dim[1] > UINT32_MAX)
		return 0;
	l->layout = "dense";
	l->spec.out = (uint32_t)w->dim[0];
	l->spec.in = (uint32_t)w->dim[1];
	l->spec.bits = (uint8_t)tensor_dtype_bits(w->type);
	return 1;
}

/* What a glance reads of a module whose file is here, beside its map. */
#define GLIMPSES 2u
#define GLIMPSE 4096u
struct glimpse {
	struct qf_module module;
	struct tensor part[QF_PARTS];
	uint8_t bytes[GLIMPSES][GLIMPSE];
};

/* The module with these bytes as data; as it is, where they do not fit. */
static const struct qf_module *glimpse(const struct model *m,
				       const struct qf_module *module,
				       struct glimpse *g)
{
	struct err ignored;
	uint32_t n = 0;

	if (!model_is_local(m) || module->count > QF_PARTS)
		return module;
	g->module = (struct qf_module) { module->name, g->part,
					 module->count };
	memcpy(g->part, module->part, module->count * sizeof(*g->part));
	for (uint32_t i = 0; i < module->count; i++) {
		struct tensor *t = &g->part[i];
		uint64_t bytes = qf_glance(t);

		if (!bytes || t->offset == TENSOR_COPIED)
			continue;
		if (n == GLIMPSES || bytes > GLIMPSE ||
		    io_peek(m->file[t->file].src, t->offset, bytes,
			    g->bytes[n], &ignored))
			return module;
		t->data = g->bytes[n++];
	}
	return &g->module;
}

static uint64_t order_of(const struct qf_module *m, bool glance)
{
	const struct tensor *t = qf_part(m, "g_idx");

	if (!t || !t->data)
		return 0;
	return hash_quick(t->data, glance ? qf_glance(t) : t->size) | 1;
}

static void look_quantized(const struct model *m, const struct qf_hint *hint,
			   bool glance, struct survey_layer *l)
{
	struct glimpse g;
	struct qf_layer q = { .hint = hint, .glance = glance,
			      .module = glance ? glimpse(m, l->module, &g) :
						 l->module };
	struct err err;

	l->order = order_of(q.module, glance);
	l->layout = l->format->name;
	if (l->format->spec(&q, &l->spec, &err)) {
		/* what is known and only not decoded keeps its sizes */
		if (err.code != ERR_UNSUP)
			memset(&l->spec, 0, sizeof(l->spec));
		l->broken = true;
		snprintf(l->why, sizeof(l->why), "%.*s",
			 (int)sizeof(l->why) - 1, err.msg);
	}
	l->odd = q.odd;
	l->table = !is_linear_name(l->module->name);
}

/* What layers are of which the config says silence, no or yes: 0 or 1 once one
 * was seen. */
struct lesson {
	bool seen[3], differ[3];
	int8_t is[3];
};

/* A model being looked at. */
struct eye {
	const struct model *m;
	bool glance;
	struct lesson sym, desc_act;
};

static void learn(struct lesson *l, int8_t said, bool is)
{
	int i = said + 1;

	l->differ[i] |= l->seen[i] && l->is[i] != is;
	if (!l->seen[i])
		l->is[i] = is;
	l->seen[i] = true;
}

/* Silence takes the first one's word, a word is held wrong only by all. */
static int8_t learnt(const struct lesson *l, int8_t said)
{
	int i = said + 1;

	return l->seen[i] && (said < 0 || !l->differ[i]) ? l->is[i] : said;
}

/* Is what a glance reads of it at hand? */
static bool is_seen(const struct qf_module *module)
{
	const struct tensor *t = qf_part(module, "qzeros");

	return !t || t->data;
}

/* Where the data is not there, layers are as those that could be seen of which
 * the config says the same. */
static void complete(const struct eye *e, const struct qf_module *module,
		     struct qf_hint *hint)
{
	if (!e->glance || is_seen(module))
		return;
	hint->sym = learnt(&e->sym, hint->sym);
	hint->desc_act = learnt(&e->desc_act, hint->desc_act);
}

static void remember(struct eye *e, const struct qf_hint *hint,
		     const struct survey_layer *l)
{
	if (l->broken || !qf_part(l->module, "qzeros") || !is_seen(l->module))
		return;
	learn(&e->sym, hint->sym, l->spec.sym);
	if (l->spec.groups > 1) /* a single group has no order */
		learn(&e->desc_act, hint->desc_act, l->spec.act_order);
}

/* *is: the module is a row of the survey. */
static int look(struct eye *e, const struct qf_module *module,
		struct survey_layer *l, bool *is, struct err *err)
{
	struct qf_hint hint;
	bool skip;

	memset(l, 0, sizeof(*l));
	l->module = module;
	l->bias = qf_part(module, "bias") != NULL;
	if (model_hint(e->m, module->name, &hint, &skip, err))
		return -1;
	l->format = qf_recognise(module, &hint);
	l->layout = l->format ? l->format->name : foreign_layout(module);
	*is = true;
	if (l->format) {
		complete(e, module, &hint);
		look_quantized(e->m, &hint, e->glance, l);
		remember(e, &hint, l);
	} else if (l->layout) {
		l->broken = true;
		snprintf(l->why, sizeof(l->why),
			 "layout %s is not read yet", l->layout);
	} else {
		*is = look_dense(module, l);
	}
	return 0;
}

int survey_order(const char *a, const char *b)
{
	while (*a && *b) {
		size_t na = strspn(a, "0123456789");
		size_t nb = strspn(b, "0123456789");
		size_t n = na && nb ? na : 1;
		int c;

		if (na && nb && na != nb)
			return na < nb ? -1 : 1;
		c = memcmp(a, b, n);
		if (c)
			return c;
		a += n;
		b += n;
	}
	return (*a != 0) - (*b != 0);
}

static int by_layer(const void *a, const void *b)
{
	const struct survey_layer *x = a, *y = b;
	int c = survey_order(x->module->name, y->module->name);

	/* the same name but for leading zeros: keep the table's order */
	return c ? c : x->module < y->module ? -1 : x->module > y->module;
}

/* ---- the sums ---- */

static uint64_t elements(const struct tensor *t)
{
	uint64_t n;

	return tensor_count(t, &n) ? 0 : n;
}

static void add_parameters(const struct model *m, struct survey *s)
{
	for (uint32_t i = 0; i < m->tensor_count; i++)
		if (tensor_is_float(m->tensor[i].type) &&
		    !strstr(m->tensor[i].name, "rotary_emb.inv_freq"))
			s->parameters += elements(&m->tensor[i]);
	/* a quantized module counts as what it decodes to */
	for (uint32_t i = 0; i < s->count; i++) {
		const struct survey_layer *l = &s->layer[i];

		if (!strcmp(l->layout, "dense"))
			continue;
		for (uint32_t k = 0; k < l->module->count; k++) {
			const struct tensor *t = &l->module->part[k];

			if (tensor_is_float(t->type) &&
			    t != qf_part(l->module, "bias"))
				s->parameters -= elements(t);
		}
		s->parameters += (uint64_t)l->spec.in * l->spec.out;
	}
}

static void add_bits(struct survey *s)
{
	double bytes = 0, weights = 0;

	for (uint32_t i = 0; i < s->count; i++) {
		const struct survey_layer *l = &s->layer[i];

		if (!l->format || !l->spec.in)
			continue;
		weights += (double)l->spec.in * l->spec.out;
		for (uint32_t k = 0; k < l->module->count; k++) {
			const struct tensor *t = &l->module->part[k];

			if (t != qf_part(l->module, "bias") &&
			    (t != qf_part(l->module, "weight") ||
			     !tensor_is_float(t->type)))
				bytes += (double)t->size;
		}
	}
	s->bits_per_weight = weights > 0 ? bytes * 8 / weights : 0;
}

/* As a config would say it.  One group per row is every size from `in` up;
 * of these the config's own word is the one to show. */
static int32_t said_group(const struct survey_layer *l, int32_t config)
{
	if (l->spec.groups > 1)
		return (int32_t)l->spec.group_size;
	return config > 0 && (uint32_t)config >= l->spec.in ? config : -1;
}

/* -1 stands for the largest size there is. */
static int32_t larger_group(int32_t a, int32_t b)
{
	return a == -1 || b == -1 ? -1 : a > b ? a : b;
}

int survey_sum(const struct model *m, struct survey *s, struct err *err)
{
	const struct survey_layer *first = NULL, *act = NULL;
	struct qf_hint hint;
	bool skip;

	s->bits = 0;
	s->group_size = 0;
	s->desc_act = s->sym = s->mixed = false;
	for (uint32_t i = 0; i < s->count; i++) {
		const struct survey_layer *l = &s->layer[i];
		int32_t gs;

		if (!l->format || !l->spec.in)
			continue;
		if (model_hint(m, l->module->name, &hint, &skip, err))
			return -1;
		gs = said_group(l, hint.group_size);
		if (!first) {
			first = l;
			s->bits = l->spec.bits;
			s->group_size = gs;
			s->sym = l->spec.sym;
		}
		s->mixed |= l->spec.bits != s->bits || gs != s->group_size ||
			    !!l->spec.sym != s->sym;
		if (l->spec.bits > s->bits)
			s->bits = l->spec.bits;
		s->group_size = larger_group(s->group_size, gs);
		s->sym &= l->spec.sym;
		/* a single group has no order */
		if (l->spec.groups < 2)
			continue;
		s->mixed |= act && act->spec.act_order != l->spec.act_order;
		s->desc_act |= l->spec.act_order;
		act = l;
	}
	return 0;
}

static void name_format(struct survey *s)
{
	s->format = "dense";
	for (uint32_t i = 0; i < s->count; i++) {
		const char *layout = s->layer[i].layout;

		s->odd |= s->layer[i].odd;
		if (!strcmp(layout, "dense"))
			continue;
		s->quantized++;
		if (s->quantized == 1)
			s->format = layout;
		else if (strcmp(s->format, layout))
			s->format = "mixed";
	}
}

#define CHUNK 64u                         /* modules read at a time */
#define GLANCE_FROM ((uint64_t)4 << 20)   /* bytes that are read in full */

/* What reading in full would read. */
static uint64_t small_bytes(const struct model *m)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < m->tensor_count; i++)
		if (qf_glance(&m->tensor[i]))
			n += m->tensor[i].size;
	return n;
}

/* Rows of the modules that can be seen, or of those that cannot. */
static int look_at(struct eye *e, bool seen, struct survey *out,
		   struct err *err)
{
	for (uint32_t i = 0; i < e->m->module_count; i++) {
		const struct qf_module *module = &e->m->module[i];
		bool is = false;

		if (seen && i % CHUNK == 0 && !e->glance) {
			model_forget_all(e->m);
			if (model_expect(e->m, i, CHUNK, err))
				return -1;
		}
		if (is_seen(module) != seen)
			continue;
		if (look(e, module, &out->layer[out->count], &is, err))
			return -1;
		out->count += is;
	}
	return 0;
}

static int survey(const struct model *m, bool glance, struct survey *out,
		  struct err *err)
{
	struct eye eye = { .m = m, .glance = glance };

	memset(out, 0, sizeof(*out));
	out->glance = glance;
	out->layer = mem_alloc(m->module_count, sizeof(*out->layer), err);
	if (!out->layer)
		return -1;
	model_scattered(m, !glance);
	if (look_at(&eye, true, out, err) || look_at(&eye, false, out, err))
		goto fail;
	model_scattered(m, false);
	if (out->count)
		qsort(out->layer, out->count, sizeof(*out->layer), by_layer);
	name_format(out);
	out->bytes = model_bytes(m);
	add_parameters(m, out);
	add_bits(out);
	if (survey_sum(m, out, err))
		goto fail;
	return 0;
fail:
	survey_release(out);
	return -1;
}

int survey_model(const struct model *m, struct survey *out, struct err *err)
{
	return survey(m, false, out, err);
}

int survey_glance(const struct model *m, struct survey *out, struct err *err)
{
	bool glance = !model_is_local(m) || small_bytes(m) > GLANCE_FROM;

	return survey(m, glance, out, err);
}

void survey_release(struct survey *s)
{
	free(s->layer);
	memset(s, 0, sizeof(*s));
}

/* ---- single layers ---- */

bool survey_owns(const struct survey_layer *l, const struct tensor *t)
{
	const char *suffix = strrchr(t->name, '.') + 1;

	if (!l->format)
		return false;
	for (uint32_t i = 0; l->format->owns[i]; i++)
		if (!strcmp(l->format->owns[i], suffix))
			return true;
	return !strcmp(suffix, "weight");
}

int survey_read(const struct model *m, const struct qf_module *module,
		struct ql *ql, struct err *err)
{
	return survey_open(m, module, ql, NULL, err);
}

int survey_open(const struct model *m, const struct qf_module *module,
		struct ql *ql, struct qf_words *words, struct err *err)
{
	struct qf_hint hint;
	struct qf_layer l = { .module = module, .hint = &hint,
			      .words = words };
	const struct qfmt *f;
	bool skip;

	memset(ql, 0, sizeof(*ql));
	if (model_hint(m, module->name, &hint, &skip, err))
		return -1;
	f = qf_recognise(module, &hint);
	if (!f)
		return err_set(err, ERR_UNSUP, "%s: no layout that is known",
			       module->name);
	return f->read(&l, ql, err);
}
