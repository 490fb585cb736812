/* elem.cu - operations row by row: gather, embed, rmsnorm, swiglu, add.
 *
 * All move each byte once; a block takes a piece of one row, so that views of
 * any pitch work.  Where columns and pitches allow it a thread takes four
 * neighbours at once. */
#include "planes.cuh"

#include <string.h>

#define THREADS 256u

/* One thread per element or `each` of them: x pieces of a row, y rows (in
 * chunks of the grid's limit). */
static struct cu_dim over(const struct be_mat *m, uint32_t each = 1)
{
	uint32_t rows = m->rows < 65535 ? m->rows : 65535;

	return { dim3(cu_div_up(m->cols, THREADS * each), rows), dim3(THREADS),
		 0 };
}

/* Can vectors of four take rows of m? */
static bool fours(const struct be_mat *m)
{
	return (uintptr_t)m->p % 16 == 0 && m->ld % 4 == 0 && m->cols % 4 == 0;
}

/* Four halves where x16_at says, or their share of the planes: the warp then has
 * a unit. */
static __device__ __forceinline__ void put_16(const struct cu_out16 &y16,
					      uint32_t r, uint32_t c, float4 v)
{
	if (y16.form.planes) {
		planes_put(y16, c / 128, r, v);
		return;
	}
	*(__half2 *)(y16.p + x16_at(y16.form, r, c)) =
		__halves2half2(cu_half(v.x), cu_half(v.y));
	*(__half2 *)(y16.p + x16_at(y16.form, r, c + 2)) =
		__halves2half2(cu_half(v.z), cu_half(v.w));
}

struct view {
	float *p;
	size_t ld;
	uint32_t rows, cols;
};

static struct view view_of(const struct be_mat *m)
{
	return { (float *)m->p, m->ld, m->rows, m->cols };
}

#define EACH_ROW(r, v) (uint32_t r = blockIdx.y; r < (v).rows; r += gridDim.y)

__global__ void gather_kernel(struct view x, const uint32_t *index,
			      struct view y)
{
	uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;

	cu_next();
	cu_wait();
	for EACH_ROW(r, y)
		if (c < y.cols)
			y.p[r * y.ld + c] = x.p[r * x.ld + index[c]];
}

int cu_gather(struct be *be, const struct be_mat *x, const uint32_t *index,
	      struct be_mat *y, struct err *err)
{
	if (be_shape_gather(x, y, err))
		return -1;
	cu_wrote(be, y);
	return cu_launch(be, "gather", over(y), err, gather_kernel, view_of(x),
			 index, view_of(y));
}

/* Few ids travel with the launch: a copy of its own would cost as much as the
 * whole operation, once a token. */
#define FEW_IDS 16u

struct few_ids {
	uint32_t id[FEW_IDS];
};

template <class T>
__global__ void embed_kernel(const T *table, size_t ld, const uint32_t *many,
			     const struct few_ids few, struct view y)
{
	uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;

	cu_next();
	cu_wait();
	for EACH_ROW(r, y) {
		const size_t id = many ? many[r] : few.id[r];

		if (c < y.cols)
			y.p[r * y.ld + c] = cu_float(table[id * ld + c]);
	}
}

int cu_embed(struct be *be, const struct be_mat *table, const uint32_t *id,
	     struct be_mat *y, struct err *err)
{
	struct view v = view_of(y);
	struct cu_dim d = over(y);
	struct few_ids few = {};
	uint32_t *ids = NULL;
	void *p;

	if (be_shape_embed(table, y, err))
		return -1;
	for (uint32_t r = 0; r < y->rows; r++)
		if (id[r] >= table->rows)
			return err_set(err, ERR_INPUT,
				       "token %u is not among the %u embedded",
				       id[r], table->rows);
	if (!y->rows)
		return 0;
	cu_wrote(be, y);
	if (y->rows <= FEW_IDS) {
		memcpy(few.id, id, y->rows * sizeof(*id));
	} else {
		if (cu_scratch_get(be, CU_SMALL, y->rows * sizeof(*id), &p,
				   err))
			return -1;
		ids = (uint32_t *)p;
		/* pageable memory: id has been read when this returns */
		CU_TRY(cudaMemcpyAsync(ids, id, y->rows * sizeof(*id),
				       cudaMemcpyHostToDevice, be->stream),
		       "embed", err);
	}
	if (table->type == DT_F16)
		return cu_launch(be, "embed", d, err, embed_kernel<__half>,
				 (const __half *)table->p, (size_t)table->ld,
				 ids, few, v);
	if (table->type == DT_BF16)
		return cu_launch(be, "embed", d, err,
				 embed_kernel<__nv_bfloat16>,
				 (const __nv_bfloat16 *)table->p,
				 (size_t)table->ld, ids, few, v);
	return cu_launch(be, "embed", d, err, embed_kernel<float>,
			 (const float *)table->p, (size_t)table->ld, ids, few, v);
}

int cu_also_16(struct be *be, const struct be_mat *y, bool planes,
	       struct cu_out16 *y16, struct err *err)
{
	*y16 = { NULL, cu_x16_form(be, y->rows, y->cols) };
	if (y->cols % 64 || !y->rows || (y16->form.planes && !planes))
		return 0;
	y16->p = cu_x16_room(be, y, 0, y16->form, err);
	return y16->p ? 0 : -1;
}

static __device__ __forceinline__ float squares(float4 v)
{
	return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
}

static __device__ __forceinline__ float4 weighted(float4 v, float f, float4 w)
{
	return make_float4(v.x * f * w.x, v.y * f * w.y, v.z * f * w.z,
			   v.w * f * w.w);
}

/* The sum over a block, in f64. */
static __device__ __forceinline__ double block_sum(float own)
{
	__shared__ double part[THREADS / 32];
	double sum = cu_warp_sum((double)own);

	if (threadIdx.x % 32 == 0)
		part[threadIdx.x / 32] = sum;
	__syncthreads();
	sum = 0;
	for (uint32_t i = 0; i < THREADS / 32; i++)
		sum += part[i];
	return sum;
}

/* A block per row and head of n elements; y may be x: each thread writes what
 * it read itself.  f32 sums of a thread's own squares, then f64. */
__global__ void rmsnorm_kernel(struct view x, const float *w, uint32_t n,
			       double eps, struct view y, struct cu_out16 y16)
{
	const float *in;
	float *out, own = 0, f;

	cu_next();
	cu_wait();
	in = x.p + blockIdx.x * x.ld + (size_t)blockIdx.y * n;
	out = y.p + blockIdx.x * y.ld + (size_t)blockIdx.y * n;
	for (uint32_t c = threadIdx.x; c < n; c += THREADS)
		own += in[c] * in[c];
	f = (float)(1 / sqrt(block_sum(own) / n + eps));
	for (uint32_t c = threadIdx.x; c < n; c += THREADS) {
		float v = in[c] * f * w[c];

		out[c] = v;
		if (y16.p)
			y16.p[x16_at(y16.form, blockIdx.x, c)] = cu_half(v);
	}
}

#define ROW_MAX 8192u /* elements of a row that a block keeps */

/* A block per row of up to EACH * 1024 elements, which it keeps. */
template <int EACH>
__global__ void __launch_bounds__(THREADS)
rmsnorm_row_kernel(struct view x, const float *w, double eps, struct view y,
		   struct cu_out16 y16)
{
	const uint32_t n = y.cols, r = blockIdx.x;
	float4 v[EACH];
	float own = 0, f;

	cu_next();
	cu_wait();
#pragma unroll
	for (int i = 0; i < EACH; i++) {
		uint32_t c = (i * THREADS + threadIdx.x) * 4;

		v[i] = c < n ? *(const float4 *)(x.p + r * x.ld + c)
			     : make_float4(0, 0, 0, 0);
		own += squares(v[i]);
	}
	f = (float)(1 / sqrt(block_sum(own) / n + eps));
#pragma unroll
	for (int i = 0; i < EACH; i++) {
		uint32_t c = (i * THREADS + threadIdx.x) * 4;

		if (c >= n)
			break;
		v[i] = weighted(v[i], f, *(const float4 *)(w + c));
		*(float4 *)(y.p + r * y.ld + c) = v[i];
		if (y16.p)
			put_16(y16, r, c, v[i]);
	}
}

/* A warp per head of up to 512 elements. */
__global__ void __launch_bounds__(THREADS)
rmsnorm_head_kernel(struct view x, const float *w, uint32_t n, double eps,
		    struct view y)
{
	const uint32_t lane = threadIdx.x % 32, heads = x.cols / n;
	const size_t at = (size_t)blockIdx.x * (THREADS / 32) +
			  threadIdx.x / 32;
	const size_t r = at / heads, c0 = at % heads * n;
	float4 v[4];
	float own = 0, f;

	cu_next();
	cu_wait();
	if (r >= x.rows)
		return;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		uint32_t c = (i * 32 + lane) * 4;

		v[i] = c < n ? *(const float4 *)(x.p + r * x.ld + c0 + c)
			     : make_float4(0, 0, 0, 0);
		own += squares(v[i]);
	}
	f = (float)(1 / sqrt(cu_warp_sum((double)own) / n + eps));
#pragma unroll
	for (int i = 0; i < 4; i++) {
		uint32_t c = (i * 32 + lane) * 4;

		if (c < n)
			*(float4 *)(y.p + r * y.ld + c0 + c) =
				weighted(v[i], f, *(const float4 *)(w + c));
	}
}

/* The kernels for rows of whole vectors; 1 when there is none. */
static int rmsnorm_fours(struct be *be, const struct be_mat *x,
			 const struct be_mat *w, double eps, struct be_mat *y,
			 struct cu_out16 y16, struct err *err)
{
	const float *wp = (const float *)w->p;
	const uint64_t heads = (uint64_t)x->rows * (x->cols / w->cols);
	struct cu_dim d = { dim3(x->rows), dim3(THREADS), 0 };

	if (!fours(x) || !fours(y) || !fours(w))
		return 1;
	if (x->cols == w->cols && w->cols <= 2048)
		return cu_launch(be, "rmsnorm", d, err, rmsnorm_row_kernel<2>,
				 view_of(x), wp, eps, view_of(y), y16);
	if (x->cols == w->cols && w->cols <= 4096)
		return cu_launch(be, "rmsnorm", d, err, rmsnorm_row_kernel<4>,
				 view_of(x), wp, eps, view_of(y), y16);
	if (x->cols == w->cols && w->cols <= ROW_MAX)
		return cu_launch(be, "rmsnorm", d, err, rmsnorm_row_kernel<8>,
				 view_of(x), wp, eps, view_of(y), y16);
	if (x->cols == w->cols || w->cols > 512)
		return 1;
	d.grid.x = cu_div_up(heads, THREADS / 32);
	return cu_launch(be, "rmsnorm", d, err, rmsnorm_head_kernel,
			 view_of(x), wp, w->cols, eps, view_of(y));
}

int cu_rmsnorm(struct be *be, const struct be_mat *x, const struct be_mat *w,
	       double eps, struct be_mat *y, struct err *err)
{
	struct cu_out16 y16 = {};
	struct cu_dim d;
	int ret;

	if (be_shape_rmsnorm(x, w, y, err))
		return -1;
	if (x->cols / w->cols > 65535)
		return err_set(err, ERR_UNSUP, "rmsnorm: %u heads in a row",
			       x->cols / w->cols);
	cu_wrote(be, y);
	/* a norm over the row feeds linears, one over heads does not */
	if (x->cols == w->cols && x->rows &&
	    cu_also_16(be, y, fours(x) && fours(y) && fours(w) &&
			      w->cols <= ROW_MAX, &y16, err))
		return -1;
	ret = rmsnorm_fours(be, x, w, eps, y, y16, err);
	if (ret <= 0)
		return ret;
	d = { dim3(x->rows, x->cols / w->cols), dim3(THREADS), 0 };
	return cu_launch(be, "rmsnorm", d, err, rmsnorm_kernel, view_of(x),
			 (const float *)w->p, w->cols, eps, view_of(y), y16);
}

static __device__ __forceinline__ float gated(float g, float u)
{
	return g / (1 + expf(-g)) * u;
}

__global__ void swiglu_kernel(struct view gate, struct view up, struct view y,
			      struct cu_out16 y16)
{
	uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;

	cu_next();
	cu_wait();
	if (c >= y.cols)
		return;
	for EACH_ROW(r, y) {
		float v = gated(gate.p[r * gate.ld + c], up.p[r * up.ld + c]);

		y.p[r * y.ld + c] = v;
		if (y16.p)
			y16.p[x16_at(y16.form, r, c)] = cu_half(v);
	}
}

__global__ void __launch_bounds__(THREADS)
swiglu4_kernel(struct view gate, struct view up, struct view y,
	       struct cu_out16 y16)
{
	uint32_t c = (blockIdx.x * THREADS + threadIdx.x) * 4;

	cu_next();
	cu_wait();
	if (c >= y.cols)
		return;
	for EACH_ROW(r, y) {
		float4 g = *(const float4 *)(gate.p + r * gate.ld + c);
		float4 u = *(const float4 *)(up.p + r * up.ld + c);
		float4 v = make_float4(gated(g.x, u.x), gated(g.y, u.y),
				       gated(g.z, u.z), gated(g.w, u.w));

		*(float4 *)(y.p + r * y.ld + c) = v;
		if (y16.p)
			put_16(y16, r, c, v);
	}
}

int cu_swiglu(struct be *be, const struct be_mat *gate, const struct be_mat *up,
	      struct be_mat *y, struct err *err)
{
	struct cu_out16 y16;

	if (be_shape_swiglu(gate, up, y, err))
		return -1;
	cu_wrote(be, y);
	const bool four = fours(gate) && fours(up) && fours(y);

	if (cu_also_16(be, y, four, &y16, err))
		return -1;
	if (four)
		return cu_launch(be, "swiglu", over(y, 4), err, swiglu4_kernel,
				 view_of(gate), view_of(up), view_of(y), y16);
	return cu_launch(be, "swiglu", over(y), err, swiglu_kernel,
			 view_of(gate), view_of(up), view_of(y), y16);
}

__global__ void add_kernel(struct view x, struct view y)
{
	uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;

	cu_next();
	cu_wait();
	for EACH_ROW(r, x)
		if (c < x.cols)
			x.p[r * x.ld + c] +=
				y.p[(y.rows == 1 ? 0 : r) * y.ld + c];
}

__global__ void __launch_bounds__(THREADS)
add4_kernel(struct view x, struct view y)
{
	uint32_t c = (blockIdx.x * THREADS + threadIdx.x) * 4;

	cu_next();
	cu_wait();
	if (c >= x.cols)
		return;
	for EACH_ROW(r, x) {
		float4 *p = (float4 *)(x.p + r * x.ld + c), a = *p;
		float4 b = *(const float4 *)(y.p + (y.rows == 1 ? 0 : r) *
					     y.ld + c);

		*p = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
	}
}

int cu_add(struct be *be, struct be_mat *x, const struct be_mat *y,
	   struct err *err)
{
	if (be_shape_add(x, y, err))
		return -1;
	cu_wrote(be, x);
	if (fours(x) && fours(y))
		return cu_launch(be, "add", over(x, 4), err, add4_kernel,
				 view_of(x), view_of(y));
	return cu_launch(be, "add", over(x), err, add_kernel, view_of(x),
			 view_of(y));
}
