/* The files a loader needs beside the weights. */
#include "model.h"

#include "base/io.h"

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

int model_copy_extras(const struct model *m, const char *to, struct err *err)
{
	char **names = NULL;
	uint32_t count;
	int ret = -1;

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
