/* What gptq-quantize tells of its work: a CSV line per linear as it is done,
 * the JSON document, one line at the end. */
#include "quantize.h"

#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <string.h>

/* ---- the log ---- */

int quantize_log_open(struct quantize *j, struct err *err)
{
	if (!j->args->log)
		return 0;
	j->log = fopen(j->args->log, "we");
	if (!j->log)
		return err_errno(err, ERR_OUTPUT, "%s", j->args->log);
	fputs("module,in,out,loss,rel_error,damp,seconds\n", j->log);
	return 0;
}

int quantize_log_close(struct quantize *j, struct err *err)
{
	int bad;

	if (!j->log)
		return 0;
	bad = ferror(j->log);
	errno = 0;
	bad |= fclose(j->log);
	j->log = NULL;
	return bad ? err_errno(err, ERR_OUTPUT, "%s: writing failed",
			       j->args->log) : 0;
}

void quantize_on_layer(void *ctx, const struct gq_layer_report *r)
{
	struct quantize *j = ctx;
	void *grown = j->layer;
	struct err err;

	if (mem_grow(&grown, &j->cap, j->layers + 1, sizeof(*r), &err)) {
		j->lost = true;
	} else {
		j->layer = grown;
		j->layer[j->layers++] = *r;
	}
	ui_detail(j->call->ui, "%s: relative error %.5f, loss %.6g, damping "
		  "%g, %.2f s", r->name, r->r.rel_error, r->r.loss, r->r.damp,
		  r->seconds);
	if (!j->log)
		return;
	fprintf(j->log, "%s,%u,%u,%.9g,%.9g,%g,%.3f\n", r->name, r->in, r->out,
		r->r.loss, r->r.rel_error, r->r.damp, r->seconds);
	fflush(j->log);
}

/* ---- the result ---- */

struct cJSON *quantize_json(const struct quantize *j)
{
	const struct quantize_args *a = j->args;
	struct cJSON *o = cJSON_CreateObject(), *list, *l;

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
	list = cJSON_AddArrayToObject(o, "layers");
	for (size_t i = 0; i < j->layers; i++) {
		const struct gq_layer_report *r = &j->layer[i];

		l = cJSON_CreateObject();
		ui_json_text(l, "name", r->name);
		cJSON_AddNumberToObject(l, "in_features", r->in);
		cJSON_AddNumberToObject(l, "out_features", r->out);
		cJSON_AddNumberToObject(l, "loss", r->r.loss);
		cJSON_AddNumberToObject(l, "rel_error", r->r.rel_error);
		cJSON_AddNumberToObject(l, "damp", r->r.damp);
		cJSON_AddNumberToObject(l, "dead_inputs", r->r.dead);
		cJSON_AddNumberToObject(l, "seconds", r->seconds);
		cJSON_AddItemToArray(list, l);
	}
	return o;
}

/* The mean is over linears, not weighted by their size: it is a number to
 * compare two runs by. */
void quantize_summary(const struct quantize *j)
{
	char from[32], to[32], time[32];
	double mean = 0, worst = 0;

	for (size_t i = 0; i < j->layers; i++) {
		mean += j->layer[i].r.rel_error / (double)j->layers;
		if (j->layer[i].r.rel_error > worst)
			worst = j->layer[i].r.rel_error;
	}
	ui_note(j->call->ui, "%zu linears to %d bits in %s: %s -> %s, "
		"relative error %.4f (largest %.4f)", j->layers,
		j->job.params.bits, ui_time(j->seconds, time),
		ui_bytes(j->before, from), ui_bytes(j->after, to), mean,
		worst);
}

