/* Ids to text, of a whole list and one by one: both run tok_dec.c's steps. */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"
#include "tok.h"

#include <stdlib.h>
#include <string.h>

struct tok_stream {
	struct tok_dec dec;
	struct tok_buf skip; /* the end of the context's text, see below */
	size_t at;           /* how much of it was met */
};

static void release(struct tok_dec *d)
{
	for (unsigned i = 0; i < TOK_STEPS; i++) {
		tok_buf_release(&d->step[i].hold);
		tok_buf_release(&d->step[i].out);
	}
	tok_buf_release(&d->out);
	tok_match_free(d->match);
}

static int feed(struct tok_dec *d, uint32_t id, struct err *err)
{
	if (id >= d->t->vocab)
		return err_set(err, ERR_INPUT,
			       "token id %u is beyond the vocabulary of %u",
			       id, d->t->vocab);
	return tok_dec_feed(d, id, err);
}

int tok_decode(const struct tok *t, const uint32_t *ids, size_t count,
	       bool with_special, char **text, size_t *len, struct err *err)
{
	struct tok_dec *d = mem_alloc(1, sizeof(*d), err);
	int ret = -1;

	*text = NULL;
	*len = 0;
	if (!d)
		return -1;
	d->t = t;
	d->with_special = with_special;
	for (size_t i = 0; i < count; i++)
		if (feed(d, ids[i], err)) {
			err_ctx(err, "token %zu of the list", i);
			goto out;
		}
	if (tok_dec_flush(d, err) || tok_buf_add(&d->out, "", 1, err))
		goto out;
	*text = d->out.p;
	*len = d->out.len - 1;
	memset(&d->out, 0, sizeof(d->out));
	ret = 0;
out:
	release(d);
	free(d);
	return ret;
}

/* What the decoder holds back at the end of the context (a newline that is a
 * byte token, say) is in the text of the context, and must not come a second
 * time with the first id that is fed: skip is that part. */
static int skip_context(struct tok_stream *s, const uint32_t *ids,
			size_t count, struct err *err)
{
	size_t len, out = s->dec.out.len;
	char *text;
	int ret = 0;

	if (tok_decode(s->dec.t, ids, count, false, &text, &len, err))
		return -1;
	if (s->dec.t->spm && s->dec.t->spm->has_denorm)
		out = 0;
	else
		s->dec.out.len = 0;
	if (len > out)
		ret = tok_buf_add(&s->skip, text + out, len - out, err);
	free(text);
	return ret;
}

int tok_stream_new(const struct tok *t, const uint32_t *context, size_t count,
		   struct tok_stream **out, struct err *err)
{
	struct tok_stream *s = mem_alloc(1, sizeof(*s), err);

	*out = NULL;
	if (!s)
		return -1;
	s->dec.t = t;
	for (size_t i = 0; i < count; i++)
		if (feed(&s->dec, context[i], err))
			goto fail;
	if (skip_context(s, context, count, err))
		goto fail;
	*out = s;
	return 0;
fail:
	tok_stream_free(s);
	return -1;
}

/* Hand out what there is, without what the context has shown. */
static void deliver(struct tok_stream *s, const char **text, size_t *len)
{
	const char *p = s->dec.out.p ? s->dec.out.p : "";
	const char *q = s->skip.p ? s->skip.p + s->at : p;
	size_t n = s->dec.out.len, left = s->skip.len - s->at, k = 0;

	while (left && k < n && k < left && p[k] == q[k])
		k++;
	if (k < n && k < left) {
		/* other text after all: keep whole characters */
		while (k && ((uint8_t)p[k] & 0xc0) == 0x80)
			k--;
		s->skip.len = s->at = 0;
	} else {
		s->at += k;
	}
	*text = p + k;
	*len = n - k;
	s->dec.out.len = 0; /* the bytes stay until the next call */
}

int tok_stream_feed(struct tok_stream *s, uint32_t id, const char **text,
		    size_t *len, struct err *err)
{
	*text = "";
	*len = 0;
	if (feed(&s->dec, id, err))
		return -1;
	/* a denormalizer sees the whole text at once */
	if (!s->dec.t->spm || !s->dec.t->spm->has_denorm)
		deliver(s, text, len);
	return 0;
}

int tok_stream_flush(struct tok_stream *s, const char **text, size_t *len,
		     struct err *err)
{
	*text = "";
	*len = 0;
	if (tok_dec_flush(&s->dec, err))
		return -1;
	deliver(s, text, len);
	return 0;
}

void tok_stream_free(struct tok_stream *s)
{
	if (!s)
		return;
	release(&s->dec);
	tok_buf_release(&s->skip);
	free(s);
}
