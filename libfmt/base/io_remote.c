/* io_remote.c - a file on a server that looks like a mapped one.
 *
 * Address space of the file's size is reserved, without memory and without
 * access; a view fetches the pages it lacks and opens them.  What was never
 * fetched cannot be read by mistake: the process would end there. */
#include "io_src.h"

#include "err.h"
#include "mem.h"
#include "net.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE_LIMIT ((uint64_t)1 << 42) /* 4 TiB; no weight file is near it */

static bool has_page(const struct src *s, uint64_t page)
{
	return s->have[page / 8] >> page % 8 & 1;
}

/* The system's pages may be larger than ours: whole ones around the bytes. */
static int unlock(const struct src *s, uint64_t off, uint64_t n,
		  struct err *err)
{
	uint64_t big = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t from = off / big * big;

	if (mprotect((char *)s->map + from, (size_t)(off + n - from),
		     PROT_READ | PROT_WRITE))
		return err_errno(err, ERR_RESOURCE, "no memory for %llu bytes",
				 (unsigned long long)n);
	return 0;
}

static void mark(struct src *s, uint64_t off, uint64_t n)
{
	for (uint64_t p = off / IO_PAGE; p * IO_PAGE < off + n; p++)
		s->have[p / 8] |= (uint8_t)(1u << p % 8);
}

int io_remote_new(struct io_server *server, const char *path, const char *url,
		  uint64_t size, const void *first, uint64_t n,
		  struct src **out, struct err *err)
{
	struct src *s = mem_alloc(1, sizeof(*s), err);
	int ret = -1;

	*out = NULL;
	if (!s)
		return -1;
	s->fd = -1;
	s->server = server;
	s->path = mem_text(path, strlen(path), err);
	s->url = mem_text(url, strlen(url), err);
	if (!s->path || !s->url)
		goto out;
	if (size > SIZE_LIMIT) {
		err_set(err, ERR_INPUT, "%s: the server says %llu bytes, which "
			"cannot be", path, (unsigned long long)size);
		goto out;
	}
	s->size = size;
	s->have = mem_alloc((size_t)(size / IO_PAGE / 8 + 1), 1, err);
	if (!s->have)
		goto out;
	if (size) {
		s->map = mmap(NULL, (size_t)size, PROT_NONE, MAP_PRIVATE |
			      MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (s->map == MAP_FAILED) {
			s->map = NULL;
			err_errno(err, ERR_RESOURCE, "%s: no address space "
				  "for %llu bytes", path,
				  (unsigned long long)size);
			goto out;
		}
		if (n && unlock(s, 0, n, err))
			goto out;
		memcpy(s->map, first, (size_t)n);
		/* of a page that is not complete nothing is kept */
		mark(s, 0, n == size ? n : n / IO_PAGE * IO_PAGE);
	}
	*out = s;
	ret = 0;
out:
	if (ret)
		io_close(s);
	return ret;
}

/* The run of pages from the first to the last that a view lacks; 0: none. */
static uint64_t missing(const struct io_want *w, uint64_t *from)
{
	const struct src *s = w->src;
	uint64_t a = w->off / IO_PAGE, b, end;

	if (!w->len)
		return 0;
	b = (w->off + w->len - 1) / IO_PAGE;
	while (a <= b && has_page(s, a))
		a++;
	if (a > b)
		return 0;
	while (has_page(s, b))
		b--;
	end = (b + 1) * IO_PAGE;
	*from = a * IO_PAGE;
	return (end < s->size ? end : s->size) - *from;
}

/* Of a local file the system may begin to read. */
static void expect(const struct io_want *w)
{
	uint64_t big = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t from = w->off / big * big;

	if (w->len && w->off + w->len <= w->src->size)
		madvise((char *)w->src->map + from,
			(size_t)(w->off + w->len - from), MADV_WILLNEED);
}

/* Make requests of the views that lack something. */
static int plan(const struct io_want *want, uint32_t n, struct net_get *get,
		struct src **of, uint32_t *count, struct err *err)
{
	*count = 0;
	for (uint32_t i = 0; i < n; i++) {
		struct src *s = want[i].src;
		struct net_get *g = &get[*count];
		uint64_t bytes;

		if (!s->server) {
			expect(&want[i]);
			continue;
		}
		bytes = missing(&want[i], &g->from);
		if (!bytes)
			continue;
		if (bytes > s->server->left)
			return err_set(err, ERR_UNSUP, "%s: %llu bytes and "
				       "more would have to be fetched, and at "
				       "most %u MiB are; fetch the file and "
				       "inspect it", s->path,
				       (unsigned long long)bytes,
				       IO_REMOTE_MIB);
		s->server->left -= bytes;
		if (unlock(s, g->from, bytes, err))
			return err_ctx(err, "%s", s->path);
		g->count = bytes;
		g->url = s->url;
		g->name = s->path;
		g->into = (char *)s->map + g->from;
		of[(*count)++] = s;
	}
	return 0;
}

int io_fetch(const struct io_want *want, uint32_t n, struct err *err)
{
	struct net_get *get = mem_alloc(n, sizeof(*get), err);
	struct src **of = mem_alloc(n, sizeof(struct src *), err);
	uint32_t count;
	int ret = -1;

	if (!get || !of || plan(want, n, get, of, &count, err))
		goto out;
	if (count && net_get(of[0]->server->net, get, count, err))
		goto out;
	for (uint32_t i = 0; i < count; i++) {
		if (get[i].got != get[i].count || get[i].total != of[i]->size) {
			err_set(err, ERR_INPUT, "%s: has changed while it was "
				"read", of[i]->path);
			goto out;
		}
		mark(of[i], get[i].from, get[i].got);
	}
	ret = 0;
out:
	free(get);
	free(of);
	return ret;
}
