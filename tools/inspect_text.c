/* gptq-inspect for people: one screen, or aligned tables that adapt to the
 * terminal.  Colours only mark what is good or bad. */
#include "inspect.h"

#include "../libfmt/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LABEL 19        /* columns in front of a value */
#define TEXT 1024

/* A long value goes on below itself, in a terminal that is too narrow. */
static void wrapped(FILE *f, const char *text, int width)
{
	size_t room = width > LABEL + 20 ? (size_t)(width - LABEL) : SIZE_MAX;

	for (;;) {
		size_t n = strlen(text), cut = n;

		if (n > room)
			for (cut = room; cut > room / 2 && text[cut] != ' ';)
				cut--;
		if (n > room && text[cut] != ' ')
			cut = n; /* a long word is the terminal's business */
		ui_put(f, "%.*s", (int)cut, text);
		fputc('\n', f);
		text += cut + (text[cut] == ' ');
		if (!*text)
			return;
		fprintf(f, "%*s", LABEL, "");
	}
}

/* "  label            value", the value's first word perhaps in colour */
ERR_PRINTF(4, 0)
static void vrow(const struct inspect *r, const char *label,
		 enum ui_color color, const char *fmt, va_list ap)
{
	char text[TEXT];
	const char *rest = text;

	fprintf(r->out, "  %s%-15s%s  ", ui_paint(r->ui, r->out, UI_DIM),
		label, ui_paint(r->ui, r->out, UI_OFF));
	vsnprintf(text, sizeof(text), fmt, ap);
	if (color != UI_OFF) {
		size_t n = strcspn(text, " :");

		fprintf(r->out, "%s%.*s%s", ui_paint(r->ui, r->out, color),
			(int)n, text, ui_paint(r->ui, r->out, UI_OFF));
		rest += n;
	}
	wrapped(r->out, rest, ui_width(r->out) - (int)(rest - text));
}

ERR_PRINTF(3, 4)
static void row(const struct inspect *r, const char *label, const char *fmt,
		...)
{
	va_list ap;

	va_start(ap, fmt);
	vrow(r, label, UI_OFF, fmt, ap);
	va_end(ap);
}

ERR_PRINTF(4, 5)
static void colored(const struct inspect *r, const char *label,
		    enum ui_color color, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vrow(r, label, color, fmt, ap);
	va_end(ap);
}

/* The sizes are known for architectures that we run; for others the config's
 * own words are all that is shown. */
static void architecture_rows(const struct inspect *r)
{
	const struct llama_config *c = &r->cfg;
	char n[32];

	if (r->architecture || r->model_type)
		row(r, "architecture", "%s%s%s%s",
		    r->architecture ? r->architecture : "not said",
		    r->model_type ? " (" : "",
		    r->model_type ? r->model_type : "",
		    r->model_type ? ")" : "");
	else
		row(r, "architecture", "unknown (no config.json)");
	if (r->cfg_known) {
		row(r, "shape", "%u blocks of %u, MLP %u, %u heads of %u (%u "
		    "key/value)", c->layers, c->hidden, c->inter, c->heads,
		    c->head_dim, c->kv_heads);
		row(r, "vocabulary", "%u, context %u", c->vocab, c->max_pos);
	}
	if (r->survey.parameters)
		row(r, "parameters", "%s", ui_count(r->survey.parameters, n));
}

/* The type of most bytes, for a dense checkpoint. */
static enum dtype main_type(const struct model *m)
{
	uint64_t sum[DT_COUNT] = { 0 };
	enum dtype best = DT_NONE;

	for (uint32_t i = 0; i < m->tensor_count; i++)
		sum[m->tensor[i].type] += m->tensor[i].size;
	for (enum dtype t = DT_NONE; t < DT_COUNT; t++)
		if (sum[t] > sum[best])
			best = t;
	return best;
}

/* A GGUF file mixes types by design: how many tensors have each. */
static void type_row(const struct inspect *r)
{
	uint32_t count[DT_COUNT] = { 0 };
	char text[256] = "";
	size_t n = 0;

	for (uint32_t i = 0; i < r->model->tensor_count; i++)
		count[r->model->tensor[i].type]++;
	for (enum dtype t = DT_NONE; t < DT_COUNT; t++)
		if (count[t] && n < sizeof(text))
			n += (size_t)snprintf(text + n, sizeof(text) - n,
					      "%s%s %u", n ? ", " : "",
					      tensor_dtype_name(t), count[t]);
	row(r, "tensors", "%s", text);
}

/* What was found in the tensors; where the settings came from is said, because
 * a config may be absent or wrong. */
static void format_rows(const struct inspect *r)
{
	const struct survey *s = &r->survey;
	const char *differ = s->mixed ? " (the most; layers differ)" : "";

	if (model_gguf(r->model))
		type_row(r);
	if (!r->quantized && r->absent.is) {
		row(r, "format", "%s, by config.json", s->format);
		return;
	}
	if (!r->quantized) {
		row(r, "format", "%s, %s%s", s->format,
		    tensor_dtype_name(main_type(r->model)),
		    model_gguf(r->model) ? ", in a GGUF file" : "");
		return;
	}
	if (model_gguf(r->model))
		row(r, "format", "%s", s->format);
	else
		row(r, "format", "%s (settings: %s)", s->format,
		    config_source_name(r->model->quant.source));
	if (s->bits)
		row(r, "bits", "%u%s", s->bits, differ);
	else
		row(r, "bits", "not known");
	if (!s->group_size)
		row(r, "group size", "not known");
	else if (s->group_size == -1)
		row(r, "group size", "-1 (a group per row)%s", differ);
	else
		row(r, "group size", "%d%s", s->group_size, differ);
	row(r, "act-order", "%s", s->desc_act ? "yes" : "no");
	row(r, "symmetric", "%s", s->sym ? "yes" : "no");
	if (r->absent.is)
		return;
	if (s->bits_per_weight > 0)
		row(r, "bits per weight", "%.3f", s->bits_per_weight);
	row(r, "linears", "%u quantized, %u not", s->quantized,
	    s->count - s->quantized);
}

static void memory_row(const struct inspect *r)
{
	char text[160];

	if (!r->estimate.total)
		return;
	inspect_memory_line(&r->estimate, text);
	row(r, "memory to run", "%s", text);
}

#define FILES_SHOWN 4

/* A screen has room for a few; --files has all. */
static void file_rows(const struct inspect *r)
{
	const struct model *m = r->model;
	char n[32];

	for (uint32_t i = 0; i < m->file_count && i < FILES_SHOWN; i++)
		row(r, i ? "" : "files", "%s  %s, %u tensor%s",
		    m->file[i].name, ui_bytes(m->file[i].bytes, n),
		    m->file[i].tensors, ui_plural(m->file[i].tensors));
	if (m->file_count > FILES_SHOWN)
		row(r, "", "and %u more (--files)",
		    m->file_count - FILES_SHOWN);
}

static enum ui_color severity_color(enum doctor_severity s)
{
	return s == DOCTOR_ERROR ? UI_RED :
	       s == DOCTOR_WARNING ? UI_YELLOW : UI_BLUE;
}

#define PROBLEMS_SHOWN 5

/* The worst come first (doctor sorts them). */
static void problem_rows(const struct inspect *r)
{
	const struct doctor *d = &r->doctor;

	if (!d->count) {
		colored(r, "problems", UI_GREEN, "none%s",
			r->survey.glance ? " at a glance" : "");
		return;
	}
	for (uint32_t i = 0; i < d->count && i < PROBLEMS_SHOWN; i++) {
		const struct doctor_problem *p = &d->problem[i];

		colored(r, i ? "" : "problems", severity_color(p->severity),
			"%s: %s", doctor_severity_name(p->severity),
			p->message);
	}
	if (d->count > PROBLEMS_SHOWN)
		row(r, "", "and %u more", d->count - PROBLEMS_SHOWN);
	row(r, "", "--doctor says who refuses this and what mends it");
}

/* At most some twenty lines, the path on top as the heading. */
void inspect_screen(const struct inspect *r)
{
	uint32_t files = r->model->file_count;
	char n[32], size[96];

	fputs(ui_paint(r->ui, r->out, UI_BOLD), r->out);
	ui_put(r->out, "%s", r->model->path);
	fprintf(r->out, "%s\n", ui_paint(r->ui, r->out, UI_OFF));
	architecture_rows(r);
	if (r->absent.is) {
		inspect_absent_size(r, size);
		row(r, "size", "%s", size);
	} else {
		row(r, "size", "%s in %u file%s",
		    ui_bytes(r->survey.bytes, n), files, ui_plural(files));
	}
	format_rows(r);
	memory_row(r);
	file_rows(r);
	problem_rows(r);
}

/* ---- tables ---- */

/* Bytes and offsets are plain numbers here: they are for dd and hexdump. */
int inspect_tensors(const struct inspect *r, struct err *err)
{
	static const char *const heads[] = { "~tensor", "<type", "<shape",
		">bytes", ">offset", "<file" };
	const struct model *m = r->model;
	struct ui_table *t = ui_table_new(heads, 6, err);
	char shape[96];
	int ret;

	if (!t)
		return -1;
	for (uint32_t i = 0; i < m->tensor_count; i++) {
		const struct tensor *x = &m->tensor[i];

		if (!r->show_tensor[i])
			continue;
		ui_cell(t, "%s", x->name);
		ui_cell(t, "%s", tensor_dtype_name(x->type));
		ui_cell(t, "%s", tensor_shape_text(x, shape));
		ui_cell(t, "%llu", (unsigned long long)x->size);
		if (x->offset == TENSOR_COPIED) /* not in the file as it is */
			ui_cell(t, "-");
		else
			ui_cell(t, "%llu", (unsigned long long)x->offset);
		ui_cell(t, "%s", model_file_of(m, x));
	}
	ret = ui_table_print(r->ui, r->out, t, err);
	ui_table_free(t);
	return ret;
}

/* A layer that cannot be read keeps its row: the reason stands where the
 * format would. */
static void layer_cells(struct ui_table *t, const struct survey_layer *l)
{
	const struct ql_spec *s = &l->spec;

	ui_cell(t, "%s", l->module->name);
	if (l->broken) {
		for (int i = 0; i < 6; i++)
			ui_cell(t, "?");
		ui_cell(t, "%s", l->bias ? "yes" : "no");
		ui_cell(t, "%s: %s", l->format ? l->format->name : "dense",
			l->why);
		return;
	}
	ui_cell(t, "%u", s->in);
	ui_cell(t, "%u", s->out);
	if (l->format) {
		ui_cell(t, "%u", s->bits);
		ui_cell(t, "%u", s->group_size);
		ui_cell(t, "%s", s->act_order ? "yes" : "no");
		ui_cell(t, "%s", s->sym ? "yes" : "no");
	} else {
		for (int i = 0; i < 4; i++)
			ui_cell(t, "-");
	}
	ui_cell(t, "%s", l->bias ? "yes" : "no");
	ui_cell(t, "%s", l->format ? l->format->name : "dense");
}

int inspect_layers(const struct inspect *r, struct err *err)
{
	static const char *const heads[] = { "~layer", ">in", ">out", ">bits",
		">group", "<act-order", "<sym", "<bias", "<format" };
	struct ui_table *t = ui_table_new(heads, 9, err);
	int ret;

	if (!t)
		return -1;
	for (uint32_t i = 0; i < r->survey.count; i++)
		if (r->show_layer[i])
			layer_cells(t, &r->survey.layer[i]);
	ret = ui_table_print(r->ui, r->out, t, err);
	ui_table_free(t);
	return ret;
}

/* Is a tensor in it that --match lets through? */
static bool shows_file(const struct inspect *r, uint32_t file)
{
	for (uint32_t i = 0; r->match && i < r->model->tensor_count; i++)
		if (r->show_tensor[i] && r->model->tensor[i].file == file)
			return true;
	return !r->match;
}

int inspect_files(const struct inspect *r, struct err *err)
{
	static const char *const heads[] = { "~file", ">bytes", ">tensors",
		"<container" };
	struct ui_table *t = ui_table_new(heads, 4, err);
	const struct model *m = r->model;
	int ret;

	if (!t)
		return -1;
	for (uint32_t i = 0; i < m->file_count; i++) {
		if (!shows_file(r, i))
			continue;
		ui_cell(t, "%s", m->file[i].name);
		ui_cell(t, "%llu", (unsigned long long)m->file[i].bytes);
		ui_cell(t, "%u", m->file[i].tensors);
		ui_cell(t, "%s", m->file[i].container);
	}
	ret = ui_table_print(r->ui, r->out, t, err);
	ui_table_free(t);
	return ret;
}

void inspect_hashes(const struct inspect *r)
{
	const struct digest *d = r->digest;

	for (uint32_t i = 0; i < d->count; i++)
		if (inspect_shows(r, d->name[i])) {
			ui_put(r->out, "%s  %s", d->hash[i], d->name[i]);
			fputc('\n', r->out);
		}
	fprintf(r->out, "%s  (%s)\n", d->model,
		d->what == DIGEST_BYTES ? "model" : "weights");
}

void inspect_doctor(const struct inspect *r)
{
	const struct doctor *d = &r->doctor;
	FILE *f = r->out;

	for (uint32_t i = 0; i < d->count; i++) {
		const struct doctor_problem *p = &d->problem[i];

		fprintf(f, "%s%s%s ",
			ui_paint(r->ui, f, severity_color(p->severity)),
			doctor_severity_name(p->severity),
			ui_paint(r->ui, f, UI_OFF));
		ui_put(f, "%s: %s%s%s", p->code, p->where,
		       p->where[0] ? ": " : "", p->message);
		if (p->refused_by[0])
			fprintf(f, "\n    refused by %s", p->refused_by);
		if (p->says[0])
			fprintf(f, "\n    saying     %s", p->says);
		if (p->fix[0]) {
			fputs("\n    mended by  ", f);
			ui_put(f, "%s", p->fix);
		}
		fputc('\n', f);
	}
	if (!d->count)
		fprintf(f, "%sno known problem%s\n",
			ui_paint(r->ui, f, UI_GREEN),
			ui_paint(r->ui, f, UI_OFF));
}
