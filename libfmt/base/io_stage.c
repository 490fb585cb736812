/* io_stage.c - output that appears at once or not at all.
 *
 *	open     .NAME.tmp-XXXXXX  is made beside NAME
 *	commit   files, sub-directories and the directory are synced, then
 *	         renamed: on one file system that is one step for everyone
 *	close    what was not committed is removed
 *
 * A process that is killed leaves the hidden sibling and no NAME.  Trees are
 * walked by descriptors relative to their directory (openat, unlinkat), so that
 * a link that appears meanwhile leads nowhere. */
#include "io.h"

#include "err.h"
#include "mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TRIES 100     /* temporary names before giving up */
#define DEPTH_MAX 64  /* directories inside directories that are removed */
#define OLD_DEPTH 2   /* levels an output folder has: its files, and those of
			 its sub-directories */

struct io_stage {
	char *final; /* without slashes at the end */
	char *dir;   /* the directory of final */
	char *tmp;
	bool is_dir, force, done;
	bool keep; /* tmp is the caller's to remove */
};

/* ---- trees: below `fd`, never through a symbolic link ---- */

/* Called for each entry; `fd` is its directory, depth 1 for the outermost.
 * Directories are visited after their content. */
struct visit {
	int (*fn)(struct visit *v, int fd, const char *name, bool is_dir);
	int depth_max;
	struct err *err;
};

static int walk(struct visit *v, int fd, int depth);

/* The kind of an entry is asked anew rather than taken from the listing, which
 * does not have it on every file system. */
static int walk_entry(struct visit *v, int fd, const char *name, int depth)
{
	struct stat sb;
	int sub;

	if (fstatat(fd, name, &sb, AT_SYMLINK_NOFOLLOW))
		return err_errno(v->err, ERR_OUTPUT, "%s: cannot stat", name);
	if (!S_ISDIR(sb.st_mode))
		return v->fn(v, fd, name, false);
	sub = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (sub < 0)
		return err_errno(v->err, ERR_OUTPUT, "%s: cannot open", name);
	if (walk(v, sub, depth + 1))
		return err_ctx(v->err, "%s", name);
	return v->fn(v, fd, name, true);
}

/* Takes fd over. */
static int walk(struct visit *v, int fd, int depth)
{
	DIR *d = NULL;
	struct dirent *e;
	int ret = -1;

	if (depth > v->depth_max) {
		close(fd);
		return err_set(v->err, ERR_OUTPUT,
			       "more than %d levels of directories",
			       v->depth_max);
	}
	d = fdopendir(fd);
	if (!d) {
		err_errno(v->err, ERR_OUTPUT, "cannot list");
		close(fd);
		return -1;
	}
	for (errno = 0; (e = readdir(d)); errno = 0)
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") &&
		    walk_entry(v, dirfd(d), e->d_name, depth))
			goto out;
	if (errno) {
		err_errno(v->err, ERR_OUTPUT, "cannot list");
		goto out;
	}
	ret = 0;
out:
	closedir(d);
	return ret;
}

static int walk_path(struct visit *v, const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return err_errno(v->err, ERR_OUTPUT, "cannot open directory");
	return walk(v, fd, 1);
}

static int sync_at(struct visit *v, int dir, const char *name, int flags)
{
	int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | flags);
	int ret = 0;

	if (fd < 0)
		return err_errno(v->err, ERR_OUTPUT, "%s: cannot open", name);
	if (fsync(fd))
		ret = err_errno(v->err, ERR_OUTPUT, "%s: cannot sync", name);
	close(fd);
	return ret;
}

static int sync_one(struct visit *v, int fd, const char *name, bool is_dir)
{
	struct stat sb;

	if (!is_dir && (fstatat(fd, name, &sb, AT_SYMLINK_NOFOLLOW) ||
			!S_ISREG(sb.st_mode)))
		return 0; /* a link or a socket has nothing to sync */
	return sync_at(v, fd, name, is_dir ? O_DIRECTORY : 0);
}

static int remove_one(struct visit *v, int fd, const char *name, bool is_dir)
{
	if (unlinkat(fd, name, is_dir ? AT_REMOVEDIR : 0))
		return err_errno(v->err, ERR_OUTPUT, "%s: cannot remove", name);
	return 0;
}

/* For walks that only measure the depth. */
static int look_at(struct visit *v, int fd, const char *name, bool is_dir)
{
	(void)v;
	(void)fd;
	(void)name;
	(void)is_dir;
	return 0;
}

/* A link is removed itself, whatever it leads to. */
int io_remove_tree(const char *path, struct err *err)
{
	struct visit v = { remove_one, DEPTH_MAX, err };
	struct stat sb;

	if (lstat(path, &sb))
		return err_errno(err, ERR_OUTPUT, "%s: cannot stat", path);
	if (!S_ISDIR(sb.st_mode)) {
		if (unlink(path))
			return err_errno(err, ERR_OUTPUT, "%s: cannot remove",
					 path);
		return 0;
	}
	if (walk_path(&v, path))
		return err_ctx(err, "%s", path);
	if (rmdir(path))
		return err_errno(err, ERR_OUTPUT, "%s: cannot remove", path);
	return 0;
}

static int sync_path(const char *path, int flags, struct err *err)
{
	struct visit v = { look_at, 0, err };

	return sync_at(&v, AT_FDCWD, path, flags);
}

/* ---- names ---- */

/* final without slashes at the end, and the directory it stands in. */
static int split(struct io_stage *st, const char *final, struct err *err)
{
	size_t n = strlen(final);
	const char *base, *slash;

	while (n > 1 && final[n - 1] == '/')
		n--;
	st->final = mem_text(final, n, err);
	if (!st->final)
		return -1;
	slash = strrchr(st->final, '/');
	base = slash ? slash + 1 : st->final;
	if (!*base || !strcmp(base, ".") || !strcmp(base, ".."))
		return err_set(err, ERR_USAGE, "not a name for the output");
	if (!strcmp(st->final, "-")) /* elsewhere it is a stream */
		return err_set(err, ERR_USAGE, "not a name for the output "
			       "(./- is)");
	if (!slash)
		st->dir = mem_text(".", 1, err);
	else /* "/name" stands in "/" */
		st->dir = mem_text(st->final, slash == st->final ? 1 :
				   (size_t)(slash - st->final), err);
	if (!st->dir)
		return -1;
	if (!io_is_dir(st->dir))
		return err_set(err, ERR_OUTPUT, "the directory %s does not "
			       "exist", st->dir);
	return 0;
}

/* Six characters that are unlikely to be taken; whether they are is up to
 * mkdir and O_EXCL. */
static void random_name(char out[7])
{
	static const char set[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	struct timespec t = { 0, 0 };
	uint64_t x;

	clock_gettime(CLOCK_MONOTONIC, &t);
	x = (uint64_t)t.tv_nsec + (uint64_t)t.tv_sec * 1000000000u;
	x ^= (uint64_t)getpid() << 40;
	for (int i = 0; i < 6; i++) {
		/* splitmix64, Steele, Lea and Flood 2014 */
		uint64_t z = x += 0x9e3779b97f4a7c15u;

		z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
		z = (z ^ z >> 27) * 0x94d049bb133111ebu;
		out[i] = set[(z ^ z >> 31) % (sizeof(set) - 1)];
	}
	out[6] = '\0';
}

/* ".NAME.tmp-XXXXXX" beside final; a free name on the heap. */
static char *sibling(const struct io_stage *st, const char *word,
		     struct err *err)
{
	const char *slash = strrchr(st->final, '/');
	const char *base = slash ? slash + 1 : st->final;
	size_t n = strlen(base) + strlen(word) + 16;
	char *name = mem_alloc(n, 1, err), *path = NULL;
	char suffix[7];

	if (!name)
		return NULL;
	random_name(suffix);
	snprintf(name, n, ".%s.%s-%s", base, word, suffix);
	path = io_join(st->dir, name, err);
	free(name);
	return path;
}

static int make_tmp(struct io_stage *st, struct err *err)
{
	for (int i = 0; i < TRIES; i++) {
		int r, e;

		st->tmp = sibling(st, "tmp", err);
		if (!st->tmp)
			return -1;
		if (st->is_dir)
			r = mkdir(st->tmp, 0777);
		else
			r = open(st->tmp, O_WRONLY | O_CREAT | O_EXCL |
				 O_CLOEXEC, 0666);
		if (r >= 0) {
			if (!st->is_dir)
				close(r);
			return 0;
		}
		e = errno;
		free(st->tmp);
		st->tmp = NULL;
		errno = e;
		if (e != EEXIST)
			break;
	}
	return err_errno(err, ERR_OUTPUT, "cannot create a temporary %s in %s",
			 st->is_dir ? "directory" : "file", st->dir);
}

/* ---- what --force may replace ---- */

/* 1 when path is the working directory or one of those above it. */
static int holds_cwd(const char *path)
{
	char *full = realpath(path, NULL), *cwd = realpath(".", NULL);
	size_t n = full ? strlen(full) : 0;
	int r = full && cwd && !strncmp(full, cwd, n) &&
		(cwd[n] == '/' || cwd[n] == '\0' || n == 1);

	free(full);
	free(cwd);
	return r;
}

/* A mistyped name must not cost a home directory: only what looks like an
 * output folder (no directories inside its directories) is replaced. */
static int check_old(const struct io_stage *st, struct err *err)
{
	struct visit v = { look_at, OLD_DEPTH, err };
	struct stat sb;

	if (lstat(st->final, &sb))
		return errno == ENOENT ? 0 :
		       err_errno(err, ERR_OUTPUT, "cannot stat");
	if (!st->force)
		return err_set(err, ERR_USAGE,
			       "exists; use --force to replace it");
	if (st->is_dir && !io_is_dir(st->final))
		return err_set(err, ERR_USAGE, "exists and is not a directory");
	if (!st->is_dir && !io_is_file(st->final))
		return err_set(err, ERR_USAGE,
			       "exists and is not a regular file");
	if (!S_ISDIR(sb.st_mode))
		return 0; /* a file, or a link, which alone is replaced */
	if (holds_cwd(st->final))
		return err_set(err, ERR_USAGE, "the working directory is in "
			       "it; --force does not replace it");
	if (walk_path(&v, st->final)) {
		err->code = ERR_USAGE;
		return err_ctx(err, "not an output folder, so --force does "
			       "not replace it");
	}
	return 0;
}

/* ---- the stage ---- */

int io_stage_open(const char *final, bool is_dir, bool force,
		  struct io_stage **out, struct err *err)
{
	struct io_stage *st;
	int ret = -1;

	*out = NULL;
	st = mem_alloc(1, sizeof(*st), err);
	if (!st)
		goto out;
	st->is_dir = is_dir;
	st->force = force;
	if (split(st, final, err) || check_old(st, err) || make_tmp(st, err))
		goto out;
	*out = st;
	ret = 0;
out:
	if (ret)
		io_stage_close(st);
	return ret ? err_ctx(err, "%s", final) : 0;
}

int io_stage_check(const char *final, bool is_dir, bool force, struct err *err)
{
	struct io_stage *st = mem_alloc(1, sizeof(*st), err);
	int ret = -1;

	if (!st)
		goto out;
	st->is_dir = is_dir;
	st->force = force;
	if (split(st, final, err) || check_old(st, err))
		goto out;
	ret = 0;
out:
	io_stage_close(st);
	return ret ? err_ctx(err, "%s", final) : 0;
}

int io_stage_open_at(const char *final, bool force, const char *tmp,
		     struct io_stage **out, struct err *err)
{
	struct io_stage *st;
	int ret = -1;

	*out = NULL;
	st = mem_alloc(1, sizeof(*st), err);
	if (!st)
		goto out;
	st->is_dir = st->keep = true;
	st->force = force;
	st->tmp = mem_text(tmp, strlen(tmp), err);
	if (!st->tmp || split(st, final, err) || check_old(st, err))
		goto out;
	if (mkdir(tmp, 0777) && errno != EEXIST) {
		err_errno(err, ERR_OUTPUT, "cannot create %s", tmp);
		goto out;
	}
	*out = st;
	ret = 0;
out:
	if (ret)
		io_stage_close(st);
	return ret ? err_ctx(err, "%s", final) : 0;
}

const char *io_stage_path(const struct io_stage *st)
{
	return st->tmp;
}

/* Rename, but never over something.  Where the system cannot promise that,
 * look first. */
static int rename_new(const char *from, const char *to)
{
	struct stat sb;

#ifdef RENAME_NOREPLACE
	if (!renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE))
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -1;
#endif
	if (!lstat(to, &sb)) {
		errno = EEXIST;
		return -1;
	}
	return rename(from, to);
}

/* Put the new directory in the place of the old one and return the name under
 * which the old one is now, to be removed. */
static char *swap_dirs(struct io_stage *st, struct err *err)
{
	char *old;

#ifdef RENAME_EXCHANGE
	if (!renameat2(AT_FDCWD, st->tmp, AT_FDCWD, st->final,
		       RENAME_EXCHANGE)) {
		old = st->tmp;
		st->tmp = NULL;
		return old;
	}
#endif
	old = sibling(st, "old", err);
	if (!old)
		return NULL;
	if (rename_new(st->final, old)) {
		err_errno(err, ERR_OUTPUT, "cannot move the old output aside");
		free(old);
		return NULL;
	}
	if (rename(st->tmp, st->final)) {
		err_errno(err, ERR_OUTPUT, "cannot rename the new output");
		if (rename(old, st->final)) /* the old one back */
			err_ctx(err, "the old output is now %s", old);
		free(old);
		return NULL;
	}
	return old;
}

static int put_in_place(struct io_stage *st, struct err *err)
{
	struct err ignored;
	struct stat sb;
	char *old;

	if (st->force && !lstat(st->final, &sb)) {
		if (!st->is_dir) /* replaced in one step */
			return rename(st->tmp, st->final) ?
			       err_errno(err, ERR_OUTPUT, "cannot rename") : 0;
		if (check_old(st, err)) /* it may have changed meanwhile */
			return -1;
		old = swap_dirs(st, err);
		if (!old)
			return -1;
		/* the new output is complete: what cannot be removed of the
		 * old one stays under its temporary name */
		io_remove_tree(old, &ignored);
		free(old);
		return 0;
	}
	if (!rename_new(st->tmp, st->final))
		return 0;
	if (errno == EEXIST || errno == ENOTEMPTY)
		return err_set(err, ERR_USAGE,
			       "appeared meanwhile; use --force to replace it");
	return err_errno(err, ERR_OUTPUT, "cannot rename");
}

int io_stage_commit(struct io_stage *st, struct err *err)
{
	struct visit v = { sync_one, DEPTH_MAX, err };
	struct err ignored;
	int ret = -1;

	if (st->is_dir && walk_path(&v, st->tmp))
		goto out;
	if (sync_path(st->tmp, st->is_dir ? O_DIRECTORY : 0, err))
		goto out;
	if (put_in_place(st, err))
		goto out;
	st->done = true;
	/* The rename itself.  Not every directory can be opened or synced;
	 * the output is complete and in its place all the same. */
	sync_path(st->dir, O_DIRECTORY, &ignored);
	ret = 0;
out:
	return ret ? err_ctx(err, "%s", st->final) : 0;
}

void io_stage_close(struct io_stage *st)
{
	struct err ignored;

	if (!st)
		return;
	if (st->tmp && !st->done && !st->keep)
		io_remove_tree(st->tmp, &ignored);
	free(st->tmp);
	free(st->dir);
	free(st->final);
	free(st);
}
