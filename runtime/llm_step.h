/* llm_step.h - the blocks of a part: one by one, or as one call of its device,
 * for decoding.
 *
 * Not here: what the call does (backend.h), and when it is made (llm.c). */
#ifndef RUNTIME_LLM_STEP_H
#define RUNTIME_LLM_STEP_H

#include "llm.h"

static inline struct llm_part *llm_last(struct llm *l)
{
	return &l->part[l->parts - 1];
}

/* Prepare p->step over the part's blocks [p->count] and its cache, once both
 * are there.  Where the device has no such call, or not for these blocks,
 * p->step stays NULL and p->narrow says why; -1 is for real failures. */
int llm_step_open(struct llm_part *p, const struct llama_config *c,
		  const struct rt_block *block, struct err *err);
/* Accepts what was never opened. */
void llm_step_close(struct llm_part *p);

/* The blocks of a part one by one over x [tokens][hidden], in place; p has all
 * but the layer. */
int llm_blocks_run(const struct llm *l, const struct llm_part *part,
		   struct rt_pass *p, struct be_mat *x, struct err *err);
/* The same for tokens of several sequences (p->at is part->at), from the second
 * time on as one recorded call, where the device can. */
int llm_blocks_replay(const struct llm *l, struct llm_part *part,
		      struct rt_pass *p, struct be_mat *x, struct err *err);

#endif
