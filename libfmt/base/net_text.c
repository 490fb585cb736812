/* net_text.c - what is read of a server's own words: a header field, and the
 * page that lists a directory. */
#include "net_addr.h"

#include "err.h"
#include "mem.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define NAMES_MAX 10000u

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int net_decode(const char *s, size_t n, char *out)
{
	for (size_t i = 0; i < n; i++) {
		int c = (unsigned char)s[i];

		if (c == '%') {
			int hi = i + 2 < n ? hex(s[i + 1]) : -1;
			int lo = hi < 0 ? -1 : hex(s[i + 2]);

			if (lo < 0)
				return -1;
			c = hi << 4 | lo;
			i += 2;
		}
		if (c < ' ' || c == 0x7f)
			return -1;
		*out++ = (char)c;
	}
	*out = '\0';
	return 0;
}

/* ---- Content-Range ---- */

/* Digits up to 2^63; the byte behind them, or NULL. */
static const char *number(const char *p, uint64_t *out)
{
	uint64_t n = 0;
	const char *from = p;

	for (; *p >= '0' && *p <= '9'; p++) {
		if (n > (uint64_t)INT64_MAX / 10 - 1)
			return NULL;
		n = 10 * n + (uint64_t)(*p - '0');
	}
	*out = n;
	return p > from ? p : NULL;
}

int net_content_range(const char *text, uint64_t *first, uint64_t *last,
		      uint64_t *total)
{
	const char *p = text + strspn(text, " \t");

	if (strncasecmp(p, "bytes", 5))
		return -1;
	p += 5;
	if (*p != ' ' && *p != '=')
		return -1;
	p += 1 + strspn(p + 1, " ");
	if (*p == '*') {
		*first = 1;
		*last = 0;
		p++;
	} else {
		p = number(p, first);
		if (!p || *p != '-')
			return -1;
		p = number(p + 1, last);
		if (!p || *last < *first)
			return -1;
	}
	if (*p != '/')
		return -1;
	p = number(p + 1, total);
	if (!p || (*last && *last >= *total))
		return -1;
	return p[strspn(p, " \t\r\n")] ? -1 : 0;
}

/* ---- the page about a directory ---- */

/* The link's n bytes as a name in `out`, which has room for them and a NUL; its
 * length, or 0 for what is none: other places, directories, hidden files. */
static size_t plain_name(const char *s, size_t n, char *out)
{
	if (n > 2 && s[0] == '.' && s[1] == '/') {
		s += 2;
		n -= 2;
	}
	if (!n || n > 1024 || net_decode(s, n, out) || *out == '.' ||
	    strpbrk(out, " /\\?#:&<>\"'"))
		return 0;
	return strlen(out);
}

/* The value of the next href= in text; *len its bytes.  NULL: no more. */
static const char *next_link(const char **at, const char *end, size_t *len)
{
	while (end - *at > 6) {
		const char *p = *at, *close;

		if (strncasecmp(p, "href=", 5)) {
			*at += 1;
			continue;
		}
		*at = p += 5;
		if (*p != '"' && *p != '\'')
			continue;
		close = memchr(p + 1, *p, (size_t)(end - p - 1));
		if (!close)
			return NULL;
		*len = (size_t)(close - p - 1);
		*at = close;
		return p + 1;
	}
	return NULL;
}

int net_page_names(const char *html, size_t len, char **names,
		   uint32_t *count, struct err *err)
{
	const char *at = html, *end = html + len, *link;
	char *out = mem_alloc(len + 1, 1, err), *to = out;
	size_t n;

	*names = out;
	*count = 0;
	if (!out)
		return -1;
	while (*count < NAMES_MAX && (link = next_link(&at, end, &n)) != NULL) {
		n = plain_name(link, n, to);
		if (!n)
			continue;
		to += n + 1;
		*count += 1;
	}
	return 0;
}
