/* The doctor's table: a checkpoint for each row that shows it, and the printed
 * remedy, which is run as it stands. */
#include "../../libfmt/base/json.h"
#include "../../libfmt/doctor_impl.h"
#include "ills.h"

#include <sys/wait.h>

static void examine(const char *path, struct doctor *d)
{
	struct model *m = NULL;
	struct survey s;
	struct err err;

	must(model_open(path, MODEL_LENIENT, &m, &err), &err);
	must(survey_model(m, &s, &err), &err);
	must(doctor_examine(m, &s, d, &err), &err);
	survey_release(&s);
	model_close(m);
}

static const struct doctor_problem *problem(const struct doctor *d,
					    const char *code)
{
	for (uint32_t i = 0; i < d->count; i++)
		if (!strcmp(d->problem[i].code, code))
			return &d->problem[i];
	return NULL;
}

static void list(const struct doctor *d)
{
	for (uint32_t i = 0; i < d->count; i++)
		print_message("%s %s: %s\n",
			      doctor_severity_name(d->problem[i].severity),
			      d->problem[i].code, d->problem[i].message);
}

#define CT(bits, sym, order) "{\"quant_method\": \"compressed-tensors\", " \
	"\"format\": \"pack-quantized\", \"config_groups\": {\"group_0\": " \
	"{\"targets\": [\"Linear\"], \"weights\": {\"num_bits\": " #bits   \
	", \"type\": \"int\", \"symmetric\": " #sym ", \"strategy\": "     \
	"\"group\", \"group_size\": 32, \"actorder\": " #order "}}}, "       \
	"\"ignore\": [\"lm_head\"]}"

/* An MLP of another size. */
#define MLP(inner) "{\"architectures\": [\"LlamaForCausalLM\"], "              \
	"\"model_type\": \"llama\", \"hidden_size\": 64, "                     \
	"\"intermediate_size\": " #inner ", \"num_hidden_layers\": 1, "        \
	"\"num_attention_heads\": 2, \"vocab_size\": 32, "                     \
	"\"tie_word_embeddings\": false, "                                     \
	"\"quantization_config\": " SICK_QUANT "}"

/* Heads of another size. */
#define HEADS(dim, group) SICK_LLAMA ", \"head_dim\": " #dim                   \
	", \"tie_word_embeddings\": false, \"quantization_config\": "          \
	QUANT(4, group, false, true, "") "}"

#define QUANT(bits, group, act, sym, more)                                     \
	"{\"bits\": " #bits ", \"group_size\": " #group ", \"desc_act\": "     \
	#act ", \"sym\": " #sym ", \"quant_method\": \"gptq\"" more "}"
#define TIED ", \"tie_word_embeddings\": true"
#define BF16 ", \"torch_dtype\": \"bfloat16\", "                              \
	"\"tie_word_embeddings\": false"
#define QWEN2 "{\"architectures\": [\"Qwen2ForCausalLM\"], "                   \
	"\"model_type\": \"qwen2\", \"hidden_size\": 64, "                     \
	"\"intermediate_size\": 128, \"num_hidden_layers\": 1, "               \
	"\"num_attention_heads\": 2, \"vocab_size\": 32, "                     \
	"\"quantization_config\": " SICK_QUANT "}"

/* sick.h's Llama, by another config. */
#define OTHER(layers, vocab) "{\"architectures\": "                            \
	"[\"LlamaForCausalLM\"], \"hidden_size\": 64, "                        \
	"\"intermediate_size\": 128, \"num_hidden_layers\": " #layers ", "     \
	"\"num_attention_heads\": 2, \"vocab_size\": " #vocab ", "             \
	"\"tie_word_embeddings\": false, "                                     \
	"\"quantization_config\": " SICK_QUANT "}"

/* ---- the table ---- */

enum end {
	MENDED = 0, /* the remedy leaves no trace of it */
	NONE        /* there is no remedy here */
};

static const struct {
	const char *code;
	enum doctor_severity severity;
	enum end end;
	struct sick sick;
} rows[] = {
#define E DOCTOR_ERROR
#define W DOCTOR_WARNING
#define N DOCTOR_NOTE
	/* files */
	{ "file-holes", E, MENDED, { .tweak = inv_freq, .after = hole } },
	{ "file-pickle", W, MENDED, { .config = "{}", .after = pickle } },
	{ "file-pickle", W, MENDED, { .config = "{}", .after = old_name } },
	{ "file-shared", N, MENDED, { .config = "{}", .after = shared } },
	{ "file-marlin-shards", E, MENDED, { .config = "{}",
		.after = marlin_shards,
		.quant = QUANT(4, 128, false, true,
			       ", \"checkpoint_format\": \"marlin\"") } },
	{ "file-trailing", E, MENDED, { .after = trailing } },
	{ "file-blanks", E, MENDED, { .after = blanks_first } },
	{ "file-no-format", W, MENDED, { .after = no_format } },
	{ "file-name", W, MENDED, { .file = "4bit-128g.safetensors" } },
	{ "file-leftover", W, MENDED, { .after = leftover } },
	{ "index-missing", E, MENDED, { .after = without_index } },
	{ "index-stale", W, MENDED, { .after = stale_index } },
	{ "index-stale", W, MENDED, { .after = bin_index } },
	{ "index-unlisted", W, MENDED, { .after = unlisted } },
	/* what config.json makes loaders look for */
	{ "config-model", E, NONE, { .more = ", \"rope_theta\": -1, "
		"\"tie_word_embeddings\": false" } },
	{ "config-sizes", E, NONE, { .config = OTHER(1, 48) } },
	{ "tensor-missing", E, NONE, { .config = OTHER(2, 32) } },
	{ "tensor-beyond", E, NONE, { .tweak = block_beyond } },
	/* configs */
	{ "config-none", E, NONE, { .config = "" } },
	{ "config-missing", E, MENDED, { .quant = "" } },
	/* a layer that is not read: no repack helps */
	{ "config-missing", E, NONE, { .quant = "", .tweak = exl2_head } },
	{ "config-missing-model", E, MENDED, { .quant = "",
		.quantize = SICK_QUANT } },
	{ "config-missing-quantize", W, MENDED, { .quantize = "" } },
	{ "config-disagree", E, MENDED,
	  { .quantize = QUANT(8, 32, false, true, "") } },
	{ "config-partial", W, MENDED,
	  { .quant = "{\"bits\": 4, \"quant_method\": \"gptq\"}" } },
	{ "config-no-method", E, MENDED,
	  { .quant = "{\"bits\": 4, \"group_size\": 32, \"sym\": true, "
		     "\"desc_act\": false}" } },
	{ "config-format", E, MENDED, {
		.quant = QUANT(4, 32, false, true,
			       ", \"checkpoint_format\": \"marlin\"") } },
	{ "config-method", E, MENDED,
	  { .quant = "{\"quant_method\": \"fp8\"}" } },
	{ "config-method", E, MENDED,
	  { .quant = "{\"quant_method\": \"awq\", \"bits\": 4, "
		     "\"group_size\": 32, \"zero_point\": true}" } },
	{ "config-dense", E, MENDED, { .after = dense_weights } },
	{ "config-group-zero", E, MENDED,
	  { .quant = QUANT(4, 0, false, true, "") } },
	{ "config-marlin-flag", E, MENDED,
	  { .quant = QUANT(4, 32, false, true,
			   ", \"is_marlin_format\": false") } },
	{ "config-heights", E, NONE,
	  { .quant = QUANT(4, 32, false, true,
			   ", \"qweight_heights\": [1]") } },
	{ "config-heights", E, NONE, { .tweak = heights,
		.quant = QUANT(4, 32, false, true,
			       ", \"qweight_heights\": [3]") } },
	{ "config-adapter", W, NONE,
	  { .quant = QUANT(4, 32, false, true,
			   ", \"adapter\": {\"name\": \"lora\"}") } },
	{ "config-base-name", W, MENDED,
	  { .quant = QUANT(4, 32, false, true,
			   ", \"model_file_base_name\": \"gptq_model\"") } },
	{ "config-bits", E, MENDED,
	  { .quant = QUANT(8, 32, false, true, "") } },
	{ "config-group-size", E, MENDED,
	  { .quant = QUANT(4, 128, false, true, "") } },
	{ "config-hints", W, MENDED, { .quant = "",
		.file = "llama-8bit-128g.safetensors" } },
	{ "config-desc-act", E, MENDED,
	  { .spec = { .act_order = 1 } } },
	{ "config-sym", E, MENDED, { .tweak = junk_zeros } },
	{ "config-sym", E, MENDED, { .tweak = low_codes } },
	{ "config-sym", E, MENDED, { .tweak = few_zeros } },
	{ "config-asym", N, MENDED,
	  { .quant = QUANT(4, 32, false, false, "") } },
	{ "config-act-plain", N, MENDED,
	  { .quant = QUANT(4, 32, true, true, "") } },
	{ "config-modules", E, MENDED,
	  { .quant = QUANT(4, 32, false, true,
			   ", \"modules_in_block_to_quantize\": "
			   "[[\"self_attn.q_proj\"], [\"mlp\"]]") } },
	{ "config-modules", E, MENDED,
	  { .quant = QUANT(4, 32, false, true,
			   ", \"modules_in_block_to_quantize\": "
			   "[\"self_attn\", \"mlp\"]"), .tweak = dense_o } },
	{ "config-bf16", N, MENDED, { .more = BF16 } },
	{ "config-bf16", N, MENDED, { .more = BF16,
		.spec = { .scale_type = DT_BF16 } } },
	{ "config-bf16", N, NONE, { .more = BF16, .tweak = fine_scales,
		.spec = { .scale_type = DT_F32 } } },
	/* rules */
	{ "config-unlisted", E, MENDED, { .tweak = dense_o } },
	{ "config-unlisted", E, MENDED, { .tweak = dense_gate_up } },
	{ "config-dynamic", N, MENDED, { .tweak = unequal_o } },
	{ "config-dynamic", N, MENDED, { .tweak = smaller_o } },
	{ "config-dynamic", N, MENDED, { .tweak = smaller_8bit_o } },
	{ "config-dynamic-parts", W, MENDED, { .tweak = wide_gate_up,
		.quant = QUANT(4, 32, false, true, ", \"dynamic\": "
			       "{\"+:.*mlp[.](gate|up)_proj\": "
			       "{\"bits\": 8}}") } },
	{ "config-dynamic-parts", W, MENDED, { .tweak = dense_gate_up,
		.quant = QUANT(4, 32, false, true, ", \"dynamic\": "
			       "{\"-:.*mlp[.](gate|up)_proj\": {}}") } },
	/* names */
	{ "name-prefix", E, MENDED, { .prefix = "language_model.model." } },
	{ "name-prefix", E, MENDED, { .prefix = "base_model.model.model.",
		.tweak = wrapped_head } },
	{ "name-prefix", E, MENDED, { .prefix = "model.model." } },
	{ "name-prefix", E, MENDED, { .prefix = "" } },
	{ "name-lora", W, NONE, { .tweak = lora } },
	{ "tensor-inv-freq", W, MENDED, { .tweak = inv_freq } },
	{ "tensor-marker", W, MENDED, { .tweak = markers } },
	{ "bias-zero", W, MENDED, { .tweak = zero_biases } },
	{ "bias-odd", W, NONE, { .tweak = odd_bias } },
	{ "bias-missing", E, NONE, { .config = QWEN2 } },
	{ "head-tied", W, MENDED, { .more = TIED, .tweak = copied_head } },
	{ "head-tied", W, MENDED, { .more = TIED } },
	{ "head-silent", E, MENDED, { .more = "", .no_head = true } },
	{ "head-missing", E, NONE, { .no_head = true } },
	{ "head-tied", W, MENDED, { .more = TIED, .tweak = packed_head,
		.quant = QUANT(4, 32, false, true, ", \"lm_head\": true") } },
	{ "head-config", E, MENDED, { .tweak = packed_head } },
	{ "head-config", E, MENDED, {
		.quant = QUANT(4, 32, false, true, ", \"lm_head\": true") } },
	/* layers */
	{ "layer-broken", E, NONE, { .tweak = short_scales } },
	{ "layer-broken", E, NONE, { .tweak = float_codes } },
	{ "layer-fused", E, MENDED, { .tweak = three_maps } },
	{ "layer-fused", E, MENDED, { .tweak = one_map } },
	{ "layer-foreign", W, NONE, { .tweak = exl2_head } },
	{ "layer-foreign", W, NONE, { .tweak = exl2,
		.quant = "{\"quant_method\": \"exl2\", \"bits\": 4.0}" } },
	{ "layer-foreign", W, NONE, { .tweak = qqq } },
	{ "layer-both", E, NONE, { .tweak = plain_weight } },
	{ "layer-router", E, MENDED, { .tweak = router } },
	{ "layer-old", E, MENDED, { .tweak = generation_0,
		.without = "g_idx", .quant = QUANT(4, -1, false, true, ""),
		.spec = { .group_size = 128 } } },
	{ "bias-length", E, NONE, { .tweak = short_bias } },
	{ "joined-some", E, MENDED, { .tweak = dense_v } },
	{ "joined-unequal", W, MENDED, { .tweak = unequal_v } },
	{ "joined-unequal", W, MENDED, { .tweak = smaller_v } },
	{ "joined-unequal", W, MENDED, { .tweak = smaller_8bit_v } },
	{ "joined-orders", N, NONE, { .spec = { .act_order = 1 },
		.quant = QUANT(4, 32, true, true, "") } },
	{ "gidx-act-missing", E, NONE, { .without = "g_idx",
		.quant = QUANT(4, 32, true, true, "") } },
	{ "gidx-missing", W, MENDED, { .without = "g_idx" } },
	{ "gidx-zero", W, MENDED, { .tweak = zero_gidx } },
	{ "gidx-uneven", W, NONE, { .tweak = uneven_gidx } },
	{ "gidx-i64", W, MENDED, { .tweak = wide_gidx } },
	{ "layer-words", E, MENDED, { .tweak = cut_words } },
	{ "layer-padded", E, MENDED, { .config = MLP(80),
		.tweak = mlp_padded } },
	{ "zeros-label", E, MENDED, { .format = &qf_gptq_v2 } },
	{ "zeros-smeared", E, NONE, { .tweak = smear, .asym = true,
		.quant = QUANT(4, 32, false, false, "") } },
	{ "zeros-swapped", E, MENDED, { .tweak = swap_constants,
		.spec = { .bits = 3 },
		.quant = QUANT(3, 32, false, true, "") } },
	{ "zeros-wrapped", W, MENDED, { .tweak = wrap, .asym = true,
		.quant = QUANT(4, 32, false, false, "") } },
	{ "ct-spare", E, MENDED, { .format = &qf_ct, .tweak = spare_bits,
		.spec = { .bits = 3 }, .quant = CT(3, true, null) } },
	{ "ct-actorder", E, MENDED, { .format = &qf_ct,
		.spec = { .act_order = 1 }, .quant = CT(4, true, "group") } },
	{ "zeros-missing", E, MENDED, { .without = "qzeros" } },
	{ "zeros-unpacked", E, MENDED, { .format = &qf_ct, .asym = true,
		.quant = CT(4, false, null), .tweak = unpacked } },
	{ "zeros-asym-v1", N, MENDED, { .asym = true,
		.quant = QUANT(4, 32, false, false, "") } },
	{ "scales-f32", N, MENDED, { .spec = { .scale_type = DT_F32 } } },
	{ "scales-f32", N, MENDED, { .spec = { .scale_type = DT_F32 },
		.format = &qf_ct, .quant = CT(4, true, null) } },
	{ "scales-f32", N, NONE, { .spec = { .scale_type = DT_F32 },
		.tweak = fine_scales } },
	{ "scales-bf16", N, MENDED, { .spec = { .scale_type = DT_BF16 } } },
	{ "scales-bf16", N, NONE, { .spec = { .scale_type = DT_BF16 },
		.tweak = smear, .asym = true,
		.quant = QUANT(4, 32, false, false, "") } },
	{ "scales-bf16", N, MENDED, { .spec = { .scale_type = DT_BF16 },
		.tweak = junk_zeros } },
	/* kernels */
	{ "bits-narrow", N, MENDED, { .spec = { .bits = 2 },
		.quant = QUANT(2, 32, false, true, "") } },
	{ "bits-narrow", N, MENDED, { .spec = { .bits = 3 }, .asym = true,
		.quant = QUANT(3, 32, false, false, "") } },
	{ "group-ragged", N, MENDED, { .spec = { .group_size = 48 },
		.quant = QUANT(4, 48, false, true, "") } },
	{ "bits-narrow", N, MENDED, { .spec = { .bits = 3 },
		.format = &qf_gptq_p, .quant = QUANT(3, 32, false, true,
			", \"checkpoint_format\": \"gptq_p\"") } },
	{ "group-ragged", N, MENDED, { .spec = { .group_size = 48 },
		.asym = true, .format = &qf_gptq_v2, .tweak = zero_0,
		.quant = QUANT(4, 48, false, false,
			       ", \"checkpoint_format\": \"gptq_v2\"") } },
	{ "group-unusual", N, NONE, { .spec = { .group_size = 16 },
		.quant = QUANT(4, 16, false, true, "") } },
	{ "group-unusual", N, MENDED, { .config = "{}",
		.tweak = wide_group } },
	{ "gidx-single", N, MENDED, { .spec = { .group_size = 128 },
		.quant = QUANT(4, -1, true, true, "") } },
	{ "gidx-scattered", N, MENDED, { .tweak = ordered_down,
		.quant = QUANT(4, 32, true, true, "") } },
	{ "gidx-order", N, NONE, { .spec = { .act_order = 1 },
		.quant = QUANT(4, 32, true, true, "") } },
	{ "zeros-asym", N, MENDED, { .asym = true,
		.quant = QUANT(4, 32, false, false, "") } },
	{ "zeros-asym", N, MENDED, { .asym = true, .format = &qf_gptq_v2,
		.tweak = zero_0, .quant = QUANT(4, 32, false, false,
			", \"checkpoint_format\": \"gptq_v2\"") } },
	{ "zeros-asym", N, NONE, { .asym = true, .spec = { .bits = 8 },
		.quant = QUANT(8, 32, false, false, "") } },
	{ "zeros-asym", N, NONE, { .asym = true, .tweak = smaller_o,
		.quant = QUANT(4, 32, false, false, "") } },
	{ "size-split", N, MENDED, { .config = MLP(96), .tweak = mlp_96 } },
	{ "size-split", N, MENDED, { .config = HEADS(96, 64),
		.spec = { .group_size = 64 }, .tweak = heads_96,
		.quantize = QUANT(4, 64, false, true, "") } },
	{ "size-split", N, NONE, { .config = HEADS(48, 32),
		.tweak = heads_48 } },
	{ "bits-wide", N, NONE, { .spec = { .bits = 8 },
		.quant = QUANT(8, 32, false, true, "") } },
	{ "size-odd", N, NONE, { .config = "{}", .tweak = ragged } },
	{ "format-v2", N, MENDED, { .format = &qf_gptq_v2,
		.quant = QUANT(4, 32, false, true,
			       ", \"checkpoint_format\": \"gptq_v2\"") } },
};

static bool is_fix(const char *fix)
{
	size_t n = strlen(fix);

	return n > 5 && !strcmp(fix + n - 5, "--fix");
}

/* Run the remedy as it is printed; what it mends is not there afterwards, and
 * --fix leaves nothing that --fix would mend. */
static void mend(const char *name, const struct doctor_problem *p)
{
	char line[2048], out[256], log[256];
	struct doctor d;

	if (strncmp(p->fix, "gptq-repack ", 12))
		fail_msg("%s: no remedy", name);
	snprintf(log, sizeof(log), "%.200s.log", name);
	snprintf(line, sizeof(line), "%s >%s 2>&1", p->fix, log);
	if (system(line)) {
		snprintf(line, sizeof(line), "cat %s >&2", log);
		fail_msg("%s: %s: failed (%d)", name, p->fix, system(line));
	}
	snprintf(out, sizeof(out), "%.200s-fixed", name);
	examine(out, &d);
	if (problem(&d, p->code))
		fail_msg("%s: %s is still there", name, p->code);
	for (uint32_t i = 0; is_fix(p->fix) && i < d.count; i++)
		if (is_fix(d.problem[i].fix))
			fail_msg("%s: left is %s: %s", name, d.problem[i].code,
				 d.problem[i].message);
	doctor_release(&d);
	snprintf(line, sizeof(line), "gptq-verify %s >%s 2>&1", out, log);
	if (system(line)) {
		snprintf(line, sizeof(line), "cat %s >&2", log);
		fail_msg("%s: verify: failed (%d)", name, system(line));
	}
}

static void test_every_row(void **state)
{
	struct scratch *s = *state;
	struct doctor d;
	char name[128];

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		const struct doctor_problem *p;

		snprintf(name, sizeof(name), "%s/%zu", s->dir, i);
		sick_make(name, &rows[i].sick);
		examine(name, &d);
		p = problem(&d, rows[i].code);
		if (!p) {
			list(&d);
			fail_msg("row %zu: no %s", i, rows[i].code);
		}
		if (p->severity != rows[i].severity)
			fail_msg("%s: severity %d", rows[i].code, p->severity);
		assert_true(*p->message && *p->refused_by);
		if (rows[i].end == MENDED)
			mend(name, p);
		else if (*p->fix)
			fail_msg("%s: a remedy: %s", rows[i].code, p->fix);
		doctor_release(&d);
	}
}

/* One that has nothing, in every layout that has a config of its own. */
static void test_sound(void **state)
{
	static const struct sick sound[] = {
		{ .file = NULL },
		{ .spec = { .group_size = 128 },
		  .quant = QUANT(4, -1, false, true, "") },
		{ .more = TIED, .no_head = true },
		{ .format = &qf_awq, .asym = true,
		  .quant = "{\"quant_method\": \"awq\", \"bits\": 4, "
			   "\"group_size\": 32, \"zero_point\": true, "
			   "\"version\": \"gemm\"}" },
	};
	struct scratch *s = *state;
	struct doctor d;

	for (size_t i = 0; i < sizeof(sound) / sizeof(*sound); i++) {
		char name[128];

		snprintf(name, sizeof(name), "%s/%zu", s->dir, i);
		sick_make(name, &sound[i]);
		examine(name, &d);
		if (d.count) {
			list(&d);
			fail_msg("sound %zu: %s", i, d.problem[0].code);
		}
		doctor_release(&d);
	}
}

static const struct doctor_table *const tables[] = { &doctor_files,
	&doctor_configs, &doctor_rules, &doctor_names, &doctor_layers,
	&doctor_kernels };
#define TABLES (sizeof(tables) / sizeof(*tables))

/* A file without a config is no fault of anybody. */
static void test_bare(void **state)
{
	struct scratch *s = *state;
	const struct sick sick = { .config = "", .quantize = "" };
	const struct doctor_problem *p;
	char name[128], path[192];
	struct doctor d;

	snprintf(name, sizeof(name), "%s/bare", s->dir);
	sick_make(name, &sick);
	snprintf(path, sizeof(path), "%s/model.safetensors", name);
	examine(path, &d);
	p = problem(&d, "config-bare-file");
	assert_non_null(p);
	assert_int_equal(p->severity, DOCTOR_NOTE);
	assert_int_equal(d.count, 1);
	doctor_release(&d);
}

/* Weights that are not here, and what of it there is to say. */
static void test_absent(void **state)
{
	static const char *const code[] = { "file-none", "file-pointer" };
	const struct sick sick = { .quantize = "" };
	struct survey none = { .count = 0 };
	struct scratch *s = *state;
	struct model *m = NULL;
	char dir[128];
	struct err err;

	snprintf(dir, sizeof(dir), "%s/absent", s->dir);
	sick_make(dir, &sick);
	shell(dir, "rm model.safetensors");
	for (int i = 0; i < 2; i++) {
		struct doctor d;

		must(model_open(dir, MODEL_NO_WEIGHTS, &m, &err), &err);
		must(doctor_examine(m, &none, &d, &err), &err);
		assert_non_null(problem(&d, code[i]));
		assert_null(problem(&d, code[!i]));
		/* a remedy would need them */
		assert_non_null(problem(&d, "config-missing-quantize"));
		for (uint32_t k = 0; k < d.count; k++)
			assert_string_equal(d.problem[k].fix, "");
		doctor_release(&d);
		model_close(m);
		sick_text(dir, "model.safetensors", "version https://git-lfs."
			  "github.com/spec/v1\nsize 12\n");
	}
}

/* What a GGUF file shows: no tokenizer, bytes behind its end, blocks of a type
 * that nobody here decodes. */
static void test_gguf(void **state)
{
	static const char name[] = "blk.0.attn_q.weight";
	struct scratch *s = *state;
	const struct sick sick = { .file = NULL };
	char dir[128], path[192], *text;
	struct doctor d;
	struct err err;
	size_t n, at;

	snprintf(dir, sizeof(dir), "%s/gguf", s->dir);
	sick_make(dir, &sick);
	shell(dir, "gptq-repack . -o m.gguf --to gguf -q");
	snprintf(path, sizeof(path), "%s/m.gguf", dir);
	examine(path, &d);
	assert_non_null(problem(&d, "gguf-no-tokenizer"));
	assert_int_equal(d.count, 1);
	doctor_release(&d);

	must(io_read_file(path, 1 << 20, &text, &n, &err), &err);
	for (at = 0; memcmp(text + at, name, sizeof(name) - 1); at++)
		assert_true(at + sizeof(name) < n);
	at += sizeof(name) - 1 + 4 + 16; /* rank, two sizes: the type */
	assert_int_equal(text[at], 2);   /* Q4_0; IQ4_NL has its size */
	text[at] = 20;
	text[n++] = 0;                   /* the one that io_read_file adds */
	must(io_write_file(path, text, n, &err), &err);
	free(text);
	examine(path, &d);
	assert_non_null(problem(&d, "gguf-blocks"));
	assert_non_null(problem(&d, "file-trailing"));
	doctor_release(&d);
}

/* Each code of the tables has a checkpoint here. */
static void test_all_codes(void **state)
{
	static const char *const alone[] = { "config-bare-file", "file-none",
		"file-pointer" };

	(void)state;
	for (size_t t = 0; t < TABLES; t++)
		for (size_t i = 0; i < tables[t]->count; i++) {
			const char *code = tables[t]->row[i].code;
			bool there = false;

			for (int k = 0; k < 3; k++)
				there |= !strcmp(code, alone[k]);
			for (size_t k = 0; k < sizeof(rows) / sizeof(*rows);
			     k++)
				there |= !strcmp(code, rows[k].code);
			if (!there)
				fail_msg("%s: nothing here shows it", code);
		}
}

/* Every code stands in the man page, and none is there twice. */
static void test_man_page(void **state)
{
	struct err err;
	char *text;
	size_t n;

	(void)state;
	must(io_read_file("man/gptq-inspect.1", 1 << 20, &text, &n, &err),
	     &err);
	for (size_t t = 0; t < TABLES; t++)
		for (size_t i = 0; i < tables[t]->count; i++) {
			const char *code = tables[t]->row[i].code;
			const char *p = text;
			int hits = 0;

			while ((p = strstr(p, code))) {
				p += strlen(code);
				hits += !!strchr(",.\n", *p);
			}
			if (hits != 1)
				fail_msg("%s: %d times in the man page", code,
					 hits);
		}
	free(text);
}

/* The program that was built with this one is first in PATH. */
static int find_program(const char *self)
{
	const char *old = getenv("PATH");
	char *full = realpath(self, NULL);
	char *end = full ? strstr(full, "/tests/unit/") : NULL;
	char path[8192];

	if (!end)
		return -1;
	*end = '\0';
	snprintf(path, sizeof(path), "%s:%s", full, old ? old : "");
	free(full);
	return setenv("PATH", path, 1);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		CASE(test_sound),
		CASE(test_every_row),
		CASE(test_bare),
		CASE(test_absent),
		CASE(test_gguf),
		cmocka_unit_test(test_all_codes),
		cmocka_unit_test(test_man_page),
	};

	if (argc != 1 || find_program(argv[0]))
		return 1;
	return cmocka_run_group_tests_name("doctor", tests, NULL, NULL);
}
