/* The checks of gptq-verify, but for the manifest. */
#include "verify.h"

#include "../libfmt/base/mem.h"
#include "../quant/calib.h"
#include "../runtime/tok.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Warnings pass: such a checkpoint can be decoded without a doubt. */
int verify_structure(struct verify *v, struct verify_check *c,
		     struct err *err)
{
	struct check *s = &v->structure;
	const struct check_fault *first = NULL;

	if (check_structure(v->model, &v->survey, &v->call->ui->progress, s,
			    err))
		return -1;
	for (uint32_t i = 0; i < s->count && !first; i++)
		if (!s->fault[i].warning)
			first = &s->fault[i];
	if (first)
		verify_say(c, false, "%u fault%s, the first: %s%s%s",
			   s->errors, ui_plural(s->errors), first->where,
			   first->where[0] ? ": " : "", first->message);
	else
		verify_say(c, true, "%u layer%s, %u tensor%s, %u warning%s",
			   s->layers, ui_plural(s->layers), s->tensors,
			   ui_plural(s->tensors), s->warnings,
			   ui_plural(s->warnings));
	return 0;
}

/* ---- weights ---- */

/* w and q are [n] */
static void compare(const float *w, const float *q, uint64_t n,
		    struct verify_layer *l)
{
	double ww = 0, qq = 0, wq = 0, dd = 0, max = 0;

	for (uint64_t i = 0; i < n; i++) {
		double a = (double)w[i], b = (double)q[i], d = a - b;

		ww += a * a;
		qq += b * b;
		wq += a * b;
		dd += d * d;
		/* NaN must not hide behind a comparison */
		if (!(fabs(d) <= max))
			max = fabs(d);
	}
	l->max_abs = max;
	l->rel_error = dd == 0 ? 0 : sqrt(dd / ww);
	/* two zero weights point the same way */
	l->cosine = dd == 0 ? 1 : wq / sqrt(ww * qq);
}

/* A head that was quantized apart from the embeddings is compared with them,
 * where the original has no other. */
static const char *name_in(const struct model *m, const char *name)
{
	return !strcmp(name, LLAMA_HEAD) && !model_module(m, name) ?
		LLAMA_TABLE : name;
}

/* One linear at a time in f32, from both checkpoints, whatever their layouts:
 * the original may itself be quantized. */
static int compare_layer(struct verify *v, const struct survey_layer *s,
			 struct verify_layer *l, struct err *err)
{
	uint32_t in = s->spec.in, out = s->spec.out;
	float *w = NULL, *q = NULL;
	int ret = -1;

	l->name = s->module->name;
	if (rt_weights(v->dense, name_in(v->dense, l->name), in, out, &w,
		       err)) {
		err_ctx(err, "%s", v->args->against);
		goto out;
	}
	if (rt_weights(v->model, l->name, in, out, &q, err)) {
		err_ctx(err, "%s", v->call->model);
		goto out;
	}
	compare(w, q, (uint64_t)in * out, l);
	ret = 0;
out:
	free(w);
	free(q);
	return ret;
}

/* Without a limit the check passes when every error is a number. */
static void judge_weights(const struct verify *v, struct verify_check *c)
{
	const struct verify_layer *worst = NULL;
	bool limited = opt_given(v->call->opt, "max-layer-error");
	double mean = 0, limit = v->args->max_layer_error;

	for (uint32_t i = 0; i < v->layers; i++) {
		const struct verify_layer *l = &v->layer[i];

		mean += l->rel_error / v->layers;
		if (!worst || !(l->rel_error <= worst->rel_error))
			worst = l;
	}
	if (!worst)
		verify_say(c, false, "there is no linear layer to compare");
	else if (limited && !(worst->rel_error <= limit))
		verify_say(c, false, "%s: relative error %.6g is above the "
			   "limit %g", worst->name, worst->rel_error, limit);
	else
		verify_say(c, isfinite(worst->rel_error),
			   "%u linear%s, relative error %.4f, largest %.4f "
			   "(%s)", v->layers, ui_plural(v->layers), mean,
			   worst->rel_error, worst->name);
}

/* Every linear of the survey, those that stayed dense too: they must be equal
 * to the original's, and a table without them would hide that they are not. */
int verify_weights(struct verify *v, struct verify_check *c, struct err *err)
{
	v->layer = mem_alloc(v->survey.count, sizeof(*v->layer), err);
	if (!v->layer)
		return -1;
	for (uint32_t i = 0; i < v->survey.count; i++) {
		if (compare_layer(v, &v->survey.layer[i],
				  &v->layer[v->layers], err) ||
		    prog_step(&v->call->ui->progress, "weights", i + 1,
			      v->survey.count, err))
			return -1;
		v->layers++;
	}
	judge_weights(v, c);
	return 0;
}

/* ---- perplexity and divergence ---- */

/* The tokenizer of the model, or of the original where the model has none. */
static int open_tokenizer(struct verify *v, struct err *err)
{
	struct err other;

	if (v->tok || !tok_open_model(v->model, &v->tok, err))
		return 0;
	if (v->dense && !tok_open_model(v->dense, &v->tok, &other))
		return 0;
	return -1;
}

static int open_devices(struct verify *v, struct llm_open *how,
			struct err *err)
{
	int ret;

	how->dev = v->dev;
	how->rest = v->rest;
	if (call_gpu_layers(v->args->gpu_layers, &how->layers, err))
		return -1;
	ret = call_llm_devices(v->call, NULL, how, err);
	v->dev = how->dev;
	v->rest = how->rest;
	return ret;
}

/* Load a model for windows of seqlen tokens; the context is no larger, so that
 * little memory goes into the cache. */
static int open_llm(struct verify *v, const struct model *m, struct llm **out,
		    struct err *err)
{
	struct llm_open how = { .progress = &v->call->ui->progress };
	struct llama_config cfg;

	if (*out)
		return 0;
	if (!m->config)
		return err_set(err, ERR_INPUT, "%s: no config.json, so the "
			       "architecture is not known", m->path);
	if (llama_config_read(m->config, NULL, &cfg, err) ||
	    call_seqlen(v->call, v->args->seqlen, cfg.max_pos, &v->seqlen,
			err) ||
	    open_devices(v, &how, err))
		return -1;
	how.context = v->seqlen;
	if (m == v->model)
		how.kv_type = call_kv_type(v->args->kv_type);
	if (llm_open(m, &how, out, err))
		return -1;
	call_llm_say(v->call, *out, how.layers != LLM_FIT);
	return 0;
}

/* All token ids of a text. */
static int read_text(struct verify *v, const char *file, uint32_t **id,
		     uint64_t *n, struct err *err)
{
	if (!call_holds_ids(file) && open_tokenizer(v, err))
		return -1;
	return gq_calib_ids(file, v->tok, v->llm->cfg.vocab, id, n, err);
}

/* Both models over one text: divergence, and both perplexities. */
static int score_both(struct verify *v, const char *file, struct err *err)
{
	uint32_t *id = NULL;
	uint64_t n;
	int ret = -1;

	if (open_llm(v, v->model, &v->llm, err) ||
	    open_llm(v, v->dense, &v->base, err))
		return -1;
	if (read_text(v, file, &id, &n, err))
		return -1;
	if (rt_score_kld(v->base, v->llm, id, n, v->seqlen,
			 &v->call->ui->progress, &v->kld, err)) {
		err_ctx(err, "%s", file);
		goto out;
	}
	v->have_kld = true;
	ret = 0;
out:
	free(id);
	return ret;
}

/* Perplexity of the model, and of the original where there is one. */
static int score_one(struct verify *v, struct err *err)
{
	const struct progress *p = &v->call->ui->progress;
	const char *file = v->args->ppl;
	uint32_t *id = NULL;
	uint64_t n;
	int ret = -1;

	if (open_llm(v, v->model, &v->llm, err))
		return -1;
	if (read_text(v, file, &id, &n, err))
		return -1;
	if (rt_score_ppl(v->llm, id, n, v->seqlen, p, &v->ppl, err)) {
		err_ctx(err, "%s", file);
		goto out;
	}
	v->have_ppl = true;
	if (v->dense) {
		if (!v->args->kld) { /* one model in memory is enough */
			llm_close(v->llm);
			v->llm = NULL;
		}
		if (open_llm(v, v->dense, &v->base, err) ||
		    rt_score_ppl(v->base, id, n, v->seqlen, p, &v->base_ppl,
				 err))
			goto out;
		v->have_base = true;
	}
	ret = 0;
out:
	free(id);
	return ret;
}

/* NaN compares as false: so every limit is written to fail on it. */
static void judge_perplexity(const struct verify *v, struct verify_check *c)
{
	const struct opt_parsed *o = v->call->opt;
	const struct verify_args *a = v->args;
	double value = v->ppl.value, ratio;

	ratio = v->have_base ? value / v->base_ppl.value : 1;
	if (opt_given(o, "max-ppl") && !(value <= a->max_ppl))
		verify_say(c, false, "%.5f is above the limit %g", value,
			   a->max_ppl);
	else if (opt_given(o, "max-ppl-ratio") &&
		 !(ratio <= a->max_ppl_ratio))
		verify_say(c, false, "%.5f is %.5f times the original's "
			   "%.5f, above the limit %g", value, ratio,
			   v->base_ppl.value, a->max_ppl_ratio);
	else if (v->have_base)
		verify_say(c, isfinite(value), "%.5f, the original %.5f, "
			   "ratio %.5f (%u window%s of %u)", value,
			   v->base_ppl.value, ratio, v->ppl.windows,
			   ui_plural(v->ppl.windows), v->ppl.seqlen);
	else
		verify_say(c, isfinite(value), "%.5f (%u window%s of %u)",
			   value, v->ppl.windows, ui_plural(v->ppl.windows),
			   v->ppl.seqlen);
}

int verify_perplexity(struct verify *v, struct verify_check *c,
		      struct err *err)
{
	const struct verify_args *a = v->args;

	if (a->kld && !strcmp(a->ppl, a->kld)) {
		/* one pass over the text answers both questions */
		if (score_both(v, a->ppl, err))
			return -1;
		v->ppl = v->kld.model;
		v->base_ppl = v->kld.base;
		v->have_ppl = v->have_base = true;
	} else if (score_one(v, err)) {
		return -1;
	}
	judge_perplexity(v, c);
	return 0;
}

/* Mean for the limit; the tail (p99, max) tells whether few tokens carry it. */
int verify_divergence(struct verify *v, struct verify_check *c,
		      struct err *err)
{
	const struct opt_parsed *o = v->call->opt;
	const struct verify_args *a = v->args;
	const struct score_kld *k = &v->kld;

	if (!v->have_kld && score_both(v, a->kld, err))
		return -1;
	if (opt_given(o, "max-kld") && !(k->mean <= a->max_kld))
		verify_say(c, false, "mean %.6g nats is above the limit %g",
			   k->mean, a->max_kld);
	else if (opt_given(o, "min-top1") && !(k->top1 >= a->min_top1))
		verify_say(c, false, "the same best token at %.5f of the "
			   "positions, below the limit %g", k->top1,
			   a->min_top1);
	else
		verify_say(c, isfinite(k->mean), "mean %.5f nats, 99 %% "
			   "%.4f, largest %.4f, same best token %.2f %%",
			   k->mean, k->p99, k->max, 100 * k->top1);
	return 0;
}
