/* attend.cuh - what the kernels of attention on tensor cores share.
 *
 * The query rows of one key/value head stand together: row i is token i / rep
 * of head i % rep of the rep query heads that read it, so that each key is
 * loaded once for all of them.  Positions may be cut into pieces, blocks of
 * their own; the last block of a tile to end merges them, in their order.
 *
 * Tokens of several sequences (be_at) share nothing: there a tile is rows of one
 * token, and its pieces are cut by the positions that one sees.
 *
 * Scores count in powers of two: queries are taken times scale * log2 e. */
#ifndef KERNELS_CUDA_ATTEND_CUH
#define KERNELS_CUDA_ATTEND_CUH

#include "cu.cuh"

struct flash_arg {
	const float *q;
	const void *k, *v;
	const __half *ks, *vs;  /* scales of I8 */
	float *out;
	struct cu_out16 out16;
	float *part;            /* [kv head][tile][piece][row][dim + 2] */
	uint32_t *done;         /* [kv head][tile], 0 before and after */
	const struct be_at *at; /* or NULL; cu_attend_few alone takes it */
	size_t ldq, ldk, ldv, ldks, ldvs, ldo;
	uint32_t tokens, first, seen, kv_heads, rep, pieces;
	float scale;            /* times log2 e */
};

/* Up to 16 rows at a time; heads of 64, 80, 96, 128 or 256 of F16 or I8. */
int cu_attend_few(struct be *be, struct flash_arg *a, uint32_t dim,
		  enum dtype type, struct err *err);
/* Any number of rows, F16. */
int cu_attend_many(struct be *be, struct flash_arg *a, uint32_t dim,
		   struct err *err);
/* The same with wgmma, on sm_90a alone: heads of 64 or 128. */
int cu_attend_wide(struct be *be, struct flash_arg *a, uint32_t dim,
		   struct err *err);
/* Pieces of many rows: so many tiles that the device is full, but none of less
 * than FLASH_PIECE positions. */
#define FLASH_BLOCKS 264
#define FLASH_PIECE 512
static inline void flash_cut(struct flash_arg *a, uint32_t tiles)
{
	const uint32_t most = cu_div_up(a->seen, FLASH_PIECE);

	a->pieces = FLASH_BLOCKS / (a->kv_heads * tiles);
	a->pieces = !a->pieces ? 1 : a->pieces > most ? most : a->pieces;
}
/* Room for the pieces of so many tiles of `rows` rows; sets part and done. */
int cu_attend_room(struct be *be, struct flash_arg *a, uint32_t tiles,
		   size_t row_floats, struct err *err);

/* ---- device side ---- */

#define FLASH_WARPS 4

__device__ __forceinline__ float flash_exp2(float x)
{
	float y;

	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

/* c += a b, 16 x 8 x 16 */
__device__ __forceinline__ void flash_mma(float *c, const uint32_t *a,
					  uint32_t b0, uint32_t b1)
{
#if __CUDA_ARCH__ >= 800
	asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
		     "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
		     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0),
		       "r"(b1));
#else
	asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
		     "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
		     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		     : "r"(a[0]), "r"(a[1]), "r"(b0));
	asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
		     "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
		     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		     : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

__device__ __forceinline__ uint32_t flash_pair(float lo, float hi)
{
	__half2 h = __halves2half2(cu_half(lo), cu_half(hi));

	return *reinterpret_cast<uint32_t *>(&h);
}

/* The same of numbers between 0 and 1. */
__device__ __forceinline__ uint32_t flash_pair_p(float lo, float hi)
{
	__half2 h = __floats2half2_rn(lo, hi);

	return *reinterpret_cast<uint32_t *>(&h);
}

/* What a block works on: rows row0..row0+rows of a key/value head, positions
 * s0..s1. */
struct flash_tile {
	uint32_t tile, tiles, kv, piece, row0, rows, s0, s1;
};

/* Positions of a piece of `seen`; `step` divides it. */
__device__ __forceinline__ uint32_t flash_piece(const struct flash_arg &a,
						uint32_t seen, uint32_t step)
{
	return ((seen + a.pieces - 1) / a.pieces + step - 1) / step * step;
}

__device__ __forceinline__ struct flash_tile
flash_tile_at(const struct flash_arg &a, uint32_t tile, uint32_t size,
	      uint32_t step)
{
	const uint32_t all = a.tokens * a.rep;
	const uint32_t len = flash_piece(a, a.seen, step);
	struct flash_tile t;

	t.tile = tile;
	t.tiles = (all + size - 1) / size;
	t.kv = blockIdx.x;
	t.piece = blockIdx.z;
	t.row0 = tile * size;
	t.rows = min(size, all - t.row0);
	t.s0 = t.piece * len;
	/* no further than its last token sees */
	t.s1 = min(t.s0 + len,
		   a.first + (t.row0 + t.rows - 1) / a.rep + 1);
	return t;
}

/* The same with `at`: rows of one token, at its place. */
__device__ __forceinline__ struct flash_tile
flash_tile_of(const struct flash_arg &a, struct be_at at, uint32_t size,
	      uint32_t step)
{
	const uint32_t each = (a.rep + size - 1) / size;
	const uint32_t token = blockIdx.y / each, i = blockIdx.y % each * size;
	const uint32_t len = flash_piece(a, at.pos + 1, step);
	struct flash_tile t;

	t.tile = blockIdx.y;
	t.tiles = a.tokens * each;
	t.kv = blockIdx.x;
	t.piece = blockIdx.z;
	t.row0 = token * a.rep + i;
	t.rows = min(size, a.rep - i);
	t.s0 = t.piece * len;
	t.s1 = min(t.s0 + len, at.pos + 1);
	return t;
}

/* Where row r of the tile is in q, out and part. */
template <int DIM>
__device__ __forceinline__ const float *
flash_q(const struct flash_arg &a, const struct flash_tile &t, uint32_t r)
{
	const uint32_t i = t.row0 + r;

	return a.q + (i / a.rep) * a.ldq +
	       (size_t)(t.kv * a.rep + i % a.rep) * DIM;
}

template <int DIM>
__device__ __forceinline__ float *
flash_part(const struct flash_arg &a, const struct flash_tile &t,
	   uint32_t piece, uint32_t r, uint32_t size)
{
	return a.part + ((((size_t)t.kv * t.tiles + t.tile) * a.pieces + piece) *
			 size + r) * (DIM + 2);
}

/* N results of row r from column c on, N even. */
template <int DIM, int N>
__device__ __forceinline__ void
flash_out(const struct flash_arg &a, const struct flash_tile &t, uint32_t r,
	  uint32_t c, const float *v)
{
	const uint32_t i = t.row0 + r, token = i / a.rep;
	const uint32_t at = (t.kv * a.rep + i % a.rep) * DIM + c;
	float *out = a.out + token * a.ldo + at;

#pragma unroll
	for (int j = 0; j < N; j += 2) {
		*(float2 *)(out + j) = make_float2(v[j], v[j + 1]);
		if (a.out16.p)
			*(uint32_t *)(a.out16.p +
				      x16_at(a.out16.form, token, at + j)) =
				flash_pair(v[j], v[j + 1]);
	}
}

/* One row from its pieces, by a warp: 16 pieces are asked for at a time. */
template <int DIM>
__device__ __forceinline__ void flash_merge_row(const struct flash_arg &a,
						const struct flash_tile &t,
						uint32_t r, uint32_t size)
{
	constexpr int EACH = DIM % 64 ? 1 : 2; /* pairs of columns a lane has */
	constexpr int AHEAD = 16;
	const uint32_t lane = threadIdx.x % 32;
	const float *from = flash_part<DIM>(a, t, 0, r, size);
	const size_t step = (size_t)size * (DIM + 2);
	float top = -INFINITY;

	for (uint32_t p = lane; p < a.pieces; p += 32)
		top = fmaxf(top, __ldcg(from + p * step + DIM));
	for (int o = 16; o; o /= 2)
		top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
	for (uint32_t c0 = 2 * lane; c0 < DIM; c0 += 64 * EACH) {
		float acc[2 * EACH] = {}, sum = 0;

		for (uint32_t p0 = 0; p0 < a.pieces; p0 += AHEAD) {
			float2 s[AHEAD], v[AHEAD][EACH];

#pragma unroll
			for (int i = 0; i < AHEAD; i++) {
				const bool in = p0 + i < a.pieces;
				const float *p = from + (p0 + i) * step;

				s[i] = in ? __ldcg((const float2 *)(p + DIM))
					  : make_float2(-INFINITY, 0);
#pragma unroll
				for (int j = 0; j < EACH; j++)
					v[i][j] = in && c0 + 64 * j < DIM
						? __ldcg((const float2 *)(p + c0 +
									  64 * j))
						: make_float2(0, 0);
			}
#pragma unroll
			for (int i = 0; i < AHEAD; i++) {
				float f = flash_exp2(s[i].x - top);

				sum += s[i].y * f;
#pragma unroll
				for (int j = 0; j < EACH; j++) {
					acc[2 * j] += v[i][j].x * f;
					acc[2 * j + 1] += v[i][j].y * f;
				}
			}
		}
#pragma unroll
		for (int j = 0; j < EACH; j++) {
			float x[2] = { acc[2 * j] / sum, acc[2 * j + 1] / sum };

			if (c0 + 64 * j < DIM)
				flash_out<DIM, 2>(a, t, r, c0 + 64 * j, x);
		}
	}
}

/* ---- rows of which a lane has columns ----
 *
 * As the sums of mma and wgmma lie: element e of s[n] or o[n] is in row
 * lane / 4 + 8 (e / 2) of 16 and in column 8 n + lane % 4 * 2 + e % 2. */

/* Positions from s0 on behind the last that a row sees. */
template <int N>
__device__ __forceinline__ void flash_mask(float (&s)[N][4], uint32_t s0,
					   const uint32_t last[2])
{
	const uint32_t at = s0 + threadIdx.x % 4 * 2;

#pragma unroll
	for (int n = 0; n < N; n++)
#pragma unroll
		for (int e = 0; e < 4; e++)
			if (at + n * 8 + e % 2 > last[e / 2])
				s[n][e] = -INFINITY;
}

/* Softmax so far: scores become weights, and what was summed is scaled to the
 * new maximum. */
template <int N, int D>
__device__ __forceinline__ void flash_softmax(float (&s)[N][4], float (&o)[D][4],
					      float top[2], float sum[2])
{
#pragma unroll
	for (int h = 0; h < 2; h++) {
		float w = top[h], f, base, part = 0;

#pragma unroll
		for (int n = 0; n < N; n++)
			w = fmaxf(w, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
		w = fmaxf(w, __shfl_xor_sync(~0u, w, 1));
		w = fmaxf(w, __shfl_xor_sync(~0u, w, 2));
		/* a piece this row sees nothing of */
		base = w == -INFINITY ? 0 : w;
		f = flash_exp2(top[h] - base);
		top[h] = w;
#pragma unroll
		for (int n = 0; n < N; n++)
#pragma unroll
			for (int e = 2 * h; e < 2 * h + 2; e++) {
				s[n][e] = flash_exp2(s[n][e] - base);
				part += s[n][e];
			}
		sum[h] = sum[h] * f + part;
#pragma unroll
		for (int n = 0; n < D; n++) {
			o[n][2 * h] *= f;
			o[n][2 * h + 1] *= f;
		}
	}
}

/* The weights of positions 16 c to 16 c + 15, as the next left operand. */
template <int N>
__device__ __forceinline__ void flash_weights(uint32_t p[4],
					      const float (&s)[N][4], int c)
{
#pragma unroll
	for (int i = 0; i < 4; i++)
		p[i] = flash_pair_p(s[2 * c + i / 2][i % 2 * 2],
				    s[2 * c + i / 2][i % 2 * 2 + 1]);
}

/* Results of the 16 rows from row0 of the tile on, or those of a piece. */
template <int DIM>
__device__ __forceinline__ void
flash_leave(const struct flash_arg &a, const struct flash_tile &t, uint32_t row0,
	    uint32_t size, const float (&o)[DIM / 8][4], const float top[2],
	    const float sum[2])
{
	const uint32_t lane = threadIdx.x % 32;

#pragma unroll
	for (int h = 0; h < 2; h++) {
		const uint32_t r = row0 + lane / 4 + 8 * h;
		float all = sum[h];

		all += __shfl_xor_sync(~0u, all, 1);
		all += __shfl_xor_sync(~0u, all, 2);
		if (r >= t.rows)
			continue;
		if (a.pieces == 1) {
#pragma unroll
			for (int n = 0; n < DIM / 8; n++) {
				float x[2] = { o[n][2 * h] / all,
					       o[n][2 * h + 1] / all };

				flash_out<DIM, 2>(a, t, r, n * 8 + lane % 4 * 2,
						  x);
			}
			continue;
		}
		float *part = flash_part<DIM>(a, t, t.piece, r, size);
#pragma unroll
		for (int n = 0; n < DIM / 8; n++)
			*(float2 *)(part + n * 8 + lane % 4 * 2) =
				make_float2(o[n][2 * h], o[n][2 * h + 1]);
		if (lane % 4 == 0)
			*(float2 *)(part + DIM) = make_float2(top[h], all);
	}
}

/* To be called by all threads of a block that has written its piece.  The last
 * one of the tile merges all. */
template <int DIM>
__device__ void flash_merge(const struct flash_arg &a,
			    const struct flash_tile &t, uint32_t size)
{
	__shared__ uint32_t last;

	__threadfence();
	__syncthreads();
	if (threadIdx.x == 0) {
		uint32_t *done = a.done + t.kv * t.tiles + t.tile;

		last = atomicAdd(done, 1) == a.pieces - 1;
		if (last)
			*done = 0; /* for the next launch */
	}
	__syncthreads();
	if (!last)
		return;
	__threadfence();
	for (uint32_t r = threadIdx.x / 32; r < t.rows; r += blockDim.x / 32)
		flash_merge_row<DIM>(a, t, r, size);
}

/* The queries of a tile as f16, scaled, zeros where there are none, four at a
 * time to wherever `put` takes them. */
template <int DIM, int BM, int T, class P>
__device__ __forceinline__ void flash_queries(const struct flash_arg &a,
					      const struct flash_tile &t,
					      const P &put)
{
	constexpr int ALL = BM * DIM / 4 / T, AHEAD = ALL % 8 == 0 ? 8 : ALL % 5 == 0 ? 5 : 4;

	static_assert(ALL % AHEAD == 0 && BM * DIM / 4 % T == 0, "whole rounds");
#pragma unroll 1
	for (int i0 = 0; i0 < ALL; i0 += AHEAD) {
		float4 f[AHEAD];

#pragma unroll
		for (int i = 0; i < AHEAD; i++) {
			const uint32_t at = (i0 + i) * T + threadIdx.x;
			const uint32_t r = at / (DIM / 4);

			f[i] = r < t.rows ? *(const float4 *)(
				flash_q<DIM>(a, t, r) + at % (DIM / 4) * 4)
					  : make_float4(0, 0, 0, 0);
		}
#pragma unroll
		for (int i = 0; i < AHEAD; i++) {
			const uint32_t at = (i0 + i) * T + threadIdx.x;

			put(at / (DIM / 4), at % (DIM / 4) * 4,
			    make_uint2(flash_pair(f[i].x * a.scale,
						  f[i].y * a.scale),
				       flash_pair(f[i].z * a.scale,
						  f[i].w * a.scale)));
		}
	}
}

#endif
