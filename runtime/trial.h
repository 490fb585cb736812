/* trial.h - a linear of a model on a device against the same in float64: how
 * far is the kernel from the right answer?
 *
 * The inputs are made up, uniform in -1..1 and the same each time; the weights
 * are the model's.  Y is compared for 1 to 256 rows, as backends have kernels
 * of their own for few and for many rows. */
#ifndef RUNTIME_TRIAL_H
#define RUNTIME_TRIAL_H

#include "linear.h"

struct rt_trial; /* a linear with its inputs and right answers */

struct rt_trial_result {
	char kernel[48];  /* which ran, "avx512-b4" */
	double rel_error; /* |Y - Y64|_F / |Y64|_F; NaN when Y has one */
};

/* Weights of module `name` [out][in] and the products in double, by `threads`
 * threads.  The first row is compared in all outputs, the others in no more
 * than fit some 2^30 products; the last output is always among them. */
int rt_trial_open(const struct model *m, const char *name, uint32_t in,
		  uint32_t out, uint32_t threads, struct rt_trial **t,
		  struct err *err);
void rt_trial_close(struct rt_trial *t); /* accepts NULL */

/* The i-th number of rows, rising; 0 behind the last. */
uint32_t rt_trial_rows(uint32_t i);
/* Run the linear (its bias left out) on that many rows. */
int rt_trial_run(const struct rt_trial *t, const struct rt_dev *d,
		 uint32_t rows, struct rt_trial_result *r, struct err *err);

#endif
