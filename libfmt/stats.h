/* stats.h - the values of a checkpoint in figures: ranges, histograms and what
 * is wrong with them, of every quantized layer and every dense tensor.
 *
 * All cores work; what is summed, and in which order, follows from the shapes
 * alone, so results do not depend on the number of threads.  Memory: for each
 * thread one layer in the neutral form (a byte per weight). */
#ifndef LIBFMT_STATS_H
#define LIBFMT_STATS_H

#include "survey.h"

#include <stdbool.h>
#include <stdint.h>

struct progress;

/* Magnitudes are counted by powers of two: [i] has 2^(STATS_MAG_LOW + i) <= |x|
 * < twice that; the ends collect what is beyond. */
#define STATS_MAG 32
#define STATS_MAG_LOW (-24)

struct stats_values {
	uint64_t count;            /* all; nan and inf are among them */
	uint64_t nan, inf, zero;
	/* of the finite values; 0 when there are none */
	double min, max, mean;
	double m2;                 /* sum of (x - mean)^2 */
	uint64_t mag[STATS_MAG];   /* finite and not 0 */
};

struct stats_layer {
	bool known;                /* else `why` says what stood against it */
	char why[256];
	struct ql_spec spec;
	uint64_t code[256];        /* how often each is used */
	double entropy;            /* of the codes, in bits */
	struct stats_values scale; /* [out][groups] */
	struct stats_values zero;
	uint64_t zero_code[257];   /* QL_POINT: how often each zero is used */
	struct stats_values weight; /* dequantized */
	uint64_t dead_groups;      /* of out * groups: all weights are 0 */
	uint32_t dead_outputs;     /* rows of zeros */
	uint32_t unused_groups;    /* of `groups`: no input belongs to them */
	/* Rounding noise: a uniform error of one step has the root mean square
	 * scale / sqrt(12); here relative to the weights' own. */
	double noise;
};

struct stats {
	struct stats_layer *layer;   /* [survey's count]; known for quantized
					layers that were asked for */
	struct stats_values *tensor; /* [model's tensor_count]; count 0 for
					what was not asked for, holds a layer's
					codes or has no values */
};

struct stats_job {
	const struct model *model;
	const struct survey *survey;
	const bool *layer, *tensor; /* which; NULL: all */
	uint32_t threads;
	const struct progress *progress;
};

/* A layer that cannot be read is a finding; err is for what stops all. */
int stats_gather(const struct stats_job *job, struct stats *out,
		 struct err *err);
void stats_release(struct stats *s); /* accepts a zeroed struct */

/* One layer, and n values at a time. */
void stats_of_layer(const struct ql *ql, uint64_t *scratch,
		    struct stats_layer *out);
#define STATS_SCRATCH(spec) ((size_t)(spec)->groups << (spec)->bits)
void stats_add(struct stats_values *v, const float *x, size_t n);
/* Join b to a, as if b's values had come behind a's. */
void stats_join(struct stats_values *a, const struct stats_values *b);

double stats_std(const struct stats_values *v);
double stats_rms(const struct stats_values *v);

#endif
