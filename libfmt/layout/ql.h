/* ql.h - the neutral layer: what every layout is read into and written from.
 *
 *	QL_POINT   W[n][k] = scale[n][g] * (code[n][k] - zero[n][g])
 *	QL_OFFSET  W[n][k] = scale[n][g] * code[n][k] - zero[n][g]
 *	           g = group_of[k],  n = output,  k = input
 *
 * QL_POINT is every GPTQ-like layout: zero is a whole number, 0..2^bits (a v1
 * field of all ones reads as 2^bits).  QL_OFFSET is for float-zero layouts.
 * One byte per code; row n owns its codes, scales and zeros; all four arrays
 * are always present.  f32 holds every f16 and bf16 scale exactly, so round
 * trips are bit-exact.  Permutations are derived from group_of, never stored.
 *
 * "Dequantize in f32, round once to the wanted type" is the exact definition
 * of a weight's value (gptq-formats(5) "Conventions"). */
#ifndef LIBFMT_LAYOUT_QL_H
#define LIBFMT_LAYOUT_QL_H

#include "../container/tensor.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct err;

enum ql_zero { QL_POINT = 0, QL_OFFSET };

struct ql_spec {
	uint32_t out, in;        /* N, K */
	uint32_t groups;         /* G = ceil(in / group_size) */
	uint32_t group_size;     /* in: one group per row ("-1" in configs) */
	uint8_t bits;            /* 2..8 */
	uint8_t act_order;       /* group_of is not k / group_size */
	uint8_t sym;             /* every zero is 2^(bits-1) */
	enum ql_zero zero_kind;
	enum dtype scale_type;   /* F16, BF16 or F32: as the file stores it */
	uint8_t sorted;          /* on disk only: inputs stand in the order of
				    their groups, the permutation beside them */
};

struct ql {
	struct ql_spec spec;
	uint8_t *code;      /* [out][in] */
	float *scale;       /* [out][groups] */
	float *zero;        /* [out][groups] */
	uint32_t *group_of; /* [in] */
	void *mem;          /* the one block behind all four */
	uint32_t first;     /* some rows of a layer, looked at by themselves:
			       which of its outputs the first one is, for
			       messages */
};

#define QL_DIM_MAX (1u << 24) /* a larger in or out is refused */

/* Check the spec (sizes, bits, groups) and allocate; arrays are zeroed,
 * group_of is k / group_size.  On failure *ql is zeroed. */
int ql_init(struct ql *ql, const struct ql_spec *spec, struct err *err);
/* The same without codes: code is NULL.  Only what says so takes such a
 * layer. */
int ql_init_grid(struct ql *ql, const struct ql_spec *spec, struct err *err);
void ql_release(struct ql *ql); /* accepts a zeroed struct */

/* Check the invariants on the data: codes < 2^bits, group_of < groups, QL_POINT
 * zeros whole and in 0..2^bits, scales finite, act_order and sym as the arrays
 * say.  ERR_INPUT naming the first place that breaks one. */
int ql_check(const struct ql *ql, struct err *err);

/* Set spec.act_order and spec.sym from the arrays. */
void ql_observe(struct ql *ql);

/* Row n as f32: out[in].  Exact for f16 and bf16 scales. */
void ql_dequant_row(const struct ql *ql, uint32_t n, float *out);

/* Compare the dequantized weights of two layers of one shape. */
struct ql_diff {
	uint64_t unequal; /* weights whose f32 bits differ (-0 equals 0) */
	double max_abs;   /* largest |a - b| */
	double sum_abs;   /* of all |a - b| */
	uint32_t n, k;    /* where */
};
int ql_compare(const struct ql *a, const struct ql *b, struct ql_diff *diff,
	       struct err *err);

/* Where rows and columns of a moved layer come from.  Places behind the old
 * sizes are padding: weights of 0. */
struct ql_map {
	const uint32_t *row; /* [old out]: place n holds old output row[n];
				NULL: n */
	const uint32_t *col; /* [old in], likewise */
	uint32_t out, in;    /* new sizes, not below the old ones */
};
#define QL_PAD UINT32_MAX
/* Where place i of `count` old ones (and padding behind them) comes from:
 * QL_PAD for padding. */
uint32_t ql_map_from(const uint32_t *map, uint32_t count, uint32_t i);

/* ql_compare, where b's weights stand as the map says and its padding is 0;
 * n and k of *diff are places in b. */
int ql_compare_moved(const struct ql *a, const struct ql_map *map,
		     const struct ql *b, struct ql_diff *diff,
		     struct err *err);

/* A QL_POINT layer as a file may hold it, for devices that take it so.  Column
 * n of the words is a stream of spec.bits wide codes (bits.h), that of output
 * n: what ql_dequant_row gives follows from the definition above. */
struct ql_packed {
	struct ql_spec spec;
	const void *words;  /* [ceil(in * bits / 32)][out], little endian */
	const void *scales; /* [groups][out] of spec.scale_type */
	const void *zeros;  /* [groups] streams of out fields, as words; NULL:
			       all zeros are 2^(bits-1).  None of these need be
			       aligned, all are the file's */
	/* a zero is (field + zero_plus) & zero_mask, once zero_add[i % 3] has
	 * been added to word i of each row */
	uint32_t zero_add[3];
	uint16_t zero_plus, zero_mask;
	uint32_t *group_of; /* [in] */
};
void ql_packed_release(struct ql_packed *q); /* accepts a zeroed struct */
/* ERR_INPUT for a scale that is not finite, in the words of ql_check. */
int ql_packed_check(const struct ql_packed *q, struct err *err);
#define QL_BAD_SCALE \
	"scale %g at output %u, group %u (expected a finite number)"

#ifdef __cplusplus
}
#endif
#endif
