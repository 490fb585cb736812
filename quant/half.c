#include "half.h"

#include "../libfmt/base/mem.h"

#include <stdlib.h>

int gq_half_init(struct gq_half *h, const struct rt_dev *d,
		 const struct gq_hess *hess, uint32_t block, struct err *err)
{
	size_t in = hess->n;

	*h = (struct gq_half){ .dev = d, .hess = hess };
	h->diag = mem_alloc(in, sizeof(*h->diag), err);
	h->host = mem_alloc((size_t)block * block, sizeof(*h->host), err);
	return !h->diag || !h->host ||
	       be_mat_new(d->api, d->be, block, block, DT_F32, &h->square,
			  err) ||
	       d->api->get(d->be, h->diag, hess->diag.p,
			   in * sizeof(*h->diag), err) ? -1 : 0;
}

void gq_half_release(struct gq_half *h)
{
	if (h->dev)
		be_mat_free(h->dev->api, h->dev->be, &h->square);
	free(h->diag);
	free(h->host);
}

int gq_half_block(struct gq_half *h, uint32_t a, uint32_t n, struct err *err)
{
	const struct rt_dev *d = h->dev;
	const struct be_mat *u = &h->hess->u;
	float *s = h->host;

	for (uint32_t i = 0; i < n; i++) {
		if (i && d->api->get(d->be, s + (size_t)i * n,
				     (const float *)u->p +
				     (size_t)(a + i) * u->ld + a,
				     i * sizeof(*s), err))
			return -1;
		s[(size_t)i * n + i] = h->diag[a + i];
		for (uint32_t j = 0; j < i; j++)
			s[(size_t)j * n + i] = s[(size_t)i * n + j];
	}
	h->at = a;
	h->square.rows = n;
	h->square.cols = n;
	h->square.ld = n;
	return d->api->put(d->be, h->square.p, s,
			   (size_t)n * n * sizeof(*s), err);
}

/* From the block's columns themselves, those behind (H as it stands) and those
 * before (H's mirror image). */
int gq_half_times(const struct gq_half *h, const struct be_mat *e,
		  struct be_mat *out, struct err *err)
{
	const struct rt_dev *d = h->dev;
	const uint32_t a = h->at, n = h->square.cols, b = a + n, in = e->cols;
	struct be_mat u_row = be_rows(&h->hess->u, a, n);
	struct be_mat u_col = be_cols(&h->hess->u, a, n);
	struct be_mat own = be_cols(e, a, n), part, u;
	struct be_gemm g = { .a = &own, .b = &h->square, .c = out,
			     .alpha = 1.0f };

	if (d->api->gemm(d->be, &g, err))
		return -1;
	g.beta = 1.0f;
	g.a = &part;
	g.b = &u;
	if (b < in) {
		part = be_cols(e, b, in - b);
		u = be_rows(&u_col, b, in - b);
		if (d->api->gemm(d->be, &g, err))
			return -1;
	}
	if (a == 0)
		return 0;
	part = be_cols(e, 0, a);
	u = be_cols(&u_row, 0, a);
	g.trans_b = 1;
	return d->api->gemm(d->be, &g, err);
}
