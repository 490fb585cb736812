/* AWQ, compressed-tensors, Marlin and the early GPTQ-for-LLaMa: the golden
 * layers bit for bit, written back where the layout is written, and turned
 * into each other. */
#include "golden.h"

#include <math.h>

static uint32_t each(const char *dir, const char *prefix,
		     void (*fn)(const char *dir, const char *name))
{
	char **names;
	struct err err;
	uint32_t count, done = 0;

	must(io_list(dir, &names, &count, &err), &err);
	for (uint32_t i = 0; i < count; i++)
		if (starts_with(names[i], prefix)) {
			fn(dir, names[i]);
			done++;
		}
	free(names);
	return done;
}

/* The first and last rows of the weight, where only those are stored. */
static uint32_t wrong_rows(const struct ql *ql, const struct tensor *want)
{
	uint32_t size = tensor_dtype_bits(want->type) / 8, wrong = 0;
	uint32_t rows = (uint32_t)want->dim[0], in = ql->spec.in;
	const uint8_t *w = want->data;
	float *row = malloc(in * sizeof(float));
	uint8_t *bytes = malloc((size_t)in * size);

	assert_int_equal(want->dim[1], in);
	for (uint32_t i = 0; i < rows; i++, w += (size_t)in * size) {
		ql_dequant_row(ql, i < rows / 2 ? i : ql->spec.out - rows + i,
			       row);
		assert_int_equal(tensor_store_f32(row, in, want->type, bytes),
				 0);
		wrong += memcmp(bytes, w, (size_t)in * size) != 0;
	}
	free(row);
	free(bytes);
	return wrong;
}

static void read_quietly(struct golden *g, struct ql *ql,
			 const struct qfmt *want)
{
	assert_ptr_equal(g->fmt, want);
	golden_read(g, ql);
	if (g->layer.odd)
		fail_msg("%s: odd 0x%x", g->module.name, g->layer.odd);
	assert_facts(g, ql);
}

/* Read back what `f` writes of it, and compare the weights. */
static void assert_survives(const struct ql *ql, const struct qfmt *f,
			    const struct qf_hint *hint)
{
	struct qf_hint h = *hint;
	struct qf_layer l = { .hint = &h };
	struct parts p;
	struct ql back;
	struct ql_diff d;
	struct err err;

	h.format = f->name;
	must(parts_write(&p, ql, f, &err), &err);
	l.module = &p.module;
	assert_ptr_equal(qf_recognise(&p.module, &h), f);
	must(f->read(&l, &back, &err), &err);
	must(ql_check(&back, &err), &err);
	must(ql_compare(ql, &back, &d, &err), &err);
	assert_int_equal(d.unequal, 0);
	ql_release(&back);
	parts_free(&p);
}

/* ---- AWQ ---- */

static void awq_gemm(const char *dir, const char *name)
{
	struct golden g, v1;
	struct err err;
	struct ql ql, other;
	struct ql_diff d;
	struct parts p;

	golden_open(&g, dir, name, "model.safetensors");
	read_quietly(&g, &ql, &qf_awq);
	assert_int_equal(wrong_weights(&ql, expected_of(&g, ".weight")), 0);
	assert_written_back(&g, &ql, &qf_awq);
	assert_survives(&ql, &qf_gptq_v2, &g.hint);
	assert_survives(&ql, &qf_ct, &g.hint);
	/* the project's own conversion; it has no g_idx, and it loses zeros of
	 * 0, where v1 takes the layer only if its codes can move */
	golden_open(&v1, dir, name, "exllama.safetensors");
	v1.hint.format = "gptq";
	v1.fmt = qf_recognise(&v1.module, &v1.hint);
	assert_ptr_equal(v1.fmt, &qf_gptq);
	if (strstr(name, "zero0")) {
		if (parts_write(&p, &ql, &qf_gptq, &err))
			assert_int_equal(err.code, ERR_UNSUP);
		parts_free(&p);
	} else {
		must(v1.fmt->read(&v1.layer, &other, &err), &err);
		must(ql_compare(&ql, &other, &d, &err), &err);
		assert_int_equal(d.unequal, 0);
		ql_release(&other);
		must(parts_write(&p, &ql, &qf_gptq, &err), &err);
		for (uint32_t i = 0; i < v1.module.count; i++) {
			const struct tensor *t = &v1.part[i];
			const struct tensor *n = qf_part(&p.module,
				strrchr(t->name, '.') + 1);

			if (!n) /* the bias */
				continue;
			assert_int_equal(t->size, n->size);
			assert_memory_equal(t->data, n->data, t->size);
		}
		parts_free(&p);
	}
	ql_release(&ql);
	golden_close(&v1);
	golden_close(&g);
}

static void test_awq_gemm(void **state)
{
	(void)state;
	assert_int_equal(each("tests/golden/awq", "awq_gemm_", awq_gemm), 4);
}

static void awq_read_only(const char *dir, const char *name)
{
	bool fast = strstr(name, "fast") != NULL;
	struct golden g;
	struct ql ql;
	struct err err;

	golden_open(&g, dir, name, "model.safetensors");
	read_quietly(&g, &ql, fast ? &qf_awq_fast : &qf_awq_gemv);
	assert_int_equal(ql.spec.zero_kind, QL_POINT);
	assert_int_equal(wrong_weights(&ql, expected_of(&g, ".weight")), 0);
	assert_survives(&ql, &qf_awq, &g.hint);
	assert_survives(&ql, &qf_gptq_v2, &g.hint);
	assert_int_equal(g.fmt->accept(&ql.spec, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	ql_release(&ql);
	/* the group size is found without a config, too */
	g.layer.hint = NULL;
	must(g.fmt->read(&g.layer, &ql, &err), &err);
	assert_int_equal(ql.spec.group_size, 64);
	ql_release(&ql);
	golden_close(&g);
}

static void test_awq_gemv(void **state)
{
	(void)state;
	assert_int_equal(each("tests/golden/awq", "awq_gemv_",
			      awq_read_only), 2);
}

/* ---- compressed-tensors ---- */

static void ct(const char *dir, const char *name)
{
	struct golden g;
	struct ql ql;

	golden_open(&g, dir, name, "model.safetensors");
	read_quietly(&g, &ql, &qf_ct);
	assert_int_equal(wrong_weights(&ql, expected_of(&g, ".weight")), 0);
	assert_written_back(&g, &ql, &qf_ct);
	assert_survives(&ql, &qf_gptq_v2, &g.hint);
	ql_release(&ql);
	golden_close(&g);
}

static void test_compressed_tensors(void **state)
{
	(void)state;
	assert_int_equal(each("tests/golden/compressed_tensors", "ct_", ct),
			 10);
}

/* ---- Marlin ---- */

static void marlin(const char *dir, const char *name)
{
	struct golden g, v1;
	struct ql ql, other;

	golden_open(&g, dir, name, "marlin.safetensors");
	read_quietly(&g, &ql, &qf_marlin);
	assert_int_equal(wrong_rows(&ql, expected_of(&g, ".weight_rows")), 0);
	assert_written_back(&g, &ql, &qf_marlin);
	golden_open(&v1, dir, name, "gptq.safetensors");
	v1.hint.format = "gptq";
	v1.fmt = qf_recognise(&v1.module, &v1.hint);
	read_quietly(&v1, &other, &qf_gptq);
	assert_written_back(&g, &other, &qf_marlin);
	assert_written_back(&v1, &ql, &qf_gptq);
	ql_release(&ql);
	ql_release(&other);
	golden_close(&v1);
	golden_close(&g);
}

static void test_marlin(void **state)
{
	(void)state;
	assert_int_equal(each("tests/golden/marlin", "marlin_", marlin), 2);
}

/* One group of as many inputs as there are has its scales in the order of one
 * group, whether the config calls that -1 or 128. */
static void test_marlin_of_one_group(void **state)
{
	static const int32_t sizes[] = { -1, 128, 0 };
	struct golden g;
	struct ql ql;

	(void)state;
	golden_open(&g, "tests/golden/marlin", "marlin_b4_gch_k128_n256",
		    "marlin.safetensors");
	for (int i = 0; i < 3; i++) {
		g.hint.group_size = sizes[i];
		read_quietly(&g, &ql, &qf_marlin);
		assert_int_equal(wrong_rows(&ql, expected_of(&g,
					    ".weight_rows")), 0);
		assert_written_back(&g, &ql, &qf_marlin);
		ql_release(&ql);
	}
	golden_close(&g);
}

/* ---- GPTQ-for-LLaMa ---- */

/* scale * code - scale * zero is rounded there more often than here: one step
 * of the larger of the two may lie between.  `want` may be the first and last
 * rows alone. */
static void assert_near(const struct ql *ql, const struct tensor *want)
{
	uint32_t in = ql->spec.in, rows = (uint32_t)want->dim[0];
	float *row = malloc(in * sizeof(float)), *w = malloc(in * 4);

	assert_int_equal(want->dim[1], in);
	for (uint32_t i = 0; i < rows; i++) {
		uint32_t n = i < rows / 2 ? i : ql->spec.out - rows + i;

		ql_dequant_row(ql, n, row);
		tensor_load_f32(want, (uint64_t)i * in, in, w);
		for (uint32_t k = 0; k < in; k++) {
			size_t at = (size_t)n * ql->spec.groups +
				    ql->group_of[k];
			float s = ql->scale[at];
			float q = ql->code[(size_t)n * in + k];
			float top = fmaxf(fabsf(s * q),
					  fabsf(s * ql->zero[at]));

			assert_true(fabsf(row[k] - w[k]) <=
				    nextafterf(top, INFINITY) - top);
		}
	}
	free(row);
	free(w);
}

static void generation_0(const char *dir, const char *name)
{
	struct golden g;
	struct ql ql;
	struct err err;
	uint32_t in = 0;

	if (strstr(name, "a270974")) /* generation 1 */
		return;
	golden_open(&g, dir, name, "model.safetensors");
	must(json_get_u32(g.facts, "in_features", 1, 1u << 20, &in, &err),
	     &err);
	g.hint.in = in;
	read_quietly(&g, &ql, &qf_llama);
	assert_int_equal(ql.spec.zero_kind, QL_POINT);
	assert_near(&ql, expected_of(&g, ".weight"));
	assert_survives(&ql, &qf_gptq_v2, &g.hint);
	ql_release(&ql);
	/* bits do as well as inputs; with neither it is refused */
	g.hint.bits = 4;
	g.hint.in = 0;
	if (strstr(name, "_b4")) {
		must(qf_llama.read(&g.layer, &ql, &err), &err);
		assert_int_equal(ql.spec.in, in);
		ql_release(&ql);
	}
	g.hint.bits = 0;
	assert_int_equal(qf_llama.read(&g.layer, &ql, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	golden_close(&g);
}

static void test_generation_0(void **state)
{
	(void)state;
	assert_int_equal(each("tests/golden/torch_pt", "qwop_old_",
			      generation_0), 5);
}

/* Zeros that are no multiple of the scale stay what they are. */
static void test_float_zeros(void **state)
{
	uint32_t words[2 * 3] = { 0x76543210, 0x11111111, 0, 0xFEDCBA98,
				  0x22222222, UINT32_MAX };
	float scale[3] = { 0.5f, 0.25f, 0 }, zero[3] = { 1.5f, 0.3f, 0 };
	struct tensor t[3] = {
		{ .name = "m.qweight", .type = DT_I32, .rank = 2,
		  .dim = { 2, 3 }, .data = words, .size = 24 },
		{ .name = "m.scales", .type = DT_F32, .rank = 2,
		  .dim = { 3, 1 }, .data = scale, .size = 12 },
		{ .name = "m.zeros", .type = DT_F32, .rank = 2,
		  .dim = { 3, 1 }, .data = zero, .size = 12 },
	};
	struct qf_module m = { "m", t, 3 };
	struct qf_hint hint = { .bits = 4, .desc_act = -1, .sym = -1 };
	struct qf_layer l = { .module = &m, .hint = &hint };
	struct ql ql;
	struct err err;
	float row[16];

	(void)state;
	must(qf_llama.read(&l, &ql, &err), &err);
	assert_int_equal(ql.spec.zero_kind, QL_OFFSET);
	assert_int_equal(ql.spec.in, 16);
	ql_dequant_row(&ql, 1, row);
	assert_true(row[8] == 0.25f * 2 - 0.3f);
	assert_int_equal(qf_gptq.accept(&ql.spec, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	assert_int_equal(qf_awq.accept(&ql.spec, &err), -1);
	assert_int_equal(qf_ct.accept(&ql.spec, &err), -1);
	ql_release(&ql);
	/* not even one that is wrong in its last bit */
	zero[1] = nextafterf(0.75f, 1);
	must(qf_llama.read(&l, &ql, &err), &err);
	assert_int_equal(ql.spec.zero_kind, QL_OFFSET);
	ql_dequant_row(&ql, 1, row);
	assert_true(row[8] == 0.25f * 2 - zero[1]);
	ql_release(&ql);
	zero[1] = 0.75f;
	must(qf_llama.read(&l, &ql, &err), &err);
	assert_int_equal(ql.spec.zero_kind, QL_POINT);
	assert_true(ql.zero[0] == 3 && ql.zero[1] == 3 && ql.zero[2] == 8);
	ql_release(&ql);
}

static void test_generation_1(void **state)
{
	struct golden g;
	struct ql ql;

	(void)state;
	golden_open(&g, "tests/golden/torch_pt", "qwop_old_a270974_b2_g128",
		    "model.safetensors");
	assert_ptr_equal(g.fmt, &qf_gptq);
	golden_read(&g, &ql);
	assert_int_equal(g.layer.odd & ~(uint32_t)QF_ODD_GIDX_MISSING &
			 ~(uint32_t)QF_ODD_ZERO_WRAP, 0);
	assert_int_equal(ql.spec.scale_type, DT_F32);
	assert_facts(&g, &ql);
	assert_near(&ql, expected_of(&g, ".weight_rows"));
	ql_release(&ql);
	golden_close(&g);
}

/* ---- made-up layers, there and back ---- */

/* What `spec` can be written as, by the rules of the formats. */
static bool fits(const struct qfmt *f, const struct ql_spec *s)
{
	bool even = s->in % s->group_size == 0;

	if (f == &qf_ct)
		return even;
	if (f == &qf_gptq || f == &qf_gptq_v2)
		return s->bits <= 4 || s->bits == 8;
	if (f == &qf_gptq_p)
		return s->in % 32 == 0 && s->out % 32 == 0;
	if (f == &qf_awq)
		return s->bits == 4 && !s->act_order && even &&
		       s->out % 8 == 0;
	return s->bits == 4 && s->sym && !s->act_order && s->in % 128 == 0 &&
	       s->out % 256 == 0 && even &&
	       (s->groups == 1 || s->group_size == 128);
}

/* The bytes of a in layout f, and of what g holds of it, in f again. */
static void there_and_back(const struct ql *ql, const struct qfmt *f,
			   const struct qfmt *g)
{
	struct qf_hint hint = { .bits = ql->spec.bits, .desc_act = -1,
		.sym = ql->spec.sym ? 1 : 0, .in = ql->spec.in,
		.group_size = (int32_t)ql->spec.group_size };
	struct qf_layer l = { .hint = &hint };
	const struct qfmt *const path[2] = { f, g };
	struct parts p[2], again;
	struct ql a[2];
	struct err err;

	for (int i = 0; i < 2; i++) {
		must(parts_write(&p[i], i ? &a[0] : ql, path[i], &err), &err);
		hint.format = path[i]->name;
		l.module = &p[i].module;
		assert_ptr_equal(qf_recognise(l.module, &hint), path[i]);
		must(path[i]->read(&l, &a[i], &err), &err);
		must(ql_check(&a[i], &err), &err);
		assert_memory_equal(&a[i].spec, &ql->spec, sizeof(ql->spec));
	}
	must(parts_write(&again, &a[1], f, &err), &err);
	assert_int_equal(again.plan.count, p[0].plan.count);
	for (uint32_t i = 0; i < again.plan.count; i++) {
		assert_int_equal(again.plan.part[i].bytes,
				 p[0].plan.part[i].bytes);
		assert_memory_equal(again.part[i], p[0].part[i],
				    again.plan.part[i].bytes);
	}
	for (int i = 0; i < 2; i++) {
		ql_release(&a[i]);
		parts_free(&p[i]);
	}
	parts_free(&again);
}

/* All pairs for one layer; counts what was refused and what went through. */
static void all_pairs(const struct ql *ql, uint32_t *good, uint32_t *bad)
{
	static const struct qfmt *const all[] = { &qf_gptq, &qf_gptq_v2,
		&qf_gptq_p, &qf_awq, &qf_ct, &qf_marlin };
	struct err err;

	for (size_t i = 0; i < 6; i++)
		for (size_t k = 0; k < 6; k++) {
			/* one group per row becomes several in awq */
			if (ql->spec.groups == 1 && ql->spec.in > 128 &&
			    (all[i] == &qf_awq || all[k] == &qf_awq))
				continue;
			if (fits(all[i], &ql->spec) &&
			    fits(all[k], &ql->spec)) {
				there_and_back(ql, all[i], all[k]);
				++*good;
			}
			if (fits(all[k], &ql->spec))
				continue;
			assert_int_equal(all[k]->accept(&ql->spec, &err), -1);
			assert_int_equal(err.code, ERR_UNSUP);
			assert_true(strlen(err.msg) > 10);
			++*bad;
		}
}

static void test_all_pairs(void **state)
{
	static const uint32_t in[] = { 128, 256, 160, 72 };
	static const uint32_t out[] = { 256, 64, 40 };
	static const uint32_t gs[] = { 32, 64, 128, 0 };
	uint32_t good = 0, bad = 0;

	(void)state;
	for (uint32_t i = 0; i < 4 * 3 * 4 * 7 * 2 * 2; i++) {
		uint32_t k = in[i % 4], size = gs[i / 12 % 4];
		struct ql_spec s = { .in = k, .out = out[i / 4 % 3],
			.bits = (uint8_t)(2 + i / 48 % 7),
			.sym = i / 336 % 2, .act_order = (uint8_t)(i / 672),
			.scale_type = DT_F16 };
		struct ql ql;

		s.group_size = size && size < k ? size : k;
		s.groups = (k - 1) / s.group_size + 1;
		/* a zero of 0, and one of all ones at v1, are of other tests */
		random_layer(&ql, &s, 1);
		all_pairs(&ql, &good, &bad);
		ql_release(&ql);
	}
	assert_true(good > 2000);
	assert_true(bad > 2000);
}

/* One group per row is split into real groups for readers of AWQ. */
static void test_awq_splits(void **state)
{
	struct ql_spec s = { .in = 256, .out = 64, .bits = 4, .groups = 1,
		.group_size = 256, .scale_type = DT_F16 };
	struct qf_hint hint = { .desc_act = -1, .sym = -1 };
	struct qf_plan plan;
	struct err err;
	struct ql ql;

	(void)state;
	random_layer(&ql, &s, 0);
	must(qf_awq.plan(&ql.spec, &plan, &err), &err);
	assert_int_equal(plan.part[2].dim[0], 2);
	assert_survives(&ql, &qf_awq, &hint);
	/* a v1 zero of 16 has no field */
	ql.zero[3] = 16;
	{
		struct parts p;

		assert_int_equal(parts_write(&p, &ql, &qf_awq, &err), -1);
		assert_int_equal(err.code, ERR_UNSUP);
		parts_free(&p);
	}
	ql_release(&ql);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_awq_gemm),
		cmocka_unit_test(test_awq_gemv),
		cmocka_unit_test(test_compressed_tensors),
		cmocka_unit_test(test_marlin),
		cmocka_unit_test(test_marlin_of_one_group),
		cmocka_unit_test(test_generation_0),
		cmocka_unit_test(test_float_zeros),
		cmocka_unit_test(test_generation_1),
		cmocka_unit_test(test_all_pairs),
		cmocka_unit_test(test_awq_splits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
