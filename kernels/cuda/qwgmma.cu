/* qwgmma.cu - products of 9 rows and more on sm_90a: is it there, which width. */
#include "qwgmma_run.cuh"

/* ---- is it there? ---- */

__global__ void there_kernel(int *there)
{
	*there = WGMMA_HERE;
}

int cu_wgmma_there(struct be *be)
{
	int there = 0;
	struct err err;
	void *p;

	if (be->cc != 90 ||
	    cu_scratch_get(be, CU_SMALL, sizeof(there), &p, &err))
		return 0;
	if (cu_launch(be, "probe", { dim3(1), dim3(1), 0, 0 }, &err,
		      there_kernel, (int *)p) ||
	    cudaMemcpyAsync(&there, p, sizeof(there), cudaMemcpyDeviceToHost,
			    be->stream) != cudaSuccess ||
	    cudaStreamSynchronize(be->stream) != cudaSuccess) {
		(void)cudaGetLastError();
		return 0;
	}
	return there;
}

/* ---- the choice ---- */

int cu_qwgmma(struct be *be, const struct be_mat *x, const struct be_qw *w,
	      struct be_mat *y, struct err *err)
{
	struct qwg_arg a = {};

	const struct cu_x16_form form = cu_x16_form(be, x->rows, x->cols);

	if (cu_x16(be, x, w, form, &a.x, err))
		return -1;
	a.rows = form.rows;
	a.word = w->word;
	a.scale = w->scale;
	a.zero = w->zero;
	a.y = (float *)y->p;
	a.ldy = y->ld;
	a.m = x->rows;
	a.n = w->spec.out;
	a.strips = w->strips;
	a.chunks = w->chunks;
	a.units = w->units;
	a.bf16 = w->bf16;
	switch (w->spec.bits) {
	case 2:
		return cu_qwg_b2(be, &a, w->unit, err);
	case 3:
		return cu_qwg_b3(be, &a, w->unit, err);
	case 4:
		return cu_qwg_b4(be, &a, w->unit, err);
	default:
		return cu_qwg_b8(be, &a, w->unit, err);
	}
}
