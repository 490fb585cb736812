/* Pieces by id and ids by text. */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <stdlib.h>
#include <string.h>

int tok_buf_room(struct tok_buf *b, size_t more, struct err *err)
{
	void *p = b->p;

	if (more <= b->cap - b->len)
		return 0;
	if (more > TOK_BUF_MAX - b->len) /* so that u32 lengths hold */
		return err_set(err, ERR_RESOURCE,
			       "the text grows beyond 4 GiB");
	if (mem_grow(&p, &b->cap, b->len + more, 1, err))
		return -1;
	b->p = p;
	return 0;
}

int tok_buf_add(struct tok_buf *b, const char *s, size_t n, struct err *err)
{
	if (tok_buf_room(b, n, err))
		return -1;
	if (n)
		memcpy(b->p + b->len, s, n);
	b->len += n;
	return 0;
}

void tok_buf_release(struct tok_buf *b)
{
	free(b->p);
	memset(b, 0, sizeof(*b));
}

int tok_list_add(uint32_t **list, size_t *n, size_t *cap, uint32_t id,
		 struct err *err)
{
	void *p = *list;

	if (*n == *cap) {
		if (mem_grow(&p, cap, *n + 1, sizeof(**list), err))
			return -1;
		*list = p;
	}
	(*list)[(*n)++] = id;
	return 0;
}

int tok_dict_put(struct tok_dict *d, uint32_t id, const char *s, size_t n,
		 struct err *err)
{
	struct tok_piece *at;
	void *p = d->piece;

	if (id >= TOK_ID_MAX)
		return err_set(err, ERR_INPUT, "token id %u is above %u", id,
			       TOK_ID_MAX - 1);
	if (n > TOK_PIECE_MAX)
		return err_set(err, ERR_INPUT,
			       "token %u has %zu bytes, the limit is %u", id,
			       n, TOK_PIECE_MAX);
	if (id >= d->n) {
		if (mem_grow(&p, &d->cap, (size_t)id + 1, sizeof(*at), err))
			return -1;
		d->piece = p;
		memset(d->piece + d->n, 0, (id + 1 - d->n) * sizeof(*at));
		d->n = (size_t)id + 1;
	}
	at = &d->piece[id];
	if (d->text.len > UINT32_MAX - n)
		return err_set(err, ERR_INPUT, "more than 4 GiB of tokens");
	at->off = (uint32_t)d->text.len;
	at->len = (uint32_t)n;
	if (at->len > d->longest)
		d->longest = at->len;
	return tok_buf_add(&d->text, s, n, err);
}

const char *tok_dict_text(const struct tok_dict *d, uint32_t id)
{
	return d->text.p ? d->text.p + d->piece[id].off : "";
}

void tok_dict_release(struct tok_dict *d)
{
	tok_buf_release(&d->text);
	free(d->piece);
	memset(d, 0, sizeof(*d));
}

/* Multiply and fold, eight bytes at a time (pieces are short). */
static uint32_t hash(const char *s, size_t n)
{
	uint64_t h = 0x9e3779b97f4a7c15u ^ n, v;

	for (; n >= 8; s += 8, n -= 8) {
		memcpy(&v, s, 8);
		h = (h ^ v) * 0xff51afd7ed558ccdu;
		h ^= h >> 32;
	}
	v = 0;
	for (size_t i = 0; i < n; i++)
		v = v << 8 | (uint8_t)s[i];
	h = (h ^ v) * 0xff51afd7ed558ccdu;
	h ^= h >> 32;
	h *= 0xc4ceb9fe1a85ec53u;
	return (uint32_t)(h >> 32);
}

int tok_index_init(struct tok_index *ix, size_t n, struct err *err)
{
	size_t size = 64;

	while (size / 2 < n)
		size *= 2;
	ix->slot = mem_alloc(size, sizeof(*ix->slot), err);
	if (!ix->slot)
		return -1;
	ix->mask = size - 1;
	ix->n = 0;
	return 0;
}

static void place(struct tok_index *ix, uint64_t entry)
{
	size_t i = (entry >> 32) & ix->mask;

	while (ix->slot[i])
		i = (i + 1) & ix->mask;
	ix->slot[i] = entry;
	ix->n++;
}

static int grow(struct tok_index *ix, struct err *err)
{
	struct tok_index big;

	if (tok_index_init(&big, ix->mask + 1, err))
		return -1;
	for (size_t i = 0; i <= ix->mask; i++)
		if (ix->slot[i])
			place(&big, ix->slot[i]);
	free(ix->slot);
	*ix = big;
	return 0;
}

int tok_index_add(struct tok_index *ix, const struct tok_dict *d, uint32_t id,
		  struct err *err)
{
	const struct tok_piece *p = &d->piece[id];
	const char *s = tok_dict_text(d, id);

	if (tok_index_find(ix, d, s, p->len) != TOK_NONE)
		return 1;
	if (ix->n > ix->mask / 2 && grow(ix, err))
		return -1;
	place(ix, (uint64_t)hash(s, p->len) << 32 | (id + 1));
	return 0;
}

uint32_t tok_index_find(const struct tok_index *ix, const struct tok_dict *d,
			const char *s, size_t n)
{
	uint32_t h = hash(s, n);
	size_t i = h & ix->mask;
	uint64_t e;

	for (; (e = ix->slot[i]) != 0; i = (i + 1) & ix->mask) {
		uint32_t id = (uint32_t)e - 1;

		if (e >> 32 == h && d->piece[id].len == n &&
		    memcmp(d->text.p + d->piece[id].off, s, n) == 0)
			return id;
	}
	return TOK_NONE;
}

void tok_index_release(struct tok_index *ix)
{
	free(ix->slot);
	memset(ix, 0, sizeof(*ix));
}
