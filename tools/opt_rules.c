/* opt_rules.c - which options go together: `needs` and `without` of the
 * tables.  An option that would change nothing is a slip and is refused; that
 * it was taken in silence would be found out much later. */
#include "opt.h"

#include "../libfmt/base/err.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

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

/* Alternatives up to a blank or the end, of which one has to be there. */
static const char *check_group(const struct opt_parsed *p, const struct opt *o,
			       const char *at, struct err *err)
{
	char list[256] = "";
	struct word w;
	size_t n = 0;
	bool any = false, last = false;

	while (!last) {
		at = read_word(at, &w);
		any |= is_there(p, &w);
		last = *at != '|';
		if (n < sizeof(list))
			n += (size_t)snprintf(list + n, sizeof(list) - n,
					      "%s--%s%s%s", !n ? "" : last ?
					      " or " : ", ", w.name,
					      w.value[0] ? " " : "", w.value);
		at += !last;
	}
	if (any)
		return at + strspn(at, " ");
	err_set(err, ERR_USAGE, "--%s goes only with %s", o->name, list);
	return NULL;
}

static int check_without(const struct opt_parsed *p, const struct opt *o,
			 struct err *err)
{
	struct word w;

	for (const char *at = o->without; at && *at; at += *at == '|') {
		at = read_word(at, &w);
		if (is_there(p, &w))
			return err_set(err, ERR_USAGE,
				       "--%s does not go with --%s%s%s",
				       o->name, w.name, w.value[0] ? " " : "",
				       w.value);
	}
	return 0;
}

int opt_check_rules(const struct opt_parsed *p, struct err *err)
{
	for (uint32_t i = 0; p->table[i].kind; i++) {
		const struct opt *o = &p->table[i];

		if (!(p->given >> i & 1))
			continue;
		if (check_without(p, o, err))
			return -1;
		for (const char *at = o->needs; at && *at;)
			if (!(at = check_group(p, o, at, err)))
				return -1;
	}
	return 0;
}
