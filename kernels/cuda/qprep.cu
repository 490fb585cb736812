/* qprep.cu - a layer becomes a weight on the GPU.
 *
 * Inputs are sorted by group (a stable sort, so that order without act-order
 * is kept), and codes are packed on the device into the layout of qw.cuh: from
 * the words of a file as they stand there (cu_qw_pack), or from the neutral
 * layer, a byte a code (cu_qw_new).  What that layout cannot hold stays a
 * neutral layer, for the generic kernel; `why` then names the reason.
 *
 * cu_qw_pack moves each byte of a file once over the bus and waits for
 * nothing: while one weight travels, the host reads the next. */
#include "qw.cuh"

#include <new>
#include <stdlib.h>
#include <string.h>

/* Codes that go up at a time. */
#define PIECE ((size_t)64 << 20)

/* What the mma kernels take, or why they do not. */
static const char *unfit(const struct be *be, const struct ql_spec *s)
{
	if (be->generic)
		return "generic";
	if (s->bits != 2 && s->bits != 3 && s->bits != 4 && s->bits != 8)
		return "generic (5 to 7 bits)";
	if (s->zero_kind != QL_POINT)
		return "generic (float zeros)";
	if (s->in % 64)
		return "generic (inputs not a multiple of 64)";
	if (s->group_size % 32 || s->in % s->group_size)
		return "generic (group size not a multiple of 32)";
	return NULL;
}

static const char *scales_unfit(const struct ql *ql)
{
	const struct ql_spec *s = &ql->spec;
	size_t n = (size_t)s->out * s->groups;

	for (size_t i = 0; i < n; i++) {
		float f = ql->scale[i];

		if (f != (s->scale_type == DT_BF16
				  ? __bfloat162float(__float2bfloat16_rn(f))
				  : __half2float(__float2half_rn(f))))
			return "generic (scales beyond 16 bits)";
	}
	return NULL;
}

/* perm such that group_of[perm[c]] rises; *sorted: it is 0, 1, 2...  1 when a
 * group has not group_size members. */
static int sort_inputs(const struct ql_spec *s, const uint32_t *group_of,
		       uint32_t *perm, int *sorted)
{
	uint32_t *next = (uint32_t *)calloc(s->groups, sizeof(*next));
	int uneven = !next;

	for (uint32_t g = 0; next && g < s->groups; g++)
		next[g] = g * s->group_size;
	*sorted = 1;
	for (uint32_t k = 0; k < s->in && !uneven; k++) {
		uint32_t g = group_of[k], c = next[g]++;

		if (c >= (g + 1) * s->group_size)
			uneven = 1;
		else
			perm[c] = k;
		*sorted &= c == k;
	}
	free(next);
	return uneven;
}

/* ---- packing ---- */

struct pack_arg {
	const uint8_t *code; /* [rows][in] of this piece; NULL: */
	const uint32_t *from;/* [in * bits / 32][rows] */
	const uint32_t *perm;
	uint32_t *word;      /* of its first strip */
	uint32_t rows, in, chunks, strips;
	int bits;
};

/* Where the code (p, e) of mma j stands: the word of the lane, the bit. */
static __device__ __forceinline__ void place(int bits, int j, int p, int e,
					     int *word, int *bit)
{
	*word = bits == 4 ? j : bits == 8 ? 2 * j + p / 2 : j / 2;
	*bit = 16 * e + (bits == 4 ? 4 * p : bits == 8 ? 8 * (p % 2)
						: 2 * (4 * (j % 2) + p));
}

/* Code k of the stream in column n. */
static __device__ __forceinline__ uint32_t stream_at(const struct pack_arg &a,
						     uint32_t n, uint32_t k)
{
	const uint32_t bit = k * a.bits, at = bit % 32;
	const uint32_t *w = a.from + (size_t)(bit / 32) * a.rows + n;
	uint32_t v = __ldg(w) >> at;

	if (at + a.bits > 32)
		v |= __ldg(w + a.rows) << (32 - at);
	return v & ((1u << a.bits) - 1);
}

/* A warp per chunk of a strip. */
__global__ void pack_kernel(const struct pack_arg a)
{
	const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
	const uint32_t at = blockIdx.x * 8 + threadIdx.x / 32;
	const uint32_t strip = at / a.chunks, c = at % a.chunks;
	uint32_t w[8] = {};

	cu_wait();
	if (strip >= a.strips)
		return;
#pragma unroll
	for (int i = 0; i < 32; i++) {
		int j = i / 8, p = i / 2 % 4, e = i % 2, word, bit;
		uint32_t n = strip * 16 + g + 8 * (p % 2);
		uint32_t k = c * 64 + 32 * (j / 2) + 8 * t + 4 * (j % 2) +
			     2 * (p / 2) + e;
		uint32_t v = 0;

		if (a.perm)
			k = a.perm[k];
		if (n < a.rows)
			v = a.code ? a.code[(size_t)n * a.in + k]
				   : stream_at(a, n, k);
		place(a.bits, j, p, e, &word, &bit);
		if (a.bits == 3) {
			w[2] |= (v >> 2 & 1) << (8 * (j % 2) +
							 4 * (j / 2) + p +
							 16 * e);
			v &= 3;
		}
#pragma unroll
		for (int x = 0; x < 8; x++)
			if (x == word)
				w[x] |= v << bit;
	}
	uint32_t *out = a.word + (size_t)at * 32 * a.bits;
#pragma unroll
	for (int x = 0; x < 8; x++) {
		if (x >= a.bits)
			break;
		if (a.bits >= 4)
			out[x / 4 * 128 + lane * 4 + x % 4] = w[x];
		else if (x < 2)
			out[lane * 2 + x] = w[x];
		else
			out[64 + lane] = w[x];
	}
}

static int pack(struct be *be, const struct ql *ql, struct be_qw *w,
		struct err *err)
{
	const struct ql_spec *s = &ql->spec;
	size_t strip = (size_t)16 * s->in;
	uint32_t each = (uint32_t)(PIECE / strip ? PIECE / strip : 1);
	void *piece;

	each = each < w->strips ? each : w->strips;
	if (cu_scratch_get(be, CU_DENSE, each * strip, &piece, err))
		return -1;
	for (uint32_t at = 0; at < w->strips; at += each) {
		uint32_t n = w->strips - at < each ? w->strips - at : each;
		uint32_t rows = s->out - at * 16 < n * 16 ? s->out - at * 16
							  : n * 16;
		struct pack_arg a = {
			(const uint8_t *)piece, NULL, w->perm,
			w->word + (size_t)at * w->chunks * 32 * s->bits,
			rows, s->in, w->chunks, n, s->bits,
		};

		CU_TRY(cudaMemcpyAsync(piece, ql->code + at * strip,
				       (size_t)rows * s->in,
				       cudaMemcpyHostToDevice, be->stream),
		       "a weight", err);
		if (cu_launch(be, "packing",
			      { dim3(cu_div_up((uint64_t)n * w->chunks, 8)),
				dim3(256), 0 },
			      err, pack_kernel, a))
			return -1;
	}
	return 0;
}

/* ---- scales and zeros ---- */

static uint32_t bits16(float f, int bf16)
{
	__half h = __float2half_rn(f);
	__nv_bfloat16 b = __float2bfloat16_rn(f);
	uint16_t u;

	memcpy(&u, bf16 ? (void *)&b : (void *)&h, 2);
	return u;
}

/* Pairs (row g, row g + 8) per unit of one array [out][groups]. */
static void pair_up(const struct be_qw *w, const float *from, int bf16,
		    uint32_t *to)
{
	const struct ql_spec *s = &w->spec;

	for (uint32_t strip = 0; strip < w->strips; strip++)
		for (uint32_t u = 0; u < w->units; u++)
			for (uint32_t g = 0; g < 8; g++) {
				uint32_t lo = strip * 16 + g, hi = lo + 8;
				size_t at = u * w->unit / s->group_size;
				uint32_t v = 0;

				if (lo < s->out)
					v = bits16(from[lo * (size_t)s->groups +
							at], bf16);
				if (hi < s->out)
					v |= bits16(from[hi * (size_t)s->groups +
							 at], bf16) << 16;
				*to++ = v;
			}
}

static int centred(const struct ql *ql)
{
	size_t n = (size_t)ql->spec.out * ql->spec.groups;
	float mid = (float)(1 << (ql->spec.bits - 1));

	for (size_t i = 0; i < n; i++)
		if (ql->zero[i] != mid)
			return 0;
	return 1;
}

static int up(struct be *be, void *dst, const void *src, size_t bytes,
	      struct err *err)
{
	CU_TRY(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice,
			       be->stream), "a weight", err);
	CU_TRY(cudaStreamSynchronize(be->stream), "a weight", err);
	return 0;
}

static size_t round64(size_t n)
{
	return (n + 63) / 64 * 64;
}

/* FNV-1a over the order of inputs, never 0: layers with one order share their
 * gathered activations. */
static uint64_t hash(const uint32_t *perm, uint32_t n)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (uint32_t i = 0; i < n; i++)
		h = (h ^ perm[i]) * 0x100000001b3u;
	return h ? h : 1;
}

/* The places of the mma layout in one allocation; perm is NULL where inputs are
 * in order. */
static int place_mma(struct be_qw *w, const uint32_t *perm, int sym,
		     struct err *err)
{
	const struct ql_spec *s = &w->spec;
	size_t words, pairs;
	char *p;

	w->unit = s->group_size % 128 ? 32 : 128;
	w->units = s->in / w->unit;
	w->strips = cu_div_up(s->out, 16);
	w->chunks = s->in / 64;
	w->bf16 = s->scale_type == DT_BF16;
	words = (size_t)w->strips * w->chunks * 32 * s->bits * 4;
	pairs = round64((size_t)w->strips * w->units * 8 * 4);
	if (cu_alloc(words + pairs * (sym ? 1 : 2) + (perm ? s->in * 4u : 0),
		     "a quantized weight", &w->mem, err))
		return -1;
	p = (char *)w->mem;
	w->word = (uint32_t *)p;
	w->scale = (uint32_t *)(p + words);
	p += words + pairs;
	if (!sym) {
		w->zero = (uint32_t *)p;
		p += pairs;
	}
	if (perm) {
		w->perm = (uint32_t *)p;
		w->order = hash(perm, s->in);
	}
	return 0;
}

static int make_mma(struct be *be, const struct ql *ql, const uint32_t *perm,
		    struct be_qw *w, struct err *err)
{
	size_t pairs;
	uint32_t *host;
	int ret = -1;

	if (place_mma(w, perm, centred(ql), err))
		return -1;
	pairs = (size_t)w->strips * w->units * 8 * 4;
	host = (uint32_t *)malloc(pairs);
	if (!host)
		return err_set(err, ERR_RESOURCE,
			       "not enough memory: %zu bytes", pairs);
	pair_up(w, ql->scale, w->bf16, host);
	if (up(be, w->scale, host, pairs, err))
		goto out;
	if (w->zero) {
		pair_up(w, ql->zero, 0, host);
		if (up(be, w->zero, host, pairs, err))
			goto out;
	}
	if (perm && up(be, w->perm, perm, w->spec.in * 4u, err))
		goto out;
	ret = pack(be, ql, w, err);
out:
	free(host);
	return ret;
}

/* ---- from a file ---- */

struct pair_arg {
	const uint16_t *from; /* [groups][out] */
	uint32_t *to;
	uint32_t count, units, unit, out, group_size;
};

static __device__ __forceinline__ uint32_t pair_half(const struct pair_arg &a,
						     uint32_t group, uint32_t n)
{
	return n < a.out ? a.from[(size_t)group * a.out + n] : 0;
}

/* pair_up, on the device. */
__global__ void pair_kernel(const struct pair_arg a)
{
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
	const uint32_t u = i / 8 % a.units, n = i / 8 / a.units * 16 + i % 8;

	cu_wait();
	if (i >= a.count)
		return;
	const uint32_t group = u * a.unit / a.group_size;

	a.to[i] = pair_half(a, group, n) | pair_half(a, group, n + 8) << 16;
}

struct zero_arg {
	const uint32_t *from; /* [groups][words] */
	uint32_t *to;
	uint32_t count, units, unit, out, group_size, words;
	uint32_t add[3], plus, mask; /* struct ql_packed */
	int bits;
};

static __device__ __forceinline__ uint32_t zero_half(const struct zero_arg &a,
						     uint32_t group, uint32_t n)
{
	const uint32_t bit = n * a.bits, i = bit / 32, at = bit % 32;
	const uint32_t *w = a.from + (size_t)group * a.words + i;
	uint32_t v;

	if (n >= a.out)
		return 0;
	v = (w[0] + a.add[i % 3]) >> at;
	if (at + a.bits > 32)
		v |= (w[1] + a.add[(i + 1) % 3]) << (32 - at);
	v = ((v & ((1u << a.bits) - 1)) + a.plus) & a.mask;
	return __half_as_ushort(__uint2half_rn(v));
}

/* The same for zeros. */
__global__ void zero_kernel(const struct zero_arg a)
{
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
	const uint32_t u = i / 8 % a.units, n = i / 8 / a.units * 16 + i % 8;

	cu_wait();
	if (i >= a.count)
		return;
	const uint32_t group = u * a.unit / a.group_size;

	a.to[i] = zero_half(a, group, n) | zero_half(a, group, n + 8) << 16;
}

static int send_zeros(struct be *be, const struct be_qw *w,
		      const struct ql_packed *q, struct err *err)
{
	const struct ql_spec *s = &w->spec;
	const uint32_t words = cu_div_up((uint64_t)s->out * s->bits, 32);
	struct zero_arg a = { NULL, w->zero, w->strips * w->units * 8,
			      w->units, w->unit, s->out, s->group_size, words,
			      { q->zero_add[0], q->zero_add[1],
				q->zero_add[2] },
			      q->zero_plus, q->zero_mask, s->bits };
	size_t bytes = (size_t)s->groups * words * 4;
	void *p;

	if (cu_scratch_get(be, CU_DENSE, bytes, &p, err) ||
	    cu_upload(be, p, q->zeros, bytes, err))
		return -1;
	a.from = (const uint32_t *)p;
	return cu_launch(be, "zeros", { dim3(cu_div_up(a.count, 256)),
					dim3(256), 0 }, err, zero_kernel, a);
}

static int send_scales(struct be *be, const struct be_qw *w, const void *from,
		       struct err *err)
{
	const struct ql_spec *s = &w->spec;
	size_t bytes = (size_t)s->groups * s->out * 2;
	struct pair_arg a = { NULL, w->scale, w->strips * w->units * 8,
			      w->units, w->unit, s->out, s->group_size };
	void *p;

	if (cu_scratch_get(be, CU_DENSE, bytes, &p, err) ||
	    cu_upload(be, p, from, bytes, err))
		return -1;
	a.from = (const uint16_t *)p;
	return cu_launch(be, "scales", { dim3(cu_div_up(a.count, 256)),
					 dim3(256), 0 }, err, pair_kernel, a);
}

static int send_words(struct be *be, const struct ql_packed *q,
		      const struct be_qw *w, struct err *err)
{
	const struct ql_spec *s = &w->spec;
	size_t bytes = (size_t)s->in / 32 * s->bits * s->out * 4;
	struct pack_arg a = { NULL, NULL, w->perm, w->word, s->out, s->in,
			      w->chunks, w->strips, s->bits };
	void *p;

	if (cu_scratch_get(be, CU_DENSE, bytes, &p, err) ||
	    cu_upload(be, p, q->words, bytes, err))
		return -1;
	a.from = (const uint32_t *)p;
	return cu_launch(be, "packing",
			 { dim3(cu_div_up((uint64_t)w->strips * w->chunks, 8)),
			   dim3(256), 0 }, err, pack_kernel, a);
}

static int fill_mma(struct be *be, const struct ql_packed *q,
		    const uint32_t *perm, struct be_qw *w, struct err *err)
{
	if (place_mma(w, perm, !q->zeros, err) ||
	    (perm && cu_upload(be, w->perm, perm, w->spec.in * 4u, err)) ||
	    send_words(be, q, w, err) ||
	    send_scales(be, w, q->scales, err))
		return -1;
	return w->zero ? send_zeros(be, w, q, err) : 0;
}

int cu_qw_pack(struct be *be, const struct ql_packed *q, struct be_qw **out,
	       struct err *err)
{
	const struct ql_spec *s = &q->spec;
	struct be_qw *w = NULL;
	uint32_t *perm = NULL;
	int sorted = 1, ret = -1;

	*out = NULL;
	if (be_shape_packed(q, err))
		return -1;
	if (unfit(be, s) || s->scale_type == DT_F32)
		return 1;
	w = new (std::nothrow) struct be_qw();
	perm = (uint32_t *)malloc(s->in * sizeof(*perm));
	if (!w || !perm) {
		err_set(err, ERR_RESOURCE, "not enough memory");
		goto out;
	}
	w->spec = *s;
	if (sort_inputs(s, q->group_of, perm, &sorted)) {
		ret = 1;
		goto out;
	}
	ret = fill_mma(be, q, sorted ? NULL : perm, w, err);
	be->fresh = 1;
	if (ret)
		goto out;
	*out = w;
	w = NULL;
out:
	cu_qw_free(be, w);
	free(perm);
	return ret;
}

/* ---- what mma does not take ---- */

/* The neutral layer as it is. */
static int make_generic(struct be *be, const struct ql *ql, struct be_qw *w,
			struct err *err)
{
	const struct ql_spec *s = &w->spec;
	size_t codes = round64((size_t)s->out * s->in);
	size_t grid = round64((size_t)s->out * s->groups * 4);
	char *p;

	if (cu_alloc(codes + 2 * grid + s->in * 4u, "a quantized weight",
		     &w->mem, err))
		return -1;
	p = (char *)w->mem;
	w->code = (uint8_t *)p;
	w->scale32 = (float *)(p + codes);
	w->zero32 = (float *)(p + codes + grid);
	w->group_of = (uint32_t *)(p + codes + 2 * grid);
	grid = (size_t)s->out * s->groups * 4;
	if (up(be, w->code, ql->code, (size_t)s->out * s->in, err) ||
	    up(be, w->scale32, ql->scale, grid, err) ||
	    up(be, w->zero32, ql->zero, grid, err))
		return -1;
	return up(be, w->group_of, ql->group_of, s->in * 4u, err);
}

void cu_qw_free(struct be *be, struct be_qw *w)
{
	(void)be;
	if (!w)
		return;
	cudaFree(w->mem); /* waits for what still reads it */
	delete w;
}

int cu_qw_new(struct be *be, const struct ql *ql, struct be_qw **out,
	      struct err *err)
{
	struct be_qw *w = NULL;
	uint32_t *perm = NULL;
	int sorted = 1, ret = -1;

	*out = NULL;
	if (be_shape_ql(ql, err))
		goto out;
	w = new (std::nothrow) struct be_qw();
	perm = (uint32_t *)malloc(ql->spec.in * sizeof(*perm));
	if (!w || !perm) {
		err_set(err, ERR_RESOURCE, "not enough memory");
		goto out;
	}
	w->spec = ql->spec;
	w->why = unfit(be, &ql->spec);
	if (!w->why)
		w->why = scales_unfit(ql);
	if (!w->why && sort_inputs(&ql->spec, ql->group_of, perm, &sorted))
		w->why = "generic (groups of uneven size)";
	if (w->why ? make_generic(be, ql, w, err)
		   : make_mma(be, ql, sorted ? NULL : perm, w, err))
		goto out;
	/* the kernels read weights before they wait for what runs before them,
	 * and ql may go */
	if (cudaStreamSynchronize(be->stream) != cudaSuccess) {
		cu_fail(cudaGetLastError(), "a weight", err);
		goto out;
	}
	*out = w;
	w = NULL;
	ret = 0;
out:
	cu_qw_free(be, w);
	free(perm);
	return ret;
}
