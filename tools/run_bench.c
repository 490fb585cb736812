/* --bench: how fast a model runs here, and how near that is to what the memory
 * gives.
 *
 * A decoding step reads every weight once, and the keys and values of each of
 * its sequences, so decoding ends at the memory's speed; the share of it that
 * is reached says whether there is more to gain.
 * The limit is measured on the same device by the same calls: the faster of
 * adding two long vectors and of a dense product with one row.  Token ids are
 * made up: the work does not depend on them. */
#include "run.h"

#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"

#include <cjson/cJSON.h>
#include <stdlib.h>

#define STREAM_BYTES (UINT64_C(128) << 20) /* per vector; no cache holds it */
#define STREAM_COLS 4096u
#define STREAM_RUNS 8

/* One kind of work, several times. */
struct timing {
	uint32_t tokens;  /* per run and sequence; 0: left out */
	double *seconds;  /* [runs] */
	double median;
};

struct bench {
	struct run *run;
	uint32_t runs, depth, batch;
	struct timing prefill, decode;
	uint32_t *id;     /* [depth + the longer of the two]; sequence s
			     begins with the s-th, and the first follow the
			     last */
	uint32_t count;
	struct llm_next *next; /* [batch] */
	struct be_topk *ask;
	struct be_top *best;
	double memory;    /* bytes per second the device reads and writes */
};

/* ---- the memory ---- */

struct stream {
	struct rt_dev dev;
	struct be_mat x, y;       /* F32, of equal shape */
	struct be_mat row, out;   /* F32 [1][cols], [1][rows] */
	struct be_mat half;       /* the bytes of y as F16 */
	double best;              /* bytes per second */
};

/* The device has done all that was asked for. */
static int settle(const struct stream *s, struct err *err)
{
	float one;

	return s->dev.api->get(s->dev.be, &one, s->out.p, sizeof(one), err);
}

static int stream_add(struct stream *s, struct err *err)
{
	return s->dev.api->add(s->dev.be, &s->x, &s->y, err);
}

static int stream_product(struct stream *s, struct err *err)
{
	const struct be_gemm g = {
		.a = &s->row, .b = &s->half, .c = &s->out, .alpha = 1,
		.trans_b = 1,
	};

	return s->dev.api->gemm(s->dev.be, &g, err);
}

/* The best of some runs: others may be at work on the machine. */
static int stream_time(struct stream *s,
		       int (*fn)(struct stream *s, struct err *err),
		       uint64_t bytes, struct err *err)
{
	for (int i = 0; i < STREAM_RUNS; i++) {
		double start = ui_now(), rate;

		if (fn(s, err) || settle(s, err))
			return -1;
		rate = (double)bytes / (ui_now() - start);
		/* the first one finds pages and clocks asleep */
		if (i && rate > s->best)
			s->best = rate;
	}
	return 0;
}

/* Written once, so that every page is there. */
static int stream_fill(struct stream *s, uint64_t bytes, struct err *err)
{
	void *zero = mem_alloc(bytes, 1, err);
	int ret = -1;

	if (zero &&
	    !s->dev.api->put(s->dev.be, s->x.p, zero, bytes, err) &&
	    !s->dev.api->put(s->dev.be, s->y.p, zero, bytes, err) &&
	    !s->dev.api->put(s->dev.be, s->row.p, zero,
			     STREAM_COLS * sizeof(float), err))
		ret = 0;
	free(zero);
	return ret;
}

/* Bytes per second this device's memory gives. */
static int measure_memory(const struct rt_dev *dev, double *out,
			  struct err *err)
{
	const struct be_api *api = dev->api;
	const uint64_t bytes = STREAM_BYTES;
	const uint32_t rows = (uint32_t)(bytes / (STREAM_COLS * sizeof(float)));
	struct stream s = { .dev = *dev };
	int ret = -1;

	if (be_mat_new(api, dev->be, rows, STREAM_COLS, DT_F32, &s.x, err) ||
	    be_mat_new(api, dev->be, rows, STREAM_COLS, DT_F32, &s.y, err) ||
	    be_mat_new(api, dev->be, 1, STREAM_COLS, DT_F32, &s.row, err) ||
	    be_mat_new(api, dev->be, 1, 2 * rows, DT_F32, &s.out, err) ||
	    stream_fill(&s, bytes, err))
		goto out;
	s.half = s.y;
	s.half.type = DT_F16;
	s.half.rows = 2 * rows;
	if (stream_time(&s, stream_add, 3 * bytes, err) ||
	    stream_time(&s, stream_product, bytes, err))
		goto out;
	*out = s.best;
	ret = 0;
out:
	be_mat_free(api, dev->be, &s.x);
	be_mat_free(api, dev->be, &s.y);
	be_mat_free(api, dev->be, &s.row);
	be_mat_free(api, dev->be, &s.out);
	return ret ? err_ctx(err, "the speed of the memory") : 0;
}

/* ---- the work ---- */

/* The i-th token of a sequence. */
static uint32_t token(const struct bench *b, uint32_t sequence, uint32_t i)
{
	return b->id[((uint64_t)sequence + i) % b->count];
}

/* The positions that are there before the clock runs.  They stay from run to
 * run. */
static int fill_depth(struct bench *b, uint32_t sequence, struct err *err)
{
	struct llm *l = b->run->llm;
	uint32_t part;

	l->sequence = sequence;
	llm_rewind(l, b->depth);
	for (uint32_t i = l->used[sequence]; i < b->depth; i += part) {
		uint32_t from = (uint32_t)(((uint64_t)sequence + i) % b->count);

		part = b->depth - i < b->count - from ? b->depth - i
						      : b->count - from;
		if (llm_prefill(l, b->id + from, part, NULL, NULL, err))
			return -1;
	}
	return 0;
}

/* A prompt is read by one sequence. */
static int prefill_once(struct bench *b, uint32_t n, double *seconds,
			struct err *err)
{
	double start;

	if (fill_depth(b, 0, err))
		return -1;
	start = ui_now();
	if (llm_prefill(b->run->llm, b->id + b->depth, n, b->run->logits,
			&b->run->progress, err))
		return -1;
	*seconds = ui_now() - start;
	return 0;
}

/* Each step as in generating, but for the draw. */
static int decode_once(struct bench *b, uint32_t n, double *seconds,
		       struct err *err)
{
	struct progress *p = &b->run->progress;
	double start;

	for (uint32_t s = 0; s < b->batch; s++)
		if (prog_step(p, "fill", s, b->batch, err) ||
		    fill_depth(b, s, err))
			return -1;
	start = ui_now();
	for (uint32_t i = 0; i < n; i++) {
		for (uint32_t s = 0; s < b->batch; s++)
			b->next[s] = (struct llm_next){
				s, token(b, s, b->depth + i) };
		if (prog_step(p, "decode", i, n, err) ||
		    llm_step_many(b->run->llm, b->next, b->batch, b->ask, NULL,
				  err))
			return -1;
	}
	*seconds = ui_now() - start;
	return 0;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* A short run first, that counts for nothing: pages, caches, clocks. */
static int repeat(struct bench *b, struct timing *t,
		  int (*once)(struct bench *b, uint32_t n, double *seconds,
			      struct err *err), struct err *err)
{
	double *sorted;

	if (!t->tokens)
		return 0;
	t->seconds = mem_alloc(2 * (size_t)b->runs, sizeof(double), err);
	if (!t->seconds ||
	    once(b, t->tokens < 16 ? t->tokens : 16, t->seconds, err))
		return -1;
	sorted = t->seconds + b->runs;
	for (uint32_t i = 0; i < b->runs; i++) {
		if (once(b, t->tokens, &t->seconds[i], err))
			return -1;
		sorted[i] = t->seconds[i];
	}
	qsort(sorted, b->runs, sizeof(double), by_value);
	t->median = (sorted[(b->runs - 1) / 2] + sorted[b->runs / 2]) / 2;
	return 0;
}

/* Of so many positions of each sequence. */
static uint64_t cache_bytes(const struct bench *b, uint32_t positions)
{
	const struct llm *l = b->run->llm;
	const struct kv_shape s = {
		.layers = l->cfg.layers, .sequences = b->batch,
		.capacity = positions, .kv_heads = l->cfg.kv_heads,
		.head_dim = l->cfg.head_dim, .type = l->part[0].kv.type,
	};

	return kv_bytes(&s);
}

/* What one decoded token reads: its part of the weights, which a step reads
 * once for all, and on average the keys and values of the depth and half of
 * what is generated. */
static double token_bytes(const struct bench *b)
{
	const struct llm *l = b->run->llm;

	return ((double)llm_weight_bytes(l) + (double)cache_bytes(b, 1) *
		(b->depth + (b->decode.tokens + 1) / 2.0)) / b->batch;
}

/* ---- the result ---- */

/* Tokens per second of a sequence. */
static double speed(const struct timing *t)
{
	return t->median > 0 ? t->tokens / t->median : 0;
}

/* Of all of them. */
static double decode_speed(const struct bench *b)
{
	return b->batch * speed(&b->decode);
}

static void add_timing(struct cJSON *o, const char *key,
		       const struct bench *b, const struct timing *t)
{
	struct cJSON *j, *list;

	if (!t->tokens) {
		cJSON_AddNullToObject(o, key);
		return;
	}
	j = cJSON_AddObjectToObject(o, key);
	cJSON_AddNumberToObject(j, "tokens", t->tokens);
	if (t == &b->prefill) {
		cJSON_AddNumberToObject(j, "tokens_per_second", speed(t));
	} else {
		cJSON_AddNumberToObject(j, "tokens_per_second",
					decode_speed(b));
		cJSON_AddNumberToObject(j, "tokens_per_second_each", speed(t));
	}
	list = cJSON_AddArrayToObject(j, "seconds");
	for (uint32_t i = 0; i < b->runs; i++)
		cJSON_AddItemToArray(list, cJSON_CreateNumber(t->seconds[i]));
	if (t == &b->prefill)
		return;
	cJSON_AddNumberToObject(j, "bytes_per_token", token_bytes(b));
	cJSON_AddNumberToObject(j, "bytes_per_second",
				token_bytes(b) * decode_speed(b));
	cJSON_AddNumberToObject(j, "bandwidth_share",
				token_bytes(b) * decode_speed(b) / b->memory);
}

static int print_json(const struct bench *b, struct err *err)
{
	const struct run *r = b->run;
	struct cJSON *o = cJSON_CreateObject(), *load;
	char where[256];

	ui_json_text(o, "path", r->call->model);
	ui_json_text(o, "device", call_llm_where(r->llm, where));
	ui_json_text(o, "kernel", llm_kernel(r->llm));
	cJSON_AddNumberToObject(o, "batch", b->batch);
	cJSON_AddNumberToObject(o, "depth", b->depth);
	cJSON_AddNumberToObject(o, "runs", b->runs);
	cJSON_AddNumberToObject(o, "weight_bytes",
				(double)llm_weight_bytes(r->llm));
	cJSON_AddNumberToObject(o, "cache_bytes",
				(double)cache_bytes(b, r->llm->context));
	cJSON_AddNumberToObject(o, "memory_bytes_per_second", b->memory);
	load = cJSON_AddObjectToObject(o, "load");
	cJSON_AddNumberToObject(load, "bytes", (double)model_bytes(r->model));
	cJSON_AddNumberToObject(load, "seconds", r->weights);
	cJSON_AddNumberToObject(load, "device_seconds", r->start);
	add_timing(o, "prefill", b, &b->prefill);
	add_timing(o, "decode", b, &b->decode);
	return ui_json(stdout, o, err);
}

/* Half the way from the slowest to the fastest run, of the median. */
static double spread(const struct bench *b, const struct timing *t)
{
	const double *sorted = t->seconds + b->runs;

	return 50 * (sorted[b->runs - 1] - sorted[0]) / t->median;
}

static void print_text(const struct bench *b)
{
	const struct run *r = b->run;
	char buf[32], where[256];

	printf("device    %s\n", call_llm_where(r->llm, where));
	printf("kernel    %s\n", llm_kernel(r->llm));
	printf("weights   %s read for each %s\n",
	       ui_bytes(llm_weight_bytes(r->llm), buf),
	       b->batch > 1 ? "step" : "token");
	printf("load      %.1f GB/s   %s in %.2f s\n",
	       1e-9 * (double)model_bytes(r->model) / r->weights,
	       ui_bytes(model_bytes(r->model), buf), r->weights);
	printf("memory    %.1f GB/s, measured\n", 1e-9 * b->memory);
	printf("cache     %s, %u sequence%s of %u positions\n",
	       ui_bytes(cache_bytes(b, r->llm->context), buf), b->batch,
	       ui_plural(b->batch), r->llm->context);
	if (b->depth)
		printf("depth     %u positions before\n", b->depth);
	if (b->prefill.tokens)
		printf("prefill   %.1f tokens/s   %u tokens in %.3f s "
		       "(+- %.1f %%)\n", speed(&b->prefill), b->prefill.tokens,
		       b->prefill.median, spread(b, &b->prefill));
	if (!b->decode.tokens)
		return;
	printf("decode    %.1f tokens/s   %.2f ms for each of %u "
	       "(+- %.1f %%)\n", decode_speed(b), 1e3 / speed(&b->decode),
	       b->decode.tokens, spread(b, &b->decode));
	if (b->batch > 1)
		printf("          %.1f tokens/s for each of %u sequences\n",
		       speed(&b->decode), b->batch);
	printf("          %.1f GB/s, %.0f %% of the memory's\n",
	       1e-9 * token_bytes(b) * decode_speed(b),
	       100 * token_bytes(b) * decode_speed(b) / b->memory);
}

/* ---- all of it ---- */

static int check(const struct run_args *a, struct err *err)
{
	if (!a->pp && !a->tg)
		return err_set(err, ERR_USAGE, "--pp 0 and --tg 0 leave "
			       "nothing to measure");
	return 0;
}

/* As many positions as the longer of the two needs. */
static int context(const struct run *r, uint32_t most, uint32_t *out,
		   struct err *err)
{
	const struct run_args *a = r->args;
	int64_t need = a->depth + (a->pp > a->tg ? a->pp : a->tg);

	(void)most;
	if (need > UINT32_MAX / 2)
		return err_set(err, ERR_UNSUP, "%lld positions",
			       (long long)need);
	*out = (uint32_t)need;
	return 0;
}

/* What a step is asked for and answers. */
static int make_room(struct bench *b, struct err *err)
{
	b->run->logits = mem_alloc(b->run->llm->cfg.vocab, sizeof(float), err);
	b->next = mem_alloc(b->batch, sizeof(*b->next), err);
	b->ask = mem_alloc(b->batch, sizeof(*b->ask), err);
	b->best = mem_alloc(b->batch, sizeof(*b->best), err);
	if (!b->run->logits || !b->next || !b->ask || !b->best)
		return -1;
	for (uint32_t s = 0; s < b->batch; s++)
		b->ask[s] = (struct be_topk){ .best = &b->best[s], .k = 1,
					      .penalty = 1, .temp = 1 };
	return 0;
}

static int make_ids(struct bench *b, struct err *err)
{
	uint32_t seed = 1;

	b->id = mem_alloc(b->count, sizeof(*b->id), err);
	for (uint32_t i = 0; b->id && i < b->count; i++) {
		seed = seed * 1664525u + 1013904223u;
		b->id[i] = (seed >> 8) % b->run->llm->cfg.vocab;
	}
	return b->id ? 0 : -1;
}

int run_bench(struct run *r, struct err *err)
{
	const struct run_args *a = r->args;
	struct bench b = { .run = r };
	int ret = -1;

	if (check(a, err) || call_open_model(r->call, &r->model, err) ||
	    run_load(r, context, err))
		goto out;
	b.runs = (uint32_t)a->runs;
	b.depth = (uint32_t)a->depth;
	b.prefill.tokens = (uint32_t)a->pp;
	b.decode.tokens = (uint32_t)a->tg;
	b.batch = (uint32_t)a->batch;
	b.count = r->llm->context;
	if (make_room(&b, err) || make_ids(&b, err) ||
	    measure_memory(&r->dev, &b.memory, err) ||
	    repeat(&b, &b.prefill, prefill_once, err) ||
	    repeat(&b, &b.decode, decode_once, err))
		goto out;
	ui_done(r->call->ui);
	if (r->call->ui->json) {
		if (print_json(&b, err))
			goto out;
	} else {
		print_text(&b);
	}
	ret = 0;
out:
	free(b.id);
	free(b.next);
	free(b.ask);
	free(b.best);
	free(b.prefill.seconds);
	free(b.decode.seconds);
	return ret;
}
