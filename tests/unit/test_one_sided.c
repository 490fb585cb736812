/* Groups without a weight below zero, quantized with a zero in the middle: the
 * range of codes is half used, and what is above half of the largest weight is
 * clipped.  The published quantizers do so; no check may call it damage. */
#include "../../libfmt/check.h"
#include "made.h"
#include "solve.h"

#include <math.h>

static void one_sided(struct problem *b, struct device *v)
{
	struct gq_params p = params();

	p.scale_type = DT_F32;
	problem_open(b, v, p);
	for (int i = 0; i < OUT * IN; i++)
		b->w[i] = fabsf(b->w[i]);
	problem_solve(b, &gq_rtn);
}

/* scale = max / 15, zero 8: section 3.4's convention. */
static void test_quantized_by_the_books(void **state)
{
	struct problem b;
	uint32_t clipped = 0;

	one_sided(&b, *state);
	for (uint32_t i = 0; i < OUT * IN; i++) {
		uint32_t g = i % IN / 32, n = i / IN;
		uint32_t end = 32 * g + 32 < IN ? 32 * g + 32 : IN;
		float s = b.ql.scale[n * b.ql.spec.groups + g], max = 0;

		for (uint32_t k = 32 * g; k < end; k++)
			max = fmaxf(max, b.w[n * IN + k]);
		assert_true(s == max / 15);
		assert_true(b.ql.zero[n * b.ql.spec.groups + g] == 8);
		assert_true(b.ql.code[i] >= 8);
		if (b.w[i] > 7.5f * s) {
			assert_int_equal(b.ql.code[i], 15);
			clipped++;
		}
	}
	assert_true(clipped > OUT * IN / 3);
	problem_close(&b);
}

static void test_no_fault_of_the_file(void **state)
{
	struct make m = { .count = 0 };
	struct scratch *s;
	struct problem b;
	struct survey survey;
	struct model *model;
	struct check c;
	struct err err;
	void *place = NULL;

	one_sided(&b, *state);
	assert_int_equal(scratch_open(&place), 0);
	s = place;
	make_layer(&m, "m.up_proj", &b.ql, &qf_gptq, NULL);
	make_write(&m, s->dir, "{\"bits\": 4, \"group_size\": 32, \"sym\": "
		   "true, \"desc_act\": false, \"quant_method\": \"gptq\"}");
	must(model_open(s->dir, 0, &model, &err), &err);
	must(survey_model(model, &survey, &err), &err);
	must(check_structure(model, &survey, NULL, &c, &err), &err);
	assert_int_equal(c.layers, 1);
	assert_int_equal(c.errors, 0);
	assert_int_equal(survey.odd, 0);
	check_release(&c);
	survey_release(&survey);
	model_close(model);
	scratch_close(&place);
	problem_close(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(test_quantized_by_the_books),
		ON(cpu_open, test_no_fault_of_the_file),
	};

	return cmocka_run_group_tests_name("one_sided", tests, NULL, NULL);
}
