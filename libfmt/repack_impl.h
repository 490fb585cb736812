/* repack_impl.h - between the files of repack only. */
#ifndef LIBFMT_REPACK_IMPL_H
#define LIBFMT_REPACK_IMPL_H

#include "base/err.h"
#include "layout/qfmt_codes.h"
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
/* Of sizes: the largest that both are multiples of (one may be 0), and the
 * smallest that is a multiple of both. */
uint32_t repack_gcd(uint32_t a, uint32_t b);
uint32_t repack_lcm(uint32_t a, uint32_t b);

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
/* Does it go from layout to layout tile by tile (repack_open tells whether the
 * source has tiles), or must all its codes be in memory? */
bool repack_by_tiles(const struct repack_job *job,
		     const struct repack_item *item);
/* Read a layer and take the steps of `way` (NULL: none).  With `tiles` its
 * codes stay where they are if they can, and words->how is set. */
int repack_open(const struct model *m, const struct qf_module *module,
		const struct repack_way *way, bool tiles, struct ql *ql,
		struct qf_words *words, struct err *err);
void repack_close(struct ql *ql, struct qf_words *words);
/* How many threads work at once: as many as were asked for, if the layers that
 * they hold together stay within 1.5 GiB. */
uint32_t repack_threads(const struct repack_job *job,
			const struct repack_ways *w);
/* Pages of a module are not needed again soon: memory stays bounded by the
 * layers under way, not by the files. */
void repack_forget(const struct model *m, const struct qf_module *q);
/* ---- repack_rows.c: a layer by bands of its outputs ---- */

/* Open, then look at bands n, n + step, ...: each is the layer of some rows,
 * valid until the next. */
struct repack_rows {
	/* set before opening */
	const struct model *m;
	const struct qf_module *module;
	const struct repack_way *way; /* whose steps are taken; NULL: none */
	uint32_t unit;         /* a band has whole runs of so many rows */

	struct ql ql;          /* without codes where words.how is set */
	struct qf_words words;
	uint32_t step;         /* rows of a band; the last may have less */
	struct ql band;        /* what was asked for last */
	uint8_t *room, *across; /* a band's codes, one way and the other */
};
int repack_rows_open(struct repack_rows *r, struct err *err);
const struct ql *repack_rows_at(struct repack_rows *r, uint32_t n);
/* The other way: all rows, `count` <= 128 inputs from k on, a multiple of
 * 128. */
int repack_rows_across(struct repack_rows *r, uint32_t k, uint32_t count,
		       const struct ql **out, struct err *err);
void repack_rows_close(struct repack_rows *r);
/* Encode a layer that its target keeps row by row, dense or in GGUF, and pour
 * when w is not NULL; the rows of each `turned` change places (0: none). */
int repack_rows_pour(const struct repack_job *job,
		     const struct repack_item *item, uint32_t turned,
		     struct st_writer *w, struct err *err);
/* A layer before and after. */
struct repack_pair {
	const struct model *was, *is;
	const struct qf_module *from, *to;
};
/* Weights are the same where code, scale and zero are: that takes no more than
 * one look at either file.  1: proven so, 0: the weights themselves have to be
 * compared. */
int repack_same_codes(const struct repack_pair *p, const struct repack_way *w,
		      struct err *err);
/* ql_compare_moved of the two. */
int repack_rows_compare(const struct repack_pair *p, const struct ql_map *map,
			struct ql_diff *diff, struct err *err);
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
/* Tensors of m and of `back` that are to be copies; their pages are given back
 * on the way. */
bool repack_same_bytes(const struct model *m, const struct tensor *was,
		       const struct model *back, const struct tensor *is);

#endif
