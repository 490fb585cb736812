/* GGUF files: what is read back of what was written, and one refusal for each
 * rule that a file may break. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/container/gguf.h"
#include "../../libfmt/container/st.h"
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>

/* ---- a file made byte by byte ---- */

struct bytes {
	uint8_t b[8192];
	size_t n;
};

static void put(struct bytes *f, const void *p, size_t n)
{
	assert_true(f->n + n <= sizeof(f->b));
	memcpy(f->b + f->n, p, n);
	f->n += n;
}

static void put32(struct bytes *f, uint32_t v)
{
	uint8_t b[4];

	half_put32(b, v);
	put(f, b, 4);
}

static void put64(struct bytes *f, uint64_t v)
{
	uint8_t b[8];

	half_put64(b, v);
	put(f, b, 8);
}

static void put_text(struct bytes *f, const char *s)
{
	put64(f, strlen(s));
	put(f, s, strlen(s));
}

/* One file of two pairs and two tensors; a case changes one thing. */
struct spec {
	const char *what; /* the message has this */
	int code;
	const char *magic;
	uint32_t version, kv_type, item, type, rank;
	uint64_t tensors, pairs, dim, offset, items, text;
	uint32_t alignment, alignment_type;
	const char *key, *name, *name2;
	size_t key_len;   /* 0: of key */
	size_t cut;       /* bytes taken from the end */
	size_t more;      /* bytes added there */
};

static const struct spec good = {
	.magic = "GGUF", .version = 3, .kv_type = GGUF_ARRAY,
	.item = GGUF_U32, .type = 0, .rank = 2, .tensors = 2, .pairs = 2,
	.dim = 32, .offset = 128, .items = 2, .text = 2, .alignment = 32,
	.alignment_type = GGUF_U32, .key = "some.key", .name = "a.weight",
	.name2 = "b.weight"
};

static void make(const struct spec *s, struct bytes *f)
{
	static const uint8_t zeros[512];

	f->n = 0;
	put(f, s->magic, 4);
	put32(f, s->version);
	put64(f, s->tensors);
	put64(f, s->pairs);
	put_text(f, "general.alignment");
	put32(f, s->alignment_type);
	put32(f, s->alignment);
	put64(f, s->key_len ? s->key_len : strlen(s->key));
	put(f, s->key, strlen(s->key));
	put32(f, s->kv_type);
	if (s->kv_type == GGUF_ARRAY) {
		put32(f, s->item);
		put64(f, s->items);
		if (s->item == GGUF_TEXT) {
			put64(f, s->text);
			put(f, "ab", 2);
			put_text(f, "cd");
		} else {
			put32(f, 7);
			put32(f, 8);
		}
	} else if (s->kv_type == GGUF_TEXT) {
		put64(f, s->text);
		put(f, "ab", 2);
	}
	/* [1][32] of the type, 128 bytes as F32 */
	put_text(f, s->name);
	put32(f, s->rank);
	put64(f, s->dim);
	if (s->rank > 1)
		put64(f, 1);
	put32(f, s->type);
	put64(f, 0);
	/* [3] of f16 */
	put_text(f, s->name2);
	put32(f, 1);
	put64(f, 3);
	put32(f, 1);
	put64(f, s->offset);
	while (f->n % 32)
		put(f, "", 1);
	put(f, zeros, 128 + 6 + s->more);
	f->n -= s->cut;
}

static int open_bytes(struct scratch *dir, const struct bytes *f,
		      unsigned flags, struct src **s, struct gguf_file *g,
		      struct err *err)
{
	const char *path = scratch_write(dir, "x.gguf", f->b, f->n);

	assert_non_null(path);
	assert_int_equal(io_open(path, s, err), 0);
	return gguf_open(*s, flags, g, err);
}

static void test_good(void **state)
{
	struct gguf_file g;
	struct spec s = good;
	struct bytes f;
	struct src *src;
	struct err err;

	for (uint32_t version = 2; version <= 3; version++) {
		s.version = version;
		make(&s, &f);
		assert_int_equal(open_bytes(*state, &f, 0, &src, &g, &err), 0);
		assert_int_equal(g.version, version);
		assert_int_equal(g.count, 2);
		assert_int_equal(g.kv_count, 2);
		assert_string_equal(g.tensor[0].name, "a.weight");
		assert_true(tensor_is_shape(&g.tensor[0], 2, 1, 32));
		assert_int_equal(g.tensor[0].type, DT_F32);
		assert_int_equal(g.tensor[0].size, 128);
		assert_true(tensor_is_shape(&g.tensor[1], 1, 3, 0));
		assert_int_equal(g.tensor[1].offset, g.data_begin + 128);
		assert_non_null(gguf_array(&g, "some.key", GGUF_U32));
		assert_null(gguf_array(&g, "some.key", GGUF_TEXT));
		assert_null(gguf_find(&g, "some.ke"));
		gguf_close(&g);
		io_close(src);
	}
}

/* What differs from `good`; a zero is "not changed". */
static void merge(const struct spec *c, struct spec *s)
{
	*s = good;
#define TAKE(field) if (c->field) s->field = c->field
	TAKE(magic);
	TAKE(version);
	TAKE(kv_type);
	TAKE(item);
	TAKE(type);
	TAKE(rank);
	TAKE(tensors);
	TAKE(pairs);
	TAKE(dim);
	TAKE(offset);
	TAKE(items);
	TAKE(text);
	TAKE(alignment);
	TAKE(alignment_type);
	TAKE(key);
	TAKE(name);
	TAKE(name2);
	TAKE(key_len);
	TAKE(cut);
	TAKE(more);
#undef TAKE
}

static void test_hostile(void **state)
{
	static const struct spec cases[] = {
		{ "not a GGUF", ERR_INPUT, .magic = "GGUE" },
		{ "version 1", ERR_UNSUP, .version = 1 },
		{ "version 4", ERR_UNSUP, .version = 4 },
		{ "big endian", ERR_UNSUP, .version = 0x03000000 },
		{ "pairs do not fit", ERR_INPUT, .pairs = 1000 },
		{ "pairs do not fit", ERR_INPUT, .pairs = UINT64_MAX },
		{ "tensors do not fit", ERR_INPUT, .tensors = 100 },
		{ "tensors do not fit", ERR_INPUT, .tensors = UINT64_MAX },
		{ "a text of", ERR_INPUT, .key_len = UINT64_MAX },
		{ "key that is not", ERR_INPUT, .key = "" },
		{ "key that is not", ERR_INPUT, .key = "a\xff" },
		{ "is there twice", ERR_INPUT, .key = "general.alignment" },
		{ "unknown type 13", ERR_INPUT, .kv_type = 13 },
		{ "arrays", ERR_INPUT, .item = GGUF_ARRAY },
		{ "items of unknown", ERR_INPUT, .item = 99 },
		{ "items do not fit", ERR_INPUT, .items = UINT64_MAX / 2 },
		{ "items do not fit", ERR_INPUT, .items = 1000000 },
		{ "a text of", ERR_INPUT, .item = GGUF_TEXT,
		  .text = UINT64_MAX - 3 },
		{ "a text of", ERR_INPUT, .kv_type = GGUF_TEXT,
		  .text = 1 << 20 },
		{ "general.alignment", ERR_INPUT, .alignment = 24 },
		{ "general.alignment", ERR_INPUT, .alignment_type = GGUF_I32 },
		{ "name that is not", ERR_INPUT, .name = "" },
		{ "name that is not", ERR_INPUT, .name = "0123456789012345678"
		  "901234567890123456789012345678901234567890123" },
		{ "is there twice", ERR_INPUT, .name2 = "a.weight" },
		{ "5 dimensions", ERR_INPUT, .rank = 5 },
		{ "dimension 0", ERR_INPUT, .dim = UINT64_MAX },
		{ "the file ends inside", ERR_INPUT, .dim = 1u << 30 },
		{ "size overflows", ERR_INPUT, .dim = INT64_MAX },
		{ "type 31", ERR_UNSUP, .type = 31 },
		{ "type 4000", ERR_UNSUP, .type = 4000 },
		{ "whole blocks of 256", ERR_INPUT, .type = 12 },
		{ "whole blocks of 32", ERR_INPUT, .type = 2, .dim = 33 },
		{ "its data begins", ERR_INPUT, .offset = 160 },
		{ "its data begins", ERR_INPUT, .offset = UINT64_MAX },
		{ "ends inside its data", ERR_INPUT, .alignment = 256 },
		{ "ends inside its data", ERR_INPUT, .cut = 1 },
		{ "ends inside its data", ERR_INPUT, .cut = 135 },
		{ "behind the last", ERR_INPUT, .more = 100 },
	};
	struct gguf_file g;
	struct bytes f;
	struct src *src;
	struct spec s;
	struct err err;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		merge(&cases[i], &s);
		make(&s, &f);
		assert_int_equal(open_bytes(*state, &f, 0, &src, &g, &err),
				 -1);
		if (err.code != cases[i].code ||
		    !strstr(err.msg, cases[i].what))
			fail_msg("case %zu: %d %s", i, err.code, err.msg);
		assert_null(g.tensor);
		io_close(src);
	}
}

/* Every shorter file is refused, none is read beyond its end. */
static void test_cut(void **state)
{
	struct gguf_file g;
	struct bytes f;
	struct src *src;
	struct err err;
	size_t n;

	make(&good, &f);
	n = f.n;
	for (f.n = 0; f.n < n; f.n++) {
		assert_int_equal(open_bytes(*state, &f, 0, &src, &g, &err),
				 -1);
		assert_int_equal(err.code, ERR_INPUT);
		io_close(src);
	}
}

static void test_trailing(void **state)
{
	struct spec s = good;
	struct gguf_file g;
	struct bytes f;
	struct src *src;
	struct err err;

	s.more = 26; /* to the next multiple of 32: that is padding */
	make(&s, &f);
	assert_int_equal(open_bytes(*state, &f, 0, &src, &g, &err), 0);
	assert_int_equal(g.odd, 0);
	gguf_close(&g);
	io_close(src);
	s.more = 27;
	make(&s, &f);
	assert_int_equal(open_bytes(*state, &f, ST_LENIENT, &src, &g, &err),
			 0);
	assert_int_equal(g.odd, ST_ODD_TRAILING);
	gguf_close(&g);
	io_close(src);
}

/* ---- what was written is read ---- */

static void fill(struct gguf_meta *m)
{
	gguf_put_u32(m, "u32", UINT32_MAX);
	gguf_put_i32(m, "i32", -5);
	gguf_put_f32(m, "f32", 0.5);
	gguf_put_bool(m, "yes", true);
	gguf_put_text(m, "text", "a\0b", 3);
	gguf_put_array(m, "texts", GGUF_TEXT, 2);
	gguf_add_text(m, "one", 3);
	gguf_add_text(m, "", 0);
	gguf_put_array(m, "numbers", GGUF_F32, 2);
	gguf_add_f32(m, 1);
	gguf_add_f32(m, -2);
}

static void check_pairs(const struct gguf_file *g)
{
	struct gguf_texts it;
	const char *text;
	uint64_t u = 1;
	double d = 0;
	bool b = false;
	size_t n;

	assert_int_equal(g->kv_count, 7);
	assert_true(gguf_uint(g, "u32", UINT32_MAX, &u) && u == UINT32_MAX);
	assert_false(gguf_uint(g, "u32", 5, &u));
	assert_false(gguf_uint(g, "i32", UINT64_MAX, &u));
	assert_false(gguf_uint(g, "f32", UINT64_MAX, &u));
	assert_true(gguf_real(g, "f32", &d) && d > 0.49 && d < 0.51);
	assert_true(gguf_real(g, "u32", &d) && d > 4e9);
	assert_true(gguf_bool(g, "yes", &b) && b);
	assert_true(gguf_text(g, "text", &text, &n));
	assert_int_equal(n, 3);
	assert_memory_equal(text, "a\0b", 3);
	assert_false(gguf_is_text(g, "text", "a"));
	it = gguf_texts(gguf_array(g, "texts", GGUF_TEXT));
	assert_true(gguf_texts_next(&it, &text, &n));
	assert_true(n == 3 && !memcmp(text, "one", 3));
	assert_true(gguf_texts_next(&it, &text, &n));
	assert_int_equal(n, 0);
	assert_false(gguf_texts_next(&it, &text, &n));
	assert_int_equal(half_le32((const uint8_t *)gguf_array(g, "numbers",
				   GGUF_F32)->data + 4), 0xc0000000);
}

static void test_write(void **state)
{
	static const uint8_t data[36] = { 1, 2, 3 };
	const char *path = scratch_path(*state, "w.gguf");
	const uint64_t q4[2] = { 2, 32 }, v[1] = { 3 };
	struct gguf_meta m = { 0 };
	struct st_writer *w;
	struct gguf_file g;
	struct src *src;
	uint32_t a, b;
	struct err err;

	fill(&m);
	assert_int_equal(st_writer_new(&w, &err), 0);
	assert_int_equal(st_writer_add(w, "q", DT_Q4_0, 2, q4, &a, &err), 0);
	assert_int_equal(st_writer_add(w, "v", DT_F32, 1, v, &b, &err), 0);
	assert_int_equal(gguf_create(w, path, &m, &err), 0);
	gguf_meta_release(&m);
	assert_int_equal(st_writer_pour(w, b, 0, data, 12, &err), 0);
	assert_int_equal(st_writer_commit(w, &err), -1);
	assert_int_equal(st_writer_pour(w, a, 0, data, 36, &err), 0);
	assert_int_equal(st_writer_commit(w, &err), 0);
	st_writer_free(w);
	assert_int_equal(io_open(path, &src, &err), 0);
	assert_int_equal(gguf_open(src, 0, &g, &err), 0);
	check_pairs(&g);
	assert_int_equal(g.tensor[0].type, DT_Q4_0);
	assert_true(tensor_is_shape(&g.tensor[0], 2, 2, 32));
	assert_memory_equal(g.tensor[0].data, data, 36);
	assert_memory_equal(g.tensor[1].data, data, 12);
	gguf_close(&g);
	io_close(src);
}

static void test_write_refuses(void **state)
{
	const char *path = scratch_path(*state, "n.gguf");
	const uint64_t odd[2] = { 2, 31 }, five[5] = { 1, 1, 1, 1, 1 };
	char name[65];
	struct gguf_meta m = { 0 };
	struct st_writer *w;
	uint32_t id;
	struct err err;

	memset(name, 'x', 64);
	name[64] = '\0';
	assert_int_equal(st_writer_new(&w, &err), 0);
	assert_int_equal(st_writer_add(w, "q", DT_Q4_0, 2, odd, &id, &err),
			 -1);
	for (int i = 0; i < 3; i++) {
		st_writer_free(w);
		assert_int_equal(st_writer_new(&w, &err), 0);
		assert_int_equal(st_writer_add(w, i == 0 ? name : "x",
					       i == 2 ? DT_U64 : DT_F32,
					       i == 1 ? 5 : 1, five, &id,
					       &err), 0);
		assert_int_equal(gguf_create(w, path, &m, &err), -1);
		assert_int_equal(err.code, ERR_UNSUP);
	}
	st_writer_free(w);
	/* and safetensors has no blocks */
	assert_int_equal(st_writer_new(&w, &err), 0);
	assert_int_equal(st_writer_add(w, "q", DT_Q8_0, 2,
				       (const uint64_t[2]){ 1, 32 }, &id,
				       &err), 0);
	assert_int_equal(st_writer_create_file(w, path, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	st_writer_free(w);
}

/* The rows of a head that are turned together stand side by side. */
static void test_turned(void **state)
{
	static const uint32_t want[8] = { 0, 2, 4, 6, 1, 3, 5, 7 };
	float v[16], out[16];
	struct tensor t = { .type = DT_F32, .rank = 1, .dim = { 16 },
			    .data = v, .size = sizeof(v), .turned = 8 };

	(void)state;
	for (uint32_t i = 0; i < 16; i++) {
		assert_int_equal(tensor_turned_row(i, 8),
				 i / 8 * 8 + want[i % 8]);
		v[tensor_turned_row(i, 8)] = (float)i;
	}
	assert_int_equal(tensor_load_f32(&t, 3, 10, out), 0);
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal((int)out[i], i + 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_good, scratch_open,
						scratch_close),
		cmocka_unit_test_setup_teardown(test_hostile, scratch_open,
						scratch_close),
		cmocka_unit_test_setup_teardown(test_cut, scratch_open,
						scratch_close),
		cmocka_unit_test_setup_teardown(test_trailing, scratch_open,
						scratch_close),
		cmocka_unit_test_setup_teardown(test_write, scratch_open,
						scratch_close),
		cmocka_unit_test_setup_teardown(test_write_refuses,
						scratch_open, scratch_close),
		cmocka_unit_test(test_turned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
