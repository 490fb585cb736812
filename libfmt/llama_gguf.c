#include "llama_gguf.h"

#include "base/err.h"
#include "base/io.h"
#include "container/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names ---- */

/* Behind "model.layers.N." and "blk.N.", in front of ".weight" or ".bias". */
static const struct {
	const char *name, *gguf;
} parts[] = {
	{ "input_layernorm", "attn_norm" },
	{ "self_attn.q_proj", "attn_q" },
	{ "self_attn.k_proj", "attn_k" },
	{ "self_attn.v_proj", "attn_v" },
	{ "self_attn.o_proj", "attn_output" },
	{ "self_attn.q_norm", "attn_q_norm" },
	{ "self_attn.k_norm", "attn_k_norm" },
	{ "post_attention_layernorm", "ffn_norm" },
	{ "mlp.gate_proj", "ffn_gate" },
	{ "mlp.up_proj", "ffn_up" },
	{ "mlp.down_proj", "ffn_down" },
};

/* Outside the blocks. */
static const struct {
	const char *name, *gguf;
} wholes[] = {
	{ "model.embed_tokens", "token_embd" },
	{ "model.norm", "output_norm" },
	{ LLAMA_HEAD, "output" },
};

/* The part in front of ".weight" or ".bias": its length, 0: neither. */
static size_t stem(const char *name)
{
	const char *dot = strrchr(name, '.');

	return dot && (!strcmp(dot, ".weight") || !strcmp(dot, ".bias")) ?
		       (size_t)(dot - name) : 0;
}

static int is(const char *s, size_t n, const char *name)
{
	return strlen(name) == n && !memcmp(s, name, n);
}

/* "HEADn.": the block's number; *rest is what follows. */
static int block_of(const char *name, const char *head, uint32_t *layer,
		    const char **rest)
{
	size_t n = strlen(head), digits;
	unsigned long v;
	char *end;

	if (strncmp(name, head, n))
		return -1;
	digits = strspn(name + n, "0123456789");
	if (!digits || digits > 4 || (digits > 1 && name[n] == '0'))
		return -1;
	v = strtoul(name + n, &end, 10);
	if (*end != '.' || v >= LLAMA_LAYERS_MAX)
		return -1;
	*layer = (uint32_t)v;
	*rest = end + 1;
	return 0;
}

int llama_gguf_name(const char *name, char out[LLAMA_NAME])
{
	size_t n = stem(name);
	const char *rest, *suffix = name + n;
	uint32_t layer;

	for (size_t i = 0; n && i < sizeof(wholes) / sizeof(wholes[0]); i++)
		if (is(name, n, wholes[i].name)) {
			snprintf(out, LLAMA_NAME, "%s%s", wholes[i].gguf,
				 suffix);
			return 0;
		}
	if (!n || block_of(name, "model.layers.", &layer, &rest) ||
	    rest > suffix)
		return -1;
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (is(rest, (size_t)(suffix - rest), parts[i].name)) {
			snprintf(out, LLAMA_NAME, "blk.%u.%s%s", layer,
				 parts[i].gguf, suffix);
			return 0;
		}
	return -1;
}

int llama_gguf_parse(const char *name, char out[LLAMA_NAME])
{
	size_t n = stem(name);
	const char *rest, *suffix = name + n;
	uint32_t layer;

	for (size_t i = 0; n && i < sizeof(wholes) / sizeof(wholes[0]); i++)
		if (is(name, n, wholes[i].gguf)) {
			snprintf(out, LLAMA_NAME, "%s%s", wholes[i].name,
				 suffix);
			return 0;
		}
	if (!n || block_of(name, "blk.", &layer, &rest) || rest > suffix)
		return -1;
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (is(rest, (size_t)(suffix - rest), parts[i].gguf)) {
			snprintf(out, LLAMA_NAME, "model.layers.%u.%s%s",
				 layer, parts[i].name, suffix);
			return 0;
		}
	return -1;
}

uint32_t llama_gguf_turned(const char *architecture, const char *name,
			   uint32_t head_dim)
{
	const char *rest;
	uint32_t layer;
	size_t n = stem(name);

	if (strcmp(architecture, "llama") || !n ||
	    block_of(name, "model.layers.", &layer, &rest) || rest > name + n)
		return 0;
	n = (size_t)(name + n - rest);
	return is(rest, n, "self_attn.q_proj") ||
	       is(rest, n, "self_attn.k_proj") ? head_dim : 0;
}

/* ---- hyper-parameters ---- */

const char *llama_gguf_architecture(const struct llama_config *c)
{
	static const struct {
		const char *name, *type, *gguf;
	} known[] = {
		{ "LlamaForCausalLM", "llama", "llama" },
		{ "LLaMAForCausalLM", "llama", "llama" },
		{ "MistralForCausalLM", "mistral", "llama" },
		{ "Qwen2ForCausalLM", "qwen2", "qwen2" },
		{ "Qwen3ForCausalLM", "qwen3", "qwen3" },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (*c->architecture ?
			    !strcmp(c->architecture, known[i].name) :
			    !strcmp(c->model_type, known[i].type))
			return known[i].gguf;
	return NULL;
}

/* ---- the tensors of a file ---- */

int llama_gguf_split(const struct gguf_file *f, uint32_t files,
		     struct err *err)
{
	uint64_t count = 1;

	gguf_uint(f, "split.count", UINT16_MAX, &count);
	if (count <= 1 || count == files)
		return 0;
	return err_set(err, ERR_UNSUP, "one file of a set of %u; the folder "
		       "that holds all of them, and nothing else, can be given",
		       (unsigned)count);
}

int llama_gguf_fetch(struct gguf_file *f, struct src *s, struct err *err)
{
	for (uint32_t i = 0; i < f->count; i++) {
		struct tensor *t = &f->tensor[i];

		if (!t->data && !strcmp(t->name, LLAMA_GGUF_ROPE))
			return io_view(s, t->offset, t->size, &t->data, err);
	}
	return 0;
}

int llama_gguf_rename(struct gguf_file *f, const struct llama_config *c,
		      struct err *err)
{
	const char *architecture = c ? llama_gguf_architecture(c) : NULL;
	char name[LLAMA_NAME];

	for (uint32_t i = 0; i < f->count; i++) {
		struct tensor *t = &f->tensor[i];

		if (llama_gguf_parse(f->names[i], name))
			continue;
		/* what the architecture has names for fits */
		snprintf(f->names[i], GGUF_NAME, "%.*s", GGUF_NAME - 1, name);
		if (architecture)
			t->turned = llama_gguf_turned(architecture, name,
						      c->head_dim);
		if (t->turned && t->dim[0] % t->turned)
			return err_set(err, ERR_INPUT, "%s: %llu rows are not "
				       "whole heads of %u", name,
				       (unsigned long long)t->dim[0],
				       t->turned);
	}
	return 0;
}

/* ---- the pairs ---- */

/* "llama.context_length" */
struct keys {
	const char *architecture;
	struct gguf_meta *m;
	char key[96];
};

static const char *key(struct keys *k, const char *name)
{
	snprintf(k->key, sizeof(k->key), "%s.%s", k->architecture, name);
	return k->key;
}

static void put_scaling(struct keys *k, const char *type, double factor)
{
	gguf_put_text(k->m, key(k, "rope.scaling.type"), type, strlen(type));
	gguf_put_f32(k->m, key(k, "rope.scaling.factor"), factor);
}

/* The readers' own attention factor is 0.1 ln(factor) + 1; theirs is multiplied
 * by what the file says. */
static int put_yarn(const struct llama_config *c, struct keys *k,
		    struct err *err)
{
	double own = 0.1 * log(c->rope.factor) + 1, want = own;

	if (!c->rope.truncate)
		return err_set(err, ERR_UNSUP, "GGUF has no yarn scaling "
			       "without truncation");
	if (c->rope.attention_factor > 0)
		want = c->rope.attention_factor;
	else if (c->rope.mscale > 0 && c->rope.mscale_all_dim > 0)
		want = (0.1 * c->rope.mscale * log(c->rope.factor) + 1) /
		       (0.1 * c->rope.mscale_all_dim * log(c->rope.factor) +
			1);
	put_scaling(k, "yarn", c->rope.factor);
	gguf_put_u32(k->m, key(k, "rope.scaling.original_context_length"),
		     c->rope.original_max_pos);
	gguf_put_f32(k->m, key(k, "rope.scaling.yarn_beta_fast"),
		     c->rope.beta_fast);
	gguf_put_f32(k->m, key(k, "rope.scaling.yarn_beta_slow"),
		     c->rope.beta_slow);
	if (want < own || want > own)
		gguf_put_f32(k->m, key(k, "rope.scaling.attn_factor"),
			     want / own);
	return 0;
}

/* (llama3 is a tensor, see llama_gguf_rope.) */
static int put_rope(const struct llama_config *c, struct keys *k,
		    struct err *err)
{
	gguf_put_u32(k->m, key(k, "rope.dimension_count"), c->head_dim);
	gguf_put_f32(k->m, key(k, "rope.freq_base"), c->rope.theta);
	switch (c->rope.kind) {
	case LLAMA_ROPE_LINEAR:
		put_scaling(k, "linear", c->rope.factor);
		return 0;
	case LLAMA_ROPE_YARN:
		return put_yarn(c, k, err);
	case LLAMA_ROPE_DYNAMIC:
		return err_set(err, ERR_UNSUP, "GGUF has no dynamic scaling of "
			       "rotary embeddings");
	default:
		return 0;
	}
}

int llama_gguf_put(const struct llama_config *c, struct gguf_meta *m,
		   struct err *err)
{
	struct keys k = { .architecture = llama_gguf_architecture(c), .m = m };

	if (!k.architecture)
		return err_set(err, ERR_UNSUP, "architecture %s: GGUF's "
			       "readers have none like it", c->architecture);
	gguf_put_text(m, "general.architecture", k.architecture,
		      strlen(k.architecture));
	gguf_put_text(m, "general.type", "model", 5);
	gguf_put_u32(m, key(&k, "vocab_size"), c->vocab);
	gguf_put_u32(m, key(&k, "context_length"), c->max_pos);
	gguf_put_u32(m, key(&k, "embedding_length"), c->hidden);
	gguf_put_u32(m, key(&k, "block_count"), c->layers);
	gguf_put_u32(m, key(&k, "feed_forward_length"), c->inter);
	gguf_put_u32(m, key(&k, "attention.head_count"), c->heads);
	gguf_put_u32(m, key(&k, "attention.head_count_kv"), c->kv_heads);
	gguf_put_u32(m, key(&k, "attention.key_length"), c->head_dim);
	gguf_put_u32(m, key(&k, "attention.value_length"), c->head_dim);
	gguf_put_f32(m, key(&k, "attention.layer_norm_rms_epsilon"), c->eps);
	return put_rope(c, &k, err);
}

/* Source: transformers, modeling_rope_utils, llama3; what the frequency is
 * divided by there. */
void llama_gguf_rope(const struct llama_config *c, float *out)
{
	const double two_pi = 6.283185307179586476925286766559;
	double m = c->rope.original_max_pos, factor = c->rope.factor;
	double low = c->rope.low_freq, high = c->rope.high_freq;

	for (uint32_t i = 0; i < c->head_dim / 2; i++) {
		double wave = two_pi *
			      pow(c->rope.theta, 2.0 * i / c->head_dim);
		double s = (m / wave - low) / (high - low);

		s = wave > m / low ? 0 : wave < m / high ? 1 : s;
		out[i] = (float)(1 / ((1 - s) / factor + s));
	}
}
