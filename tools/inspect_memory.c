/* gptq-inspect --memory: what it takes to run the checkpoint (libfmt/estimate),
 * as text and as JSON. */
#include "inspect.h"

#include <cjson/cJSON.h>
#include <stdio.h>

/* ---- text ---- */

/* "  what             12.3 GiB  how" */
static void line(const struct inspect *r, const char *what, uint64_t bytes,
		 const char *how)
{
	char n[32];

	fprintf(r->out, "  %-18s %9s  %s%s%s\n", what, ui_bytes(bytes, n),
		ui_paint(r->ui, r->out, UI_DIM), how,
		ui_paint(r->ui, r->out, UI_OFF));
}

const char *inspect_memory_tokens(const struct estimate *e, char buf[48])
{
	if (e->sequences > 1)
		snprintf(buf, 48, "%u x %u tokens", e->sequences, e->tokens);
	else
		snprintf(buf, 48, "%u tokens", e->tokens);
	return buf;
}

static void show_parts(const struct inspect *r)
{
	const struct estimate *e = &r->estimate;
	char how[96], what[64], tokens[48];

	if (e->weights)
		line(r, "weights", e->weights, r->absent.is ?
			"by what there is of them" :
			"as they lie in the files");
	else
		fprintf(r->out, "  weights are not known\n");
	if (!e->shape_known) {
		fprintf(r->out, "  cache and activations are not known: "
			"config.json does not tell the sizes\n");
		return;
	}
	snprintf(how, sizeof(how), "%u rows at a time", e->sequences >
		 EST_ROWS ? e->sequences : EST_ROWS);
	line(r, "activations", e->activations, how);
	for (int i = 0; i < EST_CACHES; i++) {
		snprintf(what, sizeof(what), "%s",
			 i ? "" : "cache, 1k tokens");
		snprintf(how, sizeof(how), "%s (%s)", est_cache_types[i].name,
			 est_cache_types[i].who);
		line(r, what, e->cache[i], how);
	}
	snprintf(how, sizeof(how), "with %s of F16 cache",
		 inspect_memory_tokens(e, tokens));
	if (e->total)
		line(r, "together", e->total, how);
}

static int show_cards(const struct inspect *r, struct err *err)
{
	const struct estimate *e = &r->estimate;
	const char *const heads[] = { ">card", "<", ">memory", ">needed",
		e->sequences > 1 ? ">tokens of each" : ">tokens" };
	struct ui_table *t = ui_table_new(heads, 5, err);
	char n[32];
	int ret;

	if (!t)
		return -1;
	for (int i = 0; i < EST_CARDS; i++) {
		const struct est_card *c = &est_cards[i];
		const struct est_fit *f = &e->fit[i];

		ui_cell(t, "%u GB", c->gb);
		ui_cell(t, "%s", c->names);
		ui_cell(t, "%s", ui_bytes((uint64_t)c->mib << 20, n));
		if (f->cards) {
			ui_cell(t, "%u", f->cards);
			ui_cell(t, "%llu", (unsigned long long)f->tokens);
		} else {
			ui_cell(t, "-");
			ui_cell(t, "-");
		}
	}
	fputc('\n', r->out);
	ret = ui_table_print(r->ui, r->out, t, err);
	ui_table_free(t);
	return ret;
}

static int show_sizes(const struct inspect *r, struct err *err)
{
	static const char *const heads[] = { "<weights with", ">groups of 32",
		">64", ">128", ">one per row" };
	const struct estimate *e = &r->estimate;
	struct ui_table *t = ui_table_new(heads, 1 + EST_GROUPS, err);
	char n[32];
	int ret;

	if (!t)
		return -1;
	for (int b = 0; b < EST_BITS; b++) {
		ui_cell(t, "%u bits", est_bits[b]);
		for (int g = 0; g < EST_GROUPS; g++)
			ui_cell(t, "%s", ui_bytes(e->size[b][g], n));
	}
	fputc('\n', r->out);
	ret = ui_table_print(r->ui, r->out, t, err);
	ui_table_free(t);
	return ret;
}

int inspect_memory_show(const struct inspect *r, struct err *err)
{
	show_parts(r);
	if ((r->estimate.total && show_cards(r, err)) ||
	    (r->estimate.sizes_known && show_sizes(r, err)))
		return -1;
	return 0;
}

/* The smallest card of which so many will do. */
static int smallest(const struct estimate *e, uint32_t cards)
{
	for (int i = 0; i < EST_CARDS; i++)
		if (e->fit[i].cards && e->fit[i].cards <= cards)
			return i;
	return -1;
}

/* What fits one card is told with the pair that also will do. */
void inspect_memory_line(const struct estimate *e, char buf[160])
{
	char n[32], tokens[48];
	uint32_t most = 1;
	int one, two;

	while (smallest(e, most) < 0 && most < EST_CARDS_MAX)
		most *= 2;
	ui_bytes(e->total, n);
	inspect_memory_tokens(e, tokens);
	one = smallest(e, most);
	two = smallest(e, 2 * most);
	if (one < 0)
		snprintf(buf, 160, "%s with %s: more than %u cards have", n,
			 tokens, EST_CARDS_MAX);
	else if (most > 1)
		snprintf(buf, 160, "%s with %s: %u cards of %u GB", n, tokens,
			 e->fit[one].cards, est_cards[one].gb);
	else if (two == one)
		snprintf(buf, 160, "%s with %s: a card of %u GB", n, tokens,
			 est_cards[one].gb);
	else
		snprintf(buf, 160, "%s with %s: a card of %u GB, or %u of "
			 "%u GB", n, tokens, est_cards[one].gb,
			 e->fit[two].cards, est_cards[two].gb);
}

/* ---- JSON ---- */

static void json_cache(struct cJSON *o, const struct estimate *e)
{
	struct cJSON *list = cJSON_AddArrayToObject(o, "cache"), *j;

	for (int i = 0; i < EST_CACHES; i++) {
		j = cJSON_CreateObject();
		ui_json_text(j, "type", est_cache_types[i].name);
		cJSON_AddNumberToObject(j, "bytes_per_1k_tokens",
					(double)e->cache[i]);
		cJSON_AddItemToArray(list, j);
	}
}

static void json_cards(struct cJSON *o, const struct estimate *e)
{
	struct cJSON *list = cJSON_AddArrayToObject(o, "cards"), *j;

	for (int i = 0; i < EST_CARDS; i++) {
		j = cJSON_CreateObject();
		ui_json_text(j, "names", est_cards[i].names);
		cJSON_AddNumberToObject(j, "gb", est_cards[i].gb);
		cJSON_AddNumberToObject(j, "bytes",
					(double)est_cards[i].mib * 1048576);
		if (e->fit[i].cards)
			cJSON_AddNumberToObject(j, "needed", e->fit[i].cards);
		else
			cJSON_AddNullToObject(j, "needed");
		cJSON_AddNumberToObject(j, "tokens", (double)e->fit[i].tokens);
		cJSON_AddItemToArray(list, j);
	}
}

static void json_sizes(struct cJSON *o, const struct estimate *e)
{
	struct cJSON *list = cJSON_AddArrayToObject(o, "weights_with"), *j;

	for (int b = 0; e->sizes_known && b < EST_BITS; b++)
		for (int g = 0; g < EST_GROUPS; g++) {
			j = cJSON_CreateObject();
			cJSON_AddNumberToObject(j, "bits", est_bits[b]);
			cJSON_AddNumberToObject(j, "group_size",
						est_groups[g]);
			cJSON_AddNumberToObject(j, "bytes",
						(double)e->size[b][g]);
			cJSON_AddItemToArray(list, j);
		}
}

void inspect_memory_json(struct cJSON *top, const struct inspect *r)
{
	const struct estimate *e = &r->estimate;
	struct cJSON *o = cJSON_AddObjectToObject(top, "memory");

	cJSON_AddNumberToObject(o, "weights", (double)e->weights);
	cJSON_AddNumberToObject(o, "sequences", e->sequences);
	if (e->total) {
		cJSON_AddNumberToObject(o, "activations",
					(double)e->activations);
		cJSON_AddNumberToObject(o, "tokens", e->tokens);
		cJSON_AddNumberToObject(o, "total", (double)e->total);
		json_cache(o, e);
		json_cards(o, e);
	} else {
		cJSON_AddNullToObject(o, "activations");
		cJSON_AddNullToObject(o, "tokens");
		cJSON_AddNullToObject(o, "total");
		cJSON_AddNullToObject(o, "cache");
		cJSON_AddNullToObject(o, "cards");
	}
	json_sizes(o, e);
}
