/* A step through the blocks of a part: as the backend's wide call wants them,
 * pointers into what the part and its blocks own anyway; or one by one,
 * recorded where that spares time. */
#include "llm_step.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define SEEN_LEAST 256u /* positions a recorded pass is made for */

static void forget(struct llm_part *p)
{
	if (p->record.graph)
		p->dev.api->graph_free(p->dev.be, p->record.graph);
	p->record = (struct llm_record){ 0 };
}

/* ---- as one call ---- */

static void layer_fill(const struct rt_block *b, const struct be_cache *kv,
		       struct be_layer *l)
{
	/* in the order of both enums: q k v o gate up down */
	_Static_assert(LLAMA_LINEARS == 7 && LLAMA_Q == 0 && LLAMA_O == 3 &&
		       LLAMA_DOWN == 6, "struct be_layer has this order");

	for (int i = 0; i < LLAMA_LINEARS; i++) {
		l->lin[i] = b->lin[i].quant;
		l->bias[i] = b->lin[i].bias.p;
	}
	l->norm_in = b->norm_in.p;
	l->norm_post = b->norm_post.p;
	l->norm_q = b->norm_q.p;
	l->norm_k = b->norm_k.p;
	l->kv = *kv;
}

static int prepare(struct llm_part *p, const struct llama_config *c,
		   const struct be_layer *layer, struct err *err)
{
	const struct be_api *api = p->dev.api;
	const struct be_blocks b = {
		.layer = layer, .layers = p->count, .hidden = c->hidden,
		.inter = c->inter, .heads = c->heads, .kv_heads = c->kv_heads,
		.head_dim = c->head_dim, .eps = c->eps,
		.scale = (float)(1 / sqrt(c->head_dim)),
		.cos = p->rope.cos, .sin = p->rope.sin,
	};
	int ret = api->step_new(p->dev.be, &b, &p->step, err);

	if (!ret || err->code != ERR_UNSUP)
		return ret;
	snprintf(p->narrow, sizeof(p->narrow), "%.150s", err->msg);
	return 0;
}

int llm_step_open(struct llm_part *p, const struct llama_config *c,
		  const struct rt_block *block, struct err *err)
{
	struct be_layer *layer;
	int ret;

	p->step = NULL;
	snprintf(p->narrow, sizeof(p->narrow),
		 "device %.20s has no call for more", p->dev.api->name);
	if (!p->dev.api->step_new || !p->count)
		return 0;
	if (p->kv.sequences > 1) {
		snprintf(p->narrow, sizeof(p->narrow), "several sequences");
		return 0;
	}
	layer = mem_alloc(p->count, sizeof(*layer), err);
	if (!layer)
		return -1;
	for (uint32_t i = 0; i < p->count; i++)
		layer_fill(&block[i], &p->kv.layer[i], &layer[i]);
	ret = prepare(p, c, layer, err);
	free(layer);
	return ret;
}

void llm_step_close(struct llm_part *p)
{
	if (p->step)
		p->dev.api->step_free(p->dev.be, p->step);
	p->step = NULL;
	forget(p);
}

/* ---- block by block ---- */

int llm_blocks_run(const struct llm *l, const struct llm_part *part,
		   struct rt_pass *p, struct be_mat *x, struct err *err)
{
	for (p->layer = 0; p->layer < part->count; p->layer++)
		if (rt_block_run(&l->block[part->first + p->layer], p, x, err))
			return -1;
	return 0;
}

/* A recorded pass serves as long as no token is beyond its `seen`: so that is
 * given as a power of two, and few are made as sequences grow. */
static uint32_t rounded(const struct llm *l, uint32_t seen)
{
	uint32_t n = SEEN_LEAST;

	while (n < seen && n < UINT32_MAX / 2)
		n *= 2;
	return seen <= n && n < l->context ? n : l->context;
}

/* It has run once, so that all memory it wants is there. */
static int record(const struct llm *l, struct llm_part *part,
		  struct rt_pass *p, struct be_mat *x, struct err *err)
{
	const struct rt_dev *d = &part->dev;
	struct err second;
	int ret;

	if (d->api->record(d->be, err))
		return -1;
	ret = llm_blocks_run(l, part, p, x, err);
	/* of two errors the first tells more */
	if (d->api->recorded(d->be, &part->record.graph, ret ? &second : err))
		ret = -1;
	if (ret)
		forget(part);
	return ret;
}

int llm_blocks_replay(const struct llm *l, struct llm_part *part,
		      struct rt_pass *p, struct be_mat *x, struct err *err)
{
	const struct rt_dev *d = &part->dev;
	struct llm_record *r = &part->record;
	int ret;

	if (!d->api->record)
		return llm_blocks_run(l, part, p, x, err);
	p->seen = rounded(l, p->seen);
	if (r->tokens == x->rows && r->seen == p->seen) {
		if (!r->graph && record(l, part, p, x, err))
			return -1;
		ret = d->api->replay(d->be, r->graph, err);
		if (ret <= 0)
			return ret;
	}
	forget(part);
	r->tokens = x->rows;
	r->seen = p->seen;
	return llm_blocks_run(l, part, p, x, err);
}
