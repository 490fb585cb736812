/* The safetensors writer: byte-equal to the reference writer, every byte
 * accounted for. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/base/json.h"
#include "../../libfmt/container/st.h"
#include "has.h"
#include "scratch.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define OK(call)                                                       \
	do {                                                           \
		if (call)                                              \
			fail_msg("%s: %s", #call, err.msg);            \
	} while (0)

static uint32_t add(struct st_writer *w, const char *name, enum dtype type,
		    uint64_t d0, uint64_t d1)
{
	const uint64_t dim[2] = { d0, d1 };
	uint32_t id = UINT32_MAX;
	struct err err;

	OK(st_writer_add(w, name, type, d1 ? 2 : 1, dim, &id, &err));
	return id;
}

static void pour(struct st_writer *w, uint32_t id, const char *text)
{
	struct err err;

	OK(st_writer_pour(w, id, 0, text, strlen(text), &err));
}

static void same_bytes(const char *a, const char *b)
{
	struct err err;
	char *pa, *pb;
	size_t na, nb;

	OK(io_read_file(a, 1 << 28, &pa, &na, &err));
	OK(io_read_file(b, 1 << 28, &pb, &nb, &err));
	if (na != nb || memcmp(pa, pb, na))
		fail_msg("%s and %s differ", a, b);
	free(pa);
	free(pb);
}

/* ---- against the reference writer ---- */

/* What the reference does: serialize() of safetensors/src/tensor.rs sorts by
 * falling Dtype (its enum's order), then by name. */
static int in_order(const struct st_file *f)
{
	for (uint32_t i = 1; i < f->count; i++) {
		const struct tensor *a = &f->tensor[i - 1];
		const struct tensor *b = &f->tensor[i];

		if (a->type < b->type ||
		    (a->type == b->type && strcmp(a->name, b->name) >= 0))
			return 0;
	}
	return 1;
}

static void same_tensors(const struct st_file *f, const char *path)
{
	struct st_file g;
	struct src *src;
	struct err err;

	OK(io_open(path, &src, &err));
	OK(st_open(src, 0, &g, &err));
	assert_int_equal(g.count, f->count);
	assert_true(in_order(&g));
	for (uint32_t i = 0; i < f->count; i++) {
		const struct tensor *a = &f->tensor[i];
		uint32_t k = 0;

		while (k < g.count && strcmp(g.tensor[k].name, a->name))
			k++;
		assert_true(k < g.count);
		assert_int_equal(g.tensor[k].type, a->type);
		assert_int_equal(g.tensor[k].rank, a->rank);
		assert_memory_equal(g.tensor[k].dim, a->dim, sizeof(a->dim));
		assert_int_equal(g.tensor[k].size, a->size);
		assert_memory_equal(g.tensor[k].data, a->data, a->size);
	}
	st_close(&g);
	io_close(src);
}

/* Read a file and write it anew, half of the tensors by pour, half by copy,
 * planned in a different order.  1 when the bytes of the file were compared:
 * those that sort types of one width together by name alone, or carry no
 * metadata, can only be compared tensor by tensor. */
static int rewrite(struct scratch *s, const char *path)
{
	const char *out = scratch_path(s, "out.safetensors");
	struct st_writer *w;
	struct st_file f;
	struct src *src;
	struct err err;
	uint32_t *id;
	int usual;

	OK(io_open(path, &src, &err));
	OK(st_open(src, 0, &f, &err));
	usual = json_count(f.meta) == 1 && !f.odd && in_order(&f);
	OK(st_writer_new(&w, &err));
	id = calloc(f.count + 1, sizeof(*id));
	assert_non_null(id);
	for (uint32_t i = f.count; i-- > 0;) {
		const struct tensor *t = &f.tensor[i];

		OK(st_writer_add(w, t->name, t->type, t->rank, t->dim, &id[i],
				 &err));
	}
	OK(st_writer_create_file(w, out, &err));
	for (uint32_t i = 0; i < f.count; i++) {
		const struct tensor *t = &f.tensor[i];

		if (i % 2)
			OK(st_writer_copy(w, id[i], src, t->offset, &err));
		else
			OK(st_writer_pour(w, id[i], 0, t->data, t->size, &err));
	}
	OK(st_writer_commit(w, &err));
	same_tensors(&f, out);
	if (usual)
		same_bytes(path, out);
	st_writer_free(w);
	free(id);
	st_close(&f);
	io_close(src);
	return usual;
}

static int rewrite_below(struct scratch *s, const char *dir, int depth)
{
	struct err err;
	char **names;
	uint32_t n;
	int done = 0;

	OK(io_list(dir, &names, &n, &err));
	for (uint32_t i = 0; i < n; i++) {
		char *path = io_join(dir, names[i], &err);
		const char *dot = strrchr(names[i], '.');

		assert_non_null(path);
		if (io_is_dir(path) && depth && strcmp(names[i], "malformed"))
			done += rewrite_below(s, path, depth - 1);
		else if (dot && !strcmp(dot, ".safetensors"))
			done += rewrite(s, path);
		free(path);
	}
	free(names);
	return done;
}

static void test_as_the_reference_writes(void **state)
{
	assert_true(rewrite_below(*state, "tests/golden", 3) >= 260);
	assert_int_equal(rewrite_below(*state, "tests/models/tiny", 0), 1);
}

static void test_header_text(void **state)
{
	static const char want[] =
		"{\"__metadata__\":{\"format\":\"pt\",\"gptq_bits\":\"4\"},"
		"\"z\":{\"dtype\":\"I64\",\"shape\":[1],"
		"\"data_offsets\":[0,8]},"
		"\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
		"\"data_offsets\":[8,12]},"
		"\"b\":{\"dtype\":\"F32\",\"shape\":[0,2],"
		"\"data_offsets\":[12,12]},"
		"\"q\\\"\\\\/\\n\\u0001\xc3\xa9\":{\"dtype\":\"U8\","
		"\"shape\":[],\"data_offsets\":[12,13]}}";
	struct scratch *s = *state;
	const char *path = scratch_path(s, "m.safetensors");
	const uint64_t empty[2] = { 0, 2 };
	struct st_writer *w;
	struct err err;
	uint32_t q, b, z, a;
	char *text;
	size_t n;

	OK(st_writer_new(&w, &err));
	OK(st_writer_add(w, "q\"\\/\n\1\xc3\xa9", DT_U8, 0, NULL, &q, &err));
	OK(st_writer_add(w, "b", DT_F32, 2, empty, &b, &err));
	z = add(w, "z", DT_I64, 1, 0);
	a = add(w, "a", DT_F32, 1, 0);
	assert_int_equal(q, 0);
	assert_int_equal(a, 3);
	OK(st_writer_meta(w, "gptq_bits", "8", &err));
	OK(st_writer_meta(w, "gptq_bits", "4", &err)); /* replaced */
	OK(st_writer_create_file(w, path, &err));
	assert_int_equal(st_writer_bytes(w), 13);
	assert_int_equal(st_writer_shards(w), 1);
	pour(w, q, "Q");
	pour(w, a, "AAAA");
	pour(w, z, "ZZZZZZZZ");
	OK(st_writer_commit(w, &err));
	st_writer_free(w);
	OK(io_read_file(path, 1 << 20, &text, &n, &err));
	assert_int_equal(half_le64(text) % 8, 0);
	assert_true(half_le64(text) < sizeof(want) - 1 + 8);
	assert_memory_equal(text + 8, want, sizeof(want) - 1);
	for (size_t i = 8 + sizeof(want) - 1; i < 8 + half_le64(text); i++)
		assert_int_equal(text[i], ' ');
	assert_string_equal(text + 8 + half_le64(text), "ZZZZZZZZAAAAQ");
	free(text);
}

/* ---- shards ---- */

static void shard_has(struct scratch *s, const char *name, const char *first,
		      uint32_t count)
{
	struct st_file f;
	struct src *src;
	struct err err;

	OK(io_open(scratch_path(s, name), &src, &err));
	OK(st_open(src, 0, &f, &err));
	assert_int_equal(f.count, count);
	assert_string_equal(f.tensor[0].name, first);
	st_close(&f);
	io_close(src);
}

static void test_shards(void **state)
{
	struct scratch *s = *state;
	struct st_writer *w;
	struct err err;
	char *text;
	size_t n;

	OK(st_writer_new(&w, &err));
	add(w, "d", DT_U8, 4, 0);
	add(w, "c", DT_U8, 4, 0);
	add(w, "b", DT_U8, 1, 0);  /* does not fit any more */
	add(w, "big", DT_U8, 9, 0); /* larger than a shard */
	add(w, "a", DT_U8, 8, 0);
	OK(st_writer_create(w, s->dir, 8, &err));
	assert_int_equal(st_writer_shards(w), 4);
	pour(w, 0, "dddd");
	pour(w, 1, "cccc");
	pour(w, 2, "b");
	pour(w, 3, "bigbigbig");
	pour(w, 4, "aaaaaaaa");
	OK(st_writer_commit(w, &err));
	st_writer_free(w);
	shard_has(s, "model-00001-of-00004.safetensors", "c", 2);
	shard_has(s, "model-00002-of-00004.safetensors", "b", 1);
	shard_has(s, "model-00003-of-00004.safetensors", "big", 1);
	shard_has(s, "model-00004-of-00004.safetensors", "a", 1);
	OK(io_read_file(scratch_path(s, "model.safetensors.index.json"),
			1 << 20, &text, &n, &err));
	assert_string_equal(text,
		"{\n  \"metadata\": {\n    \"total_size\": 26\n  },\n"
		"  \"weight_map\": {\n"
		"    \"a\": \"model-00004-of-00004.safetensors\",\n"
		"    \"b\": \"model-00002-of-00004.safetensors\",\n"
		"    \"big\": \"model-00003-of-00004.safetensors\",\n"
		"    \"c\": \"model-00001-of-00004.safetensors\",\n"
		"    \"d\": \"model-00001-of-00004.safetensors\"\n  }\n}\n");
	free(text);
	assert_int_equal(scratch_count(s->dir), 5);
}

static void test_one_file_has_no_index(void **state)
{
	struct scratch *s = *state;
	struct st_writer *w;
	struct err err;

	for (uint64_t size = 0; size <= 8; size += 8) {
		OK(st_writer_new(&w, &err));
		add(w, "d", DT_U8, 4, 0);
		add(w, "c", DT_U8, 4, 0);
		OK(st_writer_create(w, s->dir, size, &err));
		pour(w, 0, "dddd");
		pour(w, 1, "cccc");
		OK(st_writer_commit(w, &err));
		st_writer_free(w);
		shard_has(s, "model.safetensors", "c", 2);
		assert_int_equal(scratch_count(s->dir), 1);
	}
}

static void test_no_tensors(void **state)
{
	struct scratch *s = *state;
	struct st_writer *w;
	struct st_file f;
	struct src *src;
	struct err err;

	OK(st_writer_new(&w, &err));
	OK(st_writer_create(w, s->dir, 100, &err));
	OK(st_writer_commit(w, &err));
	st_writer_free(w);
	OK(io_open(scratch_path(s, "model.safetensors"), &src, &err));
	OK(st_open(src, 0, &f, &err));
	assert_int_equal(f.count, 0);
	assert_int_equal(f.odd, 0);
	st_close(&f);
	io_close(src);
}

static void test_many_tensors(void **state)
{
	enum { COUNT = 100000 };
	struct scratch *s = *state;
	const struct cJSON *map;
	struct st_writer *w;
	struct cJSON *index;
	struct err err;
	char name[32];

	OK(st_writer_new(&w, &err));
	for (int i = 0; i < COUNT; i++) {
		snprintf(name, sizeof(name), "t%d", COUNT - i);
		add(w, name, i % 2 ? DT_U8 : DT_I8, 1, 0);
	}
	OK(st_writer_create(w, s->dir, COUNT / 3, &err));
	assert_int_equal(st_writer_shards(w), 4);
	for (uint32_t i = 0; i < COUNT; i++)
		OK(st_writer_pour(w, i, 0, "x", 1, &err));
	OK(st_writer_commit(w, &err));
	st_writer_free(w);
	OK(json_read_file(scratch_path(s, "model.safetensors.index.json"),
			  &index, &err));
	map = json_find(index, "weight_map");
	assert_int_equal(json_count(map), COUNT);
	assert_string_equal(json_text(json_find(map, "t1")),
			    "model-00004-of-00004.safetensors");
	json_free(index);
}

/* ---- the accounts ---- */

static void test_every_byte_must_come(void **state)
{
	struct scratch *s = *state;
	const char *path = scratch_path(s, "m");
	struct st_writer *w;
	struct err err;
	uint32_t a, b;

	OK(st_writer_new(&w, &err));
	a = add(w, "a", DT_F16, 2, 2);
	b = add(w, "b", DT_F16, 2, 2);
	assert_int_equal(st_writer_commit(w, &err), -1);
	assert_int_equal(st_writer_pour(w, a, 0, "x", 1, &err), -1);
	OK(st_writer_create_file(w, path, &err));
	pour(w, a, "aaaaaaaa");
	assert_int_equal(st_writer_commit(w, &err), -1);
	assert_int_equal(err.code, ERR_OUTPUT);
	HAS(err, "tensor \"b\": 0 of 8 bytes were written");
	OK(st_writer_pour(w, b, 3, "bbbbb", 5, &err));
	assert_int_equal(st_writer_commit(w, &err), -1);
	HAS(err, "5 of 8 bytes");
	OK(st_writer_pour(w, b, 0, "bbb", 3, &err));
	OK(st_writer_commit(w, &err));
	assert_int_equal(st_writer_commit(w, &err), -1);
	assert_int_equal(st_writer_pour(w, a, 0, "", 0, &err), -1);
	st_writer_free(w);
	st_writer_free(NULL);
}

static void test_pours_are_checked(void **state)
{
	struct scratch *s = *state;
	struct st_writer *w;
	struct src *src;
	struct err err;
	uint32_t a;

	OK(st_writer_new(&w, &err));
	a = add(w, "a", DT_U8, 8, 0);
	add(w, "b", DT_U8, 8, 0);
	OK(st_writer_create_file(w, scratch_path(s, "m"), &err));
	assert_int_equal(st_writer_pour(w, 2, 0, "x", 1, &err), -1);
	HAS(err, "not planned");
	assert_int_equal(st_writer_pour(w, a, 0, "123456789", 9, &err), -1);
	HAS(err, "do not fit");
	assert_int_equal(st_writer_pour(w, a, 8, "1", 1, &err), -1);
	assert_int_equal(st_writer_pour(w, a, UINT64_MAX, "1", 2, &err), -1);
	assert_int_equal(st_writer_pour(w, a, 2, "1", UINT64_MAX, &err), -1);
	OK(st_writer_pour(w, a, 8, "", 0, &err));
	pour(w, a, "12345678");
	assert_int_equal(st_writer_pour(w, a, 3, "1", 1, &err), -1);
	assert_int_equal(err.code, ERR_OUTPUT);
	HAS(err, "poured twice");
	/* a source that is too short */
	OK(io_open(scratch_write(s, "src", "1234567890", 10), &src, &err));
	assert_int_equal(st_writer_copy(w, 1, src, 3, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	assert_int_equal(st_writer_copy(w, 2, src, 0, &err), -1);
	io_close(src);
	st_writer_free(w);
}

enum { THREADS = 8, PIECES = 4096, PIECE = 16 };

struct job {
	struct st_writer *w;
	int n, failed;
};

static void *work(void *ctx)
{
	struct job *j = ctx;
	struct err err;
	char data[PIECE];

	for (int i = j->n; i < PIECES; i += THREADS) {
		for (int k = 0; k < PIECE; k++)
			data[k] = (char)(i * 7 + k);
		for (uint32_t t = 0; t < 3; t++)
			if (st_writer_pour(j->w, t, (uint64_t)i * PIECE, data,
					   PIECE, &err))
				j->failed++;
	}
	return NULL;
}

static void test_threads(void **state)
{
	struct scratch *s = *state;
	struct job job[THREADS];
	pthread_t thread[THREADS];
	struct st_writer *w;
	struct st_file f;
	struct src *src;
	struct err err;

	OK(st_writer_new(&w, &err));
	add(w, "a", DT_U8, PIECES, PIECE);
	add(w, "b", DT_U8, PIECES, PIECE);
	add(w, "c", DT_U8, PIECES, PIECE);
	OK(st_writer_create(w, s->dir, 2 * PIECES * PIECE, &err));
	for (int i = 0; i < THREADS; i++) {
		job[i] = (struct job){ w, i, 0 };
		assert_int_equal(pthread_create(&thread[i], NULL, work,
						&job[i]), 0);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(thread[i], NULL);
		assert_int_equal(job[i].failed, 0);
	}
	OK(st_writer_commit(w, &err));
	st_writer_free(w);
	OK(io_open(scratch_path(s, "model-00001-of-00002.safetensors"), &src,
		   &err));
	OK(st_open(src, 0, &f, &err));
	for (uint32_t t = 0; t < 2; t++) {
		const char *p = f.tensor[t].data;

		for (int i = 0; i < PIECES; i++)
			for (int k = 0; k < PIECE; k++)
				assert_int_equal(p[i * PIECE + k],
						 (char)(i * 7 + k));
	}
	st_close(&f);
	io_close(src);
}

/* ---- refusals ---- */

static void test_plans_are_checked(void **state)
{
	struct scratch *s = *state;
	const uint64_t odd[1] = { 7 }, big[2] = { 1u << 31, 1u << 31 };
	const uint64_t nine[9] = { 1, 1, 1, 1, 1, 1, 1, 1, 1 };
	const uint64_t wrap[4] = { 0, 1u << 31, 1u << 31, 1u << 31 };
	struct st_writer *w;
	struct err err;
	uint32_t id;

	OK(st_writer_new(&w, &err));
	assert_int_equal(st_writer_add(w, "a", DT_F4, 1, odd, &id, &err), -1);
	HAS(err, "tensor \"a\": shape is not a whole number of bytes");
	assert_int_equal(st_writer_add(w, "a", DT_U8, 9, nine, &id, &err), -1);
	HAS(err, "rank");
	assert_int_equal(st_writer_add(w, "a", DT_U8, -1, nine, &id, &err), -1);
	assert_int_equal(st_writer_add(w, "a", DT_NONE, 1, odd, &id, &err), -1);
	HAS(err, "unknown element type");
	assert_int_equal(st_writer_add(w, "a", DT_F32, 2, big, &id, &err), -1);
	assert_int_equal(st_writer_add(w, "a", DT_F32, 4, wrap, &id, &err), -1);
	HAS(err, "overflows");
	assert_int_equal(st_writer_add(w, "\xff", DT_U8, 1, odd, &id, &err),
			 -1);
	HAS(err, "not UTF-8");
	assert_int_equal(st_writer_add(w, "__metadata__", DT_U8, 1, odd, &id,
				       &err), -1);
	assert_int_equal(st_writer_meta(w, "k", "\xff", &err), -1);
	OK(st_writer_meta(w, "k", "__metadata__", &err));
	/* none of them has left anything in the plan */
	assert_int_equal(st_writer_bytes(w), 0);
	assert_int_equal(add(w, "a", DT_U8, 1, 0), 0);
	add(w, "b", DT_U8, 1, 0);
	add(w, "a", DT_I8, 1, 0);
	assert_int_equal(st_writer_create(w, s->dir, 0, &err), -1);
	HAS(err, "tensor \"a\" is planned twice");
	assert_int_equal(scratch_count(s->dir), 0);
	assert_int_equal(st_writer_create(w, s->dir, 0, &err), -1);
	assert_int_equal(st_writer_add(w, "c", DT_U8, 1, odd, &id, &err), -1);
	HAS(err, "too late");
	st_writer_free(w);
}

/* A plan of 4 PiB: refused with both numbers before anything is created. */
static void test_too_little_space(void **state)
{
	struct scratch *s = *state;
	struct st_writer *w;
	struct err err;

	OK(st_writer_new(&w, &err));
	add(w, "a", DT_U8, UINT64_C(1) << 52, 0);
	assert_int_equal(st_writer_create(w, s->dir, 0, &err), -1);
	assert_int_equal(err.code, ERR_RESOURCE);
	HAS(err, "not enough disk space: 45035996273");
	HAS(err, " are available");
	assert_int_equal(scratch_count(s->dir), 0);
	st_writer_free(w);
}

static void test_output_that_cannot_be(void **state)
{
	struct scratch *s = *state;
	struct st_writer *w;
	struct err err;

	OK(st_writer_new(&w, &err));
	add(w, "a", DT_U8, 1, 0);
	assert_int_equal(st_writer_create(w, scratch_path(s, "none"), 0, &err),
			 -1);
	assert_int_equal(err.code, ERR_OUTPUT);
	HAS(err, "none/model.safetensors: cannot create");
	st_writer_free(w);
}

/* The whole way: a stage, a writer, a rename. */
static void test_through_a_stage(void **state)
{
	struct scratch *s = *state;
	struct io_stage *st;
	struct st_writer *w;
	struct err err;

	OK(io_stage_open(scratch_path(s, "out"), true, false, &st, &err));
	OK(st_writer_new(&w, &err));
	add(w, "a", DT_U8, 1, 0);
	OK(st_writer_create(w, io_stage_path(st), 0, &err));
	pour(w, 0, "x");
	OK(st_writer_commit(w, &err));
	st_writer_free(w);
	OK(io_stage_commit(st, &err));
	io_stage_close(st);
	shard_has(s, "out/model.safetensors", "a", 1);
	OK(io_stage_open(scratch_path(s, "one.safetensors"), false, false, &st,
			 &err));
	OK(st_writer_new(&w, &err));
	add(w, "b", DT_U8, 1, 0);
	OK(st_writer_create_file(w, io_stage_path(st), &err));
	pour(w, 0, "x");
	OK(st_writer_commit(w, &err));
	st_writer_free(w);
	OK(io_stage_commit(st, &err));
	io_stage_close(st);
	shard_has(s, "one.safetensors", "b", 1);
	assert_int_equal(scratch_count(s->dir), 2);
}

#define OWN(test) \
	cmocka_unit_test_setup_teardown(test, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		OWN(test_as_the_reference_writes),
		OWN(test_header_text),
		OWN(test_shards),
		OWN(test_one_file_has_no_index),
		OWN(test_no_tensors),
		OWN(test_many_tensors),
		OWN(test_every_byte_must_come),
		OWN(test_pours_are_checked),
		OWN(test_threads),
		OWN(test_plans_are_checked),
		OWN(test_too_little_space),
		OWN(test_output_that_cannot_be),
		OWN(test_through_a_stage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
