#include "hash.h"

#include "err.h"

#include <stdlib.h>
#include <xxhash.h>

struct hash {
	XXH3_state_t *state;
};

static void to_hex(XXH128_hash_t h, char hex[HASH_HEX])
{
	static const char digit[] = "0123456789abcdef";
	XXH128_canonical_t c;

	XXH128_canonicalFromHash(&c, h);
	for (size_t i = 0; i < sizeof(c.digest); i++) {
		hex[2 * i] = digit[c.digest[i] >> 4];
		hex[2 * i + 1] = digit[c.digest[i] & 15];
	}
	hex[HASH_HEX - 1] = '\0';
}

uint64_t hash_quick(const void *data, size_t n)
{
	return XXH3_64bits(data, n);
}

void hash_bytes(const void *data, size_t n, char hex[HASH_HEX])
{
	to_hex(XXH3_128bits(data, n), hex);
}

struct hash *hash_new(struct err *err)
{
	struct hash *h = malloc(sizeof(*h));

	if (h)
		h->state = XXH3_createState();
	if (!h || !h->state) {
		err_set(err, ERR_RESOURCE, "not enough memory for a hash");
		free(h);
		return NULL;
	}
	XXH3_128bits_reset(h->state);
	return h;
}

void hash_add(struct hash *h, const void *data, size_t n)
{
	if (n)
		XXH3_128bits_update(h->state, data, n);
}

void hash_end(struct hash *h, char hex[HASH_HEX])
{
	to_hex(XXH3_128bits_digest(h->state), hex);
}

void hash_free(struct hash *h)
{
	if (!h)
		return;
	XXH3_freeState(h->state);
	free(h);
}
