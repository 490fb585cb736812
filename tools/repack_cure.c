#include "repack_cure.h"

#include "ui.h"

#include "../libfmt/model.h"

#include <cjson/cJSON.h>
#include <string.h>

static int examine(const char *path, struct doctor *d, struct err *err)
{
	struct model *m = NULL;
	struct survey s = { .count = 0 };
	int ret = -1;

	if (model_open(path, MODEL_LENIENT, &m, err) ||
	    survey_model(m, &s, err) || doctor_examine(m, &s, d, err))
		goto out;
	ret = 0;
out:
	survey_release(&s);
	model_close(m);
	return ret;
}

int repack_cure_before(struct repack_cure *c, const char *model,
		       struct err *err)
{
	return examine(model, &c->before, err);
}

int repack_cure_after(struct repack_cure *c, const char *model,
		      struct err *err)
{
	return examine(model, &c->after, err);
}

static bool is_left(const struct repack_cure *c, const char *code)
{
	for (uint32_t i = 0; i < c->after.count; i++)
		if (!strcmp(c->after.problem[i].code, code))
			return true;
	return false;
}

/* One line for each problem, gone or not. */
void repack_cure_print(const struct repack_cure *c, struct ui *ui)
{
	for (uint32_t i = 0; i < c->before.count; i++) {
		const struct doctor_problem *p = &c->before.problem[i];

		if (!is_left(c, p->code))
			ui_note(ui, "mended %s: %s", p->code, p->message);
	}
	for (uint32_t i = 0; i < c->after.count; i++) {
		const struct doctor_problem *p = &c->after.problem[i];

		ui_note(ui, "left is %s %s: %s",
			doctor_severity_name(p->severity), p->code,
			p->message);
	}
}

void repack_cure_json(const struct repack_cure *c, struct cJSON *o)
{
	struct cJSON *mended = cJSON_AddArrayToObject(o, "mended");
	struct cJSON *left = cJSON_AddArrayToObject(o, "left");

	for (uint32_t i = 0; i < c->before.count; i++)
		if (!is_left(c, c->before.problem[i].code))
			cJSON_AddItemToArray(mended, cJSON_CreateString(
						c->before.problem[i].code));
	for (uint32_t i = 0; i < c->after.count; i++)
		cJSON_AddItemToArray(left, cJSON_CreateString(
					     c->after.problem[i].code));
}

void repack_cure_release(struct repack_cure *c)
{
	doctor_release(&c->before);
	doctor_release(&c->after);
}
