/* Llama-family configs, names, and the check that everything is there. */
#include "../../libfmt/base/json.h"
#include "../../libfmt/layout/qfmt.h"
#include "../../libfmt/llama.h"
#include "ckpt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* config.json with `more` members behind the necessary ones. */
static struct cJSON *config_with(const char *architecture, const char *more)
{
	struct cJSON *j = NULL;
	struct err err;
	char text[2048];

	snprintf(text, sizeof(text),
		 "{\"architectures\": [\"%s\"], \"hidden_size\": 256, "
		 "\"intermediate_size\": 768, \"num_hidden_layers\": 6, "
		 "\"num_attention_heads\": 4, \"vocab_size\": 2048, "
		 "\"max_position_embeddings\": 1024%s%s}", architecture,
		 *more ? ", " : "", more);
	if (json_parse(text, strlen(text), 0, &j, &err))
		fail_msg("%s: %s", text, err.msg);
	return j;
}

/* Strings of *c end with the tree, so they are looked at before. */
static void read_as(const char *architecture, const char *more,
		    struct llama_config *c)
{
	struct cJSON *j = config_with(architecture, more);
	struct err err;

	if (llama_config_read(j, NULL, c, &err))
		fail_msg("%s: %s", more, err.msg);
	assert_string_equal(c->architecture, architecture);
	c->architecture = c->model_type = NULL;
	json_free(j);
}

static void read_llama(const char *more, struct llama_config *c)
{
	read_as("LlamaForCausalLM", more, c);
}

static void refuse_as(const char *architecture, const char *more, int code,
		      const char *text)
{
	struct cJSON *j = config_with(architecture, more);
	struct llama_config c;
	struct err err;

	if (!llama_config_read(j, NULL, &c, &err))
		fail_msg("%s was taken (expected \"%s\")", more, text);
	if (err.code != code || !strstr(err.msg, text) ||
	    strncmp(err.msg, "config.json: ", 13))
		fail_msg("%s: \"%s\" (%d) does not say \"%s\"", more, err.msg,
			 err.code, text);
	json_free(j);
}

static void test_tiny(void **state)
{
	struct cJSON *j, *g;
	struct llama_config c;
	struct err err;

	(void)state;
	assert_int_equal(json_read_file(TINY "/config.json", &j, &err), 0);
	assert_int_equal(json_read_file(TINY "/generation_config.json", &g,
					&err), 0);
	assert_int_equal(llama_config_read(j, g, &c, &err), 0);
	assert_string_equal(c.model_type, "llama");
	assert_string_equal(c.architecture, "LlamaForCausalLM");
	assert_int_equal(c.hidden, 256);
	assert_int_equal(c.inter, 768);
	assert_int_equal(c.layers, 6);
	assert_int_equal(c.heads, 4);
	assert_int_equal(c.kv_heads, 4);
	assert_int_equal(c.head_dim, 64);
	assert_int_equal(c.vocab, 2048);
	assert_int_equal(c.max_pos, 1024);
	assert_true(c.eps > 0.99e-5 && c.eps < 1.01e-5);
	assert_int_equal(c.rope.kind, LLAMA_ROPE_PLAIN);
	assert_true(c.rope.theta > 9999 && c.rope.theta < 10001);
	assert_false(c.tied);
	assert_int_equal(c.bos, 1);
	assert_int_equal(c.eos_count, 1);
	assert_int_equal(c.eos[0], 2);
	assert_int_equal(llama_parameters(&c), 6163712);
	json_free(j);
	json_free(g);
}

static void test_families(void **state)
{
	struct llama_config c;

	(void)state;
	read_llama("", &c);
	assert_false(c.attn_bias_qkv || c.attn_bias_o || c.mlp_bias);
	read_llama("\"attention_bias\": true, \"mlp_bias\": true", &c);
	assert_true(c.attn_bias_qkv && c.attn_bias_o && c.mlp_bias);
	read_as("Qwen2ForCausalLM", "\"attention_bias\": false", &c);
	assert_true(c.attn_bias_qkv);
	assert_false(c.attn_bias_o || c.qk_norm);
	read_as("Qwen3ForCausalLM", "\"head_dim\": 128, "
		"\"num_key_value_heads\": 2", &c);
	assert_true(c.qk_norm);
	assert_false(c.attn_bias_qkv);
	assert_int_equal(c.head_dim, 128);
	assert_int_equal(c.kv_heads, 2);
	read_as("MistralForCausalLM", "\"sliding_window\": null", &c);
	read_as("MistralForCausalLM", "\"sliding_window\": 1024", &c);
	refuse_as("MistralForCausalLM", "\"sliding_window\": 512", ERR_UNSUP,
		  "sliding_window 512");
	read_as("Qwen2ForCausalLM", "\"sliding_window\": 512", &c);
	read_as("Qwen2ForCausalLM", "\"sliding_window\": 512, "
		"\"use_sliding_window\": false", &c);
	refuse_as("Qwen2ForCausalLM", "\"sliding_window\": 512, "
		  "\"use_sliding_window\": true", ERR_UNSUP, "sliding");
	refuse_as("GPTBigCodeForCausalLM", "", ERR_UNSUP,
		  "GPTBigCodeForCausalLM");
	refuse_as("MixtralForCausalLM", "\"model_type\": \"llama\"", ERR_UNSUP,
		  "MixtralForCausalLM");
}

static void test_model_type_alone(void **state)
{
	struct cJSON *j = NULL;
	struct llama_config c;
	struct err err;
	const char *text = "{\"model_type\": \"qwen2\", \"hidden_size\": 64, "
		"\"intermediate_size\": 64, \"num_hidden_layers\": 1, "
		"\"num_attention_heads\": 2, \"vocab_size\": 8}";

	(void)state;
	assert_int_equal(json_parse(text, strlen(text), 0, &j, &err), 0);
	assert_int_equal(llama_config_read(j, NULL, &c, &err), 0);
	assert_true(c.attn_bias_qkv);
	assert_int_equal(c.max_pos, 2048);
	json_free(j);
	assert_int_equal(json_parse("{}", 2, 0, &j, &err), 0);
	assert_int_equal(llama_config_read(j, NULL, &c, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	json_free(j);
	assert_int_equal(llama_config_read(NULL, NULL, &c, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
}

static void test_rope(void **state)
{
	struct llama_config c;

	(void)state;
	read_llama("\"rope_scaling\": null, \"rope_theta\": 500000.0", &c);
	assert_int_equal(c.rope.kind, LLAMA_ROPE_PLAIN);
	assert_true(c.rope.theta > 499999);
	read_llama("\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}",
		   &c);
	assert_int_equal(c.rope.kind, LLAMA_ROPE_LINEAR);
	assert_true(c.rope.factor > 3.9 && c.rope.factor < 4.1);
	assert_int_equal(c.rope.original_max_pos, 1024);
	read_llama("\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}",
		   &c);
	assert_int_equal(c.rope.kind, LLAMA_ROPE_DYNAMIC);
	read_llama("\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": "
		   "8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
		   "\"original_max_position_embeddings\": 512}", &c);
	assert_int_equal(c.rope.kind, LLAMA_ROPE_LLAMA3);
	assert_int_equal(c.rope.original_max_pos, 512);
	assert_true(c.rope.high_freq > 3.9);
	read_llama("\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, "
		   "\"original_max_position_embeddings\": 256}", &c);
	assert_int_equal(c.rope.kind, LLAMA_ROPE_YARN);
	assert_true(c.rope.beta_fast > 31 && c.rope.beta_slow < 2);
	assert_true(c.rope.truncate);
	/* the factor follows from the lengths when it is not given */
	read_llama("\"rope_parameters\": {\"rope_type\": \"yarn\", "
		   "\"rope_theta\": 1e6, \"truncate\": false, "
		   "\"original_max_position_embeddings\": 256}", &c);
	assert_true(c.rope.factor > 3.9 && c.rope.factor < 4.1);
	assert_true(c.rope.theta > 999999);
	assert_false(c.rope.truncate);
	read_llama("\"rope_parameters\": {\"rope_type\": \"default\", "
		   "\"rope_theta\": 20000}, \"rope_scaling\": {\"type\": "
		   "\"linear\", \"factor\": 2}", &c);
	assert_int_equal(c.rope.kind, LLAMA_ROPE_PLAIN);
	assert_true(c.rope.theta > 19999);
}

static void test_bad_rope(void **state)
{
	static const struct {
		const char *more;
		int code;
		const char *says;
	} row[] = {
		{ "\"rope_scaling\": {\"type\": \"longrope\"}", ERR_UNSUP,
		  "longrope" },
		{ "\"rope_scaling\": {\"type\": \"linear\"}", ERR_INPUT,
		  "factor is missing" },
		{ "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}",
		  ERR_INPUT, "factor" },
		{ "\"rope_scaling\": {\"type\": \"linear\", \"factor\": -1}",
		  ERR_INPUT, "factor" },
		{ "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0.5}",
		  ERR_INPUT, "below 1" },
		{ "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": "
		  "8}", ERR_INPUT, "low_freq_factor is missing" },
		{ "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": "
		  "8, \"low_freq_factor\": 4, \"high_freq_factor\": 4, "
		  "\"original_max_position_embeddings\": 8}", ERR_INPUT,
		  "low_freq_factor 4" },
		{ "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2, "
		  "\"beta_slow\": 40}", ERR_INPUT, "beta_slow" },
		{ "\"rope_scaling\": 4", ERR_INPUT, "not an object" },
		{ "\"rope_theta\": 0", ERR_INPUT, "rope_theta" },
		{ "\"rope_theta\": \"x\"", ERR_INPUT, "rope_theta" },
		{ "\"partial_rotary_factor\": 0.5", ERR_UNSUP, "partial" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++)
		refuse_as("LlamaForCausalLM", row[i].more, row[i].code,
			  row[i].says);
}

/* Members given twice are refused by the JSON reader, so whole configs. */
static void refuse_text(const char *text, const char *says)
{
	struct cJSON *j = NULL;
	struct llama_config c;
	struct err err;

	if (json_parse(text, strlen(text), 0, &j, &err))
		fail_msg("%s: %s", text, err.msg);
	assert_int_equal(llama_config_read(j, NULL, &c, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	if (!strstr(err.msg, says))
		fail_msg("\"%s\" does not say \"%s\"", err.msg, says);
	json_free(j);
}

#define SIZES(hidden, inter, layers, heads, vocab)                         \
	"{\"model_type\": \"llama\", \"hidden_size\": " #hidden            \
	", \"intermediate_size\": " #inter                                 \
	", \"num_hidden_layers\": " #layers                                \
	", \"num_attention_heads\": " #heads ", \"vocab_size\": " #vocab "}"

static void test_absurd_sizes(void **state)
{
	(void)state;
	refuse_text(SIZES(0, 8, 1, 2, 8), "hidden_size");
	refuse_text(SIZES(64, 8, 0, 2, 8), "num_hidden_layers");
	refuse_text(SIZES(64, 8, 1000000, 2, 8), "num_hidden_layers");
	refuse_text(SIZES(64, -8, 1, 2, 8), "intermediate_size");
	refuse_text(SIZES(64, 8, 1, 0, 8), "num_attention_heads");
	refuse_text(SIZES(64, 8, 1, 3, 8), "not a multiple");
	refuse_text(SIZES(66, 8, 1, 22, 8), "head_dim 3");
	refuse_text(SIZES(1048576, 8, 1, 2, 8), "head_dim 524288");
	refuse_text(SIZES(64, 8, 1, 2, 4294967296), "vocab_size");
	refuse_text(SIZES(64, 8, 1, 2, "x"), "vocab_size");
	refuse_text(SIZES(64, 8, 1, 2, null), "vocab_size is missing");
	refuse_text("[]", "not there");
	refuse_as("LlamaForCausalLM", "\"num_key_value_heads\": 3", ERR_INPUT,
		  "not a multiple");
	refuse_as("LlamaForCausalLM", "\"num_key_value_heads\": 0", ERR_INPUT,
		  "num_key_value_heads");
	refuse_as("LlamaForCausalLM", "\"head_dim\": 63", ERR_INPUT,
		  "head_dim 63");
	refuse_as("LlamaForCausalLM", "\"rms_norm_eps\": -1", ERR_INPUT,
		  "rms_norm_eps");
	refuse_as("LlamaForCausalLM", "\"hidden_act\": \"gelu\"", ERR_UNSUP,
		  "gelu");
}

static void test_end_tokens(void **state)
{
	struct cJSON *j = config_with("LlamaForCausalLM",
				      "\"bos_token_id\": null, "
				      "\"eos_token_id\": [3, 5, -1, 9999]");
	struct cJSON *g = NULL;
	struct llama_config c;
	struct err err;
	const char *text = "{\"eos_token_id\": 7}";

	(void)state;
	assert_int_equal(llama_config_read(j, NULL, &c, &err), 0);
	assert_int_equal(c.bos, -1);
	assert_int_equal(c.eos_count, 2);
	assert_int_equal(c.eos[1], 5);
	assert_int_equal(json_parse(text, strlen(text), 0, &g, &err), 0);
	assert_int_equal(llama_config_read(j, g, &c, &err), 0);
	assert_int_equal(c.eos_count, 1);
	assert_int_equal(c.eos[0], 7);
	json_free(j);
	json_free(g);
	refuse_as("LlamaForCausalLM", "\"eos_token_id\": \"</s>\"", ERR_INPUT,
		  "eos_token_id");
	refuse_as("LlamaForCausalLM",
		  "\"eos_token_id\": [1,2,3,4,5,6,7,8,9]", ERR_UNSUP,
		  "eos_token_id");
}

static void test_names(void **state)
{
	static const char *const no[] = { "model.layers.x.mlp.up_proj",
		"model.layers.01.mlp.up_proj", "model.layers.1.mlp.q_proj",
		"model.layers.1.mlp.up_proj.weight", "model.layers.-1.mlp.up",
		"model.layers.99999999999999999999.mlp.up_proj", "lm_head",
		"", "xmodel.layers.1.mlp.up_proj", "model.layers." };
	char buf[LLAMA_NAME];
	enum llama_linear which;
	uint32_t layer;

	(void)state;
	assert_string_equal(llama_linear_name(3, LLAMA_UP, buf),
			    "model.layers.3.mlp.up_proj");
	assert_string_equal(llama_norm_name(3, LLAMA_NORM_IN, buf),
			    "model.layers.3.input_layernorm.weight");
	assert_string_equal(llama_norm_name(11, LLAMA_NORM_K, buf),
			    "model.layers.11.self_attn.k_norm.weight");
	for (int i = 0; i < LLAMA_LINEARS; i++) {
		llama_linear_name(17, (enum llama_linear)i, buf);
		assert_int_equal(llama_linear_parse(buf, &layer, &which), 0);
		assert_int_equal(layer, 17);
		assert_int_equal(which, i);
		assert_non_null(strstr(buf, llama_linear_short(which)));
	}
	for (size_t i = 0; i < sizeof(no) / sizeof(*no); i++)
		assert_int_equal(llama_linear_parse(no[i], &layer, &which),
				 -1);
	assert_int_equal(llama_slot_of(LLAMA_V), LLAMA_SLOT_QKV);
	assert_int_equal(llama_slot_of(LLAMA_UP), LLAMA_SLOT_GATE_UP);
}

static void test_shapes(void **state)
{
	static const uint32_t want[LLAMA_LINEARS][2] = {
		{ 256, 512 }, { 256, 256 }, { 256, 256 }, { 512, 256 },
		{ 256, 768 }, { 256, 768 }, { 768, 256 }
	};
	struct llama_config c;
	uint32_t in, out;

	(void)state;
	read_as("Qwen3ForCausalLM", "\"head_dim\": 128, "
		"\"num_key_value_heads\": 2, \"tie_word_embeddings\": true",
		&c);
	for (int i = 0; i < LLAMA_LINEARS; i++) {
		llama_linear_shape(&c, (enum llama_linear)i, &in, &out);
		assert_int_equal(in, want[i][0]);
		assert_int_equal(out, want[i][1]);
	}
	/* 6 x (2 x 512 x 256 + 2 x 256 x 256 + 3 x 256 x 768 + norms) */
	assert_int_equal(llama_parameters(&c),
			 6 * (262144 + 131072 + 589824 + 512 + 256) + 256 +
				 2048 * 256);
}

/* ---- is everything there? ---- */

/* Open DIR and check; 0, or -1 with err. */
static int check_dir(const char *dir, struct err *err)
{
	struct llama_config c;
	struct model *m = NULL;
	int ret;

	if (model_open(dir, 0, &m, err))
		fail_msg("%s", err->msg);
	ret = llama_config_read(m->config, NULL, &c, err);
	if (!ret)
		ret = llama_check(m, &c, err);
	model_close(m);
	return ret;
}

static void test_complete(void **state)
{
	struct err err;

	(void)state;
	if (check_dir(TINY, &err))
		fail_msg("%s", err.msg);
}

static void test_missing_and_misshapen(void **state)
{
	static const struct {
		struct ckpt_break b;
		const char *message;
	} row[] = {
		{ { .drop = "model.layers.2.input_layernorm.weight" },
		  "model.layers.2.input_layernorm.weight: missing" },
		{ { .drop = "model.layers.4.mlp.gate_proj.weight" },
		  "model.layers.4.mlp.gate_proj.weight: missing" },
		{ { .drop = "lm_head.weight" }, "lm_head.weight: missing" },
		{ { .drop = "model.embed_tokens.weight" },
		  "model.embed_tokens.weight: missing" },
		{ { .crop = "model.layers.3.mlp.up_proj.weight" },
		  "model.safetensors: model.layers.3.mlp.up_proj.weight: "
		  "shape [768, 255], expected [768, 256]" },
		{ { .crop = "model.norm.weight" },
		  "model.safetensors: model.norm.weight: shape [255], "
		  "expected [256]" },
	};
	struct scratch *s = *state;
	struct err err;

	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		if (ckpt_tiny(s->dir, &row[i].b, &err))
			fail_msg("%s", err.msg);
		assert_int_equal(check_dir(s->dir, &err), -1);
		assert_int_equal(err.code, ERR_INPUT);
		assert_string_equal(err.msg, row[i].message);
	}
}

static void test_tied_head(void **state)
{
	const struct ckpt_break b = { .drop = "lm_head.weight" };
	struct scratch *s = *state;
	struct err err;

	assert_int_equal(ckpt_tiny(s->dir, &b, &err), 0);
	assert_int_equal(ckpt_edit(scratch_path(s, "config.json"),
				   "\"tie_word_embeddings\": false",
				   "\"tie_word_embeddings\": true"), 0);
	if (check_dir(s->dir, &err))
		fail_msg("%s", err.msg);
}

/* A block with one golden quantized linear: the smallest whole model. */
#define H 96u
#define V 32u
static const struct ckpt_item block[] = {
	{ "model.embed_tokens.weight", DT_F16, 2, { V, H }, NULL },
	{ "model.norm.weight", DT_F16, 1, { H, 0 }, NULL },
	{ "lm_head.weight", DT_F16, 2, { V, H }, NULL },
	{ "model.layers.0.input_layernorm.weight", DT_F16, 1, { H, 0 }, NULL },
	{ "model.layers.0.post_attention_layernorm.weight", DT_F16, 1,
	  { H, 0 }, NULL },
	{ "model.layers.0.self_attn.k_proj.weight", DT_F16, 2, { 16, H },
	  NULL },
	{ "model.layers.0.self_attn.v_proj.weight", DT_F16, 2, { 16, H },
	  NULL },
	{ "model.layers.0.self_attn.o_proj.weight", DT_F16, 2, { H, 32 },
	  NULL },
	{ "model.layers.0.mlp.gate_proj.weight", DT_F16, 2, { 64, H }, NULL },
	{ "model.layers.0.mlp.up_proj.weight", DT_F16, 2, { 64, H }, NULL },
	{ "model.layers.0.mlp.down_proj.weight", DT_F16, 2, { H, 64 }, NULL },
};
#define BLOCK (sizeof(block) / sizeof(*block))

/* `heads` x 16 outputs of the quantized q_proj are what the config asks for;
 * it has 96 inputs and 32 outputs. */
static void make_quantized(struct scratch *s, unsigned heads)
{
	const struct ckpt_item *from = block;
	struct ckpt_item item[BLOCK + 8];
	char name[8][128], text[512];
	struct model *g = NULL;
	struct err err;
	uint32_t n = BLOCK;

	memcpy(item, from, sizeof(block));
	if (model_open("tests/golden/gptq_v1/v1_b4_g32_sym_act_cuda/"
		       "model.safetensors", 0, &g, &err))
		fail_msg("%s", err.msg);
	for (uint32_t i = 0; i < g->tensor_count; i++) {
		const struct tensor *t = &g->tensor[i];

		snprintf(name[i], sizeof(name[i]),
			 "model.layers.0.self_attn.q_proj%s",
			 strrchr(t->name, '.'));
		item[n++] = (struct ckpt_item){ name[i], t->type, t->rank,
			{ t->dim[0], t->dim[1] }, t->data };
	}
	assert_int_equal(ckpt_file(scratch_path(s, "model.safetensors"), item,
				   n, &err), 0);
	model_close(g);
	snprintf(text, sizeof(text), "{\"model_type\": \"llama\", "
		 "\"hidden_size\": 96, \"intermediate_size\": 64, "
		 "\"num_hidden_layers\": 1, \"num_attention_heads\": %u, "
		 "\"num_key_value_heads\": 1, \"head_dim\": 16, "
		 "\"vocab_size\": 32}", heads);
	scratch_write(s, "config.json", text, strlen(text));
}

static void test_quantized_linear(void **state)
{
	struct scratch *s = *state;
	struct err err;

	make_quantized(s, 2);
	if (check_dir(s->dir, &err))
		fail_msg("%s", err.msg);
	make_quantized(s, 3);
	assert_int_equal(check_dir(s->dir, &err), -1);
	assert_string_equal(err.msg, "model.safetensors: "
			    "model.layers.0.self_attn.q_proj: 96 inputs and "
			    "32 outputs, expected 96 and 48");
}

static void test_missing_bias(void **state)
{
	struct scratch *s = *state;
	struct err err;

	make_quantized(s, 2);
	assert_int_equal(ckpt_edit(scratch_path(s, "config.json"), "\"llama\"",
				   "\"qwen2\""), 0);
	assert_int_equal(check_dir(s->dir, &err), -1);
	assert_string_equal(err.msg,
			    "model.layers.0.self_attn.q_proj.bias: missing");
}

#define WITH_DIR(f) \
	cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tiny),
		cmocka_unit_test(test_families),
		cmocka_unit_test(test_model_type_alone),
		cmocka_unit_test(test_rope),
		cmocka_unit_test(test_bad_rope),
		cmocka_unit_test(test_absurd_sizes),
		cmocka_unit_test(test_end_tokens),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_shapes),
		cmocka_unit_test(test_complete),
		WITH_DIR(test_missing_and_misshapen),
		WITH_DIR(test_tied_head),
		WITH_DIR(test_quantized_linear),
		WITH_DIR(test_missing_bias),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
