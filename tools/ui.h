/* ui.h - what a person sees: messages, progress, colours, numbers, tables,
 * JSON.
 *
 * stdout is the result, stderr is everything else.  With --json stdout is one
 * JSON document, also when the answer is "failed". */
#ifndef TOOLS_UI_H
#define TOOLS_UI_H

#include "../libfmt/base/err.h"
#include "opt.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct cJSON;

struct ui {
	char applet[32];         /* "gptq-quantize" */
	bool quiet, json;
	int verbose;
	bool color_out, color_err, utf8, tty_out, tty_err;
	bool shut;               /* stdout is full or closed: print no more */
	const char *path;        /* the model, once it is known; for JSON */
	char hint[256];          /* printed behind the message of a failure */
	/* the live bar */
	char what[48];           /* the current phase */
	double started;          /* when work was first reported; 0: never */
	double began, shown;     /* of the phase; of the last line */
	bool drawn;
	struct progress progress; /* hand &ui.progress to libraries */
};

/* Also looks at the terminal, NO_COLOR and the locale's character set. */
void ui_init(struct ui *ui, const char *applet, const struct opt_common *c);

/* Lines on stderr, the live bar moved out of their way.  note: not with -q;
 * detail: with -v; warn: not with -q. */
void ui_note(struct ui *ui, const char *fmt, ...) ERR_PRINTF(2, 3);
void ui_detail(struct ui *ui, const char *fmt, ...) ERR_PRINTF(2, 3);
void ui_warn(struct ui *ui, const char *fmt, ...) ERR_PRINTF(2, 3);
/* The second line of a coming failure: the command that mends it. */
void ui_hint(struct ui *ui, const char *fmt, ...) ERR_PRINTF(2, 3);
/* "gptq-repack: message", the hint, and with --json {"error": {...}} on
 * stdout.  An empty message (a broken pipe) is silent.  Returns err->code, the
 * exit status. */
int ui_fail(struct ui *ui, const struct err *err);
/* Remove the live bar. */
void ui_done(struct ui *ui);

/* Print a JSON tree on f and free it; a NULL tree is ERR_RESOURCE. */
int ui_json(FILE *f, struct cJSON *j, struct err *err);
/* Add text to an object: NULL becomes null, bytes that are no UTF-8 become
 * U+FFFD (paths and pieces of text may hold any). */
void ui_json_text(struct cJSON *obj, const char *key, const char *text);
struct cJSON *ui_json_string(const char *text, size_t n);
/* Flush and check stdout: 0, or ERR_OUTPUT.  A broken pipe leaves the message
 * empty. */
int ui_flush(struct err *err);

/* Words that may come from a file: nothing in them steers a terminal.  Colours
 * and line ends go beside them. */
void ui_put(FILE *f, const char *fmt, ...) ERR_PRINTF(2, 3);

/* "3.9 GiB" into buf. */
const char *ui_bytes(uint64_t n, char buf[32]);
/* "6.16 M" (parameters, powers of 1000) into buf. */
const char *ui_count(uint64_t n, char buf[32]);
/* "1:02:03", "2:03" or "2.1 s" into buf. */
const char *ui_time(double seconds, char buf[32]);
/* "s" unless n is 1. */
const char *ui_plural(uint64_t n);
/* Seconds since an arbitrary start, monotonic. */
double ui_now(void);

/* Colour escapes for f (stdout or stderr): "" when off. */
enum ui_color { UI_OFF = 0, UI_BOLD, UI_DIM, UI_RED, UI_GREEN, UI_YELLOW,
	UI_BLUE };
const char *ui_paint(const struct ui *ui, FILE *f, enum ui_color c);

/* Counts as one line of small bars, n of them joined to `width` columns at
 * most, the tallest for the largest; ASCII where the locale has no UTF-8.
 * Nothing is a blank, anything at least a dot. */
#define UI_SPARK 64
const char *ui_spark(const struct ui *ui, const uint64_t *count, uint32_t n,
		     uint32_t width, char buf[3 * UI_SPARK + 1]);
/* A bar of share (0 to 1) of `width` columns; no blanks behind it. */
const char *ui_bar(const struct ui *ui, double share, uint32_t width,
		   char buf[3 * UI_SPARK + 1]);

/* Columns of the terminal behind f; 0: not a terminal. */
int ui_width(FILE *f);

/* A table with aligned columns.  The first letter of a column's head says how
 * it stands: '<' left, '>' right, '~' left and cut in the middle where the
 * terminal is too narrow.  The rest is the title. */
struct ui_table;
struct ui_table *ui_table_new(const char *const *heads, uint32_t columns,
			      struct err *err);
/* The next cell, row by row. */
void ui_cell(struct ui_table *t, const char *fmt, ...) ERR_PRINTF(2, 3);
/* ERR_RESOURCE when a cell could not be kept. */
int ui_table_print(const struct ui *ui, FILE *f, const struct ui_table *t,
		   struct err *err);
void ui_table_free(struct ui_table *t); /* accepts NULL */

/* Install the handlers: the first Ctrl-C asks the work to stop, a second one
 * ends the program.  SIGPIPE is ignored. */
void ui_signals(void);
int ui_interrupted(void);
/* Ctrl-C has been answered: the next one is a first one again. */
void ui_resume(void);

/* MODEL as given, or for "-" the first line of standard input (into a buffer
 * that the caller frees through *owned).  No byte behind that line is read. */
int ui_model_path(const char *arg, const char **path, char **owned,
		  struct err *err);

#endif
