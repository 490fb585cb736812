/* hollow.c - checkpoints of any size that take almost no disk: real configs, an
 * index and headers, and weights that are holes.
 *
 *	hollow OUT BLOCKS HIDDEN MLP KV SHARDS [full|act]
 *
 * A Llama in GPTQ, 4 bits, groups of 128, symmetric.  g_idx and the first rows
 * of qzeros are written, so that the checkpoint is a healthy one where it is
 * looked at; all of qzeros with `full` (a Llama-2-70B then takes 300 MB), and
 * with `act` down_proj has act-order besides.  For bench/inspect and tests of
 * large checkpoints. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VOCAB 32000u
#define GROUP 128u
#define HEADER (16u << 20)
#define SCATTER 4099u /* a prime that divides the width of no Llama */
#define LINEAR "model.layers.%u.%s."

struct shape {
	unsigned blocks, hidden, mlp, kv, shards;
	bool full, act;
};

/* What fills a tensor's first words. */
enum what { RISING, SCATTERED, ZEROS };

struct out {
	const char *dir;
	const struct shape *s;
	FILE *index;
	char *header;       /* of the shard under way */
	size_t len;
	uint64_t data;      /* bytes of its tensors so far */
	unsigned shard, tensors;
	/* what is to be filled once the header's length is known */
	struct fill {
		uint64_t at;
		unsigned words;
		enum what what;
	} fill[1 << 14];
	unsigned fills;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void add(struct out *o, const char *name, const char *type,
		uint64_t a, uint64_t b, unsigned unit)
{
	uint64_t bytes = a * (b ? b : 1) * unit;
	char dim[64];

	snprintf(dim, sizeof(dim), b ? "%llu,%llu" : "%llu",
		 (unsigned long long)a, (unsigned long long)b);
	o->len += (size_t)snprintf(o->header + o->len, HEADER - o->len,
		",\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":"
		"[%llu,%llu]}", name, type, dim, (unsigned long long)o->data,
		(unsigned long long)(o->data + bytes));
	o->data += bytes;
	fprintf(o->index, "%s\n    \"%s\": \"model-%05u-of-%05u.safetensors\"",
		o->tensors++ ? "," : "", name, o->shard + 1, o->s->shards);
}

static void add_fill(struct out *o, uint64_t words, enum what what)
{
	if (o->fills < sizeof(o->fill) / sizeof(*o->fill))
		o->fill[o->fills++] = (struct fill) {
			o->data - 4 * words, (unsigned)words, what };
}

static void add_linear(struct out *o, unsigned block, const char *name,
		       uint64_t n, uint64_t k)
{
	char text[128];

	snprintf(text, sizeof(text), LINEAR "g_idx", block, name);
	add(o, text, "I32", k, 0, 4);
	add_fill(o, k, o->s->act && strstr(name, "down") ? SCATTERED :
							    RISING);
	snprintf(text, sizeof(text), LINEAR "qweight", block, name);
	add(o, text, "I32", k / 8, n, 4);
	snprintf(text, sizeof(text), LINEAR "qzeros", block, name);
	add(o, text, "I32", k / GROUP, n / 8, 4);
	add_fill(o, o->s->full ? k / GROUP * (n / 8) : n / 8 * 16,
		 ZEROS);
	if (!o->s->full)
		o->fill[o->fills - 1].at = o->data - 4 * (k / GROUP * (n / 8));
	snprintf(text, sizeof(text), LINEAR "scales", block, name);
	add(o, text, "F16", k / GROUP, n, 2);
}

static void add_block(struct out *o, unsigned i)
{
	const struct shape *s = o->s;
	char text[128];

	add_linear(o, i, "self_attn.q_proj", s->hidden, s->hidden);
	add_linear(o, i, "self_attn.k_proj", s->kv, s->hidden);
	add_linear(o, i, "self_attn.v_proj", s->kv, s->hidden);
	add_linear(o, i, "self_attn.o_proj", s->hidden, s->hidden);
	add_linear(o, i, "mlp.gate_proj", s->mlp, s->hidden);
	add_linear(o, i, "mlp.up_proj", s->mlp, s->hidden);
	add_linear(o, i, "mlp.down_proj", s->hidden, s->mlp);
	snprintf(text, sizeof(text), "model.layers.%u.input_layernorm.weight",
		 i);
	add(o, text, "F16", s->hidden, 0, 2);
	snprintf(text, sizeof(text),
		 "model.layers.%u.post_attention_layernorm.weight", i);
	add(o, text, "F16", s->hidden, 0, 2);
}

static void fill(int fd, uint64_t base, const struct fill *f)
{
	uint32_t *word = malloc(4 * (size_t)f->words);

	if (!word)
		die("malloc");
	for (uint64_t i = 0; i < f->words; i++)
		word[i] = f->what == ZEROS ? 0x77777777 :
			  f->what == RISING ? (uint32_t)(i / GROUP) :
			  (uint32_t)(i * SCATTER % f->words / GROUP);
	if (pwrite(fd, word, 4 * (size_t)f->words,
		   (off_t)(base + f->at)) < 0)
		die("pwrite");
	free(word);
}

static void write_shard(struct out *o)
{
	char path[4096];
	uint64_t len;
	FILE *f;

	o->header[0] = '{';
	o->len += (size_t)snprintf(o->header + o->len, HEADER - o->len,
		",\"__metadata__\":{\"format\":\"pt\"}}");
	while (o->len % 8)
		o->header[o->len++] = ' ';
	snprintf(path, sizeof(path), "%s/model-%05u-of-%05u.safetensors",
		 o->dir, o->shard + 1, o->s->shards);
	f = fopen(path, "wb");
	len = o->len;
	if (!f || !fwrite(&len, 8, 1, f) || !fwrite(o->header, o->len, 1, f) ||
	    fflush(f) || ftruncate(fileno(f), (off_t)(8 + len + o->data)))
		die(path);
	for (unsigned i = 0; i < o->fills; i++)
		fill(fileno(f), 8 + len, &o->fill[i]);
	fclose(f);
	o->shard++;
	o->len = o->data = o->fills = 0;
}

static void write_config(const struct out *o)
{
	const struct shape *s = o->s;
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/config.json", o->dir);
	f = fopen(path, "w");
	if (!f)
		die(path);
	fprintf(f, "{\"architectures\":[\"LlamaForCausalLM\"],"
		"\"model_type\":\"llama\",\"hidden_size\":%u,"
		"\"intermediate_size\":%u,\"num_hidden_layers\":%u,"
		"\"num_attention_heads\":%u,\"num_key_value_heads\":%u,"
		"\"vocab_size\":%u,\"max_position_embeddings\":4096,"
		"\"rms_norm_eps\":1e-5,\"torch_dtype\":\"float16\","
		"\"quantization_config\":{\"quant_method\":\"gptq\","
		"\"bits\":4,\"group_size\":%u,\"desc_act\":false,\"sym\":true,"
		"\"checkpoint_format\":\"gptq\"}}\n", s->hidden, s->mlp,
		s->blocks, s->hidden / 128, s->kv / 128, VOCAB, GROUP);
	fclose(f);
}

int main(int argc, char **argv)
{
	static struct out o;
	struct shape s = { 0 };
	char path[4096];

	if (argc < 7) {
		fprintf(stderr, "hollow OUT BLOCKS HIDDEN MLP KV SHARDS "
			"[full|act]\n");
		return 2;
	}
	s = (struct shape) { (unsigned)atoi(argv[2]), (unsigned)atoi(argv[3]),
		(unsigned)atoi(argv[4]), (unsigned)atoi(argv[5]),
		(unsigned)atoi(argv[6]), argc > 7,
		argc > 7 && !strcmp(argv[7], "act") };
	o.dir = argv[1];
	o.s = &s;
	o.header = malloc(HEADER);
	mkdir(o.dir, 0777);
	snprintf(path, sizeof(path), "%s/model.safetensors.index.json", o.dir);
	o.index = fopen(path, "w");
	if (!o.header || !o.index)
		die(path);
	fprintf(o.index, "{\n  \"metadata\": {},\n  \"weight_map\": {");
	add(&o, "model.embed_tokens.weight", "F16", VOCAB, s.hidden, 2);
	for (unsigned i = 0; i < s.blocks; i++) {
		add_block(&o, i);
		if ((i + 1) * s.shards / s.blocks > o.shard &&
		    i + 1 < s.blocks)
			write_shard(&o);
	}
	add(&o, "model.norm.weight", "F16", s.hidden, 0, 2);
	add(&o, "lm_head.weight", "F16", VOCAB, s.hidden, 2);
	write_shard(&o);
	fprintf(o.index, "\n  }\n}\n");
	fclose(o.index);
	write_config(&o);
	free(o.header);
	return 0;
}
