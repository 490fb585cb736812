/* walk_pass.c - windows of calibration through one block: the activations that
 * are carried from block to block, and the Hessians they leave on the way. */
#include "walk_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <stdlib.h>

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

/* What one window adds to a Hessian. */
static double share(const struct walk *w)
{
	return 2.0 / gq_walk_samples(w);
}

static int on_slot(void *ctx, enum llama_slot slot, const struct be_mat *x,
		   struct err *err)
{
	const struct pass *p = ctx;
	struct walk *w = p->w;

	if (slot != p->until && !p->all)
		return 0;
	if (w->hess[slot].n &&
	    gq_hess_add(&w->hess[slot], &w->dev, x, share(w), err))
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

uint32_t gq_pass_inputs(const struct walk *w, enum llama_slot slot)
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
		input = kept(p, gq_pass_inputs(w, p->from));
	return rt_block_run(&w->block, &pass, x, err);
}

/* All windows, in place. */
static int run_windows(struct pass *p, struct err *err)
{
	struct walk *w = p->w;

	for (p->sample = 0; p->sample < gq_walk_samples(w); p->sample++) {
		struct be_mat x = window(w, &w->x, p->sample);

		if (run_window(p, &x, err) || gq_walk_step(w, 1, err))
			return -1;
	}
	return 0;
}

/* The pass that ends with the Hessian of `slot`. */
int gq_pass_gather(struct walk *w, enum llama_slot slot, struct err *err)
{
	static const enum llama_slot from[LLAMA_SLOTS] = {
		LLAMA_SLOT_QKV, LLAMA_SLOT_QKV, LLAMA_SLOT_O,
		LLAMA_SLOT_GATE_UP,
	};
	struct pass p = { .w = w, .from = from[slot], .until = slot };

	p.keep = slot == LLAMA_SLOT_O ||
		 (slot == LLAMA_SLOT_DOWN && gq_walk_output_matters(w));
	return run_windows(&p, err);
}

/* All four Hessians in one pass through the dense block, on copies: the
 * windows' residuals go through the quantized block afterwards. */
int gq_pass_gather_all(struct walk *w, struct err *err)
{
	struct pass p = { .w = w, .until = LLAMA_SLOT_DOWN, .all = true };

	for (uint32_t i = 0; i < gq_walk_samples(w); i++) {
		struct be_mat x = window(w, &w->x, i);

		if (copy_rows(w, &x, &w->keep, err) ||
		    run_window(&p, &w->keep, err) || gq_walk_step(w, 1, err))
			return -1;
	}
	return 0;
}

/* All windows to the end of the quantized block. */
int gq_pass_finish(struct walk *w, struct err *err)
{
	struct pass p = { .w = w, .until = LLAMA_SLOTS };

	if (w->job.true_sequential)
		p.from = LLAMA_SLOT_DOWN;
	return run_windows(&p, err);
}

int gq_pass_through(struct walk *w, struct err *err)
{
	struct pass p = { .w = w, .until = LLAMA_SLOTS };

	return run_windows(&p, err);
}

/* The head's input is the last block's output, normed. */
int gq_pass_gather_head(struct walk *w, struct gq_hess *h, struct err *err)
{
	const struct rt_dev *d = &w->dev;
	const struct llama_config *c = w->job.cfg;
	struct be_mat norm = { 0 };
	int ret = -1;

	if (gq_hess_init(h, d, c->hidden, err) ||
	    rt_tensor_load(d, w->job.model, LLAMA_FINAL_NORM, 1, c->hidden,
			   &norm, err))
		goto out;
	for (uint32_t i = 0; i < gq_walk_samples(w); i++) {
		struct be_mat x = window(w, &w->x, i);

		if (d->api->rmsnorm(d->be, &x, &norm, c->eps, &w->work.norm,
				    err) ||
		    gq_hess_add(h, d, &w->work.norm, share(w), err) ||
		    gq_walk_step(w, 1, err))
			goto out;
	}
	ret = 0;
out:
	be_mat_free(d->api, d->be, &norm);
	return ret;
}

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
	uint32_t o = gq_pass_inputs(w, LLAMA_SLOT_O);
	uint32_t down = gq_pass_inputs(w, LLAMA_SLOT_DOWN);

	return o > down ? o : down;
}

int gq_pass_init(struct walk *w, struct err *err)
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
	rows = gq_walk_samples(w) * seqlen;
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

void gq_pass_release(struct walk *w)
{
	const struct rt_dev *d = &w->dev;

	kv_release(&w->kv, d);
	rt_work_release(&w->work, d);
	rt_rope_release(&w->rope, d);
	be_mat_free(d->api, d->be, &w->keep);
	be_mat_free(d->api, d->be, &w->x);
	free(w->count);
}
