/* bits.h - the one place that packs and unpacks code streams; the columns of
 * whole matrices go through bits_tile.h.
 *
 * A stream of b-bit fields (b = 2, 3, 4, 8) is cut into little-endian 32-bit
 * words.  Field t occupies bits t*b .. t*b+b-1; stream bit n is bit n % 32 of
 * word n / 32.  Only 3-bit fields straddle words:
 *
 *	word 0:  f0 [0-2]  f1 [3-5] ... f9 [27-29]   f10 low 2 bits [30-31]
 *	word 1:  f10 high bit [0]  f11 [1-3] ... f20 [28-30]  f21 low bit [31]
 *	word 2:  f21 high 2 bits [0-1]  f22 [2-4] ... f31 [29-31]
 *
 * The words of one stream lie `stride` words apart: N for the columns of
 * qweight [K*b/32, N], 1 for the rows of qzeros [G, N*b/32].
 *
 * A struct bits_rule describes how a layout arranges its fields, so that a
 * new layout is a row of a table and not a new loop.
 * Source: gptq-formats(5) "Packed fields". */
#ifndef LIBFMT_LAYOUT_BITS_H
#define LIBFMT_LAYOUT_BITS_H

#include <stddef.h>
#include <stdint.h>

enum bits_kind {
	BITS_STREAM = 0, /* fields run on over word borders (GPTQ v1, v2) */
	BITS_PADDED,     /* floor(32/b) fields a word, spare bits on top
			    (compressed-tensors) */
	BITS_PLANAR      /* 32 fields in b words, split into planes (gptq_p) */
};

struct bits_rule {
	enum bits_kind kind;
	const uint8_t *order; /* order[j] = which of the 32/b fields of a word
				 sits at position j (AWQ); NULL: as they come.
				 Only for b that divides 32 */
};

/* Fields of 1 to 8 bits, low bits first. */
extern const struct bits_rule bits_stream;

/* Words that n fields take: ceil(n*b/32) for a stream. */
uint64_t bits_words(const struct bits_rule *r, uint32_t b, uint64_t n);

/* n fields of the stream at `words` (bytes of a file, any alignment) into
 * out[0], out[out_step], ...  Consecutive words lie `stride` words apart. */
void bits_unpack(const struct bits_rule *r, uint32_t b, const void *words,
		 size_t stride, uint64_t n, uint8_t *out, size_t out_step);
/* The inverse.  Unused bits of the last word become 0; bits of a code above b
 * are dropped, they never reach a neighbour. */
void bits_pack(const struct bits_rule *r, uint32_t b, const uint8_t *in,
	       size_t in_step, uint64_t n, void *words, size_t stride);
/* n fields of one value, in a row of words. */
void bits_fill(const struct bits_rule *r, uint32_t b, uint8_t value, uint64_t n,
	       void *words);

#endif
