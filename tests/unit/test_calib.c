/* Calibration windows from every kind of file, and what is refused. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../quant/calib.h"
#include "../../runtime/tok.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <cmocka.h>

#define TINY "tests/models/tiny"
#define VOCAB 2048

struct fix {
	char dir[64];
	struct tok *tok;
};

static int set_up(void **state)
{
	static struct fix f;
	struct err err;

	strcpy(f.dir, "/tmp/gptq-calib-XXXXXX");
	if (!mkdtemp(f.dir) || tok_open(TINY, &f.tok, &err))
		return -1;
	*state = &f;
	return 0;
}

static int tear_down(void **state)
{
	struct fix *f = *state;

	tok_close(f->tok);
	return rmdir(f->dir); /* fails when a test left a file */
}

/* A file in the scratch directory; the name lives until the next call but
 * three. */
static const char *put(const struct fix *f, const char *name,
		       const void *data, size_t n)
{
	static char path[4][128];
	static unsigned at;
	char *p = path[at++ % 4];
	FILE *out;

	snprintf(p, sizeof(path[0]), "%s/%s", f->dir, name);
	out = fopen(p, "wb");
	assert_non_null(out);
	assert_int_equal(fwrite(data, 1, n, out), n);
	assert_int_equal(fclose(out), 0);
	return p;
}

static struct calib load(const struct fix *f, const char *file,
			 uint32_t samples, uint32_t seqlen, uint64_t seed)
{
	struct calib_how how = { .file = &file, .files = 1, .vocab = VOCAB,
				 .samples = samples, .seqlen = seqlen,
				 .seed = seed, .tok = f->tok };
	struct calib c;
	struct err err;

	if (gq_calib_load(&how, &c, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(c.samples, samples);
	assert_int_equal(c.seqlen, seqlen);
	return c;
}

/* Loading must fail as bad input with `word` in the message. */
static void refuse(const struct fix *f, const char *file, uint32_t samples,
		   uint32_t seqlen, const char *word)
{
	struct calib_how how = { .file = &file, .files = 1, .vocab = VOCAB,
				 .samples = samples, .seqlen = seqlen,
				 .tok = f ? f->tok : NULL };
	struct calib c;
	struct err err;

	assert_int_equal(gq_calib_load(&how, &c, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	if (!strstr(err.msg, word))
		fail_msg("no \"%s\" in: %s", word, err.msg);
	assert_null(c.id);
}

/* The text that ships with the model, encoded by us, is the reference's ids. */
static void test_text_gives_the_reference_ids(void **state)
{
	const struct fix *f = *state;
	struct calib text = load(f, TINY "/calibration.txt", 128, 512, 0);
	struct calib ids =
		load(f, TINY "/calibration-ids.safetensors", 128, 512, 0);

	assert_memory_equal(text.id, ids.id, 128 * 512 * sizeof(uint32_t));
	gq_calib_release(&text);
	gq_calib_release(&ids);
}

static void test_all_ids_of_a_text(void **state)
{
	const struct fix *f = *state;
	uint32_t *ids;
	uint64_t n;
	struct err err;

	assert_int_equal(gq_calib_ids(TINY "/eval.txt", f->tok, VOCAB, &ids,
				      &n, &err), 0);
	assert_int_equal(n, 106975); /* reference.json */
	assert_int_equal(ids[0], tok_bos(f->tok));
	free(ids);
	assert_int_equal(gq_calib_ids(TINY "/no-such-file", f->tok, VOCAB,
				      &ids, &n, &err), -1);
	assert_null(ids);
}

static void fill(uint8_t *raw, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		half_put32(raw + 4 * i, i * 7 % VOCAB);
}

static void test_raw_ids_are_taken_as_they_are(void **state)
{
	const struct fix *f = *state;
	uint8_t raw[4 * 23];
	const char *file[2];
	struct calib_how how = { .file = file, .files = 2, .samples = 4,
				 .seqlen = 10, .vocab = VOCAB };
	struct calib c;
	struct err err;

	fill(raw, 23);
	file[0] = put(f, "a.ids", raw, sizeof(raw));
	file[1] = file[0]; /* joined: window 2 runs over the seam */
	assert_int_equal(gq_calib_load(&how, &c, &err), 0);
	for (uint32_t i = 0; i < 40; i++)
		assert_int_equal(c.id[i], i % 23 * 7 % VOCAB);
	gq_calib_release(&c);
	unlink(file[0]);
}

static void test_too_little_is_said(void **state)
{
	const struct fix *f = *state;
	uint8_t raw[4 * 23];
	const char *file;

	fill(raw, 23);
	file = put(f, "a.ids", raw, sizeof(raw));
	refuse(f, file, 3, 10, "23 tokens, 2 windows of 10: 3 are wanted");
	refuse(f, file, 1, 24, "0 windows");
	unlink(file);
}

static void test_bad_ids_are_refused(void **state)
{
	const struct fix *f = *state;
	uint8_t raw[4 * 23];
	const char *file;

	fill(raw, 23);
	file = put(f, "a.ids", raw, sizeof(raw) - 1);
	refuse(f, file, 1, 10, "91 bytes");
	half_put32(raw + 4 * 5, VOCAB);
	file = put(f, "a.ids", raw, sizeof(raw));
	refuse(f, file, 1, 10, "id 2048 at position 5");
	half_put32(raw + 4 * 5, UINT32_MAX);
	file = put(f, "a.ids", raw, sizeof(raw));
	refuse(f, file, 1, 10, "id -1 at position 5");
	unlink(file);
}

/* Every drawn window is a whole window of the text, none comes twice. */
static void test_seed_draws_without_repetition(void **state)
{
	const struct fix *f = *state;
	uint8_t raw[4 * 1000];
	uint32_t first[100] = { 0 }, moved = 0;
	struct calib a, b, c;
	const char *file;

	for (uint32_t i = 0; i < 1000; i++)
		half_put32(raw + 4 * i, i);
	file = put(f, "a.ids", raw, sizeof(raw));
	a = load(f, file, 60, 10, 1);
	b = load(f, file, 60, 10, 1);
	c = load(f, file, 60, 10, 2);
	assert_memory_equal(a.id, b.id, 600 * sizeof(uint32_t));
	assert_memory_not_equal(a.id, c.id, 600 * sizeof(uint32_t));
	for (uint32_t i = 0; i < 60; i++) {
		uint32_t at = a.id[i * 10];

		assert_int_equal(at % 10, 0);
		assert_int_equal(first[at / 10]++, 0);
		for (uint32_t j = 0; j < 10; j++)
			assert_int_equal(a.id[i * 10 + j], at + j);
		moved += at != i * 10;
	}
	assert_true(moved > 40);
	gq_calib_release(&a);
	gq_calib_release(&b);
	gq_calib_release(&c);
	/* as many as there are: a permutation */
	a = load(f, file, 100, 10, 3);
	gq_calib_release(&a);
	unlink(file);
}

static const char lines[] =
	"{\"text\": \"It was the best of times\", \"url\": null}\n"
	"\n"
	"{\"id\": 3, \"text\": \"it was the worst\\nof times\"}\r\n"
	"{\"text\": \"\\u00e9\"}";

/* The lines one by one, each with what the tokenizer adds in front. */
static size_t lines_ids(const struct fix *f, uint32_t *out)
{
	static const char *const text[] = { "It was the best of times",
					    "it was the worst\nof times",
					    "\xc3\xa9" };
	struct err err;
	size_t n = 0;

	for (int i = 0; i < 3; i++) {
		uint32_t *p;
		size_t m;

		assert_int_equal(tok_encode(f->tok, text[i], strlen(text[i]),
					    TOK_BOS, &p, &m, &err), 0);
		memcpy(out + n, p, m * sizeof(*p));
		free(p);
		n += m;
	}
	return n;
}

static void check_lines(const struct fix *f, const char *file)
{
	uint32_t want[256];
	size_t n = lines_ids(f, want);
	struct calib c = load(f, file, 1, (uint32_t)n, 0);

	assert_memory_equal(c.id, want, n * sizeof(*want));
	gq_calib_release(&c);
	refuse(f, file, 1, (uint32_t)n + 1, "tokens");
	unlink(file);
}

static void test_json_lines(void **state)
{
	const struct fix *f = *state;

	check_lines(f, put(f, "a.jsonl", lines, sizeof(lines) - 1));
	check_lines(f, put(f, "a.json", lines, sizeof(lines) - 1));
}

static void test_compressed_lines(void **state)
{
	const struct fix *f = *state;
	char path[128], packed[1024];
	size_t n = ZSTD_compress(packed, sizeof(packed), lines,
				 sizeof(lines) - 1, 3);
	gzFile gz;

	assert_false(ZSTD_isError(n));
	check_lines(f, put(f, "a.jsonl.zst", packed, n));
	snprintf(path, sizeof(path), "%s/a.jsonl.gz", f->dir);
	gz = gzopen(path, "wb");
	assert_non_null(gz);
	assert_int_equal(gzwrite(gz, lines, sizeof(lines) - 1),
			 sizeof(lines) - 1);
	assert_int_equal(gzclose(gz), Z_OK);
	check_lines(f, path);
}

/* One window from each line that has one: its head, or drawn from it. */
static void test_a_sample_per_line(void **state)
{
	static const char text[] = "one two three four five six\n\nno\n"
				   "seven eight nine ten eleven\n";
	static const char *const whole[] = { "one two three four five six",
					     "seven eight nine ten eleven" };
	const struct fix *f = *state;
	const char *file = put(f, "a.txt", text, sizeof(text) - 1);
	struct calib_how how = { .file = &file, .files = 1, .vocab = VOCAB,
				 .samples = 2, .seqlen = 5, .per_line = true,
				 .tok = f->tok };
	struct calib c;
	struct err err;
	uint32_t *p, moved = 0;
	size_t n;

	assert_int_equal(gq_calib_load(&how, &c, &err), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(tok_encode(f->tok, whole[i], strlen(whole[i]),
					    TOK_BOS, &p, &n, &err), 0);
		assert_memory_equal(c.id + 5 * i, p, 5 * sizeof(*p));
		free(p);
	}
	gq_calib_release(&c);
	for (how.seed = 1; how.seed < 20; how.seed++) {
		assert_int_equal(gq_calib_load(&how, &c, &err), 0);
		moved += c.id[0] != c.id[5]; /* not both from their BOS on */
		gq_calib_release(&c);
	}
	assert_true(moved > 0);
	how.samples = 3;
	assert_int_equal(gq_calib_load(&how, &c, &err), -1);
	assert_non_null(strstr(err.msg, "of 3 lines 2 have 5 tokens or more"));
	unlink(file);
	file = put(f, "a.ids", "\0\0\0\0", 4);
	assert_int_equal(gq_calib_load(&how, &c, &err), -1);
	assert_int_equal(err.code, ERR_USAGE);
	unlink(file);
}

static void test_bad_lines_are_numbered(void **state)
{
	static const char missing[] = "{\"text\": \"a\"}\n\n{\"txt\": \"b\"}\n";
	static const char number[] = "{\"text\": \"a\"}\n{\"text\": 5}\n";
	static const char broken[] = "{\"text\": \"a\"\n";
	static const char array[] = "\n [{\"text\": \"a\"}]\n";
	const struct fix *f = *state;
	const char *file;

	file = put(f, "a.jsonl", missing, sizeof(missing) - 1);
	refuse(f, file, 1, 1, "a.jsonl: line 3: no field");
	put(f, "a.jsonl", number, sizeof(number) - 1);
	refuse(f, file, 1, 1, "line 2: no field");
	put(f, "a.jsonl", broken, sizeof(broken) - 1);
	refuse(f, file, 1, 1, "line 1");
	put(f, "a.jsonl", array, sizeof(array) - 1);
	refuse(f, file, 1, 1, "a.jsonl: one JSON array");
	unlink(file);
}

/* A safetensors file of one header and its data. */
static const char *put_tensors(const struct fix *f, const char *header,
			       const void *data, size_t n)
{
	uint8_t buf[2048];
	size_t len = strlen(header);

	assert_true(8 + len + n <= sizeof(buf));
	half_put64(buf, len);
	memcpy(buf + 8, header, len);
	memcpy(buf + 8 + len, data, n);
	return put(f, "a.safetensors", buf, 8 + len + n);
}

static void test_id_tensors(void **state)
{
	const struct fix *f = *state;
	uint8_t data[8 * 6];
	struct calib c;
	const char *file;

	for (uint32_t i = 0; i < 6; i++)
		half_put64(data + 8 * i, 100 + i);
	file = put_tensors(f, "{\"ids\":{\"dtype\":\"I64\",\"shape\":[2,3],"
			   "\"data_offsets\":[0,48]}}", data, 48);
	c = load(f, file, 3, 2, 0);
	for (uint32_t i = 0; i < 6; i++)
		assert_int_equal(c.id[i], 100 + i);
	gq_calib_release(&c);
	half_put64(data + 8, UINT64_C(1) << 32 | 5);
	put_tensors(f, "{\"ids\":{\"dtype\":\"I64\",\"shape\":[6],"
		    "\"data_offsets\":[0,48]}}", data, 48);
	refuse(f, file, 1, 2, "id 4294967301 at position 1");
	put_tensors(f, "{\"a\":{\"dtype\":\"I64\",\"shape\":[3],"
		    "\"data_offsets\":[0,24]},\"b\":{\"dtype\":\"I32\","
		    "\"shape\":[6],\"data_offsets\":[24,48]}}", data, 48);
	refuse(f, file, 1, 2, "both a and b");
	put_tensors(f, "{\"a\":{\"dtype\":\"F32\",\"shape\":[12],"
		    "\"data_offsets\":[0,48]}}", data, 48);
	refuse(f, file, 1, 2, "a.safetensors: no I32 or I64");
	unlink(file);
}

static void test_text_without_tokenizer(void **state)
{
	(void)state;
	refuse(NULL, TINY "/calibration.txt", 1, 8, "tokenizer");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_text_gives_the_reference_ids),
		cmocka_unit_test(test_all_ids_of_a_text),
		cmocka_unit_test(test_raw_ids_are_taken_as_they_are),
		cmocka_unit_test(test_too_little_is_said),
		cmocka_unit_test(test_bad_ids_are_refused),
		cmocka_unit_test(test_seed_draws_without_repetition),
		cmocka_unit_test(test_json_lines),
		cmocka_unit_test(test_compressed_lines),
		cmocka_unit_test(test_a_sample_per_line),
		cmocka_unit_test(test_bad_lines_are_numbered),
		cmocka_unit_test(test_id_tensors),
		cmocka_unit_test(test_text_without_tokenizer),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
