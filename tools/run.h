/* run.h - one call of gptq-run: a prompt in, text out. */
#ifndef TOOLS_RUN_H
#define TOOLS_RUN_H

#include "../libfmt/model.h"
#include "../runtime/llm.h"
#include "../runtime/tok.h"
#include "call.h"

#include <stdbool.h>

struct run_args {
	const char *prompt, *file, *ids, *system, *kernel, *logits, *batch_file;
	struct opt_list stop;
	int64_t tokens, context, top_k, seed, pp, tg, batch;
	double temp, top_p, min_p, repeat_penalty;
	bool ignore_eos, tokenize, detokenize, bos, chat, bench;
};

/* Text that was generated, of which the first `shown` bytes are out: what may
 * be the beginning of a stop text is held back. */
struct run_text {
	char *data;
	size_t len, cap, shown;
};

struct run {
	const struct call *call;
	const struct run_args *args;
	struct model *model;
	struct tok *tok;          /* NULL: --ids without tokenizer files */
	struct rt_dev dev;
	struct llm *llm;
	uint32_t *prompt;
	size_t prompt_count;
	uint32_t *id;             /* generated */
	size_t count, cap;
	float *logits;            /* [vocab], behind the last token */
	struct run_text text;
	const char *stop_reason;  /* "eos", "length", "stop", "context" */
	uint32_t steps;           /* of decoding */
	double load, prefill, decode; /* seconds */
};

/* run_prompt.c: the prompt's text from -p, -f or stdin.  `exact`: byte for
 * byte; else one newline at the end of a file is not part of it. */
int run_read_text(const struct run_args *a, bool exact, char **text,
		  size_t *len, struct err *err);
/* Fill r->prompt from --ids or the prompt's text. */
int run_prompt(struct run *r, struct err *err);
int run_tokenize(const struct call *c, struct err *err);
int run_detokenize(const struct call *c, struct err *err);

/* run_gen.c: the prompt through the model (and --logits), then token by
 * token; text goes to stdout as it comes, unless --json. */
int run_prefill(struct run *r, struct err *err);
int run_generate(struct run *r, struct err *err);

#endif
