/* The order of operations in a block, and nothing else: what an operation
 * computes stands in the backend, which tensor is which in llama.c.
 *
 *	x     [tokens][hidden]            the residual, changed in place
 *	norm  [tokens][hidden]            normed x; then the output of o or down
 *	q,att [tokens][heads * head_dim]
 *	k,v   [tokens][kv_heads * head_dim]; store takes them to the cache
 *	gate  [tokens][inter]             becomes silu(gate) * up in place
 *	up    [tokens][inter] */
#include "block.h"

#include "../libfmt/base/err.h"

#include <assert.h>
#include <math.h>

/* ---- scratch ---- */

int rt_work_init(struct rt_work *w, const struct rt_dev *d,
		 const struct llama_config *c, uint32_t tokens,
		 struct err *err)
{
	uint32_t heads = c->heads * c->head_dim;
	uint32_t kv = c->kv_heads * c->head_dim;
	const struct {
		struct be_mat *m;
		uint32_t cols;
	} part[] = {
		{ &w->norm, c->hidden }, { &w->q, heads }, { &w->att, heads },
		{ &w->k, kv }, { &w->v, kv },
		{ &w->gate, c->inter }, { &w->up, c->inter },
	};

	*w = (struct rt_work){ .tokens = tokens };
	for (size_t i = 0; i < sizeof(part) / sizeof(part[0]); i++) {
		if (be_mat_new(d->api, d->be, tokens, part[i].cols, DT_F32,
			       part[i].m, err)) {
			rt_work_release(w, d);
			return -1;
		}
	}
	return 0;
}

void rt_work_release(struct rt_work *w, const struct rt_dev *d)
{
	be_mat_free(d->api, d->be, &w->norm);
	be_mat_free(d->api, d->be, &w->q);
	be_mat_free(d->api, d->be, &w->att);
	be_mat_free(d->api, d->be, &w->k);
	be_mat_free(d->api, d->be, &w->v);
	be_mat_free(d->api, d->be, &w->gate);
	be_mat_free(d->api, d->be, &w->up);
	w->tokens = 0;
}

/* ---- loading ---- */

/* Two norms over the hidden size, and with qk_norm two over one head. */
static int load_norms(struct rt_block *b, const struct rt_dev *d,
		      const struct model *m, const struct llama_config *c,
		      uint32_t layer, struct err *err)
{
	const struct {
		enum llama_norm which;
		struct be_mat *to;
		uint32_t cols;
	} norm[] = {
		{ LLAMA_NORM_IN, &b->norm_in, c->hidden },
		{ LLAMA_NORM_POST, &b->norm_post, c->hidden },
		{ LLAMA_NORM_Q, &b->norm_q, c->head_dim },
		{ LLAMA_NORM_K, &b->norm_k, c->head_dim },
	};
	char buf[LLAMA_NAME];

	for (int i = 0; i < (c->qk_norm ? 4 : 2); i++)
		if (rt_tensor_load(d, m, llama_norm_name(layer, norm[i].which,
							 buf),
				   1, norm[i].cols, norm[i].to, err))
			return -1;
	return 0;
}

int rt_block_load(struct rt_block *b, const struct rt_dev *d,
		  const struct model *m, const struct llama_config *c,
		  uint32_t layer, struct err *err)
{
	char buf[LLAMA_NAME];
	uint32_t in, out;
	int ret = -1;

	*b = (struct rt_block){ 0 };
	for (int i = 0; i < LLAMA_LINEARS; i++) {
		enum llama_linear which = (enum llama_linear)i;

		/* [out][in], as the checkpoint stores it */
		llama_linear_shape(c, which, &in, &out);
		if (rt_linear_load(d, m, llama_linear_name(layer, which, buf),
				   in, out, &b->lin[i], err))
			goto out;
	}
	if (load_norms(b, d, m, c, layer, err))
		goto out;
	ret = 0;
out:
	if (ret)
		rt_block_release(b, d);
	return ret;
}

void rt_block_release(struct rt_block *b, const struct rt_dev *d)
{
	for (int i = 0; i < LLAMA_LINEARS; i++)
		rt_linear_release(d, &b->lin[i]);
	be_mat_free(d->api, d->be, &b->norm_in);
	be_mat_free(d->api, d->be, &b->norm_post);
	be_mat_free(d->api, d->be, &b->norm_q);
	be_mat_free(d->api, d->be, &b->norm_k);
}

/* ---- running ---- */

/* The views of one pass: as many rows of scratch as there are tokens. */
struct step {
	const struct rt_block *b;
	const struct rt_pass *p;
	struct be_mat *x;             /* [tokens][hidden], the residual */
	struct be_cache kv;
	struct be_mat norm, q, k, v, att, gate, up;
};

static int tap(const struct step *s, enum llama_slot slot,
	       const struct be_mat *x, struct err *err)
{
	const struct rt_tap *t = s->p->tap;

	return t ? t->fn(t->ctx, slot, x, err) : 0;
}

static int linear(const struct step *s, enum llama_linear which,
		  const struct be_mat *x, struct be_mat *y, struct err *err)
{
	return rt_linear_run(s->p->dev, &s->b->lin[which], x, y, err);
}

static int norm(const struct step *s, const struct be_mat *x,
		const struct be_mat *weight, struct be_mat *y, struct err *err)
{
	return s->p->dev->api->rmsnorm(s->p->dev->be, x, weight,
				       s->p->cfg->eps, y, err);
}

/* q, k and v take their positions: norm per head where the model has it, then
 * rotation, and the cache. */
static int position(struct step *s, struct err *err)
{
	const struct rt_dev *d = s->p->dev;
	const struct be_store t = {
		.q = &s->q, .k = &s->k, .v = &s->v,
		.to = &s->kv,
		.cos = &s->p->rope->cos, .sin = &s->p->rope->sin,
		.at = s->p->at, .first = s->p->first, .seen = s->p->seen,
		.head_dim = s->p->cfg->head_dim,
	};

	if (s->b->norm_q.p && norm(s, &s->q, &s->b->norm_q, &s->q, err))
		return -1;
	if (s->b->norm_k.p && norm(s, &s->k, &s->b->norm_k, &s->k, err))
		return -1;
	return d->api->store(d->be, &t, err);
}

/* x += y */
static int residual(const struct step *s, const struct be_mat *y,
		    struct err *err)
{
	return s->p->dev->api->add(s->p->dev->be, s->x, y, err);
}

/* s->att from s->x.  All of these return 1 when a tap ends the block. */
static int attention(struct step *s, struct err *err)
{
	const struct llama_config *c = s->p->cfg;
	const struct rt_dev *d = s->p->dev;
	const struct be_attend a = {
		.q = &s->q, .out = &s->att, .kv = &s->kv, .at = s->p->at,
		.first = s->p->first, .seen = s->p->seen, .heads = c->heads,
		.kv_heads = c->kv_heads, .head_dim = c->head_dim,
		.scale = (float)(1 / sqrt(c->head_dim)),
	};
	int ret;

	if (norm(s, s->x, &s->b->norm_in, &s->norm, err))
		return -1;
	if ((ret = tap(s, LLAMA_SLOT_QKV, &s->norm, err)))
		return ret;
	if (linear(s, LLAMA_Q, &s->norm, &s->q, err) ||
	    linear(s, LLAMA_K, &s->norm, &s->k, err) ||
	    linear(s, LLAMA_V, &s->norm, &s->v, err) ||
	    position(s, err))
		return -1;
	return d->api->attend(d->be, &a, err);
}

/* s->gate from s->x. */
static int mlp(struct step *s, struct err *err)
{
	const struct rt_dev *d = s->p->dev;
	int ret;

	if (norm(s, s->x, &s->b->norm_post, &s->norm, err))
		return -1;
	if ((ret = tap(s, LLAMA_SLOT_GATE_UP, &s->norm, err)))
		return ret;
	if (linear(s, LLAMA_GATE, &s->norm, &s->gate, err) ||
	    linear(s, LLAMA_UP, &s->norm, &s->up, err))
		return -1;
	return d->api->swiglu(d->be, &s->gate, &s->up, &s->gate, err);
}

/* s->x += the last linear of a half block. */
static int output(struct step *s, enum llama_linear which,
		  const struct be_mat *in, struct err *err)
{
	int ret = tap(s, llama_slot_of(which), in, err);

	if (ret)
		return ret;
	if (linear(s, which, in, &s->norm, err))
		return -1;
	return residual(s, &s->norm, err);
}

static int first_half(struct step *s, struct err *err)
{
	int ret;

	if (s->p->from == LLAMA_SLOT_O)
		return output(s, LLAMA_O, s->p->input, err);
	ret = attention(s, err);
	return ret ? ret : output(s, LLAMA_O, &s->att, err);
}

static int second_half(struct step *s, struct err *err)
{
	int ret;

	if (s->p->from == LLAMA_SLOT_DOWN)
		return output(s, LLAMA_DOWN, s->p->input, err);
	ret = mlp(s, err);
	return ret ? ret : output(s, LLAMA_DOWN, &s->gate, err);
}

int rt_block_run(const struct rt_block *b, const struct rt_pass *p,
		 struct be_mat *x, struct err *err)
{
	uint32_t n = x->rows;
	struct rt_work *w = p->work;
	struct step s = {
		.b = b, .p = p, .x = x,
		.norm = be_rows(&w->norm, 0, n), .q = be_rows(&w->q, 0, n),
		.att = be_rows(&w->att, 0, n), .gate = be_rows(&w->gate, 0, n),
		.up = be_rows(&w->up, 0, n),
		.k = be_rows(&w->k, 0, n), .v = be_rows(&w->v, 0, n),
		.kv = p->at ? p->kv->layer[p->layer]
			    : kv_sequence(p->kv, p->layer, p->sequence),
	};
	int ret = 0;

	assert(n <= w->tokens);
	assert(p->at || (n <= p->kv->capacity &&
			 p->first <= p->kv->capacity - n));
	if (p->from <= LLAMA_SLOT_O)
		ret = first_half(&s, err);
	if (!ret)
		ret = second_half(&s, err);
	return ret < 0 ? -1 : 0;
}
