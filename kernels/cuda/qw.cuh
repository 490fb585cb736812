/* qw.cuh - a quantized weight on the GPU, and the pieces of the mma kernels.
 *
 * The weight is the A operand of mma.m16n8k16 (f16 by f16 into f32), the
 * activations are B: up to 8 rows of activations cost what one costs.
 *
 * Layout of the codes: strips of 16 outputs, and along the inputs chunks of
 * 64.  A chunk of a strip is 32 x BITS words, so that a warp reads it with
 * one vector load per lane (two for 3 and 8 bits).  Lane 4g + t holds, for
 * mma j = 0..3 of the chunk, the outputs g and g + 8 of the strip at the four
 * inputs k0 = 32 (j / 2) + 8 t + 4 (j % 2), k1, k2, k3:
 *
 *	register p of A:  0: row g, k0 k1     1: row g+8, k0 k1
 *	                  2: row g, k2 k3     3: row g+8, k2 k3
 *
 * The order of inputs inside an mma is free as long as A and B agree; in this
 * one the B fragments of a lane are 16 bytes of an activation row per half
 * chunk.  The low half of register p takes its code from bit b, the high half
 * from bit b + 16:
 *
 *	4 bits  word j,            b = 4 p
 *	8 bits  word 2 j + p / 2,  b = 8 (p % 2)
 *	2 bits  word j / 2,        b = 2 (4 (j % 2) + p)
 *	3 bits  bits 0 and 1 as 2 bits; bit 2 of the code in word 2,
 *	        b = 8 (j % 2) + 4 (j / 2) + p
 *
 * A code becomes a half by or-ing it into the mantissa of a power of two and
 * taking that and the zero off, exactly.  With 4 bits a code at bits 0 to 3 of
 * its half counts ones beside 1024, one at bits 4 to 7 ones beside 64.  With
 * other widths the power is 1024, and a code at bit s counts 2^s.
 *
 * As bytes (step.cu): with 4 bits the low nibbles of a word are row g at the
 * inputs k0, k2, k1, k3 and the high ones row g + 8; the other layouts give
 * four codes of a row with a mask and a shift too.
 *
 * Scales and zeros stand per unit of 128 or 32 inputs (a longer group repeats
 * its own): [strip][unit][g] of pairs (row g, row g + 8) of 16 bits. */
#ifndef KERNELS_CUDA_QW_CUH
#define KERNELS_CUDA_QW_CUH

#include "cu.cuh"

struct be_qw {
	struct ql_spec spec;
	const char *why;   /* of the generic kernel; NULL: the mma kernels */
	void *mem;         /* behind all that follows */

	uint32_t strips, chunks, units, unit;
	uint32_t *word;    /* codes */
	uint32_t *scale;   /* pairs of f16 or bf16 */
	uint32_t *zero;    /* pairs of f16; NULL: all are 2^(bits-1) */
	uint32_t *perm;    /* [in]: column c takes x[perm[c]]; NULL: c */
	uint64_t order;    /* a hash of perm; 0: none */
	int bf16;          /* scales are */

	uint8_t *code;     /* generic: the neutral layer as it is */
	float *scale32, *zero32;
	uint32_t *group_of;
};

/* ---- device side ---- */

template <int BITS> struct frag {
	uint32_t w[BITS];
};

__device__ __forceinline__ uint4 load_once(const uint4 *p)
{
	uint4 v;

	/* read once: leave the first-level cache to the activations */
	asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 "
		     "{%0,%1,%2,%3}, [%4];"
		     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
		     : "l"(p));
	return v;
}

__device__ __forceinline__ uint2 load_once(const uint2 *p)
{
	uint2 v;

	asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v2.u32 "
		     "{%0,%1}, [%2];"
		     : "=r"(v.x), "=r"(v.y)
		     : "l"(p));
	return v;
}

/* The words of a lane; `chunk` is where the chunk starts. */
template <int BITS>
__device__ __forceinline__ frag<BITS> frag_load(const uint32_t *chunk, int lane)
{
	frag<BITS> f;

	if constexpr (BITS >= 4) {
#pragma unroll
		for (int i = 0; i < BITS / 4; i++) {
			uint4 v = load_once((const uint4 *)chunk + i * 32 +
					    lane);

			f.w[4 * i] = v.x;
			f.w[4 * i + 1] = v.y;
			f.w[4 * i + 2] = v.z;
			f.w[4 * i + 3] = v.w;
		}
	} else {
		uint2 v = load_once((const uint2 *)chunk + lane);

		f.w[0] = v.x;
		f.w[1] = v.y;
		if constexpr (BITS == 3)
			f.w[2] = __ldg(chunk + 64 + lane);
	}
	return f;
}

/* (a & b) | c */
__device__ __forceinline__ uint32_t and_or(uint32_t a, uint32_t b, uint32_t c)
{
	uint32_t r;

	asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
	return r;
}

__device__ __forceinline__ __half2 as_half2(uint32_t u)
{
	return *reinterpret_cast<__half2 *>(&u);
}

__device__ __forceinline__ uint32_t as_u32(__half2 h)
{
	return *reinterpret_cast<uint32_t *>(&h);
}

/* What register p adds to take the power of two and the zero off; the pair z
 * holds the zeros of rows g and g + 8.  All of these are whole and below 2048:
 * exact. */
template <int BITS> struct zeros {
	__half2 off[4];

	__device__ __forceinline__ explicit zeros(uint32_t z)
	{
		__half2 lo = __low2half2(as_half2(z));
		__half2 hi = __high2half2(as_half2(z));

#pragma unroll
		for (int p = 0; p < 4; p++) {
			/* the code of register p counts 2^s */
			int s = BITS == 2 ? 2 * p : 0;
			float base = BITS != 4 ? 1024.f / (1 << s)
					       : p % 2 ? 64.f : 1024.f;

			off[p] = __hsub2(__float2half2_rn(-base),
					 p % 2 ? hi : lo);
		}
	}
};

/* The four registers of A for mma j: code - zero. */
template <int BITS>
__device__ __forceinline__ void frag_expand(const frag<BITS> &f, int j,
					    const zeros<BITS> &z, uint32_t a[4])
{
	const uint32_t magic = 0x64006400;

#pragma unroll
	for (int p = 0; p < 4; p++) {
		if constexpr (BITS == 4) {
			uint32_t w = f.w[j] >> 8 * (p / 2);

			a[p] = p % 2 ? and_or(w, 0x00f000f0, 0x54005400)
				     : and_or(w, 0x000f000f, magic);
		} else if constexpr (BITS == 8) {
			uint32_t w = f.w[2 * j + p / 2] >> 8 * (p % 2);

			a[p] = and_or(w, 0x00ff00ff, magic);
		} else if constexpr (BITS == 2) {
			uint32_t w = f.w[j / 2] >> 8 * (j % 2);

			a[p] = and_or(w, 0x00030003 << 2 * p, magic);
		} else {
			uint32_t w = f.w[j / 2] >> 2 * (4 * (j % 2) + p);
			int b = 8 * (j % 2) + 4 * (j / 2) + p;
			uint32_t h = b < 2 ? f.w[2] << (2 - b)
					   : f.w[2] >> (b < 2 ? 0 : b - 2);

			a[p] = and_or(h, 0x00040004, magic);
			a[p] = and_or(w, 0x00030003, a[p]);
		}
		int s = BITS == 2 ? 2 * p : 0;

		a[p] = s ? as_u32(__hfma2(as_half2(a[p]),
					  __float2half2_rn(1.f / (1 << s)),
					  z.off[p]))
			 : as_u32(__hadd2(as_half2(a[p]), z.off[p]));
	}
}

__device__ __forceinline__ void mma(float c[4], const uint32_t a[4],
				    uint32_t b0, uint32_t b1)
{
#if __CUDA_ARCH__ >= 800
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
		     "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
		     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0),
		       "r"(b1));
#else
	/* Turing has it for 8 inputs at a time */
	asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
		     "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
		     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		     : "r"(a[0]), "r"(a[1]), "r"(b0));
	asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
		     "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
		     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		     : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

/* A pair of scales as floats. */
__device__ __forceinline__ float2 scales(uint32_t pair, int bf16)
{
	if (bf16)
		return make_float2(__uint_as_float(pair << 16),
				   __uint_as_float(pair & 0xffff0000));
	return __half22float2(as_half2(pair));
}

__device__ __forceinline__ uint32_t x_pair(float a, float b)
{
	return as_u32(__halves2half2(cu_half(a), cu_half(b)));
}

/* ---- the kernel of few rows ----
 *
 * A block takes SB strips; KW warps share the inputs of each, and their sums
 * are added as a tree.  Words and scales of the first D chunks are on their
 * way before the activations are waited for. */
struct qmma_arg {
	const uint32_t *word, *scale, *zero;
	const __half *x;   /* [8 NT][k], rows ldx apart, 16-byte aligned;
			      what rows from m on hold does not matter */
	float *y;          /* [m][n], rows ldy apart */
	size_t ldx, ldy;
	uint32_t m, n, strips, chunks, units;
	int bf16, bits;
};

template <int BITS, int UNIT, int NT, int SB>
__device__ __forceinline__ void qmma_body(const struct qmma_arg &a, float *red)
{
	/* chunks per step, units per step, chunks on their way */
	constexpr int STEP = UNIT == 128 ? 2 : 1, US = UNIT == 128 ? 1 : 2;
	constexpr int D = NT == 8 ? 2 : 4;
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const int g = lane / 4, t = lane % 4;
	const int kw = warp / SB, kws = blockDim.x / 32 / SB;
	const uint32_t strip = blockIdx.x * SB + warp % SB;
	const bool there = strip < a.strips;
	/* the warp's chunks */
	uint32_t each = (a.chunks + kws - 1) / kws;
	uint32_t c0, c1;
	frag<BITS> q[D];
	uint32_t sv[D / STEP][US], zv[D / STEP][US];
	float acc[NT][4] = {};
	/* both rows' zero, 2^(bits-1), as f16: 2, 4, 8, 128 */
	const uint32_t mid = BITS == 2 ? 0x40004000 : BITS == 3 ? 0x44004400
			   : BITS == 4 ? 0x48004800 : 0x58005800;

	each = (each + STEP - 1) / STEP * STEP;
	c0 = min(kw * each, a.chunks);
	c1 = there ? min(c0 + each, a.chunks) : c0;
	const uint32_t *wp = a.word + (size_t)(there ? strip : 0) * a.chunks *
			     32 * BITS;
	const size_t so = (size_t)(there ? strip : 0) * a.units * 8 + g;
	const uint32_t *sp = a.scale + so;
	const uint32_t *zp = a.zero ? a.zero + so : nullptr;

#pragma unroll
	for (int i = 0; i < D; i++)
		if (c0 + i < c1)
			q[i] = frag_load<BITS>(wp + (size_t)(c0 + i) * 32 *
					       BITS, lane);
#pragma unroll
	for (int i = 0; i < D / STEP; i++)
#pragma unroll
		for (int u = 0; u < US; u++) {
			uint32_t at = ((c0 + i * STEP) / STEP * US + u) * 8;

			sv[i][u] = 0;
			zv[i][u] = mid;
			if (c0 + i * STEP < c1) {
				sv[i][u] = __ldg(sp + at);
				if (zp)
					zv[i][u] = __ldg(zp + at);
			}
		}
	cu_next();
	cu_wait();
	const __half *xp = a.x + (size_t)g * a.ldx + t * 8;
	/* the rows of a single tile are read only where they are */
	const bool live = NT > 1 || (uint32_t)g < a.m;

	for (uint32_t c = c0; c < c1; c += D) {
#pragma unroll
		for (int i = 0; i < D; i += STEP) {
			if (c + i >= c1)
				break;
			float ag[NT][4] = {};

#pragma unroll
			for (int u = 0; u < STEP; u++) {
				const uint32_t cc = c + i + u;
				const frag<BITS> f = q[i + u];

				if (cc + D < c1)
					q[i + u] = frag_load<BITS>(
						wp + (size_t)(cc + D) * 32 *
						BITS, lane);
#pragma unroll
				for (int h = 0; h < 2; h++) {
					const int s = STEP == 2 ? 0 : h;
					const zeros<BITS> z(zv[i / STEP][s]);
					uint32_t w[2][4];

					frag_expand<BITS>(f, 2 * h, z, w[0]);
					frag_expand<BITS>(f, 2 * h + 1, z,
							  w[1]);
#pragma unroll
					for (int n = 0; n < NT; n++) {
						uint4 x = {};

						if (live)
							x = *(const uint4 *)(
							    xp + (size_t)n * 8 *
							    a.ldx +
							    (size_t)cc * 64 +
							    h * 32);
						mma(ag[n], w[0], x.x, x.y);
						mma(ag[n], w[1], x.z, x.w);
					}
					if (STEP == 2 && !(u == 1 && h == 1))
						continue;
					/* a unit ends: its scale */
					const float2 sf = scales(
						sv[i / STEP][s], a.bf16);
#pragma unroll
					for (int n = 0; n < NT; n++) {
						acc[n][0] += sf.x * ag[n][0];
						acc[n][1] += sf.x * ag[n][1];
						acc[n][2] += sf.y * ag[n][2];
						acc[n][3] += sf.y * ag[n][3];
						ag[n][0] = ag[n][1] = 0;
						ag[n][2] = ag[n][3] = 0;
					}
				}
			}
			if (c + i + D < c1) {
#pragma unroll
				for (int u = 0; u < US; u++) {
					uint32_t at = ((c + i + D) / STEP * US +
						       u) * 8;

					sv[i / STEP][u] = __ldg(sp + at);
					if (zp)
						zv[i / STEP][u] =
							__ldg(zp + at);
				}
			}
		}
	}

	/* add the warps' sums: the upper half to the lower, and so on */
	for (int half = kws / 2; half; half /= 2) {
		float *mine = red + ((kw % half) * SB + warp % SB) * NT * 128 +
			      lane;

		if (kw >= half && kw < 2 * half) {
#pragma unroll
			for (int n = 0; n < NT * 4; n++)
				mine[n * 32] = acc[n / 4][n % 4];
		}
		__syncthreads();
		if (kw < half) {
#pragma unroll
			for (int n = 0; n < NT * 4; n++)
				acc[n / 4][n % 4] += mine[n * 32];
		}
		__syncthreads();
	}
	if (kw || !there)
		return;
#pragma unroll
	for (int n = 0; n < NT; n++)
#pragma unroll
		for (int i = 0; i < 4; i++) {
			uint32_t row = n * 8 + t * 2 + i % 2;
			uint32_t col = strip * 16 + g + i / 2 * 8;

			if (row < a.m && col < a.n)
				a.y[row * a.ldy + col] = acc[n][i];
		}
}

/* Shared memory of the tree. */
static inline size_t qmma_smem(int kw, int sb, int nt)
{
	return (size_t)(kw / 2) * sb * nt * 128 * sizeof(float);
}

/* Up to 8 rows. */
int cu_qgemv(struct be *be, const struct qmma_arg *a, uint32_t unit,
	     struct err *err);
/* Up to 64 rows. */
int cu_qgemm_few(struct be *be, const struct qmma_arg *a, uint32_t unit,
		 struct err *err);
/* 9 rows and more, on a device with wgmma. */
int cu_qwgmma(struct be *be, const struct be_mat *x, const struct be_qw *w,
	      struct be_mat *y, struct err *err);
/* Up to CU_PLANES_ROWS rows, where activations are planes of bytes. */
int cu_qbyte(struct be *be, const struct be_mat *x, const struct be_qw *w,
	     struct be_mat *y, struct err *err);
/* x as those planes. */
int cu_planes(struct be *be, const struct be_mat *x, const uint32_t *perm,
	      struct cu_out16 to, struct err *err);
/* The weight as f16 [out][in], columns in the order of perm. */
int cu_dequant(struct be *be, const struct be_qw *w, __half *out,
	       struct err *err);
/* x in this form, columns in the order of w->perm; w NULL: as they are.  Made when
 * the last one made is another. */
int cu_x16(struct be *be, const struct be_mat *x, const struct be_qw *w,
	   struct cu_x16_form form, const __half **out, struct err *err);

#endif
