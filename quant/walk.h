/* walk.h - block by block through a model: the quantizer's main loop.
 *
 * One block is resident.  Per slot (qkv | o | gate up | down; linears of a slot
 * share one input): run the calibration windows up to the slot, gather the
 * Hessian H = 2/n sum X^T X over n windows, solve, put the quantized weights
 * back into the block (true-sequential) and go on; then the block's output
 * becomes the next block's input.  Quantized layers are poured into the output
 * as they are made.
 *
 * A method that compares carries the full model's activations along: each
 * window goes through the dense block first, then through the quantized one.
 *
 * Resuming: blocks that are done are run, as they stand in the unfinished
 * folder, to make the activations of the first one that is not.
 *
 * Memory: the activations of all windows, f32 [samples * seqlen][hidden] and
 * once more as wide as the widest slot but the first, unless they are in a
 * scratch file; one block; one Hessian (four without true-sequential); what one
 * linear takes while it is solved.  Where the method compares, activations and
 * block twice, and two more squares of a slot.  plan.h counts it. */
#ifndef QUANT_WALK_H
#define QUANT_WALK_H

#include "../libfmt/layout/qfmt.h"
#include "../libfmt/llama.h"
#include "calib.h"
#include "method.h"

#include <stdbool.h>

struct gq_journal;
struct gq_rules;
struct model;
struct progress;

struct gq_layer_report {
	char name[LLAMA_NAME];
	struct gq_report r;
	double seconds;
	uint32_t in, out;
};

struct gq_job {
	const struct model *model;    /* dense */
	const struct llama_config *cfg;
	const struct be_api *api;
	struct be *be;
	const struct gq_method *method;
	struct gq_params params;      /* where no rule says otherwise; zero_min
					 is found out by the walk */
	const struct gq_rules *rules; /* or NULL */
	bool lm_head;                 /* the output head too */
	const struct qfmt *format;
	const struct calib *calib;    /* may be NULL when not needed */
	bool true_sequential;
	uint64_t shard_size;
	const char *out;              /* the staged directory */
	const char *scratch;          /* where a file for the activations goes;
					 NULL: they are kept on the device */
	struct gq_journal *journal;   /* bound to this job; or NULL: an
					 interrupted walk cannot go on */
	const struct progress *progress;
	/* Called after each linear; may be NULL. */
	void (*done)(void *ctx, const struct gq_layer_report *r);
	void *ctx;
};

/* Writes the whole folder, from the first block on that the journal does not
 * have: shards, index, config.json, quantize_config.json, tokenizer and
 * generation files.  ERR_UNSUP when the model is quantized already or the
 * format cannot hold a layer; ERR_CHECK, naming the layer, when activations are
 * not finite or a Hessian cannot be factored. */
int gq_walk(const struct gq_job *job, struct err *err);

#endif
