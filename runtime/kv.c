/* The cache is one pair of matrices per block.  Memory is asked for at once
 * for the whole capacity, so that a context which does not fit fails at the
 * start and not in the middle of an answer; the system hands out the pages as
 * positions are filled. */
#include "kv.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <stdlib.h>

uint64_t kv_bytes(uint32_t layers, uint32_t capacity, uint32_t width)
{
	uint64_t n = (uint64_t)capacity * width;

	if (mem_mul64(n, layers, &n) ||
	    mem_mul64(n, 2 * be_elem(DT_F32), &n))
		return UINT64_MAX;
	return n;
}

int kv_init(struct kv *kv, const struct rt_dev *d, uint32_t layers,
	    uint32_t capacity, uint32_t width, struct err *err)
{
	const struct mem_part part[] = {
		{ (void **)&kv->k, layers, sizeof(*kv->k) },
		{ (void **)&kv->v, layers, sizeof(*kv->v) },
	};
	int ret = -1;

	*kv = (struct kv){ 0 };
	kv->mem = mem_block(part, 2, err);
	if (!kv->mem)
		goto out;
	kv->layers = layers;
	kv->capacity = capacity;
	for (uint32_t i = 0; i < layers; i++) {
		if (be_mat_new(d->api, d->be, capacity, width, DT_F32,
			       &kv->k[i], err) ||
		    be_mat_new(d->api, d->be, capacity, width, DT_F32,
			       &kv->v[i], err))
			goto out;
	}
	ret = 0;
out:
	if (!ret)
		return 0;
	kv_release(kv, d);
	return err_ctx(err, "the cache of %u positions (%llu bytes)", capacity,
		       (unsigned long long)kv_bytes(layers, capacity, width));
}

void kv_release(struct kv *kv, const struct rt_dev *d)
{
	for (uint32_t i = 0; i < kv->layers; i++) {
		be_mat_free(d->api, d->be, &kv->k[i]);
		be_mat_free(d->api, d->be, &kv->v[i]);
	}
	free(kv->mem);
	*kv = (struct kv){ 0 };
}
