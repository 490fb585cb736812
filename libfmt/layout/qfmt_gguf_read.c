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

static void decode_small(enum dtype type, const uint8_t *p, uint8_t *code,
			 float *scale, float *zero)
{
	*scale = f16(p);
	switch (type) {
	case DT_Q8_0:
		for (int j = 0; j < 32; j++) /* i8 + 128 */
			code[j] = p[2 + j] ^ 0x80;
		*zero = 128;
		break;
	case DT_Q4_0:
		nibbles(p + 2, 16, code);
		*zero = 8;
		break;
	case DT_Q5_0:
		nibbles(p + 6, 16, code);
		fifth(p + 2, code);
		*zero = 16;
		break;
	case DT_Q5_1:
		nibbles(p + 8, 16, code);
		fifth(p + 4, code);
		*zero = -f16(p + 2);
		break;
	default:
		nibbles(p + 4, 16, code);
		*zero = -f16(p + 2);
	}
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

/* Four runs of 64 inputs, each two groups in the halves of 32 bytes. */
static void decode_45(enum dtype type, const uint8_t *p, uint8_t *code,
		      float *scale, float *zero)
{
	const uint8_t *high = p + 16, *q = high + (type == DT_Q5_K ? 32 : 0);
	uint8_t s, m;

	for (int j = 0; j < 8; j++) {
		packed6(p + 4, j, &s, &m);
		scale[j] = f16(p) * s;
		zero[j] = f16(p + 2) * m;
	}
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

/* Two runs of 128 inputs: 64 bytes of low halves, 32 of high bits. */
static void decode_6(const uint8_t *p, uint8_t *code, float *scale,
		     float *zero)
{
	float d = f16(p + 208);

	for (int j = 0; j < 16; j++) {
		scale[j] = d * (float)(int8_t)p[192 + j];
		zero[j] = 32;
	}
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

void qf_gguf_decode(enum dtype type, const uint8_t *block,
		    uint8_t code[QF_GGUF_BLOCK], float *scale, float *zero)
{
	if (type == DT_Q4_K || type == DT_Q5_K)
		decode_45(type, block, code, scale, zero);
	else if (type == DT_Q6_K)
		decode_6(block, code, scale, zero);
	else
		decode_small(type, block, code, scale, zero);
}
