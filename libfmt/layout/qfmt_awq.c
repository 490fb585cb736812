/* AWQ, the GEMM version: 4 bits, packed along the outputs.
 *
 *	qweight [K, N/8]   word w of a row holds outputs 8w .. 8w+7, interleaved
 *	qzeros  [G, N/8]   true zeros, the same way
 *	scales  [G, N]     F16
 *
 * No g_idx: groups are contiguous and all of one size.
 * Source: gptq-formats(5) "AWQ". */
#include "../base/err.h"
#include "../base/mem.h"
#include "bits.h"
#include "qfmt_impl.h"

#include <stdlib.h>
#include <string.h>

#define PER_WORD 8

static const uint8_t order[PER_WORD] = { 0, 2, 4, 6, 1, 3, 5, 7 };
static const struct bits_rule interleaved = { BITS_STREAM, order };

static int claims(const struct qf_module *m, const struct qf_hint *hint)
{
	const struct tensor *c = qf_part(m, "qweight");
	const struct tensor *z = qf_part(m, "qzeros");
	const struct tensor *s = qf_part(m, "scales");

	if (!c || !z || !s || c->type != DT_I32 || z->type != DT_I32 ||
	    c->rank != 2 || z->rank != 2 || s->rank != 2 ||
	    qf_part(m, "g_idx") || qf_format_is(hint, "gemv"))
		return 0;
	return s->dim[1] == PER_WORD * c->dim[1] && z->dim[0] == s->dim[0] &&
	       z->dim[1] == c->dim[1];
}

static int find(struct qf_found *f, struct err *err)
{
	const struct qf_module *m = f->layer->module;
	uint64_t in, out;

	f->codes = qf_need(m, "qweight", err);
	f->zeros = f->codes ? qf_need(m, "qzeros", err) : NULL;
	f->scales = f->zeros ? qf_need(m, "scales", err) : NULL;
	if (!f->scales || qf_words_check(f->codes, err) ||
	    qf_words_check(f->zeros, err) || qf_floats_check(f->scales, err))
		return -1;
	in = f->codes->dim[0];
	out = PER_WORD * f->codes->dim[1];
	if (qf_shape_check(f->scales, f->scales->dim[0], out, err) ||
	    qf_shape_check(f->zeros, f->scales->dim[0], out / PER_WORD, err))
		return -1;
	return qf_found_spec(f, in, out, err);
}

static int grid(struct qf_found *f, float *scale, float *zero,
		struct err *err)
{
	const struct ql_spec *s = &f->spec;
	const uint8_t *words = f->zeros->data;
	float *row = mem_alloc(s->out, sizeof(*row), err);
	uint8_t *field = mem_alloc(s->out, 1, err);
	int ret = -1;

	if (!row || !field)
		goto out;
	for (uint32_t g = 0; g < s->groups; g++) {
		tensor_load_f32(f->scales, (uint64_t)g * s->out, s->out, row);
		bits_unpack(&interleaved, 4, words + (size_t)g * s->out / 2, 1,
			    s->out, field, 1);
		for (uint32_t n = 0; n < s->out; n++) {
			scale[(size_t)n * s->groups + g] = row[n];
			zero[(size_t)n * s->groups + g] = (float)field[n];
		}
	}
	ret = 0;
out:
	free(row);
	free(field);
	return ret;
}

/* ---- codes ---- */

static void get(const struct qf_words *w, uint32_t n, uint32_t k,
		struct bits_tile *t)
{
	const struct bits_isa *isa = bits_isa_best();
	uint32_t cols = w->out - n < BITS_TILE_OUT ? w->out - n : BITS_TILE_OUT;
	size_t row = w->out / 2;
	const uint8_t *p = (const uint8_t *)w->data + row * k + n / 2;
	uint8_t copy[8][BITS_TILE_OUT / 2];

	for (uint32_t j = 0; j < BITS_TILE_IN && k + j < w->in; j += 8) {
		uint32_t rows = w->in - k - j;

		if (rows >= 8) {
			isa->awq_get(p + row * j, row, cols / 8,
				     t->oct + j / 8);
			continue;
		}
		memset(copy, 0, sizeof(copy));
		for (uint32_t i = 0; i < rows; i++)
			memcpy(copy[i], p + row * (j + i), cols / 2);
		isa->awq_get(copy[0], sizeof(copy[0]), cols / 8,
			     t->oct + j / 8);
	}
}

static void put(const struct bits_tile *t, const struct qf_strip *s,
		uint32_t n, uint32_t k)
{
	const struct bits_isa *isa = bits_isa_best();
	uint32_t cols = s->out - n < BITS_TILE_OUT ? s->out - n : BITS_TILE_OUT;
	size_t row = s->out / 2;
	uint8_t *p = (uint8_t *)s->to + row * k + n / 2;
	uint8_t copy[8][BITS_TILE_OUT / 2];

	for (uint32_t j = 0; j < BITS_TILE_IN && k + j < s->in; j += 8) {
		uint32_t rows = s->in - k - j;

		if (rows >= 8) {
			isa->awq_put(t->oct + j / 8, p + row * j, row,
				     cols / 8);
			continue;
		}
		isa->awq_put(t->oct + j / 8, copy[0], sizeof(copy[0]),
			     cols / 8);
		for (uint32_t i = 0; i < rows; i++)
			memcpy(p + row * (j + i), copy[i], cols / 2);
	}
}

static const struct qf_codes codes = { false, get, put };

/* ---- writing ---- */

/* The groups written: one group per row is not known to all readers, and is
 * split into real ones.  0: cannot be. */
static uint32_t group_of_size(const struct ql_spec *s)
{
	if (s->group_size < s->in || s->in <= 128)
		return s->group_size;
	for (uint32_t gs = 128; gs >= 32; gs /= 2)
		if (s->in % gs == 0)
			return gs;
	return 0;
}

static int accept(const struct ql_spec *s, struct err *err)
{
	if (s->bits != 4)
		return err_set(err, ERR_UNSUP, "awq has no codes of %u bits "
			       "(4 exist)", s->bits);
	if (s->zero_kind != QL_POINT)
		return err_set(err, ERR_UNSUP, "awq holds whole zero points "
			       "only, this layer's are fractions");
	if (s->act_order)
		return err_set(err, ERR_UNSUP, "awq has no g_idx, and this "
			       "layer's groups are scattered (act-order)");
	if (s->scale_type != DT_F16)
		return err_set(err, ERR_UNSUP, "awq has F16 scales, this "
			       "layer's are %s",
			       tensor_dtype_name(s->scale_type));
	if (s->out % PER_WORD)
		return err_set(err, ERR_UNSUP, "awq holds outputs in multiples "
			       "of 8, not %u", s->out);
	if (!group_of_size(s) || s->in % group_of_size(s))
		return err_set(err, ERR_UNSUP, "awq's groups must divide the "
			       "inputs: %u inputs in groups of %u do not",
			       s->in, s->group_size);
	return 0;
}

static int plan(const struct ql_spec *s, struct qf_plan *p, struct err *err)
{
	uint32_t groups;

	memset(p, 0, sizeof(*p));
	if (accept(s, err))
		return -1;
	groups = s->in / group_of_size(s);
	qf_plan_add(p, "qweight", DT_I32, s->in, s->out / PER_WORD);
	qf_plan_add(p, "qzeros", DT_I32, groups, s->out / PER_WORD);
	qf_plan_add(p, "scales", DT_F16, groups, s->out);
	return 0;
}

static void put_zeros(const struct ql *ql, uint8_t *row, uint8_t *words)
{
	uint32_t out = ql->spec.out, groups = ql->spec.groups;

	for (uint32_t g = 0; g < groups; g++) {
		for (uint32_t n = 0; n < out; n++)
			row[n] = (uint8_t)ql->zero[(size_t)n * groups + g];
		bits_pack(&interleaved, 4, row, 1, out,
			  words + (size_t)g * out / 2, 1);
	}
}

static int write_of(const struct ql *ql, void *const part[], struct err *err)
{
	struct ql wide = { .mem = NULL };
	uint8_t *row = NULL;
	int ret = -1;

	if (accept(&ql->spec, err) || qf_zeros_fit(ql, "awq", err) ||
	    qf_split(ql, group_of_size(&ql->spec), &wide, err))
		goto out;
	row = mem_alloc(ql->spec.out, 1, err);
	if (!row || qf_scales_write(&wide, false, part[2], err))
		goto out;
	if (ql->code)
		qf_codes_write(&codes, ql->code,
			       &(struct qf_strip){ 4, ql->spec.out,
						   ql->spec.in, part[0] });
	put_zeros(&wide, row, part[1]);
	ret = 0;
out:
	free(row);
	free(wide.mem);
	return ret;
}

/* ---- the row ---- */

static const struct qf_steps steps = { find, grid, NULL, &codes };
static const char *const owned[] = { "qweight", "qzeros", "scales", NULL };

static int spec_of(struct qf_layer *l, struct ql_spec *spec, struct err *err)
{
	return qf_steps_spec(&steps, l, spec, err);
}

static int read_of(struct qf_layer *l, struct ql *ql, struct err *err)
{
	return qf_steps_read(&steps, l, ql, err);
}

const struct qfmt qf_awq = {
	"awq", "AWQ (GEMM): 4-bit codes packed along the outputs", owned,
	claims, spec_of, read_of, accept, plan, write_of, &codes
};
