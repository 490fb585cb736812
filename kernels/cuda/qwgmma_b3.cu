/* qwgmma_b3.cu - the kernels of qwgmma.cuh for 3 bits. */
#include "qwgmma_run.cuh"

QWG_WIDTH(3)
