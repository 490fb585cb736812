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
	struct survey survey;              /* of it */
	const struct survey_layer **owner; /* [tensor_count] of the source's
					      tensors; NULL: of none */
};

/* ---- linears ---- */

static int equal_packed(const struct repack_pair *pair,
			const struct repack_way *w, struct err *err)
{
	uint64_t all = (uint64_t)w->map.out * w->map.in;
	struct ql_diff d;

	if (repack_rows_compare(pair, &w->map, &d, err))
		return -1;
	if (!d.unequal)
		return 0;
	return err_set(err, ERR_CHECK, "%s: %llu of %llu weights differ, the "
		       "largest by %g at output %u, input %u", pair->to->name,
		       (unsigned long long)d.unequal, (unsigned long long)all,
		       d.max_abs, d.n, d.k);
}

/* Do the bytes of a row show each weight of `want` in its place? */
static bool same_places(const struct ql_map *map, uint32_t in, size_t size,
			const uint8_t *want, const uint8_t *have)
{
	static const uint8_t nothing[4];

	if (!map->col && map->in == in)
		return !memcmp(want, have, in * size);
	for (uint32_t k = 0; k < map->in; k++, have += size) {
		uint32_t at = ql_map_from(map->col, in, k);

		if (memcmp(at == QL_PAD ? nothing : want + at * size, have,
			   size) != 0)
			return false;
	}
	return true;
}

/* Rows of the stored weight are what the source rounds to.  (Dense results are
 * padded, their rows never permuted.) */
static int equal_band(const struct ql *band, const struct repack_way *w,
		      const struct tensor *t, struct err *err)
{
	size_t size = tensor_dtype_bits(t->type) / 8;
	const uint8_t *have = t->data;
	float *row = mem_alloc(band->spec.in, sizeof(*row), err);
	uint8_t *want = mem_alloc(band->spec.in, 4, err);
	int ret = row && want ? 0 : -1;

	have += (size_t)band->first * w->map.in * size;
	for (uint32_t n = 0; !ret && n < band->spec.out; n++) {
		ret = repack_dense_row(band, n, t->type, row, want, err);
		if (!ret && !same_places(&w->map, band->spec.in, size, want,
					 have))
			ret = err_set(err, ERR_CHECK, "%s: weights of output "
				      "%u differ", t->name, band->first + n);
		have += w->map.in * size;
	}
	free(row);
	free(want);
	return ret;
}

/* Are the rows from `first` on padding? */
static int nothing_behind(const struct tensor *t, uint32_t first,
			  struct err *err)
{
	uint64_t bytes = t->size / t->dim[0];
	const uint8_t *p = t->data;

	for (uint64_t i = first * bytes; i < t->size; i++)
		if (p[i])
			return err_set(err, ERR_CHECK, "%s: weights of output "
				       "%llu differ", t->name,
				       (unsigned long long)(i / bytes));
	return 0;
}

static int equal_dense(const struct proof *p, const struct repack_way *w,
		       const struct survey_layer *l, const struct tensor *t,
		       struct err *err)
{
	struct repack_rows r = { .m = p->job->model, .module = l->module };
	uint64_t bytes = t->size / w->map.out;
	int ret = 0;

	if (t->type != p->job->dense_type ||
	    !tensor_is_shape(t, 2, w->map.out, w->map.in))
		return err_set(err, ERR_CHECK, "%s: type or shape is not as "
			       "planned", t->name);
	if (repack_rows_open(&r, err))
		return -1;
	for (uint32_t n = 0; !ret && n < r.ql.spec.out; n += r.step) {
		ret = equal_band(repack_rows_at(&r, n), w, t, err);
		model_forget(p->back, t, n * bytes, r.step * bytes);
	}
	if (!ret)
		ret = nothing_behind(t, r.ql.spec.out, err);
	repack_rows_close(&r);
	return ret;
}

/* The layer of that name in the result; NULL: there is none. */
static const struct survey_layer *written(const struct proof *p,
					  const char *name)
{
	uint32_t lo = 0, hi = p->survey.count;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		int order = survey_order(p->survey.layer[mid].module->name,
					 name);

		if (!order)
			return &p->survey.layer[mid];
		if (order < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

/* Weights that are right only because the reader made up its mind about tensors
 * that contradict each other are not proven. */
#define DECIDED                                                           \
	((uint32_t)(QF_ODD_SYM | QF_ODD_LABEL | QF_ODD_GIDX_ZERO |        \
		    QF_ODD_GIDX_ACT_MISSING | QF_ODD_ZERO_WRAP |          \
		    QF_ODD_ZERO_SMEAR | QF_ODD_ZERO_SWAP3 |               \
		    QF_ODD_QZEROS_MISSING))

static int nothing_odd(const struct survey_layer *was,
		       const struct survey_layer *is, struct err *err)
{
	uint32_t odd = is->odd & ~was->odd & DECIDED;

	if (!odd)
		return 0;
	return err_set(err, ERR_CHECK, "%s: its tensors or config contradict "
		       "each other, which those of the source did not (%x)",
		       is->module->name, odd);
}

static int prove_layer(const struct proof *p, uint32_t i, struct err *err)
{
	const struct survey_layer *l = &p->job->survey->layer[i];
	const struct repack_way *w = &p->ways->way[i];
	const struct qfmt *to = repack_target(p->job, l);
	/* (a decoded table is no linear, and so no row of the survey) */
	const struct survey_layer *out = written(p, l->module->name);
	const struct qf_module *m = model_module(p->back, l->module->name);
	const struct tensor *t = m ? qf_part(m, "weight") : NULL;
	struct repack_pair pair = { p->job->model, p->back, l->module, m };
	int ret = 0;

	if (!l->format)
		return 0;
	if (!m || (to ? !out : !t))
		return err_set(err, ERR_CHECK, "%s: not in the result",
			       l->module->name);
	if (out && out->format != to && !out->broken)
		return err_set(err, ERR_CHECK, "%s: is taken for %s",
			       l->module->name, out->layout);
	if (out && nothing_odd(l, out, err))
		return -1;
	if (to)
		ret = repack_same_codes(&pair, w, err);
	if (!ret)
		ret = to ? equal_packed(&pair, w, err) :
			   equal_dense(p, w, l, t, err);
	repack_forget(p->job->model, l->module);
	repack_forget(p->back, m);
	return ret < 0 ? -1 : 0;
}

/* ---- everything else ---- */

#define PIECE ((uint64_t)4 << 20)

bool repack_same_bytes(const struct model *m, const struct tensor *was,
		       const struct model *back, const struct tensor *is)
{
	const char *a = was->data, *b = is->data;

	if (was->type != is->type || was->rank != is->rank ||
	    was->size != is->size)
		return false;
	for (int i = 0; i < was->rank; i++)
		if (was->dim[i] != is->dim[i])
			return false;
	for (uint64_t at = 0; at < was->size; at += PIECE) {
		uint64_t n = was->size - at < PIECE ? was->size - at : PIECE;

		if (memcmp(a + at, b + at, n) != 0)
			return false;
		model_forget(m, was, at, n);
		model_forget(back, is, at, n);
	}
	return true;
}

/* A tensor beside the codes of its layer (or of none): byte for byte the
 * same, or moved as the layer is. */
static int prove_copy(const struct proof *p, const struct survey_layer *l,
		      const struct tensor *was, struct err *err)
{
	const struct model *m = p->job->model;
	const struct tensor *is = model_find(p->back, was->name);
	const struct repack_way *w =
		l ? &p->ways->way[l - p->job->survey->layer] : NULL;
	uint64_t dim[2];

	if (repack_gguf_leaves(m, was))
		return 0;
	if (!is)
		return err_set(err, ERR_CHECK, "%s: not in the result",
			       was->name);
	if (model_gguf(m) && !(w && w->moved))
		return repack_gguf_same(was, is, err);
	if (w && w->moved && !repack_move_shape(w, was, &l->spec, dim) ?
	    repack_move_same(w, &l->spec, was, is) :
	    repack_same_bytes(m, was, p->back, is))
		return 0;
	return err_set(err, ERR_CHECK, "%s: the copy differs", was->name);
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

/* ---- all of it: the layers, then the tensors ---- */

static int prove_item(void *ctx, uint32_t i, struct err *err)
{
	const struct proof *p = ctx;
	const struct survey *s = p->job->survey;
	const struct tensor *t = &p->job->model->tensor[i - s->count];
	const struct survey_layer *l;

	if (i < s->count)
		return prove_layer(p, i, err);
	l = p->owner[i - s->count];
	return l && survey_owns(l, t) ? 0 : prove_copy(p, l, t, err);
}

static uint64_t item_cost(void *ctx, uint32_t i)
{
	const struct proof *p = ctx;
	const struct survey *s = p->job->survey;
	const struct survey_layer *l;

	if (i < s->count) {
		l = &s->layer[i];
		return l->format ? (uint64_t)l->spec.out * l->spec.in : 0;
	}
	l = p->owner[i - s->count];
	i -= s->count;
	return l && survey_owns(l, &p->job->model->tensor[i]) ? 0 :
		       p->job->model->tensor[i].size;
}

int repack_prove(const struct repack_job *job, const struct repack_ways *w,
		 uint64_t *weights, struct err *err)
{
	const struct survey *s = job->survey;
	uint32_t tensors = job->model->tensor_count;
	struct proof p = { .job = job, .ways = w };
	struct pool pool = {
		.count = s->count + tensors,
		.threads = repack_threads(job, w),
		.fn = prove_item, .cost = item_cost, .ctx = &p,
		.what = "check", .progress = job->progress
	};
	int ret = -1;

	*weights = 0;
	p.owner = mem_alloc(tensors, sizeof(*p.owner), err);
	if (!p.owner || model_open(job->out, 0, &p.back, err) ||
	    survey_model(p.back, &p.survey, err))
		goto out;
	find_owners(s, job->model, p.owner);
	if (pool_run(&pool, err))
		goto out;
	for (uint32_t i = 0; i < s->count; i++)
		*weights += (uint64_t)s->layer[i].spec.out *
			    s->layer[i].spec.in;
	ret = 0;
out:
	survey_release(&p.survey);
	model_close(p.back);
	free(p.owner);
	/* the source was read before: what cannot be read is the result */
	if (ret && (err->code == ERR_INPUT || err->code == ERR_UNSUP))
		err->code = ERR_CHECK;
	return ret ? err_ctx(err, "proof") : 0;
}
