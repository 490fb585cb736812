/* AWQ's layouts for single vectors, which are read only, on layers packed here:
 * numbers of groups that do not fill their words, and products of scale and
 * zero that no f16 holds.  Source: gptq-formats(5) sections 8.3 and 8.4. */
#include "layer.h"

#include <stdio.h>

/* The three tensors of a module. */
struct three {
	struct tensor t[3];
	void *data[3];
	struct qf_module module;
};

static void three_add(struct three *x, const char *name, enum dtype type,
		      uint64_t d0, uint64_t d1)
{
	uint32_t i = x->module.count++;
	struct tensor *t = &x->t[i];

	t->name = name;
	t->type = type;
	t->rank = 2;
	t->dim[0] = d0;
	t->dim[1] = d1;
	t->size = d0 * d1 * tensor_dtype_bits(type) / 8;
	t->data = x->data[i] = calloc(1, t->size);
	x->module.name = "m";
	x->module.part = x->t;
}

static void three_free(struct three *x)
{
	for (uint32_t i = 0; i < 3; i++)
		free(x->data[i]);
}

static void put_f16(void *data, uint64_t at, float v)
{
	half_put16((uint8_t *)data + 2 * at, half_from_f32(v));
}

/* W words of eight groups. */
static void gemv(struct three *x, const struct ql *ql, uint32_t w)
{
	const struct ql_spec *s = &ql->spec;

	*x = (struct three){ .module = { .count = 0 } };
	three_add(x, "m.qweight", DT_I32, s->out, s->in / 8);
	three_add(x, "m.qzeros", DT_I32, s->out, w);
	three_add(x, "m.scales", DT_F16, s->out, 8 * w);
	for (uint32_t n = 0; n < s->out; n++) {
		for (uint32_t k = 0; k < s->in; k++)
			((uint8_t *)x->data[0])[((size_t)n * s->in + k) / 2] |=
				(uint8_t)(ql->code[(size_t)n * s->in + k]
					  << 4 * (k % 2));
		for (uint32_t g = 0; g < s->groups; g++) {
			size_t at = (size_t)n * s->groups + g;

			((uint8_t *)x->data[1])[4 * w * n + g / 2] |= (uint8_t)(
				(uint32_t)ql->zero[at] << 4 * (g % 2));
			put_f16(x->data[2], (uint64_t)8 * w * n + g,
				ql->scale[at]);
		}
	}
}

/* The sizes of real layers, and groups of 32. */
static void test_groups_that_fill_no_word(void **state)
{
	static const struct {
		uint32_t in, gs, groups, words;
	} row[] = {
		{ 11008, 128, 86, 11 }, { 4160, 64, 65, 10 },
		{ 1056, 32, 33, 8 },    { 4096, 128, 32, 4 },
		{ 128, 128, 1, 1 },     { 192, 64, 3, 2 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row) * 2; i++) {
		struct ql_spec spec = { .out = 16, .in = row[i / 2].in,
			.group_size = row[i / 2].gs, .bits = 4,
			.groups = row[i / 2].groups, .scale_type = DT_F16 };
		struct qf_hint hint = { .sym = -1, .desc_act = -1,
			.format = "gemv",
			.group_size = i % 2 ? (int32_t)spec.group_size : 0 };
		struct three x;
		struct ql a, b;

		random_layer(&a, &spec, 0);
		gemv(&x, &a, row[i / 2].words);
		struct parts p = { .module = x.module };
		read_as(&p, &hint, &qf_awq_gemv, &b, 0);
		same_layer(&a, &b);
		ql_release(&a);
		ql_release(&b);
		three_free(&x);
	}
}

/* Nibble of input k and output n, and the tensor's element that it is in. */
static void fast_put(uint8_t *rows, uint32_t in, uint32_t n, uint32_t k,
		     uint32_t code)
{
	uint32_t p = 8 * (k % 8 / 2) + 2 * (k % 32 / 8) + k % 2;
	uint32_t t = 8 * (p / 8) + p % 8 % 2 * 4 + p % 8 / 2;
	uint32_t c = 32 * (k / 32) + t, flat = 64 * (n % 4) + c % 64;
	uint8_t *at = rows + 2 * ((size_t)(n / 4) * in + 64 * (c / 64) +
				  flat / 4);

	half_put16(at, (uint16_t)(half_le16(at) | code << 4 * (flat % 4)));
}

static void fast(struct three *x, const struct ql *ql, uint32_t w)
{
	const struct ql_spec *s = &ql->spec;

	*x = (struct three){ .module = { .count = 0 } };
	three_add(x, "m.qweight", DT_I16, s->out / 4, s->in);
	three_add(x, "m.qzeros", DT_F16, 8 * w, s->out);
	three_add(x, "m.scales", DT_F16, 8 * w, s->out);
	for (uint32_t n = 0; n < s->out; n++) {
		for (uint32_t k = 0; k < s->in; k++)
			fast_put(x->data[0], s->in, n, k,
				 ql->code[(size_t)n * s->in + k]);
		for (uint32_t g = 0; g < s->groups; g++) {
			size_t at = (size_t)n * s->groups + g;

			put_f16(x->data[1], (uint64_t)g * s->out + n,
				-ql->scale[at] * ql->zero[at]);
			put_f16(x->data[2], (uint64_t)g * s->out + n,
				ql->scale[at]);
		}
	}
}

static const struct ql_spec fast_spec = { .out = 16, .in = 192,
	.group_size = 64, .groups = 3, .bits = 4, .scale_type = DT_F16 };

/* Rounded products are still those of whole zeros; one that is of none leaves
 * the layer with the offsets that it has. */
static void test_offsets(void **state)
{
	struct qf_hint hint = { .sym = -1, .desc_act = -1,
				.format = "gemv_fast" };
	struct parts p;
	struct three x;
	struct ql a, b;
	float row[192];

	(void)state;
	random_layer(&a, &fast_spec, 0);
	a.scale[0] = 0x1.554p-3f; /* times 11 it has no f16 */
	a.zero[0] = 11;
	fast(&x, &a, 2);
	p.module = x.module;
	read_as(&p, &hint, &qf_awq_fast, &b, 0);
	same_layer(&a, &b);
	ql_release(&b);
	put_f16(x.data[1], 5, -2.5f * a.scale[5 * 3]);
	read_as(&p, &hint, &qf_awq_fast, &b, 0);
	assert_int_equal(b.spec.zero_kind, QL_OFFSET);
	assert_int_equal(b.spec.sym, 0);
	ql_dequant_row(&b, 5, row);
	for (uint32_t k = 0; k < 64; k++)
		assert_true(row[k] == a.scale[5 * 3] * a.code[5 * 192 + k] -
					      2.5f * a.scale[5 * 3]);
	ql_dequant_row(&b, 0, row);
	/* as it was stored, that is: rounded to f16 */
	assert_true(row[0] == a.scale[0] * a.code[0] -
				      half_to_f32(half_from_f32(
					      a.scale[0] * 11)));
	ql_release(&a);
	ql_release(&b);
	three_free(&x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_groups_that_fill_no_word),
		cmocka_unit_test(test_offsets),
	};

	return cmocka_run_group_tests_name("qfmt_gemv", tests, NULL, NULL);
}
