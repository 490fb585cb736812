/* step_kernel.cuh - the phases of a step in their order, and the kernel. */
#ifndef KERNELS_CUDA_STEP_KERNEL_CUH
#define KERNELS_CUDA_STEP_KERNEL_CUH

#include "step_attend.cuh"
#include "step_input.cuh"
#include "step_unit.cuh"

/* ---- a phase ---- */

/* The sums of all strips of the block, a warp's each.  Behind it those of all
 * warps are there. */
template <int BITS, int UNIT>
static __device__ void phase_run(const struct step_arg &a, uint32_t layer,
				 int phase, struct turn *t)
{
	const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	float *red = smem<float>(a.at.red) + phase % 2 * a.red + warp * 16;

#pragma unroll 1
	for (int i = phase_first(phase); i < phase_end(phase); i++) {
		const uint64_t is = smem<uint64_t>(a.at.mat)[layer * 7 + i];
		const span s = smem<span>(a.at.strips)[i];

#pragma unroll 1
		for (uint32_t k = s.from; k < s.to; k++, red += STEP_RED) {
			const struct pair p = strip_by<BITS, UNIT>(
				a, is, mat_in(a, i), t);

			if (lane % 4)
				continue;
			red[lane / 4] = p.lo;
			red[lane / 4 + 8] = p.hi;
		}
	}
	workers_sync();
}

/* The output of a phase that a thread has. */
struct out {
	uint32_t strip;         /* of the block; there are none: ~0 */
	uint32_t up;            /* the strip of up that belongs to it */
	uint32_t row, to;       /* of its matrix; in the vector it goes to */
	float bias, bias_up;
};

static __device__ float bias_of(const struct step_layer *l, int m, uint32_t row)
{
	return l->bias[m] ? __ldg(l->bias[m] + row) : 0.f;
}

/* `next` is the layer that takes the phase's result. */
static __device__ struct out out_of(const struct step_arg &a,
				    const struct step_layer *l,
				    const struct step_layer *next, int phase)
{
	const uint32_t *back = phase ? next->back[(phase + 1) % 4] : NULL;
	const int end = phase ? phase_first(phase) + 1 : 3;
	struct out o = { ~0u, 0, threadIdx.x / 16, 0, 0, 0 };
	uint32_t before = 0;

	if (o.row >= smem<uint32_t>(a.at.outs)[phase])
		return o;

#pragma unroll 1
	for (int m = phase_first(phase); m < end; m++) {
		const span s = smem<span>(a.at.strips)[m];
		const uint32_t row = (s.from + o.row) * 16 + threadIdx.x % 16;

		if (o.row >= s.to - s.from) {
			o.row -= s.to - s.from;
			before += mat_out(a, m);
			continue;
		}
		if (row >= mat_out(a, m))
			break;
		o.strip = threadIdx.x / 16;
		o.up = o.strip + s.to - s.from;
		o.row = row;
		o.to = back ? __ldg(back + row) : before + row;
		o.bias = bias_of(l, m, row);
		o.bias_up = phase == 2 ? bias_of(l, 5, row) : 0;
		break;
	}
	return o;
}

/* The sums of warps. */
static __device__ float sum_of(const struct step_arg &a, int phase,
			       uint32_t strip)
{
	const float *red = smem<float>(a.at.red) + phase % 2 * a.red +
			   strip * STEP_RED + threadIdx.x % 16;
	float v = 0;

#pragma unroll
	for (int w = 0; w < STEP_WARPS; w++)
		v += red[w * 16];
	return v;
}

/* What the norm in front of phase 0 or 2 divides by. */
static __device__ float norm_of(const struct step_arg &a, int phase)
{
	const float *part = smem<float>(a.at.part) + phase / 2 * STEP_WARPS;
	float v = 0;

#pragma unroll
	for (int w = 0; w < STEP_WARPS; w++)
		v += part[w];
	return rsqrtf(__fdividef(v, a.hidden) + a.eps);
}

__device__ __forceinline__ float silu(float g)
{
	return __fdividef(g, 1 + __expf(-g));
}

/* x is the residual that belongs to the output. */
static __device__ void out_put(const struct step_arg &a, int phase,
			       const struct out &o, uint32_t time, bool last,
			       float *x)
{
	float v, f = 1;

	if (o.strip == ~0u)
		return;
	if (phase % 2 == 0)
		f = norm_of(a, phase);
	v = sum_of(a, phase, o.strip) * f + o.bias;
	if (phase == 0) {
		word_put(a.qkv + o.to, v, time);
	} else if (phase == 2) {
		v = silu(v) * (sum_of(a, phase, o.up) * f + o.bias_up);
		word_put(a.vec[3] + o.to, v, time);
	} else {
		*x += v;
		if (last)
			a.x[o.row] = *x;
		else
			word_put(a.vec[(phase + 1) % 4] + o.to, *x,
				 time + phase / 3);
	}
}

/* The residual that a thread keeps, handed to the first phase. */
static __device__ float residual(const struct step_arg &a)
{
	const struct step_layer *l = smem<struct step_layer>(a.at.layer);
	const struct out o = out_of(a, l, l, 3);
	float x = 0;

	if (o.strip != ~0u) {
		x = __ldcg(a.x + o.row);
		word_put(a.vec[0] + o.to, x, a.time);
	}
	return x;
}

/* ---- the step ---- */

/* The table of a layer to shared memory; there behind the next barrier. */
static __device__ void layer_put(const struct step_arg &a, uint32_t layer)
{
	if (layer >= a.layers)
		return;

	const uint64_t *from = (const uint64_t *)(a.layer + layer);
	uint64_t *to = (uint64_t *)(smem<struct step_layer>(a.at.layer) +
				    layer % 2);

	if (threadIdx.x < sizeof(struct step_layer) / 8)
		to[threadIdx.x] = __ldg(from + threadIdx.x);
}

/* All that stays for the step. */
template <int RG> static __device__ void plan_put(const struct step_arg &a)
{
#if __CUDA_ARCH__ >= 900
	const uint32_t i = threadIdx.x, half = a.head_dim / 2;

	for (uint32_t k = i; k < a.layers * 7; k += STEP_THREADS)
		smem<uint64_t>(a.at.mat)[k] =
			__ldg(&a.layer[k / 7].mat[k % 7]);
	if (i < 7)
		smem<span>(a.at.strips)[i] = strips_of(a, i);
	if (i < 4)
		smem<uint32_t>(a.at.outs)[i] = outs_of(a, i);
	if (i < STEP_WARPS)
		smem<struct reader>(a.at.reader)[i] = reader_of<RG>(a, i);
	if (i < half) {
		smem<float>(a.at.rope)[i] = __ldg(a.cos + i);
		smem<float>(a.at.rope)[i + half] = __ldg(a.sin + i);
	}
	layer_put(a, 0);
	if (i < a.stages) {
		gate_init(smem<uint64_t>(a.at.full) + i, 1);
				gate_init(smem<uint64_t>(a.at.empty) + i, STEP_WORKERS);
		asm volatile("fence.mbarrier_init.release.cluster;"
			     ::: "memory");
	}
	__syncthreads();
#endif
}

/* The attention phase. */
template <int RG>
static __device__ void attend(const struct step_arg &a,
			      const struct step_layer *l, uint32_t time)
{
	const struct reader r = smem<struct reader>(a.at.reader)
		[threadIdx.x / 32];
	struct tile<RG> rows;

	if (r.kvh >= a.kv_heads)
		return;
	tile_read<RG>(a, l, r, r.at, &rows);
	step_attend<RG>(a, l, r, time, &rows);
}

/* The inputs of a phase, and the sum of a warp's squares. */
template <int BITS, int UNIT>
static __device__ void phase_begin(const struct step_arg &a,
				   const struct step_layer *l, int phase,
				   uint32_t time)
{
	const float *norm = phase == 0 ? l->norm_in
			  : phase == 2 ? l->norm_post : NULL;
	float squares = inputs_put<BITS, UNIT>(
		a, a.vec[phase], norm, mat_in(a, phase_first(phase)), time);

	if (!norm)
		return;
	squares = cu_warp_sum(squares);
	if (threadIdx.x % 32 == 0)
		smem<float>(a.at.part)[phase / 2 * STEP_WARPS +
				       threadIdx.x / 32] = squares;
}

/* One loop over all phases: code that stands once stays in the instruction
 * cache, and most of a phase's own code runs but once a layer. */
template <int BITS, int UNIT, int RG>
static __device__ void work(const struct step_arg &a)
{
	const struct step_layer *tables = smem<struct step_layer>(a.at.layer);
	struct turn t = { 0, 0 };
	float x = residual(a);

#pragma unroll 1
	for (uint32_t at = 0; at < a.layers * 4; at++) {
		const uint32_t i = at / 4, time = a.time + i;
		const int phase = at % 4;
		const struct step_layer *l = tables + i % 2;
		const struct out o = out_of(a, l, tables + (at + 1) / 4 % 2,
					    phase);

		phase_begin<BITS, UNIT>(a, l, phase, time);
		if (phase == 2)
			layer_put(a, i + 1);
		phase_run<BITS, UNIT>(a, i, phase, &t);
		out_put(a, phase, o, time, at + 1 == a.layers * 4, &x);
		if (phase == 0)
			attend<RG>(a, l, time);
	}
}

/* RG query heads at a time share the keys and values of attention. */
template <int BITS, int UNIT, int RG>
__global__ void __launch_bounds__(STEP_THREADS, 1)
step_kernel(const struct step_arg a)
{
#if __CUDA_ARCH__ >= 900
	plan_put<RG>(a);
	/* registers go from the producer's group to those that compute */
	if (threadIdx.x < STEP_WORKERS) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
		asm volatile("setmaxnreg.inc.sync.aligned.u32 112;");
#endif
		work<BITS, UNIT, RG>(a);
	} else {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
		asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
#endif
		if (threadIdx.x < STEP_WORKERS + 32)
			produce<BITS, UNIT>(a);
	}
#endif
}

#endif
