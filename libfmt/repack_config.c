/* The configs of a repacked checkpoint: what the tensors are now, with the
 * history that the old config tells. */
#include "repack_impl.h"

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"
#include "llama.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

/* Group sizes that mean one group per row are all equal. */
static uint32_t real_group(int32_t said, const struct ql_spec *s)
{
	return said <= 0 || (uint32_t)said > s->in ? s->in : (uint32_t)said;
}

/* Do the old rules describe each layer as its tensors are? */
static int rules_hold(const struct repack_job *job, bool *hold,
		      struct err *err)
{
	*hold = job->model->quant.dynamic != NULL;
	for (uint32_t i = 0; *hold && i < job->survey->count; i++) {
		const struct survey_layer *l = &job->survey->layer[i];
		struct qf_hint hint;
		bool skip;

		if (model_hint(job->model, l->module->name, &hint, &skip, err))
			return -1;
		if (l->format && (skip || (l->odd & (QF_ODD_BITS |
						     QF_ODD_GROUP))))
			*hold = false;
	}
	return 0;
}

/* "+:^model\\.layers\\.0\\.mlp\\.up_proj$" */
static char *exact_rule(const char *head, const char *name, struct err *err)
{
	char *rule = mem_alloc(2 * strlen(name) + 8, 1, err), *at;

	if (!rule)
		return NULL;
	at = rule;
	memcpy(at, head, strlen(head));
	at += strlen(head);
	*at++ = '^';
	for (; *name; name++) {
		if (strchr("\\^$.[]|()?*+{}#-", *name))
			*at++ = '\\';
		*at++ = *name;
	}
	*at = '$';
	return rule;
}

static bool as_all(const struct survey_layer *l, const struct config_out *c)
{
	return l->format && l->spec.bits == c->bits &&
	       l->spec.group_size == real_group(c->group_size, &l->spec);
}

/* Is there a quantized layer that is not as `c` says of all? */
static bool exceptions(const struct repack_job *job,
		       const struct config_out *c)
{
	for (uint32_t i = 0; i < job->survey->count; i++)
		if (job->survey->layer[i].format &&
		    !as_all(&job->survey->layer[i], c))
			return true;
	return false;
}

/* The rule of one layer; a negative one for a linear that stayed dense. */
static int add_rule(struct cJSON *rules, const struct survey_layer *l,
		    struct err *err)
{
	char *key = exact_rule(l->format ? "+:" : "-:", l->module->name, err);
	struct cJSON *o;

	if (!key)
		return -1;
	o = cJSON_AddObjectToObject(rules, key);
	free(key);
	if (!o || (l->format &&
		   (!cJSON_AddNumberToObject(o, "bits", l->spec.bits) ||
		    !cJSON_AddNumberToObject(o, "group_size",
					     l->spec.groups == 1 ? -1 :
					     (double)l->spec.group_size))))
		return err_set(err, ERR_RESOURCE, "out of memory for JSON");
	return 0;
}

/* Rules from the tensors: exact names, negatives first, so that readers that
 * sort them and readers that do not agree. */
static int make_rules(const struct repack_job *job,
		      const struct config_out *c, struct cJSON **out,
		      struct err *err)
{
	const struct survey *s = job->survey;

	*out = cJSON_CreateObject();
	if (!*out)
		return err_set(err, ERR_RESOURCE, "out of memory for JSON");
	for (uint32_t i = 0; i < s->count; i++)
		if (!s->layer[i].format &&
		    strcmp(s->layer[i].module->name, LLAMA_HEAD) != 0 &&
		    add_rule(*out, &s->layer[i], err))
			return -1;
	for (uint32_t i = 0; i < s->count; i++)
		if (s->layer[i].format && !as_all(&s->layer[i], c) &&
		    add_rule(*out, &s->layer[i], err))
			return -1;
	return 0;
}

static bool head_is_quantized(const struct repack_job *job)
{
	for (uint32_t i = 0; i < job->survey->count; i++)
		if (job->survey->layer[i].format &&
		    !strcmp(job->survey->layer[i].module->name, LLAMA_HEAD))
			return true;
	return false;
}

/* What holds for the whole; the tensors win, and where they differ among each
 * other the old config's word for "all but the rules" stays. */
static struct config_out describe(const struct repack_job *job)
{
	const struct config_quant *q = &job->model->quant;
	const struct survey *s = job->survey;
	struct config_out c = {
		.bits = s->mixed && q->bits ? q->bits : s->bits,
		.group_size = s->mixed && q->group_size ? q->group_size :
							  s->group_size,
		.desc_act = s->desc_act || q->desc_act == 1,
		.sym = s->sym && q->sym != 0,
		.true_sequential = true,
		.lm_head = head_is_quantized(job),
		.damp_percent = 0.01,
		.format = job->to->name,
		.method = "gptq",
		.keep = q->tree
	};

	/* other methods' fields would only mislead */
	if (q->method && (!strcmp(q->method, "awq") ||
			  !strcmp(q->method, "compressed-tensors")))
		c.keep = NULL;
	return c;
}

/* A copy of the old object that does not name its quantizer. */
static int forget_quantizer(const struct cJSON *tree, struct cJSON **out,
			    struct err *err)
{
	struct cJSON *meta;

	*out = cJSON_Duplicate(tree, 1);
	if (!*out)
		return err_set(err, ERR_RESOURCE, "out of memory for JSON");
	meta = cJSON_GetObjectItemCaseSensitive(*out, "meta");
	cJSON_DeleteItemFromObjectCaseSensitive(meta, "quantizer");
	return 0;
}

static int write_quantized(const struct repack_job *job, bool anew,
			   struct err *err)
{
	const struct model *m = job->model;
	struct config_out c = describe(job);
	struct cJSON *rules = NULL, *keep = NULL, *quant = NULL;
	bool hold;
	int ret = -1;

	if (repack_config_foreign(job, &quant, err))
		goto out;
	if (quant) {
		ret = config_write(job->out, m->config, quant, NULL, err);
		goto out;
	}
	if (rules_hold(job, &hold, err))
		goto out;
	if (hold) {
		c.dynamic = m->quant.dynamic;
		if (m->quant.sym >= 0) /* the rules say which are not */
			c.sym = m->quant.sym;
		if (m->quant.desc_act >= 0 && !(job->survey->odd & QF_ODD_ACT))
			c.desc_act = m->quant.desc_act;
	} else if (exceptions(job, &c)) {
		if (make_rules(job, &c, &rules, err))
			goto out;
		c.dynamic = rules;
	}
	if (anew && c.keep) {
		if (forget_quantizer(c.keep, &keep, err))
			goto out;
		c.keep = keep;
	}
	if (config_quant_build(&c, &quant, err) ||
	    config_write(job->out, m->config, quant, NULL, err))
		goto out;
	ret = 0;
out:
	json_free(rules);
	json_free(keep);
	json_free(quant);
	return ret;
}

int repack_config_write(const struct repack_job *job, bool anew,
			struct err *err)
{
	const char *dtype = job->dense_type == DT_BF16 ? "bfloat16" :
			    job->dense_type == DT_F32 ? "float32" : "float16";

	if (job->to && job->survey->quantized)
		return write_quantized(job, anew, err);
	return config_write(job->out, job->model->config, NULL,
			    job->survey->quantized ? dtype : NULL, err);
}
