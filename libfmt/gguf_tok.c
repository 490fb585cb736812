/* Tokenizer files from the pairs of a GGUF file. */
#include "gguf_tok_impl.h"

#include "base/err.h"
#include "base/half.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/proto.h"
#include "container/gguf.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Patterns as the tokenizer.json of these families has them.
 * Source: llama.cpp, src/llama-vocab.cpp (the comments "original regex"). */
#define GENERAL(numbers)                                                   \
	"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"      \
	numbers "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"            \
	"\\s+(?!\\S)|\\s+"
#define TEKKEN                                                             \
	"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*"       \
	"[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?"             \
	"[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+"                             \
	"[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+"       \
	"[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

const struct gguf_tok_pre gguf_tok_pre[] = {
	{ "llama-bpe", GENERAL("\\p{N}{1,3}"), 1, 0 },
	{ "smaug-bpe", GENERAL("\\p{N}{1,3}"), 0, 0 },
	{ "qwen2", GENERAL("\\p{N}"), 0, 1 },
	{ "tekken", TEKKEN, 1, 0 },
	{ "gpt-2", NULL, 0, 0 },
};
const uint32_t gguf_tok_pre_count =
	sizeof(gguf_tok_pre) / sizeof(gguf_tok_pre[0]);

/* The pairs, checked against each other. */
struct pairs {
	const struct gguf_file *f;
	const struct gguf_kv *tokens, *scores, *types;
	uint32_t count;
};

/* Scores and types may be longer than the list, never shorter. */
static int find_pairs(struct pairs *p, struct err *err)
{
	p->tokens = gguf_array(p->f, "tokenizer.ggml.tokens", GGUF_TEXT);
	p->scores = gguf_array(p->f, "tokenizer.ggml.scores", GGUF_F32);
	p->types = gguf_array(p->f, "tokenizer.ggml.token_type", GGUF_I32);
	if (!p->tokens || !p->tokens->count || p->tokens->count >= 1u << 24)
		return err_set(err, ERR_INPUT, "tokenizer.ggml.tokens is "
			       "missing or no list of tokens");
	if ((p->scores && p->scores->count < p->tokens->count) ||
	    (p->types && p->types->count < p->tokens->count))
		return err_set(err, ERR_INPUT, "%s has fewer entries than "
			       "tokenizer.ggml.tokens", p->scores &&
			       p->scores->count < p->tokens->count ?
			       "tokenizer.ggml.scores" :
			       "tokenizer.ggml.token_type");
	p->count = (uint32_t)p->tokens->count;
	return 0;
}

static uint32_t type_of(const struct pairs *p, uint32_t id)
{
	uint32_t t = p->types ? half_le32((const uint8_t *)p->types->data +
					  4 * (size_t)id) : GGUF_TOK_NORMAL;

	return t >= GGUF_TOK_NORMAL && t <= GGUF_TOK_BYTE ? t :
							    GGUF_TOK_NORMAL;
}

static float score_of(const struct pairs *p, uint32_t id)
{
	return p->scores ? half_from_bits(half_le32(
		(const uint8_t *)p->scores->data + 4 * (size_t)id)) : 0;
}

/* ---- tokenizer_config.json ---- */

/* A text of the file as JSON: NULL where it is none (no UTF-8, a NUL). */
static struct cJSON *json_of(const char *text, size_t len)
{
	struct cJSON *j;
	struct err err;
	char *s;

	for (size_t i = 0, n; i < len; i += n) {
		n = text[i] ? json_utf8(text + i, len - i) : 0;
		if (!n)
			return NULL;
	}
	s = mem_text(text, len, &err);
	j = s ? cJSON_CreateString(s) : NULL;
	free(s);
	return j;
}

/* The token of that id, or NULL. */
static const char *token_at(const struct pairs *p, uint64_t id, size_t *len)
{
	struct gguf_texts t = gguf_texts(p->tokens);
	const char *text = NULL;

	while (gguf_texts_next(&t, &text, len) && id--)
		;
	return text;
}

/* "bos_token": "<s>" from the id; an id out of range is as good as none. */
static void add_special(const struct pairs *p, struct cJSON *o,
			const char *from, const char *to)
{
	const char *text;
	struct cJSON *j;
	uint64_t id;
	size_t len;

	if (!p->count || !gguf_uint(p->f, from, p->count - 1, &id))
		return;
	text = token_at(p, id, &len);
	j = json_of(text, len);
	if (j && !cJSON_AddItemToObject(o, to, j))
		cJSON_Delete(j);
}

/* What AutoTokenizer needs beside the tokenizer's file. */
static struct cJSON *make_config(const struct pairs *p, bool llama)
{
	struct cJSON *o = cJSON_CreateObject(), *j;
	bool bos = llama, eos = false;
	const char *text;
	size_t len;

	if (!o)
		return NULL;
	gguf_bool(p->f, "tokenizer.ggml.add_bos_token", &bos);
	gguf_bool(p->f, "tokenizer.ggml.add_eos_token", &eos);
	cJSON_AddStringToObject(o, "tokenizer_class", llama ?
				"LlamaTokenizer" : "PreTrainedTokenizerFast");
	cJSON_AddBoolToObject(o, "add_bos_token", bos);
	cJSON_AddBoolToObject(o, "add_eos_token", eos);
	cJSON_AddBoolToObject(o, "clean_up_tokenization_spaces", 0);
	add_special(p, o, "tokenizer.ggml.bos_token_id", "bos_token");
	add_special(p, o, "tokenizer.ggml.eos_token_id", "eos_token");
	add_special(p, o, "tokenizer.ggml.unknown_token_id", "unk_token");
	add_special(p, o, "tokenizer.ggml.padding_token_id", "pad_token");
	if (gguf_text(p->f, "tokenizer.chat_template", &text, &len)) {
		j = json_of(text, len);
		if (j && !cJSON_AddItemToObject(o, "chat_template", j))
			cJSON_Delete(j);
	}
	return o;
}

/* ---- tokenizer.model ---- */

/* A piece as its message; user-defined ones have bars for spaces.  `at` may be
 * NULL; room holds the text. */
static size_t put_piece(uint8_t *at, const struct pairs *p, uint32_t id,
			const char *text, size_t len, char *room)
{
	uint32_t type = type_of(p, id);
	size_t n = 0, k = 0;

	for (size_t i = 0; i < len; i++) {
		bool bar = type == GGUF_TOK_USER && text[i] == ' ';

		memcpy(room + k, bar ? GGUF_TOK_BAR : text + i, bar ? 3 : 1);
		k += bar ? 3 : 1;
	}
	n += proto_put_bytes(at, 1, room, k);
	n += proto_put_f32(at ? at + n : NULL, 2, score_of(p, id));
	return n + proto_put_int(at ? at + n : NULL, 3, type);
}

/* How pieces were trained and text is normalized, as far as it is known.
 * Source of the numbers: sentencepiece_model.proto. */
static size_t put_trainer(uint8_t *at, const struct pairs *p)
{
	static const struct {
		const char *key;
		unsigned number;
		uint64_t none;
	} ids[] = {
		{ "tokenizer.ggml.unknown_token_id", 40, 0 },
		{ "tokenizer.ggml.bos_token_id", 41, 1 },
		{ "tokenizer.ggml.eos_token_id", 42, 2 },
		{ "tokenizer.ggml.padding_token_id", 43, UINT64_MAX },
	};
	size_t n = proto_put_int(at, 3, 2); /* BPE */
	bool bytes = false;

	for (uint32_t i = 0; i < p->count; i++)
		bytes |= type_of(p, i) == GGUF_TOK_BYTE;
	n += proto_put_int(at ? at + n : NULL, 35, bytes);
	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		uint64_t id = ids[i].none;

		gguf_uint(p->f, ids[i].key, p->count - 1, &id);
		n += proto_put_int(at ? at + n : NULL, ids[i].number, id);
	}
	return n;
}

static size_t put_normalizer(uint8_t *at, const struct pairs *p)
{
	bool prefix = true, squeeze = false;
	size_t n = proto_put_bytes(at, 1, "identity", 8);

	gguf_bool(p->f, "tokenizer.ggml.add_space_prefix", &prefix);
	gguf_bool(p->f, "tokenizer.ggml.remove_extra_whitespaces", &squeeze);
	n += proto_put_int(at ? at + n : NULL, 3, prefix);
	n += proto_put_int(at ? at + n : NULL, 4, squeeze);
	return n + proto_put_int(at ? at + n : NULL, 5, 1);
}

/* The whole; `part` and `room` are scratch for one message and one text. */
static size_t put_model(uint8_t *at, const struct pairs *p, uint8_t *part,
			char *room)
{
	struct gguf_texts t = gguf_texts(p->tokens);
	const char *text;
	size_t n = 0, len;

	for (uint32_t i = 0; gguf_texts_next(&t, &text, &len); i++) {
		size_t k = put_piece(part, p, i, text, len, room);

		n += proto_put_bytes(at ? at + n : NULL, 1, part, k);
	}
	n += proto_put_bytes(at ? at + n : NULL, 2, part, put_trainer(part, p));
	return n + proto_put_bytes(at ? at + n : NULL, 3, part,
				   put_normalizer(part, p));
}

/* Twice over the pieces: for the size, then for the bytes. */
static int make_model(const struct pairs *p, struct gguf_tok_files *out,
		      struct err *err)
{
	struct gguf_texts t = gguf_texts(p->tokens);
	uint8_t *part = NULL;
	char *room = NULL;
	const char *text;
	size_t longest = 0, len;
	int ret = -1;

	if (!p->scores)
		return err_set(err, ERR_INPUT,
			       "tokenizer.ggml.scores is missing");
	while (gguf_texts_next(&t, &text, &len))
		longest = len > longest ? len : longest;
	/* three bytes for a space, and the fields around it */
	room = mem_alloc(longest, 3, err);
	part = mem_alloc(longest + 64, 3, err);
	if (!room || !part)
		goto out;
	out->len = put_model(NULL, p, part, room);
	out->data = mem_alloc(out->len, 1, err);
	if (!out->data)
		goto out;
	put_model((uint8_t *)out->data, p, part, room);
	out->name = "tokenizer.model";
	ret = 0;
out:
	free(room);
	free(part);
	return ret;
}

/* ---- tokenizer.json ---- */

static int no_memory(struct err *err)
{
	return err_set(err, ERR_RESOURCE, "out of memory for JSON");
}

static int add_added(struct cJSON *list, uint32_t id, uint32_t type,
		     const char *text, struct err *err)
{
	struct cJSON *o = cJSON_CreateObject();

	if (!o || !cJSON_AddItemToArray(list, o)) {
		cJSON_Delete(o);
		return no_memory(err);
	}
	return cJSON_AddNumberToObject(o, "id", id) &&
	       cJSON_AddStringToObject(o, "content", text) &&
	       cJSON_AddFalseToObject(o, "single_word") &&
	       cJSON_AddFalseToObject(o, "lstrip") &&
	       cJSON_AddFalseToObject(o, "rstrip") &&
	       cJSON_AddFalseToObject(o, "normalized") &&
	       cJSON_AddBoolToObject(o, "special", type != GGUF_TOK_USER) ?
	       0 : no_memory(err);
}

/* Pieces into the vocabulary, others into the added tokens; "[PADn]" and other
 * unused ones are nobody's. */
static int add_vocab(const struct pairs *p, struct cJSON *vocab,
		     struct cJSON *added, struct err *err)
{
	struct gguf_texts t = gguf_texts(p->tokens);
	const char *text;
	size_t len;

	for (uint32_t i = 0; gguf_texts_next(&t, &text, &len); i++) {
		uint32_t type = type_of(p, i);
		struct cJSON *j = json_of(text, len);
		char *s = json_is_string(j) ? j->valuestring : NULL;
		int ret = 0;

		if (!s || !*s)
			ret = err_set(err, ERR_INPUT, "tokenizer.ggml.tokens: "
				      "token %u is not text", i);
		else if (type == GGUF_TOK_CONTROL || type == GGUF_TOK_USER)
			ret = add_added(added, i, type, s, err);
		else if (type != GGUF_TOK_UNUSED &&
			 !cJSON_AddNumberToObject(vocab, s, i))
			ret = no_memory(err);
		cJSON_Delete(j);
		if (ret)
			return -1;
	}
	return 0;
}

static int add_merges(const struct pairs *p, struct cJSON *model,
		      struct err *err)
{
	const struct gguf_kv *kv =
		gguf_array(p->f, "tokenizer.ggml.merges", GGUF_TEXT);
	struct cJSON *list = cJSON_AddArrayToObject(model, "merges"), *j;
	struct gguf_texts t;
	const char *text;
	size_t len;

	if (!kv)
		return err_set(err, ERR_INPUT,
			       "tokenizer.ggml.merges is missing");
	t = gguf_texts(kv);
	while (gguf_texts_next(&t, &text, &len)) {
		j = json_of(text, len);
		if (!j)
			return err_set(err, ERR_INPUT, "tokenizer.ggml.merges: "
				       "an entry is not text");
		if (!cJSON_AddItemToArray(list, j)) {
			cJSON_Delete(j);
			return no_memory(err);
		}
	}
	return 0;
}

/* A Sequence of the named pattern and ByteLevel, which then must not cut by
 * its own pattern once more. */
static int add_pre(const struct pairs *p, struct cJSON *top,
		   struct cJSON *model, struct err *err)
{
	static const char key[] = "tokenizer.ggml.pre";
	const struct gguf_tok_pre *pre = NULL;
	struct cJSON *seq, *list, *step;
	const char *name = "(none)";
	size_t len = 6;

	for (uint32_t i = 0; i < gguf_tok_pre_count; i++)
		if (gguf_is_text(p->f, key, gguf_tok_pre[i].name))
			pre = &gguf_tok_pre[i];
	gguf_text(p->f, key, &name, &len);
	if (!pre)
		return err_set(err, ERR_UNSUP, "a pre-tokenizer called %.*s "
			       "is not known here", (int)(len < 64 ? len : 64),
			       name);
	cJSON_AddBoolToObject(model, "ignore_merges", pre->ignore_merges);
	if (pre->nfc)
		cJSON_AddStringToObject(cJSON_AddObjectToObject(
			top, "normalizer"), "type", "NFC");
	else
		cJSON_AddNullToObject(top, "normalizer");
	seq = cJSON_AddObjectToObject(top, "pre_tokenizer");
	cJSON_AddStringToObject(seq, "type", "Sequence");
	list = cJSON_AddArrayToObject(seq, "pretokenizers");
	if (pre->regex) {
		step = cJSON_CreateObject();
		cJSON_AddStringToObject(step, "type", "Split");
		cJSON_AddStringToObject(cJSON_AddObjectToObject(
			step, "pattern"), "Regex", pre->regex);
		cJSON_AddStringToObject(step, "behavior", "Isolated");
		cJSON_AddFalseToObject(step, "invert");
		cJSON_AddItemToArray(list, step);
	}
	step = cJSON_CreateObject();
	cJSON_AddStringToObject(step, "type", "ByteLevel");
	cJSON_AddFalseToObject(step, "add_prefix_space");
	cJSON_AddTrueToObject(step, "trim_offsets");
	cJSON_AddBoolToObject(step, "use_regex", !pre->regex);
	cJSON_AddItemToArray(list, step);
	return 0;
}

/* {"SpecialToken": {"id": text}} or {"Sequence": {"id": "A"}} */
static void add_item(struct cJSON *list, const char *kind, const char *id,
		     uint32_t segment)
{
	struct cJSON *o = cJSON_CreateObject();
	struct cJSON *in = cJSON_AddObjectToObject(o, kind);

	cJSON_AddStringToObject(in, "id", id);
	cJSON_AddNumberToObject(in, "type_id", segment);
	cJSON_AddItemToArray(list, o);
}

/* BOS in front of a text, where the file says so. */
static void add_template(const struct pairs *p, struct cJSON *top,
			 const struct cJSON *config)
{
	const char *bos = json_text(json_find(config, "bos_token"));
	struct cJSON *o, *list, *token;
	bool add = false;
	uint64_t id = 0;

	json_bool(json_find(config, "add_bos_token"), &add);
	gguf_uint(p->f, "tokenizer.ggml.bos_token_id", UINT32_MAX, &id);
	o = cJSON_AddObjectToObject(top, "post_processor");
	if (!add || !bos) {
		cJSON_AddStringToObject(o, "type", "ByteLevel");
		cJSON_AddTrueToObject(o, "add_prefix_space");
		cJSON_AddFalseToObject(o, "trim_offsets");
		cJSON_AddTrueToObject(o, "use_regex");
		return;
	}
	cJSON_AddStringToObject(o, "type", "TemplateProcessing");
	list = cJSON_AddArrayToObject(o, "single");
	add_item(list, "SpecialToken", bos, 0);
	add_item(list, "Sequence", "A", 0);
	list = cJSON_AddArrayToObject(o, "pair");
	add_item(list, "SpecialToken", bos, 0);
	add_item(list, "Sequence", "A", 0);
	add_item(list, "SpecialToken", bos, 1);
	add_item(list, "Sequence", "B", 1);
	token = cJSON_AddObjectToObject(cJSON_AddObjectToObject(
		o, "special_tokens"), bos);
	cJSON_AddStringToObject(token, "id", bos);
	cJSON_AddItemToObject(token, "ids",
			      cJSON_CreateIntArray(&(int){ (int)id }, 1));
	cJSON_AddItemToObject(token, "tokens",
			      cJSON_CreateStringArray(&bos, 1));
}

static int make_json(const struct pairs *p, struct gguf_tok_files *out,
		     struct err *err)
{
	struct cJSON *top = cJSON_CreateObject(), *added, *model, *dec;
	struct cJSON *vocab = cJSON_CreateObject();
	int ret = -1;

	cJSON_AddStringToObject(top, "version", "1.0");
	cJSON_AddNullToObject(top, "truncation");
	cJSON_AddNullToObject(top, "padding");
	added = cJSON_AddArrayToObject(top, "added_tokens");
	model = cJSON_CreateObject();
	cJSON_AddStringToObject(model, "type", "BPE");
	cJSON_AddNullToObject(model, "dropout");
	cJSON_AddNullToObject(model, "unk_token");
	cJSON_AddNullToObject(model, "continuing_subword_prefix");
	cJSON_AddNullToObject(model, "end_of_word_suffix");
	cJSON_AddFalseToObject(model, "fuse_unk");
	cJSON_AddFalseToObject(model, "byte_fallback");
	if (add_pre(p, top, model, err) || add_vocab(p, vocab, added, err) ||
	    add_merges(p, model, err))
		goto out;
	add_template(p, top, out->config);
	dec = cJSON_AddObjectToObject(top, "decoder");
	cJSON_AddStringToObject(dec, "type", "ByteLevel");
	cJSON_AddTrueToObject(dec, "add_prefix_space");
	cJSON_AddTrueToObject(dec, "trim_offsets");
	cJSON_AddTrueToObject(dec, "use_regex");
	cJSON_AddItemToObject(model, "vocab", vocab);
	vocab = NULL;
	cJSON_AddItemToObject(top, "model", model);
	model = NULL;
	out->data = json_print(top, true, err);
	if (!out->data)
		goto out;
	out->len = strlen(out->data);
	out->name = "tokenizer.json";
	ret = 0;
out:
	json_free(vocab);
	json_free(model);
	json_free(top);
	return ret;
}

int gguf_tok_files(const struct gguf_file *f, struct gguf_tok_files *out,
		   struct err *err)
{
	static const char key[] = "tokenizer.ggml.model";
	struct pairs p = { .f = f };
	bool llama = gguf_is_text(f, key, "llama");
	const char *kind = "none";
	size_t len = 4;

	memset(out, 0, sizeof(*out));
	gguf_text(f, key, &kind, &len);
	if (!llama && !gguf_is_text(f, key, "gpt2")) {
		err_set(err, ERR_UNSUP, "a tokenizer of the kind %.*s; llama "
			"and gpt2 are read", (int)(len < 64 ? len : 64), kind);
		goto fail;
	}
	if (find_pairs(&p, err))
		goto fail;
	out->config = make_config(&p, llama);
	if (!out->config) {
		no_memory(err);
		goto fail;
	}
	if (llama ? make_model(&p, out, err) : make_json(&p, out, err))
		goto fail;
	return 0;
fail:
	gguf_tok_release(out);
	return err_ctx(err, "tokenizer");
}

void gguf_tok_release(struct gguf_tok_files *t)
{
	json_free(t->config);
	free(t->data);
	memset(t, 0, sizeof(*t));
}
