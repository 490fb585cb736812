/* torch_objects.c - the names that a torch file may use, and what each stands
 * for.
 *
 * This table is the whole of what a file can ask for.  None of it runs
 * anything: a call only puts values of the file into a record of ours.
 * Source: torch/_utils.py and torch/serialization.py of PyTorch, for the
 * arguments; gptq-formats(5) "Pickles". */
#include "torch_pickle.h"

#include "../base/err.h"
#include "../base/mem.h"

#include <string.h>

enum does {
	MAP,         /* () or one list of pairs */
	REBUILD_V1,  /* storage, offset, size, stride */
	REBUILD_V2,  /* ..., requires_grad, hooks[, metadata] */
	REBUILD_V3,  /* ..., requires_grad, hooks, dtype[, metadata] */
	PARAMETER,   /* tensor, requires_grad, hooks[, state] */
	SIZE,        /* one tuple: itself */
	DTYPE,       /* a constant */
	STORAGE,     /* a class, only inside persistent ids */
	OPAQUE       /* of no interest */
};

/* Arguments a call may have. */
static const struct {
	uint8_t least, most;
} counts[] = {
	[MAP] = { 0, 1 },        [REBUILD_V1] = { 4, 4 },
	[REBUILD_V2] = { 6, 7 }, [REBUILD_V3] = { 7, 8 },
	[PARAMETER] = { 3, 4 },  [SIZE] = { 1, 1 },
	[OPAQUE] = { 0, 8 },
};

#define ARGS_MAX 8

static const struct {
	const char *module, *name;
	uint8_t does;
	uint8_t type; /* enum dtype */
} globals[] = {
	{ "collections", "OrderedDict", MAP, 0 },
	{ "torch._utils", "_rebuild_tensor", REBUILD_V1, 0 },
	{ "torch._utils", "_rebuild_tensor_v2", REBUILD_V2, 0 },
	{ "torch._utils", "_rebuild_tensor_v3", REBUILD_V3, 0 },
	{ "torch._utils", "_rebuild_parameter", PARAMETER, 0 },
	{ "torch._utils", "_rebuild_parameter_with_state", PARAMETER, 0 },
	{ "torch", "Size", SIZE, 0 },
	{ "torch", "bool", DTYPE, DT_BOOL },
	{ "torch", "uint8", DTYPE, DT_U8 },
	{ "torch", "int8", DTYPE, DT_I8 },
	{ "torch", "int16", DTYPE, DT_I16 },
	{ "torch", "uint16", DTYPE, DT_U16 },
	{ "torch", "int32", DTYPE, DT_I32 },
	{ "torch", "uint32", DTYPE, DT_U32 },
	{ "torch", "int64", DTYPE, DT_I64 },
	{ "torch", "uint64", DTYPE, DT_U64 },
	{ "torch", "float16", DTYPE, DT_F16 },
	{ "torch", "bfloat16", DTYPE, DT_BF16 },
	{ "torch", "float32", DTYPE, DT_F32 },
	{ "torch", "float64", DTYPE, DT_F64 },
	{ "torch", "complex64", DTYPE, DT_C64 },
	{ "torch", "float8_e4m3fn", DTYPE, DT_F8_E4M3 },
	{ "torch", "float8_e5m2", DTYPE, DT_F8_E5M2 },
	{ "torch", "float8_e8m0fnu", DTYPE, DT_F8_E8M0 },
	{ "torch", "float8_e4m3fnuz", DTYPE, DT_F8_E4M3FNUZ },
	{ "torch", "float8_e5m2fnuz", DTYPE, DT_F8_E5M2FNUZ },
	{ "torch", "FloatStorage", STORAGE, DT_F32 },
	{ "torch", "HalfStorage", STORAGE, DT_F16 },
	{ "torch", "BFloat16Storage", STORAGE, DT_BF16 },
	{ "torch", "DoubleStorage", STORAGE, DT_F64 },
	{ "torch", "IntStorage", STORAGE, DT_I32 },
	{ "torch", "LongStorage", STORAGE, DT_I64 },
	{ "torch", "ShortStorage", STORAGE, DT_I16 },
	{ "torch", "CharStorage", STORAGE, DT_I8 },
	{ "torch", "ByteStorage", STORAGE, DT_U8 },
	{ "torch", "BoolStorage", STORAGE, DT_BOOL },
	{ "torch", "ComplexFloatStorage", STORAGE, DT_C64 },
	{ "torch", "UntypedStorage", STORAGE, DT_U8 },
	{ "torch.storage", "UntypedStorage", STORAGE, DT_U8 },
	{ "torch", "device", OPAQUE, 0 },
	{ "torch.serialization", "_get_layout", OPAQUE, 0 },
	{ "__builtin__", "set", OPAQUE, 0 },
	{ "builtins", "set", OPAQUE, 0 },
	{ "argparse", "Namespace", OPAQUE, 0 },
};

static int is_text(const char *s, const char *text, size_t n)
{
	return strlen(s) == n && !memcmp(s, text, n);
}

int torch_global_find(const char *module, size_t module_len, const char *name,
		      size_t name_len, uint8_t *row, struct err *err)
{
	for (size_t i = 0; i < sizeof(globals) / sizeof(*globals); i++) {
		if (!is_text(globals[i].module, module, module_len) ||
		    !is_text(globals[i].name, name, name_len))
			continue;
		*row = (uint8_t)i;
		return 0;
	}
	return err_set(err, ERR_UNSUP, "refused: the file asks to run %.*s.%.*s"
		       " (it was not run)",
		       (int)(module_len < 100 ? module_len : 100), module,
		       (int)(name_len < 100 ? name_len : 100), name);
}

/* ---- arguments ---- */

/* The items of a tuple or list, at most `max`; their number, or -1. */
static int items_of(const struct torch_pickle *k, uint32_t v, uint32_t *out,
		    uint32_t max)
{
	const struct torch_val *t = &k->val[v];
	uint32_t at = t->u.list.first;

	if ((t->kind != TORCH_TUPLE && t->kind != TORCH_LIST) || t->n > max)
		return -1;
	for (uint32_t i = 0; i < t->n; i++, at = k->item[at].next)
		out[i] = k->item[at].val;
	return (int)t->n;
}

/* A whole number that is not negative. */
static int number_of(const struct torch_pickle *k, uint32_t v,
		     const char *what, uint64_t *out, struct err *err)
{
	const struct torch_val *n = &k->val[v];

	if (n->kind != TORCH_INT)
		return err_set(err, ERR_INPUT, "a tensor's %s is %s", what,
			       torch_kind_name(n));
	if (n->u.i < 0)
		return err_set(err, ERR_INPUT, "a tensor's %s is negative "
			       "(%lld)", what, (long long)n->u.i);
	*out = (uint64_t)n->u.i;
	return 0;
}

static int is_nothing(const struct torch_val *v)
{
	return v->kind == TORCH_NONE || (v->kind == TORCH_MAP && !v->n);
}

/* ---- tensors ---- */

static int read_sizes(const struct torch_pickle *k, uint32_t size,
		      uint32_t stride, struct torch_view *t, struct err *err)
{
	uint32_t a[TENSOR_RANK], b[TENSOR_RANK];
	int n = items_of(k, size, a, TENSOR_RANK);
	int m = items_of(k, stride, b, TENSOR_RANK);

	if (n < 0 || m != n)
		return err_set(err, ERR_INPUT, "a tensor's shape and strides "
			       "are not two tuples of the same length, at most "
			       "%d", TENSOR_RANK);
	t->rank = n;
	for (int i = 0; i < n; i++)
		if (number_of(k, a[i], "dimension", &t->dim[i], err) ||
		    number_of(k, b[i], "stride", &t->stride[i], err))
			return -1;
	return 0;
}

/* The last element lies inside the storage, and the bytes of all elements
 * have a number. */
static int check_view(const struct torch_storage *s, const struct torch_view *t,
		      struct err *err)
{
	uint64_t unit = tensor_dtype_bits(t->type) / 8, last = t->offset;
	uint64_t room, count = 1, step;

	for (int i = 0; i < t->rank; i++)
		if (mem_mul64(count, t->dim[i], &count))
			goto overflow;
	if (!count)
		return 0; /* no elements, no bounds */
	for (int i = 0; i < t->rank; i++) {
		if (mem_mul64(t->dim[i] - 1, t->stride[i], &step) ||
		    step > UINT64_MAX - last)
			goto overflow;
		last += step;
	}
	if (mem_mul64(count, unit, &count))
		goto overflow;
	/* the storage was measured against the file or will be: its bytes
	 * have a number */
	room = s->count * (tensor_dtype_bits(s->type) / 8) / unit;
	if (last >= room)
		return err_set(err, ERR_INPUT, "a tensor reaches up to element "
			       "%llu of a storage of %llu",
			       (unsigned long long)last,
			       (unsigned long long)room);
	return 0;
overflow:
	return err_set(err, ERR_INPUT, "a tensor's shape or strides overflow");
}

/* dtype and metadata, where the form has them. */
static int read_extra(const struct torch_pickle *k, int does,
		      const uint32_t *a, struct torch_view *t, struct err *err)
{
	int meta = does == REBUILD_V2 ? 6 : 7;

	if (does == REBUILD_V1)
		return 0;
	if (a[5] && !is_nothing(&k->val[a[5]]))
		return err_set(err, ERR_UNSUP, "refused: a tensor has hooks");
	if (a[meta] && !is_nothing(&k->val[a[meta]]))
		return err_set(err, ERR_UNSUP, "a tensor has metadata (a "
			       "conjugate or negated view)");
	if (does == REBUILD_V2)
		return 0;
	if (k->val[a[6]].kind != TORCH_GLOBAL ||
	    globals[k->val[a[6]].row].does != DTYPE)
		return err_set(err, ERR_INPUT, "a tensor's dtype is %s",
			       torch_kind_name(&k->val[a[6]]));
	t->type = (enum dtype)globals[k->val[a[6]].row].type;
	return 0;
}

static int tensor_new(struct torch_pickle *k, int does, const uint32_t *a,
		      uint32_t *out, struct err *err)
{
	struct torch_val v = { .kind = TORCH_TENSOR };
	struct torch_view t = { .rank = 0 };
	void *p = k->view;
	int ret;

	if (k->val[a[0]].kind != TORCH_STORAGE)
		return err_set(err, ERR_INPUT, "a tensor's storage is %s",
			       torch_kind_name(&k->val[a[0]]));
	t.storage = k->val[a[0]].u.at;
	t.type = k->storage[t.storage].type;
	if (number_of(k, a[1], "offset", &t.offset, err) ||
	    read_sizes(k, a[2], a[3], &t, err) ||
	    read_extra(k, does, a, &t, err) ||
	    check_view(&k->storage[t.storage], &t, err))
		return -1;
	if (k->view_count >= TORCH_OBJECTS_MAX)
		return err_set(err, ERR_INPUT, "more than %u tensors",
			       TORCH_OBJECTS_MAX);
	ret = mem_grow(&p, &k->view_cap, k->view_count + 1, sizeof(t), err);
	k->view = p;
	if (ret)
		return -1;
	v.u.at = (uint32_t)k->view_count;
	k->view[k->view_count++] = t;
	return torch_val_new(k, &v, out, err);
}

/* ---- calls ---- */

/* An ordered map, perhaps with a list of pairs to begin with. */
static int map_new(struct torch_pickle *k, uint32_t list, uint32_t *out,
		   struct err *err)
{
	const struct torch_val v = { .kind = TORCH_MAP };
	uint32_t at, pair[2];

	if (torch_val_new(k, &v, out, err))
		return -1;
	if (!list)
		return 0;
	if (k->val[list].kind != TORCH_LIST)
		return err_set(err, ERR_INPUT, "a map is made from %s",
			       torch_kind_name(&k->val[list]));
	at = k->val[list].u.list.first;
	for (uint32_t i = k->val[list].n; i; i--, at = k->item[at].next)
		if (items_of(k, k->item[at].val, pair, 2) != 2)
			return err_set(err, ERR_INPUT,
				       "a map is made from what is no pair");
		else if (torch_val_append(k, *out, pair[0], pair[1], err))
			return -1;
	return 0;
}

static int opaque_new(struct torch_pickle *k, uint32_t *out, struct err *err)
{
	const struct torch_val v = { .kind = TORCH_OTHER };

	return torch_val_new(k, &v, out, err);
}

int torch_call(struct torch_pickle *k, uint8_t row, uint32_t args,
	       uint32_t *out, struct err *err)
{
	uint32_t a[ARGS_MAX] = { 0 };
	int does = globals[row].does, n;

	if (does == DTYPE || does == STORAGE)
		return err_set(err, ERR_UNSUP, "refused: the file asks to run "
			       "%s.%s", globals[row].module,
			       globals[row].name);
	n = items_of(k, args, a, ARGS_MAX);
	if (n < counts[does].least || n > counts[does].most)
		return err_set(err, ERR_INPUT, "%s.%s has %u arguments",
			       globals[row].module, globals[row].name,
			       k->val[args].n);
	switch (does) {
	case MAP:
		return map_new(k, a[0], out, err);
	case PARAMETER:
		if (k->val[a[0]].kind != TORCH_TENSOR)
			return err_set(err, ERR_INPUT, "a parameter is %s",
				       torch_kind_name(&k->val[a[0]]));
		*out = a[0];
		return 0;
	case SIZE:
		if (k->val[a[0]].kind != TORCH_TUPLE)
			return err_set(err, ERR_INPUT, "a size is %s",
				       torch_kind_name(&k->val[a[0]]));
		*out = a[0];
		return 0;
	case OPAQUE:
		return opaque_new(k, out, err);
	default:
		return tensor_new(k, does, a, out, err);
	}
}

int torch_make(struct torch_pickle *k, uint8_t row, uint32_t *out,
	       struct err *err)
{
	if (globals[row].does != OPAQUE)
		return err_set(err, ERR_UNSUP, "refused: the file asks to make "
			       "a %s.%s", globals[row].module,
			       globals[row].name);
	return opaque_new(k, out, err);
}

/* ---- persistent ids ---- */

/* The sixth item of a legacy id: None, or (key, offset, size) of a window. */
static int read_window(const struct torch_pickle *k, uint32_t v,
		       struct torch_storage *s, struct err *err)
{
	uint32_t a[3];

	s->count = s->numel;
	if (!v || k->val[v].kind == TORCH_NONE)
		return 0;
	if (items_of(k, v, a, 3) != 3)
		return err_set(err, ERR_INPUT, "a storage's view is %s",
			       torch_kind_name(&k->val[v]));
	if (number_of(k, a[1], "storage's offset", &s->from, err) ||
	    number_of(k, a[2], "storage's size", &s->count, err))
		return -1;
	if (s->from > s->numel || s->count > s->numel - s->from)
		return err_set(err, ERR_INPUT, "a storage's view reaches past "
			       "its end");
	return 0;
}

static int read_id(const struct torch_pickle *k, const uint32_t *a,
		   struct torch_storage *s, struct err *err)
{
	const struct torch_val *type = &k->val[a[1]], *key = &k->val[a[2]];
	uint64_t bytes;

	if (!torch_is_text(&k->val[a[0]], "storage"))
		return err_set(err, ERR_UNSUP, "refused: a persistent id that "
			       "is no storage");
	if (type->kind != TORCH_GLOBAL || globals[type->row].does != STORAGE)
		return err_set(err, ERR_INPUT, "a storage's class is %s",
			       torch_kind_name(type));
	if (key->kind != TORCH_TEXT || !key->n || key->n > TORCH_KEY_MAX)
		return err_set(err, ERR_INPUT, "a storage's key is %s",
			       key->kind == TORCH_TEXT ? "empty or too long" :
			       torch_kind_name(key));
	s->type = (enum dtype)globals[type->row].type;
	s->key = key->u.text;
	s->key_len = key->n;
	if (number_of(k, a[4], "storage's size", &s->numel, err))
		return -1;
	if (mem_mul64(s->numel, tensor_dtype_bits(s->type) / 8, &bytes))
		return err_set(err, ERR_INPUT, "a storage's size overflows");
	return read_window(k, a[5], s, err);
}

int torch_storage_new(struct torch_pickle *k, uint32_t id, uint32_t *out,
		      struct err *err)
{
	struct torch_val v = { .kind = TORCH_STORAGE };
	struct torch_storage s = { .key = NULL };
	uint32_t a[6] = { 0 };
	void *p = k->storage;
	int ret;

	if (k->val[id].kind != TORCH_TUPLE || items_of(k, id, a, 6) < 5)
		return err_set(err, ERR_INPUT, "a persistent id is not a tuple "
			       "of five or six");
	if (read_id(k, a, &s, err))
		return -1;
	if (k->storage_count >= TORCH_OBJECTS_MAX)
		return err_set(err, ERR_INPUT, "more than %u storages",
			       TORCH_OBJECTS_MAX);
	ret = mem_grow(&p, &k->storage_cap, k->storage_count + 1, sizeof(s),
		       err);
	k->storage = p;
	if (ret)
		return -1;
	v.u.at = (uint32_t)k->storage_count;
	k->storage[k->storage_count++] = s;
	return torch_val_new(k, &v, out, err);
}
