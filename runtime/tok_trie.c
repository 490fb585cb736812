/* Literals in a trie: which is the longest one at a place of the text.
 * Edges are one hash table; the edges of the root are direct, so that a text
 * without any of the literals costs one look per byte. */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <stdlib.h>
#include <string.h>

int tok_trie_init(struct tok_trie *t, struct err *err)
{
	for (unsigned i = 0; i < 256; i++)
		t->root[i] = TOK_NONE;
	t->edge = mem_alloc(64, sizeof(*t->edge), err);
	t->mask = 63;
	return t->edge ? 0 : -1;
}

static size_t start(const struct tok_trie *t, uint32_t key)
{
	return (size_t)((key * 0x9e3779b97f4a7c15u) >> 32) & t->mask;
}

static uint32_t child(const struct tok_trie *t, uint32_t node, uint8_t byte)
{
	uint32_t key = node << 8 | byte;
	uint64_t e;

	/* child 0 is never used, so that an edge is never 0 */
	for (size_t i = start(t, key); (e = t->edge[i]) != 0;
	     i = (i + 1) & t->mask)
		if (e >> 32 == key)
			return (uint32_t)e;
	return TOK_NONE;
}

static void put(struct tok_trie *t, uint64_t edge)
{
	size_t i = start(t, (uint32_t)(edge >> 32));

	while (t->edge[i])
		i = (i + 1) & t->mask;
	t->edge[i] = edge;
}

static int grow(struct tok_trie *t, struct err *err)
{
	struct tok_trie big = *t;

	big.mask = t->mask * 2 + 1;
	big.edge = mem_alloc(big.mask + 1, sizeof(*big.edge), err);
	if (!big.edge)
		return -1;
	for (size_t i = 0; i <= t->mask; i++)
		if (t->edge[i])
			put(&big, t->edge[i]);
	free(t->edge);
	*t = big;
	return 0;
}

/* A new node below `node` (TOK_NONE: the root). */
static int branch(struct tok_trie *t, uint32_t node, uint8_t byte,
		  uint32_t *out, struct err *err)
{
	if (t->n == 0 && tok_list_add(&t->value, &t->n, &t->cap, TOK_NONE, err))
		return -1; /* node 0 stays unused */
	if (t->n >= TOK_ID_MAX)
		return err_set(err, ERR_INPUT,
			       "more than %u bytes of added tokens",
			       TOK_ID_MAX);
	*out = (uint32_t)t->n;
	if (tok_list_add(&t->value, &t->n, &t->cap, TOK_NONE, err))
		return -1;
	if (node == TOK_NONE) {
		t->root[byte] = *out;
		return 0;
	}
	if (++t->edges > t->mask / 2 && grow(t, err))
		return -1;
	put(t, (uint64_t)(node << 8 | byte) << 32 | *out);
	return 0;
}

int tok_trie_add(struct tok_trie *t, const char *s, size_t n, uint32_t value,
		 struct err *err)
{
	uint32_t node = TOK_NONE, next;

	for (size_t i = 0; i < n; i++) {
		uint8_t c = (uint8_t)s[i];

		next = i ? child(t, node, c) : t->root[c];
		if (next == TOK_NONE && branch(t, node, c, &next, err))
			return -1;
		node = next;
	}
	if (n && t->value[node] == TOK_NONE)
		t->value[node] = value;
	return 0;
}

size_t tok_trie_find(const struct tok_trie *t, const char *s, size_t n,
		     uint32_t *value)
{
	uint32_t node = n ? t->root[(uint8_t)s[0]] : TOK_NONE;
	size_t i = 1, best = 0;

	while (node != TOK_NONE) {
		if (t->value[node] != TOK_NONE) {
			best = i;
			*value = t->value[node];
		}
		if (i == n)
			break;
		node = child(t, node, (uint8_t)s[i++]);
	}
	return best;
}

void tok_trie_release(struct tok_trie *t)
{
	free(t->edge);
	free(t->value);
	memset(t, 0, sizeof(*t));
}
