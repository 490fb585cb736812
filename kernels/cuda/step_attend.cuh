/* step_attend.cuh - the attention phase of a step: one new token.
 *
 * A key/value head has `splits` blocks, each with an even part of the
 * positions.  A block first turns the raw q (and, with the last part, k and v)
 * of qkv into what is used: norm per head, rotary embedding, the new row of the
 * cache.  Then its warps take positions in turn, RG query heads at a time that
 * share the keys and values, as online softmax; their results are merged in
 * order of lanes, then warps.  Splits are merged by whoever reads `part`.
 *
 * A row of a head is read by LP lanes, 8 elements each; a warp has 32 / LP rows
 * times J in flight.  The first of them are read before the barrier in front of
 * attention: only the new row has to wait for it. */
#ifndef KERNELS_CUDA_STEP_ATTEND_CUH
#define KERNELS_CUDA_STEP_ATTEND_CUH

#include "step.cuh"

/* One head of n elements: raw -> norm -> rope -> times f, by one warp. */
static __device__ void head_make(const struct step_arg &a, const float *raw,
				 const float *norm, float f, float *to)
{
	const float *rope = smem<float>(a.at.rope);
	const uint32_t lane = threadIdx.x % 32, n = a.head_dim, h = n / 2;
	float r = 1, own = 0;

#pragma unroll 4
	for (uint32_t i = lane; i < n; i += 32) {
		float v = __ldcg(raw + i);

		to[i] = v;
		own += v * v;
	}
	if (norm)
		r = rsqrtf(cu_warp_sum(own) / n + a.eps);
	__syncwarp();
	for (uint32_t i = lane; i < h; i += 32) {
		float lo = to[i], hi = to[i + h];
		float c = rope[i], s = rope[i + h];

		if (norm) {
			lo *= r * __ldg(norm + i);
			hi *= r * __ldg(norm + i + h);
		}
		to[i] = (lo * c - hi * s) * f;
		to[i + h] = (hi * c + lo * s) * f;
	}
	__syncwarp();
}

/* The heads of the block: q to shared memory, the new row to the cache. */
static __device__ void heads_make(const struct step_arg &a,
				  const struct step_layer *l, uint32_t kvh,
				  bool last, float *q)
{
	const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const uint32_t n = a.head_dim, rep = a.rep;
	const float *k = a.qkv + a.heads * n + kvh * n;
	const float *v = k + a.kv_heads * n;
	const size_t row = a.pos * a.kv_ld + kvh * n;

	for (uint32_t t = warp; t < rep + (last ? 2 : 0); t += STEP_WARPS) {
		if (t < rep) {
			head_make(a, a.qkv + (kvh * rep + t) * n, l->norm_q,
				  a.scale, q + t * n);
		} else if (t == rep) {
			float *to = q + t * n;

			head_make(a, k, l->norm_k, 1, to);
			for (uint32_t i = lane; i < n; i += 32)
				l->k[row + i] = cu_half(to[i]);
		} else {
			for (uint32_t i = lane; i < n; i += 32)
				l->v[row + i] = cu_half(__ldcg(v + i));
		}
	}
}

/* Eight halves as floats. */
__device__ __forceinline__ void widen(uint4 u, float f[8])
{
	const uint32_t w[4] = { u.x, u.y, u.z, u.w };

#pragma unroll
	for (int i = 0; i < 4; i++) {
		float2 v = __half22float2(as_half2(w[i]));

		f[2 * i] = v.x;
		f[2 * i + 1] = v.y;
	}
}

/* A running softmax over this lane's 8 elements, to base 2. */
struct soft {
	float top, sum, acc[8];
};

/* top may be -inf where nothing was seen */
__device__ __forceinline__ float weight_of(float top, float all)
{
	return top == -INFINITY ? 0.f : exp2f(top - all);
}

template <int RG>
static __device__ void soft_merge_lanes(struct soft *s, uint32_t lp)
{
	for (uint32_t o = lp; o < 32; o *= 2)
#pragma unroll
		for (int r = 0; r < RG; r++) {
			float top = __shfl_xor_sync(~0u, s[r].top, o);
			float all = fmaxf(s[r].top, top);
			float f = weight_of(s[r].top, all);
			float g = weight_of(top, all);

			s[r].sum = s[r].sum * f +
				   __shfl_xor_sync(~0u, s[r].sum, o) * g;
#pragma unroll
			for (int i = 0; i < 8; i++)
				s[r].acc[i] = s[r].acc[i] * f +
					__shfl_xor_sync(~0u, s[r].acc[i], o) *
					g;
			s[r].top = all;
		}
}

/* J rows of k and v a lane has its part of. */
template <int J> struct rows {
	uint4 k[J], v[J];
};

template <int RG, int J>
static __device__ void soft_add(struct soft *s, const struct rows<J> &w,
				const float *q, uint32_t ldq, uint32_t lp,
				const bool *seen)
{
#pragma unroll
	for (int r = 0; r < RG; r++) {
		float p[J], top = s[r].top, f;

#pragma unroll
		for (int j = 0; j < J; j++) {
			float k[8];

			widen(w.k[j], k);
			p[j] = 0;
#pragma unroll
			for (int i = 0; i < 8; i += 4) {
				float4 v = *(const float4 *)(q + r * ldq + i);

				p[j] += v.x * k[i] + v.y * k[i + 1] +
					v.z * k[i + 2] + v.w * k[i + 3];
			}
			for (uint32_t o = lp / 2; o; o /= 2)
				p[j] += __shfl_xor_sync(~0u, p[j], o);
			if (!seen[j])
				p[j] = -INFINITY;
			top = fmaxf(top, p[j]);
		}
		f = weight_of(s[r].top, top);
		s[r].sum *= f;
#pragma unroll
		for (int i = 0; i < 8; i++)
			s[r].acc[i] *= f;
#pragma unroll
		for (int j = 0; j < J; j++) {
			float e = weight_of(p[j], top), v[8];

			widen(w.v[j], v);
			s[r].sum += e;
#pragma unroll
			for (int i = 0; i < 8; i++)
				s[r].acc[i] += e * v[i];
		}
		s[r].top = top;
	}
}

template <int RG> struct tile {
	static constexpr int J = RG == 1 ? 4 : 2;
	struct rows<J> w;
	bool seen[J];
};

/* The rows from p on.  `fresh` alone reads the new row, once it is written. */
template <int RG>
static __device__ void tile_read(const struct step_arg &a,
				 const struct step_layer *l,
				 const struct reader &r, uint32_t p, bool fresh,
				 struct tile<RG> *t)
{
	const uint32_t lane = threadIdx.x % 32, lp = a.lanes;
	const uint32_t c = lane % lp * 8, sub = lane / lp, each = 32 / lp;
	const size_t head = r.kvh * a.head_dim + c;

#pragma unroll
	for (int j = 0; j < tile<RG>::J; j++) {
		const uint32_t at = p + j * each + sub;
		const size_t o = at * a.kv_ld + head;

		t->seen[j] = at < r.to;
		if (fresh && at != a.pos)
			continue;
		t->w.k[j] = t->w.v[j] = make_uint4(0, 0, 0, 0);
		if (at < r.to && c < a.head_dim) {
			t->w.k[j] = __ldcg((const uint4 *)(l->k + o));
			t->w.v[j] = __ldcg((const uint4 *)(l->v + o));
		}
	}
}

/* All of the warp's positions; t holds the first rows. */
template <int RG>
static __device__ void soft_run(const struct step_arg &a,
				const struct step_layer *l,
				const struct reader &r, struct tile<RG> *t,
				const float *q, struct soft *s)
{
	const uint32_t lp = a.lanes;
	const uint32_t c = threadIdx.x % 32 % lp * 8;

	for (int i = 0; i < RG; i++) {
		s[i].top = -INFINITY;
		s[i].sum = 0;
		for (int j = 0; j < 8; j++)
			s[i].acc[j] = 0;
	}
	for (uint32_t p = r.at; p < r.to; p += r.step) {
		tile_read<RG>(a, l, r, p, p == r.at, t);
		soft_add<RG, tile<RG>::J>(s, t->w, q + (c < a.head_dim ? c : 0),
					  a.head_dim, lp, t->seen);
	}
	soft_merge_lanes<RG>(s, lp);
}

/* What attention needs of shared memory: q and one k, then a head's result of
 * each warp. */
static inline size_t step_attend_smem(uint32_t head_dim, uint32_t rep, int rg)
{
	return ((size_t)(rep + 1 + rg) * head_dim +
		(size_t)STEP_WARPS * rg * (head_dim + 2)) * sizeof(float);
}

/* Who reads what: stays for the step. */
template <int RG>
static __device__ struct reader reader_of(const struct step_arg &a,
					  uint32_t warp)
{
	const uint32_t parts = STEP_WARPS / ((a.rep + RG - 1) / RG);
	const uint32_t each = 32 / a.lanes * tile<RG>::J, n = a.pos + 1;
	struct reader r;

	r.kvh = blockIdx.x / a.splits;
	r.split = blockIdx.x % a.splits;
	r.group = warp / parts;
	r.step = parts * each;
	r.at = n * r.split / a.splits + warp % parts * each;
	r.to = n * (r.split + 1) / a.splits;
	return r;
}

/* Positions that a block's warps have in registers at a time. */
static inline uint32_t step_tile(uint32_t rep, uint32_t lanes)
{
	return rep == 1 ? STEP_WARPS * (32 / lanes) * tile<1>::J
			: STEP_WARPS / ((rep + 3) / 4) * (32 / lanes) *
				  tile<4>::J;
}

template <int RG>
static __device__ void step_attend(const struct step_arg &a,
				   const struct step_layer *l,
				   const struct reader &r, struct tile<RG> *t)
{
	const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const uint32_t n = a.head_dim, rep = a.rep;
	const uint32_t groups = (rep + RG - 1) / RG;
	const uint32_t parts = STEP_WARPS / groups;
	float *q = smem<float>(a.at.act), *out = q + (rep + 1 + RG) * n;

	heads_make(a, l, r.kvh, r.split == a.splits - 1, q);
	workers_sync();
	if (r.group < groups) {
		struct soft s[RG];

		/* query heads behind the last are computed from what lies
		 * there, and not used */
		soft_run<RG>(a, l, r, t, q + r.group * RG * n, s);
		for (int i = 0; i < RG; i++) {
			float *to = out + (warp * RG + i) * (n + 2);
			const uint32_t c = lane * 8;

			if (c < n)
				for (int j = 0; j < 8; j++)
					to[c + j] = s[i].acc[j];
			if (lane == 0) {
				to[n] = s[i].top;
				to[n + 1] = s[i].sum;
			}
		}
	}
	workers_sync();
	for (uint32_t i = threadIdx.x; i < rep * n; i += STEP_WORKERS) {
		const uint32_t head = i / n, c = i % n;
		const float *from = out + (head / RG * parts * RG + head % RG) *
				    (n + 2);
		const uint32_t step = RG * (n + 2);
		const uint32_t o = (r.kvh * rep + head) * n + c;
		float top = -INFINITY, sum = 0, v = 0;

		for (uint32_t w = 0; w < parts; w++)
			top = fmaxf(top, from[w * step + n]);
		for (uint32_t w = 0; w < parts; w++) {
			float f = weight_of(from[w * step + n], top);

			sum += from[w * step + n + 1] * f;
			v += from[w * step + c] * f;
		}
		/* in the order in which o takes it */
		a.part[r.split * a.heads * n +
		       (l->back_o ? __ldg(l->back_o + o) : o)] = v;
		if (c == 0)
			((float2 *)a.part_ml)[(r.kvh * rep + head) * a.splits +
					      r.split] = make_float2(top, sum);
	}
}

__device__ __forceinline__ float warp_max(float v)
{
	for (int o = 16; o; o /= 2)
		v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
	return v;
}

/* The share of each split in each head, to shared memory: the output is the
 * sum over splits of part times that.  A warp per head, a lane per split. */
static __device__ void shares_make(const struct step_arg &a, float *share)
{
	const uint32_t lane = threadIdx.x % 32, n = a.splits;

	for (uint32_t h = threadIdx.x / 32; h < a.heads; h += STEP_WARPS) {
		const float2 *ml = (const float2 *)a.part_ml + h * n;
		float top = -INFINITY, sum = 0;

		for (uint32_t s = lane; s < n; s += 32) {
			const float2 v = __ldcg(ml + s);
			const float all = fmaxf(top, v.x);

			sum = sum * weight_of(top, all) +
			      v.y * weight_of(v.x, all);
			top = all;
			share[h * n + s] = v.x;
		}

		const float all = warp_max(top);

		sum = cu_warp_sum(sum * weight_of(top, all));
		for (uint32_t s = lane; s < n; s += 32)
			share[h * n + s] = weight_of(share[h * n + s], all) /
					   sum;
	}
}

/* Four elements of attention's output from c on, which belong to the heads
 * h.x to h.w. */
static __device__ float4 step_attended(const struct step_arg &a, uint32_t c,
				       uint4 h, const float *share)
{
	const float *part = a.part + c;
	const uint32_t row = a.heads * a.head_dim, n = a.splits;
	float4 sum = {};

#pragma unroll 4
	for (uint32_t s = 0; s < n; s++) {
		const float4 v = __ldcg((const float4 *)(part + s * row));

		sum.x += v.x * share[h.x * n + s];
		sum.y += v.y * share[h.y * n + s];
		sum.z += v.z * share[h.z * n + s];
		sum.w += v.w * share[h.w * n + s];
	}
	return sum;
}

#endif
