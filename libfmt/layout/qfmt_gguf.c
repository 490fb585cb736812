/* Blocks of ggml, as GGUF files hold them: one tensor NAME.weight [N, K], its
 * rows cut into blocks of 32 inputs, each with its own scale.
 *
 *	Q4_0  f16 d,         16 bytes   W = d * (q - 8)
 *	Q4_1  f16 d, f16 m,  16 bytes   W = d * q + m
 *	Q8_0  f16 d,         32 x i8    W = d * q
 *
 *	byte j of 16:  input j in the low half, input j + 16 in the high half
 *
 * A group of 64 or 128 is 2 or 4 blocks with one scale; which groups there were
 * is known where the file says so (hint.group_size), and is checked.  Rows may
 * stand turned (tensor_row_data).  Q5_0, Q5_1 and the K-quants are read
 * (qfmt_gguf_read.c), all other types recognised.
 * Source: gptq-formats(5) "GGUF"; ggml-quants.c. */
#include "../base/err.h"
#include "../base/half.h"
#include "../base/mem.h"
#include "qfmt_gguf.h"
#include "qfmt_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 32 /* inputs */

static int claims(const struct qf_module *m, const struct qf_hint *hint)
{
	const struct tensor *w = qf_part(m, "weight");

	(void)hint;
	return w && qf_gguf_kind(w->type) != NULL;
}

/* ---- reading ---- */

static uint32_t block_bytes(enum dtype type)
{
	uint32_t bytes;

	tensor_dtype_block(type, &bytes);
	return bytes;
}

/* W = d * (q - z), where m is that: z whole, and nothing is rounded. */
static bool point_of(const uint8_t *block, float *z)
{
	float d = half_to_f32(half_le16(block));
	float m = half_to_f32(half_le16(block + 2));

	return qf_point(d, -m, DT_F32, 15, z);
}

/* Q4_1: zero points if every block has one; a file of other programs fails at
 * its first block. */
static void look_offsets(const struct tensor *t, struct ql_spec *s)
{
	uint64_t blocks = t->size / block_bytes(DT_Q4_1);
	const uint8_t *p = t->data;
	float z;

	s->zero_kind = QL_OFFSET;
	s->sym = 0;
	if (!p)
		return;
	for (uint64_t i = 0; i < blocks; i++, p += block_bytes(DT_Q4_1))
		if (!point_of(p, &z))
			return;
	s->zero_kind = QL_POINT;
	s->sym = 1;
	p = t->data;
	for (uint64_t i = 0; i < blocks; i++, p += block_bytes(DT_Q4_1))
		if (point_of(p, &z) && (z < 8 || z > 8))
			s->sym = 0;
}

/* Groups of several blocks are what a file of our own may tell. */
static void set_groups(const struct qf_gguf_kind *k, const struct qf_hint *h,
		       struct ql_spec *s)
{
	bool ours = k->type == DT_Q4_0 || k->type == DT_Q4_1 ||
		    k->type == DT_Q8_0;

	s->group_size = k->group < s->in ? k->group : s->in;
	if (ours && h && (h->group_size < 0 ||
			  (uint32_t)h->group_size > s->in))
		s->group_size = s->in;
	else if (ours && h && h->group_size && h->group_size % BLOCK == 0)
		s->group_size = (uint32_t)h->group_size;
	s->groups = (s->in - 1) / s->group_size + 1;
}

/* Where the type is not decoded, the spec is filled all the same. */
static int spec_of(struct qf_layer *l, struct ql_spec *s, struct err *err)
{
	const struct tensor *t = qf_need(l->module, "weight", err);
	const struct qf_gguf_kind *k = t ? qf_gguf_kind(t->type) : NULL;
	const struct tensor *bias = qf_part(l->module, "bias");

	if (!k || qf_rank_check(t, 2, err))
		return -1;
	memset(s, 0, sizeof(*s));
	s->out = (uint32_t)t->dim[0];
	s->in = (uint32_t)t->dim[1];
	s->bits = k->bits;
	s->scale_type = k->scale_type ? k->scale_type : DT_F16;
	s->zero_kind = k->zero_kind;
	s->sym = k->zero_kind == QL_POINT;
	set_groups(k, l->hint, s);
	if (bias && !tensor_is_shape(bias, 1, s->out, 0))
		l->odd |= QF_ODD_BIAS;
	if (k->scale_type == DT_NONE)
		return err_set(err, ERR_UNSUP, "%s: blocks of type %s are "
			       "listed, not decoded (Q4_0, Q4_1, Q5_0, Q5_1, "
			       "Q8_0, Q4_K, Q5_K and Q6_K are)", t->name,
			       tensor_dtype_name(t->type));
	if (t->type == DT_Q4_1)
		look_offsets(t, s);
	return 0;
}

/* One more block of a group has to have the scale of the first. */
static int same_grid(const struct tensor *t, uint32_t n, uint32_t g,
		     const float was[2], const float is[2], struct err *err)
{
	if (half_bits(was[0]) == half_bits(is[0]) &&
	    half_bits(was[1]) == half_bits(is[1]))
		return 0;
	return err_set(err, ERR_INPUT, "%s: output %u: more than one scale in "
		       "group %u, as the file has its groups", t->name, n, g);
}

static int grid_row(const struct tensor *t, uint32_t n, struct ql *ql,
		    struct err *err)
{
	const struct qf_gguf_kind *kind = qf_gguf_kind(t->type);
	const struct ql_spec *s = &ql->spec;
	const uint8_t *p = tensor_row_data(t, n);
	uint32_t bytes, size = tensor_dtype_block(t->type, &bytes);
	float *scale = ql->scale + (size_t)n * s->groups, d[16];
	float *zero = ql->zero + (size_t)n * s->groups, z[16];
	bool point = t->type == DT_Q4_1 && s->zero_kind == QL_POINT;

	for (uint32_t k = 0; k < s->in; k += size, p += bytes) {
		qf_gguf_grid(t->type, p, d, z);
		if (point)
			point_of(p, &z[0]);
		for (uint32_t i = 0; i < size / kind->group; i++) {
			uint32_t at = k + i * kind->group;
			uint32_t g = at / s->group_size;

			if (at % s->group_size == 0) {
				scale[g] = d[i];
				zero[g] = z[i];
			} else if (same_grid(t, n, g,
					     (float[2]){ scale[g], zero[g] },
					     (float[2]){ d[i], z[i] }, err)) {
				return -1;
			}
		}
	}
	return 0;
}

static int read_of(struct qf_layer *l, struct ql *ql, struct err *err)
{
	const struct tensor *t = qf_part(l->module, "weight");
	struct ql_spec s;

	memset(ql, 0, sizeof(*ql));
	if (spec_of(l, &s, err))
		return -1;
	if (!t->data)
		return err_set(err, ERR_UNSUP, "%s: only its header was read",
			       t->name);
	if (qf_codes_open(l, &s, &qf_gguf_codes, t, ql, err))
		return -1;
	for (uint32_t n = 0; n < s.out; n++)
		if (grid_row(t, n, ql, err)) {
			ql_release(ql);
			return -1;
		}
	return 0;
}

/* ---- writing ---- */

/* Blocks for codes as these; DT_NONE: there are none.  Codes of less than four
 * bits around their middle fit Q4_0, other zero points take the eight bits of
 * Q8_0 to stay exact, or Q4_1 where rounding is allowed. */
static enum dtype type_for(const struct ql_spec *s, bool lossy)
{
	if (s->zero_kind == QL_OFFSET)
		return s->bits <= 4 ? DT_Q4_1 : DT_NONE;
	if (s->bits <= 4 && s->sym)
		return DT_Q4_0;
	return lossy && s->bits <= 4 ? DT_Q4_1 : DT_Q8_0;
}

static int accept_any(const struct ql_spec *s, bool lossy, struct err *err)
{
	if (s->act_order)
		return err_set(err, ERR_UNSUP, "GGUF has no g_idx, and this "
			       "layer's groups are scattered (act-order); "
			       "--to dense first keeps its values");
	if (s->in % BLOCK || (s->groups > 1 && s->group_size % BLOCK))
		return err_set(err, ERR_UNSUP, "GGUF has blocks of %d inputs, "
			       "which do not fit groups of %u and %u inputs",
			       BLOCK, s->group_size, s->in);
	if (type_for(s, lossy) == DT_NONE)
		return err_set(err, ERR_UNSUP, "GGUF has no blocks for codes "
			       "of %u bits with offsets", s->bits);
	return 0;
}

static int plan_any(const struct ql_spec *s, bool lossy, struct qf_plan *p,
		    struct err *err)
{
	enum dtype type;

	memset(p, 0, sizeof(*p));
	if (accept_any(s, lossy, err))
		return -1;
	type = type_for(s, lossy);
	qf_plan_add(p, "weight", type, s->out, s->in);
	p->part[0].bytes = (uint64_t)s->out * (s->in / BLOCK) *
			   block_bytes(type);
	return 0;
}

/* What a row is written with. */
struct writer {
	const struct ql *ql;
	enum dtype type;
	bool lossy;
};

/* v as f16; exactly, unless rounding is allowed. */
static int put_half(const struct writer *w, float v, uint8_t *to,
		    struct err *err)
{
	uint16_t h = half_from_f32(v);
	float back = half_to_f32(h);

	half_put16(to, h);
	if (half_bits(back) == half_bits(v) || (w->lossy && isfinite(back)))
		return 0;
	return err_set(err, ERR_UNSUP, "%.9g is not exact in F16, which is "
		       "what GGUF's blocks have", (double)v);
}

static void put_nibbles(const uint8_t *code, int add, uint8_t *p)
{
	for (int j = 0; j < 16; j++)
		p[j] = (uint8_t)((code[j] + add) |
				 (code[j + 16] + add) << 4);
}

static int put_bytes(const uint8_t *code, float zero, uint8_t *p,
		     struct err *err)
{
	for (int j = 0; j < BLOCK; j++) {
		int v = code[j] - (int)zero;

		if (v < -128 || v > 127)
			return err_set(err, ERR_UNSUP, "code %u less zero "
				       "point %g is %d, which the 8 bits of "
				       "Q8_0 do not hold", code[j],
				       (double)zero, v);
		p[j] = (uint8_t)v;
	}
	return 0;
}

static int write_block(const struct writer *w, const uint8_t *code,
		       const float grid[2], uint8_t *p, struct err *err)
{
	bool offset = w->ql->spec.zero_kind == QL_OFFSET;

	if (put_half(w, grid[0], p, err))
		return err_ctx(err, "scale");
	switch (w->type) {
	case DT_Q8_0:
		return put_bytes(code, grid[1], p + 2, err);
	case DT_Q4_0:
		put_nibbles(code, 8 - (int)grid[1], p + 2);
		return 0;
	default:
		put_nibbles(code, 0, p + 4);
		if (put_half(w, offset ? -grid[1] : -grid[0] * grid[1], p + 2,
			     err))
			return err_ctx(err, "offset");
		return 0;
	}
}

static int write_any(const struct ql *ql, bool lossy, uint8_t *p,
		     struct err *err)
{
	const struct ql_spec *s = &ql->spec;
	struct writer w = { ql, type_for(s, lossy), lossy };

	if (accept_any(s, lossy, err))
		return -1;
	for (uint32_t n = 0; n < s->out; n++)
		for (uint32_t k = 0; k < s->in; k += BLOCK) {
			size_t at = (size_t)n * s->groups + k / s->group_size;
			float grid[2] = { ql->scale[at], ql->zero[at] };

			if (write_block(&w, ql->code + (size_t)n * s->in + k,
					grid, p, err))
				return err_ctx(err, "output %u, group %u",
					       ql->first + n,
					       k / s->group_size);
			p += block_bytes(w.type);
		}
	return 0;
}

static int accept(const struct ql_spec *s, struct err *err)
{
	return accept_any(s, false, err);
}

static int plan(const struct ql_spec *s, struct qf_plan *p, struct err *err)
{
	return plan_any(s, false, p, err);
}

static int write_of(const struct ql *ql, void *const part[], struct err *err)
{
	return write_any(ql, false, part[0], err);
}

static int accept_lossy(const struct ql_spec *s, struct err *err)
{
	return accept_any(s, true, err);
}

static int plan_lossy(const struct ql_spec *s, struct qf_plan *p,
		      struct err *err)
{
	return plan_any(s, true, p, err);
}

static int write_lossy(const struct ql *ql, void *const part[],
		       struct err *err)
{
	return write_any(ql, true, part[0], err);
}

/* ---- the rows ---- */

static const char *const owned[] = { "weight", NULL };

const struct qfmt qf_gguf = {
	"gguf", "ggml's blocks of 32 inputs: Q4_0, Q4_1, Q8_0",
	owned, claims, spec_of, read_of, accept, plan, write_of, NULL
};

const struct qfmt qf_gguf_lossy = {
	"gguf", "the same; scales and offsets may be rounded",
	owned, claims, spec_of, read_of, accept_lossy, plan_lossy, write_lossy,
	NULL
};
