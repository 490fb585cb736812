#include "sample.h"

#include "../kernels/backend.h"
#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <math.h>
#include <stdlib.h>

struct cand {
	double logit;
	uint32_t id;
};

/* The candidates are a heap, so that only as many are put in order as the
 * limits or the draw need: the i-th best ends up at cand[vocab - 1 - i]. */
struct sampler {
	struct sample_params p;
	uint32_t vocab;
	uint32_t sorted;          /* candidates taken off the heap */
	struct cand *cand;        /* [vocab] */
	uint32_t *recent;         /* [SAMPLE_RECENT], a ring */
	uint32_t *distinct;       /* [SAMPLE_RECENT], what it holds */
	uint64_t accepted;        /* tokens ever told of */
	uint64_t rng[4];
	void *mem;
};

/* ---- random numbers ---- */

/* SplitMix64, the seeding recommended for xoshiro: Steele, Lea, Flood 2014. */
static uint64_t splitmix(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static uint64_t rotl(uint64_t x, int k)
{
	return x << k | x >> (64 - k);
}

/* xoshiro256**: Blackman, Vigna, "Scrambled linear pseudorandom number
 * generators", 2018. */
static uint64_t xoshiro(uint64_t s[4])
{
	uint64_t result = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotl(s[3], 45);
	return result;
}

/* In [0, 1), 53 bits. */
static double uniform(struct sampler *s)
{
	return (double)(xoshiro(s->rng) >> 11) * 0x1p-53;
}

/* ---- the heap ---- */

static int better(const struct cand *a, const struct cand *b)
{
	return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

/* Move the root of the heap cand[0..n) down to its place. */
static void sift(struct cand *c, uint32_t root, uint32_t n)
{
	struct cand x = c[root];

	for (uint64_t i = root;;) {
		uint64_t child = 2 * i + 1;

		if (child + 1 < n && better(&c[child + 1], &c[child]))
			child++;
		if (child >= n || !better(&c[child], &x)) {
			c[i] = x;
			return;
		}
		c[i] = c[child];
		i = child;
	}
}

static void heapify(struct sampler *s)
{
	for (uint32_t i = s->vocab / 2; i-- > 0;)
		sift(s->cand, i, s->vocab);
	s->sorted = 0;
}

/* The i-th best candidate, i < vocab. */
static const struct cand *nth(struct sampler *s, uint32_t i)
{
	while (s->sorted <= i) {
		uint32_t last = s->vocab - 1 - s->sorted++;
		struct cand top = s->cand[0];

		s->cand[0] = s->cand[last];
		if (last)
			sift(s->cand, 0, last);
		s->cand[last] = top;
	}
	return &s->cand[s->vocab - 1 - i];
}

/* ---- choosing ---- */

/* Each recent token that the penalty is for once, however often it occurred,
 * into s->distinct. */
static uint32_t penalized(struct sampler *s)
{
	uint64_t n = s->accepted < SAMPLE_RECENT ? s->accepted : SAMPLE_RECENT;
	uint32_t count = 0;

	if (!(s->p.repeat_penalty < 1 || s->p.repeat_penalty > 1))
		return 0;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t id = s->recent[i], seen = 0;

		for (uint32_t j = 0; j < count && !seen; j++)
			seen = s->distinct[j] == id;
		if (!seen && id < s->vocab)
			s->distinct[count++] = id;
	}
	return count;
}

static void penalize(struct sampler *s)
{
	uint32_t n = penalized(s);

	for (uint32_t i = 0; i < n; i++) {
		double *l = &s->cand[s->distinct[i]].logit;

		*l = *l > 0 ? *l / s->p.repeat_penalty
			    : *l * s->p.repeat_penalty;
	}
}

static uint32_t greedy(const struct sampler *s)
{
	uint32_t best = 0;

	for (uint32_t i = 1; i < s->vocab; i++)
		if (s->cand[i].logit > s->cand[best].logit)
			best = i;
	return best;
}

/* The candidates that stay are a prefix of the sorted order: its length, and
 * in *mass the sum of exp(logit - max) over it. */
static uint32_t limit(struct sampler *s, double *mass)
{
	uint32_t k = s->p.top_k && s->p.top_k < s->vocab ? s->p.top_k
							 : s->vocab;
	uint32_t n = 0;
	double max = nth(s, 0)->logit, total = 0, kept = 0;

	/* Without top-k the order of this sum is the heap's: as fixed as
	 * the sorted one, and the heap need not be emptied for it. */
	for (uint32_t i = 0; i < k; i++)
		total += exp((k < s->vocab ? nth(s, i) : &s->cand[i])->logit -
			     max);
	*mass = total;
	if (s->p.top_p >= 1 && s->p.min_p <= 0)
		return k;
	while (n < k && (s->p.top_p >= 1 || kept < s->p.top_p * total)) {
		double w = exp(nth(s, n)->logit - max);

		if (w < s->p.min_p)
			break;
		kept += w;
		n++;
	}
	*mass = kept;
	return n;
}

static uint32_t draw(struct sampler *s, uint32_t n, double mass)
{
	double target = uniform(s) * mass, sum = 0, w;
	double max = nth(s, 0)->logit;
	uint32_t id = nth(s, 0)->id;

	/* Rounding may leave the sum short of the target: then the last
	 * candidate of any weight is taken. */
	for (uint32_t i = 0; i < n && sum <= target; i++) {
		w = exp(nth(s, i)->logit - max);
		if (w <= 0)
			break;
		id = nth(s, i)->id;
		sum += w;
	}
	return id;
}

/* From candidates that are a heap or sorted as far as they are looked at. */
static uint32_t choose(struct sampler *s)
{
	double mass;
	uint32_t n;

	/* An infinite best logit leaves no differences to weigh. */
	if (isinf(nth(s, 0)->logit)) {
		uniform(s);
		return nth(s, 0)->id;
	}
	n = limit(s, &mass);
	return draw(s, n, mass);
}

uint32_t rt_sampler_next(struct sampler *s, const float *logits)
{
	for (uint32_t i = 0; i < s->vocab; i++) {
		double l = logits[i];

		s->cand[i].logit = isnan(l) ? -INFINITY : l;
		s->cand[i].id = i;
	}
	penalize(s);
	if (s->p.temp <= 0)
		return greedy(s);
	for (uint32_t i = 0; i < s->vocab; i++)
		s->cand[i].logit /= s->p.temp;
	heapify(s);
	return choose(s);
}

uint32_t rt_sampler_ask(struct sampler *s, struct be_topk *t)
{
	uint32_t k = s->p.temp <= 0 ? 1 : s->p.top_k;

	/* limit() adds up a whole vocabulary in the order of the heap */
	if (!k || k > BE_TOP_MAX || (k >= s->vocab && s->p.temp > 0))
		return 0;
	t->recents = penalized(s);
	t->recent = s->distinct;
	t->penalty = s->p.repeat_penalty;
	t->temp = s->p.temp <= 0 ? 1 : s->p.temp;
	t->k = k;
	return k;
}

uint32_t rt_sampler_pick(struct sampler *s, const struct be_top *best,
			 uint32_t n)
{
	if (s->p.temp <= 0)
		return best[0].id;
	for (uint32_t i = 0; i < n; i++)
		s->cand[s->vocab - 1 - i] =
			(struct cand){ best[i].value, best[i].id };
	s->sorted = n;
	return choose(s);
}
void rt_sampler_accept(struct sampler *s, uint32_t id)
{
	s->recent[s->accepted++ % SAMPLE_RECENT] = id;
}

/* ---- life ---- */

static int check(const struct sample_params *p, struct err *err)
{
	if (!(p->temp >= 0) || isinf(p->temp))
		return err_set(err, ERR_USAGE,
			       "temperature %g is not a number from 0 up",
			       p->temp);
	if (!(p->top_p > 0 && p->top_p <= 1))
		return err_set(err, ERR_USAGE, "top-p %g is not in (0, 1]",
			       p->top_p);
	if (!(p->min_p >= 0 && p->min_p <= 1))
		return err_set(err, ERR_USAGE, "min-p %g is not in [0, 1]",
			       p->min_p);
	if (!(p->repeat_penalty > 0) || isinf(p->repeat_penalty))
		return err_set(err, ERR_USAGE,
			       "repeat penalty %g is not a number above 0",
			       p->repeat_penalty);
	return 0;
}

int rt_sampler_new(const struct sample_params *p, uint32_t vocab,
		   struct sampler **out, struct err *err)
{
	struct sampler *s;
	uint64_t state = p->seed;

	*out = NULL;
	if (check(p, err))
		return -1;
	if (!vocab)
		return err_set(err, ERR_INPUT, "the vocabulary is empty");
	s = mem_alloc(1, sizeof(*s), err);
	if (!s)
		return -1;
	const struct mem_part part[] = {
		{ (void **)&s->cand, vocab, sizeof(*s->cand) },
		{ (void **)&s->recent, SAMPLE_RECENT, sizeof(*s->recent) },
		{ (void **)&s->distinct, SAMPLE_RECENT, sizeof(*s->distinct) },
	};

	s->mem = mem_block(part, 3, err);
	if (!s->mem) {
		free(s);
		return -1;
	}
	s->p = *p;
	s->vocab = vocab;
	for (int i = 0; i < 4; i++)
		s->rng[i] = splitmix(&state);
	*out = s;
	return 0;
}

void rt_sampler_free(struct sampler *s)
{
	if (!s)
		return;
	free(s->mem);
	free(s);
}
