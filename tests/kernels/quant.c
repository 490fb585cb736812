/* quant.c - Hessian, factor, grid and sweep against the reference. */
#include "kit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void syrk_case(struct kit *k, uint32_t n, uint32_t m)
{
	struct arr x = arr_mat(k, m, n, kit_below(k, 3), DT_F32);
	struct arr h = arr_mat(k, n, n, kit_below(k, 3), DT_F64);
	double *mag = calloc((size_t)n * n, sizeof(*mag));
	int ref, dev;

	kit_case(k, "[%u][%u]", m, n);
	arr_random(&x, 1);
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t j = 0; j <= i; j++) {
			double v = (double)kit_normal(k);

			arr_set(&h, i, j, v);
			arr_set(&h, j, i, v);
		}
	arr_up(&x);
	arr_up(&h);
	ref = be_ref.syrk(k->ref, &x.ref, 0.5, &h.ref, &k->err);
	dev = k->api->syrk(k->be, &x.dev, 0.5, &h.dev, &k->err);
	for (uint32_t i = 0; mag && i < n * n; i++)
		mag[i] = 1 + sqrt(fabs(arr_get(&h, i / n, i / n) *
				       arr_get(&h, i % n, i % n)));
	if (kit_ran(k, ref, dev)) {
		arr_near(&h, "h", mag, 2e-6);
		arr_same(&x, "x");
		for (uint32_t i = 0; i < n * n; i++)
			if (arr_got(&h, i / n, i % n) !=
			    arr_got(&h, i % n, i / n)) {
				kit_fail(k, "h is not symmetric at %u", i);
				break;
			}
	}
	free(mag);
	arr_free(&x);
	arr_free(&h);
}

static void test_syrk(struct kit *k)
{
	static const uint32_t ns[] = { 1, 2, 5, 16, 33, 64, 129 };
	static const uint32_t ms[] = { 1, 2, 7, 64, 255, 256, 257, 600 };

	k->what = "syrk";
	for (int i = 0; i < 20; i++)
		syrk_case(k, KIT_PICK(k, ns), KIT_PICK(k, ms));
	syrk_case(k, 191, 3);
	syrk_case(k, 192, 300);
	syrk_case(k, 193, 2);
	syrk_case(k, 530, 20);
	syrk_case(k, 4, 0);
}

/* A Hessian as calibration gives it: X^T X of fewer rows than columns, with
 * columns of very different size, saved by its damping. */
static void fill_hessian(struct kit *k, struct arr *h)
{
	uint32_t n = h->ref.rows, m = n / 2 + 1;
	struct arr x = arr_mat(k, m, n, 0, DT_F32);

	for (uint32_t c = 0; c < n; c++) {
		double size = exp((double)kit_normal(k));

		for (uint32_t r = 0; r < m; r++)
			arr_set(&x, r, c, (double)kit_normal(k) * size);
	}
	if (be_ref.syrk(k->ref, &x.ref, 2.0 / m, &h->ref, &k->err))
		kit_fail(k, "%s", k->err.msg);
	arr_free(&x);
}

static void test_factor(struct kit *k)
{
	static const uint32_t ns[] = { 1, 2, 3, 5, 31, 64, 95, 96, 97, 191,
				       192, 193, 384, 520 };

	k->what = "factor";
	for (uint32_t i = 0; i < sizeof(ns) / sizeof(ns[0]); i++) {
		struct arr h = arr_mat(k, ns[i], ns[i], kit_below(k, 3),
				       DT_F64);
		struct arr u = arr_mat(k, ns[i], ns[i], kit_below(k, 3),
				       DT_F32);
		struct be_factor f = { &h.ref, &u.ref, 0.01 };
		int ref;

		kit_case(k, "%u", ns[i]);
		fill_hessian(k, &h);
		arr_up(&h);
		memset(u.ref.p, 0xff, u.bytes);
		arr_up(&u);
		ref = be_ref.factor(k->ref, &f, &k->err);
		f.h = &h.dev;
		f.u = &u.dev;
		if (kit_ran(k, ref, k->api->factor(k->be, &f, &k->err))) {
			double *mag = calloc((size_t)ns[i] * ns[i],
					     sizeof(*mag));

			/* of the row's diagonal, which is what e is divided
			 * by; below the diagonal exactly 0 */
			for (uint32_t j = 0; mag && j < ns[i] * ns[i]; j++)
				if (j % ns[i] >= j / ns[i])
					mag[j] = arr_get(&u, j / ns[i],
							 j / ns[i]);
			arr_near(&u, "u", mag, 1e-6);
			arr_same(&h, "h");
			free(mag);
		}
		arr_free(&h);
		arr_free(&u);
	}
}

/* Matrices that have no factor must be refused, not crash. */
static void test_factor_bad(struct kit *k)
{
	static const double bad[] = { -5, -1e9, (double)NAN, (double)INFINITY };

	k->what = "factor of a bad matrix";
	for (uint32_t i = 0; i < 8; i++) {
		uint32_t n = i < 4 ? 20 : 300, at = kit_below(k, n);
		struct arr h = arr_mat(k, n, n, 0, DT_F64);
		struct arr u = arr_mat(k, n, n, 0, DT_F32);
		struct be_factor f = { &h.dev, &u.dev, 0.01 };

		kit_case(k, "%u with %g at %u", n, bad[i % 4], at);
		fill_hessian(k, &h);
		arr_set(&h, at, at, bad[i % 4]);
		arr_up(&h);
		if (k->api->factor(k->be, &f, &k->err) == 0)
			kit_fail(k, "was factored");
		else if (k->err.code != ERR_CHECK)
			kit_fail(k, "code %d: %s", k->err.code, k->err.msg);
		arr_same(&h, "h");
		arr_free(&h);
		arr_free(&u);
	}
}

static void grid_row(struct kit *k, struct arr *w, uint32_t r)
{
	/* ordinary, positive, negative, nothing, tiny, one value */
	uint32_t kind = kit_below(k, 8);

	for (uint32_t c = 0; c < w->ref.cols; c++) {
		double v = (double)kit_normal(k) * 0.05;

		if (kind == 1)
			v = fabs(v);
		else if (kind == 2)
			v = -fabs(v);
		else if (kind == 3)
			v = 0;
		else if (kind == 4)
			v *= 1e-7;
		else if (kind == 5)
			v *= 1e-38;
		arr_set(w, r, c, v);
	}
}

/* A clipping search.  Powers but 2 take powf, which differs by device. */
static void search(struct kit *k, struct be_grid *g, struct arr *weight)
{
	g->tries = 1 + kit_below(k, 70);
	g->shrink = 0.014F;
	g->power = k->host && kit_below(k, 4) == 0 ? 2.4F : 2;
	g->near = (uint8_t)kit_below(k, 2);
	g->zero_min = (uint8_t)kit_below(k, 2);
	if (kit_below(k, 4) == 0)
		return;
	for (uint32_t c = 0; c < weight->ref.cols; c++)
		arr_set(weight, 0, c, 0.01 + kit_below(k, 1000));
	arr_up(weight);
	g->weight = weight->ref.p;
}

static void test_grid(struct kit *k)
{
	static const uint32_t ns[] = { 1, 2, 7, 16, 32, 33, 128, 200 };
	static const uint32_t ms[] = { 1, 3, 64, 70 };
	static const uint8_t bits[] = { 2, 3, 4, 8 };
	static const enum dtype types[] = { DT_F16, DT_F32, DT_BF16 };

	k->what = "grid";
	for (uint32_t i = 0; i < kit_count(k, 60); i++) {
		uint32_t m = KIT_PICK(k, ms), n = KIT_PICK(k, ns);
		size_t step = 1 + kit_below(k, 3);
		struct arr w = arr_mat(k, m, n, kit_below(k, 3), DT_F32);
		struct arr s = arr_raw(k, (m - 1) * step + 1, sizeof(float));
		struct arr z = arr_raw(k, (m - 1) * step + 1, sizeof(float));
		struct arr wt = arr_mat(k, 1, n, 0, DT_F32);
		struct be_grid g = { .w = &w.ref, .scale = s.ref.p,
				     .zero = z.ref.p, .step = step,
				     .bits = bits[i % 4],
				     .sym = (uint8_t)(i / 4 % 2),
				     .round_scale = KIT_PICK(k, types) };
		int ref;

		if (kit_below(k, 2))
			search(k, &g, &wt);
		kit_case(k, "[%u][%u], %u bits, sym %u, scales %d, %u tries",
			 m, n, g.bits, g.sym, (int)g.round_scale, g.tries);
		for (uint32_t r = 0; r < m; r++)
			grid_row(k, &w, r);
		arr_up(&w);
		ref = be_ref.grid(k->ref, &g, &k->err);
		g.w = &w.dev;
		g.scale = s.dev.p;
		g.zero = z.dev.p;
		g.weight = g.weight ? wt.dev.p : NULL;
		if (kit_ran(k, ref, k->api->grid(k->be, &g, &k->err))) {
			arr_same(&s, "scale");
			arr_same(&z, "zero");
			arr_same(&w, "w");
		}
		arr_free(&w);
		arr_free(&wt);
		arr_free(&s);
		arr_free(&z);
	}
}

/* The arrays of one sweep. */
struct sweep {
	struct arr w, u, err, code, scale, zero, loss;
	uint32_t *group;
	struct be_sweep ref, dev;
};

static void sweep_init(struct kit *k, struct sweep *s, const uint32_t shape[3],
		       uint8_t bits)
{
	uint32_t m = shape[0], n = shape[1], groups = shape[2];
	size_t code_ld = n + kit_below(k, 3);

	s->w = arr_mat(k, m, n, kit_below(k, 3), DT_F32);
	s->u = arr_mat(k, n, n, kit_below(k, 3), DT_F32);
	s->err = arr_mat(k, m, n, kit_below(k, 3), DT_F32);
	s->code = arr_raw(k, (m - 1) * code_ld + n, 1);
	s->scale = arr_raw(k, (size_t)m * groups, sizeof(float));
	s->zero = arr_raw(k, (size_t)m * groups, sizeof(float));
	s->loss = arr_raw(k, m, sizeof(double));
	s->group = calloc(n, sizeof(*s->group));
	s->ref = (struct be_sweep){ &s->w.ref, &s->u.ref, &s->err.ref,
				    s->code.ref.p, code_ld, s->scale.ref.p,
				    s->zero.ref.p, groups, s->group,
				    s->loss.ref.p, bits };
	s->dev = (struct be_sweep){ &s->w.dev, &s->u.dev, &s->err.dev,
				    s->code.dev.p, code_ld, s->scale.dev.p,
				    s->zero.dev.p, groups, s->group,
				    s->loss.dev.p, bits };
}

static void sweep_fill(struct kit *k, struct sweep *s)
{
	uint32_t m = s->w.ref.rows, n = s->w.ref.cols;
	uint32_t groups = (uint32_t)s->ref.grid_ld;
	float *scale = s->scale.ref.p, *zero = s->zero.ref.p;
	int mixed = (int)kit_below(k, 2); /* act-order */

	arr_random(&s->w, 0.05);
	for (uint32_t i = 0; i < n; i++) {
		s->group[i] = mixed ? kit_below(k, groups) : i * groups / n;
		for (uint32_t j = i; j < n; j++)
			arr_set(&s->u, i, j, j == i
				? 0.5 + kit_below(k, 1000) / 1000.0
				: (double)kit_normal(k) * 0.1);
	}
	for (uint32_t i = 0; i < m * groups; i++) {
		scale[i] = 0.002F + 0.03F * (float)kit_below(k, 999) / 1000;
		zero[i] = (float)kit_below(k, 1u << s->ref.bits);
	}
	for (uint32_t r = 0; r < m; r++)
		((double *)s->loss.ref.p)[r] = r;
	arr_up(&s->w);
	arr_up(&s->u);
	arr_up(&s->scale);
	arr_up(&s->zero);
	arr_up(&s->loss);
}

/* Rounding that fuses may turn a tie: codes may then differ by one here and
 * there, and what follows in the row with them. */
static void sweep_compare(struct kit *k, struct sweep *s)
{
	const uint8_t *want = s->code.ref.p, *got;
	size_t differ = 0;

	arr_same(&s->u, "u");
	if (k->exact) {
		arr_same(&s->code, "code");
		arr_same(&s->err, "err");
		arr_same(&s->w, "w");
		arr_same(&s->loss, "loss");
		return;
	}
	arr_down(&s->code);
	got = s->code.got;
	for (size_t i = 0; i < s->code.bytes; i++)
		differ += got[i] != want[i];
	if (differ > s->code.bytes / 500)
		kit_fail(k, "%zu of %zu codes differ", differ, s->code.bytes);
	if (!differ) {
		arr_near(&s->err, "err", NULL, 1e-5);
		arr_near(&s->w, "w", NULL, 1e-5);
	}
}

static void test_sweep(struct kit *k)
{
	static const uint32_t ns[] = { 1, 2, 5, 7, 8, 9, 31, 64, 128, 130,
					300 };
	static const uint32_t ms[] = { 1, 3, 4, 8, 15, 16, 17, 40 };
	static const uint8_t bits[] = { 2, 3, 4, 8 };

	k->what = "sweep";
	for (uint32_t i = 0; i < kit_count(k, 60); i++) {
		uint32_t shape[3] = { KIT_PICK(k, ms), KIT_PICK(k, ns), 1 };
		struct sweep s;
		int ref;

		shape[2] = 1 + kit_below(k, shape[1] < 4 ? shape[1] : 4);
		kit_case(k, "[%u][%u], %u groups, %u bits", shape[0],
			 shape[1], shape[2], bits[i % 4]);
		sweep_init(k, &s, shape, bits[i % 4]);
		sweep_fill(k, &s);
		ref = be_ref.sweep(k->ref, &s.ref, &k->err);
		if (kit_ran(k, ref, k->api->sweep(k->be, &s.dev, &k->err)))
			sweep_compare(k, &s);
		arr_free(&s.w);
		arr_free(&s.u);
		arr_free(&s.err);
		arr_free(&s.code);
		arr_free(&s.scale);
		arr_free(&s.zero);
		arr_free(&s.loss);
		free(s.group);
	}
}

/* The arrays of one refinement: [rows][n], n columns in `groups` groups that
 * stand together. */
struct refine {
	struct arr w, diff, grad, h, code, scale, zero, loss;
	uint32_t *group;
	struct be_refine ref, dev;
};

static void refine_init(struct kit *k, struct refine *x,
			const uint32_t shape[3], uint8_t bits)
{
	uint32_t m = shape[0], n = shape[1], groups = shape[2];
	size_t code_ld = n + kit_below(k, 3);

	x->w = arr_mat(k, m, n, kit_below(k, 3), DT_F32);
	x->diff = arr_mat(k, m, n, kit_below(k, 3), DT_F32);
	x->grad = arr_mat(k, m, n, kit_below(k, 3), DT_F32);
	x->h = arr_mat(k, n, n, kit_below(k, 3), DT_F32);
	x->code = arr_raw(k, (m - 1) * code_ld + n, 1);
	x->scale = arr_raw(k, (size_t)m * groups, sizeof(float));
	x->zero = arr_raw(k, (size_t)m * groups, sizeof(float));
	x->loss = arr_raw(k, m, sizeof(double));
	x->group = calloc(n, sizeof(*x->group));
	x->ref = (struct be_refine){
		.w = &x->w.ref, .diff = &x->diff.ref, .grad = &x->grad.ref,
		.h = &x->h.ref, .code = x->code.ref.p, .code_ld = code_ld,
		.scale = x->scale.ref.p, .zero = x->zero.ref.p,
		.grid_ld = groups, .group = x->group, .loss = x->loss.ref.p,
		.rounds = 1 + kit_below(k, 3), .bits = bits,
		.refit = kit_below(k, 4) > 0, .scale_type = DT_F16,
	};
	x->dev = x->ref;
	x->dev.w = &x->w.dev;
	x->dev.diff = &x->diff.dev;
	x->dev.grad = &x->grad.dev;
	x->dev.h = &x->h.dev;
	x->dev.code = x->code.dev.p;
	x->dev.scale = x->scale.dev.p;
	x->dev.zero = x->zero.dev.p;
	x->dev.loss = x->loss.dev.p;
}

/* Row r's gradient, with its codes as they are; f. */
static double refine_row(struct refine *x, uint32_t r, int set)
{
	const struct be_refine *a = &x->ref;
	uint32_t n = x->w.ref.cols;
	double f = 0, e[512];

	for (uint32_t i = 0; i < n; i++) {
		size_t cell = r * a->grid_ld + a->group[i];

		e[i] = (double)a->scale[cell] *
		       ((double)a->code[r * a->code_ld + i] -
			(double)a->zero[cell]) - arr_get(&x->w, r, i);
	}
	for (uint32_t i = 0; i < n; i++) {
		double g = 0;

		for (uint32_t j = 0; j < n; j++)
			g += e[j] * arr_get(&x->h, j, i);
		f += g * e[i];
		if (set)
			arr_set(&x->grad, r, i, g);
	}
	return f;
}

/* H falls off from its diagonal; the codes are any.  *f: the sum over rows. */
static void refine_fill(struct kit *k, struct refine *x, double *f)
{
	uint32_t m = x->w.ref.rows, n = x->w.ref.cols;
	uint32_t groups = (uint32_t)x->ref.grid_ld;
	uint32_t top = 1u << x->ref.bits;

	arr_random(&x->w, 0.05);
	for (uint32_t i = 0; i < n; i++) {
		x->group[i] = i * groups / n;
		for (uint32_t j = 0; j < n; j++)
			arr_set(&x->h, i, j, i == j ? 1.5 : exp(-0.3 *
				fabs((double)i - (double)j)));
	}
	for (uint32_t i = 0; i < m * groups; i++) {
		x->ref.scale[i] = 0.125F / (float)top *
				  (float)(1 + kit_below(k, 4));
		((float *)x->zero.ref.p)[i] = (float)(top / 2);
	}
	for (size_t i = 0; i < x->code.bytes; i++)
		x->ref.code[i] = (uint8_t)kit_below(k, top);
	*f = 0;
	for (uint32_t r = 0; r < m; r++) {
		x->ref.loss[r] = r;
		*f += refine_row(x, r, 1);
	}
	arr_up(&x->w);
	arr_up(&x->grad);
	arr_up(&x->h);
	arr_up(&x->scale);
	arr_up(&x->zero);
	arr_up(&x->code);
	arr_up(&x->loss);
}

/* The reference itself: f fell, and by what it says. */
static void refine_check(struct kit *k, struct refine *x, double before)
{
	double after = 0, said = 0;

	for (uint32_t r = 0; r < x->w.ref.rows; r++) {
		after += refine_row(x, r, 0);
		said += 2 * (x->ref.loss[r] - r);
	}
	if (after > before * (1 + 1e-6))
		kit_fail(k, "f rose from %g to %g", before, after);
	if (fabs(after - before - said) > 1e-4 * before)
		kit_fail(k, "f fell from %g to %g, not by %g", before, after,
			 -said);
}

static void refine_free(struct refine *x)
{
	arr_free(&x->w);
	arr_free(&x->diff);
	arr_free(&x->grad);
	arr_free(&x->h);
	arr_free(&x->code);
	arr_free(&x->scale);
	arr_free(&x->zero);
	arr_free(&x->loss);
	free(x->group);
}

static void test_refine(struct kit *k)
{
	static const uint32_t ns[] = { 1, 2, 7, 16, 31, 33, 128, 200 };
	static const uint32_t ms[] = { 1, 3, 4, 8, 15, 16, 17, 40 };
	static const uint8_t bits[] = { 2, 3, 4, 8 };

	k->what = "refine";
	for (uint32_t i = 0; i < kit_count(k, 60); i++) {
		uint32_t shape[3] = { KIT_PICK(k, ms), KIT_PICK(k, ns), 1 };
		struct refine x;
		double f;
		int ref;

		shape[2] = 1 + kit_below(k, shape[1] < 4 ? shape[1] : 4);
		kit_case(k, "[%u][%u], %u groups, %u bits", shape[0],
			 shape[1], shape[2], bits[i % 4]);
		refine_init(k, &x, shape, bits[i % 4]);
		refine_fill(k, &x, &f);
		ref = be_ref.refine(k->ref, &x.ref, &k->err);
		if (kit_ran(k, ref, k->api->refine(k->be, &x.dev, &k->err))) {
			refine_check(k, &x, f);
			arr_same(&x.code, "code");
			arr_same(&x.scale, "scale");
			arr_same(&x.diff, "diff");
			arr_same(&x.loss, "loss");
			arr_same(&x.grad, "grad");
		}
		refine_free(&x);
	}
}

void kit_quant(struct kit *k)
{
	test_syrk(k);
	test_factor(k);
	test_factor_bad(k);
	test_grid(k);
	test_sweep(k);
	test_refine(k);
}
