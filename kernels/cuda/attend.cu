/* attend.cu - causal attention over the cache.
 *
 *	out = softmax(scale q k^T) v, per query row and head
 *
 * Few rows (decoding): a block per row, head and piece of 128 positions; its
 * warps take positions in turn and keep a running maximum, sum and value mean
 * (online softmax), which are merged in fixed order, first in the block, then
 * by a second kernel over the pieces.
 *
 * Many rows (prefill): tiles of 64 queries by 32 positions through shared
 * memory, for heads of up to 128.  Longer heads run the first kernel.
 *
 * Arithmetic is f32, as the cache. */
#include "cu.cuh"

#define WARPS 4
#define PIECE 128u
#define FEW 8u

struct attend_arg {
	const float *q, *k, *v;
	float *out, *part;
	size_t ldq, ldk, ldv, ldo;
	uint32_t rows, first, heads, rep, dim, piece, pieces;
	float scale;
};

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
template <int L>
__global__ void __launch_bounds__(WARPS * 32)
few_kernel(const struct attend_arg a)
{
	extern __shared__ float sh[]; /* [WARPS][32 L + 2] */
	constexpr int P = L <= 4 ? 4 : 1; /* positions at a time */
	const uint32_t row = blockIdx.x / a.heads, head = blockIdx.x % a.heads;
	const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const uint32_t seen = a.first + row + 1;
	const uint32_t s0 = blockIdx.y * a.piece;
	const uint32_t s1 = min(s0 + a.piece, seen);
	const size_t kv = (size_t)(head / a.rep) * a.dim;
	struct run<L> r;
	float q[L];

	cu_next();
	cu_wait();
	r.top = -INFINITY;
	r.sum = 0;
#pragma unroll
	for (int i = 0; i < L; i++) {
		uint32_t c = 32 * i + lane;

		r.acc[i] = 0;
		q[i] = c < a.dim ? a.q[row * a.ldq + (size_t)head * a.dim + c] *
				   a.scale : 0;
	}
	for (uint32_t s = s0 + warp * P; s < s1; s += WARPS * P) {
		float k[P][L], v[P][L], p[P], top = r.top, f;

#pragma unroll
		for (int j = 0; j < P; j++)
#pragma unroll
			for (int i = 0; i < L; i++) {
				uint32_t c = 32 * i + lane;
				bool in = c < a.dim && s + j < s1;

				k[j][i] = in ? a.k[(s + j) * a.ldk + kv + c]
					     : 0;
				v[j][i] = in ? a.v[(s + j) * a.ldv + kv + c]
					     : 0;
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

template <int L>
static int few(struct be *be, struct attend_arg *a, struct err *err)
{
	uint32_t wide = 32 * L + 2;
	struct cu_dim d = { dim3(a->rows * a->heads), dim3(WARPS * 32),
			    WARPS * wide * sizeof(float) };
	void *part = NULL;

	/* many rows are blocks enough */
	a->piece = a->rows > FEW ? a->first + a->rows : PIECE;
	a->pieces = cu_div_up((uint64_t)a->first + a->rows, a->piece);
	if (a->pieces > 65535) {
		a->piece = cu_div_up((uint64_t)a->first + a->rows, 65535);
		a->pieces = cu_div_up((uint64_t)a->first + a->rows, a->piece);
	}
	d.grid.y = a->pieces;
	if (a->pieces > 1 &&
	    cu_scratch_get(be, CU_PART, (size_t)d.grid.x * a->pieces * wide *
			   sizeof(float), &part, err))
		return -1;
	a->part = (float *)part;
	if (cu_launch(be, "attend", d, err, few_kernel<L>, *a))
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
static __device__ void tile_load(float *to, const float *from, size_t ld,
				 uint32_t rows, uint32_t there, uint32_t dim,
				 float f)
{
	for (uint32_t i = threadIdx.x; i < rows * dim; i += 256) {
		uint32_t r = i / dim, c = i % dim;

		to[r * (dim + 4) + c] = r < there ? from[r * ld + c] * f : 0;
	}
}

/* Thread (ty, tx) has the scores of queries 4 ty + i and keys tx + 16 j, and
 * of the output columns 4 tx + 64 j. */
template <int C> __global__ void __launch_bounds__(256)
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
	const size_t kv = (size_t)(head / a.rep) * dim;
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
		tile_load(ks, a.k + s0 * a.ldk + kv, a.ldk, BK, there, dim, 1);
		tile_load(vs, a.v + s0 * a.ldv + kv, a.ldv, BK, there, dim, 1);
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

int cu_attend(struct be *be, const struct be_attend *t, struct err *err)
{
	struct attend_arg a;
	struct cu_dim d;

	if (be_shape_attend(t, err))
		return -1;
	if (!t->q->rows)
		return 0;
	cu_wrote(be, t->out);
	a = { (const float *)t->q->p, (const float *)t->k->p,
	      (const float *)t->v->p, (float *)t->out->p, NULL, t->q->ld,
	      t->k->ld, t->v->ld, t->out->ld, t->q->rows, t->first, t->heads,
	      t->heads / t->kv_heads, t->head_dim, 0, 0, t->scale };
	d = { dim3(cu_div_up(a.rows, BQ), a.heads), dim3(256),
	      many_smem(a.dim) };
	if (a.rows > FEW && a.dim <= 128 && a.dim % 4 == 0 &&
	    d.smem <= be->smem && a.heads <= 65535)
		return cu_launch(be, "attend", d, err,
				 a.dim <= 64 ? many_kernel<1> : many_kernel<2>,
				 a);
	if (a.dim <= 32)
		return few<1>(be, &a, err);
	if (a.dim <= 64)
		return few<2>(be, &a, err);
	if (a.dim <= 128)
		return few<4>(be, &a, err);
	if (a.dim <= 256)
		return few<8>(be, &a, err);
	if (a.dim <= 512)
		return few<16>(be, &a, err);
	return err_set(err, ERR_UNSUP, "attend: heads of %u, at most 512 on a "
		       "GPU", a.dim);
}
