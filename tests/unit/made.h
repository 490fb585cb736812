/* made.h - checkpoints of a few made-up layers, and repacking them. */
#ifndef TESTS_UNIT_MADE_H
#define TESTS_UNIT_MADE_H

#include "../../libfmt/repack_impl.h"
#include "ckpt.h"
#include "parts.h"

/* ---- checkpoints of a few layers ---- */

#define MAKE_MAX 256

struct make {
	struct ckpt_item item[MAKE_MAX];
	char name[MAKE_MAX][128];
	void *data[MAKE_MAX];
	uint32_t count;
};

static inline struct ckpt_item *make_item(struct make *m, const char *module,
					  const char *suffix,
					  size_t bytes)
{
	uint32_t i = m->count++;

	assert_true(i < MAKE_MAX);
	snprintf(m->name[i], sizeof(m->name[i]), "%s.%s", module, suffix);
	m->data[i] = calloc(1, bytes);
	m->item[i].name = m->name[i];
	m->item[i].data = m->data[i];
	return &m->item[i];
}

static inline void make_f16(struct make *m, const char *module,
			    const char *suffix, uint64_t d0, uint64_t d1)
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
static inline void make_layer(struct make *m, const char *module,
			      const struct ql *ql, const struct qfmt *f,
			      const char *without)
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

static inline void make_write(struct make *m, const char *dir,
			      const char *quant)
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

#define ASYM "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 32, " \
	"\"desc_act\": true, \"sym\": false, \"damp_percent\": 0.05, " \
	"\"checkpoint_format\": "
#define ASYM_V2 ASYM "\"gptq_v2\"}"
#define ASYM_V1 ASYM "\"gptq\"}"

/* Two layers (one with act-order and a bias, one ragged), an embedding and a
 * norm; zeros from `lo`. */
static inline void make_model(const char *dir, const struct qfmt *f,
			      uint32_t lo)
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
	enum repack_order order;
	uint32_t group_size, bits, pad_mlp;
	enum dtype scales;
};

struct opened {
	struct model *model;
	struct survey survey;
	struct repack_job job;
};

static inline void open_job(struct opened *o, const char *from,
			    const char *out, const struct options *opt)
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
		.order = opt->order, .group_size = opt->group_size,
		.bits = opt->bits, .pad_mlp = opt->pad_mlp,
		.scales = opt->scales,
		.threads = opt->threads ? opt->threads : 2
	};
}

static inline void close_job(struct opened *o)
{
	survey_release(&o->survey);
	model_close(o->model);
}

static inline struct repack_report repack(const char *from, const char *out,
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
static inline void refused(const char *from, const char *out,
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

static inline void assert_same_file(const char *a, const char *b,
				    const char *name)
{
	char pa[512], pb[512], *x, *y;
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

#endif
