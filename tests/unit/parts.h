/* parts.h - layers made for a test, and the tensors a layout stores them in. */
#ifndef TESTS_UNIT_PARTS_H
#define TESTS_UNIT_PARTS_H

#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../libfmt/layout/qfmt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t parts_seed = 1;

static inline uint32_t rnd(uint32_t below)
{
	parts_seed = parts_seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(parts_seed >> 33) % below;
}

static inline void must(int ret, const struct err *err)
{
	if (ret)
		fail_msg("%s", err->msg);
}

/* Zeros between lo and 2^bits - 1, or all the middle one when spec->sym;
 * positive scales that are exact in F16. */
static inline void random_layer(struct ql *ql, const struct ql_spec *spec,
				uint32_t lo)
{
	struct err err;
	uint32_t max = (1u << spec->bits) - 1;

	must(ql_init(ql, spec, &err), &err);
	for (size_t i = 0; i < (size_t)spec->out * spec->in; i++)
		ql->code[i] = (uint8_t)rnd(max + 1);
	for (size_t i = 0; i < (size_t)spec->out * spec->groups; i++) {
		ql->scale[i] = half_to_f32((uint16_t)(1 + rnd(0x6000)));
		ql->zero[i] = spec->sym ? (float)(max / 2 + 1) :
					  (float)(lo + rnd(max + 1 - lo));
	}
	for (uint32_t k = spec->in; spec->act_order && k-- > 1;) {
		uint32_t j = rnd(k + 1), t = ql->group_of[k];

		ql->group_of[k] = ql->group_of[j];
		ql->group_of[j] = t;
	}
	ql_observe(ql);
}

/* Write `ql` in layout f into fresh buffers, parts in plan order. */
struct parts {
	struct qf_plan plan;
	void *part[QF_PARTS];
	struct tensor tensor[QF_PARTS + 2];
	char name[QF_PARTS + 2][64];
	struct qf_module module;
};

static inline int parts_write(struct parts *p, const struct ql *ql,
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

/* A word matrix [rows][cols] as one of words of `bits` bits: the streams down
 * the columns stay, in other rows.  The caller's to free. */
static inline void *parts_cut(const void *words, size_t rows, size_t cols,
			      uint32_t bits)
{
	const uint8_t *from = words;
	size_t size = bits / 8;
	uint8_t *to = malloc(4 * rows * cols);

	for (size_t c = 0; c < cols; c++)
		for (size_t j = 0; j < 4 * rows; j++)
			to[(j / size * cols + c) * size + j % size] =
				from[(j / 4 * cols + c) * 4 + j % 4];
	return to;
}

static inline void parts_free(struct parts *p)
{
	for (uint32_t i = 0; i < p->plan.count; i++)
		free(p->part[i]);
}

#endif
