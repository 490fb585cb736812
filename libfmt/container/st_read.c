/* st_read.c - the safetensors reader.
 *
 *	0        8                8 + N                      end of file
 *	| N, u64 | JSON, blanks   | tensors, by data_offsets |
 *
 * The order of work: the length, the JSON as such (json.h), each entry alone
 * (shape x type = bytes), then all of them together, sorted by offset: the
 * first begins at 0, each begins where the one before it ends, the last ends
 * with the file.  So no byte is shared, lost or out of reach, and no tensor
 * needs a check of its own later on. */
#include "st.h"

#include "../base/err.h"
#include "../base/half.h"
#include "../base/io.h"
#include "../base/json.h"
#include "../base/mem.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

/* White space of JSON from the front of n bytes. */
static size_t blanks(const char *p, size_t n)
{
	size_t i = 0;

	while (i < n && (p[i] == ' ' || p[i] == '\t' || p[i] == '\r' ||
			 p[i] == '\n'))
		i++;
	return i;
}

int st_sniff(const void *head, size_t n, uint64_t file_size)
{
	const char *p = head;
	uint64_t len;
	size_t at;

	if (n < 9 || file_size < 10)
		return 0;
	/* A length below 10^8 has three zero bytes behind it, which no text
	 * has: enough to name the format of a file that was cut short, too. */
	len = half_le64(p);
	at = 8 + blanks(p + 8, n - 8);
	return len >= 2 && len <= ST_HEADER_MAX && (at == n || p[at] == '{');
}

uint64_t st_reach(const void *head)
{
	return 8 + half_le64(head);
}

/* ---- one entry of the header ---- */

/* [d0, d1, ...] into dim, with the strides of C order. */
static int read_shape(const struct cJSON *j, struct tensor *t,
		      struct err *err)
{
	uint64_t n = 1;

	if (!json_is_array(j))
		return err_set(err, ERR_INPUT, "shape is not an array");
	for (const struct cJSON *c = json_first(j); c; c = json_next(c)) {
		if (t->rank == TENSOR_RANK)
			return err_set(err, ERR_INPUT, "shape has more than "
				       "%d dimensions", TENSOR_RANK);
		if (!json_is_number(c) ||
		    json_uint(c, UINT64_MAX, &t->dim[t->rank]))
			return err_set(err, ERR_INPUT, "shape holds something "
				       "other than sizes up to 2^53");
		t->rank++;
	}
	/* strides of a dense tensor; the check also covers a dimension of
	 * zero, whose neighbours might be multiplied later on */
	for (int i = t->rank - 1; i >= 0; i--) {
		t->stride[i] = n;
		if (mem_mul64(n, t->dim[i] ? t->dim[i] : 1, &n))
			return err_set(err, ERR_INPUT, "shape overflows");
	}
	return 0;
}

/* [begin, end) relative to the data; made absolute at the very end. */
static int read_offsets(const struct cJSON *j, struct tensor *t,
			struct err *err)
{
	const struct cJSON *a = json_first(j), *b = json_next(a);
	uint64_t end;

	if (!json_is_array(j) || !b || json_next(b))
		return err_set(err, ERR_INPUT,
			       "data_offsets is not an array of two");
	if (!json_is_number(a) || json_uint(a, UINT64_MAX, &t->offset) ||
	    !json_is_number(b) || json_uint(b, UINT64_MAX, &end))
		return err_set(err, ERR_INPUT, "data_offsets are not whole "
			       "numbers up to 2^53");
	if (end < t->offset)
		return err_set(err, ERR_INPUT, "data_offsets end before they "
			       "begin");
	t->size = end - t->offset;
	return 0;
}

/* size = shape x type, in whole bytes. */
static int check_size(const struct tensor *t, struct err *err)
{
	char shape[96];
	uint64_t bits;

	if (tensor_count(t, &bits) ||
	    mem_mul64(bits, tensor_dtype_bits(t->type), &bits))
		return err_set(err, ERR_INPUT, "shape %s overflows",
			       tensor_shape_text(t, shape));
	if (bits % 8)
		return err_set(err, ERR_INPUT, "shape %s of %s is not a whole "
			       "number of bytes", tensor_shape_text(t, shape),
			       tensor_dtype_name(t->type));
	if (bits / 8 != t->size)
		return err_set(err, ERR_INPUT, "shape %s of %s needs %llu "
			       "bytes, but data_offsets span %llu",
			       tensor_shape_text(t, shape),
			       tensor_dtype_name(t->type),
			       (unsigned long long)(bits / 8),
			       (unsigned long long)t->size);
	return 0;
}

/* Exactly dtype, shape and data_offsets; json_parse has refused duplicates,
 * so three known keys are these three. */
static int read_entry(const struct cJSON *j, struct tensor *t, struct err *err)
{
	int seen = 0;

	if (!json_is_object(j))
		return err_set(err, ERR_INPUT, "entry is not an object");
	for (const struct cJSON *c = json_first(j); c; c = json_next(c)) {
		const char *key = json_key(c);
		int bad = 0;

		seen++;
		if (!strcmp(key, "dtype")) {
			const char *name = json_text(c);

			t->type = name ? tensor_dtype_find(name) : DT_NONE;
			if (t->type == DT_NONE)
				bad = err_set(err, ERR_INPUT, "unknown dtype "
					      "%s", name ? name : "");
		} else if (!strcmp(key, "shape")) {
			bad = read_shape(c, t, err);
		} else if (!strcmp(key, "data_offsets")) {
			bad = read_offsets(c, t, err);
		} else {
			bad = err_set(err, ERR_INPUT, "unknown member \"%s\"",
				      key);
		}
		if (bad)
			return -1;
	}
	if (seen != 3)
		return err_set(err, ERR_INPUT, "entry lacks %s",
			       !json_find(j, "dtype") ? "dtype"
			       : !json_find(j, "shape") ? "shape"
			       : "data_offsets");
	return check_size(t, err);
}

/* ---- the header as a whole ---- */

/* Text to text, by the format; null stands for none (as the reference has
 * it). */
static int read_meta(struct cJSON *j, struct st_file *out, struct err *err)
{
	if (json_is_null(j))
		return 0; /* counts as absent */
	if (!json_is_object(j))
		return err_set(err, ERR_INPUT, ST_META " is not an object");
	for (const struct cJSON *c = json_first(j); c; c = json_next(c))
		if (!json_is_string(c))
			return err_set(err, ERR_INPUT, ST_META
				       ": \"%s\" is not a string", json_key(c));
	out->meta = j;
	return 0;
}

/* Tensors first, then the text of their names, in one block. */
static int alloc_tensors(const struct cJSON *top, struct st_file *out,
			 char **text, struct err *err)
{
	size_t count = 0, len = 0;

	for (const struct cJSON *c = json_first(top); c; c = json_next(c)) {
		if (!strcmp(json_key(c), ST_META))
			continue;
		count++;
		len += strlen(json_key(c)) + 1;
	}
	/* the header is at most 10^8 bytes, so count and len are below that */
	struct mem_part part[] = {
		{ (void **)&out->tensor, count, sizeof(*out->tensor) },
		{ (void **)text, len, 1 },
	};
	out->mem = mem_block(part, 2, err);
	out->count = (uint32_t)count;
	return out->mem ? 0 : -1;
}

static int read_entries(struct cJSON *top, struct st_file *out,
			struct err *err)
{
	struct tensor *t;
	char *text = NULL;

	if (alloc_tensors(top, out, &text, err))
		return -1;
	t = out->tensor;
	for (struct cJSON *c = top->child; c; c = c->next) {
		size_t n = strlen(json_key(c)) + 1;

		if (!strcmp(json_key(c), ST_META)) {
			if (read_meta(c, out, err))
				return -1;
			continue;
		}
		memcpy(text, json_key(c), n);
		t->name = text;
		text += n;
		if (read_entry(c, t, err))
			return err_ctx(err, "tensor \"%s\"", t->name);
		t++;
	}
	return 0;
}

/* By begin, then by end, so that empty tensors stand before the one that
 * begins where they are; then as the header has them (names lie in one block
 * in that order, so their addresses tell). */
static int by_offset(const void *pa, const void *pb)
{
	const struct tensor *a = pa, *b = pb;

	if (a->offset != b->offset)
		return a->offset < b->offset ? -1 : 1;
	if (a->size != b->size)
		return a->size < b->size ? -1 : 1;
	return a->name < b->name ? -1 : a->name > b->name;
}

/* Offsets in order, without hole or overlap, up to the end of the data. */
static int check_layout(struct st_file *f, uint64_t data, unsigned flags,
			struct err *err)
{
	uint64_t at = 0;

	for (uint32_t i = 0; i < f->count; i++) {
		const struct tensor *t = &f->tensor[i];

		if (t->offset < at)
			return err_set(err, ERR_INPUT, "tensor \"%s\" begins "
				       "at %llu, inside \"%s\"", t->name,
				       (unsigned long long)t->offset,
				       f->tensor[i - 1].name);
		if (t->offset > at && !(flags & ST_LENIENT))
			return err_set(err, ERR_INPUT, "%llu bytes in front of "
				       "tensor \"%s\" belong to no tensor",
				       (unsigned long long)(t->offset - at),
				       t->name);
		if (t->offset > at)
			f->odd |= ST_ODD_HOLE;
		at = t->offset + t->size;
	}
	if (at > data) {
		const struct tensor *t = f->tensor;

		while (t->offset + t->size <= data)
			t++;
		return err_set(err, ERR_INPUT, "truncated: %llu bytes are "
			       "missing, beginning in tensor \"%s\" (the file "
			       "has %llu, whole it has %llu)",
			       (unsigned long long)(at - data), t->name,
			       (unsigned long long)(f->data_begin + data),
			       (unsigned long long)(f->data_begin + at));
	}
	if (at < data && !(flags & ST_LENIENT))
		return err_set(err, ERR_INPUT, "%llu bytes behind the last "
			       "tensor", (unsigned long long)(data - at));
	if (at < data)
		f->odd |= ST_ODD_TRAILING;
	return 0;
}

/* That the header begins as the format's text has it.  The reference has always
 * read on over blanks. */
static int check_start(const char *text, size_t len, unsigned flags,
		       struct st_file *f, struct err *err)
{
	size_t n = blanks(text, len);

	if (n + 2 > len || text[n] != '{')
		return err_set(err, ERR_INPUT,
			       "header does not begin with '{'");
	if (n && !(flags & ST_LENIENT))
		return err_set(err, ERR_INPUT, "header begins with %zu bytes "
			       "of white space, expected '{'", n);
	if (n)
		f->odd |= ST_ODD_BLANKS;
	return 0;
}

/* The header's text; *len is its length. */
static int find_header(struct src *s, const char **text, uint64_t *len,
		       struct err *err)
{
	uint64_t size = io_size(s);
	const void *p;

	if (size < 8)
		return err_set(err, ERR_INPUT, "%llu bytes are too few for a "
			       "safetensors file", (unsigned long long)size);
	if (io_view(s, 0, 8, &p, err))
		return -1;
	*len = half_le64(p);
	if (*len > ST_HEADER_MAX)
		return err_set(err, ERR_INPUT, "not a safetensors file: header "
			       "length %llu is above %u",
			       (unsigned long long)*len, ST_HEADER_MAX);
	if (*len > size - 8)
		return err_set(err, ERR_INPUT, "truncated: %llu bytes of the "
			       "header are missing",
			       (unsigned long long)(*len - (size - 8)));
	if (io_view(s, 8, *len, &p, err))
		return -1;
	*text = p;
	return 0;
}

static int open_file(struct src *s, unsigned flags, struct st_file *out,
		     struct err *err)
{
	struct cJSON *top = NULL;
	const char *text = NULL;
	uint64_t len = 0;
	const void *p = NULL;
	int ret = -1;

	if (find_header(s, &text, &len, err) ||
	    check_start(text, (size_t)len, flags, out, err))
		goto out;
	if (json_parse(text, (size_t)len, JSON_STRICT_UINT, &top, err)) {
		err_ctx(err, "header");
		goto out;
	}
	if (read_entries(top, out, err))
		goto out;
	if (out->count)
		qsort(out->tensor, out->count, sizeof(*out->tensor), by_offset);
	out->data_begin = 8 + len;
	if (check_layout(out, io_size(s) - out->data_begin, flags, err))
		goto out;
	if (io_is_local(s) && io_view(s, out->data_begin, io_size(s) -
				      out->data_begin, &p, err))
		goto out;
	for (uint32_t i = 0; i < out->count; i++) {
		if (p)
			out->tensor[i].data = (const char *)p +
					      out->tensor[i].offset;
		out->tensor[i].offset += out->data_begin;
	}
	if (!json_find(out->meta, "format"))
		out->odd |= ST_ODD_NO_FORMAT;
	ret = 0;
out:
	/* of the tree only the metadata is kept */
	if (ret)
		out->meta = NULL;
	if (out->meta)
		cJSON_DetachItemViaPointer(top, out->meta);
	json_free(top);
	return ret;
}

int st_open(struct src *s, unsigned flags, struct st_file *out,
	    struct err *err)
{
	memset(out, 0, sizeof(*out));
	if (open_file(s, flags, out, err)) {
		st_close(out);
		return err_ctx(err, "%s", io_path(s));
	}
	return 0;
}

void st_close(struct st_file *f)
{
	json_free(f->meta);
	free(f->mem);
	memset(f, 0, sizeof(*f));
}
