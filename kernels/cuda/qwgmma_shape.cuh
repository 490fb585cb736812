/* qwgmma_shape.cuh - what the kernel of qwgmma.cuh is told, and what its tiles and
 * stages take. */
#ifndef KERNELS_CUDA_QWGMMA_SHAPE_CUH
#define KERNELS_CUDA_QWGMMA_SHAPE_CUH

#include "qw.cuh"

#define QWG_UP 64.f

/* In place of the bits of a code: a dense weight. */
enum { QWG_F16 = 16, QWG_BF16 = 17 };

struct qwg_arg {
	const uint32_t *word, *scale, *zero;
	const void *dense;/* or a weight of 16 bits [n], rows ldw apart */
	size_t ldw;
	const __half *x;  /* [chunks][rows][64] */
	float *y;         /* [m][n], rows ldy apart */
	size_t ldy;
	uint32_t m, n, rows, strips, chunks, units;
	uint32_t across;  /* tiles of tokens */
	uint32_t tiles, whole; /* tiles; the first ones, which are not cut */
	uint32_t split;   /* blocks of a cluster */
	float down;       /* what sums are times */
	int bf16;         /* scales */
};

/* Do scales go onto the sums of a stage? */
constexpr bool qwg_late(int bits, int unit, int n, int kc)
{
	return bits < QWG_F16 && unit == 128 && kc == 2 && n <= 32;
}

/* What a block needs, in bytes. */
template <int BITS, int UNIT, int W, int N, int KC, int RING, int BLOCKS>
struct qwg_shape {
	static constexpr int STRIPS = W * 4, BM = STRIPS * 16;
	/* units of a stage; of a longer one a stage is a half */
	static constexpr int US = KC * 64 >= UNIT ? KC * 64 / UNIT : 1;
	static constexpr int X = KC * N * 128;
	static constexpr int DENSE = BITS >= QWG_F16;
	static constexpr int CODE = STRIPS * KC * 128 * (DENSE ? 16 : BITS);
	static constexpr int SCALE = DENSE ? 0 : STRIPS * US * 32;
	static constexpr int STAGE = (X + CODE + 2 * SCALE + 1023) / 1024 *
				     1024;
	static constexpr int LATE = qwg_late(BITS, UNIT, N, KC);
	/* Registers of those that multiply, where they need more than an even
	 * share: the feeding warpgroup, then whole, gives its own. */
	static constexpr int REGS = N < 128 ? 0 : 232;
	static constexpr int THREADS = W * 128 + (REGS ? 128 : 32);
	/* threads that feed */
	static constexpr int FEED = REGS && DENSE ? 128 : 32;
	/* float4 of a tile's sums, which take the ring's place */
	static constexpr uint32_t SUMS = W * 128 * N / 8;
	static constexpr int AREA = RING * STAGE > (int)SUMS * 16
		? RING * STAGE : (int)SUMS * 16;
	static constexpr int SMEM = AREA + RING * 16 + 1024;
};

#endif
