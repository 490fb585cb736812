/* A tensor and a linear, piece by piece. */
#include "../../libfmt/values.h"
#include "ckpt.h"
#include "made.h"

static void open_made(struct opened *o, void **state)
{
	struct options opt = { .to = &qf_gptq };

	make_model(scratch_path(*state, "x"), &qf_gptq, 1);
	open_job(o, scratch_path(*state, "x"), scratch_path(*state, "y"),
		 &opt);
}

/* Whatever the pieces, the rows of the neutral layer. */
static void test_pieces_of_a_linear(void **state)
{
	static const uint64_t step[] = { 1, 7, 96, 100, 64 * 96 };
	struct values v;
	struct opened o;
	struct err err;
	float want[64 * 96], got[64 * 96];

	open_made(&o, state);
	must(values_open_layer(o.model, o.survey.layer[0].module, &v, &err),
	     &err);
	assert_true(v.rank == 2 && v.dim[0] == 64 && v.dim[1] == 96);
	assert_int_equal(v.count, 64 * 96);
	for (uint32_t n = 0; n < 64; n++)
		ql_dequant_row(&v.ql, n, want + n * 96);
	for (size_t s = 0; s < 5; s++) {
		memset(got, 0xff, sizeof(got));
		for (uint64_t i = 0; i < v.count; i += step[s])
			values_load(&v, i, v.count - i < step[s] ?
				    v.count - i : step[s], got + i);
		assert_memory_equal(got, want, sizeof(want));
	}
	/* backwards too: the row that is kept is not the one asked for */
	values_load(&v, 96, 1, got);
	values_load(&v, 0, 1, got);
	assert_memory_equal(got, want, sizeof(float));
	values_release(&v);
	close_job(&o);
}

static void test_tensors_and_refusals(void **state)
{
	const uint16_t half[] = { 0x3c00, 0xc000, 0x7c00 };
	struct tensor t = { .name = "t", .type = DT_F16, .rank = 1,
		.dim = { 3 }, .data = half, .size = 6 };
	struct values v;
	struct err err;
	float x[3];

	(void)state;
	must(values_open_tensor(&t, &v, &err), &err);
	values_load(&v, 1, 2, x);
	assert_true(x[0] == -2 && x[1] > 1e30f);
	values_release(&v);
	t.type = DT_F8_E4M3;
	assert_int_equal(values_open_tensor(&t, &v, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	t.type = DT_F16;
	t.data = NULL;
	assert_int_equal(values_open_tensor(&t, &v, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	values_release(&v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_pieces_of_a_linear,
						scratch_open, scratch_close),
		cmocka_unit_test(test_tensors_and_refusals),
	};

	return cmocka_run_group_tests_name("values", tests, NULL, NULL);
}
