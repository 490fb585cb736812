/* PyTorch files against the safetensors beside them, what is refused and why,
 * and files put together here for what the collection does not hold. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/container/st.h"
#include "../../libfmt/container/tensor_file.h"
#include "../../libfmt/doctor.h"
#include "../../libfmt/model.h"
#include "../../libfmt/survey.h"
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/resource.h>

#include <cmocka.h>

#define GOLDEN "tests/golden/torch_pt/"

#define HAS(err, text)                                                 \
	do {                                                           \
		if (!strstr((err).msg, (text)))                        \
			fail_msg("\"%s\" does not say \"%s\"",         \
				 (err).msg, (text));                   \
	} while (0)

struct opened {
	struct src *src;
	struct tensor_file f;
};

static int try_open(const char *path, unsigned flags, struct opened *o,
		    struct err *err)
{
	if (io_open(path, &o->src, err))
		fail_msg("%s", err->msg);
	if (!tensor_file_open(o->src, flags, &o->f, err))
		return 0;
	assert_null(o->f.tensor);
	assert_null(o->f.own);
	HAS(*err, path);
	io_close(o->src);
	return -1;
}

static void open_ok(const char *path, struct opened *o)
{
	struct err err;

	if (try_open(path, 0, o, &err))
		fail_msg("%s", err.msg);
}

static void close_both(struct opened *o)
{
	tensor_file_close(&o->f);
	io_close(o->src);
}

static const struct tensor *find(const struct tensor_file *f, const char *name)
{
	for (uint32_t i = 0; i < f->count; i++)
		if (!strcmp(f->tensor[i].name, name))
			return &f->tensor[i];
	return NULL;
}

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

/* ---- files put together here ---- */

struct buffer {
	unsigned char p[4096];
	size_t n;
};

static void put(struct buffer *b, const void *p, size_t n)
{
	assert_true(n <= sizeof(b->p) - b->n);
	memcpy(b->p + b->n, p, n);
	b->n += n;
}

#define PUT(b, text) put(b, text, sizeof(text) - 1)

/* The legacy container: `object` and then one storage "0" of F32 0, 1, 2... */
static const char *legacy(struct scratch *s, const void *object, size_t len,
			  size_t numel)
{
	static struct buffer b;
	unsigned char word[8];
	float f;

	b.n = 0;
	PUT(&b, "\x80\2\x8a\n\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.");
	PUT(&b, "\x80\2M\xe9\3.");
	PUT(&b, "\x80\2}(U\rlittle_endian\x88u.");
	PUT(&b, "\x80\2");
	put(&b, object, len);
	PUT(&b, ".\x80\2](U\0010e.");
	half_put64(word, numel);
	put(&b, word, 8);
	for (size_t i = 0; i < numel; i++) {
		f = (float)i;
		put(&b, &f, sizeof(f));
	}
	return scratch_write(s, "a.pt", b.p, b.n);
}

/* torch._utils._rebuild_tensor_v2(storage "0" of 12 F32, ...) up to the
 * offset; SHAPE follows: offset, size, stride; then the end of it. */
#define TENSOR(shape)                                                   \
	"ctorch._utils\n_rebuild_tensor_v2\n("                          \
	"(U\7storagectorch\nFloatStorage\nU\0010U\3cpuK\014NtQ" shape    \
	"\x89}tR"

static void open_object(struct scratch *s, const void *object, size_t n,
			struct opened *o)
{
	open_ok(legacy(s, object, n, 12), o);
}

static void refuse_object(struct scratch *s, const void *object, size_t n,
			  int code, const char *says)
{
	struct opened o;
	struct err err;

	if (!try_open(legacy(s, object, n, 12), 0, &o, &err))
		fail_msg("opened, should say \"%s\"", says);
	HAS(err, says);
	assert_int_equal(err.code, code);
}

#define OPEN(s, object, o) open_object(s, object, sizeof(object) - 1, o)
#define REFUSE(s, object, code, says)                                   \
	refuse_object(s, object, sizeof(object) - 1, code, says)

static void values(const struct tensor *t, const float *want, uint64_t n)
{
	float have[16];

	assert_non_null(t);
	assert_int_equal(t->size, 4 * n);
	assert_int_equal(tensor_load_f32(t, 0, n, have), 0);
	for (uint64_t i = 0; i < n; i++)
		if (have[i] != want[i])
			fail_msg("%s[%d] is %g, not %g", t->name, (int)i,
				 have[i], want[i]);
}

static void test_views(void **state)
{
	static const float transposed[] = { 0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7,
		11 };
	static const float sliced[] = { 1, 2, 5, 6 };
	static const float expanded[] = { 7, 7, 7 };
	static const float mixed[] = { 0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11 };
	struct opened o;

	OPEN(*state, "}("
	     "U\1t" TENSOR("K\0K\4K\3\x86K\1K\4\x86")
	     "U\1s" TENSOR("K\1K\2K\2\x86K\4K\1\x86")
	     "U\1e" TENSOR("K\7K\3\x85K\0\x85")
	     "U\1m" TENSOR("K\0K\2K\3K\2\x87K\3K\1K\6\x87")
	     "U\1d" TENSOR("K\4K\1K\2\x86K\x63K\1\x86")
	     "U\1z" TENSOR("K\0K\0K\5\x86K\1K\1\x86")
	     "U\1r" TENSOR("K\5))") "u", &o);
	assert_int_equal(o.f.count, 7);
	values(find(&o.f, "t"), transposed, 12);
	values(find(&o.f, "s"), sliced, 4);
	values(find(&o.f, "e"), expanded, 3);
	values(find(&o.f, "m"), mixed, 12);
	values(find(&o.f, "d"), (const float[]){ 4, 5 }, 2);
	values(find(&o.f, "z"), NULL, 0);
	values(find(&o.f, "r"), (const float[]){ 5 }, 1);
	/* a dimension of 1 may have any stride and is dense all the same */
	assert_true(find(&o.f, "d")->offset != TENSOR_COPIED);
	assert_int_equal(find(&o.f, "t")->offset, TENSOR_COPIED);
	assert_int_equal(find(&o.f, "t")->stride[0], 3);
	assert_string_equal(o.f.tensor[0].name, "t");
	close_both(&o);
}

/* A tuple with a mark, as torch writes shapes of four and more. */
static void test_many_dimensions(void **state)
{
	struct opened o;

	OPEN(*state, "}U\1a" TENSOR("K\0(K\2K\1K\3K\2t(K\6K\6K\2K\1t") "s",
	     &o);
	assert_int_equal(o.f.tensor[0].rank, 4);
	assert_int_equal(o.f.tensor[0].dim[2], 3);
	close_both(&o);
	REFUSE(*state, "}U\1a" TENSOR("K\0(K\1K\1K\1K\1K\1K\1K\1K\1K\1t"
	       "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t") "s", ERR_INPUT, "at most 8");
}

#define ONE TENSOR("K\0K\2\x85K\1\x85")

static void test_wrappers(void **state)
{
	struct opened o;

	OPEN(*state, "}U\5modelccollections\nOrderedDict\n)R"
	     "(U\1a" ONE "U\1nK\5U\1xNu"
	     "}U\11_metadata}sbs", &o);
	assert_int_equal(o.f.count, 1);
	assert_string_equal(o.f.tensor[0].name, "a");
	close_both(&o);
	/* a state dict inside a checkpoint inside another, and a tensor beside
	 * it that is none of the model's */
	OPEN(*state, "}(U\4loss" ONE "U\5model}U\12state_dict}U\1b" ONE "ssu",
	     &o);
	assert_int_equal(o.f.count, 1);
	assert_string_equal(o.f.tensor[0].name, "b");
	close_both(&o);
	OPEN(*state, "ccollections\nOrderedDict\n]U\1c" ONE "\x86" "a\x85R",
	     &o);
	close_both(&o);
}

static void test_wrappers_refused(void **state)
{
	REFUSE(*state, "}(U\1a" ONE "U\3sub}U\1b" ONE "su", ERR_UNSUP,
	       "sub: a map of tensors among tensors");
	REFUSE(*state, "}U\1a]" ONE "as", ERR_INPUT, "no tensors found");
	REFUSE(*state, "]" ONE "a", ERR_INPUT, "holds a list");
	REFUSE(*state, "}(U\1a" ONE "U\1a" ONE "u", ERR_INPUT,
	       "\"a\" appears twice");
	REFUSE(*state, "}K\1" ONE "s", ERR_INPUT, "name is an integer");
	REFUSE(*state, "}U\2a\0" ONE "s", ERR_INPUT, "NUL");
	REFUSE(*state, "}U\1\xff" ONE "s", ERR_INPUT, "UTF-8");
}

static void test_refused_objects(void **state)
{
	REFUSE(*state, "cnumpy.core.multiarray\n_reconstruct\n", ERR_UNSUP,
	       "asks to run numpy.core.multiarray._reconstruct");
	REFUSE(*state, "U\2osU\6system\x93", ERR_UNSUP, "run os.system");
	REFUSE(*state, "ctorch\nfloat16\n)R", ERR_UNSUP, "run torch.float16");
	REFUSE(*state, "ccollections\nOrderedDict\n)\x81", ERR_UNSUP,
	       "asks to make a collections.OrderedDict");
	REFUSE(*state, "ios\nsystem\n", ERR_UNSUP, "instruction 0x69");
	REFUSE(*state, "K\1K\2", ERR_INPUT, "values are left over");
	REFUSE(*state, "(K\1", ERR_INPUT, "left over");
	REFUSE(*state, "(a", ERR_INPUT, "the stack is empty");
	REFUSE(*state, "(", ERR_INPUT, "the stack is empty");
	REFUSE(*state, "e", ERR_INPUT, "no mark");
	REFUSE(*state, "K\1(K\1K\2u", ERR_INPUT, "no map");
	REFUSE(*state, "}(K\1u", ERR_INPUT, "a key without a value");
	REFUSE(*state, "K\1r\xff\xff\xff\x7f", ERR_INPUT, "out of order");
	REFUSE(*state, "K\1)b", ERR_UNSUP, "state of an integer");
	REFUSE(*state, "K\1Q", ERR_INPUT, "persistent id");
	REFUSE(*state, "\x80\1", ERR_UNSUP, "protocol 1");
}

static void test_refused_views(void **state)
{
	/* 2^31 x 2^31 x 4 elements; strides that overflow; one past the end */
	REFUSE(*state, "}U\1a" TENSOR("K\0\x8a\4\0\0\0\x40\x8a\4\0\0\0\x40"
	       "\x8a\4\0\0\0\x40\x87K\0K\0K\0\x87") "s", ERR_INPUT, "overflow");
	REFUSE(*state, "}U\1a" TENSOR("K\0K\3\x85"
	       "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85") "s", ERR_INPUT,
	       "up to element 18446744073709551614");
	REFUSE(*state, "}U\1a" TENSOR("K\1K\3K\4\x86K\4K\1\x86") "s",
	       ERR_INPUT, "element 12 of a storage of 12");
	REFUSE(*state, "}U\1a" TENSOR("K\0K\2\x85))") "s", ERR_INPUT,
	       "shape and strides");
	REFUSE(*state, "}U\1a" TENSOR("K\0N)") "s", ERR_INPUT,
	       "shape and strides");
}

static void test_legacy_tail(void **state)
{
	static const char object[] = "}U\1a" ONE "s";
	const char *path = legacy(*state, object, sizeof(object) - 1, 12);
	struct opened o;
	struct err err;
	FILE *f = fopen(path, "ab");

	assert_non_null(f);
	assert_int_equal(fputs("tail", f) >= 0, 1);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(try_open(path, 0, &o, &err), -1);
	HAS(err, "4 bytes behind the last storage");
	assert_int_equal(try_open(path, ST_LENIENT, &o, &err), 0);
	assert_int_equal(o.f.odd, ST_ODD_TRAILING);
	close_both(&o);
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
		IN(test_hostile),
		cmocka_unit_test(test_hostile_all_named),
		IN(test_views),
		IN(test_many_dimensions),
		IN(test_wrappers),
		IN(test_wrappers_refused),
		IN(test_refused_objects),
		IN(test_refused_views),
		IN(test_legacy_tail),
		IN(test_damage),
		IN(test_directory),
		IN(test_single_file),
		cmocka_unit_test(test_doctor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
