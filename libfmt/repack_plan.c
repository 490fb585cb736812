/* What to do with each layer, and why not. */
#include "repack_gguf.h"

#include "base/json.h"
#include "base/mem.h"
#include "base/pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What writing a layer anew in its own layout mends. */
#define MENDED                                                         \
	((uint32_t)(QF_ODD_LABEL | QF_ODD_GIDX_MISSING |               \
		    QF_ODD_GIDX_ZERO | QF_ODD_GIDX_I64 |               \
		    QF_ODD_ZERO_SWAP3 | QF_ODD_QZEROS_MISSING |            \
		    QF_ODD_WORDS | QF_ODD_OUTPUTS | QF_ODD_SPARE | \
		    QF_ODD_FORM))

/* ---- what to do with each layer ---- */

/* Where the layer does not say what its values are. */
static const struct {
	uint32_t odd;
	bool lost; /* not even with job->lossy */
	const char *why;
} doubts[] = {
	{ QF_ODD_ZERO_SMEAR, true,
	  "zeros were lost when it was packed; only the dense model brings "
	  "them back" },
	{ QF_ODD_SYM, false,
	  "the config says sym, but the zeros are not all the middle one; "
	  "which is right is not known" },
	{ QF_ODD_GIDX_ACT_MISSING, false,
	  "the config says desc_act, but without g_idx the groups are not "
	  "known" },
	{ QF_ODD_BOTH, false,
	  "weight and qweight are both there; which is right is not known" },
};

static const char *doubt(const struct repack_job *job,
			 const struct survey_layer *l)
{
	uint32_t odd = l->odd;

	if (job->sym == REPACK_SYM_MIDDLE)
		odd &= ~(uint32_t)QF_ODD_SYM;
	for (size_t i = 0; i < sizeof(doubts) / sizeof(doubts[0]); i++)
		if ((odd & doubts[i].odd) && (doubts[i].lost || !job->lossy))
			return doubts[i].why;
	return NULL;
}

/* Is there something that writing it anew mends? */
static bool ails(const struct repack_job *job, const struct survey_layer *l)
{
	return l->odd & (MENDED | (job->fix ? (uint32_t)QF_ODD_SYM : 0));
}

bool repack_anew(const struct repack_job *job)
{
	for (uint32_t i = 0; i < job->survey->count; i++)
		if (job->survey->layer[i].odd & QF_ODD_ZERO_SWAP3)
			return true;
	return false;
}

static const char *change(const struct repack_job *job,
			  const struct survey_layer *l)
{
	const struct qfmt *to = repack_target(job, l);

	if (!to)
		return "decoded";
	if (to == l->format)
		return ails(job, l) ? "written anew, mended" : "written anew";
	if (l->format == &qf_gptq && to == &qf_gptq_v2)
		return "qzeros + 1";
	if (l->format == &qf_gptq_v2 && to == &qf_gptq)
		return "qzeros - 1";
	return "codes repacked";
}

/* Put two notes together. */
static void join(char note[256], const char *what, const char *steps)
{
	size_t n = strlen(what);

	snprintf(note, 256, "%s%s%.*s", what, n && *steps ? "; " : "",
		 n < 250 ? 250 - (int)n : 0, steps);
}

/* No layout to read it by: dense, and perhaps moved. */
static enum repack_action decide_dense(const struct repack_way *w,
				       char note[256])
{
	if (!w->moved) {
		snprintf(note, 256, "unchanged");
		return REPACK_LEAVE;
	}
	snprintf(note, 256, "%s", w->why);
	return REPACK_MOVE;
}

/* Why the layout does not take the layer, and what helps: wider codes, or no
 * codes at all. */
static void not_accepted(const struct repack_job *job, const struct qfmt *to,
			 const struct ql_spec *spec, const struct err *err,
			 char note[256])
{
	struct ql_spec wide = *spec;
	struct err ignored;

	snprintf(note, 256, "%.200s%s", err->msg,
		 spec->zero_kind == QL_POINT ? "" :
					       "; --to dense keeps them");
	for (uint8_t b = 4; b <= 8 && !job->bits; b += 4) {
		wide.bits = b;
		if (b > spec->bits && !to->accept(&wide, &ignored)) {
			snprintf(note, 256, "%.200s; --bits %u widens them",
				 err->msg, b);
			return;
		}
	}
}

static enum repack_action decide(const struct repack_job *job,
				 const struct survey_layer *l,
				 const struct repack_way *w, char note[256])
{
	const struct qfmt *to = repack_target(job, l);
	bool same = to == l->format;
	const char *why = l->format ? doubt(job, l) : NULL;
	struct err err;
	char what[160];

	if (l->broken || w->impossible) {
		snprintf(note, 256, "%.255s", l->broken ? l->why : w->why);
		return REPACK_REFUSE;
	}
	if (!l->format)
		return decide_dense(w, note);
	if (why && (!same || repack_way_changes(w, l))) {
		snprintf(note, 256, "%s", why);
		return REPACK_REFUSE;
	}
	if (why) {
		snprintf(note, 256, "unchanged; note that %s", why);
		return REPACK_LEAVE;
	}
	if (same && !ails(job, l) && !repack_anew(job) &&
	    !repack_way_changes(w, l)) {
		snprintf(note, 256, "unchanged");
		return REPACK_LEAVE;
	}
	if (to && to->accept(&w->spec, &err)) {
		not_accepted(job, to, &w->spec, &err, note);
		return REPACK_REFUSE;
	}
	snprintf(what, sizeof(what), "%s%s%s%s", change(job, l),
		 to ? "" : " to ", to ? "" : tensor_dtype_name(job->dense_type),
		 l->odd & QF_ODD_ZERO_WRAP ?
			 "; stored zeros of all ones have more than one "
			 "reading" : "");
	join(note, same && !ails(job, l) && *w->why ? "" : what, w->why);
	return REPACK_CONVERT;
}

/* A damaged layer ends the work with its own error. */
static int check_broken(const struct repack_job *job,
			const struct survey_layer *l, struct err *err)
{
	struct qf_hint hint;
	struct qf_layer q = { .module = l->module, .hint = &hint };
	struct ql_spec spec;
	bool skip;

	if (!l->broken || !l->format)
		return 0;
	if (model_hint(job->model, l->module->name, &hint, &skip, err))
		return -1;
	return l->format->spec(&q, &spec, err) && err->code == ERR_INPUT ? -1
									 : 0;
}

int repack_decide(const struct repack_job *job, const struct repack_ways *w,
		  struct repack_step *steps, enum repack_action *action,
		  struct err *err)
{
	const struct survey *s = job->survey;

	for (uint32_t i = 0; i < s->count; i++) {
		enum repack_action a;

		if (check_broken(job, &s->layer[i], err))
			return -1;
		a = decide(job, &s->layer[i], &w->way[i], steps[i].note);
		steps[i].layer = &s->layer[i];
		steps[i].refused = a == REPACK_REFUSE;
		action[i] = a;
	}
	return 0;
}

/* ---- trying out ---- */

struct trial {
	const struct repack_job *job;
	struct repack_step *steps;
	const enum repack_action *action;
	const struct repack_ways *ways;
};

/* Convert without writing, where a single zero or scale may not fit. */
static int try_layer(void *ctx, uint32_t i, struct err *err)
{
	struct trial *t = ctx;
	struct repack_item item = { .layer = t->steps[i].layer,
				    .way = &t->ways->way[i] };
	const struct ql_spec *spec = &item.way->spec;
	size_t name;

	if (t->action[i] != REPACK_CONVERT ||
	    !repack_target(t->job, item.layer) ||
	    (spec->sym && spec->scale_type == item.layer->spec.scale_type &&
	     (spec->scale_type == DT_F16 ||
			   t->job->to != &qf_gguf)))
		return 0;
	if (repack_layer_plan(t->job, &item, &item.plan, err))
		return -1;
	if (!repack_layer_convert(t->job, &item, NULL, err))
		return 0;
	if (err->code != ERR_UNSUP)
		return -1;
	t->steps[i].refused = true;
	/* the step names its layer by itself */
	name = strlen(item.layer->module->name) + 2;
	snprintf(t->steps[i].note, sizeof(t->steps[i].note), "%.255s",
		 err->msg + (name < strlen(err->msg) ? name : 0));
	return 0;
}

int repack_plan(const struct repack_job *job, struct repack_step **steps,
		uint32_t *refused, struct err *err)
{
	uint32_t count = job->survey->count;
	struct repack_ways ways = { .mem = NULL };
	struct trial t = { .job = job, .ways = &ways };
	struct pool pool = { .count = count, .fn = try_layer, .ctx = &t,
		.what = "plan",
		.progress = job->progress };
	enum repack_action *action = mem_alloc(count, sizeof(*action), err);
	struct cJSON *config = NULL;
	int ret = -1;

	*refused = 0;
	*steps = NULL;
	/* can the config say it at all? */
	if (!action || repack_ways_make(job, &ways, err) ||
	    repack_gguf_check(job, &ways, err) ||
	    repack_config_foreign(job, &ways.after, &config, err))
		goto out;
	*steps = mem_alloc(count, sizeof(**steps), err);
	if (!*steps || repack_decide(job, &ways, *steps, action, err))
		goto out;
	t.steps = *steps;
	pool.threads = repack_threads(job, &ways);
	t.action = action;
	if (pool_run(&pool, err))
		goto out;
	for (uint32_t i = 0; i < count; i++)
		*refused += (*steps)[i].refused;
	if (repack_gguf_is(job) && !*refused &&
	    repack_gguf_try(job, &ways, action, err))
		goto out;
	ret = 0;
out:
	json_free(config);
	repack_ways_release(&ways);
	free(action);
	if (ret) {
		free(*steps);
		*steps = NULL;
	}
	return ret;
}
