/* upload.cu - large arrays from host memory to the device.
 *
 *	mapped file --several threads--> pinned ring --copy engine--> device
 *
 * The copy engine reads pinned memory only, at 50 GB/s over PCIe 5; what the
 * driver does with other memory is one thread's copying.  Here the threads fill
 * the next pieces while the last ones travel.  A piece of the ring is filled
 * again when the event behind its transfer has come.
 *
 * Pages of a mapped file that no page table of this process knows yet cost a
 * fault for each 64 KiB; asking for a whole tile at once is cheaper. */
#include "cu.cuh"

#include "../tile.h"

#include <new>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SLOTS 8u
#define SLOT ((size_t)4 << 20)
#define TILE ((size_t)256 << 10) /* one thread's share of a piece */
#define THREADS_MAX 16u          /* more find the memory busy */

struct cu_ring {
	char *pin;               /* [SLOTS][SLOT] */
	cudaEvent_t done[SLOTS]; /* the slot may be filled again */
	uint32_t made, next;     /* events; the slot to fill */
	struct tile_pool *pool;
};

void cu_ring_close(struct cu_ring *r)
{
	if (!r)
		return;
	for (uint32_t i = 0; i < r->made; i++)
		cudaEventDestroy(r->done[i]);
	cudaFreeHost(r->pin);
	tile_close(r->pool);
	delete r;
}

static int ring_fill(struct cu_ring *r, uint32_t threads, struct err *err)
{
	if (cudaHostAlloc((void **)&r->pin, SLOTS * SLOT,
			  cudaHostAllocDefault) != cudaSuccess) {
		(void)cudaGetLastError();
		r->pin = NULL;
		return err_set(err, ERR_RESOURCE,
			       "not enough memory: %zu MiB that stay in place "
			       "for copying to the GPU", SLOTS * SLOT >> 20);
	}
	for (; r->made < SLOTS; r->made++)
		CU_TRY(cudaEventCreateWithFlags(&r->done[r->made],
						cudaEventDisableTiming),
		       "an event", err);
	return tile_open(threads < THREADS_MAX ? threads : THREADS_MAX,
			 &r->pool, err);
}

static int ring_open(struct be *be, struct err *err)
{
	struct cu_ring *r = new (std::nothrow) struct cu_ring();

	if (!r)
		return err_set(err, ERR_RESOURCE, "not enough memory");
	if (ring_fill(r, be->threads, err)) {
		cu_ring_close(r);
		return -1;
	}
	be->ring = r;
	return 0;
}

struct piece {
	char *to;
	const char *from;
	size_t bytes;
};

static void copy_tile(void *ctx, uint32_t tile, uint32_t self)
{
	const struct piece *p = (const struct piece *)ctx;
	size_t at = tile * TILE;
	size_t n = p->bytes - at < TILE ? p->bytes - at : TILE;

	(void)self;
#ifdef MADV_POPULATE_READ
	/* (page sizes are powers of two) */
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t low = (size_t)(p->from + at) & ~(page - 1);
	size_t high = ((size_t)(p->from + at) + n + page - 1) & ~(page - 1);

	(void)madvise((void *)low, high - low, MADV_POPULATE_READ);
#endif
	memcpy(p->to + at, p->from + at, n);
}

int cu_upload(struct be *be, void *dst, const void *src, size_t bytes,
	      struct err *err)
{
	struct cu_ring *r;

	if (!be->ring && ring_open(be, err))
		return -1;
	r = be->ring;
	for (size_t at = 0; at < bytes; at += SLOT) {
		uint32_t slot = r->next++ % SLOTS;
		struct piece p = { r->pin + slot * SLOT,
				   (const char *)src + at,
				   bytes - at < SLOT ? bytes - at : SLOT };

		CU_TRY(cudaEventSynchronize(r->done[slot]), "uploading", err);
		tile_run(r->pool, tile_threads(r->pool),
			 cu_div_up(p.bytes, TILE), copy_tile, &p);
		CU_TRY(cudaMemcpyAsync((char *)dst + at, p.to, p.bytes,
				       cudaMemcpyHostToDevice, be->stream),
		       "uploading", err);
		CU_TRY(cudaEventRecord(r->done[slot], be->stream), "uploading",
		       err);
	}
	return 0;
}
