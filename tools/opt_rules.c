/* opt_rules.c - which options go together, as the tables say.  What cannot be
 * done as the line asks is refused (`needs`, `without`); what can, but for an
 * option that changes nothing, is done and the option named (`serves`, `idle`):
 * one line of options for several calls is a script's good right. */
#include "opt.h"

#include "../libfmt/base/err.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* Characters of a list of alternatives. */
#define NAMES (OPT_SAY - 64)

/* "tensor", or "method" and "rtn" of "method=rtn". */
struct word {
	char name[32], value[32];
};

static const char *read_part(const char *at, char out[32])
{
	size_t n = strcspn(at, "=| ");

	assert(n > 0 && n < 32);
	memcpy(out, at, n);
	out[n] = '\0';
	return at + n;
}

/* Behind the word stands '|', a blank or the end. */
static const char *read_word(const char *at, struct word *w)
{
	at = read_part(at, w->name);
	w->value[0] = '\0';
	return *at == '=' ? read_part(at + 1, w->value) : at;
}

static bool is_there(const struct opt_parsed *p, const struct word *w)
{
	char chosen[32];

	return w->value[0] ?
		       !strcmp(opt_choice(p, w->name, chosen), w->value) :
		       opt_given(p, w->name);
}

/* Alternatives up to a blank or the end: is one of them there?  `list` names
 * them all.  What follows is returned. */
static const char *read_group(const struct opt_parsed *p, const char *at,
			      bool *any, char list[NAMES])
{
	struct word w;
	size_t n = 0;
	bool last = false;

	*any = false;
	while (!last) {
		at = read_word(at, &w);
		*any |= is_there(p, &w);
		last = *at != '|';
		if (n < NAMES)
			n += (size_t)snprintf(list + n, NAMES - n,
					      "%s--%s%s%s", !n ? "" : last ?
					      " or " : ", ", w.name,
					      w.value[0] ? " " : "", w.value);
		at += !last;
	}
	return at + strspn(at, " ");
}

/* The first of alternatives that is there. */
static bool find_there(const struct opt_parsed *p, const char *list,
		       struct word *w)
{
	for (const char *at = list; at && *at; at += *at == '|') {
		at = read_word(at, w);
		if (is_there(p, w))
			return true;
	}
	return false;
}

static int check_row(const struct opt_parsed *p, const struct opt *o,
		     struct err *err)
{
	char list[NAMES];
	struct word w;
	bool any;

	if (find_there(p, o->without, &w))
		return err_set(err, ERR_USAGE, "--%s does not go with --%s%s%s",
			       o->name, w.name, w.value[0] ? " " : "", w.value);
	for (const char *at = o->needs; at && *at;) {
		at = read_group(p, at, &any, list);
		if (!any)
			return err_set(err, ERR_USAGE, "--%s goes only with %s",
				       o->name, list);
	}
	return 0;
}

int opt_check_rules(const struct opt_parsed *p, struct err *err)
{
	for (uint32_t i = 0; p->table[i].kind; i++)
		if (p->given >> i & 1 && check_row(p, &p->table[i], err))
			return -1;
	return 0;
}

static bool is_idle(const struct opt_parsed *p, const struct opt *o,
		    char say[OPT_SAY])
{
	char list[NAMES];
	struct word w;
	bool any = true;

	if (o->serves)
		read_group(p, o->serves, &any, list);
	if (!any)
		snprintf(say, OPT_SAY, "--%s does nothing without %s", o->name,
			 list);
	else if (find_there(p, o->idle, &w))
		snprintf(say, OPT_SAY, "--%s does nothing with --%s%s%s",
			 o->name, w.name, w.value[0] ? " " : "", w.value);
	else
		return false;
	return true;
}

bool opt_next_idle(const struct opt_parsed *p, uint32_t *row, char say[OPT_SAY])
{
	while (p->table[*row].kind) {
		uint32_t i = (*row)++;

		if (p->given >> i & 1 && is_idle(p, &p->table[i], say))
			return true;
	}
	return false;
}
