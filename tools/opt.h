/* opt.h - one table of options per applet: it is the getopt_long table, the
 * --help page, the completion and what the man page is checked against.
 *
 * The tables are constant: a row names the place of its value as an offset in
 * the applet's struct of arguments, and the default as the text a user would
 * write, so that a default value lives in the table and nowhere else.
 *
 * Options common to all applets (--help, --version, -q, -v, --color, -t,
 * --device, --json) stand in one table of opt.c and are added to each. */
#ifndef TOOLS_OPT_H
#define TOOLS_OPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

enum opt_kind {
	OPT_END = 0,
	OPT_FLAG,    /* bool: true */
	OPT_UNFLAG,  /* bool: false */
	OPT_COUNT,   /* int: one more each time */
	OPT_TEXT,    /* const char * */
	OPT_LIST,    /* struct opt_list: repeatable text */
	OPT_FILES,   /* struct opt_list: one value and every following
			argument that is no option, up to the next option */
	OPT_INT,     /* int64_t, lo..hi */
	OPT_REAL,    /* double, lo..hi */
	OPT_SIZE,    /* uint64_t: 5GB, 4GiB, 100M, plain bytes */
	OPT_CHOICE,  /* int: index in names, which '|' separates */
	OPT_HEAD     /* a heading in the help page; only `help` is set */
};

struct opt {
	enum opt_kind kind;
	char letter;       /* 0: none */
	const char *name;  /* without dashes; a "no-NAME" is its own row */
	const char *arg;   /* "N", "FILE"; NULL for flags.  FILE, DIR and
			      DENSE are completed as paths */
	const char *help;  /* lower case, no full stop */
	size_t off;        /* of the value in the struct of arguments */
	const char *def;   /* as a user would write it ("1" for a flag that is
			      on); NULL: zeroed */
	double lo, hi;     /* OPT_INT, OPT_REAL; both 0: any */
	const char *names; /* OPT_CHOICE */
	bool maybe;        /* OPT_CHOICE: without a word it is the default */
	/* Rules (opt_rules.c).  A word is an option, or one choice of it:
	 * "method=rtn". */
	const char *needs; /* "ppl|kld against": refused but beside one of each
			      group, groups parted by blanks */
	const char *without; /* "prompt|file": refused beside any of these */
	const char *serves;/* "ppl|kld": does nothing but beside one of these */
	const char *idle;  /* "bench|tokenize": does nothing beside these */
	const char *absent;/* set on an option that is not there yet: a sentence
			      that says so and what works instead.  Using it is
			      ERR_UNSUP */
};

#define OPT_ROWS 64 /* most rows of one table, the common ones included */

struct opt_list {
	const char **item; /* borrowed from argv */
	uint32_t count;
};

/* Kind and place of a row's value in one: AT_INT(tokens).  A field of another
 * type than the kind stores does not compile.  OPT_ARGS is the struct, defined
 * before the table. */
#define OPT_AT(k, type, field)                                             \
	.kind = k, .off = offsetof(OPT_ARGS, field) +                      \
		0 * sizeof(char[_Generic(((OPT_ARGS *)0)->field, type: 1,  \
			default: -1)])
#define AT_FLAG(field) OPT_AT(OPT_FLAG, bool, field)
#define AT_UNFLAG(field) OPT_AT(OPT_UNFLAG, bool, field)
#define AT_COUNT(field) OPT_AT(OPT_COUNT, int, field)
#define AT_TEXT(field) OPT_AT(OPT_TEXT, const char *, field)
#define AT_LIST(field) OPT_AT(OPT_LIST, struct opt_list, field)
#define AT_FILES(field) OPT_AT(OPT_FILES, struct opt_list, field)
#define AT_INT(field) OPT_AT(OPT_INT, int64_t, field)
#define AT_REAL(field) OPT_AT(OPT_REAL, double, field)
#define AT_SIZE(field) OPT_AT(OPT_SIZE, uint64_t, field)
#define AT_CHOICE(field) OPT_AT(OPT_CHOICE, int, field)

/* What every applet shares. */
struct opt_common {
	bool help, version, quiet, json;
	int verbose;        /* number of -v */
	int color;          /* 0 auto, 1 always, 2 never */
	int64_t threads;    /* 0: all usable cores */
	const char *device; /* "auto" */
};

struct opt_parsed {
	const struct opt *table;
	void *base;            /* the applet's struct of arguments */
	uint64_t given;        /* bit i: row i of the table was used; behind
				  them the common table's rows */
	struct opt_common common;
	char **operand;        /* a vector inside argv, permuted to its end */
	uint32_t operands;
};

/* Set the defaults in *base and parse argv[1..].  A mistyped option is
 * ERR_USAGE with the nearest name as a suggestion.  What was gathered before
 * a failure (--json, -q) stays in out->common, and --json counts wherever it
 * stands. */
int opt_parse(const struct opt *table, void *base, int argc, char **argv,
	      struct opt_parsed *out, struct err *err);
/* Free what OPT_LIST and OPT_FILES gathered. */
void opt_release(struct opt_parsed *p);
/* opt_rules.c: do the options that were given go together?  opt_parse asks. */
int opt_check_rules(const struct opt_parsed *p, struct err *err);
/* The next option that was given and does nothing, from *row on (0 at first),
 * as a sentence without a full stop; false: no more. */
#define OPT_SAY 256
bool opt_next_idle(const struct opt_parsed *p, uint32_t *row,
		   char say[OPT_SAY]);
/* Was the option of this name there?  The name stands in the applet's table or
 * the common one. */
bool opt_given(const struct opt_parsed *p, const char *name);
/* The text of an OPT_CHOICE value: its index-th name, into buf. */
const char *opt_choice(const struct opt_parsed *p, const char *name,
		       char buf[32]);

/* The i-th name of an OPT_CHOICE into buf; NULL behind the last. */
const char *opt_choice_name(const struct opt_parsed *p, const char *name,
			    int i, char buf[32]);

/* The table that every applet shares. */
extern const struct opt opt_common_table[];

/* The nearest of the names to a mistyped one, or NULL when none is near. */
const char *opt_nearest(const char *word, const char *const *names,
			uint32_t count);
/* A size such as 5GB, 512MiB, 1.5G (powers of 1000 for GB, of 1024 for GiB and
 * for single letters); -1 when it is none. */
int opt_size(const char *text, uint64_t *out);

#endif
