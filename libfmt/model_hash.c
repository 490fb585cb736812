/* model_hash.c - what a checkpoint hashes to, and letting go of what was read.
 *
 * Large tensors are hashed piece by piece, so that the memory of the process
 * stays small however large the model is. */
#include "model.h"

#include "base/err.h"
#include "base/io.h"

#include <stdio.h>
#include <string.h>

#define PIECE ((uint64_t)16 << 20) /* bytes */

static void forget(const struct model *m, const struct tensor *t, uint64_t off,
		   uint64_t n)
{
	if (t->offset != TENSOR_COPIED && t->file < m->file_count)
		io_forget(m->file[t->file].src, t->offset + off, n);
}

void model_forget(const struct model *m, const struct tensor *t)
{
	forget(m, t, 0, t->size);
}

static void hash_tensor(const struct model *m, const struct tensor *t,
			struct hash *h, char hex[HASH_HEX])
{
	for (uint64_t i = 0; i < t->size; i += PIECE) {
		uint64_t n = t->size - i < PIECE ? t->size - i : PIECE;

		hash_add(h, (const char *)t->data + i, (size_t)n);
		forget(m, t, i, n);
	}
	hash_end(h, hex);
}

int model_hash(const struct model *m, const struct progress *progress,
	       char (*each)[HASH_HEX], char all[HASH_HEX], struct err *err)
{
	struct hash *whole = hash_new(err), *one = NULL;
	char line[256], shape[96], hex[HASH_HEX];
	int n, ret = -1;

	if (!whole)
		return -1;
	for (uint32_t i = 0; i < m->tensor_count; i++) {
		const struct tensor *t = &m->tensor[i];

		hash_free(one);
		one = hash_new(err);
		if (!one)
			goto out;
		hash_tensor(m, t, one, hex);
		n = snprintf(line, sizeof(line), "\t%s\t%s\t%s\n",
			     tensor_dtype_name(t->type),
			     tensor_shape_text(t, shape), hex);
		hash_add(whole, t->name, strlen(t->name));
		hash_add(whole, line, (size_t)n);
		if (each)
			memcpy(each[i], hex, HASH_HEX);
		if (prog_step(progress, "hash", i + 1, m->tensor_count, err))
			goto out;
	}
	hash_end(whole, all);
	ret = 0;
out:
	hash_free(one);
	hash_free(whole);
	return ret;
}
