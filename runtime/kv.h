/* kv.h - the key/value cache: per block, one row per position, of one sequence
 * behind the other. */
#ifndef RUNTIME_KV_H
#define RUNTIME_KV_H

#include "linear.h"

struct kv_shape {
	uint32_t layers, sequences;
	uint32_t capacity;         /* positions of each there is room for */
	uint32_t kv_heads, head_dim;
	enum dtype type;           /* F32, F16, I8 (struct be_cache) or NONE */
	uint64_t spare;            /* bytes that must be left for others */
};

struct kv {
	uint32_t layers, sequences, capacity;
	enum dtype type;
	struct be_cache *layer;    /* [layers], each of sequences * capacity
				      rows */
};

/* The type that NONE stands for on a device: F32 on the CPU, F16 on a GPU. */
enum dtype kv_type(const struct rt_dev *d, enum dtype asked);
/* Bytes of a cache of this shape (type not NONE); UINT64_MAX when that does
 * not fit. */
uint64_t kv_bytes(const struct kv_shape *s);
/* Not filled.  ERR_RESOURCE when the device has not the room, with what
 * it has room for.  On failure *kv is zeroed. */
int kv_init(struct kv *kv, const struct rt_dev *d, const struct kv_shape *s,
	    struct err *err);
/* The rows of one sequence in a block's cache. */
struct be_cache kv_sequence(const struct kv *kv, uint32_t layer, uint32_t s);
void kv_release(struct kv *kv, const struct rt_dev *d);

#endif
