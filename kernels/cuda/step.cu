/* step.cu - a token through all decoder blocks in one launch: what is prepared
 * once, and the launch.  The kernel is in step_kernel.cuh; step.cuh has the
 * whole. */
#include "step_kernel.cuh"

#include <new>
#include <stdlib.h>
#include <string.h>

typedef void (*step_fn)(const struct step_arg);

template <int BITS>
static step_fn step_by(uint32_t unit, uint32_t rep)
{
	if (unit == 32)
		return rep == 1 ? step_kernel<BITS, 32, 1>
				: step_kernel<BITS, 32, 4>;
	return rep == 1 ? step_kernel<BITS, 128, 1>
			: step_kernel<BITS, 128, 4>;
}

static step_fn step_of(int bits, uint32_t unit, uint32_t rep)
{
	return bits == 2 ? step_by<2>(unit, rep)
	     : bits == 3 ? step_by<3>(unit, rep)
	     : bits == 4 ? step_by<4>(unit, rep)
			 : step_by<8>(unit, rep);
}

/* ---- from the host ---- */

struct be_step {
	struct step_arg arg;
	struct be_mat cos, sin;
	uint32_t capacity;      /* positions of cache and tables */
	uint32_t most;          /* splits there is room for */
	uint32_t tile;          /* positions of a block's warps at a time */
	uint32_t blocks;
	step_fn fn;
	size_t smem;
	void *mem;
	void *order;            /* of act-order, or NULL */
};

template <class T> static T larger(T a, T b)
{
	return a > b ? a : b;
}

/* Strips whose outputs a block has in a phase, at most. */
static uint32_t strips_of_block(const struct be *be, const struct be_blocks *b)
{
	const uint32_t qkv = (b->heads * b->head_dim + 15) / 16 +
			     2 * ((b->kv_heads * b->head_dim + 15) / 16);
	const uint32_t most = larger(qkv, larger(b->hidden, b->inter) /
					    16);

	return cu_div_up(most, be->sms);
}

/* What keeps these blocks from a step, or NULL. */
static const char *unfit(const struct be *be, const struct be_blocks *b)
{
	static const int slot[7] = { 0, 0, 0, 1, 2, 2, 3 };

	if (be->cc < 90)
		return "a GPU older than sm_90";
	if (be->generic)
		return "generic kernels asked for";
	if (b->hidden % 128 || b->inter % 128 ||
	    b->heads * b->head_dim % 128)
		return "inputs that are no multiple of 128";
	if (b->head_dim % 8 || b->head_dim > 256)
		return "heads that are no multiple of 8, or beyond 256";
	if (strips_of_block(be, b) > STEP_STRIPS)
		return "too few multiprocessors for these sizes";
	if (b->kv_heads > (uint32_t)be->sms || b->heads / b->kv_heads > 16)
		return "too many heads";
	for (uint32_t i = 0; i < b->layers; i++) {
		const struct be_layer *l = &b->layer[i];

		if (l->kv.k.type != DT_F16 || l->kv.v.type != DT_F16 ||
		    l->kv.k.ld != l->kv.v.ld || l->kv.k.ld % 8)
			return "a cache that is not f16";
		for (int j = 0; j < 7; j++) {
			const struct be_qw *w = l->lin[j];

			if (!w || w->why)
				return "linears that the mma kernels do not take";
			if ((const char *)w->scale != (const char *)w->word +
			    (size_t)w->strips * w->chunks * 128 * w->spec.bits)
				return "scales that do not follow the codes";
			if (w->spec.bits != b->layer[0].lin[0]->spec.bits ||
			    w->unit != b->layer[0].lin[0]->unit)
				return "linears of different widths";
			for (int k = 0; k < j; k++)
				if (slot[k] == slot[j] &&
				    l->lin[k]->order != w->order)
					return "act-order that differs between linears of one input";
		}
	}
	return NULL;
}

static uint64_t mat_word(const struct be_qw *w)
{
	return (uint64_t)(uintptr_t)w->word | (w->bf16 ? STEP_BF16 : 0) |
	       (w->zero ? STEP_ZERO : 0);
}

static void table_fill(const struct be_layer *l, struct step_layer *t)
{
	for (int j = 0; j < 7; j++) {
		t->mat[j] = mat_word(l->lin[j]);
		t->bias[j] = l->bias[j];
	}
	t->norm_in = l->norm_in;
	t->norm_post = l->norm_post;
	t->norm_q = l->norm_q;
	t->norm_k = l->norm_k;
	t->k = (__half *)l->kv.k.p;
	t->v = (__half *)l->kv.v.p;
}

/* Bytes of scales and zeros of a piece, and of codes. */
struct need {
	size_t grid, codes;
};

static struct need need_of(const struct be_blocks *b)
{
	struct need n = { 0, 0 };
	const struct be_qw *first = b->layer[0].lin[0];

	for (uint32_t i = 0; i < b->layers; i++) {
		const struct be_qw *const *w = b->layer[i].lin;

		for (int j = 0; j < 7; j++)
			n.grid = larger<size_t>(n.grid, STEP_ROUND /
						first->unit *
						(w[j]->zero ? 64 : 32));
	}
	n.codes = STEP_ROUND * 2 * first->spec.bits;
	return n;
}

/* Bytes on their way to a multiprocessor: enough for the memory's full rate
 * and little more (measured on an H200). */
#define STEP_FLIGHT (36u << 10)

/* Put n bytes behind what is there. */
static uint32_t add(struct step_map *m, size_t n)
{
	uint32_t at = m->end;

	m->end += (uint32_t)((n + 127) / 128 * 128);
	return at;
}

/* Strips of a block in a phase, gate and up together, at most. */
static uint32_t sums_of_block(const struct be *be, const struct be_blocks *b)
{
	return larger(strips_of_block(be, b),
		      2 * cu_div_up(b->inter / 16, be->sms));
}

/* All but the ring. */
static void map_make(const struct be_blocks *b, const struct step_arg *a,
		     struct step_map *m)
{
	const uint32_t in = larger(larger(b->hidden, b->inter),
				   b->heads * b->head_dim);

	m->act = add(m, larger<size_t>(in * 2u, step_attend_smem(
		b->head_dim, a->rep, a->rep == 1 ? 1 : 4)));
	m->sum32 = add(m, in / 32 * sizeof(float));
	m->sum128 = add(m, in / 128 * sizeof(float));
	m->step = add(m, in / 128 * sizeof(float));
	m->part = add(m, 2 * STEP_WARPS * sizeof(float));
	m->rope = add(m, b->head_dim * sizeof(float));
	m->layer = add(m, 2 * sizeof(struct step_layer));
	m->reader = add(m, STEP_WARPS * sizeof(struct reader));
	m->strips = add(m, 8 * sizeof(span));
	m->full = add(m, STEP_STAGES * 8);
	m->empty = add(m, STEP_STAGES * 8);
	m->outs = add(m, 4 * sizeof(uint32_t));
	m->mat = add(m, b->layers * 7 * 8);
	m->red = add(m, 2 * a->red * sizeof(float));
}

/* Shared memory; -1 when it does not fit. */
static int layout(const struct be *be, const struct be_blocks *b,
		  struct be_step *s)
{
	const struct be_qw *first = b->layer[0].lin[0];
	const struct need n = need_of(b);
	const size_t stage = n.codes + n.grid;
	struct step_arg *a = &s->arg;
	struct step_map m = {};

	s->fn = step_of(first->spec.bits, first->unit, a->rep);
	a->codes = (uint32_t)n.codes;
	a->grid = (uint32_t)n.grid;
	while ((8u << a->row_bits) < b->head_dim)
		a->row_bits++;
	a->red = sums_of_block(be, b) * STEP_RED;
	s->tile = step_tile(a->rep, a->row_bits);
	map_make(b, a, &m);
	s->smem = m.end + 2 * stage;
	if (s->smem > be->smem)
		return -1;
	a->stages = (uint32_t)((be->smem - m.end) / stage);
	a->stages = a->stages < STEP_STAGES ? a->stages : STEP_STAGES;
	m.end = (uint32_t)(a->stages * stage);
	map_make(b, a, &m);
	a->at = m;
	s->smem = m.end;
	a->flight = (uint32_t)(STEP_FLIGHT / stage);
	a->flight = a->flight < 2 ? 2 : a->flight;
	a->flight = a->flight < a->stages ? a->flight : a->stages;
	return 0;
}

/* Device memory: the table and what phases hand on, of no time. */
static int step_alloc(struct be *be, const struct be_blocks *b,
		      struct be_step *s, struct err *err)
{
	struct step_arg *a = &s->arg;
	const size_t q = (size_t)b->heads * b->head_dim;
	const size_t kv = (size_t)b->kv_heads * b->head_dim;
	size_t size[7] = {
		b->layers * sizeof(struct step_layer), b->hidden * 4u, q * 4,
		b->hidden * 4u, b->inter * 4u, (q + 2 * kv) * 4,
		q * s->most * sizeof(struct share),
	};
	size_t all = 0, at = 0;

	for (int i = 0; i < 7; i++)
		all += size[i] = (size[i] + 255) / 256 * 256;
	if (cu_alloc(all, "a step", &s->mem, err))
		return -1;
	CU_TRY(cudaMemsetAsync(s->mem, 0, all, be->stream), "a step", err);
	a->layer = (struct step_layer *)s->mem;
	at = size[0];
	for (int i = 0; i < 4; at += size[++i])
		a->vec[i] = (uint32_t *)((char *)s->mem + at);
	a->qkv = (uint32_t *)((char *)s->mem + at);
	a->share = (struct share *)((char *)s->mem + at + size[5]);
	a->time = 1;
	return 0;
}

/* back[perm[c]] = c, and norm in the order of perm; norm may be NULL. */
__global__ void order_kernel(const uint32_t *perm, uint32_t n, uint32_t *back,
			     const float *norm, float *ordered)
{
	uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;

	cu_wait();
	if (c >= n)
		return;
	back[perm[c]] = c;
	if (norm)
		ordered[c] = norm[perm[c]];
}

/* The act-order of one input of a layer. */
static int order_make(struct be *be, const uint32_t *perm, uint32_t n,
		      uint32_t *at, const uint32_t **back, const float **norm,
		      struct err *err)
{
	float *ordered = (float *)(at + n);

	if (!perm)
		return 0;
	if (cu_launch(be, "act-order", { dim3(cu_div_up(n, 256)), dim3(256), 0 },
		      err, order_kernel, perm, n, at, norm ? *norm : NULL,
		      ordered))
		return -1;
	*back = at;
	if (norm)
		*norm = ordered;
	return 0;
}

/* Outputs are written in the order in which the next phase reads them, and
 * norms are in it too. */
static int orders_make(struct be *be, const struct be_blocks *b,
		       struct be_step *s, struct step_layer *t, struct err *err)
{
	static const int first[4] = { 0, 3, 4, 6 };
	const uint32_t in[4] = { b->hidden, b->heads * b->head_dim, b->hidden,
				 b->inter };
	const size_t each = 2 * (in[0] + in[2]) + in[1] + in[3];
	int any = 0;

	for (uint32_t i = 0; i < b->layers * 4; i++)
		any |= b->layer[i / 4].lin[first[i % 4]]->perm != NULL;
	if (!any)
		return 0;
	if (cu_alloc(b->layers * each * 4, "act-order", &s->order, err))
		return -1;
	for (uint32_t i = 0; i < b->layers; i++) {
		uint32_t *at = (uint32_t *)s->order + i * each;
		const float **norm[4] = { &t[i].norm_in, NULL, &t[i].norm_post,
					  NULL };

		for (int j = 0; j < 4; at += in[j] * (norm[j] ? 2 : 1), j++)
			if (order_make(be, b->layer[i].lin[first[j]]->perm,
				       in[j], at, &t[i].back[j], norm[j], err))
				return -1;
	}
	return 0;
}

static int table_up(struct be *be, const struct be_blocks *b,
		    struct be_step *s, struct err *err)
{
	struct step_layer *t = (struct step_layer *)calloc(b->layers,
							   sizeof(*t));
	cudaError_t e;

	if (!t)
		return err_set(err, ERR_RESOURCE, "not enough memory");
	for (uint32_t i = 0; i < b->layers; i++)
		table_fill(&b->layer[i], &t[i]);
	if (orders_make(be, b, s, t, err)) {
		free(t);
		return -1;
	}
	e = cudaMemcpyAsync((void *)s->arg.layer, t, b->layers * sizeof(*t),
			    cudaMemcpyHostToDevice, be->stream);
	if (e == cudaSuccess)
		e = cudaStreamSynchronize(be->stream);
	free(t);
	return e == cudaSuccess ? 0 : cu_fail(e, "a step", err);
}

static void numbers(const struct be_blocks *b, struct be_step *s)
{
	struct step_arg *a = &s->arg;

	a->layers = b->layers;
	a->hidden = b->hidden;
	a->inter = b->inter;
	a->heads = b->heads;
	a->kv_heads = b->kv_heads;
	a->head_dim = b->head_dim;
	a->rep = b->heads / b->kv_heads;
	a->kv_ld = b->layer[0].kv.k.ld;
	a->eps = (float)b->eps;
	/* exp2 instead of exp */
	a->scale = (float)(b->scale * 1.4426950408889634);
	s->cos = b->cos;
	s->sin = b->sin;
	s->capacity = b->layer[0].kv.k.rows < b->cos.rows ? b->layer[0].kv.k.rows
						       : b->cos.rows;
}

int cu_step_new(struct be *be, const struct be_blocks *b, struct be_step **out,
		struct err *err)
{
	struct be_step *s = NULL;
	const char *why = unfit(be, b);
	int ret = -1;

	*out = NULL;
	if (why) {
		err_set(err, ERR_UNSUP, "%s", why);
		goto out;
	}
	s = new (std::nothrow) struct be_step();
	if (!s) {
		err_set(err, ERR_RESOURCE, "not enough memory");
		goto out;
	}
	s->blocks = be->sms;
	s->most = be->sms / b->kv_heads;
	numbers(b, s);
	if (layout(be, b, s)) {
		err_set(err, ERR_UNSUP, "%zu KiB of shared memory needed, %zu "
			"there", s->smem >> 10, be->smem >> 10);
		goto out;
	}
	if (step_alloc(be, b, s, err) || table_up(be, b, s, err))
		goto out;
	if (cudaFuncSetAttribute((const void *)s->fn,
				 cudaFuncAttributeMaxDynamicSharedMemorySize,
				 (int)s->smem) != cudaSuccess) {
		cu_fail(cudaGetLastError(), "a step", err);
		goto out;
	}
	*out = s;
	s = NULL;
	ret = 0;
out:
	cu_step_free(be, s);
	return ret;
}

void cu_step_free(struct be *be, struct be_step *s)
{
	(void)be;
	if (!s)
		return;
	cudaFree(s->mem);
	cudaFree(s->order);
	delete s;
}

int cu_step(struct be *be, struct be_step *s, struct be_mat *x, uint32_t first,
	    struct err *err)
{
	cudaLaunchConfig_t c = {};
	cudaLaunchAttribute together = {};
	struct step_arg a = s->arg;

	if (x->rows != 1 || x->cols != a.hidden || first >= s->capacity)
		return err_set(err, ERR_UNSUP, "step: [%u][%u] at %u", x->rows,
			       x->cols, first);
	cu_wrote(be, x);
	a.x = (float *)x->p;
	a.pos = first;
	/* so many that each warp has one tile, as far as there are blocks */
	a.splits = first / s->tile + 1 < s->most ? first / s->tile + 1
						 : s->most;
	for (a.share_bits = 1; a.share_bits < 5 && 1u << a.share_bits < a.splits;)
		a.share_bits++;
	a.cos = (const float *)s->cos.p + (size_t)first * s->cos.ld;
	a.sin = (const float *)s->sin.p + (size_t)first * s->sin.ld;
	together.id = cudaLaunchAttributeCooperative;
	together.val.cooperative = 1;
	c.gridDim = dim3(s->blocks);
	c.blockDim = dim3(STEP_THREADS);
	c.dynamicSmemBytes = s->smem;
	c.stream = be->stream;
	c.attrs = &together;
	c.numAttrs = 1;
	CU_TRY(cudaLaunchKernelEx(&c, s->fn, a), "step", err);
	s->arg.time += a.layers;
	return 0;
}
