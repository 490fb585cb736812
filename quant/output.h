/* output.h - the folder the quantizer makes: planned whole before work begins,
 * poured layer by layer, committed at the end.
 *
 * The linears of the blocks get the tensors of the wanted layout; every other
 * tensor of the source is copied through as it is.  Refusals (a source that is
 * quantized already, a shape the layout cannot hold, a full disk) come from
 * gq_output_open. */
#ifndef QUANT_OUTPUT_H
#define QUANT_OUTPUT_H

#include "walk.h"

struct st_writer;

/* The least zero point that the job's format can hold: 0, or 1 where zero - 1
 * is stored.  Symmetric zeros are never that small. */
int gq_output_least_zero(const struct gq_job *job, uint8_t *least,
			 struct err *err);

struct gq_output {
	const struct gq_job *job;
	struct st_writer *writer;
	uint32_t *part;  /* [layers][LLAMA_LINEARS]: first tensor's id */
};

/* Plan, create the files and copy the tensors that stay. */
int gq_output_open(struct gq_output *o, const struct gq_job *job,
		   struct err *err);
/* Pour one quantized linear; any order. */
int gq_output_layer(struct gq_output *o, uint32_t layer,
		    enum llama_linear which, const struct ql *ql,
		    struct err *err);
/* Finish the weights, write the configs, copy the tokenizer files. */
int gq_output_commit(struct gq_output *o, struct err *err);
void gq_output_release(struct gq_output *o);

#endif
