/* tokenizer.json, loading: the model and the template.  The other stages load
 * themselves.
 * Source: tokenizers' serialization.rs, bpe/serialization.rs, template.rs
 * (format). */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- vocabulary ---- */

static int load_vocab(struct tok *t, const struct cJSON *vocab,
		      struct err *err)
{
	uint64_t id;

	if (!json_is_object(vocab))
		return err_set(err, ERR_INPUT, "\"vocab\" is not an object");
	if (tok_index_init(&t->index, json_count(vocab), err))
		return -1;
	for (const struct cJSON *k = json_first(vocab); k; k = json_next(k)) {
		const char *s = json_key(k);

		if (json_uint(k, TOK_ID_MAX - 1, &id))
			return err_set(err, ERR_INPUT,
				       "vocab: the id of \"%.64s\" is not a "
				       "number below %u",
				       s, TOK_ID_MAX);
		if (id < t->dict.n && t->dict.piece[id].len)
			return err_set(err, ERR_INPUT,
				       "vocab: two pieces have the id %u",
				       (uint32_t)id);
		if (tok_dict_put(&t->dict, (uint32_t)id, s, strlen(s), err) ||
		    tok_index_add(&t->index, &t->dict, (uint32_t)id, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- merges ---- */

struct merge {
	const char *a, *b;
	size_t na, nb;
};

/* "a b" or ["a", "b"] */
static int read_merge(const struct cJSON *j, struct merge *m, struct err *err)
{
	const char *s = json_text(j), *gap;
	const struct cJSON *a = json_first(j);

	if (s) {
		gap = strchr(s, ' ');
		if (!gap || strchr(gap + 1, ' '))
			return err_set(err, ERR_INPUT,
				       "\"%.64s\" is not two tokens", s);
		m->a = s;
		m->na = (size_t)(gap - s);
		m->b = gap + 1;
		m->nb = strlen(m->b);
		return 0;
	}
	m->a = json_text(a);
	m->b = json_text(a ? json_next(a) : NULL);
	if (!json_is_array(j) || json_count(j) != 2 || !m->a || !m->b)
		return err_set(err, ERR_INPUT, "it is not two tokens");
	m->na = strlen(m->a);
	m->nb = strlen(m->b);
	return 0;
}

static uint32_t piece(const struct tok *t, const char *s, size_t n)
{
	return tok_index_find(&t->index, &t->dict, s, n);
}

/* Bytes of the first character, or of the last. */
static size_t first_char(const char *s, size_t n)
{
	uint32_t cp;

	return n ? tok_utf8(s, n, &cp) : 0;
}

static size_t last_char(const char *s, size_t n)
{
	size_t k = n ? 1 : 0;

	while (k < n && ((uint8_t)s[n - k] & 0xc0) == 0x80)
		k++;
	return k;
}

/* Does the text contain a byte piece or the unknown token? */
static bool odd(const struct tok *t, const char *s, size_t n)
{
	const struct tok_bpe *b = t->bpe;

	for (size_t i = 0; i + 6 <= n; i++)
		if (b->byte_fallback && s[i] == '<' &&
		    tok_byte_piece(s + i, 6, false) >= 0)
			return true;
	if (b->unk == TOK_NONE)
		return false;
	return memmem(s, n, tok_dict_text(&t->dict, b->unk),
		      t->dict.piece[b->unk].len) != NULL;
}

static int add_merge(struct tok *t, const struct merge *m, uint32_t rank,
		     struct err *err)
{
	char both[2 * TOK_PIECE_MAX];
	uint32_t a = piece(t, m->a, m->na), b = piece(t, m->b, m->nb), c, d;
	struct tok_pair to = { .rank = rank };
	size_t k;

	if (a == TOK_NONE || b == TOK_NONE)
		return err_set(err, ERR_INPUT,
			       "\"%.64s\" is not in the vocabulary",
			       a == TOK_NONE ? m->a : m->b);
	memcpy(both, m->a, m->na);
	memcpy(both + m->na, m->b, m->nb);
	to.id = piece(t, both, m->na + m->nb);
	if (to.id == TOK_NONE)
		return err_set(err, ERR_INPUT,
			       "\"%.*s\" is not in the vocabulary",
			       (int)(m->na + m->nb < 64 ? m->na + m->nb : 64),
			       both);
	tok_merges_add(&t->merge, a, b, to);
	k = last_char(m->a, m->na);
	c = piece(t, m->a + m->na - k, k);
	d = piece(t, m->b, first_char(m->b, m->nb));
	if (c != TOK_NONE && d != TOK_NONE)
		tok_merges_join(&t->merge, c, d);
	/* symbols that are not single characters: do not cut at all */
	if (odd(t, m->a, m->na) || odd(t, m->b, m->nb))
		t->merge.whole = true;
	return 0;
}

static int load_merges(struct tok *t, const struct cJSON *list,
		       struct err *err)
{
	struct merge m;
	uint32_t rank = 0, i = 0;

	if (!json_is_array(list))
		return err_set(err, ERR_INPUT, "\"merges\" is not an array");
	if (tok_merges_init(&t->merge, json_count(list), err))
		return -1;
	for (const struct cJSON *k = json_first(list); k;
	     k = json_next(k), i++) {
		const char *s = json_text(k);

		/* the first line of old merges.txt */
		if (s && strncmp(s, "#version", 8) == 0)
			continue;
		if (read_merge(k, &m, err) || add_merge(t, &m, rank++, err))
			return err_ctx(err, "merges[%u]", i);
	}
	return 0;
}

/* ---- the model ---- */

static int empty(const struct cJSON *model, const char *key, struct err *err)
{
	const char *s = NULL;

	if (json_get_text(model, key, &s, err))
		return -1;
	if (s && *s)
		return err_set(err, ERR_UNSUP, "%s \"%.64s\" is not supported",
			       key, s);
	return 0;
}

static int load_options(struct tok *t, const struct cJSON *model,
			const char **unk, struct err *err)
{
	struct tok_bpe *b = t->bpe;
	const char *type = "BPE";
	double dropout = 0;

	if (json_get_text(model, "type", &type, err))
		return -1;
	if (strcmp(type, "BPE") != 0)
		return err_set(err, ERR_UNSUP,
			       "type \"%.64s\" is not supported, only BPE is",
			       type);
	if (json_get_double(model, "dropout", &dropout, err))
		return -1;
	if (dropout != 0)
		return err_set(err, ERR_UNSUP, "dropout is not supported");
	return empty(model, "continuing_subword_prefix", err) ||
			       empty(model, "end_of_word_suffix", err) ||
			       json_get_text(model, "unk_token", unk, err) ||
			       json_get_bool(model, "byte_fallback",
					     &b->byte_fallback, err) ||
			       json_get_bool(model, "fuse_unk", &b->fuse_unk,
					     err) ||
			       json_get_bool(model, "ignore_merges",
					     &b->ignore_merges, err) ?
		       -1 :
		       0;
}

static int load_model(struct tok *t, const struct cJSON *model,
		      struct err *err)
{
	struct tok_bpe *b = t->bpe;
	const char *unk = NULL;
	char name[8];

	if (!json_is_object(model))
		return err_set(err, ERR_INPUT, "it is not an object");
	if (load_options(t, model, &unk, err) ||
	    load_vocab(t, json_find(model, "vocab"), err))
		return -1;
	b->has_unk = unk != NULL;
	b->unk = unk ? piece(t, unk, strlen(unk)) : TOK_NONE;
	for (unsigned i = 0; i < 256; i++) {
		snprintf(name, sizeof(name), "<0x%02X>", i);
		b->byte_id[i] = piece(t, name, 6);
	}
	return load_merges(t, json_find(model, "merges"), err);
}

/* ---- what goes around the text ---- */

/* The ids of a template's special token, to the end of a list. */
static int add_special(struct tok *t, const struct cJSON *tokens,
		       const char *name, bool behind, struct err *err)
{
	const struct cJSON *ids = json_find(json_find(tokens, name), "ids");
	uint64_t id;
	int rc = 0;

	if (!json_is_array(ids))
		return err_set(err, ERR_INPUT,
			       "the template has no ids for \"%.64s\"", name);
	for (const struct cJSON *k = json_first(ids); k && !rc;
	     k = json_next(k)) {
		if (json_uint(k, TOK_ID_MAX - 1, &id))
			return err_set(err, ERR_INPUT,
				       "an id of \"%.64s\" is not a number "
				       "below %u",
				       name, TOK_ID_MAX);
		rc = behind ? tok_list_add(&t->tail, &t->n_tail, &t->tail_cap,
					   (uint32_t)id, err) :
			      tok_list_add(&t->head, &t->n_head, &t->head_cap,
					   (uint32_t)id, err);
	}
	return rc;
}

static int load_template(struct tok *t, const struct cJSON *j,
			 struct err *err)
{
	const struct cJSON *tokens = json_find(j, "special_tokens");
	const struct cJSON *k = json_first(json_find(j, "single"));
	bool behind = false;

	if (t->n_head || t->n_tail)
		return err_set(err, ERR_UNSUP,
			       "a second template is not supported");
	for (; k; k = json_next(k)) {
		const char *seq = json_text(json_path(k, "Sequence.id"));
		const char *name = json_text(json_path(k, "SpecialToken.id"));

		if (seq && strcmp(seq, "A") == 0 && !behind)
			behind = true;
		else if (!name)
			return err_set(err, ERR_UNSUP,
				       "a template that is not special tokens "
				       "around one text is not supported");
		else if (add_special(t, tokens, name, behind, err))
			return -1;
	}
	if (!behind)
		return err_set(err, ERR_UNSUP,
			       "a template without the text is not supported");
	return 0;
}

static int load_post(struct tok *t, const struct cJSON *j, struct err *err)
{
	const char *type = json_text(json_find(j, "type"));
	const struct cJSON *k;

	if (!j || json_is_null(j))
		return 0;
	if (!type)
		return err_set(err, ERR_INPUT, "it has no type");
	if (strcmp(type, "ByteLevel") == 0) /* changes offsets, not ids */
		return 0;
	if (strcmp(type, "TemplateProcessing") == 0)
		return load_template(t, j, err);
	if (strcmp(type, "Sequence") != 0)
		return err_set(err, ERR_UNSUP,
			       "type \"%.64s\" is not supported", type);
	k = json_first(json_find(j, "processors"));
	for (; k; k = json_next(k))
		if (load_post(t, k, err))
			return -1;
	return 0;
}

static int check_specials(const struct tok *t, struct err *err)
{
	for (size_t i = 0; i < t->n_head + t->n_tail; i++) {
		uint32_t id = i < t->n_head ? t->head[i] :
					      t->tail[i - t->n_head];

		if (id >= t->vocab)
			return err_set(err, ERR_INPUT,
				       "post_processor: id %u is beyond the "
				       "vocabulary of %u",
				       id, t->vocab);
	}
	return 0;
}

int tok_bpe_open(struct tok *t, const char *text, size_t len, struct err *err)
{
	struct tok_bpe *b = mem_alloc(1, sizeof(*b), err);
	struct cJSON *j = NULL;
	int ret = -1;

	if (!b)
		return -1;
	t->bpe = b;
	if (json_parse(text, len, JSON_BOM, &j, err))
		return -1;
	if (load_model(t, json_find(j, "model"), err)) {
		err_ctx(err, "model");
		goto out;
	}
	if (tok_norm_load(b, json_find(j, "normalizer"), err) ||
	    tok_pre_load(b, json_find(j, "pre_tokenizer"), err) ||
	    tok_dec_load(b, json_find(j, "decoder"), err) ||
	    tok_added_load(t, json_find(j, "added_tokens"), err) ||
	    tok_chars(t, err))
		goto out;
	if (load_post(t, json_find(j, "post_processor"), err)) {
		err_ctx(err, "post_processor");
		goto out;
	}
	t->vocab = (uint32_t)t->dict.n;
	t->bos = t->eos = -1;
	ret = check_specials(t, err);
out:
	json_free(j);
	return ret;
}

void tok_bpe_free(struct tok_bpe *b)
{
	if (!b)
		return;
	tok_norm_release(b);
	tok_pre_release(b);
	tok_dec_release(b);
	tok_added_release(b);
	free(b);
}
