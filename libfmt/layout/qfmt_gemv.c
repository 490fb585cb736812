/* AWQ for single vectors, read only: GEMV and GEMV_FAST (llm-awq).
 *
 *	GEMV       qweight [N, K/8]    I32, inputs in order
 *	           qzeros  [N, W]      I32, groups in order
 *	           scales  [N, 8W]     columns from G on are 0
 *	GEMV_FAST  qweight [N/4, K]    I16, four outputs interleaved
 *	           qzeros  [8W, N]     float, -scale * zero
 *	           scales  [8W, N]     rows from G on are 0
 *
 * W = G / 8, rounded up to a multiple that depends on the group size; so the
 * size is found by trying those in use.
 * Source: gptq-formats(5) "AWQ". */
#include "../base/err.h"
#include "../base/half.h"
#include "../base/mem.h"
#include "bits.h"
#include "qfmt_impl.h"

#include <stdlib.h>
#include <string.h>

static bool parts_of(const struct qf_module *m, const struct tensor *t[3])
{
	t[0] = qf_part(m, "qweight");
	t[1] = qf_part(m, "qzeros");
	t[2] = qf_part(m, "scales");
	return t[0] && t[1] && t[2] && t[0]->rank == 2 && t[1]->rank == 2 &&
	       t[2]->rank == 2 && tensor_is_float(t[2]->type) &&
	       !qf_part(m, "g_idx");
}

/* At few groups the shapes of GPTQ and of GEMM may fit as well: then only the
 * label decides. */
static int gemv_claims(const struct qf_module *m, const struct qf_hint *hint)
{
	const struct tensor *t[3];
	bool gptq, gemm;

	if (!parts_of(m, t) || t[0]->type != DT_I32 || t[1]->type != DT_I32 ||
	    t[2]->dim[0] != t[0]->dim[0] || t[1]->dim[0] != t[0]->dim[0] ||
	    t[2]->dim[1] != 8 * t[1]->dim[1])
		return 0;
	gptq = t[2]->dim[1] == t[0]->dim[1];
	gemm = t[1]->dim[1] == t[0]->dim[1];
	return qf_format_is(hint, "gemv") || (!gptq && !gemm);
}

static int fast_claims(const struct qf_module *m, const struct qf_hint *hint)
{
	const struct tensor *t[3];

	(void)hint;
	return parts_of(m, t) && t[0]->type == DT_I16 &&
	       tensor_is_float(t[1]->type);
}

/* ---- the groups ---- */

/* Words of eight groups, with the padding. */
static uint32_t width(uint32_t groups, uint32_t gs)
{
	uint32_t m = gs >= 128 ? 1 : gs >= 64 ? 2 : 4;
	uint32_t w = (groups + 7) / 8;

	return (w + m - 1) / m * m;
}

/* Is the last of `groups` used and all behind it empty?  by_row: scales are
 * [N, 8W]. */
static bool used_to(const struct tensor *t, uint32_t groups, bool by_row)
{
	uint32_t cols = (uint32_t)t->dim[1];
	bool last = false, behind = false;

	for (uint32_t r = 0; r < t->dim[0]; r++)
		for (uint32_t c = 0; c < cols; c++) {
			uint32_t g = by_row ? c : r;
			float v;

			if (g + 1 < groups)
				continue;
			tensor_load_f32(t, (uint64_t)r * cols + c, 1, &v);
			if (half_bits(v) << 1 == 0)
				continue;
			last |= g + 1 == groups;
			behind |= g + 1 > groups;
		}
	return last && !behind;
}

static int find_groups(struct qf_found *f, bool by_row, struct err *err)
{
	struct ql_spec *s = &f->spec;
	uint32_t cols = (uint32_t)f->scales->dim[by_row ? 1 : 0];
	uint32_t said = f->hint->group_size > 0 ?
				(uint32_t)f->hint->group_size : 0;
	const uint32_t sizes[] = { said, 128, 64, 32, s->in };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		uint32_t gs = sizes[i];

		if (!gs || s->in % gs || 8 * width(s->in / gs, gs) != cols ||
		    (f->scales->data &&
		     !used_to(f->scales, s->in / gs, by_row)))
			continue;
		s->group_size = gs;
		s->groups = s->in / gs;
		return 0;
	}
	return err_set(err, ERR_INPUT, "%s: %u columns of groups do not match "
		       "%u inputs in groups of 32, 64 or 128",
		       f->scales->name, cols, s->in);
}

/* ---- GEMV ---- */

static int gemv_find(struct qf_found *f, struct err *err)
{
	const struct qf_module *m = f->layer->module;
	struct ql_spec *s = &f->spec;
	uint64_t out;

	f->codes = qf_part(m, "qweight");
	f->zeros = qf_part(m, "qzeros");
	f->scales = qf_part(m, "scales");
	if (qf_words_check(f->codes, err) || qf_words_check(f->zeros, err) ||
	    qf_floats_check(f->scales, err))
		return -1;
	out = f->codes->dim[0];
	if (qf_shape_check(f->zeros, out, f->zeros->dim[1], err) ||
	    qf_shape_check(f->scales, out, 8 * f->zeros->dim[1], err))
		return -1;
	s->bits = 4;
	s->out = (uint32_t)out;
	s->in = 8 * (uint32_t)f->codes->dim[1];
	s->scale_type = f->scales->type;
	return find_groups(f, true, err);
}

static int gemv_grid(struct qf_found *f, float *scale, float *zero,
		     struct err *err)
{
	const struct ql_spec *s = &f->spec;
	size_t w = (size_t)f->zeros->dim[1];
	const uint8_t *words = f->zeros->data;
	uint8_t *field = mem_alloc(s->groups, 1, err);

	if (!field)
		return -1;
	for (uint32_t n = 0; n < s->out; n++) {
		size_t at = (size_t)n * s->groups;

		tensor_load_f32(f->scales, 8 * w * n, s->groups, scale + at);
		bits_unpack(&bits_stream, 4, words + 4 * w * n, 1, s->groups,
			    field, 1);
		for (uint32_t g = 0; g < s->groups; g++)
			zero[at + g] = (float)field[g];
	}
	free(field);
	return 0;
}

/* ---- GEMV_FAST ---- */

static int fast_find(struct qf_found *f, struct err *err)
{
	const struct qf_module *m = f->layer->module;
	struct ql_spec *s = &f->spec;
	uint64_t out, rows;

	f->codes = qf_part(m, "qweight");
	f->zeros = qf_part(m, "qzeros");
	f->scales = qf_part(m, "scales");
	if (qf_rank_check(f->codes, 2, err) || qf_floats_check(f->zeros, err) ||
	    qf_floats_check(f->scales, err))
		return -1;
	out = 4 * f->codes->dim[0];
	rows = f->scales->dim[0];
	if (qf_shape_check(f->scales, rows, out, err) ||
	    qf_shape_check(f->zeros, rows, out, err))
		return -1;
	s->bits = 4;
	s->out = (uint32_t)out;
	s->in = (uint32_t)f->codes->dim[1];
	s->scale_type = f->scales->type;
	if (s->in % 64)
		return err_set(err, ERR_INPUT, "%s: %u inputs are no multiple "
			       "of 64", f->codes->name, s->in);
	return find_groups(f, false, err);
}

/* Offsets -scale * zero; where each is that, rounded once, zero points. */
static int fast_grid(struct qf_found *f, float *scale, float *zero,
		     struct err *err)
{
	struct ql_spec *s = &f->spec;
	size_t n = (size_t)s->out * s->groups;
	float *row = mem_alloc(s->out, 2 * sizeof(*row), err);
	float z;

	if (!row)
		return -1;
	for (uint32_t g = 0; g < s->groups; g++) {
		uint64_t from = (uint64_t)g * s->out;

		tensor_load_f32(f->scales, from, s->out, row);
		tensor_load_f32(f->zeros, from, s->out, row + s->out);
		for (uint32_t o = 0; o < s->out; o++) {
			size_t at = (size_t)o * s->groups + g;

			scale[at] = row[o];
			zero[at] = -row[s->out + o];
			if (!qf_point(scale[at], zero[at], f->zeros->type, 15,
				      &z))
				s->zero_kind = QL_OFFSET;
		}
	}
	for (size_t i = 0; s->zero_kind == QL_POINT && i < n; i++) {
		qf_point(scale[i], zero[i], f->zeros->type, 15, &z);
		zero[i] = z;
	}
	free(row);
	return 0;
}

/* Four outputs and 64 inputs make 64 elements of four nibbles. */
static uint32_t fast_code(const uint8_t *rows, uint32_t n, uint32_t k)
{
	uint32_t p = 8 * (k % 8 / 2) + 2 * (k % 32 / 8) + k % 2;
	uint32_t t = 8 * (p / 8) + 4 * (p % 2) + p % 8 / 2;
	uint32_t c = k / 32 * 32 + t;
	uint32_t flat = 64 * (n % 4) + c % 64;
	size_t at = 64 * (size_t)(c / 64) + flat / 4;

	return (uint32_t)half_le16(rows + 2 * at) >> 4 * (flat % 4) & 15u;
}

static void fast_get(const struct qf_words *w, uint32_t n, uint32_t k,
		     struct bits_tile *t)
{
	uint32_t cols = w->out - n < BITS_TILE_OUT ? w->out - n : BITS_TILE_OUT;
	uint32_t rows = w->in - k < BITS_TILE_IN ? w->in - k : BITS_TILE_IN;
	uint8_t code[BITS_TILE_OUT][BITS_TILE_IN];
	const uint8_t *words = w->data;

	for (uint32_t c = 0; c < cols; c++)
		for (uint32_t j = 0; j < rows; j++)
			code[c][j] = (uint8_t)fast_code(
				words + 2 * (size_t)((n + c) / 4) * w->in,
				n + c, k + j);
	bits_tile_from_bytes(t, code[0], BITS_TILE_IN, cols, rows);
}

static const struct qf_codes fast_codes = { true, fast_get, NULL };

/* ---- the rows ---- */

static const struct qf_steps gemv = { gemv_find, gemv_grid, NULL,
	&qf_codes_rows };
static const struct qf_steps fast = { fast_find, fast_grid, NULL,
	&fast_codes };
static const char *const owned[] = { "qweight", "qzeros", "scales", NULL };

static int gemv_spec(struct qf_layer *l, struct ql_spec *spec, struct err *err)
{
	return qf_steps_spec(&gemv, l, spec, err);
}

static int gemv_read(struct qf_layer *l, struct ql *ql, struct err *err)
{
	return qf_steps_read(&gemv, l, ql, err);
}

static int fast_spec(struct qf_layer *l, struct ql_spec *spec, struct err *err)
{
	return qf_steps_spec(&fast, l, spec, err);
}

static int fast_read(struct qf_layer *l, struct ql *ql, struct err *err)
{
	return qf_steps_read(&fast, l, ql, err);
}

const struct qfmt qf_awq_gemv = {
	"awq_gemv", "AWQ (GEMV): 4-bit codes packed along the inputs", owned,
	gemv_claims, gemv_spec, gemv_read, qf_no_accept, qf_no_plan,
	qf_no_write, NULL
};

const struct qfmt qf_awq_fast = {
	"awq_gemv_fast", "AWQ (GEMV_FAST) and llm-awq: interleaved outputs",
	owned, fast_claims, fast_spec, fast_read, qf_no_accept, qf_no_plan,
	qf_no_write, NULL
};
