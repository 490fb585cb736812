/* qfmt_gguf.h - between the files of ggml's blocks only. */
#ifndef LIBFMT_LAYOUT_QFMT_GGUF_H
#define LIBFMT_LAYOUT_QFMT_GGUF_H

#include "qfmt_codes.h"
#include "ql.h"

#define QF_GGUF_BLOCK 256 /* elements of the largest block */

/* What is known of a type of blocks. */
struct qf_gguf_kind {
	enum dtype type;
	uint8_t bits;       /* of a code */
	uint16_t group;     /* inputs that share a (sub-)scale */
	enum ql_zero zero_kind;
	enum dtype scale_type; /* DT_NONE: the type is not decoded */
};
/* NULL: not a type of blocks. */
const struct qf_gguf_kind *qf_gguf_kind(enum dtype type);

/* Of one block of a type that is decoded: a scale and a zero for each of its
 * groups. */
void qf_gguf_grid(enum dtype type, const uint8_t *block, float *scale,
		  float *zero);
/* The codes of such tensors (qf_words.of; read). */
extern const struct qf_codes qf_gguf_codes;

#endif
