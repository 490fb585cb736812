/* Tiles out of and into word matrices, and which instruction set does it. */
#include "bits_tile.h"

#include "../base/half.h"

#include <string.h>

extern const struct bits_isa bits_isa_generic, bits_isa_avx2, bits_isa_avx512;

const struct bits_isa *bits_isa_number(uint32_t i)
{
	if (i == 0)
		return &bits_isa_generic;
#if defined(__x86_64__)
	if (i == 1 && __builtin_cpu_supports("avx2") &&
	    __builtin_cpu_supports("fma"))
		return &bits_isa_avx2;
	if (i == 2 && __builtin_cpu_supports("avx512f") &&
	    __builtin_cpu_supports("avx512bw") &&
	    __builtin_cpu_supports("avx512vl") &&
	    __builtin_cpu_supports("avx512dq"))
		return &bits_isa_avx512;
#endif
	return NULL;
}

const struct bits_isa *bits_isa_best(void)
{
	for (uint32_t i = BITS_ISAS; --i > 0;)
		if (bits_isa_number(i))
			return bits_isa_number(i);
	return bits_isa_number(0);
}

/* ---- word matrices ---- */

/* Rows of words at one place of a matrix; where it is narrower than a tile or
 * ends inside it, a padded copy of them. */
struct window {
	uint32_t b, rows, cols; /* words that there are */
	size_t stride;          /* bytes from row to row */
	uint8_t *at;            /* in the matrix */
};

#define UNIT 32 /* fields, in b rows of words */

/* 32 inputs from k on, of which `in` - k may be fewer. */
static struct window window_at(const struct bits_rule *r, uint32_t b,
			       uint8_t *words, uint32_t out, uint32_t in,
			       uint32_t n, uint32_t k)
{
	uint32_t left = in - k < UNIT ? in - k : UNIT;

	return (struct window){
		b, (uint32_t)bits_words(r, b, left),
		out - n < BITS_TILE_OUT ? out - n : BITS_TILE_OUT,
		4 * (size_t)out,
		words + (size_t)(k / UNIT * b) * 4 * out + 4 * (size_t)n
	};
}

static int whole(const struct window *w)
{
	return w->rows == w->b && w->cols == BITS_TILE_OUT;
}

/* A plane of width p holds the next p bits of all 32 fields as a stream of p
 * words: 3 = 2+1, 5 = 4+1, 6 = 4+2, 7 = 4+2+1, low plane first.
 * Source: gptq-formats(5) "Planes". */
static uint32_t plane(uint32_t left)
{
	return left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

static int planar(const struct bits_rule *r, uint32_t b)
{
	return r->kind == BITS_PLANAR && UNIT % b;
}

static void unit_get(const struct bits_rule *r, uint32_t b,
		     const uint8_t *words, size_t stride, struct bits_octs *oct)
{
	const struct bits_isa *isa = bits_isa_best();
	struct bits_octs part[4];
	uint32_t p;

	if (!planar(r, b)) {
		isa->cols_get(b, words, stride, oct);
		return;
	}
	memset(oct, 0, sizeof(part));
	for (uint32_t done = 0; done < b; done += p) {
		p = plane(b - done);
		isa->cols_get(p, words + stride * done, stride, part);
		for (uint32_t j = 0; j < 4; j++)
			for (uint32_t c = 0; c < BITS_TILE_OUT; c++)
				oct[j].of[c] |= part[j].of[c] << done;
	}
}

static void unit_put(const struct bits_rule *r, uint32_t b,
		     const struct bits_octs *oct, uint8_t *words, size_t stride)
{
	const struct bits_isa *isa = bits_isa_best();
	struct bits_octs part[4];
	uint32_t p;

	if (!planar(r, b)) {
		isa->cols_put(b, oct, words, stride);
		return;
	}
	for (uint32_t done = 0; done < b; done += p) {
		p = plane(b - done);
		for (uint32_t j = 0; j < 4; j++)
			for (uint32_t c = 0; c < BITS_TILE_OUT; c++)
				part[j].of[c] = oct[j].of[c] >> done;
		isa->cols_put(p, part, words + stride * done, stride);
	}
}

/* Bytes of a window's padded copy: at most 8 rows. */
#define COPY_ROW ((size_t)4 * BITS_TILE_OUT)
#define COPY_BYTES (8 * COPY_ROW)

void bits_tile_get(const struct bits_rule *r, uint32_t b, const void *words,
		   uint32_t out, uint32_t in, uint32_t n, uint32_t k,
		   struct bits_tile *t)
{
	uint32_t end = in - k < BITS_TILE_IN ? in : k + BITS_TILE_IN;
	uint8_t copy[COPY_BYTES];

	for (uint32_t u = k; u < end; u += UNIT) {
		struct window w = window_at(r, b, (uint8_t *)(uintptr_t)words,
					    out, in, n, u);
		struct bits_octs *oct = t->oct + (u - k) / 8;

		if (whole(&w)) {
			unit_get(r, b, w.at, w.stride, oct);
			continue;
		}
		memset(copy, 0, sizeof(copy));
		for (uint32_t i = 0; i < w.rows; i++)
			memcpy(copy + COPY_ROW * i, w.at + w.stride * i,
			       4 * (size_t)w.cols);
		unit_get(r, b, copy, COPY_ROW, oct);
	}
	bits_tile_trim(t, end - k);
}

/* Word i of column c as one of 32 bits. */
static uint32_t cut_word(const uint8_t *words, uint32_t word_bits,
			 size_t stride, uint32_t i)
{
	uint32_t size = word_bits / 8, x = 0;

	/* stream byte j of the column is byte j % size of row j / size */
	for (uint32_t j = 0; j < 4; j++) {
		uint32_t at = 4 * i + j;

		x |= (uint32_t)words[at / size * stride + at % size] << 8 * j;
	}
	return x;
}

void bits_tile_get_cut(uint32_t word_bits, uint32_t b, const void *words,
		       uint32_t out, uint32_t in, uint32_t n, uint32_t k,
		       struct bits_tile *t)
{
	uint32_t end = in - k < BITS_TILE_IN ? in : k + BITS_TILE_IN;
	uint32_t cols = out - n < BITS_TILE_OUT ? out - n : BITS_TILE_OUT;
	size_t size = word_bits / 8;
	const uint8_t *p = (const uint8_t *)words + size * n;
	uint8_t copy[COPY_BYTES];

	for (uint32_t u = k; u < end; u += UNIT) {
		uint32_t left = in - u < UNIT ? in - u : UNIT;
		uint32_t rows = (left * b + 31) / 32;

		memset(copy, 0, sizeof(copy));
		for (uint32_t i = 0; i < rows; i++)
			for (uint32_t c = 0; c < cols; c++)
				half_put32(copy + COPY_ROW * i + 4 * c,
					   cut_word(p + size * c, word_bits,
						    size * out,
						    u / UNIT * b + i));
		unit_get(&bits_stream, b, copy, COPY_ROW,
			 t->oct + (u - k) / 8);
	}
	bits_tile_trim(t, end - k);
}

void bits_tile_put(const struct bits_rule *r, uint32_t b,
		   const struct bits_tile *t, uint32_t out, uint32_t in,
		   uint32_t n, uint32_t k, void *words)
{
	uint32_t end = in - k < BITS_TILE_IN ? in : k + BITS_TILE_IN;
	uint8_t copy[COPY_BYTES];
	struct bits_octs last[4];

	for (uint32_t u = k; u < end; u += UNIT) {
		struct window w = window_at(r, b, words, out, in, n, u);
		uint32_t octs = (end - u + 7) / 8;
		const struct bits_octs *oct = t->oct + (u - k) / 8;

		if (octs < 4) { /* behind the last input there is nothing */
			memset(last, 0, sizeof(last));
			memcpy(last, oct, octs * sizeof(*last));
			oct = last;
		}
		if (whole(&w)) {
			unit_put(r, b, oct, w.at, w.stride);
			continue;
		}
		unit_put(r, b, oct, copy, COPY_ROW);
		for (uint32_t i = 0; i < w.rows; i++)
			memcpy(w.at + w.stride * i, copy + COPY_ROW * i,
			       4 * (size_t)w.cols);
	}
}

/* ---- rows of bytes ---- */

void bits_tile_from_bytes(struct bits_tile *t, const uint8_t *p, size_t ld,
			  uint32_t cols, uint32_t count)
{
	uint32_t full = count / 8, rest = count % 8;

	for (uint32_t c = 0; c < cols; c++, p += ld) {
		uint8_t last[8] = { 0 };

		for (uint32_t j = 0; j < full; j++)
			t->oct[j].of[c] = half_le64(p + 8 * j);
		if (!rest)
			continue;
		memcpy(last, p + 8 * (size_t)full, rest);
		t->oct[full].of[c] = half_le64(last);
	}
}

void bits_tile_to_bytes(const struct bits_tile *t, uint8_t *p, size_t ld,
			uint32_t cols, uint32_t count)
{
	uint32_t full = count / 8, rest = count % 8;

	for (uint32_t c = 0; c < cols; c++, p += ld) {
		uint8_t last[8];

		for (uint32_t j = 0; j < full; j++)
			half_put64(p + 8 * j, t->oct[j].of[c]);
		if (!rest)
			continue;
		half_put64(last, t->oct[full].of[c]);
		memcpy(p + 8 * (size_t)full, last, rest);
	}
}

void bits_tile_trim(struct bits_tile *t, uint32_t count)
{
	uint64_t keep = ((uint64_t)1 << count % 8 * 8) - 1;

	if (count % 8)
		for (uint32_t c = 0; c < BITS_TILE_OUT; c++)
			t->oct[count / 8].of[c] &= keep;
}
