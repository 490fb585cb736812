/* score.h - perplexity and divergence of a model on token ids.
 *
 * Perplexity as in the GPTQ papers: the ids are cut into windows of seqlen
 * without overlap, the tail is dropped, each window runs on its own, the mean
 * over its seqlen - 1 predictions, then over windows; exp of that.  Log-sum-exp
 * in double. */
#ifndef RUNTIME_SCORE_H
#define RUNTIME_SCORE_H

#include "llm.h"

struct score_ppl {
	uint64_t tokens;      /* ids given */
	uint32_t windows, seqlen;
	double nll, value;    /* mean nll, exp(nll) */
};

/* ERR_INPUT when there is not one whole window. */
int rt_score_ppl(struct llm *l, const uint32_t *id, uint64_t n,
		 uint32_t seqlen, const struct progress *p,
		 struct score_ppl *out, struct err *err);

struct score_kld {
	uint64_t tokens;         /* positions compared */
	double mean, p99, max;   /* KL(base || model), nats */
	double top1;             /* share of equal best tokens */
	struct score_ppl base, model;
};
/* Both models over the same windows, window by window. */
int rt_score_kld(struct llm *base, struct llm *model, const uint32_t *id,
		 uint64_t n, uint32_t seqlen, const struct progress *p,
		 struct score_kld *out, struct err *err);

#endif
