/* ref.c - every operation in plain scalar C: the definition of right.
 *
 * Sums are in double, in the order of the index.  What only the quantizer
 * needs in f32 arithmetic is in ref_quant.c, what concerns the
 * cache in ref_attend.c. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/mem.h"
#include "../shape.h"
#include "cache.h"
#include "grid.h"
#include "host.h"
#include "ref_pack.h"
#include "solve.h"
#include "topk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct be {
	int unused;
};

/* The neutral layer as it is, copied. */
struct be_qw {
	struct ql_spec spec;
	uint8_t *code;      /* [out][in] */
	float *scale;       /* [out][groups] */
	float *zero;        /* [out][groups] */
	uint32_t *group_of; /* [in] */
	void *mem;
};

static size_t at(const struct be_mat *m, uint32_t r, uint32_t c)
{
	return (size_t)r * m->ld + c;
}

static float get(const struct be_mat *m, uint32_t r, uint32_t c)
{
	size_t i = at(m, r, c);

	if (m->type == DT_F16)
		return half_to_f32(((const uint16_t *)m->p)[i]);
	if (m->type == DT_BF16)
		return half_bf16_to_f32(((const uint16_t *)m->p)[i]);
	return ((const float *)m->p)[i];
}

/* Element of an F32 matrix, to be written. */
static float *ref(const struct be_mat *m, uint32_t r, uint32_t c)
{
	return (float *)m->p + at(m, r, c);
}

static double *ref64(const struct be_mat *m, uint32_t r, uint32_t c)
{
	return (double *)m->p + at(m, r, c);
}

static int ref_open(const struct be_open *how, struct be **out,
		    struct err *err)
{
	*out = NULL;
	if (how->kernel && strcmp(how->kernel, "scalar"))
		return err_set(err, ERR_USAGE,
			       "no kernel \"%s\" on device ref (scalar)",
			       how->kernel);
	*out = mem_alloc(1, sizeof(**out), err);
	return *out ? 0 : -1;
}

static void ref_close(struct be *be)
{
	free(be);
}

static const char *ref_describe(const struct be *be)
{
	(void)be;
	return "scalar reference in double, 1 thread";
}

static int ref_gemm(struct be *be, const struct be_gemm *g, struct err *err)
{
	(void)be;
	if (be_shape_gemm(g, err))
		return -1;
	for (uint32_t i = 0; i < g->c->rows; i++)
		for (uint32_t j = 0; j < g->c->cols; j++) {
			float *c = ref(g->c, i, j);
			double sum = 0;

			for (uint32_t k = 0; k < g->a->cols; k++)
				sum += (double)get(g->a, i, k) *
				       (double)(g->trans_b ? get(g->b, j, k)
							   : get(g->b, k, j));
			sum *= (double)g->alpha;
			/* beta 0 does not read C, as in BLAS */
			if (g->beta != 0)
				sum += (double)g->beta * (double)*c;
			*c = (float)sum;
		}
	return 0;
}

static int ref_gather(struct be *be, const struct be_mat *x,
		      const uint32_t *index, struct be_mat *y, struct err *err)
{
	(void)be;
	if (be_shape_gather(x, y, err))
		return -1;
	for (uint32_t r = 0; r < y->rows; r++)
		for (uint32_t c = 0; c < y->cols; c++)
			*ref(y, r, c) = get(x, r, index[c]);
	return 0;
}

static void ref_qw_free(struct be *be, struct be_qw *w)
{
	(void)be;
	if (!w)
		return;
	free(w->mem);
	free(w);
}

static int ref_qw_new(struct be *be, const struct ql *ql, struct be_qw **out,
		      struct err *err)
{
	const struct ql_spec *s = &ql->spec;
	size_t codes = (size_t)s->out * s->in;
	size_t grid = (size_t)s->out * s->groups;
	struct be_qw *w = NULL;
	int ret = -1;

	*out = NULL;
	if (be_shape_ql(ql, err))
		return -1;
	w = mem_alloc(1, sizeof(*w), err);
	if (!w)
		goto out;
	w->spec = *s;
	struct mem_part part[] = {
		{ (void **)&w->code, codes, 1 },
		{ (void **)&w->scale, grid, sizeof(float) },
		{ (void **)&w->zero, grid, sizeof(float) },
		{ (void **)&w->group_of, s->in, sizeof(uint32_t) },
	};
	w->mem = mem_block(part, 4, err);
	if (!w->mem)
		goto out;
	memcpy(w->code, ql->code, codes);
	memcpy(w->scale, ql->scale, grid * sizeof(float));
	memcpy(w->zero, ql->zero, grid * sizeof(float));
	memcpy(w->group_of, ql->group_of, s->in * sizeof(uint32_t));
	*out = w;
	w = NULL;
	ret = 0;
out:
	ref_qw_free(be, w);
	return ret;
}

static int ref_qw_pack(struct be *be, const struct ql_packed *q,
		       struct be_qw **out, struct err *err)
{
	struct ql ql;
	int ret;

	*out = NULL;
	if (cpu_ref_unpack(q, &ql, err))
		return -1;
	ret = ref_qw_new(be, &ql, out, err);
	ql_release(&ql);
	return ret;
}

static const char *ref_qw_kernel(const struct be *be, const struct be_qw *w,
				 uint32_t m)
{
	(void)be;
	(void)w;
	(void)m;
	return "scalar";
}

static double weight(const struct be_qw *w, uint32_t n, uint32_t k)
{
	size_t g = (size_t)n * w->spec.groups + w->group_of[k];
	float q = (float)w->code[(size_t)n * w->spec.in + k];

	/* f32, the exact definition of the value */
	if (w->spec.zero_kind == QL_POINT)
		return (double)(w->scale[g] * (q - w->zero[g]));
	return (double)(w->scale[g] * q - w->zero[g]);
}

static int ref_qgemm(struct be *be, const struct be_mat *x,
		     const struct be_qw *w, struct be_mat *y, struct err *err)
{
	(void)be;
	if (be_shape_qgemm(x, w->spec.in, w->spec.out, y, err))
		return -1;
	for (uint32_t n = 0; n < y->cols; n++)
		for (uint32_t r = 0; r < y->rows; r++) {
			double sum = 0;

			for (uint32_t k = 0; k < x->cols; k++)
				sum += (double)get(x, r, k) * weight(w, n, k);
			*ref(y, r, n) = (float)sum;
		}
	return 0;
}

static int ref_embed(struct be *be, const struct be_mat *table,
		     const uint32_t *id, struct be_mat *y, struct err *err)
{
	(void)be;
	if (be_shape_embed(table, y, err))
		return -1;
	for (uint32_t r = 0; r < y->rows; r++) {
		if (id[r] >= table->rows)
			return err_set(err, ERR_INPUT,
				       "token %u is not among the %u embedded",
				       id[r], table->rows);
		for (uint32_t c = 0; c < y->cols; c++)
			*ref(y, r, c) = get(table, id[r], c);
	}
	return 0;
}

static int ref_rmsnorm(struct be *be, const struct be_mat *x,
		       const struct be_mat *weight_, double eps,
		       struct be_mat *y, struct err *err)
{
	uint32_t n = weight_->cols;

	(void)be;
	if (be_shape_rmsnorm(x, weight_, y, err))
		return -1;
	for (uint32_t r = 0; r < x->rows; r++)
		for (uint32_t h = 0; h < x->cols; h += n) {
			double sum = 0, f;

			for (uint32_t c = 0; c < n; c++)
				sum += (double)get(x, r, h + c) *
				       (double)get(x, r, h + c);
			f = 1 / sqrt(sum / n + eps);
			for (uint32_t c = 0; c < n; c++)
				*ref(y, r, h + c) =
					(float)((double)get(x, r, h + c) * f *
						(double)get(weight_, 0, c));
		}
	return 0;
}

static int ref_swiglu(struct be *be, const struct be_mat *gate,
		      const struct be_mat *up, struct be_mat *y,
		      struct err *err)
{
	(void)be;
	if (be_shape_swiglu(gate, up, y, err))
		return -1;
	for (uint32_t r = 0; r < y->rows; r++)
		for (uint32_t c = 0; c < y->cols; c++) {
			double g = (double)get(gate, r, c);

			*ref(y, r, c) = (float)(g / (1 + exp(-g)) *
						(double)get(up, r, c));
		}
	return 0;
}

static int ref_add(struct be *be, struct be_mat *x, const struct be_mat *y,
		   struct err *err)
{
	(void)be;
	if (be_shape_add(x, y, err))
		return -1;
	for (uint32_t r = 0; r < x->rows; r++)
		for (uint32_t c = 0; c < x->cols; c++)
			*ref(x, r, c) += get(y, y->rows == 1 ? 0 : r, c);
	return 0;
}

static int ref_syrk(struct be *be, const struct be_mat *x, double alpha,
		    struct be_mat *h, struct err *err)
{
	(void)be;
	if (be_shape_syrk(x, h, err))
		return -1;
	for (uint32_t i = 0; i < h->rows; i++)
		for (uint32_t j = i; j < h->cols; j++) {
			double sum = 0;

			for (uint32_t r = 0; r < x->rows; r++)
				sum += (double)get(x, r, i) *
				       (double)get(x, r, j);
			*ref64(h, i, j) += alpha * sum;
			*ref64(h, j, i) = *ref64(h, i, j);
		}
	return 0;
}

static int ref_factor(struct be *be, const struct be_factor *f,
		      struct err *err)
{
	uint32_t n = f->h->rows;
	double *a = NULL, mean = 0;
	int ret = -1;

	(void)be;
	if (be_shape_factor(f, err))
		return -1;
	a = mem_alloc((size_t)n * n, sizeof(*a), err);
	if (!a)
		goto out;
	for (uint32_t i = 0; i < n; i++)
		mean += *ref64(f->h, i, i) / n;
	for (uint32_t i = 0; i < n; i++) {
		memcpy(a + (size_t)i * n, ref64(f->h, i, 0),
		       n * sizeof(*a));
		a[(size_t)i * n + i] += f->damp * mean;
	}
	/* H = L L^T, H^-1, H^-1 = L' L'^T, U = L'^T: as published */
	if (cpu_solve_chol(a, n, err))
		goto out;
	cpu_solve_inverse(a, n);
	if (cpu_solve_chol(a, n, err))
		goto out;
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t j = 0; j < n; j++)
			*ref(f->u, i, j) =
				j < i ? 0 : (float)a[(size_t)j * n + i];
	ret = 0;
out:
	free(a);
	return ret;
}

/* The best of those behind the last one taken; values are [n]. */
static struct be_top next_best(const double *value, uint32_t n,
			       const struct be_top *last)
{
	struct be_top best = { 0, UINT32_MAX, 0 };

	for (uint32_t i = 0; i < n; i++) {
		if (last && (value[i] > last->value ||
			     (value[i] == last->value && i <= last->id)))
			continue;
		if (best.id == UINT32_MAX || value[i] > best.value)
			best = (struct be_top){ value[i], i, 0 };
	}
	return best;
}

static int topk_row(const struct be_topk *t, struct err *err)
{
	double *value;

	if (be_shape_topk(t, err))
		return -1;
	value = mem_alloc(t->x.cols, sizeof(*value), err);
	if (!value)
		return -1;
	for (uint32_t i = 0; i < t->x.cols; i++)
		value[i] = cpu_top_value(t, i);
	for (uint32_t i = 0; i < t->k; i++)
		t->best[i] = next_best(value, t->x.cols,
				       i ? &t->best[i - 1] : NULL);
	free(value);
	return 0;
}

static int ref_topk(struct be *be, const struct be_topk *t, uint32_t n,
		    struct err *err)
{
	(void)be;
	for (uint32_t i = 0; i < n; i++)
		if (topk_row(&t[i], err))
			return -1;
	return 0;
}

const struct be_api be_ref = {
	.abi = BE_ABI,
	.size = sizeof(struct be_api),
	.name = "ref",
	.open = ref_open,
	.close = ref_close,
	.describe = ref_describe,
	.avail = cpu_host_avail,
	.alloc = cpu_host_alloc,
	.free = cpu_host_free,
	.put = cpu_host_put,
	.get = cpu_host_get,
	.gemm = ref_gemm,
	.gather = ref_gather,
	.qw_new = ref_qw_new,
	.qw_pack = ref_qw_pack,
	.qw_free = ref_qw_free,
	.qw_kernel = ref_qw_kernel,
	.qgemm = ref_qgemm,
	.embed = ref_embed,
	.rmsnorm = ref_rmsnorm,
	.store = cpu_ref_store,
	.attend = cpu_ref_attend,
	.swiglu = ref_swiglu,
	.add = ref_add,
	.topk = ref_topk,
	.syrk = ref_syrk,
	.factor = ref_factor,
	.grid = cpu_ref_grid,
	.sweep = cpu_ref_sweep,
	.refine = cpu_ref_refine,
};
