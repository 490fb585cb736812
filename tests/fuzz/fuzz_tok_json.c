/* Any bytes as tokenizer.json, and what loads encodes and decodes a text. */
#include "../../libfmt/base/err.h"
#include "../../runtime/tok.h"
#include "../../runtime/tok_impl.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char text[] = "In the beginning  <s>a\xff\xe2\x96\x81 "
			   "\xe4\xb8\xad\xf0\x9f\x98\x80\n\n\tABC aabbcc 123";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tok *t = calloc(1, sizeof(*t));
	struct err err;
	uint32_t *ids;
	char *back;
	size_t n, len;

	if (!t)
		return 0;
	if (!tok_bpe_open(t, (const char *)data, size, &err) &&
	    !tok_encode(t, text, sizeof(text), TOK_BOS, &ids, &n, &err)) {
		if (!tok_decode(t, ids, n, true, &back, &len, &err))
			free(back);
		free(ids);
	}
	tok_close(t);
	return 0;
}
