#include "output.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/config.h"
#include "../libfmt/container/st.h"
#include "../libfmt/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Copied through, unless a layout's tensors replace it. */
#define KEPT UINT32_MAX

/* Asked of the format itself, with a layer that has zero point 0 and both the
 * least and the greatest code in every row. */
int gq_output_least_zero(const struct gq_job *job, uint8_t *least,
			 struct err *err)
{
	struct gq_params p = job->params;
	struct ql_spec spec;
	struct qf_plan plan = { 0 };
	void *part[QF_PARTS] = { NULL };
	struct ql ql = { 0 };
	int ret = -1;

	*least = 0;
	if (p.sym)
		return 0;
	p.group_size = -1;
	gq_spec(&p, 32, 32, &spec);
	if (ql_init(&ql, &spec, err) || job->format->plan(&spec, &plan, err))
		goto out;
	for (uint32_t i = 0; i < 32 * 32; i++) {
		ql.code[i] = (uint8_t)(i % 2 ? (1u << p.bits) - 1u : 0);
		ql.scale[i / 32] = 1.0f;
	}
	for (uint32_t i = 0; i < plan.count; i++) {
		part[i] = mem_alloc(plan.part[i].bytes, 1, err);
		if (!part[i])
			goto out;
	}
	if (job->format->write(&ql, part, err)) {
		if (err->code != ERR_UNSUP)
			goto out;
		*least = 1;
	}
	ret = 0;
out:
	for (uint32_t i = 0; i < QF_PARTS; i++)
		free(part[i]);
	ql_release(&ql);
	return ret;
}

/* The module of a weight that will be quantized, checked. */
static int check_linear(const struct gq_job *job, uint32_t layer,
			enum llama_linear which, struct err *err)
{
	char name[LLAMA_NAME];
	const struct qf_module *m;
	const struct tensor *t;
	struct qf_hint hint;
	struct ql_spec spec;
	uint32_t in, out;
	bool skip;

	llama_linear_name(layer, which, name);
	llama_linear_shape(job->cfg, which, &in, &out);
	m = model_module(job->model, name);
	if (!m)
		return err_set(err, ERR_INPUT, "%s: missing", name);
	if (model_hint(job->model, name, &hint, &skip, err))
		return err_ctx(err, "%s", name);
	if (qf_recognise(m, &hint))
		return err_set(err, ERR_UNSUP,
			       "%s: already quantized; a dense model is needed",
			       name);
	t = qf_part(m, "weight");
	if (!t)
		return err_set(err, ERR_INPUT, "%s.weight: missing", name);
	if (t->type != DT_F16 && t->type != DT_BF16 && t->type != DT_F32)
		return err_set(err, ERR_UNSUP,
			       "%s.weight: type %s, expected F16, BF16 or F32",
			       name, tensor_dtype_name(t->type));
	if (!tensor_is_shape(t, 2, out, in)) {
		char shape[96];

		return err_set(err, ERR_INPUT,
			       "%s.weight: shape %s, expected [%u, %u]", name,
			       tensor_shape_text(t, shape), out, in);
	}
	gq_spec(&job->params, out, in, &spec);
	return job->format->accept(&spec, err) ? err_ctx(err, "%s", name) : 0;
}

/* The linear whose weight this tensor is: its place in o->part, else KEPT. */
static uint32_t linear_of(const struct gq_job *job, const char *tensor,
			  struct err *err, int *ret)
{
	size_t n = strlen(tensor), tail = strlen(".weight");
	enum llama_linear which;
	uint32_t layer, place = KEPT;
	char *module;

	*ret = 0;
	if (n <= tail || strcmp(tensor + n - tail, ".weight"))
		return KEPT;
	module = mem_text(tensor, n - tail, err);
	if (!module) {
		*ret = -1;
		return KEPT;
	}
	if (llama_linear_parse(module, &layer, &which) == 0 &&
	    layer < job->cfg->layers)
		place = layer * LLAMA_LINEARS + (uint32_t)which;
	free(module);
	return place;
}

/* Plan the parts of one quantized linear. */
static int plan_linear(struct gq_output *o, uint32_t place, struct err *err)
{
	const struct gq_job *job = o->job;
	enum llama_linear which = (enum llama_linear)(place % LLAMA_LINEARS);
	char name[LLAMA_NAME], part[LLAMA_NAME + 32];
	struct ql_spec spec;
	struct qf_plan plan;
	uint32_t in, out, id;

	llama_linear_name(place / LLAMA_LINEARS, which, name);
	llama_linear_shape(job->cfg, which, &in, &out);
	gq_spec(&job->params, out, in, &spec);
	if (job->format->plan(&spec, &plan, err))
		return err_ctx(err, "%s", name);
	for (uint32_t i = 0; i < plan.count; i++) {
		snprintf(part, sizeof(part), "%s.%s", name,
			 plan.part[i].suffix);
		if (st_writer_add(o->writer, part, plan.part[i].type,
				  plan.part[i].rank, plan.part[i].dim, &id,
				  err))
			return -1;
		if (i == 0)
			o->part[place] = id;
	}
	return 0;
}

/* Plan every tensor; kept[i] is the id of source tensor i, or KEPT when it is
 * replaced. */
static int plan_all(struct gq_output *o, uint32_t *kept, struct err *err)
{
	const struct model *m = o->job->model;
	int ret;

	for (uint32_t i = 0; i < m->tensor_count; i++) {
		const struct tensor *t = &m->tensor[i];
		uint32_t place = linear_of(o->job, t->name, err, &ret);

		kept[i] = KEPT;
		if (ret)
			return -1;
		if (place != KEPT)
			ret = plan_linear(o, place, err);
		else
			ret = st_writer_add(o->writer, t->name, t->type,
					    t->rank, t->dim, &kept[i], err);
		if (ret)
			return -1;
	}
	return 0;
}

static int copy_kept(struct gq_output *o, const uint32_t *kept,
		     struct err *err)
{
	const struct model *m = o->job->model;

	for (uint32_t i = 0; i < m->tensor_count; i++) {
		const struct tensor *t = &m->tensor[i];

		if (kept[i] == KEPT)
			continue;
		if (st_writer_tensor(o->writer, kept[i], t,
				     m->file[t->file].src, err))
			return err_ctx(err, "%s", t->name);
		if (prog_step(o->job->progress, "copy", i + 1,
			      m->tensor_count, err))
			return -1;
	}
	return 0;
}

int gq_output_open(struct gq_output *o, const struct gq_job *job,
		   struct err *err)
{
	size_t linears = (size_t)job->cfg->layers * LLAMA_LINEARS;
	uint32_t *kept = NULL;
	int ret = -1;

	memset(o, 0, sizeof(*o));
	o->job = job;
	for (uint32_t i = 0; i < linears; i++)
		if (check_linear(job, i / LLAMA_LINEARS,
				 (enum llama_linear)(i % LLAMA_LINEARS), err))
			return -1;
	o->part = mem_alloc(linears, sizeof(*o->part), err);
	kept = mem_alloc(job->model->tensor_count, sizeof(*kept), err);
	if (!o->part || !kept)
		goto out;
	if (st_writer_new(&o->writer, err) || plan_all(o, kept, err))
		goto out;
	if (st_writer_create(o->writer, job->out, job->shard_size, err))
		goto out;
	if (copy_kept(o, kept, err))
		goto out;
	ret = 0;
out:
	free(kept);
	if (ret)
		gq_output_release(o);
	return ret;
}

void gq_output_release(struct gq_output *o)
{
	st_writer_free(o->writer);
	free(o->part);
	memset(o, 0, sizeof(*o));
}

int gq_output_layer(struct gq_output *o, uint32_t layer,
		    enum llama_linear which, const struct ql *ql,
		    struct err *err)
{
	uint32_t id = o->part[layer * LLAMA_LINEARS + (uint32_t)which];
	const struct qfmt *format = o->job->format;
	void *part[QF_PARTS] = { NULL };
	struct qf_plan plan = { 0 };
	int ret = -1;

	if (format->plan(&ql->spec, &plan, err))
		goto out;
	for (uint32_t i = 0; i < plan.count; i++) {
		part[i] = mem_alloc(plan.part[i].bytes, 1, err);
		if (!part[i])
			goto out;
	}
	if (format->write(ql, part, err))
		goto out;
	for (uint32_t i = 0; i < plan.count; i++)
		if (st_writer_pour(o->writer, id + i, 0, part[i],
				   plan.part[i].bytes, err))
			goto out;
	ret = 0;
out:
	for (uint32_t i = 0; i < QF_PARTS; i++)
		free(part[i]);
	return ret;
}

static int write_configs(const struct gq_job *job, struct err *err)
{
	const struct gq_params *p = &job->params;
	bool hessian = job->method->needs_hessian;
	struct config_out c = {
		.bits = p->bits,
		.group_size = p->group_size,
		.desc_act = hessian && p->desc_act,
		.sym = p->sym,
		.static_groups = hessian && p->static_groups,
		.true_sequential = job->true_sequential,
		.damp_percent = p->damp,
		.format = job->format->name,
		.method = "gptq",
	};
	struct cJSON *quant = NULL;
	int ret;

	if (config_quant_build(&c, &quant, err))
		return -1;
	ret = config_write(job->out, job->model->config, quant, NULL, err);
	json_free(quant);
	return ret;
}

int gq_output_commit(struct gq_output *o, struct err *err)
{
	if (st_writer_commit(o->writer, err) || write_configs(o->job, err))
		return -1;
	return model_copy_extras(o->job->model, o->job->out, err);
}
