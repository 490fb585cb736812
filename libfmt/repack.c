#include "repack_impl.h"

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/pool.h"
#include "container/st.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum action { KEEP = 0, CONVERT, REFUSE };

/* What writing a layer anew in its own layout mends. */
#define MENDED                                                         \
	((uint32_t)(QF_ODD_LABEL | QF_ODD_GIDX_MISSING |               \
		    QF_ODD_GIDX_ZERO | QF_ODD_GIDX_I64 |               \
		    QF_ODD_ZERO_SWAP3 | QF_ODD_QZEROS_MISSING))

/* ---- what to do with each layer ---- */

/* Where the layer does not say what its values are. */
static const struct {
	uint32_t odd;
	bool lost; /* not even with job->lossy */
	const char *why;
} doubts[] = {
	{ QF_ODD_ZERO_SMEAR, true,
	  "zeros were lost when it was packed; only the dense model brings "
	  "them back" },
	{ QF_ODD_SYM, false,
	  "the config says sym, but the zeros are not all the middle one; "
	  "which is right is not known" },
	{ QF_ODD_GIDX_ACT_MISSING, false,
	  "the config says desc_act, but without g_idx the groups are not "
	  "known" },
	{ QF_ODD_BOTH, false,
	  "weight and qweight are both there; which is right is not known" },
};

static const char *doubt(const struct repack_job *job,
			 const struct survey_layer *l)
{
	uint32_t odd = l->odd;

	if (job->sym == REPACK_SYM_MIDDLE)
		odd &= ~(uint32_t)QF_ODD_SYM;
	for (size_t i = 0; i < sizeof(doubts) / sizeof(doubts[0]); i++)
		if ((odd & doubts[i].odd) && (doubts[i].lost || !job->lossy))
			return doubts[i].why;
	return NULL;
}

/* Is there something that writing it anew mends? */
static bool ails(const struct repack_job *job, const struct survey_layer *l)
{
	return l->odd & (MENDED | (job->fix ? (uint32_t)QF_ODD_SYM : 0));
}

/* Zeros by the swapped constants are decoded by the name of the quantizer that
 * wrote them.  That name must not stay, and so nothing that leans on it. */
static bool anew(const struct repack_job *job)
{
	for (uint32_t i = 0; i < job->survey->count; i++)
		if (job->survey->layer[i].odd & QF_ODD_ZERO_SWAP3)
			return true;
	return false;
}

static const char *change(const struct repack_job *job,
			  const struct survey_layer *l)
{
	const struct qfmt *to = repack_target(job, l);

	if (!to)
		return "decoded";
	if (to == l->format)
		return ails(job, l) ? "written anew, mended" : "written anew";
	if (l->format == &qf_gptq && to == &qf_gptq_v2)
		return "qzeros + 1";
	if (l->format == &qf_gptq_v2 && to == &qf_gptq)
		return "qzeros - 1";
	return "codes repacked";
}

static enum action decide(const struct repack_job *job,
			  const struct survey_layer *l, char note[256])
{
	const struct qfmt *to = repack_target(job, l);
	bool same = to == l->format;
	const char *why = l->format ? doubt(job, l) : NULL;
	struct err err;

	if (l->broken) {
		snprintf(note, 256, "%.255s", l->why);
		return REFUSE;
	}
	if (!l->format) {
		snprintf(note, 256, "unchanged");
		return KEEP;
	}
	if (why) {
		snprintf(note, 256, same ? "unchanged; note that %s" : "%s",
			 why);
		return same ? KEEP : REFUSE;
	}
	if (same && !ails(job, l) && !anew(job)) {
		snprintf(note, 256, "unchanged");
		return KEEP;
	}
	if (to && to->accept(&l->spec, &err)) {
		snprintf(note, 256, "%.255s", err.msg);
		return REFUSE;
	}
	snprintf(note, 256, "%s%s%s%s", change(job, l), to ? "" : " to ",
		 to ? "" : tensor_dtype_name(job->dense_type),
		 l->odd & QF_ODD_ZERO_WRAP ?
			 "; stored zeros of all ones have more than one "
			 "reading" : "");
	return CONVERT;
}

/* A damaged layer ends the work with its own error. */
static int check_broken(const struct repack_job *job,
			const struct survey_layer *l, struct err *err)
{
	struct qf_hint hint;
	struct qf_layer q = { .module = l->module, .hint = &hint };
	struct ql_spec spec;
	bool skip;

	if (!l->broken || !l->format)
		return 0;
	if (model_hint(job->model, l->module->name, &hint, &skip, err))
		return -1;
	return l->format->spec(&q, &spec, err) && err->code == ERR_INPUT ? -1
									 : 0;
}

/* By headers alone.  action [survey->count] may be NULL. */
static int decide_all(const struct repack_job *job, struct repack_step *steps,
		      enum action *action, struct err *err)
{
	const struct survey *s = job->survey;

	for (uint32_t i = 0; i < s->count; i++) {
		enum action a;

		if (check_broken(job, &s->layer[i], err))
			return -1;
		a = decide(job, &s->layer[i], steps[i].note);
		steps[i].layer = &s->layer[i];
		steps[i].refused = a == REFUSE;
		if (action)
			action[i] = a;
	}
	return 0;
}

/* ---- trying out ---- */

struct trial {
	const struct repack_job *job;
	struct repack_step *steps;
	const enum action *action;
};

/* Convert without writing, where a single zero may not fit. */
static int try_layer(void *ctx, uint32_t i, struct err *err)
{
	struct trial *t = ctx;
	struct repack_item item = { .layer = t->steps[i].layer };
	const struct ql_spec *spec = &item.layer->spec;
	size_t name;

	if (t->action[i] != CONVERT || spec->sym ||
	    !repack_target(t->job, item.layer))
		return 0;
	if (repack_layer_plan(t->job, item.layer, &item.plan, err))
		return -1;
	if (!repack_layer_convert(t->job, &item, NULL, err))
		return 0;
	if (err->code != ERR_UNSUP)
		return -1;
	t->steps[i].refused = true;
	/* the step names its layer by itself */
	name = strlen(item.layer->module->name) + 2;
	snprintf(t->steps[i].note, sizeof(t->steps[i].note), "%.255s",
		 err->msg + (name < strlen(err->msg) ? name : 0));
	return 0;
}

int repack_plan(const struct repack_job *job, struct repack_step **steps,
		uint32_t *refused, struct err *err)
{
	uint32_t count = job->survey->count;
	struct trial t = { .job = job };
	struct pool pool = { .count = count, .threads = job->threads,
		.fn = try_layer, .ctx = &t, .what = "plan",
		.progress = job->progress };
	enum action *action = mem_alloc(count, sizeof(*action), err);
	struct cJSON *config = NULL;
	int ret = -1;

	*refused = 0;
	*steps = NULL;
	/* can the config say it at all? */
	if (!action || repack_config_foreign(job, &config, err))
		goto out;
	*steps = mem_alloc(count, sizeof(**steps), err);
	if (!*steps || decide_all(job, *steps, action, err))
		goto out;
	t.steps = *steps;
	t.action = action;
	if (pool_run(&pool, err))
		goto out;
	for (uint32_t i = 0; i < count; i++)
		*refused += (*steps)[i].refused;
	ret = 0;
out:
	json_free(config);
	free(action);
	if (ret) {
		free(*steps);
		*steps = NULL;
	}
	return ret;
}

/* ---- the list of work ---- */

struct run {
	const struct repack_job *job;
	struct st_writer *writer;
	struct repack_item *item;
	uint32_t count;
	struct repack_report *report;
};

static int by_place(const void *a, const void *b)
{
	const struct tensor *x = *(const struct tensor *const *)a;
	const struct tensor *y = *(const struct tensor *const *)b;

	if (x->file != y->file)
		return x->file < y->file ? -1 : 1;
	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	return strcmp(x->name, y->name); /* empty ones share an offset */
}

/* Tensors as the source has them, so that shards stay alike, and for each
 * (by its place in the model's table) the layer it gives way with. */
static void sort_tensors(const struct run *r, const enum action *action,
			 const struct tensor **sorted,
			 const struct survey_layer **owner)
{
	const struct model *m = r->job->model;
	const struct survey *s = r->job->survey;

	for (uint32_t i = 0; i < m->tensor_count; i++)
		sorted[i] = &m->tensor[i];
	if (m->tensor_count)
		qsort(sorted, m->tensor_count, sizeof(*sorted), by_place);
	for (uint32_t i = 0; i < s->count; i++) {
		const struct qf_module *q = s->layer[i].module;

		for (uint32_t k = 0; action[i] == CONVERT && k < q->count; k++)
			if (survey_owns(&s->layer[i], &q->part[k]))
				owner[&q->part[k] - m->tensor] = &s->layer[i];
	}
}

static int add_copy(struct run *r, const struct tensor *t, struct err *err)
{
	struct repack_item *item = &r->item[r->count++];

	item->tensor = t;
	r->report->copied++;
	return st_writer_add(r->writer, t->name, t->type, t->rank, t->dim,
			     &item->id, err);
}

static int add_layer(struct run *r, const struct survey_layer *l,
		     struct err *err)
{
	struct repack_item *item = &r->item[r->count++];
	char *name = NULL;
	int ret = -1;

	item->layer = l;
	r->report->layers++;
	if (repack_layer_plan(r->job, l, &item->plan, err))
		goto out;
	name = mem_alloc(strlen(l->module->name) + 32, 1, err);
	if (!name)
		goto out;
	for (uint32_t i = 0; i < item->plan.count; i++) {
		uint32_t id;

		snprintf(name, strlen(l->module->name) + 32, "%s.%s",
			 l->module->name, item->plan.part[i].suffix);
		if (st_writer_add(r->writer, name, item->plan.part[i].type,
				  item->plan.part[i].rank,
				  item->plan.part[i].dim, &id, err))
			goto out;
		if (i == 0)
			item->id = id;
	}
	ret = 0;
out:
	free(name);
	return ret;
}

static int make_items(struct run *r, const enum action *action,
		      struct err *err)
{
	const struct model *m = r->job->model;
	const struct survey_layer *last = NULL;
	const struct tensor **sorted;
	const struct survey_layer **owner;
	uint8_t *placed;
	struct mem_part part[] = {
		{ (void **)&sorted, m->tensor_count, sizeof(*sorted) },
		{ (void **)&owner, m->tensor_count, sizeof(*owner) },
		{ (void **)&placed, r->job->survey->count, 1 }
	};
	void *mem = mem_block(part, 3, err);
	int ret = 0;

	r->item = mem ? mem_alloc(m->tensor_count, sizeof(*r->item), err) :
			NULL;
	if (!r->item) {
		free(mem);
		return -1;
	}
	sort_tensors(r, action, sorted, owner);
	for (uint32_t i = 0; !ret && i < m->tensor_count; i++) {
		last = owner[sorted[i] - m->tensor];
		if (!last)
			ret = add_copy(r, sorted[i], err);
		else if (!placed[last - r->job->survey->layer]++)
			ret = add_layer(r, last, err);
	}
	free(mem);
	return ret;
}

/* ---- the work ---- */

static int move_item(void *ctx, uint32_t i, struct err *err)
{
	struct run *r = ctx;
	const struct repack_item *item = &r->item[i];
	const struct model *m = r->job->model;

	if (item->layer)
		return repack_layer_convert(r->job, item, r->writer, err);
	if (st_writer_tensor(r->writer, item->id, item->tensor,
			     m->file[item->tensor->file].src, err))
		return err_ctx(err, "%s", item->tensor->name);
	return 0;
}

static uint64_t item_cost(void *ctx, uint32_t i)
{
	const struct run *r = ctx;
	const struct repack_item *item = &r->item[i];
	uint64_t bytes = 0;

	if (!item->layer)
		return item->tensor->size;
	for (uint32_t k = 0; k < item->plan.count; k++)
		bytes += item->plan.part[k].bytes;
	return bytes;
}

static int write_all(struct run *r, struct err *err)
{
	const struct repack_job *job = r->job;
	struct pool pool = {
		.count = r->count, .threads = job->threads, .fn = move_item,
		.cost = item_cost, .ctx = r, .what = "repack",
		.progress = job->progress
	};

	if (st_writer_create(r->writer, job->out, job->shard_size, err) ||
	    pool_run(&pool, err) || st_writer_commit(r->writer, err))
		return -1;
	r->report->bytes = st_writer_bytes(r->writer);
	r->report->shards = st_writer_shards(r->writer);
	if (repack_config_write(job, anew(job), err) ||
	    model_copy_extras(job->model, job->out, err))
		return -1;
	return 0;
}

/* The first layer that is refused, as an error. */
static int refuse(const struct repack_step *steps, uint32_t count,
		  struct err *err)
{
	for (uint32_t i = 0; i < count; i++)
		if (steps[i].refused)
			return err_set(err, ERR_UNSUP, "%s: %s",
				       steps[i].layer->module->name,
				       steps[i].note);
	return 0;
}

int repack_run(const struct repack_job *job, struct repack_report *out,
	       struct err *err)
{
	uint32_t count = job->survey->count;
	struct run r = { .job = job, .report = out };
	enum action *action = mem_alloc(count, sizeof(*action), err);
	struct repack_step *steps = mem_alloc(count, sizeof(*steps), err);
	int ret = -1;

	memset(out, 0, sizeof(*out));
	if (!action || !steps || decide_all(job, steps, action, err) ||
	    refuse(steps, count, err) || st_writer_new(&r.writer, err) ||
	    make_items(&r, action, err) || write_all(&r, err))
		goto out;
	st_writer_free(r.writer);
	r.writer = NULL;
	if (job->prove && repack_prove(job, &out->proven, err))
		goto out;
	ret = 0;
out:
	st_writer_free(r.writer);
	free(r.item);
	free(action);
	free(steps);
	return ret;
}
