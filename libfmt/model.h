/* model.h - a checkpoint as a whole: a directory or a single file, its
 * configs, and one table of all its tensors.
 *
 * A directory holds config.json (optional here; llama.h needs it), perhaps an
 * index, and the weight files.  Which files count: those the index names;
 * without one the single weight file, or every *.safetensors when all of them
 * are shards of one set ("-00001-of-").  model.safetensors beside an index
 * wins over the index.  Where there is no safetensors file the same holds for
 * pytorch_model.bin, its index, and *.bin, *.pt, *.pth.  Shard names with "/"
 * at the front, ".." or NUL are refused; a tensor in the index but in no file,
 * or in two files, is an error that names both.
 *
 * GGUF files have their config, quantization and tokenizer inside and nothing
 * beside them is looked at: `config` is made from their pairs, and tensors get
 * the names that transformers has for them (rows of q and k: see `turned` of
 * struct tensor).
 *
 * A Git-LFS pointer or an HTML page in a weight file's place is said to be one.
 * Everything is opened read-only. */
#ifndef LIBFMT_MODEL_H
#define LIBFMT_MODEL_H

#include "config.h"
#include "container/tensor.h"
#include "layout/qfmt.h"

#include <stdbool.h>

struct gguf_file;
struct io_place;
struct llama_config;
struct progress;
struct src;

struct model_file {
	char *name;       /* relative to the model's directory */
	uint64_t bytes;
	uint32_t tensors;
	struct src *src;
	const char *container; /* "safetensors", ... */
	uint32_t odd;          /* enum st_odd */
};

enum model_odd {
	MODEL_ODD_STALE_INDEX = 1u << 0,  /* model.safetensors is there, the
					     index speaks of other files */
	MODEL_ODD_UNLISTED = 1u << 1,     /* tensors that the index misses */
	MODEL_ODD_NO_INDEX = 1u << 2,     /* shards without an index */
	MODEL_ODD_CONFIGS = 1u << 3       /* the quantization configs differ */
};

enum model_flags {
	MODEL_LENIENT = 1,   /* read on over holes and trailing bytes */
	MODEL_NO_WEIGHTS = 2, /* configs only: weight files are not looked for
			       */
	MODEL_TIDY = 4        /* without stray tensors, names unwrapped
				 (model_tidy.h), fused linears taken apart
				 (model_fused.h) */
};

struct model {
	char *path;  /* as given, without trailing slashes */
	char *dir;   /* where config.json would be */
	bool is_dir;
	struct model_file *file;
	uint32_t file_count;
	struct tensor *tensor;   /* sorted by module prefix, then suffix */
	uint32_t tensor_count;
	struct qf_module *module; /* sorted by name */
	uint32_t module_count;
	struct cJSON *config;    /* config.json, or NULL */
	struct cJSON *quantize;  /* quantize_config.json, or NULL */
	struct config_quant quant;
	uint32_t odd;            /* enum model_odd */
	uint32_t unlisted;       /* tensors that the index misses */
	void *priv;              /* owned by model.c */
};

/* Where the two quantization configs contradict each other, the one that the
 * tensors confirm is believed (config.json's when both or none are).
 * Many threads may use one model. */
int model_open(const char *path, unsigned flags, struct model **out,
	       struct err *err);
/* The same for a place that is open, perhaps an address: then tensors have no
 * data, but those that model_fetch has brought.  The model closes the place,
 * also on failure.  One thread at a time uses a model that is not local. */
int model_open_place(struct io_place *place, unsigned flags,
		     struct model **out, struct err *err);
void model_close(struct model *m); /* accepts NULL */
/* Where it lies; the model's. */
struct io_place *model_place(const struct model *m);
/* Are all bytes at hand? */
bool model_is_local(const struct model *m);
/* Fetch the data of the tensors that `want` [tensor_count] marks, where it is
 * not at hand; ERR_UNSUP when that is more than io_fetch brings. */
int model_fetch(struct model *m, const bool *want, struct err *err);

/* Fetch what survey_glance reads of some layers, where it is not at hand. */
int model_glance(struct model *m, struct err *err);
/* Pages of the files that were looked at need not stay in memory. */
void model_forget_all(const struct model *m);
/* What survey reads next of a local model, all zeros and g_idx of `count`
 * modules from `first` on. */
int model_expect(const struct model *m, uint32_t first, uint32_t count,
		 struct err *err);
/* Views are small and far apart (true), or as usual. */
void model_scattered(const struct model *m, bool on);

/* By full name, or NULL.  Logarithmic. */
const struct tensor *model_find(const struct model *m, const char *name);
const struct qf_module *model_module(const struct model *m, const char *name);
/* ERR_INPUT "missing" when it is not there. */
int model_need(const struct model *m, const char *name,
	       const struct tensor **out, struct err *err);
/* The file a tensor is in, relative to the directory, for messages. */
const char *model_file_of(const struct model *m, const struct tensor *t);

/* What the configs say of this module (bits, group size, ... and, for the
 * linears of a Llama with a readable config.json, in and out), `dynamic` rules
 * applied (match from the
 * start of the name, first rule wins, negatives first).  *skip: a rule says it
 * is not quantized. */
int model_hint(const struct model *m, const char *module, struct qf_hint *out,
	       bool *skip, struct err *err);

/* The hyper-parameters, where config.json is that of a Llama; else NULL. */
const struct llama_config *model_llama(const struct model *m);

/* n bytes of a tensor from `off` on will not be read soon, see io_forget. */
void model_forget(const struct model *m, const struct tensor *t, uint64_t off,
		  uint64_t n);
/* The (first) GGUF file with the pairs, or NULL for another container. */
const struct gguf_file *model_gguf(const struct model *m);

/* Sum of all tensor bytes. */
uint64_t model_bytes(const struct model *m);

/* Whether a file of this name is one that model_copy_extras copies. */
bool model_is_extra(const char *name);
/* Copy the files a loader needs beside the weights (tokenizer*, vocab*,
 * merges*, special_tokens_map.json, added_tokens.json, generation_config.json,
 * chat_template*, preprocessor_config.json, LICENSE*) from the
 * model's directory into `to`. */
int model_copy_extras(const struct model *m, const char *to, struct err *err);
/* What model_copy_extras does for a GGUF file: make the tokenizer files from
 * its pairs.  *missing: there is no tokenizer that could be written so. */
int model_write_tokenizer(const struct model *m, const char *to,
			  bool *missing, struct err *err);

#endif
