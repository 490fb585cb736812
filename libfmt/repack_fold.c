/* Act-order out of the way: contiguous groups, without changing a weight.
 *
 * Where g_idx says nothing (equal groups) or smaller groups are contiguous as
 * they stand, nothing moves.  Else the inputs are permuted, and whatever
 * produces them gives its outputs in the new order:
 *
 *	down_proj   outputs of gate_proj and up_proj, any permutation: SiLU and
 *	            product go element by element
 *	o_proj      outputs of v_proj: attention mixes the positions of one
 *	            dimension, so inside each head, and alike in all heads
 *	            that share a key-value head
 *	the others  read the residual stream, whose order all layers share: no
 *
 * Source: gptq-formats(5) "Moves without loss". */
#include "repack_impl.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Groups are not cut below this: kernels know none smaller. */
static uint32_t least(const struct ql *ql)
{
	return ql->spec.group_size < 32 ? ql->spec.group_size : 32;
}

void repack_way_refuse(struct repack_way *w, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(w->why, sizeof(w->why), fmt, ap);
	va_end(ap);
	w->impossible = true;
}

int64_t repack_find(const struct survey *s, uint32_t block,
		    enum llama_linear which)
{
	char name[LLAMA_NAME];

	llama_linear_name(block, which, name);
	for (uint32_t i = 0; i < s->count; i++)
		if (!strcmp(s->layer[i].module->name, name))
			return i;
	return -1;
}

/* ---- which order ---- */

static int order_all(const struct ql *ql, uint32_t *perm, struct err *err)
{
	for (uint32_t k = 0; k < ql->spec.in; k++)
		perm[k] = k;
	return ql_order(ql->group_of, ql->spec.groups, perm, ql->spec.in, err);
}

/* Inside each head, alike for the `share` query heads of one key-value head:
 * by the groups in the first, then in the second, ... (sorted by the last
 * first, as the sort keeps what it finds equal). */
static int order_heads(const struct ql *ql, const struct llama_config *c,
		       uint32_t *perm, struct err *err)
{
	uint32_t dim = c->head_dim, share = c->heads / c->kv_heads;
	uint32_t *row = perm + ql->spec.in; /* v_proj's, [kv_heads * dim] */

	for (uint32_t h = 0; h < c->heads; h += share) {
		uint32_t *order = perm + (size_t)h * dim;

		for (uint32_t d = 0; d < dim; d++)
			order[d] = d;
		for (uint32_t s = share; s--;)
			if (ql_order(ql->group_of + (size_t)(h + s) * dim,
				     ql->spec.groups, order, dim, err))
				return -1;
		for (uint32_t d = 0; d < dim; d++)
			row[h / share * dim + d] = h / share * dim + order[d];
		for (uint32_t s = share; s--;)
			for (uint32_t d = 0; d < dim; d++)
				order[s * dim + d] = (h + s) * dim + order[d];
	}
	return 0;
}

/* ---- whether it can be ---- */

static bool makes(const struct survey *s, uint32_t block,
		  enum llama_linear which, uint32_t out, struct repack_way *w)
{
	int64_t i = repack_find(s, block, which);

	if (i < 0 || s->layer[i].broken) {
		repack_way_refuse(w, "act-order would be folded into %s of "
				  "this block, which %s",
				  llama_linear_short(which),
				  i < 0 ? "is not there" : "cannot be read");
		return false;
	}
	if (s->layer[i].spec.out != out) {
		repack_way_refuse(w, "act-order would be folded into %s of "
				  "this block, which has %u outputs, not %u",
				  llama_linear_short(which),
				  s->layer[i].spec.out, out);
		return false;
	}
	return true;
}

static int fold_down(const struct repack_job *job, const struct ql *ql,
		     uint32_t block, struct repack_way *w, uint32_t *perm,
		     struct err *err)
{
	if (!makes(job->survey, block, LLAMA_GATE, ql->spec.in, w) ||
	    !makes(job->survey, block, LLAMA_UP, ql->spec.in, w))
		return 0;
	if (order_all(ql, perm, err))
		return -1;
	w->straight = ql_straight_size(ql, perm, least(ql));
	if (!w->straight)
		repack_way_refuse(w, "act-order cannot be dropped: its groups "
				  "are of unequal sizes");
	return 0;
}

static int fold_o(const struct repack_job *job, const struct ql *ql,
		  uint32_t block, struct repack_way *w, uint32_t *perm,
		  struct err *err)
{
	const struct llama_config *c = model_llama(job->model);

	if (!c || c->heads * c->head_dim != ql->spec.in) {
		repack_way_refuse(w, "act-order cannot be dropped: config.json "
				  "does not tell the heads of its %u inputs",
				  ql->spec.in);
		return 0;
	}
	if (!makes(job->survey, block, LLAMA_V, c->kv_heads * c->head_dim, w))
		return 0;
	if (order_heads(ql, c, perm, err))
		return -1;
	w->straight = ql_straight_size(ql, perm, least(ql));
	if (!w->straight)
		repack_way_refuse(w, "act-order cannot be dropped: its groups "
				  "mix dimensions of different heads, which "
				  "v_proj cannot be permuted to match");
	return 0;
}

static int fold(const struct repack_job *job, struct repack_ways *w,
		uint32_t i, const struct ql *ql, struct err *err)
{
	const char *name = job->survey->layer[i].module->name;
	struct repack_way *way = &w->way[i];
	enum llama_linear which;
	uint32_t block;
	int ret;

	if (llama_linear_parse(name, &block, &which) ||
	    (which != LLAMA_DOWN && which != LLAMA_O)) {
		repack_way_refuse(way, "act-order cannot be dropped: its "
				  "inputs come in the order of the residual "
				  "stream, which all layers share");
		return 0;
	}
	w->perm[i] = mem_alloc(ql->spec.in, 2 * sizeof(**w->perm), err);
	if (!w->perm[i])
		return -1;
	ret = which == LLAMA_DOWN ?
		fold_down(job, ql, block, way, w->perm[i], err) :
		fold_o(job, ql, block, way, w->perm[i], err);
	if (ret || way->impossible)
		return ret;
	way->moved = true;
	way->map.col = w->perm[i];
	return 0;
}

int repack_fold_layer(const struct repack_job *job, struct repack_ways *w,
		      uint32_t i, struct err *err)
{
	const struct survey_layer *l = &job->survey->layer[i];
	struct repack_way *way = &w->way[i];
	struct ql ql;
	int ret = 0;

	if (l->broken || !l->spec.act_order || !repack_target(job, l))
		return 0;
	if (survey_read(job->model, l->module, &ql, err))
		return -1;
	way->straight = ql_straight_size(&ql, NULL, least(&ql));
	if (!way->straight)
		ret = fold(job, w, i, &ql, err);
	ql_release(&ql);
	if (way->straight) {
		way->spec.act_order = 0;
		way->spec.group_size = way->straight;
		way->spec.groups = (way->spec.in - 1) / way->straight + 1;
	}
	return ret;
}

/* ---- the layers before ---- */

static void give_rows(struct repack_ways *w, int64_t to, const uint32_t *row)
{
	struct repack_way *way = &w->way[to];

	way->moved = true;
	way->map.row = row;
}

void repack_fold_link(const struct repack_job *job, struct repack_ways *w)
{
	const struct survey *s = job->survey;

	for (uint32_t i = 0; i < s->count; i++) {
		enum llama_linear which;
		uint32_t block;

		if (w->way[i].impossible || !w->way[i].map.col ||
		    llama_linear_parse(s->layer[i].module->name, &block,
				       &which))
			continue;
		if (which == LLAMA_O) {
			give_rows(w, repack_find(s, block, LLAMA_V),
				  w->perm[i] + s->layer[i].spec.in);
		} else {
			give_rows(w, repack_find(s, block, LLAMA_GATE),
				  w->perm[i]);
			give_rows(w, repack_find(s, block, LLAMA_UP),
				  w->perm[i]);
		}
	}
}
