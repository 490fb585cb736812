/* Problems of quantized layers: g_idx, zeros, scales, and layers that do not
 * go together. */
#include "doctor_impl.h"

#include "llama.h"
#include "model.h"
#include "model_fused.h"

#include <stdio.h>
#include <string.h>

/* A reader exists, and it says what is wrong. */
static void test_broken(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (!l->broken || !l->format ||
		    model_is_fused(p->m, l->module->name))
			continue;
		if (!f->count)
			f->detail = l->why;
		doctor_found(f, l->module->name);
	}
}

/* Broken only where it has three maps. */
static void test_fused(const struct doctor_patient *p,
		       const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++)
		if (model_is_fused(p->m, p->s->layer[i].module->name))
			doctor_found(f, p->s->layer[i].module->name);
}

static void test_foreign(const struct doctor_patient *p,
			 const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (!l->broken || l->format)
			continue;
		if (!f->count)
			f->detail = l->layout;
		doctor_found(f, l->module->name);
	}
}

static void test_old(const struct doctor_patient *p,
		     const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++)
		if (p->s->layer[i].format == &qf_llama &&
		    !p->s->layer[i].broken)
			doctor_found(f, p->s->layer[i].module->name);
}

/* The map is read here, and no longer by its own library. */
static void test_ct_order(const struct doctor_patient *p,
			  const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (l->format == &qf_ct && !l->broken && l->spec.act_order)
			doctor_found(f, l->module->name);
	}
}

/* v1 cannot hold every asymmetric zero, and writers differ in what they did
 * then; GPTQModel trusts its own files only. */
static void test_asym_v1(const struct doctor_patient *p,
			 const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (l->format == &qf_gptq && !l->broken && !l->spec.sym &&
		    !p->m->quant.by_gptqmodel)
			doctor_found(f, l->module->name);
	}
}

/* One byte for each, where packed words are the rule. */
static void test_unpacked(const struct doctor_patient *p,
			  const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];
		const struct tensor *z;

		if (l->format != &qf_ct || l->broken)
			continue;
		z = qf_part(l->module, "weight_zero_point");
		if (z && z->type == DT_I8)
			doctor_found(f, l->module->name);
	}
}

static void test_scales(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (l->format && !l->broken && l->spec.scale_type == r->bits)
			doctor_found(f, l->module->name);
	}
	f->hopeless = !doctor_scales_fit(p->s);
}

/* ---- layers that loaders join: q k v, and gate up ---- */

struct joined {
	uint32_t layer; /* the block */
	const struct survey_layer *first[LLAMA_SLOTS];
};

/* The first layer of l's slot and block, other than l itself; NULL. */
static const struct survey_layer *partner(struct joined *j,
					  const struct survey_layer *l)
{
	const struct survey_layer *first;
	enum llama_linear which;
	enum llama_slot slot;
	uint32_t layer;

	if (llama_linear_parse(l->module->name, &layer, &which))
		return NULL;
	if (layer != j->layer)
		memset(j, 0, sizeof(*j));
	j->layer = layer;
	slot = llama_slot_of(which);
	first = j->first[slot];
	if (!first)
		j->first[slot] = l;
	return first;
}

/* Some dense, some quantized: the row of the dense one. */
static void test_some(const struct doctor_patient *p,
		      const struct doctor_row *r, struct doctor_finding *f)
{
	struct joined j = { .layer = UINT32_MAX };

	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];
		const struct survey_layer *with = partner(&j, l);

		if (with && !l->broken && !with->broken &&
		    !l->format != !with->format)
			doctor_found(f, l->format ? with->module->name :
						    l->module->name);
	}
}

/* Wider codes and smaller groups are exact; other zeros are other weights. */
static void test_unequal(const struct doctor_patient *p,
			 const struct doctor_row *r, struct doctor_finding *f)
{
	struct joined j = { .layer = UINT32_MAX };
	bool bits = false, groups = false;

	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];
		const struct survey_layer *with = partner(&j, l);

		if (!with || !doctor_is_gptq(l) || !doctor_is_gptq(with) ||
		    (l->spec.bits == with->spec.bits &&
		     l->spec.group_size == with->spec.group_size &&
		     l->spec.sym == with->spec.sym))
			continue;
		doctor_found(f, l->module->name);
		bits |= l->spec.bits != with->spec.bits;
		groups |= l->spec.group_size != with->spec.group_size;
		f->hopeless |= l->spec.sym != with->spec.sym;
	}
	doctor_make_equal(p->s, bits, groups, f);
}

static enum dtype order_type(const struct survey_layer *l)
{
	const struct tensor *t = qf_part(l->module, "g_idx");

	return t ? t->type : DT_NONE;
}

/* Their inputs are one, so that a quantizer orders them alike. */
static void test_orders(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	struct joined j = { .layer = UINT32_MAX };

	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];
		const struct survey_layer *with = partner(&j, l);

		if (with && doctor_is_gptq(l) && doctor_is_gptq(with) &&
		    l->order && with->order && l->order != with->order &&
		    order_type(l) == order_type(with))
			doctor_found(f, l->module->name);
	}
}

/* ---- modules that no loader builds quantized ---- */

static void test_router(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++)
		if (p->s->layer[i].format &&
		    llama_is_dense(p->s->layer[i].module->name))
			doctor_found(f, p->s->layer[i].module->name);
}

#define READERS DOCTOR_BUILDERS ", ExLlamaV2"

static const struct doctor_row rows[] = {
	/* the layer as a whole */
	{ "layer-broken", DOCTOR_ERROR, test_broken, 0, "layers",
	  "a quantized layer cannot be read", READERS, NULL, NULL },
	{ "layer-fused", DOCTOR_ERROR, test_fused, 0, "layers",
	  "q, k and v in one, as AutoGPTQ's fused attention saves them, where "
	  "loaders look for three", READERS ", TGI", "Some weights of the "
	  "model ... were not used", DOCTOR_FIX },
	/* exllama#313 */
	{ "layer-foreign", DOCTOR_WARNING, test_foreign, 0, "layers",
	  "a layout that is not read here, which only the program that made "
	  "it runs", READERS ", this tool", "Unrecognized layer: ...; Unknown "
	  "quantization method: ...", NULL },
	/* GPTQ-for-LLaMa#62, #69, webui#445, alpaca_lora_4bit#25, #65 */
	{ "layer-old", DOCTOR_ERROR, test_old, 0, "layers",
	  "zeros are floats and scales lie transposed, as the first "
	  "GPTQ-for-LLaMa wrote them", READERS ", TGI",
	  "Missing key(s) in state_dict: "
	  "\"model.layers.0.self_attn.k_proj.qzeros\"; "
	  "Autograd4bitQuantLinear() does not have a parameter or a buffer "
	  "named qzeros.; size mismatch for ...scales", DOCTOR_FIX },
	{ "layer-both", DOCTOR_ERROR, doctor_test_odd, QF_ODD_BOTH, "layers",
	  "both weight and qweight are there; which is right does not show",
	  DOCTOR_BUILDERS, NULL, NULL },
	/* GPTQModel#1625 */
	{ "layer-router", DOCTOR_ERROR, test_router, 0, "layers",
	  "a quantized layer that loaders build dense",
	  "transformers, GPTQModel, vLLM",
	  "Some weights of the model checkpoint ... were not used; b_q_weight "
	  "type is not kInt", DOCTOR_FIX },
	{ "bias-length", DOCTOR_ERROR, doctor_test_odd, QF_ODD_BIAS, "layers",
	  "the bias has not one entry per output", DOCTOR_BUILDERS,
	  "size mismatch for ...bias: copying a param with shape ...", NULL },
	/* q k v, gate up */
	/* vLLM#53992, vLLM pull request 53996 */
	{ "joined-some", DOCTOR_ERROR, test_some, 0, "layers",
	  "dense beside quantized ones that loaders join with it (q, k, v, or "
	  "gate, up)", "vLLM", "Detected some but not all shards of "
	  "...qkv_proj are quantized.", DOCTOR_FIX },
	/* vLLM#53992 */
	{ "joined-unequal", DOCTOR_WARNING, test_unequal, 0, "layers",
	  "other bits, groups or zeros than the layers that loaders join with "
	  "it (q, k, v, or gate, up)", "vLLM", NULL, NULL },
	/* localGPT#740 */
	{ "joined-orders", DOCTOR_NOTE, test_orders, 0, "layers",
	  "another g_idx than the layers that loaders join with it (q, k, v, "
	  "or gate, up); they have to keep them apart, as with "
	  "inject_fused_attention=False", "AutoGPTQ, TGI",
	  "Exllama kernel does not support query/key/value fusion with "
	  "act-order.", NULL },
	/* g_idx */
	{ "gidx-act-missing", DOCTOR_ERROR, doctor_test_odd,
	  QF_ODD_GIDX_ACT_MISSING, "layers",
	  "the config says desc_act, but there is no g_idx to tell the "
	  "groups; only quantizing anew does", DOCTOR_BUILDERS ", TGI",
	  "weight ...g_idx does not exist", NULL },
	/* TGI#601 */
	{ "gidx-missing", DOCTOR_WARNING, doctor_test_odd,
	  QF_ODD_GIDX_MISSING, "layers", "there is no g_idx", "TGI",
	  "weight ...g_idx does not exist", DOCTOR_FIX },
	{ "gidx-zero", DOCTOR_WARNING, doctor_test_odd, QF_ODD_GIDX_ZERO,
	  "layers", "g_idx is all zero although there are several groups; it "
	  "is read as the plain order",
	  "transformers, AutoGPTQ, GPTQModel", NULL, DOCTOR_FIX },
	{ "gidx-uneven", DOCTOR_WARNING, doctor_test_odd, QF_ODD_GIDX_UNEVEN,
	  "layers", "g_idx makes groups of unequal size, which no quantizer "
	  "does", "ExLlamaV2, vLLM", NULL, NULL },
	{ "gidx-i64", DOCTOR_WARNING, doctor_test_odd, QF_ODD_GIDX_I64,
	  "layers", "g_idx is of 64-bit integers", "ExLlamaV2",
	  "Unknown dtype", DOCTOR_FIX },
	{ "layer-words", DOCTOR_ERROR, doctor_test_odd, QF_ODD_WORDS, "layers",
	  "codes are packed in words of 8, 16 or 64 bits, which only GPTQModel "
	  "reads", "transformers, AutoGPTQ, vLLM, ExLlamaV2, TGI", NULL,
	  DOCTOR_FIX },
	{ "layer-padded", DOCTOR_ERROR, doctor_test_odd, QF_ODD_OUTPUTS,
	  "layers", "more outputs are stored than the model has, filled up to "
	  "a multiple of 32; those behind the last one are not read",
	  "transformers, GPTQModel, vLLM, ExLlamaV2, TGI",
	  "size mismatch for ...qweight: copying a param with shape ...",
	  DOCTOR_FIX },
	/* compressed-tensors pull request 732 */
	{ "ct-spare", DOCTOR_ERROR, doctor_test_odd, QF_ODD_SPARE, "layers",
	  "codes of 3, 5, 6 or 7 bits with spare bits in every word, which "
	  "only older releases read", "compressed-tensors (from 0.18)",
	  DOCTOR_WRONG, DOCTOR_FIX },
	/* vLLM#48148, compressed-tensors pull request 840 */
	{ "ct-actorder", DOCTOR_ERROR, test_ct_order, 0, "layers",
	  "act-order, which compressed-tensors no longer has; of gptq some "
	  "loaders still take it", "compressed-tensors (from 0.19), vLLM (from "
	  "September 2026)", "actorder='group' has been removed.",
	  "--to gptq_v2" },
	/* zeros */
	/* vLLM pull request 38966 */
	{ "zeros-label", DOCTOR_ERROR, doctor_test_odd, QF_ODD_LABEL,
	  "layers", "the zeros are those of the other of gptq and gptq_v2 "
	  "than the config's checkpoint_format says", READERS, DOCTOR_WRONG,
	  DOCTOR_FIX },
	/* AutoGPTQ#640, AutoGPTQ pull request 325 */
	{ "zeros-smeared", DOCTOR_ERROR, doctor_test_odd, QF_ODD_ZERO_SMEAR,
	  "layers", "a packer's overflow has run over zeros, which are lost "
	  "without the original model", DOCTOR_BUILDERS,
	  DOCTOR_WRONG, NULL },
	/* GPTQModel pull request 2763 */
	{ "zeros-swapped", DOCTOR_ERROR, doctor_test_odd, QF_ODD_ZERO_SWAP3,
	  "layers", "the 3-bit zeros were made with swapped constants (by "
	  "GPTQModel before 7.0)", "AutoGPTQ, vLLM, ExLlamaV2",
	  DOCTOR_WRONG, DOCTOR_FIX },
	/* AutoGPTQ#640, AutoGPTQ pull request 325 */
	{ "zeros-wrapped", DOCTOR_WARNING, doctor_test_odd, QF_ODD_ZERO_WRAP,
	  "layers", "stored zeros of all ones, which readers take for 0 or "
	  "for 2^bits; gptq_v2 stores them without doubt", READERS,
	  "(it loads, and perplexity is far too high)", DOCTOR_FIX },
	{ "zeros-missing", DOCTOR_ERROR, doctor_test_odd,
	  QF_ODD_QZEROS_MISSING, "layers",
	  "there are no qzeros; symmetric ones are assumed",
	  DOCTOR_BUILDERS,
	  "Missing key(s) in state_dict: \"...qzeros\"", DOCTOR_FIX },
	/* vLLM#17862 */
	{ "zeros-unpacked", DOCTOR_ERROR, test_unpacked, 0, "layers",
	  "zero points are bytes, not packed as the codes are", "vLLM", NULL,
	  DOCTOR_FIX },
	/* GPTQModel#450, AutoGPTQ#640 */
	{ "zeros-asym-v1", DOCTOR_NOTE, test_asym_v1, 0, "layers",
	  "asymmetric zeros in the gptq layout, by another program than "
	  "GPTQModel", "GPTQModel", "Format: Loading of a sym=False model with "
	  "format=gptq is only supported if produced by gptqmodel version >= "
	  "0.9.0", "--to gptq_v2" },
	/* scales */
	{ "scales-f32", DOCTOR_NOTE, test_scales, DT_F32, "layers",
	  "scales are F32; kernels round them to half precision",
	  "vLLM, ExLlamaV2", NULL, "--dtype f16" },
	{ "scales-bf16", DOCTOR_NOTE, test_scales, DT_BF16, "layers",
	  "scales are BF16; kernels for F16 alone do not take them",
	  "vLLM", NULL, "--dtype f16" },
};

const struct doctor_table doctor_layers = { rows,
					    sizeof(rows) / sizeof(*rows) };
