/* gemm.cu - C = alpha A op(B) + beta C for dense matrices.
 *
 *	rows of A   B            kernel
 *	1..8        [n][k]       dots: B is read once, f32 arithmetic
 *	9..         16 bits      wgmma, where there is: A rounded to f16
 *	any         any          tiles of 64 x 64 through shared memory, f32
 *	9.., large  F32          cuBLAS sgemm, where it opens
 *	9.., large  F16          cuBLAS, A rounded to f16, sums in f32
 *	9.., large  BF16         the same twice: A as the sum of two bf16
 *
 * cuBLAS is opened with dlopen by the first call that gains from it: decoding
 * needs the driver alone.  Its sums have a fixed order for one shape on one
 * device, as long as one stream uses a handle. */
#include "cu.cuh"
#include "dots.cuh"

#include <dlfcn.h>
#include <new>
#include <stdio.h>

/* ---- cuBLAS ---- */

/* Of cuBLAS's interface, by its documentation: the functions called, and the
 * values passed. */
#define BLAS_N 0
#define BLAS_T 1
#define BLAS_COMPUTE_32F 68
#define BLAS_DEFAULT (-1)

struct cu_blas {
	void *lib, *handle;
	int (*create)(void **);
	int (*destroy)(void *);
	int (*stream)(void *, cudaStream_t);
	int (*sgemm)(void *, int, int, int, int, int, const float *,
		     const float *, int, const float *, int, const float *,
		     float *, int);
	int (*gemm_ex)(void *, int, int, int, int, int, const void *,
		       const void *, cudaDataType, int, const void *,
		       cudaDataType, int, const void *, void *, cudaDataType,
		       int, int, int);
};

static void *open_lib(void)
{
	static const char *const names[] = {
		"libcublas.so.13", "libcublas.so.12", "libcublas.so.11",
	};
	void *lib = NULL;

	for (int i = 0; i < 3 && !lib; i++)
		lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
	return lib;
}

template <class F> static int symbol(void *lib, const char *name, F *f)
{
	*f = reinterpret_cast<F>(dlsym(lib, name));
	return *f ? 0 : -1;
}

static int start_blas(struct be *be, struct cu_blas *b)
{
	b->lib = open_lib();
	if (!b->lib || symbol(b->lib, "cublasCreate_v2", &b->create) ||
	    symbol(b->lib, "cublasDestroy_v2", &b->destroy) ||
	    symbol(b->lib, "cublasSetStream_v2", &b->stream) ||
	    symbol(b->lib, "cublasSgemm_v2", &b->sgemm) ||
	    symbol(b->lib, "cublasGemmEx", &b->gemm_ex))
		return -1;
	if (b->create(&b->handle) || b->stream(b->handle, be->stream)) {
		(void)cudaGetLastError();
		return -1;
	}
	return 0;
}

int cu_blas_there(struct be *be)
{
	if (!be->blas) {
		be->blas = new (std::nothrow) struct cu_blas();
		if (be->blas && start_blas(be, be->blas)) {
			cu_blas_close(be->blas);
			/* tried, and not there */
			be->blas = new (std::nothrow) struct cu_blas();
		}
	}
	return be->blas && be->blas->handle;
}

void cu_blas_close(struct cu_blas *b)
{
	if (!b)
		return;
	if (b->handle)
		b->destroy(b->handle);
	/* the library stays: its threads and hooks end with the program */
	delete b;
}

static int blas_status(int status, struct err *err)
{
	return status ? err_set(err, ERR_UNSUP, "cuBLAS failed with status %d",
				status) : 0;
}

/* Row-major C [m][n] = alpha A [m][k] B [n][k]^T + beta C in 16-bit types; as
 * cuBLAS sees it (columns first): C^T = B A^T. */
static int blas_16(struct be *be, const void *a, const void *w,
		   cudaDataType type, struct be_mat *y, uint32_t k, size_t ldw,
		   float alpha, float beta, struct err *err)
{
	struct cu_blas *b = be->blas;

	return blas_status(b->gemm_ex(b->handle, BLAS_T, BLAS_N, (int)y->cols,
				      (int)y->rows, (int)k, &alpha, w, type,
				      (int)ldw, a, type, (int)k, &beta, y->p,
				      CUDA_R_32F, (int)y->ld,
				      BLAS_COMPUTE_32F, BLAS_DEFAULT), err);
}

int cu_gemm_f16(struct be *be, const __half *x, const __half *w,
		struct be_mat *y, uint32_t k, struct err *err)
{
	if (!cu_blas_there(be))
		return 1;
	return blas_16(be, x, w, CUDA_R_16F, y, k, k, 1, 0, err);
}

/* ---- few rows ---- */

/* A warp per output, for rows that start anywhere. */
template <class T> __global__ void dot_kernel(const struct cu_dense d)
{
	const uint32_t n = blockIdx.x * DOT_WARPS + threadIdx.x / 32;
	const uint32_t lane = threadIdx.x % 32;
	float acc[DOT_ROWS] = {};

	cu_next();
	cu_wait();
	if (n >= d.n)
		return;
	const T *row = (const T *)d.b + n * d.ldb;
	for (uint32_t k = lane; k < d.k; k += 32)
#pragma unroll
		for (int m = 0; m < DOT_ROWS; m++)
			if ((uint32_t)m < d.m)
				acc[m] += cu_float(row[k]) * d.a[m * d.lda + k];
#pragma unroll
	for (int m = 0; m < DOT_ROWS; m++) {
		float s = d.alpha * cu_warp_sum(acc[m]);
		float *c = d.c + m * d.ldc + n;

		if (lane == 0 && (uint32_t)m < d.m)
			*c = d.beta ? s + d.beta * *c : s;
	}
}

template <class T>
static int dot(struct be *be, const struct cu_dense *d, struct err *err)
{
	int v = (uintptr_t)d->a % 16 == 0 && (uintptr_t)d->b % 16 == 0 &&
		d->lda % 4 == 0 && d->ldb * sizeof(T) % 16 == 0 &&
		d->k >= vec<T>::N;
	int rows = v ? 4 : 1;
	struct cu_dim dim = { dim3(cu_div_up(d->n, DOT_WARPS * rows)),
			      dim3(DOT_WARPS * 32), 0 };
	void (*fn)(const struct cu_dense) =
		!v ? dot_kernel<T>
		: d->m == 1 ? dots_kernel<T, 1, 4, 4>
		: d->m <= 4 ? dots_kernel<T, 4, 4, 2>
			    : dots_kernel<T, DOT_ROWS, 4, 1>;

	return cu_launch(be, "gemm", dim, err, fn, *d);
}

/* ---- tiles ---- */

#define TILE 64
#define TILE_K 16

/* 256 threads, 4 x 4 results each; tiles lie k first in shared memory. */
template <class T> __global__ void tile_kernel(const struct cu_dense g)
{
	__shared__ __align__(16) float as[TILE_K][TILE + 4];
	__shared__ __align__(16) float bs[TILE_K][TILE + 4];
	const uint32_t m0 = blockIdx.y * TILE, n0 = blockIdx.x * TILE;
	const int tid = threadIdx.x, tx = tid % 16, ty = tid / 16;
	float acc[4][4] = {};

	cu_wait();
	const T *b = (const T *)g.b;
	for (uint32_t k0 = 0; k0 < g.k; k0 += TILE_K) {
		/* neighbours take neighbours in memory */
		for (int i = tid; i < TILE * TILE_K; i += 256) {
			int r = g.trans_a ? i % TILE : i / TILE_K;
			int k = g.trans_a ? i / TILE : i % TILE_K;
			size_t at = g.trans_a
				? (k0 + k) * g.lda + m0 + r
				: (m0 + r) * g.lda + k0 + k;

			as[k][r] = m0 + r < g.m && k0 + k < g.k ? g.a[at] : 0;
		}
		for (int i = tid; i < TILE * TILE_K; i += 256) {
			int r = g.trans_b ? i / TILE_K : i % TILE;
			int k = g.trans_b ? i % TILE_K : i / TILE;
			size_t at = g.trans_b
				? (n0 + r) * g.ldb + k0 + k
				: (k0 + k) * g.ldb + n0 + r;

			bs[k][r] = n0 + r < g.n && k0 + k < g.k
				? cu_float(b[at]) : 0;
		}
		__syncthreads();
#pragma unroll
		for (int k = 0; k < TILE_K; k++) {
			float4 x = *(const float4 *)&as[k][ty * 4];
			float4 y = *(const float4 *)&bs[k][tx * 4];
			const float xa[4] = { x.x, x.y, x.z, x.w };
			const float ya[4] = { y.x, y.y, y.z, y.w };

#pragma unroll
			for (int i = 0; i < 16; i++)
				acc[i / 4][i % 4] += xa[i / 4] * ya[i % 4];
		}
		__syncthreads();
	}
#pragma unroll
	for (int i = 0; i < 16; i++) {
		uint32_t r = m0 + ty * 4 + i / 4, c = n0 + tx * 4 + i % 4;
		float *p = g.c + r * g.ldc + c;

		if (r < g.m && c < g.n)
			*p = g.alpha * acc[i / 4][i % 4] +
			     (g.beta ? g.beta * *p : 0);
	}
}

template <class T>
static int tiles(struct be *be, const struct cu_dense *g, struct err *err)
{
	struct cu_dense part = *g;
	const uint32_t most = 65535u * TILE; /* the grid's second dimension */

	for (uint32_t r = 0; r < g->m; r += most) {
		part.m = g->m - r < most ? g->m - r : most;
		part.a = g->a + r * (g->trans_a ? 1 : g->lda);
		part.c = g->c + r * g->ldc;
		if (cu_launch(be, "gemm", { dim3(cu_div_up(g->n, TILE),
						 cu_div_up(part.m, TILE)),
					    dim3(256), 0 },
			      err, tile_kernel<T>, part))
			return -1;
	}
	return 0;
}

/* Worth a library: at least 2^25 products, and no thin side. */
static int large(uint64_t m, uint64_t n, uint64_t k)
{
	return m > 8 && n > 8 && m * n * k >= 1u << 25;
}

int cu_sgemm(struct be *be, const struct cu_dense *g, struct err *err)
{
	struct cu_blas *b;

	if (!large(g->m, g->n, g->k) || !cu_blas_there(be))
		return tiles<float>(be, g, err);
	b = be->blas;
	return blas_status(b->sgemm(b->handle, g->trans_b ? BLAS_T : BLAS_N,
				    g->trans_a ? BLAS_T : BLAS_N, (int)g->n,
				    (int)g->m, (int)g->k, &g->alpha,
				    (const float *)g->b, (int)g->ldb, g->a, (int)g->lda, &g->beta,
				    g->c, (int)g->ldc), err);
}

/* ---- A as f16, or as the sum of two bf16 ---- */

struct split_arg {
	const float *a;
	size_t lda;
	uint32_t m, k;
	uint16_t *hi, *lo; /* lo NULL: hi is f16 */
};

__global__ void split_kernel(const struct split_arg s)
{
	uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;

	cu_wait();
	if (c >= s.k)
		return;
	for (uint32_t r = blockIdx.y; r < s.m; r += gridDim.y) {
		float f = s.a[r * s.lda + c];
		size_t at = (size_t)r * s.k + c;

		if (!s.lo) {
			s.hi[at] = __half_as_ushort(cu_half(f));
		} else {
			__nv_bfloat16 h = __float2bfloat16_rn(f);

			s.hi[at] = __bfloat16_as_ushort(h);
			s.lo[at] = __bfloat16_as_ushort(__float2bfloat16_rn(
				f - __bfloat162float(h)));
		}
	}
}

static int gemm_16(struct be *be, const struct be_gemm *g, struct err *err)
{
	size_t n = (size_t)g->a->rows * g->a->cols;
	int bf = g->b->type == DT_BF16;
	cudaDataType type = bf ? CUDA_R_16BF : CUDA_R_16F;
	struct split_arg s = { (const float *)g->a->p, g->a->ld, g->a->rows,
			       g->a->cols, NULL, NULL };
	void *p;

	if (cu_scratch_get(be, CU_DENSE, n * (bf ? 4 : 2), &p, err))
		return -1;
	s.hi = (uint16_t *)p;
	s.lo = bf ? s.hi + n : NULL;
	if (cu_launch(be, "gemm", { dim3(cu_div_up(s.k, 256),
					 s.m < 65535 ? s.m : 65535),
				    dim3(256), 0 },
		      err, split_kernel, s) ||
	    blas_16(be, s.hi, g->b->p, type, g->c, s.k, g->b->ld, g->alpha,
		    g->beta, err))
		return -1;
	return bf ? blas_16(be, s.lo, g->b->p, type, g->c, s.k, g->b->ld,
			    g->alpha, 1, err) : 0;
}

/* ---- the choice ---- */

static int by_tiles(struct be *be, const struct cu_dense *d, enum dtype b,
		    struct err *err)
{
	if (b == DT_F16)
		return tiles<__half>(be, d, err);
	if (b == DT_BF16)
		return tiles<__nv_bfloat16>(be, d, err);
	return tiles<float>(be, d, err);
}

static int by_dots(struct be *be, const struct cu_dense *d, enum dtype b,
		   struct err *err)
{
	if (b == DT_F16)
		return dot<__half>(be, d, err);
	if (b == DT_BF16)
		return dot<__nv_bfloat16>(be, d, err);
	return dot<float>(be, d, err);
}

int cu_gemm(struct be *be, const struct be_gemm *g, struct err *err)
{
	const struct cu_dense d = {
		(const float *)g->a->p, g->b->p, (float *)g->c->p, g->c->rows,
		g->c->cols, g->a->cols, g->a->ld, g->b->ld, g->c->ld, 0,
		g->trans_b, g->alpha, g->beta
	};
	int ret;

	if (be_shape_gemm(g, err))
		return -1;
	if (!d.m || !d.n)
		return 0;
	cu_wrote(be, g->c);
	if (d.trans_b && d.m <= DOT_ROWS)
		return by_dots(be, &d, g->b->type, err);
	ret = cu_wgmma_gemm(be, g, err);
	if (ret <= 0)
		return ret;
	if (!large(d.m, d.n, d.k))
		return by_tiles(be, &d, g->b->type, err);
	if (g->b->type == DT_F32)
		return cu_sgemm(be, &d, err);
	if (d.trans_b && cu_blas_there(be))
		return gemm_16(be, g, err);
	return by_tiles(be, &d, g->b->type, err);
}
