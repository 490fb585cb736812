#include "values.h"

#include "base/err.h"
#include "base/mem.h"
#include "model.h"

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

void values_load(struct values *v, uint64_t from, uint64_t n, float *out)
{
	if (v->tensor) {
		tensor_load_f32(v->tensor, from, n, out);
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
