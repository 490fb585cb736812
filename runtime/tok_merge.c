/* The merge loop of byte-pair encoding.
 *
 * While two neighbours have a merge, the pair with the lowest rank is joined,
 * of equal ranks the leftmost.  SentencePiece's scores become ranks when its
 * model is loaded, so that both kinds run here.
 *
 * A text is cut into segments first: between two characters that stand side by
 * side in no merge, nothing can ever join (tok_merges_joined), and the parts
 * on both sides do not see each other.  Mostly a segment is a word, where
 * looking at all pairs for the best is fastest; long ones take a heap. */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <stdlib.h>
#include <string.h>

#define SCAN 24 /* symbols, up to which the best pair is searched */

static uint64_t key_of(uint32_t left, uint32_t right)
{
	return ~((uint64_t)left << 32 | right);
}

static size_t spread(uint64_t key)
{
	key ^= key >> 29;
	key *= 0xbf58476d1ce4e5b9u;
	return (size_t)(key >> 32);
}

int tok_merges_init(struct tok_merges *m, size_t pairs, struct err *err)
{
	size_t size = 64;

	while (size / 2 < pairs)
		size *= 2;
	m->slot = mem_alloc(size, sizeof(*m->slot), err);
	m->join = mem_alloc(size, sizeof(*m->join), err);
	m->mask = m->join_mask = size - 1;
	return m->slot && m->join ? 0 : -1;
}

/* A pair that is there already gets the new rank, as in the original. */
void tok_merges_add(struct tok_merges *m, uint32_t left, uint32_t right,
		    struct tok_pair to)
{
	size_t i;

	to.key = key_of(left, right);
	i = spread(to.key) & m->mask;
	while (m->slot[i].key && m->slot[i].key != to.key)
		i = (i + 1) & m->mask;
	m->slot[i] = to;
}

void tok_merges_join(struct tok_merges *m, uint32_t left, uint32_t right)
{
	uint64_t key = key_of(left, right);
	size_t i = spread(key) & m->join_mask;

	while (m->join[i] && m->join[i] != key)
		i = (i + 1) & m->join_mask;
	m->join[i] = key;
}

bool tok_merges_joined(const struct tok_merges *m, uint32_t left,
		       uint32_t right)
{
	uint64_t key = key_of(left, right);
	size_t i = spread(key) & m->join_mask;

	if (m->whole)
		return true;
	while (m->join[i] && m->join[i] != key)
		i = (i + 1) & m->join_mask;
	return m->join[i] != 0;
}

void tok_merges_release(struct tok_merges *m)
{
	free(m->slot);
	free(m->join);
	memset(m, 0, sizeof(*m));
}

/* ---- one segment ---- */

/* Fill in the pair that begins at symbol i. */
static void look(const struct tok_merges *m, struct tok_work *w, uint32_t i)
{
	struct tok_sym *s = &w->sym[i];
	uint64_t key;
	size_t at;

	s->rank = TOK_NONE;
	if (s->next == TOK_NONE || (s->id & TOK_FROZEN) ||
	    (w->sym[s->next].id & TOK_FROZEN))
		return;
	key = key_of(s->id, w->sym[s->next].id);
	at = spread(key) & m->mask;
	while (m->slot[at].key && m->slot[at].key != key)
		at = (at + 1) & m->mask;
	if (!m->slot[at].key)
		return;
	s->rank = m->slot[at].rank;
	s->to = m->slot[at].id;
	if (w->rev)
		w->rev[s->to] = s->len;
}

static void sift_down(struct tok_work *w, size_t i)
{
	uint64_t *h = w->heap, v = h[i];

	for (;;) {
		size_t c = 4 * i + 1, best = c;

		if (c >= w->heap_n)
			break;
		for (size_t k = c + 1; k < c + 4 && k < w->heap_n; k++)
			if (h[k] < h[best])
				best = k;
		if (h[best] >= v)
			break;
		h[i] = h[best];
		i = best;
	}
	h[i] = v;
}

static void push(struct tok_work *w, uint32_t i)
{
	uint64_t *h = w->heap, v = (uint64_t)w->sym[i].rank << 32 | i;
	size_t at = w->heap_n++;

	while (at && h[(at - 1) / 4] > v) {
		h[at] = h[(at - 1) / 4];
		at = (at - 1) / 4;
	}
	h[at] = v;
}

/* The heap never holds more than all first pairs and two for each merge. */
static int heap_start(struct tok_work *w, struct err *err)
{
	void *p = w->heap;

	if (mem_grow(&p, &w->heap_cap, 3 * w->n, sizeof(*w->heap), err))
		return -1;
	w->heap = p;
	w->heap_n = 0;
	for (uint32_t i = 0; i < w->n; i++)
		if (w->sym[i].rank != TOK_NONE)
			w->heap[w->heap_n++] =
				(uint64_t)w->sym[i].rank << 32 | i;
	for (size_t i = w->heap_n / 4 + 1; i-- > 0;)
		if (i < w->heap_n)
			sift_down(w, i);
	return 0;
}

/* The next pair to join: its left symbol, or TOK_NONE. */
static uint32_t heap_take(struct tok_work *w)
{
	while (w->heap_n) {
		uint64_t v = w->heap[0];
		uint32_t i = (uint32_t)v;

		w->heap[0] = w->heap[--w->heap_n];
		if (w->heap_n)
			sift_down(w, 0);
		/* an entry whose pair is gone or another is stale */
		if (w->sym[i].len && w->sym[i].rank == v >> 32)
			return i;
	}
	return TOK_NONE;
}

static uint32_t scan_take(const struct tok_work *w)
{
	uint32_t best = TOK_NONE, rank = TOK_NONE;

	for (uint32_t i = 0; i != TOK_NONE; i = w->sym[i].next)
		if (w->sym[i].rank < rank) {
			rank = w->sym[i].rank;
			best = i;
		}
	return best;
}

static void join(const struct tok_merges *m, struct tok_work *w, uint32_t i,
		 bool heap)
{
	struct tok_sym *s = &w->sym[i], *gone = &w->sym[s->next];

	s->id = s->to;
	s->len += gone->len;
	s->next = gone->next;
	gone->len = 0;
	if (s->next != TOK_NONE)
		w->sym[s->next].prev = i;
	if (s->prev != TOK_NONE) {
		look(m, w, s->prev);
		if (heap && w->sym[s->prev].rank != TOK_NONE)
			push(w, s->prev);
	}
	look(m, w, i);
	if (heap && s->rank != TOK_NONE)
		push(w, i);
}

int tok_merge(const struct tok_merges *m, struct tok_work *w, struct err *err)
{
	bool heap = w->n > SCAN;
	uint32_t i;
	size_t n = 0;

	for (i = 0; i < w->n; i++) {
		w->sym[i].prev = i ? i - 1 : TOK_NONE;
		w->sym[i].next = i + 1 < w->n ? i + 1 : TOK_NONE;
	}
	for (i = 0; i < w->n; i++)
		look(m, w, i);
	if (heap && heap_start(w, err))
		return -1;
	while ((i = heap ? heap_take(w) : scan_take(w)) != TOK_NONE)
		join(m, w, i, heap);
	for (i = 0; i != TOK_NONE; i = w->sym[i].next)
		w->sym[n++] = w->sym[i];
	w->n = n;
	return 0;
}
