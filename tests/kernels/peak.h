/* peak.h - the most a core can do, for the bench to compare with. */
#ifndef TESTS_KERNELS_PEAK_H
#define TESTS_KERNELS_PEAK_H

#include <stdint.h>

/* Do so much work, and tell how many operations it was (a multiply-add counts
 * as two); 0 where it is not known how.  The result goes to *sink, so that the
 * work is done. */
double peak_flops(uint64_t turns, float *sink);

#endif
