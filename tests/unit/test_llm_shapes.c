/* The runtime on made-up models of every kind: grouped queries, odd head
 * sizes, biases, q/k norms, tied heads, scaled rotary embeddings, all float
 * types, quantized linears.  Against numbers of tests/ref/llama.py, and the
 * CPU backend against the scalar reference. */
#include "ok.h"
#include "scratch.h"
#include "synth.h"

#include "../../libfmt/model.h"
#include "../../runtime/llm.h"

#include <math.h>

#define TOKENS 12
#define PLACES 8

static struct err err;

/* The models of tests/ref/llama.py and what it printed: the logits of
 * (token, id) = (0, 0) (0, last) (1, 7) (5, 0) (5, 31) (11, 0) (11, 13)
 * (11, last). */
static const struct {
	struct synth s;
	double logit[PLACES];
} known[] = {
	{ { "LlamaForCausalLM", 48, 56, 2, 6, 2, 8, 61, 64,
	    .qkv_bias = true, .o_bias = true, .mlp_bias = true,
	    .type = DT_BF16,
	    .more = ", \"attention_bias\": true, \"mlp_bias\": true, "
		    "\"rope_theta\": 500, \"rope_scaling\": {\"rope_type\": "
		    "\"llama3\", \"factor\": 8, \"low_freq_factor\": 1, "
		    "\"high_freq_factor\": 4, "
		    "\"original_max_position_embeddings\": 32}" },
	  { -0.208443760, 0.648618890, -1.498142239, -0.516752153,
	    -1.545788459, -0.978692639, -0.692299888, 0.654048671 } },
	{ { "MistralForCausalLM", 32, 72, 2, 2, 1, 80, 53, 64,
	    .type = DT_F16,
	    .more = ", \"sliding_window\": null, \"rope_theta\": 10000, "
		    "\"rope_scaling\": {\"type\": \"linear\", \"factor\": "
		    "2.0}" },
	  { -0.690083861, 0.063564335, 0.217711389, -0.849276906,
	    -0.316329281, -0.784944758, -1.326820267, 1.174103182 } },
	{ { "Qwen2ForCausalLM", 40, 52, 2, 4, 1, 10, 67, 64,
	    .qkv_bias = true, .tied = true, .type = DT_F16,
	    .more = ", \"rope_theta\": 10000, \"rope_scaling\": {\"type\": "
		    "\"yarn\", \"factor\": 4, "
		    "\"original_max_position_embeddings\": 16}" },
	  { 0.041015234, 1.287449389, -0.404351326, -0.061535193,
	    0.430219709, -0.270084397, -0.352328641, 1.424240689 } },
	{ { "Qwen3ForCausalLM", 36, 44, 2, 3, 3, 20, 59, 64,
	    .qk_norm = true, .type = DT_F32,
	    .more = ", \"rope_theta\": 1000000" },
	  { -0.113892166, 0.059953622, 1.346277500, -0.033859977,
	    0.979329211, -1.057725109, 0.555377823, -0.751910417 } },
	/* twelve tokens of context, trained on eight */
	{ { "LlamaForCausalLM", 48, 40, 2, 4, 4, 12, 51, 8,
	    .type = DT_BF16,
	    .more = ", \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": "
		    "2}" },
	  { -0.211759905, 0.409646290, -0.342636645, 0.035756546,
	    -0.491673612, -0.036676891, -0.084065872, -0.141024457 } },
};

#define KNOWN (sizeof(known) / sizeof(known[0]))

/* ---- running ---- */

static struct llm *open_dir(const char *dir, const struct be_api *api,
			    uint32_t batch)
{
	const struct be_open how = { .threads = 2, .device = -1 };
	struct llm_open lo = { .dev = { .api = api }, .batch = batch,
			       .context = TOKENS };
	struct model *m;
	struct llm *l;

	OK(api->open(&how, &lo.dev.be, &err));
	OK(model_open(dir, 0, &m, &err));
	OK(llm_open(m, &lo, &l, &err));
	model_close(m);
	return l;
}

static void close_llm(struct llm *l)
{
	struct rt_dev d = l->part[0].dev;

	llm_close(l);
	d.api->close(d.be);
}

struct rows {
	float *to;
	uint32_t vocab, next;
};

static int copy_rows(void *ctx, uint32_t first, uint32_t rows,
		     const float *logits, struct err *e)
{
	struct rows *r = ctx;

	(void)e;
	assert_int_equal(first, r->next);
	memcpy(r->to + (size_t)first * r->vocab, logits,
	       (size_t)rows * r->vocab * sizeof(float));
	r->next += rows;
	return 0;
}

/* Logits [TOKENS][vocab] on the heap, of the ids of tests/ref/llama.py. */
static float *forward(const char *dir, const struct be_api *api,
		      uint32_t batch)
{
	struct llm *l = open_dir(dir, api, batch);
	uint32_t id[TOKENS], vocab = l->cfg.vocab;
	struct rows r = { .vocab = vocab };
	const struct llm_rows rows = { copy_rows, &r };

	for (uint32_t i = 0; i < TOKENS; i++)
		id[i] = (i * i * 7 + 3) % vocab;
	r.to = mem_alloc((size_t)TOKENS * vocab, sizeof(*r.to), &err);
	assert_non_null(r.to);
	OK(llm_forward(l, id, TOKENS, &rows, NULL, &err));
	assert_int_equal(r.next, TOKENS);
	close_llm(l);
	return r.to;
}

static double worst(const float *a, const float *b, size_t n)
{
	double max = 0;

	for (size_t i = 0; i < n; i++) {
		double d = fabs((double)a[i] - b[i]);

		if (!(d <= max))
			max = d;
	}
	return max;
}

/* ---- tests ---- */

static void check_known(const struct be_api *api)
{
	for (size_t k = 0; k < KNOWN; k++) {
		uint32_t v = known[k].s.vocab;
		const uint32_t at[PLACES] = {
			0, v - 1, v + 7, 5 * v, 5 * v + 31, 11 * v,
			11 * v + 13, 12 * v - 1,
		};
		char dir[64];
		float *got;

		synth_make(&known[k].s, dir);
		got = forward(dir, api, 0);
		for (int i = 0; i < PLACES; i++)
			if (!(fabs(got[at[i]] - known[k].logit[i]) < 2e-5))
				fail_msg("%s, model %zu, place %d: %.9f, "
					 "expected %.9f", api->name, k, i,
					 got[at[i]], known[k].logit[i]);
		free(got);
		scratch_clear(dir);
	}
}

static void test_ref_gives_known_logits(void **state)
{
	(void)state;
	check_known(&be_ref);
}

static void test_cpu_gives_known_logits(void **state)
{
	(void)state;
	check_known(&be_cpu);
}

static void test_backends_and_batches_agree(void **state)
{
	(void)state;
	for (size_t k = 0; k < KNOWN; k++) {
		size_t n = (size_t)TOKENS * known[k].s.vocab;
		float *ref, *cpu, *odd, *one;
		char dir[64];

		synth_make(&known[k].s, dir);
		ref = forward(dir, &be_ref, 0);
		cpu = forward(dir, &be_cpu, 0);
		odd = forward(dir, &be_cpu, 5);
		one = forward(dir, &be_cpu, 1);
		assert_true(worst(ref, cpu, n) < 2e-5);
		assert_true(worst(ref, odd, n) < 2e-5);
		assert_true(worst(ref, one, n) < 2e-5);
		free(ref);
		free(cpu);
		free(odd);
		free(one);
		scratch_clear(dir);
	}
}

static struct synth quantized(uint8_t bits, bool act_order)
{
	return (struct synth){ "LlamaForCausalLM", 64, 96, 2, 4, 2, 16, 53,
			       64, .type = DT_F16, .more = "", .bits = bits,
			       .group_size = 32, .act_order = act_order };
}

/* Quantized linears compute what the same weights give in dense form. */
static void test_quantized_equals_dequantized(void **state)
{
	static const uint8_t bits[] = { 2, 3, 4, 8 };

	(void)state;
	for (int i = 0; i < 8; i++) {
		struct synth s = quantized(bits[i % 4], i >= 4);
		float *dense, *cpu, *ref, *one;
		size_t n = (size_t)TOKENS * s.vocab;
		char dir[64];

		synth_make(&s, dir);
		cpu = forward(dir, &be_cpu, 0);
		ref = forward(dir, &be_ref, 0);
		one = forward(dir, &be_cpu, 1);
		scratch_clear(dir);
		s.dequantized = true;
		synth_make(&s, dir);
		dense = forward(dir, &be_ref, 0);
		scratch_clear(dir);
		assert_true(worst(dense, ref, n) < 1e-4);
		assert_true(worst(dense, cpu, n) < 1e-4);
		assert_true(worst(dense, one, n) < 1e-4);
		free(dense);
		free(cpu);
		free(ref);
		free(one);
	}
}

static void test_weights_in_host_memory(void **state)
{
	const char *const name = "model.layers.1.mlp.down_proj";
	struct synth s = quantized(4, true);
	struct model *m;
	struct ql q;
	float *w, row[96];
	char dir[64];

	(void)state;
	synth_make(&s, dir);
	OK(model_open(dir, 0, &m, &err));
	OK(rt_weights(m, name, 96, 64, &w, &err));
	synth_ql(&s, name, 96, 64, &q);
	for (uint32_t n = 0; n < 64; n++) {
		ql_dequant_row(&q, n, row);
		assert_memory_equal(row, w + (size_t)n * 96, sizeof(row));
	}
	ql_release(&q);
	free(w);
	assert_int_equal(rt_weights(m, name, 64, 96, &w, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	assert_null(w);
	assert_int_equal(rt_weights(m, "model.norm", 64, 1, &w, &err), -1);
	OK(rt_weights(m, "lm_head", 64, 53, &w, &err));
	free(w);
	model_close(m);
	scratch_clear(dir);
}

/* The quantizer's way: dense in, quantized back into the same linear. */
static void test_a_linear_is_replaced(void **state)
{
	const char *const name = "model.layers.0.self_attn.k_proj";
	const struct be_open how = { .threads = 1, .device = -1 };
	struct rt_dev d = { .api = &be_cpu };
	struct synth s = quantized(4, false);
	float x[64], y[32], z[32];
	struct be_mat mx = { x, 1, 64, 64, DT_F32 };
	struct be_mat my = { y, 1, 32, 32, DT_F32 };
	struct rt_linear l;
	struct model *m;
	struct ql q;
	char dir[64];

	(void)state;
	for (int i = 0; i < 64; i++)
		x[i] = (float)(i % 7 - 3);
	s.dequantized = true;
	s.qkv_bias = true;
	s.o_bias = true;
	s.more = ", \"attention_bias\": true";
	synth_make(&s, dir);
	OK(be_cpu.open(&how, &d.be, &err));
	OK(model_open(dir, 0, &m, &err));
	OK(rt_linear_load(&d, m, name, 64, 32, &l, &err));
	model_close(m);
	assert_non_null(l.bias.p);
	assert_string_equal(rt_linear_kernel(&d, &l, 1), "f32");
	assert_int_equal(l.bytes, 64 * 32 * 4);
	OK(rt_linear_run(&d, &l, &mx, &my, &err));
	memcpy(z, y, sizeof(z));
	synth_ql(&s, name, 64, 32, &q);
	OK(rt_linear_set(&d, &l, &q, &err));
	assert_null(l.dense.p);
	/* codes, f16 scales and 4-bit zeros of two groups */
	assert_int_equal(l.bytes, 64 * 32 / 2 + 2 * 32 * 2 + 2 * 32 / 2);
	OK(rt_linear_run(&d, &l, &mx, &my, &err));
	assert_true(worst(z, y, 32) < 1e-5);
	ql_release(&q);
	synth_ql(&s, name, 32, 64, &q);
	assert_int_equal(rt_linear_set(&d, &l, &q, &err), -1);
	assert_non_null(l.quant);
	ql_release(&q);
	rt_linear_release(&d, &l);
	be_cpu.close(d.be);
	scratch_clear(dir);
}

/* ---- taps ---- */

struct seen {
	uint32_t calls[LLAMA_SLOTS], cols[LLAMA_SLOTS], rows;
	enum llama_slot stop;
	int answer;
};

static int look(void *ctx, enum llama_slot slot, const struct be_mat *x,
		struct err *e)
{
	struct seen *s = ctx;

	s->calls[slot]++;
	s->cols[slot] = x->cols;
	s->rows = x->rows;
	if (slot != s->stop)
		return 0;
	return s->answer < 0 ? err_set(e, ERR_INTR, "tap") : s->answer;
}

static void run_tapped(struct llm *l, struct seen *s, int ret)
{
	const struct rt_tap tap = { look, s };
	const struct rt_pass p = {
		.dev = &l->part[0].dev, .cfg = &l->cfg,
		.rope = &l->part[0].rope, .work = &l->part[0].work,
		.kv = &l->part[0].kv, .tap = &tap,
	};
	struct be_mat x = be_rows(&l->part[0].x, 0, 5);
	const uint32_t id[5] = { 1, 2, 3, 4, 5 };

	OK(p.dev->api->embed(p.dev->be, &l->embed, id, &x, &err));
	assert_int_equal(rt_block_run(&l->block[0], &p, &x, &err), ret);
}

static void test_taps_see_each_slot_once(void **state)
{
	struct seen all = { .stop = LLAMA_SLOTS };
	struct seen early = { .stop = LLAMA_SLOT_GATE_UP, .answer = 1 };
	struct seen broken = { .stop = LLAMA_SLOT_O, .answer = -1 };
	struct llm *l;
	char dir[64];

	(void)state;
	synth_make(&known[1].s, dir); /* 32 wide, 2 heads of 80, 72 inside */
	l = open_dir(dir, &be_cpu, 0);
	run_tapped(l, &all, 0);
	for (int i = 0; i < LLAMA_SLOTS; i++)
		assert_int_equal(all.calls[i], 1);
	assert_int_equal(all.rows, 5);
	assert_int_equal(all.cols[LLAMA_SLOT_QKV], 32);
	assert_int_equal(all.cols[LLAMA_SLOT_O], 160);
	assert_int_equal(all.cols[LLAMA_SLOT_GATE_UP], 32);
	assert_int_equal(all.cols[LLAMA_SLOT_DOWN], 72);
	run_tapped(l, &early, 0);
	assert_int_equal(early.calls[LLAMA_SLOT_GATE_UP], 1);
	assert_int_equal(early.calls[LLAMA_SLOT_DOWN], 0);
	run_tapped(l, &broken, -1);
	assert_int_equal(err.code, ERR_INTR);
	assert_int_equal(broken.calls[LLAMA_SLOT_GATE_UP], 0);
	close_llm(l);
	scratch_clear(dir);
}

/* ---- facts about quantized models ---- */

static void test_quantized_facts(void **state)
{
	struct synth s = quantized(4, false);
	/* q and o, k and v, gate, up and down; 4 + 16/32 + 4/32 bits each */
	uint64_t weights = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64;
	uint64_t block = weights / 2 + weights / 32 * 2 + weights / 64;
	struct rt_dev d;
	struct llm *l;
	char dir[64];

	(void)state;
	synth_make(&s, dir);
	l = open_dir(dir, &be_cpu, 0);
	d = l->part[0].dev;
	assert_int_equal(llm_weight_bytes(l), 2 * block + 2 * 53 * 64 +
			 5 * 64 * 4);
	assert_string_equal(llm_kernel(l), d.api->qw_kernel(
				    d.be, l->block[0].lin[0].quant, 1));
	close_llm(l);
	scratch_clear(dir);
}

/* ---- a device that runs out of memory ---- */

static uint32_t left; /* allocations that still succeed */
static long live;     /* allocations not yet given back */

static int scarce_alloc(struct be *be, size_t bytes, void **p, struct err *e)
{
	*p = NULL;
	if (!left)
		return err_set(e, ERR_RESOURCE, "no device memory");
	left--;
	live++;
	return be_cpu.alloc(be, bytes, p, e);
}

static void scarce_free(struct be *be, void *p)
{
	live -= p != NULL;
	be_cpu.free(be, p);
}

static int scarce_qw_new(struct be *be, const struct ql *ql,
			 struct be_qw **out, struct err *e)
{
	*out = NULL;
	if (!left)
		return err_set(e, ERR_RESOURCE, "no device memory");
	left--;
	live++;
	return be_cpu.qw_new(be, ql, out, e);
}

static void scarce_qw_free(struct be *be, struct be_qw *w)
{
	live -= w != NULL;
	be_cpu.qw_free(be, w);
}

static void check_scarce(const struct synth *s)
{
	const struct be_open how = { .threads = 1, .device = -1 };
	struct be_api api = be_cpu;
	struct llm_open lo = { .dev = { .api = &api }, .context = TOKENS };
	struct model *m;
	struct llm *l = NULL;
	uint32_t n = 0;
	char dir[64];

	api.alloc = scarce_alloc;
	api.free = scarce_free;
	api.qw_new = scarce_qw_new;
	api.qw_free = scarce_qw_free;
	synth_make(s, dir);
	OK(api.open(&how, &lo.dev.be, &err));
	OK(model_open(dir, 0, &m, &err));
	for (; !l; n++) {
		assert_true(n < 200);
		left = n;
		live = 0;
		if (!llm_open(m, &lo, &l, &err))
			continue;
		assert_int_equal(err.code, ERR_RESOURCE);
		assert_null(l);
		assert_int_equal(live, 0);
	}
	/* tables, cache, scratch, and all of two blocks were refused once */
	assert_true(n > 30);
	llm_close(l);
	assert_int_equal(live, 0);
	model_close(m);
	api.close(lo.dev.be);
	scratch_clear(dir);
}

static void test_memory_failures_leave_nothing_behind(void **state)
{
	struct synth s = quantized(4, true);

	(void)state;
	check_scarce(&s);
	check_scarce(&known[0].s);
	check_scarce(&known[2].s); /* a tied head is freed once */
	check_scarce(&known[3].s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ref_gives_known_logits),
		cmocka_unit_test(test_cpu_gives_known_logits),
		cmocka_unit_test(test_backends_and_batches_agree),
		cmocka_unit_test(test_quantized_equals_dequantized),
		cmocka_unit_test(test_weights_in_host_memory),
		cmocka_unit_test(test_a_linear_is_replaced),
		cmocka_unit_test(test_taps_see_each_slot_once),
		cmocka_unit_test(test_quantized_facts),
		cmocka_unit_test(test_memory_failures_leave_nothing_behind),
	};

	return cmocka_run_group_tests_name("llm shapes", tests, NULL, NULL);
}
