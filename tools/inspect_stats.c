/* gptq-inspect --stats: what libfmt/stats gathered, as tables and as JSON. */
#include "inspect.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#define SPARK 16

/* "1.2e-05..0.031": three digits tell a healthy range from a sick one. */
static const char *range(const struct stats_values *v, char buf[48])
{
	if (v->count == v->nan + v->inf)
		snprintf(buf, 48, "-");
	else if (v->min < v->max)
		snprintf(buf, 48, "%.3g..%.3g", v->min, v->max);
	else
		snprintf(buf, 48, "%.3g", v->min);
	return buf;
}

/* ---- what is wrong ---- */

struct notes {
	char text[256];
	size_t n;
};

static void note(struct notes *s, uint64_t count, const char *what)
{
	if (!count || s->n >= sizeof(s->text))
		return;
	s->n += (size_t)snprintf(s->text + s->n, sizeof(s->text) - s->n,
				 "%s%llu %s", s->n ? ", " : "",
				 (unsigned long long)count, what);
}

static void layer_notes(const struct stats_layer *l, struct notes *s)
{
	note(s, l->scale.nan, "NaN scales");
	note(s, l->scale.inf, "infinite scales");
	note(s, l->scale.zero, "zero scales");
	note(s, l->scale.count > l->scale.nan + l->scale.inf &&
		l->scale.min < 0, "or more negative scales");
	note(s, l->unused_groups, "unused groups");
	note(s, l->dead_groups, "dead groups");
	note(s, l->dead_outputs, "dead outputs");
}

/* ---- quantized layers ---- */

double inspect_stats_ends(const struct stats_layer *l)
{
	uint64_t n = l->code[0] + l->code[(1u << l->spec.bits) - 1];

	return (double)n / (double)l->weight.count;
}

static void layer_row(const struct inspect *r, struct ui_table *t,
		      const char *name, const struct stats_layer *l)
{
	char spark[3 * UI_SPARK + 1], text[48];
	struct notes notes = { .n = 0 };

	ui_cell(t, "%s", name);
	if (!l->known) {
		for (int i = 0; i < 6; i++)
			ui_cell(t, "?");
		ui_cell(t, "%s", l->why);
		return;
	}
	ui_cell(t, "%u", l->spec.bits);
	ui_cell(t, "%s", range(&l->scale, text));
	ui_cell(t, "%s", range(&l->zero, text));
	ui_cell(t, "%s", ui_spark(r->ui, l->code, 1u << l->spec.bits, SPARK,
				  spark));
	ui_cell(t, "%.2f", l->entropy);
	ui_cell(t, "%.1f", 100 * inspect_stats_ends(l));
	layer_notes(l, &notes);
	ui_cell(t, "%s", notes.text);
}

static int layer_table(const struct inspect *r, struct err *err)
{
	static const char *const heads[] = { "~layer", ">b", "<scale",
		"<zero", "<codes", ">bits", ">ends%", "<" };
	const struct survey *s = &r->survey;
	struct ui_table *t = ui_table_new(heads, 8, err);
	int ret;

	if (!t)
		return -1;
	for (uint32_t i = 0; i < s->count; i++)
		if (r->show_layer[i] && s->layer[i].format)
			layer_row(r, t, s->layer[i].module->name,
				  &r->stats->layer[i]);
	ret = ui_table_print(r->ui, r->out, t, err);
	ui_table_free(t);
	return ret;
}

/* Means over all layers, weighted by their size, and the sum of the faults. */
static void layer_sum(const struct inspect *r)
{
	struct stats_layer all = { .known = false };
	double weights = 0, entropy = 0, bits = 0, end = 0, noise = 0;
	struct notes notes = { .n = 0 };
	uint32_t layers = 0;

	for (uint32_t i = 0; i < r->survey.count; i++) {
		const struct stats_layer *l = &r->stats->layer[i];
		double n = (double)l->weight.count;

		if (!l->known)
			continue;
		layers++;
		weights += n;
		entropy += l->entropy * n;
		bits += l->spec.bits * n;
		end += inspect_stats_ends(l) * n;
		noise += l->noise * n;
		stats_join(&all.scale, &l->scale);
		all.unused_groups += l->unused_groups;
		all.dead_groups += l->dead_groups;
		all.dead_outputs += l->dead_outputs;
	}
	if (!layers)
		return;
	layer_notes(&all, &notes);
	fprintf(r->out, "%u layer%s: codes carry %.2f of %.2f bits, %.1f %% "
		"at the ends,\nrounding noise %.4f of the weights, %s%s%s\n",
		layers, ui_plural(layers), entropy / weights, bits / weights,
		100 * end / weights, noise / weights,
		ui_paint(r->ui, r->out, notes.n ? UI_YELLOW : UI_GREEN),
		notes.n ? notes.text : "nothing odd",
		ui_paint(r->ui, r->out, UI_OFF));
}

/* ---- dense tensors ---- */

/* Where magnitudes are counted at all, as powers of two. */
static const char *magnitudes(const struct stats_values *v, char buf[48])
{
	int lo = 0, hi = STATS_MAG - 1;

	while (lo < STATS_MAG && !v->mag[lo])
		lo++;
	while (hi > lo && !v->mag[hi])
		hi--;
	if (lo == STATS_MAG)
		snprintf(buf, 48, "-");
	else
		snprintf(buf, 48, "2^%d..%d", lo + STATS_MAG_LOW,
			 hi + STATS_MAG_LOW);
	return buf;
}

static void tensor_row(const struct inspect *r, struct ui_table *t,
		       const struct tensor *x, const struct stats_values *v)
{
	char spark[3 * UI_SPARK + 1], text[48];
	struct notes notes = { .n = 0 };

	ui_cell(t, "%s", x->name);
	ui_cell(t, "%s", tensor_dtype_name(x->type));
	ui_cell(t, "%s", range(v, text));
	ui_cell(t, "%.3g", v->mean);
	ui_cell(t, "%.3g", stats_std(v));
	ui_cell(t, "%s", ui_spark(r->ui, v->mag, STATS_MAG, SPARK, spark));
	note(&notes, v->nan, "NaN");
	note(&notes, v->inf, "infinite");
	if (v->zero == v->count)
		note(&notes, v->zero, "zeros: nothing else");
	ui_cell(t, "%s", notes.n ? notes.text : magnitudes(v, text));
}

static int tensor_table(const struct inspect *r, struct err *err)
{
	static const char *const heads[] = { "~tensor", "<type", "<range",
		">mean", ">std", "<magnitudes", "<" };
	struct ui_table *t = ui_table_new(heads, 7, err);
	int ret;

	if (!t)
		return -1;
	for (uint32_t i = 0; i < r->model->tensor_count; i++)
		if (r->show_tensor[i] && r->stats->tensor[i].count)
			tensor_row(r, t, &r->model->tensor[i],
				   &r->stats->tensor[i]);
	ret = ui_table_print(r->ui, r->out, t, err);
	ui_table_free(t);
	return ret;
}

/* Only the tables that have rows. */
int inspect_stats(const struct inspect *r, struct err *err)
{
	uint32_t layers = 0, tensors = 0;

	for (uint32_t i = 0; i < r->survey.count; i++)
		layers += r->show_layer[i] && r->survey.layer[i].format;
	for (uint32_t i = 0; i < r->model->tensor_count; i++)
		tensors += r->show_tensor[i] && r->stats->tensor[i].count;
	if (layers && layer_table(r, err))
		return -1;
	if (layers)
		layer_sum(r);
	if (layers && tensors)
		fputc('\n', r->out);
	return tensors ? tensor_table(r, err) : 0;
}

/* ---- JSON ---- */

static void add_counts(struct cJSON *o, const char *key, const uint64_t *count,
		       uint32_t n)
{
	struct cJSON *list = cJSON_AddArrayToObject(o, key);

	for (uint32_t i = 0; i < n; i++)
		cJSON_AddItemToArray(list,
				     cJSON_CreateNumber((double)count[i]));
}

void inspect_stats_json(struct cJSON *o, const char *key,
			const struct stats_values *v)
{
	struct cJSON *j = cJSON_AddObjectToObject(o, key);

	cJSON_AddNumberToObject(j, "count", (double)v->count);
	cJSON_AddNumberToObject(j, "nan", (double)v->nan);
	cJSON_AddNumberToObject(j, "inf", (double)v->inf);
	cJSON_AddNumberToObject(j, "zero", (double)v->zero);
	cJSON_AddNumberToObject(j, "min", v->min);
	cJSON_AddNumberToObject(j, "max", v->max);
	cJSON_AddNumberToObject(j, "mean", v->mean);
	cJSON_AddNumberToObject(j, "std", stats_std(v));
	cJSON_AddNumberToObject(j, "magnitude_from", STATS_MAG_LOW);
	add_counts(j, "magnitudes", v->mag, STATS_MAG);
}

void inspect_stats_layer_json(struct cJSON *o, const struct stats_layer *l)
{
	struct cJSON *j;

	if (!l->known) {
		cJSON_AddNullToObject(o, "stats");
		return;
	}
	j = cJSON_AddObjectToObject(o, "stats");
	add_counts(j, "codes", l->code, 1u << l->spec.bits);
	cJSON_AddNumberToObject(j, "entropy", l->entropy);
	cJSON_AddNumberToObject(j, "ends", inspect_stats_ends(l));
	if (l->spec.zero_kind == QL_POINT)
		add_counts(j, "zeros", l->zero_code, (1u << l->spec.bits) + 1);
	else
		cJSON_AddNullToObject(j, "zeros");
	inspect_stats_json(j, "scale", &l->scale);
	inspect_stats_json(j, "zero", &l->zero);
	inspect_stats_json(j, "weight", &l->weight);
	cJSON_AddNumberToObject(j, "unused_groups", l->unused_groups);
	cJSON_AddNumberToObject(j, "dead_groups", (double)l->dead_groups);
	cJSON_AddNumberToObject(j, "dead_outputs", l->dead_outputs);
	cJSON_AddNumberToObject(j, "noise", l->noise);
}
