/* qwgmma.cuh - the kernel of 9 rows and more on sm_90a.
 *
 *	y[token][out] = sum over k: (scale (code - zero))[out][k] x[token][k]
 *
 * A tile is BM = 64 W outputs by N tokens: W warpgroups have 64 outputs each,
 * and one warp more feeds them through a ring of stages in shared memory, each
 * of KC chunks of 64 inputs
 *
 *	x      [KC][N][64] f16, in the order of wgmma.cuh
 *	codes  [BM / 16 strips][KC chunks] as they lie in memory (qw.cuh)
 *	scales [BM / 16 strips][units][8] pairs; zeros likewise
 *
 * or, of a dense weight, [KC][BM][64] of 16 bits.  A warp of a warpgroup has a
 * strip of 16 outputs, whose words are its registers of A: it makes f16 of the
 * codes of a chunk while wgmma works for the other warpgroups.  With few tokens
 * the scale goes onto the f32 sums of a stage, which is one unit; else it goes
 * onto the weights, times 64 to keep small scales out of the subnormals, and
 * the sums are divided by that.
 *
 * Blocks stay and take tiles in turn, so that the ring fills for the next tile
 * while the sums of the last are written.  The last tiles, where they are too
 * few for all blocks, belong to a cluster of blocks each, which cut its inputs
 * evenly.  At the end each leaves its sums in shared memory and adds up a slice
 * of the tile from all of them, in the order of the blocks.  Which tiles are
 * cut, and how often, depends on the shape alone, and so do the sums. */
#ifndef KERNELS_CUDA_QWGMMA_CUH
#define KERNELS_CUDA_QWGMMA_CUH

#include "qwgmma_shape.cuh"
#include "wgmma.cuh"

#if WGMMA_HERE

template <int BITS, int UNIT, int W, int N, int KC, int RING, int BLOCKS>
struct qwg {
	typedef qwg_shape<BITS, UNIT, W, N, KC, RING, BLOCKS> S;
	const qwg_arg &a;
	uint8_t *base;              /* of the ring */
	uint32_t ring, full, empty; /* shared addresses */
	uint32_t slot, turn;        /* the next stage of the ring */
	/* the tile at hand: its number, its first token and output, the stages
	 * of this block */
	uint32_t tile, token, out, from, to;

	__device__ __forceinline__ qwg(const qwg_arg &arg, uint8_t *raw)
		: a(arg), slot(0), turn(0), tile(0)
	{
		ring = (shared_at(raw) + 1023) / 1024 * 1024;
		base = raw + (ring - shared_at(raw));
		full = ring + S::AREA;
		empty = full + RING * 8;
	}

	__device__ __forceinline__ bool cut() const
	{
		return tile >= a.whole;
	}

	__device__ __forceinline__ bool take_tile(uint32_t t)
	{
		const uint32_t stages = (a.chunks + KC - 1) / KC;
		const uint32_t rank = blockIdx.x % a.split;

		tile = t;
		token = tile % a.across * N;
		out = tile / a.across * S::BM;
		from = cut() ? rank * stages / a.split : 0;
		to = cut() ? (rank + 1) * stages / a.split : stages;
		return tile < a.tiles;
	}

	/* A block has whole tiles first, then at most one that is cut. */
	__device__ __forceinline__ bool first_tile()
	{
		return blockIdx.x < a.whole ? take_tile(blockIdx.x)
					    : cut_tile();
	}

	__device__ __forceinline__ bool cut_tile()
	{
		return take_tile(a.whole + blockIdx.x / a.split);
	}

	__device__ __forceinline__ bool next_tile()
	{
		if (cut())
			return false;
		return tile + gridDim.x < a.whole
			? take_tile(tile + gridDim.x) : cut_tile();
	}

	/* ---- the warp that feeds ---- */

	__device__ __forceinline__ void put_codes(uint32_t slot, uint32_t s) const
	{
		const uint32_t lane = threadIdx.x % 32, bar = full + slot * 8;
		const uint32_t at = ring + slot * S::STAGE + S::X;
		const uint32_t n = min((uint32_t)KC, a.chunks - s * KC);

		if (lane == 0)
			bar_expect(bar, S::X + S::STRIPS * n * 128 * BITS);
		if (lane < S::STRIPS) {
			/* behind the last strip: it once more */
			size_t strip = min(out / 16 + lane, a.strips - 1);

			bulk_copy(at + lane * KC * 128 * BITS,
				  a.word + (strip * a.chunks + s * KC) * 32 *
					  BITS,
				  n * 128 * BITS, bar);
		}
		/* 16 bytes are the pairs of 4 rows of a unit */
#pragma unroll
		for (int i = 0; i < (S::SCALE / 16 + 31) / 32; i++) {
			uint32_t e = i * 32 + lane, in = e % (S::US * 2);
			uint32_t strip = min(out / 16 + e / (S::US * 2),
					     a.strips - 1);
			uint32_t unit = s * KC * 64 / UNIT + in / 2;
			size_t pairs = ((size_t)strip * a.units + unit) * 8 +
				       in % 2 * 4;

			if (e >= S::SCALE / 16 || unit >= a.units)
				continue;
			copy_16(at + S::CODE + e * 16, a.scale + pairs);
			if (a.zero)
				copy_16(at + S::CODE + S::SCALE + e * 16,
					a.zero + pairs);
		}
		copy_arrive(bar);
	}

	/* The rows of a dense weight: [KC][BM][64], pieces of odd rows swapped
	 * by halves so that a warp reads two rows without conflicts. */
	__device__ __forceinline__ void put_dense(uint32_t slot, uint32_t s) const
	{
		const uint32_t self = threadIdx.x - W * 128;
		const uint32_t bar = full + slot * 8;
		const uint32_t at = ring + slot * S::STAGE + S::X;

		if (self == 0)
			bar_expect(bar, S::X);
#pragma unroll 4
		for (uint32_t e = self; e < KC * S::BM * 8; e += S::FEED) {
			uint32_t c = e / (S::BM * 8), r = e / 8 % S::BM;
			uint32_t piece = e % 8, k = min(s * KC + c, a.chunks - 1);

			copy_16(at + (e - piece + (piece ^ r % 2 * 4)) * 16,
				(const __half *)a.dense +
					min(out + r, a.n - 1) * a.ldw + k * 64 +
					piece * 8);
		}
		copy_arrive(bar);
	}

	__device__ __forceinline__ void put_w(uint32_t slot, uint32_t s) const
	{
		if constexpr (S::DENSE)
			put_dense(slot, s);
		else
			put_codes(slot, s);
	}

	__device__ __forceinline__ void put_x(uint32_t slot, uint32_t s) const
	{
		const uint32_t c = threadIdx.x - W * 128;

		/* a chunk that is not there counts nothing: finite will do */
		if (c < KC)
			bulk_copy(ring + slot * S::STAGE + c * N * 128,
				  a.x + ((size_t)min(s * KC + c, a.chunks - 1) *
					 a.rows + token) * 64,
				  N * 128, full + slot * 8);
	}

	__device__ __forceinline__ void feed()
	{
		uint32_t s, first;

		if (!first_tile())
			return;
		first = min(from + RING, to);
		/* packed weights are there before what runs before this ends */
		if (S::DENSE)
			cu_wait();
		for (s = from; s < first; s++)
			put_w(s - from, s);
		cu_wait();
		for (s = from; s < first; s++, forward())
			put_x(s - from, s);
		turn ^= 1; /* of a ring never filled: passes */
		do {
			for (; s < to; s++, forward()) {
				bar_wait(empty + slot * 8, turn);
				put_w(slot, s);
				put_x(slot, s);
			}
		} while (next_tile() && ((s = from), true));
	}

	__device__ __forceinline__ void forward()
	{
		if (++slot == RING)
			slot = 0, turn ^= 1;
	}

	/* ---- the warps that multiply ---- */

	/* The thread is done with the slot.  (One lane for a warp, behind its
	 * __syncwarp, would do, but racecheck cannot follow that.) */
	__device__ __forceinline__ void release(uint32_t slot) const
	{
		bar_arrive(empty + slot * 8);
	}

	/* A pair of scales, times 64, as f16. */
	__device__ __forceinline__ uint32_t scale_up(uint32_t s) const
	{
		if (!a.bf16)
			return as_u32(__hmul2(as_half2(s),
					      __float2half2_rn(QWG_UP)));
		float2 f = scales(s, 1);

		return as_u32(__floats2half2_rn(f.x * QWG_UP, f.y * QWG_UP));
	}

	/* Two of f16 from two of bf16. */
	static __device__ __forceinline__ uint32_t to_f16(uint32_t v)
	{
		return as_u32(__floats2half2_rn(
			__uint_as_float(v << 16),
			__uint_as_float(v & 0xffff0000)));
	}

	/* The same of a dense weight; `at` is where row g of the strip is.  A
	 * chunk that is not there counts nothing. */
	__device__ __forceinline__ void take(uint32_t out[16],
					     const uint8_t *at,
					     bool there) const
	{
		const uint32_t lane = threadIdx.x % 32, flip = lane / 4 % 2 * 4;

#pragma unroll
		for (uint32_t i = 0; i < 4; i++) {
			const uint32_t h = i / 2, row = i % 2;
			const uint4 v = *(const uint4 *)(at + row * 1024 +
				((h * 4 + lane % 4) ^ flip) * 16);
			uint32_t q[4] = { v.x, v.y, v.z, v.w };

#pragma unroll
			for (int k = 0; k < 4; k++) {
				if (BITS == QWG_BF16)
					q[k] = to_f16(q[k]);
				out[h * 8 + k / 2 * 4 + k % 2 * 2 + row] =
					there ? q[k] : 0;
			}
		}
	}

	/* The 16 registers of A of a chunk; `at` is where the strip's codes of
	 * it are, `sc` its pair of the first unit. */
	__device__ __forceinline__ void expand(uint32_t out[16],
					       const uint32_t *at,
					       const uint32_t *sc, int c,
					       bool there) const
	{
		const int lane = threadIdx.x % 32;
		const uint32_t mid = BITS == 2 ? 0x40004000
				   : BITS == 3 ? 0x44004400
				   : BITS == 4 ? 0x48004800 : 0x58005800;
		frag<BITS> f;

		if constexpr (BITS >= 4) {
#pragma unroll
			for (int i = 0; i < BITS / 4; i++) {
				uint4 v = ((const uint4 *)at)[i * 32 + lane];

				f.w[4 * i] = v.x;
				f.w[4 * i + 1] = v.y;
				f.w[4 * i + 2] = v.z;
				f.w[4 * i + 3] = v.w;
			}
		} else {
			uint2 v = ((const uint2 *)at)[lane];

			f.w[0] = v.x;
			f.w[1] = v.y;
			if constexpr (BITS == 3)
				f.w[2] = at[64 + lane];
		}
#pragma unroll
		for (int h = 0; h < 2; h++) {
			const int u = S::US == 1 ? 0 : 2 * c + h;
			uint32_t z = a.zero ? sc[S::SCALE / 4 + u * 8] : mid;
			uint32_t s = S::LATE ? 0 : scale_up(sc[u * 8]);

			if (!there)
				s = 0, z = mid;
			const zeros<BITS> off(z);
			const __half2 lo = __low2half2(as_half2(s));
			const __half2 hi = __high2half2(as_half2(s));
#pragma unroll
			for (int j = 0; j < 2; j++) {
				uint32_t *w = out + (2 * h + j) * 4;

				frag_expand<BITS>(f, 2 * h + j, off, w);
#pragma unroll
				for (int p = 0; p < 4 && !S::LATE; p++)
					w[p] = as_u32(__hmul2(as_half2(w[p]),
							      p % 2 ? hi : lo));
			}
		}
	}

	/* Registers of A of a chunk of the stage in this slot. */
	__device__ __forceinline__ void load_a(uint32_t w[16], uint32_t slot,
					       uint32_t s, int c) const
	{
		const uint32_t strip = threadIdx.x / 32;
		const uint32_t lane = threadIdx.x % 32;
		const uint8_t *at = base + slot * S::STAGE + S::X;
		const bool there = KC == 1 || s * KC + c < a.chunks;

		if constexpr (S::DENSE)
			take(w, at + (c * S::BM + strip * 16 + lane / 4) * 128,
			     there);
		else
			expand(w, (const uint32_t *)at +
				  (strip * KC + c) * 32 * BITS,
			       (const uint32_t *)(at + S::CODE) +
				  strip * S::US * 8 + lane / 4,
			       c, there);
	}

	static __device__ __forceinline__ void settle(float *d)
	{
		wgmma_wait<0>();
#pragma unroll
		for (int i = 0; i < N / 2; i++)
			asm volatile("" : "+f"(d[i]) :: "memory");
	}

	/* Start the products of a chunk of the stage at hand. */
	static __device__ __forceinline__ void start(float *d, const uint32_t *w,
						     uint64_t tile, bool add)
	{
		wgmma_fence();
#pragma unroll
		for (int j = 0; j < 4; j++)
			wgmma<N>::run(d, &w[j * 4], tile + j * 2, add || j > 0);
		wgmma_commit();
	}

	/* A stage, then its slot is free. */
	__device__ __forceinline__ void step(float *acc, uint32_t s) const
	{
		const uint64_t tile = wgmma_tile(ring + slot * S::STAGE);

#pragma unroll
		for (int c = 0; c < KC; c++) {
			uint32_t w[16];

			load_a(w, slot, s, c);
			start(acc, w, tile + c * N * 8, true);
			settle(acc);
		}
		release(slot);
	}

	/* The same where scales go onto the sums of a unit. */
	__device__ __forceinline__ void step_late(float *acc, uint32_t s) const
	{
		const uint64_t tile = wgmma_tile(ring + slot * S::STAGE);
		const uint32_t strip = threadIdx.x / 32;
		const float2 f = scales(((const uint32_t *)(base + slot * S::STAGE +
							    S::X + S::CODE))
						[strip * 8 + threadIdx.x % 32 / 4],
					a.bf16);
		uint32_t w[2][16];
		float u[N / 2];

#pragma unroll
		for (int c = 0; c < 2; c++)
			load_a(w[c], slot, s, c);
		wgmma_fence();
#pragma unroll
		for (int j = 0; j < 8; j++)
			wgmma<N>::run(u, &w[j / 4][j % 4 * 4],
				      tile + j / 4 * N * 8 + j % 4 * 2, j > 0);
		wgmma_commit();
		settle(u);
		release(slot);
#pragma unroll
		for (int i = 0; i < N / 2; i++)
			acc[i] += (i % 4 / 2 ? f.y : f.x) * u[i];
	}

	/* All stages, where a block has a multiprocessor for itself: f16 of one
	 * chunk is made while the tensor cores work on the chunk before it.  A slot
	 * is released when they are done with it, which is a chunk later. */
	__device__ __forceinline__ void steps(float *acc)
	{
		uint32_t w[2][16], last = 0;

		for (uint32_t s = from; s < to; s++, forward()) {
			const uint64_t tile = wgmma_tile(ring + slot * S::STAGE);

			bar_wait(full + slot * 8, turn);
			load_a(w[0], slot, s, 0);
			start(acc, w[0], tile, true);
			if (s > from) {
				wgmma_wait<1>(); /* w[1] is free */
				release(last);
			}
			load_a(w[1], slot, s, 1);
			start(acc, w[1], tile + N * 8, true);
			wgmma_wait<1>(); /* w[0] is free */
			last = slot;
		}
		settle(acc);
		release(last);
	}

	__device__ __forceinline__ void multiply(float *acc)
	{
#pragma unroll
		for (int i = 0; i < N / 2; i++)
			acc[i] = 0;
		if constexpr (KC == 2 && N >= 128) {
			steps(acc);
		} else {
			for (uint32_t s = from; s < to; s++, forward()) {
				bar_wait(full + slot * 8, turn);
				if constexpr (S::LATE)
					step_late(acc, s);
				else
					step(acc, s);
			}
		}
	}

	/* d is what a lane of a warp has for the i-th 8 tokens. */
	__device__ __forceinline__ void store(const float *d, uint32_t warp,
					      uint32_t lane, uint32_t i) const
	{
		const uint32_t r = token + i * 8 + lane % 4 * 2;
		const uint32_t c = out + warp * 16 + lane / 4;
		float *y = a.y + r * a.ldy + c;

		if (r < a.m && c < a.n)
			y[0] = d[0] * a.down;
		if (r + 1 < a.m && c < a.n)
			y[a.ldy] = d[1] * a.down;
		if (r < a.m && c + 8 < a.n)
			y[8] = d[2] * a.down;
		if (r + 1 < a.m && c + 8 < a.n)
			y[a.ldy + 8] = d[3] * a.down;
	}

	/* This block's sums, for all of the cluster. */
	__device__ __forceinline__ void leave(const float *acc) const
	{
		float4 *sums = (float4 *)base;
		const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;

		/* all warps are done with the ring */
		asm volatile("bar.sync 1, %0;" :: "n"(W * 128) : "memory");
#pragma unroll
		for (int i = 0; i < N / 8; i++)
			sums[(warp * (N / 8) + i) * 32 + lane] =
				make_float4(acc[i * 4], acc[i * 4 + 1],
					    acc[i * 4 + 2], acc[i * 4 + 3]);
	}

	/* A slice of the tile: what all blocks of the cluster have. */
	__device__ __forceinline__ void gather() const
	{
		const uint32_t rank = blockIdx.x % a.split;
		const uint32_t end = (rank + 1) * S::SUMS / a.split;

		for (uint32_t e = rank * S::SUMS / a.split + threadIdx.x; e < end;
		     e += W * 128) {
			float d[4] = {};

#pragma unroll 4
			for (uint32_t b = 0; b < a.split; b++) {
				float4 v = cluster_load(ring + e * 16, b);

				d[0] += v.x;
				d[1] += v.y;
				d[2] += v.z;
				d[3] += v.w;
			}
			store(d, e / 32 / (N / 8), e % 32, e / 32 % (N / 8));
		}
	}

	__device__ __forceinline__ void work()
	{
		float acc[N / 2];

		for (bool more = first_tile(); more; more = next_tile()) {
			multiply(acc);
			cu_wait(); /* y may be in use until then */
			if (cut()) {
				leave(acc);
				cluster_sync();
				gather();
				cluster_sync(); /* others may be reading here */
				return;
			}
#pragma unroll
			for (int i = 0; i < N / 8; i++)
				store(acc + i * 4, threadIdx.x / 32,
				      threadIdx.x % 32, i);
		}
	}
};

#endif /* WGMMA_HERE */

template <int BITS, int UNIT, int W, int N, int KC, int RING, int BLOCKS>
__global__ void
__launch_bounds__(qwg_shape<BITS, UNIT, W, N, KC, RING, BLOCKS>::THREADS,
		  BLOCKS)
qwgmma_kernel(const __grid_constant__ struct qwg_arg a)
{
#if WGMMA_HERE
	extern __shared__ __align__(1024) uint8_t raw[];
	typedef qwg_shape<BITS, UNIT, W, N, KC, RING, BLOCKS> S;
	qwg<BITS, UNIT, W, N, KC, RING, BLOCKS> q(a, raw);

	if (threadIdx.x == 0) {
		for (int i = 0; i < RING; i++) {
			/* one that tells the bytes, and all that copy */
			bar_init(q.full + i * 8, 1 + S::FEED);
			bar_init(q.empty + i * 8, W * 128);
		}
		bar_init_done();
	}
	__syncthreads();
	cu_next();
	if (threadIdx.x >= W * 128) {
		if constexpr (S::REGS > 0)
			asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;"
				     :: "n"(40));
		if (threadIdx.x < W * 128 + S::FEED)
			q.feed();
		if (q.cut_tile()) {
			cluster_sync();
			cluster_sync();
		}
	} else {
		if constexpr (S::REGS > 0)
			asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;"
				     :: "n"(S::REGS));
		q.work();
	}
#endif
}

#endif
