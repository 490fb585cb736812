/* shape.h - the checks of arguments that every backend makes first.
 *
 * A view must have memory, a row pitch and a type that the operation takes,
 * and the shapes must fit together.  Callers that get this wrong are at fault
 * themselves, but a message beats a write out of bounds: each check returns 0,
 * or -1 with ERR_UNSUP that names the operation and the shapes.
 *
 * Not here: what lies in device memory (indices, codes). */
#ifndef KERNELS_SHAPE_H
#define KERNELS_SHAPE_H

#include "backend.h"

#ifdef __cplusplus
extern "C" {
#endif

int be_shape_gemm(const struct be_gemm *g, struct err *err);
int be_shape_gather(const struct be_mat *x, const struct be_mat *y,
		    struct err *err);
int be_shape_embed(const struct be_mat *table, const struct be_mat *y,
		   struct err *err);
int be_shape_rmsnorm(const struct be_mat *x, const struct be_mat *weight,
		     const struct be_mat *y, struct err *err);
int be_shape_store(const struct be_store *s, struct err *err);
int be_shape_attend(const struct be_attend *a, struct err *err);
/* Places within the cache, for a backend that can read them. */
int be_shape_at(const struct be_at *at, uint32_t tokens, uint32_t seen,
		uint32_t positions, struct err *err);
int be_shape_swiglu(const struct be_mat *gate, const struct be_mat *up,
		    const struct be_mat *y, struct err *err);
int be_shape_topk(const struct be_topk *t, struct err *err);
int be_shape_add(const struct be_mat *x, const struct be_mat *y,
		 struct err *err);
int be_shape_syrk(const struct be_mat *x, const struct be_mat *h,
		  struct err *err);
int be_shape_factor(const struct be_factor *f, struct err *err);
int be_shape_grid(const struct be_grid *g, struct err *err);
int be_shape_sweep(const struct be_sweep *s, struct err *err);
int be_shape_refine(const struct be_refine *r, struct err *err);
/* x [m][in], y [m][out]. */
int be_shape_qgemm(const struct be_mat *x, uint32_t in, uint32_t out,
		   const struct be_mat *y, struct err *err);
/* The ranges a device layout is built from; cheap next to building it. */
int be_shape_packed(const struct ql_packed *q, struct err *err);
int be_shape_ql(const struct ql *ql, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
