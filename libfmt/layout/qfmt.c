#include "qfmt.h"

#include <string.h>

/* More particular layouts stand before more general ones: the GPTQ rows claim
 * whatever has packed codes and is nobody else's, so that a damaged layer gets
 * a message about what is wrong with it. */
const struct qfmt *const qf_table[] = {
	&qf_gguf,
	&qf_ct,
	&qf_marlin,
	&qf_llama,
	&qf_awq_fast,
	&qf_awq_gemv,
	&qf_awq,
	&qf_gptq_p,
	&qf_gptq_v2,
	&qf_gptq,
};
const uint32_t qf_count = sizeof(qf_table) / sizeof(qf_table[0]);

const struct tensor *qf_part(const struct qf_module *m, const char *suffix)
{
	for (uint32_t i = 0; i < m->count; i++) {
		const char *dot = strrchr(m->part[i].name, '.');

		if (strcmp(dot ? dot + 1 : m->part[i].name, suffix) == 0)
			return &m->part[i];
	}
	return NULL;
}

const struct qfmt *qf_find(const char *name)
{
	for (uint32_t i = 0; i < qf_count; i++)
		if (strcmp(qf_table[i]->name, name) == 0)
			return qf_table[i];
	return NULL;
}

const struct qfmt *qf_recognise(const struct qf_module *m,
				const struct qf_hint *hint)
{
	for (uint32_t i = 0; i < qf_count; i++)
		if (qf_table[i]->claims(m, hint))
			return qf_table[i];
	return NULL;
}
