/* Scores come from log-softmax in double of f32 logits, one row at a time:
 *
 *	lse(x) = max + log(sum exp(x_i - max))
 *	nll    = lse(x) - x[next]
 *	KL     = sum_i p_i (b_i - m_i) - lse(b) + lse(m),  p = softmax(b)
 *
 * The two models of a divergence take turns on pieces of a window, each with
 * its own cache: so the logits of one piece are all that is kept, and not
 * those of a text (a window of 2048 over 128k words would be 1 GiB). */
#include "score.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- one row of logits ---- */

static uint32_t best(const float *x, uint32_t n)
{
	uint32_t b = 0;

	for (uint32_t i = 1; i < n; i++)
		if (x[i] > x[b])
			b = i;
	return b;
}

/* `max` is the index of the largest; taking it out keeps exp in range. */
static double log_sum_exp(const float *x, uint32_t n, uint32_t max)
{
	double sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += exp((double)x[i] - x[max]);
	return x[max] + log(sum);
}

/* ---- windows ---- */

/* Cut n ids into windows; the checks are the same for one and two models. */
static int cut(const struct llm *l, uint64_t n, uint32_t seqlen,
	       struct score_ppl *out, struct err *err)
{
	*out = (struct score_ppl){ .tokens = n, .seqlen = seqlen };
	if (seqlen < 2)
		return err_set(err, ERR_USAGE,
			       "windows of %u tokens, expected at least 2",
			       seqlen);
	if (seqlen > l->context)
		return err_set(err, ERR_UNSUP,
			       "windows of %u tokens do not fit the context of "
			       "%u", seqlen, l->context);
	if (n < seqlen)
		return err_set(err, ERR_INPUT,
			       "%llu tokens, expected at least one window of "
			       "%u", (unsigned long long)n, seqlen);
	if (n / seqlen > UINT32_MAX)
		return err_set(err, ERR_INPUT, "%llu tokens are too many",
			       (unsigned long long)n);
	out->windows = (uint32_t)(n / seqlen);
	return 0;
}

/* The last id of a window is looked up, not run, so it is checked here. */
static int check_ids(const struct score_ppl *s, const uint32_t *id,
		     uint32_t vocab, struct err *err)
{
	for (uint64_t i = 0; i < (uint64_t)s->windows * s->seqlen; i++)
		if (id[i] >= vocab)
			return err_set(err, ERR_INPUT,
				       "token id %u, expected less than the "
				       "vocabulary's %u", id[i], vocab);
	return 0;
}

/* From the sum of the windows' means. */
static void finish(struct score_ppl *s, double sum)
{
	s->nll = sum / s->windows;
	s->value = exp(s->nll);
}

static int not_finite(uint64_t position, struct err *err)
{
	return err_set(err, ERR_CHECK,
		       "logits that are no finite numbers at token %llu",
		       (unsigned long long)position);
}

/* ---- perplexity ---- */

struct nll {
	const uint32_t *next;   /* the id that follows each token */
	uint64_t at;            /* of the window in the text, for messages */
	uint32_t vocab;
	double sum;
};

static int add_nll(void *ctx, uint32_t first, uint32_t rows,
		   const float *logits, struct err *err)
{
	struct nll *s = ctx;

	for (uint32_t r = 0; r < rows; r++) {
		const float *x = logits + (size_t)r * s->vocab;
		double v = log_sum_exp(x, s->vocab, best(x, s->vocab)) -
			   x[s->next[first + r]];

		if (!isfinite(v))
			return not_finite(s->at + first + r, err);
		s->sum += v;
	}
	return 0;
}

int rt_score_ppl(struct llm *l, const uint32_t *id, uint64_t n,
		 uint32_t seqlen, const struct progress *p,
		 struct score_ppl *out, struct err *err)
{
	double sum = 0;

	if (cut(l, n, seqlen, out, err) ||
	    check_ids(out, id, l->cfg.vocab, err))
		return -1;
	for (uint32_t w = 0; w < out->windows; w++) {
		uint64_t at = (uint64_t)w * seqlen;
		struct nll s = { .next = id + at + 1, .at = at,
				 .vocab = l->cfg.vocab };
		const struct llm_rows rows = { add_nll, &s };

		llm_reset(l);
		/* the last token predicts nothing that is there */
		if (prog_step(p, "perplexity", w, out->windows, err) ||
		    llm_forward(l, id + at, seqlen - 1, &rows, NULL, err))
			return -1;
		sum += s.sum / (seqlen - 1);
	}
	llm_reset(l);
	finish(out, sum);
	return prog_step(p, "perplexity", out->windows, out->windows, err);
}

/* ---- divergence ---- */

/* The base model's logits of one piece of a window are kept while the other
 * model runs over the same piece: at most this much. */
#define PIECE_BYTES (256u << 20)

struct kld {
	struct llm *base, *model;
	uint32_t vocab, piece;
	float *kept;            /* [piece][vocab] */
	double *value;          /* [positions], KL of each */
	uint64_t count;         /* of value */
	uint64_t same;          /* best tokens that agree */
	const uint32_t *next;   /* the id that follows each of the piece */
	uint64_t at;            /* of the piece in the text */
	double nll_base, nll_model; /* sums over the window */
};

/* Rows of the base model: put aside until the other one is there. */
static int keep(void *ctx, uint32_t first, uint32_t rows, const float *logits,
		struct err *err)
{
	struct kld *k = ctx;

	(void)err;
	memcpy(k->kept + (size_t)first * k->vocab, logits,
	       (size_t)rows * k->vocab * sizeof(*logits));
	return 0;
}

/* One position: b and m [vocab].  -1 when something is not finite. */
static int compare_row(struct kld *k, const float *b, const float *m,
		       uint32_t next)
{
	uint32_t top_b = best(b, k->vocab), top_m = best(m, k->vocab);
	double sum = 0, diff = 0, lse_b, lse_m, kl;

	for (uint32_t i = 0; i < k->vocab; i++) {
		double e = exp((double)b[i] - b[top_b]);

		sum += e;
		if (e > 0)
			diff += e * ((double)b[i] - m[i]);
	}
	lse_b = b[top_b] + log(sum);
	lse_m = log_sum_exp(m, k->vocab, top_m);
	kl = diff / sum - lse_b + lse_m;
	if (!isfinite(kl) || !isfinite(lse_b - b[next]) ||
	    !isfinite(lse_m - m[next]))
		return -1;
	/* never negative, but for rounding */
	k->value[k->count++] = kl > 0 ? kl : 0;
	k->same += top_b == top_m;
	k->nll_base += lse_b - b[next];
	k->nll_model += lse_m - m[next];
	return 0;
}

/* Rows of the other model, against those kept. */
static int compare(void *ctx, uint32_t first, uint32_t rows,
		   const float *logits, struct err *err)
{
	struct kld *k = ctx;

	for (uint32_t r = 0; r < rows; r++) {
		const float *b = k->kept + (size_t)(first + r) * k->vocab;

		if (compare_row(k, b, logits + (size_t)r * k->vocab,
				k->next[first + r]))
			return not_finite(k->at + first + r, err);
	}
	return 0;
}

static int kld_window(struct kld *k, const uint32_t *id, uint32_t seqlen,
		      struct err *err)
{
	const struct llm_rows kept = { keep, k }, compared = { compare, k };
	uint32_t n;

	llm_reset(k->base);
	llm_reset(k->model);
	k->nll_base = k->nll_model = 0;
	for (uint32_t i = 0; i < seqlen - 1; i += n) {
		n = seqlen - 1 - i < k->piece ? seqlen - 1 - i : k->piece;
		k->next = id + i + 1;
		if (llm_forward(k->base, id + i, n, &kept, NULL, err) ||
		    llm_forward(k->model, id + i, n, &compared, NULL, err))
			return -1;
		k->at += n;
	}
	k->at++; /* the last token was looked up only */
	llm_reset(k->base);
	llm_reset(k->model);
	return 0;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void summarize(struct kld *k, struct score_kld *out)
{
	uint64_t n = k->count;

	out->tokens = n;
	out->mean = 0;
	for (uint64_t i = 0; i < n; i++)
		out->mean += k->value[i];
	out->mean /= (double)n;
	out->top1 = (double)k->same / (double)n;
	qsort(k->value, (size_t)n, sizeof(*k->value), by_value);
	/* nearest rank: n / 100 positions, rounded down, lie above it */
	out->p99 = k->value[n - n / 100 - 1];
	out->max = k->value[n - 1];
}

/* Memory for a job over so many positions. */
static int kld_init(struct kld *k, struct llm *base, struct llm *model,
		    uint64_t positions, struct err *err)
{
	uint64_t fit = PIECE_BYTES / (sizeof(float) * base->cfg.vocab);

	*k = (struct kld){ .base = base, .model = model,
			   .vocab = base->cfg.vocab, .piece = base->batch };
	if (k->piece > fit)
		k->piece = fit ? (uint32_t)fit : 1;
	k->kept = mem_alloc((size_t)k->piece * k->vocab, sizeof(*k->kept),
			    err);
	k->value = mem_alloc((size_t)positions, sizeof(*k->value), err);
	return k->kept && k->value ? 0 : -1;
}

int rt_score_kld(struct llm *base, struct llm *model, const uint32_t *id,
		 uint64_t n, uint32_t seqlen, const struct progress *p,
		 struct score_kld *out, struct err *err)
{
	struct kld k = { 0 };
	double sum_base = 0, sum_model = 0;
	uint32_t windows;
	int ret = -1;

	*out = (struct score_kld){ 0 };
	if (base->cfg.vocab != model->cfg.vocab) {
		err_set(err, ERR_INPUT,
			"vocabularies of %u and %u tokens cannot be compared",
			base->cfg.vocab, model->cfg.vocab);
		goto out;
	}
	if (cut(base, n, seqlen, &out->base, err) ||
	    cut(model, n, seqlen, &out->model, err) ||
	    check_ids(&out->base, id, base->cfg.vocab, err))
		goto out;
	windows = out->base.windows;
	if (kld_init(&k, base, model, (uint64_t)windows * (seqlen - 1), err))
		goto out;
	for (uint32_t w = 0; w < windows; w++) {
		if (prog_step(p, "divergence", w, windows, err) ||
		    kld_window(&k, id + (uint64_t)w * seqlen, seqlen, err))
			goto out;
		sum_base += k.nll_base / (seqlen - 1);
		sum_model += k.nll_model / (seqlen - 1);
	}
	finish(&out->base, sum_base);
	finish(&out->model, sum_model);
	summarize(&k, out);
	if (prog_step(p, "divergence", windows, windows, err))
		goto out;
	ret = 0;
out:
	free(k.kept);
	free(k.value);
	return ret;
}
