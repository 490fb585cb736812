/* host.h - "device" memory where the device is this machine: plain memory.
 * Shared by the tables be_cpu and be_ref. */
#ifndef KERNELS_CPU_HOST_H
#define KERNELS_CPU_HOST_H

#include "../backend.h"

int cpu_host_avail(struct be *be, uint64_t *bytes, struct err *err);
int cpu_host_alloc(struct be *be, size_t bytes, void **p, struct err *err);
void cpu_host_free(struct be *be, void *p);
int cpu_host_put(struct be *be, void *dst, const void *src, size_t bytes,
		 struct err *err);
int cpu_host_get(struct be *be, void *dst, const void *src, size_t bytes,
		 struct err *err);

#endif
