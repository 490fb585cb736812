#include "absent.h"

#include "base/err.h"
#include "base/io.h"
#include "base/io_place.h"
#include "container/tensor_file.h"
#include "model.h"
#include "model_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A pointer is a text of three lines. */
#define POINTER_MAX 1024u

static bool is_weight_name(const char *name)
{
	static const char *const ends[] = { ".safetensors", ".bin", ".pt",
		".pth", ".gguf", NULL };
	size_t n = strlen(name);

	for (int i = 0; ends[i]; i++) {
		size_t k = strlen(ends[i]);

		if (n > k && !strcmp(name + n - k, ends[i]))
			return true;
	}
	return false;
}

/* Files that cannot be opened are somebody else's to complain about. */
static void look(struct io_place *pl, const char *name, struct absent *out)
{
	struct src *src = NULL;
	struct err ignored;
	uint64_t bytes;

	if (io_place_files(pl, &name, 1, &src, &ignored))
		return;
	if (io_size(src) <= POINTER_MAX && tensor_file_pointer(src, &bytes) &&
	    bytes <= UINT64_MAX / 4 - out->bytes) {
		if (!out->pointers++)
			snprintf(out->first, sizeof(out->first), "%s", name);
		out->bytes += bytes;
	}
	io_close(src);
}

/* Of what the folder has; without a reason to prefer some, of all. */
static int look_at_all(struct io_place *pl, struct absent *out,
		       struct err *err)
{
	char **name = NULL;
	uint32_t count = 0;

	if (io_place_list(pl, &name, &count, err))
		return -1;
	for (uint32_t i = 0; i < count; i++)
		if (is_weight_name(name[i]))
			look(pl, name[i], out);
	free(name);
	return 0;
}

int absent_find(const struct model *m, struct absent *out, struct err *err)
{
	struct io_place *pl = model_place(m);
	struct model_files files;
	struct err why;

	memset(out, 0, sizeof(*out));
	/* a server resolves pointers by itself */
	if (m->file_count || !m->is_dir || !io_place_is_local(pl))
		return 0;
	if (model_files_find(pl, &m->quant, &files, &why)) {
		snprintf(out->why, sizeof(out->why), "%s", why.msg);
		if (look_at_all(pl, out, err))
			return -1;
	} else {
		for (uint32_t i = 0; i < files.count; i++)
			look(pl, files.name[i], out);
		model_files_release(&files);
	}
	out->is = out->pointers || out->why[0];
	return 0;
}
