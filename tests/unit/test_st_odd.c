/* Headers of safetensors files that somebody wrote, or might: blanks, empty
 * tensors, sizes at the limits, doubled keys, names and metadata of any
 * length. */
#include "../../libfmt/base/json.h"
#include "header.h"

static void open_good(struct scratch *s, const char *header, size_t data,
		      struct src **src, struct st_file *f)
{
	struct err err;

	if (open_path(make(s, header, data), 0, src, f, &err))
		fail_msg("%s", err.msg);
}

static void close_both(struct src *src, struct st_file *f)
{
	st_close(f);
	io_close(src);
}

/* Blanks behind the header of every kind and number, so that the tensor starts
 * anywhere: its values are the same. */
static void test_blanks_and_odd_offsets(void **state)
{
	static const char *const blanks[] = { "", " ", "  ", "\n", "\r\n\t ",
		"     ", "\n\n\n\n\n\n", "       " };
	struct st_file f;
	struct src *src;

	for (size_t i = 0; i < sizeof(blanks) / sizeof(*blanks); i++) {
		char header[192];
		float v[2];

		snprintf(header, sizeof(header), "{\"a\":{\"dtype\":\"U8\","
			 "\"shape\":[1],\"data_offsets\":[0,1]},\"b\":{"
			 "\"dtype\":\"I16\",\"shape\":[2],\"data_offsets\":"
			 "[1,5]}}%s", blanks[i]);
		open_good(*state, header, 5, &src, &f);
		assert_int_equal(f.tensor[1].offset, 8 + strlen(header) + 1);
		assert_int_equal(tensor_load_f32(&f.tensor[1], 0, 2, v), 0);
		assert_true(v[0] == 0x0201 && v[1] == 0x0403);
		close_both(src, &f);
	}
	refused(*state, " {}", 0, "begins with 1 bytes of white space");
	refused(*state, "\n\r\t {}", 0, "begins with 4 bytes of white");
	refused(*state, "  {", 0, "does not begin with '{'");
	refused(*state, "   ", 0, "does not begin with '{'");
	refused(*state, "\v{}", 0, "does not begin with '{'");
	refused(*state, " []", 0, "does not begin with '{'");
}

/* Tensors of no bytes in front of, between and behind others, and scalars. */
static void test_empty_tensors_and_scalars(void **state)
{
#define EMPTY(name, shape, at) "\"" name "\":{\"dtype\":\"F32\",\"shape\":"    \
	shape ",\"data_offsets\":[" at "," at "]}"
	static const char header[] = "{" EMPTY("a", "[0]", "0") ","
		"\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
		EMPTY("c", "[5,0]", "4") "," EMPTY("d", "[0,0,7]", "4") ","
		"\"e\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[4,5]},"
		EMPTY("f", "[0]", "5") "}";
	static const uint64_t size[] = { 0, 4, 0, 0, 1, 0 };
	struct st_file f;
	struct src *src;

	open_good(*state, header, 5, &src, &f);
	assert_int_equal(f.count, 6);
	for (uint32_t i = 0; i < 6; i++) {
		assert_int_equal(f.tensor[i].name[0], 'a' + (int)i);
		assert_int_equal(f.tensor[i].size, size[i]);
	}
	close_both(src, &f);
	/* an empty one inside another is an overlap, if a harmless one */
	refused(*state, "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
		"\"data_offsets\":[0,4]}," EMPTY("b", "[0]", "2") "}", 4,
		"begins at 2, inside \"a\"");
	refused(*state, "{" EMPTY("a", "[0]", "1") "}", 0, "in front of");
}

/* The length of the header, up to the largest that there may be. */
static void test_lengths(void **state)
{
	static const struct {
		uint64_t length;
		const char *says;
	} row[] = {
		{ 100000001, "is above 100000000" },
		{ 100000000, "truncated: 99999998 bytes of the header" },
		{ UINT64_MAX, "is above 100000000" },
		{ UINT64_C(1) << 63, "is above 100000000" },
		{ 3, "truncated: 1 bytes of the header" },
		{ 1, "does not begin with '{'" },
		{ 0, "does not begin with '{'" },
	};
	unsigned char bytes[10];

	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++)
		for (unsigned flags = 0; flags < 2; flags++) {
			struct st_file f;
			struct src *src;
			struct err err;

			half_put64(bytes, row[i].length);
			memcpy(bytes + 8, "{}", 2);
			assert_int_equal(open_path(scratch_write(*state, "n",
				bytes, 10), flags, &src, &f, &err), -1);
			HAS(err, row[i].says);
		}
}

#define ENTRY(type, shape, end) "{\"dtype\":\"" type "\",\"shape\":" shape     \
	",\"data_offsets\":[0," end "]}"

static void test_doubled_and_unknown(void **state)
{
	static const char *const row[][2] = {
		{ "{\"a\":" ENTRY("U8", "[4]", "4") ",\"a\":"
		  ENTRY("U8", "[4]", "4") "}", "\"a\" appears twice" },
		/* the same name in other letters of JSON */
		{ "{\"a\":" ENTRY("U8", "[4]", "4") ",\"\\u0061\":"
		  ENTRY("U8", "[4]", "4") "}", "\"a\" appears twice" },
		{ "{\"__metadata__\":{},\"__metadata__\":{}}",
		  "\"__metadata__\" appears twice" },
		{ "{\"__metadata__\":{\"format\":\"pt\",\"format\":\"pt\"}}",
		  "\"format\" appears twice" },
		{ "{\"__metadata__\":{\"a\":1}}", "\"a\" is not a string" },
		{ "{\"a\":" ENTRY("F8_E4M3B11", "[4]", "4") "}",
		  "unknown dtype F8_E4M3B11" },
		{ "{\"a\":" ENTRY("U8", "[2,18446744073709551614]", "4") "}",
		  "sizes up to 2^53" },
		{ "{\"a\":" ENTRY("U8", "[4294967296,4294967296]", "0") "}",
		  "overflows" },
		{ "{\"a\":" ENTRY("U8", "[4]", "18446744073709551616") "}",
		  "not whole numbers" },
	};

	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++)
		refused(*state, row[i][0], 4, row[i][1]);
}

/* Names are compared as the texts they are, however they are spelled. */
static void test_spelled_names(void **state)
{
	struct st_file f;
	struct src *src;

	open_good(*state, "{\"w\\u00e9\\n\\\"\\/\\ud83d\\ude00\":"
		  ENTRY("U8", "[4]", "4") "}", 4, &src, &f);
	assert_string_equal(f.tensor[0].name,
			    "w\xc3\xa9\n\"/\xf0\x9f\x98\x80");
	close_both(src, &f);
}

/* A name of a thousand characters, and ten MiB that nobody asked for. */
static void test_long_names_and_metadata(void **state)
{
	enum { NAME = 1000, META = 10 << 20 };
	char *header = malloc(META + 2 * NAME), *p = header;
	struct st_file f;
	struct src *src;

	assert_non_null(header);
	p += sprintf(p, "{\"__metadata__\":{\"format\":\"pt\",\"notes\":\"");
	memset(p, 'x', META);
	p += META;
	p += sprintf(p, "\"},\"");
	memset(p, 'n', NAME);
	p += NAME;
	sprintf(p, "\":" ENTRY("U8", "[4]", "4") "}");
	open_good(*state, header, 4, &src, &f);
	assert_int_equal(f.count, 1);
	assert_int_equal(strlen(f.tensor[0].name), NAME);
	assert_int_equal(strlen(json_text(json_find(f.meta, "notes"))), META);
	assert_int_equal(f.odd, 0);
	close_both(src, &f);
	free(header);
}

#define OWN(test) \
	cmocka_unit_test_setup_teardown(test, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		OWN(test_blanks_and_odd_offsets),
		OWN(test_empty_tensors_and_scalars),
		OWN(test_lengths),
		OWN(test_doubled_and_unknown),
		OWN(test_spelled_names),
		OWN(test_long_names_and_metadata),
	};

	return cmocka_run_group_tests_name("st_odd", tests, NULL, NULL);
}
