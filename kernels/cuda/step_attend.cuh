/* step_attend.cuh - the attention phase of a step: one new token.
 *
 * A key/value head has `splits` blocks, each with an even part of the
 * positions.  A block first turns the raw q (and, with the last part, k and v)
 * into what is used: norm per head, rotary embedding, the new row of the cache.
 * Then its warps take positions in turn, RG query heads at a time that share
 * the keys and values, as online softmax; their results are merged in order of
 * lanes, then warps.  The blocks of a head merge their shares, each an even part
 * of the head's outputs.
 *
 * A row of a head is read by LP lanes, 8 elements each; a warp has 32 / LP rows
 * times J in flight.  The first of them are read before q is waited for. */
#ifndef KERNELS_CUDA_STEP_ATTEND_CUH
#define KERNELS_CUDA_STEP_ATTEND_CUH

#include "step_wire.cuh"

/* Shared memory of the phase, in the place of inputs. */
struct room {
	float *q;       /* [rep + 1 + RG][head_dim]: q, k, v, what is not used */
	__half *k, *v;  /* [head_dim]: the new row of the cache */
	float *out;     /* [WARPS][RG][out_pitch]: result, top, sum */
};

/* 16-byte pieces of results, rows apart by no multiple of the banks. */
__host__ __device__ constexpr uint32_t out_pitch(uint32_t head_dim)
{
	return head_dim + 4;
}

template <int RG>
static __device__ struct room room_of(const struct step_arg &a)
{
	const uint32_t n = a.head_dim;
	struct room r;

	r.q = smem<float>(a.at.act);
	r.k = (__half *)(r.q + (a.rep + 1 + RG) * n);
	r.v = r.k + n;
	r.out = (float *)(r.v + n);
	return r;
}

static inline size_t step_attend_smem(uint32_t head_dim, uint32_t rep, int rg)
{
	return ((size_t)(rep + 2 + rg) * head_dim +
		(size_t)STEP_WARPS * rg * out_pitch(head_dim)) * sizeof(float);
}

/* 2^x; what is tiny is 0 */
__device__ __forceinline__ float pow2(float x)
{
	float y;

	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

/* The norm of a head (or none), rope, times f: by one warp, in place. */
static __device__ void head_turn(const struct step_arg &a, const float *norm,
				 float squares, float f, float *to)
{
	const float *rope = smem<float>(a.at.rope);
	const uint32_t h = a.head_dim / 2;
	float r = 1;

	if (norm)
		r = rsqrtf(cu_warp_sum(squares) / a.head_dim + a.eps);
#pragma unroll 1
	for (uint32_t i = threadIdx.x % 32; i < h; i += 32) {
		float lo = to[i], hi = to[i + h];
		const float c = rope[i], s = rope[i + h];

		if (norm) {
			lo *= r * __ldg(norm + i);
			hi *= r * __ldg(norm + i + h);
		}
		to[i] = (lo * c - hi * s) * f;
		to[i + h] = (hi * c + lo * s) * f;
	}
	__syncwarp();
}

/* Number t of what the block needs: its q, then k and v, which are also put into
 * the cache. */
static __device__ void head_make(const struct step_arg &a,
				 const struct step_layer *l, uint32_t time,
				 uint32_t kvh, uint32_t t, const struct room &m)
{
	const uint32_t lane = threadIdx.x % 32, n = a.head_dim, rep = a.rep;
	const uint32_t head = t < rep ? kvh * rep + t
			    : a.heads + (t - rep) * a.kv_heads + kvh;
	float *to = m.q + t * n, squares = 0;

#pragma unroll 1
	for (uint32_t i = lane * 4; i < n; i += 128) {
		const float4 v = words_await(a.qkv + head * n + i, time);

		*(float4 *)(to + i) = v;
		squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
	}
	__syncwarp();
	if (t <= rep)
		head_turn(a, t < rep ? l->norm_q : l->norm_k, squares,
			  t < rep ? a.scale : 1, to);
	if (t < rep)
		return;

	__half *row = t == rep ? m.k : m.v;
	__half *cache = (t == rep ? l->k : l->v) + a.pos * a.kv_ld + kvh * n;

#pragma unroll 1
	for (uint32_t i = lane; i < n; i += 32)
		row[i] = cache[i] = cu_half(to[i]);
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

/* Two running softmaxes become one. */
__device__ __forceinline__ float2 weights_of(float *top, float other)
{
	const float all = fmaxf(*top, other);
	/* both may be -inf, where nothing was seen */
	const float safe = fmaxf(all, -1e30f);
	const float2 f = make_float2(pow2(*top - safe), pow2(other - safe));

	*top = all;
	return f;
}

template <int RG>
static __device__ void soft_merge_lanes(struct soft *s, uint32_t lp)
{
#pragma unroll 1
	for (uint32_t o = lp; o < 32; o *= 2)
#pragma unroll
		for (int r = 0; r < RG; r++) {
			const float2 f = weights_of(&s[r].top, __shfl_xor_sync(
				~0u, s[r].top, o));

			s[r].sum = s[r].sum * f.x +
				   __shfl_xor_sync(~0u, s[r].sum, o) * f.y;
#pragma unroll
			for (int i = 0; i < 8; i++)
				s[r].acc[i] = s[r].acc[i] * f.x +
					__shfl_xor_sync(~0u, s[r].acc[i], o) *
					f.y;
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
		float p[J], top = s[r].top, f, safe;

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
		}
#pragma unroll 1
		for (uint32_t o = lp / 2; o; o /= 2)
#pragma unroll
			for (int j = 0; j < J; j++)
				p[j] += __shfl_xor_sync(~0u, p[j], o);
#pragma unroll
		for (int j = 0; j < J; j++) {
			p[j] = seen[j] ? p[j] : -INFINITY;
			top = fmaxf(top, p[j]);
		}
		/* -inf where nothing was seen */
		safe = fmaxf(top, -1e30f);
		f = pow2(s[r].top - safe);
		s[r].top = top;
		s[r].sum *= f;
#pragma unroll
		for (int i = 0; i < 8; i++)
			s[r].acc[i] *= f;
#pragma unroll
		for (int j = 0; j < J; j++) {
			float e = pow2(p[j] - safe), v[8];

			widen(w.v[j], v);
			s[r].sum += e;
#pragma unroll
			for (int i = 0; i < 8; i++)
				s[r].acc[i] += e * v[i];
		}
	}
}

/* The first of the 8 elements of a row that are this lane's. */
__device__ __forceinline__ uint32_t row_part(const struct step_arg &a)
{
	return (threadIdx.x & ((1u << a.row_bits) - 1)) * 8;
}

template <int RG> struct tile {
	static constexpr int J = RG == 1 ? 4 : 2;
	struct rows<J> w;
	bool seen[J];
};

/* The rows from p on, but for the new one. */
template <int RG>
static __device__ void tile_read(const struct step_arg &a,
				 const struct step_layer *l,
				 const struct reader &r, uint32_t p,
				 struct tile<RG> *t)
{
	const uint32_t lane = threadIdx.x % 32, each = 32 >> a.row_bits;
	const uint32_t c = row_part(a), sub = lane >> a.row_bits;
	const size_t head = r.kvh * a.head_dim + c;

#pragma unroll
	for (int j = 0; j < tile<RG>::J; j++) {
		const uint32_t at = p + j * each + sub;
		const size_t o = at * a.kv_ld + head;

		t->seen[j] = at < r.to;
		t->w.k[j] = t->w.v[j] = make_uint4(0, 0, 0, 0);
		if (at < r.to && at != a.pos && c < a.head_dim) {
			t->w.k[j] = __ldcg((const uint4 *)(l->k + o));
			t->w.v[j] = __ldcg((const uint4 *)(l->v + o));
		}
	}
}

/* The new row, where it is among them. */
template <int RG>
static __device__ void tile_fresh(const struct step_arg &a, uint32_t p,
				  const struct room &m, struct tile<RG> *t)
{
	const uint32_t lane = threadIdx.x % 32, each = 32 >> a.row_bits;
	const uint32_t c = row_part(a), sub = lane >> a.row_bits;

#pragma unroll
	for (int j = 0; j < tile<RG>::J; j++)
		if (p + j * each + sub == a.pos && t->seen[j] &&
		    c < a.head_dim) {
			t->w.k[j] = *(const uint4 *)(m.k + c);
			t->w.v[j] = *(const uint4 *)(m.v + c);
		}
}

/* All of the warp's positions, for the query heads from q on; t holds the first
 * rows. */
template <int RG>
static __device__ void soft_run(const struct step_arg &a,
				const struct step_layer *l,
				const struct reader &r, struct tile<RG> *t,
				const float *q, const struct room &m,
				struct soft *s)
{
	const uint32_t lp = 1u << a.row_bits, c = row_part(a);

	for (int i = 0; i < RG; i++) {
		s[i].top = -INFINITY;
		s[i].sum = 0;
		for (int j = 0; j < 8; j++)
			s[i].acc[j] = 0;
	}
	for (uint32_t p = r.at; p < r.to; p += r.step) {
		if (p != r.at)
			tile_read<RG>(a, l, r, p, t);
		if (p <= a.pos && a.pos < p + (32 >> a.row_bits) * tile<RG>::J)
			tile_fresh<RG>(a, p, m, t);
		soft_add<RG, tile<RG>::J>(s, t->w, q + (c < a.head_dim ? c : 0),
					  a.head_dim, lp, t->seen);
	}
	soft_merge_lanes<RG>(s, lp);
}

/* Who reads what: stays for the step. */
template <int RG>
static __device__ struct reader reader_of(const struct step_arg &a,
					  uint32_t warp)
{
	const uint32_t parts = STEP_WARPS / ((a.rep + RG - 1) / RG);
	const uint32_t each = (32 >> a.row_bits) * tile<RG>::J;
	const uint32_t n = a.pos + 1;
	struct reader r;

	r.kvh = blockIdx.x / a.splits;
	r.split = blockIdx.x % a.splits;
	r.group = warp / parts;
	r.step = parts * each;
	r.at = n * r.split / a.splits + warp % parts * each;
	r.to = n * (r.split + 1) / a.splits;
	r.merge = a.rep * a.head_dim * r.split / a.splits;
	r.merge_to = a.rep * a.head_dim * (r.split + 1) / a.splits;
	return r;
}

/* Positions that a block's warps have in registers at a time. */
static inline uint32_t step_tile(uint32_t rep, uint32_t row_bits)
{
	const uint32_t each = 32 >> row_bits;

	return rep == 1 ? STEP_WARPS * each * tile<1>::J
			: STEP_WARPS / ((rep + 3) / 4) * each * tile<4>::J;
}

/* A finished output of attention, to where o has it. */
static __device__ void att_put(const struct step_arg &a,
			       const struct step_layer *l, uint32_t i, float v,
			       uint32_t time)
{
	const uint32_t *back = l->back[1];

	word_put(a.vec[1] + (back ? __ldg(back + i) : i), v, time);
}

/* The block's part of the head's outputs, of all splits; a lane a split. */
static __device__ void splits_merge(const struct step_arg &a,
				    const struct step_layer *l,
				    const struct reader &r, uint32_t time)
{
	const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const uint32_t all = a.rep * a.head_dim;
	const struct share *from = a.share + (size_t)r.kvh * a.splits * all;
	const uint32_t w = 1u << a.share_bits, each = 32 >> a.share_bits;
	const uint32_t to = r.merge_to;

	for (uint32_t base = r.merge + warp * each; base < to;
	     base += STEP_WARPS * each) {
		const uint32_t i = base + (lane >> a.share_bits);
		float top = -INFINITY, sum = 0, v = 0;

		for (uint32_t s = lane & (w - 1); s < a.splits && i < to; s += w) {
			const struct share o = share_await(from + s * all + i,
							   time);
			const float2 f = weights_of(&top, o.top);

			sum = sum * f.x + o.sum * f.y;
			v = v * f.x + o.v * f.y;
		}
		__syncwarp();
#pragma unroll 1
		for (uint32_t o = 1; o < w; o *= 2) {
			const float2 f = weights_of(&top, __shfl_xor_sync(
				~0u, top, o));

			sum = sum * f.x + __shfl_xor_sync(~0u, sum, o) * f.y;
			v = v * f.x + __shfl_xor_sync(~0u, v, o) * f.y;
		}
		if ((lane & (w - 1)) == 0 && i < to)
			att_put(a, l, r.kvh * all + i,
				__fdividef(v, sum), time);
	}
}

/* The results of warps: finished, or the split's share. */
template <int RG>
static __device__ void warps_merge(const struct step_arg &a,
				   const struct step_layer *l,
				   const struct reader &r, uint32_t time,
				   const struct room &m)
{
	const uint32_t n = a.head_dim, all = a.rep * n;
	const uint32_t parts = STEP_WARPS / ((a.rep + RG - 1) / RG);
	const uint32_t pitch = out_pitch(n), step = RG * pitch;
	struct share *share = a.share +
			      (size_t)(r.kvh * a.splits + r.split) * all;

#pragma unroll 1
	for (uint32_t i = threadIdx.x; i < all; i += STEP_WORKERS) {
		const uint32_t head = a.rep == 1 ? 0 : i / n, c = i - head * n;
		const float *from = m.out + (head / RG * parts * RG +
					     head % RG) * pitch;
		float top = from[n], sum = 0, v = 0;

#pragma unroll 4
		for (uint32_t w = 1; w < parts; w++)
			top = fmaxf(top, from[w * step + n]);
#pragma unroll 4
		for (uint32_t w = 0; w < parts; w++) {
			const float f = pow2(from[w * step + n] - top);

			sum += from[w * step + n + 1] * f;
			v += from[w * step + c] * f;
		}
		if (a.splits == 1)
			att_put(a, l, r.kvh * all + i, __fdividef(v, sum),
				time);
		else
			share_put(share + i, v, top, sum, time);
	}
}

/* By all warps of a block that has a part; behind it the room is free. */
template <int RG>
static __device__ void step_attend(const struct step_arg &a,
				   const struct step_layer *l,
				   const struct reader &r, uint32_t time,
				   struct tile<RG> *t)
{
	const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const uint32_t n = a.head_dim;
	const struct room m = room_of<RG>(a);

	/* the last split has the new row */
	for (uint32_t i = warp; i < a.rep + (r.split + 1 == a.splits ? 2 : 0);
	     i += STEP_WARPS)
		head_make(a, l, time, r.kvh, i, m);
	workers_sync();
	if (r.group < (a.rep + RG - 1) / RG) {
		struct soft s[RG];

		/* query heads behind the last are computed from what lies
		 * there, and not used */
		soft_run<RG>(a, l, r, t, m.q + r.group * RG * n, m, s);
		for (int i = 0; i < RG; i++) {
			float *to = m.out + (warp * RG + i) * out_pitch(n);
			const uint32_t c = lane * 8;
			const float *v = s[i].acc;

			if (c < n) {
				*(float4 *)(to + c) = make_float4(
					v[0], v[1], v[2], v[3]);
				*(float4 *)(to + c + 4) = make_float4(
					v[4], v[5], v[6], v[7]);
			}
			if (lane == 0) {
				to[n] = s[i].top;
				to[n + 1] = s[i].sum;
			}
		}
	}
	workers_sync();
	warps_merge<RG>(a, l, r, time, m);
	workers_sync();
	if (a.splits > 1)
		splits_merge(a, l, r, time);
}

#endif
