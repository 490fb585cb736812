/* Any bytes as a safetensors file.  Of what the reader accepts, every tensor
 * lies inside the file, in order and with the size its shape says; strict
 * reading accepts nothing that lenient reading refuses. */
#include "../../libfmt/container/st.h"

#include "fuzz_file.h"

#include <string.h>

static void check_tensor(const struct tensor *t, uint64_t from, uint64_t size)
{
	uint64_t count, sum = 0;
	char shape[96];
	float f[8];

	require(t->name && tensor_dtype_bits(t->type));
	require(t->rank >= 0 && t->rank <= TENSOR_RANK);
	require(!tensor_count(t, &count));
	require(count * tensor_dtype_bits(t->type) == t->size * 8);
	require(t->offset >= from && t->offset <= size);
	require(t->size <= size - t->offset);
	require(strlen(tensor_shape_text(t, shape)) < sizeof(shape));
	for (uint64_t i = 0; i < t->size; i++) /* every byte can be read */
		sum += ((const uint8_t *)t->data)[i];
	require(sum <= 255 * t->size);
	tensor_load_f32(t, 0, count < 8 ? count : 8, f);
}

static int check(struct src *s, unsigned flags)
{
	struct st_file f;
	struct err err;
	uint64_t at;

	err.msg[0] = '\0';
	if (st_open(s, flags, &f, &err)) {
		require(err.code == ERR_INPUT && err.msg[0]);
		require(!f.tensor && !f.meta && !f.mem && !f.count);
		return -1;
	}
	at = f.data_begin;
	for (uint32_t i = 0; i < f.count; i++) {
		check_tensor(&f.tensor[i], at, io_size(s));
		at = f.tensor[i].offset + f.tensor[i].size;
	}
	require(at == io_size(s) || (f.odd & ST_ODD_TRAILING));
	require((flags & ST_LENIENT) ||
		!(f.odd & (ST_ODD_HOLE | ST_ODD_TRAILING)));
	st_close(&f);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct src *s = open_bytes(data, n);
	int strict = check(s, 0), lenient = check(s, ST_LENIENT);

	require(strict || !lenient);
	st_sniff(data, n, n);
	io_close(s);
	return 0;
}
