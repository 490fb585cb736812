/* st.h - safetensors files: a validated reader and a planned writer.
 *
 * Reader: every limit of gptq-formats(5) "Safetensors" is checked before a
 * tensor is handed out: header at most 100 000 000 bytes and inside the file,
 * strict UTF-8 JSON that begins with '{', known dtypes, products without
 * overflow, offsets in order without hole or overlap, size = shape x type,
 * last end = end of file, no duplicate names.
 *
 * Writer: plan all tensors, write the headers (space for every shard is
 * reserved, so a full disk is found before work begins), pour bytes in any
 * order from any thread, commit.  The commit fails unless every planned byte
 * was poured.  With gguf_create (gguf.h) in the place of st_writer_create the
 * file is a GGUF; all else is the same.
 *
 * Not here: checkpoint directories (model.h), quantized layers (qfmt.h).
 * Source: github.com/safetensors/safetensors, format text and validation. */
#ifndef LIBFMT_CONTAINER_ST_H
#define LIBFMT_CONTAINER_ST_H

#include "tensor.h"

#include <stddef.h>

struct cJSON;
struct err;
struct src;
struct st_writer;

#define ST_HEADER_MAX 100000000u /* bytes, not MiB: the reference's limit */
#define ST_META "__metadata__"   /* the one name that is no tensor's */

enum st_flags {
	ST_LENIENT = 1 /* read on over holes, trailing bytes and blanks in
			  front of the header; *odd tells */
};

enum st_odd { ST_ODD_HOLE = 1, ST_ODD_TRAILING = 2, ST_ODD_NO_FORMAT = 4,
	ST_ODD_BLANKS = 8 };

/* One opened file. */
struct st_file {
	struct tensor *tensor; /* in file order; names are owned here */
	uint32_t count;
	uint64_t data_begin;   /* 8 + header length */
	uint32_t odd;          /* enum st_odd, what was tolerated */
	struct cJSON *meta;    /* the __metadata__ object, or NULL */
	void *mem;
};

/* 1 when the first n bytes (at least 9) and the file's size look like
 * safetensors.  A file that was cut short still does: st_open says what is
 * missing. */
int st_sniff(const void *head, size_t n, uint64_t file_size);
/* Bytes of the length and the header, of 8 bytes that st_sniff likes. */
uint64_t st_reach(const void *head);
/* Tensors point into src and live as long as it does; those of a file that is
 * not at hand (io_is_local) have no data.  Many threads may read
 * one file.  On failure *out is zeroed. */
int st_open(struct src *s, unsigned flags, struct st_file *out,
	    struct err *err);
void st_close(struct st_file *f); /* accepts a zeroed struct */

/* ---- writer ---- */

/* A new, empty plan. */
int st_writer_new(struct st_writer **out, struct err *err);
/* Plan one tensor.  The name is copied.  *id counts from 0 in the order of
 * the calls.  Names must differ (checked by st_writer_create). */
int st_writer_add(struct st_writer *w, const char *name, enum dtype type,
		  int rank, const uint64_t *dim, uint32_t *id,
		  struct err *err);
/* Put key = value (both copied) into __metadata__; "format" = "pt" is always
 * there. */
int st_writer_meta(struct st_writer *w, const char *key, const char *value,
		   struct err *err);
/* Cut the plan into shards of at most shard_size bytes of data (a larger tensor
 * gets a shard of its own; 0: one file), tensors in the order they were added,
 * and create the files in `dir`: model.safetensors, or
 * model-00001-of-0000N.safetensors with model.safetensors.index.json.  Inside
 * a file tensors stand as the reference writer orders them.  Disk space is
 * reserved: too little is ERR_RESOURCE with both numbers. */
int st_writer_create(struct st_writer *w, const char *dir,
		     uint64_t shard_size, struct err *err);
/* The same into one file of any name (no index). */
int st_writer_create_file(struct st_writer *w, const char *path,
			  struct err *err);
/* Go on with the files that an earlier st_writer_create of the same plan left
 * in `dir`.  ERR_INPUT when one is not as planned. */
int st_writer_reopen(struct st_writer *w, const char *dir,
		     uint64_t shard_size, struct err *err);
/* After a reopen: tensor `id` was poured whole by the earlier run. */
void st_writer_assume(struct st_writer *w, uint32_t id);
/* What was poured so far survives a crash from here on. */
int st_writer_sync(struct st_writer *w, struct err *err);
/* n bytes of tensor `id` at byte `off` of it.  Any order, any thread; no byte
 * twice (the number of bytes is counted, not which ones). */
int st_writer_pour(struct st_writer *w, uint32_t id, uint64_t off,
		   const void *data, uint64_t n, struct err *err);
/* Pour a tensor from a file range, in the kernel where possible. */
int st_writer_copy(struct st_writer *w, uint32_t id, struct src *from,
		   uint64_t from_off, struct err *err);
/* Pour a tensor of a model from its file, or from memory where it was copied
 * there (TENSOR_COPIED), its rows in place. */
int st_writer_tensor(struct st_writer *w, uint32_t id, const struct tensor *t,
		     struct src *file, struct err *err);
/* Sum of all tensor bytes, number of shards (after create). */
uint64_t st_writer_bytes(const struct st_writer *w);
uint32_t st_writer_shards(const struct st_writer *w);
/* Check that every byte was poured, sync, write the index, close. */
int st_writer_commit(struct st_writer *w, struct err *err);
/* Release; files of an uncommitted writer are left to the stage they are in.
 * Accepts NULL. */
void st_writer_free(struct st_writer *w);

#endif
