#include "target.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"
#include "output.h"

#include <stdlib.h>
#include <string.h>

/* A rule may ask for what the method does not do. */
static int check_method(const struct gq_job *job, const struct gq_target *t,
			struct err *err)
{
	if (!job->method->needs_hessian && t->params.desc_act)
		return err_set(err, ERR_USAGE, "method %s knows no desc_act",
			       job->method->name);
	return 0;
}

/* `base` is the job's parameters before rules; hit[] marks the rules that
 * decided something. */
static int decide(struct gq_target *t, const struct gq_job *job, uint8_t *hit,
		  struct err *err)
{
	struct ql_spec spec;
	uint32_t rule;

	t->params = job->params;
	if (gq_rules_apply(job->rules, t->name, &t->params, &t->skip, &rule,
			   err))
		return -1;
	if (rule != UINT32_MAX)
		hit[rule] = 1;
	if (t->skip)
		return 0;
	if (check_method(job, t, err) ||
	    gq_output_least_zero(job->format, &t->params,
				 &t->params.zero_min, err))
		return -1;
	gq_spec(&t->params, t->out, t->in, &spec);
	return job->format->accept(&spec, err);
}

static int decide_all(struct gq_targets *ts, const struct gq_job *job,
		      uint8_t *hit, struct err *err)
{
	uint32_t linears = job->cfg->layers * LLAMA_LINEARS;

	for (uint32_t i = 0; i < ts->count; i++) {
		struct gq_target *t = &ts->target[i];
		enum llama_linear which =
			(enum llama_linear)(i % LLAMA_LINEARS);

		t->weight = t->name;
		if (i < linears) {
			llama_linear_name(i / LLAMA_LINEARS, which, t->name);
			llama_linear_shape(job->cfg, which, &t->in, &t->out);
		} else {
			memcpy(t->name, LLAMA_HEAD, sizeof(LLAMA_HEAD));
			t->in = job->cfg->hidden;
			t->out = job->cfg->vocab;
			if (job->cfg->tied)
				t->weight = LLAMA_TABLE;
		}
		if (decide(t, job, hit, err))
			return err_ctx(err, "%s", t->name);
		ts->quantized += !t->skip;
	}
	return 0;
}

/* A rule that decides nothing is a mistake: of spelling, or of order. */
static int check_hits(const struct gq_targets *ts, const struct gq_rules *r,
		      const uint8_t *hit, struct err *err)
{
	for (uint32_t i = 0; i < gq_rules_count(r); i++) {
		const char *key = json_key(gq_rules_item(r, i)) + 2;
		uint32_t n = 0;

		if (hit[i])
			continue;
		for (uint32_t k = 0; k < ts->count; k++)
			n += gq_rules_matches(r, i, ts->target[k].name) != 0;
		if (n)
			return err_set(err, ERR_USAGE, "--rule '%s': another "
				       "rule holds for all it matches (skip "
				       "comes first, then the first that "
				       "matches)", key);
		return err_set(err, ERR_USAGE, "--rule '%s': matches no "
			       "linear%s", key, ts->head ? "" :
			       " (lm_head is one only with --lm-head)");
	}
	if (!ts->quantized)
		return err_set(err, ERR_USAGE,
			       "the rules skip every linear");
	return 0;
}

int gq_targets_init(struct gq_targets *ts, const struct gq_job *job,
		    struct err *err)
{
	uint8_t *hit = NULL;
	int ret = -1;

	*ts = (struct gq_targets){
		.count = job->cfg->layers * LLAMA_LINEARS + job->lm_head,
		.head = job->lm_head
	};
	if (job->rules && job->format == &qf_marlin) {
		err_set(err, ERR_UNSUP, "readers of marlin know no rules for "
			"single modules; --format gptq has them");
		goto out;
	}
	hit = mem_alloc(gq_rules_count(job->rules) + 1, 1, err);
	if (!hit)
		goto out;
	ts->target = mem_alloc(ts->count, sizeof(*ts->target), err);
	if (!ts->target || decide_all(ts, job, hit, err) ||
	    check_hits(ts, job->rules, hit, err) ||
	    gq_dynamic_make(ts, job, err))
		goto out;
	ret = 0;
out:
	free(hit);
	if (ret)
		gq_targets_release(ts);
	return ret;
}

void gq_targets_release(struct gq_targets *t)
{
	free(t->target);
	json_free(t->dynamic);
	memset(t, 0, sizeof(*t));
}

const struct gq_target *gq_targets_find(const struct gq_targets *t,
					const char *module)
{
	uint32_t layer, linears = t->count - t->head;
	enum llama_linear which;

	if (!llama_linear_parse(module, &layer, &which))
		return layer < linears / LLAMA_LINEARS ?
			&t->target[layer * LLAMA_LINEARS + (uint32_t)which] :
			NULL;
	return t->head && !strcmp(module, LLAMA_HEAD) ? &t->target[linears] :
							NULL;
}

const struct gq_target *gq_targets_tensor(const struct gq_targets *t,
					  const char *tensor)
{
	static const char tail[] = ".weight";
	size_t n = strlen(tensor), m = sizeof(tail) - 1;
	char module[LLAMA_NAME];

	if (n <= m || n - m >= sizeof(module) || strcmp(tensor + n - m, tail))
		return NULL;
	memcpy(module, tensor, n - m);
	module[n - m] = '\0';
	return gq_targets_find(t, module);
}
