/* pickle.h - PyTorch files opened for a test, and made by hand. */
#ifndef TESTS_UNIT_PICKLE_H
#define TESTS_UNIT_PICKLE_H

#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/container/st.h"
#include "../../libfmt/container/tensor_file.h"
#include "has.h"
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

struct opened {
	struct src *src;
	struct tensor_file f;
};

static inline int try_open(const char *path, unsigned flags, struct opened *o,
		    struct err *err)
{
	if (io_open(path, &o->src, err))
		fail_msg("%s", err->msg);
	if (!tensor_file_open(o->src, flags, &o->f, err))
		return 0;
	assert_null(o->f.tensor);
	assert_null(o->f.own);
	HAS(*err, path);
	io_close(o->src);
	return -1;
}

static inline void open_ok(const char *path, struct opened *o)
{
	struct err err;

	if (try_open(path, 0, o, &err))
		fail_msg("%s", err.msg);
}

static inline void close_both(struct opened *o)
{
	tensor_file_close(&o->f);
	io_close(o->src);
}

static inline const struct tensor *find(const struct tensor_file *f,
					const char *name)
{
	for (uint32_t i = 0; i < f->count; i++)
		if (!strcmp(f->tensor[i].name, name))
			return &f->tensor[i];
	return NULL;
}

/* ---- files put together here ---- */

struct buffer {
	unsigned char p[2 << 20];
	size_t n;
};

static inline void put(struct buffer *b, const void *p, size_t n)
{
	assert_true(n <= sizeof(b->p) - b->n);
	memcpy(b->p + b->n, p, n);
	b->n += n;
}

#define PUT(b, text) put(b, text, sizeof(text) - 1)

/* The legacy container: `object` and then one storage "0" of F32 0, 1, 2... */
static inline const char *legacy(struct scratch *s, const void *object,
				 size_t len, size_t numel)
{
	static struct buffer b;
	unsigned char word[8];
	float f;

	b.n = 0;
	PUT(&b, "\x80\2\x8a\n\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.");
	PUT(&b, "\x80\2M\xe9\3.");
	PUT(&b, "\x80\2}(U\rlittle_endian\x88u.");
	PUT(&b, "\x80\2");
	put(&b, object, len);
	PUT(&b, ".\x80\2](U\0010e.");
	half_put64(word, numel);
	put(&b, word, 8);
	for (size_t i = 0; i < numel; i++) {
		f = (float)i;
		put(&b, &f, sizeof(f));
	}
	return scratch_write(s, "a.pt", b.p, b.n);
}

/* torch._utils._rebuild_tensor_v2(storage "0" of 12 F32, ...) up to the
 * offset; SHAPE follows: offset, size, stride; then the end of it. */
#define TENSOR(shape)                                                   \
	"ctorch._utils\n_rebuild_tensor_v2\n("                          \
	"(U\7storagectorch\nFloatStorage\nU\0010U\3cpuK\014NtQ" shape    \
	"\x89}tR"

/* The first two elements. */
#define ONE TENSOR("K\0K\2\x85K\1\x85")

#endif
