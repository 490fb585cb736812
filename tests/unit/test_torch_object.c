/* What a pickle may hold, in files put together here: views, wrappers, numbers
 * and objects that the collected files do not have. */
#include "pickle.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

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

/* A storage that is a window of another, as torch before 0.4 wrote views. */
#define WINDOW(view, shape)                                                \
	"ctorch._utils\n_rebuild_tensor_v2\n("                             \
	"(U\7storagectorch\nFloatStorage\nU\0010U\3cpuK\014" view "tQ"      \
	shape "\x89}tR"

static void test_windows(void **state)
{
	struct opened o;

	OPEN(*state, "}(U\1a" WINDOW("(U\1vK\4K\6t", "K\1K\3\x85K\2\x85")
	     "U\1b" TENSOR("K\0K\2\x85K\1\x85") "u", &o);
	values(find(&o.f, "a"), (const float[]){ 5, 7, 9 }, 3);
	values(find(&o.f, "b"), (const float[]){ 0, 1 }, 2);
	close_both(&o);
	REFUSE(*state, "}U\1a" WINDOW("(U\1vK\4K\6t", "K\1K\3\x85K\3\x85") "s",
	       ERR_INPUT, "element 7 of a storage of 6");
	REFUSE(*state, "}U\1a" WINDOW("(U\1vK\12K\6t", "K\0K\1\x85K\1\x85")
	       "s", ERR_INPUT, "view reaches past its end");
	REFUSE(*state, "}U\1a" WINDOW("K\1", "K\0K\1\x85K\1\x85") "s",
	       ERR_INPUT, "view is an integer");
}

/* Two tensors of one storage are two tensors; an empty one has none. */
static void test_shared_and_empty_storages(void **state)
{
#define EMPTY "ctorch._utils\n_rebuild_tensor_v2\n("                       \
	"(U\7storagectorch\nFloatStorage\nU\0010U\3cpuK\0NtQ"              \
	"K\0K\0\x85K\1\x85\x89}tR"
	static const char empty[] = "}U\1e" EMPTY "s";
	struct opened o;

	OPEN(*state, "}(U\5embed" ONE "U\4head" ONE "u", &o);
	assert_int_equal(o.f.count, 2);
	values(find(&o.f, "embed"), (const float[]){ 0, 1 }, 2);
	values(find(&o.f, "head"), (const float[]){ 0, 1 }, 2);
	assert_ptr_equal(find(&o.f, "embed")->data, find(&o.f, "head")->data);
	close_both(&o);
	open_ok(legacy(*state, empty, sizeof(empty) - 1, 0), &o);
	values(find(&o.f, "e"), NULL, 0);
	close_both(&o);
}

static void test_parameters(void **state)
{
	struct opened o;

	OPEN(*state, "}(U\1a"
	     "ctorch._utils\n_rebuild_parameter\n(" ONE "\x88}tR"
	     "U\1b"
	     "ctorch._utils\n_rebuild_parameter_with_state\n("
	     ONE "\x88}}U\1xK\1stRu", &o);
	assert_int_equal(o.f.count, 2);
	values(find(&o.f, "a"), (const float[]){ 0, 1 }, 2);
	values(find(&o.f, "b"), (const float[]){ 0, 1 }, 2);
	close_both(&o);
	REFUSE(*state, "}U\1a" "ctorch._utils\n_rebuild_parameter\n(K\1\x88}tR"
	       "s", ERR_INPUT, "a parameter is an integer");
}

/* Containers may hold themselves: they are not walked. */
static void test_cycles(void **state)
{
	struct opened o;

	OPEN(*state, "}(U\1a" ONE "U\1l]q\0h\0aU\1m}q\1U\1xh\1su", &o);
	assert_int_equal(o.f.count, 1);
	close_both(&o);
	REFUSE(*state, "}q\0(U\12state_dicth\0U\1l]" ONE "au", ERR_INPUT,
	       "no tensors found");
	REFUSE(*state, "}q\0(U\1a" ONE "U\4selfh\0u", ERR_UNSUP,
	       "self: a map of tensors among tensors");
	REFUSE(*state, "]q\0(h\0" ONE "e", ERR_INPUT, "holds a list");
}

/* A million tuples, each in the next. */
static void test_deep_tuples(void **state)
{
	static const char head[] = "}(U\1a" ONE "U\1t)", one[] = ONE;
	enum { DEEP = 1000000 };
	size_t n = sizeof(head) - 1;
	char *object = malloc(n + DEEP + 1);
	struct opened o;

	assert_non_null(object);
	memcpy(object, head, n);
	memset(object + n, 0x85, DEEP);
	object[n + DEEP] = 'u';
	open_object(*state, object, n + DEEP + 1, &o);
	assert_int_equal(o.f.count, 1);
	close_both(&o);
	n = sizeof(one) - 1; /* and nothing else */
	memcpy(object, one, n);
	memset(object + n, 0x85, DEEP);
	refuse_object(*state, object, n + DEEP, ERR_INPUT, "holds a tuple");
	free(object);
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

/* Pages of the file that somebody has looked at. */
static size_t pages_seen(const char *path, uint64_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), n = 0;
	size_t count = (size_t)size / page;
	unsigned char *seen = malloc(count);
	int fd = open(path, O_RDONLY);
	void *map = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);

	assert_true(map != MAP_FAILED && seen);
	assert_int_equal(mincore(map, count * page, seen), 0);
	for (size_t i = 0; i < count; i++)
		n += seen[i] & 1;
	munmap(map, size);
	close(fd);
	free(seen);
	return n;
}

/* A storage of 4 GiB, all of it a hole: the list of tensors does not take a
 * look at it. */
static void test_large(void **state)
{
#define MANY "J\0\0\0\x40" /* 2^30 */
	static const char object[] = "}U\1a"
		"ctorch._utils\n_rebuild_tensor_v2\n((U\7storagectorch\n"
		"FloatStorage\nU\0010U\3cpu" MANY "NtQK\0" MANY "\x85K\1\x85"
		"\x89}tRs";
	const char *path = legacy(*state, object, sizeof(object) - 1, 0);
	const uint64_t bytes = 4ull << 30;
	unsigned char word[8];
	struct opened o;
	struct stat sb;
	FILE *f = fopen(path, "r+b");

	assert_non_null(f);
	assert_int_equal(fseek(f, -8, SEEK_END), 0);
	half_put64(word, bytes / 4);
	assert_int_equal(fwrite(word, 8, 1, f), 1);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(stat(path, &sb), 0);
	assert_int_equal(truncate(path, sb.st_size + (off_t)bytes), 0);
	open_ok(path, &o);
	assert_int_equal(o.f.count, 1);
	assert_int_equal(o.f.tensor[0].size, bytes);
	assert_true(pages_seen(path, bytes) < 64);
	close_both(&o);
}

/* Sizes and offsets that take 33 bits, which pickle writes in another way. */
static void test_long_numbers(void **state)
{
#define LONG(last) "\x8a\5" last "\0\0\0\1" /* 2^32 + last */
	static const char object[] = "}U\1a"
		"ctorch._utils\n_rebuild_tensor_v2\n((U\7storagectorch\n"
		"ByteStorage\nU\0010U\3cpu" LONG("\2") "NtQ"
		LONG("\0") "K\2\x85K\1\x85\x89}tRs";
	const char *path = legacy(*state, object, sizeof(object) - 1, 0);
	unsigned char word[8];
	struct opened o;
	struct stat sb;
	FILE *f = fopen(path, "r+b");
	float v[2];

	assert_non_null(f);
	assert_int_equal(fseek(f, -8, SEEK_END), 0);
	half_put64(word, (UINT64_C(1) << 32) + 2);
	assert_int_equal(fwrite(word, 8, 1, f), 1);
	assert_int_equal(fflush(f), 0);
	assert_int_equal(fstat(fileno(f), &sb), 0);
	assert_int_equal(fseeko(f, sb.st_size + ((off_t)1 << 32), SEEK_SET),
			 0);
	assert_int_equal(fwrite("\7\11", 2, 1, f), 1);
	assert_int_equal(fclose(f), 0);
	open_ok(path, &o);
	assert_int_equal(o.f.count, 1);
	assert_int_equal(o.f.tensor[0].size, 2);
	assert_int_equal(tensor_load_f32(o.f.tensor, 0, 2, v), 0);
	assert_true(v[0] == 7 && v[1] == 9);
	close_both(&o);
}

#define IN(f) cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN(test_views),
		IN(test_many_dimensions),
		IN(test_wrappers),
		IN(test_wrappers_refused),
		IN(test_refused_objects),
		IN(test_refused_views),
		IN(test_windows),
		IN(test_shared_and_empty_storages),
		IN(test_parameters),
		IN(test_cycles),
		IN(test_deep_tuples),
		IN(test_long_numbers),
		IN(test_legacy_tail),
		IN(test_large),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
