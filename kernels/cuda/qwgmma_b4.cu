/* qwgmma_b4.cu - the kernels of qwgmma.cuh for 4 bits. */
#include "qwgmma_run.cuh"

QWG_WIDTH(4)
