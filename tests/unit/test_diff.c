/* What differs between checkpoints of different layouts, files and values. */
#include "../../libfmt/diff.h"
#include "../../libfmt/values.h"
#include "ckpt.h"
#include "made.h"

#include <math.h>

struct two {
	struct opened a, b;
	struct diff d;
};

static void compare(struct two *t, const char *a, const char *b,
		    uint32_t threads)
{
	struct options opt = { .to = &qf_gptq };
	struct diff_job job = { .threads = threads };
	struct err err;

	open_job(&t->a, a, a, &opt);
	open_job(&t->b, b, b, &opt);
	job.a = (struct diff_side) { t->a.model, &t->a.survey };
	job.b = (struct diff_side) { t->b.model, &t->b.survey };
	must(diff_models(&job, &t->d, &err), &err);
}

static void done(struct two *t)
{
	diff_release(&t->d);
	close_job(&t->a);
	close_job(&t->b);
}

static const struct diff_tensor *find(const struct diff *d, const char *name)
{
	for (uint32_t i = 0; i < d->tensors; i++)
		if (!strcmp(d->tensor[i].name, name))
			return &d->tensor[i];
	fail_msg("no %s", name);
	return NULL;
}

#define Q "model.layers.0.self_attn.q_proj.weight"
#define UP "model.layers.10.mlp.up_proj.weight"

/* The same weights as v1 and v2: only how they are stored differs. */
static void test_layouts(void **state)
{
	const char *a = scratch_path(*state, "v1"),
		   *b = scratch_path(*state, "v2");
	struct two t;

	parts_seed = 7;
	make_model(a, &qf_gptq, 1);
	parts_seed = 7;
	make_model(b, &qf_gptq_v2, 1);
	compare(&t, a, a, 2);
	assert_int_equal(t.d.differences, 0);
	assert_int_equal(t.d.states[DIFF_EQUAL], t.d.tensors);
	assert_int_equal(t.d.files_equal, 1);
	done(&t);
	compare(&t, a, b, 3);
	/* q_proj, its bias, up_proj, another, the embedding, a norm */
	assert_int_equal(t.d.tensors, 6);
	assert_int_equal(t.d.states[DIFF_EQUAL], 6);
	assert_int_equal(t.d.stored, 2);
	assert_int_equal(t.d.keys, 1);
	assert_string_equal(t.d.key[0].key,
			    "quantization_config.checkpoint_format");
	assert_string_equal(t.d.key[0].a, "\"gptq\"");
	assert_string_equal(t.d.key[0].b, "\"gptq_v2\"");
	assert_int_equal(t.d.differences, 3);
	assert_true(find(&t.d, Q)->linear && find(&t.d, Q)->stored);
	assert_string_equal(find(&t.d, UP)->b,
			    "gptq_v2 4 bits, groups of 32");
	/* block 2 stands before block 10 */
	assert_true(find(&t.d, UP) >
		    find(&t.d, "model.layers.2.mlp.up_proj.weight"));
	done(&t);
}

static void one_layer(const char *dir, const struct ql *ql, int more)
{
	struct make m = { .count = 0 };
	struct ckpt_item *f8;

	make_layer(&m, "l.0", ql, &qf_gptq_v2, NULL);
	parts_seed = 9;
	make_f16(&m, "l.n", "weight", more ? 12 : 6, more ? 0 : 2);
	f8 = make_item(&m, "l.f8", "weight", 4);
	f8->type = DT_F8_E4M3;
	f8->rank = 1;
	f8->dim[0] = 4;
	((uint8_t *)m.data[m.count - 1])[3] = more ? 9 : 4;
	make_f16(&m, more ? "l.more" : "l.less", "weight", 5, 0);
	make_write(&m, dir, ASYM_V2);
}

/* One weight, one shape, one byte, one tensor more and one less. */
static void test_values_shapes_and_names(void **state)
{
	const char *a = scratch_path(*state, "a"),
		   *b = scratch_path(*state, "b");
	const struct diff_tensor *x;
	struct ql ql;
	struct two t;
	double sum = 0;
	float row[96];

	random_layer(&ql, &base, 0);
	ql.scale[5 * 3 + 1] = 0.5f;
	ql.code[5 * 96 + 40] = 3;
	for (uint32_t n = 0; n < 64; n++) {
		ql_dequant_row(&ql, n, row);
		for (int k = 0; k < 96; k++)
			sum += (double)row[k] * (double)row[k];
	}
	one_layer(a, &ql, 0);
	ql.code[5 * 96 + 40] = 7;
	one_layer(b, &ql, 1);
	compare(&t, a, b, 2);
	x = find(&t.d, "l.0.weight");
	assert_int_equal(x->state, DIFF_VALUES);
	assert_int_equal(x->unequal, 1);
	assert_int_equal(x->count, 64 * 96);
	assert_int_equal(x->at, 5 * 96 + 40);
	assert_true(x->max_abs == 2);
	assert_true(fabs(x->rel - 2 / sqrt(sum)) < 1e-12);
	assert_int_equal(find(&t.d, "l.n.weight")->state, DIFF_SHAPE);
	assert_int_equal(find(&t.d, "l.f8.weight")->state, DIFF_BYTES);
	assert_int_equal(find(&t.d, "l.less.weight")->state, DIFF_ONLY_A);
	assert_int_equal(find(&t.d, "l.more.weight")->state, DIFF_ONLY_B);
	assert_int_equal(t.d.differences, 5);
	done(&t);
	ql_release(&ql);
}

static void dense(const char *dir, enum dtype type, const void *data)
{
	struct make m = { .count = 0 };
	struct ckpt_item *it = make_item(&m, "l", "weight", 64);

	it->type = type;
	it->rank = 1;
	it->dim[0] = 4;
	memcpy(m.data[0], data, 4 * tensor_dtype_bits(type) / 8);
	make_write(&m, dir, NULL);
}

/* F32 against what it rounds to, and against something else. */
static void test_rounded(void **state)
{
	const float f[4] = { 1, 0.1f, -3.3f, 1e-9f };
	uint16_t h[4], b[4];
	const char *x = scratch_path(*state, "f32"),
		   *y = scratch_path(*state, "f16"),
		   *z = scratch_path(*state, "bf16");
	struct two t;

	for (int i = 0; i < 4; i++) {
		h[i] = half_from_f32(f[i]);
		b[i] = half_bf16_from_f32(f[i]);
	}
	b[2]++;
	dense(x, DT_F32, f);
	dense(y, DT_F16, h);
	dense(z, DT_BF16, b);
	compare(&t, x, y, 1);
	assert_int_equal(t.d.tensor[0].state, DIFF_ROUNDED);
	assert_int_equal(t.d.tensor[0].unequal, 3);
	assert_true(t.d.tensor[0].stored && t.d.differences == 1);
	done(&t);
	compare(&t, y, x, 1);
	assert_int_equal(t.d.tensor[0].state, DIFF_ROUNDED);
	done(&t);
	compare(&t, x, z, 1);
	assert_int_equal(t.d.tensor[0].state, DIFF_VALUES);
	done(&t);
}

/* By name in byte order, a linear for all its tensors. */
static void test_the_list_of_a_checkpoint(void **state)
{
	const char *dir = scratch_path(*state, "x");
	struct options opt = { .to = &qf_gptq };
	struct values_list list;
	struct opened o;
	struct err err;

	make_model(dir, &qf_gptq, 1);
	open_job(&o, dir, dir, &opt);
	must(values_list_init(o.model, &o.survey, &list, &err), &err);
	assert_int_equal(list.count, 6);
	for (uint32_t i = 0; i < list.count; i++) {
		assert_true(!list.ref[i].layer == !!list.ref[i].tensor);
		assert_true(!i || strcmp(list.ref[i - 1].name,
					 list.ref[i].name) < 0);
	}
	assert_string_equal(list.ref[1].name,
			    "model.layers.0.self_attn.q_proj.bias");
	values_list_release(&list);
	close_job(&o);
}

int main(void)
{
#define IN_SCRATCH(f) \
	cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)
	const struct CMUnitTest tests[] = {
		IN_SCRATCH(test_layouts),
		IN_SCRATCH(test_values_shapes_and_names),
		IN_SCRATCH(test_rounded),
		IN_SCRATCH(test_the_list_of_a_checkpoint),
	};

	return cmocka_run_group_tests_name("diff", tests, NULL, NULL);
}
