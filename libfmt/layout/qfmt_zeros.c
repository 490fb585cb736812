#include "qfmt_zeros.h"

#include "../base/err.h"
#include "../base/half.h"
#include "../base/mem.h"
#include "bits.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* A wrong label is believed over an explicit `sym: false` only from this many
 * equal fields on; fewer may be chance. */
#define LABEL_EVIDENCE 64

/* Fields of one, and the constants in the order in which gptqmodel 0.9.0 to
 * 6.0.3 used them at 3 bits.  Word i of a row takes entry i % 3. */
static const uint32_t ones[9][3] = {
	[2] = { 0x55555555, 0x55555555, 0x55555555 },
	[3] = { 0x49249249, 0x92492492, 0x24924924 },
	[4] = { 0x11111111, 0x11111111, 0x11111111 },
	[8] = { 0x01010101, 0x01010101, 0x01010101 },
};
static const uint32_t swapped[3] = { 0x24924924, 0x92492492, 0x49249249 };
static const uint32_t nothing[3];

/* Row g with add[i % 3] added to word i. */
static void row_add(const struct qf_zeros *z, const uint32_t *add, uint32_t g,
		    size_t words, uint8_t *row)
{
	const uint8_t *from = (const uint8_t *)z->words + 4 * words * g;

	for (size_t w = 0; w < words; w++)
		half_put32(row + 4 * w, half_le32(from + 4 * w) + add[w % 3]);
}

/* A row of fields that are all `value`. */
static void equal_fields(const struct qf_zeros *z, uint32_t value, uint8_t *row)
{
	bits_fill(z->rule, z->bits, (uint8_t)value, z->out, row);
}

/* Are all fields `value`, after adding?  1, 0, or -1 with err.  Bits that
 * are no field's do not count. */
static int constant(const struct qf_zeros *z, const uint32_t *add,
		    uint32_t value, struct err *err)
{
	size_t words = (size_t)bits_words(z->rule, z->bits, z->out);
	uint8_t *want = mem_alloc(words, 4, err);
	uint8_t *mask = mem_alloc(words, 4, err);
	bool plain = add == nothing;
	int same = -1;

	if (!want || !mask)
		goto out;
	equal_fields(z, value, want);
	equal_fields(z, (1u << z->bits) - 1, mask);
	same = 1;
	for (size_t w = 0; plain && w < 4 * words; w++)
		plain = mask[w] == 0xff;
	for (uint32_t g = 0; same && g < z->groups; g++) {
		const uint8_t *row = (const uint8_t *)z->words + 4 * words * g;

		if (plain) {
			same = !memcmp(row, want, 4 * words);
			continue;
		}
		for (size_t w = 0; same && w < words; w++)
			same = !(((half_le32(row + 4 * w) + add[w % 3]) ^
				  half_le32(want + 4 * w)) &
				 half_le32(mask + 4 * w));
	}
out:
	free(want);
	free(mask);
	return same;
}

/* Is a field all ones?  1, 0, or -1 with err.  Where fields do not straddle
 * words, eight at a time: what is left of a field's bits, and-ed. */
static int full_words(const struct qf_zeros *z, const uint8_t *valid,
		      size_t words)
{
	const uint32_t low = UINT32_MAX / ((1u << z->bits) - 1);

	for (uint32_t g = 0; g < z->groups; g++) {
		const uint8_t *row = (const uint8_t *)z->words + 4 * words * g;

		for (size_t w = 0; w < words; w++) {
			uint32_t x = half_le32(row + 4 * w) &
				     half_le32(valid + 4 * w);

			for (uint32_t b = 1; b < z->bits; b *= 2)
				x &= x >> b;
			if (x & low)
				return 1;
		}
	}
	return 0;
}

static int contains_full(const struct qf_zeros *z, struct err *err)
{
	size_t words = (size_t)bits_words(z->rule, z->bits, z->out);
	uint32_t full = (1u << z->bits) - 1;
	uint8_t *row = mem_alloc(words, 4, err);
	uint8_t *narrow = mem_alloc(z->out, 1, err);
	int found = -1;

	if (!row || !narrow)
		goto out;
	found = 0;
	if (32 % z->bits == 0) {
		equal_fields(z, full, row);
		found = full_words(z, row, words);
		goto out;
	}
	for (uint32_t g = 0; !found && g < z->groups; g++) {
		bits_unpack(z->rule, z->bits,
			    (const uint8_t *)z->words + 4 * words * g, 1,
			    z->out, narrow, 1);
		found = memchr(narrow, (int)full, z->out) != NULL;
	}
out:
	free(row);
	free(narrow);
	return found;
}

/* One word whose fields begin at bit `first`: -1 when an all-ones field has
 * something else above it, else how many fields are all ones.  A field that
 * runs on into the next word is left out: the packer masked its upper part. */
static int smear_in(uint32_t word, uint32_t first, uint32_t bits)
{
	uint32_t max = (1u << bits) - 1;
	int count = 0;

	for (uint32_t p = first; p + bits <= 32; p += bits) {
		if ((word >> p & max) != max) {
			if (count)
				return -1;
			continue;
		}
		if (word >> p != UINT32_MAX >> p)
			return -1;
		count++;
	}
	return count;
}

/* Every all-ones field has only ones above it in its word, and somewhere there
 * are at least two. */
static bool smeared(const struct qf_zeros *z)
{
	uint64_t words = bits_words(z->rule, z->bits, z->out);
	bool evidence = false;

	for (uint64_t i = 0; i < words * z->groups; i++) {
		uint32_t over = (uint32_t)(i % words * 32 % z->bits);
		uint32_t first = over ? z->bits - over : 0;
		int n = smear_in(half_le32((const uint8_t *)z->words + 4 * i),
				 first, z->bits);

		if (n < 0)
			return false;
		if (n > 1)
			evidence = true;
	}
	return evidence;
}

/* v1 with a field of all ones: who wrote it decides. */
static void ambiguous(const struct qf_zeros *z, struct qf_reading *r,
		      uint32_t *odd)
{
	uint16_t max = (uint16_t)((1u << z->bits) - 1);

	if (z->hint->by_gptqmodel && z->bits != 3) {
		r->add = ones[z->bits];
		r->plus = 0;
		return;
	}
	if (z->hint->by_gptqmodel || z->bits != 3)
		r->mask = max;
	if (!z->hint->by_gptqmodel)
		*odd |= smeared(z) ? QF_ODD_ZERO_SMEAR : QF_ODD_ZERO_WRAP;
}

/* Only the lower half of each 64-bit word was made v1.  Source:
 * gptq-formats(5) "Zero points". */
static int halves(const struct qf_zeros *z, struct err *err)
{
	size_t words = (size_t)bits_words(z->rule, z->bits, z->out);
	uint32_t per = 32 / z->bits, mid = 1u << (z->bits - 1);
	uint8_t *narrow = mem_alloc(z->out, 1, err);
	int same = narrow ? z->bias : -1;

	for (uint32_t g = 0; same > 0 && g < z->groups; g++) {
		bits_unpack(z->rule, z->bits,
			    (const uint8_t *)z->words + 4 * words * g, 1,
			    z->out, narrow, 1);
		for (uint32_t n = 0; same && n < z->out; n++)
			same = narrow[n] == mid - (n / per % 2 ? 0 : 1);
	}
	free(narrow);
	return same;
}

/* 3 bits, v1: are they the swapped constants?  1: they are taken back. */
static int by_swapped(const struct qf_zeros *z, struct qf_reading *r,
		      uint32_t *odd, struct err *err)
{
	int same = constant(z, swapped, 1u << (z->bits - 1), err);

	if (same < 0 || (!same && !(z->hint->swap3 && z->hint->sym != 1)))
		return same;
	*odd |= QF_ODD_ZERO_SWAP3;
	r->add = swapped;
	r->plus = 0;
	return 1;
}

/* The constants of a symmetric module, before any doubt about single fields.
 * 1: decided. */
static int by_constant(const struct qf_zeros *z, struct qf_reading *r,
		       uint32_t *odd, struct err *err)
{
	uint32_t mid = 1u << (z->bits - 1);
	bool enough = (uint64_t)z->groups * z->out >= LABEL_EVIDENCE;
	int same = constant(z, nothing, mid - z->bias, err);

	/* there is no planar v1 */
	if (same || z->rule->kind == BITS_PLANAR)
		return same;
	if (z->hint->sym != 0 || enough)
		same = constant(z, nothing, mid - 1 + z->bias, err);
	if (same) {
		*odd |= same > 0 ? QF_ODD_LABEL : 0;
		r->plus = (uint16_t)(1 - z->bias);
		return same;
	}
	if (z->wide)
		same = halves(z, err);
	if (same) {
		*odd |= same > 0 ? QF_ODD_LABEL : 0;
		r->middle = true;
		return same;
	}
	return z->bits == 3 && z->bias ? by_swapped(z, r, odd, err) : 0;
}

int qf_zeros_choose(const struct qf_zeros *z, struct qf_reading *r,
		    uint32_t *odd, struct err *err)
{
	int decided, full = 0;

	*r = (struct qf_reading){ nothing, z->bias, UINT16_MAX, false };
	decided = by_constant(z, r, odd, err);
	if (decided)
		return decided < 0 ? -1 : 0;
	if (z->hint->sym == 1) {
		*odd |= QF_ODD_SYM;
		r->middle = true;
		return 0;
	}
	if (z->bias)
		full = contains_full(z, err);
	if (full > 0)
		ambiguous(z, r, odd);
	return full < 0 ? -1 : 0;
}

int qf_zeros_centred(const struct qf_zeros *z, const struct qf_reading *r,
		     struct err *err)
{
	uint32_t max = (1u << z->bits) - 1;

	if (r->middle)
		return 1;
	return constant(z, r->add, ((1u << (z->bits - 1)) - r->plus) & max,
			err);
}

int qf_zeros_decode(const struct qf_zeros *z, const struct qf_reading *r,
		    uint16_t *zero, struct err *err)
{
	size_t words = (size_t)bits_words(z->rule, z->bits, z->out);
	uint8_t *row = mem_alloc(words, 4, err);
	uint8_t *narrow = mem_alloc(z->out, 1, err);
	int ret = row && narrow ? 0 : -1;

	for (uint32_t g = 0; !ret && g < z->groups; g++, zero += z->out) {
		row_add(z, r->add, g, words, row);
		bits_unpack(z->rule, z->bits, row, 1, z->out, narrow, 1);
		for (uint32_t n = 0; n < z->out; n++)
			zero[n] = (uint16_t)((narrow[n] + r->plus) & r->mask);
	}
	free(row);
	free(narrow);
	return ret;
}

int qf_rebias(const struct tensor *qzeros, uint32_t bits, bool to_v2,
	      void *words)
{
	uint32_t max = (1u << bits) - 1, add = UINT32_MAX / max;
	uint32_t stop = to_v2 ? max : 0;
	const uint8_t *from = qzeros->data;
	uint8_t *to = words;

	for (uint64_t i = 0; i < qzeros->size / 4; i++) {
		uint32_t w = half_le32(from + 4 * i);

		for (uint32_t at = 0; at < 32; at += bits)
			if ((w >> at & max) == stop)
				return -1;
		half_put32(to + 4 * i, to_v2 ? w + add : w - add);
	}
	return 0;
}
