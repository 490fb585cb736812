/* The path of a pass:
 *
 *	ids -> embed -> x [tokens][hidden] -> blocks -> final norm -> head
 *
 * With two devices the first blocks run on one, and x goes to the other for the
 * last ones and the head.
 *
 * Prefill is a pass of many tokens of one sequence, decoding one of a token of
 * each; they are one path, but for where keys and values go.  The head is run
 * for the rows whose logits are wanted: the last one, or all of them some rows
 * at a time, since [tokens][vocab] of a large vocabulary is large. */
#include "llm.h"
#include "llm_step.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <assert.h>
#include <stdlib.h>

/* Host and device memory that llm_forward's logits take, each, at most (but
 * always one row). */
#define LOGITS_BYTES (32u << 20)

void llm_reset(struct llm *l)
{
	l->used[l->sequence] = 0;
}

void llm_rewind(struct llm *l, uint32_t n)
{
	if (l->used[l->sequence] > n)
		l->used[l->sequence] = n;
}

/* Before anything runs, so that a refused call leaves the cache as it was. */
static int check_ids(const struct llm *l, uint32_t sequence,
		     const uint32_t *id, uint32_t n, struct err *err)
{
	const uint32_t used = l->used[sequence];

	if (n > l->context - used)
		return err_set(err, ERR_UNSUP,
			       "the context is full: %u positions, %u in use, "
			       "%u more asked for", l->context, used, n);
	for (uint32_t i = 0; i < n; i++)
		if (id[i] >= l->cfg.vocab)
			return err_set(err, ERR_INPUT,
				       "token id %u, expected less than the "
				       "vocabulary's %u", id[i], l->cfg.vocab);
	return 0;
}

/* Where the tokens of a pass stand. */
struct place {
	uint32_t sequence, first; /* in a row; or, with seen, */
	uint32_t seen;            /* as l->at says, none beyond this */
};

static int run_part(struct llm *l, struct llm_part *part, uint32_t n,
		    const struct place *to, struct err *err)
{
	const struct rt_dev *d = &part->dev;
	struct be_mat x = be_rows(&part->x, 0, n);
	struct rt_pass p = {
		.dev = d, .cfg = &l->cfg, .rope = &part->rope,
		.work = &part->work, .kv = &part->kv,
		.sequence = to->sequence, .first = to->first,
		.at = to->seen ? part->at : NULL, .seen = to->seen,
	};

	if (n == 1 && part->step)
		return d->api->step(d->be, part->step, &x, to->first, err);
	if (!p.at)
		return llm_blocks_run(l, part, &p, &x, err);
	if (d->api->put(d->be, part->at, l->at, n * sizeof(*l->at), err))
		return -1;
	return llm_blocks_replay(l, part, &p, &x, err);
}

/* n hidden states from one part's device to the next one's. */
static int cross(struct llm *l, uint32_t n, struct err *err)
{
	const struct llm_part *from = &l->part[0], *to = &l->part[1];
	size_t bytes = (size_t)n * l->cfg.hidden * sizeof(*l->cross);

	if (from->dev.api->get(from->dev.be, l->cross, from->x.p, bytes, err))
		return -1;
	return to->dev.api->put(to->dev.be, to->x.p, l->cross, bytes, err);
}

/* n <= batch tokens through all blocks; their hidden states are the first n
 * rows of the last part's x. */
static int run_blocks(struct llm *l, const uint32_t *id, uint32_t n,
		      const struct place *to, struct err *err)
{
	const struct rt_dev *d = &l->part[0].dev;
	struct be_mat x = be_rows(&l->part[0].x, 0, n);

	if (d->api->embed(d->be, &l->embed, id, &x, err))
		return -1;
	for (uint32_t i = 0; i < l->parts; i++)
		if ((i && cross(l, n, err)) ||
		    run_part(l, &l->part[i], n, to, err))
			return -1;
	return 0;
}

/* The next n <= batch tokens of l->sequence. */
static int run_next(struct llm *l, const uint32_t *id, uint32_t n,
		    struct err *err)
{
	const struct place to = { l->sequence, l->used[l->sequence], 0 };

	if (run_blocks(l, id, n, &to, err))
		return -1;
	l->used[l->sequence] += n;
	return 0;
}

/* Final norm and head of n hidden states, into the first rows of l->logits. */
static int run_head(struct llm *l, uint32_t first, uint32_t n, struct err *err)
{
	const struct llm_part *last = llm_last(l);
	const struct rt_dev *d = &last->dev;
	struct be_mat x = be_rows(&last->x, first, n);
	struct be_mat norm = be_rows(&last->work.norm, 0, n);
	struct be_mat y = be_rows(&l->logits, 0, n);

	if (d->api->rmsnorm(d->be, &x, &l->norm, l->cfg.eps, &norm, err))
		return -1;
	return rt_linear_run(d, &l->head, &norm, &y, err);
}

/* The same, and the logits to host [n][vocab]. */
static int fetch_logits(struct llm *l, uint32_t first, uint32_t n, float *host,
			struct err *err)
{
	const struct rt_dev *d = &llm_last(l)->dev;

	if (run_head(l, first, n, err))
		return -1;
	return d->api->get(d->be, host, l->logits.p,
			   (size_t)n * l->cfg.vocab * sizeof(float), err);
}

int llm_prefill(struct llm *l, const uint32_t *id, uint32_t n, float *logits,
		const struct progress *p, struct err *err)
{
	uint32_t part = 0;

	if (check_ids(l, l->sequence, id, n, err))
		return -1;
	for (uint32_t i = 0; i < n; i += part) {
		part = n - i < l->batch ? n - i : l->batch;
		if (prog_step(p, "prefill", i, n, err) ||
		    run_next(l, id + i, part, err))
			return -1;
	}
	if (n && logits && fetch_logits(l, part - 1, 1, logits, err))
		return -1;
	return prog_step(p, "prefill", n, n, err);
}

int llm_step(struct llm *l, uint32_t id, const struct be_topk *t,
	     struct err *err)
{
	const struct llm_next next = { l->sequence, id };
	struct be_topk ask = *t;

	return llm_step_many(l, &next, 1, &ask, NULL, err);
}

static void take_back(struct llm *l, const struct llm_next *next, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		l->used[next[i].sequence]--;
}

/* The tokens take their places, each behind the last of its sequence. */
static int place(struct llm *l, const struct llm_next *next, uint32_t n,
		 struct place *to, struct err *err)
{
	uint32_t i;

	*to = (struct place){ next[0].sequence, l->used[next[0].sequence], 0 };
	for (i = 0; i < n; i++) {
		uint32_t s = next[i].sequence, *used = &l->used[s];

		if (check_ids(l, s, &next[i].id, 1, err))
			break;
		l->at[i] = (struct be_at){ s * l->context, (*used)++ };
		l->id[i] = next[i].id;
		to->seen = *used > to->seen ? *used : to->seen;
	}
	if (i == n)
		return 0;
	take_back(l, next, i);
	return -1;
}

static int best_of(struct llm *l, struct be_topk *ask, uint32_t n,
		   struct err *err)
{
	const struct rt_dev *d = &llm_last(l)->dev;

	if (run_head(l, 0, n, err))
		return -1;
	for (uint32_t i = 0; i < n; i++)
		ask[i].x = be_rows(&l->logits, i, 1);
	return d->api->topk(d->be, ask, n, err);
}

int llm_step_many(struct llm *l, const struct llm_next *next, uint32_t n,
		  struct be_topk *ask, float *logits, struct err *err)
{
	struct place to;
	int ret;

	assert(n <= l->sequences);
	if (!n)
		return 0;
	if (place(l, next, n, &to, err))
		return -1;
	ret = run_blocks(l, l->id, n, &to, err);
	if (!ret && logits)
		ret = fetch_logits(l, 0, n, logits, err);
	else if (!ret && ask)
		ret = best_of(l, ask, n, err);
	if (ret)
		take_back(l, next, n);
	return ret;
}

/* Room for the logits of several rows at once; made on the first call, since
 * plain generation needs one row. */
static int grow_logits(struct llm *l, struct err *err)
{
	uint64_t fit = LOGITS_BYTES / (sizeof(float) * l->cfg.vocab);
	uint32_t rows = fit < l->batch ? (uint32_t)fit : l->batch;
	const struct rt_dev *d = &llm_last(l)->dev;
	struct be_mat more;
	float *host;

	if (rows < l->sequences)
		rows = l->sequences;
	if (l->host)
		return 0;
	if (be_mat_new(d->api, d->be, rows, l->cfg.vocab, DT_F32, &more, err))
		return -1;
	host = mem_alloc((size_t)rows * l->cfg.vocab, sizeof(*host), err);
	if (!host) {
		be_mat_free(d->api, d->be, &more);
		return -1;
	}
	be_mat_free(d->api, d->be, &l->logits);
	l->logits = more;
	l->host = host;
	return 0;
}

/* The logits of the n hidden states, of which the first is token
 * `first` of the call. */
static int hand_out(struct llm *l, uint32_t first, uint32_t n,
		    const struct llm_rows *rows, struct err *err)
{
	uint32_t part;

	for (uint32_t i = 0; i < n; i += part) {
		part = n - i < l->logits.rows ? n - i : l->logits.rows;
		if (fetch_logits(l, i, part, l->host, err) ||
		    rows->fn(rows->ctx, first + i, part, l->host, err))
			return -1;
	}
	return 0;
}

int llm_forward(struct llm *l, const uint32_t *id, uint32_t n,
		const struct llm_rows *rows, const struct progress *p,
		struct err *err)
{
	uint32_t part;

	if (check_ids(l, l->sequence, id, n, err) || grow_logits(l, err))
		return -1;
	for (uint32_t i = 0; i < n; i += part) {
		part = n - i < l->batch ? n - i : l->batch;
		if (prog_step(p, "prefill", i, n, err) ||
		    run_next(l, id + i, part, err) ||
		    hand_out(l, i, part, rows, err))
			return -1;
	}
	return prog_step(p, "prefill", n, n, err);
}
