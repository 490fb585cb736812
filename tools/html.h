/* html.h - pieces of an HTML page.  Text passes html_text on its way out, and
 * nothing else makes text of a checkpoint part of a page. */
#ifndef TOOLS_HTML_H
#define TOOLS_HTML_H

#include "../libfmt/base/err.h"

#include <stdint.h>
#include <stdio.h>

/* Any bytes as text, in an element or a quoted attribute: what has a meaning in
 * HTML is escaped, control characters and those that turn the direction of
 * writing are shown by their number, and what is no UTF-8 is U+FFFD. */
void html_text(FILE *f, const char *text);

/* "<dt>term<dd>text" */
void html_fact(FILE *f, const char *term, const char *fmt, ...)
	ERR_PRINTF(3, 4);

/* A column of a table; `head` is a word of ours.  `map` says what the
 * map of layers makes of it: "bits", "cat" (few values), "seq", "log", "bad"
 * and "badlog" (more is worse); NULL: nothing. */
struct html_column {
	const char *head, *map;
	int left;          /* words, not numbers */
};
/* Up to the first row. */
void html_table(FILE *f, const char *id, const char *caption,
		const struct html_column *column, uint32_t count);
void html_table_end(FILE *f);
/* The first cell of a row, which names it. */
void html_row(FILE *f, const char *name);
void html_cell(FILE *f, const char *fmt, ...) ERR_PRINTF(2, 3);
void html_word(FILE *f, const char *fmt, ...) ERR_PRINTF(2, 3);
/* A cell that is sorted and coloured by a number beside its text. */
void html_value(FILE *f, double value, const char *fmt, ...) ERR_PRINTF(3, 4);

#endif
