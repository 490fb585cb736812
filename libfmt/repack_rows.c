/* A layer by bands of its outputs, for what is written and compared row by row:
 * dense weights, GGUF. */
#include "repack_impl.h"

#include "base/mem.h"
#include "container/st.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Codes of a band, about: they stay in the second-level cache. */
#define BAND (1u << 20)

int repack_rows_open(struct repack_rows *r, struct err *err)
{
	uint32_t unit = BITS_TILE_OUT;

	r->room = r->across = NULL;
	/* rows from all over a layer are no band of it */
	if (repack_open(r->m, r->module, r->way, !r->way || !r->way->map.row,
			&r->ql, &r->words, err))
		return -1;
	if (r->unit > 1 && r->unit < r->ql.spec.out)
		unit = repack_lcm(unit, r->unit);
	r->step = BAND / r->ql.spec.in / unit * unit;
	r->step = r->step ? r->step : unit;
	if (!r->words.how)
		return 0;
	r->room = mem_alloc(r->step, r->ql.spec.in, err);
	if (r->room)
		return 0;
	repack_close(&r->ql, &r->words);
	return -1;
}

/* The pages of the band before n, where a file goes from row to row. */
static void forget_before(const struct repack_rows *r, uint32_t n)
{
	const struct qf_words *w = &r->words;
	uint64_t bytes = w->size / w->out;

	if (n && w->how->by_out && !w->of->turned)
		model_forget(r->m, w->of, (n - r->step) * bytes,
			     r->step * bytes);
}

const struct ql *repack_rows_at(struct repack_rows *r, uint32_t n)
{
	const struct ql_spec *s = &r->ql.spec;
	uint32_t rows = s->out - n < r->step ? s->out - n : r->step;

	r->band = r->ql;
	r->band.mem = NULL;
	r->band.first = n;
	r->band.spec.out = rows;
	r->band.scale += (size_t)n * s->groups;
	r->band.zero += (size_t)n * s->groups;
	if (!r->words.how) {
		r->band.code += (size_t)n * s->in;
		return &r->band;
	}
	forget_before(r, n);
	qf_codes_read_rows(&r->words, n, rows, r->room);
	r->band.code = r->room;
	return &r->band;
}

int repack_rows_across(struct repack_rows *r, uint32_t k, uint32_t count,
		       const struct ql **out, struct err *err)
{
	const struct ql_spec *s = &r->ql.spec;

	if (!r->across)
		r->across = mem_alloc(s->out, BITS_TILE_IN, err);
	if (!r->across)
		return -1;
	if (r->words.how)
		qf_codes_read_cols(&r->words, k, count, r->across);
	else
		for (uint32_t n = 0; n < s->out; n++)
			memcpy(r->across + (size_t)n * count,
			       r->ql.code + (size_t)n * s->in + k, count);
	r->band = r->ql;
	r->band.spec.in = count;
	r->band.group_of += k;
	r->band.code = r->across;
	*out = &r->band;
	return 0;
}

void repack_rows_close(struct repack_rows *r)
{
	repack_close(&r->ql, &r->words);
	free(r->room);
	free(r->across);
	r->room = r->across = NULL;
}

/* ---- writing ---- */

/* Where rounding to nearest gives infinity. */
static float overflow_at(enum dtype type)
{
	return type == DT_F16 ? 65520.0f :
	       type == DT_BF16 ? 0x1.ffp127f : INFINITY;
}

int repack_dense_row(const struct ql *ql, uint32_t n, enum dtype type,
		     float *row, void *out, struct err *err)
{
	float end = overflow_at(type);

	ql_dequant_row(ql, n, row);
	for (uint32_t k = 0; k < ql->spec.in; k++)
		if (fabsf(row[k]) >= end && isfinite(row[k]))
			return err_set(err, ERR_UNSUP,
				       "weight %g at output %u, input %u does "
				       "not fit %s", (double)row[k],
				       ql->first + n, k,
				       tensor_dtype_name(type));
	if (tensor_store_f32(row, ql->spec.in, type, out))
		return err_set(err, ERR_UNSUP, "weights cannot be %s",
			       tensor_dtype_name(type));
	return 0;
}

static int dense_rows(const struct ql *band, enum dtype type, uint8_t *to,
		      struct err *err)
{
	size_t bytes = band->spec.in * (tensor_dtype_bits(type) / 8);
	float *row = mem_alloc(band->spec.in, sizeof(*row), err);
	int ret = row ? 0 : -1;

	for (uint32_t n = 0; !ret && n < band->spec.out; n++)
		ret = repack_dense_row(band, n, type, row, to + n * bytes, err);
	free(row);
	return ret;
}

/* Rows of one head change places; `room` has the bytes of a head. */
static void turn(uint8_t *rows, uint32_t count, uint64_t bytes, uint32_t head,
		 uint8_t *room)
{
	for (uint32_t n = 0; n < count; n += head) {
		uint8_t *at = rows + n * bytes;

		for (uint32_t i = 0; i < head; i++)
			memcpy(room + tensor_turned_row(i, head) * bytes,
			       at + i * bytes, bytes);
		memcpy(at, room, head * bytes);
	}
}

/* Where bands go. */
struct pouring {
	const struct repack_item *item;
	const struct qfmt *to; /* NULL: dense */
	struct st_writer *w;   /* NULL: nowhere */
	uint64_t bytes;        /* of a row */
	uint32_t turned;
	uint8_t *piece, *head; /* room for a band and for a head */
};

static int pour_band(const struct pouring *p, const struct ql *band,
		     struct err *err)
{
	uint32_t rows = band->spec.out;
	void *part[QF_PARTS] = { p->piece };

	if (p->to ? p->to->write(band, part, err) :
		    dense_rows(band, p->item->plan.part[0].type, p->piece, err))
		return -1;
	if (p->turned)
		turn(p->piece, rows, p->bytes, p->turned, p->head);
	return !p->w ? 0 : st_writer_pour(p->w, p->item->id,
					  band->first * p->bytes, p->piece,
					  rows * p->bytes, err);
}

int repack_rows_pour(const struct repack_job *job,
		     const struct repack_item *item, uint32_t turned,
		     struct st_writer *w, struct err *err)
{
	struct pouring p = { .item = item, .w = w, .turned = turned,
		.to = repack_target(job, item->layer),
		.bytes = item->plan.part[0].bytes / item->way->spec.out };
	struct repack_rows r = { .m = job->model, .way = item->way,
		.module = item->layer->module, .unit = turned };
	int ret;

	if (repack_rows_open(&r, err))
		return -1;
	p.piece = mem_alloc(r.step, p.bytes, err);
	p.head = mem_alloc(turned, p.bytes, err);
	ret = p.piece && p.head ? 0 : -1;
	for (uint32_t n = 0; !ret && n < r.ql.spec.out; n += r.step)
		ret = pour_band(&p, repack_rows_at(&r, n), err);
	if (ret)
		err_ctx(err, "%s", item->layer->module->name);
	repack_rows_close(&r);
	free(p.piece);
	free(p.head);
	return ret;
}

/* ---- comparing ---- */

static void add_diff(struct ql_diff *sum, const struct ql_diff *d,
		     uint32_t n, uint32_t k)
{
	if (d->unequal && (!sum->unequal || d->max_abs > sum->max_abs)) {
		sum->max_abs = d->max_abs;
		sum->n = n + d->n;
		sum->k = k + d->k;
	}
	sum->unequal += d->unequal;
	sum->sum_abs += d->sum_abs;
}

/* Inputs alone are moved: bands of one height, and of the width that each layer
 * has. */
static int compare_rows(struct repack_rows *a, struct repack_rows *b,
			const struct ql_map *map, struct ql_diff *diff,
			struct err *err)
{
	uint32_t out = a->ql.spec.out;
	struct ql_diff d;

	a->step = b->step = a->step < b->step ? a->step : b->step;
	for (uint32_t n = 0; n < out; n += a->step) {
		const struct ql *was = repack_rows_at(a, n);
		struct ql_map part = { NULL, map->col, was->spec.out, map->in };

		if (ql_compare_moved(was, &part, repack_rows_at(b, n), &d, err))
			return -1;
		add_diff(diff, &d, n, 0);
	}
	return 0;
}

/* Outputs alone are moved. */
static int compare_across(struct repack_rows *a, struct repack_rows *b,
			  const struct ql_map *map, struct ql_diff *diff,
			  struct err *err)
{
	uint32_t in = a->ql.spec.in;
	struct ql_diff d;

	for (uint32_t k = 0; k < in; k += BITS_TILE_IN) {
		uint32_t count = in - k < BITS_TILE_IN ? in - k : BITS_TILE_IN;
		struct ql_map part = { map->row, NULL, map->out, count };
		const struct ql *was, *is;

		if (repack_rows_across(a, k, count, &was, err) ||
		    repack_rows_across(b, k, count, &is, err) ||
		    ql_compare_moved(was, &part, is, &d, err))
			return -1;
		add_diff(diff, &d, 0, k);
	}
	return 0;
}

static int compare(struct repack_rows *a, struct repack_rows *b,
		   const struct ql_map *map, struct ql_diff *diff,
		   struct err *err)
{
	const struct ql_spec *was = &a->ql.spec, *is = &b->ql.spec;
	bool rows = map->row || map->out != was->out;
	bool cols = map->col || map->in != was->in;

	if (is->in != map->in || is->out != map->out)
		return err_set(err, ERR_INPUT, "a layer of shape [%u, %u] "
			       "cannot be compared with one of [%u, %u]",
			       is->out, is->in, map->out, map->in);
	if (rows && cols)
		return err_set(err, ERR_UNSUP, "outputs and inputs are moved "
			       "at once");
	return rows ? compare_across(a, b, map, diff, err) :
		      compare_rows(a, b, map, diff, err);
}

static bool same_floats(const float *a, const float *b, size_t n)
{
	return !memcmp(a, b, n * sizeof(*a));
}

/* Do the two layers have one grid: the same scale, zero and group wherever
 * there is a weight? */
static bool same_grid(const struct ql *a, const struct ql *b)
{
	const struct ql_spec *s = &a->spec, *t = &b->spec;
	size_t n = (size_t)s->out * s->groups;

	return s->out == t->out && s->in == t->in && s->groups == t->groups &&
	       s->bits == t->bits && s->zero_kind == t->zero_kind &&
	       same_floats(a->scale, b->scale, n) &&
	       same_floats(a->zero, b->zero, n) &&
	       !memcmp(a->group_of, b->group_of,
		       s->in * sizeof(*a->group_of));
}

int repack_same_codes(const struct repack_pair *p, const struct repack_way *w,
		      struct err *err)
{
	struct ql was, is;
	struct qf_words a, b;
	int ret = -1;

	if (w->moved)
		return 0;
	if (repack_open(p->was, p->from, w, true, &was, &a, err))
		return -1;
	if (!repack_open(p->is, p->to, NULL, true, &is, &b, err)) {
		ret = a.how && b.how && same_grid(&was, &is) &&
		      qf_codes_equal(&a, &b);
		repack_close(&is, &b);
	}
	repack_close(&was, &a);
	return ret;
}

int repack_rows_compare(const struct repack_pair *p, const struct ql_map *map,
			struct ql_diff *diff, struct err *err)
{
	struct repack_rows a = { .m = p->was, .module = p->from };
	struct repack_rows b = { .m = p->is, .module = p->to };
	int ret = -1;

	memset(diff, 0, sizeof(*diff));
	if (repack_rows_open(&a, err))
		return -1;
	if (!repack_rows_open(&b, err)) {
		ret = compare(&a, &b, map, diff, err);
		repack_rows_close(&b);
	}
	repack_rows_close(&a);
	return ret;
}
