/* What is sound, but not for every kernel: limits on bits, groups and sizes.
 * All of these are notes; the remedies change sizes and are exact. */
#include "doctor_impl.h"

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
	f->number = 4;
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

static uint32_t common(uint32_t a, uint32_t b)
{
	while (b) {
		uint32_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

/* The largest size that divides every layer's groups and inputs. */
static uint32_t divisor(const struct survey *s)
{
	uint32_t d = 0;

	for (uint32_t i = 0; i < s->count; i++) {
		const struct survey_layer *l = &s->layer[i];

		if (doctor_is_gptq(l) && l->spec.groups > 1)
			d = common(l->spec.in, common(l->spec.group_size, d));
	}
	return d;
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
	f->number = divisor(p->s);
	f->hopeless = f->number < 8;
}

/* Sizes that kernels of the Marlin family take, beside one per row. */
static void test_groups(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	uint32_t d = divisor(p->s);

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

/* An odd number of groups in the MLP cannot be shared between two devices.
 * Padded so that eight can share it. */
static void test_split(const struct doctor_patient *p,
		       const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; model_llama(p->m) && i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];
		enum llama_linear which;
		uint32_t layer;

		if (!doctor_is_gptq(l) || l->spec.groups < 2 ||
		    l->spec.in % l->spec.group_size ||
		    l->spec.groups % 2 == 0 ||
		    llama_linear_parse(l->module->name, &layer, &which) ||
		    which != LLAMA_DOWN)
			continue;
		doctor_found(f, l->module->name);
		f->number = 8 * l->spec.group_size;
	}
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
	{ "bits-narrow", DOCTOR_NOTE, test_narrow, 0, "layers",
	  "codes of 2 or 3 bits, for which many kernels are not made",
	  "ExLlama, ExLlamaV2, TGI, vLLM (its Marlin kernels)",
	  "Exllama kernel supports only bits=4, requested bits=...",
	  NULL },
	{ "bits-wide", DOCTOR_NOTE, test_wide, 0, "layers",
	  "codes of more than 4 bits, which kernels for 4 do not run",
	  "ExLlama, ExLlamaV2", "q_weight and gptq_qzeros have incompatible "
	  "shapes", NULL },
	{ "group-ragged", DOCTOR_NOTE, test_ragged, 0, "layers",
	  "the last group is shorter than the others",
	  "compressed-tensors, AutoAWQ, vLLM", "tensor column shape must be "
	  "divisble by the given group_size", NULL },
	{ "group-unusual", DOCTOR_NOTE, test_groups, 0, "layers",
	  "groups of another size than 32, 64, 128 or one per row",
	  "vLLM (its Marlin kernels)", "Failed to find a kernel that can "
	  "implement the WNA16 linear layer.", NULL },
	{ "size-odd", DOCTOR_NOTE, test_sizes, 0, "layers",
	  "inputs or outputs that are no multiple of 32",
	  "AutoGPTQ", "in_feature and out_feature must be divisible by 32.",
	  NULL },
	{ "size-split", DOCTOR_NOTE, test_split, 0, "layers",
	  "an odd number of groups, so that two GPUs cannot share the layer",
	  "vLLM (tensor parallel)", "The input size is not aligned with the "
	  "quantized weight shape.", NULL },
	{ "format-v2", DOCTOR_NOTE, test_v2, 0, "layers",
	  "gptq_v2, which older readers take for gptq; symmetric zeros fit "
	  "that one as well", "AutoGPTQ, vLLM (both in old versions)", NULL,
	  "--to gptq" },
};

const struct doctor_table doctor_kernels = { rows,
					     sizeof(rows) / sizeof(*rows) };
