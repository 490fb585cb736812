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

/* Where several blocks share a multiprocessor, each has one tile or part of one:
 * as many parts as run at once, a tenth left to the next kernel, whose start is
 * hidden there. */
static inline void qwg_cut_all(struct qwg_arg *a, uint32_t blocks)
{
	const uint32_t slots = QWG_SMS * blocks * 9 / 10;

	a->split = 1;
	while (a->split < 8 && a->tiles * a->split * 2 <= slots &&
	       a->split * 8 <= a->chunks)
		a->split *= 2;
	a->whole = a->split > 1 ? 0 : a->tiles;
}

/* A block that has a multiprocessor for itself has tiles in turn.  The last ones
 * are cut in two where that many find a place at once; clusters of more do
 * not. */
static inline void qwg_cut_last(struct qwg_arg *a)
{
	const uint32_t last = a->tiles % QWG_SMS;
	const bool cut = last && last <= QWG_SMS / 2 && a->chunks >= 8;

	a->split = cut ? 2 : 1;
	a->whole = cut ? a->tiles - last : a->tiles;
}

template <int BITS, int UNIT, int W, int N, int KC, int RING, int BLOCKS>
static int qwg_run(struct be *be, struct qwg_arg *a, struct err *err)
{
	typedef qwg_shape<BITS, UNIT, W, N, KC, RING, BLOCKS> S;
	uint32_t grid;

	if (!S::DENSE)
		a->down = S::LATE ? 1 : 1 / QWG_UP;
	a->across = cu_div_up(a->m, N);
	a->tiles = a->across * cu_div_up(a->n, S::BM);
	if (BLOCKS > 1)
		qwg_cut_all(a, BLOCKS);
	else
		qwg_cut_last(a);
	grid = a->whole + (a->tiles - a->whole) * a->split;
	if (BLOCKS == 1)
		grid = grid < QWG_SMS ? grid : QWG_SMS;
	return cu_launch(be, "qgemm",
			 { dim3(grid), dim3(S::THREADS),
			   (size_t)S::SMEM, a->split > 1 ? a->split : 0 },
			 err, qwgmma_kernel<BITS, UNIT, W, N, KC, RING, BLOCKS>,
			 *a);
}

/* The kernel for W warpgroups, N tokens, stages of KC chunks, made and cut for
 * BLOCKS blocks on a multiprocessor, with a ring that lets SHARE of them in. */
template <int BITS, int UNIT, int W, int N, int KC, int BLOCKS, int SHARE = BLOCKS>
static int qwg_fit(struct be *be, struct qwg_arg *a, struct err *err)
{
	constexpr int STAGE =
		qwg_shape<BITS, UNIT, W, N, KC, 1, BLOCKS>::STAGE;

	return qwg_run<BITS, UNIT, W, N, KC, qwg_ring(STAGE, SHARE, 8),
		       BLOCKS>(be, a, err);
}

template <int BITS, int UNIT>
static int qwg_rows(struct be *be, struct qwg_arg *a, struct err *err)
{
	if (a->m <= 16)
		return qwg_fit<BITS, UNIT, 1, 16, 2, 4, 3>(be, a, err);
	if (a->m <= 32)
		return qwg_fit<BITS, UNIT, 2, 32, 2, 3>(be, a, err);
	if (a->m <= 64)
		return qwg_fit<BITS, UNIT, 1, 64, 2, 4, 3>(be, a, err);
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
