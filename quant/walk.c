#include "walk.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/model.h"
#include "journal.h"
#include "walk_impl.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint32_t gq_walk_samples(const struct walk *w)
{
	return w->job.calib ? w->job.calib->samples : 1;
}

int gq_walk_step(struct walk *w, uint32_t n, struct err *err)
{
	w->done += n;
	return prog_step(w->job.progress, "quantize", w->done, w->total, err);
}

bool gq_walk_head_looks(const struct walk *w)
{
	const struct gq_targets *ts = &w->targets;

	return w->job.method->needs_hessian && ts->head &&
	       !ts->target[ts->count - 1].skip;
}

bool gq_walk_output_matters(const struct walk *w)
{
	return w->layer + 1 < w->job.cfg->layers || gq_walk_head_looks(w);
}

int gq_walk_streams(const struct walk *w)
{
	return w->job.method->compares ? GQ_STREAMS : GQ_OWN + 1;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- solving ---- */

static const struct gq_target *target_of(const struct walk *w, int which)
{
	return &w->targets.target[w->layer * LLAMA_LINEARS + (uint32_t)which];
}

static int solve(struct walk *w, const struct gq_target *target,
		 const struct gq_hess *h, struct ql *ql, struct err *err)
{
	struct gq_layer_report rep = { .seconds = now(), .in = target->in,
				       .out = target->out };
	struct gq_task t = { .dev = &w->dev, .params = &target->params,
			     .in = target->in, .out = target->out,
			     .hess = w->job.method->needs_hessian ? h : NULL };
	uint32_t place = (uint32_t)(target - w->targets.target);
	char hex[HASH_HEX];
	float *weight = NULL;
	int ret = -1;

	memcpy(rep.name, target->name, sizeof(rep.name));
	if (rt_weights(w->job.model, target->weight, t.in, t.out, &weight,
		       err))
		goto out;
	model_forget_all(w->job.model);
	t.w = weight;
	if (w->job.method->solve(&t, ql, &rep.r, err) ||
	    gq_output_layer(&w->out, place, ql, hex, err)) {
		err_ctx(err, "%s", rep.name);
		goto out;
	}
	rep.seconds = now() - rep.seconds;
	if (w->job.done)
		w->job.done(w->job.ctx, &rep);
	if (w->job.journal)
		cJSON_AddItemToArray(w->rows, gq_journal_row(&rep, hex));
	ret = gq_walk_step(w, 1, err);
out:
	free(weight);
	return ret;
}

/* One linear of the block; into the block at once, or left for later. */
static int solve_linear(struct walk *w, int which, struct err *err)
{
	enum llama_slot slot = llama_slot_of((enum llama_linear)which);
	struct ql *ql = &w->late[which];

	if (solve(w, target_of(w, which), &w->hess[slot], ql, err))
		return -1;
	if (!w->job.method->needs_hessian) {
		ql_release(ql);
		return 0;
	}
	if (!w->job.true_sequential)
		return 0;
	if (rt_linear_set(&w->dev, &w->stream[GQ_OWN].block.lin[which], ql,
			  err))
		return -1;
	ql_release(ql);
	return 0;
}

static int prepare(struct walk *w, struct gq_hess *h,
		   const struct gq_target *t, struct err *err)
{
	if (!w->job.method->needs_hessian)
		return 0;
	if (gq_hess_prepare(h, &w->dev, &t->params, err))
		return err_ctx(err, "%s", t->name);
	return 0;
}

/* Linears of a slot that want the same of its Hessian are solved together,
 * those that want another order (by a rule) in a round of their own. */
static int solve_slot(struct walk *w, enum llama_slot slot, struct err *err)
{
	bool todo[LLAMA_LINEARS], later;
	struct gq_hess *h = &w->hess[slot];

	for (int i = 0; i < LLAMA_LINEARS; i++)
		todo[i] = llama_slot_of((enum llama_linear)i) == slot &&
			  !target_of(w, i)->skip;
	for (int i = 0; i < LLAMA_LINEARS; i++) {
		const struct gq_target *first = target_of(w, i);
		bool round[LLAMA_LINEARS];

		if (!todo[i])
			continue;
		later = false;
		for (int k = i; k < LLAMA_LINEARS; k++) {
			round[k] = todo[k] && gq_hess_serves(&first->params,
						&target_of(w, k)->params);
			later |= todo[k] && !round[k];
		}
		if (prepare(w, h, first, err))
			return -1;
		if (!later)
			gq_hess_settle(h, &w->dev);
		for (int k = i; k < LLAMA_LINEARS; k++) {
			if (round[k] && solve_linear(w, k, err))
				return -1;
			todo[k] &= !round[k];
		}
	}
	return 0;
}

/* Nothing where every linear of the slot stays dense. */
static int hess_init(struct walk *w, enum llama_slot slot, struct err *err)
{
	for (int i = 0; i < LLAMA_LINEARS; i++)
		if (llama_slot_of((enum llama_linear)i) == slot &&
		    !target_of(w, i)->skip)
			return gq_pass_hess(w, &w->hess[slot],
					    gq_pass_inputs(w, slot), err);
	return 0;
}

/* Slot after slot, each with the inputs that the quantized slots before it
 * make. */
static int block_sequential(struct walk *w, struct err *err)
{
	for (int s = 0; s < LLAMA_SLOTS; s++) {
		enum llama_slot slot = (enum llama_slot)s;

		if (hess_init(w, slot, err) || gq_pass_gather(w, slot, err) ||
		    solve_slot(w, slot, err))
			return -1;
		gq_hess_release(&w->hess[slot], &w->dev);
	}
	return 0;
}

/* All Hessians from one pass through the dense block. */
static int block_at_once(struct walk *w, struct err *err)
{
	for (int s = 0; s < LLAMA_SLOTS; s++)
		if (hess_init(w, (enum llama_slot)s, err))
			return -1;
	if (gq_pass_gather_all(w, err))
		return -1;
	for (int s = 0; s < LLAMA_SLOTS; s++) {
		if (solve_slot(w, (enum llama_slot)s, err))
			return -1;
		gq_hess_release(&w->hess[s], &w->dev);
	}
	for (int i = 0; i < LLAMA_LINEARS; i++) {
		if (!target_of(w, i)->skip &&
		    rt_linear_set(&w->dev, &w->stream[GQ_OWN].block.lin[i],
				  &w->late[i], err))
			return -1;
		ql_release(&w->late[i]);
	}
	return 0;
}

/* The current block of each stream, OWN's from `own`. */
static int load_blocks(struct walk *w, const struct model *own,
		       struct err *err)
{
	for (int i = 0; i < gq_walk_streams(w); i++) {
		const struct model *m = i == GQ_OWN ? own : w->job.model;

		if (rt_block_load(&w->stream[i].block, &w->dev, m, w->job.cfg,
				  w->layer, err))
			return -1;
		model_forget_all(m);
	}
	return 0;
}

static void release_blocks(struct walk *w)
{
	for (int i = 0; i < gq_walk_streams(w); i++)
		rt_block_release(&w->stream[i].block, &w->dev);
}

static int walk_block(struct walk *w, struct err *err)
{
	int ret = -1;

	if (load_blocks(w, w->job.model, err))
		goto out;
	if (w->job.true_sequential ? block_sequential(w, err) :
				     block_at_once(w, err))
		goto out;
	if (gq_walk_output_matters(w) && gq_pass_finish(w, err))
		goto out;
	ret = 0;
out:
	release_blocks(w);
	return ret;
}

static int walk_head(struct walk *w, struct err *err)
{
	const struct gq_target *t = &w->targets.target[w->targets.count - 1];
	struct gq_hess h = { 0 };
	struct ql ql = { 0 };
	int ret = -1;

	if (!w->targets.head || t->skip)
		return 0;
	if (gq_walk_head_looks(w)) {
		if (gq_pass_gather_head(w, &h, err) || prepare(w, &h, t, err))
			goto out;
		gq_hess_settle(&h, &w->dev);
	}
	ret = solve(w, t, &h, &ql, err);
out:
	ql_release(&ql);
	gq_hess_release(&h, &w->dev);
	return ret;
}

/* Without activations the linears are independent of each other. */
static int walk_weights(struct walk *w, struct err *err)
{
	for (int s = 0; s < LLAMA_SLOTS; s++)
		if (solve_slot(w, (enum llama_slot)s, err))
			return -1;
	return 0;
}

/* ---- the journal ---- */

/* The block is done once its bytes are safe and the journal says so. */
static int block_done(struct walk *w, struct err *err)
{
	struct cJSON *rows = w->rows;

	if (!w->job.journal)
		return 0;
	w->rows = cJSON_CreateArray();
	if (!gq_output_sync(&w->out, err))
		return gq_journal_add(w->job.journal, rows, err);
	json_free(rows);
	return -1;
}

/* Take over what an earlier run made of this block. */
static int assume_block(struct walk *w, struct err *err)
{
	const struct cJSON *row = json_first(
		gq_journal_linears(w->job.journal, w->layer));
	const struct gq_target *t;
	struct gq_layer_report rep;
	const char *hash;

	for (; row; row = json_next(row)) {
		if (gq_journal_read_row(row, &rep, &hash, err))
			return -1;
		t = gq_targets_find(&w->targets, rep.name);
		if (!t || t->skip)
			return err_set(err, ERR_INPUT, "the journal knows a "
				       "linear %s", rep.name);
		if (gq_output_assume(&w->out,
				     (uint32_t)(t - w->targets.target),
				     w->partial, hash, err))
			return -1;
		if (w->job.done)
			w->job.done(w->job.ctx, &rep);
		if (gq_walk_step(w, 1, err))
			return -1;
	}
	return 0;
}

/* Run the windows through a block as it stands in the unfinished folder. */
static int replay_block(struct walk *w, struct err *err)
{
	int ret = -1;

	if (!load_blocks(w, w->partial, err) && !gq_pass_through(w, err))
		ret = 0;
	release_blocks(w);
	return ret;
}

/* ---- the whole ---- */

static void walk_release(struct walk *w)
{
	const struct rt_dev *d = &w->dev;

	for (int i = 0; i < LLAMA_LINEARS; i++)
		ql_release(&w->late[i]);
	for (int s = 0; s < LLAMA_SLOTS; s++)
		gq_hess_release(&w->hess[s], d);
	gq_pass_release(w);
	json_free(w->rows);
	model_close(w->partial);
	gq_output_release(&w->out);
	gq_targets_release(&w->targets);
}

/* Blocks that an earlier run finished; one more when the head is done too. */
static uint32_t blocks_done(const struct walk *w)
{
	return w->job.journal ? gq_journal_blocks(w->job.journal) : 0;
}

/* Is there work left that looks at activations? */
static bool wants_activations(const struct walk *w)
{
	uint32_t done = blocks_done(w), layers = w->job.cfg->layers;

	if (!w->job.method->needs_hessian)
		return false;
	return done < layers || (done == layers && gq_walk_head_looks(w));
}

/* Steps of progress: passes of one window, and linears.  Every block but the
 * last needs one pass to its end, done before or not. */
static uint64_t all_work(const struct walk *w)
{
	uint64_t layers = w->job.cfg->layers, passes = 0;
	uint64_t windows = (uint64_t)gq_walk_samples(w) *
			   (uint64_t)gq_walk_streams(w);
	uint64_t left = layers - (blocks_done(w) < layers ? blocks_done(w) :
							   layers);

	if (wants_activations(w)) {
		passes = left * (w->job.true_sequential ? LLAMA_SLOTS : 1);
		passes += layers - 1;
		passes += gq_walk_head_looks(w) ? 2 : 0;
	}
	return passes * windows + w->targets.quantized;
}

static int one_block(struct walk *w, struct err *err)
{
	if (w->layer < blocks_done(w)) {
		if (assume_block(w, err))
			return -1;
		if (w->layer == w->job.cfg->layers || !wants_activations(w))
			return 0;
		return replay_block(w, err);
	}
	if (w->layer == w->job.cfg->layers ? walk_head(w, err) :
	    w->job.method->needs_hessian ? walk_block(w, err) :
					   walk_weights(w, err))
		return -1;
	return block_done(w, err);
}

static int begin(struct walk *w, struct err *err)
{
	if (gq_targets_init(&w->targets, &w->job, err) ||
	    gq_output_open(&w->out, &w->job, &w->targets, err))
		return -1;
	if (blocks_done(w) && model_open(w->job.out, 0, &w->partial, err))
		return -1;
	w->rows = cJSON_CreateArray();
	if (!w->rows)
		return err_set(err, ERR_RESOURCE, "not enough memory");
	if (wants_activations(w) && gq_pass_init(w, err))
		return -1;
	w->total = all_work(w);
	return 0;
}

int gq_walk(const struct gq_job *job, struct err *err)
{
	struct walk w = { .job = *job, .dev = { job->api, job->be } };
	int ret = -1;

	if (begin(&w, err))
		goto out;
	/* the head is the block behind the last */
	for (; w.layer < job->cfg->layers + w.targets.head; w.layer++)
		if (one_block(&w, err))
			goto out;
	if (gq_output_commit(&w.out, err))
		goto out;
	ret = 0;
out:
	walk_release(&w);
	return ret;
}
