/* GPTQ v1 and v2 on made-up layers: every width and ragged shape, what cannot
 * be stored, tensors that contradict their label, and modules of nonsense. */
#include "parts.h"

#include <stdio.h>

static const uint8_t widths[] = { 2, 3, 4, 8 };

/* ---- random layers ---- */

static struct ql_spec random_spec(void)
{
	struct ql_spec s;

	memset(&s, 0, sizeof(s));
	s.bits = widths[rnd(4)];
	s.out = 1 + rnd(70);
	s.in = 1 + rnd(200);
	s.group_size = rnd(3) ? 1 + rnd(s.in) : s.in;
	s.groups = (s.in - 1) / s.group_size + 1;
	s.act_order = (uint8_t)rnd(2);
	s.scale_type = rnd(2) ? DT_F16 : DT_F32;
	return s;
}

/* Whatever shape a layer has, it comes back as it was, from both layouts, with
 * the config's help where the shapes of tiny layers leave a choice. */
static void test_random_layers_round_trip(void **state)
{
	struct err err;

	(void)state;
	for (uint32_t round = 0; round < 600; round++) {
		const struct qfmt *f = rnd(2) ? &qf_gptq : &qf_gptq_v2;
		struct ql_spec spec = random_spec();
		struct qf_hint hint = { .bits = spec.bits, .sym = 0,
			.group_size = (int32_t)spec.group_size,
			.desc_act = 1, .format = f->name, .in = spec.in };
		struct qf_layer layer = { .hint = &hint };
		struct parts p;
		struct ql a, b;

		random_layer(&a, &spec, f == &qf_gptq);
		must(parts_write(&p, &a, f, &err), &err);
		layer.module = &p.module;
		assert_ptr_equal(qf_recognise(&p.module, &hint), f);
		must(f->read(&layer, &b, &err), &err);
		assert_int_equal(layer.odd, 0);
		assert_memory_equal(&a.spec, &b.spec, sizeof(spec));
		assert_memory_equal(a.code, b.code,
				    (size_t)spec.out * spec.in);
		assert_memory_equal(a.scale, b.scale,
				    4 * (size_t)spec.out * spec.groups);
		assert_memory_equal(a.zero, b.zero,
				    4 * (size_t)spec.out * spec.groups);
		assert_memory_equal(a.group_of, b.group_of, 4 * spec.in);
		ql_release(&a);
		ql_release(&b);
		parts_free(&p);
	}
}

static const struct ql_spec plain_spec = { .out = 64, .in = 96, .groups = 3,
	.group_size = 32, .bits = 4, .zero_kind = QL_POINT,
	.scale_type = DT_F16 };

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

static void read_as(struct parts *p, const struct qf_hint *hint,
		    const struct qfmt *f, struct ql *ql, uint32_t odd)
{
	struct qf_layer layer = { .module = &p->module, .hint = hint };
	struct err err;

	assert_ptr_equal(qf_recognise(&p->module, hint), f);
	must(f->read(&layer, ql, &err), &err);
	assert_int_equal(layer.odd, odd);
}

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

/* Section 3.4's examples. */
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
	assert_non_null(strstr(err.msg, "m.qweight: shape [12, 64] does not "
					"match 288 inputs"));
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

/* ---- hostile modules ---- */

static const char *const part_names[] = { "m.g_idx", "m.qweight", "m.qzeros",
	"m.scales", "m.bias", "m.weight" };

/* Mostly near what fits a layer of 64 x 32, sometimes far off. */
static uint64_t odd_dim(uint32_t near)
{
	switch (rnd(40)) {
	case 0:
		return rnd(4);
	case 1:
		return near + 1;
	case 2:
		return near ? near - 1 : 0;
	default:
		return near;
	}
}

static void odd_tensor(struct tensor *t, uint32_t which, uint32_t bits)
{
	static const enum dtype types[] = { DT_I32, DT_I32, DT_I32, DT_F16,
		DT_F16, DT_F16, DT_I64, DT_BF16, DT_F32, DT_I16, DT_U8 };
	const uint32_t near[][2] = { { 64, 0 }, { 2 * bits, 32 }, { 2, bits },
		{ 2, 32 }, { 32, 0 }, { 32, 64 } };
	uint8_t *data;

	memset(t, 0, sizeof(*t));
	t->name = part_names[which];
	t->type = rnd(40) ? types[which] : types[rnd(11)];
	t->rank = near[which][1] ? 2 : 1;
	if (!rnd(40))
		t->rank = (int)rnd(4);
	t->size = tensor_dtype_bits(t->type) / 8;
	for (int i = 0; i < t->rank; i++) {
		t->dim[i] = odd_dim(near[which][i & 1]);
		t->size *= t->dim[i];
	}
	t->data = data = malloc(t->size + !t->size);
	for (uint64_t i = 0; i < t->size; i++)
		data[i] = (uint8_t)(which ? rnd(256) : i % 4 == 0 && !rnd(64));
}

/* Whatever the shapes, types and hints: a message, or a layer whose groups are
 * in range.  (The sanitizers watch the edges of each tensor.) */
static void test_arbitrary_modules(void **state)
{
	static const char *const labels[] = { NULL, "gptq", "gptq_v2",
					      "gptq_p", "awq" };
	uint32_t good = 0, bad = 0;

	(void)state;
	for (uint32_t round = 0; round < 20000; round++) {
		struct tensor t[6];
		struct qf_module m = { "m", t, 0 };
		struct qf_hint hint = { .bits = (uint8_t)rnd(12),
			.group_size = (int32_t)rnd(70) - 2,
			.desc_act = (int8_t)(rnd(3)) - 1,
			.sym = (int8_t)(rnd(3)) - 1, .format = labels[rnd(5)],
			.by_gptqmodel = (uint8_t)rnd(2),
			.swap3 = (uint8_t)rnd(2), .in = rnd(2) ? 64 : 0 };
		struct qf_layer l = { .module = &m, .hint = &hint };
		uint32_t bits = widths[rnd(4)];
		const struct qfmt *f;
		struct err err = { 0, "" };
		struct ql ql;

		for (uint32_t i = 0; i < 6; i++)
			if (i < 4 ? rnd(20) : !rnd(8))
				odd_tensor(&t[m.count++], i, bits);
		f = qf_recognise(&m, &hint);
		if (f && f->read(&l, &ql, &err)) {
			assert_true(err.code == ERR_INPUT ||
				    err.code == ERR_UNSUP);
			assert_true(strlen(err.msg) > 8);
			bad++;
		} else if (f) {
			for (uint32_t k = 0; k < ql.spec.in; k++)
				assert_true(ql.group_of[k] < ql.spec.groups);
			ql_release(&ql);
			good++;
		}
		for (uint32_t i = 0; i < m.count; i++)
			free((void *)(uintptr_t)t[i].data);
	}
	assert_true(good > 1000);
	assert_true(bad > 1000);
}

/* ---- whose module is it ---- */

static void test_whose_module_it_is(void **state)
{
	static const struct {
		const char *suffix[3];
		enum dtype type[3];
		uint64_t dim[3][2];
		const struct qfmt *format;
	} other[] = {
		{ { "weight" }, { DT_F16 }, { { 64, 64 } }, NULL },
		{ { "qweight", "qzeros", "scales" }, /* AWQ GEMM */
		  { DT_I32, DT_I32, DT_F16 },
		  { { 128, 8 }, { 4, 8 }, { 4, 64 } }, &qf_awq },
		{ { "qweight", "qzeros", "scales" }, /* AWQ GEMV */
		  { DT_I32, DT_I32, DT_F16 },
		  { { 64, 16 }, { 64, 1 }, { 64, 8 } }, &qf_awq_gemv },
		{ { "qweight", "qzeros", "scales" }, /* AWQ GEMV_FAST */
		  { DT_I16, DT_F16, DT_F16 },
		  { { 16, 128 }, { 8, 64 }, { 8, 64 } }, &qf_awq_fast },
		{ { "qweight", "zeros", "scales" }, /* generation 0 */
		  { DT_I32, DT_F32, DT_F32 },
		  { { 16, 64 }, { 64, 1 }, { 64, 1 } }, &qf_llama },
		{ { "q_weight", "q_scale", "q_groups" }, /* EXL2 */
		  { DT_I32, DT_I32, DT_I16 },
		  { { 16, 64 }, { 4, 8 }, { 8, 1 } }, NULL },
		{ { "weight_packed", "weight_scale" },
		  { DT_I32, DT_BF16 }, { { 32, 8 }, { 32, 2 } }, &qf_ct },
		{ { "B", "s" }, { DT_I32, DT_F16 },
		  { { 8, 512 }, { 1, 256 } }, &qf_marlin },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); i++) {
		struct tensor t[3];
		char name[3][32];
		struct qf_module m = { "m", t, 0 };
		struct qf_hint hint = { .sym = -1, .desc_act = -1 };

		memset(t, 0, sizeof(t));
		for (uint32_t j = 0; j < 3 && other[i].suffix[j]; j++) {
			snprintf(name[j], sizeof(name[j]), "m.%s",
				 other[i].suffix[j]);
			t[j].name = name[j];
			t[j].type = other[i].type[j];
			t[j].rank = 2;
			t[j].dim[0] = other[i].dim[j][0];
			t[j].dim[1] = other[i].dim[j][1];
			m.count++;
		}
		assert_ptr_equal(qf_recognise(&m, &hint), other[i].format);
		assert_ptr_equal(qf_recognise(&m, NULL), other[i].format);
	}
	assert_ptr_equal(qf_find("gptq"), &qf_gptq);
	assert_ptr_equal(qf_find("gptq_v2"), &qf_gptq_v2);
	assert_null(qf_find("gptq_v3"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_layers_round_trip),
		cmocka_unit_test(test_v1_zero_0_is_repaired_or_refused),
		cmocka_unit_test(test_zero_2_to_the_bits),
		cmocka_unit_test(test_what_v1_and_v2_cannot_hold),
		cmocka_unit_test(test_symmetric_constants_beat_the_label),
		cmocka_unit_test(test_sym_without_a_constant),
		cmocka_unit_test(test_v1_fields_of_all_ones),
		cmocka_unit_test(test_unusual_g_idx),
		cmocka_unit_test(test_inputs_without_g_idx),
		cmocka_unit_test(test_headers_only),
		cmocka_unit_test(test_arbitrary_modules),
		cmocka_unit_test(test_whose_module_it_is),
	};

	return cmocka_run_group_tests_name("qfmt_odd", tests, NULL, NULL);
}
