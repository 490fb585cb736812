#include "walk.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/model.h"
#include "../runtime/block.h"
#include "output.h"
#include "target.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct walk {
	struct gq_job job;
	struct rt_dev dev;
	struct gq_targets targets;
	struct gq_output out;
	/* the rest only when the method looks at activations */
	struct rt_rope rope;
	struct rt_work work;    /* seqlen rows */
	struct kv kv;           /* one layer, seqlen positions */
	struct be_mat x;        /* [samples * seqlen][hidden]: the residual */
	struct be_mat keep;     /* as many rows, the wider of O's and DOWN's
				   inputs: one of them; or, not sequential,
				   [seqlen][hidden]: a copy of one window */
	uint32_t *count;        /* [seqlen]: 0, 1, 2, ... */
	struct rt_block block;
	struct gq_hess hess[LLAMA_SLOTS];
	struct ql late[LLAMA_LINEARS]; /* solved, not yet in the block */
	uint32_t layer;
	uint64_t done, total;   /* progress */
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint32_t samples(const struct walk *w)
{
	return w->job.calib ? w->job.calib->samples : 1;
}

static int advance(struct walk *w, uint32_t n, struct err *err)
{
	w->done += n;
	return prog_step(w->job.progress, "quantize", w->done, w->total, err);
}

static struct be_mat window(const struct walk *w, const struct be_mat *all,
			    uint32_t sample)
{
	uint32_t n = w->job.calib->seqlen;

	return be_rows(all, sample * n, n);
}

/* Copy rows on the device: row i of a table is its i-th entry. */
static int copy_rows(struct walk *w, const struct be_mat *from,
		     struct be_mat *to, struct err *err)
{
	return w->dev.api->embed(w->dev.be, from, w->count, to, err);
}

/* ---- passes through the block ----
 *
 * True sequential, each slot's pass begins where an earlier one left off, so
 * that no linear runs twice:
 *
 *	gather QKV      x -> QKV's input
 *	gather O        x -> q k v, attention -> O's input, kept
 *	gather GATE_UP  kept -> O, x changes -> GATE_UP's input
 *	gather DOWN     x -> gate up -> DOWN's input, kept
 *	to the end      kept -> DOWN, x changes */

struct pass {
	struct walk *w;
	enum llama_slot from;
	enum llama_slot until; /* where to gather and end; LLAMA_SLOTS: run to
				  the end */
	bool all;              /* gather at every slot up to `until` */
	bool keep;             /* keep the input of `until` */
	uint32_t sample;
};

static struct be_mat kept(const struct pass *p, uint32_t cols)
{
	struct be_mat rows = window(p->w, &p->w->keep, p->sample);

	return be_cols(&rows, 0, cols);
}

static int on_slot(void *ctx, enum llama_slot slot, const struct be_mat *x,
		   struct err *err)
{
	const struct pass *p = ctx;
	struct walk *w = p->w;

	if (slot != p->until && !p->all)
		return 0;
	if (w->hess[slot].n &&
	    gq_hess_add(&w->hess[slot], &w->dev, x, 2.0 / samples(w), err))
		return -1;
	if (slot != p->until)
		return 0;
	if (p->keep) {
		struct be_mat to = kept(p, x->cols);

		if (copy_rows(w, x, &to, err))
			return -1;
	}
	return 1;
}

static uint32_t slot_inputs(const struct walk *w, enum llama_slot slot)
{
	uint32_t in = 0, out;

	for (int i = 0; i < LLAMA_LINEARS; i++)
		if (llama_slot_of((enum llama_linear)i) == slot)
			llama_linear_shape(w->job.cfg, (enum llama_linear)i,
					   &in, &out);
	return in;
}

static int run_window(struct pass *p, struct be_mat *x, struct err *err)
{
	struct walk *w = p->w;
	struct rt_tap tap = { on_slot, p };
	struct be_mat input = { 0 };
	struct rt_pass pass = {
		.dev = &w->dev,
		.cfg = w->job.cfg,
		.rope = &w->rope,
		.work = &w->work,
		.kv = &w->kv,
		.tap = &tap,
		.from = p->from,
		.input = &input,
	};

	if (p->from == LLAMA_SLOT_O || p->from == LLAMA_SLOT_DOWN)
		input = kept(p, slot_inputs(w, p->from));
	return rt_block_run(&w->block, &pass, x, err);
}

/* All windows, in place. */
static int run_windows(struct pass *p, struct err *err)
{
	struct walk *w = p->w;

	for (p->sample = 0; p->sample < samples(w); p->sample++) {
		struct be_mat x = window(w, &w->x, p->sample);

		if (run_window(p, &x, err) || advance(w, 1, err))
			return -1;
	}
	return 0;
}

/* The pass that ends with the Hessian of `slot`. */
static int gather(struct walk *w, enum llama_slot slot, struct err *err)
{
	static const enum llama_slot from[LLAMA_SLOTS] = {
		LLAMA_SLOT_QKV, LLAMA_SLOT_QKV, LLAMA_SLOT_O,
		LLAMA_SLOT_GATE_UP,
	};
	struct pass p = { .w = w, .from = from[slot], .until = slot };

	p.keep = slot == LLAMA_SLOT_O ||
		 (slot == LLAMA_SLOT_DOWN && w->layer + 1 < w->job.cfg->layers);
	return run_windows(&p, err);
}

/* All four Hessians in one pass through the dense block, on copies: the
 * windows' residuals go through the quantized block afterwards. */
static int gather_all(struct walk *w, struct err *err)
{
	struct pass p = { .w = w, .until = LLAMA_SLOT_DOWN, .all = true };

	for (uint32_t i = 0; i < samples(w); i++) {
		struct be_mat x = window(w, &w->x, i);

		if (copy_rows(w, &x, &w->keep, err) ||
		    run_window(&p, &w->keep, err) || advance(w, 1, err))
			return -1;
	}
	return 0;
}

/* All windows to the end of the quantized block. */
static int finish(struct walk *w, struct err *err)
{
	struct pass p = { .w = w, .until = LLAMA_SLOTS };

	if (w->job.true_sequential)
		p.from = LLAMA_SLOT_DOWN;
	return run_windows(&p, err);
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
	float *weight = NULL;
	int ret = -1;

	memcpy(rep.name, target->name, sizeof(rep.name));
	if (rt_weights(w->job.model, target->weight, t.in, t.out, &weight,
		       err))
		goto out;
	t.w = weight;
	if (w->job.method->solve(&t, ql, &rep.r, err) ||
	    gq_output_layer(&w->out, place, ql, err)) {
		err_ctx(err, "%s", rep.name);
		goto out;
	}
	rep.seconds = now() - rep.seconds;
	if (w->job.done)
		w->job.done(w->job.ctx, &rep);
	ret = advance(w, 1, err);
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
	if (rt_linear_set(&w->dev, &w->block.lin[which], ql, err))
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
			return gq_hess_init(&w->hess[slot], &w->dev,
					    slot_inputs(w, slot), err);
	return 0;
}

/* Slot after slot, each with the inputs that the quantized slots before it
 * make. */
static int block_sequential(struct walk *w, struct err *err)
{
	for (int s = 0; s < LLAMA_SLOTS; s++) {
		enum llama_slot slot = (enum llama_slot)s;

		if (hess_init(w, slot, err) || gather(w, slot, err) ||
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
	if (gather_all(w, err))
		return -1;
	for (int s = 0; s < LLAMA_SLOTS; s++) {
		if (solve_slot(w, (enum llama_slot)s, err))
			return -1;
		gq_hess_release(&w->hess[s], &w->dev);
	}
	for (int i = 0; i < LLAMA_LINEARS; i++) {
		if (!target_of(w, i)->skip &&
		    rt_linear_set(&w->dev, &w->block.lin[i], &w->late[i], err))
			return -1;
		ql_release(&w->late[i]);
	}
	return 0;
}

/* Does the last block's output matter? */
static bool head_wants_activations(const struct walk *w)
{
	const struct gq_targets *ts = &w->targets;

	return w->job.method->needs_hessian && ts->head &&
	       !ts->target[ts->count - 1].skip;
}

static int walk_block(struct walk *w, struct err *err)
{
	int ret = -1;

	if (rt_block_load(&w->block, &w->dev, w->job.model, w->job.cfg,
			  w->layer, err))
		return -1;
	if (w->job.true_sequential ? block_sequential(w, err) :
				     block_at_once(w, err))
		goto out;
	if ((w->layer + 1 < w->job.cfg->layers ||
	     head_wants_activations(w)) && finish(w, err))
		goto out;
	ret = 0;
out:
	rt_block_release(&w->block, &w->dev);
	return ret;
}

/* The head's input is the last block's output, normed. */
static int gather_head(struct walk *w, struct gq_hess *h, struct err *err)
{
	const struct rt_dev *d = &w->dev;
	const struct llama_config *c = w->job.cfg;
	struct be_mat norm = { 0 };
	int ret = -1;

	if (gq_hess_init(h, d, c->hidden, err) ||
	    rt_tensor_load(d, w->job.model, LLAMA_FINAL_NORM, 1, c->hidden,
			   &norm, err))
		goto out;
	for (uint32_t i = 0; i < samples(w); i++) {
		struct be_mat x = window(w, &w->x, i);

		if (d->api->rmsnorm(d->be, &x, &norm, c->eps, &w->work.norm,
				    err) ||
		    gq_hess_add(h, d, &w->work.norm, 2.0 / samples(w), err) ||
		    advance(w, 1, err))
			goto out;
	}
	ret = 0;
out:
	be_mat_free(d->api, d->be, &norm);
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
	if (head_wants_activations(w)) {
		if (gather_head(w, &h, err) || prepare(w, &h, t, err))
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

/* ---- the whole ---- */

/* The windows' embeddings are the first block's input. */
static int embed(struct walk *w, struct err *err)
{
	const struct llama_config *c = w->job.cfg;
	const struct calib *calib = w->job.calib;
	struct be_mat table = { 0 };
	int ret = -1;

	if (rt_tensor_load(&w->dev, w->job.model, LLAMA_EMBED, c->vocab,
			   c->hidden, &table, err))
		goto out;
	for (uint32_t i = 0; i < calib->samples; i++) {
		struct be_mat x = window(w, &w->x, i);

		if (w->dev.api->embed(w->dev.be, &table,
				      calib->id + (size_t)i * calib->seqlen,
				      &x, err))
			goto out;
	}
	ret = 0;
out:
	be_mat_free(w->dev.api, w->dev.be, &table);
	return ret;
}

static int check_calib(const struct walk *w, struct err *err)
{
	const struct calib *calib = w->job.calib;
	size_t n;

	if (!calib)
		return err_set(err, ERR_USAGE,
			       "method %s needs calibration text",
			       w->job.method->name);
	if (mem_mul(calib->samples, calib->seqlen, &n) || n > UINT32_MAX)
		return err_set(err, ERR_RESOURCE,
			       "%u windows of %u tokens are too many",
			       calib->samples, calib->seqlen);
	for (size_t i = 0; i < n; i++)
		if (calib->id[i] >= w->job.cfg->vocab)
			return err_set(err, ERR_INPUT,
				       "calibration id %u is not in the "
				       "vocabulary of %u",
				       calib->id[i], w->job.cfg->vocab);
	return 0;
}

static uint32_t kept_width(const struct walk *w)
{
	uint32_t o = slot_inputs(w, LLAMA_SLOT_O);
	uint32_t down = slot_inputs(w, LLAMA_SLOT_DOWN);

	return o > down ? o : down;
}

static int activations_init(struct walk *w, struct err *err)
{
	const struct llama_config *c = w->job.cfg;
	const struct rt_dev *d = &w->dev;
	uint32_t seqlen, rows;

	if (check_calib(w, err))
		return -1;
	seqlen = w->job.calib->seqlen;
	w->count = mem_alloc(seqlen, sizeof(*w->count), err);
	if (!w->count)
		return -1;
	for (uint32_t i = 0; i < seqlen; i++)
		w->count[i] = i;
	rows = samples(w) * seqlen;
	if (be_mat_new(d->api, d->be, rows, c->hidden, DT_F32, &w->x, err))
		return -1;
	if (w->job.true_sequential ?
	    be_mat_new(d->api, d->be, rows, kept_width(w), DT_F32, &w->keep,
		       err) :
	    be_mat_new(d->api, d->be, seqlen, c->hidden, DT_F32, &w->keep,
		       err))
		return -1;
	if (rt_rope_init(&w->rope, d, c, seqlen, err) ||
	    rt_work_init(&w->work, d, c, seqlen, err) ||
	    kv_init(&w->kv, d, 1, seqlen, c->kv_heads * c->head_dim, err))
		return -1;
	return embed(w, err);
}

static void walk_release(struct walk *w)
{
	const struct rt_dev *d = &w->dev;

	for (int i = 0; i < LLAMA_LINEARS; i++)
		ql_release(&w->late[i]);
	for (int s = 0; s < LLAMA_SLOTS; s++)
		gq_hess_release(&w->hess[s], d);
	kv_release(&w->kv, d);
	rt_work_release(&w->work, d);
	rt_rope_release(&w->rope, d);
	be_mat_free(d->api, d->be, &w->keep);
	be_mat_free(d->api, d->be, &w->x);
	free(w->count);
	gq_output_release(&w->out);
	gq_targets_release(&w->targets);
}

/* Steps of progress: passes of one window, and linears.  The last block needs
 * no last pass unless the head follows. */
static uint64_t all_work(const struct walk *w)
{
	uint64_t layers = w->job.cfg->layers, passes = 0;

	if (w->job.method->needs_hessian) {
		passes = layers * (w->job.true_sequential ? LLAMA_SLOTS : 1);
		passes += layers - 1;
		passes += head_wants_activations(w) ? 2 : 0;
	}
	return passes * samples(w) + w->targets.quantized;
}

int gq_walk(const struct gq_job *job, struct err *err)
{
	struct walk w = { .job = *job, .dev = { job->api, job->be } };
	bool active = job->method->needs_hessian;
	int ret = -1;

	if (gq_targets_init(&w.targets, &w.job, err) ||
	    gq_output_open(&w.out, &w.job, &w.targets, err))
		goto out;
	if (active && activations_init(&w, err))
		goto out;
	w.total = all_work(&w);
	for (w.layer = 0; w.layer < job->cfg->layers; w.layer++)
		if (active ? walk_block(&w, err) : walk_weights(&w, err))
			goto out;
	if (walk_head(&w, err) || gq_output_commit(&w.out, err))
		goto out;
	ret = 0;
out:
	walk_release(&w);
	return ret;
}
