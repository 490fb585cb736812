/* Tokenizers into GGUF and back: the same ids for the same text. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/base/json.h"
#include "../../libfmt/container/gguf.h"
#include "../../libfmt/container/st.h"
#include "../../libfmt/gguf_tok.h"
#include "../../libfmt/llama.h"
#include "../../runtime/tok.h"
#include "ok.h"
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define TINY "tests/models/tiny"
#define SHARED "../shared/tokenizers"

static struct err err;

static const char *const texts[] = { "", " ", "Hello, world!",
	"  two  spaces ", "a\n\n\tb", "\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80",
	"<s> and </s> <|eot_id|><|begin_of_text|>", "It's 12345 o'clock, we'LL",
	"\xe2\x96\x81x \xe2\x96\x81", "\xff\xfe broken" };

/* Copy a file under another name; 0 when there is none. */
static int take(struct scratch *s, const char *from, const char *dir,
		const char *name)
{
	char to[200];

	if (!io_is_file(from))
		return 0;
	snprintf(to, sizeof(to), "%s/%s/%s", s->dir, dir, name);
	OK(io_copy_file(from, to, &err));
	return 1;
}

/* DIR's tokenizer as the pairs of FILE. */
static int put(const char *dir, const char *file, uint32_t vocab)
{
	struct llama_config c = { .vocab = vocab, .bos = -1 };
	const uint64_t one[1] = { 1 };
	struct gguf_meta m = { 0 };
	struct st_writer *w;
	uint32_t id;
	int found;

	OK(gguf_tok_put(dir, &c, &m, &found, &err));
	OK(st_writer_new(&w, &err));
	OK(st_writer_add(w, "x", DT_F32, 1, one, &id, &err));
	OK(gguf_create(w, file, &m, &err));
	OK(st_writer_pour(w, id, 0, "\0\0\0", 4, &err));
	OK(st_writer_commit(w, &err));
	st_writer_free(w);
	gguf_meta_release(&m);
	return found;
}

/* FILE's tokenizer as files of DIR; their kind. */
static void get(const char *file, const char *dir, const char *name)
{
	struct gguf_tok_files f;
	struct gguf_file g;
	struct src *src;
	char path[256], *text;

	OK(io_open(file, &src, &err));
	OK(gguf_open(src, 0, &g, &err));
	OK(gguf_tok_files(&g, &f, &err));
	assert_string_equal(f.name, name);
	mkdir(dir, 0777);
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	OK(io_write_file(path, f.data, f.len, &err));
	snprintf(path, sizeof(path), "%s/tokenizer_config.json", dir);
	text = json_print(f.config, true, &err);
	OK(io_write_file(path, text, strlen(text), &err));
	free(text);
	gguf_tok_release(&f);
	gguf_close(&g);
	io_close(src);
}

static void same(const char *a, const char *b, unsigned flags)
{
	struct tok *x, *y;

	OK(tok_open(a, &x, &err));
	OK(tok_open(b, &y, &err));
	assert_int_equal(tok_bos(x), tok_bos(y));
	assert_int_equal(tok_eos(x), tok_eos(y));
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		uint32_t *p, *q;
		size_t n, m;

		OK(tok_encode(x, texts[i], strlen(texts[i]), flags, &p, &n,
			      &err));
		OK(tok_encode(y, texts[i], strlen(texts[i]), flags, &q, &m,
			      &err));
		if (n != m || memcmp(p, q, n * sizeof(*p)))
			fail_msg("text %zu: %zu and %zu ids", i, n, m);
		free(p);
		free(q);
	}
	tok_close(x);
	tok_close(y);
}

static void round_trip(struct scratch *s, const char *dir, uint32_t vocab,
		       const char *name, unsigned flags)
{
	char from[200], file[200], back[200];

	snprintf(from, sizeof(from), "%s/%s", s->dir, dir);
	snprintf(file, sizeof(file), "%s/%s.gguf", s->dir, dir);
	snprintf(back, sizeof(back), "%s/%s-back", s->dir, dir);
	assert_true(put(from, file, vocab));
	get(file, back, name);
	same(from, back, TOK_BOS | flags);
}

static void make_dir(struct scratch *s, const char *name)
{
	mkdir(scratch_path(s, name), 0777);
}

static void test_model_file(void **state)
{
	make_dir(*state, "a");
	assert_true(take(*state, TINY "/tokenizer.model", "a",
			 "tokenizer.model"));
	round_trip(*state, "a", 2048, "tokenizer.model", 0);
	/* more embeddings than tokens: the rest has names and no text */
	round_trip(*state, "a", 2050, "tokenizer.model", 0);
}

/* Merges become scores.  Names of control tokens in a text are plain text to
 * SentencePiece. */
static void test_fallback(void **state)
{
	make_dir(*state, "b");
	assert_true(take(*state, TINY "/tokenizer.json", "b",
			 "tokenizer.json"));
	assert_true(take(*state, TINY "/tokenizer_config.json", "b",
			 "tokenizer_config.json"));
	round_trip(*state, "b", 2048, "tokenizer.model", TOK_NO_SPECIAL);
}

static void test_llama2(void **state)
{
	make_dir(*state, "c");
	if (!take(*state, SHARED "/llama2/tokenizer.model", "c",
		  "tokenizer.model"))
		skip();
	round_trip(*state, "c", 32000, "tokenizer.model", 0);
}

static void test_llama3(void **state)
{
	make_dir(*state, "d");
	if (!take(*state, SHARED "/llama3/tokenizer.json.zst", "d",
		  "tokenizer.json"))
		skip();
	round_trip(*state, "d", 128256, "tokenizer.json", 0);
}

#define BYTES "{\"added_tokens\": [{\"id\": 5, \"content\": \"<|e|>\", " \
	"\"special\": true, \"single_word\": false, \"lstrip\": false, " \
	"\"rstrip\": false, \"normalized\": false}], \"normalizer\": null, " \
	"\"pre_tokenizer\": %s, \"post_processor\": null, \"decoder\": " \
	"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, " \
	"\"trim_offsets\": true, \"use_regex\": true}, \"model\": " \
	"{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"c\": 2, " \
	"\"ab\": 3, \"abc\": 4}, \"merges\": [\"a b\", [\"ab\", \"c\"]]}}"
#define LEVEL "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, " \
	"\"trim_offsets\": true, \"use_regex\": true}"

static void write_bytes(struct scratch *s, const char *pre)
{
	char text[2048];
	int n = snprintf(text, sizeof(text), BYTES, pre);

	make_dir(s, "e");
	assert_non_null(scratch_write(s, "e/tokenizer.json", text, (size_t)n));
}

static void test_bytes(void **state)
{
	struct scratch *s = *state;
	char from[200], file[200], back[200];
	uint32_t *ids;
	struct tok *t;
	size_t n;

	write_bytes(s, LEVEL);
	snprintf(from, sizeof(from), "%s/e", s->dir);
	snprintf(file, sizeof(file), "%s/e.gguf", s->dir);
	snprintf(back, sizeof(back), "%s/f", s->dir);
	assert_true(put(from, file, 8));
	get(file, back, "tokenizer.json");
	OK(tok_open(back, &t, &err));
	OK(tok_encode(t, "abc<|e|>ba", 10, 0, &ids, &n, &err));
	assert_int_equal(n, 4);
	assert_int_equal(ids[0], 4);
	assert_int_equal(ids[1], 5);
	assert_int_equal(ids[2], 1);
	free(ids);
	tok_close(t);
}

/* What readers of GGUF have no name for. */
static void test_refused(void **state)
{
	static const char *const pre[] = { "null",
		"{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": "
		"\"Digits\", \"individual_digits\": true}, " LEVEL "]}",
		"{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": "
		"\"Split\", \"pattern\": {\"Regex\": \"x+\"}, \"behavior\": "
		"\"Isolated\", \"invert\": false}, " LEVEL "]}" };
	struct llama_config c = { .vocab = 8, .bos = -1 };
	struct scratch *s = *state;
	struct gguf_meta m = { 0 };
	int found;

	for (int i = 0; i < 3; i++) {
		write_bytes(s, pre[i]);
		assert_int_equal(gguf_tok_put(scratch_path(s, "e"), &c, &m,
					      &found, &err), -1);
		assert_int_equal(err.code, ERR_UNSUP);
		gguf_meta_release(&m);
	}
	/* no tokenizer is no fault, and said in the file */
	make_dir(s, "none");
	assert_false(put(scratch_path(s, "none"), scratch_path(s, "n.gguf"),
			 8));
}

static void test_broken_pairs(void **state)
{
	static const struct {
		const char *model;
		uint32_t tokens, scores;
		int code;
	} cases[] = { { "t5", 3, 3, ERR_UNSUP }, { "llama", 0, 3, ERR_INPUT },
		      { "llama", 3, 2, ERR_INPUT }, { "gpt2", 3, 3,
		      ERR_UNSUP } };
	const char *path = scratch_path(*state, "x.gguf");
	const uint64_t one[1] = { 1 };

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct gguf_meta m = { 0 };
		struct gguf_tok_files f;
		struct st_writer *w;
		struct gguf_file g;
		struct src *src;
		uint32_t id;

		gguf_put_text(&m, "tokenizer.ggml.model", cases[i].model,
			      strlen(cases[i].model));
		gguf_put_array(&m, "tokenizer.ggml.tokens", GGUF_TEXT,
			       cases[i].tokens);
		for (uint32_t k = 0; k < cases[i].tokens; k++)
			gguf_add_text(&m, &"abc"[k], 1);
		gguf_put_array(&m, "tokenizer.ggml.scores", GGUF_F32,
			       cases[i].scores);
		for (uint32_t k = 0; k < cases[i].scores; k++)
			gguf_add_f32(&m, 0);
		OK(st_writer_new(&w, &err));
		OK(st_writer_add(w, "x", DT_F32, 1, one, &id, &err));
		OK(gguf_create(w, path, &m, &err));
		OK(st_writer_pour(w, id, 0, "\0\0\0", 4, &err));
		OK(st_writer_commit(w, &err));
		st_writer_free(w);
		gguf_meta_release(&m);
		OK(io_open(path, &src, &err));
		OK(gguf_open(src, 0, &g, &err));
		assert_int_equal(gguf_tok_files(&g, &f, &err), -1);
		assert_int_equal(err.code, cases[i].code);
		assert_null(f.data);
		gguf_close(&g);
		io_close(src);
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_model_file), TEST(test_fallback), TEST(test_llama2),
		TEST(test_llama3), TEST(test_bytes), TEST(test_refused),
		TEST(test_broken_pairs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
