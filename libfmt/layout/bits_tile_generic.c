/* bits_tile.inc for any machine. */
#include "../base/half.h"
#include "bits_tile.h"

#include "bits_tile.inc"

extern const struct bits_isa bits_isa_generic;

ISA(generic);
