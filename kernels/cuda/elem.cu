/* elem.cu - operations row by row: gather, embed, rmsnorm, rope, swiglu, add.
 *
 * All move each byte once; a block takes a piece of one row, so that views of
 * any pitch work.  None of them is worth vectors at the sizes of a decoding
 * step (a few rows of some thousand columns), where the launch is the cost. */
#include "cu.cuh"

#define THREADS 256u

/* One thread per element: x pieces of a row, y rows (in chunks of the grid's
 * limit). */
static struct cu_dim over(const struct be_mat *m)
{
	uint32_t rows = m->rows < 65535 ? m->rows : 65535;

	return { dim3(cu_div_up(m->cols, THREADS), rows), dim3(THREADS), 0 };
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

template <class T>
__global__ void embed_kernel(const T *table, size_t ld, const uint32_t *id,
			     struct view y)
{
	uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;

	cu_next();
	cu_wait();
	for EACH_ROW(r, y)
		if (c < y.cols)
			y.p[r * y.ld + c] = cu_float(table[id[r] * ld + c]);
}

int cu_embed(struct be *be, const struct be_mat *table, const uint32_t *id,
	     struct be_mat *y, struct err *err)
{
	struct view v = view_of(y);
	struct cu_dim d = over(y);
	uint32_t *ids;
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
	if (cu_scratch_get(be, CU_SMALL, y->rows * sizeof(*id), &p, err))
		return -1;
	ids = (uint32_t *)p;
	/* pageable memory: id has been read when this returns */
	CU_TRY(cudaMemcpyAsync(ids, id, y->rows * sizeof(*id),
			       cudaMemcpyHostToDevice, be->stream),
	       "embed", err);
	if (table->type == DT_F16)
		return cu_launch(be, "embed", d, err, embed_kernel<__half>,
				 (const __half *)table->p, (size_t)table->ld,
				 ids, v);
	if (table->type == DT_BF16)
		return cu_launch(be, "embed", d, err,
				 embed_kernel<__nv_bfloat16>,
				 (const __nv_bfloat16 *)table->p,
				 (size_t)table->ld, ids, v);
	return cu_launch(be, "embed", d, err, embed_kernel<float>,
			 (const float *)table->p, (size_t)table->ld, ids, v);
}

/* Room for y as f16 too, when it is the size of something that linears take. */
static int also_16(struct be *be, const struct be_mat *y, __half **y16,
		   struct err *err)
{
	*y16 = NULL;
	if (y->cols % 64 || !y->rows)
		return 0;
	*y16 = cu_x16_room(be, y, 0, err);
	return *y16 ? 0 : -1;
}

/* A block per row and head of n elements; y may be x: each thread writes what
 * it read itself.  f32 sums of a thread's own squares, then f64. */
__global__ void rmsnorm_kernel(struct view x, const float *w, uint32_t n,
			       double eps, struct view y, __half *y16)
{
	__shared__ double part[THREADS / 32];
	const float *in;
	float *out, own = 0, f;
	double sum;

	cu_next();
	cu_wait();
	in = x.p + blockIdx.x * x.ld + (size_t)blockIdx.y * n;
	out = y.p + blockIdx.x * y.ld + (size_t)blockIdx.y * n;
	for (uint32_t c = threadIdx.x; c < n; c += THREADS)
		own += in[c] * in[c];
	sum = cu_warp_sum((double)own);
	if (threadIdx.x % 32 == 0)
		part[threadIdx.x / 32] = sum;
	__syncthreads();
	sum = 0;
	for (uint32_t i = 0; i < THREADS / 32; i++)
		sum += part[i];
	f = (float)(1 / sqrt(sum / n + eps));
	for (uint32_t c = threadIdx.x; c < n; c += THREADS) {
		float v = in[c] * f * w[c];

		out[c] = v;
		if (y16)
			y16[x16_at(y.rows, n, blockIdx.x, c)] = cu_half(v);
	}
}

int cu_rmsnorm(struct be *be, const struct be_mat *x, const struct be_mat *w,
	       double eps, struct be_mat *y, struct err *err)
{
	__half *y16 = NULL;
	struct cu_dim d;

	if (be_shape_rmsnorm(x, w, y, err))
		return -1;
	if (x->cols / w->cols > 65535)
		return err_set(err, ERR_UNSUP, "rmsnorm: %u heads in a row",
			       x->cols / w->cols);
	d = { dim3(x->rows, x->cols / w->cols), dim3(THREADS), 0 };
	cu_wrote(be, y);
	/* a norm over the row feeds linears, one over heads does not */
	if (x->cols == w->cols && x->rows && also_16(be, y, &y16, err))
		return -1;
	return cu_launch(be, "rmsnorm", d, err, rmsnorm_kernel, view_of(x),
			 (const float *)w->p, w->cols, eps, view_of(y), y16);
}

/* One thread per pair (i, i + h) of a head. */
__global__ void rope_kernel(struct view x, const float *cos_, const float *sin_,
			    uint2 ld, uint32_t first, uint32_t half)
{
	uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;

	cu_next();
	cu_wait();
	if (i >= x.cols / 2)
		return;
	for EACH_ROW(r, x) {
		uint32_t k = i % half;
		float *lo = x.p + r * x.ld + (size_t)(i / half) * 2 * half + k;
		float c = cos_[(size_t)(first + r) * ld.x + k];
		float s = sin_[(size_t)(first + r) * ld.y + k];
		float a = lo[0], b = lo[half];

		lo[0] = a * c - b * s;
		lo[half] = b * c + a * s;
	}
}

int cu_rope(struct be *be, struct be_mat *x, const struct be_rope *r,
	    struct err *err)
{
	struct cu_dim d = over(x);

	if (be_shape_rope(x, r, err))
		return -1;
	cu_wrote(be, x);
	d.grid.x = cu_div_up(x->cols / 2, THREADS);
	return cu_launch(be, "rope", d, err, rope_kernel, view_of(x),
			 (const float *)r->cos->p, (const float *)r->sin->p,
			 make_uint2(r->cos->ld, r->sin->ld), r->first,
			 r->head_dim / 2);
}

__global__ void swiglu_kernel(struct view gate, struct view up, struct view y,
			      __half *y16)
{
	uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;

	cu_next();
	cu_wait();
	if (c >= y.cols)
		return;
	for EACH_ROW(r, y) {
		float g = gate.p[r * gate.ld + c], u = up.p[r * up.ld + c];

		float v = g / (1 + expf(-g)) * u;

		y.p[r * y.ld + c] = v;
		if (y16)
			y16[x16_at(y.rows, y.cols, r, c)] = cu_half(v);
	}
}

int cu_swiglu(struct be *be, const struct be_mat *gate, const struct be_mat *up,
	      struct be_mat *y, struct err *err)
{
	__half *y16;

	if (be_shape_swiglu(gate, up, y, err))
		return -1;
	cu_wrote(be, y);
	if (also_16(be, y, &y16, err))
		return -1;
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

int cu_add(struct be *be, struct be_mat *x, const struct be_mat *y,
	   struct err *err)
{
	if (be_shape_add(x, y, err))
		return -1;
	cu_wrote(be, x);
	return cu_launch(be, "add", over(x), err, add_kernel, view_of(x),
			 view_of(y));
}
