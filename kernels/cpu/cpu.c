/* cpu.c - the table of the CPU backend, and its opening. */
#include "cpu.h"

#include "../../libfmt/base/err.h"
#include "../../libfmt/base/mem.h"
#include "host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Whether this machine runs a set of kernels. */
static int runs(const struct cpu_isa *isa)
{
#if defined(__x86_64__)
	/* every CPU with AVX2 and FMA has F16C */
	int avx2 = __builtin_cpu_supports("avx2") &&
		   __builtin_cpu_supports("fma");

	int avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
		     __builtin_cpu_supports("avx512bw") &&
		     __builtin_cpu_supports("avx512vl") &&
		     __builtin_cpu_supports("avx512dq");

	if (isa == &cpu_isa_vnni)
		return avx512 && __builtin_cpu_supports("avx512vnni");
	if (isa == &cpu_isa_avx512)
		return avx512;
	if (isa == &cpu_isa_avx2)
		return avx2;
#endif
	return isa == &cpu_isa_generic;
}

/* All kernels of this build, the best first. */
static const struct cpu_isa *const isas[] = {
#if defined(__x86_64__)
	&cpu_isa_vnni,
	&cpu_isa_avx512,
	&cpu_isa_avx2,
#endif
	&cpu_isa_generic,
};
#define ISAS (sizeof(isas) / sizeof(isas[0]))

static int choose(const char *name, const struct cpu_isa **out,
		  struct err *err)
{
	char list[64] = "";
	size_t n = 0;

	for (size_t i = 0; i < ISAS; i++) {
		if (name && strcmp(name, isas[i]->name))
			continue;
		if (runs(isas[i])) {
			*out = isas[i];
			return 0;
		}
		if (name)
			return err_set(err, ERR_UNSUP,
				       "this CPU does not run kernel \"%s\"",
				       name);
	}
	for (size_t i = 0; i < ISAS && n < sizeof(list); i++)
		n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s",
				      i ? ", " : "", isas[i]->name);
	return err_set(err, ERR_USAGE, "no kernel \"%s\" on device cpu (%s)",
		       name, list);
}

const char *be_cpu_kernel(uint32_t i)
{
	for (size_t k = 0; k < ISAS; k++)
		if (runs(isas[k]) && i-- == 0)
			return isas[k]->name;
	return NULL;
}

static int cpu_open(const struct be_open *how, struct be **out,
		    struct err *err)
{
	const struct cpu_isa *isa = NULL;
	struct be *be;

	*out = NULL;
	if (choose(how->kernel, &isa, err))
		return -1;
	be = mem_alloc(1, sizeof(*be), err);
	if (!be)
		return -1;
	be->isa = isa;
	if (tile_open(how->threads, &be->pool, err)) {
		free(be);
		return -1;
	}
	be->threads = tile_threads(be->pool);
	snprintf(be->describe, sizeof(be->describe), "cpu %s, %u thread%s",
		 isa->name, be->threads, be->threads == 1 ? "" : "s");
	*out = be;
	return 0;
}

static void cpu_close(struct be *be)
{
	if (!be)
		return;
	tile_close(be->pool);
	cpu_host_free(be, be->own_mem);
	cpu_host_free(be, be->all_mem);
	free(be);
}

static const char *cpu_describe(const struct be *be)
{
	return be->describe;
}

/* Half as much again, so that slowly growing needs (a context) are cheap. */
static int grow(struct be *be, char **mem, size_t *have, size_t need)
{
	struct err unused;
	void *p = NULL;

	if (need <= *have)
		return 0;
	cpu_host_free(be, *mem);
	*mem = NULL;
	*have = 0;
	if (need > SIZE_MAX / 2 ||
	    cpu_host_alloc(be, need + need / 2, &p, &unused))
		return -1;
	*mem = p;
	*have = need + need / 2;
	return 0;
}

int cpu_scratch(struct be *be, size_t own, size_t all, struct err *err)
{
	/* Threads do not share a cache line, nor a page of 4 KiB. */
	size_t each = (own + 4095) & ~(size_t)4095, total;
	size_t have = be->own * be->threads;

	if (mem_mul(each, be->threads, &total))
		total = SIZE_MAX;
	if (own > be->own) {
		be->own = 0;
		if (grow(be, &be->own_mem, &have, total))
			goto fail;
		be->own = have / be->threads & ~(size_t)4095;
	}
	total = all;
	if (!grow(be, &be->all_mem, &be->all, all))
		return 0;
fail:
	return err_set(err, ERR_RESOURCE,
		       "not enough memory for %zu bytes of scratch", total);
}

void *cpu_own(const struct be *be, uint32_t self)
{
	return be->own_mem + self * be->own;
}

const struct be_api be_cpu = {
	.abi = BE_ABI,
	.size = sizeof(struct be_api),
	.name = "cpu",
	.open = cpu_open,
	.close = cpu_close,
	.describe = cpu_describe,
	.avail = cpu_host_avail,
	.alloc = cpu_host_alloc,
	.free = cpu_host_free,
	.put = cpu_host_put,
	.get = cpu_host_get,
	.gemm = cpu_gemm,
	.gather = cpu_gather,
	.qw_new = cpu_qw_new,
	.qw_free = cpu_qw_free,
	.qw_kernel = cpu_qw_kernel,
	.qgemm = cpu_qgemm,
	.embed = cpu_embed,
	.rmsnorm = cpu_rmsnorm,
	.store = cpu_store,
	.attend = cpu_attend,
	.swiglu = cpu_swiglu,
	.add = cpu_add,
	.topk = cpu_topk,
	.syrk = cpu_syrk,
	.factor = cpu_factor,
	.grid = cpu_grid,
	.sweep = cpu_sweep,
	.refine = cpu_refine,
};
