/* attend.c - causal attention, with the softmax taken as the keys pass by.
 *
 * A tile is one key/value head with the query heads that read it, and a run of
 * tokens: up to ROWS query rows in all.  Keys pass in chunks; of each row the
 * largest score so far, the sum of exponentials and the weighted sum of values
 * are kept, and rescaled when a larger score comes (M. Milakov, N. Gimelshein,
 * "Online normalizer calculation for softmax", 2018, arXiv:1805.02867).
 *
 * When there is only one run of tokens (decoding) the positions are cut into
 * pieces that are merged in order, so that a long context keeps all threads
 * busy.  Tokens of several sequences are a run each, cut in the same way: a
 * sequence gets the bits it gets alone.  All cuts depend on the shape alone. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../shape.h"
#include "cache.h"
#include "cpu.h"

#include <math.h>
#include <string.h>

#define ROWS 96    /* query rows per tile */
#define CHUNK 256  /* positions at a time */
#define PIECE 1024 /* positions per piece */

struct job {
	const struct be *be;
	const struct be_attend *a;
	uint32_t rep;    /* query heads per key/value head */
	uint32_t tokens; /* per tile */
	uint32_t pieces;
	size_t state;    /* floats of a tile's result */
};

/* What a tile knows of its rows; row = token * rep + head. */
struct state {
	float *top, *sum; /* [rows] */
	float *out;       /* [rows][head_dim], not yet divided by sum */
};

struct tile {
	uint32_t kv, t0, tokens, rows; /* head, first token; rows in all */
	uint32_t base, pos;            /* of the first token (be_at) */
	uint32_t s0, s1;               /* positions */
	struct state st;
	float *q;      /* [rows][head_dim], scaled */
	float *wide;   /* [CHUNK][head_dim], of a cache that is not F32 */
	float *scores; /* [rows][CHUNK] */
	float *turned; /* [head_dim][CHUNK] */
};

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static struct state state_at(const struct job *j, float *mem)
{
	size_t rows = (size_t)j->tokens * j->rep;

	return (struct state){ mem, mem + rows, mem + 2 * rows };
}

/* Query rows side by side, times the scale. */
static void load_queries(const struct job *j, const struct tile *t)
{
	const struct be_attend *a = j->a;
	const size_t width = (size_t)j->rep * a->head_dim;

	for (uint32_t i = 0; i < t->tokens; i++) {
		const float *q = (const float *)a->q->p +
				 (t->t0 + i) * (size_t)a->q->ld +
				 t->kv * width;

		memcpy(t->q + i * width, q, width * sizeof(*q));
	}
	for (uint32_t r = 0; r < t->rows; r++)
		j->be->isa->scale(t->q + (size_t)r * a->head_dim, a->head_dim,
				  a->scale);
}

/* Positions s..s+n of the tile's head in one half of the cache. */
static struct be_mat positions(const struct job *j, const struct tile *t,
			       const struct be_mat *half, const uint32_t at[2])
{
	struct be_mat m = be_rows(half, t->base + at[0], at[1]);

	return be_cols(&m, t->kv * j->a->head_dim, j->a->head_dim);
}

/* The same as F32, in t->wide when they are not. */
static struct be_mat widened(const struct job *j, const struct tile *t,
			     const struct be_mat *half, const uint32_t at[2])
{
	const uint32_t d = j->a->head_dim;
	const struct be_mat m = positions(j, t, half, at);
	const struct be_mat *scale = half == &j->a->kv->k
					     ? &j->a->kv->k_scale
					     : &j->a->kv->v_scale;
	struct be_mat s;

	if (m.type == DT_F32)
		return m;
	s = be_rows(scale, t->base + at[0], at[1]);
	for (uint32_t i = 0; i < m.rows; i++) {
		float *row = t->wide + (size_t)i * d;
		struct be_mat from = be_rows(&m, i, 1);

		if (m.type == DT_F16) {
			j->be->isa->widen(DT_F16, from.p, row, d);
			continue;
		}
		j->be->isa->decode(from.p, row, d, half_to_f32(
			((const uint16_t *)s.p)[(size_t)i * s.ld + t->kv]));
	}
	return (struct be_mat){ t->wide, m.rows, d, d, DT_F32 };
}

/* Few query rows: keys and values are read as they stand, and of an I8 cache
 * the scales go onto scores and weights. */
static int is_few(const struct tile *t)
{
	return t->rows <= CPU_FEW;
}

/* scores *= the scales of positions at[0]..+at[1]. */
static void apply_scales(const struct job *j, const struct tile *t,
			 const struct be_mat *scale, const uint32_t at[2])
{
	const struct be_mat s = be_rows(scale, t->base + at[0], at[1]);
	const uint16_t *from = (const uint16_t *)s.p + t->kv;
	uint16_t half[CHUNK];
	float wide[CHUNK];

	for (uint32_t i = 0; i < at[1]; i++)
		half[i] = from[(size_t)i * s.ld];
	j->be->isa->widen(DT_F16, half, wide, at[1]);
	for (uint32_t r = 0; r < t->rows; r++) {
		float *row = t->scores + (size_t)r * CHUNK;

		j->be->isa->norm(row, wide, row, at[1], 1);
	}
}

static void score_few(const struct job *j, const struct tile *t,
		      const uint32_t at[2])
{
	const struct be_mat k = positions(j, t, &j->a->kv->k, at);
	const struct cpu_dot dot = {
		.w = k.p, .w_ld = k.ld, .type = k.type, .x = t->q,
		.x_ld = k.cols, .y = t->scores, .y_ld = CHUNK, .m = t->rows,
		.n = k.rows, .k = k.cols, .alpha = 1, .beta = 0,
	};

	j->be->isa->dot(&dot);
	if (k.type == DT_I8)
		apply_scales(j, t, &j->a->kv->k_scale, at);
}

/* scores[rows][n] = q * k^T for positions at[0]..+at[1]. */
static void score(const struct job *j, const struct tile *t,
		  const uint32_t at[2])
{
	const uint32_t d = j->a->head_dim;
	struct be_mat k;
	struct cpu_outer outer = {
		.p = t->q, .p_row = d, .p_col = 1, .v = t->turned,
		.v_ld = CHUNK, .out = t->scores, .out_ld = CHUNK,
		.m = t->rows, .s = d, .d = at[1],
	};

	if (is_few(t)) {
		score_few(j, t, at);
		return;
	}
	k = widened(j, t, &j->a->kv->k, at);
	j->be->isa->turn(&k, t->turned, CHUNK);
	memset(t->scores, 0, sizeof(float) * CHUNK * t->rows);
	j->be->isa->outer(&outer);
}

static void gather_few(const struct job *j, const struct tile *t,
		       const uint32_t at[2])
{
	const struct be_mat v = positions(j, t, &j->a->kv->v, at);
	const struct cpu_weigh weigh = {
		.p = t->scores, .p_ld = CHUNK, .v = v.p, .v_ld = v.ld,
		.type = v.type, .out = t->st.out, .out_ld = v.cols,
		.m = t->rows, .s = v.rows, .d = v.cols,
	};

	if (v.type == DT_I8)
		apply_scales(j, t, &j->a->kv->v_scale, at);
	j->be->isa->weigh(&weigh);
}

/* out[rows][head_dim] += scores * v for positions at[0]..+at[1]. */
static void gather_values(const struct job *j, const struct tile *t,
			  const uint32_t at[2])
{
	const uint32_t d = j->a->head_dim;
	struct cpu_outer outer = {
		.p = t->scores, .p_row = CHUNK, .p_col = 1,
		.out = t->st.out, .out_ld = d, .m = t->rows, .s = at[1],
		.d = d,
	};
	struct be_mat v;

	if (is_few(t)) {
		gather_few(j, t, at);
		return;
	}
	v = widened(j, t, &j->a->kv->v, at);
	outer.v = v.p;
	outer.v_ld = v.ld;
	j->be->isa->outer(&outer);
}

/* Scores of row r to weights; positions that its token does not see get 0. */
static void soften(const struct job *j, const struct tile *t, uint32_t r,
		   const uint32_t at[2])
{
	const struct cpu_isa *isa = j->be->isa;
	const uint32_t end = t->pos + r / j->rep + 1;
	const uint32_t n = end <= at[0] ? 0 : least(at[1], end - at[0]);
	float *s = t->scores + (size_t)r * CHUNK, top = t->st.top[r], less;

	memset(s + n, 0, (at[1] - n) * sizeof(*s));
	if (!n)
		return;
	top = isa->top(s, n, top);
	if (top > t->st.top[r]) {
		less = expf(t->st.top[r] - top);
		t->st.sum[r] *= less;
		isa->scale(t->st.out + (size_t)r * j->a->head_dim,
			   j->a->head_dim, less);
		t->st.top[r] = top;
	}
	t->st.sum[r] += isa->soften(s, n, top);
}

/* Which tile this is: tokens slowest, then heads, then pieces. */
static struct tile tile_at(const struct job *j, uint32_t number)
{
	const struct be_attend *a = j->a;
	uint32_t piece = number % j->pieces, rest = number / j->pieces;
	struct tile t = { .kv = rest % a->kv_heads };
	struct be_at at;

	t.t0 = rest / a->kv_heads * j->tokens;
	t.tokens = least(j->tokens, a->q->rows - t.t0);
	t.rows = t.tokens * j->rep;
	at = cpu_at(a->at, a->first, t.t0);
	t.base = at.base;
	t.pos = at.pos;
	t.s1 = t.pos + t.tokens;
	if (j->pieces > 1) {
		t.s0 = piece * PIECE;
		t.s1 = least(t.s1, t.s0 + PIECE);
	}
	return t;
}

static void write_out(const struct job *j, const struct tile *t)
{
	const struct be_attend *a = j->a;
	const size_t d = a->head_dim, width = (size_t)j->rep * d;

	for (uint32_t r = 0; r < t->rows; r++)
		j->be->isa->scale(t->st.out + r * d, a->head_dim,
				  1 / t->st.sum[r]);
	for (uint32_t i = 0; i < t->tokens; i++) {
		float *out = (float *)a->out->p +
			     (t->t0 + i) * (size_t)a->out->ld + t->kv * width;

		memcpy(out, t->st.out + i * width, width * sizeof(*out));
	}
}

static void attend_tile(void *ctx, uint32_t number, uint32_t self)
{
	const struct job *j = ctx;
	struct tile t = tile_at(j, number);
	float *own = cpu_own(j->be, self);
	const size_t d = j->a->head_dim;

	t.q = own + j->state;
	t.scores = t.q + (size_t)j->tokens * j->rep * d;
	t.turned = t.scores + (size_t)j->tokens * j->rep * CHUNK;
	t.wide = t.turned + CHUNK * d;
	t.st = state_at(j, j->pieces == 1 ? own
			   : (float *)(void *)j->be->all_mem +
				     number * j->state);
	for (uint32_t r = 0; r < t.rows; r++) {
		t.st.top[r] = -INFINITY;
		t.st.sum[r] = 0;
	}
	memset(t.st.out, 0, t.rows * d * sizeof(float));
	load_queries(j, &t);
	for (uint32_t s = t.s0; s < t.s1; s += CHUNK) {
		const uint32_t at[] = { s, least(CHUNK, t.s1 - s) };

		score(j, &t, at);
		for (uint32_t r = 0; r < t.rows; r++)
			soften(j, &t, r, at);
		gather_values(j, &t, at);
	}
	if (j->pieces == 1)
		write_out(j, &t);
}

/* Add what a later piece saw to what earlier ones saw. */
static void merge_piece(const struct job *j, const struct tile *t,
			const struct state *more)
{
	const size_t d = j->a->head_dim;
	const struct state *st = &t->st;

	for (uint32_t r = 0; r < t->rows; r++) {
		float top = fmaxf(st->top[r], more->top[r]);
		float a = expf(st->top[r] - top);
		float b = expf(more->top[r] - top);

		/* a piece that this token sees nothing of */
		if (more->sum[r] == 0)
			continue;
		st->top[r] = top;
		st->sum[r] = st->sum[r] * a + more->sum[r] * b;
		for (size_t i = 0; i < d; i++)
			st->out[r * d + i] = st->out[r * d + i] * a +
					     more->out[r * d + i] * b;
	}
}

/* The pieces of a run and head. */
static void merge_tile(void *ctx, uint32_t number, uint32_t self)
{
	const struct job *j = ctx;
	float *mem = (float *)(void *)j->be->all_mem;
	struct tile t = tile_at(j, number * j->pieces);
	struct state more;

	(void)self;
	t.st = state_at(j, mem + (size_t)number * j->pieces * j->state);
	for (uint32_t p = 1; p < j->pieces; p++) {
		more = state_at(j, mem + ((size_t)number * j->pieces + p) *
					 j->state);
		merge_piece(j, &t, &more);
	}
	write_out(j, &t);
}

int cpu_attend(struct be *be, const struct be_attend *a, struct err *err)
{
	struct job j = { .be = be, .a = a, .pieces = 1 };
	size_t rows, own, all = 0;
	uint32_t runs, seen, threads;

	if (be_shape_attend(a, err) ||
	    (a->at && be_shape_at(a->at, a->q->rows, a->seen, a->kv->k.rows,
				  err)))
		return -1;
	if (!a->q->rows)
		return 0;
	j.rep = a->heads / a->kv_heads;
	j.tokens = j.rep < ROWS && !a->at ? least(ROWS / j.rep, a->q->rows)
					  : 1;
	rows = (size_t)j.tokens * j.rep;
	j.state = rows * (2 + (size_t)a->head_dim);
	runs = (a->q->rows - 1) / j.tokens + 1;
	seen = a->at ? a->seen : a->first + a->q->rows;
	if (runs == 1 || a->at)
		j.pieces = (seen - 1) / PIECE + 1;
	if (j.pieces > 1)
		all = (size_t)runs * a->kv_heads * j.pieces * j.state;
	own = j.state + rows * a->head_dim +
	      (rows + 2 * (size_t)a->head_dim) * CHUNK;
	if (cpu_scratch(be, own * sizeof(float), all * sizeof(float), err))
		return -1;
	threads = cpu_threads(be, (uint64_t)a->q->rows * seen * a->q->cols);
	tile_run(be->pool, threads, runs * a->kv_heads * j.pieces,
		 attend_tile, &j);
	if (j.pieces > 1)
		tile_run(be->pool, threads, runs * a->kv_heads, merge_tile,
			 &j);
	return 0;
}
