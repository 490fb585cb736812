/* qgemv.cu - Y = X W^T for up to 8 rows of X, where qbyte.cuh does not run:
 * decoding on devices before Hopper, inputs that are no multiple of 128.
 *
 *	y[m][n] = sum over units u: scale[n][u] *
 *	          sum over k in u: (code[n][k] - zero[n][u]) * x[m][k]
 *
 * The weight is read once, which is the time it takes: qw.cuh has layout and
 * kernel.  Inside a unit sums are f32 of exact products of f16; x is rounded
 * to f16.  Strips are few for narrow outputs, so that 16 warps share one
 * there, and 8 elsewhere; the choice depends on the shape alone. */
#include "qw.cuh"

template <int BITS, int UNIT>
__global__ void __launch_bounds__(512, BITS == 8 ? 1 : 2)
qgemv_kernel(const struct qmma_arg a)
{
	extern __shared__ float red[];

	qmma_body<BITS, UNIT, 1, 1>(a, red);
}

typedef void (*kernel_fn)(const struct qmma_arg);

template <int UNIT> static kernel_fn by_bits(int bits)
{
	switch (bits) {
	case 2:
		return qgemv_kernel<2, UNIT>;
	case 3:
		return qgemv_kernel<3, UNIT>;
	case 4:
		return qgemv_kernel<4, UNIT>;
	default:
		return qgemv_kernel<8, UNIT>;
	}
}

int cu_qgemv(struct be *be, const struct qmma_arg *a, uint32_t unit,
	     struct err *err)
{
	/* 264: two strips for each multiprocessor of the H200, the shape up to
	 * which more warps per strip were measured to be faster */
	int kw = a->strips <= 264 ? 16 : 8;
	struct cu_dim d = { dim3(a->strips), dim3(kw * 32),
			    qmma_smem(kw, 1, 1) };
	kernel_fn fn = unit == 128 ? by_bits<128>(a->bits)
				   : by_bits<32>(a->bits);

	return cu_launch(be, "qgemv", d, err, fn, *a);
}
