/* gptq-inspect --kernels: what would run each linear on this machine.
 *
 * Nothing is assumed: every kernel is opened, and of each kind of linear
 * (layout, bits, groups) one is prepared for each of them. */
#include "inspect.h"

#include "../kernels/backend.h"
#include "../libfmt/base/mem.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#define TRIES 8     /* kernels and devices */
#define MANY 512    /* rows of a prompt, against one of decoding */

struct try {
	const char *device, *kernel; /* kernel NULL: the device's own */
	const struct be_api *api;
	struct be *be;               /* NULL: not usable, and `why` */
	bool asked;                  /* --device lets it be chosen */
	char why[256];
};

/* Linears that are alike to a kernel. */
struct kind {
	const struct survey_layer *one; /* its smallest */
	uint32_t count;
	struct {
		char one[32], many[32]; /* names of kernels; "": cannot */
		char why[256];
	} on[TRIES];
	int chosen;                     /* of `on`; -1: none */
};

struct inspect_kernels {
	struct try try[TRIES];
	uint32_t tries;
	struct kind *kind;
	uint32_t kinds;
	uint32_t *kind_of; /* [survey.count] */
};

/* ---- devices ---- */

static void add_try(struct inspect_kernels *k, const struct call *c,
		    const char *device, const char *kernel)
{
	const char *want = c->opt->common.device;
	struct try *t = &k->try[k->tries++];
	struct err why = { 0, "" };
	const char *text = why.msg;

	t->device = device;
	t->kernel = kernel;
	t->asked = !strcmp(want, "auto") || !strcmp(want, device);
	if (be_select(device, c->threads, kernel, &t->api, &t->be, NULL,
		      &why)) {
		t->be = NULL;
		/* the row says which device it is about */
		if (!strncmp(text, "device ", 7) && strstr(text, ": "))
			text = strstr(text, ": ") + 2;
		snprintf(t->why, sizeof(t->why), "%.*s",
			 (int)sizeof(t->why) - 1, text);
	}
}

/* The fastest first, as "auto" would look for them. */
static void open_all(struct inspect_kernels *k, const struct call *c)
{
	const char *want = c->opt->common.device, *name;

	add_try(k, c, !strncmp(want, "cuda", 4) ? want : "cuda", NULL);
	for (uint32_t i = 0; k->tries < TRIES - 1 &&
	     (name = be_cpu_kernel(i)); i++)
		add_try(k, c, "cpu", name);
	if (!strcmp(want, "ref"))
		add_try(k, c, "ref", NULL);
}

/* ---- linears ---- */

static bool alike(const struct survey_layer *a, const struct survey_layer *b)
{
	const struct ql_spec *x = &a->spec, *y = &b->spec;

	if (a->format != b->format || a->broken || b->broken)
		return false;
	if (!a->format) /* bits are of the element */
		return qf_part(a->module, "weight")->type ==
		       qf_part(b->module, "weight")->type;
	return x->bits == y->bits && x->zero_kind == y->zero_kind &&
	       x->act_order == y->act_order && x->sym == y->sym &&
	       x->scale_type == y->scale_type &&
	       (x->groups == 1) == (y->groups == 1) &&
	       (x->groups == 1 || x->group_size == y->group_size);
}

static uint64_t weights_of(const struct survey_layer *l)
{
	return (uint64_t)l->spec.in * l->spec.out;
}

/* Any of a kind will do to try: the smallest is the quickest to have. */
static int sort_kinds(struct inspect_kernels *k, const struct inspect *r,
		      struct err *err)
{
	const struct survey *s = &r->survey;

	k->kind = mem_alloc(s->count, sizeof(*k->kind), err);
	k->kind_of = mem_alloc(s->count, sizeof(*k->kind_of), err);
	if (!k->kind || !k->kind_of)
		return -1;
	for (uint32_t i = 0; i < s->count; i++) {
		uint32_t at = 0;

		if (!r->show_layer[i])
			continue;
		while (at < k->kinds &&
		       !alike(k->kind[at].one, &s->layer[i]))
			at++;
		if (at == k->kinds)
			k->kind[k->kinds++].one = &s->layer[i];
		else if (weights_of(&s->layer[i]) <
			 weights_of(k->kind[at].one))
			k->kind[at].one = &s->layer[i];
		k->kind[at].count++;
		k->kind_of[i] = at;
	}
	return 0;
}

/* Memory and interruption stop everything; all else is the answer. */
static int try_quantized(struct try *t, const struct ql *ql,
			 struct kind *kind, uint32_t i, struct err *err)
{
	struct be_qw *w = NULL;
	struct err why;

	if (t->api->qw_new(t->be, ql, &w, &why)) {
		if (why.code == ERR_INTR)
			*err = why;
		snprintf(kind->on[i].why, sizeof(kind->on[i].why), "%.*s",
			 (int)sizeof(kind->on[i].why) - 1, why.msg);
		return why.code == ERR_INTR ? -1 : 0;
	}
	snprintf(kind->on[i].one, sizeof(kind->on[i].one), "%s",
		 t->api->qw_kernel(t->be, w, 1));
	snprintf(kind->on[i].many, sizeof(kind->on[i].many), "%s",
		 t->api->qw_kernel(t->be, w, MANY));
	t->api->qw_free(t->be, w);
	return 0;
}

/* A dense weight goes through the device's product of its type. */
static void try_dense(const struct survey_layer *l, struct kind *kind,
		      uint32_t i)
{
	enum dtype t = qf_part(l->module, "weight")->type;
	const char *name = t == DT_F16 ? "f16" : t == DT_BF16 ? "bf16" :
			   "f32";

	snprintf(kind->on[i].one, sizeof(kind->on[i].one), "%s", name);
	snprintf(kind->on[i].many, sizeof(kind->on[i].many), "%s", name);
}

static int try_kind(struct inspect *r, struct kind *kind, struct err *err)
{
	struct inspect_kernels *k = r->kernels;
	const struct survey_layer *l = kind->one;
	struct ql ql = { .mem = NULL };
	struct err why = { 0, "" };
	int ret = -1;

	kind->chosen = -1;
	if (l->broken)
		err_set(&why, ERR_UNSUP, "%s", l->why);
	else if (l->format && !survey_read(r->model, l->module, &ql, &why))
		ql_check(&ql, &why);
	for (uint32_t i = 0; i < k->tries; i++) {
		if (!k->try[i].be)
			memcpy(kind->on[i].why, k->try[i].why,
			       sizeof(kind->on[i].why));
		else if (why.code)
			snprintf(kind->on[i].why, sizeof(kind->on[i].why),
				 "%.*s", (int)sizeof(kind->on[i].why) - 1,
				 why.msg);
		else if (!l->format)
			try_dense(l, kind, i);
		else if (try_quantized(&k->try[i], &ql, kind, i, err))
			goto out;
		if (kind->chosen < 0 && k->try[i].asked && *kind->on[i].one)
			kind->chosen = (int)i;
	}
	ret = 0;
out:
	ql_release(&ql);
	return ret;
}

/* The linears that will be tried, when the model is on a server. */
static int fetch_kinds(struct inspect *r, struct err *err)
{
	const struct inspect_kernels *k = r->kernels;
	struct model *m = r->model;
	bool *want;
	int ret;

	if (model_is_local(m))
		return 0;
	want = mem_alloc(m->tensor_count, sizeof(*want), err);
	if (!want)
		return -1;
	for (uint32_t i = 0; i < k->kinds; i++) {
		const struct survey_layer *l = k->kind[i].one;

		for (uint32_t n = 0; l->format && n < l->module->count; n++)
			want[&l->module->part[n] - m->tensor] = true;
	}
	ret = model_fetch(m, want, err);
	free(want);
	return ret;
}

int inspect_kernels_gather(struct inspect *r, const struct call *c,
			   struct err *err)
{
	struct inspect_kernels *k = mem_alloc(1, sizeof(*k), err);

	r->kernels = k;
	if (!k || sort_kinds(k, r, err) || fetch_kinds(r, err))
		return -1;
	open_all(k, c);
	for (uint32_t i = 0; i < k->kinds; i++)
		if (try_kind(r, &k->kind[i], err) ||
		    prog_step(&r->ui->progress, "kernels", i + 1, k->kinds,
			      err))
			return -1;
	return 0;
}

void inspect_kernels_free(struct inspect_kernels *k)
{
	if (!k)
		return;
	for (uint32_t i = 0; i < k->tries; i++)
		if (k->try[i].be)
			k->try[i].api->close(k->try[i].be);
	free(k->kind);
	free(k->kind_of);
	free(k);
}

/* ---- text ---- */

static const char *kind_text(const struct survey_layer *l, char buf[96])
{
	const struct ql_spec *s = &l->spec;

	if (l->broken)
		snprintf(buf, 96, "%s", l->layout);
	else if (!l->format)
		snprintf(buf, 96, "dense %s", tensor_dtype_name(
			 qf_part(l->module, "weight")->type));
	else if (s->groups == 1)
		snprintf(buf, 96, "%s %u bits, %ssymmetric, a group per row",
			 l->format->name, s->bits, s->sym ? "" : "a");
	else
		snprintf(buf, 96, "%s %u bits, %ssymmetric, groups of %u%s",
			 l->format->name, s->bits, s->sym ? "" : "a",
			 s->group_size, s->act_order ? ", act-order" : "");
	return buf;
}

static const char *try_text(const struct try *t, char buf[64])
{
	snprintf(buf, 64, "%s%s%s", t->device, t->kernel ? " " : "",
		 t->kernel ? t->kernel : "");
	return buf;
}

/* One kind: every kernel, the chosen one marked, the others with a reason. */
static void show_kind(const struct inspect *r, const struct kind *kind)
{
	const struct inspect_kernels *k = r->kernels;
	char text[96], name[64];
	FILE *f = r->out;

	fprintf(f, "%s%u linear%s%s  %s\n", ui_paint(r->ui, f, UI_BOLD),
		kind->count, ui_plural(kind->count),
		ui_paint(r->ui, f, UI_OFF), kind_text(kind->one, text));
	for (uint32_t i = 0; i < k->tries; i++) {
		bool runs = *kind->on[i].one, is = (int)i == kind->chosen;

		fprintf(f, "  %s%-12s %-9s%s ",
			ui_paint(r->ui, f, is ? UI_GREEN : UI_DIM),
			try_text(&k->try[i], name),
			is ? "chosen" : runs ? "could" : "cannot",
			ui_paint(r->ui, f, UI_OFF));
		if (!runs)
			fprintf(f, "%s\n", kind->on[i].why);
		else
			fprintf(f, "%s%s%s%s\n", kind->on[i].one,
				strcmp(kind->on[i].one, kind->on[i].many) ?
				"; prompts: " : "",
				strcmp(kind->on[i].one, kind->on[i].many) ?
				kind->on[i].many : "",
				k->try[i].asked ? "" : " (not asked for)");
	}
}

int inspect_kernels_show(const struct inspect *r, struct err *err)
{
	(void)err;
	for (uint32_t i = 0; i < r->kernels->kinds; i++) {
		if (i)
			fputc('\n', r->out);
		show_kind(r, &r->kernels->kind[i]);
	}
	if (!r->kernels->kinds)
		fprintf(r->out, "no linears\n");
	return 0;
}

/* ---- JSON ---- */

static void json_kind(struct cJSON *list, const struct inspect *r,
		      uint32_t at)
{
	const struct inspect_kernels *k = r->kernels;
	const struct kind *kind = &k->kind[at];
	struct cJSON *j = cJSON_CreateObject(), *tries, *names, *t;
	char text[96];

	cJSON_AddItemToArray(list, j);
	ui_json_text(j, "kind", kind_text(kind->one, text));
	names = cJSON_AddArrayToObject(j, "layers");
	for (uint32_t i = 0; i < r->survey.count; i++) {
		const char *name = r->survey.layer[i].module->name;

		if (k->kind_of[i] == at && r->show_layer[i])
			cJSON_AddItemToArray(names, ui_json_string(name,
						     strlen(name)));
	}
	tries = cJSON_AddArrayToObject(j, "kernels");
	for (uint32_t i = 0; i < k->tries; i++) {
		bool runs = *kind->on[i].one;

		t = cJSON_CreateObject();
		cJSON_AddItemToArray(tries, t);
		ui_json_text(t, "device", k->try[i].device);
		ui_json_text(t, "set", k->try[i].kernel);
		cJSON_AddBoolToObject(t, "usable", runs);
		cJSON_AddBoolToObject(t, "chosen", (int)i == kind->chosen);
		ui_json_text(t, "decode", runs ? kind->on[i].one : NULL);
		ui_json_text(t, "prefill", runs ? kind->on[i].many : NULL);
		ui_json_text(t, "why", runs ? NULL : kind->on[i].why);
	}
}

void inspect_kernels_json(struct cJSON *top, const struct inspect *r)
{
	struct cJSON *list = cJSON_AddArrayToObject(top, "kernels");

	for (uint32_t i = 0; i < r->kernels->kinds; i++)
		json_kind(list, r, i);
}
