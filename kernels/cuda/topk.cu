/* topk.cu - the best of rows of logits, in the order of a sampler.
 *
 * A warp keeps the 64 best it has seen in order, two a lane, and looks at 32
 * logits at a time; what does not beat the last of those asked for is passed
 * over, which is nearly all after the first few hundred.  Values are doubles
 * turned into whole numbers of the same order, so that the sampler of the CPU
 * and this agree to the bit, ties and penalties included.
 *
 * Two launches: warps all over the device leave their lists in memory, one
 * block merges them.  The order in which lists are merged does not matter: no
 * two candidates are equal.
 *
 * Every token waits for this, so answers go to memory of the host straight from
 * the kernel, and the host looks at a number there until it is this call's:
 * neither a copy nor the driver stands between. */
#include "cu.cuh"

#include <string.h>

#define WARPS 8u       /* of a block of the first kernel */
#define BLOCKS_MAX 64u
#define EACH 1024u     /* logits a block is worth */
#define MERGE 32u      /* warps of the second kernel */
#define ROWS 32u       /* at once: their questions travel with the launch */

struct ask {
	const float *x;
	const uint32_t *recent;  /* [recents], no id twice */
	struct be_top *best;     /* [k], and then *told = call: the host's */
	uint32_t *told;
	uint32_t n, recents, k, call;
	double penalty, temp;
};

/* Pinned memory of the host: of each row of a call. */
struct cu_reply {
	uint32_t recent[ROWS * BE_TOP_MAX];
	struct be_top best[ROWS][BE_TOP_MAX];
	uint32_t told[ROWS]; /* whose answer is there */
	uint32_t calls;
};

struct asks {
	struct ask row[ROWS];
};

struct cand {
	uint64_t key;  /* 0: none */
	uint64_t id;   /* (of 32 bits: no padding, nothing undefined) */
};

/* The two that a lane keeps: places lane and lane + 32. */
struct list {
	struct cand at[2];
};

static __device__ __forceinline__ uint64_t key_of(double v)
{
	/* -0 counts as 0 */
	uint64_t u = (uint64_t)__double_as_longlong(v == 0 ? 0. : v);

	return u >> 63 ? ~u : u | 1ull << 63;
}

static __device__ __forceinline__ double value_of(uint64_t key)
{
	return __longlong_as_double((long long)(key >> 63 ? key ^ 1ull << 63
							  : ~key));
}

static __device__ __forceinline__ bool better(const struct cand &a,
					      const struct cand &b)
{
	return a.key > b.key || (a.key == b.key && a.id < b.id);
}

static __device__ __forceinline__ struct cand shift(struct cand c, int by)
{
	return { __shfl_up_sync(~0u, c.key, by), __shfl_up_sync(~0u, c.id, by) };
}

static __device__ __forceinline__ struct cand from(struct cand c, int lane)
{
	return { __shfl_sync(~0u, c.key, lane), __shfl_sync(~0u, c.id, lane) };
}

/* The k-th best. */
static __device__ __forceinline__ struct cand last_of(const struct list &l,
						      uint32_t k)
{
	return from(k <= 32 ? l.at[0] : l.at[1], (k - 1) % 32);
}

/* Offer one candidate of each lane; `worst` is last_of the list. */
static __device__ void offer(struct list &l, struct cand c, uint32_t k,
			     struct cand &worst)
{
	const uint32_t lane = threadIdx.x % 32;
	uint32_t left = __ballot_sync(~0u, better(c, worst));

	while (left) {
		struct cand x = from(c, __ffs(left) - 1);
		uint32_t place = __popc(__ballot_sync(~0u,
						      better(l.at[0], x))) +
				 __popc(__ballot_sync(~0u, better(l.at[1], x)));
		struct cand lo = shift(l.at[0], 1), hi = shift(l.at[1], 1);
		struct cand end = from(l.at[0], 31);

		if (lane == 0)
			hi = end;
		if (lane >= place)
			l.at[0] = lane == place ? x : lo;
		if (lane + 32 >= place)
			l.at[1] = lane + 32 == place ? x : hi;
		worst = last_of(l, k);
		left &= left - 1;
		left &= __ballot_sync(~0u, better(c, worst));
	}
}

static __device__ __forceinline__ struct list empty_list(void)
{
	return { { { 0, ~0u }, { 0, ~0u } } };
}

static __device__ __forceinline__ double value(const struct ask &t,
					       const uint32_t *recent,
					       uint32_t id)
{
	float f = t.x[id];
	double v = f;

	if (f != f)
		v = -INFINITY;
	for (uint32_t i = 0; i < t.recents; i++)
		if (recent[i] == id)
			v = v > 0 ? v / t.penalty : v * t.penalty;
	return v / t.temp;
}

__global__ void __launch_bounds__(WARPS * 32)
topk_kernel(const struct asks a, struct cand *lists)
{
	const struct ask t = a.row[blockIdx.y];
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t warp = blockIdx.x * WARPS + threadIdx.x / 32;
	__shared__ uint32_t recent[BE_TOP_MAX];
	struct list l = empty_list();
	struct cand worst = { 0, ~0u };

	lists += (size_t)blockIdx.y * gridDim.x * WARPS * BE_TOP_MAX;
	cu_next();
	cu_wait();
	if (threadIdx.x < t.recents)
		recent[threadIdx.x] = t.recent[threadIdx.x];
	__syncthreads();
	for (uint32_t at = warp * 32; at < t.n; at += gridDim.x * WARPS * 32) {
		struct cand c = { 0, ~0u };

		if (at + lane < t.n)
			c = { key_of(value(t, recent, at + lane)), at + lane };
		offer(l, c, t.k, worst);
	}
	for (uint32_t i = 0; i < 2; i++)
		if (lane + 32 * i < t.k)
			lists[(size_t)warp * t.k + lane + 32 * i] = l.at[i];
}

/* Lists first, first + step, ... of `count` into one. */
static __device__ struct list merge(const struct cand *lists, uint32_t k,
				    uint32_t first, uint32_t step,
				    uint32_t count)
{
	const uint32_t lane = threadIdx.x % 32;
	struct list l = empty_list();
	struct cand worst = { 0, ~0u };

	for (uint32_t i = first; i < count; i += step)
		for (uint32_t at = 0; at < k; at += 32) {
			struct cand c = { 0, ~0u };

			if (at + lane < k)
				c = lists[(size_t)i * k + at + lane];
			/* they fall: when the first is no good, none is */
			if (!better(from(c, 0), worst))
				break;
			offer(l, c, k, worst);
		}
	return l;
}

__global__ void __launch_bounds__(MERGE * 32)
topk_merge_kernel(const struct asks a, const struct cand *lists,
		  uint32_t count)
{
	const struct ask t = a.row[blockIdx.x];
	const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	__shared__ struct cand part[MERGE * BE_TOP_MAX];
	struct list l;

	lists += (size_t)blockIdx.x * count * BE_TOP_MAX;
	cu_next();
	cu_wait();
	l = merge(lists, t.k, warp, MERGE, count);
	for (uint32_t i = 0; i < 2; i++)
		if (lane + 32 * i < t.k)
			part[warp * t.k + lane + 32 * i] = l.at[i];
	__syncthreads();
	if (warp)
		return;
	l = merge(part, t.k, 0, 1, MERGE);
	for (uint32_t i = 0; i < 2; i++)
		if (lane + 32 * i < t.k)
			t.best[lane + 32 * i] = { value_of(l.at[i].key),
						  (uint32_t)l.at[i].id, 0 };
	__threadfence_system();
	__syncwarp();
	if (lane == 0)
		*(volatile uint32_t *)t.told = t.call;
}

static int launch(struct be *be, const struct asks *a, uint32_t rows,
		  struct err *err)
{
	uint32_t most = 0, blocks;
	void *lists;

	for (uint32_t i = 0; i < rows; i++)
		most = a->row[i].n > most ? a->row[i].n : most;
	blocks = cu_div_up(most, EACH);
	blocks = blocks < BLOCKS_MAX ? blocks : BLOCKS_MAX;
	if (cu_scratch_get(be, CU_TOP, (size_t)rows * blocks * WARPS *
			   BE_TOP_MAX * sizeof(struct cand), &lists, err) ||
	    cu_launch(be, "topk", { dim3(blocks, rows), dim3(WARPS * 32), 0 },
		      err, topk_kernel, *a, (struct cand *)lists))
		return -1;
	return cu_launch(be, "topk", { dim3(rows), dim3(MERGE * 32), 0 }, err,
			 topk_merge_kernel, *a, (const struct cand *)lists,
			 blocks * WARPS);
}

static int answered(const struct cu_reply *r, uint32_t rows)
{
	for (uint32_t i = 0; i < rows; i++)
		if (__atomic_load_n(&r->told[i], __ATOMIC_ACQUIRE) != r->calls)
			return 0;
	return 1;
}

/* Looks that are made before the driver is asked whether all is well. */
#define LOOKS 100000

static int await(struct be *be, uint32_t rows, struct err *err)
{
	for (uint32_t i = 1; !answered(be->reply, rows); i++) {
		cudaError_t e = i % LOOKS ? cudaErrorNotReady
					  : cudaStreamQuery(be->stream);

		/* all has run: the answer is there, or never comes */
		if (e == cudaSuccess)
			e = answered(be->reply, rows) ? cudaErrorNotReady
						      : cudaErrorUnknown;
		if (e != cudaErrorNotReady)
			return cu_fail(e, "waiting for the device", err);
	}
	return 0;
}

static int reply_open(struct be *be, struct err *err)
{
	if (be->reply)
		return 0;
	CU_TRY(cudaMallocHost((void **)&be->reply, sizeof(*be->reply)),
	       "pinned memory", err);
	memset(be->reply, 0, sizeof(*be->reply));
	return 0;
}

void cu_reply_close(struct be *be)
{
	cudaFreeHost(be->reply);
	be->reply = NULL;
}

/* At most ROWS of them. */
static int some(struct be *be, const struct be_topk *t, uint32_t rows,
		struct err *err)
{
	struct cu_reply *r = be->reply;
	uint32_t recents = 0;
	struct asks a = {};
	void *p;

	if (cu_scratch_get(be, CU_SMALL, sizeof(r->recent), &p, err))
		return -1;
	r->calls++;
	for (uint32_t i = 0; i < rows; i++) {
		a.row[i] = { (const float *)t[i].x.p, (uint32_t *)p + recents,
			     r->best[i], &r->told[i], t[i].x.cols,
			     t[i].recents, t[i].k, r->calls, t[i].penalty,
			     t[i].temp };
		if (t[i].recents)
			memcpy(r->recent + recents, t[i].recent,
			       t[i].recents * sizeof(*r->recent));
		recents += t[i].recents;
	}
	if (recents)
		CU_TRY(cudaMemcpyAsync(p, r->recent,
				       recents * sizeof(*r->recent),
				       cudaMemcpyHostToDevice, be->stream),
		       "topk", err);
	if (launch(be, &a, rows, err) || await(be, rows, err))
		return -1;
	for (uint32_t i = 0; i < rows; i++)
		memcpy(t[i].best, r->best[i], t[i].k * sizeof(*t[i].best));
	return 0;
}

int cu_topk(struct be *be, const struct be_topk *t, uint32_t n, struct err *err)
{
	for (uint32_t i = 0; i < n; i++)
		if (be_shape_topk(&t[i], err))
			return -1;
	if (reply_open(be, err))
		return -1;
	for (uint32_t i = 0; i < n; i += ROWS)
		if (some(be, t + i, n - i < ROWS ? n - i : ROWS, err))
			return -1;
	return 0;
}
