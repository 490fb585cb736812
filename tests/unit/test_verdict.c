/* Which linears lost unusually much, and the rule that is proposed. */
#include "../../libfmt/base/err.h"
#include "../../quant/verdict.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LAYERS 5
#define COUNT (LAYERS * LLAMA_LINEARS + 1)

struct fix {
	struct llama_config cfg;
	struct gq_job job;
	struct gq_targets ts;
	struct gq_layer_report r[COUNT];
	struct gq_verdict *v;
	size_t n;
	struct err err;
};

/* Blocks that differ a little from each other, and a head. */
static void set_up(struct fix *f, uint8_t bits, int32_t group_size)
{
	memset(f, 0, sizeof(*f));
	f->cfg = (struct llama_config){ .hidden = 256, .inter = 512,
		.layers = LAYERS, .heads = 4, .kv_heads = 4, .head_dim = 64,
		.vocab = 512 };
	f->job = (struct gq_job){ .cfg = &f->cfg, .method = &gq_gptq,
		.format = &qf_gptq, .lm_head = true,
		.params = { .bits = bits, .sym = 1, .group_size = group_size,
			    .scale_type = DT_F16 } };
	if (gq_targets_init(&f->ts, &f->job, &f->err))
		fail_msg("%s", f->err.msg);
	for (uint32_t i = 0; i < COUNT; i++) {
		memcpy(f->r[i].name, f->ts.target[i].name, LLAMA_NAME);
		f->r[i].r.out_error = 0.1 + 0.01 * (i % 4);
		f->r[i].r.rtn_error = 0.2;
		f->r[i].r.rel_error = 0.3;
	}
}

static void judge(struct fix *f)
{
	free(f->v);
	if (gq_verdict_make(f->r, COUNT, &f->ts, f->job.format, &f->v, &f->n,
			    &f->err))
		fail_msg("%s", f->err.msg);
}

static void tear_down(struct fix *f)
{
	free(f->v);
	gq_targets_release(&f->ts);
}

static struct gq_report *at(struct fix *f, uint32_t layer,
			    enum llama_linear which)
{
	return &f->r[layer * LLAMA_LINEARS + (uint32_t)which].r;
}

static void test_nothing_unusual(void **state)
{
	struct fix f;

	(void)state;
	set_up(&f, 4, 128);
	judge(&f);
	assert_int_equal(f.n, 0);
	assert_null(f.v);
	tear_down(&f);
}

/* The worst first; one for a slot; mild cases get smaller groups. */
static void test_worse_than_its_like(void **state)
{
	struct fix f;

	(void)state;
	set_up(&f, 4, 128);
	at(&f, 2, LLAMA_DOWN)->out_error = 0.2;
	at(&f, 2, LLAMA_DOWN)->rtn_error = 0.5;
	at(&f, 3, LLAMA_Q)->out_error = 0.4;
	at(&f, 3, LLAMA_K)->out_error = 0.3;
	at(&f, 3, LLAMA_Q)->rtn_error = at(&f, 3, LLAMA_K)->rtn_error = 0.9;
	judge(&f);
	assert_int_equal(f.n, 2);
	assert_string_equal(f.v[0].layer->name,
			    "model.layers.3.self_attn.q_proj");
	assert_true(f.v[0].odd && !f.v[0].rounded);
	assert_true(f.v[0].worse > 3);
	assert_string_equal(f.v[0].rule, "model\\.layers\\.3\\.self_attn\\."
			    "(q|k|v)_proj:bits=8");
	assert_string_equal(f.v[1].rule, "model\\.layers\\.2\\.mlp\\."
			    "down_proj:group_size=32");
	tear_down(&f);
}

/* What a rule proposes when there is less and less left to try. */
static void test_what_is_left(void **state)
{
	static const struct { uint8_t bits; int32_t size; const char *what; }
	cases[] = {
		{ 2, 32, ":bits=3" }, { 3, 32, ":bits=4" },
		{ 4, 32, ":bits=8" }, { 8, 32, ":skip" },
		{ 8, -1, ":group_size=32" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fix f;
		struct gq_rules *rules;
		const char *text;

		set_up(&f, cases[i].bits, cases[i].size);
		at(&f, 1, LLAMA_UP)->out_error = 0.19;
		at(&f, 1, LLAMA_UP)->rtn_error = 0.5;
		judge(&f);
		assert_int_equal(f.n, 1);
		assert_non_null(strstr(f.v->rule, cases[i].what));
		/* and it is one that --rule takes, for both linears */
		text = f.v->rule;
		assert_int_equal(gq_rules_new(&text, 1, &rules, &f.err), 0);
		for (int k = LLAMA_GATE; k <= LLAMA_UP; k++)
			assert_int_equal(gq_rules_matches(rules, 0,
				f.ts.target[LLAMA_LINEARS + k].name), 1);
		assert_int_equal(gq_rules_matches(rules, 0,
				 f.ts.target[LLAMA_UP].name), 0);
		gq_rules_free(rules);
		tear_down(&f);
	}
}

static void test_no_better_than_rounding(void **state)
{
	struct fix f;

	(void)state;
	set_up(&f, 4, 32);
	f.r[COUNT - 1].r.out_error = 0.19;
	judge(&f);
	assert_int_equal(f.n, 1);
	assert_true(f.v->rounded && !f.v->odd);
	assert_string_equal(f.v->rule, "lm_head:bits=8");
	tear_down(&f);
}

/* Methods that look at no activations are judged by their weights; readers of
 * marlin know no rules. */
static void test_weights_alone(void **state)
{
	struct fix f;

	(void)state;
	set_up(&f, 4, 128);
	for (uint32_t i = 0; i < COUNT; i++)
		f.r[i].r.out_error = f.r[i].r.rtn_error = 0;
	at(&f, 4, LLAMA_V)->rel_error = 0.7;
	judge(&f);
	assert_int_equal(f.n, 1);
	assert_non_null(strstr(f.v->rule, "bits=8"));
	f.job.format = &qf_marlin;
	judge(&f);
	assert_int_equal(f.n, 1);
	assert_string_equal(f.v->rule, "");
	tear_down(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_unusual),
		cmocka_unit_test(test_worse_than_its_like),
		cmocka_unit_test(test_what_is_left),
		cmocka_unit_test(test_no_better_than_rounding),
		cmocka_unit_test(test_weights_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
