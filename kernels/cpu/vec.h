/* vec.h - one vocabulary for vectors, by the flags the file is compiled with:
 * 16 floats with AVX-512, 8 with AVX2 (and FMA, F16C), else 4 through the
 * compiler's own vectors, which is SSE2 or NEON on today's machines.
 *
 * The bodies (*.inc) are written once in these words.  V is a vector of VN
 * floats, U one of VN 32-bit words.  Loads and stores take any alignment.
 * Sums over lanes have one fixed order.  v_fma may round once or twice;
 * v_mul, v_add, v_sub, v_div round once each. */
#ifndef KERNELS_CPU_VEC_H
#define KERNELS_CPU_VEC_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__SSE__)
#include <xmmintrin.h>
#endif

#define VEC static inline __attribute__((always_inline, unused))

/* Ask for the cache line at p; any p will do. */
#if defined(__GNUC__)
#define v_fetch(p) __builtin_prefetch(p)
#else
#define v_fetch(p) ((void)(p))
#endif

/* Unroll completely: the arrays of accumulators must become registers.  Not
 * under a sanitizer, which would put a check on every copy.  clang (14) takes
 * these functions apart before it knows how often their loops run, and cannot
 * be told; with several rows of x its kernels take twice the time of gcc's. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define UNROLL _Pragma("GCC unroll 16")
#else
#define UNROLL
#endif

#if defined(__AVX512F__)

#define V __m512
#define U __m512i
#define VN 16
#define V_REGS 32 /* registers there are */

VEC V v_set(float f) { return _mm512_set1_ps(f); }
VEC V v_load(const float *p) { return _mm512_loadu_ps(p); }
VEC void v_store(float *p, V a) { _mm512_storeu_ps(p, a); }
VEC __mmask16 v_mask(uint32_t n) { return (__mmask16)((1u << n) - 1); }
/* The first n lanes, at most all; the others 0 or untouched. */
VEC V v_part(const float *p, uint32_t n)
{
	return _mm512_maskz_loadu_ps(v_mask(n), p);
}
VEC void v_keep(float *p, V a, uint32_t n)
{
	_mm512_mask_storeu_ps(p, v_mask(n), a);
}
VEC V v_add(V a, V b) { return _mm512_add_ps(a, b); }
VEC V v_sub(V a, V b) { return _mm512_sub_ps(a, b); }
VEC V v_mul(V a, V b) { return _mm512_mul_ps(a, b); }
VEC V v_div(V a, V b) { return _mm512_div_ps(a, b); }
VEC V v_fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
/* b where either is NaN */
VEC V v_max(V a, V b) { return _mm512_max_ps(a, b); }
VEC V v_min(V a, V b) { return _mm512_min_ps(a, b); }
VEC V v_rint(V a)
{
	return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT |
					       _MM_FROUND_NO_EXC);
}
VEC V v_f16(const uint16_t *p)
{
	return _mm512_cvtph_ps(
		_mm256_loadu_si256((const __m256i *)(const void *)p));
}
VEC V v_bf16(const uint16_t *p)
{
	__m256i h = _mm256_loadu_si256((const __m256i *)(const void *)p);

	return _mm512_castsi512_ps(
		_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
VEC V v_i8(const int8_t *p)
{
	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
		_mm_loadu_si128((const __m128i *)(const void *)p)));
}
VEC U u_load(const uint32_t *p) { return _mm512_loadu_si512(p); }
VEC U u_set(uint32_t u) { return _mm512_set1_epi32((int)u); }
VEC U u_and(U a, U b) { return _mm512_and_si512(a, b); }
VEC U u_or(U a, U b) { return _mm512_or_si512(a, b); }
#define u_shr(a, n) _mm512_srli_epi32(a, (unsigned int)(n)) /* n constant */
VEC U u_shrv(U a, uint32_t n)
{
	return _mm512_srl_epi32(a, _mm_cvtsi32_si128((int)n));
}
/* words below 2^31 as floats */
VEC V v_from(U a) { return _mm512_cvtepi32_ps(a); }
/* 2^n * a for whole n */
VEC V v_scale2(V a, V n) { return _mm512_scalef_ps(a, n); }
VEC float v_sum(V a)
{
	__m256 h = _mm256_add_ps(_mm512_castps512_ps256(a),
				 _mm512_extractf32x8_ps(a, 1));
	__m128 q = _mm_add_ps(_mm256_castps256_ps128(h),
			      _mm256_extractf128_ps(h, 1));

	q = _mm_add_ps(q, _mm_movehl_ps(q, q));
	return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

/* The sums of four vectors, to four floats. */
VEC void v_sum4(const V *a, float *out)
{
	V x = v_add(_mm512_unpacklo_ps(a[0], a[1]),
		    _mm512_unpackhi_ps(a[0], a[1]));
	V y = v_add(_mm512_unpacklo_ps(a[2], a[3]),
		    _mm512_unpackhi_ps(a[2], a[3]));
	V z = v_add(_mm512_shuffle_ps(x, y, 0x44),
		    _mm512_shuffle_ps(x, y, 0xee));
	__m256 h = _mm256_add_ps(_mm512_castps512_ps256(z),
				 _mm512_extractf32x8_ps(z, 1));

	_mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(h),
				      _mm256_extractf128_ps(h, 1)));
}

/* Whole numbers from -128 to 255 as bytes. */
VEC void v_bytes(void *p, V a)
{
	_mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(
		_mm512_cvttps_epi32(a)));
}

/* Four rows a[0], a[1].. of a square, columns of four to each quarter. */
VEC void v_turn4(V *a)
{
	V s = _mm512_unpacklo_ps(a[0], a[1]);
	V t = _mm512_unpackhi_ps(a[0], a[1]);
	V u = _mm512_unpacklo_ps(a[2], a[3]);
	V v = _mm512_unpackhi_ps(a[2], a[3]);

	a[0] = _mm512_shuffle_ps(s, u, 0x44);
	a[1] = _mm512_shuffle_ps(s, u, 0xee);
	a[2] = _mm512_shuffle_ps(t, v, 0x44);
	a[3] = _mm512_shuffle_ps(t, v, 0xee);
}
/* A square of VN rows to columns. */
VEC void v_turn(V *a)
{
	UNROLL
	for (int i = 0; i < VN; i += 4)
		v_turn4(a + i);
	UNROLL
	for (int i = 0; i < 4; i++) {
		V s = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88);
		V t = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
		V u = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
		V v = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);

		a[i] = _mm512_shuffle_f32x4(s, u, 0x88);
		a[i + 4] = _mm512_shuffle_f32x4(t, v, 0x88);
		a[i + 8] = _mm512_shuffle_f32x4(s, u, 0xdd);
		a[i + 12] = _mm512_shuffle_f32x4(t, v, 0xdd);
	}
}

#elif defined(__AVX2__)

#define V __m256
#define U __m256i
#define VN 8
#define V_REGS 16

VEC V v_set(float f) { return _mm256_set1_ps(f); }
VEC V v_load(const float *p) { return _mm256_loadu_ps(p); }
VEC void v_store(float *p, V a) { _mm256_storeu_ps(p, a); }
VEC U v_mask(uint32_t n)
{
	return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n),
				  _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
VEC V v_part(const float *p, uint32_t n)
{
	return _mm256_maskload_ps(p, v_mask(n));
}
VEC void v_keep(float *p, V a, uint32_t n)
{
	_mm256_maskstore_ps(p, v_mask(n), a);
}
VEC V v_add(V a, V b) { return _mm256_add_ps(a, b); }
VEC V v_sub(V a, V b) { return _mm256_sub_ps(a, b); }
VEC V v_mul(V a, V b) { return _mm256_mul_ps(a, b); }
VEC V v_div(V a, V b) { return _mm256_div_ps(a, b); }
VEC V v_fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
VEC V v_max(V a, V b) { return _mm256_max_ps(a, b); }
VEC V v_min(V a, V b) { return _mm256_min_ps(a, b); }
VEC V v_rint(V a)
{
	return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT |
					  _MM_FROUND_NO_EXC);
}
VEC V v_f16(const uint16_t *p)
{
	return _mm256_cvtph_ps(
		_mm_loadu_si128((const __m128i *)(const void *)p));
}
VEC V v_bf16(const uint16_t *p)
{
	__m128i h = _mm_loadu_si128((const __m128i *)(const void *)p);

	return _mm256_castsi256_ps(
		_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
VEC V v_i8(const int8_t *p)
{
	return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(
		_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
VEC U u_load(const uint32_t *p)
{
	return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
VEC U u_set(uint32_t u) { return _mm256_set1_epi32((int)u); }
VEC U u_and(U a, U b) { return _mm256_and_si256(a, b); }
VEC U u_or(U a, U b) { return _mm256_or_si256(a, b); }
#define u_shr(a, n) _mm256_srli_epi32(a, (int)(n))
VEC U u_shrv(U a, uint32_t n)
{
	return _mm256_srl_epi32(a, _mm_cvtsi32_si128((int)n));
}
VEC V v_from(U a) { return _mm256_cvtepi32_ps(a); }
VEC V v_scale2(V a, V n)
{
	U e = _mm256_add_epi32(_mm256_cvtps_epi32(n), u_set(127));

	return v_mul(a, _mm256_castsi256_ps(_mm256_slli_epi32(e, 23)));
}
VEC float v_sum(V a)
{
	__m128 q = _mm_add_ps(_mm256_castps256_ps128(a),
			      _mm256_extractf128_ps(a, 1));

	q = _mm_add_ps(q, _mm_movehl_ps(q, q));
	return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

VEC void v_sum4(const V *a, float *out)
{
	V x = v_add(_mm256_unpacklo_ps(a[0], a[1]),
		    _mm256_unpackhi_ps(a[0], a[1]));
	V y = v_add(_mm256_unpacklo_ps(a[2], a[3]),
		    _mm256_unpackhi_ps(a[2], a[3]));
	V z = v_add(_mm256_shuffle_ps(x, y, 0x44),
		    _mm256_shuffle_ps(x, y, 0xee));

	_mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(z),
				      _mm256_extractf128_ps(z, 1)));
}

VEC void v_bytes(void *p, V a)
{
	const __m256i low = _mm256_set1_epi32(0x0c080400);
	__m256i b = _mm256_shuffle_epi8(_mm256_cvttps_epi32(a), low);
	int32_t half[2] = { _mm256_extract_epi32(b, 0),
			    _mm256_extract_epi32(b, 4) };

	memcpy(p, half, sizeof(half));
}

VEC void v_turn(V *a)
{
	UNROLL
	for (int i = 0; i < VN; i += 4) {
		V s = _mm256_unpacklo_ps(a[i], a[i + 1]);
		V t = _mm256_unpackhi_ps(a[i], a[i + 1]);
		V u = _mm256_unpacklo_ps(a[i + 2], a[i + 3]);
		V v = _mm256_unpackhi_ps(a[i + 2], a[i + 3]);

		a[i] = _mm256_shuffle_ps(s, u, 0x44);
		a[i + 1] = _mm256_shuffle_ps(s, u, 0xee);
		a[i + 2] = _mm256_shuffle_ps(t, v, 0x44);
		a[i + 3] = _mm256_shuffle_ps(t, v, 0xee);
	}
	UNROLL
	for (int i = 0; i < 4; i++) {
		V s = a[i];

		a[i] = _mm256_permute2f128_ps(s, a[i + 4], 0x20);
		a[i + 4] = _mm256_permute2f128_ps(s, a[i + 4], 0x31);
	}
}

#else

#include <math.h>

#define V float __attribute__((vector_size(16)))
#define U uint32_t __attribute__((vector_size(16)))
#define I int32_t __attribute__((vector_size(16)))
#define VN 4
#define V_REGS 16

VEC V v_set(float f) { return (V){ f, f, f, f }; }
VEC V v_load(const float *p)
{
	V r;
	memcpy(&r, p, sizeof(r));
	return r;
}
VEC void v_store(float *p, V a) { memcpy(p, &a, sizeof(a)); }
VEC V v_part(const float *p, uint32_t n)
{
	V r = v_set(0);
	memcpy(&r, p, n * sizeof(*p));
	return r;
}
VEC void v_keep(float *p, V a, uint32_t n) { memcpy(p, &a, n * sizeof(*p)); }
VEC V v_add(V a, V b) { return a + b; }
VEC V v_sub(V a, V b) { return a - b; }
VEC V v_mul(V a, V b) { return a * b; }
VEC V v_div(V a, V b) { return a / b; }
VEC V v_fma(V a, V b, V c) { return a * b + c; }
/* a where m is all ones, b where it is 0 */
VEC V v_pick(I m, V a, V b) { return (V)(((I)a & m) | ((I)b & ~m)); }
VEC V v_max(V a, V b) { return v_pick(a > b, a, b); }
VEC V v_min(V a, V b) { return v_pick(a < b, a, b); }
VEC V v_rint(V a)
{
	return (V){ rintf(a[0]), rintf(a[1]), rintf(a[2]), rintf(a[3]) };
}
/* The exponent moves by a product, which is exact for subnormals too;
 * infinities and NaNs get the largest one. */
VEC V v_f16(const uint16_t *p)
{
	U u = { p[0], p[1], p[2], p[3] };
	U m = (u & 0x7fff) << 13;
	U f = (U)((V)m * v_set(0x1p112F));

	f |= (U)(m >= 0x0f800000) & 0x7f800000;
	return (V)(f | (u & 0x8000) << 16);
}
VEC V v_bf16(const uint16_t *p)
{
	return (V)((U){ p[0], p[1], p[2], p[3] } << 16);
}
VEC V v_i8(const int8_t *p) { return (V){ p[0], p[1], p[2], p[3] }; }
VEC U u_load(const uint32_t *p)
{
	U r;
	memcpy(&r, p, sizeof(r));
	return r;
}
VEC U u_set(uint32_t u) { return (U){ u, u, u, u }; }
VEC U u_and(U a, U b) { return a & b; }
VEC U u_or(U a, U b) { return a | b; }
VEC U u_shr(U a, uint32_t n) { return a >> n; }
VEC U u_shrv(U a, uint32_t n) { return a >> n; }
VEC V v_from(U a) { return __builtin_convertvector((I)a, V); }
VEC V v_scale2(V a, V n)
{
	return a * (V)((__builtin_convertvector(n, I) + 127) << 23);
}
VEC float v_sum(V a) { return (a[0] + a[2]) + (a[1] + a[3]); }
VEC void v_sum4(const V *a, float *out)
{
	for (int i = 0; i < 4; i++)
		out[i] = v_sum(a[i]);
}

VEC void v_bytes(void *p, V a)
{
	uint8_t b[VN];

	for (int i = 0; i < VN; i++)
		b[i] = (uint8_t)(int)a[i];
	memcpy(p, b, sizeof(b));
}

VEC void v_turn(V *a)
{
#if defined(__SSE__)
	_MM_TRANSPOSE4_PS(a[0], a[1], a[2], a[3]);
#else
	V t[VN];

	memcpy(t, a, sizeof(t));
	for (int i = 0; i < VN; i++)
		for (int j = 0; j < VN; j++)
			a[i][j] = t[j][i];
#endif
}

#endif

/* The first n < VN elements. */
VEC V v_f16_part(const uint16_t *p, uint32_t n)
{
	uint16_t h[VN] = { 0 };

	memcpy(h, p, n * sizeof(h[0]));
	return v_f16(h);
}

VEC V v_i8_part(const int8_t *p, uint32_t n)
{
	int8_t b[VN] = { 0 };

	memcpy(b, p, n * sizeof(b[0]));
	return v_i8(b);
}

VEC V v_bf16_part(const uint16_t *p, uint32_t n)
{
	uint16_t h[VN] = { 0 };

	memcpy(h, p, n * sizeof(h[0]));
	return v_bf16(h);
}

/* e^x to 2 ulp for -87 <= x <= 88, clamped to this range beyond; NaN stays.
 * x = n ln 2 + r; the polynomial is Cephes' expf (S. L. Moshier). */
VEC V v_exp(V x)
{
	V n, r, p;

	x = v_min(v_set(88.0F), v_max(v_set(-87.0F), x));
	n = v_rint(v_mul(x, v_set(1.44269504F)));
	r = v_fma(n, v_set(-0.693359375F), x);
	r = v_fma(n, v_set(2.12194440e-4F), r);
	p = v_set(1.9875691500e-4F);
	p = v_fma(p, r, v_set(1.3981999507e-3F));
	p = v_fma(p, r, v_set(8.3334519073e-3F));
	p = v_fma(p, r, v_set(4.1665795894e-2F));
	p = v_fma(p, r, v_set(1.6666665459e-1F));
	p = v_fma(p, r, v_set(5.0000001201e-1F));
	p = v_fma(v_mul(r, r), p, v_add(r, v_set(1.0F)));
	return v_scale2(p, n);
}

#endif
