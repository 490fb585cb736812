/* Chat forms: a table of what stands around the texts of a turn, and the marks
 * by which a template's text is known.
 *
 * Sources: the chat templates published with the models (Llama 2, 3 and 3.1,
 * Qwen2, Mistral 7B v0.1 to v0.3, Nemo, Small, Zephyr, DeepSeek, OpenChat,
 * SOLAR), FastChat's conversation.py (Vicuna) and Stanford Alpaca's prompt. */
#include "chat.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/io.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/container/gguf.h"
#include "../libfmt/model.h"
#include "tok.h"

#include <stdlib.h>
#include <string.h>

#define TEMPLATE_MAX ((uint64_t)1 << 20) /* bytes */

/* In the texts below: a token by its spelling, and the tokenizer's own begin
 * and end. */
#define M_OPEN '\1'
#define M_SHUT '\2'
#define T(s) "\1" s "\2"
#define BOS "\3"
#define EOS "\4"

struct form {
	const char *name;
	const char *has[2];    /* marks of its template, ' for every quote */
	const char *lacks[2];  /* and what belongs to another form */
	const char *begin;     /* of a conversation */
	bool begin_maybe;      /* only where the template says bos_token */
	bool inside;           /* the system text is part of the first message,
				  behind user[0] */
	const char *standard;  /* system text where none is given */
	const char *system[2]; /* in front of the text, and behind it */
	const char *user[2];
	const char *answer[2];
	const char *stop;      /* ends an answer; NULL: the tokenizer's end */
};

/* U+FF5C, as in DeepSeek's marks. */
#define BAR "\xef\xbd\x9c"

/* The first whose marks are there is the one. */
static const struct form forms[] = {
	{
		.name = "llama-3.1",
		.has = { "<|start_header_id|>", "Cutting Knowledge Date" },
		.begin = BOS, .standard = "",
		.system = { T("<|start_header_id|>") "system"
			    T("<|end_header_id|>") "\n\nCutting Knowledge "
			    "Date: December 2023\nToday Date: 26 Jul 2024\n"
			    "\n",
			    T("<|eot_id|>") },
		.user = { T("<|start_header_id|>") "user"
			  T("<|end_header_id|>") "\n\n", T("<|eot_id|>") },
		.answer = { T("<|start_header_id|>") "assistant"
			    T("<|end_header_id|>") "\n\n", T("<|eot_id|>") },
		.stop = "<|eot_id|>",
	}, {
		.name = "llama-3",
		.has = { "<|start_header_id|>" },
		.begin = BOS,
		.system = { T("<|start_header_id|>") "system"
			    T("<|end_header_id|>") "\n\n", T("<|eot_id|>") },
		.user = { T("<|start_header_id|>") "user"
			  T("<|end_header_id|>") "\n\n", T("<|eot_id|>") },
		.answer = { T("<|start_header_id|>") "assistant"
			    T("<|end_header_id|>") "\n\n", T("<|eot_id|>") },
		.stop = "<|eot_id|>",
	}, {
		.name = "deepseek-r1",
		.has = { "<" BAR "Assistant" BAR "><think>\\n" },
		.begin = BOS,
		.system = { "", "" },
		.user = { T("<" BAR "User" BAR ">"), "" },
		.answer = { T("<" BAR "Assistant" BAR ">") T("<think>") "\n",
			    EOS },
	}, {
		.name = "deepseek",
		.has = { "<" BAR "User" BAR ">", "<" BAR "Assistant" BAR ">" },
		.begin = BOS,
		.system = { "", "" },
		.user = { T("<" BAR "User" BAR ">"), "" },
		.answer = { T("<" BAR "Assistant" BAR ">"), EOS },
	}, {
		.name = "chatml",
		.has = { "<|im_start|>" },
		.lacks = { "<|im_sep|>", "## Metadata" },
		.begin = BOS, .begin_maybe = true,
		.system = { T("<|im_start|>") "system\n",
			    T("<|im_end|>") "\n" },
		.user = { T("<|im_start|>") "user\n",
			  T("<|im_end|>") "\n" },
		.answer = { T("<|im_start|>") "assistant\n",
			    T("<|im_end|>") "\n" },
		.stop = "<|im_end|>",
	}, {
		.name = "llama-2",
		.has = { "[INST]", "<<SYS>>" },
		.begin = "", .inside = true,
		.system = { "<<SYS>>\n", "\n<</SYS>>\n\n" },
		.user = { BOS "[INST] ", " [/INST]" },
		.answer = { "", EOS },
	}, {
		.name = "mistral-v7",
		.has = { "[INST]", "[SYSTEM_PROMPT] " },
		.begin = BOS,
		.system = { T("[SYSTEM_PROMPT]") " ", T("[/SYSTEM_PROMPT]") },
		.user = { T("[INST]") " ", T("[/INST]") },
		.answer = { "", EOS },
	}, {
		.name = "mistral-v7-tekken",
		.has = { "[INST]", "[SYSTEM_PROMPT]" },
		.begin = BOS,
		.system = { T("[SYSTEM_PROMPT]"), T("[/SYSTEM_PROMPT]") },
		.user = { T("[INST]"), T("[/INST]") },
		.answer = { "", EOS },
	}, {
		.name = "mistral",
		.has = { "[INST] ", "' [/INST]'" },
		.begin = BOS, .inside = true,
		.system = { "", "\n\n" },
		.user = { "[INST] ", " [/INST]" },
		.answer = { "", EOS },
	}, {
		.name = "mistral-v3",
		.has = { "[INST] " },
		.begin = BOS, .inside = true,
		.system = { "", "\n\n" },
		.user = { T("[INST]") " ", T("[/INST]") },
		.answer = { "", EOS },
	}, {
		.name = "mistral-tekken",
		.has = { "[INST]" },
		.begin = BOS, .inside = true,
		.system = { "", "\n\n" },
		.user = { T("[INST]"), T("[/INST]") },
		.answer = { "", EOS },
	}, {
		.name = "zephyr",
		.has = { "<|user|>", "eos_token" }, .lacks = { "<|end|>" },
		.begin = BOS, .begin_maybe = true,
		.system = { "<|system|>\n", EOS "\n" },
		.user = { "<|user|>\n", EOS "\n" },
		.answer = { "<|assistant|>\n", EOS "\n" },
	}, {
		.name = "openchat",
		.has = { "GPT4 Correct ", "<|end_of_turn|>" },
		.begin = BOS,
		.system = { "GPT4 Correct System: ", T("<|end_of_turn|>") },
		.user = { "GPT4 Correct User: ", T("<|end_of_turn|>") },
		.answer = { "GPT4 Correct Assistant:", T("<|end_of_turn|>") },
		.stop = "<|end_of_turn|>",
	}, {
		.name = "vicuna",
		.has = { "USER:", "ASSISTANT:" },
		.begin = BOS,
		.standard = "A chat between a curious user and an artificial "
			    "intelligence assistant. The assistant gives "
			    "helpful, detailed, and polite answers to the "
			    "user's questions.",
		.system = { "", " " },
		.user = { "USER: ", " " },
		.answer = { "ASSISTANT:", EOS },
	}, {
		.name = "deepseek-llm",
		.has = { "'User: '", "'Assistant:" },
		.begin = BOS,
		.system = { "", "\n\n" },
		.user = { "User: ", "\n\n" },
		.answer = { "Assistant:", EOS },
	}, {
		.name = "solar",
		.has = { "### User:", "### Assistant:" },
		.begin = BOS, .begin_maybe = true,
		.system = { "### System:\n", "\n\n" },
		.user = { "### User:\n", "\n\n" },
		.answer = { "### Assistant:\n", EOS },
	}, {
		.name = "alpaca",
		.has = { "### Instruction:", "### Response:" },
		.lacks = { "<|EOT|>" },
		.begin = BOS,
		.standard = "Below is an instruction that describes a task. "
			    "Write a response that appropriately completes the "
			    "request.",
		.system = { "", "\n\n" },
		.user = { "### Instruction:\n", "\n\n" },
		.answer = { "### Response:\n", EOS },
	},
};
#define FORMS ((uint32_t)(sizeof(forms) / sizeof(forms[0])))

struct rt_chat {
	const struct form *form;
	const struct tok *tok;
	bool begin;             /* the form's begin is used */
	const char *source;
	char *standard;         /* of the template; NULL: the form's */
	char *bos, *eos;        /* spelled; NULL: none */
};

/* ---- finding the template ---- */

/* In a tokenizer_config.json it is a text, or a list of named ones. */
static const char *of_config(const struct cJSON *config)
{
	const struct cJSON *j = json_find(config, "chat_template");
	const char *name;

	if (!json_is_array(j))
		return json_text(j);
	for (const struct cJSON *k = json_first(j); k; k = json_next(k)) {
		name = json_text(json_find(k, "name"));
		if (name && !strcmp(name, "default"))
			return json_text(json_find(k, "template"));
	}
	return NULL;
}

/* One file of the model's folder; *out stays NULL when it has none. */
static int of_file(const char *dir, const char *name, char **out,
		   struct err *err)
{
	char *path = io_join(dir, name, err);
	const char *text;
	struct cJSON *j = NULL;
	size_t len;
	int ret = -1;

	if (!path)
		return -1;
	if (!io_is_file(path)) {
		ret = 0;
	} else if (strstr(name, ".jinja")) {
		ret = io_read_file(path, TEMPLATE_MAX, out, &len, err);
	} else if (!json_read_file(path, &j, err)) {
		text = of_config(j);
		if (text)
			*out = mem_text(text, strlen(text), err);
		ret = text && !*out ? -1 : 0;
	}
	json_free(j);
	free(path);
	return ret;
}

static int find_template(const struct model *m, char **out,
			 const char **source, struct err *err)
{
	static const char *const file[] = { "chat_template.jinja",
		"tokenizer_config.json", "chat_template.json" };
	const char *text;
	size_t len;

	*out = NULL;
	if (model_gguf(m)) {
		*source = "tokenizer.chat_template";
		if (!gguf_text(model_gguf(m), *source, &text, &len))
			return 0;
		*out = mem_text(text, len, err);
		return *out ? 0 : -1;
	}
	for (int i = 0; i < 3 && !*out; i++) {
		*source = file[i];
		if (of_file(m->dir, file[i], out, err))
			return -1;
	}
	return 0;
}

/* ---- knowing the form ---- */

/* One kind of quote, and line ends as they are spelled between quotes, so that
 * a mark is found however the template writes it. */
static char *plain(const char *s, struct err *err)
{
	size_t n = strlen(s), at = 0;
	char *out = mem_alloc(2 * n + 1, 1, err);

	for (size_t i = 0; out && i < n; i++) {
		if (s[i] == '\n') {
			out[at++] = '\\';
			out[at++] = 'n';
		} else {
			out[at++] = s[i] == '"' ? '\'' : s[i];
		}
	}
	return out;
}

static bool is_form(const struct form *f, const char *text)
{
	for (int i = 0; i < 2; i++)
		if ((f->has[i] && !strstr(text, f->has[i])) ||
		    (f->lacks[i] && strstr(text, f->lacks[i])))
			return false;
	return true;
}

/* ChatML models bring a system text of their own: one between the marks that
 * is nothing but text. */
static int find_standard(struct rt_chat *c, const char *text, struct err *err)
{
	static const char head[] = "<|im_start|>system\\n";
	const char *at = text, *end;

	while ((at = strstr(at, head))) {
		at += sizeof(head) - 1;
		end = strstr(at, "<|im_end|>");
		if (!end || end == at ||
		    strcspn(at, "'{}\\") < (size_t)(end - at))
			continue;
		c->standard = mem_text(at, (size_t)(end - at), err);
		return c->standard ? 0 : -1;
	}
	return 0;
}

static int names(struct err *err, const char *what)
{
	char list[400] = "";
	size_t n = 0;

	for (uint32_t i = 0; i < FORMS; i++) {
		size_t len = strlen(forms[i].name);

		if (n + len + 3 > sizeof(list))
			break;
		if (n) {
			memcpy(list + n, ", ", 2);
			n += 2;
		}
		memcpy(list + n, forms[i].name, len);
		n += len;
	}
	return err_set(err, ERR_UNSUP, "%s; known are %s", what, list);
}

static int recognise(struct rt_chat *c, const char *template, struct err *err)
{
	char *text = plain(template, err);
	int ret = -1;

	if (!text)
		return -1;
	for (uint32_t i = 0; i < FORMS && !c->form; i++)
		if (is_form(&forms[i], text))
			c->form = &forms[i];
	if (!c->form) {
		names(err, "the model's chat template has a form that this "
		      "version does not know");
		goto out;
	}
	c->begin = !c->form->begin_maybe || strstr(text, "bos_token");
	ret = find_standard(c, text, err);
out:
	free(text);
	return ret;
}

static int choose(struct rt_chat *c, const struct model *m, const char *name,
		  struct err *err)
{
	char *text = NULL;
	int ret = -1;

	if (name) {
		c->source = "";
		for (uint32_t i = 0; i < FORMS; i++)
			if (!strcmp(forms[i].name, name))
				c->form = &forms[i];
		c->begin = c->form && !c->form->begin_maybe;
		return c->form ? 0 : names(err, "no such chat template");
	}
	if (find_template(m, &text, &c->source, err))
		return -1;
	if (!text)
		names(err, "the model has no chat template");
	else if (!recognise(c, text, err))
		ret = 0;
	free(text);
	return ret;
}

/* ---- opening ---- */

static int spell(const struct tok *t, int64_t id, char **out, struct err *err)
{
	uint32_t one = (uint32_t)id;
	size_t len;

	*out = NULL;
	return id < 0 ? 0 : tok_decode(t, &one, 1, true, out, &len, err);
}

int rt_chat_open(const struct model *m, const struct tok *t, const char *name,
		 struct rt_chat **out, struct err *err)
{
	struct rt_chat *c = mem_alloc(1, sizeof(*c), err);

	*out = NULL;
	if (!c)
		return -1;
	c->tok = t;
	if (choose(c, m, name, err) ||
	    spell(t, tok_bos(t), &c->bos, err) ||
	    spell(t, tok_eos(t), &c->eos, err)) {
		rt_chat_close(c);
		return err_ctx(err, "%s", m->path);
	}
	*out = c;
	return 0;
}

void rt_chat_close(struct rt_chat *c)
{
	if (!c)
		return;
	free(c->standard);
	free(c->bos);
	free(c->eos);
	free(c);
}

const char *rt_chat_form(uint32_t i)
{
	return i < FORMS ? forms[i].name : NULL;
}

const char *rt_chat_name(const struct rt_chat *c)
{
	return c->form->name;
}

const char *rt_chat_source(const struct rt_chat *c)
{
	return c->source;
}

int64_t rt_chat_end(const struct rt_chat *c)
{
	return c->form->stop ? tok_find(c->tok, c->form->stop) :
			       tok_eos(c->tok);
}

const char *rt_chat_stop(const struct rt_chat *c)
{
	return rt_chat_end(c) < 0 ? c->form->stop : NULL;
}

/* ---- turns ---- */

struct parts {
	const struct rt_chat *chat;
	char *text;          /* that is not ids yet */
	size_t len, cap;
	uint32_t *id;
	size_t count, id_cap;
};

static int add_text(struct parts *p, const char *s, size_t n, struct err *err)
{
	void *grown = p->text;

	if (mem_grow(&grown, &p->cap, p->len + n, 1, err))
		return -1;
	p->text = grown;
	if (n)
		memcpy(p->text + p->len, s, n);
	p->len += n;
	return 0;
}

static int add_ids(struct parts *p, const uint32_t *id, size_t n,
		   struct err *err)
{
	void *grown = p->id;

	if (mem_grow(&grown, &p->id_cap, p->count + n, sizeof(*id), err))
		return -1;
	p->id = grown;
	if (n)
		memcpy(p->id + p->count, id, n * sizeof(*id));
	p->count += n;
	return 0;
}

/* The text so far as ids, in which nothing counts as a mark. */
static int flush(struct parts *p, struct err *err)
{
	uint32_t *id;
	size_t n;
	int ret;

	if (!p->len)
		return 0;
	if (tok_encode(p->chat->tok, p->text, p->len, TOK_NO_SPECIAL |
		       (p->count ? TOK_INNER : 0), &id, &n, err))
		return -1;
	ret = add_ids(p, id, n, err);
	free(id);
	p->len = 0;
	return ret;
}

/* A token by its spelling; plain text where the vocabulary lacks it. */
static int add_mark(struct parts *p, const char *s, size_t n, struct err *err)
{
	char *name = mem_text(s, n, err);
	int64_t id = name ? tok_find(p->chat->tok, name) : -1;
	uint32_t one = (uint32_t)id;
	int ret = -1;

	if (name)
		ret = id < 0 ? add_text(p, s, n, err) :
		      flush(p, err) ? -1 : add_ids(p, &one, 1, err);
	free(name);
	return ret;
}

/* A piece of a form, with its marks. */
static int add_piece(struct parts *p, const char *s, struct err *err)
{
	while (*s) {
		size_t n = strcspn(s, T("") BOS EOS);
		const char *own;

		if (n) {
			if (add_text(p, s, n, err))
				return -1;
		} else if (*s == M_OPEN) {
			n = (size_t)(strchr(s, M_SHUT) - s) + 1;
			if (add_mark(p, s + 1, n - 2, err))
				return -1;
		} else {
			n = 1;
			own = *s == BOS[0] ? p->chat->bos : p->chat->eos;
			if (own && add_mark(p, own, strlen(own), err))
				return -1;
		}
		s += n;
	}
	return 0;
}

static int add_around(struct parts *p, const char *const piece[2],
		      const char *text, struct err *err)
{
	return add_piece(p, piece[0], err) ||
	       add_text(p, text, strlen(text), err) ||
	       add_piece(p, piece[1], err) ? -1 : 0;
}

static int add_turn(struct parts *p, const struct rt_turn *turn,
		    struct err *err)
{
	const struct rt_chat *c = p->chat;
	const struct form *f = c->form;
	const char *system = turn->system ? turn->system :
			     c->standard ? c->standard : f->standard;

	if (!turn->first)
		system = NULL;
	if (turn->first ? c->begin && add_piece(p, f->begin, err) :
			  add_piece(p, f->answer[1], err))
		return -1;
	if (system && !f->inside && add_around(p, f->system, system, err))
		return -1;
	if (add_piece(p, f->user[0], err) ||
	    (system && f->inside && add_around(p, f->system, system, err)) ||
	    add_text(p, turn->user, strlen(turn->user), err) ||
	    add_piece(p, f->user[1], err) ||
	    add_piece(p, f->answer[0], err))
		return -1;
	return flush(p, err);
}

int rt_chat_turn(const struct rt_chat *c, const struct rt_turn *turn,
		 uint32_t **ids, size_t *count, struct err *err)
{
	struct parts p = { .chat = c };
	int ret = add_turn(&p, turn, err);

	free(p.text);
	if (ret) {
		free(p.id);
		return -1;
	}
	*ids = p.id;
	*count = p.count;
	return 0;
}
