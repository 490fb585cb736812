/* qgemm.cu (ladder) - quantized products of 9 rows and more on sm_90a: tiles,
 * rings and clusters of one kernel side by side, and cuBLAS on the same weight
 * in f16.
 *
 *	make ladder CUDA_ARCHS=90a && build/ladder/qgemm [rows ...]
 *
 * The four linears of a Llama-2-7B layer, 4 bits, groups of 128.  Each figure
 * is the median of replays of one graph whose launches rotate over more than
 * 256 MiB of weights; errors are relative (Frobenius), against the generic
 * kernel, which computes in f32 from x in f32.
 *
 * Versions, and the four linears together in us on an H200 (30 November 2026,
 * each measured beside cuBLAS):
 *
 *	rows                                      16   32   64  128  256  512 2048
 *	cuBLAS, weight in f16, y in f32          114  117  119  127  168  293 1120
 *	                                                              to 1228
 *	0 mma, from 97 rows dequantize + cuBLAS   65   89  177  263  291  417 1303
 *	1 wgmma, weights in registers; blocks
 *	  stay, inputs cut evenly among them;
 *	  the last adds what others left          82   86  108  164  200  332 1244
 *	2 the same, two blocks share x through
 *	  multicast                                       124            370 1466
 *	3 the same as 1, all of a tile's blocks
 *	  add a slice                             77   82   99  167  241  422 1314
 *	4 3, scales onto the sums, 9 to 32 rows   68   75
 *	5 a block per tile or part of it, parts
 *	  meet in a cluster's shared memory       62   77  101  141  222  323 1245
 *
 * Where version 3 spends its time, by leaving parts out (16 / 64 / 512 / 2048
 * rows): without the sums' way to y 55 / 72 / 266 / 1149, without the
 * arithmetic on codes besides 41 / 58 / 252 / 1073, copies alone 34 / 43 / 155
 * / 656.
 *
 * Tried with 5: 128 tokens and two blocks on a multiprocessor, one of the
 * multiplying warps feeding (1893 at 2048 rows); 4 warpgroups with 64 or 128
 * tokens (117 at 64 rows, 183 at 128); stages of one chunk (a sixth slower);
 * clusters of 4 where a block fills a multiprocessor (they do not all find a
 * place at once: 503 at 512 rows against 364 with pairs). */
#include "../cuda/qwgmma_run.cuh"

#include <algorithm>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern "C" const struct be_api *be_plugin(void);

#define TRY(call)                                                             \
	do {                                                                  \
		cudaError_t try_ = (call);                                    \
		if (try_ != cudaSuccess) {                                    \
			printf("%s:%d: %s\n", __FILE__, __LINE__,             \
			       cudaGetErrorString(try_));                     \
			exit(1);                                              \
		}                                                             \
	} while (0)

static struct err err;
static void must(int ret)
{
	if (ret) {
		printf("failed: %s\n", err.msg);
		exit(1);
	}
}

#define COPIES 40

struct job {
	struct be *be;
	const struct be_api *api;
	uint32_t out, in, m, copies;
	struct be_qw *w[COPIES], *generic;
	struct be_mat x, y, ref;
	__half *x16, *dense;
	int next;
	uint32_t split; /* blocks of a cluster; 0: as in the product */
};

/* ---- the versions ---- */

__global__ void order_kernel(const float *x, uint32_t m, uint32_t k,
			     uint32_t rows, __half *to)
{
	uint32_t c = blockIdx.x * 256 + threadIdx.x;

	const struct cu_x16_form form = { rows ? m : 1, k, rows };

	if (c < k)
		for (uint32_t r = blockIdx.y; r < m; r += gridDim.y)
			to[x16_at(form, r, c)] = cu_half(x[(size_t)r * k + c]);
}

/* x16 in the order of wgmma_at, or row by row where rows is 0. */
static void to_half(struct job *j, uint32_t rows)
{
	order_kernel<<<dim3(cu_div_up(j->in, 256), j->m), 256, 0,
		       j->be->stream>>>((float *)j->x.p, j->m, j->in, rows,
					j->x16);
}

template <int BITS, int W, int N, int KC, int RING, int BLOCKS>
static int wg(struct job *j, struct be_qw *w)
{
	struct qwg_arg a = {};

	a.word = w->word;
	a.scale = w->scale;
	a.zero = w->zero;
	a.x = j->x16;
	a.y = (float *)j->y.p;
	a.ldy = j->y.ld;
	a.m = j->m;
	a.n = j->out;
	a.rows = cu_div_up(a.m, N) * N;
	a.strips = w->strips;
	a.chunks = w->chunks;
	a.units = w->units;
	a.bf16 = w->bf16;
	a.split = j->split;
	if (!w->spec.act_order) /* used as a mark here: x is there */
		return qwg_run<BITS, 128, W, N, KC, RING, BLOCKS>(j->be, &a,
								  &err);
	to_half(j, a.rows);
	return 0;
}

static int product(struct job *j, struct be_qw *w)
{
	return j->api->qgemm(j->be, &j->x, w, &j->y, &err);
}

static int blas(struct job *j, struct be_qw *w)
{
	/* as many dense weights as there are copies of a quarter */
	size_t at = (size_t)(j->next++ % (1 + j->copies / 4)) * j->out * j->in;

	(void)w;
	return cu_gemm_f16(j->be, j->x16, j->dense + at, &j->y, j->in, &err);
}

struct version {
	const char *name;
	int (*run)(struct job *, struct be_qw *);
	uint32_t from, to; /* rows it is for */
	int order;         /* x16 in the order of wgmma */
	uint32_t split;
};

#define WG(W, N, KC, RING, BLOCKS, SPLIT, FROM, TO)                           \
	{ "wgmma " #W " by " #N " chunks " #KC " ring " #RING " x" #BLOCKS    \
	  " split " #SPLIT,                                                   \
	  wg<4, W, N, KC, RING, BLOCKS>, FROM, TO, 1, SPLIT }
#define EACH(W, N, KC, RING, BLOCKS, FROM, TO)                                \
	WG(W, N, KC, RING, BLOCKS, 1, FROM, TO),                              \
	WG(W, N, KC, RING, BLOCKS, 2, FROM, TO),                              \
	WG(W, N, KC, RING, BLOCKS, 4, FROM, TO),                              \
	WG(W, N, KC, RING, BLOCKS, 8, FROM, TO)

static const struct version versions[] = {
	{ "product", product, 9, 1u << 20, 0, 0 },
	{ "cuBLAS f16", blas, 9, 1u << 20, 0, 0 },
	EACH(2, 16, 2, 5, 3, 9, 16),
	EACH(2, 16, 2, 8, 2, 9, 16),
	EACH(2, 32, 2, 4, 3, 17, 32),
	EACH(2, 32, 2, 6, 2, 17, 32),
	EACH(2, 64, 2, 4, 2, 33, 64),
	EACH(4, 64, 2, 6, 1, 33, 64),
	EACH(2, 128, 2, 5, 1, 65, 256),
	EACH(2, 256, 2, 3, 1, 129, 2048),
};

/* ---- measuring ---- */

/* The first and the last rows: 32 of each at most. */
static void sample(struct job *j, const struct be_mat *y, float *to)
{
	uint32_t half = std::min(j->m, 32u), first = j->m - half;
	size_t n = (size_t)half * j->out;

	must(j->api->get(j->be, to, y->p, n * 4, &err));
	must(j->api->get(j->be, to + n, (float *)y->p + (size_t)first * j->out,
			 n * 4, &err));
}

static double error_of(size_t n, const float *y, const float *ref)
{
	double d = 0, s = 0;

	for (size_t i = 0; i < n; i++) {
		d += ((double)y[i] - ref[i]) * ((double)y[i] - ref[i]);
		s += (double)ref[i] * ref[i];
	}
	return sqrt(d / s);
}

static double time_of(struct job *j, const struct version *v)
{
	const int runs = j->m > 256 ? 20 : 60;
	cudaGraph_t graph;
	cudaGraphExec_t exec;
	cudaEvent_t e[2];
	float ms[7];

	TRY(cudaStreamBeginCapture(j->be->stream,
				   cudaStreamCaptureModeThreadLocal));
	for (int i = 0; i < runs; i++)
		must(v->run(j, j->w[i % j->copies]));
	TRY(cudaStreamEndCapture(j->be->stream, &graph));
	TRY(cudaGraphInstantiate(&exec, graph, 0));
	TRY(cudaEventCreate(&e[0]));
	TRY(cudaEventCreate(&e[1]));
	TRY(cudaGraphLaunch(exec, j->be->stream));
	for (int i = 0; i < 7; i++) {
		TRY(cudaEventRecord(e[0], j->be->stream));
		TRY(cudaGraphLaunch(exec, j->be->stream));
		TRY(cudaEventRecord(e[1], j->be->stream));
		TRY(cudaEventSynchronize(e[1]));
		TRY(cudaEventElapsedTime(&ms[i], e[0], e[1]));
	}
	std::sort(ms, ms + 7);
	TRY(cudaGraphExecDestroy(exec));
	TRY(cudaGraphDestroy(graph));
	return ms[3] * 1e3 / runs;
}

static void measure(struct job *j, const struct version *v, double *sum)
{
	size_t n = (size_t)2 * std::min(j->m, 32u) * j->out;
	float *y[3];
	double e, us;

	j->split = v->split;
	if (v->order) {
		j->w[0]->spec.act_order = 1;
		must(v->run(j, j->w[0]));
		j->w[0]->spec.act_order = 0;
	}
	for (int i = 0; i < 3; i++) {
		y[i] = (float *)malloc(n * 4);
		if (i == 2)
			break;
		TRY(cudaMemsetAsync(j->y.p, 0xff, (size_t)j->m * j->out * 4,
				    j->be->stream));
		must(v->run(j, j->w[0]));
		sample(j, &j->y, y[i]);
	}
	sample(j, &j->ref, y[2]);
	e = error_of(n, y[0], y[2]);
	us = time_of(j, v);
	*sum += us;
	printf("%5u %6u %6u  %-34s %8.2f us  err %.2e%s%s\n", j->m, j->in,
	       j->out, v->name, us, e, e < 5e-4 ? "" : "  WRONG",
	       memcmp(y[0], y[1], n * 4) ? "  DIFFERS" : "");
	fflush(stdout);
	for (int i = 0; i < 3; i++)
		free(y[i]);
}

static uint32_t seed = 1;
static uint32_t rnd(void)
{
	seed = seed * 1664525u + 1013904223u;
	return seed >> 8;
}

static struct be_mat mat(struct job *j, uint32_t rows, uint32_t cols)
{
	struct be_mat m = { NULL, rows, cols, cols, DT_F32 };

	must(cu_alloc((size_t)rows * cols * 4, "x", &m.p, &err));
	return m;
	(void)j;
}

static void fill(struct ql *ql, uint32_t out, uint32_t in)
{
	*ql = {};
	ql->spec.out = out;
	ql->spec.in = in;
	ql->spec.group_size = 128;
	ql->spec.groups = in / 128;
	ql->spec.bits = 4;
	ql->spec.scale_type = DT_F16;
	size_t n = (size_t)out * in, g = n / 128;
	ql->code = (uint8_t *)malloc(n);
	ql->scale = (float *)malloc(g * 4);
	ql->zero = (float *)malloc(g * 4);
	ql->group_of = (uint32_t *)malloc(in * 4);
	for (size_t i = 0; i < n; i++)
		ql->code[i] = rnd() >> 12 & 15;
	for (size_t i = 0; i < g; i++) {
		ql->scale[i] = __half2float(__float2half_rn(
			0.002f + 0.01f * (rnd() % 1000) / 1000));
		ql->zero[i] = 8;
	}
	for (uint32_t i = 0; i < in; i++)
		ql->group_of[i] = i / 128;
}

static void setup(struct job *j, struct be *slow, uint32_t out, uint32_t in)
{
	size_t words = (size_t)out * in / 2;
	struct ql ql;
	void *p;

	fill(&ql, out, in);
	j->out = out;
	j->in = in;
	must(j->api->qw_new(j->be, &ql, &j->w[0], &err));
	must(j->api->qw_new(slow, &ql, &j->generic, &err));
	j->copies = std::min<size_t>(COPIES, (256u << 20) / words + 1);
	for (uint32_t i = 1; i < j->copies; i++) {
		struct be_qw *w = new be_qw(*j->w[0]);
		size_t size = words + words / 16;

		must(cu_alloc(size + 4096, "w", &p, &err));
		TRY(cudaMemcpy(p, w->mem, words + words / 32,
			       cudaMemcpyDeviceToDevice));
		w->mem = p;
		w->word = (uint32_t *)p;
		w->scale = (uint32_t *)((char *)p + words);
		j->w[i] = w;
	}
	must(cu_alloc((size_t)(1 + j->copies / 4) * out * in * 2, "dense", &p,
		      &err));
	j->dense = (__half *)p;
	for (uint32_t i = 0; i <= j->copies / 4; i++)
		must(cu_dequant(j->be, j->w[0],
				j->dense + (size_t)i * out * in, &err));
	free(ql.code);
	free(ql.scale);
	free(ql.zero);
	free(ql.group_of);
}

static void release(struct job *j, struct be *slow)
{
	for (uint32_t i = 0; i < j->copies; i++)
		j->api->qw_free(j->be, j->w[i]);
	j->api->qw_free(slow, j->generic);
	cudaFree(j->dense);
}

int main(int argc, char **argv)
{
	static const uint32_t shapes[][2] = {
		{ 12288, 4096 }, { 4096, 4096 }, { 22016, 4096 },
		{ 4096, 11008 },
	};
	static const uint32_t rows[] = { 16, 32, 64, 128, 256, 512, 2048 };
	constexpr int V = sizeof(versions) / sizeof(versions[0]);
	const int count = argc > 1 ? argc - 1 : 7;
	static double sum[64][V];
	struct be_open how = { 1, -1, NULL }, plain = { 1, -1, "generic" };
	struct job j = {};
	struct be *slow;
	void *p;

	j.api = be_plugin();
	must(j.api->open(&how, &j.be, &err));
	must(j.api->open(&plain, &slow, &err));
	must(cu_alloc((size_t)2304 * 11008 * 2, "x16", &p, &err));
	TRY(cudaMemset(p, 0, (size_t)2304 * 11008 * 2));
	j.x16 = (__half *)p;
	for (int s = 0; s < 4; s++) {
		const uint32_t out = shapes[s][0], in = shapes[s][1];

		setup(&j, slow, out, in);
		for (int r = 0; r < count; r++) {
			j.m = argc > 1 ? atoi(argv[r + 1]) : rows[r];
			size_t n = (size_t)j.m * in;
			float *x = (float *)malloc(n * 4);

			j.x = mat(&j, j.m, in);
			j.y = mat(&j, j.m, out);
			j.ref = mat(&j, j.m, out);
			for (size_t i = 0; i < n; i++)
				x[i] = ((int)(rnd() % 20001) - 10000) * 1e-4f;
			must(j.api->put(j.be, j.x.p, x, n * 4, &err));
			must(j.api->qgemm(slow, &j.x, j.generic, &j.ref, &err));
			TRY(cudaDeviceSynchronize());
			for (int v = 0; v < V; v++) {
				if (j.m < versions[v].from ||
				    j.m > versions[v].to)
					continue;
				if (!versions[v].order)
					to_half(&j, 0);
				measure(&j, &versions[v], &sum[r][v]);
			}
			free(x);
			cudaFree(j.x.p);
			cudaFree(j.y.p);
			cudaFree(j.ref.p);
			j.be->x16.p = NULL;
		}
		release(&j, slow);
	}
	printf("\nthe four together, us\n");
	for (int r = 0; r < count; r++)
		for (int v = 0; v < V; v++)
			if (sum[r][v] > 0)
				printf("%5u  %-34s %8.1f\n",
				       argc > 1 ? (unsigned)atoi(argv[r + 1])
						: rows[r],
				       versions[v].name, sum[r][v]);
	return 0;
}
