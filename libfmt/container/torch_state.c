/* torch_state.c - from the graph of a pickle to a list of dense tensors.
 *
 * The state dict is the top level itself, or one of a few well-known entries
 * of it.  Its order is kept. */
#include "torch_pickle.h"

#include "../base/err.h"
#include "../base/io.h"
#include "../base/json.h"
#include "../base/mem.h"
#include "torch.h"

#include <stdlib.h>
#include <string.h>

#define WRAPS 8                     /* maps around the state dict */
#define COPIES_FREE ((uint64_t)1 << 20) /* bytes copied whatever the file */
#define ALIGN 64

/* ---- where the state dict is ---- */

static int holds_tensor(const struct torch_pickle *k, uint32_t map)
{
	uint32_t at = k->val[map].u.list.first;

	if (k->val[map].kind != TORCH_MAP)
		return 0;
	for (uint32_t i = k->val[map].n; i; i--, at = k->item[at].next)
		if (k->val[k->item[at].val].kind == TORCH_TENSOR)
			return 1;
	return 0;
}

/* The map that wraps are known to keep the state dict under; 0: none. */
static uint32_t wrapped(const struct torch_pickle *k, uint32_t map)
{
	static const char *const key[] = { "state_dict", "model_state_dict",
		"model", "module" };

	for (size_t i = 0; i < sizeof(key) / sizeof(*key); i++) {
		uint32_t at = k->val[map].u.list.first;

		for (uint32_t n = k->val[map].n; n; n--) {
			const struct torch_item *e = &k->item[at];

			if (torch_is_text(&k->val[e->key], key[i]) &&
			    k->val[e->val].kind == TORCH_MAP)
				return e->val;
			at = e->next;
		}
	}
	return 0;
}

static int find_state(const struct torch_pickle *k, uint32_t *map,
		      struct err *err)
{
	uint32_t at = k->root, in;

	if (k->val[at].kind != TORCH_MAP)
		return err_set(err, ERR_INPUT, "holds %s, not a state dict",
			       torch_kind_name(&k->val[at]));
	for (int i = 0; i < WRAPS && (in = wrapped(k, at)) != 0; i++)
		at = in;
	if (!holds_tensor(k, at))
		return err_set(err, ERR_INPUT, "no tensors found (neither at "
			       "the top nor under state_dict, model or "
			       "module)");
	*map = at;
	return 0;
}

/* ---- names ---- */

static int check_name(const struct torch_val *v, struct err *err)
{
	if (v->kind != TORCH_TEXT)
		return err_set(err, ERR_INPUT, "a tensor's name is %s",
			       torch_kind_name(v));
	if (!v->n || memchr(v->u.text, 0, v->n))
		return err_set(err, ERR_INPUT, "a tensor's name is empty or "
			       "has a NUL in it");
	for (size_t at = 0, n; at < v->n; at += n) {
		n = json_utf8(v->u.text + at, v->n - at);
		if (!n)
			return err_set(err, ERR_INPUT, "a tensor's name is not "
				       "UTF-8");
	}
	return 0;
}

/* How many tensors and how much text their names are.  What is no tensor is
 * passed over, but not a map of further tensors. */
static int measure(const struct torch_pickle *k, uint32_t map, size_t *count,
		   size_t *text, struct err *err)
{
	uint32_t at = k->val[map].u.list.first;

	*count = *text = 0;
	for (uint32_t i = k->val[map].n; i; i--, at = k->item[at].next) {
		const struct torch_val *key = &k->val[k->item[at].key];
		uint32_t val = k->item[at].val;

		if (holds_tensor(k, val))
			return err_set(err, ERR_UNSUP, "%.*s: a map of tensors "
				       "among tensors",
				       key->kind == TORCH_TEXT && key->n < 200 ?
				       (int)key->n : 0,
				       key->kind == TORCH_TEXT ?
				       key->u.text : "");
		if (k->val[val].kind != TORCH_TENSOR)
			continue;
		if (check_name(key, err))
			return -1;
		*count += 1;
		*text += key->n + (size_t)1;
		/* names that differ all have their own bytes in the file */
		if (*text - *count > k->size)
			return err_set(err, ERR_INPUT, "tensor names appear "
				       "twice");
	}
	return 0;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check_distinct(const struct torch_file *f, struct err *err)
{
	const char **name = mem_alloc(f->count, sizeof(*name), err);
	int ret = -1;

	if (!name)
		return -1;
	for (uint32_t i = 0; i < f->count; i++)
		name[i] = f->tensor[i].name;
	qsort(name, f->count, sizeof(*name), by_text);
	for (uint32_t i = 1; i < f->count; i++)
		if (!strcmp(name[i - 1], name[i])) {
			err_set(err, ERR_INPUT, "\"%.256s\" appears twice",
				name[i]);
			goto out;
		}
	ret = 0;
out:
	free(name);
	return ret;
}

/* ---- views of storages ---- */

/* The view begins here, in bytes from the file's start. */
static uint64_t place_of(const struct torch_pickle *k,
			 const struct torch_view *v)
{
	const struct torch_storage *s = &k->storage[v->storage];

	return s->at + s->from * (tensor_dtype_bits(s->type) / 8) +
	       v->offset * (tensor_dtype_bits(v->type) / 8);
}

/* The strides of C order; 1 when the view has them (a stride is of no matter
 * where the dimension is 1, and none is where there are no elements). */
static int set_shape(const struct torch_view *v, struct tensor *t)
{
	uint64_t step = 1;
	int dense = 1;

	t->type = v->type;
	t->rank = v->rank;
	for (int i = v->rank - 1; i >= 0; i--) {
		t->dim[i] = v->dim[i];
		t->stride[i] = step;
		dense &= v->dim[i] == 1 || v->stride[i] == step;
		/* with a zero among them the others may be anything */
		if (mem_mul64(step, v->dim[i], &step))
			step = 0;
	}
	for (int i = 0; i < v->rank; i++)
		if (!v->dim[i])
			step = 0;
	t->size = step * (tensor_dtype_bits(v->type) / 8);
	return dense || !step;
}

/* All elements of a view, in C order, to `out`: a row of the last dimension
 * at a time, the other indices counting like an odometer. */
static void gather(const struct torch_view *v, const uint8_t *from,
		   uint8_t *out)
{
	const size_t unit = tensor_dtype_bits(v->type) / 8;
	const int last = v->rank - 1;
	uint64_t index[TENSOR_RANK] = { 0 };
	int d;

	do {
		const uint8_t *p = from;

		for (d = 0; d < last; d++)
			p += index[d] * v->stride[d] * unit;
		if (v->stride[last] == 1) {
			memcpy(out, p, v->dim[last] * unit);
			out += v->dim[last] * unit;
		} else {
			for (uint64_t i = 0; i < v->dim[last]; i++) {
				memcpy(out, p + i * v->stride[last] * unit,
				       unit);
				out += unit;
			}
		}
		for (d = last - 1; d >= 0 && ++index[d] == v->dim[d]; d--)
			index[d] = 0;
	} while (d >= 0);
}

/* Room for the copies of all views that are not dense in the file.  Views can
 * repeat elements (stride 0), so their sum is held against the file. */
static int alloc_copies(struct torch_file *f, uint64_t file_size,
			struct err *err)
{
	const uint64_t most = COPIES_FREE +
		(file_size < UINT64_MAX / 4 ? 2 * file_size : file_size);
	uint64_t sum = 0;

	for (uint32_t i = 0; i < f->count; i++) {
		const struct tensor *t = &f->tensor[i];

		if (t->offset != TENSOR_COPIED)
			continue;
		if (t->size > most - sum)
			return err_set(err, ERR_UNSUP, "%.256s: its elements "
				       "are not in order in the file, and %llu "
				       "bytes are too many to copy from a file "
				       "of %llu", t->name,
				       (unsigned long long)t->size,
				       (unsigned long long)file_size);
		sum += t->size;
		/* may end past `most`, so that the next one is refused */
		sum = sum + (ALIGN - 1) < most ?
		      (sum + ALIGN - 1) & ~(uint64_t)(ALIGN - 1) : most;
	}
	if (!sum)
		return 0;
	f->copies = mem_alloc((size_t)sum + ALIGN, 1, err);
	return f->copies ? 0 : -1;
}

/* ---- the list ---- */

static int set_data(const struct torch_pickle *k, struct src *s,
		    const uint32_t *view, struct torch_file *f,
		    struct err *err)
{
	uint8_t *to = f->copies;

	for (uint32_t i = 0; i < f->count; i++) {
		const struct torch_view *v = &k->view[view[i]];
		const uint8_t *mem = k->storage[v->storage].mem;
		struct tensor *t = &f->tensor[i];
		const void *p;

		if (t->offset != TENSOR_COPIED && mem) {
			t->data = mem + place_of(k, v);
			t->offset = TENSOR_COPIED; /* not in the file so */
			continue;
		}
		if (t->offset != TENSOR_COPIED) {
			if (io_view(s, t->offset, t->size, &t->data, err))
				return err_ctx(err, "%.256s", t->name);
			continue;
		}
		/* the last element was found to be inside the storage, and the
		 * storage inside the file */
		if (mem)
			p = mem + place_of(k, v);
		else if (io_view(s, place_of(k, v), 0, &p, err))
			return -1;
		gather(v, p, to);
		t->data = to;
		to += (t->size + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
	}
	return 0;
}

static void list_tensors(const struct torch_pickle *k, uint32_t map,
			 struct torch_file *f, char *text, uint32_t *view)
{
	uint32_t at = k->val[map].u.list.first;

	for (uint32_t i = k->val[map].n; i; i--, at = k->item[at].next) {
		const struct torch_val *key = &k->val[k->item[at].key];
		const struct torch_val *val = &k->val[k->item[at].val];
		struct tensor *t = &f->tensor[f->count];

		if (val->kind != TORCH_TENSOR)
			continue;
		memcpy(text, key->u.text, key->n);
		t->name = text;
		text += key->n + (size_t)1;
		view[f->count++] = val->u.at;
		t->offset = set_shape(&k->view[val->u.at], t) ?
			    place_of(k, &k->view[val->u.at]) : TENSOR_COPIED;
		if (!t->size) /* lies nowhere */
			t->offset = 0;
	}
}

int torch_state_read(const struct torch_pickle *k, struct src *s,
		     struct torch_file *out, struct err *err)
{
	uint32_t map = 0, *view = NULL;
	size_t count = 0, len = 0;
	char *text = NULL;
	int ret = -1;

	if (find_state(k, &map, err) || measure(k, map, &count, &len, err))
		return -1;
	if (count > TORCH_OBJECTS_MAX)
		return err_set(err, ERR_INPUT, "more than %u tensors",
			       TORCH_OBJECTS_MAX);
	view = mem_alloc(count, sizeof(*view), err);
	struct mem_part part[] = {
		{ (void **)&out->tensor, count, sizeof(*out->tensor) },
		{ (void **)&text, len, 1 },
	};
	out->mem = view ? mem_block(part, 2, err) : NULL;
	if (!out->mem)
		goto out;
	list_tensors(k, map, out, text, view);
	if (check_distinct(out, err) ||
	    alloc_copies(out, io_size(s), err) ||
	    set_data(k, s, view, out, err))
		goto out;
	ret = 0;
out:
	free(view);
	return ret;
}

void torch_close(struct torch_file *f)
{
	free(f->mem);
	free(f->copies);
	free(f->inflated);
	memset(f, 0, sizeof(*f));
}
