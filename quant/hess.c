#include "hess.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"
#include "method.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define DAMP_MOST 1.0 /* of the mean diagonal: most of H is gone then */

int gq_hess_init(struct gq_hess *h, const struct rt_dev *d, uint32_t n,
		 struct err *err)
{
	double *zero = NULL;
	size_t row = (size_t)n * sizeof(*zero);
	struct mem_part part[] = {
		{ (void **)&h->order, n, sizeof(*h->order) },
		{ (void **)&h->place, n, sizeof(*h->place) },
		{ (void **)&h->dead, n, sizeof(*h->dead) },
	};
	int ret = -1;

	memset(h, 0, sizeof(*h));
	h->n = n;
	h->mem = mem_block(part, 3, err);
	zero = mem_alloc(n, sizeof(*zero), err);
	if (!h->mem || !zero)
		goto out;
	if (be_mat_new(d->api, d->be, n, n, DT_F64, &h->h, err))
		goto out;
	for (uint32_t i = 0; i < n; i++) {
		h->order[i] = i;
		if (d->api->put(d->be, (char *)h->h.p + i * row, zero, row,
				err))
			goto out;
	}
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
	be_mat_free(d->api, d->be, &h->diag);
	gq_drift_release(&h->drift, d);
	free(h->mem);
	memset(h, 0, sizeof(*h));
}

int gq_hess_add(struct gq_hess *h, const struct rt_dev *d,
		const struct be_mat *x, double alpha, struct err *err)
{
	h->tokens += x->rows;
	return d->api->syrk(d->be, x, alpha, &h->h, err);
}

struct activity {
	double of_group; /* the largest in the group; or all the same */
	double value;
	uint32_t group, column;
};

/* Falling value of the group, then of the column; then rising numbers: a total
 * order, so that qsort's own is of no consequence. */
static int by_activity(const void *a, const void *b)
{
	const struct activity *x = a, *y = b;

	if (x->of_group != y->of_group)
		return x->of_group > y->of_group ? -1 : 1;
	if (x->group != y->group)
		return x->group < y->group ? -1 : 1;
	if (x->value != y->value)
		return x->value > y->value ? -1 : 1;
	return x->column < y->column ? -1 : x->column > y->column;
}

/* Whole groups are to be ordered, and columns in each of them. */
static void by_group(struct activity *act, uint32_t n, uint32_t size)
{
	for (uint32_t a = 0; a < n; a += size) {
		uint32_t b = n - a < size ? n : a + size;
		double top = 0;

		for (uint32_t k = a; k < b; k++)
			top = act[k].value > top ? act[k].value : top;
		for (uint32_t k = a; k < b; k++) {
			act[k].of_group = top;
			act[k].group = a / size;
		}
	}
}

/* The order of processing that is wanted, from H's diagonal. */
static int choose_order(const struct gq_hess *h, const double *diag,
			const struct gq_params *p, uint32_t *want,
			struct err *err)
{
	struct activity *act = mem_alloc(h->n, sizeof(*act), err);

	if (!act)
		return -1;
	for (uint32_t k = 0; k < h->n; k++)
		act[k] = (struct activity){ .value = diag[k], .column = k };
	if (p->group_aware && !p->desc_act)
		by_group(act, h->n, gq_group_size(p, h->n));
	if (p->desc_act || p->group_aware)
		qsort(act, h->n, sizeof(*act), by_activity);
	for (uint32_t i = 0; i < h->n; i++)
		want[i] = act[i].column;
	free(act);
	return 0;
}

static double *cell(const struct gq_hess *h, uint32_t row, uint32_t col)
{
	return (double *)h->h.p + (size_t)row * h->n + col;
}

/* Mark dead columns and give them a 1.  A NaN or infinity anywhere in the
 * inputs shows on the diagonal, which goes to diag, by column. */
static int look(struct gq_hess *h, const struct rt_dev *d, double *diag,
		struct err *err)
{
	static const double one = 1.0;

	h->dead_count = 0;
	for (uint32_t i = 0; i < h->n; i++) {
		uint32_t k = h->order[i];
		double *at = cell(h, i, i);

		if (d->api->get(d->be, &diag[k], at, sizeof(one), err))
			return -1;
		if (!isfinite(diag[k]))
			return err_set(err, ERR_CHECK,
				       "the calibration inputs of feature %u "
				       "are not finite",
				       k);
		h->dead[k] |= diag[k] == 0.0;
		h->dead_count += h->dead[k];
		if (diag[k] != 0.0)
			continue;
		diag[k] = one;
		if (d->api->put(d->be, at, &one, sizeof(one), err))
			return -1;
	}
	return 0;
}

/* H's row `to` becomes its row `from`, columns put in order on the way:
 * p[i] is where column i of the new order stands in the old one. */
struct permute {
	struct gq_hess *h;
	const struct rt_dev *d;
	const uint32_t *p;
	double *row, *put; /* host [n] */
};

static int take_row(struct permute *q, uint32_t from, struct err *err)
{
	return q->d->api->get(q->d->be, q->row, cell(q->h, from, 0),
			      q->h->n * sizeof(*q->row), err);
}

static int give_row(struct permute *q, uint32_t to, const double *row,
		    struct err *err)
{
	for (uint32_t i = 0; i < q->h->n; i++)
		q->put[i] = row[q->p[i]];
	return q->d->api->put(q->d->be, cell(q->h, to, 0), q->put,
			      q->h->n * sizeof(*q->put), err);
}

/* Along each cycle of p: the first row is held while the others move up. */
static int permute_rows(struct permute *q, double *first, uint8_t *moved,
			struct err *err)
{
	for (uint32_t s = 0; s < q->h->n; s++) {
		uint32_t i = s;

		if (moved[s])
			continue;
		if (take_row(q, s, err))
			return -1;
		memcpy(first, q->row, q->h->n * sizeof(*first));
		for (; q->p[i] != s; i = q->p[i]) {
			moved[i] = 1;
			if (take_row(q, q->p[i], err) ||
			    give_row(q, i, q->row, err))
				return -1;
		}
		moved[i] = 1;
		if (give_row(q, i, first, err))
			return -1;
	}
	return 0;
}

/* H from h->order to the order `want`, in its place. */
static int reorder(struct gq_hess *h, const struct rt_dev *d,
		   const uint32_t *want, struct err *err)
{
	uint32_t *p, *at;
	double *row, *put, *first;
	uint8_t *moved;
	struct mem_part part[] = {
		{ (void **)&p, h->n, sizeof(*p) },
		{ (void **)&at, h->n, sizeof(*at) },
		{ (void **)&row, h->n, sizeof(*row) },
		{ (void **)&put, h->n, sizeof(*put) },
		{ (void **)&first, h->n, sizeof(*first) },
		{ (void **)&moved, h->n, 1 },
	};
	struct permute q = { .h = h, .d = d };
	void *mem;
	int ret;

	if (!memcmp(h->order, want, h->n * sizeof(*want)))
		return 0;
	mem = mem_block(part, sizeof(part) / sizeof(part[0]), err);
	if (!mem)
		return -1;
	for (uint32_t i = 0; i < h->n; i++)
		at[h->order[i]] = i;
	for (uint32_t i = 0; i < h->n; i++)
		p[i] = at[want[i]];
	q.p = p;
	q.row = row;
	q.put = put;
	ret = permute_rows(&q, first, moved, err);
	memcpy(h->order, want, h->n * sizeof(*want));
	free(mem);
	return ret;
}

/* The fewer tokens a feature was seen with, the less H tells, and the more the
 * weights' own distance should count: docs/quality.md has the measurements. */
static double first_damp(const struct gq_hess *h, const struct gq_params *p)
{
	if (!p->damp_short || !h->tokens)
		return p->damp;
	return fmax(p->damp, fmin((double)h->n / (double)h->tokens,
				  DAMP_MOST));
}

/* U, with as much damping as it takes. */
static int factor(struct gq_hess *h, const struct rt_dev *d,
		  const struct gq_params *p, struct err *err)
{
	struct be_factor f = { .h = &h->h, .u = &h->u,
			       .damp = first_damp(h, p) };

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

/* diag, and the rest of H below U's diagonal. */
static int keep(struct gq_hess *h, const struct rt_dev *d, const double *diag,
		struct err *err)
{
	const size_t n = h->n;
	uint32_t *at; /* where a column stands in H */
	double *from, mean = 0;
	float *to;
	struct mem_part part[] = {
		{ (void **)&at, n, sizeof(*at) },
		{ (void **)&from, n, sizeof(*from) },
		{ (void **)&to, n, sizeof(*to) },
	};
	void *mem = mem_block(part, 3, err);
	int ret = -1;

	if (!mem)
		return -1;
	for (uint32_t i = 0; i < n; i++) {
		mean += diag[i] / h->n;
		at[h->order[i]] = i;
	}
	for (uint32_t i = 1; i < n; i++) {
		if (d->api->get(d->be, from, cell(h, at[h->place[i]], 0),
				n * sizeof(*from), err))
			goto out;
		for (uint32_t c = 0; c < i; c++)
			to[c] = (float)from[at[h->place[c]]];
		if (d->api->put(d->be, (float *)h->u.p + i * n, to,
				i * sizeof(*to), err))
			goto out;
	}
	for (uint32_t i = 0; i < n; i++)
		to[i] = (float)(diag[h->place[i]] + h->damp * mean);
	ret = d->api->put(d->be, h->diag.p, to, n * sizeof(*to), err);
out:
	free(mem);
	return ret;
}

int gq_hess_prepare(struct gq_hess *h, const struct rt_dev *d,
		    const struct gq_params *p, struct err *err)
{
	double *diag = NULL;
	uint32_t *want = NULL;
	struct mem_part part[] = {
		{ (void **)&diag, h->n, sizeof(*diag) },
		{ (void **)&want, h->n, sizeof(*want) },
	};
	void *mem = mem_block(part, 2, err);
	int ret = -1;

	if (!mem)
		return -1;
	if (look(h, d, diag, err) || choose_order(h, diag, p, want, err) ||
	    reorder(h, d, want, err))
		goto out;
	if (!h->u.p &&
	    be_mat_new(d->api, d->be, h->n, h->n, DT_F32, &h->u, err))
		goto out;
	if (!h->diag.p &&
	    be_mat_new(d->api, d->be, 1, h->n, DT_F32, &h->diag, err))
		goto out;
	for (uint32_t i = 0; i < h->n; i++)
		h->place[i] = gq_preset(p) ? i : h->order[i];
	if (factor(h, d, p, err))
		goto out;
	if (h->drift.n &&
	    gq_drift_prepare(&h->drift, d, h->order, &h->u, err))
		goto out;
	if (keep(h, d, diag, err))
		goto out;
	ret = 0;
out:
	free(mem);
	return ret;
}

int gq_hess_serves(const struct gq_params *a, const struct gq_params *b)
{
	/* groups have a part in the order, where they are ordered */
	if (a->group_aware && !a->desc_act && a->group_size != b->group_size)
		return 0;
	return a->desc_act == b->desc_act && a->damp == b->damp &&
	       a->damp_step == b->damp_step &&
	       a->damp_short == b->damp_short &&
	       gq_preset(a) == gq_preset(b);
}

void gq_hess_settle(struct gq_hess *h, const struct rt_dev *d)
{
	be_mat_free(d->api, d->be, &h->h);
	gq_drift_settle(&h->drift, d);
}
