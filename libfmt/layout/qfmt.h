/* qfmt.h - the layout plug-ins: how a quantized linear lies in tensors.
 *
 * A checkpoint is cut into modules: all tensors "PREFIX.suffix" with one
 * prefix.  Each layout says whether it claims a module (layouts may be mixed
 * in one checkpoint), what the layer's spec is, and how to read it into the
 * neutral layer and write it back.  N layouts and M devices so cost N + M.
 *
 * Tensors win over configs for what they can show (bits, groups, sizes,
 * act-order); the config decides the rest (v1 or v2 of asymmetric zeros).
 * Every contradiction is a bit of `odd`: reported, never a silent choice.
 *
 * Source: gptq-formats(5). */
#ifndef LIBFMT_LAYOUT_QFMT_H
#define LIBFMT_LAYOUT_QFMT_H

#include "ql.h"

#include <stdbool.h>
#include <stddef.h>

struct err;
struct qf_codes;
struct qf_words;

/* All tensors of one prefix, a slice of the model's table, sorted by suffix. */
struct qf_module {
	const char *name;          /* "model.layers.0.mlp.up_proj" */
	const struct tensor *part; /* [count] */
	uint32_t count;
};

/* The tensor NAME.suffix, or NULL.  The suffix has no dot in front. */
const struct tensor *qf_part(const struct qf_module *m, const char *suffix);

/* What the configs say, the second witness; zero fields mean "not said". */
struct qf_hint {
	uint8_t bits;
	int32_t group_size;       /* -1: one group; 0: not said */
	int8_t desc_act, sym;     /* 0, 1; -1: not said */
	const char *format;       /* "gptq", "gptq_v2", ...; NULL: not said */
	uint8_t by_gptqmodel;     /* meta.quantizer names gptqmodel */
	uint8_t swap3;            /* ... in a version 0.9.0 to 6.0.3, whose
				     3-bit v1 zeros have swapped constants */
	uint32_t in, out;         /* from the architecture; 0: unknown */
};

/* What was found odd while reading; doctor.c has the words. */
enum qf_odd {
	QF_ODD_BITS = 1u << 0,        /* config's bits are not the tensors' */
	QF_ODD_GROUP = 1u << 1,       /* config's group_size likewise */
	QF_ODD_ACT = 1u << 2,         /* desc_act false, but g_idx scattered */
	QF_ODD_SYM = 1u << 3,         /* sym true, but zeros are not the mid:
					 the mid is taken */
	QF_ODD_LABEL = 1u << 4,       /* v1/v2 label contradicted by zeros;
					 read as the zeros say */
	QF_ODD_GIDX_MISSING = 1u << 5,
	QF_ODD_GIDX_ZERO = 1u << 6,   /* all zero although G > 1: ignored */
	QF_ODD_GIDX_UNEVEN = 1u << 7, /* groups of unequal size */
	QF_ODD_GIDX_I64 = 1u << 8,
	QF_ODD_ZERO_WRAP = 1u << 9,   /* v1 fields of all ones, whose reading
					 differs between programs */
	QF_ODD_ZERO_SMEAR = 1u << 10, /* v1 zeros lost to a packer's overflow */
	QF_ODD_ZERO_SWAP3 = 1u << 11, /* 3-bit v1 by the swapped constants */
	QF_ODD_SCALE_BAD = 1u << 12,  /* NaN or infinity */
	QF_ODD_SCALE_NEG = 1u << 13,
	QF_ODD_SCALE_ZERO = 1u << 14,
	QF_ODD_BOTH = 1u << 15,       /* .weight beside .qweight */
	QF_ODD_BIAS = 1u << 16,       /* bias of the wrong length */
	QF_ODD_QZEROS_MISSING = 1u << 17,
	QF_ODD_GIDX_ACT_MISSING = 1u << 18, /* desc_act true, no g_idx */
	QF_ODD_WORDS = 1u << 19,            /* words are not of 32 bits */
	QF_ODD_OUTPUTS = 1u << 20,          /* more outputs are stored than the
					       model has: padding, not read */
	QF_ODD_SPARE = 1u << 21,            /* words with spare bits, as
					       compressed-tensors made them
					       before 0.18 */
	QF_ODD_FORM = 1u << 22              /* tensors not as the layout's
					       readers want them: under AWQ's
					       names (Marlin), zeros in bytes,
					       a map that says nothing
					       (compressed-tensors) */
};

struct qf_layer {
	const struct qf_module *module;
	const struct qf_hint *hint;
	struct qf_words *words; /* not NULL: read leaves the codes where they
				   are (ql->code is NULL) and says here how to
				   get them; but it does read them where `how`
				   is NULL then */
	bool glance;  /* spec reads no more than qf_glance of each tensor */
	uint32_t odd; /* enum qf_odd, added to by spec and read */
};

/* How many bytes from its start a glance reads of a tensor: a few kB of g_idx
 * and qzeros, 0 of all others. */
uint64_t qf_glance(const struct tensor *t);

/* The tensors one layer takes on disk. */
#define QF_PARTS 8
struct qf_plan {
	uint32_t count;
	struct {
		char suffix[24];
		enum dtype type;
		int rank;
		uint64_t dim[2];
		uint64_t bytes;
	} part[QF_PARTS];
};

struct qfmt {
	const char *name;    /* as --to and inspect's `format` spell it */
	const char *summary; /* one line */
	/* Suffixes that may hold the weights, NULL at the end: what gives way
	 * when the layer is written in another layout. */
	const char *const *owns;
	/* 1 when the module is stored in this layout, judged by suffixes,
	 * types and shapes (and the hint's label where those do not decide). */
	int (*claims)(const struct qf_module *m, const struct qf_hint *hint);
	/* The layer's spec from headers alone, except that g_idx and qzeros
	 * (small) may be looked at when their data is there. */
	int (*spec)(struct qf_layer *l, struct ql_spec *spec, struct err *err);
	/* Everything.  *ql is initialised here. */
	int (*read)(struct qf_layer *l, struct ql *ql, struct err *err);
	/* 0 when a layer of this spec can be written exactly, else -1 with the
	 * reason and what would work (ERR_UNSUP). */
	int (*accept)(const struct ql_spec *spec, struct err *err);
	int (*plan)(const struct ql_spec *spec, struct qf_plan *plan,
		    struct err *err);
	/* Fill the parts, in the plan's order, each of the planned bytes.  A
	 * value the layout cannot hold (v1: zero 0) is ERR_UNSUP, unless an
	 * exactly equal layer can be written instead.  Parts may be written
	 * to before a refusal.  Without codes (ql_init_grid) all other parts
	 * are filled; 1: these take a look at the codes. */
	int (*write)(const struct ql *ql, void *const part[], struct err *err);
	/* How part 0 holds the codes; NULL: not to be had by tiles. */
	const struct qf_codes *codes;
};

/* The table, in the order in which layouts are asked. */
extern const struct qfmt *const qf_table[];
extern const uint32_t qf_count;

/* The rows that others name. */
extern const struct qfmt qf_gptq, qf_gptq_v2, qf_gptq_p, qf_llama, qf_awq,
	qf_awq_gemv, qf_awq_fast, qf_ct, qf_marlin, qf_gguf;
/* Not in the table: qf_gguf that rounds what would have to be refused. */
extern const struct qfmt qf_gguf_lossy;

/* The qzeros of a gptq layer as gptq_v2 has them, or the other way round, into
 * `words` of the same size: the only difference of the two.  -1 where a field
 * would leave its width, or a word is not full: then only read and write can
 * tell.  `bits` divides 32. */
int qf_rebias(const struct tensor *qzeros, uint32_t bits, bool to_v2,
	      void *words);

/* The outputs of a layer that stores `stored` of them, where the architecture
 * says `out` (0: unknown).  The exllama class of AutoGPTQ fills up to a
 * multiple of 32; any other number is what it is. */
uint64_t qf_outputs(uint64_t stored, uint32_t out);

/* The layer as it stands in the file, its groups and zeros read as `read` reads
 * them: *q points into the module's tensors.  1 where only `read` will do:
 * another layout, sorted rows, padded outputs. */
int qf_stored(const struct qfmt *f, struct qf_layer *l, struct ql_packed *q,
	      struct err *err);

/* By name, or NULL. */
const struct qfmt *qf_find(const char *name);
/* The layout of a module; NULL when no layout claims it (dense weights and
 * single tensors are nobody's). */
const struct qfmt *qf_recognise(const struct qf_module *m,
				const struct qf_hint *hint);

#endif
