/* solve.h - plain scalar Cholesky of small symmetric matrices, in double.
 * Source: G. H. Golub, C. F. Van Loan, "Matrix Computations", section 4.2. */
#ifndef KERNELS_CPU_SOLVE_H
#define KERNELS_CPU_SOLVE_H

#include <stdint.h>

struct err;

/* a [n][n] symmetric, full -> its lower Cholesky factor L, A = L L^T, in the
 * lower triangle; the upper triangle keeps A.  ERR_CHECK when A is not
 * positive definite. */
int cpu_solve_chol(double *a, uint32_t n, struct err *err);
/* a holds L in its lower triangle -> (L L^T)^-1, full. */
void cpu_solve_inverse(double *a, uint32_t n);

#endif
