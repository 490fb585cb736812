/* st_write.c - the safetensors writer: plan, create, pour, commit.
 *
 * Where every tensor goes is known before the first byte is written, so pours
 * need no order and no lock: they write at their offset (pwrite) and add to the
 * count of their tensor (an atomic).  The layout is made in st_layout.c. */
#include "st_plan.h"

#include "../base/err.h"
#include "../base/half.h"
#include "../base/io.h"
#include "../base/json.h"
#include "../base/mem.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXACT ((uint64_t)1 << 53)

/* ---- the plan ---- */

int st_writer_new(struct st_writer **out, struct err *err)
{
	struct st_writer *w = mem_alloc(1, sizeof(*w), err);

	*out = NULL;
	if (!w)
		return -1;
	w->meta = cJSON_CreateObject();
	if (!w->meta ||
	    !cJSON_AddStringToObject(w->meta, "format", "pt")) {
		st_writer_free(w);
		return err_set(err, ERR_RESOURCE, "not enough memory");
	}
	*out = w;
	return 0;
}

/* Text comes from files and from us; what is written must read back. */
static int check_text(const char *text, struct err *err)
{
	size_t n = strlen(text), len;

	for (size_t i = 0; i < n; i += len) {
		len = json_utf8(text + i, n - i);
		if (!len)
			return err_set(err, ERR_INPUT, "not UTF-8");
	}
	return 0;
}

/* Bytes of the tensor; `total` is what was planned before it. */
static int plan_size(struct st_plan *p, uint64_t total, struct err *err)
{
	uint64_t bits = tensor_dtype_bits(p->type), full;
	uint32_t bytes, block = tensor_dtype_block(p->type, &bytes);

	if (block) /* as many bits for each block; rows are whole ones */
		bits = bytes * UINT64_C(8);
	if (!bits)
		return err_set(err, ERR_INPUT, "unknown element type");
	if (block && (!p->rank || p->dim[p->rank - 1] % block))
		return err_set(err, ERR_INPUT, "rows are not whole blocks of "
			       "%u", block);
	full = bits;
	for (int i = 0; i < p->rank; i++) {
		/* readers also multiply the neighbours of a zero */
		if (mem_mul64(full, p->dim[i] ? p->dim[i] : 1, &full) ||
		    p->dim[i] > EXACT)
			return err_set(err, ERR_INPUT, "shape overflows");
		bits *= block && i == p->rank - 1 ? p->dim[i] / block :
						     p->dim[i];
	}
	if (bits % 8)
		return err_set(err, ERR_INPUT,
			       "shape is not a whole number of bytes");
	p->size = bits / 8;
	/* readers hold offsets exactly up to 2^53 */
	if (p->size > EXACT || total > EXACT - p->size)
		return err_set(err, ERR_INPUT, "more than 2^53 bytes in all");
	return 0;
}

int st_writer_add(struct st_writer *w, const char *name, enum dtype type,
		  int rank, const uint64_t *dim, uint32_t *id,
		  struct err *err)
{
	struct st_plan *p;
	void *grown = w->plan;
	int ret = -1;

	if (w->created || rank < 0 || rank > TENSOR_RANK ||
	    w->count == UINT32_MAX) {
		err_set(err, ERR_INPUT, w->created ? "planned too late" :
			rank < 0 || rank > TENSOR_RANK ? "rank out of range" :
			"too many tensors");
		goto out;
	}
	if (mem_grow(&grown, &w->plan_cap, w->count + 1, sizeof(*w->plan),
		     err))
		goto out;
	w->plan = grown;
	p = &w->plan[w->count];
	memset(p, 0, sizeof(*p));
	atomic_init(&p->poured, 0);
	p->type = type;
	p->rank = rank;
	for (int i = 0; i < rank; i++)
		p->dim[i] = dim[i];
	if (!strcmp(name, ST_META)) {
		err_set(err, ERR_INPUT, "not a name for a tensor");
		goto out;
	}
	if (check_text(name, err) || plan_size(p, w->bytes, err))
		goto out;
	p->name = mem_text(name, strlen(name), err);
	if (!p->name)
		goto out;
	w->bytes += p->size;
	*id = (uint32_t)w->count++;
	ret = 0;
out:
	return ret ? err_ctx(err, "tensor \"%s\"", name) : 0;
}

int st_writer_meta(struct st_writer *w, const char *key, const char *value,
		   struct err *err)
{
	struct cJSON *old, *text;

	if (check_text(key, err) || check_text(value, err))
		return err_ctx(err, ST_META ": \"%s\"", key);
	text = cJSON_CreateString(value);
	if (!text)
		goto memory;
	old = cJSON_GetObjectItemCaseSensitive(w->meta, key);
	if (old) {
		if (cJSON_ReplaceItemInObjectCaseSensitive(w->meta, key, text))
			return 0;
	} else if (cJSON_AddItemToObject(w->meta, key, text)) {
		return 0;
	}
	cJSON_Delete(text);
memory:
	return err_set(err, ERR_RESOURCE, "not enough memory");
}

/* ---- files ---- */

/* Bytes of the file. */
static uint64_t file_size(const struct st_shard *s)
{
	return s->lead + s->header_len + s->data;
}

/* All shards together, before the first one is created: a plan that cannot fit
 * leaves no trace. */
static int check_space(const struct st_writer *w, const char *where,
		       struct err *err)
{
	uint64_t have = io_free_space(where), need = 0;

	for (size_t i = 0; i < w->shards; i++)
		need += file_size(&w->shard[i]);
	if (need <= have)
		return 0;
	return err_set(err, ERR_RESOURCE, "%s: not enough disk space: %llu "
		       "bytes are needed, %llu are available", where,
		       (unsigned long long)need, (unsigned long long)have);
}

/* Length, header, and room for the data. */
static int create_shard(struct st_shard *s, struct err *err)
{
	uint8_t len[8];
	int ret = -1;

	s->fd = open(s->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (s->fd < 0) {
		err_errno(err, ERR_OUTPUT, "cannot create");
		goto out;
	}
	half_put64(len, s->header_len);
	/* so that a pour hours later cannot meet a full disk */
	if (io_reserve(s->fd, s->path, file_size(s), err) ||
	    io_pwrite(s->fd, len, s->lead, 0, err) ||
	    io_pwrite(s->fd, s->header, s->header_len, s->lead, err))
		goto out;
	free(s->header);
	s->header = NULL;
	ret = 0;
out:
	return ret ? err_ctx(err, "%s", s->path) : 0;
}

static int name_shards(struct st_writer *w, struct err *err)
{
	for (size_t i = 0; i < w->shards; i++) {
		struct st_shard *s = &w->shard[i];

		if (w->shards == 1)
			snprintf(s->file, sizeof(s->file), "model.safetensors");
		else
			snprintf(s->file, sizeof(s->file),
				 "model-%05zu-of-%05zu.safetensors", i + 1,
				 w->shards);
		s->path = io_join(w->dir, s->file, err);
		if (!s->path)
			return -1;
	}
	return 0;
}

static int plan_files(struct st_writer *w, uint64_t shard_size,
		      struct err *err)
{
	if (w->created)
		return err_set(err, ERR_INPUT, "created twice");
	w->created = 1;
	return st_layout_make(w, shard_size, err);
}

static int create_files(struct st_writer *w, const char *where,
			struct err *err)
{
	if (check_space(w, where, err))
		return -1;
	for (size_t i = 0; i < w->shards; i++)
		if (create_shard(&w->shard[i], err))
			return -1;
	return 0;
}

int st_writer_create(struct st_writer *w, const char *dir,
		     uint64_t shard_size, struct err *err)
{
	if (plan_files(w, shard_size, err))
		return -1;
	w->dir = mem_text(dir, strlen(dir), err);
	if (!w->dir || name_shards(w, err))
		return -1;
	return create_files(w, dir, err);
}

int st_writer_create_file(struct st_writer *w, const char *path,
			  struct err *err)
{
	return plan_files(w, 0, err) ? -1 : st_write_file(w, path, err);
}

int st_write_file(struct st_writer *w, const char *path, struct err *err)
{
	w->shard[0].path = mem_text(path, strlen(path), err);
	if (!w->shard[0].path)
		return -1;
	return create_files(w, path, err);
}

/* ---- going on ---- */

/* The same size, and the same header in front. */
static int check_shard(const struct st_shard *s, struct err *err)
{
	struct src *src = NULL;
	const char *head;
	const void *p;
	int ret = -1;

	if (io_open(s->path, &src, err))
		return -1;
	if (io_size(src) != file_size(s)) {
		err_set(err, ERR_INPUT, "%llu bytes, expected %llu",
			(unsigned long long)io_size(src),
			(unsigned long long)file_size(s));
		goto out;
	}
	if (io_view(src, 0, 8 + s->header_len, &p, err))
		goto out;
	head = p;
	if (half_le64(head) != s->header_len ||
	    memcmp(head + 8, s->header, (size_t)s->header_len)) {
		err_set(err, ERR_INPUT, "another header than was planned");
		goto out;
	}
	ret = 0;
out:
	io_close(src);
	return ret ? err_ctx(err, "%s", s->path) : 0;
}

int st_writer_reopen(struct st_writer *w, const char *dir,
		     uint64_t shard_size, struct err *err)
{
	if (plan_files(w, shard_size, err))
		return -1;
	w->dir = mem_text(dir, strlen(dir), err);
	if (!w->dir || name_shards(w, err))
		return -1;
	for (size_t i = 0; i < w->shards; i++) {
		struct st_shard *s = &w->shard[i];

		if (check_shard(s, err))
			return -1;
		s->fd = open(s->path, O_RDWR | O_CLOEXEC);
		if (s->fd < 0) {
			err_errno(err, ERR_OUTPUT, "cannot open");
			return err_ctx(err, "%s", s->path);
		}
		free(s->header);
		s->header = NULL;
	}
	return 0;
}

void st_writer_assume(struct st_writer *w, uint32_t id)
{
	atomic_store(&w->plan[id].poured, w->plan[id].size);
}

int st_writer_sync(struct st_writer *w, struct err *err)
{
	for (size_t i = 0; i < w->shards; i++)
		if (fsync(w->shard[i].fd)) {
			err_errno(err, ERR_OUTPUT, "cannot sync");
			return err_ctx(err, "%s", w->shard[i].path);
		}
	return 0;
}

/* ---- pouring ---- */

/* May these bytes be written?  The count goes up before the write, so that of
 * two threads that pour the same bytes at least one is refused, and a failed
 * write can never look complete: its error ends the job. */
static int account(struct st_writer *w, uint32_t id, uint64_t off, uint64_t n,
		   struct err *err)
{
	struct st_plan *p;

	if (!w->created || id >= w->count)
		return err_set(err, ERR_OUTPUT, "tensor %u is not planned", id);
	p = &w->plan[id];
	if (w->shard[p->shard].fd < 0)
		return err_set(err, ERR_OUTPUT, "tensor \"%s\": no file is "
			       "open", p->name);
	if (off > p->size || n > p->size - off)
		return err_set(err, ERR_OUTPUT, "tensor \"%s\": %llu bytes at "
			       "%llu do not fit into %llu", p->name,
			       (unsigned long long)n, (unsigned long long)off,
			       (unsigned long long)p->size);
	/* cannot wrap: it would take 2^64 bytes of failing calls */
	if (atomic_fetch_add(&p->poured, n) > p->size - n)
		return err_set(err, ERR_OUTPUT, "tensor \"%s\": bytes are "
			       "poured twice", p->name);
	return 0;
}

int st_writer_pour(struct st_writer *w, uint32_t id, uint64_t off,
		   const void *data, uint64_t n, struct err *err)
{
	const struct st_shard *s;

	if (account(w, id, off, n, err))
		return -1;
	s = &w->shard[w->plan[id].shard];
	if (io_pwrite(s->fd, data, n, w->plan[id].offset + off, err))
		return err_ctx(err, "%s", s->path);
	return 0;
}

int st_writer_copy(struct st_writer *w, uint32_t id, struct src *from,
		   uint64_t from_off, struct err *err)
{
	uint64_t n = id < w->count ? w->plan[id].size : 0;
	const struct st_shard *s;

	if (account(w, id, 0, n, err))
		return -1;
	s = &w->shard[w->plan[id].shard];
	if (io_copy_range(from, from_off, n, s->fd, w->plan[id].offset, err))
		return err_ctx(err, "%s", s->path);
	return 0;
}

/* Each row from the place where the file keeps it. */
static int pour_turned(struct st_writer *w, uint32_t id,
		       const struct tensor *t, struct err *err)
{
	uint64_t bytes = t->size / t->dim[0];

	for (uint32_t n = 0; n < t->dim[0]; n++)
		if (st_writer_pour(w, id, n * bytes, tensor_row_data(t, n),
				   bytes, err))
			return -1;
	return 0;
}

int st_writer_tensor(struct st_writer *w, uint32_t id, const struct tensor *t,
		     struct src *file, struct err *err)
{
	if (t->turned)
		return pour_turned(w, id, t, err);
	if (t->offset == TENSOR_COPIED)
		return st_writer_pour(w, id, 0, t->data, t->size, err);
	return st_writer_copy(w, id, file, t->offset, err);
}

uint64_t st_writer_bytes(const struct st_writer *w)
{
	return w->bytes;
}

uint32_t st_writer_shards(const struct st_writer *w)
{
	return (uint32_t)w->shards;
}

/* ---- the end ---- */

/* The promise of the commit: nothing is missing. */
static int check_poured(struct st_writer *w, struct err *err)
{
	for (size_t i = 0; i < w->count; i++) {
		struct st_plan *p = &w->plan[i];
		uint64_t n = atomic_load(&p->poured);

		if (n != p->size)
			return err_set(err, ERR_OUTPUT, "tensor \"%s\": %llu "
				       "of %llu bytes were written", p->name,
				       (unsigned long long)n,
				       (unsigned long long)p->size);
	}
	return 0;
}

static int close_shard(struct st_shard *s, struct err *err)
{
	int ret = 0;

	if (fsync(s->fd))
		ret = err_errno(err, ERR_OUTPUT, "cannot sync");
	if (close(s->fd) && !ret)
		ret = err_errno(err, ERR_OUTPUT, "cannot close");
	s->fd = -1;
	return ret ? err_ctx(err, "%s", s->path) : 0;
}

static int write_index(struct st_writer *w, struct err *err)
{
	char *path = NULL, *text = st_layout_index(w, err);
	int ret = -1;

	if (text)
		path = io_join(w->dir, "model.safetensors.index.json", err);
	if (path)
		ret = io_write_file(path, text, strlen(text), err);
	free(path);
	free(text);
	return ret;
}

int st_writer_commit(struct st_writer *w, struct err *err)
{
	int fd;

	if (!w->shards || w->shard[0].fd < 0)
		return err_set(err, ERR_OUTPUT, "no file is open");
	if (check_poured(w, err))
		return -1;
	for (size_t i = 0; i < w->shards; i++)
		if (close_shard(&w->shard[i], err))
			return -1;
	if (w->dir && w->shards > 1 && write_index(w, err))
		return -1;
	/* the names; not every directory can be synced, and the stage that
	 * renames it tries again */
	fd = w->dir ? open(w->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (fd >= 0) {
		fsync(fd);
		close(fd);
	}
	return 0;
}

void st_writer_free(struct st_writer *w)
{
	if (!w)
		return;
	for (size_t i = 0; i < w->count; i++)
		free(w->plan[i].name);
	for (size_t i = 0; i < w->shards; i++) {
		if (w->shard[i].fd >= 0)
			close(w->shard[i].fd);
		free(w->shard[i].path);
		free(w->shard[i].header);
	}
	free(w->plan);
	free(w->shard);
	json_free(w->meta);
	free(w->dir);
	free(w);
}
