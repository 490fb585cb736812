/* Problems of tensor names: what is too much, what is missing, what is called
 * otherwise. */
#include "doctor_impl.h"

#include "base/err.h"
#include "base/json.h"
#include "llama.h"
#include "model.h"

#include <stdio.h>
#include <string.h>

/* ---- too much ---- */

static void test_prefix(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	const struct model_tidy *t = p->tidy;

	(void)r;
	if (!t->prefix)
		return;
	snprintf(f->text, sizeof(f->text), "\"%.*s\"",
		 t->prefix_len < 128 ? (int)t->prefix_len : 128, t->prefix);
	f->detail = f->text;
	f->count = p->m->tensor_count;
}

/* The row's bits are an enum model_stray. */
static void test_stray(const struct doctor_patient *p,
		       const struct doctor_row *r, struct doctor_finding *f)
{
	for (uint32_t i = 0; i < p->m->tensor_count; i++)
		if (p->tidy->stray[i] == r->bits)
			doctor_found(f, p->m->tensor[i].name);
}

/* One that is not zero is part of the values. */
static void test_bias_odd(const struct doctor_patient *p,
			  const struct doctor_row *r,
			  struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct qf_module *m = p->s->layer[i].module;
		const struct tensor *b = qf_part(m, "bias");

		if (b && model_bias_is_odd(p->m, m->name) &&
		    !p->tidy->stray[b - p->m->tensor])
			doctor_found(f, b->name);
	}
}

static void test_lora(const struct doctor_patient *p,
		      const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->m->tensor_count; i++)
		if (strstr(p->m->tensor[i].name, ".lora_A.") ||
		    strstr(p->m->tensor[i].name, ".lora_B."))
			doctor_found(f, p->m->tensor[i].name);
}

/* ---- missing ---- */

static void test_bias_missing(const struct doctor_patient *p,
			      const struct doctor_row *r,
			      struct doctor_finding *f)
{
	const struct llama_config *c = model_llama(p->m);

	(void)r;
	for (uint32_t i = 0; c && i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];
		enum llama_linear which;
		uint32_t layer;

		if (!l->bias &&
		    !llama_linear_parse(l->module->name, &layer, &which) &&
		    llama_has_bias(c, which))
			doctor_found(f, l->module->name);
	}
}

/* ---- the head ---- */

static bool has_head(const struct model *m)
{
	const struct qf_module *h = model_module(m, LLAMA_HEAD);

	return h && (qf_part(h, "weight") || h->count > 1);
}

static void test_head_tied(const struct doctor_patient *p,
			   const struct doctor_row *r,
			   struct doctor_finding *f)
{
	const struct llama_config *c = model_llama(p->m);

	(void)r;
	if (c && c->tied && has_head(p->m))
		doctor_found(f, LLAMA_HEAD);
}

/* Does config.json say whether they are tied? */
static bool says_tied(const struct model *m)
{
	const struct cJSON *t = json_find(m->config, "tie_word_embeddings");

	return t && !json_is_null(t);
}

static bool lacks_head(const struct model *m)
{
	const struct llama_config *c = model_llama(m);

	return c && !c->tied && !has_head(m) && model_find(m, LLAMA_EMBED);
}

static void test_head_silent(const struct doctor_patient *p,
			     const struct doctor_row *r,
			     struct doctor_finding *f)
{
	(void)r;
	if (lacks_head(p->m) && !says_tied(p->m))
		doctor_found(f, LLAMA_HEAD);
}

static void test_head_missing(const struct doctor_patient *p,
			      const struct doctor_row *r,
			      struct doctor_finding *f)
{
	(void)r;
	if (lacks_head(p->m) && says_tied(p->m))
		doctor_found(f, LLAMA_HEAD);
}

/* Loaders build the head as the config has it, whatever the tensors are. */
static void test_head_config(const struct doctor_patient *p,
			     const struct doctor_row *r,
			     struct doctor_finding *f)
{
	const struct config_quant *q = &p->m->quant;
	bool said = q->lm_head, skip = false;
	struct qf_hint hint;
	struct err ignored;

	(void)r;
	if (q->source != CONFIG_MODEL && q->source != CONFIG_QUANTIZE)
		return;
	if (!model_hint(p->m, LLAMA_HEAD, &hint, &skip, &ignored) && skip)
		said = false;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (strcmp(l->module->name, LLAMA_HEAD) || l->broken)
			continue;
		if (l->format ? doctor_is_gptq(l) && !said : said)
			doctor_found(f, LLAMA_HEAD);
	}
}

#define UNEXPECTED "Unexpected key(s) in state_dict: "

static const struct doctor_row rows[] = {
	/* TGI#500, #2356 */
	{ "name-prefix", DOCTOR_ERROR, test_prefix, 0, "tensors",
	  "the names have another prefix than \"model.\"",
	  DOCTOR_BUILDERS ", TGI", "Cannot load `gptq` weight, make sure the "
	  "model is already quantized", DOCTOR_FIX },
	{ "name-lora", DOCTOR_WARNING, test_lora, 0, "tensors",
	  "an adapter's tensors lie beside the weights and are not merged "
	  "with them; merge them into the dense model before it is quantized",
	  "this tool", NULL, NULL },
	/* webui#689, #1959 */
	{ "tensor-inv-freq", DOCTOR_WARNING, test_stray, MODEL_STRAY_INV_FREQ,
	  "tensors", "rotary_emb.inv_freq, which follows from the config",
	  "transformers", UNEXPECTED "\"...rotary_emb.inv_freq\"",
	  DOCTOR_FIX },
	/* TGI pull requests 1358, 2120 */
	{ "tensor-marker", DOCTOR_WARNING, test_stray, MODEL_STRAY_MARKER,
	  "tensors", "TGI's markers among the tensors say what a config "
	  "should", "transformers, AutoGPTQ", UNEXPECTED "\"gptq_bits\", ...",
	  DOCTOR_FIX },
	/* webui#689, #1959, FastChat#3520, GPTQ-for-LLaMa#287 */
	{ "bias-zero", DOCTOR_WARNING, test_stray, MODEL_STRAY_BIAS,
	  "tensors", "biases of zeros, where the architecture has none",
	  "AutoGPTQ, GPTQ-for-LLaMa", UNEXPECTED
	  "\"model.layers.0.self_attn.k_proj.bias\", ...", DOCTOR_FIX },
	{ "bias-odd", DOCTOR_WARNING, test_bias_odd, 0, "tensors",
	  "a bias that the architecture does not have, and not of zeros: "
	  "loaders that leave it out compute something else",
	  DOCTOR_BUILDERS, UNEXPECTED "\"....bias\"", NULL },
	{ "bias-missing", DOCTOR_ERROR, test_bias_missing, 0, "layers",
	  "the architecture has a bias here and the checkpoint has none; only "
	  "the original model has it",
	  DOCTOR_BUILDERS, "Some weights of the model ... were newly "
	  "initialized: [...bias]", NULL },
	/* sglang#2935, vLLM#14212, lorax#726 */
	{ "head-tied", DOCTOR_WARNING, test_head_tied, 0, NULL,
	  "config.json ties the head to the embeddings, and there is a head "
	  "all the same", "vLLM, SGLang", "KeyError: 'lm_head.weight'; There "
	  "is no module or parameter named 'lm_head'", DOCTOR_FIX },
	/* exllamav2#763 */
	{ "head-silent", DOCTOR_ERROR, test_head_silent, 0, NULL,
	  "there is no lm_head, and config.json does not say that it is tied "
	  "to the embeddings", "ExLlamaV2, vLLM",
	  "## Could not find lm_head.* in model", DOCTOR_FIX },
	{ "head-missing", DOCTOR_ERROR, test_head_missing, 0, NULL,
	  "there is no lm_head, and config.json says that it is not tied to "
	  "the embeddings; only the original model has it",
	  DOCTOR_BUILDERS ", ExLlamaV2",
	  "weight lm_head.weight does not exist", NULL },
	{ "head-config", DOCTOR_ERROR, test_head_config, 0, NULL,
	  "the config's lm_head says that the head is quantized, and it is "
	  "not, or the other way round", "transformers, GPTQModel, vLLM", NULL,
	  DOCTOR_FIX },
};

const struct doctor_table doctor_names = { rows,
					   sizeof(rows) / sizeof(*rows) };
