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

/* How to read: zero = (field(word + add) + plus) & mask, or the middle. */
struct reading {
	const uint32_t *add;
	uint16_t plus, mask;
	bool middle;
};

/* Fields of all rows, after adding add[i % 3] to word i of each row. */
static int unpack(const struct qf_zeros *z, const uint32_t *add,
		  uint16_t *field, struct err *err)
{
	size_t words = (size_t)bits_words(z->rule, z->bits, z->out);
	uint8_t *row = mem_alloc(words, 4, err);
	uint8_t *narrow = mem_alloc(z->out, 1, err);
	int ret = -1;

	if (!row || !narrow)
		goto out;
	for (uint32_t g = 0; g < z->groups; g++) {
		const uint8_t *from = (const uint8_t *)z->words + 4 * words * g;

		for (size_t w = 0; w < words; w++)
			half_put32(row + 4 * w,
				   half_le32(from + 4 * w) + add[w % 3]);
		bits_unpack(z->rule, z->bits, row, 1, z->out, narrow, 1);
		for (uint32_t n = 0; n < z->out; n++)
			field[(size_t)g * z->out + n] = narrow[n];
	}
	ret = 0;
out:
	free(row);
	free(narrow);
	return ret;
}

static bool constant(const struct qf_zeros *z, const uint16_t *field,
		     uint32_t value)
{
	size_t n = (size_t)z->groups * z->out;

	for (size_t i = 0; i < n; i++)
		if (field[i] != value)
			return false;
	return true;
}

static bool contains(const struct qf_zeros *z, const uint16_t *field,
		     uint32_t value)
{
	size_t n = (size_t)z->groups * z->out;

	for (size_t i = 0; i < n; i++)
		if (field[i] == value)
			return true;
	return false;
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
static void ambiguous(const struct qf_zeros *z, struct reading *r,
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
static bool halves(const struct qf_zeros *z, const uint16_t *field)
{
	uint32_t per = 32 / z->bits, mid = 1u << (z->bits - 1);

	for (uint32_t g = 0; g < z->groups; g++)
		for (uint32_t n = 0; n < z->out; n++)
			if (field[(size_t)g * z->out + n] !=
			    mid - (n / per % 2 ? 0 : 1))
				return false;
	return z->bias;
}

/* The constants of a symmetric module, before any doubt about single fields.
 * `field` is scratch for a second unpacking.  1: decided. */
static int by_constant(const struct qf_zeros *z, uint16_t *field,
		       struct reading *r, uint32_t *odd, struct err *err)
{
	uint32_t mid = 1u << (z->bits - 1);
	bool enough = (uint64_t)z->groups * z->out >= LABEL_EVIDENCE;

	if (constant(z, field, mid - z->bias))
		return 1;
	if (z->rule->kind == BITS_PLANAR) /* there is no v1 of it */
		return 0;
	if ((z->hint->sym != 0 || enough) &&
	    constant(z, field, mid - 1 + z->bias)) {
		*odd |= QF_ODD_LABEL;
		r->plus = (uint16_t)(1 - z->bias);
		return 1;
	}
	if (z->wide && halves(z, field)) {
		*odd |= QF_ODD_LABEL;
		r->middle = true;
		return 1;
	}
	if (z->bits != 3 || !z->bias)
		return 0;
	if (unpack(z, swapped, field, err))
		return -1;
	if (!constant(z, field, mid) && !(z->hint->swap3 && z->hint->sym != 1))
		return unpack(z, nothing, field, err);
	*odd |= QF_ODD_ZERO_SWAP3;
	r->add = swapped;
	r->plus = 0;
	return 1;
}

int qf_zeros_middle(const struct qf_zeros *z, struct err *err)
{
	size_t words = (size_t)bits_words(z->rule, z->bits, z->out);
	/* 32 equal fields fill whole words, which repeat */
	uint32_t n = z->out % 32 ? z->out : 32;
	uint8_t *narrow = mem_alloc(n, 1, err);
	uint8_t *row = mem_alloc(words, 4, err);
	int same = narrow && row ? 1 : -1;

	if (same > 0) {
		memset(narrow, (1 << (z->bits - 1)) - z->bias, n);
		bits_pack(z->rule, z->bits, narrow, 1, n, row, 1);
	}
	for (size_t w = z->bits; same > 0 && n < z->out && w < words; w++)
		memcpy(row + 4 * w, row + 4 * (w - z->bits), 4);
	for (uint32_t g = 0; same > 0 && g < z->groups; g++)
		same = !memcmp((const uint8_t *)z->words + 4 * words * g, row,
			       4 * words);
	free(narrow);
	free(row);
	return same;
}

static int choose(const struct qf_zeros *z, uint16_t *field,
		  struct reading *r, uint32_t *odd, struct err *err)
{
	int decided = by_constant(z, field, r, odd, err);

	if (decided)
		return decided < 0 ? -1 : 0;
	if (z->hint->sym == 1) {
		*odd |= QF_ODD_SYM;
		r->middle = true;
	} else if (z->bias && contains(z, field, (1u << z->bits) - 1)) {
		ambiguous(z, r, odd);
	}
	return 0;
}

int qf_zeros_read(const struct qf_zeros *z, uint16_t *zero, uint32_t *odd,
		  struct err *err)
{
	struct reading r = { nothing, z->bias, UINT16_MAX, false };
	size_t n = (size_t)z->groups * z->out;
	uint16_t mid = (uint16_t)(1u << (z->bits - 1));

	if (unpack(z, nothing, zero, err) || choose(z, zero, &r, odd, err))
		return -1;
	if (r.add != nothing && unpack(z, r.add, zero, err))
		return -1;
	for (size_t i = 0; i < n; i++)
		zero[i] = r.middle ? mid
				   : (uint16_t)((zero[i] + r.plus) & r.mask);
	return 0;
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
