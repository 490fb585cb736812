/* Any bytes as a PyTorch file, zip or legacy.  Of what a reader accepts, every
 * tensor is dense, has the size its shape says, and lies inside the file or
 * was copied. */
#include "../../libfmt/container/st.h"
#include "../../libfmt/container/torch.h"

#include "fuzz_file.h"

#include <string.h>

static void check_tensor(const struct tensor *t, uint64_t size)
{
	uint64_t count, step = 1, sum = 0;

	require(t->name && *t->name && tensor_dtype_bits(t->type));
	require(t->rank >= 0 && t->rank <= TENSOR_RANK);
	require(!tensor_count(t, &count));
	require(count * tensor_dtype_bits(t->type) == t->size * 8);
	for (int i = t->rank - 1; count && i >= 0; i--) {
		require(t->stride[i] == step);
		step *= t->dim[i];
	}
	if (t->offset != TENSOR_COPIED)
		require(t->offset <= size && t->size <= size - t->offset);
	for (uint64_t i = 0; i < t->size; i++) /* every byte can be read */
		sum += ((const uint8_t *)t->data)[i];
	require(sum <= 255 * t->size);
}

static void check(int ret, struct src *s, struct torch_file *f,
		  const struct err *err)
{
	if (ret) {
		require(err->code && err->msg[0]);
		require(!f->tensor && !f->count && !f->mem && !f->copies);
		return;
	}
	for (uint32_t i = 0; i < f->count; i++)
		check_tensor(&f->tensor[i], io_size(s));
	torch_close(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct src *s = open_bytes(data, n);
	struct torch_file f;
	struct err err;

	memset(&err, 0, sizeof(err));
	check(torch_zip_open(s, &f, &err), s, &f, &err);
	check(torch_legacy_open(s, 0, &f, &err), s, &f, &err);
	check(torch_legacy_open(s, ST_LENIENT, &f, &err), s, &f, &err);
	io_close(s);
	return 0;
}
