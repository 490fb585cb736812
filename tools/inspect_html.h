/* inspect_html.h - the page of --html: a fixed one (inspect_page.html, made an
 * array of its lines by the build) whose lines "@name" are filled in. */
#ifndef TOOLS_INSPECT_HTML_H
#define TOOLS_INSPECT_HTML_H

#include "inspect.h"

/* Lines, each with its end, up to NULL. */
extern const char *const inspect_page[];

/* The sections about layers and differences (inspect_html_layers.c). */
void inspect_html_layers(FILE *f, const struct inspect *r);
void inspect_html_diff(FILE *f, const struct inspect *r);

#endif
