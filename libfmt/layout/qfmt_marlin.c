/* Marlin as its authors and AutoGPTQ serialize it: 4 bits, symmetric.
 *
 *	B  [K/16, 2N]  codes, shuffled for the tensor cores
 *	s  [G, N]      F16, columns shuffled
 *
 * Tiles of 16 inputs x 64 outputs are 128 words.  Word 4*lane + j of a tile
 * holds the outputs 16j + lane/4 (+ 8) and the inputs 2*(lane%4) (+ 0, 1, 8,
 * 9): what one thread of a warp multiplies.  AutoAWQ's marlin version has the
 * same tensors as qweight and scales.
 * Source: gptq-formats(5) "Marlin". */
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
	uint64_t in, out;

	f->codes = qf_need(m, own ? "B" : "qweight", err);
	f->scales = f->codes ? qf_need(m, own ? "s" : "scales", err) : NULL;
	if (!f->scales || qf_words_check(f->codes, err) ||
	    qf_floats_check(f->scales, err))
		return -1;
	f->odd |= own ? 0 : QF_ODD_FORM;
	in = TILE_IN * f->codes->dim[0];
	out = f->codes->dim[1] / 2;
	if (f->codes->dim[1] % TILE_WORDS)
		return err_set(err, ERR_INPUT, "%s: %u columns are no whole "
			       "tiles of %u", f->codes->name,
			       (uint32_t)f->codes->dim[1], TILE_WORDS);
	if (qf_shape_check(f->scales, f->scales->dim[0], out, err))
		return -1;
	return qf_found_spec(f, in, out, err);
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
	float row[TILE_OUT];

	(void)err;
	/* both shuffles stay inside 64 outputs */
	for (uint32_t n0 = 0; n0 < s->out; n0 += TILE_OUT)
		for (uint32_t g = 0; g < s->groups; g++) {
			size_t at = (size_t)n0 * s->groups + g;

			tensor_load_f32(f->scales, (uint64_t)g * s->out + n0,
					TILE_OUT, row);
			for (uint32_t i = 0; i < TILE_OUT; i++) {
				scale[at] = row[shuffled(i, s->groups > 1)];
				zero[at] = 8;
				at += s->groups;
			}
		}
	return 0;
}

/* ---- codes ---- */

/* Rows of tiles follow each other, 16 inputs each, of 2N words. */
static void get(const struct qf_words *w, uint32_t n, uint32_t k,
		struct bits_tile *t)
{
	const struct bits_isa *isa = bits_isa_best();
	size_t row = 8 * (size_t)w->out;
	const uint8_t *p = (const uint8_t *)w->data + row * (k / TILE_IN) +
			   4 * TILE_WORDS * (size_t)(n / TILE_OUT);

	for (uint32_t j = 0; j < BITS_TILE_IN && k + j < w->in; j += TILE_IN)
		isa->marlin_get(p + row * (j / TILE_IN), t->oct + j / 8);
}

static void put(const struct bits_tile *t, const struct qf_strip *s,
		uint32_t n, uint32_t k)
{
	const struct bits_isa *isa = bits_isa_best();
	size_t row = 8 * (size_t)s->out;
	uint8_t *p = (uint8_t *)s->to + row * (k / TILE_IN) +
		     4 * TILE_WORDS * (size_t)(n / TILE_OUT);

	for (uint32_t j = 0; j < BITS_TILE_IN && k + j < s->in; j += TILE_IN)
		isa->marlin_put(t->oct + j / 8, p + row * (j / TILE_IN));
}

static const struct qf_codes codes = { false, get, put };

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
	if (ql->code)
		qf_codes_write(&codes, ql->code,
			       &(struct qf_strip){ 4, ql->spec.out,
						   ql->spec.in, part[0] });
	return 0;
}

/* ---- the row ---- */

static const struct qf_steps steps = { find, grid, NULL, &codes };
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
	owned, claims, spec_of, read_of, accept, plan, write_of, &codes
};
