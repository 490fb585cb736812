#include "identity.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/hash.h"
#include "../libfmt/base/json.h"
#include "../libfmt/digest.h"
#include "../libfmt/model.h"
#include "rules.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

static int add(struct cJSON *o, const char *key, struct cJSON *item,
	       struct err *err)
{
	if (item && cJSON_AddItemToObject(o, key, item))
		return 0;
	cJSON_Delete(item);
	return err_set(err, ERR_RESOURCE, "out of memory for JSON");
}

static int add_text(struct cJSON *o, const char *key, const char *text,
		    struct err *err)
{
	return add(o, key, cJSON_CreateString(text), err);
}

static int add_number(struct cJSON *o, const char *key, double v,
		      struct err *err)
{
	return add(o, key, cJSON_CreateNumber(v), err);
}

static int add_bool(struct cJSON *o, const char *key, bool v, struct err *err)
{
	return add(o, key, cJSON_CreateBool(v), err);
}

/* "cpu avx2" of "cpu avx2, 2 threads": the kernels, not how many run them. */
static int add_device(struct cJSON *o, const struct gq_job *job,
		      struct err *err)
{
	const char *text = job->api->describe(job->be);
	char name[96];
	size_t n = strcspn(text, ",");

	if (n >= sizeof(name))
		n = sizeof(name) - 1;
	memcpy(name, text, n);
	name[n] = '\0';
	return add_text(o, "device", name, err);
}

static int add_hashes(struct cJSON *o, const struct gq_job *job,
		      struct err *err)
{
	const struct digest_job whole = { .model = job->model,
		.threads = job->params.threads, .progress = job->progress };
	const struct calib *c = job->calib;
	char hex[HASH_HEX], *text = json_print(job->model->config, false, err);
	struct digest d;
	int ret;

	if (!text)
		return -1;
	hash_bytes(text, strlen(text), hex);
	free(text);
	if (add_text(o, "config", hex, err) ||
	    digest_model(&whole, &d, err))
		return -1;
	ret = add_text(o, "weights", d.model, err);
	digest_release(&d);
	if (ret)
		return -1;
	if (!c)
		return 0;
	hash_bytes(c->id, (size_t)c->samples * c->seqlen * sizeof(*c->id),
		   hex);
	return add_text(o, "calibration", hex, err) ||
	       add_number(o, "samples", c->samples, err) ||
	       add_number(o, "seqlen", c->seqlen, err) ? -1 : 0;
}

static int add_params(struct cJSON *o, const struct gq_params *p,
		      struct err *err)
{
	return add_number(o, "bits", p->bits, err) ||
	       add_number(o, "group_size", p->group_size, err) ||
	       add_bool(o, "sym", p->sym, err) ||
	       add_bool(o, "desc_act", p->desc_act, err) ||
	       add_bool(o, "act_group_aware", p->group_aware, err) ||
	       add_bool(o, "static_groups", p->static_groups, err) ||
	       add_number(o, "damp_percent", p->damp, err) ||
	       add_number(o, "damp_auto_increment", p->damp_step, err) ||
	       add_bool(o, "damp_short", p->damp_short, err) ||
	       add_bool(o, "plain", !p->round_scale, err) ||
	       add_number(o, "clip", p->clip, err) ||
	       add_number(o, "passes", p->passes, err) ? -1 : 0;
}

static int add_rules(struct cJSON *o, const struct gq_rules *r,
		     struct err *err)
{
	struct cJSON *list = cJSON_CreateObject();

	for (uint32_t i = 0; list && i < gq_rules_count(r); i++) {
		const struct cJSON *j = gq_rules_item(r, i);

		if (add(list, json_key(j), cJSON_Duplicate(j, 1), err)) {
			json_free(list);
			return -1;
		}
	}
	return add(o, "rules", list, err);
}

int gq_identity(const struct gq_job *job, struct cJSON **out, struct err *err)
{
	struct cJSON *o = cJSON_CreateObject();

	*out = NULL;
	if (!o)
		return err_set(err, ERR_RESOURCE, "out of memory for JSON");
	if (add_text(o, "version", CONFIG_VERSION, err) ||
	    add_device(o, job, err) ||
	    add_text(o, "method", job->method->name, err) ||
	    add_text(o, "format", job->format->name, err) ||
	    add_params(o, &job->params, err) ||
	    add_bool(o, "true_sequential", job->true_sequential, err) ||
	    add_bool(o, "lm_head", job->lm_head, err) ||
	    add_rules(o, job->rules, err) ||
	    add_number(o, "shard_size", (double)job->shard_size, err) ||
	    add_hashes(o, job, err)) {
		json_free(o);
		return -1;
	}
	*out = o;
	return 0;
}

/* Both values as text, cut to what a message has room for. */
static int differ(const char *key, const struct cJSON *now,
		  const struct cJSON *then, struct err *err)
{
	char *a = now ? json_print(now, false, err) : NULL;
	char *b = then ? json_print(then, false, err) : NULL;
	int ret = 0;

	if (a)
		a[strcspn(a, "\n")] = '\0';
	if (b)
		b[strcspn(b, "\n")] = '\0';
	if (!a || !b || strcmp(a, b))
		ret = err_set(err, ERR_INPUT, "%s differs: %.80s here, %.80s "
			      "in the unfinished job", key, a ? a : "nothing",
			      b ? b : "nothing");
	free(a);
	free(b);
	return ret;
}

int gq_identity_compare(const struct cJSON *now, const struct cJSON *then,
			struct err *err)
{
	const struct cJSON *j;

	for (j = json_first(now); j; j = json_next(j))
		if (differ(json_key(j), j, json_find(then, json_key(j)), err))
			return -1;
	for (j = json_first(then); j; j = json_next(j))
		if (!json_find(now, json_key(j)))
			return differ(json_key(j), NULL, j, err);
	return 0;
}
