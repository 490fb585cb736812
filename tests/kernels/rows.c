/* rows.c - operations row by row, against the reference. */
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

/* Logits of one row, with what is odd among them. */
static void topk_row(struct kit *k, struct arr *x, uint32_t r, int coarse)
{
	const uint32_t n = x->ref.cols;

	for (uint32_t i = 0; i < n; i++) {
		if (coarse)
			arr_set(x, r, i, rint(arr_get(x, r, i)));
		if (kit_below(k, 40) == 0)
			arr_set(x, r, i, kit_below(k, 2) ? NAN : -INFINITY);
		if (kit_below(k, 40) == 0)
			arr_set(x, r, i, -0.0);
	}
	if (n % 5 == 1)
		arr_set(x, r, n / 2, INFINITY);
}

/* What is compared is bytes: values and ids. */
static void topk_same(struct kit *k, const struct be_top *want,
		      const struct be_top *got, uint32_t row, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (want[i].id != got[i].id || want[i].value != got[i].value) {
			kit_fail(k, "row %u, place %u: id %u of %g, expected "
				 "%u of %g", row, i, got[i].id, got[i].value,
				 want[i].id, want[i].value);
			return;
		}
}

#define TOP_ROWS 70

/* Row i is asked for as many as are there beyond i, every other row with
 * penalties.  s: vocabulary, best, recent, rows. */
static void topk_case(struct kit *k, const uint32_t s[4], int coarse)
{
	static struct be_top want[TOP_ROWS][BE_TOP_MAX];
	static struct be_top got[TOP_ROWS][BE_TOP_MAX];
	struct arr x = arr_mat(k, s[3], s[0], 3, DT_F32);
	struct be_topk ref[TOP_ROWS], dev[TOP_ROWS];
	uint32_t recent[BE_TOP_MAX];
	int ret;

	kit_case(k, "%u rows, %u of %u, %u recent, %s values", s[3], s[1],
		 s[0], s[2], coarse ? "few" : "many");
	/* distinct ids: a step that no size here shares a factor with */
	for (uint32_t i = 0; i < s[2]; i++)
		recent[i] = (uint32_t)((uint64_t)i * 7919 % s[0]);
	arr_random(&x, 3);
	for (uint32_t r = 0; r < s[3]; r++) {
		topk_row(k, &x, r, coarse);
		ref[r] = (struct be_topk){
			.x = be_rows(&x.ref, r, 1), .best = want[r],
			.recent = recent, .recents = r % 2 ? 0 : s[2],
			.k = s[1] - r % s[1], .penalty = s[2] % 2 ? 1.3 : 0.7,
			.temp = coarse ? 1 : 0.8,
		};
		dev[r] = ref[r];
		dev[r].x = be_rows(&x.dev, r, 1);
		dev[r].best = got[r];
	}
	arr_up(&x);
	memset(want, 0, sizeof(want));
	memset(got, 0, sizeof(got));
	ret = be_ref.topk(k->ref, ref, s[3], &k->err);
	if (kit_ran(k, ret, k->api->topk(k->be, dev, s[3], &k->err)))
		for (uint32_t r = 0; r < s[3]; r++)
			topk_same(k, want[r], got[r], r, ref[r].k);
	arr_free(&x);
}

static void test_topk(struct kit *k)
{
	static const uint32_t sizes[] = { 64, 65, 100, 500, 2048, 4099, 32000,
					  50001, 128256 };
	static const uint32_t best[] = { 1, 2, 20, 33, 40, 63, 64 };
	static const uint32_t penalized[] = { 0, 0, 1, 33, 64 };
	static const uint32_t edge[][4] = {
		{ 1, 1, 0, 1 }, { 3, 3, 1, 1 }, { 262144, 64, 64, 1 },
		{ 31, 7, 5, 1 }, { 100, 64, 64, TOP_ROWS },
		{ 1500, 1, 0, 33 }, { 2049, 40, 9, 32 },
	};

	k->what = "topk";
	for (uint32_t i = 0; i < kit_count(k, 40); i++) {
		const uint32_t s[] = { KIT_PICK(k, sizes), KIT_PICK(k, best),
				       KIT_PICK(k, penalized),
				       i % 4 ? 1 : 1 + kit_below(k, 4) };

		topk_case(k, s, i % 3 == 0);
	}
	for (uint32_t i = 0; i < sizeof(edge) / sizeof(edge[0]); i++)
		topk_case(k, edge[i], i % 2);
}

/* ---- behind a norm or a gate ----
 *
 * A device may keep their results in the form its linears take: the product is
 * then that of the same numbers come from elsewhere, to the bit. */

static void fed_run(struct kit *k, const struct be_qw *w, struct arr a[4],
		    int gate)
{
	struct arr *x = &a[0], *y = &a[1], *from = &a[2], *other = &a[3];
	int ret = gate ? k->api->swiglu(k->be, &x->dev, &other->dev, &from->dev,
					&k->err)
		       : k->api->rmsnorm(k->be, &x->dev, &other->dev, 1e-5,
					 &from->dev, &k->err);

	if (!kit_ran(k, 0, ret) ||
	    !kit_ran(k, 0, k->api->qgemm(k->be, &from->dev, w, &y->dev,
					 &k->err)))
		return;
	arr_down(y);
	memcpy(y->ref.p, y->got, y->bytes);
	arr_down(from);
	memcpy(from->ref.p, from->got, from->bytes);
	arr_up(from);
	if (kit_ran(k, 0, k->api->qgemm(k->be, &from->dev, w, &y->dev,
					&k->err)))
		arr_same(y, "y");
}

static void test_fed(struct kit *k)
{
	static const uint32_t ms[] = { 1, 2, 4, 5, 8, 9, 16, 40, 70 };
	static const uint32_t ins[] = { 64, 128, 384, 1024, 2048, 4096 };

	k->what = "fed qgemm";
	for (uint32_t i = 0; i < kit_count(k, 48); i++) {
		struct qcase q = {
			.out = 1 + kit_below(k, 70), .in = KIT_PICK(k, ins),
			.group_size = i % 3 ? 64 : 32, .bits = 4,
			.order = (uint8_t)(i % 2), .scale_type = DT_F16,
		};
		uint32_t m = KIT_PICK(k, ms), gate = i / 2 % 2;
		struct arr a[4] = {
			arr_mat(k, m, q.in, 0, DT_F32),
			arr_mat(k, m, q.out, 0, DT_F32),
			arr_mat(k, m, q.in, i / 4 % 2, DT_F32),
			arr_mat(k, gate ? m : 1, q.in, 0, DT_F32),
		};
		struct be_qw *w = NULL;
		struct ql ql;

		kit_case(k, "%u x [%u][%u] behind a %s", m, q.out, q.in,
			 gate ? "gate" : "norm");
		for (int j = 0; j < 4; j++) {
			arr_random(&a[j], 1);
			arr_up(&a[j]);
		}
		if (kit_ql(k, &ql, &q) ||
		    k->api->qw_new(k->be, &ql, &w, &k->err))
			kit_fail(k, "%s", k->err.msg);
		else
			fed_run(k, w, a, (int)gate);
		k->api->qw_free(k->be, w);
		ql_release(&ql);
		for (int j = 0; j < 4; j++)
			arr_free(&a[j]);
	}
}

void kit_rows(struct kit *k)
{
	test_topk(k);
	test_gather(k);
	test_embed(k);
	test_rmsnorm(k);
	test_fed(k);
	test_pairs(k);
}
