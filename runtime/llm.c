/* Loading, and the path of a batch of tokens:
 *
 *	ids -> embed -> x [tokens][hidden] -> blocks -> final norm -> head
 *
 * With two devices the first blocks run on one, and x goes to the other for the
 * last ones and the head.
 *
 * Prefill and decoding are one path; decoding is a batch of one.  The head is
 * run for the rows whose logits are wanted: the last one, or all of them some
 * rows at a time, since [tokens][vocab] of a large vocabulary is large. */
#include "llm.h"
#include "llm_step.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/io.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/model.h"

#include <stdlib.h>
#include <string.h>

#define BATCH 512
/* Host and device memory that llm_forward's logits take, each, at most (but
 * always one row). */
#define LOGITS_BYTES (32u << 20)

/* ---- open ---- */

/* The architecture, with strings that outlive the model's config. */
static int read_config(struct llm *l, const struct model *m, struct err *err)
{
	struct cJSON *gen = NULL;
	char *path = NULL;
	int ret = -1;

	path = io_join(m->dir, "generation_config.json", err);
	/* (a GGUF file has its end tokens inside) */
	if (!path || (!model_gguf(m) && io_is_file(path) &&
		      json_read_file(path, &gen, err)))
		goto out;
	if (llama_config_read(m->config, gen, &l->cfg, err) ||
	    llama_check(m, &l->cfg, err))
		goto out;
	l->text[0] = mem_text(l->cfg.model_type, strlen(l->cfg.model_type),
			      err);
	l->text[1] = mem_text(l->cfg.architecture,
			      strlen(l->cfg.architecture), err);
	if (!l->text[0] || !l->text[1])
		goto out;
	l->cfg.model_type = l->text[0];
	l->cfg.architecture = l->text[1];
	ret = 0;
out:
	json_free(gen);
	free(path);
	return ret;
}

static int set_sizes(struct llm *l, struct llm_open *how, struct err *err)
{
	if (!how->context)
		how->context = l->cfg.max_pos;
	if (how->context / LLM_STRETCH > l->cfg.max_pos)
		return err_set(err, ERR_USAGE,
			       "a context of %u is more than %d times the %u "
			       "positions of the model",
			       how->context, LLM_STRETCH, l->cfg.max_pos);
	if (!how->batch)
		how->batch = BATCH;
	if (how->batch > how->context)
		how->batch = how->context;
	l->context = how->context;
	l->batch = how->batch;
	return 0;
}

/* Which device runs which blocks. */
static void set_parts(struct llm *l, const struct llm_open *how)
{
	uint32_t all = l->cfg.layers, there = l->fit.layers;

	l->parts = 1;
	l->part[0].dev = there ? how->dev : how->rest;
	l->part[0].count = all;
	if (!there || there == all)
		return;
	l->parts = 2;
	l->part[0].dev = how->rest;
	l->part[0].count = all - there;
	l->part[1].dev = how->dev;
	l->part[1].first = all - there;
	l->part[1].count = there;
}

static struct llm_part *last_part(struct llm *l)
{
	return &l->part[l->parts - 1];
}

static const struct llm_part *part_of(const struct llm *l, uint32_t block)
{
	return &l->part[block >= l->part[0].count];
}

/* The cache first: it is what may be too large. */
static int open_part(const struct llm *l, struct llm_part *p,
		     struct kv_shape *cache, struct err *err)
{
	const struct llama_config *c = &l->cfg;

	cache->layers = p->count;
	if (kv_init(&p->kv, &p->dev, cache, err) ||
	    rt_rope_init(&p->rope, &p->dev, c, l->context, err) ||
	    rt_work_init(&p->work, &p->dev, c, l->batch, err))
		return -1;
	return be_mat_new(p->dev.api, p->dev.be, l->batch, c->hidden, DT_F32,
			  &p->x, err);
}

/* Cache, tables and scratch, before the weights: what is too large for the
 * memory then fails before gigabytes are read. */
static int open_state(struct llm *l, const struct model *m, enum dtype kv_type,
		      struct err *err)
{
	const struct rt_dev *d = &last_part(l)->dev;
	struct kv_shape cache = {
		.capacity = l->context, .kv_heads = l->cfg.kv_heads,
		.head_dim = l->cfg.head_dim, .type = kv_type,
	};

	for (uint32_t i = 0; i < l->parts; i++) {
		cache.spare = model_bytes(m) / l->cfg.layers *
			      l->part[i].count;
		if (open_part(l, &l->part[i], &cache, err))
			return -1;
	}
	if (l->parts > 1) {
		l->cross = mem_alloc((size_t)l->batch * l->cfg.hidden,
				     sizeof(*l->cross), err);
		if (!l->cross)
			return -1;
	}
	return be_mat_new(d->api, d->be, 1, l->cfg.vocab, DT_F32, &l->logits,
			  err);
}

/* A tied head is the embedding matrix under another name; a copy of it only
 * where the two stand on two devices. */
static int open_head(struct llm *l, const struct model *m, struct err *err)
{
	const struct rt_dev *d = &last_part(l)->dev;
	const struct llama_config *c = &l->cfg;

	if (!c->tied)
		return rt_linear_load(d, m, LLAMA_HEAD, c->hidden, c->vocab,
				      &l->head, err);
	l->head.name = mem_text(LLAMA_HEAD, strlen(LLAMA_HEAD), err);
	l->head.in = c->hidden;
	l->head.out = c->vocab;
	if (!l->head.name)
		return -1;
	if (l->parts == 1)
		l->head.dense = l->embed;
	else if (rt_table_load(d, m, LLAMA_TABLE, c->vocab, c->hidden,
			       &l->head.dense, err))
		return -1;
	l->head.bytes = (uint64_t)c->vocab * c->hidden * be_elem(l->embed.type);
	return 0;
}

static int open_weights(struct llm *l, const struct model *m,
			const struct progress *p, struct err *err)
{
	const struct llama_config *c = &l->cfg;

	if (rt_table_load(&l->part[0].dev, m, LLAMA_TABLE, c->vocab, c->hidden,
			  &l->embed, err) ||
	    rt_tensor_load(&last_part(l)->dev, m, LLAMA_FINAL_NORM, 1,
			   c->hidden, &l->norm, err) ||
	    open_head(l, m, err))
		return -1;
	l->block = mem_alloc(c->layers, sizeof(*l->block), err);
	if (!l->block)
		return -1;
	for (uint32_t i = 0; i < c->layers; i++) {
		if (prog_step(p, "load", i, c->layers, err) ||
		    rt_block_load(&l->block[i], &part_of(l, i)->dev, m, c, i,
				  err))
			return -1;
	}
	return prog_step(p, "load", c->layers, c->layers, err);
}

static void close_weights(struct llm *l)
{
	const struct rt_dev *last = &last_part(l)->dev;

	for (uint32_t i = 0; l->block && i < l->cfg.layers; i++)
		rt_block_release(&l->block[i], &part_of(l, i)->dev);
	free(l->block);
	l->block = NULL;
	if (l->head.dense.p == l->embed.p)
		l->head.dense.p = NULL; /* tied: freed once */
	rt_linear_release(last, &l->head);
	be_mat_free(l->part[0].dev.api, l->part[0].dev.be, &l->embed);
	be_mat_free(last->api, last->be, &l->norm);
	be_mat_free(last->api, last->be, &l->logits);
}

/* What open_state and open_weights made. */
static void close_parts(struct llm *l)
{
	if (!l->parts)
		return;
	close_weights(l);
	for (uint32_t i = 0; i < l->parts; i++) {
		struct llm_part *p = &l->part[i];

		llm_step_close(p);
		rt_rope_release(&p->rope, &p->dev);
		rt_work_release(&p->work, &p->dev);
		kv_release(&p->kv, &p->dev);
		be_mat_free(p->dev.api, p->dev.be, &p->x);
		*p = (struct llm_part){ .first = 0 };
	}
	free(l->cross);
	l->cross = NULL;
	l->parts = 0;
}

static int open_steps(struct llm *l, struct err *err)
{
	for (uint32_t i = 0; i < l->parts; i++)
		if (llm_step_open(&l->part[i], &l->cfg,
				  l->block + l->part[i].first, err))
			return -1;
	return 0;
}

/* With LLM_FIT an estimate that was too high is corrected. */
static int open_parts(struct llm *l, const struct model *m,
		      const struct llm_open *how, struct err *err)
{
	for (;;) {
		set_parts(l, how);
		if (!open_state(l, m, how->kv_type, err) &&
		    !open_weights(l, m, how->progress, err) &&
		    !open_steps(l, err))
			return 0;
		if (err->code != ERR_RESOURCE || !how->rest.api ||
		    how->layers != LLM_FIT || !l->fit.layers)
			return -1;
		close_parts(l);
		l->fit.layers -= l->fit.layers / 8 + 1;
	}
}

int llm_open(const struct model *m, const struct llm_open *how,
	     struct llm **out, struct err *err)
{
	struct llm *l = mem_alloc(1, sizeof(*l), err);
	struct llm_open sized = *how;
	int ret = -1;

	*out = NULL;
	if (!l)
		return -1;
	if (read_config(l, m, err) || set_sizes(l, &sized, err) ||
	    llm_fit(m, &l->cfg, &sized, &l->fit, err) ||
	    open_parts(l, m, &sized, err))
		goto out;
	*out = l;
	ret = 0;
out:
	if (!ret)
		return 0;
	llm_close(l);
	return err_ctx(err, "%s", m->path);
}

void llm_close(struct llm *l)
{
	if (!l)
		return;
	close_parts(l);
	free(l->host);
	free(l->text[0]);
	free(l->text[1]);
	free(l);
}

/* ---- run ---- */

void llm_reset(struct llm *l)
{
	l->used = 0;
}

void llm_rewind(struct llm *l, uint32_t n)
{
	if (l->used > n)
		l->used = n;
}

/* Before anything runs, so that a refused call leaves the cache as it was. */
static int check_ids(const struct llm *l, const uint32_t *id, uint32_t n,
		     struct err *err)
{
	if (n > l->context - l->used)
		return err_set(err, ERR_UNSUP,
			       "the context is full: %u positions, %u in use, "
			       "%u more asked for",
			       l->context, l->used, n);
	for (uint32_t i = 0; i < n; i++)
		if (id[i] >= l->cfg.vocab)
			return err_set(err, ERR_INPUT,
				       "token id %u, expected less than the "
				       "vocabulary's %u", id[i], l->cfg.vocab);
	return 0;
}

static int run_part(struct llm *l, struct llm_part *part, uint32_t n,
		    struct err *err)
{
	struct be_mat x = be_rows(&part->x, 0, n);
	struct rt_pass p = {
		.dev = &part->dev, .cfg = &l->cfg, .rope = &part->rope,
		.work = &part->work, .kv = &part->kv, .first = l->used,
	};

	if (n == 1 && part->step)
		return part->dev.api->step(part->dev.be, part->step, &x,
					   l->used, err);
	for (uint32_t i = 0; i < part->count; i++) {
		p.layer = i;
		if (rt_block_run(&l->block[part->first + i], &p, &x, err))
			return -1;
	}
	return 0;
}

/* n hidden states from one part's device to the next one's. */
static int cross(struct llm *l, uint32_t n, struct err *err)
{
	const struct llm_part *from = &l->part[0], *to = &l->part[1];
	size_t bytes = (size_t)n * l->cfg.hidden * sizeof(*l->cross);

	if (from->dev.api->get(from->dev.be, l->cross, from->x.p, bytes, err))
		return -1;
	return to->dev.api->put(to->dev.be, to->x.p, l->cross, bytes, err);
}

/* n <= batch tokens through all blocks; their hidden states are the first n
 * rows of the last part's x. */
static int run_blocks(struct llm *l, const uint32_t *id, uint32_t n,
		      struct err *err)
{
	const struct rt_dev *d = &l->part[0].dev;
	struct be_mat x = be_rows(&l->part[0].x, 0, n);

	if (d->api->embed(d->be, &l->embed, id, &x, err))
		return -1;
	for (uint32_t i = 0; i < l->parts; i++)
		if ((i && cross(l, n, err)) ||
		    run_part(l, &l->part[i], n, err))
			return -1;
	l->used += n;
	return 0;
}

/* Final norm and head of n hidden states, into the first rows of l->logits. */
static int run_head(struct llm *l, uint32_t first, uint32_t n, struct err *err)
{
	const struct llm_part *last = last_part(l);
	const struct rt_dev *d = &last->dev;
	struct be_mat x = be_rows(&last->x, first, n);
	struct be_mat norm = be_rows(&last->work.norm, 0, n);
	struct be_mat y = be_rows(&l->logits, 0, n);

	if (d->api->rmsnorm(d->be, &x, &l->norm, l->cfg.eps, &norm, err))
		return -1;
	return rt_linear_run(d, &l->head, &norm, &y, err);
}

/* The same, and the logits to host [n][vocab]. */
static int fetch_logits(struct llm *l, uint32_t first, uint32_t n, float *host,
			struct err *err)
{
	const struct rt_dev *d = &last_part(l)->dev;

	if (run_head(l, first, n, err))
		return -1;
	return d->api->get(d->be, host, l->logits.p,
			   (size_t)n * l->cfg.vocab * sizeof(float), err);
}

int llm_prefill(struct llm *l, const uint32_t *id, uint32_t n, float *logits,
		const struct progress *p, struct err *err)
{
	uint32_t part = 0;

	if (check_ids(l, id, n, err))
		return -1;
	for (uint32_t i = 0; i < n; i += part) {
		part = n - i < l->batch ? n - i : l->batch;
		if (prog_step(p, "prefill", i, n, err) ||
		    run_blocks(l, id + i, part, err))
			return -1;
	}
	if (n && logits && fetch_logits(l, part - 1, 1, logits, err))
		return -1;
	return prog_step(p, "prefill", n, n, err);
}

int llm_step(struct llm *l, uint32_t id, const struct be_topk *t,
	     struct be_top *best, struct err *err)
{
	const struct rt_dev *d = &last_part(l)->dev;
	const struct be_mat row = be_rows(&l->logits, 0, 1);
	struct be_topk ask = *t;

	ask.x = &row;
	if (check_ids(l, &id, 1, err) || run_blocks(l, &id, 1, err) ||
	    run_head(l, 0, 1, err))
		return -1;
	return d->api->topk(d->be, &ask, best, err);
}

/* Room for the logits of several rows at once; made on the first call, since
 * plain generation needs one row. */
static int grow_logits(struct llm *l, struct err *err)
{
	uint64_t fit = LOGITS_BYTES / (sizeof(float) * l->cfg.vocab);
	uint32_t rows = fit < l->batch ? (uint32_t)fit : l->batch;
	const struct rt_dev *d = &last_part(l)->dev;
	struct be_mat more;
	float *host;

	if (!rows)
		rows = 1;
	if (l->host)
		return 0;
	if (be_mat_new(d->api, d->be, rows, l->cfg.vocab, DT_F32, &more, err))
		return -1;
	host = mem_alloc((size_t)rows * l->cfg.vocab, sizeof(*host), err);
	if (!host) {
		be_mat_free(d->api, d->be, &more);
		return -1;
	}
	be_mat_free(d->api, d->be, &l->logits);
	l->logits = more;
	l->host = host;
	return 0;
}

/* The logits of the n hidden states, of which the first is token
 * `first` of the call. */
static int hand_out(struct llm *l, uint32_t first, uint32_t n,
		    const struct llm_rows *rows, struct err *err)
{
	uint32_t part;

	for (uint32_t i = 0; i < n; i += part) {
		part = n - i < l->logits.rows ? n - i : l->logits.rows;
		if (fetch_logits(l, i, part, l->host, err) ||
		    rows->fn(rows->ctx, first + i, part, l->host, err))
			return -1;
	}
	return 0;
}

int llm_forward(struct llm *l, const uint32_t *id, uint32_t n,
		const struct llm_rows *rows, const struct progress *p,
		struct err *err)
{
	uint32_t part;

	if (check_ids(l, id, n, err) || grow_logits(l, err))
		return -1;
	for (uint32_t i = 0; i < n; i += part) {
		part = n - i < l->batch ? n - i : l->batch;
		if (prog_step(p, "prefill", i, n, err) ||
		    run_blocks(l, id + i, part, err) ||
		    hand_out(l, i, part, rows, err))
			return -1;
	}
	return prog_step(p, "prefill", n, n, err);
}

/* ---- facts ---- */

/* The embedding is left out: one row of it is read. */
uint64_t llm_weight_bytes(const struct llm *l)
{
	uint64_t n = l->head.bytes, f32 = be_elem(DT_F32);

	for (uint32_t i = 0; i < l->cfg.layers; i++) {
		const struct rt_block *b = &l->block[i];

		for (int j = 0; j < LLAMA_LINEARS; j++)
			n += b->lin[j].bytes + b->lin[j].bias.cols * f32;
		n += 2 * l->cfg.hidden * f32;
		n += (b->norm_q.cols + b->norm_k.cols) * f32;
	}
	return n + l->cfg.hidden * f32;
}

const char *llm_kernel(const struct llm *l)
{
	const struct llm_part *p = &l->part[l->parts - 1];
	const struct rt_block *b = &l->block[p->first];

	for (uint32_t i = 0; i < p->count; i++)
		for (int j = 0; j < LLAMA_LINEARS; j++)
			if (b[i].lin[j].quant)
				return rt_linear_kernel(&p->dev,
							&b[i].lin[j]);
	return rt_linear_kernel(&p->dev, &b[0].lin[0]);
}

const char *llm_narrow(const struct llm *l)
{
	const struct llm_part *p = &l->part[l->parts - 1];

	return p->step ? NULL : p->narrow;
}
