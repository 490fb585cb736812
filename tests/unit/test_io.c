/* Mapped files, compressed text, directories and staged output. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/io.h"
#include "has.h"
#include "scratch.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/wait.h>
#include <zlib.h>
#include <zstd.h>

#include <cmocka.h>

/* ---- scratch files ---- */

static void test_scratch_file(void **state)
{
	struct scratch *s = *state;
	struct err err;
	char text[8];
	int fd;

	assert_int_equal(io_scratch(s->dir, 100000, &fd, &err), 0);
	assert_int_equal(scratch_count(s->dir), 0);
	assert_int_equal(lseek(fd, 0, SEEK_END), 100000);
	assert_int_equal(io_pwrite(fd, "scratch", 8, 99992, &err), 0);
	assert_int_equal(io_pread(fd, text, 8, 99992, &err), 0);
	assert_string_equal(text, "scratch");
	assert_int_equal(io_pread(fd, text, 8, 99993, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	close(fd);
	/* more than any disk has */
	assert_int_equal(io_scratch(s->dir, UINT64_C(1) << 62, &fd, &err), -1);
	assert_int_equal(err.code, ERR_RESOURCE);
	HAS(err, "4611686018427387904 bytes are needed");
	assert_int_equal(fd, -1);
	assert_int_equal(scratch_count(s->dir), 0);
	assert_int_equal(io_scratch(scratch_path(s, "no"), 1, &fd, &err), -1);
	assert_int_equal(err.code, ERR_OUTPUT);
}

/* ---- in ---- */

static void test_view(void **state)
{
	struct scratch *s = *state;
	const char *path = scratch_write(s, "f", "0123456789", 10);
	const void *p;
	struct src *f;
	struct err err;

	assert_int_equal(io_open(path, &f, &err), 0);
	assert_int_equal(io_size(f), 10);
	assert_string_equal(io_path(f), path);
	assert_true(io_fd(f) >= 0);
	assert_int_equal(io_view(f, 0, 10, &p, &err), 0);
	assert_memory_equal(p, "0123456789", 10);
	assert_int_equal(io_view(f, 7, 3, &p, &err), 0);
	assert_memory_equal(p, "789", 3);
	assert_int_equal(io_view(f, 10, 0, &p, &err), 0);
	assert_int_equal(io_view(f, 10, 1, &p, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	HAS(err, "ends at 10");
	assert_int_equal(io_view(f, 11, 0, &p, &err), -1);
	assert_int_equal(io_view(f, 5, UINT64_MAX, &p, &err), -1);
	assert_int_equal(io_view(f, UINT64_MAX, 1, &p, &err), -1);
	io_close(f);
	io_close(NULL);
}

static void test_empty_file(void **state)
{
	struct scratch *s = *state;
	const char *path = scratch_write(s, "empty", "", 0);
	const void *p = NULL;
	struct src *f;
	struct err err;
	char *text;
	size_t n = 9;

	assert_int_equal(io_open(path, &f, &err), 0);
	assert_int_equal(io_size(f), 0);
	assert_int_equal(io_view(f, 0, 0, &p, &err), 0);
	assert_non_null(p);
	assert_int_equal(io_view(f, 0, 1, &p, &err), -1);
	io_close(f);
	assert_int_equal(io_read_file(path, 0, &text, &n, &err), 0);
	assert_int_equal(n, 0);
	assert_string_equal(text, "");
	free(text);
}

static void test_open_refuses(void **state)
{
	struct scratch *s = *state;
	const char *fifo = scratch_path(s, "fifo");
	struct src *f;
	struct err err;
	char *text;
	size_t n;

	assert_int_equal(io_open(s->dir, &f, &err), -1);
	assert_null(f);
	assert_int_equal(err.code, ERR_INPUT);
	HAS(err, "is a directory");
	HAS(err, s->dir);
	assert_int_equal(io_open(scratch_path(s, "none"), &f, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	HAS(err, "No such file");
	assert_int_equal(mkfifo(fifo, 0666), 0);
	assert_int_equal(io_open(fifo, &f, &err), -1); /* and does not wait */
	HAS(err, "not a regular file");
	assert_int_equal(io_open("/dev/zero", &f, &err), -1);
	HAS(err, "not a regular file");
	assert_int_equal(io_read_file(s->dir, 9, &text, &n, &err), -1);
	HAS(err, "is a directory");
	assert_null(text);
	assert_int_equal(io_read_file("/dev/zero", 1 << 20, &text, &n, &err),
			 -1);
	HAS(err, "limit");
}

/* ---- compressed text ---- */

/* Text that compresses, but not to nothing. */
static char *prose(size_t n)
{
	char *p = malloc(n + 1);
	uint32_t x = 7;

	assert_non_null(p);
	for (size_t i = 0; i < n; i++) {
		x = x * 1664525 + 1013904223;
		p[i] = (char)('a' + (x >> 28));
	}
	p[n] = '\0';
	return p;
}

static size_t gzip(const char *in, size_t n, char *out, size_t room)
{
	z_stream z;

	memset(&z, 0, sizeof(z));
	assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8,
				      Z_DEFAULT_STRATEGY), Z_OK);
	z.next_in = (Bytef *)(uintptr_t)in;
	z.avail_in = (uInt)n;
	z.next_out = (Bytef *)out;
	z.avail_out = (uInt)room;
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return room - z.avail_out;
}

static size_t zstd(const char *in, size_t n, char *out, size_t room)
{
	size_t r = ZSTD_compress(out, room, in, n, 3);

	assert_false(ZSTD_isError(r));
	return r;
}

static void reads_as(struct scratch *s, const char *data, size_t n,
		     const char *want, size_t len)
{
	const char *path = scratch_write(s, "z", data, n);
	struct err err;
	char *text;
	size_t got;

	if (io_read_file(path, len, &text, &got, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(got, len);
	assert_memory_equal(text, want, len + 1); /* the NUL too */
	free(text);
	if (!len)
		return;
	/* the limit counts what comes out */
	assert_int_equal(io_read_file(path, len - 1, &text, &got, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	HAS(err, "limit");
	assert_null(text);
}

static void read_fails(struct scratch *s, const char *data, size_t n,
		       const char *why)
{
	const char *path = scratch_write(s, "z", data, n);
	struct err err;
	char *text;
	size_t got;

	assert_int_equal(io_read_file(path, 1 << 30, &text, &got, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	assert_null(text);
	HAS(err, why);
	HAS(err, path);
}

static void test_read_plain(void **state)
{
	static const size_t sizes[] = { 1, 3, 262143, 262144, 262145, 700000 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		char *text = prose(sizes[i]);

		reads_as(*state, text, sizes[i], text, sizes[i]);
		free(text);
	}
}

typedef size_t pack_fn(const char *in, size_t n, char *out, size_t room);

/* One member, several, an empty one between, sizes around the chunk. */
static void packed(struct scratch *s, pack_fn *pack)
{
	static const size_t sizes[] = { 0, 1, 262144, 262145, 1500000 };
	const size_t room = 4000000;
	char *out = malloc(room);

	assert_non_null(out);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		size_t n = sizes[i], half = n / 3, m;
		char *text = prose(n);

		m = pack(text, n, out, room);
		reads_as(s, out, m, text, n);
		m = pack(text, half, out, room);
		m += pack("", 0, out + m, room - m);
		m += pack(text + half, n - half, out + m, room - m);
		reads_as(s, out, m, text, n);
		free(text);
	}
	free(out);
}

static void cut(struct scratch *s, pack_fn *pack, const char *why)
{
	char *text = prose(300000), *out = malloc(400000);
	size_t n, one;

	assert_non_null(out);
	n = pack(text, 300000, out, 400000);
	for (size_t i = 6; i < n; i += i < 40 || i + 40 > n ? 1 : n / 23)
		read_fails(s, out, i, why);
	read_fails(s, out, n - 1, why);
	/* in the second member; a cut between the two cannot be seen */
	one = pack("abc", 3, out, 400000);
	n = one + pack("defgh", 5, out + one, 1000);
	for (size_t i = one + 1; i < n; i++)
		read_fails(s, out, i, why);
	free(out);
	free(text);
}

static void test_gzip(void **state)
{
	packed(*state, gzip);
	cut(*state, gzip, "truncated gzip");
}

static void test_zstd(void **state)
{
	packed(*state, zstd);
	cut(*state, zstd, "truncated zstd");
}

static void test_damaged_streams(void **state)
{
	char out[4096];
	size_t n;

	n = gzip("hello hello hello", 17, out, sizeof(out));
	out[n - 6] ^= 1; /* the checksum */
	read_fails(*state, out, n, "damaged gzip");
	n = gzip("hello", 5, out, sizeof(out));
	memcpy(out + n, "garbage", 7);
	read_fails(*state, out, n + 7, "damaged gzip");
	n = zstd("hello", 5, out, sizeof(out));
	memcpy(out + n, "garbage", 7);
	read_fails(*state, out, n + 7, "damaged zstd");
	read_fails(*state, "\x28\xb5\x2f\xfd\xff\xff\xff\xff", 8, "zstd");
	/* a skippable frame in front */
	memcpy(out, "\x50\x2a\x4d\x18\x03\x00\x00\x00xyz", 11);
	n = 11 + zstd("hello", 5, out + 11, sizeof(out) - 11);
	reads_as(*state, out, n, "hello", 5);
}

static void test_standard_input(void **state)
{
	struct scratch *s = *state;
	int fd = open(scratch_write(s, "in", "from a pipe", 11), O_RDONLY);
	int old = dup(STDIN_FILENO);
	struct err err;
	char *text;
	size_t n;

	assert_true(fd >= 0 && old >= 0);
	assert_int_equal(dup2(fd, STDIN_FILENO), STDIN_FILENO);
	assert_int_equal(io_read_file("-", 100, &text, &n, &err), 0);
	assert_string_equal(text, "from a pipe");
	free(text);
	assert_int_equal(lseek(STDIN_FILENO, 0, SEEK_SET), 0);
	assert_int_equal(io_read_file("-", 3, &text, &n, &err), -1);
	HAS(err, "standard input: larger");
	/* it is still open */
	assert_true(fcntl(STDIN_FILENO, F_GETFD) >= 0);
	dup2(old, STDIN_FILENO);
	close(old);
	close(fd);
}

/* ---- paths ---- */

static void test_paths(void **state)
{
	static const char *const row[][3] = {
		{ "a", "b", "a/b" }, { "a/", "b", "a/b" },
		{ "/", "b", "/b" }, { "a/b", "c.json", "a/b/c.json" },
	};
	struct scratch *s = *state;
	struct err err;

	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		char *p = io_join(row[i][0], row[i][1], &err);

		assert_string_equal(p, row[i][2]);
		free(p);
	}
	scratch_write(s, "f", "", 0);
	assert_true(io_is_dir(s->dir));
	assert_false(io_is_file(s->dir));
	assert_true(io_is_file(scratch_path(s, "f")));
	assert_false(io_is_dir(scratch_path(s, "f")));
	assert_false(io_is_dir(scratch_path(s, "none")));
	assert_false(io_is_file(scratch_path(s, "none")));
}

static void test_list(void **state)
{
	struct scratch *s = *state;
	struct err err;
	char **names;
	uint32_t n;

	assert_int_equal(io_list(s->dir, &names, &n, &err), 0);
	assert_int_equal(n, 0);
	free(names);
	scratch_write(s, "b", "", 0);
	scratch_write(s, "a10", "", 0);
	scratch_write(s, "a9", "", 0);
	scratch_write(s, ".h", "", 0);
	scratch_write(s, "B", "", 0);
	assert_int_equal(io_list(s->dir, &names, &n, &err), 0);
	assert_int_equal(n, 5);
	assert_string_equal(names[0], ".h");
	assert_string_equal(names[1], "B");
	assert_string_equal(names[2], "a10");
	assert_string_equal(names[3], "a9");
	assert_string_equal(names[4], "b");
	free(names);
	assert_int_equal(io_list(scratch_path(s, "b"), &names, &n, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	assert_null(names);
	assert_int_equal(n, 0);
}

static void test_free_space(void **state)
{
	struct scratch *s = *state;
	uint64_t n = io_free_space(s->dir);

	assert_true(n > 0 && n < UINT64_MAX);
	assert_true(io_free_space(scratch_path(s, "no/such/dir")) <
		    UINT64_MAX);
	assert_true(io_free_space("no-such-name-here") < UINT64_MAX);
	assert_true(io_free_space("/no-such-name-here") < UINT64_MAX);
	assert_true(io_free_space("") < UINT64_MAX);
}

/* ---- out ---- */

static void holds(const char *path, const char *text)
{
	struct err err;
	char *got;
	size_t n;

	if (io_read_file(path, 1 << 20, &got, &n, &err))
		fail_msg("%s", err.msg);
	assert_string_equal(got, text);
	free(got);
}

static void test_write_and_copy(void **state)
{
	struct scratch *s = *state;
	const char *a = scratch_path(s, "a"), *b = scratch_path(s, "b");
	struct err err;
	char *text = prose(3000000), *got;
	size_t n;

	assert_int_equal(io_write_file(a, text, 3000000, &err), 0);
	assert_int_equal(io_write_file(b, "old and much longer", 19, &err), 0);
	assert_int_equal(io_copy_file(a, b, &err), 0);
	assert_int_equal(io_read_file(b, 1 << 24, &got, &n, &err), 0);
	assert_int_equal(n, 3000000);
	assert_memory_equal(got, text, n);
	free(got);
	assert_int_equal(io_write_file(a, "new", 3, &err), 0);
	assert_int_equal(io_copy_file(a, b, &err), 0);
	holds(b, "new");
	assert_int_equal(io_copy_file(b, b, &err), -1);
	assert_int_equal(err.code, ERR_OUTPUT);
	holds(b, "new"); /* not emptied */
	assert_int_equal(io_copy_file(scratch_path(s, "none"), b, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	assert_int_equal(io_write_file(scratch_path(s, "no/dir"), "", 0, &err),
			 -1);
	assert_int_equal(err.code, ERR_OUTPUT);
	free(text);
}

static void test_copy_range(void **state)
{
	struct scratch *s = *state;
	int fd = open(scratch_path(s, "out"), O_RDWR | O_CREAT, 0666);
	struct src *f;
	struct err err;

	assert_true(fd >= 0);
	assert_int_equal(io_open(scratch_write(s, "in", "0123456789", 10), &f,
				 &err), 0);
	assert_int_equal(io_pwrite(fd, "..........", 10, 0, &err), 0);
	assert_int_equal(io_copy_range(f, 3, 4, fd, 1, &err), 0);
	assert_int_equal(io_copy_range(f, 10, 0, fd, 0, &err), 0);
	holds(scratch_path(s, "out"), ".3456.....");
	assert_int_equal(io_copy_range(f, 7, 4, fd, 0, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	io_close(f);
	close(fd);
	/* a descriptor that cannot be written */
	fd = open(scratch_path(s, "out"), O_RDONLY);
	assert_int_equal(io_pwrite(fd, "x", 1, 0, &err), -1);
	assert_int_equal(err.code, ERR_OUTPUT);
	close(fd);
}

/* Places that lie alike in their blocks, and such that do not. */
static void test_copy_blocks(void **state)
{
	static const struct { uint64_t from, n, to; } c[] = {
		{ 100, 9000, 4196 }, { 0, 8192, 4096 }, { 4000, 50, 8096 },
		{ 4000, 200, 8096 }, { 100, 9000, 101 }, { 4096, 5000, 0 } };
	struct scratch *s = *state;
	char in[12000], out[16000];
	struct err err;
	struct src *f;
	int fd = open(scratch_path(s, "out"), O_RDWR | O_CREAT, 0600);

	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (char)(i % 251);
	assert_int_equal(io_open(scratch_write(s, "in", in, sizeof(in)), &f,
				 &err), 0);
	for (size_t i = 0; i < sizeof(c) / sizeof(*c); i++) {
		memset(out, '.', sizeof(out));
		assert_int_equal(pwrite(fd, out, sizeof(out), 0), sizeof(out));
		assert_int_equal(io_copy_range(f, c[i].from, c[i].n, fd,
					       c[i].to, &err), 0);
		assert_int_equal(pread(fd, out, sizeof(out), 0), sizeof(out));
		for (uint64_t k = 0; k < sizeof(out); k++)
			assert_int_equal(out[k], k < c[i].to ||
					 k >= c[i].to + c[i].n ? '.' :
					 in[k - c[i].to + c[i].from]);
	}
	io_close(f);
	close(fd);
}

static void put(const char *dir, const char *name, const char *text)
{
	struct err err;
	char *p = io_join(dir, name, &err);

	if (io_write_file(p, text, strlen(text), &err))
		fail_msg("%s", err.msg);
	free(p);
}

static void test_stage_directory(void **state)
{
	struct scratch *s = *state;
	const char *final = scratch_path(s, "out");
	struct io_stage *st;
	struct stat sb, plain;
	struct err err;
	char slash[128];

	snprintf(slash, sizeof(slash), "%s///", final);
	assert_int_equal(io_stage_open(slash, true, false, &st, &err), 0);
	assert_int_equal(access(final, F_OK), -1);
	assert_non_null(strstr(io_stage_path(st), "/.out.tmp-"));
	put(io_stage_path(st), "a", "1");
	mkdir(scratch_path(s, "plain"), 0777);
	stat(scratch_path(s, "plain"), &plain);
	assert_int_equal(io_stage_commit(st, &err), 0);
	io_stage_close(st);
	holds(scratch_path(s, "out/a"), "1");
	assert_int_equal(scratch_count(s->dir), 2);
	/* as open as the umask allows, not 0700 */
	assert_int_equal(stat(final, &sb), 0);
	assert_int_equal(sb.st_mode, plain.st_mode);
}

static void test_stage_file(void **state)
{
	struct scratch *s = *state;
	const char *final = scratch_path(s, "out.bin");
	struct io_stage *st;
	struct err err;

	assert_int_equal(io_stage_open(final, false, false, &st, &err), 0);
	assert_int_equal(io_write_file(io_stage_path(st), "x", 1, &err), 0);
	assert_int_equal(access(final, F_OK), -1);
	assert_int_equal(io_stage_commit(st, &err), 0);
	io_stage_close(st);
	holds(final, "x");
	assert_int_equal(io_stage_open(final, false, false, &st, &err), -1);
	assert_int_equal(err.code, ERR_USAGE);
	HAS(err, "exists; use --force to replace it");
	assert_int_equal(io_stage_open(final, false, true, &st, &err), 0);
	assert_int_equal(io_write_file(io_stage_path(st), "y", 1, &err), 0);
	holds(final, "x");
	assert_int_equal(io_stage_commit(st, &err), 0);
	io_stage_close(st);
	holds(final, "y");
	assert_int_equal(scratch_count(s->dir), 1);
}

static void test_stage_closed_leaves_nothing(void **state)
{
	struct scratch *s = *state;
	const char *outside = scratch_path(s, "outside");
	const char *keep = scratch_path(s, "outside/keep");
	struct io_stage *st;
	struct err err;
	char *p;

	mkdir(outside, 0777);
	assert_int_equal(io_write_file(keep, "k", 1, &err), 0);
	assert_int_equal(io_stage_open(scratch_path(s, "out"), true, false,
				       &st, &err), 0);
	put(io_stage_path(st), "a", "1");
	p = io_join(io_stage_path(st), "sub", &err);
	assert_int_equal(mkdir(p, 0777), 0);
	put(p, "b", "2");
	free(p);
	/* links out of the stage are removed, not followed */
	p = io_join(io_stage_path(st), "link", &err);
	assert_int_equal(symlink(outside, p), 0);
	free(p);
	p = io_join(io_stage_path(st), "link2", &err);
	assert_int_equal(symlink(keep, p), 0);
	free(p);
	io_stage_close(st);
	assert_int_equal(scratch_count(s->dir), 1);
	holds(keep, "k");
	assert_int_equal(io_stage_open(scratch_path(s, "f"), false, false, &st,
				       &err), 0);
	io_stage_close(st);
	assert_int_equal(scratch_count(s->dir), 1);
	io_stage_close(NULL);
}

static void test_stage_replaces_with_force(void **state)
{
	struct scratch *s = *state;
	const char *final = scratch_path(s, "out");
	struct io_stage *st;
	struct err err;

	mkdir(final, 0777);
	put(final, "old", "1");
	mkdir(scratch_path(s, "out/sub"), 0777);
	put(final, "sub/old", "1");
	assert_int_equal(io_stage_open(final, true, false, &st, &err), -1);
	assert_null(st);
	assert_int_equal(err.code, ERR_USAGE);
	HAS(err, "exists; use --force to replace it");
	assert_int_equal(io_stage_open(final, true, true, &st, &err), 0);
	put(io_stage_path(st), "new", "2");
	holds(scratch_path(s, "out/old"), "1");
	/* given up: the old one stays */
	io_stage_close(st);
	holds(scratch_path(s, "out/sub/old"), "1");
	assert_int_equal(io_stage_open(final, true, true, &st, &err), 0);
	put(io_stage_path(st), "new", "2");
	assert_int_equal(io_stage_commit(st, &err), 0);
	io_stage_close(st);
	assert_int_equal(scratch_count(final), 1);
	holds(scratch_path(s, "out/new"), "2");
	assert_int_equal(scratch_count(s->dir), 1);
}

static void stage_fails(const char *final, bool is_dir, bool force, int code,
			const char *why)
{
	struct io_stage *st;
	struct err err;

	if (!io_stage_open(final, is_dir, force, &st, &err)) {
		io_stage_close(st);
		fail_msg("%s was accepted", final);
	}
	assert_null(st);
	if (err.code != code)
		fail_msg("code %d: %s", err.code, err.msg);
	HAS(err, why);
}

static void test_stage_refuses(void **state)
{
	struct scratch *s = *state;
	char cwd[512];

	scratch_write(s, "file", "", 0);
	mkdir(scratch_path(s, "home"), 0777);
	mkdir(scratch_path(s, "home/a"), 0777);
	mkdir(scratch_path(s, "home/a/b"), 0777);
	assert_int_equal(mkfifo(scratch_path(s, "fifo"), 0666), 0);
	assert_int_equal(symlink("gone", scratch_path(s, "link")), 0);
	stage_fails(scratch_path(s, "no/out"), true, false, ERR_OUTPUT,
		    "does not exist");
	stage_fails(scratch_path(s, "file/out"), true, false, ERR_OUTPUT,
		    "does not exist");
	stage_fails(scratch_path(s, "file"), true, true, ERR_USAGE,
		    "not a directory");
	stage_fails(scratch_path(s, "home"), false, true, ERR_USAGE,
		    "not a regular file");
	stage_fails(scratch_path(s, "fifo"), false, true, ERR_USAGE,
		    "not a regular file");
	stage_fails(scratch_path(s, "link"), true, false, ERR_USAGE, "exists");
	/* nothing that looks unlike an output folder is replaced */
	stage_fails(scratch_path(s, "home"), true, true, ERR_USAGE,
		    "not an output folder");
	stage_fails("/", true, true, ERR_USAGE, "not a name");
	stage_fails("", true, true, ERR_USAGE, "not a name");
	stage_fails(".", true, true, ERR_USAGE, "not a name");
	stage_fails("-", false, true, ERR_USAGE, "./- is");
	stage_fails(scratch_path(s, ".."), true, true, ERR_USAGE,
		    "not a name");
	assert_non_null(getcwd(cwd, sizeof(cwd)));
	assert_int_equal(chdir(scratch_path(s, "home/a/b")), 0);
	stage_fails("../../a", true, true, ERR_USAGE, "working directory");
	stage_fails("../b", true, true, ERR_USAGE, "working directory");
	assert_int_equal(chdir(cwd), 0);
	assert_int_equal(scratch_count(s->dir), 4);
}

static void test_stage_meets_a_newcomer(void **state)
{
	struct scratch *s = *state;
	const char *final = scratch_path(s, "out");
	struct io_stage *st;
	struct err err;

	assert_int_equal(io_stage_open(final, true, false, &st, &err), 0);
	mkdir(final, 0777); /* empty: a plain rename would replace it */
	assert_int_equal(io_stage_commit(st, &err), -1);
	assert_int_equal(err.code, ERR_USAGE);
	HAS(err, "appeared meanwhile");
	io_stage_close(st);
	assert_int_equal(scratch_count(s->dir), 1);
	assert_int_equal(scratch_count(final), 0);
}

static void test_two_stages_do_not_meet(void **state)
{
	struct scratch *s = *state;
	struct io_stage *st[8];
	struct err err;

	for (int i = 0; i < 8; i++)
		assert_int_equal(io_stage_open(scratch_path(s, "out"), true,
					       false, &st[i], &err), 0);
	assert_int_equal(scratch_count(s->dir), 8);
	for (int i = 0; i < 8; i++)
		io_stage_close(st[i]);
	assert_int_equal(scratch_count(s->dir), 0);
}

/* A process that dies between two writes: no `out`, whatever else is left. */
static void test_killed_leaves_no_output(void **state)
{
	struct scratch *s = *state;
	const char *final = scratch_path(s, "out");
	int pipes[2], status;
	char c;
	pid_t pid;

	assert_int_equal(pipe(pipes), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct io_stage *st;
		struct err err;

		if (io_stage_open(final, true, false, &st, &err))
			_exit(1);
		put(io_stage_path(st), "a", "half of it");
		if (write(pipes[1], "x", 1) == 1)
			pause();
		_exit(2);
	}
	close(pipes[1]);
	assert_int_equal(read(pipes[0], &c, 1), 1);
	close(pipes[0]);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_int_equal(access(final, F_OK), -1);
	assert_int_equal(scratch_count(s->dir), 1); /* the hidden sibling */
}

#define OWN(test) \
	cmocka_unit_test_setup_teardown(test, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		OWN(test_scratch_file),
		OWN(test_view),
		OWN(test_empty_file),
		OWN(test_open_refuses),
		OWN(test_read_plain),
		OWN(test_gzip),
		OWN(test_zstd),
		OWN(test_damaged_streams),
		OWN(test_standard_input),
		OWN(test_paths),
		OWN(test_list),
		OWN(test_free_space),
		OWN(test_write_and_copy),
		OWN(test_copy_range),
		OWN(test_copy_blocks),
		OWN(test_stage_directory),
		OWN(test_stage_file),
		OWN(test_stage_closed_leaves_nothing),
		OWN(test_stage_replaces_with_force),
		OWN(test_stage_refuses),
		OWN(test_stage_meets_a_newcomer),
		OWN(test_two_stages_do_not_meet),
		OWN(test_killed_leaves_no_output),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
