/* estimate.h - what it takes to run a checkpoint: memory for weights, cache and
 * activations, the cards that have as much, and what the weights would take
 * with other bits and group sizes.
 *
 * From headers and config.json alone.  Formulas (all in bytes):
 *
 *	weights      all tensors, as they lie in the files
 *	cache        blocks * 2 * key/value heads * head size, for each token
 *	             of each sequence, times the bytes of a value
 *	activations  EST_ROWS rows at a time, or one of each sequence if that
 *	             is more, in half precision: twice the hidden state, q k v,
 *	             what attention gives, gate and up; and a row of logits in
 *	             F32 for each sequence
 *	sizes        the linears that are quantized (of a dense checkpoint those
 *	             of the blocks) in the layout gptq, all else as it is
 *
 * Where no weights are here, a Llama's sizes follow from its configs.
 *
 * Not here: what a quantizer or this program's own runtime needs. */
#ifndef LIBFMT_ESTIMATE_H
#define LIBFMT_ESTIMATE_H

#include "survey.h"

#include <stdbool.h>
#include <stdint.h>

struct model;

/* Types of the cache that runtimes offer. */
enum est_cache { EST_F32 = 0, EST_F16, EST_8BIT, EST_4BIT, EST_CACHES };
struct est_cache_type {
	const char *name;    /* "F16" */
	uint32_t bits_x2;    /* twice the bits of a value, scales among them */
	const char *who;     /* "8-bit floats; vLLM's fp8" */
};
extern const struct est_cache_type est_cache_types[EST_CACHES];

/* Memory as the driver reports it, the least of those named. */
struct est_card {
	uint32_t gb, mib;    /* as sold, as reported */
	const char *names;
};
#define EST_CARDS 12
extern const struct est_card est_cards[EST_CARDS];
#define EST_RESERVE_MIB 768u /* of a card: driver, libraries, fragments */
#define EST_CARDS_MAX 64u    /* more in one machine is not usual */

#define EST_ROWS 512u        /* rows that pass through the model at a time */
#define EST_TOKENS 1024u     /* what `cache` is given for */
#define EST_CONTEXT 4096u    /* what a card must have room for, or the model's
				context when that is shorter */

#define EST_BITS 4           /* 2, 3, 4, 8 */
#define EST_GROUPS 4         /* 32, 64, 128, one per row */
extern const uint8_t est_bits[EST_BITS];
extern const int32_t est_groups[EST_GROUPS];

struct est_fit {
	uint32_t cards;      /* the least number that will do; 0: none will */
	uint64_t tokens;     /* of F16 cache on that many for each sequence,
				at most the model's context */
};

struct estimate {
	uint64_t weights;    /* 0: not known */
	bool shape_known;    /* cache, activations and context are filled */
	uint32_t sequences;  /* at once */
	uint64_t cache[EST_CACHES]; /* of EST_TOKENS tokens of one */
	uint64_t activations;
	uint32_t context;    /* the model's; 0: not said */
	uint32_t tokens;     /* EST_CONTEXT, or less */
	uint64_t total;      /* weights, activations, F16 cache of `tokens` for
				each sequence; 0: not known */
	struct est_fit fit[EST_CARDS]; /* where the total is known */
	bool sizes_known;    /* there are linears that could be quantized */
	uint64_t size[EST_BITS][EST_GROUPS];
};

/* `sequences` run together, at least 1. */
void estimate_model(const struct model *m, const struct survey *s,
		    uint32_t sequences, struct estimate *out);

#endif
