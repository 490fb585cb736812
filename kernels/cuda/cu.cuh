/* cu.cuh - what the files of the GPU plug-in share.
 *
 * One stream per opened device; every operation is put on it and returns.  On
 * sm_90 and later a kernel may start while its predecessor still runs: so
 * every kernel calls cu_wait() before it reads or writes anything an operation
 * before it may have touched.  Prepared weights may be read earlier: the first
 * kernel behind their making is launched without this (be->fresh), and those
 * behind that one start no sooner than it did.
 *
 * Sums have a fixed order: work is cut by shape alone and no kernel adds to
 * floats with atomics, so the same input gives the same bits. */
#ifndef KERNELS_CUDA_CU_CUH
#define KERNELS_CUDA_CU_CUH

#include "../../libfmt/base/err.h"
#include "../backend.h"
#include "../shape.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

/* Scratch memory of a device, by use; each grows to the largest need. */
enum cu_scratch {
	CU_X16,   /* activations as f16 */
	CU_DENSE, /* a dequantized or converted weight */
	CU_PART,  /* partial results */
	CU_F64,   /* the matrices of factor */
	CU_SMALL, /* lists from host memory */
	CU_COUNT, /* blocks that are done, by tile: 0 between operations */
	CU_TOP,   /* candidates of topk */
	CU_SCRATCHES
};

/* Which matrix CU_X16 holds as f16.  rmsnorm and swiglu leave their result
 * there beside the f32 one, and layers with the same input share it; whatever
 * writes into that input ends it. */
struct cu_x16_of {
	const char *p; /* NULL: none */
	size_t ld;
	uint32_t rows, cols;
	uint64_t order;
	int planes;
};

struct cu_ring; /* upload.cu: pinned memory, made on first use */
struct cu_blas; /* gemm.cu: cuBLAS, opened on first use */
struct cu_reply;

struct be {
	int device, cc, sms;      /* cc: 90 for sm_90 */
	size_t smem;              /* most shared memory of a block */
	int pdl;                  /* programmatic dependent launch */
	int generic;              /* only the generic kernels were asked for */
	int wgmma;                /* this plug-in has those of sm_90a */
	cudaStream_t stream;
	void *scratch[CU_SCRATCHES];
	size_t size[CU_SCRATCHES];
	struct cu_x16_of x16;
	struct cu_blas *blas;
	struct cu_ring *ring;
	struct cu_reply *reply;   /* topk.cu: made on first use */
	uint32_t threads;         /* of the host, for copying */
	int fresh;                /* a weight was made: see cu_launch */
	int recording;            /* graph.cu */
	uint64_t moved;           /* how often scratch has grown */
	char text[160];
};

/* ERR_RESOURCE with the numbers when memory ran out, else ERR_UNSUP. */
int cu_fail(cudaError_t e, const char *what, struct err *err);
#define CU_TRY(call, what, err)                                               \
	do {                                                                  \
		cudaError_t cu_e = (call);                                    \
		if (cu_e != cudaSuccess)                                      \
			return cu_fail(cu_e, what, err);                      \
	} while (0)

/* Device memory; `what` is for the message. */
int cu_alloc(size_t bytes, const char *what, void **p, struct err *err);
/* Scratch of at least `bytes`, valid until the next call for the same use. */
int cu_scratch_get(struct be *be, enum cu_scratch use, size_t bytes, void **p,
		   struct err *err);

/* How CU_X16 lies: [m][k] row by row; with 9 to 64 rows in the order in which
 * mma takes them (qw.cuh), [half chunk][tile of 8 rows][lane] of 8 inputs; or,
 * where `rows` says how many there are room for, from 9 rows on in that of wgmma
 * (wgmma.cuh), [chunk of 64 inputs][row] of 64. */
struct cu_x16_form {
	uint32_t m, k, rows;
	int planes; /* of bytes, as planes.cuh says */
};

#define CU_PLANES_ROWS 8u /* at most */

/* Of what quantized linears take, and dense ones. */
struct cu_x16_form cu_x16_form(const struct be *be, uint32_t m, uint32_t k);
struct cu_x16_form cu_x16_dense(const struct be *be, uint32_t m, uint32_t k);

/* A result written as f16 too: element (r, c) to p[x16_at(form, r, c)]; p NULL:
 * not wanted. */
struct cu_out16 {
	__half *p;
	struct cu_x16_form form;
};

/* CU_X16 when it holds x in this order and form, else NULL. */
const __half *cu_x16_find(const struct be *be, const struct be_mat *x,
			  uint64_t order, struct cu_x16_form form);
/* Room there for x, which the caller fills as the form says, and for the rows
 * that the kernels read beyond it. */
__half *cu_x16_room(struct be *be, const struct be_mat *x, uint64_t order,
		    struct cu_x16_form form, struct err *err);
/* Room for y as f16 beside it, when it is the size of something that linears
 * take, and where that is planes, when the caller can write those; else y16->p is
 * NULL. */
int cu_also_16(struct be *be, const struct be_mat *y, bool planes,
	       struct cu_out16 *y16, struct err *err);
/* To be called by whatever writes m, or memory from p on. */
void cu_wrote(struct be *be, const struct be_mat *m);
void cu_wrote_bytes(struct be *be, const void *p, size_t bytes);

/* bytes to the device, on the stream; src may go when this returns. */
int cu_upload(struct be *be, void *dst, const void *src, size_t bytes,
	      struct err *err);
void cu_ring_close(struct cu_ring *r); /* accepts NULL */

/* ---- operations of the table, by file ---- */

int cu_gemm(struct be *, const struct be_gemm *, struct err *);
void cu_blas_close(struct cu_blas *b);
/* Y = X W^T through cuBLAS on f16 (x [m][k], w [n][k], both dense) into F32.
 * 1 when there is no cuBLAS: nothing has run. */
int cu_gemm_f16(struct be *be, const __half *x, const __half *w,
		struct be_mat *y, uint32_t k, struct err *err);
/* 1 when cuBLAS can be opened. */
int cu_blas_there(struct be *be);
/* C = alpha op(A) op(B) + beta C; strides in elements. */
struct cu_dense {
	const float *a;
	const void *b;
	float *c;
	uint32_t m, n, k;
	size_t lda, ldb, ldc;
	int trans_a, trans_b; /* stored [k][m]; stored [n][k] */
	float alpha, beta;
};
/* With B in f32. */
int cu_sgemm(struct be *be, const struct cu_dense *g, struct err *err);

/* By wgmma; 1 when it is not for that: nothing has run. */
int cu_wgmma_gemm(struct be *, const struct be_gemm *, struct err *);
/* 1 on a device with wgmma that this plug-in holds code for. */
int cu_wgmma_there(struct be *be);
int cu_qw_new(struct be *, const struct ql *, struct be_qw **, struct err *);
int cu_qw_pack(struct be *, const struct ql_packed *, struct be_qw **,
	       struct err *);
void cu_qw_free(struct be *, struct be_qw *);
const char *cu_qw_kernel(const struct be *, const struct be_qw *, uint32_t m);
int cu_qgemm(struct be *, const struct be_mat *x, const struct be_qw *,
	     struct be_mat *y, struct err *);

int cu_gather(struct be *, const struct be_mat *x, const uint32_t *index,
	      struct be_mat *y, struct err *);
int cu_embed(struct be *, const struct be_mat *table, const uint32_t *id,
	     struct be_mat *y, struct err *);
int cu_rmsnorm(struct be *, const struct be_mat *x, const struct be_mat *w,
	       double eps, struct be_mat *y, struct err *);
int cu_store(struct be *, const struct be_store *, struct err *);
int cu_swiglu(struct be *, const struct be_mat *gate, const struct be_mat *up,
	      struct be_mat *y, struct err *);
int cu_add(struct be *, struct be_mat *x, const struct be_mat *y,
	   struct err *);
int cu_topk(struct be *, const struct be_topk *, uint32_t n, struct err *);
void cu_reply_close(struct be *be);
int cu_attend(struct be *, const struct be_attend *, struct err *);
int cu_syrk(struct be *, const struct be_mat *x, double alpha,
	    struct be_mat *h, struct err *);
int cu_factor(struct be *, const struct be_factor *, struct err *);
int cu_grid(struct be *, const struct be_grid *, struct err *);
int cu_sweep(struct be *, const struct be_sweep *, struct err *);
int cu_refine(struct be *, const struct be_refine *, struct err *);
int cu_step_new(struct be *, const struct be_blocks *, struct be_step **,
		struct err *);
void cu_step_free(struct be *, struct be_step *);
int cu_step(struct be *, struct be_step *, struct be_mat *x, uint32_t first,
	    struct err *);
int cu_record(struct be *, struct err *);
int cu_recorded(struct be *, struct be_graph **, struct err *);
int cu_replay(struct be *, struct be_graph *, struct err *);
void cu_graph_free(struct be *, struct be_graph *);

/* ---- launching ---- */

struct cu_dim {
	dim3 grid, block;
	size_t smem;
	unsigned cluster; /* blocks of a cluster; 0: none */
};

template <class... P, class... A>
static int cu_launch(struct be *be, const char *what, struct cu_dim d,
		     struct err *err, void (*kernel)(P...), A... args)
{
	cudaLaunchConfig_t c = {};
	cudaLaunchAttribute attr[2] = {};
	cudaError_t e = cudaSuccess;

	if (!d.grid.x || !d.grid.y || !d.grid.z)
		return 0; /* nothing to do */
	/* 48 KiB need no asking, what a kernel declares itself included */
	if (d.smem > 24u << 10)
		e = cudaFuncSetAttribute(
			(const void *)kernel,
			cudaFuncAttributeMaxDynamicSharedMemorySize,
			(int)d.smem);
	if (be->pdl && !be->fresh) {
		attr[c.numAttrs].id =
			cudaLaunchAttributeProgrammaticStreamSerialization;
		attr[c.numAttrs++].val.programmaticStreamSerializationAllowed =
			1;
	}
	if (d.cluster) {
		attr[c.numAttrs].id = cudaLaunchAttributeClusterDimension;
		attr[c.numAttrs].val.clusterDim.x = d.cluster;
		attr[c.numAttrs].val.clusterDim.y = 1;
		attr[c.numAttrs++].val.clusterDim.z = 1;
	}
	c.gridDim = d.grid;
	c.blockDim = d.block;
	c.dynamicSmemBytes = d.smem;
	c.stream = be->stream;
	c.attrs = attr;
	be->fresh = 0;
	if (e == cudaSuccess)
		e = cudaLaunchKernelEx(&c, kernel, P(args)...);
	return e == cudaSuccess ? 0 : cu_fail(e, what, err);
}

/* ---- device helpers ---- */

/* What the kernels before this one wrote is there after this. */
__device__ __forceinline__ void cu_wait(void)
{
#if __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The next kernel may be brought onto free multiprocessors. */
__device__ __forceinline__ void cu_next(void)
{
#if __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ __forceinline__ float cu_warp_sum(float v)
{
	for (int o = 16; o; o /= 2)
		v += __shfl_xor_sync(~0u, v, o);
	return v;
}

__device__ __forceinline__ double cu_warp_sum(double v)
{
	for (int o = 16; o; o /= 2)
		v += __shfl_xor_sync(~0u, v, o);
	return v;
}

/* f16 of a float; what is beyond f16 becomes its largest number, so that an
 * outlier stays finite. */
__device__ __forceinline__ __half cu_half(float f)
{
	return __float2half_rn(fminf(fmaxf(f, -65504.f), 65504.f));
}

__device__ __forceinline__ float cu_float(float f) { return f; }
__device__ __forceinline__ float cu_float(int8_t i) { return (float)i; }
__device__ __forceinline__ float cu_float(__half f) { return __half2float(f); }
__device__ __forceinline__ float cu_float(__nv_bfloat16 f)
{
	return __bfloat162float(f);
}

/* Where element (r, c) is then; of a pair from an even c on, the other is
 * behind it. */
__device__ __forceinline__ size_t x16_at(struct cu_x16_form f, uint32_t r,
					 uint32_t c)
{
	if (f.rows) {
		/* the pieces of a row are swizzled */
		uint32_t piece = c % 64 / 32 * 4 + c % 8 / 2;

		return ((size_t)(c / 64) * f.rows + r) * 64 +
		       (piece ^ r % 8) * 8 + c % 32 / 8 * 2 + c % 2;
	}
	if (f.m <= 8 || f.m > 64)
		return (size_t)r * f.k + c;
	uint32_t tiles = f.m <= 16 ? 2 : f.m <= 32 ? 4 : 8;

	return ((((size_t)(c / 32) * tiles + r / 8) * 8 + r % 8) * 4 +
		c % 32 / 8) * 8 + c % 8;
}

static inline uint32_t cu_div_up(uint64_t a, uint64_t b)
{
	return (uint32_t)((a + b - 1) / b);
}

#endif
