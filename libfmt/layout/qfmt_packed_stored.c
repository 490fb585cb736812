/* A packed layer as it stands in the file, for devices that take it so: words,
 * scales and zeros stay where they are; what is open to doubt (groups, how
 * zeros are meant) is decided as for the neutral layer. */
#include "qfmt_packed.h"

#include "../base/err.h"
#include "../base/half.h"
#include "../base/mem.h"
#include "bits.h"
#include "qfmt_zeros.h"

#include <stdlib.h>
#include <string.h>

/* How zeros are to be read; symmetric ones need not be. */
static int load_zeros(const struct packed *p, struct ql_packed *q,
		      uint32_t *odd, struct err *err)
{
	struct ql_spec *s = &q->spec;
	const struct qf_zeros z = {
		p->rule->bits, s->bits, p->rule->bias,
		p->zeros ? p->zeros->data : NULL, s->groups, s->out, p->hint,
		false
	};
	struct qf_reading r;
	int middle = 1;

	if (p->zeros) {
		middle = qf_zeros_choose(&z, &r, odd, err) ?
				 -1 : qf_zeros_centred(&z, &r, err);
	}
	s->sym = 1;
	if (middle)
		return middle < 0 ? -1 : 0;
	s->sym = 0;
	q->zeros = z.words;
	memcpy(q->zero_add, r.add, sizeof(q->zero_add));
	q->zero_plus = r.plus;
	q->zero_mask = r.mask;
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
