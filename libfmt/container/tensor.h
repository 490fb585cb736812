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
	/* ggml's blocks of elements, which only GGUF files have */
	DT_Q4_0,
	DT_Q4_1,
	DT_Q5_0,
	DT_Q5_1,
	DT_Q8_0,
	DT_Q8_1,
	DT_Q2_K,
	DT_Q3_K,
	DT_Q4_K,
	DT_Q5_K,
	DT_Q6_K,
	DT_Q8_K,
	DT_IQ2_XXS,
	DT_IQ2_XS,
	DT_IQ3_XXS,
	DT_IQ1_S,
	DT_IQ4_NL,
	DT_IQ3_S,
	DT_IQ2_S,
	DT_IQ4_XS,
	DT_IQ1_M,
	DT_TQ1_0,
	DT_TQ2_0,
	DT_MXFP4,
	DT_NVFP4,
	DT_Q1_0,
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
	uint32_t turned;                 /* heads of this many rows stand as
					    tensor_turned_row says; 0: rows
					    are in place */
};

/* "F16" and so on, as safetensors spells it, or "Q4_0" as ggml does. */
const char *tensor_dtype_name(enum dtype t);
/* By safetensors' name; DT_NONE for an unknown one. */
enum dtype tensor_dtype_find(const char *name);
/* Bits of one element; 0 for DT_NONE and for blocks. */
uint32_t tensor_dtype_bits(enum dtype t);
/* Elements of a block along the last dimension, and its bytes; 0 elements for
 * what is stored element by element. */
uint32_t tensor_dtype_block(enum dtype t, uint32_t *bytes);
/* 1 for F16, BF16, F32, F64. */
int tensor_is_float(enum dtype t);

/* Product of the dimensions; -1 on overflow.  Rank 0 gives 1. */
int tensor_count(const struct tensor *t, uint64_t *n);
/* 1 when rank and dimensions are these (rank 1 or 2). */
int tensor_is_shape(const struct tensor *t, int rank, uint64_t d0, uint64_t d1);
/* "[4096, 32]" into buf, for messages. */
const char *tensor_shape_text(const struct tensor *t, char buf[96]);

/* Where row n of the matrix (or element n of the vector) is stored.  Rotary
 * embeddings turn two outputs of a head together; transformers keeps the two
 * head/2 apart, GGUF's llama keeps them side by side:
 *	h * head + half * head/2 + j   is stored at   h * head + 2 * j + half
 */
uint32_t tensor_turned_row(uint32_t n, uint32_t head);
/* Row n of a matrix, or element n of a vector, whose data is there. */
const void *tensor_row_data(const struct tensor *t, uint32_t n);

/* Elements from..from+n of a dense tensor, its rows in place, as f32 (F16,
 * BF16, F32, F64, I8, U8, I16, U16, I32, I64); exact for the 8- and 16-bit
 * types.  -1 when the type has no such reading.  The caller keeps from+n within
 * the tensor. */
int tensor_load_f32(const struct tensor *t, uint64_t from, uint64_t n,
		    float *out);
/* n values of f32 stored as F16, BF16 or F32 little endian. */
int tensor_store_f32(const float *in, uint64_t n, enum dtype t, void *out);

#ifdef __cplusplus
}
#endif
#endif
