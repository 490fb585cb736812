/* ggml's blocks, decoded.  Products of an f16 and a whole number of up to 8
 * bits are exact in f32, so scales and offsets here are what ggml computes
 * with, and a weight is one product (and, with an offset, one difference), as
 * there.
 *
 *	Q4_0  d, 16 bytes               W = d * (q - 8)
 *	Q4_1  d, m, 16 bytes            W = d * q + m
 *	Q5_0  d, 32 high bits, 16 bytes W = d * (q - 16)
 *	Q5_1  d, m, 32 bits, 16 bytes   W = d * q + m
 *	Q8_0  d, 32 x i8                W = d * q
 *	Q4_K  d, dmin, 12 bytes of 8 scales and minima of 6 bits, 128 bytes
 *	Q5_K  the same, 32 bytes of high bits, 128 bytes
 *	                                W = (d * s) * q - dmin * m
 *	Q6_K  128 bytes of low halves, 64 of two high bits, 16 x i8 s, d
 *	                                W = (d * s) * (q - 32)
 *
 * Source: ggml-quants.c and ggml-common.h of ggml (dequantize_row_*). */
#include "qfmt_gguf.h"

#include "../base/half.h"

#include <stddef.h>

static const struct qf_gguf_kind kinds[] = {
	{ DT_Q4_0, 4, 32, QL_POINT, DT_F16 },
	{ DT_Q4_1, 4, 32, QL_OFFSET, DT_F16 },
	{ DT_Q5_0, 5, 32, QL_POINT, DT_F16 },
	{ DT_Q5_1, 5, 32, QL_OFFSET, DT_F16 },
	{ DT_Q8_0, 8, 32, QL_POINT, DT_F16 },
	{ DT_Q4_K, 4, 32, QL_OFFSET, DT_F32 },
	{ DT_Q5_K, 5, 32, QL_OFFSET, DT_F32 },
	{ DT_Q6_K, 6, 16, QL_POINT, DT_F32 },
	{ DT_Q8_1, 8, 32, QL_POINT, DT_NONE },
	{ DT_Q2_K, 2, 16, QL_OFFSET, DT_NONE },
	{ DT_Q3_K, 3, 16, QL_POINT, DT_NONE },
	{ DT_Q8_K, 8, 256, QL_POINT, DT_NONE },
	{ DT_IQ2_XXS, 2, 32, QL_POINT, DT_NONE },
	{ DT_IQ2_XS, 2, 16, QL_POINT, DT_NONE },
	{ DT_IQ3_XXS, 3, 32, QL_POINT, DT_NONE },
	{ DT_IQ1_S, 1, 32, QL_POINT, DT_NONE },
	{ DT_IQ4_NL, 4, 32, QL_POINT, DT_NONE },
	{ DT_IQ3_S, 3, 32, QL_POINT, DT_NONE },
	{ DT_IQ2_S, 2, 16, QL_POINT, DT_NONE },
	{ DT_IQ4_XS, 4, 32, QL_POINT, DT_NONE },
	{ DT_IQ1_M, 1, 16, QL_POINT, DT_NONE },
	{ DT_TQ1_0, 2, 256, QL_POINT, DT_NONE },
	{ DT_TQ2_0, 2, 256, QL_POINT, DT_NONE },
	{ DT_MXFP4, 4, 32, QL_POINT, DT_NONE },
	{ DT_NVFP4, 4, 16, QL_POINT, DT_NONE },
	{ DT_Q1_0, 1, 128, QL_POINT, DT_NONE },
};

const struct qf_gguf_kind *qf_gguf_kind(enum dtype type)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (kinds[i].type == type)
			return &kinds[i];
	return NULL;
}

static float f16(const uint8_t *p)
{
	return half_to_f32(half_le16(p));
}

/* Byte j: input j in the low half, input j + n in the high half. */
static void nibbles(const uint8_t *p, uint32_t n, uint8_t *code)
{
	for (uint32_t j = 0; j < n; j++) {
		code[j] = p[j] & 15;
		code[j + n] = p[j] >> 4;
	}
}

/* The fifth bit of 32 codes. */
static void fifth(const uint8_t *p, uint8_t *code)
{
	uint32_t bits = half_le32(p);

	for (uint32_t j = 0; j < 32; j++)
		code[j] |= (uint8_t)((bits >> j & 1) << 4);
}

/* Q5_0 and Q5_1: 4 bits behind the fifth ones. */
static void codes_5(enum dtype type, const uint8_t *p, uint8_t *code)
{
	const uint8_t *high = p + (type == DT_Q5_0 ? 2 : 4);

	nibbles(high + 4, 16, code);
	fifth(high, code);
}

static void grid_small(enum dtype type, const uint8_t *p, float *scale,
		       float *zero)
{
	*scale = f16(p);
	*zero = type == DT_Q8_0 ? 128 : type == DT_Q4_0 ? 8 :
		type == DT_Q5_0 ? 16 : -f16(p + 2);
}

/* Scale and minimum j of 8: six bits each, those of the upper four in parts. */
static void packed6(const uint8_t *p, int j, uint8_t *scale, uint8_t *min)
{
	if (j < 4) {
		*scale = p[j] & 63;
		*min = p[j + 4] & 63;
		return;
	}
	*scale = (uint8_t)((p[j + 4] & 15) | p[j - 4] >> 6 << 4);
	*min = (uint8_t)(p[j + 4] >> 4 | p[j] >> 6 << 4);
}

static void grid_45(const uint8_t *p, float *scale, float *zero)
{
	uint8_t s, m;

	for (int j = 0; j < 8; j++) {
		packed6(p + 4, j, &s, &m);
		scale[j] = f16(p) * s;
		zero[j] = f16(p + 2) * m;
	}
}

/* Four runs of 64 inputs, each two groups in the halves of 32 bytes. */
static void codes_45(enum dtype type, const uint8_t *p, uint8_t *code)
{
	const uint8_t *high = p + 16, *q = high + (type == DT_Q5_K ? 32 : 0);

	for (int run = 0; run < 4; run++) {
		uint8_t *c = code + 64 * run;

		nibbles(q + 32 * run, 32, c);
		for (int l = 0; type == DT_Q5_K && l < 32; l++) {
			c[l] |= (uint8_t)((high[l] >> 2 * run & 1) << 4);
			c[l + 32] |= (uint8_t)((high[l] >> (2 * run + 1) & 1)
					       << 4);
		}
	}
}

static void grid_6(const uint8_t *p, float *scale, float *zero)
{
	float d = f16(p + 208);

	for (int j = 0; j < 16; j++) {
		scale[j] = d * (float)(int8_t)p[192 + j];
		zero[j] = 32;
	}
}

/* Two runs of 128 inputs: 64 bytes of low halves, 32 of high bits. */
static void codes_6(const uint8_t *p, uint8_t *code)
{
	for (int run = 0; run < 2; run++) {
		const uint8_t *low = p + 64 * run, *high = p + 128 + 32 * run;
		uint8_t *c = code + 128 * run;

		for (int l = 0; l < 32; l++) {
			c[l] = low[l] & 15;
			c[l + 32] = low[l + 32] & 15;
			c[l + 64] = low[l] >> 4;
			c[l + 96] = low[l + 32] >> 4;
			for (int k = 0; k < 4; k++)
				c[l + 32 * k] |= (uint8_t)(
					(high[l] >> 2 * k & 3) << 4);
		}
	}
}

void qf_gguf_grid(enum dtype type, const uint8_t *block, float *scale,
		  float *zero)
{
	if (type == DT_Q4_K || type == DT_Q5_K)
		grid_45(block, scale, zero);
	else if (type == DT_Q6_K)
		grid_6(block, scale, zero);
	else
		grid_small(type, block, scale, zero);
}

static void decode(enum dtype type, const uint8_t *block, uint8_t *code)
{
	if (type == DT_Q4_K || type == DT_Q5_K)
		codes_45(type, block, code);
	else if (type == DT_Q6_K)
		codes_6(block, code);
	else
		codes_5(type, block, code);
}

/* ---- tiles ---- */

#define LOW UINT64_C(0x0f0f0f0f0f0f0f0f)
#define TOP UINT64_C(0x8080808080808080)

/* The types that are written here, block by block into four octets of output
 * c. */
static void octets(enum dtype type, const uint8_t *p, struct bits_octs *oct,
		   uint32_t c)
{
	const uint8_t *q = p + (type == DT_Q4_1 ? 4 : 2);

	if (type == DT_Q8_0) {
		for (int j = 0; j < 4; j++) /* i8 + 128 */
			oct[j].of[c] = half_le64(q + 8 * j) ^ TOP;
		return;
	}
	for (int j = 0; j < 2; j++) {
		oct[j].of[c] = half_le64(q + 8 * j) & LOW;
		oct[j + 2].of[c] = half_le64(q + 8 * j) >> 4 & LOW;
	}
}

static void get_ours(const struct qf_words *w, uint32_t n, uint32_t k,
		     struct bits_tile *t)
{
	uint32_t end = w->out - n < BITS_TILE_OUT ? w->out - n : BITS_TILE_OUT;
	uint32_t count = w->in - k < BITS_TILE_IN ? w->in - k : BITS_TILE_IN;
	uint32_t bytes, size = tensor_dtype_block(w->of->type, &bytes);

	for (uint32_t c = 0; c < end; c++) {
		const uint8_t *p = tensor_row_data(w->of, n + c);

		p += (size_t)(k / size) * bytes;
		for (uint32_t i = 0; i < count; i += size, p += bytes)
			octets(w->of->type, p, t->oct + i / 8, c);
	}
}

/* A tile's row, or the block of 256 that it is half of. */
static void get_any(const struct qf_words *w, uint32_t n, uint32_t k,
		    struct bits_tile *t)
{
	uint32_t cols = w->out - n < BITS_TILE_OUT ? w->out - n :
						     BITS_TILE_OUT;
	uint32_t count = w->in - k < BITS_TILE_IN ? w->in - k : BITS_TILE_IN;
	uint32_t bytes, size = tensor_dtype_block(w->of->type, &bytes);
	uint8_t code[BITS_TILE_OUT][QF_GGUF_BLOCK];

	for (uint32_t c = 0; c < cols; c++) {
		const uint8_t *p = tensor_row_data(w->of, n + c);

		p += (size_t)(k / size) * bytes;
		for (uint32_t i = 0; i < count; i += size, p += bytes)
			decode(w->of->type, p, code[c] + i);
	}
	bits_tile_from_bytes(t, code[0] + k % size, sizeof(code[0]), cols,
			     count);
}

static void get(const struct qf_words *w, uint32_t n, uint32_t k,
		struct bits_tile *t)
{
	enum dtype type = w->of->type;

	if (type == DT_Q4_0 || type == DT_Q4_1 || type == DT_Q8_0)
		get_ours(w, n, k, t);
	else
		get_any(w, n, k, t);
}

const struct qf_codes qf_gguf_codes = { true, get, NULL };
