/* sample.h - choosing the next token, with a seed.
 *
 * Order: repeat penalty, temperature, top-k, top-p, min-p, draw.  temp 0 is
 * greedy: the largest logit, the lowest id among equals.  Equal seed and
 * logits give equal tokens on every machine (arithmetic in double, sorting by
 * logit then id, SplitMix64/xoshiro256** for the draw). */
#ifndef RUNTIME_SAMPLE_H
#define RUNTIME_SAMPLE_H

#include <stdint.h>

struct err;
struct sampler;

struct sample_params {
	double temp;           /* 0: greedy */
	uint32_t top_k;        /* 0: off */
	double top_p;          /* 1: off */
	double min_p;          /* 0: off */
	double repeat_penalty; /* 1: off; over the last 64 tokens */
	uint64_t seed;
};

int rt_sampler_new(const struct sample_params *p, uint32_t vocab,
		   struct sampler **out, struct err *err);
void rt_sampler_free(struct sampler *s); /* accepts NULL */
/* Tell the sampler of a token of the prompt or of its own. */
void rt_sampler_accept(struct sampler *s, uint32_t id);
/* Choose; logits [vocab] are not changed. */
uint32_t rt_sampler_next(struct sampler *s, const float *logits);

#endif
