/* The quantization config: its homes, synonyms, contradictions, and what is
 * written. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/base/json.h"
#include "../../libfmt/config.h"
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct cJSON *parse(const char *text)
{
	struct cJSON *j = NULL;
	struct err err;

	if (text && json_parse(text, strlen(text), 0, &j, &err))
		fail_msg("%s: %s", text, err.msg);
	return j;
}

/* Trees live in *state until the test is over. */
struct trees {
	struct cJSON *config, *quantize;
};

static int read_both(struct trees *t, const char *config, const char *quantize,
		     struct config_quant *q, struct err *err)
{
	json_free(t->config);
	json_free(t->quantize);
	t->config = parse(config);
	t->quantize = parse(quantize);
	return config_quant_read(t->config, t->quantize, q, err);
}

static void drop(struct trees *t)
{
	json_free(t->config);
	json_free(t->quantize);
}

static void test_nothing_said(void **state)
{
	struct trees t = { 0 };
	struct config_quant q;
	struct err err;

	(void)state;
	assert_int_equal(read_both(&t, "{}", NULL, &q, &err), 0);
	assert_int_equal(q.source, CONFIG_NONE);
	assert_int_equal(q.desc_act, -1);
	assert_int_equal(q.sym, -1);
	assert_int_equal(q.bits, 0);
	assert_null(q.tree);
	assert_int_equal(read_both(&t, NULL, NULL, &q, &err), 0);
	assert_int_equal(q.source, CONFIG_NONE);
	assert_int_equal(read_both(&t, "{\"quantization_config\": null}", NULL,
				   &q, &err), 0);
	assert_int_equal(q.source, CONFIG_NONE);
	drop(&t);
}

static void test_homes_and_their_names(void **state)
{
	struct trees t = { 0 };
	struct config_quant q;
	struct err err;

	(void)state;
	assert_int_equal(read_both(&t, "{\"quantization_config\": {\"bits\": 4,"
				   "\"group_size\": 128, \"desc_act\": true,"
				   "\"sym\": false, \"quant_method\": \"gptq\","
				   "\"checkpoint_format\": \"gptq_v2\"}}",
				   NULL, &q, &err), 0);
	assert_int_equal(q.source, CONFIG_MODEL);
	assert_int_equal(q.bits, 4);
	assert_int_equal(q.group_size, 128);
	assert_int_equal(q.desc_act, 1);
	assert_int_equal(q.sym, 0);
	assert_string_equal(q.method, "gptq");
	assert_string_equal(q.format, "gptq_v2");
	assert_int_equal(read_both(&t, "{}", "{\"bits\": 3}", &q, &err), 0);
	assert_int_equal(q.source, CONFIG_QUANTIZE);
	assert_int_equal(q.bits, 3);
	assert_string_equal(config_source_name(CONFIG_MODEL), "config.json");
	assert_string_equal(config_source_name(CONFIG_QUANTIZE),
			    "quantize_config.json");
	assert_string_equal(config_source_name(CONFIG_INFERRED), "inferred");
	drop(&t);
}

static void test_synonyms(void **state)
{
	struct trees t = { 0 };
	struct config_quant q;
	struct err err;

	(void)state;
	assert_int_equal(read_both(&t, NULL, "{\"wbits\": \"4\", \"groupsize\":"
				   " -1, \"method\": \"gptq\", \"format\": "
				   "\"gptq\", \"desc_act\": null}", &q, &err),
			 0);
	assert_int_equal(q.bits, 4);
	assert_int_equal(q.group_size, -1);
	assert_int_equal(q.desc_act, -1);
	assert_string_equal(q.format, "gptq");
	assert_int_equal(read_both(&t, NULL, "{\"w_bit\": 4, \"q_group_size\": "
				   "64, \"zero_point\": true, \"version\": "
				   "\"GEMM\", \"quant_method\": \"awq\"}", &q,
				   &err), 0);
	assert_int_equal(q.group_size, 64);
	assert_int_equal(q.sym, 0);
	assert_string_equal(q.format, "gemm");
	assert_int_equal(read_both(&t, NULL, "{\"is_marlin_format\": true}", &q,
				   &err), 0);
	assert_string_equal(q.format, "marlin");
	assert_int_equal(read_both(&t, NULL, "{\"quant_method\": \"marlin\"}",
				   &q, &err), 0);
	assert_string_equal(q.method, "gptq");
	assert_string_equal(q.format, "marlin");
	drop(&t);
}

static void test_quantizer(void **state)
{
	static const struct {
		const char *json, *first;
		bool gptqmodel, swap3;
	} row[] = {
		{ "\"gptqmodel:7.3.4\"", "gptqmodel:7.3.4", true, false },
		{ "[\"optimum:1.24.0\", \"gptqmodel:1.9.0\"]",
		  "optimum:1.24.0", true, true },
		{ "[\"gptqmodel:0.8.9\"]", "gptqmodel:0.8.9", true, false },
		{ "[\"gptqmodel:0.9.0\"]", "gptqmodel:0.9.0", true, true },
		{ "[\"gptqmodel:6.0.3\"]", "gptqmodel:6.0.3", true, true },
		{ "[\"gptqmodel:6.0.4\"]", "gptqmodel:6.0.4", true, false },
		{ "[\"intel/auto-round:0.3\"]", "intel/auto-round:0.3", false,
		  false },
		{ "[\"gptq-kit:0.1.0\"]", "gptq-kit:0.1.0", false, false },
	};
	struct trees t = { 0 };
	struct config_quant q;
	struct err err;
	char text[128];

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		snprintf(text, sizeof(text), "{\"meta\": {\"quantizer\": %s}}",
			 row[i].json);
		assert_int_equal(read_both(&t, NULL, text, &q, &err), 0);
		assert_string_equal(q.quantizer, row[i].first);
		assert_int_equal(q.by_gptqmodel, row[i].gptqmodel);
		assert_int_equal(q.swap3, row[i].swap3);
	}
	drop(&t);
}

static void test_contradictions(void **state)
{
	static const char *const first =
		"{\"quantization_config\": {\"bits\": 4, \"group_size\": 128, "
		"\"desc_act\": true, \"quant_method\": \"gptq\", "
		"\"checkpoint_format\": \"gptq\"}}";
	static const struct {
		const char *quantize, *differs;
	} row[] = {
		{ "{\"bits\": 4, \"group_size\": 128}", NULL },
		{ "{\"bits\": 8, \"group_size\": 128}", "bits" },
		{ "{\"bits\": 4, \"group_size\": -1}", "group_size" },
		{ "{\"desc_act\": false}", "desc_act" },
		{ "{\"sym\": false}", NULL },
		{ "{\"quant_method\": \"awq\"}", "quant_method" },
		{ "{\"checkpoint_format\": \"gptq_v2\"}",
		  "checkpoint_format" },
	};
	struct trees t = { 0 };
	struct config_quant q;
	struct err err;

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		assert_int_equal(read_both(&t, first, row[i].quantize, &q,
					   &err), 0);
		assert_int_equal(q.source, CONFIG_MODEL);
		assert_int_equal(q.bits, 4);
		assert_int_equal(q.disagree, row[i].differs != NULL);
		if (row[i].differs)
			assert_string_equal(q.differs, row[i].differs);
	}
	/* what the first leaves open comes from the second */
	assert_int_equal(read_both(&t, first, "{\"sym\": false, \"dynamic\": "
				   "{\"a\": {}}}", &q, &err), 0);
	assert_int_equal(q.sym, 0);
	assert_non_null(q.dynamic);
	drop(&t);
}

static void test_wrong_types_are_refused(void **state)
{
	static const struct {
		const char *json, *says;
	} row[] = {
		{ "{\"bits\": \"four\"}", "bits" },
		{ "{\"bits\": 0}", "bits" },
		{ "{\"bits\": 4.5}", "bits" },
		{ "{\"bits\": 4000}", "bits" },
		{ "{\"group_size\": -2}", "group_size" },
		{ "{\"group_size\": [128]}", "group_size" },
		{ "{\"desc_act\": 3}", "desc_act" },
		{ "{\"sym\": \"maybe\"}", "sym" },
		{ "{\"quant_method\": 4}", "quant_method" },
		{ "{\"checkpoint_format\": {}}", "checkpoint_format" },
		{ "{\"dynamic\": []}", "dynamic" },
		{ "{\"meta\": \"x\"}", "meta" },
		{ "[]", "not a JSON object" },
	};
	struct trees t = { 0 };
	struct config_quant q;
	struct err err;

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		assert_int_equal(read_both(&t, NULL, row[i].json, &q, &err),
				 -1);
		assert_int_equal(err.code, ERR_INPUT);
		assert_non_null(strstr(err.msg, row[i].says));
		assert_non_null(strstr(err.msg, "quantize_config.json"));
	}
	assert_int_equal(read_both(&t, "{\"quantization_config\": 4}", NULL, &q,
				   &err), -1);
	assert_non_null(strstr(err.msg, "config.json: quantization_config"));
	drop(&t);
}

static void test_odd_values_are_kept_readable(void **state)
{
	struct trees t = { 0 };
	struct config_quant q;
	struct err err;

	(void)state;
	assert_int_equal(read_both(&t, NULL, "{\"group_size\": 0}", &q, &err),
			 0);
	assert_int_equal(q.group_size, 0);
	assert_true(q.group_zero);
	/* another method's numbers mean other things */
	assert_int_equal(read_both(&t, "{\"quantization_config\": "
				   "{\"quant_method\": \"exl2\", \"bits\": "
				   "4.25}}", NULL, &q, &err), 0);
	assert_string_equal(q.method, "exl2");
	assert_int_equal(q.bits, 0);
	drop(&t);
}

static const struct config_out plain = {
	.bits = 4, .group_size = 128, .desc_act = true, .sym = true,
	.true_sequential = true, .damp_percent = 0.01, .format = "gptq",
	.method = "gptq"
};

static void test_build(void **state)
{
	struct cJSON *o, *again;
	struct config_quant q;
	struct err err;
	char *text;

	(void)state;
	assert_int_equal(config_quant_build(&plain, &o, &err), 0);
	text = json_print(o, false, &err);
	assert_string_equal(text,
		"{\"bits\":4,\"group_size\":128,\"desc_act\":true,"
		"\"sym\":true,\"static_groups\":false,\"lm_head\":false,"
		"\"damp_percent\":0.01,\"true_sequential\":true,"
		"\"quant_method\":\"gptq\",\"checkpoint_format\":\"gptq\","
		"\"method\":\"gptq\",\"format\":\"gptq\","
		"\"meta\":{\"quantizer\":[\"" CONFIG_QUANTIZER "\"]}}\n");
	/* and reads back as what it was made of */
	again = parse(text);
	assert_int_equal(config_quant_read(NULL, again, &q, &err), 0);
	assert_int_equal(q.bits, 4);
	assert_int_equal(q.desc_act, 1);
	assert_string_equal(q.quantizer, CONFIG_QUANTIZER);
	assert_false(q.by_gptqmodel);
	free(text);
	json_free(o);
	json_free(again);
}

static void test_build_keeps_what_informs(void **state)
{
	struct config_out c = plain;
	struct cJSON *keep = parse(
		"{\"w_bit\": 8, \"bits\": 8, \"damp_percent\": 0.1, "
		"\"true_sequential\": false, \"model_file_base_name\": \"m\", "
		"\"use_exllama\": true, \"is_marlin_format\": false, "
		"\"dataset\": \"c4\", \"dynamic\": {\"old\": {}}, "
		"\"meta\": {\"uri\": \"u\", \"quantizer\": [\"x:1\"]}}");
	struct cJSON *dynamic = parse("{\"-:.*k_proj\": {}}");
	struct cJSON *o;
	struct err err;
	bool b = true;
	double d = 0;

	(void)state;
	c.keep = keep;
	c.dynamic = dynamic;
	assert_int_equal(config_quant_build(&c, &o, &err), 0);
	assert_int_equal(json_double(json_find(o, "damp_percent"), &d), 0);
	assert_true(d > 0.09 && d < 0.11);
	assert_int_equal(json_bool(json_find(o, "true_sequential"), &b), 0);
	assert_false(b);
	assert_string_equal(json_text(json_find(o, "dataset")), "c4");
	assert_null(json_find(o, "w_bit"));
	assert_null(json_find(o, "model_file_base_name"));
	assert_null(json_find(o, "use_exllama"));
	assert_null(json_find(o, "is_marlin_format"));
	assert_non_null(json_find(json_find(o, "dynamic"), "-:.*k_proj"));
	assert_null(json_find(json_find(o, "dynamic"), "old"));
	assert_string_equal(json_text(json_first(json_path(o,
							   "meta.quantizer"))),
			    "x:1");
	assert_string_equal(json_text(json_path(o, "meta.uri")), "u");
	json_free(o);
	json_free(keep);
	json_free(dynamic);
}

static char *slurp(const char *path)
{
	struct err err;
	char *text;
	size_t n;

	if (io_read_file(path, 1 << 20, &text, &n, &err))
		fail_msg("%s", err.msg);
	return text;
}

static void test_write(void **state)
{
	struct scratch *s = *state;
	struct cJSON *config = parse(
		"{\"b\": 1, \"quantization_config\": {\"bits\": 8}, \"eps\": "
		"1e-05, \"torch_dtype\": \"bfloat16\", \"a\": [1, 2.5]}");
	const struct config_edit edit = { "float16", CONFIG_TIE_YES, 0 };
	struct cJSON *quant;
	struct err err;
	char *text;

	assert_int_equal(config_quant_build(&plain, &quant, &err), 0);
	assert_int_equal(config_write(s->dir, config, quant, &edit, &err), 0);
	text = slurp(scratch_path(s, "config.json"));
	/* the order stays, the replaced stand where they stood */
	assert_true(strstr(text, "\"b\"") < strstr(text, "\"quantization"));
	assert_true(strstr(text, "\"quantization") < strstr(text, "\"eps\""));
	assert_true(strstr(text, "\"eps\"") < strstr(text, "\"torch_dtype\""));
	assert_non_null(strstr(text, "\"eps\": 1e-05,"));
	assert_non_null(strstr(text, "\"torch_dtype\": \"float16\""));
	assert_non_null(strstr(text, "\"tie_word_embeddings\": true"));
	assert_non_null(strstr(text, "\"bits\": 4"));
	assert_null(strstr(text, "\"bits\": 8"));
	free(text);
	text = slurp(scratch_path(s, "quantize_config.json"));
	assert_non_null(strstr(text, "\"checkpoint_format\": \"gptq\""));
	free(text);
	json_free(config);
	json_free(quant);
}

static void test_write_dense(void **state)
{
	struct scratch *s = *state;
	struct cJSON *config = parse("{\"quantization_config\": {\"bits\": 8},"
				     "\"dtype\": \"float32\"}");
	const struct config_edit edit = { "bfloat16", CONFIG_TIE_KEEP, 0 };
	struct err err;
	char *text;

	assert_int_equal(config_write(s->dir, config, NULL, &edit, &err), 0);
	text = slurp(scratch_path(s, "config.json"));
	assert_string_equal(text, "{\n  \"dtype\": \"bfloat16\"\n}\n");
	free(text);
	assert_int_equal(io_is_file(scratch_path(s, "quantize_config.json")),
			 0);
	assert_int_equal(config_write("/nonexistent", config, NULL, NULL,
				      &err), -1);
	json_free(config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_said),
		cmocka_unit_test(test_homes_and_their_names),
		cmocka_unit_test(test_synonyms),
		cmocka_unit_test(test_quantizer),
		cmocka_unit_test(test_contradictions),
		cmocka_unit_test(test_wrong_types_are_refused),
		cmocka_unit_test(test_odd_values_are_kept_readable),
		cmocka_unit_test(test_build),
		cmocka_unit_test(test_build_keeps_what_informs),
		cmocka_unit_test_setup_teardown(test_write, scratch_open,
						scratch_close),
		cmocka_unit_test_setup_teardown(test_write_dense, scratch_open,
						scratch_close),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
