/* bits_tile.inc for AVX-512 F, BW, VL, DQ. */
#include "../base/half.h"
#include "bits_tile.h"

#include "bits_tile.inc"

extern const struct bits_isa bits_isa_avx512;

ISA(avx512);
