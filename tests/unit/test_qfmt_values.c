/* Codes, zeros and scales of the rarer kind, through every layout that holds
 * them. */
#include "layer.h"

#include <math.h>

/* 3 bits in planes and as a stream take the same shapes: the label alone tells
 * which they are. */
static void test_planes_or_a_stream(void **state)
{
	const struct qfmt *const fmt[] = { &qf_gptq_p, &qf_gptq_v2 };
	struct ql_spec spec = plain_spec;
	struct parts p[2];
	struct ql a, b;
	struct err err;

	(void)state;
	spec.bits = 3;
	random_layer(&a, &spec, 0);
	for (int i = 0; i < 2; i++)
		must(parts_write(&p[i], &a, fmt[i], &err), &err);
	assert_int_equal(p[0].plan.count, p[1].plan.count);
	for (uint32_t i = 0; i < p[0].plan.count; i++) {
		assert_int_equal(p[0].tensor[i].size, p[1].tensor[i].size);
		assert_int_equal(p[0].tensor[i].dim[0], p[1].tensor[i].dim[0]);
	}
	for (int i = 0; i < 4; i++) {
		const struct qfmt *says = fmt[i % 2], *is = fmt[i / 2];
		struct qf_hint hint = { .bits = 3, .sym = 0, .desc_act = 0,
			.group_size = 32, .format = says->name };

		read_as(&p[i / 2], &hint, says, &b, 0);
		if (says == is)
			same_layer(&a, &b);
		else
			assert_memory_not_equal(a.code, b.code, 64 * 96);
		ql_release(&b);
	}
	for (int i = 0; i < 2; i++)
		parts_free(&p[i]);
	ql_release(&a);
}

/* All codes at one end, in every width: no neighbour is touched. */
static void test_codes_at_the_ends(void **state)
{
	const struct qfmt *const fmt[] = { &qf_gptq, &qf_gptq_v2, &qf_gptq_p,
		&qf_awq, &qf_ct, &qf_marlin };

	(void)state;
	for (uint32_t i = 0; i < 6 * 7 * 2; i++) {
		const struct qfmt *f = fmt[i % 6];
		struct ql_spec spec = { .out = 256, .in = 256, .groups = 2,
			.group_size = 128, .bits = (uint8_t)(2 + i / 6 % 7),
			.sym = 1, .scale_type = DT_F16 };
		struct qf_hint hint = { .bits = spec.bits, .sym = 1,
			.desc_act = 0, .group_size = 128, .in = 256,
			.format = f->name };
		struct parts p;
		struct ql a, b;
		struct err err;

		if (f->accept(&spec, &err))
			continue;
		random_layer(&a, &spec, 1);
		memset(a.code, i / 42 ? (1 << spec.bits) - 1 : 0, 256 * 256);
		must(parts_write(&p, &a, f, &err), &err);
		read_as(&p, &hint, f, &b, 0);
		same_layer(&a, &b);
		ql_release(&a);
		ql_release(&b);
		parts_free(&p);
	}
}

/* Zeros of 3 bits that lie in two words, of 32 outputs an odd number of times;
 * codes likewise, down the columns. */
static void test_straddling_zeros(void **state)
{
	static const uint32_t outs[] = { 32, 96, 160 };
	static const uint32_t field[] = { 10, 21, 42, 53, 74, 85 };
	const struct qfmt *const fmt[] = { &qf_gptq, &qf_gptq_v2 };

	(void)state;
	for (int i = 0; i < 6; i++) {
		struct qf_hint hint = { .bits = 3, .sym = 0, .desc_act = 0,
			.group_size = 32, .format = fmt[i % 2]->name };
		struct ql_spec spec = plain_spec;
		struct parts p;
		struct ql a, b;
		struct err err;

		spec.bits = 3;
		spec.out = outs[i / 2];
		random_layer(&a, &spec, 1);
		for (uint32_t n = 0; n < spec.out * 3; n++)
			a.zero[n] = 1;
		memset(a.code, 0, spec.out * 96);
		for (uint32_t k = 0; k < 6; k++) {
			memset(a.code + field[k], 7, 1);
			if (field[k] < spec.out)
				a.zero[field[k] * 3 + k % 3] = 6;
		}
		must(parts_write(&p, &a, fmt[i % 2], &err), &err);
		read_as(&p, &hint, fmt[i % 2], &b, 0);
		same_layer(&a, &b);
		ql_release(&a);
		ql_release(&b);
		parts_free(&p);
	}
}

/* One zero field of 2 bits at a time, as each label reads it. */
static void test_zeros_of_two_bits(void **state)
{
	static const struct {
		uint32_t word;
		const struct qfmt *f;
		uint32_t odd;
		int8_t sym;
		float zero[4]; /* of every fourth output */
	} row[] = {
		{ 0x55555555, &qf_gptq, 0, 1, { 2, 2, 2, 2 } },
		{ 0xAAAAAAAA, &qf_gptq_v2, 0, 1, { 2, 2, 2, 2 } },
		{ 0x24242424, &qf_gptq, 0, 0, { 1, 2, 3, 1 } },
		{ 0xE4E4E4E4, &qf_gptq, QF_ODD_ZERO_WRAP, 0, { 1, 2, 3, 0 } },
		{ 0xE4E4E4E4, &qf_gptq_v2, 0, 0, { 0, 1, 2, 3 } },
	};
	struct ql_spec spec = plain_spec;
	struct err err;

	(void)state;
	spec.bits = 2;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		struct qf_hint hint = { .bits = 2, .sym = row[i].sym,
			.desc_act = 0, .group_size = 32,
			.format = row[i].f->name };
		struct parts p;
		struct ql a, b;

		random_layer(&a, &spec, 1);
		must(parts_write(&p, &a, row[i].f, &err), &err);
		for (uint32_t k = 0; k < 3 * 64 / 16; k++)
			half_put32((uint8_t *)p.part[1] + 4 * k, row[i].word);
		read_as(&p, &hint, row[i].f, &b, row[i].odd);
		for (uint32_t n = 0; n < 64 * 3; n++)
			assert_true(b.zero[n] == row[i].zero[n / 3 % 4]);
		ql_release(&a);
		ql_release(&b);
		parts_free(&p);
	}
}

/* Every scale comes back bit for bit, and what is odd about it is said. */
static void test_scales_of_all_kinds(void **state)
{
	static const struct {
		float scale;
		enum dtype type; /* the narrowest that holds it */
		uint32_t odd;
	} row[] = {
		{ 0x1p-24f, DT_F16, 0 },   /* the least of all f16 */
		{ 0x1.8p-16f, DT_F16, 0 }, /* another subnormal one */
		{ 65504.0f, DT_F16, 0 },
		{ 0x1p-20f, DT_BF16, 0 },
		{ 0x1p127f, DT_BF16, 0 },
		{ 0x1p-133f, DT_BF16, 0 }, /* subnormal there */
		{ 0.1f, DT_F32, 0 },
		{ 1e-40f, DT_F32, 0 },
		{ 0.0f, DT_F16, QF_ODD_SCALE_ZERO },
		{ -0.5f, DT_F16, QF_ODD_SCALE_NEG },
		{ INFINITY, DT_F16, QF_ODD_SCALE_BAD },
		{ -INFINITY, DT_F16, QF_ODD_SCALE_BAD },
		{ NAN, DT_F16, QF_ODD_SCALE_BAD },
	};
	static const enum dtype types[] = { DT_F16, DT_BF16, DT_F32 };
	struct qf_hint hint = { .bits = 4, .sym = 0, .desc_act = 0,
				.group_size = 32, .format = "gptq" };

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row) * 3; i++) {
		struct qf_layer layer = { .hint = &hint };
		struct ql_spec spec = plain_spec;
		float scale = row[i / 3].scale;
		struct parts p;
		struct ql a, b;
		struct err err;

		spec.scale_type = types[i % 3];
		random_layer(&a, &spec, 1);
		for (uint32_t k = 0; k < 64 * 3; k++)
			a.scale[k] = 0.25f;
		a.scale[3 * 7 + 1] = scale;
		if (parts_write(&p, &a, &qf_gptq, &err)) {
			/* what does not survive is refused, not rounded */
			assert_true(row[i / 3].type != types[i % 3]);
			assert_int_equal(err.code, ERR_UNSUP);
			assert_non_null(strstr(err.msg, "output 7, group 1"));
			parts_free(&p);
			ql_release(&a);
			continue;
		}
		layer.module = &p.module;
		must(qf_gptq.read(&layer, &b, &err), &err);
		assert_int_equal(layer.odd, row[i / 3].odd);
		assert_int_equal(ql_check(&b, &err), row[i / 3].odd &
				 QF_ODD_SCALE_BAD ? -1 : 0);
		if (isnan(scale))
			assert_true(isnan(b.scale[3 * 7 + 1]));
		else
			same_layer(&a, &b);
		ql_release(&a);
		ql_release(&b);
		parts_free(&p);
	}
}

/* One group ten thousand times the others: its weights, and theirs, stay. */
static void test_a_group_of_another_size(void **state)
{
	struct qf_hint hint = { .bits = 4, .sym = 0, .desc_act = 0,
				.group_size = 32, .format = "gptq" };
	const struct qfmt *const fmt[] = { &qf_gptq, &qf_gptq_v2, &qf_awq,
		&qf_ct };
	struct ql_diff d;
	struct ql a, b;
	struct err err;

	(void)state;
	random_layer(&a, &plain_spec, 1);
	for (uint32_t k = 0; k < 64 * 3; k++)
		a.scale[k] = k % 3 == 1 ? 0x1.38p+4f : 0x1p-9f;
	for (int i = 0; i < 4; i++) {
		struct qf_layer layer = { .hint = &hint };
		struct parts p;

		hint.format = fmt[i]->name;
		must(parts_write(&p, &a, fmt[i], &err), &err);
		layer.module = &p.module;
		must(fmt[i]->read(&layer, &b, &err), &err);
		assert_int_equal(layer.odd, 0);
		must(ql_compare(&a, &b, &d, &err), &err);
		assert_int_equal(d.unequal, 0);
		ql_release(&b);
		parts_free(&p);
	}
	ql_release(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_planes_or_a_stream),
		cmocka_unit_test(test_codes_at_the_ends),
		cmocka_unit_test(test_straddling_zeros),
		cmocka_unit_test(test_zeros_of_two_bits),
		cmocka_unit_test(test_scales_of_all_kinds),
		cmocka_unit_test(test_a_group_of_another_size),
	};

	return cmocka_run_group_tests_name("qfmt_values", tests, NULL, NULL);
}
