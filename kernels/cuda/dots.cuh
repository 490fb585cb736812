/* dots.cuh - C = alpha A B^T + beta C for up to 8 rows of A: B is read once.
 *
 * Sums are f32, of exact products where A is f32 and B of 16 bits.  On an H200
 * (kernels/ladder/dots.cu) one row by 128256 x 4096 of f16 is read at the rate
 * of a pure read; from 4 rows on the arithmetic shows. */
#ifndef KERNELS_CUDA_DOTS_CUH
#define KERNELS_CUDA_DOTS_CUH

#include "cu.cuh"

#define DOT_WARPS 8
#define DOT_ROWS 8 /* of A, at most */

/* A vector of B of 16 bytes, widened. */
template <class T> struct vec {
	static constexpr int N = 16 / sizeof(T);
	uint4 raw;

	__device__ __forceinline__ void load(const T *p)
	{
		raw = __ldcs((const uint4 *)p);
	}
	__device__ __forceinline__ float at(int i) const
	{
		return cu_float(((const T *)&raw)[i]);
	}
};

/* A warp has R outputs, so that what it reads of A serves R rows of B, and U
 * vectors of each on their way.  Rows of B and A start on 16 bytes. */
template <class T, int M, int R, int U>
__global__ void __launch_bounds__(DOT_WARPS * 32)
dots_kernel(const struct cu_dense d)
{
	constexpr int V = vec<T>::N;
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t n0 = (blockIdx.x * DOT_WARPS + threadIdx.x / 32) * R;
	const uint32_t whole = d.k / V * V;
	float acc[R][M] = {};

	cu_next();
	cu_wait();
	if (n0 >= d.n)
		return;
	auto row = [&](int r) {
		return (const T *)d.b + min(n0 + r, d.n - 1) * d.ldb;
	};
	for (uint32_t k0 = lane * V; k0 < whole; k0 += 32 * V * U) {
		vec<T> w[U][R];

#pragma unroll
		for (int u = 0; u < U; u++)
#pragma unroll
			for (int r = 0; r < R; r++)
				/* behind the end: counted as nothing below */
				w[u][r].load(row(r) +
					     min(k0 + u * 32 * V, whole - V));
#pragma unroll
		for (int i = 0; i < U * V; i += 4) {
			const uint32_t k = k0 + i / V * 32 * V + i % V;

#pragma unroll
			for (int m = 0; m < M; m++) {
				float4 x = {};

				if (k < whole && (uint32_t)m < d.m)
					x = *(const float4 *)(d.a + m * d.lda +
							      k);
#pragma unroll
				for (int r = 0; r < R; r++) {
					const vec<T> &v = w[i / V][r];

					acc[r][m] += x.x * v.at(i % V);
					acc[r][m] += x.y * v.at(i % V + 1);
					acc[r][m] += x.z * v.at(i % V + 2);
					acc[r][m] += x.w * v.at(i % V + 3);
				}
			}
		}
	}
#pragma unroll
	for (int r = 0; r < R; r++)
#pragma unroll
		for (int m = 0; m < M; m++) {
			float s = acc[r][m];

			/* the last, less than a vector */
			if (whole + lane < d.k && (uint32_t)m < d.m)
				s += cu_float(row(r)[whole + lane]) *
				     d.a[m * d.lda + whole + lane];
			s = d.alpha * cu_warp_sum(s);
			if (lane == 0 && (uint32_t)m < d.m && n0 + r < d.n) {
				float *c = d.c + m * d.ldc + n0 + r;

				*c = d.beta ? s + d.beta * *c : s;
			}
		}
}

#endif
