/* isa_generic.c - the vector kernels for any machine. */
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

const struct cpu_isa cpu_isa_generic = {
	.name = "generic",
#include "isa.inc"
};
