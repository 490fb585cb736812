/* gguf_tok.h - tokenizers in GGUF files: from a model's folder into the pairs,
 * and back into files that other programs read.
 *
 *	tokenizer.ggml.model   here                     from
 *	"llama"                tokenizer.model          SentencePiece BPE
 *	"llama"                tokenizer.json           BPE with byte fallback
 *	"gpt2"                 tokenizer.json           byte-level BPE
 *
 * Readers of "llama" merge by the score of the piece; where only merges are
 * known a piece's score is minus the rank of the first merge that makes it.
 * Names of control tokens inside a text are plain text to a SentencePiece
 * model.  Readers of "gpt2" know pre-tokenizers by name; a pattern without a
 * name here is refused.  Encoding of text is the runtime's (tok.h).
 * Source: llama.cpp, src/llama-vocab.cpp and conversion/base.py. */
#ifndef LIBFMT_GGUF_TOK_H
#define LIBFMT_GGUF_TOK_H

#include <stddef.h>
#include <stdint.h>

struct cJSON;
struct err;
struct gguf_file;
struct gguf_meta;
struct llama_config;

/* The tokenizer files in `dir` as pairs.  *found is 0 where there are none;
 * then the file says that it has no tokenizer.  What readers cannot be told
 * is ERR_UNSUP. */
int gguf_tok_put(const char *dir, const struct llama_config *c,
		 struct gguf_meta *m, int *found, struct err *err);

/* The pairs of another file that make its tokenizer. */
void gguf_tok_copy(const struct gguf_file *f, struct gguf_meta *m);

/* The files a folder needs. */
struct gguf_tok_files {
	const char *name;      /* "tokenizer.model" or "tokenizer.json" */
	char *data;            /* its bytes */
	size_t len;
	struct cJSON *config;  /* tokenizer_config.json */
};
/* A kind that is not in the table above is ERR_UNSUP, missing or broken pairs
 * are ERR_INPUT.  On failure *out is zeroed. */
int gguf_tok_files(const struct gguf_file *f, struct gguf_tok_files *out,
		   struct err *err);
void gguf_tok_release(struct gguf_tok_files *t);

#endif
