/* store.c - new tokens take their positions: queries and keys are turned, keys
 * and values go to the cache. */
#include "../../libfmt/base/err.h"
#include "../shape.h"
#include "cache.h"
#include "cpu.h"

#include <string.h>

/* Elements per tile, at least. */
#define TILE_ELEMENTS 32768

struct job {
	const struct be *be;
	const struct be_store *s;
	uint32_t rows; /* per tile */
};

static void *at(const struct be_mat *m, uint32_t r, uint32_t c)
{
	struct be_mat row = be_rows(m, r, 1);

	return be_cols(&row, c, 1).p;
}

/* A head x into one half of the cache; where: position, column, head. */
static void keep(const struct job *j, const struct be_mat *to,
		 const struct be_mat *scale, const float *x,
		 const uint32_t where[3])
{
	const uint32_t d = j->s->head_dim;
	void *p = at(to, where[0], where[1]);

	if (to->type == DT_F16)
		j->be->isa->narrow(x, p, d);
	else if (to->type == DT_I8)
		*(uint16_t *)at(scale, where[0], where[2]) =
			half_from_f32(j->be->isa->encode(x, p, d));
	else
		memcpy(p, x, d * sizeof(*x));
}

static void store_row(const struct job *j, uint32_t r, float *head)
{
	const struct be_store *s = j->s;
	const struct be_at to = cpu_at(s->at, s->first, r);
	const uint32_t d = s->head_dim, half = d / 2;
	const float *cos = at(s->cos, to.pos, 0);
	const float *sin = at(s->sin, to.pos, 0);

	for (uint32_t c = 0; c < s->q->cols; c += d)
		j->be->isa->rotate(at(s->q, r, c), cos, sin, half);
	for (uint32_t c = 0; c < s->k->cols; c += d) {
		const uint32_t where[] = { to.base + to.pos, c, c / d };

		memcpy(head, at(s->k, r, c), d * sizeof(*head));
		j->be->isa->rotate(head, cos, sin, half);
		keep(j, &s->to->k, &s->to->k_scale, head, where);
		keep(j, &s->to->v, &s->to->v_scale, at(s->v, r, c), where);
	}
}

static void store_tile(void *ctx, uint32_t tile, uint32_t self)
{
	const struct job *j = ctx;
	uint32_t r = tile * j->rows, left = j->s->k->rows - r;

	for (uint32_t end = r + (left < j->rows ? left : j->rows); r < end; r++)
		store_row(j, r, cpu_own(j->be, self));
}

int cpu_store(struct be *be, const struct be_store *s, struct err *err)
{
	struct job j = { .be = be, .s = s };
	uint32_t n = s->k->rows, cols = s->q->cols + 2 * s->k->cols;

	if (be_shape_store(s, err) ||
	    (s->at && be_shape_at(s->at, n, s->seen, s->to->k.rows, err)) ||
	    cpu_scratch(be, s->head_dim * sizeof(float), 0, err))
		return -1;
	if (!n || !cols)
		return 0;
	j.rows = cols < TILE_ELEMENTS ? TILE_ELEMENTS / cols : 1;
	cpu_run(be, (n - 1) / j.rows + 1, store_tile, &j);
	return 0;
}
