/* qwgmma_run.cuh - the kernel of qwgmma.cuh, launched: tiles by the number of
 * rows, and how many blocks share the inputs of a tile.  Measured in
 * kernels/ladder/qgemm.cu. */
#ifndef KERNELS_CUDA_QWGMMA_RUN_CUH
#define KERNELS_CUDA_QWGMMA_RUN_CUH

#include "qwgmma.cuh"

/* Stages that fit where BLOCKS blocks share a multiprocessor: of its 228 KiB
 * each block costs one more, and one is for the alignment. */
constexpr int qwg_ring(int stage, int blocks, int most)
{
	int fit = (228 * 1024 / blocks - 2048) / (stage + 16);

	return fit > most ? most : fit;
}

/* Multiprocessors the work is cut for, whatever there are. */
#define QWG_SMS 132u

/* How many blocks share the inputs of a tile: as many as run at once.  Where
 * several share a multiprocessor, a tenth is left to the next kernel, whose
 * start is hidden there; of those that have one for themselves, larger
 * clusters than pairs do not all find a place at once. */
static inline uint32_t qwg_split(uint32_t tiles, uint32_t chunks,
				 uint32_t blocks)
{
	uint32_t slots = blocks > 1 ? QWG_SMS * blocks * 9 / 10 : QWG_SMS;
	uint32_t c = 1, most = blocks > 1 ? 8 : 2;

	while (c < most && tiles * c * 2 <= slots && c * 8 <= chunks)
		c *= 2;
	return c;
}

template <int BITS, int UNIT, int W, int N, int KC, int RING, int BLOCKS>
static int qwg_run(struct be *be, struct qwg_arg *a, struct err *err)
{
	typedef qwg_shape<BITS, UNIT, W, N, KC, RING, BLOCKS> S;
	uint32_t tiles;

	if (!S::DENSE)
		a->down = S::LATE ? 1 : 1 / QWG_UP;
	a->across = cu_div_up(a->m, N);
	tiles = a->across * cu_div_up(a->n, S::BM);
	if (!a->split)
		a->split = qwg_split(tiles, a->chunks, BLOCKS);
	return cu_launch(be, "qgemm",
			 { dim3(tiles * a->split), dim3(S::THREADS),
			   (size_t)S::SMEM, a->split > 1 ? a->split : 0 },
			 err, qwgmma_kernel<BITS, UNIT, W, N, KC, RING, BLOCKS>,
			 *a);
}

/* The kernel for W warpgroups, N tokens, stages of KC chunks. */
template <int BITS, int UNIT, int W, int N, int KC, int BLOCKS>
static int qwg_fit(struct be *be, struct qwg_arg *a, struct err *err)
{
	constexpr int STAGE =
		qwg_shape<BITS, UNIT, W, N, KC, 1, BLOCKS>::STAGE;

	return qwg_run<BITS, UNIT, W, N, KC, qwg_ring(STAGE, BLOCKS, 8),
		       BLOCKS>(be, a, err);
}

template <int BITS, int UNIT>
static int qwg_rows(struct be *be, struct qwg_arg *a, struct err *err)
{
	if (a->m <= 16)
		return qwg_fit<BITS, UNIT, 2, 16, 2, 3>(be, a, err);
	if (a->m <= 32)
		return qwg_fit<BITS, UNIT, 2, 32, 2, 3>(be, a, err);
	if (a->m <= 64)
		return qwg_fit<BITS, UNIT, 2, 64, 2, 2>(be, a, err);
	if (a->m <= 128)
		return qwg_fit<BITS, UNIT, 2, 128, 2, 1>(be, a, err);
	return qwg_fit<BITS, UNIT, 2, 256, 2, 1>(be, a, err);
}

/* A file for each width, as each takes its time to compile. */
int cu_qwg_b2(struct be *, struct qwg_arg *, uint32_t unit, struct err *);
int cu_qwg_b3(struct be *, struct qwg_arg *, uint32_t unit, struct err *);
int cu_qwg_b4(struct be *, struct qwg_arg *, uint32_t unit, struct err *);
int cu_qwg_b8(struct be *, struct qwg_arg *, uint32_t unit, struct err *);

#define QWG_WIDTH(BITS)                                                       \
	int cu_qwg_b##BITS(struct be *be, struct qwg_arg *a, uint32_t unit,   \
			   struct err *err)                                   \
	{                                                                     \
		return unit == 128 ? qwg_rows<BITS, 128>(be, a, err)          \
				   : qwg_rows<BITS, 32>(be, a, err);          \
	}

#endif
