/* qgemm16.c - products with quantized weights in whole numbers: x is made
 * 16-bit numbers once, then few rows of it meet codes where they stand, and
 * many rows pieces of the weight that are spread out.  See q16.inc. */
#include "../../libfmt/base/err.h"
#include "cpu.h"

#include <string.h>

#define MOST_ROWS 512      /* of x at a time */
#define FEW 32             /* rows for which codes are taken apart each time */
#define FEW_X 262144       /* and numbers of theirs: half of the second level of
			      cache */
#define PIECE_PAIRS 512    /* of a row of w that is spread out at a time: with
			      32 rows in the second level of cache */
/* Between rows of x16, so that they do not fall on the same cache sets. */
#define GAP 32

struct job16 {
	const struct be *be;
	const struct be_qw *w;
	struct be_mat x, y;
	int16_t *x16;  /* [m][slots], ld apart */
	size_t ld;
	float *scale;  /* [m][words] */
	float *sum;    /* [m][groups] */
	uint32_t words, pairs; /* words of a row, pairs of a word */
};

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static int is_few(const struct be_qw *w, uint32_t m)
{
	return m <= FEW && (size_t)m * w->slots <= FEW_X;
}

static void halves_tile(void *ctx, uint32_t r, uint32_t self)
{
	const struct job16 *j = ctx;
	struct cpu_halves h = {
		.w = j->w, .x = (const float *)j->x.p + (size_t)r * j->x.ld,
		.out = j->x16 + r * j->ld,
		.scale = j->scale + (size_t)r * j->words,
		.sum = j->sum + (size_t)r * j->w->groups,
	};

	(void)self;
	j->be->isa->halves(&h);
}

static void few_tile(void *ctx, uint32_t tile, uint32_t self)
{
	const struct job16 *j = ctx;
	uint32_t step = cpu_rows_per_tile(j->w->slots);
	struct cpu_qdot q = {
		.w = j->w, .row = tile * step,
		.rows = least(step, j->w->out - tile * step), .m = j->x.rows,
		.x16 = j->x16, .x_ld = j->ld, .xscale = j->scale,
		.xsum = j->sum, .y = j->y.p, .y_ld = j->y.ld,
		.grid = cpu_own(j->be, self),
	};

	j->be->isa->qdot16(&q);
}

/* ---- many rows ---- */

/* One thread's 32 rows of w. */
struct strip {
	const struct job16 *j;
	uint32_t row, rows;
	uint32_t *spread, *piece; /* [32][PIECE_PAIRS], and turned */
	float *scale, *zero;      /* [groups][32] */
	float *grid;              /* [2][groups] */
};

/* Floats of scratch for a strip. */
static size_t strip_size(const struct be_qw *w)
{
	return 2 * CPU_WIDE16 * (size_t)PIECE_PAIRS +
	       2 * (size_t)w->groups * (CPU_WIDE16 + 1);
}

static void strip_init(struct strip *s, const struct job16 *j, uint32_t tile,
		       void *mem)
{
	s->j = j;
	s->row = tile * CPU_WIDE16;
	s->rows = least(CPU_WIDE16, j->w->out - s->row);
	s->spread = mem;
	s->piece = s->spread + CPU_WIDE16 * PIECE_PAIRS;
	s->scale = (float *)(s->piece + CPU_WIDE16 * PIECE_PAIRS);
	s->zero = s->scale + (size_t)j->w->groups * CPU_WIDE16;
	s->grid = s->zero + (size_t)j->w->groups * CPU_WIDE16;
}

/* Scales and what sums of x are taken off with, by group; rows that are not
 * there have scale 0. */
static void strip_grid(const struct strip *s)
{
	const struct be_qw *w = s->j->w;
	const size_t elem = be_elem(w->grid_type);
	float *scale = s->grid, *zero = s->grid + w->groups;

	memset(s->scale, 0, 2 * (size_t)w->groups * CPU_WIDE16 *
	       sizeof(*s->scale));
	for (uint32_t r = 0; r < s->rows; r++) {
		size_t at = (size_t)(s->row + r) * w->groups * elem;

		s->j->be->isa->widen(w->grid_type, (const char *)w->scale + at,
				     scale, w->groups);
		s->j->be->isa->widen(w->grid_type, (const char *)w->zero + at,
				     zero, w->groups);
		for (uint32_t g = 0; g < w->groups; g++) {
			s->scale[g * CPU_WIDE16 + r] = scale[g];
			s->zero[g * CPU_WIDE16 + r] = w->kind == QL_OFFSET ?
				zero[g] : zero[g] * scale[g];
		}
	}
}

/* Words of all rows as pairs that stand side by side.  Rows behind the last
 * keep what was there: their scale is 0. */
static void strip_piece(const struct strip *s, const struct cpu_wide16 *q)
{
	const uint32_t pairs = q->words * s->j->pairs;
	/* moved as they are: bits of floats that are never read as such */
	const struct be_mat m = { s->spread, CPU_WIDE16, pairs, PIECE_PAIRS,
				  DT_F32 };

	for (uint32_t r = 0; r < s->rows; r++)
		s->j->be->isa->spread(q, s->row + r,
				      s->spread + (size_t)r * PIECE_PAIRS);
	s->j->be->isa->turn(&m, (float *)s->piece, CPU_WIDE16);
}

static void wide_tile(void *ctx, uint32_t tile, uint32_t self)
{
	const struct job16 *j = ctx;
	const uint32_t per_group = j->words / j->w->groups;
	const uint32_t step = PIECE_PAIRS / j->pairs;
	float scale[PIECE_PAIRS / CPU_LANES / 2 * CPU_WIDE16];
	struct strip s;
	struct cpu_wide16 q = {
		.w = j->w, .scale = scale, .x16 = j->x16, .x_ld = j->ld,
		.xscale = j->scale, .xscale_ld = j->words, .y_ld = j->y.ld,
		.m = j->x.rows,
	};

	strip_init(&s, j, tile, cpu_own(j->be, self));
	strip_grid(&s);
	q.piece = s.piece;
	q.n = s.rows;
	q.y = (float *)j->y.p + s.row;
	q.zero = s.zero;
	q.sum = j->sum;
	j->be->isa->zeros16(&q);
	for (; q.word0 < j->words; q.word0 += q.words) {
		q.words = least(step, j->words - q.word0);
		strip_piece(&s, &q);
		for (uint32_t i = 0; i < q.words; i++)
			memcpy(scale + i * CPU_WIDE16, s.scale +
			       (q.word0 + i) / per_group * CPU_WIDE16,
			       CPU_WIDE16 * sizeof(*scale));
		j->be->isa->wide16(&q);
	}
}

/* ---- all of it ---- */

int cpu_qgemm16(struct be *be, const struct be_mat *x, const struct be_qw *w,
		struct be_mat *y, struct err *err)
{
	const uint32_t most = least(x->rows, MOST_ROWS);
	const uint32_t step = cpu_rows_per_tile(w->slots);
	struct job16 j = { .be = be, .w = w, .ld = w->slots + GAP };
	size_t own, each;

	j.pairs = cpu_word16_steps(w->bits) / 2 * CPU_LANES;
	j.words = w->slots / 2 / j.pairs;
	each = j.ld * sizeof(int16_t) +
	       ((size_t)j.words + w->groups) * sizeof(float);
	own = CPU_ROWS * ((size_t)2 * w->groups + j.words);
	/* (the last of many rows may be few) */
	if (!is_few(w, most) && own < strip_size(w))
		own = strip_size(w);
	if (cpu_scratch(be, own * sizeof(float), most * each, err))
		return -1;
	for (uint32_t r = 0, n; r < x->rows; r += n) {
		n = least(MOST_ROWS, x->rows - r);
		j.x = be_rows(x, r, n);
		j.y = be_rows(y, r, n);
		j.x16 = (int16_t *)(void *)be->all_mem;
		j.scale = (float *)(void *)(j.x16 + n * j.ld);
		j.sum = j.scale + (size_t)n * j.words;
		tile_run(be->pool, cpu_threads(be, (uint64_t)n * w->slots), n,
			 halves_tile, &j);
		if (is_few(w, n))
			cpu_run(be, (w->out - 1) / step + 1, few_tile, &j);
		else
			cpu_run(be, (w->out - 1) / CPU_WIDE16 + 1, wide_tile,
				&j);
	}
	return 0;
}
