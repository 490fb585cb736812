/* Statistics against sums over the dequantized weights, one by one. */
#include "../../libfmt/stats.h"
#include "../../libfmt/base/mem.h"
#include "ckpt.h"
#include "made.h"

#include <math.h>

static void near(double a, double b)
{
	if (!(fabs(a - b) <= 1e-9 * (fabs(a) + fabs(b)) + 1e-300))
		fail_msg("%.17g is not %.17g", a, b);
}

static void look(const struct ql *ql, struct stats_layer *l)
{
	uint64_t *scratch = calloc(STATS_SCRATCH(&ql->spec), sizeof(*scratch));

	stats_of_layer(ql, scratch, l);
	free(scratch);
}

/* What the weights are, without the short way over codes. */
static void against_weights(const struct ql *ql)
{
	size_t n = (size_t)ql->spec.out * ql->spec.in;
	float *w = malloc(n * sizeof(*w));
	struct stats_values v = { .count = 0 };
	struct stats_layer l;
	uint64_t codes = 0;
	double mean = 0, m2 = 0;

	for (uint32_t i = 0; i < ql->spec.out; i++)
		ql_dequant_row(ql, i, w + (size_t)i * ql->spec.in);
	for (size_t i = 0; i < n; i++)
		mean += (double)w[i] / (double)n;
	for (size_t i = 0; i < n; i++)
		m2 += ((double)w[i] - mean) * ((double)w[i] - mean);
	stats_add(&v, w, n);
	near(v.mean, mean);
	near(v.m2, m2);
	look(ql, &l);
	assert_true(l.known);
	assert_int_equal(l.weight.count, n);
	assert_int_equal(l.weight.zero, v.zero);
	near(l.weight.min, v.min);
	near(l.weight.max, v.max);
	near(l.weight.mean, v.mean);
	near(l.weight.m2, v.m2);
	assert_memory_equal(l.weight.mag, v.mag, sizeof(v.mag));
	for (int i = 0; i < 256; i++)
		codes += l.code[i];
	assert_int_equal(codes, n);
	assert_int_equal(l.scale.count, (size_t)ql->spec.out * ql->spec.groups);
	free(w);
}

static void test_a_layer_is_what_its_weights_are(void **state)
{
	static const uint8_t bits[] = { 2, 3, 4, 8 };

	(void)state;
	for (int i = 0; i < 8; i++) {
		struct ql_spec spec = base;
		struct ql ql;

		spec.bits = bits[i / 2];
		spec.act_order = i & 1;
		random_layer(&ql, &spec, 0);
		if (i == 5) /* any offsets will do */
			ql.spec.zero_kind = QL_OFFSET;
		against_weights(&ql);
		ql_release(&ql);
	}
}

static void test_histograms_and_entropy(void **state)
{
	struct ql_spec spec = base;
	struct stats_layer l;
	struct ql ql;

	(void)state;
	spec.sym = 1;
	random_layer(&ql, &spec, 0);
	for (size_t i = 0; i < (size_t)64 * 96; i++)
		ql.code[i] = i % 4 ? 8 : 15; /* H(1/4) = 0.8113 */
	look(&ql, &l);
	assert_int_equal(l.code[8], 64 * 72);
	assert_int_equal(l.code[15], 64 * 24);
	near(l.entropy, 2 - 0.75 * log2(3));
	assert_int_equal(l.zero_code[8], 64 * 3);
	memset(ql.code, 9, (size_t)64 * 96);
	look(&ql, &l);
	assert_true(l.entropy == 0);
	/* one step everywhere: noise is 1 / sqrt(12) of the weights */
	near(l.noise, 1 / sqrt(12));
	ql_release(&ql);
}

static void test_what_is_dead_or_sick_is_counted(void **state)
{
	struct ql_spec spec = base;
	struct stats_layer l;
	struct ql ql;

	(void)state;
	spec.sym = 1;
	random_layer(&ql, &spec, 0);
	memset(ql.code, 9, (size_t)64 * 96);
	memset(ql.code, 8, 96);               /* row 0 is 0 */
	memset(ql.code + 5 * 96 + 32, 8, 32); /* a group of row 5 */
	ql.scale[7 * 3] = 0;                  /* a group of row 7 */
	ql.scale[9 * 3] = NAN;
	ql.scale[9 * 3 + 1] = INFINITY;
	look(&ql, &l);
	assert_int_equal(l.dead_outputs, 1);
	assert_int_equal(l.dead_groups, 3 + 1 + 1);
	assert_int_equal(l.scale.nan, 1);
	assert_int_equal(l.scale.inf, 1);
	assert_int_equal(l.scale.zero, 1);
	assert_int_equal(l.weight.nan, 32);
	assert_int_equal(l.weight.inf, 32);
	assert_int_equal(l.unused_groups, 0);
	for (uint32_t k = 0; k < 96; k++)
		ql.group_of[k] = k < 48 ? 0 : 2;
	look(&ql, &l);
	assert_int_equal(l.unused_groups, 1);
	assert_int_equal(l.dead_groups, 2 + 1); /* group 1 has no weights */
	ql_release(&ql);
}

static void test_values_that_are_no_numbers(void **state)
{
	const float x[] = { NAN, 1, -INFINITY, 0, -0.0f, 0x1p-30f, 0x1.8p20f };
	struct stats_values v = { .count = 0 }, none = { .count = 0 };

	(void)state;
	stats_add(&none, x, 1);
	assert_true(none.count == 1 && none.nan == 1 && stats_std(&none) == 0);
	stats_add(&v, x, 7);
	stats_join(&v, &none);
	assert_int_equal(v.count, 8);
	assert_int_equal(v.nan, 2);
	assert_int_equal(v.inf, 1);
	assert_int_equal(v.zero, 2);
	assert_true(v.min == 0 && v.max == 0x1.8p20);
	/* the ends hold what is beyond */
	assert_int_equal(v.mag[0], 1);
	assert_int_equal(v.mag[-STATS_MAG_LOW], 1);
	assert_int_equal(v.mag[STATS_MAG - 1], 1);
}

/* Equal for every number of threads, bit for bit. */
static void test_a_checkpoint_for_any_threads(void **state)
{
	struct stats a, b;
	struct opened o;
	struct err err;
	struct options opt = { .to = &qf_gptq };

	make_model(scratch_path(*state, "x"), &qf_gptq, 1);
	open_job(&o, scratch_path(*state, "x"), scratch_path(*state, "y"),
		 &opt);
	struct stats_job job = { .model = o.model, .survey = &o.survey,
				 .threads = 1 };
	must(stats_gather(&job, &a, &err), &err);
	job.threads = 3;
	must(stats_gather(&job, &b, &err), &err);
	assert_memory_equal(a.layer, b.layer,
			    o.survey.count * sizeof(*a.layer));
	assert_memory_equal(a.tensor, b.tensor,
			    o.model->tensor_count * sizeof(*a.tensor));
	for (uint32_t i = 0; i < o.survey.count; i++)
		assert_true(a.layer[i].known == !!o.survey.layer[i].format);
	for (uint32_t i = 0; i < o.model->tensor_count; i++) {
		const struct tensor *t = &o.model->tensor[i];
		bool dense = strstr(t->name, ".weight") ||
			     strstr(t->name, ".bias");

		assert_true(!a.tensor[i].count == !dense);
	}
	stats_release(&a);
	stats_release(&b);
	close_job(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_layer_is_what_its_weights_are),
		cmocka_unit_test(test_histograms_and_entropy),
		cmocka_unit_test(test_what_is_dead_or_sick_is_counted),
		cmocka_unit_test(test_values_that_are_no_numbers),
		cmocka_unit_test_setup_teardown(
			test_a_checkpoint_for_any_threads, scratch_open,
			scratch_close),
	};

	return cmocka_run_group_tests_name("stats", tests, NULL, NULL);
}
