/* The structure check and the table of known problems. */
#include "../../libfmt/base/json.h"
#include "../../libfmt/check.h"
#include "ckpt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define GOLDEN "tests/golden/"
#define INDEX "model.safetensors.index.json"

/* Open, survey and check; the caller releases *c. */
static void check_path(const char *path, struct check *c)
{
	struct model *m = NULL;
	struct survey s;
	struct err err;

	if (model_open(path, MODEL_LENIENT, &m, &err) ||
	    survey_model(m, &s, &err) ||
	    check_structure(m, &s, NULL, c, &err))
		fail_msg("%s: %s", path, err.msg);
	survey_release(&s);
	model_close(m);
}

static void examine(const char *path, struct doctor *d)
{
	struct model *m = NULL;
	struct survey s;
	struct err err;

	if (model_open(path, MODEL_LENIENT, &m, &err) ||
	    survey_model(m, &s, &err) || doctor_examine(m, &s, d, &err))
		fail_msg("%s: %s", path, err.msg);
	survey_release(&s);
	model_close(m);
}

/* A golden file and a config as both configs of a directory. */
static void make(struct scratch *s, const char *golden, const char *config)
{
	struct err err;
	char from[256], text[1024];

	snprintf(from, sizeof(from), GOLDEN "%s/model.safetensors", golden);
	if (io_copy_file(from, scratch_path(s, "model.safetensors"), &err))
		fail_msg("%s", err.msg);
	scratch_write(s, "quantize_config.json", config, strlen(config));
	snprintf(text, sizeof(text), "{\"quantization_config\": %s}", config);
	scratch_write(s, "config.json", text, strlen(text));
}

/* ---- the damaged layers of the golden set ---- */

static void judge(const char *name, const char *expect, const struct check *c)
{
	const char *first = c->count ? c->fault[0].message : "nothing";

	if (strstr(expect, "must pass") && c->errors)
		fail_msg("%s: must pass, but: %s", name, first);
	if (strstr(expect, "must flag") && !c->errors)
		fail_msg("%s: must be flagged, but: %s", name, first);
	if (strstr(expect, "should warn") && (c->errors || !c->warnings))
		fail_msg("%s: should warn, but: %s", name, first);
	if (!strstr(expect, "must") && !strstr(expect, "should"))
		fail_msg("%s: \"%s\" is not understood", name, expect);
}

/* A golden case with the config that its case.json gives. */
static struct cJSON *open_case(struct scratch *s, const char *golden)
{
	struct cJSON *j = NULL;
	struct err err;
	char path[256], *text;

	snprintf(path, sizeof(path), GOLDEN "%.200s/case.json", golden);
	if (json_read_file(path, &j, &err))
		fail_msg("%s", err.msg);
	text = json_print(json_find(j, "quantization_config"), false, &err);
	assert_non_null(text);
	make(s, golden, text);
	free(text);
	return j;
}

static void make_case(struct scratch *s, const char *golden)
{
	json_free(open_case(s, golden));
}

static void check_case(struct scratch *s, const char *name)
{
	struct cJSON *j;
	struct check c;
	char golden[256];

	snprintf(golden, sizeof(golden), "malformed/%.200s", name);
	j = open_case(s, golden);
	check_path(s->dir, &c);
	judge(name, json_text(json_find(j, "expect")), &c);
	for (uint32_t i = 0; i < c.count; i++) {
		assert_true(*c.fault[i].message);
		assert_non_null(c.fault[i].where);
	}
	check_release(&c);
	json_free(j);
}

static void test_semantic_cases(void **state)
{
	char **name;
	uint32_t n, seen = 0;
	struct err err;

	if (io_list(GOLDEN "malformed", &name, &n, &err))
		fail_msg("%s", err.msg);
	for (uint32_t i = 0; i < n; i++) {
		if (strncmp(name[i], "sem_", 4))
			continue;
		check_case(*state, name[i]);
		seen++;
	}
	assert_true(seen >= 24);
	free(name);
}

/* Sound layers as two programs packed them: nothing to say but what their
 * names tell. */
static void test_golden_layers_are_sound(void **state)
{
	static const char *const dirs[] = { "gptq_v1", "gptq_v2" };
	struct scratch *s = *state;
	uint32_t n, seen = 0;
	struct check c;
	struct err err;
	char **name, path[256];

	for (int d = 0; d < 2; d++) {
		snprintf(path, sizeof(path), GOLDEN "%s", dirs[d]);
		if (io_list(path, &name, &n, &err))
			fail_msg("%s", err.msg);
		for (uint32_t i = 0; i < n; i++) {
			if (strncmp(name[i], "v1_", 3) &&
			    strncmp(name[i], "v2_", 3))
				continue;
			if (strstr(name[i], "v1_zero0") ||
			    strstr(name[i], "legacy"))
				continue;
			snprintf(path, sizeof(path), "%s/%.100s", dirs[d],
				 name[i]);
			make_case(s, path);
			check_path(s->dir, &c);
			if (c.count)
				fail_msg("%s: %s", path, c.fault[0].message);
			check_release(&c);
			seen++;
		}
		free(name);
	}
	assert_true(seen >= 70);
}

/* Nothing beside the file: all is told by the tensors. */
static void test_file_without_config(void **state)
{
	struct check c;

	(void)state;
	check_path(GOLDEN "malformed/sem_control/model.safetensors", &c);
	assert_int_equal(c.errors, 0);
	assert_int_equal(c.layers, 1);
	assert_int_equal(c.tensors, 4);
	check_release(&c);
	check_path(GOLDEN "malformed/sem_scale_nan/model.safetensors", &c);
	assert_int_equal(c.errors, 1);
	assert_string_equal(c.fault[0].where,
			    "model.layers.0.self_attn.q_proj");
	check_release(&c);
}

/* ---- dense tensors ---- */

static void test_tiny_is_sound(void **state)
{
	struct check c;

	(void)state;
	check_path(TINY, &c);
	assert_int_equal(c.count, 0);
	assert_int_equal(c.tensors, 57);
	assert_int_equal(c.layers, 0);
	check_release(&c);
}

static void test_nan_and_infinity(void **state)
{
	static const uint8_t f16[] = { 0, 0x3c, 0xff, 0x7b, 0, 0xfc };
	static const uint8_t bf16[] = { 0x80, 0x3f, 0xc0, 0x7f }; /* nan */
	static const uint8_t f32[] = { 0, 0, 0x80, 0x7f, 1, 0, 0x80, 0xff };
	static const uint8_t f64[] = { 0, 0, 0, 0, 0, 0, 0xf0, 0x7f };
	static const uint8_t fine[] = { 0xff, 0xff, 0x7f, 0x7f }; /* FLT_MAX */
	static const struct ckpt_item item[] = {
		{ "a.f16", DT_F16, 1, { 3, 0 }, f16 },
		{ "b.bf16", DT_BF16, 1, { 2, 0 }, bf16 },
		{ "c.f32", DT_F32, 1, { 2, 0 }, f32 },
		{ "d.f64", DT_F64, 1, { 1, 0 }, f64 },
		{ "e.fine", DT_F32, 1, { 1, 0 }, fine },
		{ "f.int", DT_I32, 1, { 1, 0 }, f16 },
	};
	struct scratch *s = *state;
	struct check c;
	struct err err;

	assert_int_equal(ckpt_file(scratch_path(s, "model.safetensors"), item,
				   6, &err), 0);
	scratch_write(s, "config.json", "{}", 2);
	check_path(s->dir, &c);
	assert_int_equal(c.errors, 4);
	assert_int_equal(c.tensors, 6);
	assert_string_equal(c.fault[0].where, "a.f16");
	assert_string_equal(c.fault[0].message, "1 elements are NaN or "
			    "infinite, the first is number 2");
	assert_string_equal(c.fault[2].where, "c.f32");
	assert_non_null(strstr(c.fault[2].message, "2 elements"));
	check_release(&c);
}

static void test_architecture(void **state)
{
	const struct ckpt_break b = { .crop = "model.norm.weight" };
	struct scratch *s = *state;
	struct check c;
	struct err err;

	assert_int_equal(ckpt_tiny(s->dir, &b, &err), 0);
	check_path(s->dir, &c);
	assert_int_equal(c.errors, 1);
	assert_non_null(strstr(c.fault[0].message, "model.norm.weight: shape "
			       "[255], expected [256]"));
	check_release(&c);
}

static int stop(void *ctx, const char *what, uint64_t done, uint64_t total)
{
	(void)what;
	assert_true(done <= total);
	return ++*(int *)ctx == 3;
}

static void test_interruption(void **state)
{
	int calls = 0;
	const struct progress p = { stop, &calls };
	struct model *m;
	struct survey s;
	struct check c;
	struct err err;

	(void)state;
	assert_int_equal(model_open(TINY, 0, &m, &err), 0);
	assert_int_equal(survey_model(m, &s, &err), 0);
	assert_int_equal(check_structure(m, &s, &p, &c, &err), -1);
	assert_int_equal(err.code, ERR_INTR);
	assert_int_equal(calls, 3);
	survey_release(&s);
	model_close(m);
}

/* ---- the table of problems ---- */

static const struct doctor_problem *problem(const struct doctor *d,
					    const char *code)
{
	for (uint32_t i = 0; i < d->count; i++)
		if (!strcmp(d->problem[i].code, code))
			return &d->problem[i];
	return NULL;
}

#define GOOD "{\"bits\": 4, \"group_size\": 32, \"desc_act\": true, "         \
	"\"sym\": true, \"quant_method\": \"gptq\", "                          \
	"\"checkpoint_format\": \"gptq\"}"
#define ACT "gptq_v1/v1_b4_g32_sym_act_cuda"

static void test_a_healthy_one(void **state)
{
	struct doctor d;

	make(*state, ACT, GOOD); /* (act-order is worth a note) */
	examine(((struct scratch *)*state)->dir, &d);
	if (d.errors || d.warnings)
		fail_msg("%s: %s", d.problem[0].code, d.problem[0].message);
	doctor_release(&d);
	examine(TINY, &d);
	assert_int_equal(d.count, 0);
	doctor_release(&d);
}

static void test_problems_of_a_layer(void **state)
{
	static const struct {
		const char *golden, *config, *code;
		enum doctor_severity severity;
	} row[] = {
		{ ACT, "{\"bits\": 8, \"group_size\": 32}", "config-bits",
		  DOCTOR_ERROR },
		{ ACT, "{\"bits\": 4, \"group_size\": 64}",
		  "config-group-size", DOCTOR_ERROR },
		{ ACT, "{\"bits\": 4, \"desc_act\": false}", "config-desc-act",
		  DOCTOR_ERROR },
		{ "gptq_v1/v1_b4_g32_asym_act_cuda",
		  "{\"bits\": 4, \"sym\": true}", "config-sym", DOCTOR_ERROR },
		{ ACT, "{\"bits\": 4}", "config-partial", DOCTOR_WARNING },
		{ ACT, "{\"bits\": 4}", "config-no-method", DOCTOR_ERROR },
		{ ACT, "{\"group_size\": 0}", "config-group-zero",
		  DOCTOR_ERROR },
		{ ACT, "{\"is_marlin_format\": false}", "config-marlin-flag",
		  DOCTOR_ERROR },
		{ ACT, "{\"checkpoint_format\": \"gptq_v2\"}", "zeros-label",
		  DOCTOR_ERROR },
		{ "gptq_v2/v2_b4_g128_sym_act",
		  "{\"checkpoint_format\": \"gptq\"}", "zeros-label",
		  DOCTOR_ERROR },
		{ "gptq_v2/v1_b3_legacy_gptqmodel_sym", "{\"bits\": 3}",
		  "zeros-swapped", DOCTOR_ERROR },
		{ "gptq_v2/v1_b3_legacy_gptqmodel_asym", "{\"sym\": false}",
		  "zeros-wrapped", DOCTOR_WARNING },
		{ "gptq_v1/v1_zero0_b4_asym", "{\"sym\": false}",
		  "zeros-smeared", DOCTOR_ERROR },
		{ "gptq_v1/v1_b4_g32_asym_act_cuda", "{\"sym\": false}",
		  "zeros-asym-v1", DOCTOR_NOTE },
		{ "malformed/sem_qzeros_missing", "{\"bits\": 4, \"sym\": "
		  "true}", "zeros-missing", DOCTOR_ERROR },
		{ "malformed/sem_g_idx_missing_act", "{\"desc_act\": true}",
		  "gidx-act-missing", DOCTOR_ERROR },
		{ "malformed/sem_g_idx_missing_sequential",
		  "{\"desc_act\": false}", "gidx-missing", DOCTOR_WARNING },
		{ "malformed/sem_g_idx_uneven", "{\"bits\": 4, \"group_size\": "
		  "32}", "gidx-uneven", DOCTOR_WARNING },
		{ "malformed/sem_plain_and_quantized", "{}", "layer-both",
		  DOCTOR_ERROR },
		{ "malformed/sem_bias_length", "{}", "bias-length",
		  DOCTOR_ERROR },
		{ "malformed/sem_qweight_rows", "{}", "layer-broken",
		  DOCTOR_ERROR },
		{ "gptq_v1/v1_scales_f32_b4", "{}", "scales-f32",
		  DOCTOR_NOTE },
		{ "gptq_v1/v1_scales_bf16_b4", "{}", "scales-bf16",
		  DOCTOR_NOTE },
	};
	struct scratch *s = *state;
	struct doctor d, good;

	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		const struct doctor_problem *p;

		make(s, row[i].golden, row[i].config);
		examine(s->dir, &d);
		p = problem(&d, row[i].code);
		if (!p)
			fail_msg("%s %s: no %s", row[i].golden, row[i].config,
				 row[i].code);
		assert_int_equal(p->severity, row[i].severity);
		assert_true(*p->message);
		doctor_release(&d);
		/* and not where nothing is wrong */
		make(s, ACT, GOOD);
		examine(s->dir, &good);
		assert_null(problem(&good, row[i].code));
		doctor_release(&good);
	}
}

/* A layout without a reader is named, and one with a reader is not. */
static void test_foreign_layout(void **state)
{
	static const struct ckpt_item item[] = {
		{ "m.b.q_scale", DT_I32, 2, { 1, 4 }, NULL },
		{ "m.b.q_weight", DT_I32, 2, { 4, 32 }, NULL },
	};
	struct scratch *s = *state;
	const struct doctor_problem *p;
	struct doctor d;
	struct err err;

	assert_int_equal(ckpt_file(scratch_path(s, "model.safetensors"), item,
				   2, &err), 0);
	examine(s->dir, &d);
	p = problem(&d, "layer-foreign");
	assert_non_null(p);
	assert_int_equal(p->severity, DOCTOR_WARNING);
	doctor_release(&d);
	make(s, "awq/awq_gemm_g32_in128_out64", "{}");
	examine(s->dir, &d);
	assert_null(problem(&d, "layer-foreign"));
	assert_null(problem(&d, "layer-broken"));
	doctor_release(&d);
}

/* g_idx of zeros, or of 64-bit integers, in an otherwise sound layer. */
static void make_gidx(struct scratch *s, enum dtype type, bool zero)
{
	struct ckpt_item item[8];
	uint8_t wide[8 * 128] = { 0 };
	struct model *g = NULL;
	struct err err;
	uint32_t n = 0;

	assert_int_equal(model_open(GOLDEN "gptq_v1/v1_b4_g64_sym_seq_triton/"
				    "model.safetensors", 0, &g, &err), 0);
	for (uint32_t k = 0; !zero && k < 128; k++)
		wide[(type == DT_I64 ? 8 : 4) * k] = (uint8_t)(k / 64);
	for (uint32_t i = 0; i < g->tensor_count; i++) {
		const struct tensor *t = &g->tensor[i];
		bool idx = strstr(t->name, ".g_idx") != NULL;

		item[n++] = (struct ckpt_item){ t->name,
			idx ? type : t->type, t->rank,
			{ t->dim[0], t->dim[1] }, idx ? wide : t->data };
	}
	assert_int_equal(ckpt_file(scratch_path(s, "model.safetensors"), item,
				   n, &err), 0);
	model_close(g);
}

static void test_gidx_kinds(void **state)
{
	struct scratch *s = *state;
	struct doctor d;

	make_gidx(s, DT_I32, true);
	examine(s->dir, &d);
	assert_non_null(problem(&d, "gidx-zero"));
	assert_null(problem(&d, "gidx-i64"));
	doctor_release(&d);
	make_gidx(s, DT_I64, false);
	examine(s->dir, &d);
	assert_non_null(problem(&d, "gidx-i64"));
	assert_null(problem(&d, "gidx-zero"));
	doctor_release(&d);
	make_gidx(s, DT_I32, false);
	examine(s->dir, &d);
	assert_null(problem(&d, "gidx-i64"));
	assert_null(problem(&d, "gidx-zero"));
	doctor_release(&d);
}

static void test_homes_of_the_config(void **state)
{
	struct scratch *s = *state;
	struct doctor d;

	make(s, ACT, GOOD);
	remove(scratch_path(s, "quantize_config.json"));
	examine(s->dir, &d);
	assert_int_equal(d.errors + d.warnings, 1);
	assert_string_equal(d.problem[0].code, "config-missing-quantize");
	assert_int_equal(d.warnings, 1);
	doctor_release(&d);
	make(s, ACT, GOOD);
	scratch_write(s, "config.json", "{}", 2);
	examine(s->dir, &d);
	assert_int_equal(d.errors + d.warnings, 1);
	assert_string_equal(d.problem[0].code, "config-missing-model");
	doctor_release(&d);
	remove(scratch_path(s, "quantize_config.json"));
	examine(s->dir, &d);
	assert_int_equal(d.errors + d.warnings, 1);
	assert_string_equal(d.problem[0].code, "config-missing");
	assert_int_equal(d.errors, 1);
	doctor_release(&d);
	remove(scratch_path(s, "config.json"));
	examine(scratch_path(s, "model.safetensors"), &d);
	assert_non_null(problem(&d, "config-bare-file"));
	assert_int_equal(d.errors + d.warnings, 0);
	doctor_release(&d);
	make(s, ACT, GOOD);
	assert_int_equal(ckpt_edit(scratch_path(s, "quantize_config.json"),
				   "32", "64"), 0);
	examine(s->dir, &d);
	assert_non_null(problem(&d, "config-disagree"));
	assert_string_equal(problem(&d, "config-disagree")->message,
			    "config.json and quantize_config.json contradict "
			    "each other: group_size");
	doctor_release(&d);
}

/* The golden malformed files, each with the one problem of its name. */
static void test_problems_of_files(void **state)
{
	static const char *const row[][2] = {
		{ "bad_hole_middle", "file-holes" },
		{ "bad_hole_start", "file-holes" },
		{ "bad_leading_space", "file-blanks" },
		{ "bad_trailing_bytes", "file-trailing" },
	};
	struct doctor d;
	char path[128];

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		snprintf(path, sizeof(path),
			 GOLDEN "malformed/%s/model.safetensors", row[i][0]);
		examine(path, &d);
		assert_non_null(problem(&d, row[i][1]));
		assert_string_equal(problem(&d, row[i][1])->where,
				    "model.safetensors");
		assert_true(d.errors > 0);
		assert_int_equal(d.problem[0].severity, DOCTOR_ERROR);
		doctor_release(&d);
	}
}

static void test_no_format(void **state)
{
	static const char head[] = "{\"a.b\":{\"dtype\":\"F16\","
		"\"shape\":[1],\"data_offsets\":[0,2]}}";
	struct scratch *s = *state;
	struct doctor d;
	char file[128] = { (char)(sizeof(head) - 1) };

	memcpy(file + 8, head, sizeof(head) - 1);
	scratch_write(s, "model.safetensors", file, 8 + sizeof(head) - 1 + 2);
	examine(s->dir, &d);
	assert_non_null(problem(&d, "file-no-format"));
	doctor_release(&d);
}

static void test_problems_of_the_index(void **state)
{
	const struct ckpt_break shards = { .shard_size = 3u << 20 };
	const struct ckpt_break whole = { .shard_size = 0 };
	struct scratch *s = *state;
	struct doctor d;
	struct err err;

	assert_int_equal(ckpt_tiny(s->dir, &shards, &err), 0);
	examine(s->dir, &d);
	assert_int_equal(d.count, 0);
	doctor_release(&d);
	/* a whole file beside it makes the index stale */
	assert_int_equal(ckpt_tiny(s->dir, &whole, &err), 0);
	examine(s->dir, &d);
	assert_int_equal(d.count, 2); /* some read the shards as well */
	assert_string_equal(d.problem[0].code, "file-leftover");
	assert_string_equal(d.problem[1].code, "index-stale");
	doctor_release(&d);
	/* shards alone */
	assert_int_equal(remove(scratch_path(s, "model.safetensors")), 0);
	assert_int_equal(remove(scratch_path(s, INDEX)), 0);
	examine(s->dir, &d);
	assert_int_equal(d.count, 1);
	assert_string_equal(d.problem[0].code, "index-missing");
	doctor_release(&d);
}

static void test_unlisted(void **state)
{
	static const struct ckpt_item item[] = {
		{ "a.b", DT_F16, 1, { 1, 0 }, NULL },
		{ "c.d", DT_F16, 1, { 1, 0 }, NULL },
		{ "e.f", DT_F16, 1, { 1, 0 }, NULL },
	};
	static const char index[] =
		"{\"weight_map\": {\"a.b\": \"model.safetensors\"}}";
	struct scratch *s = *state;
	struct doctor d;
	struct err err;

	assert_int_equal(ckpt_file(scratch_path(s, "model.safetensors"), item,
				   3, &err), 0);
	scratch_write(s, INDEX, index, strlen(index));
	scratch_write(s, "config.json", "{}", 2);
	examine(s->dir, &d);
	assert_int_equal(d.count, 1);
	assert_string_equal(d.problem[0].code, "index-unlisted");
	assert_non_null(strstr(d.problem[0].message, "(2 tensors)"));
	doctor_release(&d);
}

#define WITH_DIR(f) \
	cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_DIR(test_semantic_cases),
		WITH_DIR(test_golden_layers_are_sound),
		cmocka_unit_test(test_file_without_config),
		cmocka_unit_test(test_tiny_is_sound),
		WITH_DIR(test_nan_and_infinity),
		WITH_DIR(test_architecture),
		cmocka_unit_test(test_interruption),
		WITH_DIR(test_a_healthy_one),
		WITH_DIR(test_problems_of_a_layer),
		WITH_DIR(test_gidx_kinds),
		WITH_DIR(test_foreign_layout),
		WITH_DIR(test_homes_of_the_config),
		cmocka_unit_test(test_problems_of_files),
		WITH_DIR(test_no_format),
		WITH_DIR(test_problems_of_the_index),
		WITH_DIR(test_unlisted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
