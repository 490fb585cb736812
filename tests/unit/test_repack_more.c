/* Checkpoints to AWQ, compressed-tensors and Marlin and back: the same file,
 * and the config that readers of each need. */
#include "../../libfmt/base/json.h"
#include "made.h"

#define V2 "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 128, " \
	"\"desc_act\": false, \"sym\": %s, \"checkpoint_format\": \"gptq_v2\"}"

/* Two layers, one of them mixed in by `second`, and an embedding. */
static void make_two(const char *dir, const struct ql_spec *first,
		     const struct ql_spec *second)
{
	struct make m = { .count = 0 };
	char config[256];
	struct ql ql;

	make_f16(&m, "model.embed_tokens", "weight", 40, 96);
	random_layer(&ql, first, 0);
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq_v2, NULL);
	ql_release(&ql);
	random_layer(&ql, second, 0);
	make_layer(&m, "model.layers.1.mlp.up_proj", &ql, &qf_gptq_v2, NULL);
	ql_release(&ql);
	make_f16(&m, "model.layers.2.mlp.up_proj", "weight", 20, 30);
	snprintf(config, sizeof(config), V2, first->sym ? "true" : "false");
	make_write(&m, dir, config);
}

static const struct ql_spec big = { .out = 256, .in = 256, .groups = 2,
	.group_size = 128, .bits = 4, .zero_kind = QL_POINT,
	.scale_type = DT_F16 };

/* To `f` and back; returns the config written on the way. */
static struct cJSON *there_and_back(struct scratch *s, const struct qfmt *f,
				    const struct ql_spec *first,
				    const struct ql_spec *second)
{
	struct options to = { .to = f }, back = { .to = &qf_gptq_v2 };
	char a[96], b[96], c[96], path[128];
	struct cJSON *config;
	struct repack_report r;
	struct model *m;
	struct err err;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	snprintf(c, sizeof(c), "%s/c", s->dir);
	make_two(a, first, second);
	r = repack(a, b, &to);
	assert_int_equal(r.layers, 2);
	assert_int_equal(r.proven, 2 * 256 * 256 + 20 * 30);
	r = repack(b, c, &back);
	assert_int_equal(r.layers, 2);
	assert_same_file(a, c, "model.safetensors");
	must(model_open(c, 0, &m, &err), &err);
	assert_string_equal(m->quant.format, "gptq_v2");
	assert_string_equal(m->quant.method, "gptq");
	assert_null(json_find(m->quant.tree, "config_groups"));
	model_close(m);
	snprintf(path, sizeof(path), "%s/config.json", b);
	must(json_read_file(path, &config, &err), &err);
	return config;
}

static const char *text_at(const struct cJSON *config, const char *path)
{
	const char *t = json_text(json_path(config, path));

	assert_non_null(t);
	return t;
}

static void test_awq(void **state)
{
	struct cJSON *c = there_and_back(*state, &qf_awq, &big, &big);
	const struct cJSON *q = json_find(c, "quantization_config");
	uint32_t n = 0;
	struct err err;

	assert_string_equal(text_at(q, "quant_method"), "awq");
	assert_string_equal(text_at(q, "version"), "gemm");
	must(json_get_u32(q, "bits", 4, 4, &n, &err), &err);
	must(json_get_u32(q, "group_size", 128, 128, &n, &err), &err);
	assert_int_equal(json_count(json_find(q, "modules_to_not_convert")),
			 2);
	assert_null(json_find(q, "desc_act"));
	json_free(c);
}

static void test_compressed_tensors(void **state)
{
	struct ql_spec other = big;
	struct cJSON *c;
	const struct cJSON *w;
	uint32_t n = 0;
	struct err err;

	other.group_size = 64;
	other.groups = 4;
	other.bits = 8;
	other.act_order = 1;
	c = there_and_back(*state, &qf_ct, &big, &other);
	assert_string_equal(text_at(c, "quantization_config.format"),
			    "pack-quantized");
	w = json_path(c, "quantization_config.config_groups.group_1.weights");
	must(json_get_u32(w, "num_bits", 8, 8, &n, &err), &err);
	must(json_get_u32(w, "group_size", 64, 64, &n, &err), &err);
	assert_string_equal(text_at(w, "actorder"), "group");
	w = json_path(c, "quantization_config.config_groups.group_0");
	assert_string_equal(json_text(json_first(json_find(w, "targets"))),
			    "model.layers.0.mlp.up_proj");
	json_free(c);
}

static void test_compressed_tensors_of_one_kind(void **state)
{
	struct ql_spec one = big;
	const struct cJSON *g;
	struct cJSON *c;
	char b[96];
	struct scratch *s = *state;
	struct model *m;
	struct err err;

	one.sym = 1;
	one.groups = 1;
	one.group_size = 256;
	c = there_and_back(s, &qf_ct, &one, &one);
	g = json_path(c, "quantization_config.config_groups.group_0");
	assert_string_equal(json_text(json_first(json_find(g, "targets"))),
			    "Linear");
	assert_string_equal(text_at(g, "weights.strategy"), "channel");
	json_free(c);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	must(model_open(b, 0, &m, &err), &err);
	assert_int_equal(m->quant.bits, 4);
	assert_int_equal(m->quant.group_size, -1);
	assert_int_equal(m->quant.sym, 1);
	model_close(m);
}

static void test_marlin(void **state)
{
	struct ql_spec sym = big;
	struct cJSON *c;

	sym.sym = 1;
	c = there_and_back(*state, &qf_marlin, &sym, &sym);
	assert_string_equal(text_at(c, "quantization_config.quant_method"),
			    "gptq");
	assert_string_equal(
		text_at(c, "quantization_config.checkpoint_format"),
		"marlin");
	json_free(c);
}

/* AutoAWQ's version "marlin" has other names for the same tensors: only those
 * of the layout go with the config that is written. */
static void test_marlin_of_awq(void **state)
{
	struct scratch *s = *state;
	struct options to = { .to = &qf_marlin };
	struct ql_spec sym = big;
	struct make m = { .count = 0 };
	char a[96], b[96];
	struct model *back;
	struct err err;
	struct ql ql;

	sym.sym = 1;
	random_layer(&ql, &sym, 0);
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_marlin, NULL);
	ql_release(&ql);
	for (uint32_t i = 0; i < m.count; i++) {
		char *suffix = strrchr(m.name[i], '.') + 1;

		strcpy(suffix, *suffix == 'B' ? "qweight" : "scales");
	}
	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	make_write(&m, a, "{\"quant_method\": \"awq\", \"bits\": 4, "
		   "\"group_size\": 128, \"zero_point\": false, "
		   "\"version\": \"marlin\"}");
	repack(a, b, &to);
	must(model_open(b, 0, &back, &err), &err);
	assert_non_null(model_find(back, "model.layers.0.mlp.up_proj.B"));
	assert_non_null(model_find(back, "model.layers.0.mlp.up_proj.s"));
	assert_int_equal(back->tensor_count, 2);
	model_close(back);
}

/* One group size is all that a config of AWQ can say. */
static void test_awq_of_two_sizes(void **state)
{
	struct scratch *s = *state;
	struct options to = { .to = &qf_awq };
	struct ql_spec other = big;
	struct repack_step *steps;
	struct opened o;
	uint32_t refused;
	char a[96], b[96];
	struct err err;

	other.group_size = 64;
	other.groups = 4;
	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	make_two(a, &big, &other);
	open_job(&o, a, b, &to);
	assert_int_equal(repack_plan(&o.job, &steps, &refused, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	assert_non_null(strstr(err.msg, "one group size"));
	close_job(&o);
}

#define WITH_DIR(f) \
	cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_DIR(test_awq),
		WITH_DIR(test_compressed_tensors),
		WITH_DIR(test_compressed_tensors_of_one_kind),
		WITH_DIR(test_marlin),
		WITH_DIR(test_marlin_of_awq),
		WITH_DIR(test_awq_of_two_sizes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
