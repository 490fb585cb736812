/* isa_avx512.c - the vector kernels for AVX-512 F, BW, VL, DQ. */
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

const struct cpu_isa cpu_isa_avx512 = {
	.name = "avx512",
#include "isa.inc"
};
