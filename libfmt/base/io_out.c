/* io_out.c - writing and copying files.
 *
 * Data is synced where a file is finished: only close() and fsync() tell of an
 * error that a write met after it returned. */
#include "io.h"

#include "err.h"
#include "mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define COPY_MAX ((size_t)64 << 20) /* bytes a single call is asked to move */

int io_pwrite(int fd, const void *data, uint64_t n, uint64_t off,
	      struct err *err)
{
	const char *p = data;

	while (n) {
		size_t want = n < COPY_MAX ? (size_t)n : COPY_MAX;
		ssize_t r = pwrite(fd, p, want, (off_t)off);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return err_errno(err, ERR_OUTPUT, "cannot write");
		p += r;
		n -= (uint64_t)r;
		off += (uint64_t)r;
	}
	return 0;
}

int io_pread(int fd, void *data, uint64_t n, uint64_t off, struct err *err)
{
	char *p = data;

	while (n) {
		size_t want = n < COPY_MAX ? (size_t)n : COPY_MAX;
		ssize_t r = pread(fd, p, want, (off_t)off);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return err_errno(err, ERR_INPUT, "cannot read");
		if (r == 0)
			return err_set(err, ERR_INPUT, "ends too early");
		p += r;
		n -= (uint64_t)r;
		off += (uint64_t)r;
	}
	return 0;
}

int io_reserve(int fd, const char *where, uint64_t bytes, struct err *err)
{
	int e;

	do
		e = posix_fallocate(fd, 0, (off_t)bytes);
	while (e == EINTR);
	if (e == ENOSPC || e == EDQUOT)
		return err_set(err, ERR_RESOURCE, "not enough disk space: "
			       "%llu bytes are needed, %llu are available",
			       (unsigned long long)bytes,
			       (unsigned long long)io_free_space(where));
	/* not every file system can reserve; the size is set all the same */
	if (e && ftruncate(fd, (off_t)bytes))
		return err_errno(err, ERR_OUTPUT, "cannot set the size to "
				 "%llu bytes", (unsigned long long)bytes);
	return 0;
}

/* O_TMPFILE is not everywhere; a name that is removed at once is. */
static int open_unnamed(const char *dir, struct err *err)
{
	int fd = -1;
	char *path;

#ifdef O_TMPFILE
	fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd >= 0)
		return fd;
#endif
	path = io_join(dir, ".scratch-XXXXXX", err);
	if (!path)
		return -1;
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		err_errno(err, ERR_OUTPUT, "cannot create a file");
	else
		unlink(path);
	free(path);
	return fd;
}

int io_scratch(const char *dir, uint64_t bytes, int *fd, struct err *err)
{
	int ret = -1;

	*fd = open_unnamed(dir, err);
	if (*fd < 0)
		goto out;
	/* before blocks are reserved: some systems find out block by block */
	if (io_free_space(dir) < bytes)
		err_set(err, ERR_RESOURCE, "not enough disk space: %llu bytes "
			"are needed, %llu are available",
			(unsigned long long)bytes,
			(unsigned long long)io_free_space(dir));
	else
		ret = io_reserve(*fd, dir, bytes, err);
out:
	if (ret) {
		if (*fd >= 0)
			close(*fd);
		*fd = -1;
		err_ctx(err, "%s", dir);
	}
	return ret;
}

/* File systems that can share blocks between files (btrfs, XFS) do so where
 * both places lie alike in their blocks, and the copy begins with one. */
#define FS_BLOCK 4096

int io_copy_range(struct src *from, uint64_t from_off, uint64_t n, int fd,
		  uint64_t off, struct err *err)
{
	uint64_t head = (from_off ^ off) % FS_BLOCK ? 0 :
			(FS_BLOCK - off % FS_BLOCK) % FS_BLOCK;
	const void *p;

	head = head < n ? head : n;
	if (io_view(from, from_off, n, &p, err) ||
	    io_pwrite(fd, p, head, off, err))
		return -1;
	p = (const char *)p + head;
	from_off += head;
	off += head;
	n -= head;
#ifdef __linux__
	off64_t in = (off64_t)from_off, to = (off64_t)off;

	while (n) {
		size_t want = n < COPY_MAX ? (size_t)n : COPY_MAX;
		ssize_t r = copy_file_range(io_fd(from), &in, fd, &to, want, 0);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0) /* not on this pair of file systems */
			break;
		n -= (uint64_t)r;
	}
	p = (const char *)p + ((uint64_t)in - from_off);
	off = (uint64_t)to;
#endif
	/* what is left goes by hand: also where the error was a real one, so
	 * that it is met again and named */
	return io_pwrite(fd, p, n, off, err);
}

/* fsync, then close; both may be the first to tell of a failed write. */
static int finish(int fd, struct err *err)
{
	if (fsync(fd)) {
		err_errno(err, ERR_OUTPUT, "cannot sync");
		close(fd);
		return -1;
	}
	if (close(fd))
		return err_errno(err, ERR_OUTPUT, "cannot close");
	return 0;
}

int io_write_file(const char *path, const void *data, size_t len,
		  struct err *err)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

	if (fd < 0) {
		err_errno(err, ERR_OUTPUT, "cannot create");
		return err_ctx(err, "%s", path);
	}
	if (io_pwrite(fd, data, len, 0, err)) {
		close(fd);
		return err_ctx(err, "%s", path);
	}
	return finish(fd, err) ? err_ctx(err, "%s", path) : 0;
}

/* Opened without O_TRUNC first: a copy onto itself must not empty the file. */
static int open_copy(const char *to, const struct src *from, int *fd,
		     struct err *err)
{
	struct stat a, b;

	*fd = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	if (*fd < 0)
		return err_errno(err, ERR_OUTPUT, "cannot create");
	if (fstat(io_fd(from), &a) || fstat(*fd, &b))
		return err_errno(err, ERR_OUTPUT, "cannot stat");
	if (a.st_dev == b.st_dev && a.st_ino == b.st_ino)
		return err_set(err, ERR_OUTPUT,
			       "is the file that is to be copied");
	if (ftruncate(*fd, 0))
		return err_errno(err, ERR_OUTPUT, "cannot truncate");
	return 0;
}

int io_copy_file(const char *from, const char *to, struct err *err)
{
	struct src *s = NULL;
	int fd = -1, ret = -1;

	if (io_open(from, &s, err))
		return -1;
	if (open_copy(to, s, &fd, err) ||
	    io_copy_range(s, 0, io_size(s), fd, 0, err))
		goto out;
	ret = finish(fd, err);
	fd = -1;
out:
	if (fd >= 0)
		close(fd);
	io_close(s);
	return ret ? err_ctx(err, "%s", to) : 0;
}

/* f_bavail: what is left for users other than root, as df shows it. */
uint64_t io_free_space(const char *path)
{
	char *p = strdup(path);
	uint64_t n = UINT64_MAX;
	struct statvfs v;

	while (p) {
		char *slash;

		if (!statvfs(p[0] ? p : ".", &v)) {
			mem_mul64(v.f_bavail, v.f_frsize, &n);
			break;
		}
		if ((errno != ENOENT && errno != ENOTDIR) || !p[0] ||
		    !strcmp(p, "/"))
			break;
		/* "a/b" to "a", "a" to "" (which is "."), "/a" to "/" */
		slash = strrchr(p, '/');
		if (slash == p)
			slash[1] = '\0';
		else if (slash)
			*slash = '\0';
		else
			p[0] = '\0';
	}
	free(p);
	return n;
}
