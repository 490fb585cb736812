/* Matching: literals by memmem, patterns by PCRE2, with bounds on its work.
 *
 * A PCRE2 of Unicode 14 does not know the letters that Unicode 15 and 16
 * added, Oniguruma does.  Texts with such characters are matched by their
 * shadow: each is replaced by an old one of the same kind and length, so that
 * the places found are right. */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define STACK_MAX (64u << 20) /* bytes that a JIT match may stack */

struct tok_match {
	pcre2_match_data *data;
	pcre2_match_context *context;
	pcre2_jit_stack *stack;
};

static struct tok_match *match_new(struct err *err)
{
	struct tok_match *m = mem_alloc(1, sizeof(*m), err);

	if (!m)
		return NULL;
	m->data = pcre2_match_data_create(1, NULL);
	m->context = pcre2_match_context_create(NULL);
	if (!m->data || !m->context) {
		tok_match_free(m);
		err_set(err, ERR_RESOURCE, "not enough memory");
		return NULL;
	}
	return m;
}

void tok_match_free(struct tok_match *m)
{
	if (!m)
		return;
	pcre2_match_data_free(m->data);
	pcre2_match_context_free(m->context);
	pcre2_jit_stack_free(m->stack);
	free(m);
}

/* ---- shadows ---- */

const struct tok_new *tok_new_find(const struct tok_new *row, size_t n,
				   uint32_t cp)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (row[mid].to < cp)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < n && row[lo].from <= cp ? &row[lo] : NULL;
}

/* Write the old characters over the new ones of s[0..n); with to NULL, only
 * say whether there is any. */
static bool age(const char *s, size_t n, char *to)
{
	const struct tok_new *row;
	bool any = false;
	uint32_t cp;
	unsigned k;

	for (size_t i = 0; i < n; i += k) {
		k = 1;
		if ((uint8_t)s[i] < 0xe0) /* they have three or four bytes */
			continue;
		k = tok_utf8(s + i, n - i, &cp);
		row = tok_new_find(tok_new, tok_new_n, cp);
		if (!row)
			continue;
		if (!to)
			return true;
		tok_utf8_put(row->like, to + i);
		any = true;
	}
	return any;
}

static int make_shadow(struct tok_search *f, struct err *err)
{
	if (!age(f->text.s, f->text.n, NULL))
		return 0;
	f->shadow = mem_text(f->text.s, f->text.n, err);
	if (!f->shadow)
		return -1;
	age(f->text.s, f->text.n, f->shadow);
	return 0;
}

/* ---- searching ---- */

/* The text is known to be valid, and must not be checked once a match. */
static int match(const struct tok_search *f, uint32_t options)
{
	struct tok_match *m = *f->scratch;
	const char *s = f->shadow ? f->shadow : f->text.s;

	return pcre2_match(f->p->re, (PCRE2_SPTR)s, f->text.n, f->from,
			   PCRE2_NO_UTF_CHECK | options, m->data, m->context);
}

static int begin(struct tok_search *f, struct err *err)
{
	/* a run of spaces is given back one by one: steps in proportion */
	uint64_t limit = 10000000 + 64 * (uint64_t)f->text.n;

	if (!*f->scratch && !(*f->scratch = match_new(err)))
		return -1;
	pcre2_set_match_limit((*f->scratch)->context,
			      limit > UINT32_MAX ? UINT32_MAX :
						   (uint32_t)limit);
	return make_shadow(f, err);
}

/* One match from f->from on, in f->start and f->end. */
static int regex_next(struct tok_search *f, struct err *err)
{
	struct tok_match *m;
	int rc;

	if (!f->matched && begin(f, err))
		return -1;
	m = *f->scratch;
	rc = match(f, 0);
	if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !m->stack) {
		m->stack = pcre2_jit_stack_create(32768, STACK_MAX, NULL);
		pcre2_jit_stack_assign(m->context, NULL, m->stack);
		rc = match(f, 0);
	}
	if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
		rc = match(f, PCRE2_NO_JIT);
	if (rc == PCRE2_ERROR_NOMATCH)
		return 0;
	if (rc < 0)
		return err_set(err, ERR_UNSUP,
			       "the pattern needs too many steps on this text");
	f->start = pcre2_get_ovector_pointer(m->data)[0];
	f->end = pcre2_get_ovector_pointer(m->data)[1];
	return 1;
}

static int literal_next(struct tok_search *f)
{
	const char *at = f->from < f->text.n ?
				 memmem(f->text.s + f->from,
					f->text.n - f->from, f->p->text,
					f->p->len) :
				 NULL;

	if (!at)
		return 0;
	f->start = (size_t)(at - f->text.s);
	f->end = f->start + f->p->len;
	return 1;
}

int tok_search_next(struct tok_search *f, struct err *err)
{
	uint32_t cp;
	int rc;

	for (;;) {
		if (f->from > f->text.n)
			return 0;
		rc = f->p->re ? regex_next(f, err) : literal_next(f);
		if (rc <= 0)
			return rc;
		if (f->start != f->end || !f->matched || f->end != f->last)
			break;
		/* nothing, right behind the last match: one character on */
		f->from += f->from < f->text.n ?
				   tok_utf8(f->text.s + f->from,
					    f->text.n - f->from, &cp) :
				   1;
	}
	f->from = f->last = f->end;
	f->matched = true;
	return 1;
}

void tok_search_end(struct tok_search *f)
{
	free(f->shadow);
	f->shadow = NULL;
}
