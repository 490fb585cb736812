#include "acts.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/io.h"
#include "../libfmt/base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Bytes on their way between the device and the file. */
#define STAGE ((size_t)1 << 20)

static uint64_t window_bytes(const struct gq_acts *a, uint32_t cols)
{
	return (uint64_t)a->rows * cols * sizeof(float);
}

static int open_file(struct gq_acts *a, uint32_t windows, const char *dir,
		     struct err *err)
{
	uint64_t bytes;

	a->stage = mem_alloc(STAGE, 1, err);
	if (!a->stage)
		return -1;
	if (mem_mul64(window_bytes(a, a->cols), windows, &bytes))
		return err_set(err, ERR_RESOURCE, "too many activations");
	if (io_scratch(dir, bytes, &a->fd, err))
		return err_ctx(err, "scratch file for activations");
	a->in_file = true;
	return 0;
}

int gq_acts_init(struct gq_acts *a, const struct rt_dev *d, uint32_t windows,
		 const char *dir, struct err *err)
{
	uint32_t n = dir ? 1 : windows;

	a->dev = d;
	a->in_file = false;
	a->stage = NULL;
	a->all = (struct be_mat){ 0 };
	if (a->rows && n > UINT32_MAX / a->rows) {
		err_set(err, ERR_RESOURCE, "%u windows of %u rows are too "
			"many", n, a->rows);
		goto fail;
	}
	if ((dir && open_file(a, windows, dir, err)) ||
	    be_mat_new(d->api, d->be, n * a->rows, a->cols, DT_F32, &a->all,
		       err))
		goto fail;
	return 0;
fail:
	gq_acts_release(a);
	return -1;
}

void gq_acts_release(struct gq_acts *a)
{
	if (a->dev)
		be_mat_free(a->dev->api, a->dev->be, &a->all);
	if (a->in_file)
		close(a->fd);
	free(a->stage);
	memset(a, 0, sizeof(*a));
}

/* The whole of a window between device and file, a piece at a time. */
static int move(struct gq_acts *a, uint32_t i, const struct be_mat *m,
		bool in, struct err *err)
{
	const struct be_api *api = a->dev->api;
	uint64_t at = i * window_bytes(a, a->cols);
	uint64_t n = window_bytes(a, m->cols);
	char *p = m->p;

	for (uint64_t k = 0; k < n; k += STAGE) {
		size_t piece = n - k < STAGE ? (size_t)(n - k) : STAGE;

		if (in ? io_pread(a->fd, a->stage, piece, at + k, err) ||
			 api->put(a->dev->be, p + k, a->stage, piece, err) :
			 api->get(a->dev->be, a->stage, p + k, piece, err) ||
			 io_pwrite(a->fd, a->stage, piece, at + k, err))
			return err_ctx(err, "scratch file for activations");
	}
	return 0;
}

int gq_acts_window(struct gq_acts *a, uint32_t i, uint32_t cols, bool fill,
		   struct be_mat *out, struct err *err)
{
	size_t first = a->in_file ? 0 : (size_t)i * a->rows * a->cols;

	*out = (struct be_mat){ .p = (float *)a->all.p + first,
				.rows = a->rows, .cols = cols, .ld = cols,
				.type = DT_F32 };
	return a->in_file && fill ? move(a, i, out, true, err) : 0;
}

int gq_acts_save(struct gq_acts *a, uint32_t i, const struct be_mat *window,
		 struct err *err)
{
	return a->in_file ? move(a, i, window, false, err) : 0;
}
