/* doctor_impl.h - between the files of the doctor only: doctor.c walks the
 * tables of the other files, each of one subject. */
#ifndef LIBFMT_DOCTOR_IMPL_H
#define LIBFMT_DOCTOR_IMPL_H

#include "doctor.h"
#include "model_tidy.h"

#include <stddef.h>

/* What a test found: how many, and the first one. */
struct doctor_finding {
	uint32_t count;
	const char *where;  /* module, file, or "" */
	const char *detail; /* behind the words, or NULL */
	uint32_t number;    /* the remedy's last argument; 0: it has none */
	bool hopeless;      /* the row's remedy does not help this one */
	char text[160];     /* where or detail may point here */
};

struct doctor_patient {
	const struct model *m;
	const struct survey *s;
	const struct model_tidy *tidy;
};

/* Severity: error, somebody fails on it or computes something else; warning,
 * somebody's loader complains or nobody should write it; note, good to know.
 * Remedies that are DOCTOR_FIX are what gptq-repack --fix does; all others
 * change a layout or sizes and are the user's choice. */
struct doctor_row {
	const char *code;
	enum doctor_severity severity;
	/* Fills *f; a count of 0 means healthy. */
	void (*test)(const struct doctor_patient *p,
		     const struct doctor_row *r, struct doctor_finding *f);
	uint32_t bits;    /* for tests that look for bits of `odd` */
	const char *unit; /* what is counted; NULL: there is but one */
	const char *words;
	const char *refused_by;
	const char *says; /* gptq-formats(5), in the words of a loader */
	const char *fix;  /* options of gptq-repack, or NULL */
};

#define DOCTOR_FIX "--fix"
#define DOCTOR_BUILDERS "transformers, GPTQModel, AutoGPTQ, vLLM"

struct doctor_table {
	const struct doctor_row *row;
	size_t count;
};

extern const struct doctor_table doctor_files, doctor_configs, doctor_names,
	doctor_layers, doctor_kernels;
/* All there is to a GGUF file, whose readers are others. */
extern const struct doctor_table doctor_gguf;

/* Count one; the first one's place is kept. */
void doctor_found(struct doctor_finding *f, const char *where);
/* A layer that was read and is of GPTQ's own family of layouts. */
bool doctor_is_gptq(const struct survey_layer *l);
/* Layers whose `odd` has one of the row's bits. */
void doctor_test_odd(const struct doctor_patient *p,
		     const struct doctor_row *r, struct doctor_finding *f);

#endif
