/* score.h - perplexity and divergence of a model on token ids.
 *
 * Perplexity as in the GPTQ papers: the ids are cut into windows of seqlen
 * without overlap, the tail is dropped, each window runs on its own (nothing is
 * put in front of it), the mean is taken over its seqlen - 1 predictions, then
 * over windows; exp of that.  Log-sum-exp in double, summed in the order of the
 * text: the result does not depend on batch sizes beyond the rounding of the
 * logits, nor on threads.
 *
 * Both functions use the models' caches and leave them empty. */
#ifndef RUNTIME_SCORE_H
#define RUNTIME_SCORE_H

#include "llm.h"

struct score_ppl {
	uint64_t tokens;      /* ids given */
	uint32_t windows, seqlen;
	double nll, value;    /* mean nll, exp(nll) */
};

/* ERR_INPUT when there is not one whole window, ERR_USAGE for a seqlen below 2,
 * ERR_UNSUP for one above the context, ERR_CHECK when the model gives logits
 * that are no finite numbers.  Progress counts windows. */
int rt_score_ppl(struct llm *l, const uint32_t *id, uint64_t n,
		 uint32_t seqlen, const struct progress *p,
		 struct score_ppl *out, struct err *err);

struct score_kld {
	uint64_t tokens;         /* positions compared: the predictions */
	double mean, p99, max;   /* KL(base || model), nats; p99: the least
				    value that 99 % do not exceed */
	double top1;             /* share of equal best tokens */
	struct score_ppl base, model;
};
/* Both models over the same windows, piece by piece; failures as above, and
 * ERR_INPUT when the vocabularies differ in size. */
int rt_score_kld(struct llm *base, struct llm *model, const uint32_t *id,
		 uint64_t n, uint32_t seqlen, const struct progress *p,
		 struct score_kld *out, struct err *err);

#endif
