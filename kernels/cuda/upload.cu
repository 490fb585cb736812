/* upload.cu - large arrays from host memory to the device.
 *
 *	mapped file --several threads--> pinned memory --copy engine--> device
 *
 * The copy engine reads pinned memory only, at 50 GB/s over PCIe 5; what the
 * driver does with other memory is one thread's copying.  Here each thread has
 * some slots of pinned memory and fills them with pieces of the array in turn,
 * sending each on its way itself: they meet at the end of an array alone.  A slot
 * is filled again when the event behind its transfer has come. */
#include "cu.cuh"

#include "../tile.h"

#include <new>
#include <string.h>

#define THREADS_MAX 16u          /* more find the memory busy */
#define SLOTS 4u                 /* of a thread */
#define SLOT ((size_t)512 << 10)

struct cu_ring {
	char *pin;                             /* [THREADS_MAX][SLOTS][SLOT] */
	cudaEvent_t done[THREADS_MAX * SLOTS]; /* the slot may be filled again */
	uint32_t made;                         /* events */
	uint32_t next[THREADS_MAX];            /* pieces a thread has sent */
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
	const uint32_t n = threads < THREADS_MAX ? threads : THREADS_MAX;
	const size_t bytes = (n ? n : 1) * SLOTS * SLOT;

	if (cudaHostAlloc((void **)&r->pin, bytes, cudaHostAllocDefault) !=
	    cudaSuccess) {
		(void)cudaGetLastError();
		r->pin = NULL;
		return err_set(err, ERR_RESOURCE,
			       "not enough memory: %zu MiB that stay in place "
			       "for copying to the GPU", bytes >> 20);
	}
	for (; r->made < (n ? n : 1) * SLOTS; r->made++)
		CU_TRY(cudaEventCreateWithFlags(&r->done[r->made],
						cudaEventDisableTiming),
		       "an event", err);
	return tile_open(n, &r->pool, err);
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

struct upload {
	struct cu_ring *r;
	cudaStream_t stream;
	char *to;
	const char *from;
	size_t bytes;
	cudaError_t failed[THREADS_MAX];
};

/* A piece by thread `self`. */
static void send_piece(void *ctx, uint32_t tile, uint32_t self)
{
	struct upload *u = (struct upload *)ctx;
	const size_t at = tile * SLOT;
	const size_t n = u->bytes - at < SLOT ? u->bytes - at : SLOT;
	const uint32_t slot = self * SLOTS + u->r->next[self]++ % SLOTS;
	char *pin = u->r->pin + slot * SLOT;
	cudaError_t e = cudaEventSynchronize(u->r->done[slot]);

	if (e == cudaSuccess) {
		memcpy(pin, u->from + at, n);
		e = cudaMemcpyAsync(u->to + at, pin, n, cudaMemcpyHostToDevice,
				    u->stream);
	}
	if (e == cudaSuccess)
		e = cudaEventRecord(u->r->done[slot], u->stream);
	if (e != cudaSuccess)
		u->failed[self] = e;
}

int cu_upload(struct be *be, void *dst, const void *src, size_t bytes,
	      struct err *err)
{
	struct upload u = { NULL, be->stream, (char *)dst, (const char *)src,
			    bytes, {} };

	if (!be->ring && ring_open(be, err))
		return -1;
	u.r = be->ring;
	tile_run(u.r->pool, tile_threads(u.r->pool), cu_div_up(bytes, SLOT),
		 send_piece, &u);
	for (uint32_t i = 0; i < THREADS_MAX; i++)
		CU_TRY(u.failed[i], "uploading", err);
	return 0;
}
