/* Of the page of --html: the map and table of layers, and what --diff found.
 * Columns that the map can show say so; the page's script does the rest. */
#include "html.h"
#include "inspect_html.h"

#include <stdlib.h>
#include <string.h>

#define NOTHING "\xe2\x80\x93"

/* ---- layers ---- */

static const struct html_column always[] = {
	{ "layer", NULL, 1 }, { "in", NULL, 0 }, { "out", NULL, 0 },
	{ "bits", "bits", 0 }, { "group", "cat", 0 },
	{ "act-order", NULL, 1 }, { "sym", NULL, 1 }, { "bytes", "log", 0 },
	{ "format", NULL, 1 },
};
static const struct html_column with_diff[] = {
	{ "error", "badlog", 0 }, { "largest", "badlog", 0 },
};
static const struct html_column with_stats[] = {
	{ "scale", "log", 0 }, { "least", NULL, 0 }, { "most", "log", 0 },
	{ "noise", "badlog", 0 }, { "entropy", "seq", 0 },
	{ "at the ends %", "bad", 0 }, { "dead groups", "bad", 0 },
	{ "codes", NULL, 1 },
};
#define COUNT(a) (sizeof(a) / sizeof(*(a)))

static uint64_t layer_bytes(const struct survey_layer *l)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < l->module->count; i++)
		n += l->module->part[i].size;
	return n;
}

static void nothing(FILE *f, size_t cells)
{
	for (size_t i = 0; i < cells; i++)
		html_cell(f, NOTHING);
}

static void spec_cells(FILE *f, const struct survey_layer *l)
{
	const struct ql_spec *s = &l->spec;
	char n[32];

	if (l->broken && !s->in) {
		nothing(f, 6);
	} else {
		html_cell(f, "%u", s->in);
		html_cell(f, "%u", s->out);
		if (l->format && !l->broken) {
			html_cell(f, "%u", s->bits);
			html_cell(f, "%u", s->group_size);
			html_word(f, "%s", s->act_order ? "yes" : "no");
			html_word(f, "%s", s->sym ? "yes" : "no");
		} else {
			nothing(f, 4);
		}
	}
	html_value(f, (double)layer_bytes(l), "%s",
		   ui_bytes(layer_bytes(l), n));
	if (l->broken)
		html_word(f, "%s: %s", l->layout, l->why);
	else
		html_word(f, "%s", l->layout);
}

static int by_name(const void *key, const void *tensor)
{
	return survey_order(key, ((const struct diff_tensor *)tensor)->name);
}

/* Equal tensors have an error of 0. */
static void diff_cells(FILE *f, const struct inspect *r,
		       const struct survey_layer *l)
{
	const struct diff *d = &r->diff->diff;
	const struct diff_tensor *t = NULL;
	char name[LLAMA_NAME];
	int n = snprintf(name, sizeof(name), "%s.weight", l->module->name);

	if (n > 0 && (size_t)n < sizeof(name) && d->tensors)
		t = bsearch(name, d->tensor, d->tensors, sizeof(*d->tensor),
			    by_name);
	if (!t || t->state > DIFF_VALUES) {
		nothing(f, COUNT(with_diff));
		return;
	}
	html_cell(f, "%.3g", t->rel);
	html_cell(f, "%.3g", t->max_abs);
}

static void stats_cells(FILE *f, const struct inspect *r, uint32_t i)
{
	const struct stats_layer *l = &r->stats->layer[i];
	struct ui wide = { .utf8 = true }; /* a page always is */
	char spark[3 * UI_SPARK + 1];

	if (!l->known) {
		nothing(f, COUNT(with_stats));
		return;
	}
	html_cell(f, "%.3g", l->scale.mean);
	html_cell(f, "%.3g", l->scale.min);
	html_cell(f, "%.3g", l->scale.max);
	html_cell(f, "%.3g", l->noise);
	html_cell(f, "%.3f", l->entropy);
	html_cell(f, "%.2f", 100 * inspect_stats_ends(l));
	html_cell(f, "%llu", (unsigned long long)l->dead_groups);
	fputs("<td class=\"l spark\">", f);
	html_text(f, ui_spark(&wide, l->code, 1u << l->spec.bits, 16, spark));
}

static void layer_table(FILE *f, const struct inspect *r)
{
	struct html_column column[COUNT(always) + COUNT(with_diff) +
				  COUNT(with_stats)];
	size_t n = COUNT(always);

	memcpy(column, always, sizeof(always));
	if (r->diff) {
		memcpy(column + n, with_diff, sizeof(with_diff));
		n += COUNT(with_diff);
	}
	if (r->stats) {
		memcpy(column + n, with_stats, sizeof(with_stats));
		n += COUNT(with_stats);
	}
	html_table(f, "layers", "Linear layers", column, (uint32_t)n);
	for (uint32_t i = 0; i < r->survey.count; i++) {
		const struct survey_layer *l = &r->survey.layer[i];

		if (!r->show_layer[i])
			continue;
		html_row(f, l->module->name);
		spec_cells(f, l);
		if (r->diff)
			diff_cells(f, r, l);
		if (r->stats)
			stats_cells(f, r, i);
	}
	html_table_end(f);
}

/* Without scripts the table alone is shown. */
void inspect_html_layers(FILE *f, const struct inspect *r)
{
	fputs("<section id=\"atlas\" aria-labelledby=\"h-map\" hidden>\n"
	      "<h2 id=\"h-map\">Modules by block</h2>\n"
	      "<fieldset id=\"by\"><legend>Coloured by</legend></fieldset>\n"
	      "<div id=\"map\" tabindex=\"0\" role=\"region\" "
	      "aria-label=\"Map of layers; arrow keys move\"></div>\n"
	      "<div id=\"key\" class=\"key\"></div>\n"
	      "<output id=\"says\" aria-live=\"polite\">Point at a cell, or "
	      "move with the arrow keys.</output>\n</section>\n"
	      "<section aria-labelledby=\"h-layers\">\n"
	      "<h2 id=\"h-layers\">Layers</h2>\n"
	      "<input id=\"find\" type=\"search\" placeholder=\"Part of a "
	      "name\" aria-label=\"Show layers whose name holds\" hidden>\n"
	      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
	      "aria-labelledby=\"h-layers\">\n", f);
	layer_table(f, r);
	fputs("</div>\n</section>\n", f);
}

/* ---- differences ---- */

static void key_table(FILE *f, const struct diff *d)
{
	static const struct html_column column[] = { { "file", NULL, 1 },
		{ "key", NULL, 1 }, { "here", NULL, 1 },
		{ "there", NULL, 1 } };

	html_table(f, NULL, "Configs and files that differ", column, 4);
	for (uint32_t i = 0; i < d->keys; i++) {
		const struct diff_key *k = &d->key[i];

		/* of a file as a whole the key is its name */
		html_row(f, *k->file ? k->file : k->key);
		html_word(f, "%s", *k->file ? k->key : "");
		html_word(f, "%.200s", k->a ? k->a : NOTHING);
		html_word(f, "%.200s", k->b ? k->b : NOTHING);
	}
	html_table_end(f);
}

static void tensor_table(FILE *f, const struct inspect *r)
{
	static const struct html_column column[] = { { "tensor", NULL, 1 },
		{ "what", NULL, 1 }, { "error", NULL, 0 },
		{ "largest", NULL, 0 }, { "unequal %", NULL, 0 },
		{ "here", NULL, 1 }, { "there", NULL, 1 } };
	const struct diff *d = &r->diff->diff;

	html_table(f, NULL, "Tensors that differ", column, 7);
	for (uint32_t i = 0; i < d->tensors; i++) {
		const struct diff_tensor *t = &d->tensor[i];

		if ((t->state == DIFF_EQUAL && !t->stored) ||
		    !inspect_shows(r, t->name))
			continue;
		html_row(f, t->name);
		html_word(f, "%s", diff_state_name(t->state));
		if (t->state <= DIFF_VALUES && t->count) {
			html_cell(f, "%.3g", t->rel);
			html_cell(f, "%.3g", t->max_abs);
			html_cell(f, "%.2f", 100 * (double)t->unequal /
				(double)t->count);
		} else {
			nothing(f, 3);
		}
		html_word(f, "%s", t->a);
		html_word(f, "%s", t->b);
	}
	html_table_end(f);
}

void inspect_html_diff(FILE *f, const struct inspect *r)
{
	if (!r->diff)
		return;
	fputs("<section aria-labelledby=\"h-diff\">\n<h2 id=\"h-diff\">"
	      "Differences</h2>\n<p class=\"note\">Against <code>", f);
	html_text(f, r->diff->other->path);
	fputs("</code></p>\n", f);
	if (!r->diff->diff.differences)
		fputs("<p class=\"ok\">None.</p>\n", f);
	if (r->diff->diff.keys) {
		fputs("<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
		      "aria-label=\"Configs\">\n", f);
		key_table(f, &r->diff->diff);
		fputs("</div>\n<p></p>\n", f);
	}
	if (r->diff->diff.differences > r->diff->diff.keys) {
		fputs("<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
		      "aria-label=\"Tensors\">\n", f);
		tensor_table(f, r);
		fputs("</div>\n", f);
	}
	fputs("</section>\n", f);
}
