/* Loading, and the path of a batch of tokens:
 *
 *	ids -> embed -> x [tokens][hidden] -> blocks -> final norm -> head
 *
 * Prefill and decoding are one path; decoding is a batch of one.  The head is
 * run for the rows whose logits are wanted: the last one, or all of them some
 * rows at a time, since [tokens][vocab] of a large vocabulary is large. */
#include "llm.h"

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

static int set_sizes(struct llm *l, const struct llm_open *how,
		     struct err *err)
{
	l->context = how->context ? how->context : l->cfg.max_pos;
	if (l->context / LLM_STRETCH > l->cfg.max_pos)
		return err_set(err, ERR_USAGE,
			       "a context of %u is more than %d times the %u "
			       "positions of the model",
			       l->context, LLM_STRETCH, l->cfg.max_pos);
	l->batch = how->batch ? how->batch : BATCH;
	if (l->batch > l->context)
		l->batch = l->context;
	return 0;
}

/* Tables, cache and scratch, before the weights: what is too large for the
 * memory then fails before gigabytes are read. */
static int open_state(struct llm *l, struct err *err)
{
	const struct rt_dev *d = &l->dev;
	const struct llama_config *c = &l->cfg;

	if (rt_rope_init(&l->rope, d, c, l->context, err) ||
	    kv_init(&l->kv, d, c->layers, l->context,
		    c->kv_heads * c->head_dim, err) ||
	    rt_work_init(&l->work, d, c, l->batch, err) ||
	    be_mat_new(d->api, d->be, l->batch, c->hidden, DT_F32, &l->x,
		       err) ||
	    be_mat_new(d->api, d->be, 1, c->vocab, DT_F32, &l->logits, err))
		return -1;
	return 0;
}

/* A tied head is the embedding matrix under another name, not a copy. */
static int open_head(struct llm *l, const struct model *m, struct err *err)
{
	const struct llama_config *c = &l->cfg;

	if (!c->tied)
		return rt_linear_load(&l->dev, m, LLAMA_HEAD, c->hidden,
				      c->vocab, &l->head, err);
	l->head.name = mem_text(LLAMA_HEAD, strlen(LLAMA_HEAD), err);
	l->head.in = c->hidden;
	l->head.out = c->vocab;
	l->head.dense = l->embed;
	l->head.bytes = (uint64_t)c->vocab * c->hidden * be_elem(l->embed.type);
	return l->head.name ? 0 : -1;
}

static int open_weights(struct llm *l, const struct model *m,
			const struct progress *p, struct err *err)
{
	const struct rt_dev *d = &l->dev;
	const struct llama_config *c = &l->cfg;

	if (rt_table_load(d, m, LLAMA_TABLE, c->vocab, c->hidden, &l->embed,
			  err) ||
	    rt_tensor_load(d, m, LLAMA_FINAL_NORM, 1, c->hidden, &l->norm,
			   err) ||
	    open_head(l, m, err))
		return -1;
	l->block = mem_alloc(c->layers, sizeof(*l->block), err);
	if (!l->block)
		return -1;
	for (uint32_t i = 0; i < c->layers; i++) {
		if (prog_step(p, "load", i, c->layers, err) ||
		    rt_block_load(&l->block[i], d, m, c, i, err))
			return -1;
	}
	return prog_step(p, "load", c->layers, c->layers, err);
}

int llm_open(const struct model *m, const struct llm_open *how,
	     struct llm **out, struct err *err)
{
	struct llm *l = mem_alloc(1, sizeof(*l), err);
	int ret = -1;

	*out = NULL;
	if (!l)
		return -1;
	l->dev = how->dev;
	if (read_config(l, m, err) || set_sizes(l, how, err) ||
	    open_state(l, err) || open_weights(l, m, how->progress, err))
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
	const struct rt_dev *d;

	if (!l)
		return;
	d = &l->dev;
	for (uint32_t i = 0; l->block && i < l->cfg.layers; i++)
		rt_block_release(&l->block[i], d);
	free(l->block);
	if (l->head.dense.p == l->embed.p)
		l->head.dense.p = NULL; /* tied: freed once */
	rt_linear_release(d, &l->head);
	be_mat_free(d->api, d->be, &l->embed);
	be_mat_free(d->api, d->be, &l->norm);
	rt_rope_release(&l->rope, d);
	rt_work_release(&l->work, d);
	kv_release(&l->kv, d);
	be_mat_free(d->api, d->be, &l->x);
	be_mat_free(d->api, d->be, &l->logits);
	free(l->host);
	free(l->text[0]);
	free(l->text[1]);
	free(l);
}

/* ---- run ---- */

void llm_reset(struct llm *l)
{
	l->kv.used = 0;
}

/* Before anything runs, so that a refused call leaves the cache as it was. */
static int check_ids(const struct llm *l, const uint32_t *id, uint32_t n,
		     struct err *err)
{
	if (n > l->context - l->kv.used)
		return err_set(err, ERR_UNSUP,
			       "the context is full: %u positions, %u in use, "
			       "%u more asked for",
			       l->context, l->kv.used, n);
	for (uint32_t i = 0; i < n; i++)
		if (id[i] >= l->cfg.vocab)
			return err_set(err, ERR_INPUT,
				       "token id %u, expected less than the "
				       "vocabulary's %u", id[i], l->cfg.vocab);
	return 0;
}

/* n <= batch tokens through all blocks; their hidden states are the first n
 * rows of l->x. */
static int run_blocks(struct llm *l, const uint32_t *id, uint32_t n,
		      struct err *err)
{
	struct be_mat x = be_rows(&l->x, 0, n);
	struct rt_pass p = {
		.dev = &l->dev, .cfg = &l->cfg, .rope = &l->rope,
		.work = &l->work, .kv = &l->kv, .first = l->kv.used,
	};

	if (l->dev.api->embed(l->dev.be, &l->embed, id, &x, err))
		return -1;
	for (uint32_t i = 0; i < l->cfg.layers; i++) {
		p.layer = i;
		if (rt_block_run(&l->block[i], &p, &x, err))
			return -1;
	}
	l->kv.used += n;
	return 0;
}

/* Final norm and head of n rows of l->x; the logits go to host [n][vocab]. */
static int run_head(struct llm *l, uint32_t first, uint32_t n, float *host,
		    struct err *err)
{
	const struct rt_dev *d = &l->dev;
	struct be_mat x = be_rows(&l->x, first, n);
	struct be_mat norm = be_rows(&l->work.norm, 0, n);
	struct be_mat y = be_rows(&l->logits, 0, n);

	if (d->api->rmsnorm(d->be, &x, &l->norm, l->cfg.eps, &norm, err) ||
	    rt_linear_run(d, &l->head, &norm, &y, err))
		return -1;
	return d->api->get(d->be, host, y.p,
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
	if (n && logits && run_head(l, part - 1, 1, logits, err))
		return -1;
	return prog_step(p, "prefill", n, n, err);
}

/* Room for the logits of several rows at once; made on the first call, since
 * plain generation needs one row. */
static int grow_logits(struct llm *l, struct err *err)
{
	uint64_t fit = LOGITS_BYTES / (sizeof(float) * l->cfg.vocab);
	uint32_t rows = fit < l->batch ? (uint32_t)fit : l->batch;
	struct be_mat more;
	float *host;

	if (!rows)
		rows = 1;
	if (l->host)
		return 0;
	if (be_mat_new(l->dev.api, l->dev.be, rows, l->cfg.vocab, DT_F32,
		       &more, err))
		return -1;
	host = mem_alloc((size_t)rows * l->cfg.vocab, sizeof(*host), err);
	if (!host) {
		be_mat_free(l->dev.api, l->dev.be, &more);
		return -1;
	}
	be_mat_free(l->dev.api, l->dev.be, &l->logits);
	l->logits = more;
	l->host = host;
	return 0;
}

/* The logits of the n hidden states in l->x, of which the first is token
 * `first` of the call. */
static int hand_out(struct llm *l, uint32_t first, uint32_t n,
		    const struct llm_rows *rows, struct err *err)
{
	uint32_t part;

	for (uint32_t i = 0; i < n; i += part) {
		part = n - i < l->logits.rows ? n - i : l->logits.rows;
		if (run_head(l, i, part, l->host, err) ||
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
	const struct rt_linear *first = &l->block[0].lin[0];

	for (uint32_t i = 0; i < l->cfg.layers; i++)
		for (int j = 0; j < LLAMA_LINEARS; j++)
			if (l->block[i].lin[j].quant)
				return rt_linear_kernel(&l->dev,
							&l->block[i].lin[j]);
	return rt_linear_kernel(&l->dev, first);
}
