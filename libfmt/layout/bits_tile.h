/* bits_tile.h - codes on their way from one layout to another.
 *
 * A tile is 64 outputs by up to 128 inputs, small enough for the first-level
 * cache.  Its codes stand by the eight: oct[j].of[c] holds inputs 8j .. 8j+7 of
 * output c, one byte each, the first in the lowest.  So a word of 4-bit codes
 * is half an octet whatever its layout, and unpacking is a few shifts and
 * masks on whole vectors of columns.
 *
 * Sources of one code (bits_tile.inc) are compiled for several instruction
 * sets; all give the same bytes.
 *
 * Not here: single streams and rules (bits.h), tensors (qfmt_codes.h). */
#ifndef LIBFMT_LAYOUT_BITS_TILE_H
#define LIBFMT_LAYOUT_BITS_TILE_H

#include "bits.h"

#define BITS_TILE_OUT 64
#define BITS_TILE_IN 128
#define BITS_TILE_OCTS (BITS_TILE_IN / 8)

/* Octets of one place j, for all outputs of a tile. */
struct bits_octs {
	uint64_t of[BITS_TILE_OUT];
};

struct bits_tile {
	struct bits_octs oct[BITS_TILE_OCTS];
};

/* What one instruction set computes with. */
struct bits_isa {
	const char *name;
	/* 32 fields of b bits (1 to 4, or 8) down each of 64 columns: b rows
	 * of words, `stride` bytes apart, to or from 4 rows of octets. */
	void (*cols_get)(uint32_t b, const uint8_t *words, size_t stride,
			 struct bits_octs *oct);
	void (*cols_put)(uint32_t b, const struct bits_octs *oct,
			 uint8_t *words, size_t stride);
	/* 128 fields of b bits along each of n <= 64 rows, `stride` bytes
	 * apart. */
	void (*rows_get)(uint32_t b, const uint8_t *words, size_t stride,
			 uint32_t n, struct bits_octs *oct);
	void (*rows_put)(uint32_t b, const struct bits_octs *oct,
			 uint8_t *words, size_t stride, uint32_t n);
	/* A tile of Marlin, 16 inputs: 128 words, 2 rows of octets. */
	void (*marlin_get)(const uint8_t *words, struct bits_octs *oct);
	void (*marlin_put)(const struct bits_octs *oct, uint8_t *words);
	/* Eight inputs of AWQ: 8 rows of `n` <= 8 words, `stride` bytes
	 * apart. */
	void (*awq_get)(const uint8_t *words, size_t stride, uint32_t n,
			struct bits_octs *oct);
	void (*awq_put)(const struct bits_octs *oct, uint8_t *words,
			size_t stride, uint32_t n);
};

/* The best one that this machine has. */
const struct bits_isa *bits_isa_best(void);
/* Number i, the plainest first; NULL where there is none, or this machine does
 * not have it (then a later one may exist; `BITS_ISAS` are all). */
#define BITS_ISAS 3
const struct bits_isa *bits_isa_number(uint32_t i);

/* Inputs k .. of a word matrix [bits_words(in)][out], a stream down each
 * column, for outputs n ..: k is a multiple of 128, n of 64.  Columns and
 * octets outside the matrix are left alone or zero, inputs behind the last one
 * in its octet are 0. */
void bits_tile_get(const struct bits_rule *r, uint32_t b, const void *words,
		   uint32_t out, uint32_t in, uint32_t n, uint32_t k,
		   struct bits_tile *t);
/* The same of a matrix of words of 8, 16 or 64 bits: the streams are the same,
 * only cut otherwise.  b divides 32, and in * b is whole words. */
void bits_tile_get_cut(uint32_t word_bits, uint32_t b, const void *words,
		       uint32_t out, uint32_t in, uint32_t n, uint32_t k,
		       struct bits_tile *t);
/* The inverse of bits_tile_get; a code above b bits loses its high bits. */
void bits_tile_put(const struct bits_rule *r, uint32_t b,
		   const struct bits_tile *t, uint32_t out, uint32_t in,
		   uint32_t n, uint32_t k, void *words);

/* Rows of bytes [64][..] to or from a tile: the first byte of output c stands
 * at p + c * ld. */
void bits_tile_from_bytes(struct bits_tile *t, const uint8_t *p, size_t ld,
			  uint32_t cols, uint32_t count);
void bits_tile_to_bytes(const struct bits_tile *t, uint8_t *p, size_t ld,
			uint32_t cols, uint32_t count);
/* Inputs from `count` on become 0 in the last octet that has some. */
void bits_tile_trim(struct bits_tile *t, uint32_t count);

#endif
