/* io.c - reading: mapped files, whole texts, directories.
 *
 * Model files are mapped: a reader touches only the pages it wants, and several
 * processes share them.  A file that another program cuts while it is mapped
 * ends this one (SIGBUS); nothing short of copying it could prevent that.
 * Texts are small and may be compressed, so they are read. */
#include "io_src.h"

#include "err.h"
#include "mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define CHUNK ((size_t)256 * 1024) /* bytes read at a time */

/* ---- mapped files ---- */

/* The kind and size of s->fd, and its bytes. */
static int map_fd(struct src *s, struct err *err)
{
	struct stat sb;

	if (fstat(s->fd, &sb))
		return err_errno(err, ERR_INPUT, "cannot stat");
	if (S_ISDIR(sb.st_mode))
		return err_set(err, ERR_INPUT, "is a directory, not a file");
	if (!S_ISREG(sb.st_mode))
		return err_set(err, ERR_INPUT, "is not a regular file");
	s->size = (uint64_t)sb.st_size;
	if (s->size > SIZE_MAX)
		return err_set(err, ERR_RESOURCE,
			       "file is larger than the address space");
	if (!s->size)
		return 0;
	s->map = mmap(NULL, (size_t)s->size, PROT_READ, MAP_PRIVATE, s->fd, 0);
	if (s->map == MAP_FAILED) {
		s->map = NULL;
		return err_errno(err, ERR_RESOURCE, "cannot map the file");
	}
	return 0;
}

int io_open(const char *path, struct src **out, struct err *err)
{
	struct src *s = NULL;
	int ret = -1;

	*out = NULL;
	s = mem_alloc(1, sizeof(*s), err);
	if (!s)
		goto out;
	/* O_NONBLOCK: a fifo is refused below instead of waited for */
	s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (s->fd < 0) {
		err_errno(err, ERR_INPUT, "cannot open");
		goto out;
	}
	s->path = mem_text(path, strlen(path), err);
	if (!s->path || map_fd(s, err))
		goto out;
	*out = s;
	ret = 0;
out:
	if (ret && s) {
		if (s->fd >= 0)
			close(s->fd);
		free(s->path);
		free(s);
	}
	return ret ? err_ctx(err, "%s", path) : 0;
}

void io_close(struct src *s)
{
	if (!s)
		return;
	if (s->map)
		munmap(s->map, (size_t)s->size);
	if (s->fd >= 0)
		close(s->fd);
	free(s->path);
	free(s->url);
	free(s->have);
	free(s);
}

uint64_t io_size(const struct src *s)
{
	return s->size;
}

const char *io_path(const struct src *s)
{
	return s->path;
}

int io_fd(const struct src *s)
{
	return s->fd;
}

bool io_is_local(const struct src *s)
{
	return !s->server;
}

int io_view(struct src *s, uint64_t off, uint64_t len, const void **out,
	    struct err *err)
{
	if (off > s->size || len > s->size - off)
		return err_set(err, ERR_INPUT,
			       "%s: %llu bytes at offset %llu are wanted, but "
			       "the file ends at %llu", s->path,
			       (unsigned long long)len,
			       (unsigned long long)off,
			       (unsigned long long)s->size);
	if (s->server &&
	    io_fetch(&(struct io_want) { s, off, len }, 1, err))
		return -1;
	/* an empty file has no map; its only view is empty */
	*out = s->map ? (const char *)s->map + off : "";
	return 0;
}

int io_peek(struct src *s, uint64_t off, uint64_t len, void *to,
	    struct err *err)
{
	const void *at;
	uint64_t n = 0;

	if (s->server || off > s->size || len > s->size - off) {
		if (io_view(s, off, len, &at, err))
			return -1;
		memcpy(to, at, (size_t)len);
		return 0;
	}
	while (n < len) {
		ssize_t r = pread(s->fd, (char *)to + n, (size_t)(len - n),
				  (off_t)(off + n));

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return err_errno(err, ERR_INPUT, "%s: cannot read",
					 s->path);
		if (r == 0)
			return err_set(err, ERR_INPUT, "%s: it has become "
				       "shorter", s->path);
		n += (uint64_t)r;
	}
	return 0;
}

void io_forget(struct src *s, uint64_t off, uint64_t len)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t begin = ((size_t)off + page - 1) / page * page;
	size_t end = (size_t)(off + len) / page * page;

	/* a mapped file's pages come back from the file when they are read */
	if (s->map && s->fd >= 0 && off <= s->size && len <= s->size - off &&
	    begin < end)
		madvise((char *)s->map + begin, end - begin, MADV_DONTNEED);
}

void io_scattered(struct src *s, bool on)
{
	if (s->map && !s->server)
		madvise(s->map, (size_t)s->size, on ? MADV_RANDOM :
						      MADV_NORMAL);
}

/* ---- whole files ---- */

/* What a file decompresses to, growing; never past limit. */
struct sink {
	char *data;
	size_t len, cap;
	uint64_t limit;
};

/* A file on its way through a decoder. */
struct stream {
	int fd;
	unsigned char *raw; /* CHUNK bytes from the file */
	size_t n;           /* of them filled */
	struct sink to;
};

/* Fill raw up to CHUNK, so that only the last call of a file gives less. */
static int refill(struct stream *s, struct err *err)
{
	s->n = 0;
	while (s->n < CHUNK) {
		ssize_t r = read(s->fd, s->raw + s->n, CHUNK - s->n);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return err_errno(err, ERR_INPUT, "cannot read");
		if (r == 0)
			break;
		s->n += (size_t)r;
	}
	return 0;
}

/* Make room for CHUNK more bytes and the NUL.  The limit is checked with
 * sink_took, when it is known how many came. */
static int sink_room(struct sink *k, struct err *err)
{
	void *p = k->data;
	int ret = mem_grow(&p, &k->cap, k->len + CHUNK + 1, 1, err);

	k->data = p;
	return ret;
}

static int sink_took(struct sink *k, size_t n, struct err *err)
{
	k->len += n;
	if (k->len > k->limit)
		return err_set(err, ERR_INPUT,
			       "larger than the limit of %llu bytes",
			       (unsigned long long)k->limit);
	return 0;
}

static int read_plain(struct stream *s, struct err *err)
{
	while (s->n) {
		if (sink_room(&s->to, err))
			return -1;
		memcpy(s->to.data + s->to.len, s->raw, s->n);
		if (sink_took(&s->to, s->n, err) || refill(s, err))
			return -1;
	}
	return sink_room(&s->to, err);
}

/* One chunk of raw bytes through inflate.  *open: inside a member. */
static int gzip_chunk(struct stream *s, z_stream *z, int *open,
		      struct err *err)
{
	z->next_in = s->raw;
	z->avail_in = (uInt)s->n;
	do {
		int r;

		if (sink_room(&s->to, err))
			return -1;
		if (!*open && z->avail_in) { /* one member behind another */
			inflateReset(z);
			*open = 1;
		}
		z->next_out = (unsigned char *)s->to.data + s->to.len;
		z->avail_out = (uInt)CHUNK;
		r = inflate(z, Z_NO_FLUSH);
		if (r != Z_OK && r != Z_STREAM_END && r != Z_BUF_ERROR)
			return err_set(err, ERR_INPUT,
				       "damaged gzip stream: %s",
				       z->msg ? z->msg : "not gzip data");
		if (r == Z_STREAM_END)
			*open = 0;
		if (sink_took(&s->to, CHUNK - z->avail_out, err))
			return -1;
	} while (z->avail_in || (*open && !z->avail_out));
	return 0;
}

/* RFC 1952: members follow one another, and the file means all of them.  The
 * end of the last one must be there, with its checksum. */
static int read_gzip(struct stream *s, struct err *err)
{
	z_stream z;
	int open = 1, ret = -1;

	memset(&z, 0, sizeof(z));
	if (inflateInit2(&z, 15 + 16) != Z_OK) /* 16: gzip framing */
		return err_set(err, ERR_RESOURCE, "not enough memory for gzip");
	while (s->n)
		if (gzip_chunk(s, &z, &open, err) || refill(s, err))
			goto out;
	if (open) {
		err_set(err, ERR_INPUT, "truncated gzip stream");
		goto out;
	}
	ret = 0;
out:
	inflateEnd(&z);
	return ret;
}

/* RFC 8878: frames follow one another; the decoder begins the next one by
 * itself and says with 0 that it stands between two. */
static int read_zstd(struct stream *s, struct err *err)
{
	ZSTD_DStream *z = ZSTD_createDStream();
	size_t left = 1; /* 0 between frames */
	int ret = -1;

	if (!z)
		return err_set(err, ERR_RESOURCE, "not enough memory for zstd");
	while (s->n) {
		ZSTD_inBuffer in = { s->raw, s->n, 0 };
		ZSTD_outBuffer o;

		do {
			if (sink_room(&s->to, err))
				goto out;
			o = (ZSTD_outBuffer){ s->to.data + s->to.len,
					      CHUNK, 0 };
			left = ZSTD_decompressStream(z, &o, &in);
			if (ZSTD_isError(left)) {
				err_set(err, ERR_INPUT,
					"damaged zstd stream: %s",
					ZSTD_getErrorName(left));
				goto out;
			}
			if (sink_took(&s->to, o.pos, err))
				goto out;
			/* a full output may leave more inside the decoder */
		} while (in.pos < in.size || (left && o.pos == o.size));
		if (refill(s, err))
			goto out;
	}
	if (left) {
		err_set(err, ERR_INPUT, "truncated zstd stream");
		goto out;
	}
	ret = 0;
out:
	ZSTD_freeDStream(z);
	return ret;
}

static int is_zstd(const unsigned char *p, size_t n)
{
	/* a frame, or a skippable frame in front of one (RFC 8878, 3.1) */
	return n >= 4 && ((p[0] == 0x28 && p[1] == 0xb5 && p[2] == 0x2f &&
			   p[3] == 0xfd) ||
			  ((p[0] & 0xf0) == 0x50 && p[1] == 0x2a &&
			   p[2] == 0x4d && p[3] == 0x18));
}

/* By the first bytes, never by the name. */
static int read_stream(struct stream *s, struct err *err)
{
	int ret;

	if (refill(s, err))
		return -1;
	if (s->n >= 2 && s->raw[0] == 0x1f && s->raw[1] == 0x8b)
		ret = read_gzip(s, err);
	else if (is_zstd(s->raw, s->n))
		ret = read_zstd(s, err);
	else
		ret = read_plain(s, err);
	if (ret == 0)
		s->to.data[s->to.len] = '\0';
	return ret;
}

int io_read_file(const char *path, uint64_t limit, char **data, size_t *len,
		 struct err *err)
{
	struct stream s = { .fd = -1, .to = { .limit = limit } };
	int std = !strcmp(path, "-"), ret = -1;
	struct stat sb;

	*data = NULL;
	*len = 0;
	s.raw = mem_alloc(CHUNK, 1, err);
	if (!s.raw)
		goto out;
	s.fd = std ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (s.fd < 0) {
		err_errno(err, ERR_INPUT, "cannot open");
		goto out;
	}
	if (!fstat(s.fd, &sb) && S_ISDIR(sb.st_mode)) {
		err_set(err, ERR_INPUT, "is a directory, not a file");
		goto out;
	}
	if (read_stream(&s, err))
		goto out;
	*data = s.to.data;
	*len = s.to.len;
	ret = 0;
out:
	if (s.fd >= 0 && !std)
		close(s.fd);
	free(s.raw);
	if (ret)
		free(s.to.data);
	return ret ? err_ctx(err, "%s", std ? "standard input" : path) : 0;
}

/* ---- paths and directories ---- */

int io_is_dir(const char *path)
{
	struct stat sb;

	return !stat(path, &sb) && S_ISDIR(sb.st_mode);
}

int io_is_file(const char *path)
{
	struct stat sb;

	return !stat(path, &sb) && S_ISREG(sb.st_mode);
}

int io_exists(const char *path)
{
	struct stat sb;

	return !stat(path, &sb);
}

char *io_join(const char *dir, const char *name, struct err *err)
{
	size_t n = strlen(dir), m = strlen(name);
	char *p;

	if (n && dir[n - 1] == '/')
		n--; /* "dir/" and "/" do not get a second slash */
	p = mem_alloc(n + m + 2, 1, err);
	if (!p)
		return NULL;
	memcpy(p, dir, n);
	p[n] = '/';
	memcpy(p + n + 1, name, m);
	return p;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names of an open directory, one behind the other with their NULs. */
static int read_names(DIR *d, char **text, size_t *len, uint32_t *count,
		      struct err *err)
{
	size_t cap = 0;
	struct dirent *e;

	for (*len = 0, *count = 0;; (*count)++) {
		size_t n;
		void *p = *text;

		do {
			errno = 0;
			e = readdir(d);
		} while (e && (!strcmp(e->d_name, ".") ||
			       !strcmp(e->d_name, "..")));
		if (!e)
			break;
		n = strlen(e->d_name) + 1;
		if (mem_grow(&p, &cap, *len + n, 1, err))
			return -1;
		*text = p;
		memcpy(*text + *len, e->d_name, n);
		*len += n;
	}
	return errno ? err_errno(err, ERR_INPUT, "cannot list") : 0;
}

int io_list(const char *dir, char ***names, uint32_t *count, struct err *err)
{
	char *text = NULL, *p;
	size_t len = 0;
	DIR *d = NULL;
	int ret = -1;

	*names = NULL;
	*count = 0;
	d = opendir(dir);
	if (!d) {
		err_errno(err, ERR_INPUT, "cannot open directory");
		goto out;
	}
	if (read_names(d, &text, &len, count, err))
		goto out;
	/* pointers first, then the text they point into */
	*names = mem_alloc(*count * sizeof(char *) + len, 1, err);
	if (!*names)
		goto out;
	p = (char *)(*names + *count);
	if (len)
		memcpy(p, text, len);
	for (uint32_t i = 0; i < *count; i++, p += strlen(p) + 1)
		(*names)[i] = p;
	if (*count)
		qsort(*names, *count, sizeof(**names), by_text);
	ret = 0;
out:
	if (d)
		closedir(d);
	free(text);
	if (ret)
		*count = 0;
	return ret ? err_ctx(err, "%s", dir) : 0;
}
