#include "trial.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/base/pool.h"
#include "../libfmt/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_MAX 256u
#define PRODUCTS (UINT64_C(1) << 30) /* about a second of one core */

struct rt_trial {
	const struct model *model;
	char *name;
	uint32_t in, out;
	uint32_t step; /* outputs from one that all rows have to the next */
	float *w;      /* [out][in] */
	float *x;      /* [ROWS_MAX][in] */
	double *right; /* [ROWS_MAX][out], only what is compared is set */
};

uint32_t rt_trial_rows(uint32_t i)
{
	static const uint32_t rows[] = { 1, 4, 16, 64, ROWS_MAX };

	return i < sizeof(rows) / sizeof(rows[0]) ? rows[i] : 0;
}

/* Is output n of row r compared? */
static int compared(const struct rt_trial *t, uint32_t r, uint32_t n)
{
	return r == 0 || n % t->step == 0 || n == t->out - 1;
}

/* Output n of every row. */
static int answer(void *ctx, uint32_t n, struct err *err)
{
	struct rt_trial *t = ctx;
	const float *w = t->w + (size_t)n * t->in;

	(void)err;
	for (uint32_t r = 0; r < ROWS_MAX && compared(t, r, n); r++) {
		const float *x = t->x + (size_t)r * t->in;
		double sum = 0;

		for (uint32_t k = 0; k < t->in; k++)
			sum += (double)x[k] * (double)w[k];
		t->right[(size_t)r * t->out + n] = sum;
	}
	return 0;
}

/* Steele, Lea and Flood, "Fast splittable pseudorandom number generators"
 * (2014): good bits from any counter. */
static float made_up(uint64_t i)
{
	uint64_t z = i * UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	z ^= z >> 31;
	return (float)(z >> 40) / (float)(1 << 23) - 1;
}

int rt_trial_open(const struct model *m, const char *name, uint32_t in,
		  uint32_t out, uint32_t threads, struct rt_trial **to,
		  struct err *err)
{
	struct rt_trial *t = mem_alloc(1, sizeof(*t), err);
	struct pool work = { .count = out, .threads = threads, .fn = answer,
			     .ctx = t };
	uint64_t all = (uint64_t)in * out * ROWS_MAX;
	int ret = -1;

	*to = NULL;
	if (!t)
		return -1;
	t->model = m;
	t->in = in;
	t->out = out;
	t->step = (uint32_t)(all / PRODUCTS + 1);
	t->name = mem_text(name, strlen(name), err);
	if (!t->name || rt_weights(m, name, in, out, &t->w, err))
		goto out;
	t->x = mem_alloc((size_t)ROWS_MAX * in, sizeof(*t->x), err);
	t->right = mem_alloc((size_t)ROWS_MAX * out, sizeof(*t->right), err);
	if (!t->x || !t->right)
		goto out;
	for (size_t i = 0; i < (size_t)ROWS_MAX * in; i++)
		t->x[i] = made_up(i + 1);
	if (pool_run(&work, err))
		goto out;
	*to = t;
	ret = 0;
out:
	if (ret)
		rt_trial_close(t);
	return ret;
}

void rt_trial_close(struct rt_trial *t)
{
	if (!t)
		return;
	free(t->name);
	free(t->w);
	free(t->x);
	free(t->right);
	free(t);
}

/* y is [rows][out] in host memory */
static double distance(const struct rt_trial *t, const float *y, uint32_t rows)
{
	double dd = 0, yy = 0;

	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t n = 0; n < t->out; n++) {
			size_t i = (size_t)r * t->out + n;
			double d;

			if (!compared(t, r, n))
				continue;
			d = (double)y[i] - t->right[i];
			dd += d * d;
			yy += t->right[i] * t->right[i];
		}
	return dd == 0 ? 0 : sqrt(dd / yy);
}

/* Dense weights have no kernel with a name: the device's and the type. */
static void name_kernel(const struct rt_dev *d, const struct rt_linear *l,
			uint32_t rows, char name[48])
{
	if (l->quant)
		snprintf(name, 48, "%s",
			 d->api->qw_kernel(d->be, l->quant, rows));
	else
		snprintf(name, 48, "%s-%s", d->api->name,
			 rt_linear_kernel(d, l, 1));
}

int rt_trial_run(const struct rt_trial *t, const struct rt_dev *d,
		 uint32_t rows, struct rt_trial_result *res, struct err *err)
{
	struct rt_linear l = { .in = t->in };
	struct be_mat x = { .p = NULL }, y = { .p = NULL };
	size_t bytes = (size_t)rows * t->out * sizeof(float);
	float *host = mem_alloc((size_t)rows * t->out, sizeof(*host), err);
	int ret = -1;

	if (!host ||
	    rt_linear_load(d, t->model, t->name, t->in, t->out, &l, err) ||
	    be_mat_new(d->api, d->be, rows, t->in, DT_F32, &x, err) ||
	    be_mat_new(d->api, d->be, rows, t->out, DT_F32, &y, err))
		goto out;
	be_mat_free(d->api, d->be, &l.bias);
	if (d->api->put(d->be, x.p, t->x,
			(size_t)rows * t->in * sizeof(*t->x), err) ||
	    rt_linear_run(d, &l, &x, &y, err) ||
	    d->api->get(d->be, host, y.p, bytes, err))
		goto out;
	name_kernel(d, &l, rows, res->kernel);
	res->rel_error = distance(t, host, rows);
	ret = 0;
out:
	be_mat_free(d->api, d->be, &x);
	be_mat_free(d->api, d->be, &y);
	rt_linear_release(d, &l);
	free(host);
	return ret;
}
