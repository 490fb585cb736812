#include "check.h"

#include "base/err.h"
#include "base/half.h"
#include "base/mem.h"
#include "container/torch.h"
#include "llama.h"
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The check under way. */
struct run {
	const struct model *m;
	const struct survey *s;
	const struct progress *p;
	struct check *out;
	size_t cap;
	bool told;            /* shapes that config.json contradicts */
	uint64_t done, total; /* bytes */
};

static int add(struct run *r, bool warning, const char *where,
	       const char *message, struct err *err)
{
	struct check *c = r->out;
	struct check_fault *f;
	void *p = c->fault;

	if (mem_grow(&p, &r->cap, (size_t)c->count + 1, sizeof(*c->fault),
		     err))
		return -1;
	c->fault = p;
	f = &c->fault[c->count];
	f->warning = warning;
	f->message = NULL;
	f->where = mem_text(where, strlen(where), err);
	if (!f->where)
		return -1;
	c->count++;
	f->message = mem_text(message, strlen(message), err);
	if (!f->message)
		return -1;
	c->errors += !warning;
	c->warnings += warning;
	return 0;
}

/* Memory and interruption stop the check; everything else is a finding. */
static bool is_fatal(const struct err *err)
{
	return err->code == ERR_RESOURCE || err->code == ERR_INTR;
}

static int step(struct run *r, uint64_t bytes, struct err *err)
{
	r->done += bytes;
	return prog_step(r->p, "structure", r->done, r->total, err);
}

/* ---- files ---- */

/* Archives carry checksums of what is in them. */
static int check_sums(struct run *r, struct err *err)
{
	struct err fault;

	for (uint32_t i = 0; i < r->m->file_count; i++) {
		const struct model_file *f = &r->m->file[i];

		if (strcmp(f->container, "torch zip") ||
		    !torch_zip_verify(f->src, r->p, &fault))
			continue;
		if (is_fatal(&fault)) {
			*err = fault;
			return -1;
		}
		if (add(r, false, f->name, fault.msg, err))
			return -1;
	}
	return 0;
}

/* ---- headers ---- */

static int add_problems(struct run *r, struct err *err)
{
	struct doctor d;
	int ret = -1;

	if (doctor_examine(r->m, r->s, &d, err))
		return -1;
	for (uint32_t i = 0; i < d.count; i++) {
		const struct doctor_problem *p = &d.problem[i];

		if (p->severity == DOCTOR_NOTE)
			continue;
		if (add(r, p->severity == DOCTOR_WARNING, p->where, p->message,
			err))
			goto out;
		r->told |= !strcmp(p->code, "config-sizes") ||
			   !strcmp(p->code, "tensor-missing");
	}
	ret = 0;
out:
	doctor_release(&d);
	return ret;
}

/* Every shape is what the architecture asks for.  Where a layer cannot be
 * read, that is the fault already found. */
static int check_shapes(struct run *r, struct err *err)
{
	const struct llama_config *c = model_llama(r->m);
	struct err fault;

	for (uint32_t i = 0; i < r->s->count; i++)
		if (r->s->layer[i].broken)
			return 0;
	if (!c || r->told || !llama_check(r->m, c, &fault))
		return 0;
	if (is_fatal(&fault)) {
		*err = fault;
		return -1;
	}
	return add(r, false, r->m->path, fault.msg, err);
}

/* ---- quantized layers ---- */

/* llama.cpp gives the largest weight of a block the lowest code, whatever its
 * sign: about half of its scales are negative, and stay so in other layouts.
 * Quantizers of those make none, and a few are damage. */
static bool has_signed_scales(const struct ql *ql)
{
	size_t n = (size_t)ql->spec.out * ql->spec.groups, negative = 0;

	for (size_t i = 0; i < n; i++)
		negative += ql->scale[i] < 0;
	return negative > n / 8;
}

/* What only the data shows and is not against an invariant. */
static int add_scale_faults(struct run *r, const char *where,
			    const struct ql *ql, uint32_t odd, struct err *err)
{
	if (odd & QF_ODD_SCALE_NEG && !has_signed_scales(ql) &&
	    add(r, false, where, "negative scales", err))
		return -1;
	if (odd & QF_ODD_SCALE_ZERO &&
	    add(r, true, where, "scales of 0, whose groups are all 0", err))
		return -1;
	return 0;
}

static int check_layer(struct run *r, const struct survey_layer *l,
		       struct err *err)
{
	struct qf_hint hint;
	struct qf_layer q = { .module = l->module, .hint = &hint };
	struct ql ql = { 0 };
	struct err fault;
	bool skip;
	int ret = -1;

	if (model_hint(r->m, l->module->name, &hint, &skip, err))
		return -1;
	if (l->format->read(&q, &ql, &fault) || ql_check(&ql, &fault)) {
		if (is_fatal(&fault))
			*err = fault;
		else
			ret = add(r, false, l->module->name, fault.msg, err);
		goto out;
	}
	ret = add_scale_faults(r, l->module->name, &ql, q.odd, err);
out:
	ql_release(&ql);
	return ret;
}

/* Without what check_tensors looks at. */
static uint64_t packed_bytes(const struct qf_module *m)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < m->count; i++)
		if (&m->part[i] != qf_part(m, "bias") &&
		    &m->part[i] != qf_part(m, "weight"))
			n += m->part[i].size;
	return n;
}

static int check_layers(struct run *r, struct err *err)
{
	for (uint32_t i = 0; i < r->s->count; i++) {
		const struct survey_layer *l = &r->s->layer[i];

		if (!l->format)
			continue;
		r->out->layers++;
		if ((!l->broken && check_layer(r, l, err)) ||
		    step(r, packed_bytes(l->module), err))
			return -1;
	}
	return 0;
}

/* ---- dense tensors ---- */

/* Is the element NaN or infinite?  By its bits: an exponent of all ones. */
static bool is_bad(const uint8_t *p, enum dtype t)
{
	switch (t) {
	case DT_F16:
		return (half_le16(p) & 0x7c00u) == 0x7c00u;
	case DT_BF16:
		return (half_le16(p) & 0x7f80u) == 0x7f80u;
	case DT_F32:
		return (half_le32(p) & 0x7f800000u) == 0x7f800000u;
	case DT_F64:
		return (half_le64(p) >> 52 & 0x7ffu) == 0x7ffu;
	default:
		return false;
	}
}

static int check_dense(struct run *r, const struct tensor *t, struct err *err)
{
	const uint8_t *p = t->data;
	uint64_t size = tensor_dtype_bits(t->type) / 8, bad = 0, first = 0;
	char text[128];

	if (!p || !tensor_is_float(t->type))
		return 0;
	for (uint64_t i = 0; i < t->size / size; i++) {
		if (!is_bad(p + i * size, t->type))
			continue;
		if (!bad++)
			first = i;
	}
	if (!bad)
		return 0;
	snprintf(text, sizeof(text), "%llu elements are NaN or infinite, the "
		 "first is number %llu", (unsigned long long)bad,
		 (unsigned long long)first);
	return add(r, false, t->name, text, err);
}

/* Mark the tensors of quantized layers, [tensor_count]; their bias, and a
 * weight beside the codes, are dense. */
static uint8_t *mark_packed(const struct run *r, struct err *err)
{
	uint8_t *packed = mem_alloc(r->m->tensor_count, 1, err);

	for (uint32_t i = 0; packed && i < r->s->count; i++) {
		const struct qf_module *m = r->s->layer[i].module;

		if (!r->s->layer[i].format)
			continue;
		for (uint32_t k = 0; k < m->count; k++)
			packed[&m->part[k] - r->m->tensor] =
				&m->part[k] != qf_part(m, "bias") &&
				&m->part[k] != qf_part(m, "weight");
	}
	return packed;
}

static int check_tensors(struct run *r, struct err *err)
{
	uint8_t *packed = mark_packed(r, err);
	int ret = -1;

	if (!packed)
		return -1;
	for (uint32_t i = 0; i < r->m->tensor_count; i++) {
		const struct tensor *t = &r->m->tensor[i];

		r->out->tensors++;
		if (packed[i])
			continue;
		if (check_dense(r, t, err) || step(r, t->size, err))
			goto out;
	}
	ret = 0;
out:
	free(packed);
	return ret;
}

int check_structure(const struct model *m, const struct survey *s,
		    const struct progress *p, struct check *out,
		    struct err *err)
{
	struct run r = { .m = m, .s = s, .p = p, .out = out,
			 .total = model_bytes(m) };

	memset(out, 0, sizeof(*out));
	if (add_problems(&r, err) || check_sums(&r, err) ||
	    check_shapes(&r, err) ||
	    check_layers(&r, err) || check_tensors(&r, err)) {
		check_release(out);
		return -1;
	}
	return 0;
}

void check_release(struct check *c)
{
	for (uint32_t i = 0; i < c->count; i++) {
		free(c->fault[i].where);
		free(c->fault[i].message);
	}
	free(c->fault);
	memset(c, 0, sizeof(*c));
}
