/* step_unit.cuh - the arithmetic of a step: codes by activations.
 *
 * What limits is reading the weights: 3.6 GB for 7B at 4 bits.  So as few
 * instructions as possible stand between a word of codes and the tensor cores:
 * a code is taken out as a byte, and one row of activations leaves room for two
 * planes of bytes,
 *
 *	x = unit's largest / 32512 * (256 hi + lo)
 *
 * in the columns 0 and 1 of mma.m16n8k32 (u8 by s8 into s32).  The sums of a
 * unit are exact; x is rounded to 1/65024 of the largest of its 128, which is
 * finer than f16 (2^-12 of each) in any norm of the whole.
 *
 *	sum (code - zero) x = sum code x - zero sum x
 *
 * Sums: a warp's units in order, in f32, then the warps, then the residual. */
#ifndef KERNELS_CUDA_STEP_UNIT_CUH
#define KERNELS_CUDA_STEP_UNIT_CUH

#include "step.cuh"

/* Row g and row g + 8 of a strip. */
struct pair {
	float lo, hi;
};

template <int BITS>
__device__ __forceinline__ frag<BITS> frag_smem(uint32_t at)
{
	const uint32_t lane = threadIdx.x % 32;
	frag<BITS> f;

	if constexpr (BITS >= 4) {
#pragma unroll
		for (int i = 0; i < BITS / 4; i++) {
			uint4 v = smem_load<uint4>(at + i * 512 + lane * 16);

			f.w[4 * i] = v.x;
			f.w[4 * i + 1] = v.y;
			f.w[4 * i + 2] = v.z;
			f.w[4 * i + 3] = v.w;
		}
	} else {
		uint2 v = smem_load<uint2>(at + lane * 8);

		f.w[0] = v.x;
		f.w[1] = v.y;
		if constexpr (BITS == 3)
			f.w[2] = smem_load<uint32_t>(at + 256 + lane * 4);
	}
	return f;
}

__device__ __forceinline__ void mma_bytes(int32_t c[4], const uint32_t a[4],
					  uint2 b)
{
#if __CUDA_ARCH__ >= 800
	asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
	    "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
	    : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
	    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
#endif
}

/* What bytes_of leaves in: codes of row g come times LO, of row g + 8 times
 * HI. */
template <int BITS> struct times {
	static constexpr int LO = 1;
	static constexpr int HI = BITS == 4 ? 16 : BITS == 2 ? 4 : 1;
};

/* The registers of A for the inputs 32 h to 32 h + 31 of a chunk: rows g and
 * g + 8 at the inputs of b.x (act_order), then at those of b.y. */
template <int BITS>
__device__ __forceinline__ void bytes_of(const frag<BITS> &f, int h,
					 uint32_t a[4])
{
	if constexpr (BITS == 4) {
#pragma unroll
		for (int i = 0; i < 2; i++) {
			const uint32_t w = f.w[2 * h + i];

			a[2 * i] = w & 0x0f0f0f0f;
			a[2 * i + 1] = w & 0xf0f0f0f0;
		}
	} else if constexpr (BITS == 8) {
#pragma unroll
		for (int i = 0; i < 2; i++) {
			const uint32_t v = f.w[4 * h + 2 * i];
			const uint32_t w = f.w[4 * h + 2 * i + 1];

			a[2 * i] = __byte_perm(v, w, 0x6420);
			a[2 * i + 1] = __byte_perm(v, w, 0x7531);
		}
	} else if constexpr (BITS == 2) {
#pragma unroll
		for (int i = 0; i < 2; i++) {
			const uint32_t w = f.w[h] >> 4 * i;

			a[2 * i] = w & 0x03030303;
			a[2 * i + 1] = w & 0x0c0c0c0c;
		}
	} else {
#pragma unroll
		for (int p = 0; p < 4; p++) {
			const int b = 4 * h + p;
			const uint32_t w = f.w[h] >> 2 * p & 0x03030303;
			const uint32_t t = b < 2 ? f.w[2] << (2 - b)
						 : f.w[2] >> (b < 2 ? 0 : b - 2);

			a[p] = and_or(t, 0x04040404, w);
		}
	}
}

/* What a warp needs of a unit; shared memory, this lane's. */
struct unit {
	uint32_t codes, grid, zero;
	uint32_t x;                 /* its part of B for the first chunk */
	const int32_t *sum32, *sum128;
	const float *step;
};

/* What is the same for all of a matrix. */
template <int BITS_, int UNIT_, bool BF16_, bool ZERO_> struct kind {
	static constexpr int BITS = BITS_, UNIT = UNIT_;
	static constexpr bool BF16 = BF16_, ZERO = ZERO_;
};

/* The sums of 128 or 32 inputs become a row's and the other's share. */
template <class K>
__device__ __forceinline__ void unit_end(int32_t c[4], uint32_t scale,
					 uint32_t zero, int32_t sum, float step,
					 struct pair *out)
{
	constexpr int LO = times<K::BITS>::LO, HI = times<K::BITS>::HI;
	const float2 s = scales(scale, K::BF16);
	int zl = 1 << (K::BITS - 1), zh = zl;

	if (K::ZERO) {
		zl = __half2int_rn(__low2half(as_half2(zero)));
		zh = __half2int_rn(__high2half(as_half2(zero)));
	}
	/* columns 0 and 1 of the row are in the lanes that have t = 0 */
	const int32_t lo = c[0] * 256 + c[1] - LO * zl * sum;
	const int32_t hi = c[2] * 256 + c[3] - HI * zh * sum;

	out->lo += (s.x * step * (1.f / LO)) * (float)lo;
	out->hi += (s.y * step * (1.f / HI)) * (float)hi;
#pragma unroll
	for (int i = 0; i < 4; i++)
		c[i] = 0;
}

/* One unit of 128 inputs. */
template <class K>
__device__ __forceinline__ void unit_run(const struct unit &p, struct pair *out)
{
	constexpr int U = K::UNIT == 128 ? 1 : 4;
	const float step = *p.step;
	uint32_t s[U], z[U] = {};
	int32_t c[2][4] = {};
	uint4 x[2] = {};

#pragma unroll
	for (int u = 0; u < U; u++) {
		s[u] = smem_load<uint32_t>(p.grid + u * 32);
		if (K::ZERO)
			z[u] = smem_load<uint32_t>(p.zero + u * 32);
	}
	if (threadIdx.x % 32 < 8) {
		x[0] = smem_load<uint4>(p.x);
		x[1] = smem_load<uint4>(p.x + 128);
	}
#pragma unroll
	for (int i = 0; i < 4; i++) {
		const frag<K::BITS> f = frag_smem<K::BITS>(
			p.codes + i / 2 * 128 * K::BITS);
		const uint4 v = x[i / 2];
		uint32_t a[4];

		bytes_of<K::BITS>(f, i % 2, a);
		mma_bytes(c[i % 2], a, i % 2 ? make_uint2(v.z, v.w)
					     : make_uint2(v.x, v.y));
		if (K::UNIT == 32)
			unit_end<K>(c[i % 2], s[i], z[i], p.sum32[i], step,
				    out);
	}
	if (K::UNIT == 128) {
#pragma unroll
		for (int i = 0; i < 4; i++)
			c[0][i] += c[1][i];
		unit_end<K>(c[0], s[0], z[0], *p.sum128, step, out);
	}
}

/* This warp's units of one strip. */
template <class K>
__device__ __forceinline__ struct pair strip_run(const struct step_arg &a,
						 uint32_t in, struct turn *t)
{
	struct pair out = { 0, 0 };

#if __CUDA_ARCH__ >= 900
	constexpr int BITS = K::BITS, UNIT = K::UNIT;
	const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;

#pragma unroll 1
	for (uint32_t k = 0; k < in; k += STEP_ROUND) {
		const uint32_t at = t->stage * (a.codes + a.grid);
		const uint32_t g = at + a.codes + warp * (128 / UNIT) * 32 +
				   lane / 4 * 4;
		const uint32_t n = min(in - k, STEP_ROUND);
		const uint32_t i = k + warp * 128;
		const struct unit u = {
			at + warp * 256 * BITS, g, g + n / UNIT * 32,
			a.at.act + i * 2 + lane % 8 * 16,
			smem<int32_t>(a.at.sum32) + i / 32,
			smem<int32_t>(a.at.sum128) + i / 128,
			smem<float>(a.at.step) + i / 128,
		};

		gate_wait(smem<uint64_t>(a.at.full) + t->stage, t->parity);
		if (i < in)
			unit_run<K>(u, &out);
		/* all lanes: each tells that its own reading is done */
		gate_arrive(smem<uint64_t>(a.at.empty) + t->stage);
		turn_next(t, a.stages);
	}
#endif
	return out;
}

template <int BITS, int UNIT>
__device__ __forceinline__ struct pair strip_by(const struct step_arg &a,
						uint64_t is, uint32_t in,
						struct turn *t)
{
	if (is & STEP_BF16)
		return is & STEP_ZERO
			? strip_run<kind<BITS, UNIT, true, true>>(a, in, t)
			: strip_run<kind<BITS, UNIT, true, false>>(a, in, t);
	return is & STEP_ZERO
		? strip_run<kind<BITS, UNIT, false, true>>(a, in, t)
		: strip_run<kind<BITS, UNIT, false, false>>(a, in, t);
}

#endif
