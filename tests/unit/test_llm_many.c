/* Several sequences decoded together give what each gives alone: on the CPU,
 * and on a GPU where there is one. */
#include "ok.h"
#include "scratch.h"
#include "synth.h"

#include "../../libfmt/model.h"
#include "../../runtime/llm.h"

#include <math.h>

#define TINY "tests/models/tiny"
#define MOST 12      /* sequences */
#define STEPS 9
#define VOCAB 2048
#define CONTEXT 96

static struct err err;

struct way {
	const char *dir;
	struct rt_dev dev;
	enum dtype kv;
	uint32_t together;
	double limit; /* of the differences beside the logits, as root mean
			 squares; 0: to the bit */
};

/* Squares, added up. */
struct sums {
	double off, all;
};

/* What one sequence gives alone: the logits behind its prompt and each token
 * that is chosen by them, the likeliest. */
struct line {
	float logits[STEPS + 1][VOCAB];
	uint32_t id[STEPS];
};

static struct llm *open_many(const struct way *w, uint32_t sequences)
{
	const struct llm_open lo = { .dev = w->dev, .context = CONTEXT,
				     .sequences = sequences,
				     .kv_type = w->kv };
	struct model *m;
	struct llm *l;

	OK(model_open(w->dir, 0, &m, &err));
	OK(llm_open(m, &lo, &l, &err));
	model_close(m);
	assert_true(l->cfg.vocab <= VOCAB);
	return l;
}

static struct rt_dev open_dev(const char *device, const char *kernel)
{
	struct rt_dev d = { .api = NULL };

	OK(be_select(device, 2, kernel, &d.api, &d.be, NULL, &err));
	return d;
}

static void close_dev(struct way *w)
{
	w->dev.api->close(w->dev.be);
}

/* A prompt of its own for each sequence, of another length. */
static void prefill(struct llm *l, uint32_t s, float *logits)
{
	const uint32_t n = 1 + s * 29 % 61;
	uint32_t id[CONTEXT];

	for (uint32_t i = 0; i < n; i++)
		id[i] = (s * 37 + i * i * 11 + 5) % l->cfg.vocab;
	OK(llm_prefill(l, id, n, logits, NULL, &err));
	assert_int_equal(l->used[l->sequence], n);
}

static uint32_t likeliest(const float *x, uint32_t n)
{
	uint32_t best = 0;

	for (uint32_t i = 1; i < n; i++)
		if (x[i] > x[best])
			best = i;
	return best;
}

static void alone(const struct way *w, struct line line[MOST])
{
	struct llm *l = open_many(w, 1);

	for (uint32_t s = 0; s < w->together; s++) {
		llm_reset(l);
		prefill(l, s, line[s].logits[0]);
		for (uint32_t i = 0; i < STEPS; i++) {
			line[s].id[i] = likeliest(line[s].logits[i],
						  l->cfg.vocab);
			OK(llm_prefill(l, &line[s].id[i], 1,
				       line[s].logits[i + 1], NULL, &err));
		}
	}
	llm_close(l);
}

static void same(const struct way *w, uint32_t s, double got, double want,
		 struct sums *sum)
{
	const double off = got - want;

	sum->off += off * off;
	sum->all += want * want;
	if (w->limit == 0 && off != 0)
		fail_msg("%s: sequence %u of %u: %.9g, alone %.9g",
			 w->dev.api->describe(w->dev.be), s, w->together, got,
			 want);
}

/* Some of the sequences of a step. */
struct some {
	struct llm_next next[MOST];
	struct be_topk ask[MOST];
	struct be_top best[MOST];
	float logits[MOST * VOCAB];
	uint32_t n;
};

/* In another order from step to step, and now and then without some; so often
 * equal in number that passes are recorded, where they are. */
static void choose(const struct way *w, uint32_t turn,
		   const uint32_t at[MOST], const struct line line[MOST],
		   struct some *g)
{
	g->n = 0;
	for (uint32_t i = 0; i < w->together; i++) {
		uint32_t s = turn % 2 ? w->together - 1 - i : i;

		if (at[s] == STEPS || (turn % 4 == 3 && s % 5 == 1))
			continue;
		g->next[g->n] = (struct llm_next){ s, line[s].id[at[s]] };
		g->ask[g->n] = (struct be_topk){ .best = &g->best[g->n],
						 .k = 1, .penalty = 1,
						 .temp = 1 };
		g->n++;
	}
}

/* All logits of a step, or the best of each sequence. */
static void step(const struct way *w, struct llm *l, uint32_t turn,
		 uint32_t at[MOST], const struct line line[MOST],
		 struct sums *sum)
{
	static struct some g;
	const uint32_t vocab = l->cfg.vocab;

	choose(w, turn, at, line, &g);
	if (turn % 3)
		OK(llm_step_many(l, g.next, g.n, NULL, g.logits, &err));
	else
		OK(llm_step_many(l, g.next, g.n, g.ask, NULL, &err));
	for (uint32_t i = 0; i < g.n; i++) {
		uint32_t s = g.next[i].sequence;
		const float *want = line[s].logits[++at[s]];

		if (turn % 3 == 0)
			same(w, s, g.best[i].value, (double)want[g.best[i].id],
			     sum);
		for (uint32_t j = 0; turn % 3 && j < vocab; j++)
			same(w, s, (double)g.logits[i * vocab + j],
			     (double)want[j], sum);
	}
}

static void check(const struct way *w)
{
	static struct line line[MOST];
	struct llm *l = open_many(w, w->together);
	uint32_t at[MOST] = { 0 };
	struct sums sum = { 0, 0 };

	alone(w, line);
	for (uint32_t s = 0; s < w->together; s++) {
		l->sequence = s;
		prefill(l, s, NULL);
	}
	for (uint32_t turn = 0; turn < 2 * STEPS; turn++)
		step(w, l, turn, at, line, &sum);
	/* again from the prompts, which are still there */
	for (uint32_t s = 0; s < w->together; s++) {
		assert_int_equal(at[s], STEPS);
		l->sequence = s;
		llm_rewind(l, l->used[s] - STEPS);
		at[s] = 0;
	}
	for (uint32_t turn = 0; turn < 2 * STEPS; turn++)
		step(w, l, turn, at, line, &sum);
	llm_close(l);
	if (!(sqrt(sum.off / sum.all) <= w->limit))
		fail_msg("%s, %u together: off by %.2g",
			 w->dev.api->describe(w->dev.be), w->together,
			 sqrt(sum.off / sum.all));
}

static void check_numbers(struct way *w)
{
	static const enum dtype types[] = { DT_F32, DT_F16, DT_I8 };

	for (int i = 0; i < 3; i++) {
		w->kv = types[i];
		w->together = 3;
		check(w);
		w->together = MOST;
		check(w);
	}
}

/* ---- on the CPU ---- */

static void test_a_trained_model(void **state)
{
	struct way w = { .dir = TINY, .dev = open_dev("cpu", NULL) };

	(void)state;
	check_numbers(&w);
	close_dev(&w);
}

/* Four quantized ones. */
static struct synth made(int i)
{
	static const uint8_t bits[] = { 4, 2, 3, 8 };

	return (struct synth){
		"LlamaForCausalLM", 256, 384, 2, 4, 2, 64, 300, CONTEXT,
		.type = DT_F16, .more = "", .bits = bits[i],
		.group_size = i % 2 ? 32 : 128, .act_order = i > 1,
	};
}

/* To the bit, while the linears of so many rows run as those of one. */
static void test_quantized_by_every_kernel(void **state)
{
	(void)state;
	for (int i = 0; i < 4; i++) {
		struct way w = { .dev = { .api = &be_cpu }, .together = 11 };
		struct be_open how = { .threads = 2, .device = -1 };
		struct synth s = made(i);
		char dir[64];

		synth_make(&s, dir);
		w.dir = dir;
		for (uint32_t k = 0; (how.kernel = be_cpu_kernel(k)); k++) {
			if (be_cpu.open(&how, &w.dev.be, &err))
				continue; /* not on this machine */
			check(&w);
			close_dev(&w);
		}
		scratch_clear(dir);
	}
}

/* ---- on a GPU ---- */

/* What is rounded to f16 on the way differs with the number of rows, and these
 * weights make hundreds of it; one sequence taken for another would be off by
 * more than 1.  Up to 8 rows run as one does, recorded or not, where that one
 * is not the wide call. */
static void check_gpu(const char *dir, struct rt_dev plain, struct rt_dev fast)
{
	struct way w = { .dir = dir, .dev = plain, .limit = 1e-3 };

	check_numbers(&w);
	w.dev = fast;
	w.limit = 0.1;
	check_numbers(&w);
	w.limit = 0;
	w.kv = DT_F32;
	w.together = 3;
	check(&w);
}

static bool gpu_there(void)
{
	const struct be_api *api = NULL;
	struct be *be = NULL;

	if (be_select("cuda", 1, NULL, &api, &be, NULL, &err))
		return false;
	api->close(be);
	return true;
}

static void test_on_a_gpu(void **state)
{
	struct rt_dev plain, fast;
	char dir[64];

	(void)state;
	if (!gpu_there()) {
		print_message("skipped: %s\n", err.msg);
		return;
	}
	plain = open_dev("cuda", "generic");
	fast = open_dev("cuda", NULL);
	for (int i = 0; i < 5; i++) {
		struct synth s = made(i % 4);

		s.bits = i < 4 ? s.bits : 0;
		synth_make(&s, dir);
		check_gpu(dir, plain, fast);
		scratch_clear(dir);
	}
	plain.api->close(plain.be);
	fast.api->close(fast.be);
}

/* ---- refusals ---- */

static void test_what_is_full_or_strange_is_refused(void **state)
{
	struct way w = { .dir = TINY, .dev = open_dev("cpu", NULL) };
	struct llm *l = open_many(&w, 2);
	const struct llm_next next[] = { { 1, 5 }, { 0, 6 } };
	const struct llm_next strange[] = { { 0, 5 }, { 1, VOCAB } };
	const struct llm_next twice[] = { { 0, 1 }, { 0, 2 } };
	float one[2 * VOCAB], two[2 * VOCAB];

	(void)state;
	prefill(l, 3, NULL);
	assert_int_equal(llm_step_many(l, strange, 2, NULL, NULL, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	assert_int_equal(l->used[0], 27);
	/* two tokens of one sequence are taken in order */
	OK(llm_step_many(l, twice, 2, NULL, one, &err));
	assert_int_equal(l->used[0], 29);
	llm_rewind(l, 27);
	OK(llm_step_many(l, &twice[0], 1, NULL, two, &err));
	OK(llm_step_many(l, &twice[1], 1, NULL, two + VOCAB, &err));
	assert_memory_equal(one, two, sizeof(one));
	l->used[0] = CONTEXT;
	assert_int_equal(llm_step_many(l, next, 2, NULL, NULL, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	assert_int_equal(l->used[1], 0);
	llm_close(l);
	close_dev(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_trained_model),
		cmocka_unit_test(test_quantized_by_every_kernel),
		cmocka_unit_test(test_on_a_gpu),
		cmocka_unit_test(test_what_is_full_or_strange_is_refused),
	};

	return cmocka_run_group_tests_name("llm_many", tests, NULL, NULL);
}
