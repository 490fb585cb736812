/* torch_pickle.c - the instructions of a pickle, read as data.
 *
 * Protocols 2 to 5, of which torch writes the second.  An instruction that no
 * state dict needs is not known here; above all nothing can be called but what
 * torch_objects.c spells out.
 * Source: the opcodes as CPython's pickletools documents them. */
#include "torch_pickle.h"

#include "../base/err.h"
#include "../base/half.h"
#include "../base/mem.h"

#include <stdlib.h>
#include <string.h>

#define VALUES_MAX ((size_t)1 << 23) /* of values and of items */
#define NAME_BYTES 256              /* bytes of a module or a name */

/* ---- values ---- */

int torch_val_new(struct torch_pickle *k, const struct torch_val *v,
		  uint32_t *out, struct err *err)
{
	void *p = k->val;
	int ret;

	if (k->val_count >= VALUES_MAX)
		return err_set(err, ERR_INPUT, "the pickle holds more than %zu "
			       "values", VALUES_MAX);
	ret = mem_grow(&p, &k->val_cap, k->val_count + 2, sizeof(*v), err);
	k->val = p;
	if (ret)
		return -1;
	if (!k->val_count)
		memset(&k->val[k->val_count++], 0, sizeof(*v));
	*out = (uint32_t)k->val_count;
	k->val[k->val_count++] = *v;
	return 0;
}

int torch_val_append(struct torch_pickle *k, uint32_t to, uint32_t key,
		     uint32_t val, struct err *err)
{
	struct torch_val *v = &k->val[to];
	void *p = k->item;
	uint32_t at;
	int ret;

	if (k->item_count >= VALUES_MAX)
		return err_set(err, ERR_INPUT, "the pickle holds more than %zu "
			       "items", VALUES_MAX);
	ret = mem_grow(&p, &k->item_cap, k->item_count + 2, sizeof(*k->item),
		       err);
	k->item = p;
	if (ret)
		return -1;
	if (!k->item_count)
		memset(&k->item[k->item_count++], 0, sizeof(*k->item));
	at = (uint32_t)k->item_count++;
	k->item[at] = (struct torch_item){ key, val, 0 };
	if (v->n++)
		k->item[v->u.list.last].next = at;
	else
		v->u.list.first = at;
	v->u.list.last = at;
	return 0;
}

const char *torch_kind_name(const struct torch_val *v)
{
	static const char *const name[] = { "None", "a truth value",
		"an integer", "a large integer", "a number", "a text", "bytes",
		"a tuple", "a list", "a map", "a name", "a storage",
		"a tensor", "an object" };

	return name[v->kind];
}

int torch_is_text(const struct torch_val *v, const char *text)
{
	return v->kind == TORCH_TEXT && v->n == strlen(text) &&
	       !memcmp(v->u.text, text, v->n);
}

/* ---- bytes, stack and marks ---- */

static int bad(const struct torch_pickle *k, const char *what, struct err *err)
{
	err_set(err, ERR_INPUT, "damaged pickle: %s at byte %llu", what,
		(unsigned long long)(k->at ? k->at - 1 : 0));
	return -1;
}

static int take(struct torch_pickle *k, uint64_t n, const uint8_t **p,
		struct err *err)
{
	if (n > k->size - k->at) {
		err_set(err, ERR_INPUT, "damaged pickle: %llu bytes are wanted "
			"at byte %llu, %llu are left", (unsigned long long)n,
			(unsigned long long)k->at,
			(unsigned long long)(k->size - k->at));
		return -1;
	}
	*p = k->p + k->at;
	k->at += n;
	return 0;
}

static int put_index(uint32_t **array, size_t *count, size_t *cap, uint32_t v,
		     struct err *err)
{
	void *p = *array;
	int ret = mem_grow(&p, cap, *count + 1, sizeof(v), err);

	*array = p;
	if (ret)
		return -1;
	(*array)[(*count)++] = v;
	return 0;
}

static int push_index(struct torch_pickle *k, uint32_t v, struct err *err)
{
	return put_index(&k->stack, &k->stack_count, &k->stack_cap, v, err);
}

static int push(struct torch_pickle *k, const struct torch_val *v,
		struct err *err)
{
	uint32_t at;

	return torch_val_new(k, v, &at, err) || push_index(k, at, err) ? -1 : 0;
}

/* Nothing is taken from below the newest mark. */
static size_t floor_of(const struct torch_pickle *k)
{
	return k->mark_count ? k->mark[k->mark_count - 1] : 0;
}

static int pop(struct torch_pickle *k, uint32_t *v, struct err *err)
{
	if (k->stack_count <= floor_of(k))
		return bad(k, "the stack is empty", err);
	*v = k->stack[--k->stack_count];
	return 0;
}

/* Take the newest mark away; *from is where its values begin. */
static int pop_mark(struct torch_pickle *k, size_t *from, struct err *err)
{
	if (!k->mark_count)
		return bad(k, "no mark", err);
	*from = k->mark[--k->mark_count];
	return 0;
}

/* The container on top of the stack, which must be of this kind. */
static int top_of(struct torch_pickle *k, enum torch_kind kind, uint32_t *v,
		  struct err *err)
{
	if (k->stack_count <= floor_of(k))
		return bad(k, "the stack is empty", err);
	*v = k->stack[k->stack_count - 1];
	if (k->val[*v].kind != kind)
		return bad(k, kind == TORCH_MAP ? "a pair for what is no map" :
			   "an item for what is no list", err);
	return 0;
}

/* ---- the instructions ---- */

static int op_proto(struct torch_pickle *k, uint8_t op, struct err *err)
{
	const uint8_t *p;

	(void)op;
	if (take(k, 1, &p, err))
		return -1;
	if (*p < 2 || *p > 5)
		return err_set(err, ERR_UNSUP, "pickle protocol %u", *p);
	return 0;
}

static int op_frame(struct torch_pickle *k, uint8_t op, struct err *err)
{
	const uint8_t *p;

	(void)op;
	return take(k, 8, &p, err);
}

/* NONE, NEWTRUE, NEWFALSE, EMPTY_DICT, EMPTY_LIST, EMPTY_TUPLE */
static int op_constant(struct torch_pickle *k, uint8_t op, struct err *err)
{
	struct torch_val v = { .kind = TORCH_NONE };

	switch (op) {
	case 0x88:
		v.u.i = 1;
		v.kind = TORCH_BOOL;
		break;
	case 0x89:
		v.kind = TORCH_BOOL;
		break;
	case '}':
		v.kind = TORCH_MAP;
		break;
	case ']':
		v.kind = TORCH_LIST;
		break;
	case ')':
		v.kind = TORCH_TUPLE;
		break;
	default:
		break;
	}
	return push(k, &v, err);
}

/* BININT, BININT1, BININT2 */
static int op_int(struct torch_pickle *k, uint8_t op, struct err *err)
{
	struct torch_val v = { .kind = TORCH_INT };
	const uint8_t *p;

	if (take(k, op == 'J' ? 4 : op == 'M' ? 2 : 1, &p, err))
		return -1;
	if (op == 'J')
		v.u.i = (int32_t)half_le32(p);
	else
		v.u.i = op == 'M' ? half_le16(p) : *p;
	return push(k, &v, err);
}

/* LONG1: two's complement, the least significant byte first. */
static int op_long(struct torch_pickle *k, uint8_t op, struct err *err)
{
	struct torch_val v = { .kind = TORCH_INT };
	const uint8_t *p, *n;
	uint64_t u = 0;

	(void)op;
	if (take(k, 1, &n, err) || take(k, *n, &p, err))
		return -1;
	if (*n > 8) {
		v.kind = TORCH_BIG;
		v.n = *n;
		v.u.text = (const char *)p;
		return push(k, &v, err);
	}
	if (*n && (p[*n - 1] & 0x80))
		u = UINT64_MAX;
	for (int i = *n - 1; i >= 0; i--)
		u = u << 8 | p[i];
	v.u.i = (int64_t)u;
	return push(k, &v, err);
}

/* BINFLOAT: no number of a state dict's surroundings is of interest. */
static int op_float(struct torch_pickle *k, uint8_t op, struct err *err)
{
	const struct torch_val v = { .kind = TORCH_FLOAT };
	const uint8_t *p;

	(void)op;
	return take(k, 8, &p, err) || push(k, &v, err) ? -1 : 0;
}

/* All texts and byte strings: how wide the length is, then the bytes. */
static int op_text(struct torch_pickle *k, uint8_t op, struct err *err)
{
	int bytes = op == 'B' || op == 'C' || op == 0x8e;
	struct torch_val v = { .kind = bytes ? TORCH_BYTES : TORCH_TEXT };
	const uint8_t *p;
	uint64_t n;
	int wide = op == 'X' || op == 'T' || op == 'B' ? 4 :
		   op == 0x8d || op == 0x8e ? 8 : 1;

	if (take(k, (uint64_t)wide, &p, err))
		return -1;
	n = wide == 8 ? half_le64(p) : wide == 4 ? half_le32(p) : *p;
	if (take(k, n, &p, err))
		return -1;
	v.n = (uint32_t)n; /* a pickle is far smaller than 4 GiB */
	v.u.text = (const char *)p;
	return push(k, &v, err);
}

/* A name that is not allowed is refused where it is said, before anything
 * could be done with it. */
static int push_global(struct torch_pickle *k, const struct torch_val *module,
		       const struct torch_val *name, struct err *err)
{
	struct torch_val v = { .kind = TORCH_GLOBAL };

	if (torch_global_find(module->u.text, module->n, name->u.text, name->n,
			      &v.row, err))
		return -1;
	return push(k, &v, err);
}

static int take_line(struct torch_pickle *k, struct torch_val *v,
		     struct err *err)
{
	const uint8_t *p = k->p + k->at, *end;
	uint64_t n = k->size - k->at;

	end = memchr(p, '\n', n < NAME_BYTES ? (size_t)n : NAME_BYTES);
	if (!end)
		return bad(k, "a name without end", err);
	v->u.text = (const char *)p;
	v->n = (uint32_t)(end - p);
	k->at += v->n + 1;
	return 0;
}

static int op_global(struct torch_pickle *k, uint8_t op, struct err *err)
{
	struct torch_val module, name;

	(void)op;
	if (take_line(k, &module, err) || take_line(k, &name, err))
		return -1;
	return push_global(k, &module, &name, err);
}

static int op_stack_global(struct torch_pickle *k, uint8_t op, struct err *err)
{
	struct torch_val module, name;
	uint32_t m, n;

	(void)op;
	if (pop(k, &n, err) || pop(k, &m, err))
		return -1;
	module = k->val[m];
	name = k->val[n];
	if (module.kind != TORCH_TEXT || name.kind != TORCH_TEXT)
		return bad(k, "a name that is no text", err);
	return push_global(k, &module, &name, err);
}

static int op_put(struct torch_pickle *k, uint8_t op, struct err *err)
{
	uint64_t at = k->memo_filled; /* MEMOIZE */
	void *memo = k->memo;
	const uint8_t *p;
	int ret;

	if (op == 'q' || op == 'r') {
		if (take(k, op == 'q' ? 1 : 4, &p, err))
			return -1;
		at = op == 'q' ? *p : half_le32(p);
	}
	if (k->stack_count <= floor_of(k))
		return bad(k, "the stack is empty", err);
	/* writers count up from 0 or 1, at two bytes a time */
	if (at >= k->at)
		return bad(k, "a memo number out of order", err);
	ret = mem_grow(&memo, &k->memo_cap, at + 1, sizeof(*k->memo), err);
	k->memo = memo;
	if (ret)
		return -1;
	while (k->memo_count <= at)
		k->memo[k->memo_count++] = 0;
	k->memo_filled += !k->memo[at];
	k->memo[at] = k->stack[k->stack_count - 1];
	return 0;
}

static int op_get(struct torch_pickle *k, uint8_t op, struct err *err)
{
	const uint8_t *p;
	uint32_t at;

	if (take(k, op == 'h' ? 1 : 4, &p, err))
		return -1;
	at = op == 'h' ? *p : half_le32(p);
	if (at >= k->memo_count || !k->memo[at])
		return bad(k, "a memo number that was never stored", err);
	return push_index(k, k->memo[at], err);
}

static int op_mark(struct torch_pickle *k, uint8_t op, struct err *err)
{
	(void)op;
	return put_index(&k->mark, &k->mark_count, &k->mark_cap,
			 (uint32_t)k->stack_count, err);
}

/* The values from `from` to the top become one tuple. */
static int make_tuple(struct torch_pickle *k, size_t from, struct err *err)
{
	const struct torch_val v = { .kind = TORCH_TUPLE };
	uint32_t at;

	if (torch_val_new(k, &v, &at, err))
		return -1;
	for (size_t i = from; i < k->stack_count; i++)
		if (torch_val_append(k, at, 0, k->stack[i], err))
			return -1;
	k->stack_count = from;
	return push_index(k, at, err);
}

/* TUPLE, TUPLE1, TUPLE2, TUPLE3 */
static int op_tuple(struct torch_pickle *k, uint8_t op, struct err *err)
{
	size_t n = op == 't' ? 0 : op - 0x84u, from;

	if (op == 't')
		return pop_mark(k, &from, err) ? -1 : make_tuple(k, from, err);
	if (k->stack_count - floor_of(k) < n)
		return bad(k, "the stack is empty", err);
	return make_tuple(k, k->stack_count - n, err);
}

/* APPEND, APPENDS */
static int op_append(struct torch_pickle *k, uint8_t op, struct err *err)
{
	size_t from = k->stack_count - 1, end;
	uint32_t list, v;

	if (op == 'a' ? pop(k, &v, err) : pop_mark(k, &from, err))
		return -1;
	end = op == 'a' ? from + 1 : k->stack_count;
	k->stack_count = from;
	if (top_of(k, TORCH_LIST, &list, err))
		return -1;
	for (size_t i = from; i < end; i++)
		if (torch_val_append(k, list, 0, k->stack[i], err))
			return -1;
	return 0;
}

/* SETITEM, SETITEMS */
static int op_set(struct torch_pickle *k, uint8_t op, struct err *err)
{
	size_t from = k->stack_count - 2, end = k->stack_count;
	uint32_t map, v;

	if (op == 's' ? pop(k, &v, err) || pop(k, &v, err) :
	    pop_mark(k, &from, err))
		return -1;
	k->stack_count = from;
	if ((end - from) % 2)
		return bad(k, "a key without a value", err);
	if (top_of(k, TORCH_MAP, &map, err))
		return -1;
	for (size_t i = from; i < end; i += 2)
		if (torch_val_append(k, map, k->stack[i], k->stack[i + 1], err))
			return -1;
	return 0;
}

/* REDUCE, NEWOBJ: what a name and its arguments stand for. */
static int op_call(struct torch_pickle *k, uint8_t op, struct err *err)
{
	uint32_t args, f, v;

	if (pop(k, &args, err) || pop(k, &f, err))
		return -1;
	if (k->val[f].kind != TORCH_GLOBAL || k->val[args].kind != TORCH_TUPLE)
		return bad(k, "a call of what is no name", err);
	if (op == 'R' ? torch_call(k, k->val[f].row, args, &v, err) :
	    torch_make(k, k->val[f].row, &v, err))
		return -1;
	return push_index(k, v, err);
}

/* BUILD gives an object attributes: nn.Module.state_dict() carries
 * _metadata.  Read and forgotten. */
static int op_build(struct torch_pickle *k, uint8_t op, struct err *err)
{
	uint32_t state, v;

	(void)op;
	if (pop(k, &state, err))
		return -1;
	if (k->stack_count <= floor_of(k))
		return bad(k, "the stack is empty", err);
	v = k->stack[k->stack_count - 1];
	if (k->val[v].kind != TORCH_MAP && k->val[v].kind != TORCH_OTHER)
		return err_set(err, ERR_UNSUP, "refused: the file sets the "
			       "state of %s", torch_kind_name(&k->val[v]));
	return 0;
}

static int op_persistent(struct torch_pickle *k, uint8_t op, struct err *err)
{
	uint32_t id, v;

	(void)op;
	if (pop(k, &id, err) || torch_storage_new(k, id, &v, err))
		return -1;
	return push_index(k, v, err);
}

/* Indexed by instruction; STOP ('.') is the loop's own. */
static int (*const ops[256])(struct torch_pickle *, uint8_t, struct err *) = {
	[0x80] = op_proto, [0x95] = op_frame,
	['N'] = op_constant, [0x88] = op_constant, [0x89] = op_constant,
	['}'] = op_constant, [']'] = op_constant, [')'] = op_constant,
	['J'] = op_int, ['K'] = op_int, ['M'] = op_int, [0x8a] = op_long,
	['G'] = op_float,
	['X'] = op_text, [0x8c] = op_text, [0x8d] = op_text, ['U'] = op_text,
	['T'] = op_text, ['B'] = op_text, ['C'] = op_text, [0x8e] = op_text,
	['c'] = op_global, [0x93] = op_stack_global,
	['q'] = op_put, ['r'] = op_put, [0x94] = op_put,
	['h'] = op_get, ['j'] = op_get, ['('] = op_mark,
	['t'] = op_tuple, [0x85] = op_tuple, [0x86] = op_tuple,
	[0x87] = op_tuple,
	['a'] = op_append, ['e'] = op_append, ['s'] = op_set, ['u'] = op_set,
	['R'] = op_call, [0x81] = op_call, ['b'] = op_build,
	['Q'] = op_persistent,
};

int torch_pickle_run(struct torch_pickle *k, const void *p, uint64_t n,
		     struct err *err)
{
	k->p = p;
	k->size = n < TORCH_PICKLE_MAX ? n : TORCH_PICKLE_MAX;
	for (;;) {
		uint8_t op;

		if (k->at == k->size)
			return err_set(err, ERR_INPUT, n > k->size ?
				       "the pickle is larger than %llu bytes" :
				       "damaged pickle: no end in %llu bytes",
				       (unsigned long long)k->size);
		op = k->p[k->at++];
		if (op == '.')
			break;
		if (!ops[op])
			return err_set(err, ERR_UNSUP, "refused: pickle "
				       "instruction 0x%02x at byte %llu has no "
				       "place in a state dict", op,
				       (unsigned long long)(k->at - 1));
		if (ops[op](k, op, err))
			return -1;
	}
	if (pop(k, &k->root, err))
		return -1;
	if (k->stack_count || k->mark_count)
		return bad(k, "values are left over", err);
	return 0;
}

void torch_pickle_release(struct torch_pickle *k)
{
	free(k->val);
	free(k->item);
	free(k->storage);
	free(k->view);
	free(k->stack);
	free(k->mark);
	free(k->memo);
	memset(k, 0, sizeof(*k));
}
