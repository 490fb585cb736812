/* model_tidy.h - tensors that a clean checkpoint does not hold, and names that
 * it does not use.  The doctor counts them; a model opened with MODEL_TIDY is
 * without them.
 *
 * Old writers kept buffers and zero biases, some loaders added markers, and
 * wrappers put a prefix in front of every name.  None of this changes a
 * weight, but loaders that compare names with their own list stop at it.
 * Source: gptq-formats(5) "Tensor names". */
#ifndef LIBFMT_MODEL_TIDY_H
#define LIBFMT_MODEL_TIDY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct model;
struct tensor;

enum model_stray {
	MODEL_STRAY_NONE = 0,
	MODEL_STRAY_INV_FREQ, /* rotary_emb.inv_freq: follows from the config */
	MODEL_STRAY_MARKER,   /* gptq_bits and its kin: the config's business */
	MODEL_STRAY_BIAS,     /* zeros, where the architecture has no bias */
	MODEL_STRAY_HEAD      /* lm_head of tied embeddings, bit for bit */
};

struct model_tidy {
	uint8_t *stray;     /* [tensor_count] enum model_stray */
	const char *prefix; /* what stands where "model." should, in front of
			       "layers.N"; borrowed from a name; NULL: all is
			       as it should be */
	size_t prefix_len;
	size_t wrap_len;    /* of it, what other names lose */
};

/* Biases are looked at; the head, which is large, only when `head` is set. */
int model_tidy_find(const struct model *m, bool head, struct model_tidy *out,
		    struct err *err);
void model_tidy_release(struct model_tidy *t); /* accepts a zeroed struct */

/* The bias of a linear that has none in this architecture.  Without a config
 * that is said of o_proj and the MLP only. */
bool model_bias_is_odd(const struct model *m, const char *module);

/* Drop and rename in m->tensor, whose order is then lost; *names holds the new
 * names and lives as long as the table. */
int model_tidy_apply(struct model *m, char **names, struct err *err);

#endif
