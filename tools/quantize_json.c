/* The JSON document of gptq-quantize: what came out, and all it takes to make
 * it again. */
#include "quantize.h"

#include "../libfmt/base/json.h"

#include <cjson/cJSON.h>
#include <string.h>

/* ---- what was asked for ---- */

static struct cJSON *list_json(const struct opt_list *l)
{
	struct cJSON *a = cJSON_CreateArray();

	for (uint32_t i = 0; i < l->count; i++)
		cJSON_AddItemToArray(a, ui_json_string(l->item[i],
						       strlen(l->item[i])));
	return a;
}

/* The value that an option had, given or by default; NULL: none. */
static struct cJSON *value_json(const struct call *c, const struct opt *o)
{
	const char *at = (const char *)c->opt->base + o->off;
	char name[32];

	switch (o->kind) {
	case OPT_FLAG:
		return cJSON_CreateBool(*(const bool *)at);
	case OPT_UNFLAG:
		return cJSON_CreateBool(!*(const bool *)at);
	case OPT_INT:
		return cJSON_CreateNumber((double)*(const int64_t *)
					  (const void *)at);
	case OPT_REAL:
		return cJSON_CreateNumber(*(const double *)(const void *)at);
	case OPT_SIZE:
		return cJSON_CreateNumber((double)*(const uint64_t *)
					  (const void *)at);
	case OPT_CHOICE:
		return cJSON_CreateString(opt_choice(c->opt, o->name, name));
	case OPT_LIST:
	case OPT_FILES:
		return list_json((const struct opt_list *)(const void *)at);
	default:
		return NULL;
	}
}

static struct cJSON *options_json(const struct call *c)
{
	struct cJSON *all = cJSON_CreateObject();

	for (const struct opt *o = c->opt->table; o->kind != OPT_END; o++) {
		struct cJSON *v = o->absent ? NULL : value_json(c, o);

		if (v)
			cJSON_AddItemToObject(all, o->name, v);
	}
	return all;
}

/* ---- what came out ---- */

static struct cJSON *layers_json(const struct quantize *j)
{
	struct cJSON *list = cJSON_CreateArray();

	for (size_t i = 0; i < j->layers; i++) {
		const struct gq_layer_report *r = &j->layer[i];
		struct cJSON *l = cJSON_CreateObject();

		ui_json_text(l, "name", r->name);
		cJSON_AddNumberToObject(l, "in_features", r->in);
		cJSON_AddNumberToObject(l, "out_features", r->out);
		cJSON_AddNumberToObject(l, "loss", r->r.loss);
		cJSON_AddNumberToObject(l, "rel_error", r->r.rel_error);
		cJSON_AddNumberToObject(l, "out_error", r->r.out_error);
		cJSON_AddNumberToObject(l, "rtn_error", r->r.rtn_error);
		cJSON_AddNumberToObject(l, "damp", r->r.damp);
		cJSON_AddNumberToObject(l, "dead_inputs", r->r.dead);
		cJSON_AddNumberToObject(l, "seconds", r->seconds);
		cJSON_AddItemToArray(list, l);
	}
	return list;
}

static struct cJSON *verdict_json(const struct quantize *j)
{
	struct cJSON *list = cJSON_CreateArray();

	for (size_t i = 0; i < j->verdicts; i++) {
		const struct gq_verdict *v = &j->verdict[i];
		struct cJSON *o = cJSON_CreateObject(), *why;

		ui_json_text(o, "name", v->layer->name);
		cJSON_AddNumberToObject(o, "error", v->error);
		cJSON_AddNumberToObject(o, "like_it", v->like);
		cJSON_AddNumberToObject(o, "rtn_error",
					v->layer->r.rtn_error);
		why = cJSON_AddArrayToObject(o, "reasons");
		if (v->odd)
			cJSON_AddItemToArray(why, cJSON_CreateString(
						     "worse-than-its-like"));
		if (v->rounded)
			cJSON_AddItemToArray(why, cJSON_CreateString(
						     "no-better-than-rtn"));
		ui_json_text(o, "rule", v->rule[0] ? v->rule : NULL);
		cJSON_AddItemToArray(list, o);
	}
	return list;
}

struct cJSON *quantize_json(const struct quantize *j)
{
	const struct quantize_args *a = j->args;
	struct cJSON *o = cJSON_CreateObject();

	ui_json_text(o, "path", a->output);
	ui_json_text(o, "model", j->call->model);
	ui_json_text(o, "method", j->method->name);
	ui_json_text(o, "format", j->format->name);
	cJSON_AddNumberToObject(o, "bits", j->job.params.bits);
	cJSON_AddNumberToObject(o, "group_size", (double)a->group_size);
	cJSON_AddBoolToObject(o, "sym", a->sym);
	cJSON_AddBoolToObject(o, "desc_act", a->desc_act);
	cJSON_AddBoolToObject(o, "static_groups", a->static_groups);
	cJSON_AddBoolToObject(o, "act_group_aware", a->act_group_aware);
	cJSON_AddBoolToObject(o, "true_sequential", a->true_sequential);
	cJSON_AddNumberToObject(o, "samples", j->calib.samples);
	cJSON_AddNumberToObject(o, "seqlen", j->calib.seqlen);
	cJSON_AddNumberToObject(o, "seed", (double)a->seed);
	ui_json_text(o, "device", j->dev.api->describe(j->dev.be));
	cJSON_AddNumberToObject(o, "bytes_before", (double)j->before);
	cJSON_AddNumberToObject(o, "bytes", (double)j->after);
	cJSON_AddNumberToObject(o, "seconds", j->seconds);
	cJSON_AddItemToObject(o, "memory", quantize_memory_json(j));
	/* to make it again: every option as it was in force; and version,
	 * kernels and the hashes of config, weights and calibration ids */
	cJSON_AddItemToObject(o, "options", options_json(j->call));
	cJSON_AddItemToObject(o, "identity",
			      cJSON_Duplicate(j->identity, 1));
	cJSON_AddItemToObject(o, "verdict", verdict_json(j));
	cJSON_AddItemToObject(o, "layers", layers_json(j));
	return o;
}
