/* qwgmma_b8.cu - the kernels of qwgmma.cuh for 8 bits. */
#include "qwgmma_run.cuh"

QWG_WIDTH(8)
