/* The cache is a few matrices per block.  Memory is asked for at once for the
 * whole capacity, so that a context which does not fit fails at the start and
 * not in the middle of an answer; the system hands out the pages as positions
 * are filled. */
#include "kv.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum dtype kv_type(const struct rt_dev *d, enum dtype asked)
{
	if (asked != DT_NONE)
		return asked;
	return strcmp(d->api->name, "cuda") ? DT_F32 : DT_F16;
}

/* Of one position in all blocks. */
static uint64_t position_bytes(const struct kv_shape *s)
{
	uint64_t head = (uint64_t)s->head_dim * be_elem(s->type);

	if (s->type == DT_I8)
		head += be_elem(DT_F16);
	return 2 * head * s->kv_heads * s->layers;
}

uint64_t kv_bytes(const struct kv_shape *s)
{
	uint64_t n;

	return mem_mul64(position_bytes(s), s->capacity, &n) ? UINT64_MAX : n;
}

static const char *type_name(enum dtype t)
{
	return t == DT_F32 ? "f32" : t == DT_F16 ? "f16" : "q8";
}

/* The message of a cache that is too large: what it takes, what there is, and
 * what would fit. */
static int too_large(const struct kv_shape *s, uint64_t avail,
		     struct err *err)
{
	const double gib = 1 << 30;
	uint64_t room = avail > s->spare ? avail - s->spare : 0;
	struct kv_shape q8 = *s;
	char other[64] = "";

	q8.type = DT_I8;
	if (s->type != DT_I8 && kv_bytes(&q8) <= room)
		snprintf(other, sizeof(other), ", or all %u with --kv-type q8",
			 s->capacity);
	else if (s->type != DT_I8)
		snprintf(other, sizeof(other), ", or %llu with --kv-type q8",
			 (unsigned long long)(room / position_bytes(&q8)));
	return err_set(err, ERR_RESOURCE,
		       "a context of %u takes %.2f GiB as %s and %.2f GiB are "
		       "free beside the weights: there is room for %llu "
		       "positions (-c)%s",
		       s->capacity, (double)kv_bytes(s) / gib,
		       type_name(s->type), (double)room / gib,
		       (unsigned long long)(room / position_bytes(s)), other);
}

static int layer_init(struct be_cache *c, const struct rt_dev *d,
		      const struct kv_shape *s, struct err *err)
{
	uint32_t width = s->kv_heads * s->head_dim;

	if (be_mat_new(d->api, d->be, s->capacity, width, s->type, &c->k,
		       err) ||
	    be_mat_new(d->api, d->be, s->capacity, width, s->type, &c->v, err))
		return -1;
	if (s->type != DT_I8)
		return 0;
	return be_mat_new(d->api, d->be, s->capacity, s->kv_heads, DT_F16,
			  &c->k_scale, err) ||
	       be_mat_new(d->api, d->be, s->capacity, s->kv_heads, DT_F16,
			  &c->v_scale, err) ? -1 : 0;
}

int kv_init(struct kv *kv, const struct rt_dev *d, const struct kv_shape *s,
	    struct err *err)
{
	struct kv_shape shape = *s;
	uint64_t avail;
	int ret = -1;

	*kv = (struct kv){ 0 };
	shape.type = kv_type(d, s->type);
	if (d->api->avail(d->be, &avail, err))
		goto out;
	if (avail < s->spare || kv_bytes(&shape) > avail - s->spare) {
		too_large(&shape, avail, err);
		goto out;
	}
	kv->layer = mem_alloc(s->layers, sizeof(*kv->layer), err);
	if (!kv->layer)
		goto out;
	kv->layers = s->layers;
	kv->capacity = s->capacity;
	kv->type = shape.type;
	for (uint32_t i = 0; i < s->layers; i++)
		if (layer_init(&kv->layer[i], d, &shape, err))
			goto out;
	ret = 0;
out:
	if (ret)
		kv_release(kv, d);
	return ret;
}

void kv_release(struct kv *kv, const struct rt_dev *d)
{
	for (uint32_t i = 0; i < kv->layers; i++) {
		be_mat_free(d->api, d->be, &kv->layer[i].k);
		be_mat_free(d->api, d->be, &kv->layer[i].v);
		be_mat_free(d->api, d->be, &kv->layer[i].k_scale);
		be_mat_free(d->api, d->be, &kv->layer[i].v_scale);
	}
	free(kv->layer);
	*kv = (struct kv){ 0 };
}
