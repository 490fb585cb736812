/* Normalization form C: characters taken apart, marks put in order, and
 * composed again.
 *
 * Text is handled in clusters, a starter (class 0) and the marks behind it:
 * marks are sorted by their class, each is composed with the starter unless
 * one of the same class stands between, and a starter that stands right behind
 * another may compose with it (Hangul, some Indic vowels).
 * Source: Unicode Standard Annex 15; chapter 3.12 for Hangul. */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_MARK 0x300u /* below it everything is composed */
#define NOT_COMPOSED (1u << 31)

enum {
	S_BASE = 0xac00,
	L_BASE = 0x1100,
	V_BASE = 0x1161,
	T_BASE = 0x11a7,
	L_COUNT = 19,
	V_COUNT = 21,
	T_COUNT = 28,
	S_COUNT = L_COUNT * V_COUNT * T_COUNT
};

struct mark {
	uint32_t cp;
	uint8_t class;
};

struct cluster {
	uint32_t starter; /* TOK_NONE: marks at the start of the text */
	struct mark *mark, *sorted; /* [cap] */
	size_t n, cap, sorted_cap;
	struct tok_buf *out;
};

static uint8_t class_of(uint32_t cp)
{
	const struct tok_new *row =
		cp < FIRST_MARK ?
			NULL :
			tok_new_find(tok_nfc_class, tok_nfc_class_n, cp);

	return row ? (uint8_t)row->like : 0;
}

static uint32_t compose_hangul(uint32_t a, uint32_t b)
{
	if (a - L_BASE < L_COUNT && b - V_BASE < V_COUNT)
		return S_BASE +
		       ((a - L_BASE) * V_COUNT + (b - V_BASE)) * T_COUNT;
	if (a - S_BASE < S_COUNT && (a - S_BASE) % T_COUNT == 0 &&
	    b > T_BASE && b < T_BASE + T_COUNT)
		return a + (b - T_BASE);
	return 0;
}

/* The character that is a and b, or 0. */
static uint32_t compose(uint32_t a, uint32_t b)
{
	size_t lo = 0, hi = tok_nfc_order_n;
	uint64_t want = (uint64_t)a << 32 | b;
	uint32_t hangul = compose_hangul(a, b);

	if (hangul)
		return hangul;
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		const uint32_t *p = &tok_nfc_pair[3 * tok_nfc_order[mid]];
		uint64_t key = (uint64_t)p[1] << 32 | p[2];

		if (key == want)
			return p[0];
		if (key < want)
			lo = mid + 1;
		else
			hi = mid;
	}
	return 0;
}

static const uint32_t *pair_of(uint32_t cp)
{
	size_t lo = 0, hi = tok_nfc_pair_n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (tok_nfc_pair[3 * mid] == cp)
			return &tok_nfc_pair[3 * mid];
		if (tok_nfc_pair[3 * mid] < cp)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

/* Take cp apart into to[0..4); returns how many. */
static unsigned decompose(uint32_t cp, uint32_t to[4])
{
	uint32_t tail[4], s = cp - S_BASE;
	unsigned n = 0, behind = 0;

	if (s < S_COUNT) {
		to[n++] = L_BASE + s / (V_COUNT * T_COUNT);
		to[n++] = V_BASE + s % (V_COUNT * T_COUNT) / T_COUNT;
		if (s % T_COUNT)
			to[n++] = T_BASE + s % T_COUNT;
		return n;
	}
	/* only first parts come apart again, at most three times */
	while (cp >= 0xc0 && behind < 3) {
		const struct tok_new *run = tok_new_find(tok_nfc_run,
							 tok_nfc_run_n, cp);
		const uint32_t *p = run ? NULL : pair_of(cp);

		if (run) {
			cp = tok_nfc_to[run->like + (cp - run->from)];
		} else if (p) {
			tail[behind++] = p[2];
			cp = p[1] & ~NOT_COMPOSED;
		} else {
			break;
		}
	}
	to[n++] = cp;
	while (behind)
		to[n++] = tail[--behind];
	return n;
}

static int put(struct cluster *c, uint32_t cp, struct err *err)
{
	char s[4];

	return tok_buf_add(c->out, s, tok_utf8_put(cp, s), err);
}

/* Order the marks by class, equal ones as they came: counting sort, since a
 * hostile text may pile up millions. */
static int sort_marks(struct cluster *c, struct err *err)
{
	size_t at[257] = { 0 };
	void *p = c->sorted;

	if (c->n < 2)
		return 0;
	if (mem_grow(&p, &c->sorted_cap, c->n, sizeof(*c->sorted), err))
		return -1;
	c->sorted = p;
	for (size_t i = 0; i < c->n; i++)
		at[c->mark[i].class + 1]++;
	for (unsigned k = 1; k < 257; k++)
		at[k] += at[k - 1];
	for (size_t i = 0; i < c->n; i++)
		c->sorted[at[c->mark[i].class]++] = c->mark[i];
	memcpy(c->mark, c->sorted, c->n * sizeof(*c->mark));
	return 0;
}

/* Compose the marks with the starter; those that stay, stay in c->mark. */
static int settle(struct cluster *c, struct err *err)
{
	size_t kept = 0;
	uint32_t both;

	if (sort_marks(c, err))
		return -1;
	for (size_t i = 0; i < c->n; i++) {
		struct mark m = c->mark[i];
		bool blocked = c->starter == TOK_NONE ||
			       (kept && c->mark[kept - 1].class == m.class);

		both = blocked ? 0 : compose(c->starter, m.cp);
		if (both)
			c->starter = both;
		else
			c->mark[kept++] = m;
	}
	c->n = kept;
	return 0;
}

static int finish(struct cluster *c, struct err *err)
{
	if (settle(c, err) ||
	    (c->starter != TOK_NONE && put(c, c->starter, err)))
		return -1;
	for (size_t i = 0; i < c->n; i++)
		if (put(c, c->mark[i].cp, err))
			return -1;
	c->n = 0;
	c->starter = TOK_NONE;
	return 0;
}

/* One character, taken apart already. */
static int add(struct cluster *c, uint32_t cp, struct err *err)
{
	uint8_t class = class_of(cp);
	uint32_t both = 0;
	void *p = c->mark;

	if (class) {
		if (mem_grow(&p, &c->cap, c->n + 1, sizeof(*c->mark), err))
			return -1;
		c->mark = p;
		c->mark[c->n++] = (struct mark){ cp, class };
		return 0;
	}
	if (c->n && settle(c, err))
		return -1;
	if (c->starter != TOK_NONE && c->n == 0)
		both = compose(c->starter, cp);
	if (!both && finish(c, err))
		return -1;
	c->starter = both ? both : cp;
	return 0;
}

int tok_nfc(const char *s, size_t n, struct tok_buf *out, struct err *err)
{
	struct cluster c = { .starter = TOK_NONE, .out = out };
	uint32_t cp, part[4];
	size_t i = 0;
	int ret = -1;

	/* most text: nothing to do */
	while (i < n && (uint8_t)s[i] < 0xcc)
		i++;
	if (i == n)
		return tok_buf_add(out, s, n, err);
	for (i = 0; i < n;) {
		unsigned k = tok_utf8(s + i, n - i, &cp), m;

		m = decompose(cp, part);
		for (unsigned j = 0; j < m; j++)
			if (add(&c, part[j], err))
				goto out;
		i += k;
	}
	ret = finish(&c, err);
out:
	free(c.mark);
	free(c.sorted);
	return ret;
}
