/* layer.h - a layer written by a layout and read back, by both ways. */
#ifndef TESTS_UNIT_LAYER_H
#define TESTS_UNIT_LAYER_H

#include "../../kernels/cpu/ref_pack.h"
#include "parts.h"

static const struct ql_spec plain_spec = { .out = 64, .in = 96, .groups = 3,
	.group_size = 32, .bits = 4, .zero_kind = QL_POINT,
	.scale_type = DT_F16 };

static inline void same_layer(const struct ql *a, const struct ql *b)
{
	size_t n = (size_t)a->spec.out * a->spec.groups;

	assert_memory_equal(&a->spec, &b->spec, sizeof(a->spec));
	assert_memory_equal(a->code, b->code, (size_t)a->spec.out * a->spec.in);
	assert_memory_equal(a->scale, b->scale, n * sizeof(*a->scale));
	assert_memory_equal(a->zero, b->zero, n * sizeof(*a->zero));
	assert_memory_equal(a->group_of, b->group_of, a->spec.in * 4);
}

/* Around the neutral layer, where the words are such that there is a way. */
static inline void stored_as(struct parts *p, const struct qf_hint *hint,
		      const struct qfmt *f, const struct ql *ql, uint32_t odd)
{
	struct qf_layer layer = { .module = &p->module, .hint = hint };
	bool there = (f == &qf_gptq || f == &qf_gptq_v2) &&
		     !(odd & QF_ODD_WORDS);
	struct ql_packed q;
	struct ql other;
	struct err err;

	assert_int_equal(qf_stored(f, &layer, &q, &err), !there);
	if (!there)
		return;
	must(cpu_ref_unpack(&q, &other, &err), &err);
	same_layer(ql, &other);
	ql_release(&other);
	ql_packed_release(&q);
}

static inline void read_as(struct parts *p, const struct qf_hint *hint,
		    const struct qfmt *f, struct ql *ql, uint32_t odd)
{
	struct qf_layer layer = { .module = &p->module, .hint = hint };
	struct err err;

	assert_ptr_equal(qf_recognise(&p->module, hint), f);
	must(f->read(&layer, ql, &err), &err);
	assert_int_equal(layer.odd, odd);
	stored_as(p, hint, f, ql, odd);
}

#endif
