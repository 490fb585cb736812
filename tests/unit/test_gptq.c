/* The quantization methods: the golden runs of the authors' code, and the
 * corners of the interface. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/base/json.h"
#include "../../libfmt/base/mem.h"
#include "../../libfmt/container/st.h"
#include "../../quant/method.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "solve.h"

#define GOLDEN "tests/golden/gptq_algorithm/"

/* ---- golden cases ---- */

struct file {
	struct src *src;
	struct st_file st;
};

static void file_open(struct file *f, const char *dir, const char *name)
{
	char path[256];
	struct err err;

	snprintf(path, sizeof(path), GOLDEN "%s/%s", dir, name);
	if (io_open(path, &f->src, &err) || st_open(f->src, 0, &f->st, &err))
		fail_msg("%s: %s", path, err.msg);
}

static void file_close(struct file *f)
{
	st_close(&f->st);
	io_close(f->src);
}

static const struct tensor *find(const struct file *f, const char *name)
{
	for (uint32_t i = 0; i < f->st.count; i++)
		if (strcmp(f->st.tensor[i].name, name) == 0)
			return &f->st.tensor[i];
	return NULL;
}

/* A tensor as f32 [count]. */
static float *floats(const struct file *f, const char *name)
{
	const struct tensor *t = find(f, name);
	struct err err;
	uint64_t n;
	float *p;

	assert_non_null(t);
	assert_int_equal(tensor_count(t, &n), 0);
	p = mem_alloc(n, sizeof(*p), &err);
	assert_non_null(p);
	assert_int_equal(tensor_load_f32(t, 0, n, p), 0);
	return p;
}

struct golden {
	struct cJSON *json;
	struct file problem, result;
	struct gq_params p;
	uint32_t in, out, groups;
	double error;
	float *w, *x;  /* [out][in]; [rows][in] or NULL */
	double *h;     /* [in][in] */
	uint32_t rows;
};

static uint32_t field(const struct golden *g, const char *key)
{
	uint64_t v;

	assert_int_equal(json_uint(json_find(g->json, key), 1u << 30, &v), 0);
	return (uint32_t)v;
}

static uint8_t flag(const struct golden *g, const char *key)
{
	bool v;

	assert_int_equal(json_bool(json_find(g->json, key), &v), 0);
	return v;
}

/* H as stored, or 2/4 X^T X. */
static void golden_hessian(struct golden *g)
{
	struct err err;
	size_t n = g->in;
	float *h;

	g->h = mem_alloc(n * n, sizeof(*g->h), &err);
	assert_non_null(g->h);
	if (find(&g->problem, "H")) {
		h = floats(&g->problem, "H");
		for (size_t i = 0; i < n * n; i++)
			g->h[i] = (double)h[i];
		free(h);
		return;
	}
	for (uint32_t r = 0; r < g->rows; r++)
		for (size_t i = 0; i < n; i++)
			for (size_t j = 0; j < n; j++)
				g->h[i * n + j] += 0.5 *
					(double)g->x[r * n + i] *
					(double)g->x[r * n + j];
}

static void golden_open(struct golden *g, const char *name)
{
	char path[256];
	struct err err;
	int64_t size;

	memset(g, 0, sizeof(*g));
	snprintf(path, sizeof(path), GOLDEN "%s/case.json", name);
	if (json_read_file(path, &g->json, &err))
		fail_msg("%s", err.msg);
	file_open(&g->problem, json_text(json_find(g->json, "problem")),
		  "problem.safetensors");
	file_open(&g->result, name, "result.safetensors");
	assert_int_equal(json_int(json_find(g->json, "group_size"), -1, 4096,
				  &size), 0);
	g->in = field(g, "in_features");
	g->out = field(g, "out_features");
	g->groups = field(g, "groups");
	g->p = (struct gq_params){ .bits = (uint8_t)field(g, "bits"),
				   .sym = flag(g, "sym"),
				   .desc_act = flag(g, "actorder"),
				   .static_groups = flag(g, "static_groups"),
				   .group_size = (int32_t)size,
				   .block = field(g, "blocksize"),
				   .scale_type = DT_F32 };
	g->p.group_aware = json_find(g->json, "act_group_aware") &&
			   flag(g, "act_group_aware");
	if (json_find(g->json, "mse") && flag(g, "mse"))
		g->p.clip = GQ_CLIP_PUBLISHED;
	json_double(json_find(g->json, "percdamp"), &g->p.damp);
	if (json_find(g->json, "damp_auto_increment"))
		json_double(json_find(g->json, "damp_auto_increment"),
			    &g->p.damp_step);
	json_double(json_path(g->json, "expected.weighted_error"), &g->error);
	g->w = floats(&g->problem, "W");
	if (find(&g->problem, "X")) {
		g->x = floats(&g->problem, "X");
		g->rows = (uint32_t)find(&g->problem, "X")->dim[0];
	}
	golden_hessian(g);
}

static void golden_close(struct golden *g)
{
	json_free(g->json);
	file_close(&g->problem);
	file_close(&g->result);
	free(g->w);
	free(g->x);
	free(g->h);
}

/* A gathered Hessian: through syrk where inputs are there, else as given. */
static void hessian(struct gq_hess *hess, const struct device *v,
		    const struct golden *g)
{
	struct be_mat x;
	struct err err;

	assert_int_equal(gq_hess_init(hess, &v->d, g->in, &err), 0);
	if (!g->x) {
		assert_int_equal(v->api->put(v->be, hess->h.p, g->h,
					     (size_t)g->in * g->in *
						     sizeof(double),
					     &err), 0);
		return;
	}
	assert_int_equal(be_mat_new(v->api, v->be, g->rows, g->in, DT_F32, &x,
				    &err), 0);
	assert_int_equal(v->api->put(v->be, x.p, g->x,
				     (size_t)g->rows * g->in * sizeof(float),
				     &err), 0);
	/* in two parts, as windows arrive */
	struct be_mat a = be_rows(&x, 0, 7), b = be_rows(&x, 7, g->rows - 7);
	assert_int_equal(gq_hess_add(hess, &v->d, &a, 0.5, &err), 0);
	assert_int_equal(gq_hess_add(hess, &v->d, &b, 0.5, &err), 0);
	be_mat_free(v->api, v->be, &x);
}

/* tr((W - Q) H (W - Q)^T) */
static double weighted(const struct golden *g, const struct ql *ql)
{
	size_t n = g->in;
	double sum = 0;
	float *q = malloc(n * sizeof(*q));
	double *e = malloc(n * sizeof(*e));

	for (uint32_t r = 0; r < g->out; r++) {
		ql_dequant_row(ql, r, q);
		for (size_t k = 0; k < n; k++)
			e[k] = (double)g->w[r * n + k] - (double)q[k];
		for (size_t i = 0; i < n; i++)
			for (size_t j = 0; j < n; j++)
				sum += e[i] * g->h[i * n + j] * e[j];
	}
	free(q);
	free(e);
	return sum;
}

/* Codes that differ from the golden ones; where a row has none, its scales and
 * zeros must be the golden ones, up to the last bits of the solve. */
static uint32_t differing(const struct golden *g, const struct ql *ql)
{
	float *code = floats(&g->result, "codes");
	float *scale = floats(&g->result, "scales");
	float *zero = floats(&g->result, "zeros");
	uint32_t sum = 0;

	for (uint32_t r = 0; r < g->out; r++) {
		uint32_t bad = 0;

		for (uint32_t k = 0; k < g->in; k++)
			bad += (float)ql->code[r * g->in + k] !=
			       code[r * g->in + k];
		for (uint32_t i = r * g->groups;
		     bad == 0 && i < (r + 1) * g->groups; i++) {
			assert_true(ql->zero[i] == zero[i]);
			assert_true(fabsf(ql->scale[i] - scale[i]) <=
				    1e-5f * scale[i]);
		}
		sum += bad;
	}
	free(code);
	free(scale);
	free(zero);
	return sum;
}

/* The case solved as g->p says; returns the weighted error. */
static double golden_solve(struct golden *g, const struct device *v,
			   const char *name, struct ql *ql)
{
	struct gq_hess hess;
	struct gq_report report;
	struct err err;

	hessian(&hess, v, g);
	if (gq_hess_prepare(&hess, &v->d, &g->p, &err))
		fail_msg("%s: %s", name, err.msg);
	struct gq_task t = { .dev = &v->d, .w = g->w, .out = g->out,
			     .in = g->in, .hess = &hess, .params = &g->p };
	if (gq_gptq.solve(&t, ql, &report, &err) || ql_check(ql, &err))
		fail_msg("%s: %s", name, err.msg);
	gq_hess_release(&hess, &v->d);
	return weighted(g, ql);
}

static void same_groups(const struct golden *g, const struct ql *ql)
{
	float *group = floats(&g->result, "g_idx");

	for (uint32_t k = 0; k < g->in; k++)
		assert_true((float)ql->group_of[k] == group[k]);
	free(group);
}

static void run_case(const struct device *v, const char *name)
{
	struct golden g;
	struct ql ql;
	double e;
	uint32_t bad;

	golden_open(&g, name);
	e = golden_solve(&g, v, name, &ql);
	bad = differing(&g, &ql);
	print_message("  %-28s error %+.5f %%, codes differing %u of %u\n",
		      name, (e / g.error - 1) * 100, bad, g.out * g.in);
	assert_true(fabs(e / g.error - 1) < 0.001);
	assert_true(bad * 200 <= g.out * g.in);
	same_groups(&g, &ql);
	ql_release(&ql);
	golden_close(&g);
}

static const char *const cases[] = {
	"gptq_p1_b2_g32_act", "gptq_p1_b3_g32", "gptq_p1_b4_g128",
	"gptq_p1_b4_g128_act", "gptq_p1_b4_g128_act_static",
	"gptq_p1_b4_g128_mse", "gptq_p1_b4_gch_act", "gptq_p1_b8_gch",
	"gptq_p2_b2_g32_static",
	"gptq_p2_b3_g32_mse_act_static", "gptq_p2_b3_gch_mse_act",
	"gptq_p2_b4_g128_asym", "gptq_p2_b4_g32", "gptq_p2_b4_g32_act_static",
	"gptq_p2_b4_g32_block32", "gptq_p2_b8_g32_act", "gptq_p3_b4_g32_act",
	"gptq_p3_b4_gch_asym", "gptq_p4_b3_g128_act", "gptq_p4_b4_g32",
	"gptq_p4_b4_g32_damp10", "gptqmodel_p1_gar_b4_g128",
	"gptqmodel_p2_gar_b4_g32",
};

static void test_golden_cases(void **state)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		run_case(*state, cases[i]);
}

/* A range search of another kind than any here. */
static const char *const searched[] = {
	"gptqmodel_p2_mse2_b2_asym_g32", "gptqmodel_p2_mse2_b3_g32",
};

/* What is done by default never does worse than the others' code, with scales
 * that have to fit in f16. */
static void run_default(const struct device *v, const char *name)
{
	struct golden g;
	struct ql ql;
	double e;

	golden_open(&g, name);
	g.p.scale_type = DT_F16;
	g.p.round_scale = 1;
	g.p.clip = GQ_CLIP_WEIGHTED;
	g.p.passes = 3;
	e = golden_solve(&g, v, name, &ql);
	print_message("  %-28s error %+.2f %%\n", name,
		      (e / g.error - 1) * 100);
	assert_true(e <= g.error * 1.001);
	same_groups(&g, &ql);
	ql_release(&ql);
	golden_close(&g);
}

static void test_golden_defaults(void **state)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		run_default(*state, cases[i]);
	for (size_t i = 0; i < sizeof(searched) / sizeof(searched[0]); i++)
		run_default(*state, searched[i]);
}

/* A Hessian that cannot be factored as it is.  The reference's own factor does
 * come through, so this is the CPU's case alone. */
static void test_golden_damping(void **state)
{
	run_case(*state, "gptqmodel_p4_dampfix_b4_g32");
	run_default(*state, "gptqmodel_p4_dampfix_b4_g32");
}

/* ---- corners ---- */

static void test_ragged_groups(void **state)
{
	static const int32_t sizes[] = { 32, -1, 7, 100, 4096 };
	struct gq_params p = params();
	struct problem b;

	for (int i = 0; i < 5; i++)
		for (uint8_t mode = 0; mode < 4; mode++) {
			uint32_t count[IN] = { 0 }, size;

			p.group_size = sizes[i];
			p.desc_act = mode & 1;
			p.static_groups = mode >> 1;
			problem_open(&b, *state, p);
			problem_solve(&b, &gq_gptq);
			size = b.ql.spec.group_size;
			for (int k = 0; k < IN; k++)
				count[b.ql.group_of[k]]++;
			for (uint32_t g = 0; g + 1 < b.ql.spec.groups; g++)
				assert_int_equal(count[g], size);
			assert_int_equal(b.ql.spec.act_order,
					 mode == 1 && b.ql.spec.groups > 1);
			assert_int_equal(b.report.dead, 1);
			assert_true(b.report.rel_error < 0.25);
			problem_close(&b);
		}
}

static void test_dead_column_decodes_to_zero(void **state)
{
	struct gq_params p = params();
	float row[IN];
	struct problem b;

	p.sym = 0;
	p.desc_act = 1;
	problem_open(&b, *state, p);
	problem_solve(&b, &gq_gptq);
	for (uint32_t r = 0; r < OUT; r++) {
		ql_dequant_row(&b.ql, r, row);
		assert_true(row[3] == 0.0f);
	}
	problem_close(&b);
}

/* One prepared Hessian serves several linears and is not changed by them. */
static void test_hessian_is_shared(void **state)
{
	struct ql first;
	struct problem b;

	problem_open(&b, *state, params());
	problem_solve(&b, &gq_gptq);
	first = b.ql;
	problem_solve(&b, &gq_gptq);
	assert_memory_equal(first.code, b.ql.code, OUT * IN);
	assert_memory_equal(first.scale, b.ql.scale,
			    OUT * b.ql.spec.groups * sizeof(float));
	ql_release(&first);
	problem_close(&b);
}

static void test_feedback_beats_rounding(void **state)
{
	const struct gq_method *m[] = { &gq_gptq, &gq_rtn };
	const struct device *v = *state;
	double e[2] = { 0 }, h[IN * IN];
	struct problem b;

	for (int i = 0; i < 2; i++) {
		problem_open(&b, v, params());
		assert_int_equal(v->api->get(v->be, h, b.hess.h.p, sizeof(h),
					     &b.err), 0);
		problem_solve(&b, m[i]);
		e[i] = problem_error(&b, h);
		problem_close(&b);
	}
	assert_true(e[0] < e[1] * 0.7);
}

/* rtn against the formula, with the scale the codes were computed with. */
static void test_round_to_nearest(void **state)
{
	struct gq_params p = params();
	struct problem b;

	for (uint8_t mode = 0; mode < 4; mode++) {
		p.sym = mode & 1;
		p.round_scale = mode >> 1;
		p.scale_type = p.round_scale ? DT_F16 : DT_F32;
		problem_open(&b, *state, p);
		problem_solve(&b, &gq_rtn);
		for (uint32_t i = 0; i < OUT * IN; i++) {
			uint32_t g = i / IN * b.ql.spec.groups + i % IN / 32;
			float s = b.ql.scale[g];
			float q = rintf(b.w[i] / s) + b.ql.zero[g];

			assert_true((float)b.ql.code[i] ==
				    fminf(fmaxf(q, 0), 15));
			assert_true(!p.round_scale ||
				    s == half_to_f32(half_from_f32(s)));
		}
		problem_close(&b);
	}
}

/* A group without a weight below 0 wants zero point 0, which some layouts
 * cannot hold: then it gets 1, and every weight still has a near code. */
static void test_least_zero_point(void **state)
{
	struct gq_params p = params();
	struct problem b;

	p.sym = 0;
	p.scale_type = DT_F32;
	for (uint8_t min = 0; min < 2; min++)
		for (uint8_t bits = 2; bits < 9; bits++) {
			p.zero_min = min;
			p.bits = bits;
			problem_open(&b, *state, p);
			for (int i = 0; i < OUT * IN; i++)
				b.w[i] = fabsf(b.w[i]);
			problem_solve(&b, &gq_rtn);
			for (uint32_t i = 0; i < OUT * IN; i++) {
				uint32_t g = i / IN * b.ql.spec.groups +
					     i % IN / 32;
				float s = b.ql.scale[g];
				float q = s * ((float)b.ql.code[i] - min);

				assert_true(b.ql.zero[g] == (float)min);
				assert_true(fabsf(q - b.w[i]) <= 0.51f * s);
			}
			problem_close(&b);
		}
}

/* Scales too small for f16 are kept from becoming divisors of 0. */
static void test_tiny_weights(void **state)
{
	struct gq_params p = params();
	struct problem b;

	for (p.round_scale = 0; p.round_scale < 2; p.round_scale++) {
		problem_open(&b, *state, p);
		for (int i = 0; i < OUT * IN; i++)
			b.w[i] *= 1e-12f;
		problem_solve(&b, &gq_gptq);
		assert_true(b.report.rel_error <= 1.0);
		problem_close(&b);
	}
}

static void test_scale_overflow_is_refused(void **state)
{
	struct gq_params p = params();
	struct problem b;

	problem_open(&b, *state, p);
	b.w[5 * IN + 50] = 1e6f;
	assert_int_equal(gq_hess_prepare(&b.hess, b.t.dev, &p, &b.err), 0);
	assert_int_equal(gq_gptq.solve(&b.t, &b.ql, &b.report, &b.err), -1);
	assert_int_equal(b.err.code, ERR_UNSUP);
	assert_null(b.ql.mem);
	b.p.scale_type = DT_F32;
	problem_solve(&b, &gq_gptq);
	problem_close(&b);
}

static void test_bad_numbers_are_named(void **state)
{
	const struct device *v = *state;
	double nan_row[2] = { NAN, INFINITY };
	struct problem b;

	problem_open(&b, v, params());
	b.w[IN + 2] = NAN;
	assert_int_equal(gq_rtn.solve(&b.t, &b.ql, &b.report, &b.err), -1);
	assert_int_equal(b.err.code, ERR_INPUT);
	assert_non_null(strstr(b.err.msg, "[1, 2]"));
	for (int i = 0; i < 2; i++) {
		assert_int_equal(v->api->put(v->be,
					     (double *)b.hess.h.p + 7 * IN + 7,
					     &nan_row[i], sizeof(double),
					     &b.err), 0);
		assert_int_equal(gq_hess_prepare(&b.hess, &v->d, &b.p,
						 &b.err), -1);
		assert_int_equal(b.err.code, ERR_CHECK);
		assert_non_null(strstr(b.err.msg, "feature 7"));
	}
	problem_close(&b);
}

/* [1 c; c 1] with c = 1.2 needs a damping above 0.2. */
static void test_damping_is_raised(void **state)
{
	const struct device *v = *state;
	const double h[4] = { 1, 1.2, 1.2, 1 };
	struct gq_params p = params();
	struct gq_hess hess;
	struct err err;

	p.damp = 0.05;
	p.damp_step = 0.1;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(gq_hess_init(&hess, &v->d, 2, &err), 0);
		assert_int_equal(v->api->put(v->be, hess.h.p, h, sizeof(h),
					     &err), 0);
		if (i == 0) {
			assert_int_equal(gq_hess_prepare(&hess, &v->d, &p,
							 &err), 0);
			assert_true(fabs(hess.damp - 0.25) < 1e-9);
		} else { /* no step; a step that leaps over 1 */
			p.damp_step = i == 1 ? 0 : 0.96;
			assert_int_equal(gq_hess_prepare(&hess, &v->d, &p,
							 &err), -1);
			assert_int_equal(err.code, ERR_CHECK);
		}
		gq_hess_release(&hess, &v->d);
	}
}

/* 100 features seen with 160 tokens; a Hessian from nowhere has no tokens. */
static void test_damping_of_short_texts(void **state)
{
	struct gq_params p = params();
	struct problem b;

	p.damp_short = 1;
	problem_open(&b, *state, p);
	problem_solve(&b, &gq_gptq);
	assert_true(b.report.damp == 100.0 / 160);
	problem_close(&b);
	problem_open(&b, *state, p);
	b.hess.tokens = 90;
	problem_solve(&b, &gq_gptq);
	assert_true(b.report.damp == 1.0);
	problem_close(&b);
	problem_open(&b, *state, p);
	b.hess.tokens = 0;
	problem_solve(&b, &gq_gptq);
	assert_true(b.report.damp == 0.01);
	problem_close(&b);
}

static void test_methods_by_name(void **state)
{
	(void)state;
	assert_ptr_equal(gq_method_find("gptq"), &gq_gptq);
	assert_ptr_equal(gq_method_find("rtn"), &gq_rtn);
	assert_ptr_equal(gq_method_find("hqq"), &gq_hqq);
	assert_ptr_equal(gq_method_find("gptaq"), &gq_gptaq);
	assert_null(gq_method_find("awq"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(test_golden_cases),
		ON(cpu_open, test_golden_defaults),
		ON(cpu_open, test_golden_damping),
		BOTH(test_ragged_groups),
		BOTH(test_dead_column_decodes_to_zero),
		BOTH(test_hessian_is_shared),
		BOTH(test_feedback_beats_rounding),
		BOTH(test_round_to_nearest),
		BOTH(test_least_zero_point),
		BOTH(test_tiny_weights),
		BOTH(test_scale_overflow_is_refused),
		BOTH(test_bad_numbers_are_named),
		BOTH(test_damping_is_raised),
		BOTH(test_damping_of_short_texts),
		cmocka_unit_test(test_methods_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
