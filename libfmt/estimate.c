#include "estimate.h"

#include "base/err.h"
#include "base/json.h"
#include "llama.h"
#include "model.h"

#include <string.h>

const struct est_cache_type est_cache_types[EST_CACHES] = {
	{ "F32", 64, "plain" },
	{ "F16", 32, "F16 or BF16, the usual" },
	{ "8 bits", 16, "F8 of vLLM and TensorRT-LLM" },
	{ "4 bits", 9, "Q4_0 of llama.cpp, Q4 of ExLlamaV2" },
};

/* MiB as nvidia-smi and rocm-smi report them. */
const struct est_card est_cards[EST_CARDS] = {
	{ 8, 8188, "RTX 3070, RTX 4060" },
	{ 12, 12282, "RTX 3060, RTX 4070" },
	{ 16, 15360, "T4, RTX 4060 Ti, RTX 4080" },
	{ 24, 23028, "RTX 3090, RTX 4090, L4, A10" },
	{ 32, 32607, "RTX 5090" },
	{ 40, 40536, "A100 40 GB" },
	{ 48, 46068, "L40S, RTX A6000" },
	{ 80, 81559, "A100 80 GB, H100" },
	{ 96, 97887, "RTX PRO 6000" },
	{ 141, 143771, "H200" },
	{ 180, 183359, "B200" },
	{ 192, 196592, "MI300X" },
};

const uint8_t est_bits[EST_BITS] = { 2, 3, 4, 8 };
const int32_t est_groups[EST_GROUPS] = { 32, 64, 128, -1 };

/* ---- the shape ---- */

/* What of a config decides memory, whatever the architecture. */
struct shape {
	uint32_t layers, hidden, heads, kv_heads, head_dim, inter, vocab;
	uint32_t context;
};

/* The first of the keys that is a number. */
static bool first_of(const struct cJSON *j, const char *const keys[],
		     uint32_t *out)
{
	uint64_t v;

	for (int i = 0; keys[i]; i++)
		if (!json_uint(json_find(j, keys[i]), UINT32_MAX, &v) && v) {
			*out = (uint32_t)v;
			return true;
		}
	return false;
}

/* Families spell the same few sizes in different ways. */
static bool read_shape(const struct cJSON *config, struct shape *s)
{
	static const char *const layers[] = { "num_hidden_layers", "n_layer",
		"n_layers", "num_layers", NULL };
	static const char *const hidden[] = { "hidden_size", "n_embd",
		"d_model", NULL };
	static const char *const heads[] = { "num_attention_heads", "n_head",
		"n_heads", NULL };
	static const char *const kv[] = { "num_key_value_heads", "num_kv_heads",
		"n_head_kv", "multi_query_group_num", NULL };
	static const char *const dim[] = { "head_dim", "kv_channels", NULL };
	static const char *const inter[] = { "intermediate_size", "n_inner",
		"ffn_dim", "ffn_hidden_size", NULL };
	static const char *const vocab[] = { "vocab_size",
		"padded_vocab_size", NULL };
	static const char *const context[] = { "max_position_embeddings",
		"n_positions", "seq_length", "max_seq_len", NULL };
	const struct cJSON *text = json_find(config, "text_config");
	const struct cJSON *j = json_is_object(text) ? text : config;
	bool one;

	memset(s, 0, sizeof(*s));
	/* a compressed cache has a size of its own */
	if (json_find(j, "kv_lora_rank") || !first_of(j, layers, &s->layers) ||
	    !first_of(j, hidden, &s->hidden) || !first_of(j, heads, &s->heads))
		return false;
	s->kv_heads = s->heads;
	if (!first_of(j, kv, &s->kv_heads) &&
	    !json_bool(json_find(j, "multi_query"), &one) && one)
		s->kv_heads = 1;
	s->head_dim = s->hidden / s->heads;
	first_of(j, dim, &s->head_dim);
	s->inter = s->hidden > UINT32_MAX / 4 ? UINT32_MAX : 4 * s->hidden;
	first_of(j, inter, &s->inter);
	first_of(j, vocab, &s->vocab);
	first_of(j, context, &s->context);
	/* what no model has would only overflow below */
	return s->head_dim && s->layers <= LLAMA_LAYERS_MAX &&
	       s->hidden <= 1u << 20 && s->heads <= 1u << 16 &&
	       s->kv_heads <= 1u << 16 && s->head_dim <= 1u << 16 &&
	       s->inter <= 1u << 24 && s->vocab <= 1u << 24;
}

/* Bytes of F16 cache of one token, of each sequence; below 2^62. */
static uint64_t step_bytes(const struct estimate *e)
{
	return e->cache[EST_F16] / EST_TOKENS * e->sequences;
}

/* The same of as many tokens as a card must have room for.  What no machine
 * has does not overflow. */
static uint64_t cache_bytes(const struct estimate *e)
{
	const uint64_t most = UINT64_C(1) << 62;

	return step_bytes(e) > most / e->tokens ? most :
						  step_bytes(e) * e->tokens;
}

static void fill_shape(const struct shape *s, struct estimate *e)
{
	uint64_t width = (uint64_t)s->kv_heads * s->head_dim;
	uint64_t q = (uint64_t)s->heads * s->head_dim;
	uint64_t rows = e->sequences > EST_ROWS ? e->sequences : EST_ROWS;

	for (int i = 0; i < EST_CACHES; i++)
		e->cache[i] = EST_TOKENS * (2 * s->layers * width *
					    est_cache_types[i].bits_x2 / 16);
	e->activations = rows * 2 *
			 (2 * (uint64_t)s->hidden + q + 2 * width + q +
			  2 * (uint64_t)s->inter) +
			 (uint64_t)e->sequences * 4 * s->vocab;
	e->context = s->context;
	e->tokens = s->context && s->context < EST_CONTEXT ? s->context :
							     EST_CONTEXT;
	if (e->weights)
		e->total = e->weights + e->activations + cache_bytes(e);
	e->shape_known = true;
}

/* ---- cards ---- */

/* Blocks are spread over the cards, each with activations of its own. */
static void fill_fit(struct estimate *e)
{
	for (int i = 0; i < EST_CARDS; i++) {
		struct est_fit *f = &e->fit[i];
		uint64_t room = (uint64_t)(est_cards[i].mib -
					   EST_RESERVE_MIB) << 20;
		uint64_t need = e->weights + cache_bytes(e), n;

		if (room <= e->activations)
			continue;
		room -= e->activations;
		n = (need - 1) / room + 1;
		if (n > EST_CARDS_MAX)
			continue;
		f->cards = (uint32_t)n;
		f->tokens = (n * room - e->weights) / step_bytes(e);
		if (e->context && f->tokens > e->context)
			f->tokens = e->context;
	}
}

/* ---- other bits and groups ---- */

/* Of a dense checkpoint a quantizer takes the blocks' linears; where none has
 * such a name, all but the head. */
static bool is_candidate(const struct survey *s, const struct survey_layer *l,
			 bool named)
{
	enum llama_linear which;
	uint32_t block;

	if (l->table || !l->spec.in || !l->spec.out)
		return false;
	if (s->quantized)
		return l->format != NULL;
	return named ? !llama_linear_parse(l->module->name, &block, &which) :
		       strcmp(l->module->name, LLAMA_HEAD) != 0;
}

static bool has_names(const struct survey *s)
{
	enum llama_linear which;
	uint32_t block;

	for (uint32_t i = 0; i < s->count; i++)
		if (!llama_linear_parse(s->layer[i].module->name, &block,
					&which))
			return true;
	return false;
}

/* Bytes of a linear in the layout gptq; 0 where it cannot be so. */
static uint64_t gptq_bytes(const struct ql_spec *is, uint8_t bits,
			   int32_t group)
{
	struct ql_spec spec = { .in = is->in, .out = is->out, .bits = bits,
				.sym = 1, .zero_kind = QL_POINT,
				.scale_type = DT_F16 };
	uint64_t n = 0;
	struct qf_plan plan;
	struct err ignored;

	spec.group_size = group < 0 || (uint32_t)group > spec.in ?
				  spec.in : (uint32_t)group;
	spec.groups = (spec.in - 1) / spec.group_size + 1;
	if (qf_gptq.plan(&spec, &plan, &ignored))
		return 0;
	for (uint32_t i = 0; i < plan.count; i++)
		n += plan.part[i].bytes;
	return n;
}

static uint64_t owned_bytes(const struct survey_layer *l)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < l->module->count; i++) {
		const struct tensor *t = &l->module->part[i];
		const char *suffix = strrchr(t->name, '.');

		if (l->format ? survey_owns(l, t) :
				suffix && !strcmp(suffix, ".weight"))
			n += t->size;
	}
	return n;
}

/* Linears of one size take the same; a model has few sizes. */
#define SIZES 8
struct sizes {
	uint32_t in, out;
	uint64_t bytes[EST_BITS][EST_GROUPS]; /* 0: it cannot be so */
};

static const struct sizes *sizes_of(struct sizes *known, uint32_t *turn,
				    const struct ql_spec *spec)
{
	struct sizes *s;

	for (int i = 0; i < SIZES; i++)
		if (known[i].in == spec->in && known[i].out == spec->out)
			return &known[i];
	s = &known[(*turn)++ % SIZES];
	s->in = spec->in;
	s->out = spec->out;
	for (int b = 0; b < EST_BITS; b++)
		for (int g = 0; g < EST_GROUPS; g++)
			s->bytes[b][g] = gptq_bytes(spec, est_bits[b],
						    est_groups[g]);
	return s;
}

static void fill_sizes(const struct survey *s, struct estimate *e)
{
	struct sizes known[SIZES] = { { .in = 0 } };
	bool named = has_names(s);
	uint64_t rest = e->weights;
	uint32_t turn = 0;

	for (uint32_t i = 0; i < s->count; i++) {
		const struct survey_layer *l = &s->layer[i];
		const struct sizes *one;

		if (!is_candidate(s, l, named))
			continue;
		e->sizes_known = true;
		rest -= owned_bytes(l);
		one = sizes_of(known, &turn, &l->spec);
		/* what cannot be packed stays */
		for (int b = 0; b < EST_BITS; b++)
			for (int g = 0; g < EST_GROUPS; g++)
				e->size[b][g] += one->bytes[b][g] ?
					one->bytes[b][g] : owned_bytes(l);
	}
	for (int b = 0; b < EST_BITS; b++)
		for (int g = 0; g < EST_GROUPS; g++)
			e->size[b][g] += rest;
}

/* ---- without tensors ---- */

/* What a Llama of this config has beside its linears, in half precision. */
static uint64_t llama_rest(const struct llama_config *c)
{
	uint64_t n = llama_parameters(c);
	uint32_t in, out;

	for (int i = 0; i < LLAMA_LINEARS; i++) {
		llama_linear_shape(c, (enum llama_linear)i, &in, &out);
		n -= c->layers * (uint64_t)in * out;
	}
	return 2 * n;
}

/* All its linears with these bits; bits of 16 are half precision. */
static uint64_t llama_bytes(const struct llama_config *c, uint32_t bits,
			    int32_t group)
{
	uint64_t n = llama_rest(c);

	for (int i = 0; i < LLAMA_LINEARS; i++) {
		struct ql_spec spec = { .bits = 0 };
		uint64_t one;

		llama_linear_shape(c, (enum llama_linear)i, &spec.in,
				   &spec.out);
		one = bits < 16 ? gptq_bytes(&spec, (uint8_t)bits, group) : 0;
		n += c->layers * (one ? one : 2ull * spec.in * spec.out);
	}
	return n;
}

/* As the quantization config says, where there are no files to tell. */
static void fill_from_config(const struct model *m, struct estimate *e)
{
	const struct llama_config *c = model_llama(m);
	const struct config_quant *q = &m->quant;

	e->sizes_known = true;
	if (!e->weights)
		e->weights = llama_bytes(c, q->bits ? q->bits : 16,
					 q->group_size ? q->group_size : -1);
	for (int b = 0; b < EST_BITS; b++)
		for (int g = 0; g < EST_GROUPS; g++)
			e->size[b][g] = llama_bytes(c, est_bits[b],
						    est_groups[g]);
}

void estimate_model(const struct model *m, const struct survey *s,
		    uint32_t sequences, struct estimate *out)
{
	struct shape shape;

	memset(out, 0, sizeof(*out));
	out->sequences = sequences;
	out->weights = s->bytes;
	if (!s->count && !m->tensor_count && model_llama(m))
		fill_from_config(m, out);
	if (read_shape(m->config, &shape)) {
		fill_shape(&shape, out);
		if (out->weights)
			fill_fit(out);
	}
	if (s->count)
		fill_sizes(s, out);
}
