/* qfmt_codes.h - the codes of a layer by tiles, whatever its layout.
 *
 * Layouts that differ in how codes are packed, and in nothing else, are turned
 * into each other here without the whole layer in memory: a tile is taken from
 * the words of one and put into a strip of the other.
 *
 * A strip is a piece of a codes tensor that is contiguous in its file: all
 * outputs of some inputs (GPTQ, AWQ, Marlin) or all inputs of some outputs
 * (compressed-tensors).  It looks like the tensor of a smaller layer, and is
 * treated as one. */
#ifndef LIBFMT_LAYOUT_QFMT_CODES_H
#define LIBFMT_LAYOUT_QFMT_CODES_H

#include "bits_tile.h"

#include <stdbool.h>

/* The codes tensor of a layer, or a strip of one, to write. */
struct qf_strip {
	uint32_t bits, out, in;
	void *to;
};

struct qf_moved;
struct qf_words;
struct tensor;

/* How a layout packs codes.  n is a multiple of 64, k of 128. */
struct qf_codes {
	bool by_out; /* the file goes on from output to output, else from
			input to input */
	/* Outputs n .., inputs k ..: those behind the last input are 0 in an
	 * octet that has others. */
	void (*get)(const struct qf_words *w, uint32_t n, uint32_t k,
		    struct bits_tile *t);
	/* NULL in layouts that are only read. */
	void (*put)(const struct bits_tile *t, const struct qf_strip *s,
		    uint32_t n, uint32_t k);
};

/* The codes tensor of a layer, to read. */
struct qf_words {
	const struct qf_codes *how; /* NULL: not to be had by tiles */
	uint32_t bits, out, in;
	uint32_t cols;              /* of a word matrix: outputs, and padding */
	const void *data;
	uint64_t size;              /* of data, in bytes */
	const struct tensor *of;    /* that it is */
	uint8_t add;                /* to every code: they are to be wider */
	struct qf_moved *moved;     /* else NULL, see qfmt_moved.h */
};

/* Streams and planes down the columns (GPTQ), 4-bit streams along the rows
 * (AWQ GEMV, read). */
extern const struct qf_codes qf_codes_stream, qf_codes_planar, qf_codes_rows;
/* Streams down the columns in words of other sizes (read). */
extern const struct qf_codes qf_codes_i8, qf_codes_i16, qf_codes_i64;

/* Rows of fields that fill their words (b divides 32), `stride` bytes
 * apart. */
void qf_rows_get(const struct qf_words *w, size_t stride, uint32_t n,
		 uint32_t k, struct bits_tile *t);
void qf_rows_put(const struct bits_tile *t, const struct qf_strip *s,
		 size_t stride, uint32_t n, uint32_t k);

/* All codes into code [out][in], and back. */
void qf_codes_read(const struct qf_words *w, uint8_t *code);
/* Those of `count` outputs from n on, a multiple of 64. */
void qf_codes_read_rows(const struct qf_words *w, uint32_t n, uint32_t count,
			uint8_t *code);
/* Those of `count` <= 128 inputs from k on, a multiple of 128: [out][count]. */
void qf_codes_read_cols(const struct qf_words *w, uint32_t k, uint32_t count,
			uint8_t *code);
void qf_codes_write(const struct qf_codes *how, const uint8_t *code,
		    const struct qf_strip *s);

/* From one layout to another: the strip holds what starts at output n (or
 * input k, the other one being 0) of w. */
void qf_codes_pass(const struct qf_words *w, uint32_t n, uint32_t k,
		   const struct qf_codes *how, const struct qf_strip *s);
/* Are all codes the same?  Of two layers of one shape. */
bool qf_codes_equal(const struct qf_words *a, const struct qf_words *b);

#endif
