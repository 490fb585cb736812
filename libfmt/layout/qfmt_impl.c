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
	size_t size = tensor_dtype_bits(type) / 8;
	float row[QF_BLOCK], back[QF_BLOCK];

	/* blocks: a transposition that stays in the cache */
	for (uint32_t c0 = 0; c0 < cols; c0 += QF_BLOCK)
		for (uint32_t r = 0; r < rows; r++) {
			uint32_t n = cols - c0 < QF_BLOCK ? cols - c0 :
							    QF_BLOCK;
			int64_t bad;

			for (uint32_t i = 0; i < n; i++) {
				size_t c = c0 + i, at = by_row ?
					r * (size_t)cols + c : c * rows + r;

				row[i] = ql->scale[at];
			}
			bad = row_store(row, back, n, type, (uint8_t *)part +
					size * (r * (size_t)cols + c0));
			if (bad < 0)
				continue;
			c0 += (uint32_t)bad;
			return err_set(err, ERR_UNSUP, "output %u, group %u: "
				       "scale %.9g is not exact in %s",
				       by_row ? r : c0, by_row ? c0 : r,
				       (double)row[bad],
				       tensor_dtype_name(type));
		}
	return 0;
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

int qf_split(const struct ql *ql, uint32_t gs, struct ql *wide,
	     struct err *err)
{
	uint32_t from = ql->spec.groups, groups = ql->spec.in / gs;
	size_t n = ql->spec.out;
	struct mem_part part[] = {
		{ (void **)&wide->scale, n * groups, sizeof(float) },
		{ (void **)&wide->zero, n * groups, sizeof(float) }
	};

	*wide = *ql;
	wide->spec.groups = groups;
	wide->spec.group_size = gs;
	wide->mem = mem_block(part, 2, err);
	if (!wide->mem)
		return -1;
	for (size_t o = 0; o < n; o++)
		for (uint32_t g = 0; g < groups; g++) {
			size_t at = o * from + g / (groups / from);

			wide->scale[o * groups + g] = ql->scale[at];
			wide->zero[o * groups + g] = ql->zero[at];
		}
	return 0;
}

bool qf_point(float scale, float offset, enum dtype type, uint32_t max,
	      float *z)
{
	uint8_t bytes[4];
	struct tensor t = { .type = type, .data = bytes };
	float product;

	*z = (float)((max + 1) / 2);
	if (half_bits(scale) << 1 == 0)
		return half_bits(offset) << 1 == 0;
	*z = roundf(offset / scale);
	if (!(*z >= 0 && *z <= (float)max))
		return false;
	*z = fabsf(*z); /* no negative zero */
	product = scale * *z;
	tensor_store_f32(&product, 1, type, bytes);
	tensor_load_f32(&t, 0, 1, &product);
	return product >= offset && product <= offset;
}

/* ---- reading in steps ---- */

/* What the small tensors say. */
struct small {
	float *scale, *zero; /* [out][groups] */
	uint32_t *group_of;  /* [in] */
	void *mem;
};

static int small_alloc(const struct ql_spec *s, struct small *small,
		       struct err *err)
{
	size_t n = (size_t)s->out * s->groups;
	struct mem_part part[] = {
		{ (void **)&small->scale, n, sizeof(float) },
		{ (void **)&small->zero, n, sizeof(float) },
		{ (void **)&small->group_of, s->in, sizeof(uint32_t) }
	};

	small->mem = mem_block(part, 3, err);
	return small->mem ? 0 : -1;
}

/* spec.sym, spec.act_order and the odd bits, now that all is known. */
static void settle(struct qf_layer *l, const struct small *small,
		   struct ql_spec *s)
{
	float mid = (float)(1u << (s->bits - 1));
	size_t n = (size_t)s->out * s->groups;

	s->sym = s->zero_kind == QL_POINT;
	for (size_t i = 0; i < n; i++) {
		l->odd |= qf_scale_odd(small->scale[i]);
		if (small->zero[i] < mid || small->zero[i] > mid)
			s->sym = 0;
	}
	for (uint32_t k = 0; k < s->in; k++)
		if (small->group_of[k] != k / s->group_size)
			s->act_order = 1;
}

/* *small has no memory when only headers are there. */
static int load_small(const struct qf_steps *st, struct qf_layer *l,
		      struct qf_found *f, struct small *small,
		      struct err *err)
{
	struct ql_spec *s = &f->spec;

	memset(small, 0, sizeof(*small));
	memset(f, 0, sizeof(*f));
	f->layer = l;
	f->hint = l->hint ? l->hint : &qf_no_hint;
	if (st->find(f, err))
		return -1;
	if (s->in > QL_DIM_MAX || s->out > QL_DIM_MAX || s->groups > s->in)
		return err_set(err, ERR_INPUT, "%s: %u outputs, %u inputs in "
			       "%u groups are no layer", l->module->name,
			       s->out, s->in, s->groups);
	l->odd |= qf_common_odd(l, s) | f->odd;
	if (l->glance || !f->scales->data || (f->zeros && !f->zeros->data) ||
	    (f->index && !f->index->data)) {
		s->sym = !f->zeros || f->hint->sym == 1;
		s->act_order = f->index && f->hint->desc_act == 1;
		return 0;
	}
	if (small_alloc(s, small, err))
		return -1;
	for (uint32_t k = 0; k < s->in; k++)
		small->group_of[k] = k / s->group_size;
	if (st->grid(f, small->scale, small->zero, err) ||
	    (st->groups && st->groups(f, small->group_of, err)))
		return -1;
	settle(l, small, s);
	return 0;
}

int qf_found_spec(struct qf_found *f, uint64_t in, uint64_t out,
		  struct err *err)
{
	struct ql_spec *s = &f->spec;

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

int qf_steps_spec(const struct qf_steps *st, struct qf_layer *l,
		  struct ql_spec *spec, struct err *err)
{
	struct qf_found f;
	struct small small;
	int ret = load_small(st, l, &f, &small, err);

	if (!ret)
		*spec = f.spec;
	free(small.mem);
	return ret;
}

int qf_codes_open(const struct qf_layer *l, const struct ql_spec *spec,
		  const struct qf_codes *how, const struct tensor *t,
		  struct ql *ql, struct err *err)
{
	struct qf_words w = { .how = how, .bits = spec->bits,
			      .out = spec->out, .in = spec->in,
			      .cols = (uint32_t)t->dim[1],
			      .data = t->data, .size = t->size, .of = t };

	if (l->words ? ql_init_grid(ql, spec, err) : ql_init(ql, spec, err))
		return err_ctx(err, "%s", l->module->name);
	if (l->words)
		*l->words = w;
	else
		qf_codes_read(&w, ql->code);
	return 0;
}

int qf_steps_read(const struct qf_steps *st, struct qf_layer *l, struct ql *ql,
		  struct err *err)
{
	struct qf_found f;
	struct small small;
	size_t n;
	int ret = -1;

	memset(ql, 0, sizeof(*ql));
	if (load_small(st, l, &f, &small, err))
		goto out;
	if (!small.mem || !f.codes->data) {
		err_set(err, ERR_UNSUP, "%s: only its header was read",
			f.codes->name);
		goto out;
	}
	if (qf_codes_open(l, &f.spec, f.how ? f.how : st->codes, f.codes,
			  ql, err))
		goto out;
	n = (size_t)f.spec.out * f.spec.groups;
	memcpy(ql->scale, small.scale, n * sizeof(float));
	memcpy(ql->zero, small.zero, n * sizeof(float));
	memcpy(ql->group_of, small.group_of, f.spec.in * sizeof(uint32_t));
	ret = 0;
out:
	free(small.mem);
	return ret;
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
