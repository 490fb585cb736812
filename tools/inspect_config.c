/* gptq-inspect --config: the quantization config as a loader would want it,
 * whichever home and spelling it has in the checkpoint. */
#include "inspect.h"

#include "../libfmt/base/json.h"

#include <cjson/cJSON.h>
#include <string.h>

/* How the codes were made: informative, and kept as it was said. */
static void add_history(struct cJSON *j, const struct cJSON *tree)
{
	static const char *const keys[] = { "static_groups", "damp_percent",
		"true_sequential", "dynamic", "meta" };

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		const struct cJSON *v = json_find(tree, keys[i]);

		if (v && !json_is_null(v))
			cJSON_AddItemToObject(j, keys[i],
					      cJSON_Duplicate(v, 1));
	}
}

static bool head_is_quantized(const struct survey *s)
{
	for (uint32_t i = 0; i < s->count; i++)
		if (!strcmp(s->layer[i].module->name, LLAMA_HEAD))
			return s->layer[i].format != NULL;
	return false;
}

/* Numbers are those of the tensors; words the config's, where it says them. */
struct cJSON *inspect_config(const struct inspect *r)
{
	const struct survey *s = &r->survey;
	const struct config_quant *q = &r->model->quant;
	struct cJSON *j;

	if (!s->quantized)
		return cJSON_CreateNull();
	j = cJSON_CreateObject();
	cJSON_AddNumberToObject(j, "bits", s->bits);
	cJSON_AddNumberToObject(j, "group_size", s->group_size);
	cJSON_AddBoolToObject(j, "desc_act", s->desc_act);
	cJSON_AddBoolToObject(j, "sym", s->sym);
	cJSON_AddBoolToObject(j, "lm_head", head_is_quantized(s));
	ui_json_text(j, "quant_method", q->method ? q->method : "gptq");
	ui_json_text(j, "checkpoint_format", q->format ? q->format :
							 s->format);
	add_history(j, q->tree);
	return j;
}
