/* Estimates against numbers made by hand, and a table of configs as families
 * spell them. */
#include "../../libfmt/absent.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/base/json.h"
#include "../../libfmt/estimate.h"
#include "sick.h"

static struct estimate of(const char *dir, uint32_t sequences)
{
	struct model *m = NULL;
	struct survey s;
	struct estimate e;
	struct err err;

	must(model_open(dir, MODEL_LENIENT, &m, &err), &err);
	must(survey_model(m, &s, &err), &err);
	estimate_model(m, &s, sequences, &e);
	survey_release(&s);
	model_close(m);
	return e;
}

/* sick.h's Llama: one block of 64, two heads of 32, MLP 128, 32 words. */
static void test_small(void **state)
{
	struct scratch *s = *state;
	const struct sick sound = { .file = NULL };
	uint64_t rest = 2 * (32 * 64 + 3 * 64 + 32 * 64);
	uint64_t linears = 0;
	char dir[128];
	struct estimate e;

	snprintf(dir, sizeof(dir), "%s/sound", s->dir);
	sick_make(dir, &sound);
	e = of(dir, 1);
	assert_true(e.shape_known && e.sizes_known);
	/* 4 bits in groups of 32: codes, a 16-bit scale and a 4-bit zero for
	 * 32 weights, and 4 bytes for each input */
	linears = 4 * (64 * 64 / 2) + 3 * (64 * 128 / 2);
	linears += (4 * 64 * 64 + 3 * 64 * 128) / 32 * 5 / 2;
	linears += 4 * (6 * 64 + 128);
	assert_int_equal(e.weights, rest + linears);
	assert_int_equal(e.size[2][0], e.weights);
	/* a token: keys and values of one block */
	assert_int_equal(e.cache[EST_F32], 1024 * 2 * 64 * 4);
	assert_int_equal(e.cache[EST_F16], 1024 * 2 * 64 * 2);
	assert_int_equal(e.cache[EST_8BIT], 1024 * 2 * 64);
	assert_int_equal(e.cache[EST_4BIT], 1024 * 2 * 64 * 18 / 32);
	assert_int_equal(e.activations, 512 * 2 * (2 * 64 + 4 * 64 + 2 * 128) +
					4 * 32);
	assert_int_equal(e.tokens, EST_CONTEXT);
	assert_int_equal(e.total, e.weights + e.activations +
				  4 * e.cache[EST_F16]);
	assert_int_equal(e.fit[0].cards, 1);
	/* 8 bits, one group: half a byte more each, fewer scales */
	linears = 4 * 64 * 64 + 3 * 64 * 128;
	linears += (4 * 64 + 2 * 128 + 64) * 3 + 4 * (6 * 64 + 128);
	assert_int_equal(e.size[3][3], rest + linears);
}

/* A cache and a row of logits each; more rows at a time where there are more
 * sequences than that. */
static void test_sequences(void **state)
{
	struct scratch *s = *state;
	const struct sick sound = { .file = NULL };
	const uint64_t row = 2 * (2 * 64 + 4 * 64 + 2 * 128);
	struct estimate one, e;
	char dir[128];

	snprintf(dir, sizeof(dir), "%s/many", s->dir);
	sick_make(dir, &sound);
	one = of(dir, 1);
	e = of(dir, 8);
	assert_int_equal(e.weights, one.weights);
	assert_int_equal(e.cache[EST_F16], one.cache[EST_F16]);
	assert_int_equal(e.activations, one.activations + 7 * 4 * 32);
	assert_int_equal(e.total, e.weights + e.activations +
				  8 * 4 * e.cache[EST_F16]);
	assert_int_equal(of(dir, 4096).activations, 4096 * (row + 4 * 32));
	/* a card's tokens are those of each */
	assert_int_equal(one.context, 0);
	assert_in_range(one.fit[0].tokens / 8, e.fit[0].tokens,
			e.fit[0].tokens + 1);
}

/* The largest shape that is looked at does not overflow. */
static void test_huge(void **state)
{
	struct scratch *s = *state;
	const struct sick huge = {
		.config = "{\"num_hidden_layers\": 4096, \"hidden_size\": "
			"1048576, \"num_attention_heads\": 65536, "
			"\"head_dim\": 65536}"
	};
	struct estimate e;
	char dir[128];

	snprintf(dir, sizeof(dir), "%s/huge", s->dir);
	sick_make(dir, &huge);
	e = of(dir, 4096);
	assert_true(e.shape_known && e.total > UINT64_C(1) << 62);
	for (int i = 0; i < EST_CARDS; i++)
		assert_int_equal(e.fit[i].cards, 0);
}

/* Bytes of 1024 tokens in F16; 0: not known. */
static void test_spellings(void **state)
{
	static const struct {
		const char *config;
		uint64_t cache;
		uint32_t context;
	} row[] = {
		{ "{\"num_hidden_layers\": 2, \"hidden_size\": 64, "
		  "\"num_attention_heads\": 4, \"num_key_value_heads\": 2}",
		  2 * 2 * 32 * 2 * 1024, 0 },
		{ "{\"n_layer\": 2, \"n_embd\": 64, \"n_head\": 4, "
		  "\"multi_query\": true, \"n_positions\": 77}",
		  2 * 2 * 16 * 2 * 1024, 77 },
		{ "{\"text_config\": {\"num_hidden_layers\": 1, "
		  "\"hidden_size\": 64, \"num_attention_heads\": 4, "
		  "\"head_dim\": 32}}", 2 * 128 * 2 * 1024, 0 },
		{ "{\"num_layers\": 1, \"hidden_size\": 64, "
		  "\"num_attention_heads\": 4, \"multi_query_group_num\": 2, "
		  "\"seq_length\": 9}", 2 * 32 * 2 * 1024, 9 },
		/* a compressed cache; nonsense; absurd */
		{ "{\"num_hidden_layers\": 2, \"hidden_size\": 64, "
		  "\"num_attention_heads\": 4, \"kv_lora_rank\": 8}", 0, 0 },
		{ "{\"num_hidden_layers\": \"x\", \"hidden_size\": 64, "
		  "\"num_attention_heads\": 4}", 0, 0 },
		{ "{\"num_hidden_layers\": 2, \"hidden_size\": 3, "
		  "\"num_attention_heads\": 4}", 0, 0 },
		{ "{\"num_hidden_layers\": 4000000000, \"hidden_size\": 64, "
		  "\"num_attention_heads\": 4}", 0, 0 },
		{ "{}", 0, 0 },
	};
	struct scratch *s = *state;
	char dir[128];

	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		const struct sick sick = { .config = row[i].config };
		struct estimate e;

		snprintf(dir, sizeof(dir), "%s/%zu", s->dir, i);
		sick_make(dir, &sick);
		e = of(dir, 1);
		assert_int_equal(e.shape_known, row[i].cache != 0);
		assert_int_equal(e.cache[EST_F16], row[i].cache);
		assert_int_equal(e.context, row[i].context);
		assert_int_equal(e.fit[0].cards != 0, e.shape_known);
	}
}

#define HUB "../shared/data/hub"

/* Published Llamas, whose weights are pointers here: the size that follows from
 * the config against the size that the pointer tells, in percent. */
static double off_by(const char *dir)
{
	struct survey none = { .count = 0 };
	struct model *m = NULL;
	struct estimate e;
	struct absent a;
	struct err err;
	double off = -1;

	must(model_open(dir, MODEL_NO_WEIGHTS, &m, &err), &err);
	must(absent_find(m, &a, &err), &err);
	assert_true(a.is);
	estimate_model(m, &none, 1, &e);
	if (model_llama(m) && m->quant.bits && a.bytes)
		off = 100 * ((double)e.weights / (double)a.bytes - 1);
	model_close(m);
	return off < 0 && off != -1 ? -off : off;
}

static void test_published(void **state)
{
	char **name = NULL, dir[256];
	uint32_t count, seen = 0, exact = 0;
	struct err err;

	(void)state;
	if (!io_is_dir(HUB)) {
		print_message("skipped: no %s\n", HUB);
		skip();
	}
	must(io_list(HUB, &name, &count, &err), &err);
	for (uint32_t i = 0; i < count; i++) {
		double off;

		snprintf(dir, sizeof(dir), HUB "/%s", name[i]);
		off = off_by(dir);
		if (off < 0)
			continue;
		seen++;
		exact += off < 0.1;
		/* the oldest writers kept scales in F32 */
		if (off > 3)
			fail_msg("%s: %.3f %% off", name[i], off);
	}
	assert_true(seen > 5 && exact + 1 >= seen);
	free(name);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_small),
		CASE(test_sequences),
		CASE(test_huge),
		CASE(test_spellings),
		cmocka_unit_test(test_published),
	};

	return cmocka_run_group_tests_name("estimate", tests, NULL, NULL);
}
