/* fuzz_tok.h - for harnesses of tokenizer files. */
#ifndef TESTS_FUZZ_FUZZ_TOK_H
#define TESTS_FUZZ_FUZZ_TOK_H

#include "../../libfmt/base/err.h"
#include "../../runtime/tok.h"
#include "../../runtime/tok_impl.h"
#include "fuzz.h"

#include <stdlib.h>

/* A text to and fro through the tokenizer that was opened with result ret;
 * closes and frees it. */
static inline void fuzz_tok(struct tok *t, int ret)
{
	static const char text[] = "In the beginning  <s>a\xff\xe2\x96\x81 "
		"\xe4\xb8\xad\xf0\x9f\x98\x80\n\n\tABC aabbcc 123";
	struct err err;
	uint32_t *ids;
	char *back;
	size_t n, len;

	if (!ret && !tok_encode(t, text, sizeof(text), TOK_BOS, &ids, &n,
				&err)) {
		if (!tok_decode(t, ids, n, true, &back, &len, &err))
			free(back);
		free(ids);
	}
	tok_close(t);
}

#endif
