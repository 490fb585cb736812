/* qwgmma_b2.cu - the kernels of qwgmma.cuh for 2 bits. */
#include "qwgmma_run.cuh"

QWG_WIDTH(2)
