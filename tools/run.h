/* run.h - one call of gptq-run: a prompt in, text out. */
#ifndef TOOLS_RUN_H
#define TOOLS_RUN_H

#include "../libfmt/model.h"
#include "../runtime/chat.h"
#include "../runtime/llm.h"
#include "../runtime/sample.h"
#include "../runtime/tok.h"
#include "call.h"

#include <stdbool.h>

struct cJSON;

struct run_args {
	const char *prompt, *file, *ids, *system, *kernel, *logits, *batch_file;
	const char *gpu_layers;
	const char *chat_template;
	struct opt_list stop;
	int kv_type;
	int64_t tokens, context, top_k, seed, pp, tg, batch, depth,
		runs;
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
	struct rt_dev dev, rest;  /* rest: the CPU beside a GPU */
	struct llm *llm;
	struct rt_chat *chat;     /* NULL: text goes in and out as it is */
	const char *stop;         /* the form's stop text, or NULL */
	struct sampler *sampler;
	bool quiet;               /* the text is not printed as it comes */
	struct progress progress; /* the ui's, or one of a larger work */
	uint32_t *prompt;
	size_t prompt_count;
	int64_t most;             /* tokens to generate; -1: no limit */
	uint32_t *id;             /* generated */
	size_t count, cap;
	float *logits;            /* [vocab], behind the last token */
	struct be_top best[BE_TOP_MAX]; /* of them, where they are enough */
	uint32_t bests;           /* 0: logits are whole */
	struct run_text text;
	const char *stop_reason;  /* "eos", "length", "stop", "context" */
	uint32_t steps;           /* of decoding */
	double load, prefill, decode; /* seconds */
	double start, weights;    /* parts of load: the device, the weights */
};

/* run.c: the device and the weights, with as many positions as `context` says
 * (`most`: what the model was made for).  r->model is open. */
int run_load(struct run *r, int (*context)(const struct run *r, uint32_t most,
					   uint32_t *out, struct err *err),
	     struct err *err);

/* run_prompt.c: the prompt's text from -p, -f or stdin.  `exact`: byte for
 * byte; else one newline at the end of a file is not part of it. */
int run_read_text(const struct run_args *a, bool exact, char **text,
		  size_t *len, struct err *err);
/* Fill r->prompt from --ids or the prompt's text. */
int run_prompt(struct run *r, struct err *err);
int run_tokenize(struct run *r, struct err *err);
int run_detokenize(const struct call *c, struct err *err);

/* run_gen.c: the prompt through the model (and --logits), then token by
 * token; text goes to stdout as it comes, unless --json. */
int run_prefill(struct run *r, struct err *err);
int run_generate(struct run *r, struct err *err);

/* run_chat.c: --chat, a conversation, and the form of one message. */
int run_chat(struct run *r, struct err *err);
int run_chat_open(struct run *r, struct err *err);
/* A template takes text that ends in NUL: ERR_INPUT when that cuts it. */
int run_chat_check(const char *text, size_t len, struct err *err);
int run_chat_prompt(const struct run *r, const char *user, uint32_t **ids,
		    size_t *count, struct err *err);
/* run_batch.c: --batch-file. */
int run_batch(struct run *r, struct err *err);
/* run.c: text, ids, counts and stop_reason of an answer, as --json has them. */
void run_add_answer(struct cJSON *o, const struct run *r);

/* run_bench.c: --bench, from opening the model to printing the result. */
int run_bench(struct run *r, struct err *err);

#endif
