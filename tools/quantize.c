/* gptq-quantize: a dense Llama in, a quantized folder out.
 *
 * The work is gq_walk's; here are the options, what they refuse, and the
 * result.  The order of a run: everything that can be refused without reading
 * weights, then the model, the text, the device, its limits, the walk; the
 * folder gets its name only after it was opened again. */
#include "quantize.h"

#include "../libfmt/base/io.h"
#include "../libfmt/base/io_place.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/model.h"
#include "../quant/identity.h"
#include "../runtime/tok.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Passes of refinement; docs/quality.md says what they are worth. */
#define PASSES 3

#define OPT_ARGS struct quantize_args

/* Methods that do not look at activations. */
#define DATA_FREE "method=hqq|method=rtn"

static const uint8_t bits_of[] = { 2, 3, 4, 8 };

static const struct opt options[] = {
	{ .kind = OPT_HEAD, .help = "Output" },
	{ AT_TEXT(output), .letter = 'o', .name = "output", .arg = "DIR",
	  .help = "the folder to write (required without --plan)" },
	{ AT_FLAG(force), .letter = 'f', .name = "force",
	  .help = "replace DIR, and discard an unfinished job" },
	{ AT_FLAG(resume), .name = "resume",
	  .help = "go on with an unfinished job" },
	{ AT_CHOICE(format), .name = "format", .arg = "FORMAT",
	  .help = "layout written", .def = "gptq",
	  .names = "gptq|gptq_v2|marlin" },
	{ AT_SIZE(shard_size), .name = "shard-size", .arg = "SIZE",
	  .help = "largest weight file", .def = "5GB",
	  .idle = "format=marlin" },
	{ AT_TEXT(log), .name = "log", .arg = "FILE",
	  .help = "CSV, a line per linear as it is done" },
	{ AT_TEXT(report), .name = "report", .arg = "FILE",
	  .help = "JSON, written at the end" },
	{ AT_FLAG(plan), .name = "plan",
	  .help = "say what a run would take, and write nothing" },
	{ AT_SIZE(max_memory), .name = "max-memory", .arg = "SIZE",
	  .help = "memory to stay inside (default: what is free)" },
	{ AT_SIZE(max_device_memory), .name = "max-device-memory",
	  .arg = "SIZE", .help = "of a GPU, to stay inside" },

	{ .kind = OPT_HEAD, .help = "Quantization" },
	{ AT_CHOICE(method), .name = "method", .arg = "METHOD",
	  .help = "how codes are found", .def = "gptq",
	  .names = "gptq|gptaq|hqq|rtn" },
	{ AT_CHOICE(bits), .letter = 'b', .name = "bits", .arg = "BITS",
	  .help = "bits of a code", .def = "4",
	  .names = "2|3|4|8" },
	{ AT_INT(group_size), .letter = 'g', .name = "group-size", .arg = "N",
	  .help = "inputs that share a scale, -1: a row",
	  .def = "128", .lo = -1, .hi = 1 << 24 },
	{ AT_FLAG(sym), .name = "sym",
	  .help = "symmetric ranges (default)", .def = "1" },
	{ AT_UNFLAG(sym), .name = "asym",
	  .help = "a zero point for each group" },
	{ AT_FLAG(desc_act), .name = "desc-act",
	  .help = "columns in order of falling activation",
	  .without = DATA_FREE },
	{ AT_FLAG(static_groups), .name = "static-groups",
	  .help = "fix groups before reordering",
	  .without = DATA_FREE },
	{ AT_REAL(damp), .name = "damp-percent", .arg = "F",
	  .help = "damping, a share of the Hessian's mean diagonal",
	  .def = "0.01", .lo = 0, .hi = 1,
	  .idle = DATA_FREE },
	{ AT_REAL(damp_step), .name = "damp-auto-increment", .arg = "F",
	  .help = "added while the factorisation fails",
	  .def = "0.01", .lo = 0, .hi = 1,
	  .idle = DATA_FREE },
	{ AT_UNFLAG(true_sequential), .name = "no-true-sequential",
	  .help = "all linears of a block on the dense block's inputs",
	  .def = "1",
	  .without = "method=gptaq",
	  .idle = DATA_FREE },
	{ AT_FLAG(plain), .name = "plain",
	  .help = "the published algorithm and nothing more" },
	{ AT_FLAG(act_group_aware), .name = "act-group-aware",
	  .help = "reorder whole groups, and columns inside them",
	  .without = "desc-act|static-groups|" DATA_FREE },
	{ AT_FLAG(mse), .name = "mse",
	  .help = "search clipping ranges (default but for plain, rtn)" },
	{ AT_LIST(rule), .name = "rule", .arg = "RULE",
	  .help = "REGEX:key=value,... or REGEX:skip for modules" },
	{ AT_FLAG(lm_head), .name = "lm-head",
	  .help = "quantize the output head too" },

	{ .kind = OPT_HEAD, .help = "Calibration" },
	{ AT_FILES(calib), .name = "calib", .arg = "FILE",
	  .help = "text or .jsonl (.gz, .zst), .ids; several may follow" },
	{ AT_INT(samples), .name = "samples", .arg = "N",
	  .help = "windows of text", .def = "128", .lo = 1,
	  .hi = 1 << 20 },
	{ AT_INT(seqlen), .name = "seqlen", .arg = "N",
	  .help = "tokens, at most the model's context",
	  .def = "2048", .lo = 2, .hi = 1 << 20 },
	{ AT_FLAG(per_line), .name = "sample-per-line",
	  .help = "a window from each line of text" },
	{ AT_INT(seed), .name = "seed", .arg = "N",
	  .help = "0: the first windows, else drawn", .def = "0",
	  .lo = 0, .hi = 9007199254740991.0 },

	{ .kind = OPT_END }
};

/* What the command line alone tells: contradictions and missing pieces. */
static int check_args(struct quantize *j, struct err *err)
{
	const struct quantize_args *a = j->args;
	const struct opt_parsed *o = j->call->opt;
	char method[32];

	opt_choice(o, "method", method);
	j->method = gq_method_find(method);
	if (!a->output && !a->plan)
		return err_set(err, ERR_USAGE, "-o DIR says where to write, "
			       "and is missing");
	if (a->group_size == 0)
		return err_set(err, ERR_USAGE,
			       "--group-size: 0 is neither -1 nor at least 1");
	if (j->method->needs_hessian && !a->calib.count && !a->plan)
		return err_set(err, ERR_USAGE, "--method %s needs --calib "
			       "FILE (text to calibrate with)", method);
	if (gq_rules_new(a->rule.item, a->rule.count, &j->rules, err))
		return -1;
	return call_layout(j->call, "format", &j->format, err);
}

/* Quantizing twice would add the errors of both: refused, with the way out. */
static int refuse_quantized(const struct quantize *j, const char *format,
			    uint32_t bits, struct err *err)
{
	ui_hint(j->call->ui, "gptq-repack changes the layout of a quantized "
		"model");
	return err_set(err, ERR_UNSUP, "%s is quantized already (%s, %u "
		       "bits): quantize the original", j->call->model, format,
		       bits);
}

/* The tensors, and that they are what the config promises. */
static int look_at_weights(struct quantize *j, struct err *err)
{
	if (model_is_local(j->model) ?
		    survey_model(j->model, &j->survey, err) :
		    model_glance(j->model, err) ||
			    survey_glance(j->model, &j->survey, err))
		return -1;
	j->before = j->survey.bytes;
	if (llama_check(j->model, &j->cfg, err))
		return err_ctx(err, "%s", j->call->model);
	if (!j->survey.quantized)
		return 0;
	return refuse_quantized(j, j->survey.format, j->survey.bits, err);
}

/* A plan asks for headers alone, so its model may lie on a server. */
static int open_place(struct quantize *j, unsigned flags, struct err *err)
{
	struct io_place *place;

	if (!j->args->plan) /* and with weights */
		return call_open_model(j->call, &j->model, err);
	if (io_place_open(j->call->model, &j->call->ui->progress, &place, err))
		return -1;
	return model_open_place(place, flags, &j->model, err);
}

/* A plan can do without weights, where there are none. */
static int open_model(struct quantize *j, struct err *err)
{
	const char *path = j->call->model;
	bool bare = j->args->plan && !quantize_has_weights(path);

	if (open_place(j, bare ? MODEL_NO_WEIGHTS : 0, err))
		return -1;
	if (!j->model->config)
		return err_set(err, ERR_INPUT, "%s: no config.json, so the "
			       "architecture is not known", path);
	if (llama_config_read(j->model->config, NULL, &j->cfg, err))
		return err_ctx(err, "%s", path);
	if (!bare)
		return look_at_weights(j, err);
	ui_note(j->call->ui, "%s: no weights are here: sizes are by its "
		"configs", path);
	if (j->model->quant.source == CONFIG_NONE)
		return 0;
	return refuse_quantized(j, "by its config", j->model->quant.bits,
				err);
}

/* The tokenizer is opened only where text has to be encoded: files of ids work
 * with folders that have none. */
static int load_calibration(struct quantize *j, struct err *err)
{
	const struct quantize_args *a = j->args;
	struct calib_how how = {
		.file = a->calib.item, .files = a->calib.count,
		.samples = (uint32_t)a->samples, .seed = (uint64_t)a->seed,
		.vocab = j->cfg.vocab, .per_line = a->per_line
	};
	bool text = false;

	if (call_seqlen(j->call, a->seqlen, j->cfg.max_pos, &how.seqlen, err))
		return -1;
	if (!j->method->needs_hessian)
		return 0;
	if (a->plan) {
		j->calib.samples = how.samples;
		j->calib.seqlen = how.seqlen;
		return 0;
	}
	for (uint32_t i = 0; i < how.files; i++)
		text |= !call_holds_ids(how.file[i]);
	if (text && tok_open_model(j->model, &j->tok, err))
		return -1;
	how.tok = j->tok;
	if (gq_calib_load(&how, &j->calib, err))
		return -1;
	/* what memory it has is not needed any more */
	tok_close(j->tok);
	j->tok = NULL;
	return 0;
}

/* Beyond the published algorithm the search is always made where there are
 * activations to weigh it; rtn is what its name says unless asked. */
static enum gq_clip clip_of(const struct quantize_args *a,
			    const struct gq_method *m)
{
	if (a->plain)
		return a->mse ? GQ_CLIP_PUBLISHED : GQ_CLIP_NONE;
	return a->mse || m->needs_hessian ? GQ_CLIP_WEIGHTED : GQ_CLIP_NONE;
}

/* Hand the options over.  128 columns per lazy update is the paper's number;
 * results depend on it only by rounding. */
static int describe_job(struct quantize *j, struct err *err)
{
	const struct quantize_args *a = j->args;

	j->job = (struct gq_job){
		.model = j->model, .cfg = &j->cfg, .method = j->method,
		.params = {
			.bits = bits_of[a->bits], .sym = a->sym,
			.desc_act = a->desc_act,
			.static_groups = a->static_groups,
			.group_aware = a->act_group_aware,
			.group_size = (int32_t)a->group_size,
			.damp = a->damp, .damp_step = a->damp_step,
			.damp_short = !a->plain && !opt_given(j->call->opt,
							"damp-percent"),
			.block = 128, .scale_type = DT_F16,
			/* the published code rounds scales at the very end */
			.round_scale = !a->plain,
			.clip = clip_of(a, j->method),
			.threads = j->call->threads,
			.passes = a->plain ? 0 : PASSES,
		},
		.rules = j->rules,
		.lm_head = a->lm_head,
		.format = j->format,
		.true_sequential = a->true_sequential,
		/* readers of marlin know no index */
		.shard_size = j->format == &qf_marlin ? 0 : a->shard_size,
		.progress = &j->call->ui->progress,
		.done = quantize_on_layer, .ctx = j
	};
	return gq_targets_init(&j->targets, &j->job, err);
}

/* What rules and a tied head mean for those who will read the folder. */
static void note_targets(const struct quantize *j)
{
	const struct gq_targets *ts = &j->targets;
	const struct tensor *embed = model_find(j->model, LLAMA_EMBED);
	char size[32];

	if (ts->split)
		ui_warn(j->call->ui, "the rules treat q k v or gate up of %u "
			"block%s unlike each other: vLLM, which runs them as "
			"one, will not load that", ts->split,
			ui_plural(ts->split));
	if (ts->head && j->cfg.tied && embed &&
	    !ts->target[ts->count - 1].skip)
		ui_note(j->call->ui, "the head, tied to the embeddings until "
			"now, becomes a matrix of its own; the embeddings "
			"stay, %s", ui_bytes(embed->size, size));
}

static int walk(struct quantize *j, struct err *err)
{
	uint32_t done;

	note_targets(j);
	j->job.api = j->dev.api;
	j->job.be = j->dev.be;
	j->job.calib = j->method->needs_hessian ? &j->calib : NULL;
	j->job.out = io_stage_path(j->stage);
	j->job.journal = j->journal;
	if (quantize_fit(j, err) || gq_identity(&j->job, &j->identity, err) ||
	    gq_journal_bind(j->journal, j->identity, err))
		return -1;
	done = gq_journal_blocks(j->journal);
	if (done)
		ui_note(j->call->ui, "going on behind %u of %u blocks", done,
			j->cfg.layers + j->targets.head);
	else if (j->args->resume)
		ui_note(j->call->ui, "nothing to go on with: from the start");
	return gq_walk(&j->job, err);
}

/* An unfinished job that is worth something stays, and says so. */
static void leave_journal(struct quantize *j, bool failed)
{
	uint32_t done = j->journal ? gq_journal_blocks(j->journal) : 0;

	if (failed && done && j->cfg.layers)
		ui_hint(j->call->ui, "%u of %u blocks are done: the same "
			"command with --resume goes on", done,
			j->cfg.layers + j->targets.head);
	else if (failed && done) /* the model could not be opened */
		ui_hint(j->call->ui, "%u block%s done: the same command with "
			"--resume goes on", done,
			done == 1 ? " is" : "s are");
	gq_journal_close(j->journal);
}

/* Where to write: refused before anything else. */
static int open_output(struct quantize *j, struct err *err)
{
	const struct quantize_args *a = j->args;
	enum gq_journal_how how = a->resume ? GQ_JOURNAL_RESUME :
				  a->force ? GQ_JOURNAL_DISCARD :
					     GQ_JOURNAL_NEW;

	if (io_stage_check(a->output, true, a->force, err) ||
	    call_save_check(a->report, err) ||
	    gq_journal_open(a->output, how, &j->journal, err))
		return -1;
	return io_stage_open_at(a->output, a->force,
				gq_journal_out(j->journal), &j->stage, err);
}

/* Read the folder back before it gets its name. */
static int check_output(struct quantize *j, struct err *err)
{
	struct model *m;

	if (model_open(io_stage_path(j->stage), 0, &m, err))
		return err_ctx(err, "what was written does not open");
	j->after = model_bytes(m);
	model_close(m);
	return 0;
}

/* The report is written before the folder gets its name: whoever sees the
 * folder finds the report too. */
static int finish(struct quantize *j, struct err *err)
{
	if (check_output(j, err) || quantize_log_close(j, err))
		return -1;
	if (j->lost)
		return err_set(err, ERR_RESOURCE,
			       "not enough memory for the report");
	j->seconds = ui_now() - j->began;
	if (gq_verdict_make(j->layer, j->layers, &j->targets, j->format,
			    &j->verdict, &j->verdicts, err))
		return -1;
	if (j->args->report &&
	    call_save_json(j->args->report, quantize_json(j), err))
		return -1;
	if (io_stage_commit(j->stage, err))
		return -1;
	gq_journal_finish(j->journal);
	ui_done(j->call->ui);
	quantize_summary(j);
	if (j->call->ui->json)
		return ui_json(stdout, quantize_json(j), err);
	puts(j->args->output);
	return 0;
}

/* Everything that can be refused, the cheap refusals first: an output that
 * exists, a log that cannot be written. */
static int prepare(struct quantize *j, struct err *err)
{
	if (check_args(j, err))
		return -1;
	if (!j->args->plan &&
	    (open_output(j, err) || quantize_log_open(j, err)))
		return -1;
	return open_model(j, err) || describe_job(j, err) ||
	       load_calibration(j, err) ||
	       call_device(j->call, NULL, &j->dev, err) ? -1 : 0;
}

static int quantize_run(const struct call *c, struct err *err)
{
	struct quantize j = { .call = c, .args = c->args, .began = ui_now() };
	int ret = -1;

	if (prepare(&j, err))
		goto out;
	if (j.args->plan) {
		ret = quantize_print_plan(&j, err);
		goto out;
	}
	if (walk(&j, err) || finish(&j, err))
		goto out;
	ret = 0;
out:
	if (j.log)
		fclose(j.log);
	io_stage_close(j.stage);
	leave_journal(&j, ret != 0);
	json_free(j.identity);
	gq_calib_release(&j.calib);
	tok_close(j.tok);
	call_device_close(&j.dev);
	gq_targets_release(&j.targets);
	gq_rules_free(j.rules);
	survey_release(&j.survey);
	model_close(j.model);
	free(j.layer);
	free(j.verdict);
	free(j.beside);
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
	.args_size = sizeof(struct quantize_args),
	.run = quantize_run
};
