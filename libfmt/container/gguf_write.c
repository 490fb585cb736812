/* gguf_write.c - the pairs of a GGUF file to be, and where its tensors go.
 * Planning, pouring and the commit are st_write.c's. */
#include "gguf.h"

#include "../base/err.h"
#include "../base/half.h"
#include "../base/mem.h"
#include "st_plan.h"

#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 32 /* the format's default */
#define NAME_MAX_LEN 63
#define RANK 4

/* ---- bytes ---- */

/* Once memory was short nothing more is taken, and gguf_create says so. */
static void put(struct gguf_meta *m, const void *data, size_t n)
{
	struct err ignored;

	if (m->failed ||
	    mem_grow(&m->data, &m->cap, m->len + n, 1, &ignored)) {
		m->failed = 1;
		return;
	}
	if (n)
		memcpy((char *)m->data + m->len, data, n);
	m->len += n;
}

static void put32(struct gguf_meta *m, uint32_t v)
{
	uint8_t b[4];

	half_put32(b, v);
	put(m, b, 4);
}

static void put64(struct gguf_meta *m, uint64_t v)
{
	uint8_t b[8];

	half_put64(b, v);
	put(m, b, 8);
}

/* ---- pairs ---- */

static void put_key(struct gguf_meta *m, const char *key, enum gguf_type type)
{
	gguf_add_text(m, key, strlen(key));
	put32(m, type);
	m->count++;
}

void gguf_put_u32(struct gguf_meta *m, const char *key, uint32_t v)
{
	put_key(m, key, GGUF_U32);
	put32(m, v);
}

void gguf_put_i32(struct gguf_meta *m, const char *key, int32_t v)
{
	put_key(m, key, GGUF_I32);
	put32(m, (uint32_t)v);
}

void gguf_put_f32(struct gguf_meta *m, const char *key, double v)
{
	put_key(m, key, GGUF_F32);
	gguf_add_f32(m, (float)v);
}

void gguf_put_bool(struct gguf_meta *m, const char *key, bool v)
{
	uint8_t b = v;

	put_key(m, key, GGUF_BOOL);
	put(m, &b, 1);
}

void gguf_put_text(struct gguf_meta *m, const char *key, const char *text,
		   size_t len)
{
	put_key(m, key, GGUF_TEXT);
	gguf_add_text(m, text, len);
}

void gguf_put_pair(struct gguf_meta *m, const struct gguf_kv *kv)
{
	gguf_add_text(m, kv->key, kv->key_len);
	put(m, kv->key + kv->key_len, (size_t)kv->raw);
	m->count++;
}

void gguf_put_array(struct gguf_meta *m, const char *key, enum gguf_type item,
		    uint64_t count)
{
	put_key(m, key, GGUF_ARRAY);
	put32(m, item);
	put64(m, count);
}

void gguf_add_text(struct gguf_meta *m, const char *text, size_t len)
{
	put64(m, len);
	put(m, text, len);
}

void gguf_add_u32(struct gguf_meta *m, uint32_t bits)
{
	put32(m, bits);
}

void gguf_add_f32(struct gguf_meta *m, float v)
{
	put32(m, half_bits(v));
}

void gguf_meta_release(struct gguf_meta *m)
{
	free(m->data);
	memset(m, 0, sizeof(*m));
}

/* ---- the file ---- */

static int check_plan(const struct st_plan *p, struct err *err)
{
	if (strlen(p->name) > NAME_MAX_LEN)
		return err_set(err, ERR_UNSUP, "tensor \"%s\": GGUF has names "
			       "of at most %d bytes", p->name, NAME_MAX_LEN);
	if (p->rank < 1 || p->rank > RANK || !p->size)
		return err_set(err, ERR_UNSUP, "tensor \"%s\": GGUF has "
			       "tensors of 1 to %d dimensions that are not "
			       "empty", p->name, RANK);
	if (gguf_dtype(p->type) < 0)
		return err_set(err, ERR_UNSUP, "tensor \"%s\": GGUF has no "
			       "elements of type %s", p->name,
			       tensor_dtype_name(p->type));
	return 0;
}

/* One entry; the offset counts from the begin of the data. */
static void put_tensor(struct gguf_meta *h, const struct st_plan *p)
{
	gguf_add_text(h, p->name, strlen(p->name));
	put32(h, (uint32_t)p->rank);
	for (int i = p->rank - 1; i >= 0; i--)
		put64(h, p->dim[i]);
	put32(h, (uint32_t)gguf_dtype(p->type));
	put64(h, p->offset);
}

/* Header and offsets; the data section is padded behind every tensor, the last
 * one too, as readers expect. */
static int make_header(struct st_writer *w, const struct gguf_meta *m,
		       struct st_shard *s, struct err *err)
{
	static const char zeros[ALIGNMENT];
	struct gguf_meta h = { 0 };

	put(&h, "GGUF", 4);
	put32(&h, 3);
	put64(&h, w->count);
	put64(&h, m->count);
	put(&h, m->data, m->len);
	for (size_t i = 0; i < w->count; i++) {
		struct st_plan *p = &w->plan[i];

		if (check_plan(p, err)) {
			gguf_meta_release(&h);
			return -1;
		}
		p->offset = s->data;
		s->data += (p->size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
		put_tensor(&h, p);
	}
	put(&h, zeros, (ALIGNMENT - h.len % ALIGNMENT) % ALIGNMENT);
	if (h.failed || m->failed) {
		gguf_meta_release(&h);
		return err_set(err, ERR_RESOURCE,
			       "not enough memory for the header");
	}
	for (size_t i = 0; i < w->count; i++)
		w->plan[i].offset += h.len;
	s->header = h.data;
	s->header_len = h.len;
	return 0;
}

int gguf_create(struct st_writer *w, const char *path,
		const struct gguf_meta *m, struct err *err)
{
	struct st_shard *s;

	if (w->created)
		return err_set(err, ERR_INPUT, "created twice");
	w->created = 1;
	if (st_layout_names(w, err))
		return -1;
	s = st_layout_shard(w, 0, err);
	if (!s)
		return -1;
	s->lead = 0;
	s->count = (uint32_t)w->count;
	if (make_header(w, m, s, err))
		return -1;
	return st_write_file(w, path, err);
}
