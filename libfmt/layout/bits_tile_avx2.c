/* bits_tile.inc for AVX2. */
#include "../base/half.h"
#include "bits_tile.h"

#include "bits_tile.inc"

extern const struct bits_isa bits_isa_avx2;

ISA(avx2);
