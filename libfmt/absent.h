/* absent.h - a checkpoint of which only the small files are here: weights that
 * a clone left as Git-LFS pointers, or none at all. */
#ifndef LIBFMT_ABSENT_H
#define LIBFMT_ABSENT_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct model;

struct absent {
	bool is;          /* weights are missing, as `pointers` or `why` says */
	uint32_t pointers;
	uint64_t bytes;   /* of the files that the pointers stand for */
	char first[128];  /* the first one's name */
	char why[508];    /* without pointers: what was looked for in vain */
};

/* m was opened with MODEL_NO_WEIGHTS, or its weights are all there: then it
 * is not absent.  A weight file that is here and broken is not absent. */
int absent_find(const struct model *m, struct absent *out, struct err *err);

#endif
