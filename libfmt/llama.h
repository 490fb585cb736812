/* llama.h - Llama-family names and hyper-parameters; no arithmetic.
 *
 * Llama 1, 2, 3, Mistral (without a sliding window in use) and Qwen2/Qwen3
 * shaped models: RMSNorm, rotary embeddings, grouped-query attention, SwiGLU.
 * This is the only file that knows a tensor's full name. */
#ifndef LIBFMT_LLAMA_H
#define LIBFMT_LLAMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cJSON;
struct err;
struct model;

enum llama_rope {
	LLAMA_ROPE_PLAIN = 0,
	LLAMA_ROPE_LINEAR,
	LLAMA_ROPE_DYNAMIC,
	LLAMA_ROPE_LLAMA3,
	LLAMA_ROPE_YARN
};

#define LLAMA_EOS_MAX 8

struct llama_config {
	const char *model_type;   /* borrowed from the config's tree */
	const char *architecture; /* likewise; "" when missing */
	uint32_t hidden, inter, layers, heads, kv_heads, head_dim, vocab;
	uint32_t max_pos;         /* max_position_embeddings */
	double eps;               /* rms_norm_eps */
	bool attn_bias_qkv, attn_bias_o, mlp_bias, qk_norm;
	bool tied;                /* tie_word_embeddings */
	struct {
		enum llama_rope kind;
		double theta, factor;
		double low_freq, high_freq;    /* llama3 */
		double beta_fast, beta_slow;   /* yarn */
		double attention_factor;       /* yarn; 0: from factor */
		double mscale, mscale_all_dim; /* yarn; 0: none */
		bool truncate;                 /* yarn; default true */
		uint32_t original_max_pos;     /* llama3, yarn; else max_pos */
	} rope;
	int64_t bos;              /* -1: none */
	uint32_t eos[LLAMA_EOS_MAX], eos_count;
};

/* Read config.json (and, when not NULL, generation_config.json for eos ids).
 * An architecture we do not run is ERR_UNSUP, a missing or absurd field
 * ERR_INPUT.  Both rope_scaling/rope_theta and the newer rope_parameters are
 * read. */
int llama_config_read(const struct cJSON *config,
		      const struct cJSON *generation,
		      struct llama_config *out, struct err *err);

/* The linears of a block in the order of the forward pass. */
enum llama_linear {
	LLAMA_Q = 0, LLAMA_K, LLAMA_V, LLAMA_O, LLAMA_GATE, LLAMA_UP,
	LLAMA_DOWN,
	LLAMA_LINEARS
};
/* Linears that share one input: qkv | o | gate up | down. */
enum llama_slot { LLAMA_SLOT_QKV = 0, LLAMA_SLOT_O, LLAMA_SLOT_GATE_UP,
	LLAMA_SLOT_DOWN, LLAMA_SLOTS };

enum llama_norm { LLAMA_NORM_IN = 0, LLAMA_NORM_POST, LLAMA_NORM_Q,
	LLAMA_NORM_K };

#define LLAMA_NAME 256
#define LLAMA_LAYERS_MAX 4096u
/* "model.layers.3.mlp.up_proj" (the module, without ".weight"). */
const char *llama_linear_name(uint32_t layer, enum llama_linear which,
			      char buf[LLAMA_NAME]);
/* "model.layers.3.input_layernorm.weight" (the tensor). */
const char *llama_norm_name(uint32_t layer, enum llama_norm which,
			    char buf[LLAMA_NAME]);
/* "model.layers.3.self_attn.qkv_proj", the name some readers give to the
 * linears of a slot that they run as one; NULL for slots of one linear. */
const char *llama_fused_name(uint32_t layer, enum llama_slot slot,
			     char buf[LLAMA_NAME]);
#define LLAMA_TABLE "model.embed_tokens" /* the module */
#define LLAMA_EMBED LLAMA_TABLE ".weight"
#define LLAMA_FINAL_NORM "model.norm.weight"
#define LLAMA_HEAD "lm_head" /* the module */

/* "q_proj" and so on. */
const char *llama_linear_short(enum llama_linear which);
enum llama_slot llama_slot_of(enum llama_linear which);
/* in = K, out = N of a linear. */
void llama_linear_shape(const struct llama_config *c, enum llama_linear which,
			uint32_t *in, uint32_t *out);
/* Whether the architecture has a bias there. */
bool llama_has_bias(const struct llama_config *c, enum llama_linear which);
/* Which block and linear a module name is; -1 when it is none. */
int llama_linear_parse(const char *module, uint32_t *layer,
		       enum llama_linear *which);
/* Modules that loaders build dense whatever a config says: embeddings, and
 * the routers of mixtures of experts, which are no Llama's but often beside
 * its linears. */
bool llama_is_dense(const char *module);

/* Check that every tensor the architecture needs is there with the right
 * shape, for dense and quantized modules alike.  The first fault is the
 * message: file, tensor, what is wrong, what was expected.  A bias that the
 * architecture does not have may be there, with one entry per output (old
 * files carry zeros); lm_head may be absent when the embeddings are tied. */
int llama_check(const struct model *m, const struct llama_config *c,
		struct err *err);

/* Number of parameters of the architecture (dense count). */
uint64_t llama_parameters(const struct llama_config *c);

#endif
