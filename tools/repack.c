/* gptq-repack: the same weights in another layout, proven equal.
 *
 * Every layer is planned before a byte is written (repack_plan); --plan stops
 * there and prints it.  The proof is part of the work (repack_run) and a folder
 * that fails it never gets its name. */
#include "call.h"
#include "repack_cure.h"

#include "../libfmt/base/io.h"
#include "../libfmt/base/json.h"
#include "../libfmt/model.h"
#include "../libfmt/repack.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>


struct args {
	const char *output;
	bool force, single_file, check, plan, fix, lossy;
	int to, dtype, act_order;
	int64_t group_size, bits, pad_mlp;
	uint64_t shard_size;
};
#define OPT_ARGS struct args

static const struct opt options[] = {
	{ .kind = OPT_HEAD, .help = "Output" },
	{ AT_TEXT(output), .letter = 'o', .name = "output", .arg = "DIR",
	  .help = "the folder to write, or X.gguf (required without --plan)" },
	{ AT_FLAG(force), .letter = 'f', .name = "force",
	  .help = "replace DIR when it is there" },
	{ AT_CHOICE(to), .name = "to", .arg = "FORMAT",
	  .help = "layout written; a dense model stays dense by itself",
	  .def = "gptq",
	  .names = "gptq|gptq_v2|gptq_p|marlin|awq|compressed-tensors|gguf|"
		"dense" },
	{ AT_CHOICE(dtype), .name = "dtype", .arg = "TYPE",
	  .help = "of dense weights, with --to dense or gguf (default: the "
		"model's)",
	  .names = "f16|bf16|f32" },
	{ AT_SIZE(shard_size), .name = "shard-size", .arg = "SIZE",
	  .help = "largest weight file", .def = "5GB",
	  .without = "single-file",
	  .idle = "to=gguf|to=marlin" },
	{ AT_FLAG(single_file), .name = "single-file",
	  .help = "one weight file, whatever its size" },
	{ .kind = OPT_HEAD, .help = "Proof" },
	{ AT_FLAG(check), .name = "check",
	  .help = "read the result back and compare all weights bit for bit "
		"(default)", .def = "1" },
	{ AT_UNFLAG(check), .name = "no-check",
	  .help = "leave that out" },
	{ AT_FLAG(lossy), .name = "lossy",
	  .help = "also convert layers whose config and tensors contradict "
		"each other, and round what GGUF does not hold" },
	{ AT_FLAG(plan), .name = "plan",
	  .help = "say what would happen to each layer, write nothing" },
	{ AT_FLAG(fix), .name = "fix",
	  .help = "do what gptq-inspect --doctor proposes; keeps the layout "
		"unless --to is given" },
	{ .kind = OPT_HEAD, .help = "Changes that keep every weight" },
	{ AT_CHOICE(act_order), .name = "act-order", .arg = "HOW",
	  .help = "keep g_idx, sort rows by group, or drop it where that is "
		"lossless", .def = "keep",
	  .names = "keep|sort|drop" },
	{ AT_INT(group_size), .name = "group-size", .arg = "N",
	  .help = "split groups into smaller ones",
	  .lo = 1, .hi = 1 << 24 },
	{ AT_INT(bits), .name = "bits", .arg = "N",
	  .help = "widen codes, so that kernels of 4 or 8 bits take them",
	  .lo = 2, .hi = 8 },
	{ AT_INT(pad_mlp), .name = "pad-mlp", .arg = "N",
	  .help = "zero-pad the MLP's inner size to a multiple of N", .lo = 1,
	  .hi = 1 << 20 },
	{ .kind = OPT_END }
};

static const enum dtype dtype_of[] = { DT_F16, DT_BF16, DT_F32 };

struct job {
	const struct call *call;
	const struct args *args;
	struct model *model;
	struct survey survey;
	struct repack_job work;
	const char *to;          /* name of the layout written */
	char to_name[32];
	struct repack_step *step;
	uint32_t refused;
	struct repack_report report;
	struct repack_cure cure; /* of --fix */
	char *file;              /* of GGUF in a folder: the staged path */
	double seconds;
};

/* What the command line alone tells. */
static int check_args(struct job *j, struct err *err)
{
	const struct args *a = j->args;

	j->to = opt_choice(j->call->opt, "to", j->to_name);
	if (!a->output && !a->plan)
		return err_set(err, ERR_USAGE, "-o DIR says where to write, "
			       "and is missing");
	return 0;
}

/* The type dense weights get: as asked, else the config's, else f16. */
static enum dtype dense_type(const struct job *j)
{
	const char *t = json_text(json_find(j->model->config, "torch_dtype"));

	if (opt_given(j->call->opt, "dtype"))
		return dtype_of[j->args->dtype];
	if (!t)
		t = json_text(json_find(j->model->config, "dtype"));
	if (t && !strcmp(t, "bfloat16"))
		return DT_BF16;
	if (t && !strcmp(t, "float32"))
		return DT_F32;
	return DT_F16;
}

/* Whichever was wrong, all weights were read otherwise before. */
static void say_sym(const struct job *j)
{
	if (j->work.sym == REPACK_SYM_ZEROS)
		ui_note(j->call->ui, "note: the config says sym, but the "
			"weights lie around the zeros as they are stored, "
			"which stay");
	if (j->work.sym == REPACK_SYM_MIDDLE)
		ui_note(j->call->ui, "note: the weights lie around the middle "
			"zero, as the config's sym says, and not around those "
			"stored, which it replaces");
}

/* lenient: holes and stray bytes are among what a rewrite mends */
static int look(struct job *j, struct err *err)
{
	unsigned flags = MODEL_LENIENT | (j->args->fix ? MODEL_TIDY : 0);

	if (j->args->fix && repack_cure_before(&j->cure, j->call->model, err))
		return -1;
	if (model_open(j->call->model, flags, &j->model, err) ||
	    survey_model(j->model, &j->survey, err))
		return -1;
	if (!j->args->fix)
		return 0;
	if (repack_fix_sym(j->model, &j->survey, &j->work.sym, err))
		return -1;
	say_sym(j);
	if (j->work.sym == REPACK_SYM_ZEROS) {
		survey_release(&j->survey);
		if (survey_model(j->model, &j->survey, err))
			return -1;
	}
	return 0;
}

/* --fix keeps the layout, any other run writes gptq unless told otherwise. */
static int choose_layout(struct job *j, bool said, struct err *err)
{
	if (j->args->fix && !said) {
		j->work.to = repack_fix_layout(&j->survey);
		j->to = j->work.to ? j->work.to->name : "dense";
		return 0;
	}
	/* (a dense model that stays so has no layout to be found) */
	return strcmp(j->to, "dense") ?
		       call_layout(j->call, "to", &j->work.to, err) : 0;
}

/* What is special about blocks: a type for what is beside them, rounding; and
 * elsewhere, embeddings and heads that were in blocks, decoded without
 * rounding. */
static void set_gguf(struct job *j)
{
	if (j->work.to == &qf_gguf) {
		j->work.to = j->args->lossy ? &qf_gguf_lossy : &qf_gguf;
		j->work.cast = opt_given(j->call->opt, "dtype") ?
			       dtype_of[j->args->dtype] : DT_NONE;
		return;
	}
	for (uint32_t i = 0; j->work.to && i < j->survey.count; i++) {
		const struct survey_layer *l = &j->survey.layer[i];

		if (l->table || (model_gguf(j->model) && l->format &&
				 !repack_target(&j->work, l)))
			j->work.dense_type = DT_F32;
	}
}

/* Open, survey, plan: after this every refusal has been made. */
static int open_model(struct job *j, struct err *err)
{
	const struct args *a = j->args;
	bool said = opt_given(j->call->opt, "to");
	enum repack_sym sym;

	if (look(j, err))
		return -1;
	sym = j->work.sym;
	if (!j->survey.quantized && !said)
		j->to = "dense";
	if (!j->survey.quantized && strcmp(j->to, "dense") &&
	    strcmp(j->to, "gguf")) {
		ui_hint(j->call->ui, "gptq-quantize %s -o DIR --calib FILE "
			"quantizes it", j->call->model);
		return err_set(err, ERR_UNSUP, "%s is dense: --to %s would "
			       "have to quantize it", j->call->model, j->to);
	}
	if (!strcmp(j->to, "dense") &&
	    (a->act_order || a->group_size || a->bits))
		return err_set(err, ERR_USAGE, "dense weights have no codes: "
			       "--%s does not go with --to dense",
			       a->act_order ? "act-order" :
			       a->group_size ? "group-size" : "bits");
	j->work = (struct repack_job) {
		.model = j->model, .survey = &j->survey,
		.dense_type = dense_type(j),
		.scales = opt_given(j->call->opt, "dtype") ?
			dtype_of[a->dtype] : DT_NONE,
		.order = (enum repack_order)a->act_order,
		.group_size = (uint32_t)a->group_size,
		.bits = (uint32_t)a->bits,
		.pad_mlp = (uint32_t)a->pad_mlp,
		.shard_size = a->single_file ? 0 : a->shard_size,
		.prove = a->check, .lossy = a->lossy, .fix = a->fix,
		.sym = sym, .threads = j->call->threads,
		.progress = &j->call->ui->progress
	};
	if (choose_layout(j, said, err))
		return -1;
	set_gguf(j);
	if (j->work.to == &qf_marlin) /* its readers know no index */
		j->work.shard_size = 0;
	return repack_plan(&j->work, &j->step, &j->refused, err);
}

/* ---- --plan ---- */

/* A row per layer, dense ones too: the table is the whole truth about what
 * would be written. */
static int plan_text(const struct job *j, struct err *err)
{
	static const char *const heads[] = { "~layer", "<from", "<to",
		"<what happens" };
	struct ui_table *t = ui_table_new(heads, 4, err);
	int ret;

	if (!t)
		return -1;
	for (uint32_t i = 0; i < j->survey.count; i++) {
		const struct repack_step *s = &j->step[i];

		ui_cell(t, "%s", s->layer->module->name);
		ui_cell(t, "%s", s->layer->format ? s->layer->format->name :
						    "dense");
		ui_cell(t, "%s", repack_target(&j->work, s->layer) ?
				 j->to : "dense");
		ui_cell(t, "%s%s", s->refused ? "refused: " : "", s->note);
	}
	ret = ui_table_print(j->call->ui, stdout, t, err);
	ui_table_free(t);
	return ret;
}

static struct cJSON *plan_json(const struct job *j)
{
	struct cJSON *o = cJSON_CreateObject(), *list, *s;

	ui_json_text(o, "model", j->call->model);
	ui_json_text(o, "from", j->survey.format);
	ui_json_text(o, "to", j->to);
	cJSON_AddNumberToObject(o, "refused", j->refused);
	list = cJSON_AddArrayToObject(o, "plan");
	for (uint32_t i = 0; i < j->survey.count; i++) {
		s = cJSON_CreateObject();
		ui_json_text(s, "name", j->step[i].layer->module->name);
		ui_json_text(s, "note", j->step[i].note);
		cJSON_AddBoolToObject(s, "refused", j->step[i].refused);
		cJSON_AddItemToArray(list, s);
	}
	return o;
}

/* A plan with refusals is printed like any other, but ends with status 4, as
 * the work itself would. */
static int print_plan(const struct job *j, struct err *err)
{
	if (j->call->ui->json ? ui_json(stdout, plan_json(j), err) :
				plan_text(j, err))
		return -1;
	return j->refused ? ERR_UNSUP : 0;
}

/* ---- the work ---- */

/* A refusal names the first layer and says how many more there are. */
static int refuse(const struct job *j, struct err *err)
{
	for (uint32_t i = 0; i < j->survey.count; i++) {
		const char *name = j->step[i].layer->module->name;
		const char *note = j->step[i].note;
		/* a note about one tensor names it */
		bool named = !strncmp(note, name, strlen(name));

		if (!j->step[i].refused)
			continue;
		ui_hint(j->call->ui, "--plan lists all layers");
		return err_set(err, ERR_UNSUP, "%s%s%s (%u layer%s refused)",
			       named ? "" : name, named ? "" : ": ", note,
			       j->refused, ui_plural(j->refused));
	}
	return 0;
}

/* `proven` counts weights; 0 says that --no-check was given. */
static struct cJSON *result_json(const struct job *j)
{
	const struct repack_report *r = &j->report;
	struct cJSON *o = cJSON_CreateObject();

	ui_json_text(o, "path", j->args->output);
	ui_json_text(o, "model", j->call->model);
	ui_json_text(o, "from", j->survey.format);
	ui_json_text(o, "to", j->to);
	cJSON_AddNumberToObject(o, "layers", r->layers);
	cJSON_AddNumberToObject(o, "copied", r->copied);
	cJSON_AddNumberToObject(o, "moved", r->moved);
	cJSON_AddNumberToObject(o, "bytes", (double)r->bytes);
	cJSON_AddNumberToObject(o, "shards", r->shards);
	cJSON_AddNumberToObject(o, "proven", (double)r->proven);
	cJSON_AddNumberToObject(o, "rounded", (double)r->rounded);
	cJSON_AddNumberToObject(o, "worst_error", r->worst);
	cJSON_AddNumberToObject(o, "mean_error", r->mean);
	cJSON_AddNumberToObject(o, "seconds", j->seconds);
	if (j->args->fix)
		repack_cure_json(&j->cure, o);
	return o;
}

/* Written, and yet not for every reader. */
static void print_readers(const struct job *j)
{
	bool act_order = false;

	for (uint32_t i = 0; i < j->survey.count; i++)
		act_order |= j->survey.layer[i].spec.act_order;
	if (j->args->act_order == REPACK_SORT)
		ui_note(j->call->ui, "note: sorted rows are read by this "
			"program alone; --act-order keep takes them back");
	if (act_order && j->args->act_order == REPACK_KEEP &&
	    !strcmp(j->to, "compressed-tensors"))
		ui_note(j->call->ui, "note: readers of compressed-tensors "
			"from 0.19 on refuse act-order; --to gptq keeps it");
}

static void print_summary(const struct job *j)
{
	const struct repack_report *r = &j->report;
	char size[32], time[32], proven[32], moved[48] = "";

	if (r->moved)
		snprintf(moved, sizeof(moved), "%u tensor%s moved, ", r->moved,
			 ui_plural(r->moved));
	print_readers(j);
	ui_note(j->call->ui, "%s to %s: %u layer%s converted, %s%u tensor%s "
		"copied, %s in %u file%s, %s%s, %s", j->survey.format, j->to,
		r->layers, ui_plural(r->layers), moved, r->copied,
		ui_plural(r->copied), ui_bytes(r->bytes, size), r->shards,
		ui_plural(r->shards),
		r->proven ? ui_count(r->proven, proven) : "not checked",
		r->rounded ? " weights compared" :
		r->proven ? " weights proven equal" : "",
		ui_time(j->seconds, time));
	if (r->rounded)
		ui_note(j->call->ui, "%s weights were rounded: by %.3g at "
			"most, by %.3g on average of all",
			ui_count(r->rounded, proven), r->worst, r->mean);
	if (r->no_tokenizer)
		ui_warn(j->call->ui, "the result has no tokenizer: %s",
			model_gguf(j->model) ? "that of the file cannot be "
			"written as tokenizer files" : "the folder has none");
}

/* A GGUF file may be asked for by its own name; all else is a folder. */
static bool names_file(const struct job *j)
{
	size_t n = j->args->output ? strlen(j->args->output) : 0;

	return !strcmp(j->to, "gguf") && n > 5 &&
	       !strcmp(j->args->output + n - 5, ".gguf");
}

/* Convert, prove, give the folder its name, say so. */
static int work(struct job *j, struct io_stage *stage, struct err *err)
{
	double began = ui_now();

	j->work.out = io_stage_path(stage);
	if (!strcmp(j->to, "gguf") && !names_file(j)) {
		j->file = io_join(j->work.out, "model.gguf", err);
		if (!j->file)
			return -1;
		j->work.out = j->file;
	}
	if (repack_run(&j->work, &j->report, err) ||
	    io_stage_commit(stage, err))
		return -1;
	ui_done(j->call->ui);
	j->seconds = ui_now() - began;
	print_summary(j);
	if (j->args->fix) {
		if (repack_cure_after(&j->cure, j->args->output, err))
			return -1;
		repack_cure_print(&j->cure, j->call->ui);
	}
	if (j->call->ui->json)
		return ui_json(stdout, result_json(j), err);
	puts(j->args->output);
	return 0;
}

static int repack_applet(const struct call *c, struct err *err)
{
	struct job j = { .call = c, .args = c->args };
	struct io_stage *stage = NULL;
	int ret = -1;

	if (check_args(&j, err))
		return -1;
	if (!j.args->plan && io_stage_open(j.args->output,
					   !names_file(&j), j.args->force,
					   &stage, err))
		goto out;
	if (open_model(&j, err))
		goto out;
	if (j.args->plan) {
		ret = print_plan(&j, err);
		goto out;
	}
	if (refuse(&j, err) || work(&j, stage, err))
		goto out;
	ret = 0;
out:
	io_stage_close(stage);
	repack_cure_release(&j.cure);
	free(j.step);
	free(j.file);
	survey_release(&j.survey);
	model_close(j.model);
	return ret;
}

const struct applet applet_repack = {
	.name = "repack",
	.summary = "Write the same weights in another layout, proven equal",
	.usage = "MODEL -o DIR [options]",
	.examples = {
		"gptq-repack llama-4bit -o llama-v2 --to gptq_v2",
		"gptq-repack llama-4bit -o llama-dense --to dense --dtype f16"
	},
	.options = options,
	.args_size = sizeof(struct args),
	.run = repack_applet
};
