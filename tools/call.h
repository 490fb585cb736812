/* call.h - what several applets need of the libraries, with the words of the
 * command line. */
#ifndef TOOLS_CALL_H
#define TOOLS_CALL_H

#include "applets.h"

#include "../runtime/llm.h"

#include <stddef.h>

struct cJSON;
struct model;
struct qfmt;
struct tok;

/* Open MODEL to use its weights.  Where only a lenient reader takes it, a hint
 * names the command that mends it. */
int call_open_model(const struct call *c, struct model **out, struct err *err);

/* Open the device of --device; `kernel` may be NULL.  -v tells which and why.
 * Close it with call_device_close. */
int call_device(const struct call *c, const char *kernel, struct rt_dev *dev,
		struct err *err);
void call_device_close(struct rt_dev *dev); /* accepts a zeroed struct */

/* call_llm.c: what --gpu-layers says, "auto" or a number, for how->layers. */
int call_gpu_layers(const char *text, uint32_t *out, struct err *err);
/* Open how->dev and, beside a GPU, how->rest, unless they are open.  Close both
 * with call_device_close, after a failure too. */
int call_llm_devices(const struct call *c, const char *kernel,
		     struct llm_open *how, struct err *err);
/* -v tells which blocks run where, with which kernel, and why; `asked`: they
 * were given a number. */
void call_llm_say(const struct call *c, const struct llm *l, bool asked);
/* All devices in a line; may use buf. */
const char *call_llm_where(const struct llm *l, char buf[256]);

/* --seqlen as used: `asked` when it was given, else the smaller of `asked` and
 * the model's context. */
int call_seqlen(const struct call *c, int64_t asked, uint32_t context,
		uint32_t *out, struct err *err);

/* What --kv-type takes, and the type in the cache that a choice means. */
#define CALL_KV_TYPES "auto|f32|f16|q8"
enum dtype call_kv_type(int choice);

/* The layout that the OPT_CHOICE `option` names, NULL for "dense".  ERR_UNSUP
 * with the names that would do when it cannot be written. */
int call_layout(const struct call *c, const char *option,
		const struct qfmt **out, struct err *err);

/* Is there more in front of this ending? */
bool call_ends_in(const char *s, const char *tail);
/* 1 when the file holds token ids, so that no tokenizer is needed. */
int call_holds_ids(const char *file);

/* Would call_save be refused?  To be asked before the work; NULL is fine. */
int call_save_check(const char *path, struct err *err);
/* Write a whole file, atomically, over an old one. */
int call_save(const char *path, const char *text, size_t n, struct err *err);
/* The same with a JSON tree, which is freed. */
int call_save_json(const char *path, struct cJSON *j, struct err *err);

#endif
