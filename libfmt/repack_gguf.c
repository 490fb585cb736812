/* A checkpoint as one GGUF file.
 *
 * Quantized layers go through the neutral layer into blocks; vectors become
 * F32, matrices keep their type (or get job->cast), and rows of q and k are
 * turned where the architecture has them so.  What the architecture has no
 * name for is refused, except constants and zeros that readers make. */
#include "repack_gguf.h"

#include "base/err.h"
#include "base/half.h"
#include "base/mem.h"
#include "base/pool.h"
#include "container/gguf.h"
#include "container/st.h"
#include "gguf_tok.h"
#include "llama_gguf.h"
#include "repack_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The run. */
struct work {
	const struct repack_job *job;
	const struct llama_config *llama; /* &config */
	struct llama_config config;       /* of the result */
	const char *architecture;  /* as GGUF has it */
	const struct repack_ways *ways;
	const enum repack_action *action; /* [survey->count] */
	uint8_t *placed;           /* [survey->count] */
	struct gguf_item *item;
	uint32_t count;
	uint32_t rope;             /* the writer's id of the factors */
	struct st_writer *writer;
	struct gguf_meta meta;
	struct repack_report *report;
};

/* ---- which tensors there will be ---- */

static bool all_zero(const struct tensor *t)
{
	const uint8_t *p = t->data;

	for (uint64_t i = 0; i < t->size; i++)
		if (p[i])
			return false;
	return true;
}

bool repack_gguf_drops(const struct tensor *t, const struct llama_config *c)
{
	const char *dot = strrchr(t->name, '.');
	char module[LLAMA_NAME];
	enum llama_linear which;
	uint32_t layer;

	if (strstr(t->name, "rotary_emb.inv_freq"))
		return true;
	if (!strcmp(t->name, LLAMA_GGUF_ROPE))
		return c->rope.kind == LLAMA_ROPE_LLAMA3;
	if (!dot || strcmp(dot, ".bias") || dot - t->name >= LLAMA_NAME)
		return false;
	memcpy(module, t->name, (size_t)(dot - t->name));
	module[dot - t->name] = '\0';
	return !llama_linear_parse(module, &layer, &which) &&
	       !llama_has_bias(c, which) && all_zero(t);
}

/* Vectors are F32 in every file; blocks stay what they are. */
static enum dtype copied_as(const struct repack_job *job,
			    const struct tensor *t)
{
	if (t->rank == 1)
		return DT_F32;
	return job->cast && tensor_is_float(t->type) ? job->cast : t->type;
}

/* One tensor into the plan, under its name in GGUF. */
static int add_item(struct work *w, const struct survey_layer *l,
		    const struct tensor *t, struct err *err)
{
	struct gguf_item *item = &w->item[w->count];
	char name[LLAMA_NAME], full[LLAMA_NAME + 16];
	struct tensor as = *t;

	memset(item, 0, sizeof(*item));
	item->layer = l;
	item->tensor = t;
	if (l) {
		item->way = &w->ways->way[l - w->job->survey->layer];
		if (w->job->to->plan(&item->way->spec, &item->plan, err))
			return err_ctx(err, "%s", l->module->name);
		snprintf(full, sizeof(full), "%.250s.weight", l->module->name);
		as.name = full;
		as.type = item->plan.part[0].type;
		as.rank = 2;
		as.dim[0] = item->way->spec.out;
		as.dim[1] = item->way->spec.in;
	} else {
		as.type = copied_as(w->job, t);
		if (gguf_dtype(as.type) < 0 ||
		    (t->rank == 1 && !tensor_is_float(t->type)))
			return err_set(err, ERR_UNSUP, "%s: type %s is not "
				       "written to GGUF", t->name,
				       tensor_dtype_name(t->type));
	}
	if (llama_gguf_name(as.name, name))
		return err_set(err, ERR_UNSUP, "%s: GGUF's %s has no name for "
			       "it", as.name, w->architecture);
	item->type = as.type;
	item->turned = llama_gguf_turned(w->architecture, as.name,
					 w->llama->head_dim);
	if (item->turned && as.dim[0] % item->turned)
		return err_set(err, ERR_INPUT, "%s: %llu rows are not whole "
			       "heads of %u", as.name,
			       (unsigned long long)as.dim[0], item->turned);
	if (st_writer_add(w->writer, name, as.type, as.rank, as.dim,
			  &item->id, err))
		return -1;
	w->count++;
	return 0;
}

/* The layer that converts tensor t, or NULL; *first: its place in the file is
 * where the layer goes. */
static const struct survey_layer *owner(const struct work *w,
					const struct tensor *t, bool *first)
{
	const struct survey *s = w->job->survey;
	bool is;

	for (uint32_t i = 0; i < s->count; i++) {
		const struct qf_module *q = s->layer[i].module;

		if (w->action[i] != REPACK_CONVERT || t < q->part ||
		    t >= q->part + q->count)
			continue;
		is = survey_owns(&s->layer[i], t);
		*first = is && !w->placed[i];
		if (*first)
			w->placed[i] = 1;
		return is ? &s->layer[i] : NULL;
	}
	return NULL;
}

/* In the order of the model's table; a layer where its first tensor stands. */
static int add_items(struct work *w, struct err *err)
{
	const struct model *m = w->job->model;

	w->item = mem_alloc(m->tensor_count, sizeof(*w->item), err);
	w->placed = mem_alloc(w->job->survey->count, 1, err);
	if (!w->item || !w->placed)
		return -1;
	for (uint32_t i = 0; i < m->tensor_count; i++) {
		const struct tensor *t = &m->tensor[i];
		bool first = false;
		const struct survey_layer *l = owner(w, t, &first);

		if (l ? !first : repack_gguf_drops(t, w->llama))
			continue;
		if (add_item(w, l, t, err))
			return -1;
		w->report->layers += l != NULL;
		w->report->copied += l == NULL;
	}
	if (w->llama->rope.kind != LLAMA_ROPE_LLAMA3)
		return 0;
	return st_writer_add(w->writer, LLAMA_GGUF_ROPE, DT_F32, 1,
			     &(uint64_t){ w->llama->head_dim / 2 }, &w->rope,
			     err);
}

/* ---- pouring ---- */

static int move_item(void *ctx, uint32_t i, struct err *err)
{
	struct work *w = ctx;

	struct gguf_item *item = &w->item[i];
	const struct model *m = w->job->model;
	int ret;

	if (item->layer) {
		struct repack_item layer = { item->layer, item->way, NULL,
					     item->plan, item->id };

		ret = repack_rows_pour(w->job, &layer, item->turned, w->writer,
				       err);
		repack_forget(m, item->layer->module);
		return ret;
	}
	/* what stays as it is needs no way through our memory */
	if (item->type == item->tensor->type && !item->turned)
		return st_writer_tensor(w->writer, item->id, item->tensor,
					m->file[item->tensor->file].src, err);
	ret = repack_gguf_pour(w->writer, item->id, item->tensor, item->type,
			       item->turned, err);
	model_forget(m, item->tensor, 0, item->tensor->size);
	return ret;
}

static uint64_t item_cost(void *ctx, uint32_t i)
{
	const struct work *w = ctx;

	return w->item[i].layer ? w->item[i].plan.part[0].bytes :
				  w->item[i].tensor->size;
}

static int pour_rope(const struct work *w, struct err *err)
{
	uint32_t n = w->llama->head_dim / 2;
	float *f = mem_alloc(n, 2 * sizeof(*f), err);
	int ret = -1;

	if (!f)
		return -1;
	llama_gguf_rope(w->llama, f);
	tensor_store_f32(f, n, DT_F32, f + n);
	ret = st_writer_pour(w->writer, w->rope, 0, f + n, n * sizeof(*f),
			     err);
	free(f);
	return ret;
}

/* ---- the pairs ---- */

/* llama.cpp's number for "mostly": the type that most of the bytes have.
 * Source: enum llama_ftype of llama.h. */
static uint32_t file_type(const struct work *w)
{
	const struct gguf_file *f = model_gguf(w->job->model);
	static const struct {
		enum dtype type;
		uint32_t number;
	} types[] = { { DT_F32, 0 }, { DT_F16, 1 }, { DT_Q4_0, 2 },
		      { DT_Q4_1, 3 }, { DT_Q8_0, 7 }, { DT_BF16, 32 } };
	uint64_t best = 0, was;
	uint32_t out = 1;

	/* nothing was changed: so is this */
	if (f && !w->report->layers && !w->job->cast &&
	    gguf_uint(f, "general.file_type", UINT32_MAX, &was))
		return (uint32_t)was;

	for (size_t k = 0; k < sizeof(types) / sizeof(types[0]); k++) {
		uint64_t sum = 0;

		for (uint32_t i = 0; i < w->count; i++) {
			const struct gguf_item *t = &w->item[i];

			if (t->type == types[k].type &&
			    (t->layer || t->tensor->rank > 1))
				sum += t->layer ? (uint64_t)t->layer->spec.in *
						  t->layer->spec.out :
						  t->tensor->dim[0] *
						  t->tensor->dim[1];
		}
		if (sum > best) {
			best = sum;
			out = types[k].number;
		}
	}
	return out;
}

/* The largest size that all groups are whole multiples of; 0: one group in
 * every row; 1: no layer is quantized. */
static uint32_t common_group(const struct work *w)
{
	uint32_t gcd = 0;
	bool rows = true;

	for (uint32_t i = 0; i < w->job->survey->count; i++) {
		const struct survey_layer *l = &w->job->survey->layer[i];
		const struct ql_spec *s = &w->ways->way[i].spec;

		if (!l->format || l->table)
			continue;
		rows &= s->groups == 1;
		gcd = repack_gcd(gcd, s->groups == 1 ? s->in : s->group_size);
	}
	return !gcd ? 1 : rows ? 0 : gcd;
}

/* What the source calls itself, else its folder's name. */
static void put_name(const struct model *m, struct gguf_meta *meta)
{
	static const char key[] = "general.name";
	const char *path = m->is_dir ? m->path : m->dir, *name;
	size_t n;

	if (model_gguf(m)) {
		if (gguf_text(model_gguf(m), key, &name, &n))
			gguf_put_text(meta, key, name, n);
		return;
	}
	name = strrchr(path, '/');
	name = name ? name + 1 : path;
	if (*name && *name != '.')
		gguf_put_text(meta, key, name, strlen(name));
}

static int make_meta(struct work *w, struct err *err)
{
	const struct model *m = w->job->model;
	uint32_t group = common_group(w);
	int found;

	if (llama_gguf_put(w->llama, &w->meta, err))
		return -1;
	put_name(m, &w->meta);
	gguf_put_u32(&w->meta, "general.file_type", file_type(w));
	gguf_put_u32(&w->meta, "general.quantization_version", 2);
	if (group != 1)
		gguf_put_u32(&w->meta, LLAMA_GGUF_GROUP, group);
	if (model_gguf(m)) {
		gguf_tok_copy(model_gguf(m), &w->meta);
		return 0;
	}
	if (gguf_tok_put(m->dir, w->llama, &w->meta, &found, err))
		return -1;
	w->report->no_tokenizer = !found;
	return 0;
}

/* ---- the work ---- */

/* The file describes the model to its readers: that takes a config. */
static int open_job(struct work *w, struct err *err)
{
	const struct model *m = w->job->model;

	if (!model_llama(m))
		return err_set(err, ERR_UNSUP, "%s: not a model with a "
			       "config.json of the Llama family, which a GGUF "
			       "file has to describe", m->path);
	w->config = *model_llama(m);
	w->llama = &w->config;
	if (w->ways->inter)
		w->config.inter = w->ways->inter;
	w->architecture = llama_gguf_architecture(w->llama);
	if (!w->architecture)
		return err_set(err, ERR_UNSUP, "architecture %s: GGUF's "
			       "readers have none like it",
			       w->llama->architecture);
	return 0;
}

bool repack_gguf_is(const struct repack_job *job)
{
	return job->to == &qf_gguf || job->to == &qf_gguf_lossy;
}

int repack_gguf_check(const struct repack_job *job,
		      const struct repack_ways *ways, struct err *err)
{
	for (uint32_t i = 0; repack_gguf_is(job) && i < job->survey->count;
	     i++) {
		const struct survey_layer *l = &job->survey->layer[i];

		if (ways->way[i].moved && (!l->format || l->bias))
			return err_set(err, ERR_UNSUP, "%s: %s: with --to gguf "
				       "dense layers and biases are not moved; "
				       "do that into a folder first",
				       l->module->name, ways->way[i].why);
	}
	return 0;
}

/* Up to the first byte written: after this nothing is refused. */
static int prepare(struct work *w, struct err *err)
{
	return open_job(w, err) || st_writer_new(&w->writer, err) ||
	       add_items(w, err) || make_meta(w, err) ? -1 : 0;
}

static void release(struct work *w)
{
	st_writer_free(w->writer);
	gguf_meta_release(&w->meta);
	free(w->placed);
	free(w->item);
}

int repack_gguf_try(const struct repack_job *job,
		    const struct repack_ways *ways,
		    const enum repack_action *action, struct err *err)
{
	struct repack_report report = { .layers = 0 };
	struct work w = { .job = job, .ways = ways, .action = action,
			  .report = &report };
	int ret = prepare(&w, err);

	release(&w);
	return ret;
}

int repack_gguf_run(const struct repack_job *job,
		    const struct repack_ways *ways,
		    const enum repack_action *action,
		    struct repack_report *out, struct err *err)
{
	struct work w = { .job = job, .ways = ways, .action = action,
			  .report = out };
	struct pool pool = { .threads = repack_threads(job, ways),
		.fn = move_item,
		.cost = item_cost, .ctx = &w, .what = "repack",
		.progress = job->progress };
	int ret = -1;

	if (repack_gguf_check(job, ways, err) || prepare(&w, err) ||
	    gguf_create(w.writer, job->out, &w.meta, err))
		goto out;
	pool.count = w.count;
	if (pool_run(&pool, err) ||
	    (w.llama->rope.kind == LLAMA_ROPE_LLAMA3 && pour_rope(&w, err)) ||
	    st_writer_commit(w.writer, err))
		goto out;
	out->bytes = st_writer_bytes(w.writer);
	out->shards = 1;
	ret = job->prove ? repack_gguf_prove(job, ways, out, err) : 0;
out:
	release(&w);
	return ret;
}
