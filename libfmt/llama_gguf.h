/* llama_gguf.h - what GGUF calls the tensors and hyper-parameters of a Llama;
 * no arithmetic but the factors of rotary frequencies.
 *
 * Architectures: llama (Llama and Mistral), qwen2, qwen3.  In `llama` the rows
 * of q and k stand as tensor_turned_row says; in the others they are in place.
 * Norms and biases are F32.
 * Source: gptq-formats(5) "GGUF"; llama.cpp, src/llama-arch.cpp and
 * conversion/. */
#ifndef LIBFMT_LLAMA_GGUF_H
#define LIBFMT_LLAMA_GGUF_H

#include "llama.h"

struct gguf_file;
struct gguf_meta;
struct src;

#define LLAMA_GGUF_ROPE "rope_freqs.weight"
/* Our own: inputs that share a scale, 0: all of a row.  Blocks of 32 repeat
 * it; readers that do not know the key lose nothing. */
#define LLAMA_GGUF_GROUP "gptq.group_size"

/* "blk.3.ffn_up.weight" of "model.layers.3.mlp.up_proj.weight"; -1: none. */
int llama_gguf_name(const char *name, char out[LLAMA_NAME]);
/* The other way round. */
int llama_gguf_parse(const char *name, char out[LLAMA_NAME]);
/* Rows of a head, where rows of this tensor (named as transformers does) stand
 * turned in a file of that architecture (general.architecture); else 0. */
uint32_t llama_gguf_turned(const char *architecture, const char *name,
			   uint32_t head_dim);
/* "llama" and so on for an architecture that is read; NULL where GGUF's
 * readers have none for it. */
const char *llama_gguf_architecture(const struct llama_config *c);

/* Is the first of `files` files all of its set? */
int llama_gguf_split(const struct gguf_file *f, uint32_t files,
		     struct err *err);
/* Fetch what the config needs of a file on a server. */
int llama_gguf_fetch(struct gguf_file *f, struct src *s, struct err *err);
/* Give the tensors transformers' names, and say which rows are turned; those
 * that have no such name keep their own.  c NULL: an unknown architecture. */
int llama_gguf_rename(struct gguf_file *f, const struct llama_config *c,
		      struct err *err);

/* config.json from the pairs and tensors of a file.  What is no such model
 * gives a tree whose architecture llama_config_read refuses by its name. */
int llama_gguf_config(const struct gguf_file *f, struct cJSON **out,
		      struct err *err);
/* The hyper-parameters as pairs.  What no reader can be told is ERR_UNSUP. */
int llama_gguf_put(const struct llama_config *c, struct gguf_meta *m,
		   struct err *err);
/* What rotary frequencies are divided by, [head_dim / 2]: llama3 scaling. */
void llama_gguf_rope(const struct llama_config *c, float *out);

#endif
