/* repack.h - a checkpoint from one layout to another, and the proof.
 *
 * Everything is planned before a byte is written.  Layers are read into the
 * neutral layer and written at their planned offsets, several at a time; all
 * other tensors, and layers that have the target layout already, are copied
 * through.  A layer of the target layout is written anew all the same where
 * that mends it (g_idx missing, all zero or of 64 bits; qzeros missing,
 * mislabelled or made with swapped constants).  The proof re-opens what was
 * written, reads each quantized layer from source and result and compares the
 * weights bit for bit, each at the place where it belongs, and the bytes of
 * everything that was copied. */
#ifndef LIBFMT_REPACK_H
#define LIBFMT_REPACK_H

#include "survey.h"

struct progress;

/* What becomes of act-order. */
enum repack_order {
	REPACK_KEEP = 0, /* g_idx as it is; sorted rows go back */
	REPACK_SORT,     /* rows in the order of their groups, the permutation
			    beside them: this program alone reads that */
	REPACK_DROP      /* contiguous groups: where g_idx says nothing, by
			    smaller groups, or with the permutation folded into
			    the outputs of the layer before; else refused */
};

enum repack_sym {
	REPACK_SYM_CLEAR = 0, /* config and zeros do not contradict each other,
				 or it was not asked */
	REPACK_SYM_ZEROS,   /* the zeros are right */
	REPACK_SYM_MIDDLE,  /* the config is right */
	REPACK_SYM_UNKNOWN  /* the weights do not tell */
};

struct repack_job {
	const struct model *model;
	const struct survey *survey;
	const struct qfmt *to;     /* NULL: dense */
	enum dtype dense_type;     /* F16, BF16, F32 for --to dense */
	enum dtype cast;           /* of dense matrices in GGUF; DT_NONE: as
				      they are */
	enum dtype scales;         /* of packed layers; DT_NONE: as they are, or
				      F16 where the target has no other */
	enum repack_order order;
	uint32_t group_size;       /* split groups to this size; 0: no */
	uint32_t bits;             /* widen codes to this; 0: no */
	uint32_t pad_mlp;          /* the MLP's inner size becomes a multiple
				      of this; 0: no */
	uint64_t shard_size;       /* 0: one file */
	const char *out;           /* the staged directory; of GGUF the file */
	bool prove;
	bool lossy;                /* also convert layers whose tensors and
				      config contradict each other about their
				      values, as they were read */
	bool fix;                  /* what repack_fix.c settles; the model is
				      one opened with MODEL_TIDY */
	enum repack_sym sym;       /* of repack_fix_sym */
	uint32_t threads;          /* bytes written do not depend on it; fewer
				      where layers would not fit 1.5 GiB */
	const struct progress *progress;
};

struct repack_report {
	uint32_t layers, copied;   /* converted layers, tensors copied */
	uint32_t moved;            /* other tensors permuted or padded */
	uint64_t bytes;            /* of all tensors written */
	uint32_t shards;
	uint64_t proven;           /* weights of linears compared; 0: no
				      proof */
	uint64_t rounded;          /* of these differ, which only a lossy job
				      may let pass: */
	double worst, mean;        /* by this much at most, and on average of
				      all that were compared */
	bool no_tokenizer;         /* to or from GGUF: the source has none that
				      can be written */
};

/* The layout that a layer gets; NULL: it is, or becomes, one dense weight. */
const struct qfmt *repack_target(const struct repack_job *job,
				 const struct survey_layer *l);

/* One row per layer: what would happen to it. */
struct repack_step {
	const struct survey_layer *layer;
	char note[256];  /* "qzeros + 1", "unchanged", or why it is refused */
	bool refused;
};
/* steps [survey->count], allocated here (free).  Asymmetric layers are read
 * and tried out, as single zeros may not fit the target.  A layer whose tensors
 * contradict each other is ERR_INPUT, not a step. */
int repack_plan(const struct repack_job *job, struct repack_step **steps,
		uint32_t *refused, struct err *err);
/* Weights, index, configs and a loader's other files into job->out.  Layouts,
 * sizes and disk space are checked before the first byte; a zero or a weight
 * that does not fit (see repack_plan) ends the run.  A failed proof is
 * ERR_CHECK. */
int repack_run(const struct repack_job *job, struct repack_report *out,
	       struct err *err);

/* ---- before a job with `fix` ---- */

/* The layout that the checkpoint keeps; NULL: it is dense. */
const struct qfmt *repack_fix_layout(const struct survey *s);
/* Where the config says sym and the zeros are not the middle one: which of
 * the two do the weights' means speak for?  Reads these layers.  With
 * REPACK_SYM_ZEROS m's sym is false from then on, and m is to be surveyed
 * again. */
int repack_fix_sym(struct model *m, const struct survey *s,
		   enum repack_sym *out, struct err *err);

#endif
