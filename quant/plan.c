#include "plan.h"

#include "../libfmt/base/err.h"
#include "calib.h"

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

/* A solved linear: half its columns per column, by f32 products; a refinement
 * goes through all of them twice a pass. */
static void count_solve(const struct gq_target *t, struct gq_work *w)
{
	double n = (double)t->in * t->out;

	w->weights += n;
	w->spread += n * t->in * (0.5 + t->params.passes);
}

static void count_slot(const struct gq_job *job, const struct gq_targets *ts,
		       uint32_t layer, int slot, struct gq_work *w)
{
	double tokens = (double)job->calib->samples * job->calib->seqlen;
	double n = 0;

	for (uint32_t i = 0; i < LLAMA_LINEARS; i++) {
		const struct gq_target *t =
			&ts->target[layer * LLAMA_LINEARS + i];

		if ((int)llama_slot_of((enum llama_linear)i) == slot &&
		    !t->skip)
			n = t->in;
	}
	w->hessian += tokens * n * n / 2;
	w->factor += n * n * n / 3;
	/* drift: its sum, and two products with triangles */
	if (job->method->compares)
		w->spread += tokens * n * n + 2 * n * n * n;
}

/* Every linear runs once for each window, but the last block's last; without
 * true sequential twice, but in the last block; where models are compared in
 * both of them. */
static void count_block(const struct gq_job *job, const struct gq_targets *ts,
			uint32_t layer, struct gq_plan *p)
{
	const struct llama_config *c = job->cfg;
	double tokens = (double)job->calib->samples * job->calib->seqlen;
	bool last = layer + 1 == c->layers && !ts->head;
	uint64_t streams = job->method->compares ? 2 : 1;
	double runs = (double)streams *
		      (job->true_sequential || last ? 1 : 2);
	struct gq_work *w = &p->work;

	for (int s = 0; s < LLAMA_SLOTS; s++)
		count_slot(job, ts, layer, s, w);
	for (uint32_t i = 0; i < LLAMA_LINEARS; i++) {
		const struct gq_target *t =
			&ts->target[layer * LLAMA_LINEARS + i];

		w->forward += runs * tokens * t->in * t->out;
	}
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
	double n = c->hidden;

	for (uint32_t i = 0; i < ts->count; i++)
		if (!ts->target[i].skip)
			count_solve(&ts->target[i], &p->work);
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
	if (!ts->head || ts->target[ts->count - 1].skip)
		return;
	p->passes++;
	p->work.hessian += (double)job->calib->samples * job->calib->seqlen *
			   n * n / 2;
	p->work.factor += n * n * n / 3;
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
