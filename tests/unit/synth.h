/* synth.h - small made-up checkpoints for tests: a directory with config.json
 * and model.safetensors whose weights follow from their names, as
 * tests/ref/llama.py has them. */
#ifndef TESTS_UNIT_SYNTH_H
#define TESTS_UNIT_SYNTH_H

#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/base/mem.h"
#include "../../libfmt/container/st.h"
#include "../../libfmt/layout/qfmt.h"
#include "../../libfmt/llama.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct synth {
	const char *architecture;
	uint32_t hidden, inter, layers, heads, kv, dim, vocab, max_pos;
	bool qkv_bias, o_bias, mlp_bias, qk_norm, tied;
	enum dtype type;       /* of matrices; vectors are F32 */
	const char *more;      /* further members of config.json, or "" */
	uint8_t bits;          /* block linears quantized; 0: dense */
	uint32_t group_size;
	bool act_order;
	bool dequantized;      /* the same weights, stored as F32 */
};

#define SYNTH_PARTS 512

struct synth_part {
	char name[LLAMA_NAME + 32];
	void *data;
	enum dtype type;
	int rank;
	uint64_t dim[2], bytes;
	uint32_t id;
};

struct synth_list {
	struct synth_part part[SYNTH_PARTS];
	uint32_t count;
};

static inline uint32_t synth_seed(const char *name)
{
	uint32_t x = 2166136261u; /* FNV-1a */

	for (; *name; name++)
		x = (x ^ (uint8_t)*name) * 16777619u;
	return x;
}

static inline uint32_t synth_next(uint32_t *x)
{
	*x = *x * 1664525u + 1013904223u;
	return *x >> 16;
}

static inline void *synth_part(struct synth_list *l, const char *name,
			       enum dtype type, uint64_t d0, uint64_t d1)
{
	struct synth_part *p = &l->part[l->count++];
	struct err err;

	assert_true(l->count <= SYNTH_PARTS);
	snprintf(p->name, sizeof(p->name), "%s", name);
	p->type = type;
	p->rank = d1 ? 2 : 1;
	p->dim[0] = d0;
	p->dim[1] = d1;
	p->bytes = d0 * (d1 ? d1 : 1) * tensor_dtype_bits(type) / 8;
	p->data = mem_alloc((size_t)p->bytes, 1, &err);
	assert_non_null(p->data);
	return p->data;
}

/* Multiples of 1/256 in [-1/4, 1/4), which all float types hold, + shift. */
static inline void synth_float(struct synth_list *l, const char *name,
			       enum dtype type, const uint64_t dim[2],
			       float shift)
{
	char *out = synth_part(l, name, type, dim[0], dim[1]);
	uint64_t n = dim[0] * (dim[1] ? dim[1] : 1);
	uint32_t x = synth_seed(name), step = tensor_dtype_bits(type) / 8;

	for (uint64_t i = 0; i < n; i++) {
		float v = (float)((int)(synth_next(&x) % 128) - 64) / 256 +
			  shift;

		assert_int_equal(tensor_store_f32(&v, 1, type, out + i * step),
				 0);
	}
}

/* A quantized layer with random codes, f16 scales and whole zeros. */
static inline void synth_ql(const struct synth *s, const char *module,
			    uint32_t in, uint32_t out, struct ql *q)
{
	struct ql_spec spec = {
		.out = out, .in = in, .group_size = s->group_size,
		.groups = (in - 1) / s->group_size + 1, .bits = s->bits,
		.zero_kind = QL_POINT, .scale_type = DT_F16,
	};
	uint32_t x = synth_seed(module);
	struct err err;

	assert_int_equal(ql_init(q, &spec, &err), 0);
	for (size_t i = 0; i < (size_t)out * in; i++)
		q->code[i] = (uint8_t)(synth_next(&x) % (1u << s->bits));
	for (size_t i = 0; i < (size_t)out * spec.groups; i++) {
		q->scale[i] = (float)(1 + synth_next(&x) % 16) / 256;
		q->zero[i] = (float)(1 + synth_next(&x) %
				     ((1u << s->bits) - 1));
	}
	/* shuffled, with as many inputs in each group as before */
	for (uint32_t k = in; s->act_order && k-- > 1;) {
		uint32_t j = synth_next(&x) % (k + 1), t = q->group_of[k];

		q->group_of[k] = q->group_of[j];
		q->group_of[j] = t;
	}
	ql_observe(q);
	assert_int_equal(ql_check(q, &err), 0);
}

static inline void synth_quant(const struct synth *s, struct synth_list *l,
			       const char *module, uint32_t in, uint32_t out)
{
	char name[LLAMA_NAME + 32];
	void *part[QF_PARTS];
	struct qf_plan plan;
	struct err err;
	struct ql q;

	synth_ql(s, module, in, out, &q);
	if (s->dequantized) {
		float *w;

		snprintf(name, sizeof(name), "%s.weight", module);
		w = synth_part(l, name, DT_F32, out, in);
		for (uint32_t n = 0; n < out; n++)
			ql_dequant_row(&q, n, w + (size_t)n * in);
	} else {
		assert_int_equal(qf_gptq.plan(&q.spec, &plan, &err), 0);
		for (uint32_t i = 0; i < plan.count; i++) {
			snprintf(name, sizeof(name), "%s.%s", module,
				 plan.part[i].suffix);
			part[i] = synth_part(l, name, plan.part[i].type,
					     plan.part[i].dim[0],
					     plan.part[i].rank == 2 ?
					     plan.part[i].dim[1] : 0);
		}
		if (qf_gptq.write(&q, part, &err))
			fail_msg("%s: %s", module, err.msg);
	}
	ql_release(&q);
}

static inline void synth_linear(const struct synth *s, struct synth_list *l,
				uint32_t layer, enum llama_linear which)
{
	const bool bias[] = { s->qkv_bias, s->o_bias, s->mlp_bias,
			      s->mlp_bias };
	const struct llama_config c = {
		.hidden = s->hidden, .inter = s->inter, .heads = s->heads,
		.kv_heads = s->kv, .head_dim = s->dim,
	};
	char module[LLAMA_NAME], name[LLAMA_NAME + 32];
	uint32_t in, out;

	llama_linear_shape(&c, which, &in, &out);
	llama_linear_name(layer, which, module);
	snprintf(name, sizeof(name), "%s.weight", module);
	if (s->bits)
		synth_quant(s, l, module, in, out);
	else
		synth_float(l, name, s->type, (uint64_t[2]){ out, in }, 0);
	snprintf(name, sizeof(name), "%s.bias", module);
	if (bias[llama_slot_of(which)])
		synth_float(l, name, DT_F32, (uint64_t[2]){ out, 0 }, 0);
}

static inline void synth_tensors(const struct synth *s, struct synth_list *l)
{
	const uint64_t embed[2] = { s->vocab, s->hidden };
	const uint64_t norm[2] = { s->hidden, 0 }, head[2] = { s->dim, 0 };
	char name[LLAMA_NAME];

	synth_float(l, LLAMA_EMBED, s->type, embed, 0);
	synth_float(l, LLAMA_FINAL_NORM, DT_F32, norm, 1);
	if (!s->tied)
		synth_float(l, LLAMA_HEAD ".weight", s->type, embed, 0);
	for (uint32_t i = 0; i < s->layers; i++) {
		for (int j = 0; j < LLAMA_LINEARS; j++)
			synth_linear(s, l, i, (enum llama_linear)j);
		for (int j = 0; j < (s->qk_norm ? 4 : 2); j++)
			synth_float(l, llama_norm_name(i, (enum llama_norm)j,
						       name),
				    DT_F32, j < 2 ? norm : head, 1);
	}
}

static inline void synth_config(const struct synth *s, const char *dir)
{
	char text[2048], path[256];
	struct err err;
	int n = snprintf(text, sizeof(text),
		"{\"architectures\": [\"%s\"], \"hidden_size\": %u, "
		"\"intermediate_size\": %u, \"num_hidden_layers\": %u, "
		"\"num_attention_heads\": %u, \"num_key_value_heads\": %u, "
		"\"head_dim\": %u, \"vocab_size\": %u, "
		"\"max_position_embeddings\": %u, \"rms_norm_eps\": 1e-5, "
		"\"tie_word_embeddings\": %s%s", s->architecture, s->hidden,
		s->inter, s->layers, s->heads, s->kv, s->dim, s->vocab,
		s->max_pos, s->tied ? "true" : "false", s->more);

	if (s->bits && !s->dequantized)
		n += snprintf(text + n, sizeof(text) - (size_t)n,
			", \"quantization_config\": {\"quant_method\": "
			"\"gptq\", \"bits\": %u, \"group_size\": %u, "
			"\"desc_act\": %s, \"sym\": false, "
			"\"checkpoint_format\": \"gptq\"}", s->bits,
			s->group_size, s->act_order ? "true" : "false");
	n += snprintf(text + n, sizeof(text) - (size_t)n, "}\n");
	assert_true((size_t)n < sizeof(text));
	snprintf(path, sizeof(path), "%s/config.json", dir);
	assert_int_equal(io_write_file(path, text, (size_t)n, &err), 0);
}

/* Make the checkpoint in a new directory; dir[] is given back. */
static inline void synth_make(const struct synth *s, char dir[64])
{
	struct synth_list *l = calloc(1, sizeof(*l));
	struct st_writer *w;
	struct err err;

	assert_non_null(l);
	strcpy(dir, "/tmp/gptq-synth-XXXXXX");
	assert_non_null(mkdtemp(dir));
	synth_config(s, dir);
	synth_tensors(s, l);
	assert_int_equal(st_writer_new(&w, &err), 0);
	for (uint32_t i = 0; i < l->count; i++)
		assert_int_equal(st_writer_add(w, l->part[i].name,
					       l->part[i].type,
					       l->part[i].rank, l->part[i].dim,
					       &l->part[i].id, &err), 0);
	if (st_writer_create(w, dir, 0, &err))
		fail_msg("%s", err.msg);
	for (uint32_t i = 0; i < l->count; i++) {
		assert_int_equal(st_writer_pour(w, l->part[i].id, 0,
						l->part[i].data,
						l->part[i].bytes, &err), 0);
		free(l->part[i].data);
	}
	if (st_writer_commit(w, &err))
		fail_msg("%s", err.msg);
	st_writer_free(w);
	free(l);
}

#endif
