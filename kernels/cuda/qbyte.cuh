/* qbyte.cuh - Y = X W^T for up to 8 rows of X on sm_90: decoding.
 *
 *	y[m][n] = sum over units u: scale[n][u] *
 *	          sum over k in u: (code[n][k] - zero[n][u]) * x[m][k]
 *
 * The weight is read once, which is the time it takes: so little else may
 * take any.  One block of threads is for each multiprocessor and takes a run
 * of strips, SPW for each group of warps at a time.  One warp copies codes and
 * scales into a ring of stages in shared memory, from the moment the kernel is
 * there, which is before the one before it is done; then, with each stage, the
 * activations: two planes of bytes (planes.cuh; step_unit.cuh has the
 * arithmetic).  A stage is
 *
 *	x      [ROUND units of 128][m][256 bytes]
 *	heads  [ROUND][m][32 bytes]
 *	codes  [strips][ROUND][256 * BITS bytes]
 *	scales [strips][ROUND][128 / UNIT][8] pairs; zeros likewise
 *
 * A warp has one unit of a stage and SPW strips.  Column 2 r + plane of mma is
 * of row r: four rows are a tile.  Sums of an output: a warp's units in order,
 * then the ROUND warps in order. */
#ifndef KERNELS_CUDA_QBYTE_CUH
#define KERNELS_CUDA_QBYTE_CUH

#include "planes.cuh"
#include "step_unit.cuh"

struct qbyte_arg {
	const uint32_t *word, *scale, *zero;
	const char *x;          /* planes, then heads */
	float *y;               /* [m][n], rows ldy apart */
	size_t ldy;
	uint32_t m, n, strips, units; /* units of 128 */
	int bf16;
	uint32_t round, groups; /* warps: units of a stage by groups */
	uint32_t stage, stages; /* bytes of one; how many */
	struct {
		uint32_t head, code, grid, zero; /* in a stage */
		uint32_t sums, full, empty, end;
	} at;
};

/* Bytes of a unit: codes; scales or zeros; of a row: planes; head. */
template <int BITS> __host__ __device__ constexpr uint32_t qb_codes(void)
{
	return 256 * BITS;
}
template <int UNIT> __host__ __device__ constexpr uint32_t qb_grid(void)
{
	return 128 / UNIT * 32;
}
#define QB_X 256u
#define QB_HEAD (PLANES_HEAD * 4u)

/* Strips of a warp. */
__host__ __device__ constexpr int qb_spw(int bits)
{
	return bits == 8 ? 1 : 2;
}

#if __CUDA_ARCH__ >= 900

/* ---- the warp that copies ---- */

/* Codes, scales and zeros of n units from u on of the strips from `first` on;
 * a lane has a strip. */
template <int BITS, int UNIT>
static __device__ __forceinline__ void
qb_put_w(const struct qbyte_arg &a, uint32_t stage, uint32_t first,
	 uint32_t strips, uint32_t u, uint32_t n, uint64_t policy)
{
	constexpr uint32_t CODES = qb_codes<BITS>(), GRID = qb_grid<UNIT>();
	const uint32_t lane = threadIdx.x % 32;
	uint64_t *full = smem<uint64_t>(a.at.full) + stage;
	char *to = step_mem + stage * a.stage;
	const size_t from = (size_t)(first + lane) * a.units + u;

	if (lane == 0)
		gate_expect(full, strips * n * (CODES + GRID *
						(a.zero ? 2 : 1)) +
				  n * a.m * (QB_X + QB_HEAD));
	__syncwarp();
	if (lane >= strips)
		return;
	bulk(to + a.at.code + lane * a.round * CODES,
	     (const char *)a.word + from * CODES, n * CODES, full, policy);
	bulk(to + a.at.grid + lane * a.round * GRID,
	     (const char *)a.scale + from * GRID, n * GRID, full, policy);
	if (a.zero)
		bulk(to + a.at.zero + lane * a.round * GRID,
		     (const char *)a.zero + from * GRID, n * GRID, full,
		     policy);
}

static __device__ __forceinline__ void
qb_put_x(const struct qbyte_arg &a, uint32_t stage, uint32_t u, uint32_t n,
	 uint64_t policy)
{
	uint64_t *full = smem<uint64_t>(a.at.full) + stage;
	char *to = step_mem + stage * a.stage;
	const char *head = a.x + (size_t)a.units * a.m * QB_X;

	if (threadIdx.x % 32)
		return;
	bulk(to, a.x + (size_t)u * a.m * QB_X, n * a.m * QB_X, full, policy);
	bulk(to + a.at.head, head + (size_t)u * a.m * QB_HEAD,
	     n * a.m * QB_HEAD, full, policy);
}

/* All blocks read them. */
static __device__ __forceinline__ uint64_t policy_keep(void)
{
	uint64_t p;

	asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(p));
	return p;
}

/* Where the ring is: strips from `strip` on, units from `at` on. */
struct qb_place {
	uint32_t strip, at;
};

template <int BITS, int UNIT>
static __device__ __forceinline__ void qb_feed(const struct qbyte_arg &a,
					       uint32_t from, uint32_t to)
{
	const uint32_t span = a.groups * qb_spw(BITS);
	const uint64_t once = policy_once(), keep = policy_keep();
	struct qb_place w = { from, 0 }, x = w;
	struct turn t = { 0, 1 };
	auto next = [&](struct qb_place &p) {
		p.at += a.round;
		if (p.at >= a.units)
			p = { p.strip + span, 0 };
	};
	auto put_w = [&](uint32_t stage) {
		qb_put_w<BITS, UNIT>(a, stage, w.strip,
				     min(span, to - w.strip), w.at,
				     min(a.round, a.units - w.at), once);
		next(w);
	};
	auto put_x = [&](uint32_t stage) {
		qb_put_x(a, stage, x.at, min(a.round, a.units - x.at),
			 keep);
		next(x);
	};

	for (uint32_t i = 0; i < a.stages && w.strip < to; i++)
		put_w(i);
	cu_wait();
	for (; x.strip < w.strip || x.at < w.at; turn_next(&t, a.stages))
		put_x(t.stage);
	while (w.strip < to) {
		gate_wait(smem<uint64_t>(a.at.empty) + t.stage, t.parity);
		put_w(t.stage);
		put_x(t.stage);
		turn_next(&t, a.stages);
	}
}

/* ---- the warps that multiply ---- */

/* Bytes of x in the order in which bytes_of has those of a register. */
template <int BITS> static __device__ __forceinline__ uint4 qb_order(uint4 v)
{
	if (BITS == 4)
		return make_uint4(__byte_perm(v.x, 0, 0x3120),
				  __byte_perm(v.y, 0, 0x3120),
				  __byte_perm(v.z, 0, 0x3120),
				  __byte_perm(v.w, 0, 0x3120));
	if (BITS == 8)
		return v;
	return make_uint4(__byte_perm(v.x, v.y, 0x5140),
			  __byte_perm(v.x, v.y, 0x7362),
			  __byte_perm(v.z, v.w, 0x5140),
			  __byte_perm(v.z, v.w, 0x7362));
}

/* This lane's places in a stage, for the unit of its warp. */
template <int NT> struct qb_lane {
	uint32_t x[NT];    /* its part of B */
	uint32_t head[NT]; /* of the row of its sums */
	bool live[NT];     /* there is that row of B */
};

/* The sums d of a unit or quarter become shares of the rows g and g + 8; `grid`
 * and `zero` are where its pairs are. */
template <int BITS, int UNIT>
static __device__ __forceinline__ void
qb_end(const struct qbyte_arg &a, const int32_t d[4], uint32_t head, int quarter,
       uint32_t grid, uint32_t zero, struct pair *out)
{
	constexpr int LO = times<BITS>::LO, HI = times<BITS>::HI;
	const float2 s = scales(smem_load<uint32_t>(grid), a.bf16);
	const float step = smem_load<float>(head);
	const int32_t sum = smem_load<int32_t>(
		UNIT == 128 ? head + 4 : head + 16 + quarter * 4);
	int zl = 1 << (BITS - 1), zh = zl;

	if (a.zero) {
		const __half2 z = as_half2(smem_load<uint32_t>(zero));

		zl = __half2int_rn(__low2half(z));
		zh = __half2int_rn(__high2half(z));
	}
	out->lo += s.x * step * (1.f / LO) *
		   (float)(d[0] * 256 + d[1] - LO * zl * sum);
	out->hi += s.y * step * (1.f / HI) *
		   (float)(d[2] * 256 + d[3] - HI * zh * sum);
}

/* One unit and n strips; codes, grid and zero are this lane's places for the
 * first of them. */
template <int BITS, int UNIT, int NT>
static __device__ __forceinline__ void
qb_unit(const struct qbyte_arg &a, const struct qb_lane<NT> &l, uint32_t n,
	uint32_t codes, uint32_t grid, uint32_t zero,
	struct pair out[qb_spw(BITS)][NT])
{
	constexpr int S = qb_spw(BITS);
	int32_t c[S][NT][4] = {};

#pragma unroll
	for (int i = 0; i < 2; i++) {
		uint4 v[NT];

#pragma unroll
		for (int j = 0; j < NT; j++) {
			v[j] = make_uint4(0, 0, 0, 0);
			if (l.live[j])
				v[j] = qb_order<BITS>(
					smem_load<uint4>(l.x[j] + i * 128));
		}
#pragma unroll
		for (int s = 0; s < S; s++) {
			const uint32_t at = s * a.round * qb_grid<UNIT>();

			if (S > 1 && s >= (int)n)
				break;

			const frag<BITS> f = frag_smem<BITS>(
				codes + s * a.round * qb_codes<BITS>() +
				i * 128 * BITS);
#pragma unroll
			for (int h = 0; h < 2; h++) {
				uint32_t w[4];

				bytes_of<BITS>(f, h, w);
#pragma unroll
				for (int j = 0; j < NT; j++) {
					mma_bytes(c[s][j], w,
						  h ? make_uint2(v[j].z, v[j].w)
						    : make_uint2(v[j].x, v[j].y));
					if (UNIT == 128 && i + h < 2)
						continue;
					const int u = UNIT == 32 ? i * 2 + h : 0;

					qb_end<BITS, UNIT>(a, c[s][j], l.head[j],
							   u, grid + at + u * 32,
							   zero + at + u * 32,
							   &out[s][j]);
#pragma unroll
					for (int k = 0; k < 4; k++)
						c[s][j][k] = 0;
				}
			}
		}
	}
}

/* Sums of all warps of a group, to y. */
template <int BITS, int NT, int W>
static __device__ __forceinline__ void
qb_write(const struct qbyte_arg &a, uint32_t first, uint32_t strips)
{
	constexpr uint32_t EACH = qb_spw(BITS) * NT * 32;

	for (uint32_t i = threadIdx.x; i < strips * NT * 32; i += W * 32) {
		const uint32_t lane = i % 32, tile = i / 32 % NT;
		const uint32_t r = tile * 4 + lane % 4;
		const uint32_t c = (first + i / 32 / NT) * 16 + lane / 4;
		const struct pair *p = smem<struct pair>(a.at.sums) +
				       i / EACH * a.round * EACH + i % EACH;
		struct pair v = { 0, 0 };

		for (uint32_t w = 0; w < a.round; w++) {
			v.lo += p[w * EACH].lo;
			v.hi += p[w * EACH].hi;
		}
		if (r < a.m && c < a.n)
			a.y[r * a.ldy + c] = v.lo;
		if (r < a.m && c + 8 < a.n)
			a.y[r * a.ldy + c + 8] = v.hi;
	}
}

/* Of the warps that multiply. */
template <int W> __device__ __forceinline__ void qb_sync(void)
{
	asm volatile("bar.sync 1, %0;" :: "n"(W * 32) : "memory");
}

template <int BITS, int UNIT, int NT, int W>
static __device__ __forceinline__ void
qb_multiply(const struct qbyte_arg &a, uint32_t from, uint32_t to)
{
	constexpr int S = qb_spw(BITS);
	const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const uint32_t mine = warp % a.round, group = warp / a.round;
	const uint32_t code = a.at.code +
		(group * S * a.round + mine) * qb_codes<BITS>();
	const uint32_t grid = (group * S * a.round + mine) * qb_grid<UNIT>() +
			      lane / 4 * 4;
	struct turn t = { 0, 0 };

#pragma unroll 1
	for (uint32_t first = from; first < to; first += a.groups * S) {
		const uint32_t strips = min(a.groups * S, to - first);
		const uint32_t n = strips > group * S ? strips - group * S : 0;
		struct pair out[S][NT] = {};

#pragma unroll 1
		for (uint32_t u = mine; u - mine < a.units;
		     u += a.round, turn_next(&t, a.stages)) {
			const uint32_t at = t.stage * a.stage;
			struct qb_lane<NT> l;

#pragma unroll
			for (int j = 0; j < NT; j++) {
				/* of B, and of the sums */
				const uint32_t b = j * 4 + lane / 8;
				const uint32_t r = min(j * 4 + lane % 4,
						       a.m - 1);

				l.live[j] = b < a.m;
				l.x[j] = at + (mine * a.m + b) * QB_X +
					 lane / 4 % 2 * 64 + lane % 4 * 16;
				l.head[j] = at + a.at.head +
					    (mine * a.m + r) * QB_HEAD;
			}
			gate_wait(smem<uint64_t>(a.at.full) + t.stage,
				  t.parity);
			if (u < a.units && n)
				qb_unit<BITS, UNIT, NT>(
					a, l, n, at + code,
					at + a.at.grid + grid,
					at + a.at.zero + grid, out);
			/* all lanes: racecheck cannot follow one for them */
			gate_arrive(smem<uint64_t>(a.at.empty) + t.stage);
		}
#pragma unroll
		for (int s = 0; s < S; s++)
#pragma unroll
			for (int j = 0; j < NT; j++)
				smem<struct pair>(a.at.sums)
					[((warp * S + s) * NT + j) * 32 + lane] =
						out[s][j];
		cu_wait(); /* y may be in use until then */
		qb_sync<W>();
		qb_write<BITS, NT, W>(a, first, strips);
		if (first + a.groups * S < to)
			qb_sync<W>();
	}
}

#endif

/* Devices on which the kernel is empty may have no room for several blocks. */
#if __CUDA_ARCH__ >= 900
#define QB_SHARE(BLOCKS) BLOCKS
#else
#define QB_SHARE(BLOCKS) 1
#endif

/* W warps multiply; BLOCKS share a multiprocessor: this kernel's, and the next
 * one's. */
template <int BITS, int UNIT, int NT, int W, int BLOCKS>
__global__ void __launch_bounds__(W * 32 + 32, QB_SHARE(BLOCKS))
qbyte_kernel(const __grid_constant__ struct qbyte_arg a)
{
#if __CUDA_ARCH__ >= 900
	const uint32_t from = a.strips * blockIdx.x / gridDim.x;
	const uint32_t to = a.strips * (blockIdx.x + 1) / gridDim.x;

	if (threadIdx.x == 0) {
		for (uint32_t i = 0; i < a.stages; i++) {
			gate_init(smem<uint64_t>(a.at.full) + i, 1);
			gate_init(smem<uint64_t>(a.at.empty) + i, W * 32);
		}
		asm volatile("fence.mbarrier_init.release.cluster;"
			     ::: "memory");
	}
	__syncthreads();
	cu_next();
	if (threadIdx.x < W * 32)
		qb_multiply<BITS, UNIT, NT, W>(a, from, to);
	else
		qb_feed<BITS, UNIT>(a, from, to);
#endif
}

/* ---- launching ---- */

/* Multiprocessors the work is cut for, whatever there are. */
#define QB_SMS 132u

/* Where things are in shared memory; as many stages as `most` bytes hold. */
template <int BITS, int UNIT, int NT, int W>
static inline void qb_place_all(struct qbyte_arg *a, uint32_t most)
{
	const uint32_t spans = a->groups * qb_spw(BITS);
	const uint32_t strips = cu_div_up(a->strips, QB_SMS);
	const uint32_t s = strips < spans ? strips : spans;
	const uint32_t sums = W * qb_spw(BITS) * NT * 256;
	const uint32_t grid = s * a->round * qb_grid<UNIT>();

	a->at.head = a->round * a->m * QB_X;
	a->at.code = a->at.head + a->round * a->m * QB_HEAD;
	a->at.grid = a->at.code + s * a->round * qb_codes<BITS>();
	a->at.zero = a->at.grid + grid;
	a->stage = (a->at.zero + (a->zero ? grid : 0) + 127) / 128 * 128;
	a->stages = (most - sums) / (a->stage + 16);
	a->at.sums = a->stages * a->stage;
	a->at.full = a->at.sums + sums;
	a->at.empty = a->at.full + a->stages * 8;
	a->at.end = a->at.empty + a->stages * 8;
}

/* Stages of `round` units, or fewer where two of them do not fit in `bytes` of
 * shared memory. */
template <int BITS, int UNIT, int NT, int W, int BLOCKS>
static int qb_run(struct be *be, struct qbyte_arg *a, uint32_t round,
		  uint32_t bytes, struct err *err)
{
	for (a->stages = 0; a->stages < 2 && round; round /= 2) {
		a->round = round;
		a->groups = W / round;
		qb_place_all<BITS, UNIT, NT, W>(a, bytes);
	}
	return cu_launch(be, "qgemv",
			 { dim3(a->strips < QB_SMS ? a->strips : QB_SMS),
			   dim3(W * 32 + 32), a->at.end, 0 },
			 err, qbyte_kernel<BITS, UNIT, NT, W, BLOCKS>, *a);
}

#endif
