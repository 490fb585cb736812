/* model_files.h - which files of a directory are the model's weights; between
 * the files of model only.
 * Source: gptq-formats(5) section 1.6. */
#ifndef LIBFMT_MODEL_FILES_H
#define LIBFMT_MODEL_FILES_H

#include <stdint.h>

struct cJSON;
struct err;
struct tensor;

#define MODEL_INDEX "model.safetensors.index.json"

struct model_files {
	char **name;             /* relative to the directory, sorted */
	uint32_t count;
	uint32_t odd;            /* enum model_odd */
	char *index_name;        /* of the index that counts, or NULL */
	struct cJSON *index;     /* its tree */
	const struct cJSON *map; /* tensor -> file, or NULL */
};

/* `base` is the config's model_file_base_name or NULL; it decides where
 * several files could be meant. */
int model_files_find(const char *dir, const char *base,
		     struct model_files *out, struct err *err);
void model_files_release(struct model_files *f);

#endif
