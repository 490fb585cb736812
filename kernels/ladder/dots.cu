/* dots.cu (ladder) - a dense weight and few rows: how many outputs a warp
 * takes, and how many vectors of each are on their way, beside the pure read.
 *
 *	make ladder && build/ladder/dots */
#include "../cuda/dots.cuh"

#include <algorithm>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

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

__global__ void read_kernel(const struct cu_dense d)
{
	const uint4 *p = (const uint4 *)d.b;
	size_t n = (size_t)d.n * d.k / 8, step = gridDim.x * 256ul;
	uint32_t v = 0;

	for (size_t i = blockIdx.x * 256 + threadIdx.x; i < n; i += step * 8)
#pragma unroll
		for (int u = 0; u < 8; u++)
			if (i + u * step < n) {
				uint4 q = __ldcs(p + i + u * step);

				v ^= q.x ^ q.y ^ q.z ^ q.w;
			}
	if (v == 0x12345)
		d.c[0] = 1;
}

__global__ void noise_kernel(__half *p, size_t n)
{
	for (size_t i = blockIdx.x * 256ul + threadIdx.x; i < n;
	     i += gridDim.x * 256ul) {
		uint32_t h = (uint32_t)i * 2654435761u;

		h ^= h >> 15;
		h *= 2246822519u;
		p[i] = __float2half_rn((int)(h >> 8 & 0xffff) * 2e-6f - 0.06f);
	}
}

struct version {
	const char *name;
	void (*fn)(const struct cu_dense);
	uint32_t rows, m;
};

#define V(M, R, U) { #M " rows, " #R " outputs, " #U, \
		     dots_kernel<__half, M, R, U>, R, M }
static const struct version versions[] = {
	{ "read", read_kernel, 0, 1 },
	V(1, 1, 8), V(1, 2, 4), V(1, 2, 8), V(1, 4, 2), V(1, 4, 4), V(1, 8, 2),
	V(2, 4, 2), V(4, 4, 2), V(4, 8, 1),
	V(8, 2, 2), V(8, 4, 1), V(8, 4, 2), V(8, 8, 1),
};

int main(void)
{
	static const uint32_t shapes[][2] = { { 32000, 4096 },
					      { 128256, 4096 },
					      { 4096, 4096 } };
	struct be_open how = { 1, -1, NULL };
	const struct be_api *api = be_plugin();
	struct be *be;
	struct err err;
	cudaEvent_t e[2];
	void *w, *x, *y, *z;
	float *h = (float *)malloc(8 * 8192 * 4);

	if (api->open(&how, &be, &err)) {
		printf("%s\n", err.msg);
		return 1;
	}
	TRY(cudaMalloc(&w, (size_t)2 << 30));
	TRY(cudaMalloc(&x, 8 * 8192 * 4));
	TRY(cudaMalloc(&y, 8 * 131072 * 4));
	TRY(cudaMalloc(&z, 8 * 131072 * 4));
	noise_kernel<<<1024, 256>>>((__half *)w, (size_t)1 << 30);
	for (int i = 0; i < 8 * 8192; i++)
		h[i] = (float)(rand() % 20001 - 10000) * 1e-4f;
	TRY(cudaMemcpy(x, h, 8 * 8192 * 4, cudaMemcpyHostToDevice));
	TRY(cudaEventCreate(&e[0]));
	TRY(cudaEventCreate(&e[1]));
	for (auto &s : shapes)
		for (auto &v : versions) {
			size_t bytes = (size_t)s[0] * s[1] * 2;
			int copies = (int)std::min<size_t>(
				32, ((size_t)2 << 30) / bytes);
			uint32_t blocks = v.rows
				? cu_div_up(s[0], DOT_WARPS * v.rows) : 132 * 8;
			struct cu_dense d = { (float *)x, w, (float *)y, v.m,
					      s[0], s[1], s[1], s[1], s[0], 0,
					      1, 1, 0 };
			float best = 1e9, ms;
			double worst = 0;

			if (v.rows) {
				struct cu_dense r = d;
				size_t n = (size_t)v.m * s[0];
				float *a = (float *)malloc(n * 4);
				float *b = (float *)malloc(n * 4);

				r.c = (float *)z;
				TRY(cudaMemset(y, 0xff, n * 4));
				v.fn<<<blocks, 256, 0, be->stream>>>(d);
				dots_kernel<__half, 8, 1, 1>
					<<<cu_div_up(s[0], DOT_WARPS), 256, 0,
					   be->stream>>>(r);
				TRY(cudaDeviceSynchronize());
				TRY(cudaMemcpy(a, y, n * 4,
					       cudaMemcpyDeviceToHost));
				TRY(cudaMemcpy(b, z, n * 4,
					       cudaMemcpyDeviceToHost));
				for (size_t i = 0; i < n; i++)
					worst = std::max(worst, (double)fabsf(
						a[i] - b[i]));
				if (!(worst < 1e-4))
					worst = 1;
				free(a);
				free(b);
			}
			for (int t = 0; t < 6; t++) {
				TRY(cudaEventRecord(e[0], be->stream));
				for (int i = 0; i < 20; i++) {
					d.b = (char *)w + i % copies * bytes;
					if (cu_launch(be, "dots",
						      { dim3(blocks),
							dim3(256), 0 },
						      &err, v.fn, d))
						return 1;
				}
				TRY(cudaEventRecord(e[1], be->stream));
				TRY(cudaEventSynchronize(e[1]));
				TRY(cudaEventElapsedTime(&ms, e[0], e[1]));
				best = std::min(best, ms / 20);
			}
			printf("%6ux%u  %-24s %8.2f us %7.0f GB/s  diff %.1e\n",
			       s[0], s[1], v.name, best * 1e3,
			       bytes / best * 1e-6, worst);
		}
	return 0;
}
