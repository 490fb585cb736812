/* What is in a checkpoint: one row per linear, and the sums. */
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/json.h"
#include "../../libfmt/survey.h"
#include "ckpt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define GOLDEN "tests/golden/"
#define NAME 256

static struct model *opened(const char *path)
{
	struct model *m = NULL;
	struct err err;

	if (model_open(path, 0, &m, &err))
		fail_msg("%s", err.msg);
	return m;
}

static void survey(const struct model *m, struct survey *s)
{
	struct err err;

	if (survey_model(m, s, &err))
		fail_msg("%s", err.msg);
}

static void test_dense(void **state)
{
	struct model *m = opened(TINY);
	struct survey s;

	(void)state;
	survey(m, &s);
	assert_string_equal(s.format, "dense");
	assert_int_equal(s.count, 6 * 7 + 1); /* and the head */
	assert_int_equal(s.quantized, 0);
	assert_int_equal(s.parameters, 6163712);
	assert_int_equal(s.bytes, 2 * 6163712);
	assert_true(s.bits_per_weight <= 0);
	assert_int_equal(s.odd, 0);
	assert_string_equal(s.layer[0].module->name, "lm_head");
	assert_string_equal(s.layer[1].module->name,
			    "model.layers.0.mlp.down_proj");
	assert_string_equal(s.layer[1].layout, "dense");
	assert_null(s.layer[1].format);
	assert_int_equal(s.layer[1].spec.in, 768);
	assert_int_equal(s.layer[1].spec.out, 256);
	assert_int_equal(s.layer[1].spec.bits, 16);
	survey_release(&s);
	model_close(m);
}

/* Block 10 behind block 2; embeddings, norms and vectors are no linears. */
static void test_order_and_choice(void **state)
{
	static const struct ckpt_item item[] = {
		{ "model.layers.10.a.weight", DT_BF16, 2, { 2, 3 }, NULL },
		{ "model.layers.2.a.weight", DT_F32, 2, { 2, 3 }, NULL },
		{ "model.layers.2.a.bias", DT_F32, 1, { 2, 0 }, NULL },
		{ "model.embed_tokens.weight", DT_F16, 2, { 4, 4 }, NULL },
		{ "model.layers.2.odd_norm.weight", DT_F16, 2, { 4, 4 }, NULL },
		{ "model.norm.weight", DT_F16, 1, { 4, 0 }, NULL },
		{ "model.layers.2.rotary_emb.inv_freq", DT_F32, 1, { 4, 0 },
		  NULL },
		{ "model.layers.3.x.weight", DT_I32, 2, { 4, 4 }, NULL },
		{ "weight", DT_F16, 2, { 4, 4 }, NULL },
	};
	struct scratch *d = *state;
	struct model *m;
	struct survey s;
	struct err err;

	assert_int_equal(ckpt_file(scratch_path(d, "x.safetensors"), item, 9,
				   &err), 0);
	m = opened(d->dir);
	survey(m, &s);
	assert_int_equal(s.count, 2);
	assert_string_equal(s.layer[0].module->name, "model.layers.2.a");
	assert_true(s.layer[0].bias);
	assert_int_equal(s.layer[0].spec.bits, 32);
	assert_string_equal(s.layer[1].module->name, "model.layers.10.a");
	assert_false(s.layer[1].bias);
	/* 6 + 6 + 2 + 16 + 16 + 4 + 16: no buffers, no integers */
	assert_int_equal(s.parameters, 66);
	survey_release(&s);
	model_close(m);
}

/* ---- golden layers ---- */

static struct cJSON *case_of(const char *dir)
{
	struct cJSON *j = NULL;
	struct err err;
	char path[NAME + 32];

	snprintf(path, sizeof(path), "%s/case.json", dir);
	if (json_read_file(path, &j, &err))
		fail_msg("%s", err.msg);
	return j;
}

static int32_t number(const struct cJSON *j, const char *key)
{
	int64_t n;

	if (json_int(json_find(j, key), -1, INT32_MAX, &n))
		fail_msg("no %s", key);
	return (int32_t)n;
}

static bool truth(const struct cJSON *j, const char *key)
{
	bool b = false;

	if (json_bool(json_find(j, key), &b))
		fail_msg("no %s", key);
	return b;
}

/* The layer and its config as a checkpoint. */
static void make_case(struct scratch *d, const char *dir,
		      const struct cJSON *j)
{
	struct err err;
	char path[NAME + 32], *text;

	snprintf(path, sizeof(path), "%s/model.safetensors", dir);
	if (io_copy_file(path, scratch_path(d, "model.safetensors"), &err))
		fail_msg("%s", err.msg);
	text = json_print(json_find(j, "quantization_config"), true, &err);
	assert_non_null(text);
	scratch_write(d, "quantize_config.json", text, strlen(text));
	free(text);
}

/* Is the stored g_idx anything but i / group_size? */
static bool is_scattered(const struct model *m, uint32_t group_size)
{
	for (uint32_t i = 0; i < m->tensor_count; i++) {
		const struct tensor *t = &m->tensor[i];
		const uint8_t *p = t->data;

		if (!strstr(t->name, ".g_idx"))
			continue;
		for (uint32_t k = 0; k < t->dim[0]; k++) {
			uint32_t g = p[4 * k] | (uint32_t)p[4 * k + 1] << 8;

			if (g != k / group_size)
				return true;
		}
	}
	return false;
}

/* Is every word of qzeros the middle zero's?  gptq-formats(5) "Zero points". */
static bool is_mid(const struct model *m, uint32_t bits, bool v2)
{
	static const uint32_t three[2][3] = {
		{ 0xdb6db6dbu, 0xb6db6db6u, 0x6db6db6du },
		{ 0x24924924u, 0x49249249u, 0x92492492u } };
	uint32_t word = bits == 2 ? 0x55555555u : bits == 4 ? 0x77777777u :
							      0x7f7f7f7fu;

	if (v2)
		word = bits == 2 ? 0xaaaaaaaau : word + 0x01010101u *
		       (bits == 4 ? 0x11u : 1u);
	for (uint32_t i = 0; i < m->tensor_count; i++) {
		const struct tensor *t = &m->tensor[i];

		if (!strstr(t->name, ".qzeros"))
			continue;
		for (uint64_t k = 0; k < t->size / 4; k++)
			if (half_le32((const char *)t->data + 4 * k) !=
			    (bits == 3 ? three[v2][k % 3] : word))
				return false;
	}
	return true;
}

static double packed_bits(const struct model *m)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < m->tensor_count; i++)
		if (!strstr(m->tensor[i].name, ".bias"))
			n += m->tensor[i].size;
	return 8.0 * (double)n;
}

static void check_case(struct scratch *d, const char *dir)
{
	struct cJSON *j = case_of(dir);
	const struct survey_layer *l;
	uint32_t in = (uint32_t)number(j, "in_features");
	uint32_t out = (uint32_t)number(j, "out_features");
	int32_t gs = number(j, "group_size");
	struct model *m;
	struct survey s;
	double bits;

	make_case(d, dir, j);
	m = opened(d->dir);
	survey(m, &s);
	assert_int_equal(s.count, 1);
	assert_int_equal(s.quantized, 1);
	l = &s.layer[0];
	if (l->broken)
		fail_msg("%s: %s", dir, l->why);
	assert_string_equal(s.format, json_text(json_find(j, "format")));
	assert_string_equal(s.format, l->layout);
	assert_string_equal(l->module->name, json_text(json_find(j, "layer")));
	assert_int_equal(l->spec.in, in);
	assert_int_equal(l->spec.out, out);
	assert_int_equal(s.bits, number(j, "bits"));
	assert_int_equal(s.group_size, gs);
	assert_int_equal(l->spec.groups, number(j, "groups"));
	assert_int_equal(s.desc_act, gs > 0 && is_scattered(m, (uint32_t)gs));
	/* an asymmetric quantizer may come to the middle zero everywhere */
	assert_int_equal(s.sym, is_mid(m, (uint32_t)number(j, "bits"),
				       !strcmp(s.format, "gptq_v2")));
	if (truth(j, "sym"))
		assert_true(s.sym);
	assert_false(s.mixed);
	assert_int_equal(s.parameters, in * out + (l->bias ? out : 0));
	bits = packed_bits(m) / in / out;
	assert_true(s.bits_per_weight > 0.999 * bits &&
		    s.bits_per_weight < 1.001 * bits);
	survey_release(&s);
	model_close(m);
	json_free(j);
}

/* Every undamaged case of a directory whose name begins so. */
static void check_cases(struct scratch *d, const char *dir, const char *begin,
			uint32_t at_least)
{
	char **name, path[NAME];
	uint32_t n, seen = 0;
	struct err err;

	if (io_list(dir, &name, &n, &err))
		fail_msg("%s", err.msg);
	for (uint32_t i = 0; i < n; i++) {
		if (strncmp(name[i], begin, strlen(begin)) ||
		    strstr(name[i], "legacy"))
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, name[i]);
		check_case(d, path);
		seen++;
	}
	assert_true(seen >= at_least);
	free(name);
}

static void test_golden_v1(void **state)
{
	check_cases(*state, GOLDEN "gptq_v1", "v1_", 60);
}

static void test_golden_v2(void **state)
{
	check_cases(*state, GOLDEN "gptq_v2", "v2_", 12);
}

/* ---- several layers ---- */

static void add_layer(struct ckpt_item *item, char (*name)[NAME], uint32_t *n,
		      const struct model *from, const char *module)
{
	for (uint32_t i = 0; i < from->tensor_count; i++) {
		const struct tensor *t = &from->tensor[i];

		snprintf(name[*n], NAME, "%s%s", module,
			 strrchr(t->name, '.'));
		item[*n] = (struct ckpt_item){ name[*n], t->type, t->rank,
			{ t->dim[0], t->dim[1] }, t->data };
		++*n;
	}
}

/* Two golden layers, "m.2.a" and "m.10.b", and a config. */
static void make_pair(struct scratch *d, const char *a, const char *b,
		      const char *config)
{
	struct ckpt_item item[16];
	char name[16][NAME], path[NAME];
	struct model *ma, *mb;
	struct err err;
	uint32_t n = 0;

	snprintf(path, sizeof(path), GOLDEN "%s/model.safetensors", a);
	ma = opened(path);
	snprintf(path, sizeof(path), GOLDEN "%s/model.safetensors", b);
	mb = opened(path);
	add_layer(item, name, &n, ma, "m.2.a");
	add_layer(item, name, &n, mb, "m.10.b");
	assert_int_equal(ckpt_file(scratch_path(d, "model.safetensors"), item,
				   n, &err), 0);
	scratch_write(d, "quantize_config.json", config, strlen(config));
	model_close(ma);
	model_close(mb);
}

static void test_mixed(void **state)
{
	struct scratch *d = *state;
	struct model *m;
	struct survey s;

	make_pair(d, "gptq_v1/v1_b4_g64_sym_seq_triton",
		  "gptq_v1/v1_b8_g32_sym_seq_triton",
		  "{\"bits\": 4, \"group_size\": 64, \"dynamic\": {\".*b\": "
		  "{\"bits\": 8, \"group_size\": 32}}}");
	m = opened(d->dir);
	survey(m, &s);
	assert_int_equal(s.count, 2);
	assert_string_equal(s.layer[0].module->name, "m.2.a");
	assert_true(s.mixed);
	assert_int_equal(s.bits, 8);
	assert_int_equal(s.group_size, 64);
	assert_true(s.sym);
	assert_false(s.desc_act);
	assert_string_equal(s.format, "gptq");
	assert_int_equal(s.odd & (QF_ODD_BITS | QF_ODD_GROUP), 0);
	survey_release(&s);
	model_close(m);
}

/* Rules for layers that are joined elsewhere, where the tensors are single: the
 * tensors are believed, and it is said. */
static void test_rules_of_other_names(void **state)
{
	struct scratch *d = *state;
	struct model *m;
	struct survey s;

	make_pair(d, "gptq_v1/v1_b4_g64_sym_seq_triton",
		  "gptq_v1/v1_b8_g32_sym_seq_triton",
		  "{\"bits\": 4, \"group_size\": 64, \"dynamic\": "
		  "{\".*ab_proj\": {\"bits\": 8, \"group_size\": 32}}}");
	m = opened(d->dir);
	survey(m, &s);
	assert_int_equal(s.layer[0].odd & (QF_ODD_BITS | QF_ODD_GROUP), 0);
	assert_int_equal(s.layer[1].odd & (QF_ODD_BITS | QF_ODD_GROUP),
			 QF_ODD_BITS | QF_ODD_GROUP);
	assert_int_equal(s.layer[1].spec.bits, 8);
	assert_int_equal(s.layer[1].spec.group_size, 32);
	survey_release(&s);
	model_close(m);
}

/* A layer of one group is of the config's size when that is large enough. */
static void test_one_group(void **state)
{
	static const struct {
		const char *config;
		int32_t gs;
		bool mixed;
	} row[] = {
		{ "{\"bits\": 4, \"group_size\": 64}", 64, false },
		{ "{\"bits\": 4, \"group_size\": -1}", -1, true },
	};
	struct scratch *d = *state;
	struct model *m;
	struct survey s;

	for (int i = 0; i < 2; i++) {
		/* 64 inputs in one group, 128 in two */
		make_pair(d, "gptq_v1/v1_b4_gch_sym_seq_cuda_old",
			  "gptq_v1/v1_b4_g64_sym_seq_triton", row[i].config);
		m = opened(d->dir);
		survey(m, &s);
		assert_int_equal(s.group_size, row[i].gs);
		assert_int_equal(s.mixed, row[i].mixed);
		survey_release(&s);
		model_close(m);
	}
}

/* Names of another architecture: the layers are listed by what they are, and
 * nobody takes the model for a Llama. */
static void test_another_architecture(void **state)
{
	static const char config[] = "{\"architectures\": "
		"[\"GPTJForCausalLM\"], \"model_type\": \"gptj\", "
		"\"n_embd\": 64, \"n_layer\": 28, \"vocab_size\": 32}";
	const struct ckpt_item wte = { "transformer.wte.weight", DT_F16, 2,
				       { 32, 64 }, NULL };
	struct ckpt_item item[16];
	char name[16][NAME];
	struct scratch *d = *state;
	struct model *from, *m;
	struct survey s;
	struct err err;
	uint32_t n = 0;

	from = opened(GOLDEN "gptq_v1/v1_b4_g64_sym_seq_triton/"
		      "model.safetensors");
	add_layer(item, name, &n, from, "transformer.h.10.attn.q_proj");
	add_layer(item, name, &n, from, "transformer.h.2.mlp.fc_in");
	item[n++] = wte;
	assert_int_equal(ckpt_file(scratch_path(d, "model.safetensors"), item,
				   n, &err), 0);
	model_close(from);
	scratch_write(d, "config.json", config, sizeof(config) - 1);
	m = opened(d->dir);
	assert_null(model_llama(m));
	survey(m, &s);
	assert_string_equal(s.format, "gptq");
	assert_int_equal(s.count, 2);
	assert_string_equal(s.layer[0].module->name,
			    "transformer.h.2.mlp.fc_in");
	assert_int_equal(s.layer[1].spec.in, 128);
	survey_release(&s);
	model_close(m);
}

static void test_broken_and_foreign(void **state)
{
	static const struct ckpt_item item[] = {
		{ "m.a.qweight", DT_I32, 2, { 4, 32 }, NULL },
		{ "m.a.scales", DT_F16, 2, { 1, 16 }, NULL },
		{ "m.a.qzeros", DT_I32, 2, { 1, 4 }, NULL },
		{ "m.b.q_weight", DT_I32, 2, { 4, 32 }, NULL },
		{ "m.b.q_scale", DT_I32, 2, { 1, 4 }, NULL },
	};
	struct scratch *d = *state;
	struct model *m;
	struct survey s;
	struct err err;

	assert_int_equal(ckpt_file(scratch_path(d, "x.safetensors"), item, 5,
				   &err), 0);
	m = opened(d->dir);
	survey(m, &s);
	assert_int_equal(s.count, 2);
	assert_int_equal(s.quantized, 2);
	assert_string_equal(s.format, "mixed");
	assert_true(s.layer[0].broken);
	assert_non_null(s.layer[0].format);
	assert_non_null(strstr(s.layer[0].why, "m.a.qweight"));
	assert_true(s.layer[1].broken);
	assert_null(s.layer[1].format);
	assert_string_equal(s.layer[1].layout, "exl2");
	assert_int_equal(s.parameters, 0);
	survey_release(&s);
	model_close(m);
}

#define WITH_DIR(f) \
	cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dense),
		WITH_DIR(test_order_and_choice),
		WITH_DIR(test_golden_v1),
		WITH_DIR(test_golden_v2),
		WITH_DIR(test_mixed),
		WITH_DIR(test_rules_of_other_names),
		WITH_DIR(test_one_group),
		WITH_DIR(test_another_architecture),
		WITH_DIR(test_broken_and_foreign),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
