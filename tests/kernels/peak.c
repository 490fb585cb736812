/* peak.c - what a core does at most: fused multiply-adds of f32 in registers,
 * on the widest vectors it has, with nothing to load or to store. */
#include "peak.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

#define CHAINS 12 /* more than a result takes to come back, on any machine */

#if defined(__x86_64__) && defined(__GNUC__)

__attribute__((target("avx512f")))
static double fma_512(uint64_t turns, float *sink)
{
	__m512 a = _mm512_set1_ps(1.0000001f), b = _mm512_set1_ps(1e-9f);
	__m512 s[CHAINS];

	for (int i = 0; i < CHAINS; i++)
		s[i] = _mm512_set1_ps((float)i);
	for (uint64_t t = 0; t < turns; t++) {
#pragma GCC unroll 16
		for (int i = 0; i < CHAINS; i++)
			s[i] = _mm512_fmadd_ps(s[i], a, b);
	}
	for (int i = 0; i < CHAINS; i++)
		*sink += _mm512_reduce_add_ps(s[i]);
	return 2.0 * 16 * CHAINS * (double)turns;
}

__attribute__((target("avx2,fma")))
static double fma_256(uint64_t turns, float *sink)
{
	__m256 a = _mm256_set1_ps(1.0000001f), b = _mm256_set1_ps(1e-9f);
	__m256 s[CHAINS];
	float lane[8];

	for (int i = 0; i < CHAINS; i++)
		s[i] = _mm256_set1_ps((float)i);
	for (uint64_t t = 0; t < turns; t++) {
#pragma GCC unroll 16
		for (int i = 0; i < CHAINS; i++)
			s[i] = _mm256_fmadd_ps(s[i], a, b);
	}
	for (int i = 0; i < CHAINS; i++) {
		_mm256_storeu_ps(lane, s[i]);
		*sink += lane[0];
	}
	return 2.0 * 8 * CHAINS * (double)turns;
}

double peak_flops(uint64_t turns, float *sink)
{
	if (__builtin_cpu_supports("avx512f"))
		return fma_512(turns, sink);
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		return fma_256(turns, sink);
	return 0;
}

#else

double peak_flops(uint64_t turns, float *sink)
{
	(void)turns;
	(void)sink;
	return 0; /* not known */
}

#endif
