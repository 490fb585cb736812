#include "journal.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/io.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"
#include "identity.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define JOURNAL_BYTES (UINT64_C(1) << 30)

struct gq_journal {
	char *dir, *out, *path; /* .NAME.partial, its out/, its journal */
	int fd;
	struct cJSON *lines;    /* an array: what was read and written */
	uint64_t end;           /* bytes of whole lines */
	bool laid_out, finished;
	uint32_t blocks;
	const struct cJSON **block; /* [blocks]: their "linears" */
	size_t cap;
};

/* ---- names ---- */

/* ".NAME.partial" beside final, on the heap. */
static char *partial_name(const char *final, struct err *err)
{
	size_t n = strlen(final), base;
	char *name;

	while (n > 1 && final[n - 1] == '/')
		n--;
	for (base = n; base > 0 && final[base - 1] != '/'; base--)
		;
	name = mem_alloc(n + sizeof("..partial"), 1, err);
	if (name)
		sprintf(name, "%.*s.%.*s.partial", (int)base, final,
			(int)(n - base), final + base);
	return name;
}

static int set_names(struct gq_journal *j, const char *final, struct err *err)
{
	j->dir = partial_name(final, err);
	if (!j->dir)
		return -1;
	j->out = io_join(j->dir, "out", err);
	j->path = io_join(j->dir, "journal", err);
	return j->out && j->path ? 0 : -1;
}

/* ---- reading ---- */

static int note_block(struct gq_journal *j, const struct cJSON *line,
		      struct err *err)
{
	const struct cJSON *list = json_find(line, "linears");
	uint64_t number;
	void *p = j->block;

	if (json_uint(json_find(line, "block"), UINT32_MAX, &number) ||
	    number != j->blocks || !json_is_array(list))
		return err_set(err, ERR_INPUT, "a line is out of order");
	if (mem_grow(&p, &j->cap, j->blocks + 1, sizeof(struct cJSON *), err))
		return -1;
	j->block = p;
	j->block[j->blocks++] = list;
	return 0;
}

/* `line` becomes the journal's. */
static int note(struct gq_journal *j, struct cJSON *line, struct err *err)
{
	if (!cJSON_AddItemToArray(j->lines, line)) {
		json_free(line);
		return err_set(err, ERR_RESOURCE, "out of memory for JSON");
	}
	if (json_count(j->lines) == 1)
		return json_is_object(line) ? 0 :
			err_set(err, ERR_INPUT, "no identity in front");
	if (json_find(line, "laid_out")) {
		j->laid_out = true;
		return 0;
	}
	return note_block(j, line, err);
}

static void forget_lines(struct gq_journal *j)
{
	json_free(j->lines);
	j->lines = cJSON_CreateArray();
	j->laid_out = false;
	j->blocks = 0;
	j->end = 0;
}

/* Whole lines only; what stands behind the last newline was cut off. */
static int read_lines(struct gq_journal *j, struct err *err)
{
	char *text = NULL, *nl;
	size_t len = 0;
	int ret = -1;

	forget_lines(j);
	if (!j->lines)
		return err_set(err, ERR_RESOURCE, "out of memory for JSON");
	if (io_read_file(j->path, JOURNAL_BYTES, &text, &len, err))
		return -1;
	while ((nl = memchr(text + j->end, '\n', len - j->end))) {
		size_t n = (size_t)(nl - text) - (size_t)j->end;
		struct cJSON *line = NULL;

		if (json_parse(text + j->end, n, 0, &line, err) ||
		    note(j, line, err)) {
			err_ctx(err, "%s", j->path);
			goto out;
		}
		j->end += n + 1;
	}
	ret = 0;
out:
	free(text);
	return ret;
}

/* ---- opening ---- */

/* 1 when nothing but what a run leaves is in the directory. */
static int is_ours(const struct gq_journal *j)
{
	struct err ignored;
	uint32_t n = 0;
	char **name;
	int ours = 1;

	if (io_list(j->dir, &name, &n, &ignored))
		return 0;
	for (uint32_t i = 0; i < n; i++)
		ours &= !strcmp(name[i], "out") || !strcmp(name[i], "journal");
	free(name);
	return ours;
}

/* The directory, a journal in it, and the lock.  A run that ends removes both:
 * so the file that was locked must still be the one of that name. */
static int lock(struct gq_journal *j, struct err *err)
{
	struct stat a, b;

	for (int tries = 0; tries < 100; tries++) {
		if (mkdir(j->dir, 0777) && errno != EEXIST)
			return err_errno(err, ERR_OUTPUT, "cannot create %s",
					 j->dir);
		if (lstat(j->dir, &a) || !S_ISDIR(a.st_mode) || !is_ours(j))
			return err_set(err, ERR_OUTPUT, "%s is in the way: "
				       "not the work of an earlier run",
				       j->dir);
		j->fd = open(j->path, O_RDWR | O_CREAT | O_NOFOLLOW |
			     O_CLOEXEC, 0666);
		if (j->fd < 0 && errno == ENOENT)
			continue;
		if (j->fd < 0)
			return err_errno(err, ERR_OUTPUT, "cannot create %s",
					 j->path);
		if (flock(j->fd, LOCK_EX | LOCK_NB))
			return errno == EWOULDBLOCK ?
				err_set(err, ERR_OUTPUT, "another run is "
					"writing it now (%s)", j->dir) :
				err_errno(err, ERR_OUTPUT, "cannot lock %s",
					  j->path);
		if (!fstat(j->fd, &a) && !lstat(j->path, &b) &&
		    a.st_ino == b.st_ino && a.st_dev == b.st_dev)
			return 0;
		close(j->fd);
		j->fd = -1;
	}
	return err_set(err, ERR_OUTPUT, "%s changes all the time", j->dir);
}

/* Begin anew in the same place. */
static int wipe(struct gq_journal *j, struct err *err)
{
	struct stat sb;

	if (!lstat(j->out, &sb) && io_remove_tree(j->out, err))
		return -1;
	if (ftruncate(j->fd, 0))
		return err_errno(err, ERR_OUTPUT, "%s: cannot truncate",
				 j->path);
	forget_lines(j);
	return j->lines ? 0 : err_set(err, ERR_RESOURCE,
				      "out of memory for JSON");
}

static int look(struct gq_journal *j, enum gq_journal_how how,
		struct err *err)
{
	if (how == GQ_JOURNAL_DISCARD)
		return wipe(j, err);
	/* the folder may have got its name just before the end */
	if (!io_is_dir(j->out))
		return wipe(j, err);
	if (read_lines(j, err))
		return -1;
	if (how == GQ_JOURNAL_NEW && j->blocks)
		return err_set(err, ERR_USAGE, "an unfinished job is there "
			       "(%s, %u block%s done): --resume goes on with "
			       "it, --force discards it", j->dir, j->blocks,
			       j->blocks == 1 ? "" : "s");
	return j->blocks ? 0 : wipe(j, err);
}

int gq_journal_open(const char *final, enum gq_journal_how how,
		    struct gq_journal **out, struct err *err)
{
	struct gq_journal *j = mem_alloc(1, sizeof(*j), err);

	*out = NULL;
	if (!j)
		return -1;
	j->fd = -1;
	if (set_names(j, final, err) || lock(j, err) || look(j, how, err)) {
		/* what is there belongs to somebody else, or is kept */
		if (j->fd >= 0)
			close(j->fd);
		j->fd = -1;
		gq_journal_close(j);
		return err_ctx(err, "%s", final);
	}
	*out = j;
	return 0;
}

const char *gq_journal_dir(const struct gq_journal *j)
{
	return j->dir;
}

const char *gq_journal_out(const struct gq_journal *j)
{
	return j->out;
}

/* ---- writing ---- */

/* One line behind the others, synced; a torn one is overwritten. */
static int write_line(struct gq_journal *j, const struct cJSON *line,
		      struct err *err)
{
	char *text = json_print(line, false, err);
	size_t n;
	int ret = -1;

	if (!text)
		return -1;
	n = strlen(text);
	if (ftruncate(j->fd, (off_t)j->end)) {
		err_errno(err, ERR_OUTPUT, "cannot truncate");
		goto out;
	}
	if (io_pwrite(j->fd, text, n, j->end, err))
		goto out;
	if (fsync(j->fd)) {
		err_errno(err, ERR_OUTPUT, "cannot sync");
		goto out;
	}
	j->end += n;
	ret = 0;
out:
	free(text);
	return ret ? err_ctx(err, "%s", j->path) : 0;
}

/* Write and remember; `line` becomes the journal's. */
static int append(struct gq_journal *j, struct cJSON *line, struct err *err)
{
	if (!line)
		return err_set(err, ERR_RESOURCE, "out of memory for JSON");
	if (write_line(j, line, err)) {
		json_free(line);
		return -1;
	}
	return note(j, line, err);
}

int gq_journal_bind(struct gq_journal *j, const struct cJSON *identity,
		    struct err *err)
{
	const struct cJSON *first = json_first(j->lines);

	if (!first)
		return append(j, cJSON_Duplicate(identity, 1), err);
	if (gq_identity_compare(identity, first, err))
		return err_ctx(err, "--resume");
	return 0;
}

uint32_t gq_journal_blocks(const struct gq_journal *j)
{
	return j->blocks;
}

const struct cJSON *gq_journal_linears(const struct gq_journal *j,
				       uint32_t block)
{
	return block < j->blocks ? j->block[block] : NULL;
}

bool gq_journal_laid_out(const struct gq_journal *j)
{
	return j->laid_out;
}

int gq_journal_lay_out(struct gq_journal *j, struct err *err)
{
	struct cJSON *line = cJSON_CreateObject();

	cJSON_AddTrueToObject(line, "laid_out");
	return append(j, line, err);
}

int gq_journal_add(struct gq_journal *j, struct cJSON *linears,
		   struct err *err)
{
	struct cJSON *line = cJSON_CreateObject();

	cJSON_AddNumberToObject(line, "block", j->blocks);
	if (!line || !cJSON_AddItemToObject(line, "linears", linears)) {
		json_free(linears);
		json_free(line);
		line = NULL;
	}
	return append(j, line, err);
}

/* ---- the end ---- */

void gq_journal_finish(struct gq_journal *j)
{
	struct err ignored;

	io_remove_tree(j->dir, &ignored);
	j->finished = true;
}

void gq_journal_close(struct gq_journal *j)
{
	struct err ignored;

	if (!j)
		return;
	if (j->fd >= 0) {
		if (!j->finished && !j->blocks)
			io_remove_tree(j->dir, &ignored);
		close(j->fd); /* and unlocks */
	}
	json_free(j->lines);
	free(j->block);
	free(j->dir);
	free(j->out);
	free(j->path);
	free(j);
}

/* ---- rows ---- */

/* The numbers of a report, by name. */
static const struct {
	const char *key;
	size_t at;
	bool whole; /* uint32_t, else double */
} fields[] = {
#define FIELD(key, member, whole) \
	{ key, offsetof(struct gq_layer_report, member), whole }
	FIELD("in", in, true), FIELD("out", out, true),
	FIELD("loss", r.loss, false), FIELD("rel_error", r.rel_error, false),
	FIELD("out_error", r.out_error, false),
	FIELD("rtn_error", r.rtn_error, false),
	FIELD("damp", r.damp, false), FIELD("dead", r.dead, true),
	FIELD("seconds", seconds, false)
#undef FIELD
};

#define FIELDS (sizeof(fields) / sizeof(fields[0]))

struct cJSON *gq_journal_row(const struct gq_layer_report *r, const char *hash)
{
	struct cJSON *o = cJSON_CreateObject();

	if (!o || !cJSON_AddStringToObject(o, "name", r->name) ||
	    !cJSON_AddStringToObject(o, "hash", hash))
		goto fail;
	for (size_t i = 0; i < FIELDS; i++) {
		const char *p = (const char *)r + fields[i].at;
		uint32_t u;
		double d;

		if (fields[i].whole) {
			memcpy(&u, p, sizeof(u));
			d = u;
		} else {
			memcpy(&d, p, sizeof(d));
		}
		if (!cJSON_AddNumberToObject(o, fields[i].key, d))
			goto fail;
	}
	return o;
fail:
	cJSON_Delete(o);
	return NULL;
}

int gq_journal_read_row(const struct cJSON *row, struct gq_layer_report *r,
			const char **hash, struct err *err)
{
	const char *name = json_text(json_find(row, "name"));

	memset(r, 0, sizeof(*r));
	*hash = json_text(json_find(row, "hash"));
	if (!name || !*hash || strlen(name) >= sizeof(r->name))
		return err_set(err, ERR_INPUT, "a row of the journal lacks "
			       "its name or hash");
	memcpy(r->name, name, strlen(name) + 1);
	for (size_t i = 0; i < FIELDS; i++) {
		char *p = (char *)r + fields[i].at;
		double d;
		uint32_t u;

		if (json_double(json_find(row, fields[i].key), &d))
			return err_set(err, ERR_INPUT, "a row of the journal "
				       "lacks \"%s\"", fields[i].key);
		u = d >= 0 && d <= UINT32_MAX ? (uint32_t)d : 0;
		if (fields[i].whole)
			memcpy(p, &u, sizeof(u));
		else
			memcpy(p, &d, sizeof(d));
	}
	return 0;
}
