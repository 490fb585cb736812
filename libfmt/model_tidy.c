#include "model_tidy.h"

#include "base/err.h"
#include "base/mem.h"
#include "llama.h"
#include "model.h"

#include <stdlib.h>
#include <string.h>

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n >= m && !strcmp(s + n - m, end);
}

static bool begins_with(const char *s, const char *start)
{
	return !strncmp(s, start, strlen(start));
}

/* ---- prefixes ---- */

/* "layers.3." at the front, or behind a dot: where it begins. */
static const char *find_layers(const char *name)
{
	static const char word[] = "layers.";

	for (const char *p = name; p; p = strchr(p, '.')) {
		p += *p == '.';
		if (begins_with(p, word) && p[sizeof(word) - 1] >= '0' &&
		    p[sizeof(word) - 1] <= '9')
			return p;
	}
	return NULL;
}

/* The one prefix of all blocks; false when there are none or several. */
static bool find_prefix(const struct model *m, struct model_tidy *t)
{
	for (uint32_t i = 0; i < m->tensor_count; i++) {
		const char *name = m->tensor[i].name, *p = find_layers(name);
		size_t n = p ? (size_t)(p - name) : 0;

		if (!p)
			continue;
		if (!t->prefix) {
			t->prefix = name;
			t->prefix_len = n;
		} else if (n != t->prefix_len || memcmp(t->prefix, name, n)) {
			return false;
		}
	}
	return t->prefix != NULL;
}

/* Names outside of the blocks that no wrapper needs to have changed. */
static bool is_outside(const char *name)
{
	return begins_with(name, LLAMA_HEAD ".") || begins_with(name, "gptq_");
}

/* The name without its wrapper into buf, which has room for "model." more;
 * false when it is none of the wrapped ones. */
static bool unwrap(const struct model_tidy *t, const char *name, char *buf)
{
	size_t n = strlen(name);

	if (t->prefix_len == 0 && is_outside(name)) {
		memcpy(buf, name, n + 1);
	} else if (!strncmp(name, t->prefix, t->prefix_len)) {
		memcpy(buf, "model.", 6);
		memcpy(buf + 6, name + t->prefix_len, n - t->prefix_len + 1);
	} else if (t->wrap_len && !strncmp(name, t->prefix, t->wrap_len)) {
		memcpy(buf, name + t->wrap_len, n - t->wrap_len + 1);
	} else if (is_outside(name)) {
		memcpy(buf, name, n + 1);
	} else {
		return false;
	}
	return true;
}

/* Room for any name of the model with "model." in front. */
static char *name_buffer(const struct model *m, struct err *err)
{
	size_t longest = 0;

	for (uint32_t i = 0; i < m->tensor_count; i++) {
		size_t n = strlen(m->tensor[i].name);

		longest = n > longest ? n : longest;
	}
	return mem_alloc(longest + 8, 1, err);
}

/* Does the rule fit every name, and are Llama's linears among the results?
 * What has other tensors too (a vision tower) is not a wrapped Llama. */
static int check_prefix(const struct model *m, struct model_tidy *t,
			struct err *err)
{
	bool linears = false, fits = true;
	char *buf = name_buffer(m, err);

	if (!buf)
		return -1;
	for (uint32_t i = 0; fits && i < m->tensor_count; i++) {
		enum llama_linear which;
		uint32_t layer;
		char *dot;

		fits = unwrap(t, m->tensor[i].name, buf);
		dot = fits ? strrchr(buf, '.') : NULL;
		if (dot)
			*dot = '\0';
		linears |= fits && !llama_linear_parse(buf, &layer, &which);
	}
	free(buf);
	if (!fits || !linears)
		t->prefix = NULL;
	return 0;
}

static int tidy_names(const struct model *m, struct model_tidy *t,
		      struct err *err)
{
	static const char right[] = "model.";
	const size_t n = sizeof(right) - 1;

	if ((m->config && !model_llama(m)) || !find_prefix(m, t) ||
	    (t->prefix_len == n && !memcmp(t->prefix, right, n))) {
		t->prefix = NULL;
		return 0;
	}
	/* "wrapper.model." wraps lm_head too, "model.wrapper." does not */
	t->wrap_len = t->prefix_len > n &&
		      !memcmp(t->prefix + t->prefix_len - n, right, n) ?
		      t->prefix_len - n : 0;
	return check_prefix(m, t, err);
}

/* ---- strays ---- */

bool model_bias_is_odd(const struct model *m, const char *module)
{
	const struct llama_config *c = model_llama(m);
	enum llama_linear which;
	uint32_t layer;

	if (!strcmp(module, LLAMA_HEAD))
		return true;
	if ((m->config && !c) || llama_linear_parse(module, &layer, &which))
		return false;
	return c ? !llama_has_bias(c, which) :
		   llama_slot_of(which) != LLAMA_SLOT_QKV;
}

/* +0 and -0 in every element of a float type. */
static bool is_zero(const struct tensor *t)
{
	const uint8_t *p = t->data;
	size_t unit = tensor_dtype_bits(t->type) / 8;

	if (!p || !tensor_is_float(t->type))
		return false;
	for (uint64_t i = 0; i < t->size; i++)
		if (p[i] & (i % unit == unit - 1 ? 0x7f : 0xff))
			return false;
	return true;
}

static bool is_head_copy(const struct model *m, const struct tensor *head,
			 const struct tensor *embed)
{
	const struct llama_config *c = model_llama(m);

	return c && c->tied && embed && head->data && embed->data &&
	       head->type == embed->type && head->size == embed->size &&
	       !memcmp(head->data, embed->data, head->size);
}

static bool is_stray_bias(const struct model *m, const char *name,
			  const struct tensor *t)
{
	static const char end[] = ".bias";
	char module[LLAMA_NAME];
	size_t n = strlen(name);

	if (!ends_with(name, end) || n - (sizeof(end) - 1) >= sizeof(module))
		return false;
	n -= sizeof(end) - 1;
	memcpy(module, name, n);
	module[n] = '\0';
	return model_bias_is_odd(m, module) && is_zero(t);
}

/* `name` is the tensor's own, without a wrapper. */
static enum model_stray stray(const struct model *m, const char *name,
			      const struct tensor *t)
{
	static const char *const marker[] = { "gptq_bits", "gptq_groupsize",
		"gptq_sym", NULL };

	if (ends_with(name, ".rotary_emb.inv_freq"))
		return MODEL_STRAY_INV_FREQ;
	for (int i = 0; marker[i]; i++)
		if (!strcmp(name, marker[i]))
			return MODEL_STRAY_MARKER;
	return is_stray_bias(m, name, t) ? MODEL_STRAY_BIAS : MODEL_STRAY_NONE;
}

int model_tidy_find(const struct model *m, bool head, struct model_tidy *out,
		    struct err *err)
{
	const struct tensor *embed = NULL, *last = NULL;
	char *buf = name_buffer(m, err);
	int ret = -1;

	memset(out, 0, sizeof(*out));
	out->stray = mem_alloc(m->tensor_count, 1, err);
	if (!buf || !out->stray || tidy_names(m, out, err))
		goto out;
	for (uint32_t i = 0; i < m->tensor_count; i++) {
		const struct tensor *t = &m->tensor[i];

		if (!out->prefix || !unwrap(out, t->name, buf))
			memcpy(buf, t->name, strlen(t->name) + 1);
		out->stray[i] = (uint8_t)stray(m, buf, t);
		if (!strcmp(buf, LLAMA_HEAD ".weight"))
			last = t;
		if (!strcmp(buf, LLAMA_EMBED))
			embed = t;
	}
	if (head && last && is_head_copy(m, last, embed))
		out->stray[last - m->tensor] = MODEL_STRAY_HEAD;
	ret = 0;
out:
	free(buf);
	if (ret)
		model_tidy_release(out);
	return ret;
}

void model_tidy_release(struct model_tidy *t)
{
	free(t->stray);
	memset(t, 0, sizeof(*t));
}

/* ---- a tidy table ---- */

int model_tidy_apply(struct model *m, char **names, struct err *err)
{
	struct model_tidy t;
	size_t text = 0;
	uint32_t n = 0;
	char *at;
	int ret = -1;

	if (model_tidy_find(m, true, &t, err))
		return -1;
	for (uint32_t i = 0; t.prefix && i < m->tensor_count; i++)
		text += strlen(m->tensor[i].name) + 8;
	*names = at = mem_alloc(text, 1, err);
	if (!at)
		goto out;
	for (uint32_t i = 0; i < m->tensor_count; i++) {
		if (t.stray[i])
			continue;
		m->tensor[n] = m->tensor[i];
		if (t.prefix && unwrap(&t, m->tensor[n].name, at)) {
			m->tensor[n].name = at;
			at += strlen(at) + 1;
		}
		n++;
	}
	m->tensor_count = n;
	ret = 0;
out:
	model_tidy_release(&t);
	return ret;
}
