/* gptq-run: text from a model.
 *
 * run_prompt.c makes the ids of the prompt, run_gen.c takes them through the
 * model and prints text as it comes; here are the options, the size of the
 * context, and the result. */
#include "run.h"

#include "../libfmt/base/json.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#define LATER "is not in this version"
#define OPT_ARGS struct run_args

static const struct opt options[] = {
	{ .kind = OPT_HEAD, .help = "Prompt (standard input when none is "
		"given)" },
	{ AT_TEXT(prompt), .letter = 'p', .name = "prompt", .arg = "TEXT",
	  .help = "the prompt" },
	{ AT_TEXT(file), .letter = 'f', .name = "file", .arg = "FILE",
	  .help = "the prompt is in FILE" },
	{ AT_TEXT(ids), .name = "ids", .arg = "1,2,3",
	  .help = "exact token ids, nothing is added" },
	{ AT_UNFLAG(bos), .name = "no-bos",
	  .help = "do not add what the tokenizer puts in front",
	  .def = "1" },

	{ .kind = OPT_HEAD, .help = "Generation" },
	{ AT_INT(tokens), .letter = 'n', .name = "tokens", .arg = "N",
	  .help = "most tokens to generate, -1: what the context holds",
	  .def = "128", .lo = -1, .hi = 1 << 30 },
	{ AT_INT(context), .letter = 'c', .name = "context", .arg = "N",
	  .help = "positions to make room for (default: what is needed, at "
		"most the model's)", .lo = 1, .hi = 1 << 30 },
	{ AT_REAL(temp), .name = "temp", .arg = "F",
	  .help = "temperature, 0: always the likeliest token",
	  .def = "0.8", .lo = 0, .hi = 100 },
	{ AT_INT(top_k), .name = "top-k", .arg = "N",
	  .help = "among the N likeliest tokens, 0: all",
	  .def = "40", .lo = 0, .hi = 1 << 30 },
	{ AT_REAL(top_p), .name = "top-p", .arg = "F",
	  .help = "among the likeliest that reach this share",
	  .def = "0.95", .lo = 0, .hi = 1 },
	{ AT_REAL(min_p), .name = "min-p", .arg = "F",
	  .help = "among those at least F times as likely as the best",
	  .def = "0", .lo = 0, .hi = 1 },
	{ AT_REAL(repeat_penalty), .name = "repeat-penalty", .arg = "F",
	  .help = "on tokens of the last 64, 1: none",
	  .def = "1", .lo = 0.01, .hi = 100 },
	{ AT_INT(seed), .name = "seed", .arg = "N",
	  .help = "equal seeds give equal text", .def = "0",
	  .lo = 0, .hi = 9007199254740991.0 },
	{ AT_LIST(stop), .name = "stop", .arg = "TEXT",
	  .help = "end in front of TEXT; repeatable" },
	{ AT_FLAG(ignore_eos), .name = "ignore-eos",
	  .help = "go on behind the end token" },
	{ AT_TEXT(kernel), .name = "kernel", .arg = "NAME",
	  .help = "force a kernel (generic, avx2, avx512)" },

	{ .kind = OPT_HEAD, .help = "Other output" },
	{ AT_FLAG(tokenize), .name = "tokenize",
	  .help = "print the token ids of the text" },
	{ AT_FLAG(detokenize), .name = "detokenize",
	  .help = "print the text of token ids on standard input" },
	{ AT_TEXT(logits), .name = "logits", .arg = "FILE",
	  .help = "write the logits of every prompt position as safetensors" },
	{ AT_FLAG(chat), .name = "chat", .help = "interactive chat",
	  .absent = LATER "; -p continues a text" },
	{ AT_TEXT(system), .name = "system", .arg = "TEXT",
	  .help = "the system prompt of --chat",
	  .absent = LATER "; -p continues a text" },
	{ AT_FLAG(bench), .name = "bench", .help = "measure the speed",
	  .absent = LATER "; -v tells the speed of a run" },
	{ AT_INT(pp), .name = "pp", .arg = "N",
	  .help = "prompt tokens of --bench", .lo = 1, .hi = 1 << 30,
	  .absent = LATER "; -v tells the speed of a run" },
	{ AT_INT(tg), .name = "tg", .arg = "N",
	  .help = "generated tokens of --bench", .lo = 1,
	  .hi = 1 << 30, .absent = LATER "; -v tells the speed of a run" },
	{ AT_INT(batch), .name = "batch", .arg = "N",
	  .help = "sequences of --bench", .lo = 1, .hi = 1 << 30,
	  .absent = LATER "; -v tells the speed of a run" },
	{ AT_TEXT(batch_file), .name = "batch-file", .arg = "FILE",
	  .help = "a prompt a line, answers as JSONL",
	  .absent = LATER "; call the program once for each prompt" },
	{ .kind = OPT_END }
};

/* Options that exclude each other. */
static int check_args(const struct run_args *a, struct err *err)
{
	int sources = (a->prompt != NULL) + (a->file != NULL) +
		      (a->ids != NULL);

	if (sources > 1)
		return err_set(err, ERR_USAGE, "--prompt, --file and --ids "
			       "exclude each other");
	if (a->tokenize && a->detokenize)
		return err_set(err, ERR_USAGE,
			       "--tokenize and --detokenize exclude each "
			       "other");
	if ((a->tokenize && a->ids) || (a->detokenize && sources))
		return err_set(err, ERR_USAGE, "%s does not go with %s",
			       a->tokenize ? "--tokenize" : "--detokenize",
			       a->ids ? "--ids" : a->file ? "--file" :
							    "--prompt");
	for (uint32_t i = 0; i < a->stop.count; i++)
		if (!a->stop.item[i][0])
			return err_set(err, ERR_USAGE,
				       "--stop: the text is empty");
	return 0;
}

/* How many positions to make room for: by default just what is needed, since a
 * cache for the full context of a large model takes gigabytes. */
static int choose_context(const struct run *r, uint32_t most, uint32_t *out,
			  struct err *err)
{
	const struct run_args *a = r->args;
	uint64_t want = r->prompt_count + (uint64_t)a->tokens;
	bool given = opt_given(r->call->opt, "context");

	*out = given ? (uint32_t)a->context :
	       a->tokens < 0 || want > most ? most : (uint32_t)want;
	if (given && *out > most)
		ui_warn(r->call->ui, "a context of %u is beyond the %u tokens "
			"the model was made for", *out, most);
	if (r->prompt_count <= *out)
		return 0;
	return err_set(err, ERR_UNSUP, "the prompt has %zu tokens, the "
		       "context holds %u%s", r->prompt_count, *out,
		       given ? "" : " (-c makes room for more)");
}

/* The context is chosen before the weights are read: a prompt that is too long
 * should not wait for them. */
static int load(struct run *r, struct err *err)
{
	struct llm_open how = { .progress = &r->call->ui->progress };
	struct llama_config cfg;

	if (!r->model->config)
		return err_set(err, ERR_INPUT, "%s: no config.json, so the "
			       "architecture is not known", r->call->model);
	if (llama_config_read(r->model->config, NULL, &cfg, err))
		return err_ctx(err, "%s", r->call->model);
	if (choose_context(r, cfg.max_pos, &how.context, err) ||
	    call_device(r->call, r->args->kernel, &r->dev, err))
		return -1;
	how.dev = r->dev;
	return llm_open(r->model, &how, &r->llm, err);
}

/* ---- the result ---- */

/* Tokens per second; null where nothing was measured. */
static void add_rate(struct cJSON *o, const char *key, double n, double s)
{
	if (n > 0 && s > 0)
		cJSON_AddNumberToObject(o, key, n / s);
	else
		cJSON_AddNullToObject(o, key);
}

/* Keys are those of the contract. */
static int print_json(const struct run *r, struct err *err)
{
	struct cJSON *o = cJSON_CreateObject(), *j;

	cJSON_AddItemToObject(o, "text", r->text.len ?
			      ui_json_string(r->text.data, r->text.len) :
			      cJSON_CreateString(""));
	j = cJSON_AddArrayToObject(o, "ids");
	for (size_t i = 0; i < r->count; i++)
		cJSON_AddItemToArray(j, cJSON_CreateNumber(r->id[i]));
	cJSON_AddNumberToObject(o, "prompt_tokens", (double)r->prompt_count);
	cJSON_AddNumberToObject(o, "generated_tokens", (double)r->count);
	ui_json_text(o, "stop_reason", r->stop_reason);
	ui_json_text(o, "kernel", llm_kernel(r->llm));
	ui_json_text(o, "device", r->dev.api->describe(r->dev.be));
	j = cJSON_AddObjectToObject(o, "seconds");
	cJSON_AddNumberToObject(j, "load", r->load);
	cJSON_AddNumberToObject(j, "prefill", r->prefill);
	cJSON_AddNumberToObject(j, "decode", r->decode);
	j = cJSON_AddObjectToObject(o, "tokens_per_second");
	add_rate(j, "prefill", (double)r->prompt_count, r->prefill);
	add_rate(j, "decode", r->steps, r->decode);
	return ui_json(stdout, o, err);
}

/* With -v: the same numbers for people, on stderr. */
static void print_speed(const struct run *r)
{
	struct ui *ui = r->call->ui;

	ui_detail(ui, "kernel %s, loaded in %.2f s", llm_kernel(r->llm),
		  r->load);
	ui_detail(ui, "prompt: %zu tokens in %.3f s (%.1f/s)",
		  r->prompt_count, r->prefill, r->prefill > 0 ?
		  (double)r->prompt_count / r->prefill : 0);
	ui_detail(ui, "generated: %zu tokens, %u steps in %.3f s (%.1f/s), "
		  "end: %s", r->count, r->steps, r->decode, r->decode > 0 ?
		  r->steps / r->decode : 0, r->stop_reason);
}

/* Prompt first: a mistake in it should not wait for the weights. */
static int work(struct run *r, struct err *err)
{
	double t0 = ui_now(), t1, t2;

	if (model_open(r->call->model, 0, &r->model, err) ||
	    run_prompt(r, err) || load(r, err))
		return -1;
	t1 = ui_now();
	if (run_prefill(r, err))
		return -1;
	t2 = ui_now();
	r->load = t1 - t0;
	r->prefill = t2 - t1;
	ui_done(r->call->ui);
	if (run_generate(r, err))
		return -1;
	r->decode = ui_now() - t2;
	ui_done(r->call->ui);
	if (r->call->ui->json && print_json(r, err))
		return -1;
	print_speed(r);
	return 0;
}

static int run_run(const struct call *c, struct err *err)
{
	const struct run_args *a = c->args;
	struct run r = { .call = c, .args = a };
	int ret;

	if (check_args(a, err))
		return -1;
	if (a->tokenize)
		return run_tokenize(c, err);
	if (a->detokenize)
		return run_detokenize(c, err);
	ret = work(&r, err);
	free(r.text.data);
	free(r.logits);
	free(r.id);
	free(r.prompt);
	llm_close(r.llm);
	call_device_close(&r.dev);
	tok_close(r.tok);
	model_close(r.model);
	return ret;
}

const struct applet applet_run = {
	.name = "run",
	.summary = "Run a model: text from a prompt, token ids, logits",
	.usage = "MODEL [-p TEXT] [options]",
	.examples = {
		"gptq-run llama-4bit -p 'Once upon a time' -n 40",
		"gptq-run llama-4bit --tokenize < text.txt"
	},
	.options = options,
	.args_size = sizeof(struct run_args),
	.run = run_run
};
