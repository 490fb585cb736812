/* pool.h - a fixed number of threads over a list of independent items. */
#ifndef LIBFMT_BASE_POOL_H
#define LIBFMT_BASE_POOL_H

#include <stdint.h>

struct err;
struct progress;

struct pool {
	uint32_t count, threads; /* items; threads of 0 count as 1 */
	/* Item i; many at a time, started in rising order. */
	int (*fn)(void *ctx, uint32_t i, struct err *err);
	/* How much of the progress item i is; NULL: 1. */
	uint64_t (*cost)(void *ctx, uint32_t i);
	void *ctx;
	const char *what;        /* for the progress, which may be NULL */
	const struct progress *progress;
};

/* Do all items.  The first failure (of the lowest item) ends the work. */
int pool_run(const struct pool *p, struct err *err);

#endif
