/* SentencePiece's normalizer: a compiled table of replacements, then spaces.
 *
 * The table is u32 bytes of the trie, the trie as an array of u32 units, and
 * the replacements, each with a NUL behind.  The trie is a double array: from
 * node n the byte c leads to n ^ offset(unit n) ^ c, if the unit there has the
 * label c; a unit with bit 8 has a value at n ^ offset.
 * Source: darts-clone (units), sentencepiece normalizer (blob, rules).
 * Nothing here trusts the table: every step is checked against its size. */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/half.h"
#include "../libfmt/base/mem.h"

#include <stdlib.h>
#include <string.h>

#define MARK "\xe2\x96\x81" /* U+2581, what stands for a space */

int tok_charsmap_init(struct tok_charsmap *c, const uint8_t *blob, size_t n,
		      struct err *err)
{
	uint32_t bytes;
	uint8_t *mem;

	if (n <= 4 || (bytes = half_le32(blob)) > n - 4 || bytes % 4)
		return err_set(err, ERR_INPUT,
			       "the normalizer's table is damaged");
	mem = mem_alloc(n - 4, 1, err);
	if (!mem)
		return -1;
	memcpy(mem, blob + 4, n - 4);
	free(c->mem);
	c->mem = mem;
	c->units = bytes / 4;
	c->text = (const char *)mem + bytes;
	c->text_len = n - 4 - bytes;
	return 0;
}

static size_t offset(uint32_t unit)
{
	return (size_t)(unit >> 10) << ((unit & (1u << 9)) >> 6);
}

size_t tok_charsmap_find(const struct tok_charsmap *c, const char *s,
			 size_t n, const char **to, size_t *to_len)
{
	size_t node, best = 0, value = 0;
	uint32_t unit;

	if (!c->units)
		return 0;
	node = offset(half_le32(c->mem));
	for (size_t i = 0; i < n; i++) {
		uint8_t b = (uint8_t)s[i];

		node ^= b;
		if (node >= c->units)
			break;
		unit = half_le32(c->mem + 4 * node);
		if ((unit & (1u << 31 | 0xff)) != b)
			break;
		node ^= offset(unit);
		if (!(unit >> 8 & 1) || node >= c->units)
			continue;
		value = half_le32(c->mem + 4 * node) & 0x7fffffffu;
		best = i + 1;
	}
	if (!best)
		return 0;
	if (value >= c->text_len) { /* damaged: as if nothing were there */
		*to = "";
		*to_len = 0;
		return best;
	}
	*to = c->text + value;
	*to_len = strnlen(*to, c->text_len - value);
	return best;
}

/* What the text at s[0..n) becomes: returns how much of it is used. */
static size_t prefix(const struct tok_spm_norm *m, const struct tok_spm *user,
		     const char *s, size_t n, struct tok_span *to)
{
	uint32_t value, cp;
	size_t k = 0;

	to->s = s;
	if (user && user->has_user)
		k = tok_trie_find(&user->user, s, n, &value);
	if (k) { /* user-defined pieces stay as they are */
		to->n = k;
		return k;
	}
	k = tok_charsmap_find(&m->map, s, n, &to->s, &to->n);
	if (k)
		return k;
	k = tok_utf8(s, n, &cp);
	to->n = k;
	if (!k) { /* one mark for each broken byte */
		to->s = TOK_FFFD;
		to->n = 3;
		k = 1;
	}
	return k;
}

static int space(const struct tok_spm_norm *m, struct tok_buf *out,
		 struct err *err)
{
	return m->escape ? tok_buf_add(out, MARK, 3, err) :
			   tok_buf_add(out, " ", 1, err);
}

static int put(const struct tok_spm_norm *m, const char *s, size_t n,
	       struct tok_buf *out, struct err *err)
{
	const char *at;

	while (m->escape && n && (at = memchr(s, ' ', n))) {
		if (tok_buf_add(out, s, (size_t)(at - s), err) ||
		    space(m, out, err))
			return -1;
		n -= (size_t)(at + 1 - s);
		s = at + 1;
	}
	return tok_buf_add(out, s, n, err);
}

static void trim(const struct tok_spm_norm *m, struct tok_buf *out)
{
	const char *mark = m->escape ? MARK : " ";
	size_t k = strlen(mark);

	while (out->len >= k &&
	       memcmp(out->p + out->len - k, mark, k) == 0)
		out->len -= k;
}

int tok_spm_normalize(const struct tok_spm_norm *m,
		      const struct tok_spm *user, struct tok_span text,
		      struct tok_buf *out, struct err *err)
{
	const char *s = text.s;
	bool suffix = user && user->suffix, after_space = m->squeeze;
	struct tok_span to;
	size_t n = text.n, i = 0, k;

	while (m->squeeze && i < n) {
		k = prefix(m, user, s + i, n - i, &to);
		if (to.n != 1 || to.s[0] != ' ')
			break;
		i += k;
	}
	if (i == n)
		return 0;
	if (!suffix && m->dummy_prefix && space(m, out, err))
		return -1;
	for (; i < n; i += k) {
		k = prefix(m, user, s + i, n - i, &to);
		while (after_space && to.n && to.s[0] == ' ') {
			to.s++;
			to.n--;
		}
		if (put(m, to.s, to.n, out, err))
			return -1;
		if (to.n)
			after_space = m->squeeze && to.s[to.n - 1] == ' ';
	}
	if (m->squeeze)
		trim(m, out);
	return suffix && m->dummy_prefix ? space(m, out, err) : 0;
}
