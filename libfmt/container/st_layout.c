/* st_layout.c - which shard and which offset a tensor gets, and the JSON that
 * says so: the header of each shard and the index of all.
 *
 * Sorted arrays of pointers throughout, so 100 000 tensors are no burden.
 * Source of the order: safetensors/src/tensor.rs of the reference, prepare().
 * Its enum of types is ours (tensor.h), so types of one width do not mix. */
#include "st_plan.h"

#include "../base/err.h"
#include "../base/json.h"
#include "../base/mem.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

/* ---- order ---- */

static int by_name(const void *pa, const void *pb)
{
	const struct st_plan *const *a = pa, *const *b = pb;

	return strcmp((*a)->name, (*b)->name);
}

/* The reference writer: falling type, then name. */
static int by_type(const void *pa, const void *pb)
{
	const struct st_plan *const *a = pa, *const *b = pb;

	if ((*a)->type != (*b)->type)
		return (*a)->type > (*b)->type ? -1 : 1;
	return by_name(pa, pb);
}

/* Pointers to count plans from `first` on, sorted. */
static struct st_plan **sorted(struct st_writer *w, uint32_t first,
			       size_t count,
			       int (*order)(const void *, const void *),
			       struct err *err)
{
	struct st_plan **p = mem_alloc(count, sizeof(struct st_plan *), err);

	if (!p)
		return NULL;
	for (size_t i = 0; i < count; i++)
		p[i] = &w->plan[first + i];
	if (count)
		qsort(p, count, sizeof(*p), order);
	return p;
}

int st_layout_names(struct st_writer *w, struct err *err)
{
	struct st_plan **p = sorted(w, 0, w->count, by_name, err);
	int ret = p ? 0 : -1;

	for (size_t i = 1; p && i < w->count && !ret; i++)
		if (!strcmp(p[i - 1]->name, p[i]->name))
			ret = err_set(err, ERR_INPUT,
				      "tensor \"%s\" is planned twice",
				      p[i]->name);
	free(p);
	return ret;
}

/* ---- shards ---- */

struct st_shard *st_layout_shard(struct st_writer *w, uint32_t first,
				 struct err *err)
{
	void *p = w->shard;
	struct st_shard *s;

	if (mem_grow(&p, &w->shard_cap, w->shards + 1, sizeof(*w->shard), err))
		return NULL;
	w->shard = p;
	s = &w->shard[w->shards++];
	memset(s, 0, sizeof(*s));
	s->fd = -1;
	s->lead = 8;
	s->first = first;
	return s;
}

/* In the order of the calls; limit 0 means no limit. */
static int cut(struct st_writer *w, uint64_t limit, struct err *err)
{
	struct st_shard *s = st_layout_shard(w, 0, err);

	for (size_t i = 0; s && i < w->count; i++) {
		struct st_plan *p = &w->plan[i];

		if (limit && s->count &&
		    (s->data > limit || p->size > limit - s->data)) {
			s = st_layout_shard(w, (uint32_t)i, err);
			if (!s)
				break;
		}
		p->shard = (uint32_t)(w->shards - 1);
		s->count++;
		s->data += p->size;
	}
	return s ? 0 : -1;
}

/* ---- the header of one shard ---- */

/* An array; exact, since the plan holds nothing above 2^53. */
static struct cJSON *numbers(const uint64_t *v, int n)
{
	struct cJSON *a = cJSON_CreateArray();

	for (int i = 0; a && i < n; i++) {
		struct cJSON *d = cJSON_CreateNumber((double)v[i]);

		if (!d || !cJSON_AddItemToArray(a, d)) {
			cJSON_Delete(d);
			cJSON_Delete(a);
			return NULL;
		}
	}
	return a;
}

/* Give child to parent; frees it where that fails (also on NULL). */
static int give(struct cJSON *parent, const char *key, struct cJSON *child)
{
	if (child && cJSON_AddItemToObject(parent, key, child))
		return 0;
	cJSON_Delete(child);
	return -1;
}

/* name: dtype, shape, data_offsets, in the order of the reference. */
static int add_entry(struct cJSON *top, const struct st_plan *p)
{
	struct cJSON *e = cJSON_CreateObject();
	const uint64_t span[2] = { p->offset, p->offset + p->size };

	if (!e || give(e, "dtype",
		       cJSON_CreateString(tensor_dtype_name(p->type))) ||
	    give(e, "shape", numbers(p->dim, p->rank)) ||
	    give(e, "data_offsets", numbers(span, 2))) {
		cJSON_Delete(e);
		return -1;
	}
	return give(top, p->name, e);
}

/* Lay the tensors out and make the JSON, padded so that the data begins at a
 * multiple of 8.  On success offsets count from the start of the file. */
static int make_header(struct st_writer *w, struct st_shard *s, struct err *err)
{
	struct st_plan **p = sorted(w, s->first, s->count, by_type, err);
	struct cJSON *top = cJSON_CreateObject();
	char *text = NULL;
	uint64_t at = 0;
	size_t n;
	int ret = -1;

	if (!p)
		goto out;
	if (!top || give(top, ST_META, cJSON_Duplicate(w->meta, 1)))
		goto memory;
	for (uint32_t i = 0; i < s->count; i++) {
		p[i]->offset = at;
		at += p[i]->size;
		if (add_entry(top, p[i]))
			goto memory;
	}
	text = json_print(top, false, err);
	if (!text)
		goto out;
	n = strlen(text) - 1; /* without the newline */
	s->header_len = (n + 7) / 8 * 8;
	if (s->header_len > ST_HEADER_MAX) {
		err_set(err, ERR_UNSUP, "header of %zu bytes, readers accept "
			"%u: use more shards", n, ST_HEADER_MAX);
		goto out;
	}
	s->header = mem_alloc((size_t)s->header_len, 1, err);
	if (!s->header)
		goto out;
	memset(s->header, ' ', (size_t)s->header_len);
	memcpy(s->header, text, n);
	for (uint32_t i = 0; i < s->count; i++)
		p[i]->offset += s->lead + s->header_len;
	ret = 0;
	goto out;
memory:
	err_set(err, ERR_RESOURCE, "not enough memory for the header");
out:
	free(text);
	json_free(top);
	free(p);
	return ret;
}

static int check_types(const struct st_writer *w, struct err *err)
{
	for (size_t i = 0; i < w->count; i++)
		if (!tensor_dtype_bits(w->plan[i].type))
			return err_set(err, ERR_UNSUP, "tensor \"%s\": %s "
				       "stands in GGUF files only",
				       w->plan[i].name,
				       tensor_dtype_name(w->plan[i].type));
	return 0;
}

int st_layout_make(struct st_writer *w, uint64_t limit, struct err *err)
{
	if (check_types(w, err) || st_layout_names(w, err) ||
	    cut(w, limit, err))
		return -1;
	for (size_t i = 0; i < w->shards; i++)
		if (make_header(w, &w->shard[i], err))
			return -1;
	return 0;
}

/* ---- the index of all shards, as transformers writes it ---- */

static struct cJSON *make_index(struct st_writer *w, struct st_plan **p)
{
	struct cJSON *top = cJSON_CreateObject();
	struct cJSON *meta = cJSON_AddObjectToObject(top, "metadata");
	struct cJSON *map = cJSON_AddObjectToObject(top, "weight_map");
	int ok = meta && map && cJSON_AddNumberToObject(meta, "total_size",
							(double)w->bytes);

	for (size_t i = 0; ok && i < w->count; i++)
		ok = !give(map, p[i]->name,
			   cJSON_CreateString(w->shard[p[i]->shard].file));
	if (ok)
		return top;
	cJSON_Delete(top);
	return NULL;
}

char *st_layout_index(struct st_writer *w, struct err *err)
{
	struct st_plan **p = sorted(w, 0, w->count, by_name, err);
	struct cJSON *top = p ? make_index(w, p) : NULL;
	char *text = NULL;

	if (top)
		text = json_print(top, true, err);
	else if (p)
		err_set(err, ERR_RESOURCE, "not enough memory for the index");
	json_free(top);
	free(p);
	return text;
}
