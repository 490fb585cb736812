/* golden.h - golden layers: a file of one module, its facts and the weights
 * expected of it. */
#ifndef TESTS_UNIT_GOLDEN_H
#define TESTS_UNIT_GOLDEN_H

#include "../../kernels/cpu/ref_pack.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/base/json.h"
#include "../../libfmt/config.h"
#include "../../libfmt/container/st.h"
#include "parts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define GOLDEN_PARTS 8

struct golden {
	struct src *src, *exp_src;
	struct st_file file, expected;
	struct cJSON *facts;
	struct qf_hint hint;
	struct tensor part[GOLDEN_PARTS];
	struct qf_module module;
	struct qf_layer layer;
	const struct qfmt *fmt;
};

/* As the program itself takes it from config.json. */
static inline void hint_read(const struct cJSON *facts, struct qf_hint *h)
{
	struct config_quant q;
	struct err err;

	must(config_quant_read(facts, NULL, &q, &err), &err);
	memset(h, 0, sizeof(*h));
	h->bits = (uint8_t)q.bits;
	h->group_size = q.group_size;
	h->desc_act = q.desc_act;
	h->sym = q.sym;
	h->format = q.format;
}

/* Open DIR/NAME/`file` as one module with the hint of its case.json. */
static inline void golden_open(struct golden *g, const char *dir,
			       const char *name, const char *file)
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
	for (uint32_t i = 0; i < g->file.count; i++) {
		size_t n = strlen(g->module.name);
		const struct tensor *t = &g->file.tensor[i];

		if (strncmp(t->name, g->module.name, n) || t->name[n] != '.')
			continue;
		assert_true(g->module.count < GOLDEN_PARTS);
		g->part[g->module.count++] = *t;
	}
	g->module.part = g->part;
	g->layer.module = &g->module;
	g->layer.hint = &g->hint;
	g->fmt = qf_recognise(&g->module, &g->hint);
}

static inline void golden_close(struct golden *g)
{
	st_close(&g->file);
	st_close(&g->expected);
	io_close(g->src);
	io_close(g->exp_src);
	json_free(g->facts);
}

static inline const struct tensor *expected_of(const struct golden *g,
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
static inline uint32_t wrong_weights(const struct ql *ql,
				     const struct tensor *want)
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

/* The bytes that f writes are those of the golden tensors. */
static inline void assert_written_back(const struct golden *g,
				       const struct ql *ql,
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

static inline void assert_facts(const struct golden *g, const struct ql *ql)
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

/* The way around the neutral layer leads to the same one, scales that are no
 * numbers included; true when there is one. */
static inline bool stored_is_read(const struct golden *g, const struct ql *ql)
{
	struct qf_layer l = { .module = &g->module, .hint = &g->hint };
	const struct ql_spec *s = &ql->spec;
	size_t n = (size_t)s->out * s->groups;
	struct ql_packed q;
	struct ql other;
	struct err a, b;
	int ret = qf_stored(g->fmt, &l, &q, &a);

	if (ret)
		assert_int_equal(ret, 1);
	if (ret)
		return false;
	assert_memory_equal(&q.spec, s, sizeof(*s));
	assert_int_equal(l.odd | QF_ODD_SCALE_BAD | QF_ODD_SCALE_NEG |
			 QF_ODD_SCALE_ZERO | QF_ODD_BITS | QF_ODD_BIAS |
			 QF_ODD_BOTH | QF_ODD_QZEROS_MISSING,
			 g->layer.odd | QF_ODD_SCALE_BAD | QF_ODD_SCALE_NEG |
			 QF_ODD_SCALE_ZERO | QF_ODD_BITS | QF_ODD_BIAS |
			 QF_ODD_BOTH | QF_ODD_QZEROS_MISSING);
	ret = ql_packed_check(&q, &a);
	assert_int_equal(ret, ql_check(ql, &b));
	if (ret)
		assert_string_equal(a.msg, b.msg);
	must(cpu_ref_unpack(&q, &other, &a), &a);
	assert_memory_equal(other.code, ql->code, (size_t)s->out * s->in);
	assert_memory_equal(other.scale, ql->scale, n * sizeof(float));
	assert_memory_equal(other.zero, ql->zero, n * sizeof(float));
	assert_memory_equal(other.group_of, ql->group_of,
			    s->in * sizeof(*ql->group_of));
	ql_release(&other);
	ql_packed_release(&q);
	return true;
}

static inline void golden_read(struct golden *g, struct ql *ql)
{
	struct ql_spec spec;
	struct err err;

	assert_non_null(g->fmt);
	must(g->fmt->spec(&g->layer, &spec, &err), &err);
	must(g->fmt->read(&g->layer, ql, &err), &err);
	must(ql_check(ql, &err), &err);
	assert_memory_equal(&spec, &ql->spec, sizeof(spec));
	assert_int_equal(stored_is_read(g, ql), g->fmt == &qf_gptq ||
			 g->fmt == &qf_gptq_v2);
}

static inline int starts_with(const char *s, const char *head)
{
	return strncmp(s, head, strlen(head)) == 0;
}

#endif
