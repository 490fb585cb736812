#include "rules.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/model_rules.h"
#include "../libfmt/layout/qfmt.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#define WORD_MAX 32 /* of a key or a value */

struct gq_rules {
	struct cJSON *tree;           /* the `dynamic` object */
	struct model_rules *compiled;
	uint32_t count;
};

static int lacks_memory(struct err *err)
{
	return err_set(err, ERR_RESOURCE, "out of memory for JSON");
}

/* ---- the text ---- */

static int add_switch(struct cJSON *o, const char *key, const char *value,
		      struct err *err)
{
	bool on = !strcmp(value, "true") || !strcmp(value, "1");

	if (!on && strcmp(value, "false") && strcmp(value, "0"))
		return err_set(err, ERR_USAGE, "%s is true or false, not "
			       "\"%s\"", key, value);
	return cJSON_AddBoolToObject(o, key, on) ? 0 : lacks_memory(err);
}

static int add_number(struct cJSON *o, const char *key, const char *value,
		      struct err *err)
{
	bool bits = !strcmp(key, "bits");
	char *end;
	long n = strtol(value, &end, 10);

	if (end == value || *end ||
	    (bits && n != 2 && n != 3 && n != 4 && n != 8))
		return err_set(err, ERR_USAGE, "%s cannot be \"%s\"", key,
			       value);
	if (!bits && n != -1 && (n < 1 || n > QL_DIM_MAX))
		return err_set(err, ERR_USAGE, "group_size %ld is neither -1 "
			       "nor at least 1", n);
	return cJSON_AddNumberToObject(o, key, (double)n) ? 0 :
		lacks_memory(err);
}

static int add_value(struct cJSON *o, const char *key, const char *value,
		     struct err *err)
{
	if (json_find(o, key))
		return err_set(err, ERR_USAGE, "%s twice", key);
	if (!strcmp(key, "bits") || !strcmp(key, "group_size"))
		return add_number(o, key, value, err);
	if (!strcmp(key, "desc_act") || !strcmp(key, "sym"))
		return add_switch(o, key, value, err);
	return err_set(err, ERR_USAGE, "\"%s\" is none of bits, group_size, "
		       "desc_act, sym and skip", key);
}

/* The next word up to one of `ends`, into buf; returns what is behind it. */
static const char *word(const char *at, const char *ends, char buf[WORD_MAX])
{
	size_t n = strcspn(at, ends), keep = n < WORD_MAX - 1 ? n :
								WORD_MAX - 1;

	memcpy(buf, at, keep);
	buf[keep] = '\0';
	return at + n;
}

/* "bits=8,sym=false" into o. */
static int read_values(const char *at, struct cJSON *o, struct err *err)
{
	char key[WORD_MAX], value[WORD_MAX];

	for (;; at++) {
		at = word(at, "=,", key);
		if (*at != '=')
			return err_set(err, ERR_USAGE, "\"%s\" is not "
				       "key=value%s", key, strcmp(key, "skip") ?
				       "" : "; skip stands alone");
		at = word(at + 1, ",", value);
		if (add_value(o, key, value, err))
			return -1;
		if (!*at)
			return 0;
	}
}

/* One rule into the tree: "-:REGEX": {} or "+:REGEX": {...}. */
static int read_rule(const char *text, bool skips, struct cJSON *tree,
		     struct err *err)
{
	const char *colon = strrchr(text, ':');
	size_t n = (size_t)(colon - text);
	char *key = mem_alloc(n + 3, 1, err);
	struct cJSON *o = cJSON_CreateObject();
	int ret = -1;

	if (!key)
		goto out;
	memcpy(key, skips ? "-:" : "+:", 2);
	memcpy(key + 2, text, n);
	if (!o) {
		lacks_memory(err);
		goto out;
	}
	if (!skips && read_values(colon + 1, o, err))
		goto out;
	if (json_find(tree, key)) {
		err_set(err, ERR_USAGE, "this pattern has a rule already");
		goto out;
	}
	if (!cJSON_AddItemToObject(tree, key, o)) {
		lacks_memory(err);
		goto out;
	}
	o = NULL;
	ret = 0;
out:
	json_free(o);
	free(key);
	return ret;
}

static int rule_skips(const char *text)
{
	const char *colon = strrchr(text, ':');

	return colon && !strcmp(colon, ":skip");
}

static int read_all(const char *const *text, uint32_t count,
		    struct cJSON *tree, struct err *err)
{
	for (int skips = 1; skips >= 0; skips--)
		for (uint32_t i = 0; i < count; i++) {
			const char *colon = strrchr(text[i], ':');

			if (!colon || colon == text[i]) {
				err_set(err, ERR_USAGE, "not REGEX:skip or "
					"REGEX:key=value,...");
				return err_ctx(err, "--rule '%s'", text[i]);
			}
			if (rule_skips(text[i]) == skips &&
			    read_rule(text[i], skips, tree, err))
				return err_ctx(err, "--rule '%s'", text[i]);
		}
	return 0;
}

/* ---- compiled ---- */

int gq_rules_new(const char *const *text, uint32_t count,
		 struct gq_rules **out, struct err *err)
{
	struct gq_rules *r;

	*out = NULL;
	if (!count)
		return 0;
	r = mem_alloc(1, sizeof(*r), err);
	if (!r)
		return -1;
	r->tree = cJSON_CreateObject();
	if (!r->tree) {
		lacks_memory(err);
		goto fail;
	}
	if (read_all(text, count, r->tree, err))
		goto fail;
	r->count = json_count(r->tree);
	if (model_rules_new(r->tree, &r->compiled, err)) {
		if (err->code == ERR_INPUT) /* a pattern that is none */
			err->code = ERR_USAGE;
		err_ctx(err, "--rule");
		goto fail;
	}
	*out = r;
	return 0;
fail:
	gq_rules_free(r);
	return -1;
}

void gq_rules_free(struct gq_rules *r)
{
	if (!r)
		return;
	model_rules_free(r->compiled);
	json_free(r->tree);
	free(r);
}

uint32_t gq_rules_count(const struct gq_rules *r)
{
	return r ? r->count : 0;
}

const struct cJSON *gq_rules_item(const struct gq_rules *r, uint32_t i)
{
	const struct cJSON *j = r ? json_first(r->tree) : NULL;

	while (j && i--)
		j = json_next(j);
	return j;
}

int gq_rules_apply(const struct gq_rules *r, const char *module,
		   struct gq_params *p, bool *skip, uint32_t *hit,
		   struct err *err)
{
	struct qf_hint hint = {
		.bits = p->bits, .group_size = p->group_size,
		.desc_act = (int8_t)p->desc_act, .sym = (int8_t)p->sym,
	};

	*skip = false;
	*hit = UINT32_MAX;
	if (!r)
		return 0;
	if (model_rules_find(r->compiled, module, hit, err) ||
	    model_rules_apply(r->compiled, module, &hint, skip, err))
		return -1;
	p->bits = hint.bits;
	p->group_size = hint.group_size;
	p->desc_act = (uint8_t)hint.desc_act;
	p->sym = (uint8_t)hint.sym;
	return 0;
}

int gq_rules_matches(const struct gq_rules *r, uint32_t i, const char *module)
{
	return model_rules_matches(r->compiled, i, module);
}
