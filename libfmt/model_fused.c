#include "model_fused.h"

#include "base/err.h"
#include "base/mem.h"
#include "llama.h"
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME (LLAMA_NAME + 16) /* of a tensor */
#define PARTS 3 /* q, k, v: the first of enum llama_linear */

enum kind {
	SIDES,   /* the last dimension is cut by outputs */
	BEHIND,  /* a map each, one behind the other */
	SHARED   /* one map for all */
};

/* A tensor of a fused module: [rows, cols] elements, columns cut at cut[]. */
struct piece {
	const struct tensor *t;
	const char *suffix;
	enum kind kind;
	uint64_t rows, cut[PARTS + 1];
	size_t unit; /* bytes of an element */
};

#define PIECES 5
struct fused {
	uint32_t layer, count;
	struct piece piece[PIECES];
};

static uint32_t parse_layer(const char *module)
{
	enum llama_linear which;
	char name[LLAMA_NAME];
	uint32_t layer;
	size_t n = strlen(module);
	static const char end[] = "qkv_proj";

	/* "...q_proj" in place of "...qkv_proj" is a name that is known */
	if (n < sizeof(end) || n >= sizeof(name) ||
	    strcmp(module + n - (sizeof(end) - 1), end) != 0)
		return LLAMA_LAYERS_MAX;
	snprintf(name, sizeof(name), "%.*sq_proj",
		 (int)(n - (sizeof(end) - 1)), module);
	return llama_linear_parse(name, &layer, &which) ? LLAMA_LAYERS_MAX :
							  layer;
}

/* Where the columns of a tensor are cut, by the outputs of q, k and v; false
 * where that is not between two elements. */
static bool cut_sides(const struct llama_config *c, struct piece *p)
{
	uint64_t cols = p->t->dim[p->t->rank - 1], all = 0;
	uint32_t in, out[PARTS];

	for (int i = 0; i < PARTS; i++) {
		llama_linear_shape(c, (enum llama_linear)i, &in, &out[i]);
		all += out[i];
	}
	p->cut[0] = 0;
	for (int i = 0; i < PARTS; i++) {
		uint64_t n;

		if (!all || mem_mul64(out[i], cols, &n) || n % all)
			return false;
		p->cut[i + 1] = p->cut[i] + n / all;
	}
	p->kind = SIDES;
	p->rows = p->t->rank == 2 ? p->t->dim[0] : 1;
	/* one per output, or codes that fill their words */
	return p->t->type == DT_I32 || cols == all;
}

static bool cut_map(const struct llama_config *c, struct piece *p)
{
	uint64_t n = p->t->dim[0];

	p->kind = n == c->hidden ? SHARED : BEHIND;
	for (int i = 0; i <= PARTS; i++)
		p->cut[i] = (uint64_t)i * (p->kind == SHARED ? n : n / PARTS);
	p->rows = 1;
	return n == c->hidden || n == PARTS * (uint64_t)c->hidden;
}

/* Are there linears of their own? */
static bool has_parts(const struct model *m, uint32_t layer, const char *suffix)
{
	char module[LLAMA_NAME], name[NAME];

	for (int i = 0; i < PARTS; i++) {
		llama_linear_name(layer, (enum llama_linear)i, module);
		snprintf(name, sizeof(name), "%s.%s", module, suffix);
		if (model_find(m, name))
			return true;
	}
	return false;
}

/* Tensors of the module into f; false: it is none that can be cut. */
static bool find_pieces(const struct model *m, uint32_t layer, struct fused *f)
{
	static const struct {
		const char *suffix;
		int rank;
		bool must;
	} part[PIECES] = { { "qweight", 2, true }, { "scales", 2, true },
		{ "qzeros", 2, false }, { "g_idx", 1, false },
		{ "bias", 1, false } };
	const struct llama_config *c = model_llama(m);
	char module[LLAMA_NAME], name[NAME];

	*f = (struct fused) { .layer = layer };
	if (!c || layer >= c->layers)
		return false;
	llama_fused_name(layer, LLAMA_SLOT_QKV, module);
	for (int i = 0; i < PIECES; i++) {
		struct piece *p = &f->piece[f->count];

		snprintf(name, sizeof(name), "%s.%s", module, part[i].suffix);
		p->t = model_find(m, name);
		p->suffix = part[i].suffix;
		if (!p->t && !part[i].must)
			continue;
		if (!p->t || p->t->rank != part[i].rank || p->t->turned ||
		    !p->t->size || tensor_dtype_bits(p->t->type) % 8)
			return false;
		p->unit = tensor_dtype_bits(p->t->type) / 8;
		if (has_parts(m, layer, p->suffix) ||
		    !(strcmp(p->suffix, "g_idx") ? cut_sides(c, p) :
						   cut_map(c, p)))
			return false;
		f->count++;
	}
	return true;
}

bool model_is_fused(const struct model *m, const char *module)
{
	struct fused f;

	return find_pieces(m, parse_layer(module), &f);
}

/* ---- cutting ---- */

/* What all the cuts of a model take: tensors, and bytes of names and data. */
struct need {
	size_t tensors, text, data;
};

static bool has_data(const struct fused *f)
{
	for (uint32_t i = 0; i < f->count; i++)
		if (!f->piece[i].t->data)
			return false;
	return true;
}

static void add_need(const struct fused *f, struct need *n)
{
	n->tensors += (size_t)f->count * PARTS;
	n->text += (size_t)f->count * PARTS * NAME;
	for (uint32_t i = 0; i < f->count; i++)
		if (f->piece[i].rows > 1)
			n->data += (size_t)f->piece[i].t->size;
}

/* A run of bytes in each row becomes a matrix of its own. */
static void copy_columns(const struct piece *p, int part, uint8_t *to)
{
	size_t width = (size_t)p->cut[PARTS] * p->unit;
	size_t n = (size_t)(p->cut[part + 1] - p->cut[part]) * p->unit;
	const uint8_t *from = (const uint8_t *)p->t->data +
			      p->cut[part] * p->unit;

	for (uint64_t r = 0; r < p->rows; r++)
		memcpy(to + r * n, from + r * width, n);
}

/* Part `part` of a piece; bytes that lie apart go to *at, which moves on. */
static struct tensor cut_piece(const struct piece *p, int part, uint8_t **at)
{
	struct tensor t = *p->t;
	uint64_t n = p->cut[part + 1] - p->cut[part];
	uint64_t skip = p->kind == SHARED ? 0 : p->cut[part] * p->unit;

	t.dim[t.rank - 1] = n;
	t.stride[0] = t.rank == 2 ? n : 1;
	t.size = p->rows * n * p->unit;
	if (p->rows > 1) {
		copy_columns(p, part, *at);
		t.data = *at;
		t.offset = TENSOR_COPIED;
		*at += t.size;
	} else {
		t.data = (const uint8_t *)t.data + skip;
		if (t.offset != TENSOR_COPIED)
			t.offset += skip;
	}
	return t;
}

static void cut_layer(const struct fused *f, struct tensor **to, char **text,
		      uint8_t **data)
{
	char module[LLAMA_NAME];

	for (uint32_t i = 0; i < f->count * PARTS; i++) {
		const struct piece *p = &f->piece[i / PARTS];
		int part = (int)(i % PARTS);

		llama_linear_name(f->layer, (enum llama_linear)part, module);
		snprintf(*text, NAME, "%s.%s", module, p->suffix);
		**to = cut_piece(p, part, data);
		(*to)++->name = *text;
		*text += NAME;
	}
}

/* The layers that can be cut, whose data is there. */
static uint32_t find_all(const struct model *m, uint32_t layers,
			 struct fused *f, struct need *n)
{
	uint32_t count = 0;

	for (uint32_t layer = 0; layer < layers; layer++) {
		if (!find_pieces(m, layer, &f[count]) || !has_data(&f[count]))
			continue;
		add_need(&f[count++], n);
	}
	return count;
}

/* The table anew: all other tensors, then the parts. */
static void fill(const struct model *m, const struct fused *f, uint32_t count,
		 bool *cut, struct tensor *to, char *text, uint8_t *data)
{
	for (uint32_t i = 0; i < count; i++)
		for (uint32_t j = 0; j < f[i].count; j++)
			cut[f[i].piece[j].t - m->tensor] = true;
	for (uint32_t i = 0; i < m->tensor_count; i++)
		if (!cut[i])
			*to++ = m->tensor[i];
	for (uint32_t i = 0; i < count; i++)
		cut_layer(&f[i], &to, &text, &data);
}

int model_fused_cut(struct model *m, void **mem, struct err *err)
{
	const struct llama_config *c = model_llama(m);
	struct need need = { 0, 0, 0 };
	struct tensor *table = NULL;
	struct fused *f;
	bool *cut = NULL;
	char *text;
	uint8_t *data;
	struct mem_part part[2] = { { (void **)&text, 0, 1 },
		{ (void **)&data, 0, 1 } };
	uint32_t count;
	int ret = -1;

	*mem = NULL;
	f = mem_alloc(c ? c->layers : 0, sizeof(*f), err);
	if (!f)
		return -1;
	count = c ? find_all(m, c->layers, f, &need) : 0;
	part[0].n = need.text;
	part[1].n = need.data;
	cut = mem_alloc(m->tensor_count, sizeof(*cut), err);
	table = mem_alloc(m->tensor_count + need.tensors, sizeof(*table), err);
	*mem = mem_block(part, 2, err);
	if (!cut || !table || !*mem)
		goto out;
	fill(m, f, count, cut, table, text, data);
	free(m->tensor);
	m->tensor = table;
	m->tensor_count += (uint32_t)(need.tensors - need.tensors / PARTS);
	table = NULL;
	ret = 0;
out:
	free(table);
	free(cut);
	free(f);
	return ret;
}
