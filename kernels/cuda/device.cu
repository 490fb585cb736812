/* device.cu - a GPU opened: memory, stream and the plug-in's table.
 *
 * The runtime library of CUDA is linked in, and it opens the driver when it is
 * first called: so this plug-in loads where there is no driver, and open says
 * what is missing.  Nothing outside this plug-in sees a symbol but be_plugin. */
#include "cu.cuh"

#include <new>
#include <stdio.h>
#include <string.h>

int cu_fail(cudaError_t e, const char *what, struct err *err)
{
	(void)cudaGetLastError(); /* one that can be got over is cleared */
	return err_set(err,
		       e == cudaErrorMemoryAllocation ? ERR_RESOURCE
						      : ERR_UNSUP,
		       "GPU: %s: %s", what, cudaGetErrorString(e));
}

int cu_alloc(size_t bytes, const char *what, void **p, struct err *err)
{
	size_t avail = 0, total = 0;
	cudaError_t e = cudaMalloc(p, bytes ? bytes : 1);

	if (e == cudaSuccess)
		return 0;
	*p = NULL;
	if (e != cudaErrorMemoryAllocation)
		return cu_fail(e, what, err);
	(void)cudaGetLastError();
	(void)cudaMemGetInfo(&avail, &total);
	return err_set(err, ERR_RESOURCE,
		       "not enough GPU memory for %s: %zu MiB needed, %zu of "
		       "%zu MiB free",
		       what, (bytes >> 20) + 1, avail >> 20, total >> 20);
}

int cu_scratch_get(struct be *be, enum cu_scratch use, size_t bytes, void **p,
		   struct err *err)
{
	if (bytes > be->size[use]) {
		if (be->recording)
			return err_set(err, ERR_UNSUP, "recording what has "
				       "not run before");
		be->moved++;
		/* cudaFree waits for what still uses the old one */
		cudaFree(be->scratch[use]);
		be->size[use] = 0;
		if (cu_alloc(bytes, "work space", &be->scratch[use], err))
			return -1;
		be->size[use] = bytes;
	}
	*p = be->scratch[use];
	return 0;
}

/* ---- activations as f16 ---- */

const __half *cu_x16_find(const struct be *be, const struct be_mat *x,
			  uint64_t order, struct cu_x16_form form)
{
	const struct cu_x16_of *o = &be->x16;

	if (o->p && o->p == x->p && o->ld == x->ld && o->rows == x->rows &&
	    o->cols == x->cols && o->order == order &&
	    o->planes == form.planes)
		return (const __half *)be->scratch[CU_X16];
	return NULL;
}

struct cu_x16_form cu_x16_dense(const struct be *be, uint32_t m, uint32_t k)
{
	uint32_t rows = m <= 16 ? 16 : m <= 32 ? 32 : m <= 64 ? 64
				: cu_div_up(m, 256) * 256;

	return { m, k, be->wgmma && m > 8 && k % 64 == 0 ? rows : 0, 0 };
}

struct cu_x16_form cu_x16_form(const struct be *be, uint32_t m, uint32_t k)
{
	struct cu_x16_form form = cu_x16_dense(be, m, k);

	form.planes = be->wgmma && m <= CU_PLANES_ROWS && k % 128 == 0;
	return form;
}

__half *cu_x16_room(struct be *be, const struct be_mat *x, uint64_t order,
		    struct cu_x16_form form, struct err *err)
{
	uint32_t m = x->rows;
	/* planes have heads */
	size_t rows = m <= 8 ? 9 : m <= 16 ? 16 : m <= 32 ? 32
				 : m <= 64 ? 64 : cu_div_up(m, 256) * 256;
	size_t had = be->size[CU_X16];
	cudaError_t e = cudaSuccess;
	void *p;

	be->x16.p = NULL;
	if (cu_scratch_get(be, CU_X16, rows * x->cols * 2, &p, err))
		return NULL;
	/* rows that nobody fills are read, if not used */
	if (be->size[CU_X16] != had)
		e = cudaMemsetAsync(p, 0, be->size[CU_X16], be->stream);
	if (e != cudaSuccess) {
		cu_fail(e, "work space", err);
		return NULL;
	}
	be->x16 = { (const char *)x->p, x->ld, m, x->cols, order, form.planes };
	return (__half *)p;
}

void cu_wrote_bytes(struct be *be, const void *p, size_t bytes)
{
	struct cu_x16_of *o = &be->x16;
	const char *from = (const char *)p;

	/* the last row need not have the whole pitch */
	if (o->p && from < o->p + o->ld * o->rows * sizeof(float) &&
	    o->p < from + bytes)
		o->p = NULL;
}

void cu_wrote(struct be *be, const struct be_mat *m)
{
	cu_wrote_bytes(be, m->p, (size_t)m->ld * m->rows * (m->type == DT_F64 ? 8 : 4));
}

/* Does this plug-in hold machine code, or PTX that the driver can compile, for
 * the device? */
__global__ void probe_kernel(void)
{
}

static int usable(int device, struct cudaDeviceProp *prop, struct err *err)
{
	struct cudaFuncAttributes attr;
	cudaError_t e;

	CU_TRY(cudaGetDeviceProperties(prop, device), "device properties",
	       err);
	if (prop->major * 10 + prop->minor < 75)
		return err_set(err, ERR_UNSUP,
			       "%s is of compute capability %d.%d, at least "
			       "7.5 is needed",
			       prop->name, prop->major, prop->minor);
	CU_TRY(cudaSetDevice(device), prop->name, err);
	e = cudaFuncGetAttributes(&attr, (const void *)probe_kernel);
	if (e != cudaSuccess) {
		(void)cudaGetLastError();
		return err_set(err, ERR_UNSUP,
			       "this plug-in was not built for %s (compute "
			       "capability %d.%d): %s",
			       prop->name, prop->major, prop->minor,
			       cudaGetErrorString(e));
	}
	return 0;
}

/* The device asked for, or the first that is usable. */
static int pick(int32_t want, int *device, struct cudaDeviceProp *prop,
		struct err *err)
{
	int count = 0;
	cudaError_t e = cudaGetDeviceCount(&count);

	if (e != cudaSuccess || !count)
		return err_set(err, ERR_UNSUP, "no GPU: %s",
			       e == cudaErrorInsufficientDriver
				       ? "no NVIDIA driver, or one too old"
				       : cudaGetErrorString(
						 e ? e : cudaErrorNoDevice));
	if (want >= count)
		return err_set(err, ERR_UNSUP, "no GPU %d, there %s %d",
			       (int)want, count == 1 ? "is" : "are", count);
	if (want >= 0) {
		*device = want;
		return usable(want, prop, err);
	}
	for (*device = 0; *device < count; ++*device)
		if (!usable(*device, prop, err))
			return 0;
	return -1; /* err tells of the last */
}

static void cu_close(struct be *be)
{
	if (!be)
		return;
	if (be->stream)
		(void)cudaStreamSynchronize(be->stream);
	cu_blas_close(be->blas);
	cu_ring_close(be->ring);
	cu_reply_close(be);
	for (int i = 0; i < CU_SCRATCHES; i++)
		cudaFree(be->scratch[i]);
	if (be->stream)
		cudaStreamDestroy(be->stream);
	delete be;
}

static void fill(struct be *be, const struct cudaDeviceProp *p)
{
	be->cc = p->major * 10 + p->minor;
	be->sms = p->multiProcessorCount;
	be->smem = p->sharedMemPerBlockOptin;
	be->pdl = be->cc >= 90;
}

static void describe(struct be *be, const struct cudaDeviceProp *p)
{
	snprintf(be->text, sizeof(be->text),
		 "%.80s (GPU %d, sm_%d, %d multiprocessors, %zu MiB), %s",
		 p->name, be->device, be->cc, be->sms,
		 (size_t)p->totalGlobalMem >> 20,
		 be->generic ? "generic kernels" :
		 be->wgmma ? "mma and wgmma kernels" : "mma kernels");
}

static int cu_open(const struct be_open *how, struct be **out, struct err *err)
{
	struct cudaDeviceProp prop;
	struct be *be = NULL;
	int ret = -1;

	*out = NULL;
	if (how->kernel && strcmp(how->kernel, "generic") &&
	    strcmp(how->kernel, "mma")) {
		err_set(err, ERR_USAGE,
			"no kernel \"%s\" on device cuda (generic, mma)",
			how->kernel);
		goto out;
	}
	be = new (std::nothrow) struct be();
	if (!be) {
		err_set(err, ERR_RESOURCE, "not enough memory");
		goto out;
	}
	be->threads = how->threads;
	be->generic = how->kernel && !strcmp(how->kernel, "generic");
	if (pick(how->device, &be->device, &prop, err))
		goto out;
	fill(be, &prop);
	if (cudaStreamCreateWithFlags(&be->stream, cudaStreamNonBlocking) !=
	    cudaSuccess) {
		err_set(err, ERR_UNSUP, "%s: no stream: %s", prop.name,
			cudaGetErrorString(cudaGetLastError()));
		goto out;
	}
	be->wgmma = !how->kernel && cu_wgmma_there(be);
	describe(be, &prop);
	*out = be;
	ret = 0;
out:
	if (ret)
		cu_close(be);
	return ret;
}

static const char *cu_describe(const struct be *be)
{
	return be->text;
}

static int api_avail(struct be *be, uint64_t *bytes, struct err *err)
{
	size_t avail = 0, total = 0;

	(void)be;
	CU_TRY(cudaMemGetInfo(&avail, &total), "asking for the free memory",
	       err);
	*bytes = avail;
	return 0;
}

static int api_alloc(struct be *be, size_t bytes, void **p, struct err *err)
{
	(void)be;
	return cu_alloc(bytes, "an array", p, err);
}

static void api_free(struct be *be, void *p)
{
	be->x16.p = NULL; /* its address may come back as another matrix's */
	cudaFree(p);
}

static int copy(struct be *be, void *dst, const void *src, size_t bytes,
		enum cudaMemcpyKind kind, struct err *err)
{
	if (bytes)
		CU_TRY(cudaMemcpyAsync(dst, src, bytes, kind, be->stream),
		       "copying", err);
	CU_TRY(cudaStreamSynchronize(be->stream), "waiting for the device",
	       err);
	return 0;
}

/* From here on the ring is worth its threads. */
#define LARGE ((size_t)1 << 20)

static int api_put(struct be *be, void *dst, const void *src, size_t bytes,
		   struct err *err)
{
	cu_wrote_bytes(be, dst, bytes);
	if (bytes < LARGE)
		return copy(be, dst, src, bytes, cudaMemcpyHostToDevice, err);
	if (cu_upload(be, dst, src, bytes, err))
		return -1;
	return copy(be, NULL, NULL, 0, cudaMemcpyHostToDevice, err);
}

static int api_get(struct be *be, void *dst, const void *src, size_t bytes,
		   struct err *err)
{
	return copy(be, dst, src, bytes, cudaMemcpyDeviceToHost, err);
}

/* The one symbol of the plug-in. */
extern "C" const struct be_api *be_plugin(void);
extern "C" const struct be_api *be_plugin(void)
{
	/* in the order of struct be_api: C++17 has no designated
	 * initializers */
	static const struct be_api api = {
		BE_ABI, sizeof(struct be_api), "cuda",
		cu_open, cu_close, cu_describe,
		api_avail, api_alloc, api_free, api_put, api_get,
		cu_gemm, cu_gather,
		cu_qw_new, cu_qw_pack, cu_qw_free, cu_qw_kernel, cu_qgemm,
		cu_embed, cu_rmsnorm, cu_store, cu_attend, cu_swiglu, cu_add,
		cu_topk,
		cu_syrk, cu_factor, cu_grid, cu_sweep, cu_refine,
		cu_step_new, cu_step_free, cu_step,
		cu_record, cu_recorded, cu_replay, cu_graph_free,
	};

	return &api;
}
