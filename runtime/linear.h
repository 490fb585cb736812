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
	struct be_mat bias;   /* F32 [1][out], or p == NULL */
	uint64_t bytes;       /* of the weight as a checkpoint stores it */
};

/* Load module `name` from the model; the shape must be [out][in].  F16, BF16
 * and F32 weights keep their type, F64 becomes F32; quantized ones go through
 * the neutral layer into the device's own layout.  The tensors decide which it
 * is, not the config.  On failure *l is zeroed. */
int rt_linear_load(const struct rt_dev *d, const struct model *m,
		   const char *name, uint32_t in, uint32_t out,
		   struct rt_linear *l, struct err *err);
/* Replace the weight by a quantized one (the quantizer's way back); the bias
 * stays.  On failure the linear is as it was. */
int rt_linear_set(const struct rt_dev *d, struct rt_linear *l,
		  const struct ql *ql, struct err *err);
/* y [m][out] from x [m][in].  Nothing is allocated here. */
int rt_linear_run(const struct rt_dev *d, const struct rt_linear *l,
		  const struct be_mat *x, struct be_mat *y, struct err *err);
/* Accepts a zeroed struct, and leaves one. */
void rt_linear_release(const struct rt_dev *d, struct rt_linear *l);
/* The kernel that runs it for so many rows: "avx512-b4", or "f16", "bf16",
 * "f32". */
const char *rt_linear_kernel(const struct rt_dev *d, const struct rt_linear *l,
			     uint32_t rows);

/* The weights of a module as f32 rows [out][in] in host memory, whatever its
 * layout; the caller frees.  Used by the quantizer and the verifier. */
int rt_weights(const struct model *m, const char *name, uint32_t in,
	       uint32_t out, float **w, struct err *err);
/* A float tensor on the device: [rows][cols], or [cols] in the file when rows
 * is 1, as F32 (norms, biases).  On failure out->p is NULL. */
int rt_tensor_load(const struct rt_dev *d, const struct model *m,
		   const char *name, uint32_t rows, uint32_t cols,
		   struct be_mat *out, struct err *err);
/* The weight of a module whose rows are looked up (embeddings): F16, BF16 and
 * F32 as they are, a quantized one decoded to F32. */
int rt_table_load(const struct rt_dev *d, const struct model *m,
		  const char *module, uint32_t rows, uint32_t cols,
		  struct be_mat *out, struct err *err);

#endif
