/* plan_speed.c - how fast this device is at what the walk asks of it: each
 * operation on a piece that keeps it busy, again and again for a fraction of a
 * second.  The faster the device, the larger that piece: with many cores a
 * small one tells what it takes to start. */
#include "plan.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TRIAL 0.15 /* seconds for each operation, at least one call */
#define SIDE 2048u /* of a weight */
#define WIDE 4096u /* of one for a device that takes the other in no time, */
#define QUICK 2e-3 /* in seconds */
#define ROWS 256u  /* of activations */
#define ORDER 512u /* of the smallest Hessian; a side is the largest */
#define BUSY 0.02  /* seconds that its factor has to take, or the next larger */
#define FASTER 8   /* as the largest of orders may be than what was tried */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

struct trial {
	struct rt_dev dev;
	const struct gq_job *job;
	uint32_t side, rows;    /* of weights; of activations */
	struct be_mat a, b, c;  /* F32 [side][side]: values, values, result */
	struct be_mat d;        /* [side][side]: a dense weight */
	struct be_mat h, u;     /* F64, F32 [side][side] */
	uint32_t order;         /* of Hessians; half as many outputs */
	float *host;            /* [side][side] */
	struct ql ql;           /* of the last solve */
	struct be_qw *quant;    /* the same on the device */
};

/* Numbers in -1..1 that need not be good. */
static void fill(float *p, size_t n)
{
	uint32_t s = 2463534242u;

	for (size_t i = 0; i < n; i++) {
		s ^= s << 13;
		s ^= s >> 17;
		s ^= s << 5;
		p[i] = (float)(s >> 8) * 0x1p-23f - 1;
	}
}

static int new_matrix(struct trial *t, const void *from, enum dtype type,
		      struct be_mat *m, struct err *err)
{
	const struct rt_dev *d = &t->dev;

	if (be_mat_new(d->api, d->be, t->side, t->side, type, m, err))
		return -1;
	return d->api->put(d->be, m->p, from,
			   (size_t)t->side * t->side * be_elem(type), err);
}

static int trial_init(struct trial *t, uint32_t side, uint32_t elem,
		      struct err *err)
{
	const size_t cells = (size_t)side * side;
	void *zero = mem_alloc(cells, sizeof(double), err);
	int ret = -1;

	t->side = side;
	t->host = mem_alloc(cells, sizeof(float), err);
	if (!zero || !t->host)
		goto out;
	fill(t->host, cells);
	if (new_matrix(t, t->host, DT_F32, &t->a, err) ||
	    new_matrix(t, t->host, DT_F32, &t->b, err) ||
	    new_matrix(t, t->host, DT_F32, &t->c, err) ||
	    new_matrix(t, zero, elem == 2 ? DT_F16 : DT_F32, &t->d, err) ||
	    new_matrix(t, zero, DT_F64, &t->h, err) ||
	    new_matrix(t, zero, DT_F32, &t->u, err))
		goto out;
	ret = 0;
out:
	free(zero);
	return ret;
}

/* The last solve's. */
static void solved_release(struct trial *t)
{
	t->dev.api->qw_free(t->dev.be, t->quant);
	t->quant = NULL;
	ql_release(&t->ql);
}

static void trial_release(struct trial *t)
{
	struct be_mat *m[] = { &t->a, &t->b, &t->c, &t->d, &t->h, &t->u };

	for (size_t i = 0; i < sizeof(m) / sizeof(m[0]); i++)
		be_mat_free(t->dev.api, t->dev.be, m[i]);
	free(t->host);
	t->host = NULL;
	solved_release(t);
}

/* ---- operations: multiply-adds of one call, or weights solved ---- */

static int run_dense(struct trial *t, double *n, struct err *err)
{
	struct be_mat x = be_rows(&t->a, 0, t->rows);
	struct be_mat y = be_rows(&t->c, 0, t->rows);
	struct be_gemm g = { .a = &x, .b = &t->d, .c = &y, .alpha = 1,
			     .trans_b = 1 };

	*n = (double)t->rows * t->side * t->side;
	return t->dev.api->gemm(t->dev.be, &g, err);
}

/* Of the linear that was solved, once it has its codes; rows one after the
 * other, as activations are. */
static int run_forward(struct trial *t, double *n, struct err *err)
{
	const uint32_t in = t->ql.spec.in, out = t->ql.spec.out;
	struct be_mat x = { t->a.p, t->rows, in, in, DT_F32 };
	struct be_mat y = { t->c.p, t->rows, out, out, DT_F32 };

	if (!t->quant &&
	    t->dev.api->qw_new(t->dev.be, &t->ql, &t->quant, err))
		return -1;
	*n = (double)t->rows * in * out;
	return t->dev.api->qgemm(t->dev.be, &x, t->quant, &y, err);
}

static int run_spread(struct trial *t, double *n, struct err *err)
{
	uint32_t block = t->job->params.block;
	struct be_mat e = be_cols(&t->a, 0, block);
	struct be_mat u = be_rows(&t->b, 0, block);
	struct be_gemm g = { .a = &e, .b = &u, .c = &t->c, .alpha = -1,
			     .beta = 1 };

	*n = (double)block * t->side * t->side;
	return t->dev.api->gemm(t->dev.be, &g, err);
}

static struct be_mat corner(const struct trial *t, const struct be_mat *m)
{
	struct be_mat rows = be_rows(m, 0, t->order);

	return be_cols(&rows, 0, t->order);
}

static int run_hessian(struct trial *t, double *n, struct err *err)
{
	struct be_mat x = be_rows(&t->a, 0, t->rows), h = corner(t, &t->h);

	x = be_cols(&x, 0, t->order);
	*n = (double)t->rows * t->order * t->order / 2;
	return t->dev.api->syrk(t->dev.be, &x, 1, &h, err);
}

static int run_factor(struct trial *t, double *n, struct err *err)
{
	struct be_mat h = corner(t, &t->h), u = corner(t, &t->u);
	struct be_factor f = { .h = &h, .u = &u, .damp = 0.1 };

	*n = (double)t->order * t->order * t->order / 3;
	return t->dev.api->factor(t->dev.be, &f, err);
}

/* A linear as the job's method solves it: n becomes seconds. */
static int run_solve(struct trial *t, double *n, struct err *err)
{
	struct gq_params p = t->job->params;
	struct gq_hess hess = { 0 };
	struct gq_task task = { .dev = &t->dev, .w = t->host, .in = t->order,
				.out = t->order / 2, .params = &p,
				.hess = &hess };
	struct be_mat x = be_rows(&t->a, 0, t->rows);
	struct gq_report report;
	int ret = -1;

	solved_release(t);
	x = be_cols(&x, 0, t->order);
	p.damp = p.damp > 0.1 ? p.damp : 0.1; /* fewer rows than columns */
	if (gq_hess_init(&hess, &t->dev, t->order, err) ||
	    gq_hess_add(&hess, &t->dev, &x, 1, err) ||
	    gq_hess_prepare(&hess, &t->dev, &p, err))
		goto out;
	*n = now();
	/* what comparing adds are products, which are counted */
	ret = t->job->method->compares ?
		gq_gptq.solve(&task, &t->ql, &report, err) :
		t->job->method->solve(&task, &t->ql, &report, err);
	*n = now() - *n;
out:
	gq_hess_release(&hess, &t->dev);
	return ret;
}

/* Multiply-adds a second.  Asking for a number waits for the device. */
static int rate(struct trial *t,
		int (*run)(struct trial *t, double *n, struct err *err),
		double *out, struct err *err)
{
	double began, n, all = 0;
	float number;

	if (run(t, &n, err)) /* memory is asked for, code comes in */
		return -1;
	began = now();
	do {
		if (run(t, &n, err) ||
		    t->dev.api->get(t->dev.be, &number, t->c.p,
				    sizeof(number), err))
			return -1;
		all += n;
	} while (now() - began < TRIAL);
	*out = all / (now() - began);
	return 0;
}

/* How fast products are, of a size that the device can be judged by: a quick
 * one with windows as they will be. */
static int set_side(struct trial *t, uint32_t elem, double *dense,
		    struct err *err)
{
	const struct calib *calib = t->job->calib;

	t->rows = ROWS;
	if (trial_init(t, SIDE, elem, err) || rate(t, run_dense, dense, err))
		return -1;
	if ((double)ROWS * SIDE * SIDE / *dense > QUICK)
		return 0;
	trial_release(t);
	if (calib && calib->seqlen > ROWS)
		t->rows = calib->seqlen < WIDE ? calib->seqlen : WIDE;
	return trial_init(t, WIDE, elem, err) ||
	       rate(t, run_dense, dense, err) ? -1 : 0;
}

static double cubes(double n)
{
	return n * n * n / 3;
}

/* How fast Hessians are factored: of the order, doubled up to a side, that
 * takes this device a while, and of half of it.  It is the order of what
 * follows, too. */
static int set_order(struct trial *t, struct gq_rates *r, struct err *err)
{
	double n, each;

	for (t->order = ORDER;; t->order *= 2) {
		/* something to factor */
		if (run_hessian(t, &n, err) || rate(t, run_factor, &each, err))
			return -1;
		n = cubes(t->order);
		r->order[0] = r->order[1];
		r->factor[0] = r->factor[1];
		r->order[1] = t->order;
		r->factor[1] = n / each;
		if (r->factor[1] > BUSY || t->order == t->side)
			return 0;
	}
}

/* Seconds of a weight beside the products that are counted. */
static int weigh(struct trial *t, struct gq_rates *r, struct err *err)
{
	const double in = t->order, out = in / 2;
	double counted = 0;

	/* twice: memory is asked for in the first */
	if (run_solve(t, &r->solve, err) || run_solve(t, &r->solve, err))
		return -1;
	if (t->job->method->needs_hessian)
		counted = in * in * out * (0.5 + t->job->params.passes) +
			  gq_plan_measuring(t->order, t->order / 2);
	r->solve = (r->solve - counted / r->spread) / (in * out);
	if (r->solve < 0)
		r->solve = 0;
	return 0;
}

/* factor[] = step * order[] + cube * order[]^3 / 3. */
static void fit_factor(const struct gq_rates *r, double *step, double *cube)
{
	const double *n = r->order, *s = r->factor;
	const double alone = s[1] / cubes(n[1]);
	double by = n[0] > 0 ? n[1] / n[0] : 0;

	*cube = n[0] > 0 ? (s[1] - by * s[0]) /
			   (cubes(n[1]) - by * cubes(n[0])) : alone;
	if (*cube > alone)
		*cube = alone; /* a larger one is not slower */
	if (*cube < alone / FASTER)
		*cube = alone / FASTER;
	*step = (s[1] - *cube * cubes(n[1])) / n[1];
}

double gq_plan_time(const struct gq_work *work, const struct gq_rates *r)
{
	double step, cube;

	fit_factor(r, &step, &cube);
	return work->dense / r->dense +
	       (work->forward + work->attend) / r->forward +
	       work->hessian / r->hessian + work->spread / r->spread +
	       work->factor * cube + work->orders * step +
	       work->weights * r->solve;
}

int gq_plan_seconds(const struct gq_job *job, const struct gq_work *work,
		    double *seconds, struct err *err)
{
	struct trial t = { .dev = { job->api, job->be }, .job = job };
	struct gq_rates r = { 0 };
	int ret = -1;

	if (set_side(&t, work->elem, &r.dense, err) ||
	    set_order(&t, &r, err) ||
	    rate(&t, run_hessian, &r.hessian, err) ||
	    rate(&t, run_spread, &r.spread, err) || weigh(&t, &r, err) ||
	    rate(&t, run_forward, &r.forward, err))
		goto out;
	*seconds = gq_plan_time(work, &r);
	ret = 0;
out:
	trial_release(&t);
	return ret;
}
