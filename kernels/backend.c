#include "backend.h"

#include "../libfmt/base/err.h"
#include "tile.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef GPTQ_LIBDIR
#define GPTQ_LIBDIR "/usr/local/lib/gptq"
#endif
#define PLUGIN "gptq-cuda.so"

size_t be_elem(enum dtype t)
{
	switch (t) {
	case DT_F64:
		return 8;
	case DT_F32:
		return 4;
	case DT_F16:
	case DT_BF16:
		return 2;
	case DT_I8:
		return 1;
	default:
		return 0;
	}
}

static struct be_mat shifted(const struct be_mat *m, size_t elements)
{
	struct be_mat v = *m;

	if (elements)
		v.p = (char *)m->p + elements * be_elem(m->type);
	return v;
}

struct be_mat be_rows(const struct be_mat *m, uint32_t r0, uint32_t n)
{
	struct be_mat v = shifted(m, (size_t)r0 * m->ld);

	v.rows = n;
	return v;
}

struct be_mat be_cols(const struct be_mat *m, uint32_t c0, uint32_t n)
{
	struct be_mat v = shifted(m, c0);

	v.cols = n;
	return v;
}

int be_mat_new(const struct be_api *api, struct be *be, uint32_t rows,
	       uint32_t cols, enum dtype type, struct be_mat *m,
	       struct err *err)
{
	size_t elem = be_elem(type), bytes;
	uint64_t n = (uint64_t)rows * cols;

	memset(m, 0, sizeof(*m));
	if (!elem)
		return err_set(err, ERR_UNSUP,
			       "no matrices of type %d on a device", (int)type);
	if (n > SIZE_MAX / elem)
		return err_set(err, ERR_RESOURCE,
			       "not enough memory for a matrix [%u][%u]", rows,
			       cols);
	bytes = (size_t)n * elem;
	if (api->alloc(be, bytes, &m->p, err))
		return -1;
	m->rows = rows;
	m->cols = cols;
	m->ld = cols;
	m->type = type;
	return 0;
}

void be_mat_free(const struct be_api *api, struct be *be, struct be_mat *m)
{
	if (m->p)
		api->free(be, m->p);
	memset(m, 0, sizeof(*m));
}

/* "cuda" gives -1, "cuda:N" gives N, all else -2. */
static int32_t cuda_index(const char *name)
{
	char *end;
	long n;

	if (strcmp(name, "cuda") == 0)
		return -1;
	if (strncmp(name, "cuda:", 5) || name[5] < '0' || name[5] > '9')
		return -2;
	n = strtol(name + 5, &end, 10);
	return *end || n > 1023 ? -2 : (int32_t)n;
}

int be_device_valid(const char *name)
{
	return strcmp(name, "auto") == 0 || strcmp(name, "cpu") == 0 ||
	       strcmp(name, "ref") == 0 || cuda_index(name) > -2;
}

/* The plug-in's path: beside the program (which = 0), then where `make
 * install` puts it (which = 1).  -1 when there is no such path. */
static int plugin_path(int which, char *buf, size_t size)
{
	ssize_t n;
	char *slash;
	int len;

	if (which == 1) {
		len = snprintf(buf, size, "%s/%s", GPTQ_LIBDIR, PLUGIN);
		return len < 0 || (size_t)len >= size ? -1 : 0;
	}
	n = readlink("/proc/self/exe", buf, size - 1);
	if (n <= 0)
		return -1;
	buf[n] = '\0';
	slash = strrchr(buf, '/');
	if (!slash || (size_t)(slash + 1 - buf) + sizeof(PLUGIN) > size)
		return -1;
	memcpy(slash + 1, PLUGIN, sizeof(PLUGIN));
	return 0;
}

/* Ask an opened plug-in for its table; NULL with the reason in err. */
static const struct be_api *plugin_table(void *lib, const char *path,
					 struct err *err)
{
	const struct be_api *(*entry)(void);
	const struct be_api *api = NULL;
	void *sym = dlsym(lib, "be_plugin");

	/* POSIX lets dlsym return functions; ISO C has no such cast. */
	memcpy(&entry, &sym, sizeof(entry));
	if (sym)
		api = entry();
	if (!api) {
		err_set(err, ERR_UNSUP, "%s is no plug-in of this program",
			path);
		return NULL;
	}
	if (api->abi != BE_ABI || api->size != sizeof(*api)) {
		err_set(err, ERR_UNSUP,
			"%s is of another version (table %u of %u bytes, "
			"expected %u of %zu)",
			path, api->abi, api->size, BE_ABI, sizeof(*api));
		return NULL;
	}
	return api;
}

/* Load the plug-in.  It stays loaded until the program ends: its table is
 * handed out. */
static int plugin_load(const struct be_api **out, struct err *err)
{
	char path[4096];
	void *lib;

	for (int which = 0; which < 2; which++) {
		if (plugin_path(which, path, sizeof(path)) ||
		    access(path, F_OK))
			continue;
		lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
		if (!lib)
			return err_set(err, ERR_UNSUP, "%s", dlerror());
		*out = plugin_table(lib, path, err);
		if (*out)
			return 0;
		dlclose(lib);
		return -1;
	}
	return err_set(err, ERR_UNSUP,
		       "%s is neither beside the program nor in %s", PLUGIN,
		       GPTQ_LIBDIR);
}

static int open_cuda(int32_t device, uint32_t threads, const char *kernel,
		     const struct be_api **api, struct be **be,
		     struct err *err)
{
	struct be_open how = { threads, device, kernel };

	if (plugin_load(api, err))
		return -1;
	return (*api)->open(&how, be, err);
}

static void say(char why[256], const char *what, const struct be_api *api,
		const struct be *be, const char *reason)
{
	if (why)
		snprintf(why, 256, "%s: %.100s%s%.120s", what,
			 api->describe(be), reason ? "; no GPU: " : "",
			 reason ? reason : "");
}

int be_select(const char *device, uint32_t threads, const char *kernel,
	      const struct be_api **api, struct be **be, char why[256],
	      struct err *err)
{
	struct be_open how = { threads ? threads : tile_cores(), -1, kernel };
	int is_auto = strcmp(device, "auto") == 0;
	int32_t index = is_auto ? -1 : cuda_index(device);
	struct err gpu = { 0, "" };

	*api = NULL;
	*be = NULL;
	if (!be_device_valid(device))
		return err_set(err, ERR_USAGE,
			       "no device \"%s\" (auto, cpu, cuda, cuda:N, "
			       "ref)", device);
	if (index > -2) {
		if (!open_cuda(index, how.threads, kernel, api, be, &gpu)) {
			say(why, device, *api, *be, NULL);
			return 0;
		}
		/* A kernel named by hand may be one of the CPU's. */
		if (!is_auto) {
			*err = gpu;
			*api = NULL;
			return err_ctx(err, "device %s", device);
		}
	}
	*api = strcmp(device, "ref") == 0 ? &be_ref : &be_cpu;
	if ((*api)->open(&how, be, err)) {
		*api = NULL;
		return -1;
	}
	say(why, device, *api, *be, is_auto ? gpu.msg : NULL);
	return 0;
}
