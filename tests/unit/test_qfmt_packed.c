/* GPTQ v1 and v2 in files: the golden layers bit for bit, both ways, and the
 * damaged ones with the message or the odd bit that each deserves. */
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/base/json.h"
#include "../../libfmt/container/st.h"
#include "golden.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define V1_DIR "tests/golden/gptq_v1"
#define V2_DIR "tests/golden/gptq_v2"
#define SEM_DIR "tests/golden/malformed"

/* The whole file: parts as f writes them, other tensors as they were. */
static void assert_file_is(const struct golden *g, const struct ql *ql,
			   const struct qfmt *f)
{
	char path[] = "/tmp/gptq-test-XXXXXX";
	struct st_writer *w;
	struct src *back;
	const void *a, *b;
	struct parts p;
	struct err err;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	must(parts_write(&p, ql, f, &err), &err);
	must(st_writer_new(&w, &err), &err);
	for (uint32_t i = 0; i < g->module.count; i++) {
		const struct tensor *t = &g->module.part[i];
		uint32_t id;

		must(st_writer_add(w, t->name, t->type, t->rank, t->dim, &id,
				   &err), &err);
		assert_int_equal(id, i);
	}
	must(st_writer_create_file(w, path, &err), &err);
	for (uint32_t i = 0; i < g->module.count; i++) {
		const struct tensor *t = &g->module.part[i];
		const struct tensor *n =
			qf_part(&p.module, strrchr(t->name, '.') + 1);

		must(st_writer_pour(w, i, 0, n ? n->data : t->data, t->size,
				    &err), &err);
	}
	must(st_writer_commit(w, &err), &err);
	st_writer_free(w);
	must(io_open(path, &back, &err), &err);
	assert_int_equal(io_size(back), io_size(g->src));
	must(io_view(back, 0, io_size(back), &a, &err), &err);
	must(io_view(g->src, 0, io_size(back), &b, &err), &err);
	assert_memory_equal(a, b, io_size(back));
	io_close(back);
	unlink(path);
	parts_free(&p);
}

/* Codes and zeros by the definition, one bit at a time. */
static uint32_t slow_field(const struct tensor *t, uint64_t at, size_t stride,
			   uint32_t b, uint64_t i)
{
	const uint8_t *words = t->data;
	uint32_t v = 0;

	for (uint32_t j = 0; j < b; j++) {
		uint64_t n = i * b + j;

		v |= (half_le32(words + 4 * (at + stride * (n / 32))) >>
			      n % 32 & 1u)
		     << j;
	}
	return v;
}

static void assert_codes_and_zeros(const struct golden *g, const struct ql *ql,
				   uint32_t bias)
{
	const struct tensor *q = qf_part(&g->module, "qweight");
	const struct tensor *z = qf_part(&g->module, "qzeros");
	const struct tensor *s = qf_part(&g->module, "scales");
	const struct ql_spec *spec = &ql->spec;

	for (uint32_t n = 0; n < spec->out; n++) {
		for (uint32_t k = 0; k < spec->in; k++)
			assert_int_equal(ql->code[n * spec->in + k],
					 slow_field(q, n, spec->out,
						    spec->bits, k));
		for (uint32_t i = 0; i < spec->groups; i++) {
			uint32_t f = slow_field(z, i * z->dim[1], 1,
						spec->bits, n);
			float want;

			tensor_load_f32(s, (uint64_t)i * spec->out + n, 1,
					&want);
			assert_true(ql->zero[n * spec->groups + i] ==
				    (float)(f + bias));
			assert_true(ql->scale[n * spec->groups + i] == want);
		}
	}
}

/* Each plain case: nothing odd, all values right, written back byte-equal. */
static uint32_t plain_cases(const char *dir, const char *prefix,
			    const struct qfmt *fmt, uint32_t bias)
{
	char **names;
	struct err err;
	uint32_t count, done = 0;

	must(io_list(dir, &names, &count, &err), &err);
	for (uint32_t i = 0; i < count; i++) {
		struct golden g;
		struct ql ql;

		if (!starts_with(names[i], prefix) ||
		    strstr(names[i], "zero0") || strstr(names[i], "legacy"))
			continue;
		golden_open(&g, dir, names[i], "model.safetensors");
		assert_ptr_equal(g.fmt, fmt);
		golden_read(&g, &ql);
		if (g.layer.odd)
			fail_msg("%s: odd 0x%x", names[i], g.layer.odd);
		assert_facts(&g, &ql);
		assert_codes_and_zeros(&g, &ql, bias);
		assert_int_equal(
			wrong_weights(&ql, expected_of(&g, ".weight")), 0);
		assert_written_back(&g, &ql, fmt);
		/* the sample with F32 scales has them behind the I32 tensors;
		 * the reference writer puts them in front */
		if (ql.spec.scale_type != DT_F32)
			assert_file_is(&g, &ql, fmt);
		ql_release(&ql);
		golden_close(&g);
		done++;
	}
	free(names);
	return done;
}

static void test_golden_v1(void **state)
{
	(void)state;
	assert_int_equal(plain_cases(V1_DIR, "v1_", &qf_gptq, 1), 61);
}

static void test_golden_v2(void **state)
{
	(void)state;
	assert_int_equal(plain_cases(V2_DIR, "v2_", &qf_gptq_v2, 0), 9);
}

/* model.safetensors is v2, v1.safetensors the same layer: each is read, and
 * written as the other. */
static void test_v1_and_v2_convert_into_each_other(void **state)
{
	char **names;
	struct err err;
	uint32_t count, done = 0;

	(void)state;
	must(io_list(V2_DIR, &names, &count, &err), &err);
	for (uint32_t i = 0; i < count; i++) {
		struct golden v1, v2;
		struct ql_diff d;
		struct ql a, b;

		if (!starts_with(names[i], "v2_") || strstr(names[i], "zero0"))
			continue;
		golden_open(&v1, V2_DIR, names[i], "v1.safetensors");
		golden_open(&v2, V2_DIR, names[i], "model.safetensors");
		v1.hint.format = "gptq";
		v1.fmt = qf_recognise(&v1.module, &v1.hint);
		assert_ptr_equal(v1.fmt, &qf_gptq);
		golden_read(&v1, &a);
		golden_read(&v2, &b);
		must(ql_compare(&a, &b, &d, &err), &err);
		assert_int_equal(d.unequal, 0);
		assert_file_is(&v2, &a, &qf_gptq_v2);
		assert_file_is(&v1, &b, &qf_gptq);
		ql_release(&a);
		ql_release(&b);
		golden_close(&v1);
		golden_close(&v2);
		done++;
	}
	free(names);
	assert_int_equal(done, 9);
}

/* ---- zero points of 0 ---- */

/* A v2 file holds them.  gptqmodel's own v1 of it loses nothing for a reader
 * that undoes its arithmetic; without the quantizer's name the fields above a
 * borrow come out wrong, and that is reported. */
static void test_zero_0_by_gptqmodel(void **state)
{
	static const char *const names[] = { "v2_zero0_b2_asym",
		"v2_zero0_b3_asym", "v2_zero0_b4_asym", "v2_zero0_b8_asym" };

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		struct golden v1, v2;
		struct ql ql;

		golden_open(&v2, V2_DIR, names[i], "model.safetensors");
		golden_read(&v2, &ql);
		assert_int_equal(v2.layer.odd, 0);
		assert_int_equal(
			wrong_weights(&ql, expected_of(&v2, ".weight")), 0);
		assert_written_back(&v2, &ql, &qf_gptq_v2);
		ql_release(&ql);

		golden_open(&v1, V2_DIR, names[i], "v1.safetensors");
		v1.hint.format = "gptq";
		v1.hint.by_gptqmodel = 1;
		v1.fmt = &qf_gptq;
		golden_read(&v1, &ql);
		assert_int_equal(v1.layer.odd, 0);
		assert_int_equal(
			wrong_weights(&ql, expected_of(&v1, ".weight")), 0);
		assert_written_back(&v2, &ql, &qf_gptq_v2);
		ql_release(&ql);

		v1.hint.by_gptqmodel = 0;
		golden_read(&v1, &ql);
		assert_true(v1.layer.odd &
			    (QF_ODD_ZERO_WRAP | QF_ODD_ZERO_SMEAR));
		assert_int_equal(
			wrong_weights(&ql, expected_of(&v1,
				".weight_v1_field_wrap")), 0);
		ql_release(&ql);
		golden_close(&v1);
		golden_close(&v2);
	}
}

/* AutoGPTQ's packer overflows: the loss is reported; the reading is the one of
 * the readers that wrap (at 3 bits none does). */
static void test_zero_0_smeared_by_autogptq(void **state)
{
	static const char *const names[] = { "v1_zero0_b2_asym",
		"v1_zero0_b3_asym", "v1_zero0_b4_asym", "v1_zero0_b8_asym" };

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		struct golden g;
		struct ql ql;

		golden_open(&g, V1_DIR, names[i], "model.safetensors");
		golden_read(&g, &ql);
		assert_int_equal(g.layer.odd, QF_ODD_ZERO_SMEAR);
		assert_int_equal(
			wrong_weights(&ql, expected_of(&g, ".weight_wrap")), 0);
		if (i == 1) /* nothing wrapped, so all can be written */
			assert_written_back(&g, &ql, &qf_gptq);
		ql_release(&ql);
		golden_close(&g);
	}
}

/* 3-bit v1 by gptqmodel 0.9.0 to 6.0.3: the symmetric file shows it, the
 * asymmetric one only by the version that wrote it. */
static void test_swapped_3_bit_constants(void **state)
{
	struct golden g, v2;
	struct ql ql;

	(void)state;
	golden_open(&g, V2_DIR, "v1_b3_legacy_gptqmodel_sym",
		    "model.safetensors");
	golden_open(&v2, V2_DIR, "v1_b3_legacy_gptqmodel_sym",
		    "v2.safetensors");
	golden_read(&g, &ql);
	assert_int_equal(g.layer.odd, QF_ODD_ZERO_SWAP3);
	assert_int_equal(ql.spec.sym, 1);
	assert_int_equal(wrong_weights(&ql, expected_of(&g, ".weight")), 0);
	assert_written_back(&v2, &ql, &qf_gptq_v2);
	ql_release(&ql);
	golden_close(&g);
	golden_close(&v2);

	golden_open(&g, V2_DIR, "v1_b3_legacy_gptqmodel_asym",
		    "model.safetensors");
	golden_read(&g, &ql);
	assert_int_equal(wrong_weights(&ql, expected_of(&g,
						".weight_misread")), 0);
	ql_release(&ql);
	g.hint.swap3 = g.hint.by_gptqmodel = 1;
	g.layer.odd = 0;
	golden_read(&g, &ql);
	assert_int_equal(g.layer.odd, QF_ODD_ZERO_SWAP3);
	assert_int_equal(wrong_weights(&ql, expected_of(&g, ".weight")), 0);
	ql_release(&ql);
	golden_close(&g);
}

/* 3, 5, 6 and 7 bits in planes: the weights, and the file again. */
static void test_golden_planar(void **state)
{
	char **names;
	struct err err;
	uint32_t count, done = 0;

	(void)state;
	must(io_list(V2_DIR, &names, &count, &err), &err);
	for (uint32_t i = 0; i < count; i++) {
		struct golden g;
		struct ql ql;

		if (!starts_with(names[i], "gptq_p_"))
			continue;
		golden_open(&g, V2_DIR, names[i], "model.safetensors");
		assert_ptr_equal(g.fmt, &qf_gptq_p);
		golden_read(&g, &ql);
		assert_int_equal(g.layer.odd, 0);
		assert_facts(&g, &ql);
		assert_int_equal(
			wrong_weights(&ql, expected_of(&g, ".weight")), 0);
		assert_file_is(&g, &ql, &qf_gptq_p);
		/* a stream has no such widths, and other words at 3 bits */
		assert_int_equal(qf_gptq_v2.accept(&ql.spec, &err),
				 ql.spec.bits == 3 ? 0 : -1);
		if (ql.spec.bits != 3)
			assert_int_equal(err.code, ERR_UNSUP);
		ql_release(&ql);
		golden_close(&g);
		done++;
	}
	free(names);
	assert_int_equal(done, 4);
}

/* ---- damaged layers ---- */

/* Each sem_* sample: the bits that must be set (and no others), or the whole
 * message behind the module's name. */
static const struct damaged {
	const char *name;
	uint32_t odd;
	const char *msg;
	int check_fails; /* ql_check refuses what could be read */
} damaged[] = {
	{ "sem_bias_length", QF_ODD_BIAS, NULL, 0 },
	{ "sem_bits_mismatch", QF_ODD_BITS, NULL, 0 },
	{ "sem_control", 0, NULL, 0 },
	{ "sem_g_idx_missing_act",
	  QF_ODD_GIDX_MISSING | QF_ODD_GIDX_ACT_MISSING, NULL, 0 },
	{ "sem_g_idx_missing_sequential", QF_ODD_GIDX_MISSING, NULL, 0 },
	{ "sem_g_idx_negative", 0,
	  "g_idx: group -1 of input 7 (expected 0 to 1)", 0 },
	{ "sem_g_idx_short", 0,
	  "g_idx: shape [63] does not match 64 inputs (expected [64])", 0 },
	{ "sem_g_idx_too_big", 0,
	  "g_idx: group 2 of input 5 (expected 0 to 1)", 0 },
	{ "sem_g_idx_uneven", QF_ODD_GIDX_UNEVEN | QF_ODD_ACT, NULL, 0 },
	{ "sem_group_size_mismatch", QF_ODD_GROUP, NULL, 0 },
	{ "sem_plain_and_quantized", QF_ODD_BOTH, NULL, 0 },
	{ "sem_qweight_cols", 0,
	  "qweight: shape [8, 24] does not match the 32 outputs of scales "
	  "[2, 32] (expected [8, 32])", 0 },
	{ "sem_qweight_dtype", 0, "qweight: type F32 (expected I32)", 0 },
	{ "sem_qweight_rows", 0,
	  "qweight: shape [7, 32] does not match 64 inputs at 4 bits "
	  "(expected [8, 32])", 0 },
	{ "sem_qzeros_cols", 0,
	  "qzeros: shape [2, 3] does not match 32 outputs at 4 bits "
	  "(expected [2, 4])", 0 },
	{ "sem_qzeros_missing", QF_ODD_QZEROS_MISSING, NULL, 0 },
	{ "sem_qzeros_rows", 0,
	  "qzeros: shape [1, 4] does not match the 2 groups of scales "
	  "(expected [2, 4])", 0 },
	{ "sem_scale_inf", QF_ODD_SCALE_BAD, NULL, 1 },
	{ "sem_scale_nan", QF_ODD_SCALE_BAD, NULL, 1 },
	{ "sem_scale_negative", QF_ODD_SCALE_NEG, NULL, 0 },
	{ "sem_scale_zero", QF_ODD_SCALE_ZERO, NULL, 0 },
	{ "sem_scales_dtype", 0,
	  "scales: type I16 (expected F16, BF16 or F32)", 0 },
	{ "sem_scales_missing", 0, "scales: missing", 0 },
	{ "sem_sym_zero_point_off", QF_ODD_SYM, NULL, 0 },
};

static void damaged_case(const struct damaged *c)
{
	char want[512];
	struct golden g;
	struct ql_packed packed;
	struct ql_spec spec;
	struct ql ql;
	struct err err;

	golden_open(&g, SEM_DIR, c->name, "model.safetensors");
	assert_ptr_equal(g.fmt, &qf_gptq);
	if (c->msg) {
		snprintf(want, sizeof(want), "%s.%s", g.module.name, c->msg);
		assert_int_equal(g.fmt->spec(&g.layer, &spec, &err), -1);
		assert_string_equal(err.msg, want);
		assert_int_equal(g.fmt->read(&g.layer, &ql, &err), -1);
		assert_string_equal(err.msg, want);
		assert_int_equal(err.code, ERR_INPUT);
		assert_null(ql.mem);
		assert_int_equal(qf_stored(g.fmt, &g.layer, &packed, &err),
				 -1);
		assert_string_equal(err.msg, want);
		assert_null(packed.group_of);
	} else {
		must(g.fmt->spec(&g.layer, &spec, &err), &err);
		must(g.fmt->read(&g.layer, &ql, &err), &err);
		assert_int_equal(g.layer.odd, c->odd);
		assert_int_equal(ql_check(&ql, &err), c->check_fails ? -1 : 0);
		assert_true(stored_is_read(&g, &ql));
		ql_release(&ql);
	}
	golden_close(&g);
}

static void test_damaged_layers(void **state)
{
	size_t known = sizeof(damaged) / sizeof(damaged[0]);
	char **names;
	struct err err;
	uint32_t count;

	(void)state;
	must(io_list(SEM_DIR, &names, &count, &err), &err);
	for (uint32_t i = 0; i < count; i++) {
		size_t j = 0;

		if (!starts_with(names[i], "sem_"))
			continue;
		while (j < known && strcmp(names[i], damaged[j].name) != 0)
			j++;
		if (j == known)
			fail_msg("no expectation for %s", names[i]);
	}
	free(names);
	for (size_t j = 0; j < known; j++)
		damaged_case(&damaged[j]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden_v1),
		cmocka_unit_test(test_golden_v2),
		cmocka_unit_test(test_v1_and_v2_convert_into_each_other),
		cmocka_unit_test(test_zero_0_by_gptqmodel),
		cmocka_unit_test(test_zero_0_smeared_by_autogptq),
		cmocka_unit_test(test_swapped_3_bit_constants),
		cmocka_unit_test(test_golden_planar),
		cmocka_unit_test(test_damaged_layers),
	};

	return cmocka_run_group_tests_name("qfmt_packed", tests, NULL, NULL);
}
