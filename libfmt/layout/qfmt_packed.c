/* Layouts of packed integer codes: each is a row of one table, a struct
 * packed_rule.  Sizes, checks, reading and writing are common. */
#include "qfmt_packed.h"

#include "../base/err.h"
#include "../base/half.h"
#include "../base/mem.h"
#include "bits.h"
#include "qfmt_impl.h"
#include "qfmt_zeros.h"
#include "qlop.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define WIDTHS_GPTQ (1u << 2 | 1u << 3 | 1u << 4 | 1u << 8)

static const struct packed_rule rule_gptq = {
	"gptq", "qweight", "qzeros", "scales", "g_idx", &bits_stream,
	WIDTHS_GPTQ, 1
};
static const struct packed_rule rule_gptq_v2 = {
	"gptq_v2", "qweight", "qzeros", "scales", "g_idx", &bits_stream,
	WIDTHS_GPTQ, 0
};

/* 32 fields split into planes; zeros as in v2.  At 3 bits the shapes are those
 * of a stream, and only the label tells.  Section 4.4. */
#define WIDTHS_PLANAR (WIDTHS_GPTQ | 1u << 5 | 1u << 6 | 1u << 7)
static const struct bits_rule planar = { BITS_PLANAR, NULL };
static const struct packed_rule rule_gptq_p = {
	"gptq_p", "qweight", "qzeros", "scales", "g_idx", &planar,
	WIDTHS_PLANAR, 0
};

/* ---- whose module is it ---- */

/* AWQ packs the other way: its qweight is narrow and its qzeros are as wide
 * (GEMM), or everything is transposed (GEMV).  Section 0.3. */
static bool shaped_like_awq(const struct tensor *c, const struct tensor *z,
			    const struct tensor *s)
{
	if (!z || !s || c->rank != 2 || z->rank != 2 || s->rank != 2)
		return false;
	if (s->dim[1] == c->dim[1] && z->dim[0] == s->dim[0])
		return false; /* GPTQ */
	if (z->dim[0] != s->dim[0])
		return false;
	return (s->dim[1] == 8 * c->dim[1] && z->dim[1] == c->dim[1]) ||
	       (s->dim[0] == c->dim[0] && s->dim[1] == 8 * z->dim[1]);
}

/* Packed codes that are no other known layout's.  Damaged modules are claimed
 * too: then spec says what is wrong with them. */
static bool is_gptq(const struct qf_module *m)
{
	const struct tensor *c = qf_part(m, "qweight");
	const struct tensor *z = qf_part(m, "qzeros");
	const struct tensor *s = qf_part(m, "scales");

	if (!c || (!z && !s))
		return false;
	if (z && tensor_is_float(z->type))
		return false; /* AWQ GEMV_FAST */
	if (!z && qf_part(m, "zeros"))
		return false; /* the first GPTQ-for-LLaMa */
	if (qf_part(m, "lookup_table") || qf_part(m, "lut") ||
	    qf_part(m, "s_channel"))
		return false; /* SqueezeLLM, QQQ and others */
	return !shaped_like_awq(c, z, s);
}

static int packed_claims(const struct packed_rule *r,
			 const struct qf_module *m, const struct qf_hint *hint)
{
	const struct packed_rule *is = &rule_gptq;

	/* 5, 6 and 7 bits are planar whatever the label */
	if (qf_format_is(hint, "gptq_p") ||
	    (hint && hint->bits >= 5 && hint->bits <= 7))
		is = &rule_gptq_p;
	else if (qf_format_is(hint, "gptq_v2"))
		is = &rule_gptq_v2;
	return r == is && is_gptq(m);
}

/* ---- reading ---- */

#define GLANCE_BYTES 4096u

uint64_t qf_glance(const struct tensor *t)
{
	const char *dot = strrchr(t->name, '.');

	if (!dot || (strcmp(dot + 1, "g_idx") && strcmp(dot + 1, "qzeros")))
		return 0;
	return t->size < GLANCE_BYTES ? t->size : GLANCE_BYTES;
}

/* All of a layer but its codes and scales. */
struct small {
	struct packed p;
	struct ql_spec spec;
	uint32_t *group_of; /* [in] */
	uint32_t *perm;     /* [in], of a sorted layer, else NULL */
	uint16_t *zero;     /* [groups][out] */
};

static void small_release(struct small *s)
{
	free(s->group_of);
	free(s->perm);
	free(s->zero);
}

/* What a glance reads: the first rows, or the first fields of the first one, in
 * whole words.  Their number. */
static size_t shorten(struct qf_zeros *z)
{
	uint64_t row = 4 * bits_words(z->rule, z->bits, z->out);
	uint32_t fit = GLANCE_BYTES / 4 * 32 / z->bits / 32 * 32;

	if (row > GLANCE_BYTES)
		z->out = fit;
	if (z->groups > GLANCE_BYTES / row)
		z->groups = row > GLANCE_BYTES ? 1 :
						 (uint32_t)(GLANCE_BYTES / row);
	return (size_t)z->groups * z->out;
}

/* values: they are wanted, and not only what they show. */
static int zeros_load(struct small *s, bool glance, bool values,
		      uint32_t *odd, struct err *err)
{
	size_t n = (size_t)s->spec.groups * s->spec.out;
	uint16_t mid = (uint16_t)(1u << (s->spec.bits - 1));
	const struct tensor *t = s->p.zeros;
	struct qf_zeros z = { s->p.rule->bits, s->spec.bits, s->p.rule->bias,
			      t ? t->data : NULL, s->spec.groups, s->spec.out,
			      s->p.hint };

	if (t && !t->data) { /* headers only: the config is all there is */
		s->spec.sym = s->p.hint->sym == 1;
		return 0;
	}
	if (glance && t)
		n = shorten(&z);
	if (!values && t && qf_zeros_middle(&z, err) == 1) {
		s->spec.sym = 1;
		return 0;
	}
	s->zero = mem_alloc(n, sizeof(*s->zero), err);
	if (!s->zero)
		return -1;
	if (t && qf_zeros_read(&z, s->zero, odd, err))
		return -1;
	s->spec.sym = 1;
	for (size_t i = 0; i < n; i++) {
		if (!t)
			s->zero[i] = mid;
		if (s->zero[i] != mid)
			s->spec.sym = 0;
	}
	return 0;
}

static uint32_t parts_odd(const struct small *s, const struct qf_module *m)
{
	const struct tensor *bias = qf_part(m, "bias");
	uint32_t odd = 0;

	if (s->p.hint->bits && s->p.hint->bits != s->spec.bits)
		odd |= QF_ODD_BITS;
	if (!s->p.zeros)
		odd |= QF_ODD_QZEROS_MISSING;
	if (bias && !tensor_is_shape(bias, 1, s->spec.out, 0))
		odd |= QF_ODD_BIAS;
	if (qf_part(m, "weight"))
		odd |= QF_ODD_BOTH;
	return odd;
}

/* The groups of a sorted layer, in the order of its inputs again. */
static int unsort_groups(struct small *s, struct err *err)
{
	struct ql_spec *spec = &s->spec;
	uint32_t *group_of;

	s->perm = mem_alloc(spec->in, sizeof(*s->perm), err);
	if (!s->perm || qf_packed_perm(&s->p, spec->in, s->perm, err))
		return -1;
	spec->sorted = 1;
	spec->act_order = 1;
	if (!s->p.perm->data)
		return 0;
	group_of = mem_alloc(spec->in, sizeof(*group_of), err);
	if (!group_of)
		return -1;
	for (uint32_t k = 0; k < spec->in; k++)
		group_of[s->perm[k]] = s->group_of[k];
	free(s->group_of);
	s->group_of = group_of;
	spec->act_order = 0;
	for (uint32_t k = 0; k < spec->in; k++)
		if (group_of[k] != k / spec->group_size)
			spec->act_order = 1;
	return 0;
}

/* values: group_of and zero are wanted.  On failure too, *s is the caller's to
 * release. */
static int small_load(const struct packed_rule *r, struct qf_layer *l,
		      bool values, struct small *s, struct err *err)
{
	bool glance = l->glance && !values;

	memset(s, 0, sizeof(*s));
	if (qf_packed_find(r, l, &s->p, err) ||
	    qf_packed_sizes(&s->p, &s->spec, err))
		return -1;
	if (!glance) {
		s->group_of = mem_alloc(s->spec.in, sizeof(*s->group_of), err);
		if (!s->group_of)
			return -1;
	}
	if ((glance ? qf_packed_glance(&s->p, &s->spec, &l->odd, err) :
	     qf_packed_groups(&s->p, &s->spec, s->group_of, &l->odd, err)) ||
	    (s->p.perm && !glance && unsort_groups(s, err)) ||
	    zeros_load(s, glance, values, &l->odd, err))
		return -1;
	if (s->p.perm && glance) /* sorted, which is to say: an act-order */
		s->spec.sorted = s->spec.act_order = 1;
	l->odd |= parts_odd(s, l->module);
	return 0;
}

static int packed_spec(const struct packed_rule *r, struct qf_layer *l,
		       struct ql_spec *spec, struct err *err)
{
	struct small s;
	int ret = small_load(r, l, false, &s, err);

	if (!ret)
		*spec = s.spec;
	small_release(&s);
	return ret;
}

/* scales [G, N] and the zeros into the rows of the layer. */
static int groups_fill(const struct small *s, struct ql *ql, uint32_t *odd,
		       struct err *err)
{
	uint32_t out = ql->spec.out, groups = ql->spec.groups;
	float *row = mem_alloc(out, sizeof(*row), err);

	if (!row)
		return -1;
	for (uint32_t g = 0; g < groups; g++) {
		size_t from = (size_t)g * out;

		tensor_load_f32(s->p.scales, from, out, row);
		for (uint32_t n = 0; n < out; n++) {
			size_t to = (size_t)n * groups + g;

			ql->scale[to] = row[n];
			ql->zero[to] = (float)s->zero[from + n];
			*odd |= qf_scale_odd(row[n]);
		}
	}
	free(row);
	return 0;
}

/* The codes of a sorted layer, back in the order of its inputs. */
static int unsort_codes(const struct small *s, struct ql *ql, struct err *err)
{
	uint32_t in = ql->spec.in;
	uint8_t *row = mem_alloc(in, 1, err);

	if (!row)
		return -1;
	for (uint32_t n = 0; n < ql->spec.out; n++) {
		uint8_t *code = ql->code + (size_t)n * in;

		memcpy(row, code, in);
		for (uint32_t k = 0; k < in; k++)
			code[s->perm[k]] = row[k];
	}
	free(row);
	return 0;
}

static int packed_read(const struct packed_rule *r, struct qf_layer *l,
		       struct ql *ql, struct err *err)
{
	struct small s;
	int ret = -1;

	memset(ql, 0, sizeof(*ql));
	if (small_load(r, l, true, &s, err))
		goto out;
	if (!s.p.codes->data || !s.p.scales->data || !s.zero ||
	    (s.p.perm && !s.p.perm->data)) {
		err_set(err, ERR_UNSUP, "%s: only its header was read",
			s.p.codes->name);
		goto out;
	}
	if (ql_init(ql, &s.spec, err)) {
		err_ctx(err, "%s", l->module->name);
		goto out;
	}
	memcpy(ql->group_of, s.group_of, s.spec.in * sizeof(*s.group_of));
	bits_unpack_cols(r->bits, s.spec.bits, s.p.codes->data, s.spec.out,
			 s.spec.in, ql->code);
	if ((s.perm && unsort_codes(&s, ql, err)) ||
	    groups_fill(&s, ql, &l->odd, err))
		goto out;
	ret = 0;
out:
	if (ret)
		ql_release(ql);
	small_release(&s);
	return ret;
}

/* ---- writing ---- */

static int packed_accept(const struct packed_rule *r,
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

static int packed_plan(const struct packed_rule *r, const struct ql_spec *spec,
		       struct qf_plan *plan, struct err *err)
{
	memset(plan, 0, sizeof(*plan));
	if (packed_accept(r, spec, err))
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
	bits_pack_cols(r->bits, ql->spec.bits, moved ? moved : ql->code, out,
		       in, part);
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

static int packed_write(const struct packed_rule *r, const struct ql *ql,
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

	if (!mem || packed_accept(r, &ql->spec, err) ||
	    (sorted && find_perm(ql, perm, err)))
		goto out;
	o.shift = shift;
	o.perm = sorted ? perm : NULL;
	if (find_shifts(r, ql, shift, &o.any, err) ||
	    codes_write(r, ql, &o, part[0], err) ||
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

/* ---- the table ---- */

static const char *const owned[] = { "qweight", "qzeros", "scales", "g_idx",
				     "perm", NULL };

/* A row: the plug-in's calls, bound to the rule of that name. */
#define ROW(id, text)                                                        \
	static int id##_claims(const struct qf_module *m,                    \
			       const struct qf_hint *hint)                   \
	{                                                                    \
		return packed_claims(&rule_##id, m, hint);                   \
	}                                                                    \
	static int id##_spec(struct qf_layer *l, struct ql_spec *spec,       \
			     struct err *err)                                \
	{                                                                    \
		return packed_spec(&rule_##id, l, spec, err);                \
	}                                                                    \
	static int id##_read(struct qf_layer *l, struct ql *ql,              \
			     struct err *err)                                \
	{                                                                    \
		return packed_read(&rule_##id, l, ql, err);                  \
	}                                                                    \
	static int id##_accept(const struct ql_spec *spec, struct err *err)  \
	{                                                                    \
		return packed_accept(&rule_##id, spec, err);                 \
	}                                                                    \
	static int id##_plan(const struct ql_spec *spec,                     \
			     struct qf_plan *plan, struct err *err)          \
	{                                                                    \
		return packed_plan(&rule_##id, spec, plan, err);             \
	}                                                                    \
	static int id##_write(const struct ql *ql, void *const part[],       \
			      struct err *err)                               \
	{                                                                    \
		return packed_write(&rule_##id, ql, part, err);              \
	}                                                                    \
	const struct qfmt qf_##id = { #id, text, owned, id##_claims,         \
				      id##_spec, id##_read, id##_accept,     \
				      id##_plan, id##_write }

ROW(gptq, "GPTQ: packed codes, zeros stored less one");
ROW(gptq_v2, "GPTQ v2: packed codes, zeros stored as they are");
ROW(gptq_p, "GPTQ, planar: 2 to 8 bits, zeros stored as they are");
