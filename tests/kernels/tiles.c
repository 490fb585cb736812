/* tiles.c - the thread pool: every tile once, on a thread that may take it. */
#include "../../kernels/tile.h"
#include "kit.h"

#include <stdatomic.h>
#include <string.h>

#define MOST 300

struct loop {
	_Atomic uint32_t times[MOST];
	_Atomic uint32_t strangers; /* threads beyond the limit */
	uint32_t limit;
};

static void count_tile(void *ctx, uint32_t tile, uint32_t self)
{
	struct loop *l = ctx;

	atomic_fetch_add(&l->times[tile], 1);
	if (self >= l->limit)
		atomic_fetch_add(&l->strangers, 1);
	/* now and then a tile that takes longer */
	for (volatile uint32_t i = 0; tile % 64 == 7 && i < 2000; i++)
		;
}

static void loops(struct kit *k, struct tile_pool *pool, uint32_t rounds)
{
	static struct loop l;

	for (uint32_t r = 0; r < rounds; r++) {
		uint32_t tiles = kit_below(k, MOST + 1);

		memset(&l, 0, sizeof(l));
		l.limit = 1 + kit_below(k, tile_threads(pool) + 2);
		tile_run(pool, l.limit, tiles, count_tile, &l);
		for (uint32_t t = 0; t < MOST; t++)
			if (l.times[t] != (t < tiles)) {
				kit_fail(k, "tile %u of %u ran %u times", t,
					 tiles, l.times[t]);
				return;
			}
		if (l.strangers) {
			kit_fail(k, "%u tiles on threads beyond %u",
				 l.strangers, l.limit);
			return;
		}
	}
}

void kit_tiles(struct kit *k)
{
	static const uint32_t threads[] = { 0, 1, 2, 3, 8 };
	struct tile_pool *pool = NULL;

	k->what = "tiles";
	for (uint32_t i = 0; i < sizeof(threads) / sizeof(threads[0]); i++) {
		kit_case(k, "%u threads", threads[i]);
		if (tile_open(threads[i], &pool, &k->err)) {
			kit_fail(k, "%s", k->err.msg);
			continue;
		}
		if (tile_threads(pool) > (threads[i] ? threads[i] : 1))
			kit_fail(k, "%u threads", tile_threads(pool));
		loops(k, pool, 1000);
		tile_close(pool);
	}
	tile_close(NULL);
	if (!tile_cores())
		kit_fail(k, "no cores");
}
