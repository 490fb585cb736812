/* model_find.c - questions to an open model: tensors, modules, what the configs
 * say of one. */
#include "model_impl.h"

#include "base/err.h"
#include "base/io.h"
#include "base/io_place.h"
#include "base/mem.h"
#include "container/gguf.h"
#include "container/tensor_file.h"
#include "llama_gguf.h"
#include "model_rules.h"

#include <stdlib.h>
#include <string.h>

/* "a.b.weight": the prefix is "a.b", the suffix "weight".  Sorting by prefix
 * first keeps the tensors of a module together, which plain text order does
 * not ("a.b.weight", "a.b0", "a.b.x"). */
size_t model_prefix(const char *name)
{
	const char *dot = strrchr(name, '.');

	return dot ? (size_t)(dot - name) : 0;
}

static int compare_names(const char *a, const char *b)
{
	size_t na = model_prefix(a), nb = model_prefix(b);
	int c = memcmp(a, b, na < nb ? na : nb);

	if (c)
		return c;
	if (na != nb)
		return na < nb ? -1 : 1;
	/* equal prefixes: from here on it is the suffix that differs */
	return strcmp(a + na, b + nb);
}

int model_by_name(const void *a, const void *b)
{
	return compare_names(((const struct tensor *)a)->name,
			     ((const struct tensor *)b)->name);
}

struct io_place *model_place(const struct model *m)
{
	return ((const struct model_priv *)m->priv)->place;
}

bool model_is_local(const struct model *m)
{
	return io_place_is_local(model_place(m));
}

const struct llama_config *model_llama(const struct model *m)
{
	const struct model_priv *p = m->priv;

	return p->is_llama ? &p->llama : NULL;
}

const struct gguf_file *model_gguf(const struct model *m)
{
	const struct model_priv *p = m->priv;

	return m->file_count ? p->opened[0].gguf : NULL;
}

/* The data of tensors, of each its first len bytes, once these have come. */
struct span {
	struct tensor *t;
	uint64_t len;
};

static int fetch_spans(struct model *m, const struct span *s, uint32_t n,
		       struct err *err)
{
	struct io_want *w = mem_alloc(n, sizeof(*w), err);
	int ret = -1;

	if (!w)
		return -1;
	for (uint32_t i = 0; i < n; i++)
		w[i] = (struct io_want) { m->file[s[i].t->file].src,
					  s[i].t->offset, s[i].len };
	if (io_fetch(w, n, err))
		goto out;
	for (uint32_t i = 0; i < n; i++)
		if (io_view(w[i].src, w[i].off, w[i].len, &s[i].t->data, err))
			goto out;
	ret = 0;
out:
	free(w);
	return ret;
}

int model_fetch(struct model *m, const bool *want, struct err *err)
{
	struct span *s = mem_alloc(m->tensor_count, sizeof(*s), err);
	uint32_t n = 0;
	int ret;

	if (!s)
		return -1;
	for (uint32_t i = 0; i < m->tensor_count; i++)
		if (want[i] && m->tensor[i].offset != TENSOR_COPIED)
			s[n++] = (struct span) { &m->tensor[i],
						 m->tensor[i].size };
	ret = fetch_spans(m, s, n, err);
	free(s);
	return ret;
}

#define SEEN 8u /* layers of a checkpoint on a server, spread over it */

static bool has_small(const struct qf_module *q)
{
	for (uint32_t k = 0; k < q->count; k++)
		if (qf_glance(&q->part[k]))
			return true;
	return false;
}

int model_glance(struct model *m, struct err *err)
{
	struct span s[2 * SEEN];
	uint32_t n = 0, layers = 0, at = 0, next = 0;

	if (model_is_local(m))
		return 0;
	for (uint32_t i = 0; i < m->module_count; i++)
		layers += has_small(&m->module[i]);
	for (uint32_t i = 0; i < m->module_count; i++) {
		const struct qf_module *q = &m->module[i];

		if (!has_small(q) || at++ < next * (uint64_t)layers / SEEN)
			continue;
		next++;
		for (uint32_t k = 0; k < q->count && n < 2 * SEEN; k++) {
			struct tensor *t = m->tensor + (q->part + k -
							m->tensor);

			/* a file that had to be fetched whole has its data */
			if (qf_glance(t) && !t->data)
				s[n++] = (struct span) { t, qf_glance(t) };
		}
	}
	return fetch_spans(m, s, n, err);
}

void model_scattered(const struct model *m, bool on)
{
	for (uint32_t i = 0; i < m->file_count; i++)
		io_scattered(m->file[i].src, on);
}

void model_forget_all(const struct model *m)
{
	for (uint32_t i = 0; i < m->file_count; i++)
		io_forget(m->file[i].src, 0, io_size(m->file[i].src));
}

int model_expect(const struct model *m, uint32_t first, uint32_t count,
		 struct err *err)
{
	struct io_want w[512];
	uint32_t n = 0, end = m->module_count - first < count ?
			      m->module_count : first + count;

	if (!model_is_local(m))
		return 0;
	for (uint32_t i = first; i < end; i++)
		for (uint32_t k = 0; k < m->module[i].count && n < 512; k++) {
			const struct tensor *t = &m->module[i].part[k];

			if (qf_glance(t) && t->offset != TENSOR_COPIED)
				w[n++] = (struct io_want) {
					m->file[t->file].src, t->offset,
					t->size };
		}
	return io_fetch(w, n, err);
}

const struct tensor *model_find(const struct model *m, const char *name)
{
	const struct tensor key = { .name = name };

	if (!m->tensor_count)
		return NULL;
	return bsearch(&key, m->tensor, m->tensor_count, sizeof(*m->tensor),
		       model_by_name);
}

static int by_module(const void *name, const void *module)
{
	const struct qf_module *b = module;
	const char *a = name;
	size_t na = strlen(a), nb = strlen(b->name);
	int c = memcmp(a, b->name, na < nb ? na : nb);

	return c ? c : na < nb ? -1 : na > nb;
}

const struct qf_module *model_module(const struct model *m, const char *name)
{
	if (!m->module_count)
		return NULL;
	return bsearch(name, m->module, m->module_count, sizeof(*m->module),
		       by_module);
}

int model_need(const struct model *m, const char *name,
	       const struct tensor **out, struct err *err)
{
	*out = model_find(m, name);
	return *out ? 0 : err_set(err, ERR_INPUT, "%s: missing", name);
}

const char *model_file_of(const struct model *m, const struct tensor *t)
{
	return t->file < m->file_count ? m->file[t->file].name : "";
}

static void hint_shape(const struct llama_config *c, const char *module,
		       struct qf_hint *out)
{
	enum llama_linear which;
	uint32_t layer;

	if (!strcmp(module, LLAMA_HEAD)) {
		out->in = c->hidden;
		out->out = c->vocab;
	} else if (!llama_linear_parse(module, &layer, &which) &&
		   layer < c->layers) {
		llama_linear_shape(c, which, &out->in, &out->out);
	}
}

int model_hint(const struct model *m, const char *module, struct qf_hint *out,
	       bool *skip, struct err *err)
{
	const struct model_priv *p = m->priv;
	const struct config_quant *q = &m->quant;
	const struct gguf_file *gguf = model_gguf(m);
	uint64_t group;

	*skip = false;
	memset(out, 0, sizeof(*out));
	out->bits = (uint8_t)q->bits;
	out->group_size = q->group_size;
	out->desc_act = q->desc_act;
	out->sym = q->sym;
	out->format = q->format;
	out->by_gptqmodel = q->by_gptqmodel;
	out->swap3 = q->swap3;
	if (gguf && gguf_uint(gguf, LLAMA_GGUF_GROUP, INT32_MAX, &group))
		out->group_size = group ? (int32_t)group : -1;
	if (p->is_llama)
		hint_shape(&p->llama, module, out);
	return model_rules_apply(p->rules, module, out, skip, err);
}

uint64_t model_bytes(const struct model *m)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < m->tensor_count; i++)
		sum += m->tensor[i].size;
	return sum;
}

void model_forget(const struct model *m, const struct tensor *t, uint64_t off,
		  uint64_t n)
{
	if (t->offset != TENSOR_COPIED && t->file < m->file_count)
		io_forget(m->file[t->file].src, t->offset + off, n);
}
