/* Manifests: what a checkpoint's tensors and small files hash to, independent
 * of how the tensors are spread over files.
 *
 *	{ "manifest": 1, "hash": "xxh3-128",
 *	  "tensors": [{ "name", "dtype", "shape", "hash" }],
 *	  "files": [{ "name", "hash" }] } */
#include "verify.h"

#include "../libfmt/base/hash.h"
#include "../libfmt/base/io.h"
#include "../libfmt/base/json.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#define FILE_LIMIT (UINT64_C(1) << 30)

/* ---- what is hashed ---- */

static int ends_in(const char *s, const char *tail)
{
	size_t n = strlen(s), m = strlen(tail);

	return n >= m && !strcmp(s + n - m, tail);
}

/* Configs, tokenizers and templates; an index tells of shards and is left
 * out. */
static int is_small_file(const char *name)
{
	static const char *const tail[] = { ".json", ".model", ".txt",
		".jinja" };

	if (name[0] == '.' || ends_in(name, ".index.json"))
		return 0;
	for (size_t i = 0; i < sizeof(tail) / sizeof(tail[0]); i++)
		if (ends_in(name, tail[i]))
			return 1;
	return 0;
}

/* Small files are hashed as they are: a tokenizer with another byte is another
 * tokenizer. */
static int hash_file(const char *dir, const char *name, char hex[HASH_HEX],
		     struct err *err)
{
	char *path = io_join(dir, name, err);
	struct src *s = NULL;
	const void *data;
	int ret = -1;

	if (!path || io_open(path, &s, err))
		goto out;
	if (io_size(s) > FILE_LIMIT) {
		err_set(err, ERR_INPUT, "%s: too large for a manifest", path);
		goto out;
	}
	if (io_view(s, 0, io_size(s), &data, err))
		goto out;
	hash_bytes(data, (size_t)io_size(s), hex);
	ret = 0;
out:
	io_close(s);
	free(path);
	return ret;
}

static int step(struct verify *v, uint32_t i, struct err *err)
{
	return prog_step(&v->call->ui->progress, "manifest", i + 1,
			 v->model->tensor_count, err);
}

/* ---- writing ---- */

/* In the model's order, which is by name and not by file. */
static int add_tensors(struct verify *v, struct cJSON *list, struct err *err)
{
	const struct model *m = v->model;
	char hex[HASH_HEX], shape[96];
	struct cJSON *o;

	for (uint32_t i = 0; i < m->tensor_count; i++) {
		const struct tensor *t = &m->tensor[i];

		if (step(v, i, err))
			return -1;
		hash_bytes(t->data, (size_t)t->size, hex);
		o = cJSON_CreateObject();
		cJSON_AddItemToArray(list, o);
		ui_json_text(o, "name", t->name);
		ui_json_text(o, "dtype", tensor_dtype_name(t->type));
		ui_json_text(o, "shape", tensor_shape_text(t, shape));
		ui_json_text(o, "hash", hex);
	}
	return 0;
}

static int add_files(struct verify *v, struct cJSON *list, struct err *err)
{
	const struct model *m = v->model;
	char **name = NULL, hex[HASH_HEX];
	uint32_t count = 0;
	struct cJSON *o;
	int ret = -1;

	if (!m->is_dir)
		return 0;
	if (io_list(m->dir, &name, &count, err))
		return -1;
	for (uint32_t i = 0; i < count; i++) {
		if (!is_small_file(name[i]))
			continue;
		if (hash_file(m->dir, name[i], hex, err))
			goto out;
		o = cJSON_CreateObject();
		cJSON_AddItemToArray(list, o);
		ui_json_text(o, "name", name[i]);
		ui_json_text(o, "hash", hex);
	}
	ret = 0;
out:
	free(name);
	return ret;
}

int verify_manifest_write(struct verify *v, const char *path, struct err *err)
{
	struct cJSON *o = cJSON_CreateObject();

	cJSON_AddNumberToObject(o, "manifest", 1);
	ui_json_text(o, "hash", "xxh3-128");
	if (add_tensors(v, cJSON_AddArrayToObject(o, "tensors"), err) ||
	    add_files(v, cJSON_AddArrayToObject(o, "files"), err)) {
		json_free(o);
		return -1;
	}
	return call_save_json(path, o, err);
}

/* ---- checking ---- */

struct tally {
	uint32_t seen, wrong;
	char first[256];   /* what is wrong, the first time */
};

static void wrong(struct tally *t, const char *name, const char *what)
{
	if (t->wrong++ == 0)
		snprintf(t->first, sizeof(t->first), "%s: %s", name, what);
}

/* A row that is malformed is the manifest's fault and ends the run; a tensor
 * that differs is the verdict. */
static int check_tensor(struct verify *v, const struct cJSON *row,
			struct tally *tally, struct err *err)
{
	const char *name = json_text(json_find(row, "name"));
	const char *type = json_text(json_find(row, "dtype"));
	const char *want = json_text(json_find(row, "hash"));
	const char *dims = json_text(json_find(row, "shape"));
	char hex[HASH_HEX], shape[96];
	const struct tensor *t;

	if (!name || !type || !want || !dims)
		return err_set(err, ERR_INPUT, "a row of \"tensors\" lacks "
			       "name, dtype, shape or hash");
	if (step(v, tally->seen, err))
		return -1;
	tally->seen++;
	t = model_find(v->model, name);
	if (!t) {
		wrong(tally, name, "missing");
		return 0;
	}
	hash_bytes(t->data, (size_t)t->size, hex);
	if (strcmp(type, tensor_dtype_name(t->type)))
		wrong(tally, name, "another type");
	else if (strcmp(dims, tensor_shape_text(t, shape)))
		wrong(tally, name, "another shape");
	else if (strcmp(want, hex))
		wrong(tally, name, "other bytes");
	return 0;
}

/* Names with a slash are refused: a manifest must not reach outside. */
static int check_file(struct verify *v, const struct cJSON *row,
		      struct tally *tally, struct err *err)
{
	const char *name = json_text(json_find(row, "name"));
	const char *want = json_text(json_find(row, "hash"));
	char hex[HASH_HEX];
	struct err why;

	if (!name || !want || strchr(name, '/'))
		return err_set(err, ERR_INPUT,
			       "a row of \"files\" lacks name or hash");
	tally->seen++;
	if (hash_file(v->model->dir, name, hex, &why))
		wrong(tally, name, "missing or not readable");
	else if (strcmp(want, hex))
		wrong(tally, name, "other bytes");
	return 0;
}

/* Everything listed must be there and equal, and no tensor beside it; further
 * small files (a README) do no harm. */
int verify_manifest(struct verify *v, struct verify_check *c, struct err *err)
{
	const char *path = v->args->manifest;
	struct tally tensors = { 0, 0, "" }, files = { 0, 0, "" };
	struct cJSON *j = NULL;
	uint64_t version = 0;
	int ret = -1;

	if (json_read_file(path, &j, err))
		return -1;
	if (json_uint(json_find(j, "manifest"), 1, &version) || version != 1) {
		err_set(err, ERR_INPUT, "this is no manifest of version 1");
		goto out;
	}
	for (const struct cJSON *row = json_first(json_find(j, "tensors"));
	     row; row = json_next(row))
		if (check_tensor(v, row, &tensors, err))
			goto out;
	for (const struct cJSON *row = json_first(json_find(j, "files")); row;
	     row = json_next(row))
		if (check_file(v, row, &files, err))
			goto out;
	if (tensors.wrong || files.wrong)
		verify_say(c, false, "%u tensor%s and %u file%s differ, the "
			   "first: %s", tensors.wrong,
			   ui_plural(tensors.wrong), files.wrong,
			   ui_plural(files.wrong), tensors.wrong ?
			   tensors.first : files.first);
	else if (tensors.seen != v->model->tensor_count)
		verify_say(c, false, "the model has %u tensors, the manifest "
			   "lists %u", v->model->tensor_count, tensors.seen);
	else
		verify_say(c, true, "%u tensor%s and %u file%s as listed",
			   tensors.seen, ui_plural(tensors.seen), files.seen,
			   ui_plural(files.seen));
	ret = 0;
out:
	json_free(j);
	return ret ? err_ctx(err, "%s", path) : 0;
}
