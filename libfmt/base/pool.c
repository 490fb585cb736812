#include "pool.h"

#include "err.h"
#include "mem.h"

#include <pthread.h>
#include <stdlib.h>

struct state {
	const struct pool *p;
	pthread_mutex_t lock; /* over all that follows, and the callback */
	uint32_t next;
	uint64_t done, total;
	uint32_t failed; /* the item; p->count: none */
	struct err err;
};

static uint64_t cost(const struct pool *p, uint32_t i)
{
	return p->cost ? p->cost(p->ctx, i) : 1;
}

/* Under the lock: note how item i ended. */
static void finish(struct state *s, uint32_t i, int ret, const struct err *e)
{
	const struct pool *p = s->p;

	s->done += cost(p, i);
	if (ret) {
		if (i < s->failed) {
			s->failed = i;
			s->err = *e;
		}
	} else if (s->failed == p->count &&
		   prog_step(p->progress, p->what, s->done, s->total,
			     &s->err)) {
		s->failed = i;
	}
}

static void *work(void *arg)
{
	struct state *s = arg;
	struct err e;

	pthread_mutex_lock(&s->lock);
	while (s->failed == s->p->count && s->next < s->p->count) {
		uint32_t i = s->next++;
		int ret;

		pthread_mutex_unlock(&s->lock);
		ret = s->p->fn(s->p->ctx, i, &e);
		pthread_mutex_lock(&s->lock);
		finish(s, i, ret, &e);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

int pool_run(const struct pool *p, struct err *err)
{
	struct state s = { .p = p, .failed = p->count };
	uint32_t want = p->threads < p->count ? p->threads : p->count;
	uint32_t started = 0;
	pthread_t *thread = mem_alloc(want, sizeof(*thread), err);

	if (!thread)
		return -1;
	for (uint32_t i = 0; i < p->count; i++)
		s.total += cost(p, i);
	pthread_mutex_init(&s.lock, NULL);
	/* the caller works too; where no thread can be had, alone */
	while (started + 1 < want &&
	       !pthread_create(&thread[started], NULL, work, &s))
		started++;
	work(&s);
	for (uint32_t i = 0; i < started; i++)
		pthread_join(thread[i], NULL);
	pthread_mutex_destroy(&s.lock);
	free(thread);
	if (s.failed == p->count)
		return 0;
	*err = s.err;
	return -1;
}
