/* method.h - the table of quantization methods, each a pure function over the
 * backend: weights and Hessian in, codes, scales and zeros out.
 *
 * gptq: E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate
 * Post-Training Quantization for Generative Pre-trained Transformers", 2022
 * (arXiv:2210.17323), and the authors' published code for groups, act-order
 * and static groups.
 * rtn: round to nearest on the same grid. */
#ifndef QUANT_METHOD_H
#define QUANT_METHOD_H

#include "../kernels/backend.h"

struct gq_params {
	uint8_t bits;
	uint8_t sym, desc_act, static_groups;
	int32_t group_size;        /* -1: one group per row */
	double damp;               /* fraction of mean(diag H) */
	double damp_step;          /* added while the factorisation fails */
	uint32_t block;            /* columns per lazy update, 128 */
	enum dtype scale_type;     /* as stored: F16, BF16, F32 */
	uint8_t round_scale;       /* compute codes with the stored scale */
};

struct gq_report {
	double loss;     /* sum of e^2/2 over all weights (gptq); for rtn 0 */
	double rel_error;/* |W - Q|_F / |W|_F */
	double damp;     /* the damping that worked */
	uint32_t dead;   /* input columns never active */
};

struct gq_method {
	const char *name, *summary;
	uint8_t needs_hessian;
	/* w: host f32 [out][in], not changed.  h: F64 [in][in] on the device,
	 * not changed; NULL without a Hessian.  *ql is initialised here. */
	int (*solve)(const struct be_api *api, struct be *be, const float *w,
		     uint32_t out, uint32_t in, const struct be_mat *h,
		     const struct gq_params *p, struct ql *ql,
		     struct gq_report *report, struct err *err);
};

extern const struct gq_method gq_gptq, gq_rtn;
extern const struct gq_method *const gq_methods[];
extern const uint32_t gq_method_count;
const struct gq_method *gq_method_find(const char *name); /* or NULL */

#endif
