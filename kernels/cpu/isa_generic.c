/* isa_generic.c - the vector kernels for any machine. */
#include "cpu.h"
#include "grid.h"
#include "vec.h"

#include <math.h>

#include "dot.inc"
#include "elem.inc"
#include "qdot.inc"
#include "sweep.inc"
#include "refine.inc"

const struct cpu_isa cpu_isa_generic = {
	.name = "generic",
#include "isa.inc"
};
