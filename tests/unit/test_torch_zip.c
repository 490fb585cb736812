/* Zip archives put together here, with what torch's own samples do not have:
 * ZIP64 fields, other methods, flags and entries. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/container/tensor_file.h"
#include "../../libfmt/container/torch.h"
#include "scratch.h"

#define ZLIB_CONST
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <zlib.h>

#include <cmocka.h>

/* {"w": two F32 of storage "0"} */
#define PICKLE                                                          \
	"\x80\2}U\1wctorch._utils\n_rebuild_tensor_v2\n("               \
	"(U\7storagectorch\nFloatStorage\nU\0010U\3cpuK\2tQ"             \
	"K\0K\2\x85K\1\x85\x89}tRs."

struct part {
	const char *name, *data;
	size_t n;
	uint16_t method, flags;
	size_t size; /* unpacked; 0: n */
	uint32_t crc;
};

#define PART(name, data) { name, data, sizeof(data) - 1, 0, 0, 0, 0 }
#define WEIGHTS PART("a/data/0", "\0\0\x80\x3f\0\0\0\x40") /* 1, 2 */

struct made {
	unsigned char p[4096];
	size_t n;
	size_t local[8], dir;
};

/* Room for n bytes of a record, zeroed, that begins with this signature. */
static unsigned char *record(struct made *m, size_t n, const char *magic)
{
	unsigned char *p = m->p + m->n;

	assert_true(n <= sizeof(m->p) - m->n);
	memset(p, 0, n);
	memcpy(p, magic, 4);
	m->n += n;
	return p;
}

static void add(struct made *m, const void *p, size_t n)
{
	assert_true(n <= sizeof(m->p) - m->n);
	memcpy(m->p + m->n, p, n);
	m->n += n;
}

/* As torch does: no sizes in the local header. */
static void add_local(struct made *m, const struct part *e, size_t *at)
{
	unsigned char *p;

	*at = m->n;
	p = record(m, 30, "PK\3\4");
	half_put16(p + 8, e->method);
	half_put16(p + 26, (uint16_t)strlen(e->name));
	half_put16(p + 28, 5); /* padding in the extra field */
	add(m, e->name, strlen(e->name));
	add(m, "FB\1\0Z", 5);
	add(m, e->data, e->n);
}

/* With all three numbers in a ZIP64 field where asked for. */
static void add_central(struct made *m, const struct part *e, size_t at,
			bool wide)
{
	unsigned char *p = record(m, 46, "PK\1\2");

	half_put16(p + 8, e->flags);
	half_put16(p + 10, e->method);
	half_put32(p + 16, e->crc);
	half_put32(p + 20, wide ? UINT32_MAX : (uint32_t)e->n);
	half_put32(p + 24, wide ? UINT32_MAX :
			   (uint32_t)(e->size ? e->size : e->n));
	half_put16(p + 28, (uint16_t)strlen(e->name));
	half_put16(p + 30, wide ? 28 : 0);
	half_put32(p + 42, wide ? UINT32_MAX : (uint32_t)at);
	add(m, e->name, strlen(e->name));
	if (!wide)
		return;
	p = record(m, 28, "\1\0\30\0");
	half_put64(p + 4, e->size ? e->size : e->n);
	half_put64(p + 12, e->n);
	half_put64(p + 20, at);
}

static void add_end(struct made *m, uint16_t count, bool wide)
{
	size_t end = m->n;
	unsigned char *p;

	if (wide) {
		p = record(m, 56, "PK\6\6");
		half_put64(p + 4, 44);
		half_put64(p + 24, count);
		half_put64(p + 32, count);
		half_put64(p + 40, end - m->dir);
		half_put64(p + 48, m->dir);
		p = record(m, 20, "PK\6\7");
		half_put64(p + 8, end);
		half_put32(p + 16, 1);
	}
	p = record(m, 22, "PK\5\6");
	half_put16(p + 8, wide ? UINT16_MAX : count);
	half_put16(p + 10, wide ? UINT16_MAX : count);
	half_put32(p + 12, wide ? UINT32_MAX : (uint32_t)(end - m->dir));
	half_put32(p + 16, wide ? UINT32_MAX : (uint32_t)m->dir);
}

static void make(struct made *m, const struct part *e, uint16_t n, bool wide)
{
	m->n = 0;
	for (uint16_t i = 0; i < n; i++)
		add_local(m, &e[i], &m->local[i]);
	m->dir = m->n;
	for (uint16_t i = 0; i < n; i++)
		add_central(m, &e[i], m->local[i], wide);
	add_end(m, n, wide);
}

static int try_open(struct scratch *s, const struct made *m, struct err *err)
{
	const char *path = scratch_write(s, "a.pt", m->p, m->n);
	struct tensor_file f;
	struct src *src;
	float w[2];
	int ret;

	assert_int_equal(io_open(path, &src, err), 0);
	ret = tensor_file_open(src, 0, &f, err);
	if (!ret) {
		assert_int_equal(f.count, 1);
		assert_int_equal(tensor_load_f32(f.tensor, 0, 2, w), 0);
		assert_true(w[0] == 1.0f && w[1] == 2.0f);
		tensor_file_close(&f);
	}
	io_close(src);
	return ret;
}

static void refused(struct scratch *s, const struct made *m, int code,
		    const char *says)
{
	struct err err;

	if (!try_open(s, m, &err))
		fail_msg("opened, should say \"%s\"", says);
	if (!strstr(err.msg, says))
		fail_msg("\"%s\" does not say \"%s\"", err.msg, says);
	assert_int_equal(err.code, code);
}

static void test_good(void **state)
{
	const struct part e[] = {
		WEIGHTS, PART("a/data.pkl", PICKLE), PART("a/version", "3\n"),
		PART("a/byteorder", "little"),
	};
	struct made m;
	struct err err;

	for (int wide = 0; wide < 2; wide++) {
		make(&m, e, 4, wide);
		if (try_open(*state, &m, &err))
			fail_msg("%s", err.msg);
	}
}

/* The folder is called as whoever wrote it liked, and entries stand in any
 * order; only two of them are needed. */
static void test_names_and_orders(void **state)
{
	static const char *const folder[] = { "archive", "llama 7b 4bit-128g",
		"..x", "a.b", "\xc3\xa9" };
	static const char *const name[] = { "data/0", "data.pkl", "version",
		"byteorder", ".format_version", ".data/serialization_id" };
	static const uint8_t order[][6] = { { 0, 1 }, { 1, 0 },
		{ 1, 4, 3, 0, 2, 5 }, { 5, 2, 3, 4, 0, 1 } };
	static const uint8_t count[] = { 2, 2, 6, 6 };
	const struct part data[] = { WEIGHTS, PART("", PICKLE),
		PART("", "3\n"), PART("", "little"), PART("", "1"),
		PART("", "0123456789012345678901234567890123456789") };
	char full[6][64];
	struct made m;
	struct err err;

	for (size_t f = 0; f < sizeof(folder) / sizeof(*folder); f++)
		for (size_t o = 0; o < 4; o++) {
			struct part e[6];

			for (uint8_t i = 0; i < count[o]; i++) {
				e[i] = data[order[o][i]];
				snprintf(full[i], sizeof(*full), "%s/%s",
					 folder[f], name[order[o][i]]);
				e[i].name = full[i];
			}
			make(&m, e, count[o], false);
			if (try_open(*state, &m, &err))
				fail_msg("%s", err.msg);
		}
}

/* As torch ends every archive: the wide records are there, and the narrow one
 * says all the same. */
static void test_both_ends(void **state)
{
	const struct part e[] = { WEIGHTS, PART("a/data.pkl", PICKLE) };
	unsigned char narrow[22];
	struct made m;
	struct err err;

	make(&m, e, 2, false);
	m.n -= sizeof(narrow);
	memcpy(narrow, m.p + m.n, sizeof(narrow));
	add_end(&m, 2, true);
	memcpy(m.p + m.n - sizeof(narrow), narrow, sizeof(narrow));
	if (try_open(*state, &m, &err))
		fail_msg("%s", err.msg);
}

static void test_wide_damage(void **state)
{
	const struct part e[] = { WEIGHTS, PART("a/data.pkl", PICKLE) };
	struct made m;

	make(&m, e, 2, true);
	m.p[m.n - 22 - 20 + 8 + 7] = 0x7f; /* the locator's offset */
	refused(*state, &m, ERR_INPUT, "leads out of the file");
	make(&m, e, 2, true);
	half_put64(m.p + m.n - 22 - 20 - 56 + 48, UINT64_MAX - 10);
	refused(*state, &m, ERR_INPUT, "leads out of the file");
	make(&m, e, 2, true);
	half_put32(m.p + m.n - 22 + 16, 1); /* another directory */
	refused(*state, &m, ERR_INPUT, "contradict");
	make(&m, e, 2, true);
	half_put64(m.p + m.dir + 46 + 8 + 4, UINT64_MAX); /* size */
	half_put64(m.p + m.dir + 46 + 8 + 12, UINT64_MAX);
	refused(*state, &m, ERR_INPUT, "larger than the file");
	make(&m, e, 2, true);
	m.p[m.dir + 46 + 8 + 2] = 8; /* the field holds one number only */
	refused(*state, &m, ERR_INPUT, "ZIP64 field is too short");
	make(&m, e, 2, false);
	half_put32(m.p + m.dir + 46 + 8 + 42, 0); /* both at one place */
	refused(*state, &m, ERR_INPUT, "no header of its own");
}

static void test_refused(void **state)
{
	static const struct {
		struct part e[3];
		uint16_t n;
		int code;
		const char *says;
	} row[] = {
		{ { WEIGHTS }, 1, ERR_INPUT, "without data.pkl" },
		{ { WEIGHTS, { "a/data.pkl", PICKLE, sizeof(PICKLE) - 1, 12,
		    0, 0, 0 } }, 2, ERR_UNSUP,
		  "a/data.pkl is compressed by method 12" },
		{ { WEIGHTS, { "a/data.pkl", PICKLE, sizeof(PICKLE) - 1, 0,
		    1, 0, 0 } }, 2, ERR_UNSUP, "a/data.pkl is encrypted" },
		{ { WEIGHTS, PART("a/data.pkl", PICKLE),
		    PART("a/byteorder", "big") }, 3, ERR_UNSUP, "big endian" },
		{ { WEIGHTS, PART("a/data.pkl", PICKLE),
		    PART("a/constants.pkl", "") }, 3, ERR_UNSUP,
		  "TorchScript" },
		{ { WEIGHTS, PART("a/data.pkl", PICKLE),
		    PART("a/code/x.py", "") }, 3, ERR_UNSUP, "TorchScript" },
		{ { WEIGHTS, PART("b/data.pkl", PICKLE) }, 2, ERR_INPUT,
		  "more than one name" },
		{ { PART("data.pkl", PICKLE) }, 1, ERR_INPUT,
		  "without a folder" },
		{ { PART("/a/data.pkl", PICKLE) }, 1, ERR_INPUT,
		  "refused entry name" },
		{ { PART("a/data/0", "\0\0\0\0"), PART("a/data.pkl", PICKLE) },
		  2, ERR_INPUT, "should have 8 bytes and has 4" },
	};
	struct made m;

	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		make(&m, row[i].e, row[i].n, false);
		refused(*state, &m, row[i].code, row[i].says);
	}
}

/* The entry as an archiver packs it again. */
static struct part deflated(const struct part *e, unsigned char *to)
{
	struct part d = *e;
	z_stream z = { .avail_in = (unsigned)e->n, .next_out = to,
		       .avail_out = 1024 };

	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, -MAX_WBITS, 8,
				      Z_DEFAULT_STRATEGY), Z_OK);
	z.next_in = (const unsigned char *)e->data;
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	d.data = (const char *)to;
	d.size = e->n;
	d.n = z.total_out;
	d.method = 8;
	deflateEnd(&z);
	return d;
}

/* Archives that were unpacked and packed again by hand. */
static void test_deflated(void **state)
{
	static unsigned char to[2][1024];
	const struct part plain[] = { WEIGHTS, PART("a/data.pkl", PICKLE) };
	struct part e[2];
	struct made m;
	struct err err;

	for (int which = 1; which < 4; which++)
		for (int wide = 0; wide < 2; wide++) {
			for (int i = 0; i < 2; i++)
				e[i] = which >> i & 1 ?
					       deflated(&plain[i], to[i]) :
					       plain[i];
			make(&m, e, 2, wide);
			if (try_open(*state, &m, &err))
				fail_msg("%s", err.msg);
		}
	/* neither less nor more than it says, and nothing damaged */
	e[1].size++;
	make(&m, e, 2, false);
	refused(*state, &m, ERR_INPUT, "a/data.pkl: damaged compressed data");
	e[1].size -= 2;
	make(&m, e, 2, false);
	refused(*state, &m, ERR_INPUT, "damaged compressed data");
	e[1].size++;
	e[1].n--;
	make(&m, e, 2, false);
	refused(*state, &m, ERR_INPUT, "damaged compressed data");
	e[1].n++;
	to[1][0] = 0xff;
	make(&m, e, 2, false);
	refused(*state, &m, ERR_INPUT, "damaged compressed data");
}

/* A promise of much memory is refused before any is taken. */
static void test_inflated_sizes(void **state)
{
	static unsigned char to[1024];
	const struct part plain[] = { WEIGHTS, PART("a/data.pkl", PICKLE) };
	struct part e[] = { plain[0], deflated(&plain[1], to) };
	struct made m;

	e[1].size = 2u << 20;
	make(&m, e, 2, false);
	refused(*state, &m, ERR_UNSUP, "too many to unpack");
	e[1].size = SIZE_MAX;
	make(&m, e, 2, true);
	refused(*state, &m, ERR_UNSUP, "too many to unpack");
	e[1].size = SIZE_MAX / 32;
	make(&m, e, 2, true);
	refused(*state, &m, ERR_UNSUP, "too many to unpack");
}

static int verify(struct scratch *s, const struct made *m, struct err *err)
{
	const char *path = scratch_write(s, "a.pt", m->p, m->n);
	struct src *src;
	int ret;

	assert_int_equal(io_open(path, &src, err), 0);
	ret = torch_zip_verify(src, NULL, err);
	io_close(src);
	return ret;
}

/* A sum that is given is that of the bytes, unpacked if they are packed; 0 is
 * none.  Opening does not look: it would read the whole file. */
static void test_checksums(void **state)
{
	static unsigned char to[1024];
	struct part e[] = { WEIGHTS, PART("a/data.pkl", PICKLE) };
	struct made m;
	struct err err;

	for (int packed = 0; packed < 2; packed++) {
		for (int i = 0; i < 2; i++)
			e[i].crc = io_crc32(0, e[i].data, e[i].n);
		assert_int_equal(e[0].crc, 0x2e3fa576);
		if (packed)
			e[1] = deflated(&e[1], to);
		make(&m, e, 2, packed);
		if (try_open(*state, &m, &err) || verify(*state, &m, &err))
			fail_msg("%s", err.msg);
		for (int i = 0; i < 2; i++) {
			e[i].crc ^= 1;
			make(&m, e, 2, packed);
			assert_int_equal(try_open(*state, &m, &err), 0);
			assert_int_equal(verify(*state, &m, &err), -1);
			assert_int_equal(err.code, ERR_CHECK);
			assert_non_null(strstr(err.msg, e[i].name));
			e[i].crc = 0;
		}
		make(&m, e, 2, packed);
		assert_int_equal(verify(*state, &m, &err), 0);
	}
}

#define IN(f) cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN(test_good),
		IN(test_names_and_orders),
		IN(test_both_ends),
		IN(test_wide_damage),
		IN(test_refused),
		IN(test_deflated),
		IN(test_inflated_sizes),
		IN(test_checksums),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
