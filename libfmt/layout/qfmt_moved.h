/* qfmt_moved.h - the codes of a layer that is moved and padded (ql_move), by
 * tiles, without the layer in memory.
 *
 * Whoever permutes inputs looks at 64 whole rows at a time, whoever permutes
 * outputs at 128 inputs of all rows: tiles are to be asked for in that order
 * (qf_codes.by_out), else each takes as long as a band. */
#ifndef LIBFMT_LAYOUT_QFMT_MOVED_H
#define LIBFMT_LAYOUT_QFMT_MOVED_H

#include "qfmt_codes.h"
#include "ql.h"

struct err;

/* Make *w the words of the moved layer.  `map`, which permutes inputs or
 * outputs but not both, and `grid`, the layer as it is after the move (and has
 * no codes), are borrowed: a code of padding is the zero of its place. */
int qf_moved_open(struct qf_words *w, const struct ql_map *map,
		  const struct ql *grid, struct err *err);
/* Accepts words that were not moved. */
void qf_moved_close(struct qf_words *w);

#endif
