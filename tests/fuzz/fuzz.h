/* fuzz.h - what a fuzz harness offers, to an engine or to replay.c. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Always 0.  A broken property ends the program with abort(). */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#endif
