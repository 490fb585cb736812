/* A packed layer as it stands in the file, for devices that take it so: words
 * and scales stay where they are; what is small or open to doubt (groups,
 * zeros) is read as for the neutral layer. */
#include "qfmt_packed.h"

#include "../base/err.h"
#include "../base/half.h"
#include "../base/mem.h"
#include "bits.h"
#include "qfmt_zeros.h"

#include <stdlib.h>
#include <string.h>

/* Symmetric zeros are told by their words; others are decoded. */
static int load_zeros(const struct packed *p, struct ql_packed *q,
		      uint32_t *odd, struct err *err)
{
	struct ql_spec *s = &q->spec;
	const struct qf_zeros z = {
		p->rule->bits, s->bits, p->rule->bias,
		p->zeros ? p->zeros->data : NULL, s->groups, s->out, p->hint,
		false
	};
	size_t n = (size_t)s->groups * s->out, i = 0;
	uint16_t mid = (uint16_t)(1u << (s->bits - 1));
	int middle = p->zeros ? qf_zeros_middle(&z, err) : 1;

	s->sym = 1;
	if (middle)
		return middle < 0 ? -1 : 0;
	q->zeros = mem_alloc(n, sizeof(*q->zeros), err);
	if (!q->zeros || qf_zeros_read(&z, q->zeros, odd, err))
		return -1;
	while (i < n && q->zeros[i] == mid)
		i++;
	s->sym = i == n;
	return 0;
}

static int stored(const struct packed_rule *r, struct qf_layer *l,
		  struct ql_packed *q, struct err *err)
{
	struct packed p;
	int ret = -1;

	*q = (struct ql_packed){ .words = NULL };
	if (qf_packed_find(r, l, &p, err) ||
	    qf_packed_sizes(&p, &q->spec, err))
		goto out;
	if (p.perm || p.word != 32 || p.width != q->spec.out ||
	    !p.codes->data || !p.scales->data ||
	    (p.zeros && !p.zeros->data) || (p.index && !p.index->data)) {
		ret = 1;
		goto out;
	}
	q->group_of = mem_alloc(q->spec.in, sizeof(*q->group_of), err);
	if (!q->group_of ||
	    qf_packed_groups(&p, &q->spec, q->group_of, &l->odd, err) ||
	    load_zeros(&p, q, &l->odd, err))
		goto out;
	q->words = p.codes->data;
	q->scales = p.scales->data;
	ret = 0;
out:
	if (ret)
		ql_packed_release(q);
	return ret;
}

int qf_stored(const struct qfmt *f, struct qf_layer *l, struct ql_packed *q,
	      struct err *err)
{
	if (f == &qf_gptq)
		return stored(&qf_rule_gptq, l, q, err);
	if (f == &qf_gptq_v2)
		return stored(&qf_rule_gptq_v2, l, q, err);
	*q = (struct ql_packed){ .words = NULL };
	return 1;
}
