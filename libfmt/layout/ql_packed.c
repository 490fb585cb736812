#include "ql.h"

#include "../base/err.h"
#include "../base/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void ql_packed_release(struct ql_packed *q)
{
	free(q->group_of);
	*q = (struct ql_packed){ .words = NULL };
}

/* Scale i of the file's order. */
static float scale_at(const struct ql_packed *q, size_t i)
{
	const uint8_t *p = q->scales;

	if (q->spec.scale_type == DT_F32) {
		uint32_t u = half_le32(p + 4 * i);
		float f;

		memcpy(&f, &u, sizeof(f));
		return f;
	}
	return q->spec.scale_type == DT_F16 ?
		       half_to_f32(half_le16(p + 2 * i)) :
		       half_bf16_to_f32(half_le16(p + 2 * i));
}

/* Whether an exponent of four scales of 16 bits at a time is all ones: what is
 * left of it, less one, then borrows from the bit above. */
static int infinite16(const uint8_t *p, size_t n, uint64_t exponent)
{
	const uint64_t one = UINT64_C(0x0001000100010001);
	uint64_t any = 0, x;

	for (size_t i = 0; i < n / 4; i++) {
		memcpy(&x, p + 8 * i, sizeof(x));
		x = ~x & exponent;
		any |= (x - one) & ~x & one << 15;
	}
	for (size_t i = n / 4 * 4; i < n; i++)
		any |= !(~(uint64_t)half_le16(p + 2 * i) & exponent & 0xffff);
	return any != 0;
}

static int any_infinite(const struct ql_packed *q)
{
	size_t n = (size_t)q->spec.groups * q->spec.out;

	if (q->spec.scale_type == DT_F16)
		return infinite16(q->scales, n, UINT64_C(0x7c007c007c007c00));
	if (q->spec.scale_type == DT_BF16)
		return infinite16(q->scales, n, UINT64_C(0x7f807f807f807f80));
	for (size_t i = 0; i < n; i++)
		if (!isfinite(scale_at(q, i)))
			return 1;
	return 0;
}

/* Words, zeros and groups hold nothing else by the way they were read. */
int ql_packed_check(const struct ql_packed *q, struct err *err)
{
	if (!any_infinite(q))
		return 0;
	for (uint32_t n = 0; n < q->spec.out; n++)
		for (uint32_t g = 0; g < q->spec.groups; g++) {
			float f = scale_at(q, (size_t)g * q->spec.out + n);

			if (!isfinite(f))
				return err_set(err, ERR_INPUT, QL_BAD_SCALE,
					       (double)f, n, g);
		}
	return 0;
}
