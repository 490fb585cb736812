/* What --fix settles beside what every repack mends: which layout is kept,
 * which of the config's sym and the zeros is right, and which layers become
 * dense.  Stray tensors and prefixes are left out when the model is opened
 * (MODEL_TIDY). */
#include "repack_gguf.h"

#include "base/err.h"
#include "base/mem.h"
#include "llama.h"

#include <stdlib.h>
#include <string.h>

/* ---- the layout ---- */

/* What a layer's own layout is written as: itself, or its nearest kin. */
static const struct qfmt *written_as(const struct survey_layer *l)
{
	struct err ignored;

	if (!strncmp(l->format->name, "awq", 3))
		return &qf_awq;
	return l->format->accept(&l->spec, &ignored) ? &qf_gptq : l->format;
}

/* Zeros that readers of v1 take for different ones are without doubt in v2. */
const struct qfmt *repack_fix_layout(const struct survey *s)
{
	const struct qfmt *f = NULL;

	for (uint32_t i = 0; i < s->count; i++) {
		const struct qfmt *is;

		if (!s->layer[i].format || s->layer[i].broken)
			continue;
		is = written_as(&s->layer[i]);
		if (f && f != is)
			return &qf_gptq;
		f = is;
	}
	if (f == &qf_gptq && s->odd & QF_ODD_ZERO_WRAP)
		return &qf_gptq_v2;
	return f;
}

/* ---- sym, or the zeros ---- */

/* How far the groups' means are from 0, with the zeros as stored and with the
 * middle, in squared scales. */
struct means {
	double stored, middle;
};

/* A quantizer rounds to nearest, so that the mean of a group's codes is about
 * its true zero: trained weights have a mean near 0, and far below a scale.
 * Groups whose stored zero is the middle one do not tell. */
static int add_means(const struct ql *ql, struct means *m, struct err *err)
{
	const struct ql_spec *s = &ql->spec;
	double mid = 1u << (s->bits - 1);
	uint32_t *sum, *count; /* [groups], of one row */
	struct mem_part part[] = {
		{ (void **)&sum, s->groups, sizeof(*sum) },
		{ (void **)&count, s->groups, sizeof(*count) }
	};
	void *mem = mem_block(part, 2, err);

	if (!mem)
		return -1;
	for (uint32_t k = 0; k < s->in; k++)
		count[ql->group_of[k]]++;
	for (uint32_t n = 0; n < s->out; n++) {
		memset(sum, 0, s->groups * sizeof(*sum));
		for (uint32_t k = 0; k < s->in; k++)
			sum[ql->group_of[k]] +=
				ql->code[(size_t)n * s->in + k];
		for (uint32_t g = 0; g < s->groups; g++) {
			double zero = ql->zero[(size_t)n * s->groups + g];
			double mean = (double)sum[g] / (count[g] ?
							count[g] : 1);

			if (!count[g] || ql->zero[(size_t)n * s->groups + g] ==
						 (float)mid)
				continue;
			m->stored += (mean - zero) * (mean - zero);
			m->middle += (mean - mid) * (mean - mid);
		}
	}
	free(mem);
	return 0;
}

/* Twice as far is taken for an answer; chance does not come near that over
 * hundreds of groups. */
#define CLEAR 2.0

int repack_fix_sym(struct model *m, const struct survey *s,
		   enum repack_sym *out, struct err *err)
{
	const int8_t said = m->quant.sym;
	struct means sum = { 0, 0 };
	int ret = -1;

	*out = REPACK_SYM_CLEAR;
	if (!(s->odd & QF_ODD_SYM))
		return 0;
	m->quant.sym = -1; /* so that zeros are read as stored */
	for (uint32_t i = 0; i < s->count; i++) {
		const struct survey_layer *l = &s->layer[i];
		struct ql ql;

		if (!(l->odd & QF_ODD_SYM) || l->broken)
			continue;
		if (survey_read(m, l->module, &ql, err))
			goto out;
		if (add_means(&ql, &sum, err)) {
			ql_release(&ql);
			goto out;
		}
		ql_release(&ql);
	}
	*out = sum.middle > CLEAR * sum.stored ? REPACK_SYM_ZEROS :
	       sum.stored > CLEAR * sum.middle ? REPACK_SYM_MIDDLE :
						 REPACK_SYM_UNKNOWN;
	ret = 0;
out:
	m->quant.sym = ret || *out != REPACK_SYM_ZEROS ? said : 0;
	return ret;
}

/* ---- layers that become dense ---- */

/* Is a layer of l's slot and block dense? */
static bool has_dense_partner(const struct survey *s,
			      const struct survey_layer *l)
{
	enum llama_linear which, other;
	char name[LLAMA_NAME];
	uint32_t layer;

	if (llama_linear_parse(l->module->name, &layer, &which))
		return false;
	for (int i = 0; i < LLAMA_LINEARS; i++) {
		other = (enum llama_linear)i;
		if (llama_slot_of(other) != llama_slot_of(which))
			continue;
		llama_linear_name(layer, other, name);
		/* sorted by block: all of one stand together */
		for (const struct survey_layer *p = s->layer;
		     p < s->layer + s->count; p++)
			if (!p->format && !p->broken &&
			    !strcmp(p->module->name, name))
				return true;
	}
	return false;
}

/* The head of a GGUF file is often in blocks of more bits than the rest, which
 * the layout need not have; and readers of AWQ keep it dense. */
static bool is_odd_head(const struct repack_job *job,
			const struct survey_layer *l)
{
	struct err ignored;

	if (!model_gguf(job->model) || strcmp(l->module->name, LLAMA_HEAD) ||
	    l->broken || job->bits)
		return false;
	return job->to == &qf_awq ||
	       (job->to && job->to->accept(&l->spec, &ignored));
}

const struct qfmt *repack_target(const struct repack_job *job,
				 const struct survey_layer *l)
{
	if (!l->format)
		return NULL;
	/* only GGUF has tables in blocks */
	if (!repack_gguf_is(job) && (l->table || is_odd_head(job, l)))
		return NULL;
	if (job->fix && !l->broken &&
	    (llama_is_dense(l->module->name) ||
	     has_dense_partner(job->survey, l)))
		return NULL;
	return job->to;
}
