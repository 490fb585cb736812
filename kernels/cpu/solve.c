#include "solve.h"

#include "../../libfmt/base/err.h"

#include <math.h>
#include <stddef.h>

int cpu_solve_chol(double *a, uint32_t n, struct err *err)
{
	for (uint32_t i = 0; i < n; i++) {
		double *ai = a + (size_t)i * n;

		for (uint32_t j = 0; j <= i; j++) {
			const double *aj = a + (size_t)j * n;
			double sum = ai[j];

			for (uint32_t k = 0; k < j; k++)
				sum -= ai[k] * aj[k];
			if (j < i)
				ai[j] = sum / aj[j];
			else if (sum > 0 && isfinite(sum))
				ai[i] = sqrt(sum);
			else
				return err_set(err, ERR_CHECK,
					       "the Hessian is not positive "
					       "definite (pivot %u of %u)",
					       i, n);
		}
	}
	return 0;
}

/* The inverse of the lower triangle, in place, row by row: row i of L^-1 needs
 * the rows above it and L's own row i. */
static void invert_lower(double *a, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		double *ai = a + (size_t)i * n;

		for (uint32_t j = 0; j < i; j++) {
			double sum = 0;

			/* a[k][j] for k < i is inverted already; ai[k] for
			 * k >= j is still L */
			for (uint32_t k = j; k < i; k++)
				sum += ai[k] * a[(size_t)k * n + j];
			ai[j] = -sum / ai[i];
		}
		ai[i] = 1 / ai[i];
	}
}

void cpu_solve_inverse(double *a, uint32_t n)
{
	invert_lower(a, n);
	/* A^-1 = M^T M with M = L^-1: into the upper triangle and its own
	 * lower part last, row by row; element (i, j), i <= j, needs
	 * M[k][i], M[k][j] for k >= j only. */
	for (uint32_t j = 0; j < n; j++)
		for (uint32_t i = 0; i <= j; i++) {
			double sum = 0;

			for (uint32_t k = j; k < n; k++)
				sum += a[(size_t)k * n + i] *
				       a[(size_t)k * n + j];
			/* M[j][i] is needed by no later (i', j) with i' > i
			 * in this column and by none with j' > j */
			if (i < j)
				a[(size_t)i * n + j] = sum;
			a[(size_t)j * n + i] = sum;
		}
}

