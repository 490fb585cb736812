/* The blocks of a part as the backend's wide call wants them: pointers into
 * what the part and its blocks own anyway. */
#include "llm_step.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

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
}
