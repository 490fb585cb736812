/* The files a loader needs beside the weights. */
#include "model.h"

#include "base/err.h"
#include "base/io.h"
#include "base/json.h"
#include "gguf_tok.h"

#include <stdlib.h>
#include <string.h>

bool model_is_extra(const char *name)
{
	static const char *const start[] = { "tokenizer", "vocab", "merges",
		"chat_template", "LICENSE", "LICENCE", "spiece", NULL };
	static const char *const whole[] = { "special_tokens_map.json",
		"added_tokens.json", "generation_config.json",
		"preprocessor_config.json", NULL };

	for (int i = 0; start[i]; i++)
		if (!strncmp(name, start[i], strlen(start[i])))
			return true;
	for (int i = 0; whole[i]; i++)
		if (!strcmp(name, whole[i]))
			return true;
	return false;
}

static int copy_extra(const struct model *m, const char *name, const char *to,
		      struct err *err)
{
	char *from = io_join(m->dir, name, err), *dest = NULL;
	int ret = -1;

	if (!from)
		goto out;
	dest = io_join(to, name, err);
	if (!dest || (io_is_file(from) && io_copy_file(from, dest, err)))
		goto out;
	ret = 0;
out:
	free(from);
	free(dest);
	return ret;
}

static int write_in(const char *dir, const char *name, const char *data,
		    size_t len, struct err *err)
{
	char *path = io_join(dir, name, err);
	int ret = path ? io_write_file(path, data, len, err) : -1;

	free(path);
	return ret;
}

int model_write_tokenizer(const struct model *m, const char *to,
			  bool *missing, struct err *err)
{
	struct gguf_tok_files files;
	char *text = NULL;
	int ret = -1;

	*missing = false;
	if (gguf_tok_files(model_gguf(m), &files, err)) {
		*missing = err->code == ERR_UNSUP;
		return *missing ? 0 : -1;
	}
	text = json_print(files.config, true, err);
	if (!text || write_in(to, files.name, files.data, files.len, err) ||
	    write_in(to, "tokenizer_config.json", text, strlen(text), err))
		goto out;
	ret = 0;
out:
	gguf_tok_release(&files);
	free(text);
	return ret;
}

int model_copy_extras(const struct model *m, const char *to, struct err *err)
{
	char **names = NULL;
	uint32_t count;
	bool missing;
	int ret = -1;

	if (model_gguf(m))
		return model_write_tokenizer(m, to, &missing, err);
	if (io_list(m->dir, &names, &count, err))
		return -1;
	for (uint32_t i = 0; i < count; i++)
		if (model_is_extra(names[i]) &&
		    copy_extra(m, names[i], to, err))
			goto out;
	ret = 0;
out:
	free(names);
	return ret;
}
