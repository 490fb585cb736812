/* calib.h - calibration windows: token ids [samples][seqlen].
 *
 * Sources: text (the whole file is encoded once, with what the tokenizer adds
 * in front, and cut into windows without overlap), .jsonl/.json lines (field
 * "text", encoded one by one, each with what the tokenizer adds in front, and
 * joined), any of them .zst or .gz; .ids (int32 little endian, taken as they
 * are), and .safetensors with one I32 or I64 tensor of ids.  Several files are
 * joined in the order given.
 *
 * per_line: each line of the text is a document of its own and gives one
 * window, its first tokens; lines with too few are left out.
 *
 * seed 0 takes the first windows of the text; another seed draws windows
 * without repetition, and with per_line also where in its line a window
 * begins.  Too little text is ERR_INPUT that says how much there is. */
#ifndef QUANT_CALIB_H
#define QUANT_CALIB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct tok;

struct calib {
	uint32_t samples, seqlen;
	uint32_t *id; /* [samples][seqlen], owned */
};

struct calib_how {
	const char *const *file;
	uint32_t files;
	uint32_t samples, seqlen;
	uint64_t seed;
	bool per_line;
	uint32_t vocab;        /* ids at or above are refused */
	const struct tok *tok; /* may be NULL when all files hold ids */
};

int gq_calib_load(const struct calib_how *how, struct calib *out,
		  struct err *err);
void gq_calib_release(struct calib *c);
/* All ids of one text or .ids file (for perplexity). */
int gq_calib_ids(const char *file, const struct tok *tok, uint32_t vocab,
		 uint32_t **ids, uint64_t *count, struct err *err);

#endif
