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
	const char *fix;    /* the remedy of this one, not the row's; NULL */
	uint32_t number;    /* the remedy's last argument; 0: it has none */
	bool hopeless;      /* the row's remedy does not help this one */
	char text[160];     /* where, detail or fix may point here */
};

struct doctor_patient {
	const struct model *m;
	const struct survey *s;
	const struct model_tidy *tidy;
};

/* Severity: error, somebody fails on it or computes something else; warning,
 * somebody's loader complains or nobody should write it; note, good to know.
 * Remedies that are DOCTOR_FIX are what gptq-repack --fix does; all others
 * change a layout or sizes and are the user's choice.  Above a row stands where
 * users have met it, as repository#number; in tests/unit/test_doctor.c is, by
 * code, what shows it and that its remedy mends it. */
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
	const char *says; /* what it prints, in its words */
	const char *fix;  /* options of gptq-repack, or NULL */
};

#define DOCTOR_FIX "--fix"
/* What is said by a loader that notices nothing. */
#define DOCTOR_WRONG "(it loads, and answers gibberish or !!!!!!!!)"
#define DOCTOR_SHAPE "Trying to set a tensor of shape ... in \"qweight\" "   \
	"(which has shape ...), this look incorrect."
#define DOCTOR_BUILDERS "transformers, GPTQModel, AutoGPTQ, vLLM"

struct doctor_table {
	const struct doctor_row *row;
	size_t count;
};

extern const struct doctor_table doctor_files, doctor_configs, doctor_rules,
	doctor_names, doctor_model, doctor_layers, doctor_kernels;
/* All there is to a GGUF file, whose readers are others. */
extern const struct doctor_table doctor_gguf;

/* Count one; the first one's place is kept. */
void doctor_found(struct doctor_finding *f, const char *where);
/* A layer that was read and is of GPTQ's own family of layouts. */
bool doctor_is_gptq(const struct survey_layer *l);
/* The largest size that divides the groups and inputs of all GPTQ layers with
 * more than one group; 0: there is none. */
uint32_t doctor_group_divisor(const struct survey *s);
/* Is there no group_size that is true of both? */
bool doctor_groups_differ(const struct survey_layer *a,
			  const struct survey_layer *b);
/* The remedy that makes the bits, or the groups, of all layers equal: wider
 * codes and smaller groups, which is exact. */
void doctor_make_equal(const struct survey *s, bool bits, bool groups,
		       struct doctor_finding *f);
/* Are the scales exact in F16, as far as the first few tell? */
bool doctor_scales_fit(const struct survey *s);
/* What codes of all layers may be widened to: 4, or 8 where some are wider. */
uint32_t doctor_common_bits(const struct survey *s);
/* Layers whose `odd` has one of the row's bits. */
void doctor_test_odd(const struct doctor_patient *p,
		     const struct doctor_row *r, struct doctor_finding *f);

#endif
