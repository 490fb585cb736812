/* The sampler: greedy, limits, penalty and the draw, against a second one
 * (tests/ref/sample.py) and against what the limits mean. */
#include "../../kernels/backend.h"
#include "../../libfmt/base/err.h"
#include "../../runtime/sample.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define VOCAB 97
#define STEPS 100

static struct sampler *new_sampler(const struct sample_params *p,
				   uint32_t vocab)
{
	struct sampler *s;
	struct err err;

	assert_int_equal(rt_sampler_new(p, vocab, &s, &err), 0);
	return s;
}

/* The logits of tests/ref/sample.py: multiples of 1/16 in [-4, 4). */
static void next_logits(uint32_t *x, float row[VOCAB])
{
	for (int i = 0; i < VOCAB; i++) {
		*x = (*x * 1103515245u + 12345u) % (1u << 31);
		row[i] = (float)((*x >> 16) % 128) / 16 - 4;
	}
}

/* Printed by tests/ref/sample.py. */
static const struct {
	const char *name;
	/* temp, top_k, top_p, min_p, repeat_penalty, seed */
	struct sample_params p;
	uint8_t id[STEPS];
} cases[] = {
	{ "greedy", { 0, 0, 1, 0, 1, 0 },
		{ 20, 65, 55, 42, 39, 13, 49, 72, 13, 34, 67, 23, 36, 9, 7,
		  76, 62, 1, 42, 49, 2, 29, 40, 17, 45, 86, 32, 12, 45, 14,
		  84, 11, 55, 8, 21, 35, 54, 54, 9, 32, 35, 9, 5, 54, 9, 11,
		  35, 25, 18, 51, 7, 27, 46, 20, 50, 82, 22, 21, 42, 58, 49,
		  6, 29, 29, 58, 11, 27, 51, 56, 73, 36, 77, 17, 61, 93, 45,
		  12, 95, 52, 42, 60, 1, 63, 94, 59, 53, 86, 0, 2, 34, 43, 59,
		  93, 19, 51, 8, 31, 23, 45, 51 } },
	{ "plain draw", { 1, 0, 1, 0, 1, 0 },
		{ 15, 96, 75, 52, 48, 49, 60, 59, 58, 88, 58, 23, 59, 89, 12,
		  47, 50, 44, 18, 49, 16, 13, 23, 13, 1, 38, 52, 14, 62, 84,
		  12, 7, 28, 27, 76, 16, 78, 17, 6, 33, 31, 47, 5, 61, 74, 76,
		  74, 28, 57, 49, 37, 51, 77, 25, 46, 82, 27, 19, 91, 54, 33,
		  93, 67, 29, 4, 82, 69, 94, 58, 71, 36, 35, 3, 84, 74, 25,
		  96, 88, 59, 6, 60, 1, 3, 86, 89, 30, 88, 25, 20, 48, 48, 2,
		  81, 79, 89, 9, 86, 70, 92, 6 } },
	{ "top-k", { 0.7, 5, 1, 0, 1, 7 },
		{ 63, 72, 41, 30, 80, 40, 49, 72, 4, 34, 19, 26, 0, 13, 40,
		  77, 62, 95, 42, 49, 2, 32, 28, 35, 24, 86, 32, 19, 45, 5,
		  84, 11, 24, 87, 87, 76, 27, 17, 15, 79, 16, 9, 24, 54, 39,
		  11, 21, 6, 63, 70, 63, 35, 46, 51, 37, 86, 22, 15, 94, 50,
		  49, 14, 35, 47, 68, 35, 28, 87, 95, 89, 36, 83, 17, 5, 3,
		  80, 55, 25, 71, 42, 60, 1, 77, 26, 68, 51, 90, 0, 35, 34,
		  76, 59, 93, 27, 49, 32, 31, 10, 96, 88 } },
	{ "top-p", { 1.5, 0, 0.8, 0, 1, 7 },
		{ 77, 42, 82, 66, 30, 74, 54, 42, 40, 14, 11, 34, 20, 73, 12,
		  8, 15, 49, 20, 85, 92, 89, 78, 39, 47, 89, 32, 50, 40, 22,
		  12, 78, 8, 74, 84, 82, 80, 40, 49, 70, 28, 48, 2, 32, 91,
		  11, 9, 78, 71, 2, 37, 48, 8, 58, 61, 60, 29, 19, 25, 85, 69,
		  15, 76, 8, 67, 3, 48, 55, 46, 93, 69, 22, 9, 44, 58, 8, 47,
		  94, 95, 79, 60, 1, 2, 70, 2, 74, 85, 62, 15, 15, 20, 54, 48,
		  64, 72, 17, 31, 36, 53, 92 } },
	{ "min-p", { 1.5, 0, 1, 0.1, 1, 7 },
		{ 2, 4, 22, 37, 46, 50, 54, 42, 14, 14, 61, 1, 67, 88, 78, 46,
		  15, 64, 20, 85, 92, 95, 31, 88, 64, 89, 53, 74, 40, 69, 12,
		  78, 77, 55, 61, 8, 96, 96, 73, 93, 62, 18, 88, 32, 22, 11,
		  89, 79, 56, 60, 71, 91, 12, 56, 19, 40, 29, 52, 21, 37, 22,
		  86, 30, 46, 1, 83, 74, 7, 80, 27, 69, 92, 9, 45, 95, 27, 74,
		  83, 95, 58, 60, 1, 54, 86, 88, 55, 49, 62, 27, 55, 37, 54,
		  81, 18, 33, 80, 86, 25, 92, 19 } },
	{ "all", { 1.2, 40, 0.9, 0.05, 1.3, 1ull << 60 },
		{ 61, 72, 7, 39, 89, 42, 60, 4, 64, 75, 67, 4, 27, 71, 91, 34,
		  66, 51, 22, 19, 47, 44, 23, 65, 55, 81, 33, 17, 35, 14, 67,
		  71, 55, 8, 68, 37, 89, 20, 40, 56, 38, 81, 2, 32, 22, 11,
		  93, 86, 42, 7, 54, 27, 8, 66, 15, 1, 27, 75, 75, 6, 2, 15,
		  53, 87, 30, 9, 78, 9, 2, 83, 26, 54, 96, 24, 74, 57, 93, 71,
		  8, 79, 7, 35, 79, 85, 82, 60, 73, 74, 68, 96, 54, 72, 58,
		  19, 81, 25, 21, 31, 64, 6 } },
	{ "penalty", { 0, 0, 1, 0, 4, 0 },
		{ 20, 65, 55, 42, 39, 13, 49, 72, 4, 34, 67, 23, 36, 9, 7, 76,
		  62, 1, 74, 85, 2, 29, 40, 17, 45, 86, 32, 12, 96, 14, 84,
		  11, 95, 8, 21, 35, 54, 69, 6, 26, 60, 41, 5, 61, 94, 52, 22,
		  25, 18, 51, 24, 27, 46, 31, 50, 82, 48, 71, 91, 58, 44, 68,
		  64, 33, 92, 53, 10, 87, 56, 73, 88, 77, 0, 19, 93, 90, 38,
		  39, 70, 42, 23, 47, 63, 1, 59, 85, 36, 62, 2, 34, 43, 17,
		  15, 9, 49, 32, 86, 45, 96, 74 } },
};

static void test_same_tokens_as_the_second_sampler(void **state)
{
	(void)state;
	for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
		struct sampler *s = new_sampler(&cases[c].p, VOCAB);
		uint32_t x = 12345, id;
		float row[VOCAB], copy[VOCAB];

		for (int i = 0; i < STEPS; i++) {
			next_logits(&x, row);
			memcpy(copy, row, sizeof(row));
			id = rt_sampler_next(s, row);
			assert_memory_equal(copy, row, sizeof(row));
			if (id != cases[c].id[i])
				fail_msg("%s: token %d is %u, expected %u",
					 cases[c].name, i, id, cases[c].id[i]);
			rt_sampler_accept(s, id);
		}
		rt_sampler_free(s);
	}
}

/* Draws follow the distribution: chi squared of 4 degrees of freedom stays
 * below 30 (a fair sampler exceeds it once in 200 000 seeds). */
static void test_draws_follow_the_weights(void **state)
{
	const double p[5] = { 0.4, 0.3, 0.15, 0.1, 0.05 };
	const struct sample_params how = { .temp = 2, .top_p = 1,
					   .repeat_penalty = 1, .seed = 3 };
	struct sampler *s = new_sampler(&how, 5);
	float row[5];
	int count[5] = { 0 };
	double chi = 0;
	const int n = 20000;

	(void)state;
	for (int i = 0; i < 5; i++)
		row[i] = (float)(2 * log(p[i])) + 50;
	for (int i = 0; i < n; i++)
		count[rt_sampler_next(s, row)]++;
	for (int i = 0; i < 5; i++)
		chi += pow(count[i] - n * p[i], 2) / (n * p[i]);
	assert_true(chi < 30);
	rt_sampler_free(s);
}

/* Which tokens ever come out, as a bit set. */
static unsigned seen(struct sample_params p, const float row[8])
{
	struct sampler *s;
	unsigned set = 0;

	p.repeat_penalty = p.repeat_penalty > 0 ? p.repeat_penalty : 1;
	p.top_p = p.top_p > 0 ? p.top_p : 1;
	p.temp = 1;
	s = new_sampler(&p, 8);
	for (int i = 0; i < 4000; i++)
		set |= 1u << rt_sampler_next(s, row);
	rt_sampler_free(s);
	return set;
}

static void test_limits_keep_what_they_say(void **state)
{
	/* shares 0.4, 0.2, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.0125 of ids
	 * 7, 1, 3, 0, 2, 4, 5, 6 */
	static const float share[8] = { 0.1f, 0.2f, 0.05f, 0.2f, 0.025f,
					0.0125f, 0.0125f, 0.4f };
	float row[8];

	(void)state;
	for (int i = 0; i < 8; i++)
		row[i] = logf(share[i]);
	assert_int_equal(seen((struct sample_params){ 0 }, row), 0xff);
	assert_int_equal(seen((struct sample_params){ .top_k = 1 }, row),
			 1 << 7);
	/* of equals the lower id stays */
	assert_int_equal(seen((struct sample_params){ .top_k = 2 }, row),
			 1 << 7 | 1 << 1);
	assert_int_equal(seen((struct sample_params){ .top_k = 100 }, row),
			 0xff);
	/* the prefix that reaches the share: 0.4 + 0.2 < 0.75 <= 0.8 */
	assert_int_equal(seen((struct sample_params){ .top_p = 0.75 }, row),
			 1 << 7 | 1 << 1 | 1 << 3);
	assert_int_equal(seen((struct sample_params){ .top_p = 1e-9 }, row),
			 1 << 7);
	/* shares are those of what top-k left: 0.4 / 0.6 < 0.7 */
	assert_int_equal(seen((struct sample_params){ .top_k = 2,
						      .top_p = 0.6 }, row),
			 1 << 7);
	/* at least 0.2 times the best one: 0.08 */
	assert_int_equal(seen((struct sample_params){ .min_p = 0.2 }, row),
			 1 << 7 | 1 << 1 | 1 << 3 | 1 << 0);
	assert_int_equal(seen((struct sample_params){ .min_p = 1 }, row),
			 1 << 7);
}

static void test_equal_logits_give_the_lowest_id(void **state)
{
	const struct sample_params how = { .top_p = 1, .repeat_penalty = 1 };
	struct sampler *s = new_sampler(&how, 4);
	const float equal[4] = { -1, 3, 3, 2 };
	const float odd[4] = { NAN, -INFINITY, -5, NAN };
	const float high[4] = { 1, INFINITY, 2, INFINITY };

	(void)state;
	assert_int_equal(rt_sampler_next(s, equal), 1);
	assert_int_equal(rt_sampler_next(s, odd), 2);
	assert_int_equal(rt_sampler_next(s, high), 1);
	rt_sampler_free(s);
}

static void test_strange_logits_do_not_derail_a_draw(void **state)
{
	const struct sample_params how = { .temp = 1, .top_p = 0.9,
					   .repeat_penalty = 1 };
	struct sampler *s = new_sampler(&how, 4);
	const float odd[4] = { NAN, -INFINITY, -5, NAN };
	const float high[4] = { 1, INFINITY, 2, INFINITY };
	const float none[4] = { NAN, NAN, NAN, NAN };

	(void)state;
	for (int i = 0; i < 50; i++) {
		assert_int_equal(rt_sampler_next(s, odd), 2);
		assert_int_equal(rt_sampler_next(s, high), 1);
		assert_true(rt_sampler_next(s, none) < 4);
	}
	rt_sampler_free(s);
}

/* 64 tokens back and no further, each once; negative logits are multiplied. */
static void test_penalty_looks_back_64_tokens(void **state)
{
	const struct sample_params how = { .top_p = 1, .repeat_penalty = 2 };
	struct sampler *s = new_sampler(&how, 4);
	const float up[4] = { 5, 4, 2.4f, 0 }, down[4] = { -1, -1.5f, -3, -9 };
	const float far[4] = { 5, 4, 3, 0 };

	(void)state;
	assert_int_equal(rt_sampler_next(s, up), 0);
	rt_sampler_accept(s, 0);
	assert_int_equal(rt_sampler_next(s, up), 1);   /* 2.5 4 2.4 */
	assert_int_equal(rt_sampler_next(s, down), 1); /* -2 -1.5 */
	rt_sampler_accept(s, 0);
	rt_sampler_accept(s, 1);
	assert_int_equal(rt_sampler_next(s, up), 0);   /* 2.5 2 2.4: once */
	for (int i = 0; i < 61; i++)
		rt_sampler_accept(s, 3);
	assert_int_equal(rt_sampler_next(s, down), 0); /* -2 -3 -3 */
	assert_int_equal(rt_sampler_next(s, far), 2);  /* 2.5 2 3 */
	rt_sampler_accept(s, 3); /* the older of two is out */
	assert_int_equal(rt_sampler_next(s, far), 2);  /* 2.5 2 3 */
	rt_sampler_accept(s, 3); /* token 1 is the last of 64 */
	assert_int_equal(rt_sampler_next(s, far), 0);  /* 5 2 3 */
	rt_sampler_accept(s, 1000); /* an id of another vocabulary */
	rt_sampler_free(s);
}

/* A sampler that sees whole rows beside one that sees the best of them. */
static void choose_beside(const struct sample_params *how, unsigned *asked)
{
	struct sampler *a = new_sampler(how, VOCAB);
	struct sampler *b = new_sampler(how, VOCAB);
	struct be_top best[BE_TOP_MAX];
	uint32_t x = 4711, got, want;
	float row[VOCAB];
	struct be_mat m = { row, 1, VOCAB, VOCAB, DT_F32 };
	const struct be_open one = { .threads = 1, .device = -1 };
	struct be *be;
	struct err err;

	assert_int_equal(be_cpu.open(&one, &be, &err), 0);
	for (int i = 0; i < 400; i++) {
		struct be_topk t = { .k = 0 };

		next_logits(&x, row);
		if (i % 50 == 49)
			row[i % VOCAB] = i % 100 == 99 ? NAN : INFINITY;
		for (int k = 0; i % 10 == 3 && k < VOCAB; k++)
			row[k] = k % 3 ? -2 : NAN; /* ties */
		want = got = rt_sampler_next(a, row);
		if (rt_sampler_ask(b, &t)) {
			t.x = m;
			t.best = best;
			assert_int_equal(be_cpu.topk(be, &t, 1, &err), 0);
			got = rt_sampler_pick(b, best, t.k);
			++*asked;
		} else {
			got = rt_sampler_next(b, row);
		}
		if (got != want)
			fail_msg("temp %g, top-k %u, top-p %g, penalty %g: "
				 "step %d is %u, expected %u", how->temp,
				 how->top_k, how->top_p, how->repeat_penalty,
				 i, got, want);
		rt_sampler_accept(a, want);
		rt_sampler_accept(b, want);
	}
	be_cpu.close(be);
	rt_sampler_free(a);
	rt_sampler_free(b);
}

static void test_the_best_logits_are_enough(void **state)
{
	static const double temps[] = { 0, 0.7, 1, 1e-3 };
	static const uint32_t ks[] = { 0, 1, 5, 40, 64, 65, VOCAB, 200 };
	static const double penalties[] = { 1, 1.3, 0.8 };
	unsigned asked = 0;

	(void)state;
	for (int t = 0; t < 4; t++)
		for (int k = 0; k < 8; k++)
			for (int p = 0; p < 3; p++) {
				struct sample_params how = {
					temps[t], ks[k], k % 2 ? 0.9 : 1,
					k % 3 ? 0 : 0.02, penalties[p], 17
				};

				choose_beside(&how, &asked);
			}
	/* greedy always, else with 1 to 64 */
	assert_int_equal(asked, 400 * 3 * (8 + 3 * 4));
}

static void test_parameters_out_of_range_are_refused(void **state)
{
	static const struct sample_params bad[] = {
		{ -1, 0, 1, 0, 1, 0 }, { NAN, 0, 1, 0, 1, 0 },
		{ INFINITY, 0, 1, 0, 1, 0 }, { 1, 0, 0, 0, 1, 0 },
		{ 1, 0, 1.5, 0, 1, 0 }, { 1, 0, NAN, 0, 1, 0 },
		{ 1, 0, 1, -0.5, 1, 0 }, { 1, 0, 1, 1.5, 1, 0 },
		{ 1, 0, 1, 0, 0, 0 }, { 1, 0, 1, 0, -2, 0 },
		{ 1, 0, 1, 0, NAN, 0 },
	};
	struct sampler *s;
	struct err err;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(rt_sampler_new(&bad[i], 4, &s, &err), -1);
		assert_int_equal(err.code, ERR_USAGE);
		assert_null(s);
	}
	rt_sampler_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_tokens_as_the_second_sampler),
		cmocka_unit_test(test_draws_follow_the_weights),
		cmocka_unit_test(test_limits_keep_what_they_say),
		cmocka_unit_test(test_equal_logits_give_the_lowest_id),
		cmocka_unit_test(test_strange_logits_do_not_derail_a_draw),
		cmocka_unit_test(test_penalty_looks_back_64_tokens),
		cmocka_unit_test(test_the_best_logits_are_enough),
		cmocka_unit_test(test_parameters_out_of_range_are_refused),
	};

	return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
