#include "host.h"

#include "../../libfmt/base/err.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ALIGN 64
/* From this size on ask for huge pages: weights are read front to back, and
 * a stream that changes its page every 4 KiB waits for the page tables. */
#define HUGE ((size_t)2 << 20)

/* What the system says could be had without swapping: more than is free, as it
 * gives up its copies of files. */
int cpu_host_avail(struct be *be, uint64_t *bytes, struct err *err)
{
	char line[128];
	uint64_t kib;
	FILE *f = fopen("/proc/meminfo", "r");

	(void)be;
	(void)err;
	*bytes = UINT64_MAX;
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
			*bytes = kib << 10;
	if (f)
		fclose(f);
	return 0;
}

int cpu_host_alloc(struct be *be, size_t bytes, void **p, struct err *err)
{
	size_t align = bytes >= HUGE ? HUGE : ALIGN, size;

	(void)be;
	*p = NULL;
	if (bytes <= SIZE_MAX - HUGE) {
		size = (bytes + align - 1) & ~(align - 1);
		*p = aligned_alloc(align, size ? size : align);
	}
	if (!*p)
		return err_set(err, ERR_RESOURCE,
			       "not enough memory for %zu bytes", bytes);
#ifdef MADV_HUGEPAGE
	if (bytes >= HUGE)
		(void)madvise(*p, bytes & ~(HUGE - 1), MADV_HUGEPAGE);
#endif
	return 0;
}

void cpu_host_free(struct be *be, void *p)
{
	(void)be;
	free(p);
}

int cpu_host_put(struct be *be, void *dst, const void *src, size_t bytes,
		 struct err *err)
{
	(void)be;
	(void)err;
	if (bytes)
		memmove(dst, src, bytes);
	return 0;
}

int cpu_host_get(struct be *be, void *dst, const void *src, size_t bytes,
		 struct err *err)
{
	return cpu_host_put(be, dst, src, bytes, err);
}
