/* gptq-quantize: a dense Llama in, a quantized folder out.
 *
 * The work is gq_walk's; here are the options, what they refuse, and the
 * result.  The order of a run: everything that can be refused without reading
 * weights, then the model, the text, the device, the walk; the folder gets its
 * name only after it was opened again. */
#include "call.h"

#include "../libfmt/base/io.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/model.h"
#include "../libfmt/survey.h"
#include "../quant/walk.h"
#include "../runtime/tok.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LATER "is not in this version"

struct args {
	const char *output, *log, *report;
	bool force, sym, desc_act, static_groups, act_group_aware, mse, plain;
	bool true_sequential, lm_head, plan, resume;
	int method, bits, format;
	int64_t group_size, samples, seqlen, seed;
	double damp, damp_step;
	struct opt_list calib, rule;
	uint64_t shard_size, max_memory, max_device_memory;
};
#define OPT_ARGS struct args

static const uint8_t bits_of[] = { 2, 3, 4, 8 };

static const struct opt options[] = {
	{ .kind = OPT_HEAD, .help = "Output" },
	{ AT_TEXT(output), .letter = 'o', .name = "output", .arg = "DIR",
	  .help = "the folder to write (required)" },
	{ AT_FLAG(force), .letter = 'f', .name = "force",
	  .help = "replace DIR when it is there" },
	{ AT_CHOICE(format), .name = "format", .arg = "FORMAT",
	  .help = "layout written", .def = "gptq",
	  .names = "gptq|gptq_v2|marlin" },
	{ AT_SIZE(shard_size), .name = "shard-size", .arg = "SIZE",
	  .help = "largest weight file", .def = "5GB" },
	{ AT_TEXT(log), .name = "log", .arg = "FILE",
	  .help = "CSV, a line per linear as it is done" },
	{ AT_TEXT(report), .name = "report", .arg = "FILE",
	  .help = "JSON, written at the end" },

	{ .kind = OPT_HEAD, .help = "Quantization" },
	{ AT_CHOICE(method), .name = "method", .arg = "METHOD",
	  .help = "how codes are found", .def = "gptq",
	  .names = "gptq|gptaq|hqq|rtn" },
	{ AT_CHOICE(bits), .letter = 'b', .name = "bits", .arg = "BITS",
	  .help = "bits of a code", .def = "4",
	  .names = "2|3|4|8" },
	{ AT_INT(group_size), .letter = 'g', .name = "group-size", .arg = "N",
	  .help = "inputs that share a scale, -1: all of a row",
	  .def = "128", .lo = -1, .hi = 1 << 24 },
	{ AT_FLAG(sym), .name = "sym",
	  .help = "symmetric ranges (default)", .def = "1" },
	{ AT_UNFLAG(sym), .name = "asym",
	  .help = "a zero point for each group" },
	{ AT_FLAG(desc_act), .name = "desc-act",
	  .help = "columns in order of falling activation" },
	{ AT_FLAG(static_groups), .name = "static-groups",
	  .help = "fix groups before reordering" },
	{ AT_REAL(damp), .name = "damp-percent", .arg = "F",
	  .help = "damping, a share of the Hessian's mean diagonal",
	  .def = "0.01", .lo = 0, .hi = 1 },
	{ AT_REAL(damp_step), .name = "damp-auto-increment", .arg = "F",
	  .help = "added while the factorisation fails",
	  .def = "0.01", .lo = 0, .hi = 1 },
	{ AT_UNFLAG(true_sequential), .name = "no-true-sequential",
	  .help = "all linears of a block on the dense block's inputs",
	  .def = "1" },
	{ AT_FLAG(plain), .name = "plain",
	  .help = "the published algorithm and nothing more" },
	{ AT_FLAG(act_group_aware), .name = "act-group-aware",
	  .help = "reorder whole groups and inside groups only",
	  .absent = LATER "; --desc-act --static-groups keeps g_idx trivial "
		"too" },
	{ AT_FLAG(mse), .name = "mse",
	  .help = "search the clipping range of each group",
	  .absent = LATER "; ranges are those of the largest weight" },
	{ AT_LIST(rule), .name = "rule", .arg = "RULE",
	  .help = "override for matching modules",
	  .absent = LATER "; all linears get the same options" },
	{ AT_FLAG(lm_head), .name = "lm-head",
	  .help = "quantize the output head too",
	  .absent = LATER "; the output head stays as it is" },

	{ .kind = OPT_HEAD, .help = "Calibration" },
	{ AT_FILES(calib), .name = "calib", .arg = "FILE",
	  .help = "text, .jsonl, .ids, .safetensors of ids; text also .gz, "
		".zst; several may follow" },
	{ AT_INT(samples), .name = "samples", .arg = "N",
	  .help = "windows of text", .def = "128", .lo = 1,
	  .hi = 1 << 20 },
	{ AT_INT(seqlen), .name = "seqlen", .arg = "N",
	  .help = "tokens of a window, at most the model's context",
	  .def = "2048", .lo = 2, .hi = 1 << 20 },
	{ AT_INT(seed), .name = "seed", .arg = "N",
	  .help = "0: the first windows, else drawn", .def = "0",
	  .lo = 0, .hi = 9007199254740991.0 },

	{ AT_SIZE(max_memory), .name = "max-memory", .arg = "SIZE",
	  .help = "memory to stay inside",
	  .absent = LATER "; one block of the model is in memory at a time" },
	{ AT_SIZE(max_device_memory), .name = "max-device-memory",
	  .arg = "SIZE",
	  .help = "device memory to stay inside",
	  .absent = LATER "; one block of the model is on the device at a "
		"time" },
	{ AT_FLAG(plan), .name = "plan",
	  .help = "say what would be done, write nothing",
	  .absent = LATER "; gptq-inspect shows the sizes of MODEL" },
	{ AT_FLAG(resume), .name = "resume",
	  .help = "continue an interrupted job",
	  .absent = LATER "; an interrupted job starts again" },
	{ .kind = OPT_END }
};

/* Everything one run opens, closed at its end. */
struct job {
	const struct call *call;
	const struct args *args;
	const struct gq_method *method;
	const struct qfmt *format;
	struct model *model;
	struct survey survey;
	struct llama_config cfg;
	struct tok *tok;
	struct calib calib;
	struct rt_dev dev;
	struct io_stage *stage;
	FILE *log;
	uint32_t seqlen;
	/* what is reported */
	struct gq_layer_report *layer;
	size_t layers, cap;
	bool lost;              /* no memory for a row of the report */
	double began, seconds;
	uint64_t before, after; /* bytes of all tensors */
};

/* What the command line alone tells: contradictions, missing pieces, and
 * methods that are not there. */
static int check_args(struct job *j, struct err *err)
{
	const struct args *a = j->args;
	const struct opt_parsed *o = j->call->opt;
	char method[32];

	opt_choice(o, "method", method);
	j->method = gq_method_find(method);
	if (!a->output)
		return err_set(err, ERR_USAGE, "-o DIR says where to write, "
			       "and is missing");
	if (a->group_size == 0)
		return err_set(err, ERR_USAGE,
			       "--group-size: 0 is neither -1 nor at least 1");
	if (!j->method)
		return err_set(err, ERR_UNSUP, "--method %s " LATER
			       "; gptq and rtn are", method);
	if (j->method->needs_hessian && !a->calib.count)
		return err_set(err, ERR_USAGE, "--method %s needs --calib "
			       "FILE (text to calibrate with)", method);
	if (!j->method->needs_hessian && (a->desc_act || a->static_groups))
		return err_set(err, ERR_USAGE, "--method %s knows no %s: it "
			       "does not look at activations", method,
			       a->desc_act ? "--desc-act" : "--static-groups");
	return call_layout(j->call, "format", &j->format, err);
}

/* Quantizing twice would add the errors of both: refused, with the way out. */
static int open_model(struct job *j, struct err *err)
{
	const char *path = j->call->model;

	if (model_open(path, 0, &j->model, err) ||
	    survey_model(j->model, &j->survey, err))
		return -1;
	j->before = j->survey.bytes;
	if (!j->model->config)
		return err_set(err, ERR_INPUT, "%s: no config.json, so the "
			       "architecture is not known", path);
	if (llama_config_read(j->model->config, NULL, &j->cfg, err) ||
	    llama_check(j->model, &j->cfg, err))
		return err_ctx(err, "%s", path);
	if (!j->survey.quantized)
		return 0;
	ui_hint(j->call->ui, "gptq-repack changes the layout of a quantized "
		"model");
	return err_set(err, ERR_UNSUP, "%s is quantized already (%s, %u "
		       "bits): quantize the original", path, j->survey.format,
		       j->survey.bits);
}

/* The tokenizer is opened only where text has to be encoded: files of ids work
 * with folders that have none. */
static int load_calibration(struct job *j, struct err *err)
{
	const struct args *a = j->args;
	struct calib_how how = {
		.file = a->calib.item, .files = a->calib.count,
		.samples = (uint32_t)a->samples, .seed = (uint64_t)a->seed,
		.vocab = j->cfg.vocab
	};
	bool text = false;

	if (call_seqlen(j->call, a->seqlen, j->cfg.max_pos, &j->seqlen, err))
		return -1;
	if (!j->method->needs_hessian)
		return 0;
	for (uint32_t i = 0; i < how.files; i++)
		text |= !call_holds_ids(how.file[i]);
	if (text && tok_open(j->model->dir, &j->tok, err))
		return -1;
	how.seqlen = j->seqlen;
	how.tok = j->tok;
	return gq_calib_load(&how, &j->calib, err);
}

/* The log is written as the work goes on, so it is a plain file, not a staged
 * one: after a crash it tells how far the job came. */
static int open_log(struct job *j, struct err *err)
{
	if (!j->args->log)
		return 0;
	j->log = fopen(j->args->log, "we");
	if (!j->log)
		return err_errno(err, ERR_OUTPUT, "%s", j->args->log);
	fputs("module,in,out,loss,rel_error,damp,seconds\n", j->log);
	return 0;
}

/* A log that could not be written must not pass for a whole one. */
static int close_log(struct job *j, struct err *err)
{
	int bad;

	if (!j->log)
		return 0;
	bad = ferror(j->log);
	errno = 0;
	bad |= fclose(j->log);
	j->log = NULL;
	return bad ? err_errno(err, ERR_OUTPUT, "%s: writing failed",
			       j->args->log) : 0;
}

/* One linear is done. */
static void on_layer(void *ctx, const struct gq_layer_report *r)
{
	struct job *j = ctx;
	void *grown = j->layer;
	struct err err;

	if (mem_grow(&grown, &j->cap, j->layers + 1, sizeof(*r), &err)) {
		j->lost = true;
	} else {
		j->layer = grown;
		j->layer[j->layers++] = *r;
	}
	ui_detail(j->call->ui, "%s: relative error %.5f, loss %.6g, damping "
		  "%g, %.2f s", r->name, r->r.rel_error, r->r.loss, r->r.damp,
		  r->seconds);
	if (!j->log)
		return;
	fprintf(j->log, "%s,%u,%u,%.9g,%.9g,%g,%.3f\n", r->name, r->in, r->out,
		r->r.loss, r->r.rel_error, r->r.damp, r->seconds);
	fflush(j->log);
}

/* Hand the options over.  128 columns per lazy update is the paper's number;
 * results depend on it only by rounding. */
static int walk(struct job *j, struct err *err)
{
	const struct args *a = j->args;
	struct gq_job walk = {
		.model = j->model, .cfg = &j->cfg,
		.api = j->dev.api, .be = j->dev.be, .method = j->method,
		.params = {
			.bits = bits_of[a->bits], .sym = a->sym,
			.desc_act = a->desc_act,
			.static_groups = a->static_groups,
			.group_size = (int32_t)a->group_size,
			.damp = a->damp, .damp_step = a->damp_step,
			.block = 128, .scale_type = DT_F16,
			/* the published code rounds scales at the very end */
			.round_scale = !a->plain,
		},
		.format = j->format,
		.calib = j->method->needs_hessian ? &j->calib : NULL,
		.true_sequential = a->true_sequential,
		/* readers of marlin know no index */
		.shard_size = j->format == &qf_marlin ? 0 : a->shard_size,
		.out = io_stage_path(j->stage),
		.progress = &j->call->ui->progress,
		.done = on_layer, .ctx = j
	};

	return gq_walk(&walk, err);
}

/* Read the folder back before it gets its name. */
static int check_output(struct job *j, struct err *err)
{
	struct model *m;

	if (model_open(io_stage_path(j->stage), 0, &m, err))
		return err_ctx(err, "what was written does not open");
	j->after = model_bytes(m);
	model_close(m);
	return 0;
}

/* ---- the result ---- */

/* The document of --json and of --report. */
static struct cJSON *result_json(const struct job *j)
{
	const struct args *a = j->args;
	struct cJSON *o = cJSON_CreateObject(), *list, *l;

	ui_json_text(o, "path", a->output);
	ui_json_text(o, "model", j->call->model);
	ui_json_text(o, "method", j->method->name);
	ui_json_text(o, "format", j->format->name);
	cJSON_AddNumberToObject(o, "bits", bits_of[a->bits]);
	cJSON_AddNumberToObject(o, "group_size", (double)a->group_size);
	cJSON_AddBoolToObject(o, "sym", a->sym);
	cJSON_AddBoolToObject(o, "desc_act", a->desc_act);
	cJSON_AddBoolToObject(o, "static_groups", a->static_groups);
	cJSON_AddBoolToObject(o, "true_sequential", a->true_sequential);
	cJSON_AddNumberToObject(o, "samples", j->calib.samples);
	cJSON_AddNumberToObject(o, "seqlen", j->calib.seqlen);
	cJSON_AddNumberToObject(o, "seed", (double)a->seed);
	ui_json_text(o, "device", j->dev.api->describe(j->dev.be));
	cJSON_AddNumberToObject(o, "bytes_before", (double)j->before);
	cJSON_AddNumberToObject(o, "bytes", (double)j->after);
	cJSON_AddNumberToObject(o, "seconds", j->seconds);
	list = cJSON_AddArrayToObject(o, "layers");
	for (size_t i = 0; i < j->layers; i++) {
		const struct gq_layer_report *r = &j->layer[i];

		l = cJSON_CreateObject();
		ui_json_text(l, "name", r->name);
		cJSON_AddNumberToObject(l, "in_features", r->in);
		cJSON_AddNumberToObject(l, "out_features", r->out);
		cJSON_AddNumberToObject(l, "loss", r->r.loss);
		cJSON_AddNumberToObject(l, "rel_error", r->r.rel_error);
		cJSON_AddNumberToObject(l, "damp", r->r.damp);
		cJSON_AddNumberToObject(l, "dead_inputs", r->r.dead);
		cJSON_AddNumberToObject(l, "seconds", r->seconds);
		cJSON_AddItemToArray(list, l);
	}
	return o;
}

/* The mean is over linears, not weighted by their size: it is a number to
 * compare two runs by. */
static void print_summary(const struct job *j)
{
	char from[32], to[32], time[32];
	double mean = 0, worst = 0;

	for (size_t i = 0; i < j->layers; i++) {
		mean += j->layer[i].r.rel_error / (double)j->layers;
		if (j->layer[i].r.rel_error > worst)
			worst = j->layer[i].r.rel_error;
	}
	ui_note(j->call->ui, "%zu linears to %d bits in %s: %s -> %s, "
		"relative error %.4f (largest %.4f)", j->layers,
		bits_of[j->args->bits], ui_time(j->seconds, time),
		ui_bytes(j->before, from), ui_bytes(j->after, to), mean,
		worst);
}

/* The report is written before the folder gets its name: whoever sees the
 * folder finds the report too. */
static int finish(struct job *j, struct err *err)
{
	if (check_output(j, err) || close_log(j, err))
		return -1;
	if (j->lost)
		return err_set(err, ERR_RESOURCE,
			       "not enough memory for the report");
	j->seconds = ui_now() - j->began;
	if (j->args->report &&
	    call_save_json(j->args->report, result_json(j), err))
		return -1;
	if (io_stage_commit(j->stage, err))
		return -1;
	ui_done(j->call->ui);
	print_summary(j);
	if (j->call->ui->json)
		return ui_json(stdout, result_json(j), err);
	puts(j->args->output);
	return 0;
}

static int quantize_run(const struct call *c, struct err *err)
{
	struct job j = { .call = c, .args = c->args, .began = ui_now() };
	int ret = -1;

	if (check_args(&j, err))
		return -1;
	/* the cheap refusals first: an output that exists, a log that cannot
	 * be written */
	if (io_stage_open(j.args->output, true, j.args->force, &j.stage,
			  err) ||
	    open_log(&j, err) || open_model(&j, err) ||
	    load_calibration(&j, err) || call_device(c, NULL, &j.dev, err) ||
	    walk(&j, err) || finish(&j, err))
		goto out;
	ret = 0;
out:
	if (j.log)
		fclose(j.log);
	io_stage_close(j.stage);
	gq_calib_release(&j.calib);
	tok_close(j.tok);
	call_device_close(&j.dev);
	survey_release(&j.survey);
	model_close(j.model);
	free(j.layer);
	return ret;
}

const struct applet applet_quantize = {
	.name = "quantize",
	.summary = "Quantize a model to 2, 3, 4 or 8 bits",
	.usage = "MODEL -o DIR --calib FILE... [options]",
	.examples = {
		"gptq-quantize llama -o llama-4bit --calib c4.jsonl.zst",
		"gptq-quantize llama -o llama-3bit -b 3 -g 32 --desc-act "
			"--calib text.txt"
	},
	.options = options,
	.args_size = sizeof(struct args),
	.run = quantize_run
};
