/* Repacking whole checkpoints: what comes out, what is refused, what is mended,
 * and that the proof would see a wrong bit. */
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/json.h"
#include "../../libfmt/repack_impl.h"
#include "ckpt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static uint64_t seed = 1;

static uint32_t rnd(uint32_t below)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 33) % below;
}

static void must(int ret, const struct err *err)
{
	if (ret)
		fail_msg("%s", err->msg);
}

/* ---- checkpoints of a few layers ---- */

#define MAKE_MAX 48

struct make {
	struct ckpt_item item[MAKE_MAX];
	char name[MAKE_MAX][96];
	void *data[MAKE_MAX];
	uint32_t count;
};

static struct ckpt_item *make_item(struct make *m, const char *module,
				   const char *suffix, size_t bytes)
{
	uint32_t i = m->count++;

	assert_true(i < MAKE_MAX);
	snprintf(m->name[i], sizeof(m->name[i]), "%s.%s", module, suffix);
	m->data[i] = calloc(1, bytes);
	m->item[i].name = m->name[i];
	m->item[i].data = m->data[i];
	return &m->item[i];
}

static void make_f16(struct make *m, const char *module, const char *suffix,
		     uint64_t d0, uint64_t d1)
{
	uint64_t n = d0 * (d1 ? d1 : 1);
	struct ckpt_item *it = make_item(m, module, suffix, 2 * n);
	uint8_t *p = m->data[m->count - 1];

	it->type = DT_F16;
	it->rank = d1 ? 2 : 1;
	it->dim[0] = d0;
	it->dim[1] = d1;
	for (uint64_t i = 0; i < n; i++)
		half_put16(p + 2 * i, (uint16_t)(rnd(0x7bff) | rnd(2) << 15));
}

/* All parts of the layer but `without` (a suffix, or NULL). */
static void make_layer(struct make *m, const char *module, const struct ql *ql,
		       const struct qfmt *f, const char *without)
{
	void *part[QF_PARTS], *dropped = NULL;
	struct qf_plan plan;
	struct err err;

	must(f->plan(&ql->spec, &plan, &err), &err);
	for (uint32_t i = 0; i < plan.count; i++) {
		struct ckpt_item *it;

		if (without && !strcmp(plan.part[i].suffix, without)) {
			part[i] = dropped = malloc(plan.part[i].bytes);
			continue;
		}
		it = make_item(m, module, plan.part[i].suffix,
			       plan.part[i].bytes);
		it->type = plan.part[i].type;
		it->rank = plan.part[i].rank;
		it->dim[0] = plan.part[i].dim[0];
		it->dim[1] = plan.part[i].dim[1];
		part[i] = m->data[m->count - 1];
	}
	must(f->write(ql, part, &err), &err);
	free(dropped);
}

static void make_write(struct make *m, const char *dir, const char *quant)
{
	char path[256], text[1024];
	struct err err;

	mkdir(dir, 0777);
	snprintf(path, sizeof(path), "%s/model.safetensors", dir);
	must(ckpt_file(path, m->item, m->count, &err), &err);
	snprintf(path, sizeof(path), "%s/config.json", dir);
	snprintf(text, sizeof(text), "{\"model_type\": \"x\"%s%s}",
		 quant ? ", \"quantization_config\": " : "",
		 quant ? quant : "");
	must(io_write_file(path, text, strlen(text), &err), &err);
	snprintf(path, sizeof(path), "%s/tokenizer.json", dir);
	must(io_write_file(path, "{}\n", 3, &err), &err);
	for (uint32_t i = 0; i < m->count; i++)
		free(m->data[i]);
	m->count = 0;
}

static const struct ql_spec base = { .out = 64, .in = 96, .groups = 3,
	.group_size = 32, .bits = 4, .zero_kind = QL_POINT,
	.scale_type = DT_F16 };

/* Zeros from `lo`; all the middle one when spec->sym. */
static void random_layer(struct ql *ql, const struct ql_spec *spec,
			 uint32_t lo)
{
	uint32_t max = (1u << spec->bits) - 1;
	struct err err;

	must(ql_init(ql, spec, &err), &err);
	for (size_t i = 0; i < (size_t)spec->out * spec->in; i++)
		ql->code[i] = (uint8_t)rnd(max + 1);
	for (size_t i = 0; i < (size_t)spec->out * spec->groups; i++) {
		ql->scale[i] = half_to_f32((uint16_t)(0x1000 + rnd(0x2000)));
		ql->zero[i] = spec->sym ? (float)(max / 2 + 1) :
					  (float)(lo + rnd(max + 1 - lo));
	}
	for (uint32_t k = spec->in; spec->act_order && k-- > 1;) {
		uint32_t j = rnd(k + 1), t = ql->group_of[k];

		ql->group_of[k] = ql->group_of[j];
		ql->group_of[j] = t;
	}
	ql_observe(ql);
}

#define ASYM "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 32, " \
	"\"desc_act\": true, \"sym\": false, \"damp_percent\": 0.05, " \
	"\"checkpoint_format\": "
#define ASYM_V2 ASYM "\"gptq_v2\"}"
#define ASYM_V1 ASYM "\"gptq\"}"

/* Two layers (one with act-order and a bias, one ragged), an embedding and a
 * norm; zeros from `lo`. */
static void make_model(const char *dir, const struct qfmt *f, uint32_t lo)
{
	struct ql_spec spec = base;
	struct make m = { .count = 0 };
	struct ql ql;

	make_f16(&m, "model.embed_tokens", "weight", 40, 96);
	spec.act_order = 1;
	random_layer(&ql, &spec, lo);
	make_layer(&m, "model.layers.0.self_attn.q_proj", &ql, f, NULL);
	make_f16(&m, "model.layers.0.self_attn.q_proj", "bias", 64, 0);
	ql_release(&ql);
	spec.act_order = 0;
	spec.in = 84;
	spec.out = 40;
	random_layer(&ql, &spec, lo);
	make_layer(&m, "model.layers.10.mlp.up_proj", &ql, f, NULL);
	ql_release(&ql);
	make_f16(&m, "model.layers.2.mlp.up_proj", "weight", 20, 30);
	make_f16(&m, "model.norm", "weight", 96, 0);
	make_write(&m, dir, f == &qf_gptq ? ASYM_V1 : ASYM_V2);
}

/* ---- running ---- */

struct options {
	const struct qfmt *to;
	enum dtype type;
	uint64_t shard_size;
	uint32_t threads;
	bool lossy;
	const struct progress *progress;
};

struct opened {
	struct model *model;
	struct survey survey;
	struct repack_job job;
};

static void open_job(struct opened *o, const char *from, const char *out,
		     const struct options *opt)
{
	struct err err;

	mkdir(out, 0777);
	must(model_open(from, MODEL_LENIENT, &o->model, &err), &err);
	must(survey_model(o->model, &o->survey, &err), &err);
	o->job = (struct repack_job) {
		.model = o->model, .survey = &o->survey, .to = opt->to,
		.dense_type = opt->type ? opt->type : DT_F16,
		.shard_size = opt->shard_size, .out = out, .prove = true,
		.lossy = opt->lossy, .progress = opt->progress,
		.threads = opt->threads ? opt->threads : 2
	};
}

static void close_job(struct opened *o)
{
	survey_release(&o->survey);
	model_close(o->model);
}

static struct repack_report repack(const char *from, const char *out,
				   const struct options *opt)
{
	struct repack_report r;
	struct repack_step *steps;
	struct opened o;
	struct err err;
	uint32_t refused;

	open_job(&o, from, out, opt);
	must(repack_plan(&o.job, &steps, &refused, &err), &err);
	for (uint32_t i = 0; i < o.survey.count; i++)
		if (steps[i].refused)
			fail_msg("%s: %s", steps[i].layer->module->name,
				 steps[i].note);
	free(steps);
	must(repack_run(&o.job, &r, &err), &err);
	close_job(&o);
	return r;
}

/* The plan refuses the layer `name` with a note that has `text` in it, and the
 * run refuses too. */
static void refused(const char *from, const char *out,
		    const struct options *opt, const char *name,
		    const char *text)
{
	struct repack_report r;
	struct repack_step *steps;
	struct opened o;
	struct err err;
	uint32_t count, hits = 0;

	open_job(&o, from, out, opt);
	must(repack_plan(&o.job, &steps, &count, &err), &err);
	assert_int_equal(count, 1);
	for (uint32_t i = 0; i < o.survey.count; i++) {
		if (!steps[i].refused)
			continue;
		hits++;
		assert_string_equal(steps[i].layer->module->name, name);
		if (!strstr(steps[i].note, text))
			fail_msg("\"%s\" does not say \"%s\"", steps[i].note,
				 text);
	}
	assert_int_equal(hits, 1);
	free(steps);
	assert_int_equal(repack_run(&o.job, &r, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	assert_non_null(strstr(err.msg, name));
	assert_non_null(strstr(err.msg, text));
	close_job(&o);
}

static void assert_same_file(const char *a, const char *b, const char *name)
{
	char pa[256], pb[256], *x, *y;
	struct err err;
	size_t n, m;

	snprintf(pa, sizeof(pa), "%s/%s", a, name);
	snprintf(pb, sizeof(pb), "%s/%s", b, name);
	must(io_read_file(pa, 1u << 26, &x, &n, &err), &err);
	must(io_read_file(pb, 1u << 26, &y, &m, &err), &err);
	assert_int_equal(n, m);
	assert_memory_equal(x, y, n);
	free(x);
	free(y);
}

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
	assert_null(m->quant.dynamic);
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
		must(repack_layer_read(a, m, &ql, &err), &err);
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

/* ---- refusals ---- */

static void test_a_zero_that_does_not_fit(void **state)
{
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq };
	struct make m = { .count = 0 };
	char a[96], b[96], c[96];
	struct ql ql;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	snprintf(c, sizeof(c), "%s/c", s->dir);
	random_layer(&ql, &base, 1);
	ql.zero[4] = 0;
	memset(ql.code + 96, 3, 96);
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq_v2, NULL);
	make_write(&m, a, ASYM_V2);
	repack(a, b, &v1); /* no code 15 in the way: moved up */
	ql.code[96 + 40] = 15;
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq_v2, NULL);
	make_write(&m, a, ASYM_V2);
	refused(a, c, &v1, "model.layers.0.mlp.up_proj",
		"output 1, group 1: gptq cannot store a zero of 0");
	ql_release(&ql);
}

static void test_a_doubtful_layer(void **state)
{
	static const char quant[] = "{\"bits\": 4, \"group_size\": 32, "
		"\"desc_act\": false, \"sym\": true, "
		"\"checkpoint_format\": \"gptq\"}";
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq }, v2 = { .to = &qf_gptq_v2 };
	struct make m = { .count = 0 };
	char a[96], b[96], c[96], d[96];
	struct repack_report r;
	struct ql ql;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	snprintf(c, sizeof(c), "%s/c", s->dir);
	snprintf(d, sizeof(d), "%s/d", s->dir);
	random_layer(&ql, &base, 1); /* asymmetric, whatever the config says */
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq, NULL);
	make_write(&m, a, quant);
	ql_release(&ql);
	refused(a, b, &v2, "model.layers.0.mlp.up_proj",
		"which is right is not known");
	r = repack(a, c, &v1); /* a copy leaves it as it was */
	assert_int_equal(r.layers, 0);
	assert_same_file(a, c, "model.safetensors");
	v2.lossy = true;
	r = repack(a, d, &v2);
	assert_int_equal(r.layers, 1);
}

static void test_lost_zeros(void **state)
{
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq };
	struct options v2 = { .to = &qf_gptq_v2, .lossy = true };
	struct make m = { .count = 0 };
	char a[96], b[96], c[96];
	struct ql ql;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	snprintf(c, sizeof(c), "%s/c", s->dir);
	random_layer(&ql, &base, 1);
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq, NULL);
	half_put32((uint8_t *)m.data[1] + 4, 0xFFFFF777);
	make_write(&m, a, ASYM_V1);
	ql_release(&ql);
	refused(a, b, &v2, "model.layers.0.mlp.up_proj", "zeros were lost");
	repack(a, c, &v1);
	assert_same_file(a, c, "model.safetensors");
}

static void test_a_damaged_layer_is_an_input_error(void **state)
{
	struct scratch *s = *state;
	struct options v2 = { .to = &qf_gptq_v2 };
	struct make m = { .count = 0 };
	char a[96], b[96];
	struct repack_step *steps;
	struct opened o;
	struct err err;
	uint32_t count;
	struct ql ql;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	random_layer(&ql, &base, 1);
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq, "scales");
	make_write(&m, a, ASYM_V1);
	ql_release(&ql);
	open_job(&o, a, b, &v2);
	assert_int_equal(repack_plan(&o.job, &steps, &count, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	assert_string_equal(err.msg, "model.layers.0.mlp.up_proj.scales: "
				     "missing");
	assert_null(steps);
	close_job(&o);
}

/* ---- mending ---- */

/* In its own layout: what is missing is added, what is mislabelled is written
 * as the label says. */
static void test_mended_in_place(void **state)
{
	static const char quant[] = "{\"bits\": 4, \"group_size\": 128, "
		"\"sym\": true, \"quant_method\": \"gptq\"}";
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq };
	struct ql_spec spec = base;
	struct make m = { .count = 0 };
	char a[96], b[96];
	struct repack_report r;
	struct survey survey;
	struct model *out;
	struct err err;
	struct ql ql;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	spec.sym = 1;
	random_layer(&ql, &spec, 1);
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq, "g_idx");
	make_layer(&m, "model.layers.1.mlp.up_proj", &ql, &qf_gptq_v2, NULL);
	make_layer(&m, "model.layers.2.mlp.up_proj", &ql, &qf_gptq, "qzeros");
	make_layer(&m, "model.layers.3.mlp.up_proj", &ql, &qf_gptq, NULL);
	ql_release(&ql);
	make_write(&m, a, quant);
	r = repack(a, b, &v1);
	assert_int_equal(r.layers, 3);
	assert_int_equal(r.copied, 4);
	must(model_open(b, 0, &out, &err), &err);
	must(survey_model(out, &survey, &err), &err);
	assert_int_equal(survey.odd, 0);
	assert_string_equal(survey.format, "gptq");
	assert_int_equal(out->quant.group_size, 32);
	assert_int_equal(out->quant.sym, 1);
	survey_release(&survey);
	model_close(out);
}

/* 3-bit v1 by an old gptqmodel: written anew, and its name goes. */
static void test_swapped_constants_are_taken_back(void **state)
{
	static const char quant[] = "{\"bits\": 3, \"group_size\": 32, "
		"\"sym\": false, \"desc_act\": false, "
		"\"meta\": {\"quantizer\": [\"gptqmodel:1.9.0\"], "
		"\"uri\": \"u\"}}";
	static const uint32_t swapped[3] = { 0x24924924, 0x92492492,
					     0x49249249 };
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq };
	struct ql_spec spec = base;
	struct make m = { .count = 0 };
	char a[96], b[96];
	struct survey survey;
	struct model *x, *y;
	struct ql_diff d;
	struct ql was, is;
	struct err err;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	spec.bits = 3;
	random_layer(&was, &spec, 1);
	make_layer(&m, "model.layers.0.mlp.up_proj", &was, &qf_gptq_v2, NULL);
	for (uint32_t i = 0; i < 3 * 6; i++) {
		uint8_t *w = (uint8_t *)m.data[1] + 4 * i;

		half_put32(w, half_le32(w) - swapped[i % 3]);
	}
	make_write(&m, a, quant);
	repack(a, b, &v1);
	must(model_open(b, 0, &y, &err), &err);
	must(survey_model(y, &survey, &err), &err);
	assert_int_equal(survey.odd, 0);
	assert_false(y->quant.by_gptqmodel);
	assert_string_equal(y->quant.quantizer, CONFIG_QUANTIZER);
	assert_non_null(json_path(y->quantize, "meta.uri"));
	must(repack_layer_read(y, &y->module[0], &is, &err), &err);
	must(ql_compare(&was, &is, &d, &err), &err);
	assert_int_equal(d.unequal, 0);
	must(model_open(a, 0, &x, &err), &err);
	assert_true(x->quant.swap3);
	survey_release(&survey);
	ql_release(&was);
	ql_release(&is);
	model_close(x);
	model_close(y);
}

/* ---- mixed widths ---- */

static void make_mixed(const char *dir, const char *quant)
{
	struct ql_spec spec = base;
	struct make m = { .count = 0 };
	struct ql ql;

	random_layer(&ql, &spec, 1);
	make_layer(&m, "model.layers.0.mlp.up_proj", &ql, &qf_gptq_v2, NULL);
	ql_release(&ql);
	spec.bits = 8;
	spec.group_size = 96;
	spec.groups = 1;
	random_layer(&ql, &spec, 1);
	make_layer(&m, "model.layers.1.mlp.up_proj", &ql, &qf_gptq_v2, NULL);
	ql_release(&ql);
	make_f16(&m, "model.layers.2.mlp.up_proj", "weight", 20, 30);
	make_write(&m, dir, quant);
}

/* Rules that describe the tensors stay as they are. */
static void test_rules_that_hold_are_kept(void **state)
{
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq };
	char a[96], b[96];
	struct model *m;
	struct err err;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	make_mixed(a, ASYM "\"gptq_v2\", \"dynamic\": {"
		"\"-:.*layers\\\\.2\\\\.\": {}, \".*\\\\.1\\\\..*\": "
		"{\"bits\": 8, \"group_size\": -1}}}");
	repack(a, b, &v1);
	must(model_open(b, 0, &m, &err), &err);
	assert_int_equal(m->quant.bits, 4);
	assert_int_equal(json_count(m->quant.dynamic), 2);
	assert_non_null(json_find(m->quant.dynamic, ".*\\.1\\..*"));
	model_close(m);
}

/* Without rules, or with wrong ones, exact ones are made from the tensors. */
static void test_rules_are_made_from_the_tensors(void **state)
{
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq };
	char a[96], b[96];
	struct survey survey;
	const struct cJSON *rule;
	struct model *m;
	struct err err;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	make_mixed(a, ASYM_V2);
	repack(a, b, &v1);
	must(model_open(b, 0, &m, &err), &err);
	must(survey_model(m, &survey, &err), &err);
	assert_int_equal(survey.odd, 0);
	assert_int_equal(m->quant.bits, 4);
	assert_int_equal(json_count(m->quant.dynamic), 2);
	rule = json_first(m->quant.dynamic);
	assert_string_equal(json_key(rule),
			    "-:^model\\.layers\\.2\\.mlp\\.up_proj$");
	rule = json_find(m->quant.dynamic,
			 "+:^model\\.layers\\.1\\.mlp\\.up_proj$");
	assert_non_null(rule);
	survey_release(&survey);
	model_close(m);
}

/* ---- the proof ---- */

/* One bit of each written tensor, changed in the file, is found. */
static void test_the_proof_sees_every_tensor(void **state)
{
	struct scratch *s = *state;
	struct options v1 = { .to = &qf_gptq };
	char a[96], b[96], path[128];
	struct model *m;
	struct opened o;
	struct err err;
	uint64_t weights;
	uint32_t count;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	snprintf(path, sizeof(path), "%s/model.safetensors", b);
	make_model(a, &qf_gptq_v2, 1);
	repack(a, b, &v1);
	must(model_open(b, 0, &m, &err), &err);
	count = m->tensor_count;
	model_close(m);
	open_job(&o, a, b, &v1);
	must(repack_prove(&o.job, &weights, &err), &err);
	for (uint32_t i = 0; i < count; i++) {
		uint64_t at;
		uint8_t byte;
		FILE *f;

		must(model_open(b, 0, &m, &err), &err);
		at = m->tensor[i].offset;
		model_close(m);
		f = fopen(path, "r+b");
		assert_non_null(f);
		assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
		assert_int_equal(fread(&byte, 1, 1, f), 1);
		byte ^= 1;
		fseek(f, (long)at, SEEK_SET);
		assert_int_equal(fwrite(&byte, 1, 1, f), 1);
		fflush(f);
		assert_int_equal(repack_prove(&o.job, &weights, &err), -1);
		assert_int_equal(err.code, ERR_CHECK);
		assert_non_null(strstr(err.msg, "proof: model."));
		byte ^= 1;
		fseek(f, (long)at, SEEK_SET);
		assert_int_equal(fwrite(&byte, 1, 1, f), 1);
		fclose(f);
	}
	must(repack_prove(&o.job, &weights, &err), &err);
	close_job(&o);
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
		CASE(test_a_zero_that_does_not_fit),
		CASE(test_a_doubtful_layer),
		CASE(test_lost_zeros),
		CASE(test_a_damaged_layer_is_an_input_error),
		CASE(test_mended_in_place),
		CASE(test_swapped_constants_are_taken_back),
		CASE(test_rules_that_hold_are_kept),
		CASE(test_rules_are_made_from_the_tensors),
		CASE(test_the_proof_sees_every_tensor),
		CASE(test_stopped_by_the_user),
	};

	return cmocka_run_group_tests_name("repack", tests, NULL, NULL);
}
