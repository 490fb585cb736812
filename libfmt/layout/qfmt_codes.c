#include "qfmt_codes.h"

#include "../base/half.h"
#include "../container/tensor.h"

#include <string.h>

/* ---- down the columns ---- */

static const struct bits_rule planar = { BITS_PLANAR, NULL };

static void stream_get(const struct qf_words *w, uint32_t n, uint32_t k,
		       struct bits_tile *t)
{
	bits_tile_get(&bits_stream, w->bits, w->data, w->cols, w->in, n, k,
		      t);
}

static void stream_put(const struct bits_tile *t, const struct qf_strip *s,
		       uint32_t n, uint32_t k)
{
	bits_tile_put(&bits_stream, s->bits, t, s->out, s->in, n, k, s->to);
}

static void planar_get(const struct qf_words *w, uint32_t n, uint32_t k,
		       struct bits_tile *t)
{
	bits_tile_get(&planar, w->bits, w->data, w->cols, w->in, n, k, t);
}

static void planar_put(const struct bits_tile *t, const struct qf_strip *s,
		       uint32_t n, uint32_t k)
{
	bits_tile_put(&planar, s->bits, t, s->out, s->in, n, k, s->to);
}

const struct qf_codes qf_codes_stream = { false, stream_get, stream_put };
const struct qf_codes qf_codes_planar = { false, planar_get, planar_put };

#define CUT(id, bits_of_word)                                               \
	static void id##_get(const struct qf_words *w, uint32_t n,          \
			     uint32_t k, struct bits_tile *t)               \
	{                                                                   \
		bits_tile_get_cut(bits_of_word, w->bits, w->data, w->cols,  \
				  w->in, n, k, t);                          \
	}                                                                   \
	const struct qf_codes qf_codes_##id = { false, id##_get, NULL }
CUT(i8, 8);
CUT(i16, 16);
CUT(i64, 64);

/* ---- along the rows ---- */

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* Bytes of 128 fields, at most. */
#define ROW_BYTES BITS_TILE_IN

void qf_rows_get(const struct qf_words *w, size_t stride, uint32_t n,
		 uint32_t k, struct bits_tile *t)
{
	const struct bits_isa *isa = bits_isa_best();
	const uint8_t *p = w->data;
	uint32_t cols = least(w->out - n, BITS_TILE_OUT);
	size_t from = (size_t)k / 8 * w->bits;
	uint8_t copy[BITS_TILE_OUT][ROW_BYTES];

	p += n * stride + from;
	if (w->in - k >= BITS_TILE_IN) {
		isa->rows_get(w->bits, p, stride, cols, t->oct);
		return;
	}
	memset(copy, 0, sizeof(copy));
	for (uint32_t c = 0; c < cols; c++)
		memcpy(copy[c], p + c * stride, stride - from);
	isa->rows_get(w->bits, copy[0], ROW_BYTES, cols, t->oct);
	bits_tile_trim(t, w->in - k);
}

void qf_rows_put(const struct bits_tile *t, const struct qf_strip *s,
		 size_t stride, uint32_t n, uint32_t k)
{
	const struct bits_isa *isa = bits_isa_best();
	uint32_t cols = least(s->out - n, BITS_TILE_OUT);
	size_t from = (size_t)k / 8 * s->bits;
	uint8_t *p = (uint8_t *)s->to + n * stride + from;
	uint8_t copy[BITS_TILE_OUT][ROW_BYTES];
	struct bits_tile last;
	uint32_t octs = (s->in - k + 7) / 8;

	if (octs >= BITS_TILE_OCTS) {
		isa->rows_put(s->bits, t->oct, p, stride, cols);
		return;
	}
	memset(&last, 0, sizeof(last));
	memcpy(&last, t, octs * sizeof(last.oct[0]));
	isa->rows_put(s->bits, last.oct, copy[0], ROW_BYTES, cols);
	for (uint32_t c = 0; c < cols; c++)
		memcpy(p + c * stride, copy[c], stride - from);
}

static void rows_get(const struct qf_words *w, uint32_t n, uint32_t k,
		     struct bits_tile *t)
{
	qf_rows_get(w, (size_t)w->in * w->bits / 8, n, k, t);
}

const struct qf_codes qf_codes_rows = { true, rows_get, NULL };

/* ---- tiles of a layer ---- */

static void get(const struct qf_words *w, uint32_t n, uint32_t k,
		struct bits_tile *t)
{
	uint64_t add = w->add * UINT64_C(0x0101010101010101);
	uint32_t octs = least((w->in - k + 7) / 8, BITS_TILE_OCTS);

	w->how->get(w, n, k, t);
	if (!add)
		return;
	for (uint32_t j = 0; j < octs; j++)
		for (uint32_t c = 0; c < BITS_TILE_OUT; c++)
			t->oct[j].of[c] += add;
	if (w->in - k < BITS_TILE_IN)
		bits_tile_trim(t, w->in - k);
}

void qf_codes_read_rows(const struct qf_words *w, uint32_t n, uint32_t count,
			uint8_t *code)
{
	struct bits_tile t;

	memset(&t, 0, sizeof(t));
	for (uint32_t i = 0; i < count; i += BITS_TILE_OUT)
		for (uint32_t k = 0; k < w->in; k += BITS_TILE_IN) {
			get(w, n + i, k, &t);
			bits_tile_to_bytes(&t, code + (size_t)i * w->in + k,
					   w->in,
					   least(count - i, BITS_TILE_OUT),
					   least(w->in - k, BITS_TILE_IN));
		}
}

void qf_codes_read_cols(const struct qf_words *w, uint32_t k, uint32_t count,
			uint8_t *code)
{
	struct bits_tile t;

	memset(&t, 0, sizeof(t));
	for (uint32_t n = 0; n < w->out; n += BITS_TILE_OUT) {
		get(w, n, k, &t);
		bits_tile_to_bytes(&t, code + (size_t)n * count, count,
				   least(w->out - n, BITS_TILE_OUT), count);
	}
}

void qf_codes_read(const struct qf_words *w, uint8_t *code)
{
	qf_codes_read_rows(w, 0, w->out, code);
}

void qf_codes_write(const struct qf_codes *how, const uint8_t *code,
		    const struct qf_strip *s)
{
	struct bits_tile t;

	memset(&t, 0, sizeof(t));
	for (uint32_t n = 0; n < s->out; n += BITS_TILE_OUT)
		for (uint32_t k = 0; k < s->in; k += BITS_TILE_IN) {
			bits_tile_from_bytes(&t, code + (size_t)n * s->in + k,
					     s->in,
					     least(s->out - n, BITS_TILE_OUT),
					     least(s->in - k, BITS_TILE_IN));
			how->put(&t, s, n, k);
		}
}

/* All tiles of a rectangle, so that rows of words are read in order. */
struct order {
	uint32_t rows, cols; /* of tiles */
	bool by_out;
	uint64_t tiles;
};

static struct order order_of(const struct qf_words *w, uint32_t out,
			     uint32_t in)
{
	uint32_t rows = (out - 1) / BITS_TILE_OUT + 1;
	uint32_t cols = (in - 1) / BITS_TILE_IN + 1;

	return (struct order) { rows, cols, w->how->by_out,
				(uint64_t)rows * cols };
}

static uint32_t order_n(const struct order *o, uint64_t i)
{
	return BITS_TILE_OUT * (uint32_t)(o->by_out ? i / o->cols :
						      i % o->rows);
}

static uint32_t order_k(const struct order *o, uint64_t i)
{
	return BITS_TILE_IN * (uint32_t)(o->by_out ? i % o->cols :
						     i / o->rows);
}

void qf_codes_pass(const struct qf_words *w, uint32_t n, uint32_t k,
		   const struct qf_codes *how, const struct qf_strip *s)
{
	struct order o = order_of(w, s->out, s->in);
	struct bits_tile t;

	memset(&t, 0, sizeof(t));
	for (uint64_t at = 0; at < o.tiles; at++) {
		uint32_t i = order_n(&o, at), j = order_k(&o, at);

		get(w, n + i, k + j, &t);
		how->put(&t, s, i, j);
	}
}

static bool tile_equal(const struct bits_tile *a, const struct bits_tile *b,
		       uint32_t cols, uint32_t octs)
{
	for (uint32_t j = 0; j < octs; j++)
		if (memcmp(a->oct[j].of, b->oct[j].of, 8 * (size_t)cols) != 0)
			return false;
	return true;
}

bool qf_codes_equal(const struct qf_words *a, const struct qf_words *b)
{
	/* rows that are cut into many tiles are the dearer ones */
	struct order o = order_of(b->how->by_out ? b : a, a->out, a->in);
	struct bits_tile x, y;

	if (a->how == b->how && a->bits == b->bits && a->add == b->add &&
	    a->cols == b->cols && a->of->type == b->of->type &&
	    a->of->turned == b->of->turned && a->size == b->size &&
	    memcmp(a->data, b->data, a->size) == 0)
		return true;
	memset(&x, 0, sizeof(x));
	memset(&y, 0, sizeof(y));
	for (uint64_t i = 0; i < o.tiles; i++) {
		uint32_t n = order_n(&o, i), k = order_k(&o, i);

		get(a, n, k, &x);
		get(b, n, k, &y);
		if (!tile_equal(&x, &y, least(a->out - n, BITS_TILE_OUT),
				(least(a->in - k, BITS_TILE_IN) + 7) / 8))
			return false;
	}
	return true;
}
