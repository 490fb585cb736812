#include "drift.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <stdlib.h>

/* Tokens at a time: bounds the copies that are turned over on the host. */
#define CHUNK 256
#define TURN 16 /* columns at a time, a cache line of them */

int gq_drift_init(struct gq_drift *g, const struct rt_dev *d, uint32_t n,
		  struct err *err)
{
	float *zero = mem_alloc(n, sizeof(*zero), err);
	int ret = -1;

	*g = (struct gq_drift){ .n = n };
	if (!zero || be_mat_new(d->api, d->be, n, n, DT_F32, &g->sum, err))
		goto out;
	for (uint32_t r = 0; r < n; r++)
		if (d->api->put(d->be, (float *)g->sum.p + (size_t)r * n,
				zero, n * sizeof(*zero), err))
			goto out;
	ret = 0;
out:
	free(zero);
	if (ret)
		gq_drift_release(g, d);
	return ret;
}

void gq_drift_settle(struct gq_drift *g, const struct rt_dev *d)
{
	be_mat_free(d->api, d->be, &g->sum);
}

void gq_drift_release(struct gq_drift *g, const struct rt_dev *d)
{
	be_mat_free(d->api, d->be, &g->sum);
	be_mat_free(d->api, d->be, &g->back);
	*g = (struct gq_drift){ 0 };
}

/* turned [cols][rows] = (full - own)^T, both [rows][cols] */
static void turn(const float *full, const float *own, size_t rows,
		 size_t cols, float *turned)
{
	for (size_t c0 = 0; c0 < cols; c0 += TURN)
		for (size_t r = 0; r < rows; r++)
			for (size_t c = c0; c < c0 + TURN && c < cols; c++)
				turned[c * rows + r] = full[r * cols + c] -
						       own[r * cols + c];
}

/* The devices multiply by transposed matrices on the right only, so the
 * difference is turned over on the way through the host. */
int gq_drift_add(struct gq_drift *g, const struct rt_dev *d,
		 const struct be_mat *const pair[2], float alpha,
		 struct err *err)
{
	const size_t room = (size_t)CHUNK * g->n;
	float *full = mem_alloc(3 * room, sizeof(*full), err);
	float *own = full + room, *turned = own + room;
	struct be_mat diff = { 0 };
	int ret = -1;

	if (!full ||
	    be_mat_new(d->api, d->be, g->n, CHUNK, DT_F32, &diff, err))
		goto out;
	for (uint32_t r = 0; r < pair[1]->rows; r += CHUNK) {
		uint32_t left = pair[1]->rows - r;
		uint32_t m = left < CHUNK ? left : CHUNK;
		size_t bytes = (size_t)m * g->n * sizeof(*full);
		struct be_mat from = be_rows(pair[0], r, m);
		struct be_mat x = be_rows(pair[1], r, m);
		struct be_mat a = { diff.p, g->n, m, m, DT_F32 };
		struct be_gemm mul = { .a = &a, .b = &x, .c = &g->sum,
				       .alpha = alpha, .beta = 1 };

		if (d->api->get(d->be, full, from.p, bytes, err) ||
		    d->api->get(d->be, own, x.p, bytes, err))
			goto out;
		turn(full, own, m, g->n, turned);
		if (d->api->put(d->be, diff.p, turned, bytes, err) ||
		    d->api->gemm(d->be, &mul, err))
			goto out;
	}
	ret = 0;
out:
	free(full);
	be_mat_free(d->api, d->be, &diff);
	return ret;
}

/* D with rows and columns in order, into `back`. */
static int reorder(const struct gq_drift *g, const struct rt_dev *d,
		   const uint32_t *order, struct err *err)
{
	size_t n = g->n, bytes = n * sizeof(float);
	float *row = mem_alloc(2 * n, sizeof(*row), err), *put = row + n;
	int ret = -1;

	if (!row)
		return -1;
	for (size_t r = 0; r < n; r++) {
		if (d->api->get(d->be, row, (const float *)g->sum.p +
				order[r] * n, bytes, err))
			goto out;
		for (size_t i = 0; i < n; i++)
			put[i] = row[order[i]];
		if (d->api->put(d->be, (float *)g->back.p + r * n, put, bytes,
				err))
			goto out;
	}
	ret = 0;
out:
	free(row);
	return ret;
}

/* D H^-1 = (D U^T) U */
int gq_drift_prepare(struct gq_drift *g, const struct rt_dev *d,
		     const uint32_t *order, const struct be_mat *u,
		     struct err *err)
{
	struct be_mat half = { 0 };
	struct be_gemm first = { .a = &g->back, .b = u, .c = &half,
				 .alpha = 1, .trans_b = 1 };
	struct be_gemm second = { .a = &half, .b = u, .c = &g->back,
				  .alpha = 1 };
	int ret = -1;

	if (!g->back.p &&
	    be_mat_new(d->api, d->be, g->n, g->n, DT_F32, &g->back, err))
		return -1;
	if (be_mat_new(d->api, d->be, g->n, g->n, DT_F32, &half, err) ||
	    reorder(g, d, order, err) || d->api->gemm(d->be, &first, err) ||
	    d->api->gemm(d->be, &second, err))
		goto out;
	ret = 0;
out:
	be_mat_free(d->api, d->be, &half);
	return ret;
}
