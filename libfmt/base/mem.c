#include "mem.h"

#include "err.h"

#include <stdlib.h>
#include <string.h>

#define MEM_ALIGN 64

int mem_mul(size_t a, size_t b, size_t *out)
{
	if (b && a > SIZE_MAX / b)
		return -1;
	*out = a * b;
	return 0;
}

int mem_mul64(uint64_t a, uint64_t b, uint64_t *out)
{
	if (b && a > UINT64_MAX / b)
		return -1;
	*out = a * b;
	return 0;
}

static int round_up(size_t n, size_t *out)
{
	if (n > SIZE_MAX - (MEM_ALIGN - 1))
		return -1;
	*out = (n + MEM_ALIGN - 1) & ~(size_t)(MEM_ALIGN - 1);
	return 0;
}

static void *zeroed(size_t bytes, struct err *err)
{
	void *p;

	if (bytes == 0)
		bytes = MEM_ALIGN;
	p = aligned_alloc(MEM_ALIGN, bytes);
	if (!p) {
		err_set(err, ERR_RESOURCE, "not enough memory for %zu bytes",
			bytes);
		return NULL;
	}
	memset(p, 0, bytes);
	return p;
}

void *mem_alloc(size_t n, size_t size, struct err *err)
{
	size_t bytes;

	if (mem_mul(n, size, &bytes) || round_up(bytes, &bytes)) {
		err_set(err, ERR_RESOURCE,
			"not enough memory for %zu elements of %zu bytes", n,
			size);
		return NULL;
	}
	return zeroed(bytes, err);
}

int mem_grow(void **p, size_t *cap, size_t want, size_t size, struct err *err)
{
	size_t n = *cap ? *cap : 16, bytes;
	void *q;

	if (want <= *cap)
		return 0;
	while (n < want)
		n = n > SIZE_MAX / 2 ? want : n * 2;
	if (mem_mul(n, size, &bytes) || !(q = realloc(*p, bytes)))
		return err_set(err, ERR_RESOURCE,
			       "not enough memory for %zu elements of %zu "
			       "bytes", n, size);
	*p = q;
	*cap = n;
	return 0;
}

char *mem_text(const char *s, size_t n, struct err *err)
{
	char *p = n < SIZE_MAX ? malloc(n + 1) : NULL;

	if (!p) {
		err_set(err, ERR_RESOURCE, "not enough memory for %zu bytes",
			n);
		return NULL;
	}
	if (n)
		memcpy(p, s, n);
	p[n] = '\0';
	return p;
}

void *mem_block(const struct mem_part *part, size_t count, struct err *err)
{
	size_t total = 0, bytes;
	char *block;

	for (size_t i = 0; i < count; i++) {
		if (mem_mul(part[i].n, part[i].size, &bytes) ||
		    round_up(bytes, &bytes) || bytes > SIZE_MAX - total) {
			err_set(err, ERR_RESOURCE,
				"not enough memory for %zu elements of %zu "
				"bytes", part[i].n, part[i].size);
			return NULL;
		}
		total += bytes;
	}
	block = zeroed(total, err);
	if (!block)
		return NULL;
	total = 0;
	for (size_t i = 0; i < count; i++) {
		*part[i].p = block + total;
		round_up(part[i].n * part[i].size, &bytes);
		total += bytes;
	}
	return block;
}
