/* linear.c - gemm and qgemm against the reference. */
#include "../../libfmt/base/half.h"
#include "../../libfmt/layout/bits.h"
#include "kit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const enum dtype floats[] = { DT_F32, DT_F16, DT_BF16 };

/* Sum over k of |a| |b|: what an error is measured against. */
static double *gemm_mag(const struct be_gemm *g, const struct arr *a,
			const struct arr *b, const struct arr *c)
{
	uint32_t m = c->ref.rows, n = c->ref.cols;
	double *mag = calloc((size_t)m * n + 1, sizeof(*mag));

	for (uint32_t i = 0; mag && i < m; i++)
		for (uint32_t j = 0; j < n; j++) {
			double sum = 0;

			for (uint32_t k = 0; k < a->ref.cols; k++)
				sum += fabs(arr_get(a, i, k) *
					    (g->trans_b ? arr_get(b, j, k)
							: arr_get(b, k, j)));
			sum *= fabs((double)g->alpha);
			if (g->beta != 0)
				sum += fabs((double)g->beta *
					    arr_get(c, i, j));
			mag[(size_t)i * n + j] = sum + 1e-30;
		}
	return mag;
}

static void gemm_case(struct kit *k, const uint32_t dim[3], enum dtype type,
		      int trans)
{
	static const float alphas[] = { 1, 1, -1, 0.5F };
	static const float betas[] = { 0, 0, 1, -2 };
	struct arr a = arr_mat(k, dim[0], dim[2], kit_below(k, 4), DT_F32);
	struct arr b = trans
		? arr_mat(k, dim[1], dim[2], kit_below(k, 4), type)
		: arr_mat(k, dim[2], dim[1], kit_below(k, 4), type);
	struct arr c = arr_mat(k, dim[0], dim[1], kit_below(k, 4), DT_F32);
	struct be_gemm g = { &a.ref, &b.ref, &c.ref, KIT_PICK(k, alphas),
			     KIT_PICK(k, betas), trans };
	double *mag;
	int ref;

	kit_case(k, "[%u][%u] by [%u], type %d, trans %d, alpha %g, beta %g",
		 dim[0], dim[2], dim[1], (int)type, trans, (double)g.alpha,
		 (double)g.beta);
	arr_random(&a, 1);
	arr_random(&b, 1);
	if (g.beta != 0)
		arr_random(&c, 1);
	else /* beta 0 must not read C */
		memset(c.ref.p, 0xff, c.bytes);
	arr_up(&a);
	arr_up(&b);
	arr_up(&c);
	mag = gemm_mag(&g, &a, &b, &c);
	ref = be_ref.gemm(k->ref, &g, &k->err);
	g.a = &a.dev;
	g.b = &b.dev;
	g.c = &c.dev;
	if (kit_ran(k, ref, k->api->gemm(k->be, &g, &k->err))) {
		/* the sum of magnitudes is a loose bound for large sums */
		arr_near(&c, "c", mag, k->half && type != DT_F32 &&
			 dim[0] > 8 ? 1.5e-4 : 1e-6);
		arr_same(&a, "a");
		arr_same(&b, "b");
	}
	free(mag);
	arr_free(&a);
	arr_free(&b);
	arr_free(&c);
}

static void test_gemm(struct kit *k)
{
	static const uint32_t ms[] = { 1, 2, 3, 4, 5, 7, 8, 9, 17, 33 };
	static const uint32_t ns[] = { 1, 2, 3, 5, 8, 16, 67, 129, 300 };
	static const uint32_t ks[] = { 1, 2, 7, 8, 15, 16, 17, 33, 64, 127,
				       300 };
	static const uint32_t edge[][3] = {
		{ 1, 3, 2049 }, { 2, 2050, 31 }, { 12, 130, 1100 },
		{ 257, 258, 3 }, { 4, 1, 1 }, { 0, 5, 5 }, { 5, 0, 5 },
		{ 3, 4, 0 }, { 9, 4, 0 }, { 65, 66, 1100 }, { 60, 9, 2300 },
	};

	k->what = "gemm";
	for (uint32_t i = 0; i < kit_count(k, 90); i++) {
		uint32_t dim[3] = { KIT_PICK(k, ms), KIT_PICK(k, ns),
				    KIT_PICK(k, ks) };

		gemm_case(k, dim, floats[i % 3], i % 6 < 4);
	}
	for (uint32_t i = 0; i < sizeof(edge) / sizeof(edge[0]); i++)
		for (uint32_t t = 0; t < 3; t++)
			gemm_case(k, edge[i], floats[t], kit_below(k, 3) > 0);
}

/* group_of: members of a group stand anywhere (1), or groups have any size,
 * also none (2). */
static void fill_groups(struct kit *k, struct ql *ql, uint8_t order)
{
	uint32_t in = ql->spec.in;

	if (order == 2)
		for (uint32_t i = 0; i < in; i++)
			ql->group_of[i] = kit_below(k, ql->spec.groups);
	for (uint32_t i = in - 1; order == 1 && i > 0; i--) {
		uint32_t j = kit_below(k, i + 1), t = ql->group_of[i];

		ql->group_of[i] = ql->group_of[j];
		ql->group_of[j] = t;
	}
}

static float round_to(float f, enum dtype t)
{
	if (t == DT_F16)
		return half_to_f32(half_from_f32(f));
	if (t == DT_BF16)
		return half_bf16_to_f32(half_bf16_from_f32(f));
	return f;
}

int kit_ql(struct kit *k, struct ql *ql, const struct qcase *q)
{
	struct ql_spec spec = {
		.out = q->out, .in = q->in,
		.groups = (q->in + q->group_size - 1) / q->group_size,
		.group_size = q->group_size, .bits = q->bits,
		.zero_kind = q->kind, .scale_type = q->scale_type,
	};
	uint32_t maxq = (1u << q->bits) - 1;

	if (ql_init(ql, &spec, &k->err))
		return -1;
	for (size_t i = 0; i < (size_t)q->out * q->in; i++)
		ql->code[i] = (uint8_t)(kit_rand(k) & maxq);
	for (size_t i = 0; i < (size_t)q->out * spec.groups; i++) {
		/* a v1 file reads zeros up to 2^bits */
		uint32_t zero = kit_below(k, maxq + 2);
		float s = 0.002F + 0.02F * (float)kit_below(k, 1000) / 1000;

		ql->scale[i] = round_to(s, q->scale_type);
		ql->zero[i] = (float)(q->sym ? (maxq + 1) / 2 : zero);
		if (q->kind == QL_OFFSET)
			ql->zero[i] = round_to(ql->zero[i] * s, q->scale_type);
	}
	fill_groups(k, ql, q->order);
	ql_observe(ql);
	return 0;
}

/* With f16 rounding each product errs by up to 2^-11, either way: the error of
 * a sum goes with the root of the products' squares.  HALF of that is seven
 * times what is expected; the worst of 300000 sums of 64 products is near
 * 1.5e-3. */
#define HALF 2e-3

static double *qgemm_half(const struct ql *ql, const struct arr *x)
{
	uint32_t m = x->ref.rows, n = ql->spec.out, in = ql->spec.in;
	double *mag = calloc((size_t)m * n + 1, sizeof(*mag));
	float *w = calloc(in, sizeof(*w));

	for (uint32_t o = 0; mag && w && o < n; o++) {
		ql_dequant_row(ql, o, w);
		for (uint32_t r = 0; r < m; r++) {
			double sum = 1e-12;

			for (uint32_t i = 0; i < in; i++) {
				double p = arr_get(x, r, i) * (double)w[i];

				sum += p * p;
			}
			mag[(size_t)r * n + o] = sqrt(sum);
		}
	}
	free(w);
	return mag;
}

static double *qgemm_mag(const struct ql *ql, const struct arr *x)
{
	uint32_t m = x->ref.rows, n = ql->spec.out, in = ql->spec.in;
	double *mag;

	if (x->kit->half)
		return qgemm_half(ql, x);
	mag = calloc((size_t)m * n + 1, sizeof(*mag));
	for (uint32_t r = 0; mag && r < m; r++)
		for (uint32_t o = 0; o < n; o++)
			for (uint32_t i = 0; i < in; i++) {
				size_t g = (size_t)o * ql->spec.groups +
					   ql->group_of[i];
				/* the largest weight of the group: codes may
				 * be summed before zeros come off */
				double w = (double)ql->scale[g] *
					   (1u << ql->spec.bits);

				mag[(size_t)r * n + o] +=
					fabs(arr_get(x, r, i)) * w;
			}
	return mag;
}

/* What rounding x to 16 bits may add, as in kernels/cpu/q16.inc: a step of
 * 2^-15 of the row's largest x for each weight, at random. */
static void add_halves(const struct ql *ql, const struct arr *x, double *mag)
{
	uint32_t n = ql->spec.out, in = ql->spec.in;

	for (uint32_t r = 0; mag && r < x->ref.rows; r++) {
		double top = 0;

		for (uint32_t i = 0; i < in; i++)
			top = fmax(top, fabs(arr_get(x, r, i)));
		for (uint32_t o = 0; o < n; o++) {
			double squares = 0;

			for (uint32_t i = 0; i < in; i++) {
				double w = (double)ql->scale[(size_t)o *
					ql->spec.groups + ql->group_of[i]] *
					(1u << ql->spec.bits);

				squares += w * w;
			}
			mag[(size_t)r * n + o] += 100 * top * sqrt(squares);
		}
	}
}

/* The same product again: the same bits. */
static void qgemm_again(struct kit *k, const struct arr *x,
			const struct be_qw *dev, struct arr *y)
{
	void *first = malloc(y->bytes + 1);

	memcpy(first, y->got, y->bytes);
	arr_up(y);
	if (kit_ran(k, 0, k->api->qgemm(k->be, &x->dev, dev, &y->dev,
					&k->err))) {
		arr_down(y);
		if (memcmp(first, y->got, y->bytes) != 0)
			kit_fail(k, "y differs the second time");
	}
	free(first);
}

static void qgemm_run(struct kit *k, const struct ql *ql, uint32_t m)
{
	struct arr x = arr_mat(k, m, ql->spec.in, kit_below(k, 4), DT_F32);
	struct arr y = arr_mat(k, m, ql->spec.out, kit_below(k, 4), DT_F32);
	struct be_qw *ref = NULL, *dev = NULL;
	double *mag;
	int ret;

	arr_random(&x, 1);
	arr_up(&x);
	/* what y holds before is not read */
	memset(y.ref.p, 0xff, y.bytes);
	arr_up(&y);
	mag = qgemm_mag(ql, &x);
	ret = be_ref.qw_new(k->ref, ql, &ref, &k->err);
	if (kit_ran(k, ret, k->api->qw_new(k->be, ql, &dev, &k->err))) {
		ret = be_ref.qgemm(k->ref, &x.ref, ref, &y.ref, &k->err);
		if (!k->api->qw_kernel(k->be, dev, m)[0])
			kit_fail(k, "the kernel has no name");
		if (strstr(k->api->qw_kernel(k->be, dev, m), "i16"))
			add_halves(ql, &x, mag);
		if (kit_ran(k, ret, k->api->qgemm(k->be, &x.dev, dev, &y.dev,
						  &k->err))) {
			arr_near(&y, "y", mag, k->half ? HALF : 3e-7);
			qgemm_again(k, &x, dev, &y);
			arr_same(&x, "x");
		}
	}
	be_ref.qw_free(k->ref, ref);
	k->api->qw_free(k->be, dev);
	free(mag);
	arr_free(&x);
	arr_free(&y);
}

static void qgemm_case(struct kit *k, const struct qcase *q, uint32_t m)
{
	struct ql ql;

	kit_case(k, "%u x [%u][%u], %u bits, groups of %u, order %u, sym %u, "
		 "kind %d, scales %d", m, q->out, q->in, q->bits,
		 q->group_size, q->order, q->sym, (int)q->kind,
		 (int)q->scale_type);
	if (kit_ql(k, &ql, q)) {
		kit_fail(k, "%s", k->err.msg);
		return;
	}
	qgemm_run(k, &ql, m);
	ql_release(&ql);
}

static void test_qgemm(struct kit *k)
{
	static const uint8_t bits[] = { 2, 3, 4, 8 };
	static const uint32_t ms[] = { 1, 1, 2, 3, 4, 5, 7, 8, 9, 20 };
	static const uint32_t outs[] = { 1, 2, 3, 4, 5, 8, 13, 64, 70, 260 };
	static const uint32_t ins[] = { 1, 8, 15, 16, 31, 64, 96, 128, 130,
					256, 384, 500, 512, 1024, 1300 };
	static const uint32_t groups[] = { 0, 1, 2, 10, 16, 32, 32, 48, 64,
					   100, 128, 128, 256, 1024 };

	k->what = "qgemm";
	for (uint32_t i = 0; i < kit_count(k, 240); i++) {
		struct qcase q = {
			.out = KIT_PICK(k, outs), .in = KIT_PICK(k, ins),
			.group_size = KIT_PICK(k, groups),
			.bits = bits[i % 4], .order = (uint8_t)(i / 4 % 3),
			.sym = (uint8_t)kit_below(k, 2),
			.kind = kit_below(k, 4) ? QL_POINT : QL_OFFSET,
			.scale_type = KIT_PICK(k, floats),
		};

		if (!q.group_size || q.group_size > q.in)
			q.group_size = q.in;
		qgemm_case(k, &q, KIT_PICK(k, ms));
	}
}

/* Shapes with several pieces, and codes that have no layout of their own. */
static void test_qgemm_large(struct kit *k)
{
	static const struct qcase large[] = {
		{ 132, 2200, 128, 4, 0, 0, QL_POINT, DT_F16 },
		{ 129, 2200, 2200, 3, 1, 1, QL_POINT, DT_F16 },
		{ 7, 4096, 128, 2, 0, 0, QL_POINT, DT_BF16 },
		{ 6, 4096, 32, 3, 1, 0, QL_POINT, DT_F16 },
		{ 70, 1024, 64, 8, 2, 0, QL_OFFSET, DT_F16 },
		{ 30, 300, 32, 5, 0, 0, QL_POINT, DT_F16 },
		{ 30, 300, 32, 6, 1, 0, QL_POINT, DT_F32 },
		{ 30, 300, 300, 7, 0, 1, QL_POINT, DT_F16 },
	};

	k->what = "qgemm";
	for (uint32_t i = 0; i < sizeof(large) / sizeof(large[0]); i++) {
		qgemm_case(k, &large[i], 1);
		qgemm_case(k, &large[i], 3);
		qgemm_case(k, &large[i], 11);
	}
}

/* Rows by the dozen, which have kernels of their own on a GPU. */
static void test_many(struct kit *k)
{
	static const uint32_t ms[] = { 1, 8, 16, 33, 64, 100, 129, 200 };
	static const uint32_t groups[] = { 128, 32, 64, 1024, 256, 96 };
	static const uint8_t bits[] = { 2, 3, 4, 8 };
	static const uint32_t big[][3] = {
		{ 40, 1000, 1100 }, { 130, 515, 1032 }, { 600, 257, 300 },
	};
	/* inputs cut among blocks; then more tiles than a GPU has room for,
	 * of a chunk of inputs, or of two and a half */
	static const struct {
		struct qcase q;
		uint32_t m;
	} wide[] = {
		{ { 70, 4160, 32, 4, 1, 0, QL_POINT, DT_F16 }, 12 },
		{ { 34100, 64, 32, 4, 0, 0, QL_POINT, DT_F16 }, 9 },
		{ { 33900, 128, 128, 3, 1, 0, QL_POINT, DT_F16 }, 17 },
		{ { 33800, 64, 64, 2, 0, 1, QL_POINT, DT_BF16 }, 40 },
		{ { 5000, 320, 64, 4, 1, 0, QL_POINT, DT_F16 }, 700 },
		{ { 17000, 128, 128, 8, 0, 0, QL_POINT, DT_F16 }, 130 },
	};

	k->what = "qgemm";
	for (uint32_t i = 0; i < 32; i++) {
		uint32_t size = groups[i / 4 % 6];
		struct qcase q = {
			.out = 16 + kit_below(k, 200),
			.in = size == 96 ? 960 : 1024, .group_size = size,
			.bits = bits[i % 4], .order = (uint8_t)(i / 4 % 2),
			.sym = (uint8_t)(i / 8 % 2),
			.scale_type = i % 3 ? DT_F16 : DT_BF16,
		};

		qgemm_case(k, &q, ms[(i + i / 8) % 8]);
	}
	for (uint32_t i = 0; i < (k->quick ? 2 : 6); i++)
		qgemm_case(k, &wide[i].q, wide[i].m);
	k->what = "gemm";
	for (uint32_t i = 0; i < 3; i++)
		for (uint32_t t = 0; t < 3; t++)
			gemm_case(k, big[i], floats[t], i != 1 || t == 1);
}

/* ---- layers as a file holds them ---- */

/* The three arrays of *q, at odd addresses, as in a file. */
struct file {
	uint8_t *words, *scales, *zeros;
};

static void file_free(struct file *f)
{
	free(f->words);
	free(f->scales);
	free(f->zeros);
}

/* Rows of zeros less `minus`, in which a field is of spec.bits. */
static void pack_zeros(const struct ql *ql, uint32_t minus, uint8_t *to)
{
	const struct ql_spec *s = &ql->spec;
	size_t row = 4 * (size_t)bits_words(&bits_stream, s->bits, s->out);
	uint8_t *field = calloc(s->out, 1);

	for (uint32_t g = 0; field && g < s->groups; g++) {
		for (uint32_t o = 0; o < s->out; o++)
			field[o] = (uint8_t)((uint32_t)ql->zero[
				(size_t)o * s->groups + g] - minus);
		bits_pack(&bits_stream, s->bits, field, 1, s->out,
			  to + row * g, 1);
	}
	free(field);
}

/* Fields hold 0 to 2^bits - 1, or those numbers plus one; with `add` they are
 * what is left when it has been added to words. */
static void file_zeros(struct kit *k, struct ql *ql, struct ql_packed *q,
		       uint8_t *to)
{
	static const uint32_t add[3] = { 0x91248ac3, 0x01000001, 0xfffffff9 };
	size_t n = (size_t)ql->spec.groups * ql->spec.out;
	size_t words = (size_t)bits_words(&bits_stream, ql->spec.bits,
					  ql->spec.out);
	uint32_t plus = 0;

	for (size_t i = 0; i < n; i++)
		if (ql->zero[i] > (float)((1u << ql->spec.bits) - 1))
			plus = 1;
	for (size_t i = 0; i < n && plus; i++)
		ql->zero[i] = ql->zero[i] < 1 ? 1 : ql->zero[i];
	q->zero_plus = (uint16_t)plus;
	q->zero_mask = UINT16_MAX;
	pack_zeros(ql, plus, to);
	if (kit_below(k, 2))
		return;
	memcpy(q->zero_add, add, sizeof(add));
	for (size_t i = 0; i < words * ql->spec.groups; i++)
		half_put32(to + 4 * i, half_le32(to + 4 * i) -
				       add[i % words % 3]);
}

/* *q from ql, whose zeros become such as a file can hold. */
static int pack_ql(struct kit *k, struct ql *ql, struct ql_packed *q,
		   struct file *f)
{
	const struct ql_spec *s = &ql->spec;
	size_t elem = s->scale_type == DT_F32 ? 4 : 2, n = 0;
	size_t grid = (size_t)s->groups * s->out;
	f->words = malloc(bits_words(&bits_stream, s->bits, s->in) * s->out *
			  4 + 1);
	f->scales = malloc(grid * elem + 1);
	f->zeros = malloc(bits_words(&bits_stream, s->bits, s->out) *
			  s->groups * 4 + 1);
	*q = (struct ql_packed){ .spec = *s,
				 .group_of = malloc(s->in * 4) };
	if (!f->words || !f->scales || !f->zeros || !q->group_of)
		return err_set(&k->err, ERR_RESOURCE, "not enough memory");
	q->words = f->words + 1;
	q->scales = f->scales + 1;
	q->zeros = f->zeros + 1;
	file_zeros(k, ql, q, f->zeros + 1);
	for (uint32_t o = 0; o < s->out; o++)
		bits_pack(&bits_stream, s->bits, ql->code + (size_t)o * s->in,
			  1, s->in, f->words + 1 + 4 * (size_t)o, s->out);
	for (uint32_t g = 0; g < s->groups; g++)
		for (uint32_t o = 0; o < s->out; o++, n++) {
			size_t at = (size_t)o * s->groups + g;

			tensor_store_f32(&ql->scale[at], 1, s->scale_type,
					 f->scales + 1 + n * elem);
		}
	memcpy(q->group_of, ql->group_of, s->in * sizeof(*q->group_of));
	if (s->sym && kit_below(k, 2))
		q->zeros = NULL;
	return 0;
}

/* m rows by both weights: the same bytes. */
static void packed_run(struct kit *k, const struct be_qw *a,
		       const struct be_qw *b, uint32_t in, uint32_t out,
		       uint32_t m)
{
	struct arr x = arr_mat(k, m, in, 0, DT_F32);
	struct arr y = arr_mat(k, m, out, 0, DT_F32);

	if (strcmp(k->api->qw_kernel(k->be, a, m),
		   k->api->qw_kernel(k->be, b, m)))
		kit_fail(k, "another kernel");
	arr_random(&x, 1);
	arr_up(&x);
	memset(y.ref.p, 0xff, y.bytes);
	arr_up(&y);
	if (kit_ran(k, 0, k->api->qgemm(k->be, &x.dev, a, &y.dev, &k->err))) {
		arr_down(&y);
		memcpy(y.ref.p, y.got, y.bytes);
	}
	if (kit_ran(k, 0, k->api->qgemm(k->be, &x.dev, b, &y.dev, &k->err)))
		arr_same(&y, "y");
	arr_free(&x);
	arr_free(&y);
}

static void packed_case(struct kit *k, const struct qcase *c)
{
	static const uint32_t ms[] = { 1, 5, 20, 70, 130 };
	struct be_qw *a = NULL, *b = NULL;
	struct ql_packed q = { .words = NULL };
	struct file f = { NULL, NULL, NULL };
	struct ql ql;
	int ret;

	kit_case(k, "[%u][%u], %u bits, groups of %u, order %u, sym %u, "
		 "scales %d", c->out, c->in, c->bits, c->group_size, c->order,
		 c->sym, (int)c->scale_type);
	if (kit_ql(k, &ql, c) || pack_ql(k, &ql, &q, &f)) {
		kit_fail(k, "%s", k->err.msg);
		goto out;
	}
	ret = k->api->qw_pack(k->be, &q, &b, &k->err);
	if (ret < 0 || k->api->qw_new(k->be, &ql, &a, &k->err)) {
		kit_fail(k, "%s", k->err.msg);
		goto out;
	}
	k->cases++;
	if (!ret)
		for (size_t i = 0; i < sizeof(ms) / sizeof(ms[0]); i++)
			packed_run(k, a, b, c->in, c->out, ms[i]);
	else if (strncmp(k->api->qw_kernel(k->be, a, 1), "generic", 7) &&
		 c->scale_type != DT_F32)
		kit_fail(k, "was not taken");
out:
	k->api->qw_free(k->be, a);
	k->api->qw_free(k->be, b);
	file_free(&f);
	ql_packed_release(&q);
	ql_release(&ql);
}

static void test_packed(struct kit *k)
{
	static const uint32_t ins[] = { 64, 128, 512, 1024, 1152 };
	static const uint32_t sizes[] = { 32, 64, 128, 0, 16 };
	static const uint8_t bits[] = { 2, 3, 4, 8 };
	static const struct qcase large[] = {
		{ 1500, 4096, 128, 4, 0, 1, QL_POINT, DT_F16 },
		{ 1100, 4096, 128, 3, 1, 0, QL_POINT, DT_F16 },
	};

	k->what = "qw_pack";
	if (!k->api->qw_pack)
		return;
	for (uint32_t i = 0; i < kit_count(k, 96); i++) {
		struct qcase q = {
			.out = 1 + kit_below(k, 200), .in = KIT_PICK(k, ins),
			.group_size = KIT_PICK(k, sizes), .bits = bits[i % 4],
			.order = (uint8_t)(i / 4 % 3),
			.sym = (uint8_t)kit_below(k, 2),
			.scale_type = KIT_PICK(k, floats),
		};

		if (!q.group_size || q.group_size > q.in)
			q.group_size = q.in;
		packed_case(k, &q);
	}
	packed_case(k, &large[0]);
	packed_case(k, &large[1]);
}

void kit_linear(struct kit *k)
{
	test_packed(k);
	test_gemm(k);
	test_qgemm(k);
	test_qgemm_large(k);
	if (k->half)
		test_many(k);
}
