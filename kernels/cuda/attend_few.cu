/* attend_few.cu - attention of few rows (decoding) over a long cache of f16 or
 * q8: what counts is that keys and values are read once, at full speed.
 *
 * A block has up to 16 query rows of one key/value head (of one token, where
 * tokens are of several sequences) and a piece of the positions, of which its warps take 16 in turn.  Each warp has a softmax of
 * its own (maximum, sum, mean of values); at the end they are merged in order,
 * and then the pieces.
 *
 * Keys and values go from memory to registers and from there into mma, without
 * shared memory: the order of dimensions in a product is free as long as both
 * sides agree, so it is the one in which a lane's fragments are bytes that
 * stand together.  Lane 4g + t:
 *
 *	K   positions g and g + 8, of each run of 4 VEC dimensions the t-th VEC:
 *	    a step of 16 dimensions is 4 of each lane
 *	V   positions 2t, 2t+1, 2t+8, 2t+9, of each run of 8 VEC dimensions the
 *	    g-th VEC: column g of the i-th product is the lane's i-th dimension
 *
 * The pairs of positions that mma wants of V are made by byte permutations.
 * Codes of q8 become halves by or-ing them into the mantissa of 1024; scales
 * of keys go onto the scores, those of values onto the values.  (Weights times
 * scales would be too small for f16.)
 *
 * The next 16 positions are asked for before the last have been used. */
#include "attend.cuh"

#define STEP (FLASH_WARPS * 16)

__device__ __forceinline__ uint32_t prmt(uint32_t a, uint32_t b, uint32_t sel)
{
	return __byte_perm(a, b, sel);
}

__device__ __forceinline__ __half2 half2_of(uint32_t u)
{
	return *reinterpret_cast<__half2 *>(&u);
}

__device__ __forceinline__ uint32_t word_of(__half2 h)
{
	return *reinterpret_cast<uint32_t *>(&h);
}

/* N bytes from memory, read once. */
template <int N>
__device__ __forceinline__ void load_bytes(uint32_t *to, const void *p, bool in)
{
	if constexpr (N == 16) {
		uint4 v = in ? __ldcs((const uint4 *)p) : make_uint4(0, 0, 0, 0);

		to[0] = v.x;
		to[1] = v.y;
		to[2] = v.z;
		to[3] = v.w;
	} else if constexpr (N == 8) {
		uint2 v = in ? __ldcs((const uint2 *)p) : make_uint2(0, 0);

		to[0] = v.x;
		to[1] = v.y;
	} else if constexpr (N == 4) {
		to[0] = in ? __ldcs((const uint32_t *)p) : 0;
	} else {
		to[0] = in ? __ldcs((const uint16_t *)p) : 0;
	}
}

/* Vectors of a lane: VK and VV elements at a time. */
template <class T, int DIM> struct form {
	static constexpr int BYTES = sizeof(T);
	static constexpr int VK = DIM % (64 / BYTES) == 0 ? 16 / BYTES
				  : DIM % (32 / BYTES) == 0 ? 8 / BYTES : 4;
	static constexpr int VV = DIM % (128 / BYTES) == 0 ? 16 / BYTES
				  : DIM % (64 / BYTES) == 0 ? 8 / BYTES
				  : DIM % (32 / BYTES) == 0 ? 4 / BYTES : 2;
	/* words, of which one of V of q8 may be half used */
	static constexpr int KW = DIM / 4 * BYTES / 4;
	static constexpr int VW = VV * BYTES >= 4 ? VV * BYTES / 4 : 1;
	static constexpr int VN = DIM / 8 / VV; /* vectors of a position */
};

template <class T, int DIM> struct keys {
	using F = form<T, DIM>;
	uint32_t w[2][F::KW];

	__device__ __forceinline__ void load(const T *p, size_t ld, uint32_t s,
					     uint32_t end)
	{
		const uint32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

#pragma unroll
		for (int n = 0; n < 2; n++) {
			const uint32_t r = s + 8 * n + g;
			const bool in = r < end;
			const T *row = p + (in ? r * ld : 0) + t * F::VK;

#pragma unroll
			for (int i = 0; i < DIM / (4 * F::VK); i++)
				load_bytes<F::VK * F::BYTES>(
					w[n] + i * F::VK * F::BYTES / 4,
					row + i * 4 * F::VK, in);
		}
	}

	/* the B fragment of 16 dimensions */
	__device__ __forceinline__ void frag(int n, int step, uint32_t *b) const
	{
		if constexpr (sizeof(T) == 2) {
			b[0] = w[n][2 * step];
			b[1] = w[n][2 * step + 1];
		} else {
			const __half2 off = half2_of(0x64806480);
			uint32_t u = w[n][step] ^ 0x80808080;

			b[0] = word_of(__hsub2(half2_of(
				prmt(u, 0x64646464, 0x4140)), off));
			b[1] = word_of(__hsub2(half2_of(
				prmt(u, 0x64646464, 0x4342)), off));
		}
	}
};

template <class T, int DIM> struct values {
	using F = form<T, DIM>;
	uint32_t w[4][F::VN][F::VW];

	__device__ __forceinline__ void load(const T *p, size_t ld, uint32_t s,
					     uint32_t end)
	{
		const uint32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

#pragma unroll
		for (int j = 0; j < 4; j++) {
			const uint32_t r = s + 2 * t + j % 2 + j / 2 * 8;
			const bool in = r < end;
			const T *row = p + (in ? r * ld : 0) + g * F::VV;

#pragma unroll
			for (int i = 0; i < F::VN; i++)
				load_bytes<F::VV * F::BYTES>(
					w[j][i], row + i * 8 * F::VV, in);
		}
	}

	/* element e of vector i of positions j and j + 1; `scale` is theirs */
	__device__ __forceinline__ uint32_t pair(int j, int i, int e,
						 __half2 scale) const
	{
		if constexpr (sizeof(T) == 2)
			return prmt(w[j][i][e / 2], w[j + 1][i][e / 2],
				    e % 2 ? 0x7632 : 0x5410);
		const uint32_t at = e % 4;
		uint32_t u = prmt(w[j][i][e / 4], w[j + 1][i][e / 4],
				  at | (4 + at) << 4);

		/* bytes 0 and 1 to the low bytes of two halves of 1024 + code */
		u = prmt(u ^ 0x8080, 0x64646464, 0x4140);
		return word_of(__hmul2(__hsub2(half2_of(u),
					       half2_of(0x64806480)), scale));
	}
};

/* Queries as A fragments, rows g and g + 8, in the order of keys' dimensions. */
template <class T, int DIM>
__device__ __forceinline__ void load_q(const struct flash_arg &a,
				       const struct flash_tile &t,
				       uint32_t (*qf)[4])
{
	constexpr int VK = form<T, DIM>::VK;
	const uint32_t g = threadIdx.x % 32 / 4, lane = threadIdx.x % 4;

#pragma unroll
	for (int h = 0; h < 2; h++) {
		const uint32_t r = g + 8 * h;
		const bool in = r < t.rows;
		const float *q = flash_q<DIM>(a, t, in ? r : 0);

#pragma unroll
		for (int i = 0; i < DIM / 16; i++) {
			uint32_t d = i / (VK / 4) * 4 * VK + lane * VK +
				     i % (VK / 4) * 4;
			float4 f = {};

			if (in)
				f = *(const float4 *)(q + d);
			qf[i][h] = flash_pair(f.x * a.scale, f.y * a.scale);
			qf[i][2 + h] = flash_pair(f.z * a.scale, f.w * a.scale);
		}
	}
}

template <class T, int DIM>
__global__ void __launch_bounds__(FLASH_WARPS * 32, 2)
few_kernel(const struct flash_arg a)
{
	using F = form<T, DIM>;
	extern __shared__ __align__(16) float sh[]; /* [warp][row][DIM + 4] */
	const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	const uint32_t g = lane / 4, tq = lane % 4;
	float o[DIM / 8][4] = {}, top[2] = { -INFINITY, -INFINITY };
	float sum[2] = {};
	uint32_t qf[DIM / 16][4], last[2];
	struct keys<T, DIM> k;
	struct values<T, DIM> v;

	cu_next();
	cu_wait();
	const struct be_at at = a.at ? a.at[blockIdx.y / ((a.rep + 15) / 16)]
				     : be_at{ 0, 0 };
	const struct flash_tile t = a.at ? flash_tile_of(a, at, 16, STEP)
					 : flash_tile_at(a, blockIdx.y, 16, STEP);
	const T *kp = (const T *)a.k + at.base * a.ldk + (size_t)t.kv * DIM;
	const T *vp = (const T *)a.v + at.base * a.ldv + (size_t)t.kv * DIM;
	const __half *ks = a.ks + at.base * a.ldks + t.kv;
	const __half *vs = a.vs + at.base * a.ldvs + t.kv;
	uint32_t s0 = t.s0 + warp * 16;

	k.load(kp, a.ldk, s0, t.s1);
	v.load(vp, a.ldv, s0, t.s1);
	load_q<T, DIM>(a, t, qf);
	for (int h = 0; h < 2; h++)
		last[h] = min(a.at ? at.pos
				   : a.first + (t.row0 + g + 8 * h) / a.rep,
			      t.s1 - 1);
	for (; s0 < t.s1; s0 += STEP) {
		float s[2][4] = {};
		uint32_t p[4];
		__half2 vscale[2] = {};

		/* scores */
#pragma unroll
		for (int i = 0; i < DIM / 16; i++)
#pragma unroll
			for (int n = 0; n < 2; n++) {
				uint32_t b[2];

				k.frag(n, i, b);
				flash_mma(s[n], qf[i], b[0], b[1]);
			}
		k.load(kp, a.ldk, s0 + STEP, t.s1);
		if constexpr (sizeof(T) == 1) {
#pragma unroll
			for (int j = 0; j < 4; j++) {
				uint32_t r = s0 + 2 * tq + j % 2 + j / 2 * 8;
				bool in = r < t.s1;
				float f = in ? __half2float(ks[r * a.ldks])
					     : 0;
				__half w = in ? vs[r * a.ldvs]
					      : __float2half(0);

				s[j / 2][j % 2] *= f;
				s[j / 2][2 + j % 2] *= f;
				if (j % 2)
					vscale[j / 2].y = w;
				else
					vscale[j / 2].x = w;
			}
		}
		/* softmax so far */
#pragma unroll
		for (int n = 0; n < 2; n++)
#pragma unroll
			for (int e = 0; e < 4; e++)
				if (s0 + 8 * n + 2 * tq + e % 2 > last[e / 2])
					s[n][e] = -INFINITY;
#pragma unroll
		for (int h = 0; h < 2; h++) {
			float w = top[h], f, base;

			w = fmaxf(w, fmaxf(fmaxf(s[0][2 * h], s[0][2 * h + 1]),
					   fmaxf(s[1][2 * h],
						 s[1][2 * h + 1])));
			w = fmaxf(w, __shfl_xor_sync(~0u, w, 1));
			w = fmaxf(w, __shfl_xor_sync(~0u, w, 2));
			base = w == -INFINITY ? 0 : w;
			f = flash_exp2(top[h] - base);
			top[h] = w;
			sum[h] *= f;
#pragma unroll
			for (int n = 0; n < 2; n++)
#pragma unroll
				for (int e = 2 * h; e < 2 * h + 2; e++) {
					s[n][e] = flash_exp2(s[n][e] - base);
					sum[h] += s[n][e];
				}
#pragma unroll
			for (int i = 0; i < DIM / 8; i++) {
				o[i][2 * h] *= f;
				o[i][2 * h + 1] *= f;
			}
		}
#pragma unroll
		for (int i = 0; i < 4; i++)
			p[i] = flash_pair_p(s[i / 2][i % 2 * 2],
					    s[i / 2][i % 2 * 2 + 1]);
		/* values */
#pragma unroll
		for (int i = 0; i < F::VN; i++)
#pragma unroll
			for (int e = 0; e < F::VV; e++)
				flash_mma(o[i * F::VV + e], p,
					  v.pair(0, i, e, vscale[0]),
					  v.pair(2, i, e, vscale[1]));
		v.load(vp, a.ldv, s0 + STEP, t.s1);
	}
	/* warps: tops and sums first, then the values by the common top */
	__shared__ float tops[FLASH_WARPS][16], sums[FLASH_WARPS][16];
#pragma unroll
	for (int h = 0; h < 2; h++) {
		sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
		sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
		if (tq == 0) {
			tops[warp][g + 8 * h] = top[h];
			sums[warp][g + 8 * h] = sum[h];
		}
	}
	__syncthreads();
#pragma unroll
	for (int h = 0; h < 2; h++) {
		const uint32_t r = g + 8 * h;
		float all = -INFINITY, f;

		if (r >= t.rows)
			continue;
		for (int w = 0; w < FLASH_WARPS; w++)
			all = fmaxf(all, tops[w][r]);
		f = all == -INFINITY ? 0 : flash_exp2(top[h] - all);
		float *row = sh + (warp * 16 + r) * (DIM + 4);
#pragma unroll
		for (int i = 0; i < DIM / 8; i++)
#pragma unroll
			for (int e = 0; e < 2; e++)
				row[i / F::VV * 8 * F::VV +
				    (2 * tq + e) * F::VV + i % F::VV] =
					o[i][2 * h + e] * f;
	}
	__syncthreads();
	for (uint32_t i = threadIdx.x; i < t.rows * (DIM / 2);
	     i += FLASH_WARPS * 32) {
		const uint32_t r = i / (DIM / 2), c = i % (DIM / 2) * 2;
		float all = -INFINITY, total = 0, x[2] = {};

		for (int w = 0; w < FLASH_WARPS; w++)
			all = fmaxf(all, tops[w][r]);
		for (int w = 0; w < FLASH_WARPS; w++) {
			const float *row = sh + (w * 16 + r) * (DIM + 4) + c;

			if (tops[w][r] != -INFINITY)
				total += sums[w][r] *
					 flash_exp2(tops[w][r] - all);
			x[0] += row[0];
			x[1] += row[1];
		}
		if (a.pieces == 1) {
			x[0] /= total;
			x[1] /= total;
			flash_out<DIM, 2>(a, t, r, c, x);
			continue;
		}
		float *part = flash_part<DIM>(a, t, t.piece, r, 16);
		*(float2 *)(part + c) = make_float2(x[0], x[1]);
		if (c == 0)
			*(float2 *)(part + DIM) = make_float2(all, total);
	}
	if (a.pieces > 1)
		flash_merge<DIM>(a, t, 16);
}

/* So many blocks fill the device. */
#define BLOCKS 264

template <class T, int DIM>
static int few(struct be *be, struct flash_arg *a, struct err *err)
{
	const uint32_t tiles = a->at ? a->tokens * cu_div_up(a->rep, 16)
				     : cu_div_up((uint64_t)a->tokens * a->rep, 16);
	const uint32_t most = cu_div_up(a->seen, STEP);
	struct cu_dim d = { dim3(a->kv_heads, tiles), dim3(FLASH_WARPS * 32),
			    FLASH_WARPS * 16 * (DIM + 4) * sizeof(float) };

	a->pieces = BLOCKS / (a->kv_heads * tiles);
	a->pieces = !a->pieces ? 1 : a->pieces > most ? most : a->pieces;
	d.grid.z = a->pieces;
	if (a->pieces > 1 && cu_attend_room(be, a, tiles, 16 * (DIM + 2), err))
		return -1;
	return cu_launch(be, "attend", d, err, few_kernel<T, DIM>, *a);
}

template <class T>
static int few_by(struct be *be, struct flash_arg *a, uint32_t dim,
		  struct err *err)
{
	switch (dim) {
	case 64:
		return few<T, 64>(be, a, err);
	case 80:
		return few<T, 80>(be, a, err);
	case 96:
		return few<T, 96>(be, a, err);
	case 128:
		return few<T, 128>(be, a, err);
	default:
		return few<T, 256>(be, a, err);
	}
}

int cu_attend_few(struct be *be, struct flash_arg *a, uint32_t dim,
		  enum dtype type, struct err *err)
{
	return type == DT_F16 ? few_by<__half>(be, a, dim, err)
			      : few_by<int8_t>(be, a, dim, err);
}
