/* Repacking checkpoints that are not as they should be: what is refused, what
 * is mended, and the rules of mixed widths. */
#include "../../libfmt/base/json.h"
#include "made.h"

/* ---- refusals ---- */

static void test_a_zero_that_does_not_fit(void **state)
{
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq };
	struct make m = { .count = 0 };
	char a[96], b[96], c[96];
	struct ql ql;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	snprintf(c, sizeof(c), "%s/c", s->dir);
	random_layer(&ql, &base, 1);
	ql.zero[4] = 0;
	memset(ql.code + 96, 3, 96);
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq_v2, NULL);
	make_write(&m, a, ASYM_V2);
	repack(a, b, &v1); /* no code 15 in the way: moved up */
	ql.code[96 + 40] = 15;
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq_v2, NULL);
	make_write(&m, a, ASYM_V2);
	refused(a, c, &v1, "model.layers.0.mlp.up_proj",
		"output 1, group 1: gptq cannot store a zero of 0");
	ql_release(&ql);
}

static void test_a_doubtful_layer(void **state)
{
	static const char quant[] = "{\"bits\": 4, \"group_size\": 32, "
		"\"desc_act\": false, \"sym\": true, "
		"\"checkpoint_format\": \"gptq\"}";
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq }, v2 = { .to = &qf_gptq_v2 };
	struct make m = { .count = 0 };
	char a[96], b[96], c[96], d[96];
	struct repack_report r;
	struct ql ql;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	snprintf(c, sizeof(c), "%s/c", s->dir);
	snprintf(d, sizeof(d), "%s/d", s->dir);
	random_layer(&ql, &base, 1); /* asymmetric, whatever the config says */
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq, NULL);
	make_write(&m, a, quant);
	ql_release(&ql);
	refused(a, b, &v2, "model.layers.0.mlp.up_proj",
		"which is right is not known");
	r = repack(a, c, &v1); /* a copy leaves it as it was */
	assert_int_equal(r.layers, 0);
	assert_same_file(a, c, "model.safetensors");
	v2.lossy = true;
	r = repack(a, d, &v2);
	assert_int_equal(r.layers, 1);
}

static void test_lost_zeros(void **state)
{
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq };
	struct options v2 = { .to = &qf_gptq_v2, .lossy = true };
	struct make m = { .count = 0 };
	char a[96], b[96], c[96];
	struct ql ql;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	snprintf(c, sizeof(c), "%s/c", s->dir);
	random_layer(&ql, &base, 1);
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq, NULL);
	half_put32((uint8_t *)m.data[1] + 4, 0xFFFFF777);
	make_write(&m, a, ASYM_V1);
	ql_release(&ql);
	refused(a, b, &v2, "model.layers.0.mlp.up_proj", "zeros were lost");
	repack(a, c, &v1);
	assert_same_file(a, c, "model.safetensors");
}

static void test_a_damaged_layer_is_an_input_error(void **state)
{
	struct scratch *s = *state;
	struct options v2 = { .to = &qf_gptq_v2 };
	struct make m = { .count = 0 };
	char a[96], b[96];
	struct repack_step *steps;
	struct opened o;
	struct err err;
	uint32_t count;
	struct ql ql;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	random_layer(&ql, &base, 1);
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq, "scales");
	make_write(&m, a, ASYM_V1);
	ql_release(&ql);
	open_job(&o, a, b, &v2);
	assert_int_equal(repack_plan(&o.job, &steps, &count, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	assert_string_equal(err.msg, "model.layers.0.mlp.up_proj.scales: "
				     "missing");
	assert_null(steps);
	close_job(&o);
}

/* ---- mending ---- */

/* In its own layout: what is missing is added, what is mislabelled is written
 * as the label says. */
static void test_mended_in_place(void **state)
{
	static const char quant[] = "{\"bits\": 4, \"group_size\": 128, "
		"\"sym\": true, \"quant_method\": \"gptq\"}";
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq };
	struct ql_spec spec = base;
	struct make m = { .count = 0 };
	char a[96], b[96];
	struct repack_report r;
	struct survey survey;
	struct model *out;
	struct err err;
	struct ql ql;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	spec.sym = 1;
	random_layer(&ql, &spec, 1);
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq, "g_idx");
	make_layer(&m, "model.layers.1.mlp.up_proj", &ql, &qf_gptq_v2, NULL);
	make_layer(&m, "model.layers.2.mlp.up_proj", &ql, &qf_gptq, "qzeros");
	make_layer(&m, "model.layers.3.mlp.up_proj", &ql, &qf_gptq, NULL);
	ql_release(&ql);
	make_write(&m, a, quant);
	r = repack(a, b, &v1);
	assert_int_equal(r.layers, 3);
	assert_int_equal(r.copied, 4);
	must(model_open(b, 0, &out, &err), &err);
	must(survey_model(out, &survey, &err), &err);
	assert_int_equal(survey.odd, 0);
	assert_string_equal(survey.format, "gptq");
	assert_int_equal(out->quant.group_size, 32);
	assert_int_equal(out->quant.sym, 1);
	survey_release(&survey);
	model_close(out);
}

/* 3-bit v1 by an old gptqmodel: written anew, and its name goes. */
static void test_swapped_constants_are_taken_back(void **state)
{
	static const char quant[] = "{\"bits\": 3, \"group_size\": 32, "
		"\"sym\": false, \"desc_act\": false, "
		"\"meta\": {\"quantizer\": [\"gptqmodel:1.9.0\"], "
		"\"uri\": \"u\"}}";
	static const uint32_t swapped[3] = { 0x24924924, 0x92492492,
					     0x49249249 };
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq };
	struct ql_spec spec = base;
	struct make m = { .count = 0 };
	char a[96], b[96];
	struct survey survey;
	struct model *x, *y;
	struct ql_diff d;
	struct ql was, is;
	struct err err;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	spec.bits = 3;
	random_layer(&was, &spec, 1);
	make_layer(&m, "model.layers.0.mlp.up_proj", &was, &qf_gptq_v2, NULL);
	for (uint32_t i = 0; i < 3 * 6; i++) {
		uint8_t *w = (uint8_t *)m.data[1] + 4 * i;

		half_put32(w, half_le32(w) - swapped[i % 3]);
	}
	make_write(&m, a, quant);
	repack(a, b, &v1);
	must(model_open(b, 0, &y, &err), &err);
	must(survey_model(y, &survey, &err), &err);
	assert_int_equal(survey.odd, 0);
	assert_false(y->quant.by_gptqmodel);
	assert_string_equal(y->quant.quantizer, CONFIG_QUANTIZER);
	assert_non_null(json_path(y->quantize, "meta.uri"));
	must(survey_read(y, &y->module[0], &is, &err), &err);
	must(ql_compare(&was, &is, &d, &err), &err);
	assert_int_equal(d.unequal, 0);
	must(model_open(a, 0, &x, &err), &err);
	assert_true(x->quant.swap3);
	survey_release(&survey);
	ql_release(&was);
	ql_release(&is);
	model_close(x);
	model_close(y);
}

/* ---- mixed widths ---- */

static void make_mixed(const char *dir, const char *quant)
{
	struct ql_spec spec = base;
	struct make m = { .count = 0 };
	struct ql ql;

	random_layer(&ql, &spec, 1);
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq_v2, NULL);
	ql_release(&ql);
	spec.bits = 8;
	spec.group_size = 96;
	spec.groups = 1;
	random_layer(&ql, &spec, 1);
	make_layer(&m, "model.layers.1.mlp.up_proj", &ql, &qf_gptq_v2, NULL);
	ql_release(&ql);
	make_f16(&m, "model.layers.2.mlp.up_proj", "weight", 20, 30);
	make_write(&m, dir, quant);
}

/* Rules that describe the tensors stay as they are. */
static void test_rules_that_hold_are_kept(void **state)
{
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq };
	char a[96], b[96];
	struct model *m;
	struct err err;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	make_mixed(a, ASYM "\"gptq_v2\", \"dynamic\": {"
		"\"-:.*layers\\\\.2\\\\.\": {}, \".*\\\\.1\\\\..*\": "
		"{\"bits\": 8, \"group_size\": -1}}}");
	repack(a, b, &v1);
	must(model_open(b, 0, &m, &err), &err);
	assert_int_equal(m->quant.bits, 4);
	assert_int_equal(json_count(m->quant.dynamic), 2);
	assert_non_null(json_find(m->quant.dynamic, ".*\\.1\\..*"));
	model_close(m);
}

/* Without rules, or with wrong ones, exact ones are made from the tensors. */
static void test_rules_are_made_from_the_tensors(void **state)
{
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq };
	char a[96], b[96];
	struct survey survey;
	const struct cJSON *rule;
	struct model *m;
	struct err err;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	make_mixed(a, ASYM_V2);
	repack(a, b, &v1);
	must(model_open(b, 0, &m, &err), &err);
	must(survey_model(m, &survey, &err), &err);
	assert_int_equal(survey.odd, 0);
	assert_int_equal(m->quant.bits, 4);
	assert_int_equal(json_count(m->quant.dynamic), 2);
	rule = json_first(m->quant.dynamic);
	assert_string_equal(json_key(rule),
			    "-:^model\\.layers\\.2\\.mlp\\.up_proj$");
	rule = json_find(m->quant.dynamic,
			 "+:^model\\.layers\\.1\\.mlp\\.up_proj$");
	assert_non_null(rule);
	survey_release(&survey);
	model_close(m);
}

/* Of linears that are dense in every block nothing was said: a list names the
 * others, and rules name these, also as what q, k and v are joined to. */
static void test_dense_linears_are_told_of(void **state)
{
	static const char *const name[] = { "mlp.up_proj", "mlp.gate_proj",
		"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj" };
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq };
	struct make m = { .count = 0 };
	char a[96], b[96], full[96];
	const struct cJSON *list;
	struct model *model;
	struct err err;
	struct ql ql;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	for (int i = 0; i < 10; i++) {
		snprintf(full, sizeof(full), "model.layers.%d.%s", i / 5,
			 name[i % 5]);
		if (i % 5 > 1) {
			make_f16(&m, full, "weight", 32, 64);
			continue;
		}
		random_layer(&ql, &base, 1);
		make_layer(&m, full, &ql, &qf_gptq, NULL);
		ql_release(&ql);
	}
	make_write(&m, a, ASYM_V1);
	repack(a, b, &v1);
	must(model_open(b, 0, &model, &err), &err);
	list = json_first(json_find(model->quant.tree,
				    "modules_in_block_to_quantize"));
	assert_int_equal(json_count(list), 2);
	assert_string_equal(json_text(json_first(list)), "mlp.gate_proj");
	assert_int_equal(json_count(model->quant.dynamic), 8);
	assert_non_null(json_find(model->quant.dynamic, "-:^model\\.layers"
				  "\\.1\\.self_attn\\.qkv_proj$"));
	model_close(model);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_a_zero_that_does_not_fit),
		CASE(test_a_doubtful_layer),
		CASE(test_lost_zeros),
		CASE(test_a_damaged_layer_is_an_input_error),
		CASE(test_mended_in_place),
		CASE(test_swapped_constants_are_taken_back),
		CASE(test_rules_that_hold_are_kept),
		CASE(test_rules_are_made_from_the_tensors),
		CASE(test_dense_linears_are_told_of),
	};

	return cmocka_run_group_tests_name("repack_odd", tests, NULL, NULL);
}
