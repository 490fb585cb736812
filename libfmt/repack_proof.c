#include "repack_impl.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/pool.h"

#include <stdlib.h>
#include <string.h>

struct proof {
	const struct repack_job *job;
	struct model *back;
};

static int equal_packed(const struct ql *was, const struct proof *p,
			const struct qf_module *m, struct err *err)
{
	uint64_t all = (uint64_t)was->spec.out * was->spec.in;
	struct ql_diff d;
	struct ql is;
	int ret;

	if (survey_read(p->back, m, &is, err))
		return -1;
	ret = ql_compare(was, &is, &d, err);
	ql_release(&is);
	if (!ret && d.unequal)
		ret = err_set(err, ERR_CHECK,
			      "%s: %llu of %llu weights differ, the largest by "
			      "%g at output %u, input %u", m->name,
			      (unsigned long long)d.unequal,
			      (unsigned long long)all, d.max_abs, d.n, d.k);
	return ret;
}

/* The stored weight is what the source rounds to. */
static int equal_dense(const struct ql *was, const struct proof *p,
		       const struct tensor *t, struct err *err)
{
	size_t bytes = was->spec.in * (tensor_dtype_bits(t->type) / 8);
	float *row = mem_alloc(was->spec.in, sizeof(*row), err);
	uint8_t *want = mem_alloc(was->spec.in, 4, err);
	const uint8_t *have = t->data;
	int ret = -1;

	if (!row || !want)
		goto out;
	if (t->type != p->job->dense_type ||
	    !tensor_is_shape(t, 2, was->spec.out, was->spec.in)) {
		err_set(err, ERR_CHECK, "%s: type or shape is not as planned",
			t->name);
		goto out;
	}
	for (uint32_t n = 0; n < was->spec.out; n++, have += bytes) {
		if (repack_dense_row(was, n, t->type, row, want, err))
			goto out;
		if (memcmp(want, have, bytes) != 0) {
			err_set(err, ERR_CHECK,
				"%s: weights of output %u differ", t->name, n);
			goto out;
		}
	}
	ret = 0;
out:
	free(row);
	free(want);
	return ret;
}

static int prove_layer(void *ctx, uint32_t i, struct err *err)
{
	const struct proof *p = ctx;
	const struct survey_layer *l = &p->job->survey->layer[i];
	const struct qf_module *m =
		model_module(p->back, l->module->name);
	const struct tensor *t = m ? qf_part(m, "weight") : NULL;
	struct ql was;
	int ret;

	if (!l->format)
		return 0;
	if (!m || (!repack_target(p->job, l) && !t))
		return err_set(err, ERR_CHECK, "%s: not in the result",
			       l->module->name);
	if (survey_read(p->job->model, l->module, &was, err))
		return -1;
	ret = repack_target(p->job, l) ? equal_packed(&was, p, m, err) :
					 equal_dense(&was, p, t, err);
	ql_release(&was);
	return ret;
}

static uint64_t layer_cost(void *ctx, uint32_t i)
{
	const struct proof *p = ctx;
	const struct survey_layer *l = &p->job->survey->layer[i];

	return l->format ? (uint64_t)l->spec.out * l->spec.in : 0;
}

static int same_bytes(const struct tensor *a, const struct tensor *b)
{
	if (a->type != b->type || a->rank != b->rank || a->size != b->size)
		return 0;
	for (int i = 0; i < a->rank; i++)
		if (a->dim[i] != b->dim[i])
			return 0;
	return !a->size || memcmp(a->data, b->data, a->size) == 0;
}

/* Every tensor that is no part of a quantized layer is there, byte for byte. */
static int prove_copies(const struct proof *p, struct err *err)
{
	const struct model *m = p->job->model;
	const struct survey *s = p->job->survey;
	uint8_t *quantized = mem_alloc(m->tensor_count, 1, err);
	int ret = -1;

	if (!quantized)
		return -1;
	for (uint32_t i = 0; i < s->count; i++) {
		const struct qf_module *q = s->layer[i].module;

		for (uint32_t k = 0; s->layer[i].format && k < q->count; k++)
			if (survey_owns(&s->layer[i], &q->part[k]))
				quantized[&q->part[k] - m->tensor] = 1;
	}
	for (uint32_t i = 0; i < m->tensor_count; i++) {
		const struct tensor *t =
			model_find(p->back, m->tensor[i].name);

		if (quantized[i])
			continue;
		if (!t || !same_bytes(&m->tensor[i], t)) {
			err_set(err, ERR_CHECK, "%s: %s", m->tensor[i].name,
				t ? "the copy differs" : "not in the result");
			goto out;
		}
	}
	ret = 0;
out:
	free(quantized);
	return ret;
}

int repack_prove(const struct repack_job *job, uint64_t *weights,
		 struct err *err)
{
	struct proof p = { .job = job };
	struct pool pool = {
		.count = job->survey->count, .threads = job->threads,
		.fn = prove_layer, .cost = layer_cost, .ctx = &p,
		.what = "check", .progress = job->progress
	};
	int ret = -1;

	*weights = 0;
	if (model_open(job->out, 0, &p.back, err) || prove_copies(&p, err) ||
	    pool_run(&pool, err))
		goto out;
	for (uint32_t i = 0; i < job->survey->count; i++)
		*weights += (uint64_t)job->survey->layer[i].spec.out *
			    job->survey->layer[i].spec.in;
	ret = 0;
out:
	model_close(p.back);
	/* the source was read before: what cannot be read is the result */
	if (ret && (err->code == ERR_INPUT || err->code == ERR_UNSUP))
		err->code = ERR_CHECK;
	return ret ? err_ctx(err, "proof") : 0;
}
