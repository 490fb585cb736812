/* A folder's tokenizer files as one list of tokens, the embeddings' rows. */
#include "gguf_tok_impl.h"

#include "base/err.h"
#include "base/half.h"
#include "base/io.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/proto.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX (256ull << 20)
#define SCORE_ADDED (-1000.0f)
#define SCORE_NONE (-10000.0f)

/* ---- files ---- */

static int read_json(const char *dir, const char *name, struct cJSON **out,
		     struct err *err)
{
	char *path = io_join(dir, name, err);
	int ret = path ? 0 : -1;

	if (path && io_is_file(path))
		ret = json_read_file(path, out, err);
	free(path);
	return ret;
}

static int read_bytes(const char *dir, const char *name, char **out,
		      size_t *len, struct err *err)
{
	char *path = io_join(dir, name, err);
	int ret = path ? 0 : -1;

	if (path && io_is_file(path))
		ret = io_read_file(path, FILE_MAX, out, len, err);
	free(path);
	return ret;
}

static int read_all(const char *dir, struct gguf_vocab *v, struct err *err)
{
	return read_bytes(dir, "tokenizer.model", &v->model, &v->model_len,
			  err) ||
	       read_json(dir, "tokenizer.json", &v->json, err) ||
	       read_json(dir, "tokenizer_config.json", &v->config, err) ||
	       read_json(dir, "added_tokens.json", &v->added, err) ||
	       read_bytes(dir, "chat_template.jinja", &v->jinja,
			  &v->jinja_len, err) ? -1 : 0;
}

/* ---- tokens ---- */

/* Ids beyond the model's vocabulary have no embedding: nobody can use them. */
static void set(struct gguf_vocab *v, uint64_t id, const char *text, size_t len,
		struct gguf_piece t)
{
	if (id >= v->count || !len || len > UINT16_MAX)
		return;
	t.text = text;
	t.len = (uint32_t)len;
	v->token[id] = t;
}

/* What tokenizer.json and tokenizer_config.json add.  Pieces that are special
 * already stay what they are. */
static void add_token(struct gguf_vocab *v, uint64_t id, const char *text,
		      bool special)
{
	struct gguf_piece t = { .score = SCORE_ADDED,
		.type = special ? GGUF_TOK_CONTROL : GGUF_TOK_USER };

	if (id < v->count && v->token[id].type &&
	    v->token[id].type != GGUF_TOK_NORMAL &&
	    v->token[id].type != GGUF_TOK_UNUSED)
		return;
	set(v, id, text, strlen(text), t);
}

static void add_entry(struct gguf_vocab *v, uint64_t id, const struct cJSON *e)
{
	const char *text = json_text(json_find(e, "content"));
	bool special = false;

	json_bool(json_find(e, "special"), &special);
	if (text)
		add_token(v, id, text, special);
}

static void add_tokens(struct gguf_vocab *v)
{
	const struct cJSON *e = json_find(v->json, "added_tokens");
	uint64_t id;

	for (e = json_first(e); e; e = json_next(e))
		if (!json_uint(json_find(e, "id"), UINT32_MAX, &id))
			add_entry(v, id, e);
	e = json_find(v->config, "added_tokens_decoder");
	for (e = json_first(e); e; e = json_next(e))
		add_entry(v, strtoul(json_key(e), NULL, 10), e);
	for (e = json_first(v->added); e; e = json_next(e))
		if (!json_uint(e, UINT32_MAX, &id))
			add_token(v, id, json_key(e), false);
}

/* Rows of the embeddings that no token has: readers want a name, and a
 * different one, for each. */
static void pad(struct gguf_vocab *v)
{
	for (uint32_t i = 0; i < v->count; i++) {
		struct gguf_piece *t = &v->token[i];

		if (t->type)
			continue;
		t->len = (uint32_t)snprintf(v->pad[i], GGUF_TOK_PAD, "[PAD%u]",
					    i);
		t->text = v->pad[i];
		t->score = SCORE_NONE;
		t->type = GGUF_TOK_UNUSED;
	}
}

/* ---- tokenizer.model ---- */

/* Fields of the message: 1 text, 2 score, 3 type. */
static int read_piece(struct gguf_vocab *v, uint32_t id, struct proto m,
		      struct err *err)
{
	struct gguf_piece t = { .type = GGUF_TOK_NORMAL };
	const uint8_t *text = NULL;
	struct proto_field f;
	size_t len = 0;
	int more;

	while ((more = proto_next(&m, &f, err)) > 0) {
		if (f.number == 1 && f.wire == PROTO_BYTES) {
			text = f.p;
			len = f.len;
		} else if (f.number == 2 && f.wire == PROTO_32) {
			t.score = half_from_bits((uint32_t)f.value);
		} else if (f.number == 3 && f.wire == PROTO_VARINT) {
			t.type = f.value >= GGUF_TOK_NORMAL &&
				 f.value <= GGUF_TOK_BYTE ?
				 (uint8_t)f.value : GGUF_TOK_NORMAL;
		}
	}
	if (text)
		set(v, id, (const char *)text, len, t);
	return more;
}

/* Field `number` of a message, where it is there. */
static int read_int(struct proto m, unsigned number, uint64_t *out,
		    struct err *err)
{
	struct proto_field f;
	int more;

	while ((more = proto_next(&m, &f, err)) > 0)
		if (f.number == number && f.wire == PROTO_VARINT)
			*out = f.value;
	return more;
}

/* 1 the pieces in order of their ids, 2 how they were trained (its field 3: the
 * kind of model), 3 how text is normalized. */
static int read_model(struct gguf_vocab *v, struct err *err)
{
	const uint8_t *p = (const uint8_t *)v->model;
	struct proto m = { p, p + v->model_len };
	uint64_t type = 1, prefix = 1, squeeze = 1;
	struct proto_field f;
	uint32_t id = 0;
	int more, ret = 0;

	while (!ret && (more = proto_next(&m, &f, err)) != 0) {
		struct proto sub = { f.p, f.p + f.len };

		if (more < 0)
			return -1;
		if (f.wire != PROTO_BYTES)
			continue;
		if (f.number == 1)
			ret = read_piece(v, id++, sub, err);
		else if (f.number == 2)
			ret = read_int(sub, 3, &type, err);
		else if (f.number == 3)
			ret = read_int(sub, 3, &prefix, err) ||
			      read_int(sub, 4, &squeeze, err) ? -1 : 0;
	}
	if (ret)
		return -1;
	if (type != 2)
		return err_set(err, ERR_UNSUP, "a SentencePiece model that is "
			       "not BPE, for which GGUF's llama has no kind");
	v->kind = "llama";
	v->pre = "default";
	v->space_prefix = prefix != 0;
	v->squeeze = squeeze != 0;
	return 0;
}

/* ---- tokenizer.json ---- */

/* The steps of a Sequence, or the step alone. */
static const struct cJSON *steps(const struct cJSON *j, const char *list)
{
	const char *type = json_text(json_find(j, "type"));

	return type && !strcmp(type, "Sequence") ?
		       json_first(json_find(j, list)) : j;
}

const struct cJSON *gguf_vocab_step(const struct cJSON *j, const char *list,
				   const char *type)
{
	bool many = steps(j, list) != j;

	for (const struct cJSON *s = steps(j, list); s;
	     s = many ? json_next(s) : NULL) {
		const char *t = json_text(json_find(s, "type"));

		if (t && !strcmp(t, type))
			return s;
	}
	return NULL;
}

/* By the pattern, letter for letter: what cuts otherwise gives other ids. */
static int find_pre(struct gguf_vocab *v, struct err *err)
{
	const struct cJSON *pre = json_find(v->json, "pre_tokenizer");
	const struct cJSON *split =
		gguf_vocab_step(pre, "pretokenizers", "Split");
	const char *regex = json_text(json_path(split, "pattern.Regex"));
	uint32_t count = split ? 2 : 1;
	bool ignore = false;

	/* ByteLevel alone, or behind one pattern */
	if (!gguf_vocab_step(pre, "pretokenizers", "ByteLevel") ||
	    (json_find(pre, "pretokenizers") &&
	     json_count(json_find(pre, "pretokenizers")) != count))
		return err_set(err, ERR_UNSUP, "a pre-tokenizer of other steps "
			       "than a pattern and ByteLevel, which has no "
			       "name in GGUF files");
	json_bool(json_path(v->json, "model.ignore_merges"), &ignore);
	for (uint32_t i = 0; i < gguf_tok_pre_count; i++) {
		const struct gguf_tok_pre *p = &gguf_tok_pre[i];

		if (p->ignore_merges != ignore || !p->regex != !split ||
		    (split && (!regex || strcmp(regex, p->regex))))
			continue;
		v->pre = p->name;
		return 0;
	}
	return err_set(err, ERR_UNSUP, "a pre-tokenizer that has no name in "
		       "GGUF files: %.200s", regex ? regex : "no pattern");
}

int gguf_vocab_merge(const struct cJSON *j, const char *part[2],
		       size_t len[2])
{
	const char *s = json_text(j), *gap;

	if (s) {
		gap = *s ? strchr(s + 1, ' ') : NULL;
		if (!gap)
			return -1;
		part[0] = s;
		len[0] = (size_t)(gap - s);
		part[1] = gap + 1;
	} else {
		part[0] = json_text(json_first(j));
		part[1] = part[0] ? json_text(json_next(json_first(j))) : NULL;
		if (!part[1])
			return -1;
		len[0] = strlen(part[0]);
	}
	len[1] = strlen(part[1]);
	return 0;
}

static int by_text(const void *pa, const void *pb)
{
	const struct gguf_piece *a = *(const struct gguf_piece *const *)pa;
	const struct gguf_piece *b = *(const struct gguf_piece *const *)pb;
	uint32_t n = a->len < b->len ? a->len : b->len;
	int c = memcmp(a->text, b->text, n);

	return c ? c : (a->len > b->len) - (a->len < b->len);
}

/* Scores from the ranks: the first merge that makes a piece counts. */
static int score(struct gguf_vocab *v, struct err *err)
{
	const struct cJSON *e = json_path(v->json, "model.merges");
	struct gguf_piece **sorted = mem_alloc(v->count, sizeof(*sorted), err);
	uint32_t n = 0;
	float rank = 0;

	if (!sorted)
		return -1;
	for (uint32_t i = 0; i < v->count; i++)
		if (v->token[i].type == GGUF_TOK_NORMAL)
			sorted[n++] = &v->token[i];
	if (n)
		qsort(sorted, n, sizeof(struct gguf_piece *), by_text);
	for (e = json_first(e); e; e = json_next(e), rank--) {
		struct gguf_piece key = { .text = v->room }, *k = &key, **t;
		const char *part[2];
		size_t len[2];

		if (gguf_vocab_merge(e, part, len) ||
		    len[0] + len[1] > UINT16_MAX)
			continue;
		memcpy(v->room, part[0], len[0]);
		memcpy(v->room + len[0], part[1], len[1]);
		key.len = (uint32_t)(len[0] + len[1]);
		t = n ? bsearch(&k, sorted, n, sizeof(*sorted), by_text) : NULL;
		if (t && (*t)->score > 0)
			(*t)->score = rank;
	}
	for (uint32_t i = 0; i < n; i++)
		if (sorted[i]->score > 0) /* no merge makes it */
			sorted[i]->score = SCORE_NONE * 1000;
	free(sorted);
	return 0;
}

static int is_byte(const char *s)
{
	return strlen(s) == 6 && !strncmp(s, "<0x", 3) && s[5] == '>';
}

/* Does the text get a space in front? */
static bool has_prefix(const struct cJSON *json)
{
	const struct cJSON *meta =
		gguf_vocab_step(json_find(json, "pre_tokenizer"),
				"pretokenizers", "Metaspace");
	const char *scheme = json_text(json_find(meta, "prepend_scheme"));

	return gguf_vocab_step(json_find(json, "normalizer"), "normalizers",
		       "Prepend") != NULL ||
	       (meta && (!scheme || strcmp(scheme, "never")));
}

/* The two kinds of BPE: with bytes as pieces "<0x0A>" to fall back on, and
 * with bytes as letters. */
static int read_vocab(struct gguf_vocab *v, struct err *err)
{
	const struct cJSON *model = json_find(v->json, "model");
	const char *type = json_text(json_find(model, "type"));
	const char *unk = json_text(json_find(model, "unk_token"));
	bool fallback = false;
	uint64_t id;

	if (!type || strcmp(type, "BPE"))
		return err_set(err, ERR_UNSUP, "tokenizer.json of type %.64s, "
			       "only BPE is supported", type ? type : "?");
	json_bool(json_find(model, "byte_fallback"), &fallback);
	for (const struct cJSON *e = json_first(json_find(model, "vocab")); e;
	     e = json_next(e)) {
		const char *text = json_key(e);
		struct gguf_piece t = { .type = GGUF_TOK_NORMAL, .score = 1 };

		if (fallback && is_byte(text))
			t.type = GGUF_TOK_BYTE;
		else if (unk && !strcmp(unk, text))
			t.type = GGUF_TOK_UNKNOWN;
		if (!json_uint(e, UINT32_MAX, &id))
			set(v, id, text, strlen(text), t);
	}
	if (!fallback) {
		v->kind = "gpt2";
		return find_pre(v, err);
	}
	v->kind = "llama";
	v->pre = "default";
	v->space_prefix = has_prefix(v->json);
	return score(v, err);
}

/* ---- the whole ---- */

int gguf_vocab_read(const char *dir, uint32_t count, struct gguf_vocab *v,
		    struct err *err)
{
	memset(v, 0, sizeof(*v));
	v->count = count;
	v->token = mem_alloc(count, sizeof(*v->token), err);
	v->pad = mem_alloc(count, GGUF_TOK_PAD, err);
	v->room = mem_alloc(UINT16_MAX + 2, 1, err);
	if (!v->token || !v->pad || !v->room)
		return -1;
	if (read_all(dir, v, err))
		return -1;
	if (!v->model && !v->json)
		return 0;
	if (v->model ? read_model(v, err) : read_vocab(v, err))
		return err_ctx(err, "%s: tokenizer", dir);
	add_tokens(v);
	pad(v);
	return 0;
}

void gguf_vocab_release(struct gguf_vocab *v)
{
	json_free(v->json);
	json_free(v->config);
	json_free(v->added);
	free(v->model);
	free(v->jinja);
	free(v->token);
	free(v->pad);
	free(v->room);
	memset(v, 0, sizeof(*v));
}
