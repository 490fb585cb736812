/* synth.c - a Llama of given widths with made-up weights, as fast as the disk
 * takes it: GPTQ v1, 4 bits, groups of 128, symmetric, bell-shaped codes,
 * no weight of 0.  Equal arguments give equal bytes.
 *
 *	synth OUT BLOCKS HIDDEN MLP HEADS KVHEADS [VOCAB]
 *
 * Llama-2-7B: synth OUT 32 4096 11008 32 32.  One weight file, config.json,
 * no tokenizer. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define GROUP 128u
#define HEADER (16u << 20)
#define PIECE (1u << 18) /* words written at once */

struct shape {
	unsigned blocks, hidden, mlp, heads, kv, vocab;
};

enum kind { CODES = 0, ZEROS, SCALES, INDEX, NORM, DENSE };

/* One walk over the tensors writes the header, a second one the data. */
struct out {
	FILE *f;
	char *header; /* NULL in the second walk */
	size_t len;
	uint64_t bytes, seed;
	uint16_t bell[1 << 16]; /* four codes, none of them 8 */
	uint32_t buf[PIECE];
};

static uint64_t next(struct out *o)
{
	o->seed ^= o->seed << 13;
	o->seed ^= o->seed >> 7;
	o->seed ^= o->seed << 17;
	return o->seed;
}

/* The sum of three dice, around 8, 8 itself left out. */
static void make_bell(struct out *o)
{
	for (uint32_t i = 0; i < 1 << 16; i++) {
		uint32_t word = 0;

		for (int k = 0; k < 4; k++) {
			uint64_t r = next(o);
			uint32_t c = (uint32_t)((r & 7) + (r >> 3 & 7) +
						(r >> 6 & 3));

			c = c > 15 ? 15 : c;
			word |= (c == 8 ? 7 + 2 * (r >> 20 & 1) : c) << 4 * k;
		}
		o->bell[i] = (uint16_t)word;
	}
}

/* A word of codes, of two f16 (scales about 0.008, weights below 0.03), ... */
static uint32_t word_of(struct out *o, enum kind kind)
{
	uint64_t r = next(o);

	switch (kind) {
	case CODES:
		return o->bell[r & 0xffff] |
		       (uint32_t)o->bell[r >> 16 & 0xffff] << 16;
	case ZEROS:
		return 0x77777777;
	case SCALES:
		return 0x1c001c00 + (uint32_t)(r & 0x03ff03ff);
	case NORM:
		return 0x3c003c00;
	default:
		return 0x20002000 + (uint32_t)(r & 0x87ff87ff);
	}
}

static void data(struct out *o, enum kind kind, uint64_t bytes)
{
	for (uint64_t at = 0; at < bytes / 4;) {
		uint64_t n = bytes / 4 - at < PIECE ? bytes / 4 - at : PIECE;

		for (uint64_t i = 0; i < n; i++, at++)
			o->buf[i] = kind == INDEX ? (uint32_t)at / GROUP :
						    word_of(o, kind);
		if (fwrite(o->buf, 4, n, o->f) != n) {
			perror("synth");
			exit(1);
		}
	}
}

static void tensor(struct out *o, const char *name, enum kind kind,
		   uint64_t d0, uint64_t d1)
{
	int words = kind == CODES || kind == ZEROS || kind == INDEX;
	uint64_t bytes = d0 * (d1 ? d1 : 1) * (words ? 4 : 2);
	char shape[64];

	if (!o->header) {
		data(o, kind, bytes);
		return;
	}
	snprintf(shape, sizeof(shape), d1 ? "%llu,%llu" : "%llu",
		 (unsigned long long)d0, (unsigned long long)d1);
	o->len += (size_t)snprintf(o->header + o->len, HEADER - o->len,
		"%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],"
		"\"data_offsets\":[%llu,%llu]}", o->len > 1 ? "," : "", name,
		words ? "I32" : "F16", shape, (unsigned long long)o->bytes,
		(unsigned long long)(o->bytes + bytes));
	o->bytes += bytes;
}

static void linear(struct out *o, unsigned block, const char *name,
		   unsigned in, unsigned out)
{
	static const char *const suffix[] = { "qweight", "qzeros", "scales",
					      "g_idx" };
	unsigned groups = (in + GROUP - 1) / GROUP;
	const uint64_t dim[4][2] = { { in / 8, out }, { groups, out / 8 },
				     { groups, out }, { in, 0 } };

	for (int i = 0; i < 4; i++) {
		char full[128];

		snprintf(full, sizeof(full), "model.layers.%u.%s.%s", block,
			 name, suffix[i]);
		tensor(o, full, (enum kind)i, dim[i][0], dim[i][1]);
	}
}

static void walk(struct out *o, const struct shape *s)
{
	unsigned kv = s->hidden / s->heads * s->kv;
	char name[128];

	tensor(o, "model.embed_tokens.weight", DENSE, s->vocab, s->hidden);
	for (unsigned b = 0; b < s->blocks; b++) {
		linear(o, b, "self_attn.q_proj", s->hidden, s->hidden);
		linear(o, b, "self_attn.k_proj", s->hidden, kv);
		linear(o, b, "self_attn.v_proj", s->hidden, kv);
		linear(o, b, "self_attn.o_proj", s->hidden, s->hidden);
		linear(o, b, "mlp.gate_proj", s->hidden, s->mlp);
		linear(o, b, "mlp.up_proj", s->hidden, s->mlp);
		linear(o, b, "mlp.down_proj", s->mlp, s->hidden);
		snprintf(name, sizeof(name),
			 "model.layers.%u.input_layernorm.weight", b);
		tensor(o, name, NORM, s->hidden, 0);
		snprintf(name, sizeof(name),
			 "model.layers.%u.post_attention_layernorm.weight", b);
		tensor(o, name, NORM, s->hidden, 0);
	}
	tensor(o, "model.norm.weight", NORM, s->hidden, 0);
	tensor(o, "lm_head.weight", DENSE, s->vocab, s->hidden);
}

static FILE *create(const char *dir, const char *name)
{
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "wb");
	if (!f) {
		perror(path);
		exit(1);
	}
	return f;
}

static void config(const char *dir, const struct shape *s)
{
	FILE *f = create(dir, "config.json");

	fprintf(f, "{\"architectures\": [\"LlamaForCausalLM\"], "
		"\"model_type\": \"llama\", \"hidden_size\": %u, "
		"\"intermediate_size\": %u, \"num_hidden_layers\": %u, "
		"\"num_attention_heads\": %u, \"num_key_value_heads\": %u, "
		"\"vocab_size\": %u, \"rms_norm_eps\": 1e-05, "
		"\"max_position_embeddings\": 4096, \"hidden_act\": \"silu\", "
		"\"tie_word_embeddings\": false, \"torch_dtype\": \"float16\", "
		"\"bos_token_id\": 1, \"eos_token_id\": 2, "
		"\"quantization_config\": {\"quant_method\": \"gptq\", "
		"\"bits\": 4, \"group_size\": %u, \"desc_act\": false, "
		"\"sym\": true, \"checkpoint_format\": \"gptq\"}}\n",
		s->hidden, s->mlp, s->blocks, s->heads, s->kv, s->vocab,
		GROUP);
	fclose(f);
}

int main(int argc, char **argv)
{
	struct shape s = { .vocab = 32000 };
	unsigned *field[] = { &s.blocks, &s.hidden, &s.mlp, &s.heads, &s.kv,
			      &s.vocab };
	struct out *o = calloc(1, sizeof(*o));
	uint64_t len;

	if (argc < 7 || argc > 8 || !o) {
		fprintf(stderr, "synth OUT BLOCKS HIDDEN MLP HEADS KVHEADS "
			"[VOCAB]\n");
		return 2;
	}
	for (int i = 2; i < argc; i++)
		*field[i - 2] = (unsigned)strtoul(argv[i], NULL, 10);
	if (!s.heads || s.hidden % 32 || s.mlp % 32 || s.hidden % s.heads) {
		fprintf(stderr, "synth: widths must be multiples of 32\n");
		return 2;
	}
	mkdir(argv[1], 0777);
	config(argv[1], &s);
	o->header = malloc(HEADER);
	o->header[o->len++] = '{';
	walk(o, &s);
	o->header[o->len++] = '}';
	while (o->len % 8)
		o->header[o->len++] = ' ';
	len = o->len;
	o->f = create(argv[1], "model.safetensors");
	fwrite(&len, 8, 1, o->f);
	fwrite(o->header, 1, o->len, o->f);
	free(o->header);
	o->header = NULL;
	o->seed = 0x9e3779b97f4a7c15u;
	make_bell(o);
	walk(o, &s);
	if (fclose(o->f)) {
		perror("synth");
		return 1;
	}
	free(o);
	return 0;
}
