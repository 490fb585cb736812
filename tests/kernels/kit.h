/* kit.h - the harness of the kernel tests: a backend under test beside the
 * reference, and arrays that exist once for each.
 *
 * Where device memory is plain memory, an array ends at (or starts behind) a
 * page that cannot be touched.  Between the columns of a view and its row
 * pitch there are NaNs that nobody may read or write. */
#ifndef TESTS_KERNELS_KIT_H
#define TESTS_KERNELS_KIT_H

#include "../../kernels/backend.h"
#include "../../libfmt/base/err.h"

struct kit {
	const struct be_api *api; /* under test */
	struct be *be;
	struct be *ref;
	char name[96];      /* "cpu avx2, 2 threads" */
	int host;           /* device memory is plain memory */
	int exact;          /* grid and sweep must equal bit for bit */
	int half;           /* qgemm, gemm by 16-bit matrices and attend over
			       a cache that is not F32 may round to f16 */
	int quick;          /* a sixth of the random cases */
	int back;           /* arrays end at the guard page */
	uint64_t rng;
	uint64_t hash;      /* of all results: equal for all threads */
	const char *what;   /* the test at hand */
	char shape[160];    /* and its case */
	unsigned cases, bad;
	struct err err;
};

struct arr {
	struct kit *kit;
	struct be_mat ref; /* the reference's, filled by the test */
	struct be_mat dev; /* the device's */
	size_t elem, bytes;
	void *got;         /* dev, brought back by arr_down */
	void *map_ref, *map_dev;
	size_t len;        /* of the maps */
};

/* Random numbers, the same on every machine. */
uint32_t kit_rand(struct kit *k);
uint32_t kit_below(struct kit *k, uint32_t n);
float kit_normal(struct kit *k); /* about N(0, 1) */
#define KIT_PICK(k, list) \
	((list)[kit_below((k), sizeof(list) / sizeof((list)[0]))])

/* How many random cases of n to run. */
uint32_t kit_count(const struct kit *k, uint32_t n);

/* Count and print a failure. */
void kit_fail(struct kit *k, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Describe the case at hand, for kit_fail. */
void kit_case(struct kit *k, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Fail unless an operation returned 0 on both sides. */
int kit_ran(struct kit *k, int ref, int dev);

/* A matrix with ld = cols + pad; memory that runs out ends the program. */
struct arr arr_mat(struct kit *k, uint32_t rows, uint32_t cols, uint32_t pad,
		   enum dtype type);
/* n elements of `elem` bytes, zeroed: ref.p and dev.p are the arrays. */
struct arr arr_raw(struct kit *k, size_t n, size_t elem);
void arr_free(struct arr *a);
/* Set an element of ref (F16, BF16, F32, F64, I8), or read it. */
void arr_set(struct arr *a, uint32_t r, uint32_t c, double v);
double arr_get(const struct arr *a, uint32_t r, uint32_t c);
/* Fill ref with normal numbers times `scale`. */
void arr_random(struct arr *a, double scale);
/* Copy ref to the device. */
void arr_up(struct arr *a);
/* Copy the device's into got. */
void arr_down(struct arr *a);
double arr_got(const struct arr *a, uint32_t r, uint32_t c);

/* Results, after arr_down inside: bytes equal; or each element within
 * tol * mag[r * cols + c] (mag NULL: of the largest in ref).  Both want the
 * padding untouched. */
void arr_same(struct arr *a, const char *name);
void arr_near(struct arr *a, const char *name, const double *mag, double tol);

/* A random quantized weight, to be released. */
struct qcase {
	uint32_t out, in, group_size;
	uint8_t bits;
	uint8_t order; /* of the inputs: 0 as they are, 1 shuffled whole
			  groups' members, 2 any group for any input */
	uint8_t sym;
	enum ql_zero kind;
	enum dtype scale_type;
};
int kit_ql(struct kit *k, struct ql *ql, const struct qcase *q);

/* The tests: gemm and qgemm; row by row operations; the cache and attention;
 * what the quantizer needs; what must be refused. */
void kit_linear(struct kit *k);
void kit_rows(struct kit *k);
void kit_attend(struct kit *k);
void kit_step(struct kit *k);
void kit_quant(struct kit *k);
void kit_refusals(struct kit *k);
/* The reference against what is known otherwise. */
void kit_anchors(struct kit *k);
/* The thread pool. */
void kit_tiles(struct kit *k);
/* Speeds, to standard output. */
int kit_bench(const char *device, const char *kernel, uint32_t threads,
	      const char *only);

#endif
