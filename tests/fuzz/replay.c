/* replay.c - a main for the fuzz harnesses where no engine is linked: every
 * file of every directory (or file) named on the command line goes through
 * LLVMFuzzerTestOneInput once.  A fault ends the program, as in the engine. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/io.h"

#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT ((uint64_t)16 << 20)

static unsigned long count;

/* From a block of exactly its size, so that a sanitizer sees every byte read
 * behind the end.  Not io_read_file: a corpus may hold compressed files. */
static int one(const char *path)
{
	struct src *s;
	struct err err;
	const void *p;
	uint8_t *copy;
	size_t n;

	if (io_open(path, &s, &err) ||
	    io_view(s, 0, io_size(s), &p, &err)) {
		fprintf(stderr, "%s\n", err.msg);
		return -1;
	}
	n = io_size(s) < LIMIT ? (size_t)io_size(s) : LIMIT;
	copy = malloc(n ? n : 1);
	if (!copy)
		abort();
	memcpy(copy, p, n);
	io_close(s);
	LLVMFuzzerTestOneInput(copy, n);
	free(copy);
	count++;
	return 0;
}

static int all(const char *path)
{
	struct err err;
	char **names;
	uint32_t n;
	int ret = 0;

	if (!io_is_dir(path))
		return one(path);
	if (io_list(path, &names, &n, &err)) {
		fprintf(stderr, "%s\n", err.msg);
		return -1;
	}
	for (uint32_t i = 0; i < n && !ret; i++) {
		char *p = io_join(path, names[i], &err);

		ret = p ? all(p) : -1;
		free(p);
	}
	free(names);
	return ret;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (all(argv[i]))
			return 1;
	/* a corpus that has gone must not pass for one that was replayed */
	if (!count) {
		fprintf(stderr, "no inputs\n");
		return 1;
	}
	printf("%lu inputs\n", count);
	return 0;
}
