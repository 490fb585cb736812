/* Overrides for single modules: how they are spelled, which one holds, and the
 * field that other programs read. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/json.h"
#include "../../quant/target.h"
#include "../../quant/walk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct llama_config cfg = {
	.hidden = 256, .inter = 768, .layers = 12, .heads = 4, .kv_heads = 4,
	.head_dim = 64, .vocab = 2048, .tied = true,
};

static struct gq_job job(void)
{
	return (struct gq_job){
		.cfg = &cfg, .method = &gq_gptq, .format = &qf_gptq,
		.params = { .bits = 4, .sym = 1, .group_size = 128,
			    .block = 128, .scale_type = DT_F16 },
	};
}

#define COUNT(a) ((uint32_t)(sizeof(a) / sizeof((a)[0])))

/* Targets of the job under these rules; the caller releases both. */
static void decide(struct gq_job *j, const char *const *text, uint32_t n,
		   struct gq_targets *t)
{
	struct gq_rules *r;
	struct err err;

	if (gq_rules_new(text, n, &r, &err))
		fail_msg("%s", err.msg);
	j->rules = r;
	if (gq_targets_init(t, j, &err))
		fail_msg("%s", err.msg);
}

static void done(struct gq_job *j, struct gq_targets *t)
{
	struct gq_rules *r;

	memcpy(&r, &j->rules, sizeof(r));
	gq_targets_release(t);
	gq_rules_free(r);
}

static const struct gq_target *at(const struct gq_targets *t, const char *name)
{
	char tensor[LLAMA_NAME + 8];
	const struct gq_target *found = gq_targets_find(t, name);

	assert_non_null(found);
	snprintf(tensor, sizeof(tensor), "%s.weight", name);
	assert_ptr_equal(gq_targets_tensor(t, tensor), found);
	assert_string_equal(found->name, name);
	return found;
}

static void test_spelling(void **state)
{
	static const struct {
		const char *rule, *says;
	} bad[] = {
		{ "q_proj", "not REGEX" },
		{ ":bits=8", "not REGEX" },
		{ ".*:", "not key=value" },
		{ ".*:bits", "not key=value" },
		{ ".*:bits=5", "bits cannot be \"5\"" },
		{ ".*:bits=", "bits cannot be" },
		{ ".*:bits=8,bits=4", "bits twice" },
		{ ".*:bits=8,", "not key=value" },
		{ ".*:skip,bits=8", "skip stands alone" },
		{ ".*:sym=maybe", "true or false" },
		{ ".*:group_size=0", "neither -1" },
		{ ".*:group_size=12x", "cannot be" },
		{ ".*:colour=red", "none of bits" },
		{ "(:bits=8", "--rule" },
	};
	struct gq_rules *r;
	struct err err;

	(void)state;
	for (size_t i = 0; i < COUNT(bad); i++) {
		assert_int_equal(gq_rules_new(&bad[i].rule, 1, &r, &err), -1);
		assert_null(r);
		if (err.code != ERR_USAGE || !strstr(err.msg, bad[i].says))
			fail_msg("%s: %s", bad[i].rule, err.msg);
	}
	assert_int_equal(gq_rules_new(NULL, 0, &r, &err), 0);
	assert_null(r);
}

static void test_first_rule_holds(void **state)
{
	static const char *const text[] = {
		".*\\.1\\..*down_proj:bits=8,group_size=-1",
		"(?:model)\\.layers\\.\\d+\\.mlp.down:sym=false,desc_act=1",
		"model.layers.1.*o_proj:skip",
	};
	struct gq_job j = job();
	struct gq_targets t;
	const struct gq_target *x;

	(void)state;
	decide(&j, text, 3, &t);
	assert_int_equal(t.count, 12 * LLAMA_LINEARS);
	x = at(&t, "model.layers.1.mlp.down_proj");
	assert_int_equal(x->params.bits, 8);
	assert_int_equal(x->params.group_size, -1);
	assert_int_equal(x->params.sym, 1);
	assert_int_equal(x->in, 768);
	assert_int_equal(x->out, 256);
	x = at(&t, "model.layers.11.mlp.down_proj");
	assert_int_equal(x->params.bits, 4);
	assert_int_equal(x->params.sym, 0);
	assert_int_equal(x->params.desc_act, 1);
	/* v1 stores zero - 1 */
	assert_int_equal(x->params.zero_min, 1);
	/* from the start, not to the end: 1, 10 and 11 */
	assert_true(at(&t, "model.layers.1.self_attn.o_proj")->skip);
	assert_true(at(&t, "model.layers.11.self_attn.o_proj")->skip);
	assert_false(at(&t, "model.layers.2.self_attn.o_proj")->skip);
	assert_int_equal(t.quantized, 12 * LLAMA_LINEARS - 3);
	assert_null(gq_targets_find(&t, "model.layers.12.mlp.up_proj"));
	assert_null(gq_targets_find(&t, "lm_head"));
	assert_null(gq_targets_tensor(&t, "model.layers.1.mlp.up_proj.bias"));
	/* rules that skip come first */
	assert_memory_equal(json_key(json_first(t.dynamic)), "-:", 2);
	assert_int_equal(json_count(t.dynamic), 3);
	done(&j, &t);
}

static void refused(const char *const *text, uint32_t n, const char *says)
{
	struct gq_job j = job();
	struct gq_targets t;
	struct gq_rules *r;
	struct err err;

	assert_int_equal(gq_rules_new(text, n, &r, &err), 0);
	j.rules = r;
	assert_int_equal(gq_targets_init(&t, &j, &err), -1);
	if (err.code != ERR_USAGE || !strstr(err.msg, says))
		fail_msg("%s", err.msg);
	gq_rules_free(r);
}

static void test_idle_rules_are_refused(void **state)
{
	static const char *const typo[] = { ".*downproj:bits=8" };
	static const char *const head[] = { "lm_head:bits=8" };
	static const char *const late[] = { ".*_proj:bits=8",
					    ".*q_proj:bits=3" };
	static const char *const all[] = { ".*:skip" };

	(void)state;
	refused(typo, 1, "matches no linear");
	refused(head, 1, "only with --lm-head");
	refused(late, 2, "another rule holds");
	refused(all, 1, "skip every linear");
}

static const struct cJSON *member(const struct cJSON *tree, const char *key)
{
	const struct cJSON *j = json_find(tree, key);

	if (!j)
		fail_msg("no %s", key);
	return j;
}

/* vLLM asks for qkv_proj and gate_up_proj. */
static void test_fused_names(void **state)
{
	static const char *const text[] = {
		".*(gate|up)_proj:bits=8",       /* says it of gate_up too */
		".*\\.[15]\\..*[qkv]_proj:skip", /* and of qkv */
		".*\\.7\\..*(q|k|v)_proj$:sym=0",
		".*\\.9\\..*\\.(q|k|v)_proj:group_size=32",
		".*\\.8\\..*\\.(q|k|v)_proj:group_size=32",
		".*\\.3\\.self_attn.v_proj:bits=3",
	};
	struct gq_job j = job();
	struct gq_targets t;
	uint32_t n;

	(void)state;
	decide(&j, text, 6, &t);
	assert_int_equal(t.split, 1); /* block 3 */
	assert_int_equal(json_get_u32(
		member(t.dynamic, "+:model\\.layers\\.(8|9)\\.self_attn"
			"\\.qkv_proj$"), "group_size", 0, 999, &n, NULL), 0);
	assert_int_equal(n, 32);
	assert_int_equal(json_count(t.dynamic), 7);
	done(&j, &t);
}

static void test_head(void **state)
{
	static const char *const text[] = { "lm_head:bits=8" };
	struct gq_job j = job();
	struct gq_targets t;
	const struct gq_target *x;

	(void)state;
	j.lm_head = true;
	decide(&j, text, 1, &t);
	x = at(&t, "lm_head");
	assert_true(t.head);
	assert_ptr_equal(x, &t.target[t.count - 1]);
	assert_int_equal(x->params.bits, 8);
	assert_int_equal(x->in, 256);
	assert_int_equal(x->out, 2048);
	assert_string_equal(x->weight, "model.embed_tokens"); /* tied */
	done(&j, &t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_spelling),
		cmocka_unit_test(test_first_rule_holds),
		cmocka_unit_test(test_idle_rules_are_refused),
		cmocka_unit_test(test_fused_names),
		cmocka_unit_test(test_head),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
