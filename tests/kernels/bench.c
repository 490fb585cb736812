/* bench.c - how fast: GB/s and GFLOP/s of the operations that take the time,
 * and what part that is of this machine's reading from memory and of its
 * fused multiply-adds of f32 in registers, both measured first (on the CPU;
 * other devices leave it out).
 *
 * Bytes are those of the weights or of the arrays that must be touched.
 * Weights come in as many copies as no cache holds, taken in turn.  A figure
 * is the best of RUNS: others may be at work on the machine. */
#include "bench.h"

#include "../../kernels/tile.h"
#include "peak.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* get waits for the device. */
static void settle(struct bench *b)
{
	static const char byte;
	char back;
	void *p = NULL;

	if (b->api->alloc(b->be, 1, &p, &b->err) ||
	    b->api->put(b->be, p, &byte, 1, &b->err) ||
	    b->api->get(b->be, &back, p, 1, &b->err))
		b->failed = 1;
	if (p)
		b->api->free(b->be, p);
}

/* Seconds per run: each sample takes at least 30 ms. */
static double seconds(struct item *it)
{
	double best = 1e9, t, start;
	uint32_t turn = 0, each = 1;

	for (;;) {
		start = now();
		for (uint32_t i = 0; i < each && !it->b->failed; i++)
			if (it->run(it, turn++))
				it->b->failed = 1;
		settle(it->b);
		if (it->b->failed || now() - start > 0.03)
			break;
		each *= 2;
	}
	for (int r = 0; r < RUNS && !it->b->failed; r++) {
		start = now();
		for (uint32_t i = 0; i < each; i++)
			(void)it->run(it, turn++);
		settle(it->b);
		t = (now() - start) / each;
		best = t < best ? t : best;
	}
	return best;
}

static void part(double have, double of)
{
	if (of > 0)
		printf(" %5.1f %%", 100 * have / of);
	else
		printf("       -");
}

void bench_report(struct item *it, const char *what)
{
	double s = seconds(it);

	if (it->b->failed) {
		printf("%-38s FAILED: %s\n", what, it->b->err.msg);
		return;
	}
	printf("%-38s %-20s %10.3f", what, it->kernel ? it->kernel : "",
	       1e3 * s);
	printf(" %7.2f", 1e-9 * it->bytes / s);
	part(it->bytes / s, it->b->peak_bytes);
	printf(" %8.1f", 1e-9 * it->flops / s);
	part(it->flops / s, it->b->peak_flops);
	printf("\n");
	fflush(stdout);
}

/* ---- the machine ---- */

struct peak {
	uint64_t *mem;
	size_t words; /* per tile */
	uint64_t sum[1024];
	double flops[1024]; /* of a tile */
	float sink[1024];
};

#define TURNS 2000000u /* some milliseconds each */

static void read_tile(void *ctx, uint32_t tile, uint32_t self)
{
	struct peak *p = ctx;
	const uint64_t *w = p->mem + tile * p->words;
	uint64_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;

	(void)self;
	for (size_t i = 0; i + 4 <= p->words; i += 4) {
		s0 ^= w[i];
		s1 ^= w[i + 1];
		s2 ^= w[i + 2];
		s3 ^= w[i + 3];
	}
	p->sum[tile % 1024] = s0 ^ s1 ^ s2 ^ s3;
}

static void fma_tile(void *ctx, uint32_t tile, uint32_t self)
{
	struct peak *p = ctx;

	(void)self;
	p->flops[tile % 1024] = peak_flops(TURNS, &p->sink[tile % 1024]);
}

static double best_of(struct tile_pool *pool, uint32_t tiles,
		      void (*fn)(void *, uint32_t, uint32_t), void *ctx)
{
	double best = 1e9, t;

	for (int i = 0; i < 9; i++) {
		t = now();
		tile_run(pool, tile_threads(pool), tiles, fn, ctx);
		t = now() - t;
		best = t < best ? t : best;
	}
	return best;
}

/* Reading: 64 tiles of 4 MiB, the fastest of 9 passes.  Multiply-adds: a tile
 * for each thread. */
static void measure_machine(struct bench *b)
{
	static struct peak p;
	struct tile_pool *pool = NULL;
	double each;

	p.words = (size_t)4 << 17;
	p.mem = calloc(64 * p.words, sizeof(*p.mem));
	if (!p.mem || tile_open(b->threads, &pool, &b->err)) {
		b->failed = 1;
		goto out;
	}
	for (size_t i = 0; i < 64 * p.words; i++)
		p.mem[i] = i;
	b->peak_bytes = 64.0 * (double)p.words * 8 /
			best_of(pool, 64, read_tile, &p);
	each = best_of(pool, b->threads, fma_tile, &p);
	b->peak_flops = b->threads * p.flops[0] / each;
out:
	tile_close(pool);
	free(p.mem);
}

/* ---- the operations ---- */

static float noise(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return (float)(*seed >> 8) / 8388608.0F - 1;
}

struct be_mat bench_matrix(struct bench *b, uint32_t rows, uint32_t cols,
			   enum dtype type)
{
	struct be_mat m = { 0 };
	size_t n = (size_t)rows * cols, size = be_elem(type);
	unsigned char *host = malloc(n * size);
	uint32_t seed = 1;

	if (!host || be_mat_new(b->api, b->be, rows, cols, type, &m, &b->err))
		goto fail;
	for (size_t i = 0; i < n; i++) {
		float f = noise(&seed);
		uint32_t bits;

		memcpy(&bits, &f, 4);
		if (type == DT_F32)
			memcpy(host + i * 4, &f, 4);
		else if (type == DT_F64)
			memset(host + i * 8, 0, 8);
		else if (type == DT_I8)
			host[i] = (unsigned char)(seed >> 24);
		else /* any finite half will do */
			memcpy(host + i * 2, (uint16_t[]){
				(uint16_t)(bits >> 16 & 0x3fff) }, 2);
	}
	if (b->api->put(b->be, m.p, host, n * size, &b->err))
		goto fail;
	free(host);
	return m;
fail:
	free(host);
	b->failed = 1;
	return m;
}

struct linear {
	struct be_mat x, y, w[COPIES];
	struct be_qw *q[COPIES];
	uint32_t copies;
};

static int run_qgemm(struct item *it, uint32_t turn)
{
	struct linear *l = it->ctx;
	struct bench *b = it->b;

	return b->api->qgemm(b->be, &l->x, l->q[turn % l->copies], &l->y,
			     &b->err);
}

const char *bench_type(enum dtype t)
{
	return t == DT_F32 ? "f32" : t == DT_F16 ? "f16" :
	       t == DT_I8 ? "q8" : "bf16";
}

static int run_gemm(struct item *it, uint32_t turn)
{
	struct linear *l = it->ctx;
	struct bench *b = it->b;
	struct be_gemm g = { &l->x, &l->w[turn % l->copies], &l->y, 1, 0, 1 };

	return b->api->gemm(b->be, &g, &b->err);
}

static void linear_free(struct bench *b, struct linear *l)
{
	be_mat_free(b->api, b->be, &l->x);
	be_mat_free(b->api, b->be, &l->y);
	for (uint32_t i = 0; i < l->copies; i++) {
		be_mat_free(b->api, b->be, &l->w[i]);
		b->api->qw_free(b->be, l->q[i]);
	}
}

uint32_t bench_copies(double bytes)
{
	double n = ceil((double)CACHE / bytes);

	return n > COPIES ? COPIES : (uint32_t)n;
}

static int random_ql(struct bench *b, struct ql *ql, const uint32_t dim[4],
		     int shuffled)
{
	struct ql_spec spec = { .out = dim[0], .in = dim[1],
				.groups = (dim[1] + dim[3] - 1) / dim[3],
				.group_size = dim[3], .bits = (uint8_t)dim[2],
				.scale_type = DT_F16 };
	uint32_t seed = 7;

	if (ql_init(ql, &spec, &b->err))
		return -1;
	for (size_t i = 0; i < (size_t)spec.out * spec.in; i++) {
		seed = seed * 1664525u + 1013904223u;
		ql->code[i] = (uint8_t)(seed >> 24 & ((1u << spec.bits) - 1));
	}
	for (size_t i = 0; i < (size_t)spec.out * spec.groups; i++) {
		ql->scale[i] = 0.0078125F;
		ql->zero[i] = (float)(1u << (spec.bits - 1));
	}
	for (uint32_t k = 0; shuffled && k < spec.in; k++)
		ql->group_of[k] = (uint32_t)((uint64_t)k * 40503 % spec.in) /
				  dim[3];
	return 0;
}

/* dim: out, in, bits, group size. */
static void bench_qgemm(struct bench *b, const uint32_t dim[4],
			const uint32_t *ms, int shuffled)
{
	struct linear l = { 0 };
	struct item it = { .b = b, .run = run_qgemm, .ctx = &l };
	double count = (double)dim[0] * dim[1];
	struct ql ql;
	char what[64];

	/* codes, and a scale and a zero of 16 bits per group */
	it.bytes = count * dim[2] / 8 + count / dim[3] * 4;
	l.copies = bench_copies(it.bytes);
	b->failed = random_ql(b, &ql, dim, shuffled);
	for (uint32_t i = 0; i < l.copies && !b->failed; i++)
		b->failed = b->api->qw_new(b->be, &ql, &l.q[i], &b->err);
	if (!b->failed)
		ql_release(&ql);
	for (; *ms && !b->failed; ms++) {
		l.x = bench_matrix(b, *ms, dim[1], DT_F32);
		l.y = bench_matrix(b, *ms, dim[0], DT_F32);
		it.flops = 2 * count * *ms;
		it.kernel = b->failed ? "" : b->api->qw_kernel(b->be, l.q[0],
							       *ms);
		snprintf(what, sizeof(what), "qgemm %ux%ux%u b%u g%u%s", *ms,
			 dim[0], dim[1], dim[2], dim[3],
			 shuffled ? " act-order" : "");
		bench_report(&it, what);
		be_mat_free(b->api, b->be, &l.x);
		be_mat_free(b->api, b->be, &l.y);
	}
	linear_free(b, &l);
}

static void bench_gemm(struct bench *b, uint32_t out, enum dtype type,
		       const uint32_t *ms)
{
	const uint32_t n = 4096;
	struct linear l = { 0 };
	struct item it = { .b = b, .run = run_gemm, .ctx = &l };
	char what[64];

	it.bytes = (double)out * n * (double)be_elem(type);
	l.copies = bench_copies(it.bytes);
	for (uint32_t i = 0; i < l.copies; i++)
		l.w[i] = bench_matrix(b, out, n, type);
	for (; *ms && !b->failed; ms++) {
		l.x = bench_matrix(b, *ms, n, DT_F32);
		l.y = bench_matrix(b, *ms, out, DT_F32);
		it.flops = 2.0 * out * n * *ms;
		snprintf(what, sizeof(what), "gemm %ux%ux%u %s", *ms, out, n,
			 bench_type(type));
		bench_report(&it, what);
		be_mat_free(b->api, b->be, &l.x);
		be_mat_free(b->api, b->be, &l.y);
	}
	linear_free(b, &l);
}

/* Arrays of the quantizer's operations on a layer [n][n]. */
struct quant {
	struct be_mat x, h, u, w, corner, block, err, rest;
	float *grid;
	uint8_t *code;
	double *loss;
	uint32_t group[128], tries;
};

static int run_syrk(struct item *it, uint32_t turn)
{
	struct quant *q = it->ctx;

	(void)turn;
	return it->b->api->syrk(it->b->be, &q->x, 1e-3, &q->h, &it->b->err);
}

static int run_factor(struct item *it, uint32_t turn)
{
	struct quant *q = it->ctx;
	struct be_factor f = { &q->h, &q->u, 0.01 };

	(void)turn;
	return it->b->api->factor(it->b->be, &f, &it->b->err);
}

static int run_grid(struct item *it, uint32_t turn)
{
	struct quant *q = it->ctx;
	struct be_grid g = { .w = &q->block, .scale = q->grid,
			     .zero = q->grid + q->w.rows, .step = 1,
			     .bits = 4, .round_scale = DT_F16,
			     .tries = q->tries, .shrink = 0.02F, .power = 2 };

	(void)turn;
	return it->b->api->grid(it->b->be, &g, &it->b->err);
}

static int run_sweep(struct item *it, uint32_t turn)
{
	struct quant *q = it->ctx;
	struct be_sweep s = { &q->block, &q->corner, &q->err, q->code, 128,
			      q->grid, q->grid + q->w.rows, 1, q->group,
			      q->loss, 4 };

	(void)turn;
	return it->b->api->sweep(it->b->be, &s, &it->b->err);
}

static int run_refine(struct item *it, uint32_t turn)
{
	struct quant *q = it->ctx;
	struct be_refine x = {
		.w = &q->block, .diff = &q->err, .grad = &q->err,
		.h = &q->corner, .code = q->code, .code_ld = 128,
		.scale = q->grid, .zero = q->grid + q->w.rows, .grid_ld = 1,
		.group = q->group, .loss = q->loss, .rounds = 1, .bits = 4,
		.refit = 1, .scale_type = DT_F16,
	};

	(void)turn;
	return it->b->api->refine(it->b->be, &x, &it->b->err);
}

static int run_lazy(struct item *it, uint32_t turn)
{
	struct quant *q = it->ctx;
	struct be_gemm g = { &q->err, &q->rest, &q->w, -1e-3F, 1, 0 };

	(void)turn;
	return it->b->api->gemm(it->b->be, &g, &it->b->err);
}

static void bench_quant(struct bench *b, uint32_t n)
{
	const uint32_t m = 2048, cols = 128;
	double nn = (double)n * n;
	struct be_mat grid = bench_matrix(b, 2, n, DT_F32);
	struct be_mat loss = bench_matrix(b, 1, n, DT_F64);
	struct be_mat code = bench_matrix(b, n, cols, DT_F16);
	struct quant q = {
		.x = bench_matrix(b, m, n, DT_F32),
		.h = bench_matrix(b, n, n, DT_F64),
		.u = bench_matrix(b, n, n, DT_F32),
		.w = bench_matrix(b, n, n, DT_F32),
		.err = bench_matrix(b, n, cols, DT_F32), .grid = grid.p,
		.code = code.p, .loss = loss.p,
	};
	struct item it = { .b = b, .ctx = &q };

	q.block = be_cols(&q.w, 0, cols);
	q.corner = be_rows(&q.u, 0, cols);
	q.rest = q.corner;
	q.corner = be_cols(&q.corner, 0, cols);
	it.run = run_syrk;
	it.flops = m * nn; /* of one triangle */
	it.bytes = 8 * nn + 4.0 * m * n;
	bench_report(&it, "syrk [2048][4096]");
	it.run = run_factor;
	it.flops = 2 * nn * n / 3;
	it.bytes = 12 * nn;
	bench_report(&it, "factor 4096 (f64)");
	it.run = run_grid;
	it.flops = 0;
	it.bytes = 4.0 * n * cols;
	bench_report(&it, "grid [4096][128]");
	q.tries = 36;
	bench_report(&it, "grid of 36 tries [4096][128]");
	it.run = run_sweep;
	it.flops = (double)n * cols * (cols + 1);
	it.bytes = 13.0 * n * cols;
	bench_report(&it, "sweep [4096][128]");
	it.run = run_refine;
	/* scales, and codes: the last round's gradient is not asked for */
	it.flops = (double)n * cols * (3 * cols + 1);
	bench_report(&it, "refine [4096][128], a round");
	it.run = run_lazy;
	it.flops = 2.0 * n * n * cols;
	it.bytes = 8 * nn;
	bench_report(&it, "gemm 4096x4096x128 (lazy update)");
	be_mat_free(b->api, b->be, &q.x);
	be_mat_free(b->api, b->be, &q.h);
	be_mat_free(b->api, b->be, &q.u);
	be_mat_free(b->api, b->be, &q.w);
	be_mat_free(b->api, b->be, &q.err);
	be_mat_free(b->api, b->be, &grid);
	be_mat_free(b->api, b->be, &loss);
	be_mat_free(b->api, b->be, &code);
}

static void bench_linear(struct bench *b)
{
	static const uint32_t one[] = { 1, 0 };
	static const uint32_t few[] = { 1, 8, 16, 64, 512, 0 };
	static const uint32_t many[] = { 1, 2, 4, 8, 9, 16, 32, 64, 512, 0 };

	bench_qgemm(b, (const uint32_t[]){ 4096, 4096, 4, 128 }, many, 0);
	bench_qgemm(b, (const uint32_t[]){ 11008, 4096, 4, 128 }, few, 0);
	bench_qgemm(b, (const uint32_t[]){ 4096, 11008, 4, 128 }, one, 0);
	bench_qgemm(b, (const uint32_t[]){ 4096, 4096, 4, 32 }, one, 0);
	bench_qgemm(b, (const uint32_t[]){ 4096, 4096, 4, 128 }, few, 1);
	bench_qgemm(b, (const uint32_t[]){ 4096, 4096, 2, 128 }, few, 0);
	bench_qgemm(b, (const uint32_t[]){ 4096, 4096, 3, 128 }, few, 0);
	bench_qgemm(b, (const uint32_t[]){ 4096, 4096, 8, 128 }, few, 0);
}

static void bench_dense(struct bench *b)
{
	static const uint32_t one[] = { 1, 0 };
	static const uint32_t few[] = { 1, 8, 16, 64, 512, 0 };

	bench_gemm(b, 4096, DT_F16, few);
	bench_gemm(b, 4096, DT_BF16, few);
	bench_gemm(b, 4096, DT_F32, few);
	if (b->api == &be_cpu || b->api == &be_ref)
		return; /* minutes */
	/* heads of vocabularies of Llama 2 and 3 */
	bench_gemm(b, 32000, DT_F16, one);
	bench_gemm(b, 128256, DT_F16, one);
}

static void bench_solver(struct bench *b)
{
	bench_quant(b, 4096);
}

/* The linears of a layer of Llama 2 7B, q, k, v and gate, up as one each. */
static void bench_layer(struct bench *b)
{
	static const uint32_t ms[] = { 1, 4, 8, 16, 32, 64, 128, 256, 512, 2048,
				       0 };

	if (b->api == &be_cpu || b->api == &be_ref)
		return; /* minutes */
	bench_qgemm(b, (const uint32_t[]){ 12288, 4096, 4, 128 }, ms, 0);
	bench_qgemm(b, (const uint32_t[]){ 4096, 4096, 4, 128 }, ms, 0);
	bench_qgemm(b, (const uint32_t[]){ 22016, 4096, 4, 128 }, ms, 0);
	bench_qgemm(b, (const uint32_t[]){ 4096, 11008, 4, 128 }, ms, 0);
}

static const struct {
	const char *name;
	void (*run)(struct bench *b);
} groups[] = {
	{ "qgemm", bench_linear },
	{ "gemm", bench_dense },
	{ "attend", bench_attention },
	{ "rows", bench_rows },
	{ "quant", bench_solver },
	{ "layer", bench_layer },
};

int kit_bench(const char *device, const char *kernel, uint32_t threads,
	      const char *only)
{
	struct bench b = { .threads = threads ? threads : tile_cores() };
	char why[256];

	if (be_select(device, b.threads, kernel, &b.api, &b.be, why, &b.err)) {
		fprintf(stderr, "check: %s\n", b.err.msg);
		return b.err.code;
	}
	printf("%s\n", why);
	if (b.api == &be_cpu && !b.failed) {
		measure_machine(&b);
		printf("reads %.1f GB/s, multiply-adds %.1f GFLOP/s\n",
		       1e-9 * b.peak_bytes, 1e-9 * b.peak_flops);
	}
	printf("%-38s %-20s %10s %7s %7s %8s %7s\n", "operation", "kernel",
	       "ms", "GB/s", "of peak", "GFLOP/s", "of peak");
	for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++)
		if (!only || strcmp(only, groups[i].name) == 0)
			groups[i].run(&b);
	b.api->close(b.be);
	return b.failed ? 1 : 0;
}
