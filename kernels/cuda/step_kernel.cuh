/* step_kernel.cuh - the phases of a step in their order, and the kernel. */
#ifndef KERNELS_CUDA_STEP_KERNEL_CUH
#define KERNELS_CUDA_STEP_KERNEL_CUH

#include "step_input.cuh"
#include "step_unit.cuh"

/* ---- a phase ---- */

/* All strips of the block: sums per warp to red.  Returns how many. */
template <int BITS, int UNIT>
static __device__ uint32_t phase_run(const struct step_arg &a, uint32_t layer,
				     int phase, struct turn *t)
{
	const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	float *red = smem<float>(a.at.red) + warp * 16;
	uint32_t done = 0;

	workers_sync(); /* the inputs are there */
#pragma unroll 1
	for (int i = phase_first(phase); i < phase_end(phase); i++) {
		const uint64_t is = smem<uint64_t>(a.at.mat)[layer * 7 + i];
		const span s = smem<span>(a.at.strips)[i];

#pragma unroll 1
		for (uint32_t k = s.from; k < s.to; k++, done++) {
			const struct pair p = strip_by<BITS, UNIT>(
				a, is, mat_in(a, i), t);

			if (lane % 4)
				continue;
			red[done * STEP_RED + lane / 4] = p.lo;
			red[done * STEP_RED + lane / 4 + 8] = p.hi;
		}
	}
	workers_sync();
	return done;
}

/* Which output is number i of the block's share of a phase. */
struct place {
	int mat;
	uint32_t row; /* may be behind the last */
};

static __device__ struct place place_of(const struct step_arg &a, int phase,
					uint32_t i)
{
	struct place p = { phase_first(phase), 0 };
	uint32_t strip = i / 16;
	span s = smem<span>(a.at.strips)[p.mat];

	while (strip >= s.to - s.from) {
		strip -= s.to - s.from;
		s = smem<span>(a.at.strips)[++p.mat];
	}
	p.row = (s.from + strip) * 16 + i % 16;
	return p;
}

/* The sums of warps, and the bias. */
static __device__ float output_of(const struct step_arg &a,
				  const struct step_layer *l, struct place p,
				  uint32_t i)
{
	const float *red = smem<float>(a.at.red) + i / 16 * STEP_RED + i % 16;
	const float *bias = l->bias[p.mat];
	float v = 0;

#pragma unroll
	for (int w = 0; w < STEP_WARPS; w++)
		v += red[w * 16];
	return v + (bias ? __ldg(bias + p.row) : 0.f);
}

/* q, k, v and gate, up go where the next phase reads them. */
static __device__ void outputs_put(const struct step_arg &a,
				   const struct step_layer *l, int phase,
				   uint32_t strips)
{
	const uint32_t q = a.heads * a.head_dim, kv = a.kv_heads * a.head_dim;
	const uint32_t *back = l->back_down;

	for (uint32_t i = threadIdx.x; i < strips * 16; i += STEP_WORKERS) {
		const struct place p = place_of(a, phase, i);

		if (p.row >= mat_out(a, p.mat))
			continue;

		const float v = output_of(a, l, p, i);

		if (phase == 0)
			a.qkv[p.row + (p.mat ? q + (p.mat - 1) * kv : 0)] = v;
		else
			a.gu[(back ? __ldg(back + p.row) : p.row) +
			     (p.mat - 4) * a.inter] = cu_half(v);
	}
}

/* o and down are added to the residual, which was read early. */
static __device__ void outputs_add(const struct step_arg &a,
				   const struct step_layer *l, int phase,
				   uint32_t strips, float residual)
{
	const uint32_t i = threadIdx.x;

	if (i >= strips * 16)
		return;

	const struct place p = place_of(a, phase, i);

	if (p.row < a.hidden)
		a.x[p.row] = residual + output_of(a, l, p, i);
}

/* The residual of this thread's output of a phase. */
static __device__ float residual_of(const struct step_arg &a, int phase)
{
	const span s = smem<span>(a.at.strips)[phase_first(phase)];
	const uint32_t row = s.from * 16 + threadIdx.x;

	return row < s.to * 16 && row < a.hidden ? __ldcg(a.x + row) : 0;
}

/* ---- the step ---- */

__device__ __forceinline__ void prefetch(const void *p)
{
	asm volatile("prefetch.global.L2 [%0];" :: "l"(p));
}

/* What layers read that no phase makes, to the second level cache: norms, and
 * the first of the block's rows of the cache.  By a warp that has nothing else
 * to do, a layer at a time, when the producer comes to it. */
static __device__ void look_ahead(const struct step_arg &a)
{
	const struct reader *r = smem<struct reader>(a.at.reader);
	volatile uint32_t *begun = smem<volatile uint32_t>(a.at.begun);
	const uint32_t from = r->at, to = min(r->to, from + 256);
	const uint32_t lines = (a.head_dim * 2 + 127) / 128;
	const uint32_t lane = threadIdx.x % 32;

	for (uint32_t i = 0; i < a.layers; i++) {
		const struct step_layer *l = a.layer + i;

		while (*begun <= i)
			__nanosleep(200);
		for (uint32_t c = lane * 32; c < a.hidden; c += 32 * 32) {
			prefetch(l->norm_in + c);
			prefetch(l->norm_post + c);
		}
		if (r->kvh >= a.kv_heads)
			continue;
		for (uint32_t k = lane; k < (to - from) * lines * 2; k += 32) {
			const __half *p = k % 2 ? l->v : l->k;

			prefetch(p + (from + k / 2 / lines) * a.kv_ld +
				 r->kvh * a.head_dim + k / 2 % lines * 64);
		}
	}
}

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
	if (i < STEP_WARPS)
		smem<struct reader>(a.at.reader)[i] = reader_of<RG>(a, i);
	if (i < half) {
		smem<float>(a.at.rope)[i] = __ldg(a.cos + i);
		smem<float>(a.at.rope)[i + half] = __ldg(a.sin + i);
	}
	if (i == 0)
		*smem<uint32_t>(a.at.begun) = 0;
	layer_put(a, 0);
	if (i < a.stages) {
		gate_init(smem<uint64_t>(a.at.full) + i, 1);
		gate_init(smem<uint64_t>(a.at.empty) + i, STEP_WARPS);
		asm volatile("fence.mbarrier_init.release.cluster;"
			     ::: "memory");
	}
	__syncthreads();
#endif
}

/* The attention phase and the barrier in front of it. */
template <int RG>
static __device__ void attend(const struct step_arg &a,
			      const struct step_layer *l, uint32_t *met)
{
	const struct reader r = smem<struct reader>(a.at.reader)
		[threadIdx.x / 32];
	struct tile<RG> rows;

	if (r.kvh < a.kv_heads)
		tile_read<RG>(a, l, r, r.at, false, &rows);
	meet_all(a, met);
	if (r.kvh < a.kv_heads)
		step_attend<RG>(a, l, r, &rows);
}

template <int BITS, int UNIT, int N>
static __device__ void inputs_put(const struct step_arg &a,
				  const struct step_layer *l, int phase)
{
	const uint32_t *perm = l->perm[phase];

	if (phase == 1)
		attended_put<BITS, UNIT>(a, perm);
	else if (phase == 3)
		gated_put<BITS, UNIT>(a);
	else
		norm_put<BITS, UNIT, N>(a, phase ? l->norm_post : l->norm_in,
					perm);
}

/* One loop over all phases: code that stands once stays in the instruction
 * cache, and most of a phase's own code runs but once a layer. */
template <int BITS, int UNIT, int RG, int N>
static __device__ void work(const struct step_arg &a)
{
	struct turn t = { 0, 0 };
	uint32_t met = a.met;

#pragma unroll 1
	for (uint32_t at = 0; at < a.layers * 4; at++) {
		const uint32_t i = at / 4;
		const int phase = at % 4;
		const struct step_layer *l = smem<struct step_layer>(
			a.at.layer) + i % 2;
		float x = 0;
		uint32_t n;

		if (at)
			meet_all(a, &met);
		if (phase % 2)
			x = residual_of(a, phase);
		inputs_put<BITS, UNIT, N>(a, l, phase);
		if (phase == 2)
			layer_put(a, i + 1);
		n = phase_run<BITS, UNIT>(a, i, phase, &t);
		if (phase % 2)
			outputs_add(a, l, phase, n, x);
		else
			outputs_put(a, l, phase, n);
		if (phase == 0)
			attend<RG>(a, l, &met);
	}
}

/* RG query heads at a time share the keys and values of attention; N is of
 * norm_put. */
template <int BITS, int UNIT, int RG, int N>
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
		work<BITS, UNIT, RG, N>(a);
	} else {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
		asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
#endif
		if (threadIdx.x == STEP_WORKERS)
			produce<BITS, UNIT>(a);
		else if (threadIdx.x >= STEP_WORKERS + 32 &&
			 threadIdx.x < STEP_WORKERS + 64)
			look_ahead(a);
	}
#endif
}

#endif
