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

/* ---- repack_pool.c: a fixed number of threads over a list ---- */

struct repack_pool {
	uint32_t count, threads;
	/* Item i; many at a time, in rising order. */
	int (*fn)(void *ctx, uint32_t i, struct err *err);
	/* How much of the progress item i is. */
	uint64_t (*cost)(void *ctx, uint32_t i);
	void *ctx;
	const char *what;
	const struct progress *progress;
};
/* The first failure (of the lowest item) ends the work. */
int repack_pool_run(const struct repack_pool *p, struct err *err);

/* ---- repack_layer.c: one layer ---- */

/* What a layer takes in the target layout (job->to NULL: one dense weight). */
int repack_layer_plan(const struct repack_job *job, const struct ql_spec *spec,
		      struct qf_plan *plan, struct err *err);
/* Does tensor t of a quantized layer give way to the converted ones?  (All of
 * its layout do, and a weight beside them; a bias does not.) */
bool repack_layer_owns(const struct survey_layer *l, const struct tensor *t);
/* Read it from a model, by that model's own configs.  `l` is a module that
 * some layout claims. */
int repack_layer_read(const struct model *m, const struct qf_module *module,
		      struct ql *ql, struct err *err);
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
