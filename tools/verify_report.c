/* The report of gptq-verify as text, JSON and JUnit XML: three printers of one
 * struct verify.  None of them decides anything. */
#include "verify.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

/* ---- text ---- */

#define FAULTS_SHOWN 10

/* What the structure check found, below its line. */
static void fault_lines(const struct verify *v)
{
	const struct check *s = &v->structure;
	const struct ui *ui = v->call->ui;
	uint32_t most = ui->verbose ? s->count : FAULTS_SHOWN;

	if (s->count == 1 && s->errors == 1)
		return; /* the check's own line tells it */
	for (uint32_t i = 0; i < s->count && i < most; i++) {
		const struct check_fault *f = &s->fault[i];

		fprintf(v->out, "      %s%s%s %s%s%s\n",
			ui_paint(ui, v->out, f->warning ? UI_YELLOW : UI_RED),
			f->warning ? "warning" : "error",
			ui_paint(ui, v->out, UI_OFF), f->where,
			f->where[0] ? ": " : "", f->message);
	}
	if (s->count > most)
		fprintf(v->out, "      and %u more (-v lists all)\n",
			s->count - most);
}

/* With -v: every linear, not only the worst. */
static int layer_table(const struct verify *v, struct err *err)
{
	static const char *const heads[] = { "~layer", ">relative error",
		">largest error", ">cosine" };
	struct ui_table *t = ui_table_new(heads, 4, err);
	int ret;

	if (!t)
		return -1;
	for (uint32_t i = 0; i < v->layers; i++) {
		ui_cell(t, "%s", v->layer[i].name);
		ui_cell(t, "%.6f", v->layer[i].rel_error);
		ui_cell(t, "%.6f", v->layer[i].max_abs);
		ui_cell(t, "%.6f", v->layer[i].cosine);
	}
	ret = ui_table_print(v->call->ui, v->out, t, err);
	ui_table_free(t);
	return ret;
}

/* A line per kernel that was tried. */
static void kernel_lines(const struct verify *v)
{
	for (uint32_t i = 0; i < v->kernels; i++)
		fprintf(v->out, "      %-18s error %.1e  %u linear%s\n",
			v->kernel[i].name, v->kernel[i].rel_error,
			v->kernel[i].layers, ui_plural(v->kernel[i].layers));
}

/* A line per check that was asked for, and the verdict last. */
int verify_text(const struct verify *v, struct err *err)
{
	const struct ui *ui = v->call->ui;
	FILE *f = v->out;
	char time[32];

	/* what goes to stderr obeys -q, unless it is bad news */
	if (f == stderr && ui->quiet && v->passed)
		return 0;
	for (int i = 0; i < VERIFY_CHECKS; i++) {
		const struct verify_check *c = &v->check[i];

		if (!c->asked)
			continue;
		fprintf(f, "%s%s%s  %-10s  %s  %s(%s)%s\n",
			ui_paint(ui, f, c->passed ? UI_GREEN : UI_RED),
			c->passed ? "pass" : "FAIL",
			ui_paint(ui, f, UI_OFF), c->name, c->message,
			ui_paint(ui, f, UI_DIM), ui_time(c->seconds, time),
			ui_paint(ui, f, UI_OFF));
		if (i == VERIFY_STRUCTURE)
			fault_lines(v);
		if (i == VERIFY_KERNELS)
			kernel_lines(v);
		if (i == VERIFY_WEIGHTS && ui->verbose && v->layers &&
		    layer_table(v, err))
			return -1;
	}
	fprintf(f, "%s: %s%s%s\n", v->call->model,
		ui_paint(ui, f, v->passed ? UI_GREEN : UI_RED),
		v->passed ? "passed" : "failed", ui_paint(ui, f, UI_OFF));
	return 0;
}

/* ---- JSON ---- */

static void add_checks(struct cJSON *o, const struct verify *v)
{
	struct cJSON *list = cJSON_AddArrayToObject(o, "checks"), *j;

	for (int i = 0; i < VERIFY_CHECKS; i++) {
		const struct verify_check *c = &v->check[i];

		if (!c->asked)
			continue;
		j = cJSON_CreateObject();
		ui_json_text(j, "name", c->name);
		cJSON_AddBoolToObject(j, "passed", c->passed);
		cJSON_AddNumberToObject(j, "seconds", c->seconds);
		ui_json_text(j, "message", c->message);
		cJSON_AddItemToArray(list, j);
	}
}

static void add_faults(struct cJSON *o, const struct verify *v)
{
	struct cJSON *list = cJSON_AddArrayToObject(o, "faults"), *j;

	for (uint32_t i = 0; i < v->structure.count; i++) {
		const struct check_fault *f = &v->structure.fault[i];

		j = cJSON_CreateObject();
		ui_json_text(j, "severity", f->warning ? "warning" : "error");
		ui_json_text(j, "where", f->where);
		ui_json_text(j, "message", f->message);
		cJSON_AddItemToArray(list, j);
	}
}

static void add_layers(struct cJSON *o, const struct verify *v)
{
	struct cJSON *list = cJSON_AddArrayToObject(o, "layers"), *j;

	for (uint32_t i = 0; i < v->layers; i++) {
		const struct verify_layer *l = &v->layer[i];

		j = cJSON_CreateObject();
		ui_json_text(j, "name", l->name);
		cJSON_AddNumberToObject(j, "rel_error", l->rel_error);
		cJSON_AddNumberToObject(j, "max_abs_error", l->max_abs);
		cJSON_AddNumberToObject(j, "cosine", l->cosine);
		cJSON_AddItemToArray(list, j);
	}
}

/* null when it was not asked for or could not be run. */
static void add_perplexity(struct cJSON *o, const struct verify *v)
{
	struct cJSON *j;

	if (!v->have_ppl) {
		cJSON_AddNullToObject(o, "perplexity");
		return;
	}
	j = cJSON_AddObjectToObject(o, "perplexity");
	ui_json_text(j, "text", v->args->ppl);
	cJSON_AddNumberToObject(j, "tokens", (double)v->ppl.tokens);
	cJSON_AddNumberToObject(j, "seqlen", v->ppl.seqlen);
	cJSON_AddNumberToObject(j, "windows", v->ppl.windows);
	cJSON_AddNumberToObject(j, "value", v->ppl.value);
	if (v->have_base) {
		cJSON_AddNumberToObject(j, "baseline", v->base_ppl.value);
		cJSON_AddNumberToObject(j, "ratio",
					v->ppl.value / v->base_ppl.value);
	} else {
		cJSON_AddNullToObject(j, "baseline");
		cJSON_AddNullToObject(j, "ratio");
	}
}

static void add_divergence(struct cJSON *o, const struct verify *v)
{
	struct cJSON *j;

	if (!v->have_kld) {
		cJSON_AddNullToObject(o, "divergence");
		return;
	}
	j = cJSON_AddObjectToObject(o, "divergence");
	ui_json_text(j, "text", v->args->kld);
	cJSON_AddNumberToObject(j, "tokens", (double)v->kld.tokens);
	cJSON_AddNumberToObject(j, "mean", v->kld.mean);
	cJSON_AddNumberToObject(j, "p99", v->kld.p99);
	cJSON_AddNumberToObject(j, "max", v->kld.max);
	cJSON_AddNumberToObject(j, "top1", v->kld.top1);
}

static void add_kernels(struct cJSON *o, const struct verify *v)
{
	struct cJSON *list = cJSON_AddArrayToObject(o, "kernels"), *j;

	for (uint32_t i = 0; i < v->kernels; i++) {
		j = cJSON_CreateObject();
		ui_json_text(j, "name", v->kernel[i].name);
		cJSON_AddNumberToObject(j, "max_rel_error",
					v->kernel[i].rel_error);
		cJSON_AddNumberToObject(j, "layers", v->kernel[i].layers);
		cJSON_AddItemToArray(list, j);
	}
}

/* Keys are those of the contract; `faults` is the structure check's list. */
int verify_json(const struct verify *v, struct err *err)
{
	struct cJSON *o = cJSON_CreateObject();

	ui_json_text(o, "path", v->call->model);
	cJSON_AddBoolToObject(o, "passed", v->passed);
	add_checks(o, v);
	add_faults(o, v);
	add_layers(o, v);
	add_perplexity(o, v);
	add_divergence(o, v);
	add_kernels(o, v);
	return ui_json(v->out, o, err);
}

/* ---- JUnit ---- */

/* Text in an attribute: the five signs that XML reserves, and no control
 * characters (XML 1.0 has no way to write them). */
static void xml_text(FILE *f, const char *s)
{
	for (; *s; s++) {
		switch (*s) {
		case '&':
			fputs("&amp;", f);
			break;
		case '<':
			fputs("&lt;", f);
			break;
		case '>':
			fputs("&gt;", f);
			break;
		case '"':
			fputs("&quot;", f);
			break;
		default:
			fputc((unsigned char)*s < 0x20 ? '?' : *s, f);
		}
	}
}

/* The form that CI servers read: a case per check, the message of a failure as
 * its attribute. */
static void xml_report(FILE *f, const struct verify *v)
{
	uint32_t asked = 0, failed = 0;

	for (int i = 0; i < VERIFY_CHECKS; i++) {
		asked += v->check[i].asked;
		failed += v->check[i].asked && !v->check[i].passed;
	}
	fputs("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n", f);
	fprintf(f, "<testsuite name=\"gptq-verify\" tests=\"%u\" "
		"failures=\"%u\">\n", asked, failed);
	for (int i = 0; i < VERIFY_CHECKS; i++) {
		const struct verify_check *c = &v->check[i];

		if (!c->asked)
			continue;
		fputs("  <testcase classname=\"", f);
		xml_text(f, v->call->model);
		fprintf(f, "\" name=\"%s\" time=\"%.3f\">\n    <%s", c->name,
			c->seconds, c->passed ? "system-out>" :
						"failure message=\"");
		xml_text(f, c->message);
		fputs(c->passed ? "</system-out>\n" : "\"/>\n", f);
		fputs("  </testcase>\n", f);
	}
	fputs("</testsuite>\n", f);
}

/* Into memory first: the file appears whole. */
int verify_junit(const struct verify *v, const char *path, struct err *err)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);
	int ret = -1;

	if (!f)
		return err_set(err, ERR_RESOURCE, "not enough memory");
	xml_report(f, v);
	if (fclose(f)) {
		err_set(err, ERR_RESOURCE, "not enough memory");
		goto out;
	}
	if (call_save(path, text, n, err))
		goto out;
	ret = 0;
out:
	free(text);
	return ret;
}
