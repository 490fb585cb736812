/* gptq-inspect: what is in a checkpoint, and what is wrong with it.
 *
 * The result is gathered into struct inspect first and then printed as text
 * (inspect_text.c) or JSON (inspect_json.c); neither printer decides anything.
 * What is wrong is found by survey and doctor, below. */
#include "inspect.h"

#include "../libfmt/base/io_place.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"
#include "applets.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define LATER "is not in this version"

struct args {
	bool tensors, layers, files, stats, doctor, kernels, hash, print_path;
	bool raw, config;
	const char *match, *tensor, *diff;
	int64_t head;
};
#define OPT_ARGS struct args

static const struct opt options[] = {
	{ .kind = OPT_HEAD, .help = "What to show (one screen when none is "
		"given)" },
	{ AT_FLAG(tensors), .name = "tensors",
	  .help = "a table of all tensors" },
	{ AT_FLAG(layers), .name = "layers",
	  .help = "a table of all linear layers" },
	{ AT_FLAG(files), .name = "files", .help = "a table of all weight "
		"files" },
	{ AT_TEXT(match), .name = "match", .arg = "REGEX",
	  .help = "only tensors and layers whose name matches" },
	{ AT_FLAG(hash), .name = "hash",
	  .help = "XXH3-128 of each tensor and of the model" },
	{ AT_FLAG(doctor), .name = "doctor",
	  .help = "every known problem, who refuses it and what mends it; "
		"exit 1 on an error" },
	{ AT_FLAG(print_path), .letter = 'P', .name = "print-path",
	  .help = "on success print MODEL on stdout, the report on stderr" },
	{ AT_FLAG(stats), .name = "stats",
	  .help = "ranges and histograms of each layer and tensor" },
	{ AT_TEXT(tensor), .name = "tensor", .arg = "NAME",
	  .help = "decode one tensor or linear; NAME@dequant: its "
		"dequantized weights" },
	{ AT_INT(head), .name = "head", .arg = "N",
	  .help = "the first N elements of --tensor, not 16", .lo = 1,
	  .hi = 1 << 30 },
	{ AT_FLAG(raw), .name = "raw",
	  .help = "only the bytes of --tensor, for a pipe" },
	{ AT_FLAG(kernels), .name = "kernels",
	  .help = "which kernels can run each linear here, which one would, "
		"and why not a faster one" },
	{ AT_FLAG(config), .name = "config",
	  .help = "the quantization config, normalised, as JSON" },
	{ AT_TEXT(diff), .name = "diff", .arg = "MODEL",
	  .help = "what differs in another checkpoint, whatever its layout: "
		"configs, tensors, weights; exit 1 on a difference" },
	{ .kind = OPT_END }
};

/* ---- --match ---- */

/* A search, not a match from the start: "--match q_proj" is what people type.
 * Without an expression everything matches. */
static bool matches(const pcre2_code *re, pcre2_match_data *md,
		    const char *name)
{
	return !re || pcre2_match(re, (PCRE2_SPTR)name, PCRE2_ZERO_TERMINATED,
				  0, 0, md, NULL) >= 0;
}

static int compile(const char *pattern, pcre2_code **re,
		   pcre2_match_data **md, struct err *err)
{
	PCRE2_UCHAR text[128];
	PCRE2_SIZE at;
	int code;

	*re = NULL;
	*md = NULL;
	if (!pattern)
		return 0;
	*re = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, 0,
			    &code, &at, NULL);
	if (!*re) {
		pcre2_get_error_message(code, text, sizeof(text));
		return err_set(err, ERR_USAGE, "--match: '%s': %s", pattern,
			       (const char *)text);
	}
	*md = pcre2_match_data_create_from_pattern(*re, NULL);
	return *md ? 0 : err_set(err, ERR_RESOURCE, "not enough memory");
}

/* Decide once what is shown; both printers only look at the two arrays. */
static int narrow(struct inspect *r, const char *pattern, struct err *err)
{
	pcre2_match_data *md;
	pcre2_code *re;
	int ret = -1;

	if (compile(pattern, &re, &md, err))
		goto out;
	r->show_layer = mem_alloc(r->survey.count, sizeof(bool), err);
	r->show_tensor = mem_alloc(r->model->tensor_count, sizeof(bool), err);
	if (!r->show_layer || !r->show_tensor)
		goto out;
	for (uint32_t i = 0; i < r->survey.count; i++)
		r->show_layer[i] =
			matches(re, md, r->survey.layer[i].module->name);
	for (uint32_t i = 0; i < r->model->tensor_count; i++)
		r->show_tensor[i] = matches(re, md, r->model->tensor[i].name);
	ret = 0;
out:
	pcre2_match_data_free(md);
	pcre2_code_free(re);
	return ret;
}

/* The names of both checkpoints, so this waits for the comparison. */
static int narrow_diff(struct inspect *r, const char *pattern,
		       struct err *err)
{
	const struct diff *d = &r->diff->diff;
	pcre2_match_data *md;
	pcre2_code *re;
	int ret = -1;

	if (compile(pattern, &re, &md, err))
		goto out;
	r->diff->show = mem_alloc(d->tensors, sizeof(bool), err);
	if (!r->diff->show)
		goto out;
	for (uint32_t i = 0; i < d->tensors; i++)
		r->diff->show[i] = matches(re, md, d->tensor[i].name);
	ret = 0;
out:
	pcre2_match_data_free(md);
	pcre2_code_free(re);
	return ret;
}

static int hash_model(struct inspect *r, struct err *err)
{
	r->hash = mem_alloc(r->model->tensor_count, sizeof(*r->hash), err);
	return r->hash ? model_hash(r->model, &r->ui->progress, r->hash,
				    r->model_hash, err) : -1;
}

/* ---- --stats ---- */

/* Only what --match lets through is read. */
static int gather_stats(struct inspect *r, uint32_t threads, struct err *err)
{
	struct stats_job job = {
		.model = r->model, .survey = &r->survey,
		.layer = r->show_layer, .tensor = r->show_tensor,
		.threads = threads, .progress = &r->ui->progress
	};

	r->stats = mem_alloc(1, sizeof(*r->stats), err);
	return r->stats ? stats_gather(&job, r->stats, err) : -1;
}

/* ---- the applet ---- */

static int open_model(struct inspect *r, const char *path, struct err *err)
{
	struct io_place *place;

	if (io_place_open(path, &r->ui->progress, &place, err))
		return -1;
	return model_open_place(place, MODEL_LENIENT, &r->model, err);
}

/* Everything that any of the printers may need.  Headers only (and g_idx and
 * qzeros, which are small), so this is quick for any size of model. */
static int gather(struct inspect *r, const struct call *c, struct err *err)
{
	const struct args *a = c->args;
	const struct cJSON *config;
	struct err why;

	if (open_model(r, c->model, err) ||
	    survey_model(r->model, &r->survey, err) ||
	    doctor_examine(r->model, &r->survey, &r->doctor, err))
		return -1;
	config = r->model->config;
	r->architecture = json_text(json_first(json_find(config,
							 "architectures")));
	r->model_type = json_text(json_find(config, "model_type"));
	/* an architecture that we do not run can still be looked at */
	r->cfg_known = config &&
		       !llama_config_read(config, NULL, &r->cfg, &why);
	if (narrow(r, a->match, err) ||
	    inspect_fetch(r, &(struct inspect_need) { .tensor = a->tensor,
		.stats = a->stats, .whole = a->hash ? "--hash" :
		a->diff ? "--diff" : NULL }, err) ||
	    (a->hash && hash_model(r, err)))
		return -1;
	if (a->diff && (inspect_diff_gather(r, a->diff, c->threads, err) ||
			narrow_diff(r, a->match, err)))
		return -1;
	if (a->kernels && inspect_kernels_gather(r, c, err))
		return -1;
	if (a->tensor && inspect_one_gather(r, &(struct inspect_ask) {
		.name = a->tensor, .head = a->head, .raw = a->raw,
		.threads = c->threads }, err))
		return -1;
	return a->stats ? gather_stats(r, c->threads, err) : 0;
}

/* One of two printers; as text, only the tables that were asked for. */
static int show(const struct inspect *r, const struct args *a, struct err *err)
{
	if (a->raw)
		return inspect_one_raw(r, err);
	if (r->ui->json)
		return inspect_json(r, err);
	if (!a->tensors && !a->layers && !a->files && !a->doctor &&
	    !a->hash && !a->stats && !a->tensor && !a->diff && !a->kernels &&
	    !a->config)
		inspect_screen(r);
	if ((a->files && inspect_files(r, err)) ||
	    (a->layers && inspect_layers(r, err)) ||
	    (a->tensors && inspect_tensors(r, err)) ||
	    (a->stats && inspect_stats(r, err)) ||
	    (a->config && ui_json(r->out, inspect_config(r), err)) ||
	    (a->kernels && inspect_kernels_show(r, err)) ||
	    (a->tensor && inspect_one_show(r, err)) ||
	    (a->diff && inspect_diff_show(r, err)))
		return -1;
	if (a->hash)
		inspect_hashes(r);
	if (a->doctor)
		inspect_doctor(r);
	return 0;
}

static int inspect_run(const struct call *c, struct err *err)
{
	const struct args *a = c->args;
	struct inspect r = { .ui = c->ui,
			     .out = a->print_path ? stderr : stdout };
	int ret = -1;

	if (a->print_path && c->ui->json)
		return err_set(err, ERR_USAGE, "--json and --print-path both "
			       "want standard output: give one of them");
	if (a->raw && (!a->tensor || c->ui->json || a->print_path))
		return err_set(err, ERR_USAGE, "--raw goes with --tensor, and "
			       "with nothing else on standard output");
	if (a->head && !a->tensor)
		return err_set(err, ERR_USAGE, "--head goes with --tensor");
	if (gather(&r, c, err) || show(&r, a, err))
		goto out;
	/* without --doctor, looking at a sick checkpoint succeeds */
	ret = (a->doctor && r.doctor.errors) ||
	      (a->diff && r.diff->diff.differences) ? ERR_CHECK : 0;
	if (ret == 0 && a->print_path)
		puts(c->model);
out:
	if (r.stats)
		stats_release(r.stats);
	free(r.stats);
	inspect_kernels_free(r.kernels);
	inspect_diff_free(r.diff);
	inspect_one_free(r.one);
	free(r.hash);
	free(r.show_layer);
	free(r.show_tensor);
	doctor_release(&r.doctor);
	survey_release(&r.survey);
	model_close(r.model);
	return ret;
}

const struct applet applet_inspect = {
	.name = "inspect",
	.summary = "Show what is in a checkpoint and what is wrong with it",
	.usage = "MODEL [options]",
	.examples = {
		"gptq-inspect llama-4bit",
		"gptq-inspect llama-4bit --layers --match 'layers\\.0\\.'"
	},
	.options = options,
	.args_size = sizeof(struct args),
	.run = inspect_run
};
