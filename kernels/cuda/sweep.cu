/* sweep.cu - grids of groups, and GPTQ over one block of columns.
 *
 * A warp per row.  In the sweep a row of up to 256 columns stays in registers,
 * column 32 j + lane in register j: a step broadcasts its column with one
 * shuffle, every lane finds the same code and error, and each takes the error
 * off its own columns.  One launch does the block; a launch per column is what
 * makes GPTQ in a tensor framework slow.
 *
 * Arithmetic is that of the reference, each operation rounded on its own (no
 * fused multiply-add): codes are equal to the bit. */
#include "cu.cuh"

#define WARPS 4

/* ---- grid ---- */

struct grid_arg {
	const float *w, *weight;
	float *scale, *zero;
	size_t ld, step;
	uint32_t rows, cols, tries;
	int bits, sym, near;
	float least, shrink, power;
	enum dtype round;
};

static __device__ float round_to(float f, enum dtype t)
{
	if (t == DT_F16)
		return __half2float(__float2half_rn(f));
	if (t == DT_BF16)
		return __bfloat162float(__float2bfloat16_rn(f));
	return f;
}

/* The code of w, as a float. */
static __device__ __forceinline__ float nearest(float w, float s, float z,
						float maxq)
{
	float q = __fadd_rn(rintf(__fdiv_rn(w, s)), z);

	q = q > 0 ? q : 0; /* also NaN */
	return q < maxq ? q : maxq;
}

static __device__ void cell(const struct grid_arg &a, float lo, float hi,
			    float *scale, float *zero)
{
	const float maxq = (float)((1u << a.bits) - 1);

	*scale = round_to(__fdiv_rn(__fsub_rn(hi, lo), maxq), a.round);
	if (*scale == 0) {
		lo = -1;
		*scale = round_to(__fdiv_rn(2, maxq), a.round);
	}
	*zero = rintf(__fdiv_rn(-lo, *scale));
	*zero = *zero < maxq ? *zero : maxq;
	if (a.sym)
		*zero = (float)(1u << (a.bits - 1));
	*zero += 0.0F; /* -0 becomes 0 */
}

static __device__ float cell_error(const struct grid_arg &a, const float *w,
				   float s, float z)
{
	const float maxq = (float)((1u << a.bits) - 1);
	float sum = 0;

	for (uint32_t c = 0; c < a.cols; c++) {
		float q = nearest(w[c], s, z, maxq);
		float e = __fsub_rn(__fmul_rn(s, __fsub_rn(q, z)), w[c]);

		e = a.power == 2 ? __fmul_rn(e, e) : powf(fabsf(e), a.power);
		sum = __fadd_rn(sum, a.weight ? __fmul_rn(a.weight[c], e) : e);
	}
	return sum;
}

/* The clipping search of one row: lanes take tries by turns; of equal errors
 * the first try holds, as in the reference, where lo..hi is tried first. */
static __device__ void search(const struct grid_arg &a, const float *w,
			      float lo, float hi, float *scale, float *zero)
{
	const float maxq = (float)((1u << a.bits) - 1);
	const float near = a.near && !a.sym ? 1 : 0;
	float best = INFINITY, s, z;
	uint32_t order = ~0u;

	for (uint32_t i = threadIdx.x % 32; i < a.tries; i += 32) {
		float p = __fsub_rn(1, __fmul_rn((float)i, a.shrink));

		cell(a, __fmul_rn(p, lo), __fmul_rn(p, hi), &s, &z);
		for (int d = (int)-near; d <= (int)near; d++) {
			float at = z + (float)d, e;

			if (at < a.least || at > maxq)
				continue;
			e = cell_error(a, w, s, at);
			if (!(e < best))
				continue;
			best = e;
			order = i * 3 + (uint32_t)(d + 1);
			*scale = s;
			*zero = at;
		}
	}
	for (int o = 16; o; o /= 2) {
		float e = __shfl_xor_sync(~0u, best, o);
		uint32_t n = __shfl_xor_sync(~0u, order, o);

		s = __shfl_xor_sync(~0u, *scale, o);
		z = __shfl_xor_sync(~0u, *zero, o);
		if (e < best || (e == best && n < order)) {
			best = e;
			order = n;
			*scale = s;
			*zero = z;
		}
	}
}

__global__ void grid_kernel(const struct grid_arg a)
{
	const uint32_t r = blockIdx.x * WARPS + threadIdx.x / 32;
	float lo = 0, hi = 0, scale, zero;

	cu_wait();
	if (r >= a.rows)
		return;
	for (uint32_t c = threadIdx.x % 32; c < a.cols; c += 32) {
		float w = a.w[r * a.ld + c];

		lo = w < lo ? w : lo;
		hi = w > hi ? w : hi;
	}
	for (int o = 16; o; o /= 2) {
		lo = fminf(lo, __shfl_xor_sync(~0u, lo, o));
		hi = fmaxf(hi, __shfl_xor_sync(~0u, hi, o));
	}
	if (a.sym) {
		hi = -lo > hi ? -lo : hi;
		lo = lo < 0 ? -hi : lo;
	}
	cell(a, lo, hi, &scale, &zero);
	if (a.tries)
		search(a, a.w + r * a.ld, lo, hi, &scale, &zero);
	if (threadIdx.x % 32)
		return;
	a.scale[r * a.step] = scale;
	a.zero[r * a.step] = zero;
}

int cu_grid(struct be *be, const struct be_grid *g, struct err *err)
{
	struct grid_arg a;

	if (be_shape_grid(g, err))
		return -1;
	a = { (const float *)g->w->p, g->weight, g->scale, g->zero,
	      g->w->ld, g->step, g->w->rows, g->w->cols, g->tries,
	      g->bits, g->sym, g->near, (float)g->zero_min, g->shrink,
	      g->power, g->round_scale };
	return cu_launch(be, "grid", { dim3(cu_div_up(a.rows, WARPS)),
				       dim3(WARPS * 32), 0 },
			 err, grid_kernel, a);
}

/* ---- sweep ---- */

struct sweep_arg {
	float *w, *err;
	const float *u, *scale, *zero;
	const uint32_t *group;
	uint8_t *code;
	double *loss;
	size_t ldw, ldu, lde, ldc, ldg;
	uint32_t rows, n;
	float maxq;
};

/* One weight: its code, and the error to be made good, e = (w - w') / d. */
static __device__ __forceinline__ float step(float w, float s, float z,
					     float d, float maxq, uint8_t *code)
{
	float q = nearest(w, s, z, maxq);

	*code = (uint8_t)q;
	return __fdiv_rn(__fsub_rn(w, __fmul_rn(s, __fsub_rn(q, z))), d);
}

/* J registers per lane: up to 32 J columns. */
template <int J> __global__ void sweep_kernel(const struct sweep_arg a)
{
	const uint32_t r = blockIdx.x * WARPS + threadIdx.x / 32;
	const uint32_t lane = threadIdx.x % 32;
	float w[J], u[J], next[J], e_own[J], d, s, z;
	uint8_t code_own[J], code;
	double loss;

	cu_wait();
	if (r >= a.rows)
		return;
	loss = a.loss[r];
#pragma unroll
	for (int j = 0; j < J; j++) {
		uint32_t c = j * 32 + lane;

		w[j] = c < a.n ? a.w[r * a.ldw + c] : 0;
		next[j] = c < a.n ? __ldg(a.u + c) : 0;
		e_own[j] = 0;
		code_own[j] = 0;
	}
#pragma unroll
	for (int jj = 0; jj < J; jj++) {
		for (uint32_t l = 0; l < 32 && jj * 32 + l < a.n; l++) {
			const uint32_t i = jj * 32 + l;
			float e;

#pragma unroll
			for (int j = 0; j < J; j++) {
				uint32_t c = j * 32 + lane;

				u[j] = next[j];
				if (i + 1 < a.n && c < a.n)
					next[j] = __ldg(a.u +
							(i + 1) * a.ldu + c);
			}
			s = __ldg(a.scale + r * a.ldg + __ldg(a.group + i));
			z = __ldg(a.zero + r * a.ldg + __ldg(a.group + i));
			d = __shfl_sync(~0u, u[jj], l);
			e = step(__shfl_sync(~0u, w[jj], l), s, z, d, a.maxq,
				 &code);
			loss += (double)e * (double)e / 2;
			if (lane == l) {
				e_own[jj] = e;
				code_own[jj] = code;
			}
#pragma unroll
			for (int j = 0; j < J; j++)
				if (j * 32 + lane >= i)
					w[j] = __fsub_rn(w[j],
							 __fmul_rn(e, u[j]));
		}
	}
#pragma unroll
	for (int j = 0; j < J; j++) {
		uint32_t c = j * 32 + lane;

		if (c >= a.n)
			break;
		a.w[r * a.ldw + c] = w[j];
		a.err[r * a.lde + c] = e_own[j];
		a.code[r * a.ldc + c] = code_own[j];
	}
	if (lane == 0)
		a.loss[r] = loss;
}

/* Any number of columns, the row in memory. */
__global__ void sweep_long_kernel(const struct sweep_arg a)
{
	const uint32_t r = blockIdx.x * WARPS + threadIdx.x / 32;
	const uint32_t lane = threadIdx.x % 32;
	double loss;

	cu_wait();
	if (r >= a.rows)
		return;
	float *w = a.w + r * a.ldw;
	loss = a.loss[r];
	for (uint32_t i = 0; i < a.n; i++) {
		const float *u = a.u + i * a.ldu;
		uint32_t g = a.group[i];
		uint8_t code;
		float e = step(w[i], a.scale[r * a.ldg + g],
			       a.zero[r * a.ldg + g], u[i], a.maxq, &code);

		loss += (double)e * (double)e / 2;
		__syncwarp(); /* all have read w[i] */
		if (lane == 0) {
			a.err[r * a.lde + i] = e;
			a.code[r * a.ldc + i] = code;
		}
		for (uint32_t j = i / 32 * 32 + lane; j < a.n; j += 32)
			if (j >= i)
				w[j] = __fsub_rn(w[j], __fmul_rn(e, u[j]));
		__syncwarp();
	}
	if (lane == 0)
		a.loss[r] = loss;
}

int cu_sweep(struct be *be, const struct be_sweep *s, struct err *err)
{
	uint32_t n = s->w->cols;
	void (*fn)(const struct sweep_arg) =
		n <= 64 ? sweep_kernel<2> : n <= 128 ? sweep_kernel<4>
		: n <= 256 ? sweep_kernel<8> : sweep_long_kernel;
	struct sweep_arg a;
	void *group;

	if (be_shape_sweep(s, err))
		return -1;
	if (!n || !s->w->rows)
		return 0;
	cu_wrote(be, s->w);
	cu_wrote(be, s->err);
	if (cu_scratch_get(be, CU_SMALL, n * sizeof(uint32_t), &group, err))
		return -1;
	CU_TRY(cudaMemcpyAsync(group, s->group, n * sizeof(uint32_t),
			       cudaMemcpyHostToDevice, be->stream),
	       "sweep", err);
	a = { (float *)s->w->p, (float *)s->err->p, (const float *)s->u->p,
	      s->scale, s->zero, (const uint32_t *)group, s->code, s->loss,
	      s->w->ld, s->u->ld, s->err->ld, s->code_ld, s->grid_ld,
	      s->w->rows, n, (float)((1u << s->bits) - 1) };
	return cu_launch(be, "sweep", { dim3(cu_div_up(a.rows, WARPS)),
					dim3(WARPS * 32), 0 },
			 err, fn, a);
}
