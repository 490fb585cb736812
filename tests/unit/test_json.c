/* The strict scanner, duplicate keys, getters and the printer. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/base/json.h"
#include "scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

static struct cJSON *parse(const char *text)
{
	struct cJSON *j;
	struct err err;

	if (json_parse(text, strlen(text), 0, &j, &err))
		fail_msg("%s: %s", text, err.msg);
	return j;
}

static void refused(const char *text, size_t n, unsigned flags,
		    const char *why)
{
	struct err err;
	struct cJSON *j;
	/* an exact copy, so that a sanitizer sees a read behind the end */
	char *copy = malloc(n ? n : 1);

	assert_non_null(copy);
	if (n)
		memcpy(copy, text, n);
	if (!json_parse(copy, n, flags, &j, &err))
		fail_msg("accepted: %s", text);
	free(copy);
	assert_null(j);
	assert_int_equal(err.code, ERR_INPUT);
	if (!strstr(err.msg, why))
		fail_msg("%s: \"%s\" does not say \"%s\"", text, err.msg, why);
}

static void test_accepts(void **state)
{
	static const char *const good[] = {
		"0", "-0", "-1", "1.5", "1e3", "1E+3", "0.5e-7", "123456789",
		"true", "false", "null", "\"\"", "[]", "{}", " [ ] ",
		"\t{\r\n\"a\" : [1 , 2,{}] }\n", "[[[[]]]]",
		"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uD83D\\uDE00\"",
		"\"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 \x7f\"",
		"\"\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbf\"",
		"{\"a\":{\"a\":1},\"b\":{\"a\":2}}", "{\"\":0}",
		"{\"a\":1,\"A\":2}",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		json_free(parse(good[i]));
	json_free(NULL);
}

static void test_refuses(void **state)
{
	static const struct {
		const char *text, *why;
	} bad[] = {
		{ "", "too early" }, { " ", "too early" },
		{ "[", "too early" }, { "{", "too early" },
		{ "[1", "too early" }, { "[1,", "too early" },
		{ "{\"a\"", "too early" }, { "{\"a\":", "too early" },
		{ "{\"a\":1", "too early" }, { "{\"a\":1,", "too early" },
		{ "\"abc", "too early" }, { "\"\\", "too early" },
		{ "]", "a value" }, { "[,]", "a value" },
		{ "[1,]", "a value" }, { "{,}", "a key" },
		{ "{\"a\":1,}", "a key" }, { "{a:1}", "a key" },
		{ "{1:1}", "a key" }, { "{'a':1}", "a key" },
		{ "{\"a\" 1}", "':'" }, { "{\"a\":}", "a value" },
		{ "[1 2]", "',' or ']'" }, { "[1}", "',' or ']'" },
		{ "{\"a\":1]", "',' or '}'" },
		{ "1 2", "behind" }, { "{}{}", "behind" }, { "{} x", "behind" },
		{ "[] // no", "behind" }, { "/**/[]", "a value" },
		{ "tru", "unknown word" }, { "True", "a value" },
		{ "nul", "unknown word" }, { "NaN", "a value" },
		{ "Infinity", "a value" }, { "-Infinity", "not a number" },
		{ "+1", "a value" }, { "01", "begins with 0" },
		{ "-01", "begins with 0" }, { ".5", "a value" },
		{ "1.", "too early" }, { "1.x", "point" },
		{ "1e", "too early" }, { "1e+]", "exponent" },
		{ "-", "too early" }, { "0x10", "behind" },
		{ "\"a\nb\"", "control" }, { "\"\x1f\"", "control" },
		{ "\"\\x41\"", "escape" }, { "\"\\u12g4\"", "hexadecimal" },
		{ "\"\\u0000\"", "u0000" }, { "\"\\ud83d\"", "surrogate" },
		{ "\"\\ude00\"", "surrogate" },
		{ "\"\\ud83d\\ud83d\"", "surrogate" },
		{ "\"\\ud83dx\\ude00\"", "surrogate" },
		{ "\"\xff\"", "UTF-8" }, { "\"\x80\"", "UTF-8" },
		{ "\"\xc0\xaf\"", "UTF-8" }, { "\"\xe0\x80\xaf\"", "UTF-8" },
		{ "\"\xed\xa0\x80\"", "UTF-8" }, { "\"\xc3\"", "UTF-8" },
		{ "\"\xf4\x90\x80\x80\"", "UTF-8" },
		{ "\"\xf0\x8f\xbf\xbf\"", "UTF-8" },
		{ "\xef\xbb\xbf{}", "a value" }, { "[\f1]", "a value" },
		{ "{\"a\":1,\"b\":2,\"a\":3}", "\"a\" appears twice" },
		{ "[{\"x\":{\"k\":1,\"\\u006b\":1}}]", "\"k\" appears" },
		{ "1111111111222222222233333333334444444444555555555566666"
		  "6666677777777778", "too many digits" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		refused(bad[i].text, strlen(bad[i].text), 0, bad[i].why);
	refused("[1]\0", 4, 0, "byte 3");
	refused("\"a\0b\"", 5, 0, "control");
}

static void test_every_cut_is_refused(void **state)
{
	const char *text = "{\"a\":[1.5e+3,true,null,\"\\u00e9\xc3\xa9\","
			   "\"\\ud83d\\ude00\"],\"b\":{\"c\":false}}";
	size_t n = strlen(text);

	(void)state;
	json_free(parse(text));
	for (size_t i = 0; i < n; i++)
		refused(text, i, 0, "invalid JSON at byte");
}

static void test_depth(void **state)
{
	enum { DEEP = 20000 };
	char *text = malloc(2 * DEEP + 1);

	(void)state;
	assert_non_null(text);
	memset(text, '[', JSON_DEPTH);
	memset(text + JSON_DEPTH, ']', JSON_DEPTH);
	text[2 * JSON_DEPTH] = '\0';
	json_free(parse(text));
	memset(text, '[', JSON_DEPTH + 1);
	memset(text + JSON_DEPTH + 1, ']', JSON_DEPTH + 1);
	refused(text, 2 * JSON_DEPTH + 2, 0, "nested too deeply");
	memset(text, '[', DEEP);
	memset(text + DEEP, ']', DEEP);
	text[2 * DEEP] = '\0';
	refused(text, 2 * DEEP, 0, "nested too deeply");
	refused(text, DEEP, 0, "nested too deeply");
	for (size_t i = 0; i < 5000; i++)
		memcpy(text + 5 * i, "{\"a\":", 5);
	refused(text, 25000, 0, "nested too deeply");
	free(text);
}

/* n members "k0".."kN"; with twice, the last has the key of the first. */
static char *wide(size_t n, int twice)
{
	char *text = malloc(n * 24 + 3), *p = text;

	assert_non_null(text);
	*p++ = '{';
	for (size_t i = 0; i < n; i++)
		p += sprintf(p, "%s\"k%zu\":%zu", i ? "," : "",
			     twice && i + 1 == n ? 0 : i * 7919 % n, i);
	strcpy(p, "}");
	return text;
}

static void test_wide_objects(void **state)
{
	static const size_t sizes[] = { 2, 3, 8, 9, 10, 100, 131072 };

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		char *text = wide(sizes[i], 1);
		struct cJSON *j;

		refused(text, strlen(text), 0, "\"k0\" appears twice");
		free(text);
		text = wide(sizes[i], 0);
		j = parse(text);
		assert_int_equal(json_count(j), sizes[i]);
		json_free(j);
		free(text);
	}
}

static void test_strict_uint(void **state)
{
	struct cJSON *j;
	struct err err;

	(void)state;
	assert_int_equal(json_parse("[0,12]", 6, JSON_STRICT_UINT, &j, &err),
			 0);
	json_free(j);
	refused("[-1]", 4, JSON_STRICT_UINT, "unsigned");
	refused("[-0]", 4, JSON_STRICT_UINT, "unsigned");
	refused("[1.0]", 5, JSON_STRICT_UINT, "unsigned");
	refused("[1e2]", 5, JSON_STRICT_UINT, "unsigned");
	refused("[00]", 4, JSON_STRICT_UINT, "begins with 0");
}

static void test_bom_only_where_asked(void **state)
{
	const char *text = "\xef\xbb\xbf{\"a\":1}";
	struct cJSON *j;
	struct err err;

	(void)state;
	assert_int_equal(json_parse(text, strlen(text), JSON_BOM, &j, &err), 0);
	assert_non_null(json_find(j, "a"));
	json_free(j);
	assert_int_equal(json_parse("\xef\xbb\xbf" "3", 4, JSON_BOM, &j, &err),
			 0);
	json_free(j);
	refused(text, 3, JSON_BOM, "too early");
	refused("\xef\xbb\xbf\xef\xbb\xbf{}", 8, JSON_BOM, "a value");
}

static void test_looking_around(void **state)
{
	struct cJSON *j = parse("{\"a\":{\"b\":{\"c\":[1,null,\"x\"]}},"
				"\"ab\":true,\"A\":2.5}");
	const struct cJSON *c = json_path(j, "a.b.c");

	(void)state;
	assert_int_equal(json_count(j), 3);
	assert_string_equal(json_key(json_first(j)), "a");
	assert_string_equal(json_key(json_next(json_first(j))), "ab");
	assert_true(json_is_array(c));
	assert_int_equal(json_count(c), 3);
	assert_true(json_is_number(json_first(c)));
	assert_true(json_is_null(json_next(json_first(c))));
	assert_true(json_is_string(json_next(json_next(json_first(c)))));
	assert_null(json_next(json_next(json_next(json_first(c)))));
	assert_true(json_is_object(json_find(j, "a")));
	assert_true(json_is_bool(json_find(j, "ab")));
	assert_true(json_is_number(json_find(j, "A"))); /* case counts */
	assert_null(json_find(j, "B"));
	assert_null(json_find(c, "a"));
	assert_null(json_path(j, "a.x.c"));
	assert_null(json_path(j, "ab.c"));
	assert_null(json_path(j, ""));
	assert_null(json_find(NULL, "a"));
	assert_null(json_path(NULL, "a"));
	assert_null(json_first(NULL));
	assert_null(json_key(NULL));
	assert_int_equal(json_count(NULL), 0);
	assert_false(json_is_object(NULL) || json_is_array(NULL) ||
		     json_is_string(NULL) || json_is_null(NULL) ||
		     json_is_bool(NULL) || json_is_number(NULL));
	json_free(j);
}

static void test_whole_numbers(void **state)
{
	static const struct {
		const char *text;
		int ok;
		int64_t v;
	} row[] = {
		{ "4", 1, 4 }, { "4.0", 1, 4 }, { "\"4\"", 1, 4 },
		{ "-1", 1, -1 }, { "\"-1\"", 1, -1 }, { "0", 1, 0 },
		{ "-0", 1, 0 }, { "9007199254740992", 1, INT64_C(1) << 53 },
		{ "\"9223372036854775807\"", 1, INT64_MAX },
		{ "9007199254740994", 0, 0 }, { "1e300", 0, 0 },
		{ "1e999", 0, 0 }, { "4.5", 0, 0 }, { "\"\"", 0, 0 },
		{ "\"-\"", 0, 0 }, { "\" 4\"", 0, 0 }, { "\"4x\"", 0, 0 },
		{ "\"+4\"", 0, 0 }, { "\"99999999999999999999\"", 0, 0 },
		{ "true", 0, 0 }, { "null", 0, 0 }, { "[4]", 0, 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		struct cJSON *j = parse(row[i].text);
		int64_t v = 77;
		uint64_t u = 77;

		assert_int_equal(json_int(j, INT64_MIN, INT64_MAX, &v) == 0,
				 row[i].ok);
		assert_int_equal(v, row[i].ok ? row[i].v : 77);
		assert_int_equal(json_uint(j, UINT64_MAX, &u) == 0,
				 row[i].ok && row[i].v >= 0);
		json_free(j);
	}
}

static void test_ranges(void **state)
{
	struct cJSON *j = parse("100");
	uint64_t u = 0;
	int64_t v = 0;
	double d = 0;
	bool b;

	(void)state;
	assert_int_equal(json_uint(j, 100, &u), 0);
	assert_int_equal(json_uint(j, 99, &u), -1);
	assert_int_equal(json_int(j, 100, 100, &v), 0);
	assert_int_equal(json_int(j, 101, 200, &v), -1);
	assert_int_equal(json_int(j, -5, 99, &v), -1);
	assert_int_equal(json_double(j, &d), 0);
	assert_true(d == 100);
	assert_int_equal(json_bool(j, &b), -1);
	assert_null(json_text(j));
	assert_int_equal(json_uint(NULL, 9, &u), -1);
	assert_int_equal(json_double(NULL, &d), -1);
	json_free(j);
	j = parse("1e999");
	assert_int_equal(json_double(j, &d), -1);
	json_free(j);
}

static void test_members(void **state)
{
	struct cJSON *j = parse("{\"n\":4,\"s\":\"8\",\"z\":null,\"b\":true,"
				"\"i\":-1,\"d\":1e-5,\"t\":\"x\",\"f\":0.5}");
	struct err err = { 0, "" };
	uint32_t u = 9;
	int32_t i = 9;
	double d = 9;
	bool b = false;
	const char *t = "old";

	(void)state;
	assert_int_equal(json_get_u32(j, "n", 1, 8, &u, &err), 0);
	assert_int_equal(u, 4);
	assert_int_equal(json_get_u32(j, "s", 1, 8, &u, &err), 0);
	assert_int_equal(u, 8);
	assert_int_equal(json_get_u32(j, "none", 1, 8, &u, &err), 0);
	assert_int_equal(json_get_u32(j, "z", 1, 8, &u, &err), 0);
	assert_int_equal(u, 8);
	assert_int_equal(json_get_u32(j, "n", 5, 8, &u, &err), -1);
	assert_string_equal(err.msg,
			    "\"n\" must be a whole number from 5 to 8");
	assert_int_equal(err.code, ERR_INPUT);
	assert_int_equal(json_get_i32(j, "i", -1, 8, &i, &err), 0);
	assert_int_equal(i, -1);
	assert_int_equal(json_get_i32(j, "f", -1, 8, &i, &err), -1);
	assert_int_equal(json_get_double(j, "d", &d, &err), 0);
	assert_true(d == 1e-5);
	assert_int_equal(json_get_double(j, "t", &d, &err), -1);
	assert_int_equal(json_get_bool(j, "b", &b, &err), 0);
	assert_true(b);
	assert_int_equal(json_get_bool(j, "n", &b, &err), -1);
	assert_int_equal(json_get_text(j, "t", &t, &err), 0);
	assert_string_equal(t, "x");
	assert_int_equal(json_get_text(j, "z", &t, &err), 0);
	assert_string_equal(t, "x");
	assert_int_equal(json_get_text(j, "n", &t, &err), -1);
	json_free(j);
}

static void prints(const char *text, bool pretty, const char *want)
{
	struct cJSON *j = parse(text);
	struct err err;
	char *got = json_print(j, pretty, &err);

	assert_non_null(got);
	assert_string_equal(got, want);
	free(got);
	json_free(j);
}

static void test_print(void **state)
{
	(void)state;
	prints("{\"a\":[],\"b\":{},\"c\":[1,2.5,[true,null]],\"d\":{\"e\":"
	       "\"f\"}}", true,
	       "{\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    1,\n    2.5,\n"
	       "    [\n      true,\n      null\n    ]\n  ],\n  \"d\": {\n"
	       "    \"e\": \"f\"\n  }\n}\n");
	prints("{\"a\":[1, 2],\"b\":{\"c\":-0.25}}", false,
	       "{\"a\":[1,2],\"b\":{\"c\":-0.25}}\n");
	prints("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\\u00e9\x7f\"", false,
	       "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\xc3\xa9\x7f\"\n");
	prints("[0,-0,-7,10000.0,1e-05,0.1,1e22,9007199254740991,"
	       "1.7976931348623157e308,5e-324,0.30000000000000004,0.02]", false,
	       "[0,0,-7,10000,1e-05,0.1,1e+22,9007199254740991,"
	       "1.7976931348623157e+308,5e-324,0.30000000000000004,0.02]\n");
}

static void test_print_reads_back(void **state)
{
	uint64_t x = 1;

	(void)state;
	for (int i = 0; i < 20000; i++) {
		struct cJSON *j, *back;
		struct err err;
		char *text;
		double d;

		x = x * 6364136223846793005u + 1442695040888963407u;
		memcpy(&d, &x, sizeof(d));
		if (!isfinite(d))
			continue;
		j = cJSON_CreateNumber(d);
		text = json_print(j, false, &err);
		assert_non_null(text);
		back = parse(text);
		assert_true(back->valuedouble == d);
		free(text);
		json_free(back);
		json_free(j);
	}
}

/* A configuration that transformers wrote comes out as it went in, but for
 * floats that are whole: 10000.0 is printed as 10000. */
static void test_print_as_transformers(void **state)
{
	const char *path = "tests/models/tiny/config.json";
	struct cJSON *j;
	struct err err;
	char *text, *file, *at;
	size_t n;
	int whole = 0;

	(void)state;
	assert_int_equal(json_read_file(path, &j, &err), 0);
	assert_int_equal(io_read_file(path, 1 << 20, &file, &n, &err), 0);
	text = json_print(j, true, &err);
	assert_non_null(text);
	for (; (at = strstr(file, ".0,")); whole++)
		memmove(at, at + 2, strlen(at + 2) + 1);
	assert_int_equal(whole, 2);
	if (file[strlen(file) - 1] != '\n')
		text[strlen(text) - 1] = '\0';
	assert_string_equal(text, file);
	free(text);
	free(file);
	json_free(j);
}

static void test_read_file_names_it(void **state)
{
	struct scratch *s = *state;
	const char *path = scratch_write(s, "x.json", "{\"a\":}", 6);
	char want[256];
	struct cJSON *j;
	struct err err;

	assert_non_null(path);
	assert_int_equal(json_read_file(path, &j, &err), -1);
	snprintf(want, sizeof(want), "%s: invalid JSON at byte 5: "
		 "a value is expected", path);
	assert_string_equal(err.msg, want);
	assert_int_equal(json_read_file(scratch_path(s, "none"), &j, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	assert_null(j);
}

/* The one large file of the trade: an object of 128 000 members. */
static void test_large_tokenizer(void **state)
{
	const char *path = "../shared/tokenizers/llama3/tokenizer.json.zst";
	struct cJSON *j;
	struct err err;

	(void)state;
	if (!io_is_file(path)) {
		print_message("no %s\n", path);
		skip();
	}
	if (json_read_file(path, &j, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(json_count(json_path(j, "model.vocab")), 128000);
	json_free(j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_accepts),
		cmocka_unit_test(test_refuses),
		cmocka_unit_test(test_every_cut_is_refused),
		cmocka_unit_test(test_depth),
		cmocka_unit_test(test_wide_objects),
		cmocka_unit_test(test_strict_uint),
		cmocka_unit_test(test_bom_only_where_asked),
		cmocka_unit_test(test_looking_around),
		cmocka_unit_test(test_whole_numbers),
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_members),
		cmocka_unit_test(test_print),
		cmocka_unit_test(test_print_reads_back),
		cmocka_unit_test(test_print_as_transformers),
		cmocka_unit_test_setup_teardown(test_read_file_names_it,
						scratch_open, scratch_close),
		cmocka_unit_test(test_large_tokenizer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
