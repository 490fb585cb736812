#include "repack_impl.h"

#include "base/err.h"
#include "base/io.h"
#include "base/mem.h"
#include "container/st.h"
#include "layout/qfmt_moved.h"

#include <stdlib.h>
#include <string.h>

static void dense_plan(const struct ql_spec *spec, enum dtype type,
		       struct qf_plan *plan)
{
	memset(plan, 0, sizeof(*plan));
	plan->count = 1;
	memcpy(plan->part[0].suffix, "weight", sizeof("weight"));
	plan->part[0].type = type;
	plan->part[0].rank = 2;
	plan->part[0].dim[0] = spec->out;
	plan->part[0].dim[1] = spec->in;
	plan->part[0].bytes = (uint64_t)spec->out * spec->in *
			      (tensor_dtype_bits(type) / 8);
}

int repack_layer_plan(const struct repack_job *job,
		      const struct repack_item *item, struct qf_plan *plan,
		      struct err *err)
{
	const struct qfmt *to = repack_target(job, item->layer);

	if (to)
		return to->plan(&item->way->spec, plan, err);
	dense_plan(&item->way->spec, job->dense_type, plan);
	return 0;
}

/* ---- packed layers ---- */

/* Strips are about this large: what is read for one, its tiles and the strip
 * itself stay in the second-level cache. */
#define STRIP ((uint64_t)512 << 10)

/* A layer on its way. */
struct passing {
	const struct repack_item *item;
	const struct qfmt *to;
	struct ql ql;          /* without codes where words.how is set */
	struct qf_words words;
};

/* The codes, from the source's words to strips of the target's. */
static int pour_strips(const struct passing *p, struct st_writer *w,
		       struct err *err)
{
	const struct qf_codes *how = p->to->codes;
	const struct ql_spec *s = &p->ql.spec;
	uint64_t total = p->item->plan.part[0].bytes;
	uint32_t end = how->by_out ? s->out : s->in;
	uint32_t unit = how->by_out ? BITS_TILE_OUT : BITS_TILE_IN;
	uint64_t fit = STRIP / (total / end + 1) / unit * unit;
	/* moved codes come in an order of their own */
	uint32_t step = p->words.moved && p->words.how->by_out != how->by_out ?
				end :
			fit < unit ? unit : fit < end ? (uint32_t)fit : end;
	/* what one step takes: of a stream of inputs, whole words */
	uint64_t bytes = step == end ? total :
			 how->by_out ? total / end * step :
				       (uint64_t)s->out * step / 8 * s->bits;
	uint8_t *strip = mem_alloc(bytes, 1, err);
	int ret = strip ? 0 : -1;

	for (uint32_t at = 0; !ret && at < end; at += step) {
		uint64_t off = (uint64_t)(at / step) * bytes;
		uint64_t n = total - off < bytes ? total - off : bytes;
		uint32_t part = end - at < step ? end - at : step;
		struct qf_strip to = { s->bits, s->out, s->in, strip };

		*(how->by_out ? &to.out : &to.in) = part;
		qf_codes_pass(&p->words, how->by_out ? at : 0,
			      how->by_out ? 0 : at, how, &to);
		ret = st_writer_pour(w, p->item->id, off, strip, n, err);
	}
	free(strip);
	return ret;
}

/* *again: the layer's codes are needed in full. */
static int pour_packed(struct passing *p, struct st_writer *w, bool *again,
		       struct err *err)
{
	const struct qf_plan *plan = &p->item->plan;
	uint32_t first = p->words.how ? 1 : 0;
	void *part[QF_PARTS] = { NULL };
	int ret = -1, done;

	for (uint32_t i = first; i < plan->count; i++) {
		part[i] = mem_alloc(plan->part[i].bytes, 1, err);
		if (!part[i])
			goto out;
	}
	done = p->to->write(&p->ql, part, err);
	*again = done > 0;
	if (done) {
		ret = done > 0 ? 0 : -1;
		goto out;
	}
	for (uint32_t i = first; w && i < plan->count; i++)
		if (st_writer_pour(w, p->item->id + i, 0, part[i],
				   plan->part[i].bytes, err))
			goto out;
	ret = w && first ? pour_strips(p, w, err) : 0;
out:
	for (uint32_t i = 0; i < QF_PARTS; i++)
		free(part[i]);
	return ret;
}

void repack_forget(const struct model *m, const struct qf_module *q)
{
	for (uint32_t i = 0; i < q->count; i++)
		model_forget(m, &q->part[i], 0, q->part[i].size);
}

/* ---- v1 and v2 ---- */

/* They differ in qzeros alone.  All else is copied where it lies as it would
 * be written: nothing to mend, words full, types as planned. */
static bool only_zeros(const struct repack_job *job,
		       const struct repack_item *item)
{
	const struct survey_layer *l = item->layer;
	const struct qfmt *to = repack_target(job, l);
	const struct ql_spec *s = &l->spec;

	if (repack_way_changes(item->way, l) || repack_anew(job) ||
	    !((l->format == &qf_gptq && to == &qf_gptq_v2) ||
	      (l->format == &qf_gptq_v2 && to == &qf_gptq)) ||
	    32 % s->bits || s->in * s->bits % 32 || s->out * s->bits % 32 ||
	    l->odd & ~(uint32_t)(QF_ODD_GROUP | QF_ODD_ACT | QF_ODD_BIAS))
		return false;
	for (uint32_t i = 0; i < item->plan.count; i++) {
		const struct tensor *t =
			qf_part(l->module, item->plan.part[i].suffix);

		if (!t || !t->data || t->type != item->plan.part[i].type ||
		    t->size != item->plan.part[i].bytes)
			return false;
	}
	return true;
}

/* *done: it was that simple. */
static int convert_zeros(const struct repack_job *job,
			 const struct repack_item *item, struct st_writer *w,
			 bool *done, struct err *err)
{
	const struct survey_layer *l = item->layer;
	const struct tensor *z = qf_part(l->module, "qzeros");
	uint8_t *words = mem_alloc(z->size, 1, err);
	int ret = -1;

	*done = false;
	if (!words)
		return -1;
	if (qf_rebias(z, l->spec.bits, l->format == &qf_gptq, words)) {
		ret = 0;
		goto out;
	}
	*done = true;
	for (uint32_t i = 0; w && i < item->plan.count; i++) {
		const struct tensor *t =
			qf_part(l->module, item->plan.part[i].suffix);
		uint32_t id = item->id + i;

		if (t == z ? st_writer_pour(w, id, 0, words, z->size, err) :
		    st_writer_tensor(w, id, t,
				     job->model->file[t->file].src, err))
			goto out;
	}
	ret = 0;
out:
	free(words);
	return ret ? err_ctx(err, "%s", l->module->name) : 0;
}

bool repack_by_tiles(const struct repack_job *job,
		     const struct repack_item *item)
{
	const struct qfmt *to = repack_target(job, item->layer);

	return to && to->codes && !(item->way->map.row && item->way->map.col);
}

#define BUDGET ((uint64_t)3 << 29)

/* Memory that a layer takes at most, file pages included. */
static uint64_t takes(const struct repack_job *job,
		      const struct repack_item *item)
{
	const struct survey_layer *l = item->layer;
	const struct repack_way *w = item->way;
	uint64_t codes = (uint64_t)l->spec.in * l->spec.out;
	uint64_t size = 0, grid = 8 * (uint64_t)l->spec.groups * l->spec.out;
	const struct qfmt *to = repack_target(job, l);

	for (uint32_t k = 0; k < l->module->count; k++)
		size += l->module->part[k].size;
	/* the proof has files, scales and zeros of both sides */
	size = 2 * (size + grid);
	if (w->map.row && !(to && to->codes))
		return size + 2 * codes; /* ql_move's */
	if (l->spec.sorted || (w->spec.sorted && w->spec.act_order))
		return size + 2 * codes;
	if (w->map.col)
		return size + codes; /* the target's, whole */
	return size;
}

uint32_t repack_threads(const struct repack_job *job,
			const struct repack_ways *w)
{
	uint64_t most = 1, fit;

	for (uint32_t i = 0; i < job->survey->count; i++) {
		struct repack_item item = { .layer = &job->survey->layer[i],
					    .way = &w->way[i] };
		uint64_t bytes = item.layer->format ? takes(job, &item) : 0;

		most = bytes > most ? bytes : most;
	}
	fit = BUDGET / most;
	return fit < job->threads ? fit ? (uint32_t)fit : 1 : job->threads;
}

int repack_open(const struct model *m, const struct qf_module *module,
		const struct repack_way *way, bool tiles, struct ql *ql,
		struct qf_words *words, struct err *err)
{
	memset(words, 0, sizeof(*words));
	/* what read says names the tensor by itself */
	if (survey_open(m, module, ql, tiles ? words : NULL, err))
		return -1;
	if (!way)
		return 0;
	words->add = words->how ? ql_widen_by(&ql->spec, way->spec.bits) : 0;
	if (!repack_way_apply(way, ql, err) &&
	    (!words->how || !way->moved ||
	     !qf_moved_open(words, &way->map, ql, err)))
		return 0;
	ql_release(ql);
	return err_ctx(err, "%s", module->name);
}

void repack_close(struct ql *ql, struct qf_words *words)
{
	qf_moved_close(words);
	ql_release(ql);
}

static int pass(const struct repack_job *job, struct passing *p, bool tiles,
		struct st_writer *w, bool *again, struct err *err)
{
	const struct repack_item *item = p->item;
	int ret;

	*again = false;
	if (repack_open(job->model, item->layer->module, item->way, tiles,
			&p->ql, &p->words, err))
		return -1;
	ret = pour_packed(p, w, again, err);
	repack_close(&p->ql, &p->words);
	return ret ? err_ctx(err, "%s", item->layer->module->name) : 0;
}

int repack_layer_convert(const struct repack_job *job,
			 const struct repack_item *item, struct st_writer *w,
			 struct err *err)
{
	struct passing p = { .item = item,
			     .to = repack_target(job, item->layer) };
	bool done = false, again = false;
	int ret;

	if (only_zeros(job, item) &&
	    convert_zeros(job, item, w, &done, err))
		return -1;
	if (done)
		return 0;
	if (!p.to || !p.to->codes)
		ret = repack_rows_pour(job, item, 0, w, err);
	else
		ret = pass(job, &p, repack_by_tiles(job, item), w, &again, err);
	if (!ret && again)
		ret = pass(job, &p, false, w, &again, err);
	repack_forget(job->model, item->layer->module);
	return ret;
}
