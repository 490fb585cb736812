/* identity.h - what a job is: everything its bytes depend on, as JSON.
 *
 * Hashes of config, weights and calibration, every option that changes a
 * result, the version, the device's kernels.  Not in it: threads, memory
 * limits, names of files, what is printed.  Two jobs of equal identity make
 * equal folders; a journal binds to it, a report tells it. */
#ifndef QUANT_IDENTITY_H
#define QUANT_IDENTITY_H

#include "walk.h"

struct cJSON;

/* Reads every weight of the model once, to hash it.  The caller frees *out
 * with json_free. */
int gq_identity(const struct gq_job *job, struct cJSON **out, struct err *err);
/* 0 when equal; else ERR_INPUT, naming the first member that differs and both
 * values. */
int gq_identity_compare(const struct cJSON *now, const struct cJSON *then,
			struct err *err);

#endif
