/* The list of work, and doing it. */
#include "repack_gguf.h"

#include "base/mem.h"
#include "base/pool.h"
#include "container/st.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the list of work ---- */

struct run {
	const struct repack_job *job;
	const struct repack_ways *ways;
	const enum repack_action *action; /* [survey->count] */
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

/* Does a tensor of layer i give way to converted ones, or move? */
static bool changes(const struct run *r, uint32_t i, const struct tensor *t)
{
	const struct survey_layer *l = &r->job->survey->layer[i];
	uint64_t dim[2];

	if (r->action[i] == REPACK_CONVERT && survey_owns(l, t))
		return true;
	return (r->action[i] == REPACK_CONVERT ||
		r->action[i] == REPACK_MOVE) && r->ways->way[i].moved &&
	       !repack_move_shape(&r->ways->way[i], t, &l->spec, dim);
}

/* Tensors as the source has them, so that shards stay alike, and for each
 * (by its place in the model's table) the layer it changes with. */
static void sort_tensors(const struct run *r, const struct tensor **sorted,
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

		for (uint32_t k = 0; k < q->count; k++)
			if (changes(r, i, &q->part[k]))
				owner[&q->part[k] - m->tensor] = &s->layer[i];
	}
}

static int add_copy(struct run *r, const struct tensor *t, struct err *err)
{
	struct repack_item *item = &r->item[r->count++];

	item->tensor = t;
	r->report->copied++;
	return st_writer_add(r->writer, t->name,
			     repack_gguf_narrow(r->job->model, t), t->rank,
			     t->dim, &item->id, err);
}

static const struct repack_way *way_of(const struct run *r,
				       const struct survey_layer *l)
{
	return &r->ways->way[l - r->job->survey->layer];
}

static int add_move(struct run *r, const struct survey_layer *l,
		    const struct tensor *t, struct err *err)
{
	struct repack_item *item = &r->item[r->count++];
	uint64_t dim[2];

	item->layer = l;
	item->way = way_of(r, l);
	item->tensor = t;
	r->report->moved++;
	repack_move_shape(item->way, t, &l->spec, dim);
	return st_writer_add(r->writer, t->name, t->type, t->rank, dim,
			     &item->id, err);
}

static int add_layer(struct run *r, const struct survey_layer *l,
		     struct err *err)
{
	struct repack_item *item = &r->item[r->count++];
	char *name = NULL;
	int ret = -1;

	item->layer = l;
	item->way = way_of(r, l);
	r->report->layers++;
	if (repack_layer_plan(r->job, item, &item->plan, err))
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

static int make_items(struct run *r, struct err *err)
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
	sort_tensors(r, sorted, owner);
	for (uint32_t i = 0; !ret && i < m->tensor_count; i++) {
		last = owner[sorted[i] - m->tensor];
		if (!last && repack_gguf_leaves(m, sorted[i]))
			continue;
		if (!last)
			ret = add_copy(r, sorted[i], err);
		else if (!survey_owns(last, sorted[i]))
			ret = add_move(r, last, sorted[i], err);
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

	if (item->layer && !item->tensor)
		return repack_layer_convert(r->job, item, r->writer, err);
	if (!item->layer && repack_gguf_narrow(m, item->tensor) !=
				    item->tensor->type)
		return repack_gguf_pour(r->writer, item->id, item->tensor,
					repack_gguf_narrow(m, item->tensor),
					0, err);
	if (item->layer ? repack_move_tensor(item, r->writer, err) :
	    st_writer_tensor(r->writer, item->id, item->tensor,
			     m->file[item->tensor->file].src, err))
		return err_ctx(err, "%s", item->tensor->name);
	return 0;
}

static uint64_t item_cost(void *ctx, uint32_t i)
{
	const struct run *r = ctx;
	const struct repack_item *item = &r->item[i];
	uint64_t bytes = 0;

	if (item->tensor)
		return item->tensor->size;
	for (uint32_t k = 0; k < item->plan.count; k++)
		bytes += item->plan.part[k].bytes;
	return bytes;
}

static int write_all(struct run *r, struct err *err)
{
	const struct repack_job *job = r->job;
	struct pool pool = {
		.count = r->count, .fn = move_item,
		.cost = item_cost, .ctx = r, .what = "repack",
		.progress = job->progress,
		.threads = repack_threads(job, r->ways)
	};

	if (st_writer_create(r->writer, job->out, job->shard_size, err) ||
	    pool_run(&pool, err) || st_writer_commit(r->writer, err))
		return -1;
	r->report->bytes = st_writer_bytes(r->writer);
	r->report->shards = st_writer_shards(r->writer);
	if (repack_config_write(job, r->ways, repack_anew(job), err) ||
	    (model_gguf(job->model) ?
		     model_write_tokenizer(job->model, job->out,
					   &r->report->no_tokenizer, err) :
		     model_copy_extras(job->model, job->out, err)))
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
	struct repack_ways ways = { .mem = NULL };
	enum repack_action *action = mem_alloc(count, sizeof(*action), err);
	struct run r = { .job = job, .ways = &ways, .action = action,
			 .report = out };
	struct repack_step *steps = mem_alloc(count, sizeof(*steps), err);
	int ret = -1;

	memset(out, 0, sizeof(*out));
	if (!action || !steps || repack_ways_make(job, &ways, err) ||
	    repack_decide(job, &ways, steps, action, err) ||
	    refuse(steps, count, err))
		goto out;
	if (repack_gguf_is(job)) {
		ret = repack_gguf_run(job, &ways, action, out, err);
		goto out;
	}
	if (st_writer_new(&r.writer, err) || make_items(&r, err) ||
	    write_all(&r, err))
		goto out;
	st_writer_free(r.writer);
	r.writer = NULL;
	if (job->prove && repack_prove(job, &ways, &out->proven, err))
		goto out;
	ret = 0;
out:
	st_writer_free(r.writer);
	free(r.item);
	repack_ways_release(&ways);
	free(action);
	free(steps);
	return ret;
}
