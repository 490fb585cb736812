/* What can be wrong with a GGUF file.  Its config is inside, and the loaders of
 * folders never see it. */
#include "doctor_impl.h"

#include "container/gguf.h"
#include "container/st.h"
#include "model.h"

static void test_broken(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (!l->broken || l->spec.in)
			continue;
		if (!f->count)
			f->detail = l->why;
		doctor_found(f, l->module->name);
	}
}

/* Sizes are known, so it is the type that is not decoded. */
static void test_blocks(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (!l->broken || !l->spec.in)
			continue;
		if (!f->count)
			f->detail = l->why;
		doctor_found(f, l->module->name);
	}
}

static void test_trailing(const struct doctor_patient *p,
			  const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->m->file_count; i++)
		if (p->m->file[i].odd & ST_ODD_TRAILING)
			doctor_found(f, p->m->file[i].name);
}

static void test_tokenizer(const struct doctor_patient *p,
			   const struct doctor_row *r,
			   struct doctor_finding *f)
{
	(void)r;
	if (!gguf_array(model_gguf(p->m), "tokenizer.ggml.tokens", GGUF_TEXT))
		doctor_found(f, "");
}

static const struct doctor_row rows[] = {
	{ "layer-broken", DOCTOR_ERROR, test_broken, 0, "layers",
	  "a quantized layer cannot be read", "llama.cpp", NULL, NULL },
	{ "bias-length", DOCTOR_ERROR, doctor_test_odd, QF_ODD_BIAS, "layers",
	  "a bias that has not one entry for each output", "llama.cpp", NULL,
	  NULL },
	{ "gguf-blocks", DOCTOR_WARNING, test_blocks, 0, "layers",
	  "blocks of a type that is not decoded", "this tool", NULL, NULL },
	{ "file-trailing", DOCTOR_WARNING, test_trailing, 0, "files",
	  "bytes behind the last tensor", "", NULL, NULL },
	{ "gguf-no-tokenizer", DOCTOR_WARNING, test_tokenizer, 0, NULL,
	  "the file has no tokenizer", "", NULL, NULL },
};

const struct doctor_table doctor_gguf = { rows,
	sizeof(rows) / sizeof(rows[0]) };
