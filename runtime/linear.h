/* linear.h - one linear layer on a device: dense or quantized, with or without
 * bias.  Y = X * W^T + bias. */
#ifndef RUNTIME_LINEAR_H
#define RUNTIME_LINEAR_H

#include "../kernels/backend.h"

struct model;

/* The device as the runtime carries it around. */
struct rt_dev {
	const struct be_api *api;
	struct be *be;
};

struct rt_linear {
	char *name;           /* the module's name, owned */
	uint32_t in, out;
	struct be_mat dense;  /* [out][in]; exactly one of dense.p */
	struct be_qw *quant;  /* and quant is set */
	struct be_mat bias;   /* [1][out], or p == NULL */
};

/* Load module `name` from the model; the shape must be [out][in]. */
int rt_linear_load(const struct rt_dev *d, const struct model *m,
		   const char *name, uint32_t in, uint32_t out,
		   struct rt_linear *l, struct err *err);
/* Replace a dense weight by a quantized one (the quantizer's way back). */
int rt_linear_set(const struct rt_dev *d, struct rt_linear *l,
		  const struct ql *ql, struct err *err);
int rt_linear_run(const struct rt_dev *d, const struct rt_linear *l,
		  const struct be_mat *x, struct be_mat *y, struct err *err);
void rt_linear_release(const struct rt_dev *d, struct rt_linear *l);

/* The weights of a module as f32 rows [out][in] in host memory, whatever its
 * layout; the caller frees.  Used by the quantizer and the verifier. */
int rt_weights(const struct model *m, const char *name, uint32_t in,
	       uint32_t out, float **w, struct err *err);
/* A vector or matrix tensor as f32 on the device: [rows][cols]. */
int rt_tensor_load(const struct rt_dev *d, const struct model *m,
		   const char *name, uint32_t rows, uint32_t cols,
		   struct be_mat *out, struct err *err);

#endif
