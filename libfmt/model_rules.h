/* model_rules.h - per-module `dynamic` rules as configs have them, compiled.
 *
 * A key is a regular expression on the module's full name, matched from its
 * start and not to its end.  "-:" in front: not quantized.  The first rule that
 * matches wins, the negative ones are asked first.
 * Source: gptq-formats(5) "Dynamic rules". */
#ifndef LIBFMT_MODEL_RULES_H
#define LIBFMT_MODEL_RULES_H

#include <stdbool.h>
#include <stdint.h>

struct cJSON;
struct err;
struct model_rules;
struct qf_hint;

/* `dynamic` may be NULL: no rules, *out is NULL. */
int model_rules_new(const struct cJSON *dynamic, struct model_rules **out,
		    struct err *err);
/* The same from compressed-tensors' config_groups, where there are several: a
 * target is a module's name, "re:" and a pattern, or the class "Linear"; what
 * `ignore` lists is not quantized. */
int model_rules_groups(const struct cJSON *config, struct model_rules **out,
		       struct err *err);
void model_rules_free(struct model_rules *r); /* accepts NULL */

/* *index: the member of `dynamic` whose rule holds for this module, counted
 * from 0; MODEL_RULES_NONE when none does. */
#define MODEL_RULES_NONE UINT32_MAX
int model_rules_find(const struct model_rules *r, const char *module,
		     uint32_t *index, struct err *err);
/* 1 when the rule of member `index` alone matches, else 0. */
int model_rules_matches(const struct model_rules *r, uint32_t index,
			const char *module);

/* Overwrite what the rule for this module says.  Many threads at once. */
int model_rules_apply(const struct model_rules *r, const char *module,
		      struct qf_hint *hint, bool *skip, struct err *err);

#endif
