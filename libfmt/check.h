/* check.h - is a checkpoint well-formed to the last byte?  The `structure`
 * check of gptq-verify.
 *
 * Everything survey and doctor find, and on the data: every quantized layer is
 * read into the neutral layer and its invariants hold (codes, zeros, scales
 * finite, g_idx in range), every dense tensor is free of NaN and infinity,
 * every shape is what the architecture asks for, what PyTorch packed has the
 * checksums that it gave. */
#ifndef LIBFMT_CHECK_H
#define LIBFMT_CHECK_H

#include "doctor.h"

struct progress;

struct check_fault {
	char *where;    /* tensor or module */
	char *message;  /* what is wrong, what was expected */
	bool warning;   /* legal to decode, but no writer makes it */
};

struct check {
	struct check_fault *fault;
	uint32_t count, errors, warnings;
	uint32_t layers, tensors;   /* looked at */
};

/* Faults are the result, not an error; err is for what stops the check. */
int check_structure(const struct model *m, const struct survey *s,
		    const struct progress *p, struct check *out,
		    struct err *err);
void check_release(struct check *c);

#endif
