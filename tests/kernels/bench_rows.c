/* bench_rows.c - the speed of attention, of the cache, and of operations row by
 * row, at the sizes of Llama 2 7B. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- attention ---- */

struct attend {
	struct be_mat q, out;
	struct be_cache kv[COPIES];
	struct be_attend a;
	void *at;
	uint32_t copies;
};

static int run_attend(struct item *it, uint32_t turn)
{
	struct attend *t = it->ctx;

	t->a.kv = &t->kv[turn % t->copies];
	return it->b->api->attend(it->b->be, &t->a, &it->b->err);
}

/* Keys and values of `rows` positions. */
static struct be_cache cache(struct bench *b, enum dtype type, uint32_t rows,
			     const uint32_t head[2])
{
	uint32_t width = head[0] * head[1];
	struct be_cache c = { .k = bench_matrix(b, rows, width, type),
			      .v = bench_matrix(b, rows, width, type) };

	if (type == DT_I8) {
		c.k_scale = bench_matrix(b, rows, head[0], DT_F16);
		c.v_scale = bench_matrix(b, rows, head[0], DT_F16);
	}
	return c;
}

static void cache_free(struct bench *b, struct be_cache *c)
{
	be_mat_free(b->api, b->be, &c->k);
	be_mat_free(b->api, b->be, &c->v);
	be_mat_free(b->api, b->be, &c->k_scale);
	be_mat_free(b->api, b->be, &c->v_scale);
}

/* The bytes of a head's position: key and value. */
static double position_bytes(enum dtype t, uint32_t d)
{
	return 2.0 * d * (double)be_elem(t) + (t == DT_I8 ? 4 : 0);
}

/* A token of each of so many sequences, all at position `pos`. */
static void *places(struct bench *b, uint32_t tokens, uint32_t pos)
{
	struct be_at at[64];
	struct err err;
	void *p = NULL;

	for (uint32_t i = 0; i < tokens; i++)
		at[i] = (struct be_at){ i * (pos + 1), pos };
	if (b->api->alloc(b->be, tokens * sizeof(*at), &p, &err) ||
	    b->api->put(b->be, p, at, tokens * sizeof(*at), &err))
		abort();
	return p;
}

/* at: tokens, first position, heads, heads of the cache; 1: each token is of a
 * sequence of its own. */
static void bench_attend(struct bench *b, enum dtype type,
			 const uint32_t at[5])
{
	const uint32_t tokens = at[0], heads = at[2], kv = at[3], d = 128;
	const uint32_t rows = at[4] ? tokens * (at[1] + 1) : at[1] + tokens;
	double bytes = position_bytes(type, d) * kv * rows;
	double pairs = at[4] ? rows : tokens * (at[1] + (tokens + 1) / 2.0);
	struct attend t = { .copies = bench_copies(bytes) };
	struct item it = { .b = b, .run = run_attend, .ctx = &t,
			   .bytes = bytes, .flops = 4.0 * heads * d * pairs };
	char what[64];

	t.q = bench_matrix(b, tokens, heads * d, DT_F32);
	t.out = bench_matrix(b, tokens, heads * d, DT_F32);
	for (uint32_t i = 0; i < t.copies; i++)
		t.kv[i] = cache(b, type, rows, (const uint32_t[]){ kv, d });
	t.at = at[4] ? places(b, tokens, at[1]) : NULL;
	t.a = (struct be_attend){ .q = &t.q, .kv = t.kv, .out = &t.out,
				  .first = at[1], .heads = heads,
				  .kv_heads = kv, .head_dim = d,
				  .at = t.at, .seen = at[1] + 1,
				  .scale = 0.08F };
	snprintf(what, sizeof(what), "attend %s %u/%ux%u, %u%s from %u",
		 bench_type(type), heads, kv, d, tokens,
		 at[4] ? " seqs" : "", at[1]);
	bench_report(&it, what);
	be_mat_free(b->api, b->be, &t.q);
	be_mat_free(b->api, b->be, &t.out);
	b->api->free(b->be, t.at);
	for (uint32_t i = 0; i < t.copies; i++)
		cache_free(b, &t.kv[i]);
}

void bench_attention(struct bench *b)
{
	static const enum dtype types[] = { DT_F32, DT_F16, DT_I8 };
	static const uint32_t at[][5] = {
		{ 1, 511, 32, 32, 0 }, { 1, 4095, 32, 32, 0 },
		{ 1, 4095, 32, 8, 0 }, { 4, 4092, 32, 8, 0 },
		{ 4, 511, 32, 32, 1 }, { 16, 511, 32, 32, 1 },
		{ 16, 2047, 32, 8, 1 }, { 64, 511, 32, 32, 1 },
		{ 512, 0, 32, 8, 0 }, { 512, 3584, 32, 8, 0 },
		{ 1, 32767, 32, 8, 0 }, { 2048, 0, 32, 32, 0 },
	};

	/* the last ones take a processor minutes */
	const size_t n = sizeof(at) / sizeof(at[0]) -
			 (b->api == &be_cpu ? 2 : 0);

	for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++)
		for (size_t i = 0; i < n; i++)
			bench_attend(b, types[t], at[i]);
}

/* ---- rows ---- */

/* Each operation reads and writes what lies in `copies` sets of arrays, taken
 * in turn. */
struct rows {
	struct be_mat x[COPIES], y[COPIES], z[COPIES], w;
	struct be_cache kv;
	uint32_t copies;
};

static int run_rmsnorm(struct item *it, uint32_t turn)
{
	struct rows *r = it->ctx;
	uint32_t i = turn % r->copies;

	return it->b->api->rmsnorm(it->b->be, &r->x[i], &r->w, 1e-5, &r->y[i],
				   &it->b->err);
}

static int run_swiglu(struct item *it, uint32_t turn)
{
	struct rows *r = it->ctx;
	uint32_t i = turn % r->copies;

	return it->b->api->swiglu(it->b->be, &r->x[i], &r->y[i], &r->x[i],
				  &it->b->err);
}

static int run_add(struct item *it, uint32_t turn)
{
	struct rows *r = it->ctx;
	uint32_t i = turn % r->copies;

	return it->b->api->add(it->b->be, &r->x[i], &r->y[i], &it->b->err);
}

static int run_store(struct item *it, uint32_t turn)
{
	struct rows *r = it->ctx;
	uint32_t i = turn % r->copies;
	struct be_store s = { .q = &r->x[i], .k = &r->y[i], .v = &r->z[i],
			      .to = &r->kv, .cos = &r->w, .sin = &r->w,
			      .head_dim = 128 };

	return it->b->api->store(it->b->be, &s, &it->b->err);
}

static void rows_free(struct bench *b, struct rows *r)
{
	for (uint32_t i = 0; i < r->copies; i++) {
		be_mat_free(b->api, b->be, &r->x[i]);
		be_mat_free(b->api, b->be, &r->y[i]);
		be_mat_free(b->api, b->be, &r->z[i]);
	}
	be_mat_free(b->api, b->be, &r->w);
	cache_free(b, &r->kv);
}

/* Arrays a f32 matrix of `cols`, read or written `passes` times. */
static void bench_row(struct bench *b, struct item *it, const char *what,
		      const uint32_t at[3])
{
	const uint32_t tokens = at[0], cols = at[1], passes = at[2];
	double bytes = 4.0 * tokens * cols;
	struct rows r = { .copies = bench_copies(2 * bytes) };
	char name[64];

	for (uint32_t i = 0; i < r.copies; i++) {
		r.x[i] = bench_matrix(b, tokens, cols, DT_F32);
		r.y[i] = bench_matrix(b, tokens, cols, DT_F32);
	}
	r.w = bench_matrix(b, 1, cols, DT_F32);
	it->bytes = bytes * passes;
	it->flops = 0;
	it->ctx = &r;
	snprintf(name, sizeof(name), "%s [%u][%u]", what, tokens, cols);
	bench_report(it, name);
	rows_free(b, &r);
}

static void bench_store(struct bench *b, enum dtype type, uint32_t tokens)
{
	const uint32_t heads = 32, d = 128;
	double bytes = 4.0 * tokens * heads * d;
	struct rows r = { .copies = bench_copies(3 * bytes) };
	struct item it = { .b = b, .run = run_store, .ctx = &r };
	char name[64];

	for (uint32_t i = 0; i < r.copies; i++) {
		r.x[i] = bench_matrix(b, tokens, heads * d, DT_F32);
		r.y[i] = bench_matrix(b, tokens, heads * d, DT_F32);
		r.z[i] = bench_matrix(b, tokens, heads * d, DT_F32);
	}
	r.w = bench_matrix(b, tokens, d / 2, DT_F32);
	r.kv = cache(b, type, tokens, (const uint32_t[]){ heads, d });
	/* queries go both ways */
	it.bytes = 4 * bytes + position_bytes(type, d) * heads * tokens;
	snprintf(name, sizeof(name), "store %s [%u][3][%ux%u]",
		 bench_type(type), tokens, heads, d);
	bench_report(&it, name);
	rows_free(b, &r);
}

void bench_rows(struct bench *b)
{
	static const uint32_t tokens[] = { 1, 512, 2048 };
	struct item it = { .b = b };

	for (int i = 0; i < 3; i++) {
		uint32_t n = tokens[i];

		it.run = run_rmsnorm;
		bench_row(b, &it, "rmsnorm", (const uint32_t[]){ n, 4096, 2 });
		it.run = run_swiglu;
		bench_row(b, &it, "swiglu", (const uint32_t[]){ n, 11008, 3 });
		it.run = run_add;
		bench_row(b, &it, "add", (const uint32_t[]){ n, 4096, 3 });
		bench_store(b, DT_F32, n);
		bench_store(b, DT_F16, n);
		bench_store(b, DT_I8, n);
	}
}
