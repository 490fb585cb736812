/* Problems of weight files and their index: gptq-formats(5), the containers. */
#include "doctor_impl.h"

#include "base/err.h"
#include "base/io.h"
#include "base/io_place.h"
#include "base/mem.h"
#include "container/st.h"
#include "container/tensor_file.h"
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_torch(const struct model_file *f)
{
	return !strncmp(f->container, "torch", 5);
}

static void test_odd(const struct doctor_patient *p,
		     const struct doctor_row *r, struct doctor_finding *f)
{
	for (uint32_t i = 0; i < p->m->file_count; i++)
		if (p->m->file[i].odd & r->bits && !is_torch(&p->m->file[i]))
			doctor_found(f, p->m->file[i].name);
}

static void test_pickle(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	(void)r;
	for (uint32_t i = 0; i < p->m->file_count; i++)
		if (is_torch(&p->m->file[i]))
			doctor_found(f, p->m->file[i].name);
}

static int by_place(const void *pa, const void *pb)
{
	const struct tensor *a = *(const struct tensor *const *)pa;
	const struct tensor *b = *(const struct tensor *const *)pb;

	if (a->file != b->file)
		return a->file < b->file ? -1 : 1;
	return a->offset < b->offset ? -1 : a->offset > b->offset;
}

/* Only PyTorch files can hold one storage under two names. */
static void test_shared(const struct doctor_patient *p,
			const struct doctor_row *r, struct doctor_finding *f)
{
	const struct model *m = p->m;
	const struct tensor **t;
	struct err ignored;
	uint32_t n = 0;

	(void)r;
	t = mem_alloc(m->tensor_count, sizeof(*t), &ignored);
	for (uint32_t i = 0; t && i < m->tensor_count; i++)
		if (is_torch(&m->file[m->tensor[i].file]) &&
		    m->tensor[i].offset != TENSOR_COPIED && m->tensor[i].size)
			t[n++] = &m->tensor[i];
	if (n)
		qsort(t, n, sizeof(*t), by_place);
	for (uint32_t i = 1; i < n; i++)
		if (t[i]->file == t[i - 1]->file &&
		    t[i]->offset < t[i - 1]->offset + t[i - 1]->size)
			doctor_found(f, t[i]->name);
	free(t);
}

static void test_name(const struct doctor_patient *p,
		      const struct doctor_row *r, struct doctor_finding *f)
{
	const struct model *m = p->m;

	(void)r;
	if (m->is_dir && m->file_count == 1 && !is_torch(&m->file[0]) &&
	    strcmp(m->file[0].name, "model.safetensors") != 0 &&
	    !strstr(m->file[0].name, "-of-"))
		doctor_found(f, m->file[0].name);
}

/* ---- weight files that are not the model's ---- */

static bool is_ours(const struct model *m, const char *name)
{
	for (uint32_t i = 0; i < m->file_count; i++)
		if (!strcmp(m->file[i].name, name))
			return true;
	return false;
}

/* Has a file of the folder a tensor of the same name as the model? */
static bool doubles(const struct model *m, const char *name)
{
	struct tensor_file file = { .count = 0 };
	struct src *src = NULL;
	struct err ignored;
	bool yes = false;

	if (!io_place_files(model_place(m), &name, 1, &src, &ignored) &&
	    !tensor_file_open(src, ST_LENIENT, &file, &ignored))
		for (uint32_t i = 0; !yes && i < file.count; i++)
			yes = model_find(m, file.tensor[i].name) != NULL;
	tensor_file_close(&file);
	io_close(src);
	return yes;
}

static void test_leftover(const struct doctor_patient *p,
			  const struct doctor_row *r,
			  struct doctor_finding *f)
{
	static const char end[] = ".safetensors";
	const struct model *m = p->m;
	char **name = NULL;
	struct err ignored;
	uint32_t count;

	(void)r;
	if (!m->is_dir ||
	    io_place_list(model_place(m), &name, &count, &ignored))
		return;
	for (uint32_t i = 0; i < count; i++) {
		size_t n = strlen(name[i]);

		if (n < sizeof(end) || is_ours(m, name[i]) ||
		    strcmp(name[i] + n - (sizeof(end) - 1), end) ||
		    !doubles(m, name[i]))
			continue;
		if (!f->count)
			snprintf(f->text, sizeof(f->text), "%.150s", name[i]);
		doctor_found(f, f->text);
	}
	free(name);
}

/* ---- the index ---- */

static void test_model(const struct doctor_patient *p,
		       const struct doctor_row *r, struct doctor_finding *f)
{
	if (p->m->odd & r->bits)
		doctor_found(f, "");
}

static void test_unlisted(const struct doctor_patient *p,
			  const struct doctor_row *r,
			  struct doctor_finding *f)
{
	(void)r;
	f->count = p->m->unlisted;
}

static void test_marlin_shards(const struct doctor_patient *p,
			       const struct doctor_row *r,
			       struct doctor_finding *f)
{
	(void)r;
	if (p->m->file_count > 1 && !strcmp(p->s->format, "marlin"))
		doctor_found(f, p->m->file[0].name);
}

#define READERS DOCTOR_BUILDERS ", ExLlamaV2"
#define HEADER "Error while deserializing header: "

static const struct doctor_row rows[] = {
	{ "file-holes", DOCTOR_ERROR, test_odd, ST_ODD_HOLE, "files",
	  "bytes between tensors belong to no tensor", READERS,
	  HEADER "InvalidOffset", DOCTOR_FIX },
	{ "file-trailing", DOCTOR_ERROR, test_odd, ST_ODD_TRAILING, "files",
	  "there are bytes behind the last tensor", READERS,
	  HEADER "MetadataIncompleteBuffer", DOCTOR_FIX },
	{ "file-no-format", DOCTOR_WARNING, test_odd, ST_ODD_NO_FORMAT,
	  "files", "the metadata has no format entry",
	  "transformers (old versions)",
	  "The safetensors archive passed at ... does not contain the valid "
	  "metadata.", DOCTOR_FIX },
	{ "file-pickle", DOCTOR_WARNING, test_pickle, 0, "files",
	  "the weights are in PyTorch files, which can run code when other "
	  "programs load them", "GPTQModel, TGI",
	  "Loading of .bin files are not allowed due to safety.",
	  DOCTOR_FIX },
	{ "file-shared", DOCTOR_NOTE, test_shared, 0, "tensors",
	  "tensors share memory in the file, which safetensors cannot",
	  "programs that save it as safetensors",
	  "Some tensors share memory, this will lead to duplicate memory on "
	  "disk", DOCTOR_FIX },
	{ "file-name", DOCTOR_WARNING, test_name, 0, NULL,
	  "the weight file is not called model.safetensors",
	  "transformers, AutoGPTQ",
	  "Could not find a model in ... with a name in ...", DOCTOR_FIX },
	{ "file-leftover", DOCTOR_WARNING, test_leftover, 0, "files",
	  "a weight file that is not of this model has tensors of the same "
	  "names, and some loaders read every file", "TGI, ExLlamaV2",
	  "Key ... was found in multiple files", DOCTOR_FIX },
	{ "file-marlin-shards", DOCTOR_ERROR, test_marlin_shards, 0, NULL,
	  "a Marlin checkpoint in several files", "AutoGPTQ, GPTQModel",
	  "The loading of sharded checkpoints with Marlin is currently not "
	  "supported.", DOCTOR_FIX },
	{ "index-missing", DOCTOR_ERROR, test_model, MODEL_ODD_NO_INDEX, NULL,
	  "the weights are in shards and there is no index",
	  "transformers, GPTQModel, AutoGPTQ",
	  "Error no file named pytorch_model.bin, ... found in directory",
	  DOCTOR_FIX },
	{ "index-stale", DOCTOR_WARNING, test_model, MODEL_ODD_STALE_INDEX,
	  NULL, "beside the one weight file lies an index of other files",
	  "programs that look for the index first", NULL, DOCTOR_FIX },
	{ "index-unlisted", DOCTOR_WARNING, test_unlisted, 0, "tensors",
	  "the index misses tensors that are in the files, so that some "
	  "loaders see them and some do not", "transformers", NULL,
	  DOCTOR_FIX },
};

const struct doctor_table doctor_files = { rows,
					   sizeof(rows) / sizeof(*rows) };
