/* convert.h - a whole model from one layout to another, proven. */
#ifndef TESTS_UNIT_CONVERT_H
#define TESTS_UNIT_CONVERT_H

#include "ok.h"

#include "../../libfmt/base/err.h"
#include "../../libfmt/model.h"
#include "../../libfmt/repack.h"

static inline void convert(const char *from, const char *to,
			   const struct qfmt *f, enum dtype dense)
{
	struct repack_report r;
	struct survey s;
	struct model *m;
	struct err err;

	OK(model_open(from, 0, &m, &err));
	OK(survey_model(m, &s, &err));
	struct repack_job job = { .model = m, .survey = &s, .to = f,
		.dense_type = dense, .out = to, .prove = true, .threads = 2 };
	OK(repack_run(&job, &r, &err));
	assert_true(r.proven > 0 && !r.rounded);
	survey_release(&s);
	model_close(m);
}

#endif
