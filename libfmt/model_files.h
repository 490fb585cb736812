/* model_files.h - which files of a directory are the model's weights; between
 * the files of model only.
 * Source: gptq-formats(5) "Sharded checkpoints". */
#ifndef LIBFMT_MODEL_FILES_H
#define LIBFMT_MODEL_FILES_H

#include <stdint.h>

struct cJSON;
struct config_quant;
struct err;
struct io_place;
struct src;

#define MODEL_INDEX "model.safetensors.index.json"

struct model_files {
	char **name;             /* relative to the directory, sorted */
	uint32_t count;
	uint32_t odd;            /* enum model_odd */
	char *index_name;        /* of the index that counts, or NULL */
	struct cJSON *index;     /* its tree */
	const struct cJSON *map; /* tensor -> file, or NULL */
};

/* The one file that the place is, or what the directory holds; the config's
 * model_file_base_name decides where several files could be meant. */
int model_files_find(struct io_place *pl, const struct config_quant *quant,
		     struct model_files *out, struct err *err);
/* Open all of them, with their headers when they are on a server.  On failure
 * none is open. */
int model_files_open(struct io_place *pl, const struct model_files *f,
		     struct src **out, struct err *err);
void model_files_release(struct model_files *f);

#endif
