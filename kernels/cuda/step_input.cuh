/* step_input.cuh - what a phase of a step multiplies: words become bytes.  Warp
 * w makes the units that it multiplies, w, w + 16 and so on, for itself alone.
 *
 * [chunk of 64][plane hi, lo][t][16 bytes]: what lane 4 g + t holds of B for
 * the chunk, column g being the plane: 4 bytes for each of the inputs 8 t to
 * 8 t + 3 and 8 t + 4 to 8 t + 7 of the first 32, then of the second. */
#ifndef KERNELS_CUDA_STEP_INPUT_CUH
#define KERNELS_CUDA_STEP_INPUT_CUH

#include "step_wire.cuh"

/* Bytes in the order in which bytes_of has the inputs of a register. */
template <int BITS> __device__ __forceinline__ uint32_t act_order(uint32_t v)
{
	if constexpr (BITS == 4)
		return __byte_perm(v, 0, 0x3120);
	if constexpr (BITS == 8)
		return v;

	/* of 8 inputs 0 4 1 5, then 2 6 3 7: half of them the neighbour's */
	const uint32_t o = __shfl_xor_sync(~0u, v, 1);

	return threadIdx.x % 2 ? __byte_perm(o, v, 0x7362)
			       : __byte_perm(v, o, 0x5140);
}

/* Four inputs from c on; a warp makes a unit of 128. */
template <int BITS, int UNIT>
static __device__ void put4(const struct step_arg &a, uint32_t c, float4 v)
{
	/* as whole numbers, floats that are not negative keep their order */
	const uint32_t top = __reduce_max_sync(~0u, __float_as_uint(fmaxf(
		fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)))));
	const float most = __uint_as_float(top);
	const float up = most > 1e-30f ? __fdividef(32512.f, most) : 0;
	/* A float of 1.5 * 2^23 + m has m as its low bits.  With 128 added the
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

	char *to = smem<char>(a.at.act) + c / 64 * 128 + c % 32 / 8 * 16 +
		   c % 64 / 32 * 8 + c % 8;

	*(uint32_t *)to = act_order<BITS>(hi);
	*(uint32_t *)(to + 64) = act_order<BITS>(lo);
	if (UNIT == 32) {
#pragma unroll
		for (int o = 4; o; o /= 2)
			sum += __shfl_xor_sync(~0u, sum, o);
		if (threadIdx.x % 8 == 0)
			smem<int32_t>(a.at.sum32)[c / 32] = sum;
	} else {
		sum = __reduce_add_sync(~0u, sum);
	}
	if (threadIdx.x % 32 == 0) {
		smem<int32_t>(a.at.sum128)[c / 128] = sum;
		/* a largest that is no number makes all sums none */
		smem<float>(a.at.step)[c / 128] = most * (1 / 32512.f);
	}
}

/* Inputs are handled 128 at a time by a warp, warps in turn. */
__device__ __forceinline__ uint32_t own_input(int i)
{
	return i * STEP_ROUND + threadIdx.x * 4;
}

/* Rounds of words that are on their way at a time. */
#define STEP_AHEAD 6

/* The words of the first rounds from `from` on: asked for until all are
 * there. */
__device__ __forceinline__ void rounds_await(const uint32_t *from,
					     uint32_t rounds, uint32_t time,
					     uint4 w[STEP_AHEAD])
{
	uint32_t late;

#pragma unroll
	for (int i = 0; i < STEP_AHEAD; i++)
		w[i].x = ~time;
	do {
		late = 0;
#pragma unroll
		for (int i = 0; i < STEP_AHEAD; i++)
			if (i < rounds && words_late(w[i], time))
				w[i] = words_look(from + i * STEP_ROUND);
#pragma unroll
		for (int i = 0; i < STEP_AHEAD; i++)
			late |= i < rounds ? words_late(w[i], time) : 0;
	} while (__any_sync(~0u, late));
}

/* The inputs of a phase, times the weights of a norm (or NULL).  The sum of
 * this lane's squares. */
template <int BITS, int UNIT>
static __device__ float inputs_put(const struct step_arg &a,
				   const uint32_t *from, const float *norm,
				   uint32_t in, uint32_t time)
{
	const float4 one = make_float4(1, 1, 1, 1);
	float squares = 0;

#pragma unroll 1
	for (uint32_t c = own_input(0); c < in; c += STEP_AHEAD * STEP_ROUND) {
		const uint32_t n = (in - c + STEP_ROUND - 1) / STEP_ROUND;
		uint4 w[STEP_AHEAD];
		float4 g[2] = { one, one };

		/* registers for more there are not */
		for (int i = 0; norm && i < 2; i++)
			if (i < n)
				g[i] = __ldg((const float4 *)(norm + c +
							      i * STEP_ROUND));
		rounds_await(from + c, n, time, w);
#pragma unroll
		for (int i = 0; i < STEP_AHEAD; i++) {
			const uint32_t at = c + i * STEP_ROUND;
			float4 v = words_value(w[i]), f = i < 2 ? g[i] : one;

			if (i >= n)
				break;
			if (norm && i >= 2)
				f = __ldg((const float4 *)(norm + at));
			squares += v.x * v.x + v.y * v.y + v.z * v.z +
				   v.w * v.w;
			put4<BITS, UNIT>(a, at, make_float4(v.x * f.x,
							    v.y * f.y,
							    v.z * f.z,
							    v.w * f.w));
		}
	}
	__syncwarp();
	return squares;
}

#endif
