/* The doctor's table: a checkpoint for each row that shows it, and the printed
 * remedy, which is run as it stands. */
#include "../../libfmt/base/json.h"
#include "../../libfmt/doctor_impl.h"
#include "sick.h"

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

/* ---- what is done to a sound one ---- */

static void shell(const char *dir, const char *command)
{
	char line[1024];

	snprintf(line, sizeof(line), "cd %s && { %s; } >/dev/null 2>out.err "
		 "|| { cat out.err >&2; exit 1; }", dir, command);
	if (system(line))
		fail_msg("%s: failed", command);
	snprintf(line, sizeof(line), "%s/out.err", dir);
	unlink(line);
}

/* In two shards, as repack cuts them. */
static void cut(const char *dir)
{
	shell(dir, "gptq-repack . -o new --shard-size 9000 -q && "
		   "rm model.safetensors && mv new/* . && rmdir new");
}

static void without_index(const char *dir)
{
	cut(dir);
	shell(dir, "rm model.safetensors.index.json");
}

static void stale_index(const char *dir)
{
	sick_text(dir, "model.safetensors.index.json",
		  "{\"weight_map\": {\"a\": \"gone.safetensors\"}}");
}

static void unlisted(const char *dir)
{
	sick_text(dir, "model.safetensors.index.json",
		  "{\"weight_map\": {\"model.norm.weight\": "
		  "\"model.safetensors\"}}");
}

static void leftover(const char *dir)
{
	shell(dir, "cp model.safetensors 4bit-128g.safetensors");
}

static void trailing(const char *dir)
{
	shell(dir, "printf 0123 >>model.safetensors");
}

/* The header's only member of its kind under a name of the same length. */
static void no_format(const char *dir)
{
	shell(dir, "sed 's/\"format\":\"pt\"/\"formal\":\"pt\"/' "
		   "model.safetensors >x && mv x model.safetensors");
}

static void inv_freq(struct make *m)
{
	make_f16(m, "model.layers.0.self_attn.rotary_emb", "inv_freq", 16, 0);
}

static void zero_biases(struct make *m)
{
	make_f16(m, "model.layers.0.self_attn.o_proj", "bias", 64, 0);
	memset(m->data[m->count - 1], 0, 128);
	make_f16(m, "model.layers.0.mlp.up_proj", "bias", 128, 0);
	memset(m->data[m->count - 1], 0, 256);
	half_put16(m->data[m->count - 1], 0x8000); /* -0 */
}

static void odd_bias(struct make *m)
{
	zero_biases(m);
	half_put16((uint8_t *)m->data[m->count - 1] + 254, 1);
}

static void markers(struct make *m)
{
	static const char *const name[] = { "gptq_bits", "gptq_groupsize" };

	for (int i = 0; i < 2; i++) {
		struct ckpt_item *it = make_item(m, "x", "x", 8);

		strcpy(m->name[m->count - 1], name[i]);
		half_put64(m->data[m->count - 1], i ? 32 : 4);
		it->type = DT_I64;
		it->rank = 1;
		it->dim[0] = 1;
	}
}

static void lora(struct make *m)
{
	make_f16(m, "model.layers.0.mlp.up_proj.lora_A.default", "weight", 8,
		 64);
}

/* The head becomes a copy of the embeddings. */
static void copied_head(struct make *m)
{
	memcpy(m->data[sick_find(m, "lm_head.weight", 0)],
	       m->data[sick_find(m, "embed_tokens.weight", 0)], 32 * 64 * 2);
}

static void wrapped_head(struct make *m)
{
	strcpy(m->name[sick_find(m, "lm_head.weight", 0)],
	       "base_model.model.lm_head.weight");
}

static void zero_gidx(struct make *m)
{
	for (uint32_t i = 0; i < 7; i++) {
		uint32_t at = sick_find(m, ".g_idx", i);

		memset(m->data[at], 0, 4 * m->item[at].dim[0]);
	}
}

static void wide_gidx(struct make *m)
{
	uint32_t at = sick_find(m, ".g_idx", 2);
	uint8_t *wide = calloc(64, 8);

	for (uint32_t k = 0; k < 64; k++)
		wide[8 * k] = (uint8_t)(k / 32);
	free(m->data[at]);
	m->data[at] = wide;
	m->item[at].data = wide;
	m->item[at].type = DT_I64;
}

static void uneven_gidx(struct make *m)
{
	half_put32(m->data[sick_find(m, ".g_idx", 2)], 1);
}

static void smear(struct make *m)
{
	half_put32(m->data[sick_find(m, ".qzeros", 1)], 0xFFFFF777);
}

static void wrap(struct make *m)
{
	half_put32(m->data[sick_find(m, ".qzeros", 1)], 0x7F777777);
}

/* 3-bit constants in the order of old GPTQModels. */
static void swap_constants(struct make *m)
{
	static const uint32_t word[] = { 0, 0xB6DB6DB7, 0x49249249 };

	for (uint32_t i = 0; i < 7; i++) {
		uint32_t at = sick_find(m, ".qzeros", i);
		uint64_t n = m->item[at].dim[0] * m->item[at].dim[1];

		for (uint64_t k = 0; k < n; k++)
			half_put32((uint8_t *)m->data[at] + 4 * k,
				   word[k % 3]);
	}
}

/* Zeros of nonsense, which kernels of the Marlin family do not look at. */
static void junk_zeros(struct make *m)
{
	for (uint32_t i = 0; i < 7; i++) {
		uint32_t at = sick_find(m, ".qzeros", i);

		memset(m->data[at], 0x11, 4 * m->item[at].dim[0] *
						  m->item[at].dim[1]);
	}
}

static void replace(struct make *m, const char *module, const char *name)
{
	for (uint32_t i = 0; i < m->count; i++) {
		char *dot = strrchr(m->name[i], '.');

		if ((size_t)(dot - m->name[i]) != strlen(module) ||
		    strncmp(m->name[i], module, strlen(module)))
			continue;
		memmove(m->name[i] + strlen(name), dot, strlen(dot) + 1);
		memcpy(m->name[i], name, strlen(name));
	}
}

static void router(struct make *m)
{
	const struct sick s = { .prefix = "" };

	sick_linear(m, &s, "model.layers.0.block_sparse_moe.gate", 64, 32);
}

static void ragged(struct make *m)
{
	const struct sick s = { .prefix = "" };

	sick_linear(m, &s, "model.layers.0.extra_proj", 64, 40);
}

/* v_proj dense, beside quantized q and k. */
static void dense_v(struct make *m)
{
	replace(m, "model.layers.0.self_attn.v_proj", "spare.v_proj");
	make_f16(m, "model.layers.0.self_attn.v_proj", "weight", 64, 64);
}

static void unequal_v(struct make *m)
{
	const struct sick s = { .prefix = "", .spec = { .bits = 8 } };

	replace(m, "model.layers.0.self_attn.v_proj", "spare.v_proj");
	sick_linear(m, &s, "model.layers.0.self_attn.v_proj", 64, 64);
}

static void unequal_o(struct make *m)
{
	const struct sick s = { .prefix = "", .spec = { .bits = 8 } };

	replace(m, "model.layers.0.self_attn.o_proj", "spare.o_proj");
	sick_linear(m, &s, "model.layers.0.self_attn.o_proj", 64, 64);
}

static void dense_o(struct make *m)
{
	replace(m, "model.layers.0.self_attn.o_proj", "spare.o_proj");
	make_f16(m, "model.layers.0.self_attn.o_proj", "weight", 64, 64);
}

static void plain_weight(struct make *m)
{
	make_f16(m, "model.layers.0.self_attn.o_proj", "weight", 64, 64);
}

static void short_bias(struct make *m)
{
	make_f16(m, "model.layers.0.self_attn.o_proj", "bias", 63, 0);
}

static void short_scales(struct make *m)
{
	m->item[sick_find(m, ".scales", 3)].dim[1]--;
}

static void exl2_head(struct make *m)
{
	replace(m, "lm_head", "spare.head");
	make_f16(m, "lm_head", "q_weight", 4, 32);
	make_f16(m, "lm_head", "q_scale", 4, 32);
}

/* Float zeros, scales that lie the other way, no g_idx. */
static void generation_0(struct make *m)
{
	for (uint32_t i = 0; i < 7; i++) {
		uint32_t s = sick_find(m, ".scales", 0);
		uint32_t z = sick_find(m, ".qzeros", 0);
		uint32_t n = (uint32_t)m->item[s].dim[1];
		float *scale = calloc(n, 4), *zero = calloc(n, 4);

		for (uint32_t k = 0; k < n; k++) {
			scale[k] = (float)(k + 1) / 64;
			zero[k] = scale[k] * 8;
		}
		free(m->data[s]);
		free(m->data[z]);
		m->data[s] = scale;
		m->data[z] = zero;
		strcpy(strrchr(m->name[s], '.'), ".scales");
		strcpy(strrchr(m->name[z], '.'), ".zeros");
		for (int k = 0; k < 2; k++) {
			struct ckpt_item *it = &m->item[k ? z : s];

			it->data = m->data[k ? z : s];
			it->type = DT_F32;
			it->rank = 2;
			it->dim[0] = n;
			it->dim[1] = 1;
		}
		/* sick_find takes the first that is left */
		strcat(m->name[s], "#");
	}
	for (uint32_t i = 0; i < m->count; i++)
		if (strchr(m->name[i], '#'))
			*strchr(m->name[i], '#') = '\0';
}

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
	{ "file-trailing", E, MENDED, { .after = trailing } },
	{ "file-no-format", W, MENDED, { .after = no_format } },
	{ "file-name", W, MENDED, { .file = "4bit-128g.safetensors" } },
	{ "file-leftover", W, MENDED, { .after = leftover } },
	{ "index-missing", E, MENDED, { .after = without_index } },
	{ "index-stale", W, MENDED, { .after = stale_index } },
	{ "index-unlisted", W, MENDED, { .after = unlisted } },
	/* configs */
	{ "config-none", E, NONE, { .config = "" } },
	{ "config-missing", E, MENDED, { .quant = "" } },
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
	{ "config-method", E, MENDED,
	  { .quant = "{\"quant_method\": \"fp8\"}" } },
	{ "config-method", E, MENDED,
	  { .quant = "{\"quant_method\": \"awq\", \"bits\": 4, "
		     "\"group_size\": 32, \"zero_point\": true}" } },
	{ "config-group-zero", E, MENDED,
	  { .quant = QUANT(4, 0, false, true, "") } },
	{ "config-marlin-flag", E, MENDED,
	  { .quant = QUANT(4, 32, false, true,
			   ", \"is_marlin_format\": false") } },
	{ "config-heights", E, NONE,
	  { .quant = QUANT(4, 32, false, true,
			   ", \"qweight_heights\": [1]") } },
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
	{ "config-bf16", N, NONE, { .more = BF16 } },
	{ "config-dynamic", N, NONE, { .tweak = unequal_o } },
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
	/* layers */
	{ "layer-broken", E, NONE, { .tweak = short_scales } },
	{ "layer-foreign", W, NONE, { .tweak = exl2_head } },
	{ "layer-both", E, NONE, { .tweak = plain_weight } },
	{ "layer-router", E, MENDED, { .tweak = router } },
	{ "layer-old", E, MENDED, { .tweak = generation_0,
		.without = "g_idx", .quant = QUANT(4, -1, false, true, ""),
		.spec = { .group_size = 128 } } },
	{ "bias-length", E, NONE, { .tweak = short_bias } },
	{ "joined-some", E, MENDED, { .tweak = dense_v } },
	{ "joined-unequal", W, NONE, { .tweak = unequal_v } },
	{ "joined-orders", N, NONE, { .spec = { .act_order = 1 },
		.quant = QUANT(4, 32, true, true, "") } },
	{ "gidx-act-missing", E, NONE, { .without = "g_idx",
		.quant = QUANT(4, 32, true, true, "") } },
	{ "gidx-missing", W, MENDED, { .without = "g_idx" } },
	{ "gidx-zero", W, MENDED, { .tweak = zero_gidx } },
	{ "gidx-uneven", W, NONE, { .tweak = uneven_gidx } },
	{ "gidx-i64", W, MENDED, { .tweak = wide_gidx } },
	{ "zeros-label", E, MENDED, { .format = &qf_gptq_v2 } },
	{ "zeros-smeared", E, NONE, { .tweak = smear, .asym = true,
		.quant = QUANT(4, 32, false, false, "") } },
	{ "zeros-swapped", E, MENDED, { .tweak = swap_constants,
		.spec = { .bits = 3 },
		.quant = QUANT(3, 32, false, true, "") } },
	{ "zeros-wrapped", W, MENDED, { .tweak = wrap, .asym = true,
		.quant = QUANT(4, 32, false, false, "") } },
	{ "zeros-missing", E, MENDED, { .without = "qzeros" } },
	{ "zeros-asym-v1", N, MENDED, { .asym = true,
		.quant = QUANT(4, 32, false, false, "") } },
	{ "scales-f32", N, NONE, { .spec = { .scale_type = DT_F32 } } },
	{ "scales-bf16", N, NONE, { .spec = { .scale_type = DT_BF16 } } },
	/* kernels */
	{ "bits-narrow", N, NONE, { .spec = { .bits = 2 },
		.quant = QUANT(2, 32, false, true, "") } },
	{ "group-ragged", N, NONE, { .spec = { .group_size = 48 },
		.quant = QUANT(4, 48, false, true, "") } },
	{ "group-unusual", N, NONE, { .spec = { .group_size = 16 },
		.quant = QUANT(4, 16, false, true, "") } },
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

/* Every code stands in the man page, and none is there twice. */
static void test_man_page(void **state)
{
	static const struct doctor_table *const tables[] = { &doctor_files,
		&doctor_configs, &doctor_names, &doctor_layers,
		&doctor_kernels };
	struct err err;
	char *text;
	size_t n;

	(void)state;
	must(io_read_file("man/gptq-inspect.1", 1 << 20, &text, &n, &err),
	     &err);
	for (size_t t = 0; t < 5; t++)
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
		cmocka_unit_test(test_man_page),
	};

	if (argc != 1 || find_program(argv[0]))
		return 1;
	return cmocka_run_group_tests_name("doctor", tests, NULL, NULL);
}
