/* Rotary tables: every scaling rule against numbers that tests/ref/rope.py
 * worked out from the formulas of transformers' modeling_rope_utils. */
#include "../../libfmt/base/err.h"
#include "../../runtime/block.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define POINTS 7

struct rule {
	const char *name;
	uint32_t positions;
	struct llama_config c;
	double freq[POINTS]; /* at the indices of point() */
	double factor, cos, sin; /* the latter of position 1000, point 3 */
};

static const struct rule rules[] = {
	{ "plain", 1500,
		{ .head_dim = 128, .max_pos = 2048, .rope = {
		  .kind = LLAMA_ROPE_PLAIN, .theta = 10000.0 } },
		{ 1, 0.10000000000000001, 0.027384196342643611, 0.01,
		0.0042169650342858229, 0.001, 0.00011547819846894582 },
		1, -0.839071529, -0.544021111 },
	{ "plain, head of 80", 1500,
		{ .head_dim = 80, .max_pos = 2048, .rope = {
		  .kind = LLAMA_ROPE_PLAIN, .theta = 1000000.0 } },
		{ 1, 0.031622776601683791, 0.0039810717055349717, 0.001,
		0.00025118864315095806, 3.1622776601683795e-05,
		1.4125375446227548e-06 },
		1, 0.540302306, 0.841470985 },
	{ "linear", 1500,
		{ .head_dim = 128, .max_pos = 2048, .rope = {
		  .kind = LLAMA_ROPE_LINEAR, .theta = 10000.0, .factor = 4 } },
		{ 0.25, 0.025000000000000001, 0.0068460490856609027,
		0.0025000000000000001, 0.0010542412585714557,
		0.00025000000000000001, 2.8869549617236455e-05 },
		1, -0.801143616, 0.598472144 },
	{ "dynamic, short", 2048,
		{ .head_dim = 128, .max_pos = 2048, .rope = {
		  .kind = LLAMA_ROPE_DYNAMIC, .theta = 10000.0, .factor = 2 } },
		{ 1, 0.10000000000000001, 0.027384196342643611, 0.01,
		0.0042169650342858229, 0.001, 0.00011547819846894582 },
		1, -0.839071529, -0.544021111 },
	{ "dynamic, long", 6000,
		{ .head_dim = 128, .max_pos = 2048, .rope = {
		  .kind = LLAMA_ROPE_DYNAMIC, .theta = 10000.0, .factor = 2 } },
		{ 1, 0.066931471135491874, 0.014623369518852042,
		0.004479821828361181, 0.0016250702156325281,
		0.00029984106539710279, 2.3764002257275026e-05 },
		1, -0.230476319, -0.973077934 },
	{ "llama3", 1500,
		{ .head_dim = 128, .max_pos = 8192, .rope = {
		  .kind = LLAMA_ROPE_LLAMA3, .theta = 500000.0, .factor = 8,
		  .low_freq = 1, .high_freq = 4, .original_max_pos = 8192 } },
		{ 1, 0.037606030930863933, 0.0059407303756749668,
		0.00052484616099295468, 5.1659068748189563e-05,
		6.6478698711812362e-06, 3.0689259889145111e-07 },
		1, 0.865401037, 0.501079878 },
	{ "llama3 of the 1B", 1500,
		{ .head_dim = 64, .max_pos = 8192, .rope = {
		  .kind = LLAMA_ROPE_LLAMA3, .theta = 500000.0,
		  .factor = 32, .low_freq = 1, .high_freq = 4,
		  .original_max_pos = 8192 } },
		{ 1, 0.037606030930863933, 0.0072926647372171085,
		0.00042955679655936815, 1.2914767187047391e-05,
		1.6619674677953091e-06, 9.4183067254349087e-08 },
		1, 0.909150419, 0.416467905 },
	{ "yarn", 1500,
		{ .head_dim = 128, .max_pos = 32768, .rope = {
		  .kind = LLAMA_ROPE_YARN, .theta = 1000000.0, .factor = 4,
		  .beta_fast = 32, .beta_slow = 1, .truncate = true,
		  .original_max_pos = 32768 } },
		{ 1, 0.031622776601683791, 0.0041317380225183937,
		0.00060294117647058821, 9.2623017041294588e-05,
		7.9056941504209488e-06, 3.1023444018792988e-07 },
		1.1386294361119891, 0.937856427, 0.645679731 },
	{ "yarn, exact ramp", 1500,
		{ .head_dim = 64, .max_pos = 4096, .rope = {
		  .kind = LLAMA_ROPE_YARN, .theta = 150000.0, .factor = 32,
		  .beta_fast = 32, .beta_slow = 1, .truncate = false,
		  .original_max_pos = 4096 } },
		{ 1, 0.050813274815461475, 0.0067949594897322189,
		0.00045648391922324086, 2.6396469031472782e-05,
		4.0999784818029795e-06, 3.0235114281192144e-07 },
		1.3465735902799727, 1.208695110, 0.593562604 },
	{ "yarn, given factor", 1500,
		{ .head_dim = 128, .max_pos = 4096, .rope = {
		  .kind = LLAMA_ROPE_YARN, .theta = 10000.0, .factor = 16,
		  .beta_fast = 24, .beta_slow = 2, .truncate = true,
		  .attention_factor = 1.25, .original_max_pos = 4096 } },
		{ 1, 0.10000000000000001, 0.023330614647186498,
		0.005065789473684211, 0.00088778211248122609,
		6.2500000000000001e-05, 7.2173874043091138e-06 },
		1.25, 0.432612687, -1.172751578 },
	{ "yarn, two mscales", 1500,
		{ .head_dim = 64, .max_pos = 4096, .rope = {
		  .kind = LLAMA_ROPE_YARN, .theta = 10000.0, .factor = 40,
		  .beta_fast = 32, .beta_slow = 1, .truncate = true,
		  .mscale = 1, .mscale_all_dim = 0.707,
		  .original_max_pos = 4096 } },
		{ 1, 0.10000000000000001, 0.026879360111431223,
		0.0054999999999999997, 0.0013705136361428923,
		2.5000000000000001e-05, 3.3338035804083097e-06 },
		1.0857263992561355, 0.769421482, -0.766023757 },
	{ "yarn, no width", 1500,
		{ .head_dim = 8, .max_pos = 16, .rope = {
		  .kind = LLAMA_ROPE_YARN, .theta = 10.0, .factor = 2,
		  .beta_fast = 10, .beta_slow = 2.8, .truncate = true,
		  .original_max_pos = 16 } },
		{ 1, 0.28117066259517454, 0.28117066259517454,
		0.15811388300841897, 0.15811388300841897,
		0.088913970501946132, 0.088913970501946132 },
		1.0693147180559945, 0.546602035, 0.919053960 },
};

#define RULES (sizeof(rules) / sizeof(rules[0]))

static uint32_t point(const struct rule *r, int i)
{
	uint32_t n = r->c.head_dim / 2;
	const uint32_t at[POINTS] = { 0, n / 4, n * 2 / 5, n / 2, n * 3 / 5,
				      n * 3 / 4, n - 1 };

	return at[i];
}

static void test_frequencies(void **state)
{
	(void)state;
	for (size_t k = 0; k < RULES; k++) {
		const struct rule *r = &rules[k];

		for (int i = 0; i < POINTS; i++) {
			double f = rt_rope_freq(&r->c, r->positions,
						point(r, i));

			if (!(fabs(f / r->freq[i] - 1) < 1e-13))
				fail_msg("%s: index %u: %.17g, expected %.17g",
					 r->name, point(r, i), f, r->freq[i]);
		}
		assert_true(fabs(rt_rope_factor(&r->c) / r->factor - 1) <
			    1e-14);
	}
}

/* The tables are what the frequencies say, row by row; rows 255, 256 and the
 * last one lie at the edges of what is filled at a time. */
static void check_table(const struct rule *r, const struct rt_rope *t)
{
	const uint32_t rows[] = { 0, 1, 255, 256, 1000, r->positions - 1 };
	const float *c = t->cos.p, *s = t->sin.p;
	uint32_t half = r->c.head_dim / 2, mid = half / 2;

	assert_int_equal(t->cos.rows, r->positions);
	assert_int_equal(t->sin.rows, r->positions);
	assert_int_equal(t->cos.cols, half);
	assert_int_equal(t->sin.cols, half);
	for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
		for (uint32_t i = 0; i < half; i++) {
			double a = rows[k] * rt_rope_freq(&r->c, r->positions,
							  i);
			size_t at = (size_t)rows[k] * half + i;

			assert_true(fabs(c[at] - r->factor * cos(a)) < 1e-6);
			assert_true(fabs(s[at] - r->factor * sin(a)) < 1e-6);
		}
	}
	assert_true(fabs(c[(size_t)1000 * half + mid] - r->cos) < 1e-6);
	assert_true(fabs(s[(size_t)1000 * half + mid] - r->sin) < 1e-6);
}

static void test_tables(void **state)
{
	const struct be_open how = { .threads = 1, .device = -1 };
	struct rt_dev d = { .api = &be_ref };
	struct rt_rope t;
	struct err err;

	(void)state;
	assert_int_equal(be_ref.open(&how, &d.be, &err), 0);
	for (size_t k = 0; k < RULES; k++) {
		assert_int_equal(rt_rope_init(&t, &d, &rules[k].c,
					      rules[k].positions, &err), 0);
		check_table(&rules[k], &t);
		rt_rope_release(&t, &d);
	}
	be_ref.close(d.be);
}

/* Dynamic scaling leaves the base alone up to the trained length. */
static void test_dynamic_begins_behind_the_trained_length(void **state)
{
	struct llama_config c = { .head_dim = 64, .max_pos = 512 };
	double before, after;

	(void)state;
	c.rope.kind = LLAMA_ROPE_DYNAMIC;
	c.rope.theta = 10000;
	c.rope.factor = 4;
	before = rt_rope_freq(&c, 512, 20);
	after = rt_rope_freq(&c, 513, 20);
	assert_true(fabs(before / pow(10000, -40.0 / 64) - 1) < 1e-14);
	assert_true(after < before * (1 - 1e-4));
	/* index 0 turns by one radian whatever the base */
	assert_true(fabs(rt_rope_freq(&c, 4096, 0) - 1) < 1e-15);
}

static void test_odd_heads_are_refused(void **state)
{
	const struct be_open how = { .threads = 1, .device = -1 };
	struct llama_config c = { .head_dim = 63, .max_pos = 512 };
	struct rt_dev d = { .api = &be_ref };
	struct rt_rope t;
	struct err err;

	(void)state;
	c.rope.theta = 10000;
	assert_int_equal(be_ref.open(&how, &d.be, &err), 0);
	assert_int_equal(rt_rope_init(&t, &d, &c, 16, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	assert_null(t.cos.p);
	be_ref.close(d.be);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_frequencies),
		cmocka_unit_test(test_tables),
		cmocka_unit_test(test_dynamic_begins_behind_the_trained_length),
		cmocka_unit_test(test_odd_heads_are_refused),
	};

	return cmocka_run_group_tests_name("rope", tests, NULL, NULL);
}
