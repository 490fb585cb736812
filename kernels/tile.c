#include "tile.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

/* More CPUs than this are not counted. */
#define TILE_CPUS 4096

void tile_run(uint32_t threads, uint32_t tiles,
	      void (*fn)(void *ctx, uint32_t tile), void *ctx)
{
#ifdef _OPENMP
	/* The team keeps one size even when there are fewer tiles: libgomp
	 * ends threads when a team shrinks and starts them again later. */
	if (threads > 1 && tiles > 1 && threads <= TILE_CPUS) {
#pragma omp parallel for num_threads((int)threads) schedule(static, 1)
		for (uint32_t t = 0; t < tiles; t++)
			fn(ctx, t);
		return;
	}
#else
	(void)threads;
#endif
	for (uint32_t t = 0; t < tiles; t++)
		fn(ctx, t);
}

uint32_t tile_self(void)
{
#ifdef _OPENMP
	return (uint32_t)omp_get_thread_num();
#else
	return 0;
#endif
}

/* Up to two numbers from a file of one line; "max" and no file give fewer. */
static int read_pair(const char *path, long long *a, long long *b)
{
	FILE *f = fopen(path, "re");
	int n;

	if (!f)
		return 0;
	n = fscanf(f, "%lld %lld", a, b);
	fclose(f);
	return n;
}

/* The cgroup's quota in whole cores, rounded up; 0 when there is none.
 * Source: kernel documentation, cgroup-v2.rst (cpu.max: "quota period") and
 * sched-bwc.rst (cpu.cfs_quota_us, cpu.cfs_period_us). */
static uint32_t quota(void)
{
	long long q = 0, p = 0, unused;

	if (read_pair("/sys/fs/cgroup/cpu.max", &q, &p) != 2 &&
	    (read_pair("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", &q,
		       &unused) != 1 ||
	     read_pair("/sys/fs/cgroup/cpu/cpu.cfs_period_us", &p,
		       &unused) != 1))
		return 0;
	if (q <= 0 || p <= 0 || (q - 1) / p >= TILE_CPUS)
		return 0;
	return (uint32_t)((q - 1) / p + 1);
}

uint32_t tile_cores(void)
{
	/* Larger than cpu_set_t: the call fails when the mask is too small
	 * for the kernel. */
	unsigned long mask[TILE_CPUS / (8 * sizeof(unsigned long))];
	uint32_t n = 0, limit = quota();

	memset(mask, 0, sizeof(mask));
	if (sched_getaffinity(0, sizeof(mask), (cpu_set_t *)(void *)mask) == 0)
		for (size_t i = 0; i < sizeof(mask) / sizeof(mask[0]); i++)
			n += (uint32_t)__builtin_popcountl(mask[i]);
	if (limit && limit < n)
		n = limit;
	return n ? n : 1;
}
