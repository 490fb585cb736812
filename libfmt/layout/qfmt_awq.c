/* AWQ, the GEMM version: 4 bits, packed along the outputs.
 *
 *	qweight [K, N/8]   word w of a row holds outputs 8w .. 8w+7, interleaved
 *	qzeros  [G, N/8]   true zeros, the same way
 *	scales  [G, N]     F16
 *
 * No g_idx: groups are contiguous and all of one size.
 * Source: gptq-formats(5) sections 8.2 and 8.6. */
#include "../base/err.h"
#include "../base/mem.h"
#include "bits.h"
#include "qfmt_impl.h"

#include <stdlib.h>
#include <string.h>

#define PER_WORD 8
/* Input rows decoded together: a cache line of each output row. */
#define BLOCK 64

static const uint8_t order[PER_WORD] = { 0, 2, 4, 6, 1, 3, 5, 7 };
static const struct bits_rule interleaved = { BITS_STREAM, order };

static int claims(const struct qf_module *m, const struct qf_hint *hint)
{
	const struct tensor *c = qf_part(m, "qweight");
	const struct tensor *z = qf_part(m, "qzeros");
	const struct tensor *s = qf_part(m, "scales");

	if (!c || !z || !s || c->type != DT_I32 || z->type != DT_I32 ||
	    c->rank != 2 || z->rank != 2 || s->rank != 2 ||
	    qf_part(m, "g_idx") || qf_format_is(hint, "gemv"))
		return 0;
	return s->dim[1] == PER_WORD * c->dim[1] && z->dim[0] == s->dim[0] &&
	       z->dim[1] == c->dim[1];
}

static int find(struct qf_found *f, struct err *err)
{
	const struct qf_module *m = f->layer->module;
	struct ql_spec *s = &f->spec;
	uint64_t in, out;

	f->codes = qf_need(m, "qweight", err);
	f->zeros = f->codes ? qf_need(m, "qzeros", err) : NULL;
	f->scales = f->zeros ? qf_need(m, "scales", err) : NULL;
	if (!f->scales || qf_words_check(f->codes, err) ||
	    qf_words_check(f->zeros, err) || qf_floats_check(f->scales, err))
		return -1;
	in = f->codes->dim[0];
	out = PER_WORD * f->codes->dim[1];
	if (qf_shape_check(f->scales, f->scales->dim[0], out, err) ||
	    qf_shape_check(f->zeros, f->scales->dim[0], out / PER_WORD, err))
		return -1;
	if (in % f->scales->dim[0])
		return err_set(err, ERR_INPUT, "%s: %u groups do not divide "
			       "%u inputs", f->scales->name,
			       (uint32_t)f->scales->dim[0], (uint32_t)in);
	s->bits = 4;
	s->in = (uint32_t)in;
	s->out = (uint32_t)out;
	s->groups = (uint32_t)f->scales->dim[0];
	s->group_size = s->in / s->groups;
	s->scale_type = f->scales->type;
	return 0;
}

static int grid(struct qf_found *f, float *scale, float *zero,
		struct err *err)
{
	const struct ql_spec *s = &f->spec;
	const uint8_t *words = f->zeros->data;
	float *row = mem_alloc(s->out, sizeof(*row), err);
	uint8_t *field = mem_alloc(s->out, 1, err);
	int ret = -1;

	if (!row || !field)
		goto out;
	for (uint32_t g = 0; g < s->groups; g++) {
		tensor_load_f32(f->scales, (uint64_t)g * s->out, s->out, row);
		bits_unpack(&interleaved, 4, words + (size_t)g * s->out / 2, 1,
			    s->out, field, 1);
		for (uint32_t n = 0; n < s->out; n++) {
			scale[(size_t)n * s->groups + g] = row[n];
			zero[(size_t)n * s->groups + g] = (float)field[n];
		}
	}
	ret = 0;
out:
	free(row);
	free(field);
	return ret;
}

/* Rows of words over the outputs, a block of inputs at a time. */
static int codes(const struct qf_found *f, struct ql *ql, struct err *err)
{
	uint32_t in = ql->spec.in, out = ql->spec.out;
	const uint8_t *words = f->codes->data;
	uint8_t *block = mem_alloc(out, BLOCK, err);

	if (!block)
		return -1;
	for (uint32_t k0 = 0; k0 < in; k0 += BLOCK) {
		uint32_t count = in - k0 < BLOCK ? in - k0 : BLOCK;

		bits_unpack(&interleaved, 4, words + (size_t)k0 * out / 2, 1,
			    (uint64_t)count * out, block, 1);
		for (uint32_t n = 0; n < out; n++)
			for (uint32_t k = 0; k < count; k++)
				ql->code[(size_t)n * in + k0 + k] =
					block[(size_t)k * out + n];
	}
	free(block);
	return 0;
}

/* ---- writing ---- */

/* The groups written: one group per row is not known to all readers, and is
 * split into real ones.  0: cannot be. */
static uint32_t group_of_size(const struct ql_spec *s)
{
	if (s->group_size < s->in || s->in <= 128)
		return s->group_size;
	for (uint32_t gs = 128; gs >= 32; gs /= 2)
		if (s->in % gs == 0)
			return gs;
	return 0;
}

static int accept(const struct ql_spec *s, struct err *err)
{
	if (s->bits != 4)
		return err_set(err, ERR_UNSUP, "awq has no codes of %u bits "
			       "(4 exist)", s->bits);
	if (s->zero_kind != QL_POINT)
		return err_set(err, ERR_UNSUP, "awq holds whole zero points "
			       "only, this layer's are fractions");
	if (s->act_order)
		return err_set(err, ERR_UNSUP, "awq has no g_idx, and this "
			       "layer's groups are scattered (act-order)");
	if (s->scale_type != DT_F16)
		return err_set(err, ERR_UNSUP, "awq has F16 scales, this "
			       "layer's are %s",
			       tensor_dtype_name(s->scale_type));
	if (s->out % PER_WORD)
		return err_set(err, ERR_UNSUP, "awq holds outputs in multiples "
			       "of 8, not %u", s->out);
	if (!group_of_size(s) || s->in % group_of_size(s))
		return err_set(err, ERR_UNSUP, "awq's groups must divide the "
			       "inputs: %u inputs in groups of %u do not",
			       s->in, s->group_size);
	return 0;
}

static int plan(const struct ql_spec *s, struct qf_plan *p, struct err *err)
{
	uint32_t groups;

	memset(p, 0, sizeof(*p));
	if (accept(s, err))
		return -1;
	groups = s->in / group_of_size(s);
	qf_plan_add(p, "qweight", DT_I32, s->in, s->out / PER_WORD);
	qf_plan_add(p, "qzeros", DT_I32, groups, s->out / PER_WORD);
	qf_plan_add(p, "scales", DT_F16, groups, s->out);
	return 0;
}

static void put_codes(const struct ql *ql, uint8_t *block, uint8_t *words)
{
	uint32_t in = ql->spec.in, out = ql->spec.out;

	for (uint32_t k0 = 0; k0 < in; k0 += BLOCK) {
		uint32_t count = in - k0 < BLOCK ? in - k0 : BLOCK;

		for (uint32_t n = 0; n < out; n++)
			for (uint32_t k = 0; k < count; k++)
				block[(size_t)k * out + n] =
					ql->code[(size_t)n * in + k0 + k];
		bits_pack(&interleaved, 4, block, 1, (uint64_t)count * out,
			  words + (size_t)k0 * out / 2, 1);
	}
}

static void put_zeros(const struct ql *ql, uint8_t *row, uint8_t *words)
{
	uint32_t out = ql->spec.out, groups = ql->spec.groups;

	for (uint32_t g = 0; g < groups; g++) {
		for (uint32_t n = 0; n < out; n++)
			row[n] = (uint8_t)ql->zero[(size_t)n * groups + g];
		bits_pack(&interleaved, 4, row, 1, out,
			  words + (size_t)g * out / 2, 1);
	}
}

static int write_of(const struct ql *ql, void *const part[], struct err *err)
{
	struct ql wide = { .mem = NULL };
	uint8_t *block = NULL;
	int ret = -1;

	if (accept(&ql->spec, err) || qf_zeros_fit(ql, "awq", err) ||
	    qf_split(ql, group_of_size(&ql->spec), &wide, err))
		goto out;
	block = mem_alloc(ql->spec.out, BLOCK, err);
	if (!block || qf_scales_write(&wide, false, part[2], err))
		goto out;
	put_codes(&wide, block, part[0]);
	put_zeros(&wide, block, part[1]);
	ret = 0;
out:
	free(block);
	free(wide.mem);
	return ret;
}

/* ---- the row ---- */

static const struct qf_steps steps = { find, grid, NULL, codes };
static const char *const owned[] = { "qweight", "qzeros", "scales", NULL };

static int spec_of(struct qf_layer *l, struct ql_spec *spec, struct err *err)
{
	return qf_steps_spec(&steps, l, spec, err);
}

static int read_of(struct qf_layer *l, struct ql *ql, struct err *err)
{
	return qf_steps_read(&steps, l, ql, err);
}

const struct qfmt qf_awq = {
	"awq", "AWQ (GEMM): 4-bit codes packed along the outputs", owned,
	claims, spec_of, read_of, accept, plan, write_of
};
