/* tok.h - tokenizers: text to ids and back, exactly as the original does it.
 *
 * Two kinds behind one interface.  tok_spm.c: SentencePiece BPE from
 * tokenizer.model (byte fallback, normaliser, dummy prefix, user-defined and
 * control pieces).  tok_bpe.c: tokenizer.json of the HuggingFace tokenizers
 * library, the Llama-2 kind (normaliser, byte fallback) and the byte-level kind
 * (pre-tokenizer's regular expression through PCRE2, ignore_merges), added
 * tokens, template post-processor.  tokenizer.json is preferred where both are
 * there: it is what the ecosystem runs.  A step of it that is not known here
 * is ERR_UNSUP by its name, so that what opens gives the original's ids.
 *
 * Encoding takes time linear in the text (n log n inside one pre-token), also
 * for one unbroken run of text.  A struct tok is immutable after tok_open:
 * many threads may use one.
 * Sources: sentencepiece's bpe_model and normalizer, tokenizers' BPE, added
 * vocabulary and processors (facts and formats, not code). */
#ifndef RUNTIME_TOK_H
#define RUNTIME_TOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct model;
struct tok;

/* From the tokenizer files in `dir` (tokenizer.json, else tokenizer.model;
 * tokenizer_config.json for bos/eos, and for add_bos_token and add_eos_token
 * of a model file or of the class LlamaTokenizer).  `dir` may also be the path
 * of one of the two, plain or compressed: then a model file adds BOS, and eos
 * is guessed by the usual names where the file does not say it. */
int tok_open(const char *dir, struct tok **out, struct err *err);
/* The tokenizer of an open model: that of its folder, or the one inside a GGUF
 * file. */
int tok_open_model(const struct model *m, struct tok **out, struct err *err);
void tok_close(struct tok *t); /* accepts NULL */

uint32_t tok_vocab(const struct tok *t);  /* largest id + 1 */
int64_t tok_bos(const struct tok *t);     /* -1: none */
int64_t tok_eos(const struct tok *t);     /* -1: none */
/* The file kind, "tokenizer.json" or "tokenizer.model". */
const char *tok_source(const struct tok *t);
/* The id of a piece or added token spelled exactly so; -1: none. */
int64_t tok_find(const struct tok *t, const char *piece);

enum tok_flags {
	TOK_BOS = 1,       /* add what the tokenizer adds (template, BOS) */
	TOK_NO_SPECIAL = 2, /* special tokens in the text are plain text */
	TOK_INNER = 4      /* tokens stand in front: what a tokenizer.json puts
			      in front of a text's beginning is left out */
};

/* text may hold any bytes, NUL and broken UTF-8 included, up to 512 MiB (broken
 * bytes are U+FFFD, as in the originals).  *ids is the caller's to free. */
int tok_encode(const struct tok *t, const char *text, size_t len,
	       unsigned flags, uint32_t **ids, size_t *count,
	       struct err *err);

/* Decode a whole list as the original's decode does (the dummy prefix is
 * stripped).  with_special: control tokens appear as text.  *text has a NUL
 * behind its len bytes and is the caller's.  Ids beyond the vocabulary are
 * ERR_INPUT. */
int tok_decode(const struct tok *t, const uint32_t *ids, size_t count,
	       bool with_special, char **text, size_t *len, struct err *err);

/* Streaming decode: feed ids one at a time; what comes out is whole UTF-8
 * characters only, and the concatenation with the final flush equals
 * tok_decode of the list `context + fed` behind the text of `context` (so that
 * a continuation keeps its leading space). */
struct tok_stream;
int tok_stream_new(const struct tok *t, const uint32_t *context, size_t count,
		   struct tok_stream **out, struct err *err);
/* *text is valid until the next call; *len may be 0. */
int tok_stream_feed(struct tok_stream *s, uint32_t id, const char **text,
		    size_t *len, struct err *err);
int tok_stream_flush(struct tok_stream *s, const char **text, size_t *len,
		     struct err *err);
void tok_stream_free(struct tok_stream *s); /* accepts NULL */

#endif
