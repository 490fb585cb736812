/* ui.h - what a person sees: messages, progress, colours, numbers, JSON.
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
	const char *applet;      /* "gptq-quantize" */
	bool quiet, json;
	int verbose;
	bool color_out, color_err, utf8, tty_err;
	/* the live bar */
	const char *what;
	double began, shown;
	bool drawn;
	struct progress progress; /* hand &ui.progress to libraries */
};

void ui_init(struct ui *ui, const char *applet, const struct opt_common *c);

/* Lines on stderr, the live bar moved out of their way. */
void ui_note(struct ui *ui, const char *fmt, ...) ERR_PRINTF(2, 3);   /* not with -q */
void ui_detail(struct ui *ui, const char *fmt, ...) ERR_PRINTF(2, 3); /* with -v */
void ui_warn(struct ui *ui, const char *fmt, ...) ERR_PRINTF(2, 3);
/* "gptq-repack: message", and with --json {"error": {...}} on stdout.
 * Returns err->code, the exit status. */
int ui_fail(struct ui *ui, const struct err *err);
/* A second line that says which command fixes it. */
void ui_hint(struct ui *ui, const char *fmt, ...) ERR_PRINTF(2, 3);
/* Remove the live bar. */
void ui_done(struct ui *ui);

/* Print a JSON tree on stdout, free it. */
int ui_json(struct cJSON *j, struct err *err);
/* Flush and check stdout: 0, or ERR_OUTPUT.  A broken pipe is silent. */
int ui_flush(struct err *err);

/* "3.9 GiB" into buf. */
const char *ui_bytes(uint64_t n, char buf[32]);
/* "6.16 M" (parameters, powers of 1000) into buf. */
const char *ui_count(uint64_t n, char buf[32]);
/* Seconds since an arbitrary start, monotonic. */
double ui_now(void);
/* Colour escapes for stdout: "" when off. */
enum ui_color { UI_OFF = 0, UI_BOLD, UI_DIM, UI_RED, UI_GREEN, UI_YELLOW,
	UI_BLUE };
const char *ui_paint(const struct ui *ui, enum ui_color c);

/* Install the handlers: the first Ctrl-C asks the work to stop, a second one
 * ends the program.  SIGPIPE is ignored. */
void ui_signals(void);
int ui_interrupted(void);

/* MODEL as given, or for "-" the first line of standard input (into a buffer
 * that the caller frees through *owned). */
int ui_model_path(const char *arg, const char **path, char **owned,
		  struct err *err);

#endif
