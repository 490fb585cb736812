/* Half-quadratic quantization: scale and zero of each group against an error
 * that forgives outliers, without calibration.
 *
 * H. Badri, A. Shaji, "Half-Quadratic Quantization of Large Machine Learning
 * Models", 2023: minimise |W - Q|_p, p < 1, by splitting off a part W_e that
 * takes what is far away,
 *
 *	W_e = shrink(W - Q),  shrink(x) = sign(x) max(|x| - |x|^(p-1) / b, 0)
 *
 * and fitting the grid to W - W_e, in turns, with b growing.  The paper moves
 * a real zero alone; zeros are whole here, so the scale is fitted too, by least
 * squares.  Errors are measured in steps of the grid, so that p and b mean the
 * same for weights of any size.  It begins with the grids of rtn, and the best
 * grid seen is taken, so the error never gets larger. */
#include "../libfmt/base/err.h"
#include "../libfmt/base/half.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/base/pool.h"
#include "method.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HQQ_TURNS 20
#define HQQ_POWER 0.7f
#define HQQ_BETA 10.0f
#define HQQ_GROWTH 1.01f

struct hqq {
	const struct gq_task *task;
	struct ql *ql;
};

/* A group of one row; n weights. */
struct group {
	const struct gq_params *p;
	const float *w;
	uint32_t n;
	float scale, zero;
};

static float code(const struct group *g, float w)
{
	float top = (float)((1u << g->p->bits) - 1);
	float q = rintf(w / g->scale) + g->zero;

	return q < 0 ? 0 : q > top ? top : q;
}

static double error(const struct group *g)
{
	double sum = 0;

	for (uint32_t i = 0; i < g->n; i++) {
		float e = g->w[i] - g->scale * (code(g, g->w[i]) - g->zero);

		sum += (double)powf(fabsf(e), HQQ_POWER);
	}
	return sum;
}

static float shrink(float x, float beta)
{
	float a = fabsf(x);

	a -= a > 0 ? powf(a, HQQ_POWER - 1) / beta : 0;
	return a > 0 ? copysignf(a, x) : 0;
}

static float round_to(float v, enum dtype t)
{
	if (t == DT_F16)
		return half_to_f32(half_from_f32(v));
	if (t == DT_BF16)
		return half_bf16_to_f32(half_bf16_from_f32(v));
	return v;
}

/* One turn: the grid fitted to the weights without what is split off.  0 when
 * it stays as it is. */
static int turn(struct group *g, float beta)
{
	const float top = (float)((1u << g->p->bits) - 1);
	float scale = g->scale, zero = g->zero;
	double shift = 0, num = 0, den = 0;

	for (uint32_t i = 0; i < g->n; i++) {
		float u = code(g, g->w[i]) - g->zero;
		float a = g->w[i] / g->scale, t = a - shrink(a - u, beta);

		shift += (double)(u - t);
		num += (double)t * (double)u;
		den += (double)u * (double)u;
	}
	if (!g->p->sym)
		zero = rintf(zero + (float)(shift / g->n));
	zero = zero < (float)g->p->zero_min ? (float)g->p->zero_min : zero;
	zero = zero > top ? top : zero;
	/* a moved zero moves the codes: the scale waits for the next turn */
	if (zero == g->zero && den > 0)
		scale = round_to(scale * (float)(num / den),
				 g->p->scale_type);
	if (!(scale > 0) || !isfinite(scale) ||
	    (scale == g->scale && zero == g->zero))
		return 0;
	g->scale = scale;
	g->zero = zero;
	return 1;
}

static void solve_group(struct group *g)
{
	struct group best = *g;
	double least = error(g);
	float beta = HQQ_BETA;

	for (int i = 0; i < HQQ_TURNS && turn(g, beta); i++) {
		double e = error(g);

		if (e < least) {
			least = e;
			best = *g;
		}
		beta *= HQQ_GROWTH;
	}
	*g = best;
}

static int solve_row(void *ctx, uint32_t row, struct err *err)
{
	const struct hqq *h = ctx;
	const struct ql_spec *s = &h->ql->spec;
	const float *w = h->task->w + (size_t)row * s->in;
	uint8_t *q = h->ql->code + (size_t)row * s->in;

	(void)err;
	for (uint32_t k = 0, i = row * s->groups; k < s->in;
	     k += s->group_size, i++) {
		struct group g = {
			.p = h->task->params, .w = w + k,
			.n = s->in - k < s->group_size ? s->in - k :
				s->group_size,
			.scale = h->ql->scale[i], .zero = h->ql->zero[i],
		};

		if (!(g.scale > 0))
			continue;
		solve_group(&g);
		h->ql->scale[i] = g.scale;
		h->ql->zero[i] = g.zero;
		for (uint32_t c = 0; c < g.n; c++)
			q[k + c] = (uint8_t)code(&g, g.w[c]);
	}
	return 0;
}

static int hqq_solve(const struct gq_task *t, struct ql *ql,
		     struct gq_report *report, struct err *err)
{
	struct hqq h = { .task = t, .ql = ql };
	struct pool work = { .count = t->out, .threads = t->params->threads,
			     .fn = solve_row, .ctx = &h };

	if (gq_rtn.solve(t, ql, report, err))
		return -1;
	if (pool_run(&work, err) ||
	    gq_rel_error(t->w, ql, &report->rel_error, err)) {
		ql_release(ql);
		return -1;
	}
	ql_observe(ql);
	return 0;
}

const struct gq_method gq_hqq = {
	.name = "hqq",
	.summary = "half-quadratic fit of scales and zeros, no calibration",
	.needs_hessian = 0,
	.solve = hqq_solve,
};
