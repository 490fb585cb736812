/* diff_impl.h - between the files of diff only. */
#ifndef LIBFMT_DIFF_IMPL_H
#define LIBFMT_DIFF_IMPL_H

#include "diff.h"

/* diff_config.c: configs and other files into out->key. */
int diff_configs(const struct diff_job *job, struct diff *out,
		 struct err *err);

#endif
