/* Perplexity and divergence: on the trained model against the reference's
 * numbers, and on made-up models against sums done here. */
#include "ok.h"
#include "scratch.h"
#include "synth.h"

#include "../../libfmt/base/json.h"
#include "../../libfmt/model.h"
#include "../../runtime/score.h"
#include "../../runtime/tok.h"

#include <math.h>

#define TINY "tests/models/tiny"
#define SEQLEN 512

static struct err err;

static struct llm *open_llm(const char *path, uint32_t batch)
{
	const struct be_open how = { .threads = 2, .device = -1 };
	struct llm_open lo = { .dev = { .api = &be_cpu }, .batch = batch };
	struct model *m;
	struct llm *l;

	OK(be_cpu.open(&how, &lo.dev.be, &err));
	OK(model_open(path, 0, &m, &err));
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

/* ---- the trained model ---- */

/* The first `windows` windows of eval.txt against reference.json. */
static void test_eval_perplexity_is_the_reference(void **state)
{
	const uint32_t windows = 8;
	struct llm *l = open_llm(TINY, 0);
	struct score_ppl s;
	struct cJSON *ref;
	struct tok *tok;
	uint32_t *id;
	size_t n, len;
	double want, total;
	char *text;

	(void)state;
	OK(json_read_file(TINY "/reference.json", &ref, &err));
	OK(json_double(json_path(ref, "perplexity.eval."
				 "perplexity_first_8_windows"), &want));
	OK(json_double(json_path(ref, "perplexity.eval.tokens"), &total));
	OK(tok_open(TINY, &tok, &err));
	OK(io_read_file(TINY "/eval.txt", 1u << 20, &text, &len, &err));
	OK(tok_encode(tok, text, len, TOK_BOS, &id, &n, &err));
	assert_int_equal(n, (size_t)total);
	OK(rt_score_ppl(l, id, windows * SEQLEN + 100, SEQLEN, NULL, &s,
			&err));
	print_message("eval.txt, %u windows: %.5f, reference %.5f\n",
		      s.windows, s.value, want);
	assert_int_equal(s.windows, windows);
	assert_int_equal(s.tokens, windows * SEQLEN + 100);
	assert_true(fabs(s.value / want - 1) < 1e-5);
	assert_true(fabs(exp(s.nll) / s.value - 1) < 1e-12);
	assert_int_equal(l->used[0], 0);
	free(id);
	free(text);
	tok_close(tok);
	json_free(ref);
	close_llm(l);
}

/* ---- made-up models ---- */

#define VOCAB 61
#define WINDOW 24
#define WINDOWS 3

static const struct synth plain = {
	"LlamaForCausalLM", 48, 56, 2, 6, 2, 8, VOCAB, 64, .type = DT_F16,
	.more = "",
};

static void make_ids(uint32_t *id, uint32_t n)
{
	uint32_t x = 99;

	for (uint32_t i = 0; i < n; i++)
		id[i] = synth_next(&x) % VOCAB;
}

static int copy_rows(void *ctx, uint32_t first, uint32_t rows,
		     const float *logits, struct err *e)
{
	(void)e;
	memcpy((float *)ctx + (size_t)first * VOCAB, logits,
	       (size_t)rows * VOCAB * sizeof(float));
	return 0;
}

/* Log-probabilities of one window, [WINDOW][VOCAB], in long double. */
static void log_probs(struct llm *l, const uint32_t *id,
		      long double out[WINDOW][VOCAB])
{
	static float x[WINDOW][VOCAB];
	const struct llm_rows rows = { copy_rows, x };

	llm_reset(l);
	OK(llm_forward(l, id, WINDOW, &rows, NULL, &err));
	llm_reset(l);
	for (int t = 0; t < WINDOW; t++) {
		long double sum = 0;

		for (int i = 0; i < VOCAB; i++)
			sum += expl((long double)x[t][i]);
		for (int i = 0; i < VOCAB; i++)
			out[t][i] = x[t][i] - logl(sum);
	}
}

/* Two models that differ: the second has other weights in each block. */
struct pair {
	char dir[2][64];
	struct llm *a, *b;
	uint32_t id[WINDOWS * WINDOW + 7];
};

static void open_pair(struct pair *p, uint32_t batch)
{
	struct synth other = plain;

	other.bits = 4;
	other.group_size = 16;
	other.dequantized = true;
	synth_make(&plain, p->dir[0]);
	synth_make(&other, p->dir[1]);
	p->a = open_llm(p->dir[0], 0);
	p->b = open_llm(p->dir[1], batch);
	make_ids(p->id, WINDOWS * WINDOW + 7);
}

static void close_pair(struct pair *p)
{
	close_llm(p->a);
	close_llm(p->b);
	scratch_clear(p->dir[0]);
	scratch_clear(p->dir[1]);
}

static void test_perplexity_is_the_mean_over_predictions(void **state)
{
	static long double lp[WINDOW][VOCAB];
	struct score_ppl one, two;
	long double nll = 0;
	struct pair p;

	(void)state;
	open_pair(&p, 5);
	for (uint32_t w = 0; w < WINDOWS; w++) {
		const uint32_t *id = p.id + w * WINDOW;

		log_probs(p.b, id, lp);
		for (int t = 0; t + 1 < WINDOW; t++)
			nll -= lp[t][id[t + 1]] / (WINDOWS * (WINDOW - 1));
	}
	OK(rt_score_ppl(p.b, p.id, WINDOWS * WINDOW + 7, WINDOW, NULL, &one,
			&err));
	assert_int_equal(one.windows, WINDOWS);
	assert_int_equal(one.seqlen, WINDOW);
	assert_true(fabs((double)nll / one.nll - 1) < 1e-6);
	assert_true(one.value > 1);
	/* what is in the cache from before does not matter */
	OK(llm_prefill(p.b, p.id, 9, NULL, NULL, &err));
	OK(rt_score_ppl(p.b, p.id, WINDOWS * WINDOW, WINDOW, NULL, &two,
			&err));
	assert_memory_equal(&one.nll, &two.nll, sizeof(one.nll));
	close_pair(&p);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static uint32_t best(const long double *x)
{
	uint32_t b = 0;

	for (uint32_t i = 1; i < VOCAB; i++)
		if (x[i] > x[b])
			b = i;
	return b;
}

static void test_divergence_against_sums_done_here(void **state)
{
	static long double a[WINDOW][VOCAB], b[WINDOW][VOCAB];
	const int n = WINDOWS * (WINDOW - 1);
	double kl[WINDOWS * (WINDOW - 1)], mean = 0, same = 0;
	struct score_ppl ppl;
	struct score_kld s;
	struct pair p;
	int at = 0;

	(void)state;
	open_pair(&p, 5);
	for (uint32_t w = 0; w < WINDOWS; w++) {
		log_probs(p.a, p.id + w * WINDOW, a);
		log_probs(p.b, p.id + w * WINDOW, b);
		for (int t = 0; t + 1 < WINDOW; t++, at++) {
			kl[at] = 0;
			for (int i = 0; i < VOCAB; i++)
				kl[at] += (double)(expl(a[t][i]) *
						   (a[t][i] - b[t][i]));
			mean += kl[at] / n;
			same += best(a[t]) == best(b[t]);
		}
	}
	OK(rt_score_kld(p.a, p.b, p.id, WINDOWS * WINDOW + 7, WINDOW, NULL, &s,
			&err));
	qsort(kl, (size_t)n, sizeof(kl[0]), by_value);
	assert_int_equal(s.tokens, n);
	assert_true(mean > 0.01);
	assert_true(fabs(s.mean / mean - 1) < 1e-5);
	assert_true(fabs(s.max / kl[n - 1] - 1) < 1e-5);
	/* 69 positions: 68 are not enough for 99 % */
	assert_true(fabs(s.p99 / kl[n - 1] - 1) < 1e-5);
	assert_true(fabs(s.top1 - same / n) < 1e-12);
	OK(rt_score_ppl(p.a, p.id, WINDOWS * WINDOW, WINDOW, NULL, &ppl,
			&err));
	assert_true(fabs(s.base.value / ppl.value - 1) < 1e-6);
	OK(rt_score_ppl(p.b, p.id, WINDOWS * WINDOW, WINDOW, NULL, &ppl,
			&err));
	assert_true(fabs(s.model.value / ppl.value - 1) < 1e-6);
	close_pair(&p);
}

static void test_a_model_does_not_diverge_from_itself(void **state)
{
	char dir[64];
	uint32_t id[6 * WINDOW];
	struct score_kld s;
	struct llm *a, *b;

	(void)state;
	synth_make(&plain, dir);
	a = open_llm(dir, 0);
	b = open_llm(dir, 0);
	make_ids(id, 6 * WINDOW);
	OK(rt_score_kld(a, b, id, 6 * WINDOW, WINDOW, NULL, &s, &err));
	assert_true(s.max < 1e-12);
	assert_true(s.mean >= 0 && s.p99 >= 0);
	assert_true(s.top1 >= 1);
	assert_memory_equal(&s.base.nll, &s.model.nll, sizeof(double));
	close_llm(a);
	close_llm(b);
	scratch_clear(dir);
}

/* Of 138 positions the 99th percentile is the second largest: one may lie
 * above it. */
static void test_percentile_leaves_one_in_a_hundred_above(void **state)
{
	struct score_kld s;
	struct pair p;
	uint32_t id[6 * WINDOW];

	(void)state;
	open_pair(&p, 0);
	make_ids(id, 6 * WINDOW);
	OK(rt_score_kld(p.a, p.b, id, 6 * WINDOW, WINDOW, NULL, &s, &err));
	assert_int_equal(s.tokens, 6 * (WINDOW - 1));
	assert_true(s.p99 < s.max);
	assert_true(s.p99 > s.mean);
	close_pair(&p);
}

static int stop_late(void *ctx, const char *what, uint64_t done,
		     uint64_t total)
{
	(void)ctx;
	(void)what;
	assert_true(done <= total);
	return done == 1;
}

static void test_refusals(void **state)
{
	const struct progress stop = { stop_late, NULL };
	struct synth small = plain;
	struct score_ppl s;
	struct score_kld k;
	struct llm *odd;
	struct pair p;
	char dir[64];

	(void)state;
	open_pair(&p, 0);
	assert_int_equal(rt_score_ppl(p.a, p.id, 20, WINDOW, NULL, &s, &err),
			 -1);
	assert_int_equal(err.code, ERR_INPUT);
	assert_int_equal(rt_score_ppl(p.a, p.id, 20, 1, NULL, &s, &err), -1);
	assert_int_equal(err.code, ERR_USAGE);
	assert_int_equal(rt_score_ppl(p.a, p.id, 70, 65, NULL, &s, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	assert_int_equal(rt_score_ppl(p.a, p.id, 70, WINDOW, &stop, &s, &err),
			 -1);
	assert_int_equal(err.code, ERR_INTR);
	assert_int_equal(rt_score_kld(p.a, p.b, p.id, 70, WINDOW, &stop, &k,
				      &err), -1);
	assert_int_equal(err.code, ERR_INTR);
	/* the last id of a window is never run, only looked up */
	p.id[WINDOW - 1] = VOCAB;
	assert_int_equal(rt_score_ppl(p.a, p.id, 70, WINDOW, NULL, &s, &err),
			 -1);
	assert_int_equal(err.code, ERR_INPUT);
	assert_int_equal(rt_score_kld(p.a, p.b, p.id, 70, WINDOW, NULL, &k,
				      &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	small.vocab = VOCAB - 1;
	synth_make(&small, dir);
	odd = open_llm(dir, 0);
	assert_int_equal(rt_score_kld(p.a, odd, p.id, 70, WINDOW, NULL, &k,
				      &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	close_llm(odd);
	scratch_clear(dir);
	close_pair(&p);
}

/* A model that computes infinities has no perplexity. */
static void test_infinite_logits_fail_the_check(void **state)
{
	struct score_ppl s;
	struct score_kld k;
	struct pair p;
	float *w;

	(void)state;
	open_pair(&p, 0);
	w = p.b->norm.p; /* host memory on this backend */
	w[0] = INFINITY;
	assert_int_equal(rt_score_ppl(p.b, p.id, 70, WINDOW, NULL, &s, &err),
			 -1);
	assert_int_equal(err.code, ERR_CHECK);
	assert_int_equal(rt_score_kld(p.a, p.b, p.id, 70, WINDOW, NULL, &k,
				      &err), -1);
	assert_int_equal(err.code, ERR_CHECK);
	close_pair(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_eval_perplexity_is_the_reference),
		cmocka_unit_test(test_perplexity_is_the_mean_over_predictions),
		cmocka_unit_test(test_divergence_against_sums_done_here),
		cmocka_unit_test(test_a_model_does_not_diverge_from_itself),
		cmocka_unit_test(
			test_percentile_leaves_one_in_a_hundred_above),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_infinite_logits_fail_the_check),
	};

	return cmocka_run_group_tests_name("score", tests, NULL, NULL);
}
