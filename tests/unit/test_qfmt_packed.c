/* GPTQ v1 and v2: the golden layers bit for bit, both ways; the damaged ones
 * with the message or the odd bit each deserves; and random layers of every
 * width and shape. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/base/json.h"
#include "../../libfmt/container/st.h"
#include "../../libfmt/layout/bits.h"
#include "../../libfmt/layout/qfmt.h"

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

static uint64_t seed = 1;

static uint32_t rnd(uint32_t below)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 33) % below;
}

/* ---- golden files ---- */

struct golden {
	struct src *src, *exp_src;
	struct st_file file, expected;
	struct cJSON *facts;
	struct qf_hint hint;
	struct qf_module module;
	struct qf_layer layer;
	const struct qfmt *fmt;
};

static void must(int ret, const struct err *err)
{
	if (ret)
		fail_msg("%s", err->msg);
}

static void hint_read(const struct cJSON *facts, struct qf_hint *h)
{
	const struct cJSON *c = json_find(facts, "quantization_config");
	struct err err;
	uint32_t bits = 0;
	bool yes;

	memset(h, 0, sizeof(*h));
	h->desc_act = h->sym = -1;
	must(json_get_u32(c, "bits", 2, 8, &bits, &err), &err);
	must(json_get_i32(c, "group_size", -1, 4096, &h->group_size, &err),
	     &err);
	must(json_get_text(c, "checkpoint_format", &h->format, &err), &err);
	h->bits = (uint8_t)bits;
	if (!json_bool(json_find(c, "desc_act"), &yes))
		h->desc_act = yes;
	if (!json_bool(json_find(c, "sym"), &yes))
		h->sym = yes;
}

/* Open DIR/NAME/`file` as one module with the hint of its case.json. */
static void golden_open(struct golden *g, const char *dir, const char *name,
			const char *file)
{
	char path[512];
	struct err err;

	memset(g, 0, sizeof(*g));
	snprintf(path, sizeof(path), "%s/%s/case.json", dir, name);
	must(json_read_file(path, &g->facts, &err), &err);
	snprintf(path, sizeof(path), "%s/%s/%s", dir, name, file);
	must(io_open(path, &g->src, &err), &err);
	must(st_open(g->src, 0, &g->file, &err), &err);
	snprintf(path, sizeof(path), "%s/%s/expected.safetensors", dir, name);
	if (io_is_file(path)) {
		must(io_open(path, &g->exp_src, &err), &err);
		must(st_open(g->exp_src, 0, &g->expected, &err), &err);
	}
	hint_read(g->facts, &g->hint);
	g->module.name = json_text(json_find(g->facts, "layer"));
	assert_non_null(g->module.name);
	g->module.part = g->file.tensor;
	g->module.count = g->file.count;
	g->layer.module = &g->module;
	g->layer.hint = &g->hint;
	g->fmt = qf_recognise(&g->module, &g->hint);
}

static void golden_close(struct golden *g)
{
	st_close(&g->file);
	st_close(&g->expected);
	io_close(g->src);
	io_close(g->exp_src);
	json_free(g->facts);
}

static const struct tensor *expected_of(const struct golden *g,
					const char *suffix)
{
	char name[256];

	snprintf(name, sizeof(name), "%s%s", g->module.name, suffix);
	for (uint32_t i = 0; i < g->expected.count; i++)
		if (strcmp(g->expected.tensor[i].name, name) == 0)
			return &g->expected.tensor[i];
	fail_msg("%s is not in expected.safetensors", name);
	return NULL;
}

/* Number of weights that are not the expected bits, rounded once to the type
 * of the expected tensor. */
static uint32_t wrong_weights(const struct ql *ql, const struct tensor *want)
{
	uint32_t size = tensor_dtype_bits(want->type) / 8, wrong = 0;
	float *row = malloc(ql->spec.in * sizeof(float));
	uint8_t *bytes = malloc((size_t)ql->spec.in * size);
	const uint8_t *w = want->data;

	assert_true(tensor_is_shape(want, 2, ql->spec.out, ql->spec.in));
	for (uint32_t n = 0; n < ql->spec.out; n++) {
		ql_dequant_row(ql, n, row);
		assert_int_equal(tensor_store_f32(row, ql->spec.in,
						  want->type, bytes), 0);
		for (uint32_t k = 0; k < ql->spec.in; k++, w += size)
			wrong += memcmp(bytes + k * size, w, size) != 0;
	}
	free(row);
	free(bytes);
	return wrong;
}

/* Write `ql` in layout f into fresh buffers, parts in plan order. */
struct parts {
	struct qf_plan plan;
	void *part[QF_PARTS];
	struct tensor tensor[QF_PARTS + 2];
	char name[QF_PARTS + 2][64];
	struct qf_module module;
};

static int parts_write(struct parts *p, const struct ql *ql,
		       const struct qfmt *f, struct err *err)
{
	memset(p, 0, sizeof(*p));
	must(f->plan(&ql->spec, &p->plan, err), err);
	for (uint32_t i = 0; i < p->plan.count; i++) {
		struct tensor *t = &p->tensor[i];

		p->part[i] = malloc(p->plan.part[i].bytes);
		memcpy(p->name[i], "m.", 2);
		memcpy(p->name[i] + 2, p->plan.part[i].suffix,
		       sizeof(p->plan.part[i].suffix));
		t->name = p->name[i];
		t->type = p->plan.part[i].type;
		t->rank = p->plan.part[i].rank;
		t->dim[0] = p->plan.part[i].dim[0];
		t->dim[1] = p->plan.part[i].dim[1];
		t->data = p->part[i];
		t->size = p->plan.part[i].bytes;
	}
	p->module.name = "m";
	p->module.part = p->tensor;
	p->module.count = p->plan.count;
	return f->write(ql, p->part, err);
}

static void parts_free(struct parts *p)
{
	for (uint32_t i = 0; i < p->plan.count; i++)
		free(p->part[i]);
}

/* The bytes that f writes are those of the golden tensors. */
static void assert_written_back(const struct golden *g, const struct ql *ql,
				const struct qfmt *f)
{
	struct parts p;
	struct err err;

	must(parts_write(&p, ql, f, &err), &err);
	for (uint32_t i = 0; i < p.plan.count; i++) {
		const struct tensor *t =
			qf_part(&g->module, p.plan.part[i].suffix);

		assert_non_null(t);
		assert_int_equal(t->type, p.plan.part[i].type);
		assert_true(tensor_is_shape(t, p.plan.part[i].rank,
					    p.plan.part[i].dim[0],
					    p.plan.part[i].dim[1]));
		assert_int_equal(t->size, p.plan.part[i].bytes);
		assert_memory_equal(t->data, p.part[i], t->size);
	}
	parts_free(&p);
}

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

static void assert_facts(const struct golden *g, const struct ql *ql)
{
	struct err err;
	uint32_t v = 0;
	int32_t gs = 0;
	bool yes;

	assert_int_equal(json_get_u32(g->facts, "bits", 2, 8, &v, &err), 0);
	assert_int_equal(ql->spec.bits, v);
	json_get_u32(g->facts, "in_features", 1, 1u << 20, &v, &err);
	assert_int_equal(ql->spec.in, v);
	json_get_u32(g->facts, "out_features", 1, 1u << 20, &v, &err);
	assert_int_equal(ql->spec.out, v);
	json_get_u32(g->facts, "groups", 1, 1u << 20, &v, &err);
	assert_int_equal(ql->spec.groups, v);
	json_get_i32(g->facts, "group_size", -1, 1 << 20, &gs, &err);
	assert_int_equal(ql->spec.group_size,
			 gs < 0 ? ql->spec.in : (uint32_t)gs);
	assert_int_equal(json_bool(json_find(g->facts, "sym"), &yes), 0);
	/* at 2 bits an asymmetric layer may be symmetric by chance */
	if (yes || ql->spec.bits > 2)
		assert_int_equal(ql->spec.sym, yes);
}

static void golden_read(struct golden *g, struct ql *ql)
{
	struct ql_spec spec;
	struct err err;

	assert_non_null(g->fmt);
	must(g->fmt->spec(&g->layer, &spec, &err), &err);
	must(g->fmt->read(&g->layer, ql, &err), &err);
	must(ql_check(ql, &err), &err);
	assert_memory_equal(&spec, &ql->spec, sizeof(spec));
}

static int starts_with(const char *s, const char *head)
{
	return strncmp(s, head, strlen(head)) == 0;
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

static void test_planar_is_refused(void **state)
{
	char **names;
	struct err err;
	uint32_t count, done = 0;

	(void)state;
	must(io_list(V2_DIR, &names, &count, &err), &err);
	for (uint32_t i = 0; i < count; i++) {
		struct golden g;
		struct ql_spec spec;
		struct ql ql;

		if (!starts_with(names[i], "gptq_p_"))
			continue;
		golden_open(&g, V2_DIR, names[i], "model.safetensors");
		if (g.fmt) {
			assert_int_equal(g.fmt->spec(&g.layer, &spec, &err),
					 -1);
			assert_int_equal(err.code, ERR_UNSUP);
			assert_non_null(strstr(err.msg, "gptq_p"));
			assert_int_equal(g.fmt->read(&g.layer, &ql, &err), -1);
			assert_int_equal(err.code, ERR_UNSUP);
		}
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
	} else {
		must(g.fmt->spec(&g.layer, &spec, &err), &err);
		must(g.fmt->read(&g.layer, &ql, &err), &err);
		assert_int_equal(g.layer.odd, c->odd);
		assert_int_equal(ql_check(&ql, &err), c->check_fails ? -1 : 0);
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

/* ---- random layers ---- */

static const uint8_t widths[] = { 2, 3, 4, 8 };

/* Zeros between lo and 2^bits - 1; scales exact in F16. */
static void random_layer(struct ql *ql, const struct ql_spec *spec,
			 uint32_t lo)
{
	struct err err;
	uint32_t max = (1u << spec->bits) - 1;

	must(ql_init(ql, spec, &err), &err);
	for (size_t i = 0; i < (size_t)spec->out * spec->in; i++)
		ql->code[i] = (uint8_t)rnd(max + 1);
	for (size_t i = 0; i < (size_t)spec->out * spec->groups; i++) {
		ql->scale[i] = half_to_f32((uint16_t)(1 + rnd(0x7bff)));
		ql->zero[i] = (float)(lo + rnd(max + 1 - lo));
	}
	for (uint32_t k = spec->in; spec->act_order && k-- > 1;) {
		uint32_t j = rnd(k + 1), t = ql->group_of[k];

		ql->group_of[k] = ql->group_of[j];
		ql->group_of[j] = t;
	}
	ql_observe(ql);
}

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

/* ---- whose module is it ---- */

static void test_other_layouts_are_not_claimed(void **state)
{
	static const struct {
		const char *suffix[3];
		enum dtype type[3];
		uint64_t dim[3][2];
	} other[] = {
		{ { "weight" }, { DT_F16 }, { { 64, 64 } } },
		{ { "qweight", "qzeros", "scales" }, /* AWQ GEMM */
		  { DT_I32, DT_I32, DT_F16 },
		  { { 128, 8 }, { 4, 8 }, { 4, 64 } } },
		{ { "qweight", "qzeros", "scales" }, /* AWQ GEMV */
		  { DT_I32, DT_I32, DT_F16 },
		  { { 64, 16 }, { 64, 1 }, { 64, 8 } } },
		{ { "qweight", "qzeros", "scales" }, /* AWQ GEMV_FAST */
		  { DT_I16, DT_F16, DT_F16 },
		  { { 16, 128 }, { 8, 64 }, { 8, 64 } } },
		{ { "qweight", "zeros", "scales" }, /* generation 0 */
		  { DT_I32, DT_F32, DT_F32 },
		  { { 16, 64 }, { 64, 1 }, { 64, 1 } } },
		{ { "q_weight", "q_scale", "q_groups" }, /* EXL2 */
		  { DT_I32, DT_I32, DT_I16 },
		  { { 16, 64 }, { 4, 8 }, { 8, 1 } } },
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
		assert_null(qf_recognise(&m, &hint));
		assert_null(qf_recognise(&m, NULL));
	}
	assert_ptr_equal(qf_find("gptq"), &qf_gptq);
	assert_ptr_equal(qf_find("gptq_v2"), &qf_gptq_v2);
	assert_null(qf_find("gptq_v3"));
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
		cmocka_unit_test(test_planar_is_refused),
		cmocka_unit_test(test_damaged_layers),
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
		cmocka_unit_test(test_other_layouts_are_not_claimed),
	};

	return cmocka_run_group_tests_name("qfmt_packed", tests, NULL, NULL);
}
