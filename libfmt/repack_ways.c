/* What becomes of each layer: the steps asked for, and the sizes that the
 * result has after them. */
#include "repack_gguf.h"

#include "base/json.h"
#include "base/mem.h"
#include "base/pool.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint32_t repack_gcd(uint32_t a, uint32_t b)
{
	while (b) {
		uint32_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

uint32_t repack_lcm(uint32_t a, uint32_t b)
{
	return a / repack_gcd(a, b) * b;
}

/* ---- the MLP's inner size ---- */

static void pad_outputs(struct repack_ways *w, struct repack_way *way,
			uint32_t inter)
{
	if (way->spec.out != inter) {
		repack_way_refuse(way, "it has %u outputs, and config.json an "
				  "intermediate_size of %u", way->spec.out,
				  inter);
		return;
	}
	way->moved = true;
	way->map.out = way->spec.out = w->inter;
}

static void pad_inputs(const struct repack_job *job, struct repack_ways *w,
		       int64_t down, uint32_t inter)
{
	struct repack_way *way = &w->way[down];
	bool packed = repack_target(job, &job->survey->layer[down]) != NULL;
	struct ql_spec *s = &way->spec;
	uint32_t gs = job->group_size && job->group_size < s->group_size ?
			job->group_size : s->group_size;

	if (s->in != inter) {
		repack_way_refuse(way, "it has %u inputs, and config.json an "
				  "intermediate_size of %u", s->in, inter);
		return;
	}
	if (packed && gs && gs < s->in && s->in % gs == 0 && w->inter % gs) {
		repack_way_refuse(way, "padded to %u inputs its groups of %u "
				  "would not be whole; --pad-mlp %u keeps them",
				  w->inter, gs, repack_lcm(gs, job->pad_mlp));
		return;
	}
	way->moved = true;
	way->map.in = s->in = w->inter;
	if (!s->groups) /* dense */
		return;
	if (s->groups == 1)
		s->group_size = s->in;
	s->groups = (s->in - 1) / s->group_size + 1;
}

static int pad(const struct repack_job *job, struct repack_ways *w,
	       struct err *err)
{
	const struct llama_config *c = model_llama(job->model);
	uint64_t inter;

	if (!job->pad_mlp)
		return 0;
	if (!c || !json_find(job->model->config, "intermediate_size"))
		return err_set(err, ERR_UNSUP, "--pad-mlp needs a Llama's "
			       "config.json, which tells the MLP's sizes");
	inter = ((uint64_t)c->inter + job->pad_mlp - 1) / job->pad_mlp *
		job->pad_mlp;
	if (inter > QL_DIM_MAX)
		return err_set(err, ERR_UNSUP, "an MLP of %llu is too large",
			       (unsigned long long)inter);
	if (inter == c->inter)
		return 0;
	w->inter = (uint32_t)inter;
	for (uint32_t b = 0; b < c->layers; b++) {
		int64_t gate = repack_find(job->survey, b, LLAMA_GATE);
		int64_t up = repack_find(job->survey, b, LLAMA_UP);
		int64_t down = repack_find(job->survey, b, LLAMA_DOWN);

		if (gate < 0 || up < 0 || down < 0)
			return err_set(err, ERR_UNSUP, "--pad-mlp: block %u "
				       "has no gate_proj, up_proj and "
				       "down_proj", b);
		pad_outputs(w, &w->way[gate], c->inter);
		pad_outputs(w, &w->way[up], c->inter);
		pad_inputs(job, w, down, c->inter);
	}
	return 0;
}

/* ---- groups and bits ---- */

/* The group size asked for, or the one that the target has. */
static uint32_t wanted_group(const struct repack_job *job,
			     const struct ql_spec *s)
{
	if (job->group_size)
		return job->group_size;
	if (job->to == &qf_marlin && s->groups > 1 && s->group_size % 128 == 0)
		return 128;
	return s->group_size;
}

static void split(const struct repack_job *job, struct repack_way *way)
{
	struct ql_spec *s = &way->spec;
	uint32_t gs = wanted_group(job, s);

	if (way->impossible || gs == s->group_size ||
	    (s->groups == 1 && gs >= s->in))
		return;
	if (gs > s->group_size || (s->groups > 1 && s->group_size % gs)) {
		repack_way_refuse(way, "groups of %u cannot be split into "
				  "groups of %u", s->group_size, gs);
		return;
	}
	way->split = s->group_size = gs;
	s->groups = (s->in - 1) / gs + 1;
}

static void widen(const struct repack_job *job, struct repack_way *way)
{
	if (way->impossible || !job->bits)
		return;
	if (job->bits < way->spec.bits)
		repack_way_refuse(way, "codes of %u bits do not fit %u; "
				  "gptq-quantize makes smaller ones",
				  way->spec.bits, job->bits);
	else
		way->spec.bits = (uint8_t)job->bits;
}

/* Scales of another type, if they are exact in it: that is found out where they
 * are written. */
static void cast(const struct repack_job *job, struct repack_way *way)
{
	if (way->impossible || repack_gguf_is(job))
		return;
	if (job->to == &qf_marlin || job->to == &qf_awq)
		way->spec.scale_type = DT_F16;
	else if (job->scales != DT_NONE)
		way->spec.scale_type = job->scales;
}

/* ---- all layers ---- */

struct making {
	const struct repack_job *job;
	struct repack_ways *ways;
};

static int drop_one(void *ctx, uint32_t i, struct err *err)
{
	struct making *m = ctx;

	return repack_fold_layer(m->job, m->ways, i, err);
}

static int drop(const struct repack_job *job, struct repack_ways *w,
		struct err *err)
{
	struct making m = { job, w };
	struct pool pool = { .count = job->survey->count,
		.threads = job->threads, .fn = drop_one, .ctx = &m,
		.what = "act-order", .progress = job->progress };

	if (job->order != REPACK_DROP || !job->to)
		return 0;
	if (pool_run(&pool, err))
		return -1;
	repack_fold_link(job, w);
	return 0;
}

static void say(struct repack_way *w, const char *fmt, ...)
	ERR_PRINTF(2, 3);

static void say(struct repack_way *w, const char *fmt, ...)
{
	size_t n = strlen(w->why);
	va_list ap;

	if (n && n + 2 < sizeof(w->why)) {
		memcpy(w->why + n, "; ", 3);
		n += 2;
	}
	va_start(ap, fmt);
	vsnprintf(w->why + n, sizeof(w->why) - n, fmt, ap);
	va_end(ap);
}

static void describe(struct repack_way *w, const struct survey_layer *l)
{
	if (w->impossible)
		return;
	if (w->straight)
		say(w, "act-order dropped%s", w->map.col ? ", inputs permuted" :
							   "");
	if (w->map.row)
		say(w, "outputs permuted for the layer behind");
	if (w->spec.out != l->spec.out)
		say(w, "padded to %u outputs", w->spec.out);
	if (w->spec.in != l->spec.in)
		say(w, "padded to %u inputs", w->spec.in);
	if (l->format && l->spec.groups > 1 &&
	    w->spec.group_size != l->spec.group_size)
		say(w, "groups of %u split to %u", l->spec.group_size,
		    w->spec.group_size);
	else if (w->split)
		say(w, "split into groups of %u", w->split);
	if (w->spec.bits != l->spec.bits)
		say(w, "%u to %u bits", l->spec.bits, w->spec.bits);
	if (l->format && w->spec.scale_type != l->spec.scale_type)
		say(w, "scales %s to %s",
		    tensor_dtype_name(l->spec.scale_type),
		    tensor_dtype_name(w->spec.scale_type));
	if (w->spec.sorted && w->spec.act_order && !l->spec.sorted)
		say(w, "rows sorted by group");
	if (!w->spec.sorted && l->spec.sorted && w->spec.act_order)
		say(w, "rows back in their places");
}

/* Without a quantized layer's groups there is nothing to order or split. */
static void finish(const struct repack_job *job, struct repack_ways *w)
{
	for (uint32_t i = 0; i < job->survey->count; i++) {
		const struct survey_layer *l = &job->survey->layer[i];
		struct repack_way *way = &w->way[i];

		way->spec.sorted = job->order == REPACK_SORT;
		if (!l->broken && repack_target(job, l)) {
			split(job, way);
			widen(job, way);
			if (l->format)
				cast(job, way);
		}
		describe(way, l);
		w->after.layer[i].spec = way->spec;
		if (job->to && !repack_target(job, l)) /* dense by then */
			w->after.layer[i].format = NULL;
	}
}

int repack_ways_make(const struct repack_job *job, struct repack_ways *w,
		     struct err *err)
{
	const struct survey *s = job->survey;
	struct mem_part part[] = {
		{ (void **)&w->way, s->count, sizeof(*w->way) },
		{ (void **)&w->after.layer, s->count, sizeof(*s->layer) },
		{ (void **)&w->perm, s->count, sizeof(*w->perm) }
	};

	memset(w, 0, sizeof(*w));
	w->after = *s;
	w->mem = mem_block(part, 3, err);
	if (!w->mem)
		return -1;
	memcpy(w->after.layer, s->layer, s->count * sizeof(*s->layer));
	for (uint32_t i = 0; i < s->count; i++) {
		struct repack_way *way = &w->way[i];

		way->spec = s->layer[i].spec;
		way->map.out = way->spec.out;
		way->map.in = way->spec.in;
	}
	if (drop(job, w, err) || pad(job, w, err))
		return -1;
	finish(job, w);
	return survey_sum(job->model, &w->after, err);
}

void repack_ways_release(struct repack_ways *w)
{
	for (uint32_t i = 0; w->mem && i < w->after.count; i++)
		free(w->perm[i]);
	free(w->mem);
	memset(w, 0, sizeof(*w));
}

/* ---- one layer ---- */

bool repack_way_changes(const struct repack_way *w,
			const struct survey_layer *l)
{
	return w->moved || w->straight || w->split ||
	       w->spec.bits != l->spec.bits ||
	       w->spec.scale_type != l->spec.scale_type ||
	       (l->spec.sorted && !w->spec.sorted) ||
	       (l->spec.act_order && w->spec.sorted && !l->spec.sorted);
}

int repack_way_apply(const struct repack_way *w, struct ql *ql,
		     struct err *err)
{
	const struct ql_spec *s = &w->spec;
	struct ql_map order = { w->map.row, w->map.col, ql->spec.out,
				ql->spec.in };
	struct ql_map pads = { NULL, NULL, s->out, s->in };

	/* padding fills groups up, which are to be contiguous by then */
	if (((order.row || order.col) && ql_move(ql, &order, err)) ||
	    (w->straight && ql_straighten(ql, w->straight, err)) ||
	    ((s->out != ql->spec.out || s->in != ql->spec.in) &&
	     ql_move(ql, &pads, err)) ||
	    (w->split && ql_split(ql, w->split, err)) ||
	    (s->bits != ql->spec.bits && ql_widen(ql, s->bits, err)))
		return -1;
	/* parts were planned for these; where a step left less than that, what
	 * it left is written out */
	ql->spec.sorted = s->sorted;
	ql->spec.scale_type = s->scale_type;
	ql->spec.act_order |= s->act_order;
	if (!s->sym)
		ql->spec.sym = 0;
	if (s->in != ql->spec.in || s->out != ql->spec.out ||
	    s->groups != ql->spec.groups || !s->sym != !ql->spec.sym ||
	    s->act_order != ql->spec.act_order)
		return err_set(err, ERR_INPUT, "the layer is not as it was "
			       "when the work was planned");
	return 0;
}
