/* model_impl.h - the inside of a model; between the files of model only. */
#ifndef LIBFMT_MODEL_IMPL_H
#define LIBFMT_MODEL_IMPL_H

#include "llama.h"
#include "model.h"

struct model_rules;
struct tensor_file;

/* What callers do not see. */
struct model_priv {
	struct io_place *place;
	struct tensor_file *opened; /* [file_count]; owns the tensors' names */
	struct model_rules *rules;
	struct cJSON *generation;   /* generation_config.json, or NULL */
	char *names;                /* of the modules */
	char *renamed;              /* names that MODEL_TIDY made */
	void *parts;                /* of linears that it took apart */
	bool is_llama;
	struct llama_config llama;
};

/* The length of PREFIX in "PREFIX.suffix"; 0: there is none. */
size_t model_prefix(const char *name);
/* The order of m->tensor. */
int model_by_name(const void *a, const void *b);

#endif
