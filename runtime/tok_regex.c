/* Patterns of tokenizer.json: written for Oniguruma, run by PCRE2.
 *
 * The two agree on most of what tokenizers use.  Where they do not, the
 * pattern is rewritten (\s: PCRE2 counts U+180E as a space, Unicode and
 * Oniguruma do not; scripts: PCRE2 takes \p{Han} with the script extensions)
 * or refused by name (\w, \h, \b, set operations, back references).
 * Source: Oniguruma doc/RE (Ruby syntax), pcre2pattern(3). */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define PATTERN_MAX 65536 /* bytes of a pattern */

/* Unicode White_Space, as the inside of a character class. */
#define SPACES                                                               \
	"\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}"      \
	"\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* ---- rewriting ---- */

struct rewrite {
	const char *s;
	struct tok_buf out;
	bool in_class;
};

static int put(struct rewrite *r, const char *s, struct err *err)
{
	return tok_buf_add(&r->out, s, strlen(s), err);
}

static int refuse(const char *what, size_t n, struct err *err)
{
	return err_set(err, ERR_UNSUP,
		       "a pattern with \"%.*s\" is not supported", (int)n,
		       what);
}

/* \p{L}, \P{L}, \p{^L}, \p{Han}: r->s is at the backslash. */
static int property(struct rewrite *r, struct err *err)
{
	const char *name = r->s + 3, *end;
	bool script;

	end = r->s[2] == '{' ? strchr(name, '}') : NULL;
	if (!end || end - name > 32 || end == name)
		return refuse(r->s, strnlen(r->s, 8), err);
	if (tok_buf_add(&r->out, r->s, 3, err))
		return -1;
	if (*name == '^') {
		if (put(r, "^", err))
			return -1;
		name++;
	}
	for (const char *c = name; c < end; c++)
		if (!isalpha((unsigned char)*c) && *c != '_')
			return refuse(r->s, (size_t)(end + 1 - r->s), err);
	/* one or two letters are a general category, the rest scripts */
	script = end - name > 2;
#if PCRE2_MAJOR == 10 && PCRE2_MINOR >= 40
	if (script && put(r, "sc:", err))
		return -1;
#else
	(void)script;
#endif
	if (tok_buf_add(&r->out, name, (size_t)(end + 1 - name), err))
		return -1;
	r->s = end + 1;
	return 0;
}

/* \uHHHH, which PCRE2 spells \x{HHHH}. */
static int code_point(struct rewrite *r, struct err *err)
{
	for (int i = 2; i < 6; i++)
		if (!isxdigit((unsigned char)r->s[i]))
			return refuse(r->s, 2, err);
	if (put(r, "\\x{", err) || tok_buf_add(&r->out, r->s + 2, 4, err))
		return -1;
	r->s += 6;
	return put(r, "}", err);
}

/* \x{H..} stays; \xHH stays when it is ASCII (above it means a byte). */
static int hexadecimal(struct rewrite *r, struct err *err)
{
	const char *s = r->s;
	size_t n = 2;

	if (s[2] == '{') {
		n = 3;
		while (isxdigit((unsigned char)s[n]) && n < 12)
			n++;
		if (s[n++] != '}')
			return refuse(s, 2, err);
	} else if (s[2] >= '0' && s[2] <= '7' &&
		   isxdigit((unsigned char)s[3])) {
		n = 4;
	} else {
		return refuse(s, 2, err);
	}
	r->s += n;
	return tok_buf_add(&r->out, s, n, err);
}

static int escape(struct rewrite *r, struct err *err)
{
	char c = r->s[1];
	const char *to = NULL;

	switch (c) {
	case 's':
		to = r->in_class ? SPACES : "[" SPACES "]";
		break;
	case 'S':
		to = r->in_class ? "\\S\\x{180e}" : "[^" SPACES "]";
		break;
	case 'v':
		to = "\\x0b";
		break;
	case 'p':
	case 'P':
		return property(r, err);
	case 'u':
		return code_point(r, err);
	case 'x':
		return hexadecimal(r, err);
	}
	if (!to && !(c && strchr("dDrntfae", c)) &&
	    !(c > 0 && ispunct((unsigned char)c)))
		return refuse(r->s, c > 0 ? 2 : 1, err);
	if (to ? put(r, to, err) : tok_buf_add(&r->out, r->s, 2, err))
		return -1;
	r->s += 2;
	return 0;
}

/* A character class, from '[' to ']'. */
static int class(struct rewrite *r, struct err *err)
{
	const char *start = r->s;
	size_t n = r->s[1] == '^' ? 2 : 1;

	if (tok_buf_add(&r->out, r->s, n, err))
		return -1;
	r->s += n;
	r->in_class = true;
	if (*r->s == ']')
		return refuse(start, n + 1, err);
	while (*r->s && *r->s != ']') {
		if (*r->s == '[' || strncmp(r->s, "&&", 2) == 0)
			return refuse(r->s, 2, err);
		if (*r->s == '\\') {
			if (escape(r, err))
				return -1;
			continue;
		}
		if (tok_buf_add(&r->out, r->s++, 1, err))
			return -1;
	}
	r->in_class = false;
	if (!*r->s)
		return refuse(start, 1, err);
	r->s++;
	return put(r, "]", err);
}

static bool group_known(const char *s)
{
	static const char *const known[] = { "(?:", "(?=", "(?!",  "(?<=",
					     "(?<!", "(?>", "(?i:" };

	if (s[1] != '?')
		return s[1] != '*';
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strncmp(s, known[i], strlen(known[i])) == 0)
			return true;
	return false;
}

static int rewrite(struct rewrite *r, struct err *err)
{
	while (*r->s) {
		if (*r->s == '\\') {
			if (escape(r, err))
				return -1;
			continue;
		}
		if (*r->s == '[') {
			if (class(r, err))
				return -1;
			continue;
		}
		if (*r->s == '(' && !group_known(r->s))
			return refuse(r->s, strnlen(r->s, 3), err);
		/* {,n} and {n}+ mean something else to PCRE2 */
		if (strncmp(r->s, "{,", 2) == 0 || strncmp(r->s, "}+", 2) == 0)
			return refuse(r->s, 2, err);
		if (tok_buf_add(&r->out, r->s++, 1, err))
			return -1;
	}
	return 0;
}

static int compile(const struct tok_buf *text, pcre2_code **out,
		   struct err *err)
{
	/* Ruby's ^ and $ are those of a line */
	uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE |
			   PCRE2_NEVER_BACKSLASH_C;
	pcre2_compile_context *c = pcre2_compile_context_create(NULL);
	PCRE2_UCHAR reason[128] = "";
	PCRE2_SIZE at = 0;
	int code = 0;

	if (!c)
		return err_set(err, ERR_RESOURCE, "not enough memory");
	pcre2_set_newline(c, PCRE2_NEWLINE_LF);
	*out = pcre2_compile((PCRE2_SPTR)text->p, text->len, options,
			     &code, &at, c);
	pcre2_compile_context_free(c);
	if (!*out) {
		pcre2_get_error_message(code, reason, sizeof(reason));
		return err_set(err, ERR_UNSUP,
			       "a pattern is not supported: %s at byte %zu of "
			       "\"%.200s\"",
			       (const char *)reason, (size_t)at, text->p);
	}
	/* without a JIT for this machine the interpreter runs */
	(void)pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE);
	return 0;
}

int tok_pattern_regex(struct tok_pattern *p, const char *text,
		      struct err *err)
{
	struct rewrite r = { .s = text };
	int ret = -1;

	memset(p, 0, sizeof(*p));
	if (strlen(text) > PATTERN_MAX)
		return err_set(err, ERR_UNSUP,
			       "a pattern of more than %d bytes", PATTERN_MAX);
	if (!rewrite(&r, err) &&
	    !tok_buf_add(&r.out, "", 1, err)) { /* a NUL, for the message */
		r.out.len--;
		ret = compile(&r.out, &p->re, err);
	}
	tok_buf_release(&r.out);
	return ret;
}

int tok_pattern_word(struct tok_pattern *p, struct err *err)
{
#if PCRE2_MAJOR == 10 && PCRE2_MINOR >= 40
	static const char text[] =
		"[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";
#else
	static const char text[] =
		"[\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200c}\\x{200d}]";
#endif
	struct tok_buf out = { 0 };
	int ret = -1;

	memset(p, 0, sizeof(*p));
	if (!tok_buf_add(&out, text, sizeof(text) - 1, err))
		ret = compile(&out, &p->re, err);
	tok_buf_release(&out);
	return ret;
}

int tok_pattern_literal(struct tok_pattern *p, const char *text,
			struct err *err)
{
	memset(p, 0, sizeof(*p));
	p->len = strlen(text);
	if (p->len == 0)
		return err_set(err, ERR_UNSUP, "an empty pattern");
	p->text = mem_text(text, p->len, err);
	return p->text ? 0 : -1;
}

int tok_pattern_json(struct tok_pattern *p, const struct cJSON *j,
		     struct err *err)
{
	const char *s = json_text(json_find(j, "String"));
	const char *re = json_text(json_find(j, "Regex"));

	if (s)
		return tok_pattern_literal(p, s, err);
	if (re)
		return tok_pattern_regex(p, re, err);
	return err_set(err, ERR_INPUT,
		       "pattern is neither a String nor a Regex");
}

void tok_pattern_release(struct tok_pattern *p)
{
	pcre2_code_free(p->re);
	free(p->text);
	memset(p, 0, sizeof(*p));
}
