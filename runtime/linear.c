/* Weights on their way from a checkpoint to a device.
 *
 * Dense:      the file's bytes, straight into a matrix of the same type; the
 *             CPU's products widen 16 bits as they read, which halves the
 *             traffic that bounds decoding
 * Quantized:  layout -> neutral layer -> the device's own layout; the neutral
 *             layer (a byte per code) lives only while one linear is loaded.
 *             A device that takes the words of a layout as they stand in the
 *             file gets those
 * Vectors:    always F32, as norms and biases are small and added to F32 */
#include "linear.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/model.h"

#include <stdlib.h>
#include <string.h>

/* ---- float tensors to the device ---- */

/* Elements that pass through host memory at a time when converting. */
#define CHUNK 65536u

/* Convert a tensor to f32 on its way into out->p, which has `n` elements. */
static int put_f32(const struct rt_dev *d, const struct tensor *t, uint64_t n,
		   struct be_mat *out, struct err *err)
{
	float *host = mem_alloc(n < CHUNK ? (size_t)n : CHUNK, sizeof(*host),
				err);
	int ret = -1;

	if (!host)
		goto out;
	for (uint64_t i = 0; i < n; i += CHUNK) {
		uint64_t part = n - i < CHUNK ? n - i : CHUNK;

		if (tensor_load_f32(t, i, part, host)) {
			err_set(err, ERR_UNSUP, "type %s cannot be read here",
				tensor_dtype_name(t->type));
			goto out;
		}
		if (d->api->put(d->be, (float *)out->p + i, host,
				(size_t)part * sizeof(*host), err))
			goto out;
	}
	ret = 0;
out:
	free(host);
	return ret;
}

/* The bytes as they are, row by row where the file has them in another order.
 * Files are little endian, and so are our machines. */
static int put_bytes(const struct rt_dev *d, const struct tensor *t,
		     struct be_mat *out, struct err *err)
{
	uint64_t bytes = t->dim[0] ? t->size / t->dim[0] : 0;

	if (!t->turned)
		return d->api->put(d->be, out->p, t->data, (size_t)t->size,
				   err);
	for (uint32_t n = 0; n < t->dim[0]; n++)
		if (d->api->put(d->be, (char *)out->p + n * bytes,
				tensor_row_data(t, n), (size_t)bytes, err))
			return -1;
	return 0;
}

/* Copy t to the device as [rows][cols], in its own type when the backend has
 * it and `keep` says so, else as f32.  The shape has been checked. */
static int upload(const struct rt_dev *d, const struct tensor *t, int keep,
		  struct be_mat *out, struct err *err)
{
	uint32_t rows = t->rank == 2 ? (uint32_t)t->dim[0] : 1;
	uint32_t cols = (uint32_t)t->dim[t->rank == 2];
	enum dtype type = t->type == DT_F16 || t->type == DT_BF16 ? t->type
								   : DT_F32;
	uint64_t n = (uint64_t)rows * cols;
	int ret = -1;

	*out = (struct be_mat){ 0 };
	if (!tensor_is_float(t->type) || !t->data) {
		err_set(err, ERR_UNSUP, "type %s, expected F16, BF16 or F32",
			tensor_dtype_name(t->type));
		goto out;
	}
	if (be_mat_new(d->api, d->be, rows, cols, keep ? type : DT_F32, out,
		       err))
		goto out;
	if (t->type == out->type) {
		if (put_bytes(d, t, out, err))
			goto out;
	} else if (put_f32(d, t, n, out, err)) {
		goto out;
	}
	ret = 0;
out:
	if (ret)
		be_mat_free(d->api, d->be, out);
	return ret;
}

/* [cols] or [1][cols] where rows is 1. */
static int shaped(const struct tensor *t, uint32_t rows, uint32_t cols,
		  struct err *err)
{
	char got[96];

	if (tensor_is_shape(t, 2, rows, cols) ||
	    (rows == 1 && tensor_is_shape(t, 1, cols, 0)))
		return 0;
	if (rows == 1)
		return err_set(err, ERR_INPUT, "shape %s, expected [%u]",
			       tensor_shape_text(t, got), cols);
	return err_set(err, ERR_INPUT, "shape %s, expected [%u, %u]",
		       tensor_shape_text(t, got), rows, cols);
}

struct shape {
	uint32_t rows, cols;
};

/* Check and copy one tensor; messages get the file and the tensor's name. */
static int load(const struct rt_dev *d, const struct model *m,
		const struct tensor *t, struct shape s, int keep,
		struct be_mat *out, struct err *err)
{
	if (shaped(t, s.rows, s.cols, err) || upload(d, t, keep, out, err))
		return err_ctx(err, "%s: %s", model_file_of(m, t), t->name);
	return 0;
}

int rt_tensor_load(const struct rt_dev *d, const struct model *m,
		   const char *name, uint32_t rows, uint32_t cols,
		   struct be_mat *out, struct err *err)
{
	const struct tensor *t;

	*out = (struct be_mat){ 0 };
	if (model_need(m, name, &t, err))
		return -1;
	return load(d, m, t, (struct shape){ rows, cols }, 0, out, err);
}

/* ---- modules, dense or quantized ---- */

/* A module of the checkpoint and how it is stored. */
struct source {
	const struct model *model;
	const struct qf_module *module;
	const struct qfmt *format;   /* NULL: dense */
	const struct tensor *weight; /* dense only */
	struct qf_hint hint;
	uint32_t in, out;
};

/* The dense weight, a matrix [out][in]. */
static int find_weight(struct source *s, struct err *err)
{
	char got[96];

	s->weight = qf_part(s->module, "weight");
	if (!s->weight)
		return err_set(err, ERR_INPUT,
			       "%s: neither a dense weight nor a quantized "
			       "layer this program knows", s->module->name);
	if (tensor_is_shape(s->weight, 2, s->out, s->in))
		return 0;
	return err_set(err, ERR_INPUT, "%s: %s: shape %s, expected [%u, %u]",
		       model_file_of(s->model, s->weight), s->weight->name,
		       tensor_shape_text(s->weight, got), s->out, s->in);
}

/* What is in the tensors decides: a module with codes is quantized even when
 * the config says it was skipped. */
static int find(struct source *s, const struct model *m, const char *name,
		struct err *err)
{
	bool skip;

	s->model = m;
	s->module = model_module(m, name);
	if (!s->module)
		return err_set(err, ERR_INPUT, "%s: missing", name);
	if (model_hint(m, name, &s->hint, &skip, err))
		return -1;
	s->hint.in = s->in;
	s->hint.out = s->out;
	s->format = qf_recognise(s->module, &s->hint);
	return s->format ? 0 : find_weight(s, err);
}

static int check_shape(const struct source *s, const struct ql_spec *spec,
		       struct err *err)
{
	if (spec->in == s->in && spec->out == s->out)
		return 0;
	return err_set(err, ERR_INPUT, "%u inputs and %u outputs, expected "
		       "%u and %u", spec->in, spec->out, s->in, s->out);
}

/* A quantized module in the neutral layer, its invariants checked. */
static int read_ql(const struct source *s, struct ql *ql, struct err *err)
{
	struct qf_layer layer = { .module = s->module, .hint = &s->hint };
	int ret = -1;

	*ql = (struct ql){ 0 };
	if (s->format->read(&layer, ql, err))
		goto out;
	if (check_shape(s, &ql->spec, err) || ql_check(ql, err))
		goto out;
	ret = 0;
out:
	if (!ret)
		return 0;
	ql_release(ql);
	return err_ctx(err, "%s", s->module->name);
}

/* Codes, scales and zeros in bytes, as the common layouts store them. */
static uint64_t stored_bytes(const struct ql_spec *s)
{
	uint64_t n = (uint64_t)s->out * s->in * s->bits;
	uint64_t g = (uint64_t)s->out * s->groups;

	return n / 8 + g * s->bits / 8 + g * be_elem(s->scale_type);
}

/* A bias counts when it is there: old packers wrote one, all zero, for every
 * quantized linear, whatever the config says. */
static int load_bias(const struct rt_dev *d, const struct source *s,
		     struct rt_linear *l, struct err *err)
{
	const struct tensor *t = qf_part(s->module, "bias");

	if (!t)
		return 0;
	return load(d, s->model, t, (struct shape){ 1, s->out }, 0, &l->bias,
		    err);
}

/* From the file to the device as it is, where both can: 1 when not. */
static int load_stored(const struct rt_dev *d, const struct source *s,
		       struct rt_linear *l, struct err *err)
{
	struct qf_layer layer = { .module = s->module, .hint = &s->hint };
	struct ql_packed q = { .words = NULL };
	int ret = 1;

	if (d->api->qw_pack)
		ret = qf_stored(s->format, &layer, &q, err);
	if (!ret)
		ret = check_shape(s, &q.spec, err);
	if (!ret)
		ret = ql_packed_check(&q, err);
	if (!ret)
		ret = d->api->qw_pack(d->be, &q, &l->quant, err);
	l->bytes = stored_bytes(&q.spec);
	ql_packed_release(&q);
	return ret < 0 ? err_ctx(err, "%s", s->module->name) : ret;
}

static int load_quant(const struct rt_dev *d, const struct source *s,
		      struct rt_linear *l, struct err *err)
{
	struct ql ql;
	int ret = load_stored(d, s, l, err);

	if (ret <= 0)
		return ret;
	if (read_ql(s, &ql, err))
		return -1;
	ret = d->api->qw_new(d->be, &ql, &l->quant, err);
	l->bytes = stored_bytes(&ql.spec);
	ql_release(&ql);
	return ret ? err_ctx(err, "%s", s->module->name) : 0;
}

static int load_dense(const struct rt_dev *d, const struct source *s,
		      struct rt_linear *l, struct err *err)
{
	l->bytes = s->weight->size;
	return load(d, s->model, s->weight, (struct shape){ s->out, s->in }, 1,
		    &l->dense, err);
}

int rt_linear_load(const struct rt_dev *d, const struct model *m,
		   const char *name, uint32_t in, uint32_t out,
		   struct rt_linear *l, struct err *err)
{
	struct source s = { .in = in, .out = out };
	int ret = -1;

	*l = (struct rt_linear){ .in = in, .out = out };
	l->name = mem_text(name, strlen(name), err);
	if (!l->name || find(&s, m, name, err))
		goto out;
	if (s.format ? load_quant(d, &s, l, err) : load_dense(d, &s, l, err))
		goto out;
	if (load_bias(d, &s, l, err))
		goto out;
	ret = 0;
out:
	if (ret)
		rt_linear_release(d, l);
	return ret;
}

int rt_linear_set(const struct rt_dev *d, struct rt_linear *l,
		  const struct ql *ql, struct err *err)
{
	struct be_qw *w;

	if (ql->spec.in != l->in || ql->spec.out != l->out)
		return err_set(err, ERR_INPUT,
			       "%s: [%u][%u] in the place of [%u][%u]", l->name,
			       ql->spec.out, ql->spec.in, l->out, l->in);
	/* the new one first: a failure must leave the linear usable */
	if (d->api->qw_new(d->be, ql, &w, err))
		return err_ctx(err, "%s", l->name);
	be_mat_free(d->api, d->be, &l->dense);
	d->api->qw_free(d->be, l->quant);
	l->quant = w;
	l->bytes = stored_bytes(&ql->spec);
	return 0;
}

int rt_linear_run(const struct rt_dev *d, const struct rt_linear *l,
		  const struct be_mat *x, struct be_mat *y, struct err *err)
{
	/* Y = X * W^T; with beta 0 whatever is in y is not read */
	const struct be_gemm g = {
		.a = x, .b = &l->dense, .c = y,
		.alpha = 1, .beta = 0, .trans_b = 1,
	};
	int ret = l->quant ? d->api->qgemm(d->be, x, l->quant, y, err)
			   : d->api->gemm(d->be, &g, err);

	if (!ret && l->bias.p)
		ret = d->api->add(d->be, y, &l->bias, err);
	return ret ? err_ctx(err, "%s", l->name) : 0;
}

void rt_linear_release(const struct rt_dev *d, struct rt_linear *l)
{
	be_mat_free(d->api, d->be, &l->dense);
	be_mat_free(d->api, d->be, &l->bias);
	if (l->quant)
		d->api->qw_free(d->be, l->quant);
	free(l->name);
	*l = (struct rt_linear){ 0 };
}

const char *rt_linear_kernel(const struct rt_dev *d, const struct rt_linear *l,
			     uint32_t rows)
{
	if (l->quant)
		return d->api->qw_kernel(d->be, l->quant, rows);
	switch (l->dense.type) {
	case DT_F16:
		return "f16";
	case DT_BF16:
		return "bf16";
	default:
		return "f32";
	}
}

/* ---- weights in host memory ---- */

/* w [out][in], row by row from the codes: the exact definition of a weight. */
static int weights_quant(const struct source *s, float *w, struct err *err)
{
	struct ql ql;

	if (read_ql(s, &ql, err))
		return -1;
	for (uint32_t n = 0; n < s->out; n++)
		ql_dequant_row(&ql, n, w + (size_t)n * s->in);
	ql_release(&ql);
	return 0;
}

static int weights_dense(const struct source *s, float *w, struct err *err)
{
	const struct tensor *t = s->weight;

	if (tensor_is_float(t->type) && t->data &&
	    !tensor_load_f32(t, 0, (uint64_t)s->out * s->in, w))
		return 0;
	return err_set(err, ERR_UNSUP,
		       "%s: %s: type %s, expected F16, BF16 or F32",
		       model_file_of(s->model, t), t->name,
		       tensor_dtype_name(t->type));
}

/* A table of vectors may be quantized as well; then its rows become F32. */
static int load_decoded(const struct rt_dev *d, const struct source *s,
			struct be_mat *out, struct err *err)
{
	float *row = NULL;
	struct ql ql;
	int ret = -1;

	if (read_ql(s, &ql, err))
		return -1;
	row = mem_alloc(s->in, sizeof(*row), err);
	if (!row || be_mat_new(d->api, d->be, s->out, s->in, DT_F32, out, err))
		goto out;
	for (uint32_t n = 0; n < s->out; n++) {
		ql_dequant_row(&ql, n, row);
		if (d->api->put(d->be, (float *)out->p + (size_t)n * s->in,
				row, s->in * sizeof(*row), err))
			goto out;
	}
	ret = 0;
out:
	if (ret)
		be_mat_free(d->api, d->be, out);
	ql_release(&ql);
	free(row);
	return ret;
}

int rt_table_load(const struct rt_dev *d, const struct model *m,
		  const char *module, uint32_t rows, uint32_t cols,
		  struct be_mat *out, struct err *err)
{
	struct source s = { .in = cols, .out = rows };

	*out = (struct be_mat){ 0 };
	if (find(&s, m, module, err))
		return -1;
	if (s.format)
		return load_decoded(d, &s, out, err);
	return load(d, m, s.weight, (struct shape){ rows, cols }, 1, out, err);
}

int rt_weights(const struct model *m, const char *name, uint32_t in,
	       uint32_t out, float **w, struct err *err)
{
	struct source s = { .in = in, .out = out };
	size_t n;
	int ret;

	*w = NULL;
	if (find(&s, m, name, err))
		return -1;
	if (mem_mul(in, out, &n))
		return err_set(err, ERR_INPUT, "%s: [%u][%u] is too large",
			       name, out, in);
	*w = mem_alloc(n, sizeof(**w), err);
	if (!*w)
		return -1;
	ret = s.format ? weights_quant(&s, *w, err)
		       : weights_dense(&s, *w, err);
	if (ret) {
		free(*w);
		*w = NULL;
	}
	return ret;
}
