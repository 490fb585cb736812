/* Any bytes through the JSON parser.  What it accepts must print, read back
 * and print the same; what it refuses must say why. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/json.h"

#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

static void require(int truth)
{
	if (!truth)
		abort();
}

/* Every getter on every node, for the sanitizers. */
static void visit(const struct cJSON *j)
{
	uint64_t u;
	int64_t i;
	double d;
	bool b;

	if (!json_uint(j, UINT64_MAX, &u) && u <= INT64_MAX)
		require(!json_int(j, 0, INT64_MAX, &i) && (uint64_t)i == u);
	json_double(j, &d);
	json_bool(j, &b);
	if (json_text(j))
		require(json_is_string(j));
	for (const struct cJSON *c = json_first(j); c; c = json_next(c)) {
		if (json_is_object(j))
			require(json_find(j, json_key(c)) == c);
		visit(c);
	}
}

static void print_and_read(const struct cJSON *j, bool pretty)
{
	struct cJSON *back;
	struct err err;
	char *text = json_print(j, pretty, &err), *again;

	require(text != NULL);
	require(!json_parse(text, strlen(text), 0, &back, &err));
	again = json_print(back, pretty, &err);
	require(again && !strcmp(text, again));
	free(again);
	free(text);
	json_free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const unsigned flags[] = { 0, JSON_STRICT_UINT, JSON_BOM };
	struct cJSON *j;
	struct err err;

	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++) {
		err.msg[0] = '\0';
		if (json_parse((const char *)data, n, flags[i], &j, &err)) {
			require(!j && err.code == ERR_INPUT && err.msg[0]);
			continue;
		}
		visit(j);
		print_and_read(j, true);
		print_and_read(j, false);
		json_free(j);
	}
	return 0;
}
