/* gguf_values.c - what the pairs of a GGUF file say. */
#include "gguf.h"

#include "../base/half.h"

#include <string.h>

const struct gguf_kv *gguf_find(const struct gguf_file *f, const char *key)
{
	size_t n = strlen(key);

	for (uint32_t i = 0; i < f->kv_count; i++)
		if (f->kv[i].key_len == n && !memcmp(f->kv[i].key, key, n))
			return &f->kv[i];
	return NULL;
}

/* A whole number; -1 where it is none or negative. */
static int whole(const struct gguf_kv *kv, uint64_t *out)
{
	const uint8_t *p = kv->data;
	int64_t v;

	switch (kv->type) {
	case GGUF_U8:
		*out = p[0];
		return 0;
	case GGUF_U16:
		*out = half_le16(p);
		return 0;
	case GGUF_U32:
		*out = half_le32(p);
		return 0;
	case GGUF_U64:
		*out = half_le64(p);
		return 0;
	case GGUF_I8:
		v = (int8_t)p[0];
		break;
	case GGUF_I16:
		v = (int16_t)half_le16(p);
		break;
	case GGUF_I32:
		v = (int32_t)half_le32(p);
		break;
	case GGUF_I64:
		v = (int64_t)half_le64(p);
		break;
	default:
		return -1;
	}
	*out = (uint64_t)v;
	return v < 0 ? -1 : 0;
}

int gguf_uint(const struct gguf_file *f, const char *key, uint64_t hi,
	      uint64_t *out)
{
	const struct gguf_kv *kv = gguf_find(f, key);
	uint64_t v;

	if (!kv || whole(kv, &v) || v > hi)
		return 0;
	*out = v;
	return 1;
}

int gguf_real(const struct gguf_file *f, const char *key, double *out)
{
	const struct gguf_kv *kv = gguf_find(f, key);
	uint64_t v;

	if (!kv)
		return 0;
	if (kv->type == GGUF_F32) {
		*out = (double)half_from_bits(half_le32(kv->data));
	} else if (kv->type == GGUF_F64) {
		v = half_le64(kv->data);
		memcpy(out, &v, sizeof(v));
	} else if (!whole(kv, &v)) {
		*out = (double)v;
	} else {
		return 0;
	}
	return 1;
}

int gguf_bool(const struct gguf_file *f, const char *key, bool *out)
{
	const struct gguf_kv *kv = gguf_find(f, key);

	if (!kv || kv->type != GGUF_BOOL)
		return 0;
	*out = *(const uint8_t *)kv->data != 0;
	return 1;
}

int gguf_text(const struct gguf_file *f, const char *key, const char **out,
	      size_t *len)
{
	const struct gguf_kv *kv = gguf_find(f, key);

	if (!kv || kv->type != GGUF_TEXT)
		return 0;
	*out = kv->data;
	*len = (size_t)kv->count;
	return 1;
}

int gguf_is_text(const struct gguf_file *f, const char *key, const char *text)
{
	const char *s;
	size_t n;

	return gguf_text(f, key, &s, &n) && n == strlen(text) &&
	       !memcmp(s, text, n);
}

const struct gguf_kv *gguf_array(const struct gguf_file *f, const char *key,
				 enum gguf_type item)
{
	const struct gguf_kv *kv = gguf_find(f, key);

	return kv && kv->type == GGUF_ARRAY && kv->item == item ? kv : NULL;
}

struct gguf_texts gguf_texts(const struct gguf_kv *array)
{
	struct gguf_texts t = { array->data, array->count };

	return t;
}

int gguf_texts_next(struct gguf_texts *t, const char **text, size_t *len)
{
	if (!t->left)
		return 0;
	t->left--;
	*len = (size_t)half_le64(t->at);
	*text = (const char *)t->at + 8;
	t->at += 8 + *len;
	return 1;
}
