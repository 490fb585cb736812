/* tokenizer.json: its BPE model on one pre-token, and the way through the
 * stages.
 * Source: tokenizers' bpe/model.rs (behaviour). */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"
#include "tok.h"

#include <stdlib.h>
#include <string.h>

/* An unknown stretch that is not yet among the symbols. */
struct pending {
	uint32_t len; /* bytes; 0: none */
	uint32_t last; /* the last symbol's id */
};

static int flush(struct tok_work *w, struct err *err)
{
	if (w->n > 1 && tok_merge(&w->t->merge, w, err))
		return -1;
	for (size_t i = 0; i < w->n; i++)
		if (tok_work_id(w, w->sym[i].id, err))
			return -1;
	w->n = 0;
	return 0;
}

static int add(struct tok_work *w, struct pending *p, uint32_t id,
	       uint32_t len, struct err *err)
{
	if (w->n && !tok_merges_joined(&w->t->merge, p->last, id) &&
	    flush(w, err))
		return -1;
	p->last = id;
	return tok_work_sym(w, id, len, err);
}

static int add_pending(struct tok_work *w, struct pending *p, struct err *err)
{
	uint32_t len = p->len;

	p->len = 0;
	return len ? add(w, p, w->t->bpe->unk, len, err) : 0;
}

/* A character that is no piece: its bytes, or the unknown token, or nothing.
 * An unknown stretch waits for the next known character even when bytes come
 * in between, as in the original. */
static int no_piece(struct tok_work *w, struct pending *p, const char *s,
		    uint32_t n, struct err *err)
{
	const struct tok_bpe *b = w->t->bpe;
	bool bytes = b->byte_fallback;

	for (uint32_t i = 0; bytes && i < n; i++)
		bytes = b->byte_id[(uint8_t)s[i]] != TOK_NONE;
	if (bytes) {
		for (uint32_t i = 0; i < n; i++)
			if (add(w, p, b->byte_id[(uint8_t)s[i]], 1, err))
				return -1;
		return 0;
	}
	if (!b->has_unk)
		return 0;
	if (b->unk == TOK_NONE)
		return err_set(err, ERR_INPUT,
			       "the text has an unknown character, and the "
			       "unk_token is not in the vocabulary");
	if (!b->fuse_unk && add_pending(w, p, err))
		return -1;
	p->len += n;
	return 0;
}

int tok_bpe_token(struct tok_work *w, const char *s, size_t n,
		  struct err *err)
{
	const struct tok *t = w->t;
	struct pending p = { 0, TOK_NONE };
	uint32_t id, cp;
	unsigned k;

	if (t->bpe->ignore_merges && n <= t->dict.longest) {
		id = tok_index_find(&t->index, &t->dict, s, n);
		if (id != TOK_NONE)
			return tok_work_id(w, id, err);
	}
	for (size_t i = 0; i < n; i += k) {
		k = tok_utf8(s + i, n - i, &cp);
		if (!k) /* only text that is valid comes here */
			return err_set(err, ERR_INPUT, "broken UTF-8");
		id = tok_char(t, cp, s + i, k);
		if (id == TOK_NONE) {
			if (no_piece(w, &p, s + i, k, err))
				return -1;
			continue;
		}
		if (add_pending(w, &p, err) || add(w, &p, id, k, err))
			return -1;
	}
	return add_pending(w, &p, err) || flush(w, err) ? -1 : 0;
}

int tok_bpe_encode(struct tok_work *w, const char *s, size_t n,
		   struct err *err)
{
	struct tok_span text = { s, n, !(w->flags & TOK_INNER) };

	if (!tok_utf8_valid(s, n)) {
		if (tok_utf8_mend(s, n, &w->mended, err))
			return -1;
		text.s = w->mended.p;
		text.n = w->mended.len;
	}
	return tok_added_run(w, text, err);
}
