/* PyTorch files against the safetensors beside them, what is refused and why,
 * and which of a directory's files are taken. */
#include "../../libfmt/container/torch.h"
#include "../../libfmt/doctor.h"
#include "../../libfmt/model.h"
#include "../../libfmt/survey.h"
#include "pickle.h"

#include <sys/resource.h>

#define GOLDEN "tests/golden/torch_pt/"

/* Names, types, shapes, bytes; and that the tensors are dense. */
static void compare(const char *torch, const char *safetensors)
{
	struct opened a, b;

	open_ok(torch, &a);
	open_ok(safetensors, &b);
	assert_int_equal(a.f.count, b.f.count);
	for (uint32_t i = 0; i < b.f.count; i++) {
		const struct tensor *want = &b.f.tensor[i];
		const struct tensor *have = find(&a.f, want->name);

		if (!have)
			fail_msg("%s: %s is missing", torch, want->name);
		assert_int_equal(have->type, want->type);
		assert_int_equal(have->rank, want->rank);
		assert_memory_equal(have->dim, want->dim, sizeof(want->dim));
		if (want->size)
			assert_memory_equal(have->stride, want->stride,
					    sizeof(want->stride));
		assert_int_equal(have->size, want->size);
		if (want->size && memcmp(have->data, want->data, want->size))
			fail_msg("%s: %s differs", torch, want->name);
	}
	close_both(&a);
	close_both(&b);
}

/* ---- the collected files ---- */

static void test_collected_equal(void **state)
{
	static const char *const file[] = { "model.pt", "model.legacy.pt",
		"flat.pt", "flat.legacy.pt", "nested.pt",
		"nested.legacy.pt" };
	int compared = 0;
	struct err err;
	char **names;
	uint32_t n;

	(void)state;
	assert_int_equal(io_list(GOLDEN, &names, &n, &err), 0);
	for (uint32_t i = 0; i < n; i++) {
		char st[256], pt[256];
		int control = !strncmp(names[i], "control", 7);

		if (!strncmp(names[i], "hostile", 7))
			continue;
		snprintf(st, sizeof(st), GOLDEN "%s/%s.safetensors", names[i],
			 control ? "control" : "model");
		for (size_t k = 0; k < sizeof(file) / sizeof(*file); k++) {
			snprintf(pt, sizeof(pt), GOLDEN "%s/%s", names[i],
				 file[k]);
			if (!io_is_file(pt))
				continue;
			compare(pt, st);
			compared++;
		}
	}
	free(names);
	assert_int_equal(compared, 21);
}

static void test_container_names(void **state)
{
	struct opened o;

	(void)state;
	open_ok(GOLDEN "control_ok/model.pt", &o);
	assert_string_equal(o.f.container, "torch zip");
	close_both(&o);
	open_ok(GOLDEN "control_ok_legacy/model.pt", &o);
	assert_string_equal(o.f.container, "torch legacy");
	close_both(&o);
}

/* Only what is not in C order was copied; the rest points into the file. */
static void test_copied_and_not(void **state)
{
	int copied = 0, mapped = 0;
	const void *all;
	struct opened o;
	struct err err;

	(void)state;
	open_ok(GOLDEN "pt_container_features/flat.pt", &o);
	assert_int_equal(io_view(o.src, 0, io_size(o.src), &all, &err), 0);
	for (uint32_t i = 0; i < o.f.count; i++) {
		const struct tensor *t = &o.f.tensor[i];

		if (t->offset == TENSOR_COPIED) {
			copied++;
			continue;
		}
		assert_ptr_equal(t->data, (const char *)all + t->offset);
		mapped += t->size != 0;
	}
	assert_true(copied > 0);
	assert_true(mapped > 0);
	close_both(&o);
}

/* The checksums that torch wrote are right, and a bit that changed is seen. */
static void test_collected_sums(void **state)
{
	static const char from[] = GOLDEN "qwop_new_b4_g32_sym_act/model.pt";
	uint32_t n, checked = 0;
	char **names, path[256], *all;
	struct src *src;
	struct err err;
	size_t size;

	assert_int_equal(io_list(GOLDEN, &names, &n, &err), 0);
	for (uint32_t i = 0; i < n; i++) {
		snprintf(path, sizeof(path), GOLDEN "%s/model.pt", names[i]);
		if (!strncmp(names[i], "hostile", 7) || !io_is_file(path))
			continue;
		assert_int_equal(io_open(path, &src, &err), 0);
		if (!strstr(names[i], "legacy")) {
			if (torch_zip_verify(src, NULL, &err))
				fail_msg("%s: %s", path, err.msg);
			checked++;
		}
		io_close(src);
	}
	free(names);
	assert_int_equal(checked, 8);
	assert_int_equal(io_read_file(from, 1 << 20, &all, &size, &err), 0);
	all[size / 2] ^= 1; /* in a storage */
	assert_int_equal(io_open(scratch_write(*state, "a.pt", all, size),
				 &src, &err), 0);
	assert_int_equal(torch_zip_verify(src, NULL, &err), -1);
	assert_int_equal(err.code, ERR_CHECK);
	HAS(err, "model/data/");
	io_close(src);
	free(all);
}

static const struct {
	const char *name;
	int code;
	const char *says;
} hostile[] = {
	{ "deep_nesting", ERR_INPUT, "holds a list" },
	{ "exec_bare_pickle", ERR_UNSUP, "asks to run posix.system" },
	{ "exec_build_setstate", ERR_UNSUP, "asks to run posix.system" },
	{ "exec_eval_zip", ERR_UNSUP, "asks to run __builtin__.eval" },
	{ "exec_in_legacy_header", ERR_UNSUP, "asks to run posix.system" },
	{ "exec_os_system_legacy", ERR_UNSUP, "asks to run posix.system" },
	{ "exec_os_system_zip", ERR_UNSUP, "asks to run posix.system" },
	{ "huge_string_length", ERR_INPUT, "4611686018427387904 bytes" },
	{ "legacy_bad_magic", ERR_INPUT, "not one of PyTorch" },
	{ "legacy_storage_count_mismatch", ERR_INPUT,
	  "should have 16 elements and says 4" },
	{ "legacy_storage_negative", ERR_INPUT, "says -5" },
	{ "legacy_storage_too_big", ERR_INPUT, "truncated" },
	{ "memo_missing", ERR_INPUT, "never stored" },
	{ "missing_storage_entry", ERR_INPUT, "storage 7 is not in" },
	{ "no_stop", ERR_INPUT, "no end" },
	{ "shape_overflow", ERR_INPUT, "large integer" },
	{ "stack_underflow", ERR_INPUT, "the stack is empty" },
	{ "truncated_zip_60", ERR_INPUT, "cut short" },
	{ "truncated_zip_last8", ERR_INPUT, "cut short" },
	{ "unknown_storage_type", ERR_UNSUP, "torch.QUInt8Storage" },
	{ "view_negative_offset", ERR_INPUT, "offset is negative" },
	{ "view_negative_stride", ERR_INPUT, "stride is negative" },
	{ "view_past_storage", ERR_INPUT, "element 16 of a storage of 16" },
	{ "zero_stride_expand", ERR_UNSUP, "17179869184 bytes are too many" },
	{ "zip_duplicate_entry", ERR_INPUT, "two entries are called" },
	{ "zip_entry_size_outside", ERR_INPUT, "larger than the file" },
	{ "zip_local_offset_outside", ERR_INPUT, "outside of the file" },
	{ "zip_storage_too_big", ERR_INPUT, "should have 4194304 bytes" },
	{ "zip_traversal_name", ERR_INPUT, "leads out of the archive" },
};

#define HOSTILE (sizeof(hostile) / sizeof(*hostile))

/* In a directory that must stay as empty as it was, and with the same peak
 * of memory give or take what a small file may cost. */
static void test_hostile(void **state)
{
	struct scratch *s = *state;
	struct rusage before, after;
	char path[512], cwd[256];
	struct opened o;
	struct err err;

	assert_non_null(getcwd(cwd, sizeof(cwd)));
	assert_int_equal(chdir(s->dir), 0);
	assert_int_equal(getrusage(RUSAGE_SELF, &before), 0);
	for (size_t i = 0; i < HOSTILE; i++) {
		snprintf(path, sizeof(path), "%s/" GOLDEN "hostile_%s/model.pt",
			 cwd, hostile[i].name);
		if (!try_open(path, ST_LENIENT, &o, &err))
			fail_msg("%s: opened", hostile[i].name);
		assert_int_equal(err.code, hostile[i].code);
		HAS(err, hostile[i].says);
	}
	assert_int_equal(getrusage(RUSAGE_SELF, &after), 0);
	assert_int_equal(chdir(cwd), 0);
	assert_int_equal(scratch_count(s->dir), 0);
	/* ru_maxrss in KiB */
	assert_true(after.ru_maxrss - before.ru_maxrss < 64 * 1024);
}

/* Every one of the collection has its row above. */
static void test_hostile_all_named(void **state)
{
	struct err err;
	char **names;
	uint32_t n, found = 0;

	(void)state;
	assert_int_equal(io_list(GOLDEN, &names, &n, &err), 0);
	for (uint32_t i = 0; i < n; i++)
		found += !strncmp(names[i], "hostile_", 8);
	free(names);
	assert_int_equal(found, HOSTILE);
}

/* Every prefix of a file, and every single damaged byte, is one clean answer
 * or the other. */
static void test_damage(void **state)
{
	static const char *const file[] = { GOLDEN "control_ok/model.pt",
		GOLDEN "control_ok_legacy/model.pt" };
	struct err err;

	for (size_t i = 0; i < 2; i++) {
		struct opened o;
		char *p;
		size_t n;

		assert_int_equal(io_read_file(file[i], 1 << 20, &p, &n, &err),
				 0);
		for (size_t k = 1; k < n; k++) {
			const char *path = scratch_write(*state, "c.pt", p, k);

			if (!try_open(path, 0, &o, &err))
				fail_msg("%zu bytes of %s opened", k, file[i]);
			p[k] ^= 0x55;
			path = scratch_write(*state, "d.pt", p, n);
			p[k] ^= 0x55;
			if (!try_open(path, 0, &o, &err))
				close_both(&o);
		}
		free(p);
	}
}

/* ---- which files of a directory, and what is said of them ---- */

static struct model *model(const char *dir)
{
	struct model *m;
	struct err err;

	if (model_open(dir, 0, &m, &err))
		fail_msg("%s", err.msg);
	return m;
}

static void copy(struct scratch *s, const char *from, const char *to)
{
	struct err err;

	assert_int_equal(io_copy_file(from, scratch_path(s, to), &err), 0);
}

static void test_directory(void **state)
{
	static const char index[] = "{\"weight_map\": {"
		"\"a\": \"pytorch_model-00001-of-00002.bin\", "
		"\"w\": \"pytorch_model-00002-of-00002.bin\"}}";
	static const char object[] = "}U\1a" ONE "s";
	struct scratch *s = *state;
	struct model *m;
	struct err err;

	legacy(s, object, sizeof(object) - 1, 12);
	assert_int_equal(rename(scratch_path(s, "a.pt"), scratch_path(s,
			 "pytorch_model-00001-of-00002.bin")), 0);
	assert_int_equal(model_open(s->dir, 0, &m, &err), -1);
	HAS(err, "shard 2 of 2 is missing");
	copy(s, GOLDEN "control_ok/model.pt",
	     "pytorch_model-00002-of-00002.bin");
	m = model(s->dir);
	assert_int_equal(m->file_count, 2);
	assert_int_equal(m->odd, MODEL_ODD_NO_INDEX);
	model_close(m);
	scratch_write(s, "pytorch_model.bin.index.json", index,
		      sizeof(index) - 1);
	m = model(s->dir);
	assert_int_equal(m->tensor_count, 2);
	assert_int_equal(m->odd, 0);
	assert_string_equal(m->file[0].container, "torch legacy");
	assert_string_equal(m->file[1].container, "torch zip");
	model_close(m);
	/* the single file wins over the index, safetensors over both */
	copy(s, GOLDEN "control_ok/model.pt", "pytorch_model.bin");
	m = model(s->dir);
	assert_int_equal(m->file_count, 1);
	assert_int_equal(m->odd, MODEL_ODD_STALE_INDEX);
	model_close(m);
	copy(s, GOLDEN "control_ok/control.safetensors", "any.safetensors");
	m = model(s->dir);
	assert_string_equal(m->file[0].name, "any.safetensors");
	assert_int_equal(m->odd, 0);
	model_close(m);
}

static void test_single_file(void **state)
{
	static const char *const names[] = { "x.bin", "x.pt", "x.pth" };
	struct scratch *s = *state;

	for (int i = 0; i < 3; i++) {
		struct model *m;

		copy(s, GOLDEN "control_ok/model.pt", names[i]);
		m = model(scratch_path(s, names[i]));
		assert_non_null(model_find(m, "w"));
		model_close(m);
		m = model(s->dir); /* the only weight file of a directory */
		assert_string_equal(m->file[0].name, names[i]);
		model_close(m);
		assert_int_equal(unlink(scratch_path(s, names[i])), 0);
	}
}

static bool warns(const char *path)
{
	struct model *m = model(path);
	struct doctor d;
	struct survey s;
	struct err err;
	bool hit = false;

	assert_int_equal(survey_model(m, &s, &err), 0);
	assert_int_equal(doctor_examine(m, &s, &d, &err), 0);
	for (uint32_t i = 0; i < d.count; i++)
		hit |= !strcmp(d.problem[i].code, "file-pickle");
	doctor_release(&d);
	survey_release(&s);
	model_close(m);
	return hit;
}

static void test_doctor(void **state)
{
	(void)state;
	assert_true(warns(GOLDEN "control_ok/model.pt"));
	assert_true(warns(GOLDEN "control_ok_legacy/model.pt"));
	assert_false(warns(GOLDEN "control_ok/control.safetensors"));
}

#define IN(f) cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_collected_equal),
		cmocka_unit_test(test_container_names),
		cmocka_unit_test(test_copied_and_not),
		IN(test_collected_sums),
		IN(test_hostile),
		cmocka_unit_test(test_hostile_all_named),
		IN(test_damage),
		IN(test_directory),
		IN(test_single_file),
		cmocka_unit_test(test_doctor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
