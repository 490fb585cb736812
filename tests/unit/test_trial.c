/* The trial of a kernel must see a wrong answer, in whichever row and output
 * it stands. */
#include "parts.h"

#include "../../libfmt/model.h"
#include "../../runtime/trial.h"

#include <math.h>

#define MODEL "tests/models/tiny"
#define LAYER "model.layers.0.mlp.down_proj"
#define IN 768
#define OUT 256

/* The reference, but that one output of one row is off (or not a number). */
static int bad_row, bad_out;
static float bad_by;

static int wrong_gemm(struct be *be, const struct be_gemm *g, struct err *err)
{
	float *y = g->c->p;

	if (be_ref.gemm(be, g, err))
		return -1;
	if (bad_row < (int)g->c->rows)
		y[(size_t)bad_row * g->c->ld + (size_t)bad_out] += bad_by;
	return 0;
}

static double trial(const struct be_api *api, uint32_t rows)
{
	const struct be_open how = { 2, -1, NULL };
	struct rt_dev d = { .api = api };
	struct rt_trial_result r;
	struct rt_trial *t;
	struct model *m;
	struct err err;

	must(model_open(MODEL, 0, &m, &err), &err);
	must(rt_trial_open(m, LAYER, IN, OUT, 2, &t, &err), &err);
	must(api->open(&how, &d.be, &err), &err);
	must(rt_trial_run(t, &d, rows, &r, &err), &err);
	assert_true(r.kernel[0] != '\0');
	api->close(d.be);
	rt_trial_close(t);
	model_close(m);
	return r.rel_error;
}

static void right_kernels_are_near(void **state)
{
	(void)state;
	for (uint32_t i = 0; rt_trial_rows(i); i++) {
		if (rt_trial_rows(i) <= 16)
			assert_true(trial(&be_ref, rt_trial_rows(i)) < 1e-7);
		assert_true(trial(&be_cpu, rt_trial_rows(i)) < 1e-6);
	}
}

static void a_wrong_output_shows(void **state)
{
	struct be_api wrong = be_ref;

	(void)state;
	wrong.gemm = wrong_gemm;
	bad_by = 1;
	bad_row = 0;
	bad_out = 0;
	assert_true(trial(&wrong, 1) > 1e-3);
	bad_out = OUT - 1;
	assert_true(trial(&wrong, 1) > 1e-3);
	bad_row = 15;
	assert_true(trial(&wrong, 16) > 1e-3);
	bad_by = NAN;
	bad_out = 100;
	assert_true(isnan(trial(&wrong, 16)));
}

static void names_of_the_kernels(void **state)
{
	uint32_t n = 0;

	(void)state;
	while (be_cpu_kernel(n))
		n++;
	assert_in_range(n, 1, 4);
	assert_string_equal(be_cpu_kernel(n - 1), "generic");
	assert_null(be_cpu_kernel(n + 7));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(right_kernels_are_near),
		cmocka_unit_test(a_wrong_output_shows),
		cmocka_unit_test(names_of_the_kernels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
