/* What is sound, but not for every kernel: limits on bits, groups and sizes.
 * All of these are notes; the remedies change sizes and are exact. */
#include "doctor_impl.h"

#include "base/err.h"
#include "llama.h"
#include "model.h"

#include <string.h>

/* Kernels for 4 bits alone are the most common ones. */
static void test_narrow(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++)
		if (doctor_is_gptq(&p->s->layer[i]) &&
		    p->s->layer[i].spec.bits < 4)
			doctor_found(f, p->s->layer[i].module->name);
	f->number = doctor_common_bits(p->s);
}

static void test_wide(const struct doctor_patient *p,
		      const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++)
		if (doctor_is_gptq(&p->s->layer[i]) &&
		    p->s->layer[i].spec.bits > 4)
			doctor_found(f, p->s->layer[i].module->name);
}

static void test_ragged(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (doctor_is_gptq(l) && l->spec.groups > 1 &&
		    l->spec.in % l->spec.group_size)
			doctor_found(f, l->module->name);
	}
	f->number = doctor_group_divisor(p->s);
	f->hopeless = f->number < 8;
}

/* Sizes that kernels of the Marlin family take, beside one per row. */
static void test_groups(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	uint32_t d = doctor_group_divisor(p->s);

	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];
		uint32_t gs = l->spec.group_size;

		if (doctor_is_gptq(l) && l->spec.groups > 1 &&
		    l->spec.in % gs == 0 && gs != 32 && gs != 64 && gs != 128)
			doctor_found(f, l->module->name);
	}
	f->number = d % 128 == 0 ? 128 : d % 64 == 0 ? 64 : 32;
	f->hopeless = d % 32 != 0;
}

static void test_sizes(const struct doctor_patient *p,
		       const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (doctor_is_gptq(l) && (l->spec.in % 32 || l->spec.out % 32))
			doctor_found(f, l->module->name);
	}
}

/* An odd number of groups cannot be shared between two devices, which cut the
 * inputs of o_proj and down_proj.  The MLP is padded so that eight can share
 * it; attention has its size, and gets groups of half of theirs. */
static void test_split(const struct doctor_patient *p,
		       const struct doctor_row *r, struct doctor_finding *f)
{
	uint32_t half = doctor_group_divisor(p->s) / 2;
	bool attention = false;

	(void)r;
	for (uint32_t i = 0; model_llama(p->m) && i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];
		enum llama_linear which;
		uint32_t layer;

		if (!doctor_is_gptq(l) || l->spec.groups < 2 ||
		    l->spec.in % l->spec.group_size ||
		    l->spec.groups % 2 == 0 ||
		    llama_linear_parse(l->module->name, &layer, &which) ||
		    (which != LLAMA_DOWN && which != LLAMA_O))
			continue;
		doctor_found(f, l->module->name);
		attention |= which == LLAMA_O;
		f->number = 8 * l->spec.group_size;
	}
	if (!attention)
		return;
	f->fix = "--group-size";
	f->number = half;
	f->hopeless = half < 32;
}

/* A single group has no order, and a reader that is told of one stops.  Split,
 * it is one of several. */
static void test_single(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	f->number = 128;
	for (uint32_t i = 0; p->m->quant.desc_act == 1 && i < p->s->count;
	     i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (!doctor_is_gptq(l) || l->spec.groups != 1 ||
		    !qf_part(l->module, "g_idx"))
			continue;
		doctor_found(f, l->module->name);
		while (f->number >= 32 && (l->spec.in % f->number ||
					   l->spec.in == f->number))
			f->number /= 2;
	}
	f->hopeless = f->number < 32;
}

/* Act-order is no fault; but where only down_proj has it, it costs without
 * need: whatever the order is, gate and up can give their outputs in it. */
static void test_order(const struct doctor_patient *p,
		       const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];
		enum llama_linear which;
		uint32_t block;

		if (!doctor_is_gptq(l) || !l->spec.act_order)
			continue;
		if (!model_llama(p->m) || l->odd & QF_ODD_GIDX_UNEVEN ||
		    llama_linear_parse(l->module->name, &block, &which) ||
		    which != LLAMA_DOWN) {
			f->count = 0;
			return;
		}
		doctor_found(f, l->module->name);
	}
}

/* Any other: loaders have to know it, and no rewriting helps. */
static void test_kept_order(const struct doctor_patient *p,
			    const struct doctor_row *r,
			    struct doctor_finding *f)
{
	struct doctor_finding folded = { .count = 0 };

	test_order(p, r, &folded);
	for (uint32_t i = 0; !folded.count && i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (doctor_is_gptq(l) && l->spec.act_order &&
		    !(l->odd & QF_ODD_GIDX_UNEVEN))
			doctor_found(f, l->module->name);
	}
}

/* Would all of it be an AWQ model, which kernels of the Marlin family take with
 * any zeros?  Its config has one group size, and its head is dense. */
static bool fits_awq(const struct survey *s)
{
	const struct survey_layer *first = NULL;
	struct err ignored;

	if (s->odd & (QF_ODD_ZERO_WRAP | QF_ODD_ZERO_SMEAR))
		return false;
	for (uint32_t i = 0; i < s->count; i++) {
		const struct survey_layer *l = &s->layer[i];

		if (!l->format)
			continue;
		if (!doctor_is_gptq(l) || l->spec.groups < 2 ||
		    qf_awq.accept(&l->spec, &ignored) ||
		    !strcmp(l->module->name, LLAMA_HEAD) ||
		    (first && first->spec.group_size != l->spec.group_size))
			return false;
		first = l;
	}
	return first != NULL;
}

/* Narrow ones are refused for their bits (bits-narrow). */
static void test_asym(const struct doctor_patient *p,
		      const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (doctor_is_gptq(l) && !l->spec.sym && l->spec.bits >= 4)
			doctor_found(f, l->module->name);
	}
	f->hopeless = !fits_awq(p->s);
}

/* Readers that only know v1 take the zeros of v2 for others. */
static void test_v2(const struct doctor_patient *p,
		    const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++)
		if (p->s->layer[i].format == &qf_gptq_v2 &&
		    !p->s->layer[i].broken && p->s->sym)
			doctor_found(f, p->s->layer[i].module->name);
}

static const struct doctor_row rows[] = {
	/* TGI#1407, GPTQModel#1207, exllama#85 */
	{ "bits-narrow", DOCTOR_NOTE, test_narrow, 0, "layers",
	  "codes of 2 or 3 bits, for which many kernels are not made",
	  "ExLlama, ExLlamaV2, TGI, vLLM (its Marlin kernels)",
	  "Exllama kernel supports only bits=4, requested bits=...; qweight "
	  "and qzeros have incompatible shapes; weight ...g_idx does not "
	  "exist", "--bits" },
	/* webui#3255, exllama#85, exllamav2#563 */
	{ "bits-wide", DOCTOR_NOTE, test_wide, 0, "layers",
	  "codes of more than 4 bits, which kernels for 4 do not run; fewer "
	  "need the original model", "ExLlama, ExLlamaV2", "q_weight and "
	  "gptq_qzeros have incompatible shapes; qweight and qzeros have "
	  "incompatible shapes", NULL },
	/* compressed-tensors#447, vllm-omni#3714, AutoAWQ#602 */
	{ "group-ragged", DOCTOR_NOTE, test_ragged, 0, "layers",
	  "the last group is shorter than the others",
	  "compressed-tensors, AutoAWQ, vLLM", "tensor column shape must be "
	  "divisble by the given group_size", "--group-size" },
	/* llm-compressor#1489, marlin#17 */
	{ "group-unusual", DOCTOR_NOTE, test_groups, 0, "layers",
	  "groups of another size than 32, 64, 128 or one per row",
	  "vLLM (its Marlin kernels)", "Failed to find a kernel that can "
	  "implement the WNA16 linear layer.; Only group_size -1 and 128 are "
	  "supported.", "--group-size" },
	/* exllama#44, AutoGPTQ#292 */
	{ "gidx-single", DOCTOR_NOTE, test_single, 0, "layers",
	  "desc_act and a g_idx, but one group per row", "ExLlama",
	  "Found group index but no groupsize. What do?", "--group-size" },
	/* AutoGPTQ#253, #323, #504, exllama#244 */
	{ "gidx-scattered", DOCTOR_NOTE, test_order, 0, "layers",
	  "act-order that could be folded into the layers before, without "
	  "what it costs", "GPTQ-for-LLaMa (old kernels), ExLlama (long "
	  "prompts)", "The temp_state buffer is too small in the "
	  "exllama backend for GPTQ with act-order.", "--act-order drop" },
	/* vLLM#48148, vLLM pull request 54809, AutoGPTQ#253, webui pull
	 * request 530 */
	{ "gidx-order", DOCTOR_NOTE, test_kept_order, 0, "layers",
	  "act-order, which needs a loader that honours g_idx and costs time; "
	  "quantizing anew (plain, or --act-group-aware) does without",
	  "vLLM (from September 2026), ExLlama (long prompts), old CUDA "
	  "loaders", "The temp_state buffer is too small in the exllama "
	  "backend for GPTQ with act-order.", NULL },
	/* vLLM (the source) */
	{ "zeros-asym", DOCTOR_NOTE, test_asym, 0, "layers",
	  "asymmetric zeros, which kernels of the Marlin family take from "
	  "awq and not from gptq", "vLLM (its Marlin kernels)",
	  "Unsupported quantization config: bits=..., sym=...", "--to awq" },
	/* AutoGPTQ, its Triton class */
	{ "size-odd", DOCTOR_NOTE, test_sizes, 0, "layers",
	  "inputs or outputs that are no multiple of 32; readers that round "
	  "up (GPTQModel) take them, no repack makes others",
	  "AutoGPTQ", "in_feature and out_feature must be divisible by 32.",
	  NULL },
	/* vLLM#5675, #11671, #16260, #26182, Qwen3#360, #698 */
	{ "size-split", DOCTOR_NOTE, test_split, 0, "layers",
	  "an odd number of groups, so that two GPUs cannot share the layer",
	  "vLLM (tensor parallel)", "The input size is not aligned with the "
	  "quantized weight shape.", "--pad-mlp" },
	/* vLLM#26343, vLLM pull request 26092 */
	{ "format-v2", DOCTOR_NOTE, test_v2, 0, "layers",
	  "gptq_v2, which older readers take for gptq; symmetric zeros fit "
	  "that one as well", "AutoGPTQ, vLLM (both in old versions)",
	  DOCTOR_WRONG, "--to gptq" },
};

const struct doctor_table doctor_kernels = { rows,
					     sizeof(rows) / sizeof(*rows) };
