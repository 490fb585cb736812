/* Marlin as its authors and AutoGPTQ serialize it: 4 bits, symmetric.
 *
 *	B  [K/16, 2N]  codes, shuffled for the tensor cores
 *	s  [G, N]      F16, columns shuffled
 *
 * Tiles of 16 inputs x 64 outputs are 128 words.  Word 4*lane + j of a tile
 * holds the outputs 16j + lane/4 (+ 8) and the inputs 2*(lane%4) (+ 0, 1, 8,
 * 9): what one thread of a warp multiplies.  AutoAWQ's marlin version has the
 * same tensors as qweight and scales.
 * Source: gptq-formats(5) sections 7.1, 7.2, 7.4 and 8.5. */
#include "../base/err.h"
#include "../base/half.h"
#include "../base/mem.h"
#include "qfmt_impl.h"

#include <stdlib.h>
#include <string.h>

#define TILE_IN 16
#define TILE_OUT 64
#define TILE_WORDS 128

static int is_awq(const struct qf_module *m)
{
	const struct tensor *c = qf_part(m, "qweight");
	const struct tensor *s = qf_part(m, "scales");

	return c && s && c->type == DT_I32 && c->rank == 2 && s->rank == 2 &&
	       !qf_part(m, "qzeros") && !qf_part(m, "zeros") &&
	       c->dim[1] == 2 * s->dim[1];
}

static int claims(const struct qf_module *m, const struct qf_hint *hint)
{
	const struct tensor *b = qf_part(m, "B");

	if (b && qf_part(m, "s") && !qf_part(m, "B_meta"))
		return b->type == DT_I32;
	return qf_format_is(hint, "marlin") && is_awq(m);
}

static int find(struct qf_found *f, struct err *err)
{
	const struct qf_module *m = f->layer->module;
	bool own = qf_part(m, "B") != NULL;
	struct ql_spec *s = &f->spec;
	uint64_t in, out;

	f->codes = qf_need(m, own ? "B" : "qweight", err);
	f->scales = f->codes ? qf_need(m, own ? "s" : "scales", err) : NULL;
	if (!f->scales || qf_words_check(f->codes, err) ||
	    qf_floats_check(f->scales, err))
		return -1;
	in = TILE_IN * f->codes->dim[0];
	out = f->codes->dim[1] / 2;
	if (f->codes->dim[1] % TILE_WORDS)
		return err_set(err, ERR_INPUT, "%s: %u columns are no whole "
			       "tiles of %u", f->codes->name,
			       (uint32_t)f->codes->dim[1], TILE_WORDS);
	if (qf_shape_check(f->scales, f->scales->dim[0], out, err))
		return -1;
	if (in % f->scales->dim[0])
		return err_set(err, ERR_INPUT, "%s: %u groups do not divide "
			       "%u inputs", f->scales->name,
			       (uint32_t)f->scales->dim[0], (uint32_t)in);
	s->bits = 4;
	s->in = (uint32_t)in;
	s->out = (uint32_t)out;
	s->groups = (uint32_t)f->scales->dim[0];
	s->group_size = s->in / s->groups;
	s->scale_type = f->scales->type;
	return 0;
}

/* Where column n of a row of scales is stored, and the other way round: both
 * shuffles are their own inverse. */
static uint32_t shuffled(uint32_t n, bool grouped)
{
	uint32_t p = n % 64;

	if (grouped)
		return n - p + 8 * (p % 8) + p / 8;
	p = n % 32;
	return n - p + 2 * (p / 8) + p % 2 + 8 * (p % 8 / 2);
}

static int grid(struct qf_found *f, float *scale, float *zero,
		struct err *err)
{
	const struct ql_spec *s = &f->spec;
	float *row = mem_alloc(s->out, sizeof(*row), err);

	if (!row)
		return -1;
	for (uint32_t g = 0; g < s->groups; g++) {
		tensor_load_f32(f->scales, (uint64_t)g * s->out, s->out, row);
		for (uint32_t n = 0; n < s->out; n++) {
			size_t at = (size_t)n * s->groups + g;

			scale[at] = row[shuffled(n, s->groups > 1)];
			zero[at] = 8;
		}
	}
	free(row);
	return 0;
}

/* The places of a word's eight nibbles from its first code on, in [out][in]:
 * even inputs in the low half, odd ones in the high half. */
static void nibbles(uint32_t in, size_t at[8])
{
	static const uint8_t which[8] = { 0, 2, 4, 6, 1, 3, 5, 7 };

	for (int e = 0; e < 8; e++) {
		uint32_t i = which[e];

		at[e] = i % 2 + 8 * (i / 2 % 2) + 8 * (size_t)(i / 4) * in;
	}
}

/* The first code of word w of the tile at output n0, input k0. */
static size_t first(uint32_t in, uint32_t n0, uint32_t k0, uint32_t w)
{
	uint32_t lane = w / 4, j = w % 4;

	return (size_t)(n0 + 16 * j + lane / 4) * in + k0 + 2 * (lane % 4);
}

static int codes(const struct qf_found *f, struct ql *ql, struct err *err)
{
	uint32_t in = ql->spec.in, out = ql->spec.out;
	const uint8_t *b = f->codes->data;
	size_t at[8];

	(void)err;
	nibbles(in, at);
	for (uint32_t k0 = 0; k0 < in; k0 += TILE_IN)
		for (uint32_t n0 = 0; n0 < out; n0 += TILE_OUT)
			for (uint32_t w = 0; w < TILE_WORDS; w++, b += 4) {
				uint8_t *c = ql->code + first(in, n0, k0, w);
				uint32_t v = half_le32(b);

				for (int e = 0; e < 8; e++)
					c[at[e]] = v >> 4 * e & 15;
			}
	return 0;
}

/* ---- writing ---- */

static int accept(const struct ql_spec *s, struct err *err)
{
	if (s->bits != 4)
		return err_set(err, ERR_UNSUP, "marlin has no codes of %u bits "
			       "(4 exist)", s->bits);
	if (!s->sym)
		return err_set(err, ERR_UNSUP, "marlin has no zero points: all "
			       "would have to be 8");
	if (s->act_order)
		return err_set(err, ERR_UNSUP, "marlin has no g_idx, and this "
			       "layer's groups are scattered (act-order)");
	if (s->in % 128 || s->out % 256)
		return err_set(err, ERR_UNSUP, "marlin holds inputs in "
			       "multiples of 128 and outputs of 256, not %u "
			       "and %u", s->in, s->out);
	if (s->groups > 1 && s->group_size != 128)
		return err_set(err, ERR_UNSUP, "marlin has groups of 128 or "
			       "one per row, not of %u", s->group_size);
	if (s->scale_type != DT_F16)
		return err_set(err, ERR_UNSUP, "marlin has F16 scales, this "
			       "layer's are %s",
			       tensor_dtype_name(s->scale_type));
	return 0;
}

static int plan(const struct ql_spec *s, struct qf_plan *p, struct err *err)
{
	memset(p, 0, sizeof(*p));
	if (accept(s, err))
		return -1;
	qf_plan_add(p, "B", DT_I32, s->in / TILE_IN, 2 * (uint64_t)s->out);
	qf_plan_add(p, "s", DT_F16, s->groups, s->out);
	return 0;
}

static void put_codes(const struct ql *ql, uint8_t *b)
{
	uint32_t in = ql->spec.in, out = ql->spec.out;
	size_t at[8];

	nibbles(in, at);
	for (uint32_t k0 = 0; k0 < in; k0 += TILE_IN)
		for (uint32_t n0 = 0; n0 < out; n0 += TILE_OUT)
			for (uint32_t w = 0; w < TILE_WORDS; w++, b += 4) {
				const uint8_t *c =
					ql->code + first(in, n0, k0, w);
				uint32_t v = 0;

				for (int e = 0; e < 8; e++)
					v |= (uint32_t)c[at[e]] << 4 * e;
				half_put32(b, v);
			}
}

static int put_scales(const struct ql *ql, uint8_t *part, struct err *err)
{
	uint32_t out = ql->spec.out, groups = ql->spec.groups;
	size_t n = (size_t)out * groups;
	uint8_t *plain = mem_alloc(n, 2, err);
	int ret = -1;

	if (!plain || qf_scales_write(ql, false, plain, err))
		goto out;
	for (size_t at = 0; at < n; at += out)
		for (uint32_t c = 0; c < out; c++)
			memcpy(part + 2 * (at + shuffled(c, groups > 1)),
			       plain + 2 * (at + c), 2);
	ret = 0;
out:
	free(plain);
	return ret;
}

static int write_of(const struct ql *ql, void *const part[], struct err *err)
{
	if (accept(&ql->spec, err) || put_scales(ql, part[1], err))
		return -1;
	put_codes(ql, part[0]);
	return 0;
}

/* ---- the row ---- */

static const struct qf_steps steps = { find, grid, NULL, codes };
static const char *const owned[] = { "B", "s", "workspace", "qweight",
				     "scales", NULL };

static int spec_of(struct qf_layer *l, struct ql_spec *spec, struct err *err)
{
	return qf_steps_spec(&steps, l, spec, err);
}

static int read_of(struct qf_layer *l, struct ql *ql, struct err *err)
{
	return qf_steps_read(&steps, l, ql, err);
}

const struct qfmt qf_marlin = {
	"marlin", "Marlin: 4-bit symmetric codes shuffled for tensor cores",
	owned, claims, spec_of, read_of, accept, plan, write_of
};
