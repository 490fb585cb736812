/* compressed-tensors, pack-quantized.
 *
 *	weight_packed     [N, words(K)]  codes, streams along the inputs
 *	weight_scale      [N, G]         F16, BF16 or F32
 *	weight_zero_point [words(N), G]  packed along the outputs; in some files
 *	                                 I8 [N, G], signed; absent: symmetric
 *	weight_shape      [2]            I64: N, K
 *	weight_g_idx      [K]            I32, for act-order; all -1: not set
 *
 * Fields are the signed value + 2^(b-1), which is the code and the zero point
 * of the neutral layer.  Where b does not divide 32 there are two generations:
 * from release 0.18 on, plain streams of ceil(K * b / 32) words, which are all
 * that newer readers know and are what is written; before, no field straddled a
 * word.  The shape tells, or bits that are spare in a stream.
 * Source: gptq-formats(5) "compressed-tensors"; compressed-tensors 0.20.1,
 * pack_quantized/helpers.py, and its pull request 732. */
#include "../base/err.h"
#include "../base/half.h"
#include "../base/mem.h"
#include "bits.h"
#include "qfmt_impl.h"

#include <stdlib.h>
#include <string.h>

static const struct bits_rule padded = { BITS_PADDED, NULL };

/* ---- codes ---- */

/* Before release 0.18 fields of 3, 5, 6 and 7 bits left spare bits in every
 * word. */
static void padded_get(const struct qf_words *w, uint32_t n, uint32_t k,
		       struct bits_tile *t)
{
	uint32_t cols = w->out - n < BITS_TILE_OUT ? w->out - n : BITS_TILE_OUT;
	uint32_t rows = w->in - k < BITS_TILE_IN ? w->in - k : BITS_TILE_IN;
	uint32_t per = 32 / w->bits, skip = k % per;
	size_t bytes = 4 * (size_t)bits_words(&padded, w->bits, w->in);
	const uint8_t *p = (const uint8_t *)w->data + 4 * (size_t)(k / per);
	uint8_t code[BITS_TILE_OUT][2 * BITS_TILE_IN];

	for (uint32_t c = 0; c < cols; c++)
		bits_unpack(&padded, w->bits, p + bytes * (n + c), 1,
			    skip + rows, code[c], 1);
	bits_tile_from_bytes(t, code[0] + skip, sizeof(code[0]), cols, rows);
}

static size_t row_bytes(uint32_t bits, uint32_t in)
{
	return 4 * (size_t)bits_words(&bits_stream, bits, in);
}

static void get(const struct qf_words *w, uint32_t n, uint32_t k,
		struct bits_tile *t)
{
	qf_rows_get(w, row_bytes(w->bits, w->in), n, k, t);
}

static void put(const struct bits_tile *t, const struct qf_strip *s,
		uint32_t n, uint32_t k)
{
	qf_rows_put(t, s, row_bytes(s->bits, s->in), n, k);
}

static const struct qf_codes codes = { true, get, put };
static const struct qf_codes old_codes = { true, padded_get, NULL };

/* ---- which packing ---- */

/* Is a bit set behind the end of a stream, in the last word of a row? */
static bool is_longer(const struct tensor *t, uint32_t bits, uint32_t in)
{
	uint64_t words = t->dim[1], used = (uint64_t)in * bits % 32;
	const uint8_t *p = t->data;

	for (uint64_t n = 1; p && used && n <= t->dim[0]; n++)
		if (half_le32(p + 4 * (n * words - 1)) >> used)
			return true;
	return false;
}

/* Does either packing take that many words? */
static bool takes(uint32_t bits, uint64_t in, uint64_t words)
{
	return bits_words(&padded, bits, in) == words ||
	       bits_words(&bits_stream, bits, in) == words;
}

/* Of few inputs both may be as long: fields of the older one end later. */
static void find_packing(struct qf_found *f)
{
	const struct ql_spec *s = &f->spec;
	uint64_t words = f->codes->dim[1];

	if (bits_words(&bits_stream, s->bits, s->in) != words ||
	    (bits_words(&padded, s->bits, s->in) == words &&
	     is_longer(f->codes, s->bits, s->in))) {
		f->how = &old_codes;
		f->odd |= QF_ODD_SPARE;
	}
}

static const struct bits_rule *rule_of(const struct qf_found *f)
{
	return f->how == &old_codes ? &padded : &bits_stream;
}

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

/* Old files of 7 and of 8 bits are as long; without a config it is 8. */
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
		if (shape[1] && !takes(b, shape[1], words))
			continue;
		f->spec.bits = (uint8_t)b;
		f->spec.in = (uint32_t)(shape[1] ? shape[1] :
						   words * 32 / b);
		find_packing(f);
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

/* Is the map there only to say that there is none?  (All are -1 then, which
 * `groups` makes sure of.) */
static bool is_unset(const struct tensor *index)
{
	return index && index->data && half_le32(index->data) == UINT32_MAX;
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
	     qf_shape_check(z, bits_words(rule_of(f), s->bits, s->out),
			    s->groups, err)))
		return -1;
	if (f->index && (f->index->type != DT_I32 ||
			 !tensor_is_shape(f->index, 1, s->in, 0)))
		return err_set(err, ERR_INPUT, "%s: not I32 [%u]",
			       f->index->name, s->in);
	if ((z && z->type == DT_I8) || is_unset(f->index))
		f->odd |= QF_ODD_FORM;
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
		bits_unpack(rule_of(f), s->bits,
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
		    bits_words(&bits_stream, s->bits, s->in));
	qf_plan_add(p, "weight_scale", s->scale_type, s->out, s->groups);
	qf_plan_add(p, "weight_shape", DT_I64, 2, 0);
	if (!s->sym)
		qf_plan_add(p, "weight_zero_point", DT_I32,
			    bits_words(&bits_stream, s->bits, s->out),
			    s->groups);
	if (s->act_order) /* readers from release 0.19 on refuse it */
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
		bits_pack(&bits_stream, ql->spec.bits, field, 1, out,
			  words + 4 * (size_t)g, count);
	}
	free(field);
	return 0;
}

static int write_of(const struct ql *ql, void *const part[], struct err *err)
{
	const struct ql_spec *s = &ql->spec;
	uint32_t i = 3;

	if (accept(s, err) || qf_zeros_fit(ql, "compressed-tensors", err) ||
	    qf_scales_write(ql, true, part[1], err))
		return -1;
	if (ql->code)
		qf_codes_write(&codes, ql->code,
			       &(struct qf_strip){ s->bits, s->out, s->in,
						   part[0] });
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

static const struct qf_steps steps = { find, grid, groups, &codes };
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
	claims, spec_of, read_of, accept, plan, write_of, &codes
};
