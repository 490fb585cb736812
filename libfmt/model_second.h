/* model_second.h - what is known of a quantized checkpoint whose configs are
 * lost or silent; between the files of model only.
 *
 * In this order: marker tensors that TGI's quantizer writes, the metadata of
 * safetensors files that AutoGPTQ writes, and names such as
 * "llama-7b-4bit-128g.act-order.safetensors".  All are hints: the tensors have
 * the last word.  Source: gptq-formats(5) "File names
 * and markers". */
#ifndef LIBFMT_MODEL_SECOND_H
#define LIBFMT_MODEL_SECOND_H

struct config_quant;
struct model;
struct tensor_file;

/* Fill what m->quant leaves open; `file` are m's files, [file_count].  Names
 * are asked only where there is no config at all. */
void model_second_fill(struct model *m, const struct tensor_file *file);

/* What a name says, into fields that are open; 1 when it says something. */
int model_second_name(const char *name, struct config_quant *q);

#endif
