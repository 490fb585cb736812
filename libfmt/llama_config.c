#include "llama.h"

#include "base/err.h"
#include "base/json.h"

#include <math.h>
#include <string.h>

/* A config that asks for more than this is absurd, not large. */
#define MAX_HEADS 4096u
#define MAX_HEAD_DIM 1024u
#define MAX_HIDDEN (1u << 20)
#define MAX_INTER (1u << 22)
#define MAX_VOCAB (1u << 24)
#define MAX_POSITIONS (1u << 27)

/* ---- hyper-parameters ---- */

/* The families we run, and where they differ from Llama. */
struct family {
	const char *architecture, *model_type;
	bool qkv_bias;      /* always there */
	bool bias_switch;   /* attention_bias is honoured, on all four */
	bool mlp_switch;    /* mlp_bias is honoured */
	bool qk_norm;
	bool window;        /* sliding_window is in use when given */
	bool window_switch; /* only with use_sliding_window */
};

static const struct family families[] = {
	{ "LlamaForCausalLM", "llama", .bias_switch = true,
	  .mlp_switch = true },
	{ "LLaMAForCausalLM", "llama", .bias_switch = true,
	  .mlp_switch = true }, /* the first conversions of 2023 */
	{ "MistralForCausalLM", "mistral", .window = true },
	{ "Qwen2ForCausalLM", "qwen2", .qkv_bias = true,
	  .window_switch = true },
	{ "Qwen3ForCausalLM", "qwen3", .bias_switch = true, .qk_norm = true,
	  .window_switch = true },
};

static int find_family(const struct llama_config *c, const struct family **out,
		       struct err *err)
{
	static const char *const can =
		"supported are the Llama, Mistral, Qwen2 and Qwen3 families";

	for (size_t i = 0; i < sizeof(families) / sizeof(*families); i++) {
		*out = &families[i];
		if (*c->architecture ?
			    !strcmp(c->architecture, (*out)->architecture) :
			    !strcmp(c->model_type, (*out)->model_type))
			return 0;
	}
	if (*c->architecture)
		return err_set(err, ERR_UNSUP, "architecture %.128s; %s",
			       c->architecture, can);
	if (*c->model_type)
		return err_set(err, ERR_UNSUP, "model type %.128s; %s",
			       c->model_type, can);
	return err_set(err, ERR_INPUT,
		       "neither architectures nor model_type is there");
}

/* A number that must be there. */
static int need_u32(const struct cJSON *j, const char *key, uint32_t hi,
		    uint32_t *out, struct err *err)
{
	const struct cJSON *v = json_find(j, key);

	if (!v || json_is_null(v))
		return err_set(err, ERR_INPUT, "%s is missing", key);
	return json_get_u32(j, key, 1, hi, out, err);
}

static int read_sizes(const struct cJSON *j, struct llama_config *c,
		      struct err *err)
{
	const struct cJSON *dim = json_find(j, "head_dim");

	if (need_u32(j, "hidden_size", MAX_HIDDEN, &c->hidden, err) ||
	    need_u32(j, "intermediate_size", MAX_INTER, &c->inter, err) ||
	    need_u32(j, "num_hidden_layers", LLAMA_LAYERS_MAX, &c->layers,
		     err) ||
	    need_u32(j, "num_attention_heads", MAX_HEADS, &c->heads, err) ||
	    need_u32(j, "vocab_size", MAX_VOCAB, &c->vocab, err))
		return -1;
	c->kv_heads = c->heads;
	if (json_get_u32(j, "num_key_value_heads", 1, MAX_HEADS, &c->kv_heads,
			 err))
		return -1;
	if (c->heads % c->kv_heads)
		return err_set(err, ERR_INPUT, "num_attention_heads %u is not "
			       "a multiple of num_key_value_heads %u",
			       c->heads, c->kv_heads);
	if (dim && !json_is_null(dim)) {
		if (json_get_u32(j, "head_dim", 1, MAX_HEAD_DIM, &c->head_dim,
				 err))
			return -1;
	} else if (c->hidden % c->heads) {
		return err_set(err, ERR_INPUT, "hidden_size %u is not a "
			       "multiple of num_attention_heads %u", c->hidden,
			       c->heads);
	} else {
		c->head_dim = c->hidden / c->heads;
	}
	if (c->head_dim % 2 || c->head_dim > MAX_HEAD_DIM)
		return err_set(err, ERR_INPUT, "head_dim %u: must be even and "
			       "at most %u", c->head_dim, MAX_HEAD_DIM);
	c->max_pos = 2048;
	return json_get_u32(j, "max_position_embeddings", 1, MAX_POSITIONS,
			    &c->max_pos, err);
}

static int read_eps(const struct cJSON *j, struct llama_config *c,
		    struct err *err)
{
	c->eps = 1e-6;
	if (json_get_double(j, "rms_norm_eps", &c->eps, err))
		return -1;
	if (!(c->eps >= 0 && c->eps < 1))
		return err_set(err, ERR_INPUT,
			       "rms_norm_eps %g is not in [0, 1)", c->eps);
	return 0;
}

static int read_biases(const struct cJSON *j, const struct family *f,
		       struct llama_config *c, struct err *err)
{
	bool attention = false, mlp = false;

	if (json_get_bool(j, "attention_bias", &attention, err) ||
	    json_get_bool(j, "mlp_bias", &mlp, err) ||
	    json_get_bool(j, "tie_word_embeddings", &c->tied, err))
		return -1;
	c->attn_bias_o = f->bias_switch && attention;
	c->attn_bias_qkv = f->qkv_bias || c->attn_bias_o;
	c->mlp_bias = f->mlp_switch && mlp;
	c->qk_norm = f->qk_norm;
	return 0;
}

/* What would change the arithmetic and is not implemented. */
static int refuse_variants(const struct cJSON *j, const struct family *f,
			   const struct llama_config *c, struct err *err)
{
	const char *act = "silu";
	uint32_t window = UINT32_MAX;
	double partial = 1;
	bool use = f->window;

	if (json_get_text(j, "hidden_act", &act, err) ||
	    json_get_double(j, "partial_rotary_factor", &partial, err) ||
	    (f->window_switch &&
	     json_get_bool(j, "use_sliding_window", &use, err)))
		return -1;
	if (strcmp(act, "silu") && strcmp(act, "swish"))
		return err_set(err, ERR_UNSUP, "hidden_act %.64s; only silu "
			       "is supported", act);
	if (partial < 1 || partial > 1)
		return err_set(err, ERR_UNSUP, "partial_rotary_factor %g; "
			       "only whole rotary embeddings are supported",
			       partial);
	if (!use)
		return 0;
	if (json_get_u32(j, "sliding_window", 0, UINT32_MAX, &window, err))
		return -1;
	if (window < c->max_pos)
		return err_set(err, ERR_UNSUP, "sliding_window %u is below "
			       "max_position_embeddings %u; attention with a "
			       "sliding window is not supported", window,
			       c->max_pos);
	return 0;
}

/* ---- rotary embeddings ---- */

static int rope_kind(const struct cJSON *o, enum llama_rope *out,
		     struct err *err)
{
	static const char *const name[] = { "default", "linear", "dynamic",
		"llama3", "yarn" };
	const char *type = "default";

	if (json_get_text(o, "type", &type, err) ||
	    json_get_text(o, "rope_type", &type, err))
		return -1;
	for (size_t i = 0; i < sizeof(name) / sizeof(*name); i++) {
		if (strcmp(type, name[i]))
			continue;
		*out = (enum llama_rope)i;
		return 0;
	}
	return err_set(err, ERR_UNSUP, "scaling of type %.64s is not supported",
		       type);
}

/* 1 when `key` is there and positive and finite. */
static int need_positive(const struct cJSON *o, const char *key, double *out,
			 struct err *err)
{
	const struct cJSON *v = json_find(o, key);

	if (!v || json_is_null(v))
		return err_set(err, ERR_INPUT, "%s is missing", key);
	if (json_get_double(o, key, out, err))
		return -1;
	if (!(*out > 0 && isfinite(*out)))
		return err_set(err, ERR_INPUT, "%s %g is not positive", key,
			       *out);
	return 0;
}

static int read_llama3(const struct cJSON *o, struct llama_config *c,
		       struct err *err)
{
	if (need_positive(o, "low_freq_factor", &c->rope.low_freq, err) ||
	    need_positive(o, "high_freq_factor", &c->rope.high_freq, err) ||
	    need_u32(o, "original_max_position_embeddings", MAX_POSITIONS,
		     &c->rope.original_max_pos, err))
		return -1;
	if (!(c->rope.low_freq < c->rope.high_freq))
		return err_set(err, ERR_INPUT, "low_freq_factor %g is not "
			       "below high_freq_factor %g", c->rope.low_freq,
			       c->rope.high_freq);
	return 0;
}

static int read_yarn(const struct cJSON *o, struct llama_config *c,
		     struct err *err)
{
	c->rope.beta_fast = 32;
	c->rope.beta_slow = 1;
	c->rope.truncate = true;
	if (json_get_double(o, "beta_fast", &c->rope.beta_fast, err) ||
	    json_get_double(o, "beta_slow", &c->rope.beta_slow, err) ||
	    json_get_double(o, "attention_factor", &c->rope.attention_factor,
			    err) ||
	    json_get_double(o, "mscale", &c->rope.mscale, err) ||
	    json_get_double(o, "mscale_all_dim", &c->rope.mscale_all_dim,
			    err) ||
	    json_get_bool(o, "truncate", &c->rope.truncate, err))
		return -1;
	if (!(c->rope.beta_slow > 0 && c->rope.beta_slow <= c->rope.beta_fast &&
	      isfinite(c->rope.beta_fast)))
		return err_set(err, ERR_INPUT, "beta_slow %g and beta_fast %g "
			       "are not in order", c->rope.beta_slow,
			       c->rope.beta_fast);
	if (!(c->rope.attention_factor >= 0 && c->rope.mscale >= 0 &&
	      c->rope.mscale_all_dim >= 0))
		return err_set(err, ERR_INPUT, "a negative factor");
	return 0;
}

static int read_scaling(const struct cJSON *o, struct llama_config *c,
			struct err *err)
{
	const struct cJSON *factor = json_find(o, "factor");

	if (rope_kind(o, &c->rope.kind, err))
		return -1;
	if (c->rope.kind == LLAMA_ROPE_PLAIN)
		return 0;
	if (json_get_u32(o, "original_max_position_embeddings", 1,
			 MAX_POSITIONS, &c->rope.original_max_pos, err))
		return -1;
	/* without a factor, yarn stretches from the original length */
	if (c->rope.kind == LLAMA_ROPE_YARN &&
	    (!factor || json_is_null(factor)))
		c->rope.factor = (double)c->max_pos / c->rope.original_max_pos;
	else if (need_positive(o, "factor", &c->rope.factor, err))
		return -1;
	if (c->rope.factor < 1)
		return err_set(err, ERR_INPUT, "factor %g is below 1",
			       c->rope.factor);
	if (c->rope.kind == LLAMA_ROPE_LLAMA3)
		return read_llama3(o, c, err);
	if (c->rope.kind == LLAMA_ROPE_YARN)
		return read_yarn(o, c, err);
	return 0;
}

/* rope_theta and rope_scaling, or rope_parameters of the newer configs, which
 * holds both. */
static int read_rope(const struct cJSON *j, struct llama_config *c,
		     struct err *err)
{
	const char *key = "rope_parameters";
	const struct cJSON *o = json_find(j, key);

	if (!o || json_is_null(o)) {
		key = "rope_scaling";
		o = json_find(j, key);
	}
	c->rope.theta = 10000;
	c->rope.factor = 1;
	c->rope.original_max_pos = c->max_pos;
	if (json_get_u32(j, "original_max_position_embeddings", 1,
			 MAX_POSITIONS, &c->rope.original_max_pos, err) ||
	    json_get_double(j, "rope_theta", &c->rope.theta, err))
		return -1;
	if (o && !json_is_null(o)) {
		if (!json_is_object(o))
			return err_set(err, ERR_INPUT, "%s: not an object",
				       key);
		if (json_get_double(o, "rope_theta", &c->rope.theta, err) ||
		    read_scaling(o, c, err))
			return err_ctx(err, "%s", key);
	}
	if (!(c->rope.theta > 1 && isfinite(c->rope.theta)))
		return err_set(err, ERR_INPUT, "rope_theta %g is not above 1",
			       c->rope.theta);
	return 0;
}

/* ---- token ids ---- */

/* Ids outside the vocabulary (-1, a base model's leftovers) mean none. */
static int add_eos(const struct cJSON *v, struct llama_config *c,
		   struct err *err)
{
	int64_t id;

	if (json_int(v, -1, INT32_MAX, &id))
		return err_set(err, ERR_INPUT, "eos_token_id: not a token id");
	if (id < 0 || id >= c->vocab)
		return 0;
	if (c->eos_count == LLAMA_EOS_MAX)
		return err_set(err, ERR_UNSUP, "eos_token_id: more than %d ids",
			       LLAMA_EOS_MAX);
	c->eos[c->eos_count++] = (uint32_t)id;
	return 0;
}

static int read_tokens(const struct cJSON *j, const struct cJSON *generation,
		       struct llama_config *c, struct err *err)
{
	const struct cJSON *eos = json_find(generation, "eos_token_id");
	const struct cJSON *bos = json_find(j, "bos_token_id");

	c->bos = -1;
	if (bos && !json_is_null(bos) &&
	    json_int(bos, -1, INT32_MAX, &c->bos))
		return err_set(err, ERR_INPUT, "bos_token_id: not a token id");
	if (c->bos >= c->vocab)
		c->bos = -1;
	if (!eos || json_is_null(eos))
		eos = json_find(j, "eos_token_id");
	if (!eos || json_is_null(eos))
		return 0;
	if (!json_is_array(eos))
		return add_eos(eos, c, err);
	for (eos = json_first(eos); eos; eos = json_next(eos))
		if (add_eos(eos, c, err))
			return -1;
	return 0;
}

int llama_config_read(const struct cJSON *config,
		      const struct cJSON *generation,
		      struct llama_config *out, struct err *err)
{
	const struct cJSON *arch = json_find(config, "architectures");
	const struct family *family;

	memset(out, 0, sizeof(*out));
	out->model_type = out->architecture = "";
	if (!json_is_object(config)) {
		err_set(err, ERR_INPUT, "not there");
		goto fail;
	}
	if (json_is_array(arch) && json_text(json_first(arch)))
		out->architecture = json_text(json_first(arch));
	if (json_get_text(config, "model_type", &out->model_type, err) ||
	    find_family(out, &family, err) || read_sizes(config, out, err) ||
	    read_eps(config, out, err) ||
	    read_biases(config, family, out, err) ||
	    refuse_variants(config, family, out, err) ||
	    read_rope(config, out, err) ||
	    read_tokens(config, generation, out, err))
		goto fail;
	return 0;
fail:
	return err_ctx(err, "config.json");
}
