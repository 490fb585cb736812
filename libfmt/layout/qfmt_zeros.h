/* qfmt_zeros.h - what packed GPTQ zero points mean.
 *
 * v1 stores zero - 1 and v2 zero, but the label is not always right, v1 has no
 * field for a zero of 0, and what writers do then differs.  How a reader
 * decides, in this order:
 *
 *	all fields are one layout's middle       that layout; a label that says
 *	                                         otherwise is reported
 *	3 bits, fields of the swapped constants  they are taken back
 *	64-bit words, lower halves of v1's       the middle everywhere, reported
 *	middle, upper ones of v2's
 *	the config says sym                      the middle everywhere, reported
 *	v1 without a field of all ones           field + 1
 *	v1 by gptqmodel                          the inverse of its writer: one
 *	                                         addition on whole words (at 3
 *	                                         bits per field, modulo 8)
 *	v1 by others, 2, 4, 8 bits               field + 1 modulo 2^bits
 *	v1 by others, 3 bits                     field + 1: no reader of these
 *	                                         files ever wrapped at 3 bits
 *
 * The last two are reported, and as lost where a packer's overflow (a zero of
 * -1 or-ed in without a mask) has run over the fields above it.
 * Source: gptq-formats(5) "Zero points". */
#ifndef LIBFMT_LAYOUT_QFMT_ZEROS_H
#define LIBFMT_LAYOUT_QFMT_ZEROS_H

#include "qfmt.h"

struct bits_rule;

struct qf_zeros {
	const struct bits_rule *rule;
	uint8_t bits, bias;          /* label's rule: zero = field + bias */
	const void *words;           /* [groups][bits_words(out)] */
	uint32_t groups, out;
	const struct qf_hint *hint;
	bool wide;                   /* words were of 64 bits: gptqmodel's v1
					has only the lower half of each less
					one */
};

/* What was decided: zero = (field + plus) & mask, where fields are those of the
 * words of a row, word i plus add[i % 3]; or the middle everywhere. */
struct qf_reading {
	const uint32_t *add; /* [3] */
	uint16_t plus, mask;
	bool middle;
};

/* Decide, without decoding; adds to *odd. */
int qf_zeros_choose(const struct qf_zeros *z, struct qf_reading *r,
		    uint32_t *odd, struct err *err);
/* Is every zero the middle then?  1, 0, or -1 with err. */
int qf_zeros_centred(const struct qf_zeros *z, const struct qf_reading *r,
		     struct err *err);
/* Zeros [groups][out], 0..2^bits, where they are not all the middle. */
int qf_zeros_decode(const struct qf_zeros *z, const struct qf_reading *r,
		    uint16_t *zero, struct err *err);

#endif
