/* qgemm.cu (ladder) - quantized products of 9 rows and more on sm_90a: tiles,
 * rings and clusters of one kernel side by side, and cuBLAS on the same weight
 * in f16.
 *
 *	make ladder CUDA_ARCHS=90a && build/ladder/qgemm [rows ...]
 *
 * Versions, and the four linears together in us on an H200 (30 November 2026,
 * each measured beside cuBLAS):
 *
 *	rows                                      16   32   64  128  256  512 2048
 *	cuBLAS, weight in f16, y in f32          114  117  119  127  168  293 1120
 *	                                                              to 1228
 *	0 mma, from 97 rows dequantize + cuBLAS   65   89  177  263  291  417 1303
 *	1 wgmma, weights in registers; blocks
 *	  stay, inputs cut evenly among them;
 *	  the last adds what others left          82   86  108  164  200  332 1244
 *	2 the same, two blocks share x through
 *	  multicast                                       124            370 1466
 *	3 the same as 1, all of a tile's blocks
 *	  add a slice                             77   82   99  167  241  422 1314
 *	4 3, scales onto the sums, 9 to 32 rows   68   75
 *	5 a block per tile or part of it, parts
 *	  meet in a cluster's shared memory       62   77  101  141  222  323 1245
 *	6 5, but blocks with a multiprocessor for
 *	  themselves stay and take tiles in turn;
 *	  the last tiles are cut                                      314 1245
 *	7 6, blocks of one warpgroup, except for
 *	  17 to 32 rows                           57        87
 *
 * (Launch by launch 6 takes 316 and 1142 beside 296 and 1236 of cuBLAS.)
 *
 * Where version 3 spends its time, by leaving parts out (16 / 64 / 512 / 2048
 * rows): without the sums' way to y 55 / 72 / 266 / 1149, without the
 * arithmetic on codes besides 41 / 58 / 252 / 1073, copies alone 34 / 43 / 155
 * / 656.
 *
 * Tried with 5: 128 tokens and two blocks on a multiprocessor, one of the
 * multiplying warps feeding (1893 at 2048 rows); 4 warpgroups with 64 or 128
 * tokens (117 at 64 rows, 183 at 128); stages of one chunk (a sixth slower);
 * clusters of 4 where a block fills a multiprocessor (they do not all find a
 * place at once: 503 at 512 rows against 364 with pairs).
 *
 * Tried with 7: codes made f16 while the chunk before is multiplied.  It gains a
 * little from 65 rows on, nothing at 64, and costs a sixth at 16, where registers
 * do not suffice (67); three warpgroups for 64 rows (20 instead of 19 us for 12288
 * outputs); mma of bytes (qgemv.cu) for 16 rows: 59. */
#include "../cuda/qwgmma_run.cuh"

#include "harness.cuh"

/* ---- the versions ---- */

__global__ void order_kernel(const float *x, struct cu_x16_form form,
			     __half *to)
{
	uint32_t c = blockIdx.x * 256 + threadIdx.x;

	if (c < form.k)
		for (uint32_t r = blockIdx.y; r < form.m; r += gridDim.y)
			to[x16_at(form, r, c)] =
				cu_half(x[(size_t)r * form.k + c]);
}

static void order(struct job *j, struct cu_x16_form form)
{
	order_kernel<<<dim3(cu_div_up(j->in, 256), j->m), 256, 0,
		       j->be->stream>>>((float *)j->x.p, form, j->x16);
}

/* x16 for tiles of N tokens. */
template <int N> static void for_wgmma(struct job *j)
{
	order(j, { j->m, j->in, cu_div_up(j->m, N) * N, 0 });
}

static void for_mma(struct job *j)
{
	order(j, { j->m, j->in, 0, 0 });
}

template <int BITS, int W, int N, int KC, int RING, int BLOCKS>
static int wg(struct job *j, struct be_qw *w)
{
	struct qwg_arg a = {};

	a.word = w->word;
	a.scale = w->scale;
	a.zero = w->zero;
	a.x = j->x16;
	a.y = (float *)j->y.p;
	a.ldy = j->y.ld;
	a.m = j->m;
	a.n = j->out;
	a.rows = cu_div_up(a.m, N) * N;
	a.strips = w->strips;
	a.chunks = w->chunks;
	a.units = w->units;
	a.bf16 = w->bf16;
	return qwg_run<BITS, 128, W, N, KC, RING, BLOCKS>(j->be, &a, &err);
}

static int by_mma(struct job *j, struct be_qw *w)
{
	struct qmma_arg a = { w->word, w->scale, w->zero, j->x16,
			      (float *)j->y.p, j->in, j->y.ld, j->m, j->out,
			      w->strips, w->chunks, w->units, w->bf16, 4 };

	return cu_qgemm_few(j->be, &a, w->unit, &err);
}

static int blas(struct job *j, struct be_qw *w)
{
	/* as many dense weights as there are copies of a quarter */
	size_t at = (size_t)(j->next++ % (1 + j->copies / 4)) * j->out * j->in;

	(void)w;
	return cu_gemm_f16(j->be, j->x16, j->dense + at, &j->y, j->in, &err);
}

#define WG(W, N, KC, RING, BLOCKS, FROM, TO)                                  \
	{ "wgmma " #W " by " #N " chunks " #KC " ring " #RING " x" #BLOCKS,   \
	  wg<4, W, N, KC, RING, BLOCKS>, for_wgmma<N>, FROM, TO }

static const struct version versions[] = {
	{ "product", product, NULL, 9, 1u << 20 },
	{ "cuBLAS f16", blas, to_half, 9, 1u << 20 },
	{ "mma", by_mma, for_mma, 9, 64 },
	WG(2, 16, 2, 5, 3, 9, 16),
	WG(1, 16, 2, 8, 4, 9, 16),
	WG(2, 32, 2, 4, 3, 17, 32),
	WG(2, 32, 2, 6, 2, 17, 32),
	WG(2, 64, 2, 4, 2, 33, 64),
	WG(1, 64, 2, 3, 4, 33, 64),
	WG(3, 64, 2, 7, 1, 33, 64),
	WG(2, 128, 2, 5, 1, 65, 256),
	WG(2, 256, 2, 3, 1, 129, 2048),
};

int main(int argc, char **argv)
{
	static const uint32_t rows[] = { 16, 32, 64, 128, 256, 512, 2048 };

	return ladder(argc, argv, versions, rows);
}
