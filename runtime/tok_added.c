/* tokenizer.json: added tokens, which are cut out of the text before the
 * model sees it.  Of all that begin at the leftmost place the longest counts;
 * tokens that are not "normalized" are looked for in the text as it is, the
 * others in the normalized rest.
 * Source: tokenizers' added_vocabulary.rs (behaviour). */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"
#include "tok.h"

#include <stdlib.h>
#include <string.h>

/* ---- loading ---- */

/* The id of a token's text: that of the same text before, or of the model's
 * piece, or the next one free.  Like the original, which takes no notice of
 * the "id" that the file gives. */
static int find_id(struct tok *t, const char *s, uint32_t *next, uint32_t *id,
		   struct err *err)
{
	struct tok_bpe *b = t->bpe;
	size_t n = strlen(s);

	*id = tok_index_find(&b->extra, &t->dict, s, n);
	if (*id == TOK_NONE)
		*id = tok_index_find(&t->index, &t->dict, s, n);
	if (*id != TOK_NONE)
		return 0;
	*id = (*next)++;
	if (*id < t->dict.n && t->dict.piece[*id].len)
		return err_set(err, ERR_UNSUP,
			       "the vocabulary has gaps, so that the token "
			       "would get the id %u of a piece",
			       *id);
	if (tok_dict_put(&t->dict, *id, s, n, err) ||
	    tok_index_add(&b->extra, &t->dict, *id, err) < 0)
		return -1;
	return 0;
}

static int read_flags(struct tok_added *a, const struct cJSON *j,
		      struct err *err)
{
	if (json_get_bool(j, "special", &a->special, err))
		return -1;
	a->normalized = !a->special;
	return json_get_bool(j, "normalized", &a->normalized, err) ||
			       json_get_bool(j, "single_word", &a->single_word,
					     err) ||
			       json_get_bool(j, "lstrip", &a->lstrip, err) ||
			       json_get_bool(j, "rstrip", &a->rstrip, err) ?
		       -1 :
		       0;
}

/* The place of an id in b->added, made when it is not there. */
static int place(struct tok_bpe *b, uint32_t id, uint32_t *at,
		 struct err *err)
{
	void *p = b->added;

	while (b->n_added_of <= id)
		if (tok_list_add(&b->added_of, &b->n_added_of,
				 &b->added_of_cap, TOK_NONE, err))
			return -1;
	*at = b->added_of[id];
	if (*at != TOK_NONE)
		return 0;
	if (mem_grow(&p, &b->added_cap, b->n_added + 1, sizeof(*b->added),
		     err))
		return -1;
	b->added = p;
	*at = b->added_of[id] = (uint32_t)b->n_added++;
	return 0;
}

static int load_token(struct tok *t, const struct cJSON *j, uint32_t *next,
		      struct err *err)
{
	struct tok_bpe *b = t->bpe;
	struct tok_added a = { 0 };
	const char *s = json_text(json_find(j, "content"));
	uint32_t at;

	if (!s)
		return err_set(err, ERR_INPUT, "it has no \"content\"");
	if (!*s)
		return 0;
	if (read_flags(&a, j, err) || find_id(t, s, next, &a.id, err) ||
	    place(b, a.id, &at, err))
		return -1;
	b->added[at] = a;
	if (a.single_word && !b->word.re && tok_pattern_word(&b->word, err))
		return -1;
	return 0;
}

/* Normalized tokens are found, and shown, in their normalized spelling. */
static int index_token(struct tok *t, uint32_t at, struct tok_buf scratch[2],
		       struct err *err)
{
	struct tok_bpe *b = t->bpe;
	const struct tok_added *a = &b->added[at];
	struct tok_span text = { tok_dict_text(&t->dict, a->id),
				 t->dict.piece[a->id].len, true };
	struct tok_match *match = NULL;
	int ret;

	if (!a->normalized)
		return tok_trie_add(&b->raw, text.s, text.n, at, err);
	ret = tok_norm_run(b, &match, scratch, &text, err);
	tok_match_free(match);
	if (ret || tok_trie_add(&b->normal, text.s, text.n, at, err))
		return -1;
	if (text.n == t->dict.piece[a->id].len &&
	    memcmp(text.s, tok_dict_text(&t->dict, a->id), text.n) == 0)
		return 0;
	return tok_dict_put(&b->shown, at, text.s, text.n, err);
}

int tok_added_load(struct tok *t, const struct cJSON *j, struct err *err)
{
	struct tok_bpe *b = t->bpe;
	struct tok_buf scratch[2] = { { 0 }, { 0 } };
	uint32_t next = (uint32_t)t->index.n, i = 0;
	const struct cJSON *k;
	int ret = -1;

	if (tok_index_init(&b->extra, 0, err) || tok_trie_init(&b->raw, err) ||
	    tok_trie_init(&b->normal, err))
		return -1;
	for (k = json_first(j); k; k = json_next(k), i++)
		if (load_token(t, k, &next, err)) {
			err_ctx(err, "added_tokens[%u]", i);
			goto out;
		}
	for (i = 0; i < b->n_added; i++)
		if (index_token(t, i, scratch, err)) {
			err_ctx(err, "added token %u", b->added[i].id);
			goto out;
		}
	ret = 0;
out:
	tok_buf_release(&scratch[0]);
	tok_buf_release(&scratch[1]);
	return ret;
}

const struct tok_added *tok_added_find(const struct tok_bpe *b, uint32_t id)
{
	if (id >= b->n_added_of || b->added_of[id] == TOK_NONE)
		return NULL;
	return &b->added[b->added_of[id]];
}

void tok_added_release(struct tok_bpe *b)
{
	free(b->added);
	free(b->added_of);
	tok_index_release(&b->extra);
	tok_trie_release(&b->raw);
	tok_trie_release(&b->normal);
	tok_dict_release(&b->shown);
	tok_pattern_release(&b->word);
}

/* ---- cutting ---- */

/* Is the character in front of s + at (back), or there, one of a word? */
static int is_word(struct tok_work *w, const struct tok_span *text, size_t at,
		   bool back, struct err *err)
{
	struct tok_search f = { .p = &w->t->bpe->word, .scratch = &w->match };
	size_t from = at, to = at;
	int found;

	if (back)
		do
			from--;
		while (from > 0 && ((uint8_t)text->s[from] & 0xc0) == 0x80);
	else
		do
			to++;
		while (to < text->n && ((uint8_t)text->s[to] & 0xc0) == 0x80);
	f.text = (struct tok_span){ text->s + from, to - from, false };
	found = tok_search_next(&f, err);
	tok_search_end(&f);
	return found;
}

/* 1: the token at [start, end) counts, 0: it is only text. */
static int counts(struct tok_work *w, const struct tok_added *a,
		  const struct tok_span *text, const size_t at[2],
		  struct err *err)
{
	int word = 0;

	if (a->special && (w->flags & TOK_NO_SPECIAL))
		return 0;
	if (!a->single_word)
		return 1;
	if (at[0] > 0)
		word = is_word(w, text, at[0], true, err);
	if (word == 0 && at[1] < text->n)
		word = is_word(w, text, at[1], false, err);
	return word < 0 ? -1 : !word;
}

static int between(struct tok_work *w, bool normal, struct tok_span text,
		   struct err *err);

/* The next token from `pos` on: its place, or text->n. */
static size_t look(const struct tok_trie *trie, const struct tok_span *text,
		   size_t pos, size_t *len, uint32_t *at)
{
	for (; pos < text->n; pos++) {
		if (trie->root[(uint8_t)text->s[pos]] == TOK_NONE)
			continue;
		*len = tok_trie_find(trie, text->s + pos, text->n - pos, at);
		if (*len)
			break;
	}
	return pos;
}

static int cut(struct tok_work *w, bool normal, struct tok_span text,
	       struct err *err)
{
	const struct tok_bpe *b = w->t->bpe;
	const struct tok_trie *trie = normal ? &b->normal : &b->raw;
	size_t done = 0, pos = 0, len = 0, at[2];
	struct tok_span part;
	uint32_t i = 0;
	int ok;

	while ((pos = look(trie, &text, pos, &len, &i)) < text.n) {
		at[0] = pos;
		at[1] = pos += len;
		ok = counts(w, &b->added[i], &text, at, err);
		if (ok < 0)
			return -1;
		if (!ok)
			continue;
		if (b->added[i].lstrip) {
			at[0] -= tok_spaces_back(text.s, at[0]);
			if (at[0] < done) /* the last token took them */
				at[0] = done;
		}
		if (b->added[i].rstrip)
			at[1] += tok_spaces_front(text.s + at[1],
						  text.n - at[1]);
		part = (struct tok_span){ text.s + done, 0,
					  text.first && done == 0 };
		if (done < at[0]) {
			part.n = at[0] - done;
			if (between(w, normal, part, err))
				return -1;
		}
		if (tok_work_id(w, b->added[i].id, err))
			return -1;
		done = at[1];
	}
	part = (struct tok_span){ text.s + done, text.n - done,
				  text.first && done == 0 };
	return part.n ? between(w, normal, part, err) : 0;
}

static int between(struct tok_work *w, bool normal, struct tok_span text,
		   struct err *err)
{
	if (normal)
		return tok_pre_run(w, 0, text, err);
	if (tok_norm_run(w->t->bpe, &w->match, w->norm, &text, err))
		return -1;
	return text.n ? cut(w, true, text, err) : 0;
}

int tok_added_run(struct tok_work *w, struct tok_span text, struct err *err)
{
	return text.n ? cut(w, false, text, err) : 0;
}
