/* The plan against what is known of famous models, and against the memory that
 * walks really take. */
#include "../../quant/plan.h"
#include "../../libfmt/model.h"
#include "scratch.h"
#include "synth.h"

#include <sys/resource.h>
#include <sys/wait.h>

#include <cmocka.h>

#define GIB ((uint64_t)1 << 30)
#define MIB ((uint64_t)1 << 20)

static struct gq_job job(const struct llama_config *cfg,
			 const struct calib *calib)
{
	return (struct gq_job){
		.cfg = cfg, .method = &gq_gptq, .format = &qf_gptq,
		.calib = calib, .true_sequential = true,
		.params = { .bits = 4, .sym = 1, .group_size = 128,
			    .damp = 0.01, .damp_step = 0.01, .block = 128,
			    .scale_type = DT_F16, .round_scale = 1,
			    .clip = GQ_CLIP_WEIGHTED, .passes = 3,
			    .threads = 2 },
	};
}

static struct gq_plan plan(const struct gq_job *j, const struct gq_source *s)
{
	struct gq_targets targets;
	struct gq_plan p = { 0 };
	struct err err;

	if (gq_targets_init(&targets, j, &err) ||
	    gq_plan_make(j, &targets, s, &p, &err))
		fail_msg("%s", err.msg);
	gq_targets_release(&targets);
	return p;
}

/* ---- famous models ---- */

#define LLAMA(h, i, l, n, kv, v) { .hidden = h, .inter = i, .layers = l, \
	.heads = n, .kv_heads = kv, .head_dim = 128, .vocab = v, \
	.max_pos = 4096 }

/* Sizes as they are on the hub, in f16 and in GPTQ at 4 bits with groups of
 * 128 (act-order does not change them): 7B 13.48 and 3.90 GB, 13B 26.03 and
 * 7.26 GB, 70B 137.95 and 36.65 GB. */
static const struct famous {
	struct llama_config cfg;
	double parameters, before, after; /* 1e9, GB, GB */
} famous[] = {
	{ LLAMA(4096, 11008, 32, 32, 32, 32000), 6.738, 13.48, 3.90 },
	{ LLAMA(5120, 13824, 40, 40, 40, 32000), 13.016, 26.03, 7.26 },
	{ LLAMA(8192, 28672, 80, 64, 8, 32000), 68.977, 137.95, 36.65 },
	{ LLAMA(16384, 53248, 126, 128, 8, 128256), 405.853, 811.7, 217.1 },
};

static void near(double got, double want, double by)
{
	if (!(got > want * (1 - by) && got < want * (1 + by)))
		fail_msg("%g, expected %g", got, want);
}

static void test_famous_sizes(void **state)
{
	const struct calib calib = { .samples = 128, .seqlen = 2048 };
	const struct gq_source source = { .elem = 2 };

	(void)state;
	for (size_t i = 0; i < sizeof(famous) / sizeof(famous[0]); i++) {
		const struct famous *f = &famous[i];
		struct gq_job j = job(&f->cfg, &calib);
		struct gq_plan p = plan(&j, &source);

		near((double)p.parameters / 1e9, f->parameters, 0.0005);
		near((double)p.before / 1e9, f->before, 0.0005);
		near((double)p.after / 1e9, f->after, 0.002);
		near(8.0 * (double)p.packed / (double)p.weights, 4.16, 0.002);
		assert_int_equal(p.linears, 7 * f->cfg.layers);
		assert_int_equal(p.passes, 5 * f->cfg.layers - 1);
	}
}

/* One block and its Hessian at a time: any of them within 64 GiB. */
static void test_famous_memory(void **state)
{
	const struct calib calib = { .samples = 128, .seqlen = 2048 };
	const struct gq_source source = { .elem = 2, .base = 64 * MIB };

	(void)state;
	for (size_t i = 0; i < sizeof(famous) / sizeof(famous[0]); i++) {
		struct gq_job j = job(&famous[i].cfg, &calib);
		struct gq_plan p = plan(&j, &source);

		assert_true(p.memory[1].bytes < 64 * GIB);
		assert_true(p.memory[1].bytes < p.memory[0].bytes);
		assert_int_equal(p.device[0].bytes, 0);
		assert_non_null(strstr(p.memory[1].at, "down_proj"));
	}
}

/* A GPU holds the matrices, the host what passes through it. */
static void test_two_memories(void **state)
{
	const struct calib calib = { .samples = 128, .seqlen = 2048 };
	const struct gq_source source = { .elem = 2, .apart = true };
	struct gq_job j = job(&famous[0].cfg, &calib);
	struct gq_plan p = plan(&j, &source);

	(void)state;
	assert_true(p.device[0].bytes > p.activations);
	assert_true(p.device[1].bytes < 6 * GIB);
	assert_true(p.memory[0].bytes < 2 * GIB);
}

static void test_rules_and_head_count(void **state)
{
	static const char *const rule[] = { ".*down_proj:skip",
					    ".*q_proj:bits=8" };
	const struct calib calib = { .samples = 8, .seqlen = 64 };
	const struct gq_source source = { .elem = 2, .bytes = 1 };
	struct gq_job j = job(&famous[0].cfg, &calib);
	struct gq_plan all = plan(&j, &source), some;
	struct err err;

	(void)state;
	if (gq_rules_new(rule, 2, (struct gq_rules **)(void *)&j.rules, &err))
		fail_msg("%s", err.msg);
	some = plan(&j, &source);
	assert_int_equal(some.linears, 6 * 32);
	assert_int_equal(all.weights - some.weights,
			 UINT64_C(32) * 4096 * 11008);
	assert_true(some.memory[1].bytes < all.memory[1].bytes);
	gq_rules_free((struct gq_rules *)(uintptr_t)j.rules);
	j.rules = NULL;
	j.lm_head = true;
	some = plan(&j, &source);
	assert_int_equal(some.weights - all.weights, 32000 * 4096);
	assert_int_equal(some.passes, all.passes + 2);
}

/* What every pass brings along is counted where it is done. */
static void test_work_count(void **state)
{
	static const char *const rule[] = { ".*down_proj:skip" };
	const struct calib calib = { .samples = 4, .seqlen = 64 };
	const struct gq_source source = { .elem = 2 };
	const double tokens = 4 * 64, down = 4096.0 * 11008;
	const double block = 4 * 4096.0 * 4096 + 3 * down;
	struct gq_job j = job(&famous[0].cfg, &calib);
	struct gq_work w = plan(&j, &source).work, other;
	struct err err;

	(void)state;
	/* with their codes, once; the last block's output nobody asks for */
	near(w.forward, tokens * (32 * block - down), 1e-12);
	assert_true(w.dense == 0);
	near(w.orders, 32.0 * (3 * 4096 + 11008), 1e-12);
	assert_int_equal(w.elem, 2);
	/* once before, without the output, and once behind */
	j.true_sequential = false;
	other = plan(&j, &source).work;
	near(other.dense, tokens * 32 * (block - down), 1e-12);
	near(other.forward, tokens * 31 * block, 1e-12);
	/* the full model as well, and the weight to come near to */
	j.true_sequential = true;
	j.method = &gq_gptaq;
	other = plan(&j, &source).work;
	near(other.dense, other.forward, 1e-12);
	assert_true(other.spread - w.spread > 32 * 11008.0 * down);
	/* what is left alone runs as it is */
	j.method = &gq_gptq;
	if (gq_rules_new(rule, 1, (struct gq_rules **)(void *)&j.rules, &err))
		fail_msg("%s", err.msg);
	other = plan(&j, &source).work;
	near(other.dense, tokens * 31 * down, 1e-12);
	near(other.dense + other.forward, w.forward, 1e-12);
	gq_rules_free((struct gq_rules *)(uintptr_t)j.rules);
	/* a head that looks wants the output, one that is left alone not */
	j.rules = NULL;
	j.lm_head = true;
	other = plan(&j, &source).work;
	near(other.forward, tokens * 32 * block, 1e-12);
}

/* ---- time ---- */

/* Seconds of a factorisation of order n where those of 1024 and 2048 took so
 * long. */
static double factoring(double n, double first, double second)
{
	struct gq_rates r = { 1, 1, 1, 1, 0, { 1024, 2048 },
			      { first, second } };
	struct gq_work w = { .factor = n * n * n / 3, .orders = n };

	if (first == 0)
		r.order[0] = 0;
	return gq_plan_time(&w, &r);
}

/* Many threads: the larger order takes three times as long, not eight. */
static void test_factor_time(void **state)
{
	const double step = 5e-6, cube = 1e-12, large = 28672;

	(void)state;
#define SECONDS(n) (step * (n) + cube * (n) * (n) * (n) / 3)
	near(factoring(large, SECONDS(1024.0), SECONDS(2048.0)),
	     SECONDS(large), 1e-9);
#undef SECONDS
	/* one alone, and two that are cubes: by the cube */
	near(factoring(4096, 0, 1), 8, 1e-12);
	near(factoring(4096, 0.125, 1), 8, 1e-12);
	/* slower than a cube is an accident, and so is hardly slower at all */
	near(factoring(4096, 0.01, 1), 8, 1e-12);
	assert_true(factoring(large, 1, 1) > 2744.0 / 10);
}

static void test_time_adds_up(void **state)
{
	const struct gq_rates r = { 2, 4, 8, 16, 0.5, { 0, 3 }, { 0, 9 } };
	const struct gq_work w = { .dense = 2, .forward = 2, .attend = 2,
				   .hessian = 8, .spread = 16, .weights = 2,
				   .factor = 9, .orders = 3 };

	(void)state;
	near(gq_plan_time(&w, &r), 1 + 1 + 1 + 1 + 1 + 9, 1e-12);
}

/* ---- walks ---- */

struct measured {
	uint64_t planned, peak;
};

/* In a process of its own, as the peak of this one is known already. */
static void child(struct gq_job *j, uint32_t threads, int to)
{
	struct be_open how = { .threads = threads, .device = -1 };
	struct gq_plan_memory m = { .job = j, .elem = 2,
				    .spill = j->scratch != NULL };
	struct gq_targets targets;
	struct gq_peak host, device;
	struct err err;

	j->params.threads = threads;
	j->api = &be_cpu;
	mem_give_back();
	m.base = mem_resident();
	m.targets = &targets;
	if (gq_targets_init(&targets, j, &err) ||
	    gq_plan_memory(&m, &host, &device, &err) ||
	    write(to, &host.bytes, sizeof(host.bytes)) < 0 ||
	    be_cpu.open(&how, &j->be, &err) || gq_walk(j, &err)) {
		print_error("%s\n", err.msg);
		_exit(1);
	}
	_exit(0);
}

static struct measured measure(struct gq_job *j, uint32_t threads)
{
	struct measured m = { 0 };
	struct rusage use;
	int fd[2], status;
	pid_t pid;

	assert_int_equal(pipe(fd), 0);
	mem_give_back();
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		child(j, threads, fd[1]);
	assert_int_equal(read(fd[0], &m.planned, sizeof(m.planned)),
			 sizeof(m.planned));
	assert_int_equal(wait4(pid, &status, 0, &use), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	close(fd[0]);
	close(fd[1]);
	m.peak = (uint64_t)use.ru_maxrss << 10;
	return m;
}

/* Shapes whose peaks are at different places: many windows, a wide Hessian,
 * a large head, long windows. */
static const struct shape {
	struct synth s;
	uint32_t samples, seqlen;
	bool sequential, head, compares;
} shapes[] = {
	{ { "LlamaForCausalLM", 128, 352, 2, 4, 4, 32, 512, 4096,
	    .type = DT_F16, .more = "" }, 96, 512, true, false, false },
	{ { "LlamaForCausalLM", 512, 2048, 1, 4, 2, 128, 512, 4096,
	    .type = DT_F16, .more = "" }, 4, 256, true, false, false },
	{ { "LlamaForCausalLM", 512, 1408, 1, 4, 2, 128, 512, 4096,
	    .type = DT_F16, .more = "" }, 4, 256, false, false, false },
	{ { "LlamaForCausalLM", 256, 256, 1, 4, 2, 64, 24000, 4096,
	    .type = DT_F16, .more = "" }, 4, 64, true, true, false },
	{ { "LlamaForCausalLM", 256, 2048, 1, 4, 2, 64, 512, 4096,
	    .type = DT_F16, .more = "" }, 1, 2048, true, false, false },
	{ { "LlamaForCausalLM", 512, 1408, 1, 4, 2, 128, 512, 4096,
	    .type = DT_F16, .more = "" }, 16, 256, true, false, true },
};

static void check_shape(const struct shape *s, struct gq_job *j)
{
	char out[64], scratch[64];

	for (int spill = 0; spill < 2; spill++) {
		struct measured m;

		strcpy(out, "/tmp/gptq-plan-XXXXXX");
		strcpy(scratch, "/tmp/gptq-plan-XXXXXX");
		assert_non_null(mkdtemp(out));
		assert_non_null(mkdtemp(scratch));
		j->out = out;
		j->scratch = spill ? scratch : NULL;
		m = measure(j, 1 + (uint32_t)spill);
		print_message("%u x %u, %u windows: %llu planned, %llu "
			      "taken\n", s->s.hidden, s->s.inter, s->samples,
			      (unsigned long long)m.planned,
			      (unsigned long long)m.peak);
		assert_true(m.peak <= m.planned);
		/* and it is no idle promise */
		assert_true(m.planned < m.peak * 5 / 4 + 48 * MIB);
		scratch_clear(out);
		assert_int_equal(rmdir(scratch), 0);
	}
}

static void test_walks_keep_to_it(void **state)
{
	struct err err;

	(void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	skip(); /* the sanitizer's own memory would be counted too */
#endif
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		const struct shape *s = &shapes[i];
		uint32_t n = s->samples * s->seqlen;
		struct calib calib = { s->samples, s->seqlen,
				       calloc(n, sizeof(uint32_t)) };
		struct llama_config cfg;
		struct gq_job j;
		char dir[64];

		for (uint32_t k = 0; k < n; k++)
			calib.id[k] = (k * 2654435761u >> 8) % s->s.vocab;
		synth_make(&s->s, dir);
		j = job(&cfg, &calib);
		j.true_sequential = s->sequential;
		j.lm_head = s->head;
		j.method = s->compares ? &gq_gptaq : &gq_gptq;
		j.params.passes = 1;
		if (model_open(dir, 0, (struct model **)(void *)&j.model,
			       &err) ||
		    llama_config_read(j.model->config, NULL, &cfg, &err))
			fail_msg("%s", err.msg);
		check_shape(s, &j);
		model_close((struct model *)(uintptr_t)j.model);
		scratch_clear(dir);
		free(calib.id);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_famous_sizes),
		cmocka_unit_test(test_famous_memory),
		cmocka_unit_test(test_two_memories),
		cmocka_unit_test(test_rules_and_head_count),
		cmocka_unit_test(test_work_count),
		cmocka_unit_test(test_factor_time),
		cmocka_unit_test(test_time_adds_up),
		cmocka_unit_test(test_walks_keep_to_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
