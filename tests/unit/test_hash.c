/* XXH3-128 as hexadecimal text. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void test_known_values(void **state)
{
	char hex[HASH_HEX];

	(void)state;
	/* the empty string: xxHash's own sanity table, seed 0 */
	hash_bytes("", 0, hex);
	assert_string_equal(hex, "99aa06d3014798d86001c324468d497f");
	/* printf abc | xxh128sum */
	hash_bytes("abc", 3, hex);
	assert_string_equal(hex, "06b05ab6733a618578af5f94892f3950");
}

static void test_pieces_equal_the_whole(void **state)
{
	unsigned char data[5000];
	char whole[HASH_HEX], parts[HASH_HEX], half[HASH_HEX];
	struct err err;

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (unsigned char)(i * 37 >> 3);
	hash_bytes(data, sizeof(data), whole);
	assert_int_equal(strlen(whole), HASH_HEX - 1);
	for (size_t step = 1; step < sizeof(data); step = step * 3 + 1) {
		struct hash *h = hash_new(&err);

		assert_non_null(h);
		for (size_t i = 0; i < sizeof(data); i += step) {
			size_t n = sizeof(data) - i;

			hash_end(h, half); /* looking does not disturb */
			hash_add(h, data + i, n < step ? n : step);
		}
		hash_add(h, NULL, 0);
		hash_end(h, parts);
		assert_string_equal(parts, whole);
		assert_string_not_equal(half, whole);
		hash_free(h);
	}
	hash_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known_values),
		cmocka_unit_test(test_pieces_equal_the_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
