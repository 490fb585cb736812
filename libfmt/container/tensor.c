/* tensor.c - names and sizes of element types; elements as f32.
 *
 * File data has no alignment, so elements are loaded through half.h, which
 * compilers turn into plain loads. */
#include "tensor.h"

#include "../base/half.h"

#include <stdio.h>
#include <string.h>

/* Indexed by enum dtype. */
static const struct {
	const char *name;
	uint32_t bits;         /* of one element */
	uint32_t block, bytes; /* of a block of elements */
} types[DT_COUNT] = {
	[DT_NONE] = { "?", 0, 0, 0 },
	[DT_BOOL] = { "BOOL", 8, 0, 0 },
	[DT_F4] = { "F4", 4, 0, 0 },
	[DT_F6_E2M3] = { "F6_E2M3", 6, 0, 0 },
	[DT_F6_E3M2] = { "F6_E3M2", 6, 0, 0 },
	[DT_U8] = { "U8", 8, 0, 0 },
	[DT_I8] = { "I8", 8, 0, 0 },
	[DT_F8_E5M2] = { "F8_E5M2", 8, 0, 0 },
	[DT_F8_E4M3] = { "F8_E4M3", 8, 0, 0 },
	[DT_F8_E8M0] = { "F8_E8M0", 8, 0, 0 },
	[DT_F8_E4M3FNUZ] = { "F8_E4M3FNUZ", 8, 0, 0 },
	[DT_F8_E5M2FNUZ] = { "F8_E5M2FNUZ", 8, 0, 0 },
	[DT_I16] = { "I16", 16, 0, 0 },
	[DT_U16] = { "U16", 16, 0, 0 },
	[DT_F16] = { "F16", 16, 0, 0 },
	[DT_BF16] = { "BF16", 16, 0, 0 },
	[DT_I32] = { "I32", 32, 0, 0 },
	[DT_U32] = { "U32", 32, 0, 0 },
	[DT_F32] = { "F32", 32, 0, 0 },
	[DT_C64] = { "C64", 64, 0, 0 },
	[DT_F64] = { "F64", 64, 0, 0 },
	[DT_I64] = { "I64", 64, 0, 0 },
	[DT_U64] = { "U64", 64, 0, 0 },
	[DT_Q4_0] = { "Q4_0", 0, 32, 18 },
	[DT_Q4_1] = { "Q4_1", 0, 32, 20 },
	[DT_Q5_0] = { "Q5_0", 0, 32, 22 },
	[DT_Q5_1] = { "Q5_1", 0, 32, 24 },
	[DT_Q8_0] = { "Q8_0", 0, 32, 34 },
	[DT_Q8_1] = { "Q8_1", 0, 32, 40 },
	[DT_Q2_K] = { "Q2_K", 0, 256, 84 },
	[DT_Q3_K] = { "Q3_K", 0, 256, 110 },
	[DT_Q4_K] = { "Q4_K", 0, 256, 144 },
	[DT_Q5_K] = { "Q5_K", 0, 256, 176 },
	[DT_Q6_K] = { "Q6_K", 0, 256, 210 },
	[DT_Q8_K] = { "Q8_K", 0, 256, 292 },
	[DT_IQ2_XXS] = { "IQ2_XXS", 0, 256, 66 },
	[DT_IQ2_XS] = { "IQ2_XS", 0, 256, 74 },
	[DT_IQ3_XXS] = { "IQ3_XXS", 0, 256, 98 },
	[DT_IQ1_S] = { "IQ1_S", 0, 256, 50 },
	[DT_IQ4_NL] = { "IQ4_NL", 0, 32, 18 },
	[DT_IQ3_S] = { "IQ3_S", 0, 256, 110 },
	[DT_IQ2_S] = { "IQ2_S", 0, 256, 82 },
	[DT_IQ4_XS] = { "IQ4_XS", 0, 256, 136 },
	[DT_IQ1_M] = { "IQ1_M", 0, 256, 56 },
	[DT_TQ1_0] = { "TQ1_0", 0, 256, 54 },
	[DT_TQ2_0] = { "TQ2_0", 0, 256, 66 },
	[DT_MXFP4] = { "MXFP4", 0, 32, 17 },
	[DT_NVFP4] = { "NVFP4", 0, 64, 36 },
	[DT_Q1_0] = { "Q1_0", 0, 128, 18 },
};

const char *tensor_dtype_name(enum dtype t)
{
	return (unsigned)t < DT_COUNT ? types[t].name : "?";
}

enum dtype tensor_dtype_find(const char *name)
{
	for (int t = DT_NONE + 1; t < DT_Q4_0; t++)
		if (!strcmp(types[t].name, name))
			return (enum dtype)t;
	return DT_NONE;
}

uint32_t tensor_dtype_bits(enum dtype t)
{
	return (unsigned)t < DT_COUNT ? types[t].bits : 0;
}

uint32_t tensor_dtype_block(enum dtype t, uint32_t *bytes)
{
	*bytes = (unsigned)t < DT_COUNT ? types[t].bytes : 0;
	return (unsigned)t < DT_COUNT ? types[t].block : 0;
}

int tensor_is_float(enum dtype t)
{
	return t == DT_F16 || t == DT_BF16 || t == DT_F32 || t == DT_F64;
}

int tensor_count(const struct tensor *t, uint64_t *n)
{
	uint64_t r = 1;

	for (int i = 0; i < t->rank; i++) {
		if (t->dim[i] && r > UINT64_MAX / t->dim[i])
			return -1;
		r *= t->dim[i];
	}
	*n = r;
	return 0;
}

int tensor_is_shape(const struct tensor *t, int rank, uint64_t d0, uint64_t d1)
{
	return t->rank == rank && (rank < 1 || t->dim[0] == d0) &&
	       (rank < 2 || t->dim[1] == d1);
}

const char *tensor_shape_text(const struct tensor *t, char buf[96])
{
	size_t n = 0;

	buf[n++] = '[';
	for (int i = 0; i < t->rank; i++) {
		/* 24 bytes hold ", " and any 64-bit number; with eight huge
		 * dimensions the tail is cut, which says so */
		if (n + 24 + 6 > 96) {
			n += (size_t)snprintf(buf + n, 96 - n, ", ...");
			break;
		}
		n += (size_t)snprintf(buf + n, 96 - n, "%s%llu", i ? ", " : "",
				      (unsigned long long)t->dim[i]);
	}
	snprintf(buf + n, 96 - n, "]");
	return buf;
}

/* One loop per type: the element is loaded from unaligned bytes.  p is the
 * first element, n elements follow. */
#define LOAD(name, size, expr)                                       \
	static void name(const uint8_t *p, uint64_t n, float *out)   \
	{                                                            \
		for (uint64_t i = 0; i < n; i++, p += (size))        \
			out[i] = (float)(expr);                      \
	}

static double load_f64(const uint8_t *p)
{
	uint64_t u = half_le64(p);
	double d;

	memcpy(&d, &u, sizeof(d));
	return d;
}

LOAD(from_i8, 1, (int8_t)*p)
LOAD(from_u8, 1, *p)
LOAD(from_i16, 2, (int16_t)half_le16(p))
LOAD(from_u16, 2, half_le16(p))
LOAD(from_f16, 2, half_to_f32(half_le16(p)))
LOAD(from_bf16, 2, half_bf16_to_f32(half_le16(p)))
LOAD(from_i32, 4, (int32_t)half_le32(p))
LOAD(from_f32, 4, half_from_bits(half_le32(p)))
LOAD(from_i64, 8, (int64_t)half_le64(p))
LOAD(from_f64, 8, load_f64(p))

uint32_t tensor_turned_row(uint32_t n, uint32_t head)
{
	uint32_t in = n % head, half = head / 2;

	return n - in + 2 * (in % half) + in / half;
}

const void *tensor_row_data(const struct tensor *t, uint32_t n)
{
	uint64_t bytes = t->dim[0] ? t->size / t->dim[0] : 0;

	return (const uint8_t *)t->data +
	       bytes * (t->turned ? tensor_turned_row(n, t->turned) : n);
}

/* A table instead of a switch: the loops above are the rows. */
int tensor_load_f32(const struct tensor *t, uint64_t from, uint64_t n,
		    float *out)
{
	static void (*const load[DT_COUNT])(const uint8_t *, uint64_t,
					    float *) = {
		[DT_I8] = from_i8,   [DT_U8] = from_u8,
		[DT_I16] = from_i16, [DT_U16] = from_u16,
		[DT_F16] = from_f16, [DT_BF16] = from_bf16,
		[DT_I32] = from_i32, [DT_F32] = from_f32,
		[DT_I64] = from_i64, [DT_F64] = from_f64,
	};
	const uint8_t *p = t->data;
	uint64_t unit, row;

	if ((unsigned)t->type >= DT_COUNT || !load[t->type] || !p)
		return -1;
	unit = types[t->type].bits / 8;
	if (!t->turned) {
		load[t->type](p + from * unit, n, out);
		return 0;
	}
	row = t->size / t->dim[0] / unit; /* elements */
	while (n) {
		uint64_t in = from % row, part = row - in < n ? row - in : n;

		p = tensor_row_data(t, (uint32_t)(from / row));
		load[t->type](p + in * unit, part, out);
		from += part;
		out += part;
		n -= part;
	}
	return 0;
}

int tensor_store_f32(const float *in, uint64_t n, enum dtype t, void *out)
{
	uint8_t *p = out;

	switch (t) {
	case DT_F16:
		for (uint64_t i = 0; i < n; i++)
			half_put16(p + 2 * i, half_from_f32(in[i]));
		return 0;
	case DT_BF16:
		for (uint64_t i = 0; i < n; i++)
			half_put16(p + 2 * i, half_bf16_from_f32(in[i]));
		return 0;
	case DT_F32:
		for (uint64_t i = 0; i < n; i++)
			half_put32(p + 4 * i, half_bits(in[i]));
		return 0;
	default:
		return -1;
	}
}
