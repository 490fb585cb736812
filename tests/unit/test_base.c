/* The error record, checked allocation and the 16-bit float conversions. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/mem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_context_adds_up(void **state)
{
	struct err err;

	(void)state;
	assert_int_equal(err_set(&err, ERR_INPUT, "shape [%d]", 3), -1);
	assert_int_equal(err_ctx(&err, "tensor %s", "a\nb"), -1);
	assert_int_equal(err_ctx(&err, "file"), -1);
	assert_int_equal(err.code, ERR_INPUT);
	assert_string_equal(err.msg, "file: tensor a?b: shape [3]");
}

static void test_long_message_is_cut_at_a_character(void **state)
{
	struct err err;
	char text[1024];

	(void)state;
	for (size_t i = 0; i + 2 < sizeof(text); i += 2)
		memcpy(text + i, "\xc3\xa9", 2); /* e acute */
	text[1022] = '\0';
	err_set(&err, ERR_INPUT, "x%s", text);
	assert_true(strlen(err.msg) < sizeof(err.msg));
	assert_int_equal((unsigned char)err.msg[strlen(err.msg) - 1], 0xa9);
	err_ctx(&err, "%s", text);
	assert_true(strlen(err.msg) < sizeof(err.msg));
}

static void test_overflowing_sizes_are_refused(void **state)
{
	struct err err;
	size_t n;
	void *p, *q;
	struct mem_part part[2] = { { &p, SIZE_MAX / 2, 1 },
				    { &q, SIZE_MAX / 2 + 2, 1 } };

	(void)state;
	assert_int_equal(mem_mul(SIZE_MAX, 2, &n), -1);
	assert_null(mem_alloc(SIZE_MAX / 4, 8, &err));
	assert_int_equal(err.code, ERR_RESOURCE);
	assert_null(mem_alloc(SIZE_MAX, 1, &err));
	assert_null(mem_block(part, 2, &err));
}

static void test_block_parts_are_aligned_and_zero(void **state)
{
	struct err err;
	char *a;
	double *b;
	struct mem_part part[2] = { { (void **)&a, 3, 1 },
				    { (void **)&b, 5, sizeof(double) } };
	void *mem = mem_block(part, 2, &err);

	(void)state;
	assert_non_null(mem);
	assert_int_equal((uintptr_t)b % 64, 0);
	assert_true(b[4] == 0.0);
	a[2] = 1;
	free(mem);
}

static void test_every_half_round_trips(void **state)
{
	(void)state;
	for (uint32_t h = 0; h < 65536; h++) {
		float f = half_to_f32((uint16_t)h);

		if (isnan(f))
			assert_true(isnan(half_to_f32(half_from_f32(f))));
		else
			assert_int_equal(half_from_f32(f), h);
		f = half_bf16_to_f32((uint16_t)h);
		if (!isnan(f))
			assert_int_equal(half_bf16_from_f32(f), h);
	}
}

/* Between two neighbours the nearer one wins; the middle goes to the even. */
static void test_half_rounds_to_nearest_even(void **state)
{
	(void)state;
	for (uint32_t h = 0; h < 0x7bff; h++) {
		double lo = half_to_f32((uint16_t)h);
		double hi = half_to_f32((uint16_t)(h + 1));
		float mid = (float)((lo + hi) / 2);
		uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);

		assert_int_equal(half_from_f32(mid), even);
		assert_int_equal(half_from_f32(nextafterf(mid, 0)), h);
		assert_int_equal(half_from_f32(nextafterf(mid, 1e9f)), h + 1);
	}
	assert_int_equal(half_from_f32(65519.99f), 0x7bff);
	assert_int_equal(half_from_f32(65520.0f), 0x7c00);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_context_adds_up),
		cmocka_unit_test(test_long_message_is_cut_at_a_character),
		cmocka_unit_test(test_overflowing_sizes_are_refused),
		cmocka_unit_test(test_block_parts_are_aligned_and_zero),
		cmocka_unit_test(test_every_half_round_trips),
		cmocka_unit_test(test_half_rounds_to_nearest_even),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
