/* gguf.c - the reader.  The header is walked once, from front to back; what is
 * taken from it is a pointer into the file or a number that was checked. */
#include "gguf.h"

#include "../base/err.h"
#include "../base/half.h"
#include "../base/io.h"
#include "../base/json.h"
#include "../base/mem.h"
#include "st.h"

#include <stdlib.h>
#include <string.h>

#define HEAD 24       /* magic, version, two counts */
#define KV_MIN 13     /* bytes of the shortest pair: empty key, type, u8 */
#define TENSOR_MIN 32 /* empty name, rank, one dimension, type, offset */
#define RANK 4
#define ALIGN_MAX (1u << 30)

/* ggml's numbers, from enum ggml_type of ggml.h. */
static const enum dtype types[] = {
	[0] = DT_F32, [1] = DT_F16, [2] = DT_Q4_0, [3] = DT_Q4_1,
	[6] = DT_Q5_0, [7] = DT_Q5_1, [8] = DT_Q8_0, [9] = DT_Q8_1,
	[10] = DT_Q2_K, [11] = DT_Q3_K, [12] = DT_Q4_K, [13] = DT_Q5_K,
	[14] = DT_Q6_K, [15] = DT_Q8_K, [16] = DT_IQ2_XXS, [17] = DT_IQ2_XS,
	[18] = DT_IQ3_XXS, [19] = DT_IQ1_S, [20] = DT_IQ4_NL, [21] = DT_IQ3_S,
	[22] = DT_IQ2_S, [23] = DT_IQ4_XS, [24] = DT_I8, [25] = DT_I16,
	[26] = DT_I32, [27] = DT_I64, [28] = DT_F64, [29] = DT_IQ1_M,
	[30] = DT_BF16, [34] = DT_TQ1_0, [35] = DT_TQ2_0, [39] = DT_MXFP4,
	[40] = DT_NVFP4, [41] = DT_Q1_0
};
#define TYPES (sizeof(types) / sizeof(types[0]))

/* Bytes of a value, 0: of its own length. */
static const uint8_t widths[GGUF_TYPES] = {
	[GGUF_U8] = 1, [GGUF_I8] = 1, [GGUF_U16] = 2, [GGUF_I16] = 2,
	[GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1,
	[GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8
};

int gguf_dtype(enum dtype t)
{
	for (size_t i = 0; i < TYPES; i++)
		if (types[i] == t && t != DT_NONE)
			return (int)i;
	return -1;
}

/* ---- bytes ---- */

/* What is left of the header (or of the file: where it ends is not known
 * before). */
struct walk {
	const uint8_t *at, *end;
};

static uint64_t left(const struct walk *w)
{
	return (uint64_t)(w->end - w->at);
}

static int need(const struct walk *w, uint64_t n, struct err *err)
{
	return n <= left(w) ? 0 : err_set(err, ERR_INPUT,
					  "the file ends inside its header");
}

static int take32(struct walk *w, uint32_t *out, struct err *err)
{
	if (need(w, 4, err))
		return -1;
	*out = half_le32(w->at);
	w->at += 4;
	return 0;
}

static int take64(struct walk *w, uint64_t *out, struct err *err)
{
	if (need(w, 8, err))
		return -1;
	*out = half_le64(w->at);
	w->at += 8;
	return 0;
}

static int take_text(struct walk *w, const char **text, uint64_t *len,
		     struct err *err)
{
	if (take64(w, len, err))
		return -1;
	if (*len > left(w))
		return err_set(err, ERR_INPUT, "a text of %llu bytes, but %llu "
			       "are left of the file",
			       (unsigned long long)*len,
			       (unsigned long long)left(w));
	*text = (const char *)w->at;
	w->at += *len;
	return 0;
}

/* Keys and names: some UTF-8 without NUL. */
static int is_name(const char *s, uint64_t len)
{
	size_t n;

	for (uint64_t i = 0; i < len; i += n) {
		n = s[i] ? json_utf8(s + i, (size_t)(len - i)) : 0;
		if (!n)
			return 0;
	}
	return len > 0;
}

/* ---- pairs ---- */

/* The items are stepped over; gguf_texts steps over texts once more. */
static int take_array(struct walk *w, struct gguf_kv *kv, struct err *err)
{
	uint64_t len, size;
	const char *text;

	if (take32(w, &kv->item, err) || take64(w, &kv->count, err))
		return -1;
	kv->data = w->at;
	if (kv->item == GGUF_ARRAY)
		return err_set(err, ERR_INPUT, "an array of arrays, which the "
			       "format does not have");
	if (kv->item >= GGUF_TYPES)
		return err_set(err, ERR_INPUT, "items of unknown type %u",
			       kv->item);
	if (kv->item == GGUF_TEXT) {
		/* each text ends the file or takes eight bytes of it */
		for (uint64_t i = 0; i < kv->count; i++)
			if (take_text(w, &text, &len, err))
				return -1;
		return 0;
	}
	if (mem_mul64(kv->count, widths[kv->item], &size) || size > left(w))
		return err_set(err, ERR_INPUT, "%llu items do not fit the file",
			       (unsigned long long)kv->count);
	w->at += size;
	return 0;
}

static int take_value(struct walk *w, struct gguf_kv *kv, struct err *err)
{
	const char *text;

	if (take32(w, &kv->type, err))
		return -1;
	kv->count = 1;
	if (kv->type >= GGUF_TYPES)
		return err_set(err, ERR_INPUT, "unknown type %u", kv->type);
	if (kv->type == GGUF_ARRAY)
		return take_array(w, kv, err);
	if (kv->type == GGUF_TEXT) {
		if (take_text(w, &text, &kv->count, err))
			return -1;
		kv->data = text;
		return 0;
	}
	if (need(w, widths[kv->type], err))
		return -1;
	kv->data = w->at;
	w->at += widths[kv->type];
	return 0;
}

static int take_pair(struct walk *w, struct gguf_kv *kv, struct err *err)
{
	const uint8_t *value;
	uint64_t len;

	if (take_text(w, &kv->key, &len, err))
		return -1;
	if (len > UINT16_MAX || !is_name(kv->key, len))
		return err_set(err, ERR_INPUT, "a key that is not UTF-8 of 1 "
			       "to 65535 bytes");
	kv->key_len = (uint32_t)len;
	value = w->at;
	if (take_value(w, kv, err))
		return err_ctx(err, "%.*s", (int)(len < 128 ? len : 128),
			       kv->key);
	kv->raw = (uint64_t)(w->at - value);
	return 0;
}

static int by_key(const void *pa, const void *pb)
{
	const struct gguf_kv *a = *(const struct gguf_kv *const *)pa;
	const struct gguf_kv *b = *(const struct gguf_kv *const *)pb;
	uint32_t n = a->key_len < b->key_len ? a->key_len : b->key_len;
	int c = memcmp(a->key, b->key, n);

	return c ? c : (a->key_len > b->key_len) - (a->key_len < b->key_len);
}

/* Sorted pointers, so that many pairs are no burden. */
static int check_keys(const struct gguf_file *f, struct err *err)
{
	const struct gguf_kv **p = mem_alloc(f->kv_count, sizeof(*p), err);
	int ret = p ? 0 : -1;

	for (uint32_t i = 0; p && i < f->kv_count; i++)
		p[i] = &f->kv[i];
	if (p && f->kv_count)
		qsort(p, f->kv_count, sizeof(*p), by_key);
	for (uint32_t i = 1; !ret && i < f->kv_count; i++)
		if (!by_key(&p[i - 1], &p[i]))
			ret = err_set(err, ERR_INPUT,
				      "the key %.*s is there twice",
				      (int)(p[i]->key_len < 128 ?
					    p[i]->key_len : 128), p[i]->key);
	free(p);
	return ret;
}

/* How many there are is bounded by the bytes that are left. */
static int take_pairs(struct walk *w, uint64_t n, struct gguf_file *f,
		      struct err *err)
{
	if (n > left(w) / KV_MIN || n > UINT32_MAX)
		return err_set(err, ERR_INPUT, "%llu pairs do not fit the file",
			       (unsigned long long)n);
	f->kv = mem_alloc((size_t)n, sizeof(*f->kv), err);
	if (!f->kv)
		return -1;
	for (; f->kv_count < n; f->kv_count++)
		if (take_pair(w, &f->kv[f->kv_count], err))
			return -1;
	return check_keys(f, err);
}

/* ---- tensors ---- */

/* The file's dimensions turned round, and the bytes. */
static int take_shape(struct walk *w, struct tensor *t, struct err *err)
{
	uint32_t rank, type, block, bytes;
	uint64_t n = 1, step = 1;

	if (take32(w, &rank, err))
		return -1;
	if (rank < 1 || rank > RANK)
		return err_set(err, ERR_INPUT, "%u dimensions (expected 1 to "
			       "%d)", rank, RANK);
	t->rank = (int)rank;
	for (uint32_t i = 0; i < rank; i++) {
		uint64_t *d = &t->dim[rank - 1 - i];

		if (take64(w, d, err))
			return -1;
		t->stride[rank - 1 - i] = step;
		/* (the format's numbers are signed) */
		if (!*d || *d > INT64_MAX || mem_mul64(n, *d, &n))
			return err_set(err, ERR_INPUT, "dimension %u is %llu",
				       i, (unsigned long long)*d);
		step = n;
	}
	if (take32(w, &type, err))
		return -1;
	t->type = type < TYPES ? types[type] : DT_NONE;
	if (t->type == DT_NONE)
		return err_set(err, ERR_UNSUP, "elements of type %u, which is "
			       "not known here", type);
	block = tensor_dtype_block(t->type, &bytes);
	if (!block) {
		block = 1;
		bytes = tensor_dtype_bits(t->type) / 8;
	}
	if (t->dim[rank - 1] % block)
		return err_set(err, ERR_INPUT, "rows of %llu are not whole "
			       "blocks of %u", (unsigned long long)
			       t->dim[rank - 1], block);
	if (mem_mul64(n / block, bytes, &t->size))
		return err_set(err, ERR_INPUT, "its size overflows");
	return 0;
}

static int take_tensor(struct walk *w, struct tensor *t, char name[GGUF_NAME],
		       struct err *err)
{
	const char *text;
	uint64_t len;

	if (take_text(w, &text, &len, err))
		return -1;
	if (len >= GGUF_NAME || !is_name(text, len))
		return err_set(err, ERR_INPUT, "a name that is not UTF-8 of 1 "
			       "to %d bytes", GGUF_NAME - 1);
	memcpy(name, text, (size_t)len);
	t->name = name;
	if (take_shape(w, t, err) || take64(w, &t->offset, err))
		return err_ctx(err, "%s", name);
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check_names(const struct gguf_file *f, struct err *err)
{
	const char **p = mem_alloc(f->count, sizeof(*p), err);
	int ret = p ? 0 : -1;

	for (uint32_t i = 0; p && i < f->count; i++)
		p[i] = f->tensor[i].name;
	if (p && f->count)
		qsort(p, f->count, sizeof(*p), by_name);
	for (uint32_t i = 1; !ret && i < f->count; i++)
		if (!strcmp(p[i - 1], p[i]))
			ret = err_set(err, ERR_INPUT,
				      "the tensor %s is there twice", p[i]);
	free(p);
	return ret;
}

static int take_tensors(struct walk *w, uint64_t n, struct gguf_file *f,
			struct err *err)
{
	if (n > left(w) / TENSOR_MIN || n > UINT32_MAX / 2)
		return err_set(err, ERR_INPUT,
			       "%llu tensors do not fit the file",
			       (unsigned long long)n);
	f->tensor = mem_alloc((size_t)n, sizeof(*f->tensor), err);
	f->names = mem_alloc((size_t)n, GGUF_NAME, err);
	if (!f->tensor || !f->names)
		return -1;
	for (; f->count < n; f->count++)
		if (take_tensor(w, &f->tensor[f->count], f->names[f->count],
				err))
			return -1;
	return check_names(f, err);
}

/* ---- the data ---- */

/* The next multiple of the alignment; UINT64_MAX where there is none. */
static uint64_t padded(uint64_t n, uint32_t alignment)
{
	uint64_t over = n % alignment;

	if (!over)
		return n;
	return n > UINT64_MAX - alignment ? UINT64_MAX : n - over + alignment;
}

static int find_alignment(struct gguf_file *f, struct err *err)
{
	const struct gguf_kv *kv = gguf_find(f, "general.alignment");

	f->alignment = 32;
	if (!kv)
		return 0;
	if (kv->type == GGUF_U32)
		f->alignment = half_le32(kv->data);
	if (kv->type != GGUF_U32 || !f->alignment ||
	    f->alignment > ALIGN_MAX || (f->alignment & (f->alignment - 1)))
		return err_set(err, ERR_INPUT, "general.alignment is not a "
			       "power of two of type u32");
	return 0;
}

/* Each tensor begins where the one before ends, padded.  What is behind the
 * last one can only be padding. */
static int place(struct src *s, unsigned flags, struct gguf_file *f,
		 struct err *err)
{
	uint64_t size = io_size(s), at = 0;
	uint64_t room = size > f->data_begin ? size - f->data_begin : 0;

	for (uint32_t i = 0; i < f->count; i++) {
		struct tensor *t = &f->tensor[i];

		if (t->offset != at)
			return err_set(err, ERR_INPUT, "%s: its data begins at "
				       "%llu (expected %llu)", t->name,
				       (unsigned long long)t->offset,
				       (unsigned long long)at);
		if (at > room || t->size > room - at)
			return err_set(err, ERR_INPUT, "%s: the file ends "
				       "inside its data", t->name);
		t->offset += f->data_begin;
		if (io_is_local(s) &&
		    io_view(s, t->offset, t->size, &t->data, err))
			return err_ctx(err, "%s", t->name);
		at = padded(at + t->size, f->alignment);
	}
	if (room <= at)
		return 0;
	f->odd |= ST_ODD_TRAILING;
	return flags & ST_LENIENT ? 0 :
	       err_set(err, ERR_INPUT, "%llu bytes behind the last tensor",
		       (unsigned long long)(room - at));
}

/* In a big endian file the bytes of a small number stand the other way. */
static int check_version(struct gguf_file *f, struct err *err)
{
	if (f->version == 2 || f->version == 3)
		return 0;
	if (!(f->version & 0xffff) && f->version)
		return err_set(err, ERR_UNSUP, "a big endian GGUF file is not "
			       "read");
	return err_set(err, ERR_UNSUP, "GGUF version %u is not read, versions "
		       "2 and 3 are", f->version);
}

/* The header, which lies in the first `size` bytes. */
static int read_header(struct src *s, uint64_t size, struct gguf_file *f,
		       struct err *err)
{
	uint64_t tensors, pairs;
	struct walk w;
	const void *p;

	if (size < HEAD)
		return err_set(err, ERR_INPUT,
			       "the file ends inside its header");
	if (io_view(s, 0, size, &p, err))
		return -1;
	w.at = p;
	w.end = w.at + size;
	if (memcmp(w.at, "GGUF", 4))
		return err_set(err, ERR_INPUT, "not a GGUF file");
	w.at += 4;
	if (take32(&w, &f->version, err) || check_version(f, err) ||
	    take64(&w, &tensors, err) || take64(&w, &pairs, err) ||
	    take_pairs(&w, pairs, f, err) || find_alignment(f, err) ||
	    take_tensors(&w, tensors, f, err))
		return -1;
	f->data_begin = padded((uint64_t)(w.at - (const uint8_t *)p),
			       f->alignment);
	return 0;
}

/* How long a header is, only its end tells: of a file on a server a part is
 * looked at, and a larger one where that was too short. */
static int read_file(struct src *s, unsigned flags, struct gguf_file *f,
		     struct err *err)
{
	uint64_t size = io_size(s), n = size;

	if (!io_is_local(s) && n > GGUF_REACH)
		n = GGUF_REACH;
	while (read_header(s, n, f, err)) {
		if (n == size || err->code != ERR_INPUT)
			return -1;
		gguf_close(f);
		n = n > size / 3 ? size : 3 * n;
	}
	return place(s, flags, f, err);
}

int gguf_open(struct src *s, unsigned flags, struct gguf_file *out,
	      struct err *err)
{
	memset(out, 0, sizeof(*out));
	if (!read_file(s, flags, out, err))
		return 0;
	gguf_close(out);
	return -1;
}

void gguf_close(struct gguf_file *f)
{
	free(f->tensor);
	free(f->kv);
	free(f->names);
	memset(f, 0, sizeof(*f));
}
