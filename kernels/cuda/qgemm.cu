/* qgemm.cu - Y = X W^T for quantized W: more rows, every other shape, and the
 * choice among the kernels.
 *
 *	rows      kernel
 *	1..8      mma of bytes, where there is wgmma and inputs are a multiple of
 *	          128 (qbyte.cu); elsewhere mma, one tile of 8 rows (qgemv.cu)
 *	9..       wgmma, where there is (qwgmma.cu); elsewhere
 *	9..96     mma, 2, 4 or 8 tiles: 64 rows for each reading of the weight
 *	more      dequantized to f16, then cuBLAS; without cuBLAS 64 rows at a
 *	          time as above
 *
 * Shapes the layout of qw.cuh does not hold run the generic kernel, in f32. */
#include "qw.cuh"

#include <stdio.h>

/* Rows from which dequantizing first is faster. */
#define DENSE_FROM 97u

/* ---- 9..64 rows ----
 *
 * What limits is no longer the weight but bringing activations to the tensor
 * cores: so a warp takes two strips, and the activations lie in the order of
 * the fragments (x16_at).  The scale goes onto the weights, in f16, times 64
 * to keep small scales out of the subnormals; the f32 sums are divided by it.
 * Sixteen warps share the inputs of two strips where these are few, else
 * eight. */

#define UP 64.f

template <int BITS> struct unit2 {
	uint32_t s, z; /* scales and zeros of the rows g and g + 8 */
};

/* code - zero, times the scale: registers of A for the two mma of a half. */
template <int BITS>
__device__ __forceinline__ void scaled(const frag<BITS> &f, int h, unit2<BITS> u,
				       int bf16, uint32_t w[2][4])
{
	const zeros<BITS> z(u.z);
	const float2 s = scales(u.s, bf16);
	const __half2 lo = __float2half2_rn(s.x * UP);
	const __half2 hi = __float2half2_rn(s.y * UP);

#pragma unroll
	for (int j = 0; j < 2; j++) {
		frag_expand<BITS>(f, 2 * h + j, z, w[j]);
#pragma unroll
		for (int p = 0; p < 4; p++)
			w[j][p] = as_u32(__hmul2(as_half2(w[j][p]),
						 p % 2 ? hi : lo));
	}
}

template <int BITS, int UNIT, int NT>
__global__ void __launch_bounds__(512, 1)
qgemm_kernel(const struct qmma_arg a)
{
	extern __shared__ float red[];
	/* units of a chunk, at least one; chunks on their way */
	constexpr int US = UNIT == 128 ? 1 : 2, D = 2;
	const uint32_t mid = BITS == 2 ? 0x40004000 : BITS == 3 ? 0x44004400
			   : BITS == 4 ? 0x48004800 : 0x58005800;
	const int kw = threadIdx.x / 32, lane = threadIdx.x % 32;
	const int g = lane / 4, t = lane % 4, kws = blockDim.x / 32;
	const uint32_t each = (a.chunks + kws - 1) / kws;
	const uint32_t c0 = min(kw * each, a.chunks);
	const uint32_t c1 = min(c0 + each, a.chunks);
	const uint4 *xp = (const uint4 *)a.x + lane;
	const uint32_t *wp[2], *sp[2], *zp[2];
	frag<BITS> q[D][2];
	unit2<BITS> un[D][2][US];
	float acc[2][NT][4] = {};

#pragma unroll
	for (int s = 0; s < 2; s++) {
		/* of an odd number the last is done twice */
		size_t strip = min(blockIdx.x * 2 + s, a.strips - 1);

		wp[s] = a.word + strip * a.chunks * 32 * BITS;
		sp[s] = a.scale + strip * a.units * 8 + g;
		zp[s] = a.zero ? a.zero + strip * a.units * 8 + g : nullptr;
	}
	auto load = [&](int d, uint32_t c) {
#pragma unroll
		for (int s = 0; s < 2; s++) {
			q[d][s] = frag_load<BITS>(wp[s] + (size_t)c * 32 * BITS,
						  lane);
#pragma unroll
			for (int u = 0; u < US; u++) {
				uint32_t at = (US == 1 ? c / 2 : 2 * c + u) * 8;

				un[d][s][u].s = __ldg(sp[s] + at);
				un[d][s][u].z = zp[s] ? __ldg(zp[s] + at) : mid;
			}
		}
	};
#pragma unroll
	for (int d = 0; d < D; d++)
		if (c0 + d < c1)
			load(d, c0 + d);
	cu_next();
	cu_wait();
	for (uint32_t c = c0; c < c1; c += D) {
#pragma unroll
		for (int d = 0; d < D; d++) {
			if (c + d >= c1)
				break;
			const uint4 *x = xp + (size_t)(c + d) * 2 * NT * 32;
			uint32_t w[2][2][2][4]; /* [strip][half][mma][reg] */

#pragma unroll
			for (int s = 0; s < 2; s++)
#pragma unroll
				for (int h = 0; h < 2; h++)
					scaled<BITS>(q[d][s], h,
						     un[d][s][US == 1 ? 0 : h],
						     a.bf16, w[s][h]);
			if (c + d + D < c1)
				load(d, c + d + D);
#pragma unroll
			for (int i = 0; i < 2 * NT; i++) {
				const int h = i / NT, n = i % NT;
				const uint4 v = x[i * 32];

#pragma unroll
				for (int s = 0; s < 2; s++) {
					mma(acc[s][n], w[s][h][0], v.x, v.y);
					mma(acc[s][n], w[s][h][1], v.z, v.w);
				}
			}
		}
	}

	/* add the warps' sums: the upper half to the lower, and so on */
	for (int half = kws / 2; half; half /= 2) {
		float *mine = red + (kw % half) * NT * 256 + lane;

		if (kw >= half && kw < 2 * half)
#pragma unroll
			for (int i = 0; i < NT * 8; i++)
				mine[i * 32] = acc[i / 4 / NT][i / 4 % NT][i % 4];
		__syncthreads();
		if (kw < half)
#pragma unroll
			for (int i = 0; i < NT * 8; i++)
				acc[i / 4 / NT][i / 4 % NT][i % 4] +=
					mine[i * 32];
		__syncthreads();
	}
	if (kw)
		return;
#pragma unroll
	for (int i = 0; i < NT * 8; i++) {
		const int s = i / 4 / NT, n = i / 4 % NT;
		uint32_t row = n * 8 + t * 2 + i % 2;
		uint32_t strip = blockIdx.x * 2 + s;
		uint32_t col = strip * 16 + g + i % 4 / 2 * 8;

		if (row < a.m && col < a.n && strip < a.strips)
			a.y[row * a.ldy + col] = acc[s][n][i % 4] * (1 / UP);
	}
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
	int kws = a->strips <= 528 ? 16 : 8;
	struct cu_dim d = { dim3((a->strips + 1) / 2), dim3(kws * 32),
			    qmma_smem(kws, 2, nt) };
	kernel_fn fn = nt == 2 ? by_unit<2>(unit, a->bits)
		     : nt == 4 ? by_unit<4>(unit, a->bits)
			       : by_unit<8>(unit, a->bits);

	return cu_launch(be, "qgemm", d, err, fn, *a);
}

/* ---- activations as f16 ---- */

__global__ void x16_kernel(const float *x, size_t ld, struct cu_x16_form form,
			   const uint32_t *perm, __half *out)
{
	uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;

	cu_next();
	cu_wait();
	if (c >= form.k)
		return;
	uint32_t from = perm ? perm[c] : c;
	for (uint32_t r = blockIdx.y; r < form.m; r += gridDim.y)
		out[x16_at(form, r, c)] = cu_half(x[r * ld + from]);
}

/* A block per row, which it reads once, whatever the order. */
__global__ void __launch_bounds__(256)
x16_row_kernel(const float *x, size_t ld, struct cu_x16_form form,
	       const uint32_t *perm, __half *out)
{
	extern __shared__ float row[];
	const uint32_t r = blockIdx.x;

	cu_next();
	cu_wait();
	for (uint32_t c = threadIdx.x; c < form.k; c += 256)
		row[c] = x[r * ld + c];
	__syncthreads();
	for (uint32_t c = threadIdx.x * 2; c < form.k; c += 512) {
		const uint2 at = perm ? *(const uint2 *)(perm + c)
				      : make_uint2(c, c + 1);

		*(__half2 *)(out + x16_at(form, r, c)) = __halves2half2(
			cu_half(row[at.x]), cu_half(row[at.y]));
	}
}

int cu_x16(struct be *be, const struct be_mat *x, const struct be_qw *w,
	   struct cu_x16_form form, const __half **out, struct err *err)
{
	const size_t row = (size_t)x->cols * sizeof(float);
	struct cu_dim d = { dim3(cu_div_up(x->cols, 256),
				 x->rows < 65535 ? x->rows : 65535),
			    dim3(256), 0 };
	const uint32_t *perm = w ? w->perm : NULL;
	const uint64_t order = w ? w->order : 0;
	__half *to;

	*out = cu_x16_find(be, x, order, form);
	if (*out)
		return 0;
	to = cu_x16_room(be, x, order, form, err);
	*out = to;
	if (!to)
		return -1;
	if (form.planes)
		return cu_planes(be, x, perm, { to, form }, err);
	if (form.rows && row <= be->smem)
		return cu_launch(be, "qgemm", { dim3(x->rows), dim3(256), row },
				 err, x16_row_kernel, (const float *)x->p,
				 (size_t)x->ld, form, perm, to);
	return cu_launch(be, "qgemm", d, err, x16_kernel, (const float *)x->p,
			 (size_t)x->ld, form, perm, to);
}

/* ---- the weight as f16 ---- */

struct dequant_arg {
	const uint32_t *word, *scale, *zero;
	__half *out;
	uint32_t in, rows, strips, chunks, units;
	int bf16;
};

/* A warp per chunk of a strip, turned in shared memory. */
template <int BITS, int UNIT>
__global__ void dequant_kernel(const struct dequant_arg a)
{
	const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
	const uint32_t at = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
	const uint32_t strip = at / a.chunks, c = at % a.chunks;
	const uint32_t mid = BITS == 2 ? 0x40004000 : BITS == 3 ? 0x44004400
			   : BITS == 4 ? 0x48004800 : 0x58005800;

	__shared__ __align__(16) __half all[8][16][64 + 8];
	__half(*tile)[64 + 8] = all[threadIdx.x / 32];

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
			v[p % 2][p / 2] = as_u32(__floats2half2_rn(q.x * k,
								   q.y * k));
		}
#pragma unroll
		for (int r = 0; r < 2; r++)
			*(uint4 *)&tile[g + 8 * r][h * 32 + t * 8] =
				make_uint4(v[r][0], v[r][1], v[r][2], v[r][3]);
	}
	__syncwarp();
	/* whole lines of 128 bytes */
#pragma unroll
	for (int i = 0; i < 4; i++) {
		uint32_t r = i * 4 + lane / 8, n = strip * 16 + r;

		if (n < a.rows)
			*(uint4 *)(a.out + (size_t)n * a.in + c * 64 +
				   lane % 8 * 8) =
				*(uint4 *)&tile[r][lane % 8 * 8];
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
	static const char *const wgmma[] = { "wgmma-b2", "wgmma-b3", "wgmma-b4",
					     "wgmma-b8" };
	static const char *const many[] = {
		"dequant-b2+cublas", "dequant-b3+cublas", "dequant-b4+cublas",
		"dequant-b8+cublas",
	};
	int i = w->spec.bits == 8 ? 3 : w->spec.bits - 2;

	if (w->why)
		return w->why;
	if (cu_x16_form(be, m, w->spec.in).planes)
		return few[i];
	if (be->wgmma && m > 8)
		return wgmma[i];
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

	if (cu_x16(be, x, w, cu_x16_form(be, x->rows, x->cols), &x16, err) ||
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

	if (cu_x16(be, x, w, cu_x16_form(be, x->rows, x->cols), &a.x, err))
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
	if (cu_x16_form(be, x->rows, x->cols).planes)
		return cu_qbyte(be, x, w, y, err);
	if (be->wgmma && x->rows > 8)
		return cu_qwgmma(be, x, w, y, err);
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
