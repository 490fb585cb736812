/* What is done beyond the published algorithm: the clipping search and the
 * refinement of codes and scales; and the half-quadratic method. */
#include "../../libfmt/base/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "solve.h"

/* The damped Hessian of the problem, by column, before it is prepared. */
static void hessian(struct problem *b, const struct device *v, double *h)
{
	double mean = 0;

	assert_int_equal(v->api->get(v->be, h, b->hess.h.p,
				     sizeof(*h) * IN * IN, &b->err), 0);
	h[3 * IN + 3] = 1; /* the dead column, whose weights count as 0 */
	for (int r = 0; r < OUT; r++)
		b->w[r * IN + 3] = 0;
	for (int i = 0; i < IN; i++)
		mean += h[i * IN + i] / IN;
	for (int i = 0; i < IN; i++)
		h[i * IN + i] += b->p.damp * mean;
}

/* More passes never make it worse, whatever the groups and their order; the
 * first one helps; and the loss that is reported is the true one. */
static void test_error_never_rises(void **state)
{
	static const int32_t sizes[] = { 32, -1, 7, 100 };
	double h[IN * IN];
	struct problem b;

	for (uint32_t mode = 0; mode < 64; mode++) {
		struct gq_params p = params();
		double last = INFINITY;

		p.round_scale = 1;
		p.group_size = sizes[mode & 3];
		p.desc_act = mode >> 2 & 1;
		p.static_groups = mode >> 3 & 1;
		p.sym = mode >> 4 & 1;
		p.bits = mode >> 5 ? 2 : 4;
		for (p.passes = 0; p.passes < 4; p.passes++) {
			double e;

			problem_open(&b, *state, p);
			hessian(&b, *state, h);
			problem_solve(&b, &gq_gptq);
			e = problem_error(&b, h);
			assert_true(e <= last * (1 + 1e-5));
			assert_true(p.passes != 1 || e < last);
			assert_true(fabs(b.report.loss - e / 2) < 2e-3 * e);
			last = e;
			problem_close(&b);
		}
	}
}

/* What is lost of the outputs, against the definition: both rounding's share
 * and ours, whatever the order.  There are fewer rows than are looked at. */
static void test_what_is_lost(void **state)
{
	double h[IN * IN];
	struct problem b;

	for (uint8_t mode = 0; mode < 8; mode++) {
		struct gq_params p = params();
		double energy = 0, lost, near;
		struct ql ql;

		p.desc_act = mode & 1;
		p.group_aware = mode >> 1 & 1;
		p.passes = mode >> 2;
		problem_open(&b, *state, p);
		hessian(&b, *state, h);
		problem_solve(&b, &gq_gptq);
		lost = problem_error(&b, h);
		for (int r = 0; r < OUT; r++)
			for (int i = 0; i < IN * IN; i++)
				energy += (double)b.w[r * IN + i / IN] * h[i] *
					  (double)b.w[r * IN + i % IN];
		assert_true(fabs(b.report.out_error - sqrt(lost / energy)) <
			    1e-4 * b.report.out_error);
		near = b.report.rtn_error;
		ql = b.ql;
		b.p.desc_act = 0;
		problem_solve(&b, &gq_rtn);
		lost = problem_error(&b, h);
		assert_true(fabs(near - sqrt(lost / energy)) < 1e-4 * near);
		ql_release(&ql);
		problem_close(&b);
	}
}

/* Scales stay exact values of their type, zeros and groups as they were. */
static void test_what_stays(void **state)
{
	struct gq_params p = params();
	struct problem a, b;

	p.sym = 0;
	p.desc_act = 1;
	p.round_scale = 1;
	problem_open(&a, *state, p);
	problem_solve(&a, &gq_gptq);
	p.passes = 2;
	problem_open(&b, *state, p);
	problem_solve(&b, &gq_gptq);
	for (uint32_t i = 0; i < OUT * b.ql.spec.groups; i++) {
		float s = b.ql.scale[i];

		assert_true(s > 0 && s == half_to_f32(half_from_f32(s)));
		assert_true(a.ql.zero[i] == b.ql.zero[i]);
	}
	assert_memory_equal(a.ql.group_of, b.ql.group_of,
			    IN * sizeof(uint32_t));
	problem_close(&a);
	problem_close(&b);
}

/* The search gives a lower sum of squares than the whole range does, and no
 * zero that the layout cannot hold. */
static void test_clipping_search(void **state)
{
	struct problem b;
	double e[2];

	for (uint32_t mode = 0; mode < 8; mode++) {
		struct gq_params p = params();

		p.bits = mode & 1 ? 2 : 3;
		p.sym = mode >> 1 & 1;
		p.zero_min = mode >> 2 & 1;
		p.scale_type = DT_F32;
		for (int i = 0; i < 2; i++) {
			p.clip = i ? GQ_CLIP_WEIGHTED : GQ_CLIP_NONE;
			problem_open(&b, *state, p);
			problem_solve(&b, &gq_rtn);
			e[i] = b.report.rel_error;
			for (uint32_t g = 0; g < OUT * b.ql.spec.groups; g++)
				assert_true(b.ql.zero[g] >=
					    (float)p.zero_min);
			problem_close(&b);
		}
		assert_true(e[1] < e[0]);
	}
}

/* hqq never has a larger |W - Q|_0.7 than the rounding it begins with, and a
 * smaller one as a whole; its numbers are those of the layout. */
static void test_half_quadratic(void **state)
{
	for (uint8_t mode = 0; mode < 8; mode++) {
		struct gq_params p = params();
		double sum[2] = { 0 };
		float row[IN];
		struct problem b;

		p.sym = mode & 1;
		p.bits = mode & 2 ? 2 : 3;
		p.zero_min = mode >> 2;
		p.threads = 1 + mode % 3;
		p.round_scale = 1;
		for (int i = 0; i < 2; i++) {
			problem_open(&b, *state, p);
			for (int k = 0; k < OUT * IN; k += 37)
				b.w[k] *= 4; /* outliers */
			problem_solve(&b, i ? &gq_hqq : &gq_rtn);
			for (uint32_t r = 0; r < OUT; r++) {
				ql_dequant_row(&b.ql, r, row);
				for (uint32_t k = 0; k < IN; k++)
					sum[i] += pow(fabs((double)row[k] -
						(double)b.w[r * IN + k]), 0.7);
			}
			for (uint32_t g = 0; g < OUT * b.ql.spec.groups; g++) {
				float s = b.ql.scale[g];

				assert_true(s == half_to_f32(
						half_from_f32(s)) && s > 0);
				assert_true(b.ql.zero[g] >=
					    (float)p.zero_min);
			}
			problem_close(&b);
		}
		assert_true(sum[1] < sum[0] * 0.99);
	}
}

/* Equal bits for any number of threads, all that is done beyond the published
 * algorithm included. */
static void test_threads(void **state)
{
	struct gq_params p = params();
	struct problem b;
	struct ql first = { 0 };

	(void)state;
	p.desc_act = 1;
	p.round_scale = 1;
	p.clip = GQ_CLIP_WEIGHTED;
	p.passes = 3;
	p.bits = 3;
	for (uint32_t t = 1; t < 5; t++) {
		struct be_open how = { .threads = t, .device = -1 };
		struct device v = { .api = &be_cpu };

		assert_int_equal(be_cpu.open(&how, &v.be, &b.err), 0);
		v.d = (struct rt_dev){ &be_cpu, v.be };
		problem_open(&b, &v, p);
		problem_solve(&b, &gq_gptq);
		if (t == 1) {
			first = b.ql;
			memset(&b.ql, 0, sizeof(b.ql));
		} else {
			assert_memory_equal(first.code, b.ql.code, OUT * IN);
			assert_memory_equal(first.scale, b.ql.scale, OUT *
					    first.spec.groups *
					    sizeof(float));
		}
		problem_close(&b);
		be_cpu.close(v.be);
	}
	ql_release(&first);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(test_error_never_rises),
		BOTH(test_what_is_lost),
		BOTH(test_what_stays),
		BOTH(test_clipping_search),
		BOTH(test_half_quadratic),
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
