/* Tokenizers: opening, special ids, and encoding for both kinds. */
#include "tok.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/io.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/gguf_tok.h"
#include "../libfmt/model.h"
#include "tok_impl.h"

#include <stdlib.h>
#include <string.h>

/* ---- pieces of one character ---- */

int tok_chars(struct tok *t, struct err *err)
{
	char s[4];

	t->char_id = mem_alloc(TOK_CHARS, sizeof(*t->char_id), err);
	if (!t->char_id)
		return -1;
	for (uint32_t cp = 0; cp < TOK_CHARS; cp++)
		t->char_id[cp] = tok_index_find(&t->index, &t->dict, s,
						tok_utf8_put(cp, s));
	return 0;
}

uint32_t tok_char(const struct tok *t, uint32_t cp, const char *s, size_t n)
{
	return cp < TOK_CHARS ? t->char_id[cp] :
				tok_index_find(&t->index, &t->dict, s, n);
}

/* ---- opening ---- */

/* JSON begins with '{'.  A model begins with the tag of its first piece, 0x0a,
 * which is also a newline, but behind it comes no other white space and '{'. */
static bool is_json(const char *s, size_t n)
{
	size_t i = n >= 3 && memcmp(s, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;

	while (i < n && (s[i] == ' ' || s[i] == '\t' || s[i] == '\n' ||
			 s[i] == '\r'))
		i++;
	return i < n && s[i] == '{';
}

static int load(struct tok *t, const char *path, struct err *err)
{
	char *data = NULL;
	size_t len;
	int ret = -1;

	if (io_read_file(path, TOK_FILE_MAX, &data, &len, err))
		return -1; /* names the file already */
	if (is_json(data, len) ? tok_bpe_open(t, data, len, err) :
				 tok_spm_open(t, data, len, err))
		err_ctx(err, "%s", path);
	else
		ret = 0;
	free(data);
	return ret;
}

/* ---- tokenizer_config.json ---- */

/* "bos_token": text, or an object with the text, or null. */
static int64_t named(const struct tok *t, const struct cJSON *config,
		     const char *key, int64_t old)
{
	const struct cJSON *j = json_find(config, key);
	const char *s = json_text(j);
	int64_t id;

	if (!s)
		s = json_text(json_find(j, "content"));
	id = s ? tok_find(t, s) : -1;
	return id < 0 ? old : id;
}

static bool is_llama(const struct cJSON *config)
{
	const char *c = json_text(json_find(config, "tokenizer_class"));

	return c && (strcmp(c, "LlamaTokenizer") == 0 ||
		     strcmp(c, "LlamaTokenizerFast") == 0);
}

/* Without tokenizer_config.json: what the template puts around a text, then
 * what such tokens are usually called. */
static void guess(struct tok *t)
{
	static const char *const end[] = { "</s>", "<|end_of_text|>",
					   "<|endoftext|>", "<eos>",
					   "<|im_end|>" };

	if (t->bos < 0 && t->n_head)
		t->bos = t->head[0];
	if (t->bos < 0 && t->bpe)
		t->bos = tok_find(t, "<s>");
	if (t->eos < 0 && t->n_tail)
		t->eos = t->tail[t->n_tail - 1];
	for (unsigned i = 0; i < 5 && t->eos < 0; i++)
		t->eos = tok_find(t, end[i]);
}

/* A model file says nothing about BOS, and LlamaTokenizer builds its own
 * template from add_bos_token and add_eos_token (both follow transformers,
 * models/llama/tokenization_llama*.py); any other tokenizer.json rules. */
static int around(struct tok *t, const struct cJSON *config, struct err *err)
{
	bool bos = t->spm != NULL, eos = false;
	bool set = t->spm || (is_llama(config) &&
			      json_is_bool(json_find(config, "add_bos_token")));

	if (json_get_bool(config, "add_bos_token", &bos, err) ||
	    json_get_bool(config, "add_eos_token", &eos, err))
		return -1;
	if (!set && (t->n_head || t->n_tail))
		return 0;
	t->n_head = t->n_tail = 0;
	if (bos && t->bos >= 0 &&
	    tok_list_add(&t->head, &t->n_head, &t->head_cap, (uint32_t)t->bos,
			 err))
		return -1;
	if (eos && t->eos >= 0 &&
	    tok_list_add(&t->tail, &t->n_tail, &t->tail_cap, (uint32_t)t->eos,
			 err))
		return -1;
	return 0;
}

static int apply(struct tok *t, const struct cJSON *config, struct err *err)
{
	t->bos = named(t, config, "bos_token", t->bos);
	t->eos = named(t, config, "eos_token", t->eos);
	guess(t);
	return around(t, config, err);
}

static int configure(struct tok *t, const char *path, struct err *err)
{
	struct cJSON *config = NULL;
	int ret = -1;

	if (path && json_read_file(path, &config, err))
		return -1;
	if (apply(t, config, err))
		err_ctx(err, "%s", path ? path : "tokenizer");
	else
		ret = 0;
	json_free(config);
	return ret;
}

static int open_dir(struct tok *t, const char *dir, struct err *err)
{
	char *json = io_join(dir, "tokenizer.json", err);
	char *model = io_join(dir, "tokenizer.model", err);
	char *config = io_join(dir, "tokenizer_config.json", err);
	int ret = -1;

	if (!json || !model || !config)
		goto out;
	if (!io_is_file(json) && !io_is_file(model)) {
		err_set(err, ERR_INPUT,
			"%s: no tokenizer.json and no tokenizer.model", dir);
		goto out;
	}
	if (load(t, io_is_file(json) ? json : model, err) ||
	    configure(t, io_is_file(config) ? config : NULL, err))
		goto out;
	ret = 0;
out:
	free(json);
	free(model);
	free(config);
	return ret;
}

int tok_open(const char *dir, struct tok **out, struct err *err)
{
	struct tok *t = mem_alloc(1, sizeof(*t), err);

	*out = NULL;
	if (!t)
		return -1;
	t->bos = t->eos = -1;
	if (io_is_dir(dir) ? open_dir(t, dir, err) :
			     (load(t, dir, err) || configure(t, NULL, err))) {
		tok_close(t);
		return -1;
	}
	*out = t;
	return 0;
}

static int load_gguf(struct tok *t, const struct gguf_file *f,
		     struct err *err)
{
	struct gguf_tok_files files;
	int ret = -1;

	if (gguf_tok_files(f, &files, err))
		return -1;
	if (is_json(files.data, files.len) ?
		    !tok_bpe_open(t, files.data, files.len, err) :
		    !tok_spm_open(t, files.data, files.len, err))
		ret = apply(t, files.config, err);
	gguf_tok_release(&files);
	return ret;
}

int tok_open_model(const struct model *m, struct tok **out, struct err *err)
{
	struct tok *t;

	if (!model_gguf(m))
		return tok_open(m->dir, out, err);
	*out = NULL;
	t = mem_alloc(1, sizeof(*t), err);
	if (!t)
		return -1;
	t->bos = t->eos = -1;
	if (load_gguf(t, model_gguf(m), err)) {
		tok_close(t);
		return err_ctx(err, "%s", m->path);
	}
	*out = t;
	return 0;
}

void tok_close(struct tok *t)
{
	if (!t)
		return;
	tok_dict_release(&t->dict);
	tok_index_release(&t->index);
	tok_merges_release(&t->merge);
	free(t->char_id);
	tok_bpe_free(t->bpe);
	tok_spm_free(t->spm);
	free(t->head);
	free(t->tail);
	free(t);
}

/* ---- asking ---- */

uint32_t tok_vocab(const struct tok *t)
{
	return t->vocab;
}

int64_t tok_bos(const struct tok *t)
{
	return t->bos;
}

int64_t tok_eos(const struct tok *t)
{
	return t->eos;
}

const char *tok_source(const struct tok *t)
{
	return t->spm ? "tokenizer.model" : "tokenizer.json";
}

int64_t tok_find(const struct tok *t, const char *piece)
{
	const struct tok_index *first = t->spm ? &t->spm->reserved :
						 &t->bpe->extra;
	uint32_t id = tok_index_find(first, &t->dict, piece, strlen(piece));

	if (id == TOK_NONE)
		id = tok_index_find(&t->index, &t->dict, piece,
				    strlen(piece));
	return id < t->vocab ? (int64_t)id : -1;
}

/* ---- encoding ---- */

int tok_work_id(struct tok_work *w, uint32_t id, struct err *err)
{
	return tok_list_add(&w->ids, &w->count, &w->ids_cap, id, err);
}

int tok_work_sym(struct tok_work *w, uint32_t id, uint32_t len,
		 struct err *err)
{
	void *p = w->sym;

	if (w->n == w->sym_cap) {
		if (mem_grow(&p, &w->sym_cap, w->n + 1, sizeof(*w->sym), err))
			return -1;
		w->sym = p;
	}
	w->sym[w->n].id = id;
	w->sym[w->n++].len = len;
	return 0;
}

void tok_work_release(struct tok_work *w)
{
	free(w->ids);
	free(w->sym);
	free(w->heap);
	free(w->rev);
	tok_match_free(w->match);
	tok_buf_release(&w->mended);
	tok_buf_release(&w->norm[0]);
	tok_buf_release(&w->norm[1]);
	for (unsigned i = 0; i < TOK_STEPS; i++) {
		tok_buf_release(&w->step[i][0]);
		tok_buf_release(&w->step[i][1]);
	}
}

static int encode(struct tok_work *w, const char *text, size_t len,
		  struct err *err)
{
	const struct tok *t = w->t;
	bool around = (w->flags & TOK_BOS) != 0;

	for (size_t i = 0; around && i < t->n_head; i++)
		if (tok_work_id(w, t->head[i], err))
			return -1;
	if (t->spm ? tok_spm_encode(w, text, len, err) :
		     tok_bpe_encode(w, text, len, err))
		return -1;
	for (size_t i = 0; around && i < t->n_tail; i++)
		if (tok_work_id(w, t->tail[i], err))
			return -1;
	return 0;
}

int tok_encode(const struct tok *t, const char *text, size_t len,
	       unsigned flags, uint32_t **ids, size_t *count, struct err *err)
{
	struct tok_work *w;
	void *none;
	int ret = -1;

	*ids = NULL;
	*count = 0;
	if (len > TOK_TEXT_MAX)
		return err_set(err, ERR_INPUT,
			       "the text has %zu bytes, the limit is %zu", len,
			       TOK_TEXT_MAX);
	w = mem_alloc(1, sizeof(*w), err);
	if (!w)
		return -1;
	w->t = t;
	w->flags = flags;
	if (encode(w, text, len, err))
		goto out;
	if (!w->ids) { /* nothing: still something to free */
		none = mem_alloc(1, sizeof(*w->ids), err);
		if (!none)
			goto out;
		w->ids = none;
	}
	*ids = w->ids;
	*count = w->count;
	w->ids = NULL;
	ret = 0;
out:
	tok_work_release(w);
	free(w);
	return ret;
}
