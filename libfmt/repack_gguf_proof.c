/* The proof of a GGUF file: it is read back, and both sides compared. */
#include "repack_gguf.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/pool.h"
#include "llama.h"

#include <stdlib.h>
#include <string.h>

struct proof {
	const struct repack_job *job;
	const struct repack_ways *ways;
	struct model *back;
	struct ql_diff *diff; /* [survey->count] */
};

/* ---- linears ---- */

static int prove_layer(void *ctx, uint32_t i, struct err *err)
{
	const struct proof *p = ctx;
	const struct survey_layer *l = &p->job->survey->layer[i];
	const struct qf_module *m = model_module(p->back, l->module->name);
	const struct repack_way *w = &p->ways->way[i];
	struct repack_pair pair = { p->job->model, p->back, l->module, m };
	int ret;

	if (!l->format)
		return 0;
	if (!m)
		return err_set(err, ERR_CHECK, "%s: not in the result",
			       l->module->name);
	ret = repack_same_codes(&pair, w, err);
	if (!ret)
		ret = repack_rows_compare(&pair, &w->map, &p->diff[i], err);
	else if (ret > 0)
		ret = 0; /* diff says so too */
	if (!ret && p->diff[i].unequal && p->job->to != &qf_gguf_lossy)
		ret = err_set(err, ERR_CHECK, "%s: %llu weights differ, the "
			      "largest by %g at output %u, input %u", m->name,
			      (unsigned long long)p->diff[i].unequal,
			      p->diff[i].max_abs, p->diff[i].n, p->diff[i].k);
	repack_forget(p->job->model, l->module);
	repack_forget(p->back, m);
	return ret;
}

static uint64_t layer_cost(void *ctx, uint32_t i)
{
	const struct proof *p = ctx;
	const struct survey_layer *l = &p->job->survey->layer[i];

	return l->format ? (uint64_t)l->spec.out * l->spec.in : 0;
}

/* ---- everything else ---- */

int repack_gguf_same(const struct tensor *was, const struct tensor *is,
		     struct err *err)
{
	uint64_t rows = was->rank ? was->dim[0] : 0, bytes;
	uint64_t cols = was->rank > 1 ? was->dim[1] : 1;
	uint8_t *want = NULL, *have = NULL;
	float *row = NULL;
	int ret = -1;

	if (is->rank != was->rank || !rows || is->dim[0] != rows ||
	    (was->rank > 1 && is->dim[1] != cols))
		return err_set(err, ERR_CHECK, "%s: its shape has changed",
			       was->name);
	bytes = is->size / rows;
	want = mem_alloc(bytes, 1, err);
	have = mem_alloc(bytes, 1, err);
	row = mem_alloc(cols, sizeof(*row), err);
	if (!want || !have || !row)
		goto out;
	for (uint32_t n = 0; n < rows; n++) {
		if (repack_gguf_row(was, n, is->type, row, want, err) ||
		    repack_gguf_row(is, n, is->type, row, have, err))
			goto out;
		if (memcmp(want, have, bytes) != 0) {
			err_set(err, ERR_CHECK, "%s: row %u differs",
				was->name, n);
			goto out;
		}
	}
	ret = 0;
out:
	free(want);
	free(have);
	free(row);
	return ret;
}

static int prove_copy(const struct proof *p, const struct tensor *was,
		      const struct tensor *is, struct err *err)
{
	if (was->type == is->type && !was->turned && !is->turned)
		return repack_same_bytes(p->job->model, was, p->back, is) ? 0 :
			err_set(err, ERR_CHECK, "%s: the copy differs",
				was->name);
	if (repack_gguf_same(was, is, err))
		return -1;
	model_forget(p->job->model, was, 0, was->size);
	model_forget(p->back, is, 0, is->size);
	return 0;
}

/* The tensors that are weights of quantized layers. */
static void mark(const struct proof *p, uint8_t *quantized)
{
	const struct survey *s = p->job->survey;

	for (uint32_t i = 0; i < s->count; i++) {
		const struct qf_module *q = s->layer[i].module;

		for (uint32_t k = 0; s->layer[i].format && k < q->count; k++)
			if (survey_owns(&s->layer[i], &q->part[k]))
				quantized[&q->part[k] -
					  p->job->model->tensor] = 1;
	}
}

static int prove_copies(const struct proof *p, struct err *err)
{
	const struct model *m = p->job->model;
	const struct llama_config *c = model_llama(m);
	uint8_t *quantized = mem_alloc(m->tensor_count, 1, err);
	int ret = -1;

	if (!quantized)
		return -1;
	mark(p, quantized);
	for (uint32_t i = 0; i < m->tensor_count; i++) {
		const struct tensor *was = &m->tensor[i];
		const struct tensor *is = model_find(p->back, was->name);

		if (quantized[i] || repack_gguf_drops(was, c))
			continue;
		if (!is) {
			err_set(err, ERR_CHECK, "%s: not in the result",
				was->name);
			goto out;
		}
		if (prove_copy(p, was, is, err))
			goto out;
	}
	ret = 0;
out:
	free(quantized);
	return ret;
}

static void sum_up(const struct proof *p, struct repack_report *out)
{
	const struct survey *s = p->job->survey;
	double sum = 0;

	for (uint32_t i = 0; i < s->count; i++) {
		const struct ql_diff *d = &p->diff[i];

		out->proven += (uint64_t)s->layer[i].spec.out *
			       s->layer[i].spec.in;
		out->rounded += d->unequal;
		out->worst = d->max_abs > out->worst ? d->max_abs : out->worst;
		sum += d->sum_abs;
	}
	out->mean = out->proven ? sum / (double)out->proven : 0;
}

int repack_gguf_prove(const struct repack_job *job,
		      const struct repack_ways *ways,
		      struct repack_report *out, struct err *err)
{
	struct proof p = { .job = job, .ways = ways };
	struct pool pool = {
		.count = job->survey->count,
		.threads = repack_threads(job, ways),
		.fn = prove_layer, .cost = layer_cost, .ctx = &p,
		.what = "check", .progress = job->progress
	};
	int ret = -1;

	p.diff = mem_alloc(job->survey->count, sizeof(*p.diff), err);
	if (!p.diff || model_open(job->out, 0, &p.back, err) ||
	    prove_copies(&p, err) || pool_run(&pool, err))
		goto out;
	sum_up(&p, out);
	ret = 0;
out:
	model_close(p.back);
	free(p.diff);
	/* the source was read before: what cannot be read is the result */
	if (ret && (err->code == ERR_INPUT || err->code == ERR_UNSUP))
		err->code = ERR_CHECK;
	return ret ? err_ctx(err, "proof") : 0;
}
