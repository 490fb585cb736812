/* gguf.h - GGUF files: a validated reader of versions 2 and 3, and what makes
 * the planned writer (st.h) write version 3.
 *
 *	"GGUF"  u32 version  u64 tensors  u64 pairs
 *	pairs   x  string key, u32 type, value
 *	tensors x  string name, u32 rank, u64 dim[rank], u32 type, u64 offset
 *	padding, then the data; every tensor is padded to the alignment
 *
 * All numbers are little endian; a string is its length as u64 and its bytes.
 * dim[0] is the fastest dimension in the file; struct tensor has it last.
 *
 * Reader: counts and lengths are bounded by what is left of the file before
 * anything is allocated; keys and names are UTF-8 and unique, names shorter
 * than 64 bytes; arrays do not nest; the alignment is a power of two; types are
 * known, rows are whole blocks, and offsets follow each other without a hole.
 * Version 1 (32-bit counts) and big endian files are refused by name.
 *
 * Files: gguf.c reads, gguf_values.c answers, gguf_write.c writes.
 *
 * Not here: what keys and names mean (llama_gguf.h), blocks (qfmt_gguf.c).
 * Source: gptq-formats(5) "GGUF"; ggml's docs/gguf.md and gguf.cpp. */
#ifndef LIBFMT_CONTAINER_GGUF_H
#define LIBFMT_CONTAINER_GGUF_H

#include "tensor.h"

#include <stdbool.h>
#include <stddef.h>

struct err;
struct src;
struct st_writer;

#define GGUF_NAME 64 /* bytes of a tensor's name with its NUL, at most */

enum gguf_type {
	GGUF_U8 = 0,
	GGUF_I8,
	GGUF_U16,
	GGUF_I16,
	GGUF_U32,
	GGUF_I32,
	GGUF_F32,
	GGUF_BOOL,
	GGUF_TEXT,
	GGUF_ARRAY,
	GGUF_U64,
	GGUF_I64,
	GGUF_F64,
	GGUF_TYPES
};

struct gguf_kv {
	const char *key;  /* key_len bytes in the file, no NUL behind */
	uint32_t key_len;
	uint32_t type;    /* enum gguf_type */
	uint32_t item;    /* of an array: type of its items */
	uint64_t count;   /* items of an array, bytes of a text, else 1 */
	const void *data; /* the value, unaligned, in the file */
	uint64_t raw;     /* bytes behind the key: types, counts, value */
};

struct gguf_file {
	struct tensor *tensor; /* in file order */
	char (*names)[GGUF_NAME]; /* [count], what tensor[].name points to */
	uint32_t count;
	struct gguf_kv *kv;
	uint32_t kv_count;
	uint32_t version, alignment;
	uint64_t data_begin;
	uint32_t odd;          /* enum st_odd, what was tolerated */
};

/* Bytes from the front that are asked for at first where the file is on a
 * server: most headers fit. */
#define GGUF_REACH ((uint64_t)8 << 20)

/* Tensors and values point into src and live as long as it does.  `flags` are
 * enum st_flags.  On failure *out is zeroed; the message does not begin with
 * the path. */
int gguf_open(struct src *s, unsigned flags, struct gguf_file *out,
	      struct err *err);
void gguf_close(struct gguf_file *f); /* accepts a zeroed struct */

/* ---- values ---- */

/* The pair with this key, or NULL. */
const struct gguf_kv *gguf_find(const struct gguf_file *f, const char *key);
/* 1 and the value where the key is there, of that kind (any width) and at most
 * hi; else 0 and *out stays.  A number that is meant to be real may be stored
 * whole. */
int gguf_uint(const struct gguf_file *f, const char *key, uint64_t hi,
	      uint64_t *out);
int gguf_real(const struct gguf_file *f, const char *key, double *out);
int gguf_bool(const struct gguf_file *f, const char *key, bool *out);
/* Borrowed from the file, no NUL behind; any bytes. */
int gguf_text(const struct gguf_file *f, const char *key, const char **out,
	      size_t *len);
int gguf_is_text(const struct gguf_file *f, const char *key, const char *text);
/* An array with items of this type, or NULL. */
const struct gguf_kv *gguf_array(const struct gguf_file *f, const char *key,
				 enum gguf_type item);
/* The next text of an array: *at begins as NULL.  0 behind the last one. */
struct gguf_texts {
	const uint8_t *at;
	uint64_t left;
};
struct gguf_texts gguf_texts(const struct gguf_kv *array);
int gguf_texts_next(struct gguf_texts *t, const char **text, size_t *len);

/* ---- writing ---- */

/* The pairs of a file to be.  Too little memory is kept in mind and told by
 * gguf_create, so that the calls between need no checks. */
struct gguf_meta {
	void *data;
	size_t len, cap;
	uint64_t count;
	int failed;
};
void gguf_put_u32(struct gguf_meta *m, const char *key, uint32_t v);
void gguf_put_i32(struct gguf_meta *m, const char *key, int32_t v);
void gguf_put_f32(struct gguf_meta *m, const char *key, double v);
void gguf_put_bool(struct gguf_meta *m, const char *key, bool v);
void gguf_put_text(struct gguf_meta *m, const char *key, const char *text,
		   size_t len);
/* A pair of another file as it is. */
void gguf_put_pair(struct gguf_meta *m, const struct gguf_kv *kv);
/* Followed by `count` items of that type, by the calls below. */
void gguf_put_array(struct gguf_meta *m, const char *key, enum gguf_type item,
		    uint64_t count);
void gguf_add_text(struct gguf_meta *m, const char *text, size_t len);
void gguf_add_u32(struct gguf_meta *m, uint32_t bits); /* I32 too */
void gguf_add_f32(struct gguf_meta *m, float v);
void gguf_meta_release(struct gguf_meta *m); /* accepts a zeroed struct */

/* st_writer_create_file for GGUF: tensors in the order they were planned,
 * behind these pairs.  Pouring and the commit are the writer's. */
int gguf_create(struct st_writer *w, const char *path,
		const struct gguf_meta *m, struct err *err);

/* ggml's number of a type; -1: it has none. */
int gguf_dtype(enum dtype t);

#endif
