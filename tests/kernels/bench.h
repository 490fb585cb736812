/* bench.h - what the files of the bench share. */
#ifndef TESTS_KERNELS_BENCH_H
#define TESTS_KERNELS_BENCH_H

#include "kit.h"

#define RUNS 7
#define CACHE ((size_t)192 << 20) /* more than this is in memory */
#define COPIES 64

struct bench {
	const struct be_api *api;
	struct be *be;
	struct err err;
	uint32_t threads;
	double peak_bytes, peak_flops; /* per second; 0: not known */
	int failed;
};

/* One figure: what to run, and its work. */
struct item {
	struct bench *b;
	int (*run)(struct item *it, uint32_t turn);
	double bytes, flops;
	const char *kernel;
	void *ctx;
};

/* Run it and print its line. */
void bench_report(struct item *it, const char *what);
/* A matrix of noise; memory that runs out fails the bench. */
struct be_mat bench_matrix(struct bench *b, uint32_t rows, uint32_t cols,
			   enum dtype type);
/* How many copies of so many bytes no cache holds. */
uint32_t bench_copies(double bytes);
/* "f16" */
const char *bench_type(enum dtype t);

/* bench_rows.c: attention; new tokens into the cache, and operations row by
 * row. */
void bench_attention(struct bench *b);
void bench_rows(struct bench *b);

#endif
