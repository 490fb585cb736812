/* repack_impl.h - between the files of repack only. */
#ifndef LIBFMT_REPACK_IMPL_H
#define LIBFMT_REPACK_IMPL_H

#include "base/err.h"
#include "layout/qlop.h"
#include "llama.h"
#include "model.h"
#include "repack.h"

struct st_writer;

/* ---- repack_ways.c: what becomes of each layer ---- */

/* The steps of one layer, in this order. */
struct repack_way {
	struct ql_spec spec; /* of the result; of dense ones in, out, bits */
	bool moved;
	struct ql_map map;   /* if moved; its arrays are the ways' */
	uint32_t straight;   /* act-order dropped: contiguous groups of this */
	uint32_t split;      /* groups of this */
	bool impossible;     /* what was asked for cannot be: `why` */
	char why[256];       /* ... or what the steps do; "" without any */
};

struct repack_ways {
	struct repack_way *way; /* [survey->count] */
	struct survey after;    /* the survey with the specs of the result */
	uint32_t inter;         /* the MLP's new inner size; 0: as it was */
	uint32_t **perm;        /* [survey->count], owned: the order of a
				   folded layer's inputs, and behind it that of
				   v_proj's outputs */
	void *mem;
};
/* Layers with act-order are read where it is to be dropped. */
int repack_ways_make(const struct repack_job *job, struct repack_ways *w,
		     struct err *err);
void repack_ways_release(struct repack_ways *w); /* accepts a zeroed struct */
/* Is there a step at all? */
bool repack_way_changes(const struct repack_way *w,
			const struct survey_layer *l);
/* Take the steps. */
int repack_way_apply(const struct repack_way *w, struct ql *ql,
		     struct err *err);

/* ---- repack_fold.c: act-order out of the way ---- */

/* The steps that make the groups of layer i contiguous, or why there are
 * none.  Its producers are not looked at yet. */
int repack_fold_layer(const struct repack_job *job, struct repack_ways *w,
		      uint32_t i, struct err *err);
/* Give the producers of folded layers their order of rows. */
void repack_fold_link(const struct repack_job *job, struct repack_ways *w);
/* The layer `which` of block `block`; -1: none. */
int64_t repack_find(const struct survey *s, uint32_t block,
		    enum llama_linear which);
/* No steps, but a reason. */
void repack_way_refuse(struct repack_way *w, const char *fmt, ...)
	ERR_PRINTF(2, 3);

/* ---- repack_plan.c: what to do, and why not ---- */

enum repack_action {
	REPACK_LEAVE = 0, /* copied as it is */
	REPACK_CONVERT,   /* read, changed and written */
	REPACK_MOVE,      /* dense, permuted or padded */
	REPACK_REFUSE
};
/* By headers alone: a step and an action for each layer of the survey. */
int repack_decide(const struct repack_job *job, const struct repack_ways *w,
		  struct repack_step *steps, enum repack_action *action,
		  struct err *err);
/* Zeros by the swapped constants are decoded by the name of the quantizer that
 * wrote them.  That name must not stay, and so nothing that leans on it. */
bool repack_anew(const struct repack_job *job);

/* ---- one piece of work ---- */

/* A layer to convert (tensor NULL), a tensor to copy (layer NULL), or one of
 * a layer's tensors to move. */
struct repack_item {
	const struct survey_layer *layer;
	const struct repack_way *way; /* of the layer */
	const struct tensor *tensor;
	struct qf_plan plan; /* of the layer in the target */
	uint32_t id;         /* of its first tensor in the writer */
};

/* ---- repack_layer.c: one layer ---- */

/* What a layer takes in its target. */
int repack_layer_plan(const struct repack_job *job,
		      const struct repack_item *item, struct qf_plan *plan,
		      struct err *err);
/* Read, encode, and pour when w is not NULL. */
int repack_layer_convert(const struct repack_job *job,
			 const struct repack_item *item, struct st_writer *w,
			 struct err *err);
/* Its pages are not needed again soon: memory stays bounded by the layers
 * under way, not by the files. */
void repack_layer_forget(const struct model *m, const struct qf_module *q);
/* Row n of a layer as bytes of a dense type; `row` is scratch [in].  A finite
 * weight that the type cannot hold is ERR_UNSUP. */
int repack_dense_row(const struct ql *ql, uint32_t n, enum dtype type,
		     float *row, void *out, struct err *err);

/* ---- repack_move.c: dense weights and biases, moved and padded ---- */

/* The shape that a tensor of a moved layer gets: a weight [out, in], a bias
 * [out]; -1 when it is of neither shape. */
int repack_move_shape(const struct repack_way *w, const struct tensor *t,
		      const struct ql_spec *was, uint64_t dim[2]);
int repack_move_tensor(const struct repack_item *item, struct st_writer *w,
		       struct err *err);
/* Is `is` what moving `t` gives, byte for byte? */
bool repack_move_same(const struct repack_way *w, const struct ql_spec *was,
		      const struct tensor *t, const struct tensor *is);

/* ---- repack_config.c ---- */

/* Write config.json and quantize_config.json for what was written.  `anew`:
 * no zeros are as the old quantizer wrote them, its name is dropped. */
int repack_config_write(const struct repack_job *job,
			const struct repack_ways *w, bool anew,
			struct err *err);

/* ---- repack_foreign.c ---- */

struct cJSON;

/* The config of a layout with a config of its own (AWQ, compressed-tensors),
 * else NULL.  ERR_UNSUP where it cannot describe what would be written. */
int repack_config_foreign(const struct repack_job *job,
			  const struct survey *after, struct cJSON **out,
			  struct err *err);

/* ---- repack_proof.c ---- */

/* Compare job->model with what lies in job->out; *weights counts. */
int repack_prove(const struct repack_job *job, const struct repack_ways *w,
		 uint64_t *weights, struct err *err);

#endif
