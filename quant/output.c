#include "output.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/config.h"
#include "../libfmt/container/st.h"
#include "../libfmt/model.h"
#include "journal.h"
#include "target.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Copied through, unless a layout's tensors replace it. */
#define KEPT UINT32_MAX

/* Asked of the format itself, with a layer that has zero point 0 and both the
 * least and the greatest code in every row. */
int gq_output_least_zero(const struct qfmt *format,
			 const struct gq_params *params, uint8_t *least,
			 struct err *err)
{
	struct gq_params p = *params;
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
	if (ql_init(&ql, &spec, err) || format->plan(&spec, &plan, err))
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
	if (format->write(&ql, part, err)) {
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
static int check_weight(const struct gq_job *job, const struct gq_target *t,
			struct err *err)
{
	const struct qf_module *m = model_module(job->model, t->weight);
	const struct tensor *w;
	struct qf_hint hint;
	char shape[96];
	bool skip;

	if (!m)
		return err_set(err, ERR_INPUT, "missing");
	if (model_hint(job->model, t->weight, &hint, &skip, err))
		return -1;
	if (qf_recognise(m, &hint))
		return err_set(err, ERR_UNSUP,
			       "already quantized; a dense model is needed");
	w = qf_part(m, "weight");
	if (!w)
		return err_set(err, ERR_INPUT, "weight: missing");
	if (w->type != DT_F16 && w->type != DT_BF16 && w->type != DT_F32)
		return err_set(err, ERR_UNSUP,
			       "weight: type %s, expected F16, BF16 or F32",
			       tensor_dtype_name(w->type));
	if (!tensor_is_shape(w, 2, t->out, t->in))
		return err_set(err, ERR_INPUT,
			       "weight: shape %s, expected [%u, %u]",
			       tensor_shape_text(w, shape), t->out, t->in);
	return 0;
}

static int check_weights(const struct gq_output *o, struct err *err)
{
	for (uint32_t i = 0; i < o->targets->count; i++) {
		const struct gq_target *t = &o->targets->target[i];

		if (check_weight(o->job, t, err))
			return err_ctx(err, "%s", t->weight);
	}
	return 0;
}

/* Plan the parts of one quantized linear. */
static int plan_target(struct gq_output *o, const struct gq_target *t,
		       struct err *err)
{
	char part[LLAMA_NAME + 32];
	struct ql_spec spec;
	struct qf_plan plan;
	uint32_t id;

	gq_spec(&t->params, t->out, t->in, &spec);
	if (o->job->format->plan(&spec, &plan, err))
		return err_ctx(err, "%s", t->name);
	for (uint32_t i = 0; i < plan.count; i++) {
		snprintf(part, sizeof(part), "%s.%s", t->name,
			 plan.part[i].suffix);
		if (st_writer_add(o->writer, part, plan.part[i].type,
				  plan.part[i].rank, plan.part[i].dim, &id,
				  err))
			return -1;
		if (i == 0)
			o->part[t - o->targets->target] = id;
	}
	return 0;
}

/* A head that is quantized apart from the embeddings it was tied to: it gets
 * tensors of its own, and those that the file may have had go. */
static bool is_untied(const struct gq_output *o)
{
	const struct gq_targets *ts = o->targets;

	return ts->head && o->job->cfg->tied &&
	       !ts->target[ts->count - 1].skip;
}

/* Plan every tensor; kept[i] is the id of source tensor i, or KEPT when it is
 * replaced. */
static int plan_all(struct gq_output *o, uint32_t *kept, struct err *err)
{
	const struct gq_targets *ts = o->targets;
	const struct gq_target *head = &ts->target[ts->count - 1];
	const struct model *m = o->job->model;
	int ret = 0;

	for (uint32_t i = 0; i < m->tensor_count && !ret; i++) {
		const struct tensor *t = &m->tensor[i];
		const struct gq_target *to = gq_targets_tensor(ts, t->name);

		kept[i] = KEPT;
		if (to && to == head && is_untied(o))
			continue;
		if (to && !to->skip)
			ret = plan_target(o, to, err);
		else
			ret = st_writer_add(o->writer, t->name, t->type,
					    t->rank, t->dim, &kept[i], err);
	}
	if (!ret && is_untied(o))
		ret = plan_target(o, head, err);
	return ret;
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
		model_forget_all(m);
		if (prog_step(o->job->progress, "copy", i + 1,
			      m->tensor_count, err))
			return -1;
	}
	return 0;
}

/* config.json's tree with the head and the embeddings told apart. */
static int untie(const struct cJSON *config, struct cJSON **out,
		 struct err *err)
{
	static const char key[] = "tie_word_embeddings";
	struct cJSON *no = cJSON_CreateFalse();

	*out = cJSON_Duplicate(config, 1);
	if (!*out || !no ||
	    !(json_find(*out, key) ?
		cJSON_ReplaceItemInObjectCaseSensitive(*out, key, no) :
		cJSON_AddItemToObject(*out, key, no))) {
		cJSON_Delete(no);
		return err_set(err, ERR_RESOURCE, "out of memory for JSON");
	}
	return 0;
}

static int write_configs(const struct gq_output *o, struct err *err)
{
	const struct gq_job *job = o->job;
	const struct gq_targets *ts = o->targets;
	const struct gq_params *p = &job->params;
	bool hessian = job->method->needs_hessian;
	struct config_out c = {
		.bits = p->bits,
		.group_size = p->group_size,
		.desc_act = hessian && p->desc_act,
		.sym = p->sym,
		.static_groups = hessian && p->static_groups,
		.true_sequential = job->true_sequential,
		.lm_head = ts->head && !ts->target[ts->count - 1].skip,
		.damp_percent = p->damp,
		.format = job->format->name,
		.method = "gptq",
		.dynamic = ts->dynamic,
	};
	struct cJSON *quant = NULL, *config = NULL;
	int ret = -1;

	if (config_quant_build(&c, &quant, err))
		goto out;
	if (is_untied(o) && untie(job->model->config, &config, err))
		goto out;
	ret = config_write(job->out, config ? config : job->model->config,
			   quant, NULL, err);
out:
	json_free(config);
	json_free(quant);
	return ret;
}

/* The folder begins: room for everything, and all that is known already. */
static int lay_out(struct gq_output *o, const uint32_t *kept, struct err *err)
{
	struct gq_journal *journal = o->job->journal;

	if (st_writer_create(o->writer, o->job->out, o->job->shard_size,
			     err) ||
	    write_configs(o, err) || copy_kept(o, kept, err))
		return -1;
	if (!journal)
		return 0;
	return st_writer_sync(o->writer, err) ||
	       gq_journal_lay_out(journal, err) ? -1 : 0;
}

/* What stays is copied once more: that is sooner done than compared. */
static int go_on(struct gq_output *o, const uint32_t *kept, struct err *err)
{
	return st_writer_reopen(o->writer, o->job->out, o->job->shard_size,
				err) ||
	       copy_kept(o, kept, err) ? -1 : 0;
}

int gq_output_open(struct gq_output *o, const struct gq_job *job,
		   const struct gq_targets *targets, struct err *err)
{
	bool resumed = job->journal && gq_journal_laid_out(job->journal);
	uint32_t *kept = NULL;
	int ret = -1;

	memset(o, 0, sizeof(*o));
	o->job = job;
	o->targets = targets;
	if (check_weights(o, err))
		return -1;
	o->part = mem_alloc(targets->count, sizeof(*o->part), err);
	kept = mem_alloc(job->model->tensor_count, sizeof(*kept), err);
	if (!o->part || !kept)
		goto out;
	if (st_writer_new(&o->writer, err) || plan_all(o, kept, err))
		goto out;
	if (resumed ? go_on(o, kept, err) : lay_out(o, kept, err))
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

int gq_output_layer(struct gq_output *o, uint32_t place, const struct ql *ql,
		    char hex[HASH_HEX], struct err *err)
{
	const struct qfmt *format = o->job->format;
	void *part[QF_PARTS] = { NULL };
	struct qf_plan plan = { 0 };
	struct hash *h = hash_new(err);
	int ret = -1;

	if (!h || format->plan(&ql->spec, &plan, err))
		goto out;
	for (uint32_t i = 0; i < plan.count; i++) {
		part[i] = mem_alloc(plan.part[i].bytes, 1, err);
		if (!part[i])
			goto out;
	}
	if (format->write(ql, part, err))
		goto out;
	for (uint32_t i = 0; i < plan.count; i++) {
		hash_add(h, part[i], plan.part[i].bytes);
		if (st_writer_pour(o->writer, o->part[place] + i, 0, part[i],
				   plan.part[i].bytes, err))
			goto out;
	}
	hash_end(h, hex);
	ret = 0;
out:
	for (uint32_t i = 0; i < QF_PARTS; i++)
		free(part[i]);
	hash_free(h);
	return ret;
}

int gq_output_assume(struct gq_output *o, uint32_t place,
		     const struct model *from, const char *hex,
		     struct err *err)
{
	const struct gq_target *target = &o->targets->target[place];
	char name[LLAMA_NAME + 32], found[HASH_HEX];
	struct hash *h = NULL;
	const struct tensor *t;
	struct ql_spec spec;
	struct qf_plan plan;
	int ret = -1;

	gq_spec(&target->params, target->out, target->in, &spec);
	if (o->job->format->plan(&spec, &plan, err))
		goto out;
	h = hash_new(err);
	if (!h)
		goto out;
	for (uint32_t i = 0; i < plan.count; i++) {
		snprintf(name, sizeof(name), "%s.%s", target->name,
			 plan.part[i].suffix);
		if (model_need(from, name, &t, err))
			goto out;
		hash_add(h, t->data, (size_t)t->size);
		st_writer_assume(o->writer, o->part[place] + i);
	}
	hash_end(h, found);
	if (strcmp(found, hex)) {
		err_set(err, ERR_INPUT, "%s: %s: other bytes than the journal "
			"says; --force begins anew", from->path, target->name);
		goto out;
	}
	ret = 0;
out:
	hash_free(h);
	return ret;
}

int gq_output_sync(struct gq_output *o, struct err *err)
{
	return st_writer_sync(o->writer, err);
}

int gq_output_commit(struct gq_output *o, struct err *err)
{
	if (st_writer_commit(o->writer, err))
		return -1;
	return model_copy_extras(o->job->model, o->job->out, err);
}
