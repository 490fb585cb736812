/* mem.h - allocation with checked sizes.
 *
 * Every n * size of the house passes through here.  Who allocates frees, with
 * free().  A struct that holds several arrays takes them from one block. */
#ifndef LIBFMT_BASE_MEM_H
#define LIBFMT_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct err;

/* *out = a * b; -1 (no message) when that does not fit. */
int mem_mul(size_t a, size_t b, size_t *out);
int mem_mul64(uint64_t a, uint64_t b, uint64_t *out);

/* n elements of `size` bytes, zeroed, aligned to 64 bytes.  n == 0 gives a
 * valid pointer that may be freed.  NULL with ERR_RESOURCE and the number of
 * bytes on failure. */
void *mem_alloc(size_t n, size_t size, struct err *err);

/* Grow *p, whose capacity is *cap elements, to hold at least `want`.  Doubles.
 * The pointer must come from this function or be NULL (plain malloc memory).
 * New elements are not zeroed. */
int mem_grow(void **p, size_t *cap, size_t want, size_t size, struct err *err);

/* A copy of n bytes of text with a NUL behind. */
char *mem_text(const char *s, size_t n, struct err *err);

/* Several arrays in one zeroed block, each aligned to 64 bytes.  On success
 * every *part[i].p is set and the returned block is what free() takes. */
struct mem_part {
	void **p;
	size_t n, size;
};
void *mem_block(const struct mem_part *part, size_t count, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
