/* verify.h - what gptq-verify found: filled check by check, printed at the end
 * as text, JSON and JUnit. */
#ifndef TOOLS_VERIFY_H
#define TOOLS_VERIFY_H

#include "../libfmt/check.h"
#include "../libfmt/model.h"
#include "../runtime/score.h"
#include "call.h"

#include <stdbool.h>

struct tok;

/* In the order in which they run. */
enum verify_what { VERIFY_STRUCTURE = 0, VERIFY_MANIFEST, VERIFY_WEIGHTS,
	VERIFY_KERNELS, VERIFY_PERPLEXITY, VERIFY_DIVERGENCE, VERIFY_CHECKS };

struct verify_check {
	const char *name;
	bool asked, passed;
	double seconds;
	char message[400];
};

struct verify_layer {
	const char *name;   /* borrowed from the model */
	double rel_error;   /* |W - Q|_F / |W|_F */
	double max_abs;     /* largest |w - q| */
	double cosine;      /* of the two weights as vectors */
};

/* A kernel and the linears it was tried on. */
struct verify_kernel {
	char name[48];
	double rel_error; /* the worst, |Y - Y64|_F / |Y64|_F */
	uint32_t layers;
	uint32_t last;    /* the linear it was tried on last, for the count */
};

struct verify_args {
	const char *manifest, *write_manifest, *against, *ppl, *kld, *junit;
	int64_t seqlen;
	int kv_type;
	const char *gpu_layers;
	bool kernels, print_path;
	double max_ppl, max_ppl_ratio, max_kld, max_layer_error, min_top1;
};

struct verify {
	const struct call *call;
	const struct verify_args *args;
	FILE *out;               /* stdout, or stderr with --print-path */
	struct model *model, *dense; /* dense: --against, or NULL */
	struct survey survey;
	struct tok *tok;
	struct rt_dev dev, rest;
	struct llm *llm, *base;  /* model and dense, while they are needed */
	uint32_t seqlen;
	bool passed;
	struct verify_check check[VERIFY_CHECKS];
	struct check structure;
	struct verify_layer *layer;
	uint32_t layers;
	struct verify_kernel *kernel;
	uint32_t kernels;
	bool have_ppl, have_base, have_kld;
	struct score_ppl ppl, base_ppl;
	struct score_kld kld;
};

/* Put the verdict into a check: passed, and the message. */
void verify_say(struct verify_check *c, bool passed, const char *fmt, ...)
	ERR_PRINTF(3, 4);

/* The checks (verify_checks.c, verify_manifest.c, verify_kernels.c).  A verdict
 * is no error; -1 is for what stops the whole run. */
int verify_structure(struct verify *v, struct verify_check *c,
		     struct err *err);
int verify_manifest(struct verify *v, struct verify_check *c,
		    struct err *err);
int verify_weights(struct verify *v, struct verify_check *c, struct err *err);
int verify_kernels(struct verify *v, struct verify_check *c, struct err *err);
int verify_perplexity(struct verify *v, struct verify_check *c,
		      struct err *err);
int verify_divergence(struct verify *v, struct verify_check *c,
		      struct err *err);
/* Write the manifest that verify_manifest reads. */
int verify_manifest_write(struct verify *v, const char *path,
			  struct err *err);

/* The printers (verify_report.c). */
int verify_text(const struct verify *v, struct err *err);
int verify_json(const struct verify *v, struct err *err);
int verify_junit(const struct verify *v, const char *path, struct err *err);

#endif
