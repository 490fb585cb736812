/* The quantizer on made-up models of every kind: grouped queries, heads that do
 * not add up to the hidden size, biases, q/k norms, tied heads, scaled rotary
 * embeddings, all float types.  What comes out opens, holds what was asked for,
 * and lost less than rounding would. */
#include "scratch.h"
#include "synth.h"

#include "../../libfmt/model.h"
#include "../../quant/walk.h"
#include "../../runtime/llm.h"

#define SAMPLES 24
#define SEQLEN 32

static struct err err;

static const struct synth shapes[] = {
	{ "LlamaForCausalLM", 64, 160, 2, 4, 2, 32, 96, 64, .tied = true,
	  .type = DT_BF16,
	  .more = ", \"rope_theta\": 500000.0, \"rope_scaling\": "
		  "{\"rope_type\": \"llama3\", \"factor\": 8.0, "
		  "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
		  "\"original_max_position_embeddings\": 32}" },
	{ "MistralForCausalLM", 64, 96, 2, 8, 1, 16, 64, 64,
	  .type = DT_F16, .more = "" },
	{ "Qwen2ForCausalLM", 96, 64, 2, 3, 3, 32, 64, 64, .qkv_bias = true,
	  .tied = true, .type = DT_F16, .more = "" },
	{ "Qwen3ForCausalLM", 64, 96, 2, 2, 2, 64, 64, 64, .qk_norm = true,
	  .type = DT_F32, .more = "" },
};

struct seen {
	uint32_t count;
	double out, rtn;
};

static void on_layer(void *ctx, const struct gq_layer_report *r)
{
	struct seen *s = ctx;

	s->count++;
	s->out += r->r.out_error;
	s->rtn += r->r.rtn_error;
}

/* Numbers that follow from nothing: every token may come after every other. */
static void fill(struct calib *c, uint32_t vocab)
{
	uint32_t x = 5;

	*c = (struct calib){ .samples = SAMPLES, .seqlen = SEQLEN };
	c->id = mem_alloc((size_t)SAMPLES * SEQLEN, sizeof(*c->id), &err);
	assert_non_null(c->id);
	for (uint32_t i = 0; i < SAMPLES * SEQLEN; i++)
		c->id[i] = synth_next(&x) % vocab;
}

/* The folder opens as a model that runs, each linear as it should be. */
static void look_at(const char *dir, const struct gq_job *j)
{
	struct be_open how = { .threads = 1, .device = -1 };
	struct llm_open lo = { .dev = { .api = &be_cpu }, .batch = 4,
			       .context = 8 };
	struct llama_config cfg;
	struct model *m;
	struct llm *l;

	if (be_cpu.open(&how, &lo.dev.be, &err) ||
	    model_open(dir, 0, &m, &err) ||
	    llama_config_read(m->config, NULL, &cfg, &err) ||
	    llm_open(m, &lo, &l, &err))
		fail_msg("%s", err.msg);
	assert_false(cfg.tied); /* the head has its own matrix now */
	for (uint32_t i = 0; i < j->cfg->layers * LLAMA_LINEARS; i++) {
		char name[LLAMA_NAME];
		struct qf_hint hint;
		bool skip;

		llama_linear_name(i / LLAMA_LINEARS,
				  (enum llama_linear)(i % LLAMA_LINEARS),
				  name);
		assert_int_equal(model_hint(m, name, &hint, &skip, &err), 0);
		assert_ptr_equal(qf_recognise(model_module(m, name), &hint),
				 &qf_gptq);
	}
	llm_close(l);
	model_close(m);
	be_cpu.close(lo.dev.be);
}

static void run(const struct synth *s, const struct gq_method *method)
{
	struct be_open how = { .threads = 2, .device = -1 };
	char from[64], to[64];
	struct llama_config cfg;
	struct seen seen = { 0 };
	struct calib calib;
	struct model *m;
	struct gq_job j;

	synth_make(s, from);
	strcpy(to, "/tmp/gptq-shapes-XXXXXX");
	assert_non_null(mkdtemp(to));
	fill(&calib, s->vocab);
	if (model_open(from, 0, &m, &err) ||
	    llama_config_read(m->config, NULL, &cfg, &err))
		fail_msg("%s", err.msg);
	j = (struct gq_job){
		.model = m, .cfg = &cfg, .api = &be_cpu, .method = method,
		.params = { .bits = 3, .sym = 1, .group_size = 32,
			    .damp = 0.01, .damp_step = 0.01, .block = 128,
			    .scale_type = DT_F16, .round_scale = 1,
			    .clip = GQ_CLIP_WEIGHTED, .passes = 2 },
		.format = &qf_gptq, .calib = &calib, .lm_head = true,
		.true_sequential = true, .out = to, .done = on_layer,
		.ctx = &seen,
	};
	assert_int_equal(be_cpu.open(&how, &j.be, &err), 0);
	if (gq_walk(&j, &err))
		fail_msg("%s: %s", s->architecture, err.msg);
	be_cpu.close(j.be);
	print_message("  %s %s: lost %.4f, by rounding %.4f\n",
		      s->architecture, method->name, seen.out / seen.count,
		      seen.rtn / seen.count);
	assert_int_equal(seen.count, cfg.layers * LLAMA_LINEARS + 1);
	assert_true(seen.out < 0.9 * seen.rtn);
	look_at(to, &j);
	model_close(m);
	gq_calib_release(&calib);
	scratch_clear(from);
	scratch_clear(to);
}

static void test_shapes(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		run(&shapes[i], &gq_gptq);
		run(&shapes[i], &gq_gptaq);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_shapes) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
