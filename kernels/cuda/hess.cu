/* hess.cu - Hessians and their factor.
 *
 * syrk: chunks of 1024 rows as f32 products (gemm.cu), each chunk added to the
 * f64 matrix: H += alpha X^T X.
 *
 * factor: U = chol(inv(H + damp * mean I)) without an inverse.  With J the
 * reversal of order, J H J = L L^T gives H = R R^T with R = J L J upper, so
 * H^-1 = R^-T R^-1 and U = R^-1 = J L^-1 J.  In f64, in blocks of 64:
 *
 *	L    right-looking: factor the corner and invert it, multiply the panel
 *	     below by that inverse, take its square off the rest
 *	L^-1 row of blocks by row of blocks:
 *	     W[i][j] = -inv(L[i][i]) * sum over k = j..i-1 of L[i][k] W[k][j]
 *
 * 2/3 n^3 multiply-adds in all; sums in the order of the index. */
#include "cu.cuh"

#include <math.h>

#define NB 64
#define CHUNK 1024u

/* ---- syrk ---- */

/* Tiles on and above the diagonal; both triangles are written. */
__global__ void add_sym_kernel(const float *s, double *h, uint32_t n,
			       size_t ld, double alpha)
{
	__shared__ double tile[32][33];
	const uint32_t i0 = blockIdx.y * 32, j0 = blockIdx.x * 32;
	const uint32_t tx = threadIdx.x;

	cu_wait();
	if (j0 < i0)
		return;
	for (uint32_t y = threadIdx.y; y < 32; y += 8) {
		uint32_t i = i0 + y, j = j0 + tx;

		if (i < n && j < n && j >= i) {
			double v = h[i * ld + j] +
				   alpha * s[(size_t)i * n + j];

			h[i * ld + j] = v;
			tile[y][tx] = v;
		}
	}
	__syncthreads();
	for (uint32_t y = threadIdx.y; y < 32; y += 8) {
		uint32_t j = j0 + y, i = i0 + tx;

		if (i < n && j < n && j > i)
			h[j * ld + i] = tile[tx][y];
	}
}

int cu_syrk(struct be *be, const struct be_mat *x, double alpha,
	    struct be_mat *h, struct err *err)
{
	uint32_t n = x->cols, tiles = cu_div_up(n, 32);
	void *part;

	if (be_shape_syrk(x, h, err))
		return -1;
	if (!n || !x->rows)
		return 0;
	cu_wrote(be, h);
	if (cu_scratch_get(be, CU_PART, (size_t)n * n * sizeof(float), &part,
			   err))
		return -1;
	for (uint32_t r = 0; r < x->rows; r += CHUNK) {
		const float *at = (const float *)x->p + (size_t)r * x->ld;
		struct cu_dense g = {
			at, at, (float *)part, n, n,
			x->rows - r < CHUNK ? x->rows - r : CHUNK, x->ld,
			x->ld, n, 1, 0, 1, 0,
		};

		if (cu_sgemm(be, &g, err) ||
		    cu_launch(be, "syrk", { dim3(tiles, tiles), dim3(32, 8),
					    0 },
			      err, add_sym_kernel, (const float *)part,
			      (double *)h->p, n, (size_t)h->ld, alpha))
			return -1;
	}
	return 0;
}

/* ---- factor ---- */

/* What the steps work on. */
struct chol {
	double *a;    /* [n][n]: J H J, then L; its lower triangle */
	double *w;    /* [n][n]: L^-1, lower */
	double *inv;  /* [blocks][NB][NB]: inverses of L's corners */
	double *mean; /* of the diagonal */
	int *bad;     /* 1 + the row whose pivot is not positive, or 0 */
	uint32_t n;
};

__global__ void mean_kernel(const double *h, size_t ld, struct chol c)
{
	__shared__ double part[256];
	double sum = 0;

	cu_wait();
	for (uint32_t i = threadIdx.x; i < c.n; i += 256)
		sum += h[i * ld + i];
	part[threadIdx.x] = sum;
	__syncthreads();
	if (threadIdx.x)
		return;
	for (int i = 1; i < 256; i++)
		sum += part[i];
	*c.mean = sum / c.n;
	*c.bad = 0;
}

/* a = J H J + damp * mean I */
__global__ void flip_kernel(const double *h, size_t ld, double damp,
			    struct chol c)
{
	uint32_t j = blockIdx.x * blockDim.x + threadIdx.x;

	cu_wait();
	for (uint32_t i = blockIdx.y; i < c.n; i += gridDim.y)
		if (j <= i)
			c.a[(size_t)i * c.n + j] =
				h[(c.n - 1 - i) * ld + c.n - 1 - j] +
				(i == j ? damp * *c.mean : 0);
}

/* The corner of block b: factored in place, its inverse to c.inv.  Beyond the
 * matrix it continues as the identity. */
__global__ void corner_kernel(struct chol c, uint32_t b)
{
	extern __shared__ double sh[]; /* l [NB][NB + 1], then the inverse */
	double(*l)[NB + 1] = (double(*)[NB + 1])sh;
	double(*x)[NB + 1] = l + NB;
	const uint32_t at = b * NB, tid = threadIdx.x;

	cu_wait();
	for (uint32_t i = tid; i < NB * NB; i += 256) {
		uint32_t r = i / NB, k = i % NB;

		l[r][k] = at + r < c.n && at + k < c.n && k <= r
			? c.a[(size_t)(at + r) * c.n + at + k]
			: r == k;
		x[r][k] = 0;
	}
	__syncthreads();
	for (uint32_t k = 0; k < NB; k++) {
		if (tid == 0) {
			/* NaN and infinity fail too */
			if (!(l[k][k] > 0 && l[k][k] < INFINITY) && !*c.bad)
				*c.bad = (int)(at + k + 1);
			l[k][k] = sqrt(l[k][k]);
		}
		__syncthreads();
		if (tid > k && tid < NB)
			l[tid][k] /= l[k][k];
		__syncthreads();
		for (uint32_t i = tid; i < NB * NB; i += 256) {
			uint32_t r = i / NB, q = i % NB;

			if (q > k && q <= r)
				l[r][q] -= l[r][k] * l[q][k];
		}
		__syncthreads();
	}
	/* a column of the inverse per thread */
	if (tid < NB)
		for (uint32_t i = tid; i < NB; i++) {
			double v = i == tid;

			for (uint32_t k = tid; k < i; k++)
				v -= l[i][k] * x[k][tid];
			x[i][tid] = v / l[i][i];
		}
	__syncthreads();
	for (uint32_t i = tid; i < NB * NB; i += 256) {
		uint32_t r = i / NB, k = i % NB;

		c.inv[((size_t)b * NB + r) * NB + k] = x[r][k];
		if (at + r < c.n && at + k < c.n && k <= r)
			c.a[(size_t)(at + r) * c.n + at + k] = l[r][k];
	}
}

/* An operand of a product of tiles: rows and columns beyond the limits read as
 * zero. */
struct part {
	const double *p;
	size_t ld;
	uint32_t rows, cols;
};

/* acc += A [64][k] B, B = [k][64], or [64][k] when trans: 256 threads, thread
 * (ty, tx) has rows ty + 16 i and columns tx + 16 j. */
static __device__ void tile_mul(double acc[4][4], struct part a, struct part b,
				uint32_t k, int trans)
{
	__shared__ double as[16][NB + 1], bs[16][NB + 1];
	const uint32_t tid = threadIdx.x, tx = tid % 16, ty = tid / 16;

	for (uint32_t k0 = 0; k0 < k; k0 += 16) {
		for (uint32_t i = tid; i < 16 * NB; i += 256) {
			uint32_t r = i / 16, q = k0 + i % 16;
			uint32_t br = trans ? r : k0 + i / NB;
			uint32_t bc = trans ? q : i % NB;

			as[i % 16][r] = r < a.rows && q < a.cols
				? a.p[r * a.ld + q] : 0;
			bs[trans ? i % 16 : i / NB][trans ? r : i % NB] =
				br < b.rows && bc < b.cols
				? b.p[br * b.ld + bc] : 0;
		}
		__syncthreads();
#pragma unroll
		for (int q = 0; q < 16; q++) {
			double x[4], y[4];

#pragma unroll
			for (int i = 0; i < 4; i++) {
				x[i] = as[q][ty + 16 * i];
				y[i] = bs[q][tx + 16 * i];
			}
#pragma unroll
			for (int i = 0; i < 16; i++)
				acc[i / 4][i % 4] += x[i / 4] * y[i % 4];
		}
		__syncthreads();
	}
}

static __device__ struct part part_of(const double *p, uint32_t n, uint32_t r,
				      uint32_t c)
{
	return { p + (size_t)r * n + c, n, n - r, n - c };
}

/* Rows below the corner: A[i][b] = A[i][b] inv(L[b][b])^T. */
__global__ void panel_kernel(struct chol c, uint32_t b)
{
	const uint32_t at = b * NB, r0 = (b + 1 + blockIdx.x) * NB;
	const uint32_t tx = threadIdx.x % 16, ty = threadIdx.x / 16;
	struct part inv = { c.inv + (size_t)b * NB * NB, NB, NB, NB };
	double acc[4][4] = {};

	cu_wait();
	/* reads all of the tile before any of it is written */
	tile_mul(acc, part_of(c.a, c.n, r0, at), inv, NB, 1);
#pragma unroll
	for (int i = 0; i < 16; i++) {
		uint32_t r = r0 + ty + i / 4 * 16, q = at + tx + i % 4 * 16;

		if (r < c.n && q < c.n)
			c.a[(size_t)r * c.n + q] = acc[i / 4][i % 4];
	}
}

/* The rest: A[i][j] -= A[i][b] A[j][b]^T, i >= j > b. */
__global__ void rest_kernel(struct chol c, uint32_t b)
{
	const uint32_t r0 = (b + 1 + blockIdx.y) * NB;
	const uint32_t c0 = (b + 1 + blockIdx.x) * NB;
	const uint32_t tx = threadIdx.x % 16, ty = threadIdx.x / 16;
	double acc[4][4] = {};

	cu_wait();
	if (c0 > r0)
		return;
	tile_mul(acc, part_of(c.a, c.n, r0, b * NB),
		 part_of(c.a, c.n, c0, b * NB), NB, 1);
#pragma unroll
	for (int i = 0; i < 16; i++) {
		uint32_t r = r0 + ty + i / 4 * 16, q = c0 + tx + i % 4 * 16;

		if (r < c.n && q <= r)
			c.a[(size_t)r * c.n + q] -= acc[i / 4][i % 4];
	}
}

/* Row b of blocks of the inverse; block j of it. */
__global__ void inverse_kernel(struct chol c, uint32_t b)
{
	extern __shared__ double sh[];
	double(*mid)[NB + 1] = (double(*)[NB + 1])sh;
	const uint32_t j = blockIdx.x, r0 = b * NB, c0 = j * NB;
	const uint32_t tx = threadIdx.x % 16, ty = threadIdx.x / 16;
	const double *inv = c.inv + (size_t)b * NB * NB;
	double acc[4][4] = {};

	cu_wait();
	if (j < b) {
		tile_mul(acc, part_of(c.a, c.n, r0, c0),
			 part_of(c.w, c.n, c0, c0), (b - j) * NB, 0);
#pragma unroll
		for (int i = 0; i < 16; i++)
			mid[ty + i / 4 * 16][tx + i % 4 * 16] =
				acc[i / 4][i % 4];
		__syncthreads();
	}
#pragma unroll
	for (int i = 0; i < 16; i++) {
		uint32_t r = ty + i / 4 * 16, q = tx + i % 4 * 16;
		double v = 0;

		if (j == b)
			v = inv[r * NB + q];
		else
			for (uint32_t k = 0; k <= r; k++)
				v -= inv[r * NB + k] * mid[k][q];
		if (r0 + r < c.n && c0 + q < c.n)
			c.w[(size_t)(r0 + r) * c.n + c0 + q] = v;
	}
}

__global__ void upper_kernel(struct chol c, float *u, size_t ld)
{
	uint32_t j = blockIdx.x * blockDim.x + threadIdx.x;

	cu_wait();
	for (uint32_t i = blockIdx.y; i < c.n; i += gridDim.y)
		if (j < c.n)
			u[i * ld + j] = j < i ? 0 :
				(float)c.w[(size_t)(c.n - 1 - i) * c.n + c.n -
					   1 - j];
}

static int launch_factor(struct be *be, const struct be_factor *f,
			 const struct chol *c, struct err *err)
{
	uint32_t n = c->n, blocks = cu_div_up(n, NB);
	struct cu_dim all = { dim3(cu_div_up(n, 256), n < 65535 ? n : 65535),
			      dim3(256), 0 };
	struct cu_dim corner = { dim3(1), dim3(256),
				 2 * NB * (NB + 1) * sizeof(double) };

	if (cu_launch(be, "factor", { dim3(1), dim3(256), 0 }, err,
		      mean_kernel, (const double *)f->h->p, (size_t)f->h->ld,
		      *c) ||
	    cu_launch(be, "factor", all, err, flip_kernel,
		      (const double *)f->h->p, (size_t)f->h->ld, f->damp, *c))
		return -1;
	for (uint32_t b = 0; b < blocks; b++) {
		uint32_t rest = blocks - b - 1;

		if (cu_launch(be, "factor", corner, err, corner_kernel, *c,
			      b) ||
		    cu_launch(be, "factor", { dim3(rest), dim3(256), 0 }, err,
			      panel_kernel, *c, b) ||
		    cu_launch(be, "factor", { dim3(rest, rest), dim3(256), 0 },
			      err, rest_kernel, *c, b))
			return -1;
	}
	for (uint32_t b = 0; b < blocks; b++)
		if (cu_launch(be, "factor", { dim3(b + 1), dim3(256),
					      NB * (NB + 1) * sizeof(double) },
			      err, inverse_kernel, *c, b))
			return -1;
	return cu_launch(be, "factor", all, err, upper_kernel, *c,
			 (float *)f->u->p, (size_t)f->u->ld);
}

int cu_factor(struct be *be, const struct be_factor *f, struct err *err)
{
	uint32_t n = f->h->rows;
	size_t square = (size_t)n * n;
	size_t corners = (size_t)cu_div_up(n, NB) * NB * NB;
	struct chol c;
	int bad = 0;
	void *p;

	if (be_shape_factor(f, err))
		return -1;
	if (!n)
		return 0;
	cu_wrote(be, f->u);
	if (cu_scratch_get(be, CU_F64, (2 * square + corners + 2) *
			   sizeof(double), &p, err))
		return -1;
	c.a = (double *)p;
	c.w = c.a + square;
	c.inv = c.w + square;
	c.mean = c.inv + corners;
	c.bad = (int *)(c.mean + 1);
	c.n = n;
	if (launch_factor(be, f, &c, err))
		return -1;
	CU_TRY(cudaMemcpyAsync(&bad, c.bad, sizeof(bad), cudaMemcpyDeviceToHost,
			       be->stream), "factor", err);
	CU_TRY(cudaStreamSynchronize(be->stream), "factor", err);
	if (bad)
		return err_set(err, ERR_CHECK,
			       "the damped Hessian is not positive definite: "
			       "pivot of column %u of %u",
			       n - (uint32_t)bad, n);
	return 0;
}
