/* attend_wide.cu - attention of many rows over a cache of f16 on Hopper's tensor
 * cores (sm_90a): attend_many.cu's plan with wgmma, for heads of 64 and 128.
 *
 * A block has two warpgroups of 64 query rows each; two blocks share a
 * multiprocessor, so that one computes exponentials while the other
 * multiplies.  Q, K and V lie in shared memory in panels of 64 dimensions: rows
 * of 128 bytes, 16-byte chunk c of row r at c ^ r % 8 (the 128-byte swizzle).
 * The same layout serves S = Q K^T, where dimensions are what is summed over,
 * and O += P V, where they are not and V is read transposed.  P stays in
 * registers: the scores of a product are laid out as its next left operand. */
#include "attend.cuh"

#define THREADS 256
#define ROWS 128     /* of queries in a block */
#define POSITIONS 64 /* at a time */

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define WIDE 1
#endif

#define F4(x) "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])

#ifdef WIDE
/* d = a b^T (+ d): 64 rows of a and as many of b as d has columns, 16
 * dimensions of each, from shared memory. */
__device__ __forceinline__ void wgmma_ss(float (&d)[8][4], uint64_t a, uint64_t b, int add)
{
	asm volatile("{.reg .pred p; setp.ne.s32 p, %34, 0; "
		     "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
		     "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
		     "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
		     "%32, %33, p, 1, 1, 0, 0;}"
		     : F4(d[0]), F4(d[1]), F4(d[2]), F4(d[3]), F4(d[4]), F4(d[5]),
		       F4(d[6]), F4(d[7])
		     : "l"(a), "l"(b), "r"(add));
}

/* d += a b: a from registers, 16 rows of b, whose columns are d's. */
__device__ __forceinline__ void wgmma_rs(float (&d)[8][4], const uint32_t *a, uint64_t b, int add)
{
	asm volatile("{.reg .pred p; setp.ne.s32 p, %37, 0; "
		     "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
		     "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
		     "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
		     "{%32,%33,%34,%35}, %36, p, 1, 1, 1;}"
		     : F4(d[0]), F4(d[1]), F4(d[2]), F4(d[3]), F4(d[4]), F4(d[5]),
		       F4(d[6]), F4(d[7])
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
		       "r"(add));
}

__device__ __forceinline__ void wgmma_rs(float (&d)[16][4], const uint32_t *a, uint64_t b, int add)
{
	asm volatile("{.reg .pred p; setp.ne.s32 p, %69, 0; "
		     "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
		     "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
		     "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
		     "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
		     "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
		     "{%64,%65,%66,%67}, %68, p, 1, 1, 1;}"
		     : F4(d[0]), F4(d[1]), F4(d[2]), F4(d[3]), F4(d[4]), F4(d[5]),
		       F4(d[6]), F4(d[7]), F4(d[8]), F4(d[9]), F4(d[10]), F4(d[11]),
		       F4(d[12]), F4(d[13]), F4(d[14]), F4(d[15])
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
		       "r"(add));
}

__device__ __forceinline__ void wgmma_fence(void)
{
	asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/* All that was started has ended. */
__device__ __forceinline__ void wgmma_end(void)
{
	asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
	asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

/* A matrix in panels at this address of shared memory.  8 rows are 1024 bytes
 * further; `panel` bytes lie between panels (where rows are summed over). */
__device__ __forceinline__ uint64_t matrix_at(uint32_t at, uint32_t panel)
{
	return (uint64_t)(at >> 4 & 0x3fff) | (uint64_t)(panel >> 4) << 16 |
	       (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

__device__ __forceinline__ void copy16(uint32_t to, const void *from, bool there)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
		     :: "r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}

/* What this thread copied is there, also for the tensor cores. */
__device__ __forceinline__ void copy_wait(void)
{
	asm volatile("cp.async.wait_all;" ::: "memory");
	asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Positions s..s+BN of a head; what is not before `end` is zeros. */
template <int DIM, int BN>
__device__ __forceinline__ void tile_copy(uint32_t to, const __half *from,
					  size_t ld, uint32_t s, uint32_t end)
{
	constexpr int CHUNKS = DIM / 8;

	static_assert(BN * CHUNKS % THREADS == 0, "whole rounds");
#pragma unroll
	for (int i = 0; i < BN * CHUNKS / THREADS; i++) {
		uint32_t at = i * THREADS + threadIdx.x;
		uint32_t r = at / CHUNKS, c = at % CHUNKS;
		bool in = s + r < end;

		copy16(to + c / 8 * (BN * 128) + r * 128 +
			       ((c ^ r) & 7) * 16,
		       from + (in ? (size_t)(s + r) * ld + c * 8 : 0), in);
	}
}
#endif

template <int DIM, int BN>
__global__ void __launch_bounds__(THREADS, 2) wide_kernel(const struct flash_arg a)
{
#ifdef WIDE
	extern __shared__ __align__(1024) char sh[]; /* q, k, v */
	const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const uint32_t qs = (uint32_t)__cvta_generic_to_shared(sh);
	const uint32_t ks = qs + ROWS * DIM * 2, vs = ks + BN * DIM * 2;
	float o[DIM / 8][4] = {}, top[2], sum[2] = {};
	uint32_t last[2]; /* the last position a row sees */

	cu_next();
	cu_wait();
	/* the longest first: they end last */
	const struct flash_tile t = flash_tile_at(a, gridDim.y - 1 - blockIdx.y,
						  ROWS, BN);
	const __half *k = (const __half *)a.k + (size_t)t.kv * DIM;
	const __half *v = (const __half *)a.v + (size_t)t.kv * DIM;

	if (t.s0 < t.s1)
		tile_copy<DIM, BN>(ks, k, a.ldk, t.s0, t.s1);
	flash_queries<DIM, ROWS, THREADS>(a, t, [&](uint32_t r, uint32_t c,
						    uint2 x) {
		*(uint2 *)(sh + c / 64 * (ROWS * 128) + r * 128 +
			   ((c / 8 ^ r) & 7) * 16 + c % 8 * 2) = x;
	});
	for (int h = 0; h < 2; h++) {
		uint32_t r = t.row0 + warp * 16 + lane / 4 + 8 * h;

		top[h] = -INFINITY;
		last[h] = min(a.first + r / a.rep, t.s1 - 1);
	}
	/* positions that all rows of the block see */
	const uint32_t clear = min(a.first + t.row0 / a.rep + 1, t.s1);
	/* this warpgroup's rows */
	const uint64_t q_at = matrix_at(qs + warp / 4 * 64 * 128, 0);
	const uint64_t k_at = matrix_at(ks, 0);
	const uint64_t v_at = matrix_at(vs, BN * 128);

	for (uint32_t s0 = t.s0; s0 < t.s1; s0 += BN) {
		float s[BN / 8][4];

		copy_wait();
		__syncthreads(); /* K is there, V has been used */
		tile_copy<DIM, BN>(vs, v, a.ldv, s0, t.s1);
		/* scores */
		wgmma_fence();
#pragma unroll
		for (int c = 0; c < DIM / 16; c++)
			wgmma_ss(s, q_at + c / 4 * (ROWS * 128 >> 4) +
					    c % 4 * (32 >> 4),
				 k_at + c / 4 * (BN * 128 >> 4) +
					 c % 4 * (32 >> 4), c);
		wgmma_end();
		copy_wait();
		__syncthreads(); /* V is there, K has been used */
		if (s0 + BN < t.s1)
			tile_copy<DIM, BN>(ks, k, a.ldk, s0 + BN, t.s1);
		if (s0 + BN > clear)
			flash_mask(s, s0, last);
		flash_softmax(s, o, top, sum);
		/* values */
		uint32_t p[BN / 16][4];
#pragma unroll
		for (int c = 0; c < BN / 16; c++)
			flash_weights(p[c], s, c);
		wgmma_fence();
#pragma unroll
		for (int c = 0; c < BN / 16; c++)
			wgmma_rs(o, p[c], v_at + c * (16 * 128 >> 4), 1);
		wgmma_end();
	}
	flash_leave<DIM>(a, t, warp * 16, ROWS, o, top, sum);
	if (a.pieces > 1)
		flash_merge<DIM>(a, t, ROWS);
#else
	__trap(); /* not built for sm_90a, and launched all the same */
#endif
}

template <int DIM>
static int wide(struct be *be, struct flash_arg *a, struct err *err)
{
	const uint32_t tiles = cu_div_up((uint64_t)a->tokens * a->rep, ROWS);
	struct cu_dim d = { dim3(a->kv_heads, tiles), dim3(THREADS),
			    (size_t)(ROWS + 2 * POSITIONS) * DIM * 2 };

	flash_cut(a, tiles);
	d.grid.z = a->pieces;
	if (a->pieces > 1 &&
	    cu_attend_room(be, a, tiles, (size_t)ROWS * (DIM + 2), err))
		return -1;
	return cu_launch(be, "attend", d, err, wide_kernel<DIM, POSITIONS>, *a);
}

int cu_attend_wide(struct be *be, struct flash_arg *a, uint32_t dim,
		   struct err *err)
{
	return dim == 64 ? wide<64>(be, a, err) : wide<128>(be, a, err);
}
