/* llm.h - a whole Llama: load, prefill, decode.
 *
 * A model runs on one device, or, where that one has no room for all of it, its
 * first blocks on another (the CPU) and the rest there: activations cross once.
 *
 * Everything a token needs is allocated by llm_open; decoding allocates
 * nothing.  One thread drives one model (the backends' threads are their
 * own). */
#ifndef RUNTIME_LLM_H
#define RUNTIME_LLM_H

#include "block.h"

struct progress;

/* A range of blocks on one device, with what runs them. */
struct llm_part {
	struct rt_dev dev;
	uint32_t first, count;    /* blocks */
	struct rt_rope rope;
	struct rt_work work;
	struct kv kv;             /* its layer 0 is block `first` */
	struct be_mat x;          /* [batch][hidden] */
	struct be_at *at;         /* [sequences], the device's */
	struct be_step *step;     /* all its blocks in one call; or NULL, */
	char narrow[160];         /* and why */
	struct llm_record {       /* a pass of several sequences (llm_step.c) */
		struct be_graph *graph;
		uint32_t tokens, seen;
	} record;
};

/* How much of a model fits on a device; in bytes, as far as can be told from
 * headers. */
struct llm_fit {
	uint32_t layers;          /* blocks that run there */
	uint64_t avail;           /* free; UINT64_MAX: not known */
	uint64_t block;           /* the largest, with its share of the cache */
	uint64_t fixed;           /* head, tables and work space */
};

struct llm {
	struct llama_config cfg;  /* its strings are owned here */
	struct llm_part part[2];  /* in the order of blocks */
	uint32_t parts;
	struct llm_fit fit;       /* of llm_open.dev */
	struct be_mat embed;      /* [vocab][hidden], on the first device */
	/* on the last device */
	struct be_mat norm;       /* F32 [1][hidden] */
	struct rt_linear head;    /* dense.p == embed.p when tied */
	struct be_mat logits;     /* [sequences][vocab], grown on demand */
	struct rt_block *block;   /* [cfg.layers] */
	float *cross;             /* [batch][hidden], from device to device */
	float *host;              /* [logits.rows][vocab], for llm_forward */
	uint32_t context;         /* positions of each sequence there is room
				     for */
	uint32_t sequences;
	uint32_t *used;           /* [sequences]: positions that are in the
				     caches */
	uint32_t sequence;        /* the one that all calls but llm_step_many
				     work on: 0, or what the caller sets */
	struct be_at *at;         /* [sequences]: of a pass, host memory */
	uint32_t *id;             /* [sequences]: the same */
	uint32_t batch;           /* tokens of one pass */
	char *text[2];            /* cfg.model_type, cfg.architecture */
};

/* A context may exceed the model's max_position_embeddings (the caller warns),
 * but not by more than this factor: ERR_USAGE. */
#define LLM_STRETCH 32

#define LLM_FIT UINT32_MAX /* as many blocks as fit */

struct llm_open {
	struct rt_dev dev;
	struct rt_dev rest; /* runs the blocks that dev does not; api NULL: dev
			       runs all, whether or not they fit */
	uint32_t layers;    /* with `rest`: how many blocks, the last ones, dev
			       runs, and the head if any; or LLM_FIT */
	uint32_t context;  /* 0: the model's max_position_embeddings */
	uint32_t sequences;/* caches side by side; 0: 1 */
	uint32_t batch;    /* 0: 512; at most the context, or sequences */
	enum dtype kv_type;/* of the cache, see struct kv_shape */
	const struct progress *progress;
};

/* llama_config_read (with the generation_config.json beside it) and
 * llama_check, then the weights.  The model may be closed afterwards (weights
 * are copied to the device; on the CPU dense weights stay in their 16-bit
 * type).  Progress counts blocks.  With LLM_FIT memory that runs out all the
 * same moves blocks from dev to rest.  On failure *out is NULL and everything
 * is released. */
int llm_open(const struct model *m, const struct llm_open *how,
	     struct llm **out, struct err *err);
void llm_close(struct llm *l); /* accepts NULL */

/* Forget all positions of l->sequence, or those from the n-th on. */
void llm_reset(struct llm *l);
void llm_rewind(struct llm *l, uint32_t n);
/* Run n tokens of l->sequence behind those in the cache, in batches.  Only the
 * last token's logits [vocab] are computed (host f32, caller's buffer); NULL:
 * none.  ERR_UNSUP when the context has no room for n, ERR_INPUT for an id
 * beyond the vocabulary; nothing has run then.  After any other failure
 * (interrupted) l->used[] tells how many tokens are in the cache. */
int llm_prefill(struct llm *l, const uint32_t *id, uint32_t n, float *logits,
		const struct progress *p, struct err *err);
/* One decoding step of l->sequence, of which only the best logits come back: t
 * as in backend.h, but that x is set here. */
int llm_step(struct llm *l, uint32_t id, const struct be_topk *t,
	     struct err *err);
/* A token each of n sequences, at most l->sequences, in one pass.  One that is
 * named again gets its tokens in order.  Back come the best of each, as ask [n]
 * says (x is set here), or logits [n][vocab] in host f32, or, where both are
 * NULL, neither.  Errors as llm_prefill; after a failure nothing counts as
 * having run. */
struct llm_next {
	uint32_t sequence, id;
};
int llm_step_many(struct llm *l, const struct llm_next *next, uint32_t n,
		  struct be_topk *ask, float *logits, struct err *err);
/* llm_prefill with the logits of every token handed to fn in order, `rows` rows
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
/* The kernel that runs the block linears for a row of each sequence ("f16",
 * "avx512-b4"); of the first quantized one where there are any; on the last
 * device. */
const char *llm_kernel(const struct llm *l);
/* Why a decoding step runs block by block and not as one call of the device,
 * of the last part; NULL: it does not. */
const char *llm_narrow(const struct llm *l);

/* llm_fit.c: how many blocks of a model dev has room for, with a cache of
 * `context` positions and passes of `batch` tokens.  fit->layers is what
 * how->layers asks for, or as many as fit, at most all. */
int llm_fit(const struct model *m, const struct llama_config *c,
	    const struct llm_open *how, struct llm_fit *fit, struct err *err);

#endif
