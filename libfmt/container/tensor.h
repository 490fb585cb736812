/* tensor.h - element types and the view of one tensor in a file.
 *
 * A tensor owns nothing: name and data live in the file it was read from. */
#ifndef LIBFMT_CONTAINER_TENSOR_H
#define LIBFMT_CONTAINER_TENSOR_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TENSOR_RANK 8 /* more dimensions are refused */
#define TENSOR_COPIED UINT64_MAX /* as offset: not in the file as it is */

/* In safetensors' ascending rank: the reference writer sorts by falling type,
 * then by name. */
enum dtype {
	DT_NONE = 0,
	DT_BOOL,
	DT_F4,
	DT_F6_E2M3,
	DT_F6_E3M2,
	DT_U8,
	DT_I8,
	DT_F8_E5M2,
	DT_F8_E4M3,
	DT_F8_E8M0,
	DT_F8_E4M3FNUZ,
	DT_F8_E5M2FNUZ,
	DT_I16,
	DT_U16,
	DT_F16,
	DT_BF16,
	DT_I32,
	DT_U32,
	DT_F32,
	DT_C64,
	DT_F64,
	DT_I64,
	DT_U64,
	DT_COUNT
};

struct tensor {
	const char *name;
	enum dtype type;
	int rank;                        /* 0..TENSOR_RANK; 0: one element */
	uint64_t dim[TENSOR_RANK];       /* [0] is the slowest */
	uint64_t stride[TENSOR_RANK];    /* in elements; dense: C order */
	const void *data;                /* little endian, any alignment; NULL
					    where only headers were read */
	uint64_t size;                   /* bytes of the elements, dense */
	uint32_t file;                   /* which file of the model */
	uint64_t offset;                 /* of data, from the file's start, or
					    TENSOR_COPIED */
};

/* "F16" and so on, as safetensors spells it. */
const char *tensor_dtype_name(enum dtype t);
/* DT_NONE for an unknown name. */
enum dtype tensor_dtype_find(const char *name);
/* Bits of one element; 0 for DT_NONE. */
uint32_t tensor_dtype_bits(enum dtype t);
/* 1 for F16, BF16, F32, F64. */
int tensor_is_float(enum dtype t);

/* Product of the dimensions; -1 on overflow.  Rank 0 gives 1. */
int tensor_count(const struct tensor *t, uint64_t *n);
/* 1 when rank and dimensions are these (rank 1 or 2). */
int tensor_is_shape(const struct tensor *t, int rank, uint64_t d0, uint64_t d1);
/* "[4096, 32]" into buf, for messages. */
const char *tensor_shape_text(const struct tensor *t, char buf[96]);

/* Elements from..from+n of a dense tensor as f32 (F16, BF16, F32, F64, I8, U8,
 * I16, U16, I32, I64); exact for the 8- and 16-bit types.  -1 when the type
 * has no such reading.  The caller keeps from+n within the tensor. */
int tensor_load_f32(const struct tensor *t, uint64_t from, uint64_t n,
		    float *out);
/* n values of f32 stored as F16, BF16 or F32 little endian. */
int tensor_store_f32(const float *in, uint64_t n, enum dtype t, void *out);

#ifdef __cplusplus
}
#endif
#endif
