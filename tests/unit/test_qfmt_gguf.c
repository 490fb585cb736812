/* ggml's blocks: layers that map exactly come back equal, all others are
 * refused with a reason, and what rounding costs is bounded. */
#include "parts.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>

static void read_back(struct parts *p, const struct qf_hint *hint,
		      struct ql *ql)
{
	struct qf_layer l = { .module = &p->module, .hint = hint };
	struct err err;

	assert_ptr_equal(qf_recognise(&p->module, hint), &qf_gguf);
	must(qf_gguf.read(&l, ql, &err), &err);
	must(ql_check(ql, &err), &err);
}

static uint64_t unequal(const struct ql *a, const struct ql *b)
{
	struct ql_diff d;
	struct err err;

	must(ql_compare(a, b, &d, &err), &err);
	return d.unequal;
}

/* Every width, group and kind of zero that the format maps exactly. */
static void test_round_trips(void **state)
{
	static const uint8_t bits[] = { 2, 3, 4, 5, 7, 8 };
	static const uint32_t groups[] = { 32, 64, 96, 192 };

	(void)state;
	for (int b = 0; b < 6; b++)
		for (int g = 0; g < 4; g++)
			for (uint8_t sym = 0; sym < 2; sym++) {
				struct ql_spec s = { .out = 5, .in = 192,
					.bits = bits[b],
					.group_size = groups[g],
					.groups = 192 / groups[g], .sym = sym,
					.scale_type = DT_F16 };
				struct qf_hint hint = { .desc_act = -1,
					.sym = -1,
					.group_size = (int32_t)groups[g] };
				struct ql was, is;
				struct parts p;
				struct err err;

				if (s.bits == 8 && !sym)
					continue;
				random_layer(&was, &s, 0);
				must(parts_write(&p, &was, &qf_gguf, &err),
				     &err);
				assert_int_equal(p.tensor[0].type,
						 s.bits <= 4 && sym ?
						 DT_Q4_0 : DT_Q8_0);
				read_back(&p, &hint, &is);
				assert_int_equal(unequal(&was, &is), 0);
				assert_int_equal(is.spec.group_size,
						 groups[g]);
				if (s.bits == 4 && sym)
					assert_memory_equal(was.code, is.code,
							    5 * 192);
				ql_release(&is);
				/* not told: blocks are the groups */
				hint.group_size = 0;
				read_back(&p, &hint, &is);
				assert_int_equal(is.spec.group_size, 32);
				assert_int_equal(unequal(&was, &is), 0);
				ql_release(&is);
				ql_release(&was);
				parts_free(&p);
			}
}

/* gptq-formats(5) "Test vectors": d = 1, codes 0..31 modulo 16. */
static void test_golden(void **state)
{
	static const uint8_t block[18] = { 0x00, 0x3c, 0x00, 0x11, 0x22, 0x33,
		0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd,
		0xee, 0xff };
	struct ql_spec s = { .out = 1, .in = 32, .groups = 1,
		.group_size = 32, .bits = 4, .sym = 1, .scale_type = DT_F16 };
	struct parts p;
	struct ql ql;
	struct err err;

	(void)state;
	random_layer(&ql, &s, 0);
	ql.scale[0] = 1;
	for (uint32_t k = 0; k < 32; k++)
		ql.code[k] = k % 16;
	must(parts_write(&p, &ql, &qf_gguf, &err), &err);
	assert_memory_equal(p.part[0], block, 18);
	parts_free(&p);
	ql_release(&ql);
}

/* Rows stand where tensor_turned_row says. */
static void test_turned(void **state)
{
	struct ql_spec s = { .out = 16, .in = 64, .groups = 2,
		.group_size = 32, .bits = 4, .sym = 1, .scale_type = DT_F16 };
	struct qf_hint hint = { .desc_act = -1, .sym = -1 };
	uint8_t *plain, *turned;
	struct ql was, is;
	struct parts p;
	struct err err;

	(void)state;
	random_layer(&was, &s, 0);
	must(parts_write(&p, &was, &qf_gguf, &err), &err);
	turned = malloc(16 * 36);
	plain = p.part[0];
	for (uint32_t n = 0; n < 16; n++)
		memcpy(turned + 36 * tensor_turned_row(n, 8), plain + 36 * n,
		       36);
	p.tensor[0].data = turned;
	read_back(&p, &hint, &is);
	assert_true(unequal(&was, &is) > 0);
	ql_release(&is);
	p.tensor[0].turned = 8;
	read_back(&p, &hint, &is);
	assert_int_equal(unequal(&was, &is), 0);
	ql_release(&is);
	free(turned);
	parts_free(&p);
	ql_release(&was);
}

/* A layer that is refused, by its spec or by a value. */
static void refused(struct ql *ql, const char *why)
{
	void *part[QF_PARTS] = { malloc(1 << 16) };
	struct err err;

	if (!qf_gguf.accept(&ql->spec, &err))
		assert_int_equal(qf_gguf.write(ql, part, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	if (!strstr(err.msg, why))
		fail_msg("\"%s\" does not say \"%s\"", err.msg, why);
	free(part[0]);
	ql_release(ql);
}

static void test_refused(void **state)
{
	const struct ql_spec base = { .out = 4, .in = 128, .groups = 2,
		.group_size = 64, .bits = 4, .sym = 1, .scale_type = DT_F16 };
	struct ql_spec s = base;
	struct ql ql;

	(void)state;
	s.act_order = 1;
	random_layer(&ql, &s, 0);
	refused(&ql, "g_idx");
	s = base;
	s.in = 96;
	s.group_size = 48;
	random_layer(&ql, &s, 0);
	refused(&ql, "blocks of 32");
	s.in = s.group_size = 80;
	s.groups = 1;
	random_layer(&ql, &s, 0);
	refused(&ql, "blocks of 32");
	s = base;
	s.bits = 8;
	s.sym = 0;
	random_layer(&ql, &s, 0);
	ql.zero[0] = 0;
	ql.code[0] = 200;
	refused(&ql, "8 bits of Q8_0");
	s = base;
	s.scale_type = DT_F32;
	random_layer(&ql, &s, 0);
	ql.scale[3] = 0.1f;
	refused(&ql, "not exact in F16");
	s = base;
	s.bits = 8;
	random_layer(&ql, &s, 0);
	ql.spec.zero_kind = QL_OFFSET;
	refused(&ql, "offsets");
}

/* F32 scales that F16 holds are as good as F16 ones. */
static void test_wide_scales(void **state)
{
	struct ql_spec s = { .out = 3, .in = 64, .groups = 1,
		.group_size = 64, .bits = 4, .sym = 1, .scale_type = DT_F32 };
	struct qf_hint hint = { .desc_act = -1, .sym = -1, .group_size = -1 };
	struct ql was, is;
	struct parts p;
	struct err err;

	(void)state;
	random_layer(&was, &s, 0);
	must(parts_write(&p, &was, &qf_gguf, &err), &err);
	read_back(&p, &hint, &is);
	assert_int_equal(is.spec.groups, 1);
	assert_int_equal(unequal(&was, &is), 0);
	ql_release(&is);
	ql_release(&was);
	parts_free(&p);
}

/* Rounding: 4-bit zero points become offsets, off by half a unit of f16. */
static void test_lossy(void **state)
{
	struct ql_spec s = { .out = 8, .in = 64, .groups = 2,
		.group_size = 32, .bits = 4, .scale_type = DT_F16 };
	struct qf_hint hint = { .desc_act = -1, .sym = -1 };
	float a[64], b[64];
	struct ql was, is;
	struct parts p;
	struct err err;

	(void)state;
	random_layer(&was, &s, 0);
	must(parts_write(&p, &was, &qf_gguf_lossy, &err), &err);
	assert_int_equal(p.tensor[0].type, DT_Q4_1);
	read_back(&p, &hint, &is);
	assert_int_equal(is.spec.zero_kind, QL_OFFSET);
	for (uint32_t n = 0; n < 8; n++) {
		ql_dequant_row(&was, n, a);
		ql_dequant_row(&is, n, b);
		for (uint32_t k = 0; k < 64; k++) {
			float scale = was.scale[n * 2 + k / 32];

			/* scale * 16 has 11 bits; subnormals aside */
			assert_true(fabsf(a[k] - b[k]) <=
				    scale * 16 / 2048 + 0x1p-24f);
		}
	}
	/* what was rounded once is exact from then on */
	parts_free(&p);
	must(parts_write(&p, &is, &qf_gguf, &err), &err);
	ql_release(&was);
	read_back(&p, &hint, &was);
	assert_int_equal(unequal(&was, &is), 0);
	ql_release(&is);
	ql_release(&was);
	parts_free(&p);
}

/* Offsets that are whole multiples of their scale are zero points. */
static void test_points(void **state)
{
	struct ql_spec s = { .out = 2, .in = 32, .groups = 1,
		.group_size = 32, .bits = 4, .scale_type = DT_F16 };
	struct qf_hint hint = { .desc_act = -1, .sym = -1 };
	struct ql was, is;
	struct parts p;
	struct err err;

	(void)state;
	random_layer(&was, &s, 0);
	was.scale[0] = 0.5f;
	was.scale[1] = 0.25f;
	was.zero[0] = 3;
	was.zero[1] = 15;
	must(parts_write(&p, &was, &qf_gguf_lossy, &err), &err);
	assert_int_equal(p.tensor[0].type, DT_Q4_1);
	read_back(&p, &hint, &is);
	assert_int_equal(is.spec.zero_kind, QL_POINT);
	assert_int_equal((int)is.zero[0], 3);
	assert_int_equal((int)is.zero[1], 15);
	assert_int_equal(unequal(&was, &is), 0);
	ql_release(&is);
	ql_release(&was);
	parts_free(&p);
}

/* A file that says groups of 64 and has another scale in the second half. */
static void test_broken_group(void **state)
{
	struct ql_spec s = { .out = 2, .in = 64, .groups = 2,
		.group_size = 32, .bits = 4, .sym = 1, .scale_type = DT_F16 };
	struct qf_hint hint = { .desc_act = -1, .sym = -1, .group_size = 64 };
	struct qf_layer l = { .hint = &hint };
	struct ql was, is;
	struct parts p;
	struct err err;

	(void)state;
	random_layer(&was, &s, 0);
	was.scale[2] = 1;
	was.scale[3] = 2;
	must(parts_write(&p, &was, &qf_gguf, &err), &err);
	l.module = &p.module;
	assert_int_equal(qf_gguf.read(&l, &is, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	assert_non_null(strstr(err.msg, "more than one scale"));
	ql_release(&was);
	parts_free(&p);
}

/* One block of each type that is read, of made-up bytes with d (and m) of a
 * usual size: FNV-1a of its weights as gguf-py's dequantize gives them, zeros
 * without a sign. */
static void test_decoded(void **state)
{
	static const struct {
		enum dtype type;
		uint32_t d, m; /* where they stand; m 0: there is none */
		uint32_t hash;
	} rows[] = {
		{ DT_Q4_0, 0, 0, 0xbdf65338u }, { DT_Q4_1, 0, 2, 0xb851386bu },
		{ DT_Q5_0, 0, 0, 0xcbafb6c8u }, { DT_Q5_1, 0, 2, 0x41e210efu },
		{ DT_Q8_0, 0, 0, 0xc249c1b9u }, { DT_Q4_K, 0, 2, 0x0838835eu },
		{ DT_Q5_K, 0, 2, 0x58a1d3efu },
		{ DT_Q6_K, 208, 0, 0x9fe93f41u },
	};
	struct qf_hint hint = { .desc_act = -1, .sym = -1 };

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint32_t bytes, n = tensor_dtype_block(rows[i].type, &bytes);
		uint32_t x = bytes, hash = 2166136261u;
		uint8_t block[256];
		struct tensor t = { .name = "m.weight", .type = rows[i].type,
			.rank = 2, .dim = { 1, n }, .data = block,
			.size = bytes };
		struct parts p = { .module = { "m", &t, 1 } };
		float row[256];
		struct ql ql;

		for (uint32_t k = 0; k < bytes; k++) {
			x = x * 1664525u + 1013904223u;
			block[k] = (uint8_t)(x >> 24);
		}
		half_put16(block + rows[i].d, half_from_f32(0.0123f));
		if (rows[i].m)
			half_put16(block + rows[i].m, half_from_f32(-0.75f));
		read_back(&p, &hint, &ql);
		ql_dequant_row(&ql, 0, row);
		for (uint32_t k = 0; k < n; k++) {
			uint32_t bits = half_bits(row[k] + 0.0f);

			for (int b = 0; b < 32; b += 8)
				hash = (hash ^ (bits >> b & 255)) * 16777619u;
		}
		assert_int_equal(hash, rows[i].hash);
		ql_release(&ql);
	}
}

/* Known, listed with its sizes, not decoded. */
static void test_other_types(void **state)
{
	struct qf_hint hint = { .desc_act = -1, .sym = -1 };

	(void)state;
	for (int type = DT_Q4_0; type < DT_COUNT; type++) {
		uint32_t bytes, n = tensor_dtype_block((enum dtype)type,
						       &bytes);
		struct tensor t = { .name = "m.weight",
			.type = (enum dtype)type, .rank = 2,
			.dim = { 2, n }, .size = 2 * bytes };
		struct qf_module m = { "m", &t, 1 };
		struct qf_layer l = { .module = &m, .hint = &hint };
		struct ql_spec s = { 0 };
		struct err err;
		bool read = type == DT_Q4_0 || type == DT_Q4_1 ||
			    type == DT_Q5_0 || type == DT_Q5_1 ||
			    type == DT_Q8_0 || type == DT_Q4_K ||
			    type == DT_Q5_K || type == DT_Q6_K;

		assert_ptr_equal(qf_recognise(&m, &hint), &qf_gguf);
		assert_int_equal(qf_gguf.spec(&l, &s, &err), read ? 0 : -1);
		assert_int_equal(s.in, n);
		assert_int_equal(s.out, 2);
		if (!read) {
			assert_int_equal(err.code, ERR_UNSUP);
			assert_non_null(strstr(err.msg, tensor_dtype_name(
						       (enum dtype)type)));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trips),
		cmocka_unit_test(test_golden),
		cmocka_unit_test(test_turned),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_wide_scales),
		cmocka_unit_test(test_lossy),
		cmocka_unit_test(test_points),
		cmocka_unit_test(test_broken_group),
		cmocka_unit_test(test_decoded),
		cmocka_unit_test(test_other_types),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
