/* One layer to another of the same weights: each operation alone, over widths,
 * group sizes and act-order, compared bit for bit. */
#include "../../libfmt/layout/qfmt_moved.h"
#include "../../libfmt/layout/qlop.h"
#include "parts.h"

static const struct ql_spec base = { .out = 12, .in = 96, .groups = 3,
	.group_size = 32, .bits = 3, .zero_kind = QL_POINT,
	.scale_type = DT_F16 };

static void copy(const struct ql *ql, struct ql *to)
{
	struct err err;

	must(ql_init(to, &ql->spec, &err), &err);
	memcpy(to->code, ql->code, (size_t)ql->spec.out * ql->spec.in);
	memcpy(to->scale, ql->scale,
	       (size_t)ql->spec.out * ql->spec.groups * sizeof(float));
	memcpy(to->zero, ql->zero,
	       (size_t)ql->spec.out * ql->spec.groups * sizeof(float));
	memcpy(to->group_of, ql->group_of, ql->spec.in * sizeof(uint32_t));
	to->spec = ql->spec;
}

/* Sound, and every weight where the map says; then both are released. */
static void assert_moved(struct ql *was, const struct ql_map *map,
			 struct ql *is)
{
	struct ql_diff d;
	struct err err;

	must(ql_check(is, &err), &err);
	must(ql_compare_moved(was, map, is, &d, &err), &err);
	if (d.unequal)
		fail_msg("%llu differ, at output %u, input %u",
			 (unsigned long long)d.unequal, d.n, d.k);
	ql_release(was);
	ql_release(is);
}

static void assert_same(struct ql *was, struct ql *is)
{
	struct ql_map map = { NULL, NULL, was->spec.out, was->spec.in };

	assert_moved(was, &map, is);
}

/* ---- bits ---- */

static void test_widen(void **state)
{
	struct ql ql, was;
	struct err err;

	(void)state;
	for (uint8_t from = 2; from <= 8; from++)
		for (uint8_t to = from; to <= 8; to++)
			for (int sym = 0; sym < 2; sym++) {
				struct ql_spec spec = base;

				spec.bits = from;
				spec.sym = sym != 0;
				random_layer(&ql, &spec, 0);
				if (!sym) /* a v1 field of all ones */
					ql.zero[5] = (float)(1u << from);
				copy(&ql, &was);
				must(ql_widen(&ql, to, &err), &err);
				assert_int_equal(ql.spec.bits, to);
				assert_int_equal(ql.spec.sym, sym);
				/* a true 0 becomes one that v1 holds */
				for (size_t i = 0; i < 36 && to > from; i++)
					assert_true(ql.zero[i] >= 1);
				assert_same(&was, &ql);
			}
}

static void test_narrowing_is_refused(void **state)
{
	struct ql ql;
	struct err err;

	(void)state;
	random_layer(&ql, &base, 0);
	assert_int_equal(ql_widen(&ql, 2, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	assert_int_equal(ql_widen(&ql, 9, &err), -1);
	assert_int_equal(ql.spec.bits, 3);
	ql_release(&ql);
}

/* ---- groups ---- */

static void test_split(void **state)
{
	static const uint32_t sizes[] = { 16, 8, 1 };
	struct ql ql, was;
	struct err err;

	(void)state;
	for (int act = 0; act < 2; act++)
		for (uint32_t in = 90; in <= 96; in += 6)
			for (int i = 0; i < 3; i++) {
				struct ql_spec spec = base;

				spec.in = in;
				spec.act_order = act != 0;
				random_layer(&ql, &spec, 0);
				copy(&ql, &was);
				must(ql_split(&ql, sizes[i], &err), &err);
				assert_int_equal(ql.spec.group_size, sizes[i]);
				assert_int_equal(ql.spec.groups,
						 (in - 1) / sizes[i] + 1);
				if (!act)
					assert_false(ql.spec.act_order);
				assert_same(&was, &ql);
			}
}

/* One group may be cut anywhere. */
static void test_split_one_group(void **state)
{
	struct ql_spec spec = base;
	struct ql ql, was;
	struct err err;

	(void)state;
	spec.groups = 1;
	spec.group_size = spec.in;
	random_layer(&ql, &spec, 0);
	copy(&ql, &was);
	must(ql_split(&ql, 64, &err), &err);
	assert_int_equal(ql.spec.groups, 2);
	assert_false(ql.spec.act_order);
	assert_same(&was, &ql);
}

/* Every group keeps its size when it is cut in the order of its inputs. */
static void test_split_scattered_evenly(void **state)
{
	struct ql_spec spec = base;
	uint32_t count[6] = { 0 };
	struct err err;
	struct ql ql;

	(void)state;
	spec.act_order = 1;
	random_layer(&ql, &spec, 0);
	must(ql_split(&ql, 16, &err), &err);
	for (uint32_t k = 0; k < 96; k++)
		count[ql.group_of[k]]++;
	for (int g = 0; g < 6; g++)
		assert_int_equal(count[g], 16);
	ql_release(&ql);
}

/* Blocks of 8 inputs that alternate between groups are contiguous at 8. */
static void test_straighten(void **state)
{
	struct ql ql, was;
	struct err err;

	(void)state;
	random_layer(&ql, &base, 0);
	for (uint32_t k = 0; k < 96; k++)
		ql.group_of[k] = k / 8 % 3;
	ql_observe(&ql);
	assert_int_equal(ql_straight_size(&ql, NULL, 16), 0);
	assert_int_equal(ql_straight_size(&ql, NULL, 1), 8);
	copy(&ql, &was);
	must(ql_straighten(&ql, 8, &err), &err);
	assert_false(ql.spec.act_order);
	assert_int_equal(ql.spec.groups, 12);
	assert_same(&was, &ql);
}

/* Where all groups are equal, g_idx says nothing. */
static void test_straighten_equal_groups(void **state)
{
	struct ql_spec spec = base;
	struct ql ql, was;
	struct err err;

	(void)state;
	spec.act_order = 1;
	random_layer(&ql, &spec, 0);
	assert_int_equal(ql_straight_size(&ql, NULL, 32), 0);
	for (uint32_t i = 0; i < 36; i++) {
		ql.scale[i] = ql.scale[i - i % 3];
		ql.zero[i] = ql.zero[i - i % 3];
	}
	assert_int_equal(ql_straight_size(&ql, NULL, 32), 32);
	copy(&ql, &was);
	must(ql_straighten(&ql, 32, &err), &err);
	assert_false(ql.spec.act_order);
	assert_same(&was, &ql);
}

/* ---- moving ---- */

static void shuffle(uint32_t *perm, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		perm[i] = i;
	for (uint32_t i = n; i-- > 1;) {
		uint32_t j = rnd(i + 1), t = perm[i];

		perm[i] = perm[j];
		perm[j] = t;
	}
}

static void test_move_and_pad(void **state)
{
	uint32_t row[12], col[96];
	struct ql ql, was;
	struct err err;

	(void)state;
	shuffle(row, 12);
	shuffle(col, 96);
	for (int how = 0; how < 8; how++)
		for (uint32_t in = 96; in <= 140; in += 11) {
			struct ql_map map = { how & 1 ? row : NULL,
				how & 2 ? col : NULL, 12 + in % 3, in };
			struct ql_spec spec = base;

			spec.act_order = how >> 2 & 1;
			random_layer(&ql, &spec, 0);
			copy(&ql, &was);
			must(ql_move(&ql, &map, &err), &err);
			assert_moved(&was, &map, &ql);
		}
}

/* A short last group is filled with its own zero. */
/* Tiles of a moved layer's codes, without the codes, are what ql_move makes. */
static void same_by_tiles(const struct ql *was, const struct ql_map *map)
{
	uint32_t words = (was->spec.in * was->spec.bits + 31) / 32;
	uint32_t *word = calloc(words, 4 * was->spec.out);
	struct qf_strip strip = { was->spec.bits, was->spec.out, was->spec.in,
				  word };
	struct qf_words w = { .how = &qf_codes_stream, .bits = was->spec.bits,
		.out = was->spec.out, .cols = was->spec.out,
		.in = was->spec.in, .data = word,
		.size = 4 * (uint64_t)words * was->spec.out };
	uint8_t *code = calloc(map->out, map->in);
	struct ql moved, grid;
	struct err err;

	assert_non_null(word);
	assert_non_null(code);
	qf_codes_write(&qf_codes_stream, was->code, &strip);
	copy(was, &moved);
	copy(was, &grid);
	grid.code = NULL;
	must(ql_move(&moved, map, &err), &err);
	must(ql_move(&grid, map, &err), &err);
	assert_null(grid.code);
	must(qf_moved_open(&w, map, &grid, &err), &err);
	qf_codes_read(&w, code);
	assert_memory_equal(code, moved.code, (size_t)map->out * map->in);
	qf_moved_close(&w);
	ql_release(&moved);
	ql_release(&grid);
	free(code);
	free(word);
}

static void test_moved_by_tiles(void **state)
{
	struct ql_spec spec = base;
	uint32_t row[150], col[320];
	struct ql ql;

	(void)state;
	/* more than a tile each way, and no whole ones */
	spec.out = 150;
	spec.in = 320;
	spec.groups = 10;
	random_layer(&ql, &spec, 0);
	shuffle(row, spec.out);
	shuffle(col, spec.in);
	same_by_tiles(&ql, &(struct ql_map){ row, NULL, 150, 320 });
	same_by_tiles(&ql, &(struct ql_map){ NULL, col, 150, 320 });
	same_by_tiles(&ql, &(struct ql_map){ NULL, NULL, 300, 520 });
	same_by_tiles(&ql, &(struct ql_map){ row, NULL, 151, 333 });
	same_by_tiles(&ql, &(struct ql_map){ NULL, col, 214, 420 });
	ql_release(&ql);
}

static void test_pad_fills_the_last_group(void **state)
{
	struct ql_map map = { NULL, NULL, 12, 128 };
	struct ql_spec spec = base;
	struct ql ql, was;
	struct err err;

	(void)state;
	spec.in = 84;
	random_layer(&ql, &spec, 0);
	copy(&ql, &was);
	must(ql_move(&ql, &map, &err), &err);
	assert_int_equal(ql.spec.groups, 4);
	assert_moved(&was, &map, &ql);
	/* ... unless that is no code */
	random_layer(&ql, &spec, 0);
	ql.zero[2] = 8;
	assert_int_equal(ql_move(&ql, &map, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	assert_int_equal(ql.spec.in, 84);
	ql_release(&ql);
}

/* Sorted by its groups, a layer of act-order has contiguous ones. */
static void test_order_by_group(void **state)
{
	uint32_t perm[96];
	struct ql_map map = { NULL, perm, 12, 96 };
	struct ql_spec spec = base;
	struct ql ql, was;
	struct err err;

	(void)state;
	spec.act_order = 1;
	random_layer(&ql, &spec, 0);
	for (uint32_t k = 0; k < 96; k++)
		perm[k] = k;
	must(ql_order(ql.group_of, 3, perm, 96, &err), &err);
	for (uint32_t j = 1; j < 96; j++) {
		uint32_t a = perm[j - 1], b = perm[j];

		assert_true(ql.group_of[a] < ql.group_of[b] ||
			    (ql.group_of[a] == ql.group_of[b] && a < b));
	}
	assert_int_equal(ql_straight_size(&ql, perm, 1), 32);
	copy(&ql, &was);
	must(ql_move(&ql, &map, &err), &err);
	assert_false(ql.spec.act_order);
	assert_moved(&was, &map, &ql);
}

/* gptq-formats(5) "Test vectors": the order of g_idx 1,0,1,0,2,2. */
static void test_order_of_the_books(void **state)
{
	static const uint32_t key[] = { 1, 0, 1, 0, 2, 2 };
	static const uint32_t want[] = { 1, 3, 0, 2, 4, 5 };
	uint32_t perm[] = { 0, 1, 2, 3, 4, 5 };
	struct err err;

	(void)state;
	must(ql_order(key, 3, perm, 6, &err), &err);
	assert_memory_equal(perm, want, sizeof(want));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_widen),
		cmocka_unit_test(test_narrowing_is_refused),
		cmocka_unit_test(test_split),
		cmocka_unit_test(test_split_one_group),
		cmocka_unit_test(test_split_scattered_evenly),
		cmocka_unit_test(test_straighten),
		cmocka_unit_test(test_straighten_equal_groups),
		cmocka_unit_test(test_move_and_pad),
		cmocka_unit_test(test_moved_by_tiles),
		cmocka_unit_test(test_pad_fills_the_last_group),
		cmocka_unit_test(test_order_by_group),
		cmocka_unit_test(test_order_of_the_books),
	};

	return cmocka_run_group_tests_name("qlop", tests, NULL, NULL);
}
