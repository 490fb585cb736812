/* applets.h - the table of applets: gptq NAME and gptq-NAME are one path. */
#ifndef TOOLS_APPLETS_H
#define TOOLS_APPLETS_H

#include <stdint.h>

struct opt;

#define GPTQ_VERSION "0.1.0"

struct applet {
	const char *name;        /* "quantize" */
	const char *summary;     /* one line for --list */
	const char *usage;       /* "MODEL -o OUT [options]" */
	const char *examples[2]; /* real commands */
	/* The whole applet; returns the exit status.  argv[0] is its name. */
	int (*run)(const struct applet *a, int argc, char **argv);
	/* Calls fn with the applet's option table (completion, lint). */
	void (*options)(void (*fn)(void *ctx, const struct opt *table),
			void *ctx);
};

extern const struct applet applet_quantize, applet_inspect, applet_repack,
	applet_verify, applet_run;
extern const struct applet *const applets[];
extern const uint32_t applet_count;

#endif
