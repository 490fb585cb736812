/* Tokenizers against the originals' ids, and models written byte by byte. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/hash.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/base/json.h"
#include "../../runtime/tok.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define TINY "tests/models/tiny"
#define LLAMA2 "../shared/tokenizers/llama2"
#define LLAMA3 "../shared/tokenizers/llama3"
#define WIKITEXT "../shared/data/wikitext-2-test.txt"
#define MARK "\xe2\x96\x81" /* U+2581 */

static struct tok *open_tok(const char *path)
{
	struct err err;
	struct tok *t;

	if (tok_open(path, &t, &err))
		fail_msg("%s", err.msg);
	return t;
}

/* The goldens have texts with U+0000, which json.h does not take: it reads
 * U+F8FF in its place (6 bytes, too), and plain() puts it back. */
static struct cJSON *open_json(const char *path)
{
	struct err err;
	struct cJSON *j;
	char *text, *p;
	size_t len;

	if (io_read_file(path, UINT32_MAX, &text, &len, &err))
		fail_msg("%s", err.msg);
	assert_null(strstr(text, "\\uf8ff"));
	for (p = text; (p = strstr(p, "\\u0000")); p++)
		memcpy(p, "\\uf8ff", 6);
	if (json_parse(text, len, 0, &j, &err))
		fail_msg("%s: %s", path, err.msg);
	free(text);
	return j;
}

/* A string of such a file; *len counts the NULs in it. */
static const char *plain(const struct cJSON *obj, const char *key,
			 char out[65536], size_t *len)
{
	const char *s = json_text(json_find(obj, key));
	size_t n = 0;

	assert_non_null(s);
	while (*s) {
		assert_true(n < 65535);
		if (strncmp(s, "\xef\xa3\xbf", 3) == 0) {
			out[n++] = '\0';
			s += 3;
		} else {
			out[n++] = *s++;
		}
	}
	out[n] = '\0';
	*len = n;
	return out;
}

static int need(const char *path)
{
	if (io_is_file(path))
		return 1;
	print_message("skipped: %s is not there\n", path);
	skip();
	return 0;
}

/* ---- the goldens ---- */

static void check_ids(const struct tok *t, const struct cJSON *row)
{
	static char space[65536];
	const struct cJSON *expected = json_find(row, "ids");
	const struct cJSON *k = json_first(expected);
	const char *text;
	struct err err;
	uint32_t *ids;
	uint64_t id;
	size_t n, len;

	text = plain(row, "text", space, &len);
	if (tok_encode(t, text, len, TOK_BOS, &ids, &n, &err))
		fail_msg("%s", err.msg);
	for (size_t i = 0; i < n; i++, k = json_next(k))
		if (json_uint(k, UINT32_MAX, &id) || id != ids[i])
			fail_msg("\"%s\": id %zu is %u, not %llu", text, i,
				 ids[i], (unsigned long long)id);
	if (n != json_count(expected))
		fail_msg("\"%s\": %zu ids, not %u", text, n,
			 json_count(expected));
	free(ids);
}

static void check_cases(const char *tokenizer, const char *golden)
{
	struct tok *t;
	struct cJSON *j;
	const struct cJSON *k;

	if (!need(tokenizer) || !need(golden))
		return;
	t = open_tok(tokenizer);
	j = open_json(golden);
	k = json_first(json_find(j, "cases"));
	assert_non_null(k);
	for (; k; k = json_next(k))
		check_ids(t, k);
	json_free(j);
	tok_close(t);
}

static void test_llama2(void **state)
{
	(void)state;
	check_cases(LLAMA2 "/tokenizer.model", LLAMA2 "/golden.json");
}

static void test_llama3(void **state)
{
	(void)state;
	check_cases(LLAMA3 "/tokenizer.json.zst", LLAMA3 "/golden.json");
}

static uint32_t read_ids(const struct cJSON *list, uint32_t ids[4096])
{
	uint32_t n = 0;
	uint64_t id;

	for (const struct cJSON *k = json_first(list); k; k = json_next(k)) {
		assert_int_equal(json_uint(k, UINT32_MAX, &id), 0);
		assert_true(n < 4096);
		ids[n++] = (uint32_t)id;
	}
	return n;
}

static void check_text(const struct tok *t, const uint32_t *ids, uint32_t n,
		       const struct cJSON *row, const char *key)
{
	static char space[65536];
	bool special = strcmp(key, "decoded_with_special") == 0;
	struct err err;
	const char *expected;
	char *text;
	size_t len, want;

	expected = plain(row, key, space, &want);
	if (tok_decode(t, ids, n, special, &text, &len, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(len, want);
	assert_memory_equal(text, expected, len);
	free(text);
}

/* Feed ids[k..n) behind the context ids[0..k): what comes, and that every
 * piece of it is whole characters.  Returns its length. */
static size_t stream(const struct tok *t, const uint32_t *ids, uint32_t k,
		     uint32_t n, char out[65536])
{
	struct err err;
	struct tok_stream *s;
	const char *text;
	size_t len, at = 0;

	if (tok_stream_new(t, ids, k, &s, &err))
		fail_msg("%s", err.msg);
	for (; k <= n; k++) {
		int rc = k < n ? tok_stream_feed(s, ids[k], &text, &len,
						 &err) :
				 tok_stream_flush(s, &text, &len, &err);

		if (rc)
			fail_msg("%s", err.msg);
		assert_true(!len || ((uint8_t)text[0] & 0xc0) != 0x80);
		assert_true(at + len < 65536);
		memcpy(out + at, text, len);
		at += len;
	}
	out[at] = '\0';
	tok_stream_free(s);
	return at;
}

/* Streaming from any place of a list goes on where the text before ends (as
 * far as that text is the beginning of the whole: not in the middle of a run
 * of bytes that is broken later). */
static void check_stream(const struct tok *t, const uint32_t *ids, uint32_t n)
{
	static char out[65536];
	struct err err;
	char *whole, *front;
	size_t len, part, got;

	assert_int_equal(tok_decode(t, ids, n, false, &whole, &len, &err), 0);
	for (uint32_t k = 0; k <= n; k += 1 + n / 16) {
		assert_int_equal(tok_decode(t, ids, k, false, &front, &part,
					    &err),
				 0);
		got = stream(t, ids, k, n, out);
		if (part <= len && memcmp(front, whole, part) == 0) {
			assert_int_equal(got, len - part);
			assert_memory_equal(out, whole + part, got);
		}
		free(front);
	}
	free(whole);
}

static void check_golden_ids(const struct tok *t, const struct cJSON *k)
{
	uint32_t ids[4096], n = read_ids(json_find(k, "ids"), ids);

	check_text(t, ids, n, k, "decoded");
	check_text(t, ids, n, k, "decoded_with_special");
	check_stream(t, ids, n);
}

static void test_tiny_json(void **state)
{
	struct cJSON *j = open_json(TINY "/tokenizer-golden.json");
	struct tok *t = open_tok(TINY);
	const struct cJSON *k = json_first(json_find(j, "strings"));

	(void)state;
	assert_string_equal(tok_source(t), "tokenizer.json");
	assert_int_equal(tok_vocab(t), 2048);
	assert_int_equal(tok_bos(t), 1);
	assert_int_equal(tok_eos(t), 2);
	assert_int_equal(json_count(json_find(j, "strings")), 230);
	for (; k; k = json_next(k)) {
		check_ids(t, k);
		check_golden_ids(t, k);
	}
	k = json_first(json_find(j, "decode_only"));
	assert_non_null(k);
	for (; k; k = json_next(k))
		check_golden_ids(t, k);
	json_free(j);
	tok_close(t);
}

/* SentencePiece gives the same ids where no special token is in the text. */
static void test_tiny_model(void **state)
{
	struct cJSON *j = open_json(TINY "/tokenizer-golden.json");
	struct tok *t = open_tok(TINY "/tokenizer.model");
	const struct cJSON *k = json_first(json_find(j, "strings"));
	uint32_t ids[4096], n, compared = 0;

	(void)state;
	assert_string_equal(tok_source(t), "tokenizer.model");
	assert_int_equal(tok_vocab(t), 2048);
	assert_int_equal(tok_bos(t), 1);
	assert_int_equal(tok_eos(t), 2);
	for (; k; k = json_next(k)) {
		const char *text = json_text(json_find(k, "text"));

		if (strstr(text, "<unk>") || strstr(text, "<s>") ||
		    strstr(text, "</s>"))
			continue;
		check_ids(t, k);
		n = read_ids(json_find(k, "ids"), ids);
		check_text(t, ids, n, k, "decoded");
		check_stream(t, ids, n);
		compared++;
	}
	assert_true(compared > 200);
	json_free(j);
	tok_close(t);
}

/* ---- whole files; the hashes are of the ids whose SHA-256 reference.json
 * has ---- */

static void check_file(const struct tok *t, const char *path, size_t count,
		       const char *hash)
{
	struct err err;
	char hex[HASH_HEX], *text;
	uint32_t *ids;
	size_t len, n = 0;

	if (io_read_file(path, UINT32_MAX, &text, &len, &err) ||
	    tok_encode(t, text, len, TOK_BOS, &ids, &n, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(n, count);
	for (size_t i = 0; i < n; i++)
		half_put32(&ids[i], ids[i]);
	hash_bytes(ids, n * sizeof(*ids), hex);
	assert_string_equal(hex, hash);
	free(ids);
	free(text);
}

static void test_eval_text(void **state)
{
	static const uint32_t head[] = { 1, 358, 1970, 1717, 13, 13, 277, 351 };
	static const uint32_t tail[] = { 724, 13, 2001, 13, 13, 259, 13 };
	struct tok *t = open_tok(TINY);
	struct err err;
	uint32_t *ids;
	char *text;
	size_t len, n;

	(void)state;
	check_file(t, TINY "/eval.txt", 106975,
		   "4ae50d9156d87ec4b77a4729296ebe95");
	assert_int_equal(io_read_file(TINY "/eval.txt", UINT32_MAX, &text,
				      &len, &err),
			 0);
	assert_int_equal(tok_encode(t, text, len, TOK_BOS, &ids, &n, &err), 0);
	assert_memory_equal(ids, head, sizeof(head));
	assert_memory_equal(ids + n - 7, tail, sizeof(tail));
	free(ids);
	free(text);
	tok_close(t);
}

static void test_wikitext(void **state)
{
	struct tok *t;

	(void)state;
	if (!need(WIKITEXT))
		return;
	t = open_tok(TINY);
	check_file(t, WIKITEXT, 485913, "9da041cb22bdca70917925d7a3995d5c");
	tok_close(t);
}

/* ---- streaming ---- */

static void test_continuation_keeps_its_space(void **state)
{
	static const char *const file[] = { TINY, TINY "/tokenizer.model" };
	static const char text[] = "In the beginning God created the heaven";
	struct err err;
	char out[65536];
	uint32_t *ids, *start;
	size_t n, k;

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct tok *t = open_tok(file[i]);

		assert_int_equal(tok_encode(t, text, 16, TOK_BOS, &start, &k,
					    &err),
				 0);
		assert_int_equal(tok_encode(t, text, strlen(text), TOK_BOS,
					    &ids, &n, &err),
				 0);
		assert_memory_equal(ids, start, k * sizeof(*ids));
		stream(t, ids, (uint32_t)k, (uint32_t)n, out);
		assert_string_equal(out, text + 16);
		stream(t, ids, 0, (uint32_t)n, out);
		assert_string_equal(out, text);
		free(ids);
		free(start);
		tok_close(t);
	}
}

static void test_newline_of_the_prompt_comes_once(void **state)
{
	struct tok *t = open_tok(TINY);
	struct err err;
	char out[65536];
	uint32_t *ids;
	size_t n;

	(void)state;
	/* "\n" is a byte token, which the decoder must hold back */
	assert_int_equal(tok_encode(t, "a\n\nb", 4, TOK_BOS, &ids, &n, &err),
			 0);
	assert_int_equal(n, 5);
	stream(t, ids, 3, 5, out);
	assert_string_equal(out, "\nb");
	stream(t, ids, 4, 5, out);
	assert_string_equal(out, "b");
	free(ids);
	tok_close(t);
}

static void test_ids_beyond_the_vocabulary(void **state)
{
	static const char *const file[] = { TINY, TINY "/tokenizer.model" };
	uint32_t ids[2] = { 300, 2048 };
	struct tok_stream *s;
	const char *part;
	struct err err;
	char *text;
	size_t len;

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct tok *t = open_tok(file[i]);

		assert_int_equal(tok_decode(t, ids, 2, true, &text, &len,
					    &err),
				 -1);
		assert_int_equal(err.code, ERR_INPUT);
		assert_null(text);
		assert_int_equal(tok_stream_new(t, ids, 2, &s, &err), -1);
		assert_int_equal(tok_stream_new(t, ids, 1, &s, &err), 0);
		assert_int_equal(tok_stream_feed(s, UINT32_MAX, &part, &len,
						 &err),
				 -1);
		tok_stream_free(s);
		tok_close(t);
	}
}

/* ---- long texts: linear, and the same back ---- */

static void check_round(const struct tok *t, const char *unit, size_t n)
{
	size_t k = strlen(unit), len = 0;
	char *text = malloc(n * k), *back = NULL;
	struct err err;
	uint32_t *ids;
	size_t count;

	assert_non_null(text);
	for (size_t i = 0; i < n; i++)
		memcpy(text + i * k, unit, k);
	if (tok_encode(t, text, n * k, 0, &ids, &count, &err) ||
	    tok_decode(t, ids, count, false, &back, &len, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(len, n * k);
	assert_memory_equal(back, text, len);
	free(back);
	free(ids);
	free(text);
}

static void test_unbroken_text(void **state)
{
	static const char *const file[] = { TINY, TINY "/tokenizer.model",
					    LLAMA2 "/tokenizer.model",
					    LLAMA3 "/tokenizer.json.zst" };

	(void)state;
	for (int i = 0; i < 4; i++) {
		struct tok *t;

		if (i >= 2 && !io_is_file(file[i])) {
			print_message("skipped: %s is not there\n", file[i]);
			continue;
		}
		t = open_tok(file[i]);
		check_round(t, "a", 300000);
		check_round(t, " ", 300000);
		check_round(t, "\n", 100000);
		check_round(t, "\xe4\xb8\xad", 100000);
		check_round(t, " the", 30000);
		check_round(t, "  \n", 30000);
		tok_close(t);
	}
}

static void test_any_bytes(void **state)
{
	struct tok *json = open_tok(TINY);
	struct tok *model = open_tok(TINY "/tokenizer.model");
	/* 0xe2 0x96 is one beginning of a character to Unicode, two broken
	 * bytes to SentencePiece */
	static const char text[] = "a\0b\xff\xe2\x96" "c";
	struct err err;
	uint32_t *ids;
	char *back;
	size_t n, len;

	(void)state;
	assert_int_equal(tok_encode(json, text, 7, 0, &ids, &n, &err), 0);
	assert_int_equal(tok_decode(json, ids, n, false, &back, &len, &err),
			 0);
	assert_int_equal(len, 10);
	assert_memory_equal(back, "a\0b\xef\xbf\xbd\xef\xbf\xbd" "c", 10);
	free(ids);
	free(back);
	assert_int_equal(tok_encode(model, text, 7, 0, &ids, &n, &err), 0);
	assert_int_equal(tok_decode(model, ids, n, false, &back, &len, &err),
			 0);
	assert_int_equal(len, 13);
	assert_memory_equal(back,
			    "a\0b\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" "c", 13);
	free(ids);
	free(back);
	assert_int_equal(tok_encode(json, NULL, 0, 0, &ids, &n, &err), 0);
	assert_int_equal(n, 0);
	free(ids);
	tok_close(json);
	tok_close(model);
}

/* ---- models written here ---- */

struct proto {
	uint8_t b[8192];
	size_t n;
};

static void put(struct proto *p, const void *s, size_t n)
{
	assert_true(p->n + n <= sizeof(p->b));
	memcpy(p->b + p->n, s, n);
	p->n += n;
}

static void put_number(struct proto *p, uint64_t v)
{
	do {
		uint8_t c = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));

		put(p, &c, 1);
		v >>= 7;
	} while (v);
}

static void put_bytes(struct proto *p, unsigned field, const void *s,
		      size_t n)
{
	put_number(p, field << 3 | 2);
	put_number(p, n);
	put(p, s, n);
}

static void put_value(struct proto *p, unsigned field, uint64_t v)
{
	put_number(p, field << 3);
	put_number(p, v);
}

static void put_piece(struct proto *p, const char *text, float score,
		      unsigned type)
{
	struct proto m = { .n = 0 };
	uint8_t le[4];

	put_bytes(&m, 1, text, strlen(text));
	half_put32(le, half_bits(score));
	put_number(&m, 2 << 3 | 5);
	put(&m, le, 4);
	if (type != 1)
		put_value(&m, 3, type);
	put_bytes(p, 1, m.b, m.n);
}

/* trainer_spec: BPE, no byte_fallback.  normalizer_spec: these flags. */
static void put_specs(struct proto *p, bool dummy, bool squeeze,
		      const struct proto *map)
{
	struct proto m = { .n = 0 };

	if (map)
		put_bytes(&m, 2, map->b, map->n);
	put_value(&m, 3, dummy);
	put_value(&m, 4, squeeze);
	put_bytes(p, 3, m.b, m.n);
	m.n = 0;
	put_value(&m, 3, 2);
	put_bytes(p, 2, m.b, m.n);
}

static int open_bytes(const void *data, size_t n, struct tok **t,
		      struct err *err)
{
	char path[] = "/tmp/test_tok_XXXXXX";
	int fd = mkstemp(path), rc;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, n), (long)n);
	close(fd);
	rc = tok_open(path, t, err);
	unlink(path);
	return rc;
}

static struct tok *open_proto(const struct proto *p)
{
	struct err err;
	struct tok *t;

	if (open_bytes(p->b, p->n, &t, &err))
		fail_msg("%s", err.msg);
	return t;
}

static void expect(const struct tok *t, const char *text, const char *ids)
{
	struct err err;
	uint32_t *got;
	char s[1024] = "";
	size_t n, at = 0;

	assert_int_equal(tok_encode(t, text, strlen(text), 0, &got, &n, &err),
			 0);
	for (size_t i = 0; i < n && at + 12 < sizeof(s); i++)
		at += (size_t)snprintf(s + at, sizeof(s) - at, "%s%u",
				       i ? " " : "", got[i]);
	free(got);
	assert_string_equal(s, ids);
}

static void put_letters(struct proto *p)
{
	put_piece(p, "<unk>", 0, 2);  /* 0 */
	put_piece(p, "<s>", 0, 3);    /* 1 */
	put_piece(p, "</s>", 0, 3);   /* 2 */
	put_piece(p, "a", -10, 1);    /* 3 */
	put_piece(p, "b", -11, 1);    /* 4 */
	put_piece(p, "c", -12, 1);    /* 5 */
	put_piece(p, MARK, -13, 1);   /* 6 */
}

static void test_scores_and_ties(void **state)
{
	struct proto p = { .n = 0 };
	struct tok *t;

	(void)state;
	put_letters(&p);
	put_piece(&p, "ab", -2, 1);   /* 7 */
	put_piece(&p, "bc", -1, 1);   /* 8: better than ab */
	put_piece(&p, "aa", -3, 1);   /* 9 */
	put_piece(&p, "ca", -3, 1);   /* 10: as good as aa */
	put_piece(&p, "xy", -1, 1);   /* 11: of characters that are no pieces */
	put_specs(&p, false, false, NULL);
	t = open_proto(&p);
	expect(t, "abc", "3 8");
	expect(t, "aaa", "9 3");
	expect(t, "caa", "10 3"); /* the left one of two equals */
	expect(t, "xyx", "11 0");
	expect(t, "a b", "3 6 4");
	expect(t, "pqra", "0 3"); /* one id for an unknown run */
	expect(t, "<s>", "0");    /* no control piece in a text */
	tok_close(t);
}

static void test_user_defined_and_unused(void **state)
{
	struct proto p = { .n = 0 };
	struct tok *t;

	(void)state;
	put_letters(&p);
	put_piece(&p, "ab", -1, 5);         /* 7: unused, but a way to abc */
	put_piece(&p, "abc", -2, 1);        /* 8 */
	put_piece(&p, "bb", 0, 4);          /* 9: user-defined */
	put_piece(&p, "bbc", 0, 4);         /* 10 */
	put_piece(&p, MARK "a", -1, 1);     /* 11 */
	put_specs(&p, true, true, NULL);
	t = open_proto(&p);
	expect(t, "abc", "11 4 5");
	expect(t, "ccabc", "6 5 5 8");
	expect(t, "cab", "6 5 3 4");  /* ab is taken apart again */
	expect(t, "abbcbb", "11 10 9"); /* the longest; nothing joins it */
	expect(t, "  a   b  ", "11 6 4"); /* spaces are squeezed */
	expect(t, "   ", "");
	tok_close(t);
}

/* The table turns A into "b", and AB into nothing, with one trie node for
 * each letter: root -> 0x141 (A) -> 0x1c2 (B), values at 0x142 and 0x1c1. */
static void make_map(struct proto *map)
{
	uint32_t unit[0x200] = { 0 };
	uint8_t le[4];

	unit[0] = 0x100u << 10;
	/* offset 0x0c1: children of A at 0x141 ^ 0x0c1 = 0x180; its value is
	 * there, its child B at 0x180 ^ 0x42 */
	unit[0x141] = 0x0c1u << 10 | 1u << 8 | 'A';
	unit[0x180] = 1u << 31 | 0;
	unit[0x180 ^ 'B'] = 1u << 10 | 1u << 8 | 'B';
	unit[0x180 ^ 'B' ^ 1] = 1u << 31 | 2;
	map->n = 0;
	half_put32(le, sizeof(unit));
	put(map, le, 4);
	for (size_t i = 0; i < 0x200; i++) {
		half_put32(le, unit[i]);
		put(map, le, 4);
	}
	put(map, "b\0", 3); /* "b" at 0, "" at 2 */
}

static void test_normalizer_table(void **state)
{
	struct proto p = { .n = 0 }, map;
	struct err err;
	struct tok *t;

	(void)state;
	make_map(&map);
	put_letters(&p);
	put_specs(&p, false, false, &map);
	t = open_proto(&p);
	expect(t, "aAa", "3 4 3");
	expect(t, "aABa", "3 3");
	expect(t, "AAB", "4");
	tok_close(t);
	/* values outside the texts, and a table that says to be longer */
	map.b[4 + 4 * 0x180 + 1] = 0xff;
	p.n = 0;
	put_letters(&p);
	put_specs(&p, false, false, &map);
	t = open_proto(&p);
	expect(t, "aAa", "3 3");
	tok_close(t);
	map.b[1] = 0x0f;
	p.n = 0;
	put_letters(&p);
	put_specs(&p, false, false, &map);
	assert_int_equal(open_bytes(p.b, p.n, &t, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
}

static void test_broken_models(void **state)
{
	struct proto p = { .n = 0 };
	struct err err;
	struct tok *t;
	size_t whole;

	(void)state;
	put_letters(&p);
	put_specs(&p, true, false, NULL);
	whole = p.n;
	/* without its end it is not BPE */
	for (size_t n = 0; n < whole; n++) {
		assert_int_equal(open_bytes(p.b, n, &t, &err), -1);
		assert_true(err.code == ERR_INPUT || err.code == ERR_UNSUP);
	}
	put_piece(&p, "a", 0, 1);
	assert_int_equal(open_bytes(p.b, p.n, &t, &err), -1);
	assert_non_null(strstr(err.msg, "piece 7: it is there twice"));
	p.n = whole;
	put_piece(&p, "\xff", 0, 1);
	assert_int_equal(open_bytes(p.b, p.n, &t, &err), -1);
	assert_non_null(strstr(err.msg, "UTF-8"));
	p.n = whole;
	put_piece(&p, "<0x41>", 0, 6);
	assert_int_equal(open_bytes(p.b, p.n, &t, &err), -1);
	assert_non_null(strstr(err.msg, "byte_fallback"));
	p.n = whole;
	put_value(&p, 2, 7); /* trainer_spec must be bytes */
	assert_int_equal(open_bytes(p.b, p.n, &t, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	assert_int_equal(tok_open("tests/unit", &t, &err), -1);
	assert_non_null(strstr(err.msg, "no tokenizer.json"));
	assert_int_equal(tok_open("tests/unit/none", &t, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tiny_json),
		cmocka_unit_test(test_tiny_model),
		cmocka_unit_test(test_llama2),
		cmocka_unit_test(test_llama3),
		cmocka_unit_test(test_eval_text),
		cmocka_unit_test(test_wikitext),
		cmocka_unit_test(test_continuation_keeps_its_space),
		cmocka_unit_test(test_newline_of_the_prompt_comes_once),
		cmocka_unit_test(test_ids_beyond_the_vocabulary),
		cmocka_unit_test(test_unbroken_text),
		cmocka_unit_test(test_any_bytes),
		cmocka_unit_test(test_scores_and_ties),
		cmocka_unit_test(test_user_defined_and_unused),
		cmocka_unit_test(test_normalizer_table),
		cmocka_unit_test(test_broken_models),
	};

	return cmocka_run_group_tests_name("tok", tests, NULL, NULL);
}
