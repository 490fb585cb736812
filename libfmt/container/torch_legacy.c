/* torch_legacy.c - the container before torch 1.6: five pickles (a magic
 * number, a version, the machine, the object, the keys of its storages) and
 * the storages behind, each with its number of elements in front.
 *
 * Source: gptq-formats(5) "PyTorch files". */
#include "torch.h"
#include "torch_pickle.h"

#include "../base/err.h"
#include "../base/half.h"
#include "../base/io.h"
#include "../base/mem.h"
#include "st.h"

#include <stdlib.h>
#include <string.h>

#define VERSION 1001

/* 0x1950a86a20f9469cfc6c, the least significant byte first. */
static const char magic[10] = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

struct legacy {
	const uint8_t *p;
	uint64_t size, at; /* `at`: of the next pickle or storage */
};

static int next_pickle(struct legacy *f, struct torch_pickle *k,
		       struct err *err)
{
	int ret = torch_pickle_run(k, f->p + f->at, f->size - f->at, err);

	f->at += k->at;
	return ret;
}

/* ---- the first three pickles ---- */

static int check_magic(const struct torch_pickle *k, struct err *err)
{
	const struct torch_val *v = &k->val[k->root];

	if (v->kind != TORCH_BIG || v->n != sizeof(magic) ||
	    memcmp(v->u.text, magic, sizeof(magic)))
		return err_set(err, ERR_INPUT, "a pickle, but not one of "
			       "PyTorch (it begins with %s)",
			       torch_kind_name(v));
	return 0;
}

static int check_version(const struct torch_pickle *k, struct err *err)
{
	const struct torch_val *v = &k->val[k->root];

	if (v->kind != TORCH_INT || v->u.i != VERSION)
		return err_set(err, ERR_UNSUP, "a version of the old PyTorch "
			       "container that is not known");
	return 0;
}

static int check_machine(const struct torch_pickle *k, struct err *err)
{
	const struct torch_val *v = &k->val[k->root];
	uint32_t at = v->u.list.first;

	if (v->kind != TORCH_MAP)
		return err_set(err, ERR_INPUT, "the third pickle is %s",
			       torch_kind_name(v));
	for (uint32_t i = v->n; i; i--, at = k->item[at].next) {
		const struct torch_val *val = &k->val[k->item[at].val];

		if (torch_is_text(&k->val[k->item[at].key], "little_endian") &&
		    (val->kind != TORCH_BOOL || !val->u.i))
			return err_set(err, ERR_UNSUP,
				       "the data is big endian");
	}
	return 0;
}

static int read_head(struct legacy *f, struct err *err)
{
	static int (*const check[])(const struct torch_pickle *,
				    struct err *) = {
		check_magic, check_version, check_machine
	};
	int ret = 0;

	for (size_t i = 0; !ret && i < sizeof(check) / sizeof(*check); i++) {
		struct torch_pickle k = { .p = NULL };

		ret = next_pickle(f, &k, err) || check[i](&k, err) ? -1 : 0;
		torch_pickle_release(&k);
	}
	return ret;
}

/* ---- storages ---- */

static int by_key(const void *pa, const void *pb)
{
	const struct torch_storage *a = *(struct torch_storage *const *)pa;
	const struct torch_storage *b = *(struct torch_storage *const *)pb;
	uint32_t n = a->key_len < b->key_len ? a->key_len : b->key_len;
	int c = memcmp(a->key, b->key, n);

	return c ? c : a->key_len < b->key_len ? -1 :
	       a->key_len > b->key_len;
}

/* All that the object says of one storage agrees; *s is the first of its
 * key among `sorted`, *n how many there are. */
static int find_key(struct torch_storage **sorted, size_t count,
		    const struct torch_val *key, size_t *first, size_t *n,
		    struct err *err)
{
	struct torch_storage want = { .key = NULL }, *w = &want, **hit;
	size_t i;

	if (key->kind != TORCH_TEXT)
		return err_set(err, ERR_INPUT, "a storage's key is %s",
			       torch_kind_name(key));
	want.key = key->u.text;
	want.key_len = key->n;
	hit = count ? bsearch(&w, sorted, count, sizeof(*sorted), by_key) :
	      NULL;
	if (!hit)
		return err_set(err, ERR_INPUT, "storage %.*s belongs to no "
			       "tensor, so that its size is not known",
			       (int)(key->n < 64 ? key->n : 64), want.key);
	for (i = (size_t)(hit - sorted); i && !by_key(&sorted[i - 1], &w);)
		i--;
	*first = i;
	for (i++; i < count && !by_key(&sorted[i], &w); i++)
		if (sorted[i]->type != sorted[*first]->type ||
		    sorted[i]->numel != sorted[*first]->numel)
			return err_set(err, ERR_INPUT, "storage %.*s is "
				       "described in two ways",
				       (int)want.key_len, want.key);
	*n = i - *first;
	return 0;
}

/* The count, then the elements. */
static int place_one(struct legacy *f, const struct torch_storage *s,
		     struct err *err)
{
	uint64_t bytes = s->numel * (tensor_dtype_bits(s->type) / 8);
	uint64_t have;

	if (s->at)
		return err_set(err, ERR_INPUT, "storage %.*s is listed twice",
			       (int)s->key_len, s->key);
	if (f->size - f->at < 8)
		return err_set(err, ERR_INPUT, "truncated: storage %.*s is "
			       "missing", (int)s->key_len, s->key);
	have = half_le64(f->p + f->at);
	f->at += 8;
	if (have != s->numel)
		return err_set(err, ERR_INPUT, "storage %.*s should have %llu "
			       "elements and says %lld", (int)s->key_len,
			       s->key, (unsigned long long)s->numel,
			       (long long)have);
	if (bytes > f->size - f->at)
		return err_set(err, ERR_INPUT, "truncated: %llu bytes are "
			       "missing in storage %.*s",
			       (unsigned long long)(bytes - (f->size - f->at)),
			       (int)s->key_len, s->key);
	return 0;
}

static int place_listed(struct legacy *f, const struct torch_pickle *keys,
			struct torch_storage **sorted, size_t count,
			struct err *err)
{
	const struct torch_val *list = &keys->val[keys->root];
	uint32_t at = list->u.list.first;
	size_t first = 0, n = 0;

	if (list->kind != TORCH_LIST)
		return err_set(err, ERR_INPUT, "the list of storages is %s",
			       torch_kind_name(list));
	for (uint32_t i = list->n; i; i--, at = keys->item[at].next) {
		if (find_key(sorted, count, &keys->val[keys->item[at].val],
			     &first, &n, err) ||
		    place_one(f, sorted[first], err))
			return -1;
		for (size_t s = first; s < first + n; s++)
			sorted[s]->at = f->at;
		f->at += sorted[first]->numel *
			 (tensor_dtype_bits(sorted[first]->type) / 8);
	}
	for (size_t i = 0; i < count; i++)
		if (!sorted[i]->at)
			return err_set(err, ERR_INPUT, "storage %.*s is not in "
				       "the file", (int)sorted[i]->key_len,
				       sorted[i]->key);
	return 0;
}

/* The fifth pickle and everything behind it. */
static int place_storages(struct legacy *f, struct torch_pickle *k,
			  struct err *err)
{
	struct torch_pickle keys = { .p = NULL };
	struct torch_storage **sorted;
	int ret = -1;

	sorted = mem_alloc(k->storage_count, sizeof(*sorted), err);
	if (!sorted || next_pickle(f, &keys, err))
		goto out;
	for (size_t i = 0; i < k->storage_count; i++)
		sorted[i] = &k->storage[i];
	qsort(sorted, k->storage_count, sizeof(*sorted), by_key);
	ret = place_listed(f, &keys, sorted, k->storage_count, err);
out:
	torch_pickle_release(&keys);
	free(sorted);
	return ret;
}

int torch_legacy_open(struct src *s, unsigned flags, struct torch_file *out,
		      struct err *err)
{
	struct torch_pickle k = { .p = NULL };
	struct legacy f = { .size = io_size(s) };
	const void *p;
	int ret = -1;

	memset(out, 0, sizeof(*out));
	if (io_view(s, 0, f.size, &p, err))
		goto out;
	f.p = p;
	if (read_head(&f, err) || next_pickle(&f, &k, err) ||
	    place_storages(&f, &k, err))
		goto out;
	if (f.at < f.size && !(flags & ST_LENIENT)) {
		err_set(err, ERR_INPUT, "%llu bytes behind the last storage",
			(unsigned long long)(f.size - f.at));
		goto out;
	}
	if (torch_state_read(&k, s, out, err))
		goto out;
	if (f.at < f.size)
		out->odd = ST_ODD_TRAILING;
	ret = 0;
out:
	torch_pickle_release(&k);
	if (ret)
		torch_close(out);
	return ret;
}
