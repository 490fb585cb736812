/* ills.h - what is done to a sound checkpoint (sick.h) so that one thing is
 * wrong with it. */
#ifndef TESTS_UNIT_ILLS_H
#define TESTS_UNIT_ILLS_H

#include "../../libfmt/layout/bits.h"
#include "sick.h"

static inline void shell(const char *dir, const char *command)
{
	char line[1024];

	snprintf(line, sizeof(line), "cd %s && { %s; } >/dev/null 2>out.err "
		 "|| { cat out.err >&2; exit 1; }", dir, command);
	if (system(line))
		fail_msg("%s: failed", command);
	snprintf(line, sizeof(line), "%s/out.err", dir);
	unlink(line);
}

/* In two shards, as repack cuts them. */
static inline void cut(const char *dir)
{
	shell(dir, "gptq-repack . -o new --shard-size 9000 -q && "
		   "rm model.safetensors && mv new/* . && rmdir new");
}

static inline void without_index(const char *dir)
{
	cut(dir);
	shell(dir, "rm model.safetensors.index.json");
}

static inline void stale_index(const char *dir)
{
	sick_text(dir, "model.safetensors.index.json",
		  "{\"weight_map\": {\"a\": \"gone.safetensors\"}}");
}

static inline void bin_index(const char *dir)
{
	sick_text(dir, "pytorch_model.bin.index.json", "{\"weight_map\": {"
		  "\"lm_head.weight\": \"pytorch_model-00001-of-00014.bin\"}}");
}

static inline void unlisted(const char *dir)
{
	sick_text(dir, "model.safetensors.index.json",
		  "{\"weight_map\": {\"model.norm.weight\": "
		  "\"model.safetensors\"}}");
}

static inline void leftover(const char *dir)
{
	shell(dir, "cp model.safetensors 4bit-128g.safetensors");
}

static inline void trailing(const char *dir)
{
	shell(dir, "printf 0123 >>model.safetensors");
}

static inline void blanks_first(const char *dir)
{
	char path[256], *text;
	struct err err;
	size_t n;
	FILE *f;

	snprintf(path, sizeof(path), "%s/model.safetensors", dir);
	must(io_read_file(path, 1 << 20, &text, &n, &err), &err);
	half_put64(text, half_le64(text) + 4096);
	f = fopen(path, "wb");
	assert_non_null(f);
	fwrite(text, 1, 8, f);
	for (int i = 0; i < 4096; i++)
		fputc(" \t\r\n"[i % 4], f);
	fwrite(text + 8, 1, n - 8, f);
	assert_int_equal(fclose(f), 0);
	free(text);
}

/* The header's only member of its kind under a name of the same length. */
static inline void no_format(const char *dir)
{
	shell(dir, "sed 's/\"format\":\"pt\"/\"formal\":\"pt\"/' "
		   "model.safetensors >x && mv x model.safetensors");
}

static inline void inv_freq(struct make *m)
{
	make_f16(m, "model.layers.0.self_attn.rotary_emb", "inv_freq", 16, 0);
}

static inline void block_beyond(struct make *m)
{
	make_f16(m, "model.layers.1.mlp.up_proj", "weight", 128, 64);
}

/* Item i is no longer there. */
static inline void drop_item(struct make *m, uint32_t i)
{
	uint32_t last = --m->count;

	free(m->data[i]);
	m->item[i] = m->item[last];
	m->data[i] = m->data[last];
	memcpy(m->name[i], m->name[last], sizeof(m->name[i]));
	m->item[i].name = m->name[i];
}

/* q, k and v side by side in a tensor of qkv_proj; a vector of `one` stays that
 * of q alone. */
static inline void fuse_tensor(struct make *m, const char *suffix, bool one)
{
	static const char *const name[3] = { "q", "k", "v" };
	uint32_t at[3], rows, width = 0;
	char full[64];
	uint8_t *to;
	size_t unit;

	for (int i = 0; i < 3; i++) {
		snprintf(full, sizeof(full), ".%s_proj.%s", name[i], suffix);
		at[i] = sick_find(m, full, 0);
		width += (uint32_t)m->item[at[i]].dim[m->item[at[i]].rank - 1];
	}
	unit = tensor_dtype_bits(m->item[at[0]].type) / 8;
	rows = m->item[at[0]].rank == 2 ? (uint32_t)m->item[at[0]].dim[0] : 1;
	to = malloc(rows * width * unit);
	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t i = 0, col = 0; i < 3; i++) {
			const struct ckpt_item *it = &m->item[at[i]];
			uint32_t n = (uint32_t)it->dim[it->rank - 1];

			memcpy(to + (r * width + col) * unit,
			       (uint8_t *)m->data[at[i]] + r * n * unit,
			       n * unit);
			col += n;
		}
	free(m->data[at[0]]);
	m->data[at[0]] = to;
	m->item[at[0]].data = to;
	if (!one)
		m->item[at[0]].dim[m->item[at[0]].rank - 1] = width;
	*strstr(m->name[at[0]], "q_proj.") = '\0';
	snprintf(full, sizeof(full), "qkv_proj.%s", suffix);
	strcat(m->name[at[0]], full);
	for (int i = 1; i < 3; i++) {
		snprintf(full, sizeof(full), ".%s_proj.%s", name[i], suffix);
		drop_item(m, sick_find(m, full, 0));
	}
}

static inline void fuse(struct make *m, bool one_map)
{
	fuse_tensor(m, "qweight", false);
	fuse_tensor(m, "qzeros", false);
	fuse_tensor(m, "scales", false);
	fuse_tensor(m, "g_idx", one_map);
}

static inline void three_maps(struct make *m)
{
	fuse(m, false);
}

static inline void one_map(struct make *m)
{
	fuse(m, true);
}

static inline void zero_biases(struct make *m)
{
	make_f16(m, "model.layers.0.self_attn.o_proj", "bias", 64, 0);
	memset(m->data[m->count - 1], 0, 128);
	make_f16(m, "model.layers.0.mlp.up_proj", "bias", 128, 0);
	memset(m->data[m->count - 1], 0, 256);
	half_put16(m->data[m->count - 1], 0x8000); /* -0 */
}

static inline void odd_bias(struct make *m)
{
	zero_biases(m);
	half_put16((uint8_t *)m->data[m->count - 1] + 254, 1);
}

static inline void markers(struct make *m)
{
	static const char *const name[] = { "gptq_bits", "gptq_groupsize" };

	for (int i = 0; i < 2; i++) {
		struct ckpt_item *it = make_item(m, "x", "x", 8);

		strcpy(m->name[m->count - 1], name[i]);
		half_put64(m->data[m->count - 1], i ? 32 : 4);
		it->type = DT_I64;
		it->rank = 1;
		it->dim[0] = 1;
	}
}

static inline void lora(struct make *m)
{
	make_f16(m, "model.layers.0.mlp.up_proj.lora_A.default", "weight", 8,
		 64);
}

/* The head becomes a copy of the embeddings. */
static inline void copied_head(struct make *m)
{
	memcpy(m->data[sick_find(m, "lm_head.weight", 0)],
	       m->data[sick_find(m, "embed_tokens.weight", 0)], 32 * 64 * 2);
}

static inline void wrapped_head(struct make *m)
{
	strcpy(m->name[sick_find(m, "lm_head.weight", 0)],
	       "base_model.model.lm_head.weight");
}

static inline void zero_gidx(struct make *m)
{
	for (uint32_t i = 0; i < 7; i++) {
		uint32_t at = sick_find(m, ".g_idx", i);

		memset(m->data[at], 0, 4 * m->item[at].dim[0]);
	}
}

static inline void replace(struct make *m, const char *module,
			   const char *name)
{
	for (uint32_t i = 0; i < m->count; i++) {
		char *dot = strrchr(m->name[i], '.');

		if ((size_t)(dot - m->name[i]) != strlen(module) ||
		    strncmp(m->name[i], module, strlen(module)))
			continue;
		memmove(m->name[i] + strlen(name), dot, strlen(dot) + 1);
		memcpy(m->name[i], name, strlen(name));
	}
}

static inline void packed_head(struct make *m)
{
	const struct sick s = { .prefix = "" };

	replace(m, "lm_head", "spare.head");
	sick_linear(m, &s, "lm_head", 64, 32);
}

/* Words of 16 bits. */
static inline void cut_words(struct make *m)
{
	for (uint32_t i = 0; i < 7; i++) {
		uint32_t at = sick_find(m, ".qweight", i);
		struct ckpt_item *it = &m->item[at];
		void *old = m->data[at];

		m->data[at] = parts_cut(old, it->dim[0], it->dim[1], 16);
		free(old);
		it->data = m->data[at];
		it->dim[0] *= 2;
		it->type = DT_I16;
		it = &m->item[sick_find(m, ".qzeros", i)];
		it->dim[1] *= 2;
		it->type = DT_I16;
	}
}

static inline void wide_gidx(struct make *m)
{
	uint32_t at = sick_find(m, ".g_idx", 2);
	uint8_t *wide = calloc(64, 8);

	for (uint32_t k = 0; k < 64; k++)
		wide[8 * k] = (uint8_t)(k / 32);
	free(m->data[at]);
	m->data[at] = wide;
	m->item[at].data = wide;
	m->item[at].type = DT_I64;
}

static inline void uneven_gidx(struct make *m)
{
	half_put32(m->data[sick_find(m, ".g_idx", 2)], 1);
}

static inline void smear(struct make *m)
{
	half_put32(m->data[sick_find(m, ".qzeros", 1)], 0xFFFFF777);
}

static inline void wrap(struct make *m)
{
	half_put32(m->data[sick_find(m, ".qzeros", 1)], 0x7F777777);
}

/* 3-bit constants in the order of old GPTQModels. */
static inline void swap_constants(struct make *m)
{
	static const uint32_t word[] = { 0, 0xB6DB6DB7, 0x49249249 };

	for (uint32_t i = 0; i < 7; i++) {
		uint32_t at = sick_find(m, ".qzeros", i);
		uint64_t n = m->item[at].dim[0] * m->item[at].dim[1];

		for (uint64_t k = 0; k < n; k++)
			half_put32((uint8_t *)m->data[at] + 4 * k,
				   word[k % 3]);
	}
}

/* Zeros of nonsense, which kernels of the Marlin family do not look at. */
static inline void junk_zeros(struct make *m)
{
	for (uint32_t i = 0; i < 7; i++) {
		uint32_t at = sick_find(m, ".qzeros", i);

		memset(m->data[at], 0x11, 4 * m->item[at].dim[0] *
						  m->item[at].dim[1]);
	}
}

static inline void router(struct make *m)
{
	const struct sick s = { .prefix = "" };

	sick_linear(m, &s, "model.layers.0.block_sparse_moe.gate", 64, 32);
}

static inline void ragged(struct make *m)
{
	const struct sick s = { .prefix = "" };

	sick_linear(m, &s, "model.layers.0.extra_proj", 64, 40);
}

/* v_proj dense, beside quantized q and k. */
static inline void dense_v(struct make *m)
{
	replace(m, "model.layers.0.self_attn.v_proj", "spare.v_proj");
	make_f16(m, "model.layers.0.self_attn.v_proj", "weight", 64, 64);
}

static inline void unequal_v(struct make *m)
{
	const struct sick s = { .prefix = "", .spec = { .bits = 8 } };

	replace(m, "model.layers.0.self_attn.v_proj", "spare.v_proj");
	sick_linear(m, &s, "model.layers.0.self_attn.v_proj", 64, 64);
}

static inline void unequal_o(struct make *m)
{
	const struct sick s = { .prefix = "", .spec = { .bits = 8 } };

	replace(m, "model.layers.0.self_attn.o_proj", "spare.o_proj");
	sick_linear(m, &s, "model.layers.0.self_attn.o_proj", 64, 64);
}

static inline void dense_o(struct make *m)
{
	replace(m, "model.layers.0.self_attn.o_proj", "spare.o_proj");
	make_f16(m, "model.layers.0.self_attn.o_proj", "weight", 64, 64);
}

static inline void plain_weight(struct make *m)
{
	make_f16(m, "model.layers.0.self_attn.o_proj", "weight", 64, 64);
}

static inline void short_bias(struct make *m)
{
	make_f16(m, "model.layers.0.self_attn.o_proj", "bias", 63, 0);
}

static inline void short_scales(struct make *m)
{
	m->item[sick_find(m, ".scales", 3)].dim[1]--;
}

static inline void exl2_head(struct make *m)
{
	replace(m, "lm_head", "spare.head");
	make_f16(m, "lm_head", "q_weight", 4, 32);
	make_f16(m, "lm_head", "q_scale", 4, 32);
}

/* Float zeros, scales that lie the other way, no g_idx. */
static inline void generation_0(struct make *m)
{
	for (uint32_t i = 0; i < 7; i++) {
		uint32_t s = sick_find(m, ".scales", 0);
		uint32_t z = sick_find(m, ".qzeros", 0);
		uint32_t n = (uint32_t)m->item[s].dim[1];
		float *scale = calloc(n, 4), *zero = calloc(n, 4);

		for (uint32_t k = 0; k < n; k++) {
			scale[k] = (float)(k + 1) / 64;
			zero[k] = scale[k] * 8;
		}
		free(m->data[s]);
		free(m->data[z]);
		m->data[s] = scale;
		m->data[z] = zero;
		strcpy(strrchr(m->name[s], '.'), ".scales");
		strcpy(strrchr(m->name[z], '.'), ".zeros");
		for (int k = 0; k < 2; k++) {
			struct ckpt_item *it = &m->item[k ? z : s];

			it->data = m->data[k ? z : s];
			it->type = DT_F32;
			it->rank = 2;
			it->dim[0] = n;
			it->dim[1] = 1;
		}
		/* sick_find takes the first that is left */
		strcat(m->name[s], "#");
	}
	for (uint32_t i = 0; i < m->count; i++)
		if (strchr(m->name[i], '#'))
			*strchr(m->name[i], '#') = '\0';
}

/* ---- sizes ---- */

static inline void wide_group(struct make *m)
{
	const struct sick s = { .prefix = "", .spec = { .group_size = 256 } };

	sick_linear(m, &s, "model.layers.0.extra_proj", 512, 32);
}

static inline void ordered_down(struct make *m)
{
	const struct sick s = { .prefix = "", .spec = { .act_order = 1 } };
	static const char name[] = "model.layers.0.mlp.down_proj";

	replace(m, name, "spare.down_proj");
	sick_linear(m, &s, name, 128, 64);
}

static inline void smaller_v(struct make *m)
{
	const struct sick s = { .prefix = "", .spec = { .group_size = 16 } };

	replace(m, "model.layers.0.self_attn.v_proj", "spare.v_proj");
	sick_linear(m, &s, "model.layers.0.self_attn.v_proj", 64, 64);
}

static inline void smaller_8bit_v(struct make *m)
{
	const struct sick s = { .prefix = "", .spec = { .group_size = 16,
							.bits = 8 } };

	replace(m, "model.layers.0.self_attn.v_proj", "spare.v_proj");
	sick_linear(m, &s, "model.layers.0.self_attn.v_proj", 64, 64);
}

/* Zero points one by one, as signed bytes. */
static inline void unpacked(struct make *m)
{
	for (uint32_t i = 0; i < 7; i++) {
		uint32_t at = sick_find(m, ".weight_zero_point", i);
		struct ckpt_item *it = &m->item[at];
		uint64_t groups = it->dim[1], out = 8 * it->dim[0];
		const uint8_t *word = m->data[at];
		uint8_t *byte = calloc(out, groups);

		for (uint64_t n = 0; n < out; n++)
			for (uint64_t g = 0; g < groups; g++) {
				const uint8_t *w = word +
					4 * (n / 8 * groups + g) + n % 8 / 2;

				byte[n * groups + g] = (uint8_t)((
					*w >> 4 * (n % 2) & 15) - 8);
			}
		free(m->data[at]);
		m->data[at] = byte;
		it->data = byte;
		it->type = DT_I8;
		it->dim[0] = out;
	}
}

/* The MLP's gate and up in 8 bits. */
static inline void wide_gate_up(struct make *m)
{
	const struct sick s = { .prefix = "", .spec = { .bits = 8 } };

	replace(m, "model.layers.0.mlp.gate_proj", "spare.gate_proj");
	replace(m, "model.layers.0.mlp.up_proj", "spare.up_proj");
	sick_linear(m, &s, "model.layers.0.mlp.gate_proj", 64, 128);
	sick_linear(m, &s, "model.layers.0.mlp.up_proj", 64, 128);
}

static inline void mlp(struct make *m, uint32_t in, uint32_t out)
{
	const struct sick s = { .prefix = "" };

	replace(m, "model.layers.0.mlp.down_proj", "spare.down_proj");
	replace(m, "model.layers.0.mlp.gate_proj", "spare.gate_proj");
	replace(m, "model.layers.0.mlp.up_proj", "spare.up_proj");
	sick_linear(m, &s, "model.layers.0.mlp.down_proj", in, 64);
	sick_linear(m, &s, "model.layers.0.mlp.gate_proj", 64, out);
	sick_linear(m, &s, "model.layers.0.mlp.up_proj", 64, out);
}

static inline void heads(struct make *m, uint32_t size, uint32_t group)
{
	static const char *const name[] = { "q_proj", "k_proj", "v_proj",
		"o_proj" };
	const struct sick s = { .prefix = "", .spec = { .group_size = group } };

	for (int i = 0; i < 4; i++) {
		char is[96], spare[96];

		snprintf(is, sizeof(is), "model.layers.0.self_attn.%s",
			 name[i]);
		snprintf(spare, sizeof(spare), "spare.%s", name[i]);
		replace(m, is, spare);
		sick_linear(m, &s, is, i < 3 ? 64 : size, i < 3 ? size : 64);
	}
}

/* Attention of three groups of 64. */
static inline void heads_96(struct make *m)
{
	heads(m, 192, 64);
}

/* ... and of 32, which are small enough. */
static inline void heads_48(struct make *m)
{
	heads(m, 96, 32);
}

/* Three groups of 32. */
static inline void mlp_96(struct make *m)
{
	mlp(m, 96, 96);
}

/* 80 outputs, and 16 of padding. */
static inline void mlp_padded(struct make *m)
{
	mlp(m, 80, 96);
}

/* ---- files ---- */

/* A tensor's entry in the header becomes blanks. */
static inline void hole(const char *dir)
{
	static const char name[] =
		"\"model.layers.0.self_attn.rotary_emb.inv_freq\":{";
	char path[256], *text, *at = NULL;
	struct err err;
	size_t n;

	snprintf(path, sizeof(path), "%s/model.safetensors", dir);
	must(io_read_file(path, 1 << 20, &text, &n, &err), &err);
	for (size_t i = 8; !at && i + sizeof(name) < n; i++)
		if (!memcmp(text + i, name, sizeof(name) - 1))
			at = text + i;
	assert_non_null(at);
	while (*at != '}')
		*at++ = ' ';
	memset(at, ' ', 2); /* and the comma */
	must(io_write_file(path, text, n, &err), &err);
	free(text);
}

/* A PyTorch file takes the place of the other. */
static inline void pickle(const char *dir)
{
	shell(dir, "rm model.safetensors; cp \"$OLDPWD/tests/golden/torch_pt/"
		   "qwop_new_b4_g32_sym_act/model.pt\" pytorch_model.bin");
}

/* ... with tensors that share memory. */
static inline void shared(const char *dir)
{
	shell(dir, "rm model.safetensors; cp \"$OLDPWD/tests/golden/torch_pt/"
		   "pt_container_features/flat.pt\" pytorch_model.bin");
}

static inline void marlin_shards(const char *dir)
{
	static const char index[] = "{\"weight_map\": {"
		"\"model.layers.0.self_attn.v_proj.B\": \"a-1-of-2."
		"safetensors\", \"model.layers.0.self_attn.v_proj.s\": "
		"\"a-1-of-2.safetensors\", "
		"\"model.layers.0.self_attn.k_proj.B\": "
		"\"a-2-of-2.safetensors\", "
		"\"model.layers.0.self_attn.k_proj.s\": "
		"\"a-2-of-2.safetensors\"}}";

	shell(dir, "g=\"$OLDPWD/tests/golden/marlin\"; rm model.safetensors; "
		   "cp \"$g/marlin_b4_g128_k256_n256/marlin.safetensors\" "
		   "a-1-of-2.safetensors; "
		   "cp \"$g/marlin_b4_gch_k128_n256/marlin.safetensors\" "
		   "a-2-of-2.safetensors");
	sick_text(dir, "model.safetensors.index.json", index);
}

static inline void dense_weights(const char *dir)
{
	shell(dir, "gptq-repack . -o new --to dense -q && "
		   "mv new/model.safetensors . && rm -r new");
}

/* ---- compressed-tensors of other releases ---- */

/* 3 bits as before 0.18: ten fields in a word. */
static inline void spare_bits(struct make *m)
{
	static const struct bits_rule padded = { BITS_PADDED, NULL };

	for (uint32_t i = 0; i < 7; i++) {
		uint32_t at = sick_find(m, ".weight_packed", i);
		struct ckpt_item *it = &m->item[at];
		uint32_t in = (uint32_t)(it->dim[1] * 32 / 3);
		uint64_t words = bits_words(&padded, 3, in);
		uint8_t *to = calloc(it->dim[0], 4 * words);
		uint8_t code[256];

		for (uint64_t n = 0; n < it->dim[0]; n++) {
			bits_unpack(&bits_stream, 3, (uint8_t *)m->data[at] +
				    4 * it->dim[1] * n, 1, in, code, 1);
			bits_pack(&padded, 3, code, 1, in, to + 4 * words * n,
				  1);
		}
		free(m->data[at]);
		m->data[at] = to;
		it->data = to;
		it->dim[1] = words;
	}
}

/* ---- tensors of other methods ---- */

static inline void rename_part(struct make *m, const char *from,
			       const char *to)
{
	for (uint32_t i = 0; i < m->count; i++) {
		char *dot = strrchr(m->name[i], '.');

		if (!strcmp(dot, from))
			strcpy(dot, to);
	}
}

static inline void qqq(struct make *m)
{
	rename_part(m, ".qzeros", ".s_group");
	rename_part(m, ".scales", ".s_channel");
	rename_part(m, ".g_idx", ".workspace");
}

static inline void exl2(struct make *m)
{
	rename_part(m, ".qweight", ".q_weight");
	rename_part(m, ".qzeros", ".q_scale");
	rename_part(m, ".scales", ".q_scale_max");
	rename_part(m, ".g_idx", ".q_invperm");
}

/* SliM-LLM: rows of several widths, more than 4 bits would take. */
static inline void heights(struct make *m)
{
	uint32_t at = sick_find(m, ".qweight", 3);
	struct ckpt_item *it = &m->item[at];

	m->data[at] = realloc(m->data[at], 4 * (it->dim[0] + 3) * it->dim[1]);
	memset((uint8_t *)m->data[at] + 4 * it->dim[0] * it->dim[1], 0,
	       4 * 3 * it->dim[1]);
	it->data = m->data[at];
	it->dim[0] += 3;
}

/* Floats where codes should be. */
static inline void float_codes(struct make *m)
{
	m->item[sick_find(m, ".qweight", 3)].type = DT_F32;
}

/* ---- zeros and scales ---- */

/* The true zero 0, which v1 does not have, in every eighth output. */
static inline void zero_0(struct make *m)
{
	for (uint32_t i = 0; i < 7; i++) {
		uint32_t at = sick_find(m, ".qzeros", i);
		uint64_t n = m->item[at].dim[0] * m->item[at].dim[1];

		for (uint64_t k = 0; k < n; k++)
			((uint8_t *)m->data[at])[4 * k] &= 0xF0;
	}
}

/* F32 scales that F16 does not hold. */
static inline void fine_scales(struct make *m)
{
	for (uint32_t i = 0; i < 7; i++)
		half_put32(m->data[sick_find(m, ".scales", i)], 0x3F800001);
}

/* The codes lie around the stored zeros, which are 3 and not 8. */
static inline void low_codes(struct make *m)
{
	for (uint32_t i = 0; i < 7; i++) {
		uint32_t at = sick_find(m, ".qweight", i);

		memset(m->data[at], 0x33, 4 * m->item[at].dim[0] *
						  m->item[at].dim[1]);
		at = sick_find(m, ".qzeros", i);
		memset(m->data[at], 0x22, 4 * m->item[at].dim[0] *
						  m->item[at].dim[1]);
	}
}

/* A few zeros beside the middle one, and codes that fit them. */
static inline void few_zeros(struct make *m)
{
	uint32_t at = sick_find(m, ".qzeros", 3);

	((uint8_t *)m->data[at])[0] = 0x75; /* output 0: 6 */
	at = sick_find(m, ".qweight", 3);
	for (uint32_t r = 0; r < 4; r++)
		half_put32((uint8_t *)m->data[at] + 4 * r *
				   m->item[at].dim[1], 0x66666666);
}

/* ---- sizes ---- */

static inline void smaller_o(struct make *m)
{
	const struct sick s = { .prefix = "", .spec = { .group_size = 16 } };

	replace(m, "model.layers.0.self_attn.o_proj", "spare.o_proj");
	sick_linear(m, &s, "model.layers.0.self_attn.o_proj", 64, 64);
}

static inline void smaller_8bit_o(struct make *m)
{
	const struct sick s = { .prefix = "", .spec = { .group_size = 16,
							.bits = 8 } };

	replace(m, "model.layers.0.self_attn.o_proj", "spare.o_proj");
	sick_linear(m, &s, "model.layers.0.self_attn.o_proj", 64, 64);
}

static inline void dense_gate_up(struct make *m)
{
	replace(m, "model.layers.0.mlp.gate_proj", "spare.gate_proj");
	replace(m, "model.layers.0.mlp.up_proj", "spare.up_proj");
	make_f16(m, "model.layers.0.mlp.gate_proj", "weight", 128, 64);
	make_f16(m, "model.layers.0.mlp.up_proj", "weight", 128, 64);
}

/* An old name, as of 2023. */
static inline void old_name(const char *dir)
{
	shell(dir, "rm model.safetensors; cp \"$OLDPWD/tests/golden/torch_pt/"
		   "qwop_new_b4_g32_sym_act/model.pt\" "
		   "llama-7b-4bit-32g.pt");
}

#endif
