/* isa_generic.c - the vector kernels for any machine. */
#include "cpu.h"
#include "vec.h"

#include "dot.inc"
#include "elem.inc"
#include "qdot.inc"
#include "sweep.inc"

const struct cpu_isa cpu_isa_generic = {
	.name = "generic",
#include "isa.inc"
};
