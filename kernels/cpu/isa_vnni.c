/* isa_vnni.c - AVX-512 with the dot products of 16-bit numbers (VNNI): the
 * kernels of isa_avx512.c, and quantized weights with whole numbers. */
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
#include "q16.inc"
#include "lanes.inc"
#include "sweep.inc"
#include "refine.inc"

const struct cpu_isa cpu_isa_vnni = {
	.name = "vnni",
#include "isa.inc"
	.halves = isa_halves,
	.qdot16 = isa_qdot16,
	.spread = isa_spread,
	.zeros16 = isa_zeros16,
	.wide16 = isa_wide16,
};
