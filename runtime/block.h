/* block.h - one decoder block: the order of a Llama's operations.
 *
 *	x += O(attend(rope(Q(n)), rope(K(n)), V(n)))   n = rmsnorm(x)
 *	x += DOWN(silu(GATE(m)) * UP(m))               m = rmsnorm(x)
 *
 * with biases where the model has them and q/k norms (Qwen3) before rope. */
#ifndef RUNTIME_BLOCK_H
#define RUNTIME_BLOCK_H

#include "../libfmt/llama.h"
#include "kv.h"

/* Called with the input of a slot just before its linears run; the quantizer
 * gathers Hessians here.  Returning 1 ends the block early (its output is then
 * not used), -1 is an error. */
struct rt_tap {
	int (*fn)(void *ctx, enum llama_slot slot, const struct be_mat *x,
		  struct err *err);
	void *ctx;
};

struct rt_block {
	struct rt_linear lin[LLAMA_LINEARS];
	struct be_mat norm_in, norm_post;   /* [1][hidden] */
	struct be_mat norm_q, norm_k;       /* [1][head_dim], or p == NULL */
};

/* cos and sin of the rotary embedding on the device, and yarn's factor on the
 * attention scale. */
struct rt_rope {
	struct be_mat cos, sin;  /* F32 [positions][head_dim / 2] */
};
/* Tables for `positions` positions, computed in double; dynamic scaling takes
 * `positions` as the sequence length.  Source: transformers'
 * modeling_rope_utils (formulas). */
int rt_rope_init(struct rt_rope *r, const struct rt_dev *d,
		 const struct llama_config *c, uint32_t positions,
		 struct err *err);
void rt_rope_release(struct rt_rope *r, const struct rt_dev *d);

/* Scratch for blocks of one shape and up to `tokens` rows at a time. */
struct rt_work {
	uint32_t tokens;
	struct be_mat norm, q, att, gate, up;
	void *mem;
};
int rt_work_init(struct rt_work *w, const struct rt_dev *d,
		 const struct llama_config *c, uint32_t tokens,
		 struct err *err);
void rt_work_release(struct rt_work *w, const struct rt_dev *d);

int rt_block_load(struct rt_block *b, const struct rt_dev *d,
		  const struct model *m, const struct llama_config *c,
		  uint32_t layer, struct err *err);
void rt_block_release(struct rt_block *b, const struct rt_dev *d);

/* One pass over x [tokens][hidden] in place; the first token has position
 * `first`; keys and values go to rows first.. of cache layer `layer`. */
struct rt_pass {
	const struct rt_dev *dev;
	const struct llama_config *cfg;
	const struct rt_rope *rope;
	struct rt_work *work;
	struct kv *kv;
	uint32_t layer, first;
	const struct rt_tap *tap; /* or NULL */
};
int rt_block_run(const struct rt_block *b, const struct rt_pass *p,
		 struct be_mat *x, struct err *err);

#endif
