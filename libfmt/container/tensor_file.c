#include "tensor_file.h"

#include "../base/err.h"
#include "../base/io.h"
#include "../base/mem.h"
#include "gguf.h"
#include "st.h"
#include "torch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define HEAD 512 /* bytes that sniffers are shown, fewer in a short file */

struct head {
	const char *p;
	size_t n;
	uint64_t file_size;
};

struct kind {
	const char *name;
	int (*sniff)(const struct head *h);
	int (*open)(struct src *s, const struct head *h, unsigned flags,
		    struct tensor_file *out, struct err *err);
};

/* ---- sniffers ---- */

static int begins(const struct head *h, const char *magic, size_t n)
{
	return h->n >= n && !memcmp(h->p, magic, n);
}

static int is_empty(const struct head *h)
{
	return h->file_size == 0;
}

static int is_gguf(const struct head *h)
{
	return begins(h, "GGUF", 4);
}

static int is_zip(const struct head *h)
{
	return begins(h, "PK\3\4", 4);
}

/* What torch wrote before 0.4. */
static int is_tar(const struct head *h)
{
	return h->n > 262 && !memcmp(h->p + 257, "ustar", 5);
}

/* Legacy torch files and bare pickles (protocol 2 and later). */
static int is_pickle(const struct head *h)
{
	return h->n > 2 && h->p[0] == '\x80' && h->p[1] >= 2 && h->p[1] <= 5;
}

static int is_lfs(const struct head *h)
{
	return begins(h, "version https://git-lfs", 23);
}

static int is_page(const struct head *h)
{
	static const char *const text[] = { "<html", "<!doctype", "<?xml",
		"entry not found", "access to model", "repository not found" };
	size_t at = begins(h, "\xef\xbb\xbf", 3) ? 3 : 0;

	while (at < h->n && strchr(" \t\r\n", h->p[at]) && h->p[at])
		at++;
	for (size_t i = 0; i < sizeof(text) / sizeof(*text); i++) {
		size_t n = strlen(text[i]);

		if (h->n - at >= n && !strncasecmp(h->p + at, text[i], n))
			return 1;
	}
	return 0;
}

static int is_safetensors(const struct head *h)
{
	return st_sniff(h->p, h->n, h->file_size);
}

static int is_anything(const struct head *h)
{
	(void)h;
	return 1;
}

/* ---- openers ---- */

static void close_safetensors(void *own)
{
	st_close(own);
	free(own);
}

static int open_safetensors(struct src *s, const struct head *h,
			    unsigned flags, struct tensor_file *out,
			    struct err *err)
{
	struct st_file *st = mem_alloc(1, sizeof(*st), err);

	(void)h;
	if (!st)
		return -1;
	out->own = st;
	out->close = close_safetensors;
	if (st_open(s, flags, st, err))
		return -1;
	out->tensor = st->tensor;
	out->count = st->count;
	out->odd = st->odd;
	out->meta = st->meta;
	return 0;
}

static void close_torch(void *own)
{
	torch_close(own);
	free(own);
}

static int open_torch(struct src *s, int zip, unsigned flags,
		      struct tensor_file *out, struct err *err)
{
	struct torch_file *f;
	const void *all;
	int ret;

	/* its parts are all over the file: of one on a server all is fetched,
	 * or the refusal names the file */
	if (io_view(s, 0, io_size(s), &all, err))
		return -1;
	f = mem_alloc(1, sizeof(*f), err);
	if (!f)
		return -1;
	out->own = f;
	out->close = close_torch;
	/* each storage has a few bytes in front of it that count */
	io_scattered(s, true);
	ret = zip ? torch_zip_open(s, f, err) :
		    torch_legacy_open(s, flags, f, err);
	io_scattered(s, false);
	io_forget(s, 0, io_size(s));
	if (ret)
		return err_ctx(err, "%s", io_path(s));
	out->tensor = f->tensor;
	out->count = f->count;
	out->odd = f->odd;
	return 0;
}

static int open_torch_zip(struct src *s, const struct head *h, unsigned flags,
			  struct tensor_file *out, struct err *err)
{
	(void)h;
	return open_torch(s, 1, flags, out, err);
}

static int open_torch_legacy(struct src *s, const struct head *h,
			     unsigned flags, struct tensor_file *out,
			     struct err *err)
{
	(void)h;
	return open_torch(s, 0, flags, out, err);
}

static void close_gguf(void *own)
{
	gguf_close(own);
	free(own);
}

static int open_gguf(struct src *s, const struct head *h, unsigned flags,
		     struct tensor_file *out, struct err *err)
{
	struct gguf_file *f = mem_alloc(1, sizeof(*f), err);

	(void)h;
	if (!f)
		return -1;
	out->own = f;
	out->close = close_gguf;
	if (gguf_open(s, flags, f, err))
		return err_ctx(err, "%s", io_path(s));
	out->tensor = f->tensor;
	out->count = f->count;
	out->odd = f->odd;
	out->gguf = f;
	return 0;
}

static int refuse(struct src *s, int code, const char *why, struct err *err)
{
	return err_set(err, code, "%s: %s", io_path(s), why);
}

static int refuse_empty(struct src *s, const struct head *h, unsigned flags,
			struct tensor_file *out, struct err *err)
{
	(void)h, (void)flags, (void)out;
	return refuse(s, ERR_INPUT, "the file is empty", err);
}

static int refuse_tar(struct src *s, const struct head *h, unsigned flags,
		      struct tensor_file *out, struct err *err)
{
	(void)h, (void)flags, (void)out;
	return refuse(s, ERR_UNSUP, "a tar archive, as PyTorch wrote before "
		      "0.4, is not read", err);
}

/* The pointer's third line has the size of what it stands for. */
static uint64_t pointer_bytes(const struct head *h)
{
	unsigned long long bytes;
	char text[HEAD + 1];
	const char *size;

	memcpy(text, h->p, h->n);
	text[h->n] = '\0';
	size = strstr(text, "\nsize ");
	return size && sscanf(size, "\nsize %19llu", &bytes) == 1 ? bytes : 0;
}

static int refuse_lfs(struct src *s, const struct head *h, unsigned flags,
		      struct tensor_file *out, struct err *err)
{
	uint64_t bytes = pointer_bytes(h);

	(void)flags, (void)out;
	if (!bytes)
		return refuse(s, ERR_INPUT, "a Git-LFS pointer, not the file "
			      "itself (git lfs pull fetches it)", err);
	return err_set(err, ERR_INPUT, "%s: a Git-LFS pointer, not the file "
		       "itself, which has %llu bytes (git lfs pull fetches "
		       "it)", io_path(s), (unsigned long long)bytes);
}

static int refuse_page(struct src *s, const struct head *h, unsigned flags,
		       struct tensor_file *out, struct err *err)
{
	(void)h, (void)flags, (void)out;
	return refuse(s, ERR_INPUT, "a web page, not a weight file: the "
		      "download has failed", err);
}

/* In the order in which they are asked: safetensors before pickles, whose two
 * bytes may be those of a header's length.  What nobody knows is opened as
 * safetensors, whose reader says what is wrong with it. */
static const struct kind kinds[] = {
	{ "empty", is_empty, refuse_empty },
	{ "safetensors", is_safetensors, open_safetensors },
	{ "gguf", is_gguf, open_gguf },
	{ "torch zip", is_zip, open_torch_zip },
	{ "tar", is_tar, refuse_tar },
	{ "torch legacy", is_pickle, open_torch_legacy },
	{ "lfs", is_lfs, refuse_lfs },
	{ "html", is_page, refuse_page },
	{ "safetensors", is_anything, open_safetensors },
};

static int read_head(struct src *s, struct head *h, struct err *err)
{
	const void *p;

	h->file_size = io_size(s);
	h->n = h->file_size < HEAD ? (size_t)h->file_size : HEAD;
	if (io_view(s, 0, h->n, &p, err))
		return -1;
	h->p = p;
	return 0;
}

int tensor_file_open(struct src *s, unsigned flags, struct tensor_file *out,
		     struct err *err)
{
	const struct kind *k = kinds;
	struct head h;

	memset(out, 0, sizeof(*out));
	if (read_head(s, &h, err))
		return -1;
	while (!k->sniff(&h))
		k++;
	if (k->open(s, &h, flags, out, err)) {
		tensor_file_close(out);
		return -1;
	}
	out->container = k->name;
	return 0;
}

bool tensor_file_pointer(struct src *s, uint64_t *bytes)
{
	struct err ignored;
	struct head h;

	if (read_head(s, &h, &ignored) || !is_lfs(&h))
		return false;
	*bytes = pointer_bytes(&h);
	return true;
}

int tensor_file_reach(struct src *s, uint64_t *bytes, struct err *err)
{
	uint64_t size = io_size(s), n = size < HEAD ? size : HEAD;
	const void *p;

	if (io_view(s, 0, n, &p, err))
		return -1;
	*bytes = st_sniff(p, (size_t)n, size) ? st_reach(p) :
		 n >= 4 && !memcmp(p, "GGUF", 4) ? GGUF_REACH : 0;
	if (*bytes > size)
		*bytes = size;
	return 0;
}

void tensor_file_close(struct tensor_file *f)
{
	if (f->close)
		f->close(f->own);
	memset(f, 0, sizeof(*f));
}
