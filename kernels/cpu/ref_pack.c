/* What a packed layer of a file means, code by code. */
#include "ref_pack.h"

#include "../../libfmt/base/half.h"

#include <string.h>

static uint32_t code_at(const struct ql_packed *q, uint32_t n, uint32_t k)
{
	const uint8_t *words = q->words;
	uint64_t bit = (uint64_t)k * q->spec.bits;
	size_t row = (size_t)q->spec.out * 4;
	const uint8_t *at = words + bit / 32 * row + (size_t)n * 4;
	uint64_t two = half_le32(at);

	if (bit % 32 + q->spec.bits > 32)
		two |= (uint64_t)half_le32(at + row) << 32;
	return (uint32_t)(two >> bit % 32) & ((1u << q->spec.bits) - 1);
}

static float scale_at(const struct ql_packed *q, size_t i)
{
	const uint8_t *p = q->scales;
	float f;

	switch (q->spec.scale_type) {
	case DT_F16:
		return half_to_f32(half_le16(p + 2 * i));
	case DT_BF16:
		return half_bf16_to_f32(half_le16(p + 2 * i));
	default:
		memcpy(&f, p + 4 * i, sizeof(f));
		return f;
	}
}

static uint32_t zero_word(const struct ql_packed *q, uint32_t g, uint32_t i)
{
	size_t words = ((size_t)q->spec.out * q->spec.bits + 31) / 32;

	if (i >= words)
		return 0;
	return half_le32((const uint8_t *)q->zeros + 4 * (g * words + i)) +
	       q->zero_add[i % 3];
}

static float zero_at(const struct ql_packed *q, uint32_t g, uint32_t n)
{
	uint64_t bit = (uint64_t)n * q->spec.bits;
	uint32_t i = (uint32_t)(bit / 32);
	uint64_t two = zero_word(q, g, i) |
		       (uint64_t)zero_word(q, g, i + 1) << 32;
	uint32_t field = (uint32_t)(two >> bit % 32) &
			 ((1u << q->spec.bits) - 1);

	return (float)((field + q->zero_plus) & q->zero_mask);
}

int cpu_ref_unpack(const struct ql_packed *q, struct ql *ql, struct err *err)
{
	const struct ql_spec *s = &q->spec;

	if (ql_init(ql, s, err))
		return -1;
	for (uint32_t n = 0; n < s->out; n++) {
		for (uint32_t k = 0; k < s->in; k++)
			ql->code[(size_t)n * s->in + k] =
				(uint8_t)code_at(q, n, k);
		for (uint32_t g = 0; g < s->groups; g++) {
			size_t from = (size_t)g * s->out + n;
			size_t to = (size_t)n * s->groups + g;

			ql->scale[to] = scale_at(q, from);
			ql->zero[to] = q->zeros ? zero_at(q, g, n) :
				       (float)(1u << (s->bits - 1));
		}
	}
	memcpy(ql->group_of, q->group_of, s->in * sizeof(*ql->group_of));
	return 0;
}
