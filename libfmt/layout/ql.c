#include "ql.h"

#include "../base/err.h"
#include "../base/half.h"
#include "../base/mem.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static int spec_check(const struct ql_spec *s, struct err *err)
{
	if (s->out == 0 || s->in == 0 || s->out > QL_DIM_MAX ||
	    s->in > QL_DIM_MAX)
		return err_set(err, ERR_INPUT,
			       "layer of %u outputs and %u inputs "
			       "(expected 1 to %u of each)",
			       s->out, s->in, QL_DIM_MAX);
	if (s->bits < 2 || s->bits > 8)
		return err_set(err, ERR_INPUT, "%u bits (expected 2 to 8)",
			       s->bits);
	if (s->group_size == 0 || s->group_size > s->in ||
	    s->groups != (s->in - 1) / s->group_size + 1)
		return err_set(err, ERR_INPUT,
			       "%u groups of %u do not make up %u inputs",
			       s->groups, s->group_size, s->in);
	if (s->scale_type != DT_F16 && s->scale_type != DT_BF16 &&
	    s->scale_type != DT_F32)
		return err_set(err, ERR_INPUT,
			       "scales of type %s (expected F16, BF16 or F32)",
			       tensor_dtype_name(s->scale_type));
	return 0;
}

static int init(struct ql *ql, const struct ql_spec *spec, bool codes,
		struct err *err)
{
	size_t n = spec->out;
	struct mem_part part[] = {
		{ (void **)&ql->scale, n * spec->groups, sizeof(float) },
		{ (void **)&ql->zero, n * spec->groups, sizeof(float) },
		{ (void **)&ql->group_of, spec->in, sizeof(uint32_t) },
		{ (void **)&ql->code, n * spec->in, 1 }
	};

	memset(ql, 0, sizeof(*ql));
	/* dimensions below 2^24 each: the products above fit 64 bits */
	if (spec_check(spec, err))
		return -1;
	ql->mem = mem_block(part, codes ? 4 : 3, err);
	if (!ql->mem) {
		memset(ql, 0, sizeof(*ql));
		return -1;
	}
	ql->spec = *spec;
	for (uint32_t k = 0; k < spec->in; k++)
		ql->group_of[k] = k / spec->group_size;
	return 0;
}

int ql_init(struct ql *ql, const struct ql_spec *spec, struct err *err)
{
	return init(ql, spec, true, err);
}

int ql_init_grid(struct ql *ql, const struct ql_spec *spec, struct err *err)
{
	return init(ql, spec, false, err);
}

void ql_release(struct ql *ql)
{
	free(ql->mem);
	memset(ql, 0, sizeof(*ql));
}

static uint8_t scattered(const struct ql *ql)
{
	for (uint32_t k = 0; k < ql->spec.in; k++)
		if (ql->group_of[k] != k / ql->spec.group_size)
			return 1;
	return 0;
}

static uint8_t symmetric(const struct ql *ql)
{
	size_t n = (size_t)ql->spec.out * ql->spec.groups;
	float mid = (float)(1u << (ql->spec.bits - 1));

	if (ql->spec.zero_kind != QL_POINT)
		return 0;
	for (size_t i = 0; i < n; i++)
		if (ql->zero[i] < mid || ql->zero[i] > mid)
			return 0;
	return 1;
}

void ql_observe(struct ql *ql)
{
	ql->spec.act_order = scattered(ql);
	ql->spec.sym = symmetric(ql);
}

static int codes_check(const struct ql *ql, struct err *err)
{
	size_t in = ql->spec.in;
	uint32_t max = (1u << ql->spec.bits) - 1;

	for (uint32_t n = 0; n < ql->spec.out; n++) {
		const uint8_t *row = ql->code + n * in;
		uint32_t top = 0;

		for (size_t k = 0; k < in; k++)
			top = row[k] > top ? row[k] : top;
		for (size_t k = 0; top > max && k < in; k++)
			if (row[k] > max)
				return err_set(err, ERR_INPUT,
					       "code %u at output %u, input "
					       "%zu (expected at most %u)",
					       row[k], n, k, max);
	}
	return 0;
}

/* NaN fails the first comparison. */
static int zero_good(const struct ql *ql, float z)
{
	if (ql->spec.zero_kind != QL_POINT)
		return isfinite(z);
	return z >= 0 && z <= (float)(1u << ql->spec.bits) &&
	       !(z < floorf(z) || z > floorf(z));
}

static int groups_check(const struct ql *ql, struct err *err)
{
	uint32_t groups = ql->spec.groups;

	for (uint32_t n = 0; n < ql->spec.out; n++)
		for (uint32_t g = 0; g < groups; g++) {
			size_t i = (size_t)n * groups + g;

			if (!isfinite(ql->scale[i]))
				return err_set(err, ERR_INPUT, QL_BAD_SCALE,
					       (double)ql->scale[i], n, g);
			if (!zero_good(ql, ql->zero[i]))
				return err_set(err, ERR_INPUT,
					       "zero %g at output %u, group "
					       "%u (expected a whole number, "
					       "0 to %u)",
					       (double)ql->zero[i], n, g,
					       1u << ql->spec.bits);
		}
	return 0;
}

int ql_check(const struct ql *ql, struct err *err)
{
	if (spec_check(&ql->spec, err) || codes_check(ql, err))
		return -1;
	for (uint32_t k = 0; k < ql->spec.in; k++)
		if (ql->group_of[k] >= ql->spec.groups)
			return err_set(err, ERR_INPUT,
				       "group %u of input %u (expected below "
				       "%u)",
				       ql->group_of[k], k, ql->spec.groups);
	if (groups_check(ql, err))
		return -1;
	if (!ql->spec.act_order != !scattered(ql))
		return err_set(err, ERR_INPUT,
			       "the layer is marked %s act-order, its groups "
			       "say otherwise",
			       ql->spec.act_order ? "with" : "without");
	if (!ql->spec.sym != !symmetric(ql))
		return err_set(err, ERR_INPUT,
			       "the layer is marked %s, its zeros say "
			       "otherwise",
			       ql->spec.sym ? "symmetric" : "asymmetric");
	return 0;
}

void ql_dequant_row(const struct ql *ql, uint32_t n, float *out)
{
	uint32_t in = ql->spec.in;
	const uint8_t *code = ql->code + (size_t)n * in;
	const float *scale = ql->scale + (size_t)n * ql->spec.groups;
	const float *zero = ql->zero + (size_t)n * ql->spec.groups;

	if (ql->spec.zero_kind == QL_POINT) {
		for (uint32_t k = 0; k < in; k++) {
			uint32_t g = ql->group_of[k];

			out[k] = scale[g] * ((float)code[k] - zero[g]);
		}
		return;
	}
	for (uint32_t k = 0; k < in; k++) {
		uint32_t g = ql->group_of[k];
		/* two statements: the product is rounded before the
		 * difference, never fused with it */
		float p = scale[g] * (float)code[k];

		out[k] = p - zero[g];
	}
}

/* Compare one row; equal bits are equal, and so are the two zeros. */
static void row_compare(const float *a, const float *b, uint32_t in,
			uint32_t n, struct ql_diff *diff)
{
	for (uint32_t k = 0; k < in; k++) {
		double d;

		if (half_bits(a[k]) == half_bits(b[k]) ||
		    (a[k] >= b[k] && a[k] <= b[k]))
			continue;
		d = fabs((double)a[k] - (double)b[k]);
		if (isnan(d))
			d = (double)INFINITY;
		diff->sum_abs += d;
		if (diff->unequal++ == 0 || d > diff->max_abs) {
			diff->max_abs = d;
			diff->n = n;
			diff->k = k;
		}
	}
}

uint32_t ql_map_from(const uint32_t *map, uint32_t count, uint32_t i)
{
	return i >= count ? QL_PAD : map ? map[i] : i;
}

/* Rows are equal without a look at their weights where the two layers have the
 * same groups, and the rows the same codes, scales and zeros. */
static bool same_groups(const struct ql *a, const struct ql_map *map,
			const struct ql *b)
{
	return !map->row && !map->col && a->spec.in == b->spec.in &&
	       a->spec.out == b->spec.out &&
	       a->spec.groups == b->spec.groups &&
	       a->spec.zero_kind == b->spec.zero_kind &&
	       !memcmp(a->group_of, b->group_of,
		       a->spec.in * sizeof(*a->group_of));
}

static bool same_row(const struct ql *a, const struct ql *b, uint32_t n)
{
	size_t in = a->spec.in, groups = a->spec.groups;

	return !memcmp(a->code + n * in, b->code + n * in, in) &&
	       !memcmp(a->scale + n * groups, b->scale + n * groups,
		       groups * sizeof(float)) &&
	       !memcmp(a->zero + n * groups, b->zero + n * groups,
		       groups * sizeof(float));
}

int ql_compare_moved(const struct ql *a, const struct ql_map *map,
		     const struct ql *b, struct ql_diff *diff,
		     struct err *err)
{
	uint32_t in = b->spec.in, out = b->spec.out;
	float *row, *want, *is;
	struct mem_part part[] = {
		{ (void **)&row, a->spec.in, sizeof(*row) },
		{ (void **)&want, in, sizeof(*want) },
		{ (void **)&is, in, sizeof(*is) }
	};
	bool groups;
	void *mem;

	memset(diff, 0, sizeof(*diff));
	if (in != map->in || out != map->out)
		return err_set(err, ERR_INPUT,
			       "a layer of shape [%u, %u] cannot be compared "
			       "with one of [%u, %u]",
			       out, in, map->out, map->in);
	mem = mem_block(part, 3, err);
	if (!mem)
		return -1;
	groups = same_groups(a, map, b);
	for (uint32_t n = 0; n < out; n++) {
		uint32_t from = ql_map_from(map->row, a->spec.out, n);

		if (groups && same_row(a, b, n))
			continue;
		if (from != QL_PAD)
			ql_dequant_row(a, from, row);
		for (uint32_t k = 0; k < in; k++) {
			uint32_t at = ql_map_from(map->col, a->spec.in, k);
			bool pad = from == QL_PAD || at == QL_PAD;

			want[k] = pad ? 0 : row[at];
		}
		ql_dequant_row(b, n, is);
		if (memcmp(want, is, in * sizeof(float)) != 0)
			row_compare(want, is, in, n, diff);
	}
	free(mem);
	return 0;
}

int ql_compare(const struct ql *a, const struct ql *b, struct ql_diff *diff,
	       struct err *err)
{
	struct ql_map same = { NULL, NULL, a->spec.out, a->spec.in };

	return ql_compare_moved(a, &same, b, diff, err);
}
