/* quantize.h - one run of gptq-quantize, between its files: quantize.c (options
 * and the order of a run), quantize_plan.c (what a run takes),
 * quantize_report.c (log, summary) and quantize_json.c (the report). */
#ifndef TOOLS_QUANTIZE_H
#define TOOLS_QUANTIZE_H

#include "call.h"

#include "../libfmt/survey.h"
#include "../quant/journal.h"
#include "../quant/plan.h"
#include "../quant/target.h"
#include "../quant/verdict.h"
#include "../quant/walk.h"

struct io_stage;
struct model;
struct tok;

struct quantize_args {
	const char *output, *log, *report;
	bool force, sym, desc_act, static_groups, act_group_aware, mse, plain;
	bool true_sequential, lm_head, plan, resume, per_line;
	int method, bits, format;
	int64_t group_size, samples, seqlen, seed;
	double damp, damp_step;
	struct opt_list calib, rule;
	uint64_t shard_size, max_memory, max_device_memory;
};

/* Everything one run opens, closed at its end. */
struct quantize {
	const struct call *call;
	const struct quantize_args *args;
	const struct gq_method *method;
	const struct qfmt *format;
	struct gq_rules *rules;
	struct model *model;
	struct survey survey;
	struct llama_config cfg;
	struct gq_job job;          /* what the walk is asked for */
	struct gq_targets targets;
	struct tok *tok;
	struct calib calib;
	struct rt_dev dev;
	struct gq_journal *journal;
	struct io_stage *stage;     /* the journal's out/, until renamed */
	struct cJSON *identity;
	struct gq_verdict *verdict; /* what lost unusually much */
	size_t verdicts;
	int log_error; /* errno of the first line that was not written */
	FILE *log;
	/* what it takes (quantize_plan.c) */
	struct gq_plan plan;
	char *beside;               /* the directory that the output is in */
	uint64_t limit;             /* of memory */
	bool spill;                 /* activations go to a scratch file */
	double estimate;            /* seconds; --plan only */
	/* what is reported */
	struct gq_layer_report *layer;
	size_t layers, cap;
	bool lost;              /* no memory for a row of the report */
	double began, seconds;
	uint64_t before, after; /* bytes of all tensors */
};

/* Are weight files in this directory?  What is no directory counts as one. */
bool quantize_has_weights(const char *path);
/* Hold what the job needs against the limits, just before the work begins:
 * ERR_RESOURCE, or job.scratch is set where activations have to go there. */
int quantize_fit(struct quantize *j, struct err *err);
/* {limit, planned, peak}: what may be taken, what was foreseen, what it was. */
struct cJSON *quantize_memory_json(const struct quantize *j);
/* --plan: print it.  The exit status, that of the run where it cannot be. */
int quantize_print_plan(struct quantize *j, struct err *err);

/* The log is written as the work goes on, so it is a plain file, not a staged
 * one: after a crash it tells how far the job came.  A log that could not be
 * written is an error when it is closed. */
int quantize_log_open(struct quantize *j, struct err *err);
int quantize_log_close(struct quantize *j, struct err *err);
/* One linear is done; ctx is the struct quantize. */
void quantize_on_layer(void *ctx, const struct gq_layer_report *r);

/* The document of --json and of --report (quantize_json.c). */
struct cJSON *quantize_json(const struct quantize *j);
/* Lines on stderr: what came out, and which linears lost unusually much. */
void quantize_summary(const struct quantize *j);

#endif
