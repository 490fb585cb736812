/* repack_gguf.h - a checkpoint into one GGUF file, and the dense tensors of
 * one into a folder; between the files of repack only. */
#ifndef LIBFMT_REPACK_GGUF_H
#define LIBFMT_REPACK_GGUF_H

#include "repack_impl.h"

struct llama_config;
struct gguf_meta;

/* One tensor of the file: a layer in blocks, or a copy. */
struct gguf_item {
	const struct survey_layer *layer; /* NULL: copy `tensor` */
	const struct repack_way *way;     /* of the layer */
	const struct tensor *tensor;
	struct qf_plan plan;
	enum dtype type;     /* as written */
	uint32_t turned;     /* as written, see tensor_turned_row */
	uint32_t id;
};

/* Is the target a GGUF file? */
bool repack_gguf_is(const struct repack_job *job);
/* If so: are all steps such that can be taken on the way into it? */
int repack_gguf_check(const struct repack_job *job,
		      const struct repack_ways *ways, struct err *err);
/* And can the file say what this model is, and name all tensors?  No layer may
 * be refused. */
int repack_gguf_try(const struct repack_job *job,
		    const struct repack_ways *ways,
		    const enum repack_action *action, struct err *err);
/* repack_run with a GGUF file as target, and the proof; job->out is its
 * path. */
int repack_gguf_run(const struct repack_job *job,
		    const struct repack_ways *ways,
		    const enum repack_action *action,
		    struct repack_report *out, struct err *err);

/* Tensors that are not written: constants that readers compute, and the zero
 * biases of old packers. */
bool repack_gguf_drops(const struct tensor *t, const struct llama_config *c);

/* Compare job->model with the file: the weights of all linears bit for bit (or,
 * with lossy, by how much they differ at most and on average), and every
 * other tensor as it should have been converted. */
int repack_gguf_prove(const struct repack_job *job,
		      const struct repack_ways *ways,
		      struct repack_report *out, struct err *err);

/* Row n of t in its place, as `type`, to out; `row` is room for its elements
 * (an element is the row of a vector).  A finite value that the type cannot
 * hold is ERR_UNSUP. */
int repack_gguf_row(const struct tensor *t, uint32_t n, enum dtype type,
		    float *row, void *out, struct err *err);

/* All of t as `type`, its rows in place or turned. */
int repack_gguf_pour(struct st_writer *w, uint32_t id, const struct tensor *t,
		     enum dtype type, uint32_t turned, struct err *err);
/* Is `is` what `was` becomes as a tensor of its type? */
int repack_gguf_same(const struct tensor *was, const struct tensor *is,
		     struct err *err);

/* ---- where the source is a GGUF file (any other: nothing is special) ---- */

/* Its vectors, F32 there, in the type of the embeddings where that loses
 * nothing; else as it is. */
enum dtype repack_gguf_narrow(const struct model *m, const struct tensor *t);
/* A tensor that no folder has: the config says it. */
bool repack_gguf_leaves(const struct model *m, const struct tensor *t);

#endif
