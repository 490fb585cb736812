/* output.h - the folder the quantizer makes: planned whole before work begins,
 * poured layer by layer, committed at the end.
 *
 * The targets that are not skipped get the tensors of the wanted layout; every
 * other tensor of the source is copied through as it is.  Refusals (a source
 * that is quantized already, a full disk) come from gq_output_open. */
#ifndef QUANT_OUTPUT_H
#define QUANT_OUTPUT_H

#include "../libfmt/base/hash.h"
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

/* Plan, create the files, write the configs and copy the tensors that stay; or,
 * where the job's journal says that this was done, go on with what is there. */
int gq_output_open(struct gq_output *o, const struct gq_job *job,
		   const struct gq_targets *targets, struct err *err);
/* Pour the place-th target; any order.  The hash of its bytes goes to hex. */
int gq_output_layer(struct gq_output *o, uint32_t place, const struct ql *ql,
		    char hex[HASH_HEX], struct err *err);
/* An earlier run poured this target: `from` is the folder as it left it.
 * ERR_INPUT when its bytes do not hash to hex. */
int gq_output_assume(struct gq_output *o, uint32_t place,
		     const struct model *from, const char *hex,
		     struct err *err);
/* What was poured so far survives a crash from here on. */
int gq_output_sync(struct gq_output *o, struct err *err);
/* Finish the weights, copy the tokenizer files. */
int gq_output_commit(struct gq_output *o, struct err *err);
void gq_output_release(struct gq_output *o);

#endif
