/* The safetensors reader: what is accepted, what is refused and why. */
#include "../../libfmt/base/json.h"
#include "header.h"

#define MALFORMED "tests/golden/malformed/"

/* ---- the collected files ---- */

static void test_collected_files(void **state)
{
	int refusals = 0, opened = 0;
	struct err err;
	char **names;
	uint32_t n;

	(void)state;
	assert_int_equal(io_list(MALFORMED, &names, &n, &err), 0);
	for (uint32_t i = 0; i < n; i++) {
		struct src *s;
		struct st_file f;
		char path[256];
		int bad;

		snprintf(path, sizeof(path), MALFORMED "%s/model.safetensors",
			 names[i]);
		bad = open_path(path, 0, &s, &f, &err);
		if (!bad) {
			st_close(&f);
			assert_null(f.mem);
			io_close(s);
		}
		if (!strncmp(names[i], "odd_", 4))
			continue; /* one clean answer or the other */
		if (bad != (strncmp(names[i], "bad_", 4) ? 0 : -1))
			fail_msg("%s: %s", names[i], bad ? err.msg : "opened");
		refusals += bad != 0;
		opened += bad == 0;
	}
	free(names);
	assert_true(refusals >= 43);
	assert_true(opened >= 31);
}

static void test_collected_reasons(void **state)
{
	static const char *const row[][2] = {
		{ "bad_deep_nesting", "nested too deeply" },
		{ "bad_dtype_size", "needs 12 bytes, but data_offsets span" },
		{ "bad_dtype_unknown", "tensor \"a\": unknown dtype F33" },
		{ "bad_duplicate_key", "\"data_offsets\" appears twice" },
		{ "bad_duplicate_name", "\"a\" appears twice" },
		{ "bad_empty_file", "0 bytes are too few" },
		{ "bad_hole_middle", "8 bytes in front of tensor \"b\"" },
		{ "bad_json_trailing_garbage", "behind the value" },
		{ "bad_leading_space", "begins with 8 bytes of white space" },
		{ "bad_length_all_ff", "is above 100000000" },
		{ "bad_length_beyond_file", "of the header are missing" },
		{ "bad_metadata_not_string", "\"format\" is not a string" },
		{ "bad_missing_dtype", "lacks dtype" },
		{ "bad_missing_offsets", "lacks data_offsets" },
		{ "bad_non_utf8", "not UTF-8" },
		{ "bad_offset_past_file", "truncated: 4 bytes are missing" },
		{ "bad_offset_reversed", "end before they begin" },
		{ "bad_offset_three", "not an array of two" },
		{ "bad_overlap", "begins at 20, inside \"a\"" },
		{ "bad_padding_nul", "behind the value" },
		{ "bad_shape_negative", "not an unsigned integer" },
		{ "bad_shape_overflow_zero", "overflows" },
		{ "bad_trailing_bytes", "behind the last tensor" },
		{ "odd_many_dims", "more than 8 dimensions" },
		{ "odd_nul_in_name", "u0000" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		struct src *s;
		struct st_file f;
		struct err err;
		char path[256];

		snprintf(path, sizeof(path), MALFORMED "%s/model.safetensors",
			 row[i][0]);
		assert_int_equal(open_path(path, 0, &s, &f, &err), -1);
		HAS(err, row[i][1]);
	}
}

/* Holes, trailing bytes and blanks in front are read on over where asked;
 * nothing else is. */
static void test_lenient(void **state)
{
	static const struct {
		const char *name;
		uint32_t odd;
	} row[] = {
		{ "bad_hole_middle", ST_ODD_HOLE },
		{ "bad_hole_start", ST_ODD_HOLE },
		{ "bad_leading_space", ST_ODD_BLANKS },
		{ "bad_trailing_bytes", ST_ODD_TRAILING },
		{ "ok_control", 0 },
	};
	struct err err;
	struct st_file f;
	struct src *s;
	char **names, path[256];
	uint32_t n, tolerated = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		snprintf(path, sizeof(path), MALFORMED "%s/model.safetensors",
			 row[i].name);
		assert_int_equal(open_path(path, ST_LENIENT, &s, &f, &err), 0);
		assert_int_equal(f.odd & ~(uint32_t)ST_ODD_NO_FORMAT,
				 row[i].odd);
		st_close(&f);
		io_close(s);
	}
	assert_int_equal(io_list(MALFORMED, &names, &n, &err), 0);
	for (uint32_t i = 0; i < n; i++) {
		if (strncmp(names[i], "bad_", 4))
			continue;
		snprintf(path, sizeof(path), MALFORMED "%s/model.safetensors",
			 names[i]);
		if (open_path(path, ST_LENIENT, &s, &f, &err))
			continue;
		tolerated++;
		st_close(&f);
		io_close(s);
	}
	free(names);
	assert_int_equal(tolerated, 4);
}

/* ---- what the reader says about good files ---- */

static void test_fields(void **state)
{
	const char *path = make(*state,
		"{\"__metadata__\":{\"format\":\"pt\",\"k\":\"v\"},"
		"\"b\":{\"dtype\":\"F16\",\"shape\":[2,3],"
		"\"data_offsets\":[4,16]},"
		"\"a\":{\"data_offsets\":[0,4],\"shape\":[],"
		"\"dtype\":\"I32\"},"
		"\"e\":{\"dtype\":\"F32\",\"shape\":[3,0,2],"
		"\"data_offsets\":[4,4]}}   \n", 16);
	struct src *s;
	struct st_file f;
	struct err err;
	char text[96];
	uint64_t n;

	if (open_path(path, 0, &s, &f, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(f.count, 3);
	assert_int_equal(f.odd, 0);
	assert_string_equal(json_text(json_find(f.meta, "k")), "v");
	assert_int_equal(f.data_begin + 16, io_size(s));
	/* in file order */
	assert_string_equal(f.tensor[0].name, "a");
	assert_string_equal(f.tensor[1].name, "e");
	assert_string_equal(f.tensor[2].name, "b");
	assert_int_equal(f.tensor[0].type, DT_I32);
	assert_int_equal(f.tensor[0].rank, 0);
	assert_int_equal(f.tensor[0].size, 4);
	assert_int_equal(tensor_count(&f.tensor[0], &n), 0);
	assert_int_equal(n, 1);
	assert_memory_equal(f.tensor[0].data, "\0\1\2\3", 4);
	assert_int_equal(f.tensor[0].offset, f.data_begin);
	assert_int_equal(f.tensor[1].size, 0);
	assert_int_equal(f.tensor[1].rank, 3);
	assert_int_equal(f.tensor[2].type, DT_F16);
	assert_true(tensor_is_shape(&f.tensor[2], 2, 2, 3));
	assert_false(tensor_is_shape(&f.tensor[2], 2, 3, 2));
	assert_false(tensor_is_shape(&f.tensor[2], 1, 2, 3));
	assert_int_equal(f.tensor[2].stride[0], 3);
	assert_int_equal(f.tensor[2].stride[1], 1);
	assert_int_equal(f.tensor[2].offset, f.data_begin + 4);
	assert_int_equal(*(const char *)f.tensor[2].data, 4);
	assert_string_equal(tensor_shape_text(&f.tensor[2], text), "[2, 3]");
	st_close(&f);
	io_close(s);
}

static void test_collected_good(void **state)
{
	struct src *s;
	struct st_file f;
	struct err err;

	(void)state;
	assert_int_equal(open_path(MALFORMED "ok_escaped_name/"
				   "model.safetensors", 0, &s, &f, &err), 0);
	assert_int_equal(f.count, 1);
	assert_string_equal(f.tensor[0].name, "model.layers.0/w\xc3\xa9");
	assert_int_equal(f.odd, ST_ODD_NO_FORMAT);
	st_close(&f);
	io_close(s);
	assert_int_equal(open_path(MALFORMED "ok_no_tensors/"
				   "model.safetensors", 0, &s, &f, &err), 0);
	assert_int_equal(f.count, 0);
	st_close(&f);
	st_close(&f); /* a zeroed struct is fine */
	io_close(s);
}

static void test_metadata_forms(void **state)
{
	static const struct {
		const char *header;
		int meta;
		uint32_t odd;
	} row[] = {
		{ "{}", 0, ST_ODD_NO_FORMAT },
		{ "{\"__metadata__\":null}", 0, ST_ODD_NO_FORMAT },
		{ "{\"__metadata__\":{}}", 1, ST_ODD_NO_FORMAT },
		{ "{\"__metadata__\":{\"format\":\"mlx\"}}", 1, 0 },
	};

	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		struct src *s;
		struct st_file f;
		struct err err;

		if (open_path(make(*state, row[i].header, 0), 0, &s, &f, &err))
			fail_msg("%s", err.msg);
		assert_int_equal(f.meta != NULL, row[i].meta);
		assert_int_equal(f.odd, row[i].odd);
		st_close(&f);
		io_close(s);
	}
	refused(*state, "{\"__metadata__\":[]}", 0, "not an object");
	refused(*state, "{\"__metadata__\":{\"a\":null}}", 0, "not a string");
}

/* ---- more refusals ---- */

static void test_entries(void **state)
{
	static const char *const row[][2] = {
		{ "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],"
		  "\"extra\":1", "unknown member \"extra\"" },
		{ "\"dtype\":\"F32\",\"data_offsets\":[0,4]", "lacks shape" },
		{ "", "lacks dtype" },
		{ "\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]",
		  "unknown dtype" },
		{ "\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]",
		  "unknown dtype f32" },
		{ "\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]",
		  "shape is not an array" },
		{ "\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]",
		  "shape holds something other" },
		{ "\"dtype\":\"F32\",\"shape\":[9007199254740994],"
		  "\"data_offsets\":[0,4]", "shape holds something other" },
		{ "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{\"a\":0,"
		  "\"b\":4}", "not an array of two" },
		{ "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[]",
		  "not an array of two" },
		{ "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]",
		  "not an array of two" },
		{ "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[\"0\",4]",
		  "not whole numbers" },
		{ "\"dtype\":\"F4\",\"shape\":[7],\"data_offsets\":[0,4]",
		  "not a whole number of bytes" },
		{ "\"dtype\":\"F32\",\"shape\":[0,4503599627370496,"
		  "4503599627370496],\"data_offsets\":[0,0]", "overflows" },
		{ "\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],"
		  "\"data_offsets\":[0,4]", "more than 8 dimensions" },
	};
	char header[512];

	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		snprintf(header, sizeof(header), "{\"t\":{%s}}", row[i][0]);
		refused(*state, header, 4, row[i][1]);
		refused(*state, header, 4, "tensor \"t\"");
	}
	refused(*state, "{\"t\":[]}", 4, "not an object");
	refused(*state, "{", 0, "does not begin"); /* two bytes at least */
	refused(*state, "[]", 0, "does not begin");
	refused(*state, "{}\t\v", 0, "behind the value");
}

static void test_accepted_edges(void **state)
{
	static const char *const row[] = {
		"\"dtype\":\"F4\",\"shape\":[8],\"data_offsets\":[0,4]",
		"\"dtype\":\"F6_E2M3\",\"shape\":[4,1],\"data_offsets\":[0,3]",
		("\"shape\":[1,1,1,1,1,1,1,4],\"dtype\":\"U8\","
		 "\"data_offsets\":[0,4]"),
		"\"dtype\":\"BOOL\",\"shape\":[4],\"data_offsets\":[0,4]",
		"\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[0,8]",
	};
	static const size_t bytes[] = { 4, 3, 4, 4, 8 };
	char header[512];

	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		struct src *s;
		struct st_file f;
		struct err err;

		snprintf(header, sizeof(header), "{\"t\":{%s}}", row[i]);
		if (open_path(make(*state, header, bytes[i]), 0, &s, &f, &err))
			fail_msg("%s", err.msg);
		assert_int_equal(f.tensor[0].size, bytes[i]);
		st_close(&f);
		io_close(s);
	}
}

/* Every length of a file that is too short, strict or lenient: refused, and
 * the number of missing bytes is right. */
static void test_every_truncation(void **state)
{
	struct scratch *s = *state;
	const char *path = "tests/golden/gptq_v2/v2_b3_g32_sym_act/"
			   "v1.safetensors";
	struct err err;
	uint64_t header;
	char *all, want[64];
	size_t n;

	assert_int_equal(io_read_file(path, 1 << 20, &all, &n, &err), 0);
	header = half_le64(all);
	for (size_t i = 0; i < n; i++) {
		const char *cut = scratch_write(s, "cut", all, i);
		struct st_file f;
		struct src *src;

		assert_int_equal(open_path(cut, 0, &src, &f, &err), -1);
		if (i < 8)
			snprintf(want, sizeof(want), "%zu bytes are too few",
				 i);
		else if (i < 8 + header)
			snprintf(want, sizeof(want), "truncated: %zu bytes of "
				 "the header", (size_t)header + 8 - i);
		else
			snprintf(want, sizeof(want), "truncated: %zu bytes are "
				 "missing", n - i);
		HAS(err, want);
		assert_int_equal(open_path(cut, ST_LENIENT, &src, &f, &err),
				 -1);
		HAS(err, want);
	}
	free(all);
}

static void test_many_tensors(void **state)
{
	enum { COUNT = 100000 };
	char *header = malloc(COUNT * 80 + 3), *p = header;
	struct src *s;
	struct st_file f;
	struct err err;

	assert_non_null(header);
	*p++ = '{';
	for (int i = 0; i < COUNT; i++) /* names fall, offsets rise */
		p += sprintf(p, "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],"
			     "\"data_offsets\":[%d,%d]}", i ? "," : "",
			     COUNT - i, i, i + 1);
	strcpy(p, "}");
	if (open_path(make(*state, header, COUNT), 0, &s, &f, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(f.count, COUNT);
	for (uint32_t i = 0; i < COUNT; i++) {
		assert_int_equal(*(const uint8_t *)f.tensor[i].data, i & 255);
		assert_int_equal(atoi(f.tensor[i].name + 1), COUNT - (int)i);
	}
	st_close(&f);
	io_close(s);
	free(header);
}

static void test_sniff(void **state)
{
	unsigned char head[16] = { 2 };

	(void)state;
	memcpy(head + 8, "{}", 2);
	assert_true(st_sniff(head, 10, 10));
	assert_true(st_sniff(head, 9, 10));
	assert_false(st_sniff(head, 8, 10));
	assert_false(st_sniff(head, 9, 9));
	head[0] = 1;
	assert_false(st_sniff(head, 10, 10));
	head[0] = 200; /* cut short: named all the same */
	assert_true(st_sniff(head, 10, 10));
	head[8] = ' ';
	assert_true(st_sniff(head, 9, 100));
	assert_false(st_sniff(head, 10, 100));
	head[9] = '\n'; /* blanks as far as one sees */
	assert_true(st_sniff(head, 10, 100));
	head[8] = '[';
	assert_false(st_sniff(head, 10, 10));
	assert_false(st_sniff("PK\3\4\0\0\0\0\0", 9, 100));
	assert_false(st_sniff("version {", 9, 100));
	assert_false(st_sniff("GGUF\3\0\0\0{", 9, 100));
}

/* ---- element types ---- */

static void test_dtypes(void **state)
{
	(void)state;
	for (int t = DT_NONE + 1; t < DT_Q4_0; t++) {
		const char *name = tensor_dtype_name((enum dtype)t);
		uint32_t bits = tensor_dtype_bits((enum dtype)t);

		assert_int_equal(tensor_dtype_find(name), t);
		assert_true(bits >= 4 && bits <= 64);
		/* the names say their bits, all but these */
		if (t != DT_BOOL && t != DT_BF16)
			assert_int_equal(atoi(name + 1), bits);
	}
	/* blocks are no types of safetensors */
	for (int t = DT_Q4_0; t < DT_COUNT; t++) {
		const char *name = tensor_dtype_name((enum dtype)t);
		uint32_t bytes, n = tensor_dtype_block((enum dtype)t, &bytes);

		assert_true(n >= 32 && n <= 256 && bytes >= 17);
		assert_int_equal(tensor_dtype_find(name), DT_NONE);
		assert_int_equal(tensor_dtype_bits((enum dtype)t), 0);
	}
	assert_int_equal(tensor_dtype_bits(DT_BF16), 16);
	assert_int_equal(tensor_dtype_bits(DT_NONE), 0);
	assert_int_equal(tensor_dtype_find("F33"), DT_NONE);
	assert_int_equal(tensor_dtype_find(""), DT_NONE);
	assert_int_equal(tensor_dtype_find("?"), DT_NONE);
	assert_string_equal(tensor_dtype_name((enum dtype)99), "?");
	assert_true(tensor_is_float(DT_BF16) && tensor_is_float(DT_F64));
	assert_false(tensor_is_float(DT_I32) || tensor_is_float(DT_F8_E4M3));
}

static void test_load_and_store(void **state)
{
	static const struct {
		enum dtype type;
		const char *bytes; /* of two elements, -2 and 100 */
	} row[] = {
		{ DT_I8, "\xfe\x64" },
		{ DT_I16, "\xfe\xff\x64\x00" },
		{ DT_I32, "\xfe\xff\xff\xff\x64\x00\x00\x00" },
		{ DT_I64, "\xfe\xff\xff\xff\xff\xff\xff\xff"
			  "\x64\x00\x00\x00\x00\x00\x00\x00" },
		{ DT_F16, "\x00\xc0\x40\x56" },
		{ DT_BF16, "\x00\xc0\xc8\x42" },
		{ DT_F32, "\x00\x00\x00\xc0\x00\x00\xc8\x42" },
		{ DT_F64, "\x00\x00\x00\x00\x00\x00\x00\xc0"
			  "\x00\x00\x00\x00\x00\x00\x59\x40" },
	};
	struct tensor t = { .rank = 1, .dim = { 2 } };
	char raw[17], back[16];
	float v[2];

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		size_t n = tensor_dtype_bits(row[i].type) / 8;

		memcpy(raw + 1, row[i].bytes, 2 * n); /* unaligned */
		t.type = row[i].type;
		t.data = raw + 1;
		assert_int_equal(tensor_load_f32(&t, 0, 2, v), 0);
		assert_true(v[0] == -2 && v[1] == 100);
		assert_int_equal(tensor_load_f32(&t, 1, 1, v), 0);
		assert_true(v[0] == 100);
		v[0] = -2;
		if (row[i].type == DT_F64 || !tensor_is_float(row[i].type)) {
			assert_int_equal(tensor_store_f32(v, 2, t.type, back),
					 -1);
			continue;
		}
		assert_int_equal(tensor_store_f32(v, 2, t.type, back), 0);
		assert_memory_equal(back, row[i].bytes, 2 * n);
	}
	t.type = DT_U8;
	t.data = "\xfe\x64";
	assert_int_equal(tensor_load_f32(&t, 0, 2, v), 0);
	assert_true(v[0] == 254 && v[1] == 100);
	t.type = DT_U16;
	t.data = "\xfe\xff\x64\x00";
	assert_int_equal(tensor_load_f32(&t, 0, 2, v), 0);
	assert_true(v[0] == 65534 && v[1] == 100);
	t.type = DT_F8_E4M3;
	assert_int_equal(tensor_load_f32(&t, 0, 2, v), -1);
	t.type = DT_F32;
	t.data = NULL; /* only the header was read */
	assert_int_equal(tensor_load_f32(&t, 0, 2, v), -1);
}

static void test_shape_text_fits(void **state)
{
	struct tensor t = { .rank = TENSOR_RANK };
	char buf[96];
	uint64_t n;

	(void)state;
	for (int i = 0; i < TENSOR_RANK; i++)
		t.dim[i] = UINT64_MAX;
	assert_true(strlen(tensor_shape_text(&t, buf)) < sizeof(buf));
	assert_non_null(strstr(buf, ", ...]"));
	assert_int_equal(tensor_count(&t, &n), -1);
	t.dim[0] = 0;
	assert_int_equal(tensor_count(&t, &n), 0);
	assert_int_equal(n, 0);
	t.rank = 0;
	assert_string_equal(tensor_shape_text(&t, buf), "[]");
}

#define OWN(test) \
	cmocka_unit_test_setup_teardown(test, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_collected_files),
		cmocka_unit_test(test_collected_reasons),
		cmocka_unit_test(test_lenient),
		OWN(test_fields),
		cmocka_unit_test(test_collected_good),
		OWN(test_metadata_forms),
		OWN(test_entries),
		OWN(test_accepted_edges),
		OWN(test_every_truncation),
		OWN(test_many_tensors),
		cmocka_unit_test(test_sniff),
		cmocka_unit_test(test_dtypes),
		cmocka_unit_test(test_load_and_store),
		cmocka_unit_test(test_shape_text_fits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
