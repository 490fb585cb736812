/* gptq-verify: is this checkpoint well-formed, close to its original, and
 * still a good model?  The answer is the exit status.
 *
 * The checks are in verify_checks.c, verify_kernels.c and verify_manifest.c,
 * the printers in verify_report.c.  A check that does not pass is a result and
 * the next one still runs; what cannot be read or computed at all ends the run
 * (3, 4, 5). */
#include "verify.h"

#include "../runtime/tok.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define OPT_ARGS struct verify_args

static const struct opt options[] = {
	{ .kind = OPT_HEAD, .help = "Checks (structure is always checked)" },
	{ AT_TEXT(manifest), .name = "manifest", .arg = "FILE",
	  .help = "hashes of all tensors are those of FILE" },
	{ AT_TEXT(write_manifest), .name = "write-manifest", .arg = "FILE",
	  .help = "write such a FILE" },
	{ AT_TEXT(against), .name = "against", .arg = "MODEL",
	  .help = "the dense original: error of every linear" },
	{ AT_TEXT(ppl), .name = "ppl", .arg = "FILE",
	  .help = "perplexity on a text (or .ids), also of the original" },
	{ AT_TEXT(kld), .name = "kld", .arg = "FILE",
	  .help = "divergence from the original on a text (or .ids)",
	  .needs = "against" },
	{ AT_INT(seqlen), .name = "seqlen", .arg = "N",
	  .help = "tokens of a window, at most the model's context",
	  .def = "2048", .lo = 2, .hi = 1 << 20,
	  .serves = "ppl|kld" },
	{ AT_CHOICE(kv_type), .name = "kv-type", .arg = "TYPE",
	  .help = "numbers in MODEL's cache: auto (f32 on the CPU, f16 on a "
		"GPU)",
	  .def = "auto", .names = CALL_KV_TYPES,
	  .serves = "ppl|kld" },
	{ AT_TEXT(gpu_layers), .name = "gpu-layers", .arg = "N",
	  .help = "blocks on the GPU, the rest on the CPU",
	  .def = "auto",
	  .serves = "ppl|kld" },
	{ AT_FLAG(kernels), .name = "kernels",
	  .help = "every kernel on linears of this model" },

	{ .kind = OPT_HEAD, .help = "Limits (exit 1 beyond them)" },
	{ AT_REAL(max_ppl), .name = "max-ppl", .arg = "F",
	  .help = "perplexity", .lo = 0, .hi = 1e300,
	  .needs = "ppl" },
	{ AT_REAL(max_ppl_ratio), .name = "max-ppl-ratio", .arg = "F",
	  .help = "perplexity over that of the original",
	  .lo = 0, .hi = 1e300,
	  .needs = "ppl against" },
	{ AT_REAL(max_kld), .name = "max-kld", .arg = "F",
	  .help = "mean divergence in nats", .lo = 0,
	  .hi = 1e300,
	  .needs = "kld" },
	{ AT_REAL(max_layer_error), .name = "max-layer-error", .arg = "F",
	  .help = "relative error of any linear",
	  .lo = 0, .hi = 1e300,
	  .needs = "against" },
	{ AT_REAL(min_top1), .name = "min-top1", .arg = "F",
	  .help = "share of positions with the same best token",
	  .lo = 0, .hi = 1,
	  .needs = "kld" },

	{ .kind = OPT_HEAD, .help = "Output" },
	{ AT_FLAG(print_path), .letter = 'P', .name = "print-path",
	  .help = "on success print MODEL on stdout, the report on stderr",
	  .without = "json" },
	{ AT_TEXT(junit), .name = "junit", .arg = "FILE",
	  .help = "write the report as JUnit XML too" },
	{ .kind = OPT_END }
};

void verify_say(struct verify_check *c, bool passed, const char *fmt, ...)
{
	va_list ap;

	c->passed = passed;
	va_start(ap, fmt);
	vsnprintf(c->message, sizeof(c->message), fmt, ap);
	va_end(ap);
}

static int open_models(struct verify *v, struct err *err)
{
	/* lenient: what is odd is a line of the report, not the end of it */
	if (model_open(v->call->model, MODEL_LENIENT, &v->model, err) ||
	    survey_model(v->model, &v->survey, err))
		return -1;
	if (v->args->against &&
	    model_open(v->args->against, 0, &v->dense, err))
		return -1;
	return 0;
}

/* In the order of the table, which is that of the contract. */
static int run_checks(struct verify *v, struct err *err)
{
	static const struct {
		const char *name;
		int (*fn)(struct verify *v, struct verify_check *c,
			  struct err *err);
	} table[VERIFY_CHECKS] = {
		[VERIFY_STRUCTURE] = { "structure", verify_structure },
		[VERIFY_MANIFEST] = { "manifest", verify_manifest },
		[VERIFY_WEIGHTS] = { "weights", verify_weights },
		[VERIFY_KERNELS] = { "kernels", verify_kernels },
		[VERIFY_PERPLEXITY] = { "perplexity", verify_perplexity },
		[VERIFY_DIVERGENCE] = { "divergence", verify_divergence },
	};
	const struct verify_args *a = v->args;
	const bool asked[VERIFY_CHECKS] = {
		[VERIFY_STRUCTURE] = true,
		[VERIFY_MANIFEST] = a->manifest != NULL,
		[VERIFY_WEIGHTS] = a->against != NULL,
		[VERIFY_KERNELS] = a->kernels,
		[VERIFY_PERPLEXITY] = a->ppl != NULL,
		[VERIFY_DIVERGENCE] = a->kld != NULL
	};

	v->passed = true;
	for (int i = 0; i < VERIFY_CHECKS; i++) {
		struct verify_check *c = &v->check[i];
		double began = ui_now();

		c->name = table[i].name;
		c->asked = asked[i];
		if (!c->asked)
			continue;
		/* a checkpoint that breaks the rules is not computed with */
		if (i && !v->check[VERIFY_STRUCTURE].passed)
			verify_say(c, false, "not run: structure failed");
		else if (table[i].fn(v, c, err))
			return -1;
		c->seconds = ui_now() - began;
		v->passed &= c->passed;
	}
	return 0;
}

/* The JUnit file is a copy beside the report, not instead of it. */
static int print_report(const struct verify *v, struct err *err)
{
	if (v->args->junit && verify_junit(v, v->args->junit, err))
		return -1;
	if (v->call->ui->json)
		return verify_json(v, err);
	return verify_text(v, err);
}

static int verify_run(const struct call *c, struct err *err)
{
	const struct verify_args *a = c->args;
	struct verify v = { .call = c, .args = a,
			    .out = a->print_path ? stderr : stdout };
	uint32_t layers; /* only whether it is a number */
	int ret = -1;

	if (call_gpu_layers(a->gpu_layers, &layers, err) ||
	    call_save_check(a->junit, err) ||
	    call_save_check(a->write_manifest, err) || open_models(&v, err) ||
	    run_checks(&v, err))
		goto out;
	ui_done(c->ui);
	if (a->write_manifest && !v.check[VERIFY_STRUCTURE].passed)
		ui_warn(c->ui, "no manifest is written of a checkpoint that "
			"breaks the rules");
	else if (a->write_manifest &&
		 verify_manifest_write(&v, a->write_manifest, err))
		goto out;
	if (print_report(&v, err))
		goto out;
	ret = v.passed ? 0 : ERR_CHECK;
	if (v.passed && a->print_path)
		puts(c->model);
out:
	llm_close(v.llm);
	llm_close(v.base);
	call_device_close(&v.dev);
	call_device_close(&v.rest);
	tok_close(v.tok);
	check_release(&v.structure);
	free(v.layer);
	free(v.kernel);
	survey_release(&v.survey);
	model_close(v.dense);
	model_close(v.model);
	return ret;
}

const struct applet applet_verify = {
	.name = "verify",
	.summary = "Check a checkpoint: structure, weights, perplexity",
	.usage = "MODEL [options]",
	.examples = {
		"gptq-verify llama-4bit",
		"gptq-verify llama-4bit --against llama --ppl wiki.txt "
			"--max-ppl-ratio 1.05"
	},
	.options = options,
	.args_size = sizeof(struct verify_args),
	.run = verify_run
};
