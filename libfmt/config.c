#include "config.h"

#include "base/err.h"
#include "base/io.h"
#include "base/json.h"
#include "layout/ql.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- reading ---- */

static int is_one_of(const char *s, const char *const list[])
{
	for (; *list; list++)
		if (!strcasecmp(s, *list))
			return 1;
	return 0;
}

/* Methods whose bits, group_size, ... mean what they mean to GPTQ.  exl2 has
 * fractional bits, fp8 and bitsandbytes other fields altogether. */
static int is_family(const char *method)
{
	static const char *const family[] = { "gptq", "gptq_v2", "gptq_marlin",
		"marlin", "awq", "awq_marlin", "auto-round", "auto_round",
		"autoround", "intel/auto-round", "gptq_bitblas", "bitblas",
		NULL };

	return !method || is_one_of(method, family);
}

/* The first of several names that is there and not null. */
static const struct cJSON *find_any(const struct cJSON *o,
				    const char *const names[],
				    const char **which)
{
	for (; *names; names++) {
		const struct cJSON *j = json_find(o, *names);

		if (j && !json_is_null(j)) {
			*which = *names;
			return j;
		}
	}
	return NULL;
}

static int read_bits(const struct cJSON *o, struct config_quant *q,
		     struct err *err)
{
	static const char *const names[] = { "bits", "w_bit", "wbits", NULL };
	const char *key;

	if (!find_any(o, names, &key))
		return 0;
	return json_get_u32(o, key, 1, 32, &q->bits, err);
}

static int read_group(const struct cJSON *o, struct config_quant *q,
		      struct err *err)
{
	static const char *const names[] = { "group_size", "q_group_size",
		"groupsize", NULL };
	const char *key;

	if (!find_any(o, names, &key))
		return 0;
	if (json_get_i32(o, key, -1, QL_DIM_MAX, &q->group_size, err))
		return -1;
	q->group_zero = q->group_size == 0;
	return 0;
}

/* Both names of a word; the older one is believed. */
static int read_word(const struct cJSON *o, const char *old, const char *newer,
		     const char **out, struct err *err)
{
	if (json_get_text(o, newer, out, err))
		return -1;
	return json_get_text(o, old, out, err);
}

/* AWQ names its layout in `version`, spelled "GEMM" or "gemm". */
static const char *awq_format(const struct cJSON *o)
{
	static const char *const known[] = { "gemm", "gemv", "gemv_fast",
		"llm-awq", "marlin" };
	const char *v = json_text(json_find(o, "version"));

	for (size_t i = 0; v && i < sizeof(known) / sizeof(*known); i++)
		if (!strcasecmp(v, known[i]))
			return known[i];
	return NULL;
}

static int read_names(const struct cJSON *o, struct config_quant *q,
		      struct err *err)
{
	bool marlin = false;

	if (read_word(o, "quant_method", "method", &q->method, err) ||
	    read_word(o, "checkpoint_format", "format", &q->format, err) ||
	    json_get_bool(o, "is_marlin_format", &marlin, err))
		return -1;
	if (marlin && !q->format)
		q->format = "marlin";
	/* AutoGPTQ up to 0.7 made a method of the layout */
	if (q->method && !strcmp(q->method, "marlin")) {
		q->method = "gptq";
		q->format = "marlin";
	}
	if (q->method && !q->format && !strcasecmp(q->method, "awq"))
		q->format = awq_format(o);
	return 0;
}

static void note_quantizer(struct config_quant *q, const char *s)
{
	unsigned major, minor, patch = 0, version;

	if (!s)
		return;
	if (!q->quantizer)
		q->quantizer = s;
	if (strncasecmp(s, "gptqmodel", 9))
		return;
	q->by_gptqmodel = true;
	/* "gptqmodel:6.0.3"; gptq-formats(5) "Zero points" */
	if (sscanf(s + 9, ":%3u.%2u.%2u", &major, &minor, &patch) < 2)
		return;
	version = major * 10000 + minor * 100 + patch;
	q->swap3 = version >= 900 && version <= 60003;
}

/* meta.quantizer is a list of "name:version", or one such string. */
static int read_meta(const struct cJSON *o, struct config_quant *q,
		     struct err *err)
{
	const struct cJSON *meta = json_find(o, "meta"), *who;

	if (!meta || json_is_null(meta))
		return 0;
	if (!json_is_object(meta))
		return err_set(err, ERR_INPUT, "meta: not an object");
	who = json_find(meta, "quantizer");
	if (json_is_array(who))
		for (who = json_first(who); who; who = json_next(who))
			note_quantizer(q, json_text(who));
	else
		note_quantizer(q, json_text(who));
	return 0;
}

static void blank(struct config_quant *q)
{
	memset(q, 0, sizeof(*q));
	q->desc_act = q->sym = -1;
}

int config_group_read(const struct cJSON *group, struct config_quant *q,
		      struct err *err)
{
	const struct cJSON *w = json_find(group, "weights");
	const struct cJSON *order = json_find(w, "actorder");
	const char *kind = json_text(json_find(w, "strategy"));
	bool yes = false;

	if (!w || json_is_null(w))
		return 0;
	if (json_get_u32(w, "num_bits", 1, 32, &q->bits, err) ||
	    json_get_i32(w, "group_size", -1, QL_DIM_MAX, &q->group_size,
			 err) ||
	    json_get_switch(w, "symmetric", &q->sym, err))
		return -1;
	if (kind && !strcmp(kind, "channel"))
		q->group_size = -1;
	if (json_text(order))
		yes = !strcmp(json_text(order), "group");
	else if (json_bool(order, &yes))
		yes = false;
	q->desc_act = yes;
	return 0;
}

/* compressed-tensors has its numbers in config_groups.NAME.weights.  They hold
 * for all when there is one group; several are rules (model_rules.h). */
static int read_ct(const struct cJSON *o, struct config_quant *q,
		   struct err *err)
{
	const struct cJSON *g = json_first(json_find(o, "config_groups"));

	return g && !json_next(g) ? config_group_read(g, q, err) : 0;
}

/* One home by itself. */
static int read_home(const struct cJSON *o, struct config_quant *q,
		     struct err *err)
{
	const struct cJSON *dynamic = json_find(o, "dynamic");
	int8_t zero_point = -1;

	blank(q);
	if (!json_is_object(o))
		return err_set(err, ERR_INPUT, "not a JSON object");
	q->tree = o;
	if (read_names(o, q, err) || read_meta(o, q, err))
		return -1;
	if (q->method && !strcmp(q->method, "compressed-tensors"))
		return read_ct(o, q, err);
	if (!is_family(q->method))
		return 0;
	if (read_bits(o, q, err) || read_group(o, q, err) ||
	    json_get_switch(o, "desc_act", &q->desc_act, err) ||
	    json_get_switch(o, "sym", &q->sym, err) ||
	    json_get_switch(o, "zero_point", &zero_point, err) ||
	    json_get_bool(o, "lm_head", &q->lm_head, err))
		return -1;
	if (q->sym < 0 && zero_point >= 0)
		q->sym = !zero_point;
	if (q->desc_act < 0 && q->method && !strcasecmp(q->method, "awq"))
		q->desc_act = 0; /* it has no g_idx */
	if (!dynamic || json_is_null(dynamic))
		return 0;
	if (!json_is_object(dynamic))
		return err_set(err, ERR_INPUT, "dynamic: not an object");
	q->dynamic = dynamic;
	return 0;
}

static int words_differ(const char *a, const char *b)
{
	return a && b && strcmp(a, b) != 0;
}

/* The first key on which two homes say different things, or NULL.  A silent
 * home does not contradict. */
static const char *contradiction(const struct config_quant *a,
				 const struct config_quant *b)
{
	/* the method first: the others follow from it */
	if (words_differ(a->method, b->method))
		return "quant_method";
	if (a->bits && b->bits && a->bits != b->bits)
		return "bits";
	if (a->group_size && b->group_size && a->group_size != b->group_size)
		return "group_size";
	if (a->desc_act >= 0 && b->desc_act >= 0 && a->desc_act != b->desc_act)
		return "desc_act";
	if (a->sym >= 0 && b->sym >= 0 && a->sym != b->sym)
		return "sym";
	if (words_differ(a->format, b->format))
		return "checkpoint_format";
	return NULL;
}

/* What `q` leaves open is taken from `more`. */
static void fill_from(struct config_quant *q, const struct config_quant *more)
{
	if (!q->bits)
		q->bits = more->bits;
	if (!q->group_size)
		q->group_size = more->group_size;
	if (q->desc_act < 0)
		q->desc_act = more->desc_act;
	if (q->sym < 0)
		q->sym = more->sym;
	if (!q->method)
		q->method = more->method;
	if (!q->format)
		q->format = more->format;
	if (!q->quantizer)
		q->quantizer = more->quantizer;
	if (!q->dynamic)
		q->dynamic = more->dynamic;
	q->by_gptqmodel |= more->by_gptqmodel;
	q->swap3 |= more->swap3;
	q->lm_head |= more->lm_head;
	q->group_zero |= more->group_zero;
}

/* Its usual place in config.json, an older name, and that of models whose
 * text part has a config of its own. */
static const struct cJSON *find_inner(const struct cJSON *config)
{
	static const char *const place[] = { "quantization_config",
		"compression_config", "text_config.quantization_config" };

	for (size_t i = 0; i < sizeof(place) / sizeof(*place); i++) {
		const struct cJSON *j = json_path(config, place[i]);

		if (j && !json_is_null(j))
			return j;
	}
	return NULL;
}

int config_quant_read(const struct cJSON *config, const struct cJSON *quantize,
		      struct config_quant *out, struct err *err)
{
	const struct cJSON *inner = find_inner(config);
	struct config_quant more;

	blank(out);
	if (inner) {
		if (read_home(inner, out, err))
			return err_ctx(err, "config.json: quantization_config");
		out->source = CONFIG_MODEL;
	}
	if (!quantize)
		return 0;
	if (read_home(quantize, &more, err))
		return err_ctx(err, "quantize_config.json");
	if (out->source == CONFIG_NONE) {
		*out = more;
		out->source = CONFIG_QUANTIZE;
		return 0;
	}
	out->differs = contradiction(out, &more);
	out->disagree = out->differs != NULL;
	fill_from(out, &more);
	return 0;
}

const char *config_source_name(enum config_source s)
{
	switch (s) {
	case CONFIG_MODEL:
		return "config.json";
	case CONFIG_QUANTIZE:
		return "quantize_config.json";
	case CONFIG_INFERRED:
		return "inferred";
	case CONFIG_NONE:
		break;
	}
	return "none";
}

/* ---- writing ---- */

/* Not carried over from an older object: the first row is written anew, the
 * others are synonyms, hints for one program's run time, names of files that
 * are no longer there, or other methods' fields. */
static const char *const not_kept[] = {
	"bits", "group_size", "desc_act", "sym", "lm_head", "quant_method",
	"checkpoint_format", "method", "format", "dynamic", "damp_percent",
	"true_sequential", "static_groups", "meta",
	"w_bit", "wbits", "q_group_size", "groupsize", "is_marlin_format",
	"use_cuda_fp16", "disable_exllama", "use_exllama", "exllama_config",
	"backend", "max_input_length", "cache_block_outputs",
	"model_name_or_path", "model_file_base_name", "pack_dtype",
	"zero_point", "version", "modules_to_not_convert", "qweight_heights",
	"packing_format", "modules_in_block_to_quantize", NULL
};

static int lacks_memory(struct err *err)
{
	return err_set(err, ERR_RESOURCE, "out of memory for JSON");
}

/* Hang `item` under o[key]; it is freed when that fails. */
static int put(struct cJSON *o, const char *key, struct cJSON *item,
	       struct err *err)
{
	if (item && cJSON_AddItemToObject(o, key, item))
		return 0;
	cJSON_Delete(item);
	return lacks_memory(err);
}

static int put_copy(struct cJSON *o, const char *key, const struct cJSON *from,
		    struct err *err)
{
	return put(o, key, cJSON_Duplicate(from, 1), err);
}

/* What was done once stays as an older object says it. */
static int put_history(struct cJSON *o, const char *key,
		       const struct cJSON *keep, struct cJSON *fresh,
		       struct err *err)
{
	const struct cJSON *old = json_find(keep, key);

	if (!old || json_is_null(old))
		return put(o, key, fresh, err);
	cJSON_Delete(fresh);
	return put_copy(o, key, old, err);
}

static int put_kept(struct cJSON *o, const struct cJSON *keep, struct err *err)
{
	for (const struct cJSON *j = json_first(keep); j; j = json_next(j)) {
		if (is_one_of(json_key(j), not_kept))
			continue;
		if (put_copy(o, json_key(j), j, err))
			return -1;
	}
	return 0;
}

/* meta of the older object, or a new one, with a quantizer in it. */
static int put_meta(struct cJSON *o, const struct cJSON *keep, struct err *err)
{
	static const char *const us[] = { CONFIG_QUANTIZER };
	const struct cJSON *old = json_find(keep, "meta"), *who;
	struct cJSON *meta;

	meta = json_is_object(old) ? cJSON_Duplicate(old, 1) :
				     cJSON_CreateObject();
	if (put(o, "meta", meta, err))
		return -1;
	who = json_find(meta, "quantizer");
	if (who && !json_is_null(who))
		return 0;
	cJSON_DeleteItemFromObjectCaseSensitive(meta, "quantizer");
	return put(meta, "quantizer", cJSON_CreateStringArray(us, 1), err);
}

int config_quant_build(const struct config_out *c, struct cJSON **out,
		       struct err *err)
{
	int ret = -1;
	struct cJSON *o = cJSON_CreateObject();

	*out = NULL;
	if (!o)
		return lacks_memory(err);
	if (put(o, "bits", cJSON_CreateNumber(c->bits), err) ||
	    put(o, "group_size", cJSON_CreateNumber(c->group_size), err) ||
	    put(o, "desc_act", cJSON_CreateBool(c->desc_act), err) ||
	    put(o, "sym", cJSON_CreateBool(c->sym), err) ||
	    put_history(o, "static_groups", c->keep,
			cJSON_CreateBool(c->static_groups), err) ||
	    put(o, "lm_head", cJSON_CreateBool(c->lm_head), err) ||
	    put_history(o, "damp_percent", c->keep,
			cJSON_CreateNumber(c->damp_percent), err) ||
	    put_history(o, "true_sequential", c->keep,
			cJSON_CreateBool(c->true_sequential), err) ||
	    put(o, "quant_method", cJSON_CreateString(c->method), err) ||
	    put(o, "checkpoint_format", cJSON_CreateString(c->format), err) ||
	    put(o, "method", cJSON_CreateString(c->method), err) ||
	    put(o, "format", cJSON_CreateString(c->format), err))
		goto out;
	if (c->dynamic && put_copy(o, "dynamic", c->dynamic, err))
		goto out;
	if (put_kept(o, c->keep, err) || put_meta(o, c->keep, err))
		goto out;
	*out = o;
	o = NULL;
	ret = 0;
out:
	json_free(o);
	return ret;
}

/* Replace o[key] in its place, or add it at the end. */
static int set_item(struct cJSON *o, const char *key, struct cJSON *item,
		    struct err *err)
{
	if (!item)
		return lacks_memory(err);
	if (!json_find(o, key))
		return put(o, key, item, err);
	if (cJSON_ReplaceItemInObjectCaseSensitive(o, key, item))
		return 0;
	cJSON_Delete(item);
	return lacks_memory(err);
}

static int set_dtype(struct cJSON *o, const char *dtype, struct err *err)
{
	bool newer = json_find(o, "dtype") != NULL;

	if (newer && set_item(o, "dtype", cJSON_CreateString(dtype), err))
		return -1;
	if (newer && !json_find(o, "torch_dtype"))
		return 0;
	return set_item(o, "torch_dtype", cJSON_CreateString(dtype), err);
}

static int write_tree(const char *dir, const char *name,
		      const struct cJSON *tree, struct err *err)
{
	int ret = -1;
	char *path = NULL, *text = NULL;

	path = io_join(dir, name, err);
	if (!path)
		goto out;
	text = json_print(tree, true, err);
	if (!text || io_write_file(path, text, strlen(text), err))
		goto out;
	ret = 0;
out:
	free(text);
	free(path);
	return ret ? err_ctx(err, "%s", name) : 0;
}

static int apply_edit(struct cJSON *o, const struct config_edit *edit,
		      struct err *err)
{
	if (!edit)
		return 0;
	if (edit->dtype && set_dtype(o, edit->dtype, err))
		return -1;
	if (edit->inter && set_item(o, "intermediate_size",
				    cJSON_CreateNumber(edit->inter), err))
		return -1;
	if (edit->tie == CONFIG_TIE_KEEP)
		return 0;
	return set_item(o, "tie_word_embeddings",
			cJSON_CreateBool(edit->tie == CONFIG_TIE_YES), err);
}

static int write_model_config(const char *dir, const struct cJSON *config,
			      const struct cJSON *quant,
			      const struct config_edit *edit, struct err *err)
{
	static const char key[] = "quantization_config";
	int ret = -1;
	struct cJSON *o = cJSON_Duplicate(config, 1);

	if (!o)
		return lacks_memory(err);
	if (!quant)
		cJSON_DeleteItemFromObjectCaseSensitive(o, key);
	else if (set_item(o, key, cJSON_Duplicate(quant, 1), err))
		goto out;
	/* its other places: one config is enough */
	cJSON_DeleteItemFromObjectCaseSensitive(o, "compression_config");
	cJSON_DeleteItemFromObjectCaseSensitive(
		cJSON_GetObjectItemCaseSensitive(o, "text_config"), key);
	if (apply_edit(o, edit, err))
		goto out;
	if (write_tree(dir, "config.json", o, err))
		goto out;
	ret = 0;
out:
	json_free(o);
	return ret;
}

int config_write(const char *dir, const struct cJSON *config,
		 const struct cJSON *quant, const struct config_edit *edit,
		 struct err *err)
{
	if (config && write_model_config(dir, config, quant, edit, err))
		return -1;
	if (quant && write_tree(dir, "quantize_config.json", quant, err))
		return -1;
	return 0;
}
