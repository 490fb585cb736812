/* isa_avx2.c - the vector kernels for AVX2, FMA and F16C. */
#include "cache.h"
#include "cpu.h"
#include "grid.h"
#include "vec.h"

#include <math.h>

#include "dot.inc"
#include "double.inc"
#include "elem.inc"
#include "cache.inc"
#include "qdot.inc"
#include "lanes.inc"
#include "sweep.inc"
#include "refine.inc"

const struct cpu_isa cpu_isa_avx2 = {
	.name = "avx2",
#include "isa.inc"
};
