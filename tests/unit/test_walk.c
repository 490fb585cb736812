/* The walk through the small model: a whole folder comes out, the same for any
 * number of threads, and what goes wrong on the way is said. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/model.h"
#include "../../quant/walk.h"
#include "../../runtime/block.h"
#include "../../runtime/score.h"
#include "scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define TINY "tests/models/tiny"
#define SAMPLES 8
#define SEQLEN 64

static const struct be_api *const api = &be_cpu;

struct fix {
	struct model *model;
	struct llama_config cfg;
	struct calib calib;
};

static int set_up(void **state)
{
	static struct fix f;
	const char *file = TINY "/calibration-ids.safetensors";
	struct calib_how how = { .file = &file, .files = 1, .vocab = 2048,
				 .samples = SAMPLES, .seqlen = SEQLEN };
	struct err err;

	if (model_open(TINY, 0, &f.model, &err) ||
	    llama_config_read(f.model->config, NULL, &f.cfg, &err) ||
	    gq_calib_load(&how, &f.calib, &err)) {
		print_error("%s\n", err.msg);
		return -1;
	}
	*state = &f;
	return 0;
}

static int tear_down(void **state)
{
	struct fix *f = *state;

	gq_calib_release(&f->calib);
	model_close(f->model);
	return 0;
}

static struct gq_job job(const struct fix *f, const struct gq_method *method)
{
	return (struct gq_job){
		.model = f->model,
		.cfg = &f->cfg,
		.api = api,
		.method = method,
		.params = { .bits = 4, .sym = 1, .group_size = 128,
			    .damp = 0.01, .damp_step = 0.01, .block = 128,
			    .scale_type = DT_F16 },
		.format = &qf_gptq,
		.calib = &f->calib,
		.true_sequential = true,
	};
}

static void make_dir(char dir[64])
{
	strcpy(dir, "/tmp/gptq-walk-XXXXXX");
	assert_non_null(mkdtemp(dir));
}

/* Run into a new directory; 0 or -1. */
static int walk(struct gq_job *j, uint32_t threads, char dir[64],
		struct err *err)
{
	struct be_open how = { .threads = threads, .device = -1 };
	int ret;

	make_dir(dir);
	j->out = dir;
	if (api->open(&how, &j->be, err))
		fail_msg("%s", err->msg);
	ret = gq_walk(j, err);
	api->close(j->be);
	return ret;
}

static void must_walk(struct gq_job *j, uint32_t threads, char dir[64])
{
	struct err err;

	if (walk(j, threads, dir, &err))
		fail_msg("%s", err.msg);
}

static void must_fail(struct gq_job *j, int code, const char *word)
{
	struct err err;
	char dir[64];

	assert_int_equal(walk(j, 2, dir, &err), -1);
	assert_int_equal(err.code, code);
	if (!strstr(err.msg, word))
		fail_msg("no \"%s\" in: %s", word, err.msg);
	scratch_clear(dir);
}

/* Both directories hold the same files with the same bytes. */
static void same_dirs(const char *a, const char *b)
{
	char **an, **bn;
	uint32_t n, m;
	struct err err;

	assert_int_equal(io_list(a, &an, &n, &err), 0);
	assert_int_equal(io_list(b, &bn, &m, &err), 0);
	assert_int_equal(n, m);
	for (uint32_t i = 0; i < n; i++) {
		char path[2][400], *data[2];
		size_t len[2];

		assert_string_equal(an[i], bn[i]);
		snprintf(path[0], sizeof(path[0]), "%s/%s", a, an[i]);
		snprintf(path[1], sizeof(path[1]), "%s/%s", b, bn[i]);
		for (int k = 0; k < 2; k++)
			assert_int_equal(io_read_file(path[k], 1u << 30,
						      &data[k], &len[k],
						      &err), 0);
		assert_int_equal(len[0], len[1]);
		if (memcmp(data[0], data[1], len[0]))
			fail_msg("%s differs", an[i]);
		free(data[0]);
		free(data[1]);
	}
	free(an);
	free(bn);
}

static struct model *reopen(const char *dir)
{
	struct model *m;
	struct err err;

	if (model_open(dir, 0, &m, &err))
		fail_msg("%s", err.msg);
	return m;
}

static struct ql read_layer(const struct model *m, const char *name)
{
	struct qf_hint hint;
	struct qf_layer l = { .module = model_module(m, name),
			      .hint = &hint };
	const struct qfmt *format;
	struct ql ql;
	struct err err;
	bool skip;

	assert_non_null(l.module);
	assert_int_equal(model_hint(m, name, &hint, &skip, &err), 0);
	format = qf_recognise(l.module, &hint);
	assert_non_null(format);
	if (format->read(&l, &ql, &err))
		fail_msg("%s: %s", name, err.msg);
	assert_int_equal(l.odd, 0);
	return ql;
}

/* Every tensor that is no quantized linear's is copied byte by byte. */
static uint32_t check_copies(const struct model *from, const struct model *to)
{
	uint32_t copies = 0;

	for (uint32_t i = 0; i < from->tensor_count; i++) {
		const struct tensor *a = &from->tensor[i];
		const struct tensor *b = model_find(to, a->name);

		if (!b)
			continue;
		copies++;
		assert_int_equal(a->type, b->type);
		assert_int_equal(a->size, b->size);
		assert_memory_equal(a->data, b->data, a->size);
	}
	return copies;
}

static void test_folder_is_whole(void **state)
{
	static const char *const files[] = {
		"config.json", "quantize_config.json", "tokenizer.json",
		"tokenizer.model", "tokenizer_config.json",
		"special_tokens_map.json", "generation_config.json",
		"model.safetensors.index.json",
	};
	const struct fix *f = *state;
	struct gq_job j = job(f, &gq_rtn);
	struct model *m;
	char dir[64], path[128];

	j.calib = NULL; /* rtn looks at no activations */
	j.shard_size = 1000000;
	must_walk(&j, 2, dir);
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
		if (!io_is_file(path))
			fail_msg("%s is missing", path);
	}
	m = reopen(dir);
	assert_true(m->file_count > 2);
	assert_int_equal(m->quant.bits, 4);
	assert_int_equal(m->quant.group_size, 128);
	assert_int_equal(m->quant.sym, 1);
	assert_int_equal(m->quant.desc_act, 0);
	assert_false(m->quant.disagree);
	/* two norms a block, embedding, last norm, head */
	assert_int_equal(check_copies(f->model, m), 2 * f->cfg.layers + 3);
	assert_int_equal(m->odd, 0);
	model_close(m);
	scratch_clear(dir);
}

/* What the folder holds is what the method makes of each weight. */
static void test_layers_are_the_methods(void **state)
{
	const struct fix *f = *state;
	struct gq_job j = job(f, &gq_rtn);
	struct model *m;
	char dir[64], name[LLAMA_NAME];
	struct err err;

	j.params.sym = 0;
	j.params.group_size = 32;
	must_walk(&j, 2, dir);
	m = reopen(dir);
	for (uint32_t i = 0; i < f->cfg.layers * LLAMA_LINEARS; i++) {
		struct be_open how = { .threads = 2, .device = -1 };
		struct rt_dev d = { .api = api };
		struct gq_task t = { .dev = &d, .params = &j.params };
		struct gq_report report;
		struct ql_diff diff;
		struct ql a, b;
		float *w;

		j.params.zero_min = 1;
		llama_linear_name(i / LLAMA_LINEARS,
				  (enum llama_linear)(i % LLAMA_LINEARS),
				  name);
		llama_linear_shape(&f->cfg,
				   (enum llama_linear)(i % LLAMA_LINEARS),
				   &t.in, &t.out);
		assert_int_equal(rt_weights(f->model, name, t.in, t.out, &w,
					    &err), 0);
		t.w = w;
		assert_int_equal(api->open(&how, &d.be, &err), 0);
		assert_int_equal(gq_rtn.solve(&t, &a, &report, &err), 0);
		b = read_layer(m, name);
		assert_int_equal(ql_compare(&a, &b, &diff, &err), 0);
		assert_int_equal(diff.unequal, 0);
		assert_true(report.rel_error > 0.01 && report.rel_error < 0.15);
		ql_release(&a);
		ql_release(&b);
		api->close(d.be);
		free(w);
	}
	model_close(m);
	scratch_clear(dir);
}

struct seen {
	uint32_t count;
	double loss;
	char last[LLAMA_NAME];
};

static void on_layer(void *ctx, const struct gq_layer_report *r)
{
	struct seen *s = ctx;

	s->count++;
	s->loss += r->r.loss;
	assert_true(r->r.loss > 0 && isfinite(r->r.loss));
	assert_true(r->r.rel_error > 0 && r->r.rel_error < 1);
	assert_true(r->r.damp >= 0.01);
	strcpy(s->last, r->name);
}

static void test_threads_do_not_matter(void **state)
{
	const struct gq_method *const method[] = { &gq_gptq, &gq_gptaq };
	const struct fix *f = *state;

	for (int i = 0; i < 2; i++) {
		struct gq_job j = job(f, method[i]);
		struct seen seen = { 0 };
		char one[64], two[64];

		j.params.desc_act = 1;
		j.done = on_layer;
		j.ctx = &seen;
		must_walk(&j, 1, one);
		assert_int_equal(seen.count, f->cfg.layers * LLAMA_LINEARS);
		assert_string_equal(seen.last, "model.layers.5.mlp.down_proj");
		must_walk(&j, 2, two);
		same_dirs(one, two);
		scratch_clear(one);
		scratch_clear(two);
	}
}

/* Activations in a scratch file are the same, and leave nothing behind. */
static void test_scratch_does_not_matter(void **state)
{
	const struct fix *f = *state;
	char where[64], dir[2][64];

	make_dir(where);
	for (int way = 0; way < 3; way++) {
		for (int i = 0; i < 2; i++) {
			struct gq_job j = job(f, way == 2 ? &gq_gptaq :
							    &gq_gptq);

			j.true_sequential = way > 0;
			j.lm_head = true;
			j.scratch = i ? where : NULL;
			must_walk(&j, 2, dir[i]);
		}
		same_dirs(dir[0], dir[1]);
		scratch_clear(dir[0]);
		scratch_clear(dir[1]);
	}
	assert_int_equal(rmdir(where), 0);
}

static void test_no_room_for_scratch(void **state)
{
	struct gq_job j = job(*state, &gq_gptq);

	j.scratch = "/nowhere/at/all";
	must_fail(&j, ERR_OUTPUT, "scratch file for activations: "
		  "/nowhere/at/all: cannot create");
}

/* ---- a block in pieces ---- */

struct piece {
	const struct rt_dev *d;
	enum llama_slot end;
	struct be_mat input; /* of O and DOWN, kept */
	uint32_t *count;
};

static int end_piece(void *ctx, enum llama_slot slot, const struct be_mat *x,
		     struct err *err)
{
	struct piece *p = ctx;

	if (slot != p->end)
		return 0;
	if (slot == LLAMA_SLOT_O || slot == LLAMA_SLOT_DOWN) {
		p->input.cols = x->cols;
		assert_int_equal(p->d->api->embed(p->d->be, x, p->count,
						  &p->input, err), 0);
	}
	return 1;
}

/* The walk runs a block piece by piece; that must be the same as in one go. */
static void test_block_in_pieces(void **state)
{
	static const enum llama_slot from[] = {
		LLAMA_SLOT_QKV, LLAMA_SLOT_QKV, LLAMA_SLOT_O,
		LLAMA_SLOT_GATE_UP, LLAMA_SLOT_DOWN,
	};
	const struct fix *f = *state;
	const struct llama_config *c = &f->cfg;
	struct be_open how = { .threads = 2, .device = -1 };
	struct rt_dev d = { .api = api };
	struct rt_block block;
	struct rt_rope rope;
	struct rt_work work;
	struct kv kv;
	const struct kv_shape cache = { .layers = 1, .sequences = 1,
					.capacity = SEQLEN,
					.kv_heads = c->kv_heads,
					.head_dim = c->head_dim };
	struct be_mat table, x[2];
	uint32_t count[SEQLEN];
	struct piece piece = { .d = &d, .count = count };
	struct rt_tap tap = { end_piece, &piece };
	struct rt_pass pass = { .dev = &d, .cfg = c, .rope = &rope,
				.work = &work, .kv = &kv };
	struct err err;

	assert_int_equal(api->open(&how, &d.be, &err), 0);
	assert_int_equal(rt_block_load(&block, &d, f->model, c, 1, &err), 0);
	assert_int_equal(rt_rope_init(&rope, &d, c, SEQLEN, &err), 0);
	assert_int_equal(rt_work_init(&work, &d, c, SEQLEN, &err), 0);
	assert_int_equal(kv_init(&kv, &d, &cache, &err), 0);
	assert_int_equal(rt_tensor_load(&d, f->model, LLAMA_EMBED, c->vocab,
					c->hidden, &table, &err), 0);
	assert_int_equal(be_mat_new(api, d.be, SEQLEN, c->inter, DT_F32,
				    &piece.input, &err), 0);
	for (uint32_t i = 0; i < SEQLEN; i++)
		count[i] = i;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(be_mat_new(api, d.be, SEQLEN, c->hidden,
					    DT_F32, &x[i], &err), 0);
		assert_int_equal(api->embed(d.be, &table, f->calib.id, &x[i],
					    &err), 0);
	}
	assert_int_equal(rt_block_run(&block, &pass, &x[0], &err), 0);
	pass.tap = &tap;
	pass.input = &piece.input;
	for (int i = 0; i < 5; i++) {
		pass.from = from[i];
		piece.end = (enum llama_slot)i;
		assert_int_equal(rt_block_run(&block, &pass, &x[1], &err), 0);
	}
	assert_memory_equal(x[0].p, x[1].p,
			    (size_t)SEQLEN * c->hidden * sizeof(float));
	be_mat_free(api, d.be, &x[0]);
	be_mat_free(api, d.be, &x[1]);
	be_mat_free(api, d.be, &piece.input);
	be_mat_free(api, d.be, &table);
	kv_release(&kv, &d);
	rt_work_release(&work, &d);
	rt_rope_release(&rope, &d);
	rt_block_release(&block, &d);
	api->close(d.be);
}

/* Later slots see the error of earlier ones only when true sequential: the
 * first slot of the first block is the same in both, the last is not. */
static void test_order_of_slots(void **state)
{
	const struct fix *f = *state;
	struct gq_job j = job(f, &gq_gptq);
	char dir[2][64];
	struct model *m[2];
	struct ql ql[2];
	struct ql_diff diff;
	struct err err;

	for (int i = 0; i < 2; i++) {
		j.true_sequential = i;
		must_walk(&j, 2, dir[i]);
		m[i] = reopen(dir[i]);
	}
	for (int which = 0; which < LLAMA_LINEARS; which++) {
		char name[LLAMA_NAME];

		llama_linear_name(0, (enum llama_linear)which, name);
		for (int i = 0; i < 2; i++)
			ql[i] = read_layer(m[i], name);
		assert_int_equal(ql_compare(&ql[0], &ql[1], &diff, &err), 0);
		if (which <= LLAMA_V)
			assert_int_equal(diff.unequal, 0);
		else
			assert_int_not_equal(diff.unequal, 0);
		ql_release(&ql[0]);
		ql_release(&ql[1]);
	}
	for (int i = 0; i < 2; i++) {
		model_close(m[i]);
		scratch_clear(dir[i]);
	}
}

/* Perplexity of the model in `dir` on windows that were not calibrated with. */
static double perplexity(const char *dir, const struct calib *text)
{
	struct be_open how = { .threads = 2, .device = -1 };
	struct model *m = reopen(dir);
	struct llm_open lo = { .dev = { .api = api }, .context = 512 };
	struct score_ppl p;
	struct llm *l = NULL;
	struct err err;

	if (api->open(&how, &lo.dev.be, &err) || llm_open(m, &lo, &l, &err) ||
	    rt_score_ppl(l, text->id + 124 * 512, 4 * 512, 512, NULL, &p,
			 &err))
		fail_msg("%s", err.msg);
	llm_close(l);
	api->close(lo.dev.be);
	model_close(m);
	return p.value;
}

/* Error feedback through the right Hessians wins back part of what rounding
 * to 3 bits loses, and looking at the full model some more. */
static void test_feedback_pays(void **state)
{
	const struct gq_method *const method[] = { &gq_rtn, &gq_gptq,
						   &gq_gptaq };
	const struct fix *f = *state;
	const char *file = TINY "/calibration-ids.safetensors";
	struct calib_how how = { .file = &file, .files = 1, .vocab = 2048,
				 .samples = 128, .seqlen = 512 };
	struct calib text;
	struct err err;
	double dense, ppl[3];

	assert_int_equal(gq_calib_load(&how, &text, &err), 0);
	dense = perplexity(TINY, &text);
	text.samples = 16;
	for (int i = 0; i < 3; i++) {
		struct gq_job j = job(f, method[i]);
		char dir[64];

		j.params.bits = 3;
		j.calib = &text;
		must_walk(&j, 2, dir);
		ppl[i] = perplexity(dir, &text);
		scratch_clear(dir);
	}
	print_message("  dense %.3f, rtn %.3f, gptq %.3f, gptaq %.3f\n",
		      dense, ppl[0], ppl[1], ppl[2]);
	assert_true(dense < ppl[2] && ppl[2] < ppl[1]);
	assert_true(ppl[1] - dense < 0.8 * (ppl[0] - dense));
	gq_calib_release(&text);
}

/* Asymmetric 2-bit groups in the layout that stores zero - 1: no group ends in
 * a zero point that cannot be written. */
static void test_narrow_zero_points(void **state)
{
	const struct fix *f = *state;
	struct gq_job j = job(f, &gq_gptq);
	struct model *m;
	struct ql ql;
	char dir[64];

	j.params.sym = 0;
	j.params.bits = 2;
	j.params.group_size = 16;
	j.params.desc_act = 1;
	must_walk(&j, 2, dir);
	m = reopen(dir);
	ql = read_layer(m, "model.layers.3.mlp.down_proj");
	assert_int_equal(ql.spec.bits, 2);
	assert_int_equal(ql.spec.act_order, 1);
	ql_release(&ql);
	model_close(m);
	scratch_clear(dir);
}

static void test_quantized_source_is_refused(void **state)
{
	const struct fix *f = *state;
	struct gq_job j = job(f, &gq_rtn);
	struct model *m;
	char dir[64];

	must_walk(&j, 2, dir);
	m = reopen(dir);
	j.model = m;
	must_fail(&j, ERR_UNSUP, "already quantized");
	model_close(m);
	scratch_clear(dir);
}

static void test_calibration_is_checked(void **state)
{
	const struct fix *f = *state;
	struct gq_job j = job(f, &gq_gptq);
	struct calib c = f->calib;
	uint32_t id[4] = { 1, 2, 2048, 3 };

	j.calib = NULL;
	must_fail(&j, ERR_USAGE, "calibration");
	c = (struct calib){ .samples = 2, .seqlen = 2, .id = id };
	j.calib = &c;
	must_fail(&j, ERR_INPUT, "2048");
}

struct stop {
	uint64_t calls, at;
};

static int stop_at(void *ctx, const char *what, uint64_t done, uint64_t total)
{
	struct stop *s = ctx;

	(void)what;
	assert_true(done <= total);
	return ++s->calls == s->at;
}

static void test_interruption(void **state)
{
	static const uint64_t at[] = { 1, 16, 32, 60, 100, 220 };
	const struct fix *f = *state;
	struct gq_job j = job(f, &gq_gptq);

	for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		struct stop s = { 0, at[i] };
		struct progress p = { stop_at, &s };

		j.progress = &p;
		j.true_sequential = i % 2;
		must_fail(&j, ERR_INTR, "interrupted");
		assert_int_equal(s.calls, at[i]);
	}
}

/* A copy of the model whose tensor `name` has an infinity at element 7. */
static void broken_copy(const struct fix *f, const char *name, char dir[64])
{
	const struct tensor *t = model_find(f->model, name);
	uint8_t inf[2];
	char path[128];
	struct err err;
	FILE *out;

	make_dir(dir);
	assert_non_null(t);
	snprintf(path, sizeof(path), "%s/config.json", dir);
	assert_int_equal(io_copy_file(TINY "/config.json", path, &err), 0);
	snprintf(path, sizeof(path), "%s/model.safetensors", dir);
	assert_int_equal(io_copy_file(TINY "/model.safetensors", path, &err),
			 0);
	out = fopen(path, "r+b");
	assert_non_null(out);
	half_put16(inf, 0x7c00);
	assert_int_equal(fseek(out, (long)t->offset + 14, SEEK_SET), 0);
	assert_int_equal(fwrite(inf, 1, 2, out), 2);
	assert_int_equal(fclose(out), 0);
}

static void test_infinite_numbers_are_located(void **state)
{
	static const struct {
		const char *tensor, *word;
		int code;
	} cases[] = {
		/* seen in the slot it runs into first */
		{ "model.layers.1.input_layernorm.weight",
		  "model.layers.1.self_attn.q_proj: the calibration inputs of "
		  "feature 7", ERR_CHECK },
		{ "model.layers.0.post_attention_layernorm.weight",
		  "model.layers.0.mlp.gate_proj: the calibration", ERR_CHECK },
		{ "model.layers.0.self_attn.k_proj.weight",
		  "model.layers.0.self_attn.k_proj: weight [0, 7]", ERR_INPUT },
	};
	const struct fix *f = *state;

	for (int i = 0; i < 3; i++) {
		struct gq_job j = job(f, &gq_gptq);
		struct model *m;
		char dir[64];

		broken_copy(f, cases[i].tensor, dir);
		m = reopen(dir);
		j.model = m;
		must_fail(&j, cases[i].code, cases[i].word);
		model_close(m);
		scratch_clear(dir);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_folder_is_whole),
		cmocka_unit_test(test_layers_are_the_methods),
		cmocka_unit_test(test_threads_do_not_matter),
		cmocka_unit_test(test_scratch_does_not_matter),
		cmocka_unit_test(test_no_room_for_scratch),
		cmocka_unit_test(test_block_in_pieces),
		cmocka_unit_test(test_order_of_slots),
		cmocka_unit_test(test_feedback_pays),
		cmocka_unit_test(test_narrow_zero_points),
		cmocka_unit_test(test_quantized_source_is_refused),
		cmocka_unit_test(test_calibration_is_checked),
		cmocka_unit_test(test_interruption),
		cmocka_unit_test(test_infinite_numbers_are_located),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
