/* llm.h - a whole Llama on one device: load, prefill, decode.
 *
 * Everything a token needs is allocated by llm_open; decoding allocates
 * nothing.  One thread drives one model (the backend's threads are its own). */
#ifndef RUNTIME_LLM_H
#define RUNTIME_LLM_H

#include "block.h"

struct progress;

struct llm {
	struct rt_dev dev;
	struct llama_config cfg;  /* its strings are owned here */
	struct be_mat embed;      /* [vocab][hidden] */
	struct be_mat norm;       /* F32 [1][hidden] */
	struct rt_linear head;    /* dense.p == embed.p when tied */
	struct rt_block *block;   /* [cfg.layers] */
	struct rt_rope rope;
	struct rt_work work;
	struct kv kv;
	struct be_mat x;          /* [batch][hidden] */
	struct be_mat logits;     /* [rows][vocab], grown on demand */
	float *host;              /* [rows][vocab], for llm_forward */
	uint32_t context;         /* positions there is room for */
	uint32_t batch;           /* tokens of one prefill pass */
	char *text[2];            /* cfg.model_type, cfg.architecture */
};

/* A context may exceed the model's max_position_embeddings (the caller warns),
 * but not by more than this factor: ERR_USAGE. */
#define LLM_STRETCH 32

struct llm_open {
	struct rt_dev dev;
	uint32_t context;  /* 0: the model's max_position_embeddings */
	uint32_t batch;    /* 0: 512; at most the context */
	const struct progress *progress;
};

/* llama_config_read (with the generation_config.json beside it) and
 * llama_check, then the weights.  The model may be closed afterwards (weights
 * are copied to the device; on the CPU dense weights stay in their 16-bit
 * type).  Progress counts blocks.  On failure *out is NULL and everything is
 * released. */
int llm_open(const struct model *m, const struct llm_open *how,
	     struct llm **out, struct err *err);
void llm_close(struct llm *l); /* accepts NULL */

/* Forget all positions. */
void llm_reset(struct llm *l);
/* Run n tokens behind those in the cache, in batches; n == 1 is a decoding
 * step.  Only the last token's logits [vocab] are computed (host f32, caller's
 * buffer); NULL: none.  ERR_UNSUP when the context has no room for n, ERR_INPUT
 * for an id beyond the vocabulary; nothing has run then.  After any other
 * failure (interrupted) kv.used tells how many tokens are in the cache. */
int llm_prefill(struct llm *l, const uint32_t *id, uint32_t n, float *logits,
		const struct progress *p, struct err *err);
/* The same, with the logits of every token handed to fn in order, `rows` rows
 * of [vocab] at a time (host f32, valid during the call); `first` counts from
 * the first of the n tokens.  fn returns 0, or -1 with err filled. */
struct llm_rows {
	int (*fn)(void *ctx, uint32_t first, uint32_t rows,
		  const float *logits, struct err *err);
	void *ctx;
};
int llm_forward(struct llm *l, const uint32_t *id, uint32_t n,
		const struct llm_rows *rows, const struct progress *p,
		struct err *err);

/* Bytes of weights one decoded token reads, as a checkpoint stores them. */
uint64_t llm_weight_bytes(const struct llm *l);
/* The kernel that runs the block linears for one row ("f16", "avx512-b4"); of
 * the first quantized one where there are any. */
const char *llm_kernel(const struct llm *l);

#endif
