/* walk_impl.h - the inside of a walk, shared by walk.c (the order of things:
 * blocks, slots, linears, journal) and walk_pass.c (windows through a block).
 * Nobody else includes it. */
#ifndef QUANT_WALK_IMPL_H
#define QUANT_WALK_IMPL_H

#include "../runtime/block.h"
#include "acts.h"
#include "output.h"
#include "target.h"

struct cJSON;

/* A model on its way through the walk: the current block, and all windows'
 * activations as they come into it.  FULL stays dense; it is there only where
 * the method compares the two. */
enum gq_which { GQ_OWN, GQ_FULL, GQ_STREAMS };
struct gq_stream {
	struct gq_acts x;       /* [seqlen][hidden] each: the residual */
	struct gq_acts keep;    /* O's or DOWN's input; or, not sequential, a
				   copy of one window of x */
	struct rt_block block;
};

struct walk {
	struct gq_job job;
	struct rt_dev dev;
	struct gq_targets targets;
	struct gq_output out;
	/* the rest only when the method looks at activations */
	struct rt_rope rope;
	struct rt_work work;    /* seqlen rows */
	struct kv kv;           /* one layer, seqlen positions */
	uint32_t *count;        /* [seqlen]: 0, 1, 2, ... */
	struct gq_stream stream[GQ_STREAMS];
	struct be_mat seen;     /* [seqlen][widest slot]: what a window of FULL
				   brings to a slot */
	struct gq_hess hess[LLAMA_SLOTS];
	struct ql late[LLAMA_LINEARS]; /* solved, not yet in the block */
	uint32_t layer;
	uint64_t done, total;   /* progress */
	struct cJSON *rows;     /* the block's lines of the journal, so far */
	struct model *partial;  /* the folder that an earlier run left */
};

/* Windows of calibration. */
uint32_t gq_walk_samples(const struct walk *w);
/* n steps of progress are done. */
int gq_walk_step(struct walk *w, uint32_t n, struct err *err);
/* Is the head quantized by what comes into it? */
bool gq_walk_head_looks(const struct walk *w);
/* Does anybody look at the current block's output? */
bool gq_walk_output_matters(const struct walk *w);

/* How many streams there are, of OWN and FULL. */
int gq_walk_streams(const struct walk *w);

/* The activations of all windows: the embeddings. */
int gq_pass_init(struct walk *w, struct err *err);
void gq_pass_release(struct walk *w);
/* Input features of a slot. */
uint32_t gq_pass_inputs(const struct walk *w, enum llama_slot slot);
/* A zero Hessian of n inputs, and what else the method gathers beside it. */
int gq_pass_hess(const struct walk *w, struct gq_hess *h, uint32_t n,
		 struct err *err);
/* The pass that ends with the Hessian of `slot`, if that was initialised. */
int gq_pass_gather(struct walk *w, enum llama_slot slot, struct err *err);
/* All Hessians of the dense block in one pass; x stays. */
int gq_pass_gather_all(struct walk *w, struct err *err);
/* All windows to the end of the current blocks. */
int gq_pass_finish(struct walk *w, struct err *err);
/* All windows through the whole of the current blocks. */
int gq_pass_through(struct walk *w, struct err *err);
/* The head's Hessian, from the last block's output. */
int gq_pass_gather_head(struct walk *w, struct gq_hess *h, struct err *err);

#endif
