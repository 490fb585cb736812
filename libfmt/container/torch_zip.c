/* torch_zip.c - the container of torch 1.6 and later: a zip archive of stored
 * entries under one prefix, P/data.pkl and P/data/KEY for each storage.
 *
 * The central directory counts; of local headers only the lengths are used, as
 * writers leave their sizes empty.  No entry is ever unpacked to a path.
 * Sources: APPNOTE.TXT of PKWARE, 4.3 to 4.5; gptq-formats(5)
 * "PyTorch files". */
#include "torch.h"
#include "torch_pickle.h"

#include "../base/err.h"
#include "../base/half.h"
#include "../base/io.h"
#include "../base/mem.h"

#include <stdlib.h>
#include <string.h>

#define END_SIZE 22u       /* end of central directory, without comment */
#define LOCATOR_SIZE 20u   /* ZIP64 */
#define END64_SIZE 56u
#define CENTRAL_SIZE 46u
#define LOCAL_SIZE 30u
#define COMMENT_MAX 65535u
#define NAME_LIMIT 1024u   /* of an entry; the data.pkl of a path's stem */

struct entry {
	const char *name;  /* in the file, no NUL behind it */
	uint32_t name_len;
	uint16_t method;
	uint16_t flags;
	uint32_t crc;      /* of the unpacked bytes; 0: not given */
	uint64_t packed, size;
	uint64_t local;    /* of the local header */
	uint64_t data;     /* of the bytes */
	const uint8_t *mem; /* ... or inflated; NULL: stored */
};

struct zip {
	const uint8_t *p;  /* the whole file */
	uint64_t size;
	uint64_t dir, dir_size; /* central directory */
	struct entry *entry; /* sorted by name */
	uint64_t count;
	size_t prefix;     /* bytes of "P/" */
	void *inflated;    /* memory of the entries that were compressed */
};

static int damaged(const char *what, struct err *err)
{
	return err_set(err, ERR_INPUT, "damaged zip archive: %s", what);
}

/* ---- the end records ---- */

/* Where the end record is; the comment behind it reaches the file's end. */
static int find_end(const struct zip *z, uint64_t *at, struct err *err)
{
	uint64_t least = z->size > END_SIZE + COMMENT_MAX ?
			 z->size - END_SIZE - COMMENT_MAX : 0;

	if (z->size >= END_SIZE)
		for (uint64_t i = z->size - END_SIZE + 1; i-- > least;)
			if (!memcmp(z->p + i, "PK\5\6", 4) &&
			    half_le16(z->p + i + 20) ==
			    z->size - END_SIZE - i) {
				*at = i;
				return 0;
			}
	return damaged("no end record (the file is cut short)", err);
}

/* A field of the end record, unless it only says "see the ZIP64 record",
 * agrees with that record. */
static int agrees(uint64_t small, uint64_t mask, uint64_t large)
{
	return small == mask || small == large;
}

/* The ZIP64 record in front of the end record, where there is one. */
static int read_end64(struct zip *z, uint64_t *end, struct err *err)
{
	const uint8_t *e = z->p + *end, *l, *r;
	uint64_t at;

	if (*end < LOCATOR_SIZE + END64_SIZE)
		return 0;
	l = e - LOCATOR_SIZE;
	if (memcmp(l, "PK\6\7", 4))
		return 0;
	at = half_le64(l + 8);
	if (at > *end - LOCATOR_SIZE - END64_SIZE)
		return damaged("the ZIP64 locator leads out of the file", err);
	r = z->p + at;
	if (memcmp(r, "PK\6\6", 4) || half_le32(r + 16) || half_le32(r + 20) ||
	    half_le64(r + 24) != half_le64(r + 32))
		return damaged("no ZIP64 end record", err);
	z->count = half_le64(r + 32);
	z->dir_size = half_le64(r + 40);
	z->dir = half_le64(r + 48);
	if (!agrees(half_le16(e + 10), UINT16_MAX, z->count) ||
	    !agrees(half_le32(e + 12), UINT32_MAX, z->dir_size) ||
	    !agrees(half_le32(e + 16), UINT32_MAX, z->dir))
		return damaged("the two end records contradict each other",
			       err);
	*end = at;
	return 0;
}

static int read_end(struct zip *z, struct err *err)
{
	const uint8_t *e;
	uint64_t end = 0;

	if (find_end(z, &end, err))
		return -1;
	e = z->p + end;
	if (half_le16(e + 4) || half_le16(e + 6) ||
	    half_le16(e + 8) != half_le16(e + 10))
		return err_set(err, ERR_UNSUP, "a zip archive of several "
			       "parts");
	z->count = half_le16(e + 10);
	z->dir_size = half_le32(e + 12);
	z->dir = half_le32(e + 16);
	if (read_end64(z, &end, err))
		return -1;
	if (z->dir > end || z->dir_size > end - z->dir)
		return damaged("the directory leads out of the file", err);
	if (z->count > z->dir_size / CENTRAL_SIZE)
		return damaged("more entries than the directory has room for",
			       err);
	return 0;
}

/* ---- entries ---- */

/* Sizes and offsets of 4 GiB and more are in extra field 1, those that the
 * header leaves at 2^32 - 1, in this order. */
static int read_extra(const uint8_t *p, size_t n, struct entry *e,
		      struct err *err)
{
	uint64_t *const field[] = { &e->size, &e->packed, &e->local };

	while (n >= 4) {
		size_t len = half_le16(p + 2), at = 0;

		if (len > n - 4)
			break;
		for (int i = 0; half_le16(p) == 1 && i < 3; i++) {
			if (*field[i] != UINT32_MAX)
				continue;
			if (len - at < 8)
				return damaged("a ZIP64 field is too short",
					       err);
			*field[i] = half_le64(p + 4 + at);
			at += 8;
		}
		p += 4 + len;
		n -= 4 + len;
	}
	return 0;
}

/* The bytes lie between the local header and the central directory. */
static int find_data(const struct zip *z, struct entry *e, struct err *err)
{
	const uint8_t *l;
	uint64_t head;

	if (z->dir < LOCAL_SIZE || e->local > z->dir - LOCAL_SIZE)
		return damaged("an entry lies outside of the file", err);
	l = z->p + e->local;
	head = LOCAL_SIZE + (uint64_t)half_le16(l + 26) + half_le16(l + 28);
	if (memcmp(l, "PK\3\4", 4) || head > z->dir - e->local ||
	    half_le16(l + 8) != e->method || half_le16(l + 26) != e->name_len ||
	    memcmp(l + LOCAL_SIZE, e->name, e->name_len))
		return damaged("an entry has no header of its own", err);
	e->data = e->local + head;
	if (e->packed > z->dir - e->data)
		return damaged("an entry is larger than the file", err);
	return 0;
}

/* One prefix for all, and no way out of it. */
static int check_name(const struct zip *z, const struct entry *e,
		      struct err *err)
{
	const struct entry *first = z->entry;
	const char *p = e->name, *end = e->name + e->name_len;

	if (!e->name_len || e->name_len > NAME_LIMIT ||
	    memchr(e->name, 0, e->name_len) || *e->name == '/' ||
	    memchr(e->name, '\\', e->name_len))
		return damaged("refused entry name", err);
	while (p < end) {
		const char *slash = memchr(p, '/', (size_t)(end - p));
		size_t n = (size_t)((slash ? slash : end) - p);

		if (n == 2 && !memcmp(p, "..", 2))
			return damaged("refused entry name (it leads out of "
				       "the archive)", err);
		p += n + 1;
	}
	if (e->name_len < z->prefix ||
	    memcmp(e->name, first->name, z->prefix))
		return damaged("entries under more than one name", err);
	return 0;
}

static int read_entry(struct zip *z, uint64_t i, uint64_t *at,
		      struct err *err)
{
	const uint8_t *c = z->p + z->dir + *at, *slash;
	uint64_t left = z->dir_size - *at, n, x, len;
	struct entry *e = &z->entry[i];

	if (left < CENTRAL_SIZE || memcmp(c, "PK\1\2", 4))
		return damaged("the directory ends early", err);
	n = half_le16(c + 28);
	x = half_le16(c + 30);
	len = CENTRAL_SIZE + n + x + half_le16(c + 32);
	if (len > left)
		return damaged("the directory ends early", err);
	*e = (struct entry){
		.name = (const char *)c + CENTRAL_SIZE,
		.name_len = (uint32_t)n,
		.flags = half_le16(c + 8),
		.method = half_le16(c + 10),
		.crc = half_le32(c + 16),
		.packed = half_le32(c + 20),
		.size = half_le32(c + 24),
		.local = half_le32(c + 42),
	};
	if (!i) {
		slash = memchr(e->name, '/', e->name_len);
		if (!slash)
			return damaged("an entry without a folder", err);
		z->prefix = (size_t)(slash - (const uint8_t *)e->name) + 1;
	}
	*at += len;
	return read_extra(c + CENTRAL_SIZE + n, (size_t)x, e, err) ||
	       check_name(z, e, err) || find_data(z, e, err) ? -1 : 0;
}

static int by_place(const void *pa, const void *pb)
{
	const struct entry *a = pa, *b = pb;

	return a->local < b->local ? -1 : a->local > b->local;
}

static int compare(const char *a, size_t na, const char *b, size_t nb)
{
	int c = memcmp(a, b, na < nb ? na : nb);

	return c ? c : na < nb ? -1 : na > nb;
}

static int by_name(const void *pa, const void *pb)
{
	const struct entry *a = pa, *b = pb;

	return compare(a->name, a->name_len, b->name, b->name_len);
}

static int read_entries(struct zip *z, struct err *err)
{
	uint64_t at = 0;
	size_t n = (size_t)z->count;

	if (!n)
		return damaged("it is empty", err);
	z->entry = mem_alloc(n, sizeof(*z->entry), err);
	if (!z->entry)
		return -1;
	for (uint64_t i = 0; i < n; i++)
		if (read_entry(z, i, &at, err))
			return -1;
	qsort(z->entry, n, sizeof(*z->entry), by_place);
	for (size_t i = 1; i < n; i++)
		if (z->entry[i].local <
		    z->entry[i - 1].data + z->entry[i - 1].packed)
			return damaged("entries overlap", err);
	qsort(z->entry, n, sizeof(*z->entry), by_name);
	for (size_t i = 1; i < n; i++)
		if (!by_name(&z->entry[i - 1], &z->entry[i]))
			return err_set(err, ERR_INPUT, "damaged zip archive: "
				       "two entries are called %.*s",
				       (int)z->entry[i].name_len,
				       z->entry[i].name);
	return 0;
}

/* "P/" + dir + key, or NULL. */
static const struct entry *find(const struct zip *z, const char *dir,
				const char *key, size_t key_len)
{
	char name[NAME_LIMIT + 16 + TORCH_KEY_MAX];
	size_t n = z->prefix, d = strlen(dir);
	struct entry want = { .name = name };

	memcpy(name, z->entry->name, n);
	memcpy(name + n, dir, d);
	memcpy(name + n + d, key, key_len);
	want.name_len = (uint32_t)(n + d + key_len);
	return bsearch(&want, z->entry, (size_t)z->count, sizeof(want),
		       by_name);
}

static const struct entry *find_file(const struct zip *z, const char *name)
{
	return find(z, "", name, strlen(name));
}

/* ---- compressed entries ---- */

#define STORED 0
#define DEFLATED 8
/* Weights hardly become smaller; an archive that promises more than this is
 * refused before memory is taken. */
#define INFLATE_FACTOR 16u
#define INFLATE_FREE ((uint64_t)1 << 20)
#define ALIGN 64u

/* Can the bytes of an entry be had, and as many as it says? */
static int check_entry(const struct entry *e, struct err *err)
{
	if (e->flags & 1)
		return err_set(err, ERR_UNSUP, "%.*s is encrypted",
			       (int)e->name_len, e->name);
	if (e->method != STORED && e->method != DEFLATED)
		return err_set(err, ERR_UNSUP, "%.*s is compressed by method "
			       "%u (0 and 8 are read)", (int)e->name_len,
			       e->name, e->method);
	if (e->method == STORED && e->packed != e->size)
		return err_set(err, ERR_INPUT, "damaged zip archive: %.*s has "
			       "two sizes", (int)e->name_len, e->name);
	return 0;
}

/* What they all take, rounded up; entries that nobody asks for too. */
static int inflated_size(const struct zip *z, uint64_t *sum, struct err *err)
{
	uint64_t most = z->size < UINT64_MAX / INFLATE_FACTOR / 2 ?
				INFLATE_FACTOR * z->size + INFLATE_FREE :
				z->size;

	*sum = 0;
	for (uint64_t i = 0; i < z->count; i++) {
		const struct entry *e = &z->entry[i];

		if (check_entry(e, err))
			return -1;
		if (e->method == STORED)
			continue;
		if (e->size > most - *sum || most - *sum - e->size < ALIGN)
			return err_set(err, ERR_UNSUP, "%.*s: %llu bytes are "
				       "too many to unpack from a file of %llu",
				       (int)e->name_len, e->name,
				       (unsigned long long)e->size,
				       (unsigned long long)z->size);
		*sum += (e->size + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
	}
	return 0;
}

static int inflate_entries(struct zip *z, struct err *err)
{
	uint64_t sum;
	uint8_t *at;

	if (inflated_size(z, &sum, err))
		return -1;
	if (!sum)
		return 0;
	z->inflated = at = mem_alloc((size_t)sum, 1, err);
	if (!at)
		return -1;
	for (uint64_t i = 0; i < z->count; i++) {
		struct entry *e = &z->entry[i];

		if (e->method == STORED)
			continue;
		if (io_inflate(z->p + e->data, e->packed, at, e->size, err))
			return err_ctx(err, "%.*s", (int)e->name_len, e->name);
		e->mem = at;
		at += (e->size + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
	}
	return 0;
}

static const uint8_t *bytes_of(const struct zip *z, const struct entry *e)
{
	return e->mem ? e->mem : z->p + e->data;
}

/* ---- torch's entries ---- */

static int check_kind(const struct zip *z, struct err *err)
{
	const struct entry *e;

	for (uint64_t i = 0; i < z->count; i++) {
		const char *name = z->entry[i].name + z->prefix;
		size_t n = z->entry[i].name_len - z->prefix;

		if ((n > 5 && !memcmp(name, "code/", 5)) ||
		    (n == 13 && !memcmp(name, "constants.pkl", n)) ||
		    (n == 10 && !memcmp(name, "model.json", n)))
			return err_set(err, ERR_UNSUP, "a TorchScript program, "
				       "not a state dict");
	}
	if (!find_file(z, "data.pkl"))
		return err_set(err, ERR_INPUT, "a zip archive without "
			       "data.pkl: not a PyTorch file");
	e = find_file(z, "byteorder");
	if (!e)
		return 0;
	if (e->size < 6 || memcmp(bytes_of(z, e), "little", 6))
		return err_set(err, ERR_UNSUP, "the data is big endian");
	return 0;
}

/* Every storage is an entry of just its size. */
static int place_storages(const struct zip *z, struct torch_pickle *k,
			  struct err *err)
{
	for (size_t i = 0; i < k->storage_count; i++) {
		struct torch_storage *s = &k->storage[i];
		const struct entry *e = find(z, "data/", s->key, s->key_len);
		uint64_t bytes = s->numel * (tensor_dtype_bits(s->type) / 8);

		if (!e)
			return err_set(err, ERR_INPUT, "storage %.*s is not in "
				       "the archive", (int)s->key_len, s->key);
		if (e->size != bytes)
			return err_set(err, ERR_INPUT, "storage %.*s should "
				       "have %llu bytes and has %llu",
				       (int)s->key_len, s->key,
				       (unsigned long long)bytes,
				       (unsigned long long)e->size);
		s->at = e->mem ? 0 : e->data;
		s->mem = e->mem;
	}
	return 0;
}

static int read_pickle(const struct zip *z, struct torch_pickle *k,
		       struct err *err)
{
	const struct entry *e = find_file(z, "data.pkl");

	if (torch_pickle_run(k, bytes_of(z, e), e->size, err))
		return err_ctx(err, "data.pkl");
	return place_storages(z, k, err);
}

static int open_zip(struct src *s, struct zip *z, struct err *err)
{
	const void *p;

	z->size = io_size(s);
	if (io_view(s, 0, z->size, &p, err))
		return -1;
	z->p = p;
	return read_end(z, err) || read_entries(z, err) ||
	       inflate_entries(z, err) ? -1 : 0;
}

int torch_zip_open(struct src *s, struct torch_file *out, struct err *err)
{
	struct torch_pickle k = { .p = NULL };
	struct zip z = { .p = NULL };
	int ret = -1;

	memset(out, 0, sizeof(*out));
	if (open_zip(s, &z, err) || check_kind(&z, err) ||
	    read_pickle(&z, &k, err) || torch_state_read(&k, s, out, err))
		goto out;
	out->inflated = z.inflated;
	z.inflated = NULL;
	ret = 0;
out:
	torch_pickle_release(&k);
	free(z.entry);
	free(z.inflated);
	if (ret)
		torch_close(out);
	return ret;
}

/* ---- checksums ---- */

#define PIECE ((uint64_t)4 << 20)

struct summing {
	const struct zip *z;
	struct src *src;
	const struct progress *progress;
	uint64_t done, total;
};

static int check_sum(struct summing *s, const struct entry *e, struct err *err)
{
	const uint8_t *bytes = bytes_of(s->z, e);
	uint32_t crc = 0;

	for (uint64_t at = 0, n; at < e->size; at += n) {
		n = e->size - at < PIECE ? e->size - at : PIECE;
		crc = io_crc32(crc, bytes + at, (size_t)n);
		if (!e->mem)
			io_forget(s->src, e->data + at, n);
		s->done += n;
		if (prog_step(s->progress, "checksums", s->done, s->total,
			      err))
			return -1;
	}
	if (crc != e->crc && e->crc)
		return err_set(err, ERR_CHECK, "%.*s: its bytes are not those "
			       "that were packed (checksum %08x, expected "
			       "%08x)", (int)e->name_len, e->name, crc, e->crc);
	return 0;
}

int torch_zip_verify(struct src *src, const struct progress *p,
		     struct err *err)
{
	struct zip z = { .p = NULL };
	struct summing s = { .z = &z, .src = src, .progress = p };
	int ret = open_zip(src, &z, err);

	for (uint64_t i = 0; !ret && i < z.count; i++)
		s.total += z.entry[i].size;
	for (uint64_t i = 0; !ret && i < z.count; i++)
		ret = check_sum(&s, &z.entry[i], err);
	free(z.entry);
	free(z.inflated);
	return ret;
}
