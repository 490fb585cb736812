/* dynamic.c - the config's `dynamic` field: the rules as given, and beside them
 * what readers need that run several linears as one.
 *
 * vLLM asks the rules for self_attn.qkv_proj and mlp.gate_up_proj, names that
 * no checkpoint holds (gptq-formats(5) "Dynamic rules").  Where its answer
 * would not be that of the linears, a rule for these names goes in front.
 * Rules that skip stand before all others: readers that sort them and readers
 * that do not then agree. */
#include "target.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"
#include "walk.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What rules say of a module. */
struct answer {
	struct gq_params p;
	bool skip;
};

static bool same(const struct answer *a, const struct answer *b)
{
	if (a->skip || b->skip)
		return a->skip == b->skip;
	return a->p.bits == b->p.bits && a->p.group_size == b->p.group_size &&
	       a->p.desc_act == b->p.desc_act && a->p.sym == b->p.sym;
}

static struct answer of_target(const struct gq_target *t)
{
	return (struct answer){ t->params, t->skip };
}

/* One kind of fused linear: the answer each block's needs.  need[layer] is 0
 * where the rules give it already. */
struct fused {
	const struct gq_job *job;
	enum llama_slot slot;
	struct answer *want; /* [layers] */
	uint8_t *need;       /* [layers] */
};

/* The common answer of a block's linears; false when they are not alike. */
static bool common(const struct gq_targets *ts, const struct fused *f,
		   uint32_t layer, struct answer *out)
{
	bool first = true;

	for (int i = 0; i < LLAMA_LINEARS; i++) {
		uint32_t place = layer * LLAMA_LINEARS + (uint32_t)i;
		struct answer a = of_target(&ts->target[place]);

		if (llama_slot_of((enum llama_linear)i) != f->slot)
			continue;
		if (!first && !same(out, &a))
			return false;
		*out = a;
		first = false;
	}
	return true;
}

static int ask(struct gq_targets *ts, struct fused *f, struct err *err)
{
	for (uint32_t l = 0; l < f->job->cfg->layers; l++) {
		struct answer got = { .p = f->job->params };
		char name[LLAMA_NAME];
		uint32_t hit;

		if (!common(ts, f, l, &f->want[l])) {
			ts->split++;
			continue;
		}
		llama_fused_name(l, f->slot, name);
		if (gq_rules_apply(f->job->rules, name, &got.p, &got.skip,
				   &hit, err))
			return -1;
		f->need[l] = !same(&got, &f->want[l]);
	}
	return 0;
}

/* "+:model\.layers\.(0|3)\.self_attn\.qkv_proj$", all blocks from `layer` on
 * that want what it wants; they are taken off the list. */
static char *pattern(struct fused *f, uint32_t layer, struct err *err)
{
	const struct answer *want = &f->want[layer];
	size_t room = LLAMA_NAME + 8 * (size_t)f->job->cfg->layers, n;
	char *key = mem_alloc(room, 1, err), name[LLAMA_NAME];
	const char *tail;

	if (!key)
		return NULL;
	n = (size_t)snprintf(key, room, "%s:model\\.layers\\.",
			     want->skip ? "-" : "+");
	for (uint32_t l = layer; l < f->job->cfg->layers; l++) {
		if (!f->need[l] || !same(&f->want[l], want))
			continue;
		f->need[l] = 0;
		n += (size_t)snprintf(key + n, room - n, "%s%u",
				      l == layer ? "(" : "|", l);
	}
	key[n++] = ')';
	tail = strstr(llama_fused_name(0, f->slot, name), ".0.") + 2;
	for (; *tail; tail++) {
		if (*tail == '.')
			key[n++] = '\\';
		key[n++] = *tail;
	}
	key[n++] = '$';
	return key;
}

/* Everything is named, so that no other rule shines through. */
static struct cJSON *values(const struct answer *a)
{
	struct cJSON *o = cJSON_CreateObject();

	if (!o || a->skip)
		return o;
	if (cJSON_AddNumberToObject(o, "bits", a->p.bits) &&
	    cJSON_AddNumberToObject(o, "group_size", a->p.group_size) &&
	    cJSON_AddBoolToObject(o, "desc_act", a->p.desc_act) &&
	    cJSON_AddBoolToObject(o, "sym", a->p.sym))
		return o;
	cJSON_Delete(o);
	return NULL;
}

static int add(struct cJSON *tree, const char *key, struct cJSON *item,
	       struct err *err)
{
	if (item && cJSON_AddItemToObject(tree, key, item))
		return 0;
	cJSON_Delete(item);
	return err_set(err, ERR_RESOURCE, "out of memory for JSON");
}

/* Rules for the fused names of one slot, into `skips` or `others`. */
static int add_fused(struct gq_targets *ts, struct fused *f,
		     struct cJSON *skips, struct cJSON *others,
		     struct err *err)
{
	uint32_t layers = f->job->cfg->layers;
	int ret = -1;

	f->want = mem_alloc(layers, sizeof(*f->want), err);
	f->need = mem_alloc(layers, 1, err);
	if (!f->want || !f->need || ask(ts, f, err))
		goto out;
	for (uint32_t l = 0; l < layers; l++) {
		bool skip = f->want[l].skip;
		char *key;

		if (!f->need[l])
			continue;
		key = pattern(f, l, err);
		if (!key || add(skip ? skips : others, key,
				values(&f->want[l]), err)) {
			free(key);
			goto out;
		}
		free(key);
	}
	ret = 0;
out:
	free(f->want);
	free(f->need);
	return ret;
}

static int add_given(const struct gq_rules *r, struct cJSON *skips,
		     struct cJSON *others, struct err *err)
{
	for (uint32_t i = 0; i < gq_rules_count(r); i++) {
		const struct cJSON *j = gq_rules_item(r, i);

		if (add(json_key(j)[0] == '-' ? skips : others, json_key(j),
			cJSON_Duplicate(j, 1), err))
			return -1;
	}
	return 0;
}

/* Move all members of `from` behind those of `to`. */
static int append(struct cJSON *to, const struct cJSON *from, struct err *err)
{
	for (const struct cJSON *j = json_first(from); j; j = json_next(j))
		if (add(to, json_key(j), cJSON_Duplicate(j, 1), err))
			return -1;
	return 0;
}

int gq_dynamic_make(struct gq_targets *ts, const struct gq_job *job,
		    struct err *err)
{
	struct cJSON *skips, *others;
	int ret = -1;

	if (!job->rules)
		return 0;
	skips = cJSON_CreateObject();
	others = cJSON_CreateObject();
	if (!skips || !others) {
		err_set(err, ERR_RESOURCE, "out of memory for JSON");
		goto out;
	}
	for (int s = 0; s < LLAMA_SLOTS; s++) {
		struct fused f = { .job = job, .slot = (enum llama_slot)s };
		char name[LLAMA_NAME];

		if (llama_fused_name(0, f.slot, name) &&
		    add_fused(ts, &f, skips, others, err))
			goto out;
	}
	if (add_given(job->rules, skips, others, err) ||
	    append(skips, others, err))
		goto out;
	ts->dynamic = skips;
	skips = NULL;
	ret = 0;
out:
	json_free(skips);
	json_free(others);
	return ret;
}
