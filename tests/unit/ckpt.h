/* ckpt.h - checkpoints made for a test: copies of the tiny model with one thing
 * broken, and files of a few tensors. */
#ifndef TESTS_UNIT_CKPT_H
#define TESTS_UNIT_CKPT_H

#include "../../libfmt/base/err.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/container/st.h"
#include "../../libfmt/model.h"
#include "scratch.h"

#define TINY "tests/models/tiny"

struct ckpt_item {
	const char *name;
	enum dtype type;
	int rank;
	uint64_t dim[2];
	const void *data; /* NULL: zeros */
};

static inline int ckpt_pour(struct st_writer *w, uint32_t id,
			    const struct tensor *t, struct err *err)
{
	void *zero = t->data ? NULL : calloc(1, t->size + 1);
	int ret = st_writer_pour(w, id, 0, t->data ? t->data : zero, t->size,
				 err);

	free(zero);
	return ret;
}

/* n tensors into one file of any name. */
static inline int ckpt_file(const char *path, const struct ckpt_item *item,
			    uint32_t n, struct err *err)
{
	struct st_writer *w = NULL;
	int ret = -1;
	uint32_t id;

	if (st_writer_new(&w, err))
		return -1;
	for (uint32_t i = 0; i < n; i++)
		if (st_writer_add(w, item[i].name, item[i].type, item[i].rank,
				  item[i].dim, &id, err))
			goto out;
	if (st_writer_create_file(w, path, err))
		goto out;
	for (uint32_t i = 0; i < n; i++) {
		struct tensor t = { .data = item[i].data,
			.size = tensor_dtype_bits(item[i].type) / 8 };

		for (int d = 0; d < item[i].rank; d++)
			t.size *= item[i].dim[d];
		if (ckpt_pour(w, i, &t, err))
			goto out;
	}
	ret = st_writer_commit(w, err);
out:
	st_writer_free(w);
	return ret;
}

/* What to do to the copy of the tiny model. */
struct ckpt_break {
	uint64_t shard_size;
	const char *drop; /* tensor that is left out */
	const char *crop; /* tensor whose last dimension is one too short */
};

static inline int ckpt_plan(const struct model *m, const struct ckpt_break *b,
			    struct st_writer *w, struct err *err)
{
	for (uint32_t i = 0; i < m->tensor_count; i++) {
		struct tensor t = m->tensor[i];
		uint32_t id;

		if (b->drop && !strcmp(t.name, b->drop))
			continue;
		if (b->crop && !strcmp(t.name, b->crop))
			t.dim[t.rank - 1]--;
		if (st_writer_add(w, t.name, t.type, t.rank, t.dim, &id, err))
			return -1;
	}
	return 0;
}

/* The weights and config.json of the tiny model into DIR. */
static inline int ckpt_tiny(const char *dir, const struct ckpt_break *b,
			    struct err *err)
{
	struct model *m = NULL;
	struct st_writer *w = NULL;
	char path[256];
	uint32_t id = 0;
	int ret = -1;

	mkdir(dir, 0777);
	snprintf(path, sizeof(path), "%s/config.json", dir);
	if (model_open(TINY, 0, &m, err) || st_writer_new(&w, err) ||
	    ckpt_plan(m, b, w, err) ||
	    st_writer_create(w, dir, b->shard_size, err) ||
	    io_copy_file(TINY "/config.json", path, err))
		goto out;
	for (uint32_t i = 0; i < m->tensor_count; i++) {
		struct tensor t = m->tensor[i];

		if (b->drop && !strcmp(t.name, b->drop))
			continue;
		if (b->crop && !strcmp(t.name, b->crop)) {
			t.size = t.size / t.dim[t.rank - 1] *
				 (t.dim[t.rank - 1] - 1);
			t.data = NULL;
		}
		if (ckpt_pour(w, id++, &t, err))
			goto out;
	}
	ret = st_writer_commit(w, err);
out:
	st_writer_free(w);
	model_close(m);
	return ret;
}

/* Replace every `from` in a text file by `to`; -1 when there is none. */
static inline int ckpt_edit(const char *path, const char *from, const char *to)
{
	struct err err;
	char *text, *p, *out;
	size_t n, at = 0;
	int hits = 0;

	if (io_read_file(path, 1 << 24, &text, &n, &err))
		return -1;
	out = calloc(n + 1, strlen(to) + 1);
	for (p = text; out && *p;) {
		if (strncmp(p, from, strlen(from))) {
			out[at++] = *p++;
			continue;
		}
		memcpy(out + at, to, strlen(to));
		at += strlen(to);
		p += strlen(from);
		hits++;
	}
	if (!out || io_write_file(path, out, at, &err))
		hits = 0;
	free(text);
	free(out);
	return hits ? 0 : -1;
}

#endif
