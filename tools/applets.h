/* applets.h - the table of applets: gptq NAME and gptq-NAME are one path.
 *
 * main.c does what all applets share: options, --help, --version, the operand,
 * the message of a failure, the last flush.  An applet reads its arguments,
 * calls the libraries and prints its result. */
#ifndef TOOLS_APPLETS_H
#define TOOLS_APPLETS_H

#include "opt.h"
#include "ui.h"

#include <stddef.h>
#include <stdint.h>

/* One call of an applet. */
struct call {
	struct ui *ui;
	const struct opt_parsed *opt;
	const void *args;        /* the applet's struct, filled by the table */
	const char *model;       /* MODEL; "-" is already resolved */
	uint32_t threads;        /* at least 1 */
};

struct applet {
	const char *name;        /* "quantize" */
	const char *summary;     /* one line for --list */
	const char *usage;       /* "MODEL -o OUT [options]" */
	const char *examples[2]; /* real commands */
	const struct opt *options;
	size_t args_size;        /* of the struct the table's offsets mean */
	/* The whole applet: the exit status, or -1 with err filled. */
	int (*run)(const struct call *c, struct err *err);
};

extern const struct applet applet_quantize, applet_inspect, applet_repack,
	applet_verify, applet_run;
extern const struct applet *const applets[];
extern const uint32_t applet_count;

/* help.c: what is made from the tables.  The --help page, on stdout. */
void applet_help(const struct applet *a);
/* `gptq --completion SHELL`, and `gptq --options`: a line "applet<TAB>--name"
 * for every option of every applet. */
int applet_completion(const char *shell, struct err *err);
void applet_options(void);
/* features.c: "gptq X.Y.Z", and with `verbose` what is built in. */
void applet_version(int verbose);

#endif
