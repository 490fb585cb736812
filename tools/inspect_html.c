/* gptq-inspect --html: one page that needs nothing else, made of the result.
 *
 * Tables and words are in the page itself; its script sorts them and draws the
 * map of layers from the table.  Whatever a checkpoint holds passes
 * html_text. */
#include "inspect_html.h"

#include "call.h"
#include "html.h"

#include <stdlib.h>
#include <string.h>

/* ---- above ---- */

/* The last name of the path. */
static const char *short_name(const struct inspect *r)
{
	const char *slash = strrchr(r->model->path, '/');

	return slash && slash[1] ? slash + 1 : r->model->path;
}

static void put_title(FILE *f, const struct inspect *r)
{
	fputs("<title>", f);
	html_text(f, short_name(r));
	fputs(" \xc2\xb7 gptq-inspect</title>\n", f);
}

static void put_heading(FILE *f, const struct inspect *r)
{
	fputs("<h1>", f);
	html_text(f, short_name(r));
	fputs("</h1>\n", f);
	if (short_name(r) == r->model->path)
		return;
	fputs("<p class=\"path\">", f);
	html_text(f, r->model->path);
	fputs("</p>\n", f);
}

static void quantization_facts(FILE *f, const struct inspect *r)
{
	const struct survey *s = &r->survey;
	const char *differ = s->mixed ? " (the most; layers differ)" : "";

	html_fact(f, "Format", "%s", s->format);
	html_fact(f, "Linears", "%u quantized, %u not", s->quantized,
		  s->count - s->quantized);
	if (!s->quantized || !s->bits) /* none, or none that can be read */
		return;
	html_fact(f, "Bits", "%u%s", s->bits, differ);
	html_fact(f, "Bits per weight", "%.3f", s->bits_per_weight);
	if (s->group_size == -1)
		html_fact(f, "Group size", "one per row%s", differ);
	else
		html_fact(f, "Group size", "%d%s", s->group_size, differ);
	html_fact(f, "Act-order", "%s", s->desc_act ? "yes" : "no");
	html_fact(f, "Symmetric", "%s", s->sym ? "yes" : "no");
	if (!model_gguf(r->model))
		html_fact(f, "Settings from", "%s",
			  config_source_name(r->model->quant.source));
}

static void put_facts(FILE *f, const struct inspect *r)
{
	const struct llama_config *c = &r->cfg;
	char n[32];

	html_fact(f, "Architecture", "%s", r->architecture ? r->architecture :
			r->model_type ? r->model_type : "unknown");
	html_fact(f, "Parameters", "%s", ui_count(r->survey.parameters, n));
	html_fact(f, "Size", "%s in %u file%s", ui_bytes(r->survey.bytes, n),
		  r->model->file_count, ui_plural(r->model->file_count));
	quantization_facts(f, r);
	if (r->cfg_known) {
		html_fact(f, "Shape", "%u blocks of %u, MLP %u", c->layers,
			  c->hidden, c->inter);
		html_fact(f, "Heads", "%u of %u (%u key/value)",
			  c->heads, c->head_dim, c->kv_heads);
		html_fact(f, "Vocabulary", "%u, context %u", c->vocab,
			  c->max_pos);
	}
}

static void put_problem(FILE *f, const struct doctor_problem *p)
{
	const char *severity = doctor_severity_name(p->severity);

	fprintf(f, "<article class=\"problem %s\">\n<p><b>%s</b> <code>%s"
		"</code>", severity, severity, p->code);
	if (*p->where) {
		fputs(" <code>", f);
		html_text(f, p->where);
		fputs("</code>", f);
	}
	fputs("</p>\n<p>", f);
	html_text(f, p->message);
	fputs("</p>\n", f);
	if (*p->refused_by) {
		fputs("<p class=\"note\">Refused by ", f);
		html_text(f, p->refused_by);
		if (*p->says) {
			fputs(", saying <code>", f);
			html_text(f, p->says);
			fputs("</code>", f);
		}
		fputs("</p>\n", f);
	}
	if (*p->fix) {
		fputs("<pre><code>", f);
		html_text(f, p->fix);
		fputs("</code></pre>\n", f);
	}
	fputs("</article>\n", f);
}

static void put_problems(FILE *f, const struct inspect *r)
{
	for (uint32_t i = 0; i < r->doctor.count; i++)
		put_problem(f, &r->doctor.problem[i]);
	if (!r->doctor.count)
		fprintf(f, "<p class=\"ok\">No known problem%s.</p>\n",
			r->survey.glance ? " at a glance" : "");
}

/* ---- below ---- */

static void cache_facts(FILE *f, const struct estimate *e)
{
	char n[32], tokens[48];

	html_fact(f, "Weights", "%s", ui_bytes(e->weights, n));
	if (!e->shape_known)
		return;
	html_fact(f, "Activations", "%s for %u rows",
		  ui_bytes(e->activations, n), EST_ROWS);
	for (int i = 0; i < EST_CACHES; i++)
		html_fact(f, "1024 tokens of cache", "%s in %s",
			  ui_bytes(e->cache[i], n), est_cache_types[i].name);
	if (e->total)
		html_fact(f, "Together", "%s with %s in F16",
			  ui_bytes(e->total, n),
			  inspect_memory_tokens(e, tokens));
}

static void card_table(FILE *f, const struct estimate *e)
{
	const struct html_column column[] = { { "Card", NULL, 1 },
		{ "Memory", NULL, 0 }, { "Needed", NULL, 0 },
		{ e->sequences > 1 ? "Tokens of each sequence" :
				     "Tokens of F16 cache", NULL, 0 } };
	char n[32];

	html_table(f, NULL, "Cards that can run it", column, 4);
	for (int i = 0; i < EST_CARDS; i++) {
		double bytes = est_cards[i].mib * 1048576.0;

		html_row(f, est_cards[i].names);
		html_value(f, bytes, "%s", ui_bytes((uint64_t)bytes, n));
		if (e->fit[i].cards) {
			html_cell(f, "%u", e->fit[i].cards);
			html_cell(f, "%llu",
				  (unsigned long long)e->fit[i].tokens);
		} else {
			html_cell(f, "\xe2\x80\x93");
			html_cell(f, "\xe2\x80\x93");
		}
	}
	html_table_end(f);
}

static void size_table(FILE *f, const struct estimate *e)
{
	static const struct html_column column[] = { { "Weights", NULL, 1 },
		{ "Groups of 32", NULL, 0 }, { "64", NULL, 0 },
		{ "128", NULL, 0 }, { "One per row", NULL, 0 } };
	char n[32];

	html_table(f, NULL, "Weights with other bits and groups", column, 5);
	for (int b = 0; b < EST_BITS; b++) {
		snprintf(n, sizeof(n), "%u bits", est_bits[b]);
		html_row(f, n);
		for (int g = 0; g < EST_GROUPS; g++)
			html_value(f, (double)e->size[b][g], "%s",
				   ui_bytes(e->size[b][g], n));
	}
	html_table_end(f);
}

static void put_memory(FILE *f, const struct inspect *r)
{
	const struct estimate *e = &r->estimate;

	fputs("<section aria-labelledby=\"h-memory\">\n<h2 id=\"h-memory\">"
	      "Memory to run it</h2>\n<dl>\n", f);
	cache_facts(f, e);
	fputs("</dl>\n", f);
	if (e->total) {
		fputs("<p class=\"note\">Of each card 768 MiB are left to the "
		      "driver.</p>\n<div class=\"scroll\" tabindex=\"0\" "
		      "role=\"region\" aria-label=\"Cards\">\n", f);
		card_table(f, e);
		fputs("</div>\n", f);
	}
	if (e->sizes_known) {
		fputs("<p class=\"note\">What the weights would take in the "
		      "layout gptq:</p>\n<div class=\"scroll\" "
		      "tabindex=\"0\" role=\"region\" "
		      "aria-label=\"Sizes\">\n", f);
		size_table(f, e);
		fputs("</div>\n", f);
	}
	fputs("</section>\n", f);
}

static void put_files(FILE *f, const struct inspect *r)
{
	static const struct html_column column[] = { { "File", NULL, 1 },
		{ "Size", NULL, 0 }, { "Tensors", NULL, 0 },
		{ "Container", NULL, 1 } };
	char n[32];

	html_table(f, NULL, "Weight files", column, 4);
	for (uint32_t i = 0; i < r->model->file_count; i++) {
		const struct model_file *x = &r->model->file[i];

		html_row(f, x->name);
		html_value(f, (double)x->bytes, "%s", ui_bytes(x->bytes, n));
		html_cell(f, "%u", x->tensors);
		html_word(f, "%s", x->container);
	}
	html_table_end(f);
}

/* What the next page would need to show more. */
static void put_footer(FILE *f, const struct inspect *r)
{
	fputs("<p>Made by gptq-inspect --html.", f);
	if (r->survey.quantized && !r->stats)
		fputs(" With --stats the map also shows scales, entropy and "
		      "saturation.", f);
	if (!r->diff)
		fputs(" With --diff OTHER it shows the error against another "
		      "checkpoint.", f);
	fputs("</p>\n", f);
}

/* ---- the page ---- */

static const struct slot {
	const char *name;
	void (*put)(FILE *f, const struct inspect *r);
} slots[] = {
	{ "@title\n", put_title },
	{ "@heading\n", put_heading },
	{ "@facts\n", put_facts },
	{ "@problems\n", put_problems },
	{ "@layers\n", inspect_html_layers },
	{ "@diff\n", inspect_html_diff },
	{ "@memory\n", put_memory },
	{ "@files\n", put_files },
	{ "@footer\n", put_footer },
};

static void put_line(FILE *f, const char *line, const struct inspect *r)
{
	for (size_t i = 0; i < sizeof(slots) / sizeof(*slots); i++)
		if (!strcmp(line, slots[i].name)) {
			slots[i].put(f, r);
			return;
		}
	fputs(line, f);
}

int inspect_html(const struct inspect *r, const char *path, struct err *err)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);
	int ret = -1;

	if (!f)
		return err_set(err, ERR_RESOURCE, "not enough memory");
	for (const char *const *line = inspect_page; *line; line++)
		put_line(f, *line, r);
	/* memory is all that can be short */
	if (ferror(f) | fclose(f)) {
		err_set(err, ERR_RESOURCE, "not enough memory for the page");
	} else if (!strcmp(path, "-")) {
		fwrite(text, 1, n, stdout);
		ret = 0; /* main checks stdout */
	} else {
		ret = call_save(path, text, n, err);
	}
	free(text);
	return ret;
}
