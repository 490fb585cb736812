/* isa_avx512.c - the vector kernels for AVX-512 F, BW, VL, DQ. */
#include "cpu.h"
#include "grid.h"
#include "vec.h"

#include <math.h>

#include "dot.inc"
#include "elem.inc"
#include "qdot.inc"
#include "sweep.inc"
#include "refine.inc"

const struct cpu_isa cpu_isa_avx512 = {
	.name = "avx512",
#include "isa.inc"
};
