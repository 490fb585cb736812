/* doctor.h - the table of known problems: how each is noticed, how bad it is,
 * who refuses such a checkpoint and with which words, and what mends it.  The
 * words a user reads about a problem stand in doctor_*.c and nowhere else. */
#ifndef LIBFMT_DOCTOR_H
#define LIBFMT_DOCTOR_H

#include "survey.h"

enum doctor_severity { DOCTOR_NOTE = 0, DOCTOR_WARNING, DOCTOR_ERROR };

struct doctor_problem {
	const char *code;     /* "gidx-missing" */
	enum doctor_severity severity;
	char *where;          /* module, file or "" */
	char *message;        /* one sentence, lower case, no full stop */
	const char *refused_by; /* "AutoGPTQ, TGI" or "": who refuses it or
				   reads it wrongly, parted by ", " */
	const char *says;     /* the words of one of them, shortened, or "" */
	char *fix;            /* a command line for a shell, or "" */
};

struct doctor {
	struct doctor_problem *problem; /* most severe first */
	uint32_t count, errors, warnings; /* the rest are notes */
};

/* Look at headers, and at tensors of a few kB.  One row per problem kind:
 * `where` names the first place and the message says how many there are. */
int doctor_examine(const struct model *m, const struct survey *s,
		   struct doctor *out, struct err *err);
void doctor_release(struct doctor *d);
const char *doctor_severity_name(enum doctor_severity s); /* "error" */

#endif
