/* step.cuh - one token through all decoder blocks in one launch: what its
 * parts share, and the stream of weights.
 *
 * As many blocks of threads as multiprocessors stay for the whole step.  Each
 * has its share of the outputs of every phase:
 *
 *	qkv     norm, q k v                 x -> q k v
 *	attend  rope, cache, softmax        q k v -> share -> att
 *	o       o, residual                 att -> x
 *	gate_up norm, gate, up, silu        x -> h
 *	down    down, residual              h -> x
 *
 * What phases hand on goes by words that carry their own time
 * (step_wire.cuh): there are no barriers of all blocks.  A warp makes the
 * inputs of its own units and begins with them; the one barrier of a block in
 * a phase is where its warps' sums are added.
 *
 * One warp, the producer, copies the block's share of all weights, of all
 * phases and layers, through a ring of stages in shared memory, far ahead of
 * the arithmetic: waiting costs time, but the memory keeps reading.  It keeps
 * a bounded number of bytes on their way: what waits in the memory's queues
 * delays the few loads that everybody waits for.
 *
 *	matrix   strips of 16 outputs in the layout of qw.cuh; the strips of a
 *	         phase are cut evenly among blocks, those of gate and up alike
 *	piece    16 units of 128 inputs of a strip, or what is left of it: what
 *	         a stage holds.  Warp w takes unit w
 *
 * A kernel is made for one width of codes and one of units, so that its code
 * stays in the instruction cache; models that mix them go the narrow way. */
#ifndef KERNELS_CUDA_STEP_CUH
#define KERNELS_CUDA_STEP_CUH

#include "qw.cuh"

#define STEP_WARPS 16                      /* that compute */
#define STEP_WORKERS (STEP_WARPS * 32)
#define STEP_THREADS (STEP_WORKERS + 128)  /* and the producer's group */
#define STEP_ROUND (STEP_WARPS * 128)      /* inputs, a unit for each warp */
/* A thread has one output of a phase at most. */
#define STEP_STRIPS (STEP_WORKERS / 16)    /* of a block; of gate and up each */
/* Sums of a strip: 16 from each warp, padded so that strips meet no bank
 * twice. */
#define STEP_RED (16 * STEP_WARPS + 16)
#define STEP_STAGES 32                     /* at most */

/* A matrix in one word: where its codes are, and what they are.  Scales and
 * zeros follow the codes (struct be_qw). */
#define STEP_AT 0xffffffffffffu  /* the address */
#define STEP_BF16 (1ull << 48)   /* scales are, else f16 */
#define STEP_ZERO (1ull << 49)   /* zeros are there */

struct step_layer {
	uint64_t mat[7];                /* q k v o gate up down */
	const float *bias[7];           /* or NULL */
	/* where inputs of qkv, o, gate_up, down stand in their act-order, or
	 * NULL; norm_in and norm_post are in it */
	const uint32_t *back[4];
	const float *norm_in, *norm_post, *norm_q, *norm_k;
	__half *k, *v;                  /* [positions][kv_heads * head_dim] */
};

/* Of strips: from, and behind the last. */
struct span {
	uint32_t from, to;
};

/* What a warp does in the attention phase: positions from `at` to `to`, `step`
 * apart, of one key/value head. */
struct reader {
	uint32_t kvh, split, at, to, step;
	uint32_t group;         /* of query heads; at least groups: idle */
	uint32_t merge, merge_to; /* outputs of the head to merge splits of */
};

/* ---- shared memory ---- */

extern __shared__ __align__(128) char step_mem[];

/* Where things are, from step_mem on; the ring of stages is at 0. */
struct step_map {
	uint32_t act;     /* [inputs of the phase] as bytes
			     (step_input.cuh);
			     attention's own use between phases */
	uint32_t sum32;   /* [inputs / 32]: their sums */
	uint32_t sum128;  /* [inputs / 128]; with units of 128 alone */
	uint32_t step;    /* [inputs / 128]: what the numbers count */
	uint32_t part;    /* [2][WARPS]: squares of inputs; by turns */
	uint32_t rope;    /* [head_dim]: cos, sin */
	uint32_t layer;   /* [2] step_layer: layer i is at i % 2 */
	uint32_t reader;  /* [WARPS] */
	uint32_t strips;  /* [8] span: this block's strips of each matrix */
	uint32_t full, empty; /* [STAGES] */
	uint32_t outs;    /* [4]: strips of outputs of each phase */
	uint32_t mat;     /* [layers][7], as in step_layer */
	uint32_t red;     /* [2][strips of a block][RED]; by turns */
	uint32_t end;
};

struct step_arg {
	const struct step_layer *layer;
	float *x;                       /* [hidden] */
	/* words: inputs of the phases, q k v */
	uint32_t *vec[4], *qkv;
	struct share *share;            /* [kv_heads][splits][rep head_dim] */
	const float *cos, *sin;         /* of this position: [head_dim / 2] */
	uint32_t time;                  /* of the first layer */
	uint32_t layers, hidden, inter, heads, kv_heads, head_dim;
	uint32_t pos, splits, rep;      /* rep: heads / kv_heads */
	size_t kv_ld;
	float eps, scale;
	uint32_t codes, grid;           /* bytes of a stage: codes, scales */
	uint32_t stages, flight;        /* stages; pieces on their way */
	/* lanes that read a row of the cache, and that merge an output's
	 * splits: powers of 2 */
	uint32_t row_bits, share_bits;
	uint32_t red;                   /* floats of sums of a phase */
	struct step_map at;
};

template <class T> __device__ __forceinline__ T *smem(uint32_t at)
{
	return (T *)(step_mem + at);
}

template <class T> __device__ __forceinline__ T smem_load(uint32_t at)
{
	return *smem<const T>(at);
}

/* ---- barriers and copies of sm_90 ---- */

__device__ __forceinline__ uint32_t smem_at(const void *p)
{
	return (uint32_t)__cvta_generic_to_shared(p);
}

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ void gate_init(uint64_t *g, uint32_t count)
{
	asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
		     :: "r"(smem_at(g)), "r"(count) : "memory");
}

__device__ __forceinline__ void gate_arrive(uint64_t *g)
{
	asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];"
		     :: "r"(smem_at(g)) : "memory");
}

__device__ __forceinline__ void gate_expect(uint64_t *g, uint32_t bytes)
{
	asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
		     :: "r"(smem_at(g)), "r"(bytes) : "memory");
}

/* Until the phase of this parity is over. */
__device__ __forceinline__ void gate_wait(uint64_t *g, uint32_t parity)
{
	asm volatile("{\n"
		     ".reg .pred p;\n"
		     "again:\n"
		     "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
		     "@!p bra again;\n"
		     "}" :: "r"(smem_at(g)), "r"(parity) : "memory");
}

/* Weights are read once a step: they must not push out what is read again. */
__device__ __forceinline__ uint64_t policy_once(void)
{
	uint64_t p;

	asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(p));
	return p;
}

__device__ __forceinline__ void bulk(void *to, const void *from, uint32_t bytes,
				     uint64_t *full, uint64_t policy)
{
	asm volatile("cp.async.bulk.shared::cluster.global"
		     ".mbarrier::complete_tx::bytes.L2::cache_hint "
		     "[%0], [%1], %2, [%3], %4;"
		     :: "r"(smem_at(to)), "l"(from), "r"(bytes),
		        "r"(smem_at(full)), "l"(policy) : "memory");
}
#endif

/* Of the threads that compute. */
__device__ __forceinline__ void workers_sync(void)
{
	asm volatile("bar.sync 1, %0;" :: "n"(STEP_WORKERS) : "memory");
}

/* ---- who does what ---- */

/* The matrices of a phase: 0 qkv, 1 o, 2 gate_up, 3 down. */
__device__ __forceinline__ int phase_first(int phase)
{
	return phase == 0 ? 0 : phase == 1 ? 3 : phase == 2 ? 4 : 6;
}

__device__ __forceinline__ int phase_end(int phase)
{
	return phase == 3 ? 7 : phase_first(phase + 1);
}

__device__ __forceinline__ uint32_t mat_in(const struct step_arg &a, int m)
{
	return m == 3 ? a.heads * a.head_dim : m == 6 ? a.inter : a.hidden;
}

__device__ __forceinline__ uint32_t mat_out(const struct step_arg &a, int m)
{
	return m == 0 ? a.heads * a.head_dim
	     : m < 3 ? a.kv_heads * a.head_dim
	     : m == 4 || m == 5 ? a.inter : a.hidden;
}

/* This block's strips of matrix m: the part of its share of the phase.  Gate
 * and up are cut alike, so that their outputs meet in one thread. */
static __device__ span strips_of(const struct step_arg &a, int m)
{
	const int phase = m < 3 ? 0 : m < 4 ? 1 : m < 6 ? 2 : 3;
	const int first = phase == 2 ? m : phase_first(phase);
	const int end = phase == 2 ? m + 1 : phase_end(phase);
	uint32_t before = 0, all = 0, own = 0;

	for (int i = first; i < end; i++) {
		uint32_t n = (mat_out(a, i) + 15) / 16;

		before += i < m ? n : 0;
		own = i == m ? n : own;
		all += n;
	}
	uint32_t s = all * blockIdx.x / gridDim.x;
	uint32_t e = all * (blockIdx.x + 1) / gridDim.x;

	s = min(max(s, before), before + own) - before;
	e = min(max(e, before), before + own) - before;
	return { s, e };
}

/* Strips whose outputs the block has in a phase. */
static __device__ uint32_t outs_of(const struct step_arg &a, int phase)
{
	const int end = phase ? phase_first(phase) + 1 : 3;
	uint32_t n = 0;

	for (int m = phase_first(phase); m < end; m++)
		n += strips_of(a, m).to - strips_of(a, m).from;
	return n;
}

/* ---- the stream of weights ---- */

/* Which stage is next, and in which round of the ring. */
struct turn {
	uint32_t stage, parity;
};

__device__ __forceinline__ void turn_next(struct turn *t, uint32_t stages)
{
	if (++t->stage == stages) {
		t->stage = 0;
		t->parity ^= 1;
	}
}

#if __CUDA_ARCH__ >= 900

struct producer {
	struct turn put, landed;
	uint32_t sent;          /* pieces */
	uint64_t policy;
};

/* A piece: its codes, its scales, and the zeros `zero` bytes behind these. */
static __device__ void piece_send(const struct step_arg &a,
				  struct producer *p, const char *codes,
				  uint32_t bytes, const char *grid,
				  uint32_t grid_bytes, size_t zero)
{
	char *to = step_mem + p->put.stage * (a.codes + a.grid);
	uint64_t *full = smem<uint64_t>(a.at.full) + p->put.stage;
	uint64_t *empty = smem<uint64_t>(a.at.empty) + p->put.stage;

	if (p->sent >= a.flight) {
		gate_wait(smem<uint64_t>(a.at.full) + p->landed.stage,
			  p->landed.parity);
		turn_next(&p->landed, a.stages);
	}
	gate_wait(empty, p->put.parity ^ 1);
	gate_expect(full, bytes + grid_bytes * (zero ? 2 : 1));
	bulk(to, codes, bytes, full, p->policy);
	bulk(to + a.codes, grid, grid_bytes, full, p->policy);
	if (zero)
		bulk(to + a.codes + grid_bytes, grid + zero, grid_bytes, full,
		     p->policy);
	p->sent++;
	turn_next(&p->put, a.stages);
}

/* The block's strips of matrix i of a layer. */
template <int BITS, int UNIT>
static __device__ void mat_send(const struct step_arg &a,
				struct producer *p, uint64_t is, int i)
{
	const uint32_t in = mat_in(a, i), row = in / UNIT * 32;
	const size_t all = (mat_out(a, i) + 15) / 16;
	const char *base = (const char *)(is & STEP_AT);
	const size_t zero = is & STEP_ZERO ? (all * row + 63) / 64 * 64 : 0;
	const span s = smem<span>(a.at.strips)[i];
	const char *codes = base + (size_t)s.from * in * 2 * BITS;
	const char *grid = base + all * in * 2 * BITS + (size_t)s.from * row;

	/* strips follow each other, and so do their pieces */
	for (uint32_t n = s.from; n < s.to; n++)
		for (uint32_t k = 0; k < in; k += STEP_ROUND) {
			const uint32_t part = min(in - k, STEP_ROUND);

			piece_send(a, p, codes, part * 2 * BITS, grid,
				   part / UNIT * 32, zero);
			codes += part * 2 * BITS;
			grid += part / UNIT * 32;
		}
}

__device__ __forceinline__ void prefetch(const void *p)
{
	asm volatile("prefetch.global.L2 [%0];" :: "l"(p));
}

/* What a layer reads that no phase makes, to the second level cache: norms, and
 * the first of the block's rows of the cache.  By a warp. */
static __device__ void look_ahead(const struct step_arg &a,
				  const struct step_layer *l)
{
	const struct reader *r = smem<struct reader>(a.at.reader);
	const uint32_t from = r->at, to = min(r->to, from + 256);
	const uint32_t lines = (a.head_dim * 2 + 127) / 128;
	const uint32_t lane = threadIdx.x % 32;

	for (uint32_t c = lane * 32; c < a.hidden; c += 32 * 32) {
		prefetch(l->norm_in + c);
		prefetch(l->norm_post + c);
	}
	if (r->kvh >= a.kv_heads)
		return;
	for (uint32_t k = lane; k < (to - from) * lines * 2; k += 32) {
		const __half *p = k % 2 ? l->v : l->k;

		prefetch(p + (from + k / 2 / lines) * a.kv_ld +
			 r->kvh * a.head_dim + k / 2 % lines * 64);
	}
}

/* By one warp, of which a lane sends. */
template <int BITS, int UNIT>
static __device__ void produce(const struct step_arg &a)
{
	const uint64_t *mat = smem<uint64_t>(a.at.mat);
	struct producer p = {};

	p.policy = policy_once();
	for (uint32_t l = 0; l < a.layers; l++) {
		look_ahead(a, a.layer + l);
		for (int i = 0; threadIdx.x % 32 == 0 && i < 7; i++)
			mat_send<BITS, UNIT>(a, &p, mat[l * 7 + i], i);
		__syncwarp();
	}
}
#endif

#endif
