/* planes.cuh - activations as two planes of bytes, for the linears of few rows
 * (qbyte.cuh).
 *
 *	x = unit's largest / 32512 * (256 hi + lo)
 *
 * [unit of 128][row][chunk of 64][plane hi, lo][t][16 bytes]: 4 bytes for each of
 * the inputs 8 t to 8 t + 3 and 8 t + 4 to 8 t + 7 of the first 32 of the chunk,
 * then of the second.  Behind all units, [unit][row], a head of eight words:
 * what a number counts (f32), the sum of the unit's numbers, two unused, the
 * sums of its quarters. */
#ifndef KERNELS_CUDA_PLANES_CUH
#define KERNELS_CUDA_PLANES_CUH

#include "cu.cuh"

#define PLANES_HEAD 8 /* words */

__device__ __forceinline__ uint32_t planes_max(uint32_t v)
{
#if __CUDA_ARCH__ >= 800
	return __reduce_max_sync(~0u, v);
#else
	for (int o = 16; o; o /= 2)
		v = max(v, __shfl_xor_sync(~0u, v, o));
	return v;
#endif
}

/* The four inputs of this lane of a unit, whose lanes all call this. */
__device__ __forceinline__ void planes_put(const struct cu_out16 &to,
					   uint32_t unit, uint32_t row, float4 v)
{
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t m = to.form.m, units = to.form.k / 128;
	/* as whole numbers, floats that are not negative keep their order */
	const float most = __uint_as_float(planes_max(__float_as_uint(fmaxf(
		fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))))));
	const float up = most > 1e-30f ? 32512.f / most : 0;
	/* A float of 1.5 * 2^23 + n has n as its low bits.  With 128 added the
	 * second byte is hi, and the first lo with its top bit turned. */
	const float base = 12582912.f + 128;
	const uint32_t n[4] = { __float_as_uint(fmaf(v.x, up, base)),
				__float_as_uint(fmaf(v.y, up, base)),
				__float_as_uint(fmaf(v.z, up, base)),
				__float_as_uint(fmaf(v.w, up, base)) };
	const uint32_t hi = __byte_perm(__byte_perm(n[0], n[1], 0x0051),
					__byte_perm(n[2], n[3], 0x0051),
					0x5410);
	const uint32_t lo = __byte_perm(__byte_perm(n[0], n[1], 0x0040),
					__byte_perm(n[2], n[3], 0x0040),
					0x5410) ^ 0x80808080;
	int32_t sum = (int32_t)(n[0] + n[1] + n[2] + n[3] -
				4 * __float_as_uint(base));
	const size_t i = (size_t)unit * m + row;
	uint8_t *x = (uint8_t *)to.p + i * 256 + lane / 16 * 128 +
		     lane % 8 / 2 * 16 + lane % 16 / 8 * 8 + lane % 2 * 4;
	uint32_t *head = (uint32_t *)((uint8_t *)to.p +
				      (size_t)units * m * 256) + i * PLANES_HEAD;

	*(uint32_t *)x = hi;
	*(uint32_t *)(x + 64) = lo;
#pragma unroll
	for (int o = 1; o < 8; o *= 2)
		sum += __shfl_xor_sync(~0u, sum, o);
	if (lane % 8 == 0)
		head[4 + lane / 8] = (uint32_t)sum;
	sum += __shfl_xor_sync(~0u, sum, 8);
	sum += __shfl_xor_sync(~0u, sum, 16);
	if (lane == 0) {
		/* a largest that is no number makes all sums none */
		head[0] = __float_as_uint(most / 32512.f);
		head[1] = (uint32_t)sum;
	}
}

#endif
