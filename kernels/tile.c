#include "tile.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More CPUs than this are not counted. */
#define TILE_CPUS 4096
/* How often a thread looks for work before it sleeps: some 50 microseconds,
 * the pause between two loops of a decoding step. */
#define SPIN 2000

/* The loop at hand is fn, ctx, tiles.  The ticket says who may take what: the
 * tiles that are left in its low half, and how many threads may take part in
 * its high half.  Who has taken a tile may read the loop, for it is not over
 * before that tile is done; nobody else may. */
struct tile_pool {
	_Alignas(64) _Atomic uint64_t ticket;
	_Alignas(64) _Atomic uint32_t done; /* tiles */
	_Alignas(64) void (*fn)(void *ctx, uint32_t tile, uint32_t self);
	void *ctx;
	uint32_t tiles;

	uint32_t threads; /* with the caller of tile_run */
	struct worker *worker;
	pthread_mutex_t lock;
	pthread_cond_t work;
	_Atomic uint32_t asleep;
	_Atomic int quit;
};

struct worker {
	struct tile_pool *pool;
	uint32_t self;
	pthread_t thread;
};

static void pause_a_little(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
	__asm__ __volatile__("yield");
#endif
}

static int may_take(uint64_t ticket, uint32_t self)
{
	return (uint32_t)ticket && self < ticket >> 32;
}

/* Take and do tiles until none is left. */
static void take_tiles(struct tile_pool *p, uint32_t self)
{
	uint64_t t = atomic_load_explicit(&p->ticket, memory_order_relaxed);

	while (may_take(t, self)) {
		/* a failed exchange reloads t */
		if (!atomic_compare_exchange_weak_explicit(
			    &p->ticket, &t, t - 1, memory_order_acquire,
			    memory_order_relaxed))
			continue;
		p->fn(p->ctx, p->tiles - (uint32_t)t, self);
		atomic_fetch_add_explicit(&p->done, 1, memory_order_release);
		t = atomic_load_explicit(&p->ticket, memory_order_relaxed);
	}
}

/* Sleep until there is work or the pool closes. */
static void sleep_on(struct tile_pool *p, uint32_t self)
{
	pthread_mutex_lock(&p->lock);
	/* First asleep, then a look at the ticket; tile_run does it the other
	 * way round, so that one of them sees the other. */
	atomic_fetch_add(&p->asleep, 1);
	while (!may_take(atomic_load(&p->ticket), self) &&
	       !atomic_load(&p->quit))
		pthread_cond_wait(&p->work, &p->lock);
	atomic_fetch_sub(&p->asleep, 1);
	pthread_mutex_unlock(&p->lock);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct tile_pool *p = w->pool;
	uint32_t idle = 0;

	while (!atomic_load_explicit(&p->quit, memory_order_relaxed)) {
		if (may_take(atomic_load_explicit(&p->ticket,
						  memory_order_relaxed),
			     w->self)) {
			take_tiles(p, w->self);
			idle = 0;
		} else if (++idle < SPIN) {
			pause_a_little();
		} else {
			sleep_on(p, w->self);
			idle = 0;
		}
	}
	return NULL;
}

static void wake(struct tile_pool *p)
{
	pthread_mutex_lock(&p->lock);
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->lock);
}

uint32_t tile_threads(const struct tile_pool *p)
{
	return p->threads;
}

void tile_run(struct tile_pool *p, uint32_t threads, uint32_t tiles,
	      void (*fn)(void *ctx, uint32_t tile, uint32_t self), void *ctx)
{
	if (threads <= 1 || p->threads <= 1 || tiles <= 1) {
		for (uint32_t t = 0; t < tiles; t++)
			fn(ctx, t, 0);
		return;
	}
	p->fn = fn;
	p->ctx = ctx;
	p->tiles = tiles;
	atomic_store_explicit(&p->done, 0, memory_order_relaxed);
	atomic_store(&p->ticket, (uint64_t)threads << 32 | tiles);
	if (atomic_load(&p->asleep))
		wake(p);
	take_tiles(p, 0);
	/* others are at their last tiles; let them have this core if it is
	 * the one they lack */
	for (uint32_t i = 0; atomic_load_explicit(&p->done,
						  memory_order_acquire) < tiles;
	     i++) {
		if (i < SPIN)
			pause_a_little();
		else
			sched_yield();
	}
}

/* Signals are for the program's own thread. */
static void start_workers(struct tile_pool *p, uint32_t threads)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	for (uint32_t i = 1; i < threads; i++) {
		struct worker *w = &p->worker[i];

		w->pool = p;
		w->self = i;
		if (pthread_create(&w->thread, NULL, work, w))
			break;
		p->threads = i + 1;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

int tile_open(uint32_t threads, struct tile_pool **out, struct err *err)
{
	struct tile_pool *p;

	*out = NULL;
	if (threads < 1)
		threads = 1;
	if (threads > TILE_THREADS)
		threads = TILE_THREADS;
	p = mem_alloc(1, sizeof(*p), err);
	if (!p)
		return -1;
	p->worker = mem_alloc(threads, sizeof(*p->worker), err);
	if (!p->worker) {
		free(p);
		return -1;
	}
	p->threads = 1;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	start_workers(p, threads);
	*out = p;
	return 0;
}

void tile_close(struct tile_pool *p)
{
	if (!p)
		return;
	atomic_store(&p->quit, 1);
	wake(p);
	for (uint32_t i = 1; i < p->threads; i++)
		pthread_join(p->worker[i].thread, NULL);
	pthread_cond_destroy(&p->work);
	pthread_mutex_destroy(&p->lock);
	free(p->worker);
	free(p);
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
