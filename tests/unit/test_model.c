/* Checkpoints as a whole: what is found under a name, configs without weights,
 * folders as they were published, and what is copied beside the weights. */
#include "../../libfmt/base/json.h"
#include "../../libfmt/llama.h"
#include "ckpt.h"
#include "opened.h"

#define HUB "../shared/data/hub/"

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
		cmocka_unit_test(test_lenient),
		WITH_DIR(test_configs_only),
		cmocka_unit_test(test_published_folders),
		WITH_DIR(test_extras),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
