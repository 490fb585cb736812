/* SentencePiece BPE, encoding and decoding.
 * Source: sentencepiece bpe_model.cc, sentencepiece_processor.cc
 * (behaviour). */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <stdlib.h>
#include <string.h>

#define MARK "\xe2\x96\x81" /* U+2581, what stands for a space */

/* ---- text to ids ---- */

/* A text that is no piece: its bytes, or one id for a whole unknown run. */
static int unknown(struct tok_work *w, const char *s, size_t n, bool after,
		   struct err *err)
{
	const struct tok_spm *m = w->t->spm;

	if (!m->byte_fallback)
		return after ? 0 : tok_work_id(w, m->unk, err);
	for (size_t i = 0; i < n; i++)
		if (tok_work_id(w, m->byte_id[(uint8_t)s[i]], err))
			return -1;
	return 0;
}

/* The id of a text; control and byte pieces are never found in one. */
static uint32_t piece_id(const struct tok *t, const char *s, size_t n)
{
	uint32_t id = tok_index_find(&t->index, &t->dict, s, n);

	return id < t->spm->pieces ? id : t->spm->unk;
}

/* An unused piece is taken apart the way it was last put together. */
static int emit(struct tok_work *w, const char *s, size_t n, bool *after,
		struct err *err)
{
	const struct tok_spm *m = w->t->spm;

	for (;;) {
		uint32_t id = piece_id(w->t, s, n);
		size_t left;

		if (id == m->unk) {
			if (unknown(w, s, n, *after, err))
				return -1;
			*after = true;
			return 0;
		}
		left = w->rev ? w->rev[id] : 0;
		if (m->type[id] != TOK_UNUSED || !left || left >= n) {
			*after = false;
			return tok_work_id(w, id, err);
		}
		/* left parts are shorter than TOK_PIECE_MAX: so is the depth */
		if (emit(w, s, left, after, err))
			return -1;
		s += left;
		n -= left;
	}
}

/* Merge the segment that ends at `end`, and empty it. */
static int flush(struct tok_work *w, const char *end, bool *after,
		 struct err *err)
{
	const char *s = end;

	for (size_t i = 0; i < w->n; i++)
		s -= w->sym[i].len;
	if (w->n > 1 && tok_merge(&w->t->merge, w, err))
		return -1;
	for (size_t i = 0; i < w->n; i++) {
		if (emit(w, s, w->sym[i].len, after, err))
			return -1;
		s += w->sym[i].len;
	}
	w->n = 0;
	return 0;
}

/* The first symbol of s[0..n): a user-defined piece or a character. */
static uint32_t symbol(const struct tok *t, const char *s, size_t n,
		       uint32_t *len)
{
	uint32_t id, cp;
	size_t k;

	if (t->spm->has_user && (k = tok_trie_find(&t->spm->user, s, n, &id))) {
		*len = (uint32_t)k;
		return id | TOK_FROZEN;
	}
	*len = tok_utf8(s, n, &cp);
	if (*len)
		return tok_char(t, cp, s, *len);
	*len = 1; /* only a damaged normalizer's table leads here */
	return TOK_NONE;
}

static int encode(struct tok_work *w, const char *s, size_t n,
		  struct err *err)
{
	const struct tok *t = w->t;
	bool after = false; /* an unknown run is going on */
	uint32_t id, len, last = TOK_NONE;

	for (size_t i = 0; i < n; i += len) {
		id = symbol(t, s + i, n - i, &len);
		if (w->n && !tok_merges_joined(&t->merge, last, id) &&
		    flush(w, s + i, &after, err))
			return -1;
		if (tok_work_sym(w, id, len, err))
			return -1;
		last = id;
	}
	return flush(w, s + n, &after, err);
}

int tok_spm_encode(struct tok_work *w, const char *s, size_t n,
		   struct err *err)
{
	const struct tok_spm *m = w->t->spm;
	struct tok_span whole = { s, n, true };
	struct tok_buf *text = &w->norm[0];

	if (m->has_unused) {
		w->rev = mem_alloc(w->t->dict.n, sizeof(*w->rev), err);
		if (!w->rev)
			return -1;
	}
	if (tok_spm_normalize(&m->norm, m, whole, text, err))
		return -1;
	return text->len ? encode(w, text->p, text->len, err) : 0;
}

/* ---- ids to text ---- */

static int text(struct tok_dec *d, const char *s, size_t n, struct err *err)
{
	if (n)
		d->text_seen = true;
	return tok_buf_add(&d->out, s, n, err);
}

/* The bytes gathered so far: whole characters go out, and the rest too (one
 * mark a byte) unless it may still become a character. */
static int bytes(struct tok_dec *d, bool end, struct err *err)
{
	struct tok_buf *b = &d->step[0].hold;
	size_t i = 0;
	uint32_t cp;

	while (i < b->len) {
		unsigned k = tok_utf8(b->p + i, b->len - i, &cp);

		if (!k && !end && tok_utf8_cut(b->p + i, b->len - i))
			break;
		if (k ? text(d, b->p + i, k, err) :
			text(d, TOK_FFFD, 3, err))
			return -1;
		i += k ? k : 1;
	}
	b->len -= i;
	if (b->len)
		memmove(b->p, b->p + i, b->len);
	return 0;
}

/* A piece with its marks as spaces, without the one of the dummy prefix. */
static int piece(struct tok_dec *d, const char *s, size_t n, struct err *err)
{
	const struct tok_spm *m = d->t->spm;
	bool mark = n >= 3 && memcmp(s, MARK, 3) == 0;

	/* at the start of the text; without the squeeze only one is taken */
	if (d->ws_seen || d->text_seen)
		d->step[0].done = true;
	d->ws_seen = false;
	if (mark && !d->step[0].done &&
	    (m->norm.dummy_prefix || m->norm.squeeze)) {
		d->ws_seen = !m->norm.squeeze;
		s += 3;
		n -= 3;
	}
	while (n) {
		size_t k = 0;

		while (k < n && !(n - k >= 3 && memcmp(s + k, MARK, 3) == 0))
			k++;
		if (text(d, s, k, err) || (k < n && text(d, " ", 1, err)))
			return -1;
		s += k < n ? k + 3 : k;
		n -= k < n ? k + 3 : k;
	}
	return 0;
}

int tok_spm_feed(struct tok_dec *d, uint32_t id, struct err *err)
{
	const struct tok_spm *m = d->t->spm;
	const char *s, *unk = m->unk_surface;
	size_t n;
	char c;

	s = tok_dict_text(&d->t->dict, id);
	n = d->t->dict.piece[id].len;
	if (m->type[id] == TOK_BYTE) {
		c = (char)tok_byte_piece(s, n, false);
		return tok_buf_add(&d->step[0].hold, &c, 1, err) ||
				       bytes(d, false, err) ?
			       -1 :
			       0;
	}
	if (bytes(d, true, err))
		return -1;
	if (m->type[id] != TOK_CONTROL && m->type[id] != TOK_UNKNOWN)
		return piece(d, s, n, err);
	/* a control or unknown piece ends a wait for the dummy's space, too */
	if (d->ws_seen || d->text_seen)
		d->step[0].done = true;
	d->ws_seen = false;
	if (m->type[id] == TOK_CONTROL)
		return d->with_special ? text(d, s, n, err) : 0;
	if (!unk)
		unk = " \xe2\x81\x87 "; /* the default of the format */
	return text(d, unk, strlen(unk), err);
}

int tok_spm_flush(struct tok_dec *d, struct err *err)
{
	const struct tok_spm *m = d->t->spm;
	struct tok_buf out = { 0 };
	struct tok_span whole;

	if (bytes(d, true, err))
		return -1;
	if (!m->has_denorm)
		return 0;
	whole = (struct tok_span){ d->out.p, d->out.len, true };
	if (tok_spm_normalize(&m->denorm, NULL, whole, &out, err)) {
		tok_buf_release(&out);
		return -1;
	}
	tok_buf_release(&d->out);
	d->out = out;
	return 0;
}
