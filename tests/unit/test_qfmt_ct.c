/* compressed-tensors as third parties write it: shapes of 32 bits, maps that
 * are not set, zero points that are bytes. */
#include "layer.h"

static int part_at(const struct parts *p, const char *suffix)
{
	for (uint32_t i = 0; i < p->plan.count; i++)
		if (!strcmp(p->plan.part[i].suffix, suffix))
			return (int)i;
	fail_msg("no %s", suffix);
	return -1;
}

/* 4, 8, 3 and 2 bits; F16 and BF16; groups and the strategy "channel". */
#define KINDS 16
static const uint8_t bits[] = { 4, 8, 3, 2 };

static void make_layer(struct parts *p, struct ql *ql, uint32_t i)
{
	struct ql_spec spec = plain_spec;
	struct err err;

	spec.bits = bits[i % 4];
	spec.scale_type = i / 4 % 2 ? DT_BF16 : DT_F16;
	if (i / 8 % 2) {
		spec.groups = 1;
		spec.group_size = spec.in;
	}
	random_layer(ql, &spec, 0);
	for (uint32_t k = 0; k < spec.out * spec.groups; k++)
		ql->scale[k] = 0x1p-7f * (float)(1 + rnd(255)); /* in BF16 */
	must(parts_write(p, ql, &qf_ct, &err), &err);
}

static void check(struct parts *p, const struct ql *a, int8_t desc_act,
		  uint32_t odd)
{
	struct qf_hint hint = { .bits = a->spec.bits, .sym = 0,
				.desc_act = desc_act };
	struct ql b;

	read_as(p, &hint, &qf_ct, &b, odd);
	same_layer(a, &b);
	ql_release(&b);
}

static void test_shapes_of_32_bits(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < KINDS; i++) {
		struct parts p;
		struct ql a;
		int at;

		make_layer(&p, &a, i);
		at = part_at(&p, "weight_shape");
		half_put32(p.part[at], a.spec.out);
		half_put32((uint8_t *)p.part[at] + 4, a.spec.in);
		p.tensor[at].type = DT_I32;
		p.tensor[at].size = 8;
		check(&p, &a, -1, 0);
		ql_release(&a);
		parts_free(&p);
	}
}

/* A map of -1 alone is none; one that has others as well is damaged. */
static void test_maps_that_are_not_set(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < KINDS; i++) {
		struct qf_hint hint = { .bits = bits[i % 4], .sym = 0 };
		struct qf_layer l = { .hint = &hint };
		uint8_t map[96 * 4];
		struct parts p;
		struct tensor *t;
		struct err err;
		struct ql a, b;

		make_layer(&p, &a, i);
		t = &p.tensor[p.module.count++];
		t->name = "m.weight_g_idx";
		t->type = DT_I32;
		t->rank = 1;
		t->dim[0] = 96;
		t->size = sizeof(map);
		t->data = map;
		memset(map, 0xff, sizeof(map));
		check(&p, &a, 1, QF_ODD_FORM);
		half_put32(map + 4 * 95, 0);
		l.module = &p.module;
		assert_int_equal(qf_ct.read(&l, &b, &err), -1);
		assert_int_equal(err.code, ERR_INPUT);
		assert_non_null(strstr(err.msg, "m.weight_g_idx: group -1 of "
						"input 0"));
		ql_release(&a);
		parts_free(&p);
	}
}

/* One signed byte for each, and one that the bits do not hold. */
static void test_zeros_in_bytes(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < KINDS; i++) {
		struct qf_hint hint = { .bits = bits[i % 4], .sym = 0 };
		struct qf_layer l = { .hint = &hint };
		struct parts p;
		struct tensor *t;
		struct err err;
		struct ql a, b;
		int8_t *zero;
		int at;

		make_layer(&p, &a, i);
		at = part_at(&p, "weight_zero_point");
		t = &p.tensor[at];
		free(p.part[at]);
		t->type = DT_I8;
		t->dim[0] = 64;
		t->dim[1] = a.spec.groups;
		t->size = 64 * a.spec.groups;
		t->data = p.part[at] = zero = malloc(t->size);
		for (uint32_t k = 0; k < t->size; k++)
			zero[k] = (int8_t)((int)a.zero[k] -
					   (1 << (a.spec.bits - 1)));
		check(&p, &a, -1, QF_ODD_FORM);
		zero[7] = 127;
		l.module = &p.module;
		assert_int_equal(qf_ct.read(&l, &b, &err),
				 a.spec.bits == 8 ? 0 : -1);
		if (a.spec.bits == 8)
			ql_release(&b);
		else
			assert_non_null(strstr(err.msg, "zero point 127"));
		ql_release(&a);
		parts_free(&p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shapes_of_32_bits),
		cmocka_unit_test(test_maps_that_are_not_set),
		cmocka_unit_test(test_zeros_in_bytes),
	};

	return cmocka_run_group_tests_name("qfmt_ct", tests, NULL, NULL);
}
