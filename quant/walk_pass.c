/* walk_pass.c - windows of calibration through one block: the activations that
 * are carried from block to block, and the Hessians they leave on the way. */
#include "walk_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/model.h"

#include <stdlib.h>

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
	enum gq_which which;
	enum llama_slot from;
	enum llama_slot until; /* where to gather and end; LLAMA_SLOTS: run to
				  the end */
	bool all;              /* gather at every slot up to `until` */
	bool keep;             /* keep the input of `until` */
	uint32_t sample;
};

/* What one window adds to a Hessian. */
static double share(const struct walk *w)
{
	return 2.0 / gq_walk_samples(w);
}

/* What one window brings to a slot, into the slot's Hessian.  FULL, which runs
 * first, leaves it for OWN to be compared with. */
static int gather(const struct pass *p, struct gq_hess *h,
		  const struct be_mat *x, struct err *err)
{
	struct walk *w = p->w;
	struct be_mat seen = w->seen;

	seen.cols = seen.ld = x->cols;
	if (p->which == GQ_FULL)
		return copy_rows(w, x, &seen, err);
	if (gq_hess_add(h, &w->dev, x, share(w), err))
		return -1;
	if (gq_walk_streams(w) == 1)
		return 0;
	return gq_drift_add(&h->drift, &w->dev, (const struct be_mat *[]){
			    &seen, x }, (float)share(w), err);
}

static int on_slot(void *ctx, enum llama_slot slot, const struct be_mat *x,
		   struct err *err)
{
	const struct pass *p = ctx;
	struct walk *w = p->w;

	if (slot != p->until && !p->all)
		return 0;
	if (w->hess[slot].n && gather(p, &w->hess[slot], x, err))
		return -1;
	if (slot != p->until)
		return 0;
	if (p->keep) {
		struct gq_acts *keep = &w->stream[p->which].keep;
		struct be_mat to;

		if (gq_acts_window(keep, p->sample, x->cols, false, &to,
				   err) ||
		    copy_rows(w, x, &to, err) ||
		    gq_acts_save(keep, p->sample, &to, err))
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

int gq_pass_hess(const struct walk *w, struct gq_hess *h, uint32_t n,
		 struct err *err)
{
	if (gq_hess_init(h, &w->dev, n, err))
		return -1;
	if (gq_walk_streams(w) == 1)
		return 0;
	return gq_drift_init(&h->drift, &w->dev, n, err);
}

static int run_window(struct pass *p, struct be_mat *x, struct err *err)
{
	struct walk *w = p->w;
	struct gq_stream *s = &w->stream[p->which];
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

	if ((p->from == LLAMA_SLOT_O || p->from == LLAMA_SLOT_DOWN) &&
	    gq_acts_window(&s->keep, p->sample, gq_pass_inputs(w, p->from),
			   true, &input, err))
		return -1;
	return rt_block_run(&s->block, &pass, x, err);
}

/* O and DOWN are added to the residual; what ends before leaves it alone. */
static bool changes_x(const struct pass *p)
{
	return (p->from <= LLAMA_SLOT_O && p->until > LLAMA_SLOT_O) ||
	       p->until > LLAMA_SLOT_DOWN;
}

/* The window at hand through one stream, in place. */
static int run_stream(struct pass *p, enum gq_which which, struct err *err)
{
	struct gq_acts *all = &p->w->stream[which].x;
	struct be_mat x;

	p->which = which;
	return gq_acts_window(all, p->sample, all->cols, true, &x, err) ||
	       run_window(p, &x, err) ||
	       (changes_x(p) && gq_acts_save(all, p->sample, &x, err)) ||
	       gq_walk_step(p->w, 1, err) ? -1 : 0;
}

/* All windows, each through FULL, where that is, and then OWN. */
static int run_windows(struct pass *p, struct err *err)
{
	struct walk *w = p->w;

	for (p->sample = 0; p->sample < gq_walk_samples(w); p->sample++)
		for (int i = gq_walk_streams(w); i-- > 0;)
			if (run_stream(p, (enum gq_which)i, err))
				return -1;
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
	struct gq_stream *s = &w->stream[GQ_OWN];

	for (uint32_t i = 0; i < gq_walk_samples(w); i++) {
		struct be_mat x, copy;

		if (gq_acts_window(&s->x, i, s->x.cols, true, &x, err) ||
		    gq_acts_window(&s->keep, 0, x.cols, false, &copy, err) ||
		    copy_rows(w, &x, &copy, err) ||
		    run_window(&p, &copy, err) || gq_walk_step(w, 1, err))
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
	struct pass p = { .w = w };
	struct be_mat norm = { 0 };
	int ret = -1;

	if (gq_pass_hess(w, h, c->hidden, err) ||
	    rt_tensor_load(d, w->job.model, LLAMA_FINAL_NORM, 1, c->hidden,
			   &norm, err))
		goto out;
	for (uint32_t i = 0; i < gq_walk_samples(w); i++)
		for (int k = gq_walk_streams(w); k-- > 0;) {
			struct be_mat x;

			p.which = (enum gq_which)k;
			if (gq_acts_window(&w->stream[k].x, i, c->hidden,
					   true, &x, err) ||
			    d->api->rmsnorm(d->be, &x, &norm, c->eps,
					    &w->work.norm, err) ||
			    gather(&p, h, &w->work.norm, err) ||
			    gq_walk_step(w, 1, err))
				goto out;
		}
	ret = 0;
out:
	be_mat_free(d->api, d->be, &norm);
	return ret;
}

/* The windows' embeddings are the first block's input, in both streams. */
static int embed(struct walk *w, struct err *err)
{
	const struct llama_config *c = w->job.cfg;
	const struct calib *calib = w->job.calib;
	struct be_mat table = { 0 };
	int ret = -1;

	if (rt_table_load(&w->dev, w->job.model, LLAMA_TABLE, c->vocab,
			  c->hidden, &table, err))
		goto out;
	model_forget_all(w->job.model);
	for (uint32_t i = 0; i < calib->samples; i++)
		for (int k = 0; k < gq_walk_streams(w); k++) {
			struct gq_acts *all = &w->stream[k].x;
			struct be_mat x;

			if (gq_acts_window(all, i, c->hidden, false, &x,
					   err) ||
			    w->dev.api->embed(w->dev.be, &table, calib->id +
					      (size_t)i * calib->seqlen, &x,
					      err) ||
			    gq_acts_save(all, i, &x, err))
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

/* Room for what a stream carries along. */
static int stream_init(struct walk *w, struct gq_stream *s, struct err *err)
{
	const struct rt_dev *d = &w->dev;
	bool all = w->job.true_sequential;

	s->x.rows = s->keep.rows = w->job.calib->seqlen;
	s->x.cols = w->job.cfg->hidden;
	s->keep.cols = all ? kept_width(w) : s->x.cols;
	if (gq_acts_init(&s->x, d, gq_walk_samples(w), w->job.scratch, err))
		return -1;
	return gq_acts_init(&s->keep, d, all ? gq_walk_samples(w) : 1,
			    all ? w->job.scratch : NULL, err);
}

int gq_pass_init(struct walk *w, struct err *err)
{
	const struct llama_config *c = w->job.cfg;
	const struct rt_dev *d = &w->dev;
	struct kv_shape cache = { .layers = 1, .sequences = 1,
				  .kv_heads = c->kv_heads,
				  .head_dim = c->head_dim, .type = DT_F32 };
	uint32_t seqlen, wide = kept_width(w);

	if (check_calib(w, err))
		return -1;
	seqlen = cache.capacity = w->job.calib->seqlen;
	w->count = mem_alloc(seqlen, sizeof(*w->count), err);
	if (!w->count)
		return -1;
	for (uint32_t i = 0; i < seqlen; i++)
		w->count[i] = i;
	for (int i = 0; i < gq_walk_streams(w); i++)
		if (stream_init(w, &w->stream[i], err))
			return -1;
	if (gq_walk_streams(w) > 1 &&
	    be_mat_new(d->api, d->be, seqlen, wide > c->hidden ? wide :
		       c->hidden, DT_F32, &w->seen, err))
		return -1;
	if (rt_rope_init(&w->rope, d, c, seqlen, err) ||
	    rt_work_init(&w->work, d, c, seqlen, err) ||
	    kv_init(&w->kv, d, &cache, err))
		return -1;
	return embed(w, err);
}

void gq_pass_release(struct walk *w)
{
	const struct rt_dev *d = &w->dev;

	kv_release(&w->kv, d);
	rt_work_release(&w->work, d);
	rt_rope_release(&w->rope, d);
	be_mat_free(d->api, d->be, &w->seen);
	for (int i = 0; i < GQ_STREAMS; i++) {
		gq_acts_release(&w->stream[i].keep);
		gq_acts_release(&w->stream[i].x);
	}
	free(w->count);
}
