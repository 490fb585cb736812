/* step.cu - a token through all decoder blocks in one launch: what is prepared
 * once, and the launch.  The kernel is in step_kernel.cuh; step.cuh has the
 * whole. */
#include "step_kernel.cuh"

#include <new>
#include <stdlib.h>
#include <string.h>

typedef void (*step_fn)(const struct step_arg);

template <int BITS, int UNIT>
static step_fn step_by(uint32_t rep, uint32_t hidden)
{
	if (rep == 1)
		return hidden <= 2 * STEP_ROUND ? step_kernel<BITS, UNIT, 1, 2>
						: step_kernel<BITS, UNIT, 1, 8>;
	return hidden <= 2 * STEP_ROUND ? step_kernel<BITS, UNIT, 4, 2>
	     : hidden <= 4 * STEP_ROUND ? step_kernel<BITS, UNIT, 4, 4>
					: step_kernel<BITS, UNIT, 4, 8>;
}

static step_fn step_of(int bits, uint32_t unit, uint32_t rep, uint32_t hidden)
{
	if (bits == 2)
		return unit == 32 ? step_by<2, 32>(rep, hidden)
				  : step_by<2, 128>(rep, hidden);
	if (bits == 3)
		return unit == 32 ? step_by<3, 32>(rep, hidden)
				  : step_by<3, 128>(rep, hidden);
	if (bits == 4)
		return unit == 32 ? step_by<4, 32>(rep, hidden)
				  : step_by<4, 128>(rep, hidden);
	return unit == 32 ? step_by<8, 32>(rep, hidden)
			  : step_by<8, 128>(rep, hidden);
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
	uint32_t *back;         /* [layers][q + inter], or NULL */
};

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
	if (b->hidden > STEP_HIDDEN)
		return "a hidden size beyond 16384";
	if (b->head_dim % 8 || b->head_dim > 256)
		return "heads that are no multiple of 8, or beyond 256";
	/* the residual is a thread's own */
	if (b->hidden > (uint32_t)be->sms * STEP_WORKERS / 2)
		return "too few multiprocessors for the hidden size";
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
	static const int first[4] = { 0, 3, 4, 6 };

	for (int j = 0; j < 7; j++) {
		t->mat[j] = mat_word(l->lin[j]);
		t->bias[j] = l->bias[j];
	}
	for (int j = 0; j < 4; j++)
		t->perm[j] = l->lin[first[j]]->perm;
	t->norm_in = l->norm_in;
	t->norm_post = l->norm_post;
	t->norm_q = l->norm_q;
	t->norm_k = l->norm_k;
	t->k = (__half *)l->kv.k.p;
	t->v = (__half *)l->kv.v.p;
}

static size_t larger(size_t a, size_t b)
{
	return a > b ? a : b;
}

/* Bytes of scales and zeros of a piece, of codes; strips of a phase. */
struct need {
	size_t grid, codes, strips;
};

static struct need need_of(const struct be_blocks *b)
{
	struct need n = { 0, 0, 0 };
	const struct be_qw *first = b->layer[0].lin[0];
	const size_t piece = step_piece(first->spec.bits);

	for (uint32_t i = 0; i < b->layers; i++) {
		const struct be_qw *const *w = b->layer[i].lin;

		n.strips = larger(n.strips, w[0]->strips + w[1]->strips +
				  w[2]->strips);
		n.strips = larger(n.strips, w[4]->strips + w[5]->strips);
		n.strips = larger(n.strips, larger(w[3]->strips,
						   w[6]->strips));
		for (int j = 0; j < 7; j++)
			n.grid = larger(n.grid, piece / first->unit *
					(w[j]->zero ? 64 : 32));
	}
	n.codes = piece * 2 * first->spec.bits;
	return n;
}

/* Bytes on their way to a multiprocessor: enough for the memory's full rate
 * and little more (measured on an H200). */
#define STEP_FLIGHT (48u << 10)

/* Put n bytes behind what is there. */
static uint32_t add(struct step_map *m, size_t n)
{
	uint32_t at = m->end;

	m->end += (uint32_t)((n + 127) / 128 * 128);
	return at;
}

/* All but the ring. */
static void map_make(const struct be_blocks *b, const struct be_step *s,
		     size_t strips, struct step_map *m)
{
	const uint32_t rep = b->heads / b->kv_heads;
	const uint32_t in = (uint32_t)larger(larger(b->hidden, b->inter),
					     b->heads * b->head_dim);
	const size_t each = (strips + s->blocks - 1) / s->blocks;

	m->act = add(m, larger(in * 2u, step_attend_smem(b->head_dim, rep,
							 rep == 1 ? 1 : 4)));
	m->sum32 = add(m, in / 32 * sizeof(float));
	m->sum128 = add(m, in / 128 * sizeof(float));
	m->step = add(m, in / 128 * sizeof(float));
	m->part = add(m, STEP_WARPS * sizeof(float));
	m->rope = add(m, b->head_dim * sizeof(float));
	m->layer = add(m, 2 * sizeof(struct step_layer));
	m->reader = add(m, STEP_WARPS * sizeof(struct reader));
	m->strips = add(m, 8 * sizeof(span));
	m->full = add(m, STEP_STAGES * 8);
	m->empty = add(m, STEP_STAGES * 8);
	m->begun = add(m, sizeof(uint32_t));
	m->mat = add(m, b->layers * 7 * 8);
	m->red = add(m, larger(each * STEP_RED, b->heads * s->most) *
		     sizeof(float));
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

	s->fn = step_of(first->spec.bits, first->unit, a->rep, b->hidden);
	a->codes = (uint32_t)n.codes;
	a->grid = (uint32_t)n.grid;
	for (a->lanes = 1; a->lanes * 8 < b->head_dim;)
		a->lanes *= 2;
	s->tile = step_tile(a->rep, a->lanes);
	map_make(b, s, n.strips, &m);
	s->smem = m.end + 2 * stage;
	if (s->smem > be->smem)
		return -1;
	a->stages = (uint32_t)((be->smem - m.end) / stage);
	a->stages = a->stages < STEP_STAGES ? a->stages : STEP_STAGES;
	m.end = (uint32_t)(a->stages * stage);
	map_make(b, s, n.strips, &m);
	a->at = m;
	s->smem = m.end;
	a->flight = (uint32_t)(STEP_FLIGHT / stage);
	a->flight = a->flight < 2 ? 2 : a->flight;
	a->flight = a->flight < a->stages ? a->flight : a->stages;
	return 0;
}

/* Device memory: the table, the counter and what phases hand on. */
static int step_alloc(struct be *be, const struct be_blocks *b,
		      struct be_step *s, struct err *err)
{
	struct step_arg *a = &s->arg;
	const size_t q = (size_t)b->heads * b->head_dim;
	const size_t kv = (size_t)b->kv_heads * b->head_dim;
	size_t size[6] = {
		b->layers * sizeof(struct step_layer), 256,
		(q + 2 * kv) * sizeof(float), q * s->most * sizeof(float),
		(size_t)b->heads * s->most * 2 * sizeof(float),
		(size_t)b->inter * 2 * sizeof(__half),
	};
	void *part[6];
	size_t all = 0;
	char *p;

	for (int i = 0; i < 6; i++)
		all += size[i] = (size[i] + 255) / 256 * 256;
	if (cu_alloc(all, "a step", &s->mem, err))
		return -1;
	CU_TRY(cudaMemsetAsync(s->mem, 0, all, be->stream), "a step", err);
	p = (char *)s->mem;
	for (int i = 0; i < 6; i++) {
		part[i] = p;
		p += size[i];
	}
	a->layer = (struct step_layer *)part[0];
	a->meet = (uint32_t *)part[1];
	a->qkv = (float *)part[2];
	a->part = (float *)part[3];
	a->part_ml = (float *)part[4];
	a->gu = (__half *)part[5];
	return 0;
}

/* back[perm[c]] = c */
__global__ void back_kernel(const uint32_t *perm, uint32_t n, uint32_t *back)
{
	uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;

	cu_wait();
	if (c < n)
		back[perm[c]] = c;
}

/* What undoes the act-order of o and down, so that their inputs are written in
 * the order in which they are read. */
static int orders_back(struct be *be, const struct be_blocks *b,
		       struct be_step *s, struct step_layer *t, struct err *err)
{
	const uint32_t q = b->heads * b->head_dim, n = q + b->inter;
	void *p;

	for (uint32_t i = 0; i < b->layers; i++)
		if (t[i].perm[1] || t[i].perm[3])
			goto there;
	return 0;
there:
	if (cu_alloc((size_t)b->layers * n * 4, "act-order", &p, err))
		return -1;
	s->back = (uint32_t *)p;
	for (uint32_t i = 0; i < b->layers; i++) {
		uint32_t *o = s->back + (size_t)i * n, *down = o + q;

		if (t[i].perm[1] &&
		    cu_launch(be, "act-order", { dim3(cu_div_up(q, 256)),
						 dim3(256), 0 },
			      err, back_kernel, t[i].perm[1], q, o))
			return -1;
		if (t[i].perm[3] &&
		    cu_launch(be, "act-order",
			      { dim3(cu_div_up(b->inter, 256)), dim3(256), 0 },
			      err, back_kernel, t[i].perm[3], b->inter, down))
			return -1;
		t[i].back_o = t[i].perm[1] ? o : NULL;
		t[i].back_down = t[i].perm[3] ? down : NULL;
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
	if (orders_back(be, b, s, t, err)) {
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
	cudaFree(s->back);
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
	/* the last layer has one barrier less in front */
	s->arg.met += (a.layers * 5 - 1) * s->blocks;
	return 0;
}
