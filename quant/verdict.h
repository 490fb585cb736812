/* verdict.h - which linears lost unusually much, and what to try.
 *
 * A linear is compared with its like, the same linear of all blocks, and with
 * what rounding to nearest would have lost (metric.h).  Of linears that readers
 * run as one (q k v, gate up) the one that is worst speaks for all: the rule
 * that is proposed is for them together. */
#ifndef QUANT_VERDICT_H
#define QUANT_VERDICT_H

#include "target.h"
#include "walk.h"

#include <stdbool.h>

/* This much above the median of its like is unusual. */
#define VERDICT_ODD 1.5
/* This much of rounding's loss means that the inputs did not help. */
#define VERDICT_ROUNDED 0.9

struct gq_verdict {
	const struct gq_layer_report *layer;
	double error;  /* of the outputs; of the weights for methods that look
			  at no activations */
	double like;   /* the median of its like; 0: fewer than 3 of them */
	double worse;  /* error / like, or error / rounding's if that is why */
	bool odd, rounded;     /* why: at least one */
	char rule[LLAMA_NAME + 32]; /* for --rule; empty: the format knows
				       none */
};

/* Those that lost unusually much, the worst first; *out is the caller's to
 * free, NULL where there are none.  Layers point into r. */
int gq_verdict_make(const struct gq_layer_report *r, size_t n,
		    const struct gq_targets *ts, const struct qfmt *format,
		    struct gq_verdict **out, size_t *count, struct err *err);

#endif
