/* half.h - f16 and bf16 as bits, and little-endian loads.
 *
 * Conversions to a narrower type round to nearest, ties to even, in every
 * rounding mode of the caller; widening is exact.  NaN stays NaN. */
#ifndef LIBFMT_BASE_HALF_H
#define LIBFMT_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float half_from_bits(uint32_t u)
{
	float f;

	memcpy(&f, &u, sizeof(f));
	return f;
}

static inline uint32_t half_bits(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof(u));
	return u;
}

static inline float half_to_f32(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
	uint32_t exp = (h >> 10) & 31u, man = h & 0x3ffu;

	if (exp == 31) /* infinity, NaN */
		return half_from_bits(sign | 0x7f800000u | man << 13);
	if (exp)
		return half_from_bits(sign | (exp + 112) << 23 | man << 13);
	/* subnormal: man * 2^-24, exact in f32 */
	float f = (float)man * half_from_bits(0x33800000u);
	return sign ? -f : f;
}

static inline uint16_t half_from_f32(float f)
{
	uint32_t u = half_bits(f), sign = (u >> 16) & 0x8000u;
	uint32_t a = u & 0x7fffffffu, r;

	if (a > 0x7f800000u) /* NaN: keep it quiet */
		return (uint16_t)(sign | 0x7e00u);
	if (a >= 0x477ff000u) /* 65520 and above round to infinity */
		return (uint16_t)(sign | 0x7c00u);
	if (a >= 0x38800000u) { /* normal: drop 13 bits, round to even */
		r = a - 0x38000000u;
		r += 0xfffu + ((r >> 13) & 1u);
		return (uint16_t)(sign | r >> 13);
	}
	if (a < 0x33000000u) /* below half of the least subnormal */
		return (uint16_t)sign;
	/* subnormal: shift the 24-bit significand into place */
	uint32_t shift = 126 - (a >> 23), man = (a & 0x7fffffu) | 0x800000u;
	uint32_t low = man & ((1u << shift) - 1), half = 1u << (shift - 1);

	r = man >> shift;
	if (low > half || (low == half && (r & 1u)))
		r++;
	return (uint16_t)(sign | r);
}

static inline float half_bf16_to_f32(uint16_t h)
{
	return half_from_bits((uint32_t)h << 16);
}

static inline uint16_t half_bf16_from_f32(float f)
{
	uint32_t u = half_bits(f);

	if ((u & 0x7fffffffu) > 0x7f800000u)
		return (uint16_t)(u >> 16 | 0x40u);
	return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

/* Unaligned little-endian loads and stores: bytes of a file, on any host. */
static inline uint16_t half_le16(const void *p)
{
	const uint8_t *b = p;

	return (uint16_t)(b[0] | b[1] << 8);
}

static inline uint32_t half_le32(const void *p)
{
	const uint8_t *b = p;

	return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 |
	       (uint32_t)b[3] << 24;
}

static inline uint64_t half_le64(const void *p)
{
	const uint8_t *b = p;

	return half_le32(b) | (uint64_t)half_le32(b + 4) << 32;
}

static inline void half_put16(void *p, uint16_t v)
{
	uint8_t *b = p;

	b[0] = (uint8_t)v;
	b[1] = (uint8_t)(v >> 8);
}

static inline void half_put32(void *p, uint32_t v)
{
	uint8_t *b = p;

	b[0] = (uint8_t)v;
	b[1] = (uint8_t)(v >> 8);
	b[2] = (uint8_t)(v >> 16);
	b[3] = (uint8_t)(v >> 24);
}

static inline void half_put64(void *p, uint64_t v)
{
	uint8_t *b = p;

	half_put32(b, (uint32_t)v);
	half_put32(b + 4, (uint32_t)(v >> 32));
}

#endif
