/* Writing the layouts of packed integer codes. */
#include "qfmt_packed.h"

#include "../base/err.h"
#include "../base/half.h"
#include "../base/mem.h"
#include "bits.h"
#include "qfmt_impl.h"
#include "qlop.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

const struct qf_codes *qf_packed_codes(const struct packed_rule *r)
{
	return r->bits == &bits_stream ? &qf_codes_stream : &qf_codes_planar;
}

int qf_packed_accept(const struct packed_rule *r,
			 const struct ql_spec *spec, struct err *err)
{
	if (spec->bits > 8 || !(r->widths >> spec->bits & 1))
		return err_set(err, ERR_UNSUP,
			       "%s has no codes of %u bits (2, 3, 4 and 8 "
			       "exist)", r->name, spec->bits);
	if (r->bits->kind == BITS_PLANAR && (spec->in % 32 || spec->out % 32))
		return err_set(err, ERR_UNSUP,
			       "%s holds inputs and outputs in multiples of "
			       "32, not %u and %u", r->name, spec->in,
			       spec->out);
	if (spec->zero_kind != QL_POINT)
		return err_set(err, ERR_UNSUP,
			       "%s holds whole zero points only, this layer's "
			       "are fractions", r->name);
	return 0;
}

/* Without act-order the rows are in order as they are. */
static bool is_sorted(const struct ql_spec *spec)
{
	return spec->sorted && spec->act_order;
}

int qf_packed_plan(const struct packed_rule *r, const struct ql_spec *spec,
		       struct qf_plan *plan, struct err *err)
{
	memset(plan, 0, sizeof(*plan));
	if (qf_packed_accept(r, spec, err))
		return -1;
	qf_plan_add(plan, r->codes, DT_I32,
		    bits_words(r->bits, spec->bits, spec->in), spec->out);
	qf_plan_add(plan, r->zeros, DT_I32, spec->groups,
		    bits_words(r->bits, spec->bits, spec->out));
	qf_plan_add(plan, r->scales, spec->scale_type, spec->groups,
		    spec->out);
	qf_plan_add(plan, r->index, DT_I32, spec->in, 0);
	if (is_sorted(spec))
		qf_plan_add(plan, "perm", DT_I32, spec->in, 0);
	return 0;
}

/* Zeros that a reader gets back.  A v1 field of all ones is read as 2^bits or
 * as 0, so none is written; at 3 bits all readers of plain v1 agree. */
static void zero_range(const struct packed_rule *r, uint32_t bits, float *lo,
		       float *hi)
{
	uint32_t max = (1u << bits) - 1;

	*lo = r->bias;
	*hi = (float)(r->bias && bits == 3 ? max + 1 : max);
}

/* What to add to the zeros and codes of row n, per group, so that all zeros
 * can be stored: the weights stay what they are. */
static int row_shift(const struct packed_rule *r, const struct ql *ql,
		     uint32_t n, int8_t *shift, struct err *err)
{
	const uint8_t *code = ql->code + (size_t)n * ql->spec.in;
	uint8_t max = (uint8_t)((1u << ql->spec.bits) - 1);
	float lo, hi;

	zero_range(r, ql->spec.bits, &lo, &hi);
	for (uint32_t g = 0; g < ql->spec.groups; g++) {
		float z = ql->zero[(size_t)n * ql->spec.groups + g];

		shift[g] = z < lo ? 1 : z > hi ? -1 : 0;
	}
	for (uint32_t k = 0; k < ql->spec.in; k++) {
		uint32_t g = ql->group_of[k];

		if ((shift[g] > 0 && code[k] == max) ||
		    (shift[g] < 0 && code[k] == 0))
			return err_set(err, ERR_UNSUP,
				       "output %u, group %u: %s cannot store a "
				       "zero of %u, and code %u is in use, so "
				       "that it cannot be moved (%s can hold "
				       "this layer)", n, g, r->name,
				       shift[g] > 0 ? 0 : max + 1u, code[k],
				       shift[g] > 0 ? "gptq_v2" : "dense");
	}
	return 0;
}

/* The shifts of all rows, [out][groups]; *any: one is not 0. */
static int find_shifts(const struct packed_rule *r, const struct ql *ql,
		       int8_t *shift, bool *any, struct err *err)
{
	uint32_t groups = ql->spec.groups;
	float lo, hi;

	*any = false;
	zero_range(r, ql->spec.bits, &lo, &hi);
	for (uint32_t n = 0; n < ql->spec.out; n++) {
		const float *zero = ql->zero + (size_t)n * groups;
		bool off = false;

		for (uint32_t g = 0; g < groups; g++)
			off |= zero[g] < lo || zero[g] > hi;
		*any |= off;
		if (off && !ql->code)
			return 0;
		if (off && row_shift(r, ql, n, shift + (size_t)n * groups, err))
			return -1;
	}
	return 0;
}

/* Row j of the words is input perm[j] (NULL: j); `any` code is shifted. */
struct order {
	const int8_t *shift;  /* [out][groups] */
	bool any;
	const uint32_t *perm; /* [in] */
};

static void move_codes(const struct ql *ql, const struct order *o,
		       uint8_t *moved)
{
	uint32_t in = ql->spec.in;

	for (uint32_t n = 0; n < ql->spec.out; n++) {
		const int8_t *s = o->shift + (size_t)n * ql->spec.groups;
		const uint8_t *code = ql->code + (size_t)n * in;
		uint8_t *to = moved + (size_t)n * in;

		for (uint32_t j = 0; j < in; j++) {
			uint32_t k = o->perm ? o->perm[j] : j;

			to[j] = (uint8_t)(code[k] + s[ql->group_of[k]]);
		}
	}
}

static int codes_write(const struct packed_rule *r, const struct ql *ql,
		       const struct order *o, void *part, struct err *err)
{
	uint32_t in = ql->spec.in, out = ql->spec.out;
	uint8_t *moved = NULL;

	if (o->any || o->perm) {
		moved = mem_alloc((size_t)out * in, 1, err);
		if (!moved)
			return -1;
		move_codes(ql, o, moved);
	}
	qf_codes_write(qf_packed_codes(r), moved ? moved : ql->code,
		       &(struct qf_strip){ ql->spec.bits, out, in, part });
	free(moved);
	return 0;
}

static int zeros_write(const struct packed_rule *r, const struct ql *ql,
		       const int8_t *shift, uint8_t *part, struct err *err)
{
	uint32_t out = ql->spec.out, groups = ql->spec.groups;
	size_t bytes = (size_t)bits_words(r->bits, ql->spec.bits, out) * 4;
	uint8_t *row = mem_alloc(out, 1, err);

	if (!row)
		return -1;
	for (uint32_t g = 0; g < groups; g++) {
		for (uint32_t n = 0; n < out; n++) {
			size_t i = (size_t)n * groups + g;
			int f = (int)ql->zero[i] + shift[i] - r->bias;

			assert(f >= 0 && f < 1 << ql->spec.bits);
			row[n] = (uint8_t)f;
		}
		bits_pack(r->bits, ql->spec.bits, row, 1, out,
			  part + bytes * g, 1);
	}
	free(row);
	return 0;
}

static int find_perm(const struct ql *ql, uint32_t *perm, struct err *err)
{
	for (uint32_t k = 0; k < ql->spec.in; k++)
		perm[k] = k;
	return ql_order(ql->group_of, ql->spec.groups, perm, ql->spec.in, err);
}

int qf_packed_write(const struct packed_rule *r, const struct ql *ql,
			void *const part[], struct err *err)
{
	bool sorted = is_sorted(&ql->spec);
	struct order o = { .any = false };
	uint32_t in = ql->spec.in, *perm;
	int8_t *shift;
	struct mem_part parts[] = {
		{ (void **)&shift, (size_t)ql->spec.out * ql->spec.groups, 1 },
		{ (void **)&perm, in, sizeof(*perm) }
	};
	void *mem = mem_block(parts, 2, err);
	int ret = -1;

	if (!mem || qf_packed_accept(r, &ql->spec, err) ||
	    (sorted && find_perm(ql, perm, err)))
		goto out;
	o.shift = shift;
	o.perm = sorted ? perm : NULL;
	if (find_shifts(r, ql, shift, &o.any, err))
		goto out;
	if (!ql->code && (o.any || sorted)) {
		ret = 1;
		goto out;
	}
	if ((ql->code && codes_write(r, ql, &o, part[0], err)) ||
	    zeros_write(r, ql, shift, part[1], err) ||
	    qf_scales_write(ql, false, part[2], err))
		goto out;
	for (uint32_t j = 0; j < in; j++) {
		half_put32((uint8_t *)part[3] + 4 * (size_t)j,
			   ql->group_of[sorted ? perm[j] : j]);
		if (sorted)
			half_put32((uint8_t *)part[4] + 4 * (size_t)j, perm[j]);
	}
	ret = 0;
out:
	free(mem);
	return ret;
}
