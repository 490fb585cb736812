/* synth.c - a Llama of given widths with made-up weights, as fast as the memory
 * takes it: GPTQ v1, 4 bits, groups of 128, symmetric, bell-shaped codes, no
 * weight of 0.  Equal arguments give equal bytes.
 *
 *	synth [-b BITS] [-g GROUP] [-a] [-z] OUT BLOCKS HIDDEN MLP HEADS
 *	      KVHEADS [VOCAB]
 *
 *	-b 2|3|4|8, -g N    bits and group size
 *	-a                  act-order: the inputs of a group stand anywhere
 *	-z                  asymmetric: zeros of all kinds
 *
 * Llama-2-7B: synth OUT 32 4096 11008 32 32.  One weight file, config.json,
 * no tokenizer. */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER (16u << 20)
#define PIECE (1u << 20) /* words made at once */
#define TENSORS 8192u
#define THREADS 64

struct shape {
	unsigned blocks, hidden, mlp, heads, kv, vocab;
	unsigned bits, group;
	int order, asym;
};

enum kind { CODES = 0, ZEROS, SCALES, INDEX, NORM, DENSE };

struct tensor {
	enum kind kind;
	uint64_t at, bytes;
};

/* A walk over the tensors writes the header and lists them; threads then fill
 * the file piece by piece, each piece from a seed of its own. */
struct out {
	const struct shape *s;
	char *header;
	size_t len;
	uint64_t bytes, base;   /* of the data; where it starts in the file */
	struct tensor *tensor;
	unsigned count;
	int fd;
	uint16_t bell[1 << 16]; /* four codes, none of them 8 */
	pthread_mutex_t lock;
	unsigned next;          /* tensor and piece to be taken */
	uint64_t next_at;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t next(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* The sum of three dice, around 8, 8 itself left out. */
static void make_bell(struct out *o)
{
	uint64_t seed = 0x9e3779b97f4a7c15u;

	for (uint32_t i = 0; i < 1 << 16; i++) {
		uint32_t word = 0;

		for (int k = 0; k < 4; k++) {
			uint64_t r = next(&seed);
			uint32_t c = (uint32_t)((r & 7) + (r >> 3 & 7) +
						(r >> 6 & 3));

			c = c > 15 ? 15 : c;
			if (c == 8)
				c = 7 + 2 * (uint32_t)(r >> 20 & 1);
			word |= c << 4 * k;
		}
		o->bell[i] = (uint16_t)word;
	}
}

/* The stored middle, less one as in v1, in all fields of word i of a row. */
static uint32_t middle(unsigned bits, uint64_t i)
{
	static const uint32_t three[] = { 0xdb6db6db, 0xb6db6db6, 0x6db6db6d };

	return bits == 2 ? 0x55555555 : bits == 4 ? 0x77777777 :
	       bits == 8 ? 0x7f7f7f7f : three[i % 3];
}

/* Word i of a tensor: of codes, of two f16 (scales about 0.008, weights below
 * 0.03), ...  No zero of -z is the one that v1 cannot tell. */
static uint32_t word_of(const struct out *o, enum kind kind, uint64_t i,
			uint64_t r)
{
	const struct shape *s = o->s;

	switch (kind) {
	case CODES:
		if (s->bits != 4)
			return (uint32_t)(r >> 8);
		return o->bell[r & 0xffff] |
		       (uint32_t)o->bell[r >> 16 & 0xffff] << 16;
	case ZEROS:
		if (!s->asym || s->bits == 3)
			return middle(s->bits, i);
		return (uint32_t)(r >> 8) & middle(s->bits, i);
	case SCALES:
		return 0x1c001c00 + (uint32_t)(r & 0x03ff03ff);
	case NORM:
		return 0x3c003c00;
	default:
		return 0x20002000 + (uint32_t)(r & 0x87ff87ff);
	}
}

/* Groups in order, or, with an odd stride over a power of two that holds all
 * inputs, shuffled: each group keeps its size. */
static void make_index(const struct out *o, uint32_t *word, uint64_t n)
{
	uint64_t all = 1, at = 0;

	while (all < n)
		all *= 2;
	for (uint64_t i = 0; i < n; i++) {
		if (!o->s->order) {
			word[i] = (uint32_t)(i / o->s->group);
			continue;
		}
		do
			at = (at * 5 + 4097) % all; /* visits all of them */
		while (at >= n);
		word[at] = (uint32_t)(i / o->s->group);
	}
}

static void fill(const struct out *o, unsigned t, uint64_t at, uint32_t *word)
{
	const struct tensor *to = &o->tensor[t];
	uint64_t seed = ((uint64_t)t << 32) + at / PIECE + 1;
	uint64_t n = to->bytes / 4 - at;

	n = n < PIECE ? n : PIECE;
	seed *= 0x9e3779b97f4a7c15u;
	if (to->kind == INDEX)
		make_index(o, word, n);
	else
		for (uint64_t i = 0; i < n; i++)
			word[i] = word_of(o, to->kind, at + i, next(&seed));
	if (pwrite(o->fd, word, 4 * n, (off_t)(o->base + to->at + 4 * at)) !=
	    (ssize_t)(4 * n))
		die("synth");
}

static void *work(void *arg)
{
	struct out *o = arg;
	uint32_t *word = malloc(4 * (size_t)PIECE);

	if (!word)
		die("synth");
	for (;;) {
		unsigned t;
		uint64_t at;

		pthread_mutex_lock(&o->lock);
		t = o->next;
		at = o->next_at;
		if (t < o->count) {
			o->next_at += PIECE;
			if (o->next_at >= o->tensor[t].bytes / 4) {
				o->next++;
				o->next_at = 0;
			}
		}
		pthread_mutex_unlock(&o->lock);
		if (t >= o->count)
			break;
		fill(o, t, at, word);
	}
	free(word);
	return NULL;
}

static void pour(struct out *o)
{
	pthread_t id[THREADS];
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	n = n < 1 ? 1 : n > THREADS ? THREADS : n;
	pthread_mutex_init(&o->lock, NULL);
	for (long i = 0; i < n; i++)
		if (pthread_create(&id[i], NULL, work, o))
			die("synth");
	for (long i = 0; i < n; i++)
		pthread_join(id[i], NULL);
}

static void tensor(struct out *o, const char *name, enum kind kind,
		   uint64_t d0, uint64_t d1)
{
	int words = kind == CODES || kind == ZEROS || kind == INDEX;
	uint64_t bytes = d0 * (d1 ? d1 : 1) * (words ? 4 : 2);
	char shape[64];

	snprintf(shape, sizeof(shape), d1 ? "%llu,%llu" : "%llu",
		 (unsigned long long)d0, (unsigned long long)d1);
	o->len += (size_t)snprintf(o->header + o->len, HEADER - o->len,
		"%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],"
		"\"data_offsets\":[%llu,%llu]}", o->len > 1 ? "," : "", name,
		words ? "I32" : "F16", shape, (unsigned long long)o->bytes,
		(unsigned long long)(o->bytes + bytes));
	if (o->count == TENSORS || HEADER - o->len < 1024) {
		fprintf(stderr, "synth: too many tensors\n");
		exit(1);
	}
	o->tensor[o->count++] = (struct tensor){ kind, o->bytes, bytes };
	o->bytes += bytes;
}

static void linear(struct out *o, unsigned block, const char *name,
		   unsigned in, unsigned out)
{
	static const char *const suffix[] = { "qweight", "qzeros", "scales",
					      "g_idx" };
	unsigned groups = (in + o->s->group - 1) / o->s->group;
	unsigned bits = o->s->bits;
	const uint64_t dim[4][2] = { { in / 32 * bits, out },
				     { groups, out / 32 * bits },
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
	if (!f)
		die(path);
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
		"\"bits\": %u, \"group_size\": %u, \"desc_act\": %s, "
		"\"sym\": %s, \"checkpoint_format\": \"gptq\"}}\n",
		s->hidden, s->mlp, s->blocks, s->heads, s->kv, s->vocab,
		s->bits, s->group, s->order ? "true" : "false",
		s->asym ? "false" : "true");
	fclose(f);
}

/* The header in front of the data; *o goes on with what lies behind it. */
static void start(struct out *o, const char *dir)
{
	FILE *f = create(dir, "model.safetensors");
	uint64_t len;

	while (o->len % 8)
		o->header[o->len++] = ' ';
	len = o->len;
	if (fwrite(&len, 8, 1, f) != 1 ||
	    fwrite(o->header, 1, o->len, f) != o->len || fflush(f))
		die(dir);
	o->base = 8 + len;
	o->fd = dup(fileno(f));
	if (o->fd < 0 || ftruncate(o->fd, (off_t)(o->base + o->bytes)))
		die(dir);
	fclose(f);
}

static int usage(void)
{
	fprintf(stderr, "synth [-b 2|3|4|8] [-g GROUP] [-a] [-z] OUT BLOCKS "
		"HIDDEN MLP HEADS KVHEADS [VOCAB]\n");
	return 2;
}

static int parse(int argc, char **argv, struct shape *s)
{
	unsigned *field[] = { &s->blocks, &s->hidden, &s->mlp, &s->heads,
			      &s->kv, &s->vocab };
	int c;

	while ((c = getopt(argc, argv, "b:g:az")) != -1) {
		if (c == 'b')
			s->bits = (unsigned)atoi(optarg);
		else if (c == 'g')
			s->group = (unsigned)atoi(optarg);
		else if (c == 'a')
			s->order = 1;
		else if (c == 'z')
			s->asym = 1;
		else
			return -1;
	}
	if (argc - optind < 6 || argc - optind > 7 || !s->group ||
	    (s->bits != 2 && s->bits != 3 && s->bits != 4 && s->bits != 8))
		return -1;
	for (int i = 1; i < argc - optind; i++)
		*field[i - 1] = (unsigned)strtoul(argv[optind + i], NULL, 10);
	return s->heads && s->hidden % 32 == 0 && s->mlp % 32 == 0 &&
	       s->hidden % s->heads == 0 && s->hidden < PIECE &&
	       s->mlp < PIECE ? 0 : -1;
}

int main(int argc, char **argv)
{
	struct shape s = { .vocab = 32000, .bits = 4, .group = 128 };
	struct out *o = calloc(1, sizeof(*o));

	if (!o || parse(argc, argv, &s))
		return usage();
	o->s = &s;
	o->header = malloc(HEADER);
	o->tensor = malloc(TENSORS * sizeof(*o->tensor));
	if (!o->header || !o->tensor)
		die("synth");
	mkdir(argv[optind], 0777);
	config(argv[optind], &s);
	o->header[o->len++] = '{';
	walk(o, &s);
	o->header[o->len++] = '}';
	start(o, argv[optind]);
	make_bell(o);
	pour(o);
	if (close(o->fd))
		die("synth");
	free(o->header);
	free(o->tensor);
	free(o);
	return 0;
}
