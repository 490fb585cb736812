/* step.c - the wide call, a token through all blocks at once, against the
 * reference's narrow calls one by one. */
#include "kit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LAYERS 2
#define LINEARS 7

struct scase {
	uint32_t hidden, inter, heads, kv_heads, head_dim;
	uint32_t first, group_size;
	uint8_t bits, order, sym, extras; /* extras: biases and head norms */
	enum dtype scale_type;
};

/* One block, for both sides. */
struct blk {
	struct be_qw *ref[LINEARS], *dev[LINEARS];
	struct arr bias[LINEARS], norm[2], head[2], k, v;
};

struct net {
	struct kit *kit;
	const struct scase *c;
	struct blk blk[LAYERS];
	struct arr x, cos, sin;
	int bad;
};

static uint32_t out_of(const struct scase *c, int i)
{
	const uint32_t out[LINEARS] = {
		c->heads * c->head_dim, c->kv_heads * c->head_dim,
		c->kv_heads * c->head_dim, c->hidden, c->inter, c->inter,
		c->hidden,
	};

	return out[i];
}

static uint32_t in_of(const struct scase *c, int i)
{
	return i == 3 ? c->heads * c->head_dim : i == 6 ? c->inter : c->hidden;
}

/* ---- made ---- */

/* Linears of one input have one order of inputs, as a checkpoint's have: so
 * they are drawn from the same numbers. */
static void weight_make(struct net *n, struct blk *b, int i, uint64_t seed)
{
	const struct scase *c = n->c;
	const struct qcase q = {
		.out = out_of(c, i), .in = in_of(c, i),
		.group_size = c->group_size ? c->group_size : in_of(c, i),
		.bits = c->bits, .order = c->order, .sym = c->sym,
		.kind = QL_POINT, .scale_type = c->scale_type,
	};
	struct kit *k = n->kit;
	uint64_t rng = k->rng;
	uint32_t *order;
	struct ql ql;

	if (kit_ql(k, &ql, &q)) {
		n->bad = 1;
		return;
	}
	/* groups again, from the slot's own numbers */
	order = ql.group_of;
	rng = k->rng;
	k->rng = seed;
	for (uint32_t j = 0; j < q.in; j++)
		order[j] = j / q.group_size;
	for (uint32_t j = q.in - 1; c->order && j > 0; j--) {
		uint32_t o = kit_below(k, j + 1), t = order[j];

		order[j] = order[o];
		order[o] = t;
	}
	k->rng = rng;
	ql_observe(&ql);
	/* outputs of about the size of inputs */
	for (size_t j = 0; j < (size_t)q.out * ql.spec.groups; j++)
		ql.scale[j] *= q.scale_type == DT_F32 ? 1.0F : 0.25F;
	if (be_ref.qw_new(n->kit->ref, &ql, &b->ref[i], &k->err) ||
	    k->api->qw_new(k->be, &ql, &b->dev[i], &k->err))
		n->bad = 1;
	ql_release(&ql);
}

static struct arr random_arr(struct kit *k, uint32_t rows, uint32_t cols,
			     uint32_t pad, enum dtype type)
{
	struct arr a = arr_mat(k, rows, cols, pad, type);

	arr_random(&a, 1);
	arr_up(&a);
	return a;
}

static void blk_make(struct net *n, struct blk *b)
{
	static const int slot[LINEARS] = { 0, 0, 0, 1, 2, 2, 3 };
	const struct scase *c = n->c;
	struct kit *k = n->kit;
	uint64_t seed = kit_rand(k);

	memset(b, 0, sizeof(*b));
	for (int i = 0; i < LINEARS; i++) {
		weight_make(n, b, i, seed + (uint64_t)slot[i] * 7919);
		if (c->extras)
			b->bias[i] = random_arr(k, 1, out_of(c, i), 0, DT_F32);
	}
	for (int i = 0; i < 2; i++) {
		b->norm[i] = random_arr(k, 1, c->hidden, 0, DT_F32);
		if (c->extras)
			b->head[i] = random_arr(k, 1, c->head_dim, 0, DT_F32);
	}
	b->k = random_arr(k, c->first + 3, c->kv_heads * c->head_dim, 8,
			  DT_F16);
	b->v = random_arr(k, c->first + 3, c->kv_heads * c->head_dim, 8,
			  DT_F16);
}

static void angles(struct net *n)
{
	const uint32_t half = n->c->head_dim / 2, rows = n->c->first + 2;

	n->cos = arr_mat(n->kit, rows, half, 0, DT_F32);
	n->sin = arr_mat(n->kit, rows, half, 0, DT_F32);
	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t i = 0; i < half; i++) {
			double a = r * pow(1e4, -(double)i / half);

			arr_set(&n->cos, r, i, cos(a));
			arr_set(&n->sin, r, i, sin(a));
		}
	arr_up(&n->cos);
	arr_up(&n->sin);
}

static void net_free(struct net *n)
{
	struct kit *k = n->kit;

	for (int i = 0; i < LAYERS; i++) {
		struct blk *b = &n->blk[i];

		for (int j = 0; j < LINEARS; j++) {
			be_ref.qw_free(k->ref, b->ref[j]);
			k->api->qw_free(k->be, b->dev[j]);
			if (n->c->extras)
				arr_free(&b->bias[j]);
		}
		for (int j = 0; j < 2; j++) {
			arr_free(&b->norm[j]);
			if (n->c->extras)
				arr_free(&b->head[j]);
		}
		arr_free(&b->k);
		arr_free(&b->v);
	}
	arr_free(&n->x);
	arr_free(&n->cos);
	arr_free(&n->sin);
}

/* ---- the narrow way, in the reference ---- */

struct narrow {
	struct net *n;
	struct blk *b;
	int bad;
};

static struct be_mat room(struct narrow *w, uint32_t cols)
{
	struct be_mat m;

	if (be_mat_new(&be_ref, w->n->kit->ref, 1, cols, DT_F32, &m,
		       &w->n->kit->err))
		abort();
	return m;
}

static struct be_mat linear(struct narrow *w, int i, const struct be_mat *x)
{
	struct kit *k = w->n->kit;
	struct be_mat y = room(w, out_of(w->n->c, i));

	w->bad |= be_ref.qgemm(k->ref, x, w->b->ref[i], &y, &k->err);
	if (w->n->c->extras)
		w->bad |= be_ref.add(k->ref, &y, &w->b->bias[i].ref, &k->err);
	return y;
}

static void done(struct narrow *w, struct be_mat *m, int count)
{
	for (int i = 0; i < count; i++)
		be_mat_free(&be_ref, w->n->kit->ref, &m[i]);
}

static void norm(struct narrow *w, struct be_mat *x, struct arr *weight,
		 struct be_mat *y)
{
	w->bad |= be_ref.rmsnorm(w->n->kit->ref, x, &weight->ref, 1e-5, y,
				 &w->n->kit->err);
}

static void attention(struct narrow *w)
{
	const struct scase *c = w->n->c;
	struct kit *k = w->n->kit;
	struct be_mat h = room(w, c->hidden), m[6];
	struct be_cache kv = { .k = w->b->k.ref, .v = w->b->v.ref };
	struct be_store s = { .q = &m[0], .k = &m[1], .v = &m[2], .to = &kv,
			      .cos = &w->n->cos.ref, .sin = &w->n->sin.ref,
			      .first = c->first, .head_dim = c->head_dim };
	struct be_attend a = { .q = &m[0], .kv = &kv, .out = &m[3],
			       .first = c->first, .heads = c->heads,
			       .kv_heads = c->kv_heads,
			       .head_dim = c->head_dim,
			       .scale = (float)(1 / sqrt(c->head_dim)) };

	norm(w, &w->n->x.ref, &w->b->norm[0], &h);
	for (int i = 0; i < 3; i++)
		m[i] = linear(w, i, &h);
	for (int i = 0; i < 2 && c->extras; i++)
		norm(w, &m[i], &w->b->head[i], &m[i]);
	m[3] = room(w, c->heads * c->head_dim);
	w->bad |= be_ref.store(k->ref, &s, &k->err);
	w->bad |= be_ref.attend(k->ref, &a, &k->err);
	m[4] = linear(w, 3, &m[3]);
	w->bad |= be_ref.add(k->ref, &w->n->x.ref, &m[4], &k->err);
	m[5] = h;
	done(w, m, 6);
}

static void mlp(struct narrow *w)
{
	struct kit *k = w->n->kit;
	struct be_mat m[4];

	m[0] = room(w, w->n->c->hidden);
	norm(w, &w->n->x.ref, &w->b->norm[1], &m[0]);
	m[1] = linear(w, 4, &m[0]);
	m[2] = linear(w, 5, &m[0]);
	w->bad |= be_ref.swiglu(k->ref, &m[1], &m[2], &m[1], &k->err);
	m[3] = linear(w, 6, &m[1]);
	w->bad |= be_ref.add(k->ref, &w->n->x.ref, &m[3], &k->err);
	done(w, m, 4);
}

/* ---- the wide way ---- */

static void layer_of(const struct net *n, const struct blk *b,
		     struct be_layer *l)
{
	memset(l, 0, sizeof(*l));
	for (int i = 0; i < LINEARS; i++) {
		l->lin[i] = b->dev[i];
		l->bias[i] = n->c->extras ? b->bias[i].dev.p : NULL;
	}
	l->norm_in = b->norm[0].dev.p;
	l->norm_post = b->norm[1].dev.p;
	l->norm_q = n->c->extras ? b->head[0].dev.p : NULL;
	l->norm_k = n->c->extras ? b->head[1].dev.p : NULL;
	l->kv.k = b->k.dev;
	l->kv.v = b->v.dev;
}

static int wide(struct net *n, struct be_step **s)
{
	const struct scase *c = n->c;
	struct kit *k = n->kit;
	struct be_layer l[LAYERS];
	const struct be_blocks b = {
		.layer = l, .layers = LAYERS, .hidden = c->hidden,
		.inter = c->inter, .heads = c->heads, .kv_heads = c->kv_heads,
		.head_dim = c->head_dim, .eps = 1e-5,
		.scale = (float)(1 / sqrt(c->head_dim)),
		.cos = n->cos.dev, .sin = n->sin.dev,
	};

	for (int i = 0; i < LAYERS; i++)
		layer_of(n, &n->blk[i], &l[i]);
	return k->api->step_new(k->be, &b, s, &k->err);
}

/* A step, and the same once more from where it began: equal to the bit. */
static void run_twice(struct net *n, struct be_step *s)
{
	struct kit *k = n->kit;
	void *first = malloc(n->x.bytes);

	if (!first || k->api->step(k->be, s, &n->x.dev, n->c->first, &k->err))
		kit_fail(k, "%s", k->err.msg);
	arr_down(&n->x);
	memcpy(first, n->x.got, n->x.bytes);
	arr_up(&n->x);
	if (k->api->step(k->be, s, &n->x.dev, n->c->first, &k->err))
		kit_fail(k, "%s", k->err.msg);
	arr_down(&n->x);
	if (memcmp(first, n->x.got, n->x.bytes))
		kit_fail(k, "two runs differ");
	free(first);
}

static void step_case(struct kit *k, const struct scase *c)
{
	struct net n = { .kit = k, .c = c };
	struct be_step *s = NULL;
	struct narrow w = { .n = &n };

	kit_case(k, "%u, %u, %u/%u heads of %u, at %u, %u bits, groups of %u, "
		 "order %u, sym %u, extras %u", c->hidden, c->inter, c->heads,
		 c->kv_heads, c->head_dim, c->first, c->bits, c->group_size,
		 c->order, c->sym, c->extras);
	for (int i = 0; i < LAYERS; i++)
		blk_make(&n, &n.blk[i]);
	n.x = random_arr(k, 1, c->hidden, 0, DT_F32);
	angles(&n);
	if (n.bad || wide(&n, &s)) {
		kit_fail(k, "%s", k->err.msg);
		goto out;
	}
	k->cases++;
	run_twice(&n, s);
	for (int i = 0; i < LAYERS; i++) {
		w.b = &n.blk[i];
		attention(&w);
		mlp(&w);
	}
	if (w.bad)
		kit_fail(k, "reference: %s", k->err.msg);
	/* activations are rounded before each of 8 linears */
	arr_near(&n.x, "x", NULL, 5e-3);
	for (int i = 0; i < LAYERS; i++) {
		arr_near(&n.blk[i].k, "k", NULL, 5e-3);
		arr_near(&n.blk[i].v, "v", NULL, 5e-3);
	}
out:
	if (s)
		k->api->step_free(k->be, s);
	net_free(&n);
}

/* Blocks that have to go the narrow way say so. */
static void refused(struct kit *k, struct scase c, enum dtype scales)
{
	struct net n = { .kit = k, .c = &c };
	struct be_step *s = NULL;

	kit_case(k, "refusal of %u bits, %u hidden", c.bits, c.hidden);
	c.scale_type = scales;
	for (int i = 0; i < LAYERS; i++)
		blk_make(&n, &n.blk[i]);
	n.x = random_arr(k, 1, c.hidden, 0, DT_F32);
	angles(&n);
	k->cases++;
	if (!wide(&n, &s) || k->err.code != ERR_UNSUP || s)
		kit_fail(k, "was not refused");
	net_free(&n);
}

void kit_step(struct kit *k)
{
	/* hidden, inter, heads, kv, head_dim, at, group, bits, order, sym,
	 * extras */
	static const struct scase cases[] = {
		{ 256, 768, 4, 4, 64, 0, 128, 4, 0, 1, 0, DT_F16 },
		{ 256, 768, 4, 4, 64, 5, 32, 4, 1, 0, 0, DT_F16 },
		{ 256, 768, 4, 2, 64, 130, 128, 4, 1, 1, 1, DT_BF16 },
		{ 512, 1024, 8, 1, 64, 300, 128, 2, 0, 0, 1, DT_F16 },
		{ 512, 1024, 4, 4, 128, 64, 32, 2, 1, 1, 0, DT_BF16 },
		{ 640, 1280, 8, 8, 80, 700, 128, 3, 0, 1, 0, DT_F16 },
		{ 384, 896, 4, 2, 96, 17, 32, 3, 1, 0, 1, DT_F16 },
		{ 512, 1408, 2, 1, 256, 40, 128, 8, 0, 0, 0, DT_F16 },
		{ 256, 512, 16, 1, 16, 1100, 64, 8, 1, 1, 0, DT_F16 },
		{ 896, 4864, 14, 2, 64, 250, 128, 4, 0, 1, 1, DT_F16 },
		{ 256, 768, 4, 4, 64, 511, 0, 4, 0, 1, 0, DT_F16 },
		{ 4096, 384, 32, 8, 128, 129, 128, 4, 1, 1, 0, DT_F16 },
	};
	const uint32_t count = sizeof(cases) / sizeof(cases[0]);

	if (!k->api->step_new)
		return;
	k->what = "step";
	for (uint32_t i = 0; i < count; i++)
		if (!k->quick || i < 10)
			step_case(k, &cases[i]);
	refused(k, cases[0], DT_F32);
	refused(k, (struct scase){ 192, 768, 4, 4, 48, 0, 32, 4, 0, 1, 0,
				   DT_F16 }, DT_F16);
}
