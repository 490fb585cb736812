/* Packing and unpacking of code streams, against the published vectors and
 * against a reader that takes one bit at a time. */
#include "../../libfmt/base/half.h"
#include "../../libfmt/layout/bits_tile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct bits_rule padded = { BITS_PADDED, NULL };
static const struct bits_rule planar = { BITS_PLANAR, NULL };
static const uint8_t awq_order[8] = { 0, 2, 4, 6, 1, 3, 5, 7 };
static const struct bits_rule awq = { BITS_STREAM, awq_order };

static uint64_t seed = 1;

static uint32_t rnd(uint32_t below)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 33) % below;
}

/* gptq-formats(5) "Test vectors": code i is (mul*i + add) % mod. */
static const struct vector {
	const struct bits_rule *rule;
	uint32_t b, n, mul, add, mod, words;
	uint32_t word[6];
} vectors[] = {
	{ &bits_stream, 2, 32, 1, 0, 4, 2, { 0xE4E4E4E4, 0xE4E4E4E4 } },
	{ &bits_stream, 3, 32, 1, 0, 8, 3,
	  { 0x88FAC688, 0xC688FAC6, 0xFAC688FA } },
	{ &bits_stream, 3, 32, 5, 3, 8, 3,
	  { 0x43C67543, 0x7543C675, 0xC67543C6 } },
	{ &bits_stream, 4, 32, 1, 0, 16, 4,
	  { 0x76543210, 0xFEDCBA98, 0x76543210, 0xFEDCBA98 } },
	{ &bits_stream, 8, 16, 1, 0, 256, 4,
	  { 0x03020100, 0x07060504, 0x0B0A0908, 0x0F0E0D0C } },
	{ &planar, 3, 32, 1, 0, 8, 3, { 0xE4E4E4E4, 0xE4E4E4E4, 0xF0F0F0F0 } },
	{ &planar, 5, 32, 1, 0, 32, 5,
	  { 0x76543210, 0xFEDCBA98, 0x76543210, 0xFEDCBA98, 0xFFFF0000 } },
	{ &planar, 6, 32, 1, 0, 64, 6,
	  { 0x76543210, 0xFEDCBA98, 0x76543210, 0xFEDCBA98, 0x00000000,
	    0x55555555 } },
	{ &awq, 4, 8, 1, 0, 8, 1, { 0x75316420 } },
	{ &padded, 3, 10, 1, 1, 8, 1, { 0x111F58D1 } },
};

static void test_published_vectors(void **state)
{
	(void)state;
	for (size_t v = 0; v < sizeof(vectors) / sizeof(vectors[0]); v++) {
		const struct vector *x = &vectors[v];
		uint8_t code[32], back[32], bytes[24];

		for (uint32_t i = 0; i < x->n; i++)
			code[i] = (uint8_t)((x->mul * i + x->add) % x->mod);
		assert_int_equal(bits_words(x->rule, x->b, x->n), x->words);
		bits_pack(x->rule, x->b, code, 1, x->n, bytes, 1);
		for (uint32_t i = 0; i < x->words; i++)
			assert_int_equal(half_le32(bytes + 4 * i), x->word[i]);
		bits_unpack(x->rule, x->b, bytes, 1, x->n, back, 1);
		assert_memory_equal(code, back, x->n);
	}
}

/* Fields of 3 bits that lie in two words, each of them alone. */
static void test_straddling_fields(void **state)
{
	static const struct {
		uint32_t field, at; /* its first word */
		uint32_t word[2];
	} row[] = {
		{ 10, 0, { 0xC0000000, 1 } }, { 21, 1, { 0x80000000, 3 } },
		{ 42, 3, { 0xC0000000, 1 } }, { 53, 4, { 0x80000000, 3 } },
	};
	uint8_t code[64], back[64], bytes[24];

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		memset(code, 0, sizeof(code));
		code[row[i].field] = 7;
		bits_pack(&bits_stream, 3, code, 1, 64, bytes, 1);
		for (uint32_t w = 0; w < 6; w++)
			assert_int_equal(half_le32(bytes + 4 * w),
				w - row[i].at < 2 ? row[i].word[w - row[i].at] :
						    0);
		bits_unpack(&bits_stream, 3, bytes, 1, 64, back, 1);
		assert_memory_equal(code, back, 64);
	}
	memset(code, 7, sizeof(code));
	bits_pack(&bits_stream, 3, code, 1, 64, bytes, 1);
	for (uint32_t w = 0; w < 6; w++)
		assert_int_equal(half_le32(bytes + 4 * w), UINT32_MAX);
	bits_unpack(&bits_stream, 3, bytes, 1, 64, back, 1);
	assert_memory_equal(code, back, 64);
}

/* The definition, one bit at a time: stream bit n is bit n % 32 of word
 * n / 32; words lie `stride` apart. */
static uint8_t slow_field(const uint8_t *words, size_t stride, uint32_t b,
			  uint64_t t)
{
	uint32_t v = 0;

	for (uint32_t i = 0; i < b; i++) {
		uint64_t n = t * b + i;
		uint32_t w = half_le32(words + 4 * stride * (n / 32));

		v |= (w >> n % 32 & 1u) << i;
	}
	return (uint8_t)v;
}

static const uint32_t widths[] = { 1, 2, 3, 4, 8 };

static void test_a_stream_is_what_the_definition_says(void **state)
{
	uint8_t *buf = malloc(1u << 16), *out = malloc(1u << 16);

	(void)state;
	for (uint32_t round = 0; round < 400; round++) {
		uint32_t b = widths[rnd(5)], n = 1 + rnd(150);
		size_t stride = 1 + rnd(4), step = 1 + rnd(3), odd = rnd(4);
		uint64_t words = bits_words(&bits_stream, b, n);
		size_t bytes = (size_t)(4 * ((words - 1) * stride + 1));

		assert_int_equal(words, (n * b + 31) / 32);
		for (size_t i = 0; i < bytes; i++)
			buf[odd + i] = (uint8_t)rnd(256);
		memset(out, 0xee, 1u << 16);
		bits_unpack(&bits_stream, b, buf + odd, stride, n, out, step);
		for (uint32_t t = 0; t < n; t++) {
			assert_int_equal(out[t * step],
					 slow_field(buf + odd, stride, b, t));
			for (size_t s = 1; s < step; s++)
				assert_int_equal(out[t * step + s], 0xee);
		}
		assert_int_equal(out[(n - 1) * step + 1], 0xee);
	}
	free(buf);
	free(out);
}

/* A rule and a width that it has. */
static const struct bits_rule *any_rule(uint32_t *b)
{
	static const struct bits_rule *const rules[] = { &bits_stream, &padded,
							 &planar, &awq };
	const struct bits_rule *r = rules[rnd(4)];

	*b = r == &awq ? 4 : r == &bits_stream ? widths[rnd(5)] : 1 + rnd(8);
	return r;
}

/* Packing gives the bytes back, zero in unused bits, nothing outside. */
static void test_packing_is_the_inverse(void **state)
{
	uint8_t buf[4096], code[512], back[512];

	(void)state;
	for (uint32_t round = 0; round < 800; round++) {
		uint32_t b;
		const struct bits_rule *r = any_rule(&b);
		uint32_t n = 1 + rnd(100);
		size_t stride = 1 + rnd(3), odd = rnd(4);
		size_t words = (size_t)bits_words(r, b, n);

		for (uint32_t i = 0; i < n; i++)
			code[i] = (uint8_t)rnd(1u << b);
		memset(buf, 0xa5, sizeof(buf));
		bits_pack(r, b, code, 1, n, buf + odd, stride);
		bits_unpack(r, b, buf + odd, stride, n, back, 1);
		assert_memory_equal(code, back, n);
		for (size_t w = 0; w < words * stride; w++)
			if (w % stride)
				assert_int_equal(half_le32(buf + odd + 4 * w),
						 0xa5a5a5a5);
		assert_int_equal(
			buf[odd + 4 * ((words - 1) * stride + 1)], 0xa5);
		if (r == &bits_stream && n * b % 32)
			assert_int_equal(half_le32(buf + odd + 4 * stride *
							   (words - 1)) >>
						 n * b % 32,
					 0);
	}
}

/* A filled row is a packed row of equal codes, and ends where that ends. */
static void test_filling_is_packing(void **state)
{
	uint8_t code[128], want[512], got[512];

	(void)state;
	for (uint32_t round = 0; round < 800; round++) {
		uint32_t b;
		const struct bits_rule *r = any_rule(&b);
		uint32_t n = 1 + rnd(100);
		uint8_t value = (uint8_t)rnd(256);

		memset(code, value, sizeof(code));
		memset(want, 0xa5, sizeof(want));
		memset(got, 0xa5, sizeof(got));
		bits_pack(r, b, code, 1, n, want, 1);
		bits_fill(r, b, value, n, got);
		assert_memory_equal(got, want, sizeof(got));
	}
}

/* A code that is too large loses its high bits; its neighbours stay. */
static void test_a_large_code_does_not_smear(void **state)
{
	uint8_t code[8] = { 1, 2, 0xff, 3, 16, 4, 5, 6 }, word[4];

	(void)state;
	bits_pack(&bits_stream, 4, code, 1, 8, word, 1);
	assert_int_equal(half_le32(word), 0x65403f21);
}

/* The same column by column, through tiles, whatever the instruction set: for
 * the other ones their loops are called by themselves below. */
static void check_columns(const struct bits_rule *r, uint32_t b)
{
	uint32_t n = 1 + rnd(300), cols = 1 + rnd(150);
	size_t odd = rnd(4), words = (size_t)bits_words(r, b, n);
	uint8_t *in = malloc(words * cols * 4 + odd);
	uint8_t *out = malloc((size_t)cols * n);
	uint8_t *back = malloc(words * cols * 4 + odd);
	struct bits_tile t;

	memset(&t, 0xee, sizeof(t));
	for (size_t i = 0; i < (size_t)cols * n; i++)
		out[i] = (uint8_t)rnd(1u << b);
	for (size_t c = 0; c < cols; c++)
		bits_pack(r, b, out + c * n, 1, n, in + odd + 4 * c, cols);
	for (uint32_t c = 0; c < cols; c += BITS_TILE_OUT)
		for (uint32_t k = 0; k < n; k += BITS_TILE_IN) {
			uint32_t w = cols - c < 64 ? cols - c : 64;
			uint32_t h = n - k < 128 ? n - k : 128;
			uint8_t code[64][128];

			bits_tile_get(r, b, in + odd, cols, n, c, k, &t);
			bits_tile_to_bytes(&t, code[0], 128, w, h);
			for (uint32_t i = 0; i < w; i++)
				assert_memory_equal(code[i],
						    out + (size_t)(c + i) * n +
							    k, h);
			/* behind the last input the octet is 0 */
			for (uint32_t i = 0; h % 8 && i < w; i++)
				assert_true(t.oct[h / 8].of[i] >>
						    8 * (h % 8) == 0);
			memset(&t, 0xee, sizeof(t));
			bits_tile_from_bytes(&t, code[0], 128, w, h);
			bits_tile_put(r, b, &t, cols, n, c, k, back + odd);
		}
	assert_memory_equal(in + odd, back + odd, words * cols * 4);
	free(in);
	free(out);
	free(back);
}

static void test_columns_equal_single_streams(void **state)
{
	(void)state;
	for (uint32_t round = 0; round < 60; round++)
		check_columns(&bits_stream, widths[1 + rnd(4)]);
	for (uint32_t round = 0; round < 60; round++)
		check_columns(&planar, 2 + rnd(7));
}

/* Every instruction set that this machine has does what the plain one does. */
static void test_instruction_sets_agree(void **state)
{
	const struct bits_isa *plain = bits_isa_number(0);
	uint8_t words[64 * 128], want[64 * 128], have[64 * 128];
	struct bits_tile code, a, b;

	(void)state;
	for (uint32_t round = 0; round < 200; round++) {
		const struct bits_isa *isa = bits_isa_number(round % BITS_ISAS);
		uint32_t w = widths[rnd(5)], n = 1 + rnd(64);
		size_t odd = 4 * rnd(8), stride = 16 * w + odd;

		if (!isa)
			continue;
		for (size_t i = 0; i < sizeof(words); i++)
			words[i] = (uint8_t)rnd(256);
		for (size_t i = 0; i < sizeof(code); i++)
			((uint8_t *)&code)[i] = (uint8_t)rnd(256);
#define GET(call, ...)                                          \
	memset(&a, 0, sizeof(a));                               \
	memset(&b, 0, sizeof(b));                               \
	plain->call(__VA_ARGS__, a.oct);                        \
	isa->call(__VA_ARGS__, b.oct);                          \
	assert_memory_equal(&a, &b, sizeof(a))
#define PUT(call, ...)                                          \
	memset(want, 0xa5, sizeof(want));                       \
	memset(have, 0xa5, sizeof(have));                       \
	plain->call(code.oct, want __VA_ARGS__);                \
	isa->call(code.oct, have __VA_ARGS__);                  \
	assert_memory_equal(want, have, sizeof(want))
		GET(cols_get, w, words, 256 + odd);
		GET(rows_get, w, words, stride < 128 ? stride : 128, n);
		GET(marlin_get, words);
		GET(awq_get, words, 32 + odd, 1 + n % 8);
		PUT(marlin_put, );
		PUT(awq_put, , 32 + odd, 1 + n % 8);
		memset(want, 0xa5, sizeof(want));
		memset(have, 0xa5, sizeof(have));
		plain->cols_put(w, code.oct, want, 256 + odd);
		isa->cols_put(w, code.oct, have, 256 + odd);
		assert_memory_equal(want, have, sizeof(want));
		plain->rows_put(w, code.oct, want, 128, n);
		isa->rows_put(w, code.oct, have, 128, n);
		assert_memory_equal(want, have, sizeof(want));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_published_vectors),
		cmocka_unit_test(test_straddling_fields),
		cmocka_unit_test(test_a_stream_is_what_the_definition_says),
		cmocka_unit_test(test_packing_is_the_inverse),
		cmocka_unit_test(test_filling_is_packing),
		cmocka_unit_test(test_a_large_code_does_not_smear),
		cmocka_unit_test(test_columns_equal_single_streams),
		cmocka_unit_test(test_instruction_sets_agree),
	};

	return cmocka_run_group_tests_name("bits", tests, NULL, NULL);
}
