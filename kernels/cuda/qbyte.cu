/* qbyte.cu - the kernels of qbyte.cuh, and their activations. */
#include "qbyte.cuh"

/* Shared memory of a block where two are on a multiprocessor. */
#define TWO (113u << 10)

template <int BITS, int UNIT>
static int by_rows(struct be *be, struct qbyte_arg *a, struct err *err)
{
	return a->m <= 4 ? qb_run<BITS, UNIT, 1, 16, 2>(be, a, 16, TWO, err)
			 : qb_run<BITS, UNIT, 2, 8, 2>(be, a, 8, TWO, err);
}

template <int UNIT>
static int by_bits(struct be *be, int bits, struct qbyte_arg *a,
		   struct err *err)
{
	switch (bits) {
	case 2:
		return by_rows<2, UNIT>(be, a, err);
	case 3:
		return by_rows<3, UNIT>(be, a, err);
	case 4:
		return by_rows<4, UNIT>(be, a, err);
	default:
		return by_rows<8, UNIT>(be, a, err);
	}
}

int cu_qbyte(struct be *be, const struct be_mat *x, const struct be_qw *w,
	     struct be_mat *y, struct err *err)
{
	struct qbyte_arg a = {};
	const __half *planes;

	if (cu_x16(be, x, w, cu_x16_form(be, x->rows, x->cols), &planes, err))
		return -1;
	a.word = w->word;
	a.scale = w->scale;
	a.zero = w->zero;
	a.x = (const char *)planes;
	a.y = (float *)y->p;
	a.ldy = y->ld;
	a.m = x->rows;
	a.n = w->spec.out;
	a.strips = w->strips;
	a.units = w->spec.in / 128;
	a.bf16 = w->bf16;
	return w->unit == 128 ? by_bits<128>(be, w->spec.bits, &a, err)
			      : by_bits<32>(be, w->spec.bits, &a, err);
}

/* ---- activations ---- */

/* A warp per unit and row. */
__global__ void planes_kernel(const float *x, size_t ld, const uint32_t *perm,
			      struct cu_out16 to)
{
	const uint32_t i = blockIdx.x * 8 + threadIdx.x / 32;
	const uint32_t unit = i / to.form.m, row = i % to.form.m;
	const uint32_t c = unit * 128 + threadIdx.x % 32 * 4;
	const float *from = x + row * ld;
	uint4 at = make_uint4(c, c + 1, c + 2, c + 3);

	cu_next();
	if (unit >= to.form.k / 128)
		return;
	if (perm)
		at = *(const uint4 *)(perm + c);
	cu_wait();
	planes_put(to, unit, row, make_float4(from[at.x], from[at.y], from[at.z],
					      from[at.w]));
}

int cu_planes(struct be *be, const struct be_mat *x, const uint32_t *perm,
	      struct cu_out16 to, struct err *err)
{
	return cu_launch(be, "qgemm",
			 { dim3(cu_div_up(to.form.m * to.form.k / 128, 8)),
			   dim3(256), 0, 0 },
			 err, planes_kernel, (const float *)x->p, (size_t)x->ld,
			 perm, to);
}
