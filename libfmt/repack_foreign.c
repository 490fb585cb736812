/* The configs of layouts that are not of GPTQ's own family, from the tensors
 * as they are written: AWQ and compressed-tensors.
 * Source: gptq-formats(5) "AWQ" and "compressed-tensors". */
#include "repack_impl.h"

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"
#include "llama.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int lacks_memory(struct err *err)
{
	return err_set(err, ERR_RESOURCE, "out of memory for JSON");
}

/* ---- AWQ: one group size for all ---- */

/* The groups of a layer as they are written; 0: it is not, or is refused by
 * itself. */
static uint32_t awq_group_of(const struct repack_job *job,
			     const struct survey_layer *l)
{
	struct qf_plan plan;
	struct err ignored;

	if (!repack_target(job, l) || l->broken ||
	    job->to->plan(&l->spec, &plan, &ignored))
		return 0;
	return l->spec.in / (uint32_t)plan.part[2].dim[0];
}

static int awq_group(const struct repack_job *job, const struct survey *s,
		     uint32_t *size, struct err *err)
{
	const struct survey_layer *odd = NULL;
	uint32_t all = 0, first = 0;

	*size = 0;
	for (uint32_t i = 0; i < s->count; i++) {
		const struct survey_layer *l = &s->layer[i];
		uint32_t gs = awq_group_of(job, l);

		if (!gs)
			continue;
		if (!strcmp(l->module->name, LLAMA_HEAD))
			return err_set(err, ERR_UNSUP, "%s is quantized, and "
				       "readers of awq keep it dense",
				       LLAMA_HEAD);
		first = first ? first : gs;
		all = repack_gcd(all, gs);
		odd = !odd && gs != first ? l : odd;
	}
	*size = first;
	if (!odd)
		return 0;
	return err_set(err, ERR_UNSUP, "awq has one group size for all layers: "
		       "%s has %u, others %u; --group-size %u splits them",
		       odd->module->name, awq_group_of(job, odd), first, all);
}

/* Linears that stayed dense, and the head, which may have no tensor. */
static struct cJSON *dense_names(const struct repack_job *job,
				 const struct survey *s)
{
	struct cJSON *list = cJSON_CreateArray();
	bool head = false;

	for (uint32_t i = 0; list && i < s->count; i++) {
		const struct survey_layer *l = &s->layer[i];

		head |= !strcmp(l->module->name, LLAMA_HEAD);
		if (!repack_target(job, l))
			cJSON_AddItemToArray(list, cJSON_CreateString(
							   l->module->name));
	}
	if (list && !head)
		cJSON_AddItemToArray(list, cJSON_CreateString(LLAMA_HEAD));
	return list;
}

static int awq_config(const struct repack_job *job, const struct survey *s,
		      struct cJSON *o, struct err *err)
{
	struct cJSON *dense;
	uint32_t gs;

	if (awq_group(job, s, &gs, err))
		return -1;
	dense = dense_names(job, s);
	if (!dense || !cJSON_AddStringToObject(o, "quant_method", "awq") ||
	    !cJSON_AddNumberToObject(o, "bits", 4) ||
	    !cJSON_AddNumberToObject(o, "group_size", gs) ||
	    !cJSON_AddBoolToObject(o, "zero_point", 1) ||
	    !cJSON_AddStringToObject(o, "version", "gemm") ||
	    !cJSON_AddItemToObject(o, "modules_to_not_convert", dense)) {
		cJSON_Delete(dense);
		return lacks_memory(err);
	}
	return 0;
}

/* ---- compressed-tensors: a group of layers per kind of weights ---- */

static bool alike(const struct ql_spec *a, const struct ql_spec *b)
{
	return a->bits == b->bits && !a->sym == !b->sym &&
	       !a->act_order == !b->act_order &&
	       (a->groups == 1) == (b->groups == 1) &&
	       (a->groups == 1 || a->group_size == b->group_size);
}

/* Its schema is strict: these fields and no others. */
static int add_weights(struct cJSON *group, const struct ql_spec *s)
{
	struct cJSON *w = cJSON_AddObjectToObject(group, "weights");
	bool one = s->groups == 1;

	return w && cJSON_AddNumberToObject(w, "num_bits", s->bits) &&
	       cJSON_AddStringToObject(w, "type", "int") &&
	       cJSON_AddBoolToObject(w, "symmetric", s->sym) &&
	       cJSON_AddStringToObject(w, "strategy",
				       one ? "channel" : "group") &&
	       (one ? cJSON_AddNullToObject(w, "group_size") :
		      cJSON_AddNumberToObject(w, "group_size",
					      s->group_size)) &&
	       (s->act_order ?
			cJSON_AddStringToObject(w, "actorder", "group") :
			cJSON_AddNullToObject(w, "actorder")) &&
	       cJSON_AddNullToObject(w, "block_structure") &&
	       cJSON_AddBoolToObject(w, "dynamic", 0) &&
	       cJSON_AddStringToObject(w, "observer", "minmax") &&
	       cJSON_AddObjectToObject(w, "observer_kwargs");
}

/* The layers that are written packed. */
struct kinds {
	const struct repack_job *job;
	const struct survey *survey;
};

static bool packed(const struct kinds *k, uint32_t i)
{
	return repack_target(k->job, &k->survey->layer[i]) != NULL;
}

/* Layer `first` stands for all that are alike; where that is every
 * one, the class of modules does for a name. */
static int add_group(const struct kinds *k, uint32_t first,
		     struct cJSON *groups, struct err *err)
{
	const struct survey *s = k->survey;
	const struct ql_spec *is = &s->layer[first].spec;
	struct cJSON *names = cJSON_CreateArray(), *g;
	char key[32] = "group_";
	bool all = true;

	for (uint32_t i = 0; names && i < s->count; i++) {
		if (!packed(k, i))
			continue;
		if (alike(&s->layer[i].spec, is))
			cJSON_AddItemToArray(names, cJSON_CreateString(
					s->layer[i].module->name));
		else
			all = false;
	}
	if (all) {
		cJSON_Delete(names);
		names = cJSON_CreateArray();
		cJSON_AddItemToArray(names, cJSON_CreateString("Linear"));
	}
	snprintf(key + 6, sizeof(key) - 6, "%u", (unsigned)json_count(groups));
	g = cJSON_AddObjectToObject(groups, key);
	if (!g || !cJSON_AddItemToObject(g, "targets", names)) {
		cJSON_Delete(names);
		return lacks_memory(err);
	}
	if (!cJSON_AddNullToObject(g, "input_activations") ||
	    !cJSON_AddNullToObject(g, "output_activations") ||
	    !add_weights(g, is))
		return lacks_memory(err);
	return 0;
}

/* Is an earlier layer of the same kind? */
static bool seen(const struct kinds *k, uint32_t at)
{
	const struct survey *s = k->survey;

	for (uint32_t i = 0; i < at; i++)
		if (packed(k, i) &&
		    alike(&s->layer[i].spec, &s->layer[at].spec))
			return true;
	return false;
}

static int ct_config(const struct repack_job *job, const struct survey *s,
		     struct cJSON *o, struct err *err)
{
	const struct kinds k = { job, s };
	struct cJSON *groups = NULL, *dense = dense_names(job, s);

	if (!dense || !cJSON_AddItemToObject(o, "ignore", dense)) {
		cJSON_Delete(dense);
		return lacks_memory(err);
	}
	groups = cJSON_AddObjectToObject(o, "config_groups");
	if (!groups || !cJSON_AddStringToObject(o, "quant_method",
						"compressed-tensors") ||
	    !cJSON_AddStringToObject(o, "format", "pack-quantized") ||
	    !cJSON_AddStringToObject(o, "quantization_status", "compressed") ||
	    !cJSON_AddNullToObject(o, "global_compression_ratio") ||
	    !cJSON_AddNullToObject(o, "kv_cache_scheme"))
		return lacks_memory(err);
	for (uint32_t i = 0; i < s->count; i++)
		if (packed(&k, i) && !seen(&k, i) &&
		    add_group(&k, i, groups, err))
			return -1;
	return 0;
}

/* ---- both ---- */

int repack_config_foreign(const struct repack_job *job,
			  const struct survey *after, struct cJSON **out,
			  struct err *err)
{
	struct cJSON *o;

	*out = NULL;
	if (job->to != &qf_awq && job->to != &qf_ct)
		return 0;
	o = cJSON_CreateObject();
	if (!o)
		return lacks_memory(err);
	if (job->to == &qf_awq ? awq_config(job, after, o, err)
			       : ct_config(job, after, o, err)) {
		json_free(o);
		return -1;
	}
	*out = o;
	return 0;
}
