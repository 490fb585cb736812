#include "qlop.h"

#include "../base/err.h"
#include "../base/half.h"
#include "../base/mem.h"

#include <stdlib.h>
#include <string.h>

static void replace(struct ql *ql, struct ql *by)
{
	ql_release(ql);
	*ql = *by;
	ql_observe(ql);
}

/* With codes or without them, as ql is. */
static int init_like(const struct ql *ql, const struct ql_spec *spec,
		     struct ql *to, struct err *err)
{
	return ql->code ? ql_init(to, spec, err) : ql_init_grid(to, spec, err);
}

/* ---- moving and padding ---- */

static float middle(const struct ql_spec *s)
{
	return s->zero_kind == QL_POINT ? (float)(1u << (s->bits - 1)) : 0;
}

static void move_groups(const struct ql *ql, const struct ql_map *map,
			struct ql *to)
{
	uint32_t groups = ql->spec.groups;

	for (uint32_t n = 0; n < map->out; n++) {
		uint32_t from = ql_map_from(map->row, ql->spec.out, n);

		for (uint32_t g = 0; g < to->spec.groups; g++) {
			size_t at = (size_t)n * to->spec.groups + g;
			size_t old = (size_t)from * groups + g;
			bool pad = from == QL_PAD || g >= groups;

			to->scale[at] = pad ? 1 : ql->scale[old];
			to->zero[at] = pad ? middle(&ql->spec) : ql->zero[old];
		}
	}
	for (uint32_t k = 0; k < map->in; k++) {
		uint32_t from = ql_map_from(map->col, ql->spec.in, k);

		to->group_of[k] = from == QL_PAD ? k / to->spec.group_size :
						   ql->group_of[from];
	}
}

/* The codes of row n of `to`, from old output `from`, but for padding. */
static void move_row(const struct ql *ql, const struct ql_map *map, uint32_t n,
		     uint32_t from, struct ql *to)
{
	uint8_t *code = to->code + (size_t)n * map->in;
	const uint8_t *was = ql->code + (size_t)from * ql->spec.in;

	if (!map->col)
		memcpy(code, was, ql->spec.in);
	for (uint32_t k = 0; map->col && k < ql->spec.in; k++)
		code[k] = was[map->col[k]];
}

/* Padding of row n of `to`: a code that is the zero is a weight of 0. */
static int pad_row(const struct ql *ql, const struct ql_map *map, uint32_t n,
		   struct ql *to, struct err *err)
{
	uint32_t from = ql_map_from(map->row, ql->spec.out, n);

	for (uint32_t k = from == QL_PAD ? 0 : ql->spec.in; k < map->in; k++) {
		float z = to->zero[(size_t)n * to->spec.groups +
				   to->group_of[k]];

		if (ql->spec.zero_kind != QL_POINT && from != QL_PAD &&
		    to->group_of[k] < ql->spec.groups)
			return err_set(err, ERR_UNSUP, "groups of float zeros "
				       "cannot be filled with zeros");
		if (z > (float)((1u << ql->spec.bits) - 1))
			return err_set(err, ERR_UNSUP, "output %u, group %u: "
				       "its zero %g is no code, so that "
				       "nothing in it can be 0", from,
				       to->group_of[k], (double)z);
		if (to->code)
			to->code[(size_t)n * map->in + k] = (uint8_t)z;
	}
	return 0;
}

int ql_move(struct ql *ql, const struct ql_map *map, struct err *err)
{
	struct ql_spec spec = ql->spec;
	struct ql to;

	spec.out = map->out;
	spec.in = map->in;
	if (spec.groups == 1)
		spec.group_size = spec.in;
	spec.groups = (spec.in - 1) / spec.group_size + 1;
	if (init_like(ql, &spec, &to, err))
		return -1;
	move_groups(ql, map, &to);
	for (uint32_t n = 0; n < map->out; n++) {
		uint32_t from = ql_map_from(map->row, ql->spec.out, n);

		if (ql->code && from != QL_PAD)
			move_row(ql, map, n, from, &to);
		if (pad_row(ql, map, n, &to, err)) {
			ql_release(&to);
			return -1;
		}
	}
	replace(ql, &to);
	return 0;
}

/* ---- groups ---- */

/* The same codes in groups of gs; group g is the old group from[g]. */
static int regroup(const struct ql *ql, uint32_t gs, const uint32_t *from,
		   struct ql *to, struct err *err)
{
	struct ql_spec spec = ql->spec;

	spec.group_size = gs;
	spec.groups = (spec.in - 1) / gs + 1;
	if (init_like(ql, &spec, to, err))
		return -1;
	if (ql->code)
		memcpy(to->code, ql->code, (size_t)spec.out * spec.in);
	for (uint32_t n = 0; n < spec.out; n++)
		for (uint32_t g = 0; g < spec.groups; g++) {
			size_t at = (size_t)n * spec.groups + g;
			size_t old = (size_t)n * ql->spec.groups + from[g];

			to->scale[at] = ql->scale[old];
			to->zero[at] = ql->zero[old];
		}
	return 0;
}

int ql_split(struct ql *ql, uint32_t gs, struct err *err)
{
	uint32_t groups = (ql->spec.in - 1) / gs + 1;
	uint32_t per = ql->spec.groups == 1 ? groups :
					      ql->spec.group_size / gs;
	uint32_t *from, *seen;
	struct mem_part part[] = {
		{ (void **)&from, groups, sizeof(*from) },
		{ (void **)&seen, ql->spec.groups, sizeof(*seen) }
	};
	void *mem = mem_block(part, 2, err);
	struct ql to;
	int ret = -1;

	if (!mem)
		return -1;
	for (uint32_t g = 0; g < groups; g++)
		from[g] = g / per;
	if (regroup(ql, gs, from, &to, err))
		goto out;
	for (uint32_t k = 0; k < ql->spec.in; k++) {
		uint32_t old = ql->group_of[k], g = old * per;
		uint32_t end = g + per < groups ? g + per : groups;

		/* a group of too many members keeps the rest in its last */
		g += seen[old]++ / gs;
		to.group_of[k] = g < end ? g : end - 1;
	}
	replace(ql, &to);
	ret = 0;
out:
	free(mem);
	return ret;
}

static bool same_group(const struct ql *ql, uint32_t a, uint32_t b)
{
	for (uint32_t n = 0; n < ql->spec.out; n++) {
		const float *s = ql->scale + (size_t)n * ql->spec.groups;
		const float *z = ql->zero + (size_t)n * ql->spec.groups;

		if (half_bits(s[a]) != half_bits(s[b]) ||
		    half_bits(z[a]) != half_bits(z[b]))
			return false;
	}
	return true;
}

/* How many inputs from j on, up to `most`, are of one group or of equal
 * ones. */
static uint32_t run_at(const struct ql *ql, const uint32_t *col, uint32_t j,
		       uint32_t most)
{
	uint32_t g = ql->group_of[col ? col[j] : j], n = 1, last = g;

	for (; n < most; n++) {
		uint32_t h = ql->group_of[col ? col[j + n] : j + n];

		if (h != last && h != g && !same_group(ql, g, h))
			break;
		last = h;
	}
	return n;
}

static bool straight_at(const struct ql *ql, const uint32_t *col, uint32_t gs)
{
	for (uint32_t j = 0; j < ql->spec.in; j += gs) {
		uint32_t left = ql->spec.in - j, want = left < gs ? left : gs;

		if (run_at(ql, col, j, want) < want)
			return false;
	}
	return true;
}

uint32_t ql_straight_size(const struct ql *ql, const uint32_t *col,
			  uint32_t least)
{
	uint32_t gs = ql->spec.group_size;

	for (uint32_t parts = 1; gs / parts >= least && gs / parts; parts++)
		if (gs % parts == 0 && straight_at(ql, col, gs / parts))
			return gs / parts;
	return 0;
}

int ql_straighten(struct ql *ql, uint32_t gs, struct err *err)
{
	uint32_t groups = (ql->spec.in - 1) / gs + 1;
	uint32_t *from = mem_alloc(groups, sizeof(*from), err);
	struct ql to;
	int ret = -1;

	if (!from)
		return -1;
	for (uint32_t g = 0; g < groups; g++)
		from[g] = ql->group_of[g * gs];
	if (!regroup(ql, gs, from, &to, err)) {
		replace(ql, &to);
		ret = 0;
	}
	free(from);
	return ret;
}

/* ---- bits ---- */

uint8_t ql_widen_by(const struct ql_spec *spec, uint32_t bits)
{
	if (spec->zero_kind != QL_POINT)
		return 0;
	return (uint8_t)((1u << (bits - 1)) - (1u << (spec->bits - 1)));
}

int ql_widen(struct ql *ql, uint32_t bits, struct err *err)
{
	size_t codes = ql->code ? (size_t)ql->spec.out * ql->spec.in : 0;
	size_t zeros = (size_t)ql->spec.out * ql->spec.groups;
	uint8_t up;

	if (bits < ql->spec.bits || bits > 8)
		return err_set(err, ERR_UNSUP, "codes of %u bits do not fit "
			       "%u", ql->spec.bits, bits);
	up = ql_widen_by(&ql->spec, bits);
	ql->spec.bits = (uint8_t)bits;
	if (!up)
		return 0;
	for (size_t i = 0; i < codes; i++)
		ql->code[i] = (uint8_t)(ql->code[i] + up);
	for (size_t i = 0; i < zeros; i++)
		ql->zero[i] += (float)up;
	return 0;
}

/* ---- order ---- */

int ql_order(const uint32_t *key, uint32_t keys, uint32_t *perm,
	     uint32_t count, struct err *err)
{
	uint32_t *at, *to;
	struct mem_part part[] = {
		{ (void **)&at, (size_t)keys + 1, sizeof(*at) },
		{ (void **)&to, count, sizeof(*to) }
	};
	void *mem = mem_block(part, 2, err);

	if (!mem)
		return -1;
	for (uint32_t i = 0; i < count; i++)
		at[key[perm[i]] + 1]++;
	for (uint32_t g = 1; g < keys; g++)
		at[g] += at[g - 1];
	for (uint32_t i = 0; i < count; i++)
		to[at[key[perm[i]]]++] = perm[i];
	memcpy(perm, to, count * sizeof(*perm));
	free(mem);
	return 0;
}
