/* qfmt_impl.h - what the layout plug-ins share: checks of single tensors, and
 * pieces of planning and writing. */
#ifndef LIBFMT_LAYOUT_QFMT_IMPL_H
#define LIBFMT_LAYOUT_QFMT_IMPL_H

#include "qfmt.h"
#include "qfmt_codes.h"

#include <stdbool.h>

/* A hint that says nothing. */
extern const struct qf_hint qf_no_hint;

bool qf_format_is(const struct qf_hint *hint, const char *name);

/* The tensor NAME.suffix, with ERR_INPUT where it is absent. */
const struct tensor *qf_need(const struct qf_module *m, const char *suffix,
			     struct err *err);
/* Rank and a size of every dimension of 1 to QL_DIM_MAX. */
int qf_rank_check(const struct tensor *t, int rank, struct err *err);
/* Packed words: I32 [*, *]. */
int qf_words_check(const struct tensor *t, struct err *err);
/* Scales and float zeros: F16, BF16 or F32 [*, *]. */
int qf_floats_check(const struct tensor *t, struct err *err);
/* Exactly [d0, d1], which follows from the other tensors. */
int qf_shape_check(const struct tensor *t, uint64_t d0, uint64_t d1,
		   struct err *err);
/* QF_ODD_SCALE_* of one scale, else 0. */
uint32_t qf_scale_odd(float s);
/* Odd bits of any layout: config's bits and group size, bias, weight. */
uint32_t qf_common_odd(const struct qf_layer *l, const struct ql_spec *s);

/* Scales and zeros change between [groups][out] and [out][groups] in blocks of
 * this many outputs, whose rows stay in the cache. */
#define QF_BLOCK 64

/* Add a part; d1 = 0 makes it a vector. */
void qf_plan_add(struct qf_plan *plan, const char *suffix, enum dtype type,
		 uint64_t d0, uint64_t d1);
/* Scales as their type, [out][groups] when by_row, else [groups][out]; one
 * that does not survive is ERR_UNSUP. */
int qf_scales_write(const struct ql *ql, bool by_row, void *part,
		    struct err *err);
/* Zeros that fit b-bit fields?  ERR_UNSUP for NAME names the first that does
 * not. */
int qf_zeros_fit(const struct ql *ql, const char *name, struct err *err);

/* Is offset = scale * z, rounded to `type`, for a whole z of 0 to max?  A
 * scale of 0 with offset 0 takes the middle. */
bool qf_point(float scale, float offset, enum dtype type, uint32_t max,
	      float *z);
/* A copy of ql's header with groups of gs, a divisor of its groups' size, and
 * scales and zeros repeated; free with free(wide->mem).  Not for act-order. */
int qf_split(const struct ql *ql, uint32_t gs, struct ql *wide,
	     struct err *err);

/* ---- reading in steps ---- */

/* The tensors of one module; those a layout does not have are NULL. */
struct qf_found {
	const struct qf_layer *layer;
	const struct qf_hint *hint; /* never NULL */
	const struct tensor *codes, *zeros, *scales, *index;
	const struct qf_codes *how; /* how codes lie, where find finds out */
	uint32_t odd;               /* enum qf_odd of what find sees */
	struct ql_spec spec;
};

/* A layout's reader: the order, the allocations and what is odd are common. */
struct qf_steps {
	/* Tensors and spec from headers; act_order and sym may stay 0. */
	int (*find)(struct qf_found *f, struct err *err);
	/* Scales and zeros, [out][groups] each; may set spec.zero_kind. */
	int (*grid)(struct qf_found *f, float *scale, float *zero,
		    struct err *err);
	/* group_of [in], filled with k / group_size before; NULL: stays. */
	int (*groups)(struct qf_found *f, uint32_t *group_of, struct err *err);
	/* How f->codes holds the codes. */
	const struct qf_codes *codes;
};
/* The spec of a layout of 4 bits whose scales are [groups][out], groups a
 * divisor of in. */
int qf_found_spec(struct qf_found *f, uint64_t in, uint64_t out,
		  struct err *err);
int qf_steps_spec(const struct qf_steps *s, struct qf_layer *l,
		  struct ql_spec *spec, struct err *err);
int qf_steps_read(const struct qf_steps *s, struct qf_layer *l, struct ql *ql,
		  struct err *err);

/* Initialise *ql of this spec and read its codes from t, or leave them there
 * and fill *l->words where that is set. */
int qf_codes_open(const struct qf_layer *l, const struct ql_spec *spec,
		  const struct qf_codes *how, const struct tensor *t,
		  struct ql *ql, struct err *err);

/* The three writing calls of a layout that is only read. */
int qf_no_accept(const struct ql_spec *spec, struct err *err);
int qf_no_plan(const struct ql_spec *spec, struct qf_plan *plan,
	       struct err *err);
int qf_no_write(const struct ql *ql, void *const part[], struct err *err);

#endif
