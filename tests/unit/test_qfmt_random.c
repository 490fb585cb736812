/* Layers and modules of chance: every width and ragged shape comes back, and
 * nonsense gets a message; also, whose module is what. */
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
			.swap3 = (uint8_t)rnd(2), .in = rnd(2) ? 64 : 0,
			.out = rnd(2) ? 1 + rnd(40) : 0 };
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
		cmocka_unit_test(test_arbitrary_modules),
		cmocka_unit_test(test_whose_module_it_is),
	};

	return cmocka_run_group_tests_name("qfmt_random", tests, NULL, NULL);
}
