/* tokenizer.json, the way back: a list of decoders from tokens to text.
 *
 * The original runs each decoder over the whole list; here the tokens run
 * through all of them one by one, so that decoding a list and streaming are
 * the same code.  A step keeps what it cannot decide yet: a group of byte
 * tokens (valid UTF-8 as a whole, or a U+FFFD for each), a character that is
 * cut off, spaces that may be stripped.  Behind Fuse and ByteLevel all text is
 * one token to the original, which arrives in fragments of whole characters.
 * Source: tokenizers' decoders/ (behaviour). */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"

#include <stdlib.h>
#include <string.h>

/* ---- loading ---- */

static int one_char(const struct cJSON *j, const char *key, uint32_t *cp,
		    struct err *err)
{
	const char *s = json_text(json_find(j, key));

	if (!s || !*s || tok_utf8(s, strlen(s), cp) != strlen(s))
		return err_set(err, ERR_INPUT, "\"%s\" is not one character",
			       key);
	return 0;
}

static int load_replace(struct tok_dec_step *p, const struct cJSON *j,
			struct err *err)
{
	const char *to = json_text(json_find(j, "content"));
	uint32_t cp;

	p->kind = TOK_DEC_REPLACE;
	if (!to)
		return err_set(err, ERR_INPUT, "\"content\" is not a string");
	p->len = strlen(to);
	p->content = mem_text(to, p->len, err);
	if (!p->content ||
	    tok_pattern_json(&p->pattern, json_find(j, "pattern"), err))
		return -1;
	if (p->fused && (!p->pattern.text ||
			 tok_utf8(p->pattern.text, p->pattern.len, &cp) !=
				 p->pattern.len))
		return err_set(err, ERR_UNSUP,
			       "Replace of more than a character behind Fuse "
			       "is not supported");
	return 0;
}

static int load_strip(struct tok_dec_step *p, const struct cJSON *j,
		      struct err *err)
{
	p->kind = TOK_DEC_STRIP;
	return one_char(j, "content", &p->cp, err) ||
			       json_get_u32(j, "start", 0, UINT32_MAX,
					    &p->start, err) ||
			       json_get_u32(j, "stop", 0, UINT32_MAX,
					    &p->stop, err) ?
		       -1 :
		       0;
}

static int load_meta(struct tok_dec_step *p, const struct cJSON *j,
		     struct err *err)
{
	const char *scheme = "always";
	bool add = true;

	p->kind = TOK_DEC_META;
	if (one_char(j, "replacement", &p->cp, err) ||
	    json_get_text(j, "prepend_scheme", &scheme, err) ||
	    json_get_bool(j, "add_prefix_space", &add, err))
		return -1;
	p->keep_first = !add || strcmp(scheme, "never") == 0;
	return 0;
}

static int load_one(struct tok_bpe *b, const struct cJSON *j,
		    const char *type, struct err *err)
{
	struct tok_dec_step *p = &b->dec[b->decs];

	if (b->decs == TOK_STEPS)
		return err_set(err, ERR_UNSUP, "more than %d steps",
			       TOK_STEPS);
	p->fused = b->decs && (p[-1].fused || p[-1].kind == TOK_DEC_FUSE ||
			       p[-1].kind == TOK_DEC_BYTES);
	b->decs++;
	if (strcmp(type, "Replace") == 0)
		return load_replace(p, j, err);
	if (strcmp(type, "Strip") == 0)
		return load_strip(p, j, err);
	if (strcmp(type, "Metaspace") == 0)
		return load_meta(p, j, err);
	p->kind = TOK_DEC_FUSE;
	if (strcmp(type, "Fuse") == 0)
		return 0;
	if (strcmp(type, "ByteFallback") == 0)
		p->kind = TOK_DEC_FALLBACK;
	else if (strcmp(type, "ByteLevel") == 0)
		p->kind = TOK_DEC_BYTES;
	else
		return err_set(err, ERR_UNSUP,
			       "type \"%.64s\" is not supported", type);
	if (p->fused)
		return err_set(err, ERR_UNSUP,
			       "%s behind Fuse is not supported", type);
	return 0;
}

static int load(struct tok_bpe *b, const struct cJSON *j, struct err *err)
{
	const char *type = json_text(json_find(j, "type"));
	const struct cJSON *k;

	if (!type)
		return err_set(err, ERR_INPUT, "it has no type");
	if (strcmp(type, "Sequence") != 0)
		return load_one(b, j, type, err);
	for (k = json_first(json_find(j, "decoders")); k; k = json_next(k))
		if (load(b, k, err))
			return -1;
	return 0;
}

int tok_dec_load(struct tok_bpe *b, const struct cJSON *j, struct err *err)
{
	if (j && !json_is_null(j))
		return load(b, j, err) ? err_ctx(err, "decoder") : 0;
	b->dec[0].kind = TOK_DEC_SPACED;
	b->decs = 1;
	return 0;
}

void tok_dec_release(struct tok_bpe *b)
{
	for (unsigned i = 0; i < b->decs; i++) {
		tok_pattern_release(&b->dec[i].pattern);
		free(b->dec[i].content);
	}
}

/* ---- running ---- */

static int give(struct tok_dec *d, unsigned step, const char *s, size_t n,
		struct err *err);

static int replace(struct tok_dec *d, unsigned step, const char *s, size_t n,
		   struct err *err)
{
	const struct tok_dec_step *p = &d->t->bpe->dec[step];
	struct tok_search f = { .p = &p->pattern, .scratch = &d->match,
				.text = { s, n, false } };
	struct tok_buf *out = &d->step[step].out;
	size_t done = 0;
	int rc = 0;

	out->len = 0;
	/* the original asks the pattern only about text that is there */
	while (n && (rc = tok_search_next(&f, err)) > 0) {
		if (tok_buf_add(out, s + done, f.start - done, err) ||
		    tok_buf_add(out, p->content, p->len, err)) {
			rc = -1;
			break;
		}
		done = f.end;
	}
	tok_search_end(&f);
	if (rc < 0 || tok_buf_add(out, s + done, n - done, err))
		return -1;
	return give(d, step + 1, out->p, out->len, err);
}

/* The end of a group of byte tokens. */
static int end_group(struct tok_dec *d, unsigned step, struct err *err)
{
	struct tok_buf *b = &d->step[step].hold;
	size_t n = b->len;

	b->len = 0;
	if (n == 0)
		return 0;
	if (tok_utf8_valid(b->p, n))
		return give(d, step + 1, b->p, n, err);
	for (size_t i = 0; i < n; i++)
		if (give(d, step + 1, TOK_FFFD, 3, err))
			return -1;
	return 0;
}

static int fallback(struct tok_dec *d, unsigned step, const char *s,
		    size_t n, struct err *err)
{
	int byte = tok_byte_piece(s, n, true);
	char c = (char)byte;

	if (byte >= 0)
		return tok_buf_add(&d->step[step].hold, &c, 1, err);
	return end_group(d, step, err) || give(d, step + 1, s, n, err) ? -1 :
									  0;
}

/* Strip of one whole token. */
static int strip(struct tok_dec *d, unsigned step, const char *s, size_t n,
		 struct err *err)
{
	const struct tok_dec_step *p = &d->t->bpe->dec[step];
	char c[4];
	unsigned k = tok_utf8_put(p->cp, c);

	for (uint32_t i = 0; i < p->start && n >= k && !memcmp(s, c, k); i++) {
		s += k;
		n -= k;
	}
	for (uint32_t i = 0;
	     i < p->stop && n >= k && !memcmp(s + n - k, c, k); i++)
		n -= k;
	return give(d, step + 1, s, n, err);
}

/* Strip of one token that comes in fragments: at the front it counts, at the
 * back it holds what may have to go. */
static int strip_fused(struct tok_dec *d, unsigned step, const char *s,
		       size_t n, struct err *err)
{
	const struct tok_dec_step *p = &d->t->bpe->dec[step];
	struct tok_dec_state *st = &d->step[step];
	char c[4];
	unsigned k = tok_utf8_put(p->cp, c);
	size_t same = 0; /* of the stripped character at the end */

	while (!st->done && st->stripped < p->start && n >= k &&
	       !memcmp(s, c, k)) {
		st->stripped++;
		s += k;
		n -= k;
	}
	if (n == 0)
		return 0;
	st->done = true;
	while (same < p->stop && n >= k * (same + 1) &&
	       !memcmp(s + n - k * (same + 1), c, k))
		same++;
	st->out.len = 0;
	if (same * k == n) /* nothing else: the run goes on */
		same += st->held;
	else
		for (; st->held; st->held--)
			if (tok_buf_add(&st->out, c, k, err))
				return -1;
	if (same > p->stop) {
		for (size_t i = p->stop; i < same; i++)
			if (tok_buf_add(&st->out, c, k, err))
				return -1;
		n = 0;
		same = p->stop;
	} else {
		size_t tail = same * k < n ? same * k : n;

		if (tok_buf_add(&st->out, s, n - tail, err))
			return -1;
	}
	st->held = (uint32_t)same;
	return give(d, step + 1, st->out.p, st->out.len, err);
}

/* Bytes out of the byte-level alphabet, and characters out of the bytes. */
static int bytes(struct tok_dec *d, unsigned step, const char *s, size_t n,
		 struct err *err)
{
	struct tok_buf *b = &d->step[step].hold;
	size_t old = b->len;
	uint32_t cp;

	for (size_t i = 0; i < n;) {
		unsigned k = tok_utf8(s + i, n - i, &cp);
		int byte = k ? tok_bytes_byte(cp) : -1;
		char c = (char)byte;

		if (byte < 0) { /* not of the alphabet: the text as it is */
			b->len = old;
			if (tok_buf_add(b, s, n, err))
				return -1;
			break;
		}
		if (tok_buf_add(b, &c, 1, err))
			return -1;
		i += k;
	}
	return 0;
}

static int bytes_out(struct tok_dec *d, unsigned step, bool end,
		     struct err *err)
{
	struct tok_buf *b = &d->step[step].hold, *out = &d->step[step].out;
	size_t i = 0;
	uint32_t cp;

	out->len = 0;
	while (i < b->len) {
		const char *s = b->p + i;
		unsigned k = tok_utf8(s, b->len - i, &cp);

		if (!k && !end && tok_utf8_cut(s, b->len - i))
			break;
		if (k ? tok_buf_add(out, s, k, err) :
			tok_buf_add(out, TOK_FFFD, 3, err))
			return -1;
		i += k ? k : tok_utf8_bad(s, b->len - i);
	}
	b->len -= i;
	if (b->len)
		memmove(b->p, b->p + i, b->len);
	return out->len ? give(d, step + 1, out->p, out->len, err) : 0;
}

static int meta(struct tok_dec *d, unsigned step, const char *s, size_t n,
		struct err *err)
{
	const struct tok_dec_step *p = &d->t->bpe->dec[step];
	struct tok_dec_state *st = &d->step[step];
	/* the first token's marks vanish, the others' are spaces */
	bool drop = !p->keep_first && (p->fused || st->tokens == 1);
	char c[4];
	unsigned k = tok_utf8_put(p->cp, c);
	size_t i = 0;

	st->out.len = 0;
	while (i < n) {
		bool mark = n - i >= k && memcmp(s + i, c, k) == 0;
		int rc = mark && drop ? 0 :
			 mark	      ? tok_buf_add(&st->out, " ", 1, err) :
					tok_buf_add(&st->out, s + i, 1, err);

		if (rc)
			return -1;
		i += mark ? k : 1;
	}
	return give(d, step + 1, st->out.p, st->out.len, err);
}

static int give(struct tok_dec *d, unsigned step, const char *s, size_t n,
		struct err *err)
{
	const struct tok_bpe *b = d->t->bpe;

	if (step == b->decs)
		return tok_buf_add(&d->out, s, n, err);
	if (d->step[step].tokens < 2)
		d->step[step].tokens++;
	switch (b->dec[step].kind) {
	case TOK_DEC_REPLACE:
		return replace(d, step, s, n, err);
	case TOK_DEC_FALLBACK:
		return fallback(d, step, s, n, err);
	case TOK_DEC_STRIP:
		return b->dec[step].fused ? strip_fused(d, step, s, n, err) :
					    strip(d, step, s, n, err);
	case TOK_DEC_BYTES:
		return bytes(d, step, s, n, err) ||
				       bytes_out(d, step, false, err) ?
			       -1 :
			       0;
	case TOK_DEC_META:
		return meta(d, step, s, n, err);
	case TOK_DEC_SPACED:
		if (d->step[step].tokens == 2 &&
		    give(d, step + 1, " ", 1, err))
			return -1;
		break;
	case TOK_DEC_FUSE:
		break;
	}
	return give(d, step + 1, s, n, err);
}

int tok_dec_feed(struct tok_dec *d, uint32_t id, struct err *err)
{
	const struct tok *t = d->t;
	const struct tok_bpe *b = t->bpe;
	const struct tok_added *a;
	const char *s = tok_dict_text(&t->dict, id);
	size_t n = t->dict.piece[id].len;
	uint32_t at;

	if (t->spm)
		return tok_spm_feed(d, id, err);
	if (n == 0) /* a gap in the vocabulary: the original skips it */
		return 0;
	a = tok_added_find(b, id);
	at = a ? b->added_of[id] : 0;
	if (a && at < b->shown.n && b->shown.piece[at].len) {
		/* a special token in another spelling is not recognised */
		s = tok_dict_text(&b->shown, at);
		n = b->shown.piece[at].len;
	} else if (a && a->special && !d->with_special) {
		return 0;
	}
	return give(d, 0, s, n, err);
}

int tok_dec_flush(struct tok_dec *d, struct err *err)
{
	const struct tok_bpe *b = d->t->bpe;

	if (d->t->spm)
		return tok_spm_flush(d, err);
	for (unsigned i = 0; i < b->decs; i++) {
		if (b->dec[i].kind == TOK_DEC_FALLBACK &&
		    end_group(d, i, err))
			return -1;
		if (b->dec[i].kind == TOK_DEC_BYTES &&
		    bytes_out(d, i, true, err))
			return -1;
	}
	return 0;
}
