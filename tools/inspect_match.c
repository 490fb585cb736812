/* gptq-inspect --match: which names are shown. */
#include "inspect.h"

#include "../libfmt/base/mem.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

struct inspect_match {
	pcre2_code *re;
	pcre2_match_data *md;
};

int inspect_match_open(struct inspect *r, const char *pattern,
		       struct err *err)
{
	struct inspect_match *m;
	PCRE2_UCHAR text[128];
	PCRE2_SIZE at;
	int code;

	if (!pattern)
		return 0;
	m = r->match = mem_alloc(1, sizeof(*m), err);
	if (!m)
		return -1;
	m->re = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, 0,
			      &code, &at, NULL);
	if (!m->re) {
		pcre2_get_error_message(code, text, sizeof(text));
		return err_set(err, ERR_USAGE, "--match: '%s': %s", pattern,
			       (const char *)text);
	}
	m->md = pcre2_match_data_create_from_pattern(m->re, NULL);
	return m->md ? 0 : err_set(err, ERR_RESOURCE, "not enough memory");
}

void inspect_match_close(struct inspect_match *m)
{
	if (!m)
		return;
	pcre2_match_data_free(m->md);
	pcre2_code_free(m->re);
	free(m);
}

/* A search, not a match from the start: "--match q_proj" is what people type.
 * Without an expression everything matches. */
bool inspect_shows(const struct inspect *r, const char *name)
{
	return !r->match ||
	       pcre2_match(r->match->re, (PCRE2_SPTR)name,
			   PCRE2_ZERO_TERMINATED, 0, 0, r->match->md,
			   NULL) >= 0;
}

int inspect_narrow(struct inspect *r, struct ui *ui, struct err *err)
{
	bool any = false;

	r->show_layer = mem_alloc(r->survey.count, sizeof(bool), err);
	r->show_tensor = mem_alloc(r->model->tensor_count, sizeof(bool), err);
	if (!r->show_layer || !r->show_tensor)
		return -1;
	for (uint32_t i = 0; i < r->survey.count; i++)
		any |= r->show_layer[i] =
			inspect_shows(r, r->survey.layer[i].module->name);
	for (uint32_t i = 0; i < r->model->tensor_count; i++)
		any |= r->show_tensor[i] =
			inspect_shows(r, r->model->tensor[i].name);
	/* (an empty list in a document speaks for itself) */
	if (r->match && !any && !ui->json)
		ui_warn(ui, "--match: no tensor or layer has such a name");
	return 0;
}
