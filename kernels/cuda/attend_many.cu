/* attend_many.cu - causal attention of many rows over a cache of f16, on the
 * tensor cores (sm_80 and later).
 *
 *	out = softmax(scale q k^T) v
 *
 * A block has 64 MT query rows of one key/value head, a warp 16 MT of them, and
 * goes through the positions BN at a time:
 *
 *	K -> shared memory | S = Q K^T     V -> shared memory meanwhile
 *	next K ->          | softmax so far, S becomes P (f16, in registers)
 *	                   | O = O f + P V
 *
 * with a running maximum and sum of each row (T. Dao, "FlashAttention-2",
 * 2023, arXiv:2307.08691).  Rows in shared memory are 8 halves longer than a
 * head, so that ldmatrix meets all banks.  Pieces of positions are blocks of
 * their own when there are few tiles.
 *
 * Work: 4 dim flops per query and key it sees; bytes do not count. */
#include "attend.cuh"

#define PAD 8

__device__ __forceinline__ uint32_t smem_at(const void *p)
{
	return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ __forceinline__ void ldsm(uint32_t *r, uint32_t at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 "
		     "{%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(at));
}

__device__ __forceinline__ void ldsm_trans(uint32_t *r, uint32_t at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 "
		     "{%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(at));
}

/* 16 bytes to shared memory, zeros where `there` is false. */
__device__ __forceinline__ void copy16(uint32_t to, const void *from, bool there)
{
#if __CUDA_ARCH__ >= 800
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
		     :: "r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
#endif
}

__device__ __forceinline__ void copy_commit(void)
{
#if __CUDA_ARCH__ >= 800
	asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

__device__ __forceinline__ void copy_wait(void)
{
#if __CUDA_ARCH__ >= 800
	asm volatile("cp.async.wait_group 0;" ::: "memory");
#endif
}

/* Positions s..s+BN of a head; what is not before `end` is zeros. */
template <int DIM, int BN, int W>
__device__ __forceinline__ void tile_copy(uint32_t to, const __half *from,
					  size_t ld, uint32_t s, uint32_t end)
{
	constexpr int CHUNKS = DIM / 8;

	static_assert(BN * CHUNKS % (32 * W) == 0, "whole rounds");
	const __half *p = from + (size_t)s * ld;

#pragma unroll
	for (int i = 0; i < BN * CHUNKS / (32 * W); i++) {
		uint32_t at = i * 32 * W + threadIdx.x;
		uint32_t r = at / CHUNKS, c = at % CHUNKS;
		bool in = s + r < end;

		copy16(to + (r * (DIM + PAD) + c * 8) * 2,
		       p + (in ? r * ld + c * 8 : 0), in);
	}
	copy_commit();
}

template <int DIM, int MT, int BN, int W, int B>
__global__ void __launch_bounds__(W * 32, B) many_kernel(const struct flash_arg a)
{
#if __CUDA_ARCH__ >= 800
	constexpr int BM = 16 * W * MT, LD = DIM + PAD;
	extern __shared__ __align__(16) __half sh[]; /* q, k, v */
	const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const uint32_t qs = smem_at(sh), ks = qs + BM * LD * 2;
	const uint32_t vs = ks + BN * LD * 2;
	float o[MT][DIM / 8][4] = {}, top[MT][2], sum[MT][2] = {};
	uint32_t last[MT][2]; /* the last position a row sees */

	cu_next();
	cu_wait();
	/* the longest first: they end last */
	const struct flash_tile t = flash_tile_at(a, gridDim.y - 1 - blockIdx.y,
						  BM, BN);
	const __half *k = (const __half *)a.k + (size_t)t.kv * DIM;
	const __half *v = (const __half *)a.v + (size_t)t.kv * DIM;

	if (t.s0 < t.s1)
		tile_copy<DIM, BN, W>(ks, k, a.ldk, t.s0, t.s1);
	flash_queries<DIM, BM, 32 * W>(a, t, [&](uint32_t r, uint32_t c,
						 uint2 v) {
		*(uint2 *)(sh + r * LD + c) = v;
	});
#pragma unroll
	for (int m = 0; m < MT; m++)
#pragma unroll
		for (int h = 0; h < 2; h++) {
			uint32_t r = t.row0 + (warp * MT + m) * 16 + lane / 4 +
				     8 * h;

			top[m][h] = -INFINITY;
			last[m][h] = min(a.first + r / a.rep, t.s1 - 1);
		}
	/* positions that all rows of the block see */
	const uint32_t clear = min(a.first + t.row0 / a.rep + 1, t.s1);
	/* lane's rows for ldmatrix */
	const uint32_t q_at = qs + ((warp * MT * 16 + lane % 16) * LD +
				    lane / 16 * 8) * 2;
	const uint32_t k_at = ks + ((lane / 16 * 8 + lane % 8) * LD +
				    lane / 8 % 2 * 8) * 2;
	const uint32_t v_at = vs + (lane % 16 * LD + lane / 16 * 8) * 2;

	for (uint32_t s0 = t.s0; s0 < t.s1; s0 += BN) {
		float s[MT][BN / 8][4] = {};

		copy_wait();
		__syncthreads(); /* K is there, V has been used */
		tile_copy<DIM, BN, W>(vs, v, a.ldv, s0, t.s1);
		/* scores */
#pragma unroll
		for (int c = 0; c < DIM / 16; c++) {
			uint32_t qf[MT][4];

#pragma unroll
			for (int m = 0; m < MT; m++)
				ldsm(qf[m], q_at + (m * 16 * LD + c * 16) * 2);
#pragma unroll
			for (int n = 0; n < BN / 16; n++) {
				uint32_t f[4];

				ldsm(f, k_at + (n * 16 * LD + c * 16) * 2);
#pragma unroll
				for (int m = 0; m < MT; m++) {
					flash_mma(s[m][2 * n], qf[m], f[0],
						  f[1]);
					flash_mma(s[m][2 * n + 1], qf[m], f[2],
						  f[3]);
				}
			}
		}
		copy_wait();
		__syncthreads(); /* V is there, K has been used */
		if (s0 + BN < t.s1)
			tile_copy<DIM, BN, W>(ks, k, a.ldk, s0 + BN, t.s1);
#pragma unroll
		for (int m = 0; m < MT; m++) {
			if (s0 + BN > clear)
				flash_mask(s[m], s0, last[m]);
			flash_softmax(s[m], o[m], top[m], sum[m]);
		}
		/* values */
#pragma unroll
		for (int c = 0; c < BN / 16; c++) {
			uint32_t p[MT][4];

#pragma unroll
			for (int m = 0; m < MT; m++)
				flash_weights(p[m], s[m], c);
#pragma unroll
			for (int n = 0; n < DIM / 16; n++) {
				uint32_t f[4];

				ldsm_trans(f, v_at + (c * 16 * LD + n * 16) * 2);
#pragma unroll
				for (int m = 0; m < MT; m++) {
					flash_mma(o[m][2 * n], p[m], f[0],
						  f[1]);
					flash_mma(o[m][2 * n + 1], p[m], f[2],
						  f[3]);
				}
			}
		}
	}
#pragma unroll
	for (int m = 0; m < MT; m++)
		flash_leave<DIM>(a, t, (warp * MT + m) * 16, BM, o[m], top[m],
				 sum[m]);
	if (a.pieces > 1)
		flash_merge<DIM>(a, t, BM);
#endif
}

template <int DIM, int MT, int BN, int W, int B>
static int many(struct be *be, struct flash_arg *a, struct err *err)
{
	const uint32_t size = 16 * W * MT;
	const uint32_t tiles = cu_div_up((uint64_t)a->tokens * a->rep, size);
	struct cu_dim d = { dim3(a->kv_heads, tiles), dim3(W * 32),
			    (size_t)(size + 2 * BN) * (DIM + PAD) * 2 };

	flash_cut(a, tiles);
	d.grid.z = a->pieces;
	if (a->pieces > 1 &&
	    cu_attend_room(be, a, tiles, (size_t)size * (DIM + 2), err))
		return -1;
	return cu_launch(be, "attend", d, err, many_kernel<DIM, MT, BN, W, B>, *a);
}

int cu_attend_many(struct be *be, struct flash_arg *a, uint32_t dim,
		   struct err *err)
{
	switch (dim) {
	case 64:
		return many<64, 1, 64, 8, 2>(be, a, err);
	case 80:
		return many<80, 2, 64, 4, 2>(be, a, err);
	case 96:
		return many<96, 1, 64, 8, 2>(be, a, err);
	case 128:
		return many<128, 1, 64, 8, 2>(be, a, err);
	default:
		return many<256, 1, 32, 4, 2>(be, a, err);
	}
}
