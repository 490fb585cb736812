/* tile.h - parallel loops over tiles that are cut by shape, never by thread.
 *
 * The tile a number belongs to, and so the order of every sum, depends on the
 * shape alone: results are equal for any number of threads, whichever thread
 * takes a tile.
 *
 * Threads take the next tile when they are done with one, and a thread that
 * has not come (others may be at work on the machine) is not waited for:
 * whoever is there does the tiles.  That is why this is not an OpenMP loop,
 * whose end waits for the whole team. */
#ifndef KERNELS_TILE_H
#define KERNELS_TILE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct err;
struct tile_pool;

/* A pool of `threads` threads, the caller among them; at most TILE_THREADS,
 * and fewer when the system gives fewer.  One thread drives one pool. */
#define TILE_THREADS 1024
int tile_open(uint32_t threads, struct tile_pool **out, struct err *err);
void tile_close(struct tile_pool *p); /* accepts NULL */
uint32_t tile_threads(const struct tile_pool *p);

/* Call fn for tile = 0..tiles-1 on at most `threads` threads of the pool and
 * return when all are done.  `self` is the thread, 0..threads-1, for scratch
 * memory of its own; 0 is the caller of tile_run.  Loops do not nest. */
void tile_run(struct tile_pool *p, uint32_t threads, uint32_t tiles,
	      void (*fn)(void *ctx, uint32_t tile, uint32_t self), void *ctx);

/* Cores this process may use (affinity and cgroup quota), at least 1. */
uint32_t tile_cores(void);

#ifdef __cplusplus
}
#endif

#endif
