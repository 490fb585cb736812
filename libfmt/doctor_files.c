/* Problems of weight files and their index: containers and directories. */
#include "doctor_impl.h"

#include "absent.h"
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

/* An index of .bin files that are not there; loaders that see it look for
 * them. */
static void test_stale(const struct doctor_patient *p,
		       const struct doctor_row *r, struct doctor_finding *f)
{
	static const char index[] = "pytorch_model.bin.index.json";
	const struct model *m = p->m;
	bool there = false, bins = false;
	char **name = NULL;
	struct err ignored;
	uint32_t count = 0;

	test_model(p, r, f);
	if (!m->is_dir || !m->file_count || is_torch(&m->file[0]) ||
	    io_place_list(model_place(m), &name, &count, &ignored))
		return;
	for (uint32_t i = 0; i < count; i++) {
		size_t n = strlen(name[i]);

		there |= !strcmp(name[i], index);
		bins |= n > 4 && !strcmp(name[i] + n - 4, ".bin");
	}
	if (there && !bins)
		doctor_found(f, index);
	free(name);
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

/* ---- weights that are not here ---- */

static void test_pointer(const struct doctor_patient *p,
			 const struct doctor_row *r, struct doctor_finding *f)
{
	struct absent a;
	struct err ignored;
	int n;

	(void)r;
	if (absent_find(p->m, &a, &ignored) || !a.pointers)
		return;
	n = snprintf(f->text, sizeof(f->text), "%s", a.first) + 1;
	snprintf(f->text + n, sizeof(f->text) - (size_t)n, "%llu bytes",
		 (unsigned long long)a.bytes);
	f->where = f->text;
	f->detail = f->text + n;
	f->count = a.pointers;
}

static void test_no_weights(const struct doctor_patient *p,
			    const struct doctor_row *r,
			    struct doctor_finding *f)
{
	struct absent a;
	struct err ignored;

	(void)r;
	if (!absent_find(p->m, &a, &ignored) && a.is && !a.pointers)
		doctor_found(f, "");
}

static const struct doctor_row rows[] = {
	/* GPTQ-for-LLaMa#249, vLLM#1382, DB-GPT#314 */
	{ "file-pointer", DOCTOR_ERROR, test_pointer, 0, "files",
	  "a Git-LFS pointer in place of a weight file, which git lfs pull "
	  "fetches", READERS, "Error while deserializing header: "
	  "HeaderTooLarge; invalid load key, 'v'.", NULL },
	/* FastChat#1530, axolotl#346, h2ogpt#339 */
	{ "file-none", DOCTOR_ERROR, test_no_weights, 0, NULL,
	  "weight files are missing; download them again", READERS, "Error no "
	  "file named pytorch_model.bin, ... found in directory", NULL },
	{ "file-holes", DOCTOR_ERROR, test_odd, ST_ODD_HOLE, "files",
	  "bytes between tensors belong to no tensor", READERS,
	  HEADER "InvalidOffset", DOCTOR_FIX },
	/* AutoGPTQ#661, gpustack#815 */
	{ "file-trailing", DOCTOR_ERROR, test_odd, ST_ODD_TRAILING, "files",
	  "there are bytes behind the last tensor", READERS,
	  HEADER "MetadataIncompleteBuffer", DOCTOR_FIX },
	/* safetensors pull requests 686, 775 */
	{ "file-blanks", DOCTOR_ERROR, test_odd, ST_ODD_BLANKS, "files",
	  "the header begins with white space, which the format's text forbids "
	  "and its library reads", "readers that follow the text, gptq-run "
	  "among them", "header does not begin with '{'", DOCTOR_FIX },
	/* localGPT#167, #174, alpaca_lora_4bit#86, mlx#743 */
	{ "file-no-format", DOCTOR_WARNING, test_odd, ST_ODD_NO_FORMAT,
	  "files", "the metadata has no format entry",
	  "transformers (old versions), AutoGPTQ (a warning)",
	  "The safetensors archive passed at ... does not contain the valid "
	  "metadata.", DOCTOR_FIX },
	/* TGI#229, FastChat#1530, unsloth#111 */
	{ "file-pickle", DOCTOR_WARNING, test_pickle, 0, "files",
	  "the weights are in PyTorch files, which can run code when other "
	  "programs load them", "GPTQModel, TGI",
	  "Loading of .bin files are not allowed due to safety.; No .bin "
	  "weights found for model ...; Weights only load failed.",
	  DOCTOR_FIX },
	/* safetensors#98, #304, GPTQ-for-LLaMa#143, exllamav2#320 */
	{ "file-shared", DOCTOR_NOTE, test_shared, 0, "tensors",
	  "tensors share memory in the file, which safetensors cannot",
	  "programs that save it as safetensors",
	  "Some tensors share memory, this will lead to duplicate memory on "
	  "disk", DOCTOR_FIX },
	/* AutoGPTQ#133, #526, localGPT#399, #407, bitsandbytes#263 */
	{ "file-name", DOCTOR_WARNING, test_name, 0, NULL,
	  "the weight file is not called model.safetensors",
	  "transformers, AutoGPTQ, text-generation-webui",
	  "Could not find a model in ... with a name in ...; Error no file "
	  "named pytorch_model.bin, ...; Could not find the quantized model in "
	  ".pt or .safetensors format, exiting...", DOCTOR_FIX },
	/* TGI (the source) */
	{ "file-leftover", DOCTOR_WARNING, test_leftover, 0, "files",
	  "a weight file that is not of this model has tensors of the same "
	  "names, and some loaders read every file", "TGI, ExLlamaV2",
	  "Key ... was found in multiple files", DOCTOR_FIX },
	/* AutoGPTQ pull requests 364, 425 */
	{ "file-marlin-shards", DOCTOR_ERROR, test_marlin_shards, 0, NULL,
	  "a Marlin checkpoint in several files", "AutoGPTQ, GPTQModel",
	  "The loading of sharded checkpoints with Marlin is currently not "
	  "supported.", DOCTOR_FIX },
	/* h2ogpt#339 */
	{ "index-missing", DOCTOR_ERROR, test_model, MODEL_ODD_NO_INDEX, NULL,
	  "the weights are in shards and there is no index",
	  "transformers, GPTQModel, AutoGPTQ",
	  "Error no file named pytorch_model.bin, ... found in directory",
	  DOCTOR_FIX },
	/* h2ogpt#339 */
	{ "index-stale", DOCTOR_WARNING, test_stale, MODEL_ODD_STALE_INDEX,
	  NULL, "beside the weights lies an index of files that are not there",
	  "programs that look for the index first", "... does not appear to "
	  "have a file named pytorch_model-00001-of-...", DOCTOR_FIX },
	{ "index-unlisted", DOCTOR_WARNING, test_unlisted, 0, "tensors",
	  "the index misses tensors that are in the files, so that some "
	  "loaders see them and some do not", "transformers",
	  "Some weights of the model ... were newly initialized",
	  DOCTOR_FIX },
};

const struct doctor_table doctor_files = { rows,
					   sizeof(rows) / sizeof(*rows) };
