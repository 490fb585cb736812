/* refine.cu - coordinate descent over codes and scales of a block of columns.
 *
 * A warp per row, whose gradient, codes and one product lie in shared memory,
 * 12 bytes a column; lanes share the columns.  H [n][n] is read by all rows and
 * stays in the caches.  A column whose code stays costs one division; one that
 * changes n multiply-adds.
 *
 * Arithmetic is that of the reference, each operation rounded on its own, sums
 * by every lane in the order of columns: results are equal to the bit. */
#include "cu.cuh"

#define WARPS 4

struct refine_arg {
	const float *w, *grad, *h, *zero;
	float *diff, *scale;
	const uint32_t *group;
	uint8_t *code;
	double *loss;
	size_t ldw, ldd, ldg, ldh, ldc, lds;
	uint32_t rows, n, rounds;
	int refit;
	float maxq;
	enum dtype type;
};

/* One row at work. */
struct row {
	float *g, *q, *p; /* shared, [n] */
	float *scale;     /* of this row, by group */
	const float *zero;
	float change;
	uint32_t lane;
};

static __device__ float round_to(float f, enum dtype t)
{
	if (t == DT_F16)
		return __half2float(__float2half_rn(f));
	if (t == DT_BF16)
		return __bfloat162float(__float2bfloat16_rn(f));
	return f;
}

/* d (2 g + d h) */
static __device__ float gain(float d, float g, float h)
{
	return __fmul_rn(d, __fadd_rn(__fadd_rn(g, g), __fmul_rn(d, h)));
}

/* The least-squares scale of columns b..e, one group. */
static __device__ void refit(const struct refine_arg &a, struct row &t,
			     uint32_t b, uint32_t e)
{
	const uint32_t group = a.group[b];
	const float z = t.zero[group], was = t.scale[group];
	float num = 0, den = 0, s, d, f;

	for (uint32_t j = t.lane; j < a.n; j += 32) {
		float p = 0;

		for (uint32_t i = b; i < e; i++)
			p = __fadd_rn(p, __fmul_rn(__fsub_rn(t.q[i], z),
						   a.h[i * a.ldh + j]));
		t.p[j] = p;
	}
	__syncwarp();
	for (uint32_t i = b; i < e; i++) {
		float u = __fsub_rn(t.q[i], z);

		num = __fadd_rn(num, __fmul_rn(t.g[i], u));
		den = __fadd_rn(den, __fmul_rn(t.p[i], u));
	}
	s = round_to(__fsub_rn(was, __fdiv_rn(num, den)), a.type);
	d = __fsub_rn(s, was);
	f = gain(d, num, den);
	__syncwarp(); /* all have read the scale and g */
	if (!(s > 0) || !isfinite(s) || !(f < 0))
		return;
	t.change = __fadd_rn(t.change, f);
	if (t.lane == 0)
		t.scale[group] = s;
	for (uint32_t j = t.lane; j < a.n; j += 32)
		t.g[j] = __fadd_rn(t.g[j], __fmul_rn(d, t.p[j]));
	__syncwarp();
}

static __device__ void codes(const struct refine_arg &a, struct row &t)
{
	for (uint32_t i = 0; i < a.n; i++) {
		const float s = t.scale[a.group[i]], h = a.h[i * a.ldh + i];
		const float was = t.q[i];
		float q = __fdiv_rn(t.g[i], __fmul_rn(h, s)), d;

		q = rintf(__fsub_rn(was, q));
		q = q > 0 ? q : 0; /* also NaN */
		q = q < a.maxq ? q : a.maxq;
		d = __fmul_rn(s, __fsub_rn(q, was));
		if (q == was)
			continue;
		t.change = __fadd_rn(t.change, gain(d, t.g[i], h));
		__syncwarp();
		if (t.lane == 0)
			t.q[i] = q;
		for (uint32_t j = t.lane; j < a.n; j += 32)
			t.g[j] = __fadd_rn(t.g[j],
					   __fmul_rn(d, a.h[i * a.ldh + j]));
		__syncwarp();
	}
}

__global__ void refine_kernel(const struct refine_arg a)
{
	extern __shared__ float shared[];
	const uint32_t r = blockIdx.x * WARPS + threadIdx.x / 32;
	struct row t;

	cu_wait();
	if (r >= a.rows)
		return;
	t.lane = threadIdx.x % 32;
	t.g = shared + (size_t)threadIdx.x / 32 * 3 * a.n;
	t.q = t.g + a.n;
	t.p = t.q + a.n;
	t.scale = a.scale + r * a.lds;
	t.zero = a.zero + r * a.lds;
	t.change = 0;
	for (uint32_t j = t.lane; j < a.n; j += 32) {
		t.g[j] = a.grad[r * a.ldg + j];
		t.q[j] = a.code[r * a.ldc + j];
	}
	__syncwarp();
	for (uint32_t k = 0; k < a.rounds; k++) {
		for (uint32_t b = 0, e; a.refit && b < a.n; b = e) {
			for (e = b + 1; e < a.n; e++)
				if (a.group[e] != a.group[b])
					break;
			refit(a, t, b, e);
		}
		codes(a, t);
	}
	for (uint32_t j = t.lane; j < a.n; j += 32) {
		const uint32_t group = a.group[j];
		float v = __fmul_rn(t.scale[group],
				    __fsub_rn(t.q[j], t.zero[group]));

		a.code[r * a.ldc + j] = (uint8_t)t.q[j];
		a.diff[r * a.ldd + j] = __fsub_rn(v, a.w[r * a.ldw + j]);
	}
	if (t.lane == 0)
		a.loss[r] += (double)t.change / 2;
}

int cu_refine(struct be *be, const struct be_refine *x, struct err *err)
{
	const uint32_t n = x->w->cols;
	const size_t bytes = (size_t)WARPS * 3 * n * sizeof(float);
	struct refine_arg a;
	void *group;

	if (be_shape_refine(x, err))
		return -1;
	if (!n || !x->w->rows)
		return 0;
	if (bytes > 48 * 1024)
		return err_set(err, ERR_UNSUP,
			       "refine: %u columns are too many", n);
	cu_wrote(be, x->diff);
	if (cu_scratch_get(be, CU_SMALL, n * sizeof(uint32_t), &group, err))
		return -1;
	CU_TRY(cudaMemcpyAsync(group, x->group, n * sizeof(uint32_t),
			       cudaMemcpyHostToDevice, be->stream),
	       "refine", err);
	a = { (const float *)x->w->p, (const float *)x->grad->p,
	      (const float *)x->h->p, x->zero, (float *)x->diff->p, x->scale,
	      (const uint32_t *)group, x->code, x->loss, x->w->ld,
	      x->diff->ld, x->grad->ld, x->h->ld, x->code_ld, x->grid_ld,
	      x->w->rows, n, x->rounds, x->refit,
	      (float)((1u << x->bits) - 1), x->scale_type };
	return cu_launch(be, "refine", { dim3(cu_div_up(a.rows, WARPS)),
					 dim3(WARPS * 32), bytes },
			 err, refine_kernel, a);
}
