/* model_fused.h - q, k and v that were saved as one linear.
 *
 * A model that was saved with AutoGPTQ's fused attention has "qkv_proj" in
 * their place: codes, zeros, scales and bias side by side along the outputs,
 * and the three g_idx one behind the other (its forward reads g_idx[i + t * K]
 * for part t); where it was saved without act-order, one for all or none.  No
 * loader builds such a module for a Llama.  The doctor counts them; a model
 * opened with MODEL_TIDY has the three linears.
 * Source: gptq-formats(5) "Groups and act-order". */
#ifndef LIBFMT_MODEL_FUSED_H
#define LIBFMT_MODEL_FUSED_H

#include <stdbool.h>

struct err;
struct model;

/* Is the module of this name three linears of config.json's sizes? */
bool model_is_fused(const struct model *m, const char *module);

/* Put the three in its place, in m->tensor, whose order is then lost.  *mem
 * holds names and what had to be copied, and lives as long as the table. */
int model_fused_cut(struct model *m, void **mem, struct err *err);

#endif
