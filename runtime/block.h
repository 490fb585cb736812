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

/* Called with the input of a slot, x [tokens][in], just before the slot's
 * linears run; the quantizer gathers Hessians here.  QKV and GATE_UP get the
 * normed hidden state, O the attention's output, DOWN silu(gate) * up.
 * Returning 1 ends the block early (its output is then not used), -1 is an
 * error. */
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

/* cos and sin of the rotary embedding on the device, both times yarn's
 * attention factor (so that q.k is scaled by its square). */
struct rt_rope {
	struct be_mat cos, sin;  /* F32 [positions][head_dim / 2] */
};
/* The angle per position of the pair (i, i + head_dim / 2), in radians.
 * Dynamic scaling takes `positions` as the sequence length: unchanged up to
 * max_pos.  Source: transformers' modeling_rope_utils (formulas). */
double rt_rope_freq(const struct llama_config *c, uint32_t positions,
		    uint32_t i);
/* What cos and sin are multiplied by; 1 except for yarn. */
double rt_rope_factor(const struct llama_config *c);
/* Tables for `positions` positions, computed in double. */
int rt_rope_init(struct rt_rope *r, const struct rt_dev *d,
		 const struct llama_config *c, uint32_t positions,
		 struct err *err);
void rt_rope_release(struct rt_rope *r, const struct rt_dev *d);

/* Scratch for blocks of one shape and up to `tokens` rows at a time.  All F32,
 * [tokens][...] on the device. */
struct rt_work {
	uint32_t tokens;
	struct be_mat norm;     /* hidden: normed input, later an output */
	struct be_mat q, att;   /* heads * head_dim */
	struct be_mat k, v;     /* kv_heads * head_dim */
	struct be_mat gate, up; /* inter */
};
int rt_work_init(struct rt_work *w, const struct rt_dev *d,
		 const struct llama_config *c, uint32_t tokens,
		 struct err *err);
void rt_work_release(struct rt_work *w, const struct rt_dev *d);

/* Load block `layer`; on failure nothing is left behind. */
int rt_block_load(struct rt_block *b, const struct rt_dev *d,
		  const struct model *m, const struct llama_config *c,
		  uint32_t layer, struct err *err);
void rt_block_release(struct rt_block *b, const struct rt_dev *d);

/* One pass over x [tokens][hidden] in place, at most work->tokens of them: of
 * one sequence, in a row from position `first` on, or of several, each where
 * `at` says (backend.h).  Cache and rope tables must have room for them.
 * Nothing is allocated. */
struct rt_pass {
	const struct rt_dev *dev;
	const struct llama_config *cfg;
	const struct rt_rope *rope;
	struct rt_work *work;
	struct kv *kv;
	uint32_t layer;  /* of the cache: may differ from the block's own */
	uint32_t sequence, first;   /* without at */
	const struct be_at *at;     /* [tokens], the device's; or NULL */
	uint32_t seen;              /* with at: more than any position */
	const struct rt_tap *tap; /* or NULL */
	/* Begin at this slot (0, QKV: the block's start), with x as the block
	 * left it there.  O and DOWN take their input [tokens][in] from
	 * `input`, the other two make theirs from x. */
	enum llama_slot from;
	const struct be_mat *input;
};
int rt_block_run(const struct rt_block *b, const struct rt_pass *p,
		 struct be_mat *x, struct err *err);

#endif
