/* repack_impl.h - between the files of repack only. */
#ifndef LIBFMT_REPACK_IMPL_H
#define LIBFMT_REPACK_IMPL_H

#include "model.h"
#include "repack.h"

struct st_writer;

/* One piece of work: a layer to convert, or a tensor to copy. */
struct repack_item {
	const struct survey_layer *layer; /* NULL: copy `tensor` */
	const struct tensor *tensor;
	struct qf_plan plan; /* of the layer in the target */
	uint32_t id;         /* of its first tensor in the writer */
};

/* ---- repack_layer.c: one layer ---- */

/* What a layer takes in its target. */
int repack_layer_plan(const struct repack_job *job,
		      const struct survey_layer *l, struct qf_plan *plan,
		      struct err *err);
/* Read, encode, and pour when w is not NULL. */
int repack_layer_convert(const struct repack_job *job,
			 const struct repack_item *item, struct st_writer *w,
			 struct err *err);
/* Row n of a layer as bytes of a dense type; `row` is scratch [in].  A finite
 * weight that the type cannot hold is ERR_UNSUP. */
int repack_dense_row(const struct ql *ql, uint32_t n, enum dtype type,
		     float *row, void *out, struct err *err);

/* ---- repack_config.c ---- */

/* Write config.json and quantize_config.json for what was written.  `anew`:
 * no zeros are as the old quantizer wrote them, its name is dropped. */
int repack_config_write(const struct repack_job *job, bool anew,
			struct err *err);

/* ---- repack_foreign.c ---- */

struct cJSON;

/* The config of a layout with a config of its own (AWQ, compressed-tensors),
 * else NULL.  ERR_UNSUP where it cannot describe what would be written. */
int repack_config_foreign(const struct repack_job *job, struct cJSON **out,
			  struct err *err);

/* ---- repack_proof.c ---- */

/* Compare job->model with what lies in job->out; *weights counts. */
int repack_prove(const struct repack_job *job, uint64_t *weights,
		 struct err *err);

#endif
