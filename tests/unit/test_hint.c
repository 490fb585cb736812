/* What the configs say of a module: dynamic rules, the architecture's shapes,
 * and the tensors' word where two configs disagree. */
#include "../../libfmt/llama.h"
#include "ckpt.h"
#include "opened.h"

/* A golden layer as a checkpoint with the given configs. */
static void make_layer(struct scratch *s, const char *golden,
		       const char *config, const char *quantize)
{
	struct err err;
	char from[160];

	snprintf(from, sizeof(from), "tests/golden/%s/model.safetensors",
		 golden);
	if (io_copy_file(from, scratch_path(s, "model.safetensors"), &err))
		fail_msg("%s", err.msg);
	if (config)
		write_text(s, "config.json", config);
	if (quantize)
		write_text(s, "quantize_config.json", quantize);
}

static const struct qf_hint *hint(const struct model *m, const char *module,
				  bool *skip)
{
	static struct qf_hint h;
	struct err err;

	if (model_hint(m, module, &h, skip, &err))
		fail_msg("%s", err.msg);
	return &h;
}

static void test_dynamic_rules(void **state)
{
	struct scratch *s = *state;
	struct model *m;
	bool skip;

	make_layer(s, "gptq_v1/v1_b4_g32_sym_act_cuda", NULL,
		   "{\"bits\": 4, \"group_size\": 32, \"sym\": true, "
		   "\"dynamic\": {"
		   "\"+:model.layers.1\": {\"bits\": 8, \"group_size\": -1},"
		   "\".*down_proj\": {\"bits\": 3, \"sym\": false},"
		   "\"mlp\": {\"bits\": 2},"
		   "\"-:.*\\\\.k_proj\": {\"bits\": 2}}}");
	m = opened(s->dir);
	assert_int_equal(hint(m, "model.layers.0.mlp.up_proj", &skip)->bits,
			 4);
	assert_false(skip);
	/* from the start, but not to the end: 1 hits 10 as well */
	assert_int_equal(hint(m, "model.layers.10.mlp.up_proj", &skip)->bits,
			 8);
	assert_int_equal(hint(m, "model.layers.1.mlp.down_proj",
			      &skip)->group_size, -1);
	/* the first rule wins */
	assert_int_equal(hint(m, "model.layers.1.mlp.down_proj", &skip)->bits,
			 8);
	assert_int_equal(hint(m, "model.layers.1.mlp.down_proj", &skip)->sym,
			 1);
	assert_int_equal(hint(m, "model.layers.2.mlp.down_proj", &skip)->sym,
			 0);
	assert_int_equal(hint(m, "model.layers.2.mlp.down_proj", &skip)->bits,
			 3);
	/* negative ones before all others */
	hint(m, "model.layers.1.self_attn.k_proj", &skip);
	assert_true(skip);
	hint(m, "model.layers.1.self_attn.q_proj", &skip);
	assert_false(skip);
	model_close(m);
}

/* A dot is any character, a rule of joined layers says nothing of the single
 * ones, and the head may have one as well. */
static void test_dots_joined_names_and_the_head(void **state)
{
	struct scratch *s = *state;
	struct model *m;
	bool skip;

	make_layer(s, "gptq_v1/v1_b4_g32_sym_act_cuda", NULL,
		   "{\"bits\": 4, \"group_size\": 32, \"lm_head\": true, "
		   "\"dynamic\": {"
		   "\"+:model.layers.2.\": {\"bits\": 3},"
		   "\"-:.*qkv_proj\": {}, \"-:.*gate_up_proj\": {},"
		   "\"lm_head\": {\"bits\": 8, \"group_size\": -1}}}");
	m = opened(s->dir);
	assert_int_equal(hint(m, "model.layers.2.mlp.up_proj", &skip)->bits,
			 3);
	assert_int_equal(hint(m, "model.layers.25.mlp.up_proj", &skip)->bits,
			 3);
	assert_int_equal(hint(m, "model.layers.3.mlp.up_proj", &skip)->bits,
			 4);
	assert_false(skip);
	hint(m, "model.layers.3.self_attn.q_proj", &skip);
	assert_false(skip);
	hint(m, "model.layers.3.self_attn.qkv_proj", &skip);
	assert_true(skip);
	assert_int_equal(hint(m, "lm_head", &skip)->bits, 8);
	assert_int_equal(hint(m, "lm_head", &skip)->group_size, -1);
	assert_true(m->quant.lm_head);
	model_close(m);
}

static void test_hostile_rules(void **state)
{
	struct scratch *s = *state;
	struct qf_hint h;
	struct model *m;
	struct err err;
	char name[4096];
	bool skip;

	make_layer(s, "gptq_v1/v1_b4_g32_sym_act_cuda", NULL,
		   "{\"dynamic\": {\"(model\": {}}}");
	refused(s->dir, ERR_INPUT, "dynamic: \"(model\"");
	write_text(s, "quantize_config.json", "{\"dynamic\": {\"a\": 4}}");
	refused(s->dir, ERR_INPUT, "not an object");
	write_text(s, "quantize_config.json",
		   "{\"dynamic\": {\"a\": {\"bits\": \"x\"}}}");
	refused(s->dir, ERR_INPUT, "bits");
	/* exponential without a limit on its steps */
	write_text(s, "quantize_config.json",
		   "{\"dynamic\": {\"(((a*)*)*)*$\": {}}}");
	m = opened(s->dir);
	memset(name, 'a', sizeof(name));
	memcpy(name + sizeof(name) - 2, "!", 2);
	assert_int_equal(model_hint(m, name, &h, &skip, &err), -1);
	says(&err, ERR_INPUT, "takes too long");
	model_close(m);
}

#define WEIGHTS(bits, group, more) "{\"num_bits\": " #bits ", "             \
	"\"group_size\": " #group more "}"

/* Several groups of compressed-tensors: what is ignored, a name, a pattern,
 * the class of all others. */
static void test_config_groups(void **state)
{
	static const char config[] = "{\"quantization_config\": {"
		"\"quant_method\": \"compressed-tensors\", "
		"\"ignore\": [\"lm_head\", \"re:.*\\\\.4\\\\..*\"], "
		"\"config_groups\": {"
		"\"a\": {\"targets\": [\"Linear\"], \"weights\": "
		WEIGHTS(4, 128, ", \"symmetric\": true") "},"
		"\"b\": {\"targets\": [\"model.layers.1.mlp.up_proj\"], "
		"\"weights\": " WEIGHTS(8, null, ", \"strategy\": "
		"\"channel\", \"symmetric\": false") "},"
		"\"c\": {\"targets\": [\"re:.*down_proj\", \"LlamaMLP\"], "
		"\"weights\": " WEIGHTS(7, 32, ", \"actorder\": \"group\"")
		"}}}}";
	struct scratch *s = *state;
	const struct qf_hint *h;
	struct model *m;
	bool skip;

	make_layer(s, "gptq_v1/v1_b4_g32_sym_act_cuda", config, NULL);
	m = opened(s->dir);
	assert_int_equal(m->quant.bits, 0); /* not one for all */
	h = hint(m, "model.layers.0.self_attn.q_proj", &skip);
	assert_int_equal(h->bits, 4);
	assert_int_equal(h->group_size, 128);
	assert_int_equal(h->sym, 1);
	assert_false(skip);
	h = hint(m, "model.layers.1.mlp.up_proj", &skip);
	assert_int_equal(h->bits, 8);
	assert_int_equal(h->group_size, -1);
	assert_int_equal(h->sym, 0);
	/* the whole name, not the beginning of another */
	h = hint(m, "model.layers.1.mlp.up_proj2", &skip);
	assert_int_equal(h->bits, 4);
	h = hint(m, "model.layers.3.mlp.down_proj", &skip);
	assert_int_equal(h->bits, 7);
	assert_int_equal(h->desc_act, 1);
	hint(m, "model.layers.4.mlp.down_proj", &skip);
	assert_true(skip);
	hint(m, "lm_head", &skip);
	assert_true(skip);
	model_close(m);
	assert_int_equal(ckpt_edit(scratch_path(s, "config.json"),
				   "re:.*down", "re:(down"), 0);
	refused(s->dir, ERR_INPUT, "config_groups: \"re:(down_proj\"");
}

static void test_shapes_from_the_architecture(void **state)
{
	struct model *m = opened(TINY);
	const struct qf_hint *h;
	bool skip;

	(void)state;
	h = hint(m, "model.layers.5.mlp.down_proj", &skip);
	assert_int_equal(h->in, 768);
	assert_int_equal(h->out, 256);
	h = hint(m, "model.layers.6.mlp.down_proj", &skip); /* there are 6 */
	assert_int_equal(h->in, 0);
	h = hint(m, "lm_head", &skip);
	assert_int_equal(h->out, 2048);
	h = hint(m, "model.norm", &skip);
	assert_int_equal(h->out, 0);
	model_close(m);
}

static void test_tensors_settle_disagreement(void **state)
{
	static const char *const right = "{\"bits\": 4, \"group_size\": 32, "
		"\"desc_act\": true, \"sym\": true}";
	struct scratch *s = *state;
	struct model *m;

	/* config.json is wrong */
	make_layer(s, "gptq_v1/v1_b4_g32_sym_act_cuda",
		   "{\"quantization_config\": {\"bits\": 8, "
		   "\"group_size\": 128, \"quant_method\": \"gptq\"}}", right);
	m = opened(s->dir);
	assert_true(m->odd & MODEL_ODD_CONFIGS);
	assert_true(m->quant.disagree);
	assert_string_equal(m->quant.differs, "bits");
	assert_int_equal(m->quant.source, CONFIG_QUANTIZE);
	assert_int_equal(m->quant.bits, 4);
	model_close(m);
	/* config.json is right */
	make_layer(s, "gptq_v1/v1_b4_g32_sym_act_cuda",
		   "{\"quantization_config\": {\"bits\": 4, "
		   "\"group_size\": 32, \"quant_method\": \"gptq\"}}",
		   "{\"bits\": 3}");
	m = opened(s->dir);
	assert_true(m->quant.disagree);
	assert_int_equal(m->quant.source, CONFIG_MODEL);
	assert_int_equal(m->quant.bits, 4);
	model_close(m);
}

static void test_inferred(void **state)
{
	struct scratch *s = *state;
	struct model *m;

	make_layer(s, "gptq_v1/v1_b4_g32_sym_act_cuda", NULL, NULL);
	m = opened(s->dir);
	assert_int_equal(m->quant.source, CONFIG_INFERRED);
	model_close(m);
}

#define WITH_DIR(f) \
	cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_DIR(test_dynamic_rules),
		WITH_DIR(test_dots_joined_names_and_the_head),
		WITH_DIR(test_hostile_rules),
		WITH_DIR(test_config_groups),
		cmocka_unit_test(test_shapes_from_the_architecture),
		WITH_DIR(test_tensors_settle_disagreement),
		WITH_DIR(test_inferred),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
