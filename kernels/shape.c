#include "shape.h"

#include "../libfmt/base/err.h"

/* Sets of types a view may have. */
enum {
	T_F32 = 1,
	T_F64 = 2,
	T_ANY = 4 | T_F32 /* F16, BF16, F32 */
};

static int type_in(enum dtype t, int set)
{
	switch (t) {
	case DT_F32:
		return set & T_F32;
	case DT_F64:
		return set & T_F64;
	case DT_F16:
	case DT_BF16:
		return set & 4;
	default:
		return 0;
	}
}

static int view(const struct be_mat *m, int set, const char *what,
		struct err *err)
{
	if (!type_in(m->type, set))
		return err_set(err, ERR_UNSUP, "%s: type %d is not taken", what,
			       (int)m->type);
	if (m->rows && m->cols && (!m->p || m->ld < m->cols))
		return err_set(err, ERR_UNSUP,
			       "%s: no memory, or %u columns in rows of %u",
			       what, m->cols, m->ld);
	return 0;
}

static int same(const struct be_mat *a, const struct be_mat *b,
		const char *what, struct err *err)
{
	if (a->rows == b->rows && a->cols == b->cols)
		return 0;
	return err_set(err, ERR_UNSUP, "%s: [%u][%u] against [%u][%u]", what,
		       a->rows, a->cols, b->rows, b->cols);
}

int be_shape_gemm(const struct be_gemm *g, struct err *err)
{
	const struct be_mat *a = g->a, *b = g->b, *c = g->c;
	uint32_t n = g->trans_b ? b->rows : b->cols;
	uint32_t k = g->trans_b ? b->cols : b->rows;

	if (view(a, T_F32, "gemm a", err) || view(b, T_ANY, "gemm b", err) ||
	    view(c, T_F32, "gemm c", err))
		return -1;
	if (a->rows == c->rows && a->cols == k && n == c->cols)
		return 0;
	return err_set(err, ERR_UNSUP,
		       "gemm: [%u][%u] by [%u][%u]%s into [%u][%u]", a->rows,
		       a->cols, b->rows, b->cols, g->trans_b ? "^T" : "",
		       c->rows, c->cols);
}

int be_shape_gather(const struct be_mat *x, const struct be_mat *y,
		    struct err *err)
{
	if (view(x, T_F32, "gather x", err) || view(y, T_F32, "gather y", err))
		return -1;
	if (x->rows == y->rows)
		return 0;
	return err_set(err, ERR_UNSUP, "gather: %u rows into %u", x->rows,
		       y->rows);
}

int be_shape_embed(const struct be_mat *table, const struct be_mat *y,
		   struct err *err)
{
	if (view(table, T_ANY, "embed table", err) ||
	    view(y, T_F32, "embed y", err))
		return -1;
	if (table->cols == y->cols)
		return 0;
	return err_set(err, ERR_UNSUP, "embed: %u columns into %u",
		       table->cols, y->cols);
}

int be_shape_rmsnorm(const struct be_mat *x, const struct be_mat *weight,
		     const struct be_mat *y, struct err *err)
{
	if (view(x, T_F32, "rmsnorm x", err) ||
	    view(weight, T_F32, "rmsnorm weight", err) ||
	    view(y, T_F32, "rmsnorm y", err) || same(x, y, "rmsnorm", err))
		return -1;
	if (weight->rows == 1 && weight->cols && x->cols % weight->cols == 0)
		return 0;
	return err_set(err, ERR_UNSUP,
		       "rmsnorm: weight [%u][%u] for rows of %u", weight->rows,
		       weight->cols, x->cols);
}

int be_shape_rope(const struct be_mat *x, const struct be_rope *r,
		  struct err *err)
{
	if (view(x, T_F32, "rope x", err) ||
	    view(r->cos, T_F32, "rope cos", err) ||
	    view(r->sin, T_F32, "rope sin", err) ||
	    same(r->cos, r->sin, "rope tables", err))
		return -1;
	if (!r->head_dim || r->head_dim % 2 || x->cols % r->head_dim ||
	    r->cos->cols != r->head_dim / 2)
		return err_set(err, ERR_UNSUP,
			       "rope: heads of %u in rows of %u, tables of %u",
			       r->head_dim, x->cols, r->cos->cols);
	if ((uint64_t)r->first + x->rows > r->cos->rows)
		return err_set(err, ERR_UNSUP,
			       "rope: position %llu is beyond the %u tabled",
			       (unsigned long long)r->first + x->rows - 1,
			       r->cos->rows);
	return 0;
}

int be_shape_attend(const struct be_attend *a, struct err *err)
{
	uint64_t wide = (uint64_t)a->heads * a->head_dim;
	uint64_t narrow = (uint64_t)a->kv_heads * a->head_dim;
	uint64_t seen = (uint64_t)a->first + a->q->rows;

	if (view(a->q, T_F32, "attend q", err) ||
	    view(a->k, T_F32, "attend k", err) ||
	    view(a->v, T_F32, "attend v", err) ||
	    view(a->out, T_F32, "attend out", err) ||
	    same(a->q, a->out, "attend", err))
		return -1;
	if (!a->head_dim || !a->kv_heads || a->heads % a->kv_heads ||
	    a->q->cols != wide || a->k->cols != narrow || a->v->cols != narrow)
		return err_set(err, ERR_UNSUP,
			       "attend: %u and %u heads of %u in rows of %u, "
			       "%u and %u",
			       a->heads, a->kv_heads, a->head_dim, a->q->cols,
			       a->k->cols, a->v->cols);
	if (seen > a->k->rows || seen > a->v->rows)
		return err_set(err, ERR_UNSUP,
			       "attend: %llu positions in a cache of %u",
			       (unsigned long long)seen, a->k->rows);
	return 0;
}

int be_shape_swiglu(const struct be_mat *gate, const struct be_mat *up,
		    const struct be_mat *y, struct err *err)
{
	if (view(gate, T_F32, "swiglu gate", err) ||
	    view(up, T_F32, "swiglu up", err) ||
	    view(y, T_F32, "swiglu y", err) || same(gate, up, "swiglu", err))
		return -1;
	return same(gate, y, "swiglu", err);
}

int be_shape_add(const struct be_mat *x, const struct be_mat *y,
		 struct err *err)
{
	if (view(x, T_F32, "add x", err) || view(y, T_F32, "add y", err))
		return -1;
	if (y->rows == 1 && x->cols == y->cols)
		return 0;
	return same(x, y, "add", err);
}

int be_shape_syrk(const struct be_mat *x, const struct be_mat *h,
		  struct err *err)
{
	if (view(x, T_F32, "syrk x", err) || view(h, T_F64, "syrk h", err))
		return -1;
	if (h->rows == x->cols && h->cols == x->cols)
		return 0;
	return err_set(err, ERR_UNSUP, "syrk: [%u][%u] for %u columns",
		       h->rows, h->cols, x->cols);
}

int be_shape_factor(const struct be_factor *f, struct err *err)
{
	if (view(f->h, T_F64, "factor h", err) ||
	    view(f->u, T_F32, "factor u", err) ||
	    same(f->h, f->u, "factor", err))
		return -1;
	if (f->h->rows == f->h->cols)
		return 0;
	return err_set(err, ERR_UNSUP, "factor: [%u][%u] is not square",
		       f->h->rows, f->h->cols);
}

int be_shape_grid(const struct be_grid *g, struct err *err)
{
	if (view(g->w, T_F32, "grid w", err))
		return -1;
	if (g->bits < 1 || g->bits > 8 || !g->step ||
	    !type_in(g->round_scale, T_ANY))
		return err_set(err, ERR_UNSUP,
			       "grid: %u bits, step %zu, scale type %d",
			       g->bits, g->step, (int)g->round_scale);
	return 0;
}

int be_shape_sweep(const struct be_sweep *s, struct err *err)
{
	if (view(s->w, T_F32, "sweep w", err) ||
	    view(s->u, T_F32, "sweep u", err) ||
	    view(s->err, T_F32, "sweep err", err) ||
	    same(s->w, s->err, "sweep", err))
		return -1;
	if (s->u->rows == s->w->cols && s->u->cols == s->w->cols &&
	    s->code_ld >= s->w->cols && s->bits >= 1 && s->bits <= 8)
		return 0;
	return err_set(err, ERR_UNSUP,
		       "sweep: u [%u][%u], codes in rows of %zu, %u bits for "
		       "%u columns",
		       s->u->rows, s->u->cols, s->code_ld, s->bits,
		       s->w->cols);
}

int be_shape_refine(const struct be_refine *r, struct err *err)
{
	if (view(r->w, T_F32, "refine w", err) ||
	    view(r->diff, T_F32, "refine diff", err) ||
	    view(r->grad, T_F32, "refine grad", err) ||
	    view(r->h, T_F32, "refine h", err) ||
	    same(r->w, r->diff, "refine", err) ||
	    same(r->w, r->grad, "refine", err))
		return -1;
	if (r->h->rows == r->w->cols && r->h->cols == r->w->cols &&
	    r->code_ld >= r->w->cols && r->bits >= 1 && r->bits <= 8 &&
	    type_in(r->scale_type, T_ANY))
		return 0;
	return err_set(err, ERR_UNSUP,
		       "refine: h [%u][%u], codes in rows of %zu, %u bits for "
		       "%u columns",
		       r->h->rows, r->h->cols, r->code_ld, r->bits,
		       r->w->cols);
}

int be_shape_qgemm(const struct be_mat *x, uint32_t in, uint32_t out,
		   const struct be_mat *y, struct err *err)
{
	if (view(x, T_F32, "qgemm x", err) || view(y, T_F32, "qgemm y", err))
		return -1;
	if (x->rows == y->rows && x->cols == in && y->cols == out)
		return 0;
	return err_set(err, ERR_UNSUP,
		       "qgemm: [%u][%u] by [%u][%u]^T into [%u][%u]", x->rows,
		       x->cols, out, in, y->rows, y->cols);
}

int be_shape_ql(const struct ql *ql, struct err *err)
{
	const struct ql_spec *s = &ql->spec;

	if (!s->in || !s->out || s->in > QL_DIM_MAX || s->out > QL_DIM_MAX ||
	    !s->groups || s->groups > s->in || !s->group_size || s->bits < 2 ||
	    s->bits > 8)
		return err_set(err, ERR_UNSUP,
			       "quantized weight [%u][%u] of %u bits in %u "
			       "groups of %u",
			       s->out, s->in, s->bits, s->groups,
			       s->group_size);
	for (uint32_t k = 0; k < s->in; k++)
		if (ql->group_of[k] >= s->groups)
			return err_set(err, ERR_INPUT,
				       "input %u is in group %u of %u", k,
				       ql->group_of[k], s->groups);
	return 0;
}
