/* torch_pickle.h - a pickle as a graph of values; between the torch_* files
 * only.
 *
 * Values and items live in arrays and refer to each other by index, so that
 * nothing here recurses, however deep the file nests. */
#ifndef LIBFMT_CONTAINER_TORCH_PICKLE_H
#define LIBFMT_CONTAINER_TORCH_PICKLE_H

#include "tensor.h"

#include <stddef.h>

struct err;
struct src;
struct torch_file;

#define TORCH_PICKLE_MAX ((uint64_t)64 << 20) /* bytes of one pickle */
#define TORCH_OBJECTS_MAX (1u << 20)          /* tensors, storages */
#define TORCH_KEY_MAX 255u                    /* bytes of a storage's key */

enum torch_kind {
	TORCH_NONE,
	TORCH_BOOL,
	TORCH_INT,
	TORCH_BIG,     /* an integer of more than 64 bits: its bytes */
	TORCH_FLOAT,
	TORCH_TEXT,
	TORCH_BYTES,
	TORCH_TUPLE,
	TORCH_LIST,
	TORCH_MAP,
	TORCH_GLOBAL,  /* an allowed name */
	TORCH_STORAGE,
	TORCH_TENSOR,
	TORCH_OTHER    /* read and of no interest */
};

struct torch_val {
	uint8_t kind;            /* enum torch_kind */
	uint8_t row;             /* TORCH_GLOBAL: of the table */
	uint32_t n;              /* bytes of text; number of items */
	union {
		int64_t i;           /* TORCH_INT, TORCH_BOOL */
		const char *text;    /* in the file, no NUL behind it */
		struct {             /* items; 0: none */
			uint32_t first, last;
		} list;
		uint32_t at;         /* of the storage or the tensor */
	} u;
};

/* One value of a tuple or list (key 0), or a pair of a map. */
struct torch_item {
	uint32_t key, val;
	uint32_t next; /* 0: the last one */
};

/* What a persistent id says.  Sizes in elements of `type`. */
struct torch_storage {
	const char *key;
	uint32_t key_len;
	enum dtype type;      /* U8 for an untyped one */
	uint64_t numel;       /* of the whole storage */
	uint64_t from, count; /* the window in it */
	uint64_t at;          /* file offset of the whole; by the container */
	const uint8_t *mem;   /* or where it was inflated to; NULL: in the
				 file */
};

/* A view of a storage; sizes in elements of `type`, checked to lie inside. */
struct torch_view {
	uint32_t storage;
	enum dtype type;
	int rank;
	uint64_t dim[TENSOR_RANK], stride[TENSOR_RANK];
	uint64_t offset;      /* from the window's begin */
};

struct torch_pickle {
	const uint8_t *p;     /* `size` bytes, `at` of them read */
	uint64_t size, at;
	uint32_t root;        /* what the pickle means */
	struct torch_val *val;         /* [0] is not used */
	struct torch_item *item;       /* [0] is not used */
	struct torch_storage *storage;
	struct torch_view *view;
	uint32_t *stack, *mark, *memo; /* memo: value, 0 where none is */
	size_t val_count, val_cap, item_count, item_cap;
	size_t storage_count, storage_cap, view_count, view_cap;
	size_t stack_count, stack_cap, mark_count, mark_cap;
	size_t memo_count, memo_cap, memo_filled;
};

/* Read one pickle from the first n bytes at p; k->at tells where it ends.  The
 * graph points into p.  k must be zeroed, and is to be released whatever the
 * result. */
int torch_pickle_run(struct torch_pickle *k, const void *p, uint64_t n,
		     struct err *err);
void torch_pickle_release(struct torch_pickle *k);

/* ---- for torch_objects.c ---- */

/* A new value; its index. */
int torch_val_new(struct torch_pickle *k, const struct torch_val *v,
		  uint32_t *out, struct err *err);
/* Put a value (or a pair) behind the last item of a container. */
int torch_val_append(struct torch_pickle *k, uint32_t to, uint32_t key,
		     uint32_t val, struct err *err);
/* "a list" and so on, for messages. */
const char *torch_kind_name(const struct torch_val *v);
/* 1 for a text with exactly these bytes. */
int torch_is_text(const struct torch_val *v, const char *text);

/* The row of module.name among the names that are allowed; refuses others. */
int torch_global_find(const char *module, size_t module_len, const char *name,
		      size_t name_len, uint8_t *row, struct err *err);
/* What name(args...) stands for. */
int torch_call(struct torch_pickle *k, uint8_t row, uint32_t args,
	       uint32_t *out, struct err *err);
/* What cls.__new__(args...) stands for: only for things of no interest. */
int torch_make(struct torch_pickle *k, uint8_t row, uint32_t *out,
	       struct err *err);
/* The storage that a persistent id names. */
int torch_storage_new(struct torch_pickle *k, uint32_t id, uint32_t *out,
		      struct err *err);

/* ---- for the containers ---- */

/* The tensors of the graph's state dict, every storage's `at` being known. */
int torch_state_read(const struct torch_pickle *k, struct src *s,
		     struct torch_file *out, struct err *err);

#endif
