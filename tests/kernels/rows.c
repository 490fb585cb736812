/* rows.c - operations row by row, and attention, against the reference. */
#include "kit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const uint32_t widths[] = { 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64,
				   100, 129, 260 };
static const uint32_t counts[] = { 1, 1, 2, 3, 5, 16, 40 };

static void test_gather(struct kit *k)
{
	k->what = "gather";
	for (uint32_t i = 0; i < kit_count(k, 20); i++) {
		uint32_t rows = KIT_PICK(k, counts), from = KIT_PICK(k, widths);
		uint32_t to = KIT_PICK(k, widths);
		struct arr x = arr_mat(k, rows, from, kit_below(k, 3), DT_F32);
		struct arr y = arr_mat(k, rows, to, kit_below(k, 3), DT_F32);
		struct arr at = arr_raw(k, to, sizeof(uint32_t));
		int ref;

		kit_case(k, "%u of %u columns, %u rows", to, from, rows);
		arr_random(&x, 1);
		for (uint32_t c = 0; c < to; c++)
			((uint32_t *)at.ref.p)[c] = kit_below(k, from);
		arr_up(&x);
		arr_up(&at);
		ref = be_ref.gather(k->ref, &x.ref, at.ref.p, &y.ref, &k->err);
		if (kit_ran(k, ref, k->api->gather(k->be, &x.dev, at.dev.p,
						   &y.dev, &k->err))) {
			arr_same(&y, "y");
			arr_same(&x, "x");
		}
		arr_free(&x);
		arr_free(&y);
		arr_free(&at);
	}
}

static void test_embed(struct kit *k)
{
	static const enum dtype types[] = { DT_F32, DT_F16, DT_BF16 };

	k->what = "embed";
	for (uint32_t i = 0; i < kit_count(k, 30); i++) {
		uint32_t rows = KIT_PICK(k, counts), cols = KIT_PICK(k, widths);
		struct arr t = arr_mat(k, 50, cols, kit_below(k, 3),
				       types[i % 3]);
		struct arr y = arr_mat(k, rows, cols, kit_below(k, 3), DT_F32);
		uint32_t id[40];
		int ref;

		kit_case(k, "[%u][%u], type %d", rows, cols,
			 (int)types[i % 3]);
		/* also subnormal halves */
		arr_random(&t, i % 2 ? 1 : 1e-7);
		arr_set(&t, 49, 0, (double)INFINITY);
		arr_set(&t, 49, cols - 1, -65504);
		arr_up(&t);
		for (uint32_t r = 0; r < rows; r++)
			id[r] = r ? kit_below(k, 50) : 49;
		ref = be_ref.embed(k->ref, &t.ref, id, &y.ref, &k->err);
		if (kit_ran(k, ref, k->api->embed(k->be, &t.dev, id, &y.dev,
						  &k->err)))
			arr_same(&y, "y");
		arr_free(&t);
		arr_free(&y);
	}
}

/* mag = |ref| of each element, and a little. */
static double *own_mag(const struct arr *a, double floor)
{
	size_t n = (size_t)a->ref.rows * a->ref.cols;
	double *mag = calloc(n + 1, sizeof(*mag));

	for (size_t i = 0; mag && i < n; i++)
		mag[i] = floor + fabs(arr_get(a, (uint32_t)(i / a->ref.cols),
					      (uint32_t)(i % a->ref.cols)));
	return mag;
}

static void test_rmsnorm(struct kit *k)
{
	k->what = "rmsnorm";
	for (uint32_t i = 0; i < kit_count(k, 40); i++) {
		uint32_t rows = KIT_PICK(k, counts), n = KIT_PICK(k, widths);
		uint32_t heads = i % 3 ? 1 : 1 + kit_below(k, 4);
		uint32_t pad = kit_below(k, 3);
		struct arr x = arr_mat(k, rows, n * heads, pad, DT_F32);
		struct arr y = arr_mat(k, rows, n * heads, pad, DT_F32);
		struct arr w = arr_mat(k, 1, n, 0, DT_F32);
		int here = i % 4 == 0, ref;
		double *mag;

		kit_case(k, "[%u][%u x %u]%s", rows, heads, n,
			 here ? " in place" : "");
		arr_random(&x, i % 5 ? 1 : 1e-4);
		arr_random(&w, 1);
		if (here)
			memcpy(y.ref.p, x.ref.p, x.bytes);
		arr_up(&x);
		arr_up(&w);
		arr_up(&y);
		ref = be_ref.rmsnorm(k->ref, here ? &y.ref : &x.ref, &w.ref,
				     1e-5, &y.ref, &k->err);
		mag = own_mag(&y, 1e-30);
		if (kit_ran(k, ref, k->api->rmsnorm(k->be,
						    here ? &y.dev : &x.dev,
						    &w.dev, 1e-5, &y.dev,
						    &k->err)))
			arr_near(&y, "y", mag, 1e-6);
		free(mag);
		arr_free(&x);
		arr_free(&y);
		arr_free(&w);
	}
}

static void test_rope(struct kit *k)
{
	static const uint32_t dims[] = { 2, 4, 6, 16, 32, 64, 80, 128 };

	k->what = "rope";
	for (uint32_t i = 0; i < kit_count(k, 20); i++) {
		uint32_t rows = KIT_PICK(k, counts), dim = KIT_PICK(k, dims);
		uint32_t heads = 1 + kit_below(k, 4);
		struct arr x = arr_mat(k, rows, dim * heads, kit_below(k, 3),
				       DT_F32);
		struct arr c = arr_mat(k, 50, dim / 2, kit_below(k, 3),
				       DT_F32);
		struct arr s = arr_mat(k, 50, dim / 2, c.ref.ld - dim / 2,
				       DT_F32);
		struct be_rope r = { &c.ref, &s.ref, 50 - rows, dim };
		int ref;

		kit_case(k, "[%u][%u x %u]", rows, heads, dim);
		arr_random(&x, 1);
		for (uint32_t t = 0; t < 50; t++)
			for (uint32_t j = 0; j < dim / 2; j++) {
				arr_set(&c, t, j, cos(t + 0.1 * j));
				arr_set(&s, t, j, sin(t + 0.1 * j));
			}
		arr_up(&x);
		arr_up(&c);
		arr_up(&s);
		ref = be_ref.rope(k->ref, &x.ref, &r, &k->err);
		r.cos = &c.dev;
		r.sin = &s.dev;
		if (kit_ran(k, ref, k->api->rope(k->be, &x.dev, &r, &k->err)))
			arr_near(&x, "x", NULL, 3e-7);
		arr_free(&x);
		arr_free(&c);
		arr_free(&s);
	}
}

/* swiglu and add; y may be one of the operands. */
static void test_pairs(struct kit *k)
{
	for (uint32_t i = 0; i < kit_count(k, 48); i++) {
		uint32_t rows = KIT_PICK(k, counts), cols = KIT_PICK(k, widths);
		uint32_t which = i % 4;
		struct arr a = arr_mat(k, rows, cols, kit_below(k, 3), DT_F32);
		struct arr b = arr_mat(k, which == 3 ? 1 : rows, cols,
				       kit_below(k, 3), DT_F32);
		double *mag;
		int ref, dev;

		k->what = which < 2 ? "swiglu" : "add";
		kit_case(k, "[%u][%u] form %u", rows, cols, which);
		arr_random(&a, i % 8 < 4 ? 1 : 30);
		arr_random(&b, 1);
		if (which == 0 && rows > 1)
			arr_set(&a, 0, 0, -200); /* e^200 is beyond f32 */
		arr_up(&a);
		arr_up(&b);
		if (which < 2) {
			struct arr *y = which ? &b : &a;

			ref = be_ref.swiglu(k->ref, &a.ref, &b.ref, &y->ref,
					    &k->err);
			dev = k->api->swiglu(k->be, &a.dev, &b.dev, &y->dev,
					     &k->err);
			mag = own_mag(y, 1e-28);
			if (kit_ran(k, ref, dev))
				arr_near(y, "y", mag, 1e-6);
			free(mag);
		} else {
			ref = be_ref.add(k->ref, &a.ref, &b.ref, &k->err);
			dev = k->api->add(k->be, &a.dev, &b.dev, &k->err);
			if (kit_ran(k, ref, dev))
				arr_same(&a, "x");
		}
		arr_free(&a);
		arr_free(&b);
	}
}

/* heads, kv_heads, head_dim, first, tokens */
static void attend_case(struct kit *k, const uint32_t s[5], double scale)
{
	uint32_t seen = s[3] + s[4];
	struct arr q = arr_mat(k, s[4], s[0] * s[2], kit_below(k, 3), DT_F32);
	struct arr key = arr_mat(k, seen + kit_below(k, 2), s[1] * s[2],
				 kit_below(k, 3), DT_F32);
	struct arr val = arr_mat(k, key.ref.rows, s[1] * s[2], 1, DT_F32);
	struct arr out = arr_mat(k, s[4], s[0] * s[2], kit_below(k, 3),
				 DT_F32);
	struct be_attend a = { &q.ref, &key.ref, &val.ref, &out.ref, s[3],
			       s[0], s[1], s[2],
			       (float)(scale / sqrt(s[2])) };
	int ref;

	kit_case(k, "%u heads over %u of %u, %u tokens from %u", s[0], s[1],
		 s[2], s[4], s[3]);
	arr_random(&q, 1);
	arr_random(&key, 1);
	arr_random(&val, 1);
	arr_up(&q);
	arr_up(&key);
	arr_up(&val);
	memset(out.ref.p, 0xff, out.bytes);
	arr_up(&out);
	ref = be_ref.attend(k->ref, &a, &k->err);
	a.q = &q.dev;
	a.k = &key.dev;
	a.v = &val.dev;
	a.out = &out.dev;
	if (kit_ran(k, ref, k->api->attend(k->be, &a, &k->err))) {
		/* an error of a score is one of its exponent, times scale */
		arr_near(&out, "out", NULL, 3e-6 * (1 + scale));
		arr_same(&q, "q");
		arr_same(&key, "k");
		arr_same(&val, "v");
	}
	arr_free(&q);
	arr_free(&key);
	arr_free(&val);
	arr_free(&out);
}

static void test_attend(struct kit *k)
{
	static const uint32_t heads[][2] = {
		{ 1, 1 }, { 4, 4 }, { 4, 2 }, { 8, 1 }, { 6, 2 }, { 15, 1 },
	};
	static const uint32_t dims[] = { 1, 5, 8, 16, 24, 64, 80, 128 };
	static const uint32_t firsts[] = { 0, 0, 1, 7, 100, 255, 256, 300 };
	static const uint32_t edge[][5] = {
		{ 4, 2, 16, 1023, 1 }, { 4, 2, 16, 1024, 1 },
		{ 4, 4, 32, 2500, 1 }, { 2, 1, 8, 1020, 9 },
		{ 2, 2, 8, 0, 200 }, { 80, 1, 4, 3, 3 }, { 3, 3, 16, 990, 70 },
		{ 1, 1, 8, 3, 0 }, { 4, 2, 256, 300, 3 }, { 2, 2, 256, 0, 20 },
		{ 2, 1, 512, 100, 2 }, { 4, 2, 96, 40, 70 },
	};

	k->what = "attend";
	for (uint32_t i = 0; i < kit_count(k, 50); i++) {
		const uint32_t *h = KIT_PICK(k, heads);
		uint32_t s[5] = { h[0], h[1], KIT_PICK(k, dims),
				  KIT_PICK(k, firsts), KIT_PICK(k, counts) };

		/* now and then scores that leave one weight standing */
		attend_case(k, s, i % 7 ? 1 : 30);
	}
	for (uint32_t i = 0; i < sizeof(edge) / sizeof(edge[0]); i++)
		attend_case(k, edge[i], 1);
}

void kit_rows(struct kit *k)
{
	test_gather(k);
	test_embed(k);
	test_rmsnorm(k);
	test_rope(k);
	test_pairs(k);
	test_attend(k);
}
