/* llm_step.h - a part of a model as one call of its device, for decoding.
 *
 * Not here: what the call does (backend.h), and when it is made (llm.c). */
#ifndef RUNTIME_LLM_STEP_H
#define RUNTIME_LLM_STEP_H

#include "llm.h"

/* Prepare p->step over the part's blocks [p->count] and its cache, once both
 * are there.  Where the device has no such call, or not for these blocks,
 * p->step stays NULL and p->narrow says why; -1 is for real failures. */
int llm_step_open(struct llm_part *p, const struct llama_config *c,
		  const struct rt_block *block, struct err *err);
/* Accepts what was never opened. */
void llm_step_close(struct llm_part *p);

#endif
