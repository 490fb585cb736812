/* The neutral layer: its invariants, its values, and comparing two of them. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../libfmt/layout/ql.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct ql_spec spec = { .out = 3, .in = 10, .groups = 3,
	.group_size = 4, .bits = 4, .zero_kind = QL_POINT,
	.scale_type = DT_F16 };

/* A valid asymmetric layer with all codes and zeros different. */
static void fill(struct ql *ql)
{
	for (uint32_t i = 0; i < ql->spec.out * ql->spec.in; i++)
		ql->code[i] = (uint8_t)((7 * i + 3) % (1u << ql->spec.bits));
	for (uint32_t i = 0; i < ql->spec.out * ql->spec.groups; i++) {
		ql->scale[i] = half_to_f32((uint16_t)(0x2c00 + 37 * i));
		ql->zero[i] = (float)(i % 5 + 4);
	}
}

static void make(struct ql *ql)
{
	struct err err;

	assert_int_equal(ql_init(ql, &spec, &err), 0);
	fill(ql);
}

static void test_init_gives_trivial_groups(void **state)
{
	struct err err;
	struct ql ql;

	(void)state;
	make(&ql);
	for (uint32_t k = 0; k < 10; k++)
		assert_int_equal(ql.group_of[k], k / 4);
	assert_int_equal(ql_check(&ql, &err), 0);
	ql_release(&ql);
	assert_null(ql.code);
	ql_release(&ql);
}

static void test_absurd_specs_are_refused(void **state)
{
	struct ql_spec bad[7];
	struct err err;
	struct ql ql;

	(void)state;
	for (size_t i = 0; i < 7; i++)
		bad[i] = spec;
	bad[0].out = 0;
	bad[1].in = QL_DIM_MAX + 1;
	bad[2].bits = 1;
	bad[3].bits = 9;
	bad[4].groups = 4;
	bad[5].group_size = 0;
	bad[6].scale_type = DT_I32;
	for (size_t i = 0; i < 7; i++) {
		assert_int_equal(ql_init(&ql, &bad[i], &err), -1);
		assert_int_equal(err.code, ERR_INPUT);
		assert_null(ql.mem);
	}
}

/* Each invariant, broken alone, is found and its place is named. */
static void test_check_names_the_first_fault(void **state)
{
	static const struct {
		int what;
		float value;
		const char *text;
	} cases[] = {
		{ 0, 16, "code 16 at output 1, input 2" },
		{ 1, NAN, "at output 2, group 0" },
		{ 1, INFINITY, "scale inf at output 2, group 0" },
		{ 2, -1, "zero -1 at output 2, group 0" },
		{ 2, 17, "zero 17 at output 2, group 0" },
		{ 2, 2.5f, "zero 2.5 at output 2, group 0" },
		{ 2, NAN, "at output 2, group 0" },
		{ 3, 3, "group 3 of input 9 (expected below 3)" },
		{ 3, 0, "without act-order" },
		{ 4, 1, "marked symmetric" },
	};
	struct err err;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ql ql;

		make(&ql);
		if (cases[i].what == 0)
			ql.code[12] = (uint8_t)cases[i].value;
		else if (cases[i].what == 1)
			ql.scale[6] = cases[i].value;
		else if (cases[i].what == 2)
			ql.zero[6] = cases[i].value;
		else if (cases[i].what == 3)
			ql.group_of[9] = (uint32_t)cases[i].value;
		else
			ql.spec.sym = 1;
		assert_int_equal(ql_check(&ql, &err), -1);
		assert_int_equal(err.code, ERR_INPUT);
		assert_non_null(strstr(err.msg, cases[i].text));
		ql_release(&ql);
	}
}

static void test_observe_sees_act_order_and_symmetry(void **state)
{
	struct err err;
	struct ql ql;

	(void)state;
	make(&ql);
	ql.group_of[0] = 1;
	ql.group_of[4] = 0;
	for (uint32_t i = 0; i < 9; i++)
		ql.zero[i] = 8;
	ql_observe(&ql);
	assert_int_equal(ql.spec.act_order, 1);
	assert_int_equal(ql.spec.sym, 1);
	assert_int_equal(ql_check(&ql, &err), 0);
	ql.zero[8] = 9;
	ql_observe(&ql);
	assert_int_equal(ql.spec.sym, 0);
	ql_release(&ql);
}

/* Against the formula in double: the product of an f16 scale and a small
 * whole number is exact. */
static void test_dequantized_values(void **state)
{
	struct ql ql;
	float row[10];

	(void)state;
	make(&ql);
	ql.group_of[0] = 2;
	for (uint32_t n = 0; n < 3; n++) {
		ql_dequant_row(&ql, n, row);
		for (uint32_t k = 0; k < 10; k++) {
			uint32_t g = ql.group_of[k];
			double s = (double)ql.scale[n * 3 + g];
			double w = s * ((double)ql.code[n * 10 + k] -
					(double)ql.zero[n * 3 + g]);

			assert_true((double)row[k] == w);
		}
	}
	ql.spec.zero_kind = QL_OFFSET;
	ql.zero[0] = 0.1f;
	ql.group_of[1] = 0;
	ql_dequant_row(&ql, 0, row);
	assert_true(row[1] == ql.scale[0] * (float)ql.code[1] - 0.1f);
	ql_release(&ql);
}

static void test_compare_counts_and_places_differences(void **state)
{
	struct ql_diff d;
	struct ql a, b;
	struct err err;

	(void)state;
	make(&a);
	make(&b);
	/* the same values by other codes: one more on both sides */
	for (uint32_t k = 4; k < 8; k++)
		b.code[10 + k]++;
	b.zero[3 + 1] += 1;
	assert_int_equal(ql_compare(&a, &b, &d, &err), 0);
	assert_int_equal(d.unequal, 0);
	b.code[29] = (uint8_t)(b.code[29] ? b.code[29] - 1 : 1);
	b.code[0] = (uint8_t)(b.code[0] + 3);
	assert_int_equal(ql_compare(&a, &b, &d, &err), 0);
	assert_int_equal(d.unequal, 2);
	assert_int_equal(d.n, 0);
	assert_int_equal(d.k, 0);
	assert_true(d.max_abs == 3 * (double)a.scale[0]);
	b.spec.in = 9;
	assert_int_equal(ql_compare(&a, &b, &d, &err), -1);
	ql_release(&a);
	ql_release(&b);
}

/* -0 equals 0; NaN never hides behind a comparison. */
static void test_compare_zero_signs_and_nan(void **state)
{
	struct ql_diff d;
	struct ql a, b;
	struct err err;

	(void)state;
	make(&a);
	make(&b);
	memset(a.code, 4, 30);
	memset(b.code, 4, 30);
	a.zero[0] = b.zero[0] = 4;
	b.scale[0] = -a.scale[0];
	assert_int_equal(ql_compare(&a, &b, &d, &err), 0);
	assert_int_equal(d.unequal, 0);
	b.scale[4] = NAN;
	assert_int_equal(ql_compare(&a, &b, &d, &err), 0);
	assert_int_equal(d.unequal, 4);
	assert_int_equal(d.n, 1);
	assert_true(isinf(d.max_abs));
	ql_release(&a);
	ql_release(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_init_gives_trivial_groups),
		cmocka_unit_test(test_absurd_specs_are_refused),
		cmocka_unit_test(test_check_names_the_first_fault),
		cmocka_unit_test(test_observe_sees_act_order_and_symmetry),
		cmocka_unit_test(test_dequantized_values),
		cmocka_unit_test(test_compare_counts_and_places_differences),
		cmocka_unit_test(test_compare_zero_signs_and_nan),
	};

	return cmocka_run_group_tests_name("ql", tests, NULL, NULL);
}
