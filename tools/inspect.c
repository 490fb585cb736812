/* gptq-inspect: what is in a checkpoint, and what is wrong with it.
 *
 * The result is gathered into struct inspect first and then printed as text
 * (inspect_text.c) or JSON (inspect_json.c); neither printer decides anything.
 * What is wrong is found by survey and doctor, below. */
#include "inspect.h"

#include "../libfmt/base/io_place.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"
#include "call.h"

#include <stdlib.h>
#include <string.h>

#define LATER "is not in this version"

struct args {
	bool tensors, layers, files, stats, doctor, kernels, print_path;
	bool raw, config, memory;
	const char *match, *tensor, *diff, *html;
	int64_t head, batch;
	int hash;               /* as the option's names stand */
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
	  .help = "only tensors and layers whose name matches, and "
		"files that hold one",
	  .serves = "tensors|layers|files|stats|hash|diff|kernels|html|"
		"json" },
	{ AT_CHOICE(hash), .name = "hash", .arg = "WHAT", .maybe = true,
	  .def = "bytes", .names = "bytes|weights",
	  .help = "XXH3-128 of each tensor and of the model; weights: of what "
		"they mean, whatever the layout" },
	{ AT_FLAG(doctor), .name = "doctor",
	  .help = "every known problem, who refuses it and what mends it; "
		"exit 1 on an error" },
	{ AT_FLAG(print_path), .letter = 'P', .name = "print-path",
	  .help = "on success print MODEL on stdout, the report on stderr",
	  .without = "json" },
	{ AT_FLAG(stats), .name = "stats",
	  .help = "ranges and histograms of each layer and tensor" },
	{ AT_TEXT(tensor), .name = "tensor", .arg = "NAME",
	  .help = "decode one tensor or linear; NAME@dequant: its "
		"dequantized weights" },
	{ AT_INT(head), .name = "head", .arg = "N",
	  .help = "the first N elements of --tensor, not 16", .lo = 1,
	  .hi = 1 << 30,
	  .needs = "tensor" },
	{ AT_FLAG(raw), .name = "raw",
	  .help = "only the bytes of --tensor, for a pipe",
	  .needs = "tensor",
	  .without = "json|print-path|tensors|layers|files|hash|doctor|"
		"stats|memory|kernels|config|diff" },
	{ AT_FLAG(memory), .name = "memory",
	  .help = "what it takes to run: weights, cache, cards; and weights "
		"of other bits and groups" },
	{ AT_INT(batch), .name = "batch", .arg = "N",
	  .help = "--memory for N sequences at once", .def = "1", .lo = 1,
	  .hi = 4096 },
	{ AT_FLAG(kernels), .name = "kernels",
	  .help = "which kernels can run each linear here, which one would, "
		"and why not a faster one" },
	{ AT_FLAG(config), .name = "config",
	  .help = "the quantization config, normalised, as JSON" },
	{ AT_TEXT(html), .name = "html", .arg = "FILE",
	  .help = "write it as one page for a browser, with a map of the "
		"layers; goes well with --stats or --diff" },
	{ AT_TEXT(diff), .name = "diff", .arg = "MODEL",
	  .help = "what differs in another checkpoint, whatever its layout: "
		"configs, tensors, weights; exit 1 on a difference" },
	{ .kind = OPT_END }
};

/* ---- --hash ---- */

static int gather_hash(struct inspect *r, const struct call *c,
		       struct err *err)
{
	const struct args *a = c->args;
	struct digest_job job = {
		.model = r->model, .survey = &r->survey,
		.what = a->hash ? DIGEST_WEIGHTS : DIGEST_BYTES,
		.threads = c->threads, .progress = &r->ui->progress
	};

	r->digest = mem_alloc(1, sizeof(*r->digest), err);
	return r->digest ? digest_model(&job, r->digest, err) : -1;
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

/* The doctor reads all of the zeros and g_idx, and so does what compares; all
 * else what an instant allows. */
static int look(struct inspect *r, const struct call *c, struct err *err)
{
	const struct args *a = c->args;
	bool full = a->doctor || a->diff || opt_given(c->opt, "hash");

	if (full && model_is_local(r->model))
		return survey_model(r->model, &r->survey, err);
	if (a->doctor)
		ui_note(c->ui, "on a server: zeros and g_idx are looked at in "
			"a few layers only");
	return model_glance(r->model, err) ||
	       survey_glance(r->model, &r->survey, err) ? -1 : 0;
}

/* Does nothing that was asked for need tensors? */
static bool needs_none(const struct args *a, bool hash)
{
	return !a->tensors && !a->layers && !a->stats && !a->tensor && !hash &&
	       !a->diff && !a->kernels && !a->html;
}

static int open_and_look(struct inspect *r, const struct call *c,
			 struct err *err)
{
	struct err why;

	if (!open_model(r, c->model, err))
		return look(r, c, err);
	why = *err;
	return needs_none(c->args, opt_given(c->opt, "hash")) ?
		       inspect_absent_gather(r, c->model, &why, err) : -1;
}

/* What every printer needs.  Headers only (and g_idx and
 * qzeros, which are small), so this is quick for any size of model. */
static int gather(struct inspect *r, const struct call *c, struct err *err)
{
	const struct args *a = c->args;
	const struct cJSON *config;
	struct err why;

	if (open_and_look(r, c, err) ||
	    doctor_examine(r->model, &r->survey, &r->doctor, err))
		return -1;
	r->quantized = r->survey.quantized ||
		       (r->absent.is && r->model->quant.tree);
	estimate_model(r->model, &r->survey, (uint32_t)a->batch, &r->estimate);
	config = r->model->config;
	r->architecture = json_text(json_first(json_find(config,
							 "architectures")));
	r->model_type = json_text(json_find(config, "model_type"));
	/* an architecture that we do not run can still be looked at */
	r->cfg_known = config &&
		       !llama_config_read(config, NULL, &r->cfg, &why);
	return inspect_narrow(r, c->ui, err);
}

/* What has to read the values of tensors. */
static int gather_values(struct inspect *r, const struct call *c,
			 struct err *err)
{
	const struct args *a = c->args;
	bool hash = opt_given(c->opt, "hash");
	const struct inspect_need need = {
		.tensor = a->tensor, .stats = a->stats,
		.whole = hash ? "--hash" : a->diff ? "--diff" : NULL
	};
	const struct inspect_ask ask = {
		.name = a->tensor, .head = a->head, .raw = a->raw,
		.threads = c->threads
	};

	if (inspect_fetch(r, &need, err) || (hash && gather_hash(r, c, err)))
		return -1;
	if (a->diff && inspect_diff_gather(r, a->diff, c->threads, err))
		return -1;
	if (a->kernels && inspect_kernels_gather(r, c, err))
		return -1;
	if (a->tensor && inspect_one_gather(r, &ask, err))
		return -1;
	return a->stats ? gather_stats(r, c->threads, err) : 0;
}

/* Is the page what is printed? */
static bool to_stdout(const struct args *a)
{
	return a->html && !strcmp(a->html, "-");
}

/* Is there something to print beside the screen, or instead of a page? */
static bool wants_more(const struct args *a, bool hash)
{
	bool paged = a->stats || a->diff;

	return a->tensors || a->layers || a->files || a->doctor || hash ||
	       a->tensor || a->kernels || a->config || a->memory ||
	       (paged && !a->html);
}

/* As text, only the tables that were asked for; those that a page holds are
 * not printed as well, but its path. */
static int show_text(const struct inspect *r, const struct args *a,
		     struct err *err)
{
	if (!wants_more(a, r->digest) && a->html && !to_stdout(a))
		fprintf(r->out, "%s\n", a->html);
	else if (!wants_more(a, r->digest) && !a->html)
		inspect_screen(r);
	if ((a->files && inspect_files(r, err)) ||
	    (a->layers && inspect_layers(r, err)) ||
	    (a->tensors && inspect_tensors(r, err)) ||
	    (a->stats && !a->html && inspect_stats(r, err)) ||
	    (a->config && ui_json(r->out, inspect_config(r), err)) ||
	    (a->memory && inspect_memory_show(r, err)) ||
	    (a->kernels && inspect_kernels_show(r, err)) ||
	    (a->tensor && inspect_one_show(r, err)) ||
	    (a->diff && !a->html && inspect_diff_show(r, err)))
		return -1;
	if (r->digest)
		inspect_hashes(r);
	if (a->doctor)
		inspect_doctor(r);
	return 0;
}

static int show(const struct inspect *r, const struct args *a, struct err *err)
{
	if (a->html && inspect_html(r, a->html, err))
		return -1;
	if (a->raw)
		return inspect_one_raw(r, err);
	return r->ui->json ? inspect_json(r, err) : show_text(r, a, err);
}

/* Beyond what the table says. */
static int check_args(const struct call *c, struct err *err)
{
	const struct args *a = c->args;

	if (to_stdout(a) && (c->ui->json || a->print_path || a->raw ||
			     wants_more(a, opt_given(c->opt, "hash"))))
		return err_set(err, ERR_USAGE, "--html - takes standard "
			       "output for itself: give it a file");
	return to_stdout(a) ? 0 : call_save_check(a->html, err);
}

static int inspect_run(const struct call *c, struct err *err)
{
	const struct args *a = c->args;
	struct inspect r = { .ui = c->ui,
			     .out = a->print_path ? stderr : stdout };
	int ret = -1;

	if (check_args(c, err))
		return -1;
	if (inspect_match_open(&r, a->match, err) || gather(&r, c, err) ||
	    gather_values(&r, c, err) || show(&r, a, err))
		goto out;
	if (r.absent.is) {
		ret = inspect_absent_end(&r, a->doctor, err);
		c->ui->shut |= c->ui->json; /* the document is printed */
		goto out;
	}
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
	if (r.digest)
		digest_release(r.digest);
	free(r.digest);
	inspect_match_close(r.match);
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
