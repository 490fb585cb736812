/* fuzz_file.h - for harnesses of readers that take a file. */
#ifndef TESTS_FUZZ_FUZZ_FILE_H
#define TESTS_FUZZ_FUZZ_FILE_H

#include "../../libfmt/base/err.h"
#include "../../libfmt/base/io.h"
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* A property that must hold. */
static inline void require(int truth)
{
	if (!truth)
		abort();
}

/* The bytes as a file, in memory. */
static inline struct src *open_bytes(const uint8_t *data, size_t n)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	struct src *s;
	struct err err;
	char path[64];

	require(fd >= 0);
	require(!io_pwrite(fd, data, n, 0, &err));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	require(!io_open(path, &s, &err));
	close(fd);
	return s;
}

#endif
