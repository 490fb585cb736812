/* step_input.cuh - what a phase of a step multiplies, made by each block for
 * itself: norms, merged attention, gated activations.
 *
 * [chunk of 64][plane hi, lo][t][16 bytes]: what lane 4 g + t holds of B for
 * the chunk, column g being the plane: 4 bytes for each of the inputs 8 t to
 * 8 t + 3 and 8 t + 4 to 8 t + 7 of the first 32, then of the second. */
#ifndef KERNELS_CUDA_STEP_INPUT_CUH
#define KERNELS_CUDA_STEP_INPUT_CUH

#include "step_attend.cuh"

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
	const float up = most > 1e-30f ? 32512.f / most : 0;
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
		smem<float>(a.at.step)[c / 128] = most / 32512.f;
	}
}

/* The four inputs that stand at c in the order of the weights. */
__device__ __forceinline__ uint4 order4(const uint32_t *perm, uint32_t c)
{
	return perm ? __ldg((const uint4 *)(perm + c))
		    : make_uint4(c, c + 1, c + 2, c + 3);
}

__device__ __forceinline__ float4 gather4(const float *p, bool plain, uint4 i)
{
	if (plain)
		return __ldcg((const float4 *)(p + i.x));
	return make_float4(__ldcg(p + i.x), __ldcg(p + i.y), __ldcg(p + i.z),
			   __ldcg(p + i.w));
}

/* Inputs are handled 128 at a time by a warp, warps in turn. */
__device__ __forceinline__ uint32_t own_input(int i)
{
	return i * STEP_ROUND + threadIdx.x * 4;
}

/* rmsnorm(x), N times 4 a lane; sums of squares: a lane's own, the warp's, the
 * warps in order. */
template <int BITS, int UNIT, int N>
static __device__ void norm_put(const struct step_arg &a, const float *norm,
				const uint32_t *perm)
{
	float *part = smem<float>(a.at.part);
	float4 x[N], w[2];
	float own = 0, f = 0;

#pragma unroll
	for (int i = 0; i < N; i++)
		if (own_input(i) < a.hidden) {
			const uint4 at = order4(perm, own_input(i));

			x[i] = gather4(a.x, !perm, at);
			/* registers for more there are not */
			if (N == 2)
				w[i % 2] = gather4(norm, !perm, at);
		}
#pragma unroll
	for (int i = 0; i < N; i++)
		if (own_input(i) < a.hidden)
			own += x[i].x * x[i].x + x[i].y * x[i].y +
			       x[i].z * x[i].z + x[i].w * x[i].w;
	own = cu_warp_sum(own);
	if (threadIdx.x % 32 == 0)
		part[threadIdx.x / 32] = own;
	workers_sync();
#pragma unroll
	for (int i = 0; i < STEP_WARPS; i++)
		f += part[i];
	f = rsqrtf(f / a.hidden + a.eps);
#pragma unroll
	for (int i = 0; i < N; i++)
		if (own_input(i) < a.hidden) {
			const float4 v = N == 2 ? w[i % 2]
				: gather4(norm, !perm,
					  order4(perm, own_input(i)));

			put4<BITS, UNIT>(a, own_input(i),
			     make_float4(x[i].x * f * v.x, x[i].y * f * v.y,
					 x[i].z * f * v.z, x[i].w * f * v.w));
		}
}

template <int BITS, int UNIT>
static __device__ void attended_put(const struct step_arg &a,
				    const uint32_t *perm)
{
	const uint32_t n = a.head_dim;
	float *share = smem<float>(a.at.red);

	shares_make(a, share);
	workers_sync();
#pragma unroll 2
	for (uint32_t c = own_input(0); c < a.heads * n; c += STEP_ROUND) {
		const uint4 i = order4(perm, c);

		put4<BITS, UNIT>(a, c, step_attended(a, c, make_uint4(i.x / n, i.y / n,
							   i.z / n, i.w / n),
					 share));
	}
}

__device__ __forceinline__ float gated(__half gate, __half up)
{
	const float g = __half2float(gate);

	return __fdividef(g, 1 + __expf(-g)) * __half2float(up);
}

/* silu(gate) * up */
template <int BITS, int UNIT>
static __device__ void gated_put(const struct step_arg &a)
{
#pragma unroll 2
	for (uint32_t c = own_input(0); c < a.inter; c += STEP_ROUND) {
		const uint2 g = __ldcg((const uint2 *)(a.gu + c));
		const uint2 p = __ldcg((const uint2 *)(a.gu + a.inter + c));
		const __half *gh = (const __half *)&g, *ph = (const __half *)&p;

		put4<BITS, UNIT>(a, c, make_float4(gated(gh[0], ph[0]),
						   gated(gh[1], ph[1]),
						   gated(gh[2], ph[2]),
						   gated(gh[3], ph[3])));
	}
}

#endif
