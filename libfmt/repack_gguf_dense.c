/* Dense tensors between GGUF files and folders. */
#include "repack_gguf.h"

#include "base/err.h"
#include "base/half.h"
#include "base/mem.h"
#include "container/st.h"
#include "llama.h"
#include "llama_gguf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PIECE (4u << 20) /* bytes that are poured at a time, about */

/* ---- rows ---- */

/* Where rounding to nearest gives infinity. */
static float overflow_at(enum dtype type)
{
	return type == DT_F16 ? 65520.0f :
	       type == DT_BF16 ? 0x1.ffp127f : INFINITY;
}

int repack_gguf_row(const struct tensor *t, uint32_t n, enum dtype type,
		    float *row, void *out, struct err *err)
{
	uint64_t cols = t->rank > 1 ? t->dim[1] : 1;
	float end = overflow_at(type);

	if (type == t->type) {
		memcpy(out, tensor_row_data(t, n), t->size / t->dim[0]);
		return 0;
	}
	if (tensor_load_f32(t, n * cols, cols, row))
		return err_set(err, ERR_UNSUP, "%s: type %s is not converted",
			       t->name, tensor_dtype_name(t->type));
	for (uint64_t k = 0; k < cols; k++)
		if (fabsf(row[k]) >= end && isfinite(row[k]))
			return err_set(err, ERR_UNSUP, "%s: %g at row %u, "
				       "column %llu does not fit %s", t->name,
				       (double)row[k], n,
				       (unsigned long long)k,
				       tensor_dtype_name(type));
	if (tensor_store_f32(row, cols, type, out))
		return err_set(err, ERR_UNSUP, "%s: matrices cannot be %s",
			       t->name, tensor_dtype_name(type));
	return 0;
}

/* Rows that are poured together: whole heads where they are turned. */
static uint32_t rows_at_once(uint64_t bytes, uint32_t turned, uint32_t rows)
{
	uint64_t n = PIECE / bytes + 1;

	if (turned)
		n = (n + turned - 1) / turned * turned;
	return n < rows ? (uint32_t)n : rows;
}

/* Some megabytes of rows at a time, put in order in memory and written in one
 * piece. */
int repack_gguf_pour(struct st_writer *w, uint32_t id, const struct tensor *t,
		     enum dtype type, uint32_t turned, struct err *err)
{
	uint64_t cols = t->rank > 1 ? t->dim[1] : 1, bytes;
	uint32_t rows = (uint32_t)t->dim[0], step;
	uint8_t *piece = NULL;
	float *row = NULL;
	int ret = -1;

	/* blocks keep their size */
	bytes = type == t->type ? t->size / rows :
				  cols * tensor_dtype_bits(type) / 8;
	step = rows_at_once(bytes, turned, rows);
	piece = mem_alloc(step, bytes, err);
	row = mem_alloc(cols, sizeof(*row), err);
	if (!piece || !row)
		goto out;
	for (uint32_t n0 = 0; n0 < rows; n0 += step) {
		uint32_t n1 = rows - n0 < step ? rows : n0 + step;

		for (uint32_t n = n0; n < n1; n++) {
			uint32_t to = turned ?
				tensor_turned_row(n, turned) : n;

			if (repack_gguf_row(t, n, type, row,
					    piece + (to - n0) * bytes, err))
				goto out;
		}
		if (st_writer_pour(w, id, n0 * bytes, piece,
				   (n1 - n0) * bytes, err))
			goto out;
	}
	ret = 0;
out:
	free(piece);
	free(row);
	return ret;
}

/* ---- from a file into a folder ---- */

/* Does every element survive? */
static bool fits(const struct tensor *t, enum dtype type)
{
	struct tensor narrow = { .type = type };
	uint8_t bytes[4];
	float v, back;

	narrow.data = bytes;
	for (uint64_t i = 0; i < t->dim[0]; i++) {
		tensor_load_f32(t, i, 1, &v);
		tensor_store_f32(&v, 1, type, bytes);
		tensor_load_f32(&narrow, 0, 1, &back);
		if (half_bits(v) != half_bits(back))
			return false;
	}
	return true;
}

enum dtype repack_gguf_narrow(const struct model *m, const struct tensor *t)
{
	const struct tensor *embed;
	enum dtype type = DT_F16;

	if (!model_gguf(m) || t->rank != 1 || t->type != DT_F32 || !t->data)
		return t->type;
	embed = model_find(m, LLAMA_EMBED);
	if (embed && tensor_is_float(embed->type))
		type = embed->type;
	return type != DT_F32 && fits(t, type) ? type : t->type;
}

bool repack_gguf_leaves(const struct model *m, const struct tensor *t)
{
	const struct llama_config *c = model_llama(m);

	return model_gguf(m) && c && c->rope.kind == LLAMA_ROPE_LLAMA3 &&
	       !strcmp(t->name, LLAMA_GGUF_ROPE);
}
