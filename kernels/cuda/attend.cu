/* attend.cu - causal attention over the cache: the choice of a kernel, and the
 * kernels that take every shape.
 *
 *	out = softmax(scale q k^T) v, per query row and head
 *
 * A cache of f16 or q8 with heads of 64, 80, 96, 128 or 256 goes to the tensor
 * cores: few rows in attend_few.cu, many in attend_many.cu, for which q8 is
 * made f16 first.  All else, f32 above all, is done here in f32:
 *
 * Few rows (decoding): a block per row, head and piece of 128 positions; its
 * warps take positions in turn and keep a running maximum, sum and value mean
 * (online softmax), which are merged in fixed order, first in the block, then
 * by a second kernel over the pieces.
 *
 * Many rows (prefill): tiles of 64 queries by 32 positions through shared
 * memory, for heads of up to 128.  Longer heads run the first kernel. */
#include "attend.cuh"

#define WARPS 4
#define PIECE 128u
#define FEW 8u

struct attend_arg {
	const float *q;
	const void *k, *v;
	const __half *ks, *vs; /* scales of I8 */
	float *out, *part;
	const struct be_at *at; /* or NULL */
	size_t ldq, ldk, ldv, ldks, ldvs, ldo;
	uint32_t rows, first, seen, heads, rep, dim, piece, pieces;
	float scale;
};

/* Element c of a head of the cache at position s. */
template <class T>
__device__ __forceinline__ float cached(const void *p, size_t ld, size_t s,
					size_t c)
{
	return cu_float(((const T *)p)[s * ld + c]);
}

/* What elements of a head of the cache at position s are multiplied with. */
template <class T>
__device__ __forceinline__ float scale_of(const __half *p, size_t ld, size_t s,
					  uint32_t head)
{
	if constexpr (sizeof(T) == 1)
		return __half2float(p[s * ld + head]);
	return 1;
}

/* ---- few rows ---- */

/* A running softmax: the largest score, the sum of exp(score - top), and that
 * sum over the values. */
template <int L> struct run {
	float top, sum, acc[L];
};

template <int L>
__device__ __forceinline__ void merge(struct run<L> *a, float top, float sum,
				      const float *acc, int step)
{
	float t = fmaxf(a->top, top);
	/* nothing seen yet is a top of -inf with a sum of 0 */
	float fa = a->top == -INFINITY ? 0 : expf(a->top - t);
	float fb = top == -INFINITY ? 0 : expf(top - t);

	a->top = t;
	a->sum = a->sum * fa + sum * fb;
#pragma unroll
	for (int i = 0; i < L; i++)
		a->acc[i] = a->acc[i] * fa + acc[i * step] * fb;
}

/* L elements of a head per lane: element 32 i + lane. */
template <int L, class T>
__global__ void __launch_bounds__(WARPS * 32)
few_kernel(const struct attend_arg a)
{
	extern __shared__ float sh[]; /* [WARPS][32 L + 2] */
	constexpr int P = L <= 4 ? 4 : 1; /* positions at a time */
	const uint32_t row = blockIdx.x / a.heads, head = blockIdx.x % a.heads;
	const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const uint32_t kvh = head / a.rep;
	const size_t kv = (size_t)kvh * a.dim;
	struct run<L> r;
	float q[L];

	cu_next();
	cu_wait();
	const struct be_at at = a.at ? a.at[row]
				     : be_at{ 0, a.first + (uint32_t)row };
	/* rows of the cache: of the piece, and those that are seen of it */
	const size_t s0 = at.base + (size_t)blockIdx.y * a.piece;
	const size_t s1 = min(s0 + a.piece, (size_t)at.base + at.pos + 1);
	r.top = -INFINITY;
	r.sum = 0;
#pragma unroll
	for (int i = 0; i < L; i++) {
		uint32_t c = 32 * i + lane;

		r.acc[i] = 0;
		q[i] = c < a.dim ? a.q[row * a.ldq + (size_t)head * a.dim + c] *
				   a.scale : 0;
	}
	for (size_t s = s0 + warp * P; s < s1; s += WARPS * P) {
		float k[P][L], v[P][L], p[P], top = r.top, f;

#pragma unroll
		for (int j = 0; j < P; j++)
#pragma unroll
			for (int i = 0; i < L; i++) {
				uint32_t c = 32 * i + lane;
				bool in = c < a.dim && s + j < s1;

				k[j][i] = in ? cached<T>(a.k, a.ldk, s + j,
							 kv + c) : 0;
				v[j][i] = in ? cached<T>(a.v, a.ldv, s + j,
							 kv + c) : 0;
			}
#pragma unroll
		for (int j = 0; j < P; j++) {
			p[j] = 0;
#pragma unroll
			for (int i = 0; i < L; i++)
				p[j] += q[i] * k[j][i];
			p[j] = cu_warp_sum(p[j]);
			if (s + j >= s1)
				p[j] = -INFINITY;
			else
				p[j] *= scale_of<T>(a.ks, a.ldks, s + j, kvh);
			top = fmaxf(top, p[j]);
		}
		f = expf(r.top - top); /* the first s is there: top is finite */
		r.sum *= f;
#pragma unroll
		for (int i = 0; i < L; i++)
			r.acc[i] *= f;
#pragma unroll
		for (int j = 0; j < P; j++) {
			float w = expf(p[j] - top);

			r.sum += w;
			if (s + j < s1)
				w *= scale_of<T>(a.vs, a.ldvs, s + j, kvh);
#pragma unroll
			for (int i = 0; i < L; i++)
				r.acc[i] += w * v[j][i];
		}
		r.top = top;
	}
	/* warps in order */
	float *mine = sh + warp * (32 * L + 2);
	mine[32 * L] = r.top;
	mine[32 * L + 1] = r.sum;
#pragma unroll
	for (int i = 0; i < L; i++)
		mine[32 * i + lane] = r.acc[i];
	__syncthreads();
	if (warp)
		return;
	for (int w = 1; w < WARPS; w++) {
		const float *o = sh + w * (32 * L + 2);

		merge<L>(&r, o[32 * L], o[32 * L + 1], o + lane, 32);
	}
	if (a.pieces == 1) {
#pragma unroll
		for (int i = 0; i < L; i++)
			if (32 * i + lane < a.dim)
				a.out[row * a.ldo + (size_t)head * a.dim +
				      32 * i + lane] = r.acc[i] / r.sum;
		return;
	}
	float *part = a.part + ((size_t)blockIdx.x * a.pieces + blockIdx.y) *
			       (32 * L + 2);
	if (lane == 0) {
		part[32 * L] = r.top;
		part[32 * L + 1] = r.sum;
	}
#pragma unroll
	for (int i = 0; i < L; i++)
		part[32 * i + lane] = r.acc[i];
}

/* Pieces in order; a warp per row and head. */
template <int L> __global__ void join_kernel(const struct attend_arg a)
{
	const uint32_t row = blockIdx.x / a.heads, head = blockIdx.x % a.heads;
	const uint32_t lane = threadIdx.x;
	struct run<L> r;

	cu_next();
	cu_wait();
	r.top = -INFINITY;
	r.sum = 0;
#pragma unroll
	for (int i = 0; i < L; i++)
		r.acc[i] = 0;
	for (uint32_t s = 0; s < a.pieces; s++) {
		const float *p = a.part + ((size_t)blockIdx.x * a.pieces + s) *
					  (32 * L + 2);

		merge<L>(&r, p[32 * L], p[32 * L + 1], p + lane, 32);
	}
#pragma unroll
	for (int i = 0; i < L; i++)
		if (32 * i + lane < a.dim)
			a.out[row * a.ldo + (size_t)head * a.dim + 32 * i +
			      lane] = r.acc[i] / r.sum;
}

template <int L, class T>
static int few(struct be *be, struct attend_arg *a, struct err *err)
{
	uint32_t wide = 32 * L + 2;
	struct cu_dim d = { dim3(a->rows * a->heads), dim3(WARPS * 32),
			    WARPS * wide * sizeof(float) };
	void *part = NULL;

	/* many rows are blocks enough */
	a->piece = a->rows > FEW ? a->seen : PIECE;
	a->pieces = cu_div_up(a->seen, a->piece);
	if (a->pieces > 65535) {
		a->piece = cu_div_up(a->seen, 65535);
		a->pieces = cu_div_up(a->seen, a->piece);
	}
	d.grid.y = a->pieces;
	if (a->pieces > 1 &&
	    cu_scratch_get(be, CU_PART, (size_t)d.grid.x * a->pieces * wide *
			   sizeof(float), &part, err))
		return -1;
	a->part = (float *)part;
	if (cu_launch(be, "attend", d, err, few_kernel<L, T>, *a))
		return -1;
	if (a->pieces == 1)
		return 0;
	return cu_launch(be, "attend", { d.grid.x, dim3(32), 0 }, err,
			 join_kernel<L>, *a);
}

/* ---- many rows ---- */

#define BQ 64
#define BK 32

/* Rows of a head in shared memory, 4 floats apart more than they are long:
 * vector reads of neighbouring rows then meet different banks. */
template <class T>
static __device__ void tile_load(float *to, const T *from, size_t ld,
				 uint32_t rows, uint32_t there, uint32_t dim,
				 float f)
{
	for (uint32_t i = threadIdx.x; i < rows * dim; i += 256) {
		uint32_t r = i / dim, c = i % dim;

		to[r * (dim + 4) + c] = r < there ? cu_float(from[r * ld + c]) * f
						  : 0;
	}
}

/* The same of positions s0.. of the cache. */
template <class T>
static __device__ void tile_cache(float *to, const struct attend_arg &a, int v,
				  uint32_t s0, uint32_t there, uint32_t kvh)
{
	const T *from = (const T *)(v ? a.v : a.k);
	const __half *scale = v ? a.vs : a.ks;
	size_t ld = v ? a.ldv : a.ldk, lds = v ? a.ldvs : a.ldks;

	for (uint32_t i = threadIdx.x; i < BK * a.dim; i += 256) {
		uint32_t r = i / a.dim, c = i % a.dim;
		float f = 0;

		if (r < there)
			f = cu_float(from[(s0 + r) * ld +
					  (size_t)kvh * a.dim + c]) *
			    scale_of<T>(scale, lds, s0 + r, kvh);
		to[r * (a.dim + 4) + c] = f;
	}
}

/* Thread (ty, tx) has the scores of queries 4 ty + i and keys tx + 16 j, and
 * of the output columns 4 tx + 64 j. */
template <int C, class T> __global__ void __launch_bounds__(256)
many_kernel(const struct attend_arg a)
{
	extern __shared__ __align__(16) float sh[];
	const uint32_t dim = a.dim, ld = dim + 4;
	float *qs = sh, *ks = qs + BQ * ld, *vs = ks + BK * ld;
	float *ps = vs + BK * ld; /* [BQ][BK + 1] */
	const uint32_t tx = threadIdx.x % 16, ty = threadIdx.x / 16;
	/* the longest first: they end last */
	const uint32_t q0 = (gridDim.x - 1 - blockIdx.x) * BQ;
	const uint32_t head = blockIdx.y;
	const uint32_t n = min((uint32_t)BQ, a.rows - q0);
	const uint32_t end = a.first + q0 + n; /* positions any row sees */
	float top[4], sum[4] = {}, acc[4][C][4] = {};

	cu_wait();
	for (int i = 0; i < 4; i++)
		top[i] = -INFINITY;
	tile_load(qs, a.q + q0 * a.ldq + (size_t)head * dim, a.ldq, BQ, n, dim,
		  a.scale);
	for (uint32_t s0 = 0; s0 < end; s0 += BK) {
		const uint32_t there = min((uint32_t)BK, end - s0);
		float s[4][2] = {};

		__syncthreads(); /* the last tile has been used */
		tile_cache<T>(ks, a, 0, s0, there, head / a.rep);
		tile_cache<T>(vs, a, 1, s0, there, head / a.rep);
		__syncthreads();
		/* scores */
		for (uint32_t c = 0; c < dim; c += 4) {
			float4 k[2];

#pragma unroll
			for (int j = 0; j < 2; j++)
				k[j] = *(const float4 *)(ks + (tx + 16 * j) *
							 ld + c);
#pragma unroll
			for (int i = 0; i < 4; i++) {
				float4 q = *(const float4 *)(qs + (4 * ty + i) *
							     ld + c);

#pragma unroll
				for (int j = 0; j < 2; j++)
					s[i][j] += q.x * k[j].x + q.y * k[j].y +
						   q.z * k[j].z + q.w * k[j].w;
			}
		}
		/* softmax so far; a row's 16 threads are half a warp */
#pragma unroll
		for (int i = 0; i < 4; i++) {
			const uint32_t last = a.first + q0 + 4 * ty + i;
			float t = top[i], f, w[2];

#pragma unroll
			for (int j = 0; j < 2; j++) {
				if (s0 + tx + 16 * j > last)
					s[i][j] = -INFINITY;
				t = fmaxf(t, s[i][j]);
			}
			for (int o = 8; o; o /= 2)
				t = fmaxf(t, __shfl_xor_sync(~0u, t, o));
			f = top[i] == -INFINITY ? 0 : expf(top[i] - t);
			w[0] = s[i][0] == -INFINITY ? 0 : expf(s[i][0] - t);
			w[1] = s[i][1] == -INFINITY ? 0 : expf(s[i][1] - t);
			ps[(4 * ty + i) * (BK + 1) + tx] = w[0];
			ps[(4 * ty + i) * (BK + 1) + tx + 16] = w[1];
			top[i] = t;
			t = w[0] + w[1];
			for (int o = 8; o; o /= 2)
				t += __shfl_xor_sync(~0u, t, o);
			sum[i] = sum[i] * f + t;
#pragma unroll
			for (int j = 0; j < C * 4; j++)
				acc[i][j / 4][j % 4] *= f;
		}
		__syncwarp(); /* rows of P stay within a half warp */
		/* values */
		for (uint32_t k = 0; k < there; k++) {
			float p[4];

#pragma unroll
			for (int i = 0; i < 4; i++)
				p[i] = ps[(4 * ty + i) * (BK + 1) + k];
#pragma unroll
			for (int j = 0; j < C; j++) {
				uint32_t c = 4 * tx + 64 * j;
				float4 v = {};

				if (c < dim)
					v = *(const float4 *)(vs + k * ld + c);
#pragma unroll
				for (int i = 0; i < 4; i++) {
					acc[i][j][0] += p[i] * v.x;
					acc[i][j][1] += p[i] * v.y;
					acc[i][j][2] += p[i] * v.z;
					acc[i][j][3] += p[i] * v.w;
				}
			}
		}
	}
#pragma unroll
	for (int i = 0; i < 4; i++)
#pragma unroll
		for (int j = 0; j < C * 4; j++) {
			uint32_t r = 4 * ty + i;
			uint32_t c = 4 * tx + 64 * (j / 4) + j % 4;

			if (r < n && c < dim)
				a.out[(q0 + r) * a.ldo + (size_t)head * dim +
				      c] = acc[i][j / 4][j % 4] / sum[i];
		}
}

static size_t many_smem(uint32_t dim)
{
	return ((BQ + 2 * BK) * (dim + 4) + BQ * (BK + 1)) * sizeof(float);
}

template <class T> static int by_dim(struct be *be, attend_arg *a, struct err *err)
{
	struct cu_dim d = { dim3(cu_div_up(a->rows, BQ), a->heads), dim3(256),
			    many_smem(a->dim) };

	if (!a->at && a->rows > FEW && a->dim <= 128 && a->dim % 4 == 0 &&
	    d.smem <= be->smem && a->heads <= 65535)
		return cu_launch(be, "attend", d, err,
				 a->dim <= 64 ? many_kernel<1, T>
					      : many_kernel<2, T>, *a);
	if (a->dim <= 32)
		return few<1, T>(be, a, err);
	if (a->dim <= 64)
		return few<2, T>(be, a, err);
	if (a->dim <= 128)
		return few<4, T>(be, a, err);
	if (a->dim <= 256)
		return few<8, T>(be, a, err);
	if (a->dim <= 512)
		return few<16, T>(be, a, err);
	return err_set(err, ERR_UNSUP, "attend: heads of %u, at most 512 on a "
		       "GPU", a->dim);
}

/* ---- tensor cores ---- */

int cu_attend_room(struct be *be, struct flash_arg *a, uint32_t tiles,
		   size_t row_floats, struct err *err)
{
	size_t n = (size_t)a->kv_heads * tiles, had = be->size[CU_COUNT];
	void *part, *done;

	if (cu_scratch_get(be, CU_PART, n * a->pieces * row_floats *
			   sizeof(float), &part, err) ||
	    cu_scratch_get(be, CU_COUNT, n * sizeof(*a->done), &done, err))
		return -1;
	if (be->size[CU_COUNT] != had)
		CU_TRY(cudaMemsetAsync(done, 0, be->size[CU_COUNT],
				       be->stream), "attend", err);
	a->part = (float *)part;
	a->done = (uint32_t *)done;
	return 0;
}

/* One half of a cache of q8, [rows][cols], as f16. */
__global__ void widen_kernel(const int8_t *from, size_t ld, const __half *scale,
			     size_t lds, uint2 at, __half *to)
{
	const uint32_t c = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
	const uint32_t cols = at.x, dim = at.y, r = blockIdx.y;

	cu_next();
	cu_wait();
	if (c >= cols)
		return;
	char4 v = *(const char4 *)(from + r * ld + c);
	float f = __half2float(scale[r * lds + c / dim]);
	__half2 h[2] = { __halves2half2(cu_half(v.x * f), cu_half(v.y * f)),
			 __halves2half2(cu_half(v.z * f), cu_half(v.w * f)) };
	*(uint2 *)(to + (size_t)r * cols + c) = *(const uint2 *)h;
}

/* A cache of q8 made f16, as far as it is seen. */
static int widen(struct be *be, struct flash_arg *a, uint32_t dim,
		 struct err *err)
{
	const uint32_t cols = a->kv_heads * dim, seen = a->seen;
	const size_t half = (size_t)seen * cols;
	struct cu_dim d = { dim3(cu_div_up(cols, 1024), seen), dim3(256), 0 };
	void *p;
	__half *to;

	if (cu_scratch_get(be, CU_DENSE, 2 * half * sizeof(*to), &p, err))
		return -1;
	to = (__half *)p;
	if (cu_launch(be, "attend", d, err, widen_kernel, (const int8_t *)a->k,
		      a->ldk, a->ks, a->ldks, make_uint2(cols, dim), to) ||
	    cu_launch(be, "attend", d, err, widen_kernel, (const int8_t *)a->v,
		      a->ldv, a->vs, a->ldvs, make_uint2(cols, dim), to + half))
		return -1;
	a->k = to;
	a->v = to + half;
	a->ldk = a->ldv = cols;
	return 0;
}

/* Can vectors of 16 bytes take it? */
static bool even(const struct be_mat *m)
{
	size_t each = 16 / (m->type == DT_F32 ? 4 : m->type == DT_F16 ? 2 : 1);

	return (uintptr_t)m->p % 16 == 0 && m->ld % each == 0;
}

static bool flash_takes(const struct be *be, const struct be_attend *t)
{
	const uint32_t d = t->head_dim;

	/* (heads of 256 take 68 KiB of shared memory) */
	return !be->generic && t->kv->k.type != DT_F32 &&
	       (d < 256 || be->smem >= 72u << 10) &&
	       (d == 64 || d == 80 || d == 96 || d == 128 || d == 256) &&
	       even(&t->kv->k) && even(&t->kv->v) && even(t->q) &&
	       even(t->out);
}

/* Up to so many rows of a key/value head, the kernel of few rows reads keys
 * and values once for each 16. */
#define FEW_ROWS 64u

/* Positions that the token which sees most does. */
static uint32_t seen_of(const struct be_attend *t)
{
	return t->at ? t->seen : t->first + t->q->rows;
}

/* 1 when it has been done, 0 when it is for the other kernels. */
static int flash(struct be *be, const struct be_attend *t, struct err *err)
{
	const struct be_cache *c = t->kv;
	const uint32_t rep = t->heads / t->kv_heads;
	const bool few = t->at || t->q->rows <= 2 ||
			 (uint64_t)rep * t->q->rows <= FEW_ROWS;
	struct flash_arg a = {
		(const float *)t->q->p, c->k.p, c->v.p,
		(const __half *)c->k_scale.p, (const __half *)c->v_scale.p,
		(float *)t->out->p, {}, NULL, NULL, t->at, t->q->ld, c->k.ld,
		c->v.ld, c->k_scale.ld, c->v_scale.ld, t->out->ld, t->q->rows,
		t->first, seen_of(t), t->kv_heads, rep, 1,
		t->scale * 1.44269504f
	};

	if (!flash_takes(be, t) || (!few && be->cc < 80))
		return 0;
	if (cu_also_16(be, t->out, false, &a.out16, err))
		return -1;
	if (few)
		return cu_attend_few(be, &a, t->head_dim, c->k.type, err) ? -1 : 1;
	if (c->k.type == DT_I8 && widen(be, &a, t->head_dim, err))
		return -1;
	if (be->cc == 90 && (t->head_dim == 64 || t->head_dim == 128))
		return cu_attend_wide(be, &a, t->head_dim, err) ? -1 : 1;
	return cu_attend_many(be, &a, t->head_dim, err) ? -1 : 1;
}

int cu_attend(struct be *be, const struct be_attend *t, struct err *err)
{
	const struct be_cache *c = t->kv;
	struct attend_arg a;
	int ret;

	if (be_shape_attend(t, err))
		return -1;
	if (!t->q->rows)
		return 0;
	cu_wrote(be, t->out);
	ret = flash(be, t, err);
	if (ret)
		return ret < 0 ? -1 : 0;
	a = { (const float *)t->q->p, c->k.p, c->v.p,
	      (const __half *)c->k_scale.p, (const __half *)c->v_scale.p,
	      (float *)t->out->p, NULL, t->at, t->q->ld, c->k.ld, c->v.ld,
	      c->k_scale.ld, c->v_scale.ld, t->out->ld, t->q->rows, t->first,
	      seen_of(t), t->heads, t->heads / t->kv_heads, t->head_dim, 0, 0, t->scale };
	if (c->k.type == DT_F16)
		return by_dim<__half>(be, &a, err);
	if (c->k.type == DT_I8)
		return by_dim<int8_t>(be, &a, err);
	return by_dim<float>(be, &a, err);
}
