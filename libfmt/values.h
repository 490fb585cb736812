/* values.h - the values of one tensor, or of one quantized linear, as f32.
 *
 * The two look alike from here: `count` values in C order, taken piece by
 * piece.  A linear's are its dequantized weights [out][in], exactly as the
 * layout defines them, so that checkpoints can be compared whatever their
 * layouts are. */
#ifndef LIBFMT_VALUES_H
#define LIBFMT_VALUES_H

#include "survey.h"

struct err;

struct values {
	const struct tensor *tensor; /* NULL for a linear */
	const struct model *model;   /* its, to let go of what was read; or
					NULL */
	struct ql ql;                /* of a linear, else zeroed */
	int rank;
	uint64_t dim[TENSOR_RANK], count;
	float *row;                  /* of a linear: the row made last, */
	uint32_t at;                 /* and which it is */
};

/* On failure *v is zeroed.  A type without values (see tensor_load_f32) or a
 * tensor of which only the header was read is ERR_UNSUP. */
int values_open_tensor(const struct tensor *t, struct values *v,
		       struct err *err);
/* Read a module that some layout claims. */
int values_open_layer(const struct model *m, const struct qf_module *module,
		      struct values *v, struct err *err);
void values_release(struct values *v); /* accepts a zeroed struct */

/* n values from `from` on; the caller keeps within count.  One thread. */
void values_load(struct values *v, uint64_t from, uint64_t n, float *out);

/* ---- a checkpoint as if it were dense ---- */

/* Exactly one of the two is set. */
struct values_ref {
	const char *name;                 /* "model.norm.weight"; of a linear
					     its module's with ".weight" */
	const struct survey_layer *layer; /* quantized, and can be read */
	const struct tensor *tensor;
};

struct values_list {
	struct values_ref *ref; /* by name, in byte order */
	uint32_t count;
	char *names;            /* of the linears */
};

/* A quantized linear stands for all its tensors but the bias; what belongs to
 * a layer that cannot be read stands for itself.  The list points into the
 * model and the survey. */
int values_list_init(const struct model *m, const struct survey *s,
		     struct values_list *out, struct err *err);
void values_list_release(struct values_list *l); /* accepts zeroed */
int values_open(const struct model *m, const struct values_ref *ref,
		struct values *v, struct err *err);
/* Release, and let go of what was read of the files. */
void values_close(const struct model *m, const struct values_ref *ref,
		  struct values *v);

#endif
