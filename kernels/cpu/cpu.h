/* cpu.h - inside the CPU backend: the opened device, the layout of a quantized
 * weight, and the table of vector kernels.
 *
 * Three layers: cpu.c is the table be_cpu; gemm.c, qgemm.c, attend.c,
 * store.c, elem.c, hess.c, factor.c and sweep.c cut an operation into tiles by
 * its shape; struct cpu_isa does a tile.  The kernels are written once (*.inc)
 * and compiled for each instruction set (isa_*.c). */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "../backend.h"
#include "../tile.h"

#include <stddef.h>
#include <stdint.h>

#define CPU_PANEL 64 /* columns side by side: whole tiles of any isa */

/* y[m][n] = alpha * x[m][k] * w[n][k]^T + beta * y: dot products, with both
 * rows read along.  Fast when k is long and x or w is in the cache. */
struct cpu_dot {
	const void *w; /* F32, F16, BF16 or I8 */
	size_t w_ld;
	enum dtype type;
	const float *x;
	size_t x_ld;
	float *y;
	size_t y_ld;
	uint32_t m, n, k;
	float alpha, beta;
};

/* out[m][d] += p[m][s] * v[s][d] for few rows of weights p: v, F32, F16 or I8,
 * is read as it stands. */
struct cpu_weigh {
	const float *p;
	size_t p_ld;
	const void *v;
	size_t v_ld;
	enum dtype type;
	float *out;
	size_t out_ld;
	uint32_t m, s, d;
};

/* out[m][d] += p[m][s] * v[s][d], element (i, j) of p at p_row * i +
 * p_col * j: outer products.  Fast when v is packed in panels. */
struct cpu_outer {
	const float *p;
	size_t p_row, p_col;
	const float *v;
	size_t v_ld;
	float *out;
	size_t out_ld;
	uint32_t m, s, d;
};

/* h[CPU_PANEL][CPU_PANEL] += alpha * p^T v of panels [s][CPU_PANEL]: summed in
 * f32 over s, then added in double. */
struct cpu_gram {
	const float *p, *v;
	uint32_t s;
	double *h;
	size_t h_ld;
	double alpha;
};

/* out[m][d] -= p[m][s] * v[s][d] in double, rows of p p_row apart. */
struct cpu_outer64 {
	const double *p;
	size_t p_row;
	const double *v;
	size_t v_ld;
	double *out;
	size_t out_ld;
	uint32_t m, s, d;
};

/* Ask for the n bytes at p, which may be anything. */
static inline void cpu_fetch(const void *p, size_t n)
{
#if defined(__GNUC__)
	for (size_t i = 0; i < n; i += 64)
		__builtin_prefetch((const char *)p + i);
#else
	(void)p;
	(void)n;
#endif
}

/* Quantized weights on the CPU.  The inputs are sorted by group and each group
 * is padded to `group_steps` steps of 16 slots, so that a step has one scale;
 * group_steps divides the steps of a word or is a multiple of the steps of a
 * block.  Padding slots meet an x of 0, padding groups have scale 0.
 *
 *	block     what 16 lanes hold: 16 words of 32 bits (3 bits: 48)
 *	word      steps of one lane's word: bits 2: 16, 3: 8, 4: 8, 8: 4
 *	code of step j, lane i: (word[i] >> bits * j) & maxq, but for 2 bits
 *	where q16.inc runs them: see cpu_code_at
 *	3 bits: a block is 3 words that hold 8 codes in their low 24 bits,
 *	and a fourth is made of their high bytes (w0 lowest)
 *
 * 4 rows of a block stand together: code is [out/4][blocks][4][words]. */
struct be_qw {
	uint32_t out, in;
	uint32_t bits;        /* as packed: 2, 3, 4, 8 (5..7 take 8) */
	uint32_t groups;      /* of slots, with the padding ones */
	uint32_t group_steps;
	uint32_t blocks;      /* per row */
	uint32_t slots;       /* per row: what x is gathered to */
	enum ql_zero kind;
	uint32_t *code;
	enum dtype grid_type; /* F16 where exact, else F32 */
	void *scale, *zero;   /* [out rounded up to 4][groups] */
	uint32_t *map;        /* [slots]: input, or CPU_PAD; NULL when slots are
				 the inputs one to one */
	char kernel[24];      /* "avx512-b4", and for many rows of x: */
	char wide[24];        /* "avx512-b4-f32" */
	int halves;           /* q16.inc's kernels run it */
	struct be *be;        /* whose memory this is */
};
#define CPU_PAD UINT32_MAX
#define CPU_ROWS 4  /* rows that are interleaved */
#define CPU_LANES 16

/* 32-bit words per block and row. */
static inline uint32_t cpu_block_words(uint32_t bits)
{
	return bits == 3 ? 3 * CPU_LANES : CPU_LANES;
}
/* Steps per word, and per block. */
static inline uint32_t cpu_word_steps(uint32_t bits)
{
	return bits == 3 ? 8 : 32 / bits;
}
static inline uint32_t cpu_block_steps(uint32_t bits)
{
	return bits == 3 ? 32 : 32 / bits;
}

/* Steps of what q16.inc takes as a word: a half of one of 2 bits. */
static inline uint32_t cpu_word16_steps(uint32_t bits)
{
	return bits == 2 ? 8 : cpu_word_steps(bits);
}
/* The lowest bit of the code of step j of a word.  q16.inc takes codes two by
 * two from the halves of a word; of 2 bits those of 8 steps are to be in the
 * low bytes of the halves and those of the next 8 in the high ones. */
static inline uint32_t cpu_code_at(uint32_t bits, uint32_t j, int halves)
{
	return halves && bits == 2 ? j % 8 / 4 * 16 + j / 8 * 8 + j % 4 * 2
				   : bits * j;
}

/* What slots of x in step j of a word are multiplied with before qdot: it
 * takes a code for q * 2^(bits * j), but for the last of a full word. */
static inline float cpu_slot_scale(uint32_t bits, uint32_t j)
{
	return bits * (j + 1) == 32 ? 1 : 1 / (float)(1u << (bits * j));
}

/* y[m][row..row+rows) = x * W^T for rows [row, row + rows) of w; row is a
 * multiple of 4.  x and xsum are made by `slots`. */
struct cpu_qdot {
	const struct be_qw *w;
	uint32_t row, rows, m;
	const float *x;    /* [m][slots] */
	size_t x_ld;
	const float *xsum; /* [m][groups] */
	float *y;          /* [m][out] */
	size_t y_ld;
	float *grid;       /* scratch [2][4][groups]; qdot16: and [4][words] */
	/* for qdot16, made by `halves`; x_ld counts them */
	const int16_t *x16;
	const float *xscale; /* [m][words per row] */
};

/* A row of x as 16-bit numbers in the order in which q16.inc takes codes. */
struct cpu_halves {
	const struct be_qw *w;
	const float *x;  /* [in] */
	int16_t *out;    /* [slots] */
	float *scale;    /* [slots / slots of a word] */
	float *sum;      /* [groups]: of x as rounded */
};

/* y[m][n] += x W^T of some words of up to 32 rows of w, codes without their
 * zeros. */
struct cpu_wide16 {
	const struct be_qw *w;
	uint32_t word0, words;
	const uint32_t *piece; /* [words * pairs][32] */
	const float *scale;    /* [words][32] */
	const int16_t *x16;    /* [m][slots] */
	size_t x_ld;
	const float *xscale;   /* [m][words per row] */
	size_t xscale_ld;
	const float *zero;     /* [groups][32], for zeros16 */
	const float *sum;      /* [m][groups]: of x as rounded */
	float *y;
	size_t y_ld;
	uint32_t m, n;
};
#define CPU_WIDE16 32 /* rows of w that stand together */

/* A row of x in the order of w's slots, for qdot: times cpu_slot_scale; for
 * unpacked weights: plain.  out or xsum may be NULL. */
struct cpu_slots {
	const struct be_qw *w;
	const float *x; /* [in] */
	float *out;     /* [slots] */
	float *xsum;    /* [groups]: sums of x */
	int plain;
};

/* Blocks b0..b0+n of one row as f32, [n * slots per block]. */
struct cpu_unpack {
	const struct be_qw *w;
	uint32_t row, b0, n;
	const float *scale, *zero; /* of this row, f32 [groups] */
	float *out;
};

#define CPU_SWEEP 32 /* rows of a weight that are swept together, at most */

/* GPTQ's block for up to CPU_SWEEP rows; see struct be_sweep for the arrays,
 * whose row 0 is the tile's first here. */
struct cpu_sweep {
	const struct be_sweep *s;
	uint32_t row, rows;
	float *scratch; /* [3][n][CPU_SWEEP] */
};

/* The clipping search for up to 64 rows whose ranges are known. */
struct cpu_search {
	const struct be_grid *g;
	uint32_t row, rows;
	const float *lo, *hi; /* [rows], widened */
	float *scratch;       /* [n][CPU_SWEEP] */
};

/* Coordinate descent for up to CPU_SWEEP rows. */
struct cpu_refine {
	const struct be_refine *a;
	uint32_t row, rows;
	float *scratch; /* [4][n][CPU_SWEEP] and [n] */
};

struct cpu_isa {
	const char *name; /* "avx512" */
	void (*dot)(const struct cpu_dot *d);
	void (*weigh)(const struct cpu_weigh *w);
	void (*outer)(const struct cpu_outer *o);
	void (*gram)(const struct cpu_gram *g);
	void (*outer64)(const struct cpu_outer64 *o);
	/* n F16, BF16 or F32 values to f32 */
	void (*widen)(enum dtype type, const void *in, float *out, size_t n);
	/* a head x[n] into a cache of F16, or of I8 (returns the scale); and
	 * I8 back */
	void (*narrow)(const float *x, uint16_t *out, uint32_t n);
	float (*encode)(const float *x, int8_t *out, uint32_t n);
	void (*decode)(const int8_t *in, float *out, uint32_t n, float scale);
	void (*qdot)(const struct cpu_qdot *q);
	void (*slots)(const struct cpu_slots *s);
	void (*unpack)(const struct cpu_unpack *u);
	/* max(top, max of s[n]) */
	float (*top)(const float *s, uint32_t n, float top);
	/* s = e^(s - top); the sum */
	float (*soften)(float *s, uint32_t n, float top);
	void (*scale)(float *x, uint32_t n, float by);
	/* sum of squares, in double */
	double (*squares)(const float *x, uint32_t n);
	/* y = x * by * w */
	void (*norm)(const float *x, const float *w, float *y, uint32_t n,
		     float by);
	/* one head: lo, hi of `half` each */
	void (*rotate)(float *x, const float *cos, const float *sin,
		       uint32_t half);
	void (*swiglu)(const float *gate, const float *up, float *y,
		       uint32_t n);
	void (*add)(float *x, const float *y, uint32_t n);
	/* m, F32, to its transpose out [cols][ld] */
	void (*turn)(const struct be_mat *m, float *out, size_t ld);
	/* widens lo and hi to hold w[n] */
	void (*range)(const float *w, uint32_t n, float *lo, float *hi);
	void (*sweep)(const struct cpu_sweep *s);
	void (*search)(const struct cpu_search *s);
	void (*refine)(const struct cpu_refine *r);
	/* q16.inc, where the machine has it; else all NULL */
	void (*halves)(const struct cpu_halves *h);
	void (*qdot16)(const struct cpu_qdot *q);
	/* one row's words as pairs, [words * pairs] */
	void (*spread)(const struct cpu_wide16 *q, uint32_t row,
		       uint32_t *out);
	/* y = what the zeros take off */
	void (*zeros16)(const struct cpu_wide16 *q);
	void (*wide16)(const struct cpu_wide16 *q);
};

extern const struct cpu_isa cpu_isa_generic;
extern const struct cpu_isa cpu_isa_avx2;
extern const struct cpu_isa cpu_isa_avx512;
extern const struct cpu_isa cpu_isa_vnni;

struct be {
	const struct cpu_isa *isa;
	struct tile_pool *pool;
	uint32_t threads;
	/* Scratch that only grows: `own` bytes for each thread, and shared. */
	char *own_mem, *all_mem;
	size_t own, all;
	char describe[64];
};

/* Threads for so many multiply-adds or elements: one when starting others
 * takes longer than the work.  By the shape alone, as all else. */
static inline uint32_t cpu_threads(const struct be *be, uint64_t work)
{
	return work < 65536 ? 1 : be->threads;
}

/* A loop over tiles on all threads; see tile_run. */
static inline void cpu_run(const struct be *be, uint32_t tiles,
			   void (*fn)(void *ctx, uint32_t tile, uint32_t self),
			   void *ctx)
{
	tile_run(be->pool, be->threads, tiles, fn, ctx);
}

/* Make sure of this much scratch.  What has to grow moves and loses what it
 * held; the other (0: not needed) stays. */
int cpu_scratch(struct be *be, size_t own, size_t all, struct err *err);
/* The own scratch of a thread in tile_run. */
void *cpu_own(const struct be *be, uint32_t self);

/* Many rows against a weight that is made f32 piece by piece: y[m][n] =
 * alpha x w^T + beta y.  fill writes rows at[0]..+at[1], columns at[2]..+at[3]
 * of w to out [at[1]][at[3]]; at[2] is a multiple of CPU_WIDE_K. */
struct cpu_wide {
	const float *x;
	size_t x_ld;
	float *y;
	size_t y_ld;
	uint32_t m, n, k;
	float alpha, beta;
	void (*fill)(const struct cpu_wide *w, const uint32_t at[4],
		     float *out, float *scratch);
	const void *ctx;
	size_t scratch; /* floats fill needs */
};
/* A piece: in the second level of cache, six rows of x as long as it in the
 * first; CPU_ROWS divides its rows and a block of any bits its columns. */
#define CPU_WIDE_N 64
#define CPU_WIDE_K 1024
int cpu_gemm_wide(struct be *be, const struct cpu_wide *w, struct err *err);
/* Columns c0..c0+d (at most CPU_PANEL) of rows of v to a panel [n][CPU_PANEL],
 * 0 behind them. */
void cpu_panel(const struct be *be, const struct be_mat *v, uint32_t c0,
	       float *panel);
/* Floats of x that stay in the second level of cache while rows of a weight
 * pass by: half of it. */
#define CPU_FEW_X 131072
/* Up to this many rows of queries a cache is read as it is. */
#define CPU_FEW 8
/* Rows of a weight [n][k] per tile: at least 64, at least 64 Ki weights, a
 * multiple of 4. */
uint32_t cpu_rows_per_tile(uint32_t k);

int cpu_gemm(struct be *be, const struct be_gemm *g, struct err *err);
int cpu_qw_new(struct be *be, const struct ql *ql, struct be_qw **out,
	       struct err *err);
void cpu_qw_free(struct be *be, struct be_qw *w);
const char *cpu_qw_kernel(const struct be *be, const struct be_qw *w,
			  uint32_t m);
int cpu_qgemm(struct be *be, const struct be_mat *x, const struct be_qw *w,
	      struct be_mat *y, struct err *err);
/* The same with x as 16-bit numbers; w->halves. */
int cpu_qgemm16(struct be *be, const struct be_mat *x, const struct be_qw *w,
		struct be_mat *y, struct err *err);
int cpu_store(struct be *be, const struct be_store *s, struct err *err);
int cpu_attend(struct be *be, const struct be_attend *a, struct err *err);
int cpu_gather(struct be *be, const struct be_mat *x, const uint32_t *index,
	       struct be_mat *y, struct err *err);
int cpu_topk(struct be *be, const struct be_topk *t, uint32_t n,
	     struct err *err);
int cpu_embed(struct be *be, const struct be_mat *table, const uint32_t *id,
	      struct be_mat *y, struct err *err);
int cpu_rmsnorm(struct be *be, const struct be_mat *x,
		const struct be_mat *weight, double eps, struct be_mat *y,
		struct err *err);
int cpu_swiglu(struct be *be, const struct be_mat *gate,
	       const struct be_mat *up, struct be_mat *y, struct err *err);
int cpu_add(struct be *be, struct be_mat *x, const struct be_mat *y,
	    struct err *err);
int cpu_syrk(struct be *be, const struct be_mat *x, double alpha,
	     struct be_mat *h, struct err *err);
int cpu_factor(struct be *be, const struct be_factor *f, struct err *err);
int cpu_grid(struct be *be, const struct be_grid *g, struct err *err);
int cpu_sweep(struct be *be, const struct be_sweep *s, struct err *err);
int cpu_refine(struct be *be, const struct be_refine *r, struct err *err);

#endif
