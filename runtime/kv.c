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

/* Of one position of one sequence in all blocks. */
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

	/* (the rows of 2^32 positions of 2^32 sequences can be counted) */
	return mem_mul64(position_bytes(s),
			 (uint64_t)s->sequences * s->capacity, &n)
		       ? UINT64_MAX : n;
}

static const char *type_name(enum dtype t)
{
	return t == DT_F32 ? "f32" : t == DT_F16 ? "f16" : "q8";
}

/* Positions of each sequence that go into so many bytes. */
static unsigned long long positions(const struct kv_shape *s, uint64_t bytes)
{
	return bytes / position_bytes(s) / s->sequences;
}

/* The message of a cache that is too large: what it takes, what there is, and
 * what would fit. */
static int too_large(const struct kv_shape *s, uint64_t avail,
		     struct err *err)
{
	const double gib = 1 << 30;
	uint64_t room = avail > s->spare ? avail - s->spare : 0;
	struct kv_shape q8 = *s;
	char many[48] = "", fewer[64] = "", other[64] = "";

	q8.type = DT_I8;
	if (s->type != DT_I8 && kv_bytes(&q8) <= room)
		snprintf(other, sizeof(other), ", or all %u with --kv-type q8",
			 s->capacity);
	else if (s->type != DT_I8)
		snprintf(other, sizeof(other), ", or %llu with --kv-type q8",
			 positions(&q8, room));
	if (s->sequences > 1) {
		snprintf(many, sizeof(many), "%u sequences with ",
			 s->sequences);
		snprintf(fewer, sizeof(fewer), ", or for %llu sequences "
			 "(--batch)", (unsigned long long)
			 (room / position_bytes(s) / s->capacity));
	}
	return err_set(err, ERR_RESOURCE,
		       "%sa context of %u take%s %.2f GiB as %s and %.2f GiB "
		       "are free beside the weights: there is room for %llu "
		       "positions%s (-c)%s%s",
		       many, s->capacity, s->sequences > 1 ? "" : "s",
		       (double)kv_bytes(s) / gib, type_name(s->type),
		       (double)room / gib, positions(s, room),
		       s->sequences > 1 ? " of each" : "", other, fewer);
}

static int layer_init(struct be_cache *c, const struct rt_dev *d,
		      const struct kv_shape *s, struct err *err)
{
	uint32_t width = s->kv_heads * s->head_dim;
	uint32_t rows = s->sequences * s->capacity;

	if (be_mat_new(d->api, d->be, rows, width, s->type, &c->k, err) ||
	    be_mat_new(d->api, d->be, rows, width, s->type, &c->v, err))
		return -1;
	if (s->type != DT_I8)
		return 0;
	return be_mat_new(d->api, d->be, rows, s->kv_heads, DT_F16,
			  &c->k_scale, err) ||
	       be_mat_new(d->api, d->be, rows, s->kv_heads, DT_F16,
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
	if ((uint64_t)s->sequences * s->capacity > UINT32_MAX) {
		err_set(err, ERR_UNSUP, "%u sequences of %u positions: at most "
			"%u in all", s->sequences, s->capacity, UINT32_MAX);
		goto out;
	}
	kv->layer = mem_alloc(s->layers, sizeof(*kv->layer), err);
	if (!kv->layer)
		goto out;
	kv->layers = s->layers;
	kv->sequences = s->sequences;
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

struct be_cache kv_sequence(const struct kv *kv, uint32_t layer, uint32_t s)
{
	const struct be_cache *c = &kv->layer[layer];
	const uint32_t first = s * kv->capacity, n = kv->capacity;

	return (struct be_cache){
		.k = be_rows(&c->k, first, n), .v = be_rows(&c->v, first, n),
		.k_scale = be_rows(&c->k_scale, first, n),
		.v_scale = be_rows(&c->v_scale, first, n),
	};
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
