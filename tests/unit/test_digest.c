/* Hashes of what a checkpoint means, against f32 made here. */
#include "../../libfmt/digest.h"
#include "ckpt.h"
#include "made.h"

#include <math.h>

static void digest(const char *dir, enum digest_what what, uint32_t threads,
		   struct digest *d, struct opened *o)
{
	struct options opt = { .to = &qf_gptq };
	struct digest_job job = { .what = what, .threads = threads };
	struct err err;

	open_job(o, dir, dir, &opt);
	job.model = o->model;
	job.survey = &o->survey;
	must(digest_model(&job, d, &err), &err);
}

/* By the definition in the header, in the plainest way. */
static void test_weights_are_dense_f32(void **state)
{
	const char *dir = scratch_path(*state, "x");
	struct values_list list;
	struct opened o;
	struct digest d;
	struct hash *h;
	struct err err;
	char hex[HASH_HEX], line[512];

	make_model(dir, &qf_gptq, 1);
	digest(dir, DIGEST_WEIGHTS, 2, &d, &o);
	must(values_list_init(o.model, &o.survey, &list, &err), &err);
	h = hash_new(&err);
	assert_int_equal(d.count, list.count);
	for (uint32_t i = 0; i < d.count; i++) {
		struct values v;
		float *x;
		int n;

		assert_string_equal(d.name[i], list.ref[i].name);
		must(values_open(o.model, &list.ref[i], &v, &err), &err);
		x = malloc(v.count * sizeof(*x));
		values_load(&v, 0, v.count, x);
		for (uint64_t k = 0; k < v.count; k++)
			x[k] += 0.0f; /* -0 becomes 0 */
		hash_bytes(x, v.count * sizeof(*x), hex);
		assert_string_equal(d.hash[i], hex);
		n = v.rank == 2 ?
			snprintf(line, sizeof(line),
				 "%s\tF32\t[%u, %u]\t%s\n", d.name[i],
				 (unsigned)v.dim[0], (unsigned)v.dim[1], hex) :
			snprintf(line, sizeof(line), "%s\tF32\t[%u]\t%s\n",
				 d.name[i], (unsigned)v.dim[0], hex);
		hash_add(h, line, (size_t)n);
		free(x);
		values_release(&v);
	}
	hash_end(h, hex);
	assert_string_equal(d.model, hex);
	hash_free(h);
	values_list_release(&list);
	digest_release(&d);
	close_job(&o);
}

static void test_layouts_and_threads_do_not_matter(void **state)
{
	const char *a = scratch_path(*state, "v1"),
		   *b = scratch_path(*state, "v2");
	struct digest d[3];
	struct opened o[3];

	parts_seed = 3;
	make_model(a, &qf_gptq, 1);
	parts_seed = 3;
	make_model(b, &qf_gptq_v2, 1);
	digest(a, DIGEST_WEIGHTS, 1, &d[0], &o[0]);
	digest(b, DIGEST_WEIGHTS, 3, &d[1], &o[1]);
	assert_string_equal(d[0].model, d[1].model);
	digest(b, DIGEST_BYTES, 1, &d[2], &o[2]);
	assert_int_equal(d[2].count, o[2].model->tensor_count);
	assert_string_not_equal(d[0].model, d[2].model);
	for (int i = 0; i < 3; i++) {
		digest_release(&d[i]);
		close_job(&o[i]);
	}
}

static void one(const char *dir, enum dtype type, const void *data, size_t n)
{
	struct make m = { .count = 0 };
	struct ckpt_item *it = make_item(&m, "l", "weight", 64);

	it->type = type;
	it->rank = 1;
	it->dim[0] = 4;
	memcpy(m.data[0], data, n);
	make_write(&m, dir, NULL);
}

/* Zeros and NaN of every kind, in every type that widens; others as bytes. */
static void test_canonical_values(void **state)
{
	const uint16_t f16[4] = { 0x3c00, 0x8000, 0xfe01, 0x4000 };
	const uint16_t bf16[4] = { 0x3f80, 0x0000, 0x7fc0, 0x4000 };
	const uint8_t f8[4] = { 1, 2, 3, 4 };
	const float f32[4] = { 1, -0.0f, -NAN, 2 };
	const float want[4] = { 1, 0, NAN, 2 };
	static const enum dtype type[] = { DT_F16, DT_BF16, DT_F32,
		DT_F8_E4M3 };
	const void *const data[] = { f16, bf16, f32, f8 };
	const size_t size[] = { 8, 8, 16, 4 };
	char hex[HASH_HEX];
	struct opened o;
	struct digest d;

	for (int i = 0; i < 4; i++) {
		const char *dir = scratch_path(*state, &"abcd"[i]);

		one(dir, type[i], data[i], size[i]);
		digest(dir, DIGEST_WEIGHTS, 1, &d, &o);
		hash_bytes(i < 3 ? (const void *)want : f8, i < 3 ? 16 : 4,
			   hex);
		assert_string_equal(d.hash[0], hex);
		digest_release(&d);
		close_job(&o);
	}
}

int main(void)
{
#define IN_SCRATCH(f) \
	cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)
	const struct CMUnitTest tests[] = {
		IN_SCRATCH(test_weights_are_dense_f32),
		IN_SCRATCH(test_layouts_and_threads_do_not_matter),
		IN_SCRATCH(test_canonical_values),
	};

	return cmocka_run_group_tests_name("digest", tests, NULL, NULL);
}
