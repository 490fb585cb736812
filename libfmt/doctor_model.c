/* Whether the tensors are those that config.json makes loaders look for. */
#include "doctor_impl.h"

#include "base/err.h"
#include "base/json.h"
#include "llama.h"
#include "model.h"
#include "model_fused.h"
#include "model_tidy.h"

#include <stdio.h>
#include <string.h>

/* The config to hold the tensors against; NULL where they have another fault
 * that hides this one: other names, layers that cannot be read or that are
 * fused, no blocks. */
static const struct llama_config *expected(const struct doctor_patient *p)
{
	const struct llama_config *c = model_llama(p->m);
	enum llama_linear which;
	bool blocks = false;
	uint32_t block;

	if (!c || p->tidy->prefix)
		return NULL;
	for (uint32_t i = 0; i < p->s->count; i++) {
		if (p->s->layer[i].broken ||
		    model_is_fused(p->m, p->s->layer[i].module->name))
			return NULL;
		blocks |= !llama_linear_parse(p->s->layer[i].module->name,
					      &block, &which);
	}
	return blocks ? c : NULL;
}

static void test_unreadable(const struct doctor_patient *p,
			    const struct doctor_row *r,
			    struct doctor_finding *f)
{
	const struct cJSON *j = p->m->config;
	static const char home[] = "config.json: ";
	struct llama_config c;
	struct err why;
	const char *says = why.msg;

	(void)r;
	/* an architecture that we do not know may have other keys */
	if (!j || !p->m->file_count ||
	    (!json_text(json_first(json_find(j, "architectures"))) &&
	     !json_text(json_find(j, "model_type"))) ||
	    !llama_config_read(j, NULL, &c, &why) || why.code != ERR_INPUT)
		return;
	if (!strncmp(says, home, sizeof(home) - 1))
		says += sizeof(home) - 1;
	snprintf(f->text, sizeof(f->text), "%.*s",
		 (int)sizeof(f->text) - 1, says);
	f->detail = f->text;
	doctor_found(f, "config.json");
}

/* ---- what is there ---- */

static void need(bool there, const char *name, struct doctor_finding *f)
{
	if (there)
		return;
	if (!f->count) {
		snprintf(f->text, sizeof(f->text), "%.*s",
			 (int)sizeof(f->text) - 1, name);
		f->where = f->text;
	}
	f->count++;
}

static void test_missing(const struct doctor_patient *p,
			 const struct doctor_row *r, struct doctor_finding *f)
{
	const struct llama_config *c = expected(p);
	const struct model *m = p->m;
	char name[LLAMA_NAME];

	(void)r;
	/* a shard that is looked at alone has a part of them */
	if (!c || (!m->is_dir && strstr(m->file[0].name, "-of-")))
		return;
	need(model_module(m, LLAMA_TABLE), LLAMA_TABLE, f);
	for (uint32_t b = 0; b < c->layers; b++) {
		for (int i = 0; i < (c->qk_norm ? 4 : 2); i++) {
			llama_norm_name(b, (enum llama_norm)i, name);
			need(model_find(m, name), name, f);
		}
		for (int i = 0; i < LLAMA_LINEARS; i++) {
			llama_linear_name(b, (enum llama_linear)i, name);
			need(model_module(m, name), name, f);
		}
	}
	need(model_find(m, LLAMA_FINAL_NORM), LLAMA_FINAL_NORM, f);
}

static void test_beyond(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	const struct llama_config *c = expected(p);
	enum llama_linear which;
	uint32_t block;

	(void)r;
	for (uint32_t i = 0; c && i < p->s->count; i++) {
		const char *name = p->s->layer[i].module->name;

		if (!llama_linear_parse(name, &block, &which) &&
		    block >= c->layers)
			doctor_found(f, name);
	}
}

/* ---- sizes ---- */

static void compare(const char *name, const uint64_t is[2],
		    const uint32_t want[2], struct doctor_finding *f)
{
	if (is[0] == want[0] && is[1] == want[1])
		return;
	if (!f->count) {
		snprintf(f->text, sizeof(f->text), "[%llu, %llu], expected "
			 "[%u, %u]", (unsigned long long)is[0],
			 (unsigned long long)is[1], want[0], want[1]);
		f->detail = f->text;
	}
	doctor_found(f, name);
}

static void test_sizes(const struct doctor_patient *p,
		       const struct doctor_row *r, struct doctor_finding *f)
{
	const struct llama_config *c = expected(p);
	const struct tensor *t;
	uint32_t block, want[2];

	(void)r;
	if (!c)
		return;
	t = model_find(p->m, LLAMA_EMBED);
	want[0] = c->vocab;
	want[1] = c->hidden;
	if (t && t->rank == 2)
		compare(t->name, t->dim, want, f);
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];
		const uint64_t is[2] = { l->spec.out, l->spec.in };
		enum llama_linear which;

		want[0] = c->vocab;
		want[1] = c->hidden;
		if (!llama_linear_parse(l->module->name, &block, &which))
			llama_linear_shape(c, which, &want[1], &want[0]);
		else if (strcmp(l->module->name, LLAMA_HEAD))
			continue;
		compare(l->module->name, is, want, f);
	}
}

static const struct doctor_row rows[] = {
	{ "config-model", DOCTOR_ERROR, test_unreadable, 0, NULL,
	  "no model can be built from it",
	  DOCTOR_BUILDERS, NULL, NULL },
	{ "config-sizes", DOCTOR_ERROR, test_sizes, 0, "tensors",
	  "another shape than config.json says; it is of another model, or was "
	  "changed", DOCTOR_BUILDERS, "size mismatch for ...: copying a param "
	  "with shape ... from checkpoint, the shape in current model is ...; "
	  "Trying to set a tensor of shape ...", NULL },
	{ "tensor-missing", DOCTOR_ERROR, test_missing, 0, "tensors",
	  "config.json asks for it and it is not there; only the original "
	  "model has it", DOCTOR_BUILDERS ", ExLlamaV2", "Some weights of the "
	  "model ... were newly initialized; KeyError", NULL },
	{ "tensor-beyond", DOCTOR_ERROR, test_beyond, 0, "layers",
	  "a block beyond those that config.json counts: it is left out, and "
	  "another model is computed", DOCTOR_BUILDERS, "Some weights of the "
	  "model checkpoint ... were not used; KeyError", NULL },
};

const struct doctor_table doctor_model = { rows,
					   sizeof(rows) / sizeof(*rows) };
