/* output.h - the folder the quantizer makes: planned whole before work begins,
 * poured layer by layer, committed at the end.
 *
 * The targets that are not skipped get the tensors of the wanted layout; every
 * other tensor of the source is copied through as it is.  Refusals (a source
 * that is quantized already, a full disk) come from gq_output_open. */
#ifndef QUANT_OUTPUT_H
#define QUANT_OUTPUT_H

#include "walk.h"

struct gq_targets;
struct st_writer;

/* The least zero point that the format can hold with these parameters: 0, or 1
 * where zero - 1 is stored.  Symmetric zeros are never that small. */
int gq_output_least_zero(const struct qfmt *format,
			 const struct gq_params *params, uint8_t *least,
			 struct err *err);

struct gq_output {
	const struct gq_job *job;
	const struct gq_targets *targets;
	struct st_writer *writer;
	uint32_t *part;  /* [targets]: first tensor's id */
};

/* Plan, create the files and copy the tensors that stay. */
int gq_output_open(struct gq_output *o, const struct gq_job *job,
		   const struct gq_targets *targets, struct err *err);
/* Pour the place-th target; any order. */
int gq_output_layer(struct gq_output *o, uint32_t place, const struct ql *ql,
		    struct err *err);
/* Finish the weights, write the configs, copy the tokenizer files. */
int gq_output_commit(struct gq_output *o, struct err *err);
void gq_output_release(struct gq_output *o);

#endif
