/* qwgmma_dense.cu - the kernels of qwgmma.cuh for weights of 16 bits.
 *
 * A is rounded to f16, and so are weights in bf16: those within the range of
 * f16 lose nothing but what is below 2^-24. */
#include "qwgmma_run.cuh"

template <int TYPE>
static int by_rows(struct be *be, struct qwg_arg *a, struct err *err)
{
	if (a->m <= 16)
		return qwg_fit<TYPE, 128, 2, 16, 2, 2>(be, a, err);
	if (a->m <= 32)
		return qwg_fit<TYPE, 128, 2, 32, 2, 2>(be, a, err);
	if (a->m <= 64)
		return qwg_fit<TYPE, 128, 2, 64, 2, 2>(be, a, err);
	return qwg_fit<TYPE, 128, 2, 256, 1, 1>(be, a, err);
}

int cu_wgmma_gemm(struct be *be, const struct be_gemm *g, struct err *err)
{
	struct qwg_arg a = {};
	const struct be_mat *b = g->b;

	if (!be->wgmma || !g->trans_b || g->beta != 0 || g->c->rows <= 8 ||
	    b->type == DT_F32 || b->cols % 64 || b->ld % 8 ||
	    (uintptr_t)b->p % 16)
		return 1;
	const struct cu_x16_form form = cu_x16_dense(be, g->a->rows,
						     g->a->cols);

	if (cu_x16(be, g->a, NULL, form, &a.x, err))
		return -1;
	a.rows = form.rows;
	a.dense = b->p;
	a.ldw = b->ld;
	a.y = (float *)g->c->p;
	a.ldy = g->c->ld;
	a.m = g->c->rows;
	a.n = g->c->cols;
	a.strips = cu_div_up(a.n, 16);
	a.chunks = b->cols / 64;
	a.down = g->alpha;
	return b->type == DT_F16 ? by_rows<QWG_F16>(be, &a, err)
				 : by_rows<QWG_BF16>(be, &a, err);
}
