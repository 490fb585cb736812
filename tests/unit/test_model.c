/* Checkpoints as a whole: which files count, what an index may say, what is
 * found under a name, and what is refused. */
#include "../../libfmt/base/json.h"
#include "../../libfmt/llama.h"
#include "ckpt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define SHARD (3u << 20) /* the tiny model's 12 MB in five files or so */
#define INDEX "model.safetensors.index.json"
#define HUB "../shared/data/hub/"

static void says(const struct err *err, int code, const char *text)
{
	if (err->code != code || !strstr(err->msg, text))
		fail_msg("\"%s\" (%d) does not say \"%s\" (%d)", err->msg,
			 err->code, text, code);
}

/* Opening must fail so. */
static void refused(const char *path, int code, const char *text)
{
	struct model *m = NULL;
	struct err err;

	if (!model_open(path, 0, &m, &err))
		fail_msg("%s was opened (expected \"%s\")", path, text);
	assert_null(m);
	says(&err, code, text);
}

static struct model *opened(const char *path)
{
	struct model *m = NULL;
	struct err err;

	if (model_open(path, 0, &m, &err))
		fail_msg("%s", err.msg);
	return m;
}

static void write_text(struct scratch *s, const char *name, const char *text)
{
	assert_non_null(scratch_write(s, name, text, strlen(text)));
}

/* The tiny model in shards, as the scratch directory. */
static void make_shards(struct scratch *s)
{
	const struct ckpt_break b = { .shard_size = SHARD };
	struct err err;

	if (ckpt_tiny(s->dir, &b, &err))
		fail_msg("%s", err.msg);
}

/* The name of shard no as the index has it, e.g. 00001-of-00005. */
static const char *shard(struct scratch *s, unsigned no)
{
	struct model *m = opened(s->dir);
	static char name[64];

	assert_in_range(no, 1, m->file_count);
	snprintf(name, sizeof(name), "model-%05u-of-%05u.safetensors", no,
		 m->file_count);
	model_close(m);
	return name;
}

/* ---- finding things ---- */

static void test_tiny(void **state)
{
	struct model *m = opened(TINY "//");
	const struct tensor *t;
	const struct qf_module *mod;
	struct err err;

	(void)state;
	assert_string_equal(m->path, TINY);
	assert_string_equal(m->dir, TINY);
	assert_true(m->is_dir);
	/* model.safetensors wins over the other *.safetensors beside it */
	assert_int_equal(m->file_count, 1);
	assert_string_equal(m->file[0].container, "safetensors");
	assert_int_equal(m->tensor_count, 57);
	assert_int_equal(model_bytes(m), 2 * 6163712);
	assert_int_equal(m->odd, 0);
	assert_int_equal(m->quant.source, CONFIG_NONE);
	assert_non_null(model_llama(m));
	t = model_find(m, "model.layers.3.mlp.up_proj.weight");
	assert_non_null(t);
	assert_true(tensor_is_shape(t, 2, 768, 256));
	assert_string_equal(model_file_of(m, t), "model.safetensors");
	mod = model_module(m, "model.layers.3.mlp.up_proj");
	assert_non_null(mod);
	assert_ptr_equal(qf_part(mod, "weight"), t);
	assert_null(model_find(m, "model.layers.3.mlp.up_proj"));
	assert_null(model_find(m, ""));
	assert_null(model_module(m, "model.layers.3.mlp"));
	assert_int_equal(model_need(m, "nope.weight", &t, &err), -1);
	says(&err, ERR_INPUT, "nope.weight: missing");
	model_close(m);
	model_close(NULL);
}

static void test_single_file(void **state)
{
	struct model *m = opened(TINY "/model.safetensors");

	(void)state;
	assert_false(m->is_dir);
	assert_string_equal(m->dir, TINY);
	assert_non_null(m->config);
	assert_int_equal(m->tensor_count, 57);
	model_close(m);
}

/* Names whose plain order is not that of (prefix, suffix). */
static void test_every_name_is_found(void **state)
{
	static const char *const stem[] = { "a", "a.b", "a.b.c", "a.b0",
		"a.b-", "A", "zz.", "\xc3\xa9" };
	static const char *const end[] = { ".weight", ".qweight", ".w", "",
		".", ".b.c" };
	struct scratch *s = *state;
	char name[48][32];
	struct ckpt_item item[48];
	struct model *m;
	struct err err;
	uint32_t n = 0, in_modules = 0;

	for (int i = 0; i < 8; i++)
		for (int k = 0; k < 6; k++) {
			snprintf(name[n], sizeof(*name), "%s%s", stem[i],
				 end[k]);
			for (uint32_t j = 0; j < n; j++)
				if (!strcmp(name[j], name[n]))
					goto next; /* "a" + ".b.c" */
			item[n] = (struct ckpt_item){ name[n], DT_F16, 1,
						      { n + 1, 0 }, NULL };
			n++;
next:;
		}
	assert_int_equal(ckpt_file(scratch_path(s, "x.safetensors"), item, n,
				   &err), 0);
	m = opened(s->dir);
	assert_int_equal(m->tensor_count, n);
	for (uint32_t i = 0; i < n; i++) {
		const struct tensor *t = model_find(m, name[i]);

		assert_non_null(t);
		assert_string_equal(t->name, name[i]);
		assert_int_equal(t->dim[0], i + 1);
	}
	for (uint32_t i = 0; i < m->module_count; i++) {
		const struct qf_module *mod = &m->module[i];
		size_t len = strlen(mod->name);

		assert_ptr_equal(model_module(m, mod->name), mod);
		in_modules += mod->count;
		for (uint32_t k = 0; k < mod->count; k++) {
			assert_memory_equal(mod->part[k].name, mod->name, len);
			assert_int_equal(mod->part[k].name[len], '.');
			assert_null(strchr(mod->part[k].name + len + 1, '.'));
		}
	}
	for (uint32_t i = 0; i < n; i++)
		in_modules += !strchr(name[i], '.');
	assert_int_equal(in_modules, n);
	model_close(m);
}

/* ---- shards ---- */

static void test_shards(void **state)
{
	struct scratch *s = *state;
	struct model *m, *whole = opened(TINY);

	make_shards(s);
	m = opened(s->dir);
	assert_true(m->file_count > 2);
	assert_int_equal(m->tensor_count, whole->tensor_count);
	assert_int_equal(m->odd, 0);
	for (uint32_t i = 0; i < m->tensor_count; i++) {
		const struct tensor *a = &m->tensor[i], *b = &whole->tensor[i];

		assert_string_equal(a->name, b->name);
		assert_int_equal(a->size, b->size);
		assert_memory_equal(a->data, b->data, a->size);
	}
	model_close(m);
	model_close(whole);
}

static void test_truncated_shard(void **state)
{
	struct scratch *s = *state;
	const char *name, *path;
	struct stat sb;

	make_shards(s);
	name = shard(s, 2);
	path = scratch_path(s, name);
	assert_int_equal(stat(path, &sb), 0);
	assert_int_equal(truncate(path, sb.st_size - 1), 0);
	refused(s->dir, ERR_INPUT, name);
	refused(s->dir, ERR_INPUT, "truncated: 1 bytes are missing");
	assert_int_equal(truncate(path, 100), 0);
	refused(s->dir, ERR_INPUT, "truncated");
	assert_int_equal(truncate(path, 0), 0);
	refused(s->dir, ERR_INPUT, "the file is empty");
}

static void test_missing_shard(void **state)
{
	struct scratch *s = *state;
	const char *name;

	make_shards(s);
	name = shard(s, 2);
	assert_int_equal(remove(scratch_path(s, name)), 0);
	refused(s->dir, ERR_INPUT, name);
	refused(s->dir, ERR_INPUT, "missing, but " INDEX " names it");
	/* without the index the numbers in the names tell */
	assert_int_equal(remove(scratch_path(s, INDEX)), 0);
	refused(s->dir, ERR_INPUT, "shard 2 of ");
}

static void test_shards_without_index(void **state)
{
	struct scratch *s = *state;
	struct model *m;

	make_shards(s);
	assert_int_equal(remove(scratch_path(s, INDEX)), 0);
	m = opened(s->dir);
	assert_int_equal(m->odd, MODEL_ODD_NO_INDEX);
	assert_int_equal(m->tensor_count, 57);
	model_close(m);
}

static void test_index_places_a_tensor_wrongly(void **state)
{
	struct scratch *s = *state;
	const struct tensor *t;
	char from[256], to[256];
	struct model *m;

	make_shards(s);
	m = opened(s->dir);
	t = model_find(m, "model.norm.weight");
	assert_non_null(t);
	snprintf(from, sizeof(from), "\"model.norm.weight\": \"%s\"",
		 model_file_of(m, t));
	snprintf(to, sizeof(to), "\"model.norm.weight\": \"%s\"",
		 m->file[(t->file + 1) % m->file_count].name);
	model_close(m);
	assert_int_equal(ckpt_edit(scratch_path(s, INDEX), from, to), 0);
	refused(s->dir, ERR_INPUT, "model.norm.weight: missing, it is in");
	assert_int_equal(ckpt_edit(scratch_path(s, INDEX), "model.norm.weight",
				   "model.norm.bias"), 0);
	refused(s->dir, ERR_INPUT, "model.norm.bias: missing, but " INDEX
		" places it there");
}

static void test_tensor_in_two_shards(void **state)
{
	static const struct ckpt_item twice = { "model.norm.weight", DT_F16, 1,
						{ 256, 0 }, NULL };
	struct scratch *s = *state;
	struct err err;

	make_shards(s);
	assert_int_equal(ckpt_file(scratch_path(s, "extra.safetensors"),
				   &twice, 1, &err), 0);
	assert_int_equal(ckpt_edit(scratch_path(s, INDEX), "\"weight_map\": {",
				   "\"weight_map\": { \"x.y\": "
				   "\"extra.safetensors\","), 0);
	refused(s->dir, ERR_INPUT, "model.norm.weight: both in ");
	refused(s->dir, ERR_INPUT, "extra.safetensors");
}

static void test_names_that_lead_out(void **state)
{
	static const char *const bad[] = { "../x.safetensors", "/etc/passwd",
		"a/../../x", "", "..", "a/.." };
	struct scratch *s = *state;
	char text[256];

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		snprintf(text, sizeof(text),
			 "{\"weight_map\": {\"a.b\": \"%s\"}}", bad[i]);
		write_text(s, INDEX, text);
		refused(s->dir, ERR_INPUT, "refused file name");
	}
	write_text(s, INDEX, "{\"weight_map\": {\"a.b\": 4}}");
	refused(s->dir, ERR_INPUT, "not a string");
	write_text(s, INDEX, "{\"weight_map\": {}}");
	refused(s->dir, ERR_INPUT, "names no tensors");
	write_text(s, INDEX, "{\"weight_map\": []}");
	refused(s->dir, ERR_INPUT, "no weight_map");
	write_text(s, INDEX, "{\"a.b\": \"a\", \"a.b\": \"b\"}");
	refused(s->dir, ERR_INPUT, "appears twice");
}

/* Values may hold directories, and the map may stand alone. */
static void test_bare_map_and_subdirectory(void **state)
{
	static const struct ckpt_item item = { "a.b", DT_F16, 1, { 1, 0 },
					       NULL };
	struct scratch *s = *state;
	struct model *m;
	struct err err;

	assert_int_equal(mkdir(scratch_path(s, "sub"), 0777), 0);
	assert_int_equal(ckpt_file(scratch_path(s, "sub/..x.safetensors"),
				   &item, 1, &err), 0);
	write_text(s, INDEX, "{\"a.b\": \"sub/..x.safetensors\"}");
	m = opened(s->dir);
	assert_string_equal(m->file[0].name, "sub/..x.safetensors");
	assert_int_equal(m->odd, 0);
	model_close(m);
}

static void test_unlisted(void **state)
{
	static const struct ckpt_item item[] = {
		{ "a.b", DT_F16, 1, { 1, 0 }, NULL },
		{ "c.d", DT_F16, 1, { 1, 0 }, NULL },
		{ "e", DT_F16, 1, { 1, 0 }, NULL },
	};
	struct scratch *s = *state;
	struct model *m;
	struct err err;

	assert_int_equal(ckpt_file(scratch_path(s, "x.safetensors"), item, 3,
				   &err), 0);
	write_text(s, INDEX, "{\"weight_map\": {\"a.b\": \"x.safetensors\"}}");
	m = opened(s->dir);
	assert_int_equal(m->odd, MODEL_ODD_UNLISTED);
	assert_int_equal(m->unlisted, 2);
	assert_non_null(model_find(m, "e"));
	model_close(m);
}

static void test_stale_index(void **state)
{
	const struct ckpt_break whole = { .shard_size = 0 };
	struct scratch *s = *state;
	struct model *m;
	struct err err;

	make_shards(s);
	assert_int_equal(ckpt_tiny(s->dir, &whole, &err), 0);
	m = opened(s->dir);
	assert_int_equal(m->file_count, 1);
	assert_string_equal(m->file[0].name, "model.safetensors");
	assert_int_equal(m->odd, MODEL_ODD_STALE_INDEX);
	model_close(m);
	/* one that does not even parse is as stale */
	write_text(s, INDEX, "{");
	m = opened(s->dir);
	assert_int_equal(m->odd, MODEL_ODD_STALE_INDEX);
	model_close(m);
	/* one of this very file is none */
	write_text(s, INDEX, "{\"weight_map\": {\"model.norm.weight\": "
		   "\"model.safetensors\"}}");
	m = opened(s->dir);
	assert_int_equal(m->odd, MODEL_ODD_UNLISTED);
	assert_int_equal(m->unlisted, 56);
	model_close(m);
}

/* ---- which file is meant ---- */

static void test_choice_of_files(void **state)
{
	static const struct ckpt_item item = { "a.b", DT_F16, 1, { 1, 0 },
					       NULL };
	struct scratch *s = *state;
	struct model *m;
	struct err err;

	refused(s->dir, ERR_INPUT, "no weights found");
	refused(scratch_path(s, "nothing"), ERR_INPUT, "no such file");
	refused("/dev/null", ERR_INPUT, "neither a file nor a directory");
	assert_int_equal(ckpt_file(scratch_path(s, "consolidated.safetensors"),
				   &item, 1, &err), 0);
	m = opened(s->dir);
	model_close(m);
	assert_int_equal(ckpt_file(scratch_path(s, "adapter_model.safetensors"),
				   &item, 1, &err), 0);
	/* by content, whatever the name says */
	assert_int_equal(ckpt_file(scratch_path(s, "b-4bit.safetensors"),
				   &item, 1, &err), 0);
	m = opened(s->dir);
	assert_string_equal(m->file[0].name, "b-4bit.safetensors");
	model_close(m);
	assert_int_equal(ckpt_file(scratch_path(s, "c.safetensors"), &item, 1,
				   &err), 0);
	refused(s->dir, ERR_INPUT, "2 weight files and no index");
	write_text(s, "quantize_config.json",
		   "{\"model_file_base_name\": \"b-4bit\"}");
	m = opened(s->dir);
	assert_string_equal(m->file[0].name, "b-4bit.safetensors");
	model_close(m);
	m = opened(scratch_path(s, "c.safetensors"));
	assert_string_equal(m->file[0].name, "c.safetensors");
	model_close(m);
}

static void test_safetensors_by_another_name(void **state)
{
	static const struct ckpt_item item = { "a.b", DT_F16, 1, { 1, 0 },
					       NULL };
	struct scratch *s = *state;
	struct model *m;
	struct err err;

	assert_int_equal(ckpt_file(scratch_path(s, "pytorch_model.bin"), &item,
				   1, &err), 0);
	m = opened(s->dir);
	assert_string_equal(m->file[0].container, "safetensors");
	model_close(m);
}

static void test_what_is_no_weight_file(void **state)
{
	static const struct {
		const char *text;
		size_t n;
		int code;
		const char *says;
	} row[] = {
#define BYTES(text) text, sizeof(text) - 1
		{ BYTES("PK\3\4\0\0\0\0\0\0\0\0"), ERR_INPUT,
		  "damaged zip archive" },
		{ BYTES("\x80\2\x8a\nl\xfc\x9c""F\xf9 j\xa8P\x19"), ERR_INPUT,
		  "damaged pickle" },
		{ BYTES("GGUF\3\0\0\0"), ERR_INPUT, "ends inside" },
		{ BYTES("version https://git-lfs.github.com/spec/v1\noid "
			"sha256:a9\nsize 36652345792\n"), ERR_INPUT,
		  "Git-LFS pointer, not the file itself, which has "
		  "36652345792 bytes" },
		{ BYTES("version https://git-lfs.github.com/spec/v1\n"),
		  ERR_INPUT, "Git-LFS pointer" },
		{ BYTES("\n <!DOCTYPE html><html>"), ERR_INPUT, "a web page" },
		{ BYTES("<html>"), ERR_INPUT, "a web page" },
		{ BYTES("Entry not found"), ERR_INPUT, "a web page" },
		{ BYTES(""), ERR_INPUT, "the file is empty" },
		{ BYTES("\0\0\0\0\0\0\0\0"), ERR_INPUT, "header" },
		{ BYTES("  "), ERR_INPUT, "too few" },
		{ BYTES("hello, this is no model at all"), ERR_INPUT,
		  "not a safetensors file" },
	};
	struct scratch *s = *state;

	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		scratch_write(s, "model.safetensors", row[i].text, row[i].n);
		refused(s->dir, row[i].code, row[i].says);
		refused(s->dir, row[i].code, "model.safetensors");
		refused(scratch_path(s, "model.safetensors"), row[i].code,
			row[i].says);
	}
}

static void test_lenient(void **state)
{
	static const char *const bad[] = { "bad_hole_middle",
		"bad_trailing_bytes" };
	static const uint32_t odd[] = { ST_ODD_HOLE, ST_ODD_TRAILING };
	struct model *m;
	struct err err;
	char path[128];

	(void)state;
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path),
			 "tests/golden/malformed/%s/model.safetensors", bad[i]);
		refused(path, ERR_INPUT, "bytes");
		assert_int_equal(model_open(path, MODEL_LENIENT, &m, &err), 0);
		assert_true(m->file[0].odd & odd[i]);
		model_close(m);
	}
}

static void test_configs_only(void **state)
{
	struct scratch *s = *state;
	struct model *m;
	struct err err;

	write_text(s, "config.json", "{\"model_type\": \"x\"}");
	refused(s->dir, ERR_INPUT, "no weights found");
	assert_int_equal(model_open(s->dir, MODEL_NO_WEIGHTS, &m, &err), 0);
	assert_int_equal(m->file_count, 0);
	assert_null(model_find(m, "a"));
	assert_null(model_module(m, "a"));
	assert_null(model_llama(m));
	model_close(m);
	write_text(s, "config.json", "{\"model_type\": \"x\",}");
	refused(s->dir, ERR_INPUT, "config.json");
	write_text(s, "config.json", "\xef\xbb\xbf{}");
	refused(s->dir, ERR_INPUT, "no weights found");
	write_text(s, "config.json", "[]");
	refused(s->dir, ERR_INPUT, "not a JSON object");
}

/* The number behind "size " in a pointer. */
static unsigned long long pointer_size(const char *path)
{
	unsigned long long size = 0;
	struct err err;
	char *text;
	size_t n;

	assert_int_equal(io_read_file(path, 4096, &text, &n, &err), 0);
	assert_int_equal(sscanf(strstr(text, "\nsize "), "\nsize %llu", &size),
			 1);
	free(text);
	return size;
}

static void published(const char *name, uint32_t *pointers)
{
	uint32_t count, found = 0;
	struct model *m;
	struct err err;
	char dir[256], path[512], text[128] = "no weights found", **file;

	snprintf(dir, sizeof(dir), HUB "%s", name);
	assert_int_equal(io_list(dir, &file, &count, &err), 0);
	for (uint32_t i = 0; i < count; i++) {
		if (!strstr(file[i], ".safetensors"))
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, file[i]);
		snprintf(text, sizeof(text), "a Git-LFS pointer, not the file "
			 "itself, which has %llu bytes", pointer_size(path));
		refused(path, ERR_INPUT, text);
		found++;
	}
	free(file);
	assert_true(found <= 1);
	*pointers += found;
	refused(dir, ERR_INPUT, text);
	if (model_open(dir, MODEL_NO_WEIGHTS, &m, &err))
		fail_msg("%s", err.msg);
	assert_false(m->quant.disagree);
	if (m->quantize)
		assert_true(m->quant.bits >= 3 && m->quant.group_size);
	model_close(m);
}

/* Folders as their authors published them, weights as LFS pointers: the true
 * size is said, and the configs are read. */
static void test_published_folders(void **state)
{
	uint32_t count, pointers = 0;
	char **name;
	struct err err;

	(void)state;
	if (!io_is_dir(HUB)) {
		print_message(HUB " is not there\n");
		skip();
	}
	assert_int_equal(io_list(HUB, &name, &count, &err), 0);
	for (uint32_t i = 0; i < count; i++)
		published(name[i], &pointers);
	assert_true(pointers >= 10);
	free(name);
}

/* ---- beside the weights ---- */

static void test_extras(void **state)
{
	struct scratch *s = *state;
	struct model *m = opened(TINY);
	struct err err;

	assert_int_equal(model_copy_extras(m, s->dir, &err), 0);
	assert_true(io_is_file(scratch_path(s, "tokenizer.model")));
	assert_true(io_is_file(scratch_path(s, "tokenizer.json")));
	assert_true(io_is_file(scratch_path(s, "tokenizer_config.json")));
	assert_true(io_is_file(scratch_path(s, "special_tokens_map.json")));
	assert_true(io_is_file(scratch_path(s, "generation_config.json")));
	assert_false(io_is_file(scratch_path(s, "config.json")));
	assert_false(io_is_file(scratch_path(s, "model.safetensors")));
	assert_false(io_is_file(scratch_path(s, "eval.txt")));
	assert_int_equal(model_copy_extras(m, "/nonexistent", &err), -1);
	assert_int_equal(err.code, ERR_OUTPUT);
	model_close(m);
}

#define WITH_DIR(f) \
	cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tiny),
		cmocka_unit_test(test_single_file),
		WITH_DIR(test_every_name_is_found),
		WITH_DIR(test_shards),
		WITH_DIR(test_truncated_shard),
		WITH_DIR(test_missing_shard),
		WITH_DIR(test_shards_without_index),
		WITH_DIR(test_index_places_a_tensor_wrongly),
		WITH_DIR(test_tensor_in_two_shards),
		WITH_DIR(test_names_that_lead_out),
		WITH_DIR(test_bare_map_and_subdirectory),
		WITH_DIR(test_unlisted),
		WITH_DIR(test_stale_index),
		WITH_DIR(test_choice_of_files),
		WITH_DIR(test_safetensors_by_another_name),
		WITH_DIR(test_what_is_no_weight_file),
		cmocka_unit_test(test_lenient),
		WITH_DIR(test_configs_only),
		cmocka_unit_test(test_published_folders),
		WITH_DIR(test_extras),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
