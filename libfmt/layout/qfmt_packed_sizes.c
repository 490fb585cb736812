#include "qfmt_packed.h"

#include "../base/err.h"
#include "../base/half.h"
#include "../base/mem.h"
#include "bits.h"
#include "qfmt_impl.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static int missing(const struct packed *p, const char *suffix, struct err *err)
{
	return err_set(err, ERR_INPUT, "%s.%s: missing", p->module, suffix);
}

/* Words of 8, 16 and 64 bits hold the same streams (GPTQModel's pack_dtype).
 * Sizes are counted in words of 32 bits, which have to be whole.  Section
 * 3.3. */
static int find_words(struct packed *p, struct err *err)
{
	const struct tensor *c = p->codes, *z = p->zeros;
	uint64_t rows, cols = 0;

	p->word = c->type == DT_I8 || c->type == DT_I16 || c->type == DT_I64 ?
			  tensor_dtype_bits(c->type) : 32;
	if (p->word == 32) {
		if (qf_words_check(c, err) || (z && qf_words_check(z, err)))
			return -1;
	} else if (qf_rank_check(c, 2, err) || (z && qf_rank_check(z, 2, err)))
		return -1;
	if (z && z->type != c->type)
		return err_set(err, ERR_INPUT, "%s: type %s (expected %s)",
			       z->name, tensor_dtype_name(z->type),
			       tensor_dtype_name(c->type));
	rows = c->dim[0] * p->word;
	cols = z ? z->dim[1] * p->word : 0;
	if (rows % 32 || cols % 32 || rows / 32 > QL_DIM_MAX ||
	    cols / 32 > QL_DIM_MAX)
		return err_set(err, ERR_UNSUP, "%s: words of %u bits that do "
			       "not fill words of 32", c->name, p->word);
	p->rows = (uint32_t)(rows / 32);
	p->zcols = (uint32_t)(cols / 32);
	return 0;
}

int qf_packed_find(const struct packed_rule *r, const struct qf_layer *l,
		   struct packed *p, struct err *err)
{
	const struct qf_module *m = l->module;

	memset(p, 0, sizeof(*p));
	p->rule = r;
	p->hint = l->hint ? l->hint : &qf_no_hint;
	p->module = m->name;
	p->codes = qf_part(m, r->codes);
	p->zeros = qf_part(m, r->zeros);
	p->scales = qf_part(m, r->scales);
	p->index = qf_part(m, r->index);
	p->perm = qf_part(m, "perm");
	if (!p->codes)
		return missing(p, r->codes, err);
	if (!p->scales)
		return missing(p, r->scales, err);
	if (!p->zeros && p->hint->sym == 0)
		return missing(p, r->zeros, err);
	if (find_words(p, err) || qf_floats_check(p->scales, err) ||
	    (p->index && qf_rank_check(p->index, 1, err)))
		return -1;
	if (p->index && p->index->type != DT_I32 && p->index->type != DT_I64)
		return err_set(err, ERR_INPUT,
			       "%s: type %s (expected I32 or I64)",
			       p->index->name,
			       tensor_dtype_name(p->index->type));
	p->width = (uint32_t)p->scales->dim[1];
	return 0;
}

uint64_t qf_outputs(uint64_t stored, uint32_t out)
{
	return out && ((uint64_t)out + 31) / 32 * 32 == stored ? out : stored;
}

/* The config's bits where they can be bits at all, else 0. */
static uint32_t said(const struct packed *p)
{
	return p->hint->bits <= 8 ? p->hint->bits : 0;
}

/* The widths at which n fields take `words` words, as bits of a mask. */
static uint32_t widths_of(const struct packed *p, uint64_t n, uint64_t words)
{
	uint32_t mask = 0;

	for (uint32_t b = 2; b <= 8; b++)
		if (p->rule->widths >> b & 1 &&
		    bits_words(p->rule->bits, b, n) == words)
			mask |= 1u << b;
	return mask;
}

/* One width of a mask: the config's, else the commonest, else the least. */
static uint8_t pick(uint32_t mask, uint32_t hint)
{
	static const uint8_t order[] = { 4, 2, 3, 5, 6, 7, 8 };

	if (mask >> hint & 1)
		return (uint8_t)hint;
	for (size_t i = 0; i < sizeof(order); i++)
		if (mask >> order[i] & 1)
			return order[i];
	return 0;
}

/* AutoGPTQ's fused attention saves q, k and v as one, their maps one behind the
 * other. */
static int check_fused(const struct packed *p, uint32_t in, uint8_t bits,
		       struct err *err)
{
	uint32_t each = bits ? (uint32_t)((uint64_t)p->rows * 32 / bits) : 0;

	if (!p->index || !each || in <= each || in % each)
		return 0;
	return err_set(err, ERR_UNSUP, "%s: %u maps of %u inputs: linears that "
		       "were fused when they were saved, of which "
		       "gptq-repack --fix takes a Llama's qkv_proj apart",
		       p->index->name, in / each, each);
}

/* No width fits qweight and qzeros at once.  Blame the one that the config, or
 * else the other one, contradicts. */
static int blame(const struct packed *p, uint32_t in, uint32_t by_codes,
		 uint32_t by_zeros, struct err *err)
{
	uint32_t out = p->width, hint = said(p);
	char shape[96];
	uint8_t b;

	b = by_codes >> hint & 1 ? (uint8_t)hint : 0;
	if (!b)
		b = by_zeros ? pick(by_zeros, hint) : pick(by_codes, hint);
	if (check_fused(p, in, b, err))
		return -1;
	if (!b)
		return err_set(err, ERR_INPUT,
			       "%s: shape %s does not match %u inputs at 2, 3, "
			       "4 or 8 bits", p->codes->name,
			       tensor_shape_text(p->codes, shape), in);
	if (p->zeros && !(by_zeros >> b & 1))
		return err_set(err, ERR_INPUT,
			       "%s: shape %s does not match %u outputs at %u "
			       "bits (expected [%u, %u])", p->zeros->name,
			       tensor_shape_text(p->zeros, shape), out, b,
			       (uint32_t)p->scales->dim[0],
			       (uint32_t)bits_words(p->rule->bits, b, out));
	return err_set(err, ERR_INPUT,
		       "%s: shape %s does not match %u inputs at %u bits "
		       "(expected [%u, %u])", p->codes->name,
		       tensor_shape_text(p->codes, shape), in, b,
		       (uint32_t)bits_words(p->rule->bits, b, in), out);
}

/* Bits from the shapes of qzeros (exact for 32 outputs and more) and of
 * qweight where the number of inputs is known. */
static int find_bits(const struct packed *p, struct ql_spec *s,
		     struct err *err)
{
	uint32_t all = p->rule->widths, by_codes = all, by_zeros = all;
	uint32_t in = p->index ? (uint32_t)p->index->dim[0] : p->hint->in;

	if (p->zeros)
		by_zeros = widths_of(p, p->width, p->zcols);
	if (in)
		by_codes = widths_of(p, in, p->rows);
	if (!p->index && !by_codes) /* the tensors win */
		by_codes = all;
	if (!p->zeros && by_codes == all && !(all >> said(p) & 1))
		return missing(p, p->rule->zeros, err);
	s->bits = pick(by_codes & by_zeros, said(p));
	if (!s->bits)
		return blame(p, in, by_codes, by_zeros, err);
	return 0;
}

/* Is anything but zero stored behind the last of `in` inputs?  Writers leave
 * the spare bits of the last word empty. */
static bool tail_used(const struct packed *p, const struct ql_spec *s,
		      uint32_t in)
{
	uint32_t used = (uint32_t)((uint64_t)in * s->bits % 32);
	const uint8_t *row = p->codes->data;

	if (!row || !used)
		return false;
	if (p->word != 32)
		return false;
	row += 4 * (size_t)(p->rows - 1) * p->width;
	for (uint32_t n = 0; n < s->out; n++)
		if (half_le32(row + 4 * (size_t)n) >> used)
			return true;
	return false;
}

/* K: the length of g_idx, else what the model says, else full words. */
static int find_inputs(const struct packed *p, struct ql_spec *s,
		       struct err *err)
{
	uint32_t full = (uint32_t)((uint64_t)p->rows * 32 / s->bits);
	uint32_t in = full, hint = p->hint->in;

	if (hint && bits_words(p->rule->bits, s->bits, hint) == p->rows)
		in = hint;
	if (!p->index) {
		s->in = in;
		return 0;
	}
	s->in = (uint32_t)p->index->dim[0];
	if (s->in != in && (in == hint || tail_used(p, s, s->in)))
		return err_set(err, ERR_INPUT,
			       "%s: shape [%u] does not match %u inputs "
			       "(expected [%u])", p->index->name, s->in, in,
			       in);
	return 0;
}

int qf_packed_sizes(const struct packed *p, struct ql_spec *s, struct err *err)
{
	char shape[96], other[96];

	memset(s, 0, sizeof(*s));
	s->zero_kind = QL_POINT;
	s->scale_type = p->scales->type;
	s->groups = (uint32_t)p->scales->dim[0];
	s->out = (uint32_t)qf_outputs(p->width, p->hint->out);
	if (p->codes->dim[1] != p->width)
		return err_set(err, ERR_INPUT,
			       "%s: shape %s does not match the %u outputs of "
			       "scales %s (expected [%u, %u])",
			       p->codes->name,
			       tensor_shape_text(p->codes, shape), p->width,
			       tensor_shape_text(p->scales, other), p->rows,
			       p->width);
	if (find_bits(p, s, err) || find_inputs(p, s, err))
		return -1;
	if (p->word != 32 && (32 % s->bits || p->rule->bits != &bits_stream))
		return err_set(err, ERR_UNSUP, "%s: codes of %u bits in words "
			       "of %u", p->codes->name, s->bits, p->word);
	/* planes are whole, where a stream may end in the middle */
	if (bits_words(p->rule->bits, s->bits, s->in) != p->rows)
		return err_set(err, ERR_INPUT,
			       "%s: shape %s is no whole number of inputs at "
			       "%u bits", p->codes->name,
			       tensor_shape_text(p->codes, shape), s->bits);
	if (p->zeros && p->zeros->dim[0] != s->groups)
		return err_set(err, ERR_INPUT,
			       "%s: shape %s does not match the %u groups of "
			       "scales (expected [%u, %u])", p->zeros->name,
			       tensor_shape_text(p->zeros, shape), s->groups,
			       s->groups, p->zcols);
	if (s->in > QL_DIM_MAX)
		return err_set(err, ERR_INPUT,
			       "%s: shape %s holds %u inputs (expected at "
			       "most %u)", p->codes->name,
			       tensor_shape_text(p->codes, shape), s->in,
			       QL_DIM_MAX);
	if (s->groups > s->in)
		return err_set(err, ERR_INPUT,
			       "%s: shape %s: more groups than the %u inputs",
			       p->scales->name,
			       tensor_shape_text(p->scales, shape), s->in);
	return 0;
}

/* ---- groups ---- */

#define GLANCE 1024u /* entries of g_idx */

static bool fits(uint32_t gs, const struct ql_spec *s)
{
	return gs && gs <= s->in && (s->in - 1) / gs + 1 == s->groups;
}

/* Does every group have gs members, the last one the rest? */
static bool even(uint32_t gs, const struct ql_spec *s, const uint32_t *count)
{
	for (uint32_t g = 0; g < s->groups; g++) {
		uint32_t left = s->in - g * gs;

		if (count[g] != (left < gs ? left : gs))
			return false;
	}
	return true;
}

/* The least size that fits: powers of two, multiples of 32, 16, 8, and what
 * is left.  0: none does. */
static uint32_t search(const struct ql_spec *s)
{
	for (uint32_t gs = 32; gs < s->in; gs *= 2)
		if (fits(gs, s))
			return gs;
	for (uint32_t gs = 32; gs < s->in; gs += 32)
		if (fits(gs, s))
			return gs;
	for (uint32_t gs = 16; gs >= 8; gs -= 8)
		if (fits(gs, s))
			return gs;
	return fits((s->in - 1) / s->groups + 1, s)
		       ? (s->in - 1) / s->groups + 1 : 0;
}

/* `count` holds the members of each group, NULL where g_idx says nothing. */
static uint32_t group_size(const struct ql_spec *s, int32_t hint,
			   const uint32_t *count)
{
	uint32_t said_size = hint > 0 ? (uint32_t)hint : 0, most = 0;

	if (s->groups == 1)
		return s->in;
	if (fits(said_size, s) && (!count || even(said_size, s, count)))
		return said_size;
	for (uint32_t g = 0; count && g < s->groups; g++)
		most = count[g] > most ? count[g] : most;
	if (fits(most, s) && even(most, s, count) &&
	    (most % 8 == 0 || s->in % most == 0))
		return most;
	if (fits(said_size, s))
		return said_size;
	return s->in % s->groups ? search(s) : s->in / s->groups;
}

static int64_t index_at(const struct tensor *t, uint32_t k)
{
	const uint8_t *data = t->data;

	return t->type == DT_I64 ? (int64_t)half_le64(data + 8 * (size_t)k) :
				   (int32_t)half_le32(data + 4 * (size_t)k);
}

/* Entry k of n is of no group.  Where all of them are moved by the same, the
 * rows are those of one rank of several.  Source:
 * gptq-formats(5) "Groups and act-order". */
static int index_bad(const struct tensor *t, const struct ql_spec *s,
		     uint32_t n, uint32_t k, struct err *err)
{
	int64_t lo = index_at(t, 0), hi = lo, g = index_at(t, k);

	for (uint32_t i = 1; i < n; i++) {
		int64_t at = index_at(t, i);

		lo = at < lo ? at : lo;
		hi = at > hi ? at : hi;
	}
	if (lo > 0 && hi - lo < s->groups)
		return err_set(err, ERR_UNSUP, "%s: groups %lld to %lld "
			       "(expected 0 to %u): a slice of a larger layer, "
			       "as tensor-parallel programs cut it, which is "
			       "not read", t->name, (long long)lo,
			       (long long)hi, s->groups - 1);
	return err_set(err, ERR_INPUT, "%s: group %lld of input %u (expected 0 "
		       "to %u)", t->name, (long long)g, k, s->groups - 1);
}

/* The first n entries of g_idx into group_of.  *map: they say something, i.e.
 * are not absent, not loaded or all zero. */
static int index_load(const struct packed *p, const struct ql_spec *s,
		      uint32_t n, uint32_t *group_of, bool *map,
		      struct err *err)
{
	bool data = p->index && p->index->data;
	uint32_t any = 0;

	*map = false;
	for (uint32_t k = 0; data && k < n; k++) {
		int64_t g = index_at(p->index, k);

		if (g < 0 || g >= s->groups)
			return index_bad(p->index, s, n, k, err);
		group_of[k] = (uint32_t)g;
		any |= group_of[k];
	}
	*map = data && (any || s->groups == 1);
	return 0;
}

/* What is odd about the groups without a look at the map. */
static uint32_t sizes_odd(const struct packed *p, const struct ql_spec *s)
{
	const struct qf_hint *h = p->hint;
	uint32_t odd = 0, want = (uint32_t)h->group_size;

	if (h->group_size < 0 || want > s->in)
		want = s->in;
	if (h->group_size && want != s->group_size)
		odd |= QF_ODD_GROUP;
	if (!p->index)
		odd |= QF_ODD_GIDX_MISSING |
		       (h->desc_act == 1 && s->groups > 1
				? QF_ODD_GIDX_ACT_MISSING : 0u);
	else if (p->index->type == DT_I64)
		odd |= QF_ODD_GIDX_I64;
	return odd;
}

/* Does the map of n entries go back to an earlier group? */
static bool falls(const uint32_t *map, uint32_t n)
{
	for (uint32_t k = 1; k < n; k++)
		if (map[k] < map[k - 1])
			return true;
	return false;
}

/* What is odd about the groups, given the map that g_idx holds (or NULL). */
static uint32_t groups_odd(const struct packed *p, const struct ql_spec *s,
			   const uint32_t *map, const uint32_t *count)
{
	uint32_t odd = sizes_odd(p, s);

	if (p->index && p->index->data && !map)
		odd |= QF_ODD_GIDX_ZERO;
	if (map && !even(s->group_size, s, count))
		odd |= QF_ODD_GIDX_UNEVEN;
	if (map && p->hint->desc_act == 0 && falls(map, s->in))
		odd |= QF_ODD_ACT;
	return odd;
}

static int group_size_check(const struct packed *p, const struct ql_spec *s,
			    struct err *err)
{
	if (s->group_size)
		return 0;
	return err_set(err, ERR_INPUT,
		       "%s: %u groups cannot be of one size over %u inputs",
		       p->scales->name, s->groups, s->in);
}

/* An act-order shuffles all inputs, so that the first ones tell it. */
int qf_packed_glance(const struct packed *p, struct ql_spec *s,
		     uint32_t *odd, struct err *err)
{
	uint32_t map[GLANCE], n = s->in;
	bool any;

	if (p->index && n > qf_glance(p->index) / (p->index->type == DT_I64 ?
						   8 : 4))
		n = (uint32_t)(qf_glance(p->index) /
			       (p->index->type == DT_I64 ? 8 : 4));
	if (n > GLANCE)
		n = GLANCE;
	if (index_load(p, s, n, map, &any, err))
		return -1;
	s->group_size = group_size(s, p->hint->group_size, NULL);
	if (group_size_check(p, s, err))
		return -1;
	*odd |= sizes_odd(p, s);
	/* k / group_size, without a division for each */
	for (uint32_t k = 0, g = 0, left = s->group_size; any && k < n; k++) {
		if (map[k] != g)
			s->act_order = 1;
		if (!--left) {
			left = s->group_size;
			g++;
		}
	}
	if (any && p->hint->desc_act == 0 && falls(map, n))
		*odd |= QF_ODD_ACT;
	if (p->index && p->index->data && !any && n > s->group_size)
		*odd |= QF_ODD_GIDX_ZERO;
	if (p->index && !p->index->data && s->groups > 1)
		s->act_order = p->hint->desc_act == 1;
	return 0;
}

int qf_packed_groups(const struct packed *p, struct ql_spec *s,
		     uint32_t *group_of, uint32_t *odd, struct err *err)
{
	uint32_t *count = mem_alloc(s->groups, sizeof(*count), err);
	bool map;
	int ret = -1;

	if (!count || index_load(p, s, s->in, group_of, &map, err))
		goto out;
	for (uint32_t k = 0; map && k < s->in; k++)
		count[group_of[k]]++;
	s->group_size = group_size(s, p->hint->group_size, map ? count : NULL);
	if (group_size_check(p, s, err))
		goto out;
	*odd |= groups_odd(p, s, map ? group_of : NULL, count);
	for (uint32_t k = 0; k < s->in; k++) {
		if (!map)
			group_of[k] = k / s->group_size;
		if (group_of[k] != k / s->group_size)
			s->act_order = 1;
	}
	/* without the data the config is all there is */
	if (p->index && !p->index->data && s->groups > 1)
		s->act_order = p->hint->desc_act == 1;
	ret = 0;
out:
	free(count);
	return ret;
}

/* ---- sorted rows ---- */

int qf_packed_perm(const struct packed *p, uint32_t in, uint32_t *perm,
		   struct err *err)
{
	const uint8_t *data = p->perm->data;
	uint8_t *seen = NULL;
	int ret = -1;

	if (p->perm->type != DT_I32 || !tensor_is_shape(p->perm, 1, in, 0)) {
		err_set(err, ERR_INPUT, "%s: not I32 [%u]", p->perm->name, in);
		goto out;
	}
	seen = mem_alloc(in, 1, err);
	if (!seen)
		goto out;
	for (uint32_t k = 0; data && k < in; k++) {
		perm[k] = half_le32(data + 4 * (size_t)k);
		if (perm[k] >= in || seen[perm[k]]++) {
			err_set(err, ERR_INPUT, "%s: entry %d of row %u makes "
				"it no permutation", p->perm->name,
				(int32_t)perm[k], k);
			goto out;
		}
	}
	ret = 0;
out:
	free(seen);
	return ret;
}
