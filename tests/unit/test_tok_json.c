/* tokenizer.json: each stage on a vocabulary of a few pieces.  What comes out
 * is what the tokenizers library (0.23) gives for the same file and text. */
#include "../../libfmt/base/err.h"
#include "../../runtime/tok.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define VOCAB                                                                 \
	"'vocab':{'a':0,'b':1,'ab':2,'\xe2\x96\x81':3,'\xe2\x96\x81" "a':4,"   \
	"'?':5,'c':6,' ':7,'\xc3\xa9':8,'\xc4\xa0':9,'\xc4\xa0" "a':10,"       \
	"'1':11,'12':12,'abc':13,'-':14,'\xc3\x83':15,'\xc2\xa9':16,'2':17}"
#define MERGES                                                                \
	"'merges':['a b','\xe2\x96\x81 a','\xc4\xa0 a','1 2','ab c']"
#define MODEL "'model':{'type':'BPE','unk_token':'?'," VOCAB "," MERGES "}"

/* Open a file of this text, in which ' stands for ". */
static int open_text(const char *text, struct tok **t, struct err *err)
{
	char path[] = "/tmp/test_tok_XXXXXX";
	char *copy = strdup(text);
	int fd = mkstemp(path), rc;

	assert_non_null(copy);
	assert_true(fd >= 0);
	for (char *p = copy; *p; p++)
		if (*p == '\'')
			*p = '"';
	assert_int_equal(write(fd, copy, strlen(copy)), (long)strlen(copy));
	close(fd);
	rc = tok_open(path, t, err);
	unlink(path);
	free(copy);
	return rc;
}

/* A file of MODEL and these other members. */
static int open_parts(const char *parts, struct tok **t, struct err *err)
{
	char text[4096];

	snprintf(text, sizeof(text), "{%s%s%s}", parts, *parts ? "," : "",
		 MODEL);
	return open_text(text, t, err);
}

static void check_ids(const struct tok *t, const char *text, unsigned flags,
		      const char *expected)
{
	struct err err;
	uint32_t *ids;
	size_t n, at = 0;
	char got[1024] = "";

	if (tok_encode(t, text, strlen(text), flags, &ids, &n, &err))
		fail_msg("%s", err.msg);
	for (size_t i = 0; i < n && at + 12 < sizeof(got); i++)
		at += (size_t)snprintf(got + at, sizeof(got) - at, "%s%u",
				       i ? " " : "", ids[i]);
	free(ids);
	assert_string_equal(got, expected);
}

#define SPLIT(pattern, how, invert)                                          \
	"'pre_tokenizer':{'type':'Split','pattern':{" pattern                \
	"},'behavior':'" how "','invert':" invert "}"
#define META(scheme, split)                                                   \
	"'pre_tokenizer':{'type':'Metaspace','replacement':'\xe2\x96\x81',"    \
	"'prepend_scheme':'" scheme "','split':" split "}"
#define BYTES(space, regex)                                                  \
	"'pre_tokenizer':{'type':'ByteLevel','trim_offsets':true,"           \
	"'add_prefix_space':" space ",'use_regex':" regex "}"
#define ADDED(text, more) "{'id':0,'content':'" text "'" more "}"
#define SPECIAL ",'special':true,'normalized':false"
#define PLAIN ",'special':false,'normalized':false"

static const struct pipeline {
	const char *name, *parts, *text, *ids;
} pipelines[] = {
	{ "plain", "", "abcab c", "13 2 7 6" },
	{ "unknown characters", "", "axyb", "0 5 5 1" },
	{ "Prepend, Replace",
	  "'normalizer':{'type':'Sequence','normalizers':[{'type':'Prepend',"
	  "'prepend':'\xe2\x96\x81'},{'type':'Replace','pattern':{'String':"
	  "' '},'content':'\xe2\x96\x81'}]}",
	  "a ab", "4 3 2" },
	{ "Replace by a pattern",
	  "'normalizer':{'type':'Replace','pattern':{'Regex':'[xyz]+'},"
	  "'content':'b'}",
	  "axyzaxb", "2 2 1" },
	{ "NFC", "'normalizer':{'type':'NFC'}", "e\xcc\x81" "a", "8 0" },
	{ "ByteLevel", BYTES("true", "true"), "ab a \xc3\xa9" "c",
	  "9 2 10 9 15 16 6" },
	{ "ByteLevel alone", BYTES("false", "false"), "a ab", "0 9 2" },
	{ "Metaspace always",
	  META("always", "true") ",'added_tokens':[" ADDED("c", SPECIAL) "]",
	  "abcab a", "3 2 6 3 2 4" },
	{ "Metaspace first",
	  META("first", "false") ",'added_tokens':[" ADDED("c", SPECIAL) "]",
	  "abcab a", "3 2 6 2 4" },
	{ "Metaspace never", META("never", "true"), "a a", "0 4" },
	{ "Digits one by one",
	  "'pre_tokenizer':{'type':'Digits','individual_digits':true}", "a12b",
	  "0 11 17 1" },
	{ "Digits in runs",
	  "'pre_tokenizer':{'type':'Digits','individual_digits':false}",
	  "a12b", "0 12 1" },
	{ "Isolated", SPLIT("'Regex':'b'", "Isolated", "false"), "abcab",
	  "0 1 6 0 1" },
	{ "Removed", SPLIT("'String':'-'", "Removed", "false"), "ab-a-b",
	  "2 0 1" },
	{ "Removed, inverted", SPLIT("'Regex':'[ab]+'", "Removed", "true"),
	  "ab-a-b", "2 0 1" },
	{ "Contiguous", SPLIT("'String':'a'", "Contiguous", "false"), "aabab",
	  "0 0 1 0 1" },
	{ "MergedWithPrevious",
	  SPLIT("'String':'b'", "MergedWithPrevious", "false"), "abcab",
	  "2 6 2" },
	{ "MergedWithNext", SPLIT("'String':'b'", "MergedWithNext", "false"),
	  "abcab", "0 1 6 0 1" },
	{ "what is a space, what a letter",
	  SPLIT("'Regex':'\\\\s|\\\\p{L}'", "Removed", "false"),
	  "a\xe1\xa0\x8e b\xf0\xb1\x8d\x90\xc2\xa0" "1", "5 11" },
	{ "the longest added token",
	  "'added_tokens':[" ADDED("a-", PLAIN) "," ADDED("a-b", PLAIN) ","
	  ADDED("-b", SPECIAL) "]",
	  "ba-ba--b", "1 19 18 20" },
	{ "added tokens take spaces",
	  "'added_tokens':[" ADDED("<l>", SPECIAL ",'lstrip':true") ","
	  ADDED("<r>", SPECIAL ",'rstrip':true") "]",
	  "a  <l> b<r>  a <r> <l>b", "0 18 7 1 19 0 7 19 18 1" },
	{ "added tokens as words",
	  "'added_tokens':[" ADDED("ab", PLAIN ",'single_word':true") "]",
	  "ab cab ab-ab1 \xc3\xa9" "ab", "2 7 6 2 7 2 14 2 11 7 8 2" },
	{ "normalized added tokens",
	  "'normalizer':{'type':'Replace','pattern':{'String':'x'},"
	  "'content':'a'},'added_tokens':[" ADDED("xc", ",'special':false,"
	  "'normalized':true") "," ADDED("xx", PLAIN) "]",
	  "xcacxxx", "18 18 19 0" },
	{ "a template",
	  "'post_processor':{'type':'TemplateProcessing','single':["
	  "{'SpecialToken':{'id':'[','type_id':0}},{'Sequence':{'id':'A',"
	  "'type_id':0}},{'SpecialToken':{'id':']','type_id':0}}],"
	  "'special_tokens':{'[':{'id':'[','ids':[5,6],'tokens':['?','c']},"
	  "']':{'id':']','ids':[7],'tokens':[' ']}}}",
	  "ab", "5 6 2 7" },
};

static void test_pipelines(void **state)
{
	struct err err;
	struct tok *t;

	(void)state;
	for (size_t i = 0; i < sizeof(pipelines) / sizeof(*pipelines); i++) {
		const struct pipeline *p = &pipelines[i];

		if (open_parts(p->parts, &t, &err))
			fail_msg("%s: %s", p->name, err.msg);
		check_ids(t, p->text, TOK_BOS, p->ids);
		tok_close(t);
	}
}

static void test_special_tokens_as_text(void **state)
{
	struct err err;
	struct tok *t;

	(void)state;
	assert_int_equal(open_parts("'added_tokens':[" ADDED("-b", SPECIAL)
				    "," ADDED("ab", PLAIN) "]",
				    &t, &err),
			 0);
	check_ids(t, "a-bab", TOK_BOS, "0 18 2");
	check_ids(t, "a-bab", TOK_NO_SPECIAL, "0 14 1 2");
	assert_int_equal(tok_find(t, "-b"), 18);
	assert_int_equal(tok_find(t, "abc"), 13);
	assert_int_equal(tok_find(t, "b-"), -1);
	assert_int_equal(tok_vocab(t), 19);
	tok_close(t);
}

static void test_models(void **state)
{
	static const struct {
		const char *options, *text, *ids;
	} row[] = {
		{ "'unk_token':'?','fuse_unk':true", "axyb", "0 5 1" },
		{ "'unk_token':null", "axyb", "2" },
		{ "'ignore_merges':true", "abc", "13" },
		{ "'ignore_merges':false", "abca", "13 0" },
		{ "'dropout':null,'continuing_subword_prefix':''", "ab", "2" },
		{ "'byte_fallback':true,'unk_token':'?'", "ax", "0 5" },
	};
	char text[2048];
	struct err err;
	struct tok *t;

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		snprintf(text, sizeof(text), "{'model':{%s,%s,%s}}",
			 row[i].options, VOCAB, MERGES);
		if (open_text(text, &t, &err))
			fail_msg("%s: %s", row[i].options, err.msg);
		check_ids(t, row[i].text, 0, row[i].ids);
		tok_close(t);
	}
}

static void test_byte_fallback(void **state)
{
	struct err err;
	struct tok *t;

	(void)state;
	/* U+00E9 has both its bytes, U+00E8 only one of them; what is unknown
	 * comes when the next known character does */
	assert_int_equal(
		open_text("{'model':{'type':'BPE','byte_fallback':true,"
			  "'unk_token':'?','fuse_unk':true,'vocab':{'?':0,"
			  "'a':1,'<0xC3>':2,'<0xA9>':3},'merges':[]}}",
			  &t, &err),
		0);
	check_ids(t, "a\xc3\xa9" "a", 0, "1 2 3 1");
	check_ids(t, "\xc3\xa8\xc3\xa9" "a", 0, "2 3 0 1");
	/* a broken byte is U+FFFD first, and that is unknown */
	check_ids(t, "a\xff\xe2\x96" "a", 0, "1 0 1");
	tok_close(t);
}

#define DECODER(list) "'decoder':{'type':'Sequence','decoders':[" list "]}"
#define TO_SPACE                                                              \
	"{'type':'Replace','pattern':{'String':'\xe2\x96\x81'},'content':' '}"
#define STRIP(start, stop)                                                   \
	"{'type':'Strip','content':' ','start':" start ",'stop':" stop "}"
#define FUSE "{'type':'Fuse'}"

static void test_decoders(void **state)
{
	static const struct {
		const char *parts, *text;
	} row[] = {
		/* of the ids 3 4 3 15 16 7 9 3 */
		{ "'decoder':null",
		  "\xe2\x96\x81 \xe2\x96\x81" "a \xe2\x96\x81 "
		  "\xc3\x83 \xc2\xa9   \xc4\xa0 \xe2\x96\x81" },
		{ "'decoder':{'type':'ByteLevel'}",
		  "\xe2\x96\x81\xe2\x96\x81" "a\xe2\x96\x81\xc3\xa9  "
		  "\xe2\x96\x81" },
		{ DECODER(TO_SPACE "," FUSE "," STRIP("1", "0")),
		  " a \xc3\x83\xc2\xa9 \xc4\xa0 " },
		{ DECODER(TO_SPACE "," FUSE "," STRIP("9", "3")),
		  "a \xc3\x83\xc2\xa9 \xc4\xa0" },
		{ DECODER(TO_SPACE "," STRIP("1", "0")),
		  "a\xc3\x83\xc2\xa9\xc4\xa0" },
		{ "'decoder':{'type':'Metaspace','replacement':'\xe2\x96\x81',"
		  "'prepend_scheme':'always','split':true}",
		  " a \xc3\x83\xc2\xa9 \xc4\xa0 " },
	};
	static const uint32_t ids[] = { 3, 4, 3, 15, 16, 7, 9, 3 };
	struct err err;
	struct tok *t;
	char *text;
	size_t len;

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		if (open_parts(row[i].parts, &t, &err) ||
		    tok_decode(t, ids, 8, false, &text, &len, &err))
			fail_msg("%s: %s", row[i].parts, err.msg);
		assert_string_equal(text, row[i].text);
		assert_int_equal(len, strlen(row[i].text));
		free(text);
		tok_close(t);
	}
}

static void test_what_is_not_supported_is_named(void **state)
{
	static const struct {
		const char *parts, *word;
		int code;
	} row[] = {
		{ "'normalizer':{'type':'NFKC'}", "NFKC", ERR_UNSUP },
		{ "'normalizer':{'type':'Sequence','normalizers':[{'type':"
		  "'Lowercase'}]}",
		  "Lowercase", ERR_UNSUP },
		{ "'pre_tokenizer':{'type':'BertPreTokenizer'}",
		  "BertPreTokenizer", ERR_UNSUP },
		{ SPLIT("'Regex':'a'", "Sideways", "false"), "Sideways",
		  ERR_UNSUP },
		{ SPLIT("'Regex':'\\\\w+'", "Isolated", "false"), "\\w",
		  ERR_UNSUP },
		{ SPLIT("'Regex':'[a&&b]'", "Isolated", "false"), "&&",
		  ERR_UNSUP },
		{ SPLIT("'Regex':'(?<n>a)'", "Isolated", "false"), "(?<",
		  ERR_UNSUP },
		{ SPLIT("'Regex':'(a'", "Isolated", "false"), "(a",
		  ERR_UNSUP },
		{ "'decoder':{'type':'CTC'}", "CTC", ERR_UNSUP },
		{ DECODER(FUSE ",{'type':'ByteFallback'}"), "behind Fuse",
		  ERR_UNSUP },
		{ "'post_processor':{'type':'BertProcessing'}",
		  "BertProcessing", ERR_UNSUP },
		{ "'post_processor':{'type':'TemplateProcessing','single':["
		  "{'SpecialToken':{'id':'x'}},{'Sequence':{'id':'A'}}],"
		  "'special_tokens':{}}",
		  "\"x\"", ERR_INPUT },
		{ "'added_tokens':[{'id':0}]", "added_tokens[0]", ERR_INPUT },
		{ "'normalizer':{}", "normalizer", ERR_INPUT },
	};
	struct err err;
	struct tok *t;

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		assert_int_equal(open_parts(row[i].parts, &t, &err), -1);
		assert_null(t);
		assert_int_equal(err.code, row[i].code);
		if (!strstr(err.msg, row[i].word))
			fail_msg("\"%s\" does not name %s", err.msg,
				 row[i].word);
	}
}

static void test_broken_models(void **state)
{
	static const struct {
		const char *text, *word;
		int code;
	} row[] = {
		{ "{}", "model", ERR_INPUT },
		{ "{'model':{'type':'Unigram','vocab':[]}}", "Unigram",
		  ERR_UNSUP },
		{ "{'model':{'vocab':{'a':-1},'merges':[]}}", "vocab",
		  ERR_INPUT },
		{ "{'model':{'vocab':{'a':99999999},'merges':[]}}", "vocab",
		  ERR_INPUT },
		{ "{'model':{'vocab':{'a':1,'b':1},'merges':[]}}", "two",
		  ERR_INPUT },
		{ "{'model':{'vocab':{'a':1},'merges':['a']}}", "merges[0]",
		  ERR_INPUT },
		{ "{'model':{'vocab':{'a':1},'merges':['a b']}}", "\"b\"",
		  ERR_INPUT },
		{ "{'model':{'vocab':{'a':1},'merges':[['a','a']]}}", "\"aa\"",
		  ERR_INPUT },
		{ "{'model':{'vocab':{'a':1},'merges':[['a','a','a']]}}",
		  "merges[0]", ERR_INPUT },
		{ "{'model':{'dropout':0.1,'vocab':{},'merges':[]}}",
		  "dropout", ERR_UNSUP },
		{ "{'model':{'end_of_word_suffix':'x','vocab':{},'merges':[]}}",
		  "end_of_word_suffix", ERR_UNSUP },
	};
	struct err err;
	struct tok *t;

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		assert_int_equal(open_text(row[i].text, &t, &err), -1);
		assert_int_equal(err.code, row[i].code);
		if (!strstr(err.msg, row[i].word))
			fail_msg("\"%s\" does not name %s", err.msg,
				 row[i].word);
	}
}

/* A pattern that tries all ways ends with an error, not never. */
static void test_endless_pattern(void **state)
{
	char text[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
	struct err err;
	struct tok *t;
	uint32_t *ids;
	size_t n;

	(void)state;
	assert_int_equal(open_parts(SPLIT("'Regex':'(?:a|aa)+[bc]'", "Isolated",
					  "false"),
				    &t, &err),
			 0);
	assert_int_equal(tok_encode(t, text, strlen(text), 0, &ids, &n, &err),
			 -1);
	assert_int_equal(err.code, ERR_UNSUP);
	assert_null(ids);
	tok_close(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pipelines),
		cmocka_unit_test(test_special_tokens_as_text),
		cmocka_unit_test(test_models),
		cmocka_unit_test(test_byte_fallback),
		cmocka_unit_test(test_decoders),
		cmocka_unit_test(test_what_is_not_supported_is_named),
		cmocka_unit_test(test_broken_models),
		cmocka_unit_test(test_endless_pattern),
	};

	return cmocka_run_group_tests_name("tok_json", tests, NULL, NULL);
}
