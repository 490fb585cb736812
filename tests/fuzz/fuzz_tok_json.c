/* Any bytes as tokenizer.json, and what loads encodes and decodes a text. */
#include "fuzz_tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct tok *t = calloc(1, sizeof(*t));
	struct err err;

	if (t)
		fuzz_tok(t, tok_bpe_open(t, (const char *)data, n, &err));
	return 0;
}
