#include "values.h"

#include "base/err.h"
#include "base/mem.h"
#include "model.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int values_open_tensor(const struct tensor *t, struct values *v,
		       struct err *err)
{
	float unused;

	memset(v, 0, sizeof(*v));
	if (!t->data)
		return err_set(err, ERR_UNSUP, "%s: only its header was read",
			       t->name);
	/* no elements are loaded: only whether the type could be */
	if (tensor_load_f32(t, 0, 0, &unused))
		return err_set(err, ERR_UNSUP, "%s: type %s cannot be decoded",
			       t->name, tensor_dtype_name(t->type));
	if (tensor_count(t, &v->count))
		return err_set(err, ERR_INPUT, "%s: too many elements",
			       t->name);
	v->tensor = t;
	v->rank = t->rank;
	memcpy(v->dim, t->dim, sizeof(v->dim));
	return 0;
}

int values_open_layer(const struct model *m, const struct qf_module *module,
		      struct values *v, struct err *err)
{
	memset(v, 0, sizeof(*v));
	if (survey_read(m, module, &v->ql, err))
		return -1;
	v->row = mem_alloc(v->ql.spec.in, sizeof(*v->row), err);
	if (!v->row) {
		values_release(v);
		return -1;
	}
	v->at = UINT32_MAX;
	v->rank = 2;
	v->dim[0] = v->ql.spec.out;
	v->dim[1] = v->ql.spec.in;
	v->count = v->dim[0] * v->dim[1];
	return 0;
}

void values_release(struct values *v)
{
	ql_release(&v->ql);
	free(v->row);
	memset(v, 0, sizeof(*v));
}

#define PIECE ((uint64_t)16 << 20) /* bytes that are let go of at a time */

/* Of a large tensor only the piece that is read stays in memory. */
static void let_go(const struct values *v, uint64_t from, uint64_t n)
{
	uint64_t unit = tensor_dtype_bits(v->tensor->type) / 8;
	uint64_t first = from * unit / PIECE, last = (from + n) * unit / PIECE;

	if (v->model && first != last)
		model_forget(v->model, v->tensor, first * PIECE, PIECE);
}

void values_load(struct values *v, uint64_t from, uint64_t n, float *out)
{
	if (v->tensor) {
		tensor_load_f32(v->tensor, from, n, out);
		let_go(v, from, n);
		return;
	}
	while (n) {
		uint32_t row = (uint32_t)(from / v->dim[1]);
		uint64_t k = from % v->dim[1], left = v->dim[1] - k;
		uint64_t part = n < left ? n : left;

		if (v->at != row)
			ql_dequant_row(&v->ql, row, v->row);
		v->at = row;
		memcpy(out, v->row + k, (size_t)part * sizeof(*out));
		from += part;
		out += part;
		n -= part;
	}
}

/* ---- a checkpoint as if it were dense ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct values_ref *)a)->name,
		      ((const struct values_ref *)b)->name);
}

static bool is_quantized(const struct survey_layer *l)
{
	return l->format && !l->broken;
}

/* Tensors that a linear stands for get a mark. */
static int add_layers(const struct model *m, const struct survey *s,
		      struct values_list *list, bool *owned, struct err *err)
{
	static const char tail[] = ".weight";
	size_t text = 0;
	char *at;

	for (uint32_t i = 0; i < s->count; i++)
		if (is_quantized(&s->layer[i]))
			text += strlen(s->layer[i].module->name) +
				sizeof(tail);
	at = list->names = mem_alloc(text, 1, err);
	if (!at)
		return -1;
	for (uint32_t i = 0; i < s->count; i++) {
		const struct survey_layer *l = &s->layer[i];
		size_t n = strlen(l->module->name);

		if (!is_quantized(l))
			continue;
		for (uint32_t k = 0; k < l->module->count; k++)
			owned[&l->module->part[k] - m->tensor] |=
				survey_owns(l, &l->module->part[k]);
		memcpy(at, l->module->name, n);
		memcpy(at + n, tail, sizeof(tail));
		list->ref[list->count++] =
			(struct values_ref) { .name = at, .layer = l };
		at += n + sizeof(tail);
	}
	return 0;
}

int values_list_init(const struct model *m, const struct survey *s,
		     struct values_list *out, struct err *err)
{
	bool *owned = mem_alloc(m->tensor_count, sizeof(*owned), err);
	int ret = -1;

	memset(out, 0, sizeof(*out));
	out->ref = mem_alloc((size_t)m->tensor_count + s->count,
			     sizeof(*out->ref), err);
	if (!owned || !out->ref || add_layers(m, s, out, owned, err))
		goto out;
	for (uint32_t i = 0; i < m->tensor_count; i++)
		if (!owned[i])
			out->ref[out->count++] = (struct values_ref) {
				.name = m->tensor[i].name,
				.tensor = &m->tensor[i] };
	if (out->count)
		qsort(out->ref, out->count, sizeof(*out->ref), by_name);
	ret = 0;
out:
	free(owned);
	if (ret)
		values_list_release(out);
	return ret;
}

void values_list_release(struct values_list *l)
{
	free(l->ref);
	free(l->names);
	memset(l, 0, sizeof(*l));
}

int values_open(const struct model *m, const struct values_ref *ref,
		struct values *v, struct err *err)
{
	if (ref->layer)
		return values_open_layer(m, ref->layer->module, v, err);
	if (values_open_tensor(ref->tensor, v, err))
		return -1;
	v->model = m;
	return 0;
}

void values_close(const struct model *m, const struct values_ref *ref,
		  struct values *v)
{
	const struct tensor *t = ref->layer ? ref->layer->module->part :
					      ref->tensor;
	uint32_t count = ref->layer ? ref->layer->module->count : 1;

	values_release(v);
	for (uint32_t i = 0; i < count; i++)
		model_forget(m, &t[i], 0, t[i].size);
}
