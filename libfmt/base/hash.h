/* hash.h - XXH3-128 of bytes, as 32 hexadecimal digits.
 * Source: xxHash, https://xxhash.com (canonical big-endian representation). */
#ifndef LIBFMT_BASE_HASH_H
#define LIBFMT_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct err;
struct hash; /* a running hash */

#define HASH_HEX 33 /* 32 digits and a NUL */

/* XXH3-64, for comparing inside of one run. */
uint64_t hash_quick(const void *data, size_t n);
void hash_bytes(const void *data, size_t n, char hex[HASH_HEX]);

struct hash *hash_new(struct err *err);
void hash_add(struct hash *h, const void *data, size_t n);
void hash_end(struct hash *h, char hex[HASH_HEX]); /* h may go on */
void hash_free(struct hash *h);                    /* accepts NULL */

#endif
