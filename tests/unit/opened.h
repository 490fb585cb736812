/* opened.h - opening checkpoints in a test: how it must end. */
#ifndef TESTS_UNIT_OPENED_H
#define TESTS_UNIT_OPENED_H

#include "../../libfmt/base/err.h"
#include "../../libfmt/model.h"
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static inline void says(const struct err *err, int code, const char *text)
{
	if (err->code != code || !strstr(err->msg, text))
		fail_msg("\"%s\" (%d) does not say \"%s\" (%d)", err->msg,
			 err->code, text, code);
}

/* Opening must fail so. */
static inline void refused(const char *path, int code, const char *text)
{
	struct model *m = NULL;
	struct err err;

	if (!model_open(path, 0, &m, &err))
		fail_msg("%s was opened (expected \"%s\")", path, text);
	assert_null(m);
	says(&err, code, text);
}

static inline struct model *opened(const char *path)
{
	struct model *m = NULL;
	struct err err;

	if (model_open(path, 0, &m, &err))
		fail_msg("%s", err.msg);
	return m;
}

static inline void write_text(struct scratch *s, const char *name,
			      const char *text)
{
	assert_non_null(scratch_write(s, name, text, strlen(text)));
}

#endif
