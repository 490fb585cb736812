#include "repack_impl.h"

#include "base/err.h"
#include "base/io.h"
#include "base/mem.h"
#include "container/st.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Dense rows are poured in pieces of about this many bytes. */
#define PIECE (4u << 20)

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

/* Where rounding to nearest gives infinity. */
static float overflow_at(enum dtype type)
{
	return type == DT_F16 ? 65520.0f :
	       type == DT_BF16 ? 0x1.ffp127f : INFINITY;
}

int repack_dense_row(const struct ql *ql, uint32_t n, enum dtype type,
		     float *row, void *out, struct err *err)
{
	float end = overflow_at(type);

	ql_dequant_row(ql, n, row);
	for (uint32_t k = 0; k < ql->spec.in; k++)
		if (fabsf(row[k]) >= end && isfinite(row[k]))
			return err_set(err, ERR_UNSUP,
				       "weight %g at output %u, input %u does "
				       "not fit %s", (double)row[k], n, k,
				       tensor_dtype_name(type));
	if (tensor_store_f32(row, ql->spec.in, type, out))
		return err_set(err, ERR_UNSUP, "weights cannot be %s",
			       tensor_dtype_name(type));
	return 0;
}

static int pour_dense(const struct repack_job *job, const struct ql *ql,
		      const struct repack_item *item, struct st_writer *w,
		      struct err *err)
{
	size_t bytes = ql->spec.in * (tensor_dtype_bits(job->dense_type) / 8);
	uint32_t rows = bytes < PIECE ? (uint32_t)(PIECE / bytes) : 1;
	float *row = mem_alloc(ql->spec.in, sizeof(*row), err);
	uint8_t *piece = mem_alloc(rows, bytes, err);
	int ret = -1;

	if (!row || !piece)
		goto out;
	for (uint32_t n = 0; n < ql->spec.out;) {
		uint64_t at = n * (uint64_t)bytes;
		uint32_t i = 0;

		for (; i < rows && n < ql->spec.out; i++, n++)
			if (repack_dense_row(ql, n, job->dense_type, row,
					     piece + i * bytes, err))
				goto out;
		if (w && st_writer_pour(w, item->id, at, piece, i * bytes,
					err))
			goto out;
	}
	ret = 0;
out:
	free(row);
	free(piece);
	return ret;
}

static int pour_packed(const struct repack_job *job, const struct ql *ql,
		       const struct repack_item *item, struct st_writer *w,
		       struct err *err)
{
	void *part[QF_PARTS] = { NULL };
	int ret = -1;

	for (uint32_t i = 0; i < item->plan.count; i++) {
		part[i] = mem_alloc(item->plan.part[i].bytes, 1, err);
		if (!part[i])
			goto out;
	}
	if (repack_target(job, item->layer)->write(ql, part, err))
		goto out;
	for (uint32_t i = 0; w && i < item->plan.count; i++)
		if (st_writer_pour(w, item->id + i, 0, part[i],
				   item->plan.part[i].bytes, err))
			goto out;
	ret = 0;
out:
	for (uint32_t i = 0; i < QF_PARTS; i++)
		free(part[i]);
	return ret;
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

void repack_layer_forget(const struct model *m, const struct qf_module *q)
{
	for (uint32_t i = 0; i < q->count; i++)
		if (q->part[i].offset != TENSOR_COPIED)
			io_forget(m->file[q->part[i].file].src,
				  q->part[i].offset, q->part[i].size);
}

int repack_layer_convert(const struct repack_job *job,
			 const struct repack_item *item, struct st_writer *w,
			 struct err *err)
{
	struct ql ql;
	bool done = false;
	int ret = -1;

	if (only_zeros(job, item) &&
	    convert_zeros(job, item, w, &done, err))
		return -1;
	if (done)
		return 0;
	/* what read says names the tensor by itself */
	if (survey_read(job->model, item->layer->module, &ql, err))
		return -1;
	if (!repack_way_apply(item->way, &ql, err))
		ret = repack_target(job, item->layer) ?
			      pour_packed(job, &ql, item, w, err) :
			      pour_dense(job, &ql, item, w, err);
	ql_release(&ql);
	repack_layer_forget(job->model, item->layer->module);
	return ret ? err_ctx(err, "%s", item->layer->module->name) : 0;
}
