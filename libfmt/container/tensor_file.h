/* tensor_file.h - one weight file of any container, as a list of tensors.
 *
 * What a file is, is decided by its first bytes and never by its name.  A new
 * container is one more row of the table in tensor_file.c.  Rows that only
 * refuse are containers too: what is in a weight file's place (a Git-LFS
 * pointer, a web page, an old tar) is said by name. */
#ifndef LIBFMT_CONTAINER_TENSOR_FILE_H
#define LIBFMT_CONTAINER_TENSOR_FILE_H

#include "tensor.h"

#include <stdbool.h>

struct cJSON;
struct err;
struct gguf_file;
struct src;

struct tensor_file {
	const char *container;    /* "safetensors", "torch zip", ... */
	struct tensor *tensor;    /* dense, in the file's order; owned here */
	uint32_t count;
	uint32_t odd;             /* enum st_odd */
	const struct cJSON *meta; /* string -> string, or NULL */
	struct gguf_file *gguf;   /* pairs of keys and values, or NULL */
	void *own;                /* the container's */
	void (*close)(void *own);
};

/* Tensors point into src (or, where their offset is TENSOR_COPIED, into memory
 * of this) and live as long as it and this.  `flags` are enum
 * st_flags.  On failure *out is zeroed and err begins with the path. */
int tensor_file_open(struct src *s, unsigned flags, struct tensor_file *out,
		     struct err *err);
/* How many bytes from the front tensor_file_open is going to want, as far as
 * the first few tell; 0: they do not. */
int tensor_file_reach(struct src *s, uint64_t *bytes, struct err *err);
/* Is it a Git-LFS pointer?  *bytes: the size of what it stands for, 0 where it
 * does not say. */
bool tensor_file_pointer(struct src *s, uint64_t *bytes);
void tensor_file_close(struct tensor_file *f); /* accepts a zeroed struct */

#endif
