/* digest.h - hashes of a checkpoint: of its bytes, or of what they mean.
 *
 * Of the bytes: XXH3-128 of each tensor as it is stored, and of the model over
 * "NAME\tTYPE\tSHAPE\tHASH\n" of all of them.  Files do not matter.
 *
 * Of the weights: the checkpoint as if it were dense and in f32, so layouts do
 * not matter either, as long as they hold the same numbers.  Each tensor, and
 * each quantized linear as "MODULE.weight" [out][in], is the XXH3-128 of its
 * values as little-endian f32 in C order, with -0 as 0 and every NaN as
 * 0x7fc00000; F16 and BF16 are widened, which is exact.  Tensors of other types
 * keep type and bytes.  The model's is that of "NAME\tTYPE\tSHAPE\tHASH\n" of
 * all, sorted by name in byte order, where TYPE is F32 of what was widened. */
#ifndef LIBFMT_DIGEST_H
#define LIBFMT_DIGEST_H

#include "base/hash.h"
#include "values.h"

struct progress;

enum digest_what { DIGEST_BYTES = 0, DIGEST_WEIGHTS };

struct digest {
	enum digest_what what;
	uint32_t count;
	const char **name;        /* [count]; of the bytes: in the order of the
				     model's table */
	char (*hash)[HASH_HEX];   /* [count] */
	char model[HASH_HEX];
	struct values_list list;  /* behind the names */
};

struct digest_job {
	const struct model *model;
	const struct survey *survey;
	enum digest_what what;
	uint32_t threads;         /* each holds one layer; hashes do not depend
				     on the number */
	const struct progress *progress;
};

int digest_model(const struct digest_job *job, struct digest *out,
		 struct err *err);
void digest_release(struct digest *d); /* accepts a zeroed struct */

#endif
