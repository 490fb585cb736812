/* elem.c - operations row by row: tiles are runs of rows, large enough to be
 * worth a thread. */
#include "../../libfmt/base/err.h"
#include "../shape.h"
#include "cpu.h"

#include <math.h>

/* Elements per tile, at least. */
#define TILE_ELEMENTS 32768

struct job {
	const struct be *be;
	const struct be_mat *x, *w;
	struct be_mat *y;
	const uint32_t *index;
	double eps;
	uint32_t rows; /* per tile */
	void (*row)(const struct job *j, uint32_t r);
};

static void rows_tile(void *ctx, uint32_t tile, uint32_t self)
{
	const struct job *j = ctx;
	uint32_t r = tile * j->rows, end = j->y->rows - r;

	(void)self;
	for (end = r + (end < j->rows ? end : j->rows); r < end; r++)
		j->row(j, r);
}

static int run_rows(struct job *j)
{
	uint32_t n = j->y->rows, cols = j->y->cols;

	if (!n || !cols)
		return 0;
	j->rows = cols < TILE_ELEMENTS ? TILE_ELEMENTS / cols : 1;
	cpu_run(j->be, (n - 1) / j->rows + 1, rows_tile, j);
	return 0;
}

static const float *row_in(const struct be_mat *m, uint32_t r)
{
	return (const float *)m->p + (size_t)r * m->ld;
}

static float *row_out(const struct be_mat *m, uint32_t r)
{
	return (float *)m->p + (size_t)r * m->ld;
}

static void gather_row(const struct job *j, uint32_t r)
{
	const float *x = row_in(j->x, r);
	float *y = row_out(j->y, r);

	for (uint32_t c = 0; c < j->y->cols; c++)
		y[c] = x[j->index[c]];
}

int cpu_gather(struct be *be, const struct be_mat *x, const uint32_t *index,
	       struct be_mat *y, struct err *err)
{
	struct job j = { .be = be, .x = x, .y = y, .index = index,
			 .row = gather_row };

	if (be_shape_gather(x, y, err))
		return -1;
	return run_rows(&j);
}

static void embed_row(const struct job *j, uint32_t r)
{
	struct be_mat row = be_rows(j->x, j->index[r], 1);

	j->be->isa->widen(row.type, row.p, row_out(j->y, r), row.cols);
}

int cpu_embed(struct be *be, const struct be_mat *table, const uint32_t *id,
	      struct be_mat *y, struct err *err)
{
	struct job j = { .be = be, .x = table, .y = y, .index = id,
			 .row = embed_row };

	if (be_shape_embed(table, y, err))
		return -1;
	for (uint32_t r = 0; r < y->rows; r++)
		if (id[r] >= table->rows)
			return err_set(err, ERR_INPUT,
				       "token %u is not among the %u embedded",
				       id[r], table->rows);
	return run_rows(&j);
}

static void rmsnorm_row(const struct job *j, uint32_t r)
{
	const uint32_t n = j->w->cols;

	for (uint32_t c = 0; c < j->x->cols; c += n) {
		const float *x = row_in(j->x, r) + c;
		double mean = j->be->isa->squares(x, n) / n;

		j->be->isa->norm(x, j->w->p, row_out(j->y, r) + c, n,
				 (float)(1 / sqrt(mean + j->eps)));
	}
}

int cpu_rmsnorm(struct be *be, const struct be_mat *x,
		const struct be_mat *weight, double eps, struct be_mat *y,
		struct err *err)
{
	struct job j = { .be = be, .x = x, .w = weight, .y = y, .eps = eps,
			 .row = rmsnorm_row };

	if (be_shape_rmsnorm(x, weight, y, err))
		return -1;
	return run_rows(&j);
}

static void swiglu_row(const struct job *j, uint32_t r)
{
	j->be->isa->swiglu(row_in(j->x, r), row_in(j->w, r), row_out(j->y, r),
			   j->y->cols);
}

int cpu_swiglu(struct be *be, const struct be_mat *gate,
	       const struct be_mat *up, struct be_mat *y, struct err *err)
{
	struct job j = { .be = be, .x = gate, .w = up, .y = y,
			 .row = swiglu_row };

	if (be_shape_swiglu(gate, up, y, err))
		return -1;
	return run_rows(&j);
}

static void add_row(const struct job *j, uint32_t r)
{
	j->be->isa->add(row_out(j->y, r), row_in(j->x, j->x->rows == 1 ? 0 : r),
			j->y->cols);
}

int cpu_add(struct be *be, struct be_mat *x, const struct be_mat *y,
	    struct err *err)
{
	struct job j = { .be = be, .x = y, .y = x, .row = add_row };

	if (be_shape_add(x, y, err))
		return -1;
	return run_rows(&j);
}
