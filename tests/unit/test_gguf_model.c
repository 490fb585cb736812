/* Whole models into GGUF and back: every family, grouped queries, biases, tied
 * heads, scaled rotary embeddings; the weights, the hyper-parameters and the
 * logits have to be the same, bit for bit. */
#include "convert.h"
#include "ok.h"
#include "scratch.h"
#include "synth.h"

#include "../../libfmt/gguf_tok.h"
#include "../../libfmt/llama_gguf.h"
#include "../../libfmt/model.h"
#include "../../libfmt/repack.h"
#include "../../runtime/llm.h"
#include "../../runtime/tok.h"

#include <math.h>
#include <sys/stat.h>

#define TOKENS 9

static struct err err;

#define LLAMA3 ", \"rope_theta\": 500, \"rope_scaling\": {\"rope_type\": " \
	"\"llama3\", \"factor\": 8, \"low_freq_factor\": 1, " \
	"\"high_freq_factor\": 4, \"original_max_position_embeddings\": 32}"
#define LINEAR ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}"
#define YARN ", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, " \
	"\"original_max_position_embeddings\": 16}"

static const struct synth models[] = {
	{ "LlamaForCausalLM", 48, 56, 2, 6, 2, 8, 61, 64, .qkv_bias = true,
	  .o_bias = true, .mlp_bias = true, .type = DT_BF16,
	  .more = ", \"attention_bias\": true, \"mlp_bias\": true" LLAMA3 },
	{ "MistralForCausalLM", 32, 72, 2, 2, 1, 80, 53, 64, .type = DT_F16,
	  .more = LINEAR },
	{ "Qwen2ForCausalLM", 40, 52, 2, 4, 1, 10, 67, 64, .qkv_bias = true,
	  .tied = true, .type = DT_F16, .more = YARN },
	{ "Qwen3ForCausalLM", 36, 44, 2, 3, 3, 20, 59, 64, .qk_norm = true,
	  .type = DT_F32, .more = ", \"rope_theta\": 1000000" },
	{ "LlamaForCausalLM", 64, 96, 2, 4, 2, 16, 50, 64, .type = DT_F16,
	  .more = "", .bits = 4, .group_size = 32 },
	{ "LlamaForCausalLM", 64, 128, 1, 8, 2, 8, 50, 64, .type = DT_BF16,
	  .more = "", .bits = 3, .group_size = 64 },
};
#define MODELS (sizeof(models) / sizeof(models[0]))

/* ---- conversions ---- */

/* Of the last of some tokens. */
static float *logits(const char *path, uint32_t vocab)
{
	const struct be_open how = { .threads = 2, .device = -1 };
	struct llm_open lo = { .dev = { .api = &be_cpu }, .context = 32 };
	float *out = calloc(vocab, sizeof(*out));
	uint32_t id[TOKENS];
	struct model *m;
	struct llm *l;

	for (uint32_t i = 0; i < TOKENS; i++)
		id[i] = (7 * i + 3) % vocab;
	OK(lo.dev.api->open(&how, &lo.dev.be, &err));
	OK(model_open(path, 0, &m, &err));
	OK(llm_open(m, &lo, &l, &err));
	OK(llm_prefill(l, id, TOKENS, out, NULL, &err));
	llm_close(l);
	model_close(m);
	lo.dev.api->close(lo.dev.be);
	return out;
}

/* Quantized layers may run in kernels of another width. */
static void same_logits(const char *a, const char *b, const struct synth *s)
{
	float *x = logits(a, s->vocab), *y = logits(b, s->vocab);

	for (uint32_t i = 0; i < s->vocab; i++)
		if (!(fabsf(x[i] - y[i]) <= (s->bits ? 1e-3f : 0)))
			fail_msg("logit %u: %.9g and %.9g", i, (double)x[i],
				 (double)y[i]);
	free(x);
	free(y);
}

static bool close_to(double a, double b)
{
	return fabs(a - b) <= 1e-6 * fabs(a);
}

static void same_config(const char *a, const char *b)
{
	const struct llama_config *x, *y;
	struct model *m, *n;

	OK(model_open(a, 0, &m, &err));
	OK(model_open(b, 0, &n, &err));
	x = model_llama(m);
	y = model_llama(n);
	assert_non_null(x);
	assert_non_null(y);
	assert_int_equal(x->hidden, y->hidden);
	assert_int_equal(x->inter, y->inter);
	assert_int_equal(x->layers, y->layers);
	assert_int_equal(x->heads, y->heads);
	assert_int_equal(x->kv_heads, y->kv_heads);
	assert_int_equal(x->head_dim, y->head_dim);
	assert_int_equal(x->vocab, y->vocab);
	assert_int_equal(x->max_pos, y->max_pos);
	assert_int_equal(x->tied, y->tied);
	assert_int_equal(x->attn_bias_qkv, y->attn_bias_qkv);
	assert_int_equal(x->attn_bias_o, y->attn_bias_o);
	assert_int_equal(x->mlp_bias, y->mlp_bias);
	assert_int_equal(x->qk_norm, y->qk_norm);
	assert_true(close_to(x->eps, y->eps));
	assert_int_equal(x->rope.kind, y->rope.kind);
	assert_true(close_to(x->rope.theta, y->rope.theta));
	assert_true(close_to(x->rope.factor, y->rope.factor));
	assert_int_equal(x->rope.original_max_pos, y->rope.original_max_pos);
	model_close(m);
	model_close(n);
}

/* Every dense tensor of a is in b with equal values, and no other is. */
static void same_tensors(const char *a, const char *b)
{
	struct model *m, *n;

	OK(model_open(a, 0, &m, &err));
	OK(model_open(b, 0, &n, &err));
	assert_int_equal(m->tensor_count, n->tensor_count);
	for (uint32_t i = 0; i < m->tensor_count; i++) {
		const struct tensor *t = &m->tensor[i];
		const struct tensor *u = model_find(n, t->name);
		uint64_t count;
		float *x, *y;

		assert_non_null(u);
		assert_int_equal(tensor_count(t, &count), 0);
		x = malloc(2 * count * sizeof(*x));
		y = x + count;
		assert_int_equal(tensor_load_f32(t, 0, count, x), 0);
		assert_int_equal(tensor_load_f32(u, 0, count, y), 0);
		assert_memory_equal(x, y, count * sizeof(*x));
		free(x);
	}
	model_close(m);
	model_close(n);
}

static void test_families(void **state)
{
	char dir[64], file[80], back[80];

	(void)state;
	for (size_t i = 0; i < MODELS; i++) {
		const struct synth *s = &models[i];

		synth_make(s, dir);
		snprintf(file, sizeof(file), "%s/x.gguf", dir);
		snprintf(back, sizeof(back), "%s-back", dir);
		mkdir(back, 0777);
		convert(dir, file, &qf_gguf, DT_F16);
		same_config(dir, file);
		same_logits(dir, file, s);
		convert(file, back, s->bits ? &qf_gptq : NULL, DT_F16);
		same_config(dir, back);
		same_logits(dir, back, s);
		if (!s->bits)
			same_tensors(dir, back);
		scratch_clear(back);
		scratch_clear(dir);
	}
}

/* The rows of q are not where transformers has them, and all else is. */
static void test_rows_turn(void **state)
{
	struct synth s = models[1];
	char dir[64], file[80];
	struct model *m, *n;

	(void)state;
	synth_make(&s, dir);
	snprintf(file, sizeof(file), "%s/x.gguf", dir);
	convert(dir, file, &qf_gguf, DT_F16);
	OK(model_open(dir, 0, &m, &err));
	OK(model_open(file, 0, &n, &err));
	for (uint32_t i = 0; i < m->tensor_count; i++) {
		const struct tensor *t = &m->tensor[i];
		const struct tensor *u = model_find(n, t->name);
		bool turned = strstr(t->name, "q_proj") ||
			      strstr(t->name, "k_proj");

		assert_non_null(u);
		assert_int_equal(u->turned, turned ? s.dim : 0);
		if (t->type != u->type)
			continue;
		assert_int_equal(!memcmp(t->data, u->data, t->size), !turned);
	}
	model_close(m);
	model_close(n);
	scratch_clear(dir);
}

/* ---- what cannot be told ---- */

static void refused(struct synth s, const char *more, const char *why)
{
	struct repack_report r;
	char dir[64], file[80];
	struct survey v;
	struct model *m;

	s.more = more;
	synth_make(&s, dir);
	snprintf(file, sizeof(file), "%s/x.gguf", dir);
	OK(model_open(dir, 0, &m, &err));
	OK(survey_model(m, &v, &err));
	struct repack_job job = { .model = m, .survey = &v, .to = &qf_gguf,
		.out = file, .prove = true, .threads = 1 };
	assert_int_equal(repack_run(&job, &r, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	if (!strstr(err.msg, why))
		fail_msg("\"%s\" does not say \"%s\"", err.msg, why);
	assert_false(io_is_file(file));
	survey_release(&v);
	model_close(m);
	scratch_clear(dir);
}

static void test_refused(void **state)
{
	(void)state;
	refused(models[1], ", \"rope_scaling\": {\"type\": \"dynamic\", "
		"\"factor\": 2.0}", "dynamic");
	refused(models[1], ", \"rope_scaling\": {\"type\": \"yarn\", "
		"\"factor\": 2.0, \"truncate\": false}", "truncation");
	refused(models[1], ", \"hidden_act\": \"gelu\"", "Llama family");
}

/* ---- names ---- */

static void test_names(void **state)
{
	static const char *const none[] = { "model.layers.0.mlp.up_proj",
		"model.layers.00.mlp.up_proj.weight", "lm_head.scales",
		"model.layers.5000.mlp.up_proj.weight", "weight", "",
		"model.layers.1.mlp.up_proj.extra.weight",
		"model.layers..mlp.up_proj.weight" };
	char a[LLAMA_NAME], b[LLAMA_NAME], name[LLAMA_NAME + 8];

	(void)state;
	for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
		assert_int_equal(llama_gguf_name(none[i], a), -1);
	assert_int_equal(llama_gguf_parse("blk.1.weight", a), -1);
	assert_int_equal(llama_gguf_parse("blk.x.attn_q.weight", a), -1);
	assert_int_equal(llama_gguf_parse("rope_freqs.weight", a), -1);
	for (int j = 0; j < LLAMA_LINEARS; j++) {
		llama_linear_name(4095, (enum llama_linear)j, a);
		snprintf(name, sizeof(name), "%.200s.bias", a);
		assert_int_equal(llama_gguf_name(name, a), 0);
		assert_int_equal(strncmp(a, "blk.4095.", 9), 0);
		assert_int_equal(llama_gguf_parse(a, b), 0);
		assert_string_equal(name, b);
	}
	assert_int_equal(llama_gguf_name(LLAMA_EMBED, a), 0);
	assert_string_equal(a, "token_embd.weight");
	assert_int_equal(llama_gguf_turned("llama",
			 "model.layers.3.self_attn.k_proj.weight", 64), 64);
	assert_int_equal(llama_gguf_turned("qwen2",
			 "model.layers.3.self_attn.k_proj.weight", 64), 0);
	assert_int_equal(llama_gguf_turned("llama",
			 "model.layers.3.self_attn.v_proj.weight", 64), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_families),
		cmocka_unit_test(test_rows_turn),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
