/* --chat: a conversation in the model's own form.
 *
 * The whole of it is kept as texts and ids, and laid out anew for each message;
 * what the cache holds already, from the front on, is not run again.  So a
 * message costs what is new, and when the context is full the oldest turns
 * are left out by laying out fewer. */
#include "run.h"

#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Positions where -c does not say: a cache for all that a model of today may
 * take is gigabytes. */
#define CONTEXT 8192u
/* Of them, free for an answer before old turns are left out: one in so many. */
#define ROOM 4

struct turn {
	char *user;
	uint32_t *answer;
	size_t count;
};

struct talk {
	struct run *run;
	struct turn *turn;
	size_t count, cap, first; /* turns; those before `first` are left out */
	uint32_t *id;             /* laid out, then what was generated */
	size_t ids, id_cap;
	struct cJSON *list;       /* with --json: the turns */
	bool asks;                /* a person sits there */
};

/* ---- one message ---- */

int run_chat_open(struct run *r, struct err *err)
{
	if (!r->tok && tok_open_model(r->model, &r->tok, err))
		return -1;
	if (rt_chat_open(r->model, r->tok, r->args->chat_template, &r->chat,
			 err)) {
		if (err->code == ERR_UNSUP && !r->args->chat_template)
			ui_hint(r->call->ui, "--chat-template NAME takes one "
				"of these");
		return -1;
	}
	r->stop = rt_chat_stop(r->chat);
	ui_detail(r->call->ui, "chat template %s%s%s", rt_chat_name(r->chat),
		  rt_chat_source(r->chat)[0] ? " in " : "",
		  rt_chat_source(r->chat));
	return 0;
}

int run_chat_check(const char *text, size_t len, struct err *err)
{
	return strlen(text) == len ? 0 :
	       err_set(err, ERR_INPUT, "there is a NUL in the message");
}

int run_chat_prompt(const struct run *r, const char *user, uint32_t **ids,
		    size_t *count, struct err *err)
{
	const struct rt_turn turn = { true, r->args->system, user };

	return rt_chat_turn(r->chat, &turn, ids, count, err);
}

/* ---- laying out ---- */

static int add_ids(struct talk *t, const uint32_t *id, size_t n,
		   struct err *err)
{
	void *grown = t->id;

	if (mem_grow(&grown, &t->id_cap, t->ids + n, sizeof(*id), err))
		return -1;
	t->id = grown;
	if (n)
		memcpy(t->id + t->ids, id, n * sizeof(*id));
	t->ids += n;
	return 0;
}

/* Turns first.. as ids, into t->id. */
static int lay_out(struct talk *t, struct err *err)
{
	t->ids = 0;
	for (size_t i = t->first; i < t->count; i++) {
		const struct turn *one = &t->turn[i];
		const struct rt_turn turn = { i == t->first,
			t->run->args->system, one->user };
		uint32_t *id;
		size_t n;
		int ret;

		if (rt_chat_turn(t->run->chat, &turn, &id, &n, err))
			return -1;
		ret = add_ids(t, id, n, err) ||
		      add_ids(t, one->answer, one->count, err) ? -1 : 0;
		free(id);
		if (ret)
			return -1;
	}
	return 0;
}

/* The same, with so few old turns that there is room for an answer. */
static int fit(struct talk *t, struct err *err)
{
	const uint32_t context = t->run->llm->context;
	const size_t first = t->first;

	if (lay_out(t, err))
		return -1;
	while (t->ids > context - context / ROOM && t->first + 1 < t->count) {
		t->first++;
		if (lay_out(t, err))
			return -1;
	}
	if (t->first > first)
		ui_note(t->run->call->ui, "the context of %u is full: the "
			"oldest turns are forgotten (-c makes room for more)",
			context);
	if (t->ids < context)
		return 0;
	return err_set(err, ERR_UNSUP, "the message has %zu tokens, the "
		       "context holds %u (-c makes room for more)", t->ids,
		       context);
}

/* The cache holds old[0..n): what of it begins the new layout stays. */
static void keep_cache(struct talk *t, const uint32_t *old, size_t n)
{
	size_t same = 0;

	/* the last one is run again: its logits are wanted */
	while (same < n && same + 1 < t->ids && old[same] == t->id[same])
		same++;
	llm_rewind(t->run->llm, (uint32_t)same);
}

/* ---- asking ---- */

static int add_turn(struct talk *t, const char *user, struct err *err)
{
	void *grown = t->turn;

	if (mem_grow(&grown, &t->cap, t->count + 1, sizeof(*t->turn), err))
		return -1;
	t->turn = grown;
	t->turn[t->count] = (struct turn) {
		.user = mem_text(user, strlen(user), err)
	};
	if (!t->turn[t->count].user)
		return -1;
	t->count++;
	return 0;
}

static void drop_turn(struct talk *t)
{
	t->count--;
	free(t->turn[t->count].user);
	free(t->turn[t->count].answer);
	if (t->first > t->count)
		t->first = t->count;
}

/* The answer as it goes into the next layout.  What stood behind a stop text
 * was not said. */
static int keep_answer(struct talk *t, struct err *err)
{
	struct run *r = t->run;
	struct turn *turn = &t->turn[t->count - 1];

	if (!strcmp(r->stop_reason, "stop"))
		return tok_encode(r->tok, r->text.data, r->text.len,
				  TOK_NO_SPECIAL | TOK_INNER, &turn->answer,
				  &turn->count, err);
	turn->answer = mem_alloc(r->count, sizeof(*r->id), err);
	if (!turn->answer)
		return -1;
	turn->count = r->count;
	memcpy(turn->answer, r->id, r->count * sizeof(*r->id));
	return 0;
}

/* Through the model.  Ctrl-C of a person ends the answer, not the chat. */
static int answer(struct talk *t, struct err *err)
{
	struct run *r = t->run;
	uint32_t from = r->llm->used[0];
	int ret;

	r->prompt = t->id + from;
	r->prompt_count = t->ids - from;
	r->count = r->text.len = 0;
	ret = run_prefill(r, err);
	ui_done(r->call->ui);
	if (!ret)
		ret = run_generate(r, err);
	ui_done(r->call->ui);
	r->prompt = NULL; /* t->id is not its own */
	if (!ret || err->code != ERR_INTR || !t->asks)
		return ret;
	ui_resume();
	r->stop_reason = "interrupted";
	if (!r->text.shown)
		ui_note(r->call->ui, "interrupted");
	return 0;
}

static int add_json(struct talk *t, const char *user)
{
	struct cJSON *o;

	if (!t->list)
		return 0;
	o = cJSON_CreateObject();
	cJSON_AddItemToObject(o, "message",
			      ui_json_string(user, strlen(user)));
	run_add_answer(o, t->run);
	cJSON_AddItemToArray(t->list, o);
	return 0;
}

static int ask(struct talk *t, const char *user, struct err *err)
{
	uint32_t *old = NULL;
	size_t n = t->run->llm->used[0];
	int ret = -1;

	if (add_turn(t, user, err))
		return -1;
	old = mem_alloc(n, sizeof(*old), err);
	if (!old)
		goto out;
	if (n)
		memcpy(old, t->id, n * sizeof(*old));
	if (fit(t, err)) {
		drop_turn(t);
		/* t->id is what the cache holds, as before */
		t->ids = 0;
		(void)!add_ids(t, old, n, err);
		goto out;
	}
	keep_cache(t, old, n);
	if (answer(t, err) || keep_answer(t, err) ||
	    add_ids(t, t->run->id, t->run->count, err) || add_json(t, user))
		goto out;
	ret = 0;
out:
	free(old);
	return ret;
}

/* ---- the loop ---- */

/* A message: lines up to one that does not end in a backslash.  1: the end of
 * the input. */
static int read_message(struct talk *t, char **text, size_t *cap,
			struct err *err)
{
	size_t n = 0;
	char *line = NULL;
	size_t line_cap = 0;
	ssize_t got = 0;
	bool more = true;
	int ret = -1;

	while (more) {
		void *grown = *text;

		if (t->asks && !t->run->call->ui->quiet)
			fputs(n ? ". " : "> ", stderr);
		got = getline(&line, &line_cap, stdin);
		if (got < 0)
			break;
		if (got && line[got - 1] == '\n')
			got--;
		more = got && line[got - 1] == '\\';
		if (more)
			line[got - 1] = '\n';
		if (mem_grow(&grown, cap, n + (size_t)got + 1, 1, err))
			goto out;
		*text = grown;
		memcpy(*text + n, line, (size_t)got);
		n += (size_t)got;
		(*text)[n] = '\0';
	}
	if (ui_interrupted())
		err_set(err, ERR_INTR, "interrupted");
	else if (got < 0 && ferror(stdin))
		err_errno(err, ERR_INPUT, "standard input");
	else if (!n || !run_chat_check(*text, n, err))
		ret = got < 0 && !n;
out:
	if (got < 0 && t->asks && !t->run->call->ui->quiet)
		fputc('\n', stderr); /* behind ^D and ^C */
	free(line);
	return ret;
}

/* A message that cannot be answered does not end the chat of a person. */
static int converse(struct talk *t, struct err *err)
{
	char *text = NULL;
	size_t cap = 0;
	int ret;

	while (!(ret = read_message(t, &text, &cap, err))) {
		if (!text[strspn(text, " \t")])
			continue;
		ret = ask(t, text, err);
		if (ret && t->asks && err->code == ERR_UNSUP)
			ui_warn(t->run->call->ui, "%s", err->msg);
		else if (ret)
			break;
	}
	free(text);
	return ret < 0 ? -1 : 0;
}

static int one_message(struct talk *t, struct err *err)
{
	char *text = NULL;
	size_t len;
	int ret;

	if (run_read_text(t->run->args, false, &text, &len, err))
		return -1;
	ret = run_chat_check(text, len, err) || ask(t, text, err) ? -1 : 0;
	free(text);
	return ret;
}

static int context(const struct run *r, uint32_t most, uint32_t *out,
		   struct err *err)
{
	(void)err;
	*out = opt_given(r->call->opt, "context") ?
	       (uint32_t)r->args->context : most < CONTEXT ? most : CONTEXT;
	return 0;
}

static int print_json(struct talk *t, struct err *err)
{
	const struct run *r = t->run;
	struct cJSON *o = cJSON_CreateObject();
	char where[256];

	ui_json_text(o, "chat_template", rt_chat_name(r->chat));
	cJSON_AddItemToObject(o, "turns", t->list);
	t->list = NULL;
	ui_json_text(o, "kernel", llm_kernel(r->llm));
	ui_json_text(o, "device", call_llm_where(r->llm, where));
	return ui_json(stdout, o, err);
}

int run_chat(struct run *r, struct err *err)
{
	const struct run_args *a = r->args;
	struct talk t = { .run = r };
	int ret = -1;

	if (!opt_given(r->call->opt, "tokens"))
		r->most = -1;
	t.asks = !a->prompt && !a->file && isatty(STDIN_FILENO);
	if (call_open_model(r->call, &r->model, err) ||
	    run_chat_open(r, err) || run_load(r, context, err))
		goto out;
	ui_done(r->call->ui);
	if (r->call->ui->json)
		t.list = cJSON_CreateArray();
	if (t.asks)
		ui_note(r->call->ui, "%s; Ctrl-C ends an answer, Ctrl-D the "
			"chat, a backslash at the end goes on in the next line",
			rt_chat_name(r->chat));
	if (a->prompt || a->file ? one_message(&t, err) : converse(&t, err))
		goto out;
	ret = r->call->ui->json ? print_json(&t, err) : 0;
out:
	while (t.count)
		drop_turn(&t);
	cJSON_Delete(t.list);
	free(t.turn);
	free(t.id);
	return ret;
}
