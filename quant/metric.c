#include "metric.h"

#include "../libfmt/base/mem.h"
#include "half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Columns of H at a time. */
#define METRIC_BLOCK 128

struct metric {
	const struct gq_task *task;
	uint32_t rows;
	float *w;              /* host [rows][in]: the rows looked at */
	float *e;              /* host [3][rows][in], in the order of place:
				  W, Q - W, R - W */
	struct be_mat device;  /* the same */
	struct be_mat product; /* F32 [3 * rows][METRIC_BLOCK] */
	float *host;           /* the same */
	struct gq_half half;
};

static void metric_release(struct metric *m)
{
	const struct rt_dev *d = m->task->dev;

	gq_half_release(&m->half);
	be_mat_free(d->api, d->be, &m->device);
	be_mat_free(d->api, d->be, &m->product);
	free(m->w);
	free(m->e);
	free(m->host);
}

static int metric_init(struct metric *m, const struct gq_task *t,
		       struct err *err)
{
	const struct rt_dev *d = t->dev;
	size_t cells;

	memset(m, 0, sizeof(*m));
	m->task = t;
	m->rows = t->out < METRIC_ROWS ? t->out : METRIC_ROWS;
	cells = (size_t)m->rows * t->in;
	m->w = mem_alloc(cells, sizeof(*m->w), err);
	m->e = mem_alloc(3 * cells, sizeof(*m->e), err);
	m->host = mem_alloc((size_t)3 * m->rows * METRIC_BLOCK,
			    sizeof(*m->host), err);
	return !m->w || !m->e || !m->host ||
	       be_mat_new(d->api, d->be, 3 * m->rows, t->in, DT_F32,
			  &m->device, err) ||
	       be_mat_new(d->api, d->be, 3 * m->rows, METRIC_BLOCK, DT_F32,
			  &m->product, err) ||
	       gq_half_init(&m->half, d, t->hess, METRIC_BLOCK, err) ? -1 : 0;
}

/* The i-th row that is looked at. */
static uint32_t row_of(const struct metric *m, uint32_t i)
{
	return (uint32_t)((uint64_t)i * m->task->out / m->rows);
}

/* The rows rounded to nearest, in the groups of the layout without an order. */
static int rounded(const struct metric *m, struct ql *ql, struct err *err)
{
	struct gq_params p = *m->task->params;
	struct gq_task t = *m->task;
	struct gq_report unused;

	p.desc_act = 0;
	p.clip = GQ_CLIP_NONE;
	t.params = &p;
	t.w = m->w;
	t.out = m->rows;
	t.hess = NULL;
	return gq_rtn.solve(&t, ql, &unused, err);
}

/* to [in] = from, put in order, dead columns as 0; less w's where given. */
static void order_row(const struct metric *m, const float *from,
		      const float *w, float *to)
{
	const struct gq_hess *h = m->task->hess;

	for (uint32_t i = 0; i < h->n; i++) {
		uint32_t k = h->place[i];

		to[i] = h->dead[k] ? 0 : w ? from[k] - w[k] : from[k];
	}
}

static int fill(struct metric *m, const struct ql *ql, struct err *err)
{
	const struct gq_task *t = m->task;
	size_t in = t->in, part = m->rows * in;
	struct ql near = { 0 };
	float *q = mem_alloc(in, sizeof(*q), err);
	int ret = -1;

	if (!q)
		return -1;
	for (uint32_t i = 0; i < m->rows; i++)
		memcpy(m->w + i * in, t->w + row_of(m, i) * in,
		       in * sizeof(*q));
	if (rounded(m, &near, err))
		goto out;
	for (uint32_t i = 0; i < m->rows; i++) {
		const float *w = m->w + i * in;
		float *e = m->e + i * in;

		order_row(m, w, NULL, e);
		ql_dequant_row(ql, row_of(m, i), q);
		order_row(m, q, w, e + part);
		ql_dequant_row(&near, i, q);
		order_row(m, q, w, e + 2 * part);
	}
	ret = t->dev->api->put(t->dev->be, m->device.p, m->e,
			       3 * part * sizeof(*q), err);
out:
	ql_release(&near);
	free(q);
	return ret;
}

/* Add columns a..a+n of tr(E H E^T), for each of the three. */
static int add_block(struct metric *m, uint32_t a, uint32_t n, double sum[3],
		     struct err *err)
{
	const struct rt_dev *d = m->task->dev;
	const size_t in = m->task->in, rows = m->rows;
	struct be_mat product = { m->product.p, m->product.rows, n, n,
				  DT_F32 };

	if (gq_half_block(&m->half, a, n, err) ||
	    gq_half_times(&m->half, &m->device, &product, err) ||
	    d->api->get(d->be, m->host, product.p,
			3 * rows * n * sizeof(float), err))
		return -1;
	for (size_t r = 0; r < 3 * rows; r++)
		for (size_t c = 0; c < n; c++)
			sum[r / rows] += (double)m->host[r * n + c] *
					 (double)m->e[r * in + a + c];
	return 0;
}

int gq_metric(const struct gq_task *t, const struct ql *ql,
	      struct gq_report *report, struct err *err)
{
	double sum[3] = { 0 };
	struct metric m;
	int ret = -1;

	if (metric_init(&m, t, err) || fill(&m, ql, err))
		goto out;
	for (uint32_t a = 0; a < t->in; a += METRIC_BLOCK)
		if (add_block(&m, a, t->in - a < METRIC_BLOCK ? t->in - a :
			      METRIC_BLOCK, sum, err))
			goto out;
	if (sum[0] > 0) {
		report->out_error = sqrt(fmax(sum[1], 0) / sum[0]);
		report->rtn_error = sqrt(fmax(sum[2], 0) / sum[0]);
	}
	ret = 0;
out:
	metric_release(&m);
	return ret;
}
