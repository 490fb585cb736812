#include "model_rules.h"

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"
#include "config.h"
#include "layout/qfmt.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

/* Patterns come from files: none may run for long or recurse deeply. */
#define MAX_RULES 65536u
#define MAX_PATTERN 65536u
#define MAX_STEPS 100000u
#define MAX_HEAP_KIB 1024u

struct rule {
	pcre2_code *code;
	const char *text; /* borrowed, for messages */
	uint32_t index;   /* in the object it was read from */
	uint32_t bits;    /* 0: not overridden */
	int32_t group_size;
	int8_t desc_act, sym;
	bool negative;
};

struct model_rules {
	struct rule *rule; /* negative ones first, else in the file's order */
	uint32_t count;
	pcre2_match_context *limits;
};

/* `more` are flags of pcre2_compile beside the usual ones. */
static int compile(const char *text, uint32_t more, struct rule *r,
		   struct err *err)
{
	PCRE2_SIZE at;
	int code;
	PCRE2_UCHAR why[128];

	if (strlen(text) > MAX_PATTERN)
		return err_set(err, ERR_INPUT, "longer than %u bytes",
			       MAX_PATTERN);
	r->code = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED,
				PCRE2_ANCHORED | PCRE2_UTF | more, &code, &at,
				NULL);
	if (r->code)
		return 0;
	pcre2_get_error_message(code, why, sizeof(why));
	return err_set(err, ERR_INPUT, "%s at character %zu",
		       (const char *)why, (size_t)at);
}

static int read_rule(const struct cJSON *j, struct rule *r, struct err *err)
{
	const char *text = json_key(j);

	r->text = text;
	r->desc_act = r->sym = -1;
	r->negative = !strncmp(text, "-:", 2);
	if (r->negative || !strncmp(text, "+:", 2))
		text += 2;
	if (compile(text, 0, r, err))
		return -1;
	if (r->negative || json_is_null(j))
		return 0;
	if (!json_is_object(j))
		return err_set(err, ERR_INPUT, "not an object");
	if (json_get_u32(j, "bits", 1, 32, &r->bits, err) ||
	    json_get_i32(j, "group_size", -1, QL_DIM_MAX, &r->group_size,
			 err) ||
	    json_get_switch(j, "desc_act", &r->desc_act, err) ||
	    json_get_switch(j, "sym", &r->sym, err))
		return -1;
	return 0;
}

static int is_negative(const struct cJSON *j)
{
	return !strncmp(json_key(j), "-:", 2);
}

static int read_rules(const struct cJSON *dynamic, struct model_rules *r,
		      struct err *err)
{
	uint32_t n = json_count(dynamic);

	if (n > MAX_RULES)
		return err_set(err, ERR_INPUT, "dynamic: more than %u rules",
			       MAX_RULES);
	r->rule = mem_alloc(n, sizeof(*r->rule), err);
	if (!r->rule)
		return -1;
	for (int pass = 1; pass >= 0; pass--) {
		const struct cJSON *j = json_first(dynamic);
		uint32_t index = 0;

		for (; j; j = json_next(j), index++) {
			if (is_negative(j) != pass)
				continue;
			r->rule[r->count].index = index;
			if (read_rule(j, &r->rule[r->count++], err))
				return err_ctx(err, "dynamic: \"%.128s\"",
					       json_key(j));
		}
	}
	return 0;
}

/* ---- compressed-tensors ---- */

/* What a target is: a pattern, a module's whole name, or a class of modules,
 * of which the linear ones are all that matter here. */
enum target { TARGET_EXACT = 0, TARGET_CLASS };

static enum target target_of(const char *text)
{
	return strcmp(text, "Linear") ? TARGET_EXACT : TARGET_CLASS;
}

/* The targets of one kind in a list become rules like *as. */
static int add_targets(const struct cJSON *list, enum target kind,
		       const struct rule *as, struct model_rules *r,
		       struct err *err)
{
	for (const struct cJSON *e = json_first(list); e; e = json_next(e)) {
		const char *text = json_text(e);
		struct rule *to = &r->rule[r->count];
		bool pattern = text && !strncmp(text, "re:", 3);

		if (!text || target_of(text) != kind)
			continue;
		*to = *as;
		to->text = text;
		if (kind == TARGET_CLASS ? compile("", 0, to, err) :
		    pattern ? compile(text + 3, 0, to, err) :
			      compile(text, PCRE2_LITERAL | PCRE2_ENDANCHORED,
				      to, err))
			return err_ctx(err, "config_groups: \"%.128s\"",
				       text);
		r->count++;
	}
	return 0;
}

/* What is ignored first, then names, then classes. */
static int read_groups(const struct cJSON *config, struct model_rules *r,
		       struct err *err)
{
	const struct cJSON *groups = json_find(config, "config_groups");
	const struct cJSON *ignore = json_find(config, "ignore");
	struct rule as = { .negative = true, .desc_act = -1, .sym = -1 };
	uint64_t n = json_count(ignore);

	for (const struct cJSON *g = json_first(groups); g; g = json_next(g))
		n += json_count(json_find(g, "targets"));
	if (n > MAX_RULES)
		return err_set(err, ERR_INPUT, "config_groups: more than %u "
			       "targets", MAX_RULES);
	r->rule = mem_alloc((size_t)n, sizeof(*r->rule), err);
	if (!r->rule || add_targets(ignore, TARGET_EXACT, &as, r, err))
		return -1;
	for (int kind = TARGET_EXACT; kind <= TARGET_CLASS; kind++) {
		const struct cJSON *g = json_first(groups);

		for (; g; g = json_next(g)) {
			struct config_quant q = { .desc_act = -1, .sym = -1 };

			if (config_group_read(g, &q, err))
				return err_ctx(err, "config_groups");
			as = (struct rule){ .bits = q.bits,
				.group_size = q.group_size,
				.desc_act = q.desc_act, .sym = q.sym };
			if (add_targets(json_find(g, "targets"),
					(enum target)kind, &as, r, err))
				return -1;
		}
	}
	return 0;
}

/* ---- both ---- */

static int set_limits(struct model_rules *r, struct err *err)
{
	r->limits = pcre2_match_context_create(NULL);
	if (!r->limits)
		return err_set(err, ERR_RESOURCE,
			       "out of memory for a pattern");
	pcre2_set_match_limit(r->limits, MAX_STEPS);
	pcre2_set_depth_limit(r->limits, MAX_STEPS);
	pcre2_set_heap_limit(r->limits, MAX_HEAP_KIB);
	return 0;
}

/* Compile by `read` from `tree`. */
static int rules_new(const struct cJSON *tree,
		     int (*read)(const struct cJSON *, struct model_rules *,
				 struct err *),
		     struct model_rules **out, struct err *err)
{
	struct model_rules *r = mem_alloc(1, sizeof(*r), err);

	*out = NULL;
	if (!r || read(tree, r, err) || set_limits(r, err)) {
		model_rules_free(r);
		return -1;
	}
	*out = r;
	return 0;
}

int model_rules_new(const struct cJSON *dynamic, struct model_rules **out,
		    struct err *err)
{
	*out = NULL;
	return json_count(dynamic) ? rules_new(dynamic, read_rules, out, err) :
				     0;
}

int model_rules_groups(const struct cJSON *config, struct model_rules **out,
		       struct err *err)
{
	*out = NULL;
	return json_count(json_find(config, "config_groups")) > 1 ?
		       rules_new(config, read_groups, out, err) : 0;
}

void model_rules_free(struct model_rules *r)
{
	if (!r)
		return;
	for (uint32_t i = 0; i < r->count; i++)
		pcre2_code_free(r->rule[i].code);
	pcre2_match_context_free(r->limits);
	free(r->rule);
	free(r);
}

static void override(const struct rule *r, struct qf_hint *hint, bool *skip)
{
	*skip = r->negative;
	if (r->bits)
		hint->bits = (uint8_t)r->bits;
	if (r->group_size)
		hint->group_size = r->group_size;
	if (r->desc_act >= 0)
		hint->desc_act = r->desc_act;
	if (r->sym >= 0)
		hint->sym = r->sym;
}

/* At least 0 when it matches, else PCRE2_ERROR_NOMATCH or what went wrong. */
static int match(const struct model_rules *r, const struct rule *rule,
		 const char *module, pcre2_match_data *data)
{
	return pcre2_match(rule->code, (PCRE2_SPTR)module,
			   PCRE2_ZERO_TERMINATED, 0, 0, data, r->limits);
}

/* The first rule that matches, or NULL. */
static int first_match(const struct model_rules *r, const char *module,
		       const struct rule **out, struct err *err)
{
	pcre2_match_data *data;
	int ret = -1, n;

	*out = NULL;
	if (!r)
		return 0;
	data = pcre2_match_data_create(1, NULL);
	if (!data)
		return err_set(err, ERR_RESOURCE,
			       "out of memory for a pattern");
	for (uint32_t i = 0; i < r->count && !*out; i++) {
		n = match(r, &r->rule[i], module, data);
		if (n >= 0) {
			*out = &r->rule[i];
		} else if (n != PCRE2_ERROR_NOMATCH) {
			err_set(err, ERR_INPUT, "dynamic: \"%.128s\" takes too "
				"long on %.128s", r->rule[i].text, module);
			goto out;
		}
	}
	ret = 0;
out:
	pcre2_match_data_free(data);
	return ret;
}

int model_rules_find(const struct model_rules *r, const char *module,
		     uint32_t *index, struct err *err)
{
	const struct rule *rule;

	if (first_match(r, module, &rule, err))
		return -1;
	*index = rule ? rule->index : MODEL_RULES_NONE;
	return 0;
}

int model_rules_matches(const struct model_rules *r, uint32_t index,
			const char *module)
{
	pcre2_match_data *data = pcre2_match_data_create(1, NULL);
	int found = 0;

	for (uint32_t i = 0; data && i < r->count; i++)
		if (r->rule[i].index == index)
			found = match(r, &r->rule[i], module, data) >= 0;
	pcre2_match_data_free(data);
	return found;
}

int model_rules_apply(const struct model_rules *r, const char *module,
		      struct qf_hint *hint, bool *skip, struct err *err)
{
	const struct rule *rule;

	if (first_match(r, module, &rule, err))
		return -1;
	if (rule)
		override(rule, hint, skip);
	return 0;
}
