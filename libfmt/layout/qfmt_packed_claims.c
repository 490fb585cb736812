/* Which of the layouts that pack integers into "qweight" is it? */
#include "qfmt_packed.h"

/* AWQ packs the other way: its qweight is narrow and its qzeros are as wide
 * (GEMM), or everything is transposed (GEMV).  Source:
 * gptq-formats(5) "Telling layouts apart". */
static bool shaped_like_awq(const struct tensor *c, const struct tensor *z,
			    const struct tensor *s)
{
	if (!z || !s || c->rank != 2 || z->rank != 2 || s->rank != 2)
		return false;
	if (s->dim[1] == c->dim[1] && z->dim[0] == s->dim[0])
		return false; /* GPTQ */
	if (z->dim[0] != s->dim[0])
		return false;
	return (s->dim[1] == 8 * c->dim[1] && z->dim[1] == c->dim[1]) ||
	       (s->dim[0] == c->dim[0] && s->dim[1] == 8 * z->dim[1]);
}

bool qf_packed_is_gptq(const struct qf_module *m)
{
	const struct tensor *c = qf_part(m, "qweight");
	const struct tensor *z = qf_part(m, "qzeros");
	const struct tensor *s = qf_part(m, "scales");

	if (!c || (!z && !s))
		return false;
	if (z && tensor_is_float(z->type))
		return false; /* AWQ GEMV_FAST */
	if (!z && qf_part(m, "zeros"))
		return false; /* the first GPTQ-for-LLaMa */
	if (qf_part(m, "lookup_table") || qf_part(m, "lut") ||
	    qf_part(m, "s_channel"))
		return false; /* SqueezeLLM, QQQ and others */
	return !shaped_like_awq(c, z, s);
}
