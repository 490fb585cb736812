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

const struct packed_rule qf_rule_gptq = {
	"gptq", "qweight", "qzeros", "scales", "g_idx", &bits_stream,
	WIDTHS_GPTQ, 1
};
const struct packed_rule qf_rule_gptq_v2 = {
	"gptq_v2", "qweight", "qzeros", "scales", "g_idx", &bits_stream,
	WIDTHS_GPTQ, 0
};

/* 32 fields split into planes; zeros as in v2.  At 3 bits the shapes are those
 * of a stream, and only the label tells.  See
 * gptq-formats(5) "Planes". */
#define WIDTHS_PLANAR (WIDTHS_GPTQ | 1u << 5 | 1u << 6 | 1u << 7)
static const struct bits_rule planar = { BITS_PLANAR, NULL };
static const struct packed_rule qf_rule_gptq_p = {
	"gptq_p", "qweight", "qzeros", "scales", "g_idx", &planar,
	WIDTHS_PLANAR, 0
};

/* ---- whose module is it ---- */

static int packed_claims(const struct packed_rule *r,
			 const struct qf_module *m, const struct qf_hint *hint)
{
	const struct packed_rule *is = &qf_rule_gptq;

	/* 5, 6 and 7 bits are planar whatever the label */
	if (qf_format_is(hint, "gptq_p") ||
	    (hint && hint->bits >= 5 && hint->bits <= 7))
		is = &qf_rule_gptq_p;
	else if (qf_format_is(hint, "gptq_v2"))
		is = &qf_rule_gptq_v2;
	return r == is && qf_packed_is_gptq(m);
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
	uint16_t *zero;     /* [groups][out]; NULL: all the middle one */
};

static void small_release(struct small *s)
{
	free(s->group_of);
	free(s->perm);
	free(s->zero);
}

/* What a glance reads: the first rows, or the first fields of the first one, in
 * whole words. */
static void shorten(struct qf_zeros *z, uint32_t width)
{
	uint64_t row = 4 * bits_words(z->rule, z->bits, width);
	uint32_t fit = GLANCE_BYTES / 4 * 32 / z->bits / 32 * 32;

	if (row > GLANCE_BYTES)
		z->out = fit;
	if (z->groups > GLANCE_BYTES / row)
		z->groups = row > GLANCE_BYTES ? 1 :
						 (uint32_t)(GLANCE_BYTES / row);
}

/* The fields of padded outputs are none of the layer's: rows without them, the
 * caller's to free. */
static uint8_t *trim_zeros(const struct qf_zeros *z, uint32_t width,
			   struct err *err)
{
	size_t from = 4 * (size_t)bits_words(z->rule, z->bits, width);
	size_t to = 4 * (size_t)bits_words(z->rule, z->bits, z->out);
	uint8_t *words = mem_alloc(z->groups, to, err);
	uint8_t *field = mem_alloc(z->out, 1, err);

	for (uint32_t g = 0; words && field && g < z->groups; g++) {
		bits_unpack(z->rule, z->bits, (const uint8_t *)z->words +
			    from * g, 1, z->out, field, 1);
		bits_pack(z->rule, z->bits, field, 1, z->out, words + to * g,
			  1);
	}
	if (!field) {
		free(words);
		words = NULL;
	}
	free(field);
	return words;
}

/* The middle needs no decoding. */
static int zeros_read(struct small *s, const struct qf_zeros *z, bool values,
		      uint32_t *odd, struct err *err)
{
	struct qf_reading r;
	int middle = qf_zeros_choose(z, &r, odd, err) ?
			     -1 : qf_zeros_centred(z, &r, err);

	if (middle < 0)
		return -1;
	s->spec.sym = middle != 0;
	if (middle || !values)
		return 0;
	s->zero = mem_alloc((size_t)z->groups * z->out, sizeof(*s->zero), err);
	return s->zero ? qf_zeros_decode(z, &r, s->zero, err) : -1;
}

static int zeros_load(struct small *s, bool glance, bool values, uint32_t *odd,
		      struct err *err)
{
	const struct tensor *t = s->p.zeros;
	uint8_t *trimmed = NULL;
	struct qf_zeros z = { s->p.rule->bits, s->spec.bits, s->p.rule->bias,
			      t ? t->data : NULL, s->spec.groups, s->spec.out,
			      s->p.hint, s->p.word == 64 };
	int ret;

	if (!t || !t->data) { /* headers only: the config is all there is */
		s->spec.sym = !t || s->p.hint->sym == 1;
		return 0;
	}
	if (glance)
		shorten(&z, s->p.width);
	if (z.out == s->spec.out && z.out != s->p.width) {
		z.words = trimmed = trim_zeros(&z, s->p.width, err);
		if (!trimmed)
			return -1;
	}
	ret = zeros_read(s, &z, values, odd, err);
	free(trimmed);
	return ret;
}

static uint32_t parts_odd(const struct small *s, const struct qf_module *m)
{
	const struct tensor *bias = qf_part(m, "bias");
	uint32_t odd = 0;

	if (s->p.hint->bits && s->p.hint->bits != s->spec.bits)
		odd |= QF_ODD_BITS;
	if (!s->p.zeros)
		odd |= QF_ODD_QZEROS_MISSING;
	if (s->p.word != 32)
		odd |= QF_ODD_WORDS;
	if (s->p.width != s->spec.out)
		odd |= QF_ODD_OUTPUTS;
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
static void groups_fill(const struct small *s, struct ql *ql, uint32_t *odd)
{
	uint32_t out = ql->spec.out, groups = ql->spec.groups;
	float mid = (float)(1u << (ql->spec.bits - 1));
	float row[QF_BLOCK];

	for (uint32_t n0 = 0; n0 < out; n0 += QF_BLOCK)
		for (uint32_t g = 0; g < groups; g++) {
			uint32_t n = out - n0 < QF_BLOCK ? out - n0 : QF_BLOCK;
			size_t from = (size_t)g * s->p.width + n0;
			size_t field = (size_t)g * out + n0;
			size_t to = (size_t)n0 * groups + g;

			tensor_load_f32(s->p.scales, from, n, row);
			for (uint32_t i = 0; i < n; i++, to += groups) {
				ql->scale[to] = row[i];
				ql->zero[to] = s->zero ?
					(float)s->zero[field + i] : mid;
				*odd |= qf_scale_odd(row[i]);
			}
		}
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

static const struct qf_codes *stored_codes(const struct packed *p)
{
	return p->word == 8 ? &qf_codes_i8 : p->word == 16 ? &qf_codes_i16 :
	       p->word == 64 ? &qf_codes_i64 : qf_packed_codes(p->rule);
}

static int packed_read(const struct packed_rule *r, struct qf_layer *l,
		       struct ql *ql, struct err *err)
{
	struct small s;
	int ret = -1;

	memset(ql, 0, sizeof(*ql));
	if (small_load(r, l, true, &s, err))
		goto out;
	if (!s.p.codes->data || !s.p.scales->data ||
	    (s.p.zeros && !s.p.zeros->data) ||
	    (s.p.perm && !s.p.perm->data)) {
		err_set(err, ERR_UNSUP, "%s: only its header was read",
			s.p.codes->name);
		goto out;
	}
	if (s.perm && l->words) { /* rows are to go back first */
		l->words->how = NULL;
		l->words = NULL;
	}
	if (qf_codes_open(l, &s.spec, stored_codes(&s.p), s.p.codes, ql, err))
		goto out;
	memcpy(ql->group_of, s.group_of, s.spec.in * sizeof(*s.group_of));
	if (s.perm && unsort_codes(&s, ql, err))
		goto out;
	groups_fill(&s, ql, &l->odd);
	ret = 0;
out:
	if (ret)
		ql_release(ql);
	small_release(&s);
	return ret;
}

/* ---- the table ---- */

static const char *const owned[] = { "qweight", "qzeros", "scales", "g_idx",
				     "perm", NULL };

/* A row: the plug-in's calls, bound to the rule of that name. */
#define ROW(id, text, codes)                                                 \
	static int id##_claims(const struct qf_module *m,                    \
			       const struct qf_hint *hint)                   \
	{                                                                    \
		return packed_claims(&qf_rule_##id, m, hint);                  \
	}                                                                    \
	static int id##_spec(struct qf_layer *l, struct ql_spec *spec,       \
			     struct err *err)                                \
	{                                                                    \
		return packed_spec(&qf_rule_##id, l, spec, err);               \
	}                                                                    \
	static int id##_read(struct qf_layer *l, struct ql *ql,              \
			     struct err *err)                                \
	{                                                                    \
		return packed_read(&qf_rule_##id, l, ql, err);                 \
	}                                                                    \
	static int id##_accept(const struct ql_spec *spec, struct err *err)  \
	{                                                                    \
		return qf_packed_accept(&qf_rule_##id, spec, err);             \
	}                                                                    \
	static int id##_plan(const struct ql_spec *spec,                     \
			     struct qf_plan *plan, struct err *err)          \
	{                                                                    \
		return qf_packed_plan(&qf_rule_##id, spec, plan, err);         \
	}                                                                    \
	static int id##_write(const struct ql *ql, void *const part[],       \
			      struct err *err)                               \
	{                                                                    \
		return qf_packed_write(&qf_rule_##id, ql, part, err);          \
	}                                                                    \
	const struct qfmt qf_##id = { #id, text, owned, id##_claims,         \
				      id##_spec, id##_read, id##_accept,     \
				      id##_plan, id##_write, codes }

ROW(gptq, "GPTQ: packed codes, zeros stored less one", &qf_codes_stream);
ROW(gptq_v2, "GPTQ v2: packed codes, zeros stored as they are",
    &qf_codes_stream);
ROW(gptq_p, "GPTQ, planar: 2 to 8 bits, zeros stored as they are",
    &qf_codes_planar);
