/* gptq-inspect --diff: what libfmt/diff found, as text and as JSON. */
#include "inspect.h"

#include "../libfmt/base/mem.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

int inspect_diff_gather(struct inspect *r, const char *other, uint32_t threads,
			struct err *err)
{
	struct inspect_diff *d = r->diff = mem_alloc(1, sizeof(*d), err);
	struct diff_job job = { .threads = threads,
				.progress = &r->ui->progress };

	if (!d || model_open(other, MODEL_LENIENT, &d->other, err) ||
	    survey_model(d->other, &d->survey, err))
		return -1;
	job.a = (struct diff_side) { r->model, &r->survey };
	job.b = (struct diff_side) { d->other, &d->survey };
	return diff_models(&job, &d->diff, err);
}

void inspect_diff_free(struct inspect_diff *d)
{
	if (!d)
		return;
	diff_release(&d->diff);
	survey_release(&d->survey);
	model_close(d->other);
	free(d);
}

/* ---- text ---- */

/* Configs hold long lists; a table has room for their beginnings. */
static void short_cell(struct ui_table *t, const char *text)
{
	if (!text)
		ui_cell(t, "-");
	else if (strlen(text) > 24)
		ui_cell(t, "%.21s...", text);
	else
		ui_cell(t, "%s", text);
}

static int show_keys(const struct inspect *r, struct err *err)
{
	static const char *const heads[] = { "<file", "~key", "<here",
		"<there" };
	const struct diff *d = &r->diff->diff;
	struct ui_table *t;
	int ret;

	if (!d->keys)
		return 0;
	t = ui_table_new(heads, 4, err);
	if (!t)
		return -1;
	for (uint32_t i = 0; i < d->keys; i++) {
		const struct diff_key *k = &d->key[i];

		/* of a file as a whole the key is its name */
		ui_cell(t, "%s", *k->file ? k->file : k->key);
		ui_cell(t, "%s", *k->file ? k->key : "");
		short_cell(t, k->a);
		short_cell(t, k->b);
	}
	ret = ui_table_print(r->ui, r->out, t, err);
	ui_table_free(t);
	fputc('\n', r->out);
	return ret;
}

/* Only where there are numbers to tell. */
static void tensor_row(struct ui_table *t, const struct diff_tensor *x)
{
	ui_cell(t, "%s", x->name);
	ui_cell(t, "%s", diff_state_name(x->state));
	if (x->state == DIFF_VALUES || x->state == DIFF_ROUNDED) {
		ui_cell(t, "%.3g", x->rel);
		ui_cell(t, "%.3g", x->max_abs);
		ui_cell(t, "%.1f", 100 * (double)x->unequal /
			(double)x->count);
	} else {
		for (int i = 0; i < 3; i++)
			ui_cell(t, "-");
	}
	ui_cell(t, "%s", x->why);
}

static int show_tensors(const struct inspect *r, struct err *err)
{
	static const char *const heads[] = { "~tensor", "<what", ">relative",
		">largest", ">unequal%", "<" };
	const struct diff *d = &r->diff->diff;
	struct ui_table *t;
	uint32_t rows = 0;
	int ret;

	for (uint32_t i = 0; i < d->tensors; i++)
		rows += inspect_shows(r, d->tensor[i].name) &&
			d->tensor[i].state != DIFF_EQUAL;
	if (!rows)
		return 0;
	t = ui_table_new(heads, 6, err);
	if (!t)
		return -1;
	for (uint32_t i = 0; i < d->tensors; i++)
		if (inspect_shows(r, d->tensor[i].name) &&
		    d->tensor[i].state != DIFF_EQUAL)
			tensor_row(t, &d->tensor[i]);
	ret = ui_table_print(r->ui, r->out, t, err);
	ui_table_free(t);
	fputc('\n', r->out);
	return ret;
}

#define KINDS 12 /* ways of storing that are told apart */

/* "42 from gptq 4 bits, groups of 128 to marlin ..." */
static void show_stored(const struct inspect *r)
{
	const struct diff *d = &r->diff->diff;
	const struct diff_tensor *kind[KINDS];
	uint32_t count[KINDS] = { 0 }, kinds = 0, more = 0;

	for (uint32_t i = 0; i < d->tensors; i++) {
		const struct diff_tensor *t = &d->tensor[i];
		uint32_t k = 0;

		if (!t->stored)
			continue;
		while (k < kinds && (strcmp(kind[k]->a, t->a) ||
				     strcmp(kind[k]->b, t->b)))
			k++;
		if (k == KINDS) {
			more++;
			continue;
		}
		kind[k] = t;
		kinds = k == kinds ? k + 1 : kinds;
		count[k]++;
	}
	for (uint32_t k = 0; k < kinds; k++)
		fprintf(r->out, "%6u stored as %s, there %s\n", count[k],
			kind[k]->a, kind[k]->b);
	if (more)
		fprintf(r->out, "%6u stored differently in other ways\n", more);
}

/* What most people come for. */
static void show_sums(const struct inspect *r)
{
	static const char *const words[DIFF_STATES] = {
		"equal", "equal when rounded to the narrower type", "differ",
		"differ in shape", "differ in their bytes",
		"could not be compared", "only here", "only there" };
	const struct diff *d = &r->diff->diff;

	fprintf(r->out, "%6u tensor%s, quantized ones by their weights:\n",
		d->tensors, ui_plural(d->tensors));
	for (int s = 0; s < DIFF_STATES; s++)
		if (d->states[s])
			fprintf(r->out, "%6u %s\n", d->states[s], words[s]);
	show_stored(r);
	if (d->keys)
		fprintf(r->out, "%6u key%s of configs or file%s differ\n",
			d->keys, ui_plural(d->keys), ui_plural(d->keys));
	fprintf(r->out, "%6u other file%s equal\n", d->files_equal,
		ui_plural(d->files_equal));
}

int inspect_diff_show(const struct inspect *r, struct err *err)
{
	const struct diff *d = &r->diff->diff;
	FILE *f = r->out;

	fprintf(f, "%shere   ", ui_paint(r->ui, f, UI_BOLD));
	ui_put(f, "%s", r->model->path);
	fputs("\nthere  ", f);
	ui_put(f, "%s", r->diff->other->path);
	fprintf(f, "%s\n\n", ui_paint(r->ui, f, UI_OFF));
	if (show_keys(r, err) || show_tensors(r, err))
		return -1;
	show_sums(r);
	if (d->differences)
		fprintf(f, "%s%llu difference%s%s\n",
			ui_paint(r->ui, f, UI_YELLOW),
			(unsigned long long)d->differences,
			ui_plural(d->differences), ui_paint(r->ui, f, UI_OFF));
	else
		fprintf(f, "%sno difference%s\n", ui_paint(r->ui, f, UI_GREEN),
			ui_paint(r->ui, f, UI_OFF));
	return 0;
}

/* ---- JSON ---- */

static void json_tensor(struct cJSON *list, const struct diff_tensor *t)
{
	struct cJSON *j = cJSON_CreateObject();

	ui_json_text(j, "name", t->name);
	ui_json_text(j, "state", diff_state_name(t->state));
	cJSON_AddBoolToObject(j, "linear", t->linear);
	ui_json_text(j, "here", *t->a ? t->a : NULL);
	ui_json_text(j, "there", *t->b ? t->b : NULL);
	cJSON_AddNumberToObject(j, "count", (double)t->count);
	cJSON_AddNumberToObject(j, "unequal", (double)t->unequal);
	cJSON_AddNumberToObject(j, "max_abs_difference", t->max_abs);
	cJSON_AddNumberToObject(j, "relative_difference", t->rel);
	if (t->state == DIFF_UNREAD)
		ui_json_text(j, "problem", t->why);
	cJSON_AddItemToArray(list, j);
}

void inspect_diff_json(struct cJSON *top, const struct inspect *r)
{
	const struct diff *d = &r->diff->diff;
	struct cJSON *o = cJSON_AddObjectToObject(top, "diff"), *list, *j;

	ui_json_text(o, "other", r->diff->other->path);
	cJSON_AddNumberToObject(o, "differences", (double)d->differences);
	cJSON_AddNumberToObject(o, "files_equal", d->files_equal);
	list = cJSON_AddArrayToObject(o, "config");
	for (uint32_t i = 0; i < d->keys; i++) {
		j = cJSON_CreateObject();
		ui_json_text(j, "file", *d->key[i].file ? d->key[i].file :
							  d->key[i].key);
		ui_json_text(j, "key", *d->key[i].file ? d->key[i].key : "");
		ui_json_text(j, "here", d->key[i].a);
		ui_json_text(j, "there", d->key[i].b);
		cJSON_AddItemToArray(list, j);
	}
	list = cJSON_AddArrayToObject(o, "tensors");
	for (uint32_t i = 0; i < d->tensors; i++)
		if (inspect_shows(r, d->tensor[i].name))
			json_tensor(list, &d->tensor[i]);
}
