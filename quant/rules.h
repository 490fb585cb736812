/* rules.h - overrides for single modules, as --rule gives them.
 *
 *	REGEX:skip                  these modules stay dense
 *	REGEX:key=value,...         bits, group_size, desc_act, sym
 *
 * The text behind the last ':' is the override.  REGEX means what it means in
 * the `dynamic` field of configs: PCRE2 on the module's full name, from its
 * start and not to its end; rules that skip are asked first, then the first
 * rule that matches holds.  So the tree made here is the field itself, and
 * what compiles it is what reads it back (model_rules.h). */
#ifndef QUANT_RULES_H
#define QUANT_RULES_H

#include "method.h"

#include <stdbool.h>

struct cJSON;
struct gq_rules;

/* ERR_USAGE, with the text, where a rule cannot be read.  No text: *out is
 * NULL, which all functions here take as "no rules". */
int gq_rules_new(const char *const *text, uint32_t count,
		 struct gq_rules **out, struct err *err);
void gq_rules_free(struct gq_rules *r);
uint32_t gq_rules_count(const struct gq_rules *r);
/* The i-th rule's member of the tree; rules that skip come first. */
const struct cJSON *gq_rules_item(const struct gq_rules *r, uint32_t i);

/* Overwrite in *p what the rule for this module says.  *hit: its number, or
 * UINT32_MAX where none matches. */
int gq_rules_apply(const struct gq_rules *r, const char *module,
		   struct gq_params *p, bool *skip, uint32_t *hit,
		   struct err *err);
/* 1 when rule i alone would match, whatever the others say; else 0. */
int gq_rules_matches(const struct gq_rules *r, uint32_t i,
		     const char *module);

#endif
