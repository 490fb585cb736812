/* method.h - the table of quantization methods, each a pure function over the
 * backend: weights and prepared Hessian in, codes, scales and zeros out.
 *
 * gptq: E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate
 * Post-Training Quantization for Generative Pre-trained Transformers", 2022
 * (arXiv:2210.17323), and the authors' published code for groups, act-order
 * and static groups.
 * gptaq: the same toward the outputs of the full model, see drift.h.
 * hqq: grids fitted to the weights alone, see hqq.c.
 * rtn: round to nearest on the same grid.
 *
 * With desc_act and no static groups the groups are formed in the order of
 * processing: group_of is scattered over the columns.  Else, and for rtn
 * always, group_of is k / group_size. */
#ifndef QUANT_METHOD_H
#define QUANT_METHOD_H

#include "../runtime/linear.h"
#include "hess.h"

/* How the range of a group is clipped before its grid is laid: not at all; by
 * the search of the published code (80 ranges, |e|^2.4); or by one that looks
 * further, weighs squares by the diagonal of the Hessian where there is one,
 * and also tries the zeros one beside. */
enum gq_clip { GQ_CLIP_NONE, GQ_CLIP_PUBLISHED, GQ_CLIP_WEIGHTED };

struct gq_params {
	uint8_t bits;              /* 2, 3, 4, 8 */
	uint8_t sym, desc_act, static_groups;
	uint8_t group_aware;       /* without desc_act: groups are taken in the
				      order of their activity, and columns in
				      a group; group_of stays k / group_size */
	int32_t group_size;        /* -1: one group per row */
	double damp;               /* fraction of mean(diag H) */
	double damp_step;          /* added while the factorisation fails */
	uint8_t damp_short;        /* more damping where the text is short */
	uint32_t block;            /* columns per lazy update, 128 */
	enum dtype scale_type;     /* as stored: F16, BF16, F32 */
	uint8_t round_scale;       /* compute codes with the stored scale */
	enum gq_clip clip;
	uint32_t passes;           /* of refinement (refine.h), 0: none */
	uint32_t threads;          /* for work that is not the device's */
	uint8_t zero_min;          /* the least zero the layout can hold: 0, or
				      1 for layouts that store zero - 1 */
};

struct gq_report {
	double loss;     /* tr((W - Q) H (W - Q)^T) / 2, H damped: the sum of
			    e^2/2 over all weights (gptq); for rtn 0 */
	double rel_error;/* |W - Q|_F / |W|_F, with the stored scales */
	double out_error;/* what is lost of the outputs, and what rounding */
	double rtn_error;/* to nearest would lose (metric.h); for rtn, hqq 0 */
	double damp;     /* the damping that worked; for rtn 0 */
	uint32_t dead;   /* input columns never active; for rtn 0 */
};

/* One linear to be solved. */
struct gq_task {
	const struct rt_dev *dev;
	const float *w;              /* host [out][in], not changed */
	uint32_t out, in;
	const struct gq_hess *hess;  /* prepared; NULL where not needed */
	const struct gq_params *params;
};

struct gq_method {
	const char *name, *summary;
	uint8_t needs_hessian;
	uint8_t compares; /* its drift from the full model is gathered too */
	/* *ql is initialised here (zeroed on failure); scales are exact values
	 * of params->scale_type.  ERR_INPUT when w is not finite, ERR_UNSUP
	 * when a scale does not fit its type. */
	int (*solve)(const struct gq_task *t, struct ql *ql,
		     struct gq_report *report, struct err *err);
};

extern const struct gq_method gq_gptq, gq_gptaq, gq_hqq, gq_rtn;
extern const struct gq_method *const gq_methods[];
extern const uint32_t gq_method_count;
const struct gq_method *gq_method_find(const char *name); /* or NULL */

/* 1 when all grids are set beforehand, from columns in their own order. */
int gq_preset(const struct gq_params *p);
/* Columns of one group: in for -1, never more than in. */
uint32_t gq_group_size(const struct gq_params *p, uint32_t in);
/* The spec of the layer that `p` makes of a [out][in] weight. */
void gq_spec(const struct gq_params *p, uint32_t out, uint32_t in,
	     struct ql_spec *spec);
/* The sum of n doubles on the device. */
int gq_sum(const struct rt_dev *d, const double *p, uint32_t n, double *out,
	   struct err *err);
/* |W - Q|_F / |W|_F of w [out][in] on the host; 0 for a zero weight. */
int gq_rel_error(const float *w, const struct ql *ql, double *out,
		 struct err *err);

#endif
