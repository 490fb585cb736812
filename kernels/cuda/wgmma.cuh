/* wgmma.cuh - the instructions of sm_90a that a pipelined product is made of.
 *
 * Bulk copies fill stages of shared memory and report to a barrier there; a
 * warpgroup (4 warps) multiplies 64 outputs, whose weights are in registers, by
 * N tokens in shared memory.  Warp w of the group has the outputs 16 w to
 * 16 w + 15, in the registers of mma.m16n8k16; d[4 i + j] is what that would
 * have for the i-th 8 tokens.
 *
 * Tokens lie in shared memory as [token][64 inputs], 128 bytes each, the
 * 16-byte piece u of token n at u ^ n % 8 ("128-byte swizzle"), so that 8
 * tokens are read without conflicts of banks; a tile starts on 1024 bytes. */
#ifndef KERNELS_CUDA_WGMMA_CUH
#define KERNELS_CUDA_WGMMA_CUH

#include "cu.cuh"

/* Is this pass of the compiler for a device that has them? */
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define WGMMA_HERE 1
#else
#define WGMMA_HERE 0
#endif

#if WGMMA_HERE

/* ---- barriers in shared memory ---- */

__device__ __forceinline__ uint32_t shared_at(const void *p)
{
	return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ __forceinline__ void bar_init(uint32_t bar, uint32_t count)
{
	asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
		     :: "r"(bar), "r"(count) : "memory");
}

/* Once all are initialised, and before the copy engine sees them. */
__device__ __forceinline__ void bar_init_done(void)
{
	asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void bar_arrive(uint32_t bar)
{
	asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];"
		     :: "r"(bar) : "memory");
}

/* Arrive, and let the phase wait for this many bytes more. */
__device__ __forceinline__ void bar_expect(uint32_t bar, uint32_t bytes)
{
	asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
		     :: "r"(bar), "r"(bytes) : "memory");
}

/* Until the phase of this parity is over. */
__device__ __forceinline__ void bar_wait(uint32_t bar, uint32_t parity)
{
	asm volatile("{\n"
		     ".reg .pred p;\n"
		     "again:\n"
		     "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
		     "@p bra done;\n"
		     "bra again;\n"
		     "done:\n"
		     "}" :: "r"(bar), "r"(parity) : "memory");
}

/* ---- copies ---- */

/* 16-byte aligned, a multiple of 16 bytes; reports them to the barrier. */
__device__ __forceinline__ void bulk_copy(uint32_t to, const void *from,
					  uint32_t bytes, uint32_t bar)
{
	asm volatile("cp.async.bulk.shared::cluster.global"
		     ".mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
		     :: "r"(to), "l"(from), "r"(bytes), "r"(bar) : "memory");
}

__device__ __forceinline__ void copy_16(uint32_t to, const void *from)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
		     :: "r"(to), "l"(from) : "memory");
}

/* The lane arrives when its copies of 16 bytes are there. */
__device__ __forceinline__ void copy_arrive(uint32_t bar)
{
	asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];"
		     :: "r"(bar) : "memory");
}

/* ---- the blocks of a cluster ---- */

/* All threads of all of them; what they wrote before is seen after. */
__device__ __forceinline__ void cluster_sync(void)
{
	__syncwarp();
	asm volatile("barrier.cluster.arrive.release.aligned;\n"
		     "barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* From the shared memory of that block, at this address of its own. */
__device__ __forceinline__ float4 cluster_load(uint32_t at, uint32_t rank)
{
	float4 v;

	asm volatile("{\n.reg .b32 there;\n"
		     "mapa.shared::cluster.u32 there, %4, %5;\n"
		     "ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [there];\n}"
		     : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
		     : "r"(at), "r"(rank) : "memory");
	return v;
}

/* ---- products ---- */

/* The tile of tokens at a shared address: 8 tokens are 1024 bytes. */
__device__ __forceinline__ uint64_t wgmma_tile(uint32_t at)
{
	return (uint64_t)(at >> 4 & 0x3fff) | (uint64_t)1 << 16 |
	       (uint64_t)64 << 32 | (uint64_t)1 << 62;
}

/* Registers written before are seen by the wgmma after. */
__device__ __forceinline__ void wgmma_fence(void)
{
	asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit(void)
{
	asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most LEFT committed groups are under way. */
template <int LEFT> __device__ __forceinline__ void wgmma_wait(void)
{
	asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(LEFT)
		     : "memory");
}

#define R0 "%0,%1,%2,%3,%4,%5,%6,%7"
#define R1 "%8,%9,%10,%11,%12,%13,%14,%15"
#define R2 "%16,%17,%18,%19,%20,%21,%22,%23"
#define R3 "%24,%25,%26,%27,%28,%29,%30,%31"
#define R4 "%32,%33,%34,%35,%36,%37,%38,%39"
#define R5 "%40,%41,%42,%43,%44,%45,%46,%47"
#define R6 "%48,%49,%50,%51,%52,%53,%54,%55"
#define R7 "%56,%57,%58,%59,%60,%61,%62,%63"
#define R8 "%64,%65,%66,%67,%68,%69,%70,%71"
#define R9 "%72,%73,%74,%75,%76,%77,%78,%79"
#define R10 "%80,%81,%82,%83,%84,%85,%86,%87"
#define R11 "%88,%89,%90,%91,%92,%93,%94,%95"
#define R12 "%96,%97,%98,%99,%100,%101,%102,%103"
#define R13 "%104,%105,%106,%107,%108,%109,%110,%111"
#define R14 "%112,%113,%114,%115,%116,%117,%118,%119"
#define R15 "%120,%121,%122,%123,%124,%125,%126,%127"
#define R_16 R0
#define R_32 R_16 "," R1
#define R_64 R_32 "," R2 "," R3
#define R_128 R_64 "," R4 "," R5 "," R6 "," R7
#define R_256 R_128 "," R8 "," R9 "," R10 "," R11 "," R12 "," R13 "," R14 \
	"," R15

#define D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), \
	"+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define D_16 D8(0)
#define D_32 D_16, D8(8)
#define D_64 D_32, D8(16), D8(24)
#define D_128 D_64, D8(32), D8(40), D8(48), D8(56)
#define D_256 D_128, D8(64), D8(72), D8(80), D8(88), D8(96), D8(104), \
	D8(112), D8(120)

/* d (+)= a times 16 inputs of N tokens; d is not read where `add` is 0. */
template <int N> struct wgmma;
#define WGMMA(N, A0, A1, A2, A3, B, ADD)                                      \
	template <> struct wgmma<N> {                                         \
		static __device__ __forceinline__ void                        \
		run(float *d, const uint32_t *a, uint64_t b, int add)         \
		{                                                             \
			asm volatile(                                         \
				"{\n.reg .pred p;\n"                          \
				"setp.ne.b32 p, %" #ADD ", 0;\n"              \
				"wgmma.mma_async.sync.aligned.m64n" #N        \
				"k16.f32.f16.f16 {" R_##N "}, "               \
				"{%" #A0 ",%" #A1 ",%" #A2 ",%" #A3 "}, "     \
				"%" #B ", p, 1, 1, 0;\n}"                     \
				: D_##N                                       \
				: "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), \
				  "l"(b), "r"(add));                          \
		}                                                             \
	}
WGMMA(16, 8, 9, 10, 11, 12, 13);
WGMMA(32, 16, 17, 18, 19, 20, 21);
WGMMA(64, 32, 33, 34, 35, 36, 37);
WGMMA(128, 64, 65, 66, 67, 68, 69);
WGMMA(256, 128, 129, 130, 131, 132, 133);

#endif /* WGMMA_HERE */
#endif
