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

#define OPT_ARGS struct run_args

/* Modes without the model, and those without text from it. */
#define NO_MODEL "tokenize|detokenize"
#define NO_TEXT "bench|" NO_MODEL

static const struct opt options[] = {
	{ .kind = OPT_HEAD, .help = "Prompt (standard input when none is "
		"given)" },
	{ AT_TEXT(prompt), .letter = 'p', .name = "prompt", .arg = "TEXT",
	  .help = "the prompt" },
	{ AT_TEXT(file), .letter = 'f', .name = "file", .arg = "FILE",
	  .help = "the prompt is in FILE",
	  .without = "prompt" },
	{ AT_TEXT(ids), .name = "ids", .arg = "1,2,3",
	  .help = "exact token ids, nothing is added",
	  .without = "prompt|file" },
	{ AT_UNFLAG(bos), .name = "no-bos",
	  .help = "do not add what the tokenizer puts in front",
	  .def = "1" },
	{ AT_TEXT(batch_file), .name = "batch-file", .arg = "FILE",
	  .help = "a prompt a line, or JSONL; answers as JSONL",
	  .without = "prompt|file|ids|logits" },

	{ .kind = OPT_HEAD, .help = "Chat" },
	{ AT_FLAG(chat), .name = "chat",
	  .help = "answer messages in the model's chat template",
	  .without = "ids|logits" },
	{ AT_TEXT(system), .name = "system", .arg = "TEXT",
	  .help = "the system text of --chat",
	  .needs = "chat" },
	{ AT_TEXT(chat_template), .name = "chat-template", .arg = "NAME",
	  .help = "that template instead of the model's",
	  .needs = "chat" },

	{ .kind = OPT_HEAD, .help = "Generation" },
	{ AT_INT(tokens), .letter = 'n', .name = "tokens", .arg = "N",
	  .help = "most tokens to generate, -1: what the context holds",
	  .def = "128", .lo = -1, .hi = 1 << 30,
	  .idle = NO_TEXT },
	{ AT_INT(context), .letter = 'c', .name = "context", .arg = "N",
	  .help = "positions to make room for (default: what is needed, at "
		"most the model's)", .lo = 1, .hi = 1 << 30,
	  .idle = NO_TEXT },
	{ AT_CHOICE(kv_type), .name = "kv-type", .arg = "TYPE",
	  .help = "numbers in the cache: auto (f32 on the CPU, f16 on a GPU)",
	  .def = "auto", .names = CALL_KV_TYPES,
	  .idle = NO_MODEL },
	{ AT_TEXT(gpu_layers), .name = "gpu-layers", .arg = "N",
	  .help = "blocks on the GPU, the rest on the CPU",
	  .def = "auto",
	  .idle = NO_MODEL },
	{ AT_REAL(temp), .name = "temp", .arg = "F",
	  .help = "temperature, 0: the likeliest token",
	  .def = "0.8", .lo = 0, .hi = 100,
	  .idle = NO_TEXT },
	{ AT_INT(top_k), .name = "top-k", .arg = "N",
	  .help = "among the N likeliest tokens, 0: all",
	  .def = "40", .lo = 0, .hi = 1 << 30,
	  .idle = NO_TEXT },
	{ AT_REAL(top_p), .name = "top-p", .arg = "F",
	  .help = "among the likeliest with this share",
	  .def = "0.95", .lo = 0, .hi = 1,
	  .idle = NO_TEXT },
	{ AT_REAL(min_p), .name = "min-p", .arg = "F",
	  .help = "at least F times as likely as the best",
	  .def = "0", .lo = 0, .hi = 1,
	  .idle = NO_TEXT },
	{ AT_REAL(repeat_penalty), .name = "repeat-penalty", .arg = "F",
	  .help = "on tokens of the last 64, 1: none",
	  .def = "1", .lo = 0.01, .hi = 100,
	  .idle = NO_TEXT },
	{ AT_INT(seed), .name = "seed", .arg = "N",
	  .help = "equal seeds give equal text", .def = "0",
	  .lo = 0, .hi = 9007199254740991.0,
	  .idle = NO_TEXT },
	{ AT_LIST(stop), .name = "stop", .arg = "TEXT",
	  .help = "end in front of TEXT; repeatable",
	  .idle = NO_TEXT },
	{ AT_FLAG(ignore_eos), .name = "ignore-eos",
	  .help = "go on behind the end token",
	  .idle = NO_TEXT },
	{ AT_TEXT(kernel), .name = "kernel", .arg = "NAME",
	  .help = "force a kernel (generic, avx2, avx512, vnni)",
	  .idle = NO_MODEL },

	{ .kind = OPT_HEAD, .help = "Other output" },
	{ AT_FLAG(tokenize), .name = "tokenize",
	  .help = "print the token ids of the text",
	  .without = "detokenize|ids|batch-file|logits" },
	{ AT_FLAG(detokenize), .name = "detokenize",
	  .help = "print the text of token ids on standard input",
	  .without = "prompt|file|ids|batch-file|chat|logits" },
	{ AT_TEXT(logits), .name = "logits", .arg = "FILE",
	  .help = "logits of every prompt position as safetensors" },
	{ AT_FLAG(bench), .name = "bench",
	  .help = "measure prefill, decoding and the memory",
	  .without = "prompt|file|ids|batch-file|chat|tokenize|"
		"detokenize|logits" },
	{ AT_INT(pp), .name = "pp", .arg = "N", .def = "512",
	  .help = "prompt tokens of --bench, 0: none",
	  .lo = 0, .hi = 1 << 30,
	  .serves = "bench" },
	{ AT_INT(tg), .name = "tg", .arg = "N", .def = "128",
	  .help = "decoded tokens of --bench, 0: none",
	  .lo = 0, .hi = 1 << 30,
	  .serves = "bench" },
	{ AT_INT(depth), .name = "depth", .arg = "N", .def = "0",
	  .help = "positions in front of both", .lo = 0, .hi = 1 << 30,
	  .serves = "bench" },
	{ AT_INT(runs), .name = "runs", .arg = "N", .def = "3",
	  .help = "times each is run; the median counts",
	  .lo = 1, .hi = 1000,
	  .serves = "bench" },
	{ AT_INT(batch), .name = "batch", .arg = "N", .def = "1",
	  .help = "sequences of --bench at once", .lo = 1, .hi = 4096,
	  .serves = "bench" },
	{ .kind = OPT_END }
};

static int check_args(const struct run_args *a, struct err *err)
{
	uint32_t layers;

	for (uint32_t i = 0; i < a->stop.count; i++)
		if (!a->stop.item[i][0])
			return err_set(err, ERR_USAGE,
				       "--stop: the text is empty");
	return call_gpu_layers(a->gpu_layers, &layers, err) ||
	       call_save_check(a->logits, err) ? -1 : 0;
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
	if (r->prompt_count <= *out)
		return 0;
	return err_set(err, ERR_UNSUP, "the prompt has %zu tokens, the "
		       "context holds %u%s", r->prompt_count, *out,
		       given ? "" : " (-c makes room for more)");
}

static int open_devices(struct run *r, struct llm_open *how, struct err *err)
{
	int ret;

	if (call_gpu_layers(r->args->gpu_layers, &how->layers, err))
		return -1;
	ret = call_llm_devices(r->call, r->args->kernel, how, err);
	r->dev = how->dev;
	r->rest = how->rest;
	return ret;
}

/* The context is chosen before the weights are read: a prompt that is too long
 * should not wait for them. */
int run_load(struct run *r, int (*context)(const struct run *r, uint32_t most,
					   uint32_t *out, struct err *err),
	     struct err *err)
{
	struct llm_open how = { .progress = &r->progress };
	double t0 = ui_now(), t1;
	struct llama_config cfg;

	if (!r->model->config)
		return err_set(err, ERR_INPUT, "%s: no config.json, so the "
			       "architecture is not known", r->call->model);
	if (llama_config_read(r->model->config, NULL, &cfg, err))
		return err_ctx(err, "%s", r->call->model);
	if (context(r, cfg.max_pos, &how.context, err) ||
	    open_devices(r, &how, err))
		return -1;
	t1 = ui_now();
	how.kv_type = call_kv_type(r->args->kv_type);
	how.sequences = r->args->bench ? (uint32_t)r->args->batch : 1;
	if (llm_open(r->model, &how, &r->llm, err))
		return -1;
	r->start = t1 - t0;
	r->weights = ui_now() - t1;
	call_llm_say(r->call, r->llm, how.layers != LLM_FIT);
	if (how.context > cfg.max_pos)
		ui_warn(r->call->ui, "a context of %u is beyond the %u tokens "
			"the model was made for", how.context, cfg.max_pos);
	return 0;
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

void run_add_answer(struct cJSON *o, const struct run *r)
{
	struct cJSON *list;

	cJSON_AddItemToObject(o, "text", r->text.len ?
			      ui_json_string(r->text.data, r->text.len) :
			      cJSON_CreateString(""));
	list = cJSON_AddArrayToObject(o, "ids");
	for (size_t i = 0; i < r->count; i++)
		cJSON_AddItemToArray(list, cJSON_CreateNumber(r->id[i]));
	cJSON_AddNumberToObject(o, "prompt_tokens", (double)r->prompt_count);
	cJSON_AddNumberToObject(o, "generated_tokens", (double)r->count);
	ui_json_text(o, "stop_reason", r->stop_reason);
}

/* Keys are those of the contract. */
static int print_json(const struct run *r, struct err *err)
{
	struct cJSON *o = cJSON_CreateObject(), *j;
	char where[256];

	run_add_answer(o, r);
	ui_json_text(o, "kernel", llm_kernel(r->llm));
	ui_json_text(o, "device", call_llm_where(r->llm, where));
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

	const char *narrow = llm_narrow(r->llm);

	ui_detail(ui, "kernel %s, loaded in %.2f s", llm_kernel(r->llm),
		  r->load);
	ui_detail(ui, "a decoding step: %s%s",
		  narrow ? "block by block, because of " : "one call",
		  narrow ? narrow : "");
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

	if (call_open_model(r->call, &r->model, err) ||
	    run_prompt(r, err) || run_load(r, choose_context, err))
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
	struct run r = {
		.call = c, .args = a, .quiet = c->ui->json, .most = a->tokens,
		.progress = c->ui->progress
	};
	int ret;

	if (check_args(a, err))
		return -1;
	if (a->detokenize)
		return run_detokenize(c, err);
	if (a->tokenize)
		ret = run_tokenize(&r, err);
	else if (a->bench)
		ret = run_bench(&r, err);
	else if (a->batch_file)
		ret = run_batch(&r, err);
	else
		ret = a->chat ? run_chat(&r, err) : work(&r, err);
	rt_sampler_free(r.sampler);
	rt_chat_close(r.chat);
	free(r.text.data);
	free(r.logits);
	free(r.id);
	free(r.prompt);
	llm_close(r.llm);
	call_device_close(&r.dev);
	call_device_close(&r.rest);
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
