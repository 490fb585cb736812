#include "hess.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"
#include "method.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rows that travel between host and device at a time. */
#define HESS_ROWS 64

int gq_hess_init(struct gq_hess *h, const struct rt_dev *d, uint32_t n,
		 struct err *err)
{
	double *zero = NULL;
	size_t row = (size_t)n * sizeof(*zero);
	struct mem_part part[] = {
		{ (void **)&h->order, n, sizeof(*h->order) },
		{ (void **)&h->dead, n, sizeof(*h->dead) },
	};
	int ret = -1;

	memset(h, 0, sizeof(*h));
	h->n = n;
	h->mem = mem_block(part, 2, err);
	zero = mem_alloc(n, sizeof(*zero), err);
	if (!h->mem || !zero)
		goto out;
	if (be_mat_new(d->api, d->be, n, n, DT_F64, &h->h, err))
		goto out;
	for (uint32_t i = 0; i < n; i++)
		if (d->api->put(d->be, (char *)h->h.p + i * row, zero, row,
				err))
			goto out;
	ret = 0;
out:
	free(zero);
	if (ret)
		gq_hess_release(h, d);
	return ret;
}

void gq_hess_release(struct gq_hess *h, const struct rt_dev *d)
{
	be_mat_free(d->api, d->be, &h->h);
	be_mat_free(d->api, d->be, &h->u);
	free(h->mem);
	memset(h, 0, sizeof(*h));
}

int gq_hess_add(struct gq_hess *h, const struct rt_dev *d,
		const struct be_mat *x, double alpha, struct err *err)
{
	return d->api->syrk(d->be, x, alpha, &h->h, err);
}

struct activity {
	double value;
	uint32_t column;
};

/* Falling value, then rising column: a total order, so that qsort's own is of
 * no consequence. */
static int by_activity(const void *a, const void *b)
{
	const struct activity *x = a, *y = b;

	if (x->value != y->value)
		return x->value > y->value ? -1 : 1;
	return x->column < y->column ? -1 : x->column > y->column;
}

/* Mark dead columns and decide the order.  A NaN or infinity anywhere in the
 * inputs shows on the diagonal. */
static int look(struct gq_hess *h, double *host, const struct gq_params *p,
		struct err *err)
{
	struct activity *act = mem_alloc(h->n, sizeof(*act), err);

	if (!act)
		return -1;
	h->dead_count = 0;
	for (uint32_t k = 0; k < h->n; k++) {
		double *v = &host[(size_t)k * h->n + k];

		if (!isfinite(*v)) {
			free(act);
			return err_set(err, ERR_CHECK,
				       "the calibration inputs of feature %u "
				       "are not finite",
				       k);
		}
		h->dead[k] = *v == 0.0;
		h->dead_count += h->dead[k];
		if (h->dead[k])
			*v = 1.0;
		act[k] = (struct activity){ *v, k };
	}
	if (p->desc_act)
		qsort(act, h->n, sizeof(*act), by_activity);
	for (uint32_t i = 0; i < h->n; i++)
		h->order[i] = act[i].column;
	free(act);
	return 0;
}

/* H in the order of processing, back on the device. */
static int reorder(struct gq_hess *h, const struct rt_dev *d,
		   const double *host, struct err *err)
{
	double *rows = mem_alloc((size_t)HESS_ROWS * h->n, sizeof(*rows), err);
	int ret = -1;

	if (!rows)
		return -1;
	for (uint32_t i = 0; i < h->n; i += HESS_ROWS) {
		uint32_t m = h->n - i < HESS_ROWS ? h->n - i : HESS_ROWS;

		for (uint32_t r = 0; r < m; r++) {
			const double *from =
				host + (size_t)h->order[i + r] * h->n;
			double *to = rows + (size_t)r * h->n;

			for (uint32_t c = 0; c < h->n; c++)
				to[c] = from[h->order[c]];
		}
		if (d->api->put(d->be, (double *)h->h.p + (size_t)i * h->n,
				rows, (size_t)m * h->n * sizeof(*rows), err))
			goto out;
	}
	ret = 0;
out:
	free(rows);
	return ret;
}

/* U, with as much damping as it takes. */
static int factor(struct gq_hess *h, const struct rt_dev *d,
		  const struct gq_params *p, struct err *err)
{
	struct be_factor f = { .h = &h->h, .u = &h->u, .damp = p->damp };

	while (d->api->factor(d->be, &f, err)) {
		if (err->code != ERR_CHECK)
			return -1;
		if (p->damp_step <= 0 || f.damp + p->damp_step >= 1)
			return err_set(err, ERR_CHECK,
				       "the Hessian is not positive definite "
				       "with a damping of %g",
				       f.damp);
		f.damp += p->damp_step;
	}
	h->damp = f.damp;
	return 0;
}

int gq_hess_prepare(struct gq_hess *h, const struct rt_dev *d,
		    const struct gq_params *p, struct err *err)
{
	double *host = NULL;
	size_t count;
	int ret = -1;

	if (mem_mul(h->n, h->n, &count))
		return err_set(err, ERR_RESOURCE, "%u features are too many",
			       h->n);
	host = mem_alloc(count, sizeof(*host), err);
	if (!host ||
	    d->api->get(d->be, host, h->h.p, count * sizeof(*host), err))
		goto out;
	if (look(h, host, p, err))
		goto out;
	if ((p->desc_act || h->dead_count) && reorder(h, d, host, err))
		goto out;
	free(host);
	host = NULL;
	if (be_mat_new(d->api, d->be, h->n, h->n, DT_F32, &h->u, err))
		goto out;
	if (factor(h, d, p, err))
		goto out;
	be_mat_free(d->api, d->be, &h->h);
	ret = 0;
out:
	free(host);
	return ret;
}
