/* compressed-tensors, pack-quantized.
 *
 *	weight_packed     [N, words(K)]  codes, floor(32 / b) a word
 *	weight_scale      [N, G]         F16, BF16 or F32
 *	weight_zero_point [words(N), G]  packed along the outputs; in some files
 *	                                 I8 [N, G], signed; absent: symmetric
 *	weight_shape      [2]            I64: N, K
 *	weight_g_idx      [K]            I32, for act-order; all -1: not set
 *
 * No field straddles a word.  Fields are the signed value + 2^(b-1), which is
 * the code and the zero point of the neutral layer.
 * Source: gptq-formats(5) section 9. */
#include "../base/err.h"
#include "../base/half.h"
#include "../base/mem.h"
#include "bits.h"
#include "qfmt_impl.h"

#include <stdlib.h>
#include <string.h>

static const struct bits_rule padded = { BITS_PADDED, NULL };

static int claims(const struct qf_module *m, const struct qf_hint *hint)
{
	const struct tensor *c = qf_part(m, "weight_packed");
	const struct tensor *s = qf_part(m, "weight_scale");

	(void)hint;
	return c && c->type == DT_I32 && s && tensor_is_float(s->type);
}

/* N and K as weight_shape says them: I64, in some files I32. */
static int stored_shape(const struct qf_found *f, uint64_t shape[2],
			struct err *err)
{
	const struct tensor *t = qf_part(f->layer->module, "weight_shape");
	const uint8_t *p;

	if (!t || !t->data)
		return 0;
	p = t->data;
	if (!tensor_is_shape(t, 1, 2, 0) ||
	    (t->type != DT_I64 && t->type != DT_I32))
		return err_set(err, ERR_INPUT, "%s: not I64 [2]", t->name);
	for (int i = 0; i < 2; i++)
		shape[i] = t->type == DT_I64 ? half_le64(p + 8 * i)
					     : half_le32(p + 4 * i);
	if (shape[0] != f->codes->dim[0] || !shape[1] ||
	    shape[1] > QL_DIM_MAX)
		return err_set(err, ERR_INPUT, "%s: %llu outputs and %llu "
			       "inputs do not match weight_packed", t->name,
			       (unsigned long long)shape[0],
			       (unsigned long long)shape[1]);
	return 0;
}

/* 7 and 8 bits share their shapes; without a config it is 8. */
static int find_bits(struct qf_found *f, struct err *err)
{
	static const uint8_t widths[] = { 0, 4, 8, 2, 3, 5, 6, 7 };
	uint64_t shape[2] = { 0, f->hint->in }, words = f->codes->dim[1];
	char text[96];

	if (stored_shape(f, shape, err))
		return -1;
	for (size_t i = 0; i < sizeof(widths); i++) {
		uint32_t b = i ? widths[i] : f->hint->bits;

		if (b < 2 || b > 8)
			continue;
		if (shape[1] && bits_words(&padded, b, shape[1]) != words)
			continue;
		f->spec.bits = (uint8_t)b;
		f->spec.in = (uint32_t)(shape[1] ? shape[1] :
						   words * (32 / b));
		return 0;
	}
	return err_set(err, ERR_INPUT, "%s: shape %s does not match %u inputs "
		       "at 2 to 8 bits", f->codes->name,
		       tensor_shape_text(f->codes, text), (uint32_t)shape[1]);
}

static int find_groups(struct qf_found *f, struct err *err)
{
	struct ql_spec *s = &f->spec;
	uint32_t said = f->hint->group_size > 0 ?
				(uint32_t)f->hint->group_size : 0;

	if (s->in % s->groups == 0)
		s->group_size = s->in / s->groups;
	else if (said && said <= s->in && (s->in - 1) / said + 1 == s->groups)
		s->group_size = said;
	else
		return err_set(err, ERR_INPUT, "%s: %u groups do not divide "
			       "%u inputs", f->scales->name, s->groups, s->in);
	return 0;
}

static int find(struct qf_found *f, struct err *err)
{
	const struct qf_module *m = f->layer->module;
	struct ql_spec *s = &f->spec;
	const struct tensor *z;

	f->codes = qf_need(m, "weight_packed", err);
	f->scales = f->codes ? qf_need(m, "weight_scale", err) : NULL;
	if (!f->scales || qf_words_check(f->codes, err) ||
	    qf_floats_check(f->scales, err) || find_bits(f, err))
		return -1;
	z = f->zeros = qf_part(m, "weight_zero_point");
	f->index = qf_part(m, "weight_g_idx");
	s->out = (uint32_t)f->codes->dim[0];
	s->groups = (uint32_t)f->scales->dim[1];
	s->scale_type = f->scales->type;
	if (qf_shape_check(f->scales, s->out, s->groups, err))
		return -1;
	if (z && z->type == DT_I8 && qf_shape_check(z, s->out, s->groups, err))
		return -1;
	if (z && z->type != DT_I8 &&
	    (qf_words_check(z, err) ||
	     qf_shape_check(z, bits_words(&padded, s->bits, s->out),
			    s->groups, err)))
		return -1;
	if (f->index && (f->index->type != DT_I32 ||
			 !tensor_is_shape(f->index, 1, s->in, 0)))
		return err_set(err, ERR_INPUT, "%s: not I32 [%u]",
			       f->index->name, s->in);
	return find_groups(f, err);
}

static int signed_zeros(const struct qf_found *f, float *zero,
			struct err *err)
{
	const struct ql_spec *s = &f->spec;
	size_t n = (size_t)s->out * s->groups;
	int mid = 1 << (s->bits - 1);
	const int8_t *z = f->zeros->data;

	for (size_t i = 0; i < n; i++) {
		if (z[i] < -mid || z[i] >= mid)
			return err_set(err, ERR_INPUT, "%s: zero point %d "
				       "(expected %d to %d)", f->zeros->name,
				       z[i], -mid, mid - 1);
		zero[i] = (float)(z[i] + mid);
	}
	return 0;
}

static int grid(struct qf_found *f, float *scale, float *zero,
		struct err *err)
{
	const struct ql_spec *s = &f->spec;
	size_t n = (size_t)s->out * s->groups;
	uint8_t *field;

	tensor_load_f32(f->scales, 0, n, scale);
	if (f->zeros && f->zeros->type == DT_I8)
		return signed_zeros(f, zero, err);
	field = mem_alloc(n, 1, err);
	if (!field)
		return -1;
	memset(field, 1 << (s->bits - 1), n);
	for (uint32_t g = 0; f->zeros && g < s->groups; g++)
		bits_unpack(&padded, s->bits,
			    (const uint8_t *)f->zeros->data + 4 * (size_t)g,
			    s->groups, s->out, field + g, s->groups);
	for (size_t i = 0; i < n; i++)
		zero[i] = (float)field[i];
	free(field);
	return 0;
}

static int groups(struct qf_found *f, uint32_t *group_of, struct err *err)
{
	const struct ql_spec *s = &f->spec;
	const uint8_t *p = f->index ? f->index->data : NULL;
	bool unset = true;

	for (uint32_t k = 0; p && k < s->in; k++)
		unset &= half_le32(p + 4 * (size_t)k) == UINT32_MAX;
	for (uint32_t k = 0; p && !unset && k < s->in; k++) {
		uint32_t g = half_le32(p + 4 * (size_t)k);

		if (g >= s->groups)
			return err_set(err, ERR_INPUT, "%s: group %d of input "
				       "%u (expected 0 to %u)",
				       f->index->name, (int32_t)g, k,
				       s->groups - 1);
		group_of[k] = g;
	}
	return 0;
}

static int codes(const struct qf_found *f, struct ql *ql, struct err *err)
{
	size_t bytes = 4 * (size_t)f->codes->dim[1];
	const uint8_t *words = f->codes->data;

	(void)err;
	for (uint32_t n = 0; n < ql->spec.out; n++)
		bits_unpack(&padded, ql->spec.bits, words + bytes * n, 1,
			    ql->spec.in,
			    ql->code + (size_t)n * ql->spec.in, 1);
	return 0;
}

/* ---- writing ---- */

static int accept(const struct ql_spec *s, struct err *err)
{
	if (s->zero_kind != QL_POINT)
		return err_set(err, ERR_UNSUP, "compressed-tensors holds whole "
			       "zero points only, this layer's are fractions");
	if (s->sorted && s->act_order)
		return err_set(err, ERR_UNSUP, "compressed-tensors has no "
			       "place for the order of sorted rows");
	if (s->in % s->group_size)
		return err_set(err, ERR_UNSUP, "compressed-tensors' groups "
			       "must divide the inputs: %u inputs in groups "
			       "of %u do not", s->in, s->group_size);
	return 0;
}

static int plan(const struct ql_spec *s, struct qf_plan *p, struct err *err)
{
	memset(p, 0, sizeof(*p));
	if (accept(s, err))
		return -1;
	qf_plan_add(p, "weight_packed", DT_I32, s->out,
		    bits_words(&padded, s->bits, s->in));
	qf_plan_add(p, "weight_scale", s->scale_type, s->out, s->groups);
	qf_plan_add(p, "weight_shape", DT_I64, 2, 0);
	if (!s->sym)
		qf_plan_add(p, "weight_zero_point", DT_I32,
			    bits_words(&padded, s->bits, s->out), s->groups);
	if (s->act_order)
		qf_plan_add(p, "weight_g_idx", DT_I32, s->in, 0);
	return 0;
}

static int put_zeros(const struct ql *ql, uint8_t *words, struct err *err)
{
	uint32_t out = ql->spec.out, count = ql->spec.groups;
	uint8_t *field = mem_alloc(out, 1, err);

	if (!field)
		return -1;
	for (uint32_t g = 0; g < count; g++) {
		for (uint32_t n = 0; n < out; n++)
			field[n] = (uint8_t)ql->zero[(size_t)n * count + g];
		bits_pack(&padded, ql->spec.bits, field, 1, out,
			  words + 4 * (size_t)g, count);
	}
	free(field);
	return 0;
}

static int write_of(const struct ql *ql, void *const part[], struct err *err)
{
	const struct ql_spec *s = &ql->spec;
	size_t bytes = 4 * (size_t)bits_words(&padded, s->bits, s->in);
	uint32_t i = 3;

	if (accept(s, err) || qf_zeros_fit(ql, "compressed-tensors", err) ||
	    qf_scales_write(ql, true, part[1], err))
		return -1;
	for (uint32_t n = 0; n < s->out; n++)
		bits_pack(&padded, s->bits, ql->code + (size_t)n * s->in, 1,
			  s->in, (uint8_t *)part[0] + bytes * n, 1);
	half_put64(part[2], s->out);
	half_put64((uint8_t *)part[2] + 8, s->in);
	if (!s->sym && put_zeros(ql, part[i++], err))
		return -1;
	for (uint32_t k = 0; s->act_order && k < s->in; k++)
		half_put32((uint8_t *)part[i] + 4 * (size_t)k,
			   ql->group_of[k]);
	return 0;
}

/* ---- the row ---- */

static const struct qf_steps steps = { find, grid, groups, codes };
static const char *const owned[] = { "weight_packed", "weight_scale",
	"weight_shape", "weight_zero_point", "weight_g_idx", NULL };

static int spec_of(struct qf_layer *l, struct ql_spec *spec, struct err *err)
{
	return qf_steps_spec(&steps, l, spec, err);
}

static int read_of(struct qf_layer *l, struct ql *ql, struct err *err)
{
	return qf_steps_read(&steps, l, ql, err);
}

const struct qfmt qf_ct = {
	"compressed-tensors", "compressed-tensors: pack-quantized", owned,
	claims, spec_of, read_of, accept, plan, write_of
};
