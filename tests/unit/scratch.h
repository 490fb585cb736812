/* scratch.h - a directory of its own for a test that writes files. */
#ifndef TESTS_UNIT_SCRATCH_H
#define TESTS_UNIT_SCRATCH_H

#include <dirent.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct scratch {
	char dir[64];
	char *path[8]; /* of scratch_path, reused in turn */
	unsigned turn;
};

static inline int scratch_remove(const char *path, const struct stat *sb,
				 int flag, struct FTW *ftw)
{
	(void)sb;
	(void)flag;
	(void)ftw;
	return remove(path);
}

static inline int scratch_open(void **state)
{
	struct scratch *s = calloc(1, sizeof(*s));

	if (!s)
		return -1;
	strcpy(s->dir, "/tmp/gptq-test-XXXXXX");
	if (!mkdtemp(s->dir)) {
		free(s);
		return -1;
	}
	*state = s;
	return 0;
}

/* A directory with all that is in it. */
static inline void scratch_clear(const char *dir)
{
	nftw(dir, scratch_remove, 16, FTW_DEPTH | FTW_PHYS);
}

static inline int scratch_close(void **state)
{
	struct scratch *s = *state;

	scratch_clear(s->dir);
	for (int i = 0; i < 8; i++)
		free(s->path[i]);
	free(s);
	return 0;
}

/* The path of `name` in the directory; good for the next seven calls. */
static inline const char *scratch_path(struct scratch *s, const char *name)
{
	char **p = &s->path[s->turn++ % 8];
	size_t n = strlen(s->dir) + strlen(name) + 2;

	free(*p);
	*p = malloc(n);
	if (*p)
		snprintf(*p, n, "%s/%s", s->dir, name);
	return *p;
}

static inline const char *scratch_write(struct scratch *s, const char *name,
					const void *data, size_t n)
{
	const char *path = scratch_path(s, name);
	FILE *f = fopen(path, "wb");

	if (!f || fwrite(data, 1, n, f) != n || fclose(f))
		return NULL;
	return path;
}

/* How many names are in a directory; -1 when there is no such directory. */
static inline int scratch_count(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int n = 0;

	if (!d)
		return -1;
	while ((e = readdir(d)))
		n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
	closedir(d);
	return n;
}

#endif
