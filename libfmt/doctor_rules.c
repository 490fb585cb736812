/* Problems of what a config says of single layers: which are quantized, and
 * which are so otherwise than the rest. */
#include "doctor_impl.h"

#include "base/json.h"
#include "llama.h"
#include "model.h"

#include <string.h>

/* ---- which layers are quantized ---- */

/* modules_in_block_to_quantize is a list of names, or of lists of them; a
 * module is meant where one is part of its name. */
static bool is_listed(const struct cJSON *list, const char *module)
{
	for (const struct cJSON *e = json_first(list); e; e = json_next(e)) {
		if (json_text(e) && strstr(module, json_text(e)))
			return true;
		for (const struct cJSON *s = json_is_array(e) ?
						     json_first(e) : NULL;
		     s; s = json_next(s))
			if (json_text(s) && strstr(module, json_text(s)))
				return true;
	}
	return false;
}

static void test_modules(const struct doctor_patient *p,
			 const struct doctor_row *r, struct doctor_finding *f)
{
	const struct cJSON *list = json_find(p->m->quant.tree,
					     "modules_in_block_to_quantize");

	(void)r;
	for (uint32_t i = 0; json_count(list) && i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		/* the head stands outside of the blocks */
		if (strstr(l->module->name, "layers.") &&
		    is_listed(list, l->module->name) != (l->format != NULL))
			doctor_found(f, l->module->name);
	}
}

static bool has_gptq(const struct survey *s)
{
	for (uint32_t i = 0; i < s->count; i++)
		if (doctor_is_gptq(&s->layer[i]))
			return true;
	return false;
}

/* Loaders build every linear of a block quantized, unless they are told. */
static void test_dense(const struct doctor_patient *p,
		       const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	if (!has_gptq(p->s) || !p->m->quant.tree)
		return;
	for (uint32_t i = 0; i < p->s->count; i++)
		if (survey_dense_unsaid(p->m, &p->s->layer[i]))
			doctor_found(f, p->s->layer[i].module->name);
}

/* ---- layers that are otherwise ---- */

/* Of the layers with several groups; one per row goes with any size that is
 * not smaller. */
static const struct survey_layer *first_grouped(const struct survey *s)
{
	const struct survey_layer *first = NULL;

	for (uint32_t i = 0; i < s->count; i++) {
		const struct survey_layer *l = &s->layer[i];

		if (doctor_is_gptq(l) && (!first || (first->spec.groups < 2 &&
						     l->spec.groups > 1)))
			first = l;
	}
	return first;
}

static void test_dynamic(const struct doctor_patient *p,
			 const struct doctor_row *r, struct doctor_finding *f)
{
	const struct survey_layer *first = first_grouped(p->s);
	bool bits = false, groups = false;

	(void)r;
	for (uint32_t i = 0; first && i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (!doctor_is_gptq(l) ||
		    (l->spec.bits == first->spec.bits &&
		     !doctor_groups_differ(first, l)))
			continue;
		doctor_found(f, l->module->name);
		bits |= l->spec.bits != first->spec.bits;
		groups |= doctor_groups_differ(first, l);
	}
	doctor_make_equal(p->s, bits, groups, f);
}

/* Loaders that run q k v, or gate and up, as one look a rule up by the name of
 * the whole, which a rule for the parts does not match. */
static void test_fused(const struct doctor_patient *p,
		       const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; has_gptq(p->s) && i < p->s->count; i++)
		if (survey_fused_missed(p->m, p->s, &p->s->layer[i]))
			doctor_found(f, p->s->layer[i].module->name);
}

static const struct doctor_row rows[] = {
	/* vLLM#53992, vLLM pull request 53996 */
	{ "config-modules", DOCTOR_ERROR, test_modules, 0, "layers",
	  "modules_in_block_to_quantize does not list the layers that are "
	  "quantized", "vLLM, transformers", "Detected some but not all "
	  "shards of ... are quantized.", DOCTOR_FIX },
	/* vLLM pull request 25455, TGI#500, #2356 */
	{ "config-unlisted", DOCTOR_ERROR, test_dense, 0, "layers",
	  "dense among quantized ones, and the config does not say so (by "
	  "dynamic or modules_in_block_to_quantize)",
	  "transformers, GPTQModel, AutoGPTQ, TGI",
	  "Cannot load `gptq` weight, make sure the model is already "
	  "quantized; Some weights of the model checkpoint ... were not used",
	  DOCTOR_FIX },
	/* AutoGPTQ#754, GPTQModel#820 */
	{ "config-dynamic", DOCTOR_NOTE, test_dynamic, 0, "layers",
	  "layers of different widths or groups, which need a reader of "
	  "dynamic rules",
	  "AutoGPTQ, transformers (without GPTQModel), ExLlama",
	  DOCTOR_SHAPE, NULL },
	/* vLLM#15665, vLLM pull request 50214 */
	{ "config-dynamic-parts", DOCTOR_WARNING, test_fused, 0, "layers",
	  "a dynamic rule names q, k, v or gate, up and not what loaders make "
	  "of them (qkv_proj, gate_up_proj)", "vLLM", NULL, DOCTOR_FIX },
};

const struct doctor_table doctor_rules = { rows,
					   sizeof(rows) / sizeof(*rows) };
