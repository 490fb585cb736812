/* What a config says of layers that are joined, or dense among quantized ones,
 * against what they are. */
#include "survey.h"

#include "base/err.h"
#include "base/json.h"
#include "llama.h"
#include "model.h"

#include <string.h>

static bool alike(const struct survey_layer *a, const struct survey_layer *b)
{
	if (a->broken || b->broken || !a->format != !b->format)
		return false;
	return !a->format || (a->spec.bits == b->spec.bits &&
			      a->spec.group_size == b->spec.group_size);
}

/* Are all of l's slot in block `block` as l is? */
static bool slot_is_alike(const struct survey *s, const struct survey_layer *l,
			  uint32_t block, enum llama_slot slot)
{
	for (uint32_t i = 0; i < s->count; i++) {
		enum llama_linear which;
		uint32_t at;

		if (!llama_linear_parse(s->layer[i].module->name, &at,
					&which) &&
		    at == block && llama_slot_of(which) == slot &&
		    !alike(l, &s->layer[i]))
			return false;
	}
	return true;
}

bool survey_fused_missed(const struct model *m, const struct survey *s,
			 const struct survey_layer *l)
{
	const struct ql_spec *is = &l->spec;
	char name[LLAMA_NAME];
	enum llama_linear which;
	struct qf_hint hint;
	struct err ignored;
	uint32_t block;
	bool skip;

	if (!m->quant.dynamic || l->broken ||
	    llama_linear_parse(l->module->name, &block, &which) ||
	    !llama_fused_name(block, llama_slot_of(which), name) ||
	    model_hint(m, name, &hint, &skip, &ignored) ||
	    !slot_is_alike(s, l, block, llama_slot_of(which)))
		return false;
	if (!l->format || skip)
		return !l->format != skip;
	return (hint.bits && hint.bits != is->bits) ||
	       (hint.group_size > 0 && is->groups > 1 &&
		(uint32_t)hint.group_size != is->group_size);
}

bool survey_dense_unsaid(const struct model *m, const struct survey_layer *l)
{
	enum llama_linear which;
	struct qf_hint hint;
	struct err ignored;
	uint32_t block;
	bool skip;

	return !l->format && !l->broken &&
	       !llama_linear_parse(l->module->name, &block, &which) &&
	       !json_count(json_find(m->quant.tree,
				     "modules_in_block_to_quantize")) &&
	       !model_hint(m, l->module->name, &hint, &skip, &ignored) &&
	       !skip;
}
