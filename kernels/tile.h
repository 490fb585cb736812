/* tile.h - parallel loops over tiles that are cut by shape, never by thread.
 *
 * The tile a number belongs to, and so the order of every sum, depends on the
 * shape alone: results are equal for any number of threads.  Loops do not
 * nest: fn must not call tile_run. */
#ifndef KERNELS_TILE_H
#define KERNELS_TILE_H

#include <stdint.h>

/* Call fn(ctx, tile) for tile = 0..tiles-1 on `threads` threads; thread t takes
 * tiles t, t + threads, ... in this order.  Serial when it is not worth
 * starting threads (tiles == 1). */
void tile_run(uint32_t threads, uint32_t tiles,
	      void (*fn)(void *ctx, uint32_t tile), void *ctx);

/* Inside fn: which thread this is, 0..threads-1, for scratch memory of one's
 * own; 0 outside. */
uint32_t tile_self(void);

/* Cores this process may use (affinity and cgroup quota), at least 1. */
uint32_t tile_cores(void);

#endif
