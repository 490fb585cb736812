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

static bool has_list(const struct repack_job *job)
{
	return json_count(json_find(job->model->quant.tree,
				    "modules_in_block_to_quantize")) > 0;
}

/* Do the old rules describe each layer as its tensors are, and will be?  With
 * `fix` also to readers that join layers. */
static int rules_hold(const struct repack_job *job,
		      const struct repack_ways *w, bool *hold, struct err *err)
{
	*hold = job->model->quant.dynamic != NULL;
	for (uint32_t i = 0; *hold && i < job->survey->count; i++) {
		const struct survey_layer *l = &job->survey->layer[i];
		bool packed = repack_target(job, l) != NULL;
		struct qf_hint hint;
		bool skip;

		if (model_hint(job->model, l->module->name, &hint, &skip, err))
			return -1;
		if (packed ? skip || l->odd & (QF_ODD_BITS | QF_ODD_GROUP) ||
				     w->way[i].spec.bits != l->spec.bits ||
				     w->way[i].straight || w->way[i].split :
			     (l->format && !skip) ||
				     survey_dense_unsaid(job->model, l))
			*hold = false;
		if (job->fix && survey_fused_missed(job->model, job->survey, l))
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
	return l->spec.bits == c->bits &&
	       l->spec.group_size == real_group(c->group_size, &l->spec);
}

/* Is there a layer that is not as `c` says of all, or a linear of a block that
 * is dense without a list that says so? */
static bool exceptions(const struct repack_job *job, const struct survey *s,
		       const struct config_out *c)
{
	for (uint32_t i = 0; i < s->count; i++) {
		const struct survey_layer *l = &s->layer[i];
		enum llama_linear which;
		uint32_t block;

		if (repack_target(job, l) ? !as_all(l, c) : !has_list(job) &&
		    !llama_linear_parse(l->module->name, &block, &which))
			return true;
	}
	return false;
}

/* The rule of a layer under this name; a negative one for a linear that stayed
 * dense. */
static int add_named(struct cJSON *rules, const char *name,
		     const struct survey_layer *l, bool packed,
		     struct err *err)
{
	char *key = exact_rule(packed ? "+:" : "-:", name, err);
	struct cJSON *o;

	if (!key)
		return -1;
	o = cJSON_AddObjectToObject(rules, key);
	free(key);
	if (!o || (packed &&
		   (!cJSON_AddNumberToObject(o, "bits", l->spec.bits) ||
		    !cJSON_AddNumberToObject(o, "group_size",
					     l->spec.groups == 1 ? -1 :
					     (double)l->spec.group_size))))
		return err_set(err, ERR_RESOURCE, "out of memory for JSON");
	return 0;
}

/* Are all of the slot as the layer is? */
static bool slot_is_alike(const struct repack_job *job, const struct survey *s,
			  const struct survey_layer *l, uint32_t block,
			  enum llama_slot slot)
{
	for (int i = 0; i < LLAMA_LINEARS; i++) {
		const struct survey_layer *p;
		int64_t at = repack_find(s, block, (enum llama_linear)i);

		if (llama_slot_of((enum llama_linear)i) != slot)
			continue;
		p = at < 0 ? NULL : &s->layer[at];
		if (!p || !repack_target(job, p) != !repack_target(job, l) ||
		    (repack_target(job, l) &&
		     (p->spec.bits != l->spec.bits ||
		      p->spec.group_size != l->spec.group_size)))
			return false;
	}
	return true;
}

/* The rule of one layer; with that of q or gate also one by the name that
 * readers give to what they join with it. */
static int add_rule(const struct repack_job *job, struct cJSON *rules,
		    const struct survey *s, const struct survey_layer *l,
		    struct err *err)
{
	bool packed = repack_target(job, l) != NULL;
	enum llama_linear which;
	char name[LLAMA_NAME];
	uint32_t block;

	if (add_named(rules, l->module->name, l, packed, err))
		return -1;
	if (llama_linear_parse(l->module->name, &block, &which) ||
	    (which != LLAMA_Q && which != LLAMA_GATE) ||
	    !slot_is_alike(job, s, l, block, llama_slot_of(which)))
		return 0;
	return add_named(rules, llama_fused_name(block, llama_slot_of(which),
						 name), l, packed, err);
}

/* Rules from the tensors: exact names, negatives first, so that readers that
 * sort them and readers that do not agree. */
static int make_rules(const struct repack_job *job, const struct survey *s,
		      const struct config_out *c, struct cJSON **out,
		      struct err *err)
{
	*out = cJSON_CreateObject();
	if (!*out)
		return err_set(err, ERR_RESOURCE, "out of memory for JSON");
	for (uint32_t i = 0; i < s->count; i++)
		if (!repack_target(job, &s->layer[i]) &&
		    strcmp(s->layer[i].module->name, LLAMA_HEAD) != 0 &&
		    add_rule(job, *out, s, &s->layer[i], err))
			return -1;
	for (uint32_t i = 0; i < s->count; i++)
		if (repack_target(job, &s->layer[i]) &&
		    !as_all(&s->layer[i], c) &&
		    add_rule(job, *out, s, &s->layer[i], err))
			return -1;
	return 0;
}

static bool head_is_quantized(const struct repack_job *job)
{
	for (uint32_t i = 0; i < job->survey->count; i++)
		if (repack_target(job, &job->survey->layer[i]) &&
		    !strcmp(job->survey->layer[i].module->name, LLAMA_HEAD))
			return true;
	return false;
}

/* What holds for the whole; the tensors win, and where they differ among each
 * other the old config's word for "all but the rules" stays. */
static struct config_out describe(const struct repack_job *job,
				  const struct survey *s)
{
	const struct config_quant *q = &job->model->quant;
	bool old_bits = s->mixed && q->bits && !job->bits;
	bool old_group = s->mixed && q->group_size && !job->group_size;
	struct config_out c = {
		.bits = old_bits ? q->bits : s->bits,
		.group_size = old_group ? q->group_size : s->group_size,
		/* what a loader may rely on; --fix says no more than that */
		.desc_act = s->desc_act || (q->desc_act == 1 && !job->fix &&
					    job->order != REPACK_DROP),
		.sym = s->sym && (q->sym != 0 || job->fix),
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

/* ---- modules_in_block_to_quantize ---- */

/* "self_attn.q_proj" of a module inside of a block, else NULL. */
static const char *in_block(const char *module)
{
	const char *p = strstr(module, "layers.");

	p = p ? strchr(p + 7, '.') : NULL;
	return p ? p + 1 : NULL;
}

/* Is a layer of this name quantized (or dense) in some block? */
static bool is_some(const struct repack_job *job, const char *name,
		    bool packed)
{
	for (uint32_t i = 0; i < job->survey->count; i++) {
		const struct survey_layer *l = &job->survey->layer[i];
		const char *n = in_block(l->module->name);

		if (n && (!name || !strcmp(n, name)) &&
		    (repack_target(job, l) != NULL) == packed)
			return true;
	}
	return false;
}

/* Is there a dense linear that loaders would build quantized? */
static bool has_dense_linear(const struct repack_job *job)
{
	for (uint32_t i = 0; i < job->survey->count; i++) {
		const struct survey_layer *l = &job->survey->layer[i];
		enum llama_linear which;
		uint32_t block;

		if (!repack_target(job, l) &&
		    !llama_linear_parse(l->module->name, &block, &which))
			return true;
	}
	return false;
}

/* Some readers know rules and some a list, and these take an absent one for
 * "all linears".  So one is written where there was one, or where nothing was
 * said before of dense linears; and where these are dense in every block. */
static int put_modules(const struct repack_job *job, struct cJSON *quant,
		       struct err *err)
{
	static const char key[] = "modules_in_block_to_quantize";
	const struct config_quant *q = &job->model->quant;
	struct cJSON *list;
	bool ok;

	if (json_find(q->tree, key) ? !is_some(job, NULL, false) :
				      q->dynamic || !has_dense_linear(job))
		return 0;
	list = cJSON_CreateArray();
	ok = list != NULL;
	for (uint32_t i = 0; ok && i < job->survey->count; i++) {
		const char *n = in_block(job->survey->layer[i].module->name);
		const struct cJSON *e = json_first(list);

		while (n && e && strcmp(json_text(e), n))
			e = json_next(e);
		if (!n || e || !is_some(job, n, true))
			continue;
		if (is_some(job, n, false)) {
			cJSON_Delete(list);
			return 0;
		}
		ok = cJSON_AddItemToArray(list, cJSON_CreateString(n));
	}
	if (ok && cJSON_AddItemToArray(cJSON_AddArrayToObject(quant, key),
				       list))
		return 0;
	cJSON_Delete(list);
	return err_set(err, ERR_RESOURCE, "out of memory for JSON");
}

/* ---- the files ---- */

static const char *dtype_name(enum dtype type)
{
	return type == DT_BF16 ? "bfloat16" :
	       type == DT_F32 ? "float32" : "float16";
}

/* --fix says of the head what the tensors show. */
static struct config_edit edits(const struct repack_job *job,
				const struct repack_ways *w)
{
	const struct llama_config *c = model_llama(job->model);
	const struct cJSON *said = json_find(job->model->config,
					     "tie_word_embeddings");
	bool head = model_module(job->model, LLAMA_HEAD) != NULL;
	struct config_edit e = { NULL, CONFIG_TIE_KEEP, w->inter };

	if (job->to && job->scales != DT_NONE) /* what it computes with */
		e.dtype = dtype_name(job->scales);
	if (!job->fix || !c)
		return e;
	if (c->tied && head)
		e.tie = CONFIG_TIE_NO;
	if (!head && (!said || json_is_null(said)))
		e.tie = CONFIG_TIE_YES;
	return e;
}

static int write_quantized(const struct repack_job *job,
			   const struct repack_ways *w, bool anew,
			   struct err *err)
{
	const struct config_edit edit = edits(job, w);
	const struct model *m = job->model;
	struct config_out c = describe(job, &w->after);
	struct cJSON *rules = NULL, *keep = NULL, *quant = NULL;
	bool hold;
	int ret = -1;

	if (repack_config_foreign(job, &w->after, &quant, err))
		goto out;
	if (quant) {
		ret = config_write(job->out, m->config, quant, &edit, err);
		goto out;
	}
	if (rules_hold(job, w, &hold, err))
		goto out;
	if (hold) {
		c.dynamic = m->quant.dynamic;
		if (m->quant.sym >= 0) /* the rules say which are not */
			c.sym = m->quant.sym;
		if (m->quant.desc_act >= 0 && job->order != REPACK_DROP &&
		    !(job->survey->odd & QF_ODD_ACT))
			c.desc_act = m->quant.desc_act;
	} else if (exceptions(job, &w->after, &c)) {
		if (make_rules(job, &w->after, &c, &rules, err))
			goto out;
		c.dynamic = rules;
	}
	if (anew && c.keep) {
		if (forget_quantizer(c.keep, &keep, err))
			goto out;
		c.keep = keep;
	}
	if (config_quant_build(&c, &quant, err) ||
	    put_modules(job, quant, err) ||
	    config_write(job->out, m->config, quant, &edit, err))
		goto out;
	ret = 0;
out:
	json_free(rules);
	json_free(keep);
	json_free(quant);
	return ret;
}

int repack_config_write(const struct repack_job *job,
			const struct repack_ways *w, bool anew,
			struct err *err)
{
	struct config_edit edit = edits(job, w);

	if (job->to && job->survey->quantized)
		return write_quantized(job, w, anew, err);
	if (job->survey->quantized)
		edit.dtype = dtype_name(job->dense_type);
	return config_write(job->out, job->model->config, NULL, &edit, err);
}
