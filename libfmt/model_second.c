#include "model_second.h"

#include "base/half.h"
#include "base/json.h"
#include "container/tensor_file.h"
#include "layout/ql.h"
#include "model.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int set_bits(struct config_quant *q, int64_t bits)
{
	if (q->bits || bits < 1 || bits > 32)
		return 0;
	q->bits = (uint32_t)bits;
	return 1;
}

static int set_group(struct config_quant *q, int64_t size)
{
	if (q->group_size || size < -1 || !size || size > QL_DIM_MAX)
		return 0;
	q->group_size = (int32_t)size;
	return 1;
}

static int set_switch(int8_t *field, int value)
{
	if (*field >= 0)
		return 0;
	*field = value != 0;
	return 1;
}

/* ---- marker tensors ---- */

/* A tensor of one whole number; false when there is none of that name. */
static bool scalar(const struct model *m, const char *name, int64_t *out)
{
	const struct tensor *t = model_find(m, name);

	if (!t || !t->data || t->size * 8 != tensor_dtype_bits(t->type))
		return false;
	switch (t->type) {
	case DT_I64:
		*out = (int64_t)half_le64(t->data);
		return true;
	case DT_I32:
		*out = (int32_t)half_le32(t->data);
		return true;
	case DT_BOOL:
	case DT_U8:
		*out = *(const uint8_t *)t->data;
		return true;
	default:
		return false;
	}
}

/* Their quantizer knows no act-order, and without gptq_sym it is one that did
 * not quantize symmetrically. */
static int by_markers(const struct model *m, struct config_quant *q)
{
	int64_t bits, size, sym = 0;
	int said;

	if (!scalar(m, "gptq_bits", &bits) ||
	    !scalar(m, "gptq_groupsize", &size))
		return 0;
	scalar(m, "gptq_sym", &sym);
	said = set_bits(q, bits);
	said |= set_group(q, size);
	said |= set_switch(&q->desc_act, 0);
	said |= set_switch(&q->sym, sym != 0);
	return said;
}

/* ---- metadata ---- */

static int by_meta(const struct cJSON *meta, struct config_quant *q)
{
	const char *act = json_text(json_find(meta, "gptq_desc_act"));
	const char *format = json_text(json_find(meta,
						 "gptq_checkpoint_format"));
	int64_t n;
	int said = 0;

	if (!json_int(json_find(meta, "gptq_bits"), 1, 32, &n))
		said |= set_bits(q, n);
	if (!json_int(json_find(meta, "gptq_group_size"), -1, QL_DIM_MAX, &n))
		said |= set_group(q, n);
	if (act && (!strcasecmp(act, "true") || !strcasecmp(act, "false")))
		said |= set_switch(&q->desc_act, !strcasecmp(act, "true"));
	if (said && format && !q->format)
		q->format = format;
	return said;
}

/* ---- names ---- */

/* "4bit", "4-bit", "4_bits": the digit stands alone. */
static int name_bits(const char *name)
{
	for (const char *p = name; (p = strcasestr(p, "bit")); p++) {
		const char *d = p;

		d -= d > name && strchr("-_ ", d[-1]);
		if (d == name || !strchr("2348", d[-1]))
			continue;
		d--;
		if (d == name || d[-1] < '0' || d[-1] > '9')
			return *d - '0';
	}
	return 0;
}

/* "128g", "--1g": a number, and nothing that goes on as a word. */
static int64_t name_group(const char *name)
{
	for (const char *p = name; (p = strchr(p, 'g')); p++) {
		const char *d = p;
		int64_t n = 0;

		if ((p[1] >= 'a' && p[1] <= 'z') || (p[1] >= '0' &&
						     p[1] <= '9'))
			continue;
		while (d > name && d[-1] >= '0' && d[-1] <= '9' && p - d < 8)
			d--;
		for (const char *c = d; c < p; c++)
			n = 10 * n + (*c - '0');
		if (n == 1 && d - name >= 2 && d[-1] == '-' && d[-2] == '-')
			return -1;
		if (n > 1)
			return n;
	}
	return 0;
}

/* -1: not said. */
static int name_act(const char *name)
{
	static const struct {
		const char *text;
		int says;
	} word[] = {
		{ "no-act-order", 0 }, { "no-act", 0 },
		{ "actorder_false", 0 }, { "act-order", 1 },
		{ "actorder", 1 },
	};

	for (size_t i = 0; i < sizeof(word) / sizeof(*word); i++)
		if (strcasestr(name, word[i].text))
			return word[i].says;
	return -1;
}

int model_second_name(const char *name, struct config_quant *q)
{
	int bits = name_bits(name), act = name_act(name);
	int said = set_bits(q, bits);

	/* "7g" alone is more often a size than a group */
	if (bits)
		said |= set_group(q, name_group(name));
	if (bits && act >= 0)
		said |= set_switch(&q->desc_act, act);
	return said;
}

/* ---- all ---- */

void model_second_fill(struct model *m, const struct tensor_file *file)
{
	struct config_quant *q = &m->quant;
	const char *dir = strrchr(m->path, '/');

	if (by_markers(m, q))
		q->second = "the marker tensors";
	for (uint32_t i = 0; i < m->file_count; i++)
		if (by_meta(file[i].meta, q) && !q->second)
			q->second = "the file's metadata";
	if (q->tree || q->second || !m->file_count)
		return;
	if (model_second_name(m->file[0].name, q) ||
	    (m->is_dir && model_second_name(dir ? dir + 1 : m->path, q)))
		q->second = "the name";
}
