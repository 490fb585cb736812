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

/* mem_system.c.  Bytes this process may still take: what the machine has free,
 * within the limits of its control group and of its address space; UINT64_MAX:
 * unknown. */
uint64_t mem_available(void);
/* Bytes of this process that are in memory now, and at most so far, maps of
 * files included; 0: unknown. */
uint64_t mem_resident(void);
uint64_t mem_peak(void);
/* From here on what is freed goes back to the system at once, and what was
 * freed before goes now, so that mem_resident follows what is allocated. */
void mem_give_back(void);

#ifdef __cplusplus
}
#endif
#endif
