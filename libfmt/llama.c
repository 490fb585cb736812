#include "llama.h"

#include "base/err.h"
#include "layout/qfmt.h"
#include "model.h"
#include "model_fused.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names and shapes ---- */

static const struct {
	const char *part, *name;
	enum llama_slot slot;
} linears[LLAMA_LINEARS] = {
	[LLAMA_Q] = { "self_attn", "q_proj", LLAMA_SLOT_QKV },
	[LLAMA_K] = { "self_attn", "k_proj", LLAMA_SLOT_QKV },
	[LLAMA_V] = { "self_attn", "v_proj", LLAMA_SLOT_QKV },
	[LLAMA_O] = { "self_attn", "o_proj", LLAMA_SLOT_O },
	[LLAMA_GATE] = { "mlp", "gate_proj", LLAMA_SLOT_GATE_UP },
	[LLAMA_UP] = { "mlp", "up_proj", LLAMA_SLOT_GATE_UP },
	[LLAMA_DOWN] = { "mlp", "down_proj", LLAMA_SLOT_DOWN },
};

static const char *const norms[] = {
	[LLAMA_NORM_IN] = "input_layernorm",
	[LLAMA_NORM_POST] = "post_attention_layernorm",
	[LLAMA_NORM_Q] = "self_attn.q_norm",
	[LLAMA_NORM_K] = "self_attn.k_norm",
};

const char *llama_linear_name(uint32_t layer, enum llama_linear which,
			      char buf[LLAMA_NAME])
{
	snprintf(buf, LLAMA_NAME, "model.layers.%u.%s.%s", layer,
		 linears[which].part, linears[which].name);
	return buf;
}

const char *llama_norm_name(uint32_t layer, enum llama_norm which,
			    char buf[LLAMA_NAME])
{
	snprintf(buf, LLAMA_NAME, "model.layers.%u.%s.weight", layer,
		 norms[which]);
	return buf;
}

const char *llama_fused_name(uint32_t layer, enum llama_slot slot,
			     char buf[LLAMA_NAME])
{
	static const char *const fused[LLAMA_SLOTS] = {
		[LLAMA_SLOT_QKV] = "self_attn.qkv_proj",
		[LLAMA_SLOT_GATE_UP] = "mlp.gate_up_proj",
	};

	if (!fused[slot])
		return NULL;
	snprintf(buf, LLAMA_NAME, "model.layers.%u.%s", layer, fused[slot]);
	return buf;
}

const char *llama_linear_short(enum llama_linear which)
{
	return linears[which].name;
}

enum llama_slot llama_slot_of(enum llama_linear which)
{
	return linears[which].slot;
}

void llama_linear_shape(const struct llama_config *c, enum llama_linear which,
			uint32_t *in, uint32_t *out)
{
	*in = which == LLAMA_DOWN ? c->inter :
	      which == LLAMA_O	  ? c->heads * c->head_dim :
				    c->hidden;
	switch (which) {
	case LLAMA_Q:
		*out = c->heads * c->head_dim;
		break;
	case LLAMA_K:
	case LLAMA_V:
		*out = c->kv_heads * c->head_dim;
		break;
	case LLAMA_GATE:
	case LLAMA_UP:
		*out = c->inter;
		break;
	default: /* o, down: back into the residual stream */
		*out = c->hidden;
	}
}

bool llama_has_bias(const struct llama_config *c, enum llama_linear which)
{
	switch (linears[which].slot) {
	case LLAMA_SLOT_QKV:
		return c->attn_bias_qkv;
	case LLAMA_SLOT_O:
		return c->attn_bias_o;
	default:
		return c->mlp_bias;
	}
}

/* The number at *s, spelled as it would be written; -1 when there is none. */
static int64_t take_number(const char **s)
{
	const char *p = *s;
	int64_t n = 0;

	while (*p >= '0' && *p <= '9' && n < LLAMA_LAYERS_MAX)
		n = 10 * n + (*p++ - '0');
	if (p == *s || (**s == '0' && p != *s + 1) || n >= LLAMA_LAYERS_MAX)
		return -1;
	*s = p;
	return n;
}

int llama_linear_parse(const char *module, uint32_t *layer,
		       enum llama_linear *which)
{
	static const char head[] = "model.layers.";
	int64_t n;

	if (strncmp(module, head, sizeof(head) - 1))
		return -1;
	module += sizeof(head) - 1;
	n = take_number(&module);
	if (n < 0 || *module++ != '.')
		return -1;
	for (int i = 0; i < LLAMA_LINEARS; i++) {
		size_t part = strlen(linears[i].part);

		if (strncmp(module, linears[i].part, part) ||
		    module[part] != '.' ||
		    strcmp(module + part + 1, linears[i].name))
			continue;
		*layer = (uint32_t)n;
		*which = (enum llama_linear)i;
		return 0;
	}
	return -1;
}

bool llama_is_dense(const char *module)
{
	static const char *const names[] = { "embed_tokens", "gate", "router",
		"shared_expert_gate", NULL };
	const char *last = strrchr(module, '.');

	last = last ? last + 1 : module;
	for (int i = 0; names[i]; i++)
		if (!strcmp(last, names[i]))
			return true;
	return false;
}

uint64_t llama_parameters(const struct llama_config *c)
{
	uint64_t block = 2ull * c->hidden +
			 (c->qk_norm ? 2ull * c->head_dim : 0);
	uint32_t in, out;

	for (int i = 0; i < LLAMA_LINEARS; i++) {
		llama_linear_shape(c, (enum llama_linear)i, &in, &out);
		block += (uint64_t)in * out;
		if (llama_has_bias(c, (enum llama_linear)i))
			block += out;
	}
	return c->layers * block + c->hidden +
	       (c->tied ? 1ull : 2ull) * c->vocab * c->hidden;
}

/* ---- is everything there? ---- */

/* A dense tensor of the shape [d0] (rank 1) or [d0, d1]. */
static int check_dense(const struct model *m, const char *name, int rank,
		       const uint64_t dim[2], struct err *err)
{
	const struct tensor *t;
	char have[96], want[96];
	struct tensor wanted = { .rank = rank, .dim = { dim[0], dim[1] } };

	if (model_need(m, name, &t, err))
		return -1;
	if (!tensor_is_shape(t, rank, dim[0], dim[1]))
		return err_set(err, ERR_INPUT, "%s: %s: shape %s, expected %s",
			       model_file_of(m, t), name,
			       tensor_shape_text(t, have),
			       tensor_shape_text(&wanted, want));
	if (t->type != DT_F16 && t->type != DT_BF16 && t->type != DT_F32)
		return err_set(err, ERR_UNSUP, "%s: %s: dtype %s; F16, BF16 "
			       "and F32 are supported", model_file_of(m, t),
			       name, tensor_dtype_name(t->type));
	return 0;
}

static int check_vector(const struct model *m, const char *name, uint32_t n,
			struct err *err)
{
	return check_dense(m, name, 1, (const uint64_t[2]){ n, 0 }, err);
}

/* What a layout's spec says against what the architecture asks for. */
static int check_quantized(const struct model *m, const struct qf_module *mod,
			   const struct qfmt *f, const struct qf_hint *hint,
			   struct err *err)
{
	struct qf_layer l = { .module = mod, .hint = hint };
	struct ql_spec spec;
	const char *file = model_file_of(m, &mod->part[0]);

	if (f->spec(&l, &spec, err))
		return err_ctx(err, "%s", file);
	if (spec.in != hint->in || spec.out != hint->out)
		return err_set(err, ERR_INPUT, "%s: %s: %u inputs and %u "
			       "outputs, expected %u and %u", file, mod->name,
			       spec.in, spec.out, hint->in, hint->out);
	return 0;
}

static int err_missing(const struct model *m, const char *linear,
		       const char *tensor, struct err *err)
{
	enum llama_linear which;
	char fused[LLAMA_NAME];
	uint32_t layer;

	if (!llama_linear_parse(linear, &layer, &which) &&
	    llama_slot_of(which) == LLAMA_SLOT_QKV &&
	    model_is_fused(m, llama_fused_name(layer, LLAMA_SLOT_QKV, fused)))
		return err_set(err, ERR_INPUT, "%s: missing; it is in %s, "
			       "which gptq-repack --fix takes apart", tensor,
			       fused);
	return err_set(err, ERR_INPUT, "%s: missing", tensor);
}

/* A linear, dense or quantized; its bias, when there is one or must be. */
static int check_linear(const struct model *m, const char *name,
			const uint32_t shape[2], bool bias, struct err *err)
{
	const struct qf_module *mod = model_module(m, name);
	const struct qfmt *f = NULL;
	struct qf_hint hint;
	char full[LLAMA_NAME + 16];
	bool skip = false;

	snprintf(full, sizeof(full), "%s.weight", name);
	if (!mod)
		return err_missing(m, name, full, err);
	if (model_hint(m, name, &hint, &skip, err))
		return -1;
	hint.in = shape[0];
	hint.out = shape[1];
	f = qf_recognise(mod, &hint);
	if (f) {
		if (check_quantized(m, mod, f, &hint, err))
			return -1;
	} else if (!qf_part(mod, "weight")) {
		return err_set(err, ERR_INPUT, "%s: missing; the module has "
			       "%.64s%s and no layout that is known", full,
			       mod->part[0].name,
			       mod->count > 1 ? ", ..." : "");
	} else if (check_dense(m, full, 2,
			       (const uint64_t[2]){ shape[1], shape[0] },
			       err)) {
		return -1;
	}
	if (!bias && !qf_part(mod, "bias"))
		return 0;
	snprintf(full, sizeof(full), "%s.bias", name);
	return check_vector(m, full, shape[1], err);
}

static int check_block(const struct model *m, const struct llama_config *c,
		       uint32_t layer, struct err *err)
{
	static const enum llama_norm all[] = { LLAMA_NORM_IN, LLAMA_NORM_POST,
		LLAMA_NORM_Q, LLAMA_NORM_K };
	char buf[LLAMA_NAME];
	uint32_t shape[2];

	for (int i = 0; i < (c->qk_norm ? 4 : 2); i++)
		if (check_vector(m, llama_norm_name(layer, all[i], buf),
				 i < 2 ? c->hidden : c->head_dim, err))
			return -1;
	for (int i = 0; i < LLAMA_LINEARS; i++) {
		enum llama_linear which = (enum llama_linear)i;

		llama_linear_shape(c, which, &shape[0], &shape[1]);
		if (check_linear(m, llama_linear_name(layer, which, buf),
				 shape, llama_has_bias(c, which), err))
			return -1;
	}
	return 0;
}

int llama_check(const struct model *m, const struct llama_config *c,
		struct err *err)
{
	const uint32_t head[2] = { c->hidden, c->vocab };

	if (check_linear(m, LLAMA_TABLE, head, false, err))
		return -1;
	for (uint32_t i = 0; i < c->layers; i++)
		if (check_block(m, c, i, err))
			return -1;
	if (check_vector(m, LLAMA_FINAL_NORM, c->hidden, err))
		return -1;
	if (c->tied && !model_module(m, LLAMA_HEAD))
		return 0;
	return check_linear(m, LLAMA_HEAD, head, false, err);
}
