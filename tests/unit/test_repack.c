/* Repacking whole checkpoints: what comes out, in which files, and that the
 * proof would see a wrong bit. */
#include "../../libfmt/base/json.h"
#include "made.h"

/* ---- there and back ---- */

static void test_v2_to_v1_and_back(void **state)
{
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq }, v2 = { .to = &qf_gptq_v2 };
	char a[96], b[96], c[96];
	struct repack_report r;
	struct model *m;
	struct err err;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	snprintf(c, sizeof(c), "%s/c", s->dir);
	make_model(a, &qf_gptq_v2, 1);
	r = repack(a, b, &v1);
	assert_int_equal(r.layers, 2);
	assert_int_equal(r.copied, 4);
	assert_int_equal(r.shards, 1);
	assert_int_equal(r.proven, 64 * 96 + 40 * 84 + 20 * 30);
	r = repack(b, c, &v2);
	assert_int_equal(r.layers, 2);
	assert_same_file(a, c, "model.safetensors");
	assert_same_file(a, b, "tokenizer.json");
	must(model_open(b, 0, &m, &err), &err);
	assert_string_equal(m->quant.format, "gptq");
	assert_int_equal(m->quant.bits, 4);
	assert_int_equal(m->quant.group_size, 32);
	assert_int_equal(m->quant.desc_act, 1);
	assert_int_equal(m->quant.sym, 0);
	/* a dense linear in a block is told of */
	assert_non_null(json_find(m->quant.dynamic, "-:^model\\.layers\\.2"
					"\\.mlp\\.up_proj$"));
	/* no list, as in block 10 it is quantized */
	assert_null(json_find(m->quant.tree, "modules_in_block_to_quantize"));
	assert_false(m->quant.disagree);
	assert_non_null(m->quantize);
	assert_non_null(json_path(m->config,
				  "quantization_config.damp_percent"));
	assert_string_equal(json_text(json_find(m->config, "model_type")),
			    "x");
	model_close(m);
}

/* What is in the target layout already is copied, not decoded. */
static void test_same_layout_is_copied(void **state)
{
	struct scratch *s = *state;
	struct options v2 = { .to = &qf_gptq_v2 };
	char a[96], b[96];
	struct repack_report r;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	make_model(a, &qf_gptq_v2, 0);
	r = repack(a, b, &v2);
	assert_int_equal(r.layers, 0);
	assert_int_equal(r.copied, 12);
	assert_same_file(a, b, "model.safetensors");
}

/* The golden v2 layers become the v1 files of their own project. */
static void test_golden_v2_to_v1(void **state)
{
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq }, v2 = { .to = &qf_gptq_v2 };
	static const char golden[] = "tests/golden/gptq_v2";
	char path[256], a[96], b[96], c[96], **names, *text;
	uint32_t count, done = 0;
	struct cJSON *facts;
	struct err err;

	must(io_list(golden, &names, &count, &err), &err);
	for (uint32_t i = 0; i < count; i++) {
		if (strncmp(names[i], "v2_b", 4) != 0)
			continue;
		snprintf(a, sizeof(a), "%s/%s", s->dir, names[i]);
		snprintf(b, sizeof(b), "%s/%s.v1", s->dir, names[i]);
		snprintf(c, sizeof(c), "%s/%s.v2", s->dir, names[i]);
		mkdir(a, 0777);
		snprintf(path, sizeof(path), "%s/%s/case.json", golden,
			 names[i]);
		must(json_read_file(path, &facts, &err), &err);
		text = json_print(json_find(facts, "quantization_config"),
				  true, &err);
		snprintf(path, sizeof(path), "%s/quantize_config.json", a);
		must(io_write_file(path, text, strlen(text), &err), &err);
		free(text);
		json_free(facts);
		snprintf(path, sizeof(path), "%s/%s/model.safetensors", golden,
			 names[i]);
		text = io_join(a, "model.safetensors", &err);
		must(io_copy_file(path, text, &err), &err);
		free(text);
		repack(a, b, &v1);
		snprintf(path, sizeof(path), "%s/%s", golden, names[i]);
		text = io_join(b, "v1.safetensors", &err);
		snprintf(path, sizeof(path), "%s/model.safetensors", b);
		assert_int_equal(rename(path, text), 0);
		free(text);
		snprintf(path, sizeof(path), "%s/%s", golden, names[i]);
		assert_same_file(path, b, "v1.safetensors");
		repack(b, c, &v2);
		assert_same_file(path, c, "model.safetensors");
		done++;
	}
	free(names);
	assert_int_equal(done, 9);
}

/* Cut into shards, bytes do not depend on the threads; joined again they are
 * the file that was cut. */
static void test_shards_and_threads(void **state)
{
	struct scratch *s = *state;
	struct options one = { .to = &qf_gptq, .shard_size = 4000,
			       .threads = 1 };
	struct options many = { .to = &qf_gptq, .shard_size = 4000,
				.threads = 7 };
	struct options joined = { .to = &qf_gptq };
	char a[96], b[96], c[96], d[96], e[96], **names;
	struct repack_report r;
	struct err err;
	uint32_t count;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	snprintf(c, sizeof(c), "%s/c", s->dir);
	snprintf(d, sizeof(d), "%s/d", s->dir);
	snprintf(e, sizeof(e), "%s/e", s->dir);
	make_model(a, &qf_gptq_v2, 1);
	r = repack(a, b, &one);
	assert_true(r.shards > 2);
	repack(a, c, &many);
	must(io_list(b, &names, &count, &err), &err);
	assert_int_equal(scratch_count(c), count);
	/* shards, index, two configs, the tokenizer */
	assert_int_equal(count, r.shards + 4);
	for (uint32_t i = 0; i < count; i++)
		assert_same_file(b, c, names[i]);
	free(names);
	repack(a, d, &joined);
	repack(b, e, &joined);
	assert_same_file(d, e, "model.safetensors");
}

/* ---- dense ---- */

static void assert_decoded(const char *from, const char *to, enum dtype type)
{
	struct model *a, *b;
	struct err err;
	uint8_t want[96 * 4];
	float row[96];

	must(model_open(from, 0, &a, &err), &err);
	must(model_open(to, 0, &b, &err), &err);
	for (uint32_t i = 0; i < a->module_count; i++) {
		const struct qf_module *m = &a->module[i];
		const struct qf_module *dense = model_module(b, m->name);
		const struct tensor *t;
		struct ql ql;

		assert_non_null(dense);
		t = qf_part(dense, "weight");
		assert_non_null(t);
		if (!qf_part(m, "qweight"))
			continue;
		assert_null(qf_part(dense, "qweight"));
		assert_null(qf_part(dense, "g_idx"));
		assert_int_equal(t->type, type);
		must(survey_read(a, m, &ql, &err), &err);
		assert_true(tensor_is_shape(t, 2, ql.spec.out, ql.spec.in));
		for (uint32_t n = 0; n < ql.spec.out; n++) {
			size_t bytes = ql.spec.in *
				       (tensor_dtype_bits(type) / 8);

			ql_dequant_row(&ql, n, row);
			tensor_store_f32(row, ql.spec.in, type, want);
			assert_memory_equal((const uint8_t *)t->data +
						    n * bytes, want, bytes);
		}
		ql_release(&ql);
	}
	assert_int_equal(b->quant.source, CONFIG_NONE);
	assert_null(b->quantize);
	model_close(a);
	model_close(b);
}

static void test_dense(void **state)
{
	static const enum dtype types[] = { DT_F16, DT_BF16, DT_F32 };
	static const char *const words[] = { "float16", "bfloat16",
					     "float32" };
	struct scratch *s = *state;
	char a[96], out[96];

	snprintf(a, sizeof(a), "%s/a", s->dir);
	make_model(a, &qf_gptq, 1);
	for (int i = 0; i < 3; i++) {
		struct options opt = { .type = types[i] };
		struct repack_report r;
		struct model *m;
		struct err err;

		snprintf(out, sizeof(out), "%s/out%d", s->dir, i);
		r = repack(a, out, &opt);
		assert_int_equal(r.layers, 2);
		assert_int_equal(r.copied, 4);
		assert_true(r.proven > 0);
		assert_decoded(a, out, types[i]);
		must(model_open(out, 0, &m, &err), &err);
		assert_string_equal(json_text(json_find(m->config,
							"torch_dtype")),
				    words[i]);
		model_close(m);
	}
}

/* A dense model passes through, in other shards. */
static void test_dense_to_dense(void **state)
{
	struct scratch *s = *state;
	struct options cut = { .shard_size = 3u << 20 }, whole = { .to = NULL };
	char a[96], b[96];
	struct repack_report r;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	r = repack(TINY, a, &cut);
	assert_int_equal(r.layers, 0);
	assert_true(r.shards > 2);
	assert_true(r.proven > 0);
	repack(a, b, &whole);
	assert_same_file(TINY, b, "model.safetensors");
	assert_same_file(TINY, b, "tokenizer.json");
}

/* 65504 * 15 has no f16; bf16 takes it. */
static void test_dense_overflow(void **state)
{
	struct scratch *s = *state;
	struct options f16 = { .type = DT_F16 }, bf16 = { .type = DT_BF16 };
	struct make m = { .count = 0 };
	char a[96], b[96];
	struct repack_report r;
	struct opened o;
	struct err err;
	struct ql ql;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	random_layer(&ql, &base, 1);
	ql.scale[7] = 65504;
	ql.zero[7] = 1;
	ql.code[2 * 96 + 40] = 15;
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq, NULL);
	ql_release(&ql);
	make_write(&m, a, ASYM_V1);
	open_job(&o, a, b, &f16);
	assert_int_equal(repack_run(&o.job, &r, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	assert_non_null(strstr(err.msg, "model.layers.0.mlp.up_proj: weight"));
	assert_non_null(strstr(err.msg, "at output 2, input"));
	close_job(&o);
	repack(a, b, &bf16);
}

/* ---- the proof ---- */

/* Flip a bit of one byte of a file. */
static void flip(const char *path, uint64_t at)
{
	FILE *f = fopen(path, "r+b");
	uint8_t byte;

	assert_non_null(f);
	assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
	assert_int_equal(fread(&byte, 1, 1, f), 1);
	byte ^= 1;
	fseek(f, (long)at, SEEK_SET);
	assert_int_equal(fwrite(&byte, 1, 1, f), 1);
	assert_int_equal(fclose(f), 0);
}

/* The model in b is a's in another layout; where one bit of a tensor changes,
 * its proof fails: in the first byte and, unless words are `ragged` and have
 * bits that no weight hangs on, in the middle and at the end. */
static void check_proof(const char *a, const char *b,
			const struct options *opt, bool ragged)
{
	struct repack_ways ways;
	struct model *m;
	struct opened o;
	struct err err;
	uint64_t weights, at[3];
	uint32_t count = 1;
	char path[128];

	snprintf(path, sizeof(path), "%s/model.safetensors", b);
	repack(a, b, opt);
	open_job(&o, a, b, opt);
	must(repack_ways_make(&o.job, &ways, &err), &err);
	must(repack_prove(&o.job, &ways, &weights, &err), &err);
	for (uint32_t i = 0; i < count; i++) {
		must(model_open(b, 0, &m, &err), &err);
		count = m->tensor_count;
		at[0] = m->tensor[i].offset;
		at[1] = at[0] + m->tensor[i].size / 2;
		at[2] = at[0] + m->tensor[i].size - 1;
		model_close(m);
		for (int k = 0; k < (ragged ? 1 : 3); k++) {
			flip(path, at[k]);
			assert_int_equal(repack_prove(&o.job, &ways, &weights,
						      &err), -1);
			assert_int_equal(err.code, ERR_CHECK);
			assert_non_null(strstr(err.msg, "proof: model."));
			flip(path, at[k]);
		}
	}
	must(repack_prove(&o.job, &ways, &weights, &err), &err);
	repack_ways_release(&ways);
	close_job(&o);
}

/* A symmetric layer that all layouts hold. */
static void make_plain(const char *dir)
{
	struct ql_spec spec = base;
	struct make m = { .count = 0 };
	struct ql ql;

	spec.out = 256;
	spec.in = 256;
	spec.groups = 2;
	spec.group_size = 128;
	spec.sym = 1;
	random_layer(&ql, &spec, 1);
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq, NULL);
	ql_release(&ql);
	make_f16(&m, "model.norm", "weight", 256, 0);
	make_write(&m, dir, "{\"quant_method\": \"gptq\", \"bits\": 4, "
		   "\"group_size\": 128, \"desc_act\": false, \"sym\": "
		   "true}");
}

static void test_the_proof_sees_every_tensor(void **state)
{
	static const struct qfmt *const all[] = { &qf_gptq_v2, &qf_gptq_p,
		&qf_marlin, &qf_awq, &qf_ct };
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq };
	char a[96], b[96];

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	make_model(a, &qf_gptq_v2, 1);
	check_proof(a, b, &v1, true);
	make_plain(a);
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		check_proof(a, b, &(struct options){ .to = all[i] }, false);
	check_proof(a, b, &(struct options){ .to = &qf_gptq, .bits = 8 },
		    false);
	check_proof(a, b, &(struct options){ .to = &qf_ct, .group_size = 32 },
		    false);
}

/* Layers of several strips, whole and ragged ones, along either axis. */
static void test_strips(void **state)
{
	static const struct {
		const struct qfmt *to;
		uint32_t in, out, gs;
		uint8_t bits;
	} all[] = {
		{ &qf_ct, 1188, 2112, 36, 3 }, { &qf_ct, 1188, 2100, 36, 4 },
		{ &qf_marlin, 1152, 2304, 128, 4 },
		{ &qf_awq, 1188, 2112, 36, 4 }, { &qf_gptq_p, 1184, 2112, 37,
		3 },
	};
	struct scratch *s = *state;
	char a[96], b[96], c[96], config[160];

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	snprintf(c, sizeof(c), "%s/c", s->dir);
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct ql_spec spec = { .out = all[i].out, .in = all[i].in,
			.group_size = all[i].gs, .bits = all[i].bits,
			.groups = all[i].in / all[i].gs,
			.sym = all[i].to == &qf_marlin,
			.scale_type = DT_F16 };
		struct make m = { .count = 0 };
		struct ql ql;

		random_layer(&ql, &spec, 1);
		make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq,
			   NULL);
		ql_release(&ql);
		snprintf(config, sizeof(config), "{\"quant_method\": \"gptq\", "
			 "\"bits\": %u, \"group_size\": %u, \"desc_act\": "
			 "false, \"sym\": %s}", spec.bits, spec.group_size,
			 spec.sym ? "true" : "false");
		make_write(&m, a, config);
		repack(a, b, &(struct options){ .to = all[i].to });
		repack(b, c, &(struct options){ .to = &qf_gptq });
		assert_same_file(a, c, "model.safetensors");
	}
}

static int stop_at_once(void *ctx, const char *what, uint64_t done,
			uint64_t total)
{
	uint32_t *calls = ctx;

	assert_non_null(what);
	assert_true(done <= total);
	return ++*calls == 2;
}

static void test_stopped_by_the_user(void **state)
{
	struct scratch *s = *state;
	uint32_t calls = 0;
	struct progress p = { stop_at_once, &calls };
	struct options v1 = { .to = &qf_gptq, .progress = &p, .threads = 1 };
	char a[96], b[96];
	struct repack_report r;
	struct opened o;
	struct err err;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	make_model(a, &qf_gptq_v2, 1);
	open_job(&o, a, b, &v1);
	assert_int_equal(repack_run(&o.job, &r, &err), -1);
	assert_int_equal(err.code, ERR_INTR);
	assert_int_equal(calls, 2);
	close_job(&o);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_v2_to_v1_and_back),
		CASE(test_same_layout_is_copied),
		CASE(test_golden_v2_to_v1),
		CASE(test_shards_and_threads),
		CASE(test_dense),
		CASE(test_dense_to_dense),
		CASE(test_dense_overflow),
		CASE(test_the_proof_sees_every_tensor),
		CASE(test_strips),
		CASE(test_stopped_by_the_user),
	};

	return cmocka_run_group_tests_name("repack", tests, NULL, NULL);
}
