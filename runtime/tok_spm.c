/* SentencePiece BPE, loading: from pieces with scores to merges with ranks.
 *
 * The original looks up the text of two neighbours joined and takes its score.
 * The same as a table: every way to cut a piece into two texts that can be
 * symbols (other pieces, or single characters) is a pair that leads to it, and
 * the place of its score among all scores is the rank.  A single character
 * that is no piece, but part of one, gets an id behind the pieces.
 * Source: sentencepiece bpe_model.cc, model_interface.cc (behaviour). */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <stdlib.h>
#include <string.h>

static bool merges_to(const struct tok_spm *m, uint32_t id)
{
	return m->type[id] == TOK_NORMAL || m->type[id] == TOK_USER ||
	       m->type[id] == TOK_UNUSED;
}

static int add_byte(struct tok *t, uint32_t id, struct err *err)
{
	struct tok_spm *m = t->spm;
	int byte = tok_byte_piece(tok_dict_text(&t->dict, id),
				  t->dict.piece[id].len, false);

	if (!m->byte_fallback)
		return err_set(err, ERR_INPUT,
			       "a byte piece, but byte_fallback is off");
	if (byte < 0)
		return err_set(err, ERR_INPUT,
			       "a byte piece not spelled as <0x00>");
	m->byte_id[byte] = id;
	return 0;
}

static int index_piece(struct tok *t, uint32_t id, struct err *err)
{
	struct tok_spm *m = t->spm;
	const struct tok_piece *p = &t->dict.piece[id];
	struct tok_index *ix = merges_to(m, id) ? &t->index : &m->reserved;
	int twice = tok_index_add(ix, &t->dict, id, err);

	if (twice)
		return twice < 0 ? -1 :
				   err_set(err, ERR_INPUT, "it is there twice");
	switch (m->type[id]) {
	case TOK_USER:
		m->has_user = true;
		return tok_trie_add(&m->user, tok_dict_text(&t->dict, id),
				    p->len, id, err);
	case TOK_UNKNOWN:
		if (m->unk != TOK_NONE)
			return err_set(err, ERR_INPUT,
				       "a second piece for unknown text");
		m->unk = id;
		return 0;
	case TOK_UNUSED:
		m->has_unused = true;
		return 0;
	case TOK_BYTE:
		return add_byte(t, id, err);
	}
	return 0;
}

static int index_pieces(struct tok *t, struct err *err)
{
	struct tok_spm *m = t->spm;

	if (tok_index_init(&t->index, m->pieces, err) ||
	    tok_index_init(&m->reserved, 0, err) ||
	    tok_trie_init(&m->user, err))
		return -1;
	m->unk = TOK_NONE;
	for (int i = 0; i < 256; i++)
		m->byte_id[i] = TOK_NONE;
	for (uint32_t id = 0; id < m->pieces; id++)
		if (index_piece(t, id, err))
			return err_ctx(err, "piece %u", id);
	if (m->unk == TOK_NONE)
		return err_set(err, ERR_INPUT, "no piece for unknown text");
	for (int i = 0; m->byte_fallback && i < 256; i++)
		if (m->byte_id[i] == TOK_NONE)
			return err_set(err, ERR_INPUT,
				       "byte_fallback, but no <0x%02X>", i);
	return 0;
}

/* ---- ranks: equal scores have equal ranks, the best is 0 ---- */

struct scored {
	float score;
	uint32_t id;
};

static int by_score(const void *a, const void *b)
{
	const struct scored *x = a, *y = b;

	if (x->score != y->score)
		return x->score > y->score ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

static int rank_pieces(const struct tok_spm *m, uint32_t **out,
		       struct err *err)
{
	struct scored *list = mem_alloc(m->pieces, sizeof(*list), err);
	uint32_t *rank = mem_alloc(m->pieces, sizeof(*rank), err), r = 0;

	if (!list || !rank) {
		free(list);
		free(rank);
		return -1;
	}
	for (uint32_t i = 0; i < m->pieces; i++)
		list[i] = (struct scored){ m->score[i], i };
	qsort(list, m->pieces, sizeof(*list), by_score);
	for (uint32_t i = 0; i < m->pieces; i++) {
		if (i && list[i].score < list[i - 1].score)
			r++;
		rank[list[i].id] = r;
	}
	free(list);
	*out = rank;
	return 0;
}

/* ---- pairs ---- */

/* Every character of a piece that is no piece itself gets an id. */
static int add_chars(struct tok *t, uint32_t id, struct err *err)
{
	size_t n = t->dict.piece[id].len, k;
	char c[4];
	uint32_t cp;

	for (size_t i = 0; i < n; i += k) {
		/* the text moves when the dictionary grows */
		const char *s = tok_dict_text(&t->dict, id) + i;

		k = tok_utf8(s, n - i, &cp);
		if (tok_index_find(&t->index, &t->dict, s, k) != TOK_NONE)
			continue;
		memcpy(c, s, k);
		uint32_t more = (uint32_t)t->dict.n;

		if (tok_dict_put(&t->dict, more, c, k, err) ||
		    tok_index_add(&t->index, &t->dict, more, err) < 0)
			return -1;
	}
	return 0;
}

/* The first or last character of s[0..n) as a symbol. */
static uint32_t edge(const struct tok *t, const char *s, size_t n, bool last)
{
	size_t i = last ? n - 1 : 0, k = 1;

	while (last && i > 0 && ((uint8_t)s[i] & 0xc0) == 0x80)
		i--;
	while (i + k < n && ((uint8_t)s[i + k] & 0xc0) == 0x80)
		k++;
	return tok_index_find(&t->index, &t->dict, s + i, k);
}

/* Give each way to cut the piece in two to `add`, or only count them. */
static uint64_t cut_piece(struct tok *t, uint32_t id, const uint32_t *rank,
			  bool add)
{
	const char *s = tok_dict_text(&t->dict, id);
	size_t n = t->dict.piece[id].len;
	struct tok_pair to = { .rank = rank[id], .id = id };
	uint64_t count = 0;
	uint32_t a, b;

	for (size_t i = 1; i < n; i++) {
		if (((uint8_t)s[i] & 0xc0) == 0x80)
			continue;
		a = tok_index_find(&t->index, &t->dict, s, i);
		if (a == TOK_NONE)
			continue;
		b = tok_index_find(&t->index, &t->dict, s + i, n - i);
		if (b == TOK_NONE)
			continue;
		count++;
		if (!add)
			continue;
		tok_merges_add(&t->merge, a, b, to);
		tok_merges_join(&t->merge, edge(t, s, i, true),
				edge(t, s + i, n - i, false));
	}
	return count;
}

static int make_pairs(struct tok *t, struct err *err)
{
	struct tok_spm *m = t->spm;
	uint32_t *rank = NULL;
	uint64_t pairs = 0;
	int ret = -1;

	if (rank_pieces(m, &rank, err))
		return -1;
	for (uint32_t id = 0; id < m->pieces; id++)
		if (merges_to(m, id) && add_chars(t, id, err))
			goto out;
	for (uint32_t id = 0; id < m->pieces; id++)
		if (merges_to(m, id))
			pairs += cut_piece(t, id, rank, false);
	if (tok_merges_init(&t->merge, pairs, err))
		goto out;
	for (uint32_t id = 0; id < m->pieces; id++)
		if (merges_to(m, id))
			cut_piece(t, id, rank, true);
	/* how an unused piece came about depends on the order of all merges of
	 * the text, so that it must stay in one segment */
	t->merge.whole = m->has_unused;
	ret = 0;
out:
	free(rank);
	return ret;
}

static int64_t special(const struct tok *t, const char *name,
		       const char *standard)
{
	uint32_t id;

	if (!name || !name[0])
		name = standard;
	id = tok_index_find(&t->spm->reserved, &t->dict, name, strlen(name));
	if (id == TOK_NONE)
		id = tok_index_find(&t->index, &t->dict, name, strlen(name));
	return id >= t->spm->pieces || id == t->spm->unk ? -1 : (int64_t)id;
}

int tok_spm_open(struct tok *t, const char *data, size_t len, struct err *err)
{
	struct tok_spm *m = mem_alloc(1, sizeof(*m), err);

	if (!m)
		return -1;
	t->spm = m;
	if (tok_proto_read(t, data, len, err) || index_pieces(t, err) ||
	    make_pairs(t, err) || tok_chars(t, err))
		return -1;
	free(m->score);
	m->score = NULL;
	m->has_denorm = m->denorm.map.units != 0;
	t->vocab = m->pieces;
	t->bos = special(t, m->bos_piece, "<s>");
	t->eos = special(t, m->eos_piece, "</s>");
	return 0;
}

void tok_spm_free(struct tok_spm *m)
{
	if (!m)
		return;
	free(m->type);
	free(m->score);
	tok_index_release(&m->reserved);
	tok_trie_release(&m->user);
	free(m->norm.map.mem);
	free(m->denorm.map.mem);
	free(m->unk_surface);
	free(m->bos_piece);
	free(m->eos_piece);
	free(m);
}
