/* The best of a row of logits.  A candidate is compared with the worst that is
 * kept; few get further once the first ones are kept, so that one pass over
 * the row is all there is. */
#include "cpu.h"
#include "topk.h"

#include "../shape.h"

#include <math.h>
#include <string.h>

static int better(const struct be_top *a, const struct be_top *b)
{
	return a->value > b->value || (a->value == b->value && a->id < b->id);
}

double cpu_top_value(const struct be_topk *t, uint32_t id)
{
	double v = ((const float *)t->x.p)[id];

	if (isnan(v))
		v = -INFINITY;
	for (uint32_t i = 0; i < t->recents; i++)
		if (t->recent[i] == id) {
			v = v > 0 ? v / t->penalty : v * t->penalty;
			break;
		}
	return v / t->temp;
}

/* Into its place among the n kept ones, the last of which may go. */
static void keep(struct be_top *best, uint32_t n, uint32_t k, struct be_top c)
{
	uint32_t at = n < k ? n : k - 1;

	for (; at && better(&c, &best[at - 1]); at--)
		best[at] = best[at - 1];
	best[at] = c;
}

struct job {
	const struct be_topk *t;
};

static void topk_row(void *ctx, uint32_t row, uint32_t self)
{
	const struct be_topk *t = ((const struct job *)ctx)->t + row;
	const float *x = t->x.p;
	struct be_top *best = t->best;
	float floor = -INFINITY; /* what a logit must reach to count */
	uint32_t n = 0;

	(void)self;
	for (uint32_t i = 0; i < t->x.cols; i++) {
		struct be_top c;

		/* with a penalty a logit says little about its value */
		if (!t->recents && n == t->k && !(x[i] > floor))
			continue;
		c = (struct be_top){ cpu_top_value(t, i), i, 0 };
		if (n == t->k && !better(&c, &best[n - 1]))
			continue;
		keep(best, n, t->k, c);
		n += n < t->k;
		if (n == t->k && !isnan(x[best[n - 1].id]))
			floor = x[best[n - 1].id];
	}
}

int cpu_topk(struct be *be, const struct be_topk *t, uint32_t n,
	     struct err *err)
{
	struct job j = { t };

	for (uint32_t i = 0; i < n; i++)
		if (be_shape_topk(&t[i], err))
			return -1;
	cpu_run(be, n, topk_row, &j);
	return 0;
}
