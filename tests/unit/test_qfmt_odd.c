/* GPTQ v1 and v2 on made-up layers: what cannot be stored, and tensors that
 * contradict their label or their config. */
#include "layer.h"

static const uint8_t widths[] = { 2, 3, 4, 8 };

/* v1 has no zero of 0: where no code of the group is 15, zero and codes move
 * up together and the weights stay; else it is refused with the way out. */
static void test_v1_zero_0_is_repaired_or_refused(void **state)
{
	struct qf_hint hint = { .sym = 0, .desc_act = 0 };
	struct qf_layer layer = { .hint = &hint };
	struct ql_diff d;
	struct parts p;
	struct ql a, b;
	struct err err;

	(void)state;
	random_layer(&a, &plain_spec, 1);
	a.zero[5 * 3 + 1] = 0;
	for (uint32_t k = 32; k < 64; k++)
		a.code[5 * 96 + k] = (uint8_t)rnd(15);
	must(parts_write(&p, &a, &qf_gptq, &err), &err);
	layer.module = &p.module;
	must(qf_gptq.read(&layer, &b, &err), &err);
	assert_int_equal(layer.odd, 0);
	must(ql_compare(&a, &b, &d, &err), &err);
	assert_int_equal(d.unequal, 0);
	assert_true(b.zero[5 * 3 + 1] == 1);
	assert_int_equal(b.code[5 * 96 + 40], a.code[5 * 96 + 40] + 1);
	ql_release(&b);
	parts_free(&p);

	a.code[5 * 96 + 63] = 15;
	assert_int_equal(parts_write(&p, &a, &qf_gptq, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	assert_string_equal(err.msg,
		"output 5, group 1: gptq cannot store a zero of 0, and code "
		"15 is in use, so that it cannot be moved (gptq_v2 can hold "
		"this layer)");
	parts_free(&p);
	must(parts_write(&p, &a, &qf_gptq_v2, &err), &err);
	parts_free(&p);
	ql_release(&a);
}

/* A zero of 2^bits moves down, in both layouts, or is refused. */
static void test_zero_2_to_the_bits(void **state)
{
	const struct qfmt *const fmt[] = { &qf_gptq, &qf_gptq_v2 };
	struct ql_diff d;
	struct err err;

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct qf_hint hint = { .sym = 0, .desc_act = 0,
					.format = fmt[i]->name };
		struct qf_layer layer = { .hint = &hint };
		struct parts p;
		struct ql a, b;

		random_layer(&a, &plain_spec, 1);
		a.zero[0] = 16;
		for (uint32_t k = 0; k < 32; k++)
			a.code[k] = (uint8_t)(1 + rnd(15));
		must(parts_write(&p, &a, fmt[i], &err), &err);
		layer.module = &p.module;
		must(fmt[i]->read(&layer, &b, &err), &err);
		assert_int_equal(layer.odd, 0);
		must(ql_compare(&a, &b, &d, &err), &err);
		assert_int_equal(d.unequal, 0);
		ql_release(&b);
		parts_free(&p);
		a.code[31] = 0;
		assert_int_equal(parts_write(&p, &a, fmt[i], &err), -1);
		assert_int_equal(err.code, ERR_UNSUP);
		assert_non_null(strstr(err.msg, "zero of 16"));
		parts_free(&p);
		ql_release(&a);
	}
}

static void test_what_v1_and_v2_cannot_hold(void **state)
{
	struct ql_spec spec = plain_spec;
	struct parts p;
	struct err err;
	struct ql ql;

	(void)state;
	spec.bits = 5;
	assert_int_equal(qf_gptq.accept(&spec, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	spec.bits = 4;
	spec.zero_kind = QL_OFFSET;
	assert_int_equal(qf_gptq_v2.accept(&spec, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	random_layer(&ql, &plain_spec, 1);
	ql.scale[7] = 0.1f; /* not an f16 */
	assert_int_equal(parts_write(&p, &ql, &qf_gptq, &err), -1);
	assert_non_null(strstr(err.msg, "output 2, group 1: scale"));
	parts_free(&p);
	ql_release(&ql);
}

/* ---- what tensors say against their label ---- */

/* A symmetric layer shows which layout it is; the label is not believed. */
static void test_symmetric_constants_beat_the_label(void **state)
{
	const struct qfmt *const fmt[] = { &qf_gptq, &qf_gptq_v2 };

	(void)state;
	for (uint32_t round = 0; round < 16; round++) {
		const struct qfmt *is = fmt[round & 1];
		const struct qfmt *says = fmt[round >> 1 & 1];
		struct qf_hint hint = { .sym = (int8_t)(rnd(3)) - 1,
			.desc_act = 0, .format = says->name };
		struct ql_spec spec = plain_spec;
		struct parts p;
		struct ql a, b;
		struct err err;

		spec.bits = widths[round / 4];
		random_layer(&a, &spec, 1);
		for (uint32_t i = 0; i < 64 * 3; i++)
			a.zero[i] = (float)(1u << (spec.bits - 1));
		ql_observe(&a);
		must(parts_write(&p, &a, is, &err), &err);
		read_as(&p, &hint, says, &b, is == says ? 0 : QF_ODD_LABEL);
		assert_memory_equal(a.zero, b.zero, 64 * 3 * 4);
		assert_int_equal(b.spec.sym, 1);
		ql_release(&a);
		ql_release(&b);
		parts_free(&p);
	}
}

/* sym, but the stored zeros are neither constant: the middle is taken. */
static void test_sym_without_a_constant(void **state)
{
	struct qf_hint hint = { .sym = 1, .desc_act = 0, .format = "gptq_v2" };
	struct parts p;
	struct ql a, b;
	struct err err;

	(void)state;
	random_layer(&a, &plain_spec, 1);
	must(parts_write(&p, &a, &qf_gptq_v2, &err), &err);
	read_as(&p, &hint, &qf_gptq_v2, &b, QF_ODD_SYM);
	for (uint32_t i = 0; i < 64 * 3; i++)
		assert_true(b.zero[i] == 8);
	ql_release(&b);
	hint.sym = -1; /* not said: the zeros are what they are */
	read_as(&p, &hint, &qf_gptq_v2, &b, 0);
	assert_memory_equal(a.zero, b.zero, 64 * 3 * 4);
	ql_release(&a);
	ql_release(&b);
	parts_free(&p);
}

/* A v1 layer with one word replaced, and the eight zeros that come out. */
static void one_word(uint32_t word, int gptqmodel, uint32_t odd,
		     const float want[8])
{
	struct qf_hint hint = { .sym = 0, .desc_act = 0, .format = "gptq",
				.by_gptqmodel = (uint8_t)gptqmodel };
	struct parts p;
	struct ql a, b;
	struct err err;

	random_layer(&a, &plain_spec, 1);
	must(parts_write(&p, &a, &qf_gptq, &err), &err);
	half_put32((uint8_t *)p.part[1] + 4 * (8 + 2), word); /* group 1 */
	read_as(&p, &hint, &qf_gptq, &b, odd);
	for (uint32_t n = 0; n < 64; n++)
		for (uint32_t g = 0; g < 3; g++)
			assert_true(b.zero[n * 3 + g] ==
				    (g == 1 && n / 8 == 2 ? want[n % 8]
							  : a.zero[n * 3 + g]));
	ql_release(&a);
	ql_release(&b);
	parts_free(&p);
}

/* gptq-formats(5) "Zero points" has these. */
static void test_v1_fields_of_all_ones(void **state)
{
	static const float borrowed[8] = { 8, 8, 8, 0, 8, 8, 8, 8 };
	static const float per_field[8] = { 8, 8, 8, 0, 7, 8, 8, 8 };
	static const float lost[8] = { 8, 8, 8, 0, 0, 0, 0, 0 };
	static const float top[8] = { 8, 8, 8, 8, 8, 8, 8, 0 };
	static const float below[8] = { 8, 8, 0, 0, 8, 8, 8, 8 };

	(void)state;
	one_word(0x7776F777, 1, 0, borrowed);
	one_word(0x7776F777, 0, QF_ODD_ZERO_WRAP, per_field);
	one_word(0xFFFFF777, 0, QF_ODD_ZERO_SMEAR, lost);
	one_word(0xF7777777, 0, QF_ODD_ZERO_WRAP, top);
	one_word(0x7777FF77, 0, QF_ODD_ZERO_WRAP, below);
}

/* ---- g_idx ---- */

static void test_unusual_g_idx(void **state)
{
	struct qf_hint hint = { .sym = 0, .desc_act = 1, .bits = 4,
				.group_size = 32, .format = "gptq" };
	struct qf_layer layer = { .hint = &hint };
	struct ql_spec spec = plain_spec;
	uint8_t wide[96 * 8];
	struct parts p;
	struct ql a, b;
	struct err err;

	(void)state;
	spec.act_order = 1;
	random_layer(&a, &spec, 1);
	must(parts_write(&p, &a, &qf_gptq, &err), &err);
	for (uint32_t k = 0; k < 96; k++)
		half_put64(wide + 8 * k, a.group_of[k]);
	p.tensor[3].data = wide;
	p.tensor[3].type = DT_I64;
	read_as(&p, &hint, &qf_gptq, &b, QF_ODD_GIDX_I64);
	assert_memory_equal(a.group_of, b.group_of, 96 * 4);
	ql_release(&b);

	hint.desc_act = 0; /* the config lies: the tensor is believed */
	read_as(&p, &hint, &qf_gptq, &b, QF_ODD_GIDX_I64 | QF_ODD_ACT);
	assert_int_equal(b.spec.act_order, 1);
	ql_release(&b);

	half_put64(wide + 8 * 17, (uint64_t)1 << 32);
	layer.module = &p.module;
	assert_int_equal(qf_gptq.read(&layer, &b, &err), -1);
	assert_string_equal(err.msg, "m.g_idx: group 4294967296 of input 17 "
				     "(expected 0 to 2)");

	memset(wide, 0, sizeof(wide));
	p.tensor[3].data = wide;
	p.tensor[3].type = DT_I32;
	read_as(&p, &hint, &qf_gptq, &b, QF_ODD_GIDX_ZERO);
	assert_int_equal(b.spec.act_order, 0);
	assert_int_equal(b.group_of[95], 2);
	ql_release(&b);

	p.tensor[3].dim[0] = 3 * 96; /* a fused q, k, v: three maps */
	assert_int_equal(qf_gptq.read(&layer, &b, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	assert_non_null(strstr(err.msg, "m.g_idx: 3 maps of 96 inputs: linears "
					"that were fused"));
	p.tensor[3].dim[0] = 100; /* anything else is damage */
	assert_int_equal(qf_gptq.read(&layer, &b, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	ql_release(&a);
	parts_free(&p);
}

/* Without g_idx the model's dimensions say where the last word ends, and
 * without both the words are full. */
static void test_inputs_without_g_idx(void **state)
{
	struct qf_hint hint = { .sym = 0, .desc_act = 0, .bits = 4,
		.group_size = 32, .format = "gptq", .in = 93 };
	struct ql_spec spec = plain_spec;
	struct parts p;
	struct ql a, b;
	struct err err;

	(void)state;
	spec.in = 93;
	random_layer(&a, &spec, 1);
	must(parts_write(&p, &a, &qf_gptq, &err), &err);
	p.module.count = 3;
	read_as(&p, &hint, &qf_gptq, &b, QF_ODD_GIDX_MISSING);
	assert_memory_equal(a.code, b.code, 64 * 93);
	ql_release(&b);
	hint.in = 0;
	read_as(&p, &hint, &qf_gptq, &b, QF_ODD_GIDX_MISSING);
	assert_int_equal(b.spec.in, 96);
	ql_release(&a);
	ql_release(&b);
	parts_free(&p);
}

/* What g_idx says of groups, whatever the config says of act-order. */
static void test_maps_of_all_kinds(void **state)
{
	static const struct {
		uint8_t map[8]; /* of runs of 12 inputs */
		int add, desc_act;
		uint32_t odd, act_order;
		const char *says;
	} row[] = {
		/* in order, whatever desc_act says */
		{ { 0, 0, 1, 1, 2, 2, 3, 3 }, 0, 1, 0, 0, NULL },
		{ { 0, 0, 1, 1, 2, 2, 3, 3 }, 0, 0, 0, 0, NULL },
		/* scattered, whatever desc_act says */
		{ { 3, 1, 0, 2, 2, 0, 1, 3 }, 0, 1, 0, 1, NULL },
		{ { 3, 1, 0, 2, 2, 0, 1, 3 }, 0, 0, QF_ODD_ACT, 1, NULL },
		/* in order, but not of one size; scattered, likewise */
		{ { 0, 0, 0, 1, 2, 2, 3, 3 }, 0, 1, QF_ODD_GIDX_UNEVEN, 1,
		  NULL },
		{ { 3, 1, 0, 2, 2, 2, 1, 3 }, 0, 1, QF_ODD_GIDX_UNEVEN, 1,
		  NULL },
		{ { 0, 0, 0, 0, 0, 0, 0, 0 }, 0, 1, QF_ODD_GIDX_ZERO, 0,
		  NULL },
		/* a slice of a larger layer; what is only damaged */
		{ { 0, 0, 1, 1, 2, 2, 3, 3 }, 37, 0, 0, 0,
		  "m.g_idx: groups 37 to 40 (expected 0 to 3): a slice" },
		{ { 3, 1, 0, 2, 2, 0, 1, 3 }, 37, 1, 0, 0,
		  "groups 37 to 40 (expected 0 to 3): a slice" },
		{ { 0, 0, 1, 1, 2, 2, 3, 8 }, 37, 0, 0, 0,
		  "group 37 of input 0 (expected 0 to 3)" },
		{ { 0, 0, 1, 1, 2, 2, 3, 4 }, 0, 0, 0, 0,
		  "group 4 of input 84 (expected 0 to 3)" },
		{ { 1, 0, 1, 1, 2, 2, 3, 3 }, -1, 0, 0, 0,
		  "group -1 of input 12 (expected 0 to 3)" },
	};
	struct ql_spec spec = plain_spec;
	struct parts p;
	struct ql a, b;
	struct err err;

	(void)state;
	spec.groups = 4;
	spec.group_size = 24;
	random_layer(&a, &spec, 1);
	must(parts_write(&p, &a, &qf_gptq, &err), &err);
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		struct qf_hint hint = { .sym = 0, .bits = 4, .group_size = 24,
			.desc_act = (int8_t)row[i].desc_act };
		struct qf_layer layer = { .hint = &hint,
					  .module = &p.module };

		for (uint32_t k = 0; k < 96; k++)
			half_put32((uint8_t *)p.part[3] + 4 * k, (uint32_t)(
				row[i].map[k / 12] + row[i].add));
		if (row[i].says) {
			assert_int_equal(qf_gptq.read(&layer, &b, &err), -1);
			if (!strstr(err.msg, row[i].says))
				fail_msg("%zu: %s", i, err.msg);
			assert_int_equal(err.code, row[i].add == 37 &&
					 strstr(err.msg, "slice") ? ERR_UNSUP :
								    ERR_INPUT);
			continue;
		}
		read_as(&p, &hint, &qf_gptq, &b, row[i].odd);
		assert_int_equal(b.spec.act_order, row[i].act_order);
		for (uint32_t k = 0; k < 96; k++)
			assert_int_equal(b.group_of[k],
					 row[i].odd & QF_ODD_GIDX_ZERO ?
						k / 24 : row[i].map[k / 12]);
		ql_release(&b);
	}
	ql_release(&a);
	parts_free(&p);
}

/* Group sizes that the inputs are no multiple of, or fewer than; a config that
 * says one group, where there is one and where there are more. */
static void test_group_sizes(void **state)
{
	static const struct {
		uint32_t in, groups, size; /* as stored and read */
		int32_t says;
		uint32_t odd;
	} row[] = {
		{ 96, 3, 32, 32, 0 },   { 96, 1, 96, -1, 0 },
		{ 96, 1, 96, 96, 0 },   { 96, 1, 96, 128, 0 },
		{ 96, 1, 96, 1 << 30, 0 }, { 100, 4, 32, 32, 0 },
		{ 100, 1, 100, 128, 0 }, { 100, 3, 48, 48, 0 },
		{ 97, 4, 32, 32, 0 },   { 128, 1, 128, 64, QF_ODD_GROUP },
		{ 96, 3, 32, -1, QF_ODD_GROUP },
		{ 96, 3, 32, 96, QF_ODD_GROUP },
		{ 96, 3, 32, 16, QF_ODD_GROUP },
		{ 97, 4, 32, -1, QF_ODD_GROUP }, { 96, 3, 32, 0, 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++)
		for (int map = 0; map < 2; map++) {
			struct qf_hint hint = { .sym = 0, .desc_act = 0,
				.bits = 4, .group_size = row[i].says,
				.in = row[i].in };
			struct ql_spec spec = plain_spec;
			struct parts p;
			struct ql a, b;
			struct err err;

			spec.in = row[i].in;
			spec.groups = row[i].groups;
			spec.group_size = row[i].size;
			random_layer(&a, &spec, 1);
			must(parts_write(&p, &a, &qf_gptq, &err), &err);
			p.module.count = map ? 4 : 3;
			read_as(&p, &hint, &qf_gptq, &b, row[i].odd |
				(map ? 0 : QF_ODD_GIDX_MISSING));
			same_layer(&a, &b);
			ql_release(&a);
			ql_release(&b);
			parts_free(&p);
		}
}

/* One group per row and an act-order: there is nothing to order. */
static void test_one_group_with_act_order(void **state)
{
	struct qf_hint hint = { .sym = 0, .desc_act = 1, .bits = 4,
				.group_size = -1 };
	struct ql_spec spec = plain_spec;
	struct parts p;
	struct ql a, b;
	struct err err;

	(void)state;
	spec.groups = 1;
	spec.group_size = spec.in;
	random_layer(&a, &spec, 1);
	must(parts_write(&p, &a, &qf_gptq, &err), &err);
	for (uint32_t count = 4; count > 2; count--) {
		p.module.count = count; /* with g_idx, all 0, and without */
		read_as(&p, &hint, &qf_gptq, &b,
			count == 4 ? 0 : QF_ODD_GIDX_MISSING);
		assert_int_equal(b.spec.act_order, 0);
		same_layer(&a, &b);
		ql_release(&b);
	}
	ql_release(&a);
	parts_free(&p);
}

/* With headers only (as over a network) the spec is read, the layer is not. */
static void test_headers_only(void **state)
{
	struct qf_hint hint = { .sym = 1, .desc_act = 1, .bits = 4,
				.group_size = 32, .format = "gptq" };
	struct qf_layer layer = { .hint = &hint };
	struct ql_spec spec;
	struct parts p;
	struct ql a, b;
	struct err err;

	(void)state;
	random_layer(&a, &plain_spec, 1);
	must(parts_write(&p, &a, &qf_gptq, &err), &err);
	for (uint32_t i = 0; i < p.plan.count; i++)
		p.tensor[i].data = NULL;
	layer.module = &p.module;
	must(qf_gptq.spec(&layer, &spec, &err), &err);
	assert_int_equal(layer.odd, 0);
	assert_int_equal(spec.bits, 4);
	assert_int_equal(spec.in, 96);
	assert_int_equal(spec.group_size, 32);
	assert_int_equal(spec.sym, 1);
	assert_int_equal(spec.act_order, 1);
	assert_int_equal(qf_gptq.read(&layer, &b, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	ql_release(&a);
	parts_free(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_v1_zero_0_is_repaired_or_refused),
		cmocka_unit_test(test_zero_2_to_the_bits),
		cmocka_unit_test(test_what_v1_and_v2_cannot_hold),
		cmocka_unit_test(test_symmetric_constants_beat_the_label),
		cmocka_unit_test(test_sym_without_a_constant),
		cmocka_unit_test(test_v1_fields_of_all_ones),
		cmocka_unit_test(test_unusual_g_idx),
		cmocka_unit_test(test_inputs_without_g_idx),
		cmocka_unit_test(test_maps_of_all_kinds),
		cmocka_unit_test(test_group_sizes),
		cmocka_unit_test(test_one_group_with_act_order),
		cmocka_unit_test(test_headers_only),
	};

	return cmocka_run_group_tests_name("qfmt_odd", tests, NULL, NULL);
}
