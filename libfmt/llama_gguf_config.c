/* config.json from a GGUF file: as transformers would have written it. */
#include "llama_gguf.h"

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"
#include "container/gguf.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD_MAX 1024u /* a longer head is refused by llama_config_read */

static const struct {
	const char *gguf, *architecture, *model_type;
} known[] = {
	{ "llama", "LlamaForCausalLM", "llama" },
	{ "qwen2", "Qwen2ForCausalLM", "qwen2" },
	{ "qwen3", "Qwen3ForCausalLM", "qwen3" },
};

struct reader {
	const struct gguf_file *f;
	struct cJSON *top;
	char architecture[64], key[160];
	bool broken; /* no memory for a node */
};

static const char *key(struct reader *r, const char *name)
{
	snprintf(r->key, sizeof(r->key), "%s.%s", r->architecture, name);
	return r->key;
}

static const struct tensor *find(const struct reader *r, const char *name)
{
	for (uint32_t i = 0; i < r->f->count; i++)
		if (!strcmp(r->f->tensor[i].name, name))
			return &r->f->tensor[i];
	return NULL;
}

/* ---- values ---- */

static void add_number(struct reader *r, struct cJSON *o, const char *name,
		       double v)
{
	if (!cJSON_AddNumberToObject(o, name, v))
		r->broken = true;
}

static void add_text(struct reader *r, struct cJSON *o, const char *name,
		     const char *text)
{
	if (!cJSON_AddStringToObject(o, name, text))
		r->broken = true;
}

static void add_flag(struct reader *r, const char *name, bool v)
{
	if (!cJSON_AddBoolToObject(r->top, name, v))
		r->broken = true;
}

/* The shortest decimal that means this f32: 1e-05, not 9.999999747e-06. */
static double decimal(double v)
{
	char text[32];

	for (int digits = 6; digits < 10 && isfinite(v); digits++) {
		double d;

		snprintf(text, sizeof(text), "%.*g", digits, v);
		d = strtod(text, NULL);
		if (!((float)d < (float)v) && !((float)d > (float)v))
			return d;
	}
	return v;
}

/* Copy the whole number NAME.from to `to`, where it is there. */
static bool copy_uint(struct reader *r, const char *from, const char *to)
{
	uint64_t v;

	if (!gguf_uint(r->f, key(r, from), UINT32_MAX, &v))
		return false;
	add_number(r, r->top, to, (double)v);
	return true;
}

static bool real(struct reader *r, const char *from, double *v)
{
	if (!gguf_real(r->f, key(r, from), v))
		return false;
	*v = decimal(*v);
	return true;
}

/* ---- parts ---- */

/* Said, or what the heads share; 0: neither is there or makes sense. */
static uint32_t head_dim(struct reader *r)
{
	uint64_t heads = 0, hidden = 0, dim = 0;

	if (gguf_uint(r->f, key(r, "attention.key_length"), HEAD_MAX, &dim))
		return (uint32_t)dim;
	if (gguf_uint(r->f, key(r, "attention.head_count"), UINT32_MAX,
		      &heads) &&
	    gguf_uint(r->f, key(r, "embedding_length"), UINT32_MAX, &hidden) &&
	    heads && hidden / heads <= HEAD_MAX)
		return (uint32_t)(hidden / heads);
	return 0;
}

static void add_sizes(struct reader *r)
{
	const struct tensor *embed = find(r, "token_embd.weight");
	const struct gguf_kv *tokens =
		gguf_array(r->f, "tokenizer.ggml.tokens", GGUF_TEXT);
	uint32_t dim = head_dim(r);
	uint64_t rope;

	copy_uint(r, "embedding_length", "hidden_size");
	copy_uint(r, "feed_forward_length", "intermediate_size");
	copy_uint(r, "block_count", "num_hidden_layers");
	copy_uint(r, "attention.head_count", "num_attention_heads");
	copy_uint(r, "attention.head_count_kv", "num_key_value_heads");
	copy_uint(r, "context_length", "max_position_embeddings");
	if (dim)
		add_number(r, r->top, "head_dim", dim);
	/* the tensor knows best */
	if (embed && embed->rank == 2)
		add_number(r, r->top, "vocab_size", (double)embed->dim[0]);
	else if (!copy_uint(r, "vocab_size", "vocab_size") && tokens)
		add_number(r, r->top, "vocab_size", (double)tokens->count);
	if (dim && gguf_uint(r->f, key(r, "rope.dimension_count"), dim - 1,
			     &rope))
		add_number(r, r->top, "partial_rotary_factor",
			   (double)rope / dim);
}

/* A head of its own is not tied; biases are there or not in all blocks. */
static void add_rest(struct reader *r)
{
	const struct tensor *embed = find(r, "token_embd.weight");
	double eps, theta;

	if (real(r, "attention.layer_norm_rms_epsilon", &eps))
		add_number(r, r->top, "rms_norm_eps", eps);
	add_text(r, r->top, "hidden_act", "silu");
	add_number(r, r->top, "rope_theta",
		   real(r, "rope.freq_base", &theta) ? theta : 10000);
	add_flag(r, "tie_word_embeddings", !find(r, "output.weight"));
	if (!strcmp(r->architecture, "llama")) {
		add_flag(r, "attention_bias",
			 find(r, "blk.0.attn_q.bias") != NULL);
		add_flag(r, "mlp_bias", find(r, "blk.0.ffn_up.bias") != NULL);
	}
	add_text(r, r->top, "torch_dtype",
		 embed && embed->type == DT_BF16 ? "bfloat16" :
		 embed && embed->type == DT_F32 ? "float32" : "float16");
}

/* Of a chat model both ends of turn and text end the generation. */
static void add_tokens(struct reader *r)
{
	static const char *const end[] = { "tokenizer.ggml.eos_token_id",
		"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id" };
	struct cJSON *list = cJSON_CreateArray();
	uint64_t id, last = UINT64_MAX;

	if (gguf_uint(r->f, "tokenizer.ggml.bos_token_id", INT32_MAX, &id))
		add_number(r, r->top, "bos_token_id", (double)id);
	for (int i = 0; i < 3; i++)
		if (gguf_uint(r->f, end[i], INT32_MAX, &id) && id != last) {
			last = id;
			cJSON_AddItemToArray(list, cJSON_CreateNumber(
							   (double)id));
		}
	if (json_count(list) == 1)
		add_number(r, r->top, "eos_token_id", (double)last);
	if (json_count(list) < 2)
		cJSON_Delete(list);
	else if (!cJSON_AddItemToObject(r->top, "eos_token_id", list))
		r->broken = true;
	if (gguf_uint(r->f, "tokenizer.ggml.padding_token_id", INT32_MAX, &id))
		add_number(r, r->top, "pad_token_id", (double)id);
}

/* ---- rotary scaling ---- */

/* The factors say which scaling made them, if it is one in use: Llama 3.1 and
 * its kin differ in factor and original length only. */
static bool guess_llama3(struct reader *r, const struct tensor *t,
			 struct llama_config *c)
{
	float have[HEAD_MAX / 2], want[HEAD_MAX / 2];
	uint32_t n = head_dim(r) / 2;

	if (!n || t->type != DT_F32 || !t->data ||
	    !tensor_is_shape(t, 1, n, 0) || tensor_load_f32(t, 0, n, have))
		return false;
	c->head_dim = 2 * n;
	c->rope.theta = 10000;
	real(r, "rope.freq_base", &c->rope.theta);
	c->rope.low_freq = 1;
	c->rope.high_freq = 4;
	c->rope.factor = (double)have[n - 1];
	for (uint32_t m = 16; m <= 1u << 20; m *= 2) {
		uint32_t i = 0;

		c->rope.original_max_pos = m;
		llama_gguf_rope(c, want);
		/* some programs made them in f32 */
		while (i < n && fabsf(have[i] - want[i]) <= 1e-4f * want[i])
			i++;
		if (i == n)
			return true;
	}
	return false;
}

static void add_llama3(struct reader *r, struct cJSON *o,
		       const struct tensor *t)
{
	struct llama_config c = { 0 };

	if (!guess_llama3(r, t, &c)) {
		add_text(r, o, "rope_type",
			 "(the factors of rope_freqs.weight)");
		return;
	}
	add_text(r, o, "rope_type", "llama3");
	add_number(r, o, "factor", c.rope.factor);
	add_number(r, o, "low_freq_factor", c.rope.low_freq);
	add_number(r, o, "high_freq_factor", c.rope.high_freq);
	add_number(r, o, "original_max_position_embeddings",
		   c.rope.original_max_pos);
}

/* The factor in the file multiplies the readers' own, see put_yarn. */
static void add_yarn(struct reader *r, struct cJSON *o, double factor)
{
	uint64_t length;
	double v;

	if (gguf_uint(r->f, key(r, "rope.scaling.original_context_length"),
		      UINT32_MAX, &length))
		add_number(r, o, "original_max_position_embeddings",
			   (double)length);
	if (real(r, "rope.scaling.yarn_beta_fast", &v))
		add_number(r, o, "beta_fast", v);
	if (real(r, "rope.scaling.yarn_beta_slow", &v))
		add_number(r, o, "beta_slow", v);
	if (real(r, "rope.scaling.attn_factor", &v))
		add_number(r, o, "attention_factor",
			   v * (0.1 * log(factor) + 1));
}

/* llama3 is known by its tensor alone: no key names it. */
static void add_scaling(struct reader *r)
{
	const struct tensor *t = find(r, LLAMA_GGUF_ROPE);
	char type[64] = "none";
	const char *text;
	double factor = 1;
	struct cJSON *o;
	size_t n;

	if (gguf_text(r->f, key(r, "rope.scaling.type"), &text, &n))
		snprintf(type, sizeof(type), "%.*s", (int)(n < 63 ? n : 63),
			 text);
	if (!strcmp(type, "none") && !t)
		return;
	o = cJSON_AddObjectToObject(r->top, "rope_scaling");
	if (!o) {
		r->broken = true;
		return;
	}
	if (t) {
		add_llama3(r, o, t);
		return;
	}
	add_text(r, o, "rope_type", type);
	real(r, "rope.scaling.factor", &factor);
	add_number(r, o, "factor", factor);
	if (!strcmp(type, "yarn"))
		add_yarn(r, o, factor);
}

/* ---- the whole ---- */

/* What makes this another architecture than its name says. */
static const char *variant(struct reader *r)
{
	const struct gguf_kv *kv;
	uint64_t n;

	if (gguf_uint(r->f, key(r, "expert_count"), UINT32_MAX, &n) && n)
		return " with experts";
	kv = gguf_find(r->f, key(r, "attention.head_count_kv"));
	if (kv && kv->type == GGUF_ARRAY)
		return " with blocks of unequal size";
	kv = gguf_find(r->f, key(r, "feed_forward_length"));
	if (kv && kv->type == GGUF_ARRAY)
		return " with blocks of unequal size";
	return "";
}

/* A window makes it a Mistral, whose reader knows what to do about it. */
static int add_names(struct reader *r)
{
	const char *name, *type;
	char full[128];
	uint64_t window;
	int row = -1;

	for (int i = 0; i < 3 && !*variant(r); i++)
		if (!strcmp(r->architecture, known[i].gguf))
			row = i;
	snprintf(full, sizeof(full), "%s%s", r->architecture, variant(r));
	name = row < 0 ? full : known[row].architecture;
	type = row < 0 ? r->architecture : known[row].model_type;
	if (row == 0 && gguf_uint(r->f, key(r, "attention.sliding_window"),
				  UINT32_MAX, &window) && window) {
		name = "MistralForCausalLM";
		type = "mistral";
		add_number(r, r->top, "sliding_window", (double)window);
	}
	if (!cJSON_AddItemToObject(r->top, "architectures",
				   cJSON_CreateStringArray(&name, 1)))
		r->broken = true;
	add_text(r, r->top, "model_type", type);
	return row;
}

int llama_gguf_config(const struct gguf_file *f, struct cJSON **out,
		      struct err *err)
{
	struct reader r = { .f = f, .top = cJSON_CreateObject() };
	const char *text = "unknown";
	size_t n = 7;

	*out = NULL;
	gguf_text(f, "general.architecture", &text, &n);
	for (size_t i = 0; i < n && i < sizeof(r.architecture) - 1; i++)
		r.architecture[i] = text[i] > ' ' && text[i] < 0x7f ? text[i]
								     : '?';
	if (r.top && add_names(&r) >= 0) {
		add_sizes(&r);
		add_rest(&r);
		add_tokens(&r);
		add_scaling(&r);
	}
	if (!r.top || r.broken) {
		json_free(r.top);
		return err_set(err, ERR_RESOURCE, "out of memory for JSON");
	}
	*out = r.top;
	return 0;
}
