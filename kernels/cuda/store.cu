/* store.cu - new tokens take their positions: queries and keys are turned by
 * the rotary embedding, keys and values go to the cache.
 *
 * A warp or half of one per head of a row: first the heads of q, then of k,
 * then of v.  Each element is read and written once, but a head for a cache of
 * I8, whose largest magnitude is found first: its second reading comes from
 * the first-level cache. */
#include "cu.cuh"

#define THREADS 128
/* Lanes that have a head, N elements of each half at a time. */
#define LANES(N) (N == 4 ? 16 : 32)

struct store_arg {
	float *q;
	const float *k, *v, *cos_, *sin_;
	void *to_k, *to_v;
	__half *ks, *vs;
	const struct be_at *at;
	size_t ldq, ldk, ldv, ldc, lds, ld_to_k, ld_to_v, ldks, ldvs;
	uint32_t rows, first, heads, kv_heads, half;
};

/* N neighbours. */
template <int N> struct some {
	float f[N];
};

template <int N> __device__ __forceinline__ struct some<N> take(const float *p)
{
	struct some<N> s;

	if constexpr (N == 4) {
		float4 v = *(const float4 *)p;

		s.f[0] = v.x;
		s.f[1] = v.y;
		s.f[2] = v.z;
		s.f[3] = v.w;
	} else if constexpr (N == 2) {
		float2 v = *(const float2 *)p;

		s.f[0] = v.x;
		s.f[1] = v.y;
	} else {
		s.f[0] = *p;
	}
	return s;
}

__device__ __forceinline__ float as(const float *, float f, float)
{
	return f;
}

__device__ __forceinline__ __half as(const __half *, float f, float)
{
	return cu_half(f);
}

__device__ __forceinline__ int8_t as(const int8_t *, float f, float scale)
{
	float c = scale > 0 ? rintf(f / scale) : 0;

	return (int8_t)fminf(fmaxf(c, -127.f), 127.f);
}

template <class T, int N>
__device__ __forceinline__ void put(T *to, const struct some<N> &s, float scale)
{
	struct alignas(N * sizeof(T)) { T t[N]; } v;

#pragma unroll
	for (int i = 0; i < N; i++)
		v.t[i] = as(to, s.f[i], scale);
	*(decltype(v) *)to = v;
}

/* A head of a row; of q and k its two halves are turned. */
template <int N> struct head {
	const float *x, *cos_, *sin_; /* cos_ NULL: as it is */
	uint32_t half;

	/* elements i.. and half + i.. */
	__device__ __forceinline__ void at(uint32_t i, struct some<N> &lo,
					   struct some<N> &hi) const
	{
		struct some<N> a = take<N>(x + i), b = take<N>(x + half + i);

		lo = a;
		hi = b;
		if (!cos_)
			return;
		struct some<N> c = take<N>(cos_ + i), s = take<N>(sin_ + i);
#pragma unroll
		for (int j = 0; j < N; j++) {
			lo.f[j] = a.f[j] * c.f[j] - b.f[j] * s.f[j];
			hi.f[j] = b.f[j] * c.f[j] + a.f[j] * s.f[j];
		}
	}
};

template <class T, int N>
__device__ __forceinline__ void keep(const struct head<N> &h, T *to,
				     __half *scale_to)
{
	constexpr uint32_t L = LANES(N);
	const uint32_t lane = threadIdx.x % L;
	/* the lanes of this head */
	const uint32_t mask = L == 32 ? ~0u : 0xffffu << (threadIdx.x & 16);
	float top = 0, scale = 0;
	struct some<N> lo, hi;

	if (sizeof(T) == 1) {
		for (uint32_t i = lane * N; i < h.half; i += L * N) {
			h.at(i, lo, hi);
			for (int j = 0; j < N; j++)
				top = fmaxf(top, fmaxf(fabsf(lo.f[j]),
						       fabsf(hi.f[j])));
		}
		for (int o = L / 2; o; o /= 2)
			top = fmaxf(top, __shfl_xor_sync(mask, top, o));
		__half s = cu_half(top / 127);

		if (lane == 0)
			*scale_to = s;
		scale = __half2float(s);
	}
	for (uint32_t i = lane * N; i < h.half; i += L * N) {
		h.at(i, lo, hi);
		put<T, N>(to + i, lo, scale);
		put<T, N>(to + i + h.half, hi, scale);
	}
}

/* N neighbours at a time. */
template <class T, int N>
__global__ void __launch_bounds__(THREADS)
store_kernel(const struct store_arg a)
{
	const uint32_t n = a.heads + 2 * a.kv_heads;
	const uint32_t r = blockIdx.y, dim = 2 * a.half;
	uint32_t i = (blockIdx.x * THREADS + threadIdx.x) / LANES(N);
	struct head<N> h = { NULL, NULL, NULL, a.half };

	cu_next();
	cu_wait();
	if (i >= n)
		return;
	const size_t pos = a.at ? a.at[r].pos : a.first + r;
	const size_t at = a.at ? a.at[r].base + pos : pos;

	h.cos_ = a.cos_ + pos * a.ldc;
	h.sin_ = a.sin_ + pos * a.lds;
	if (i < a.heads) {
		float *q = a.q + r * a.ldq + (size_t)i * dim;

		h.x = q;
		keep<float, N>(h, q, NULL);
		return;
	}
	i -= a.heads;
	if (i < a.kv_heads) {
		h.x = a.k + r * a.ldk + (size_t)i * dim;
		keep<T, N>(h, (T *)a.to_k + at * a.ld_to_k + (size_t)i * dim,
		     a.ks + at * a.ldks + i);
		return;
	}
	i -= a.kv_heads;
	h.x = a.v + r * a.ldv + (size_t)i * dim;
	h.cos_ = NULL;
	keep<T, N>(h, (T *)a.to_v + at * a.ld_to_v + (size_t)i * dim,
	     a.vs + at * a.ldvs + i);
}

/* Can n elements be moved at once? */
static bool even(const struct be_mat *m, uint32_t n)
{
	size_t bytes = n * (m->type == DT_F32 ? 4 : m->type == DT_F16 ? 2 : 1);

	return m->ld % n == 0 && (uintptr_t)m->p % bytes == 0;
}

template <class T>
static int store(struct be *be, const struct be_store *s,
		 const struct store_arg &a, struct err *err)
{
	const struct be_mat *m[] = { s->q, s->k, s->v, s->cos, s->sin,
				     &s->to->k, &s->to->v };
	const uint64_t heads = a.heads + 2 * (uint64_t)a.kv_heads;
	struct cu_dim d = { dim3(1, a.rows), dim3(THREADS), 0 };
	uint32_t n = a.half % 4 == 0 ? 4 : a.half % 2 == 0 ? 2 : 1;

	for (int i = 0; i < 7; i++)
		while (!even(m[i], n))
			n /= 2;
	d.grid.x = cu_div_up(heads * LANES(n), THREADS);
	return cu_launch(be, "store", d, err, n == 4 ? store_kernel<T, 4> :
			 n == 2 ? store_kernel<T, 2> : store_kernel<T, 1>, a);
}

int cu_store(struct be *be, const struct be_store *s, struct err *err)
{
	const struct be_cache *c = s->to;
	struct store_arg a;

	if (be_shape_store(s, err))
		return -1;
	a = { (float *)s->q->p, (const float *)s->k->p, (const float *)s->v->p,
	      (const float *)s->cos->p, (const float *)s->sin->p, c->k.p,
	      c->v.p, (__half *)c->k_scale.p, (__half *)c->v_scale.p, s->at,
	      s->q->ld, s->k->ld, s->v->ld, s->cos->ld, s->sin->ld, c->k.ld,
	      c->v.ld, c->k_scale.ld, c->v_scale.ld, s->k->rows, s->first,
	      s->q->cols / s->head_dim, s->k->cols / s->head_dim,
	      s->head_dim / 2 };
	if (a.rows > 65535)
		return err_set(err, ERR_UNSUP, "store: %u rows at once, at "
			       "most 65535 on a GPU", a.rows);
	cu_wrote(be, s->q);
	cu_wrote(be, &c->k);
	cu_wrote(be, &c->v);
	if (c->k.type == DT_F16)
		return store<__half>(be, s, a, err);
	if (c->k.type == DT_I8)
		return store<int8_t>(be, s, a, err);
	return store<float>(be, s, a, err);
}
