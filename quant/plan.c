#include "plan.h"

#include "../libfmt/base/err.h"
#include "calib.h"
#include "metric.h"

#include <string.h>

/* ---- sizes ---- */

static int packed(const struct gq_job *job, const struct gq_target *t,
		  uint64_t *bytes, struct err *err)
{
	struct ql_spec spec;
	struct qf_plan plan;

	gq_spec(&t->params, t->out, t->in, &spec);
	if (job->format->plan(&spec, &plan, err))
		return err_ctx(err, "%s", t->name);
	*bytes = 0;
	for (uint32_t i = 0; i < plan.count; i++)
		*bytes += plan.part[i].bytes;
	return 0;
}

/* What is quantized gives way; all else stays as it is, and of a tied head its
 * table too. */
static int sizes(const struct gq_job *job, const struct gq_targets *ts,
		 const struct gq_source *source, struct gq_plan *p,
		 struct err *err)
{
	p->parameters = llama_parameters(job->cfg);
	p->before = source->bytes ? source->bytes :
				    p->parameters * source->elem;
	p->after = p->before;
	for (uint32_t i = 0; i < ts->count; i++) {
		const struct gq_target *t = &ts->target[i];
		uint64_t n = (uint64_t)t->in * t->out, bytes;
		bool shared = job->cfg->tied && ts->head && i + 1 == ts->count;

		if (t->skip)
			continue;
		if (packed(job, t, &bytes, err))
			return -1;
		p->linears++;
		p->weights += n;
		p->packed += bytes;
		p->after += bytes;
		p->after -= shared ? 0 : n * source->elem;
	}
	return 0;
}

/* ---- work ---- */

double gq_plan_measuring(uint32_t in, uint32_t out)
{
	return 3.0 * (out < METRIC_ROWS ? out : METRIC_ROWS) * in * in;
}

/* A solved linear: half its columns per column, by f32 products; a refinement
 * goes through all of them twice a pass.  Where models are compared the weight
 * to come near to is one more product away. */
static void count_solve(const struct gq_job *job, const struct gq_target *t,
			struct gq_work *w)
{
	double n = (double)t->in * t->out;

	w->weights += n;
	w->spread += n * t->in * (0.5 + t->params.passes +
				  (job->method->compares ? 1 : 0)) +
		     gq_plan_measuring(t->in, t->out);
}

/* The Hessian of n inputs. */
static void count_hessian(const struct gq_job *job, double n,
			  struct gq_work *w)
{
	double tokens = (double)job->calib->samples * job->calib->seqlen;

	w->hessian += tokens * n * n / 2;
	w->factor += n * n * n / 3;
	w->orders += n;
	/* drift: its sum, and two products with triangles */
	if (job->method->compares)
		w->spread += tokens * n * n + 2 * n * n * n;
}

static void count_slot(const struct gq_job *job, const struct gq_targets *ts,
		       uint32_t layer, int slot, struct gq_work *w)
{
	for (uint32_t i = 0; i < LLAMA_LINEARS; i++) {
		const struct gq_target *t =
			&ts->target[layer * LLAMA_LINEARS + i];

		if ((int)llama_slot_of((enum llama_linear)i) == slot &&
		    !t->skip) {
			count_hessian(job, t->in, w);
			return;
		}
	}
}

static bool head_looks(const struct gq_targets *ts)
{
	return ts->head && !ts->target[ts->count - 1].skip;
}

/* True sequential, every linear runs once for each window, with its codes;
 * without it once before and once behind them.  Where models are compared once
 * more as it was.  DOWN runs for the next block alone. */
static void count_linear(const struct gq_job *job, const struct gq_target *t,
			 uint32_t which, bool last, struct gq_work *w)
{
	double n = (double)job->calib->samples * job->calib->seqlen *
		   t->in * t->out;
	bool down = which == LLAMA_DOWN;

	if (last && down)
		return;
	if (job->method->compares || (!job->true_sequential && !down))
		w->dense += n;
	if (!job->true_sequential && last)
		return;
	*(t->skip ? &w->dense : &w->forward) += n;
}

static void count_block(const struct gq_job *job, const struct gq_targets *ts,
			uint32_t layer, struct gq_plan *p)
{
	const struct llama_config *c = job->cfg;
	double tokens = (double)job->calib->samples * job->calib->seqlen;
	bool last = layer + 1 == c->layers && !head_looks(ts);
	uint64_t streams = job->method->compares ? 2 : 1;
	double runs = (double)streams *
		      (job->true_sequential || last ? 1 : 2);
	struct gq_work *w = &p->work;

	for (int s = 0; s < LLAMA_SLOTS; s++)
		count_slot(job, ts, layer, s, w);
	for (uint32_t i = 0; i < LLAMA_LINEARS; i++)
		count_linear(job, &ts->target[layer * LLAMA_LINEARS + i], i,
			     last, w);
	w->attend += runs * tokens * job->calib->seqlen * c->heads *
		     c->head_dim;
	p->passes += streams * (job->true_sequential ? LLAMA_SLOTS : 1);
	p->passes += last ? 0 : streams;
}

static void count(const struct gq_job *job, const struct gq_targets *ts,
		  struct gq_plan *p)
{
	const struct llama_config *c = job->cfg;
	uint64_t heads = (uint64_t)c->heads * c->head_dim;
	uint64_t wide = heads > c->inter ? heads : c->inter;

	for (uint32_t i = 0; i < ts->count; i++)
		if (!ts->target[i].skip)
			count_solve(job, &ts->target[i], &p->work);
	if (!job->method->needs_hessian) {
		p->work.spread = 0;
		return;
	}
	for (uint32_t i = 0; i < c->layers; i++)
		count_block(job, ts, i, p);
	p->activations = 4 * (uint64_t)job->calib->samples *
			 job->calib->seqlen *
			 (c->hidden + (job->true_sequential ? wide : 0)) *
			 (job->method->compares ? 2 : 1);
	if (!head_looks(ts))
		return;
	p->passes += job->method->compares ? 2 : 1;
	count_hessian(job, c->hidden, &p->work);
}

int gq_plan_make(const struct gq_job *job, const struct gq_targets *targets,
		 const struct gq_source *source, struct gq_plan *out,
		 struct err *err)
{
	struct gq_plan_memory m = {
		.job = job, .targets = targets, .elem = source->elem,
		.base = source->base, .apart = source->apart,
	};

	memset(out, 0, sizeof(*out));
	out->work.elem = source->elem;
	if (sizes(job, targets, source, out, err))
		return -1;
	for (int i = 0; i < 2; i++) {
		m.spill = i;
		if (gq_plan_memory(&m, &out->memory[i], &out->device[i], err))
			return -1;
	}
	count(job, targets, out);
	return 0;
}
