/* qgemv.cu (ladder) - quantized products of up to 16 rows on sm_90: the ring, its
 * stages and how many blocks share a multiprocessor, beside the pure read.
 *
 *	make ladder CUDA_ARCHS=90a && build/ladder/qgemv [rows ...]
 *
 * Versions, and the four linears together in us on an H200 (1 December 2026),
 * launch by launch / as graphs:
 *
 *	rows                                         1         4         8        16
 *	pure read, which no launch waits for      24 / 23
 *	0 mma of f16, weights straight to
 *	  registers                               50 / 49   52 / 50   53 / 51
 *	1 mma of bytes, a ring of stages of a
 *	  strip, x stays in shared memory         37 / 33   40 / 38   52 / 52
 *	2 x comes with the stages; all strips
 *	  of a block at once, 2 to 16 units       40 / 36   40 / 37   53 / 51   65 / 64
 *	3 2, two strips at a time, 16 units
 *	  (4 strips and 8 units from 5 rows on)   38 / 33   38 / 34   48 / 46   61 / 59
 *	4 3, with 8 warps from 5 rows on                              47 / 44   75 / 73
 *
 * Less shared memory (75 KiB, three blocks on a multiprocessor) costs a sixth, and
 * so do stages of fewer units of more strips: memory likes runs of 16 KiB. */
#include "../cuda/qbyte.cuh"

#include "harness.cuh"

/* ---- the versions ---- */

static void to_planes(struct job *j)
{
	must(cu_planes(j->be, &j->x, NULL,
		       { j->x16, { j->m, j->in, 0, 1 } }, &err));
}

static int by_mma(struct job *j, struct be_qw *w)
{
	struct qmma_arg a = { w->word, w->scale, w->zero, j->x16,
			      (float *)j->y.p, j->in, j->y.ld, j->m, j->out,
			      w->strips, w->chunks, w->units, w->bf16, 4 };

	return cu_qgemv(j->be, &a, w->unit, &err);
}

template <int NT, int W, int BLOCKS, int ROUND, int KIB>
static int by_bytes(struct job *j, struct be_qw *w)
{
	struct qbyte_arg a = {};

	a.word = w->word;
	a.scale = w->scale;
	a.zero = w->zero;
	a.x = (const char *)j->x16;
	a.y = (float *)j->y.p;
	a.ldy = j->y.ld;
	a.m = j->m;
	a.n = j->out;
	a.strips = w->strips;
	a.units = j->in / 128;
	a.bf16 = w->bf16;
	return qb_run<4, 128, NT, W, BLOCKS>(j->be, &a, ROUND,
						KIB << 10, &err);
}

__global__ void __launch_bounds__(512)
read_kernel(const uint4 *p, size_t n, float *y)
{
	const size_t step = gridDim.x * 512ul;
	uint32_t v = 0;

	cu_next();
	for (size_t i = blockIdx.x * 512ul + threadIdx.x; i < n; i += step * 4) {
#pragma unroll
		for (int u = 0; u < 4; u++)
			if (i + u * step < n) {
				uint4 q = __ldcs(p + i + u * step);

				v ^= q.x ^ q.y ^ q.z ^ q.w;
			}
	}
	cu_wait();
	if (v == 0x12345)
		y[0] = 1;
}

static int read(struct job *j, struct be_qw *w)
{
	size_t n = (size_t)j->out * j->in * 33 / 64 / 16;

	return cu_launch(j->be, "read", { dim3(132 * 4), dim3(512), 0, 0 },
			 &err, read_kernel, (const uint4 *)w->word, n,
			 (float *)j->x16);
}

#define BYTES(NT, W, BLOCKS, ROUND, KIB, FROM, TO)                              \
	{ "bytes, " #NT " tiles, " #W " warps x" #BLOCKS ", " #ROUND          \
	  " units, " #KIB " KiB",                                             \
	  by_bytes<NT, W, BLOCKS, ROUND, KIB>, to_planes, FROM, TO }

static const struct version versions[] = {
	{ "read (wrong by nature)", read, NULL, 1, 1 },
	{ "product", product, NULL, 1, 16 },
	{ "mma", by_mma, to_half, 1, 8 },
	BYTES(1, 16, 2, 16, 113, 1, 4),
	BYTES(1, 16, 2, 8, 113, 1, 4),
	BYTES(1, 16, 2, 4, 113, 1, 4),
	BYTES(1, 16, 2, 16, 75, 1, 4),
	BYTES(1, 8, 2, 8, 113, 1, 4),
	BYTES(1, 8, 3, 8, 75, 1, 4),
	BYTES(2, 16, 1, 8, 226, 5, 8),
	BYTES(2, 16, 1, 4, 226, 5, 8),
	BYTES(2, 8, 2, 8, 113, 5, 8),
	BYTES(2, 8, 2, 4, 113, 5, 8),
	BYTES(4, 16, 1, 8, 226, 9, 16),
	BYTES(4, 8, 2, 8, 113, 9, 16),
	BYTES(4, 8, 2, 4, 113, 9, 16),
	BYTES(4, 8, 1, 8, 226, 9, 16),
};

int main(int argc, char **argv)
{
	static const uint32_t rows[] = { 1, 2, 4, 8, 16 };

	return ladder(argc, argv, versions, rows);
}
