/* opt.h - one table of options per applet: it is the getopt_long table, the
 * --help page, the completion and what the man page is checked against.
 *
 * Options common to all applets (--help, --version, -q, -v, --color, -t,
 * --device, --json) stand in one table of opt.c and are appended. */
#ifndef TOOLS_OPT_H
#define TOOLS_OPT_H

#include <stdbool.h>
#include <stdint.h>

struct err;

enum opt_kind {
	OPT_END = 0,
	OPT_FLAG,    /* bool *: true */
	OPT_UNFLAG,  /* bool *: false */
	OPT_TEXT,    /* const char ** */
	OPT_LIST,    /* struct opt_list *: repeatable text */
	OPT_FILES,   /* struct opt_list *: one value and every following
			argument that is no option, up to the next option */
	OPT_INT,     /* int64_t *, lo..hi */
	OPT_REAL,    /* double *, lo..hi */
	OPT_SIZE,    /* uint64_t *: 5GB, 4GiB, 100M, plain bytes */
	OPT_CHOICE,  /* int *: index in names, separated by '|' */
	OPT_HEAD     /* a heading in the help page */
};

struct opt {
	enum opt_kind kind;
	char letter;       /* 0: none */
	const char *name;  /* without dashes; a second "no-NAME" is its own row */
	const char *arg;   /* "N", "FILE"; NULL for flags */
	const char *help;  /* lower case; the default is said here */
	void *dst;
	double lo, hi;
	const char *names; /* OPT_CHOICE */
	bool *given;       /* set when it was there; or NULL */
};

struct opt_list {
	const char **item;
	uint32_t count;
};

/* What every applet shares. */
struct opt_common {
	bool help, version, quiet, json;
	int verbose;        /* number of -v */
	int color;          /* 0 auto, 1 always, 2 never */
	int64_t threads;    /* 0: all usable cores */
	const char *device; /* "auto" */
};

struct applet; /* applets.h */

/* Parse argv[1..]; operands are left in *operand (a NULL-terminated vector
 * inside argv, permuted to the end).  A mistyped option is ERR_USAGE with the
 * nearest name as a suggestion. */
int opt_parse(const struct applet *a, const struct opt *table, int argc,
	      char **argv, struct opt_common *common, char ***operand,
	      struct err *err);
/* The --help page on stdout: usage, options, two examples. */
void opt_help(const struct applet *a, const struct opt *table);
/* Free what OPT_LIST and OPT_FILES gathered. */
void opt_release(const struct opt *table);
/* The nearest of the names to a mistyped one, or NULL when none is near. */
const char *opt_nearest(const char *word, const char *const *names,
			uint32_t count);
/* A size such as 5GB, 512MiB, 1.5G (powers of 1000 for GB, of 1024 for GiB and
 * for single letters). */
int opt_size(const char *text, uint64_t *out);

#endif
