/* --batch-file: a prompt a line in, an answer a line out, in the same order.
 *
 * Each answer is what a call with that prompt alone gives: cache and sampler
 * begin anew.  All prompts are read and made ids before the weights are, so
 * that a mistake in the last line does not cost the answers before it. */
#include "run.h"

#include "../libfmt/base/io.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX ((uint64_t)1 << 30) /* bytes */

struct prompt {
	uint32_t line;       /* from 1 on */
	struct cJSON *name;  /* the line's "id", or NULL */
	uint32_t *id;
	size_t count;
};

struct batch {
	struct run *run;
	struct prompt *prompt;
	size_t count, cap;
	size_t longest;
	size_t done;         /* answers */
	struct cJSON *list;  /* with --json: the answers */
};

/* ---- the file ---- */

static int add_prompt(struct batch *b, const char *text, struct prompt *p,
		      struct err *err)
{
	const struct run *r = b->run;
	void *grown = b->prompt;

	if (r->chat ? run_chat_prompt(r, text, &p->id, &p->count, err) :
		      tok_encode(r->tok, text, strlen(text), r->args->bos ?
				 TOK_BOS : 0, &p->id, &p->count, err))
		return -1;
	if (!p->count)
		return err_set(err, ERR_INPUT, "the prompt is empty");
	if (p->count > UINT32_MAX / 2)
		return err_set(err, ERR_UNSUP, "the prompt has %zu tokens",
			       p->count);
	if (mem_grow(&grown, &b->cap, b->count + 1, sizeof(*p), err))
		return -1;
	b->prompt = grown;
	b->prompt[b->count++] = *p;
	if (p->count > b->longest)
		b->longest = p->count;
	*p = (struct prompt) { .line = 0 };
	return 0;
}

/* {"prompt": TEXT, "id": anything}; what else is there is left alone. */
static int add_object(struct batch *b, const char *line, size_t n,
		      struct prompt *p, struct err *err)
{
	struct cJSON *j = NULL;
	const char *text;
	int ret = -1;

	if (json_parse(line, n, 0, &j, err))
		return -1;
	text = json_text(json_find(j, "prompt"));
	if (!text) {
		err_set(err, ERR_INPUT, "there is no text \"prompt\"");
		goto out;
	}
	p->name = cJSON_DetachItemFromObjectCaseSensitive(j, "id");
	ret = add_prompt(b, text, p, err);
out:
	json_free(j);
	return ret;
}

/* JSONL by its name, or because the first line is an object, or would be one
 * with a "prompt" if it were not broken: then what is wrong is told. */
static bool is_jsonl(const char *file, const char *text, size_t n)
{
	static const char key[] = "\"prompt\"";
	const char *end = memchr(text, '\n', n);
	size_t line = end ? (size_t)(end - text) : n;
	struct cJSON *j = NULL;
	struct err err;
	bool is = false;

	if (strstr(file, ".jsonl"))
		return true;
	if (!line || *text != '{')
		return false;
	for (size_t i = 0; i + sizeof(key) - 1 <= line && !is; i++)
		is = !memcmp(text + i, key, sizeof(key) - 1);
	if (is || json_parse(text, line, 0, &j, &err))
		return is;
	is = json_is_object(j);
	json_free(j);
	return is;
}

static int add_line(struct batch *b, bool jsonl, char *line, size_t n,
		    uint32_t number, struct err *err)
{
	struct prompt p = { .line = number };
	int ret;

	if (n && line[n - 1] == '\r')
		n--;
	if (strspn(line, " \t") >= n) /* a blank line asks nothing */
		return 0;
	line[n] = '\0';
	if (!jsonl && strlen(line) != n)
		ret = err_set(err, ERR_INPUT, "there is a NUL in it");
	else
		ret = jsonl ? add_object(b, line, n, &p, err) :
			      add_prompt(b, line, &p, err);
	free(p.id);
	json_free(p.name);
	return ret ? err_ctx(err, "line %u", number) : 0;
}

static int read_prompts(struct batch *b, struct err *err)
{
	const char *file = b->run->args->batch_file;
	char *text = NULL, *at, *end;
	uint32_t number = 0;
	size_t len, skip = 0;
	bool jsonl;
	int ret = -1;

	if (io_read_file(file, FILE_MAX, &text, &len, err))
		return -1; /* names the file already */
	/* what editors put in front of UTF-8 is no part of a prompt */
	if (len >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
		skip = 3;
	jsonl = is_jsonl(file, text + skip, len - skip);
	for (at = text + skip; at < text + len; at = end + 1) {
		end = memchr(at, '\n', (size_t)(text + len - at));
		if (!end)
			end = text + len;
		if (add_line(b, jsonl, at, (size_t)(end - at), ++number, err))
			goto out;
	}
	if (b->count)
		ret = 0;
	else
		err_set(err, ERR_INPUT, "there is no prompt in it");
out:
	free(text);
	return ret ? err_ctx(err, "%s", file) : 0;
}

/* ---- the answers ---- */

/* Room for the longest prompt and what is generated behind it. */
static int context(const struct run *r, uint32_t most, uint32_t *out,
		   struct err *err)
{
	bool given = opt_given(r->call->opt, "context");
	uint64_t want = r->prompt_count + (uint64_t)r->most;

	*out = given ? (uint32_t)r->args->context :
	       r->most < 0 || want > most ? most : (uint32_t)want;
	if (r->prompt_count <= *out)
		return 0;
	return err_set(err, ERR_UNSUP, "the longest prompt has %zu tokens, the "
		       "context holds %u%s", r->prompt_count, *out,
		       given ? "" : " (-c makes room for more)");
}

/* A line is flushed as soon as it is there. */
static int print_answer(struct batch *b, struct prompt *p, struct err *err)
{
	struct cJSON *o = cJSON_CreateObject();
	char *text;

	cJSON_AddNumberToObject(o, "line", p->line);
	if (p->name)
		cJSON_AddItemToObject(o, "id", p->name);
	p->name = NULL;
	run_add_answer(o, b->run);
	if (b->list) {
		cJSON_AddItemToArray(b->list, o);
		return 0;
	}
	text = json_print(o, false, err);
	json_free(o);
	if (!text)
		return -1;
	fputs(text, stdout);
	free(text);
	return ui_flush(err);
}

static int answer(struct batch *b, struct prompt *p, struct err *err)
{
	struct run *r = b->run;
	int ret;

	r->prompt = p->id;
	r->prompt_count = p->count;
	rt_sampler_free(r->sampler);
	r->sampler = NULL;
	llm_reset(r->llm);
	ret = run_prefill(r, err) || run_generate(r, err) ? -1 : 0;
	r->prompt = NULL; /* p->id is not its own */
	if (ret)
		return err_ctx(err, "line %u", p->line);
	return print_answer(b, p, err);
}

/* One bar for all of it: what an answer reports moves nothing. */
static int step(void *ctx, const char *what, uint64_t done, uint64_t total)
{
	struct batch *b = ctx;
	const struct progress *p = &b->run->call->ui->progress;

	(void)what;
	(void)done;
	(void)total;
	return p->step(p->ctx, "answers", b->done, b->count);
}

static int answers(struct batch *b, struct err *err)
{
	b->run->progress = (struct progress) { step, b };
	for (; b->done < b->count; b->done++)
		if (answer(b, &b->prompt[b->done], err))
			return -1;
	ui_done(b->run->call->ui);
	if (b->list) {
		struct cJSON *o = cJSON_CreateObject();

		cJSON_AddItemToObject(o, "answers", b->list);
		b->list = NULL;
		return ui_json(stdout, o, err);
	}
	return 0;
}

int run_batch(struct run *r, struct err *err)
{
	struct batch b = { .run = r };
	int ret = -1;

	r->quiet = true;
	if (call_open_model(r->call, &r->model, err) ||
	    tok_open_model(r->model, &r->tok, err) ||
	    (r->args->chat && run_chat_open(r, err)) ||
	    read_prompts(&b, err))
		goto out;
	r->prompt_count = b.longest;
	if (run_load(r, context, err))
		goto out;
	if (r->call->ui->json)
		b.list = cJSON_CreateArray();
	ret = answers(&b, err);
out:
	for (size_t i = 0; i < b.count; i++) {
		free(b.prompt[i].id);
		json_free(b.prompt[i].name);
	}
	free(b.prompt);
	cJSON_Delete(b.list);
	return ret;
}
