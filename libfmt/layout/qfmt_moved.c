#include "qfmt_moved.h"

#include "../base/err.h"
#include "../base/mem.h"

#include <stdlib.h>
#include <string.h>

struct qf_moved {
	struct qf_words from;
	const struct ql_map *map;
	const struct ql *grid;
	uint32_t at;   /* first output or input of the band; QL_PAD: none yet */
	uint8_t *band; /* [64][from.in] or [from.out][128] */
};

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* A weight of 0. */
static uint8_t padding(const struct ql *grid, uint32_t n, uint32_t k)
{
	return (uint8_t)grid->zero[(size_t)n * grid->spec.groups +
				   grid->group_of[k]];
}

/* Outputs n .. are rows of the band, their inputs in another order. */
static void get_rows(const struct qf_words *w, uint32_t n, uint32_t k,
		     struct bits_tile *t)
{
	struct qf_moved *m = w->moved;
	uint32_t in = m->from.in, cols = least(w->out - n, BITS_TILE_OUT);
	uint32_t count = least(w->in - k, BITS_TILE_IN);
	uint32_t have = n < m->from.out ? least(m->from.out - n, cols) : 0;
	uint8_t code[BITS_TILE_OUT][BITS_TILE_IN];

	if (m->at != n && have)
		qf_codes_read_rows(&m->from, n, have, m->band);
	m->at = n;
	for (uint32_t c = 0; c < cols; c++)
		for (uint32_t j = 0; j < count; j++) {
			uint32_t at = ql_map_from(m->map->col, in, k + j);

			code[c][j] = c >= have || at == QL_PAD ?
				padding(m->grid, n + c, k + j) :
				m->band[(size_t)c * in + at];
		}
	bits_tile_from_bytes(t, code[0], BITS_TILE_IN, cols, count);
}

/* Inputs k .. are the band, its rows in another order. */
static void get_cols(const struct qf_words *w, uint32_t n, uint32_t k,
		     struct bits_tile *t)
{
	struct qf_moved *m = w->moved;
	uint32_t in = m->from.in, cols = least(w->out - n, BITS_TILE_OUT);
	uint32_t count = least(w->in - k, BITS_TILE_IN);
	uint32_t have = k < in ? least(in - k, BITS_TILE_IN) : 0;
	uint8_t code[BITS_TILE_OUT][BITS_TILE_IN];

	if (m->at != k && have)
		qf_codes_read_cols(&m->from, k, have, m->band);
	m->at = k;
	for (uint32_t c = 0; c < cols; c++) {
		uint32_t at = ql_map_from(m->map->row, m->from.out, n + c);
		uint32_t real = at == QL_PAD ? 0 : have;

		if (real)
			memcpy(code[c], m->band + (size_t)at * have, real);
		for (uint32_t j = real; j < count; j++)
			code[c][j] = padding(m->grid, n + c, k + j);
	}
	bits_tile_from_bytes(t, code[0], BITS_TILE_IN, cols, count);
}

static const struct qf_codes by_rows = { true, get_rows, NULL };
static const struct qf_codes by_cols = { false, get_cols, NULL };

int qf_moved_open(struct qf_words *w, const struct ql_map *map,
		  const struct ql *grid, struct err *err)
{
	struct qf_moved *m = mem_alloc(1, sizeof(*m), err);

	if (!m)
		return -1;
	*m = (struct qf_moved) { *w, map, grid, QL_PAD, NULL };
	m->band = map->col ? mem_alloc(BITS_TILE_OUT, w->in, err) :
			     mem_alloc(BITS_TILE_IN, w->out, err);
	if (!m->band) {
		free(m);
		return -1;
	}
	w->how = map->col ? &by_rows : &by_cols;
	w->out = map->out;
	w->in = map->in;
	w->add = 0; /* the words below have it */
	w->moved = m;
	return 0;
}

void qf_moved_close(struct qf_words *w)
{
	if (w->moved)
		free(w->moved->band);
	free(w->moved);
	w->moved = NULL;
}
