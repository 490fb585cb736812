/* sick.h - small whole Llamas, quantized and sound, or with one thing wrong. */
#ifndef TESTS_UNIT_SICK_H
#define TESTS_UNIT_SICK_H

#include "made.h"

/* One block: hidden 64, two heads, MLP 128, 32 words. */
#define SICK_LLAMA "{\"architectures\": [\"LlamaForCausalLM\"], "              \
	"\"model_type\": \"llama\", \"hidden_size\": 64, "                     \
	"\"intermediate_size\": 128, \"num_hidden_layers\": 1, "               \
	"\"num_attention_heads\": 2, \"vocab_size\": 32"
#define SICK_QUANT "{\"bits\": 4, \"group_size\": 32, \"desc_act\": false, "   \
	"\"sym\": true, \"quant_method\": \"gptq\", "                          \
	"\"checkpoint_format\": \"gptq\"}"

struct sick {
	const char *prefix;    /* NULL: "model." */
	const char *more;      /* further members of config.json; NULL: the
				  head is not tied */
	const char *quant;     /* quantization_config; NULL: SICK_QUANT; "":
				  not there */
	const char *quantize;  /* quantize_config.json; NULL: as above */
	const char *config;    /* all of config.json; "": not there */
	const struct qfmt *format; /* NULL: gptq */
	struct ql_spec spec;   /* what is 0 is of a 4-bit layer in groups of
				  32; sym unless `asym` */
	bool asym, no_head;
	const char *without;   /* tensors of this suffix are left out */
	const char *file;      /* NULL: model.safetensors */
	void (*tweak)(struct make *m); /* the tensors, before writing */
	void (*after)(const char *dir);
};

static inline const char *sick_name(const struct sick *s, const char *name)
{
	static char buf[2][96];
	static int turn;

	turn = !turn;
	snprintf(buf[turn], sizeof(buf[turn]), "%s%s",
		 s->prefix ? s->prefix : "model.", name);
	return buf[turn];
}

static inline void sick_linear(struct make *m, const struct sick *s,
			       const char *name, uint32_t in, uint32_t out)
{
	struct ql_spec spec = s->spec;
	struct ql ql;

	spec.in = in;
	spec.out = out;
	spec.bits = spec.bits ? spec.bits : 4;
	spec.group_size = spec.group_size ? spec.group_size : 32;
	if (spec.group_size > in)
		spec.group_size = in;
	spec.groups = (in - 1) / spec.group_size + 1;
	spec.sym = !s->asym;
	spec.scale_type = spec.scale_type ? spec.scale_type : DT_F16;
	random_layer(&ql, &spec, 1);
	for (uint32_t i = 0; spec.scale_type == DT_BF16 &&
			     i < out * spec.groups; i++)
		ql.scale[i] = 0.25f; /* which it holds */
	make_layer(m, sick_name(s, name), &ql, s->format ? s->format :
							   &qf_gptq,
		   s->without);
	ql_release(&ql);
}

static inline void sick_tensors(struct make *m, const struct sick *s)
{
	static const struct {
		const char *name;
		uint32_t in, out;
	} linear[] = {
		{ "layers.0.mlp.down_proj", 128, 64 },
		{ "layers.0.mlp.gate_proj", 64, 128 },
		{ "layers.0.mlp.up_proj", 64, 128 },
		{ "layers.0.self_attn.k_proj", 64, 64 },
		{ "layers.0.self_attn.o_proj", 64, 64 },
		{ "layers.0.self_attn.q_proj", 64, 64 },
		{ "layers.0.self_attn.v_proj", 64, 64 },
	};

	for (size_t i = 0; i < sizeof(linear) / sizeof(*linear); i++)
		sick_linear(m, s, linear[i].name, linear[i].in, linear[i].out);
	make_f16(m, sick_name(s, "embed_tokens"), "weight", 32, 64);
	make_f16(m, sick_name(s, "layers.0.input_layernorm"), "weight", 64, 0);
	make_f16(m, sick_name(s, "layers.0.post_attention_layernorm"),
		 "weight", 64, 0);
	make_f16(m, sick_name(s, "norm"), "weight", 64, 0);
	if (!s->no_head)
		make_f16(m, "lm_head", "weight", 32, 64);
}

static inline void sick_text(const char *dir, const char *name,
			     const char *text)
{
	char path[256];
	struct err err;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	must(io_write_file(path, text, strlen(text), &err), &err);
}

static inline void sick_configs(const char *dir, const struct sick *s)
{
	const char *quant = s->quant ? s->quant : SICK_QUANT;
	const char *quantize = s->quantize ? s->quantize : quant;
	char text[2048];

	snprintf(text, sizeof(text), "%s%s%s%s}", SICK_LLAMA,
		 s->more ? s->more : ", \"tie_word_embeddings\": false",
		 *quant ? ", \"quantization_config\": " : "", quant);
	if (!s->config)
		sick_text(dir, "config.json", text);
	else if (*s->config)
		sick_text(dir, "config.json", s->config);
	if (*quantize)
		sick_text(dir, "quantize_config.json", quantize);
}

static inline void sick_make(const char *dir, const struct sick *s)
{
	struct make m = { .count = 0 };
	char path[256];
	struct err err;

	mkdir(dir, 0777);
	sick_tensors(&m, s);
	if (s->tweak)
		s->tweak(&m);
	snprintf(path, sizeof(path), "%s/%s", dir,
		 s->file ? s->file : "model.safetensors");
	must(ckpt_file(path, m.item, m.count, &err), &err);
	for (uint32_t i = 0; i < m.count; i++)
		free(m.data[i]);
	sick_configs(dir, s);
	if (s->after)
		s->after(dir);
}

/* The n-th tensor whose name ends so, and its data. */
static inline uint32_t sick_find(const struct make *m, const char *end,
				 uint32_t n)
{
	for (uint32_t i = 0; i < m->count; i++) {
		size_t a = strlen(m->name[i]), b = strlen(end);

		if (a >= b && !strcmp(m->name[i] + a - b, end) && !n--)
			return i;
	}
	fail_msg("no tensor %s", end);
	return 0;
}

#endif
