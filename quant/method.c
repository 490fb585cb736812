#include "method.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct gq_method *const gq_methods[] = { &gq_gptq, &gq_gptaq, &gq_hqq,
					      &gq_rtn };
const uint32_t gq_method_count = sizeof(gq_methods) / sizeof(gq_methods[0]);

const struct gq_method *gq_method_find(const char *name)
{
	for (uint32_t i = 0; i < gq_method_count; i++)
		if (strcmp(gq_methods[i]->name, name) == 0)
			return gq_methods[i];
	return NULL;
}

int gq_preset(const struct gq_params *p)
{
	return p->static_groups || p->group_size == -1;
}

uint32_t gq_group_size(const struct gq_params *p, uint32_t in)
{
	if (p->group_size < 1 || (uint32_t)p->group_size > in)
		return in;
	return (uint32_t)p->group_size;
}

void gq_spec(const struct gq_params *p, uint32_t out, uint32_t in,
	     struct ql_spec *spec)
{
	*spec = (struct ql_spec){ .out = out,
				  .in = in,
				  .group_size = gq_group_size(p, in),
				  .bits = p->bits,
				  .sym = p->sym,
				  .zero_kind = QL_POINT,
				  .scale_type = p->scale_type };
	spec->groups = (in - 1) / spec->group_size + 1;
	spec->act_order = p->desc_act && !p->static_groups && spec->groups > 1;
}

int gq_sum(const struct rt_dev *d, const double *p, uint32_t n, double *out,
	   struct err *err)
{
	double *host = mem_alloc(n, sizeof(*host), err);

	*out = 0;
	if (!host)
		return -1;
	if (d->api->get(d->be, host, p, n * sizeof(*host), err)) {
		free(host);
		return -1;
	}
	for (uint32_t i = 0; i < n; i++)
		*out += host[i];
	free(host);
	return 0;
}

int gq_rel_error(const float *w, const struct ql *ql, double *out,
		 struct err *err)
{
	uint32_t in = ql->spec.in;
	double diff = 0, norm = 0;
	float *q = mem_alloc(in, sizeof(*q), err);

	if (!q)
		return -1;
	for (uint32_t r = 0; r < ql->spec.out; r++) {
		const float *row = w + (size_t)r * in;

		ql_dequant_row(ql, r, q);
		for (uint32_t k = 0; k < in; k++) {
			double e = (double)row[k] - (double)q[k];

			diff += e * e;
			norm += (double)row[k] * (double)row[k];
		}
	}
	free(q);
	*out = norm > 0 ? sqrt(diff / norm) : 0;
	return 0;
}
