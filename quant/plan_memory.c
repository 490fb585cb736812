/* plan_memory.c - the walk once more, with sizes in the place of matrices.
 *
 * Every matrix that walk*.c, hess.c, the methods and refine.c allocate stands
 * here, in the order of the walk.  Device memory counts as the process's own
 * where the device is the CPU. */
#include "plan.h"

#include "../libfmt/base/err.h"
#include "calib.h"
#include "metric.h"

#include <stdio.h>
#include <string.h>

#define MIB ((uint64_t)1 << 20)

/* Beside what is counted: code that comes in as it is run, small blocks, and
 * what large ones lose to huge pages. */
#define LOOSE (32 * MIB)

enum place { HOST, DEVICE };

struct tally {
	const struct gq_plan_memory *m;
	uint64_t now[2]; /* held at the moment, by place */
	struct gq_peak *peak[2];
	uint64_t rows;   /* of one window */
	const char *module;
};

static enum place place_of(const struct tally *t, enum place p)
{
	return t->m->apart ? p : HOST;
}

static void hold(struct tally *t, enum place p, uint64_t bytes)
{
	t->now[place_of(t, p)] += bytes;
}

static void drop(struct tally *t, enum place p, uint64_t bytes)
{
	t->now[place_of(t, p)] -= bytes;
}

/* At this moment there is as much more on the host and the device. */
static void mark(struct tally *t, uint64_t host, uint64_t device,
		 const char *what)
{
	uint64_t more[2] = { host, 0 };

	more[place_of(t, DEVICE)] += device;
	for (int p = 0; p < 2; p++) {
		uint64_t n = t->now[p] + more[p];

		if (n <= t->peak[p]->bytes)
			continue;
		t->peak[p]->bytes = n;
		snprintf(t->peak[p]->at, sizeof(t->peak[p]->at), "%s: %s",
			 t->module, what);
	}
}

/* ---- one linear ---- */

static uint64_t square(uint64_t n)
{
	return n * n;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t elements(const struct gq_target *l)
{
	return (uint64_t)l->in * l->out;
}

/* Scales of a linear, or zeros. */
static uint64_t cells(const struct gq_target *l)
{
	uint32_t size = gq_group_size(&l->params, l->in);

	return l->out * (uint64_t)((l->in - 1) / size + 1);
}

static uint64_t dense(const struct tally *t, const struct gq_target *l)
{
	return elements(l) * t->m->elem;
}

/* The neutral layer. */
static uint64_t neutral(const struct gq_target *l)
{
	return elements(l) + 8 * cells(l) + 4 * (uint64_t)l->in;
}

/* The device's own layout: codes, grids that may be f32, padding. */
static uint64_t prepared(const struct gq_target *l)
{
	return elements(l) * l->params.bits / 8 + 8 * cells(l) +
	       elements(l) / 16 + 16 * (uint64_t)l->in;
}

static uint64_t packed(const struct tally *t, const struct gq_target *l)
{
	struct ql_spec spec;
	struct qf_plan plan;
	struct err unused;
	uint64_t n = 0;

	gq_spec(&l->params, l->out, l->in, &spec);
	/* was accepted before; then this cannot fail */
	if (t->m->job->format->plan(&spec, &plan, &unused))
		return elements(l);
	for (uint32_t i = 0; i < plan.count; i++)
		n += plan.part[i].bytes;
	return n;
}

/* Columns that a refinement works on at once. */
static uint64_t refined(const struct gq_target *l)
{
	uint64_t size = gq_group_size(&l->params, l->in);
	uint64_t block = l->params.block;

	return least(size > block ? size : block, l->in);
}

static bool compares(const struct tally *t)
{
	return t->m->job->method->compares;
}

/* Solving: the weight in f32 (and where models are compared the one to come
 * near to), the run's matrices, then the layer as it comes out; what stays is
 * the layer, still dense in the block. */
static void solve(struct tally *t, const struct gq_target *l)
{
	const uint64_t n = elements(l), grids = 8 * cells(l);
	const uint64_t block = least(l->params.block, l->in);
	uint64_t host, device, weight = compares(t) ? 8 * n : 4 * n;

	t->module = l->name;
	hold(t, HOST, weight);
	mark(t, dense(t, l), 0, "reading the weight");
	/* codes, grids, weights, errors; rows on their way */
	host = neutral(l) + grids + 4 * (uint64_t)l->in + 4 * MIB;
	device = 5 * n + grids + 4 * l->out * block;
	mark(t, host, device, "solving");
	if (t->m->job->method->needs_hessian) {
		uint64_t part = least(METRIC_ROWS, l->out) * l->in;

		if (l->params.passes)
			mark(t, host + n + 4 * square(refined(l)),
			     device + 9 * n + grids +
			     4 * l->out * refined(l) + 4 * square(refined(l)),
			     "refining");
		/* rows of W, Q, R; R's own solving */
		mark(t, host + 18 * part, device + 18 * part, "measuring");
	}
	hold(t, HOST, neutral(l));
	mark(t, packed(t, l), 0, "packing");
	drop(t, HOST, weight);
}

/* Into the block, in the place of the dense weight. */
static void put_back(struct tally *t, const struct gq_target *l)
{
	t->module = l->name;
	hold(t, DEVICE, prepared(l));
	mark(t, 0, 0, "putting it back");
	drop(t, DEVICE, dense(t, l));
	drop(t, HOST, neutral(l));
}

/* ---- Hessians ---- */

/* H is held, then U beside it and what a factorisation takes: on the CPU H's
 * own place, on the GPU two and one in f32 (factor.c, hess.cu).  Of the drift
 * its sum is held and gives way to a product (drift.c). */
static void prepare(struct tally *t, uint64_t n)
{
	const uint64_t host = 64 * n;

	hold(t, DEVICE, 4 * square(n));
	mark(t, host, t->m->apart ? 20 * square(n) : 0,
	     "factoring the Hessian");
	if (compares(t)) {
		/* the sum, the product and half of it */
		mark(t, host, 8 * square(n), "preparing the drift");
	}
	drop(t, DEVICE, 8 * square(n));
}

static void gather(struct tally *t, uint64_t n)
{
	hold(t, DEVICE, 8 * square(n));
	hold(t, DEVICE, compares(t) ? 4 * square(n) : 0);
	mark(t, compares(t) ? 3072 * n : 0, compares(t) ? 1024 * n : 0,
	     "gathering the Hessian");
}

/* The slot is done: U goes, and what was made of the drift. */
static void settled(struct tally *t, uint64_t n)
{
	drop(t, DEVICE, 4 * square(n));
	drop(t, DEVICE, compares(t) ? 4 * square(n) : 0);
}

static const struct gq_target *target(const struct tally *t, uint32_t layer,
				      int which)
{
	return &t->m->targets->target[layer * LLAMA_LINEARS + (uint32_t)which];
}

/* The first linear of a slot that is quantized; NULL: none is. */
static const struct gq_target *of_slot(const struct tally *t, uint32_t layer,
				       int slot)
{
	for (int i = 0; i < LLAMA_LINEARS; i++)
		if ((int)llama_slot_of((enum llama_linear)i) == slot &&
		    !target(t, layer, i)->skip)
			return target(t, layer, i);
	return NULL;
}

/* ---- a block ---- */

/* The linears of a slot one after the other; each is kept until `later` or
 * goes into the block at once. */
static void solve_slot(struct tally *t, uint32_t layer, int slot, bool later)
{
	for (int i = 0; i < LLAMA_LINEARS; i++) {
		const struct gq_target *l = target(t, layer, i);

		if ((int)llama_slot_of((enum llama_linear)i) != slot ||
		    l->skip)
			continue;
		solve(t, l);
		if (!later)
			put_back(t, l);
	}
}

static void block_sequential(struct tally *t, uint32_t layer)
{
	for (int s = 0; s < LLAMA_SLOTS; s++) {
		const struct gq_target *l = of_slot(t, layer, s);

		if (!l)
			continue;
		t->module = l->name;
		gather(t, l->in);
		prepare(t, l->in);
		solve_slot(t, layer, s, false);
		settled(t, l->in);
	}
}

static void block_at_once(struct tally *t, uint32_t layer)
{
	const struct gq_target *l;

	for (int s = 0; s < LLAMA_SLOTS; s++) {
		l = of_slot(t, layer, s);
		if (l)
			gather(t, l->in);
	}
	for (int s = 0; s < LLAMA_SLOTS; s++) {
		l = of_slot(t, layer, s);
		if (!l)
			continue;
		t->module = l->name;
		prepare(t, l->in);
		solve_slot(t, layer, s, true);
		settled(t, l->in);
	}
	for (int i = 0; i < LLAMA_LINEARS; i++)
		if (!target(t, layer, i)->skip)
			put_back(t, target(t, layer, i));
}

static void block(struct tally *t, uint32_t layer)
{
	const uint64_t before[2] = { t->now[HOST], t->now[DEVICE] };
	uint64_t all = 0;

	for (int i = 0; i < LLAMA_LINEARS; i++)
		all += dense(t, target(t, layer, i));
	t->module = target(t, layer, 0)->name;
	hold(t, DEVICE, compares(t) ? 2 * all : all);
	mark(t, all, 0, "loading the block");
	if (t->m->job->true_sequential)
		block_sequential(t, layer);
	else
		block_at_once(t, layer);
	memcpy(t->now, before, sizeof(before));
}

static void head(struct tally *t)
{
	const struct gq_targets *ts = t->m->targets;
	const struct gq_target *l = &ts->target[ts->count - 1];

	if (!ts->head || l->skip)
		return;
	t->module = l->name;
	if (t->m->job->method->needs_hessian) {
		gather(t, l->in);
		prepare(t, l->in);
	}
	solve(t, l);
}

/* ---- the whole ---- */

/* What the CPU's operations keep for themselves, grown by half as they ask for
 * it (cpu_scratch): panels of X for syrk, a column of tiles of the factor in
 * two forms (shared) and a strip of its inverse (each thread).
 * What the GPU keeps is counted where it is largest, in prepare. */
static uint64_t operations(const struct tally *t, uint64_t widest)
{
	uint64_t threads = t->m->job->params.threads;
	uint64_t chunk = 512 * (widest + 63), chunks = t->rows / 128 + 1;
	uint64_t shared = least(chunks * chunk, 64 * MIB) + chunk;
	uint64_t tiles = 2 * 8 * 192 * (widest + 191);

	if (t->m->apart)
		return 64 * MIB;
	return 3 * (shared > tiles ? shared : tiles) / 2 +
	       threads * (3 * 8 * 96 * widest / 2 + 2 * MIB);
}

/* Activations, one window's scratch, the embeddings they begin with. */
static void activations(struct tally *t)
{
	const struct gq_job *job = t->m->job;
	const struct llama_config *c = job->cfg;
	const uint64_t table = (uint64_t)c->vocab * c->hidden * t->m->elem;
	uint64_t heads = (uint64_t)c->heads * c->head_dim, keep, windows;
	uint64_t widest = heads > c->inter ? heads : c->inter;
	uint64_t streams = compares(t) ? 2 : 1;

	windows = t->m->spill ? 1 : job->calib->samples;
	keep = job->true_sequential ? windows * widest : c->hidden;
	hold(t, DEVICE, 4 * t->rows * streams * (windows * c->hidden + keep));
	hold(t, HOST, t->m->spill ? 2 * streams * MIB : 0);
	/* what one stream shows the other */
	hold(t, DEVICE, compares(t) ? 4 * t->rows *
	     (widest > c->hidden ? widest : c->hidden) : 0);
	/* norm, q, att, gate, up; rope's tables; keys and values */
	hold(t, DEVICE, 4 * t->rows * (c->hidden + 2 * heads +
				       2 * (uint64_t)c->inter));
	hold(t, DEVICE, 4 * t->rows * c->head_dim * (1 + 2 * c->kv_heads));
	hold(t, HOST, operations(t, widest));
	t->module = LLAMA_TABLE;
	mark(t, table, table, "looking up");
}

int gq_plan_memory(const struct gq_plan_memory *m, struct gq_peak *host,
		   struct gq_peak *device, struct err *err)
{
	const struct gq_targets *ts = m->targets;
	const bool looks = m->job->method->needs_hessian;
	struct tally t = { .m = m, .peak = { host, device } };

	memset(host, 0, sizeof(*host));
	memset(device, 0, sizeof(*device));
	if (looks && !m->job->calib)
		return err_set(err, ERR_USAGE, "method %s needs calibration "
			       "text", m->job->method->name);
	t.rows = m->job->calib ? m->job->calib->seqlen : 0;
	t.module = "all";
	hold(&t, HOST, m->base + LOOSE);
	/* a piece for each thread */
	mark(&t, least(llama_parameters(m->job->cfg) * m->elem,
		       m->job->params.threads * 17 * MIB), 0,
	     "hashing the weights");
	if (looks)
		activations(&t);
	else
		hold(&t, HOST, operations(&t, 0));
	for (uint32_t i = 0; i < m->job->cfg->layers; i++) {
		if (looks)
			block(&t, i);
		for (int k = 0; !looks && k < LLAMA_LINEARS; k++)
			if (!target(&t, i, k)->skip) {
				solve(&t, target(&t, i, k));
				drop(&t, HOST, neutral(target(&t, i, k)));
			}
	}
	if (ts->head)
		head(&t);
	return 0;
}
