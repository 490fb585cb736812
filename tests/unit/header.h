/* header.h - safetensors files made of the text of their header, and opening
 * them. */
#ifndef TESTS_UNIT_HEADER_H
#define TESTS_UNIT_HEADER_H

#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/container/st.h"
#include "has.h"
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* Open path; the result of st_open.  On success the caller closes both. */
static inline int open_path(const char *path, unsigned flags, struct src **s,
			    struct st_file *f, struct err *err)
{
	if (io_open(path, s, err))
		fail_msg("%s", err->msg);
	if (!st_open(*s, flags, f, err))
		return 0;
	assert_null(f->tensor);
	assert_null(f->mem);
	assert_int_equal(f->count, 0);
	assert_int_equal(err->code, ERR_INPUT);
	HAS(*err, path);
	io_close(*s);
	return -1;
}

/* A file with this header and so many bytes of data, 0, 1, 2, ... */
static inline const char *make(struct scratch *s, const char *header,
			       size_t data)
{
	size_t n = strlen(header), all = 8 + n + data;
	unsigned char *p = malloc(all);
	const char *path;

	assert_non_null(p);
	half_put64(p, n);
	memcpy(p + 8, header, n);
	for (size_t i = 0; i < data; i++)
		p[8 + n + i] = (unsigned char)i;
	path = scratch_write(s, "m.safetensors", p, all);
	free(p);
	assert_non_null(path);
	return path;
}

static inline void refused(struct scratch *s, const char *header, size_t data,
			   const char *why)
{
	struct src *src;
	struct st_file f;
	struct err err;

	if (!open_path(make(s, header, data), 0, &src, &f, &err))
		fail_msg("accepted: %s", header);
	HAS(err, why);
}

#endif
