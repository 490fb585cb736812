/* Codes packed in words that are not the usual ones. */
#include "../../libfmt/layout/bits.h"
#include "layer.h"

/* compressed-tensors before 0.18: fields that do not straddle words.  Shapes
 * tell, and where both packings are as long (20 inputs of 3 bits) the end of
 * the last word. */
static void as_padded(struct parts *p, const struct ql *ql)
{
	static const struct bits_rule padded = { BITS_PADDED, NULL };
	const struct ql_spec *s = &ql->spec;
	uint64_t words = bits_words(&padded, s->bits, s->in);
	uint64_t rows = bits_words(&padded, s->bits, s->out);
	uint8_t *field = malloc(s->out);

	for (int i = 0; i < 2; i++) {
		uint64_t bytes = i ? 4 * rows * s->groups : 4 * words * s->out;
		struct tensor *t = &p->tensor[i ? 3 : 0];

		free(p->part[i ? 3 : 0]);
		t->data = p->part[i ? 3 : 0] = malloc(bytes);
		t->size = bytes;
		t->dim[i ? 0 : 1] = i ? rows : words;
	}
	for (uint32_t n = 0; n < s->out; n++)
		bits_pack(&padded, s->bits, ql->code + (size_t)n * s->in,
			  1, s->in, (uint8_t *)p->part[0] + 4 * words * n, 1);
	for (uint32_t g = 0; g < s->groups; g++) {
		for (uint32_t n = 0; n < s->out; n++)
			field[n] = (uint8_t)ql->zero[n * s->groups + g];
		bits_pack(&padded, s->bits, field, 1, s->out,
			  (uint8_t *)p->part[3] + 4 * g, s->groups);
	}
	free(field);
}

static void test_compressed_tensors_padded(void **state)
{
	static const uint32_t inputs[] = { 128, 320, 100, 40, 20 };

	(void)state;
	for (uint32_t i = 0; i < 35; i++) {
		struct qf_hint hint = { .desc_act = -1, .sym = -1 };
		struct ql_spec spec = plain_spec;
		struct parts p;
		struct ql a, b;
		struct err err;

		hint.bits = spec.bits = (uint8_t)(2 + i % 7);
		spec.in = inputs[i / 7];
		spec.out = 33;
		spec.groups = 4;
		spec.group_size = spec.in / 4;
		random_layer(&a, &spec, 0);
		must(parts_write(&p, &a, &qf_ct, &err), &err);
		assert_string_equal(p.plan.part[3].suffix, "weight_zero_point");
		as_padded(&p, &a);
		read_as(&p, &hint, &qf_ct, &b,
			32 % spec.bits ? QF_ODD_SPARE : 0);
		same_layer(&a, &b);
		ql_release(&a);
		ql_release(&b);
		parts_free(&p);
	}
}

/* GPTQModel's pack_dtype: the same streams in other words. */
static void test_words_of_other_sizes(void **state)
{
	static const enum dtype types[] = { DT_I8, DT_I16, DT_I64 };
	struct qf_hint hint = { .desc_act = -1, .sym = 0 };

	(void)state;
	for (int i = 0; i < 9; i++) {
		static const uint8_t even[] = { 2, 4, 8 };
		enum dtype type = types[i / 3];
		uint32_t word = tensor_dtype_bits(type);
		struct ql_spec spec = plain_spec;
		struct parts p;
		struct ql a, b;
		struct err err;

		spec.bits = even[i % 3];
		spec.in = 160;
		spec.groups = 5;
		spec.out = 96;
		random_layer(&a, &spec, 1);
		must(parts_write(&p, &a, &qf_gptq, &err), &err);
		for (int k = 0; k < 2; k++) {
			struct tensor *t = &p.tensor[k];

			p.part[k] = parts_cut(t->data, k ? 1 : t->dim[0],
					      k ? t->size / 4 : t->dim[1],
					      k ? 32 : word);
			free((void *)(uintptr_t)t->data);
			t->data = p.part[k];
			t->dim[k] = t->dim[k] * 32 / word;
			t->type = type;
		}
		read_as(&p, &hint, &qf_gptq, &b, QF_ODD_WORDS);
		same_layer(&a, &b);
		ql_release(&a);
		ql_release(&b);
		parts_free(&p);
	}
}

/* Of a word of 64 bits gptqmodel made only the lower half v1. */
static void test_half_of_a_wide_word_is_v1(void **state)
{
	struct qf_hint hint = { .desc_act = -1, .sym = 1 };
	struct ql_spec spec = plain_spec;
	struct parts p;
	struct ql a, b;
	struct err err;
	void *old;

	(void)state;
	spec.sym = 1;
	spec.in = 128;
	spec.groups = 4;
	spec.out = 32;
	random_layer(&a, &spec, 1);
	must(parts_write(&p, &a, &qf_gptq, &err), &err);
	old = p.part[0];
	p.part[0] = parts_cut(old, p.tensor[0].dim[0], p.tensor[0].dim[1], 64);
	free(old);
	p.tensor[0].data = p.part[0];
	p.tensor[0].dim[0] /= 2;
	p.tensor[0].type = p.tensor[1].type = DT_I64;
	p.tensor[1].dim[1] /= 2;
	for (uint64_t i = 0; i < p.tensor[1].size; i += 8)
		half_put64((uint8_t *)p.part[1] + i,
			   UINT64_C(0x8888888877777777));
	read_as(&p, &hint, &qf_gptq, &b, QF_ODD_WORDS | QF_ODD_LABEL);
	same_layer(&a, &b);
	ql_release(&a);
	ql_release(&b);
	parts_free(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_compressed_tensors_padded),
		cmocka_unit_test(test_words_of_other_sizes),
		cmocka_unit_test(test_half_of_a_wide_word_is_v1),
	};

	return cmocka_run_group_tests_name("qfmt_words", tests, NULL, NULL);
}
