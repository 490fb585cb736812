/* gptq-inspect --json: all of the result, whatever tables were asked for.
 *
 * Keys are part of the command-line contract; what is not known or does not
 * apply is null, never left out, so that a reader needs no second case. */
#include "inspect.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

/* A number, or null where it is not known. */
static void number_or_null(struct cJSON *o, const char *key, bool known,
			   double v)
{
	if (known)
		cJSON_AddNumberToObject(o, key, v);
	else
		cJSON_AddNullToObject(o, key);
}

static void bool_or_null(struct cJSON *o, const char *key, bool known, bool v)
{
	if (known)
		cJSON_AddBoolToObject(o, key, v);
	else
		cJSON_AddNullToObject(o, key);
}

/* The values are those of the tensors, method and format the config's words:
 * where the two disagree, `problems` says so. */
static void add_quantization(struct cJSON *o, const struct inspect *r)
{
	const struct survey *s = &r->survey;
	const struct config_quant *q = &r->model->quant;
	struct cJSON *j;

	if (!r->quantized) {
		cJSON_AddNullToObject(o, "quantization");
		return;
	}
	j = cJSON_AddObjectToObject(o, "quantization");
	number_or_null(j, "bits", s->bits, s->bits);
	number_or_null(j, "group_size", s->group_size, s->group_size);
	cJSON_AddBoolToObject(j, "desc_act", s->desc_act);
	cJSON_AddBoolToObject(j, "sym", s->sym);
	cJSON_AddBoolToObject(j, "mixed", s->mixed);
	ui_json_text(j, "method", q->method);
	ui_json_text(j, "checkpoint_format", q->format);
	ui_json_text(j, "source", q->source == CONFIG_NONE ?
				  config_source_name(CONFIG_INFERRED) :
				  config_source_name(q->source));
}

static void add_files(struct cJSON *o, const struct inspect *r)
{
	struct cJSON *list = cJSON_AddArrayToObject(o, "files"), *j;

	for (uint32_t i = 0; i < r->model->file_count; i++) {
		const struct model_file *f = &r->model->file[i];

		j = cJSON_CreateObject();
		ui_json_text(j, "name", f->name);
		cJSON_AddNumberToObject(j, "bytes", (double)f->bytes);
		cJSON_AddNumberToObject(j, "tensors", f->tensors);
		cJSON_AddItemToArray(list, j);
	}
}

/* Dense linears stand here too, with null for what only codes have. */
static void add_layers(struct cJSON *o, const struct inspect *r)
{
	struct cJSON *list = cJSON_AddArrayToObject(o, "layers"), *j;

	for (uint32_t i = 0; i < r->survey.count; i++) {
		const struct survey_layer *l = &r->survey.layer[i];
		const struct ql_spec *s = &l->spec;
		bool known = !l->broken, quant = known && l->format;

		if (!r->show_layer[i])
			continue;
		j = cJSON_CreateObject();
		ui_json_text(j, "name", l->module->name);
		number_or_null(j, "in_features", known, s->in);
		number_or_null(j, "out_features", known, s->out);
		number_or_null(j, "bits", quant, s->bits);
		number_or_null(j, "group_size", quant, s->group_size);
		bool_or_null(j, "desc_act", quant, s->act_order);
		bool_or_null(j, "sym", quant, s->sym);
		cJSON_AddBoolToObject(j, "bias", l->bias);
		ui_json_text(j, "format", l->format ? l->format->name :
						      "dense");
		if (l->broken)
			ui_json_text(j, "problem", l->why);
		if (r->stats)
			inspect_stats_layer_json(j, &r->stats->layer[i]);
		cJSON_AddItemToArray(list, j);
	}
}

/* Offsets are from the start of the file, ready for a range request. */
static void add_tensors(struct cJSON *o, const struct inspect *r)
{
	struct cJSON *list = cJSON_AddArrayToObject(o, "tensors"), *j, *shape;

	for (uint32_t i = 0; i < r->model->tensor_count; i++) {
		const struct tensor *t = &r->model->tensor[i];

		if (!r->show_tensor[i])
			continue;
		j = cJSON_CreateObject();
		ui_json_text(j, "name", t->name);
		ui_json_text(j, "dtype", tensor_dtype_name(t->type));
		shape = cJSON_AddArrayToObject(j, "shape");
		for (int d = 0; d < t->rank; d++)
			cJSON_AddItemToArray(shape, cJSON_CreateNumber(
						     (double)t->dim[d]));
		ui_json_text(j, "file", model_file_of(r->model, t));
		if (t->offset == TENSOR_COPIED) /* not in the file as it is */
			cJSON_AddNullToObject(j, "offset");
		else
			cJSON_AddNumberToObject(j, "offset",
						(double)t->offset);
		cJSON_AddNumberToObject(j, "bytes", (double)t->size);
		if (r->digest && r->digest->what == DIGEST_BYTES)
			ui_json_text(j, "hash", r->digest->hash[i]);
		if (r->stats && r->stats->tensor[i].count)
			inspect_stats_json(j, "stats", &r->stats->tensor[i]);
		cJSON_AddItemToArray(list, j);
	}
}

/* "AutoGPTQ, TGI" as an array. */
static void add_names(struct cJSON *o, const char *key, const char *names)
{
	struct cJSON *list = cJSON_AddArrayToObject(o, key);

	while (*names) {
		size_t n = strcspn(names, ",");

		cJSON_AddItemToArray(list, ui_json_string(names, n));
		names += n;
		names += strspn(names, ", ");
	}
}

/* `code` is stable, `message` is not. */
static void add_problems(struct cJSON *o, const struct inspect *r)
{
	struct cJSON *list = cJSON_AddArrayToObject(o, "problems"), *j;

	for (uint32_t i = 0; i < r->doctor.count; i++) {
		const struct doctor_problem *p = &r->doctor.problem[i];

		j = cJSON_CreateObject();
		ui_json_text(j, "code", p->code);
		ui_json_text(j, "severity", doctor_severity_name(p->severity));
		ui_json_text(j, "where", p->where);
		ui_json_text(j, "message", p->message);
		add_names(j, "refused_by", p->refused_by);
		ui_json_text(j, "says", p->says);
		ui_json_text(j, "fix", p->fix);
		cJSON_AddItemToArray(list, j);
	}
}

/* Of the bytes each tensor has its own; weights are a list of their own, as
 * they are not what is stored. */
static void add_hash(struct cJSON *o, const struct digest *d)
{
	struct cJSON *list, *j;

	if (d->what == DIGEST_BYTES) {
		ui_json_text(o, "hash", d->model);
		return;
	}
	ui_json_text(o, "weights_hash", d->model);
	list = cJSON_AddArrayToObject(o, "weights");
	for (uint32_t i = 0; i < d->count; i++) {
		j = cJSON_CreateObject();
		ui_json_text(j, "name", d->name[i]);
		ui_json_text(j, "hash", d->hash[i]);
		cJSON_AddItemToArray(list, j);
	}
}

/* The same member that every failure has. */
static void add_failure(struct cJSON *o, const struct err *why)
{
	struct cJSON *e = cJSON_AddObjectToObject(o, "error");

	cJSON_AddNumberToObject(e, "code", why->code);
	ui_json_text(e, "message", why->msg);
}

int inspect_json(const struct inspect *r, struct err *err)
{
	const struct survey *s = &r->survey;
	struct cJSON *o = cJSON_CreateObject();

	ui_json_text(o, "path", r->model->path);
	if (r->failure.code)
		add_failure(o, &r->failure);
	ui_json_text(o, "format", s->format);
	ui_json_text(o, "architecture", r->architecture);
	ui_json_text(o, "model_type", r->model_type);
	cJSON_AddNumberToObject(o, "parameters", (double)s->parameters);
	cJSON_AddNumberToObject(o, "bytes", (double)s->bytes);
	number_or_null(o, "bits_per_weight", s->quantized > 0,
		       s->bits_per_weight);
	if (r->digest)
		add_hash(o, r->digest);
	add_quantization(o, r);
	add_files(o, r);
	add_layers(o, r);
	add_tensors(o, r);
	add_problems(o, r);
	/* zeros and g_idx were looked at here and there only */
	cJSON_AddBoolToObject(o, "glance", r->survey.glance);
	cJSON_AddItemToObject(o, "config", inspect_config(r));
	inspect_memory_json(o, r);
	if (r->kernels)
		inspect_kernels_json(o, r);
	if (r->diff)
		inspect_diff_json(o, r);
	if (r->one)
		inspect_one_json(o, r);
	return ui_json(r->out, o, err);
}
