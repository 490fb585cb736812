/* harness.cuh (ladder) - versions of a quantized product side by side: the four
 * linears of a Llama-2-7B layer, 4 bits, groups of 128, on a machine with a GPU.
 *
 * Launches rotate over more than 256 MiB of weights.  A figure is the median of
 * seven runs, of one graph replayed or launch by launch from the host; errors
 * are relative (Frobenius), against the generic kernel, which computes in f32
 * from x in f32. */
#ifndef KERNELS_LADDER_HARNESS_CUH
#define KERNELS_LADDER_HARNESS_CUH

#include "../cuda/qw.cuh"

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
};

struct version {
	const char *name;
	int (*run)(struct job *, struct be_qw *);
	void (*ready)(struct job *); /* makes x16; NULL: nothing to make */
	uint32_t from, to; /* rows it is for */
};

/* ---- what versions share ---- */

__global__ void half_kernel(const float *x, size_t n, __half *to)
{
	size_t i = blockIdx.x * 256ul + threadIdx.x;

	if (i < n)
		to[i] = cu_half(x[i]);
}

/* x row by row. */
static inline void to_half(struct job *j)
{
	size_t n = (size_t)j->m * j->in;

	half_kernel<<<cu_div_up(n, 256), 256, 0, j->be->stream>>>(
		(float *)j->x.p, n, j->x16);
}

static inline int product(struct job *j, struct be_qw *w)
{
	return j->api->qgemm(j->be, &j->x, w, &j->y, &err);
}

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

static double time_of(struct job *j, const struct version *v, bool graphs)
{
	const int runs = j->m > 256 ? 20 : 60;
	cudaGraph_t graph;
	cudaGraphExec_t exec;
	cudaEvent_t e[2];
	float ms[7];

	auto launch = [&] {
		for (int i = 0; i < runs; i++)
			must(v->run(j, j->w[i % j->copies]));
	};
	if (graphs) {
		TRY(cudaStreamBeginCapture(j->be->stream,
					   cudaStreamCaptureModeThreadLocal));
		launch();
		TRY(cudaStreamEndCapture(j->be->stream, &graph));
		TRY(cudaGraphInstantiate(&exec, graph, 0));
		TRY(cudaGraphLaunch(exec, j->be->stream));
	}
	TRY(cudaEventCreate(&e[0]));
	TRY(cudaEventCreate(&e[1]));
	for (int i = 0; i < 7; i++) {
		TRY(cudaEventRecord(e[0], j->be->stream));
		if (graphs)
			TRY(cudaGraphLaunch(exec, j->be->stream));
		else
			launch();
		TRY(cudaEventRecord(e[1], j->be->stream));
		TRY(cudaEventSynchronize(e[1]));
		TRY(cudaEventElapsedTime(&ms[i], e[0], e[1]));
	}
	std::sort(ms, ms + 7);
	if (graphs) {
		TRY(cudaGraphExecDestroy(exec));
		TRY(cudaGraphDestroy(graph));
	}
	return ms[3] * 1e3 / runs;
}

/* Prints a line and adds to the sums of both ways to launch. */
static void measure(struct job *j, const struct version *v, double sum[2])
{
	size_t n = (size_t)2 * std::min(j->m, 32u) * j->out;
	float *y[3];
	double e, us[2];

	if (v->ready)
		v->ready(j);
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
	for (int g = 0; g < 2; g++) {
		us[g] = time_of(j, v, g);
		sum[g] += us[g];
	}
	printf("%5u %6u %6u  %-34s %8.2f us, %8.2f as a graph  err %.2e%s%s\n",
	       j->m, j->in, j->out, v->name, us[0], us[1], e,
	       e < 5e-4 ? "" : "  WRONG",
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

/* All versions by all shapes and the rows of the command line, or these. */
template <int V, int R>
static int ladder(int argc, char **argv, const struct version (&versions)[V],
		  const uint32_t (&rows)[R])
{
	static const uint32_t shapes[][2] = {
		{ 12288, 4096 }, { 4096, 4096 }, { 22016, 4096 },
		{ 4096, 11008 },
	};
	const int count = argc > 1 ? argc - 1 : R;
	static double sum[64][V][2];
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
			for (int v = 0; v < V; v++)
				if (j.m >= versions[v].from &&
				    j.m <= versions[v].to)
					measure(&j, &versions[v], sum[r][v]);
			free(x);
			cudaFree(j.x.p);
			cudaFree(j.y.p);
			cudaFree(j.ref.p);
			j.be->x16.p = NULL;
		}
		release(&j, slow);
	}
	printf("\nthe four together, us, launch by launch and as graphs\n");
	for (int r = 0; r < count; r++)
		for (int v = 0; v < V; v++)
			if (sum[r][v][0] > 0)
				printf("%5u  %-34s %8.1f %8.1f\n",
				       argc > 1 ? (unsigned)atoi(argv[r + 1])
						: rows[r],
				       versions[v].name, sum[r][v][0],
				       sum[r][v][1]);
	return 0;
}

#endif
