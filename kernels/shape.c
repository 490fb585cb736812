#include "shape.h"

#include "../libfmt/base/err.h"

/* Sets of types a view may have. */
enum {
	T_F32 = 1,
	T_F64 = 2,
	T_F16 = 4,
	T_I8 = 8,
	T_BF16 = 16,
	T_ANY = T_F16 | T_BF16 | T_F32,
	T_KV = T_F16 | T_I8 | T_F32
};

static int type_in(enum dtype t, int set)
{
	switch (t) {
	case DT_F32:
		return set & T_F32;
	case DT_F64:
		return set & T_F64;
	case DT_F16:
		return set & T_F16;
	case DT_BF16:
		return set & T_BF16;
	case DT_I8:
		return set & T_I8;
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

int be_shape_topk(const struct be_topk *t, struct err *err)
{
	if (view(&t->x, T_F32, "topk x", err))
		return -1;
	if (t->x.rows != 1 || !t->k || t->k > BE_TOP_MAX ||
	    t->k > t->x.cols || t->recents > BE_TOP_MAX)
		return err_set(err, ERR_UNSUP,
			       "topk: %u best with %u recent ones of [%u][%u]",
			       t->k, t->recents, t->x.rows, t->x.cols);
	for (uint32_t i = 0; i < t->recents; i++)
		if (t->recent[i] >= t->x.cols)
			return err_set(err, ERR_UNSUP,
				       "topk: recent id %u of %u",
				       t->recent[i], t->x.cols);
	if (t->penalty > 0 && t->temp > 0)
		return 0;
	return err_set(err, ERR_UNSUP, "topk: penalty %g, temperature %g",
		       t->penalty, t->temp);
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

/* The four matrices of a cache, for heads of this size; *positions is how many
 * it holds. */
static int cache(const struct be_cache *c, uint32_t head_dim,
		 uint32_t *positions, struct err *err)
{
	const struct be_mat *scale[] = { &c->k_scale, &c->v_scale };

	if (view(&c->k, T_KV, "cache k", err) ||
	    view(&c->v, T_KV, "cache v", err) ||
	    same(&c->k, &c->v, "cache", err))
		return -1;
	if (c->k.type != c->v.type || !head_dim || c->k.cols % head_dim)
		return err_set(err, ERR_UNSUP,
			       "cache: types %d and %d, heads of %u in rows of "
			       "%u", (int)c->k.type, (int)c->v.type, head_dim,
			       c->k.cols);
	*positions = c->k.rows;
	for (int i = 0; c->k.type == DT_I8 && i < 2; i++)
		if (scale[i]->type != DT_F16 || !scale[i]->p ||
		    scale[i]->rows != c->k.rows ||
		    scale[i]->cols != c->k.cols / head_dim ||
		    scale[i]->ld < scale[i]->cols)
			return err_set(err, ERR_UNSUP,
				       "cache: scales [%u][%u] of type %d",
				       scale[i]->rows, scale[i]->cols,
				       (int)scale[i]->type);
	return 0;
}

int be_shape_at(const struct be_at *at, uint32_t tokens, uint32_t seen,
		uint32_t positions, struct err *err)
{
	for (uint32_t i = 0; i < tokens; i++)
		if (at[i].pos >= seen ||
		    (uint64_t)at[i].base + at[i].pos >= positions)
			return err_set(err, ERR_UNSUP,
				       "token %u at position %u of %u, behind "
				       "row %u of %u", i, at[i].pos, seen,
				       at[i].base, positions);
	return 0;
}

int be_shape_store(const struct be_store *s, struct err *err)
{
	uint64_t seen = s->at ? s->seen : (uint64_t)s->first + s->k->rows;
	uint32_t positions, d = s->head_dim;

	if (view(s->q, T_F32, "store q", err) ||
	    view(s->k, T_F32, "store k", err) ||
	    view(s->v, T_F32, "store v", err) ||
	    same(s->k, s->v, "store", err) ||
	    view(s->cos, T_F32, "store cos", err) ||
	    view(s->sin, T_F32, "store sin", err) ||
	    same(s->cos, s->sin, "store tables", err) ||
	    cache(s->to, d, &positions, err))
		return -1;
	if (d % 2 || s->q->cols % d || s->q->rows != s->k->rows ||
	    s->k->cols != s->to->k.cols || s->cos->cols != d / 2)
		return err_set(err, ERR_UNSUP,
			       "store: heads of %u in rows of %u and %u, a "
			       "cache of %u, tables of %u", d, s->q->cols,
			       s->k->cols, s->to->k.cols, s->cos->cols);
	if (seen > s->cos->rows || seen > positions)
		return err_set(err, ERR_UNSUP,
			       "store: %llu positions, of which %u are tabled "
			       "and %u in the cache", (unsigned long long)seen,
			       s->cos->rows, positions);
	return 0;
}

int be_shape_attend(const struct be_attend *a, struct err *err)
{
	uint64_t wide = (uint64_t)a->heads * a->head_dim;
	uint64_t narrow = (uint64_t)a->kv_heads * a->head_dim;
	uint64_t seen = a->at ? a->seen : (uint64_t)a->first + a->q->rows;
	uint32_t positions;

	if (view(a->q, T_F32, "attend q", err) ||
	    view(a->out, T_F32, "attend out", err) ||
	    same(a->q, a->out, "attend", err) ||
	    cache(a->kv, a->head_dim, &positions, err))
		return -1;
	if (!a->kv_heads || a->heads % a->kv_heads || a->q->cols != wide ||
	    a->kv->k.cols != narrow)
		return err_set(err, ERR_UNSUP,
			       "attend: %u and %u heads of %u in rows of %u "
			       "and %u",
			       a->heads, a->kv_heads, a->head_dim, a->q->cols,
			       a->kv->k.cols);
	if (seen > positions || (a->at && !seen))
		return err_set(err, ERR_UNSUP,
			       "attend: %llu positions in a cache of %u",
			       (unsigned long long)seen, positions);
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

static int shape_groups(const struct ql_spec *s, const uint32_t *group_of,
			struct err *err)
{
	if (!s->in || !s->out || s->in > QL_DIM_MAX || s->out > QL_DIM_MAX ||
	    !s->groups || s->groups > s->in || !s->group_size || s->bits < 2 ||
	    s->bits > 8)
		return err_set(err, ERR_UNSUP,
			       "quantized weight [%u][%u] of %u bits in %u "
			       "groups of %u",
			       s->out, s->in, s->bits, s->groups,
			       s->group_size);
	for (uint32_t k = 0; k < s->in; k++)
		if (group_of[k] >= s->groups)
			return err_set(err, ERR_INPUT,
				       "input %u is in group %u of %u", k,
				       group_of[k], s->groups);
	return 0;
}

int be_shape_ql(const struct ql *ql, struct err *err)
{
	return shape_groups(&ql->spec, ql->group_of, err);
}

int be_shape_packed(const struct ql_packed *q, struct err *err)
{
	return shape_groups(&q->spec, q->group_of, err);
}
