/* target.h - what becomes of each linear: the blocks' linears in the order of
 * the forward pass, place = layer * LLAMA_LINEARS + which, then the output head
 * where it is wanted.  Rules are applied and refused here, so that all later
 * steps (the plan of the output, the walk, estimates) agree. */
#ifndef QUANT_TARGET_H
#define QUANT_TARGET_H

#include "../libfmt/layout/qfmt.h"
#include "../libfmt/llama.h"
#include "rules.h"

struct gq_job;

struct gq_target {
	char name[LLAMA_NAME];   /* the module */
	const char *weight;      /* the module whose weight it gets: itself,
				    or the embeddings for a tied head */
	uint32_t in, out;
	struct gq_params params; /* its own; zero_min is set */
	bool skip;               /* stays dense */
};

struct gq_targets {
	struct gq_target *target;
	uint32_t count;
	bool head;             /* the last one is the output head */
	uint32_t quantized;    /* not skipped */
	uint32_t split;        /* blocks where linears that vLLM runs as one
				  (q k v, gate up) are not alike */
	struct cJSON *dynamic; /* the config's field, or NULL */
};

/* Needs only cfg, method, params, format, rules and lm_head of the job.
 * ERR_USAGE for a rule that decides nothing; ERR_UNSUP, with the module, where
 * the format cannot hold what is wanted. */
int gq_targets_init(struct gq_targets *t, const struct gq_job *job,
		    struct err *err);
void gq_targets_release(struct gq_targets *t); /* accepts a zeroed struct */

/* The config's field, from targets that are decided (dynamic.c). */
int gq_dynamic_make(struct gq_targets *ts, const struct gq_job *job,
		    struct err *err);
/* The target of this module name; NULL: none. */
const struct gq_target *gq_targets_find(const struct gq_targets *t,
					const char *module);
/* The target whose weight the tensor NAME.weight is; NULL: none. */
const struct gq_target *gq_targets_tensor(const struct gq_targets *t,
					  const char *tensor);

#endif
