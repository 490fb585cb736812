/* cache.h - how an element goes into the cache (struct be_cache) and where; for
 * the reference and the vector kernels, and the operations of the reference. */
#ifndef KERNELS_CPU_CACHE_H
#define KERNELS_CPU_CACHE_H

#include "../../libfmt/base/half.h"
#include "../backend.h"

#include <math.h>

/* The scale of a head whose largest magnitude is `top`: an F16 number. */
static inline float cpu_cache_scale(float top)
{
	return half_to_f32(half_from_f32(fminf(top / 127, 65504)));
}

static inline int8_t cpu_cache_code(float x, float scale)
{
	return scale > 0 ? (int8_t)fminf(fmaxf(rintf(x / scale), -127), 127)
			 : 0;
}

static inline uint16_t cpu_cache_half(float x)
{
	return half_from_f32(fminf(fmaxf(x, -65504), 65504));
}

/* Where token r stands, for struct be_store and be_attend. */
static inline struct be_at cpu_at(const struct be_at *at, uint32_t first,
				  uint32_t r)
{
	return at ? at[r] : (struct be_at){ 0, first + r };
}

int cpu_ref_store(struct be *be, const struct be_store *s, struct err *err);
int cpu_ref_attend(struct be *be, const struct be_attend *a, struct err *err);

#endif
