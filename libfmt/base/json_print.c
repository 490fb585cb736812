/* json_print.c - a tree as text.
 *
 * The pretty form is Python's json.dumps(indent=2, ensure_ascii=False), which
 * is what transformers writes and diffs are made against; the other form is
 * serde_json's, which heads safetensors files. */
#include "json.h"

#include "err.h"
#include "mem.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXACT 9007199254740992.0 /* 2^53: whole numbers below print as such */

/* Text that grows, kept without a NUL until the end. */
struct text {
	char *p;
	size_t len, cap;
	bool pretty;
	struct err *err;
};

static int put(struct text *t, const char *s, size_t n)
{
	void *p = t->p;

	if (n > t->cap - t->len &&
	    mem_grow(&p, &t->cap, t->len + n, 1, t->err))
		return -1;
	t->p = p;
	if (n)
		memcpy(t->p + t->len, s, n);
	t->len += n;
	return 0;
}

static int put_text(struct text *t, const char *s)
{
	return put(t, s, strlen(s));
}

/* A line break and two spaces a level, where the text is pretty. */
static int put_line(struct text *t, int level)
{
	if (!t->pretty)
		return 0;
	if (put(t, "\n", 1))
		return -1;
	while (level--)
		if (put(t, "  ", 2))
			return -1;
	return 0;
}

/* The short escapes where JSON has them, \u00xx for the other control
 * characters; everything else, UTF-8 included, as it stands. */
static int put_char(struct text *t, unsigned char c)
{
	static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
	const char *at = c ? strchr(from, c) : NULL;
	char buf[8];

	if (at)
		snprintf(buf, sizeof(buf), "\\%c", to[at - from]);
	else
		snprintf(buf, sizeof(buf), "\\u%04x", c);
	return put_text(t, buf);
}

static int put_string(struct text *t, const char *s)
{
	if (put(t, "\"", 1))
		return -1;
	while (*s) {
		size_t n = 0;

		while ((unsigned char)s[n] >= 0x20 && s[n] != '"' &&
		       s[n] != '\\')
			n++;
		if (put(t, s, n))
			return -1;
		s += n;
		if (*s && put_char(t, (unsigned char)*s++))
			return -1;
	}
	return put(t, "\"", 1);
}

/* Whole numbers without a point, others in the fewest digits that read back
 * as the same double.  JSON has no infinity and no NaN: null. */
static int put_number(struct text *t, double d)
{
	char buf[40];

	if (!isfinite(d))
		return put_text(t, "null");
	if (d == floor(d) && fabs(d) < EXACT) {
		snprintf(buf, sizeof(buf), "%.0f", d + 0.0);
		return put_text(t, d == 0 ? "0" : buf);
	}
	for (int digits = 1; digits <= 17; digits++) {
		snprintf(buf, sizeof(buf), "%.*g", digits, d);
		if (strtod(buf, NULL) == d)
			break;
	}
	return put_text(t, buf);
}

static int put_value(struct text *t, const struct cJSON *j, int level);

/* An object or array at indentation `level`: one child a line when pretty,
 * empty ones as {} and []. */
static int put_children(struct text *t, const struct cJSON *j, int level)
{
	bool object = cJSON_IsObject(j);

	if (level >= JSON_DEPTH)
		return err_set(t->err, ERR_INPUT,
			       "JSON value is nested too deeply");
	if (put(t, object ? "{" : "[", 1))
		return -1;
	for (const struct cJSON *c = j->child; c; c = c->next) {
		if (put_line(t, level + 1))
			return -1;
		if (object && (put_string(t, c->string) ||
			       put_text(t, t->pretty ? ": " : ":")))
			return -1;
		if (put_value(t, c, level + 1) || (c->next && put(t, ",", 1)))
			return -1;
	}
	if (j->child && put_line(t, level))
		return -1;
	return put(t, object ? "}" : "]", 1);
}

static int put_value(struct text *t, const struct cJSON *j, int level)
{
	if (cJSON_IsObject(j) || cJSON_IsArray(j))
		return put_children(t, j, level);
	if (cJSON_IsString(j))
		return put_string(t, j->valuestring);
	if (cJSON_IsRaw(j))
		return put_text(t, j->valuestring);
	if (cJSON_IsNumber(j))
		return put_number(t, j->valuedouble);
	if (cJSON_IsBool(j))
		return put_text(t, cJSON_IsTrue(j) ? "true" : "false");
	return put_text(t, "null");
}

char *json_print(const struct cJSON *j, bool pretty, struct err *err)
{
	struct text t = { .pretty = pretty, .err = err };

	if (put_value(&t, j, 0) || put(&t, "\n", 2)) {
		free(t.p);
		return NULL;
	}
	return t.p; /* the NUL behind the newline came with it */
}
