/* sample.h - choosing the next token, with a seed.
 *
 * Order: repeat penalty, temperature, top-k, top-p, min-p, draw.
 *
 *	penalty  each distinct token of the last 64: logit > 0 ? / p : * p
 *	temp     logit / temp; 0 is greedy: the largest logit, the lowest id
 *	         among equals
 *	top-k    the k largest
 *	top-p    of those the shortest prefix whose share reaches top_p
 *	min-p    of those the ones with at least min_p times the best one's
 *	         probability
 *	draw     one number of xoshiro256**, seeded through SplitMix64
 *
 * Equal seed and logits give equal tokens: all arithmetic is double, in the
 * order of falling logit, then rising id.  A NaN counts as -infinity.
 * A sampler is driven by one thread. */
#ifndef RUNTIME_SAMPLE_H
#define RUNTIME_SAMPLE_H

#include <stdint.h>

struct be_top;
struct be_topk;
struct err;
struct sampler;

#define SAMPLE_RECENT 64 /* tokens the repeat penalty looks back */

struct sample_params {
	double temp;           /* 0: greedy */
	uint32_t top_k;        /* 0: off */
	double top_p;          /* 1: off */
	double min_p;          /* 0: off */
	double repeat_penalty; /* 1: off; over the last 64 tokens */
	uint64_t seed;
};

/* ERR_USAGE for a parameter out of range: temp >= 0, 0 < top_p <= 1,
 * 0 <= min_p <= 1, repeat_penalty > 0. */
int rt_sampler_new(const struct sample_params *p, uint32_t vocab,
		   struct sampler **out, struct err *err);
void rt_sampler_free(struct sampler *s); /* accepts NULL */
/* Tell the sampler of a token of the prompt or of its own. */
void rt_sampler_accept(struct sampler *s, uint32_t id);
/* Choose; logits [vocab] are not changed.  Greedy choices use up no random
 * number, all others exactly one. */
uint32_t rt_sampler_next(struct sampler *s, const float *logits);
/* The same choice from the best of the logits, which a device finds (be_api's
 * topk): what to ask it for, in all of *t but x and best; t->recent is the
 * sampler's, until the next call.  0 when only whole logits will do, else
 * t->k. */
uint32_t rt_sampler_ask(struct sampler *s, struct be_topk *t);
uint32_t rt_sampler_pick(struct sampler *s, const struct be_top *best,
			 uint32_t n);

#endif
