/* survey.h - what is in a checkpoint: one row per linear layer, and the sums.
 *
 * From headers alone, except for g_idx and qzeros (small).  The result is what
 * inspect prints, what verify's structure check walks and what repack plans
 * from. */
#ifndef LIBFMT_SURVEY_H
#define LIBFMT_SURVEY_H

#include "layout/qfmt.h"

#include <stdbool.h>
#include <stdint.h>

struct err;
struct model;

struct survey_layer {
	const struct qf_module *module;
	const struct qfmt *format;  /* NULL: dense, or without a reader */
	const char *layout;         /* its name; "dense"; or, with `broken`,
				       that of a layout without a reader */
	struct ql_spec spec;        /* in, out, bits (of the element type) are
				       set for dense ones too */
	uint32_t odd;               /* enum qf_odd */
	uint64_t order;             /* hash of what was seen of g_idx: equal
				       for equal ones; 0: nothing was seen */
	bool bias;
	bool table;                 /* quantized, but no linear: its rows are
				       looked up (embeddings in GGUF) */
	bool broken;                /* its spec could not be read: `why` */
	char why[256];
};

struct survey {
	const char *format;         /* "gptq", "dense", "mixed", ... */
	struct survey_layer *layer; /* 2-D weights that are linears (quantized,
				       or dense and not embeddings or norms),
				       block 2 before block 10 */
	uint32_t count, quantized;
	uint64_t parameters;        /* elements of all weights, decoded; those
				       of broken layers are not known */
	uint64_t bytes;             /* of all tensors */
	double bits_per_weight;     /* of the quantized linears, all their
				       tensors counted; 0 when there are none */
	/* of the quantized linears: the common value, or the largest with
	 * `mixed` set.  A layer of one group counts as the config's group size
	 * where that is not below its inputs. */
	uint32_t bits;
	int32_t group_size;         /* -1: one group per row */
	bool desc_act, sym, mixed;
	uint32_t odd;               /* of all layers */
	bool glance;                /* zeros and g_idx were not read in full */
};

int survey_model(const struct model *m, struct survey *out, struct err *err);
/* The same in an instant: of a large checkpoint the first few kB of each
 * layer's zeros and g_idx are read, and of one on a server those of some layers
 * (model_glance brings them), the rest being as the config says.  A small local
 * checkpoint is read in full. */
int survey_glance(const struct model *m, struct survey *out, struct err *err);
void survey_release(struct survey *s);
/* The common values (bits to mixed) again, after the layers were changed. */
int survey_sum(const struct model *m, struct survey *s, struct err *err);

/* As strcmp, but numbers in names count as numbers: block 2 before 10. */
int survey_order(const char *a, const char *b);
/* Does tensor t of a quantized layer's module hold its weights?  (All of its
 * layout do, and a weight beside them; a bias does not.) */
bool survey_owns(const struct survey_layer *l, const struct tensor *t);
/* Loaders that run q k v, or gate and up, as one look `dynamic` up by the name
 * of the whole.  Does that tell them something else than what l is, although
 * all of its slot are alike? */
bool survey_fused_missed(const struct model *m, const struct survey *s,
			 const struct survey_layer *l);
/* A dense linear of a block, which no rule and no list in the config leaves
 * out of what is quantized. */
bool survey_dense_unsaid(const struct model *m, const struct survey_layer *l);
/* Read a module that some layout claims, by its model's configs.  *ql is
 * zeroed on failure. */
int survey_read(const struct model *m, const struct qf_module *module,
		struct ql *ql, struct err *err);
/* The same, but the codes stay where they are: ql->code is NULL and *words says
 * how to get them.  Where they are not to be had that way (words->how is NULL)
 * they are read. */
int survey_open(const struct model *m, const struct qf_module *module,
		struct ql *ql, struct qf_words *words, struct err *err);

#endif
