/* json.h - JSON behind limits, with typed getters.
 *
 * The text is checked by a strict scanner of our own before cJSON sees it:
 * UTF-8 without lone surrogates, no \u0000, nesting up to JSON_DEPTH, numbers
 * and literals spelled as RFC 8259 has them, no duplicate key in any object,
 * nothing behind the value.  cJSON then builds the tree.  Text that breaks a
 * rule is ERR_INPUT with the byte offset.
 *
 * cJSON holds numbers as doubles: an integer above 2^53 is refused by the
 * getters rather than rounded.
 *
 * Files: json.c scans and parses, json_get.c reads, json_print.c writes.
 *
 * Callers treat struct cJSON as opaque, except for building output, where the
 * cJSON_Create and cJSON_Add functions are used as they are. */
#ifndef LIBFMT_BASE_JSON_H
#define LIBFMT_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cJSON;
struct err;

#define JSON_DEPTH 64

enum json_flags {
	JSON_STRICT_UINT = 1, /* numbers must be unsigned integers, spelled in
				 digits only (safetensors headers) */
	JSON_BOM = 2          /* tolerate a byte order mark (config files) */
};

/* Parse len bytes.  *out is the caller's: json_free. */
int json_parse(const char *text, size_t len, unsigned flags,
	       struct cJSON **out, struct err *err);
void json_free(struct cJSON *j); /* accepts NULL */

/* Read and parse a file of at most 256 MiB (JSON_BOM on). */
int json_read_file(const char *path, struct cJSON **out, struct err *err);

/* The member `key` of an object, or NULL; NULL object gives NULL.  Linear. */
const struct cJSON *json_find(const struct cJSON *obj, const char *key);
/* A member of a member: json_path(j, "a.b.c"). */
const struct cJSON *json_path(const struct cJSON *obj, const char *path);

/* Iteration over the children of an object or array. */
const struct cJSON *json_first(const struct cJSON *j);
const struct cJSON *json_next(const struct cJSON *j);
const char *json_key(const struct cJSON *j);
uint32_t json_count(const struct cJSON *j);

/* Kind of a value; all accept NULL (false). */
bool json_is_object(const struct cJSON *j);
bool json_is_array(const struct cJSON *j);
bool json_is_string(const struct cJSON *j);
bool json_is_null(const struct cJSON *j);
bool json_is_bool(const struct cJSON *j);
bool json_is_number(const struct cJSON *j);

/* The value, or NULL / -1 when it is not of that kind or out of range.
 * json_uint and json_int take whole numbers only (also 4.0 and, for configs in
 * the wild, the strings "4" and "-1"). */
const char *json_text(const struct cJSON *j);
int json_uint(const struct cJSON *j, uint64_t hi, uint64_t *out);
int json_int(const struct cJSON *j, int64_t lo, int64_t hi, int64_t *out);
int json_double(const struct cJSON *j, double *out);
int json_bool(const struct cJSON *j, bool *out);

/* Member getters for configs: a missing or null member leaves *out as it is
 * and succeeds; one of the wrong kind or range is ERR_INPUT naming the key. */
int json_get_u32(const struct cJSON *obj, const char *key, uint32_t lo,
		 uint32_t hi, uint32_t *out, struct err *err);
int json_get_i32(const struct cJSON *obj, const char *key, int32_t lo,
		 int32_t hi, int32_t *out, struct err *err);
int json_get_double(const struct cJSON *obj, const char *key, double *out,
		    struct err *err);
int json_get_bool(const struct cJSON *obj, const char *key, bool *out,
		  struct err *err);
/* A switch with a third state, which *out holds before: not said. */
int json_get_switch(const struct cJSON *obj, const char *key, int8_t *out,
		    struct err *err);
/* Borrowed from the tree. */
int json_get_text(const struct cJSON *obj, const char *key, const char **out,
		  struct err *err);

/* Length (1..4) of the well-formed UTF-8 character at text, of which n bytes
 * follow; 0 when it is none. */
size_t json_utf8(const void *text, size_t n);

/* Printed on the heap, indented by two spaces as transformers writes its
 * configs (pretty) or on one line without spaces, with one newline at the end.
 * Numbers that are whole print without a point, others in the fewest digits
 * that read back the same. */
char *json_print(const struct cJSON *j, bool pretty, struct err *err);

#endif
