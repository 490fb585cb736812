#include "html.h"

#include "../libfmt/base/json.h"

#include <stdarg.h>
#include <string.h>

/* ---- text ---- */

static const char *meaning(unsigned char c)
{
	switch (c) {
	case '&':
		return "&amp;";
	case '<':
		return "&lt;";
	case '>':
		return "&gt;";
	case '"':
		return "&quot;";
	case '\'':
		return "&#39;";
	default:
		return NULL;
	}
}

/* The character at s, of n bytes. */
static uint32_t decode(const unsigned char *s, size_t n)
{
	uint32_t c = n == 1 ? s[0] : s[0] & (0x7Fu >> n);

	for (size_t i = 1; i < n; i++)
		c = c << 6 | (s[i] & 0x3Fu);
	return c;
}

/* Controls, and what turns or hides text. */
static int is_unseen(uint32_t c)
{
	return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0xAD ||
	       c == 0x61C || (c >= 0x200B && c <= 0x200F) ||
	       (c >= 0x2028 && c <= 0x202E) || (c >= 0x2060 && c <= 0x206F) ||
	       c == 0xFEFF || (c >= 0xE0000 && c <= 0xE0FFF);
}

void html_text(FILE *f, const char *text)
{
	size_t left = strlen(text);

	while (left) {
		const unsigned char *s = (const unsigned char *)text;
		size_t n = json_utf8(s, left);
		uint32_t c = n ? decode(s, n) : 0;

		if (!n)
			fputs("\xef\xbf\xbd", f);
		else if (is_unseen(c))
			fprintf(f, "\\u{%x}", (unsigned)c);
		else if (meaning(*s))
			fputs(meaning(*s), f);
		else
			fwrite(s, 1, n, f);
		n = n ? n : 1;
		text += n;
		left -= n;
	}
}

#define TEXT 2048 /* a longer one is cut */

ERR_PRINTF(2, 0)
static void put(FILE *f, const char *fmt, va_list ap)
{
	char text[TEXT];

	vsnprintf(text, sizeof(text), fmt, ap);
	html_text(f, text);
}

void html_fact(FILE *f, const char *term, const char *fmt, ...)
{
	va_list ap;

	fprintf(f, "<div><dt>%s</dt><dd>", term);
	va_start(ap, fmt);
	put(f, fmt, ap);
	va_end(ap);
	fputs("</dd></div>\n", f);
}

/* ---- tables ---- */

void html_table(FILE *f, const char *id, const char *caption,
		const struct html_column *column, uint32_t count)
{
	fprintf(f, "<table class=\"list\"%s%s%s>\n<caption>%s</caption>\n"
		"<thead><tr>", id ? " id=\"" : "", id ? id : "",
		id ? "\"" : "", caption);
	for (uint32_t i = 0; i < count; i++) {
		fputs("<th scope=\"col\"", f);
		if (column[i].left)
			fputs(" class=\"l\"", f);
		if (column[i].map)
			fprintf(f, " data-map=\"%s\"", column[i].map);
		fprintf(f, ">%s</th>", column[i].head);
	}
	fputs("</tr></thead>\n<tbody>", f);
}

void html_table_end(FILE *f)
{
	fputs("\n</tbody></table>\n", f);
}

/* The ends of rows and cells follow from what comes next. */
void html_row(FILE *f, const char *name)
{
	fputs("\n<tr><th scope=\"row\">", f);
	html_text(f, name);
}

void html_cell(FILE *f, const char *fmt, ...)
{
	va_list ap;

	fputs("<td>", f);
	va_start(ap, fmt);
	put(f, fmt, ap);
	va_end(ap);
}

void html_word(FILE *f, const char *fmt, ...)
{
	va_list ap;

	fputs("<td class=\"l\">", f);
	va_start(ap, fmt);
	put(f, fmt, ap);
	va_end(ap);
}

void html_value(FILE *f, double value, const char *fmt, ...)
{
	va_list ap;

	fprintf(f, "<td data-v=\"%.9g\">", value);
	va_start(ap, fmt);
	put(f, fmt, ap);
	va_end(ap);
}
