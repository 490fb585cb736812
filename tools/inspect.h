/* inspect.h - what gptq-inspect found out, filled once and printed by one of
 * two printers. */
#ifndef TOOLS_INSPECT_H
#define TOOLS_INSPECT_H

#include "../libfmt/absent.h"
#include "../libfmt/diff.h"
#include "../libfmt/digest.h"
#include "../libfmt/doctor.h"
#include "../libfmt/estimate.h"
#include "../libfmt/llama.h"
#include "../libfmt/model.h"
#include "../libfmt/stats.h"
#include "applets.h"
#include "ui.h"

#include <stdbool.h>

/* --diff: the other checkpoint, and what was found. */
struct inspect_diff {
	struct model *other;
	struct survey survey;
	struct diff diff;
};
struct inspect_kernels; /* of --kernels; inspect_kernels.c */
struct inspect_one; /* of --tensor; inspect_tensor.c */

struct inspect {
	const struct ui *ui;
	FILE *out;              /* stdout, or stderr with --print-path */
	struct model *model;
	struct survey survey;
	struct doctor doctor;
	struct estimate estimate;
	struct llama_config cfg;
	bool cfg_known;         /* cfg is filled */
	bool quantized;         /* some linear is, or is said to be */
	struct absent absent;   /* weights that are not here, and the failure */
	struct err failure;     /* that this was */
	const char *architecture, *model_type; /* or NULL */
	struct inspect_match *match; /* --match, or NULL */
	bool *show_layer;       /* [survey.count]: it lets it through */
	bool *show_tensor;      /* [model->tensor_count] */
	struct digest *digest;  /* --hash, or NULL */
	struct stats *stats;    /* --stats, or NULL */
	struct inspect_diff *diff; /* --diff, or NULL */
	struct inspect_kernels *kernels; /* --kernels, or NULL */
	struct inspect_one *one; /* --tensor, or NULL */
};

/* What needs bytes of the weights. */
struct inspect_need {
	const char *tensor; /* of --tensor; or NULL */
	const char *whole;  /* the option that needs all of them; or NULL */
	bool stats;
};
/* Fetch them, when the model is on a server; ERR_UNSUP when they are too
 * many. */
int inspect_fetch(struct inspect *r, const struct inspect_need *need,
		  struct err *err);

/* ---- weights that are not here (inspect_absent.c) ---- */

/* After the model could not be opened: open it again without weights, if that
 * was the reason and there are configs to tell of; else *why is the error.
 * The survey is then what the configs say. */
int inspect_absent_gather(struct inspect *r, const char *path,
			  const struct err *why, struct err *err);
/* What stands where the size would. */
void inspect_absent_size(const struct inspect *r, char buf[96]);
/* How the applet ends after everything was shown. */
int inspect_absent_end(struct inspect *r, bool examined, struct err *err);

/* ---- --match (inspect_match.c) ---- */

int inspect_match_open(struct inspect *r, const char *pattern,
		       struct err *err);
void inspect_match_close(struct inspect_match *m); /* accepts NULL */
bool inspect_shows(const struct inspect *r, const char *name);
/* Fill show_layer and show_tensor; a warning when nothing is shown. */
int inspect_narrow(struct inspect *r, struct ui *ui, struct err *err);

/* ---- screen and tables ---- */

/* The default screen. */
void inspect_screen(const struct inspect *r);
int inspect_tensors(const struct inspect *r, struct err *err);
int inspect_layers(const struct inspect *r, struct err *err);
int inspect_files(const struct inspect *r, struct err *err);
/* A line for each tensor, and one for the model. */
void inspect_hashes(const struct inspect *r);
/* What the values are, layer by layer and tensor by tensor. */
int inspect_stats(const struct inspect *r, struct err *err);
/* The share of codes at either end of the range: clipped, or close to it. */
double inspect_stats_ends(const struct stats_layer *l);
/* As members of a layer's or a tensor's object. */
void inspect_stats_layer_json(struct cJSON *o, const struct stats_layer *l);
void inspect_stats_json(struct cJSON *o, const char *key,
			const struct stats_values *v);

/* ---- --diff (inspect_diff.c) ---- */

int inspect_diff_gather(struct inspect *r, const char *other, uint32_t threads,
			struct err *err);
void inspect_diff_free(struct inspect_diff *d); /* accepts NULL */
int inspect_diff_show(const struct inspect *r, struct err *err);
void inspect_diff_json(struct cJSON *top, const struct inspect *r);

/* ---- --memory (inspect_memory.c) ---- */

int inspect_memory_show(const struct inspect *r, struct err *err);
void inspect_memory_json(struct cJSON *top, const struct inspect *r);
/* What the cache is for: "4096 tokens", "8 x 4096 tokens". */
const char *inspect_memory_tokens(const struct estimate *e, char buf[48]);
/* In a line: how much, and the smallest cards that have it.  The total is
 * known. */
void inspect_memory_line(const struct estimate *e, char buf[160]);

/* ---- --kernels, --config (inspect_kernels.c, inspect_config.c) ---- */

/* By trying: each kind of linear is prepared for every kernel. */
int inspect_kernels_gather(struct inspect *r, const struct call *c,
			   struct err *err);
void inspect_kernels_free(struct inspect_kernels *k); /* accepts NULL */
int inspect_kernels_show(const struct inspect *r, struct err *err);
void inspect_kernels_json(struct cJSON *top, const struct inspect *r);
/* The quantization config with one spelling of every key; JSON null where
 * nothing is quantized. */
struct cJSON *inspect_config(const struct inspect *r);

/* ---- --tensor (inspect_tensor.c) ---- */

struct inspect_ask {
	const char *name;    /* of a tensor or a module; NAME@dequant */
	int64_t head;        /* 0: as many as fit */
	bool raw;
	uint32_t threads;
};
int inspect_one_gather(struct inspect *r, const struct inspect_ask *ask,
		       struct err *err);
void inspect_one_free(struct inspect_one *o); /* accepts NULL */
int inspect_one_show(const struct inspect *r, struct err *err);
/* The bytes alone. */
int inspect_one_raw(const struct inspect *r, struct err *err);
void inspect_one_json(struct cJSON *top, const struct inspect *r);

/* All of it as a page in a file of its own (inspect_html.c). */
int inspect_html(const struct inspect *r, const char *path, struct err *err);
/* Every problem, who refuses it, what mends it. */
void inspect_doctor(const struct inspect *r);
/* All of it. */
int inspect_json(const struct inspect *r, struct err *err);

#endif
