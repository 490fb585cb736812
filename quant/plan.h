/* plan.h - what a job will take, before it begins: sizes, memory, disk, work.
 *
 * Memory is counted by going through the walk with sizes in the place of
 * matrices (plan_memory.c), so it is an upper bound of what the walk has
 * allocated at any moment; --max-memory rests on it.  Time is work divided by
 * what this machine did in a second's trial (plan_speed.c): an estimate. */
#ifndef QUANT_PLAN_H
#define QUANT_PLAN_H

#include "target.h"
#include "walk.h"

/* Multiply-adds and weights, by the operation that takes them. */
struct gq_work {
	double dense;    /* multiply-adds of products with dense weights */
	double forward;  /* with weights that have their codes */
	double attend;   /* of attention */
	double hessian;  /* of Hessians: half of n^2 for each token */
	double factor;   /* of factorisations: 2/3 of n^3 / 2 */
	double orders;   /* sum of n over the factorisations */
	double spread;   /* of errors to later columns, and refinement */
	double weights;  /* that get codes */
	uint32_t elem;   /* bytes of a dense weight */
};

/* Memory at its fullest, and when that is. */
struct gq_peak {
	uint64_t bytes;
	char at[LLAMA_NAME + 32]; /* "model.layers.0.mlp.down_proj: solving" */
};

struct gq_plan {
	uint64_t parameters, linears; /* linears that become quantized */
	uint64_t before, after;       /* bytes of tensors */
	uint64_t weights, packed;     /* quantized: how many, and their bytes */
	uint64_t activations;         /* bytes for all windows */
	uint64_t passes;              /* of all windows through one block */
	/* Memory with the activations in it, and in a scratch file; of the
	 * device, where its memory is its own (else 0). */
	struct gq_peak memory[2], device[2];
	struct gq_work work;
};

/* What is known beside the job. */
struct gq_source {
	uint64_t bytes; /* of all the source's tensors; 0: from the config */
	uint32_t elem;  /* bytes of a dense weight */
	bool apart;     /* the device has memory of its own */
	uint64_t base;  /* bytes that the process holds all the time */
};

/* `job` needs no device, output or ids yet: of job->calib samples and seqlen
 * count, of the rest what gq_targets_init takes. */
int gq_plan_make(const struct gq_job *job, const struct gq_targets *targets,
		 const struct gq_source *source, struct gq_plan *out,
		 struct err *err);
/* Fills memory and device; no more than gq_plan_make needs it. */
struct gq_plan_memory {
	const struct gq_job *job;
	const struct gq_targets *targets;
	uint32_t elem;     /* bytes of a dense weight */
	bool spill;        /* activations are in a file */
	bool apart;        /* the device's memory is its own */
	uint64_t base;     /* what the process holds all the time */
};
int gq_plan_memory(const struct gq_plan_memory *m, struct gq_peak *host,
		   struct gq_peak *device, struct err *err);

/* Multiply-adds of measuring what a solved linear lost (metric.h). */
double gq_plan_measuring(uint32_t in, uint32_t out);

/* What a device did in the trial. */
struct gq_rates {
	double dense, forward, hessian, spread; /* multiply-adds a second */
	double solve;        /* seconds of one weight beside its products */
	/* Factorisations of two orders, the first at most half of the second;
	 * 0: there was no first. */
	double order[2], factor[2]; /* seconds */
};

/* Seconds for the work at such rates.  The steps of a factorisation are as
 * many as columns, so what each takes to start (and the threads that have
 * nothing to do in it) weighs the less the larger the order: seconds are taken
 * as steps * n + cubes * n^3, and of two orders both are known. */
double gq_plan_time(const struct gq_work *work, const struct gq_rates *r);

/* Seconds for the work on this device, from a trial of about a second. */
int gq_plan_seconds(const struct gq_job *job, const struct gq_work *work,
		    double *seconds, struct err *err);

#endif
