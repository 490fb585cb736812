/* json_get.c - reading a tree of cJSON.
 *
 * cJSON's own lookups ignore case and its integer field saturates, so both are
 * done here: keys compare byte by byte, and a number is whole only when the
 * double that holds it is exact. */
#include "json.h"

#include "err.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EXACT 9007199254740992.0 /* 2^53: every integer up to here is exact */

/* ---- looking around ---- */

/* The member whose key is the first n bytes of `key`. */
static const struct cJSON *find_n(const struct cJSON *obj, const char *key,
				  size_t n)
{
	if (!cJSON_IsObject(obj))
		return NULL;
	for (const struct cJSON *c = obj->child; c; c = c->next)
		if (c->string && !strncmp(c->string, key, n) && !c->string[n])
			return c;
	return NULL;
}

const struct cJSON *json_find(const struct cJSON *obj, const char *key)
{
	return find_n(obj, key, strlen(key));
}

const struct cJSON *json_path(const struct cJSON *obj, const char *path)
{
	while (obj) {
		size_t n = strcspn(path, ".");

		obj = find_n(obj, path, n);
		if (!path[n])
			break;
		path += n + 1;
	}
	return obj;
}

const struct cJSON *json_first(const struct cJSON *j)
{
	return j ? j->child : NULL;
}

const struct cJSON *json_next(const struct cJSON *j)
{
	return j ? j->next : NULL;
}

const char *json_key(const struct cJSON *j)
{
	return j ? j->string : NULL;
}

uint32_t json_count(const struct cJSON *j)
{
	uint32_t n = 0;

	for (const struct cJSON *c = json_first(j); c; c = c->next)
		n++;
	return n;
}

bool json_is_object(const struct cJSON *j)
{
	return cJSON_IsObject(j);
}

bool json_is_array(const struct cJSON *j)
{
	return cJSON_IsArray(j);
}

bool json_is_string(const struct cJSON *j)
{
	return cJSON_IsString(j);
}

bool json_is_null(const struct cJSON *j)
{
	return cJSON_IsNull(j);
}

bool json_is_bool(const struct cJSON *j)
{
	return cJSON_IsBool(j);
}

bool json_is_number(const struct cJSON *j)
{
	return cJSON_IsNumber(j);
}

/* ---- values ---- */

const char *json_text(const struct cJSON *j)
{
	return cJSON_IsString(j) ? j->valuestring : NULL;
}

/* A whole number as sign and magnitude, from a number or from a string of
 * decimal digits. */
static int whole(const struct cJSON *j, int *negative, uint64_t *magnitude)
{
	const char *p;
	uint64_t v = 0;

	if (cJSON_IsNumber(j)) {
		double d = j->valuedouble;

		/* written so that NaN fails */
		if (!(fabs(d) <= EXACT) || d != floor(d))
			return -1;
		*negative = d < 0;
		*magnitude = (uint64_t)fabs(d);
		return 0;
	}
	if (!cJSON_IsString(j))
		return -1;
	p = j->valuestring;
	*negative = *p == '-';
	p += *negative;
	if (!*p)
		return -1;
	for (; *p; p++) {
		unsigned digit = (unsigned)(unsigned char)*p - '0';

		if (digit > 9 || v > (UINT64_MAX - digit) / 10)
			return -1;
		v = v * 10 + digit;
	}
	*magnitude = v;
	return 0;
}

int json_uint(const struct cJSON *j, uint64_t hi, uint64_t *out)
{
	uint64_t v;
	int negative;

	if (whole(j, &negative, &v) || (negative && v) || v > hi)
		return -1;
	*out = v;
	return 0;
}

int json_int(const struct cJSON *j, int64_t lo, int64_t hi, int64_t *out)
{
	uint64_t v;
	int64_t r;
	int negative;

	if (whole(j, &negative, &v) || v > INT64_MAX)
		return -1;
	r = negative ? -(int64_t)v : (int64_t)v;
	if (r < lo || r > hi)
		return -1;
	*out = r;
	return 0;
}

int json_double(const struct cJSON *j, double *out)
{
	if (!cJSON_IsNumber(j) || !isfinite(j->valuedouble))
		return -1;
	*out = j->valuedouble;
	return 0;
}

int json_bool(const struct cJSON *j, bool *out)
{
	if (!cJSON_IsBool(j))
		return -1;
	*out = cJSON_IsTrue(j);
	return 0;
}

/* ---- members of configs ---- */

/* The member, or NULL where it is absent or null. */
static const struct cJSON *member(const struct cJSON *obj, const char *key)
{
	const struct cJSON *c = json_find(obj, key);

	return cJSON_IsNull(c) ? NULL : c;
}

int json_get_u32(const struct cJSON *obj, const char *key, uint32_t lo,
		 uint32_t hi, uint32_t *out, struct err *err)
{
	const struct cJSON *c = member(obj, key);
	uint64_t v;

	if (!c)
		return 0;
	if (json_uint(c, hi, &v) || v < lo)
		return err_set(err, ERR_INPUT, "\"%s\" must be a whole number "
			       "from %u to %u", key, lo, hi);
	*out = (uint32_t)v;
	return 0;
}

int json_get_i32(const struct cJSON *obj, const char *key, int32_t lo,
		 int32_t hi, int32_t *out, struct err *err)
{
	const struct cJSON *c = member(obj, key);
	int64_t v;

	if (!c)
		return 0;
	if (json_int(c, lo, hi, &v))
		return err_set(err, ERR_INPUT, "\"%s\" must be a whole number "
			       "from %d to %d", key, lo, hi);
	*out = (int32_t)v;
	return 0;
}

int json_get_double(const struct cJSON *obj, const char *key, double *out,
		    struct err *err)
{
	const struct cJSON *c = member(obj, key);

	if (c && json_double(c, out))
		return err_set(err, ERR_INPUT, "\"%s\" must be a number", key);
	return 0;
}

int json_get_bool(const struct cJSON *obj, const char *key, bool *out,
		  struct err *err)
{
	const struct cJSON *c = member(obj, key);

	if (c && json_bool(c, out))
		return err_set(err, ERR_INPUT, "\"%s\" must be true or false",
			       key);
	return 0;
}

int json_get_switch(const struct cJSON *obj, const char *key, int8_t *out,
		    struct err *err)
{
	bool b = false;

	if (!member(obj, key))
		return 0;
	if (json_get_bool(obj, key, &b, err))
		return -1;
	*out = b;
	return 0;
}

int json_get_text(const struct cJSON *obj, const char *key, const char **out,
		  struct err *err)
{
	const struct cJSON *c = member(obj, key);

	if (!c)
		return 0;
	if (!json_text(c))
		return err_set(err, ERR_INPUT, "\"%s\" must be a string", key);
	*out = json_text(c);
	return 0;
}
