/* diff.h - what differs between two checkpoints, whatever their layouts and
 * however they are cut into files.
 *
 * Compared are the configs key by key, a loader's other files byte by byte,
 * and every tensor by name: how it is stored, its shape, and its values, which
 * of a quantized linear are its dequantized weights.  All cores; each holds
 * one pair of layers in memory. */
#ifndef LIBFMT_DIFF_H
#define LIBFMT_DIFF_H

#include "survey.h"

#include <stdbool.h>
#include <stdint.h>

struct progress;

enum diff_state {
	DIFF_EQUAL = 0, /* all values have the same bits (-0 equals 0) */
	DIFF_ROUNDED,   /* those of one, rounded to the other's type, have */
	DIFF_VALUES,
	DIFF_SHAPE,
	DIFF_BYTES,     /* of a type without values: the bytes differ */
	DIFF_UNREAD,    /* could not be compared: `why` */
	DIFF_ONLY_A, DIFF_ONLY_B,
	DIFF_STATES
};

struct diff_tensor {
	char *name;              /* of a linear: with ".weight" */
	enum diff_state state;
	bool linear;             /* quantized in one of the two at least */
	bool stored;             /* they are stored differently */
	char a[80], b[80];       /* how: "gptq 4 bits, groups of 128", "F16";
				    "" where it is not */
	char why[256];
	uint64_t count, unequal;
	double max_abs;          /* largest |a - b| */
	uint64_t at;             /* where, in C order */
	double rel;              /* |a - b| / |a|, Frobenius */
};

/* A key of a config, or a whole file with key "". */
struct diff_key {
	const char *file;
	char *key;               /* "rope_scaling.factor" */
	char *a, *b;             /* as JSON; NULL: not there.  Of files:
				    "differs", or NULL */
};

struct diff {
	struct diff_tensor *tensor; /* by name, block 2 before block 10 */
	uint32_t tensors;
	uint32_t states[DIFF_STATES]; /* how many there are of each */
	uint32_t stored;         /* tensors that are stored differently */
	struct diff_key *key;
	uint32_t keys;
	uint32_t files_equal;    /* of a loader's other files */
	uint64_t differences;    /* tensors that differ in any way, and keys */
};

struct diff_side {
	const struct model *model;
	const struct survey *survey;
};

struct diff_job {
	struct diff_side a, b;
	uint32_t threads;
	const struct progress *progress;
};

int diff_models(const struct diff_job *job, struct diff *out,
		struct err *err);
void diff_release(struct diff *d); /* accepts a zeroed struct */
const char *diff_state_name(enum diff_state s); /* "equal" */

#endif
