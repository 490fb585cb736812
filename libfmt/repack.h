/* repack.h - a checkpoint from one layout to another, and the proof.
 *
 * Everything is planned and every refusal is made before a byte is written.
 * Layers are read into the neutral layer and written at their planned offsets;
 * all other tensors are copied through.  The proof re-reads what was written,
 * dequantizes source and result and compares bit for bit. */
#ifndef LIBFMT_REPACK_H
#define LIBFMT_REPACK_H

#include "survey.h"

struct progress;

struct repack_job {
	const struct model *model;
	const struct survey *survey;
	const struct qfmt *to;     /* NULL: dense */
	enum dtype dense_type;     /* F16, BF16, F32 for --to dense */
	uint64_t shard_size;       /* 0: one file */
	const char *out;           /* the staged directory */
	bool prove;
	uint32_t threads;
	const struct progress *progress;
};

struct repack_report {
	uint32_t layers, copied;   /* converted layers, tensors copied */
	uint64_t bytes;            /* of all tensors written */
	uint32_t shards;
	uint64_t proven;           /* weights compared bit for bit; 0: no proof */
};

/* One row per layer: what would happen to it. */
struct repack_step {
	const struct survey_layer *layer;
	char note[256];  /* "qzeros + 1", "unchanged", or why it is refused */
	bool refused;
};
/* steps [survey->count], allocated here (free). */
int repack_plan(const struct repack_job *job, struct repack_step **steps,
		uint32_t *refused, struct err *err);
int repack_run(const struct repack_job *job, struct repack_report *out,
	       struct err *err);

#endif
