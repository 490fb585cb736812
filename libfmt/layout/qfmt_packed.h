/* qfmt_packed.h - between the files of the packed-integer layouts only.
 *
 *	qweight [words(K), N]   codes, packed along the inputs (N may be padded:
 *	                        qf_outputs)
 *	qzeros  [G, words(N)]   zeros, packed along the outputs
 *	scales  [G, N]          F16, BF16 or F32
 *	g_idx   [K]             group of each input; may be absent
 *	perm    [K]             only in sorted layers, which no other program
 *	                        reads: row j of qweight is input perm[j], and
 *	                        g_idx[j] its group
 *
 * Source: gptq-formats(5) "GPTQ" and "Sizes from tensors". */
#ifndef LIBFMT_LAYOUT_QFMT_PACKED_H
#define LIBFMT_LAYOUT_QFMT_PACKED_H

#include "qfmt.h"

struct bits_rule;

/* A layout: which tensors there are, how fields sit in words, and what is
 * added to a stored zero. */
struct packed_rule {
	const char *name;
	const char *codes, *zeros, *scales, *index; /* suffixes */
	const struct bits_rule *bits;
	uint16_t widths; /* bit b: codes of b bits exist */
	uint8_t bias;    /* zero = stored field + bias */
};

/* The tensors of one module and the words that they hold. */
struct packed {
	const struct packed_rule *rule;
	const struct qf_hint *hint; /* never NULL */
	const char *module;
	const struct tensor *codes, *zeros, *scales, *index, *perm;
	uint32_t rows, zcols; /* 32-bit word rows of codes, columns of zeros */
	uint32_t width;       /* outputs that are stored: N, or N padded */
	uint32_t word;        /* bits of the words as stored */
};

/* Packed codes that are no other known layout's.  Damaged modules are too: then
 * spec says what is wrong with them. */
bool qf_packed_is_gptq(const struct qf_module *m);
/* Find the parts; check that they are there, their types and ranks. */
int qf_packed_find(const struct packed_rule *r, const struct qf_layer *l,
		   struct packed *p, struct err *err);
/* N, bits, K, G, the scales' type: all that shapes can say.  The shapes must
 * agree with each other; of two that do not, the one is named that the config
 * contradicts as well. */
int qf_packed_sizes(const struct packed *p, struct ql_spec *s,
		    struct err *err);
/* The same from the first entries of g_idx, and no group_of. */
int qf_packed_glance(const struct packed *p, struct ql_spec *s,
		     uint32_t *odd, struct err *err);
/* group_size, act_order and group_of [in], from g_idx where it says something,
 * else i / group_size.  Adds to *odd. */
int qf_packed_groups(const struct packed *p, struct ql_spec *s,
		     uint32_t *group_of, uint32_t *odd, struct err *err);

/* The layouts whose codes are plain streams. */
extern const struct packed_rule qf_rule_gptq, qf_rule_gptq_v2;

/* Where the rows of a sorted layer belong, perm [in]; a list that is no
 * permutation is ERR_INPUT. */
int qf_packed_perm(const struct packed *p, uint32_t in, uint32_t *perm,
		   struct err *err);

/* ---- writing: as struct qfmt has it, by rule ---- */

const struct qf_codes *qf_packed_codes(const struct packed_rule *r);
int qf_packed_accept(const struct packed_rule *r, const struct ql_spec *spec,
		     struct err *err);
int qf_packed_plan(const struct packed_rule *r, const struct ql_spec *spec,
		   struct qf_plan *plan, struct err *err);
int qf_packed_write(const struct packed_rule *r, const struct ql *ql,
		    void *const part[], struct err *err);

#endif
