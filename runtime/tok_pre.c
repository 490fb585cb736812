/* tokenizer.json, second stage: the pre-tokenizer cuts the text into what the
 * model sees one at a time.
 *
 * Each step cuts what it gets, perhaps rewrites it, and hands every part to
 * the next step at once; behind the last step is the model.
 * Source: tokenizers' byte_level.rs, metaspace.rs, split.rs, normalizer.rs
 * (behaviour). */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/json.h"

#include <string.h>

/* GPT-2's pattern, that a ByteLevel step with use_regex cuts by. */
#define GPT2                                                                 \
	"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|" \
	"\\s+(?!\\S)|\\s+"

/* ---- the byte-level alphabet ---- */

/* Printable Latin-1 stands for itself, the other 68 bytes are U+0100 and on,
 * in order (GPT-2, encoder.py). */
static bool itself(uint32_t c)
{
	return (c >= '!' && c <= '~') || (c >= 0xa1 && c <= 0xac) ||
	       (c >= 0xae && c <= 0xff);
}

uint32_t tok_bytes_char(uint8_t byte)
{
	if (itself(byte))
		return byte;
	if (byte <= 0x20)
		return 0x100u + byte;
	if (byte <= 0xa0)
		return 0x100u + 33 + (byte - 0x7fu);
	return 0x100u + 67; /* 0xad */
}

int tok_bytes_byte(uint32_t cp)
{
	if (cp < 0x100)
		return itself(cp) ? (int)cp : -1;
	if (cp <= 0x120)
		return (int)(cp - 0x100);
	if (cp <= 0x142)
		return (int)(cp - 0x121 + 0x7f);
	return cp == 0x143 ? 0xad : -1;
}

static int to_alphabet(const char *s, size_t n, struct tok_buf *out,
		       struct err *err)
{
	char *p;

	out->len = 0;
	if (tok_buf_room(out, 2 * n, err))
		return -1;
	p = out->p;
	for (size_t i = 0; i < n; i++) {
		uint32_t c = tok_bytes_char((uint8_t)s[i]);

		if (c < 0x80) {
			*p++ = (char)c;
			continue;
		}
		*p++ = (char)(0xc0 | c >> 6);
		*p++ = (char)(0x80 | (c & 0x3f));
	}
	out->len = (size_t)(p - out->p);
	return 0;
}

/* ---- loading ---- */

static int load_split(struct tok_pre *p, const struct cJSON *j,
		      struct err *err)
{
	static const char *const name[] = { "Isolated", "Removed",
					    "Contiguous", "MergedWithPrevious",
					    "MergedWithNext" };
	const char *how = json_text(json_find(j, "behavior"));
	unsigned i = 0;

	p->kind = TOK_PRE_SPLIT;
	while (i < 5 && !(how && strcmp(how, name[i]) == 0))
		i++;
	if (i == 5)
		return err_set(err, ERR_UNSUP,
			       "Split behavior \"%s\" is not supported",
			       how ? how : "(none)");
	p->cut = (enum tok_cut)i;
	return json_get_bool(j, "invert", &p->invert, err) ||
			       tok_pattern_json(&p->pattern,
						json_find(j, "pattern"), err) ?
		       -1 :
		       0;
}

static int load_meta(struct tok_pre *p, const struct cJSON *j,
		     struct err *err)
{
	static const char *const name[] = { "always", "first", "never" };
	const char *mark = json_text(json_find(j, "replacement"));
	const char *scheme = "always";
	bool add = true;
	uint32_t cp;
	unsigned i = 0;

	p->kind = TOK_PRE_META;
	p->split = true;
	p->cut = TOK_CUT_NEXT;
	if (json_get_bool(j, "split", &p->split, err) ||
	    json_get_bool(j, "add_prefix_space", &add, err) ||
	    json_get_text(j, "prepend_scheme", &scheme, err))
		return -1;
	if (!mark || !*mark ||
	    tok_utf8(mark, strlen(mark), &cp) != strlen(mark))
		return err_set(err, ERR_INPUT,
			       "\"replacement\" is not one character");
	p->mark_len = strlen(mark);
	memcpy(p->mark, mark, p->mark_len);
	while (i < 3 && strcmp(scheme, name[i]) != 0)
		i++;
	if (i == 3)
		return err_set(err, ERR_UNSUP,
			       "prepend_scheme \"%s\" is not supported",
			       scheme);
	p->scheme = add ? (enum tok_scheme)i : TOK_NEVER;
	return tok_pattern_literal(&p->pattern, mark, err);
}

static int load_digits(struct tok_pre *p, const struct cJSON *j,
		       struct err *err)
{
	bool each = false;

	p->kind = TOK_PRE_SPLIT;
	p->cut = TOK_CUT_ISOLATED;
	if (json_get_bool(j, "individual_digits", &each, err))
		return -1;
	return tok_pattern_regex(&p->pattern, each ? "\\p{N}" : "\\p{N}+",
				 err);
}

static int load_bytes(struct tok_pre *p, const struct cJSON *j,
		      struct err *err)
{
	bool regex = true;

	p->kind = TOK_PRE_BYTES;
	p->cut = TOK_CUT_ISOLATED;
	p->prefix_space = true;
	if (json_get_bool(j, "add_prefix_space", &p->prefix_space, err) ||
	    json_get_bool(j, "use_regex", &regex, err))
		return -1;
	return regex ? tok_pattern_regex(&p->pattern, GPT2, err) : 0;
}

static int load_one(struct tok_bpe *b, const struct cJSON *j,
		    const char *type, struct err *err)
{
	struct tok_pre *p = &b->pre[b->pres];

	if (b->pres == TOK_STEPS)
		return err_set(err, ERR_UNSUP, "more than %d steps",
			       TOK_STEPS);
	b->pres++;
	if (strcmp(type, "Split") == 0)
		return load_split(p, j, err);
	if (strcmp(type, "ByteLevel") == 0)
		return load_bytes(p, j, err);
	if (strcmp(type, "Metaspace") == 0)
		return load_meta(p, j, err);
	if (strcmp(type, "Digits") == 0)
		return load_digits(p, j, err);
	return err_set(err, ERR_UNSUP, "type \"%s\" is not supported", type);
}

int tok_pre_load(struct tok_bpe *b, const struct cJSON *j, struct err *err)
{
	const char *type = json_text(json_find(j, "type"));
	const struct cJSON *k;

	if (!j || json_is_null(j))
		return 0;
	if (!type)
		return err_set(err, ERR_INPUT, "pre_tokenizer: it has no type");
	if (strcmp(type, "Sequence") != 0)
		return load_one(b, j, type, err) ?
			       err_ctx(err, "pre_tokenizer") :
			       0;
	k = json_first(json_find(j, "pretokenizers"));
	for (; k; k = json_next(k))
		if (tok_pre_load(b, k, err))
			return -1;
	return 0;
}

void tok_pre_release(struct tok_bpe *b)
{
	for (unsigned i = 0; i < b->pres; i++)
		tok_pattern_release(&b->pre[i].pattern);
}

/* ---- cutting ---- */

struct cutter {
	struct tok_work *w;
	unsigned step;
	struct tok_span text;
	bool have, last; /* a part waits; whether it was a match */
	size_t from, to;
};

static int hand_on(struct tok_work *w, unsigned step, struct tok_span text,
		   struct err *err)
{
	const struct tok_pre *p = &w->t->bpe->pre[step];
	struct tok_buf *out = &w->step[step][1];

	if (p->kind == TOK_PRE_BYTES) {
		if (to_alphabet(text.s, text.n, out, err))
			return -1;
		text.s = out->p;
		text.n = out->len;
	}
	return tok_pre_run(w, step + 1, text, err);
}

static int send(struct cutter *c, struct err *err)
{
	struct tok_span part = { c->text.s + c->from, c->to - c->from,
				 c->text.first && c->from == 0 };

	if (!c->have)
		return 0;
	c->have = false;
	return hand_on(c->w, c->step, part, err);
}

/* The next stretch of the text, a match of the pattern or what is between. */
static int part(struct cutter *c, size_t from, size_t to, bool is_match,
		struct err *err)
{
	const struct tok_pre *p = &c->w->t->bpe->pre[c->step];
	bool hit = is_match != p->invert, grow = false;

	if (p->cut == TOK_CUT_CONTIGUOUS)
		grow = hit == c->last;
	else if (p->cut == TOK_CUT_PREVIOUS)
		grow = hit && !c->last;
	else if (p->cut == TOK_CUT_NEXT)
		grow = !hit && c->last;
	c->last = hit;
	if (grow && c->have) {
		c->to = to;
		return 0;
	}
	if (send(c, err))
		return -1;
	c->have = !(hit && p->cut == TOK_CUT_REMOVED);
	c->from = from;
	c->to = to;
	return 0;
}

static int cut(struct tok_work *w, unsigned step, struct tok_span text,
	       struct err *err)
{
	struct cutter c = { .w = w, .step = step, .text = text };
	struct tok_search f = { .p = &w->t->bpe->pre[step].pattern,
				.scratch = &w->match, .text = text };
	size_t done = 0;
	int rc;

	while ((rc = tok_search_next(&f, err)) > 0) {
		if ((f.start > done && part(&c, done, f.start, false, err)) ||
		    part(&c, f.start, f.end, true, err)) {
			rc = -1;
			break;
		}
		done = f.end;
	}
	tok_search_end(&f);
	if (rc < 0 || (done < text.n && part(&c, done, text.n, false, err)))
		return -1;
	return send(&c, err);
}

static int run_bytes(struct tok_work *w, unsigned step, struct tok_span text,
		     struct err *err)
{
	const struct tok_pre *p = &w->t->bpe->pre[step];
	struct tok_buf *out = &w->step[step][0];

	if (p->prefix_space && text.s[0] != ' ') {
		out->len = 0;
		if (tok_buf_add(out, " ", 1, err) ||
		    tok_buf_add(out, text.s, text.n, err))
			return -1;
		text.s = out->p;
		text.n = out->len;
	}
	return p->pattern.re ? cut(w, step, text, err) :
			       hand_on(w, step, text, err);
}

static int run_meta(struct tok_work *w, unsigned step, struct tok_span text,
		    struct err *err)
{
	const struct tok_pre *p = &w->t->bpe->pre[step];
	struct tok_buf *out = &w->step[step][0];
	bool front = p->scheme == TOK_ALWAYS ||
		     (p->scheme == TOK_FIRST && text.first);
	bool there = text.s[0] == ' ' ||
		     (text.n >= p->mark_len &&
		      memcmp(text.s, p->mark, p->mark_len) == 0);
	const char *s = text.s, *end = s + text.n, *at;

	out->len = 0;
	if (front && !there && tok_buf_add(out, p->mark, p->mark_len, err))
		return -1;
	while ((at = memchr(s, ' ', (size_t)(end - s)))) {
		if (tok_buf_add(out, s, (size_t)(at - s), err) ||
		    tok_buf_add(out, p->mark, p->mark_len, err))
			return -1;
		s = at + 1;
	}
	if (tok_buf_add(out, s, (size_t)(end - s), err))
		return -1;
	text.s = out->p;
	text.n = out->len;
	return p->split ? cut(w, step, text, err) :
			  hand_on(w, step, text, err);
}

int tok_pre_run(struct tok_work *w, unsigned step, struct tok_span text,
		struct err *err)
{
	const struct tok_bpe *b = w->t->bpe;

	if (text.n == 0)
		return 0;
	if (step == b->pres)
		return tok_bpe_token(w, text.s, text.n, err);
	switch (b->pre[step].kind) {
	case TOK_PRE_BYTES:
		return run_bytes(w, step, text, err);
	case TOK_PRE_META:
		return run_meta(w, step, text, err);
	default:
		return cut(w, step, text, err);
	}
}
