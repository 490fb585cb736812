/* json.c - the strict scanner, duplicate keys, and the way to cJSON.
 *
 * Two passes over the text cost little more than one and buy two things: cJSON
 * never sees text that would lead it into deep recursion, or that it reads more
 * generously than RFC 8259 does, and every refusal names its byte. */
#include "json.h"

#include "err.h"
#include "io.h"
#include "mem.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#define FILE_LIMIT ((uint64_t)256 << 20)
#define NUMBER_MAX 63            /* characters cJSON takes for one number */

/* ---- the strict scanner (RFC 8259) ---- */

/* The place in the text, and which kind of bracket is open at each level: an
 * array, not the machine's stack, so that depth is a number to compare. */
struct scan {
	const unsigned char *text;
	size_t n, at; /* at <= n always */
	unsigned flags;
	int depth;    /* open brackets */
	unsigned char is_object[JSON_DEPTH];
	struct err *err;
};

/* At the end of the text every complaint has the same reason. */
static int fail(const struct scan *s, const char *what)
{
	return err_set(s->err, ERR_INPUT, "invalid JSON at byte %zu: %s",
		       s->at, s->at < s->n ? what : "the text ends too early");
}

size_t json_utf8(const void *text, size_t n)
{
	const unsigned char *p = text;
	unsigned char lo = 0x80, hi = 0xbf; /* of the second byte */
	size_t len;

	if (!n)
		return 0;
	if (p[0] < 0x80)
		return 1;
	if (p[0] < 0xc2 || p[0] > 0xf4)
		return 0;
	len = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	/* Unicode 15, table 3-7: no overlong forms, no surrogates, nothing
	 * above U+10FFFF */
	if (p[0] == 0xe0)
		lo = 0xa0;
	else if (p[0] == 0xed)
		hi = 0x9f;
	else if (p[0] == 0xf0)
		lo = 0x90;
	else if (p[0] == 0xf4)
		hi = 0x8f;
	if (len > n || p[1] < lo || p[1] > hi)
		return 0;
	for (size_t i = 2; i < len; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	return len;
}

static void skip_space(struct scan *s)
{
	while (s->at < s->n &&
	       (s->text[s->at] == ' ' || s->text[s->at] == '\n' ||
		s->text[s->at] == '\r' || s->text[s->at] == '\t'))
		s->at++;
}

/* The four digits of \u at `at`, either case. */
static int hex4(const struct scan *s, size_t at, uint32_t *out)
{
	uint32_t v = 0;

	if (s->n - at < 4)
		return -1;
	for (size_t i = at; i < at + 4; i++) {
		unsigned char c = s->text[i];

		if (c >= '0' && c <= '9')
			v = v << 4 | (uint32_t)(c - '0');
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			v = v << 4 | (uint32_t)((c | 0x20) - 'a' + 10);
		else
			return -1;
	}
	*out = v;
	return 0;
}

/* at stands on the backslash.  A character above U+FFFF is written as two
 * surrogates, D800-DBFF then DC00-DFFF (RFC 8259, 7); one alone is no
 * character and has no UTF-8. */
static int scan_escape(struct scan *s)
{
	uint32_t u, v;

	if (s->n - s->at < 2) {
		s->at = s->n;
		return fail(s, "");
	}
	if (s->text[s->at + 1] != 'u') {
		if (!memchr("\"\\/bfnrt", s->text[s->at + 1], 8))
			return fail(s, "unknown escape");
		s->at += 2;
		return 0;
	}
	if (hex4(s, s->at + 2, &u))
		return fail(s, "\\u needs four hexadecimal digits");
	if (u == 0) /* would cut the string in C */
		return fail(s, "\\u0000 is not allowed");
	if (u >= 0xdc00 && u <= 0xdfff)
		return fail(s, "lone surrogate");
	if (u >= 0xd800 && u <= 0xdbff) {
		if (s->n - s->at < 12 || s->text[s->at + 6] != '\\' ||
		    s->text[s->at + 7] != 'u' || hex4(s, s->at + 8, &v) ||
		    v < 0xdc00 || v > 0xdfff)
			return fail(s, "lone surrogate");
		s->at += 6;
	}
	s->at += 6;
	return 0;
}

/* at stands on the opening quote. */
static int scan_string(struct scan *s)
{
	s->at++;
	while (s->at < s->n) {
		unsigned char c = s->text[s->at];
		size_t len;

		if (c == '"') {
			s->at++;
			return 0;
		}
		if (c == '\\') {
			if (scan_escape(s))
				return -1;
			continue;
		}
		if (c < 0x20)
			return fail(s, "control character in a string");
		len = c < 0x80 ? 1 : json_utf8(s->text + s->at, s->n - s->at);
		if (!len)
			return fail(s, "not UTF-8");
		s->at += len;
	}
	return fail(s, "");
}

/* Pass a run of digits; how many. */
static size_t digits(struct scan *s)
{
	size_t from = s->at;

	while (s->at < s->n && s->text[s->at] >= '0' && s->text[s->at] <= '9')
		s->at++;
	return s->at - from;
}

/* Pass one character when it is a or b. */
static int next_is(struct scan *s, char a, char b)
{
	if (s->at >= s->n || (s->text[s->at] != a && s->text[s->at] != b))
		return 0;
	s->at++;
	return 1;
}

/* [-] (0 | 1-9 digits) [. digits] [e [+-] digits], RFC 8259, 6. */
static int scan_number(struct scan *s)
{
	size_t from = s->at, n;
	int plain = !next_is(s, '-', '-');
	int zero = s->at < s->n && s->text[s->at] == '0';

	n = digits(s);
	if (!n)
		return fail(s, "not a number");
	if (zero && n > 1) {
		s->at = from;
		return fail(s, "a number begins with 0");
	}
	if (next_is(s, '.', '.')) {
		plain = 0;
		if (!digits(s))
			return fail(s, "no digits behind the point");
	}
	if (next_is(s, 'e', 'E')) {
		plain = 0;
		next_is(s, '+', '-');
		if (!digits(s))
			return fail(s, "no digits in the exponent");
	}
	n = s->at - from;
	s->at = from; /* what is left to say concerns the whole number */
	if (!plain && (s->flags & JSON_STRICT_UINT))
		return fail(s, "not an unsigned integer");
	if (n > NUMBER_MAX)
		return fail(s, "number of too many digits");
	s->at += n;
	return 0;
}

static int scan_word(struct scan *s, const char *word)
{
	size_t n = strlen(word);

	if (s->n - s->at < n || memcmp(s->text + s->at, word, n))
		return fail(s, "unknown word");
	s->at += n;
	return 0;
}

/* One value that is not an object or array. */
static int scan_scalar(struct scan *s)
{
	if (s->at >= s->n)
		return fail(s, "");
	switch (s->text[s->at]) {
	case '"':
		return scan_string(s);
	case 't':
		return scan_word(s, "true");
	case 'f':
		return scan_word(s, "false");
	case 'n':
		return scan_word(s, "null");
	case '-':
	case '0': case '1': case '2': case '3': case '4':
	case '5': case '6': case '7': case '8': case '9':
		return scan_number(s);
	default:
		return fail(s, "a value is expected");
	}
}

/* "key" : and the blanks between. */
static int scan_key(struct scan *s)
{
	skip_space(s);
	if (s->at >= s->n || s->text[s->at] != '"')
		return fail(s, "a key in quotes is expected");
	if (scan_string(s))
		return -1;
	skip_space(s);
	if (!next_is(s, ':', ':'))
		return fail(s, "':' is expected");
	return 0;
}

/* Enter an object or array; 1 when it is empty and already left again. */
static int scan_open(struct scan *s)
{
	unsigned char object = s->text[s->at] == '{';
	char end = object ? '}' : ']';

	if (s->depth == JSON_DEPTH)
		return fail(s, "nested too deeply");
	s->at++;
	skip_space(s);
	if (next_is(s, end, end))
		return 1;
	s->is_object[s->depth++] = object;
	return object ? scan_key(s) : 0;
}

/* Behind a value: close what ends here.  1 when a further value follows, 0
 * when the outermost one is complete. */
static int scan_after(struct scan *s)
{
	while (s->depth) {
		int object = s->is_object[s->depth - 1];
		char end = object ? '}' : ']';

		skip_space(s);
		if (next_is(s, ',', ','))
			return object && scan_key(s) ? -1 : 1;
		if (!next_is(s, end, end))
			return fail(s, object ? "',' or '}' is expected"
					      : "',' or ']' is expected");
		s->depth--;
	}
	return 0;
}

/* A loop over values: descend into brackets, climb out behind each value. */
static int scan_all(struct scan *s)
{
	int more = 1;

	while (more) {
		int r = 0;

		skip_space(s);
		if (s->at < s->n &&
		    (s->text[s->at] == '{' || s->text[s->at] == '[')) {
			r = scan_open(s);
			if (r < 0)
				return -1;
			if (r == 0)
				continue; /* the first value inside */
		} else if (scan_scalar(s)) {
			return -1;
		}
		more = scan_after(s);
		if (more < 0)
			return -1;
	}
	skip_space(s);
	return s->at < s->n ? fail(s, "text behind the value") : 0;
}

/* ---- duplicate keys ---- */

#define FEW 8 /* members up to which comparing all pairs is quicker */

struct keys {
	const char **key;
	size_t cap;
};

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The keys of one object; k is reused from object to object and only grows. */
static int gather(const struct cJSON *obj, struct keys *k, size_t *n,
		  struct err *err)
{
	void *p = k->key;

	*n = 0;
	for (const struct cJSON *c = obj->child; c; c = c->next, (*n)++) {
		if (*n == k->cap &&
		    mem_grow(&p, &k->cap, *n + 1, sizeof(char *), err))
			return -1;
		k->key = p;
		k->key[*n] = c->string;
	}
	return 0;
}

/* Equal keys stand side by side once sorted: n log n, and no hash table for
 * hostile keys to collide in. */
static int check_object(const struct cJSON *obj, struct keys *k,
			struct err *err)
{
	const char *twice = NULL;
	size_t n;

	if (gather(obj, k, &n, err))
		return -1;
	if (n > FEW) {
		qsort(k->key, n, sizeof(*k->key), by_text);
		for (size_t i = 1; i < n && !twice; i++)
			if (!strcmp(k->key[i - 1], k->key[i]))
				twice = k->key[i];
	} else {
		for (size_t i = 1; i < n; i++)
			for (size_t j = 0; j < i && !twice; j++)
				if (!strcmp(k->key[j], k->key[i]))
					twice = k->key[i];
	}
	if (twice)
		return err_set(err, ERR_INPUT, "key \"%s\" appears twice",
			       twice);
	return 0;
}

/* The scanner has bounded the depth to JSON_DEPTH, so recursion is safe. */
static int check_keys(const struct cJSON *j, struct keys *k, struct err *err)
{
	if (cJSON_IsObject(j) && check_object(j, k, err))
		return -1;
	for (const struct cJSON *c = j->child; c; c = c->next)
		if (c->child && check_keys(c, k, err))
			return -1;
	return 0;
}

/* ---- parsing ---- */

int json_parse(const char *text, size_t len, unsigned flags,
	       struct cJSON **out, struct err *err)
{
	struct scan s = { .text = (const unsigned char *)text, .n = len,
			  .flags = flags, .err = err };
	struct keys k = { NULL, 0 };
	struct cJSON *j = NULL;
	size_t skip = 0;
	int ret = -1;

	*out = NULL;
	if ((flags & JSON_BOM) && len >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
		skip = 3;
	s.at = skip;
	if (scan_all(&s))
		goto out;
	/* cJSON would skip the mark itself, but not in front of one byte */
	j = cJSON_ParseWithLengthOpts(text + skip, len - skip, NULL, 0);
	if (!j) { /* the scanner has passed it, so memory it is */
		err_set(err, ERR_RESOURCE,
			"not enough memory for %zu bytes of JSON", len);
		goto out;
	}
	if (check_keys(j, &k, err))
		goto out;
	*out = j;
	ret = 0;
out:
	if (ret)
		cJSON_Delete(j);
	free(k.key);
	return ret;
}

void json_free(struct cJSON *j)
{
	cJSON_Delete(j);
}

int json_read_file(const char *path, struct cJSON **out, struct err *err)
{
	char *text = NULL;
	size_t len;
	int ret = -1;

	*out = NULL;
	if (io_read_file(path, FILE_LIMIT, &text, &len, err))
		return -1; /* names the path itself */
	ret = json_parse(text, len, JSON_BOM, out, err);
	free(text);
	return ret ? err_ctx(err, "%s", path) : 0;
}
