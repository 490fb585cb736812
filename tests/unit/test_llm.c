/* The runtime on a trained model, tests/models/tiny, against the numbers that
 * transformers computed for it (reference.json, reference-logits.safetensors;
 * see tests/models/tiny's reference.json for versions). */
#include "ok.h"

#include "../../libfmt/base/err.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/base/json.h"
#include "../../libfmt/base/mem.h"
#include "../../libfmt/container/st.h"
#include "../../libfmt/model.h"
#include "../../runtime/llm.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TINY "tests/models/tiny"
#define PROMPT 64
#define VOCAB 2048

static struct err err;

static struct llm *open_tiny(const struct be_api *api, uint32_t threads,
			     uint32_t batch)
{
	const struct be_open how = { .threads = threads, .device = -1 };
	struct llm_open lo = { .dev = { .api = api }, .batch = batch };
	struct model *m;
	struct llm *l;

	OK(api->open(&how, &lo.dev.be, &err));
	OK(model_open(TINY, 0, &m, &err));
	OK(llm_open(m, &lo, &l, &err));
	model_close(m); /* nothing of it may be needed any more */
	return l;
}

static void close_llm(struct llm *l)
{
	struct rt_dev d = l->part[0].dev;

	llm_close(l);
	d.api->close(d.be);
}

static int copy_rows(void *ctx, uint32_t first, uint32_t rows,
		     const float *logits, struct err *e)
{
	(void)e;
	memcpy((float *)ctx + (size_t)first * VOCAB, logits,
	       (size_t)rows * VOCAB * sizeof(float));
	return 0;
}

/* Logits of all n tokens, [n][VOCAB] on the heap. */
static float *forward(struct llm *l, const uint32_t *id, uint32_t n)
{
	float *out = mem_alloc((size_t)n * VOCAB, sizeof(*out), &err);
	const struct llm_rows rows = { copy_rows, out };

	assert_non_null(out);
	llm_reset(l);
	OK(llm_forward(l, id, n, &rows, NULL, &err));
	assert_int_equal(l->used[0], n);
	return out;
}

static double worst(const float *a, const float *b, size_t n)
{
	double max = 0;

	for (size_t i = 0; i < n; i++) {
		double d = fabs((double)a[i] - b[i]);

		if (!(d <= max))
			max = d;
	}
	return max;
}

/* The reference prompt: ids and, on the heap, its logits. */
static float *reference(uint32_t id[PROMPT])
{
	struct src *src;
	struct st_file f;
	float *logits = mem_alloc((size_t)PROMPT * VOCAB, sizeof(*logits),
				  &err);
	uint32_t found = 0;

	assert_non_null(logits);
	OK(io_open(TINY "/reference-logits.safetensors", &src, &err));
	OK(st_open(src, 0, &f, &err));
	for (uint32_t i = 0; i < f.count; i++) {
		const struct tensor *t = &f.tensor[i];

		if (strcmp(t->name, "logits") == 0) {
			assert_true(tensor_is_shape(t, 2, PROMPT, VOCAB));
			OK(tensor_load_f32(t, 0, (uint64_t)PROMPT * VOCAB,
					   logits));
			found++;
		} else if (strcmp(t->name, "input_ids") == 0) {
			assert_int_equal(t->size, PROMPT * 4);
			memcpy(id, t->data, PROMPT * 4);
			found++;
		}
	}
	assert_int_equal(found, 2);
	st_close(&f);
	io_close(src);
	return logits;
}

static void check_reference(const struct be_api *api, double limit)
{
	uint32_t id[PROMPT];
	float *want = reference(id), *got;
	struct llm *l = open_tiny(api, 2, 0);
	double w;

	got = forward(l, id, PROMPT);
	w = worst(want, got, (size_t)PROMPT * VOCAB);
	print_message("%s: logits differ by %.3g at most\n", api->name, w);
	assert_true(w <= limit);
	free(got);
	free(want);
	close_llm(l);
}

/* The bar is 2e-3; f32 arithmetic leaves a twentieth of that at most. */
static void test_cpu_gives_the_reference_logits(void **state)
{
	(void)state;
	check_reference(&be_cpu, 1e-4);
}

static void test_ref_gives_the_reference_logits(void **state)
{
	(void)state;
	check_reference(&be_ref, 1e-4);
}

/* ---- generation ---- */

static uint32_t argmax(const float *x)
{
	uint32_t best = 0;

	for (uint32_t i = 1; i < VOCAB; i++)
		if (x[i] > x[best])
			best = i;
	return best;
}

static uint32_t ids_of(const struct cJSON *list, uint32_t *id, uint32_t cap)
{
	uint32_t n = 0;

	for (const struct cJSON *j = json_first(list); j; j = json_next(j)) {
		uint64_t v;

		assert_true(n < cap);
		OK(json_uint(j, VOCAB - 1, &v));
		id[n++] = (uint32_t)v;
	}
	return n;
}

/* End tokens are not treated as such in the reference. */
static void continue_greedily(struct llm *l, const struct cJSON *example)
{
	uint32_t id[64], want[64], n, count;
	float logits[VOCAB];

	n = ids_of(json_find(example, "prompt_ids"), id, 64);
	count = ids_of(json_find(example, "ids"), want, 64);
	assert_true(n > 0);
	assert_int_equal(count, 64);
	llm_reset(l);
	OK(llm_prefill(l, id, n, logits, NULL, &err));
	for (uint32_t i = 0; i < count; i++) {
		uint32_t next = argmax(logits);

		assert_int_equal(next, want[i]);
		OK(llm_prefill(l, &next, 1, logits, NULL, &err));
	}
	assert_int_equal(l->used[0], n + count);
}

static void test_greedy_continuations_are_those_of_the_reference(void **state)
{
	struct cJSON *ref;
	struct llm *l = open_tiny(&be_cpu, 1, 0);
	uint32_t examples = 0;

	(void)state;
	OK(json_read_file(TINY "/reference.json", &ref, &err));
	for (const struct cJSON *j = json_first(json_find(ref, "generation"));
	     j; j = json_next(j)) {
		continue_greedily(l, j);
		examples++;
	}
	assert_int_equal(examples, 3);
	json_free(ref);
	close_llm(l);
}

/* ---- ways to run the same tokens ---- */

static void test_any_batch_size_equals_one_by_one(void **state)
{
	static const uint32_t batch[] = { 1, 7, 33, 64, 512 };
	uint32_t id[PROMPT];
	float *want = reference(id), *last = NULL, *got;

	(void)state;
	for (size_t i = 0; i < sizeof(batch) / sizeof(batch[0]); i++) {
		struct llm *l = open_tiny(&be_cpu, 2, batch[i]);

		got = forward(l, id, PROMPT);
		if (last)
			assert_true(worst(last, got,
					  (size_t)PROMPT * VOCAB) <= 1e-4);
		/* prefill: only the last row, in two calls */
		llm_reset(l);
		OK(llm_prefill(l, id, 41, NULL, NULL, &err));
		OK(llm_prefill(l, id + 41, PROMPT - 41, want, NULL, &err));
		assert_true(worst(want, got + (size_t)(PROMPT - 1) * VOCAB,
				  VOCAB) <= 1e-4);
		free(last);
		last = got;
		close_llm(l);
	}
	free(last);
	free(want);
}

static void test_threads_do_not_change_a_bit(void **state)
{
	uint32_t id[PROMPT];
	float *want = reference(id), *one, *two;
	struct llm *a = open_tiny(&be_cpu, 1, 0), *b = open_tiny(&be_cpu, 2, 0);

	(void)state;
	one = forward(a, id, PROMPT);
	two = forward(b, id, PROMPT);
	assert_memory_equal(one, two, (size_t)PROMPT * VOCAB * sizeof(*one));
	for (uint32_t i = 0; i < 8; i++) {
		OK(llm_prefill(a, id + i, 1, one, NULL, &err));
		OK(llm_prefill(b, id + i, 1, two, NULL, &err));
		assert_memory_equal(one, two, VOCAB * sizeof(*one));
	}
	free(want);
	free(one);
	free(two);
	close_llm(a);
	close_llm(b);
}

/* ---- two devices ---- */

/* The last `layers` blocks on `api`, the others on the CPU. */
static struct llm *open_split(const struct be_api *api, uint32_t layers)
{
	const struct be_open how = { .threads = 1, .device = -1 };
	struct llm_open lo = { .dev = { .api = api },
			       .rest = { .api = &be_cpu }, .layers = layers };
	struct model *m;
	struct llm *l;

	OK(lo.dev.api->open(&how, &lo.dev.be, &err));
	OK(lo.rest.api->open(&how, &lo.rest.be, &err));
	OK(model_open(TINY, 0, &m, &err));
	OK(llm_open(m, &lo, &l, &err));
	model_close(m);
	/* the one that got no part is not in l */
	if (l->parts == 1)
		be_cpu.close(l->part[0].dev.be == lo.dev.be ? lo.rest.be :
							      lo.dev.be);
	return l;
}

static void close_split(struct llm *l)
{
	struct rt_dev first = l->part[0].dev, second = l->part[1].dev;
	uint32_t parts = l->parts;

	llm_close(l);
	first.api->close(first.be);
	if (parts == 2)
		second.api->close(second.be);
}

static void test_a_split_of_one_kind_of_device_changes_no_bit(void **state)
{
	static const uint32_t layers[] = { 0, 1, 4, 6, 99 };
	uint32_t id[PROMPT];
	float *want, *got, step[2][VOCAB];
	struct llm *one = open_tiny(&be_cpu, 1, 0);

	(void)state;
	free(reference(id));
	want = forward(one, id, PROMPT);
	OK(llm_prefill(one, id, 1, step[0], NULL, &err));
	for (size_t i = 0; i < sizeof(layers) / sizeof(layers[0]); i++) {
		struct llm *l = open_split(&be_cpu, layers[i]);

		assert_int_equal(l->parts, i == 1 || i == 2 ? 2 : 1);
		assert_int_equal(l->part[0].count, i == 1 ? 5 : i == 2 ? 2 : 6);
		got = forward(l, id, PROMPT);
		assert_memory_equal(want, got,
				    (size_t)PROMPT * VOCAB * sizeof(*got));
		OK(llm_prefill(l, id, 1, step[1], NULL, &err));
		assert_memory_equal(step[0], step[1], sizeof(step[0]));
		assert_int_equal(l->used[0], PROMPT + 1);
		free(got);
		close_split(l);
	}
	free(want);
	close_llm(one);
}

static void test_a_split_over_two_devices_is_near_one(void **state)
{
	struct llm *one = open_tiny(&be_cpu, 1, 0);
	struct llm *two = open_split(&be_ref, 3);
	uint32_t id[PROMPT];
	float *want, *got;

	(void)state;
	free(reference(id));
	want = forward(one, id, 16);
	got = forward(two, id, 16);
	assert_true(worst(want, got, 16 * VOCAB) <= 1e-4);
	free(want);
	free(got);
	close_llm(one);
	close_split(two);
}

/* A device of that many bytes, which it counts down (alignment aside); what is
 * given back does not count. */
static uint64_t small_left, small_said;

static int small_avail(struct be *be, uint64_t *bytes, struct err *e)
{
	(void)be;
	(void)e;
	*bytes = small_said;
	return 0;
}

static int small_alloc(struct be *be, size_t bytes, void **p, struct err *e)
{
	*p = NULL;
	if (bytes > small_left)
		return err_set(e, ERR_RESOURCE, "full");
	small_left -= bytes;
	return be_cpu.alloc(be, bytes, p, e);
}

static void test_as_many_blocks_as_fit(void **state)
{
	struct be_api small = be_cpu;
	struct llm *l;
	uint64_t fixed, block;

	(void)state;
	small.avail = small_avail;
	small.alloc = small_alloc;
	small_left = UINT64_MAX;
	small_said = UINT64_MAX;
	l = open_split(&small, LLM_FIT);
	assert_int_equal(l->parts, 1);
	assert_ptr_equal(l->part[0].dev.api, &small);
	fixed = l->fit.fixed;
	block = l->fit.block;
	/* 4 * 256^2 + 3 * 256 * 768 weights of 2 bytes, 1024 positions */
	assert_int_equal(block, 2 * (4 * 256 * 256 + 3 * 256 * 768) +
			 1024 * 2 * 256 * sizeof(float));
	close_split(l);

	small_said = fixed + 6 * block; /* and no room for the table */
	l = open_split(&small, LLM_FIT);
	assert_int_equal(l->part[0].count, 1);
	assert_int_equal(l->part[1].count, 5);
	close_split(l);
	small_said = fixed + 2 * block + block / 2;
	l = open_split(&small, LLM_FIT);
	assert_int_equal(l->part[1].count, 2);
	close_split(l);
	small_said = fixed / 2;
	l = open_split(&small, LLM_FIT);
	assert_int_equal(l->parts, 1);
	assert_ptr_equal(l->part[0].dev.api, &be_cpu);
	close_split(l);

	/* it promised more than it had */
	small_said = UINT64_MAX;
	small_left = 14u << 20;
	l = open_split(&small, LLM_FIT);
	assert_true(l->fit.layers < 6);
	close_split(l);
}

static void test_a_full_device_is_an_error_where_asked_for(
	void **state)
{
	struct be_api small = be_cpu;
	const struct be_open how = { .threads = 1, .device = -1 };
	struct llm_open lo = { .dev = { .api = &small },
			       .rest = { .api = &be_cpu }, .layers = 4 };
	struct model *m;
	struct llm *l;

	(void)state;
	small.alloc = small_alloc;
	OK(be_cpu.open(&how, &lo.dev.be, &err));
	OK(be_cpu.open(&how, &lo.rest.be, &err));
	OK(model_open(TINY, 0, &m, &err));
	for (uint64_t left = 0; left < 8u << 20; left += 1u << 20) {
		small_left = left;
		assert_int_equal(llm_open(m, &lo, &l, &err), -1);
		assert_int_equal(err.code, ERR_RESOURCE);
		assert_null(l);
	}
	model_close(m);
	be_cpu.close(lo.dev.be);
	be_cpu.close(lo.rest.be);
}

static void test_facts(void **state)
{
	struct llm *l = open_tiny(&be_cpu, 1, 0);

	(void)state;
	assert_string_equal(l->cfg.model_type, "llama");
	assert_string_equal(l->cfg.architecture, "LlamaForCausalLM");
	assert_int_equal(l->context, 1024);
	assert_string_equal(llm_kernel(l), "f16");
	/* 6 blocks of 4 * 256^2 + 3 * 256 * 768 and the head, two bytes each;
	 * 13 norms of 256 as f32 */
	assert_int_equal(llm_weight_bytes(l),
			 2 * (6 * (4 * 256 * 256 + 3 * 256 * 768) +
			      256 * 2048) + 4 * 13 * 256);
	close_llm(l);
}

/* ---- refusals ---- */

static void test_full_context_and_strange_ids_are_refused(void **state)
{
	struct llm *l = open_tiny(&be_cpu, 1, 0);
	uint32_t *id = mem_alloc(1025, sizeof(*id), &err);
	float logits[VOCAB];

	(void)state;
	assert_non_null(id);
	assert_int_equal(llm_prefill(l, id, 1025, logits, NULL, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	OK(llm_prefill(l, id, 1020, NULL, NULL, &err));
	assert_int_equal(llm_prefill(l, id, 5, logits, NULL, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	assert_int_equal(l->used[0], 1020);
	OK(llm_prefill(l, id, 4, logits, NULL, &err));
	llm_reset(l);
	id[3] = VOCAB;
	assert_int_equal(llm_prefill(l, id, 5, logits, NULL, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	assert_int_equal(l->used[0], 0);
	free(id);
	close_llm(l);
}

static int stop_at(void *ctx, const char *what, uint64_t done, uint64_t total)
{
	(void)what;
	(void)total;
	return done == *(const uint64_t *)ctx;
}

static void test_interrupted_loading_releases_everything(void **state)
{
	const struct be_open how = { .threads = 1, .device = -1 };
	uint64_t at = 3;
	const struct progress p = { stop_at, &at };
	struct llm_open lo = { .dev = { .api = &be_cpu }, .progress = &p };
	struct model *m;
	struct llm *l;

	(void)state;
	OK(be_cpu.open(&how, &lo.dev.be, &err));
	OK(model_open(TINY, 0, &m, &err));
	assert_int_equal(llm_open(m, &lo, &l, &err), -1);
	assert_int_equal(err.code, ERR_INTR);
	assert_null(l);
	lo.progress = NULL;
	lo.context = 40 * 1024;
	assert_int_equal(llm_open(m, &lo, &l, &err), -1);
	assert_int_equal(err.code, ERR_USAGE);
	lo.context = 2048; /* beyond what the model was trained for: allowed */
	OK(llm_open(m, &lo, &l, &err));
	assert_int_equal(l->part[0].kv.capacity, 2048);
	llm_close(l);
	model_close(m);
	be_cpu.close(lo.dev.be);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cpu_gives_the_reference_logits),
		cmocka_unit_test(test_ref_gives_the_reference_logits),
		cmocka_unit_test(
			test_greedy_continuations_are_those_of_the_reference),
		cmocka_unit_test(test_any_batch_size_equals_one_by_one),
		cmocka_unit_test(test_threads_do_not_change_a_bit),
		cmocka_unit_test(
			test_a_split_of_one_kind_of_device_changes_no_bit),
		cmocka_unit_test(test_a_split_over_two_devices_is_near_one),
		cmocka_unit_test(test_as_many_blocks_as_fit),
		cmocka_unit_test(
			test_a_full_device_is_an_error_where_asked_for),
		cmocka_unit_test(test_facts),
		cmocka_unit_test(test_full_context_and_strange_ids_are_refused),
		cmocka_unit_test(test_interrupted_loading_releases_everything),
	};

	return cmocka_run_group_tests_name("llm", tests, NULL, NULL);
}
