/* A tokenizer as the pairs of a GGUF file. */
#include "gguf_tok_impl.h"

#include "base/err.h"
#include "base/json.h"
#include "container/gguf.h"
#include "llama.h"

#include <string.h>

/* ---- special tokens ---- */

static int64_t find_id(const struct gguf_vocab *v, const char *text)
{
	size_t n = text ? strlen(text) : 0;

	for (uint32_t i = 0; text && i < v->count; i++)
		if (v->token[i].len == n && !memcmp(v->token[i].text, text, n))
			return i;
	return -1;
}

/* "bos_token" of tokenizer_config.json: a text, or an object with it. */
static int64_t special(const struct gguf_vocab *v, const char *key,
		       int64_t other)
{
	const struct cJSON *j = json_find(v->config, key);
	const char *text = json_text(j);
	int64_t id = find_id(v, text ? text :
			     json_text(json_find(j, "content")));

	return id >= 0 ? id : other < v->count ? other : -1;
}

static void put_id(struct gguf_meta *m, const char *key, int64_t id)
{
	if (id >= 0)
		gguf_put_u32(m, key, (uint32_t)id);
}

/* What the template of tokenizer.json puts in front of a text; -1: nothing. */
static int64_t template_head(const struct gguf_vocab *v)
{
	const struct cJSON *t =
		gguf_vocab_step(json_find(v->json, "post_processor"),
				"processors", "TemplateProcessing");
	const struct cJSON *first = json_first(json_find(t, "single"));

	return find_id(v, json_text(json_path(first, "SpecialToken.id")));
}

/* What texts do get in front, whatever the configs call it; else their word,
 * else what the token is usually called. */
static int64_t find_bos(const struct gguf_vocab *v,
			const struct llama_config *c)
{
	int64_t id = template_head(v);

	if (id < 0)
		id = special(v, "bos_token", c->bos);
	return id < 0 ? find_id(v, "<s>") : id;
}

static int64_t find_eos(const struct gguf_vocab *v,
			const struct llama_config *c)
{
	static const char *const usual[] = { "</s>", "<|end_of_text|>",
		"<|endoftext|>", "<eos>", "<|im_end|>" };
	int64_t id = special(v, "eos_token",
			     c->eos_count ? (int64_t)c->eos[0] : -1);

	for (int i = 0; id < 0 && i < 5; i++)
		id = find_id(v, usual[i]);
	return id;
}

/* Whether a text gets `id` in front: the config's word, else the template of
 * tokenizer.json, else what SentencePiece models are used with. */
static bool adds_bos(const struct gguf_vocab *v, int64_t id)
{
	bool add = !v->json && v->model;

	if (json_bool(json_find(v->config, "add_bos_token"), &add) && v->json)
		add = template_head(v) == id;
	return add && id >= 0;
}

static void put_special(const struct gguf_vocab *v,
			const struct llama_config *c, struct gguf_meta *m)
{
	int64_t bos = find_bos(v, c), eos = find_eos(v, c);
	int64_t unk = special(v, "unk_token", -1);
	bool add_eos = false;

	for (uint32_t i = 0; unk < 0 && i < v->count; i++)
		if (v->token[i].type == GGUF_TOK_UNKNOWN)
			unk = i;
	json_bool(json_find(v->config, "add_eos_token"), &add_eos);
	put_id(m, "tokenizer.ggml.bos_token_id", bos);
	put_id(m, "tokenizer.ggml.eos_token_id", eos);
	put_id(m, "tokenizer.ggml.unknown_token_id", unk);
	put_id(m, "tokenizer.ggml.padding_token_id",
	       special(v, "pad_token", -1));
	gguf_put_bool(m, "tokenizer.ggml.add_bos_token", adds_bos(v, bos));
	gguf_put_bool(m, "tokenizer.ggml.add_eos_token", add_eos && eos >= 0);
}

/* One template, or the one called "default" of several. */
static void put_template(const struct gguf_vocab *v, struct gguf_meta *m)
{
	const struct cJSON *j = json_find(v->config, "chat_template");
	const char *text = json_text(j);

	for (const struct cJSON *e = json_is_array(j) ? json_first(j) : NULL;
	     e; e = json_next(e)) {
		const char *name = json_text(json_find(e, "name"));

		if (name && !strcmp(name, "default"))
			text = json_text(json_find(e, "template"));
	}
	if (v->jinja)
		gguf_put_text(m, "tokenizer.chat_template", v->jinja,
			      v->jinja_len);
	else if (text)
		gguf_put_text(m, "tokenizer.chat_template", text,
			      strlen(text));
}

/* ---- the pairs ---- */

/* Readers look for user-defined tokens in the text as it is. */
static void put_token(const struct gguf_vocab *v, const struct gguf_piece *t,
		      struct gguf_meta *m)
{
	char *room = v->room;
	size_t n = 0;

	if (t->type != GGUF_TOK_USER) {
		gguf_add_text(m, t->text, t->len);
		return;
	}
	for (uint32_t i = 0; i < t->len; n++) {
		bool bar = t->len - i >= 3 &&
			   !memcmp(t->text + i, GGUF_TOK_BAR, 3);

		room[n] = bar ? ' ' : t->text[i];
		i += bar ? 3 : 1;
	}
	gguf_add_text(m, room, n);
}

static void put_merges(const struct gguf_vocab *v, struct gguf_meta *m)
{
	char *room = v->room;
	const struct cJSON *e = json_path(v->json, "model.merges");

	gguf_put_array(m, "tokenizer.ggml.merges", GGUF_TEXT, json_count(e));
	for (e = json_first(e); e; e = json_next(e)) {
		const char *part[2] = { "", "" };
		size_t len[2] = { 0, 0 };

		if (gguf_vocab_merge(e, part, len) ||
		    len[0] + len[1] > UINT16_MAX)
			len[0] = len[1] = 0;
		memcpy(room, part[0], len[0]);
		room[len[0]] = ' ';
		memcpy(room + len[0] + 1, part[1], len[1]);
		gguf_add_text(m, room, len[0] + len[1] + 1);
	}
}

static void put_vocab(const struct gguf_vocab *v, struct gguf_meta *m)
{
	bool llama = !strcmp(v->kind, "llama");

	gguf_put_text(m, "tokenizer.ggml.model", v->kind, strlen(v->kind));
	gguf_put_text(m, "tokenizer.ggml.pre", v->pre, strlen(v->pre));
	gguf_put_array(m, "tokenizer.ggml.tokens", GGUF_TEXT, v->count);
	for (uint32_t i = 0; i < v->count; i++)
		put_token(v, &v->token[i], m);
	if (llama) {
		gguf_put_array(m, "tokenizer.ggml.scores", GGUF_F32, v->count);
		for (uint32_t i = 0; i < v->count; i++)
			gguf_add_f32(m, v->token[i].score);
	}
	gguf_put_array(m, "tokenizer.ggml.token_type", GGUF_I32, v->count);
	for (uint32_t i = 0; i < v->count; i++)
		gguf_add_u32(m, v->token[i].type);
	if (!llama) {
		put_merges(v, m);
		return;
	}
	gguf_put_bool(m, "tokenizer.ggml.add_space_prefix", v->space_prefix);
	gguf_put_bool(m, "tokenizer.ggml.remove_extra_whitespaces",
		      v->squeeze);
}

int gguf_tok_put(const char *dir, const struct llama_config *c,
		 struct gguf_meta *m, int *found, struct err *err)
{
	struct gguf_vocab v;
	int ret = -1;

	*found = 0;
	if (gguf_vocab_read(dir, c->vocab, &v, err))
		goto out;
	if (v.kind) {
		*found = 1;
		put_vocab(&v, m);
		put_special(&v, c, m);
		put_template(&v, m);
	} else {
		gguf_put_text(m, "tokenizer.ggml.model", "none", 4);
	}
	ret = 0;
out:
	gguf_vocab_release(&v);
	return ret;
}

void gguf_tok_copy(const struct gguf_file *f, struct gguf_meta *m)
{
	static const char head[] = "tokenizer.";

	for (uint32_t i = 0; i < f->kv_count; i++)
		if (f->kv[i].key_len >= sizeof(head) - 1 &&
		    !memcmp(f->kv[i].key, head, sizeof(head) - 1))
			gguf_put_pair(m, &f->kv[i]);
}
