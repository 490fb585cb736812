/* opt.c - option tables on top of getopt_long.
 *
 * getopt_long splits the command line and permutes it; what an option means,
 * its limits, its default and the messages come from the table.  Its own
 * messages are off: ours name the nearest option. */
#include "opt.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define OPT_ARGS struct opt_common

const struct opt opt_common_table[] = {
	{ .kind = OPT_HEAD, .help = "Common" },
	{ AT_INT(threads), .letter = 't', .name = "threads", .arg = "N",
	  .help = "threads to use, 0: every usable core",
	  .def = "0", .lo = 0, .hi = 4096 },
	{ AT_TEXT(device), .name = "device", .arg = "NAME",
	  .help = "auto, cpu, cuda or cuda:N", .def = "auto" },
	{ AT_FLAG(json), .name = "json",
	  .help = "print one JSON document instead of text" },
	{ AT_FLAG(quiet), .letter = 'q', .name = "quiet",
	  .help = "print errors only" },
	{ AT_COUNT(verbose), .letter = 'v', .name = "verbose",
	  .help = "say more" },
	{ AT_CHOICE(color), .name = "color", .arg = "WHEN",
	  .help = "colours: auto, always or never", .def = "auto",
	  .names = "auto|always|never" },
	{ AT_FLAG(help), .letter = 'h', .name = "help",
	  .help = "print this page" },
	{ AT_FLAG(version), .name = "version",
	  .help = "print the version, with -v the features" },
	{ .kind = OPT_END }
};

/* ---- words ---- */

/* Edits (insert, delete, change, swap of neighbours) from a to b; words beyond
 * the limit count as far away. */
static unsigned distance(const char *a, const char *b)
{
	enum { MAX = 32 };
	unsigned d[MAX + 1][MAX + 1];
	size_t n = strlen(a), m = strlen(b);

	if (n > MAX || m > MAX)
		return MAX;
	for (size_t i = 0; i <= n; i++)
		d[i][0] = (unsigned)i;
	for (size_t j = 0; j <= m; j++)
		d[0][j] = (unsigned)j;
	for (size_t i = 1; i <= n; i++)
		for (size_t j = 1; j <= m; j++) {
			unsigned same = a[i - 1] == b[j - 1];
			unsigned v = d[i - 1][j - 1] + !same;

			if (d[i - 1][j] + 1 < v)
				v = d[i - 1][j] + 1;
			if (d[i][j - 1] + 1 < v)
				v = d[i][j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] &&
			    a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < v)
				v = d[i - 2][j - 2] + 1;
			d[i][j] = v;
		}
	return d[n][m];
}

const char *opt_nearest(const char *word, const char *const *names,
			uint32_t count)
{
	const char *best = NULL;
	/* one slip in three letters is still the same word; of one or two
	 * letters nothing can be guessed */
	unsigned n = (unsigned)strlen(word), limit = n < 3 ? 0 : n / 3 + 1;
	unsigned least = limit + 1;

	for (uint32_t i = 0; i < count; i++) {
		unsigned d = distance(word, names[i]);

		if (d < least) {
			least = d;
			best = names[i];
		}
	}
	return best;
}

int opt_size(const char *text, uint64_t *out)
{
	static const char letters[] = "kmgtp";
	char *end;
	const char *at;
	double v, unit = 1;

	if (!isdigit((unsigned char)text[0]))
		return -1;
	v = strtod(text, &end);
	if (*end && (at = strchr(letters, tolower((unsigned char)*end)))) {
		int power = (int)(at - letters) + 1;
		/* GB is 1000^3; G and GiB are 1024^3 */
		int decimal = tolower((unsigned char)end[1]) == 'b';

		unit = pow(decimal ? 1000 : 1024, power);
		end++;
		if (tolower((unsigned char)end[0]) == 'i' &&
		    tolower((unsigned char)end[1]) == 'b')
			end++;
	}
	if (tolower((unsigned char)*end) == 'b')
		end++;
	if (*end || !(v * unit < 9e18))
		return -1;
	*out = (uint64_t)(v * unit);
	return 0;
}

/* ---- values ---- */

static int add_item(struct opt_list *l, const char *text, struct err *err)
{
	const char **grown;

	/* lists are a few words long: growing one at a time is fine */
	grown = realloc(l->item, (l->count + 1) * sizeof(*grown));
	if (!grown)
		return err_set(err, ERR_RESOURCE, "not enough memory");
	grown[l->count++] = text;
	l->item = grown;
	return 0;
}

/* lo == hi == 0 stands for no limits: no option takes 0 alone. */
static int set_int(const struct opt *o, const char *text, int64_t *out,
		   struct err *err)
{
	char *end;

	errno = 0;
	*out = strtoll(text, &end, 10);
	if (end == text || *end || errno)
		return err_set(err, ERR_USAGE,
			       "--%s: '%s' is not a whole number", o->name,
			       text);
	if ((o->lo != 0 || o->hi != 0) &&
	    ((double)*out < o->lo || (double)*out > o->hi))
		return err_set(err, ERR_USAGE,
			       "--%s: %s is outside %.0f to %.0f", o->name,
			       text, o->lo, o->hi);
	return 0;
}

/* Infinity and NaN are not limits or temperatures anybody means. */
static int set_real(const struct opt *o, const char *text, double *out,
		    struct err *err)
{
	char *end;

	*out = strtod(text, &end);
	if (end == text || *end || !isfinite(*out))
		return err_set(err, ERR_USAGE, "--%s: '%s' is not a number",
			       o->name, text);
	if ((o->lo != 0 || o->hi != 0) && (*out < o->lo || *out > o->hi))
		return err_set(err, ERR_USAGE, "--%s: %s is outside %g to %g",
			       o->name, text, o->lo, o->hi);
	return 0;
}

/* The next name of a "a|b|c" list into buf; NULL behind the last. */
static const char *next_name(const char *at, char buf[32])
{
	size_t n = strcspn(at, "|");

	assert(n < 32);
	memcpy(buf, at, n);
	buf[n] = '\0';
	return at[n] ? at + n + 1 : NULL;
}

/* Names are few and short; the nearest one is offered. */
static int set_choice(const struct opt *o, const char *text, int *out,
		      struct err *err)
{
	char name[16][32];
	const char *all[16], *at = o->names, *near;
	int count = 0;

	while (at) {
		assert(count < 16);
		at = next_name(at, name[count]);
		all[count] = name[count];
		if (!strcmp(text, name[count])) {
			*out = count;
			return 0;
		}
		count++;
	}
	near = opt_nearest(text, all, (uint32_t)count);
	if (near)
		return err_set(err, ERR_USAGE,
			       "--%s: '%s' is none of %s (did you mean %s?)",
			       o->name, text, o->names, near);
	return err_set(err, ERR_USAGE, "--%s: '%s' is none of %s", o->name,
		       text, o->names);
}

/* Store one value where the row says.  Macros of opt.h have checked that the
 * field is of the row's type. */
static int set_value(const struct opt *o, void *base, const char *text,
		     struct err *err)
{
	void *dst = (char *)base + o->off;

	switch (o->kind) {
	case OPT_FLAG:
		*(bool *)dst = true;
		return 0;
	case OPT_UNFLAG:
		*(bool *)dst = false;
		return 0;
	case OPT_COUNT:
		++*(int *)dst;
		return 0;
	case OPT_TEXT:
		*(const char **)dst = text;
		return 0;
	case OPT_LIST:
	case OPT_FILES:
		return add_item(dst, text, err);
	case OPT_INT:
		return set_int(o, text, dst, err);
	case OPT_REAL:
		return set_real(o, text, dst, err);
	case OPT_SIZE:
		if (!opt_size(text, dst))
			return 0;
		return err_set(err, ERR_USAGE,
			       "--%s: '%s' is not a size such as 5GB or "
			       "512MiB", o->name, text);
	case OPT_CHOICE:
		return set_choice(o, text, dst, err);
	case OPT_HEAD:
	case OPT_END:
		break;
	}
	return 0;
}

/* A default is parsed like a value from the command line: one code path, and a
 * default that breaks its own limits cannot go unnoticed. */
static int set_defaults(const struct opt *table, void *base, struct err *err)
{
	for (const struct opt *o = table; o->kind; o++) {
		if (!o->def)
			continue;
		if (o->kind == OPT_UNFLAG)
			*(bool *)((char *)base + o->off) = true;
		else if (set_value(o, base, o->def, err))
			return -1;
	}
	return 0;
}

/* ---- parsing ---- */

/* getopt_long's view of two tables.  The value of row i is FIRST + i, where the
 * common rows follow the applet's. */
#define FIRST 256
struct view {
	const struct opt *row[OPT_ROWS];
	uint32_t own, count;
	uint32_t longs;
	struct option longopt[OPT_ROWS + 1];
	char shortopt[2 * OPT_ROWS + 3];
};

/* Append one table to the view; headings take a row number but no option. */
static void add_rows(struct view *v, const struct opt *table)
{
	size_t n = strlen(v->shortopt);

	for (const struct opt *o = table; o->kind; o++) {
		uint32_t i = v->count++;
		bool arg = o->arg != NULL;

		assert(i < OPT_ROWS);
		v->row[i] = o;
		if (o->kind == OPT_HEAD)
			continue;
		v->longopt[v->longs++] = (struct option) {
			o->name, !arg ? no_argument : o->maybe ?
			optional_argument : required_argument, NULL,
			FIRST + (int)i
		};
		if (o->letter) {
			v->shortopt[n++] = o->letter;
			if (arg)
				v->shortopt[n++] = ':';
		}
	}
	v->shortopt[n] = '\0';
}

/* c is getopt_long's answer: a row's own number, or a letter. */
static const struct opt *find_row(const struct view *v, int c, uint32_t *at)
{
	for (uint32_t i = 0; i < v->count; i++)
		if (c == FIRST + (int)i || (c && v->row[i]->letter == c)) {
			*at = i;
			return v->row[i];
		}
	return NULL;
}

/* A word that starts with "--" and is no option. */
static int unknown_long(const struct view *v, const char *word,
			struct err *err)
{
	const char *names[OPT_ROWS], *near;
	char bare[64];
	size_t n = strcspn(word + 2, "=");
	uint32_t count = 0, starts = 0;

	if (n >= sizeof(bare))
		n = sizeof(bare) - 1;
	memcpy(bare, word + 2, n);
	bare[n] = '\0';
	for (uint32_t i = 0; i < v->count; i++)
		if (v->row[i]->kind != OPT_HEAD) {
			names[count++] = v->row[i]->name;
			starts += !strncmp(bare, v->row[i]->name, n);
		}
	if (n && starts > 1)
		return err_set(err, ERR_USAGE,
			       "--%s: more than one option begins so", bare);
	near = opt_nearest(bare, names, count);
	if (near)
		return err_set(err, ERR_USAGE,
			       "unknown option --%s (did you mean --%s?)",
			       bare, near);
	return err_set(err, ERR_USAGE,
		       "unknown option --%s (--help lists all)", bare);
}

/* c is '?' or ':'; optopt tells which of five slips it was. */
static int bad_option(const struct view *v, int c, const char *word,
		      struct err *err)
{
	uint32_t at;
	const struct opt *o = find_row(v, optopt, &at);

	if (c == ':' && o)
		return err_set(err, ERR_USAGE, "--%s needs a value (%s)",
			       o->name, o->arg);
	if (o && optopt >= FIRST)
		return err_set(err, ERR_USAGE, "--%s takes no value", o->name);
	if (!optopt) /* getopt_long's sign for an unknown long name */
		return unknown_long(v, word, err);
	return err_set(err, ERR_USAGE,
		       "unknown option -%c (--help lists all)", optopt);
}

/* --json and -q are needed to report a failure before they were reached. */
static void peek(int argc, char **argv, struct opt_common *c)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--"); i++) {
		if (!strcmp(argv[i], "--json"))
			c->json = true;
		if (!strcmp(argv[i], "-q") || !strcmp(argv[i], "--quiet"))
			c->quiet = true;
	}
}

/* The word of an option that may go without: `--hash weights` as well as
 * `--hash=weights`, but only a word the option knows. */
static const char *maybe_word(const struct opt *o, int argc, char **argv)
{
	const char *at = o->names;
	char name[32];

	while (at && optind < argc) {
		at = next_name(at, name);
		if (!strcmp(argv[optind], name))
			return argv[optind++];
	}
	return o->def;
}

/* Set the value of the option that getopt_long has just found. */
static int take(const struct view *v, int c, struct opt_parsed *out, int argc,
		char **argv, struct err *err)
{
	uint32_t at = 0;
	const struct opt *o = find_row(v, c, &at);
	bool own = at < v->own;
	void *base = own ? out->base : (void *)&out->common;

	out->given |= UINT64_C(1) << at;
	if (set_value(o, base, o->maybe && !optarg ?
		      maybe_word(o, argc, argv) : optarg, err))
		return -1;
	if (o->kind != OPT_FILES)
		return 0;
	/* what follows, up to the next option, belongs to it too */
	while (optind < argc && (argv[optind][0] != '-' || !argv[optind][1]))
		if (set_value(o, base, argv[optind++], err))
			return -1;
	return 0;
}

/* Only once everything else is right: a usage error is the nearer mistake. */
static int check_absent(const struct opt_parsed *p, struct err *err)
{
	for (uint32_t i = 0; p->table[i].kind; i++)
		if (p->given >> i & 1 && p->table[i].absent)
			return err_set(err, ERR_UNSUP, "--%s %s",
				       p->table[i].name, p->table[i].absent);
	return 0;
}

/* The loop itself; what was parsed up to a failure stays in *out. */
static int parse(struct opt_parsed *out, int argc, char **argv,
		 struct err *err)
{
	struct view v = { .shortopt = ":" };
	int c;

	add_rows(&v, out->table);
	v.own = v.count;
	add_rows(&v, opt_common_table);
	if (set_defaults(out->table, out->base, err) ||
	    set_defaults(opt_common_table, &out->common, err))
		return -1;
	opterr = 0;
	optind = 0; /* GNU: start afresh */
	while ((c = getopt_long(argc, argv, v.shortopt, v.longopt, NULL)) !=
	       -1) {
		if (c == '?' || c == ':')
			return bad_option(&v, c, argv[optind - 1], err);
		if (take(&v, c, out, argc, argv, err))
			return -1;
	}
	out->operand = argv + optind;
	out->operands = (uint32_t)(argc - optind);
	if (out->common.help || out->common.version)
		return 0;
	return opt_check_rules(out, err) || check_absent(out, err) ? -1 : 0;
}

/* On failure the rest of the line is still searched for --json and -q. */
int opt_parse(const struct opt *table, void *base, int argc, char **argv,
	      struct opt_parsed *out, struct err *err)
{
	*out = (struct opt_parsed) { .table = table, .base = base };
	if (!parse(out, argc, argv, err))
		return 0;
	peek(argc, argv, &out->common);
	return -1;
}

/* Only lists own memory; everything else points into argv. */
void opt_release(struct opt_parsed *p)
{
	for (const struct opt *o = p->table; o && o->kind; o++)
		if (o->kind == OPT_LIST || o->kind == OPT_FILES) {
			struct opt_list *l = (void *)((char *)p->base + o->off);

			free(l->item);
			*l = (struct opt_list) { NULL, 0 };
		}
}

/* The row of an option; the number of rows when there is no such name. */
static uint32_t find_name(const struct opt *table, const char *name)
{
	uint32_t i = 0;

	while (table[i].kind == OPT_HEAD ||
	       (table[i].kind && strcmp(table[i].name, name)))
		i++;
	return i;
}

/* In the applet's table; that it is there is the caller's promise. */
static uint32_t row_of(const struct opt_parsed *p, const char *name)
{
	uint32_t i = find_name(p->table, name);

	assert(p->table[i].kind);
	return i;
}

bool opt_given(const struct opt_parsed *p, const char *name)
{
	uint32_t i = find_name(p->table, name), k = 0;

	if (!p->table[i].kind) {
		k = find_name(opt_common_table, name);
		assert(opt_common_table[k].kind);
	}
	return p->given >> (i + k) & 1;
}

const char *opt_choice_name(const struct opt_parsed *p, const char *name,
			    int i, char buf[32])
{
	const char *at = p->table[row_of(p, name)].names;

	for (; at && i >= 0; i--)
		at = next_name(at, buf);
	return i < 0 ? buf : NULL;
}

const char *opt_choice(const struct opt_parsed *p, const char *name,
		       char buf[32])
{
	const struct opt *o = &p->table[row_of(p, name)];

	return opt_choice_name(p, name,
			       *(const int *)((const char *)p->base + o->off),
			       buf);
}
