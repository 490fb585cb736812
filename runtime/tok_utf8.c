/* UTF-8: characters, and what stands for broken bytes.
 * Source: Unicode 15, chapter 3.9, table 3-7 (well-formed sequences) and
 * "U+FFFD substitution of maximal subparts". */
#include "tok_impl.h"

#include <string.h>

/* How many bytes a lead byte asks for (0: it is none), and the range of the
 * second byte, which keeps out overlong forms, surrogates and > U+10FFFF. */
static unsigned lead(uint8_t c, uint8_t *lo, uint8_t *hi)
{
	*lo = 0x80;
	*hi = 0xbf;
	if (c < 0x80)
		return 1;
	if (c < 0xc2 || c > 0xf4)
		return 0;
	if (c < 0xe0)
		return 2;
	if (c == 0xe0)
		*lo = 0xa0;
	if (c == 0xed)
		*hi = 0x9f;
	if (c == 0xf0)
		*lo = 0x90;
	if (c == 0xf4)
		*hi = 0x8f;
	return c < 0xf0 ? 3 : 4;
}

/* Bytes of s[0..n) that begin the character well, at most `want`. */
static unsigned good(const char *s, size_t n, unsigned want, uint8_t lo,
		     uint8_t hi)
{
	unsigned i = 1;

	while (i < want && i < n) {
		uint8_t c = (uint8_t)s[i];

		if (c < lo || c > hi)
			break;
		lo = 0x80;
		hi = 0xbf;
		i++;
	}
	return i;
}

unsigned tok_utf8(const char *s, size_t n, uint32_t *cp)
{
	uint8_t lo, hi;
	unsigned want = lead((uint8_t)s[0], &lo, &hi);
	uint32_t v;

	if (want == 1) {
		*cp = (uint8_t)s[0];
		return 1;
	}
	if (want == 0 || good(s, n, want, lo, hi) < want)
		return 0;
	v = (uint8_t)s[0] & (0x7fu >> want);
	for (unsigned i = 1; i < want; i++)
		v = v << 6 | ((uint8_t)s[i] & 0x3fu);
	*cp = v;
	return want;
}

unsigned tok_utf8_put(uint32_t cp, char out[4])
{
	unsigned n = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;

	if (n == 1) {
		out[0] = (char)cp;
		return 1;
	}
	for (unsigned i = n - 1; i > 0; i--) {
		out[i] = (char)(0x80 | (cp & 0x3f));
		cp >>= 6;
	}
	out[0] = (char)((0xf00u >> n & 0xff) | cp);
	return n;
}

unsigned tok_utf8_bad(const char *s, size_t n)
{
	uint8_t lo, hi;
	unsigned want = lead((uint8_t)s[0], &lo, &hi);

	return want ? good(s, n, want, lo, hi) : 1;
}

bool tok_utf8_cut(const char *s, size_t n)
{
	uint8_t lo, hi;
	unsigned want = n ? lead((uint8_t)s[0], &lo, &hi) : 0;

	return want > n && good(s, n, want, lo, hi) == n;
}

bool tok_utf8_valid(const char *s, size_t n)
{
	uint32_t cp;
	uint64_t v;

	for (size_t i = 0; i < n;) {
		/* eight ASCII bytes at once: most text */
		if (n - i >= 8) {
			memcpy(&v, s + i, 8);
			if (!(v & 0x8080808080808080u)) {
				i += 8;
				continue;
			}
		}
		unsigned k = tok_utf8(s + i, n - i, &cp);

		if (!k)
			return false;
		i += k;
	}
	return true;
}

int tok_utf8_mend(const char *s, size_t n, struct tok_buf *out,
		  struct err *err)
{
	size_t done = 0, i = 0;
	uint32_t cp;

	while (i < n) {
		unsigned k = tok_utf8(s + i, n - i, &cp);

		if (k) {
			i += k;
			continue;
		}
		if (tok_buf_add(out, s + done, i - done, err) ||
		    tok_buf_add(out, TOK_FFFD, 3, err))
			return -1;
		i += tok_utf8_bad(s + i, n - i);
		done = i;
	}
	return tok_buf_add(out, s + done, n - done, err);
}

bool tok_space(uint32_t cp)
{
	return (cp >= 9 && cp <= 13) || cp == 0x20 || cp == 0x85 ||
	       cp == 0xa0 || cp == 0x1680 ||
	       (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 ||
	       cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

size_t tok_spaces_front(const char *s, size_t n)
{
	size_t i = 0;
	uint32_t cp;
	unsigned k;

	while (i < n && (k = tok_utf8(s + i, n - i, &cp)) && tok_space(cp))
		i += k;
	return i;
}

size_t tok_spaces_back(const char *s, size_t n)
{
	size_t end = n, i;
	uint32_t cp;

	while (end > 0) {
		i = end - 1;
		while (i > 0 && ((uint8_t)s[i] & 0xc0) == 0x80)
			i--;
		if (!tok_utf8(s + i, end - i, &cp) || !tok_space(cp))
			break;
		end = i;
	}
	return n - end;
}

static int digit(char c, bool any)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (any && c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

int tok_byte_piece(const char *s, size_t n, bool any)
{
	int hi, lo;

	if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>')
		return -1;
	hi = digit(s[3], any);
	lo = digit(s[4], any);
	/* Rust's number parser also takes a sign: "<0x+A>" is 10 */
	if (any && s[3] == '+')
		return lo;
	return hi < 0 || lo < 0 ? -1 : hi * 16 + lo;
}
