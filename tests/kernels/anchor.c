/* anchor.c - the reference itself, against what is known without it. */
#include "kit.h"

#include "../../libfmt/base/half.h"

#include <math.h>
#include <string.h>

static void want(struct kit *k, const char *what, double got, double expected,
		 double tol)
{
	if (!(fabs(got - expected) <= tol))
		kit_fail(k, "%s is %.17g, expected %.17g", what, got, expected);
}

static struct be_mat f32(float *p, uint32_t rows, uint32_t cols)
{
	return (struct be_mat){ p, rows, cols, cols, DT_F32 };
}

static void anchor_products(struct kit *k)
{
	float a[6] = { 1, 2, 3, 4, 5, 6 }, b[6] = { 1, 0, 2, 0, 1, 1 };
	float c[4] = { 10, 10, 10, 10 };
	struct be_mat ma = f32(a, 2, 3), mb = f32(b, 2, 3), mc = f32(c, 2, 2);
	struct be_gemm g = { &ma, &mb, &mc, 2, 1, 1 };
	/* w = 0.5 * (q - z), z = 1 and 2, inputs 0 and 2 in group 1 */
	uint8_t code[3] = { 3, 0, 1 };
	float scale[2] = { 0.5F, 0.25F }, zero[2] = { 1, 2 };
	uint32_t group[3] = { 1, 0, 1 };
	struct ql ql = { { 1, 3, 2, 2, 2, 1, 0, QL_POINT, DT_F32, 0 },
			 code,
			 scale, zero, group, NULL, 0 };
	struct be_qw *w = NULL;
	struct be_mat y = f32(c, 2, 1);

	k->what = "gemm by hand";
	kit_case(k, " ");
	if (be_ref.gemm(k->ref, &g, &k->err))
		kit_fail(k, "%s", k->err.msg);
	want(k, "c[0][0]", (double)c[0], 10 + 2 * 7, 0);
	want(k, "c[0][1]", (double)c[1], 10 + 2 * 5, 0);
	want(k, "c[1][0]", (double)c[2], 10 + 2 * 16, 0);
	want(k, "c[1][1]", (double)c[3], 10 + 2 * 11, 0);
	k->what = "qgemm by hand";
	kit_case(k, " ");
	if (be_ref.qw_new(k->ref, &ql, &w, &k->err) ||
	    be_ref.qgemm(k->ref, &ma, w, &y, &k->err))
		kit_fail(k, "%s", k->err.msg);
	be_ref.qw_free(k->ref, w);
	/* weights 0.25, -0.5, -0.25 */
	want(k, "y[0]", (double)c[0], 0.25 - 1 - 0.75, 0);
	want(k, "y[1]", (double)c[1], 1 - 2.5 - 1.5, 0);
}

static void anchor_attend(struct kit *k)
{
	/* two positions; the second token sees scores 0 and ln 3 */
	float q[2] = { 1, 1 }, key[2] = { 0, 1.0986123F }, v[2] = { 8, 4 };
	float out[2];
	struct be_mat mq = f32(q, 2, 1), mk = f32(key, 2, 1);
	struct be_mat mv = f32(v, 2, 1), mo = f32(out, 2, 1);
	struct be_cache kv = { .k = mk, .v = mv };
	struct be_attend a = { .q = &mq, .kv = &kv, .out = &mo, .heads = 1,
			       .kv_heads = 1, .head_dim = 1, .scale = 1 };

	k->what = "attend by hand";
	kit_case(k, " ");
	if (be_ref.attend(k->ref, &a, &k->err))
		kit_fail(k, "%s", k->err.msg);
	want(k, "first", (double)out[0], 8, 0);
	want(k, "second", (double)out[1], (8 + 3 * 4) / 4.0, 1e-6);
}

static void anchor_rows(struct kit *k)
{
	float x[4] = { 3, 4, 1, 2 }, w[2] = { 1, 2 }, c = 0, s = 1;
	float v[2] = { 12.7F, -1.01F };
	int8_t kc[2], vc[2];
	uint16_t ks, vs;
	struct be_mat mx = f32(x, 1, 2), mw = f32(w, 1, 2);
	struct be_mat mc = f32(&c, 1, 1), ms = f32(&s, 1, 1);
	struct be_mat mv = f32(v, 1, 2);
	struct be_cache kv = { { kc, 1, 2, 2, DT_I8 }, { vc, 1, 2, 2, DT_I8 },
			       { &ks, 1, 1, 1, DT_F16 },
			       { &vs, 1, 1, 1, DT_F16 } };
	struct be_store r = { .q = &mx, .k = &mx, .v = &mv, .to = &kv,
			      .cos = &mc, .sin = &ms, .head_dim = 2 };
	struct be_mat up = f32(x + 2, 1, 2);

	k->what = "rows by hand";
	kit_case(k, " ");
	/* a quarter turn */
	if (be_ref.store(k->ref, &r, &k->err))
		kit_fail(k, "%s", k->err.msg);
	want(k, "rope x", (double)x[0], -4, 0);
	want(k, "rope y", (double)x[1], 3, 0);
	/* its largest number is 127 steps, here f16's next to 0.1 */
	want(k, "value", vc[0], 127, 0);
	want(k, "value", vc[1], -10, 0);
	want(k, "scale", (double)half_to_f32(vs), 0.1, 3e-5);
	if (be_ref.rmsnorm(k->ref, &mx, &mw, 0, &mx, &k->err))
		kit_fail(k, "%s", k->err.msg);
	want(k, "norm", (double)x[0], -4 / sqrt(12.5), 1e-7);
	want(k, "norm", (double)x[1], 2 * 3 / sqrt(12.5), 1e-7);
	x[0] = 0;
	x[1] = 1;
	if (be_ref.swiglu(k->ref, &mx, &up, &mx, &k->err))
		kit_fail(k, "%s", k->err.msg);
	want(k, "swiglu", (double)x[0], 0, 0);
	want(k, "swiglu", (double)x[1], 2 / (1 + exp(-1)), 1e-7);
}

/* U^T U (H + damp) = I, and U is upper. */
static void anchor_factor(struct kit *k)
{
	enum { N = 24 };
	struct arr x = arr_mat(k, 10, N, 0, DT_F32);
	struct arr h = arr_mat(k, N, N, 0, DT_F64);
	struct arr u = arr_mat(k, N, N, 0, DT_F32);
	struct be_factor f = { &h.ref, &u.ref, 0.05 };
	double mean = 0;

	k->what = "factor times Hessian";
	kit_case(k, "%d", N);
	arr_random(&x, 1);
	if (be_ref.syrk(k->ref, &x.ref, 0.2, &h.ref, &k->err) ||
	    be_ref.factor(k->ref, &f, &k->err))
		kit_fail(k, "%s", k->err.msg);
	for (uint32_t i = 0; i < N; i++)
		mean += arr_get(&h, i, i) / N;
	for (uint32_t i = 0; i < N; i++)
		arr_set(&h, i, i, arr_get(&h, i, i) + 0.05 * mean);
	for (uint32_t i = 0; i < N; i++)
		for (uint32_t j = 0; j < N; j++) {
			double sum = 0;

			for (uint32_t a = 0; a < N; a++)
				for (uint32_t b = 0; b < N; b++)
					sum += arr_get(&u, a, i) *
					       arr_get(&u, a, b) *
					       arr_get(&h, b, j);
			want(k, "element", sum, i == j, 1e-4);
			if (j < i)
				want(k, "below", arr_get(&u, i, j), 0, 0);
		}
	arr_free(&x);
	arr_free(&h);
	arr_free(&u);
}

static void anchor_grid(struct kit *k)
{
	float w[5][3] = {
		{ -1, 2, 0.5F }, /* asym: -1..2 */
		{ 1, 2, 3 },     /* sym without negatives: 0..3 */
		{ -1, 0, 3 },    /* sym: -3..3 */
		{ 0, 0, 0 },     /* -1..1 */
		{ 0, 1e-12F, 0 } /* scale is 0 in f16: -1..1 */
	};
	static const uint8_t sym[5] = { 0, 1, 1, 0, 0 };
	static const double scale[5] = { 0.2, 0.2, 0.4, 2 / 15.0, 2 / 15.0 };
	static const double zero[5] = { 5, 8, 8, 8, 8 };

	k->what = "grid by hand";
	for (uint32_t i = 0; i < 5; i++) {
		float s, z;
		struct be_mat m = f32(w[i], 1, 3);
		struct be_grid g = { .w = &m, .scale = &s, .zero = &z,
				     .step = 1, .bits = 4, .sym = sym[i],
				     .round_scale = DT_F16 };

		kit_case(k, "row %u", i);
		if (be_ref.grid(k->ref, &g, &k->err))
			kit_fail(k, "%s", k->err.msg);
		want(k, "scale", (double)s, scale[i], scale[i] / 2048);
		want(k, "zero", (double)z, zero[i], 0);
	}
}

static void anchor_sweep(struct kit *k)
{
	/* 2 bits, scale 1, zero 1: values -1, 0, 1, 2; ties go to even */
	float w[3] = { 0.75F, 0.5F, 9 }, e[3], scale = 1, zero = 1;
	float u[9] = { 1, 2, 0, 0, 0.5F, 1, 0, 0, 2 };
	uint8_t code[3];
	double loss = 1;
	uint32_t group[3] = { 0, 0, 0 };
	struct be_mat mw = f32(w, 1, 3), mu = f32(u, 3, 3), me = f32(e, 1, 3);
	struct be_sweep s = { &mw, &mu, &me, code, 3, &scale, &zero, 1, group,
			      &loss, 2 };

	k->what = "sweep by hand";
	kit_case(k, " ");
	if (be_ref.sweep(k->ref, &s, &k->err))
		kit_fail(k, "%s", k->err.msg);
	/* 0.75 -> 1, e = -0.25; then 0.5 + 0.5 = 1 -> 1, e = 0; then 9 -> 2
	 * (clamped), e = 7 / 2 */
	want(k, "code", code[0], 2, 0);
	want(k, "code", code[1], 2, 0);
	want(k, "code", code[2], 3, 0);
	want(k, "err", (double)e[0], -0.25, 0);
	want(k, "err", (double)e[1], 0, 0);
	want(k, "err", (double)e[2], 3.5, 0);
	want(k, "loss", loss, 1 + 0.25 * 0.25 / 2 + 3.5 * 3.5 / 2, 0);
	/* a tie: 0.5 goes to 0, 1.5 to 2 */
	w[0] = 0.5F;
	w[1] = 1.5F - 2 * 0.5F * -1; /* minus e * 2, e = 0.5 */
	if (be_ref.sweep(k->ref, &s, &k->err))
		kit_fail(k, "%s", k->err.msg);
	want(k, "tie", code[0], 1, 0);
	want(k, "tie", code[1], 3, 0);
}

/* 2 bits, zero 1, scale 1, H = [2 1; 1 2], W = (1.8, 0.1): from codes (1, 1),
 * Q = 0, f = 6.86, to Q = (2, 0), f = 0.06.  The scale then has p = (4, 2),
 * num = 2 * 0.3, den = 8: it gets 1 - 0.075, and f falls by 0.6^2 / 8. */
static void anchor_refine(struct kit *k)
{
	float w[2] = { 1.8F, 0.1F }, h[4] = { 2, 1, 1, 2 }, d[2];
	float g[2] = { -3.7F, -2.0F }, scale = 1, zero = 1;
	uint8_t code[2] = { 1, 1 };
	uint32_t group[2] = { 0, 0 };
	double loss = 10;
	struct be_mat mw = f32(w, 1, 2), mh = f32(h, 2, 2);
	struct be_mat md = f32(d, 1, 2), mg = f32(g, 1, 2);
	struct be_refine x = { &mw, &md, &mg, &mh, code, 2, &scale, &zero, 1,
			       group, &loss, 1, 2, 1, DT_F32 };

	k->what = "refine by hand";
	kit_case(k, "codes");
	if (be_ref.refine(k->ref, &x, &k->err))
		kit_fail(k, "%s", k->err.msg);
	want(k, "code", code[0], 3, 0);
	want(k, "code", code[1], 1, 0);
	want(k, "scale", (double)scale, 1, 0);
	want(k, "diff", (double)d[0], 0.2, 1e-6);
	want(k, "diff", (double)d[1], -0.1, 1e-6);
	want(k, "loss", loss, 10 - (6.86 - 0.06) / 2, 1e-5);
	kit_case(k, "scale");
	g[0] = 0.3F;
	g[1] = 0.0F;
	if (be_ref.refine(k->ref, &x, &k->err))
		kit_fail(k, "%s", k->err.msg);
	want(k, "code", code[0], 3, 0);
	want(k, "scale", (double)scale, 0.925, 1e-6);
	want(k, "loss", loss, 10 - (6.86 - 0.06) / 2 - 0.36 / 8 / 2, 1e-5);
}

void kit_anchors(struct kit *k)
{
	anchor_products(k);
	anchor_attend(k);
	anchor_rows(k);
	anchor_factor(k);
	anchor_grid(k);
	anchor_sweep(k);
	anchor_refine(k);
}
