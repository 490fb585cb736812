/* Problems of config.json and the quantization config. */
#include "doctor_impl.h"

#include "base/err.h"
#include "base/io.h"
#include "base/json.h"
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the homes ---- */

/* Is there a layer that readers would look for a config of?  Where the weights
 * are not here, a config says so itself. */
static bool is_quantized(const struct doctor_patient *p)
{
	return p->s->quantized > 0 || (!p->m->file_count && p->m->quant.tree);
}

static const struct cJSON *inner(const struct model *m)
{
	const struct cJSON *q = json_find(m->config, "quantization_config");

	return q && !json_is_null(q) ? q : NULL;
}

static void test_none(const struct doctor_patient *p,
		      const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	if (p->m->is_dir && !p->m->config)
		doctor_found(f, "");
}

static void test_missing(const struct doctor_patient *p,
			 const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	if (is_quantized(p) && p->m->is_dir && !inner(p->m) &&
	    !p->m->quantize)
		doctor_found(f, "");
}

static void test_missing_model(const struct doctor_patient *p,
			       const struct doctor_row *r,
			       struct doctor_finding *f)
{
	(void)r;
	if (is_quantized(p) && p->m->is_dir && p->m->config &&
	    !inner(p->m) && p->m->quantize)
		doctor_found(f, "config.json");
}

static void test_missing_quantize(const struct doctor_patient *p,
				  const struct doctor_row *r,
				  struct doctor_finding *f)
{
	(void)r;
	if (is_quantized(p) && p->m->is_dir && inner(p->m) && !p->m->quantize)
		doctor_found(f, "quantize_config.json");
}

/* A single file speaks for itself: only a remark. */
static void test_bare(const struct doctor_patient *p,
		      const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	if (is_quantized(p) && !p->m->is_dir && !inner(p->m) &&
	    !p->m->quantize)
		doctor_found(f, "");
}

static void test_disagree(const struct doctor_patient *p,
			  const struct doctor_row *r,
			  struct doctor_finding *f)
{
	(void)r;
	if (p->m->odd & MODEL_ODD_CONFIGS)
		doctor_found(f, "");
	f->detail = p->m->quant.differs;
}

/* ---- single fields ---- */

static void test_partial(const struct doctor_patient *p,
			 const struct doctor_row *r, struct doctor_finding *f)
{
	static const char *const need[] = { "bits", "group_size", "desc_act",
		"sym", NULL };
	const struct config_quant *q = &p->m->quant;

	(void)r;
	if (!is_quantized(p) || !q->tree)
		return;
	for (int i = 0; need[i]; i++) {
		bool there = i == 0 ? q->bits != 0 :
			     i == 1 ? q->group_size != 0 || q->group_zero :
			     i == 2 ? q->desc_act >= 0 :
				      q->sym >= 0;

		if (there)
			continue;
		if (!f->count)
			f->detail = need[i];
		doctor_found(f, config_source_name(q->source));
	}
}

static void test_no_method(const struct doctor_patient *p,
			   const struct doctor_row *r,
			   struct doctor_finding *f)
{
	const struct cJSON *q = inner(p->m);

	(void)r;
	if (json_is_object(q) && !json_text(json_find(q, "quant_method")))
		doctor_found(f, "config.json");
}

/* The family of a method or of a layout. */
static const char *family(const char *name)
{
	static const char *const gptq[] = { "gptq", "gptq_v2", "gptq_p",
		"gptq-for-llama", "gptq_marlin", "gptq_bitblas", "bitblas",
		NULL };

	for (int i = 0; gptq[i]; i++)
		if (!strcmp(name, gptq[i]))
			return "gptq";
	return strncmp(name, "awq", 3) ? name : "awq";
}

/* Marlin and AutoRound come from more than one method. */
/* AutoRound's configs have words of their own. */
static bool is_autoround(const char *method)
{
	return method && (!strncmp(method, "auto", 4) ||
			  !strncmp(method, "intel", 5));
}

static void test_method(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	const char *said = p->m->quant.method;

	(void)r;
	if (!said || is_autoround(said))
		return;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (!l->format || l->broken || l->format == &qf_marlin ||
		    !strcmp(family(said), family(l->format->name)))
			continue;
		if (!f->count)
			f->detail = said;
		doctor_found(f, l->module->name);
	}
}

/* Which of the gptq layouts it is, another row asks the zeros. */
static void test_format(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	const char *said = p->m->quant.format;

	(void)r;
	if (!said || is_autoround(p->m->quant.method) ||
	    !strcmp(said, qf_gptq.name) || !strcmp(said, qf_gptq_v2.name) ||
	    !strcmp(said, qf_gptq_p.name))
		return;
	for (uint32_t i = 0; i < p->s->count; i++)
		if (doctor_is_gptq(&p->s->layer[i]))
			doctor_found(f, p->s->layer[i].module->name);
	f->detail = said;
}

static void test_dense(const struct doctor_patient *p,
		       const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	if (!is_quantized(p) && p->m->tensor_count && p->m->quant.tree)
		doctor_found(f, config_source_name(p->m->quant.source));
}

static void test_group_zero(const struct doctor_patient *p,
			    const struct doctor_row *r,
			    struct doctor_finding *f)
{
	(void)r;
	if (p->m->quant.group_zero)
		doctor_found(f, config_source_name(p->m->quant.source));
}

/* The key in either home. */
static void test_key(const struct doctor_patient *p, const char *key,
		     struct doctor_finding *f)
{
	const struct cJSON *a = json_find(inner(p->m), key);
	const struct cJSON *b = json_find(p->m->quantize, key);

	if (a && !json_is_null(a))
		doctor_found(f, "config.json");
	if (b && !json_is_null(b))
		doctor_found(f, "quantize_config.json");
}

static void test_marlin_flag(const struct doctor_patient *p,
			     const struct doctor_row *r,
			     struct doctor_finding *f)
{
	(void)r;
	test_key(p, "is_marlin_format", f);
}

static void test_heights(const struct doctor_patient *p,
			 const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	test_key(p, "qweight_heights", f);
}

static void test_adapter(const struct doctor_patient *p,
			 const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	test_key(p, "adapter", f);
}

/* The name is without its ending, which may be any. */
static void test_base_name(const struct doctor_patient *p,
			   const struct doctor_row *r,
			   struct doctor_finding *f)
{
	const char *base = json_text(json_find(p->m->quant.tree,
					       "model_file_base_name"));
	size_t n = base ? strlen(base) : 0;

	(void)r;
	if (!n || !p->m->is_dir || !p->m->file_count)
		return;
	for (uint32_t i = 0; i < p->m->file_count; i++)
		if (!strncmp(p->m->file[i].name, base, n) &&
		    strchr(".-", p->m->file[i].name[n]))
			return;
	f->detail = base;
	doctor_found(f, config_source_name(p->m->quant.source));
}

/* ---- the config against the tensors ---- */

/* What no config says cannot be wrong. */
static void test_odd(const struct doctor_patient *p,
		     const struct doctor_row *r, struct doctor_finding *f)
{
	if (p->m->quant.source != CONFIG_INFERRED)
		doctor_test_odd(p, r, f);
}

static void test_second(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	if (p->m->quant.source == CONFIG_INFERRED)
		doctor_test_odd(p, r, f);
	f->detail = p->m->quant.second;
}

/* A map that no act-order makes is its own problem (gidx-uneven), not a word
 * missing in the config. */
static void test_desc_act(const struct doctor_patient *p,
			  const struct doctor_row *r,
			  struct doctor_finding *f)
{
	for (uint32_t i = 0; i < p->s->count; i++)
		if ((p->s->layer[i].odd & (r->bits | QF_ODD_GIDX_UNEVEN)) ==
		    r->bits)
			doctor_found(f, p->s->layer[i].module->name);
}

/* Zeros that are all the middle one are symmetric, whatever made them so. */
static void test_asym(const struct doctor_patient *p,
		      const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	if (p->m->quant.sym != 0 || p->m->quant.dynamic || !p->s->sym ||
	    !p->m->quant.tree)
		return;
	for (uint32_t i = 0; i < p->s->count; i++)
		if (doctor_is_gptq(&p->s->layer[i]))
			doctor_found(f, config_source_name(
						p->m->quant.source));
}

static void test_act_plain(const struct doctor_patient *p,
			   const struct doctor_row *r,
			   struct doctor_finding *f)
{
	bool gptq = false;

	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		/* where g_idx is lost, nothing can be said of it */
		if (l->odd & (QF_ODD_GIDX_MISSING | QF_ODD_GIDX_ZERO) ||
		    l->spec.act_order)
			return;
		gptq |= doctor_is_gptq(l);
	}
	if (gptq && p->m->quant.tree && p->m->quant.desc_act == 1)
		doctor_found(f, config_source_name(p->m->quant.source));
}

static void test_bf16(const struct doctor_patient *p,
		      const struct doctor_row *r, struct doctor_finding *f)
{
	const char *t = json_text(json_find(p->m->config, "torch_dtype"));

	(void)r;
	if (!t)
		t = json_text(json_find(p->m->config, "dtype"));
	if (!t || strcmp(t, "bfloat16"))
		return;
	for (uint32_t i = 0; i < p->s->count; i++)
		if (doctor_is_gptq(&p->s->layer[i])) {
			doctor_found(f, "config.json");
			break;
		}
	f->hopeless = !doctor_scales_fit(p->s);
}

static const struct doctor_row rows[] = {
	{ "config-none", DOCTOR_ERROR, test_none, 0, NULL,
	  "there is no config.json; it is the original model's and cannot be "
	  "made from weights", DOCTOR_BUILDERS ", TGI",
	  "does not appear to have a file named config.json", NULL },
	/* vLLM#13612, TGI#728, #962, #1020, #1322 */
	{ "config-missing", DOCTOR_ERROR, test_missing, 0, NULL,
	  "nothing says that the model is quantized: config.json has no "
	  "quantization_config and there is no quantize_config.json",
	  DOCTOR_BUILDERS ", TGI",
	  "Cannot find the config file for gptq; weight gptq_bits does not "
	  "exist; weight ....weight does not exist", DOCTOR_FIX },
	{ "config-missing-model", DOCTOR_ERROR, test_missing_model, 0, NULL,
	  "config.json has no quantization_config",
	  "transformers, ExLlamaV2", NULL, DOCTOR_FIX },
	/* AutoGPTQ#22, GPTQModel#1080, qa-lora#13 */
	{ "config-missing-quantize", DOCTOR_WARNING, test_missing_quantize,
	  0, NULL, "there is no quantize_config.json", "AutoGPTQ",
	  "FileNotFoundError: ... quantize_config.json", DOCTOR_FIX },
	{ "config-bare-file", DOCTOR_NOTE, test_bare, 0, NULL,
	  "no config beside the file: everything is told by the tensors",
	  "", NULL, NULL },
	{ "config-disagree", DOCTOR_ERROR, test_disagree, 0, NULL,
	  "config.json and quantize_config.json contradict each other",
	  DOCTOR_BUILDERS, NULL, DOCTOR_FIX },
	/* vLLM (the source) */
	{ "config-partial", DOCTOR_WARNING, test_partial, 0, "fields",
	  "the quantization config does not say everything", "vLLM",
	  "Cannot find any of ['...'] in the model's quantization config.",
	  DOCTOR_FIX },
	/* vLLM#1912 */
	{ "config-no-method", DOCTOR_ERROR, test_no_method, 0, NULL,
	  "quantization_config has no quant_method", "transformers, vLLM",
	  "KeyError: 'quant_method'", DOCTOR_FIX },
	/* GPTQModel#1501, #1596 */
	{ "config-method", DOCTOR_ERROR, test_method, 0, "layers",
	  "quant_method is not that of the tensors",
	  DOCTOR_BUILDERS, "Unknown quantization method: ...", DOCTOR_FIX },
	{ "config-format", DOCTOR_ERROR, test_format, 0, "layers",
	  "checkpoint_format is not that of the tensors",
	  "transformers, GPTQModel, vLLM", NULL, DOCTOR_FIX },
	{ "config-dense", DOCTOR_ERROR, test_dense, 0, NULL,
	  "there is a quantization config, but no layer is quantized",
	  DOCTOR_BUILDERS, "Cannot load `gptq` weight, make sure the model is "
	  "already quantized", DOCTOR_FIX },
	{ "config-group-zero", DOCTOR_ERROR, test_group_zero, 0, NULL,
	  "the config says group_size 0, which is no size",
	  "transformers, GPTQModel",
	  "group_size must be greater than 0 or equal to -1", DOCTOR_FIX },
	/* GPTQModel (the source) */
	{ "config-marlin-flag", DOCTOR_ERROR, test_marlin_flag, 0, NULL,
	  "the config has is_marlin_format, which checkpoint_format has "
	  "replaced", "GPTQModel",
	  "QuantizeConfig: `is_marlin_format` has been removed. (or: is no "
	  "longer supported.)", DOCTOR_FIX },
	/* SliM-LLM#9, GPTQModel#820 */
	{ "config-heights", DOCTOR_ERROR, test_heights, 0, NULL,
	  "bits differ inside of layers (qweight_heights, by SliM-LLM); no "
	  "GPTQ layout holds that, only quantizing anew helps",
	  DOCTOR_BUILDERS ", this tool", DOCTOR_SHAPE, NULL },
	{ "config-adapter", DOCTOR_WARNING, test_adapter, 0, NULL,
	  "the config names an adapter, which changes what the weights "
	  "compute and is not read here", "this tool", NULL, NULL },
	/* AutoGPTQ#133, localGPT#510 */
	{ "config-base-name", DOCTOR_WARNING, test_base_name, 0, NULL,
	  "model_file_base_name is not the name of the weight file",
	  "AutoGPTQ", "FileNotFoundError: Could not find model in ...",
	  DOCTOR_FIX },
	/* AutoGPTQ#754 */
	{ "config-bits", DOCTOR_ERROR, test_odd, QF_ODD_BITS, "layers",
	  "the config's bits are not those of the tensors", DOCTOR_BUILDERS,
	  DOCTOR_SHAPE, DOCTOR_FIX },
	/* webui#541 */
	{ "config-group-size", DOCTOR_ERROR, test_odd, QF_ODD_GROUP,
	  "layers", "the config's group_size is not that of the tensors",
	  DOCTOR_BUILDERS, "size mismatch for ...qzeros: copying a param with "
	  "shape ... from checkpoint", DOCTOR_FIX },
	{ "config-hints", DOCTOR_WARNING, test_second,
	  QF_ODD_BITS | QF_ODD_GROUP, "layers",
	  "without a config, what else there is contradicts the tensors",
	  "programs that go by names",
	  "size mismatch for ...qzeros: copying a param with shape ... from "
	  "checkpoint", DOCTOR_FIX },
	{ "config-desc-act", DOCTOR_ERROR, test_desc_act, QF_ODD_ACT, "layers",
	  "the config says desc_act false, but g_idx is scattered", "vLLM",
	  NULL, DOCTOR_FIX },
	{ "config-sym", DOCTOR_ERROR, doctor_test_odd, QF_ODD_SYM, "layers",
	  "the config says sym, but the zeros are not all the middle one",
	  "vLLM", NULL, DOCTOR_FIX },
	/* vLLM (the source) */
	{ "config-asym", DOCTOR_NOTE, test_asym, 0, NULL,
	  "the config says sym false, but all zeros are the middle one",
	  "vLLM (its Marlin kernels), GPTQModel",
	  "Unsupported quantization config: bits=..., sym=...", DOCTOR_FIX },
	/* AutoGPTQ#253, exllama#244 */
	{ "config-act-plain", DOCTOR_NOTE, test_act_plain, 0, NULL,
	  "the config says desc_act, but every g_idx is in plain order; "
	  "loaders prepare for an order that is not there",
	  "ExLlama", "The temp_state buffer is too small in the exllama "
	  "backend for GPTQ with act-order.", DOCTOR_FIX },
	/* vLLM#12794, LLaMA-Factory#3674, #4677 */
	{ "config-bf16", DOCTOR_NOTE, test_bf16, 0, NULL,
	  "config.json says bfloat16, which kernels for F16 alone refuse",
	  "vLLM (without its Marlin kernels)", "torch.bfloat16 is not "
	  "supported for quantization method gptq. Supported dtypes: "
	  "[torch.float16]", "--dtype f16" },
};

const struct doctor_table doctor_configs = { rows,
					     sizeof(rows) / sizeof(*rows) };
