/* kv.h - the key/value cache: per block, one row per position. */
#ifndef RUNTIME_KV_H
#define RUNTIME_KV_H

#include "linear.h"

struct kv {
	uint32_t layers, capacity; /* positions there is room for */
	uint32_t used;             /* positions that are filled */
	struct be_mat *k, *v;      /* [layers], each F32 [capacity][kv_width] */
	void *mem;                 /* behind k and v */
};

/* Bytes a cache of this size takes; UINT64_MAX when that does not fit.
 * `width` is kv_heads * head_dim. */
uint64_t kv_bytes(uint32_t layers, uint32_t capacity, uint32_t width);
/* Empty, used == 0.  On failure *kv is zeroed. */
int kv_init(struct kv *kv, const struct rt_dev *d, uint32_t layers,
	    uint32_t capacity, uint32_t width, struct err *err);
void kv_release(struct kv *kv, const struct rt_dev *d);

#endif
