/* Loading a model, and facts about a loaded one. */
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
	if (!how->sequences)
		how->sequences = 1;
	if (!how->batch)
		how->batch = BATCH;
	if (how->batch > how->context)
		how->batch = how->context;
	if (how->batch < how->sequences)
		how->batch = how->sequences;
	l->context = how->context;
	l->sequences = how->sequences;
	l->batch = how->batch;
	l->used = mem_alloc(l->sequences, sizeof(*l->used), err);
	l->at = mem_alloc(l->sequences, sizeof(*l->at), err);
	l->id = mem_alloc(l->sequences, sizeof(*l->id), err);
	return l->used && l->at && l->id ? 0 : -1;
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

static const struct llm_part *part_of(const struct llm *l, uint32_t block)
{
	return &l->part[block >= l->part[0].count];
}

/* The cache first: it is what may be too large. */
static int open_part(const struct llm *l, struct llm_part *p,
		     struct kv_shape *cache, struct err *err)
{
	const struct llama_config *c = &l->cfg;
	void *at;

	cache->layers = p->count;
	if (kv_init(&p->kv, &p->dev, cache, err) ||
	    rt_rope_init(&p->rope, &p->dev, c, l->context, err) ||
	    rt_work_init(&p->work, &p->dev, c, l->batch, err) ||
	    p->dev.api->alloc(p->dev.be, l->sequences * sizeof(*p->at), &at,
			      err))
		return -1;
	p->at = at;
	return be_mat_new(p->dev.api, p->dev.be, l->batch, c->hidden, DT_F32,
			  &p->x, err);
}

/* Cache, tables and scratch, before the weights: what is too large for the
 * memory then fails before gigabytes are read. */
static int open_state(struct llm *l, const struct model *m, enum dtype kv_type,
		      struct err *err)
{
	const struct rt_dev *d = &llm_last(l)->dev;
	struct kv_shape cache = {
		.sequences = l->sequences, .capacity = l->context,
		.kv_heads = l->cfg.kv_heads, .head_dim = l->cfg.head_dim,
		.type = kv_type,
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
	return be_mat_new(d->api, d->be, l->sequences, l->cfg.vocab, DT_F32,
			  &l->logits, err);
}

/* A tied head is the embedding matrix under another name; a copy of it only
 * where the two stand on two devices. */
static int open_head(struct llm *l, const struct model *m, struct err *err)
{
	const struct rt_dev *d = &llm_last(l)->dev;
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
	    rt_tensor_load(&llm_last(l)->dev, m, LLAMA_FINAL_NORM, 1,
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
	const struct rt_dev *last = &llm_last(l)->dev;

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
		p->dev.api->free(p->dev.be, p->at);
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
	free(l->used);
	free(l->at);
	free(l->id);
	free(l->text[0]);
	free(l->text[1]);
	free(l);
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
							&b[i].lin[j],
							l->sequences);
	return rt_linear_kernel(&p->dev, &b[0].lin[0], l->sequences);
}

const char *llm_narrow(const struct llm *l)
{
	const struct llm_part *p = &l->part[l->parts - 1];

	return p->step ? NULL : p->narrow;
}
