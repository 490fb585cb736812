/* ref_quant.c - what only the quantizer needs, in plain scalar C: grids, sweep
 * and refinement.  As ref.c: the definition of right, compiled without
 * contraction to fused multiply-add. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/mem.h"
#include "../shape.h"
#include "grid.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static float *ref(const struct be_mat *m, uint32_t r, uint32_t c)
{
	return (float *)m->p + (size_t)r * m->ld + c;
}

float cpu_round_to(float f, enum dtype t)
{
	if (t == DT_F16)
		return half_to_f32(half_from_f32(f));
	if (t == DT_BF16)
		return half_bf16_to_f32(half_bf16_from_f32(f));
	return f;
}

/* ---- grid ---- */

void cpu_grid_widen(const struct be_grid *g, float *lo, float *hi)
{
	if (!g->sym)
		return;
	*hi = -*lo > *hi ? -*lo : *hi;
	*lo = *lo < 0 ? -*hi : *lo;
}

void cpu_grid_cell(const struct be_grid *g, float lo, float hi, float *scale,
		   float *zero)
{
	float maxq = (float)((1u << g->bits) - 1);

	*scale = cpu_round_to((hi - lo) / maxq, g->round_scale);
	if (*scale == 0) {
		lo = -1;
		hi = 1;
		*scale = cpu_round_to((hi - lo) / maxq, g->round_scale);
	}
	*zero = rintf(-lo / *scale);
	*zero = *zero < maxq ? *zero : maxq;
	if (g->sym)
		*zero = (float)(1u << (g->bits - 1));
	*zero += 0.0F; /* -0 becomes 0 */
}

static float nearest(float w, float scale, float zero, float maxq)
{
	float q = rintf(w / scale) + zero;

	q = q > 0 ? q : 0; /* also NaN */
	return q < maxq ? q : maxq;
}

/* The error of row r on one grid. */
static float cell_error(const struct be_grid *g, uint32_t r, float scale,
			float zero)
{
	float maxq = (float)((1u << g->bits) - 1), sum = 0;

	for (uint32_t c = 0; c < g->w->cols; c++) {
		float w = *ref(g->w, r, c);
		float q = nearest(w, scale, zero, maxq);
		float e = fabsf(scale * (q - zero) - w);

		e = g->power == 2 ? e * e : powf(e, g->power);
		sum += g->weight ? g->weight[c] * e : e;
	}
	return sum;
}

static void search_row(const struct be_grid *g, uint32_t r, float lo, float hi)
{
	float maxq = (float)((1u << g->bits) - 1), best = INFINITY;
	float near = cpu_grid_near(g), scale, zero;

	for (uint32_t i = 0; i < g->tries; i++) {
		float p = 1 - (float)i * g->shrink;

		cpu_grid_cell(g, p * lo, p * hi, &scale, &zero);
		for (float d = -near; d <= near; d++) {
			float z = zero + d, e;

			if (z < (float)g->zero_min || z > maxq)
				continue;
			e = cell_error(g, r, scale, z);
			if (!(e < best))
				continue;
			best = e;
			g->scale[r * g->step] = scale;
			g->zero[r * g->step] = z;
		}
	}
}

int cpu_ref_grid(struct be *be, const struct be_grid *g, struct err *err)
{
	(void)be;
	if (be_shape_grid(g, err))
		return -1;
	for (uint32_t r = 0; r < g->w->rows; r++) {
		float lo = 0, hi = 0;

		for (uint32_t c = 0; c < g->w->cols; c++) {
			float w = *ref(g->w, r, c);

			lo = w < lo ? w : lo;
			hi = w > hi ? w : hi;
		}
		cpu_grid_widen(g, &lo, &hi);
		cpu_grid_cell(g, lo, hi, &g->scale[r * g->step],
			      &g->zero[r * g->step]);
		if (g->tries)
			search_row(g, r, lo, hi);
	}
	return 0;
}

/* ---- sweep ---- */

/* Column i of row r; e is the error that later columns make good. */
static float sweep_one(const struct be_sweep *s, uint32_t r, uint32_t i)
{
	float maxq = (float)((1u << s->bits) - 1), *w = ref(s->w, r, 0);
	float scale = s->scale[r * s->grid_ld + s->group[i]];
	float zero = s->zero[r * s->grid_ld + s->group[i]];
	float q = nearest(w[i], scale, zero, maxq), e;

	s->code[r * s->code_ld + i] = (uint8_t)q;
	e = (w[i] - scale * (q - zero)) / *ref(s->u, i, i);
	for (uint32_t j = i; j < s->w->cols; j++)
		w[j] -= e * *ref(s->u, i, j);
	return e;
}

int cpu_ref_sweep(struct be *be, const struct be_sweep *s, struct err *err)
{
	(void)be;
	if (be_shape_sweep(s, err))
		return -1;
	for (uint32_t r = 0; r < s->w->rows; r++)
		for (uint32_t i = 0; i < s->w->cols; i++) {
			float e = sweep_one(s, r, i);

			*ref(s->err, r, i) = e;
			s->loss[r] += (double)e * (double)e / 2;
		}
	return 0;
}

/* ---- refine ---- */

struct refine_row {
	const struct be_refine *a;
	uint32_t r, n;
	float *g, *q, *p; /* [n]: gradient, codes, a product */
	float change;     /* of f */
};

/* The least-squares scale of columns a..b, which are one group. */
static void refit_group(struct refine_row *t, uint32_t a, uint32_t b)
{
	const struct be_refine *x = t->a;
	size_t cell = t->r * x->grid_ld + x->group[a];
	float zero = x->zero[cell], num = 0, den = 0, s, d, f;

	memset(t->p, 0, t->n * sizeof(*t->p));
	for (uint32_t i = a; i < b; i++)
		for (uint32_t j = 0; j < t->n; j++)
			t->p[j] += (t->q[i] - zero) * *ref(x->h, i, j);
	for (uint32_t i = a; i < b; i++) {
		num += t->g[i] * (t->q[i] - zero);
		den += t->p[i] * (t->q[i] - zero);
	}
	s = cpu_round_to(x->scale[cell] - num / den, x->scale_type);
	d = s - x->scale[cell];
	f = d * (num + num + d * den);
	/* NaN where all codes are zero */
	if (!(s > 0) || !isfinite(s) || !(f < 0))
		return;
	t->change += f;
	x->scale[cell] = s;
	for (uint32_t j = 0; j < t->n; j++)
		t->g[j] += d * t->p[j];
}

static void refine_codes(struct refine_row *t)
{
	const struct be_refine *x = t->a;
	float maxq = (float)((1u << x->bits) - 1);

	for (uint32_t i = 0; i < t->n; i++) {
		float s = x->scale[t->r * x->grid_ld + x->group[i]], d, q;

		q = rintf(t->q[i] - t->g[i] / (*ref(x->h, i, i) * s));
		q = q > 0 ? q : 0; /* also NaN */
		q = q < maxq ? q : maxq;
		d = s * (q - t->q[i]);
		t->change += d * (t->g[i] + t->g[i] + d * *ref(x->h, i, i));
		t->q[i] = q;
		for (uint32_t j = 0; j < t->n; j++)
			t->g[j] += d * *ref(x->h, i, j);
	}
}

static void refine_row(struct refine_row *t)
{
	const struct be_refine *x = t->a;
	uint8_t *code = x->code + t->r * x->code_ld;

	memcpy(t->g, ref(x->grad, t->r, 0), t->n * sizeof(*t->g));
	t->change = 0;
	for (uint32_t i = 0; i < t->n; i++)
		t->q[i] = code[i];
	for (uint32_t k = 0; k < x->rounds; k++) {
		for (uint32_t a = 0, b; x->refit && a < t->n; a = b) {
			for (b = a + 1; b < t->n; b++)
				if (x->group[b] != x->group[a])
					break;
			refit_group(t, a, b);
		}
		refine_codes(t);
	}
	for (uint32_t i = 0; i < t->n; i++) {
		size_t cell = t->r * x->grid_ld + x->group[i];

		code[i] = (uint8_t)t->q[i];
		*ref(x->diff, t->r, i) =
			x->scale[cell] * (t->q[i] - x->zero[cell]) -
			*ref(x->w, t->r, i);
	}
	x->loss[t->r] += (double)t->change / 2;
}

int cpu_ref_refine(struct be *be, const struct be_refine *a, struct err *err)
{
	struct refine_row t = { .a = a, .n = a->w->cols };
	float *mem;

	(void)be;
	if (be_shape_refine(a, err))
		return -1;
	mem = mem_alloc((size_t)3 * t.n + 1, sizeof(*mem), err);
	if (!mem)
		return -1;
	t.g = mem;
	t.q = mem + t.n;
	t.p = mem + 2 * t.n;
	for (t.r = 0; t.r < a->w->rows; t.r++)
		refine_row(&t);
	free(mem);
	return 0;
}
