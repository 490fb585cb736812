/* The files of a checkpoint: which count, what an index may say, and what is no
 * weight file at all. */
#include "ckpt.h"
#include "opened.h"

#define SHARD (3u << 20) /* the tiny model's 12 MB in five files or so */
#define INDEX "model.safetensors.index.json"

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

/* Tensor bytes, file sizes or nonsense: writers differ, and nobody is to fail
 * on it. */
static void test_total_size_is_not_believed(void **state)
{
	static const struct ckpt_item item = { "a.b", DT_F16, 1, { 1, 0 },
					       NULL };
	static const char *const meta[] = { "{\"total_size\": 2}",
		"{\"total_size\": 0}", "{\"total_size\": -1}",
		"{\"total_size\": 1e300}", "{\"total_size\": \"2\"}",
		"{\"total_size\": 99999999999, \"total_parameters\": 1}",
		"{}", "null" };
	struct scratch *s = *state;
	char text[256];
	struct model *m;
	struct err err;

	assert_int_equal(ckpt_file(scratch_path(s, "x.safetensors"), &item, 1,
				   &err), 0);
	for (size_t i = 0; i < sizeof(meta) / sizeof(*meta); i++) {
		snprintf(text, sizeof(text), "{\"metadata\": %s, "
			 "\"weight_map\": {\"a.b\": \"x.safetensors\"}}",
			 meta[i]);
		write_text(s, INDEX, text);
		m = opened(s->dir);
		assert_int_equal(m->odd, 0);
		assert_int_equal(model_bytes(m), 2);
		model_close(m);
	}
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

/* The same weights under Meta's names, which are not looked at beside a set of
 * shards, with or without its index. */
static void test_consolidated_beside_shards(void **state)
{
	static const struct ckpt_item item = { "layers.0.attention.wq.weight",
					       DT_F16, 1, { 1, 0 }, NULL };
	struct scratch *s = *state;
	struct model *m;
	struct err err;

	make_shards(s);
	assert_int_equal(ckpt_file(scratch_path(s, "consolidated.safetensors"),
				   &item, 1, &err), 0);
	assert_int_equal(mkdir(scratch_path(s, "original"), 0777), 0);
	assert_int_equal(ckpt_file(scratch_path(s,
		"original/consolidated.00.safetensors"), &item, 1, &err), 0);
	for (int i = 0; i < 2; i++) {
		m = opened(s->dir);
		assert_int_equal(m->tensor_count, 57);
		assert_null(model_find(m, item.name));
		assert_int_equal(m->odd, i ? MODEL_ODD_NO_INDEX : 0);
		model_close(m);
		unlink(scratch_path(s, INDEX));
	}
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

static void test_a_pickle_called_safetensors(void **state)
{
	static const char *const file[] = { "control_ok", "control_ok_legacy" };
	struct scratch *s = *state;
	struct model *m;
	struct err err;
	char from[128];

	for (int i = 0; i < 2; i++) {
		snprintf(from, sizeof(from), "tests/golden/torch_pt/%s/"
			 "model.pt", file[i]);
		assert_int_equal(io_copy_file(from, scratch_path(s,
			"model.safetensors"), &err), 0);
		m = opened(s->dir);
		assert_string_equal(m->file[0].container,
				    i ? "torch legacy" : "torch zip");
		assert_non_null(model_find(m, "w"));
		model_close(m);
	}
}

/* Headers of 0x280, 0x380, ... bytes begin as a pickle does. */
static void test_safetensors_like_a_pickle(void **state)
{
	struct scratch *s = *state;
	struct model *m;
	char file[8 + 0x580];

	for (int v = 2; v <= 5; v++) {
		size_t n = 0x80 + ((size_t)v << 8);

		memset(file, ' ', sizeof(file));
		memset(file, 0, 8);
		file[0] = '\x80';
		file[1] = (char)v;
		memcpy(file + 8, "{}", 2);
		scratch_write(s, "model.safetensors", file, 8 + n);
		m = opened(s->dir);
		assert_string_equal(m->file[0].container, "safetensors");
		model_close(m);
	}
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

#define WITH_DIR(f) \
	cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_DIR(test_shards),
		WITH_DIR(test_truncated_shard),
		WITH_DIR(test_missing_shard),
		WITH_DIR(test_shards_without_index),
		WITH_DIR(test_index_places_a_tensor_wrongly),
		WITH_DIR(test_tensor_in_two_shards),
		WITH_DIR(test_names_that_lead_out),
		WITH_DIR(test_bare_map_and_subdirectory),
		WITH_DIR(test_total_size_is_not_believed),
		WITH_DIR(test_unlisted),
		WITH_DIR(test_stale_index),
		WITH_DIR(test_choice_of_files),
		WITH_DIR(test_consolidated_beside_shards),
		WITH_DIR(test_safetensors_by_another_name),
		WITH_DIR(test_a_pickle_called_safetensors),
		WITH_DIR(test_safetensors_like_a_pickle),
		WITH_DIR(test_what_is_no_weight_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
