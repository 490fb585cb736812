#include "doctor.h"

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"
#include "container/st.h"
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a test found: how many, and the first one. */
struct finding {
	uint32_t count;
	const char *where;  /* module, file, or "" */
	const char *detail; /* behind the words, or NULL */
};

struct row;

struct patient {
	const struct model *m;
	const struct survey *s;
};

struct row {
	const char *code;
	enum doctor_severity severity;
	/* Fills *f; a count of 0 means healthy. */
	void (*test)(const struct patient *p, const struct row *r,
		     struct finding *f);
	uint32_t bits;   /* for test_layers, test_files, test_model */
	const char *unit; /* what is counted; NULL: there is but one */
	const char *words;
	const char *refused_by, *fix;
};

/* ---- tests ---- */

static void found(struct finding *f, const char *where)
{
	if (!f->count++)
		f->where = where;
}

/* Layers whose `odd` has one of the row's bits. */
static void test_layers(const struct patient *p, const struct row *r,
			struct finding *f)
{
	for (uint32_t i = 0; i < p->s->count; i++)
		if (p->s->layer[i].odd & r->bits)
			found(f, p->s->layer[i].module->name);
}

/* A map that no act-order makes is its own problem (gidx-uneven), not a word
 * missing in the config. */
static void test_desc_act(const struct patient *p, const struct row *r,
			  struct finding *f)
{
	for (uint32_t i = 0; i < p->s->count; i++)
		if ((p->s->layer[i].odd & (r->bits | QF_ODD_GIDX_UNEVEN)) ==
		    r->bits)
			found(f, p->s->layer[i].module->name);
}

static void test_files(const struct patient *p, const struct row *r,
		       struct finding *f)
{
	for (uint32_t i = 0; i < p->m->file_count; i++)
		if (p->m->file[i].odd & r->bits)
			found(f, p->m->file[i].name);
}

static void test_pickle(const struct patient *p, const struct row *r,
			struct finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->m->file_count; i++)
		if (!strncmp(p->m->file[i].container, "torch", 5))
			found(f, p->m->file[i].name);
}

static void test_model(const struct patient *p, const struct row *r,
		       struct finding *f)
{
	if (p->m->odd & r->bits)
		found(f, "");
}

static void test_unlisted(const struct patient *p, const struct row *r,
			  struct finding *f)
{
	(void)r;
	f->count = p->m->unlisted;
}

static void test_disagree(const struct patient *p, const struct row *r,
			  struct finding *f)
{
	test_model(p, r, f);
	f->detail = p->m->quant.differs;
}

static void test_group_zero(const struct patient *p, const struct row *r,
			    struct finding *f)
{
	(void)r;
	if (p->m->quant.group_zero)
		found(f, config_source_name(p->m->quant.source));
}

/* A reader exists, and it says what is wrong. */
static void test_broken(const struct patient *p, const struct row *r,
			struct finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (!l->broken || !l->format)
			continue;
		if (!f->count)
			f->detail = l->why;
		found(f, l->module->name);
	}
}

static void test_foreign(const struct patient *p, const struct row *r,
			 struct finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (!l->broken || l->format)
			continue;
		if (!f->count)
			f->detail = l->layout;
		found(f, l->module->name);
	}
}

/* Is there a layer that readers would look for a config of? */
static bool is_quantized(const struct patient *p)
{
	return p->s->quantized > 0;
}

static bool has_model_config(const struct patient *p)
{
	const struct cJSON *q = json_find(p->m->config, "quantization_config");

	return q && !json_is_null(q);
}

static void test_no_config(const struct patient *p, const struct row *r,
			   struct finding *f)
{
	(void)r;
	if (is_quantized(p) && p->m->is_dir && !has_model_config(p) &&
	    !p->m->quantize)
		found(f, "");
}

static void test_no_model_config(const struct patient *p, const struct row *r,
				 struct finding *f)
{
	(void)r;
	if (is_quantized(p) && p->m->is_dir && !has_model_config(p) &&
	    p->m->quantize)
		found(f, "config.json");
}

static void test_no_quantize_config(const struct patient *p,
				    const struct row *r, struct finding *f)
{
	(void)r;
	if (is_quantized(p) && p->m->is_dir && has_model_config(p) &&
	    !p->m->quantize)
		found(f, "quantize_config.json");
}

/* A single file speaks for itself: only a remark. */
static void test_bare_file(const struct patient *p, const struct row *r,
			   struct finding *f)
{
	(void)r;
	if (is_quantized(p) && !p->m->is_dir && !has_model_config(p) &&
	    !p->m->quantize)
		found(f, "");
}

static void test_no_method(const struct patient *p, const struct row *r,
			   struct finding *f)
{
	const struct cJSON *q = json_find(p->m->config, "quantization_config");

	(void)r;
	if (json_is_object(q) && !json_text(json_find(q, "quant_method")))
		found(f, "config.json");
}

static void test_partial(const struct patient *p, const struct row *r,
			 struct finding *f)
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
		found(f, config_source_name(q->source));
	}
}

static void test_marlin_flag(const struct patient *p, const struct row *r,
			     struct finding *f)
{
	const struct cJSON *q = json_find(p->m->config, "quantization_config");

	(void)r;
	if (json_find(q, "is_marlin_format"))
		found(f, "config.json");
	if (json_find(p->m->quantize, "is_marlin_format"))
		found(f, "quantize_config.json");
}

/* v1 cannot hold every asymmetric zero, and writers differ in what they did
 * then; GPTQModel trusts its own files only. */
static void test_asym_v1(const struct patient *p, const struct row *r,
			 struct finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (l->format && !l->broken && !l->spec.sym &&
		    !strcmp(l->layout, "gptq") && !p->m->quant.by_gptqmodel)
			found(f, l->module->name);
	}
}

static void test_scales(const struct patient *p, const struct row *r,
			struct finding *f)
{
	for (uint32_t i = 0; i < p->s->count; i++) {
		const struct survey_layer *l = &p->s->layer[i];

		if (l->format && !l->broken && l->spec.scale_type == r->bits)
			found(f, l->module->name);
	}
}

/* ---- the table ---- */

#define REWRITE "gptq-repack MODEL -o OUT"
#define TO_V2 "gptq-repack MODEL -o OUT --to gptq_v2"
#define BUILDERS "transformers, GPTQModel, AutoGPTQ, vLLM"

/* Severity: error, somebody fails on it or computes something else; warning,
 * somebody's loader complains or nobody should write it; note, good to know.
 * Sources: gptq-formats(5) sections 3, 6 and 12. */
static const struct row rows[] = {
	/* files */
	{ "file-holes", DOCTOR_ERROR, test_files, ST_ODD_HOLE, "files",
	  "bytes between tensors belong to no tensor", BUILDERS ", ExLlamaV2",
	  REWRITE },
	{ "file-trailing", DOCTOR_ERROR, test_files, ST_ODD_TRAILING, "files",
	  "there are bytes behind the last tensor", BUILDERS ", ExLlamaV2",
	  REWRITE },
	{ "file-no-format", DOCTOR_WARNING, test_files, ST_ODD_NO_FORMAT,
	  "files", "the metadata has no format entry",
	  "transformers (old versions)", REWRITE },
	{ "file-pickle", DOCTOR_WARNING, test_pickle, 0, "files",
	  "the weights are in PyTorch files, which can run code when other "
	  "programs load them", "GPTQModel", REWRITE },
	{ "index-missing", DOCTOR_ERROR, test_model, MODEL_ODD_NO_INDEX, NULL,
	  "the weights are in shards and there is no index",
	  "transformers, GPTQModel, AutoGPTQ", REWRITE },
	{ "index-stale", DOCTOR_WARNING, test_model, MODEL_ODD_STALE_INDEX,
	  NULL, "beside the one weight file lies an index of other files",
	  "", REWRITE },
	{ "index-unlisted", DOCTOR_WARNING, test_unlisted, 0, "tensors",
	  "the index misses tensors that are in the files, so that some "
	  "loaders see them and some do not", "transformers", REWRITE },
	/* configs */
	{ "config-missing", DOCTOR_ERROR, test_no_config, 0, NULL,
	  "nothing says that the model is quantized: config.json has no "
	  "quantization_config and there is no quantize_config.json",
	  BUILDERS ", TGI", REWRITE },
	{ "config-missing-model", DOCTOR_ERROR, test_no_model_config, 0, NULL,
	  "config.json has no quantization_config",
	  "transformers, ExLlamaV2", REWRITE },
	{ "config-missing-quantize", DOCTOR_WARNING, test_no_quantize_config,
	  0, NULL, "there is no quantize_config.json", "AutoGPTQ", REWRITE },
	{ "config-bare-file", DOCTOR_NOTE, test_bare_file, 0, NULL,
	  "no config beside the file: everything is told by the tensors",
	  "", "" },
	{ "config-disagree", DOCTOR_ERROR, test_disagree, MODEL_ODD_CONFIGS,
	  NULL, "config.json and quantize_config.json contradict each other",
	  BUILDERS, REWRITE },
	{ "config-partial", DOCTOR_WARNING, test_partial, 0, "fields",
	  "the quantization config does not say everything", "vLLM",
	  REWRITE },
	{ "config-no-method", DOCTOR_ERROR, test_no_method, 0, NULL,
	  "quantization_config has no quant_method", "transformers, vLLM",
	  REWRITE },
	{ "config-group-zero", DOCTOR_ERROR, test_group_zero, 0, NULL,
	  "the config says group_size 0, which is no size",
	  "transformers, GPTQModel", REWRITE },
	{ "config-marlin-flag", DOCTOR_ERROR, test_marlin_flag, 0, NULL,
	  "the config has is_marlin_format, which checkpoint_format has "
	  "replaced", "GPTQModel", REWRITE },
	{ "config-bits", DOCTOR_ERROR, test_layers, QF_ODD_BITS, "layers",
	  "the config's bits are not those of the tensors", BUILDERS,
	  REWRITE },
	{ "config-group-size", DOCTOR_ERROR, test_layers, QF_ODD_GROUP,
	  "layers", "the config's group_size is not that of the tensors",
	  BUILDERS, REWRITE },
	{ "config-desc-act", DOCTOR_ERROR, test_desc_act, QF_ODD_ACT, "layers",
	  "the config says desc_act false, but g_idx is scattered", "vLLM",
	  REWRITE },
	{ "config-sym", DOCTOR_ERROR, test_layers, QF_ODD_SYM, "layers",
	  "the config says sym, but the zeros are not all the middle one",
	  "vLLM", REWRITE },
	/* g_idx */
	{ "gidx-act-missing", DOCTOR_ERROR, test_layers,
	  QF_ODD_GIDX_ACT_MISSING, "layers",
	  "the config says desc_act, but there is no g_idx to tell the "
	  "groups", BUILDERS ", TGI", "" },
	{ "gidx-missing", DOCTOR_WARNING, test_layers, QF_ODD_GIDX_MISSING,
	  "layers", "there is no g_idx", "TGI", REWRITE },
	{ "gidx-zero", DOCTOR_WARNING, test_layers, QF_ODD_GIDX_ZERO, "layers",
	  "g_idx is all zero although there are several groups; it is read "
	  "as the plain order", "transformers, AutoGPTQ, GPTQModel",
	  REWRITE },
	{ "gidx-uneven", DOCTOR_WARNING, test_layers, QF_ODD_GIDX_UNEVEN,
	  "layers", "g_idx makes groups of unequal size, which no quantizer "
	  "does", "ExLlamaV2, vLLM", "" },
	{ "gidx-i64", DOCTOR_WARNING, test_layers, QF_ODD_GIDX_I64, "layers",
	  "g_idx is of 64-bit integers", "ExLlamaV2", REWRITE },
	/* zeros */
	{ "zeros-label", DOCTOR_ERROR, test_layers, QF_ODD_LABEL, "layers",
	  "the zeros are those of the other of gptq and gptq_v2 than the "
	  "config's checkpoint_format says", BUILDERS ", ExLlamaV2",
	  REWRITE },
	{ "zeros-smeared", DOCTOR_ERROR, test_layers, QF_ODD_ZERO_SMEAR,
	  "layers", "a packer's overflow has run over zeros, which are lost "
	  "without the original model", BUILDERS, "" },
	{ "zeros-swapped", DOCTOR_ERROR, test_layers, QF_ODD_ZERO_SWAP3,
	  "layers", "the 3-bit zeros were made with swapped constants (by "
	  "GPTQModel before 7.0)", "AutoGPTQ, vLLM, ExLlamaV2", REWRITE },
	{ "zeros-wrapped", DOCTOR_WARNING, test_layers, QF_ODD_ZERO_WRAP,
	  "layers", "stored zeros of all ones, which readers take for 0 or "
	  "for 2^bits", BUILDERS ", ExLlamaV2", TO_V2 },
	{ "zeros-missing", DOCTOR_ERROR, test_layers, QF_ODD_QZEROS_MISSING,
	  "layers", "there are no qzeros; symmetric ones are assumed",
	  BUILDERS, REWRITE },
	{ "zeros-asym-v1", DOCTOR_NOTE, test_asym_v1, 0, "layers",
	  "asymmetric zeros in the gptq layout, by another program than "
	  "GPTQModel", "GPTQModel", TO_V2 },
	/* the layer's other tensors */
	{ "layer-broken", DOCTOR_ERROR, test_broken, 0, "layers",
	  "a quantized layer cannot be read", BUILDERS ", ExLlamaV2", "" },
	{ "layer-foreign", DOCTOR_WARNING, test_foreign, 0, "layers",
	  "a layout that is not read yet", "this tool", "" },
	{ "layer-both", DOCTOR_ERROR, test_layers, QF_ODD_BOTH, "layers",
	  "both weight and qweight are there", BUILDERS, "" },
	{ "bias-length", DOCTOR_ERROR, test_layers, QF_ODD_BIAS, "layers",
	  "the bias has not one entry per output", BUILDERS, "" },
	{ "scales-f32", DOCTOR_NOTE, test_scales, DT_F32, "layers",
	  "scales are F32; kernels round them to half precision",
	  "vLLM, ExLlamaV2", "" },
	{ "scales-bf16", DOCTOR_NOTE, test_scales, DT_BF16, "layers",
	  "scales are BF16; kernels for F16 alone do not take them",
	  "vLLM", "" },
};

/* ---- the examination ---- */

/* "WORDS: DETAIL (in N UNIT)" */
static char *message_of(const struct row *r, const struct finding *f,
			struct err *err)
{
	char text[768];
	int n = snprintf(text, sizeof(text), "%s%s%s", r->words,
			 f->detail ? ": " : "", f->detail ? f->detail : "");

	if (r->unit && f->count > 1 && n > 0 && (size_t)n < sizeof(text))
		snprintf(text + n, sizeof(text) - (size_t)n, " (%u %s)",
			 f->count, r->unit);
	return mem_text(text, strlen(text), err);
}

static int add_problem(struct doctor *d, const struct row *r,
		       const struct finding *f, struct err *err)
{
	struct doctor_problem *p = &d->problem[d->count++];
	const char *where = f->where ? f->where : "";

	p->code = r->code;
	p->severity = r->severity;
	p->refused_by = r->refused_by;
	p->fix = r->fix;
	p->where = mem_text(where, strlen(where), err);
	if (!p->where)
		return -1;
	p->message = message_of(r, f, err);
	d->errors += r->severity == DOCTOR_ERROR;
	d->warnings += r->severity == DOCTOR_WARNING;
	return p->message ? 0 : -1;
}

int doctor_examine(const struct model *m, const struct survey *s,
		   struct doctor *out, struct err *err)
{
	const size_t n = sizeof(rows) / sizeof(*rows);
	const struct patient p = { m, s };

	memset(out, 0, sizeof(*out));
	out->problem = mem_alloc(n, sizeof(*out->problem), err);
	if (!out->problem)
		return -1;
	for (int severity = DOCTOR_ERROR; severity >= DOCTOR_NOTE; severity--)
		for (size_t i = 0; i < n; i++) {
			struct finding f = { 0, NULL, NULL };

			if ((int)rows[i].severity != severity)
				continue;
			rows[i].test(&p, &rows[i], &f);
			if (f.count && add_problem(out, &rows[i], &f, err)) {
				doctor_release(out);
				return -1;
			}
		}
	return 0;
}

void doctor_release(struct doctor *d)
{
	for (uint32_t i = 0; i < d->count; i++) {
		free(d->problem[i].where);
		free(d->problem[i].message);
	}
	free(d->problem);
	memset(d, 0, sizeof(*d));
}

const char *doctor_severity_name(enum doctor_severity s)
{
	switch (s) {
	case DOCTOR_ERROR:
		return "error";
	case DOCTOR_WARNING:
		return "warning";
	case DOCTOR_NOTE:
		break;
	}
	return "note";
}
