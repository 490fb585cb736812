/* attend.c - new tokens into the cache, and attention over it, against the
 * reference. */
#include "kit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const enum dtype types[] = { DT_F32, DT_F16, DT_I8 };
static const char *const type_name[] = { "f32", "f16", "q8" };

/* A cache in both places. */
struct pair {
	struct arr k, v, ks, vs;
	struct be_cache ref, dev;
};

static double largest_code(enum dtype t)
{
	return t == DT_I8 ? 127 : 1;
}

/* Random contents.  Rows may be `pad` longer than they are wide. */
static struct pair pair_new(struct kit *k, enum dtype type, uint32_t rows,
			    const uint32_t at[3])
{
	const uint32_t heads = at[0], dim = at[1], pad = at[2];
	struct pair p = {
		.k = arr_mat(k, rows, heads * dim, pad, type),
		.v = arr_mat(k, rows, heads * dim, pad, type),
		.ks = arr_mat(k, rows, heads, kit_below(k, 3), DT_F16),
		.vs = arr_mat(k, rows, heads, kit_below(k, 3), DT_F16),
	};
	struct arr *a[] = { &p.k, &p.v, &p.ks, &p.vs };

	for (int i = 0; i < 2; i++) {
		arr_random(a[i], type == DT_I8 ? 30 : 1);
		for (uint32_t r = 0; r < rows; r++)
			for (uint32_t h = 0; h < heads; h++)
				arr_set(a[2 + i], r, h,
					(1 + kit_below(k, 100)) / 2000.0);
	}
	for (int i = 0; i < 4; i++)
		arr_up(a[i]);
	p.ref = (struct be_cache){ p.k.ref, p.v.ref, p.ks.ref, p.vs.ref };
	p.dev = (struct be_cache){ p.k.dev, p.v.dev, p.ks.dev, p.vs.dev };
	return p;
}

static void pair_free(struct pair *p)
{
	arr_free(&p->k);
	arr_free(&p->v);
	arr_free(&p->ks);
	arr_free(&p->vs);
}

/* Tokens of several sequences, in turn and none twice.  Each sequence has
 * `each` rows of the cache, the last ones first. */
static struct arr places(struct kit *k, uint32_t tokens, uint32_t sequences,
			 uint32_t each, uint32_t *seen)
{
	struct arr a = arr_raw(k, tokens, sizeof(struct be_at));
	const uint32_t most = (tokens - 1) / sequences + 1;
	struct be_at *at = a.ref.p;

	*seen = 0;
	for (uint32_t s = 0; s < sequences; s++) {
		uint32_t first = kit_below(k, 4) ? kit_below(k, each - most + 1)
						 : each - most;

		for (uint32_t i = s; i < tokens; i += sequences) {
			at[i].base = (sequences - 1 - s) * each;
			at[i].pos = first + i / sequences;
			*seen = at[i].pos < *seen ? *seen : at[i].pos + 1;
		}
	}
	/* a bound need not be reached */
	*seen += kit_below(k, each - *seen + 1);
	arr_up(&a);
	return a;
}

/* ---- new tokens ---- */

#define POSITIONS 50

/* Values as they are must be the reference's to the bit.  Keys are turned
 * first, where f32 may be a rounding away: a step of the type after it. */
static void stored(struct pair *p, struct arr *q)
{
	enum dtype t = p->k.ref.type;

	arr_near(q, "q", NULL, 3e-7);
	arr_same(&p->v, "v");
	arr_same(&p->vs, "scale of v");
	arr_near(&p->k, "k", NULL, t == DT_F32 ? 3e-7 : t == DT_F16 ? 1e-3 :
			 1 / largest_code(t));
	arr_near(&p->ks, "scale of k", NULL, 1e-3);
}

/* rows, query heads, key heads, head_dim; of so many sequences, 0: one and
 * without places */
static void store_case(struct kit *k, const uint32_t s[4], int type,
		       uint32_t sequences)
{
	uint32_t first = kit_below(k, POSITIONS - s[0] + 1), half = s[3] / 2;
	uint32_t rows = sequences ? sequences * POSITIONS : POSITIONS, seen = 0;
	struct arr at = { 0 };
	struct arr q = arr_mat(k, s[0], s[1] * s[3], kit_below(k, 3), DT_F32);
	struct arr key = arr_mat(k, s[0], s[2] * s[3], kit_below(k, 3),
				 DT_F32);
	struct arr val = arr_mat(k, s[0], s[2] * s[3], 4, DT_F32);
	struct arr c = arr_mat(k, POSITIONS, half, kit_below(k, 3), DT_F32);
	struct arr i = arr_mat(k, POSITIONS, half, 1, DT_F32);
	struct pair p = pair_new(k, types[type], rows,
				 (const uint32_t[]){ s[2], s[3],
						     kit_below(k, 3) });
	struct arr *in[] = { &q, &key, &val, &c, &i };
	struct be_store t;
	int ref;

	kit_case(k, "%u rows from %u, %u sequences, %u and %u heads of %u, %s",
		 s[0], first, sequences, s[1], s[2], s[3], type_name[type]);
	if (sequences)
		at = places(k, s[0], sequences, POSITIONS, &seen);
	arr_random(&q, 1);
	arr_random(&key, 1);
	arr_random(&val, kit_below(k, 2) ? 1 : 1e-6);
	if (s[0] > 1) /* a head of zeros, and beyond f16 */
		for (uint32_t j = 0; j < s[3]; j++)
			arr_set(&val, 0, j, 0);
	arr_set(&val, s[0] - 1, 0, 1e5);
	for (uint32_t r = 0; r < POSITIONS; r++)
		for (uint32_t j = 0; j < half; j++) {
			arr_set(&c, r, j, cos(r + 0.1 * j));
			arr_set(&i, r, j, sin(r + 0.1 * j));
		}
	for (int j = 0; j < 5; j++)
		arr_up(in[j]);
	t = (struct be_store){ &q.ref, &key.ref, &val.ref, &p.ref, &c.ref,
			       &i.ref, at.ref.p, first, seen, s[3] };
	ref = be_ref.store(k->ref, &t, &k->err);
	t = (struct be_store){ &q.dev, &key.dev, &val.dev, &p.dev, &c.dev,
			       &i.dev, at.dev.p, first, seen, s[3] };
	if (kit_ran(k, ref, k->api->store(k->be, &t, &k->err))) {
		stored(&p, &q);
		arr_same(&key, "the keys given");
	}
	for (int j = 0; j < 5; j++)
		arr_free(in[j]);
	if (sequences)
		arr_free(&at);
	pair_free(&p);
}

static void test_store(struct kit *k)
{
	static const uint32_t rows[] = { 1, 1, 2, 3, 5, 16, 40 };
	static const uint32_t dims[] = { 2, 4, 6, 16, 32, 64, 80, 128, 256 };

	k->what = "store";
	for (uint32_t i = 0; i < kit_count(k, 40); i++) {
		uint32_t kv = 1 + kit_below(k, 3);
		uint32_t s[4] = { KIT_PICK(k, rows), kv, kv,
				  KIT_PICK(k, dims) };

		s[1] *= 1 + kit_below(k, 3);
		store_case(k, s, (int)(i % 3),
			   i / 3 % 2 ? 1 + kit_below(k, 6) : 0);
	}
}

/* ---- attention ---- */

/* An error of a score is one of its exponent, times scale. */
static double room(const struct kit *k, enum dtype type, double scale)
{
	return (type != DT_F32 && k->half ? 1e-3 : 3e-6) * (1 + scale);
}

struct acase {
	uint32_t heads, kv_heads, head_dim;
	uint32_t first, tokens; /* of several sequences up to first + tokens */
	uint32_t sequences;     /* 0: one, without places */
};

static void attend_case(struct kit *k, const struct acase *s, int type,
			double scale)
{
	/* now and then rows that vectors of 16 bytes cannot take */
	const uint32_t wide = s->heads * s->head_dim;
	uint32_t each = s->first + s->tokens, seen = each;
	uint32_t rows = s->sequences ? each * s->sequences : each;
	uint32_t pad = kit_below(k, 4) ? 16 * kit_below(k, 2) : 1;
	struct arr q = arr_mat(k, s->tokens, wide,
			       pad == 1 ? kit_below(k, 3) : 0, DT_F32);
	struct pair p = pair_new(k, types[type], rows + kit_below(k, 2),
				 (const uint32_t[]){ s->kv_heads, s->head_dim,
						     pad });
	struct arr out = arr_mat(k, s->tokens, wide, pad ? pad : 4, DT_F32);
	struct arr at = { 0 };
	struct be_attend a = {
		.q = &q.ref, .kv = &p.ref, .out = &out.ref, .first = s->first,
		.heads = s->heads, .kv_heads = s->kv_heads,
		.head_dim = s->head_dim,
		.scale = (float)(scale / sqrt(s->head_dim)),
	};
	int ref;

	kit_case(k, "%u heads over %u of %u, %u tokens from %u, %u sequences, "
		 "%s", s->heads, s->kv_heads, s->head_dim, s->tokens, s->first,
		 s->sequences, type_name[type]);
	if (s->sequences)
		at = places(k, s->tokens, s->sequences, each, &seen);
	a.at = at.ref.p;
	a.seen = seen;
	arr_random(&q, 1);
	arr_up(&q);
	memset(out.ref.p, 0xff, out.bytes);
	arr_up(&out);
	ref = be_ref.attend(k->ref, &a, &k->err);
	a.q = &q.dev;
	a.kv = &p.dev;
	a.out = &out.dev;
	a.at = at.dev.p;
	if (kit_ran(k, ref, k->api->attend(k->be, &a, &k->err))) {
		arr_near(&out, "out", NULL, room(k, types[type], scale));
		arr_same(&q, "q");
		arr_same(&p.k, "k");
		arr_same(&p.v, "v");
	}
	if (s->sequences)
		arr_free(&at);
	arr_free(&q);
	arr_free(&out);
	pair_free(&p);
}

static void test_attend(struct kit *k)
{
	static const uint32_t heads[][2] = {
		{ 1, 1 }, { 4, 4 }, { 4, 2 }, { 8, 1 }, { 6, 2 }, { 15, 1 },
	};
	static const uint32_t dims[] = { 1, 5, 8, 16, 24, 64, 64, 80, 96, 128,
					 128, 256 };
	static const uint32_t firsts[] = { 0, 0, 1, 7, 100, 255, 256, 300 };
	static const uint32_t counts[] = { 1, 1, 2, 3, 5, 8, 9, 16, 40 };
	static const struct acase edge[] = {
		{ 4, 2, 16, 1023, 1, 0 }, { 4, 2, 16, 1024, 1, 0 },
		{ 4, 4, 32, 2500, 1, 0 }, { 2, 1, 8, 1020, 9, 0 },
		{ 2, 2, 8, 0, 200, 0 }, { 80, 1, 4, 3, 3, 0 },
		{ 3, 3, 16, 990, 70, 0 }, { 1, 1, 8, 3, 0, 0 },
		{ 4, 2, 256, 300, 3, 0 }, { 2, 2, 256, 0, 20, 0 },
		{ 2, 1, 512, 100, 2, 0 }, { 4, 2, 96, 40, 70, 0 },
		{ 2, 1, 64, 0, 300, 0 }, { 2, 2, 128, 77, 200, 0 },
		{ 1, 1, 80, 0, 129, 0 }, { 2, 1, 256, 63, 65, 0 },
		{ 8, 2, 128, 1500, 1, 0 }, { 32, 4, 64, 777, 2, 0 },
		{ 4, 4, 128, 3000, 8, 0 }, { 3, 1, 80, 2047, 1, 0 },
		{ 24, 1, 128, 500, 4, 0 },
		{ 4, 2, 16, 1024, 1, 1 }, { 4, 4, 32, 2500, 3, 3 },
		{ 24, 1, 128, 500, 4, 4 }, { 8, 2, 128, 700, 17, 17 },
		{ 4, 4, 64, 60, 70, 35 }, { 6, 2, 80, 1100, 5, 2 },
		{ 2, 1, 512, 100, 9, 9 }, { 40, 1, 96, 130, 3, 3 },
		{ 2, 2, 256, 300, 12, 12 }, { 100, 1, 4, 3, 3, 2 },
	};

	k->what = "attend";
	for (uint32_t i = 0; i < kit_count(k, 90); i++) {
		const uint32_t *h = KIT_PICK(k, heads);
		struct acase s = { h[0], h[1], KIT_PICK(k, dims),
				   KIT_PICK(k, firsts), KIT_PICK(k, counts),
				   i / 3 % 2 ? 1 + kit_below(k, 6) : 0 };

		/* now and then scores that leave one weight standing */
		attend_case(k, &s, (int)(i % 3), i % 7 ? 1 : 30);
	}
	for (uint32_t i = 0; i < sizeof(edge) / sizeof(edge[0]); i++)
		for (int type = 0; type < 3; type++)
			attend_case(k, &edge[i], type, 1);
}

void kit_attend(struct kit *k)
{
	test_store(k);
	test_attend(k);
}
