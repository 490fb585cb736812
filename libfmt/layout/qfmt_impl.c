#include "qfmt_impl.h"

#include "../base/err.h"
#include "../base/half.h"
#include "../base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct qf_hint qf_no_hint = { .desc_act = -1, .sym = -1 };

bool qf_format_is(const struct qf_hint *hint, const char *name)
{
	return hint && hint->format && strcmp(hint->format, name) == 0;
}

/* ---- single tensors ---- */

const struct tensor *qf_need(const struct qf_module *m, const char *suffix,
			     struct err *err)
{
	const struct tensor *t = qf_part(m, suffix);

	if (!t)
		err_set(err, ERR_INPUT, "%s.%s: missing", m->name, suffix);
	return t;
}

int qf_rank_check(const struct tensor *t, int rank, struct err *err)
{
	char shape[96];

	if (t->rank != rank)
		return err_set(err, ERR_INPUT,
			       "%s: shape %s (expected %d dimensions)",
			       t->name, tensor_shape_text(t, shape), rank);
	for (int i = 0; i < rank; i++)
		if (t->dim[i] == 0 || t->dim[i] > QL_DIM_MAX)
			return err_set(err, ERR_INPUT,
				       "%s: shape %s (expected 1 to %u)",
				       t->name, tensor_shape_text(t, shape),
				       QL_DIM_MAX);
	return 0;
}

int qf_words_check(const struct tensor *t, struct err *err)
{
	if (t->type == DT_I8 || t->type == DT_I16 || t->type == DT_I64)
		return err_set(err, ERR_UNSUP,
			       "%s: codes packed in %s are not supported "
			       "(expected I32)",
			       t->name, tensor_dtype_name(t->type));
	if (t->type != DT_I32)
		return err_set(err, ERR_INPUT, "%s: type %s (expected I32)",
			       t->name, tensor_dtype_name(t->type));
	return qf_rank_check(t, 2, err);
}

int qf_floats_check(const struct tensor *t, struct err *err)
{
	if (t->type != DT_F16 && t->type != DT_BF16 && t->type != DT_F32)
		return err_set(err, ERR_INPUT,
			       "%s: type %s (expected F16, BF16 or F32)",
			       t->name, tensor_dtype_name(t->type));
	return qf_rank_check(t, 2, err);
}

int qf_shape_check(const struct tensor *t, uint64_t d0, uint64_t d1,
		   struct err *err)
{
	char shape[96];

	if (tensor_is_shape(t, 2, d0, d1))
		return 0;
	return err_set(err, ERR_INPUT, "%s: shape %s does not match the other "
		       "tensors (expected [%llu, %llu])", t->name,
		       tensor_shape_text(t, shape), (unsigned long long)d0,
		       (unsigned long long)d1);
}

int qf_data_check(const struct tensor *const t[], uint32_t count,
		  struct err *err)
{
	for (uint32_t i = 0; i < count; i++)
		if (t[i] && !t[i]->data)
			return err_set(err, ERR_UNSUP,
				       "%s: only its header was read",
				       t[i]->name);
	return 0;
}

/* ---- what is odd ---- */

uint32_t qf_scale_odd(float s)
{
	if (!isfinite(s))
		return QF_ODD_SCALE_BAD;
	if (s < 0)
		return QF_ODD_SCALE_NEG;
	return s > 0 ? 0 : QF_ODD_SCALE_ZERO;
}

uint32_t qf_common_odd(const struct qf_layer *l, const struct ql_spec *s)
{
	const struct qf_hint *h = l->hint ? l->hint : &qf_no_hint;
	const struct tensor *bias = qf_part(l->module, "bias");
	uint32_t odd = 0, want = (uint32_t)h->group_size;

	if (h->bits && h->bits != s->bits)
		odd |= QF_ODD_BITS;
	if (h->group_size < 0 || want > s->in)
		want = s->in;
	if (h->group_size && want != s->group_size)
		odd |= QF_ODD_GROUP;
	if (bias && !tensor_is_shape(bias, 1, s->out, 0))
		odd |= QF_ODD_BIAS;
	if (qf_part(l->module, "weight"))
		odd |= QF_ODD_BOTH;
	return odd;
}

/* ---- writing ---- */

void qf_plan_add(struct qf_plan *plan, const char *suffix, enum dtype type,
		 uint64_t d0, uint64_t d1)
{
	uint32_t i = plan->count++;

	memcpy(plan->part[i].suffix, suffix, strlen(suffix) + 1);
	plan->part[i].type = type;
	plan->part[i].rank = d1 ? 2 : 1;
	plan->part[i].dim[0] = d0;
	plan->part[i].dim[1] = d1;
	plan->part[i].bytes =
		d0 * (d1 ? d1 : 1) * (tensor_dtype_bits(type) / 8);
}

/* Store a row; the first value that its type does not hold, or -1. */
static int64_t row_store(const float *row, float *back, uint32_t count,
			 enum dtype type, uint8_t *to)
{
	struct tensor t = { .type = type, .data = to };

	tensor_store_f32(row, count, type, to);
	tensor_load_f32(&t, 0, count, back);
	for (uint32_t i = 0; i < count; i++)
		if (half_bits(row[i]) != half_bits(back[i]) &&
		    !(isnan(row[i]) && isnan(back[i])))
			return i;
	return -1;
}

int qf_scales_write(const struct ql *ql, bool by_row, void *part,
		    struct err *err)
{
	uint32_t out = ql->spec.out, groups = ql->spec.groups;
	uint32_t rows = by_row ? out : groups, cols = by_row ? groups : out;
	enum dtype type = ql->spec.scale_type;
	size_t bytes = (size_t)cols * (tensor_dtype_bits(type) / 8);
	float *row = mem_alloc(cols, 2 * sizeof(*row), err);
	int64_t bad;
	int ret = -1;

	if (!row)
		return -1;
	for (uint32_t r = 0; r < rows; r++) {
		for (uint32_t c = 0; c < cols; c++)
			row[c] = ql->scale[by_row ? (size_t)r * groups + c :
						    (size_t)c * groups + r];
		bad = row_store(row, row + cols, cols, type,
				(uint8_t *)part + bytes * r);
		if (bad >= 0) {
			err_set(err, ERR_UNSUP, "output %u, group %u: scale "
				"%.9g is not exact in %s",
				by_row ? r : (uint32_t)bad,
				by_row ? (uint32_t)bad : r, (double)row[bad],
				tensor_dtype_name(type));
			goto out;
		}
	}
	ret = 0;
out:
	free(row);
	return ret;
}

int qf_zeros_fit(const struct ql *ql, const char *name, struct err *err)
{
	uint32_t groups = ql->spec.groups, max = (1u << ql->spec.bits) - 1;

	for (uint32_t n = 0; n < ql->spec.out; n++)
		for (uint32_t g = 0; g < groups; g++) {
			float z = ql->zero[(size_t)n * groups + g];

			if (!(z >= 0 && z <= (float)max))
				return err_set(err, ERR_UNSUP,
					       "output %u, group %u: %s has no "
					       "zero point %g at %u bits (0 to "
					       "%u exist)", n, g, name,
					       (double)z, ql->spec.bits, max);
		}
	return 0;
}

/* ---- layouts that are only read ---- */

int qf_no_accept(const struct ql_spec *spec, struct err *err)
{
	(void)spec;
	return err_set(err, ERR_UNSUP, "this layout is read, not written");
}

int qf_no_plan(const struct ql_spec *spec, struct qf_plan *plan,
	       struct err *err)
{
	memset(plan, 0, sizeof(*plan));
	return qf_no_accept(spec, err);
}

int qf_no_write(const struct ql *ql, void *const part[], struct err *err)
{
	(void)part;
	return qf_no_accept(&ql->spec, err);
}
