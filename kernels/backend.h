/* backend.h - the devices: one narrow table of operations on arrays.
 *
 * The runtime and the quantizer are written against struct be_api alone.  The
 * CPU is built in; the GPU comes as a plug-in (gptq-cuda.so) found at run time
 * and refused when its ABI number or table size differs.
 *
 * Matrices are row-major views: element (r, c) of m is at p[r * ld + c].  p is
 * the device's.  X is [tokens][features], a weight W is [out][in], so a linear
 * is Y = X * W^T.  "act" below means the backend's activation type (f32 on the
 * CPU).  Pointers inside the argument structs are device memory unless said
 * otherwise.  Only put, get and topk wait for the device; all else is in the
 * order of the calls.  One thread drives one struct be.
 *
 * Every operation has a plain scalar version in cpu/ref.c that accumulates in
 * double: it is the definition.  Results do not depend on the number of
 * threads: work is cut into tiles by shape and reduced in a fixed order. */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include "../libfmt/container/tensor.h"
#include "../libfmt/layout/ql.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BE_ABI 8

struct err;
struct be;    /* an opened device */
struct be_qw; /* a quantized weight in the device's own layout */

struct be_mat {
	void *p;
	uint32_t rows, cols;
	uint32_t ld;     /* elements from one row to the next, >= cols */
	enum dtype type; /* F32, F16, BF16; F64 for Hessians, I8 for caches */
};

struct be_open {
	uint32_t threads;   /* CPU: how many, at least 1 */
	int32_t device;     /* GPU: which; -1: the first usable */
	const char *kernel; /* force a kernel by name; NULL: the best */
};

/* C = alpha * A * op(B) + beta * C.  op(B) = B^T when trans_b, so that a weight
 * [out][in] is B.  A and C are F32; B is F32, F16 or BF16 (widened exactly). */
struct be_gemm {
	const struct be_mat *a; /* [m][k] */
	const struct be_mat *b; /* [n][k] when trans_b, else [k][n] */
	struct be_mat *c;       /* [m][n] */
	float alpha, beta;
	int trans_b;
};

/* Keys and values of one block, a row per position: both F32, F16 or I8.
 * With I8 each head of each position has a scale, its largest magnitude over
 * 127 rounded to F16, and an element is code * scale where
 *	code = clamp(rint(x / scale), -127, 127), 0 where the scale is 0
 * What is beyond F16 is stored as F16's largest number. */
struct be_cache {
	struct be_mat k, v;             /* [positions][kv_heads * head_dim] */
	struct be_mat k_scale, v_scale; /* I8: F16 [positions][kv_heads] */
};

/* Where a token of several sequences stands: its sequence's position 0 is row
 * `base` of the cache, so its keys and values go to row base + pos, and it sees
 * rows base .. base + pos. */
struct be_at {
	uint32_t base, pos;
};

/* New tokens take their positions: queries and keys are turned by the rotary
 * embedding in its "rotate half" form, and keys and values go to the cache.
 * With h = head_dim / 2, for each head
 *	(x[i], x[i+h]) -> (x[i] c - x[i+h] s, x[i+h] c + x[i] s)
 * where c and s are the tables' row of the token's position.
 *
 * Without `at` the tokens are one sequence, and token r has position and row
 * first + r.  With it each stands for itself; no two have the same row. */
struct be_store {
	struct be_mat *q;               /* F32 [tokens][heads * head_dim],
					   turned in place */
	const struct be_mat *k, *v;     /* F32 [tokens][kv_heads * head_dim] */
	const struct be_cache *to;
	const struct be_mat *cos, *sin; /* F32 [positions][head_dim / 2] */
	const struct be_at *at;         /* [tokens], or NULL */
	uint32_t first;                 /* without at */
	uint32_t seen;                  /* with at: more than any pos */
	uint32_t head_dim;
};

/* Causal attention of new tokens whose keys and values are in the cache.
 * Token r sees positions 0 .. first + r, or, with `at`, what be_at says.
 * Query head h reads key/value head h / (heads / kv_heads).  A GPU may round
 * queries and weights to f16 where the cache is not F32. */
struct be_attend {
	const struct be_mat *q;    /* F32 [tokens][heads * head_dim] */
	const struct be_cache *kv;
	struct be_mat *out;        /* F32 [tokens][heads * head_dim] */
	const struct be_at *at;    /* [tokens], or NULL */
	uint32_t first;            /* without at */
	uint32_t seen;             /* with at: more than any pos; the work may
				      be cut by it */
	uint32_t heads, kv_heads, head_dim;
	float scale;               /* 1/sqrt(head_dim), times yarn's factor */
};

/* Grid of one group of columns: scale and zero of each row, by the rule of the
 * GPTQ authors (gptq-formats(5) "Grids"):
 *	lo = min(0, min w), hi = max(0, max w)
 *	sym: hi = max(-lo, hi), lo = -hi only if lo < 0
 *	all zero: lo = -1, hi = 1;  scale = (hi - lo) / maxq in one division
 *	zero = 2^(bits-1) (sym) or rint(-lo / scale), at most maxq
 * round_scale F16 or BF16 rounds the scale to that type before zero and codes
 * are computed; F32 leaves it.  A group whose scale rounds to 0 counts as all
 * zero, so no scale is 0; and no zero is -0.
 *
 * With `tries` ranges p * (lo, hi), p = 1 - i * shrink for i = 0..tries-1, are
 * tried instead of one, and the first with the least
 *	sum_c weight[c] * |w'_c - w_c|^power
 * is taken; where `near` is set (asym) each also with the zeros one beside, of
 * those only that are at least zero_min.
 * The sum is f32, in order of c; each operation rounds on its own. */
struct be_grid {
	const struct be_mat *w; /* F32 [rows][columns of the group] */
	float *scale, *zero;    /* [rows], `step` floats apart */
	size_t step;
	uint8_t bits, sym;
	enum dtype round_scale;
	uint32_t tries;         /* 0: no search */
	uint8_t near, zero_min;
	float shrink, power;
	const float *weight;    /* [columns], device; NULL: all 1 */
};

/* GPTQ over one block of columns, column by column, for all rows:
 *	q = clamp(rint(w_i / s) + z, 0, maxq)
 *	e = (w_i - s * (q - z)) / U[i][i];  w_j -= e * U[i][j] for j >= i
 * with (s, z) of the column's group.  err[r][i] = e for the lazy update of the
 * columns behind the block; loss[r] += e^2 / 2 (f64).
 * rint rounds ties to even.  Arithmetic in f32, as the published code. */
struct be_sweep {
	struct be_mat *w;         /* F32 [rows][n], changed in place */
	const struct be_mat *u;   /* F32 [n][n], upper Cholesky factor of the
				     inverse Hessian, this block's corner */
	struct be_mat *err;       /* F32 [rows][n] */
	uint8_t *code;            /* [rows][n], code_ld apart */
	size_t code_ld;
	const float *scale, *zero;/* [rows][groups], grid_ld apart */
	size_t grid_ld;
	const uint32_t *group;    /* [n]: group of each column, host memory */
	double *loss;             /* [rows] */
	uint8_t bits;
};

/* Coordinate descent on f(Q) = (Q - W) H (Q - W)^T of each row, in one block
 * of columns whose groups lie in it whole (or `refit` is 0).  g = (Q - W) H of
 * the block's columns is kept up to date as Q changes.  A round is
 *
 *	refit: for each group with codes u = code - zero
 *		p = u H,  num = sum g_c u_c,  den = sum p_c u_c (its columns)
 *		s' = s - num / den, rounded to scale_type; taken where it is
 *		positive and f gets less; then g += (s' - s) p
 *	codes: for each column i
 *		q' = clamp(rint(code - g_i / (H_ii s)), 0, maxq)
 *		where it differs: g_j += s (q' - code) H[i][j]
 *
 * diff = Q - W is written anew at the end, and half of what f changed by is
 * added to loss.  At most 1024 columns.  Arithmetic in f32, each operation
 * rounded on its own, sums in order of columns, changes of f in order of
 * events. */
struct be_refine {
	const struct be_mat *w;    /* F32 [rows][n] */
	struct be_mat *diff;       /* F32 [rows][n], out */
	const struct be_mat *grad; /* F32 [rows][n] */
	const struct be_mat *h;    /* F32 [n][n], symmetric */
	uint8_t *code;             /* [rows][n], code_ld apart */
	size_t code_ld;
	float *scale;              /* [rows][groups], grid_ld apart */
	const float *zero;
	size_t grid_ld;
	const uint32_t *group;     /* [n]: group of each column, host memory;
				      equal ones stand together */
	double *loss;              /* [rows] */
	uint32_t rounds;
	uint8_t bits, refit;
	enum dtype scale_type;
};

/* U = chol(inv(H + damp * mean(diag H) * I)), upper: H^-1 = U^T U. */
struct be_factor {
	const struct be_mat *h; /* F64 [n][n], symmetric, full; not changed */
	struct be_mat *u;       /* F32 [n][n]; below the diagonal: 0 */
	double damp;            /* the fraction, 0.01 */
};

/* The best of a row of logits, in the order of a sampler: falling value, then
 * rising id.  The value of a logit is, in double, each operation rounded on
 * its own,
 *	v = x[id], -infinity where that is NaN
 *	v = v > 0 ? v / penalty : v * penalty   for ids in `recent`
 *	v = v / temp */
#define BE_TOP_MAX 64
struct be_top {
	double value;
	uint32_t id, zero; /* the latter so that no byte is undefined */
};

struct be_topk {
	struct be_mat x;         /* F32 [1][vocabulary] */
	struct be_top *best;     /* [k], host memory, out */
	const uint32_t *recent;  /* host memory, no id twice, each < x.cols */
	uint32_t recents;        /* at most BE_TOP_MAX */
	uint32_t k;              /* 1..BE_TOP_MAX, at most x.cols */
	double penalty, temp;    /* above 0; 1: none */
};

/* Decoder blocks as one thing, for the wide call.  Pointers are device memory
 * (but for `layer`); all of it stays the caller's, where it is. */
struct be_layer {
	const struct be_qw *lin[7];  /* q k v o gate up down; NULL: dense */
	const float *bias[7];        /* F32 [out], or NULL */
	const float *norm_in, *norm_post; /* F32 [hidden] */
	const float *norm_q, *norm_k;     /* F32 [head_dim], or NULL */
	struct be_cache kv;
};
struct be_blocks {
	const struct be_layer *layer; /* [layers], host memory */
	uint32_t layers, hidden, inter, heads, kv_heads, head_dim;
	double eps;
	float scale;                  /* of attention, as in be_attend */
	struct be_mat cos, sin;       /* as in be_rope */
};
struct be_step;  /* prepared blocks */
struct be_graph; /* recorded operations */

struct be_api {
	uint32_t abi;  /* BE_ABI */
	uint32_t size; /* sizeof(struct be_api) */
	const char *name; /* "cpu", "cuda" */

	int (*open)(const struct be_open *how, struct be **out,
		    struct err *err);
	void (*close)(struct be *be); /* accepts NULL */
	/* A line about the device and the kernels chosen, for --verbose. */
	const char *(*describe)(const struct be *be);

	/* Bytes of memory that can be had there; UINT64_MAX: not known. */
	int (*avail)(struct be *be, uint64_t *bytes, struct err *err);
	/* Device memory, 64-byte aligned, not zeroed. */
	int (*alloc)(struct be *be, size_t bytes, void **p, struct err *err);
	void (*free)(struct be *be, void *p);
	int (*put)(struct be *be, void *dst, const void *src, size_t bytes,
		   struct err *err);
	int (*get)(struct be *be, void *dst, const void *src, size_t bytes,
		   struct err *err);

	int (*gemm)(struct be *be, const struct be_gemm *g, struct err *err);
	/* y[r][c] = x[r][index[c]]; index is device memory [y.cols]. */
	int (*gather)(struct be *be, const struct be_mat *x,
		      const uint32_t *index, struct be_mat *y,
		      struct err *err);

	/* Prepare a quantized weight; ql may be released afterwards. */
	int (*qw_new)(struct be *be, const struct ql *ql, struct be_qw **out,
		      struct err *err);
	/* The same from a layer as a file holds it, bit for bit; its memory may
	 * go when this returns.  1: this one only through qw_new.  NULL where a
	 * backend has no such way. */
	int (*qw_pack)(struct be *be, const struct ql_packed *q,
		       struct be_qw **out, struct err *err);
	void (*qw_free)(struct be *be, struct be_qw *w); /* accepts NULL */
	/* The name of the kernel that runs w for m rows ("avx512-b4"). */
	const char *(*qw_kernel)(const struct be *be, const struct be_qw *w,
				 uint32_t m);
	/* Y = X * W^T, x F32 [m][in], y F32 [m][out]. */
	int (*qgemm)(struct be *be, const struct be_mat *x,
		     const struct be_qw *w, struct be_mat *y, struct err *err);

	/* y[r] = table[id[r]]; ids in host memory, < table.rows. */
	int (*embed)(struct be *be, const struct be_mat *table,
		     const uint32_t *id, struct be_mat *y, struct err *err);
	/* y = x / sqrt(mean(x^2) + eps) * weight, over rows of weight.cols
	 * elements: x.cols may be a multiple (heads), y may be x. */
	int (*rmsnorm)(struct be *be, const struct be_mat *x,
		       const struct be_mat *weight, double eps,
		       struct be_mat *y, struct err *err);
	int (*store)(struct be *be, const struct be_store *s, struct err *err);
	int (*attend)(struct be *be, const struct be_attend *a,
		      struct err *err);
	/* y = silu(gate) * up; y may be gate or up. */
	int (*swiglu)(struct be *be, const struct be_mat *gate,
		      const struct be_mat *up, struct be_mat *y,
		      struct err *err);
	/* x += y; a y of one row is added to every row (bias). */
	int (*add)(struct be *be, struct be_mat *x, const struct be_mat *y,
		   struct err *err);

	/* Of n rows, each as t[i] asks; waits for the device. */
	int (*topk)(struct be *be, const struct be_topk *t, uint32_t n,
		    struct err *err);

	/* H += alpha * X^T X, X F32 [m][n], H F64 [n][n], both triangles.
	 * Rows are taken in the order given, in chunks of a fixed number.  H is
	 * symmetric before: its upper triangle is read, both are written. */
	int (*syrk)(struct be *be, const struct be_mat *x, double alpha,
		    struct be_mat *h, struct err *err);
	/* ERR_CHECK when the damped H is not positive definite. */
	int (*factor)(struct be *be, const struct be_factor *f,
		      struct err *err);
	int (*grid)(struct be *be, const struct be_grid *g, struct err *err);
	int (*sweep)(struct be *be, const struct be_sweep *s,
		     struct err *err);
	int (*refine)(struct be *be, const struct be_refine *r,
		      struct err *err);

	/* The wide call, optional (NULL): a row x [1][hidden] at position
	 * `first` through all blocks, in place, its keys and values put into
	 * the cache; what the narrow calls do one by one, they are the
	 * definition.  step_new fails with ERR_UNSUP and the reason where these
	 * blocks have to go the narrow way. */
	int (*step_new)(struct be *be, const struct be_blocks *b,
			struct be_step **out, struct err *err);
	void (*step_free)(struct be *be, struct be_step *s); /* or NULL */
	int (*step)(struct be *be, struct be_step *s, struct be_mat *x,
		    uint32_t first, struct err *err);

	/* Recording, optional (NULL): what is called between record and
	 * recorded does not run but is kept, with all its arguments; replay
	 * runs it as one, on what their memory holds by then.  For calls that
	 * neither wait nor read host memory and have run before: memory for
	 * their scratch is then there.  When that has moved replay returns 1:
	 * nothing has run.  recorded ends a recording also when a call in it
	 * failed; *out may then be NULL. */
	int (*record)(struct be *be, struct err *err);
	int (*recorded)(struct be *be, struct be_graph **out, struct err *err);
	int (*replay)(struct be *be, struct be_graph *g, struct err *err);
	void (*graph_free)(struct be *be, struct be_graph *g); /* or NULL */
};

/* The built-in CPU table. */
extern const struct be_api be_cpu;
/* The scalar reference, same table; slow, exact, one thread. */
extern const struct be_api be_ref;

/* The backend for "auto", "cpu", "ref", "cuda" or "cuda:N", opened.  With
 * "auto" a GPU that cannot be used is no error: `why` (may be NULL) says in one
 * line what was chosen and why.  The plug-in is looked for beside the program,
 * then in libdir/gptq. */
int be_select(const char *device, uint32_t threads, const char *kernel,
	      const struct be_api **api, struct be **be, char why[256],
	      struct err *err);

/* The i-th of the CPU's kernels (be_open.kernel), the best first, whether or
 * not this machine runs it; NULL behind the last. */
const char *be_cpu_kernel(uint32_t i);

/* 1 when name is a device string be_select takes. */
int be_device_valid(const char *name);

/* Bytes of one element of a matrix type. */
size_t be_elem(enum dtype t);
/* A view of rows r0..r0+n of m. */
struct be_mat be_rows(const struct be_mat *m, uint32_t r0, uint32_t n);
/* A view of columns c0..c0+n of m. */
struct be_mat be_cols(const struct be_mat *m, uint32_t c0, uint32_t n);
/* Allocate a matrix (ld = cols) on the device; m->p is NULL on failure. */
int be_mat_new(const struct be_api *api, struct be *be, uint32_t rows,
	       uint32_t cols, enum dtype type, struct be_mat *m,
	       struct err *err);
void be_mat_free(const struct be_api *api, struct be *be, struct be_mat *m);

#ifdef __cplusplus
}
#endif
#endif
