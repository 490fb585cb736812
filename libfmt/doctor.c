#include "doctor_impl.h"

#include "base/err.h"
#include "base/half.h"
#include "base/mem.h"
#include "container/tensor.h"
#include "model.h"
#include "model_fused.h"
#include "repack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct doctor_table *const tables[] = { &doctor_files,
	&doctor_configs, &doctor_rules, &doctor_names, &doctor_model,
	&doctor_layers, &doctor_kernels };
#define TABLES (sizeof(tables) / sizeof(*tables))
static const struct doctor_table *const gguf_tables[] = { &doctor_gguf };

void doctor_found(struct doctor_finding *f, const char *where)
{
	if (!f->count++)
		f->where = where;
}

bool doctor_is_gptq(const struct survey_layer *l)
{
	return !l->broken && (l->format == &qf_gptq ||
			      l->format == &qf_gptq_v2 ||
			      l->format == &qf_gptq_p);
}

static uint32_t common(uint32_t a, uint32_t b)
{
	while (b) {
		uint32_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

uint32_t doctor_group_divisor(const struct survey *s)
{
	uint32_t d = 0;

	for (uint32_t i = 0; i < s->count; i++) {
		const struct survey_layer *l = &s->layer[i];

		if (doctor_is_gptq(l) && l->spec.groups > 1)
			d = common(l->spec.in, common(l->spec.group_size, d));
	}
	return d;
}

bool doctor_groups_differ(const struct survey_layer *a,
			  const struct survey_layer *b)
{
	if (a->spec.groups > 1 && b->spec.groups > 1)
		return a->spec.group_size != b->spec.group_size;
	if (a->spec.groups > 1)
		return a->spec.group_size < b->spec.in;
	return b->spec.groups > 1 && b->spec.group_size < a->spec.in;
}

#define SAMPLE 1024u /* scales */

static bool scales_fit(const struct survey_layer *l)
{
	const struct tensor *t = qf_part(l->module, "scales");
	float scale[SAMPLE];
	uint64_t n;

	t = t ? t : qf_part(l->module, "weight_scale");
	if (!t || t->type == DT_F16)
		return true;
	if (!t->data || tensor_count(t, &n))
		return t->type == DT_BF16; /* nearly always */
	n = n < SAMPLE ? n : SAMPLE;
	if (tensor_load_f32(t, 0, n, scale))
		return false;
	for (uint64_t i = 0; i < n; i++)
		if (half_bits(half_to_f32(half_from_f32(scale[i]))) !=
		    half_bits(scale[i]))
			return false;
	return true;
}

bool doctor_scales_fit(const struct survey *s)
{
	uint32_t seen = 0;

	for (uint32_t i = 0; i < s->count && seen < 4; i++) {
		if (!s->layer[i].format || s->layer[i].broken)
			continue;
		seen++;
		if (!scales_fit(&s->layer[i]))
			return false;
	}
	return true;
}

uint32_t doctor_common_bits(const struct survey *s)
{
	uint32_t most = 0;

	for (uint32_t i = 0; i < s->count; i++)
		if (doctor_is_gptq(&s->layer[i]) &&
		    s->layer[i].spec.bits > most)
			most = s->layer[i].spec.bits;
	return most <= 4 ? 4 : 8;
}

void doctor_make_equal(const struct survey *s, bool bits, bool groups,
		       struct doctor_finding *f)
{
	uint32_t size = doctor_group_divisor(s);
	int n = 0;

	if (bits)
		n = snprintf(f->text, sizeof(f->text), "--bits %u",
			     doctor_common_bits(s));
	if (groups)
		snprintf(f->text + n, sizeof(f->text) - (size_t)n,
			 "%s--group-size %u", bits ? " " : "", size);
	f->hopeless |= groups && size < 8;
	f->fix = f->text;
}

void doctor_test_odd(const struct doctor_patient *p,
		     const struct doctor_row *r, struct doctor_finding *f)
{
	for (uint32_t i = 0; i < p->s->count; i++)
		if (p->s->layer[i].odd & r->bits)
			doctor_found(f, p->s->layer[i].module->name);
}

/* ---- words ---- */

/* "WORDS: DETAIL (N UNIT)" */
static char *message_of(const struct doctor_row *r,
			const struct doctor_finding *f, struct err *err)
{
	char text[768];
	int n = snprintf(text, sizeof(text), "%s%s%s", r->words,
			 f->detail ? ": " : "", f->detail ? f->detail : "");

	if (r->unit && f->count > 1 && n > 0 && (size_t)n < sizeof(text))
		snprintf(text + n, sizeof(text) - (size_t)n, " (%u %s)",
			 f->count, r->unit);
	return mem_text(text, strlen(text), err);
}

static bool is_plain(const char *s, size_t n)
{
	static const char also[] = "_./:@%+=,-";

	for (size_t i = 0; i < n; i++)
		if (!((s[i] >= '0' && s[i] <= '9') ||
		      (s[i] >= 'A' && s[i] <= 'Z') ||
		      (s[i] >= 'a' && s[i] <= 'z') || strchr(also, s[i])))
			return false;
	return n > 0;
}

/* n bytes of s as one word of a shell's line; returns the end.  Takes at most
 * 4 n + 2 bytes. */
static char *quote(char *to, const char *s, size_t n)
{
	if (is_plain(s, n)) {
		memcpy(to, s, n);
		return to + n;
	}
	*to++ = '\'';
	for (size_t i = 0; i < n; i++) {
		if (s[i] != '\'') {
			*to++ = s[i];
			continue;
		}
		memcpy(to, "'\\''", 4);
		to += 4;
	}
	*to++ = '\'';
	return to;
}

/* What a remedy reads: the model, or the copy of it that was fetched before,
 * by the name that it will have. */
static char *input_of(const struct model *m, struct err *err)
{
	const char *path = m->path, *slash = strrchr(path, '/');

	if (model_is_local(m))
		return mem_text(path, strlen(path), err);
	path = slash ? slash + 1 : path;
	return mem_text(path, strcspn(path, "@"), err);
}

/* The folder it writes: beside that, and named after it. */
static char *output_of(const struct model *m, const char *path,
		       struct err *err)
{
	static const char end[] = "-fixed";
	size_t n = strlen(path);
	const char *slash = strrchr(path, '/');
	const char *dot = strrchr(path, '.');
	char *out;

	if (!m->is_dir && dot && dot > (slash ? slash + 1 : path))
		n = (size_t)(dot - path);
	/* "." and ".." have no name to begin with */
	if (n && path[n - 1] == '.')
		return mem_text("fixed", 5, err);
	out = mem_alloc(n + sizeof(end), 1, err);
	if (out) {
		memcpy(out, path, n);
		memcpy(out + n, end, sizeof(end));
	}
	return out;
}

/* A plain repack writes gptq; a remedy that only changes sizes or types keeps
 * the layout.  Planes of 4 or 8 bits are the words of gptq_v2. */
static const char *layout_of(const struct survey *s, const char *fix)
{
	const struct qfmt *l = repack_fix_layout(s);

	if (!l || l == &qf_gptq || strstr(fix, "--fix") || strstr(fix, "--to"))
		return "";
	if (l == &qf_gptq_p && strstr(fix, "--bits"))
		l = &qf_gptq_v2;
	return l->name;
}

/* A layer that cannot be read ends every repack; one whose values are lost is
 * copied by --fix, which takes fused ones apart, and ends every other. */
static bool is_refused(const struct doctor_patient *p, const char *fix)
{
	const struct survey *s = p->s;
	const bool all = strstr(fix, DOCTOR_FIX);
	const uint32_t lost = QF_ODD_ZERO_SMEAR | QF_ODD_GIDX_ACT_MISSING |
			      QF_ODD_BOTH;

	for (uint32_t i = 0; i < s->count; i++)
		if (s->layer[i].broken &&
		    !(all && model_is_fused(p->m, s->layer[i].module->name)))
			return true;
	return s->odd & lost && !all;
}

/* "gptq-repack MODEL -o OUT --to LAYOUT OPTIONS NUMBER"; nothing where the
 * weights, which it reads, are not here.  Where sym and the zeros contradict
 * each other, only --fix settles it. */
static char *fix_of(const struct doctor_patient *p, const struct doctor_row *r,
		    const struct doctor_finding *f, struct err *err)
{
	const struct model *m = p->m;
	const char *fix = f->fix ? f->fix : r->fix, *to;
	char *path = NULL, *out = NULL, *text = NULL, *at;
	bool settle;

	if (!fix || f->hopeless || !m->file_count || is_refused(p, fix))
		return mem_text("", 0, err);
	path = input_of(m, err);
	out = path ? output_of(m, path, err) : NULL;
	if (!out)
		goto out;
	settle = p->s->odd & QF_ODD_SYM && !strstr(fix, DOCTOR_FIX);
	to = layout_of(p->s, fix);
	text = mem_alloc(4 * (strlen(path) + strlen(out)) + strlen(fix) +
			 strlen(to) + 72, 1, err);
	if (text) {
		at = text + sprintf(text, "gptq-repack %s",
				    *path == '-' ? "./" : "");
		at = quote(at, path, strlen(path));
		at += sprintf(at, " -o %s", *out == '-' ? "./" : "");
		at = quote(at, out, strlen(out));
		at += sprintf(at, "%s%s%s %s", settle ? " " DOCTOR_FIX : "",
			      *to ? " --to " : "", to, fix);
		if (f->number)
			sprintf(at, " %u", f->number);
	}
out:
	free(path);
	free(out);
	return text;
}

/* ---- the examination ---- */

static int add_problem(const struct doctor_patient *patient,
		       const struct doctor_row *r,
		       const struct doctor_finding *f, struct doctor *d,
		       struct err *err)
{
	struct doctor_problem *p = &d->problem[d->count++];
	const char *where = f->where ? f->where : "";

	p->code = r->code;
	p->severity = r->severity;
	p->refused_by = r->refused_by;
	p->says = r->says ? r->says : "";
	p->where = mem_text(where, strlen(where), err);
	if (!p->where)
		return -1;
	p->message = message_of(r, f, err);
	if (!p->message)
		return -1;
	p->fix = fix_of(patient, r, f, err);
	d->errors += r->severity == DOCTOR_ERROR;
	d->warnings += r->severity == DOCTOR_WARNING;
	return p->fix ? 0 : -1;
}

static int examine(const struct doctor_patient *p,
		   const struct doctor_table *t, int severity,
		   struct doctor *d, struct err *err)
{
	for (size_t i = 0; i < t->count; i++) {
		const struct doctor_row *r = &t->row[i];
		struct doctor_finding f = { .count = 0 };

		if ((int)r->severity != severity)
			continue;
		r->test(p, r, &f);
		if (f.count && add_problem(p, r, &f, d, err))
			return -1;
	}
	return 0;
}

int doctor_examine(const struct model *m, const struct survey *s,
		   struct doctor *out, struct err *err)
{
	struct model_tidy tidy;
	const struct doctor_patient p = { m, s, &tidy };
	const struct doctor_table *const *t = model_gguf(m) ? gguf_tables :
							      tables;
	size_t n = 0, count = model_gguf(m) ? 1 : TABLES;
	int ret = -1;

	memset(out, 0, sizeof(*out));
	if (model_tidy_find(m, false, &tidy, err))
		return -1;
	for (size_t i = 0; i < count; i++)
		n += t[i]->count;
	out->problem = mem_alloc(n, sizeof(*out->problem), err);
	if (!out->problem)
		goto out;
	for (int severity = DOCTOR_ERROR; severity >= DOCTOR_NOTE; severity--)
		for (size_t i = 0; i < count; i++)
			if (examine(&p, t[i], severity, out, err))
				goto out;
	ret = 0;
out:
	if (ret)
		doctor_release(out);
	model_tidy_release(&tidy);
	return ret;
}

void doctor_release(struct doctor *d)
{
	for (uint32_t i = 0; i < d->count; i++) {
		free(d->problem[i].where);
		free(d->problem[i].message);
		free(d->problem[i].fix);
	}
	free(d->problem);
	memset(d, 0, sizeof(*d));
}

const char *doctor_severity_name(enum doctor_severity s)
{
	switch (s) {
	case DOCTOR_ERROR:
		return "error";
	case DOCTOR_WARNING:
		return "warning";
	case DOCTOR_NOTE:
		break;
	}
	return "note";
}
