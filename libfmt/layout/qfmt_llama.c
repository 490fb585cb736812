/* The first GPTQ-for-LLaMa (March 2023): no groups, zeros as floats.
 *
 *	qweight [words(K), N]   codes, a stream along the inputs
 *	scales  [N, 1]          F32
 *	zeros   [N, 1]          F32, scale * zero point
 *
 * W = scale * code - zeros.  Where every zeros is scale * z, rounded once, for
 * a whole z, the layer has zero points; otherwise it keeps its offsets.
 * Source: gptq-formats(5) "GPTQ-for-LLaMa". */
#include "../base/err.h"
#include "bits.h"
#include "qfmt_impl.h"

#include <string.h>

static int claims(const struct qf_module *m, const struct qf_hint *hint)
{
	const struct tensor *c = qf_part(m, "qweight");
	const struct tensor *z = qf_part(m, "zeros");

	(void)hint;
	return c && c->type == DT_I32 && z && tensor_is_float(z->type) &&
	       qf_part(m, "scales") && !qf_part(m, "qzeros") &&
	       !qf_part(m, "lookup_table");
}

/* The inputs times the bits are all that the shapes show; one of the two must
 * be known. */
static int find_bits(struct qf_found *f, struct err *err)
{
	static const uint8_t widths[] = { 4, 2, 3, 8 };
	uint64_t rows = f->codes->dim[0];
	uint32_t in = f->hint->in;

	for (size_t i = 0; i < sizeof(widths); i++) {
		uint32_t b = widths[i];

		if (in ? bits_words(&bits_stream, b, in) != rows :
			 b != f->hint->bits || rows * 32 % b)
			continue;
		f->spec.bits = (uint8_t)b;
		f->spec.in = in ? in : (uint32_t)(rows * 32 / b);
		return 0;
	}
	if (in)
		return err_set(err, ERR_INPUT, "%s: %u rows do not match %u "
			       "inputs at 2, 3, 4 or 8 bits", f->codes->name,
			       (uint32_t)rows, in);
	return err_set(err, ERR_UNSUP, "%s: neither its bits nor its inputs "
		       "are known; a config with bits would tell",
		       f->codes->name);
}

static int find(struct qf_found *f, struct err *err)
{
	const struct qf_module *m = f->layer->module;
	struct ql_spec *s = &f->spec;

	f->codes = qf_need(m, "qweight", err);
	f->scales = f->codes ? qf_need(m, "scales", err) : NULL;
	f->zeros = f->scales ? qf_need(m, "zeros", err) : NULL;
	if (!f->zeros || qf_words_check(f->codes, err) ||
	    qf_floats_check(f->scales, err) || qf_floats_check(f->zeros, err) ||
	    qf_shape_check(f->scales, f->codes->dim[1], 1, err) ||
	    qf_shape_check(f->zeros, f->codes->dim[1], 1, err) ||
	    find_bits(f, err))
		return -1;
	s->out = (uint32_t)f->codes->dim[1];
	s->groups = 1;
	s->group_size = s->in;
	s->scale_type = f->scales->type;
	return 0;
}

static int grid(struct qf_found *f, float *scale, float *zero,
		struct err *err)
{
	struct ql_spec *s = &f->spec;
	uint32_t max = (1u << s->bits) - 1;
	float z;

	(void)err;
	tensor_load_f32(f->scales, 0, s->out, scale);
	tensor_load_f32(f->zeros, 0, s->out, zero);
	for (uint32_t n = 0; n < s->out; n++)
		if (!qf_point(scale[n], zero[n], f->zeros->type, max, &z))
			s->zero_kind = QL_OFFSET;
	for (uint32_t n = 0; s->zero_kind == QL_POINT && n < s->out; n++) {
		qf_point(scale[n], zero[n], f->zeros->type, max, &z);
		zero[n] = z;
	}
	return 0;
}

static const struct qf_steps steps = { find, grid, NULL, &qf_codes_stream };
static const char *const owned[] = { "qweight", "scales", "zeros", NULL };

static int spec_of(struct qf_layer *l, struct ql_spec *spec, struct err *err)
{
	return qf_steps_spec(&steps, l, spec, err);
}

static int read_of(struct qf_layer *l, struct ql *ql, struct err *err)
{
	return qf_steps_read(&steps, l, ql, err);
}

const struct qfmt qf_llama = {
	"gptq-for-llama", "GPTQ-for-LLaMa of March 2023: zeros as floats",
	owned, claims, spec_of, read_of, qf_no_accept, qf_no_plan, qf_no_write,
	NULL
};
