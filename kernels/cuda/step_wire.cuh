/* step_wire.cuh - what goes from block to block in a step.
 *
 * A vector that blocks make together is written word by word, and each word
 * tells the layer it belongs to.  So nobody meets: a reader looks at the words
 * that it needs until they are of its layer.
 *
 *	31             8 7    0
 *	| float, rounded | time |
 *
 * The float keeps 15 bits behind the point, as many as the planes of bytes do
 * (step_unit.cuh).  Time counts the layers of all steps.  Each word is written
 * once a layer, so before that it is of the layer before; and nobody writes it
 * again before all have read it, since between two layers every block has waited
 * for all others. */
#ifndef KERNELS_CUDA_STEP_WIRE_CUH
#define KERNELS_CUDA_STEP_WIRE_CUH

#include "step.cuh"

#define WORD_TIME 0xffu

__device__ __forceinline__ void word_put(uint32_t *to, float v, uint32_t time)
{
	uint32_t u = __float_as_uint(v);

	/* what is no number stays none */
	u += (u & 0x7f800000) == 0x7f800000 ? 0 : (WORD_TIME + 1) / 2;
	u = (u & ~WORD_TIME) | (time & WORD_TIME);
	asm volatile("st.relaxed.gpu.global.u32 [%0], %1;"
		     :: "l"(to), "r"(u) : "memory");
}

__device__ __forceinline__ uint4 words_look(const uint32_t *from)
{
	uint4 w;

	asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
		     : "=r"(w.x), "=r"(w.y), "=r"(w.z), "=r"(w.w)
		     : "l"(from) : "memory");
	return w;
}

/* Not 0: one of them is of another layer. */
__device__ __forceinline__ uint32_t words_late(uint4 w, uint32_t time)
{
	return ((w.x ^ time) | (w.y ^ time) | (w.z ^ time) | (w.w ^ time)) &
	       WORD_TIME;
}

__device__ __forceinline__ float4 words_value(uint4 w)
{
	return make_float4(__uint_as_float(w.x & ~WORD_TIME),
			   __uint_as_float(w.y & ~WORD_TIME),
			   __uint_as_float(w.z & ~WORD_TIME),
			   __uint_as_float(w.w & ~WORD_TIME));
}

__device__ __forceinline__ float4 words_await(const uint32_t *from,
					      uint32_t time)
{
	uint4 w;

	do
		w = words_look(from);
	while (words_late(w, time));
	return words_value(w);
}

/* ---- a split's share of an output of attention ---- */

/* 16 bytes that are written and read as one.  Not every split there is room for
 * writes in every step, so the time is whole. */
struct share {
	float v, top, sum; /* softmax so far, to base 2 */
	uint32_t time;
};

__device__ __forceinline__ void share_put(struct share *to, float v, float top,
					  float sum, uint32_t time)
{
	const uint64_t lo = (uint64_t)__float_as_uint(top) << 32 |
			    __float_as_uint(v);
	const uint64_t hi = (uint64_t)time << 32 | __float_as_uint(sum);

	asm volatile("{\n"
		     ".reg .b128 w;\n"
		     "mov.b128 w, {%1, %2};\n"
		     "st.relaxed.gpu.global.b128 [%0], w;\n"
		     "}" :: "l"(to), "l"(lo), "l"(hi) : "memory");
}

__device__ __forceinline__ struct share share_await(const struct share *from,
						    uint32_t time)
{
	uint64_t lo, hi;

	do
		asm volatile("{\n"
			     ".reg .b128 w;\n"
			     "ld.relaxed.gpu.global.b128 w, [%2];\n"
			     "mov.b128 {%0, %1}, w;\n"
			     "}" : "=l"(lo), "=l"(hi) : "l"(from) : "memory");
	while ((uint32_t)(hi >> 32) != time);
	return { __uint_as_float((uint32_t)lo),
		 __uint_as_float((uint32_t)(lo >> 32)),
		 __uint_as_float((uint32_t)hi), time };
}

#endif
