/* gguf_tok_impl.h - between the files of gguf_tok only.
 *
 *	gguf_tok_vocab.c   a folder's tokenizer files as one list of tokens
 *	gguf_tok_put.c     that list, and what is special, as pairs
 *	gguf_tok.c         pairs as tokenizer files */
#ifndef LIBFMT_GGUF_TOK_IMPL_H
#define LIBFMT_GGUF_TOK_IMPL_H

#include "gguf_tok.h"

#include <stdbool.h>

/* Kinds of tokens, as tokenizer.ggml.token_type has them. */
enum gguf_token {
	GGUF_TOK_NORMAL = 1,
	GGUF_TOK_UNKNOWN,
	GGUF_TOK_CONTROL,
	GGUF_TOK_USER,
	GGUF_TOK_UNUSED,
	GGUF_TOK_BYTE
};

/* A pre-tokenizer by its name in GGUF files. */
struct gguf_tok_pre {
	const char *name;
	const char *regex; /* of a Split step; NULL: ByteLevel's own */
	bool ignore_merges;
	bool nfc;          /* text is normalized first */
};
extern const struct gguf_tok_pre gguf_tok_pre[];
extern const uint32_t gguf_tok_pre_count;

#define GGUF_TOK_BAR "\xe2\x96\x81" /* U+2581, a space inside a piece */
#define GGUF_TOK_PAD 16               /* "[PAD128255]" */

struct gguf_piece {
	const char *text;
	uint32_t len;
	float score;
	uint8_t type; /* enum gguf_token; 0: no token has this id */
};

struct gguf_vocab {
	struct gguf_piece *token;   /* [count] */
	uint32_t count;
	char (*pad)[GGUF_TOK_PAD]; /* [count] names of what is not there */
	char *model;               /* tokenizer.model */
	size_t model_len;
	struct cJSON *json, *config, *added; /* the other files, or NULL */
	char *jinja;               /* chat_template.jinja */
	size_t jinja_len;
	const char *kind, *pre;    /* kind NULL: there is no tokenizer */
	bool space_prefix, squeeze;
	char *room;                /* [UINT16_MAX + 2], for one text */
};

/* `count` tokens (the embeddings) from the files in dir.  *v is to be released
 * whatever the result. */
int gguf_vocab_read(const char *dir, uint32_t count, struct gguf_vocab *v,
		    struct err *err);
void gguf_vocab_release(struct gguf_vocab *v);
/* The first step of that type in a Sequence (whose steps are in `list`), or
 * the step itself. */
const struct cJSON *gguf_vocab_step(const struct cJSON *j, const char *list,
				    const char *type);
/* The two tokens of a merge, "a b" or ["a", "b"]; -1: it is none. */
int gguf_vocab_merge(const struct cJSON *j, const char *part[2],
		     size_t len[2]);

#endif
