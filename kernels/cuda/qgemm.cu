/* qgemm.cu - Y = X W^T for quantized W: more rows, every other shape, and the
 * choice among the kernels.
 *
 *	rows      kernel
 *	1..8      mma, one tile of 8 rows (qgemv.cu)
 *	9..64     mma, 2, 4 or 8 tiles: the weight is still read once
 *	more      dequantized to f16, then cuBLAS; without cuBLAS 64 rows at a
 *	          time as above
 *
 * Shapes the layout of qw.cuh does not hold run the generic kernel, in f32. */
#include "qw.cuh"

#include <stdio.h>

/* Rows from which dequantizing first is faster. */
#define DENSE_FROM 129u

/* ---- 9..64 rows ---- */

template <int BITS, int UNIT, int NT>
__global__ void __launch_bounds__(NT < 8 ? 512 : 256, 1)
qgemm_kernel(const struct qmma_arg a)
{
	extern __shared__ float red[];

	qmma_body<BITS, UNIT, NT, 2>(a, red);
}

typedef void (*kernel_fn)(const struct qmma_arg);

template <int UNIT, int NT> static kernel_fn by_bits(int bits)
{
	switch (bits) {
	case 2:
		return qgemm_kernel<2, UNIT, NT>;
	case 3:
		return qgemm_kernel<3, UNIT, NT>;
	case 4:
		return qgemm_kernel<4, UNIT, NT>;
	default:
		return qgemm_kernel<8, UNIT, NT>;
	}
}

template <int NT> static kernel_fn by_unit(uint32_t unit, int bits)
{
	return unit == 128 ? by_bits<128, NT>(bits) : by_bits<32, NT>(bits);
}

int cu_qgemm_few(struct be *be, const struct qmma_arg *a, uint32_t unit,
		 struct err *err)
{
	int nt = a->m <= 16 ? 2 : a->m <= 32 ? 4 : 8;
	int kw = nt < 8 ? 8 : 4;
	struct cu_dim d = { dim3((a->strips + 1) / 2), dim3(kw * 64),
			    qmma_smem(kw, 2, nt) };
	kernel_fn fn = nt == 2 ? by_unit<2>(unit, a->bits)
		     : nt == 4 ? by_unit<4>(unit, a->bits)
			       : by_unit<8>(unit, a->bits);

	return cu_launch(be, "qgemm", d, err, fn, *a);
}

/* ---- activations as f16 ---- */

__global__ void x16_kernel(const float *x, size_t ld, uint32_t m, uint32_t k,
			   const uint32_t *perm, __half *out)
{
	uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;

	cu_next();
	cu_wait();
	if (c >= k)
		return;
	uint32_t from = perm ? perm[c] : c;
	for (uint32_t r = blockIdx.y; r < m; r += gridDim.y)
		out[(size_t)r * k + c] = cu_half(x[r * ld + from]);
}

int cu_x16(struct be *be, const struct be_mat *x, const uint32_t *perm,
	   uint64_t order, const __half **out, struct err *err)
{
	struct cu_dim d = { dim3(cu_div_up(x->cols, 256),
				 x->rows < 65535 ? x->rows : 65535),
			    dim3(256), 0 };
	__half *to;

	*out = cu_x16_find(be, x, order);
	if (*out)
		return 0;
	to = cu_x16_room(be, x, order, err);
	*out = to;
	return to ? cu_launch(be, "qgemm", d, err, x16_kernel,
			      (const float *)x->p, (size_t)x->ld, x->rows,
			      x->cols, perm, to) : -1;
}

/* ---- the weight as f16 ---- */

struct dequant_arg {
	const uint32_t *word, *scale, *zero;
	__half *out;
	uint32_t in, rows, strips, chunks, units;
	int bf16;
};

/* A warp per chunk of a strip.  Each lane writes 16 bytes per row and half
 * chunk. */
template <int BITS, int UNIT>
__global__ void dequant_kernel(const struct dequant_arg a)
{
	const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
	const uint32_t at = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
	const uint32_t strip = at / a.chunks, c = at % a.chunks;
	const uint32_t mid = BITS == 2 ? 0x40004000 : BITS == 3 ? 0x44004400
			   : BITS == 4 ? 0x48004800 : 0x58005800;

	cu_wait();
	if (strip >= a.strips)
		return;
	frag<BITS> f = frag_load<BITS>(a.word + (size_t)at * 32 * BITS, lane);
#pragma unroll
	for (int h = 0; h < 2; h++) {
		uint32_t unit = UNIT == 128 ? c / 2 : c * 2 + h;
		size_t so = ((size_t)strip * a.units + unit) * 8 + g;
		zeros<BITS> z(a.zero ? a.zero[so] : mid);
		float2 s = scales(a.scale[so], a.bf16);
		uint32_t w[2][4], v[2][4];

		frag_expand<BITS>(f, 2 * h, z, w[0]);
		frag_expand<BITS>(f, 2 * h + 1, z, w[1]);
#pragma unroll
		for (int p = 0; p < 8; p++) {
			float2 q = __half22float2(as_half2(w[p / 4][p % 4]));
			float k = p % 2 ? s.y : s.x;

			/* [row g or g + 8][pair of inputs] */
			v[p % 2][p / 2] = x_pair(q.x * k, q.y * k);
		}
#pragma unroll
		for (int r = 0; r < 2; r++) {
			uint32_t n = strip * 16 + g + 8 * r;

			if (n < a.rows)
				*(uint4 *)(a.out + (size_t)n * a.in + c * 64 +
					   h * 32 + t * 8) =
					make_uint4(v[r][0], v[r][1], v[r][2],
						   v[r][3]);
		}
	}
}

template <int UNIT> static void (*dequant_by(int bits))(const dequant_arg)
{
	switch (bits) {
	case 2:
		return dequant_kernel<2, UNIT>;
	case 3:
		return dequant_kernel<3, UNIT>;
	case 4:
		return dequant_kernel<4, UNIT>;
	default:
		return dequant_kernel<8, UNIT>;
	}
}

int cu_dequant(struct be *be, const struct be_qw *w, __half *out,
	       struct err *err)
{
	struct dequant_arg a = { w->word, w->scale, w->zero, out, w->spec.in,
				 w->spec.out, w->strips, w->chunks, w->units,
				 w->bf16 };
	struct cu_dim d = { dim3(cu_div_up((uint64_t)w->strips * w->chunks, 8)),
			    dim3(256), 0 };

	return cu_launch(be, "dequantize", d, err,
			 w->unit == 128 ? dequant_by<128>(w->spec.bits)
					: dequant_by<32>(w->spec.bits),
			 a);
}

/* ---- every other shape ---- */

struct generic_arg {
	const uint8_t *code;
	const float *scale, *zero, *x;
	const uint32_t *group_of;
	float *y;
	size_t ldx, ldy;
	uint32_t m, n, k, groups;
	int offset;
};

#define G_ROWS 4

/* A warp per output and 4 rows of x; lanes take every 32nd input. */
__global__ void generic_kernel(const struct generic_arg a)
{
	const uint32_t n = blockIdx.x * 8 + threadIdx.x / 32;
	const uint32_t m0 = blockIdx.y * G_ROWS, lane = threadIdx.x % 32;
	float acc[G_ROWS] = {};

	cu_next();
	cu_wait();
	if (n >= a.n)
		return;
	for (uint32_t k = lane; k < a.k; k += 32) {
		size_t g = (size_t)n * a.groups + a.group_of[k];
		float q = a.code[(size_t)n * a.k + k];
		/* rounded as the definition of a weight rounds */
		float w = a.offset ? __fsub_rn(__fmul_rn(a.scale[g], q),
					       a.zero[g])
				   : a.scale[g] * (q - a.zero[g]);

#pragma unroll
		for (int r = 0; r < G_ROWS; r++)
			if (m0 + r < a.m)
				acc[r] += w * a.x[(m0 + r) * a.ldx + k];
	}
#pragma unroll
	for (int r = 0; r < G_ROWS; r++) {
		float s = cu_warp_sum(acc[r]);

		if (lane == 0 && m0 + r < a.m)
			a.y[(m0 + r) * a.ldy + n] = s;
	}
}

static int run_generic(struct be *be, const struct be_mat *x,
		       const struct be_qw *w, struct be_mat *y, struct err *err)
{
	struct generic_arg a = {
		w->code, w->scale32, w->zero32, (const float *)x->p,
		w->group_of, (float *)y->p, x->ld, y->ld, x->rows, w->spec.out,
		w->spec.in, w->spec.groups, w->spec.zero_kind == QL_OFFSET,
	};
	struct cu_dim d = { dim3(cu_div_up(a.n, 8), cu_div_up(a.m, G_ROWS)),
			    dim3(256), 0 };

	return cu_launch(be, "qgemm", d, err, generic_kernel, a);
}

/* ---- the choice ---- */

const char *cu_qw_kernel(const struct be *be, const struct be_qw *w, uint32_t m)
{
	static const char *const few[] = { "mma-b2", "mma-b3", "mma-b4",
					   "mma-b8" };
	static const char *const many[] = {
		"dequant-b2+cublas", "dequant-b3+cublas", "dequant-b4+cublas",
		"dequant-b8+cublas",
	};
	int i = w->spec.bits == 8 ? 3 : w->spec.bits - 2;

	if (w->why)
		return w->why;
	/* opening cuBLAS changes nothing that can be seen but be->blas */
	if (m >= DENSE_FROM && cu_blas_there(const_cast<struct be *>(be)))
		return many[i];
	return few[i];
}

static int run_dense(struct be *be, const struct be_mat *x,
		     const struct be_qw *w, struct be_mat *y, struct err *err)
{
	const __half *x16;
	void *w16;

	if (cu_x16(be, x, w->perm, w->order, &x16, err) ||
	    cu_scratch_get(be, CU_DENSE,
			   (size_t)w->spec.out * w->spec.in * 2, &w16, err) ||
	    cu_dequant(be, w, (__half *)w16, err))
		return -1;
	return cu_gemm_f16(be, x16, (const __half *)w16, y, w->spec.in, err);
}

/* At most 64 rows. */
static int run_mma(struct be *be, const struct be_mat *x, const struct be_qw *w,
		   struct be_mat *y, struct err *err)
{
	struct qmma_arg a = { w->word, w->scale, w->zero, NULL, (float *)y->p,
			      x->cols, y->ld, x->rows, w->spec.out, w->strips,
			      w->chunks, w->units, w->bf16, w->spec.bits };

	if (cu_x16(be, x, w->perm, w->order, &a.x, err))
		return -1;
	return x->rows <= 8 ? cu_qgemv(be, &a, w->unit, err)
			    : cu_qgemm_few(be, &a, w->unit, err);
}

static struct be_mat rows_of(const struct be_mat *m, uint32_t r, uint32_t n)
{
	struct be_mat v = *m;

	v.p = (float *)m->p + (size_t)r * m->ld;
	v.rows = n;
	return v;
}

int cu_qgemm(struct be *be, const struct be_mat *x, const struct be_qw *w,
	     struct be_mat *y, struct err *err)
{
	if (be_shape_qgemm(x, w->spec.in, w->spec.out, y, err))
		return -1;
	if (!x->rows)
		return 0;
	cu_wrote(be, y);
	if (w->why)
		return run_generic(be, x, w, y, err);
	if (x->rows >= DENSE_FROM && cu_blas_there(be))
		return run_dense(be, x, w, y, err);
	for (uint32_t r = 0; r < x->rows; r += 64) {
		uint32_t n = x->rows - r < 64 ? x->rows - r : 64;
		struct be_mat xr = rows_of(x, r, n), yr = rows_of(y, r, n);

		if (run_mma(be, &xr, w, &yr, err))
			return -1;
	}
	return 0;
}
