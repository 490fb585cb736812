/* io.h - bytes in and bytes out.
 *
 * In: a struct src is a read-only file, mapped, or a file on a server of which
 * parts are fetched when they are looked at.  Text files (configs,
 * tokenizers, calibration) are read whole, decompressed by their first bytes.
 * Out: everything goes to a temporary sibling that is renamed over the final
 * name at the end, so a path with the final name is always complete; whatever
 * was not committed is removed.
 *
 * Files: io.c reads, io_remote.c fetches, io_inflate.c inflates, io_out.c
 * writes and copies, io_stage.c stages.  Where names come from, a directory or
 * an address, is io_place.h.
 *
 * Not here: what the bytes mean (container/, layout/). */
#ifndef LIBFMT_BASE_IO_H
#define LIBFMT_BASE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct src;
struct io_stage;

/* Open and map a regular file.  Directories, devices and vanished files are
 * ERR_INPUT.  Many threads may read one src, but one thread a remote one. */
int io_open(const char *path, struct src **out, struct err *err);
void io_close(struct src *s); /* accepts NULL */
uint64_t io_size(const struct src *s);
const char *io_path(const struct src *s);
/* The descriptor, for copies inside the kernel; it stays the src's. */
int io_fd(const struct src *s);

/* Are all its bytes at hand?  Not those of a file on a server. */
bool io_is_local(const struct src *s);

/* A view of len bytes at off, valid until io_close; ERR_INPUT when the file
 * is shorter.  What is not at hand is fetched, up to IO_REMOTE_MIB in all;
 * beyond that it is ERR_UNSUP. */
int io_view(struct src *s, uint64_t off, uint64_t len, const void **out,
	    struct err *err);

/* A copy of len bytes at off.  Of a local file they are read, not mapped: a few
 * bytes here and there cost less so, as a page that is touched brings its
 * neighbours along. */
int io_peek(struct src *s, uint64_t off, uint64_t len, void *to,
	    struct err *err);

/* The next views of a local file are small and far apart, so that what lies
 * around them is not worth reading; false: as usual. */
void io_scattered(struct src *s, bool on);

/* Fetch what several views will want side by side, so that they need not wait
 * one after another.  Of local files the system is asked to begin reading.  The
 * ranges lie inside their files, and those of one file apart from each
 * other. */
#define IO_REMOTE_MIB 64u
struct io_want {
	struct src *src;
	uint64_t off, len;
};
int io_fetch(const struct io_want *want, uint32_t n, struct err *err);

/* These bytes will not be read soon: the pages no longer count as this
 * process's memory (they may stay in the system's cache). */
void io_forget(struct src *s, uint64_t off, uint64_t len);

/* Read a whole file, at most `limit` bytes after decompression; "-" is
 * standard input.  gzip and zstd are recognised by their magic.  *data gets a
 * NUL behind the last byte (not counted in *len) and is the caller's to free.
 */
int io_read_file(const char *path, uint64_t limit, char **data, size_t *len,
		 struct err *err);

/* The CRC-32 of zip archives, of what `crc` is the sum of (0: nothing) and n
 * bytes more. */
uint32_t io_crc32(uint32_t crc, const void *p, size_t n);
/* Inflate n bytes of raw deflate data (RFC 1951) to exactly `size` bytes;
 * less, more, or bytes behind its end are ERR_INPUT. */
int io_inflate(const void *from, uint64_t n, void *to, uint64_t size,
	       struct err *err);

/* 1 when path exists and is a directory / a regular file, else 0. */
int io_is_dir(const char *path);
int io_is_file(const char *path);
int io_exists(const char *path); /* a device, a socket, ... too */

/* dir + "/" + name, on the heap. */
char *io_join(const char *dir, const char *name, struct err *err);

/* The names in a directory (no "." or ".."), sorted by byte value.  One block:
 * free(*names) frees all. */
int io_list(const char *dir, char ***names, uint32_t *count, struct err *err);

/* Start writing the directory (or, with is_dir false, the file) `final`.  An
 * existing `final` is ERR_USAGE unless force, and even then when it is of the
 * other kind, holds the working directory, or holds directories inside its
 * directories (no output folder does, a home directory does).  The temporary
 * sibling is ".NAME.tmp-XXXXXX" in the same directory, which must exist. */
int io_stage_open(const char *final, bool is_dir, bool force,
		  struct io_stage **out, struct err *err);
/* Would io_stage_open be refused?  Touches nothing. */
int io_stage_check(const char *final, bool is_dir, bool force,
		   struct err *err);
/* The same for work that outlives a run: the temporary directory is `tmp`, on
 * the same file system, made when it is not there; io_stage_close leaves what
 * is in it. */
int io_stage_open_at(const char *final, bool force, const char *tmp,
		     struct io_stage **out, struct err *err);
/* Where to write: the path of the temporary directory or file. */
const char *io_stage_path(const struct io_stage *st);
/* Sync everything below, then rename.  With force an old directory changes
 * places with the new one (or is moved aside first, where the system cannot do
 * that in one step) and is removed after, so that at every moment a complete
 * version exists under one name. */
int io_stage_commit(struct io_stage *st, struct err *err);
/* Remove the temporary when it was not committed (never following a symbolic
 * link out of it), and free.  Accepts NULL. */
void io_stage_close(struct io_stage *st);

/* Remove a directory and all in it, never following a symbolic link. */
int io_remove_tree(const char *path, struct err *err);

/* Give an open file its size, and reserve the blocks where the system can, so
 * that a write hours later cannot meet a full disk.  ERR_RESOURCE with both
 * numbers; `where` is any path on that file system. */
int io_reserve(int fd, const char *where, uint64_t bytes, struct err *err);
/* A new file in `dir` that has no name, with room for so many bytes reserved:
 * ERR_RESOURCE with both numbers when there is not.  The caller closes it. */
int io_scratch(const char *dir, uint64_t bytes, int *fd, struct err *err);
/* All n bytes at offset off of an open file; any thread. */
int io_pread(int fd, void *data, uint64_t n, uint64_t off, struct err *err);
int io_pwrite(int fd, const void *data, uint64_t n, uint64_t off,
	      struct err *err);
/* n bytes of `from` to offset off of an open file, in the kernel where the
 * system has copy_file_range; any thread. */
int io_copy_range(struct src *from, uint64_t from_off, uint64_t n, int fd,
		  uint64_t off, struct err *err);

/* Write a small file in a staged directory (created, truncated, synced). */
int io_write_file(const char *path, const void *data, size_t len,
		  struct err *err);
/* Copy a file byte by byte into a staged directory. */
int io_copy_file(const char *from, const char *to, struct err *err);

/* Bytes free for this user on the file system that holds path (which need not
 * exist yet: its nearest existing parent is asked).  UINT64_MAX: unknown. */
uint64_t io_free_space(const char *path);

#endif
