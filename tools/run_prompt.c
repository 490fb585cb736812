/* The prompt of gptq-run, and its tokenizer modes. */
#include "run.h"

#include "../libfmt/base/io.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEXT_LIMIT (UINT64_C(1) << 32) /* bytes of a prompt */

/* ---- text in ---- */

/* A read that Ctrl-C ended is no broken input. */
static int read_stdin(char **text, size_t *len, struct err *err)
{
	if (io_read_file("-", TEXT_LIMIT, text, len, err))
		return ui_interrupted() ?
		       err_set(err, ERR_INTR, "interrupted") : -1;
	return 0;
}

int run_read_text(const struct run_args *a, bool exact, char **text,
		  size_t *len, struct err *err)
{
	if (a->prompt) {
		*len = strlen(a->prompt);
		*text = mem_text(a->prompt, *len, err);
		return *text ? 0 : -1;
	}
	if (a->file ? io_read_file(a->file, TEXT_LIMIT, text, len, err) :
		      read_stdin(text, len, err))
		return -1;
	/* an editor's last newline is not meant as part of the prompt */
	if (!exact && *len && (*text)[*len - 1] == '\n')
		(*text)[--*len] = '\0';
	return 0;
}

/* "1, 2 3" into ids; `what` names the source in messages. */
static int parse_ids(const char *text, const char *what, uint32_t **ids,
		     size_t *count, struct err *err)
{
	static const char between[] = " \t\r\n,";
	void *list = NULL;
	size_t cap = 0, n = 0;

	for (const char *p = text + strspn(text, between); *p;
	     p += strspn(p, between)) {
		size_t len = strcspn(p, between);
		unsigned long v = 0;
		char *end = NULL;

		if (isdigit((unsigned char)*p) && len < 11)
			v = strtoul(p, &end, 10);
		if (!end || end != p + len || v > INT32_MAX) {
			err_set(err, ERR_INPUT, "%s: '%.*s' is not a token id",
				what, len > 40 ? 40 : (int)len, p);
			goto fail;
		}
		p += len;
		if (mem_grow(&list, &cap, n + 1, sizeof(uint32_t), err))
			goto fail;
		((uint32_t *)list)[n++] = (uint32_t)v;
	}
	*ids = list;
	*count = n;
	return 0;
fail:
	free(list);
	return -1;
}

/* Ids as given are used as they are; a text gets what the tokenizer puts in
 * front, unless --no-bos. */
int run_prompt(struct run *r, struct err *err)
{
	const struct run_args *a = r->args;
	struct ui *ui = r->call->ui;
	char *text = NULL;
	struct err why;
	size_t len;
	int ret = -1;

	if (a->ids) {
		/* ids and JSON need no text: then the files may be missing */
		if (tok_open_model(r->model, &r->tok, &why) && !ui->json &&
		    a->tokens != 0) {
			*err = why;
			return -1;
		}
		if (parse_ids(a->ids, "--ids", &r->prompt, &r->prompt_count,
			      err)) {
			err->code = ERR_USAGE;
			return -1;
		}
	} else {
		if (tok_open_model(r->model, &r->tok, err))
			return -1;
		if (!a->prompt && !a->file && isatty(STDIN_FILENO))
			ui_note(ui, "reading the prompt from the terminal, "
				"Ctrl-D ends it");
		if (run_read_text(a, false, &text, &len, err) ||
		    tok_encode(r->tok, text, len, a->bos ? TOK_BOS : 0,
			       &r->prompt, &r->prompt_count, err))
			goto out;
	}
	if (!r->prompt_count)
		err_set(err, ERR_USAGE, "the prompt is empty");
	else if (r->prompt_count > UINT32_MAX / 2)
		err_set(err, ERR_UNSUP, "the prompt has %zu tokens",
			r->prompt_count);
	else
		ret = 0;
out:
	free(text);
	return ret;
}

/* ---- --tokenize, --detokenize ---- */

/* MODEL is a folder with tokenizer files, one of them, or a model: a weight
 * file whose folder has the tokenizer, or a GGUF file that has it inside. */
static int open_tokenizer(const char *model, struct tok **out, struct err *err)
{
	const char *slash = strrchr(model, '/');
	const char *name = slash ? slash + 1 : model;
	struct model *m = NULL;
	struct err why;
	int ret;

	if (!strncmp(name, "tokenizer", 9))
		return tok_open(model, out, err);
	if (io_is_dir(model) && !tok_open(model, out, &why))
		return 0;
	if (model_open(model, 0, &m, err)) {
		/* a folder without weights lacks the tokenizer first */
		if (io_is_dir(model))
			*err = why;
		return -1;
	}
	ret = tok_open_model(m, out, err);
	model_close(m);
	return ret;
}

static int print_ids(const struct ui *ui, const uint32_t *ids, size_t n,
		     struct err *err)
{
	struct cJSON *o, *list;

	if (!ui->json) {
		for (size_t i = 0; i < n; i++)
			printf("%s%u", i ? " " : "", ids[i]);
		putchar('\n');
		return 0;
	}
	o = cJSON_CreateObject();
	list = cJSON_AddArrayToObject(o, "ids");
	for (size_t i = 0; i < n; i++)
		cJSON_AddItemToArray(list, cJSON_CreateNumber(ids[i]));
	return ui_json(stdout, o, err);
}

/* With --chat: the text as a first message, in the template. */
static int tokenize_chat(struct run *r, const char *text, size_t len,
			 uint32_t **ids, size_t *n, struct err *err)
{
	if (run_chat_check(text, len, err) ||
	    model_open(r->call->model, MODEL_NO_WEIGHTS, &r->model, err) ||
	    run_chat_open(r, err))
		return -1;
	return run_chat_prompt(r, text, ids, n, err);
}

/* Both modes need the tokenizer's files only: no config, no weights. */
int run_tokenize(struct run *r, struct err *err)
{
	const struct run_args *a = r->args;
	uint32_t *ids = NULL;
	char *text = NULL;
	size_t len, n;
	int ret = -1;

	if (run_read_text(a, !a->chat, &text, &len, err))
		goto out;
	if (a->chat ? tokenize_chat(r, text, len, &ids, &n, err) :
		      open_tokenizer(r->call->model, &r->tok, err) ||
		      tok_encode(r->tok, text, len, a->bos ? TOK_BOS : 0,
				 &ids, &n, err))
		goto out;
	ret = print_ids(r->call->ui, ids, n, err);
out:
	free(ids);
	free(text);
	return ret;
}

static int print_text(const struct ui *ui, const char *text, size_t len,
		      struct err *err)
{
	struct cJSON *o;

	if (!ui->json) {
		/* no newline of ours: the way back is byte for byte */
		fwrite(text, 1, len, stdout);
		return 0;
	}
	o = cJSON_CreateObject();
	cJSON_AddItemToObject(o, "text", ui_json_string(text, len));
	return ui_json(stdout, o, err);
}

/* Control tokens vanish, as in the original's decode for readers: so the way
 * there and back gives the text again, byte for byte. */
int run_detokenize(const struct call *c, struct err *err)
{
	struct tok *tok = NULL;
	char *text = NULL, *out = NULL;
	uint32_t *ids = NULL;
	size_t len, n;
	int ret = -1;

	if (open_tokenizer(c->model, &tok, err) ||
	    read_stdin(&text, &len, err))
		goto out;
	if (strlen(text) != len) {
		err_set(err, ERR_INPUT, "standard input: there is a NUL among "
			"the token ids");
		goto out;
	}
	if (parse_ids(text, "standard input", &ids, &n, err) ||
	    tok_decode(tok, ids, n, false, &out, &len, err) ||
	    print_text(c->ui, out, len, err))
		goto out;
	ret = 0;
out:
	free(out);
	free(ids);
	free(text);
	tok_close(tok);
	return ret;
}
