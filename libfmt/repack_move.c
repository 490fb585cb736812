/* Weights and biases that stay as they are but for their places: outputs and
 * inputs permuted, zeros behind them. */
#include "repack_impl.h"

#include "base/mem.h"
#include "container/st.h"

#include <stdlib.h>
#include <string.h>

/* Rows are poured in pieces of about this many bytes. */
#define PIECE (4u << 20)

int repack_move_shape(const struct repack_way *w, const struct tensor *t,
		      const struct ql_spec *was, uint64_t dim[2])
{
	bool bias = t->rank == 1;

	if (tensor_dtype_bits(t->type) % 8 ||
	    !tensor_is_shape(t, bias ? 1 : 2, was->out, bias ? 0 : was->in))
		return -1;
	dim[0] = w->map.out;
	dim[1] = w->map.in;
	return 0;
}

/* Bytes of a row of the moved tensor. */
static size_t row_bytes(const struct repack_way *w, const struct tensor *t)
{
	return (t->rank == 1 ? 1 : w->map.in) *
	       (size_t)(tensor_dtype_bits(t->type) / 8);
}

/* Row n of the moved tensor, into zeroed bytes. */
static void move_row(const struct repack_way *w, const struct ql_spec *was,
		     const struct tensor *t, uint32_t n, uint8_t *to)
{
	uint32_t from = ql_map_from(w->map.row, was->out, n);
	uint32_t in = t->rank == 1 ? 1 : was->in;
	size_t size = tensor_dtype_bits(t->type) / 8;
	const uint8_t *row = t->data;

	if (from == QL_PAD)
		return;
	row += (size_t)from * in * size;
	if (t->rank == 1 || !w->map.col) {
		memcpy(to, row, in * size);
		return;
	}
	for (uint32_t k = 0; k < in; k++)
		memcpy(to + k * size, row + w->map.col[k] * size, size);
}

int repack_move_tensor(const struct repack_item *item, struct st_writer *w,
		       struct err *err)
{
	const struct repack_way *way = item->way;
	size_t bytes = row_bytes(way, item->tensor);
	uint32_t rows = bytes < PIECE ? (uint32_t)(PIECE / bytes) : 1;
	uint8_t *piece = mem_alloc(rows, bytes, err);
	int ret = -1;

	if (!piece)
		return -1;
	for (uint32_t n = 0; n < way->map.out;) {
		uint64_t at = n * (uint64_t)bytes;
		uint32_t i = 0;

		memset(piece, 0, rows * bytes);
		for (; i < rows && n < way->map.out; i++, n++)
			move_row(way, &item->layer->spec, item->tensor, n,
				 piece + i * bytes);
		if (st_writer_pour(w, item->id, at, piece, i * bytes, err))
			goto out;
	}
	ret = 0;
out:
	free(piece);
	return ret;
}

/* Does row n of the result, `is`, show each element in its place? */
static bool same_row(const struct repack_way *w, const struct ql_spec *was,
		     const struct tensor *t, uint32_t n,
		     const uint8_t *is)
{
	uint32_t from = ql_map_from(w->map.row, was->out, n);
	uint32_t in = t->rank == 1 ? 1 : was->in;
	uint32_t to = t->rank == 1 ? 1 : w->map.in;
	size_t size = tensor_dtype_bits(t->type) / 8;
	const uint8_t *row = t->data;

	for (uint32_t k = 0; k < to; k++, is += size) {
		uint32_t at = t->rank == 1 ? 0 :
			ql_map_from(w->map.col, in, k);
		static const uint8_t nothing[8];
		const uint8_t *want = nothing;

		if (from != QL_PAD && at != QL_PAD)
			want = row + ((size_t)from * in + at) * size;
		if (memcmp(is, want, size) != 0)
			return false;
	}
	return true;
}

bool repack_move_same(const struct repack_way *w, const struct ql_spec *was,
		      const struct tensor *t, const struct tensor *is)
{
	const uint8_t *data = is->data;
	uint64_t dim[2];

	if (repack_move_shape(w, t, was, dim) || is->type != t->type ||
	    !tensor_is_shape(is, t->rank, dim[0], t->rank == 1 ? 0 : dim[1]))
		return false;
	for (uint32_t n = 0; n < w->map.out; n++)
		if (!same_row(w, was, t, n, data + n * row_bytes(w, t)))
			return false;
	return true;
}
