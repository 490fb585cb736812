/* qlop.h - one neutral layer to another that holds the same weights.
 *
 * Each operation replaces *ql on success and leaves it as it was on failure.
 * All also take a layer without codes (ql_init_grid); whoever has the codes
 * puts those of a moved one in their places (qfmt_moved.h) and adds ql_widen_by
 * to those of a widened one.
 * No weight changes its value; where each one stands after a move is said by
 * the map, so that a proof can look it up.
 * Source: gptq-formats(5) "Moves without loss". */
#ifndef LIBFMT_LAYOUT_QLOP_H
#define LIBFMT_LAYOUT_QLOP_H

#include "ql.h"

#include <stdbool.h>

/* Move outputs and inputs and pad with zeros.  Groups move with their inputs;
 * padding fills the last group up and goes on with groups of its own, of
 * scale 1 and the middle zero.  A group to be filled whose zero is no code
 * (2^bits) is ERR_UNSUP. */
int ql_move(struct ql *ql, const struct ql_map *map, struct err *err);

/* Groups of gs, which divides the group size or is less than the inputs of
 * the one group: scales and zeros are repeated.  Scattered groups stay so:
 * each is cut in the order of its inputs. */
int ql_split(struct ql *ql, uint32_t gs, struct err *err);

/* The largest group size, a divisor of the present one and not below `least`,
 * at which all groups are contiguous when input j is the old input col[j]
 * (NULL: j): each run of that many inputs has one scale and zero in every row.
 * 0 when there is none. */
uint32_t ql_straight_size(const struct ql *ql, const uint32_t *col,
			  uint32_t least);
/* Contiguous groups of gs, a size that ql_straight_size gives or a divisor of
 * it (for the order in which the inputs are now). */
int ql_straighten(struct ql *ql, uint32_t gs, struct err *err);

/* Codes of more bits: code and zero move up by half of what is gained, so that
 * the middle stays the middle.  (Float zeros, whose sums would round, stay
 * where they are.) */
int ql_widen(struct ql *ql, uint32_t bits, struct err *err);
/* What it adds to each code. */
uint8_t ql_widen_by(const struct ql_spec *spec, uint32_t bits);

/* Sort perm [count] by key[perm[i]], each below `keys`; equal keys keep their
 * order. */
int ql_order(const uint32_t *key, uint32_t keys, uint32_t *perm,
	     uint32_t count, struct err *err);

#endif
