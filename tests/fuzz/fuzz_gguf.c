/* Any bytes as a GGUF file.  Of what the reader accepts, every tensor has the
 * size its shape says and lies inside the file, every value can be read, and
 * config and tokenizer are made or refused. */
#include "../../libfmt/base/json.h"
#include "../../libfmt/container/gguf.h"
#include "../../libfmt/container/st.h"
#include "../../libfmt/gguf_tok.h"
#include "../../libfmt/llama_gguf.h"

#include "fuzz_file.h"

#include <string.h>

static void check_tensor(const struct tensor *t, uint64_t size)
{
	uint32_t bytes, block = tensor_dtype_block(t->type, &bytes);
	uint64_t count, sum = 0;

	if (!block) {
		block = 1;
		bytes = tensor_dtype_bits(t->type) / 8;
	}
	require(t->name && *t->name && strlen(t->name) < GGUF_NAME && bytes);
	require(t->rank >= 1 && t->rank <= 4);
	require(!tensor_count(t, &count) && count % block == 0);
	require(count / block * bytes == t->size);
	require(t->offset <= size && t->size <= size - t->offset);
	for (uint64_t i = 0; i < t->size; i++) /* every byte can be read */
		sum += ((const uint8_t *)t->data)[i];
	require(sum <= 255 * t->size);
}

static void check_values(const struct gguf_file *f)
{
	for (uint32_t i = 0; i < f->kv_count; i++) {
		const struct gguf_kv *kv = &f->kv[i];
		struct gguf_texts it = gguf_texts(kv);
		uint64_t sum = 0, count = 0;
		const char *text;
		size_t len;

		if (kv->type != GGUF_ARRAY || kv->item != GGUF_TEXT)
			continue;
		for (; gguf_texts_next(&it, &text, &len); count++)
			for (size_t k = 0; k < len; k++)
				sum += (uint8_t)text[k];
		require(count == kv->count && sum < UINT64_MAX);
	}
}

static void check_meaning(struct gguf_file *f)
{
	struct gguf_tok_files files;
	struct llama_config c;
	struct cJSON *config;
	struct err err;
	int is;

	require(!llama_gguf_config(f, &config, &err));
	is = !llama_config_read(config, NULL, &c, &err);
	(void)!llama_gguf_rename(f, is ? &c : NULL, &err);
	json_free(config);
	if (!gguf_tok_files(f, &files, &err))
		gguf_tok_release(&files);
}

static void try(struct src *s, unsigned flags)
{
	struct gguf_file f;
	struct err err;

	memset(&err, 0, sizeof(err));
	if (gguf_open(s, flags, &f, &err)) {
		require(err.code && err.msg[0]);
		require(!f.tensor && !f.count && !f.kv && !f.names);
		return;
	}
	for (uint32_t i = 0; i < f.count; i++)
		check_tensor(&f.tensor[i], io_size(s));
	check_values(&f);
	check_meaning(&f);
	gguf_close(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct src *s = open_bytes(data, n);

	try(s, 0);
	try(s, ST_LENIENT);
	io_close(s);
	return 0;
}
