/* config.h - the quantization config: read from any of its homes, normalised,
 * and written back to both.
 *
 * Homes, in the order believed (the tensors have the last word, see qfmt.h):
 * config.json "quantization_config", quantize_config.json, quant_config.json.
 * Synonyms (w_bit, wbits, q_group_size, groupsize, is_marlin_format, method,
 * format) are folded.  Source: gptq-formats(5)
 * "Quantization config". */
#ifndef LIBFMT_CONFIG_H
#define LIBFMT_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

struct cJSON;
struct err;
struct qf_hint;

enum config_source {
	CONFIG_NONE = 0,    /* no home was there */
	CONFIG_MODEL,       /* config.json */
	CONFIG_QUANTIZE,    /* quantize_config.json or quant_config.json */
	CONFIG_INFERRED     /* from the tensors */
};

/* The program's version, and who wrote a checkpoint, as meta.quantizer tells
 * it. */
#define CONFIG_VERSION "0.1.0"
#define CONFIG_QUANTIZER "gptq-kit:" CONFIG_VERSION

/* Strings are borrowed from the trees that were read, or constants. */
struct config_quant {
	enum config_source source;
	uint32_t bits;           /* 0: not said */
	int32_t group_size;      /* -1: one group; 0: not said */
	int8_t desc_act, sym;    /* 0, 1; -1: not said */
	bool lm_head;
	const char *method;      /* quant_method: "gptq", ...; NULL: not said */
	const char *format;      /* checkpoint_format; NULL: not said */
	const char *quantizer;   /* meta.quantizer (first entry); or NULL */
	bool by_gptqmodel;       /* an entry of meta.quantizer is gptqmodel's */
	bool swap3;              /* ... in a version from 0.9.0 to 6.0.3, whose
				    3-bit v1 zeros are made otherwise */
	bool disagree;           /* the two homes contradict each other */
	const char *differs;     /* then: the first key that does; or NULL */
	bool group_zero;         /* group_size 0 was said; read as not said */
	const char *second;      /* who else said something that the configs do
				    not: "the name", ...; NULL: nobody */
	const struct cJSON *tree;    /* the object as it was, or NULL */
	const struct cJSON *dynamic; /* its per-module rules, or NULL */
};

/* `config` is config.json's tree, `quantize` quantize_config.json's; either
 * may be NULL.  A field of the wrong type is ERR_INPUT.  What the first home
 * does not say is taken from the second.  Numbers of methods that are not of
 * the GPTQ family (exl2, fp8, ...) are not looked at: they mean something
 * else. */
int config_quant_read(const struct cJSON *config, const struct cJSON *quantize,
		      struct config_quant *out, struct err *err);
/* One of compressed-tensors' config_groups: bits, group_size, sym and
 * desc_act of *out, the rest is left as it is. */
int config_group_read(const struct cJSON *group, struct config_quant *out,
		      struct err *err);
/* "config.json", "quantize_config.json", "inferred" or "none". */
const char *config_source_name(enum config_source s);

/* What is written: one object, the same in both homes. */
struct config_out {
	uint32_t bits;
	int32_t group_size;      /* -1: one group per row */
	bool desc_act, sym, static_groups, true_sequential, lm_head;
	double damp_percent;
	const char *format;      /* "gptq", "gptq_v2" */
	const char *method;      /* "gptq" */
	const struct cJSON *dynamic; /* copied when not NULL */
	const struct cJSON *keep;    /* an older object whose informative
					fields are kept; or NULL */
};
/* A new object with quant_method, checkpoint_format and the newer names method
 * and format beside them, and meta.quantizer = CONFIG_QUANTIZER (kept when
 * `keep` has one); the caller frees it with json_free.  How the codes were once
 * made (damp_percent, true_sequential, static_groups) is taken from `keep`
 * where it says so; what a reader needs is always taken from `c`.  Hints of
 * other programs' run time and names of files are dropped. */
int config_quant_build(const struct config_out *c, struct cJSON **out,
		       struct err *err);

/* What else changes in config.json; zeroed: nothing. */
struct config_edit {
	const char *dtype; /* torch_dtype (and dtype where present); NULL: as it
			      was */
	enum config_tie { CONFIG_TIE_KEEP = 0, CONFIG_TIE_NO, CONFIG_TIE_YES }
		tie;       /* tie_word_embeddings */
	uint32_t inter;    /* intermediate_size; 0: as it was */
};

/* Write DIR/config.json (the model's tree with quantization_config replaced;
 * removed when `quant` is NULL) and DIR/quantize_config.json (not with NULL).
 * Without the model's tree there is no config.json; `edit` may be NULL. */
int config_write(const char *dir, const struct cJSON *config,
		 const struct cJSON *quant, const struct config_edit *edit,
		 struct err *err);

#endif
