#include "repack_gguf.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/pool.h"

#include <stdlib.h>
#include <string.h>

struct proof {
	const struct repack_job *job;
	const struct repack_ways *ways;
	struct model *back;
};

static int equal_packed(const struct ql *was, const struct proof *p,
			const struct repack_way *w, const struct qf_module *m,
			struct err *err)
{
	uint64_t all = (uint64_t)w->map.out * w->map.in;
	struct ql_diff d;
	struct ql is;
	int ret;

	if (survey_read(p->back, m, &is, err))
		return -1;
	ret = ql_compare_moved(was, &w->map, &is, &d, err);
	ql_release(&is);
	if (!ret && d.unequal)
		ret = err_set(err, ERR_CHECK,
			      "%s: %llu of %llu weights differ, the largest by "
			      "%g at output %u, input %u", m->name,
			      (unsigned long long)d.unequal,
			      (unsigned long long)all, d.max_abs, d.n, d.k);
	return ret;
}

/* Row n of the stored weight is what the source rounds to, each in its place.
 * `row` [in], `want` [bytes of in], is scratch. */
static int equal_row(const struct ql *was, const struct repack_way *w,
		     const struct tensor *t, uint32_t n, float *row,
		     uint8_t *want, struct err *err)
{
	static const uint8_t nothing[4];
	size_t size = tensor_dtype_bits(t->type) / 8;
	uint32_t from = ql_map_from(w->map.row, was->spec.out, n);
	const uint8_t *have = t->data;

	have += (size_t)n * w->map.in * size;
	if (from != QL_PAD &&
	    repack_dense_row(was, from, t->type, row, want, err))
		return -1;
	for (uint32_t k = 0; k < w->map.in; k++, have += size) {
		uint32_t at = ql_map_from(w->map.col, was->spec.in, k);
		bool pad = from == QL_PAD || at == QL_PAD;

		if (memcmp(pad ? nothing : want + at * size, have, size) != 0)
			return err_set(err, ERR_CHECK,
				       "%s: weights of output %u differ",
				       t->name, n);
	}
	return 0;
}

static int equal_dense(const struct ql *was, const struct proof *p,
		       const struct repack_way *w, const struct tensor *t,
		       struct err *err)
{
	float *row = mem_alloc(was->spec.in, sizeof(*row), err);
	uint8_t *want = mem_alloc(was->spec.in, 4, err);
	int ret = -1;

	if (!row || !want)
		goto out;
	if (t->type != p->job->dense_type ||
	    !tensor_is_shape(t, 2, w->map.out, w->map.in)) {
		err_set(err, ERR_CHECK, "%s: type or shape is not as planned",
			t->name);
		goto out;
	}
	for (uint32_t n = 0; n < w->map.out; n++)
		if (equal_row(was, w, t, n, row, want, err))
			goto out;
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
	const struct repack_way *w = &p->ways->way[i];
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
	ret = repack_target(p->job, l) ? equal_packed(&was, p, w, m, err) :
					 equal_dense(&was, p, w, t, err);
	ql_release(&was);
	repack_layer_forget(p->job->model, l->module);
	repack_layer_forget(p->back, m);
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

/* Layers, by the places of their tensors in the model's table. */
static void find_owners(const struct survey *s, const struct model *m,
			const struct survey_layer **owner)
{
	for (uint32_t i = 0; i < s->count; i++) {
		const struct qf_module *q = s->layer[i].module;

		for (uint32_t k = 0; k < q->count; k++)
			owner[&q->part[k] - m->tensor] = &s->layer[i];
	}
}

/* A tensor beside the codes of its layer (or of none): byte for byte the
 * same, or moved as the layer is. */
static int prove_copy(const struct proof *p, const struct survey_layer *l,
		      const struct tensor *was, struct err *err)
{
	const struct tensor *is = model_find(p->back, was->name);
	const struct repack_way *w =
		l ? &p->ways->way[l - p->job->survey->layer] : NULL;
	uint64_t dim[2];

	if (repack_gguf_leaves(p->job->model, was))
		return 0;
	if (!is)
		return err_set(err, ERR_CHECK, "%s: not in the result",
			       was->name);
	if (model_gguf(p->job->model) && !(w && w->moved))
		return repack_gguf_same(was, is, err);
	if (w && w->moved && !repack_move_shape(w, was, &l->spec, dim) ?
	    repack_move_same(w, &l->spec, was, is) : same_bytes(was, is))
		return 0;
	return err_set(err, ERR_CHECK, "%s: the copy differs", was->name);
}

/* Every tensor that is no part of a quantized layer is there. */
static int prove_copies(const struct proof *p, struct err *err)
{
	const struct model *m = p->job->model;
	const struct survey_layer **owner =
		mem_alloc(m->tensor_count, sizeof(*owner), err);
	int ret = 0;

	if (!owner)
		return -1;
	find_owners(p->job->survey, m, owner);
	for (uint32_t i = 0; !ret && i < m->tensor_count; i++)
		if (!owner[i] || !survey_owns(owner[i], &m->tensor[i]))
			ret = prove_copy(p, owner[i], &m->tensor[i], err);
	free(owner);
	return ret;
}

int repack_prove(const struct repack_job *job, const struct repack_ways *w,
		 uint64_t *weights, struct err *err)
{
	struct proof p = { .job = job, .ways = w };
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
